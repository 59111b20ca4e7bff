"""loom files: genes x cells, read with h5py and never opened to write."""

import html
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from rankcell.counts.arrays import texts
from rankcell.counts.io import elements
from rankcell.counts.io.hdf5 import holds, loading, open_source
from rankcell.counts.io.hdf5dense import dense_dataset
from rankcell.counts.io.room import row_numbers
from rankcell.counts.matrix import Matrix
from rankcell.counts.matrix_key import MatrixKey, X
from rankcell.counts.source import N_COUNTS, CountSource, register, turned
from rankcell.errors import InputError
from rankcell.wording import option

_CELL_IDS = ("CellID", "obs_names", "cell_id", "barcode", "barcodes", "Barcode", "Barcodes", "cell_names", "index")


class LoomSource(CountSource):
    """A loom file: /matrix or one of /layers, row_attrs as var, col_attrs as obs."""

    format = "loom"
    name_of_x = "matrix"

    def __init__(self, path: str | os.PathLike, *, layer: str | None = None, raw: bool = False):
        self.name = str(path)
        if raw:
            raise InputError(f"{path}: a loom file has no raw matrix: leave out {option('raw', True)}, or name a layer")
        self._root = open_source(Path(path))
        with loading(self):
            self._load(layer)

    def _load(self, layer: str | None) -> None:
        root = self._root
        if not _is_loom(root):
            raise InputError(f"it is not a loom file: it holds {', '.join(sorted(root)) or 'nothing'}, not matrix, row_attrs and col_attrs", of=self.name)
        layers = sorted(root["layers"]) if "layers" in root else []
        if layer is not None and layer not in layers:
            raise InputError(f"{self.name} has no layer '{layer}'; it has {', '.join(layers) or 'none'}")
        self.key = MatrixKey(layer)
        places = {X: "matrix"} | {MatrixKey(x): f"layers/{x}" for x in layers}
        where = "matrix" if layer is None else f"layers/{layer}"
        self.others = {key: self._opener(w) for key, w in places.items() if w != where}
        self.x = dense_dataset(root[where], transposed=True)
        self._obs = root["col_attrs"]
        self._require_sides(root["row_attrs"])
        self.obs_columns = _attributes(self._obs)
        self.obs_tables = tuple(n for n in self._obs if n not in self.obs_columns)
        id_column = next((n for n in _CELL_IDS if n in self.obs_columns), None)
        self.has_cell_ids = id_column is not None
        self.ids = self.obs(id_column).cast(pa.string()) if id_column else texts(row_numbers(self.n_cells, "cells"))
        self.var = {}
        for name in _attributes(root["row_attrs"]):
            if root["row_attrs"][name].ndim == 1 and root["row_attrs"][name].dtype.kind in "OS":
                self.var[name] = elements.names_of(_attribute(root["row_attrs"], name, self.name))
        if not self.var:
            self.var["row number"] = row_numbers(self.n_genes, "genes")

    def _require_sides(self, genes: Any) -> None:
        """InputError when no attribute has the length of its side of the matrix, or those of the rows have that of the columns."""
        lengths = [{len(group[name]) for name in _attributes(group)} for group in (self._obs, genes)]
        for name, of, n in (("col_attrs", lengths[0], self.n_cells), ("row_attrs", lengths[1], self.n_genes)):
            if of and n not in of and lengths != [{self.n_genes}, {self.n_cells}]:
                raise InputError(f"{self.matrix} is {self.n_genes:,} x {self.n_cells:,}, but {name} are {max(of):,} long", of=self.name)
        if self.n_cells != self.n_genes and lengths == [{self.n_genes}, {self.n_cells}]:
            n = f"{self.n_genes:,} x {self.n_cells:,}"
            lengths = f"row_attrs are {self.n_cells:,} long and col_attrs {self.n_genes:,}"
            raise InputError(f"{self.matrix} is {n}, but {lengths}{turned('cells x genes')}", of=self.name)

    def _opener(self, where: str) -> Callable[[], Matrix]:
        return lambda: dense_dataset(self._root[where], transposed=True)

    def obs(self, column: str) -> pa.Array:
        return elements.require_length(_attribute(self._obs, column, self.name), self.n_cells, f"{self.name}: col_attrs/{column}")

    def close(self) -> None:
        if hasattr(self, "x"):
            self.x.close()
        self._root.close()


def _attributes(group: Any) -> list[str]:
    """The attributes with one value a row or column; tables (embeddings) and records are left out, but for names that are needed."""
    arrays = [name for name in group if hasattr(group[name], "shape")]
    return [n for n in arrays if n in (*_CELL_IDS, N_COUNTS) or (group[n].ndim == 1 and group[n].dtype.names is None)]


def _attribute(group: Any, name: str, where: str) -> pa.Array:
    """One attribute; text as loompy gives it, which stores what is not ASCII as HTML entities."""
    values = elements.column(group, name, where=where)
    if values.type == pa.string() and any("&" in (v or "") for v in values.to_pylist()):
        return texts([None if v is None else html.unescape(v) for v in values.to_pylist()])
    return values


def _is_loom(root: Any) -> bool:
    return hasattr(root.get("matrix"), "shape") and "row_attrs" in root and "col_attrs" in root


register("loom", lambda source: holds(source, _is_loom), LoomSource)
