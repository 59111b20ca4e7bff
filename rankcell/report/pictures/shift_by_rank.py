"""Shift against rank: every edit, over the band of genes of like rank."""

from typing import TYPE_CHECKING

import numpy as np

from rankcell.errors import SettingsError
from rankcell.report.pictures.axes import rank_axes, scaled_axis
from rankcell.report.pictures.colours import DOWN, GREY, INK, UP
from rankcell.report.pictures.point_names import name_points
from rankcell.report.screen_view import Tables, choose_score, least_cells, ranking
from rankcell.report.words import counted, in_cells, words, wrapped
from rankcell.scores import Score
from rankcell.stats import rank_spearman
from rankcell.stats.covariates import TOO_CLOSE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_FOR_BAND = 20


def draw_shift_by_rank(tables: Tables, *, ax: "Axes", score: str | None = None, n: int = 10, min_cells: int | None = None) -> "Axes":
    """See rankcell.pl.shift_by_rank."""
    score, least = choose_score(tables.table, score), least_cells(tables, min_cells)
    ranked = ranking(tables, score, min_cells=least).table
    ranked = ranked[np.isfinite(ranked["mean_rank"].to_numpy(float))].reset_index(drop=True)
    if not len(ranked):
        raise SettingsError(f"no edit with '{score}' has a rank (its genes are in no cell): nothing to draw")
    rank, effect = ranked["mean_rank"].to_numpy(float), ranked["effect"].to_numpy(float)
    log = Score.parse(score).is_cosine and bool((effect > 0).any())
    effect = np.maximum(effect, effect[effect > 0].min()) if log else effect
    value = np.log10(effect) if log else effect
    excess = np.abs(value - np.median(value))
    side = np.sign(value - np.median(value))
    if len(ranked) >= LEAST_FOR_BAND:
        at, band = running_band(rank, value)
        excess, side = _excess(rank, value, at, band)
        _draw_band(ax, at, 10**band if log else band)
    chosen = _chosen(excess, side, n, both_sides=not log, banded=len(ranked) >= LEAST_FOR_BAND)
    colour = np.full(len(ranked), GREY, object)
    colour[chosen] = np.where(side[chosen] > 0, UP, DOWN)
    ax.scatter(
        rank,
        effect,
        s=np.where(np.isin(np.arange(len(rank)), chosen), 24, np.clip(3000 / len(rank), 8, 20)),
        c=list(colour),
        linewidths=0,
        alpha=0.75,
        zorder=3,
    )
    rank_axes(ax, rank, effect, log)
    unit = "" if log else scaled_axis(ax.yaxis, effect)
    ax.set_ylabel(wrapped(f"mean {words(score)}{unit}"), fontsize=9, parse_math=False)
    ax.set_xlabel("mean rank of the gene in the cells that have it (0 = top)", fontsize=9, parse_math=False)
    _write_spearman(ax, rank_spearman(tables.table, score), len(ranked), least)
    if len(ranked) >= LEAST_FOR_BAND:
        ax.legend(loc="upper right", fontsize=8, frameon=False, borderaxespad=0.1)
    name_points(ax, rank, effect, ranked["symbols"].astype(str).tolist(), chosen=chosen, colour=colour)
    return ax


def running_band(rank: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(ranks ascending, [5 %, 50 %, 95 %] x ranks): quantiles of the values of the edits next to each in rank, lightly smoothed.

    The window holds an eighth of the edits, 15 to 200 of them on either side; it is cut at the ends. A slope within the window is
    taken out before the quantiles and put back, so that a score that falls steeply has no wider band for it.
    """
    order = np.argsort(rank, kind="stable")
    x, y, n = rank[order], value[order], len(rank)
    half = int(np.clip(n // 16, 15, 200))
    quantiles = np.empty((3, n))
    for i in range(n):
        near = slice(max(0, i - half), i + half + 1)
        slope = _slope(x[near], y[near])
        quantiles[:, i] = np.quantile(y[near] - slope * (x[near] - x[i]), [0.05, 0.5, 0.95])
    return x, np.array([_smooth(line, half // 3) for line in quantiles])


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """Least squares, with the values cut at their 5 and 95 % quantiles, so that a strong gene at an end does not turn the line."""
    off = x - x.mean()
    spread = float(off @ off)
    return float(off @ np.clip(y, *np.quantile(y, [0.05, 0.95]))) / spread if spread > 0 else 0.0


def _smooth(line: np.ndarray, half: int) -> np.ndarray:
    """Running mean; the ends are carried on."""
    padded = np.pad(line, half, mode="edge")
    return np.convolve(padded, np.full(2 * half + 1, 1 / (2 * half + 1)), mode="valid")


def _excess(rank: np.ndarray, value: np.ndarray, at: np.ndarray, band: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(how many half widths of the band each value lies from the median at its rank, on which side)."""
    low, middle, high = (np.interp(rank, at, line) for line in band)
    off = value - middle
    width = np.where(off > 0, high - middle, middle - low)
    return np.abs(off) / np.maximum(width, np.ptp(value) * 1e-6 + 1e-300), np.sign(off)


def _chosen(excess: np.ndarray, side: np.ndarray, n: int, *, both_sides: bool, banded: bool) -> list[int]:
    """The edits farthest outside the band; of shifts only those above it. Without a band, any: the farthest from the median."""
    good = ((side > 0) | both_sides) & (excess > 1) if banded else excess >= 0
    return [int(i) for i in np.argsort(-excess, kind="stable") if good[i]][: max(0, n)]


def _draw_band(ax: "Axes", at: np.ndarray, band: np.ndarray) -> None:
    ax.fill_between(at, band[0], band[2], color="#cfdbe6", linewidth=0, zorder=1, label="genes of like rank: 5-95 %")
    ax.plot(at, band[1], color=INK, linewidth=1.1, zorder=2, label="their median")


def _write_spearman(ax: "Axes", rho: float, n: int, least: int) -> None:
    many = f"{counted(n, 'edit')}{in_cells(least)}"
    known = (
        "how far it follows the rank is unknown: no cell has ten edits"
        if np.isnan(rho)
        else f"Spearman with the rank {rho:+.2f} (median over cells)"
    )
    warn = abs(rho) > TOO_CLOSE
    ax.set_title(
        f"{many}\n{known}{': it orders genes by position' if warn else ''}",
        fontsize=9,
        loc="left",
        color=UP if warn else INK,
        parse_math=False,
    )
