"""Plotting counter: pictures of token rows, screens and embeddings as matplotlib axes."""

import os
from collections.abc import Sequence
from typing import Any

from rankcell.vocab import Vocabulary

__all__ = ["rank_encoding", "ranked_genes"]


def rank_encoding(
    tokens: Any,
    cell: str | int,
    *,
    vocab: str | os.PathLike | Vocabulary | None = None,
    n: int = 15,
    genes: str | Sequence[str] | None = None,
    ax: Any = None,
) -> Any:
    """One cell as the model reads it: the rank value of every gene, from the top down, and beneath it the row of tokens.

    tokens, cell, vocab
        As for rc.get.tokens_df.
    n
        How many of the top genes to name; the row of tokens shows as many of them as there is room for.
    genes
        Genes to point out (Ensembl ids, symbols), each with its rank; those that the cell lacks are named in the corner.
    ax
        Matplotlib axes whose place is taken (about 9 x 5 inches); None: a new pyplot figure.

    Returns an array of two axes, curve and row. Where the tokens do not carry their counts there is no curve, a note says
    so, and the axes of the row are returned. CellError when the cell has no gene.
    """
    from rankcell.report.encoding import draw_encoding, encoding_table, opened, require_genes

    tokens, vocab = opened(tokens, vocab)
    named = [] if genes is None else [genes] if isinstance(genes, str) else list(genes)
    marked = [vocab.find(name) for name in named]
    table = encoding_table(tokens, vocab, cell)
    require_genes(table, vocab)
    if ax is None:
        from matplotlib import pyplot as plt

        ax = plt.figure(figsize=(9, 5 if table["value"].notna().any() else 2.1)).add_axes((0, 0, 1, 1))
    return draw_encoding(table, vocab, ax=ax, n=n, marked=marked)


def ranked_genes(ranked: Any, *, n: int = 20, title: str | None = None, ax: Any = None) -> Any:
    """Bars of the strongest edits, with standard errors.

    ranked
        What rc.tl.rank_edits gives.
    n
        How many edits; of a `toward_...` score up to half of them from either end.
    ax
        Matplotlib axes to draw on; None: a new pyplot figure.

    Returns the axes.
    """
    from rankcell.errors import SettingsError
    from rankcell.report.figures import draw_ranked

    if "effect" not in ranked:
        raise SettingsError("this is not a ranking: give what rc.tl.rank_edits(table) returns")

    if ax is None:
        from matplotlib import pyplot as plt

        _, ax = plt.subplots(figsize=(6.4, 1.4 + 0.24 * max(4, min(n, len(ranked)))), layout="constrained")
    return draw_ranked(ranked, ax=ax, n=n, title=title)
