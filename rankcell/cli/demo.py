"""rankcell demo"""

from pathlib import Path
from typing import Annotated

import typer

from rankcell.cli.flags import flat
from rankcell.cli.progress import progress
from rankcell.cli.shared import Force
from rankcell.model.options import AUTO, OneDevice


@flat
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write.")] = Path("rankcell-demo"),
    device: OneDevice = AUTO,
    force: Force = False,
) -> None:
    """The whole road on 700 real blood cells: tokens, embeddings, a deletion screen, pictures, and a page that explains them."""
    from rankcell.demo import run_demo

    with progress("demo") as tick:
        report = run_demo(out, device=device, force=force, progress=tick)
    typer.echo(f"done: open {report} in a browser")
