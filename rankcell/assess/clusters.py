"""Whether clusters of the embedding are the labels: Leiden communities, compared by ARI and NMI."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rankcell.errors import SettingsError
from rankcell.wording import note, option, shortened

EXACT = 10_000  # cells up to which neighbours are searched exactly


def cluster_scores(x: np.ndarray, labels: np.ndarray, *, k: int, resolution: Sequence[float], seed: int) -> dict[str, float]:
    """The best ARI and the best NMI over the resolutions, each with the resolution that gave it.

    Leiden (igraph, two iterations) on scanpy's graph of `k` cosine neighbours. Empty without resolutions.
    """
    if not resolution:
        return {}
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    graph = _graph(x, k, seed)
    found = {r: _leiden(graph, r, seed) for r in resolution}
    scores = {}
    for name, compare in (("ari", adjusted_rand_score), ("nmi", normalized_mutual_info_score)):
        each = {r: float(compare(labels, clusters)) for r, clusters in found.items()}
        best = max(each, key=lambda r: each[r])
        scores |= {name: each[best], f"{name}_resolution": float(best)}
    return scores


def possible(resolution: float | Sequence[float] | None) -> tuple[float, ...]:
    """One resolution or several as numbers; 0, None and an empty list are none. None with a warning where igraph is not installed.

    SettingsError when one makes no sense.
    """
    import importlib.util

    try:
        several = list(resolution) if isinstance(resolution, Iterable) and not isinstance(resolution, str) else [resolution or 0]
        if any(isinstance(r, (bool, np.bool_)) for r in several):
            raise TypeError
        values = tuple(float(r) for r in several)
    except (TypeError, ValueError):
        raise SettingsError(f"{option('resolution')} is {shortened(resolution)}; a number above 0, or several (0 leaves clusters out)") from None
    if values == (0.0,):
        return ()
    if wrong := [r for r in values if not 0 < r < float("inf")]:
        raise SettingsError(f"{option('resolution')} is {wrong[0]:g}; a number above 0, or 0 alone, which leaves clusters out")
    if values and importlib.util.find_spec("igraph") is None:
        note("igraph is not installed: no ari and nmi (pip install igraph adds them)")
        return ()
    return values


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
