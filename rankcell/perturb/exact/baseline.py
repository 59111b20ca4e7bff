"""Cells before any edit: their states, which each edit is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from rankcell.model import Encoder, Packed, collate
from rankcell.model.finite import require_finite
from rankcell.vocab import Frame


class StateEngine(Protocol):
    """What gives the states of rows: rankcell.perturb.exact.engine.Engine."""

    @property
    def encoder(self) -> Encoder: ...
    @property
    def reads_cls_alone(self) -> bool: ...
    def states_of(self, batch: Packed) -> Any: ...


@dataclass(frozen=True)
class Baseline:
    """Cells before any edit, end to end.

    states
        float32 [tokens, width]; [cells, width], of CLS, where that alone is read.
    ids
        int64 [tokens].
    tokens
        The same on the encoder's device.
    number
        {cell: its number among these}.
    start, length, first_token
        int64 [cells]: where each begins in `states`, its tokens, and where they begin in `ids`.
    """

    states: Any
    ids: np.ndarray
    tokens: Any
    number: dict[int, int]
    start: np.ndarray
    length: np.ndarray
    first_token: np.ndarray

    @classmethod
    def of(cls, engine: StateEngine, rows: Sequence[np.ndarray], cells: np.ndarray) -> "Baseline":
        """States of `rows`, of the cells with these numbers, by an engine; ModelError where they are not finite."""
        batch = collate(rows, cells)
        packed = batch.packed(engine.encoder.tensor)
        states = engine.states_of(packed)
        require_finite(bool(states.isfinite().all()), engine.encoder.precision)
        start = np.arange(len(rows)) if engine.reads_cls_alone else batch.starts
        number = {cell: i for i, cell in enumerate(cells.tolist())}
        return cls(states, batch.input_ids, packed.input_ids, number, start, batch.lengths, batch.starts)

    def numbers_of(self, cell: np.ndarray) -> np.ndarray:
        """int64: the number of each of these cells."""
        cells, where = np.unique(cell, return_inverse=True)
        return np.array([self.number[c] for c in cells.tolist()], np.int64)[where]

    def starts_of(self, cell: np.ndarray) -> np.ndarray:
        """int64: where each of these cells begins in `states`."""
        return self.start[self.numbers_of(cell)]

    def rows_of(self, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64, twice: where the row of each of these cells begins in `ids`, and its tokens."""
        number = self.numbers_of(cell)
        return self.first_token[number], self.length[number]

    def body_means(self, cell: np.ndarray, frame: Frame) -> Any:
        """float64 [cells, width]: mean over all genes of each of these cells."""
        means = []
        numbers, where = np.unique(self.numbers_of(cell), return_inverse=True)
        for start, length in zip(self.start[numbers].tolist(), self.length[numbers].tolist(), strict=True):
            first, last = frame.span(length)
            means.append(self.states[start + first : start + last].double().mean(0))
        return torch.stack(means)[torch.from_numpy(where).to(self.states.device)]
