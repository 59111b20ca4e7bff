"""Every pooling and layer of a model beside its untrained twin and plain PCA, scored over the same cells and folds."""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.assess.embedding_scores import LabelledCells, paired_difference, score
from rankcell.assess.options import Scoring
from rankcell.embed import Embedder
from rankcell.errors import RankcellWarning, SettingsError
from rankcell.model import POOLS
from rankcell.model.options import Compute
from rankcell.model.twin import random_twin
from rankcell.progress import Passes, Tick
from rankcell.tokens import TokenSet

MODEL, RANDOM, PCA = "model", "random weights", "PCA"
ORDER = ("source", "pool", "layer", "seed", "width", "knn_accuracy", "knn_sd", "over_pca", "over_pca_se", "over_random", "over_random_se")


def pool_names(pool: str | Sequence[str]) -> list[str]:
    """Parse one or several names of poolings into a list without repeats, `a + b` as `a+b`."""
    names = [pool] if isinstance(pool, str) else pool
    return list(dict.fromkeys("+".join(part.strip() for part in name.split("+")) for name in names))


def fitting_pools(embedder: Embedder, tokens: TokenSet, layer: Sequence[int]) -> list[str]:
    """The registered poolings that tokens and layers allow: those with a CLS token only where there is one."""
    pools = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankcellWarning)  # said when they are embedded
        embedder.check(tokens, ["mean"], layer)
        for name in POOLS:
            try:
                embedder.check(tokens, [name], layer)
            except SettingsError:
                continue
            pools.append(name)
    return pools


def compare_poolings(
    tokens: TokenSet,
    embedder: Embedder,
    cells: LabelledCells,
    *,
    counts: Any,
    pool: Sequence[str] | None,
    layer: Sequence[int],
    scoring: Scoring,
    n_random: int,
    compute: Compute,
    progress: Tick | None = None,
) -> Any:
    """See rankcell.tl.compare_poolings. `counts`: cells x genes, for PCA (None: there is none); `compute`: where they run.

    progress
        Called with the cells that have been embedded, by all models, and their total.
    """
    if n_random < 0:
        raise SettingsError(f"n_random is {n_random}; 0 leaves the random models out")
    pool = fitting_pools(embedder, tokens, layer) if pool is None else pool
    embedder.check(tokens, pool, layer)
    rows, right = [], {}
    passes = Passes(progress, int((tokens.n_genes > 0).sum()) * (1 + n_random))
    for source, seed, columns in _sources(tokens, embedder, pool, layer, scoring.seed, n_random, compute, passes):
        for (name, n), x in columns.items():
            passes.begin(f"{source}: scoring {name}, layer {n}")
            scores, right[source, name, n, seed] = score(x, cells, scoring)
            rows.append({"source": source, "pool": name, "layer": n, "seed": seed, "width": x.shape[1]} | scores)
    if counts is not None:
        passes.begin(f"scoring {PCA}")
        pca = principal_components(counts, seed=scoring.seed)
        scores, right[PCA, "", None, None] = score(pca, cells, scoring)
        rows.append({"source": PCA, "pool": "", "layer": None, "seed": None, "width": pca.shape[1]} | scores)
    for row in rows:
        row |= _differences(row, right)
    return _table(rows)


def _sources(
    tokens: TokenSet,
    embedder: Embedder,
    pool: Sequence[str],
    layer: Sequence[int],
    seed: int,
    n_random: int,
    compute: Compute,
    passes: Passes,
) -> Any:
    """(source, seed, {(pool, layer): [cells, width]}) of the model, then of each random one; one pass each."""
    passes.begin(MODEL)
    yield MODEL, None, _embedded(embedder, tokens, pool, layer, passes)
    for i in range(seed, seed + n_random):
        passes.begin(RANDOM)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", RankcellWarning)  # of cells without genes: said for the model itself
            twin = Embedder(random_twin(embedder.checkpoint, Path(folder) / "twin", seed=i), compute)
            columns = _embedded(twin, tokens, pool, layer, passes)
        yield RANDOM, i, columns


def _embedded(
    embedder: Embedder, tokens: TokenSet, pool: Sequence[str], layer: Sequence[int], passes: Passes
) -> dict[tuple[str, int], np.ndarray]:
    columns = embedder.embed(tokens, pool=list(pool), layer=list(layer), progress=passes.add).columns
    return {(p, n): columns[f"{p}_layer{n}"] for n in layer for p in pool}


def principal_components(counts: Any, *, seed: int, n_comps: int = 50) -> np.ndarray:
    """The first components of log1p of counts scaled to the median total, as scanpy computes them, on all genes given."""
    import anndata as ad
    import scanpy as sc

    cells = ad.AnnData(counts.astype(np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cells without counts: they stay zero
        sc.pp.normalize_total(cells)
        sc.pp.log1p(cells)
        sc.pp.pca(cells, n_comps=min(n_comps, min(cells.shape) - 1), random_state=seed)
    return cells.obsm["X_pca"]


def _differences(row: Mapping[str, Any], right: Mapping[tuple, np.ndarray]) -> dict[str, float]:
    """Accuracy gains (with standard errors) over PCA, and over the random models of the same pooling, on the cross-validated cells."""
    own = right[row["source"], row["pool"], row["layer"], row["seed"]]
    differences = {}
    if (pca := right.get((PCA, "", None, None))) is not None:
        differences["over_pca"], differences["over_pca_se"] = paired_difference(own, pca)
    twins = [r for key, r in right.items() if key[:3] == (RANDOM, row["pool"], row["layer"])]
    if row["source"] == MODEL and twins:
        each = np.mean(twins, axis=0)
        differences["over_random"], differences["over_random_se"] = paired_difference(own, each)
    return differences


def _table(rows: list[dict[str, Any]]) -> Any:
    import pandas as pd

    from rankcell.assess.comparison import Comparison

    table = pd.DataFrame(rows)
    for name in ("over_pca", "over_pca_se", "over_random", "over_random_se"):
        if name not in table:
            table[name] = np.nan
    table = table.astype({"layer": "Int64", "seed": "Int64"})
    order = [*ORDER, *(c for c in table.columns if c not in ORDER)]
    return Comparison(table[order].sort_values("knn_accuracy", ascending=False, kind="stable", ignore_index=True))
