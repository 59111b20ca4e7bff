"""Vocabularies built of counts, and parts of the cells counted first."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankcell.counts.vocabulary.options import CountsToBuild, NewVocabulary
from rankcell.counts.vocabulary.vocabulary_parts import Tick, all_values, n_columns, parts_of
from rankcell.errors import SettingsError
from rankcell.options import flag_words
from rankcell.progress import Progress
from rankcell.vocab import SPECIALS, Vocabulary
from rankcell.vocab.build import TARGET_SUM, union_of, vocabulary_of_values


def build_vocab(
    sources: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    ids: str | os.PathLike | None = None,
    new: NewVocabulary = NewVocabulary(),
    counts: CountsToBuild = CountsToBuild(),
    force: bool = False,
    progress: Progress = None,
) -> Vocabulary:
    """Build a vocabulary folder `out` from count files, folders and patterns of them, and tallies (see rankcell.vocab.build_vocabulary).

    The order of the sources changes nothing of the vocabulary. Its genes are all that the sources have between them: in
    the order of the columns where all have the same ones in the same order, else sorted by id. `progress(done, all)`
    counts cells, each once per pass; `all` grows when more passes turn out to be needed. The same cells twice are refused
    (unless `allow_repeated_cells`).
    """
    from rankcell.store import require_new
    from rankcell.vocab.folder import FILES, HEAD

    require_new(out, force=force, marker=HEAD, own=FILES)
    parts = parts_of(sources, ids, counts)
    all_genes = union_of([part.genes for part in parts])
    tick = Tick(progress, sum(part.cells for part in parts))
    vocab = vocabulary_of_values(
        lambda: all_values(parts, all_genes, tick, counts),
        all_genes,
        name=new.name or Path(out).name,
        special=SPECIALS if new.cls else SPECIALS[:2],
        species=new.species,
        max_len=new.max_len,
        min_cells=new.min_cells,
        provenance={
            "built_from": [fact for part in parts for fact in part.files],
            "gene_column": ", ".join(dict.fromkeys(part.gene_column for part in parts)),
            "command": _build_command(sources, out, ids, new, counts),
            "n_columns": n_columns(parts, all_genes),
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
    counts: CountsToBuild = CountsToBuild(),
    force: bool = False,
    progress: Progress = None,
) -> dict[str, int]:
    """Tally count files, folders and patterns of them into `out`, which `build_vocab` takes in their place; returns the numbers of cells, genes and values."""
    from rankcell.store import require_new
    from rankcell.vocab.tally import is_tally, write_tally

    require_new(out, force=force)
    if not is_tally(out):
        better = f"{Path(out).name.removesuffix('.tally')}.tally.parquet"
        raise SettingsError(f"{out} does not end in .parquet, by which a tally is known: name it {better}")
    parts = parts_of(sources, ids, counts)
    all_genes = union_of([part.genes for part in parts])
    cells = sum(part.cells for part in parts)
    facts = {
        "target_sum": TARGET_SUM,
        "cells": cells,
        "columns": n_columns(parts, all_genes),
        "gene_column": ", ".join(dict.fromkeys(part.gene_column for part in parts)),
        "ids": parts[0].ids,
        "built_from": [fact for part in parts for fact in part.files],
    }

    def all_facts() -> dict[str, Any]:
        return facts | {"digests": [digest for part in parts for digest in part.digests]}

    total = write_tally(out, all_values(parts, all_genes, Tick(progress, cells), counts), all_genes, all_facts, force=force)
    return {"cells": cells, "genes": len(all_genes.keys), "values": total}


def _build_command(sources: Any, out: Any, ids: Any, new: NewVocabulary, counts: CountsToBuild) -> str:
    """The command line that makes this vocabulary, with file names and without folders."""
    paths = sources if isinstance(sources, (list, tuple)) else [sources]
    words = ["rankcell", "vocab", "build", *(os.path.basename(os.path.normpath(s)) for s in paths), "-o", os.path.basename(str(out))]
    table = {} if ids is None else {"ids": os.path.basename(str(ids))}
    return shlex.join([*words, *flag_words(table | new.non_defaults() | counts.non_defaults())])
