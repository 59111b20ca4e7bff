"""Stores: every format gives back what went in, block by block, whole or not at all, and other programs read it."""

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import warnings
import weakref

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
from builders import ROOT

from rankcell.embed.embedding_tables import Column, Result, Table, memory_table
from rankcell.embed.stores import STORES, check_output, read_embeddings, write_result
from rankcell.errors import CellError, InputError, OutputError, SettingsError

SUFFIXES = [".h5ad", ".zarr", ".parquet", ".npz", ".npy", ".safetensors", ".sqlite"]
SEVERAL = [s for s in SUFFIXES if s != ".npy"]  # formats that hold several vectors and tables
STREAMS = [".parquet", ".npz", ".npy", ".safetensors"]  # formats whose bytes are the same every time
IDS = ["AAAC-1", "żółw", "細胞 3", "", "x" * 40, "AAAC-1", "é", "🧬"]


def in_blocks(name, columns, sizes=(3,)):
    """A table of arrays that comes in blocks of these sizes, over and over."""
    whole = memory_table(name, columns)
    (held,) = whole.blocks(whole.names)

    def blocks(names):
        start, i = 0, 0
        while start < whole.n_rows:
            stop = start + sizes[i % len(sizes)]
            yield {k: held[k][start:stop] for k in names}
            start, i = stop, i + 1

    return Table(name, whole.n_rows, whole.columns, blocks)


def cells_of(n=8, *, vectors=("mean_layer-2",), dtype=np.float32, width=5, sizes=(3,)):
    rng = np.random.default_rng(n)
    columns = {"cell_id": [IDS[i % len(IDS)] for i in range(n)]}
    for name in vectors:
        columns[name] = rng.normal(size=(n, width)).astype(dtype)
    if n:
        columns[vectors[0]][0, 0] = np.nan
    return in_blocks("cells", columns, sizes)


def others_of(n=20, sizes=(3,)):
    """The tables that stand beside the cells."""
    rng = np.random.default_rng(n)
    genes = {
        "cell_id": [IDS[i % 8] for i in range(n)],
        "gene": [f"ENSG{i:011d}" for i in range(n)],
        "rank": np.arange(n, dtype=np.int32),
        "layer-2": rng.normal(size=(n, 4)).astype(np.float16),
        "layer0": rng.normal(size=(n, 4)).astype(np.float16),
    }
    means = {
        "gene": [f"ENSG{i:011d}" for i in range(n)],
        "symbol": [f"G{i}" for i in range(n)],
        "bulk_labels": ["CD4+/CD25 T", "B"] * (n // 2),
        "n": np.arange(n) + 2**40,
        "mean_layer-2": rng.normal(size=(n, 4)),
        "sd_layer-2": rng.random(size=(n, 4)).astype(np.float32),
    }
    states = {
        "state": ["kind=a", "kind=b"],
        "readout": ["cell", "cell"],
        "pool": ["mean", "mean"],
        "layer": np.array([-2, -1]),
        "n_cells": np.array([3, 5]),
        "embedding": rng.normal(size=(2, 4)).astype(np.float32),
    }
    return [in_blocks(k, v, sizes) for k, v in {"genes": genes, "gene_means": means, "states": states}.items()]


def result_of(*tables, **more):
    tables = {t.name: t for t in tables}
    vectors = [c.name for c in tables["cells"].vectors] if "cells" in tables else []
    meta = {
        **{"model": "small", "width": 5, "frame": {"head": [2], "tail": []}, "note": "żółw", "nothing": None, "share": 0.5},
        **{"mixed": [1, "a", None], "by/slash": {"a/b": 1}, "outputs": {v: {"pool": v.split("_")[0], "layer": -2} for v in vectors}},
    }
    return Result(tables, meta, **more)


def same(table, stored):
    """A table and what was read of it are equal, dtypes too."""
    assert list(stored) == table.names
    for column in table.columns:
        expected, found = table.read(column.name), stored[column.name]
        if column.is_text:
            assert found == expected.to_pylist(), column.name
        else:
            assert found.dtype == expected.dtype and found.shape == expected.shape, column.name
            assert np.array_equal(found, expected, equal_nan=column.width > 0), column.name


def names_in(folder):
    return sorted(p.name for p in folder.iterdir())


def bytes_in(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_the_registry():
    assert list(STORES) == SUFFIXES
    assert [s for s in STORES if STORES[s].is_folder] == [".zarr"]


# round trips


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 8])
def test_cells_round_trip(tmp_path, suffix, dtype, n):
    result = result_of(cells_of(n, dtype=dtype))
    written = write_result(result, tmp_path / f"e{suffix}")
    assert written[0] == tmp_path / f"e{suffix}" and names_in(tmp_path) == sorted(p.name for p in written)
    found = read_embeddings(tmp_path / f"e{suffix}")
    same(result.tables["cells"], {"cell_id": found.cell_ids} | found.columns)
    assert found.meta == result.meta and found.tables == {}


