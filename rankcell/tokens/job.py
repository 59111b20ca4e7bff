"""One run of the Tokenizer: its sources, opened one after the other, into record batches of a fixed number of rows."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.counts import CountSource, Inputs, column_values, find_inputs, in_order, match_genes, open_at_counts, select_rows
from rankcell.counts.arrays import numbers, texts
from rankcell.counts.columns import carried_names
from rankcell.counts.genes.features import remarks_of
from rankcell.counts.options import Counts
from rankcell.counts.source import distinct_remarks, first_names
from rankcell.counts.validate.repeats import Listed, refuse_repeated_cells
from rankcell.errors import CellError
from rankcell.tokens.arrow import holds
from rankcell.tokens.cropping import Cropping
from rankcell.tokens.options import Tokenizing
from rankcell.tokens.ranker import RankedRows, Ranker, token_type
from rankcell.tokens.record_batches import plain_obs
from rankcell.tokens.spec import RENAMED, renamed
from rankcell.tokens.tokenset import OWN_COLUMNS
from rankcell.vocab import Frame, Vocabulary

ROWS_PER_BATCH = 1_000
SOURCE = "source"


@dataclass(frozen=True)
class Encoding:
    """The encoding of rows: vocabulary, frame and longest row."""

    vocab: Vocabulary
    frame: Frame
    max_len: int


@dataclass(frozen=True)
class Reading:
    """How counts are read, and what is kept of them. `obs`: cell columns, one name or several; kept as a tuple without repeats."""

    obs: str | Sequence[str] = ()
    tokenizing: Tokenizing = Tokenizing()
    counts: Counts = Counts()

    def __post_init__(self) -> None:
        object.__setattr__(self, "obs", (self.obs,) if isinstance(self.obs, str) else tuple(dict.fromkeys(self.obs)))

    def open(self, item: Any) -> CountSource:
        """Open one input at its counts."""
        c = self.counts
        return open_at_counts(item, layer=c.counts_layer, raw=c.raw, genome=c.genome, allow_non_counts=c.allow_non_counts)


@dataclass
class Piece:
    """Ranked rows of one part, and which of its cells they are."""

    part: "Part"
    cells: np.ndarray
    ranked: RankedRows


class Part:
    """One source within a job."""

    def __init__(self, source: CountSource, label: str | None, encoding: Encoding, reading: Reading):
        self.source, self.label, self.reading = source, label, reading
        self.genes = match_genes(source, encoding.vocab, gene_column=reading.counts.gene_column, genome=reading.counts.genome)
        self.obs = {name: source.require_obs(c) for name, c in names_of_obs(reading.obs, several=label is not None).items()}
        self.mask = select_rows(source, reading.tokenizing.filter) if reading.tokenizing.filter else None
        self.n_selected = source.n_cells if self.mask is None else int(self.mask.sum())
        self._rank = Ranker(encoding.vocab, encoding.frame, encoding.max_len, self.genes)

    def facts(self) -> dict[str, Any]:
        """The provenance of the rows, for the TokenSpec."""
        facts = {
            "name": os.path.basename(self.source.name),
            "format": self.source.format,
            "matrix": self.source.matrix,
            "gene_column": self.genes.column,
            "genes_known": self.genes.n_known,
            "genes": self.source.n_genes,
            "n_counts": "obs n_counts" if "n_counts" in self.source.obs_columns else "row sum",
            "cell_ids": "given" if self.source.has_cell_ids else "row numbers",
        }
        if self.genes.prefix:
            facts["prefix_taken_off"] = self.genes.prefix
        if self.source.excluded:
            facts["columns_left_out"] = {str(kind): n for kind, n in self.source.excluded.items()}
        if self.mask is not None:
            facts |= {"filter": self.reading.tokenizing.filter, "cells_left_out": self.source.n_cells - self.n_selected}
        return facts

    def pieces(self) -> Iterator[Piece]:
        """Rank the selected rows, in order, by several threads."""
        options, source = self.reading.tokenizing, self.source
        ranges = source.ranges(options.rows_per_block)
        if self.mask is not None:
            ranges = [(a, b) for a, b in ranges if self.mask[a:b].any()]

        def work(at: tuple[int, int]) -> Piece:
            block = source.block(*at, allow_non_counts=self.reading.counts.allow_non_counts)
            rows = np.arange(at[1] - at[0]) if self.mask is None else np.flatnonzero(self.mask[slice(*at)])
            ranked = self._rank(block, rows, keep_counts=options.keep_counts, keep_uncropped=options.keep_uncropped)
            return Piece(self, rows + at[0], ranked)

        source.x.use_rows_at_once()
        if ranges:
            self._rank.warm_up(source.dtype, source.totals_dtype)
        yield from in_order(work, ranges, workers=options.workers)


@dataclass
class Job:
    """All sources of one run. `schema`, `facts` and `n_cells` are known before a row is ranked."""

    encoding: Encoding
    reading: Reading
    inputs: Inputs
    schema: pa.Schema = field(init=False)
    categories: dict[str, dict[str, Any]] = field(init=False)
    facts: dict[str, Any] = field(init=False)
    n_cells: int = 0
    n_selected: int = 0
    n_empty: int = 0
    cropping: Cropping = field(init=False)
    remarks: list[str] = field(default_factory=list)
    _only: Part | None = None

    @classmethod
    def of(cls, encoding: Encoding, source: Any, reading: Reading) -> "Job":
        """Open and check every source before work begins, so that errors come first."""
        job, tokenizing = cls(encoding, reading, find_inputs(source)), reading.tokenizing
        job.cropping = Cropping(encoding.max_len - len(encoding.frame))
        obs, facts, remarks, listed = [], [], [], []
        values_of_column: dict[str, dict[str, None]] = {}  # column -> values, where the filter has kept nothing yet
        for n in range(len(job.inputs.items)):
            part = job._open(n)
            job.n_cells += part.source.n_cells
            job.n_selected += part.n_selected
            obs.append(part.obs)
            facts.append(part.facts())
            remarks.append(remarks_of(part.source))
            if tokenizing.filter and not job.n_selected:
                for column, values in column_values(part.source, tokenizing.filter).items():
                    values_of_column.setdefault(column, {}).update(dict.fromkeys(values))
            if len(job.inputs.items) == 1:
                job._only = part
            else:
                listed.append(Listed.of(part.source, functools.partial(reading.open, job.inputs.items[n])))
                part.source.close()
        if not tokenizing.allow_repeated_cells:
            refuse_repeated_cells(listed)
        if tokenizing.filter and not job.n_selected:
            job.close()
            columns = "; ".join(f"{column} holds {first_names(list(values), 10)}" for column, values in values_of_column.items())
            raise CellError(f'the filter "{tokenizing.filter}" keeps none of the {job.n_cells:,} cells; {columns}')
        job.remarks = distinct_remarks(remarks, job.inputs.labels)
        job.facts = {"files": [{SOURCE: s} | f for s, f in zip(job.inputs.labels, facts, strict=True)]} if job.inputs.several else facts[0]
        if others := renamed(names_of_obs(reading.obs, several=job.inputs.several)):
            job.facts |= others
            words = ", ".join(f"'{column}' as '{name}'" for column, name in others[RENAMED].items())
            job.remarks.append(f"cell columns that are called as tokens' own are carried under another name: {words}")
        try:
            columns, job.categories = column_types(obs, job.inputs)
        except CellError:
            job.close()
            raise
        job.schema = pa.schema({**_own_types(tokenizing, job.inputs.several, token_type(encoding.vocab)), **columns})
        return job

    def _open(self, n: int) -> Part:
        source = self.reading.open(self.inputs.items[n])
        try:
            return Part(source, self.inputs.labels[n] if self.inputs.several else None, self.encoding, self.reading)
        except BaseException:
            source.close()
            raise

    def close(self) -> None:
        if self._only:
            self._only.source.close()

    def batches(self, progress: Callable[[int, int], None] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows as record batches of ROWS_PER_BATCH rows (the last may have fewer), whatever the blocks were."""
        waiting: list[Piece] = []
        n_waiting = done = 0
        for n in range(len(self.inputs.items)):
            part = self._only or self._open(n)
            with part.source:
                for piece in part.pieces():
                    self.n_empty += int((piece.ranked.lengths == len(self.encoding.frame)).sum())
                    self.cropping = self.cropping.add(piece.ranked.n_genes)
                    waiting.append(piece)
                    n_waiting += len(piece.cells)
                    while n_waiting >= ROWS_PER_BATCH:
                        taken, waiting = _split(waiting, ROWS_PER_BATCH)
                        n_waiting -= ROWS_PER_BATCH
                        yield self._batch(taken)
                        if progress:
                            progress(done + int(taken[-1].cells[-1]) + 1, self.n_cells)
                done += part.source.n_cells
        if waiting:
            yield self._batch(waiting)
        if progress:
            progress(self.n_cells, self.n_cells)

    def _batch(self, pieces: Sequence[Piece]) -> pa.RecordBatch:
        options = self.reading.tokenizing
        rows = [p.ranked for p in pieces]
        lengths = _joined([r.lengths for r in rows])
        columns = {"input_ids": _lists(_joined([r.values for r in rows]), lengths), "length": numbers(lengths)}
        if options.keep_counts:
            columns["counts"] = _lists(_joined([r.counts for r in rows]), lengths)
        if options.keep_uncropped:
            n_genes = _joined([r.n_genes for r in rows])
            columns |= {"input_ids_uncropped": _lists(_joined([r.uncropped for r in rows]), n_genes), "length_uncropped": numbers(n_genes)}
        columns["cell_id"] = _concatenated([_cell_ids(p) for p in pieces], pa.string())
        if self.inputs.several:
            columns[SOURCE] = texts([p.part.label for p in pieces for _ in range(len(p.cells))])
        for name in names_of_obs(self.reading.obs, several=self.inputs.several):
            taken = [plain_obs(p.part.obs[name].take(numbers(p.cells))) for p in pieces]
            columns[name] = _concatenated(taken, self.schema.field(name).type)
        return pa.RecordBatch.from_arrays(list(columns.values()), schema=self.schema)


