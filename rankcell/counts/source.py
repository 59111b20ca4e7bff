"""CountSource: what every format offers, and the registry of formats."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.counts.arrays import as_numbers
from rankcell.counts.block import CountBlock, above_zero, first_non_count, row_sums, totals_dtype, value_of_kind
from rankcell.counts.matrix import Matrix, Rows
from rankcell.counts.matrix_key import MatrixKey, X
from rankcell.errors import OF_A_PART, CellError, CountsError, InputError
from rankcell.wording import offers, option

N_COUNTS = "n_counts"
N_COUNTS_REMEDY = "correct or remove that column; without it the row sum is used"

FORMATS: list[tuple[str, Callable[[Any], bool], Callable[..., "CountSource"]]] = []


class CountSource:
    """A count matrix with cells as rows: ids and columns at hand, the matrix read in blocks, from any thread.

    A format sets the attributes and gives `obs`; checks, n_counts and messages are here.

    Attributes: `name` (for messages and provenance), `format` ("h5ad", "loom", ...), `key` (which of its matrices it is), `name_of_x` (what the
    format calls the one that is read where none is named), `x` (the Matrix), `ids` (cell ids, an arrow string array), `has_cell_ids` (False: the ids are row numbers),
    `var` (column name -> list of str, the index under its own name), `obs_columns`, `obs_tables` (with several values a cell, so no columns), `others` (MatrixKey -> another
    matrix of the same input), `excluded` (ColumnKind -> number of columns that are no genes and not counted here),
    `column_numbers` (the numbers of the columns that are here, when some were left out of an AnnData), `remarks` (how it is read
    otherwise than its user may think, each a sentence).
    """

    name: str
    format: str
    name_of_x: str = "X"
    key: MatrixKey = X
    x: Matrix
    ids: pa.StringArray
    has_cell_ids: bool = True
    var: dict[str, list[str]]
    obs_columns: list[str]
    obs_tables: tuple[str, ...] = ()
    others: dict[MatrixKey, Callable[[], Matrix]]
    excluded: Mapping[Any, int] = MappingProxyType({})
    column_numbers: np.ndarray | None = None
    remarks: list[str]

    def __new__(cls, *args: Any, **kwargs: Any) -> "CountSource":
        source = super().__new__(cls)
        source.remarks = []
        return source

    @property
    def matrix(self) -> str:
        """The name of the matrix, for messages and records: X, layer 'counts', raw."""
        return self.key.name(self.name_of_x)

    @property
    def n_cells(self) -> int:
        return self.x.shape[0]

    @property
    def n_genes(self) -> int:
        return self.x.shape[1]

    @property
    def dtype(self) -> np.dtype:
        return self.x.dtype

    @functools.cached_property
    def cell_ids(self) -> list[str]:
        return self.ids.to_pylist()

    def obs(self, column: str) -> pa.Array:
        """One column of cell annotations, categories as a dictionary array; CellError when it cannot be read."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the file."""
        self.x.close()

    def __enter__(self) -> "CountSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def require_obs(self, column: str) -> pa.Array:
        if column in self.obs_tables:
            raise CellError(f"{self.name}: '{column}' holds a table or records, not one value a cell: name another cell column")
        if column not in self.obs_columns:
            raise CellError(f"{self.name} has no cell column '{column}'; it has {first_names(self.obs_columns)}")
        return self.obs(column)

    def elsewhere(self) -> list[MatrixKey]:
        """Other matrices of this input that hold counts: X, then raw, then layers, of which those named like counts come first."""
        return sorted((key for key, matrix in self.others.items() if looks_like_counts(matrix)), key=MatrixKey.order)

    def hint(self) -> str:
        """Advice that names the matrix where counts are instead; '' when there is none."""
        return next((key.advice() for key in self.elsewhere()), "")

    def check_door(self) -> None:
        """Check what is known before the matrix is read: shape, number type and unique cell ids. InputError, CountsError or CellError."""
        if not self.n_cells or not self.n_genes:
            raise InputError(f"{self.matrix} is empty ({self.n_cells:,} cells x {self.n_genes:,} genes)", of=self.name)
        if self.dtype.kind not in "biuf":
            raise CountsError(f"{self.matrix} holds {self.dtype}, not numbers", of=self.name)
        self.require_names(self.x.shape, (len(self.ids), len(next(iter(self.var.values())))))
        self._check_ids()

    def require_names(self, shape: tuple[int, int], names: tuple[int, int] | None) -> None:
        """InputError when a matrix has another shape than there are names of cells and genes (None: not known yet)."""
        if names is not None and shape != names:
            across = turned("genes x cells") if shape == names[::-1] else ""
            raise InputError(
                f"{self.matrix} is {shape[0]:,} x {shape[1]:,}, but there are {names[0]:,} cell ids and {names[1]:,} genes{across}", of=self.name
            )

    def _check_ids(self) -> None:
        import pyarrow.compute as pc

        if pc.count_distinct(self.ids).as_py() == self.n_cells:
            return
        if self.ids.null_count:
            first = pc.index(self.ids.is_null(), True).as_py()
            raise CellError(
                f"{self.name}: {self.ids.null_count:,} of {self.n_cells:,} cell ids are missing (the first in row {first:,}): give every cell an id "
                "first (adata.obs_names)"
            )
        times = {c["values"].as_py(): c["counts"].as_py() for c in pc.value_counts(self.ids) if c["counts"].as_py() > 1}
        name, n = next(iter(times.items()))
        raise CellError(
            f"{self.name}: {len(times):,} cell {'id stands' if len(times) == 1 else 'ids stand'} there more than once (such as '{name}', "
            f"{n} times): make them unique first, for example with adata.obs_names_make_unique()"
        )

    @functools.cached_property
    def n_counts(self) -> np.ndarray | None:
        """obs `n_counts` as given (float32 stays float32, all else float64), or None. CountsError when NaN or not above zero."""
        if N_COUNTS not in self.obs_columns:
            return None
        stored = self.obs(N_COUNTS)
        totals = as_numbers(stored)
        if totals is None:
            raise CountsError(
                f"obs '{N_COUNTS}' holds {_in_words(stored.type)}, not numbers", of=self.name, remedy=N_COUNTS_REMEDY
            )
        wrong = ~(np.isfinite(totals) & (totals >= 0)) if totals.dtype.kind == "f" else totals < 0
        if wrong.any():
            i = int(np.argmax(wrong))
            raise CountsError(
                f"obs '{N_COUNTS}' of cell '{self.ids[i]}' is {totals[i]} ({int(wrong.sum()):,} such cells)",
                of=self.name,
                remedy=N_COUNTS_REMEDY,
            )
        return totals.astype(np.float32 if totals.dtype in (np.float16, np.float32) else np.float64)

    @property
    def totals_dtype(self) -> np.dtype:
        """The type of a block's n_counts."""
        return totals_dtype(self.dtype) if self.n_counts is None else self.n_counts.dtype

    def ranges(self, rows_per_block: int | None = None) -> list[tuple[int, int]]:
        """Consecutive row ranges that are read at once, each about as large as a block should be."""
        with self._reading():
            return self.x.ranges(rows_per_block)

    def block(self, a: int, b: int, *, allow_non_counts: bool = False) -> CountBlock:
        """The cells `a` to `b`, one of `ranges()` or part of one, checked.

        With `allow_non_counts` only entries above zero and below infinity are in it, and in its totals.

        Raises CountsError when entries are negative, NaN or fractional (unless `allow_non_counts`), or a cell with
        counts has an `n_counts` of zero; InputError when the file does not hold what it should.
        """
        indptr, indices, data = self.stored(a, b)
        if allow_non_counts:
            indptr, indices, data = above_zero(indptr, indices, data)
        elif odd := first_non_count(data):
            self._refuse(a, indptr, indices, data, *odd)
        stored_totals = self.n_counts
        totals = row_sums(indptr, data) if stored_totals is None else stored_totals[a:b]
        if stored_totals is not None and not totals.all():
            self._require_totals(a, indptr, data, totals)
        return CountBlock(a, indptr, indices, data, totals)

    def stored(self, a: int, b: int) -> Rows:
        """The cells `a` to `b` as they are stored, whatever they hold."""
        with self._reading():
            return self.x.rows(a, b)

    def blocks(self, *, rows_per_block: int | None = None, allow_non_counts: bool = False) -> Iterator[CountBlock]:
        """The cells as CountBlocks in file order, checked as `block` does."""
        for a, b in self.ranges(rows_per_block):
            yield self.block(a, b, allow_non_counts=allow_non_counts)

    def _reading(self) -> "_Reading":
        return _Reading(self)

    def _require_totals(self, start: int, indptr: np.ndarray, data: np.ndarray, totals: np.ndarray) -> None:
        for i in np.flatnonzero(totals == 0):
            if np.any(data[indptr[i] : indptr[i + 1]] != 0):
                raise zero_total(self, start + int(i))

    def _refuse(self, start: int, indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, i: int, kind: str) -> None:
        row = int(np.searchsorted(indptr, i, side="right")) - 1
        gene = next(iter(self.var.values()))[int(indices[i])]
        looks = {"fractional": " (log-normalised or scaled values?)", "negative": " (scaled values?)"}.get(kind, "")
        remedy = (
            self.hint()
            or f"take it from before it was normalised ({'nothing else in it holds' if self.others else 'it has no other matrix that could hold'} counts)"
        )
        if offers("allow_non_counts"):
            remedy += f", or {option('allow_non_counts', True)} to rank it as it is (what is not above zero is left out)"
        raise CountsError(
            f"{self.matrix} holds {shown(data[i])} (cell '{self.ids[start + row]}', gene '{gene}'), {value_of_kind(kind)}{looks}, not counts",
            of=self.name,
            remedy=remedy,
        )


