"""Pictures of assessments: poolings compared, and where in the ranking each pooling looks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rankcell.errors import SettingsError
from rankcell.report.figures import GREY, INK, _plain

# Okabe and Ito's colours, told apart with any kind of colour vision; the yellow is left out: too pale for lines
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)))
SCORES = {
    "knn_accuracy": "label accuracy of the nearest neighbours (line: standard error over folds)",
    "knn_balanced": "label accuracy of the nearest neighbours, mean over labels",
    "ari": "adjusted Rand index of Leiden clusters and labels",
    "nmi": "normalised mutual information of Leiden clusters and labels",
    "silhouette": "silhouette width of the labels",
    "batch_mixing": "batch mixing (1: as random, 0: apart)",
    "batch_silhouette": "batch mixing by silhouettes (1: mixed, 0: apart)",
}
KINDS = {"drop": "dropped (the rest closes up)", "shuffle": "shuffled among themselves", "mask": "masked in place"}


# Poolings compared


def draw_poolings(table: Any, *, ax: Any, score: str) -> Any:
    """See rankcell.pl.compare_poolings."""
    spread = "knn_se" if score == "knn_accuracy" else None
    table = table.assign(knn_se=table["knn_sd"] / np.sqrt(table.attrs.get("folds", 5))) if spread else table
    layers = list(dict.fromkeys(sorted(table["layer"].dropna().astype(int), reverse=True)))
    model, random, pca = (table[table["source"] == s] for s in ("model", "random weights", "PCA"))
    pools = model.groupby("pool", sort=False)[score].max().sort_values(kind="stable").index.tolist()
    _pca_line(ax, pca, score, spread)
    for i, n in enumerate(layers):
        shift = 0.0 if len(layers) == 1 else 0.18 - 0.36 * i / (len(layers) - 1)
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        for part, filled in ((random, False), (model, True)):
            part = part[part["layer"] == n]
            y = [pools.index(p) + shift for p in part["pool"]]
            size = part[spread].to_numpy(float) if spread and filled else None
            look = {"color": colour, "marker": marker, "markersize": 5.5, "linestyle": "", "elinewidth": 1.1}
            look |= {} if filled else {"markerfacecolor": "white", "markeredgewidth": 1.1}
            ax.errorbar(part[score].to_numpy(float), y, xerr=size, zorder=3 if filled else 2, label="_", **look)
    _rows(ax, pools)
    ax.set_xlabel(SCORES.get(score, score), fontsize=9, parse_math=False)
    _pooling_legend(ax, layers, bool(len(random)), bool(len(pca)))
    _plain(ax)
    return ax


def _rows(ax: Any, pools: Sequence[str]) -> None:
    for i in range(len(pools)):
        if i % 2:
            ax.axhspan(i - 0.5, i + 0.5, color="#f3f5f7", zorder=0, linewidth=0)
    ax.set_yticks(range(len(pools)), pools, fontsize=9)
    ax.set_ylim(-0.6, len(pools) - 0.4)
    ax.tick_params(axis="y", length=0)


def _pca_line(ax: Any, pca: Any, score: str, spread: str | None) -> None:
    for _, row in pca.iterrows():
        ax.axvline(row[score], color=INK, linewidth=1, linestyle=DASHES[1], zorder=1)
        if spread:
            ax.axvspan(row[score] - row[spread], row[score] + row[spread], color=GREY, alpha=0.18, zorder=0.5, linewidth=0)


def _pooling_legend(ax: Any, layers: Sequence[int], with_random: bool, with_pca: bool) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for i, n in enumerate(layers):
        look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "linestyle": "", "markersize": 5.5}
        handles.append(Line2D([], [], label=f"layer {n}", **look))
    if with_random:
        handles.append(Line2D([], [], color=GREY, marker="o", linestyle="", markerfacecolor="white", label="random weights"))
    if with_pca:
        handles.append(Line2D([], [], color=INK, linewidth=1, linestyle=DASHES[1], label="PCA"))
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(handles), fontsize=9, frameon=False, borderaxespad=0.2)


# Where a pooling looks

LEFT, RIGHT, TOP, BOTTOM, GAP = 76.0, 122.0, 26.0, 48.0, 16.0  # points


def draw_rank_bias(table: Any, *, ax: Any, score: str) -> Any:
    """See rankcell.pl.rank_bias."""
    hows, layers = (list(dict.fromkeys(table[c])) for c in ("how", "layer"))
    pools = list(dict.fromkeys(table["pool"]))
    axes = _grid(ax, len(layers), len(hows))
    value, sem = _measure(table, score)
    table = table.assign(_value=value, _sem=sem)
    for row, n in zip(axes, layers, strict=True):
        for one, how in zip(row, hows, strict=True):
            part = table[(table["layer"] == n) & (table["how"] == how)]
            for i, p in enumerate(pools):
                _line(one, part[part["pool"] == p], i, len(pools))
            _bias_axes(one, part)
            one.set_title(KINDS.get(how, how), fontsize=9.5, loc="left", color=INK, parse_math=False)
        row[0].set_ylabel(_words(score) if len(layers) == 1 else f"layer {n}\n{_words(score)}", fontsize=9, parse_math=False)
        for one in row[1:]:
            one.tick_params(labelleft=False)
        _set_limits(row, table.loc[table["layer"] == n, "_value"].to_numpy(float))
    _bias_legend(axes, pools)
    return axes


def _measure(table: Any, score: str) -> tuple[Any, Any]:
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


def _line(ax: Any, part: Any, i: int, n_pools: int) -> None:
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


def _bias_axes(ax: Any, part: Any) -> None:
    n = int(part["decile"].max()) + 1
    middle = range(1, n - 1) if n <= 12 else []
    ticks = {0: "top", n - 1: "last", n + 1: "drawn"} | {i: "" for i in middle}
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.axvline(n, color=GREY, linewidth=0.6)
    ax.set_xlim(-0.5, n + 1.9)
    ax.set_xlabel(f"{'tenth' if n == 10 else f'one of {n} parts'} of the ranked genes", fontsize=9, parse_math=False)
    ax.set_yscale("log")
    _plain(ax)


def _set_limits(row: Sequence[Any], values: np.ndarray) -> None:
    """One range for the panels of a row, so that they can be compared; the values decide it, not their bands."""
    values = values[values > 0]
    if len(values):
        for one in row:
            one.set_ylim(values.min() / 1.6, values.max() * 1.6)


def _grid(ax: Any, n_rows: int, n_columns: int) -> np.ndarray:
    """Axes [rows, columns] in the place of `ax`, with room for names measured in points."""
    ax.set_axis_off()
    figure = ax.figure.figure
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
    box = ax.get_window_extent()
    width, height = (x * 72 / figure.dpi for x in (box.width, box.height))
    wide = (width - LEFT - RIGHT - GAP * (n_columns - 1)) / n_columns
    high = (height - n_rows * (TOP + BOTTOM)) / n_rows
    if wide < 90 or high < 80:
        least = ((LEFT + RIGHT + GAP * (n_columns - 1) + 90 * n_columns) / 72, n_rows * (TOP + BOTTOM + 80) / 72)
        found = f"{width / 72:.1f} x {height / 72:.1f} inches"
        raise SettingsError(
            f"the axes are {found}, and this picture needs at least {least[0]:.1f} x {least[1]:.1f}: leave out ax, or use a larger figure"
        )
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
    look = {"color": GREY, "markerfacecolor": "white", "linestyle": ""}
    handles.append(Line2D([], [], marker="o", markersize=4, label="genes drawn\nfrom all ranks", **look))
    axes[0, -1].legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.02), fontsize=9, frameon=False, handlelength=2.6)
