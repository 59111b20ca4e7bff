"""Choice of a precision for a screen, judged on shifts, because most are a thousandth and less of a state."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.exact.scored import Scored
from rankcell.scores import UNFILLED, Score
from rankcell.wording import note, option

LEAST_SPEARMAN = 0.99  # of the edits of a probed cell, by their shifts in the lower precision and in fp32
MOST_ERROR = 0.05  # root mean square of the difference, over that of the shifts in fp32
_EDITS = 32  # of a probed cell
FEW = 10  # edits of a cell below which an order says nothing


def settle(
    engine_of: Callable[[str], Engine],
    faster: Sequence[str],
    rows: Sequence[np.ndarray],
    uncropped: Sequence[np.ndarray] | None = None,
) -> dict[str, Any]:
    """Try faster precisions on some edits of a few cells, until one keeps order and size of every score: plain JSON.

    engine_of
        precision -> the engine in it.
    faster
        What is tried, in this order.
    rows, uncropped
        The cells to probe, as for Engine.run.

    Returns `precision` (the first that is kept, else "fp32") and `tried`: of each precision the score that fares worst, its smallest
    Spearman over cells and its relative error (None: not all numbers are finite). What a score owes to positions and refill (`shift_..._position`) is a difference of
    two scores and is not judged. `tried` is empty where no cell has FEW edits.
    """
    exact_engine = engine_of("fp32")
    if max((exact_engine.plan.count(row) for row in rows), default=0) < FEW:
        return {"precision": "fp32", "tried": []}
    names = [n + which for which in exact_engine.plan.passes if which != UNFILLED for n in exact_engine.plain_names]
    exact, tried = exact_engine.run(rows, uncropped, most=_EDITS), []
    for precision in faster:
        lower = engine_of(precision).run(rows, uncropped, most=_EDITS)
        judged = [(*compare(exact, lower, name), name) for name in names]
        judged = [(rho, error, name) for rho, error, name in judged if rho is not None]
        if not judged:
            break
        rho, error, name = min(judged, key=lambda j: (_is_accurate(*j[:2]), j[0]))
        worst = {"spearman": round(rho, 6), "relative_error": round(error, 6) if np.isfinite(error) else None}
        tried.append({"precision": precision, "score": name, **worst})
        if _is_accurate(rho, error):
            return {"precision": precision, "tried": tried}
    return {"precision": "fp32", "tried": tried}


def _is_accurate(rho: float, error: float) -> bool:
    return rho >= LEAST_SPEARMAN and error <= MOST_ERROR


def note_choice(check: Mapping[str, Any]) -> None:
    """Note the choice of `settle` and its reason, once."""
    if not check["tried"]:
        note(f"precision fp32: the cells that were tried have fewer than {FEW} edits each, too few to judge others by ({option('precision')})")
        return
    each = "; ".join(
        f"in {t['precision']} '{t['score']}' "
        + (
            "is not a finite number in all edits"
            if t["relative_error"] is None
            else f"has Spearman {t['spearman']:.4f} with fp32 and a relative error of {t['relative_error']:.2%}"
        )
        for t in check["tried"]
    )
    last = check["tried"][-1]["precision"]
    why = f"precision {last} keeps the shifts" if check["precision"] == last else "precision fp32, because no faster one keeps the shifts"
    note(f"{why}: in the cells that were tried, {each}")


def compare(exact: Scored, low: Scored, name: str) -> tuple[float | None, float]:
    """Compare a score with the exact one: (the smallest Spearman over cells, relative error); None where no cell has enough edits."""
    a, b = (Score.parse(name).effect(s.scores[name]) for s in (exact, low))
    good = np.isfinite(a) & np.isfinite(b)
    if (np.isfinite(a) & ~np.isfinite(b)).any():
        return 0.0, float("inf")  # the lower precision overflows
    if not good.any():
        return None, 0.0
    size = float(np.sqrt(np.mean(a[good] ** 2)))
    error = float(np.sqrt(np.mean((a[good] - b[good]) ** 2))) / size if size else 0.0
    cells = [good & (exact.cell == c) for c in np.unique(exact.cell)]
    rhos = [spearman(a[c], b[c]) for c in cells if c.sum() >= FEW]
    return (min(rhos) if rhos else None), error


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation; 1 where neither side varies, 0 where one side alone does not."""
    return correlation(centred_ranks(a), centred_ranks(b))


def centred_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks less their mean, ties sharing their mean rank."""
    from scipy.stats import rankdata

    return rankdata(values) - (len(values) + 1) / 2


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of values whose mean is 0; of constants see `spearman`."""
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / size) if size else float((a == b).all())


def probe_rows(lengths: np.ndarray, n: int = 3) -> np.ndarray:
    """Choose the cells to probe: the shortest, the longest and those between."""
    order = np.argsort(lengths, kind="stable")
    return np.unique(order[np.linspace(0, len(order) - 1, min(n, len(order))).astype(np.int64)])
