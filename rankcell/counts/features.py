"""Features that are no genes (antibodies, guides, peaks): left out of a matrix, of its totals and of the names of its columns."""

from collections.abc import Iterator

import numpy as np

from rankcell.counts.matrix import Matrix, Rows
from rankcell.counts.source import CountSource
from rankcell.errors import InputError

GENES = "Gene Expression"
TYPES = "feature_types"


def genes_only(features: dict[str, list[str]], name: str) -> tuple[dict[str, list[str]], np.ndarray]:
    """(the features that are genes, the number of each feature among them or -1); InputError when there are none."""
    types = features.get(TYPES)
    if types is None:
        return features, np.arange(len(features["index"]), dtype=np.int32)
    keep = np.array([t == GENES for t in types], bool)
    if len(keep) and not keep.any():
        kinds = ", ".join(sorted(set(types))[:6])
        raise InputError(f"{name} holds no gene expression: its features are of the type {kinds}")
    number = np.where(keep, np.cumsum(keep) - 1, -1).astype(np.int32)
    return {k: [v for v, kept in zip(values, keep, strict=True) if kept] for k, values in features.items()}, number


def left_out(types: list[str] | None) -> dict[str, int]:
    """Kind -> number of the features that are no genes, where some are."""
    if not types or GENES not in types:
        return {}
    return {kind: types.count(kind) for kind in dict.fromkeys(types) if kind != GENES}


def leave_out(source: CountSource) -> None:
    """Take the columns that are no genes out of a source whose var says so (`feature_types`), as 10x files are read everywhere.

    An antibody is often named after its gene: it would be counted as that gene's transcripts.
    """
    gone = left_out(source.var.get(TYPES))
    if not gone:
        return
    source.var, number = genes_only(source.var, source.name)
    source.left_out, source.kept_columns = gone, np.flatnonzero(number >= 0)
    source.x = ChosenColumns(source.x, number)


class ChosenColumns(Matrix):
    """Some columns of a matrix. `number`: the new number of each column, -1 for those that are left out."""

    def __init__(self, inner: Matrix, number: np.ndarray):
        self._inner, self._number = inner, number
        self._all = bool((number >= 0).all())
        self.shape = inner.shape[0], int((number >= 0).sum())
        self.dtype = inner.dtype

    def use_rows_at_once(self) -> None:
        self._inner.use_rows_at_once()

    def ranges(self, rows_per_block: int | None = None) -> list[tuple[int, int]]:
        return self._inner.ranges(rows_per_block)

    def rows(self, a: int, b: int) -> Rows:
        indptr, indices, data = self._inner.rows(a, b)
        if self._all:
            return indptr, indices, data
        number = self._number[indices]
        kept = number >= 0
        return np.concatenate([[0], np.cumsum(kept)])[indptr], number[kept], data[kept]

    def head(self) -> np.ndarray:
        return self._inner.head()

    def sample(self) -> Iterator[np.ndarray]:
        return self._inner.sample()

    def close(self) -> None:
        self._inner.close()
