"""Counts on a vocabulary's genes: a hand-sized case written out, and the same tokens as from the input."""

import copy

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from builders import make_adata, make_vocab
from hypothesis import given, settings
from hypothesis import strategies as st

import rankcell as rc
from rankcell.errors import CountsError, GeneError, InputError, SettingsError

KINDS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "array": sp.csr_array, "dense": np.asarray}
FOUR = {"medians": [1.0, 2.0, 0.5, 4.0]}


def by_hand(x, kind="csr"):
    """Two cells; columns: G2, an unknown gene, gene 0 with a version, G2 again by its id, gene 3."""
    names = ["G2", "nonsense", "ENSG00000000000.7", "ENSG00000000002", "G3"]
    var = pd.DataFrame({"names": names}, index=[f"column{i}" for i in range(5)])
    return ad.AnnData(KINDS[kind](x), obs=pd.DataFrame({"kind": ["a", "b"]}, index=["x", "y"]), var=var)


def rows(tokens):
    return [r.tolist() for r in tokens]


@pytest.mark.parametrize("kind", KINDS)
def test_two_cells_written_out(kind):
    adata = by_hand(np.array([[1, 9, 2, 3, 0], [0, 5, 0, 4, 6]], np.float32), kind)
    found = rc.pp.align_genes(adata, make_vocab(4, **FOUR))
    assert type(found.X) is sp.csr_matrix and found.X.dtype == np.float32
    assert found.X.toarray().tolist() == [[4, 2, 0], [4, 0, 6]]
    assert found.var_names.tolist() == ["ENSG00000000002", "ENSG00000000000", "ENSG00000000003"]
    assert found.var.to_dict("list") == {
        "symbol": ["G2", "G0", "G3"],
        "token": [6, 4, 7],
        "median": [0.5, 1.0, 4.0],
        "source_columns": [2, 1, 1],
    }
    assert found.obs["n_counts"].tolist() == [15, 15] and found.obs["n_counts"].dtype == np.float32
    assert found.obs["kind"].tolist() == ["a", "b"] and found.obs_names.tolist() == ["x", "y"]
    assert found.uns["rankcell_genes"] == {
        "vocabulary": "small",
        "vocabulary_hash": make_vocab(4, **FOUR).hash,
        "matrix": "X",
        "gene_column": "names",
        "columns_known": 4,
        "columns_unknown": 1,
        "genes": 3,
    }


@st.composite
def inputs(draw):
    """A small AnnData of any storage and type: symbols, ids with and without version, repeated and unknown genes."""
    known = [*(f"G{i}" for i in range(6)), *(f"ENSG{i:011d}" for i in range(6)), "ENSG00000000001.4", "ensg00000000003"]
    names = [*draw(st.lists(st.sampled_from([*known, "nonsense", "ENSG00000099999"]), max_size=9)), draw(st.sampled_from(known))]
    dtype = draw(st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.uint8, np.uint16, np.int16, np.bool_]))
    top = 1 if dtype == np.bool_ else min(np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else 2**24, 2**24)
    count = st.sampled_from([c for c in (0, 0, 0, 1, 1, 2, 3, 5, 200, 255, 30_000, 2**24 - 1, 2**24) if c <= top])
    x = np.array(draw(st.lists(st.lists(count, min_size=len(names), max_size=len(names)), min_size=1, max_size=4)), dtype)
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(len(x))])
    totals = draw(st.sampled_from([None, np.float32, np.float64, np.int64]))
    if totals is not None:
        obs["n_counts"] = np.array(draw(st.lists(st.integers(1, 90_000), min_size=len(x), max_size=len(x))), totals)
    store = draw(st.sampled_from(sorted(KINDS)))
    var = pd.DataFrame({"names": names}, index=[f"column{i}" for i in range(len(names))])
    return ad.AnnData(KINDS[store](x), obs=obs, var=var), x, names


@settings(deadline=None, max_examples=150)
@given(inputs(), st.sampled_from([None, "names"]))
@pytest.mark.filterwarnings("ignore::rankcell.errors.RankcellWarning")  # cells without a known gene, on both sides
def test_the_tokens_stay_the_same(made, gene_column):
    adata, x, names = made
    vocab = make_vocab(6, medians=[1.0, 2.0, 0.5, 1 / 3, 3.0, 0.7])
    found = rc.pp.align_genes(adata, vocab, counts=rc.Counts(gene_column=gene_column))
    assert rows(rc.pp.tokenize(found, vocab)) == rows(rc.pp.tokenize(adata, vocab, counts=rc.Counts(gene_column=gene_column)))
    totals = found.obs["n_counts"].to_numpy()
    rounded = np.result_type(x.dtype, totals.dtype if totals.dtype.kind == "f" else np.float64) == np.float32
    genes = vocab.lookup(names)
    for j, gene in enumerate(vocab.lookup(found.var_names)):
        exact = [sum(int(c) for c in cell[genes == gene]) for cell in x]
        assert found.X[:, [j]].toarray().ravel().tolist() == ([float(np.float32(e)) for e in exact] if rounded else exact)
    assert found.var["source_columns"].sum() == (genes >= 0).sum()


