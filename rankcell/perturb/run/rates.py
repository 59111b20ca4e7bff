"""Throughput of a screen on a device: tokens a second, over some real cells of it."""

import contextlib
import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from rankcell.model.devices import synchronize
from rankcell.perturb.exact.engine import Engine

if TYPE_CHECKING:
    from rankcell.perturb.fast.fast_engine import FastEngine
    from rankcell.perturb.run.run_plan import RunPlan

_CELLS, _BATCHES, _SECONDS = 6, 4, 12.0  # what is timed: cells, batches of each, and seconds at most


class _Enough(Exception):
    """No error: it ends what is being timed."""


def rate_of_cells(engine: "FastEngine", plan: "RunPlan", tokens: np.ndarray) -> float:
    """Tokens a second as FastEngine.cost counts them, over whole cells from all over the screen. The first are run twice, and
    counted once.

    tokens
        int64 [cells]: what each cell takes.
    """
    timed, begun = [], time.perf_counter()
    ends, sync = np.cumsum(tokens), functools.partial(synchronize, engine.engine.encoder.device)
    at = np.unique(np.searchsorted(ends, (np.arange(_CELLS) + 0.5) / _CELLS * ends[-1], side="right"))
    for i in [at[0], *at]:
        upto = max(i + 1, int(np.searchsorted(ends, ends[i] - tokens[i] + _BATCHES * engine.engine.tokens_per_batch)))
        rows = [plan.tokens.row(int(r)) for r in plan.rows[i:upto]]
        sync()
        start = time.perf_counter()
        engine.run(rows)
        sync()
        timed.append((int(tokens[i:upto].sum()), time.perf_counter() - start))
        if len(timed) > 1 and time.perf_counter() - begun > _SECONDS:
            break
    n, seconds = map(sum, zip(*timed[1:], strict=True))
    return n / max(seconds, 1e-9)


def rate_of_edits(engine: Engine, plan: "RunPlan") -> float:
    """Tokens a second, over some batches of cells from all over the screen. The first batch of each is not counted."""
    ends = np.cumsum(plan.survey.tokens)
    at = np.searchsorted(ends, (np.arange(_CELLS) + 0.5) / _CELLS * ends[-1], side="right")
    tokens = seconds = 0.0
    begun = time.perf_counter()
    n_tokens = (_BATCHES + 1) * engine.tokens_per_batch
    for i in np.unique(np.minimum(at, len(ends) - 1)):
        upto = int(np.searchsorted(ends, (ends[i - 1] if i else 0) + n_tokens)) + 1  # as many cells as fill the batches that are timed
        n, took = _timed(engine, plan, plan.rows[i:upto], functools.partial(synchronize, engine.encoder.device))
        tokens, seconds = tokens + n, seconds + took
        if time.perf_counter() - begun > _SECONDS:
            break
    return tokens / max(seconds, 1e-9)


def _timed(engine: Engine, plan: "RunPlan", rows: np.ndarray, sync: Callable[[], None]) -> tuple[int, float]:
    """(tokens, seconds) of a few batches of some cells."""
    marks: list[tuple[int, float]] = []

    def mark(n: int) -> None:
        sync()
        marks.append((n, time.perf_counter()))
        if len(marks) > _BATCHES:
            raise _Enough

    begun = time.perf_counter()
    with contextlib.suppress(_Enough):
        engine.run([plan.tokens.row(int(i)) for i in rows], uncropped=plan.uncropped_of(rows), progress=mark)
    if len(marks) < 2:
        return sum(n for n, _ in marks), time.perf_counter() - begun
    return sum(n for n, _ in marks[1:]), marks[-1][1] - marks[0][1]
