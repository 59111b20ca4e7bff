"""Values that are no counts: which of them are ranked, and where counts are read when X holds none."""

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from builders import make_adata, make_vocab
from count_files import Counts, store_zarr, write_h5ad, write_loom, write_mtx, write_tenx, write_zarr
from flat_options import call

import rankcell as rc
from rankcell.cli.main import main
from rankcell.errors import CountsError, RankcellWarning
from rankcell.vocab import find_vocabulary

MEDIANS = np.linspace(0.5, 3, 8)


def scaled_values(dtype=np.float32):
    """12 cells x 8 genes: fractions, NaN, infinities, negative values; a row of none above zero, one whose sum is zero, one of NaN."""
    x = np.random.default_rng(0).normal(0.4, 1, (12, 8)).round(3).astype(dtype)
    x[0, :4], x[1, 2], x[2, 3] = np.nan, np.inf, -np.inf
    x[3] = -np.abs(x[3]) - 0.1
    x[4] = [1, -1, 2, -2, 3, -3, 4, -4]
    x[5], x[6, 6:] = np.nan, 0
    return x


def genes_in_order(x, n_counts=None):
    """Plain reference: per cell, the genes with a finite value above zero by value / total / median, falling."""
    rows = []
    for i, values in enumerate(x.astype(np.float64)):
        usable = [j for j, v in enumerate(values) if np.isfinite(v) and v > 0]
        total = sum(values[j] for j in usable) if n_counts is None else n_counts[i]
        rows.append(sorted(usable, key=lambda j: (-values[j] / total / MEDIANS[j], j)))
    return rows


def tokenized(source, vocab, **how):
    with pytest.warns(RankcellWarning, match="no gene with a count that vocabulary"):
        tokens = call(rc.pp.tokenize, source, vocab, allow_non_counts=True, **how)
    return [[int(t) - 4 for t in tokens.genes(i)] for i in range(len(tokens))]


def write(x, folder, kind):
    """The values in a file of a kind; NaN and infinities as they are."""
    counts = Counts(sp.csr_matrix(x), dtype=x.dtype)
    if kind in ("csr", "csc", "dense"):
        return write_h5ad(counts, folder / f"{kind}.h5ad", kind=kind)
    if kind == "zarr":
        return write_zarr(counts, folder / "a.zarr")
    if kind == "loom":
        return write_loom(counts, folder / "a.loom")
    if kind == "10x h5":
        path = write_tenx(Counts(sp.csr_matrix(np.ones_like(x))), folder / "a.h5")
        with h5py.File(path, "r+") as f:
            del f["matrix/data"], f["matrix/indices"], f["matrix/indptr"]
            f["matrix/data"], f["matrix/indices"], f["matrix/indptr"] = counts.csr.data, counts.csr.indices, counts.csr.indptr
        return path
    path = write_mtx(Counts(sp.csr_matrix(np.ones_like(x))), folder / "mtx", zipped=False, field="real")
    lines = (path / "matrix.mtx").read_text().splitlines()
    coo = counts.csr.tocoo()
    body = [f"{g + 1} {c + 1} {v!s}" for c, g, v in zip(coo.row, coo.col, coo.data, strict=True)]
    (path / "matrix.mtx").write_text("\n".join([*lines[:2], f"{x.shape[1]} {x.shape[0]} {len(body)}", *body]) + "\n")
    return path


@pytest.mark.parametrize("kind", ["csr", "csc", "dense", "zarr", "loom", "10x h5", "mtx"])
def test_only_finite_values_above_zero_are_ranked(tmp_path, kind):
    x, vocab = scaled_values(), make_vocab(8, medians=MEDIANS)
    assert tokenized(write(x, tmp_path, kind), vocab) == genes_in_order(x)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_in_memory_in_every_float_type(dtype):
    x, vocab = scaled_values(dtype), make_vocab(8, medians=MEDIANS)
    assert tokenized(ad.AnnData(x.astype(dtype), var=make_adata(np.ones((1, 8))).var), vocab) == genes_in_order(x)


def test_negative_whole_numbers():
    x = np.array([[3, -1, 2, 0, 5, 1, 1, 4], [-1, -1, -1, -1, -1, -1, -1, -1]])
    adata = make_adata(np.ones((2, 8)))
    adata.X = x.astype(np.int32)
    assert tokenized(adata, make_vocab(8, medians=MEDIANS)) == genes_in_order(x)


