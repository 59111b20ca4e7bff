"""Cells before any edit: their states, which each edit is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankcell.model import collate
from rankcell.model.finite import require_finite
from rankcell.vocab import Frame


@dataclass(frozen=True)
class Baseline:
    """Cells before any edit, end to end.

    states
        float32 [tokens, width]; [cells, width], of CLS, where that alone is read.
    ids
        int64 [tokens].
    start, length
        {cell: where it begins in `states`}, {cell: its tokens}.
    """

    states: Any
    ids: np.ndarray
    start: dict[int, int]
    length: dict[int, int]

    @classmethod
    def of(cls, engine: Any, rows: Sequence[np.ndarray], cells: np.ndarray) -> "Baseline":
        """States of `rows`, of the cells with these numbers, by an Engine; ModelError where they are not finite."""
        batch = collate(rows, cells)
        states = engine.states_of(batch)
        require_finite(bool(states.isfinite().all()), engine.encoder.precision)
        start = range(len(rows)) if engine.reads_cls_alone else batch.starts.tolist()
        names = cells.tolist()
        return cls(states, batch.input_ids, dict(zip(names, start, strict=True)), dict(zip(names, batch.lengths.tolist(), strict=True)))

    def starts_of(self, cell: np.ndarray) -> np.ndarray:
        """int64: where each of these cells begins."""
        cells, where = np.unique(cell, return_inverse=True)
        return np.array([self.start[c] for c in cells.tolist()], np.int64)[where]

    def body_means(self, cell: np.ndarray, frame: Frame) -> Any:
        """float64 [cells, width]: mean over all genes of each of these cells."""
        import torch

        means = []
        cells, where = np.unique(cell, return_inverse=True)
        for c in cells.tolist():
            first, last = frame.span(self.length[c])
            means.append(self.states[self.start[c] + first : self.start[c] + last].double().mean(0))
        return torch.stack(means)[torch.from_numpy(where).to(self.states.device)]
