"""Embeddings: pools against the slow reference, order and ids, and every output."""

import itertools
import json
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import make_adata, make_checkpoint, make_vocab
from flat_options import call, perturb_df
from reference_model import Reference

import rankcell as rc
from rankcell.embed import Embedder
from rankcell.embed.embed_cells import embed_in_memory, embed_to_file
from rankcell.embed.stores import check_output
from rankcell.errors import ModelError, OutputError, RankcellWarning, SettingsError, TokensError
from rankcell.model import POOLS
from rankcell.tokens import TokenSet, TokenSpec
from rankcell.vocab import Frame

C, E = 2, 3
BODIES = [[5, 9, 4], [15, 14, 13, 12, 11, 10, 9, 8, 7, 6], [7], [8, 4, 12, 6, 10], [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]]
FRAMES = {"framed": Frame((C,), (E,)), "headed": Frame((C,)), "bare": Frame()}


pytestmark = pytest.mark.usefixtures("one_thread")


def tokens_of(vocab, bodies, frame, *, ids="vwxyz", **obs):
    rows = [[*frame.head, *b, *frame.tail] for b in bodies]
    spec = TokenSpec.of(vocab, frame=frame, max_len=64)
    return TokenSet.from_rows(rows, spec, cell_ids=list(ids)[: len(rows)], obs=obs)


def embed(folder, tokens, *, tokens_per_batch=26, **how):
    return call(Embedder, folder, device="cpu", tokens_per_batch=tokens_per_batch).embed(tokens, **how)


@pytest.fixture(scope="module")
def counts():
    """Eight cells of twelve genes, each with its own genes and order."""
    rng = np.random.default_rng(5)
    return rng.poisson(1.5, (8, 12)) * rng.permutation(np.arange(1, 97)).reshape(8, 12)


def test_order_and_ids_are_the_callers(small):
    vocab, folder = small
    tokens = tokens_of(vocab, BODIES, FRAMES["framed"], ids=["żółw", "細胞 3", "🧬", "AAAC-1", "AAAC-2"])
    reference = Reference(folder, tokens.frame, 64)
    for budget in (1, 26, 10_000):
        found = embed(folder, tokens, pool=["mean", "cls"], tokens_per_batch=budget)
        assert found.cell_ids == ["żółw", "細胞 3", "🧬", "AAAC-1", "AAAC-2"]
        assert list(found.columns) == ["mean_layer-2", "cls_layer-2"]
        for pool in ("mean", "cls"):
            values = found.columns[f"{pool}_layer-2"]
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, [reference.embed(row, pool, -2) for row in tokens], rtol=0, atol=2e-6)


@pytest.mark.parametrize(("frame", "same_as"), [("framed", "cls"), ("headed", "cls"), ("bare", "first")])
def test_pools_differ_here(small, frame, same_as):
    """The reference could not tell pools apart if they were alike on this model: only `position0` is another one's name."""
    vocab, folder = small
    tokens = tokens_of(vocab, BODIES, FRAMES[frame])
    pools = [p for p in POOLS if p != "cls" or tokens.frame.has_cls]
    found = embed(folder, tokens, pool=pools, layer=[-1, -2]).columns
    # without CLS and EOS the mean over all tokens is that over the genes
    alike = {frozenset(("position0", same_as)), *([frozenset(("mean", "mean_all"))] if frame == "bare" else [])}
    for n in (-1, -2):
        for a, b in itertools.combinations(pools, 2):
            differ = np.abs(found[f"{a}_layer{n}"] - found[f"{b}_layer{n}"]).max()
            assert differ < 1e-6 if frozenset((a, b)) in alike else differ > 0.01, (a, b, differ)
    for p in pools:
        assert np.abs(found[f"{p}_layer-1"] - found[f"{p}_layer-2"]).max() > 0.05


