"""Plots of token rows."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rankcell.vocab import Vocabulary
from rankcell.wording import python_verb

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.axes import Axes

__all__ = ["rank_encoding"]


@python_verb()
def rank_encoding(
    tokens: Any,
    cell: str | int,
    *,
    vocab: str | os.PathLike | Vocabulary | None = None,
    n: int = 15,
    genes: str | Sequence[str] | None = None,
    ax: "Axes | None" = None,
) -> "Axes | npt.NDArray[np.object_]":
    """Plot one cell as the model reads it: the rank value of every gene, and beneath it the row of tokens.

    Parameters
    ----------
    tokens, cell, vocab
        As for rc.get.tokens_df.
    n
        How many of the top genes to name; the row of tokens shows as many of them as there is room for.
    genes
        Genes to point out (Ensembl ids, symbols), each with its rank; those that the cell lacks are named in the corner.
    ax
        Matplotlib axes whose place is taken (about 9 x 5 inches); None: a new pyplot figure.

    Returns
    -------
    array of Axes
        Two, curve and row; the curve runs from the top rank down. Where the tokens do not carry their counts there is no curve, a
        note says so, and the axes of the row are returned.

    Raises
    ------
    CellError
        When the cell has no gene.
    """
    from rankcell.report.pictures.pyplot_axes import filled_axes
    from rankcell.report.pictures.rank_encoding import draw_encoding
    from rankcell.report.token_table import encoding_table, require_genes, tokens_and_vocabulary

    tokens, vocab = tokens_and_vocabulary(tokens, vocab)
    gene_names = [] if genes is None else [genes] if isinstance(genes, str) else list(genes)
    marked = [vocab.find(name) for name in gene_names]
    table = encoding_table(tokens, vocab, cell)
    require_genes(table, vocab)
    ax = ax or filled_axes(9, 5 if table["value"].notna().any() else 2.1)
    return draw_encoding(table, vocab, ax=ax, n=n, marked=marked)
