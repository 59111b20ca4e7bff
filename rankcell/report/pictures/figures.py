"""Figures, drawn with matplotlib's object interface: no pyplot, no global state, the same bytes each time."""

import textwrap
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rankcell.report.pictures.axes import laid_out, legend_extent
from rankcell.report.pictures.colours import INK
from rankcell.wording import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of that many inches, with a constrained layout."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: "Figure", file: Path | IO[bytes], suffix: str = ".png") -> None:
    """Write a png, svg or pdf (`suffix`) without dates, and with names inside an svg that do not change from run to run."""
    import matplotlib

    undated = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with matplotlib.rc_context({"svg.hashsalt": "rankcell"}):
        figure.savefig(file, format=suffix[1:], dpi=150, metadata=undated[suffix])


def mark(ax: "Axes", note: Any) -> "Axes":
    """`note` (that the model is a toy) as the first line above a picture and its legend; nothing where there is nothing to say."""
    if note:
        note = textwrap.fill(one_line(str(note)), 60)  # as wide as the narrowest axes
        title = ax.get_title(loc="left")
        size = min(9.0, ax._left_title.get_fontsize()) if title else 9.0  # type: ignore[attr-defined]  # there is no public way to it
        text = f"{note}\n{title}" if title else note
        ax.set_title(text, loc="left", fontsize=size, color=INK, parse_math=False, pad=6 + _legend_above(ax))
    return ax


def _legend_above(ax: "Axes") -> float:
    """Height of a legend that stands above the axes, in points; 0 where there is none."""
    if ax.get_legend() is None:
        return 0.0  # no layout for nothing
    frame, box = laid_out(ax), legend_extent(ax)
    if box is None:
        return 0.0
    stands_above = box.y0 >= frame.y1 - 1 and box.x0 < frame.x1
    return (box.y1 - frame.y1) * 72 / ax.figure.figure.dpi if stands_above else 0.0
