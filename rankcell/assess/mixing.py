"""Silhouette widths and batch mixing."""

import warnings

import numpy as np

AT_MOST = 10_000  # cells between which silhouettes are computed: distances grow with the square


def sampled(n: int, seed: int) -> np.ndarray:
    """All of `n` row numbers, or AT_MOST of them drawn with `seed`, in order."""
    return np.arange(n) if n <= AT_MOST else np.sort(np.random.default_rng(seed).choice(n, AT_MOST, replace=False))


def silhouette(x: np.ndarray, labels: np.ndarray, *, seed: int) -> float:
    """Mean silhouette width (cosine) of the labels, -1 to 1; NaN where there are fewer than two labels or each cell has its own."""
    rows = sampled(len(x), seed)
    widths = _widths(x[rows], labels[rows])
    return float("nan") if widths is None else float(widths.mean())


def _widths(x: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    from sklearn.metrics import silhouette_samples

    if not 2 <= len(np.unique(labels)) < len(labels):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a label of one cell: its width is 0 by definition
        return silhouette_samples(x, labels, metric="cosine")


def batch_mixing(x: np.ndarray, batch: np.ndarray, *, k: int) -> float:
    """Neighbours of another batch among all cells' `k` nearest (cosine), divided by how many chance gives.

    A cell of a batch of m among n cells has, by chance, k (n - m) / (n - 1) neighbours of other batches: so 1 is the
    expectation of batches that are drawn at random, for any k, shares and number of batches; 0: no cell has a neighbour of
    another batch.
    """
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=k, metric="cosine").fit(x).kneighbors(return_distance=False)
    _, code, size = np.unique(batch, return_inverse=True, return_counts=True)
    other = (code[near] != code[:, None]).sum()
    expected = k * ((len(x) - size[code]) / (len(x) - 1)).sum()
    return float(other / expected)


def batch_silhouette(x: np.ndarray, labels: np.ndarray, batch: np.ndarray, *, seed: int) -> float:
    """Mean over labels of the mean of 1 - |silhouette width of the batch| within the label: 1 mixed, 0 apart.

    As in Luecken et al., Nature Methods 19, 41 (2022), with cosine distances. Labels with one batch say nothing and are
    left out; NaN when there is no other.
    """
    rows = sampled(len(x), seed)
    x, labels, batch = x[rows], labels[rows], batch[rows]
    widths = [_widths(x[labels == name], batch[labels == name]) for name in np.unique(labels)]
    means = [1 - np.abs(w).mean() for w in widths if w is not None]
    return float(np.mean(means)) if means else float("nan")
