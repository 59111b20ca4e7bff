"""The same cells give the same rows, whatever the format, compression, block size and number of threads."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from builders import make_vocab
from count_files import COMPRESSIONS, Counts, store_zarr, write_h5ad, write_loom, write_mtx, write_tenx, write_zarr
from flat_options import tokens_of_flat
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rankcell.counts import find_inputs, open_counts
from rankcell.counts.io import hdf5, hdf5dense, spill
from rankcell.errors import CellError, CountsError, InputError, OutputError, RankcellWarning

pytestmark = pytest.mark.filterwarnings("ignore::rankcell.errors.RankcellWarning")  # cells without genes


def tokens_of(source, **how):
    found = tokens_of_flat(make_vocab(40), source, keep_counts=True, **how)
    return found.table.to_pydict()


def every_file(counts, folder, *, some=None):
    """(name, path) of the counts in each format."""
    for kind in ("csr", "csc", "dense"):
        for compression in COMPRESSIONS:
            yield f"h5ad {kind} {compression}", lambda p, k=kind, c=compression: write_h5ad(counts, p / "x.h5ad", kind=k, compression=c)
    for kind in ("csr", "csc", "dense"):
        for version in (2, 3):
            yield f"zarr v{version} {kind}", lambda p, k=kind, v=version: write_zarr(counts, p / "x.zarr", kind=k, version=v)
    yield "zarr zip", lambda p: write_zarr(counts, p / "x.zarr", zipped=True)
    for compression in ("none", "gzip", "shuffle", "lzf"):
        yield f"loom {compression}", lambda p, c=compression: write_loom(counts, p / "x.loom", compression=c, chunks=(5, 3))
    yield "10x v3", lambda p: write_tenx(counts, p / "x.h5")
    yield "10x v2", lambda p: write_tenx(counts, p / "x.h5", version=2)
    yield "10x v3 antibodies", lambda p: write_tenx(counts, p / "x.h5", antibodies=2)
    yield "mtx by cell", lambda p: write_mtx(counts, p / "m")
    yield "mtx by gene", lambda p: write_mtx(counts, p / "m", by_cell=False, zipped=False, old=True)
    yield "mtx antibodies", lambda p: write_mtx(counts, p / "m", antibodies=1, field="real")


N_FORMATS = 21 + 6 + 1 + 4 + 6


@st.composite
def cases(draw):
    """Small matrices with entries in any order, several times, and explicit zeros; which formats hold them, and how they are read."""
    cells, genes = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    entry = st.tuples(st.integers(0, cells - 1), st.integers(0, genes - 1), st.sampled_from([0, 1, 2, 3, 200]))
    entries = sorted(draw(st.lists(entry, max_size=30)), key=lambda e: e[0])
    indptr = np.searchsorted([e[0] for e in entries], np.arange(cells + 1))
    csr = sp.csr_matrix(
        (np.array([e[2] for e in entries], np.float32), np.array([e[1] for e in entries], np.int32), indptr), shape=(cells, genes)
    )
    names = draw(
        st.lists(st.text("aé細胞🧬 -_", min_size=1, max_size=6).map(str.strip).filter(bool), min_size=cells, max_size=cells, unique=True)
    )
    which = draw(st.lists(st.integers(0, N_FORMATS - 1), min_size=6, max_size=6, unique=True))
    return csr, names, which, draw(st.sampled_from([None, 1, 2, 100])), draw(st.sampled_from([1, 3]))


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(cases())
@example((sp.csr_matrix(np.ones((1, 1), np.float32)), ["é"], list(range(N_FORMATS)), None, 1))
@example((sp.csr_matrix(np.zeros((3, 4), np.float32)), ["a", "b", "c"], list(range(N_FORMATS)), 2, 3))
@example((sp.csr_matrix(np.arange(63, dtype=np.float32).reshape(7, 9) % 5), list("abcdefg"), list(range(N_FORMATS)), None, 3))
def test_same_rows_from_every_format(tmp_path_factory, case):
    csr, names, which, rows_per_block, workers = case
    counts = Counts(csr, cells=names)
    with_sums = sp.csr_matrix(counts.dense)
    expected = tokens_of(Counts(with_sums, cells=names).adata())
    folder = tmp_path_factory.mktemp("f")
    formats = list(every_file(counts, folder))
    assert len(formats) == N_FORMATS
    for n in which:
        name, write = formats[n]
        place = folder / str(n)
        place.mkdir()
        found = tokens_of(write(place), rows_per_block=rows_per_block, workers=workers)
        assert found == expected, name


def test_a_larger_matrix(tmp_path, monkeypatch):
    """More than one chunk, block, bucket and text block."""
    rng = np.random.default_rng(1)
    counts = Counts(
        sp.csr_matrix(rng.poisson(0.4, (150, 37)) * rng.integers(1, 9, (150, 37))), n_counts=rng.integers(50, 90, 150).astype(np.float32)
    )
    expected = tokens_of(counts.adata())
    without = tokens_of(Counts(counts.csr).adata())
    monkeypatch.setattr(spill, "BUCKET_ENTRIES", 100)
    monkeypatch.setattr(spill, "WALK_ENTRIES", 33)
    monkeypatch.setattr(hdf5dense, "_AT_ONCE", 300)
    monkeypatch.setattr("rankcell.counts.io.mtx._BLOCK", 500)
    for n, (name, write) in enumerate(every_file(counts, tmp_path)):
        place = tmp_path / str(n)
        place.mkdir()
        path = write(place)
        for rows_per_block in (None, 7):
            found = tokens_of(path, rows_per_block=rows_per_block, workers=2)
            assert found == (without if "10x" in name or "mtx" in name else expected), name


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.int64, np.uint64, np.float16, np.float32, np.float64, ">f4", ">i4", np.longdouble]
)
@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_number_types(tmp_path, dtype, kind):
    """Also those of another byte order, and those that no compiled loop knows."""
    x = np.random.default_rng(0).poisson(1, (9, 12))
    counts = Counts(sp.csr_matrix(x))
    path = write_h5ad(counts, tmp_path / "x.h5ad", kind=kind)
    with h5py.File(path, "r+") as f:
        where = "X" if kind == "dense" else "X/data"
        values = f[where][:]
        del f[where]
        f.create_dataset(where, data=values.astype(dtype), chunks=True, compression="gzip")
    expected = tokens_of(
        counts.adata(sp.csr_matrix(x.astype(np.float64 if np.dtype(dtype).itemsize > 4 or np.dtype(dtype).kind != "f" else np.float32)))
    )
    assert tokens_of(path) == expected


@pytest.mark.parametrize("chunks", [(1, 1), (4, 40), (150, 2), (3, 5), (150, 37)])
@pytest.mark.parametrize("layout", ["h5ad", "loom"])
def test_chunk_shapes(tmp_path, chunks, layout):
    x = np.random.default_rng(2).poisson(0.3, (150, 37)).astype(np.float32)
    x[3, 4] = -0.0
    counts = Counts(sp.csr_matrix(x))
    if layout == "loom":
        path = write_loom(counts, tmp_path / "x.loom", chunks=chunks[::-1])
    else:
        path = write_h5ad(counts, tmp_path / "x.h5ad", kind="dense", compression="shuffle", chunks=chunks)
    with open_counts(path) as source:
        assert isinstance(source.x, hdf5dense.ChunkedDense)
        parts = [source.x.rows(a, b) for a, b in source.ranges()]
        parts += [source.x.rows(*r) for r in ((3, 4), (149, 150), (2, 9))]
        at = [*source.ranges(), (3, 4), (149, 150), (2, 9)]
        for (a, b), (indptr, indices, data) in zip(at, parts, strict=True):
            expected = sp.csr_matrix(x[a:b])
            np.testing.assert_array_equal(indptr, expected.indptr)
            np.testing.assert_array_equal(indices, expected.indices)
            np.testing.assert_array_equal(data, expected.data)


@pytest.mark.parametrize("layout", ["h5ad", "loom", "zarr"])
def test_chunks_of_too_many_cells(tmp_path, monkeypatch, layout):
    """A dense matrix in chunks of whole columns is sorted by way of scratch files."""
    monkeypatch.setattr(spill, "MOST_TOGETHER", 400)
    monkeypatch.setattr(spill, "WALK_ENTRIES", 100)
    counts = Counts(sp.csr_matrix(np.random.default_rng(2).poisson(0.3, (150, 37)).astype(np.float32)))
    if layout == "h5ad":
        path = write_h5ad(counts, tmp_path / "x.h5ad", kind="dense", compression="gzip", chunks=(150, 2))
    elif layout == "loom":
        path = write_loom(counts, tmp_path / "x.loom", chunks=(2, 150))
    else:
        path = write_zarr(counts, tmp_path / "x.zarr", kind="dense")
    with open_counts(path) as source:
        assert isinstance(source.x, spill.SpilledMatrix)
    assert tokens_of(path) == tokens_of(counts.adata())


def test_chunks_that_were_never_written(tmp_path):
    """They hold the fill value."""
    with h5py.File(tmp_path / "x.h5", "w") as f:
        d = f.create_dataset("d", (100,), "i4", chunks=(10,), compression="gzip", fillvalue=3)
        d[35:42] = 9
        e = f.create_dataset("e", (40, 30), "f4", chunks=(8, 8), compression="gzip")
        e[20, 20] = 5
    with h5py.File(tmp_path / "x.h5", "r") as f:
        assert hdf5.chunks_of(f["d"]) is not None
        np.testing.assert_array_equal(hdf5.Hdf5Vector(f["d"]).read(0, 100), f["d"][:])
        indptr, indices, data = hdf5dense.dense_dataset(f["e"]).rows(0, 40)
        assert (indptr[20], indptr[21], indices.tolist(), data.tolist()) == (0, 1, [20], [5.0])


def test_the_index_of_chunks_is_the_librarys(tmp_path):
    """Read from the file where it has the old form, asked for where it has the new one."""
    from rankcell.counts.io.hdf5index import chunk_index

    for libver in ("earliest", "latest"):
        with h5py.File(tmp_path / "x.h5", "w", libver=libver) as f:
            f.create_dataset("d", data=np.arange(70 * 90).reshape(70, 90), chunks=(3, 2), compression="gzip", maxshape=(None, None))
            f.create_dataset("e", (10, 10), "f4", chunks=(2, 2))
        with h5py.File(tmp_path / "x.h5", "r") as f:
            chunks = hdf5.chunks_of(f["d"])
            assert (chunk_index(f["d"], chunks.fd) is not None) == (libver == "earliest")
            for i in range(f["d"].id.get_num_chunks()):
                info = f["d"].id.get_chunk_info(i)
                at = tuple(o // c for o, c in zip(info.chunk_offset, (3, 2), strict=True))
                assert (chunks.offset[at], chunks.size[at]) == (info.byte_offset, info.size)


def test_without_isal(tmp_path, monkeypatch):
    counts = Counts(sp.csr_matrix(np.random.default_rng(0).poisson(1, (30, 20))))
    write_loom(counts, tmp_path / "x.loom")
    write_mtx(counts, tmp_path / "m")
    with_isal = [tokens_of(tmp_path / "x.loom"), tokens_of(tmp_path / "m")]
    for name in ("isal", "isal.isal_zlib", "isal.igzip"):
        monkeypatch.setitem(sys.modules, name, None)
    assert [tokens_of(tmp_path / "x.loom"), tokens_of(tmp_path / "m")] == with_isal


@pytest.mark.parametrize("compression", ["blosc", "zstd", "lz4"])
def test_without_hdf5plugin(tmp_path, compression):
    """In a process of its own: filters stay once they are known."""
    path = write_h5ad(Counts(sp.csr_matrix(np.eye(5))), tmp_path / "x.h5ad", compression=compression)
    script = f"""
        import sys
        sys.modules["hdf5plugin"] = None
        from rankcell.counts import open_counts
        from rankcell.errors import InputError
        try:
            open_counts({str(path)!r})
        except InputError as e:
            print(e)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=600, check=True)
    assert done.stdout.startswith(f"{path}: /X/") and "pip install hdf5plugin" in done.stdout and done.stdout.count("\n") == 1