def test_one_pass_for_all(small):
    vocab, folder = small
    tokens = tokens_of(vocab, BODIES, FRAMES["framed"])
    embedder = call(Embedder, folder, device="cpu")
    calls, seen = [], []
    embedder.encoder._embeddings._own.register_forward_hook(lambda *_: calls.append(1))
    embedder.embed(tokens, pool=["mean", "first", "cls"], layer=[-1, -2, 0], progress=lambda *at: seen.append(at))
    assert len(calls) == 1
    assert seen == [(5, 5)]


def test_defaults_are_mean_and_the_second_last(small):
    vocab, folder = small
    tokens = tokens_of(vocab, BODIES, FRAMES["framed"])
    found = embed(folder, tokens)
    assert list(found.columns) == ["mean_layer-2"]
    assert np.array_equal(found.columns["mean_layer-2"], embed(folder, tokens, pool=["mean"], layer=[2]).columns["mean_layer2"])


@pytest.mark.parametrize("frame", FRAMES)
def test_cells_without_genes(small, frame):
    vocab, folder = small
    frame = FRAMES[frame]
    tokens = tokens_of(vocab, [[], BODIES[0], [], BODIES[1]], frame)
    pools = [p for p in POOLS if p != "cls" or frame.has_cls]
    with pytest.warns(RankcellWarning, match="2 of 4 cells have no genes: their embeddings are NaN") as told:
        found = embed(folder, tokens, pool=pools)
    assert len(told) == 1
    assert found.meta["n_cells_without_genes"] == 2
    full = embed(folder, tokens.take([1, 3]), pool=pools)
    for name, values in found.columns.items():
        assert np.isnan(values[[0, 2]]).all()
        np.testing.assert_allclose(values[[1, 3]], full.columns[name], rtol=0, atol=2e-6)


def test_nothing_but_empty_cells(small):
    vocab, folder = small
    with pytest.warns(RankcellWarning, match="2 of 2 cells"):
        found = embed(folder, tokens_of(vocab, [[], []], FRAMES["framed"]), pool="cls")
    assert found.columns["cls_layer-2"].shape == (2, 16)
    assert np.isnan(found.columns["cls_layer-2"]).all()


def test_choices_that_cannot_be(small):
    vocab, folder = small
    bare, framed = (tokens_of(vocab, BODIES, FRAMES[f]) for f in ("bare", "framed"))
    with pytest.raises(SettingsError, match="pooling 'cls' needs a CLS token and these tokens have none"):
        embed(folder, bare, pool=["mean", "cls"])
    with pytest.raises(SettingsError, match="unknown pooling 'middle'; one of cls, first, max, mean"):
        embed(folder, framed, pool="middle")
    with pytest.raises(SettingsError, match="no pooling was asked for"):
        embed(folder, framed, pool=[])
    with pytest.raises(SettingsError, match="layer 7 is out of range"):
        embed(folder, framed, layer=[-1, 7])
    with pytest.raises(SettingsError, match="no layer was asked for"):
        embed(folder, framed, layer=[])
    with pytest.raises(SettingsError, match="tokens_per_batch is 0"):
        embed(folder, framed, tokens_per_batch=0)
    long = TokenSet.from_rows([np.arange(65) % 12 + 4], TokenSpec.of(vocab, frame=Frame(), max_len=100))
    with pytest.raises(TokensError, match="rows have up to 65 tokens, but model 'small' has 64 positions"):
        embed(folder, long)


def test_settings_are_checked_before_the_weights_are_read(small, tmp_path):
    vocab, folder = small
    embedder = call(Embedder, folder, device="cpu")
    with pytest.raises(SettingsError):
        embedder.embed(tokens_of(vocab, BODIES, FRAMES["bare"]), pool="cls")
    assert embedder._encoder is None


