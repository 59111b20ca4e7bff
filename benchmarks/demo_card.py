"""The figures of the demo checkpoint's card, measured anew.

python benchmarks/demo_card.py [--model demo] [--threads 2]

5-fold kNN accuracy (k = 15, cosine) of its mean, CLS and first-gene embeddings at layers -2 and -1 on the 700 PBMCs, beside five
models of the same shape with random weights and PCA (50 components) of log-normalised counts; and what stands in its
training.json about masked genes.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

import rankcell as rc
from rankcell.assess import knn_accuracy
from rankcell.embed import Embedder
from rankcell.model import open_checkpoint
from rankcell.model.options import Compute
from rankcell.model.twin import random_twin

POOLS, LAYERS = ["mean", "cls", "first"], [-2, -1]


def accuracies(model, tokens, labels) -> dict[str, float]:
    found = Embedder(model, Compute("cpu")).embed(tokens, pool=POOLS, layer=LAYERS)
    return {name: knn_accuracy(x, labels) for name, x in found.columns.items()}


def pca_accuracy(adata, labels) -> dict[str, float]:
    import anndata as ad
    import scanpy as sc

    x = ad.AnnData(adata.X.copy())
    sc.pp.normalize_total(x)
    sc.pp.log1p(x)
    sc.pp.pca(x, n_comps=50, random_state=0)
    return {metric: knn_accuracy(x.obsm["X_pca"], labels, metric=metric) for metric in ("cosine", "euclidean")}


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", default="demo")
    a = ap.parse_args()
    adata = rc.datasets.pbmc68k()
    labels = adata.obs["bulk_labels"].astype(str).to_numpy()
    checkpoint = open_checkpoint(a.model)
    tokens = rc.pp.tokenize(adata, checkpoint.vocab)
    ours = accuracies(checkpoint, tokens, labels)
    with tempfile.TemporaryDirectory() as tmp:
        twins = [random_twin(checkpoint, Path(tmp) / str(seed), seed=seed) for seed in range(5)]
        random = [accuracies(twin, tokens, labels) for twin in twins]
    print(f"{'5-fold kNN accuracy':24s} {'model':>8s} {'random weights (5): mean, lowest, highest':>44s}")
    for name, value in ours.items():
        r = np.array([x[name] for x in random])
        print(f"{name:24s} {value:8.3f} {r.mean():20.3f} {r.min():11.3f} {r.max():11.3f}")
    for metric, value in pca_accuracy(adata, labels).items():
        print(f"{'PCA of log counts, ' + metric:24s} {value:8.3f}")
    facts = json.loads((checkpoint.folder / "training.json").read_text())
    print(f"held-out masked genes ({facts['n_masked']:,} of {facts['n_heldout']} cells): {facts['heldout']}")
    print(f"baselines: {facts['baselines']}")


if __name__ == "__main__":
    main()
