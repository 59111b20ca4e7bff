"""10x matrix folders: matrix.mtx with barcodes.tsv and features.tsv or genes.tsv, each as it is or gzipped.

The text is read once, in a stream, into scratch files (see spill); sorted by cell, as Cell Ranger writes it, or not.
"""

import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from rankcell.counts.arrays import as_numbers, texts
from rankcell.counts.genes.features import TYPES, excluded_features, genes_only
from rankcell.counts.io.hdf5 import loading
from rankcell.counts.io.spill import Entries, SpilledMatrix
from rankcell.counts.io.tenx import as_float32
from rankcell.counts.source import CountSource, register, turned
from rankcell.errors import OF_A_PART, InputError
from rankcell.store import read_lines
from rankcell.wording import option

_MATRIX = ("matrix.mtx", "matrix.mtx.gz")
_FEATURES = ("features.tsv", "features.tsv.gz", "genes.tsv", "genes.tsv.gz")
_BLOCK = 1 << 20  # bytes of text


class MtxSource(CountSource):
    """A 10x matrix folder, or the path of a matrix.mtx with the lists of its name beside it."""

    format = "10x mtx"
    name_of_x = "matrix.mtx"

    def __init__(self, path: str | os.PathLike, *, layer: str | None = None, raw: bool = False):
        self.name = str(path)
        if layer is not None or raw:
            raise InputError(f"{path}: a 10x matrix folder has one matrix: leave out {option('counts_layer')} and {option('raw')}")
        with loading(self):
            self._load(Path(path))

    def _load(self, path: Path) -> None:
        matrix = _matrix_in(path) if path.is_dir() else path
        if matrix is None:
            raise InputError(f"{path} has no matrix.mtx or matrix.mtx.gz")
        prefix = matrix.name[: matrix.name.index("matrix.mtx")] if "matrix.mtx" in matrix.name else ""
        barcodes = _beside(matrix, prefix, ("barcodes.tsv", "barcodes.tsv.gz"))
        features = _beside(matrix, prefix, _FEATURES)
        self.ids = texts([line[0] for line in _table(barcodes)])
        text = _Text(matrix)
        columns = _features(features)
        n_features = len(columns["index"])
        if (n_features, len(self.ids)) != text.shape:
            raise InputError(
                f"{matrix} is {text.shape[0]:,} features x {text.shape[1]:,} cells, but {features.name} has {n_features:,} "
                f"lines and {barcodes.name} {len(self.ids):,}"
                f"{turned('cells x features') if (len(self.ids), n_features) == text.shape else ''}"
            )
        self.var, number = genes_only(columns, self.name)
        self.excluded = excluded_features(columns.get(TYPES))
        self.others, self.obs_columns = {}, []
        shape = len(self.ids), int((number >= 0).sum())

        def head() -> np.ndarray:
            return next(text.entries(number), (None, None, np.empty(0, np.float32)))[2]

        self.x = SpilledMatrix(lambda: text.entries(number), shape, np.dtype(np.float32), head=head, once=True)

    def close(self) -> None:
        if hasattr(self, "x"):
            self.x.close()


