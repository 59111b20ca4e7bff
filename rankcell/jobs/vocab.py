"""Vocabularies: built, counted in parts, fetched, imported, shown."""

import dataclasses
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rankcell.errors import CountsError, GeneError, InputError, SettingsError, VocabularyError
from rankcell.jobs.inputs import Progress
from rankcell.vocab import SPECIALS, Vocabulary, find_vocabulary, import_geneformer
from rankcell.vocab.build import TARGET_SUM, GeneColumns, choose_gene_column, ensembl_share, normalised, union_of, vocabulary_of_values


def build_vocab(
    sources: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    ids: str | os.PathLike | None = None,
    name: str | None = None,
    species: str = "",
    max_len: int = 4096,
    cls: bool = True,
    layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    min_cells: int = 1,
    force: bool = False,
    progress: Progress = None,
) -> Vocabulary:
    """Count files, folders and patterns of them, and tallies, -> a vocabulary folder `out` (see rankcell.vocab.build_vocabulary).

    The order of the sources changes nothing of the vocabulary. Its genes are all that the sources have between them: in
    the order of the columns where all have the same ones in the same order, else sorted by id. `progress(done, all)`
    counts cells, each once per pass; `all` grows when more passes turn out to be needed. The same cells twice are refused.
    """
    from rankcell.store import require_new
    from rankcell.vocab.folder import HEAD

    require_new(out, force=force, marker=HEAD)
    if min_cells < 1:
        raise SettingsError(f"min_cells is {min_cells}: at least 1, as a gene that no cell shows has no median")
    parts = _parts(sources, ids=ids, layer=layer, raw=raw, gene_column=gene_column)
    whole = union_of([part.genes for part in parts])
    tick = _Tick(progress, sum(part.cells for part in parts))
    vocab = vocabulary_of_values(
        lambda: _all_values(parts, whole, tick),
        whole,
        name=name or Path(out).name,
        special=SPECIALS if cls else SPECIALS[:2],
        species=species,
        max_len=max_len,
        min_cells=min_cells,
        provenance={
            "built_from": [fact for part in parts for fact in part.files],
            "gene_column": ", ".join(dict.fromkeys(part.gene_column for part in parts)),
            "command": _build_command(sources, out, ids, name, species, max_len, cls, layer, raw, gene_column, min_cells),
            "n_columns": _n_columns(parts, whole),
        },
        expect=tick.expect,
    )
    vocab.save(out, force=force)
    return vocab


def tally_vocab(
    sources: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    ids: str | os.PathLike | None = None,
    layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    force: bool = False,
    progress: Progress = None,
) -> dict[str, int]:
    """Count files, folders and patterns of them -> a tally `out`, which `build_vocab` takes in their place; how many cells, genes and values it holds."""
    from rankcell.store import require_new
    from rankcell.vocab.tally import is_tally, write_tally

    require_new(out, force=force)
    if not is_tally(out):
        better = f"{Path(out).name.removesuffix('.tally')}.tally.parquet"
        raise SettingsError(f"{out} does not end in .parquet, by which a tally is known: name it {better}")
    parts = _parts(sources, ids=ids, layer=layer, raw=raw, gene_column=gene_column)
    whole = union_of([part.genes for part in parts])
    cells = sum(part.cells for part in parts)
    facts = {
        "target_sum": TARGET_SUM,
        "cells": cells,
        "columns": _n_columns(parts, whole),
        "gene_column": ", ".join(dict.fromkeys(part.gene_column for part in parts)),
        "ids": parts[0].ids,
        "built_from": [fact for part in parts for fact in part.files],
    }

    def all_facts() -> dict[str, Any]:
        return facts | {"digests": [digest for part in parts for digest in part.digests]}

    total = write_tally(out, _all_values(parts, whole, _Tick(progress, cells)), whole, all_facts, force=force)
    return {"cells": cells, "genes": len(whole.keys), "values": total}