def _in_words(kind: pa.DataType) -> str:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return "text" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else str(kind)


def turned(sides: str) -> str:
    """The end of a message about a matrix whose two sides (`sides`: "genes x cells") have each other's length."""
    return f": the matrix is {sides}, transpose it first"


def zero_total(source: CountSource, cell: int) -> CountsError:
    """The refusal of an n_counts of 0 for a cell that has counts."""
    return CountsError(
        f"obs '{N_COUNTS}' of cell '{source.ids[cell]}' is 0 but the cell has counts", of=source.name, remedy=N_COUNTS_REMEDY
    )


def shown(value: Any) -> str:
    """Format a number in six digits, or in as many as show that it is fractional."""
    short = f"{value:.6g}"
    return str(value) if float(short).is_integer() and float(short) != float(value) else short


class _Reading:
    """Turns what a damaged file does to its reader into one line about that file."""

    def __init__(self, source: CountSource):
        self.source = source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, e: Any, _: Any) -> None:
        where = f"{self.source.name}: {self.source.matrix}"
        if isinstance(e, InputError) and e.of == OF_A_PART:
            raise e.completed(of=where) from e
        if isinstance(e, (OSError, KeyError, ValueError, RuntimeError, EOFError, MemoryError)) and not isinstance(e, NotImplementedError):
            text = str(e).splitlines()[0][:200] if str(e) else type(e).__name__
            raise InputError(f"{where} could not be read to its end: {text}") from e


