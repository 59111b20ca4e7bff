"""Two-dimensional embeddings side by side."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rankcell.report.pictures.axes import plain_axes
from rankcell.report.pictures.colours import GREY, INK, PALETTE
from rankcell.report.pictures.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_embeddings(panels: Mapping[str, np.ndarray], labels: Sequence[str], *, titles: Mapping[str, str] | None = None) -> "Figure":
    """A figure of two-dimensional embeddings side by side, coloured by label; one legend for all."""
    label = np.asarray(labels, str)
    names = sorted(set(label), key=lambda x: (-(label == x).sum(), x))
    figure = new_figure(4.2 * len(panels), 4.9)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    order = np.random.default_rng(0).permutation(len(label))
    colour = np.array([PALETTE[names.index(x) % len(PALETTE)] for x in label])
    for ax, (name, xy) in zip(axes, panels.items(), strict=True):
        ax.scatter(*xy[order].T, c=colour[order], s=11, linewidths=0, alpha=0.85)
        ax.set_title((titles or {}).get(name, name), fontsize=11, loc="left", color=INK, parse_math=False)
        ax.set(xticks=[], yticks=[])
        ax.set_xlabel("UMAP 1", fontsize=8, color=GREY, parse_math=False)
        ax.set_ylabel("UMAP 2", fontsize=8, color=GREY, parse_math=False)
        plain_axes(ax)
    handles = [
        axes[0].scatter([], [], c=PALETTE[i % len(PALETTE)], s=30, label=f"{x} ({(label == x).sum()})") for i, x in enumerate(names)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(names)), fontsize=9, frameon=False)
    return figure
