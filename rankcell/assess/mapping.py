"""kNN label transfer from a reference, with confidence and distance."""

from dataclasses import dataclass

import numpy as np

from rankcell.assess.options import LabelMapping
from rankcell.errors import SettingsError
from rankcell.wording import option

AT_MOST = 10_000  # reference cells, evenly spaced, whose own distances make the scale
_BLOCK = 4_096


@dataclass(frozen=True)
class Reference:
    """Cells with an embedding `x` [cells, width] and a label code each (0 to n_labels - 1)."""

    x: np.ndarray
    code: np.ndarray
    n_labels: int


@dataclass(frozen=True)
class Mapped:
    """Per cell: `code` of the label (-1: none), `confidence` (share of the neighbours), `distance` (share of the reference)."""

    code: np.ndarray
    confidence: np.ndarray
    distance: np.ndarray


def require_enough(n: int, k: int) -> None:
    """SettingsError unless each of `n` reference cells has `k` others."""
    if n < 2:
        raise SettingsError(f"the reference has {n} cell{'' if n == 1 else 's'} with a label and an embedding: at least 2 are needed, and more than k ({k})")
    if not 1 <= k < n:
        raise SettingsError(f"k is {k} and the reference has {n:,} cells with a label and an embedding: {option('k')} is at least 1 and at most {n - 1:,}")


def map_labels(x: np.ndarray, reference: Reference, mapping: LabelMapping = LabelMapping()) -> Mapped:
    """Label cells by the votes of their `mapping.k` nearest reference cells; see rankcell.tl.map_labels."""
    from sklearn.neighbors import NearestNeighbors

    k = mapping.k
    require_enough(len(reference.x), k)
    near = NearestNeighbors(n_neighbors=k, metric=mapping.metric).fit(reference.x)
    scale = np.sort(_own_distances(near, reference.x, k))
    mapped = Mapped(np.full(len(x), -1), np.zeros(len(x)), np.full(len(x), np.nan))
    rows = np.flatnonzero(np.isfinite(x).all(1))
    for block in (rows[i : i + _BLOCK] for i in range(0, len(rows), _BLOCK)):
        distance, index = near.kneighbors(x[block])
        mapped.code[block], votes = _vote(reference.code[index], distance, reference.n_labels)
        mapped.confidence[block] = votes / k
        mapped.distance[block] = np.searchsorted(scale, distance.mean(1), side="left") / len(scale)
    return mapped


def _own_distances(near: object, x: np.ndarray, k: int) -> np.ndarray:
    """Mean distance of reference cells to their k nearest other ones."""
    rows = np.unique(np.linspace(0, len(x) - 1, min(len(x), AT_MOST)).astype(int))
    means = []
    for block in (rows[i : i + _BLOCK] for i in range(0, len(rows), _BLOCK)):
        distance, index = near.kneighbors(x[block], n_neighbors=k + 1)
        own = index == block[:, None]
        own[~own.any(1), -1] = True  # more than k cells in the very same place: any of them will do
        means.append(distance[~own].reshape(len(block), k).mean(1))
    return np.concatenate(means)


def _vote(codes: np.ndarray, distance: np.ndarray, n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """(the label with most of each row's votes, how many); of equal ones the label whose voters are nearer on average."""
    at = np.arange(len(codes))[:, None]
    votes, away = np.zeros((len(codes), n_labels)), np.zeros((len(codes), n_labels))
    np.add.at(votes, (at, codes), 1)
    np.add.at(away, (at, codes), distance)
    most = votes.max(1, keepdims=True)
    mean = np.where(votes == most, away / np.maximum(votes, 1), np.inf)
    return mean.argmin(1), most[:, 0].astype(int)
