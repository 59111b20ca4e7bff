"""The columns of a ranking that hold p-values and false discovery rates."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def probability_columns(ranked: "pd.DataFrame") -> list[str]:
    """`p`, `fdr`, `matched_p`, `control_p`, ...: those of probabilities before those of false discovery rates."""
    names = [[c for c in ranked.columns if c == ending or c.endswith(f"_{ending}")] for ending in ("p", "fdr")]
    return [*names[0], *names[1]]


def fdr_of(y: str) -> str:
    """The false discovery rate that belongs to a column of probabilities."""
    return f"{y[:-1]}fdr" if y == "p" or y.endswith("_p") else y
