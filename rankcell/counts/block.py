"""CountBlock: consecutive cells as compressed sparse rows, and the check that they hold counts."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CountBlock:
    """Cells `start` to `start + len(block)` of a source, in its order.

    indptr
        int64, one more than there are cells.
    indices
        Column of each stored entry (int32); within a cell in any order, and a column may come twice (its entries are summed).
    data
        The stored entries, in the matrix' own type; explicit zeros are allowed and mean nothing.
    n_counts
        One total per cell, in the type that the arithmetic uses (see `rankcell.tokens.rank_kernel`).
    """

    start: int
    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    n_counts: np.ndarray

    def __len__(self) -> int:
        return len(self.indptr) - 1


def first_non_count(data: np.ndarray) -> tuple[int, str] | None:
    """Index and kind of the first entry that cannot be a count ("NaN", "infinite", "negative", "fractional"), or None."""
    if data.dtype.kind in "ub":
        return None
    if data.dtype.kind == "i":
        return (int(np.argmax(data < 0)), "negative") if len(data) and data.min() < 0 else None
    if data.dtype in (np.float32, np.float64) and data.dtype.isnative:
        from rankcell.counts.kernels import all_counts

        if all_counts(data):
            return None
    good = (data >= 0) & (np.floor(data) == data) & (data < np.inf)
    if good.all():
        return None
    i = int(np.argmin(good))
    x = data[i]
    kind = "NaN" if np.isnan(x) else "infinite" if np.isinf(x) else "negative" if x < 0 else "fractional"
    return i, kind


def value_of_kind(kind: str) -> str:
    """`kind` of `first_non_count` for a sentence."""
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind} value"


def above_zero(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compressed rows without the entries that are NaN, infinite, negative or zero."""
    if data.dtype.kind in "ub":
        return indptr, indices, data
    good = (data > 0) & (data < np.inf)
    if good.all():
        return indptr, indices, data
    return np.concatenate([[0], np.cumsum(good)])[indptr], indices[good], data[good]


def row_sums(indptr: np.ndarray, data: np.ndarray) -> np.ndarray:
    """The sum of each row in float64, as float32 for a matrix of that type: a total of integers may not fit their type.

    A sum of values that are no counts may be so small or so large that 1 / sum is none: the nearest one that has a reciprocal.
    """
    from rankcell.counts.kernels import sum_rows

    total = np.empty(len(indptr) - 1, np.float64)
    sum_rows(indptr, data if data.dtype != np.float16 else data.astype(np.float32), total)
    limits = np.finfo(totals_dtype(data.dtype))
    return np.where(total > 0, np.clip(total, limits.tiny, limits.max / 4), total).astype(limits.dtype)


def totals_dtype(data: np.dtype) -> np.dtype:
    """The type of row sums: the matrix' own where it is a float, else float64."""
    return np.dtype(np.float32 if data in (np.float16, np.float32) else np.float64)