@pytest.mark.parametrize("scale", [1e-41, 1e37])
def test_sums_without_a_reciprocal_do_not_lose_the_order(scale):
    x = (np.arange(1, 9)[::-1] * np.float64(scale)).astype(np.float32)[None].repeat(2, 0)
    x[1] = np.nan
    adata = make_adata(np.ones((2, 8)))
    adata.X = x
    assert tokenized(adata, make_vocab(8)) == [list(range(8)), []]


def test_n_counts_divide_and_are_checked():
    x = np.abs(np.nan_to_num(scaled_values(), nan=0.5, posinf=1, neginf=1)) + 0.1
    adata = make_adata(np.ones(x.shape), n_counts=np.linspace(1, 4, 12))
    adata.X = x
    vocab = make_vocab(8, medians=MEDIANS)
    tokens = rc.pp.tokenize(adata, vocab, tokenizing=rc.Tokenizing(keep_counts=True), counts=rc.Counts(allow_non_counts=True))
    np.testing.assert_allclose(
        [c[1:-1].sum() for c in tokens.table["counts"].to_numpy()], x.sum(1) / adata.obs["n_counts"] * 1e4, rtol=1e-5
    )
    for wrong in (np.nan, np.inf, -1.0, 0.0):
        adata.obs.loc["cell3", "n_counts"] = wrong
        with pytest.raises(CountsError, match=r"'n_counts' of cell 'cell3' is"):
            rc.pp.tokenize(adata, vocab, counts=rc.Counts(allow_non_counts=True))


def test_the_same_after_align_genes():
    x, vocab = scaled_values(), make_vocab(8, medians=MEDIANS)
    adata = make_adata(np.ones(x.shape))
    adata.X = x
    aligned = rc.pp.align_genes(adata, vocab, counts=rc.Counts(allow_non_counts=True))
    assert np.isfinite(aligned.X.data).all() and (aligned.X.data > 0).all()
    usable = np.where(np.isfinite(x) & (x > 0), x, 0)
    np.testing.assert_allclose(aligned.obs["n_counts"], usable.sum(1), rtol=1e-6)
    aligned.obs.loc[aligned.obs["n_counts"] == 0, "n_counts"] = 1
    assert tokenized(aligned, vocab) == tokenized(adata, vocab) == genes_in_order(x)
    assert np.array_equal(adata.X, x, equal_nan=True)


# Where counts are read when X holds none


def normalised(**layers):
    adata = make_adata(np.random.default_rng(1).poisson(2, (6, 12)) + 1)
    for name in layers:
        adata.layers[name] = adata.X.copy()
    adata.X = np.log1p(adata.X.toarray())
    return adata


@pytest.mark.parametrize("name", ["counts", "raw_counts", "UMIs", "Counts", "raw"])
@pytest.mark.parametrize("to", ["memory", "h5ad", "zarr"])
def test_the_one_counts_layer_is_read(tmp_path, name, to):
    adata, vocab = normalised(**{name: 1}), make_vocab()
    source = adata if to == "memory" else tmp_path / f"a.{to}"
    if to == "h5ad":
        adata.write_h5ad(source)
    elif to == "zarr":
        store_zarr(adata, source, version=2)
    with pytest.warns(RankcellWarning, match=rf"X holds 1\.\d+, a fractional.*layer '{name}', which holds counts, is read in its place"):
        tokens = rc.pp.tokenize(source, vocab)
    named = rc.pp.tokenize(source, vocab, counts=rc.Counts(counts_layer=name))
    assert tokens.table.equals(named.table) and tokens.spec.source["matrix"] == f"layer '{name}'"