class _Text:
    """A MatrixMarket file of features x cells."""

    def __init__(self, path: Path):
        self.path = path
        with _opened(path) as file:
            words = file.readline(1000).decode("utf-8", "replace").lower().split()
            if words[:2] != ["%%matrixmarket", "matrix"] or len(words) < 5:
                raise InputError(f"{path} is not a MatrixMarket file: its first line should begin with %%MatrixMarket matrix")
            if words[2] != "coordinate" or words[3] not in ("integer", "real", "pattern") or words[4] != "general":
                raise InputError(
                    f"{path} is a MatrixMarket file of the kind '{' '.join(words[2:])}': only 'coordinate integer general' (or real, pattern) is read"
                )
            self._pattern = words[3] == "pattern"
            sizes = _after_comments(file).split()
            if len(sizes) != 3 or not all(s.isdigit() for s in sizes):
                raise InputError(
                    f"{path}: the line of sizes should be three whole numbers, not '{b' '.join(sizes)[:60].decode('utf-8', 'replace')}'"
                )
            self.shape = int(sizes[0]), int(sizes[1])
            self._n = int(sizes[2])
            first = file.readline(1000)
            self._single_spaces = first.rstrip(b"\r\n").split(b" ") == first.split()

    def entries(self, number: np.ndarray) -> Iterator[Entries]:
        """(cell, gene, float32 count) of every entry of a gene, block by block; `number`: of each feature among the genes, or -1."""
        n = 0
        for feature, cell, value in self._lines():
            n += len(feature)
            for axis, numbers, most in (("feature", feature, self.shape[0]), ("cell", cell, self.shape[1])):
                if len(numbers) and not (numbers.min() >= 1 and numbers.max() <= most):
                    raise InputError(
                        f"an entry refers to {axis} {numbers.min() if numbers.min() < 1 else numbers.max()}; there are 1 to {most:,}", of=OF_A_PART
                    )
            gene = number[feature - 1]
            is_gene = slice(None) if len(gene) == 0 or gene.min() >= 0 else gene >= 0
            yield (cell[is_gene] - 1).astype(np.int32), gene[is_gene], _counts(value[is_gene])
        if n != self._n:
            raise InputError(
                f"{self.path.name} says that it has {self._n:,} entries and has {n:,}: it may have been cut off, copy it again", of=OF_A_PART
            )
        if not self.path.name.endswith(".gz") and not _ends_with_a_line(self.path):
            raise InputError(f"{self.path.name} does not end with a line end: its last number may have been cut off, copy it again", of=OF_A_PART)

    def _lines(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        with _opened(self.path) as file:
            file.readline()
            _after_comments(file)
            yield from self._by_arrow(file) if self._single_spaces else self._by_words(file)

    def _by_arrow(self, file: BinaryIO) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        from pyarrow import csv

        if self._n == 0:
            return
        types = {"feature": pa.int64(), "cell": pa.int64()} | ({} if self._pattern else {"value": pa.float64()})
        reader = csv.open_csv(
            file,
            read_options=csv.ReadOptions(column_names=list(types), block_size=_BLOCK),
            parse_options=csv.ParseOptions(delimiter=" ", quote_char=False),
            convert_options=csv.ConvertOptions(column_types=types, null_values=[], strings_can_be_null=False),
        )
        with reader:
            for batch in reader:
                columns = [as_numbers(c) for c in batch.columns]
                yield columns[0], columns[1], np.ones(len(batch), np.float64) if self._pattern else columns[2]

    def _by_words(self, file: BinaryIO) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Where numbers are set apart by tabs or several spaces."""
        width = 2 if self._pattern else 3
        while lines := file.readlines(_BLOCK // 8):
            words = [line.split() for line in lines]
            words = [w for w in words if w]
            if any(len(w) != width for w in words):
                raise InputError(f"{self.path.name} has a line that does not hold {width} numbers", of=OF_A_PART)
            table = np.array(words, dtype="S").reshape(-1, width)
            value = np.ones(len(table), np.float64) if self._pattern else table[:, 2].astype(np.float64)
            yield table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), value


def _counts(values: np.ndarray) -> np.ndarray:
    """float64 as float32; CountsError where a whole number would change."""
    if len(values) and np.abs(values).max() > 1 << 24 and not np.isinf(values).any():
        as_float32(values[np.isfinite(values)].astype(np.int64))
    return values.astype(np.float32)


def _opened(path: Path) -> Any:
    """The bytes of a file, unpacked where it is gzipped."""
    with open(path, "rb") as f:
        gzipped = f.read(2) == b"\x1f\x8b"
    if not gzipped:
        return open(path, "rb")
    try:
        from isal import igzip

        return igzip.open(path, "rb")
    except ImportError:
        return gzip.open(path, "rb")


def _after_comments(file: BinaryIO) -> bytes:
    """The first line that is neither a comment nor empty; the file stands after it."""
    while line := file.readline():
        if line.strip() and not line.startswith(b"%"):
            return line
    return b""


def _ends_with_a_line(path: Path) -> bool:
    with open(path, "rb") as f:
        f.seek(-1, os.SEEK_END)
        return f.read(1) == b"\n"


def _table(path: Path) -> list[list[str]]:
    """Lines of fields set apart by tabs."""
    return [line.split("\t") for line in read_lines(path, "a table with tabs") if line]


def _features(path: Path) -> dict[str, list[str]]:
    """Columns of features.tsv (id, name, type) or genes.tsv (id, name), the index first."""
    lines = _table(path)
    width = min((len(x) for x in lines), default=1)
    if width == 1:
        return {"index": [x[0] for x in lines]}
    columns = {"index": [x[1] for x in lines], "gene_ids": [x[0] for x in lines]}
    return columns | ({"feature_types": [x[2] for x in lines]} if width > 2 else {})


def _beside(matrix: Path, prefix: str, names: tuple[str, ...]) -> Path:
    for name in names:
        if (matrix.parent / (prefix + name)).is_file():
            return matrix.parent / (prefix + name)
    raise InputError(f"{matrix} has no {' or '.join(prefix + n for n in names if not n.endswith('.gz'))} (or .gz) beside it")


def _matrix_in(folder: Path) -> Path | None:
    """The matrix of a folder: matrix.mtx, or the only one whose name ends so."""
    for name in _MATRIX:
        if (folder / name).is_file():
            return folder / name
    try:
        matrices = [p for p in folder.iterdir() if p.name.endswith(_MATRIX) and not p.name.startswith(".") and p.is_file()]
    except OSError:
        return None
    return matrices[0] if len(matrices) == 1 else None


def _is_mtx(source: Any) -> bool:
    if not isinstance(source, (str, os.PathLike)):
        return False
    path = Path(source)
    return (path.is_file() and path.name.lower().endswith((".mtx", ".mtx.gz"))) or (path.is_dir() and _matrix_in(path) is not None)


register("10x mtx", _is_mtx, MtxSource)