def test_meta(small):
    vocab, folder = small
    meta = embed(folder, tokens_of(vocab, BODIES, FRAMES["framed"]), pool=["cls", "mean"], layer=[-1, 3]).meta
    assert meta["outputs"] == {
        "cls_layer-1": {"pool": "cls", "layer": -1},
        "mean_layer-1": {"pool": "mean", "layer": -1},
        "cls_layer3": {"pool": "cls", "layer": 3},
        "mean_layer3": {"pool": "mean", "layer": 3},
    }
    assert (meta["model"], meta["vocabulary"], meta["vocabulary_hash"]) == ("small", "small", vocab.hash)
    assert meta["frame"] == {"head": [C], "tail": [E]}
    assert meta["device"] == "cpu" and meta["precision"] == "fp32"
    json.dumps(meta)


# outputs


@pytest.fixture
def count_file(tmp_path, counts):
    adata = make_adata(counts, batch=list("aabbaabb"), n_counts=counts.sum(1).astype(np.float32))
    adata.obsm["X_rankcell"] = np.zeros((8, 2))
    adata.obsm["X_pca"] = np.arange(16.0).reshape(8, 2)
    adata.uns["kept"] = "yes"
    adata.layers["counts"] = adata.X.copy()
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    return path


def expected_of(small, adata, pool="mean", layer=-2):
    vocab, folder = small
    reference = Reference(folder, vocab.frame, 64)
    rows = rc.Tokenizer(vocab, rc.Tokenizing(max_len=64)).tokenize(adata)
    return np.array([reference.embed(row, pool, layer) for row in rows])


def test_h5ad_is_a_copy_of_the_count_file(small, count_file, tmp_path):
    before = count_file.read_bytes()
    call(embed_to_file, count_file, tmp_path / "out.h5ad", model=small[1], device="cpu")
    assert count_file.read_bytes() == before
    a, b = ad.read_h5ad(count_file), ad.read_h5ad(tmp_path / "out.h5ad")
    assert (a.X != b.X).nnz == 0 and (a.layers["counts"] != b.layers["counts"]).nnz == 0
    assert a.obs.equals(b.obs) and a.var.equals(b.var)
    assert b.uns["kept"] == "yes"
    assert np.array_equal(a.obsm["X_pca"], b.obsm["X_pca"])
    # the embedding that stood there is replaced
    np.testing.assert_allclose(b.obsm["X_rankcell"], expected_of(small, a), rtol=0, atol=2e-6)
    assert b.uns["rankcell"]["outputs"]["X_rankcell"] == {"pool": "mean", "layer": -2}
    assert b.uns["rankcell"]["model"] == "small"


def test_h5ad_of_several_outputs(small, count_file, tmp_path):
    call(embed_to_file, count_file, tmp_path / "out.h5ad", model=small[1], pool=["mean", "cls"], layer=[-1], device="cpu")
    out = ad.read_h5ad(tmp_path / "out.h5ad")
    assert set(out.obsm) == {"X_pca", "X_rankcell", "X_rankcell_mean_layer-1", "X_rankcell_cls_layer-1"}
    assert out.uns["rankcell"]["outputs"] == {
        "X_rankcell_mean_layer-1": {"pool": "mean", "layer": -1},
        "X_rankcell_cls_layer-1": {"pool": "cls", "layer": -1},
    }
    for pool in ("mean", "cls"):
        expected = expected_of(small, ad.read_h5ad(count_file), pool, -1)
        np.testing.assert_allclose(out.obsm[f"X_rankcell_{pool}_layer-1"], expected, rtol=0, atol=2e-6)


def test_h5ad_from_tokens(small, tmp_path):
    vocab, folder = small
    tokens = tokens_of(vocab, BODIES, FRAMES["framed"], kind=["a", "b", None, "a", "b"], age=[1, 2, 3, 4, 5])
    tokens.save(tmp_path / "cells.dataset")
    for source, name in ((tokens, "memory"), (tmp_path / "cells.dataset", "folder")):
        call(embed_to_file, source, tmp_path / f"{name}.h5ad", model=folder, device="cpu")
        found = call(embed_in_memory, source, model=folder, device="cpu")
        out = ad.read_h5ad(tmp_path / f"{name}.h5ad")
        assert out.obs_names.tolist() == list("vwxyz")
        assert out.obs["age"].tolist() == [1, 2, 3, 4, 5]
        assert out.obs["kind"].astype(object).where(out.obs["kind"].notna(), None).tolist() == ["a", "b", None, "a", "b"]
        assert np.array_equal(out.obsm["X_rankcell"], found.columns["mean_layer-2"])
        assert out.shape == (5, 0)


