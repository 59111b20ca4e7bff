"""Rows -> padded batches of like length under a token budget. Their order is private: results go home by `Batch.rows`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rankcell.errors import SettingsError

# On processors what a batch holds should stay in their caches (benchmarks/RESULTS.md); for GPUs nothing was measured yet.
TOKENS_PER_BATCH = {"cpu": 4_096}
TOKENS_PER_BATCH_ELSEWHERE = 32_768


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right to the longest of them.

    rows
        Where each row stands in the caller's order.
    input_ids
        int64 [rows, longest].
    lengths
        int64, tokens per row.
    """

    rows: np.ndarray
    input_ids: np.ndarray
    lengths: np.ndarray

    @property
    def attend(self) -> np.ndarray | None:
        """bool [rows, longest], True where there is a token; None when no row is padded."""
        longest = self.input_ids.shape[1]
        if (self.lengths == longest).all():
            return None
        return np.arange(longest) < self.lengths[:, None]


def default_budget(device_type: str) -> int:
    """Most tokens that a batch holds on a kind of device ("cpu", "cuda", ...) when nothing else is asked for."""
    return TOKENS_PER_BATCH.get(device_type, TOKENS_PER_BATCH_ELSEWHERE)


def plan_batches(lengths: Sequence[int] | np.ndarray, *, tokens_per_batch: int) -> Iterator[np.ndarray]:
    """Row numbers of one batch after the other: longest rows first, each at most `tokens_per_batch` tokens with padding.

    A row longer than the budget makes a batch of its own. The plan depends on lengths and budget alone.
    """
    if tokens_per_batch < 1:
        raise SettingsError(f"tokens_per_batch is {tokens_per_batch}; at least 1")
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, tokens_per_batch // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size


def collate(rows: Sequence[np.ndarray], where: np.ndarray, *, pad: int) -> Batch:
    """Token rows and their places -> a Batch."""
    lengths = np.array([len(r) for r in rows], np.int64)
    ids = np.full((len(rows), int(lengths.max(initial=0))), pad, np.int64)
    for line, row in zip(ids, rows, strict=True):
        line[: len(row)] = row
    return Batch(np.asarray(where), ids, lengths)
