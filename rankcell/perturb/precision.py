"""Which precision keeps the shifts of a screen: judged on shifts, because most are a thousandth and less of a state."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rankcell.perturb.engine import Engine, Scored
from rankcell.wording import note, option

LEAST_SPEARMAN = 0.99  # of the edits of a probed cell, by their shifts in the lower precision and in fp32
MOST_ERROR = 0.05  # root mean square of the difference, over that of the shifts in fp32
_EDITS = 32  # of a probed cell
FEW = 10  # edits of a cell below which an order says nothing


def settle(engine_of: Callable[[str], Engine], rows: Sequence[np.ndarray], longer: Sequence[np.ndarray] | None = None) -> dict[str, Any]:
    """Try bf16 on some edits of a few cells and say whether it is kept: plain JSON.

    engine_of
        "fp32" or "bf16" -> the engine in that precision.
    rows, longer
        The cells to probe, as for Engine.run.

    Returns `precision` ("bf16" where every score keeps order and size, else "fp32"), and of the score that fares worst its
    name, the smallest Spearman over cells and the relative error.
    """
    worst = {"precision": "fp32", "score": None, "spearman": None, "relative_error": None}
    plan = engine_of("fp32").plan
    if max((plan.count(row) for row in rows), default=0) < FEW:
        return worst  # too little to judge by
    exact, low = (engine_of(p).run(rows, longer, most=_EDITS) for p in ("fp32", "bf16"))
    kept, found = True, []
    for name in exact.scores:
        spearman, error = compare(exact, low, name)
        if spearman is None:
            continue
        kept &= spearman >= LEAST_SPEARMAN and error <= MOST_ERROR
        found.append((spearman, error, name))
    if not found:
        return worst
    spearman, error, name = min(found, key=lambda f: (f[0] >= LEAST_SPEARMAN and f[1] <= MOST_ERROR, f[0]))
    return {"precision": "bf16" if kept else "fp32", "score": name, "spearman": round(spearman, 6), "relative_error": round(error, 6)}


def say(found: dict[str, Any]) -> None:
    """The same as one note."""
    if found["score"] is None:
        note(
            f"precision fp32: the cells that were tried have fewer than {FEW} edits each, too few to judge bf16 by ({option('precision', 'bf16')} takes it)",
        )
        return
    what = f"'{found['score']}' has Spearman {found['spearman']:.4f} with fp32 and a relative error of {found['relative_error']:.2%}"
    kept = "precision bf16 keeps the shifts" if found["precision"] == "bf16" else "precision fp32, because bf16 would not keep the shifts"
    note(f"{kept}: in the cells that were tried {what}")


def compare(exact: Scored, low: Scored, name: str) -> tuple[float | None, float]:
    """(the smallest Spearman over cells, relative error) of a score; None where no cell has enough edits."""
    a, b = (1 - s.scores[name] if name.startswith("cos_") else s.scores[name] for s in (exact, low))
    good = np.isfinite(a) & np.isfinite(b)
    if (np.isfinite(a) & ~np.isfinite(b)).any():
        return 0.0, float("inf")  # the lower precision overflows
    if not good.any():
        return None, 0.0
    size = float(np.sqrt(np.mean(a[good] ** 2)))
    error = float(np.sqrt(np.mean((a[good] - b[good]) ** 2))) / size if size else 0.0
    cells = [good & (exact.cell == c) for c in np.unique(exact.cell)]
    found = [spearman(a[c], b[c]) for c in cells if c.sum() >= FEW]
    return (min(found) if found else None), error


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation, ties by their mean rank (scipy's, which need not be installed where screens run)."""
    ra, rb = _mean_ranks(a), _mean_ranks(b)
    ra, rb = ra - ra.mean(), rb - rb.mean()
    size = float(np.sqrt((ra * ra).sum() * (rb * rb).sum()))
    return float((ra * rb).sum() / size) if size else float((ra == rb).all())


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[where]


def probe_rows(lengths: np.ndarray, n: int = 3) -> np.ndarray:
    """Which cells to probe: the shortest, the longest and those between, of some that have genes."""
    order = np.argsort(lengths, kind="stable")
    return np.unique(order[np.linspace(0, len(order) - 1, min(n, len(order))).astype(np.int64)])
