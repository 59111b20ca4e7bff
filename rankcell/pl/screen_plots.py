"""Plots of screens and of ranked edits."""

from typing import TYPE_CHECKING, Any

from rankcell.wording import python_verb

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["affected_genes", "decomposition", "explain_cell", "ranked_genes", "screen_heatmap", "shift_by_rank", "volcano"]


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
