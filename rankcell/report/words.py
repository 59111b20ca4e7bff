"""Scores and names as pictures and pages say them."""

from rankcell.wording import one_line

PARTS = ("in_place", "position", "refill")
_READOUTS = {"genes": "other genes", "cell": "cell mean", "cls": "CLS"}


def words(score: str) -> str:
    """A score in words, as an axis is labelled."""
    part = next((p for p in PARTS if score.endswith(f"_{p}")), "")
    stem = score.removesuffix(f"_{part}") if part else score
    ending = {"": "", "in_place": ", in place", "position": ", due to positions", "refill": ", due to refill"}[part]
    far = stem.startswith("euclidean_")
    stem = stem.removeprefix("euclidean_")
    if stem.startswith("toward_"):
        state, _, readout = stem.removeprefix("toward_").rpartition("_")
        return f"{'distance closed' if far else 'movement'} toward {shorten(state, 30)}, {_READOUTS.get(readout, readout)}{ending}"
    readout = _READOUTS.get(stem.removeprefix("cos_").removeprefix("shift_"), stem)
    return f"distance moved by the {readout}{ending}" if far else f"shift of the {readout}{ending} (1 - cosine)"


def shorten(text: str, n: int = 26) -> str:
    """At most `n` characters; the middle is left out, so that what stands at either end can be told apart."""
    text = one_line(str(text))
    return text if len(text) <= n else f"{text[: n - n // 3 - 1]}…{text[len(text) - n // 3 :]}"


def wrapped(label: str, n: int = 46) -> str:
    """Two lines where one would be longer than an axis: broken at the last comma or bracket of the first `n` characters."""
    if len(label) <= n:
        return label
    at = max(label.rfind(", ", 0, n) + 1, label.rfind(" (", 0, n))
    return label if at <= 0 else f"{label[:at]}\n{label[at:].lstrip()}"
