"""Names beside points: measured before they are placed, so that none lies on another, on a named point, or outside the axes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from rankcell.report.pictures.axes import in_points, legend_box, text_width
from rankcell.report.pictures.colours import GREY, INK
from rankcell.wording import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = 8.2
_HEIGHT, _GAP = 1.25 * SIZE, 3.0
_FREE = 16.0  # points from its dot at which a name gets a line to it


def name_points(ax: "Axes", x: ArrayLike, y: ArrayLike, names: Sequence[str], *, chosen: Sequence[int], colour: Any = INK) -> int:
    """Write `names[i]` beside the point i for every i in `chosen`, first come first served; how many names the axes then have.

    To be called when the axes' limits and scales are final. A name goes where it hides the fewest points; one that would lie on another name is left out.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    at, frame = in_points(ax, x, y)
    seen = at[np.isfinite(at).all(1)]
    mine = at[list(chosen)] if len(chosen) else np.empty((0, 2))
    taken = legend_box(ax)
    for k, i in enumerate(chosen):
        if not np.isfinite(at[i]).all():
            continue
        text = shorten(names[i])
        width = text_width(text, SIZE)
        box = _best_place(at[i], width, seen, np.delete(mine, k, 0), taken, frame)
        if box is None:
            continue
        taken.append(box)
        _write(ax, (x[i], y[i]), text, at[i], box, colour[i] if isinstance(colour, (list, np.ndarray)) else colour)
    return len([t for t in ax.texts if t.get_text()])


def _best_place(
    dot: np.ndarray, width: float, points: np.ndarray, mine: np.ndarray, taken: Sequence[Sequence[float]], frame: tuple[float, float]
) -> tuple[float, float, float, float] | None:
    """A box (left, bottom, right, top) for a name: inside the axes, on no other name and no named dot, over the fewest points."""
    best, least = None, np.inf
    for cost, dx, dy in _offsets(width):
        left, bottom = dot[0] + dx, dot[1] + dy
        box = (left, bottom, left + width, bottom + _HEIGHT)
        if left < 0 or bottom < 0 or box[2] > frame[0] or box[3] > frame[1] or _inside(mine, box, 2).any():
            continue
        if any(box[0] < t[2] + 2 and box[2] > t[0] - 2 and box[1] < t[3] and box[3] > t[1] for t in taken):
            continue
        cost += 4 * float(_inside(points, box, 1).sum())
        if cost < least:
            best, least = box, cost
    return best


def _offsets(width: float) -> list[tuple[float, float, float]]:
    """(cost, dx, dy) of the lower left corner of a name from its dot: right, left, above, below, and further round it."""
    offsets = []
    for ring, far in enumerate((0.0, 8.0, 18.0, 30.0, 44.0)):
        d = _GAP + far
        places = [
            (d + 1, -_HEIGHT / 2),
            (-d - 1 - width, -_HEIGHT / 2),
            (-width / 2, d),
            (-width / 2, -d - _HEIGHT),
            (d * 0.8, d * 0.8),
            (-d * 0.8 - width, d * 0.8),
            (d * 0.8, -d * 0.8 - _HEIGHT),
            (-d * 0.8 - width, -d * 0.8 - _HEIGHT),
            (d * 0.95, d * 0.35),
            (-d * 0.95 - width, d * 0.35),
        ]
        offsets += [(6.0 * ring + 0.3 * k, dx, dy) for k, (dx, dy) in enumerate(places)]
    return offsets


def _inside(points: np.ndarray, box: Sequence[float], margin: float) -> np.ndarray:
    x, y = points[:, 0], points[:, 1]
    return (x > box[0] - margin) & (x < box[2] + margin) & (y > box[1] - margin) & (y < box[3] + margin)


def _write(ax: "Axes", xy: tuple[float, float], text: str, dot: np.ndarray, box: Sequence[float], colour: Any) -> None:
    corner = np.array([box[0], (box[1] + box[3]) / 2])
    style: dict[str, Any] = {"ha": "left", "va": "center", "fontsize": SIZE, "color": colour, "parse_math": False, "zorder": 6}
    near = np.array([np.clip(dot[0], box[0], box[2]), np.clip(dot[1], box[1], box[3])])
    if np.hypot(*(near - dot)) > _FREE / 2:
        line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2}
        ax.annotate("", xy, near - dot, textcoords="offset points", arrowprops=line, zorder=5)
    ax.annotate(text, xy, corner - dot, textcoords="offset points", annotation_clip=False, **style)
