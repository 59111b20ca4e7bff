"""Scores of embeddings, poolings compared, mapped labels and rank bias against plain computations and known answers."""

from collections import Counter

import numpy as np
import pytest
from builders import make_adata, make_checkpoint, make_vocab
from flat_options import call

import rankcell as rc
from rankcell.assess import LabelledCells, Reference, Scoring, knn_accuracy, knn_right, map_labels, score
from rankcell.assess.clusters import computable
from rankcell.assess.mixing import batch_mixing, batch_silhouette, silhouette
from rankcell.assess.rankbias import bins, edited_rows, shift
from rankcell.errors import CellError, InputError, RankcellWarning, SettingsError
from rankcell.vocab import Frame


def blobs(n=40, groups=3, *, spread=0.1, width=6, seed=0):
    """(x [groups * n, width], labels a, b, ...): clouds around the axes."""
    rng = np.random.default_rng(seed)
    x = np.repeat(np.eye(groups, width), n, axis=0) + spread * rng.normal(size=(groups * n, width))
    return x, np.repeat([chr(97 + i) for i in range(groups)], n)


def in_adata(x, **obs):
    import anndata as ad
    import pandas as pd

    return ad.AnnData(obs=pd.DataFrame(obs, index=[f"c{i}" for i in range(len(x))]), obsm={"X_rankcell": np.asarray(x, np.float32)})


def cosine_order(x, y):
    """For each row of `x`, rows of `y` from the nearest on, and their distances."""
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y)]
    away = 1 - unit[0] @ unit[1].T
    return np.argsort(away, axis=1, kind="stable"), np.sort(away, axis=1)


# Neighbours


def test_knn_is_the_majority_of_the_nearest_in_other_folds():
    x, labels = blobs(spread=0.7)
    right, fold = knn_right(x, labels, k=7, folds=4, seed=3)
    expected = np.zeros(len(x), bool)
    for f in range(4):
        fit, test = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
        for i, near in zip(test, cosine_order(x[test], x[fit])[0][:, :7], strict=True):
            votes = Counter(labels[fit[near]].tolist())
            expected[i] = min(votes, key=lambda name: (-votes[name], name)) == labels[i]
    assert set(fold) == {0, 1, 2, 3} and [Counter(labels[fold == f])["a"] for f in range(4)] == [10] * 4
    assert right.tolist() == expected.tolist() and 0.5 < right.mean() < 1
    assert knn_accuracy(x, labels, k=7, folds=4, seed=3) == right.mean()


def test_cells_without_embedding_count_as_wrong():
    x, labels = blobs()
    x[::10] = np.nan
    right, _ = knn_right(x, labels)
    assert right.tolist() == [i % 10 != 0 for i in range(len(x))]


def test_too_few_neighbours_is_one_line():
    x, labels = blobs(n=6, groups=2)
    with pytest.raises(SettingsError, match="12 cells .* 5 folds leave 9 .* 15 neighbours wanted; pass a smaller k"):
        knn_accuracy(x, labels)


# All scores of an embedding


def test_clear_groups_score_one_and_shuffled_labels_chance():
    x, labels = blobs(n=100)
    adata = in_adata(x, kind=labels, shuffled=np.random.default_rng(1).permutation(labels))
    clear = rc.tl.score_embedding(adata, "kind").loc["X_rankcell"]
    assert [clear[s] for s in ("knn_accuracy", "knn_sd", "knn_balanced", "ari", "nmi")] == [1, 0, 1, 1, 1] and clear.silhouette > 0.9
    chance = rc.tl.score_embedding(adata, "shuffled").loc["X_rankcell"]
    assert abs(chance.knn_accuracy - 1 / 3) < 0.09  # three standard deviations of 300 guesses
    assert abs(chance.ari) < 0.03 and chance.nmi < 0.03 and abs(chance.silhouette) < 0.1
    table = rc.tl.score_embedding(adata, "kind")
    assert table.attrs["largest_label"] == 1 / 3 and table.attrs["k"] == 15 and table.attrs["small_labels"] == []


