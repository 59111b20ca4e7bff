"""A matrix of genes x cells is refused for what it is, in every format and by every verb; ordinary data are not taken for one."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from builders import make_checkpoint
from count_files import Counts, write_h5ad, write_loom, write_mtx, write_zarr
from flat_options import call

import rankcell as rc
from rankcell.cli.main import main
from rankcell.counts import open_counts
from rankcell.counts.genes.orientation import require_genes_in_columns
from rankcell.errors import GeneError, InputError, RankcellError
from rankcell.vocab import find_vocabulary

pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")  # anndata announces its own coming default
VOCAB = find_vocabulary("demo")
SAYS = "is genes x cells, not cells x genes"


def barcodes(n, suffix="-1"):
    letters = np.random.default_rng(1).choice(list("ACGT"), (n, 16))
    return ["".join(row) + suffix for row in letters]


def transposed(n_genes=60, n_cells=40, *, rows=None, columns=None):
    """Counts whose rows are genes."""
    counts = Counts(sp.csr_matrix(np.random.default_rng(0).poisson(1, (n_genes, n_cells))), cells=rows or VOCAB.genes[:n_genes])
    counts.genes = counts.ids = columns or barcodes(n_cells)
    return counts


WRITERS = {
    "h5ad": lambda c, folder: write_h5ad(c, folder / "x.h5ad"),
    "csc": lambda c, folder: write_h5ad(c, folder / "x.h5ad", kind="csc"),
    "loom": lambda c, folder: write_loom(c, folder / "x.loom"),
    "zarr": lambda c, folder: write_zarr(c, folder / "x.zarr"),
    "mtx": lambda c, folder: write_mtx(c, folder / "run"),
    "AnnData": lambda c, folder: c.adata(),
}


@pytest.mark.parametrize("rows", [VOCAB.genes[:60], VOCAB.symbols[:60]], ids=["ids", "symbols"])
@pytest.mark.parametrize("kind", WRITERS)
def test_it_is_refused_in_every_format(tmp_path, kind, rows):
    source = WRITERS[kind](transposed(rows=list(rows)), tmp_path)
    for how in ({"vocab": VOCAB}, {}):
        with pytest.raises(GeneError, match=SAYS) as e:
            call(rc.pp.tokenize, source, **how)
        assert "adata.T" in str(e.value) and rows[0] in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    "verb",
    [
        ["check"],
        ["check", "--vocab", "demo"],
        ["tokenize", "-o", "out"],
        ["tokenize", "-o", "out", "--vocab", "demo"],
        ["embed", "-o", "out.parquet", "--model", "m"],
        ["perturb", "-o", "out", "--model", "m", "--genes", "CD3D"],
        ["vocab", "build", "-o", "out"],
        ["vocab", "tally", "-o", "out.parquet"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
@pytest.mark.parametrize("columns", [barcodes(40), [f"cell {i}" for i in range(40)]], ids=["barcodes", "other names"])
def test_every_verb_says_so(tmp_path, monkeypatch, capsys, verb, columns):
    monkeypatch.chdir(tmp_path)
    write_h5ad(transposed(rows=list(VOCAB.symbols[:60]), columns=columns), tmp_path / "x.h5ad")
    make_checkpoint(tmp_path / "m", VOCAB)
    n = 2 if verb[0] == "vocab" else 1
    assert main([*verb[:n], "x.h5ad", *verb[n:]]) == 2
    out, err = capsys.readouterr()
    assert " ".join((out + err).split()).count(SAYS) == 1 and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_its_transpose_is_right(tmp_path):
    adata = transposed().adata()
    del adata.obs, adata.var  # a table of cells is no table of genes
    adata.obs_names, adata.var_names = VOCAB.genes[:60], barcodes(40)
    tokens = rc.pp.tokenize(adata.T, vocab=VOCAB)
    assert tokens.cell_ids == barcodes(40) and tokens.spec.source["genes_known"] == 60


def test_genes_in_a_cell_column_of_a_loom_turned_round(tmp_path):
    """Rows and columns change places with their attributes: there are no cell ids then."""
    path = tmp_path / "x.loom"
    with h5py.File(path, "w") as f:
        f["matrix"] = np.random.default_rng(0).poisson(1, (40, 60))
        f["row_attrs/CellID"] = np.array(barcodes(40, ""), "S")
        f["row_attrs/ClusterName"] = np.array(["T"] * 40, "S")
        f["col_attrs/Gene"], f["col_attrs/Accession"] = np.array(VOCAB.symbols[:60], "S"), np.array(VOCAB.genes[:60], "S")
        f.create_group("layers")
    with pytest.raises(GeneError, match=SAYS):
        open_counts(path)


def test_a_matrix_that_lies_across_its_own_names(tmp_path):
    counts = Counts(sp.csr_matrix(np.random.default_rng(0).poisson(1, (40, 60))))
    path = write_loom(counts, tmp_path / "x.loom")
    with h5py.File(path, "r+") as f:
        x = f["matrix"][:].T
        del f["matrix"]
        f["matrix"] = x
    folder = write_mtx(counts, tmp_path / "run", zipped=False)
    lines = (folder / "matrix.mtx").read_text().splitlines()
    swapped = [" ".join([g, c, *more]) for c, g, *more in map(str.split, lines[2:])]
    (folder / "matrix.mtx").write_text("\n".join([*lines[:2], *swapped, ""]))
    h5ad = write_h5ad(counts, tmp_path / "x.h5ad", kind="dense")
    with h5py.File(h5ad, "r+") as f:
        x = f["X"][:].T
        del f["X"]
        f["X"] = x
    for source, found in ((path, "cells x genes"), (folder, "cells x features"), (h5ad, "genes x cells")):
        with pytest.raises(InputError, match=f"the matrix is {found}, transpose it first"):
            open_counts(source)


def frame(rows, columns):
    x = sp.csr_matrix(np.random.default_rng(0).poisson(2, (len(rows), len(columns))).astype("f4"))
    return ad.AnnData(x, obs=pd.DataFrame(index=rows), var=pd.DataFrame(index=columns))


@pytest.mark.parametrize(
    "adata",
    [
        frame(barcodes(50), VOCAB.genes[:60]),
        frame([str(i) for i in range(50)], VOCAB.symbols[:60]),
        frame(VOCAB.symbols[60:120], VOCAB.genes[:60]),  # a row per perturbed gene
        frame(VOCAB.genes[60:120], VOCAB.symbols[:60]),
        frame(VOCAB.genes[:60], VOCAB.genes[:60]),  # genes x genes
        frame([f"{row}{n}" for row in "ABCDEFGH" for n in range(1, 13)], VOCAB.symbols[:60]),  # wells, of which C3 and F2 are genes too
    ],
    ids=["barcodes", "numbers", "symbols of perturbed genes", "ids of perturbed genes", "genes by genes", "wells"],
)
def test_ordinary_data_are_not_taken_for_it(adata, tmp_path):
    assert len(rc.pp.tokenize(adata, vocab=VOCAB)) == adata.n_obs
    adata.write_h5ad(tmp_path / "x.h5ad")
    assert main(["vocab", "build", str(tmp_path / "x.h5ad"), "-o", str(tmp_path / "v")]) == 0


@pytest.mark.parametrize(
    "columns",
    [[f"Gene{i}x" for i in range(40)], [f"chr1-{i}-{i + 500}" for i in range(40)], barcodes(40, "")],
    ids=["of another kind", "peaks", "guides"],
)
def test_unknown_genes_are_not_taken_for_it(columns):
    """Rows that are no genes: whatever the columns are, it is not the matrix that lies wrong."""
    rows = [f"{row}{n}" for row in "ABCDEFGHIJKLMNOP" for n in range(1, 25)]
    with open_counts(frame(rows, columns)) as source:
        require_genes_in_columns(source, VOCAB)
    with pytest.raises(RankcellError) as e:
        rc.pp.tokenize(frame(rows, columns), vocab=VOCAB)
    assert SAYS not in str(e.value) and "0 of 40 genes are in vocabulary" in str(e.value)

