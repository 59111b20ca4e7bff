"""The cells of one unit: what is to be computed of them, and the results while they come in."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rankcell.embed.gene_sums import GeneSums
from rankcell.embed.pools import Output, States
from rankcell.model import Batch, Encoder
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


class Unit:
    """The results of some rows while they come in, on the device until they are brought home."""

    def __init__(self, encoder: Encoder, tokens: TokenSet, rows: np.ndarray, work: Work):
        import torch

        self.encoder, self.tokens, self.rows, self.work = encoder, tokens, rows, work
        self._only = work.only(tokens.frame)
        width = encoder.checkpoint.width
        empty = {"dtype": torch.float32, "device": encoder.device}
        self._cells = {o.name: torch.full((len(rows), width * len(o.pools)), torch.nan, **empty) for o in work.outputs}
        n_genes = np.maximum(tokens.n_genes[rows], 0)
        self._first_gene = np.cumsum(n_genes) - n_genes
        self._genes = {n: np.empty((int(n_genes.sum()), width), np.float32) for n in work.gene_layers}

    def add(self, batch: Batch) -> None:
        frame, kept = self.tokens.frame, {}
        at = np.searchsorted(self.rows, batch.rows) if self._is_sorted else [int(np.flatnonzero(self.rows == r)[0]) for r in batch.rows]
        home = self.encoder.tensor(np.asarray(at, np.int64))
        genes = self.encoder.tensor(np.flatnonzero(batch.is_gene(frame))) if self.work.token_blocks else None
        seen = _Attentions() if any(o.needs_attention for o in self.work.outputs) else None
        for n, hidden in self.encoder.walk(batch, self.work.blocks, only=self._only, watch=None if seen is None else seen.add):
            outputs = [o for o in self.work.outputs if o.n_blocks == n]
            if self._only is not None and n == self.work.blocks[-1]:
                picked = hidden.unflatten(0, (len(batch.rows), -1)).float()
                for o in outputs:
                    where = [self._only.index(p.position(frame)) for p in o.pools]
                    self._cells[o.name][home] = picked[:, where].flatten(1)
            else:
                self._pool(batch, hidden, outputs, home, seen)
            if n in self.work.token_blocks:
                kept[n] = hidden[genes].float()
        self._keep_genes(batch, at, kept)

    @property
    def _is_sorted(self) -> bool:
        return bool((np.diff(self.rows) > 0).all())

    def _pool(self, batch: Batch, hidden: Any, outputs: list[Output], home: Any, seen: "_Attentions | None") -> None:
        done = 0
        for run in batch.runs() if outputs else []:
            states = hidden[run.q : run.q + run.rows * run.n_q].unflatten(0, (run.rows, run.n_q)).float()
            for o in outputs:
                attention = seen.of(run) if o.needs_attention else None
                self._cells[o.name][home[done : done + run.rows]] = o.compute(States(states, self.tokens.frame, attention))
            done += run.rows

    def _keep_genes(self, batch: Batch, at: Sequence[int], kept: dict[int, Any]) -> None:
        n_genes = self.tokens.n_genes[batch.rows]
        if self._genes:
            to = np.concatenate([np.arange(self._first_gene[i], self._first_gene[i] + n) for i, n in zip(at, n_genes, strict=True)])
            for layer, n in self.work.gene_layers.items():
                self._genes[layer][to] = kept[n].cpu().numpy()
        if self.work.sums is not None:
            ids = batch.input_ids[batch.is_gene(self.tokens.frame)]
            self.work.sums.add(ids, np.repeat(batch.rows, n_genes), {n: kept[n] for n in self.work.sums.layers.values()})

    def home(self) -> UnitResult:
        return UnitResult({name: values.cpu().numpy() for name, values in self._cells.items()}, self._genes)


class _Attentions:
    """The largest attention of each row over all heads and all blocks so far."""

    def __init__(self) -> None:
        self._held: dict[int, Any] = {}

    def add(self, n_blocks: int, run: Any, attention: Any) -> None:
        most = attention.amax(0)
        held = self._held.get(run.k)
        self._held[run.k] = most if held is None else held.maximum(most)

    def of(self, run: Any) -> Any:
        import torch

        return torch.stack([self._held[run.k + r * run.n_k] for r in range(run.rows)])
