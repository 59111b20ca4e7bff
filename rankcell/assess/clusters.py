"""Agreement of Leiden clusters of an embedding with the labels, by ARI and NMI."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rankcell.assess.options import Scoring
from rankcell.wording import note

EXACT = 10_000  # cells up to which neighbours are searched exactly


def cluster_scores(x: np.ndarray, labels: np.ndarray, *, k: int, resolution: Sequence[float], seed: int) -> dict[str, float]:
    """The best ARI and the best NMI over the resolutions, each with the resolution that gave it.

    Leiden (igraph, two iterations) on scanpy's graph of `k` cosine neighbours. Empty without resolutions.
    """
    if not resolution:
        return {}
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    graph = _graph(x, k, seed)
    clusterings = {r: _leiden(graph, r, seed) for r in resolution}
    scores = {}
    for name, compare in (("ari", adjusted_rand_score), ("nmi", normalized_mutual_info_score)):
        by_resolution = {r: float(compare(labels, clusters)) for r, clusters in clusterings.items()}
        best = max(by_resolution, key=lambda r: by_resolution[r])
        scores |= {name: by_resolution[best], f"{name}_resolution": float(best)}
    return scores


def computable(scoring: Scoring) -> Scoring:
    """Drop the clusters from `scoring`, with a note, where igraph is not installed."""
    import importlib.util

    if not scoring.resolution or importlib.util.find_spec("igraph") is not None:
        return scoring
    note("igraph is not installed: no ari and nmi (pip install igraph adds them)")
    return replace(scoring, resolution=())


def _graph(x: np.ndarray, k: int, seed: int) -> Any:
    import anndata as ad
    import scanpy as sc

    cells = ad.AnnData(obsm={"x": x})
    search = "sklearn" if len(x) <= EXACT else None
    sc.pp.neighbors(cells, n_neighbors=k, use_rep="x", metric="cosine", transformer=search, random_state=seed)
    return cells


def _leiden(graph: Any, resolution: float, seed: int) -> np.ndarray:
    import scanpy as sc

    sc.tl.leiden(graph, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
    return graph.obs["leiden"].to_numpy()
