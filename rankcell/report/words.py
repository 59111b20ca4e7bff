"""Scores and names as pictures and pages say them."""

from rankcell.scores import Score


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