def looks_like_counts(matrix: Callable[[], Matrix]) -> bool:
    """Whether the entries of a matrix that are looked at (`Matrix.sample`) are counts, and some are not zero."""
    try:
        parts = list(matrix().sample())
    except (InputError, OSError, KeyError, ValueError, RuntimeError):
        return False
    return any(map(np.any, parts)) and all(p.dtype.kind in "fiu" and first_non_count(p) is None for p in parts)


def distinct_remarks(remarks: Sequence[Sequence[str]], labels: Sequence[str]) -> list[str]:
    """Deduplicate the remarks of the sources of one job; with several sources each sentence names its sources."""
    where: dict[str, list[str]] = {}
    for label, sentences in zip(labels, remarks, strict=True):
        for sentence in sentences:
            where.setdefault(sentence, []).append(label)
    return [sentence + (f" (in {first_names(names, 3)})" if len(labels) > 1 else "") for sentence, names in where.items()]


def first_names(names: list[str], n: int = 6) -> str:
    """The first `n` names of a list and the number of the others, for a message."""
    return (", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")) or "none"


def register(name: str, recognises: Callable[[Any], bool], opener: Callable[..., CountSource]) -> None:
    """Add a format: `recognises(input)` says whether it is one, `opener(input, layer=, raw=)` opens it."""
    FORMATS.append((name, recognises, opener))