@dataclasses.dataclass(frozen=True)
class _Part:
    """One source: which genes its columns are, where it comes from, and its values in the slots of a larger set of genes.

    `digests`: of the cells of each of its files (rankcell.vocab.tally.CellsDigest); a count file's is there once it was read.
    """

    name: str
    genes: GeneColumns
    files: list[dict[str, Any]]
    gene_column: str
    ids: str
    cells: int
    columns: int
    digests: list[str]
    values: Callable[[GeneColumns, "_Tick"], Iterator]


class _Tick:
    """Cells done, over all passes, for a progress bar; of at least `passes`, which only grows."""

    def __init__(self, progress: Progress, cells: int):
        self._progress, self._cells, self._done, self._passes = progress, cells, 0, 1

    def expect(self, passes: int) -> None:
        self._passes = max(self._passes, passes)

    def add(self, cells: int) -> None:
        self._done += cells
        if self._progress:
            self._progress(self._done, self._cells * self._passes)


def _all_values(parts: list[_Part], whole: GeneColumns, tick: _Tick) -> Iterator:
    for part in parts:
        known = len(part.digests)
        yield from part.values(part.genes.inside(whole), tick)
        if len(part.digests) > known:
            _refuse_same_cells(parts)


def _refuse_same_cells(parts: list[_Part]) -> None:
    """InputError when two of the sources that are known by now, also those inside tallies, hold the same cells."""
    name_of: dict[str, str] = {}
    for part in parts:
        for fact, digest in zip(part.files, part.digests, strict=False):  # count files that were not read yet have none
            name = f"{part.name} (made of {fact['file']})" if "tally" in fact else part.name
            if digest in name_of:
                raise InputError(f"{name_of[digest]} and {name} hold the same cells, which would count twice: leave one of them out")
            name_of[digest] = name


def _n_columns(parts: list[_Part], whole: GeneColumns) -> int:
    """Columns of the sources where all have the same genes, else genes between them."""
    columns = {part.columns for part in parts}
    return columns.pop() if len(columns) == 1 and all(part.genes.keys == whole.keys for part in parts) else len(whole.keys)


def _parts(sources: Sequence[str | os.PathLike], *, ids: Any, layer: str | None, raw: bool, gene_column: str | None) -> list[_Part]:
    """Every source opened once: its genes and what it is made with. Refused where they cannot be counted together."""
    from rankcell.counts import find_inputs
    from rankcell.store import content_hash
    from rankcell.vocab.catalog import read_ids
    from rankcell.vocab.tally import is_tally

    if isinstance(sources, (list, tuple)) and not sources:
        raise InputError("no count file was named")
    items = find_inputs(sources).items  # tallies are let through
    table = read_ids(ids) if ids is not None else None
    table_hash = content_hash(table) if table is not None else ""
    parts = [_tally_part(item) if is_tally(item) else _count_part(item, table, table_hash, layer, raw, gene_column) for item in items]
    for part in parts:
        given = table_hash if ids is not None else parts[0].ids
        if part.ids != given:
            raise VocabularyError(
                f"{part.name} {_made_with(part.ids)}, {'this command' if ids is not None else parts[0].name} {_made_with(given)}: "
                "give every tally and this command the same --ids"
            )
        _require_same_naming(parts[0], part)
    _refuse_same_cells(parts)
    return parts


def _made_with(ids: str) -> str:
    return f"takes Ensembl ids from a table ({ids[:8]})" if ids else "takes no ids from a table"


def _require_same_naming(one: _Part, other: _Part) -> None:
    """GeneError when one source names genes by Ensembl ids and the other does not, and hardly a gene is in both."""
    shares = [ensembl_share(part.genes.keys) for part in (one, other)]
    common = len(set(one.genes.keys) & set(other.genes.keys))
    if (shares[0] > 0.5) != (shares[1] > 0.5) and common < 0.1 * min(len(one.genes.keys), len(other.genes.keys)):
        raise GeneError(
            f"{one.name} names genes as {one.genes.keys[0]} (by '{one.gene_column}'), {other.name} as {other.genes.keys[0]} (by "
            f"'{other.gene_column}'): name a column that all files have with --gene-column, or give a table of ids with --ids"
        )


