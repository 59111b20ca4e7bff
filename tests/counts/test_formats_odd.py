"""Files as other programs and versions write them, and AnnData objects that are not plainly in memory."""

import fcntl

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from flat_options import call

import rankcell as rc
from rankcell.cli.main import main
from rankcell.counts import open_counts
from rankcell.errors import CellError, InputError
from rankcell.vocab import find_vocabulary

pytestmark = [
    pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning"),  # anndata announces its own coming default
    pytest.mark.filterwarnings("ignore:\\s*AnnData expects:UserWarning"),  # odd names are what is tried here
]
VOCAB = find_vocabulary("demo")
GENES = list(VOCAB.genes[:30])


@pytest.fixture
def adata():
    counts = np.random.default_rng(0).poisson(2, (6, 30)).astype("f4")
    var = pd.DataFrame({"symbol": list(VOCAB.symbols[:30])}, index=GENES)
    obs = pd.DataFrame({"kind": pd.Categorical(list("aabbcc")), "n": range(6)}, index=[f"c{i}" for i in range(6)])
    return ad.AnnData(sp.csr_matrix(counts), obs=obs, var=var)


def rows(source, **how):
    tokens = call(rc.pp.tokenize, source, vocab=VOCAB, **how)
    return [tokens.row(i).tolist() for i in range(len(tokens))]


# Attributes of fixed length


@pytest.mark.parametrize("dtype", ["csr", "csc", "dense"])
def test_attributes_of_fixed_length(adata, tmp_path, dtype):
    expected, path = rows(adata), tmp_path / "a.h5ad"
    adata.X = {"csr": adata.X, "csc": adata.X.tocsc(), "dense": adata.X.toarray()}[dtype]
    adata.layers["counts"] = adata.X.copy()
    adata.write_h5ad(path)
    with h5py.File(path, "r+") as f:

        def shorten(_, node):
            for key, value in list(node.attrs.items()):
                if isinstance(value, str):
                    node.attrs.create(key, np.bytes_(value))
                elif isinstance(value, np.ndarray) and value.dtype.kind == "O" and len(value):
                    node.attrs.create(key, np.array(value.tolist(), "S"))

        shorten("", f)
        f.visititems(shorten)
    assert rows(path) == rows(path, counts_layer="counts") == expected
    with open_counts(path) as counts:
        assert counts.cell_ids[0] == "c0" and counts.obs_columns == ["kind", "n"] and list(counts.var) == ["index", "symbol"]
        assert counts.obs("kind").to_pylist() == list("aabbcc")


# Names that are missing


def nullable(values):
    return pd.array(values, dtype="string")


def test_genes_without_a_name(adata, tmp_path):
    names = list(adata.var_names)
    names[3] = None
    expected = rows(adata[:, [i for i in range(30) if i != 3]].copy())
    adata.obs["n_counts"] = np.asarray(adata.X.sum(1)).ravel()
    expected = rows(adata[:, [i for i in range(30) if i != 3]].copy())
    for index in (pd.Index(names, dtype=object), pd.Index(nullable(names)), pd.CategoricalIndex(names)):
        adata.var = pd.DataFrame(index=index)
        assert rows(adata) == expected, index.dtype
    with ad.settings.override(allow_write_nullable_strings=True):
        adata.var = pd.DataFrame({"gene_id": nullable(names)}, index=[f"x{i}" for i in range(30)])
        adata.write_h5ad(tmp_path / "a.h5ad")
        adata.write_zarr(tmp_path / "a.zarr")
    assert rows(tmp_path / "a.h5ad") == rows(tmp_path / "a.zarr") == expected


