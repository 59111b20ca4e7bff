"""Plotting counter: pictures of token rows, screens and embeddings as matplotlib axes."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rankcell.near_names import suggest_names
from rankcell.vocab import Vocabulary
from rankcell.wording import python_verb

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = [
    "affected_genes",
    "compare_poolings",
    "decomposition",
    "explain_cell",
    "rank_bias",
    "rank_encoding",
    "ranked_genes",
    "screen_heatmap",
    "shift_by_rank",
    "volcano",
]
if not TYPE_CHECKING:
    __getattr__ = suggest_names(__name__, __all__)


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


@python_verb()
def ranked_genes(ranked: Any, *, n: int = 20, title: str | None = None, ax: "Axes | None" = None) -> "Axes":
    """Plot the strongest edits as bars, with standard errors.

    Parameters
    ----------
    ranked
        What rc.tl.rank_edits gives, the table of `rankcell stats` or its path, or a screen (results folder, Screen, table), ranked by its
        default score.
    n
        How many edits; of a `toward_...` score up to half of them from either end.
    title
        Title of the axes.
    ax
        Matplotlib axes to draw on; None: a new pyplot figure.

    Returns
    -------
    Axes
        The axes drawn on.
    """
    from rankcell.report.pictures.figures import mark
    from rankcell.report.pictures.pyplot_axes import new_axes
    from rankcell.report.pictures.ranked_genes import draw_ranked
    from rankcell.report.pictures.screen_pictures import picture_of
    from rankcell.report.screen_view import open_ranking

    ranking = open_ranking(ranked)
    ax = ax or new_axes(*picture_of("ranked").size(min(n, len(ranking))))
    return mark(draw_ranked(ranking.table, by=ranking.by, ax=ax, n=n, title=title), ranking.model_note)


@python_verb()
def volcano(ranked: Any, *, x: str | None = None, y: str | None = None, n: int = 12, ax: "Axes | None" = None) -> "Axes":
    """Plot the effect of every edit against -log10 of its p-value or false discovery rate.

    Parameters
    ----------
    ranked
        As for rc.pl.ranked_genes: `effect`, `symbols` and a column of probabilities.
    x
        The column of effects; None: what y is the probability of, which is `matched_diff` for `matched_p` (the effect less that of
        genes of like rank), `control_diff`, `vs_diff`, else `effect`.
    y
        The column of probabilities: `matched_p`, `control_p`, ... or `..._fdr`; None: the first there is. Colours go by the FDR that belongs to it.
    n
        How many edits to name: those of the lowest p. A name without room is left out.
    ax
        Matplotlib axes to draw on; None: a new pyplot figure.

    Returns
    -------
    Axes
        The axes drawn on. Edits with FDR < 0.05 are in colour (red: positive); a probability of 0 is a triangle above all others.

    Raises
    ------
    SettingsError
        When there is no such column.
    """
    from rankcell.report.pictures.figures import mark
    from rankcell.report.pictures.pyplot_axes import new_axes
    from rankcell.report.pictures.screen_pictures import picture_of
    from rankcell.report.pictures.volcano import draw_volcano
    from rankcell.report.screen_view import open_ranking

    ranking = open_ranking(ranked)
    ax = ax or new_axes(*picture_of("volcano").size(n))
    return mark(draw_volcano(ranking.table, by=ranking.by, ax=ax, x=x, y=y, n=n), ranking.model_note)


@python_verb()
def screen_heatmap(
    screen: Any, *, score: str | None = None, groupby: str | None = None, n: int = 30, min_cells: int | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Plot the strongest edits against states (mean movement toward each) or groups of cells (mean effect in each).

    Parameters
    ----------
    screen
        A results folder, or what rc.tl.perturb or rc.get.screen_df gives.
    score
        With groups: the score, by default `cos_genes_in_place`. With states: a `toward_...` score, whose readout is drawn for
        all states; by default that of the cell mean, in place where it is known.
    groupby
        A column of the screened cells (cell type, donor); None: the states.
    n
        How many edits, by their greatest size in any column. Rows that are alike stand together.
    min_cells
        Leave out edits in fewer cells; None: 3, or fewer where no edit is in three.
    ax
        Matplotlib axes to draw on; None: a new pyplot figure.

    Returns
    -------
    Axes
        The axes drawn on.

    Raises
    ------
    SettingsError
        Without states and without `groupby`.
    CellError
        When the cells have no such column.
    """
    return _of_screen("heatmap", screen, ax, n, score=score, groupby=groupby, min_cells=min_cells)