def _count_part(source: Any, table: dict[str, str] | None, table_hash: str, layer: str | None, raw: bool, asked: str | None) -> _Part:
    from rankcell.counts import open_counts
    from rankcell.vocab.tally import CellsDigest

    digests: list[str] = []
    with open_counts(source, layer=layer, raw=raw) as counts:
        column = choose_gene_column(counts, asked, table is not None)
        index = next(iter(counts.var))
        symbols = counts.var[index] if column != index and ensembl_share(counts.var[index]) < 0.5 else None
        genes = GeneColumns.of(counts.var[column], ids=table, symbols=symbols)
        name, n_cells, n_genes, matrix = counts.name, counts.n_cells, counts.n_genes, counts.matrix

    def values(inside: GeneColumns, tick: _Tick) -> Iterator:
        with open_counts(source, layer=layer, raw=raw) as again:
            if (again.n_cells, again.n_genes) != (n_cells, n_genes):
                raise InputError(f"{name} changed while it was read: run again when nothing writes to it")
            digest = None if digests else CellsDigest(again.ids, n_genes)
            yield from normalised(_watched(again.blocks(), tick, digest), inside, TARGET_SUM)
            if digest is not None:
                digests.append(digest.value())

    return _Part(
        name=name,
        genes=genes,
        files=[{"file": os.path.basename(name), "cells": n_cells, "matrix": matrix}],
        gene_column=column,
        ids=table_hash,
        cells=n_cells,
        columns=n_genes,
        digests=digests,
        values=values,
    )


def _watched(blocks: Iterable[Any], tick: _Tick, digest: Any) -> Iterator[Any]:
    """The blocks, each counted when it is done with; without the way out that building does not have where they are not counts."""
    try:
        for block in blocks:
            yield block
            if digest is not None:
                digest.add(block.n_counts)
            tick.add(len(block))
    except CountsError as e:
        raise CountsError(str(e).split(", or --allow-non-counts")[0]) from e


