"""Plotting counter: pictures of token rows, screens and embeddings as matplotlib axes."""

import os
from collections.abc import Sequence
from typing import Any

from rankcell.vocab import Vocabulary

__all__ = ["compare_poolings", "rank_bias", "rank_encoding", "ranked_genes"]


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


def compare_poolings(table: Any, *, score: str = "knn_accuracy", ax: Any = None) -> Any:
    """Dots of every pooling, layers in colours, beside the random-weight models (hollow) and PCA (dashed line).

    table
        What rc.tl.compare_poolings gives.
    score
        A column of scores. `knn_accuracy` has its standard deviation over folds as a line, and PCA's as a band.
    ax
        Matplotlib axes to draw on; None: a new pyplot figure.

    Returns the axes.
    """
    from rankcell.errors import SettingsError
    from rankcell.report.assessments import draw_poolings

    if "source" not in table or "over_pca" not in table:
        raise SettingsError("this is not a comparison: give what rc.tl.compare_poolings(adata, label) returns")
    if score not in table or table[score].dtype.kind not in "fiu":
        raise SettingsError(f"the comparison has no score '{score}'; knn_accuracy, silhouette, ... (its columns: {', '.join(table)})")
    if ax is None:
        from matplotlib import pyplot as plt

        rows = table["pool"].nunique()
        _, ax = plt.subplots(figsize=(7.2, 1.3 + 0.34 * max(3, rows)), layout="constrained")
    return draw_poolings(table, ax=ax, score=score)


def rank_bias(table: Any, *, score: str = "relative_shift", ax: Any = None) -> Any:
    """How far each pooling moves over the deciles of the ranking, a panel per kind of edit, on a logarithmic scale.

    table
        What rc.tl.rank_bias gives.
    score
        `relative_shift` (the shift as a share of that between two cells, so that poolings can be compared), `shift` or `distance`.
    ax
        Matplotlib axes whose place is taken (about 11 x 3.6 inches a layer); None: a new pyplot figure.

    The band and the lines are standard errors. Hollow: the same done to as many genes drawn from all ranks. Returns an array
    of axes [layers, kinds of edit].
    """
    from rankcell.errors import SettingsError
    from rankcell.report.assessments import draw_rank_bias

    if "between_cells" not in table:
        raise SettingsError("this is not a table of rank biases: give what rc.tl.rank_bias(adata) returns")
    if ax is None:
        from matplotlib import pyplot as plt

        size = (2.6 + 2.9 * table["how"].nunique(), (3.6 if table["pool"].nunique() <= 6 else 4.6) * table["layer"].nunique())
        ax = plt.figure(figsize=size).add_axes((0, 0, 1, 1))
    return draw_rank_bias(table, ax=ax, score=score)