@python_verb()
def affected_genes(screen: Any, edit: str, *, n: int = 20, min_cells: int | None = None, ax: "Axes | None" = None) -> "Axes":
    """Plot the genes that one edit shifts most as bars.

    Parameters
    ----------
    screen
        The results folder of a screen with affected genes.
    edit
        Its id, gene or symbol.
    n
        How many genes.
    min_cells
        Leave out genes seen in fewer cells; None: 3, or fewer where none is in three.
    ax
        Matplotlib axes to draw on; None: a new pyplot figure.

    Returns
    -------
    Axes
        The axes drawn on: shifts (in place where the screen has that), with their standard deviation over cells, and the number of cells.

    Raises
    ------
    OutputError
        When the screen was run without affected genes.
    """
    return _of_screen("affected", screen, ax, n, edit=edit, min_cells=min_cells)


@python_verb()
def shift_by_rank(screen: Any, *, score: str | None = None, n: int = 10, min_cells: int | None = None, ax: "Axes | None" = None) -> "Axes":
    """Plot the mean effect of every edit against the mean rank of its gene, over the band of genes of like rank.

    Parameters
    ----------
    screen
        A results folder, or what rc.tl.perturb or rc.get.screen_df gives.
    score
        None: `cos_genes_in_place` where there is one. Draw `cos_genes` beside it to see what closing up does.
    n
        How many genes outside the band to name.
    min_cells
        Leave out edits in fewer cells; None: 3, or fewer where no edit is in three.
    ax
        Matplotlib axes to draw on; None: a new pyplot figure.

    Returns
    -------
    Axes
        The axes drawn on.

    Notes
    -----
    The line and the band are the median and the 5 to 95 % quantiles of the edits next in rank (an eighth of them, at least 15
    on either side; no band below 20 edits). The title says how far the score follows the rank (median Spearman over cells),
    in red above 0.9.
    """
    return _of_screen("rank", screen, ax, n, score=score, min_cells=min_cells)


@python_verb()
def decomposition(screen: Any, *, score: str | None = None, n: int = 20, min_cells: int | None = None, ax: "Axes | None" = None) -> "Axes":
    """Plot the parts of the effect of the strongest deletions: total, in place, due to positions and due to refill.

    Parameters
    ----------
    screen
        A results folder, or what rc.tl.perturb or rc.get.screen_df gives.
    score
        None: `cos_genes`.
    n
        How many edits: the strongest in place.
    min_cells
        Leave out edits in fewer cells; None: 3, or fewer where no edit is in three.
    ax
        Matplotlib axes to draw on; None: a new pyplot figure.

    Returns
    -------
    Axes
        The axes drawn on: means over cells, so that the parts of each edit add up to its total; the scale is logarithmic.

    Raises
    ------
    SettingsError
        For a screen without in-place scores.
    """
    return _of_screen("decomposition", screen, ax, n, score=score, min_cells=min_cells)


@python_verb()
def explain_cell(screen: Any, cell: str, *, score: str | None = None, n: int = 10, ax: "Axes | None" = None) -> "Axes":
    """Plot the shift of every edit of one cell against the rank of its gene, total and in place.

    Parameters
    ----------
    screen
        A results folder, or what rc.tl.perturb or rc.get.screen_df gives.
    cell
        Its id.
    score
        None: `cos_genes`.
    n
        How many genes to name: the strongest in place.
    ax
        Matplotlib axes to draw on; None: a new pyplot figure.

    Returns
    -------
    Axes
        The axes drawn on, with the Spearman correlation of shift and rank for each.

    Raises
    ------
    CellError
        When the cell was not screened.
    """
    return _of_screen("explain", screen, ax, n, cell=cell, score=score)


