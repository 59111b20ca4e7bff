"""Covariates of an effect (rank, detection, expression) and the Spearman correlation of effects with them."""

from typing import Any

import numpy as np

from rankcell.stats.screen_rows import Rows

COVARIATES = ("mean_rank", "detection", "expression")
TOO_CLOSE = 0.9  # a score that follows the rank this far (Spearman, either sign) orders genes by position more than by effect
_LEAST_EDITS = 10


def ranks_within(group: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Rank of each value among those of its group, from 1, ties sharing their mean rank. No NaN."""
    import pandas as pd

    return pd.Series(values, dtype=float).groupby(group, sort=False).rank().to_numpy()


def follows_rank(rows: Rows, score: str) -> float:
    """Median over cells of the Spearman correlation of the effect with the rank (0 = top).

    Cells with fewer than ten edits, or whose effects are all one, do not count; NaN when none is left.
    """
    correlations = [_spearman_by(rows.cell[at], rows.effect(score, at), rows.rank[at]) for at in rows.pieces()]
    per_cell = np.concatenate([*correlations, np.empty(0)])
    return float(np.median(per_cell)) if len(per_cell) else float("nan")


def _spearman_by(cell: np.ndarray, effect: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Spearman correlation within each cell that has enough edits."""
    good = np.isfinite(effect) & np.isfinite(rank)
    cell = np.unique(cell[good], return_inverse=True)[1]
    n = np.bincount(cell)
    a, b = (ranks_within(cell, v[good]) - (n[cell] + 1) / 2 for v in (effect, rank))
    ab, aa, bb = (np.bincount(cell, v) for v in (a * b, a * a, b * b))
    used = (n >= _LEAST_EDITS) & (aa > 0) & (bb > 0)
    return ab[used] / np.sqrt(aa[used] * bb[used])


def partial_spearman(table: Any) -> dict[str, dict[str, float]]:
    """Spearman and partial Spearman correlation over edits of the effect with each covariate that the table has: `spearman`, `partial`.

    Partial: the correlation of the residuals of both ranks after a linear fit on the other covariates' ranks. Empty with fewer
    than ten complete edits or where the effects are all one; a covariate that is constant is left out.
    """
    from scipy.stats import rankdata

    names = [p for p in COVARIATES if p in table and np.isfinite(table[p]).sum() >= _LEAST_EDITS]
    complete = np.isfinite(table[["effect", *names]].to_numpy(float)).all(1)
    ranks = {c: rankdata(table[c].to_numpy(float)[complete]) for c in ("effect", *names)}
    if complete.sum() < _LEAST_EDITS or np.ptp(ranks["effect"]) == 0:
        return {}
    names = [p for p in names if np.ptp(ranks[p]) > 0]
    correlations = {}
    for p in names:
        others = [ranks[q] for q in names if q != p]
        residuals = [_regress_out(ranks[q], others) for q in ("effect", p)]
        correlations[p] = {"spearman": float(np.corrcoef(ranks["effect"], ranks[p])[0, 1]), "partial": _correlation(*residuals)}
    return correlations


def _regress_out(y: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
    design = np.column_stack([np.ones(len(y)), *others])
    return y - design @ np.linalg.lstsq(design, y, rcond=None)[0]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 1e-9 * len(a) else float("nan")
