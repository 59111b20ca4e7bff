"""Volcano: effect of every edit against its p-value or false discovery rate."""

from typing import TYPE_CHECKING, Any

import numpy as np

from rankcell.errors import SettingsError
from rankcell.report.pictures.axes import plain_axes, scaled_axis
from rankcell.report.pictures.colours import DOWN, GREY, INK, UP
from rankcell.report.pictures.point_names import name_points
from rankcell.report.ranked_columns import fdr_of, probability_columns
from rankcell.report.screen_view import Tables, ranked_of
from rankcell.report.words import words
from rankcell.stats.summary import LEVEL

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_NULLS = {"matched_diff": "genes of like rank", "control_diff": "the controls", "vs_diff": "the other screen"}


def draw_volcano_of_screen(
    tables: Tables, *, ax: "Axes", n: int | None = None, score: str | None = None, min_cells: int | None = None, statistics: Any = None
) -> "Axes":
    """`draw_volcano` of a screen, tested against genes of like rank, or of its ranking in `statistics`."""
    ranked = ranked_of(tables, score=score, min_cells=min_cells, statistics=statistics, tested=True)
    return draw_volcano(ranked.table, by=ranked.by, ax=ax, n=12 if n is None else n)


def draw_volcano(ranked: "pd.DataFrame", *, by: str | None, ax: "Axes", x: str | None = None, y: str | None = None, n: int = 12) -> "Axes":
    """See rankcell.pl.volcano. `by`: the score of the effects, where it is known."""
    y = _probability_column(ranked, y)
    x = _effect_column(ranked, x, y)
    effect, p = (ranked[c].to_numpy(float) for c in (x, y))
    good = np.isfinite(effect) & np.isfinite(p)
    if not good.any():
        raise SettingsError(f"no edit has both an effect and '{y}': nothing to draw")
    if (p[good] < 0).any() or (p[good] > 1).any():
        raise SettingsError(f"'{y}' is not a probability: it goes from {p[good].min():g} to {p[good].max():g}")
    ranked, effect, p = ranked[good], effect[good], p[good]
    height = _minus_log10(p)
    fdr_name = fdr_of(y)
    fdr = ranked[fdr_name].to_numpy(float) if fdr_name in ranked else p
    called = fdr < LEVEL
    colour = np.where(~called, GREY, np.where(effect >= 0, UP, DOWN))
    for shape, these in (("o", p > 0), ("^", p == 0)):
        for which, size in ((~called & these, 13), (called & these, 20)):
            ax.scatter(effect[which], height[which], s=size, c=colour[which], marker=shape, linewidths=0, alpha=0.8 if size > 13 else 0.5)
    _volcano_axes(ax, _effect_words(by, x), y, effect, height)
    _threshold(ax, p, called, fdr_name if fdr_name in ranked else y, y)
    order = np.lexsort((-np.abs(effect), -height))
    chosen = [int(i) for i in order if called[i] or len(order) <= n][:n]
    name_points(ax, effect, height, ranked["symbols"].astype(str).tolist(), chosen=chosen, colour=colour)
    return ax


def _probability_column(ranked: "pd.DataFrame", y: str | None) -> str:
    there = probability_columns(ranked)
    y = y or next((c for c in there if ranked[c].notna().any()), there[0] if there else None)
    if "effect" not in ranked or "symbols" not in ranked:
        raise SettingsError("this is not a ranking: give what rc.tl.rank_edits(table) returns")
    if y is None or y not in ranked:
        missing = f"column '{y}'" if y else "column of probabilities ('p', 'matched_p', ...)"
        raise SettingsError(
            f"the ranking has no {missing}, which a volcano is drawn from (it has {', '.join(map(str, ranked.columns))}): "
            "give the ranking of rc.tl.rank_edits, or the table that 'rankcell stats' writes"
        )
    return y


def _effect_column(ranked: "pd.DataFrame", x: str | None, y: str) -> str:
    """The column that y is the probability of: the difference from the null where the test has one, else the effect itself."""
    x = x or (f"{y.rpartition('_')[0]}_diff" if f"{y.rpartition('_')[0]}_diff" in ranked else "effect")
    if x not in ranked or ranked[x].dtype.kind not in "fiu":
        raise SettingsError(f"the ranking has no column of numbers '{x}' (it has {', '.join(map(str, ranked.columns))})")
    return x


def _effect_words(by: str | None, x: str) -> str:
    label = f"mean {words(by)}" if by else "effect"
    return label if x == "effect" else f"{label}\nless that of {_NULLS[x]}" if x in _NULLS else x


def _minus_log10(p: np.ndarray) -> np.ndarray:
    """-log10; zeros (too small to be written) stand a little above the least of the others."""
    least = p[p > 0].min(initial=1.0)
    return -np.log10(np.where(p > 0, p, min(least, 1e-3) / 3))


def _volcano_axes(ax: "Axes", label: str, y: str, effect: np.ndarray, height: np.ndarray) -> None:
    ax.axvline(0, color=GREY, linewidth=0.6, zorder=0)
    span = float(np.ptp(effect)) or float(np.abs(effect).max()) or 1.0
    ax.set_xlim(min(effect.min(), 0) - 0.12 * span, max(effect.max(), 0) + 0.18 * span)
    ax.set_ylim(-0.03 * max(height.max(), 1), 1.12 * max(height.max(), 1))
    unit = scaled_axis(ax.xaxis, effect)
    ax.set_xlabel(f"{label}{unit}", fontsize=9, parse_math=False)
    kind, _, ending = y.rpartition("_")
    name = {"p": "p", "fdr": "FDR"}.get(ending, ending)
    ax.set_ylabel(f"\u2212log10 {name}{f' ({kind})' if kind else ''}", fontsize=9, parse_math=False)
    plain_axes(ax)


def _threshold(ax: "Axes", p: np.ndarray, called: np.ndarray, fdr_name: str, y: str) -> None:
    """How many edits are called, and where the line between them and the others lies."""
    label = "FDR" if fdr_name.endswith("fdr") else "p"
    text = f"{int(called.sum()):,} of {len(p):,} edits with {label} < {LEVEL:g}"
    ax.set_title(text, fontsize=9, loc="left", color=INK, parse_math=False)
    line = LEVEL if y == fdr_name else p[called].max() if called.any() and p[called].max() > 0 else None
    if line is not None:
        ax.axhline(-np.log10(line), color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
