"""Plots of comparisons of poolings, and of rank bias."""

from typing import TYPE_CHECKING

from rankcell.wording import python_verb

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["compare_poolings", "rank_bias"]


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
