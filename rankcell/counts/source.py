"""CountSource: what every format offers, and the registry of formats."""

import functools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.counts.arrays import as_numbers
from rankcell.counts.block import CountBlock, first_non_count, row_sums, totals_dtype
from rankcell.counts.matrix import Matrix
from rankcell.errors import CellError, CountsError, InputError

N_COUNTS = "n_counts"

FORMATS: list[tuple[str, Callable[[Any], bool], Callable[..., "CountSource"]]] = []


class CountSource:
    """A count matrix with cells as rows: ids and columns at hand, the matrix read in blocks, from any thread.

    A format sets the attributes and gives `obs`; checks, n_counts and messages are here.

    Attributes: `name` (for messages and provenance), `format` ("h5ad", "loom", ...), `matrix` ("X", "layer 'counts'",
    "raw"), `x` (the Matrix), `ids` (cell ids, an arrow string array), `has_cell_ids` (False: the ids are row numbers),
    `var` (column name -> list of str, the index under its own name), `obs_columns`, `others` (option that asks for it ->
    another matrix of the same input: "" is X), `left_out` (kind -> number of columns that are no genes and not counted here),
    `kept_columns` (the numbers of the columns that are here, when some were left out of an AnnData).
    """

    name: str
    format: str
    matrix: str
    x: Matrix
    ids: pa.StringArray
    has_cell_ids: bool = True
    var: dict[str, list[str]]
    obs_columns: list[str]
    others: dict[str, Callable[[], Matrix]]
    left_out: Mapping[str, int] = MappingProxyType({})
    kept_columns: np.ndarray | None = None

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
        if column not in self.obs_columns:
            raise CellError(f"{self.name} has no cell column '{column}'; it has {some(self.obs_columns)}")
        return self.obs(column)

    def hint(self) -> str:
        """Where counts seem to be instead, as the option to pass, or ''."""
        for option, matrix in self.others.items():
            if looks_like_counts(matrix):
                return f"pass {option}, which holds counts" if option else "leave out --layer and --raw: X holds counts"
        return ""

    def check_door(self) -> None:
        """What can be known before the matrix is read: numbers are there, and the cell ids are unique."""
        if not self.n_cells or not self.n_genes:
            raise InputError(f"{self.name}: {self.matrix} is empty ({self.n_cells:,} cells x {self.n_genes:,} genes)")
        if self.dtype.kind not in "biuf":
            raise CountsError(f"{self.name}: {self.matrix} holds {self.dtype}, not numbers")
        n_genes = len(next(iter(self.var.values())))
        if (len(self.ids), n_genes) != self.x.shape:
            raise InputError(
                f"{self.name}: {self.matrix} is {self.n_cells:,} x {self.n_genes:,}, but there are {len(self.ids):,} cell ids "
                f"and {n_genes:,} genes"
            )
        self._check_ids()

    def _check_ids(self) -> None:
        import pyarrow.compute as pc

        if pc.count_distinct(self.ids).as_py() == self.n_cells:
            return
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
        given = as_numbers(stored)
        if given is None:
            raise CountsError(
                f"{self.name}: obs '{N_COUNTS}' holds {stored.type}, not numbers: correct or remove that column; without it the row sum is used"
            )
        wrong = ~(np.isfinite(given) & (given >= 0)) if given.dtype.kind == "f" else given < 0
        if wrong.any():
            i = int(np.argmax(wrong))
            raise CountsError(
                f"{self.name}: obs '{N_COUNTS}' of cell '{self.ids[i]}' is {given[i]} ({int(wrong.sum()):,} such cells): "
                "correct or remove that column; without it the row sum is used"
            )
        return given.astype(np.float32 if given.dtype in (np.float16, np.float32) else np.float64)

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

        Raises CountsError when entries are negative, NaN or fractional (unless `allow_non_counts`), or a cell with
        counts has an `n_counts` of zero; InputError when the file does not hold what it should.
        """
        with self._reading():
            indptr, indices, data = self.x.rows(a, b)
        if not allow_non_counts and (found := first_non_count(data)):
            self._refuse(a, indptr, indices, data, *found)
        given = self.n_counts
        totals = row_sums(indptr, data) if given is None else given[a:b]
        if given is not None and not totals.all():
            self._require_totals(a, indptr, data, totals)
        return CountBlock(a, indptr, indices, data, totals)

    def blocks(self, *, rows_per_block: int | None = None, allow_non_counts: bool = False) -> Iterator[CountBlock]:
        """The cells as CountBlocks in file order, checked as `block` does."""
        for a, b in self.ranges(rows_per_block):
            yield self.block(a, b, allow_non_counts=allow_non_counts)

    def _reading(self) -> "_Reading":
        return _Reading(self)

    def _require_totals(self, start: int, indptr: np.ndarray, data: np.ndarray, totals: np.ndarray) -> None:
        for i in np.flatnonzero(totals == 0):
            if np.any(data[indptr[i] : indptr[i + 1]] != 0):
                raise CountsError(
                    f"{self.name}: obs '{N_COUNTS}' of cell '{self.ids[start + int(i)]}' is 0 but the cell has counts: "
                    "correct or remove that column; without it the row sum is used"
                )

    def _refuse(self, start: int, indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, i: int, kind: str) -> None:
        row = int(np.searchsorted(indptr, i, side="right")) - 1
        gene = next(iter(self.var.values()))[int(indices[i])]
        looks = {"fractional": " (log-normalised or scaled values?)", "negative": " (scaled values?)"}.get(kind, "")
        way_out = self.hint() or "take it from before it was normalised (nothing that --layer or --raw could name seems to hold counts)"
        raise CountsError(
            f"{self.name}: {self.matrix} holds {_shown(data[i])} (cell '{self.ids[start + row]}', gene '{gene}'), a {kind} "
            f"value{looks}, not counts: {way_out}, or --allow-non-counts to rank it as it is (what is not above zero is left out)"
        )


def _shown(value: Any) -> str:
    """A number in six digits, or in as many as it takes to see that it is no whole one."""
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
        if isinstance(e, InputError) and self.source.name not in str(e):
            raise type(e)(f"{where}: {e}") from e
        if isinstance(e, (OSError, KeyError, ValueError, RuntimeError, EOFError)) and not isinstance(e, NotImplementedError):
            text = str(e).splitlines()[0][:200] if str(e) else type(e).__name__
            raise InputError(f"{where} could not be read to its end: {text}") from e


def looks_like_counts(matrix: Callable[[], Matrix]) -> bool:
    """Whether the first stored entries of a matrix are counts, and some are not zero."""
    try:
        head = matrix().head()
    except (InputError, OSError, KeyError, ValueError, RuntimeError):
        return False
    return head.dtype.kind in "fiu" and len(head) > 0 and bool(np.any(head)) and first_non_count(head) is None


def some(names: list[str], n: int = 6) -> str:
    """The first names of a list, for a message."""
    return (", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")) or "none"


def register(name: str, recognises: Callable[[Any], bool], opener: Callable[..., CountSource]) -> None:
    """Add a format: `recognises(input)` says whether it is one, `opener(input, layer=, raw=)` opens it."""
    FORMATS.append((name, recognises, opener))
