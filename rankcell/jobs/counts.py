"""Counts -> tokens."""

import os
from collections.abc import Sequence
from typing import Any

from rankcell.jobs.inputs import Progress
from rankcell.tokens import Tokenizer, TokenSet
from rankcell.vocab import Vocabulary


def tokenize(
    source: Any,
    out: str | os.PathLike | None = None,
    *,
    vocab: str | os.PathLike | Vocabulary = "demo",
    max_len: int | None = None,
    cls: bool | None = None,
    layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    obs: Sequence[str] = (),
    allow_non_counts: bool = False,
    workers: int | None = None,
    force: bool = False,
    progress: Progress = None,
) -> TokenSet:
    """Counts -> TokenSet, in memory or streamed into the folder `out`."""
    tokenizer = Tokenizer(vocab, max_len=max_len, cls=cls)
    obs = [obs] if isinstance(obs, str) else list(obs)
    how = dict(obs=obs, layer=layer, raw=raw, gene_column=gene_column, allow_non_counts=allow_non_counts, workers=workers)
    if out is None:
        return tokenizer.tokenize(source, **how)
    return tokenizer.write(source, out, force=force, progress=progress, **how)
