"""Audit of the fast method's predictions by edits that were run exactly: in a cell, and over a screen. Numbers alone.

Effects are those of rankcell.scores; large is large in size, whatever its sign. Only edits that were drawn at random judge: those that were run because they were predicted to be large would flatter the method.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rankcell.perturb.exact.shift_precision import FEW, centred_ranks, correlation

TOP = 10  # one in so many: the top tenth
NEAREST = 9  # audited edits whose errors stand for those of an edit that was not run
DEPTHS = (5, 10, 20, 50)  # of the recall among what was verified
LEVEL = 0.95  # of every interval

# Of a cell and score: the columns of audit_cells.parquet, and the summands of the summary of a screen.
REPORTED = ("n_edits", "n", "spearman", "error", "relative_error", "recall")
SUMMANDS = ("squares", "off", "hits", "tops", "rank_xy", "rank_xx", "rank_yy", "weight", "places")


def n_top(n: int) -> int:
    """Size of the top tenth of n."""
    return max(1, n // TOP)


def judge(predicted: np.ndarray, exact: np.ndarray, drawn: np.ndarray, *, depth: int = 0) -> dict[str, Any]:
    """Judge the predictions of one cell and score: REPORTED and SUMMANDS.

    predicted, exact
        [edits]: effects; predicted without the edit's own exact value, NaN where nothing was predicted; exact NaN where not run.
    drawn
        bool [edits]: of the random audit.
    depth
        How many were to be verified by this score; 0: by another.

    n_edits, n: edits, and how many judge. error: root mean square of exact - predicted; relative_error: over that of exact.
    recall: what share of the true top tenth the predicted top tenth is expected to be (`expected_recall`). squares, off: sums of
    exact squared and of predicted - exact. hits, tops: of the audited edits, how many of the top tenth are predicted there, and how
    many these are. rank_...: sums of products of centred ranks. weight: how many edits each audited one stands for beyond the verified (NaN: not
    told); places: of each audited one there, how many verified are as large, where these are fewer than `depth`. A drawn edit
    counts as verified when it is predicted to be as large as any that was run for being predicted large.
    """
    run, known = np.isfinite(exact), np.isfinite(predicted)
    judging = drawn & run & known
    x, y = predicted[judging], exact[judging]
    n = len(x)
    error, size = (float(np.sqrt(np.mean(v**2))) if n else math.nan for v in (y - x, y))
    a, b = centred_ranks(x), centred_ranks(y)
    judgement = {"n_edits": len(predicted), "n": n, "spearman": correlation(a, b) if n > 2 else math.nan, "error": error}
    judgement |= {"relative_error": error / size if n and size else math.nan, "recall": _recall(predicted, exact, judging)}
    summands = {"squares": float((y * y).sum()), "off": float((x - y).sum()), "rank_xy": float((a * b).sum())}
    summands |= {"rank_xx": float((a * a).sum()), "rank_yy": float((b * b).sum())}
    tops = n_top(n) if n > 1 else 0
    summands |= {"hits": int((_is_top(np.abs(x), tops) & _is_top(np.abs(y), tops)).sum()), "tops": tops}
    return judgement | summands | _missed(predicted, exact, judging, depth)


def _is_top(values: np.ndarray, n: int) -> np.ndarray:
    is_top = np.zeros(len(values), bool)
    is_top[np.argsort(-values, kind="stable")[:n]] = True
    return is_top


def _recall(predicted: np.ndarray, exact: np.ndarray, judging: np.ndarray) -> float:
    known = np.isfinite(predicted)
    if not known.any():
        return 1.0 if len(exact) and np.isfinite(exact).all() else math.nan
    if not judging.any():
        return math.nan
    here = known | np.isfinite(exact)
    effects = np.where(known, predicted, exact)[here]
    return expected_recall(effects, np.flatnonzero(judging[here]), (exact - predicted)[judging], sure=~known[here])


def expected_recall(predicted: np.ndarray, audited: np.ndarray, residuals: np.ndarray, *, sure: np.ndarray | None = None) -> float:
    """The share of the true top tenth that is expected in the predicted top tenth.

    predicted
        [edits]: effects.
    audited, residuals
        Which of them were run, and exact - predicted of these.
    sure
        bool [edits]: whose effect is known, so that nothing is added to it.

    The true effect of an edit is taken to be the predicted one plus the residual of any of the 9 audited edits nearest in predicted
    size, each as likely. The top tenth is what stands above the size that a tenth of all these possible effects exceeds, which is what
    the mean over many draws comes to, without drawing.
    """
    size = np.abs(predicted)
    order = audited[np.argsort(size[audited], kind="stable")]
    added = residuals[np.argsort(size[audited], kind="stable")]
    k = min(NEAREST, len(order))
    errors = added[_nearest(size[order], size, k)[:, None] + np.arange(k)]
    if sure is not None:
        errors[sure] = 0
    possible = np.abs(predicted[:, None] + errors)
    top = n_top(len(size))
    least = -np.partition(-possible.ravel(), top * k - 1)[top * k - 1]
    above, level = possible > least, possible == least
    share = above + level * ((top * k - above.sum()) / level.sum())
    return float(share[_is_top(size, top)].sum() / (top * k))


def _nearest(points: np.ndarray, values: np.ndarray, k: int) -> np.ndarray:
    """int64 [values]: where the k of the ascending points begin that are nearest to each value."""
    n = len(points)
    first = np.clip(np.searchsorted(points, values) - k, 0, n - k)
    for _ in range(k):
        after = np.minimum(first + k, n - 1)
        first = first + ((first + k < n) & (values - points[first] > points[after] - values))
    return first


def _missed(predicted: np.ndarray, exact: np.ndarray, judging: np.ndarray, depth: int) -> dict[str, Any]:
    """Summands of the recall at k, `weight` and `places`: see `judge`."""
    size = np.abs(predicted)
    verified = np.isfinite(exact) & ~judging
    larger = size[verified & np.isfinite(size)]
    least = larger.min() if len(larger) else -np.partition(-size[judging], depth - 1)[depth - 1] if depth and judging.sum() > depth else 0
    verified |= judging & (size >= least)
    others = judging & ~verified
    n_others = len(exact) - int(verified.sum())
    if not depth or (n_others and not others.any()):
        return {"weight": math.nan, "places": []}
    known = np.sort(np.abs(exact[verified]))
    places = len(known) - np.searchsorted(known, np.abs(exact[others]), side="left")
    return {"weight": n_others / max(1, int(others.sum())), "places": sorted(int(p) for p in places if p < depth)}


def summarize(cells: Mapping[str, Any], *, verify_top: int = 0) -> dict[str, Any]:
    """Summarize a score over a screen, from REPORTED and SUMMANDS of its cells (arrays): plain JSON, null where there is too little.

    verify_top
        How many edits of each cell were verified by this score.

    n, cells: audited edits and the cells that have any. spearman, spearman_low: median and 5 % quantile over cells with ten such
    edits; spearman_pooled: of the ranks within cells, all cells together. relative_error: root mean square of exact - predicted over
    that of exact. bias: mean of predicted - exact over the same. recall, recall_low, recall_high: of the top tenth of the audited
    edits of each cell (one at least), how many are in the predicted top tenth, all cells together, with Wilson's interval of 95 %.
    expected: mean over cells of the recall expected of all edits. at: {k: recall, low, high} where the predicted first were verified.
    """
    n, squares = cells["n"].astype(np.int64), cells["squares"].sum()
    total = int(n.sum())
    rho = cells["spearman"][(n >= FEW) & np.isfinite(cells["spearman"])]
    size = math.sqrt(squares / total) if total else 0.0
    error = math.sqrt(np.nansum(cells["error"] ** 2 * n) / total) if total else math.nan
    spread = math.sqrt(cells["rank_xx"].sum() * cells["rank_yy"].sum())
    hits, tops = int(cells["hits"].sum()), int(cells["tops"].sum())
    low, high = wilson(hits, tops)
    known = cells["recall"][np.isfinite(cells["recall"])]
    summary = {
        "n": total,
        "cells": int((n > 0).sum()),
        "spearman": float(np.median(rho)) if len(rho) else math.nan,
        "spearman_low": float(np.quantile(rho, 0.05)) if len(rho) else math.nan,
        "spearman_pooled": cells["rank_xy"].sum() / spread if spread else math.nan,
        "relative_error": error / size if size else math.nan,
        "bias": cells["off"].sum() / total / size if size else math.nan,
        "recall": hits / tops if tops else math.nan,
        "recall_low": low,
        "recall_high": high,
        "expected": float(known.mean()) if len(known) else math.nan,
    }
    summary = {k: _plain(v) for k, v in summary.items()}
    return summary | ({"at": at} if (at := _all_depths(cells, verify_top)) else {})


def _all_depths(cells: Mapping[str, Any], verify_top: int) -> dict[str, Any]:
    depths = [k for k in DEPTHS if k <= verify_top]
    if not depths or not (here := np.isfinite(cells["weight"])).any():
        return {}
    places = [np.asarray(p, np.int64) for p, has_weight in zip(cells["places"], here, strict=True) if has_weight]
    weight = cells["weight"][here]
    of_place = np.repeat(weight, [len(p) for p in places])
    return {str(k): recall_at(k, weight, np.concatenate(places), of_place) for k in depths}


def recall_at(k: int, weight: np.ndarray, places: np.ndarray, of_place: np.ndarray) -> dict[str, float]:
    """The share of the k truly largest edits of a cell that was verified, all cells together.

    weight
        [cells]: how many edits an audited one beyond the verified stands for.
    places, of_place
        [audited edits beyond the verified]: how many verified ones are as large, and the weight of the cell.

    As many edits of a cell exceed its j-th largest verified one as were missed there, in the mean over cells m(j): the k largest
    reach down to the j with j + m(j) = k, and j of them were verified. The interval of 95 % takes the audited edits among those
    missed for a Poisson number (Garwood's limits).
    """
    shares = []
    depth = np.arange(1, k + 1)
    counts = np.array([(places < j).sum() for j in depth])
    each = np.array([of_place[places < j].mean() if c else weight.mean() for j, c in zip(depth, counts, strict=True)])
    limits = {c: garwood(c) for c in set(counts.tolist())}
    for number in (counts, [limits[c][1] for c in counts.tolist()], [limits[c][0] for c in counts.tolist()]):
        reached = np.concatenate([[0], np.maximum.accumulate(depth + each * np.asarray(number) / len(weight))])
        shares.append(float(np.interp(k, reached, np.arange(k + 1))) / k)
    return dict(zip(("recall", "low", "high"), map(_plain, shares), strict=True))


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of 95 % of a proportion; NaN where n is 0."""
    from scipy.stats import binomtest

    if not n:
        return math.nan, math.nan
    interval = binomtest(hits, n).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def garwood(count: int) -> tuple[float, float]:
    """Garwood's exact interval of 95 % of the mean of a Poisson count, from quantiles of chi-square (Garwood 1936)."""
    from scipy.stats import chi2

    tail = (1 - LEVEL) / 2
    low = chi2.ppf(tail, 2 * count) / 2 if count else 0.0
    return float(low), float(chi2.isf(tail, 2 * count + 2) / 2)


def _plain(value: Any) -> Any:
    """A number as JSON holds it, to six digits."""
    if isinstance(value, (int, np.integer)):
        return int(value)
    return round(float(value), 6) if math.isfinite(value) else None


def columns(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Concatenate the judgements of cells into columns: arrays, and for places a list of lists."""
    integers = ("n_edits", "n", "hits", "tops")
    arrays = {n: np.array([r[n] for r in records], np.int64 if n in integers else np.float64) for n in names if n != "places"}
    return arrays | {n: [r[n] for r in records] for n in names if n == "places"}