# loom


def loom(tmp_path, **more):
    counts = Counts(sp.csr_matrix(np.random.default_rng(0).poisson(1, (6, 12))))
    path = write_loom(counts, tmp_path / "x.loom")
    with h5py.File(path, "r+") as f:
        for name, values in more.items():
            if name in f["col_attrs"]:
                del f["col_attrs"][name]
            if values is not None:
                f["col_attrs"][name] = values
    return counts, path


def test_loom_attributes(tmp_path):
    attributes = {
        "number": np.arange(6, dtype=np.float32),
        "fixed": np.array([b"a", b"bb"] * 3),
        "escaped": np.array([b"T&amp;B", b"&#233;"] * 3),
        "pca": np.ones((6, 2)),
        "n_counts": np.arange(1, 7, dtype=np.float32),
    }
    _, path = loom(tmp_path, **attributes)
    with open_counts(path) as source:
        assert source.format == "loom" and source.matrix == "matrix"
        assert source.obs("number").to_pylist() == [0, 1, 2, 3, 4, 5] and source.obs("number").type == "float"
        assert source.obs("fixed").to_pylist() == ["a", "bb"] * 3
        assert source.obs("escaped").to_pylist() == ["T&B", "é"] * 3
        assert source.n_counts.dtype == np.float32
        with pytest.raises(InputError, match="'pca' holds a table or records"):
            source.require_obs("pca")
        with pytest.raises(CellError, match="no cell column 'x'"):
            source.require_obs("x")