def test_scores_are_those_of_plain_computations():
    import scanpy as sc
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

    x, labels = blobs(n=60, spread=0.5)
    adata = in_adata(x, kind=labels)
    x = adata.obsm["X_rankcell"] = adata.obsm["X_rankcell"].astype(np.float64)
    found = rc.tl.score_embedding(adata, "kind", scoring=rc.Scoring(k=10, folds=3, resolution=(0.3, 1.0), seed=5)).loc["X_rankcell"]
    right, fold = knn_right(x, labels, k=10, folds=3, seed=5)
    by_fold = [right[fold == f].mean() for f in range(3)]
    assert found.knn_accuracy == right.mean() and found.knn_sd == pytest.approx(np.std(by_fold, ddof=1))
    assert found.knn_balanced == pytest.approx(np.mean([right[labels == name].mean() for name in "abc"]))
    assert found.silhouette == pytest.approx(silhouette_score(x, labels, metric="cosine"))
    sc.pp.neighbors(adata, n_neighbors=10, use_rep="X_rankcell", metric="cosine", transformer="sklearn", random_state=5)
    ari, nmi = {}, {}
    for r in (0.3, 1.0):
        sc.tl.leiden(adata, resolution=r, flavor="igraph", n_iterations=2, directed=False, random_state=5)
        ari[r] = adjusted_rand_score(labels, adata.obs.leiden)
        nmi[r] = normalized_mutual_info_score(labels, adata.obs.leiden)
    assert (found.ari, found.nmi) == (pytest.approx(max(ari.values())), pytest.approx(max(nmi.values())))
    assert ari[found.ari_resolution] == max(ari.values()) and nmi[found.nmi_resolution] == max(nmi.values())


def test_what_is_left_out_is_counted():
    x, labels = blobs()
    kinds = labels.astype(object)
    kinds[:4] = None
    kinds[40:43] = "rare"
    x[80:85] = np.nan
    adata = in_adata(x, kind=kinds)
    with pytest.warns(
        RankcellWarning, match="3 cells have a label 'kind' with fewer than 5 cells .'rare'.: they are left out of the 5-fold"
    ):
        table = rc.tl.score_embedding(adata, "kind", scoring=rc.Scoring(resolution=()))
    row = table.loc["X_rankcell"]
    assert (row.n_cells, row.n_missing_label, row.n_rare_label, row.n_without_embedding) == (116, 4, 3, 5)
    assert row.knn_accuracy == (116 - 3 - 5) / (116 - 3) and table.attrs["small_labels"] == ["rare"] and "ari" not in table
    assert row.knn_balanced == pytest.approx((1 + 1 + 35 / 40) / 3)


def test_cells_that_differ_little_are_told_apart():
    """Untrained models give nearly one direction for all cells: float32 cosines would see noise."""
    x, labels = blobs(n=30, width=8)
    close = (1e4 * np.eye(8)[7] + x).astype(np.float32)
    assert rc.tl.score_embedding(in_adata(close, kind=labels), "kind", scoring=rc.Scoring(resolution=())).knn_accuracy.item() == 1


def test_several_keys_are_rows():
    x, labels = blobs()
    adata = in_adata(x, kind=labels)
    adata.obsm["noise"] = np.random.default_rng(0).normal(size=(len(x), 3))
    table = rc.tl.score_embedding(adata, "kind", key=["X_rankcell", "noise"], scoring=rc.Scoring(resolution=()))
    assert table.index.tolist() == ["X_rankcell", "noise"] and table.width.tolist() == [6, 3]
    assert table.knn_accuracy["X_rankcell"] == 1 > table.knn_accuracy["noise"]


def test_silhouettes_of_many_cells_are_sampled(monkeypatch):
    from sklearn.metrics import silhouette_score

    from rankcell.assess import mixing

    x, labels = blobs(spread=0.5)
    monkeypatch.setattr(mixing, "AT_MOST", 50)
    rows = np.random.default_rng(7).choice(120, 50, replace=False)
    assert silhouette(x, labels, seed=7) == pytest.approx(silhouette_score(x[rows], labels[rows], metric="cosine"))
    assert silhouette(x, labels, seed=7) != silhouette(x, labels, seed=8)
    assert np.isnan(silhouette(x, np.repeat("a", 120), seed=0))


# Batches


def test_batch_mixing_of_six_cells():
    angle = np.deg2rad([0, 1, 2, 60, 61, 62])
    x = np.stack([np.cos(angle), np.sin(angle)], 1)
    # nearest two of each cell: the two others of its group. Other-batch neighbours: 2 of 6 in the first group's cell b ...
    batch = np.array(list("aabaaa"))
    # observed: cells 0 and 1 have one b each, cell 2 has two a's: 4; by chance: 5 cells of a: 2 * 1/5 each, one of b: 2 * 5/5
    assert batch_mixing(x, batch, k=2) == pytest.approx(4 / (5 * 0.4 + 2))
    assert batch_mixing(x, np.array(list("aaabbb")), k=2) == 0


def test_batches_mixed_and_apart():
    rng = np.random.default_rng(0)
    x, labels = blobs(n=300, width=8)
    random = rng.choice(list("pqr"), size=900, p=[0.6, 0.3, 0.1])
    mixed = rc.tl.score_embedding(in_adata(x, kind=labels, batch=random), "kind", batch="batch", scoring=rc.Scoring(resolution=())).loc["X_rankcell"]
    assert mixed.batch_mixing == pytest.approx(1, abs=0.05) and mixed.batch_silhouette > 0.9 and mixed.n_missing_batch == 0
    moved = x + 3 * np.eye(8)[7] * (random == "p")[:, None]
    apart = rc.tl.score_embedding(in_adata(moved, kind=labels, batch=random == "p"), "kind", batch="batch", scoring=rc.Scoring(resolution=())).loc["X_rankcell"]
    assert apart.batch_mixing < 0.01 and apart.batch_silhouette < 0.2


