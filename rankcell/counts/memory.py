"""AnnData objects, in memory or backed by a file."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from rankcell.counts.block import first_non_count
from rankcell.counts.h5ad import dense_rows
from rankcell.counts.source import ENTRIES_PER_BLOCK, CountSource, register, row_groups
from rankcell.errors import InputError


class AnnDataSource(CountSource):
    """An AnnData: X, a layer or raw, sparse or dense; never changed."""

    def __init__(self, adata: Any, *, layer: str | None = None, raw: bool = False):
        self._adata = adata
        self.name = "this AnnData"
        if layer is not None and layer not in adata.layers:
            raise InputError(f"this AnnData has no layer '{layer}'; it has {', '.join(adata.layers) or 'none'}")
        if raw and adata.raw is None:
            raise InputError("this AnnData has no raw matrix")
        self._x = adata.raw.X if raw else adata.layers[layer] if layer is not None else adata.X
        if self._x is None:
            raise InputError("this AnnData has no X: name a layer")
        self.matrix = "raw" if raw else f"layer '{layer}'" if layer is not None else "X"
        self.n_cells, self.n_genes = self._x.shape
        self.dtype = np.dtype(self._x.dtype)
        self.has_cell_ids, self.cell_ids = True, [str(c) for c in adata.obs_names]
        self.obs_columns = [str(c) for c in adata.obs.columns]
        var = adata.raw.var if raw else adata.var
        self.var = {str(var.index.name or "index"): [str(g) for g in var.index]}
        for column in var.columns:
            if var[column].dtype.kind == "O" or str(var[column].dtype) in ("category", "string", "str"):
                self.var.setdefault(str(column), [str(v) for v in var[column]])

    def obs(self, column: str) -> Any:
        return self._adata.obs[column]

    def hint(self) -> str:
        for name, x in self._adata.layers.items():
            if x is not self._x and _head_is_counts(x):
                return f"pass layer='{name}' (--layer {name}), which holds counts"
        if self._adata.raw is not None and self.matrix != "raw" and _head_is_counts(self._adata.raw.X):
            return "pass raw=True (--raw), which holds counts"
        return ""

    def _matrix_blocks(self, rows_per_block: int | None) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        import scipy.sparse as sp

        x = self._x.tocsr() if sp.issparse(self._x) else self._x
        if sp.issparse(x):
            indptr = x.indptr.astype(np.int64)
            for a, b in row_groups(indptr, rows_per_block):
                at = slice(indptr[a], indptr[b])
                yield indptr[a : b + 1] - indptr[a], x.indices[at], x.data[at]
            return
        step = rows_per_block or max(1, 4 * ENTRIES_PER_BLOCK // max(1, self.n_genes))
        for a in range(0, self.n_cells, step):
            part = x[a : a + step]
            if sp.issparse(part):  # a backed sparse matrix gives its slices in memory
                part = part.tocsr()
                yield part.indptr.astype(np.int64), part.indices, part.data
            else:
                yield dense_rows(part)


def _head_is_counts(x: Any) -> bool:
    import scipy.sparse as sp

    head = x[: max(1, 100_000 // max(1, x.shape[1]))]
    head = np.ravel(head.data if sp.issparse(head) else np.asarray(head))
    return head.dtype.kind in "fiu" and len(head) > 0 and bool(np.any(head)) and first_non_count(head) is None


def _is_anndata(source: Any) -> bool:
    return all(hasattr(source, a) for a in ("X", "obs_names", "var_names", "layers"))


register("AnnData", _is_anndata, AnnDataSource)