@pytest.mark.parametrize("suffix", SEVERAL)
@pytest.mark.parametrize("n", [0, 20])
@pytest.mark.parametrize("without", [(), ("cells",), ("cells", "genes"), ("genes", "states")])
def test_several_vectors_and_tables(tmp_path, suffix, n, without):
    tables = [cells_of(vectors=("mean_layer-2", "mean+var_layer-1", "cls_layer0")), *others_of(n)]
    result = result_of(*[t for t in reversed(tables) if t.name not in without])
    write_result(result, tmp_path / f"e{suffix}")
    found = read_embeddings(tmp_path / f"e{suffix}")
    assert found.meta == result.meta
    assert list(found.tables) == [t for t in ("genes", "gene_means", "states") if t not in without]
    for name, values in found.tables.items():
        same(result.tables[name], values)
    if "cells" in without:
        assert found.cell_ids == [] and found.columns == {}
    else:
        same(result.tables["cells"], {"cell_id": found.cell_ids} | found.columns)
    some = read_embeddings(tmp_path / f"e{suffix}", tables=["states"])
    assert list(some.tables) == [t for t in ["states"] if t not in without] and some.cell_ids == found.cell_ids


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_text_that_is_null_is_empty(tmp_path, suffix):
    columns = {"cell_id": pa.array(["z", "a", None, "c"]).slice(1), "mean_layer-2": np.ones((3, 2), np.float32)}
    write_result(result_of(in_blocks("cells", columns, (2,))), tmp_path / f"e{suffix}")
    assert read_embeddings(tmp_path / f"e{suffix}").cell_ids == ["a", "", "c"]