@pytest.mark.parametrize("name", ["CellID", "obs_names", "cell_id", "barcodes", "Barcode", "cell_names", "index", None])
def test_loom_cell_ids(tmp_path, name):
    ids = np.array([f"é{i}" for i in range(6)], h5py.string_dtype())
    _, path = loom(tmp_path, **({"CellID": None} | ({} if name is None else {name: ids})))
    with open_counts(path) as source:
        assert source.has_cell_ids == (name is not None)
        assert source.cell_ids == ([f"é{i}" for i in range(6)] if name else [str(i) for i in range(6)])


def test_loom_layers(tmp_path):
    counts, path = loom(tmp_path)
    with h5py.File(path, "r+") as f:
        f["layers/counts"] = f["matrix"][:]
        f["matrix"][:] = np.log1p(f["matrix"][:])
    assert tokens_of(path, counts_layer="counts") == tokens_of(counts.adata())
    with pytest.warns(RankcellWarning, match="layer 'counts', which holds counts, is read in its place"):
        assert tokens_of(path) == tokens_of(counts.adata())
    with pytest.raises(InputError, match="no layer 'spliced'; it has counts"):
        tokens_of(path, counts_layer="spliced")
    with pytest.raises(InputError, match="no raw matrix"):
        tokens_of(path, raw=True)


