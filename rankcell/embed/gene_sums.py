"""Genes in context: running mean and standard deviation of a gene's state over cells, or over the cells of each group."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from rankcell.model.devices import wide
from rankcell.store import atomic_path


@dataclass
class GeneSums:
    """n, sum and sum of squares (float64) of the states of each gene token, per group of cells, in one pass.

    n_tokens
        How many token numbers there are.
    layers
        {layer as typed: number of blocks}.
    groups
        The group of each cell of the TokenSet as a number, -1 for none; None: one group of all.
    units
        The units of a run that are in the sums, for whoever saves them.
    is_finite
        Whether all states added were finite numbers.

    Memory: n_tokens x width x 16 bytes per group met and layer, whatever the number of cells.
    """

    n_tokens: int
    width: int
    layers: dict[int, int]
    groups: np.ndarray | None = None
    counts: dict[int, np.ndarray] = field(default_factory=dict)
    sums: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    units: set[int] = field(default_factory=set)
    is_finite: bool = True

    def reduced(self, ids: np.ndarray, cells: np.ndarray, states: dict[int, Any]) -> list[tuple[int, np.ndarray, np.ndarray, dict[int, np.ndarray]]]:
        """What some cells add, for `keep`, of each group met: (group, tokens, n, {layer: sums and sums of squares [2, tokens, width]}).

        ids, cells, states
            Gene tokens, the cell of each, and {number of blocks: their states [tokens, width]}.
        """
        group = np.zeros(len(ids), np.int64) if self.groups is None else self.groups[cells]
        added = []
        for g in np.unique(group[group >= 0]).tolist():
            mine = np.flatnonzero(group == g)
            order = mine[np.argsort(ids[mine], kind="stable")]
            tokens, first = np.unique(ids[order], return_index=True)
            sums = {layer: _reduced(states[n], order, first) for layer, n in self.layers.items()}
            added.append((g, tokens, np.diff([*first, len(order)]), sums))
        return added

    def keep(self, added: list[tuple[int, np.ndarray, np.ndarray, dict[int, np.ndarray]]]) -> None:
        """Add what `reduced` gave: all of it, or nothing where memory runs out."""
        new = []
        for g, tokens, n, sums in added:
            counts = self.counts.setdefault(g, np.zeros(self.n_tokens, np.int64))
            new.append((counts, tokens, counts[tokens] + n))
            for layer, values in sums.items():
                total = self.sums.setdefault((g, layer), np.zeros((2, self.n_tokens, self.width)))
                new += [(total[i], tokens, total[i, tokens] + values[i]) for i in (0, 1)]
        for total, tokens, values in new:
            self.is_finite = self.is_finite and bool(np.isfinite(values).all())
            total[tokens] = values

    def mean_sd(self, group: int, layer: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(tokens, n, mean [tokens, width], population standard deviation) of the genes met in a group."""
        counts = self.counts[group]
        tokens = np.flatnonzero(counts)
        total, squares = self.sums[group, layer][:, tokens]
        n = counts[tokens]
        mean = total / n[:, None]
        return tokens, n, mean, np.sqrt(np.maximum(squares / n[:, None] - mean**2, 0))

    def merge(self, other: "GeneSums") -> None:
        """Add the sums of other units."""
        for g, n in other.counts.items():
            self.counts[g] = self.counts[g] + n if g in self.counts else n
        for key, sums in other.sums.items():
            self.sums[key] = self.sums[key] + sums if key in self.sums else sums
        self.units |= other.units

    def save(self, path: str | os.PathLike) -> None:
        """Keep what came of `units`."""
        arrays = {f"n_{g}": n for g, n in self.counts.items()} | {f"s_{g}_{layer}": s for (g, layer), s in self.sums.items()}
        with atomic_path(path, force=True) as part:
            with open(part, "wb") as f:
                np.savez(f, units=np.array(sorted(self.units), np.int64), **arrays)

    def load(self, path: str | os.PathLike) -> None:
        """Take up what was kept, if anything was."""
        if not os.path.exists(path):
            return
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                kind, *numbers = key.split("_")
                if kind == "n":
                    self.counts[int(numbers[0])] = arrays[key]
                elif kind == "s":
                    self.sums[int(numbers[0]), int(numbers[1])] = arrays[key]
            self.units = set(arrays["units"].tolist())


def _reduced(states: Any, order: np.ndarray, first: Sequence[int]) -> np.ndarray:
    """Sums and sums of squares of neighbouring rows of states[order], float64 [2, genes, width]."""
    rows = wide(states[torch.from_numpy(order).to(states.device)])
    lengths = torch.from_numpy(np.diff([*first, len(order)])).to(rows.device)
    sums_and_squares = [torch.segment_reduce(x, "sum", lengths=lengths, axis=0) for x in (rows, rows.square())]
    return torch.stack(sums_and_squares).cpu().numpy()
