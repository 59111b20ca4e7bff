"""Cost ratios: forward passes that the parts of a prediction take. By these, cells are run exactly where that takes no longer."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rankcell.model.devices import synchronize
from rankcell.model.tape import Tape, Weights, functions_at_once, weights_of
from rankcell.perturb.exact.engine import Engine

_EDITS, _REPEATS = 64, 3  # edits of a row, which fill a batch of most devices; runs, of which the shortest counts
_STEPS = np.array([1.0, 1.5, 2.0])


@dataclass(frozen=True)
class Ratios:
    """Seconds over those of the forward pass of one edit among many: of a tape, and for each function of an adjoint with effects and
    of one without. The defaults are a processor's (`PROCESSOR`)."""

    tape: float = 1.4
    adjoint: float = 3.0
    slopes: float = 2.2

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Ratios":
        """Those that a screen with these settings was begun with."""
        return cls(**settings.get("ratios", {}))

    @property
    def settings(self) -> dict[str, Any]:
        """As they stand among the settings of a screen: plain JSON."""
        return {"ratios": dataclasses.asdict(self)}


PROCESSOR = Ratios()


def measure(engine: Engine, rows: Sequence[np.ndarray], *, functions: int | None = None) -> Ratios:
    """The ratios of a device, timed on some rows of a screen, each rounded to 1 or 1.5 times a power of two.

    engine
        The exact one, on the device.
    functions
        How many functions of the states go back together at most; None: as many as suit the device.
    """
    most = functions_at_once(engine.encoder.device)
    at_once, weights = min(most, max(1, most if functions is None else functions)), weights_of(engine.encoder, engine.n_blocks)
    with engine.encoder.pinned():
        forward, *parts = sum(_seconds(engine, weights, row, at_once) for row in rows)
    return Ratios(*(rounded(seconds / forward) for seconds in parts))


def rounded(ratio: float) -> float:
    """The nearest of 1 and 1.5 times a power of two."""
    steps = _STEPS * 2.0 ** math.floor(math.log2(max(ratio, 2.0**-10)))
    return float(steps[np.abs(np.log(steps / max(ratio, 2.0**-10))).argmin()])


def _seconds(engine: Engine, weights: list[Weights], row: np.ndarray, at_once: int) -> np.ndarray:
    """float64 [4]: seconds of the forward pass of an edit, of a tape, and of the adjoints of a function with and without effects."""
    edits = engine.plan.of_row(row).subsample(_EDITS)
    forward = _shortest(engine, lambda: engine.run_edits([row], [edits])) / (len(edits) * len(engine.plan.passes))
    work = functools.partial(_seconds_of_tape, engine, weights, row.astype(np.int64))
    return np.array([forward, *engine.encoder.memory.at_once("projections", at_once, work, of="the tape of one cell")])


def _seconds_of_tape(engine: Engine, weights: list[Weights], row: np.ndarray, at_once: int) -> list[float]:
    with torch.no_grad():
        embedded = engine.encoder.embedded(row, np.arange(len(row)))
    tape = Tape(weights, embedded)
    replaced = None if engine.plan.kind == "delete" else tape.replaced(embedded)
    cotangents = tape.states.float().expand(at_once, *embedded.shape).contiguous()
    adjoints = (lambda: tape.adjoint(cotangents, replaced), lambda: tape.adjoint(cotangents, effects=False))
    return [_shortest(engine, lambda: Tape(weights, embedded)), *(_shortest(engine, adjoint) / at_once for adjoint in adjoints)]


def _shortest(engine: Engine, work: Callable[[], Any]) -> float:
    """Seconds of the shortest of some runs, after one that is not counted."""
    work()
    seconds = []
    for _ in range(_REPEATS):
        synchronize(engine.encoder.device)
        begun = time.perf_counter()
        work()
        synchronize(engine.encoder.device)
        seconds.append(time.perf_counter() - begun)
    return max(min(seconds), 1e-9)