def test_loom_by_loompy(tmp_path):
    import loompy

    x = np.random.default_rng(0).poisson(0.5, (130, 40))
    counts = Counts(sp.csr_matrix(x), cells=[f"Zellé{i}" for i in range(130)])
    rows = {"Gene": np.array(counts.genes), "Accession": np.array(counts.ids)}
    loompy.create(str(tmp_path / "x.loom"), x.T.astype(np.float32), rows, {"CellID": np.array(counts.cells)})
    before = (tmp_path / "x.loom").read_bytes()
    assert tokens_of(tmp_path / "x.loom") == tokens_of(counts.adata())
    assert (tmp_path / "x.loom").read_bytes() == before


# zarr


def test_zarr_sharded_and_unconsolidated(tmp_path):
    import zarr

    counts = Counts(sp.csr_matrix(np.random.default_rng(0).poisson(1, (50, 30)).astype(np.float32)))
    expected = tokens_of(counts.adata())
    path = write_zarr(counts, tmp_path / "x.zarr", kind="dense")
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    attributes = dict(root["X"].attrs)
    del root["X"]
    x = root.create_array("X", shape=(50, 30), chunks=(5, 10), shards=(20, 30), dtype="f4", attributes=attributes)
    x[:] = counts.dense
    facts = json.loads((path / "zarr.json").read_text())
    facts.pop("consolidated_metadata")
    (path / "zarr.json").write_text(json.dumps(facts))
    assert tokens_of(path) == expected


def test_zarr_columns(tmp_path):
    counts = Counts(sp.csr_matrix(np.eye(4, 12)), cells=list("abcd"))
    adata = counts.adata()
    adata.obs["kind"] = pd.Categorical(["x", "y", None, "x"])
    adata.obs["maybe"] = pd.array([1, None, 3, 4], "Int64")
    adata.obs["note"] = ["é", "b", "c", "d"]
    for version in (2, 3):
        store_zarr(adata, tmp_path / f"{version}.zarr", version=version)
        with open_counts(tmp_path / f"{version}.zarr") as source:
            assert source.obs("kind").to_pylist() == ["x", "y", None, "x"]
            assert source.obs("maybe").to_pylist() == [1, None, 3, 4]
            assert source.obs("note").to_pylist() == ["é", "b", "c", "d"]