def _own_types(options: Tokenizing, several: bool, token: np.dtype) -> dict[str, pa.DataType]:
    ids = pa.list_(pa.from_numpy_dtype(token))
    return {
        **{"input_ids": ids, "length": pa.int64()},
        **({"counts": pa.list_(pa.float32())} if options.keep_counts else {}),
        **({"input_ids_uncropped": ids, "length_uncropped": pa.int64()} if options.keep_uncropped else {}),
        **{"cell_id": pa.string()},
        **({SOURCE: pa.string()} if several else {}),
    }


def names_of_obs(columns: Iterable[str], *, several: bool) -> dict[str, str]:
    """{name in a token set: cell column}. `several`: the set is made of several inputs, and says of each cell which one it is from."""
    return carried_names(columns, (*OWN_COLUMNS, SOURCE) if several else OWN_COLUMNS)


def column_types(obs: Sequence[dict[str, pa.Array]], inputs: Inputs) -> tuple[dict[str, pa.DataType], dict[str, dict[str, Any]]]:
    """The type of each cell column over all sources, and the categories of those that are categories in all of them.

    CellError where the sources do not agree, or a token set cannot hold the column.
    """
    types, categories = {}, {}
    for name in obs[0] if obs else ():
        columns = [o[name] for o in obs]
        kinds = [plain_obs(c[:0]).type for c in columns]
        try:
            types[name] = pa.unify_schemas([pa.schema({name: k}) for k in kinds], promote_options="permissive").field(name).type
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            odd = next(n for n, k in enumerate(kinds) if k != kinds[0])
            raise CellError(
                f"the cell column '{name}' holds {kinds[0]} in {inputs.labels[0]} and {kinds[odd]} in {inputs.labels[odd]}: "
                "make them alike, or leave the column out"
            ) from None
        if pa.types.is_null(types[name]):
            types[name] = pa.string()
        if not holds(types[name]):
            raise CellError(
                f"the cell column '{name}' holds {types[name]}, which a token set cannot hold: make it text first, or leave it out"
            )
        if types[name] == pa.string() and all(pa.types.is_dictionary(c.type) for c in columns):
            lists = [c.dictionary.to_pylist() for c in columns]
            is_ordered = all(c.type.ordered for c in columns) and all(x == lists[0] for x in lists)
            categories[name] = {"categories": list(dict.fromkeys(c for x in lists for c in x)), "ordered": is_ordered}
    return types, categories


