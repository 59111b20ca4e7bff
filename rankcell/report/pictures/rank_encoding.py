"""One cell as the model reads it: the curve of rank values over the row of tokens.

All text is measured before it is placed, in points, so that names never lie on each other at any number of genes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from rankcell.report.pictures.axes import plain_axes, require_room, text_width
from rankcell.report.pictures.colours import DOWN, GREY, INK, UP
from rankcell.report.words import counted
from rankcell.vocab import Vocabulary

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

LEFT, RIGHT, ROW_HEIGHT = 68.0, 14.0, 58.0  # points
SLANT = np.deg2rad(50)
NAME, SMALL, TINY = 8.2, 7.5, 7.0  # font sizes
BAND = 0.86  # share of the curve's height below the fan of leader lines
_FACE = {GREY: "#eceff2", DOWN: "#e4eef7", UP: "#f8e5e1"}


def draw_encoding(table: "pd.DataFrame", vocab: Vocabulary, *, ax: "Axes", n: int, marked: Sequence[int]) -> "Axes | np.ndarray":
    """See rankcell.pl.rank_encoding. `table` has genes; `marked`: gene indices."""
    genes = table[table["rank"].notna()].reset_index(drop=True)
    wanted = {vocab.genes[g] for g in marked}
    ranks = [r for r, gene in enumerate(genes["gene"]) if gene in wanted]
    missing = [vocab.label(g) for g in dict.fromkeys(marked) if vocab.genes[g] not in set(genes["gene"])]
    ax.set_axis_off()
    width, height = require_room(ax, 432, 302 if genes["value"].notna().all() else 144)
    top = _headline(ax, table, vocab, missing, width, height)
    row = ax.inset_axes((LEFT / width, 8 / height, 1 - (LEFT + RIGHT) / width, ROW_HEIGHT / height))
    _draw_row(row, table, n, ranks, width - LEFT - RIGHT)
    if genes["value"].isna().any():
        return row
    names = [symbol or gene for symbol, gene in zip(genes["symbol"], genes["gene"], strict=True)]
    labels = _labelled(names, n, ranks)
    top += max(text_width(t, NAME) for t in labels.values()) * np.sin(SLANT) + NAME
    bottom = ROW_HEIGHT + 64
    curve = ax.inset_axes((LEFT / width, bottom / height, 1 - (LEFT + RIGHT) / width, (height - bottom - top) / height))
    _draw_curve(curve, genes["value"].to_numpy(float), ranks)
    _draw_names(curve, genes["value"].to_numpy(float), labels, ranks, width - LEFT - RIGHT)
    return np.array([curve, row])


def _headline(ax: "Axes", table: "pd.DataFrame", vocab: Vocabulary, missing: Sequence[str], width: float, height: float) -> float:
    """Title (the cell), subtitle (the formula) in grey, missing genes in red. Returns their height in points."""
    room = width - LEFT - RIGHT
    n = int(table["rank"].notna().sum())
    cell, title_end = table.attrs["cell_id"], f" as the model reads it: {counted(n, 'gene')}, ranked"
    fits = next((k for k in range(40, 8, -1) if text_width(f"Cell {_short(cell, k)}{title_end}", 11) <= room), 8)
    subtitle = f"rank value = count / n_counts × {vocab.target_sum:,.0f} / median of the gene"
    if table["value"].isna().all():
        subtitle = "no counts beside the tokens: tokenize with keep_counts=True to see the rank values"
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    lacks = f"not in this cell: {', '.join(missing[:3])}{more}" if missing else ""
    below = bool(lacks) and text_width(subtitle, 9) + text_width(lacks, 9) + 20 > room
    place: dict[str, Any] = {"transform": ax.transAxes, "va": "top", "parse_math": False}
    ax.text(LEFT / width, 1 - 8 / height, f"Cell {_short(cell, fits)}{title_end}", fontsize=11, color=INK, **place)
    ax.text(LEFT / width, 1 - 25 / height, subtitle, fontsize=9, color=GREY, **place)
    at = (LEFT, 39, "left") if below else (width - RIGHT, 25, "right")
    ax.text(at[0] / width, 1 - at[1] / height, lacks, ha=at[2], fontsize=9, color=UP, **place)
    return 54.0 if below else 40.0


def _draw_curve(ax: "Axes", values: np.ndarray, ranks: Sequence[int]) -> None:
    """Rank values from the top down; a logarithmic rank axis that begins at 0 where there are many."""
    from matplotlib.ticker import LogLocator, NullFormatter

    at = np.arange(len(values))
    ax.plot(at, values, color=DOWN, linewidth=1.3, marker="o", markersize=3 if len(values) <= 50 else 1.6)
    ax.plot(ranks, values[ranks], "o", color=UP, markersize=5.5, zorder=3)
    many = len(values) > 30
    if many:
        ax.set_xscale("function", functions=(np.log1p, np.expm1))
    ax.set_xlim(-0.3, max(1, len(values) - 1) * 1.03 + 0.2)
    steps = [0, *(m * 10**k for k in range(7) for m in (1, 2, 5))] if many else range(0, 31, 1 if len(values) <= 12 else 5)
    ax.set_xticks([t for t in steps if t < len(values)])
    ax.set_yscale("log")
    high = np.log10(values.max())
    low = min(np.log10(values.min()) - 0.1, high - 0.7)
    ax.set_ylim(10**low, 10 ** (low + (high - low) / BAND))
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high - low < 2 else (1.0,)))
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:,.0f}" if v >= 1 else f"{v:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(f"rank (0 = top gene{'; logarithmic spacing' if many else ''})", fontsize=9, parse_math=False)
    ax.set_ylabel("rank value\n(times the gene's median)", fontsize=9, parse_math=False)
    plain_axes(ax)
    _median_line(ax, values)


def _median_line(ax: "Axes", values: np.ndarray) -> None:
    """A line at 1, named on the side where the curve leaves room."""
    if not values.min() < 1 < values.max():
        return
    ax.axhline(1, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    crossing = _along(ax.get_xlim(), ax.get_xscale(), int(np.argmax(values < 1)))
    right = crossing < 0.5
    ax.annotate(
        "1: the gene's median over the cells that show it",
        (1.0 if right else 0.0, 1),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3) if right else (4, -3),
        textcoords="offset points",
        ha="right" if right else "left",
        va="bottom" if right else "top",
        fontsize=8,
        color=GREY,
    )


def _labelled(names: Sequence[str], n: int, ranks: Sequence[int]) -> dict[int, str]:
    """Labels by rank: marked genes, then those at the top."""
    return {r: f"{names[r]}, rank {r}" for r in ranks} | {r: names[r] for r in range(min(n, len(names))) if r not in ranks}


def _draw_names(ax: "Axes", values: np.ndarray, labels: dict[int, str], ranks: Sequence[int], width: float) -> None:
    """Slanted names above the curve, each with a line to its gene: straight up, then fanned out to where the name has room."""
    gap = 1.25 * NAME / np.sin(SLANT)
    longest = max(text_width(t, NAME) for t in labels.values())
    fit = int((width + RIGHT - NAME - longest * np.cos(SLANT)) / gap) + 1
    labels = dict(sorted(list(labels.items())[: max(1, fit)]))
    ends = [width + RIGHT - NAME - text_width(t, NAME) * np.cos(SLANT) for t in labels.values()]
    x = np.array([_along(ax.get_xlim(), ax.get_xscale(), r) for r in labels])
    y = np.array([_along(ax.get_ylim(), "log", values[r]) for r in labels])
    to = spread(x * width, gap, ends) / width
    for r, x0, y0, x1 in zip(labels, x, y, to, strict=True):
        colour = UP if r in ranks else INK
        line = ax.plot([x0, x0, x1], [y0, BAND + 0.04, 1], color=colour if r in ranks else GREY, linewidth=0.6, transform=ax.transAxes)[0]
        line.set(clip_on=False, zorder=1)
        style: dict[str, Any] = {"rotation": np.rad2deg(SLANT), "rotation_mode": "anchor", "fontsize": NAME, "color": colour, "parse_math": False}
        ax.annotate(labels[r], (x1, 1), xycoords="axes fraction", xytext=(2, 2), textcoords="offset points", va="center", **style)


def spread(wanted: ArrayLike, gap: float, ends: Sequence[float]) -> np.ndarray:
    """Rising places at least `gap` apart, none beyond its own end, moved from the rising `wanted` ones only where they must."""
    at = np.array(wanted, float)
    for i in range(1, len(at)):
        at[i] = max(at[i], at[i - 1] + gap)
    room = np.inf
    for i in reversed(range(len(at))):
        at[i] = room = min(at[i], ends[i], room)
        room -= gap
    return at


def _along(limits: tuple[float, float], scale: str, x: float) -> float:
    """Where `x` lies on an axis, as a share of its length."""
    move = {"log": np.log, "function": np.log1p}.get(scale, float)
    low, high = map(move, limits)
    return float((move(x) - low) / (high - low))


def _draw_row(ax: "Axes", table: "pd.DataFrame", n: int, ranks: Sequence[int], width: float) -> None:
    """The token row as boxes: what stands around the genes, the top, what is pointed out, the last gene, gaps between."""
    from matplotlib.patches import FancyBboxPatch

    boxes = [(s or g, str(t)) for s, g, t in zip(table["symbol"], table["gene"], table["token"], strict=True)]
    special = table["rank"].isna().to_numpy()
    first = int(np.argmin(special))
    marked = [first + r for r in ranks]
    shown = _chosen(boxes, special, marked, n, width)
    x, before = 1.0, -1
    for p in shown:
        if p > before + 1:
            text = counted(p - before - 1, "gene")
            middle = x + _gap_width(p - before - 1) / 2 - 2
            ax.text(middle, 40, "···", ha="center", va="center", fontsize=11, color=GREY)
            ax.text(middle, 25, text, ha="center", va="center", fontsize=SMALL, color=GREY)
            x += _gap_width(p - before - 1)
        colour, wide = GREY if special[p] else UP if p in marked else DOWN, _box_width(*boxes[p])
        ax.add_patch(
            FancyBboxPatch((x + 2, 18), wide - 7, 29, boxstyle="round,pad=2", facecolor=_FACE[colour], edgecolor=colour, linewidth=0.8)
        )
        style: dict[str, Any] = {"ha": "center", "va": "center", "parse_math": False}
        ax.text(x + wide / 2 - 2, 40, boxes[p][0], fontsize=NAME, color=INK if colour != UP else UP, **style)
        ax.text(x + wide / 2 - 2, 25, boxes[p][1], fontsize=SMALL, color=INK, **style)
        ax.text(x + wide / 2 - 2, 8, str(p), fontsize=TINY, color=GREY, **style)
        x, before = x + wide, p
    ax.set(xlim=(0, max(width, x + 1)), ylim=(0, ROW_HEIGHT))
    for y, text in ((40, "gene"), (25, "token"), (8, "position")):
        ax.annotate(
            text,
            (0, y / ROW_HEIGHT),
            (-6, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=8,
            color=GREY,
        )
    ax.set_title(f"The row of {counted(len(boxes), 'token')}", fontsize=9, loc="left", color=INK, pad=2, parse_math=False)
    ax.set_axis_off()


def _chosen(boxes: Sequence[tuple[str, str]], special: np.ndarray, marked: Sequence[int], n: int, width: float) -> list[int]:
    """Positions to show: always the special tokens, the top gene and the last; then four of the top, marked ones, and more of the top while there is room."""
    genes = np.flatnonzero(~special)
    shown = sorted({*np.flatnonzero(special).tolist(), int(genes[0]), int(genes[-1])})
    for p in [*genes[1 : min(n, 4)].tolist(), *marked, *genes[4:n].tolist()]:
        trial = sorted({*shown, p})
        if _extent(boxes, trial) <= width:
            shown = trial
        elif p not in marked:  # one that is pointed out may be too wide and the next one not
            break
    return shown


def _extent(boxes: Sequence[tuple[str, str]], shown: Sequence[int]) -> float:
    gaps = [b - a - 1 for a, b in zip([-1, *shown], shown, strict=False) if b > a + 1]
    return sum(_box_width(*boxes[p]) for p in shown) + sum(map(_gap_width, gaps))


def _box_width(name: str, token: str) -> float:
    return max(text_width(name, NAME), text_width(token, SMALL), 12) + 11


def _gap_width(hidden: int) -> float:
    return text_width(counted(hidden, "gene"), SMALL) + 10


def _short(text: str, n: int) -> str:
    return text if len(text) <= n else f"{text[: n - 1]}…"
