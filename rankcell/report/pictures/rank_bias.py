"""Where in the ranking each pooling looks: how far it moves over the deciles."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rankcell.errors import SettingsError
from rankcell.report.pictures.axes import plain_axes, require_room
from rankcell.report.pictures.colours import COLOURS, DASHES, GREY, INK, MARKERS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

KINDS = {"drop": "dropped (the rest closes up)", "shuffle": "shuffled among themselves", "mask": "masked in place"}
LEFT, RIGHT, TOP, BOTTOM, GAP = 76.0, 122.0, 26.0, 48.0, 16.0  # points


def draw_rank_bias(table: "pd.DataFrame", *, ax: "Axes", score: str) -> np.ndarray:
    """See rankcell.pl.rank_bias."""
    kinds, layers = (list(dict.fromkeys(table[c])) for c in ("how", "layer"))
    pools = list(dict.fromkeys(table["pool"]))
    axes = _grid(ax, len(layers), len(kinds))
    value, sem = _measure(table, score)
    table = table.assign(_value=value, _sem=sem)
    for row, n in zip(axes, layers, strict=True):
        for one, kind in zip(row, kinds, strict=True):
            part = table[(table["layer"] == n) & (table["how"] == kind)]
            for i, p in enumerate(pools):
                _line(one, part[part["pool"] == p], i, len(pools))
            _bias_axes(one, part)
            one.set_title(KINDS.get(kind, kind), fontsize=9.5, loc="left", color=INK, parse_math=False)
        row[0].set_ylabel(_words(score) if len(layers) == 1 else f"layer {n}\n{_words(score)}", fontsize=9, parse_math=False)
        for one in row[1:]:
            one.tick_params(labelleft=False)
        _set_limits(row, table.loc[table["layer"] == n, "_value"].to_numpy(float))
    _bias_legend(axes, pools)
    return axes


def _measure(table: "pd.DataFrame", score: str) -> tuple[Any, Any]:
    """(the value to draw, its standard error or NaN)."""
    if score == "relative_shift":
        return table["shift"] / table["between_cells"], table["sem"] / table["between_cells"]
    if score in ("shift", "distance"):
        return table[score], table["sem"] if score == "shift" else table["sem"] * np.nan
    raise SettingsError(f"unknown score '{score}'; relative_shift, shift or distance")


def _words(score: str) -> str:
    return {
        "relative_shift": "shift of the embedding\n(1: as far as another cell)",
        "shift": "shift of the embedding (1 - cosine)",
        "distance": "distance moved\n(share of the embedding's length)",
    }[score]


def _look(i: int) -> dict[str, Any]:
    turn, place = divmod(i, len(COLOURS))
    return {"color": COLOURS[place], "linestyle": DASHES[turn % len(DASHES)], "marker": MARKERS[(place + turn) % len(MARKERS)]}


def _line(ax: "Axes", part: "pd.DataFrame", i: int, n_pools: int) -> None:
    """One pooling over the deciles, with a band; its control beyond the last decile."""
    ranked, control = part[part["genes"] == "decile"], part[part["genes"] == "random"]
    look = _look(i)
    x = ranked["decile"].to_numpy(int)
    y, sem = ranked["_value"].to_numpy(float), np.nan_to_num(ranked["_sem"].to_numpy(float))
    ax.plot(x, y, linewidth=1.5, markersize=3.2, **look)
    ax.fill_between(x, y - sem, y + sem, color=look["color"], alpha=0.15, linewidth=0)
    y, sem = control["_value"].to_numpy(float), np.nan_to_num(control["_sem"].to_numpy(float))
    at = len(x) + 1 + 0.9 * ((i + 0.5) / n_pools - 0.5)  # beside each other, not on top
    ax.errorbar(np.full(len(y), at), y, yerr=sem, markersize=4, elinewidth=1, **look | {"linestyle": "", "markerfacecolor": "white"})


def _bias_axes(ax: "Axes", part: "pd.DataFrame") -> None:
    n = int(part["decile"].max()) + 1
    middle = range(1, n - 1) if n <= 12 else []
    ticks = {0: "top", n - 1: "last", n + 1: "drawn"} | {i: "" for i in middle}
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.axvline(n, color=GREY, linewidth=0.6)
    ax.set_xlim(-0.5, n + 1.9)
    ax.set_xlabel(f"{'tenth' if n == 10 else f'one of {n} parts'} of the ranked genes", fontsize=9, parse_math=False)
    ax.set_yscale("log")
    plain_axes(ax)


def _set_limits(row: Sequence[Any], values: np.ndarray) -> None:
    """One range for the panels of a row, so that they can be compared; the values decide it, not their bands."""
    values = values[values > 0]
    if len(values):
        for one in row:
            one.set_ylim(values.min() / 1.6, values.max() * 1.6)


def _grid(ax: "Axes", n_rows: int, n_columns: int) -> np.ndarray:
    """Axes [rows, columns] in the place of `ax`, with room for names measured in points."""
    ax.set_axis_off()
    width, height = require_room(ax, LEFT + RIGHT + GAP * (n_columns - 1) + 90 * n_columns, n_rows * (TOP + BOTTOM + 80))
    wide = (width - LEFT - RIGHT - GAP * (n_columns - 1)) / n_columns
    high = (height - n_rows * (TOP + BOTTOM)) / n_rows
    axes = np.empty((n_rows, n_columns), object)
    for r in range(n_rows):
        bottom = height - (r + 1) * (TOP + high) - r * BOTTOM
        for c in range(n_columns):
            left = LEFT + c * (wide + GAP)
            axes[r, c] = ax.inset_axes((left / width, bottom / height, wide / width, high / height))
    return axes


def _bias_legend(axes: np.ndarray, pools: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], markersize=4, label=p, linewidth=1.5, **_look(i)) for i, p in enumerate(pools)]
    look: dict[str, Any] = {"color": GREY, "markerfacecolor": "white", "linestyle": ""}
    handles.append(Line2D([], [], marker="o", markersize=4, label="genes drawn\nfrom all ranks", **look))
    axes[0, -1].legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.02), fontsize=9, frameon=False, handlelength=2.6)