def test_an_index_with_missing_names_in_a_file(adata, tmp_path):
    expected, path = rows(adata), tmp_path / "a.h5ad"
    names = [*list(VOCAB.symbols[:29]), None]
    adata.var = pd.DataFrame({"gene_id": GENES}, index=pd.Index(nullable(names)))
    with ad.settings.override(allow_write_nullable_strings=True):
        adata.write_h5ad(path)
    assert rows(path) == expected and main(["check", str(path), "--vocab", "demo"]) == 0


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_cells_without_an_id_are_refused(adata, missing):
    ids = [*adata.obs_names[:5], missing]
    adata.obs.index = pd.Index(ids, dtype=object)
    with pytest.raises(CellError, match="1 of 6 cell ids are missing .the first in row 5"):
        rc.pp.tokenize(adata, vocab=VOCAB)


def test_categorical_index_of_cells(adata):
    expected = rows(adata)
    adata.obs.index = pd.CategoricalIndex(adata.obs_names)
    assert rows(adata) == expected
    adata.obs.index = pd.CategoricalIndex([*list("abcde"), None])
    with pytest.raises(CellError, match="missing"):
        rc.pp.tokenize(adata, vocab=VOCAB)


# Backed, lazy


def test_backed_whole_and_view(adata, tmp_path):
    expected, path = rows(adata), tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    backed = ad.read_h5ad(path, backed="r")
    assert rows(backed) == expected
    assert rows(backed[:3]) == expected[:3]
    backed.file.close()


def test_lazy(adata, tmp_path):
    pytest.importorskip("xarray")
    expected = rows(adata)
    adata.write_zarr(tmp_path / "a.zarr")
    lazy = ad.experimental.read_lazy(tmp_path / "a.zarr")
    tokens = rc.pp.tokenize(lazy, vocab=VOCAB, obs=["kind"])
    assert [tokens.row(i).tolist() for i in range(6)] == expected and list(tokens.obs("kind")) == list("aabbcc")


# Files that another program has open


def refusal_of(path):
    with pytest.raises(InputError) as refusal:
        open_counts(path)
    assert "\n" not in str(refusal.value) and str(path) in str(refusal.value)
    return str(refusal.value)


