"""h5ad files: CSR, CSC or dense; X, a layer or raw."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rankcell.counts.io import elements
from rankcell.counts.io.file_kinds import other_layout
from rankcell.counts.io.hdf5 import Hdf5Vector, is_hdf5, loading, open_source
from rankcell.counts.io.hdf5dense import dense_dataset
from rankcell.counts.io.room import require_room
from rankcell.counts.io.spill import csc_matrix
from rankcell.counts.matrix import CsrMatrix, DenseMatrix, Matrix, Vector
from rankcell.counts.matrix_key import RAW, MatrixKey, X
from rankcell.counts.source import CountSource, register
from rankcell.errors import InputError
from rankcell.wording import option

_SUFFIXES = {".h5ad", ".hdf5", ".h5", ".loom"}


class StoredAnnData(CountSource):
    """An AnnData in a hierarchical file (h5ad or zarr): groups with attributes, read where it lies.

    A format gives the opened root group, and what makes a Vector of a stored array.
    """

    def __init__(self, root: Any, name: str, vector: Callable[[Any], Vector], *, layer: str | None, raw: bool):
        self.name, self._root, self._vector = name, root, vector
        with loading(self):
            self._load(layer, raw)

    def _load(self, layer: str | None, raw: bool) -> None:
        f = self._root = self._table_of_genes(self._root)
        if "obs" not in f or "var" not in f:
            raise InputError(f"{self.name} is not an AnnData: it has no obs and var")
        layers = sorted(f["layers"]) if "layers" in f else []
        if layer is not None and layer not in layers:
            raise InputError(f"{self.name} has no layer '{layer}'; it has {', '.join(layers) or 'none'}")
        has_raw = "raw" in f and not hasattr(f["raw"], "shape") and "X" in f["raw"]
        if raw and not has_raw:
            raise InputError(f"{self.name} has no raw matrix")
        where = "raw/X" if raw else f"layers/{layer}" if layer is not None else "X"
        if where not in f:
            raise InputError("it has no X", of=self.name, remedy=other_places(layers, has_raw))
        self.key = MatrixKey(layer, raw)
        places = {X: "X"} | ({RAW: "raw/X"} if has_raw else {}) | {MatrixKey(x): f"layers/{x}" for x in layers}
        self.others = {key: self._opener(w) for key, w in places.items() if w != where and w in f}
        self._obs = elements.table(f["obs"], f.get("uns"))
        self.ids = elements.index(self._obs, where=self.name)
        self.obs_columns = elements.column_names(self._obs)
        self.var = self._names(elements.table(f["raw/var"] if raw else f["var"], f.get("uns")))
        self.x = self._matrix(where, (len(self.ids), len(next(iter(self.var.values())))))

    def _table_of_genes(self, root: Any) -> Any:
        """The root of an AnnData; of a MuData or SpatialData the part that holds the genes, with a note."""
        for group, words, kind in (("mod", MODALITIES, "MuData"), ("tables", TABLES, "SpatialData")):
            if group in root and "X" not in root:
                names = sorted(name for name in root[group] if not hasattr(root[group][name], "shape"))
                name = part_of_genes(names, words)
                if name is None:
                    listed = ", ".join(f"{group}/{n}" for n in names) or "nothing"
                    raise InputError(
                        f"{self.name} is a {kind} object and holds {listed}: write the part with the genes as a file of its own "
                        f"(mdata['{names[0] if names else 'rna'}'].write_h5ad('genes.h5ad')) and give that"
                        if kind == "MuData"
                        else f"{self.name} is a {kind} object and holds {listed}: write the table with the genes as a file of its own "
                        f"(sdata.tables['{names[0] if names else 'table'}'].write_h5ad('genes.h5ad')) and give that"
                    )
                self.remarks.append(f"{kind}: {group}/{name} is read")
                return root[group][name]
        return root

    def _names(self, var: Any) -> dict[str, list[str]]:
        """The index of var and its columns of text."""
        columns = {elements.index_name(var): elements.names_of(elements.index(var, where=self.name))}
        for column in elements.column_names(var):
            values = elements.column(var, column, where=self.name)
            kind = getattr(values.type, "value_type", values.type)
            if str(kind) in ("string", "large_string"):
                elements.require_length(values, len(next(iter(columns.values()))), f"{self.name}: var/{column}")
                columns.setdefault(column, elements.names_of(values))
        return columns

    def _opener(self, where: str) -> Callable[[], Matrix]:
        return lambda: self._matrix(where)

    def _matrix(self, where: str, names: tuple[int, int] | None = None) -> Matrix:
        """The matrix that is stored there. `names`: how many cells and genes are named, which its shape must be before anything of it is read."""
        node = self._root[where]
        if hasattr(node, "shape"):
            if len(node.shape) != 2:
                raise InputError(f"{self.name}: {where} has {len(node.shape)} dimensions, not 2")
            self.require_names(tuple(node.shape), names)
            return self._dense(node)
        kind = str(elements.attribute(node, "encoding-type") or elements.attribute(node, "h5sparse_format"))[:3]
        if kind not in ("csr", "csc"):
            encoding = elements.attribute(node, "encoding-type", "an unknown group")
            raise InputError(f"{self.name}: {where} is stored as '{encoding}', not a matrix")
        n_cells, n_genes = (int(n) for n in (node.attrs["shape"] if "shape" in node.attrs else node.attrs["h5sparse_shape"]))
        pointers = self._vector(node["indptr"])
        if len(pointers) != (n_cells if kind == "csr" else n_genes) + 1:
            raise InputError(f"{self.name}: {where} has {len(pointers):,} pointers for {n_cells:,} cells x {n_genes:,} genes")
        self.require_names((n_cells, n_genes), names)
        require_room(node["indptr"])
        indptr, indices, data = pointers.read(0, len(pointers)), self._vector(node["indices"]), self._vector(node["data"])
        return CsrMatrix(indptr, indices, data, n_genes) if kind == "csr" else csc_matrix(indptr, indices, data, n_cells)

    def _dense(self, node: Any) -> Matrix:
        return DenseMatrix(node)

    def obs(self, column: str) -> Any:
        values = elements.column(self._obs, column, where=self.name)
        return elements.require_length(values, self.n_cells, f"{self.name}: obs/{column}")


MODALITIES = ("rna", "gex", "geneexpression", "gene", "genes", "mrna", "transcriptome")
TABLES = ("table",)


def part_of_genes(names: Sequence[str], words: Sequence[str]) -> str | None:
    """The part of a multimodal object that holds the genes: the only one, or the one that is called so."""
    plain = {"".join(c for c in name.lower() if c.isalnum()): name for name in names}
    called = [plain[word] for word in words if word in plain]
    return names[0] if len(names) == 1 else called[0] if called else None


def other_places(layers: Sequence[str], has_raw: bool) -> str:
    """The way out of an input without X, for a message."""
    places = [option("counts_layer", name) for name in layers[:5]] + ([option("raw", True)] if has_raw else [])
    return f"name one of its matrices with {', '.join(places)}" if places else "it has no layers and no raw matrix either, so there are no counts in it"


class H5adSource(StoredAnnData):
    """An h5ad file, opened read-only."""

    format = "h5ad"

    def __init__(self, path: str | os.PathLike, *, layer: str | None = None, raw: bool = False):
        self.name, self._file = str(path), open_source(Path(path))
        self._root = self._file
        with loading(self):
            self._check_layout()
        super().__init__(self._root, self.name, Hdf5Vector, layer=layer, raw=raw)

    def _check_layout(self) -> None:
        if words := other_layout(self._root):
            raise InputError(f"{self.name} {words}")
        if not any({"obs", "var"} <= set(self._root) or group in self._root for group in ("mod", "tables")):
            raise InputError(
                f"{self.name} is an HDF5 file of no known layout: it holds {', '.join(sorted(self._root)) or 'nothing'}; an h5ad has "
                "obs and var, a loom matrix, row_attrs and col_attrs, a 10x file matrix/barcodes"
            )

    def _dense(self, node: Any) -> Matrix:
        return dense_dataset(node)

    def close(self) -> None:
        if hasattr(self, "x"):
            self.x.close()
        self._file.close()


def _is_h5ad(source: Any) -> bool:
    """Any HDF5 file, and what is named as one: what has another layout was asked for its content before (loom, 10x)."""
    return isinstance(source, (str, os.PathLike)) and (Path(source).suffix.lower() in _SUFFIXES or is_hdf5(source))


register("h5ad", _is_h5ad, H5adSource)
