"""h5ad files, read with h5py in blocks of rows: CSR, CSC or dense; X, a layer or raw."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.counts.block import first_non_count
from rankcell.counts.source import ENTRIES_PER_BLOCK, CountSource, register, row_groups
from rankcell.errors import InputError

CSC_ENTRIES_PER_PASS = 24_000_000


class H5adSource(CountSource):
    """An h5ad file, opened read-only.

    CSR and dense matrices are read once. A CSC matrix is read once per CSC_ENTRIES_PER_PASS stored entries, and a pass
    holds at most that many entries (about 0.5 GB): rows cannot be cut out of columns any cheaper without a second copy.
    """

    def __init__(self, path: str | os.PathLike, *, layer: str | None = None, raw: bool = False):
        self.path = Path(path)
        self.name = str(path)
        self._file = _open(self.path)
        try:
            self._load(layer, raw)
        except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as e:
            self.close()
            raise InputError(f"{path} is an HDF5 file but not a readable h5ad ({type(e).__name__}: {_line(e)})") from e
        except InputError:
            self.close()
            raise

    def _load(self, layer: str | None, raw: bool) -> None:
        f = self._file
        if "obs" not in f or "var" not in f:
            raise InputError(f"{self.path} is an HDF5 file but not an h5ad: it has no obs and var")
        layers = list(f["layers"]) if "layers" in f else []
        if layer is not None and layer not in layers:
            raise InputError(f"{self.path} has no layer '{layer}'; it has {', '.join(layers) or 'none'}")
        if raw and "raw/X" not in f:
            raise InputError(f"{self.path} has no raw matrix")
        where = "raw/X" if raw else f"layers/{layer}" if layer is not None else "X"
        if where not in f:
            raise InputError(f"{self.path} has no X: pass --layer with one of {', '.join(layers) or 'none'}, or --raw")
        self.matrix = "raw" if raw else f"layer '{layer}'" if layer is not None else "X"
        self._elsewhere = [w for w in ["X", "raw/X", *(f"layers/{x}" for x in layers)] if w != where and w in f]
        self._node = f[where]
        self._kind = _kind(self._node)
        self.n_cells, self.n_genes = _shape(self._node)
        self.dtype = (self._node if self._kind == "dense" else self._node["data"]).dtype
        self._obs = f["obs"]
        self.has_cell_ids, self.cell_ids = True, _index(self._obs)
        self.obs_columns = _columns(self._obs)
        var = f["raw/var"] if raw else f["var"]
        self.var = {_index_name(var): _index(var)}
        for column in _columns(var):
            values = _element(var, column)
            if values.dtype.kind in "OUST" or str(values.dtype) in ("category", "string"):
                self.var.setdefault(column, [str(v) for v in values])
        if len(self.cell_ids) != self.n_cells or len(next(iter(self.var.values()))) != self.n_genes:
            raise InputError(
                f"{self.path}: {self.matrix} is {self.n_cells:,} x {self.n_genes:,}, but obs has {len(self.cell_ids):,} rows "
                f"and var {len(next(iter(self.var.values()))):,}"
            )

    def obs(self, column: str) -> Any:
        return _element(self._obs, column)

    def close(self) -> None:
        self._file.close()

    def hint(self) -> str:
        for where in self._elsewhere:
            if _head_is_counts(self._file[where]):
                kind, _, name = where.partition("/")
                option = {"raw": "--raw", "layers": f"--layer {name}"}.get(kind)
                return f"pass {option}, which holds counts" if option else "leave out --layer and --raw: X holds counts"
        return ""

    def _matrix_blocks(self, rows_per_block: int | None) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        read = {"csr": self._csr, "csc": self._csc, "dense": self._dense}[self._kind]
        try:
            yield from read(rows_per_block)
        except OSError as e:
            raise InputError(f"{self.path} could not be read to its end: {_line(e)}") from e

    def _csr(self, rows_per_block: int | None) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        indptr = self._node["indptr"][:].astype(np.int64)
        self._check_indptr(indptr, self.n_cells)
        indices, data = self._node["indices"], self._node["data"]
        for a, b in row_groups(indptr, rows_per_block):
            at = slice(indptr[a], indptr[b])
            yield indptr[a : b + 1] - indptr[a], self._checked(indices[at], self.n_genes), data[at]

    def _dense(self, rows_per_block: int | None) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        step = rows_per_block or max(1, 4 * ENTRIES_PER_BLOCK // max(1, self.n_genes))
        for a in range(0, self.n_cells, step):
            yield dense_rows(self._node[a : a + step])

    def _csc(self, rows_per_block: int | None) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        import scipy.sparse as sp

        indptr = self._node["indptr"][:].astype(np.int64)
        self._check_indptr(indptr, self.n_genes)
        in_row = np.zeros(self.n_cells, np.int64)
        for a in range(0, int(indptr[-1]), ENTRIES_PER_BLOCK):
            part = self._checked(self._node["indices"][a : min(a + ENTRIES_PER_BLOCK, indptr[-1])], self.n_cells)
            in_row += np.bincount(part, minlength=self.n_cells)
        row_ptr = np.concatenate([[0], np.cumsum(in_row)])
        first = 0
        while first < self.n_cells:
            last = int(np.searchsorted(row_ptr, row_ptr[first] + CSC_ENTRIES_PER_PASS, side="right")) - 1
            last = min(self.n_cells, max(last, first + 1))
            rows, columns, values = self._csc_rows(indptr, first, last)
            column_ptr = np.searchsorted(columns, np.arange(self.n_genes + 1))
            x = sp.csc_matrix((values, rows, column_ptr), shape=(last - first, self.n_genes)).tocsr()
            for a, b in row_groups(x.indptr.astype(np.int64), rows_per_block):
                at = slice(x.indptr[a], x.indptr[b])
                yield x.indptr[a : b + 1].astype(np.int64) - int(x.indptr[a]), x.indices[at], x.data[at]
            first = last

    def _csc_rows(self, indptr: np.ndarray, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row (from `first`), column and value of every stored entry in rows `first` to `last`."""
        rows, columns, values = [], [], []
        for a in range(0, max(1, int(indptr[-1])), ENTRIES_PER_BLOCK):
            b = min(a + ENTRIES_PER_BLOCK, int(indptr[-1]))
            row = self._node["indices"][a:b]
            inside = np.flatnonzero((row >= first) & (row < last))
            rows.append(row[inside] - first)
            columns.append(np.searchsorted(indptr, a + inside, side="right") - 1)
            values.append(self._node["data"][a:b][inside])
        return np.concatenate(rows), np.concatenate(columns), np.concatenate(values)

    def _check_indptr(self, indptr: np.ndarray, n: int) -> None:
        stored = min(self._node["indices"].shape[0], self._node["data"].shape[0])
        if len(indptr) != n + 1 or indptr[0] != 0 or indptr[-1] > stored or np.any(np.diff(indptr) < 0):
            raise InputError(f"{self.path}: the row pointers of {self.matrix} do not fit its {stored:,} stored entries")

    def _checked(self, indices: np.ndarray, n: int) -> np.ndarray:
        if len(indices) and not 0 <= indices.min() <= indices.max() < n:
            raise InputError(f"{self.path}: {self.matrix} refers to column or row {indices.max()}; there are {n:,}")
        return indices


