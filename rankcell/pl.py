"""Plotting counter: pictures of screens and embeddings as matplotlib axes."""

from typing import Any

__all__ = ["ranked_genes"]


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