def test_batch_silhouette_is_the_mean_over_labels():
    from sklearn.metrics import silhouette_samples

    x, labels = blobs(n=30, spread=0.4)
    batch = np.tile(list("pq"), 45)
    batch[labels == "c"] = "p"  # one batch: says nothing
    parts = [np.mean(1 - np.abs(silhouette_samples(x[labels == n], batch[labels == n], metric="cosine"))) for n in "ab"]
    assert batch_silhouette(x, labels, batch, seed=0) == pytest.approx(np.mean(parts))
    assert np.isnan(batch_silhouette(x[labels == "c"], labels[labels == "c"], batch[labels == "c"], seed=0))


def test_missing_batches_are_counted():
    x, labels = blobs()
    batch = np.tile(np.array(["p", "q"], object), 60)
    batch[:10] = np.nan
    row = rc.tl.score_embedding(in_adata(x, kind=labels, batch=batch), "kind", batch="batch", scoring=rc.Scoring(resolution=())).loc["X_rankcell"]
    assert row.n_missing_batch == 10 and row.n_cells == 120
    assert row.batch_mixing == pytest.approx(batch_mixing(x[10:].astype(np.float32).astype(float), batch[10:].astype(str), k=15))


# What can go wrong


@pytest.mark.parametrize(
    ("options", "error", "line"),
    [
        ({"label": "Kind"}, CellError, "adata has no obs column 'Kind'; did you mean 'kind'?"),
        ({"label": "zzz"}, CellError, r"no obs column 'zzz' \(it has: kind, one, none, each"),
        ({"batch": "batches"}, CellError, "no obs column 'batches'"),
        ({"key": "X_rankcel"}, CellError, "adata has no obsm key 'X_rankcel'; did you mean 'X_rankcell'?"),
        ({"key": "text"}, CellError, "obsm key 'text' of adata is <U1 of shape .120, 2.: an embedding is numbers"),
        ({"label": "one"}, CellError, "label 'one' is 'x' in every cell that has one: scores need at least two labels"),
        ({"label": "none"}, CellError, "label 'none' is missing in all 120 cells"),
        ({"label": "each"}, CellError, "label 'each' has 120 values and 0 of them have the 5 cells that 5 folds need"),
        ({"batch": "one"}, CellError, "batch 'one' has fewer than two values"),
        ({"k": 0}, SettingsError, "k is 0"),
        ({"folds": 1}, SettingsError, "folds is 1"),
        ({"k": 100}, SettingsError, "120 cells .* leave 96"),
        ({"resolution": (0, 1)}, SettingsError, "resolution is 0; a number above 0"),
    ],
)
def test_errors_are_one_line(options, error, line):
    x, labels = blobs()
    adata = in_adata(x, kind=labels, one="x", none=None, each=np.arange(120))
    adata.obsm["text"] = np.full((120, 2), "a")
    with pytest.raises(error, match=line) as caught:
        call(rc.tl.score_embedding, adata, **{"label": "kind"} | options)
    assert "\n" not in str(caught.value)