def _tally_part(source: str | os.PathLike) -> _Part:
    from rankcell.vocab.tally import open_tally

    tally = open_tally(source)
    facts = tally.facts
    if facts["target_sum"] != TARGET_SUM:
        raise VocabularyError(
            f"{source} was made with target_sum {facts['target_sum']:g}, this command takes {TARGET_SUM:g}: make it again"
        )

    def values(inside: GeneColumns, tick: _Tick) -> Iterator:
        done = 0
        for slots, numbers in tally.values():
            yield inside.slot_of_column[slots], numbers
            tick.add((done + len(slots)) * facts["cells"] // tally.rows - done * facts["cells"] // tally.rows)
            done += len(slots)

    return _Part(
        name=str(source),
        genes=tally.genes,
        files=[fact | {"tally": os.path.basename(source)} for fact in facts["built_from"]],
        gene_column=facts["gene_column"],
        ids=facts["ids"],
        cells=facts["cells"],
        columns=facts["columns"],
        digests=facts["digests"],
        values=values,
    )


def _build_command(sources, out, ids, name, species, max_len, cls, layer, raw, gene_column, min_cells) -> str:
    """The command line that makes this vocabulary, with file names and without folders."""
    named = sources if isinstance(sources, (list, tuple)) else [sources]
    words = ["rankcell", "vocab", "build", *(os.path.basename(os.path.normpath(s)) for s in named), "-o", os.path.basename(str(out))]
    words += ["--ids", os.path.basename(str(ids))] if ids is not None else []
    options = {"--name": name, "--species": species, "--layer": layer, "--gene-column": gene_column}
    words += [w for option, value in options.items() if value for w in (option, str(value))]
    words += ["--max-len", str(max_len)] if max_len != 4096 else []
    words += ["--raw"] if raw else []
    words += ["--min-cells", str(min_cells)] if min_cells > 1 else []
    return shlex.join(words + ([] if cls else ["--no-cls"]))


def import_vocab(
    out: str | os.PathLike,
    *,
    tokens: str | os.PathLike,
    medians: str | os.PathLike,
    mapping: str | os.PathLike | None = None,
    symbols: str | os.PathLike | None = None,
    name: str | None = None,
    max_len: int | None = None,
    force: bool = False,
) -> Vocabulary:
    """Geneformer's dictionary pickles -> a vocabulary folder `out`."""
    from rankcell.store import require_new
    from rankcell.vocab.folder import HEAD

    require_new(out, force=force, marker=HEAD)
    vocab = import_geneformer(tokens, medians, mapping=mapping, symbols=symbols, name=name or Path(out).name, max_len=max_len)
    vocab.save(out, force=force)
    return vocab


def fetch_vocab(
    name: str,
    out: str | os.PathLike | None = None,
    *,
    files: str | os.PathLike | None = None,
    cache: str | os.PathLike | None = None,
    force: bool = False,
    progress: Progress = None,
) -> Vocabulary:
    """A vocabulary that others publish -> a vocabulary folder `out` (None: its name), and kept for this user to be found by its name
    from any folder; see rankcell.vocab.fetch_vocabulary."""
    from rankcell.store import require_new
    from rankcell.vocab.catalog import keep_fetched
    from rankcell.vocab.folder import HEAD
    from rankcell.vocab.recipes import fetch_vocabulary, read_recipe

    read_recipe(name)
    out = Path(name) if out is None else Path(out)
    require_new(out, force=force, marker=HEAD)
    vocab = dataclasses.replace(fetch_vocabulary(name, files=files, cache=cache, out=out, progress=progress), name=out.name)
    vocab.save(out, force=force)
    keep_fetched(vocab, name)
    return vocab


def show_vocab(vocab: str | os.PathLike) -> list[str]:
    """What a vocabulary is, as lines of text."""
    v = find_vocabulary(vocab)
    special = ", ".join(f"{name}={token}" for name, token in v.special.items())
    frame = f"head {list(v.frame.head)}, tail {list(v.frame.tail)}"
    n_symbols = sum(map(bool, v.symbols))
    lines = [
        f"name        {v.name}",
        f"species     {v.species or 'not said'}",
        f"genes       {len(v):,} ({sum(g.startswith('ENS') for g in v.genes):,} with an Ensembl id, {n_symbols:,} with a symbol)",
        f"such as     {v.examples()}",
        f"aliases     {len(v.aliases):,}",
        f"special     {special}",
        f"frame       {frame}",
        f"max_len     {v.max_len}",
        f"target_sum  {v.target_sum:g}",
        f"hash        {v.hash}",
    ]
    return lines + (["provenance", *_spelled(v.provenance, "  ")] if v.provenance else [])


def _spelled(value: Any, indent: str) -> Iterator[str]:
    """Plain JSON as indented lines: what holds no further dicts or lists stands in one line."""
    width = max((len(str(key)) for key in value), default=0) if isinstance(value, dict) else 0
    for key, inner in value.items() if isinstance(value, dict) else (("-", inner) for inner in value):
        if isinstance(inner, (dict, list)) and any(
            isinstance(x, (dict, list)) for x in (inner.values() if isinstance(inner, dict) else inner)
        ):
            yield f"{indent}{key}"
            yield from _spelled(inner, indent + "  ")
        else:
            yield f"{indent}{key:<{width}} {_in_a_line(inner)}".rstrip()


def _in_a_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_in_a_line(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_in_a_line, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
