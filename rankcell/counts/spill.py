"""Matrices stored by gene, or in no order, turned into rows by way of a scratch file.

The entries are walked once in their order and each is written to the bucket of its row; a bucket is a range of rows with
about BUCKET_ENTRIES entries, and is put in order when it is read. Memory: one walk block and one bucket per reading thread;
disk: 8 bytes and the size of a value per stored entry, in the folder that the system gives for temporary files (TMPDIR). The
file has no name while it is used, so that nothing is left of it however the process ends.
"""

import os
import tempfile
from collections.abc import Callable, Iterator

import numpy as np

from rankcell.counts.matrix import Matrix, Rows, Vector, check_indices, check_pointers
from rankcell.errors import InputError
from rankcell.store import writing

BUCKET_ENTRIES = 1_000_000
WALK_ENTRIES = 1_000_000

Entries = tuple[np.ndarray, np.ndarray, np.ndarray]  # rows, columns, values of the same entries


class SpilledMatrix(Matrix):
    """Rows of a matrix that is walked in another order.

    walk
        Gives all entries as (rows, columns, values), block by block, the same ones each time; rows and columns int32 and
        within `shape`. It is called twice: to count, and to sort.
    """

    def __init__(self, walk: Callable[[], Iterator[Entries]], shape: tuple[int, int], dtype: np.dtype, head: Callable[[], np.ndarray]):
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._walk, self.head = walk, head
        self._file: int | None = None
        self._record = np.dtype([("row", np.int32), ("column", np.int32), ("value", self.dtype)])

    def ranges(self, rows_per_block: int | None = None) -> list[tuple[int, int]]:
        if self._file is None:
            self._sort()
        if not rows_per_block:
            return [(int(a), int(b)) for a, b in zip(self._edges[:-1], self._edges[1:], strict=True)]
        inside = set(range(0, self.shape[0], rows_per_block)) | set(self._edges.tolist())
        edges = sorted(inside)
        return list(zip(edges[:-1], edges[1:], strict=True))

    def rows(self, a: int, b: int) -> Rows:
        if self._file is None:
            self._sort()
        from rankcell.counts.kernels import place

        bucket = int(np.searchsorted(self._edges, a, side="right")) - 1
        first = int(self._edges[bucket])
        if b > self._edges[bucket + 1]:
            raise ValueError(f"rows {a} to {b} are in two buckets")
        entries = self._read(bucket)
        pointers = self._pointers[first : self._edges[bucket + 1] + 1] - self._pointers[first]
        indices, data = np.empty(len(entries), np.int32), np.empty(len(entries), self.dtype)
        place(entries["row"] - np.int32(first), entries["column"], entries["value"], pointers[:-1].copy(), indices, data)
        lo, hi = pointers[a - first], pointers[b - first]
        return pointers[a - first : b - first + 1] - lo, indices[lo:hi], data[lo:hi]

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _sort(self) -> None:
        """Count the entries of every row, then write each entry to the bucket of its row."""
        from rankcell.counts.kernels import add_ones

        in_row = np.zeros(self.shape[0], np.int64)
        for rows, _, _ in self._walk():
            add_ones(rows, in_row)
        self._pointers = np.concatenate([[0], np.cumsum(in_row)])
        self._edges = _bucket_edges(self._pointers)
        scratch = _scratch_file()
        try:
            with writing("a scratch file in " + tempfile.gettempdir()):
                self._fill(scratch)
        except BaseException:
            os.close(scratch)
            raise
        self._file = scratch

    def _fill(self, scratch: int) -> None:
        at = self._pointers[self._edges[:-1]].copy()  # where the next entry of each bucket goes
        bucket_of_row = np.repeat(np.arange(len(at), dtype=np.int32), np.diff(self._edges))
        for rows, columns, values in self._walk():
            bucket = bucket_of_row[rows]
            order = np.argsort(bucket, kind="stable")
            entries = np.empty(len(rows), self._record)
            entries["row"], entries["column"], entries["value"] = rows[order], columns[order], values[order]
            n = np.bincount(bucket, minlength=len(at))
            start = np.concatenate([[0], np.cumsum(n)])
            for k in np.flatnonzero(n):
                _write_all(scratch, entries[start[k] : start[k + 1]], int(at[k]) * self._record.itemsize)
            at += n

    def _read(self, bucket: int) -> np.ndarray:
        lo, hi = (int(self._pointers[self._edges[bucket + k]]) for k in (0, 1))
        raw = os.pread(self._file, (hi - lo) * self._record.itemsize, lo * self._record.itemsize)
        if len(raw) != (hi - lo) * self._record.itemsize:
            raise OSError("the scratch file was cut short")
        return np.frombuffer(raw, self._record)


def _scratch_file() -> int:
    """A file descriptor of a file without a name."""
    with writing("a scratch file in " + tempfile.gettempdir()):
        handle, path = tempfile.mkstemp(prefix="rankcell-")
        os.unlink(path)
    return handle


def _write_all(handle: int, entries: np.ndarray, at: int) -> None:
    raw = memoryview(np.ascontiguousarray(entries)).cast("B")
    while len(raw):
        n = os.pwrite(handle, raw, at)
        raw, at = raw[n:], at + n


def _bucket_edges(pointers: np.ndarray) -> np.ndarray:
    """Row numbers between which there are about BUCKET_ENTRIES entries, at least one row each."""
    edges, n = [0], len(pointers) - 1
    while edges[-1] < n:
        stop = int(np.searchsorted(pointers, pointers[edges[-1]] + BUCKET_ENTRIES, side="right")) - 1
        edges.append(min(n, max(stop, edges[-1] + 1)))
    return np.array(edges, np.int64)


def csc_matrix(indptr: np.ndarray, indices: Vector, data: Vector, n_cells: int) -> SpilledMatrix:
    """A matrix stored by gene (compressed sparse columns)."""
    pointers = check_pointers(indptr, min(len(indices), len(data)))
    if data.dtype.kind not in "biuf":
        raise InputError(f"it holds {data.dtype}, not numbers")

    def walk() -> Iterator[Entries]:
        for a in range(0, int(pointers[-1]), WALK_ENTRIES):
            b = min(a + WALK_ENTRIES, int(pointers[-1]))
            first, last = (int(np.searchsorted(pointers, k, side="right")) - 1 for k in (a, b - 1))
            n = np.diff(np.clip(pointers[first : last + 2], a, b))
            columns = np.repeat(np.arange(first, last + 1, dtype=np.int32), n)
            yield check_indices(indices.read(a, b), n_cells, "row"), columns, data.read(a, b)

    return SpilledMatrix(walk, (n_cells, len(pointers) - 1), data.dtype, lambda: data.read(0, min(100_000, len(data))))