def test_zarr_that_is_none(tmp_path):
    import zarr

    (tmp_path / "a.zarr").mkdir()
    zarr.create_group(tmp_path / "b.zarr").create_array("x", shape=(2,), dtype="i4")
    (tmp_path / "c.zarr.zip").write_bytes(b"nothing")
    for name, message in {
        "a.zarr": "not a readable zarr",
        "b.zarr": "not an AnnData.*it holds x",
        "c.zarr.zip": "not a readable zarr",
    }.items():
        with pytest.raises(InputError, match=message):
            open_counts(tmp_path / name)


# 10x


def test_tenx_as_scanpy_reads_it(tmp_path):
    import scanpy as sc

    counts = Counts(sp.csr_matrix(np.random.default_rng(0).poisson(1, (20, 12))))
    for version in (3, 2):
        path = write_tenx(counts, tmp_path / f"v{version}.h5", version=version, antibodies=2 if version == 3 else 0)
        assert tokens_of(path) == tokens_of(sc.read_10x_h5(path))
    folder = write_mtx(counts, tmp_path / "m", antibodies=1)
    assert tokens_of(folder) == tokens_of(sc.read_10x_mtx(folder))


def test_tenx_with_several_genomes(tmp_path):
    counts = Counts(sp.csr_matrix(np.random.default_rng(0).poisson(1, (5, 12))))
    path = write_tenx(counts, tmp_path / "x.h5", version=2)
    with h5py.File(path, "r+") as f:
        f.copy("GRCh38", "mm10")
    with pytest.raises(InputError, match="several genomes: name one with genome: GRCh38, mm10"):
        open_counts(path)
    with pytest.raises(InputError, match="no genome 'hg19'; it has GRCh38, mm10"):
        open_counts(path, layer="hg19")
    assert tokens_of(path, counts_layer="mm10") == tokens_of(counts.adata())


def test_tenx_without_genes_and_with_large_counts(tmp_path):
    counts = Counts(sp.csr_matrix(np.ones((3, 12))))
    path = write_tenx(counts, tmp_path / "x.h5")
    with h5py.File(path, "r+") as f:
        f["matrix/data"][1] = 2**24 + 1
    with pytest.raises(CountsError, match="16,777,217, which is no exact float32"):
        tokens_of(path)
    folder = write_mtx(counts, tmp_path / "m", zipped=False)
    text = (folder / "matrix.mtx").read_text()
    (folder / "matrix.mtx").write_text(text.replace("\n2 1 1\n", "\n2 1 16777217\n"))
    with pytest.raises(CountsError, match="16,777,217, which is no exact float32"):
        tokens_of(folder)
    with h5py.File(path, "r+") as f:
        f["matrix/features/feature_type"][:] = b"Peaks"
    with pytest.raises(InputError, match="no gene expression: its features are of the type Peaks"):
        open_counts(path)


def test_hdf5_formats_by_content(tmp_path):
    """Whatever the name says."""
    counts = Counts(sp.csr_matrix(np.eye(3, 12)))
    for write, kind in ((write_h5ad, "h5ad"), (write_loom, "loom"), (write_tenx, "10x h5")):
        for suffix in (".h5", ".hdf5", ".h5ad", ".loom", ".data"):
            path = write(counts, tmp_path / f"x{suffix}")
            with open_counts(path) as source:
                assert source.format == kind
            path.unlink()
    with h5py.File(tmp_path / "x.h5", "w") as f:
        f["some/thing"], f["other"] = [1], [2]
    with pytest.raises(InputError, match="no known layout: it holds other, some; an h5ad has obs and var, a loom"):
        open_counts(tmp_path / "x.h5")


def test_folders_of_files(tmp_path):
    counts = Counts(sp.csr_matrix(np.eye(3, 12)))
    write_h5ad(counts, tmp_path / "a.h5ad")
    write_loom(counts, tmp_path / "b.loom")
    write_zarr(counts, tmp_path / "c.zarr")
    write_mtx(counts, tmp_path / "d")
    write_tenx(counts, tmp_path / "e.h5")
    (tmp_path / "notes.txt").write_text("no counts")
    found = find_inputs(tmp_path)
    assert found.labels == ("a", "b", "c", "d", "e") and found.several
    for one in ("c.zarr", "d"):
        assert not find_inputs(tmp_path / one).several
    assert len(tokens_of(tmp_path, allow_repeated_cells=True)["cell_id"]) == 15


# mtx


