"""Matrix: cells x genes, read in ranges of rows from any thread, whatever the storage."""

import threading
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from rankcell.errors import OF_A_PART, InputError

ENTRIES_PER_BLOCK = 2_000_000
ROWS_PER_BLOCK = 1_000
DENSE_PER_BLOCK = 4_000_000
_HEAD = 100_000  # entries
_PLACES = 4  # of a matrix that are looked at

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


class Vector(Protocol):
    """A one-dimensional array that may lie in a file."""

    dtype: np.dtype

    def __len__(self) -> int: ...
    def read(self, a: int, b: int, out: np.ndarray | None = None) -> np.ndarray: ...


class Matrix:
    """A matrix of cells x genes. A storage gives `ranges`, `rows` and `head`."""

    shape: tuple[int, int]
    dtype: np.dtype

    def ranges(self, rows_per_block: int | None = None) -> list[tuple[int, int]]:
        """Consecutive row ranges; the default ones hold about ENTRIES_PER_BLOCK entries and at most ROWS_PER_BLOCK rows."""
        raise NotImplementedError

    def rows(self, a: int, b: int) -> Rows:
        """(indptr int64 from 0, indices int32, data) of the rows `a` to `b`, which lie within one of the ranges."""
        raise NotImplementedError

    def head(self) -> np.ndarray:
        """Some stored entries from the start, to see what kind of values they are."""
        raise NotImplementedError

    def sample(self) -> Iterator[np.ndarray]:
        """Stored entries of the start, and of some further places where these can be read without the rest."""
        yield self.head()

    def use_rows_at_once(self) -> None:
        """Promise that what `rows` gave a thread is used up before that thread asks again: its room may be written over.

        Fresh memory costs a third of what reading into it does.
        """

    def close(self) -> None:
        """Let go of files."""


class ArrayVector:
    """A numpy array, or a zarr array, as a Vector."""

    def __init__(self, array: Any):
        if len(array.shape) != 1:
            raise InputError(f"a list of numbers has {len(array.shape)} dimensions", of=OF_A_PART)
        self._array = array
        self.dtype = plain_dtype(array.dtype)

    def __len__(self) -> int:
        return int(self._array.shape[0])

    def read(self, a: int, b: int, out: np.ndarray | None = None) -> np.ndarray:
        return np.asarray(self._array[a:b]).astype(self.dtype, copy=False)