def test_parquet(small, tmp_path):
    vocab, folder = small
    tokens = tokens_of(vocab, [*BODIES[:2], []], FRAMES["framed"])
    with pytest.warns(RankcellWarning, match="1 of 3 cells"):
        found = call(embed_in_memory, tokens, model=folder, pool=["mean", "cls"], layer=[-2, 0], device="cpu")
        call(embed_to_file, tokens, tmp_path / "e.parquet", model=folder, pool=["mean", "cls"], layer=[-2, 0], device="cpu")
    table = pq.read_table(tmp_path / "e.parquet")
    assert table.schema.names == ["cell_id", "mean_layer-2", "cls_layer-2", "mean_layer0", "cls_layer0"]
    assert table.schema.types == [pa.string(), *[pa.list_(pa.float32(), 16)] * 4]
    assert table["cell_id"].to_pylist() == ["v", "w", "x"]
    for name, values in found.columns.items():
        assert np.array_equal(np.array(table[name].to_pylist(), np.float32), values, equal_nan=True)
    assert json.loads(table.schema.metadata[b"rankcell"]) == found.meta | {"include": ["cell"], "dtype": "float32"}


def test_npz(small, tmp_path):
    vocab, folder = small
    tokens = tokens_of(vocab, BODIES, FRAMES["framed"])
    found = call(embed_in_memory, tokens, model=folder, device="cpu")
    call(embed_to_file, tokens, tmp_path / "e.npz", model=folder, device="cpu")
    with np.load(tmp_path / "e.npz", allow_pickle=False) as out:
        assert sorted(out) == ["cell_id", "mean_layer-2", "meta"]
        assert out["cell_id"].tolist() == list("vwxyz")
        assert np.array_equal(out["mean_layer-2"], found.columns["mean_layer-2"])
        assert json.loads(str(out["meta"])) == found.meta | {"include": ["cell"], "dtype": "float32"}


@pytest.mark.parametrize("suffix", [".h5ad", ".parquet", ".npz"])
def test_an_output_that_exists(small, tmp_path, suffix):
    vocab, folder = small
    tokens = tokens_of(vocab, BODIES, FRAMES["framed"])
    out = tmp_path / f"e{suffix}"
    out.write_text("mine")
    with pytest.raises(OutputError, match="exists: choose another output, or pass force=True to replace it"):
        call(embed_to_file, tokens, out, model="no such model: the output is looked at first")
    assert out.read_text() == "mine"
    call(embed_to_file, tokens, out, model=folder, device="cpu", force=True)
    assert out.stat().st_size > 500
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


def test_outputs_that_cannot_be(tmp_path):
    with pytest.raises(SettingsError, match=r"e\.csv: embeddings are written as \.h5ad, \.zarr, \.parquet"):
        check_output(tmp_path / "e.csv")
    with pytest.raises(OutputError, match="does not exist: make it first"):
        check_output(tmp_path / "none" / "e.npz")


# the counter


def test_tl_embed(small, counts):
    adata = make_adata(counts)
    adata.obsm["X_rankcell"] = np.zeros((8, 3))
    before = adata.X.copy()
    assert rc.tl.embed(adata, model=small[1], compute=rc.Compute("cpu")) is None
    assert (before != adata.X).nnz == 0
    np.testing.assert_allclose(adata.obsm["X_rankcell"], expected_of(small, adata), rtol=0, atol=2e-6)
    assert adata.obsm["X_rankcell"].dtype == np.float32
    assert adata.uns["rankcell"]["outputs"] == {"X_rankcell": {"pool": "mean", "layer": -2}}