def test_a_file_that_another_program_holds(adata, tmp_path):
    path = tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    with open(path, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "open in another program" in refusal_of(path)
    assert rows(path) == rows(adata)


def test_a_file_whose_writer_was_killed(adata, tmp_path):
    path = tmp_path / "a.h5ad"
    with h5py.File(path, "w", libver="latest") as f:
        for name in ("obs", "var", "X"):
            f.create_group(name)
        f.flush()
        left = path.read_bytes()
    path.write_bytes(left)
    assert "left open by a program" in refusal_of(path)


# Several parts


def spatial(path, names, adata):
    import zarr

    zarr.open_group(path, mode="w", zarr_format=2).create_group("tables")
    for name in names:
        adata.write_zarr(path / "tables" / name)


def multimodal(path, parts, adata):
    with h5py.File(path, "w") as f:
        for name in parts:
            f.require_group("mod")
            ad.io.write_elem(f, f"mod/{name}", adata)
        ad.io.write_elem(f, "obs", adata.obs)
        ad.io.write_elem(f, "var", pd.DataFrame(index=adata.var_names))


@pytest.mark.parametrize("parts", [["rna", "prot"], ["atac", "RNA"], ["gex"], ["Gene Expression", "ab"], ["only"]])
def test_mudata_by_its_genes(adata, tmp_path, parts, capsys):
    path = tmp_path / "m.h5mu"
    multimodal(path, parts, adata)
    assert main(["tokenize", str(path), "--vocab", "demo", "-o", str(tmp_path / "m.dataset")]) == 0
    genes = next(p for p in parts if p not in ("prot", "atac", "ab"))
    assert f"MuData: mod/{genes} is read" in capsys.readouterr().err
    assert rc.TokenSet.open(tmp_path / "m.dataset").row(0).tolist() == rows(adata)[0]


def test_mudata_whose_genes_are_not_plain(adata, tmp_path, capsys):
    path = tmp_path / "m.h5mu"
    multimodal(path, ["left", "right"], adata)
    assert main(["check", str(path)]) == 2
    text = capsys.readouterr()
    assert "mod/left, mod/right" in text.out + text.err and "write_h5ad" in text.out + text.err


@pytest.mark.parametrize("names", [["table"], ["cells"], ["table", "nuclei"]])
def test_spatialdata_by_its_table(adata, tmp_path, names):
    spatial(tmp_path / "s.zarr", names, adata)
    with pytest.warns(rc.errors.RankcellWarning, match=f"SpatialData: tables/{names[0]} is read"):
        assert rc.pp.tokenize(tmp_path / "s.zarr", vocab=VOCAB).row(0).tolist() == rows(adata)[0]


def test_spatialdata_with_several_tables(adata, tmp_path):
    spatial(tmp_path / "s.zarr", ["cells", "nuclei"], adata)
    with pytest.raises(InputError, match="tables/cells, tables/nuclei.*sdata.tables"):
        open_counts(tmp_path / "s.zarr")


# Old and incomplete


def write_old(path, adata):
    """As anndata before 0.7 wrote it: obs and var as records, categories in uns."""
    with h5py.File(path, "w") as f:
        kind = adata.obs["kind"]
        obs = np.array(list(zip(adata.obs_names, kind.cat.codes, adata.obs["n"], strict=True)), [("index", "S8"), ("kind", "i1"), ("n", "i8")])
        f["obs"] = obs
        f["var"] = np.array([(g, s) for g, s in zip(adata.var_names, adata.var["symbol"], strict=True)], [("index", "S20"), ("symbol", "S20")])
        f["uns/kind_categories"] = np.array(list("abc"), "S")
        x = f.create_group("X")
        x.attrs["h5sparse_format"], x.attrs["h5sparse_shape"] = "csr", adata.shape
        for part in ("data", "indices", "indptr"):
            x[part] = getattr(adata.X, part)


def test_anndata_before_07(adata, tmp_path):
    write_old(tmp_path / "old.h5ad", adata)
    tokens = rc.pp.tokenize(tmp_path / "old.h5ad", vocab=VOCAB, obs=["kind", "n"])
    assert [tokens.row(i).tolist() for i in range(6)] == rows(adata) and tokens.cell_ids == list(adata.obs_names)
    assert list(tokens.obs("kind")) == list("aabbcc") and list(tokens.obs("n")) == list(range(6))


def test_no_matrix_at_all(adata, tmp_path, capsys):
    empty = ad.AnnData(obs=adata.obs, var=adata.var)
    empty.write_h5ad(tmp_path / "e.h5ad")
    for source in (empty, tmp_path / "e.h5ad"):
        with pytest.raises(InputError, match="has no X: it has no layers and no raw matrix either"):
            rc.pp.tokenize(source, vocab=VOCAB)
    empty.layers["spliced"] = adata.X
    empty.write_h5ad(tmp_path / "e.h5ad")
    assert main(["tokenize", str(tmp_path / "e.h5ad"), "--vocab", "demo", "-o", str(tmp_path / "e.dataset")]) == 2
    assert "has no X: name one of its matrices with --counts-layer spliced" in capsys.readouterr().err


# loom


def test_loom_with_tables_among_its_attributes(adata, tmp_path, capsys):
    import loompy

    x = adata.X.toarray().T
    columns = {"CellID": np.array(adata.obs_names), "kind": np.array(list("aabbcc")), "PCA": np.zeros((6, 5))}
    loompy.create(str(tmp_path / "a.loom"), x, {"Gene": np.array(GENES)}, columns)
    assert rows(tmp_path / "a.loom") == rows(adata)
    with open_counts(tmp_path / "a.loom") as counts:
        assert sorted(counts.obs_columns) == ["CellID", "kind"]
    assert main(["tokenize", str(tmp_path / "a.loom"), "--vocab", "demo", "--obs", "PCA", "-o", str(tmp_path / "a.dataset")]) == 2
    assert "'PCA' holds a table or records" in capsys.readouterr().err