@pytest.mark.parametrize(
    ("dtype", "totals", "a", "b", "expected"),
    [
        (np.uint8, None, 100, 155, np.uint8),  # 255 fits
        (np.uint8, None, 200, 155, np.uint64),
        (np.uint8, np.float32, 200, 155, np.uint16),  # float64 would change the type that rank values are computed in
        (np.uint16, np.float32, 60_000, 60_000, np.float32),
        (np.int16, None, 30_000, 30_000, np.int64),
        (np.int32, None, 2**31 - 1, 1, np.int64),
        (np.bool_, None, 1, 1, np.int64),
        (np.float32, None, 2**24, 1, np.float32),  # rounded, as the tokenizer rounds it
        (np.float32, np.float64, 2**24, 1, np.float64),
        (np.float32, np.float64, 2**24, 2, np.float32),
        (np.float64, None, 2**24, 1, np.float64),
        (np.float16, None, 2000, 2049, np.float32),  # float16 has no sparse matrices
    ],
)
def test_sums_have_a_type_that_holds_them(dtype, totals, a, b, expected):
    adata = by_hand(np.array([[a, 0, 0, b, 0], [0, 1, 1, 0, 1]]).astype(dtype), "dense")
    if totals is not None:
        adata.obs["n_counts"] = np.array([70_000, 3], totals)
    found = rc.pp.align_genes(adata, make_vocab(4))
    assert found.X.dtype == expected
    assert found.X[0, 0] == expected(int(dtype(a)) + int(dtype(b)))


def full():
    """An AnnData with something in every place."""
    adata = by_hand(np.array([[1, 9, 2, 3, 0], [0, 5, 0, 4, 6]], np.float32))
    adata.raw = adata.copy()
    adata.layers["half"] = adata.X * 0.5
    adata.layers["dense"] = np.asarray(adata.X.toarray(), np.int64)
    adata.obsm["X_pca"] = np.arange(4.0).reshape(2, 2)
    adata.obsp["connectivities"] = sp.csr_matrix(np.eye(2))
    adata.varm["PCs"] = np.zeros((5, 2))
    adata.varp["links"] = np.eye(5)
    adata.uns["kind_colors"] = {"a": ["#111111"]}
    return adata


def test_what_is_kept_and_what_is_left_out():
    found = rc.pp.align_genes(full(), make_vocab(4))
    assert set(found.layers) == {"half", "dense"} and found.raw is None
    assert found.layers["half"].toarray().tolist() == [[2, 1, 0], [2, 0, 3]] and found.layers["half"].dtype == np.float32
    assert found.layers["dense"].toarray().tolist() == [[4, 2, 0], [4, 0, 6]] and found.layers["dense"].dtype == np.int64
    assert found.obsm["X_pca"].tolist() == [[0, 1], [2, 3]] and found.obsp["connectivities"].toarray().tolist() == [[1, 0], [0, 1]]
    assert not found.varm and not found.varp and set(found.uns) == {"kind_colors", "rankcell_genes"}


def contents(adata):
    return [
        *(x.toarray().tolist() for x in (adata.X, adata.layers["half"], adata.raw.X)),
        *(adata.obs.to_dict(), adata.var.to_dict(), adata.obsm["X_pca"].tolist(), copy.deepcopy(dict(adata.uns))),
    ]


def test_the_input_is_not_changed_nor_shared():
    adata = full()
    before = contents(adata)
    found = rc.pp.align_genes(adata, make_vocab(4))
    found.X.data[:] = 77
    found.layers["half"].data[:] = 77
    found.obsm["X_pca"][:] = 77
    found.obsp["connectivities"].data[:] = 77
    found.uns["kind_colors"]["a"].append("more")
    found.obs["kind"] = "c"
    assert contents(adata) == before and adata.obsp["connectivities"].max() == 1


