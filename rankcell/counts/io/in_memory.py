"""AnnData objects: in memory, backed by a file, or lazy (dask)."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.counts.columns import arrow_column
from rankcell.counts.io.h5ad import other_places
from rankcell.counts.io.spill import csc_matrix, tiled_matrix
from rankcell.counts.matrix import ArrayVector, CsrMatrix, DenseMatrix, Matrix, Rows, dense_rows, plain_dtype, row_groups
from rankcell.counts.matrix_key import RAW, MatrixKey, X
from rankcell.counts.source import CountSource, register
from rankcell.errors import CellError, InputError


class AnnDataSource(CountSource):
    """An AnnData: X, a layer or raw, sparse or dense; never changed."""

    format = "AnnData"

    def __init__(self, adata: Any, *, layer: str | None = None, raw: bool = False):
        self._adata = adata
        self.name = "this AnnData"
        if layer is not None and layer not in adata.layers:
            raise InputError(f"this AnnData has no layer '{layer}'; it has {', '.join(adata.layers) or 'none'}")
        if raw and adata.raw is None:
            raise InputError("this AnnData has no raw matrix")
        x = adata.raw.X if raw else adata.layers[layer] if layer is not None else adata.X
        if x is None:
            raise InputError("it has no X", of=self.name, remedy=other_places(list(map(str, adata.layers)), adata.raw is not None))
        self.key = MatrixKey(layer, raw)
        self.x = matrix_of(x)
        self.ids = pa.array(_names(adata.obs_names), pa.string())
        self.obs_columns = [str(c) for c in adata.obs.columns]
        var = _frame(adata.raw.var if raw else adata.var)
        self.var = {str(var.index.name or "index"): [v or "" for v in _names(var.index)]}
        for column in var.columns:
            if var[column].dtype.kind == "O" or str(var[column].dtype) in ("category", "string", "str"):
                self.var.setdefault(str(column), [v or "" for v in _names(var[column])])
        self.others = {MatrixKey(str(k)): _opener(v) for k, v in adata.layers.items() if v is not x}
        if adata.raw is not None and not raw:
            self.others[RAW] = _opener(adata.raw.X)
        if (raw or layer is not None) and adata.X is not None:
            self.others[X] = _opener(adata.X)

    def obs(self, column: str) -> pa.Array:
        obs = _frame(self._adata.obs)
        columns = [name for name in obs.columns if str(name) == column]
        if len(columns) > 1:
            raise CellError(f"the AnnData has {len(columns)} cell columns called '{column}': rename all but one")
        return arrow_column(obs[columns[0]], column)


def _names(values: Any) -> list[str | None]:
    """Names as text, None where one is missing."""
    import pandas as pd

    return [None if is_missing else str(v) for v, is_missing in zip(values.tolist(), pd.isna(values).tolist(), strict=True)]


def _frame(table: Any) -> Any:
    """obs or var in memory: lazy ones of anndata (xarray data sets) are loaded."""
    return table.to_memory() if hasattr(table, "to_memory") else table


def _opener(x: Any) -> Callable[[], Matrix]:
    return lambda: matrix_of(x)


def matrix_of(x: Any) -> Matrix:
    """The Matrix of an array: scipy sparse, numpy, backed by a file, or dask."""
    import scipy.sparse as sp

    if hasattr(x, "dask") and hasattr(x, "chunks"):
        return _dask_matrix(x)
    if sp.issparse(x):
        x = x.tocsr()
        return CsrMatrix(x.indptr, ArrayVector(x.indices), ArrayVector(x.data), x.shape[1])
    if hasattr(x, "format") and hasattr(x, "group"):
        return _stored(x)
    if type(x).__module__.startswith("h5py"):
        from rankcell.counts.io.hdf5dense import dense_dataset

        return dense_dataset(x)
    return DenseMatrix(np.asarray(x) if not hasattr(x, "shape") else x)


def _dask_matrix(x: Any) -> Matrix:
    """Blocks that hold whole rows are read as ranges of rows, other ones (a matrix stored by gene) by way of scratch files."""
    if x.numblocks[1] == 1:
        return DaskMatrix(x)
    rows, columns = (np.concatenate([[0], np.cumsum(c)]).tolist() for c in x.chunks)

    def tiles() -> Iterator[tuple[int, int, Any]]:
        for j in range(x.numblocks[1]):
            for i in range(x.numblocks[0]):
                yield rows[i], columns[j], x.blocks[i, j].compute(scheduler="synchronous")

    return tiled_matrix(tiles, tuple(int(n) for n in x.shape), plain_dtype(x.dtype))


def _stored(x: Any) -> Matrix:
    """A sparse matrix that anndata keeps in its file (CSRDataset, CSCDataset), read there."""
    from rankcell.counts.io.hdf5 import Hdf5Vector

    group = x.group
    vector = Hdf5Vector if type(group).__module__.startswith("h5py") else ArrayVector
    indptr, indices, data = np.asarray(group["indptr"][:]), vector(group["indices"]), vector(group["data"])
    if x.format == "csr":
        return CsrMatrix(indptr, indices, data, int(x.shape[1]))
    return csc_matrix(indptr, indices, data, int(x.shape[0]))


class DaskMatrix(Matrix):
    """A dask array of cells x genes whose blocks are dense or scipy sparse; computed a row range at a time."""

    def __init__(self, x: Any):
        self._x = x
        self.shape = tuple(int(n) for n in x.shape)
        self.dtype = plain_dtype(x.dtype)

    def ranges(self, rows_per_block: int | None = None) -> list[tuple[int, int]]:
        edges = np.concatenate([[0], np.cumsum(self._x.chunks[0])]).astype(np.int64)
        ranges = []
        for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            per_row = np.full(b - a, self.shape[1] // 4 + 1, np.int64)
            groups = row_groups(np.concatenate([[0], np.cumsum(per_row)]), rows_per_block)
            ranges += [(a + lo, a + hi) for lo, hi in groups]
        return ranges

    def rows(self, a: int, b: int) -> Rows:
        import scipy.sparse as sp

        part = self._x[a:b].compute(scheduler="synchronous")
        if not sp.issparse(part):
            return dense_rows(np.asarray(part).astype(self.dtype, copy=False))
        part = part.tocsr()
        return part.indptr.astype(np.int64), part.indices.astype(np.int32, copy=False), part.data.astype(self.dtype, copy=False)

    def head(self) -> np.ndarray:
        return self.rows(0, min(self.shape[0], max(1, 100_000 // max(1, self.shape[1]))))[2]


def _is_anndata(source: Any) -> bool:
    return all(hasattr(source, a) for a in ("X", "obs_names", "var_names", "layers"))


register("AnnData", _is_anndata, AnnDataSource)
