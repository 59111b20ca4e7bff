"""Axes: spines, scales, ticks, and how many points things take on them."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from rankcell.errors import SettingsError
from rankcell.report.pictures.colours import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.transforms import Bbox


def plain_axes(ax: "Axes") -> None:
    """Spines left and below only, small tick labels."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=9)


def set_scale(set_axis: Any, values: np.ndarray) -> None:
    """A log scale; symmetric about a straight middle where there are negative values or zeros."""
    from matplotlib.ticker import SymmetricalLogLocator

    axis = getattr(set_axis.__self__, set_axis.__name__.removeprefix("set_")[0] + "axis")
    size = np.abs(values[np.isfinite(values) & (values != 0)])
    if not len(size):
        return
    if (values[np.isfinite(values)] > 0).all():
        set_axis("log")
        plain_log_ticks(axis, float(np.log10(size.max() / size.min())) + 0.2)
        return
    middle = 10 ** np.floor(np.log10(max(np.quantile(size, 0.25), size.max() * 1e-3)))
    set_axis("symlog", linthresh=middle, linscale=0.5)
    axis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=middle))
    axis.set_minor_locator(SymmetricalLogLocator(base=10, linthresh=middle, subs=[2, 5]))


def plain_log_ticks(axis: "Axis", decades: float) -> None:
    """Numbers at powers of ten, and between them only where there are few of those."""
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

    if decades < 2:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades > 0.5 else range(1, 10)))
        axis.set_major_formatter(LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(np.inf, np.inf)))
    axis.set_minor_formatter(NullFormatter())


def scaled_axis(axis: "Axis", values: np.ndarray) -> str:
    """Number an axis of small values in units of a power of ten; what its label is to say of that ("" for ordinary values)."""
    most = np.abs(values[np.isfinite(values)]).max(initial=0.0)
    power = int(np.floor(np.log10(most))) if most > 0 else 0
    if -3 < power < 4:
        return ""
    axis.set_major_formatter(lambda v, _: f"{v / 10.0**power:g}".replace("-", "\u2212"))
    return f", in units of 1e{power}"


def rank_axes(ax: "Axes", rank: np.ndarray, effect: np.ndarray, log: bool) -> None:
    """Ranks on the x axis and effects on the y axis (log or linear), with room for names above the highest."""
    from matplotlib.ticker import MaxNLocator

    span = float(np.ptp(rank))
    ax.set_xlim(rank.min() - max(0.03 * span, 0.5), rank.max() + max(0.08 * span, 0.5))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, min_n_ticks=1))
    good = effect[np.isfinite(effect)]
    if log:
        ax.set_yscale("log")
        low, high = np.log10(good.min()), np.log10(good.max())
        room = max(0.06 * (high - low), 0.08)
        ax.set_ylim(10 ** (low - room), 10 ** (high + 3 * room))
        plain_log_ticks(ax.yaxis, high - low + 4 * room)
    elif ax.get_yscale() == "linear":
        ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
        room = 0.07 * (float(np.ptp(good)) or float(np.abs(good).max()) or 1.0)
        ax.set_ylim(good.min() - room, good.max() + 2.4 * room)
    plain_axes(ax)


def text_width(text: str, size: float) -> float:
    """Points that a text takes."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return float(text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0])


def laid_out(ax: "Axes") -> "Bbox":
    """Where the axes stand in their figure (Bbox, in pixels). A layout engine moves axes only when drawn: that is done first."""
    figure = ax.figure.figure
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
    return ax.get_window_extent()


def require_room(ax: "Axes", width: float, height: float) -> tuple[float, float]:
    """Width and height of the axes in points. SettingsError where they are less than those asked for, with both in inches."""
    box, dpi = laid_out(ax), ax.figure.figure.dpi
    size = box.width * 72 / dpi, box.height * 72 / dpi
    if size[0] < width or size[1] < height:
        inches = [f"{w / 72:.1f} x {h / 72:.1f}" for w, h in (size, (width, height))]
        raise SettingsError(f"the axes are {inches[0]} inches, and this picture needs at least {inches[1]}: leave out ax, or use a larger figure")
    return size


def legend_extent(ax: "Axes") -> "Bbox | None":
    """Where the legend stands in the figure (in pixels, of axes that are laid out); None where there is none."""
    legend = ax.get_legend()
    return None if legend is None else legend.get_window_extent()


def legend_box(ax: "Axes") -> list[tuple[float, float, float, float]]:
    """The place of the legend, in points from the lower left corner of the axes."""
    frame, box = ax.get_window_extent(), legend_extent(ax)
    if box is None:
        return []
    scale = 72 / ax.figure.figure.dpi
    corners = np.array([[box.x0, box.y0], [box.x1, box.y1]]) - [frame.x0, frame.y0]
    return [tuple((corners * scale).ravel().tolist())]


def in_points(ax: "Axes", x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, tuple[float, float]]:
    """Places of data in points from the lower left corner of the axes, and the axes' width and height."""
    box = laid_out(ax)
    with np.errstate(all="ignore"):
        pixels = ax.transData.transform(np.column_stack([np.asarray(x, float), np.asarray(y, float)]))
    scale = 72 / ax.figure.figure.dpi
    return (pixels - [box.x0, box.y0]) * scale, (box.width * scale, box.height * scale)
