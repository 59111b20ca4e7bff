"""What rc.tl.embed takes: an AnnData, which it writes into, or tokens or a path, of which it returns one."""

import anndata as ad
import numpy as np
import pytest
from builders import make_adata, make_vocab

import rankcell as rc
from rankcell.embed import Embedder
from rankcell.errors import InputError
from rankcell.tokens import Tokenizer

COUNTS = np.random.default_rng(0).poisson(2, (6, 12))


def adata():
    a = make_adata(COUNTS, kind=list("aabbcc"), day=[1, 1, 1, 2, 2, 2])
    a.obs["kind"] = a.obs["kind"].astype("category")
    return a


@pytest.fixture
def expected(small):
    a = adata()
    assert rc.tl.embed(a, small[1], compute=rc.Compute("cpu")) is None
    return a


@pytest.mark.parametrize("make", ["tokens", "folder", "h5ad", "string"])
def test_tokens_and_paths_give_an_anndata_of_their_cells(small, expected, tmp_path, make):
    Tokenizer(small[0], rc.Tokenizing(max_len=64)).tokenize(adata(), obs=["kind", "day"]).save(tmp_path / "t")
    adata().write_h5ad(tmp_path / "x.h5ad")
    source = {
        "tokens": rc.TokenSet.open(tmp_path / "t"),
        "folder": tmp_path / "t",
        "h5ad": tmp_path / "x.h5ad",
        "string": str(tmp_path / "t"),
    }[make]
    cells = rc.tl.embed_cells(source, small[1], key_added="X_here", compute=rc.Compute("cpu"))
    np.testing.assert_array_equal(cells.obsm["X_here"], expected.obsm["X_rankcell"])
    assert list(cells.obs_names) == list(expected.obs_names) and cells.n_vars == 0
    assert (
        cells.uns["rankcell"]["outputs"].keys() == {"X_here"}
        and cells.uns["rankcell"]["model_hash"] == expected.uns["rankcell"]["model_hash"]
    )
    if make != "h5ad":
        assert (
            cells.obs["kind"].tolist() == list("aabbcc")
            and cells.obs["kind"].dtype == "category"
            and cells.obs["day"].tolist() == [1, 1, 1, 2, 2, 2]
        )
    cells.write_h5ad(tmp_path / "out.h5ad")
    assert list(ad.read_h5ad(tmp_path / "out.h5ad").obsm) == ["X_here"]


def test_several_outputs_of_tokens(small):
    cells = rc.tl.embed_cells(Tokenizer(make_vocab(), rc.Tokenizing(max_len=64)).tokenize(adata()), small[1], pool=["mean", "cls"], compute=rc.Compute("cpu"))
    assert set(cells.obsm) == {"X_rankcell_mean_layer-2", "X_rankcell_cls_layer-2"}


def test_a_view_becomes_an_anndata_of_its_own(small, expected):
    whole = adata()
    view = whole[[4, 1]]
    rc.tl.embed(view, small[1], compute=rc.Compute("cpu"))
    assert not view.is_view and "X_rankcell" not in whole.obsm
    np.testing.assert_allclose(view.obsm["X_rankcell"], expected.obsm["X_rankcell"][[4, 1]], rtol=0, atol=2e-6)


def test_an_anndata_in_a_file_is_written_into_in_memory_and_its_view_refused_at_once(small, expected, tmp_path, monkeypatch):
    adata().write_h5ad(tmp_path / "x.h5ad")
    before = (tmp_path / "x.h5ad").read_bytes()
    backed = ad.read_h5ad(tmp_path / "x.h5ad", backed="r")
    assert rc.tl.embed(backed, small[1], compute=rc.Compute("cpu")) is None
    np.testing.assert_array_equal(backed.obsm["X_rankcell"], expected.obsm["X_rankcell"])

    def never(*_, **__):
        raise AssertionError("the model ran")

    monkeypatch.setattr(Embedder, "run", never)
    with pytest.raises(InputError, match=r"view of an AnnData in a file.*\.to_memory\(\)"):
        rc.tl.embed(backed[:3], small[1], compute=rc.Compute("cpu"))
    assert (tmp_path / "x.h5ad").read_bytes() == before


@pytest.mark.parametrize("source", [None, 5, COUNTS, {"a": 1}, ["x.h5ad"]])
def test_what_is_no_input(small, source):
    with pytest.raises(InputError, match="writes into an AnnData, and got"):
        rc.tl.embed(source, small[1])
    with pytest.raises(InputError, match="takes a TokenSet or a path, and got"):
        rc.tl.embed_cells(source, small[1])


def test_what_cannot_be_written_into(small):
    with pytest.raises(InputError, match="and got TokenSet: rc.tl.embed_cells makes an AnnData of it"):
        rc.tl.embed(Tokenizer(make_vocab()).tokenize(adata()), small[1])
