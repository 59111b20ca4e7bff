"""Rows -> packed batches under a token budget: rows stand end to end, so that nothing is padded. Results go home by `Batch.rows`."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rankcell.errors import SettingsError
from rankcell.vocab import Frame
from rankcell.wording import option

# On processors what a batch holds should stay in their caches (benchmarks/RESULTS.md).
TOKENS_PER_BATCH = 4_096


class Run(NamedTuple):
    """Neighbouring rows of a batch that have equally many queries and equally many keys: they go through attention at once.

    rows
        How many rows.
    n_q, n_k
        Queries and keys of each.
    q, k
        Where the first row's queries and keys begin among all of the batch.
    """

    rows: int
    n_q: int
    n_k: int
    q: int
    k: int


class _RowsEndToEnd:
    """Where rows begin and end; `lengths` and `n_keys`: int64 [rows], tokens of each, and how many of them may be attended to."""

    lengths: np.ndarray
    n_keys: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """int64 [rows]: where each row begins in `input_ids`."""
        return np.cumsum(self.lengths) - self.lengths

    def runs(self, n_queries: int | None = None) -> list[Run]:
        """The rows cut into runs; `n_queries`: queries per row where not all tokens ask."""
        queries = self.lengths if n_queries is None else np.full(len(self.lengths), n_queries)
        return runs_of(queries, self.n_keys)


@dataclass(frozen=True)
class Batch(_RowsEndToEnd):
    """Rows end to end.

    rows
        Where each row stands in the caller's order.
    input_ids
        int64 [tokens of all rows].
    lengths
        int64, tokens per row.
    attend
        bool [tokens], which tokens may be attended to; None for all. Positions are counted over the whole row, attended
        or not.
    """

    rows: np.ndarray
    input_ids: np.ndarray
    lengths: np.ndarray
    attend: np.ndarray | None = None

    @property
    def positions(self) -> np.ndarray:
        """int64 [tokens]: the place of each token in its row, from 0."""
        return np.arange(len(self.input_ids)) - np.repeat(self.starts, self.lengths)

    def is_gene(self, frame: Frame) -> np.ndarray:
        """bool [tokens]: where genes stand."""
        place, length = self.positions, np.repeat(self.lengths, self.lengths)
        return (place >= len(frame.head)) & (place < length - len(frame.tail))

    @property
    def n_keys(self) -> np.ndarray:
        """int64, tokens per row that may be attended to."""
        if self.attend is None:
            return self.lengths
        seen = np.concatenate([[0], np.cumsum(self.attend)])
        return seen[self.starts + self.lengths] - seen[self.starts]

    def packed(self, tensor: Callable[[np.ndarray], Any]) -> "Packed":
        """The same on a device; `tensor` brings an array there."""
        keys = None if self.attend is None else tensor(np.flatnonzero(self.attend))
        return Packed(tensor(self.input_ids), tensor(self.positions), self.lengths, self.n_keys, keys)

    def taken(self, at: np.ndarray) -> "Batch":
        """The rows `at` of these, in that order."""
        if np.array_equal(at, np.arange(len(self.lengths))):
            return self
        ends = self.starts + self.lengths
        tokens = np.concatenate([np.empty(0, np.int64), *(np.arange(self.starts[i], ends[i]) for i in at)])
        attend = None if self.attend is None else self.attend[tokens]
        return Batch(self.rows[at], self.input_ids[tokens], self.lengths[at], attend)

    def padded(self, pad: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows under each other for other models: int64 and bool [rows, longest], tokens and where there are any."""
        here = np.arange(int(self.lengths.max(initial=0))) < self.lengths[:, None]
        ids = np.full(here.shape, pad, np.int64)
        ids[here] = self.input_ids
        return ids, here


@dataclass(frozen=True)
class Packed(_RowsEndToEnd):
    """Rows end to end on a device.

    input_ids, positions
        int64 tensors [tokens]: token numbers, and the place of each in its row, from 0.
    lengths, n_keys
        int64 [rows]: tokens of each row, and how many of them may be attended to.
    keys
        int64 tensor [tokens that may be attended to]: where they stand in `input_ids`; None for all.
    """

    input_ids: Any
    positions: Any
    lengths: np.ndarray
    n_keys: np.ndarray
    keys: Any = None


def runs_of(n_q: np.ndarray, n_k: np.ndarray) -> list[Run]:
    """Neighbouring rows of equal shape, together."""
    n = len(n_q)
    edges = [0, *(np.flatnonzero((np.diff(n_q) != 0) | (np.diff(n_k) != 0)) + 1).tolist(), n] if n else [0]
    q, k = np.cumsum(n_q) - n_q, np.cumsum(n_k) - n_k
    return [Run(b - a, int(n_q[a]), int(n_k[a]), int(q[a]), int(k[a])) for a, b in itertools.pairwise(edges)]


def plan_batches(lengths: Sequence[int] | np.ndarray, *, tokens_per_batch: int) -> Iterator[np.ndarray]:
    """Row numbers of one batch after the other: longest rows first, each at most `tokens_per_batch` tokens.

    A row longer than the budget makes a batch of its own. The plan depends on lengths and budget alone.
    """
    if tokens_per_batch < 1:
        raise SettingsError(f"{option('tokens_per_batch')} is {tokens_per_batch}; at least 1")
    lengths = np.maximum(np.asarray(lengths, np.int64), 1)
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    start = 0
    while start < len(order):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + tokens_per_batch, side="right")))
        yield order[start:stop]
        start = stop


def collate(rows: Sequence[np.ndarray], where: np.ndarray, attend: Sequence[np.ndarray] | None = None) -> Batch:
    """Token rows and their places (and which of their tokens may be attended to) -> a Batch."""
    lengths = np.array([len(r) for r in rows], np.int64)
    ids = np.concatenate([np.empty(0, np.int64), *rows]).astype(np.int64)
    return Batch(np.asarray(where), ids, lengths, None if attend is None else np.concatenate(attend))
