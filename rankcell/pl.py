"""Plotting counter: pictures of token rows, screens and embeddings as matplotlib axes."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rankcell.vocab import Vocabulary
from rankcell.wording import python_verb

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    from matplotlib.axes import Axes

    from rankcell.stats.ranking import Ranking

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
    from rankcell.report.pictures.rank_encoding import draw_encoding
    from rankcell.report.token_table import encoding_table, require_genes, tokens_and_vocabulary

    tokens, vocab = tokens_and_vocabulary(tokens, vocab)
    gene_names = [] if genes is None else [genes] if isinstance(genes, str) else list(genes)
    marked = [vocab.find(name) for name in gene_names]
    table = encoding_table(tokens, vocab, cell)
    require_genes(table, vocab)
    ax = ax or _new_axes(9, 5 if table["value"].notna().any() else 2.1)
    return draw_encoding(table, vocab, ax=ax, n=n, marked=marked)


@python_verb()
def ranked_genes(ranked: Any, *, n: int = 20, title: str | None = None, ax: "Axes | None" = None) -> "Axes":
    """Bars of the strongest edits, with standard errors.

    ranked
        What rc.tl.rank_edits gives, the table of `rankcell stats` or its path, or a screen (results folder, Screen, table), ranked by its
        default score.
    n
        How many edits; of a `toward_...` score up to half of them from either end.
    ax
        Matplotlib axes to draw on; None: a new pyplot figure.

    Returns the axes.
    """
    from rankcell.report.pictures.figures import mark
    from rankcell.report.pictures.ranked_genes import draw_ranked
    from rankcell.report.pictures.screen_pictures import picture_of

    ranking = _ranked(ranked)
    ax = ax or _axes(*picture_of("ranked").size(min(n, len(ranking))))
    return mark(draw_ranked(ranking.table, by=ranking.by, ax=ax, n=n, title=title), ranking.model_note)


@python_verb()
def volcano(ranked: Any, *, x: str | None = None, y: str | None = None, n: int = 12, ax: "Axes | None" = None) -> "Axes":
    """Effect of every edit against -log10 of its p-value or false discovery rate; those with FDR < 0.05 in colour (red: positive).

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

    A probability of 0 is a triangle above all others. Returns the axes. SettingsError when there is no such column.
    """
    from rankcell.report.pictures.figures import mark
    from rankcell.report.pictures.screen_pictures import picture_of
    from rankcell.report.pictures.volcano import draw_volcano

    ranking = _ranked(ranked)
    ax = ax or _axes(*picture_of("volcano").size(n))
    return mark(draw_volcano(ranking.table, by=ranking.by, ax=ax, x=x, y=y, n=n), ranking.model_note)


def _ranked(source: Any) -> "Ranking":
    """Resolve a ranking: itself, the path of the table of `rankcell stats`, or a screen, ranked by its default score."""
    from rankcell.report.screen_view import choose_score, open_tables, ranking
    from rankcell.stats.ranked_tables import read_statistics
    from rankcell.stats.screen_rows import is_table

    if is_table(source) and ("effect" in source or "cell_id" not in source):
        return read_statistics(source, None)
    if isinstance(source, (str, os.PathLike)) and os.path.isfile(source) and os.path.basename(source) != "screen.parquet":
        return read_statistics(source, None)
    tables = open_tables(source)
    return ranking(tables, choose_score(tables.table, None), tested=True)


@python_verb()
def screen_heatmap(
    screen: Any, *, score: str | None = None, groupby: str | None = None, n: int = 30, min_cells: int | None = None, ax: "Axes | None" = None
) -> "Axes":
    """The strongest edits against states (mean movement toward each) or groups of cells (mean effect in each).

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

    Returns the axes. SettingsError without states and without `groupby`, CellError when the cells have no such column.
    """
    return _of_screen("heatmap", screen, ax, n, score=score, groupby=groupby, min_cells=min_cells)


@python_verb()
def affected_genes(screen: Any, edit: str, *, n: int = 20, min_cells: int | None = None, ax: "Axes | None" = None) -> "Axes":
    """Bars of the genes that one edit shifts most (in place where the screen has that), with their standard deviation over cells, and
    the number of cells.

    screen
        The results folder of a screen with affected genes.
    edit
        Its id, gene or symbol.
    n, min_cells
        How many genes; leave out those seen in fewer cells (None: 3, or fewer where none is in three).
    ax
        Matplotlib axes to draw on; None: a new pyplot figure.

    Returns the axes. OutputError when the screen was run without affected genes.
    """
    return _of_screen("affected", screen, ax, n, edit=edit, min_cells=min_cells)


@python_verb()
def shift_by_rank(screen: Any, *, score: str | None = None, n: int = 10, min_cells: int | None = None, ax: "Axes | None" = None) -> "Axes":
    """Mean effect of every edit against the mean rank of its gene, over the band of genes of like rank; those outside it named.

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

    The line and the band are the median and the 5 to 95 % quantiles of the edits next in rank (an eighth of them, at least 15
    on either side; no band below 20 edits). The title says how far the score follows the rank (median Spearman over cells),
    in red above 0.9. Returns the axes.
    """
    return _of_screen("rank", screen, ax, n, score=score, min_cells=min_cells)


@python_verb()
def decomposition(screen: Any, *, score: str | None = None, n: int = 20, min_cells: int | None = None, ax: "Axes | None" = None) -> "Axes":
    """What the effect of the strongest deletions consists of: total, in place, the part of positions, and that of refilling.

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

    Means over cells, so that the parts of each edit add up to its total; the scale is logarithmic. Returns the axes. SettingsError
    for a screen without in-place scores.
    """
    return _of_screen("decomposition", screen, ax, n, score=score, min_cells=min_cells)


@python_verb()
def explain_cell(screen: Any, cell: str, *, score: str | None = None, n: int = 10, ax: "Axes | None" = None) -> "Axes":
    """One cell: the shift of every edit against the rank of its gene, total and in place, with the Spearman correlation of each.

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

    Returns the axes. CellError when the cell was not screened.
    """
    return _of_screen("explain", screen, ax, n, cell=cell, score=score)


def _of_screen(picture: str, screen: Any, ax: "Axes | None", n: int, **options: Any) -> "Axes":
    """A registered picture of a screen on `ax`, or on new axes of the size that it wants."""
    from rankcell.report.pictures.figures import mark
    from rankcell.report.pictures.screen_pictures import picture_of, size_of
    from rankcell.report.screen_view import open_tables

    tables = open_tables(screen)
    ax = ax or _axes(*size_of(picture, tables, n))
    return mark(picture_of(picture).draw(tables, ax=ax, n=n, **options), tables.model_note)


def _axes(width: float, height: float) -> "Axes":
    """The axes of a new pyplot figure of that many inches, with a constrained layout."""
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def _new_axes(width: float, height: float) -> "Axes":
    """Axes that fill a new pyplot figure of that many inches, for pictures that lay out their own."""
    from matplotlib import pyplot as plt

    return plt.figure(figsize=(width, height)).add_axes((0, 0, 1, 1))


@python_verb()
def compare_poolings(table: "pd.DataFrame", *, score: str = "knn_accuracy", ax: "Axes | None" = None) -> "Axes":
    """Dots of every pooling, layers in colours, beside the random-weight models (hollow) and PCA (dashed line).

    table
        What rc.tl.compare_poolings gives.
    score
        A column of scores. `knn_accuracy` has its standard error over folds as a line, and PCA's as a band.
    ax
        Matplotlib axes to draw on; None: a new pyplot figure.

    Returns the axes.
    """
    from rankcell.errors import SettingsError
    from rankcell.report.pictures.compare_poolings import draw_poolings
    from rankcell.report.pictures.figures import mark

    if "source" not in table or "over_pca" not in table:
        raise SettingsError("this is not a comparison: give what rc.tl.compare_poolings(adata, label) returns")
    if score not in table or table[score].dtype.kind not in "fiu":
        raise SettingsError(f"the comparison has no score '{score}'; knn_accuracy, silhouette, ... (its columns: {', '.join(table)})")
    ax = ax or _axes(7.2, 1.3 + 0.34 * max(3, table["pool"].nunique()))
    return mark(draw_poolings(table, ax=ax, score=score), table.attrs.get("model_note"))


@python_verb()
def rank_bias(table: "pd.DataFrame", *, score: str = "relative_shift", ax: "Axes | None" = None) -> "npt.NDArray[np.object_]":
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
    from rankcell.report.pictures.figures import mark
    from rankcell.report.pictures.rank_bias import draw_rank_bias

    if "between_cells" not in table:
        raise SettingsError("this is not a table of rank biases: give what rc.tl.rank_bias(adata) returns")
    each = 3.6 if table["pool"].nunique() <= 6 else 4.6
    ax = ax or _new_axes(2.6 + 2.9 * table["how"].nunique(), each * table["layer"].nunique())
    panels = draw_rank_bias(table, ax=ax, score=score)
    mark(panels.flat[0], table.attrs.get("model_note"))
    return panels