def test_without_igraph_the_way_out_is_said(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.warns(RankcellWarning, match=r"igraph is not installed: no ari and nmi \(pip install igraph adds them\)"):
        assert computable(Scoring()).resolution == ()
    assert computable(Scoring(resolution=())).k == 15


def test_no_embedding_at_all_and_no_anndata():
    x, labels = blobs()
    with pytest.raises(SettingsError, match="0 cells have an embedding and a label"):
        score(np.full_like(x, np.nan), LabelledCells.of(labels, folds=5), Scoring(resolution=()))
    with pytest.raises(InputError, match="rc.tl.score_embedding wants an AnnData as adata and got str"):
        rc.tl.score_embedding("cells.h5ad", "kind")


# Poolings compared


@pytest.fixture(scope="module")
def counted():
    """60 cells of two kinds, of 12 genes: each kind shows six of them more."""
    rng = np.random.default_rng(0)
    kind = np.tile(["a", "b"], 30)
    mean = np.where((kind == "a")[:, None] == (np.arange(12) < 6), 6, 2)
    return make_adata(rng.poisson(mean), kind=kind)


def test_poolings_beside_random_weights_and_pca(small, counted):
    import scanpy as sc

    vocab, folder = small
    options = {"k": 5, "folds": 3, "resolution": (), "seed": 2}
    table = call(rc.tl.compare_poolings, counted, "kind", folder, pool=["mean", "cls"], layer=[-1, 0], n_random=2, device="cpu", **options)
    assert Counter(table.source) == {"model": 4, "random weights": 8, "PCA": 1}
    assert table.knn_accuracy.is_monotonic_decreasing and table.n_cells.tolist() == [60] * 13
    embedded = rc.Embedder(folder, rc.Compute("cpu")).embed(rc.pp.tokenize(counted, vocab=vocab), pool=["mean", "cls"], layer=[-1, 0])
    plain = counted.copy()
    sc.pp.normalize_total(plain)
    sc.pp.log1p(plain)
    sc.pp.pca(plain, n_comps=11, random_state=2)
    pca, _ = knn_right(plain.obsm["X_pca"].astype(float), counted.obs.kind, k=5, folds=3, seed=2)
    rows = table.set_index(["source", "pool", "layer", "seed"]).sort_index()
    one = table[table.source == "PCA"].iloc[0]
    assert (one.knn_accuracy, one.over_pca, one.width) == (pca.mean(), 0, 11)
    for (pool, n), part in table[table.source == "model"].groupby(["pool", "layer"]):
        right, _ = knn_right(embedded.columns[f"{pool}_layer{n}"].astype(float), counted.obs.kind, k=5, folds=3, seed=2)
        part = part.iloc[0]
        difference = right.astype(int) - pca.astype(int)
        assert part.knn_accuracy == right.mean() and part.over_pca == pytest.approx(difference.mean())
        assert part.over_pca_se == pytest.approx(np.std(difference, ddof=1) / np.sqrt(60))
        twins = [rows.loc["random weights", pool, n, seed].knn_accuracy for seed in (2, 3)]
        assert part.over_random == pytest.approx(right.mean() - np.mean(twins))
    assert table[table.source != "model"].over_random.isna().all()
    assert table.attrs["label"] == "kind" and table.attrs["n_random"] == 2


def test_comparing_is_repeatable_and_makes_one_pass_a_model(small, counted, monkeypatch):
    import torch

    from rankcell.embed import Embedder
    from rankcell.model import POOLS

    calls, embed = [], Embedder.embed

    def counting(self, tokens, **how):
        calls.append((self.checkpoint.name, how["pool"]))
        return embed(self, tokens, **how)

    monkeypatch.setattr(Embedder, "embed", counting)
    before = torch.random.get_rng_state()
    tables = [rc.tl.compare_poolings(counted, "kind", small[1], scoring=rc.Scoring(k=5, resolution=()), compute=rc.Compute("cpu")) for _ in range(2)]
    assert tables[0].equals(tables[1]) and torch.equal(before, torch.random.get_rng_state())
    assert [name for name, _ in calls] == ["small", "small (random weights, seed 0)"] * 2
    assert all(pool == list(POOLS) for _, pool in calls) and set(tables[0].pool) == {*POOLS, ""}
    without = rc.tl.compare_poolings(counted, "kind", small[1], pool="mean", layer=-1, n_random=0, scoring=rc.Scoring(k=5, resolution=()), compute=rc.Compute("cpu"))
    assert without.source.tolist() in (["PCA", "model"], ["model", "PCA"]) and without.over_random.isna().all()


@pytest.mark.parametrize("dense", [False, True])
def test_cells_on_disk_give_the_same_and_nothing_is_changed(small, counted, tmp_path, dense):
    import anndata as ad

    options = {"pool": "mean", "layer": -1, "k": 5, "resolution": (), "device": "cpu"}
    adata = counted.copy()
    adata.X = adata.X.toarray() if dense else adata.X
    held = adata.copy()
    table = call(rc.tl.compare_poolings, adata, "kind", small[1], **options)
    assert np.array_equal(np.asarray(adata.to_df()), np.asarray(held.to_df())) and not adata.obsm and not adata.uns
    adata.write_h5ad(tmp_path / "cells.h5ad")
    assert call(rc.tl.compare_poolings, ad.read_h5ad(tmp_path / "cells.h5ad", backed="r"), "kind", small[1], **options).equals(table)
    adata.layers["counts"], adata.X = adata.X.copy(), np.log1p(adata.X)
    assert call(rc.tl.compare_poolings, adata, "kind", small[1], counts_layer="counts", **options).equals(table)


def test_only_poolings_that_the_tokens_allow(tmp_path, counted):
    from rankcell.model import POOLS

    vocab = make_vocab(special=("<pad>", "<mask>"))
    folder = make_checkpoint(tmp_path / "model", vocab)
    table = rc.tl.compare_poolings(counted, "kind", folder, layer=-1, n_random=0, scoring=rc.Scoring(k=5, resolution=()), compute=rc.Compute("cpu"))
    assert set(table[table.source == "model"].pool) == {name for name, p in POOLS.items() if not p.needs_cls}
    with pytest.raises(SettingsError, match="pooling 'cls' needs a CLS token"):
        rc.tl.compare_poolings(counted, "kind", folder, pool="cls", scoring=rc.Scoring(k=5, resolution=()))


def test_empty_cells_in_a_comparison_are_said_once(small):
    counts = np.random.default_rng(0).poisson(4, (40, 12))
    counts[3] = 0
    adata = make_adata(counts, kind=np.tile(["a", "b"], 20))
    with pytest.warns(RankcellWarning) as said:
        table = rc.tl.compare_poolings(adata, "kind", small[1], pool="mean", layer=-1, scoring=rc.Scoring(k=5, resolution=()), compute=rc.Compute("cpu"))
    assert [str(w.message) for w in said] == ["1 of 40 cells have no genes: their embeddings are NaN"]
    assert table.set_index("source").n_without_embedding.to_dict() == {"model": 1, "random weights": 1, "PCA": 0}


def test_random_twin_has_the_shape_and_not_the_weights(small, tmp_path):
    from safetensors.numpy import load_file

    from rankcell.model import open_checkpoint
    from rankcell.model.twin import random_twin

    checkpoint = open_checkpoint(small[1])
    twins = [random_twin(checkpoint, tmp_path / str(i), seed=seed) for i, seed in enumerate((1, 1, 2))]
    words = [load_file(t.folder / "model.safetensors")["embeddings.word_embeddings.weight"] for t in twins]
    assert np.array_equal(words[0], words[1]) and not np.array_equal(words[0], words[2])
    assert words[0].shape == (16, 16) and words[0][1:].std() == pytest.approx(checkpoint.config["initializer_range"], rel=0.15)
    assert twins[0].config == checkpoint.config and twins[0].hash != checkpoint.hash and open_checkpoint(twins[0].folder).vocab == small[0]


def test_a_comparison_of_nothing_and_with_no_model(small, counted):
    with pytest.raises(InputError, match="no such file: cells.h5ad"):
        rc.tl.compare_poolings("cells.h5ad", "kind", small[1])


# Labels mapped from a reference

EVERY = {"min_confidence": 0, "max_distance": 1}  # no cell is unsure


def test_labels_come_from_the_nearest_reference_cells():
    x, labels = blobs(spread=0.6)
    y, _ = blobs(spread=0.6, seed=1)
    found = map_labels(y, Reference(x, np.array([ord(n) - 97 for n in labels]), 3), rc.LabelMapping(k=7))
    order, away = cosine_order(y, x)
    own = cosine_order(x, x)[1][:, 1:8].mean(1)  # without the cell itself
    for i in range(len(y)):
        votes = Counter(labels[order[i, :7]])
        assert votes[chr(97 + found.code[i])] == max(votes.values())
        assert found.confidence[i] == max(votes.values()) / 7
        assert found.distance[i] == pytest.approx(np.mean(own < away[i, :7].mean()), abs=1 / 119)


def test_of_equal_votes_the_nearer_wins():
    reference = Reference(np.array([[0.0], [1.0], [2.0], [3.1], [9.0]]), np.array([0, 0, 1, 1, 1]), 2)
    found = map_labels(np.array([[1.5], [1.6]]), reference, rc.LabelMapping(4, "euclidean"))
    assert found.code.tolist() == [0, 1] and found.confidence.tolist() == [0.5, 0.5]


def test_cells_like_the_reference_are_even_in_distance_and_others_at_one():
    x, labels = blobs(n=200)
    y, kinds = blobs(n=200, seed=1)
    adata, reference = in_adata(np.concatenate([y, -y[:20]]), n=np.arange(620)), in_adata(x, kind=labels)
    call(rc.tl.map_labels, adata, reference, "kind", **EVERY)
    assert (adata.obs.kind_mapped[:600].astype(str) == kinds).all() and adata.obs.kind_mapped.dtype.name == "category"
    assert adata.obs.kind_mapped.cat.categories.tolist() == ["a", "b", "c"]
    shares = np.histogram(adata.obs.kind_mapped_distance[:600], 4)[0] / 600
    assert np.abs(shares - 0.25).max() < 0.08
    assert (adata.obs.kind_mapped_distance[600:] == 1).all() and (adata.obs.kind_mapped_confidence[:600] == 1).all()


def test_missing_rows_on_either_side(tmp_path):
    x, labels = blobs()
    kinds = labels.astype(object)
    kinds[0] = None
    broken = x.copy()
    broken[5] = np.nan
    in_adata(broken, kind=kinds).write_h5ad(tmp_path / "reference.h5ad")
    queried = x.copy()
    queried[2] = np.nan
    adata = in_adata(queried)
    adata.obs_names = [f"queried {c}" for c in adata.obs_names]
    with pytest.warns(RankcellWarning, match="2 of 120 reference cells lack a label 'kind' or an embedding"):
        call(rc.tl.map_labels, adata, tmp_path / "reference.h5ad", "kind", key_added="guess", **EVERY)
    assert adata.obs.guess.isna().sum() == 1 and adata.obs.guess.isna().iloc[2]
    assert adata.obs.guess_confidence.iloc[2] == 0 and np.isnan(adata.obs.guess_distance.iloc[2])


def test_own_neighbours_leave_the_cell_out_even_among_copies():
    x = np.repeat([[1.0, 0.0], [0.0, 1.0]], 10, axis=0)
    found = map_labels(np.array([[1.0, 0.0], [0.6, 0.8]]), Reference(x, np.repeat([0, 1], 10), 2), rc.LabelMapping(5))
    assert found.code.tolist() == [0, 1] and found.distance.tolist() == [0, 1]


def origin(**changed):
    entry = {"model": "m", "model_hash": "1" * 64, "vocabulary": "v", "vocabulary_hash": "2" * 64, "frame": "f"}
    return entry | {"outputs": {"X_rankcell": {"pool": changed.pop("pool", "mean"), "layer": changed.pop("layer", -2)}}} | changed


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"model": "other", "model_hash": "3" * 64}, "with model 'm' .1{12}. in adata and with model 'other' .3{12}. in the reference"),
        ({"pool": "cls"}, "with pool mean in adata and with pool cls in the reference: embed both alike"),
        ({"layer": -1}, "with layer -2 in adata and with layer -1"),
        ({"vocabulary_hash": "4" * 64}, "with vocabulary 'v'"),
        ({"frame": "g"}, "with frame f"),
    ],
)
def test_embeddings_of_different_origin_never_meet(changed, line):
    x, labels = blobs()
    adata, reference = in_adata(x), in_adata(x, kind=labels)
    adata.obs_names = [f"other {c}" for c in adata.obs_names]
    adata.uns["rankcell"], reference.uns["rankcell"] = origin(), origin(**changed)
    with pytest.raises(SettingsError, match=line):
        rc.tl.map_labels(adata, reference, "kind")
    del reference.uns["rankcell"]  # nothing is said: nothing is checked
    call(rc.tl.map_labels, adata, reference, "kind", **EVERY)
    assert (adata.obs.kind_mapped == labels).all()