def test_mtx_names(tmp_path):
    counts = Counts(sp.csr_matrix(np.random.default_rng(0).poisson(1, (5, 12))))
    expected = tokens_of(counts.adata())
    folder = write_mtx(counts, tmp_path / "geo", prefix="GSM1_")
    assert tokens_of(folder) == tokens_of(folder / "GSM1_matrix.mtx.gz") == expected
    write_mtx(counts, tmp_path / "geo", prefix="GSM2_")
    assert tokens_of(folder / "GSM2_matrix.mtx.gz") == expected
    assert find_inputs(folder).labels == ("GSM1_matrix", "GSM2_matrix")
    plain = write_mtx(counts, tmp_path / "plain", zipped=False)
    assert tokens_of(plain / "matrix.mtx") == expected
    with pytest.raises(InputError, match=r"leave out rc\.Counts\(counts_layer=\.\.\.\) and rc\.Counts\(raw=\.\.\.\)"):
        tokens_of(plain, counts_layer="x")


@pytest.mark.parametrize(
    "change", [str.upper, lambda s: s.replace(" ", "\t"), lambda s: s.replace(" ", "   "), lambda s: s.replace("\n", "\r\n")]
)
def test_mtx_spelled_otherwise(tmp_path, change):
    counts = Counts(sp.csr_matrix(np.random.default_rng(0).poisson(1, (5, 12))))
    folder = write_mtx(counts, tmp_path / "m", zipped=False)
    head, rest = (folder / "matrix.mtx").read_text().split("\n", 1)
    (folder / "matrix.mtx").write_bytes((head + "\n" + change(rest)).encode())
    assert tokens_of(folder) == tokens_of(counts.adata())


def test_mtx_pattern(tmp_path):
    counts = Counts(sp.csr_matrix(np.eye(5, 12)))
    folder = write_mtx(counts, tmp_path / "m", zipped=False, field="pattern")
    text = (folder / "matrix.mtx").read_text().replace(" 1\n", "\n")
    (folder / "matrix.mtx").write_text(text.replace("12 5\n", "12 5 5\n") if "12 5 5\n" not in text else text)
    assert tokens_of(folder) == tokens_of(counts.adata())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("coordinate", "array", "of the kind 'array integer general'"),
        ("general", "symmetric", "integer symmetric"),
        ("%%MatrixMarket", "%%Other", "not a MatrixMarket file"),
        ("12 5 ", "12 ", "three whole numbers"),
        ("12 5 ", "13 5 ", "13 features x 5 cells, but features.tsv has 12 lines and barcodes.tsv 5"),
        ("12 5 60", "12 5 61", "says that it has 61 entries and has 60"),
        ("\n1 1 ", "\n13 1 ", "refers to feature 13; there are 1 to 12"),
        ("\n1 1 ", "\n1 0 ", "refers to cell 0; there are 1 to 5"),
        ("\n1 1 ", "\n1 1.5 ", "could not be read"),
        ("\n1 1 ", "\n1 1 x", "could not be read"),
    ],
)
def test_mtx_that_is_wrong(tmp_path, old, new, message):
    counts = Counts(sp.csr_matrix(np.ones((5, 12))))
    folder = write_mtx(counts, tmp_path / "m", zipped=False)
    text = (folder / "matrix.mtx").read_text()
    assert old in text
    (folder / "matrix.mtx").write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as e:
        tokens_of(folder)
    assert "\n" not in str(e.value)


def test_mtx_without_its_lists(tmp_path):
    folder = write_mtx(Counts(sp.csr_matrix(np.eye(5, 12))), tmp_path / "m")
    (folder / "features.tsv.gz").unlink()
    with pytest.raises(InputError, match="has no features.tsv or genes.tsv .or .gz. beside it"):
        tokens_of(folder)
    (folder / "matrix.mtx.gz").unlink()
    with pytest.raises(InputError, match="without count files"):
        tokens_of(folder)


# AnnData


def stores(x):
    """Every kind of matrix that an AnnData may hold."""
    import dask.array as da

    yield "csr", sp.csr_matrix(x)
    yield "csc", sp.csc_matrix(x)
    yield "csr_array", sp.csr_array(x)
    yield "dense", x.copy()
    yield "fortran", np.asfortranarray(x)
    yield "dask dense", da.from_array(x, chunks=(4, -1))
    yield "dask tiles", da.from_array(x, chunks=(4, 5))
    yield "dask csr", da.from_array(x, chunks=(4, -1)).map_blocks(sp.csr_matrix)
    yield "dask csc", da.from_array(x, chunks=(-1, 5)).map_blocks(sp.csc_matrix)


