"""What is in a count input and what would go wrong with it: every entry read once, in a stream, to plain facts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.counts.arrays import as_numbers
from rankcell.counts.block import CountBlock, above_zero, first_non_count, row_sums
from rankcell.counts.genes.features import ColumnKind
from rankcell.counts.genes.gene_map import GeneMap, match_genes
from rankcell.counts.genes.ids import IdFacts, id_facts
from rankcell.counts.io.opening import open_counts
from rankcell.counts.parallel import in_order
from rankcell.counts.selection import select_rows
from rankcell.counts.source import N_COUNTS, N_COUNTS_REMEDY, CountSource, zero_total
from rankcell.counts.validate.places import MatrixCandidate, stored_as
from rankcell.errors import CellError, GeneError, InputError
from rankcell.vocab import Vocabulary

FILTER_PASS = "filter_pass"
_MOST_COLUMNS = 20
_MOST_UNKNOWN = 10
_EQUAL = 1e-6  # row sums in single precision differ from n_counts in double by less


@dataclass(frozen=True)
class NonCount:
    """The first entry that is no count: value, kind, cell and gene."""

    value: float
    kind: str
    cell: str
    gene: str


@dataclass(frozen=True)
class GeneFacts:
    """The gene columns, and what the vocabulary knows of them.

    `unknown`: the most abundant genes that it does not know, with their counts. `in_upper_case`: columns that it would know in
    upper case, looked at when it knows too few. `excluded`: kind -> number of the columns that are no genes, counted nowhere.
    `prefix`: the genome that is taken from in front of the names.
    """

    column: str
    ids: IdFacts
    n_columns: int
    n_known: int
    n_genes: int
    n_summed: int
    n_detected: int
    n_detected_known: int
    counts: float
    counts_known: float
    unknown: list[tuple[str, float]]
    n_duplicate_names: int
    in_upper_case: int
    excluded: dict[ColumnKind, int]
    prefix: str


@dataclass(frozen=True)
class TotalFacts:
    """The totals of the selected cells; `in_obs`: they are obs n_counts. `unusable`: why they are not, although obs has it.

    `n_lower`, `n_higher`: cells whose row sum is lower or higher than n_counts. `most_lower`: the largest part of n_counts that
    a row sum lacks.
    """

    in_obs: bool
    low: float
    high: float
    unusable: str = ""
    n_lower: int = 0
    n_higher: int = 0
    most_lower: float = 0.0


@dataclass(frozen=True)
class Facts:
    """One input, read with one vocabulary.

    Everything about cells is about the selected ones, `n_selected` of `n_cells`. `genes_per_cell`: known genes of each, int32.
    `n_pass`: cells that obs `filter_pass` keeps, None without it. `obs`: cell columns, with what they hold in words, "" for
    those that were not looked at. `remarks`: how it is read otherwise than one may think. `wrong`: what would stop `rankcell tokenize`, each a sentence with its way out.
    """

    name: str
    format: str
    stored: str
    dtype: str
    n_cells: int
    n_columns: int
    n_entries: int
    n_zeros: int
    n_repeated: int
    non_count: NonCount | None
    genes: GeneFacts
    totals: TotalFacts
    has_cell_ids: bool
    n_selected: int
    genes_per_cell: np.ndarray
    n_pass: int | None
    obs: dict[str, str]
    wrong: list[str]
    remarks: list[str]


def read_facts(
    item: Any,
    vocab: Vocabulary,
    place: MatrixCandidate,
    *,
    gene_column: str | None = None,
    genome: str | None = None,
    obs: Sequence[str] = (),
    filter: str | None = None,
    workers: int | None = None,
    tick: Callable[[int], None] | None = None,
) -> Facts:
    """Read the counts of one input at `place`. `tick(cells)` is called with the cells of each block.

    InputError when it cannot be opened or read to its end; what makes it unfit for tokens stands in `wrong`.
    """
    with open_counts(item, layer=place.key.layer, raw=place.key.raw) as source:
        wrong: list[str] = []
        genes = _map_genes(source, vocab, gene_column, genome, wrong)
        obs_totals, unusable = _obs_totals(source, wrong)
        mask = _mask(source, filter, wrong)
        for column in obs:
            if column not in source.obs_columns:
                wrong.append(_lacking(source, column))
        tally = _Tally(source, genes, obs_totals, mask)
        for part in in_order(tally.work, tally.ranges, workers=workers):
            tally.add(part)
            if tick:
                tick(part.cells[1] - part.cells[0])
        if tally.zero_total is not None:
            cell = source.ids[tally.zero_total]
            unusable = f"it is 0 in cell '{cell}', which has counts"
            wrong.append(str(zero_total(source, tally.zero_total)))
        return Facts(
            name=source.name,
            format=source.format,
            stored=stored_as(source.x),
            dtype=str(source.dtype),
            n_cells=source.n_cells,
            n_columns=source.n_genes,
            n_entries=tally.n_entries,
            n_zeros=tally.n_zeros,
            n_repeated=tally.n_repeated,
            non_count=tally.non_count,
            genes=_gene_facts(source, vocab, genes, tally.column_sum),
            totals=tally.totals(unusable),
            has_cell_ids=source.has_cell_ids,
            n_selected=int(tally.mask.sum()),
            genes_per_cell=tally.n_known[tally.mask],
            n_pass=_passing(source),
            obs=_obs_facts(source),
            wrong=wrong,
            remarks=source.remarks,
        )


def _map_genes(source: CountSource, vocab: Vocabulary, gene_column: str | None, genome: str | None, wrong: list[str]) -> GeneMap:
    """The gene map of tokenization; where that is refused, the best match regardless of how few genes it knows."""
    try:
        return match_genes(source, vocab, gene_column=gene_column, genome=genome)
    except GeneError as e:
        wrong.append(str(e))
        gene_column = gene_column if gene_column in source.var else None
        return match_genes(source, vocab, gene_column=gene_column, min_known=0)


def _obs_totals(source: CountSource, wrong: list[str]) -> tuple[np.ndarray | None, str]:
    """(obs n_counts, why it is not usable), taken out of the source: its blocks then carry the row sums."""
    totals, unusable = None, ""
    try:
        totals = source.n_counts
    except InputError as e:
        wrong.append(str(e.completed(remedy=N_COUNTS_REMEDY)))
        unusable = _unusable(source)
    source.n_counts = None
    return totals, unusable


def _unusable(source: CountSource) -> str:
    """Describe the values of an n_counts column that was refused."""
    try:
        totals = as_numbers(source.obs(N_COUNTS))
    except InputError:
        return "it cannot be read"
    if totals is None:
        return "it holds no numbers"
    wrong = np.flatnonzero(~(np.isfinite(totals) & (totals >= 0)))
    if not len(wrong):
        return "its numbers are refused"
    value = "NaN" if np.isnan(totals[wrong[0]]) else f"{totals[wrong[0]]:g}"
    more = f" ({len(wrong):,} such cells)" if len(wrong) > 1 else ""
    return f"it is {value} in cell '{source.ids[wrong[0]]}'{more}"


def _mask(source: CountSource, filter: str | None, wrong: list[str]) -> np.ndarray:
    try:
        return select_rows(source, filter) if filter else np.ones(source.n_cells, bool)
    except InputError as e:
        wrong.append(str(e))
        return np.ones(source.n_cells, bool)


def _lacking(source: CountSource, column: str) -> str:
    try:
        source.require_obs(column)
    except CellError as e:
        return str(e)
    return ""


@dataclass(frozen=True)
class _Part:
    """The facts of one block; `odd`: its first entry that is no count."""

    cells: tuple[int, int]
    rows: np.ndarray
    n_entries: int
    n_zeros: int
    n_repeated: int
    column_sum: np.ndarray
    n_known: np.ndarray
    row_sums: np.ndarray
    odd: NonCount | None


@dataclass
class _Tally:
    """The facts of all blocks so far. Blocks in which no cell is kept are not read, as for tokens."""

    source: CountSource
    genes: GeneMap
    obs_totals: np.ndarray | None
    mask: np.ndarray
    n_entries: int = 0
    n_zeros: int = 0
    n_repeated: int = 0
    non_count: NonCount | None = None
    zero_total: int | None = None
    ranges: list[tuple[int, int]] = field(init=False)
    column_sum: np.ndarray = field(init=False)
    n_known: np.ndarray = field(init=False)
    sums: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.ranges = [(a, b) for a, b in self.source.ranges() if self.mask[a:b].any()]
        self.column_sum = np.zeros(self.source.n_genes)
        self.n_known = np.zeros(self.source.n_cells, np.int32)
        self.sums = np.zeros(self.source.n_cells)
        nothing = np.empty(0, _countable(np.empty(0, self.source.dtype)).dtype)
        self._count(CountBlock(0, np.zeros(1, np.int64), np.empty(0, np.int32), nothing, np.empty(0)), np.empty(0, np.int64))

    def work(self, at: tuple[int, int]) -> _Part:
        """Read and count one range, in any thread."""
        indptr, indices, data = self.source.stored(*at)
        odd = self._odd(at[0], indptr, indices, data)
        usable = above_zero(indptr, indices, data) if odd else (indptr, indices, data)
        sums = row_sums(usable[0], usable[2]).astype(np.float64)
        block = CountBlock(at[0], indptr, indices, data, sums)
        rows = np.flatnonzero(self.mask[slice(*at)])
        column_sum, n_known, zeros, repeated = self._count(block, rows)
        stored = int(np.diff(block.indptr)[rows].sum())
        return _Part(at, rows + at[0], stored, zeros, repeated, column_sum, n_known, sums, odd)

    def _count(self, block: CountBlock, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, int, int]:
        from rankcell.counts.validate.check_kernel import tally

        column_sum, n_known = np.zeros(len(self.column_sum)), np.zeros(len(rows), np.int32)
        slots, n_slots = self.genes.slot_of_column, len(self.genes.gene_of_slot)
        zeros_and_repeats = tally(rows, block.indptr, block.indices, _countable(block.data), slots, n_slots, column_sum, n_known)
        return column_sum, n_known, int(zeros_and_repeats[0]), int(zeros_and_repeats[1])

    def _odd(self, start: int, indptr: np.ndarray, indices: np.ndarray, data: np.ndarray) -> NonCount | None:
        odd = first_non_count(data)
        if odd is None:
            return None
        i, kind = odd
        row = start + int(np.searchsorted(indptr, i, side="right")) - 1
        gene = next(iter(self.source.var.values()))[int(indices[i])]
        return NonCount(float(data[i]), kind, str(self.source.ids[row]), gene)

    def add(self, part: _Part) -> None:
        """Accumulate the facts of a block; called in the order of the blocks."""
        self.n_entries += part.n_entries
        self.n_zeros += part.n_zeros
        self.n_repeated += part.n_repeated
        self.non_count = self.non_count or part.odd
        self.column_sum += part.column_sum
        self.n_known[part.rows] = part.n_known
        cells = slice(*part.cells)
        self.sums[cells] = part.row_sums
        if self.obs_totals is not None and self.zero_total is None:
            empty = np.flatnonzero((self.obs_totals[cells] == 0) & (part.row_sums != 0))
            self.zero_total = part.cells[0] + int(empty[0]) if len(empty) else None

    def totals(self, unusable: str) -> TotalFacts:
        sums = self.sums[self.mask]
        used = sums if self.obs_totals is None else self.obs_totals[self.mask].astype(np.float64)
        low, high = (float(used.min()), float(used.max())) if len(used) else (0.0, 0.0)
        if self.obs_totals is None or unusable:
            return TotalFacts(False, low, high, unusable)
        with np.errstate(invalid="ignore", over="ignore"):  # what is not a count may be infinite
            lacking = (used - sums) / np.maximum(np.where(used > 0, used, np.abs(sums)), np.finfo(np.float64).tiny)
        lower, higher = int((lacking > _EQUAL).sum()), int((lacking < -_EQUAL).sum())
        return TotalFacts(True, low, high, "", lower, higher, float(lacking.max(initial=0.0)))


def _countable(data: np.ndarray) -> np.ndarray:
    """Entries in a type that compiled loops take."""
    if data.dtype == np.float16:
        return data.astype(np.float32)
    return data if data.dtype.isnative else data.astype(data.dtype.newbyteorder("="))


def _gene_facts(source: CountSource, vocab: Vocabulary, genes: GeneMap, column_sum: np.ndarray) -> GeneFacts:
    known, detected = genes.slot_of_column >= 0, column_sum > 0
    index, ids = next(iter(source.var.values())), source.var[genes.column]
    columns_of_slot = np.bincount(genes.slot_of_column[known], minlength=len(genes.gene_of_slot))
    missed = np.flatnonzero(~known & detected)
    most = missed[np.argsort(-column_sum[missed], kind="stable")][:_MOST_UNKNOWN]
    few = int(known.sum()) < 0.5 * len(known)
    return GeneFacts(
        column=genes.column,
        ids=id_facts(ids),
        n_columns=len(known),
        n_known=int(known.sum()),
        n_genes=len(genes.gene_of_slot),
        n_summed=int(columns_of_slot[columns_of_slot > 1].sum()),
        n_detected=int(detected.sum()),
        n_detected_known=int((known & detected).sum()),
        counts=float(column_sum.sum()),
        counts_known=float(column_sum[known].sum()),
        unknown=[(ids[i].strip() or index[i], float(column_sum[i])) for i in most],
        n_duplicate_names=len(index) - len(set(index)),
        in_upper_case=int((vocab.lookup(v.upper() for v in ids) >= 0).sum()) if few else 0,
        excluded=dict(source.excluded),
        prefix=genes.prefix,
    )


def _passing(source: CountSource) -> int | None:
    try:
        return int(select_rows(source, FILTER_PASS).sum()) if FILTER_PASS in source.obs_columns else None
    except InputError:
        return None


def _obs_facts(source: CountSource) -> dict[str, str]:
    return {c: _kind(source, c) if n < _MOST_COLUMNS else "" for n, c in enumerate(source.obs_columns)}


def _kind(source: CountSource, column: str) -> str:
    """What a cell column holds, in words."""
    try:
        values = source.obs(column)
    except InputError:
        return "not readable"
    kind = values.type
    if pa.types.is_dictionary(kind):
        n = len(values.dictionary)
        return f"{n:,} kind{'' if n == 1 else 's'}"
    names = {"whole numbers": pa.types.is_integer, "numbers": pa.types.is_floating, "yes or no": pa.types.is_boolean}
    return next((word for word, test in names.items() if test(kind)), "text")