def test_embedded_cells_map_back_to_their_labels(small, counted, tmp_path):
    """The way that users go: tl.embed on both, the reference through a file."""
    kept = [counted[:30].copy(), counted[30:].copy()]
    for part in kept:
        rc.tl.embed(part, small[1], compute=rc.Compute("cpu"))
    kept[1].write_h5ad(tmp_path / "reference.h5ad")
    call(rc.tl.map_labels, kept[0], tmp_path / "reference.h5ad", "kind", k=5, **EVERY)
    assert kept[0].obs.kind_mapped.notna().all()
    rc.tl.embed(kept[0], small[1], pool="cls", compute=rc.Compute("cpu"))
    with pytest.raises(SettingsError, match="with pool cls in adata and with pool mean in the reference"):
        rc.tl.map_labels(kept[0], tmp_path / "reference.h5ad", "kind", mapping=rc.LabelMapping(k=5))


@pytest.mark.parametrize(
    ("options", "error", "line"),
    [
        ({"label": "kinds"}, CellError, "the reference has no obs column 'kinds'; did you mean 'kind'?"),
        ({"key": "X"}, CellError, "adata has no obsm key 'X'"),
        ({"k": 120}, SettingsError, "k is 120 and the reference has 120 cells"),
        ({"metric": "manhattan"}, SettingsError, "metric is manhattan; one of cosine, euclidean"),
        ({"reference": "nowhere.h5ad"}, InputError, "no such file: nowhere.h5ad"),
        ({"reference": __file__}, InputError, "cannot be read as h5ad"),
        ({"reference": 3}, InputError, "wants an AnnData as reference and got int"),
        ({"key": "wide"}, SettingsError, "'wide' has 3 columns in adata and 2 in the reference"),
    ],
)
def test_errors_of_mapping(options, error, line):
    x, labels = blobs()
    adata, reference = in_adata(x), in_adata(x, kind=labels)
    adata.obsm["wide"], reference.obsm["wide"] = x[:, :3], x[:, :2]
    with pytest.raises(error, match=line):
        call(rc.tl.map_labels, adata, **{"reference": reference, "label": "kind"} | options)
    assert not len(adata.obs.columns)