def _cell_ids(piece: Piece) -> pa.Array:
    ids = piece.part.source.ids.take(numbers(piece.cells))
    if piece.part.label is None:
        return ids
    import pyarrow.compute as pc

    return pc.binary_join_element_wise(piece.part.label, ids, ":")


def _split(pieces: list[Piece], n: int) -> tuple[list[Piece], list[Piece]]:
    """Split pieces into their first `n` rows and the remaining ones."""
    taken, remaining = [], []
    for piece in pieces:
        size = min(n, len(piece.cells))
        n -= size
        if size == len(piece.cells):
            taken.append(piece)
        else:
            if size:
                taken.append(_slice(piece, 0, size))
            remaining.append(_slice(piece, size, len(piece.cells)))
    return taken, remaining


def _slice(piece: Piece, a: int, b: int) -> Piece:
    r = piece.ranked
    at = slice(int(r.lengths[:a].sum()), int(r.lengths[:b].sum()))
    uncropped_slice = slice(int(r.n_genes[:a].sum()), int(r.n_genes[:b].sum()))
    part = RankedRows(
        r.values[at],
        r.lengths[a:b],
        r.n_genes[a:b],
        None if r.counts is None else r.counts[at],
        None if r.uncropped is None else r.uncropped[uncropped_slice],
    )
    return Piece(piece.part, piece.cells[a:b], part)


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _lists(values: np.ndarray, lengths: np.ndarray) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(numbers(offsets), _items(values))


def _items(values: np.ndarray) -> pa.Array:
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _concatenated(parts: Sequence[pa.Array], kind: pa.DataType) -> pa.Array:
    return pa.concat_arrays([p.cast(kind) for p in parts])
