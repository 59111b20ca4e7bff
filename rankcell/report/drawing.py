"""What is drawn of a screen, as options."""

from dataclasses import dataclass
from typing import Annotated, Any

from rankcell.options import Help, Options, at_least

REPORT = "report"


@dataclass(frozen=True)
class Drawing(Options):
    """What is drawn of a screen, and how."""

    what: Annotated[
        str, Help("report (a page with all of them), or one of volcano, ranked, heatmap, affected, rank, decomposition, explain.")
    ] = REPORT
    edit: Annotated[str | None, Help("affected: of this edit (its id, gene or symbol).")] = None
    cell: Annotated[str | None, Help("explain: this cell.")] = None
    score: Annotated[str | None, Help("The score to draw (default: cos_genes_in_place where there is one).")] = None
    n: Annotated[int | None, Help("How many edits or genes to draw or name.", flags=("-n",), check=at_least(1))] = None
    groupby: Annotated[str | None, Help("heatmap: groups of cells, in place of the states.", "COL")] = None
    min_cells: Annotated[
        int | None, Help("Leave out edits in fewer cells (default: 3, or fewer where no edit is in three).", check=at_least(0))
    ] = None
    statistics: Annotated[Any, Help("volcano, ranked, report: the table of rankcell stats to draw.", "FILE", cli=str)] = None