# Rank bias


def test_deciles_are_runs_of_ranks():
    assert [b.tolist() for b in bins(10, 4)] == [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]
    assert [len(b) for b in bins(25, 10)] == [2, 3] * 5 and np.concatenate(bins(25, 10)).tolist() == list(range(25))


def test_edited_rows_of_seven_genes():
    row, frame = np.array([2, 10, 11, 12, 13, 14, 15, 16, 3], np.int32), Frame((2,), (3,))
    dropped = [r.tolist() for r in edited_rows(row, frame, "drop", n_bins=3, rng=np.random.default_rng(0))]
    assert dropped[:3] == [[2, 12, 13, 14, 15, 16, 3], [2, 10, 11, 14, 15, 16, 3], [2, 10, 11, 12, 13, 3]]
    masked = [r.tolist() for r in edited_rows(row, frame, "mask", n_bins=3, rng=np.random.default_rng(0), mask=1)]
    assert masked[:3] == [[2, 1, 1, 12, 13, 14, 15, 16, 3], [2, 10, 11, 1, 1, 14, 15, 16, 3], [2, 10, 11, 12, 13, 1, 1, 1, 3]]
    shuffled = [r.tolist() for r in edited_rows(row, frame, "shuffle", n_bins=3, rng=np.random.default_rng(0))]
    for r, (a, b) in zip(shuffled, ((1, 3), (3, 5), (5, 8)), strict=False):
        assert sorted(r[a:b]) == row[a:b].tolist() and r[:a] == row[:a].tolist() and r[b:] == row[b:].tolist()
    # the last of each is the control: two genes (7 / 3, rounded) drawn from all ranks
    assert len(dropped[3]) == 7 and set(dropped[3]) < set(row.tolist()) and dropped[3] == [*sorted(dropped[3][:-1]), 3]
    assert masked[3].count(1) == 2 and len(masked[3]) == 9 and sorted(shuffled[3]) == sorted(row.tolist())
    assert row.tolist() == [2, *range(10, 17), 3]