def _of_screen(picture: str, screen: Any, ax: "Axes | None", n: int, **options: Any) -> "Axes":
    """A registered picture of a screen on `ax`, or on new axes of the size that it wants."""
    from rankcell.report.pictures.figures import mark
    from rankcell.report.pictures.pyplot_axes import new_axes
    from rankcell.report.pictures.screen_pictures import picture_of, size_of
    from rankcell.report.screen_view import open_tables

    tables = open_tables(screen)
    ax = ax or new_axes(*size_of(picture, tables, n))
    return mark(picture_of(picture).draw(tables, ax=ax, n=n, **options), tables.model_note)


@python_verb()
def compare_poolings(table: "pd.DataFrame", *, score: str = "knn_accuracy", ax: "Axes | None" = None) -> "Axes":
    """Plot the scores of every pooling as dots, layers in colours, beside random-weight models and PCA.

    Parameters
    ----------
    table
        What rc.tl.compare_poolings gives.
    score
        A column of scores. `knn_accuracy` has its standard error over folds as a line, and PCA's as a band.
    ax
        Matplotlib axes to draw on; None: a new pyplot figure.

    Returns
    -------
    Axes
        The axes drawn on: random-weight models hollow, PCA a dashed line.

    Raises
    ------
    SettingsError
        When the table is no such comparison, or has no such score.
    """
    from rankcell.errors import SettingsError
    from rankcell.report.pictures.compare_poolings import draw_poolings
    from rankcell.report.pictures.figures import mark
    from rankcell.report.pictures.pyplot_axes import new_axes

    if "source" not in table or "over_pca" not in table:
        raise SettingsError("this is not a comparison: give what rc.tl.compare_poolings(adata, label) returns")
    if score not in table or table[score].dtype.kind not in "fiu":
        raise SettingsError(f"the comparison has no score '{score}'; knn_accuracy, silhouette, ... (its columns: {', '.join(table)})")
    ax = ax or new_axes(7.2, 1.3 + 0.34 * max(3, table["pool"].nunique()))
    return mark(draw_poolings(table, ax=ax, score=score), table.attrs.get("model_note"))


@python_verb()
def rank_bias(table: "pd.DataFrame", *, score: str = "relative_shift", ax: "Axes | None" = None) -> "npt.NDArray[np.object_]":
    """Plot how far each pooling moves over the deciles of the ranking, a panel per kind of edit.

    Parameters
    ----------
    table
        What rc.tl.rank_bias gives.
    score
        `relative_shift` (the shift as a share of that between two cells, so that poolings can be compared), `shift` or `distance`.
    ax
        Matplotlib axes whose place is taken (about 11 x 3.6 inches a layer); None: a new pyplot figure.

    Returns
    -------
    array of Axes
        [layers, kinds of edit], on a logarithmic scale.

    Raises
    ------
    SettingsError
        When the table is none of rank biases.

    Notes
    -----
    The band and the lines are standard errors. Hollow: the same done to as many genes drawn from all ranks.
    """
    from rankcell.errors import SettingsError
    from rankcell.report.pictures.figures import mark
    from rankcell.report.pictures.pyplot_axes import filled_axes
    from rankcell.report.pictures.rank_bias import draw_rank_bias

    if "between_cells" not in table:
        raise SettingsError("this is not a table of rank biases: give what rc.tl.rank_bias(adata) returns")
    each = 3.6 if table["pool"].nunique() <= 6 else 4.6
    ax = ax or filled_axes(2.6 + 2.9 * table["how"].nunique(), each * table["layer"].nunique())
    panels = draw_rank_bias(table, ax=ax, score=score)
    mark(panels.flat[0], table.attrs.get("model_note"))
    return panels
