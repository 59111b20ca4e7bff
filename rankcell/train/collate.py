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
    attend
        int64 [rows, positions], 1 where there is a token.
    body
        float32 [rows, positions], 1 where a gene or the mask over one stands.
    labels
        int64 [rows, positions]: the gene under a mask, IGNORE elsewhere.
    hidden_bv
        float32 [rows, vocabulary]: the genes of the cell that the row does not show (masked or dropped), summing to 1.
    shown_bv
        bool [rows, vocabulary]: the tokens that the row shows.
    """

    input_ids: np.ndarray
    attend: np.ndarray
    body: np.ndarray
    labels: np.ndarray
    hidden_bv: np.ndarray
    shown_bv: np.ndarray


def length_groups(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches of cells of like length, other cells together each time, in random order."""
    jittered = lengths + rng.uniform(-8, 8, len(lengths))
    batches = np.split(np.argsort(jittered), range(batch_size, len(lengths), batch_size))
    for i in rng.permutation(len(batches)):
        yield batches[i]


def mask_row(
    row: np.ndarray, frame: Frame, *, mask: int, mask_rate: float, drop: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(input row, labels, genes not shown): up to a share `drop` of the genes taken out (the rest closes up), then a share
    `mask_rate` of those left, at least one, replaced by the mask token."""
    first, last = frame.span(len(row))
    genes = row[first:last]
    kept = rng.random(len(genes)) >= rng.uniform(0, drop) if drop else np.ones(len(genes), bool)
    if not kept.any():
        kept[:] = True
    shown = np.concatenate([row[:first], genes[kept], row[last:]])
    chosen = first + rng.choice(int(kept.sum()), max(1, round(mask_rate * int(kept.sum()))), replace=False)
    labels = np.full(len(shown), IGNORE)
    labels[chosen] = shown[chosen]
    masked = shown[chosen].copy()
    shown[chosen] = mask
    return shown, labels, np.concatenate([genes[~kept], masked])


def collate_masked(
    rows: Sequence[np.ndarray], frame: Frame, *, pad: int, mask: int, n_ids: int, mask_rate: float, drop: float, rng: np.random.Generator
) -> MaskedBatch:
    """Rows -> one MaskedBatch (dynamic padding: to the longest row of the batch)."""
    done = [mask_row(r, frame, mask=mask, mask_rate=mask_rate, drop=drop, rng=rng) for r in rows]
    width = max(len(x) for x, _, _ in done)
    ids = np.full((len(rows), width), pad, np.int64)
    labels = np.full((len(rows), width), IGNORE, np.int64)
    hidden = np.zeros((len(rows), n_ids), np.float32)
    for k, (x, y, gone) in enumerate(done):
        ids[k, : len(x)], labels[k, : len(x)] = x, y
        hidden[k, gone] = 1 / len(gone)
    shown = np.zeros((len(rows), n_ids), bool)
    np.put_along_axis(shown, ids, True, axis=1)
    at, lengths = np.arange(width), np.array([len(x) for x, _, _ in done])[:, None]
    attend = (at < lengths).astype(np.int64)
    body = ((at >= len(frame.head)) & (at < lengths - len(frame.tail))).astype(np.float32)
    return MaskedBatch(ids, attend, body, labels, hidden, shown)