@pytest.mark.parametrize("suffix", STREAMS)
def test_bytes_do_not_depend_on_the_blocks(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("rankcell.embed.stores.parquet._GROUP", 2_000)  # several row groups
    several = () if suffix == ".npy" else ("cls_layer0",)
    found = []
    for i, sizes in enumerate([(3,), (1, 7, 40), (1000,), (64, 0)]):
        others = [] if suffix == ".npy" else others_of(300, sizes)
        (tmp_path / str(i)).mkdir()
        write_result(result_of(cells_of(300, vectors=("mean_layer-2", *several), sizes=sizes), *others), tmp_path / str(i) / f"e{suffix}")
        found.append(bytes_in(tmp_path / str(i)))
    assert all(f == found[0] for f in found)
    if suffix == ".parquet":
        groups = pq.ParquetFile(tmp_path / "0" / "e.parquet").metadata
        assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [16] * 18 + [12]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_many_chunks(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("rankcell.embed.stores.zarr._CHUNK", 500)
    monkeypatch.setattr("rankcell.embed.stores.parquet._GROUP", 500)
    result = result_of(cells_of(300, sizes=(7, 50)))
    write_result(result, tmp_path / f"e{suffix}")
    found = read_embeddings(tmp_path / f"e{suffix}")
    same(result.tables["cells"], {"cell_id": found.cell_ids} | found.columns)


# what other programs see


def test_parquet_by_pyarrow(tmp_path):
    result = result_of(cells_of(vectors=("mean_layer-2", "cls_layer0")), *others_of())
    written = write_result(result, tmp_path / "e.parquet")
    assert [p.name for p in written] == ["e.parquet", "e.genes.parquet", "e.gene_means.parquet", "e.states.parquet"]
    table = pq.read_table(tmp_path / "e.parquet")
    assert table.schema.names == ["cell_id", "mean_layer-2", "cls_layer0"]
    assert table.schema.types == [pa.string(), *[pa.list_(pa.float32(), 5)] * 2]
    assert json.loads(table.schema.metadata[b"rankcell"]) == result.meta
    expected = result.tables["cells"].read("mean_layer-2")
    assert np.array_equal(np.array(table["mean_layer-2"].to_pylist(), np.float32), expected, equal_nan=True)
    genes = pq.read_table(tmp_path / "e.genes.parquet")
    assert genes.schema.types == [pa.string(), pa.string(), pa.int32(), *[pa.list_(pa.float16(), 4)] * 2]
    assert json.loads(genes.schema.metadata[b"rankcell"]) == result.meta


def test_parquet_side_files_on_their_own_and_lost(tmp_path):
    result = result_of(cells_of(), *others_of())
    write_result(result, tmp_path / "e.parquet")
    alone = read_embeddings(tmp_path / "e.genes.parquet")
    assert alone.cell_ids == [] and list(alone.tables) == ["genes"]
    write_result(result_of(cells_of(), *others_of(10)), tmp_path / "f.parquet")
    shutil.copy(tmp_path / "f.genes.parquet", tmp_path / "e.genes.parquet")
    with pytest.raises(InputError, match=r"e\.genes\.parquet does not belong to .*e\.parquet"):
        read_embeddings(tmp_path / "e.parquet")
    (tmp_path / "e.genes.parquet").unlink()
    with pytest.raises(InputError, match=r"e\.genes\.parquet, which belongs to .*e\.parquet, is not there"):
        read_embeddings(tmp_path / "e.parquet")


def test_parquet_replaced_by_one_of_fewer_tables(tmp_path):
    write_result(result_of(cells_of(), *others_of()), tmp_path / "e.parquet")
    write_result(result_of(*others_of()[:1]), tmp_path / "e.states.parquet", force=True)  # an output of its own by that name
    write_result(result_of(cells_of()), tmp_path / "e.parquet", force=True)
    assert names_in(tmp_path) == ["e.parquet", "e.states.parquet"]


def test_npz_by_numpy(tmp_path):
    result = result_of(cells_of(), *others_of())
    write_result(result, tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz", allow_pickle=False) as z:
        assert list(z)[:2] == ["cell_id", "mean_layer-2"] and list(z)[-1] == "meta"
        assert z["cell_id"].tolist() == IDS and z["cell_id"].dtype == "<U40"
        assert z["genes/layer-2"].dtype == np.float16 and z["genes/layer-2"].shape == (20, 4)
        assert json.loads(str(z["meta"])) == result.meta


def test_npy_by_numpy(tmp_path):
    result = result_of(cells_of(dtype=np.float64))
    written = write_result(result, tmp_path / "e.npy")
    assert [p.name for p in written] == ["e.npy", "e.cells.txt", "e.json"]
    assert np.array_equal(np.load(tmp_path / "e.npy"), result.tables["cells"].read("mean_layer-2"), equal_nan=True)
    assert (tmp_path / "e.cells.txt").read_bytes().decode() == "".join(f"{i}\n" for i in IDS)
    assert json.loads((tmp_path / "e.json").read_text()).items() >= result.meta.items()


def test_safetensors_by_its_library(tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import load_file

    result = result_of(cells_of(), *others_of())
    write_result(result, tmp_path / "e.safetensors")
    found = load_file(tmp_path / "e.safetensors")
    assert np.array_equal(found["mean_layer-2"], result.tables["cells"].read("mean_layer-2"), equal_nan=True)
    assert np.array_equal(found["genes/rank"], np.arange(20, dtype=np.int32))
    assert found["gene_means/mean_layer-2"].dtype == np.float64
    data, where = found["cell_id.utf8"].tobytes(), found["cell_id.offsets"]
    assert [data[a:b].decode() for a, b in zip(where[:-1], where[1:], strict=True)] == IDS
    with safe_open(tmp_path / "e.safetensors", framework="pt") as f:
        assert json.loads(f.metadata()["rankcell"]) == result.meta
        assert tuple(f.get_tensor("genes/layer-2").shape) == (20, 4)
    assert int.from_bytes((tmp_path / "e.safetensors").read_bytes()[:8], "little") % 8 == 0


def test_sqlite_by_sql(tmp_path):
    result = result_of(cells_of(), *others_of())
    write_result(result, tmp_path / "e.sqlite")
    with contextlib.closing(sqlite3.connect(tmp_path / "e.sqlite")) as db:
        (blob,) = db.execute('SELECT "mean_layer-2" FROM cells WHERE cell_id = ?', ["細胞 3"]).fetchone()
        assert np.array_equal(np.frombuffer(blob, "<f4"), result.tables["cells"].read("mean_layer-2")[2])
        assert "cells_by_id" in str(db.execute("EXPLAIN QUERY PLAN SELECT * FROM cells WHERE cell_id = 'a'").fetchall())
        assert db.execute("SELECT sum(n_cells) FROM states").fetchone() == (8,)
        meta = {k: json.loads(v) for k, v in db.execute("SELECT * FROM meta")}
        assert meta.pop("columns")["cells"]["columns"][1] == {"name": "mean_layer-2", "dtype": "float32", "width": 5}
        assert meta == result.meta
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def obs_of():
    return {
        "obs": pa.table({"kind": ["b", "a", None, "a", "b", "a", "b", "a"], "age": range(8), "level": ["low", "high"] * 4}),
        "categories": {"level": {"categories": ["low", "mid", "high"], "ordered": True}},
    }


def read_anndata(path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Observation names are not unique")
        return ad.read_h5ad(path) if path.suffix == ".h5ad" else ad.read_zarr(path)


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_anndata_without_a_source(tmp_path, suffix, dtype):
    result = result_of(cells_of(dtype=dtype), *others_of(), **obs_of())
    write_result(result, tmp_path / f"e{suffix}")
    found = read_anndata(tmp_path / f"e{suffix}")
    assert found.shape == (8, 0) and found.obs_names.tolist() == IDS and found.obs.index.name == "cell_id"
    assert found.obs["kind"].astype(object).where(found.obs["kind"].notna(), None).tolist() == obs_of()["obs"]["kind"].to_pylist()
    assert found.obs["age"].tolist() == list(range(8))
    assert found.obs["level"].cat.categories.tolist() == ["low", "mid", "high"] and found.obs["level"].cat.ordered
    assert found.obsm["X_rankcell"].dtype == dtype
    assert np.array_equal(found.obsm["X_rankcell"], result.tables["cells"].read("mean_layer-2"), equal_nan=True)
    assert found.uns["rankcell"]["outputs"] == {"X_rankcell": {"pool": "mean", "layer": -2}}
    assert found.uns["rankcell"]["frame"] == '{"head": [2], "tail": []}' and found.uns["rankcell"]["model"] == "small"
    assert json.loads(found.uns["rankcell"]["mixed"]) == [1, "a", None]
    assert list(found.uns["rankcell_genes"]["gene"]) == [f"ENSG{i:011d}" for i in range(20)]
    assert found.uns["rankcell_genes"]["layer-2"].shape == (20, 4) and found.uns["rankcell_states"]["n_cells"].tolist() == [3, 5]


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_anndata_without_cells(tmp_path, suffix):
    obs = pa.table({"cell_id": ["a", "b"], "age": [1, 2]})
    write_result(result_of(*others_of(), obs=obs), tmp_path / f"with{suffix}")
    write_result(result_of(*others_of()), tmp_path / f"none{suffix}")
    found = read_anndata(tmp_path / f"with{suffix}")
    assert found.obs_names.tolist() == ["a", "b"] and found.obs["age"].tolist() == [1, 2]
    assert read_anndata(tmp_path / f"none{suffix}").shape == (0, 0)


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_what_scanpy_users_do_with_it(tmp_path, suffix):
    """A subset that was read and written by anndata, and embeddings that stand in uns as rankcell.tl.embed leaves them."""
    result = result_of(cells_of(vectors=("mean_layer-2", "cls_layer-2")), *others_of())
    write_result(result, tmp_path / f"e{suffix}")
    part = read_anndata(tmp_path / f"e{suffix}")[[4, 1]].copy()
    store_anndata(part, tmp_path / f"part{suffix}")
    found = read_embeddings(tmp_path / f"part{suffix}")
    assert found.cell_ids == [IDS[4], IDS[1]] and found.meta == result.meta
    assert np.array_equal(found.columns["cls_layer-2"], result.tables["cells"].read("cls_layer-2")[[4, 1]])
    same(result.tables["gene_means"], found.tables["gene_means"])
    del part.uns["rankcell"]["stored"]
    store_anndata(part, tmp_path / f"plain{suffix}")
    plain = read_embeddings(tmp_path / f"plain{suffix}")
    assert sorted(plain.columns) == ["cls_layer-2", "mean_layer-2"] and plain.meta["model"] == "small"


# copies of the count file


def store_anndata(adata, path, version=2):
    if path.suffix == ".h5ad":
        adata.write_h5ad(path)
        return
    with warnings.catch_warnings(), ad.settings.override(zarr_write_format=version):
        warnings.simplefilter("ignore")  # anndata and zarr announce what they will change
        adata.write_zarr(path)


def counts_of(n=8):
    obs = pd.DataFrame({"batch": pd.Categorical(["a", "b"] * (n // 2))}, index=[f"c{i}" for i in range(n)])
    adata = ad.AnnData(sp.random(n, 6, 0.5, "csr", np.float32, np.random.default_rng(0)), obs=obs)
    adata.obsm["X_rankcell"] = np.zeros((n, 2))
    adata.obsm["X_pca"] = np.arange(2.0 * n).reshape(n, 2)
    adata.uns["kept"] = "yes"
    adata.uns["rankcell"] = {"model": "an earlier one"}
    adata.uns["rankcell_states"] = {"state": np.array(["of an earlier one"], object)}
    adata.layers["counts"] = adata.X.copy()
    adata.raw = adata
    return adata


def files_of(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()} if path.is_dir() else path.read_bytes()


@pytest.mark.parametrize(("suffix", "version"), [(".h5ad", 2), (".zarr", 2), (".zarr", 3)])
def test_a_copy_of_the_source(tmp_path, suffix, version):
    source = tmp_path / f"counts{suffix}"
    store_anndata(counts_of(), source, version)
    before = files_of(source)
    result = result_of(cells_of(), *others_of()[:2])
    write_result(result, tmp_path / f"e{suffix}", source=source)
    assert files_of(source) == before
    a, b = read_anndata(source), read_anndata(tmp_path / f"e{suffix}")
    assert (a.X != b.X).nnz == 0 and (a.layers["counts"] != b.layers["counts"]).nnz == 0 and (a.raw.X != b.raw.X).nnz == 0
    assert a.obs.equals(b.obs) and a.var.equals(b.var) and b.uns["kept"] == "yes"
    assert np.array_equal(a.obsm["X_pca"], b.obsm["X_pca"])
    assert np.array_equal(b.obsm["X_rankcell"], result.tables["cells"].read("mean_layer-2"), equal_nan=True)
    assert set(b.uns) == {"kept", "rankcell", "rankcell_genes", "rankcell_gene_means"}
    assert b.uns["rankcell"]["model"] == "small"
    found = read_embeddings(tmp_path / f"e{suffix}")
    assert found.cell_ids == [f"c{i}" for i in range(8)] and found.meta == result.meta
    same(result.tables["genes"], found.tables["genes"])
    if suffix == ".zarr":
        assert (tmp_path / "e.zarr" / (".zgroup" if version == 2 else "zarr.json")).is_file()


def test_a_zarr_that_was_not_consolidated(tmp_path):
    source = tmp_path / "counts.zarr"
    store_anndata(counts_of(), source)
    (source / ".zmetadata").unlink()
    write_result(result_of(cells_of()), tmp_path / "e.zarr", source=source)
    assert not (tmp_path / "e.zarr" / ".zmetadata").exists()
    assert read_anndata(tmp_path / "e.zarr").obsm["X_rankcell"].shape == (8, 5)


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_a_source_of_other_cells_or_of_another_format(tmp_path, suffix):
    source = tmp_path / f"counts{suffix}"
    store_anndata(counts_of(6), source)
    with pytest.raises(InputError, match=rf"counts\{suffix} has 6 cells and the embeddings 8"):
        write_result(result_of(cells_of()), tmp_path / f"e{suffix}", source=source)
    assert names_in(tmp_path) == [source.name]
    other = {".h5ad": ".zarr", ".zarr": ".h5ad"}[suffix]
    write_result(result_of(cells_of()), tmp_path / f"e{other}", source=source)
    assert read_anndata(tmp_path / f"e{other}").shape == (8, 0)


# what cannot be


def test_unknown_suffix(tmp_path):
    for refused, says in ((check_output, "are written as .* endings"), (read_embeddings, "end in .* that rc.tl.embed wrote")):
        with pytest.raises(SettingsError, match=rf"e\.csv: embeddings {says.replace('.*', r'.h5ad, .zarr, .parquet, .npz, .npy, .*')}"):
            refused(tmp_path / "e.csv")
    with pytest.raises(OutputError, match="does not exist: make it first"):
        check_output(tmp_path / "none" / "e.npz")
    assert check_output(str(tmp_path / "E.NPZ")) == tmp_path / "E.NPZ"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_output_that_exists(tmp_path, suffix):
    out = tmp_path / f"e{suffix}"
    write_result(result_of(cells_of(4)), out)
    for refused in (lambda: check_output(out), lambda: write_result(result_of(cells_of()), out)):
        with pytest.raises(OutputError, match="exists: choose another output, or pass force=True to replace it"):
            refused()
    write_result(result_of(cells_of()), out, force=True)
    assert read_embeddings(out).cell_ids == IDS


def test_side_files_that_exist(tmp_path):
    for name in ("e.cells.txt", "e.json", "f.genes.parquet"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=r"e\.cells\.txt exists"):
        check_output(tmp_path / "e.npy")
    (tmp_path / "e.cells.txt").unlink()
    with pytest.raises(OutputError, match=r"e\.json exists"):
        check_output(tmp_path / "e.npy")
    check_output(tmp_path / "f.parquet", tables=["cells"])
    with pytest.raises(OutputError, match=r"f\.genes\.parquet exists"):
        check_output(tmp_path / "f.parquet", tables=["cells", "genes"])
    write_result(result_of(cells_of()), tmp_path / "f.parquet", force=True)
    assert (tmp_path / "f.genes.parquet").read_text() == "mine"  # not ours, so it stays


def test_a_folder_that_is_not_ours_is_never_replaced(tmp_path):
    store_anndata(counts_of(), tmp_path / "e.zarr")
    with pytest.raises(OutputError, match="holds something else"):
        write_result(result_of(cells_of()), tmp_path / "e.zarr", force=True)
    (tmp_path / "f.zarr").write_text("a file")
    with pytest.raises(OutputError, match="is a file"):
        check_output(tmp_path / "f.zarr", force=True)


def test_npy_holds_one_vector(tmp_path):
    out = tmp_path / "e.npy"
    with pytest.raises(
        SettingsError, match=r"one vector of every cell, and there are 2: ask for one pooling and one layer, or write \.npz"
    ):
        check_output(out, n_vectors=2)
    with pytest.raises(SettingsError, match="no table of genes"):
        check_output(out, tables=["cells", "genes"])
    with pytest.raises(SettingsError, match="and there are 2"):
        write_result(result_of(cells_of(vectors=("mean_layer-2", "cls_layer0"))), out)
    with pytest.raises(SettingsError, match="no table of states"):
        write_result(result_of(others_of()[2]), out)
    for name in ("a\nb", "a\rb"):
        with pytest.raises(CellError, match=r"'a\\[nr]b', holds a line break"):
            write_result(result_of(in_blocks("cells", {"cell_id": ["x", name], "mean_layer-2": np.ones((2, 2))})), out)
    assert names_in(tmp_path) == []


def test_results_that_no_run_gives(tmp_path):
    vectors = {"mean_layer-2": np.ones((2, 2))}
    for tables in ([], [in_blocks("cells", vectors)], [in_blocks("cells", {"cell_id": ["a", "b"], "n": np.arange(2)} | vectors)]):
        with pytest.raises(ValueError):
            write_result(result_of(*tables), tmp_path / "e.npz")
    whole = cells_of()
    short = Table("cells", 9, whole.columns, whole.blocks)
    for suffix in SUFFIXES:
        with pytest.raises(ValueError, match="gave 8 rows instead of 9|rows instead"):
            write_result(result_of(short), tmp_path / f"e{suffix}")
    wrong = Table("cells", 8, (Column("cell_id", "text"), Column("mean_layer-2", "float32", 6)), whole.blocks)
    with pytest.raises(ValueError, match="width 6"):
        write_result(result_of(wrong), tmp_path / "e.npz")
    assert names_in(tmp_path) == []


# failures


def failing(table, after=2):
    """The same table, whose blocks stop with an error, in the walk over its vectors."""

    def blocks(names):
        for i, block in enumerate(table.blocks(names)):
            if i == after and any(table.column(n).width for n in names):
                raise RuntimeError("the model stopped")
            yield block

    return Table(table.name, table.n_rows, table.columns, blocks)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failure_leaves_nothing(tmp_path, suffix):
    out = tmp_path / f"e{suffix}"
    tables = [failing(cells_of())] if suffix == ".npy" else [cells_of(), failing(others_of()[0])]
    with pytest.raises(RuntimeError, match="the model stopped"):
        write_result(result_of(*tables), out)
    assert names_in(tmp_path) == []
    before = result_of(cells_of(4)) if suffix == ".npy" else result_of(cells_of(4), others_of(10)[0])
    written = write_result(before, out)
    kept = {p.name: files_of(p) for p in written}
    with pytest.raises(RuntimeError, match="the model stopped"):
        write_result(result_of(*tables), out, force=True)
    assert {p.name: files_of(p) for p in tmp_path.iterdir()} == kept


FULL = """
    import pathlib, resource, sys
    import numpy as np
    from rankcell.embed.stores import STORES, write_result
    from rankcell.embed.embedding_tables import Result, memory_table
    from rankcell.errors import OutputError

    here = pathlib.Path(sys.argv[1])
    cells = {"cell_id": [f"c{i}" for i in range(4000)], "mean_layer-2": np.random.default_rng(0).normal(size=(4000, 128))}
    result = Result({"cells": memory_table("cells", cells)}, {"outputs": {}})
    write_result(result, here / "before.h5ad")  # what is imported late is compiled before the limit
    write_result(result, here / "before.zarr")
    before = sorted(here.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
    for suffix in STORES:
        try:
            write_result(result, here / f"e{suffix}")
        except OutputError as e:
            print(suffix, str(e).replace(str(here), ""))
        assert sorted(here.iterdir()) == before, suffix
"""


def run(script, *args):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, args)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [line.split(maxsplit=1) for line in done.stdout.splitlines()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of files as Linux does")
def test_a_file_that_cannot_grow(tmp_path):
    """The system's refusal to write comes out as one line in every format (a full disk takes the same way)."""
    said = dict(run(FULL, tmp_path))
    assert list(said) == SUFFIXES
    assert all(line.startswith(f"/e{suffix} cannot be written: ") for suffix, line in said.items()), said


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_cannot_be_read(tmp_path, suffix):
    out = tmp_path / f"e{suffix}"
    with pytest.raises(InputError, match="does not exist"):
        read_embeddings(out)
    write_result(result_of(cells_of(2000, width=64)), out)
    if suffix == ".zarr":
        next(p for p in (out / "obsm" / "X_rankcell").iterdir() if not p.name.startswith(".")).unlink()
    else:
        size = out.stat().st_size
        with open(out, "r+b") as f:
            f.truncate(size // 2)
    with pytest.raises(InputError, match=rf"e\{suffix} is (broken|truncated)"):
        read_embeddings(out)
    shutil.rmtree(out) if out.is_dir() else out.unlink()
    out.mkdir() if suffix == ".zarr" else out.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=rf"e\{suffix}"):
        read_embeddings(out)
    out.rmdir() if suffix == ".zarr" else out.unlink()
    out.write_bytes(b"") if suffix == ".zarr" else out.mkdir()
    with pytest.raises(InputError, match="is a (file|folder)"):
        read_embeddings(out)


def test_files_of_others(tmp_path):
    from safetensors.numpy import save_file

    pq.write_table(pa.table({"cell_id": ["a"]}), tmp_path / "e.parquet")
    np.savez(tmp_path / "e.npz", x=np.ones(2))
    save_file({"x": np.ones(2)}, tmp_path / "e.safetensors")
    with contextlib.closing(sqlite3.connect(tmp_path / "e.sqlite")) as db:
        db.execute("CREATE TABLE meta (key, value)")
    ad.AnnData(np.ones((2, 2))).write_h5ad(tmp_path / "e.h5ad")
    store_anndata(ad.AnnData(np.ones((2, 2))), tmp_path / "e.zarr")
    for suffix in SEVERAL:
        with pytest.raises(InputError, match="did not write|holds no embeddings"):
            read_embeddings(tmp_path / f"e{suffix}")
    np.save(tmp_path / "e.npy", np.ones(2))
    with pytest.raises(InputError, match=r"e\.cells\.txt, which belongs to .*, is not there"):
        read_embeddings(tmp_path / "e.npy")


# memory


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_blocks_are_let_go(tmp_path, suffix, monkeypatch):
    """However many blocks there are, a few are alive at a time, and each walk takes them one by one."""
    monkeypatch.setattr("rankcell.embed.stores.parquet._GROUP", 4096)
    monkeypatch.setattr("rankcell.embed.stores.zarr._CHUNK", 4096)
    alive, most = set(), []

    def blocks(names):
        for i in range(60):
            values = np.full((50, 8), i, np.float32)
            alive.add(i)
            most.append(len(alive))
            weakref.finalize(values, alive.discard, i)
            ids = pa.array([f"c{i}-{j}" for j in range(50)])
            block = {n: ids if n == "cell_id" else values for n in names}
            del values, ids
            yield block
            del block

    table = Table("cells", 3000, (Column("cell_id", "text"), Column("mean_layer-2", "float32", 8)), blocks)
    write_result(result_of(table), tmp_path / f"e{suffix}")
    assert max(most) <= 3
    assert read_embeddings(tmp_path / f"e{suffix}").columns["mean_layer-2"][:, 0].tolist() == np.repeat(np.arange(60), 50).tolist()


PEAK = """
    import contextlib, pathlib, sys
    import numpy as np
    import pyarrow as pa
    from rankcell.embed.stores import STORES, write_result
    from rankcell.embed.embedding_tables import Column, Result, Table

    def of(n, n_vectors):
        names = [f"mean_layer-{i}" for i in range(n_vectors)]
        width = 1024 // n_vectors

        def blocks(asked):
            rng = np.random.default_rng(0)
            for start in range(0, n, 500):
                ids = pa.array([f"cell-{i}" for i in range(start, start + 500)])
                yield {k: ids if k == "cell_id" else rng.random((500, width), np.float32) for k in asked}

        columns = [Column("cell_id", "text"), *(Column(name, "float32", width) for name in names)]
        return Result({"cells": Table("cells", n, tuple(columns), blocks)}, {"outputs": {}})

    def peak():
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 1024

    here = pathlib.Path(sys.argv[1])
    for suffix in STORES:
        vectors = 1 if suffix == ".npy" else 2
        write_result(of(1000, vectors), here / f"small{suffix}")
        with contextlib.suppress(OSError):
            pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is what is used now
        before = peak()
        write_result(of(50_000, vectors), here / f"large{suffix}")
        print(suffix, peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for the peak of the memory")
def test_memory_is_bounded(tmp_path):
    """200 MB of vectors go through less than 60 MB."""
    found = {suffix: float(mb) for suffix, mb in run(PEAK, tmp_path)}
    assert list(found) == SUFFIXES and all(mb < 60 for mb in found.values()), found
    assert (tmp_path / "large.npy").stat().st_size > 200e6


SMALL_WORLD = """
    import sys

    import importlib.machinery, pathlib, types

    ABSENT = {"h5py", "anndata", "zarr", "pandas", "safetensors", "scipy", "numba", "torch", "transformers"}
    find = importlib.machinery.PathFinder.find_spec

    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else find(name, path, target)

    importlib.machinery.PathFinder.find_spec = staticmethod(find_spec)

    root = pathlib.Path("rankcell/embed").resolve()
    package = types.ModuleType("rankcell.embed")  # without the models
    package.__path__ = [str(root)]
    sys.modules["rankcell.embed"] = package
    import numpy as np
    from rankcell.embed.stores import read_embeddings, write_result
    from rankcell.embed.embedding_tables import Result, memory_table

    here = pathlib.Path(sys.argv[1])
    cells = memory_table("cells", {"cell_id": ["a", "b"], "mean_layer-2": np.ones((2, 3))})
    for suffix in (".parquet", ".npz", ".npy", ".sqlite"):
        write_result(Result({"cells": cells}, {}), here / f"e{suffix}")
        assert read_embeddings(here / f"e{suffix}").cell_ids == ["a", "b"]
    write_result(Result({"cells": cells}, {}), here / "e.safetensors")
    print("done")
"""


def test_numpy_and_pyarrow_are_enough(tmp_path):
    assert run(SMALL_WORLD, tmp_path) == [["done"]]
