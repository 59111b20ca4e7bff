"""Survey of all cells before any work: edits and tokens of each cell, and how common each target is. Block by block."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rankcell.perturb.edits.kinds import KINDS
from rankcell.perturb.edits.plan import EditPlan
from rankcell.tokens.tokenset import TokenSet
from rankcell.vocab import Vocabulary

PER_CELL = 10_000.0  # counts that `expression` scales a cell to
_BLOCK = 2**26  # bytes of a table of cells x genes


@dataclass(frozen=True)
class Survey:
    """Edits and tokens of each cell of a screen, and detection, rank and expression of each target.

    edits
        int64 [cells]: rows that each cell will have.
    tokens
        int64 [cells]: tokens that go through the model for them, all passes (the edit's own change of length aside).
    cells_per_target
        int64 [targets]: cells that hold all genes of a target.
    mean_rank
        [targets]: of a target's first gene, in the cells that hold it; NaN where none does.
    expression
        [targets]: mean over all cells, and over the target's genes, of log1p(10,000 * count / n_counts); None without counts.
    """

    edits: np.ndarray
    tokens: np.ndarray
    cells_per_target: np.ndarray
    mean_rank: np.ndarray
    expression: np.ndarray | None

    @classmethod
    def of(cls, tokens: TokenSet, rows: np.ndarray, plan: EditPlan, vocab: Vocabulary) -> "Survey":
        edits = np.zeros(len(rows), np.int64)
        cells_per_target = np.zeros(len(plan.targets), np.int64)
        n, ranks, logs = (np.zeros(vocab.n_ids) for _ in range(3))
        for a, block in _blocks(tokens, rows, vocab):
            target_counts = _count_targets(plan, block)
            cells_per_target += target_counts.cells_per_target
            edits[a : a + block.n_cells] = _count(plan, tokens, rows[a : a + block.n_cells], block, target_counts)
            n += np.bincount(block.token, minlength=vocab.n_ids)
            ranks += np.bincount(block.token, block.rank, vocab.n_ids)
            if block.logs is not None:
                logs += np.bincount(block.token, block.logs, vocab.n_ids)
        first = plan.genes[:, 0]
        with np.errstate(invalid="ignore"):
            mean_rank = ranks[first] / n[first]
        is_gene = plan.genes >= 0
        levels = np.where(is_gene, logs[plan.genes], 0).sum(1) / is_gene.sum(1) / max(1, len(rows)) if tokens.has_counts else None
        return cls(edits, edits * tokens.lengths[rows] * len(plan.passes), cells_per_target, mean_rank, levels)

    def edges(self, tokens_per_unit: int) -> list[int]:
        """Where the units of work begin, and the end: whole cells of about so many tokens each."""
        unit = (np.cumsum(self.tokens) - self.tokens) // tokens_per_unit
        return [*np.flatnonzero(np.diff(unit, prepend=-1)).tolist(), len(self.tokens)]

    def edits_table(self, plan: EditPlan, vocab: Vocabulary) -> pa.Table:
        """The table of edits: one row per target, those too that no cell holds."""
        genes, n_cells = plan.names(vocab), len(self.edits)
        none = pa.nulls(len(genes), pa.float64())
        return pa.table(
            {
                "edit": pa.array(plan.ids(vocab), pa.string()),
                "kind": pa.array([plan.kind] * len(genes), pa.string()),
                "genes": pa.array(genes, pa.string()),
                "symbols": pa.array(plan.labels(vocab), pa.string()),
                "n_cells": pa.array(self.cells_per_target),
                "detection": pa.array(self.cells_per_target / max(1, n_cells)),
                "expression": none if self.expression is None else pa.array(self.expression),
                "mean_rank": pa.array(self.mean_rank, from_pandas=True),
            }
        )


def tokens_of_rows(n: int, lengths: np.ndarray, plan: EditPlan) -> int:
    """Estimate the tokens through the model for `n` edits of cells with rows of these lengths."""
    return int(n * lengths.mean() * len(plan.passes)) if len(lengths) else 0


@dataclass(frozen=True)
class _Block:
    """Neighbouring cells: which gene tokens they show, bool [cells, tokens + 1] (the last column for places that name none), and
    token, rank and log expression of every gene of every cell (a gene that stands twice: its first place). `top`: the token of rank 0,
    -1 where it stands in the row again."""

    n_cells: int
    shows: np.ndarray
    cell: np.ndarray
    token: np.ndarray
    rank: np.ndarray
    logs: np.ndarray | None
    top: np.ndarray


def _blocks(tokens: TokenSet, rows: np.ndarray, vocab: Vocabulary) -> Iterator[tuple[int, _Block]]:
    size = max(1, _BLOCK // (vocab.n_ids + 1))
    for a in range(0, len(rows), size):
        part = rows[a : a + size]
        genes = [tokens.genes(int(i)) for i in part]
        lengths = np.array([len(g) for g in genes])
        cell, token = np.repeat(np.arange(len(part)), lengths), np.concatenate(genes)
        rank = np.arange(len(token)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        shows = np.zeros((len(part), vocab.n_ids + 1), bool)
        shows[cell, token] = True
        logs = None
        if tokens.has_counts:
            counts = np.concatenate([tokens.frame.body(tokens.counts(int(i))) for i in part]).astype(np.float64)
            logs = np.log1p(counts * (PER_CELL / vocab.target_sum))
        top = np.array([g[0] if len(g) else -1 for g in genes])
        if int(shows.sum()) < len(token):  # some gene stands in a row more than once
            _, once = np.unique(cell * (vocab.n_ids + 1) + token, return_index=True)
            top = np.array([-1 if (g[1:] == g[:1]).any() else t for g, t in zip(genes, top, strict=True)])
            cell, token, rank, logs = cell[once], token[once], rank[once], None if logs is None else logs[once]
        yield a, _Block(len(part), shows, cell, token, rank, logs, top)


_FEW_GENES = 4  # of a target, up to which a table of all targets is looked up at once


@dataclass(frozen=True)
class _TargetCounts:
    """Counts over the targets and cells of a block, int64.

    cells_per_target
        [targets]: cells that hold all genes of a target.
    complete_per_cell, partial_per_cell
        [cells]: targets of which a cell holds all genes, and any gene.
    """

    cells_per_target: np.ndarray
    complete_per_cell: np.ndarray
    partial_per_cell: np.ndarray


def _count_targets(plan: EditPlan, block: _Block) -> _TargetCounts:
    """Count the cells that hold each target, and the targets that each cell holds."""
    genes, shows = plan.genes, block.shows
    if genes.shape[1] == 1:
        is_target = np.zeros(shows.shape[1], bool)
        is_target[genes[:, 0]] = True
        complete = np.bincount(block.cell, is_target[block.token], block.n_cells).astype(np.int64)
        return _TargetCounts(np.bincount(block.token, minlength=shows.shape[1])[genes[:, 0]], complete, complete)
    total, complete, partial = np.zeros(len(genes), np.int64), np.zeros(len(shows), np.int64), np.zeros(len(shows), np.int64)
    if genes.shape[1] > _FEW_GENES:  # most of a table of sets is empty
        for i in range(len(shows)):
            n_shown = plan.n_shown(np.flatnonzero(shows[i, :-1]))
            total += n_shown == plan.sizes
            complete[i], partial[i] = (n_shown == plan.sizes).sum(), (n_shown > 0).sum()
        return _TargetCounts(total, complete, partial)
    size = max(1, _BLOCK // (len(shows) * genes.shape[1]))
    for a in range(0, len(genes), size):
        batch = genes[a : a + size]
        here = shows[:, batch]  # -1 reads the last column, which shows nothing
        has_all, has_any = (here | (batch < 0)).all(2), here.any(2)
        total[a : a + size] = has_all.sum(0)
        complete += has_all.sum(1)
        partial += has_any.sum(1)
    return _TargetCounts(total, complete, partial)


def _count(plan: EditPlan, tokens: TokenSet, rows: np.ndarray, block: _Block, target_counts: _TargetCounts) -> np.ndarray:
    """Edits of each cell, int64 [cells]; row by row only where a kind has edits that may change nothing."""
    kind = KINDS[plan.kind]
    if kind.is_noop is None and not kind.inserts:
        return target_counts.complete_per_cell if plan.need_all or plan.genes.shape[1] == 1 else target_counts.partial_per_cell
    if kind.inserts and plan.genes.shape[1] == 1:
        n_targets = target_counts.complete_per_cell if plan.every_gene else len(plan.targets)
        return n_targets - np.isin(block.top, plan.genes[:, 0])  # the top gene is there already
    return np.array([plan.count(tokens.row(int(i))) for i in rows], np.int64)
