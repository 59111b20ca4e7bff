"""Matrices stored by gene, or in no order, turned into rows by way of scratch files.

The entries are walked in their order and each is written to the bucket of its row; a bucket is a range of rows with about
BUCKET_ENTRIES entries, and is put in order when it is read. What can be walked only once at a bearable price (text) is kept in
scratch files first, and read from there when it turns out to be in the order of its rows. Memory: one walk block and one
bucket per reading thread; disk: 8 bytes and the size of a value per stored entry (twice that while text without order is
sorted), in the folder that the system gives for temporary files (TMPDIR). The files have no names while they are used, so that
nothing is left of them however the process ends.
"""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rankcell.counts.matrix import DenseMatrix, Matrix, Rows, Vector, check_indices, check_pointers, dense_rows, plain_dtype
from rankcell.errors import OF_A_PART, InputError
from rankcell.store import writing

BUCKET_ENTRIES = 1_000_000
WALK_ENTRIES = 1_000_000
MOST_TOGETHER = 1 << 25  # values of a dense matrix that are read at once

Entries = tuple[np.ndarray, np.ndarray, np.ndarray]  # rows, columns, values of the same entries


class SpilledMatrix(Matrix):
    """Rows of a matrix that is walked in another order.

    walk
        Gives all entries as (rows, columns, values), block by block, the same ones each time; rows and columns int32 and
        within `shape`.
    head
        See Matrix.
    walk_rows
        Gives the rows alone, when that is cheaper: they are counted first.
    once
        Walk only once, by way of more scratch files.
    """

    def __init__(
        self,
        walk: Callable[[], Iterator[Entries]],
        shape: tuple[int, int],
        dtype: np.dtype,
        *,
        head: Callable[[], np.ndarray],
        walk_rows: Callable[[], Iterator[np.ndarray]] | None = None,
        once: bool = False,
    ):
        if np.dtype(dtype).kind not in "biuf":
            raise InputError(f"it holds {dtype}, not numbers", of=OF_A_PART)
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.head, self._walk, self._once = head, walk, once
        self._walk_rows = walk_rows or (lambda: (rows for rows, _, _ in walk()))
        self._scratch: _Scratch | None = None
        self._in_order = False
        self._lock = threading.Lock()

    def ranges(self, rows_per_block: int | None = None) -> list[tuple[int, int]]:
        self._sort()
        edges = sorted({*range(0, self.shape[0], rows_per_block or self.shape[0] or 1), *self._edges.tolist()})
        return list(zip(edges[:-1], edges[1:], strict=True))

    def rows(self, a: int, b: int) -> Rows:
        scratch = self._sort()
        lo, hi = (int(self._pointers[k]) for k in (a, b))
        if self._in_order:
            return self._pointers[a : b + 1] - lo, scratch.read(1, lo, hi), scratch.read(2, lo, hi)
        from rankcell.counts.kernels import place

        bucket = int(np.searchsorted(self._edges, a, side="right")) - 1
        first, last = (int(self._edges[bucket + k]) for k in (0, 1))
        if b > last:
            raise ValueError(f"rows {a} to {b} are in two buckets")
        start, stop = (int(self._pointers[k]) for k in (first, last))
        rows, columns, values = (scratch.read(k, start, stop) for k in range(3))
        pointers = self._pointers[first : last + 1] - start
        indices, data = np.empty_like(columns), np.empty_like(values)
        place(rows - np.int32(first), columns, as_bits(values), pointers[:-1].copy(), indices, as_bits(data))
        return self._pointers[a : b + 1] - lo, indices[lo - start : hi - start], data[lo - start : hi - start]

    def close(self) -> None:
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None

    def _sort(self) -> "_Scratch":
        """The scratch files, made when they are first needed."""
        with self._lock:
            if self._scratch is None:
                self._scratch = self._spool_and_sort() if self._once else self._count_and_fill(self._walk, self._walk_rows)
            return self._scratch

    def _spool_and_sort(self) -> "_Scratch":
        spool = _Scratch(self.dtype)
        try:
            self._in_order = spool.take(self._walk())
            walk_rows: Callable = lambda: (spool.read(0, a, b) for a, b in spool.pieces())  # noqa: E731
            if self._in_order:
                self._count(walk_rows)
                return spool
            scratch = self._count_and_fill(lambda: ((spool.read(k, a, b) for k in range(3)) for a, b in spool.pieces()), walk_rows)
        except BaseException:
            spool.close()
            raise
        spool.close()
        return scratch

    def _count(self, walk_rows: Callable[[], Iterator[np.ndarray]]) -> None:
        from rankcell.counts.kernels import add_ones

        in_row = np.zeros(self.shape[0], np.int64)
        for rows in walk_rows():
            add_ones(rows, in_row)
        self._pointers = np.concatenate([[0], np.cumsum(in_row)])
        self._edges = _bucket_edges(self._pointers)

    def _count_and_fill(self, walk: Callable[[], Iterator[Any]], walk_rows: Callable[[], Iterator[np.ndarray]]) -> "_Scratch":
        """Count the entries of every row, then write each entry to the bucket of its row."""
        from rankcell.counts.kernels import count_buckets, to_buckets

        self._count(walk_rows)
        at = self._pointers[self._edges[:-1]].copy()  # where the next entry of each bucket goes
        bucket_of_row = np.repeat(np.arange(len(at), dtype=np.int32), np.diff(self._edges))
        scratch = _Scratch(self.dtype)
        try:
            for rows, columns, values in walk():
                n = np.zeros(len(at), np.int64)
                count_buckets(bucket_of_row, rows, n)
                if (at + n > self._pointers[self._edges[1:]]).any():
                    raise OSError("the file changed while it was read")
                start = np.concatenate([[0], np.cumsum(n)])
                parts = np.empty_like(rows), np.empty_like(columns), np.empty_like(values)
                to_buckets(bucket_of_row, rows, columns, as_bits(values), start[:-1].copy(), *parts[:2], as_bits(parts[2]))
                for k in np.flatnonzero(n):
                    scratch.write(int(at[k]), *(x[start[k] : start[k + 1]] for x in parts))
                at += n
        except BaseException:
            scratch.close()
            raise
        return scratch


