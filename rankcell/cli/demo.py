"""rankcell demo"""

from pathlib import Path
from typing import Annotated

import typer

from rankcell.cli import options as o
from rankcell.cli.progress import progress


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write.")] = Path("rankcell-demo"),
    device: o.Device = "auto",
    force: o.Force = False,
) -> None:
    """The whole road on 700 real blood cells: tokens, embeddings, a deletion screen, pictures, and a page that explains them."""
    from rankcell.demo import run_demo

    with progress("demo") as tick:
        report = run_demo(out, device=device, force=force, progress=tick)
    typer.echo(f"done: open {report} in a browser")
