"""The register of a screen's pictures, the size each wants, and writing one to a file with the same bytes every time."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankcell.errors import OutputError, SettingsError
from rankcell.report.pictures.affected_genes import draw_affected
from rankcell.report.pictures.decomposition import draw_decomposition
from rankcell.report.pictures.explain_cell import draw_cell
from rankcell.report.pictures.figures import mark, new_figure, save
from rankcell.report.pictures.heatmap import draw_heatmap
from rankcell.report.pictures.ranked_genes import draw_ranked_of_screen
from rankcell.report.pictures.shift_by_rank import draw_shift_by_rank
from rankcell.report.pictures.volcano import draw_volcano_of_screen
from rankcell.report.screen_view import Tables, one_cell
from rankcell.store import atomic_path
from rankcell.wording import option

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Picture:
    """A kind of picture.

    draw
        `draw(tables, ax=..., **options)`, which returns the axes.
    options
        What it takes, of: edit, cell, score, n, groupby, min_cells, statistics.
    size
        (width, height in inches) given the number of rows to draw.
    needed
        Options without which there is nothing to draw.
    """

    draw: Callable[..., "Axes"]
    options: tuple[str, ...]
    size: Callable[[int], tuple[float, float]]
    needed: tuple[str, ...] = ()


def _rows(wide: float, each: float, least: float) -> Callable[[int], tuple[float, float]]:
    return lambda n: (wide, least + each * max(4, n))


PICTURES: dict[str, Picture] = {
    "volcano": Picture(draw_volcano_of_screen, ("score", "n", "min_cells", "statistics"), lambda n: (6.4, 5.0)),
    "ranked": Picture(draw_ranked_of_screen, ("score", "n", "min_cells", "statistics"), _rows(6.4, 0.24, 1.4)),
    "heatmap": Picture(draw_heatmap, ("score", "n", "groupby", "min_cells"), _rows(6.4, 0.21, 2.5)),
    "affected": Picture(draw_affected, ("edit", "n", "min_cells"), _rows(6.4, 0.24, 1.4), ("edit",)),
    "rank": Picture(draw_shift_by_rank, ("score", "n", "min_cells"), lambda n: (6.8, 4.6)),
    "decomposition": Picture(draw_decomposition, ("score", "n", "min_cells"), _rows(6.4, 0.27, 1.6)),
    "explain": Picture(draw_cell, ("cell", "score", "n"), lambda n: (6.8, 4.6), ("cell",)),
}


def picture_of(name: str) -> Picture:
    """The picture of that name. SettingsError when there is none."""
    if name not in PICTURES:
        raise SettingsError(f"there is no picture '{name}'; one of {', '.join([*PICTURES, 'report'])}")
    return PICTURES[name]


def size_of(name: str, tables: Tables, n: int | None) -> tuple[float, float]:
    """The size of the picture `name`: no rows for edits that there are not."""
    n = n or 20
    return PICTURES[name].size(n if name == "affected" else min(n, int(tables.table["edit"].nunique())))


def draw(name: str, tables: Tables, **options: Any) -> "Figure":
    """A figure of its own with the picture `name`. SettingsError for an option that it does not take or lacks."""
    picture = picture_of(name)
    arguments = {k: v for k, v in options.items() if v is not None}
    for key in arguments:
        if key not in picture.options:
            raise SettingsError(f"the picture '{name}' takes no {option(key)}; it takes {', '.join(picture.options)}")
    for key in picture.needed:
        if key not in arguments:
            raise SettingsError(f"the picture '{name}' is of one {key}: name it with {option(key)}")
    figure = new_figure(*size_of(name, tables, arguments.get("n")))
    picture.draw(tables, ax=(ax := figure.subplots()), **arguments)
    mark(ax, tables.model_note)
    return figure


def write_picture(name: str, tables: Tables, path: str | os.PathLike, *, force: bool = False, **options: Any) -> Path:
    """Draw `name` into a png, svg or pdf. OutputError for another suffix, or when the file exists (without `force`)."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise OutputError(f"{path.name}: a picture is written as {', '.join(FORMATS)}")
    with atomic_path(path, force=force) as part:
        save(draw(name, tables, **options), part, path.suffix.lower())
    return path


def explain_cell(screen: Any, cell_id: str, path: str | os.PathLike, *, score: str | None = None, force: bool = True) -> Path:
    """Write the picture of one cell: every edit's shift against the gene's rank, total and in place, to a png, svg or pdf.

    screen
        A results folder, a Screen, or the table of rc.tl.perturb.
    """
    return write_picture("explain", one_cell(screen, cell_id), path, force=force, cell=cell_id, score=score)
