"""Vocabularies: built, imported, shown."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankcell.errors import InputError
from rankcell.vocab import SPECIALS, Vocabulary, build_vocabulary, find_vocabulary, import_geneformer
from rankcell.vocab.vocabulary import ensembl_id


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
    force: bool = False,
) -> Vocabulary:
    """Count files with the same genes -> a vocabulary folder `out` (see rankcell.vocab.build_vocabulary)."""
    from rankcell.counts import open_counts
    from rankcell.errors import GeneError
    from rankcell.store import require_new
    from rankcell.vocab.catalog import read_ids
    from rankcell.vocab.folder import HEAD

    require_new(out, force=force, marker=HEAD)
    if not sources:
        raise InputError("no count file was named")
    table = read_ids(ids) if ids is not None else None
    genes: list[str] = []
    facts = []

    def blocks():
        for source in sources:
            with open_counts(source, layer=layer, raw=raw) as counts:
                here = counts.var[_gene_column(counts, gene_column, table is not None)]
                if genes and here != genes:
                    raise GeneError(
                        f"{counts.name} has other genes, or another order, than {facts[0]['file']}: build from files with the same genes"
                    )
                genes[:] = here
                facts.append({"file": os.path.basename(counts.name), "cells": counts.n_cells, "matrix": counts.matrix})
                yield from counts.blocks()

    with open_counts(sources[0], layer=layer, raw=raw) as first:
        column = _gene_column(first, gene_column, table is not None)
        index = next(iter(first.var))
        genes[:] = first.var[column]
        symbols = first.var[index] if column != index and _ensembl_share(first.var[index]) < 0.5 else None
    vocab = build_vocabulary(
        blocks(),
        genes,
        name=name or Path(out).name,
        ids=table,
        symbols=symbols,
        special=SPECIALS if cls else SPECIALS[:2],
        species=species,
        max_len=max_len,
        provenance={
            "built_from": facts,
            "gene_column": column,
            "command": _build_command(sources, out, ids, name, species, max_len, cls, layer, raw, gene_column),
        },
    )
    vocab.save(out, force=force)
    return vocab


def _gene_column(counts: Any, asked: str | None, has_table: bool) -> str:
    """The var column to name genes by: the one asked for; with a table of ids the index; else the one of most Ensembl ids, if
    they are more than half of it, and the index otherwise."""
    from rankcell.errors import GeneError

    if asked is not None and asked not in counts.var:
        raise GeneError(f"{counts.name} has no gene column '{asked}'; it has {', '.join(counts.var)}")
    if asked is not None or has_table:
        return asked or next(iter(counts.var))
    best = max(counts.var, key=lambda column: _ensembl_share(counts.var[column]))
    return best if _ensembl_share(counts.var[best]) > 0.5 else next(iter(counts.var))


def _ensembl_share(names: Sequence[str]) -> float:
    return sum(bool(ensembl_id(n)) for n in names) / max(1, len(names))


def _build_command(sources, out, ids, name, species, max_len, cls, layer, raw, gene_column) -> str:
    """The command line that makes this vocabulary, with file names and without folders."""
    words = ["rankcell vocab build", *(os.path.basename(s) for s in map(str, sources)), "-o", os.path.basename(str(out))]
    words += ["--ids", os.path.basename(str(ids))] if ids is not None else []
    options = {"--name": name, "--species": species, "--layer": layer, "--gene-column": gene_column}
    words += [w for option, value in options.items() if value for w in (option, str(value))]
    words += ["--max-len", str(max_len)] if max_len != 4096 else []
    words += ["--raw"] if raw else []
    return " ".join(words + ([] if cls else ["--no-cls"]))


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
    return lines + [f"{key:<11} {value}" for key, value in v.provenance.items()]
