"""The cells of one unit: what is to be computed of them, and the results while they come in."""

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from rankcell.embed.gene_sums import GeneSums
from rankcell.model import Batch, Encoder, collate
from rankcell.model.pools import Output, States
from rankcell.tokens.tokenset import TokenSet
from rankcell.vocab import Frame


@dataclass(frozen=True)
class Work:
    """What a run is to compute: outputs per cell; `gene_layers` {layer as typed: blocks} whose states are kept per gene and
    cell; `sums`, to which the genes' states are added."""

    outputs: list[Output]
    gene_layers: dict[int, int] = field(default_factory=dict)
    sums: GeneSums | None = None

    @property
    def token_blocks(self) -> set[int]:
        """After how many blocks the states of all genes are wanted."""
        return set(self.gene_layers.values()) | (set(self.sums.layers.values()) if self.sums is not None else set())

    @property
    def blocks(self) -> list[int]:
        return sorted({o.n_blocks for o in self.outputs} | self.token_blocks)

    def only(self, frame: Frame) -> list[int] | None:
        """The positions that are all that is read of the last layer; None when it is read whole."""
        last = self.blocks[-1]
        pools = [p for o in self.outputs if o.n_blocks == last for p in o.pools]
        if last in self.token_blocks or any(p.position is None for p in pools):
            return None
        return sorted({p.position(frame) for p in pools})


@dataclass(frozen=True)
class UnitResult:
    """What came of some rows: `cells` {output name: float32 [rows, width]} and `genes` {layer: float32 [genes of all rows, width]}."""

    cells: dict[str, np.ndarray]
    genes: dict[int, np.ndarray]


@dataclass(frozen=True)
class BatchResult:
    """What came of one batch.

    at
        int64 [rows]: where each row stands among those of the unit.
    cells
        {output name: float32 [rows, width]}, on the device.
    genes
        {layer: float32 [genes of all rows, width]}.
    sums
        What GeneSums.reduced gave.
    """

    at: np.ndarray
    cells: dict[str, Any]
    genes: dict[int, np.ndarray]
    sums: list[Any]


class Unit:
    """The results of some rows while they come in, on the device until they are brought home."""

    def __init__(self, encoder: Encoder, tokens: TokenSet, rows: np.ndarray, work: Work):
        self.encoder, self.tokens, self.rows, self.work = encoder, tokens, rows, work
        self._only = work.only(tokens.frame)
        n_genes = np.maximum(tokens.n_genes[rows], 0)
        self._first_gene = np.cumsum(n_genes) - n_genes
        self._genes = {n: np.empty((int(n_genes.sum()), encoder.checkpoint.width), np.float32) for n in work.gene_layers}
        self._order = np.argsort(rows, kind="stable")
        self._done: list[BatchResult] = []

    def compute(self, batch: Batch) -> BatchResult:
        """The results of a batch; nothing is kept."""
        frame, cells, states = self.tokens.frame, {}, {}
        genes = self.encoder.tensor(np.flatnonzero(batch.is_gene(frame))) if self.work.token_blocks else None
        seen = _Attentions() if any(o.needs_attention for o in self.work.outputs) else None
        for n, hidden in self.encoder.walk(batch, self.work.blocks, only=self._only, watch=None if seen is None else seen.add):
            outputs = [o for o in self.work.outputs if o.n_blocks == n]
            if self._only is not None and n == self.work.blocks[-1]:
                picked = hidden.unflatten(0, (len(batch.rows), -1)).float()
                for o in outputs:
                    cells[o.name] = picked[:, [self._only.index(p.position(frame)) for p in o.pools]].flatten(1)
            else:
                cells |= self._pooled(batch, hidden, outputs, seen)
            if n in self.work.token_blocks:
                states[n] = hidden[genes].float()
        at = self._order[np.searchsorted(self.rows, batch.rows, sorter=self._order)]
        return BatchResult(at, cells, {layer: states[n].cpu().numpy() for layer, n in self.work.gene_layers.items()}, self._summed(batch, states))

    def _pooled(self, batch: Batch, hidden: Any, outputs: Sequence[Output], seen: "_Attentions | None") -> dict[str, Any]:
        parts: dict[str, list[Any]] = {o.name: [] for o in outputs}
        for run in batch.runs() if outputs else []:
            states = hidden[run.q : run.q + run.rows * run.n_q].unflatten(0, (run.rows, run.n_q)).float()
            for o in outputs:
                attention = seen.of(run) if o.needs_attention else None
                parts[o.name].append(o.compute(States(states, self.tokens.frame, attention)))
        return {name: torch.cat(values) for name, values in parts.items()}

    def _summed(self, batch: Batch, states: dict[int, Any]) -> list[Any]:
        sums = self.work.sums
        if sums is None:
            return []
        ids = batch.input_ids[batch.is_gene(self.tokens.frame)]
        return sums.reduced(ids, np.repeat(batch.rows, self.tokens.n_genes[batch.rows]), {n: states[n] for n in sums.layers.values()})

    def keep(self, result: BatchResult) -> None:
        """Take the results of a batch in."""
        n_genes = np.maximum(self.tokens.n_genes[self.rows[result.at]], 0)
        if self._genes:
            first = self._first_gene[result.at]
            to = np.concatenate([np.arange(a, a + n) for a, n in zip(first, n_genes, strict=True)])
            for layer, values in result.genes.items():
                self._genes[layer][to] = values
        if self.work.sums is not None:
            self.work.sums.keep(result.sums)
        self._done.append(dataclasses.replace(result, genes={}, sums=[]))

    def home(self) -> UnitResult:
        width = self.encoder.checkpoint.width
        cells = {o.name: np.full((len(self.rows), width * len(o.pools)), np.nan, np.float32) for o in self.work.outputs}
        if self._done:
            at = np.concatenate([result.at for result in self._done])
            for name, values in cells.items():
                values[at] = self.encoder.memory.joined([result.cells[name] for result in self._done])
        return UnitResult(cells, self._genes)


class _Attentions:
    """The largest attention of each row over all heads and all blocks so far."""

    def __init__(self) -> None:
        self._largest: dict[int, Any] = {}

    def add(self, n_blocks: int, run: Any, attention: Any) -> None:
        most = attention.amax(0)
        largest = self._largest.get(run.k)
        self._largest[run.k] = most if largest is None else largest.maximum(most)

    def of(self, run: Any) -> Any:
        return torch.stack([self._largest[run.k + r * run.n_k] for r in range(run.rows)])


def prepared_batches(ahead: ThreadPoolExecutor, tokens: TokenSet, plan: list[np.ndarray]) -> Iterator[Batch]:
    """The batches of a plan, each collated while the model runs on the one before."""

    def make(rows: np.ndarray) -> Batch:
        return collate([tokens.row(i) for i in rows], rows)

    coming = [ahead.submit(make, rows) for rows in plan[:1]]
    for following in [*plan[1:], None]:
        batch = coming.pop().result() if coming else None
        if following is not None:
            coming.append(ahead.submit(make, following))
        if batch is not None:
            yield batch