def test_a_layer_or_raw_becomes_x():
    adata = full()
    vocab = make_vocab(4)
    adata.X = np.log1p(adata.X.toarray())
    with pytest.warns(rc.errors.RankcellWarning, match="raw, which holds counts, is read in its place"):
        assert rc.pp.align_genes(adata, vocab).uns["rankcell_genes"]["matrix"] == "raw"
    without = adata.copy()
    without.raw = None
    with pytest.raises(CountsError, match="fractional"):
        rc.pp.align_genes(without, vocab)
    layered = rc.pp.align_genes(adata, vocab, counts=rc.Counts(counts_layer="dense"))
    assert layered.X.toarray().tolist() == [[4, 2, 0], [4, 0, 6]] and layered.uns["rankcell_genes"]["matrix"] == "layer 'dense'"
    assert rows(rc.pp.tokenize(layered, vocab)) == rows(rc.pp.tokenize(adata, vocab, counts=rc.Counts(counts_layer="dense")))
    raw = rc.pp.align_genes(adata[:, ["column0", "column4"]].copy(), vocab, counts=rc.Counts(raw=True))
    assert raw.X.toarray().tolist() == [[4, 2, 0], [4, 0, 6]] and not raw.layers
    assert rows(rc.pp.tokenize(raw, vocab)) == rows(rc.pp.tokenize(adata, vocab, counts=rc.Counts(raw=True)))
    assert rc.pp.align_genes(adata, vocab, counts=rc.Counts(allow_non_counts=True)).X[0, 0] == pytest.approx(np.log(2) + np.log(4))


def test_a_view_and_a_backed_file(tmp_path):
    adata, vocab = full(), make_vocab(4)
    view = rc.pp.align_genes(adata[["y"]], vocab)
    assert view.X.toarray().tolist() == [[4, 0, 6]] and view.obsm["X_pca"].tolist() == [[2, 3]] and "kind_colors" in view.uns
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    try:
        found = rc.pp.align_genes(backed, vocab)
    finally:
        backed.file.close()
    assert found.X.toarray().tolist() == [[4, 2, 0], [4, 0, 6]] and not found.isbacked
    found.write_h5ad(tmp_path / "b.h5ad")
    again = ad.read_h5ad(tmp_path / "b.h5ad")
    assert dict(again.uns["rankcell_genes"]) == found.uns["rankcell_genes"] and again.var.equals(found.var)


def test_a_lazy_matrix():
    array = pytest.importorskip("dask.array")
    adata = full()
    adata.X = array.from_array(adata.X.toarray(), chunks=(1, 5))
    found = rc.pp.align_genes(adata, make_vocab(4))
    assert found.X.toarray().tolist() == [[4, 2, 0], [4, 0, 6]] and hasattr(adata.X, "dask")


def test_aligned_again_it_is_the_same():
    vocab = make_vocab(4)
    once = rc.pp.align_genes(full(), vocab)
    twice = rc.pp.align_genes(once, vocab)
    assert (twice.X != once.X).nnz == 0 and twice.var_names.equals(once.var_names) and twice.obs.equals(once.obs)
    assert twice.uns["rankcell_genes"]["columns_unknown"] == 0 and twice.var["source_columns"].tolist() == [1, 1, 1]


def test_real_cells_and_scanpy_afterwards():
    import scanpy as sc

    adata = rc.datasets.pbmc68k()[:60].copy()
    del adata.obs["n_counts"]
    adata.var["ensembl_id"] = adata.var["ensembl_id"].where(np.arange(adata.n_vars) % 5 > 0, "unknown")
    found = rc.pp.align_genes(adata, "demo", counts=rc.Counts(gene_column="ensembl_id"))
    assert found.uns["rankcell_genes"]["columns_unknown"] > 100
    assert rows(rc.pp.tokenize(found, "demo")) == rows(rc.pp.tokenize(adata, "demo", counts=rc.Counts(gene_column="ensembl_id")))
    np.testing.assert_array_equal(found.obs["n_counts"], np.asarray(adata.X.sum(1)).ravel())
    sc.pp.normalize_total(found, target_sum=1e4)
    sc.pp.log1p(found)
    sc.pp.pca(found, n_comps=5)
    assert found.obsm["X_pca"].shape == (60, 5) and np.isfinite(found.obsm["X_pca"]).all()


def test_errors_name_the_remedy(tmp_path):
    vocab, adata = make_vocab(4), make_adata([[1, 2]])
    with pytest.raises(InputError, match="got str: read the file first, with anndata.read_h5ad"):
        rc.pp.align_genes("a.h5ad", vocab)
    with pytest.raises(SettingsError, match="min_known is 1.5; it is a share"):
        rc.pp.align_genes(adata, vocab, min_known=1.5)
    with pytest.raises(GeneError, match="no gene column 'nothing'; it has"):
        rc.pp.align_genes(adata, vocab, counts=rc.Counts(gene_column="nothing"))
    few = by_hand(np.ones((2, 5), np.float32))
    with pytest.raises(GeneError, match="only 4 of 5 genes are in vocabulary 'small'"):
        rc.pp.align_genes(few, vocab, min_known=0.9)
    few.layers["words"] = np.full((2, 5), "a")
    with pytest.raises(InputError, match="layer 'words' holds .*: remove it first"):
        rc.pp.align_genes(few, vocab)
