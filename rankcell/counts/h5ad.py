"""h5ad files: CSR, CSC or dense; X, a layer or raw."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.counts import elements
from rankcell.counts.hdf5 import Hdf5Vector, first_line, open_hdf5, require_filters
from rankcell.counts.matrix import CsrMatrix, DenseMatrix, Matrix, Vector
from rankcell.counts.source import CountSource, register
from rankcell.counts.spill import csc_matrix
from rankcell.errors import InputError


class StoredAnnData(CountSource):
    """An AnnData in a hierarchical file (h5ad or zarr): groups with attributes, read where it lies.

    A format gives the opened root group, and what makes a Vector of a stored array.
    """

    def __init__(self, root: Any, name: str, vector: Callable[[Any], Vector], *, layer: str | None, raw: bool):
        self.name, self._root, self._vector = name, root, vector
        try:
            self._load(layer, raw)
        except InputError as e:
            self.close()
            raise e if name in str(e) else type(e)(f"{name}: {e}") from e
        except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as e:
            self.close()
            raise InputError(f"{name} is not a readable {self.format} ({type(e).__name__}: {first_line(e)})") from e

    def _load(self, layer: str | None, raw: bool) -> None:
        f = self._root
        if "obs" not in f or "var" not in f:
            raise InputError(f"{self.name} is not an AnnData: it has no obs and var")
        layers = sorted(f["layers"]) if "layers" in f else []
        if layer is not None and layer not in layers:
            raise InputError(f"{self.name} has no layer '{layer}'; it has {', '.join(layers) or 'none'}")
        if raw and not ("raw" in f and "X" in f["raw"]):
            raise InputError(f"{self.name} has no raw matrix")
        where = "raw/X" if raw else f"layers/{layer}" if layer is not None else "X"
        if where not in f:
            raise InputError(f"{self.name} has no X: pass --layer with one of {', '.join(layers) or 'none'}, or --raw")
        self.matrix = "raw" if raw else f"layer '{layer}'" if layer is not None else "X"
        places = {"": "X", "--raw": "raw/X"} | {f"--layer {x}": f"layers/{x}" for x in layers}
        self.others = {o: self._opener(w) for o, w in places.items() if w != where and w in f}
        for part in ("obs", "var"):
            if hasattr(f[part], "shape"):
                raise InputError(
                    f"{self.name} was written by an anndata before 0.7 ({part} is a table): read it with anndata.read_h5ad "
                    "and write it again"
                )
        self._obs = f["obs"]
        self.ids = elements.index(self._obs, where=self.name)
        self.obs_columns = elements.column_names(self._obs)
        self.var = self._names(f["raw/var"] if raw else f["var"])
        self.x = self._matrix(where)

    def _names(self, var: Any) -> dict[str, list[str]]:
        """The index of var and its columns of text."""
        found = {elements.index_name(var): elements.index(var, where=self.name).to_pylist()}
        for column in elements.column_names(var):
            values = elements.column(var, column, where=self.name)
            kind = getattr(values.type, "value_type", values.type)
            if str(kind) in ("string", "large_string"):
                found.setdefault(column, [str(v) for v in values.to_pylist()])
        return found

    def _opener(self, where: str) -> Callable[[], Matrix]:
        return lambda: self._matrix(where)

    def _matrix(self, where: str) -> Matrix:
        node = self._root[where]
        if hasattr(node, "shape"):
            if len(node.shape) != 2:
                raise InputError(f"{self.name}: {where} has {len(node.shape)} dimensions, not 2")
            return self._dense(node)
        kind = str(node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", "")))[:3]
        if kind not in ("csr", "csc"):
            said = node.attrs.get("encoding-type", "an unknown group")
            raise InputError(f"{self.name}: {where} is stored as '{said}', not a matrix")
        n_cells, n_genes = (int(n) for n in (node.attrs["shape"] if "shape" in node.attrs else node.attrs["h5sparse_shape"]))
        indptr = np.asarray(node["indptr"][:])
        if len(indptr) != (n_cells if kind == "csr" else n_genes) + 1:
            raise InputError(f"{self.name}: {where} has {len(indptr):,} pointers for {n_cells:,} cells x {n_genes:,} genes")
        indices, data = self._vector(node["indices"]), self._vector(node["data"])
        return CsrMatrix(indptr, indices, data, n_genes) if kind == "csr" else csc_matrix(indptr, indices, data, n_cells)

    def _dense(self, node: Any) -> Matrix:
        return DenseMatrix(node)

    def obs(self, column: str) -> Any:
        return elements.column(self._obs, column, where=self.name)


class H5adSource(StoredAnnData):
    """An h5ad file, opened read-only."""

    format = "h5ad"

    def __init__(self, path: str | os.PathLike, *, layer: str | None = None, raw: bool = False):
        self.path = Path(path)
        self._file = open_hdf5(self.path)
        super().__init__(self._file, str(path), Hdf5Vector, layer=layer, raw=raw)

    def _dense(self, node: Any) -> Matrix:
        require_filters(node)
        return DenseMatrix(node, step=node.chunks[0] if node.chunks else 1)

    def close(self) -> None:
        if hasattr(self, "x"):
            self.x.close()
        self._file.close()


def is_hdf5(source: Any) -> bool:
    """Whether it is a file that begins as HDF5 files do."""
    if not isinstance(source, (str, os.PathLike)) or not Path(source).is_file():
        return False
    try:
        with open(source, "rb") as f:
            return f.read(8) == b"\x89HDF\r\n\x1a\n"
    except OSError:
        return False


def _is_h5ad(source: Any) -> bool:
    """By its name; what has another HDF5 layout was asked for its content before (loom, 10x)."""
    return isinstance(source, (str, os.PathLike)) and Path(source).suffix.lower() in {".h5ad", ".hdf5", ".h5"}


register("h5ad", _is_h5ad, H5adSource)
