"""CountSource: what every format offers, and the registry of formats."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rankcell.counts.block import CountBlock, first_non_count, row_sums
from rankcell.errors import CellError, CountsError, InputError

N_COUNTS = "n_counts"
ENTRIES_PER_BLOCK = 2_000_000

FORMATS: list[tuple[str, Callable[[Any], bool], Callable[..., "CountSource"]]] = []


class CountSource:
    """A count matrix with cells as rows: ids and columns at hand, the matrix read in blocks.

    A format sets the attributes and gives `_matrix_blocks`; checks, n_counts and messages are here.

    Attributes: `name` (for messages and provenance), `matrix` ("X", "layer 'counts'", "raw"), `n_cells`, `n_genes`,
    `dtype`, `cell_ids` (str), `has_cell_ids` (False: the ids are row numbers), `var` (column name -> list of str, the
    index under its own name), `obs_columns`, `elsewhere` (names of other matrices in the file that could be asked for).
    """

    name: str
    matrix: str
    n_cells: int
    n_genes: int
    dtype: np.dtype
    cell_ids: list[str]
    has_cell_ids: bool
    var: dict[str, list[str]]
    obs_columns: list[str]

    def obs(self, column: str) -> Any:
        """One column of cell annotations as a pandas Series or Categorical; CellError when there is none."""
        raise NotImplementedError

    def _matrix_blocks(self, rows_per_block: int | None) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(indptr, indices, data) of consecutive blocks of rows."""
        raise NotImplementedError

    def hint(self) -> str:
        """Where counts seem to be instead, as the option to pass, or ''."""
        return ""

    def close(self) -> None:
        """Let go of the file."""

    def __enter__(self) -> "CountSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def require_obs(self, column: str) -> Any:
        if column not in self.obs_columns:
            raise CellError(f"{self.name} has no cell column '{column}'; it has {_some(self.obs_columns)}")
        return self.obs(column)

    def check_door(self) -> None:
        """What can be known before the matrix is read: numbers are there, and the cell ids are unique."""
        if not self.n_cells or not self.n_genes:
            raise InputError(f"{self.name}: {self.matrix} is empty ({self.n_cells:,} cells x {self.n_genes:,} genes)")
        if self.dtype.kind not in "biuf":
            raise CountsError(f"{self.name}: {self.matrix} holds {self.dtype}, not numbers")
        if len(set(self.cell_ids)) != self.n_cells:
            seen: set[str] = set()
            twice = [c for c in self.cell_ids if c in seen or seen.add(c)]
            raise CellError(
                f"{self.name}: {len(twice):,} cell ids stand there more than once (such as '{twice[0]}'): make them unique "
                "first, for example with adata.obs_names_make_unique()"
            )

    def n_counts(self) -> np.ndarray | None:
        """obs `n_counts` as given (float32 stays float32, all else float64), or None. CountsError when NaN or not above zero."""
        if N_COUNTS not in self.obs_columns:
            return None
        given = np.asarray(self.obs(N_COUNTS))
        if given.dtype.kind not in "fiu":
            raise CountsError(f"{self.name}: obs '{N_COUNTS}' holds {given.dtype}, not numbers")
        wrong = ~(np.isfinite(given) & (given >= 0)) if given.dtype.kind == "f" else given < 0
        if wrong.any():
            i = int(np.argmax(wrong))
            raise CountsError(
                f"{self.name}: obs '{N_COUNTS}' of cell '{self.cell_ids[i]}' is {given[i]} ({int(wrong.sum()):,} such cells): "
                "correct or remove that column; without it the row sum is used"
            )
        return given.astype(np.float32 if given.dtype in (np.float16, np.float32) else np.float64)

    def blocks(self, *, rows_per_block: int | None = None, allow_non_counts: bool = False) -> Iterator[CountBlock]:
        """The cells as CountBlocks in file order, checked.

        Raises CountsError when entries are negative, NaN or fractional (unless `allow_non_counts`), or a cell with
        counts has an `n_counts` of zero.
        """
        given = self.n_counts()
        start = 0
        for indptr, indices, data in self._matrix_blocks(rows_per_block):
            if not allow_non_counts and (found := first_non_count(data)):
                self._refuse(start, indptr, indices, data, *found)
            n = len(indptr) - 1
            totals = row_sums(indptr, data) if given is None else given[start : start + n]
            if given is not None:
                self._require_totals(start, indptr, data, totals)
            yield CountBlock(start, indptr, indices, data, totals)
            start += n

    def _require_totals(self, start: int, indptr: np.ndarray, data: np.ndarray, totals: np.ndarray) -> None:
        for i in np.flatnonzero(totals == 0):
            if np.any(data[indptr[i] : indptr[i + 1]] != 0):
                raise CountsError(
                    f"{self.name}: obs '{N_COUNTS}' of cell '{self.cell_ids[start + i]}' is 0 but the cell has counts: "
                    "correct or remove that column; without it the row sum is used"
                )

    def _refuse(self, start: int, indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, i: int, kind: str) -> None:
        row = int(np.searchsorted(indptr, i, side="right")) - 1
        gene = next(iter(self.var.values()))[int(indices[i])]
        looks = {"fractional": " (log-normalised or scaled values?)", "negative": " (scaled values?)"}.get(kind, "")
        way_out = self.hint() or "pass --layer or --raw to point at the raw counts"
        raise CountsError(
            f"{self.name}: {self.matrix} holds {data[i]:.6g} (cell '{self.cell_ids[start + row]}', gene '{gene}'), a {kind} "
            f"value{looks}, not counts: {way_out}, or --allow-non-counts to rank it as it is"
        )


def _some(names: list[str], n: int = 6) -> str:
    return (", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")) or "none"


def row_groups(indptr: np.ndarray, rows_per_block: int | None) -> Iterator[tuple[int, int]]:
    """Consecutive row ranges of `rows_per_block` rows, or of about ENTRIES_PER_BLOCK stored entries."""
    n = len(indptr) - 1
    start = 0
    while start < n:
        if rows_per_block:
            stop = min(n, start + rows_per_block)
        else:
            stop = int(np.searchsorted(indptr, indptr[start] + ENTRIES_PER_BLOCK, side="right")) - 1
            stop = min(n, max(stop, start + 1))
        yield start, stop
        start = stop


def register(name: str, recognises: Callable[[Any], bool], opener: Callable[..., CountSource]) -> None:
    """Add a format: `recognises(input)` says whether it is one, `opener(input, layer=, raw=)` opens it."""
    FORMATS.append((name, recognises, opener))
