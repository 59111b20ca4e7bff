"""Figures, drawn with matplotlib's object interface: no pyplot, no global state, the same bytes each time."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.errors import SettingsError
from rankcell.scores import Score
from rankcell.wording import one_line, shorten

INK, GREY, UP, DOWN = "#1b2733", "#8a97a3", "#b2432f", "#2b6ca3"
_PALETTE = [
    "#2b6ca3",
    "#b2432f",
    "#3f8f5b",
    "#8457a6",
    "#c98a1b",
    "#3aa0a8",
    "#c2558f",
    "#7a6a4f",
    "#5566cc",
    "#9aa300",
    "#444b54",
    "#e08a6d",
]


def new_figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=150, metadata={"Software": None})


def mark(ax: Any, note: Any) -> Any:
    """`note` (that the model is a toy) as the first line above a picture and its legend; nothing where there is nothing to say."""
    if note:
        note = textwrap.fill(one_line(str(note)), 60)  # as wide as the narrowest axes
        title = ax.get_title(loc="left")
        size = min(9.0, ax._left_title.get_fontsize()) if title else 9.0
        text = f"{note}\n{title}" if title else note
        ax.set_title(text, loc="left", fontsize=size, color=INK, parse_math=False, pad=6 + _legend_above(ax))
    return ax


def _legend_above(ax: Any) -> float:
    """Height of a legend that stands above the axes, in points; 0 where there is none."""
    if ax.get_legend() is None:
        return 0.0
    figure = ax.figure.figure
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()  # a layout moves axes only when drawn
    frame, box = ax.get_window_extent(), ax.get_legend().get_window_extent(figure.canvas.get_renderer())
    stands_above = box.y0 >= frame.y1 - 1 and box.x0 < frame.x1
    return (box.y1 - frame.y1) * 72 / figure.dpi if stands_above else 0.0


def _plain(ax: Any) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=9)


def draw_ranked(ranked: Any, *, by: str | None, ax: Any, n: int = 20, title: str | None = None) -> Any:
    """See rankcell.pl.ranked_genes. `by`: the score of the effects, where it is known."""
    from rankcell.report.words import words

    by = by or "effect"
    ranked = ranked[np.isfinite(ranked["effect"].to_numpy(float))]
    score = Score.known(by)
    shown = strongest(ranked, n) if score is not None and score.is_toward else ranked.head(n)
    if not len(shown):
        raise SettingsError(f"no edit has a value of '{by}': nothing to draw")
    at = np.arange(len(shown))[::-1]
    effect, sem = shown["effect"].to_numpy(float), np.nan_to_num(shown["sem"].to_numpy(float))
    power = int(np.floor(np.log10(np.abs(effect).max(initial=1e-300))))
    unit = 10.0**power if power < -1 else 1.0
    ax.barh(at, effect / unit, color=np.where(effect >= 0, UP, DOWN), height=0.72, xerr=sem / unit, ecolor=GREY)
    names = [f"{shorten(s)} (n=1)" if n == 1 else shorten(s) for s, n in zip(shown["symbols"], shown["n_cells"], strict=True)]
    ax.set_yticks(at, names, fontsize=9, parse_math=False)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_xlabel(
        f"{words(by)}{f', in units of 1e{power}' if unit < 1 else ''}\nmean over {replicates(ranked)}, line: standard error",
        fontsize=9,
        parse_math=False,
    )
    ax.set_title(title or "", fontsize=11, loc="left", color=INK, parse_math=False)
    ax.margins(y=0.02)
    _plain(ax)
    return ax


def replicates(ranked: Any) -> str:
    """What the means of a ranked table are over."""
    return "donors" if "n_donors" in ranked and ranked["n_donors"].notna().any() else "cells"


def strongest(ranked: Any, n: int) -> Any:
    """Up to n/2 edits from the top and n/2 from the bottom, those of the top with a positive and of the bottom with a negative effect."""
    import pandas as pd

    if n == 1:
        return ranked.loc[[ranked["effect"].abs().idxmax()]] if len(ranked) else ranked
    up = ranked[ranked.effect > 0].head(n // 2)
    down = ranked[ranked.effect < 0].tail(n - n // 2)
    return pd.concat([up, down])


def draw_embeddings(panels: Mapping[str, np.ndarray], labels: Sequence[str], *, titles: Mapping[str, str] | None = None) -> Any:
    """A figure of two-dimensional embeddings side by side, coloured by label; one legend for all."""
    labels = np.asarray(labels, str)
    names = sorted(set(labels), key=lambda x: (-(labels == x).sum(), x))
    figure = new_figure(4.2 * len(panels), 4.9)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    order = np.random.default_rng(0).permutation(len(labels))
    colour = np.array([_PALETTE[names.index(x) % len(_PALETTE)] for x in labels])
    for ax, (name, xy) in zip(axes, panels.items(), strict=True):
        ax.scatter(*xy[order].T, c=colour[order], s=11, linewidths=0, alpha=0.85)
        ax.set_title((titles or {}).get(name, name), fontsize=11, loc="left", color=INK, parse_math=False)
        ax.set(xticks=[], yticks=[])
        ax.set_xlabel("UMAP 1", fontsize=8, color=GREY, parse_math=False)
        ax.set_ylabel("UMAP 2", fontsize=8, color=GREY, parse_math=False)
        _plain(ax)
    handles = [
        axes[0].scatter([], [], c=_PALETTE[i % len(_PALETTE)], s=30, label=f"{x} ({(labels == x).sum()})") for i, x in enumerate(names)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(names)), fontsize=9, frameon=False)
    return figure


def draw_curve(curve: Sequence[Mapping[str, float]], path: Path) -> None:
    """Training and held-out loss, and held-out accuracies, over epochs."""
    figure = new_figure(8.4, 3.4)
    left, right = figure.subplots(1, 2)
    epoch = [row["epoch"] for row in curve]
    for key, colour, label in (("train_loss", GREY, "training"), ("heldout_loss", UP, "held out")):
        left.plot(epoch, [row[key] for row in curve], color=colour, label=label)
    left.set_ylabel("masked-gene cross entropy (nats)", fontsize=9, parse_math=False)
    for key, colour, label in (("heldout_top10", DOWN, "top 10"), ("heldout_top1", UP, "top 1")):
        right.plot(epoch, [row[key] for row in curve], color=colour, label=label)
    right.set_ylabel("held-out masked-gene accuracy", fontsize=9, parse_math=False)
    right.set_ylim(bottom=0)
    for ax in (left, right):
        ax.set_xlabel("epoch", fontsize=9, parse_math=False)
        ax.legend(frameon=False, fontsize=9)
        _plain(ax)
    save(figure, path)
