"""Poolings compared by one score, beside random weights and PCA."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rankcell.report.pictures.axes import plain_axes
from rankcell.report.pictures.colours import COLOURS, DASHES, GREY, INK, MARKERS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SCORES = {
    "knn_accuracy": "label accuracy of the nearest neighbours (line: standard error over folds)",
    "knn_balanced": "label accuracy of the nearest neighbours, mean over labels",
    "ari": "adjusted Rand index of Leiden clusters and labels",
    "nmi": "normalised mutual information of Leiden clusters and labels",
    "silhouette": "silhouette width of the labels",
    "batch_mixing": "batch mixing (1: as random, 0: apart)",
    "batch_silhouette": "batch mixing by silhouettes (1: mixed, 0: apart)",
}


def draw_poolings(table: "pd.DataFrame", *, ax: "Axes", score: str) -> "Axes":
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
            look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5.5, "linestyle": "", "elinewidth": 1.1}
            look |= {} if filled else {"markerfacecolor": "white", "markeredgewidth": 1.1}
            ax.errorbar(part[score].to_numpy(float), y, xerr=size, zorder=3 if filled else 2, label="_", **look)
    _rows(ax, pools)
    ax.set_xlabel(SCORES.get(score, score), fontsize=9, parse_math=False)
    _pooling_legend(ax, layers, bool(len(random)), bool(len(pca)))
    plain_axes(ax)
    return ax


def _rows(ax: "Axes", pools: Sequence[str]) -> None:
    for i in range(len(pools)):
        if i % 2:
            ax.axhspan(i - 0.5, i + 0.5, color="#f3f5f7", zorder=0, linewidth=0)
    ax.set_yticks(range(len(pools)), pools, fontsize=9)
    ax.set_ylim(-0.6, len(pools) - 0.4)
    ax.tick_params(axis="y", length=0)


def _pca_line(ax: "Axes", pca: "pd.DataFrame", score: str, spread: str | None) -> None:
    for _, row in pca.iterrows():
        ax.axvline(row[score], color=INK, linewidth=1, linestyle=DASHES[1], zorder=1)
        if spread:
            ax.axvspan(row[score] - row[spread], row[score] + row[spread], color=GREY, alpha=0.18, zorder=0.5, linewidth=0)


def _pooling_legend(ax: "Axes", layers: Sequence[int], with_random: bool, with_pca: bool) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for i, n in enumerate(layers):
        look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "linestyle": "", "markersize": 5.5}
        handles.append(Line2D([], [], label=f"layer {n}", **look))
    if with_random:
        handles.append(Line2D([], [], color=GREY, marker="o", linestyle="", markerfacecolor="white", label="random weights"))
    if with_pca:
        handles.append(Line2D([], [], color=INK, linewidth=1, linestyle=DASHES[1], label="PCA"))
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(handles), fontsize=9, frameon=False, borderaxespad=0.2)
