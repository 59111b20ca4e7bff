"""rankcell plot"""

from pathlib import Path
from typing import Annotated

import typer

from rankcell.cli.flags import flat
from rankcell.cli.shared import Force, Results

WHAT = "report (a page with all of them), or one of volcano, ranked, heatmap, affected, rank, decomposition, explain."


@flat
def plot(
    source: Results,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The file to write: html for a report, else png, svg or pdf.")],
    what: Annotated[str, typer.Option(help=WHAT)] = "report",
    edit: Annotated[str | None, typer.Option(help="affected: of this edit (its id, gene or symbol).")] = None,
    cell: Annotated[str | None, typer.Option(help="explain: this cell.")] = None,
    score: Annotated[str | None, typer.Option(help="The score to draw (default: cos_genes_in_place where there is one).")] = None,
    n: Annotated[int | None, typer.Option("-n", help="How many edits or genes to draw or name.")] = None,
    groupby: Annotated[str | None, typer.Option(metavar="COL", help="heatmap: groups of cells, in place of the states.")] = None,
    min_cells: Annotated[
        int | None, typer.Option(help="Leave out edits in fewer cells (default: 3, or fewer where no edit is in three).")
    ] = None,
    statistics: Annotated[
        str | None, typer.Option(metavar="FILE", help="volcano, ranked, report: the table of rankcell stats to draw.")
    ] = None,
    force: Force = False,
) -> None:
    """Draw a finished screen: one picture, or a self-contained page."""
    from rankcell import jobs

    written = jobs.plot(
        source,
        out,
        what=what,
        edit=edit,
        cell=cell,
        score=score,
        n=n,
        groupby=groupby,
        min_cells=min_cells,
        statistics=statistics,
        force=force,
    )
    typer.echo(f"{written}")