class CsrMatrix(Matrix):
    """Compressed sparse rows."""

    def __init__(self, indptr: np.ndarray, indices: Vector, data: Vector, n_genes: int):
        self.shape = (len(indptr) - 1, n_genes)
        self.dtype = data.dtype
        self.indptr = check_pointers(indptr, min(len(indices), len(data)))
        self._indices, self._data = indices, data
        self._rooms: threading.local | None = None

    def use_rows_at_once(self) -> None:
        self._rooms = threading.local()

    def _room(self, of: str, vector: Vector, n: int) -> np.ndarray | None:
        """This thread's room for `n` entries of a vector."""
        if self._rooms is None:
            return None
        room = getattr(self._rooms, of, None)
        if room is None or len(room) < n:
            room = np.empty(n + n // 4, vector.dtype)
            setattr(self._rooms, of, room)
        return room[:n]

    def ranges(self, rows_per_block: int | None = None) -> list[tuple[int, int]]:
        return row_groups(self.indptr, rows_per_block)

    def rows(self, a: int, b: int) -> Rows:
        lo, hi = int(self.indptr[a]), int(self.indptr[b])
        indices = self._indices.read(lo, hi, self._room("indices", self._indices, hi - lo))
        data = self._data.read(lo, hi, self._room("data", self._data, hi - lo))
        return self.indptr[a : b + 1] - lo, check_indices(indices, self.shape[1], "column"), data

    def head(self) -> np.ndarray:
        return self._data.read(0, min(_HEAD, len(self._data)))

    def sample(self) -> Iterator[np.ndarray]:
        n = len(self._data)
        for a in sorted({0, *(n * part // _PLACES for part in range(1, _PLACES)), max(0, n - _HEAD)}):
            yield self._data.read(a, min(a + _HEAD, n))


class DenseMatrix(Matrix):
    """A two-dimensional array, of cells x genes or (`transposed`) genes x cells, sliced a block of cells at a time."""

    def __init__(self, array: Any, *, transposed: bool = False, step: int = 1):
        """`step`: the number of cells that the storage keeps together."""
        self._array, self._transposed, self._step = array, transposed, step
        self.shape = tuple(int(n) for n in (array.shape[::-1] if transposed else array.shape))
        self.dtype = plain_dtype(array.dtype)

    def ranges(self, rows_per_block: int | None = None) -> list[tuple[int, int]]:
        step = rows_per_block
        if step is None:
            step = min(ROWS_PER_BLOCK, max(1, DENSE_PER_BLOCK // max(1, self.shape[1])))
            step = max(1, step // self._step) * self._step
        return even_ranges(self.shape[0], step)

    def rows(self, a: int, b: int) -> Rows:
        x = np.asarray(self._array[:, a:b].T if self._transposed else self._array[a:b])
        return dense_rows(x.astype(self.dtype, copy=False))

    def head(self) -> np.ndarray:
        return self._entries_from(0)

    def sample(self) -> Iterator[np.ndarray]:
        for a in sorted({self.shape[0] * part // _PLACES for part in range(_PLACES)}):
            yield self._entries_from(a)

    def _entries_from(self, a: int) -> np.ndarray:
        b = min(self.shape[0], a + max(1, _HEAD // max(1, self.shape[1])))
        return np.ravel(np.asarray(self._array[:, a:b] if self._transposed else self._array[a:b]))


def plain_dtype(dtype: Any) -> np.dtype:
    """The type that values are read as: the machine's byte order, and no more than 8 bytes a number."""
    if not isinstance(dtype, np.dtype):
        return np.dtype(object)  # strings of pandas
    if dtype.kind == "f" and dtype.itemsize > 8:
        return np.dtype(np.float64)
    return dtype.newbyteorder("=")


def dense_rows(x: Any) -> Rows:
    """(indptr, indices, data) of the non-zero entries of a dense block (NaN counts as non-zero)."""
    x = np.atleast_2d(np.asarray(x))
    if x.dtype.kind not in "iuf" or not x.dtype.isnative or x.dtype == np.float16:
        rows, columns = np.nonzero(x)
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(x)))]).astype(np.int64)
        return indptr, columns.astype(np.int32), x[rows, columns]
    if x.flags.f_contiguous and not x.flags.c_contiguous:
        return gather_columns(x.T)
    from rankcell.counts.kernels import count_rows, fill_rows

    indptr = np.zeros(len(x) + 1, np.int64)
    x = np.ascontiguousarray(x)
    count_rows(x, indptr)
    indices, data = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], x.dtype)
    fill_rows(x, indptr, indices, data)
    return indptr, indices, data


def gather_columns(x: np.ndarray) -> Rows:
    """(indptr, indices, data) of the non-zero entries of each column of a dense block of genes x cells (NaN counts as non-zero)."""
    from rankcell.counts.kernels import count_columns, fill_columns

    at = np.zeros(x.shape[1] + 1, np.int64)
    count_columns(x, at)
    indptr = np.cumsum(at)
    indices, data = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], x.dtype)
    fill_columns(x, indptr[:-1].copy(), indices, data)
    return indptr, indices, data


def check_pointers(indptr: np.ndarray, stored: int) -> np.ndarray:
    """`indptr` as int64. InputError when it does not describe `stored` entries."""
    indptr = np.asarray(indptr)
    if indptr.dtype.kind not in "iu" or indptr.ndim != 1:
        raise InputError(f"the row pointers are {indptr.dtype}, not whole numbers", of=OF_A_PART)
    indptr = indptr.astype(np.int64)
    if not len(indptr) or indptr[0] != 0 or indptr[-1] > stored or np.any(np.diff(indptr) < 0):
        raise InputError(f"the row pointers do not fit the {stored:,} stored entries", of=OF_A_PART)
    return indptr


def check_indices(indices: np.ndarray, n: int, axis: str) -> np.ndarray:
    """`indices` as int32. InputError when one is outside 0 to n - 1. `axis`: what they number ("gene", "cell"), for messages."""
    if indices.dtype.kind not in "iu":
        raise InputError(f"the {axis} numbers are {indices.dtype}, not whole numbers", of=OF_A_PART)
    unsigned = indices.view(indices.dtype.str.replace("i", "u"))  # a number below zero is a very large one: one look, not two
    if len(indices) and unsigned.max() >= n:
        low, high = indices.min(), indices.max()
        if low < 0 or high >= n:
            raise InputError(f"an entry refers to {axis} {low if low < 0 else high}; there are {n:,}", of=OF_A_PART)
    return indices.astype(np.int32, copy=False)


def even_ranges(n: int, step: int) -> list[tuple[int, int]]:
    """Ranges of `step` rows; the last may be shorter."""
    return [(a, min(n, a + step)) for a in range(0, n, step)]


def row_groups(indptr: np.ndarray, rows_per_block: int | None = None) -> list[tuple[int, int]]:
    """Consecutive row ranges of `rows_per_block` rows, or of at most ROWS_PER_BLOCK rows and about ENTRIES_PER_BLOCK entries.

    The default ranges end at every multiple of ROWS_PER_BLOCK.
    """
    n = len(indptr) - 1
    if rows_per_block:
        return even_ranges(n, rows_per_block)
    groups, start = [], 0
    while start < n:
        stop = int(np.searchsorted(indptr, indptr[start] + ENTRIES_PER_BLOCK, side="right")) - 1
        stop = min(n, max(stop, start + 1), (start // ROWS_PER_BLOCK + 1) * ROWS_PER_BLOCK)
        groups.append((start, stop))
        start = stop
    return groups
