"""Token rows -> training batches: genes dropped, genes masked, batches of cells of like length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rankcell.vocab import Frame

IGNORE = -100


@dataclass(frozen=True)
class MaskedBatch:
    """Rows with some genes masked, padded on the right.

    input_ids
        int64 [rows, positions].
    position_ids
        int64 [rows, positions]: where each token stands in its row; not consecutive where only some genes of a row are read.
    attend
        int64 [rows, positions], 1 where there is a token.
    body
        float32 [rows, positions], 1 where a gene or the mask over one stands.
    labels
        int64 [rows, positions]: the gene under a mask, IGNORE elsewhere.
    hidden_bv
        float32 [rows, vocabulary]: the genes of the cell that the row does not show (masked or dropped), summing to 1.
    excluded_bv
        bool [rows, vocabulary]: the tokens that are no candidates for a masked gene (`excluded_tokens`).
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    attend: np.ndarray
    body: np.ndarray
    labels: np.ndarray
    hidden_bv: np.ndarray
    excluded_bv: np.ndarray


def length_groups(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches of cells of like length, other cells together each time, in random order."""
    jittered = lengths + rng.uniform(-8, 8, len(lengths))
    batches = np.split(np.argsort(jittered), range(batch_size, len(lengths), batch_size))
    for i in rng.permutation(len(batches)):
        yield batches[i]


@dataclass(frozen=True)
class MaskedRow:
    """One row as a model is to read it: `shown` (tokens), `positions` and `labels` of the same length, and the genes `hidden`."""

    shown: np.ndarray
    positions: np.ndarray
    labels: np.ndarray
    hidden: np.ndarray


@dataclass(frozen=True)
class Masking:
    """How rows are hidden from a model: `mask` is the token; shares and numbers as in rankcell.train.recipe.Recipe."""

    mask: int
    mask_rate: float
    drop: float = 0.0
    row_genes: int = 0

    def apply(self, row: np.ndarray, frame: Frame, rng: np.random.Generator) -> MaskedRow:
        """Take up to a share `drop` of the genes out (the rest closes up), read `row_genes` of those left at their positions, and
        replace a share `mask_rate` of these, at least one, by the mask token."""
        first, last = frame.span(len(row))
        genes = row[first:last]
        present = rng.random(len(genes)) >= rng.uniform(0, self.drop) if self.drop else np.ones(len(genes), bool)
        if not present.any():
            present[:] = True
        closed, ranks = genes[present], np.arange(int(present.sum()))
        if 0 < self.row_genes < len(ranks):
            ranks = np.sort(rng.choice(len(ranks), self.row_genes, replace=False))
        read = np.concatenate([row[:first], closed[ranks], row[last:]])
        tail = first + len(closed) + np.arange(len(row) - last)
        positions = np.concatenate([np.arange(first), first + ranks, tail])
        chosen = first + rng.choice(len(ranks), max(1, round(self.mask_rate * len(ranks))), replace=False)
        labels = np.full(len(read), IGNORE)
        labels[chosen] = read[chosen]
        unread = np.delete(closed, ranks)
        hidden = np.concatenate([genes[~present], unread, read[chosen]])
        read[chosen] = self.mask
        return MaskedRow(read, positions, labels, hidden)


def excluded_tokens(ids: np.ndarray, pad: int, n_ids: int) -> np.ndarray:
    """The tokens that are no candidates for the masked genes of padded rows, bool [rows, n_ids]: those that the row shows, as a cell
    shows a gene once, and padding, which a row has or lacks by the length of the others in its batch.

    A row with masked genes shows `<mask>`, and the rows of a token set show `<cls>` and `<eos>` all or not at all: these need no rule.
    """
    excluded = np.zeros((len(ids), n_ids), bool)
    np.put_along_axis(excluded, ids, True, axis=1)
    excluded[:, pad] = True
    return excluded


def collate_masked(
    rows: Sequence[np.ndarray], frame: Frame, masking: Masking, *, pad: int, n_ids: int, rng: np.random.Generator
) -> MaskedBatch:
    """Rows -> one MaskedBatch (dynamic padding: to the longest row of the batch)."""
    masked = [masking.apply(row, frame, rng) for row in rows]
    width = max(len(row.shown) for row in masked)
    ids = np.full((len(rows), width), pad, np.int64)
    positions = np.zeros((len(rows), width), np.int64)
    labels = np.full((len(rows), width), IGNORE, np.int64)
    hidden = np.zeros((len(rows), n_ids), np.float32)
    for k, row in enumerate(masked):
        n = len(row.shown)
        ids[k, :n], positions[k, :n], labels[k, :n] = row.shown, row.positions, row.labels
        hidden[k, row.hidden] = 1 / len(row.hidden)
    at, lengths = np.arange(width), np.array([len(row.shown) for row in masked])[:, None]
    attend = (at < lengths).astype(np.int64)
    body = ((at >= len(frame.head)) & (at < lengths - len(frame.tail))).astype(np.float32)
    return MaskedBatch(ids, positions, attend, body, labels, hidden, excluded_tokens(ids, pad, n_ids))
