"""Vocabularies: built, counted in parts, fetched, imported, shown."""

import dataclasses
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rankcell.errors import SettingsError
from rankcell.jobs.vocab_parts import Counts, Tick, all_values, n_columns, parts_of
from rankcell.progress import Progress
from rankcell.vocab import SPECIALS, Vocabulary, find_vocabulary, import_geneformer
from rankcell.vocab.build import TARGET_SUM, union_of, vocabulary_of_values


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
    genome: str | None = None,
    allow_non_counts: bool = False,
    allow_repeated_cells: bool = False,
    min_cells: int = 1,
    force: bool = False,
    progress: Progress = None,
) -> Vocabulary:
    """Count files, folders and patterns of them, and tallies, -> a vocabulary folder `out` (see rankcell.vocab.build_vocabulary).

    The order of the sources changes nothing of the vocabulary. Its genes are all that the sources have between them: in
    the order of the columns where all have the same ones in the same order, else sorted by id. `progress(done, all)`
    counts cells, each once per pass; `all` grows when more passes turn out to be needed. The same cells twice are refused
    (unless `allow_repeated_cells`).
    """
    from rankcell.store import require_new
    from rankcell.vocab.folder import FILES, HEAD

    require_new(out, force=force, marker=HEAD, own=FILES)
    if min_cells < 1:
        raise SettingsError(f"min_cells is {min_cells}: at least 1, as a gene that no cell shows has no median")
    counts = Counts(layer, raw, gene_column, genome, allow_non_counts, allow_repeated_cells)
    parts = parts_of(sources, ids, counts)
    whole = union_of([part.genes for part in parts])
    tick = Tick(progress, sum(part.cells for part in parts))
    vocab = vocabulary_of_values(
        lambda: all_values(parts, whole, tick, counts),
        whole,
        name=name or Path(out).name,
        special=SPECIALS if cls else SPECIALS[:2],
        species=species,
        max_len=max_len,
        min_cells=min_cells,
        provenance={
            "built_from": [fact for part in parts for fact in part.files],
            "gene_column": ", ".join(dict.fromkeys(part.gene_column for part in parts)),
            "command": _build_command(sources, out, ids, name, species, max_len, cls, counts, min_cells),
            "n_columns": n_columns(parts, whole),
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
    genome: str | None = None,
    allow_non_counts: bool = False,
    allow_repeated_cells: bool = False,
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
    counts = Counts(layer, raw, gene_column, genome, allow_non_counts, allow_repeated_cells)
    parts = parts_of(sources, ids, counts)
    whole = union_of([part.genes for part in parts])
    cells = sum(part.cells for part in parts)
    facts = {
        "target_sum": TARGET_SUM,
        "cells": cells,
        "columns": n_columns(parts, whole),
        "gene_column": ", ".join(dict.fromkeys(part.gene_column for part in parts)),
        "ids": parts[0].ids,
        "built_from": [fact for part in parts for fact in part.files],
    }

    def all_facts() -> dict[str, Any]:
        return facts | {"digests": [digest for part in parts for digest in part.digests]}

    total = write_tally(out, all_values(parts, whole, Tick(progress, cells), counts), whole, all_facts, force=force)
    return {"cells": cells, "genes": len(whole.keys), "values": total}


def _build_command(sources, out, ids, name, species, max_len, cls, counts, min_cells) -> str:
    """The command line that makes this vocabulary, with file names and without folders."""
    named = sources if isinstance(sources, (list, tuple)) else [sources]
    words = ["rankcell", "vocab", "build", *(os.path.basename(os.path.normpath(s)) for s in named), "-o", os.path.basename(str(out))]
    words += ["--ids", os.path.basename(str(ids))] if ids is not None else []
    options = {
        "--name": name,
        "--species": species,
        "--layer": counts.layer,
        "--gene-column": counts.gene_column,
        "--genome": counts.genome,
    }
    words += [w for option, value in options.items() if value for w in (option, str(value))]
    words += ["--max-len", str(max_len)] if max_len != 4096 else []
    words += ["--raw"] if counts.raw else []
    words += ["--allow-non-counts"] if counts.allow_non_counts else []
    words += ["--allow-repeated-cells"] if counts.allow_repeated_cells else []
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
    from rankcell.vocab.folder import FILES, HEAD

    require_new(out, force=force, marker=HEAD, own=FILES)
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
    from rankcell.vocab.folder import FILES, HEAD
    from rankcell.vocab.recipes import fetch_vocabulary, read_recipe

    read_recipe(name)
    out = Path(name) if out is None else Path(out)
    require_new(out, force=force, marker=HEAD, own=FILES)
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
