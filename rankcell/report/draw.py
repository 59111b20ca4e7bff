"""A results folder -> a picture, or a page with all of them, in a file."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rankcell.errors import OutputError, SettingsError
from rankcell.options import Help, Options, at_least
from rankcell.wording import option

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


def draw(source: Any, out: str | os.PathLike, drawing: Drawing = Drawing(), *, force: bool = False) -> Path:
    """Draw a screen (a results folder, a Screen or its table) into `out`: a page as html, a picture as png, svg or pdf. Returns its path."""
    from rankcell.report.pictures.screen_pictures import picture_of, write_picture
    from rankcell.report.screen_view import open_tables
    from rankcell.stats.ranked_tables import read_statistics

    out, what = Path(out), drawing.what
    if what != REPORT:
        picture_of(what)
    _check(out, what)
    statistics = None if drawing.statistics is None else read_statistics(drawing.statistics, drawing.score)
    if what == REPORT:
        from rankcell.report.pages.screen_page import write_page

        unused = [option(k) for k in ("edit", "cell", "groupby") if getattr(drawing, k) is not None]
        if unused:
            raise SettingsError(f"a report takes no {unused[0]}: it shows the strongest; name one picture with {option('what')} to choose")
        return write_page(
            open_tables(source), out, score=drawing.score, n=drawing.n, min_cells=drawing.min_cells, statistics=statistics, force=force
        )
    options = {name: value for name, value in drawing.settings().items() if name not in ("what", "statistics")}
    return write_picture(what, open_tables(source), out, force=force, statistics=statistics, **options)


def _check(out: Path, what: str) -> None:
    is_page = out.suffix.lower() in (".html", ".htm")
    if is_page != (what == REPORT):
        wanted = f"an .html file (name a picture with {option('what')})" if what == REPORT else "written as .png, .svg or .pdf"
        raise OutputError(f"{out.name}: {option('what', what)} is {wanted}")
