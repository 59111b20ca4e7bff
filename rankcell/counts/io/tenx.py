"""10x Genomics .h5 files (Cell Ranger 3 and later, and version 2), and what all 10x formats have in common.

The meaning is that of scanpy's read_10x_h5 and read_10x_mtx: genes are named by symbol with their ids in `gene_ids`, only
features of the type "Gene Expression" count, and counts are float32.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.counts.genes.features import TYPES, ChosenColumns, excluded_features, genes_only
from rankcell.counts.io import elements
from rankcell.counts.io.file_kinds import other_layout
from rankcell.counts.io.hdf5 import Hdf5Vector, holds, loading, open_source
from rankcell.counts.matrix import CsrMatrix, Matrix, Rows
from rankcell.counts.source import CountSource, register
from rankcell.errors import OF_A_PART, CountsError, InputError
from rankcell.wording import option

_EXACT = 1 << 24  # whole numbers up to here are exact in float32


class TenxSource(CountSource):
    """A 10x .h5 file. Version 2 holds a matrix per genome: `layer` names one."""

    format = "10x h5"

    def __init__(self, path: str | os.PathLike, *, layer: str | None = None, raw: bool = False):
        self.name = str(path)
        if raw:
            raise InputError(f"{path}: a 10x file has no raw matrix: leave out {option('raw', True)}")
        self._root = open_source(Path(path))
        with loading(self):
            self._load(layer)

    def _load(self, layer: str | None) -> None:
        if words := other_layout(self._root):
            raise InputError(f"{self.name} {words}")
        group = self._group(layer)
        self._matrix_name, self.others, self.obs_columns = group.name.strip("/"), {}, []
        self.ids = elements.column(group, "barcodes", where=self.name).cast(pa.string())
        features = self._features(group)
        self.var, columns = genes_only(features, self.name)
        self.excluded = excluded_features(features.get(TYPES))
        shape = group["shape"][:].tolist() if group["shape"].dtype.kind in "iu" else [0, 0]
        pointers = Hdf5Vector(group["indptr"])
        n_names = [len(next(iter(features.values()))), len(self.ids)]
        if shape != n_names or len(pointers) != n_names[1] + 1:
            raise InputError(
                f"{self.name}: the matrix is {shape[0]:,} features x {shape[-1]:,} cells with {len(pointers):,} pointers, but there "
                f"are {n_names[0]:,} features and {n_names[1]:,} barcodes"
            )
        inner = CsrMatrix(pointers.read(0, len(pointers)), Hdf5Vector(group["indices"]), Hdf5Vector(group["data"]), n_names[0])
        self.x = GeneExpression(inner, columns)

    @property
    def matrix(self) -> str:
        """The name of its group: `matrix`, or a genome."""
        return self._matrix_name

    def _group(self, layer: str | None) -> Any:
        root = self._root
        if "matrix" in root:
            if layer is not None:
                raise InputError(f"{self.name} has no layer '{layer}'; a 10x file has one matrix")
            return root["matrix"]
        genomes = [name for name in root if _is_matrix(root[name])]
        if layer is None and len(genomes) == 1:
            return root[genomes[0]]
        if layer is None:
            raise InputError(f"{self.name} holds several genomes: name one with {option('genome')}: {', '.join(genomes)}")
        if layer not in genomes:
            raise InputError(f"{self.name} has no genome '{layer}'; it has {', '.join(genomes)}")
        return root[layer]

    def _features(self, group: Any) -> dict[str, list[str]]:
        """Every column of text that describes the features, the index first."""

        def text(where: Any, name: str) -> list[str]:
            return elements.column(where, name, where=self.name).cast(pa.string()).to_pylist()

        if "features" not in group:
            return {"index": text(group, "gene_names"), "gene_ids": text(group, "genes")}
        features = group["features"]
        ids = "gene_id" if "gene_id" in features else "id"  # a probe's own id is `id`
        columns = {"index": text(features, "name"), "gene_ids": text(features, ids)}
        if "feature_type" in features:
            columns[TYPES] = text(features, "feature_type")
        if "genome" in features:
            columns["genome"] = text(features, "genome")
        for name, values in columns.items():
            if len(values) != len(columns["index"]):
                raise InputError(f"{self.name}: {name} has {len(values):,} entries, there are {len(columns['index']):,} features")
        return columns

    def close(self) -> None:
        if hasattr(self, "x"):
            self.x.close()
        self._root.close()


def as_float32(data: np.ndarray) -> np.ndarray:
    """Whole numbers as float32; CountsError where that would change one."""
    if data.dtype.kind not in "biu":
        return data
    if len(data) and data.max() > _EXACT:
        raise CountsError(
            f"it holds {data.max():,}, which is no exact float32 (what counts of 10x files are read as, here and in scanpy): write the "
            "matrix as an h5ad of float64",
            of=OF_A_PART,
        )
    return data.astype(np.float32)


class GeneExpression(ChosenColumns):
    """The columns of a matrix of features that are genes, counts as float32."""

    def __init__(self, inner: Matrix, number: np.ndarray):
        super().__init__(inner, number)
        self.dtype = np.dtype(np.float32) if inner.dtype.kind in "biu" else inner.dtype

    def rows(self, a: int, b: int) -> Rows:
        indptr, indices, data = super().rows(a, b)
        return indptr, indices, as_float32(data)


def _is_matrix(node: Any) -> bool:
    return not hasattr(node, "shape") and "barcodes" in node and "indptr" in node


def _is_tenx(root: Any) -> bool:
    if "obs" in root or "var" in root:
        return False
    return ("matrix" in root and not hasattr(root["matrix"], "shape") and "barcodes" in root["matrix"]) or any(
        _is_matrix(root[name]) for name in root
    )


register("10x h5", lambda source: holds(source, _is_tenx), TenxSource)
