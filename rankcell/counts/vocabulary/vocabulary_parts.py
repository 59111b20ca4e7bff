"""The sources of a vocabulary: count files and tallies, opened once for what they are and read again in every pass."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rankcell.counts.vocabulary.options import CountsToBuild
from rankcell.errors import GeneError, InputError, VocabularyError
from rankcell.progress import Progress
from rankcell.vocab.build import TARGET_SUM, GeneColumns, choose_gene_column, ensembl_share, normalised
from rankcell.wording import note, option


@dataclasses.dataclass(frozen=True)
class Part:
    """One source: which genes its columns are, where it comes from, and its values in the slots of a larger set of genes.

    `digests`: of the cells of each of its files (rankcell.vocab.tally.CellsDigest); a count file's is there once it was read.
    `listed`: a count file by its cell ids (rankcell.counts.validate.repeats.Listed).
    """

    name: str
    genes: GeneColumns
    files: list[dict[str, Any]]
    gene_column: str
    ids: str
    cells: int
    columns: int
    digests: list[str]
    remarks: list[str]
    values: Callable[[GeneColumns, "Tick"], Iterator]
    listed: Any = None


class Tick:
    """Cells done, over all passes, for a progress bar; of at least `passes`, which only grows."""

    def __init__(self, progress: Progress, cells: int):
        self._progress, self._cells, self._done, self._passes = progress, cells, 0, 1

    def expect(self, passes: int) -> None:
        self._passes = max(self._passes, passes)

    def add(self, cells: int) -> None:
        self._done += cells
        if self._progress:
            self._progress(self._done, self._cells * self._passes)


def all_values(parts: list[Part], all_genes: GeneColumns, tick: Tick, counts: CountsToBuild) -> Iterator:
    for part in parts:
        known = len(part.digests)
        yield from part.values(part.genes.inside(all_genes), tick)
        if len(part.digests) > known and not counts.allow_repeated_cells:
            _refuse_repeated_digests(parts)


def _refuse_repeated_digests(parts: list[Part]) -> None:
    """InputError when two of the sources that are known by now, also those inside tallies, hold the same cells."""
    from rankcell.counts.validate.repeats import repeated_cells

    name_of: dict[str, str] = {}
    for part in parts:
        for fact, digest in zip(part.files, part.digests, strict=False):  # count files that were not read yet have none
            name = f"{part.name} (made of {fact['file']})" if "tally" in fact else part.name
            if digest in name_of:
                raise repeated_cells(name_of[digest], name)
            name_of[digest] = name


def n_columns(parts: list[Part], all_genes: GeneColumns) -> int:
    """Columns of the sources where all have the same genes, else genes between them."""
    columns = {part.columns for part in parts}
    return columns.pop() if len(columns) == 1 and all(part.genes.keys == all_genes.keys for part in parts) else len(all_genes.keys)


def parts_of(sources: Sequence[str | os.PathLike], ids: Any, counts: CountsToBuild) -> list[Part]:
    """Open every source once and describe it as a Part. InputError, GeneError or VocabularyError where they cannot be counted together."""
    from rankcell.counts import find_inputs
    from rankcell.counts.source import distinct_remarks
    from rankcell.counts.validate.repeats import refuse_repeated_cells
    from rankcell.store import content_hash
    from rankcell.vocab.catalog import read_ids
    from rankcell.vocab.tally import is_tally

    if isinstance(sources, (list, tuple)) and not sources:
        raise InputError("no count file was named")
    items = find_inputs(sources).items  # tallies are let through
    table = read_ids(ids) if ids is not None else None
    table_hash = content_hash(table) if table is not None else ""
    parts = [_tally_part(item) if is_tally(item) else _count_part(item, table, table_hash, counts) for item in items]
    for part in parts:
        table_ids = table_hash if ids is not None else parts[0].ids
        if part.ids != table_ids:
            raise VocabularyError(
                f"{part.name} {_ids_note(part.ids)}, {'this command' if ids is not None else parts[0].name} {_ids_note(table_ids)}: "
                f"give every tally and this command the same {option('ids')}"
            )
        _require_equal_naming(parts[0], part)
    if not counts.allow_repeated_cells:
        _refuse_repeated_digests(parts)
        refuse_repeated_cells([part.listed for part in parts if part.listed is not None])
    for remark in distinct_remarks([part.remarks for part in parts], [part.name for part in parts]):
        note(remark)
    return parts


def _ids_note(ids: str) -> str:
    return f"takes Ensembl ids from a table ({ids[:8]})" if ids else "takes no ids from a table"


def _require_equal_naming(one: Part, other: Part) -> None:
    """GeneError when one source names genes by Ensembl ids and the other does not, and hardly a gene is in both."""
    shares = [ensembl_share(part.genes.keys) for part in (one, other)]
    common = len(set(one.genes.keys) & set(other.genes.keys))
    if (shares[0] > 0.5) != (shares[1] > 0.5) and common < 0.1 * min(len(one.genes.keys), len(other.genes.keys)):
        raise GeneError(
            f"{one.name} names genes as {one.genes.keys[0]} (by '{one.gene_column}'), {other.name} as {other.genes.keys[0]} (by "
            f"'{other.gene_column}'): name a column that all files have with {option('gene_column')}, or give a table of ids with {option('ids')}"
        )


def _count_part(source: Any, table: dict[str, str] | None, table_hash: str, config: CountsToBuild) -> Part:
    from rankcell.counts.genes.features import remarks_of
    from rankcell.counts.genes.orientation import require_genes_in_columns
    from rankcell.counts.validate.repeats import Listed
    from rankcell.vocab.tally import CellsDigest

    digests: list[str] = []
    with config.open(source) as counts:
        require_genes_in_columns(counts)
        column = choose_gene_column(counts, config.gene_column, table is not None)
        index = next(iter(counts.var))
        symbols = counts.var[index] if column != index and ensembl_share(counts.var[index]) < 0.5 else None
        genes = GeneColumns.of(counts.var[column], ids=table, symbols=symbols)
        remarks = remarks_of(counts)
        if nameless := int((genes.slot_of_column < 0).sum()):
            remarks.append(f"{nameless:,} columns have no name and are left out: they are no genes")
        listed = Listed.of(counts, functools.partial(config.open, source))
        name, n_cells, n_genes, matrix = counts.name, counts.n_cells, counts.n_genes, counts.matrix

    def values(inside: GeneColumns, tick: Tick) -> Iterator:
        with config.open(source) as again:
            if (again.n_cells, again.n_genes) != (n_cells, n_genes):
                raise InputError(f"{name} changed while it was read: run again when nothing writes to it")
            digest = None if digests else CellsDigest(again.ids, n_genes)
            yield from normalised(_watched(again.blocks(allow_non_counts=config.allow_non_counts), tick, digest), inside, TARGET_SUM)
            if digest is not None:
                digests.append(digest.value())

    return Part(
        name=name,
        genes=genes,
        files=[{"file": os.path.basename(name), "cells": n_cells, "matrix": matrix}],
        gene_column=column,
        ids=table_hash,
        cells=n_cells,
        columns=n_genes,
        digests=digests,
        remarks=remarks,
        values=values,
        listed=listed,
    )


def _watched(blocks: Iterable[Any], tick: Tick, digest: Any) -> Iterator[Any]:
    """The blocks, each counted when it is done with."""
    for block in blocks:
        yield block
        if digest is not None:
            digest.add(block.n_counts)
        tick.add(len(block))


def _tally_part(source: str | os.PathLike) -> Part:
    from rankcell.vocab.tally import open_tally

    tally = open_tally(source)
    facts = tally.facts
    if facts["target_sum"] != TARGET_SUM:
        raise VocabularyError(
            f"{source} was made with target_sum {facts['target_sum']:g}, this command takes {TARGET_SUM:g}: make it again"
        )

    def values(inside: GeneColumns, tick: Tick) -> Iterator:
        done = 0
        for slots, numbers in tally.values():
            yield inside.slot_of_column[slots], numbers
            tick.add((done + len(slots)) * facts["cells"] // tally.rows - done * facts["cells"] // tally.rows)
            done += len(slots)

    return Part(
        name=str(source),
        genes=tally.genes,
        files=[fact | {"tally": os.path.basename(source)} for fact in facts["built_from"]],
        gene_column=facts["gene_column"],
        ids=facts["ids"],
        cells=facts["cells"],
        columns=facts["columns"],
        digests=facts["digests"],
        remarks=[],
        values=values,
    )