def test_shifts_are_those_of_rows_embedded_by_hand(small):
    vocab, folder = small
    tokens = rc.TokenSet.from_rows([[2, 4, 5, 6, 7, 8, 9, 3], [2, 9, 8, 7, 6, 3], [2, 4, 3]], spec_of(vocab))
    with pytest.warns(RankcellWarning, match="1 of 3 cells have fewer than 2 genes: they are left out"):
        table = rc.tl.rank_bias(tokens, folder, pool=["mean", "cls"], layer=-1, compute=rc.Compute("cpu"), bins=rc.RankBins(how=["drop", "mask"], n_bins=2))
    assert len(table) == 2 * 2 * 3 and (table.n_cells == 2).all() and table.attrs["n_cells_with_too_few_genes"] == 1
    rows = {
        ("drop", 0): [[2, 7, 8, 9, 3], [2, 7, 6, 3]],
        ("drop", 1): [[2, 4, 5, 6, 3], [2, 9, 8, 3]],
        ("mask", 0): [[2, 1, 1, 1, 7, 8, 9, 3], [2, 1, 1, 7, 6, 3]],
        ("mask", 1): [[2, 4, 5, 6, 1, 1, 1, 3], [2, 9, 8, 1, 1, 3]],
    }
    embedder = rc.Embedder(folder, rc.Compute("cpu"))

    def vectors(rows, pool):
        return embedder.embed(rc.TokenSet.from_rows(rows, tokens.spec).known_to_fit(vocab.hash), pool=pool, layer=-1).columns[f"{pool}_layer-1"].astype(float)

    for pool in ("mean", "cls"):
        before = vectors([tokens.row(0), tokens.row(1)], pool)
        for (how, decile), edited in rows.items():
            after = vectors(edited, pool)
            cosine = [np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(before, after, strict=True)]
            away = [np.linalg.norm(b - a) / np.linalg.norm(a) for a, b in zip(before, after, strict=True)]
            row = table[(table["pool"] == pool) & (table.how == how) & (table.decile == decile)].iloc[0]
            assert row["shift"] == pytest.approx(1 - np.mean(cosine), abs=1e-6) and row.distance == pytest.approx(np.mean(away), abs=1e-5)
            assert row["sem"] == pytest.approx(np.std(cosine, ddof=1) / np.sqrt(2), abs=1e-6)
        assert row.between_cells == pytest.approx(shift(before[0], before[1]), abs=1e-6)


def spec_of(vocab):
    from rankcell.tokens import TokenSpec

    return TokenSpec.of(vocab, frame=vocab.frame, max_len=64)


def test_what_a_pooling_does_not_read_does_not_move_it(small, counted):
    """In the embedding layer no token has seen another: `first` follows the top decile alone, `cls` nothing at all."""
    table = rc.tl.rank_bias(counted, small[1], pool=["first", "cls", "mean"], layer=0, compute=rc.Compute("cpu"), bins=rc.RankBins(n_bins=4, cells=20))
    ranked = table[table.genes == "decile"]
    first = ranked[ranked["pool"] == "first"]
    assert (first[first.decile > 0]["shift"].abs() < 1e-6).all() and (first[first.decile == 0]["shift"] > 1e-3).all()
    assert (ranked[ranked["pool"] == "cls"]["shift"].abs() < 1e-6).all()
    dropped = ranked[(ranked["pool"] == "mean") & (ranked.how == "drop")]
    assert (dropped["shift"] > 1e-4).all()
    assert table[table.genes == "random"].decile.isna().all() and len(table) == 3 * 3 * 5


