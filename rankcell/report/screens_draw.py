"""The register of a screen's pictures, the size each wants, and writing one to a file with the same bytes every time."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankcell.errors import OutputError, SettingsError
from rankcell.report import screens_edits as edits
from rankcell.report import screens_ranks as ranks
from rankcell.report.figures import draw_ranked, mark, new_figure
from rankcell.report.screens import Tables, choose_score, one_cell, ranking
from rankcell.stats.ranking import Ranking
from rankcell.store import atomic_path
from rankcell.wording import option

FORMATS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Picture:
    """A kind of picture.

    draw
        `draw(tables, ax=..., **options)`.
    options
        What it can be told, of: edit, cell, score, n, groupby, min_cells, statistics.
    size
        (width, height in inches) given the number of rows to draw.
    needed
        Options without which there is nothing to draw.
    """

    draw: Callable[..., Any]
    options: tuple[str, ...]
    size: Callable[[int], tuple[float, float]]
    needed: tuple[str, ...] = ()


def ranked_of(tables: Tables, *, score: str | None, min_cells: int | None, statistics: Ranking | None, tested: bool = False) -> Ranking:
    """The ranking to draw: the table of rankcell stats where one is given, else that of the screen itself."""
    if statistics is not None:
        return statistics if tables is None else of_this_screen(tables, statistics)
    return ranking(tables, choose_score(tables.table, score), min_cells=min_cells, tested=tested)


def of_this_screen(tables: Tables, statistics: Ranking) -> Ranking:
    """The table of rankcell stats; SettingsError when it is of edits that the screen has not."""
    edit = statistics.table["edit"]
    other = ~edit.isin(tables.table["edit"])
    if other.any():
        raise SettingsError(
            f"the table has {int(other.sum()):,} edits that are not in this screen, such as {edit[other].iloc[0]}"
        )
    return statistics


def _ranked(
    tables: Tables, *, ax: Any, n: int | None = None, score: str | None = None, min_cells: int | None = None, statistics: Any = None
) -> Any:
    ranked = ranked_of(tables, score=score, min_cells=min_cells, statistics=statistics)
    return draw_ranked(ranked.table, by=ranked.by, ax=ax, n=n or 20)


def _volcano(
    tables: Tables, *, ax: Any, n: int | None = None, score: str | None = None, min_cells: int | None = None, statistics: Any = None
) -> Any:
    ranked = ranked_of(tables, score=score, min_cells=min_cells, statistics=statistics, tested=True)
    return edits.draw_volcano(ranked.table, by=ranked.by, ax=ax, n=12 if n is None else n)


def _rows(wide: float, each: float, least: float) -> Callable[[int], tuple[float, float]]:
    return lambda n: (wide, least + each * max(4, n))


PICTURES: dict[str, Picture] = {
    "volcano": Picture(_volcano, ("score", "n", "min_cells", "statistics"), lambda n: (6.4, 5.0)),
    "ranked": Picture(_ranked, ("score", "n", "min_cells", "statistics"), _rows(6.4, 0.24, 1.4)),
    "heatmap": Picture(edits.draw_heatmap, ("score", "n", "groupby", "min_cells"), _rows(6.4, 0.21, 2.5)),
    "affected": Picture(edits.draw_affected, ("edit", "n", "min_cells"), _rows(6.4, 0.24, 1.4), ("edit",)),
    "rank": Picture(ranks.draw_shift_by_rank, ("score", "n", "min_cells"), lambda n: (6.8, 4.6)),
    "decomposition": Picture(edits.draw_decomposition, ("score", "n", "min_cells"), _rows(6.4, 0.27, 1.6)),
    "explain": Picture(ranks.draw_cell, ("cell", "score", "n"), lambda n: (6.8, 4.6), ("cell",)),
}


def picture_of(what: str) -> Picture:
    if what not in PICTURES:
        raise SettingsError(f"there is no picture '{what}'; one of {', '.join([*PICTURES, 'report'])}")
    return PICTURES[what]


def size_of(what: str, tables: Tables, n: int | None) -> tuple[float, float]:
    """The size of the picture `what`: no rows for edits that there are not."""
    n = n or 20
    return PICTURES[what].size(n if what == "affected" else min(n, int(tables.table["edit"].nunique())))


def draw(what: str, tables: Tables, **options: Any) -> Any:
    """A figure of its own with the picture `what`. SettingsError for an option that it does not take or lacks."""
    picture = picture_of(what)
    given = {k: v for k, v in options.items() if v is not None}
    for name in given:
        if name not in picture.options:
            raise SettingsError(f"the picture '{what}' takes no {option(name)}; it takes {', '.join(picture.options)}")
    for name in picture.needed:
        if name not in given:
            raise SettingsError(f"the picture '{what}' is of one {name}: name it with {option(name)}")
    figure = new_figure(*size_of(what, tables, given.get("n")))
    picture.draw(tables, ax=(ax := figure.subplots()), **given)
    mark(ax, tables.model_note)
    return figure


def write_picture(what: str, tables: Tables, path: str | os.PathLike, *, force: bool = False, **options: Any) -> Path:
    """Draw `what` into a png, svg or pdf. OutputError for another suffix, or when the file exists (without `force`)."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise OutputError(f"{path.name}: a picture is written as {', '.join(FORMATS)}")
    with atomic_path(path, force=force) as part:
        save_figure(draw(what, tables, **options), part, path.suffix.lower())
    return path


def save_figure(figure: Any, path: Path, suffix: str) -> None:
    """Without dates, and with names inside an svg that do not change from run to run."""
    import matplotlib

    undated = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with matplotlib.rc_context({"svg.hashsalt": "rankcell"}):
        figure.savefig(path, format=suffix[1:], dpi=150, metadata=undated[suffix])


def explain_cell(screen: Any, cell_id: str, path: str | os.PathLike, *, score: str | None = None, force: bool = True) -> Path:
    """Write the picture of one cell: every edit's shift against the gene's rank, total and in place, to a png, svg or pdf.

    screen
        A results folder, a Screen, or the table of rc.tl.perturb.
    """
    return write_picture("explain", one_cell(screen, cell_id), path, force=force, cell=cell_id, score=score)