def dense_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(indptr, indices, data) of the non-zero entries of a dense block (NaN counts as non-zero)."""
    x = np.atleast_2d(np.asarray(x))
    rows, columns = np.nonzero(x)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(x)))]).astype(np.int64)
    return indptr, columns.astype(np.int32), x[rows, columns]


def _open(path: Path) -> Any:
    import h5py

    if path.is_dir():
        raise InputError(f"{path} is a folder, not an h5ad file")
    try:
        return h5py.File(path, "r")
    except OSError as e:
        if "truncated" in str(e):
            raise InputError(f"{path} is truncated (it ends before the HDF5 file it says it is): copy it again") from e
        if isinstance(e, PermissionError):
            raise InputError(f"{path} cannot be read: permission denied") from e
        raise InputError(f"{path} is not an h5ad (HDF5) file: {_line(e)}") from e


def _line(e: Exception) -> str:
    return str(e).splitlines()[0][:200] if str(e) else type(e).__name__


def _kind(node: Any) -> str:
    import h5py

    if isinstance(node, h5py.Dataset):
        return "dense"
    encoding = str(node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", "")))
    kind = encoding[:3]
    if kind not in ("csr", "csc"):
        raise InputError(f"{node.file.filename}: {node.name} is stored as '{encoding or 'an unknown group'}', not a matrix")
    return kind


def _shape(node: Any) -> tuple[int, int]:
    if _kind(node) == "dense":
        if node.ndim != 2:
            raise InputError(f"{node.file.filename}: {node.name} has {node.ndim} dimensions, not 2")
        return node.shape
    n, m = node.attrs["shape"] if "shape" in node.attrs else node.attrs["h5sparse_shape"]
    return int(n), int(m)


def _element(group: Any, name: str) -> Any:
    """A column of obs or var; categories as pandas Categorical, missing strings as NaN. InputError when unreadable."""
    from anndata.io import read_elem

    try:
        return read_elem(group[name])
    except Exception as e:  # anndata's error for an unknown encoding has no public name
        raise InputError(f"{group.file.filename}: {group.name}/{name} is not readable ({_line(e)})") from e


def _columns(group: Any) -> list[str]:
    order = group.attrs.get("column-order")
    names = [str(n) for n in order] if order is not None else list(group)
    return [n for n in names if n in group and n != _index_key(group)]


def _index_key(group: Any) -> str:
    return str(group.attrs.get("_index", "_index"))


def _index_name(group: Any) -> str:
    key = _index_key(group)
    return "index" if key == "_index" else key


def _index(group: Any) -> list[str]:
    return [str(v) for v in _element(group, _index_key(group))]


def _head_is_counts(node: Any) -> bool:
    """Whether the first stored entries of a matrix are counts."""
    try:
        head = np.ravel(node[: max(1, 100_000 // max(1, node.shape[1]))]) if _kind(node) == "dense" else node["data"][:100_000]
    except (InputError, KeyError, OSError):
        return False
    return head.dtype.kind in "fiu" and len(head) > 0 and bool(np.any(head)) and first_non_count(head) is None


def _is_h5ad(source: Any) -> bool:
    return isinstance(source, (str, os.PathLike)) and Path(source).suffix.lower() in {".h5ad", ".hdf5", ".h5"}


register("h5ad", _is_h5ad, H5adSource)
