"""The same cells twice among the inputs: passed over in a folder of Cell Ranger's, refused elsewhere; other cells of the same ids are taken."""

import shutil

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from builders import make_vocab
from count_files import Counts, write_h5ad, write_loom, write_mtx, write_tenx, write_zarr
from flat_options import tokens_of_flat

from rankcell.cli import main
from rankcell.counts import find_inputs
from rankcell.errors import InputError, RankcellWarning

BARCODES = [f"AAC{i:03d}-1" for i in range(400)]


def cells(n=20, seed=0, genes=40, ids=BARCODES):
    return Counts(sp.csr_matrix(np.random.default_rng(seed).poisson(1.5, (n, genes)).astype(np.float32)), cells=ids[:n])


def tokens(source, **how):
    return tokens_of_flat(make_vocab(40), source, **how)


def molecules(path):
    with h5py.File(path, "w") as f:
        f["barcode_idx"], f["feature_idx"], f["count"] = [0, 1], [3, 4], [1, 1]


def probes(counts, path):
    write_tenx(counts, path)
    with h5py.File(path, "r+") as f:
        f["matrix/features/filtered_probes"] = np.ones(len(counts.genes), "u1")


@pytest.fixture
def outs(tmp_path):
    """A Cell Ranger folder: 20 called cells among 60 barcodes, as h5 and text, with what else lies there."""
    folder = tmp_path / "outs"
    folder.mkdir()
    everything = cells(60)
    called = Counts(everything.csr[:20], cells=BARCODES[:20])
    for name, counts in {"filtered": called, "raw": everything}.items():
        write_tenx(counts, folder / f"{name}_feature_bc_matrix.h5")
        write_mtx(counts, folder / f"{name}_feature_bc_matrix")
    molecules(folder / "molecule_info.h5")
    probes(everything, folder / "raw_probe_bc_matrix.h5")
    return folder, called


def test_outs_of_cell_ranger(outs):
    folder, called = outs
    with pytest.warns(RankcellWarning, match="raw_feature_bc_matrix.h5 .all barcodes, beside filtered_feature_bc_matrix.h5") as said:
        found = tokens(folder)
    assert len(found) == 20 and list(found.table["input_ids"].to_pylist()) == list(tokens(called.adata()).table["input_ids"].to_pylist())
    text = str(said[0].message)
    for passed in (
        "molecule_info.h5 (lists the molecules",
        "raw_probe_bc_matrix.h5 (holds counts of probes",
        "filtered_feature_bc_matrix (the cells of",
    ):
        assert passed in text
    assert "\n" not in text and "to read one of them, name it" in text


def test_what_the_filtered_one_is_chosen_from(tmp_path):
    """Raw alone is taken; sample_, v2, STARsolo; other samples' filtered matrices stand beside each other; patterns too."""
    everything, called = cells(60), cells(20)
    write_tenx(everything, tmp_path / "raw_feature_bc_matrix.h5")
    assert len(tokens(tmp_path)) == 60
    for style, make in {
        "sample_{}_feature_bc_matrix.h5": write_tenx,
        "{}_gene_bc_matrices_h5.h5": write_tenx,
        "{}": write_mtx,
        "S1_{}_feature_bc_matrix": write_mtx,
    }.items():
        folder = tmp_path / style.format("x").removesuffix(".h5")
        folder.mkdir()
        make(called, folder / style.format("filtered"))
        make(everything, folder / style.format("raw"))
        with pytest.warns(RankcellWarning, match="passed over"):
            assert [p.name for p in find_inputs(folder).items] == [style.format("filtered")]
    two = tmp_path / "two"
    for sample, seed in (("A", 1), ("B", 2)):
        (two / sample).mkdir(parents=True)
        write_tenx(cells(20, seed), two / sample / "sample_filtered_feature_bc_matrix.h5")
        write_tenx(cells(30, seed), two / sample / "sample_raw_feature_bc_matrix.h5")
        molecules(two / sample / "sample_molecule_info.h5")
    with pytest.warns(RankcellWarning, match="passed over"):
        found = tokens(str(two / "*" / "*.h5"))
    assert len(found) == 40  # the same barcodes, other cells


def test_nothing_but_other_files(tmp_path):
    molecules(tmp_path / "molecule_info.h5")
    with pytest.raises(InputError, match="holds no counts: passed over molecule_info.h5"):
        tokens(tmp_path)
    with pytest.raises(InputError, match="lists the molecules of a run .molecule_info. .*filtered_feature_bc_matrix.h5"):
        tokens(tmp_path / "molecule_info.h5")
    probes(cells(), tmp_path / "raw_probe_bc_matrix.h5")
    with pytest.raises(InputError, match="holds counts of probes.*not of genes"):
        tokens(tmp_path / "raw_probe_bc_matrix.h5")