def test_tl_embed_of_several_outputs(small, counts, tmp_path):
    adata = make_adata(counts)
    rc.tl.embed(adata, model=small[1], pool=["cls", "first"], layer=[-1, 0], key_added="X_my", compute=rc.Compute("cpu"))
    keys = ["X_my_cls_layer-1", "X_my_first_layer-1", "X_my_cls_layer0", "X_my_first_layer0"]
    assert list(adata.obsm) == keys
    assert list(adata.uns["rankcell"]["outputs"]) == keys
    np.testing.assert_allclose(adata.obsm[keys[0]], expected_of(small, adata, "cls", -1), rtol=0, atol=2e-6)
    np.testing.assert_allclose(adata.obsm[keys[3]], expected_of(small, adata, "first", 0), rtol=0, atol=2e-6)
    adata.write_h5ad(tmp_path / "kept.h5ad")
    kept = ad.read_h5ad(tmp_path / "kept.h5ad")
    assert kept.uns["rankcell"]["outputs"] == adata.uns["rankcell"]["outputs"]


def test_tl_embed_keeps_empty_cells(small, counts):
    counts = counts.copy()
    counts[3] = 0
    adata = make_adata(counts)
    with pytest.warns(RankcellWarning) as told:
        rc.tl.embed(adata, model=small[1], pool="cls", compute=rc.Compute("cpu"))
    assert [str(w.message) for w in told] == ["1 of 8 cells have no genes: their embeddings are NaN"]
    assert np.isnan(adata.obsm["X_rankcell"]).all(1).tolist() == [False, False, False, True, False, False, False, False]


def test_tl_embed_with_a_bare_checkpoint(counts, tmp_path):
    vocab = make_vocab(12, special=("<pad>", "<mask>"))
    folder = make_checkpoint(tmp_path / "bare", vocab, with_vocab=False)
    adata = make_adata(counts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rc.tl.embed(adata, model=rc.Model(folder, vocab=vocab), compute=rc.Compute("cpu"))
    rows = rc.Tokenizer(vocab, rc.Tokenizing(max_len=64)).tokenize(adata)
    reference = Reference(folder, Frame(), 64)
    expected = [reference.embed(row, "mean", -2) for row in rows]
    np.testing.assert_allclose(adata.obsm["X_rankcell"], expected, rtol=0, atol=2e-6)


# what a user of rc.tl.embed does next


def cells_of(n=6, **obs):
    rng = np.random.default_rng(1)
    return make_adata(rng.poisson(2, (n, 12)) * rng.permutation(np.arange(1, 12 * n + 1)).reshape(n, 12), **obs)


def test_an_earlier_embedding_keeps_its_origin(small, tmp_path):
    adata, other = cells_of(), make_checkpoint(tmp_path / "other", small[0], seed=5)
    rc.tl.embed(adata, small[1], layer=-1)
    rc.tl.embed(adata, other, pool="cls", key_added="X_other")
    outputs = adata.uns["rankcell"]["outputs"]
    assert {k: (o["pool"], o["layer"]) for k, o in outputs.items()} == {"X_rankcell": ("mean", -1), "X_other": ("cls", -2)}
    assert outputs["X_rankcell"]["model_hash"] != adata.uns["rankcell"]["model_hash"]
    reference = cells_of(40, kind=["a", "b"] * 20)
    for model, layer, differs in ((small[1], -2, "layer -1 in adata and with layer -2"), (other, -1, "made with model 'small'")):
        rc.tl.embed(reference, model, layer=layer)
        with pytest.raises(SettingsError, match=differs):
            rc.tl.map_labels(adata, reference, "kind", mapping=rc.LabelMapping(k=3))
    rc.tl.embed(reference, small[1], layer=-1)
    rc.tl.map_labels(adata, reference, "kind", mapping=rc.LabelMapping(k=3))
    adata.write_h5ad(tmp_path / "a.h5ad")
    del adata.obsm["X_rankcell"]
    rc.tl.embed(adata, small[1], key_added="X_third")
    assert list(adata.uns["rankcell"]["outputs"]) == ["X_other", "X_third"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (dict(key_added=""), "key_added is ''; a name that is not empty"),
        (dict(layer=-1.5), "layer is -1.5; a whole number"),
        (dict(layer="last"), "layer is 'last'; a whole number"),
        (dict(layer=[-1, None]), "layer is .-1, None.; a whole number"),
        (dict(layer=True), "layer is True; a whole number"),
        (dict(model=None), "no model was named: model takes a checkpoint folder"),
        (dict(model=""), "model is ''; expected a checkpoint folder"),
    ],
)
def test_settings_that_make_no_sense(small, how, message):
    with pytest.raises((SettingsError, ModelError), match=message):
        call(rc.tl.embed, cells_of(), **{"model": small[1]} | how)