def test_rank_bias_is_repeatable_and_samples_by_seed(small, counted, monkeypatch):
    from rankcell.assess import rankbias

    def bias(**how):
        return call(rc.tl.rank_bias, counted, small[1], pool="mean", n_bins=4, device="cpu", **how)

    one = bias(cells=10)
    assert one.equals(bias(cells=10)) and not one.equals(bias(cells=10, seed=1)) and (bias(cells=None).n_cells == 60).all()
    monkeypatch.setattr(rankbias, "AT_ONCE", 5)  # the draws do not depend on how many cells are embedded together
    np.testing.assert_allclose(bias(cells=10)["shift"], one["shift"], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "line"),
    [
        ({"how": "swap"}, SettingsError, "how is swap; one of drop, shuffle, mask"),
        ({"how": ()}, SettingsError, "how is empty; one of drop, shuffle, mask"),
        ({"n_bins": 1}, SettingsError, "n_bins is 1; at least 2"),
        ({"n_bins": 13}, CellError, "none of the 60 cells has the 13 genes that 13 bins need"),
        ({"cells": 0}, SettingsError, "cells is 0"),
        ({"pool": "middle"}, SettingsError, "unknown pooling 'middle'"),
        ({"layer": 9}, SettingsError, "layer 9 is out of range"),
    ],
)
def test_errors_of_rank_bias(small, counted, options, error, line):
    with pytest.raises(error, match=line):
        call(rc.tl.rank_bias, counted, small[1], **options)


def test_masking_needs_a_mask_token(tmp_path, counted):
    folder = make_checkpoint(tmp_path / "model", make_vocab(special=("<pad>",)))
    with pytest.raises(SettingsError, match=r"has no <mask> token: pass how=\('drop', 'shuffle'\)"):
        rc.tl.rank_bias(counted, folder)


# Pictures


@pytest.fixture
def agg():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    yield plt
    plt.close("all")


def test_picture_of_poolings(small, counted, agg):
    table = rc.tl.compare_poolings(counted, "kind", small[1], scoring=rc.Scoring(k=5, resolution=()), compute=rc.Compute("cpu"))
    ax = rc.pl.compare_poolings(table)
    best = table[table.source == "model"].groupby("pool").knn_accuracy.max()
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert set(names) == set(best.index) and best[names].is_monotonic_increasing
    pca = table[table.source == "PCA"].knn_accuracy.item()
    assert any(np.allclose(line.get_xdata(), pca) for line in ax.lines)
    filled = [c[0] for c in ax.containers if c[0].get_markerfacecolor() != "white"]
    drawn = sorted(np.concatenate([line.get_xdata() for line in filled]))
    assert np.allclose(drawn, sorted(table[table.source == "model"].knn_accuracy))
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["layer -1", "layer -2", "random weights", "PCA"]
    other = agg.figure().add_subplot()
    assert rc.pl.compare_poolings(table, score="silhouette", ax=other) is other
    with pytest.raises(SettingsError, match="no score 'speed'"):
        rc.pl.compare_poolings(table, score="speed")
    with pytest.raises(SettingsError, match="no score 'source'"):
        rc.pl.compare_poolings(table, score="source")
    with pytest.raises(SettingsError, match="not a comparison"):
        rc.pl.compare_poolings(counted.obs)


def test_picture_of_rank_bias(small, counted, agg):
    table = rc.tl.rank_bias(counted, small[1], layer=(-1, -2), compute=rc.Compute("cpu"), bins=rc.RankBins(n_bins=4, cells=10))
    axes = rc.pl.rank_bias(table)
    assert axes.shape == (2, 3) and len({ax.get_ylim() for ax in axes[0]}) == 1
    pools = list(dict.fromkeys(table["pool"]))
    legend = [t.get_text() for t in axes[0, -1].get_legend().get_texts()]
    assert legend[: len(pools)] == pools
    part = table[(table.layer == -1) & (table.how == "drop") & (table["pool"] == pools[0]) & (table.genes == "decile")]
    assert np.allclose(axes[0, 0].lines[0].get_ydata(), part["shift"] / part.between_cells)
    axes[0, 0].figure.canvas.draw()
    assert rc.pl.rank_bias(table[table.layer == -1], score="distance").shape == (1, 3)
    with pytest.raises(SettingsError, match="needs at least"):
        rc.pl.rank_bias(table, ax=agg.figure(figsize=(3, 2)).add_subplot())
    with pytest.raises(SettingsError, match="unknown score 'speed'"):
        rc.pl.rank_bias(table, score="speed")
    with pytest.raises(SettingsError, match="not a table of rank biases"):
        rc.pl.rank_bias(counted.obs)
