"""Two-dimensional HDF5 datasets as rows of cells: the entries that are not zero are taken straight out of the chunks."""

import threading
from typing import Any

import numpy as np

from rankcell.counts.io.hdf5 import Chunks, chunks_of, require_filters
from rankcell.counts.io.spill import dense_matrix
from rankcell.counts.matrix import DENSE_PER_BLOCK, ENTRIES_PER_BLOCK, ROWS_PER_BLOCK, DenseMatrix, Matrix, Rows, even_ranges
from rankcell.errors import InputError

_AT_ONCE = 1 << 18  # bytes of chunks that are looked through together: they should stay near the processor


def dense_dataset(dataset: Any, *, transposed: bool = False) -> Matrix:
    """The matrix in a dataset of cells x genes or (`transposed`) genes x cells."""
    if dataset.ndim != 2:
        raise InputError(f"{dataset.file.filename}: {dataset.name} has {dataset.ndim} dimensions, not 2")
    require_filters(dataset)
    matrix = dense_matrix(dataset, dataset.chunks or (1, 1), transposed=transposed)
    chunks = chunks_of(dataset) if dataset.size and isinstance(matrix, DenseMatrix) else None
    return matrix if chunks is None else ChunkedDense(dataset, chunks, transposed=transposed)


class ChunkedDense(DenseMatrix):
    """Read chunk by chunk, from any thread, without HDF5."""

    def __init__(self, dataset: Any, chunks: Chunks, *, transposed: bool):
        self._chunks = chunks
        self._mine = threading.local()  # each thread's room for entries, used again: fresh memory costs as much as what is put there
        self._cells, self._genes = (1, 0) if transposed else (0, 1)
        super().__init__(dataset, transposed=transposed, step=chunks.shape[self._cells])
        self._stored = int(chunks.size.sum()) / max(1, dataset.size)  # bytes per value: few where most are zero

    def ranges(self, rows_per_block: int | None = None) -> list[tuple[int, int]]:
        """The default ones are whole chunks of about twice ENTRIES_PER_BLOCK stored bytes: an entry takes two or more."""
        n = rows_per_block
        if n is None:
            genes = max(1, self.shape[1])
            n = min(ROWS_PER_BLOCK, 4 * DENSE_PER_BLOCK // genes, int(2 * ENTRIES_PER_BLOCK / (genes * self._stored + 1)))
            n = max(1, n // self._step) * self._step
        return even_ranges(self.shape[0], n)

    def rows(self, a: int, b: int) -> Rows:
        if not hasattr(self._mine, "entries"):
            self._mine.entries = _Entries(self.dtype)
        entries = self._mine.entries
        entries.n = 0
        stripes = range(a // self._step, -(-b // self._step))
        n_chunks, at_once = self._chunks.grid[self._genes], max(1, _AT_ONCE // self._chunks.n_bytes)
        for first in range(0, n_chunks, at_once):
            row = range(first, min(n_chunks, first + at_once))
            places = [(g, s) if self._transposed else (s, g) for s in stripes for g in row]
            inflated = self._chunks.inflated(places)
            for k, s in enumerate(stripes):
                part = inflated[k * len(row) : (k + 1) * len(row)]
                x = self._chunks.values(part).reshape(len(row), *self._chunks.shape)
                lo, hi = max(a, s * self._step) - s * self._step, min(b, (s + 1) * self._step) - s * self._step
                gene = first * self._chunks.shape[self._genes]
                entries.take(x, self._transposed, gene, self.shape[1], lo, hi, s * self._step - a)
        return entries.by_row(b - a)


class _Entries:
    """Entries that are not zero, collected: row, column and the bits of the value."""

    def __init__(self, dtype: np.dtype):
        self.dtype, self.n = dtype, 0
        self._bits = np.dtype(f"u{dtype.itemsize}")
        # a float is zero with either sign
        self._mask = self._bits.type(np.iinfo(self._bits).max >> (dtype.kind == "f"))
        self._rows, self._columns, self._values = np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, self._bits)

    def take(self, x: np.ndarray, transposed: bool, gene: int, n_genes: int, lo: int, hi: int, shift: int) -> None:
        """Those of chunks that follow each other along the genes, the first of which begins at `gene`: their cells `lo` to `hi`."""
        from rankcell.counts.kernels import take_cells, take_genes

        self._make_room(x.size + 1)
        take = take_genes if transposed else take_cells
        at = (self._rows, self._columns, self._values, self.n)
        self.n = int(take(x.view(self._bits), self._mask, gene, n_genes, lo, hi, shift, *at))

    def _make_room(self, more: int) -> None:
        if self.n + more > len(self._rows):
            size = max(2 * len(self._rows), self.n + more, 1 << 20)
            self._rows, self._columns, self._values = (_longer(x, self.n, size) for x in (self._rows, self._columns, self._values))

    def by_row(self, n_rows: int) -> Rows:
        from rankcell.counts.kernels import add_ones, place

        rows, indptr = self._rows[: self.n], np.zeros(n_rows + 1, np.int64)
        add_ones(rows, indptr[1:])
        np.cumsum(indptr, out=indptr)
        indices, values = np.empty(self.n, np.int32), np.empty(self.n, self._bits)
        place(rows, self._columns[: self.n], self._values[: self.n], indptr[:-1].copy(), indices, values)
        return indptr, indices, values.view(self.dtype)


def _longer(x: np.ndarray, n: int, size: int) -> np.ndarray:
    out = np.empty(size, x.dtype)
    out[:n] = x[:n]
    return out
