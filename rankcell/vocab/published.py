"""Vocabularies that others publish, fetched or imported into a folder."""

import dataclasses
import os
from pathlib import Path

from rankcell.progress import Progress
from rankcell.store import require_new
from rankcell.vocab.catalog import keep_fetched
from rankcell.vocab.folder import FILES, HEAD
from rankcell.vocab.importer import import_geneformer
from rankcell.vocab.recipes import fetch_vocabulary, read_recipe
from rankcell.vocab.vocabulary import Vocabulary


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
    read_recipe(name)
    out = Path(name) if out is None else Path(out)
    require_new(out, force=force, marker=HEAD, own=FILES)
    vocab = dataclasses.replace(fetch_vocabulary(name, files=files, cache=cache, out=out, progress=progress), name=out.name)
    vocab.save(out, force=force)
    keep_fetched(vocab, name)
    return vocab


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
    require_new(out, force=force, marker=HEAD, own=FILES)
    vocab = import_geneformer(tokens, medians, mapping=mapping, symbols=symbols, name=name or Path(out).name, max_len=max_len)
    vocab.save(out, force=force)
    return vocab