def test_anndata_of_every_kind():
    x = np.random.default_rng(0).poisson(1, (23, 12)).astype(np.float32)
    x[3] = 0
    counts = Counts(sp.csr_matrix(x))
    expected, twice = tokens_of(counts.adata()), tokens_of(Counts(sp.csr_matrix(x * 2)).adata())
    for name, stored in stores(x):
        adata = counts.adata(stored)
        adata.layers["twice"] = next(v for n, v in stores(x * 2) if n == name)
        adata.raw = counts.adata(next(v for n, v in stores(x * 2) if n == name))
        before = adata.copy()
        for rows_per_block in (None, 5):
            assert tokens_of(adata, rows_per_block=rows_per_block, workers=2) == expected, name
            assert tokens_of(adata, rows_per_block=rows_per_block, counts_layer="twice") == twice, name
            assert tokens_of(adata, rows_per_block=rows_per_block, raw=True) == twice, name
        assert type(adata.X) is type(before.X) and (_dense(adata.X) == _dense(before.X)).all()
    view = counts.adata()[::2, 3:]
    assert tokens_of(view) == tokens_of(view.copy()) and view.is_view


def _dense(x):
    x = x.compute() if hasattr(x, "compute") else x
    return x.toarray() if sp.issparse(x) else np.asarray(x)


@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_backed_anndata(tmp_path, kind):
    x = np.random.default_rng(0).poisson(1, (23, 12)).astype(np.float32)
    counts = Counts(sp.csr_matrix(x))
    path = write_h5ad(counts, tmp_path / "x.h5ad", kind=kind, compression="gzip")
    before = path.read_bytes(), path.stat().st_mtime_ns
    adata = ad.read_h5ad(path, backed="r")
    assert tokens_of(adata) == tokens_of(counts.adata())
    assert tokens_of(adata[::3]) == tokens_of(counts.adata()[::3].copy())
    adata.file.close()
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


# The scratch file


def csc(n=200, seed=0):
    return Counts(sp.csr_matrix(np.random.default_rng(seed).poisson(0.5, (n, 30)).astype(np.float32)))


def test_scratch_is_sorted_once(tmp_path, monkeypatch):
    """Threads that ask first at the same time get the same file."""
    path = write_h5ad(csc(), tmp_path / "x.h5ad", kind="csc")
    calls, real = [], spill.SpilledMatrix._count_and_fill
    monkeypatch.setattr(spill, "BUCKET_ENTRIES", 50)
    monkeypatch.setattr(spill.SpilledMatrix, "_count_and_fill", lambda *a: calls.append(1) or real(*a))
    with open_counts(path) as source:
        gate, found = threading.Barrier(4), []

        def work():
            gate.wait()
            found.append(source.x.rows(0, 1))

        threads = [threading.Thread(target=work) for _ in range(4)]
        [t.start() for t in threads]
        [t.join() for t in threads]
    assert len(calls) == 1 and len(found) == 4
    assert all((f[1] == found[0][1]).all() and (f[2] == found[0][2]).all() for f in found)


@pytest.mark.parametrize("make", ["csc", "mtx"])
def test_scratch_without_room(tmp_path, monkeypatch, make):
    path = write_h5ad(csc(), tmp_path / "x.h5ad", kind="csc") if make == "csc" else write_mtx(csc(), tmp_path / "m")
    monkeypatch.setattr(spill.tempfile, "tempdir", str(tmp_path))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutputError, match="disk is full.*scratch file.*TMPDIR names another") as e:
        tokens_of(path)
    assert str(tmp_path) in str(e.value) and "\n" not in str(e.value)


@pytest.mark.skipif(sys.platform != "linux", reason="a file without a name")
def test_nothing_is_left_after_kill(tmp_path):
    path = write_h5ad(csc(), tmp_path / "x.h5ad", kind="csc")
    (tmp_path / "scratch").mkdir()
    script = f"""
        import os, signal
        from rankcell.counts import open_counts
        source = open_counts({str(path)!r})
        source.ranges()
        fds = [os.readlink(f"/proc/self/fd/{{n}}") for n in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{{n}}")]
        print(sum("scratch" in f for f in fds), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True, text=True, timeout=600, check=False, env={**os.environ, "TMPDIR": str(tmp_path / "scratch")},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL and int(done.stdout) == 3, done.stderr
    assert list(pathlib.Path(tmp_path / "scratch").iterdir()) == []