class _Scratch:
    """Rows, columns and values of entries in three files without names, at the place that each entry's number gives."""

    def __init__(self, dtype: np.dtype):
        self._types = np.dtype(np.int32), np.dtype(np.int32), dtype
        self._n = 0
        with _space():
            self._files = [tempfile.TemporaryFile(prefix="rankcell-", buffering=0) for _ in self._types]  # noqa: SIM115 (close)

    def write(self, at: int, *parts: np.ndarray) -> None:
        with _space():
            for file, kind, part in zip(self._files, self._types, parts, strict=True):
                raw = memoryview(np.ascontiguousarray(part, kind)).cast("B")
                place = at * kind.itemsize
                while len(raw):
                    n = os.pwrite(file.fileno(), raw, place)
                    raw, place = raw[n:], place + n

    def read(self, which: int, a: int, b: int) -> np.ndarray:
        """The entries a to b: their rows (0), columns (1) or values (2)."""
        out = np.empty(b - a, self._types[which])
        view, place = memoryview(out).cast("B"), a * out.itemsize
        while len(view):
            n = os.preadv(self._files[which].fileno(), [view], place)
            if not n:
                raise OSError("a scratch file was cut short")
            view, place = view[n:], place + n
        return out

    def take(self, walk: Iterator[Entries]) -> bool:
        """Append all entries; returns whether they are in the order of their rows."""
        in_order, last = True, 0
        for rows, columns, values in walk:
            if not len(rows):
                continue
            in_order = in_order and bool(rows[0] >= last and (rows[1:] >= rows[:-1]).all())
            last = rows[-1]
            self.write(self._n, rows, columns, values)
            self._n += len(rows)
        return in_order

    def pieces(self) -> list[tuple[int, int]]:
        return [(a, min(a + WALK_ENTRIES, self._n)) for a in range(0, self._n, WALK_ENTRIES)]

    def close(self) -> None:
        for file in self._files:
            file.close()


def _space() -> Any:
    return writing(f"a scratch file in {tempfile.gettempdir()} (TMPDIR names another folder)")


def as_bits(values: np.ndarray) -> np.ndarray:
    """The same memory as unsigned numbers, so that a kernel need not know the type."""
    return values.view(f"u{values.itemsize}")


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
    ranges = [(a, min(a + WALK_ENTRIES, int(pointers[-1]))) for a in range(0, int(pointers[-1]), WALK_ENTRIES)]

    def walk() -> Iterator[Entries]:
        for a, b in ranges:
            first, last = (int(np.searchsorted(pointers, k, side="right")) - 1 for k in (a, b - 1))
            n = np.diff(np.clip(pointers[first : last + 2], a, b))
            columns = np.repeat(np.arange(first, last + 1, dtype=np.int32), n)
            yield check_indices(indices.read(a, b), n_cells, "row"), columns, data.read(a, b)

    return SpilledMatrix(
        walk,
        (n_cells, len(pointers) - 1),
        data.dtype,
        head=lambda: data.read(0, min(100_000, len(data))),
        walk_rows=lambda: (check_indices(indices.read(a, b), n_cells, "row") for a, b in ranges),
    )


def tiled_matrix(tiles: Callable[[], Iterator[tuple[int, int, Any]]], shape: tuple[int, int], dtype: np.dtype) -> SpilledMatrix:
    """A matrix that comes in parts: (first row, first column, dense or scipy sparse part of cells x genes)."""

    def walk() -> Iterator[Entries]:
        for row, column, part in tiles():
            part = part.tocsr() if hasattr(part, "tocsr") else np.asarray(part)
            step = max(1, WALK_ENTRIES // max(1, part.shape[1]))
            for a in range(0, part.shape[0], step):
                piece = part[a : a + step]
                indptr, indices, data = (piece.indptr, piece.indices, piece.data) if hasattr(piece, "indptr") else dense_rows(piece)
                rows = np.repeat(np.arange(row + a, row + a + len(indptr) - 1, dtype=np.int32), np.diff(indptr))
                yield rows, indices.astype(np.int32) + np.int32(column), data.astype(dtype, copy=False)

    return SpilledMatrix(walk, shape, dtype, head=lambda: next((x for _, _, x in walk() if len(x)), np.empty(0, dtype)), once=True)


def dense_matrix(array: Any, chunks: tuple[int, int], *, transposed: bool = False) -> Matrix:
    """A stored two-dimensional array, by ranges of cells; by way of scratch files where chunks hold more cells than fit in memory."""
    step, width = chunks[::-1] if transposed else chunks
    n_cells, n_genes = array.shape[::-1] if transposed else array.shape
    if min(step, n_cells) * n_genes <= MOST_TOGETHER:
        return DenseMatrix(array, transposed=transposed, step=step)

    def tiles() -> Iterator[tuple[int, int, Any]]:
        for g in range(0, n_genes, width):
            for a in range(0, n_cells, step):
                b, h = min(n_cells, a + step), min(n_genes, g + width)
                yield a, g, np.asarray(array[g:h, a:b]).T if transposed else array[a:b, g:h]

    return tiled_matrix(tiles, (int(n_cells), int(n_genes)), plain_dtype(array.dtype))
