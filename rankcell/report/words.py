"""Scores and names as pictures and pages say them."""

from typing import TYPE_CHECKING

from rankcell.scores import Score

IN_SILICO = "An edit in silico changes a word of a list. It says what the model has come to expect together, not what a cell would do."

if TYPE_CHECKING:
    import pandas as pd


def words(score: str) -> str:
    """The label of a score (Score.label); the name itself of a column that is none."""
    known = Score.known(score)
    return score if known is None else known.label()


def wrapped(label: str, n: int = 46) -> str:
    """Two lines where one would be longer than an axis: broken at the last comma or bracket of the first `n` characters."""
    if len(label) <= n:
        return label
    at = max(label.rfind(", ", 0, n) + 1, label.rfind(" (", 0, n))
    return label if at <= 0 else f"{label[:at]}\n{label[at:].lstrip()}"


def replicates(ranked: "pd.DataFrame") -> str:
    """The replicates of a ranked table's means, in a word."""
    return "donors" if "n_donors" in ranked and ranked["n_donors"].notna().any() else "cells"


def counted(n: int, noun: str) -> str:
    """A number with its noun: 1 edit, 2,000 edits."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def in_cells(least: int) -> str:
    """End of a sentence about edits where those in fewer cells are left out."""
    return f" in {least} cells or more" if least > 1 else ""
