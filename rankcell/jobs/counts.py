"""Counts -> tokens."""

import os
from collections.abc import Sequence
from typing import Any

from rankcell.jobs.fitting import require_fitting_vocabulary
from rankcell.progress import Progress
from rankcell.tokens import Tokenizer, TokenSet
from rankcell.vocab import Vocabulary


def tokenize(
    source: Any,
    out: str | os.PathLike | None = None,
    *,
    vocab: str | os.PathLike | Vocabulary | None = None,
    max_len: int | None = None,
    cls: bool | None = None,
    layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    genome: str | None = None,
    obs: Sequence[str] = (),
    filter: str | None = None,
    keep_counts: bool = False,
    keep_uncropped: bool = False,
    allow_non_counts: bool = False,
    allow_repeated_cells: bool = False,
    workers: int | None = None,
    force: bool = False,
    progress: Progress = None,
) -> TokenSet:
    """Counts -> TokenSet, in memory or streamed into the folder `out` (see Tokenizer).

    vocab
        None: the one at hand that knows the genes best, if it knows at least half of them (rankcell.jobs.fitting).
    """
    if vocab is None:
        vocab = require_fitting_vocabulary(source, layer=layer, raw=raw, gene_column=gene_column)
    tokenizer = Tokenizer(vocab, max_len=max_len, cls=cls)
    how = dict(obs=obs, layer=layer, raw=raw, gene_column=gene_column, genome=genome, filter=filter, workers=workers)
    how |= dict(keep_counts=keep_counts, keep_uncropped=keep_uncropped)
    how |= dict(allow_non_counts=allow_non_counts, allow_repeated_cells=allow_repeated_cells)
    if out is None:
        return tokenizer.tokenize(source, progress=progress, **how)
    return tokenizer.write(source, out, force=force, progress=progress, **how)


def tokenized(tokens: TokenSet) -> list[str]:
    """What came out of `tokenize`, in a line or two."""
    import numpy as np

    files = tokens.spec.source.get("files", [tokens.spec.source])
    shares = [f["genes_known"] / max(1, f["genes"]) for f in files]
    least = files[int(np.argmin(shares))]
    doubt = f" ({min(shares):.0%}: is this the right vocabulary?)" if min(shares) < 0.1 else ""
    found = f"{least['genes_known']:,} of {least['genes']:,} genes known{doubt} to vocabulary '{tokens.spec.vocabulary}'"
    where = f"by {least['gene_column']}" if len(files) == 1 else f"in that of {len(files)} inputs which has the fewest"
    n_genes = tokens.n_genes
    middle = f", median {int(np.median(n_genes))} genes a cell" if len(n_genes) else ""
    lines = [f"{len(tokens):,} cells, {found} {where}{middle}"]
    left_out = sum(f.get("cells_left_out", 0) for f in files)
    return lines + ([f"{left_out:,} cells left out by the filter {files[0]['filter']}"] if left_out else [])
