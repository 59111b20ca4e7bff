"""What a screen would take: rows, tokens, units, time and room, after some real batches. Nothing is written."""

import contextlib
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankcell.model.devices import synchronize
from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.fast.fast_engine import FastEngine
from rankcell.perturb.run.prepared import skipped
from rankcell.scores import IN_PLACE

_CELLS, _BATCHES, _SECONDS = 6, 4, 12.0  # what is timed: cells, batches of each, and seconds at most
_PER_ROW, _PER_SCORE, _PER_AFFECTED, _PER_JUDGED = 9, 8, 12, 60  # bytes on disk
_PER_MEAN, _PER_SUM = 10, 6  # of a pair of perturbed and affected gene: in the finished table, and in the part of one cell
_PER_MOMENTS = 16  # of such a pair and pass: mean and deviation
_TOKEN = {False: 2, True: 6}  # bytes of a token, without and with its count


@dataclass(frozen=True)
class Estimate:
    """Cells and edits of a screen; tokens through the model, and units of work; tokens a second on one device (measured), the
    seconds of all, and bytes: of the finished folder, and of all while it runs."""

    n_cells: int
    n_edits: int
    n_skipped: int | None
    n_tokens: int
    n_units: int
    tokens_per_second: float
    n_devices: int
    seconds: float
    bytes_finished: int
    bytes_running: int

    @classmethod
    def of(cls, engine: Engine | FastEngine, job: Any, *, n_devices: int = 1) -> "Estimate":
        """For a rankcell.perturb.run.driver.Job."""
        survey = job.work
        is_fast = isinstance(engine, FastEngine)
        rate, names = _rate_of_cells(engine, job) if is_fast else _rate(engine, job), engine.score_names
        n_edits, n_tokens = int(survey.edits.sum()), int(survey.tokens.sum()) + job.n_verified_tokens
        lengths, top = job.tokens.lengths[job.rows], job.asked.affected_top or 0
        pairs = int((survey.edits * np.minimum(top, lengths)).sum()) if "top" in job.asked.collects else 0
        every = int((survey.edits * lengths).sum())
        pairs += every if "raw" in job.asked.collects else 0
        sums = every if "mean" in job.asked.collects else 0
        added = min(sums, len(job.plan.targets) * job.runtime.checkpoint.vocab.n_ids)
        moments = _PER_MOMENTS * (1 + (IN_PLACE in job.plan.passes))
        size = n_edits * (_PER_ROW + _PER_SCORE * len(names)) + pairs * _PER_AFFECTED + added * (_PER_MEAN + moments)
        size += _audit_size(survey.edits, job.what | job.effort, len(names)) if is_fast else 0
        kept = 0 if job.tokens_folder else int(lengths.sum()) * _TOKEN[job.tokens.has_counts]
        n_units = len(survey.edges(job.tokens_per_unit)) - 1
        seconds = n_tokens / rate / max(1, min(n_devices, n_units))
        skips = skipped(survey, job.plan)
        return cls(
            len(job.rows), n_edits, skips, n_tokens, n_units, rate, n_devices, seconds, size, 2 * size + kept + sums * (_PER_SUM + moments)
        )

    def lines(self) -> list[str]:
        """The same in words."""
        devices = f" on each of {self.n_devices} devices" if self.n_devices > 1 else ""
        skips = f" ({self.n_skipped:,} pairs of cell and target have none)" if self.n_skipped else ""
        return [
            f"cells: {self.n_cells:,}",
            f"edits: {self.n_edits:,}{skips}",
            f"tokens through the model: {self.n_tokens:,}",
            f"units of work: {self.n_units:,}",
            f"time: about {_duration(self.seconds)}, at {self.tokens_per_second:,.0f} tokens a second{devices}",
            f"room on disk: about {_size(self.bytes_finished)}, and {_size(self.bytes_running)} while it runs",
        ]


class _Enough(Exception):
    """No error: it ends what is being timed."""


def _audit_size(edits: np.ndarray, settings: Mapping[str, Any], n_scores: int) -> int:
    """Bytes of the tables of an audit."""
    run = np.maximum(settings["audit"] * edits, settings["splits"]) + settings["verify_top"]
    n = int(np.minimum(run, edits).sum()) + settings["verify_screen"]
    return n * (_PER_ROW + 2 * _PER_SCORE * n_scores) + len(edits) * n_scores * _PER_JUDGED


def _rate_of_cells(engine: FastEngine, job: Any) -> float:
    """Tokens a second as FastEngine.cost counts them, over whole cells from all over the screen. The first are run twice, and
    counted once."""
    tokens, found, begun = job.alone.tokens, [], time.perf_counter()
    ends, sync = np.cumsum(tokens), functools.partial(synchronize, engine.engine.encoder.device)
    at = np.unique(np.searchsorted(ends, (np.arange(_CELLS) + 0.5) / _CELLS * ends[-1], side="right"))
    for i in [at[0], *at]:
        upto = max(i + 1, int(np.searchsorted(ends, ends[i] - tokens[i] + _BATCHES * engine.engine.tokens_per_batch)))
        rows = [job.tokens.row(int(r)) for r in job.rows[i:upto]]
        sync()
        start = time.perf_counter()
        engine.run(rows)
        sync()
        found.append((int(tokens[i:upto].sum()), time.perf_counter() - start))
        if len(found) > 1 and time.perf_counter() - begun > _SECONDS:
            break
    n, seconds = map(sum, zip(*found[1:], strict=True))
    return n / max(seconds, 1e-9)


def _rate(engine: Engine, job: Any) -> float:
    """Tokens a second, over some batches of cells from all over the screen. The first batch of each is not counted."""
    ends = np.cumsum(job.survey.tokens)
    at = np.searchsorted(ends, (np.arange(_CELLS) + 0.5) / _CELLS * ends[-1], side="right")
    tokens = seconds = 0.0
    begun = time.perf_counter()
    wanted = (_BATCHES + 1) * engine.tokens_per_batch
    for i in np.unique(np.minimum(at, len(ends) - 1)):
        upto = int(np.searchsorted(ends, (ends[i - 1] if i else 0) + wanted)) + 1  # as many cells as fill the batches that are timed
        n, took = _timed(engine, job, job.rows[i:upto], functools.partial(synchronize, engine.encoder.device))
        tokens, seconds = tokens + n, seconds + took
        if time.perf_counter() - begun > _SECONDS:
            break
    return tokens / max(seconds, 1e-9)


def _timed(engine: Engine, job: Any, rows: np.ndarray, sync: Callable[[], Any]) -> tuple[int, float]:
    """(tokens, seconds) of a few batches of some cells."""
    marks: list[tuple[int, float]] = []

    def mark(n: int) -> None:
        sync()
        marks.append((n, time.perf_counter()))
        if len(marks) > _BATCHES:
            raise _Enough

    begun = time.perf_counter()
    with contextlib.suppress(_Enough):
        engine.run([job.tokens.row(int(i)) for i in rows], longer=job.longer(rows), progress=mark)
    if len(marks) < 2:
        return sum(n for n, _ in marks), time.perf_counter() - begun
    return sum(n for n, _ in marks[1:]), marks[-1][1] - marks[0][1]


def _duration(seconds: float) -> str:
    for size, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} seconds"


def _size(n: int) -> str:
    for power, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if n >= power:
            return f"{n / power:.1f} {name}"
    return f"{n / 1e3:.0f} kB"