def test_links_to_one_file(tmp_path):
    write_h5ad(cells(), tmp_path / "a.h5ad")
    (tmp_path / "0.h5ad").symlink_to("a.h5ad")
    with pytest.warns(RankcellWarning, match=r"0\.h5ad \(the same file as a\.h5ad\)"):
        assert find_inputs(tmp_path).labels == ("a",)


@pytest.mark.parametrize("kind", ["copy", "loom", "zarr", "mtx", "csc", "dense", "fewer genes", "fewer cells", "background", "by symbol"])
def test_copies_are_refused(tmp_path, kind, capsys):
    counts = cells()
    write_h5ad(counts, tmp_path / "a.h5ad")
    other = counts.adata()
    if kind == "copy":
        shutil.copy(tmp_path / "a.h5ad", tmp_path / "b.h5ad")
    elif kind in ("csc", "dense"):
        write_h5ad(counts, tmp_path / "b.h5ad", kind=kind)
    elif kind in ("loom", "zarr", "mtx"):
        {"loom": write_loom, "zarr": write_zarr, "mtx": write_mtx}[kind](counts, tmp_path / f"b{'' if kind == 'mtx' else '.' + kind}")
    else:
        part = {"fewer genes": np.s_[:, 5:], "fewer cells": np.s_[::3]}.get(kind, np.s_[:, :])
        other = other[part].copy()
        if kind == "background":
            x = other.X.toarray()
            x[:, 3] = 7
            other.X = sp.csr_matrix(x)
        if kind == "by symbol":
            other.var = pd.DataFrame(index=other.var_names)
        other.write_h5ad(tmp_path / "b.h5ad")
    with pytest.raises(
        InputError, match="hold the same cells .* cell ids are in both, with the same counts.*allow_repeated_cells=True"
    ) as e:
        tokens(tmp_path)
    assert "\n" not in str(e.value)
    assert len(tokens(tmp_path, allow_repeated_cells=True)) == 20 + (7 if kind == "fewer cells" else 20)
    make_vocab(40).save(tmp_path.parent / f"v{tmp_path.name}")
    out = tmp_path.parent / f"out{tmp_path.name}"
    assert main(["tokenize", str(tmp_path), "-o", str(out), "--vocab", str(tmp_path.parent / f"v{tmp_path.name}")]) == 2
    said = capsys.readouterr().err
    assert "--allow-repeated-cells" in said and said.count("\n") == 1 and not out.exists()


def test_other_cells_of_the_same_ids(tmp_path):
    """Numbers, default names, and barcodes that two runs share by chance."""
    for name, ids in {"numbers": [str(i) for i in range(50)], "barcodes": BARCODES}.items():
        folder = tmp_path / name
        folder.mkdir()
        for seed in (1, 2, 3):
            write_h5ad(cells(50, seed, ids=ids), folder / f"{seed}.h5ad")
        write_h5ad(cells(20, 1, ids=[f"x{i}" for i in range(17)] + ids[:3]), folder / "four.h5ad")
        assert len(tokens(folder)) == 170
    empty = Counts(sp.csr_matrix((20, 40), dtype=np.float32), cells=BARCODES[:20])
    (tmp_path / "empty").mkdir()
    for name in ("a", "b"):
        write_h5ad(empty, tmp_path / "empty" / f"{name}.h5ad")
    with pytest.warns(RankcellWarning, match="no gene"):
        assert len(tokens(tmp_path / "empty")) == 40


def test_anndata_in_memory():
    adata = cells().adata()
    with pytest.raises(InputError, match="hold the same cells"):
        tokens([adata, adata.copy()])
    assert len(tokens([adata, cells(seed=5).adata()])) == 40


@pytest.mark.parametrize("verb", ["build", "tally"])
def test_vocabularies(tmp_path, verb, capsys):
    """Refused at the door and not after the first pass."""
    for name, n in (("a", 20), ("b", 15)):
        write_h5ad(cells(n), tmp_path / f"{name}.h5ad")
    words = ["vocab", verb, str(tmp_path), "-o", str(tmp_path / ("v" if verb == "build" else "t.tally.parquet"))]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "hold the same cells" in said and "--allow-repeated-cells" in said and said.count("\n") == 1
    assert main([*words, "--allow-repeated-cells"]) == 0
    assert ad.read_h5ad(tmp_path / "a.h5ad").n_obs == 20
