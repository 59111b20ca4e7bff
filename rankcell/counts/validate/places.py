"""Where an input may hold its counts: X, raw and the layers, each judged by its first stored entries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankcell.counts.block import first_non_count
from rankcell.counts.io.opening import open_counts
from rankcell.counts.io.spill import SpilledMatrix
from rankcell.counts.matrix import CsrMatrix, DenseMatrix, Matrix
from rankcell.counts.matrix_key import RAW, MatrixKey
from rankcell.counts.source import CountSource
from rankcell.errors import InputError

COUNTS, EMPTY, OTHER = "counts", "empty", "other"
_LOGARITHMS_BELOW = 20
_STORED = {CsrMatrix: "by cell (CSR)", SpilledMatrix: "by gene", DenseMatrix: "dense"}


@dataclass(frozen=True)
class MatrixCandidate:
    """One matrix of an input that counts could be read from.

    key
        X, raw or a layer.
    name
        What the format calls it: X, raw, layer 'counts'.
    verdict
        COUNTS, EMPTY (the entries looked at are all zero, or there are none) or OTHER.
    cause
        Why, in a few words, when it is not COUNTS.
    """

    key: MatrixKey
    name: str
    shape: tuple[int, int]
    verdict: str
    cause: str

    def describe(self) -> str:
        return f"{self.name}: {f'not counts ({self.cause})' if self.verdict == OTHER else self.cause or 'counts'}"


def find_places(item: Any, *, layer: str | None = None, raw: bool = False, genome: str | None = None) -> list[MatrixCandidate]:
    """The candidate matrices of an input, in the order of `MatrixKey.order`; `layer` or `raw` when the user named one, which must be there."""
    opened, key = _open_somewhere(item, layer, raw, genome)
    with opened as source:
        places = [_judge(source.matrix, key, lambda: source.x)]
        places += [_judge(other.name(), other, opener) for other, opener in source.others.items()]
    return sorted(places, key=lambda p: p.key.order())


def _open_somewhere(item: Any, layer: str | None, raw: bool, genome: str | None) -> tuple[CountSource, MatrixKey]:
    """The input at the matrix that was named; where none was and it has no X, at raw or a layer named like counts."""
    try:
        return open_counts(item, layer=layer, raw=raw), MatrixKey(layer, raw)
    except InputError as e:
        if layer is not None or raw:
            raise
        for other in (*([MatrixKey(genome)] if genome else []), RAW, *map(MatrixKey, ("counts", "raw_counts", "count"))):
            try:
                return open_counts(item, layer=other.layer, raw=other.raw), other
            except InputError:
                continue
        raise e from None


def _judge(name: str, key: MatrixKey, opener: Callable[[], Matrix]) -> MatrixCandidate:
    try:
        matrix = opener()
        verdict, cause = _judge_entries(matrix.head())
        return MatrixCandidate(key, name, matrix.shape, verdict, cause)
    except (InputError, OSError, KeyError, ValueError, RuntimeError, TypeError) as e:
        return MatrixCandidate(key, name, (0, 0), OTHER, f"not readable: {str(e).splitlines()[0][:80] if str(e) else type(e).__name__}")


def _judge_entries(head: np.ndarray) -> tuple[str, str]:
    """The verdict on some entries, and why."""
    if head.dtype.kind not in "biuf":
        return OTHER, f"{head.dtype}"
    odd = first_non_count(head)
    if odd is None:
        return (COUNTS, "") if np.any(head) else (EMPTY, "only zeros at its start" if len(head) else "nothing stored")
    value, kind = head[odd[0]], odd[1]
    if kind in ("NaN", "infinite"):
        return OTHER, kind
    if (head < 0).any():
        return OTHER, f"{float(head[np.argmax(head < 0)]):.4g}, negative: scaled?"
    cause = "log-normalised?" if np.nanmax(head) < _LOGARITHMS_BELOW else "normalised, or corrected for background?"
    return OTHER, f"{float(value):.4g}, {kind}: {cause}"


def choose(places: Sequence[MatrixCandidate], *, layer: str | None = None, raw: bool = False) -> MatrixCandidate:
    """The matrix to read: the requested one, else the first that holds counts, else the first whose start is empty, else the first."""
    candidates = [p for p in places if p.key == MatrixKey(layer, raw)] if layer is not None or raw else []
    for verdict in (COUNTS, EMPTY, OTHER):
        candidates += [p for p in places if p.verdict == verdict]
    return candidates[0]


def read_unnamed(places: Sequence[MatrixCandidate]) -> MatrixCandidate | None:
    """The default matrix, read where the user names none (rankcell.counts.io.fallback); None where that is refused."""
    x = next((p for p in places if p.key.is_x), None)
    if x is not None and x.verdict != OTHER:
        return x
    plain = [p for p in places if p.verdict == COUNTS and p.key.is_called_counts()]
    return plain[0] if len(plain) == 1 else None


def stored_as(matrix: Matrix) -> str:
    """The storage order of a matrix in words, "" where it is not known."""
    return next((words for kind, words in _STORED.items() if isinstance(matrix, kind)), "")