def test_never_where_it_is_not_plain():
    adata, vocab = normalised(counts=1), make_vocab()
    for change, says in (
        (lambda a: a.layers.update(umis=a.layers["counts"].copy()), r"pass rc.Counts\(counts_layer='counts'\), which holds counts"),
        (lambda a: a.layers.update(spliced=a.layers.pop("counts")), r"pass rc.Counts\(counts_layer='spliced'\), which holds counts"),
        (lambda a: a.layers.update(counts=a.layers["counts"] * 0.5), "take it from before it was normalised"),
    ):
        other = adata.copy()
        change(other)
        with pytest.raises(CountsError, match=says):
            rc.pp.tokenize(other, vocab)
    with pytest.raises(CountsError, match="layer 'log' holds"):  # the user named a place
        adata.layers["log"] = adata.X.copy()
        rc.pp.tokenize(adata, vocab, counts=rc.Counts(counts_layer="log"))
    assert rc.pp.tokenize(adata, vocab, counts=rc.Counts(allow_non_counts=True)).spec.source["matrix"] == "X"
    adata.X, adata.layers["counts"] = adata.layers["counts"], adata.layers["counts"] * 2
    assert rc.pp.tokenize(adata, vocab).spec.source["matrix"] == "X"


def test_a_layer_that_is_no_counts_further_down_is_no_remedy():
    adata, vocab = make_adata(np.ones((40_000, 12))), make_vocab()
    adata.layers["kept"] = adata.X.copy()
    adata.layers["kept"].data[-5:] = 0.5
    adata.X.data[:] = 0.5
    with pytest.raises(CountsError) as error:
        rc.pp.tokenize(adata, vocab)
    assert "kept" not in str(error.value)


def test_raw_is_read_and_said_in_the_verbs_own_words(tmp_path, capsys):
    adata = normalised()
    adata.raw = make_adata(np.ones((6, 12)))
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.warns(RankcellWarning, match=r"raw, which holds counts, is read in its place; rc.Counts\(allow_non_counts=True\) ranks X as it is"):
        assert rc.pp.tokenize(adata, make_vocab()).spec.source["matrix"] == "raw"
    adata.layers["counts"] = adata.raw.X.copy()
    adata.write_h5ad(tmp_path / "two.h5ad")
    make_vocab().save(tmp_path / "v")
    assert main(["tokenize", str(tmp_path / "two.h5ad"), "-o", str(tmp_path / "o"), "--vocab", str(tmp_path / "v")]) == 2
    assert "pass --raw, which holds counts" in capsys.readouterr().err


def test_embed_and_perturb_name_their_own_options(tmp_path, capsys):
    """Their --layer is the model's."""
    symbols = find_vocabulary("demo").symbols[:12]
    adata = normalised(spliced=1)
    adata.var_names = list(symbols)
    adata.var = adata.var[[]]
    adata.write_h5ad(tmp_path / "a.h5ad")
    for verb in ("embed", "perturb"):
        assert main([verb, str(tmp_path / "a.h5ad"), "-o", str(tmp_path / "out.parquet"), "--model", "demo"]) == 2
        error = capsys.readouterr().err
        assert "pass --counts-layer spliced, which holds counts" in error and " --layer" not in error
    with pytest.raises(CountsError, match=r"pass rc.Counts\(counts_layer='spliced'\), which holds counts"):
        rc.tl.embed(adata, model="demo")


def test_the_shipped_cells_by_their_layer_or_by_raw(monkeypatch):
    """scanpy's coming file has layers["counts"] and no raw; today's has log-normalised values in raw."""
    import scanpy as sc

    counts = sp.csr_matrix(np.random.default_rng(2).poisson(1.5, (8, 5)) + 1)
    obs = {k: np.arange(8.0) for k in ("bulk_labels", "n_genes", "percent_mito", "n_counts", "phase", "louvain")}
    shipped = make_adata(np.ones((8, 5)), **obs)
    shipped.layers["counts"] = counts.astype(np.int64)
    shipped.X = np.full((8, 5), 0.5)
    monkeypatch.setattr(sc.datasets, "pbmc68k_reduced", shipped.copy)
    made = rc.datasets.pbmc68k()
    assert (
        made.X.dtype == np.float32
        and np.array_equal(made.X.toarray(), counts.toarray())
        and list(made.var_names) == list(shipped.var_names)
    )
    del shipped.layers["counts"]
    shipped.X = np.log1p(counts.toarray() / counts.toarray().min(1, keepdims=True) * 3.7)
    shipped.raw = shipped.copy()
    monkeypatch.setattr(sc.datasets, "pbmc68k_reduced", shipped.copy)
    np.testing.assert_array_equal(rc.datasets.pbmc68k().X.toarray(), np.rint(counts.toarray() / counts.toarray().min(1, keepdims=True)))
    shipped.raw = None
    with pytest.raises(rc.errors.InputError, match="scanpy"):
        rc.datasets.pbmc68k()
