"""rankcell plot"""

from pathlib import Path
from typing import Annotated

import typer

from rankcell.cli.flags import flat
from rankcell.cli.shared import Force, Results
from rankcell.options import Help
from rankcell.report.drawing import Drawing


@flat
def plot(
    source: Results,
    out: Annotated[Path, Help("The file to write: html for a report, else png, svg or pdf.", "OUT", flags=("--out", "-o"))],
    drawing: Drawing,
    force: Force = False,
) -> None:
    """Draw a finished screen: one picture, or a self-contained page."""
    from rankcell.report.pages.draw import draw

    typer.echo(f"{draw(source, out, drawing, force=force)}")
