"""Preprocessing counter: counts to tokens, in scanpy's manner."""

import os
from collections.abc import Sequence
from typing import Any

from rankcell import jobs
from rankcell.tokens import TokenSet
from rankcell.vocab import Vocabulary

__all__ = ["tokenize"]


def tokenize(
    adata: Any,
    vocab: str | os.PathLike | Vocabulary = "demo",
    *,
    obs: Sequence[str] = (),
    max_len: int | None = None,
    cls: bool | None = None,
    layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    allow_non_counts: bool = False,
    workers: int | None = None,
) -> TokenSet:
    """Rank-value tokens of every cell: genes in descending order of count / n_counts * 10,000 / median.

    adata
        An AnnData with raw counts (never changed), or the path of an h5ad file.
    vocab
        A Vocabulary, a vocabulary folder, or the name of a shipped one.
    obs
        Cell columns to carry along.
    max_len, cls
        Longest row, and whether rows carry `<cls>` and `<eos>`; None: as the vocabulary says.
    layer, raw
        Which matrix holds the counts; default X.
    gene_column
        The var column that names the genes; None: the one whose entries the vocabulary knows best.
    allow_non_counts
        Rank values that are not counts.
    workers
        Threads; None: all processors.

    Returns a TokenSet, a row per cell in the AnnData's order with its cell ids.
    """
    options = dict(locals())  # every parameter is one of the job's
    return jobs.tokenize(options.pop("adata"), **options)