def test_layers_as_numpy_gives_them(small):
    a, b = cells_of(), cells_of()
    rc.tl.embed(a, small[1], layer=np.int64(-1))
    rc.tl.embed(b, small[1], layer=-1)
    np.testing.assert_array_equal(a.obsm["X_rankcell"], b.obsm["X_rankcell"])
    assert rc.tl.gene_embeddings(cells_of(), small[1], layer=np.int32(-1)).shape[1] == 16
    with pytest.raises(SettingsError, match="gene embeddings are of one layer, and 2 were named"):
        rc.tl.gene_embeddings(cells_of(), small[1], layer=[-1, -2])


def test_few_known_genes_are_said(small):
    adata = cells_of()
    others = ad.AnnData(np.ones((adata.n_obs, 200), np.float32))
    others.var_names = [f"OTHER{i}" for i in range(200)]
    others.obs_names = adata.obs_names
    adata.var_names = adata.var.pop("ensembl_id").tolist()
    with pytest.warns(RankcellWarning, match=r"12 of 212 genes are known \(6%\) to vocabulary 'small', and the model sees no others"):
        rc.tl.embed(ad.concat([adata, others], axis=1), small[1])


def test_states_of_another_model_are_refused(small, tmp_path):
    other = make_checkpoint(tmp_path / "other", small[0], seed=5)
    adata = cells_of(kind=list("aabbab"))
    states = rc.tl.state_embeddings(adata, "kind", other)
    with pytest.raises(SettingsError, match="the states were made with another model"):
        perturb_df(adata, small[1], genes=["G1"], states=states)
    table = perturb_df(adata, other, genes=["G1"], states=states, out=tmp_path / "s")
    assert {"toward_a_cell", "toward_b_cell_in_place"} <= set(table.columns)
    with pytest.raises(SettingsError, match="the states were made with another model"):
        perturb_df(adata, small[1], genes=["G1"], states=tmp_path / "s" / "states.parquet")


def test_cell_columns_go_along_into_another_format(small, tmp_path):
    adata = cells_of(kind=pd.Categorical(list("aabbab"), ["b", "a"]), age=[1, 2, 3, 4, 5, 6])
    adata.write_h5ad(tmp_path / "a.h5ad")
    call(embed_to_file, tmp_path / "a.h5ad", tmp_path / "a.zarr", model=small[1])
    found = ad.read_zarr(tmp_path / "a.zarr")
    assert found.obs["kind"].tolist() == list("aabbab") and found.obs["age"].tolist() == [1, 2, 3, 4, 5, 6]
    assert list(found.obs_names) == list(adata.obs_names)


def test_a_state_of_every_cell_is_doubted(small):
    adata = cells_of(day=["1", "2", "3", "4", "5", "6"])
    with pytest.warns(RankcellWarning, match="every cell has a 'day' of its own"):
        rc.tl.state_embeddings(adata, "day", small[1])
