"""rankcell check: every statement against hand-sized inputs, and the command that it prints, run."""

import os
import shlex
import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from builders import make_adata, make_vocab
from flat_options import call
from hypothesis import given, settings
from hypothesis import strategies as st

import rankcell as rc
from rankcell.cli.check_report import check
from rankcell.cli.main import main
from rankcell.counts.genes.ids import id_facts, vocabulary_species
from rankcell.counts.validate.check_counts import read_facts
from rankcell.counts.validate.places import choose, find_places
from rankcell.errors import InputError, RankcellWarning, SettingsError
from rankcell.tokens import Tokenizer, TokenSet

COUNTS = [[1, 0, 2, 0], [0, 3, 0, 0], [4, 1, 1, 0]]  # genes G0 to G3; nobody shows G3


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with a vocabulary of the genes G0, G1, ... in `v`."""
    monkeypatch.setattr("rankcell.counts.validate.repeats.SHARED", 2)  # several inputs here hold the same three cells
    make_vocab(species="human").save(tmp_path / "v")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checked(capsys, *args):
    """(exit code, the page as one text with single spaces, the last line) of a check with the vocabulary v."""
    code = main(["check", *map(str, args), *(() if "--vocab" in args else ("--vocab", "v"))])
    out, err = capsys.readouterr()
    assert err == "" and all(len(line) <= 100 or line.startswith("rankcell tokenize") for line in out.splitlines()), out + err
    return code, " ".join(out.split()), out.splitlines()[-1]


def works(capsys, *args, says=(), options="", notes=(), doubtful=False):
    """The check finds it good, says `says`, and its command, with these options after the vocabulary, runs and says `notes`; the tokens."""
    code, page, command = checked(capsys, *args)
    assert code == 0 and ("This will run, but think again:" if doubtful else "This will work:") in page and "This will not work" not in page, page
    for part in says:
        assert part in page, page
    words = shlex.split(command)
    out = words[-1]
    assert words[:2] == ["rankcell", "tokenize"] and f" --vocab v{f' {options}' if options else ''} -o {shlex.quote(out)}" in command
    assert main(words[1:]) == 0
    said = capsys.readouterr().err
    for part in notes:
        assert part in said, said
    return TokenSet.open(out)


def fails(capsys, *args, says=(), tokenize=()):
    """The check finds it bad, says `says`, and tokenize with the same words refuses too."""
    code, page, _ = checked(capsys, *args)
    assert code == 2 and "This will not work:" in page and "This will work" not in page
    for part in says:
        assert part in page, page
    assert main(["tokenize", *map(str, args), *tokenize, "--vocab", "v", "-o", "refused.dataset"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    return page


def write(adata, name="a.h5ad"):
    adata.write_h5ad(name)
    return name


# The whole page


def test_a_good_file_word_for_word(here, capsys):
    write(make_adata(COUNTS, kind=pd.Categorical(["x", "y", "x"]), age=[1, 2, 3], score=[0.5, 1.0, 2.0], good=[True, False, True]))
    assert main(["check", "a.h5ad", "--vocab", "v", "--max-len", "4"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "file        a.h5ad",
        "format      h5ad; X holds float32, stored by cell (CSR)",
        "size        3 cells x 4 gene columns; 6 stored entries (50.0 % of the matrix)",
        "counts      X: counts",
        "vocabulary  small: 12 genes, human; rows of up to 4 tokens, with CLS and EOS",
        "gene ids    'ensembl_id' names the genes: Ensembl gene ids",
        "known       4 of 4 gene columns (100 %), 3 of 3 with a count (100 %), 100 % of all counts",
        "species     human, by the ids; the vocabulary is of human",
        "n_counts    not in obs: the row sum is a cell's total (3 to 6)",
        "cells       3, ids given, all different",
        "per cell    known genes: median 2, from 1 to 3",
        "cropped     1 cell has more than 2 known genes (33.3 %); genes lost there: median 1, at most 1",
        "            16.7 % of the known genes detected in all cells will not be read by a model",
        "obs         kind (2 kinds), age (whole numbers), score (numbers), good (yes or no)",
        "",
        "This will work:",
        "rankcell tokenize a.h5ad --vocab v --max-len 4 -o a.dataset",
    ]


# Where the counts are


def test_x_is_taken_before_raw_and_layers(here, capsys):
    adata = make_adata(COUNTS)
    adata.raw = adata.copy()
    adata.layers["counts"] = adata.X.copy()
    says = ["counts X: counts raw: counts layer 'counts': counts", "used: X, as X comes first; raw and layer 'counts' hold counts too"]
    works(capsys, write(adata), says=says)


def test_raw_is_taken_before_layers(here, capsys):
    adata = make_adata(COUNTS)
    adata.raw = adata.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.log1p()
    says = ["X: not counts (0.6931, fractional: log-normalised?)", "used: raw, as raw comes before layers; layer 'counts' holds counts too"]
    tokens = works(capsys, write(adata), says=says, options="--raw")
    assert tokens.spec.source["matrix"] == "raw"


def test_layers_named_like_counts_come_first(here, capsys):
    adata = make_adata(COUNTS)
    for name in ("ambient", "raw_counts", "counts"):
        adata.layers[name] = adata.X.copy()
    adata.layers["norm"] = adata.X * 101.5
    adata.X = adata.X.toarray() - 1
    says = [
        "X: not counts (-1, negative: scaled?)",
        "layer 'counts': counts layer 'raw_counts': counts layer 'ambient': counts",
        "layer 'norm': not counts (101.5, fractional: normalised, or corrected for background?)",
        "used: layer 'counts', as layers named counts come first; layer 'raw_counts' and layer 'ambient' hold counts too",
    ]
    works(capsys, write(adata), says=says, options="--counts-layer counts")
    tokens = works(capsys, "a.h5ad", "--layer", "ambient", says=["as you named it; layer 'counts'"], options="--counts-layer ambient")
    assert tokens.spec.source["matrix"] == "layer 'ambient'"


def test_the_only_matrix_of_counts(here, capsys):
    adata = make_adata(COUNTS)
    adata.layers["my counts"] = adata.X.copy()
    adata.X = adata.X.log1p()
    works(capsys, write(adata), says=["used: layer 'my counts', the only one that holds counts"], options="--counts-layer 'my counts'")


def test_no_matrix_holds_counts(here, capsys):
    adata = make_adata(COUNTS)
    adata.X = adata.X.log1p()
    adata.raw = adata.copy()
    adata.X = adata.X.toarray() - 1
    page = fails(capsys, write(adata), says=["used: X, as no matrix seems to hold counts", "raw: not counts (0.6931", "--allow-non-counts"])
    assert "(cell 'cell0', gene 'G0'), a negative value, not a count: no other matrix of the file" in page
    assert "of all counts" not in page and "1 of 1 with a value above zero" not in page
    assert main(["tokenize", "a.h5ad", "--vocab", "v", "-o", "as_they_are", "--allow-non-counts"]) == 0


def test_a_named_matrix_that_holds_no_counts(here, capsys):
    adata = make_adata(COUNTS)
    adata.layers["log"] = adata.X.log1p()
    fails(
        capsys, write(adata), "--layer", "log", says=["used: layer 'log', as you named it; X holds counts", "leave out --counts-layer and --raw"]
    )
    assert call(check, "a.h5ad", vocab="v").ok


def test_a_late_entry_that_is_no_count(here, capsys):
    x = np.ones((150, 1000), np.float32)
    x[140, 7] = 2.5  # beyond the entries that a first look takes
    adata = ad.AnnData(sp.csr_matrix(x), var=pd.DataFrame(index=[f"G{i}" for i in range(1000)]))
    says = [
        "X: counts X holds a value that is not a count: 2.5, fractional (cell '140', gene 'G7')",
        "there is no other matrix in the file",
    ]
    vocab = make_vocab(1000)
    vocab.save(here / "w")
    code, page, _ = checked(capsys, write(adata), "--vocab", "w")
    assert code == 2 and all(s in page for s in says)
    adata.layers["counts"] = sp.csr_matrix(np.ones((150, 1000), np.float32))
    code, page, _ = checked(capsys, write(adata), "--vocab", "w")
    assert code == 2 and "pass --counts-layer counts, which holds counts" in page
    adata.X = sp.csc_matrix(x)  # stored by gene, that entry is among the first
    assert checked(capsys, write(adata), "--vocab", "w")[2].endswith("--counts-layer counts -o a.dataset")
    x[140, 7], x[149, 999] = 1, np.nan
    adata.X = sp.csc_matrix(x)
    code, page, _ = checked(capsys, write(adata), "--vocab", "w")
    assert code == 2 and "a count: NaN (cell '149', gene 'G999')" in page


def test_x_that_begins_with_zeros(here, capsys):
    adata = make_adata(COUNTS)
    x = np.zeros((30_000, 4), np.float32)
    x[-1, 1] = 3
    adata = ad.AnnData(x, var=adata.var)
    tokens = works(
        capsys, write(adata), says=["X: only zeros at its start", "empty 29,999 cells have no known gene (99.9 %): their rows are kept"]
    )
    assert (tokens.n_genes > 0).sum() == 1


def test_a_file_without_x(here, capsys):
    adata = make_adata(COUNTS)
    adata.layers["counts"] = adata.X
    adata.X = None
    works(capsys, write(adata), says=["counts layer 'counts': counts"], options="--counts-layer counts")


def test_raw_with_more_genes_is_said(here, capsys):
    adata = make_adata(COUNTS)
    adata.raw = adata.copy()
    tokens = works(
        capsys, write(adata[:, :2].copy()), says=["warning raw holds counts of more genes (4 columns, X 2): pass --raw to use them all"]
    )
    assert tokens.n_genes.tolist() == [1, 1, 2]


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, np.asarray])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8, np.float16])
def test_every_storage_says_the_same(here, capsys, kind, dtype):
    if dtype == np.float16 and kind is not np.asarray:
        pytest.skip("scipy has no such matrices")
    adata = make_adata(COUNTS)
    adata.X = kind(np.asarray(COUNTS, dtype))
    works(
        capsys,
        write(adata),
        says=["6 stored entries" if kind is not np.asarray else "6 non-zero entries", "known genes: median 2, from 1 to 3"],
    )


def test_explicit_zeros_and_repeated_entries(here, capsys):
    write(make_adata(np.zeros((2, 4))))
    with h5py.File("a.h5ad", "r+") as f:
        del f["X"]["data"], f["X"]["indices"], f["X"]["indptr"]
        f["X"]["data"], f["X"]["indices"] = np.array([1, 0, 2, 3, 0], np.float32), np.array([1, 1, 0, 0, 2])
        f["X"]["indptr"] = np.array([0, 3, 5])
    says = ["5 stored entries", "2 stored entries are zero: no token", "1 entry repeats a gene column of the same cell: these are summed"]
    assert works(capsys, "a.h5ad", says=says).n_genes.tolist() == [2, 1]


def loom(path, layers):
    """A loom file of genes x cells whose matrix is log-normalised."""
    x = np.array(COUNTS, np.float32).T
    with h5py.File(path, "w") as f:
        f["matrix"] = np.log1p(x)
        for layer in layers:
            f[f"layers/{layer}"] = x
        f["row_attrs/Gene"], f["col_attrs/CellID"] = [f"G{i}" for i in range(4)], ["x", "y", "z"]


def tenx(path, genomes):
    """An old 10x file with a matrix per genome."""
    x = sp.csr_matrix(np.array(COUNTS, np.int32))
    with h5py.File(path, "w") as f:
        for genome in genomes:
            g = f.create_group(genome)
            g["data"], g["indices"], g["indptr"], g["shape"] = x.data, x.indices, x.indptr, np.array(x.shape[::-1])
            g["barcodes"], g["genes"] = np.array(["x", "y", "z"], "S"), np.array([f"ENSG{i:011d}" for i in range(4)], "S")
            g["gene_names"] = np.array([f"G{i}" for i in range(4)], "S")


def test_other_formats(here, capsys):
    loom("a.loom", ["ambient", "counts"])
    says = ["format loom; layer 'counts' holds float32", "matrix: not counts (0.6931", "used: layer 'counts'"]
    assert len(works(capsys, "a.loom", says=says, options="--counts-layer counts")) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata announces another version of the format
        make_adata(COUNTS).write_zarr("a.zarr")
    assert len(works(capsys, "a.zarr", says=["format zarr; X holds float32, stored by cell (CSR)"])) == 3
    tenx("one.h5", ["GRCh38"])
    assert len(works(capsys, "one.h5", says=["GRCh38: counts", "gene ids"])) == 3
    tenx("two.h5", ["GRCh38", "mm10"])
    assert len(works(capsys, "two.h5", "--layer", "GRCh38", says=["GRCh38: counts"], options="--counts-layer GRCh38")) == 3
    refused(capsys, "two.h5", "--vocab", "v", message="holds several genomes: name one with --genome")


# Genes


def test_shares_of_columns_detected_genes_and_counts(here, capsys):
    adata = make_adata([[1, 2, 0, 3, 5, 0], [0, 4, 0, 0, 1, 0]])
    adata.var_names = ["G0", "mystery", "G2", "other", "G3", "unseen"]
    del adata.var["ensembl_id"]
    says = [
        "gene ids 'index' names the genes: symbols",
        "known 3 of 6 gene columns (50.0 %), 2 of 4 with a count (50.0 %), 43.8 % of all counts",
        "the most abundant: mystery (37.5 %), other (18.8 %) of all counts",
        "- the vocabulary knows only 50.0 % of the genes with a count and 43.8 % of the counts",
        "rankcell vocab build makes one of these",
    ]
    works(capsys, write(adata), says=says, doubtful=True)


def test_columns_of_one_gene_are_summed(here, capsys):
    adata = make_adata([[1, 2, 3, 4]])
    adata.var["ensembl_id"] = [f"ENSG{i:011d}{v}" for i, v in ((0, ".1"), (0, ".2"), (1, ".1"), (2, ".1"))]
    adata.var_names = ["A", "A", "B", "C"]
    says = [
        "Ensembl gene ids with a version",
        "2 columns share a gene with another column: they are summed",
        "1 name comes again in the index",
    ]
    assert works(capsys, write(adata), says=[*says, "known genes: median 3,"]).n_genes.tolist() == [3]


def test_a_named_gene_column(here, capsys):
    works(
        capsys,
        write(make_adata(COUNTS)),
        "--gene-column",
        "index",
        says=["'index' names the genes: symbols"],
        options="--gene-column index",
    )
    fails(capsys, "a.h5ad", "--gene-column", "nothing", says=["has no gene column 'nothing'"])


def test_mouse_symbols(here, capsys):
    adata = make_adata([range(1, 13)])
    del adata.var["ensembl_id"]
    adata.var_names = ["Gapdh", "Cd3d", "Cd8a", "Actb", "Lyz2", "Cst3", "Cd74", "Ftl1", "Xist", "mt-Nd1", "Gm1234", "H2-K1"]
    says = ["symbols, written as in mouse (Gapdh)", "species mouse, by the letter case of the symbols; the vocabulary is of human"]
    says += ["warning these look like mouse genes, and the vocabulary is of human", "These look like mouse genes: use a mouse vocabulary"]
    fails(capsys, write(adata), says=[*says, "known 0 of 12 gene columns (0 %)", "not known the most abundant: H2-K1 (15.4 %)"])


def test_mouse_ensembl_ids(here, capsys):
    adata = make_adata(COUNTS)
    adata.var["ensembl_id"] = adata.var_names = [f"ENSMUSG{i:011d}.2" for i in range(4)]
    fails(
        capsys,
        write(adata),
        says=["species mouse, by the ids; the vocabulary is of human", "Ensembl gene ids with a version", "warning these look"],
    )


def test_symbols_in_lower_case(here, capsys):
    adata = make_adata(COUNTS)
    del adata.var["ensembl_id"]
    adata.var_names = adata.var_names.str.lower()
    says = [
        "symbols, in lower case (gapdh)",
        "species not clear from the gene ids",
        "in upper case the vocabulary would know 4 of the 4 names",
    ]
    fails(capsys, write(adata), says=says)


def test_antibody_columns(here, capsys):
    adata = make_adata(COUNTS)
    adata.var["feature_types"] = ["Gene Expression"] * 3 + ["Antibody Capture"]
    adata.raw = adata.copy()
    says = ["size 3 cells x 3 gene columns", "left out 1 column that is no gene (Antibody Capture)", "known 3 of 3 gene columns"]
    works(capsys, write(adata), says=says, notes=["left out: 1 column that is no gene (Antibody Capture)"])
    assert "warning" not in checked(capsys, "a.h5ad")[1]  # raw has no more genes
    adata.var["feature_types"] = ["Gene Expression", "Gene Expression", "Antibody Capture", "Custom"]
    page = checked(capsys, write(adata))[1]
    assert "left out 2 columns that are no genes (1 Antibody Capture, 1 Custom)" in page
    adata.var["feature_types"] = ["NA"] * 4
    says = ["4 gene columns", "warning 'feature_types' (NA) does not say which columns are genes: all 4 are taken as genes"]
    works(capsys, write(adata), says=says)
    adata.var["feature_types"] = ["Peaks"] * 4
    del adata.raw
    refused(capsys, write(adata), "--vocab", "v", message="holds no gene expression: its features are of the type Peaks")


@pytest.mark.parametrize(
    "ids, words, species, case, genome",
    [
        (["ENSG00000000003", "ENSG00000000005"], "Ensembl gene ids", ["human"], "", ""),
        (["ENSDARG00000000001.4"] * 3, "Ensembl gene ids with a version (as in .12)", ["zebrafish"], "", ""),
        (["ENSG00000000003"] * 3 + ["ENSMUSG00000000003"], "Ensembl gene ids", ["human", "mouse"], "", ""),
        (["ENSMMUG00000000001"], "Ensembl gene ids", ["macaque"], "", ""),
        (["ENSABCG00000000001"], "Ensembl gene ids", ["ENSABC"], "", ""),
        (["ENST00000000233.10"], "Ensembl transcript ids", ["human"], "", ""),
        (["FBgn0000008"], "Ensembl gene ids", ["fruit fly"], "", ""),
        (["1", "100287102"], "numbers (Entrez ids, or row numbers)", [], "", ""),
        (["CD3D", "C1orf112", "HLA-A", "7SK"], "symbols", ["human"], "upper", ""),
        (["Cd3d", "mt-Nd1", "Gm1234", "Lyz2"], "symbols, written as in mouse (Gapdh)", ["mouse"], "capital", ""),
        (["cd3d", "gapdh"], "symbols, in lower case (gapdh)", [], "lower", ""),
        (["CD3D", "Cd3d"], "symbols", [], "", ""),
        (["ENSG00000000003"] * 3 + ["CD3D"], "a mixture: Ensembl gene ids (75%), symbols (25%)", ["human"], "upper", ""),
        (["GRCh38_CD3D", "GRCh38_LYZ", "mm10___Lyz2"], "symbols", ["human"], "upper", "GRCh38_"),
        (["", "nan"], "empty names", [], "", ""),
        ([], "none", [], "", ""),
    ],
)
def test_id_systems(ids, words, species, case, genome):
    found = id_facts(ids)
    assert (found.describe(), found.likely_species(), found.case, found.genome) == (words, species, case, genome)


def test_the_species_of_a_vocabulary():
    assert vocabulary_species("Homo sapiens", []) == vocabulary_species("", ["ENSG00000000003"]) == "human"
    assert vocabulary_species("", ["CD3D"]) == "" and vocabulary_species("Axolotl", []) == "axolotl"


# Cells


def test_n_counts(here, capsys):
    write(make_adata(COUNTS, n_counts=[3, 3, 6]))
    works(capsys, "a.h5ad", says=["n_counts in obs (3 to 6), equal to the row sum", "obs n_counts (whole numbers)"])
    write(make_adata(COUNTS, n_counts=[3.0, 4.0, 12.0]))
    used = "n_counts in obs (3 to 12) and used as the cells' totals; the row sums are"
    works(capsys, "a.h5ad", says=[f"{used} lower in 2 of 3 cells (by up to 50.0 %), as when genes were left out after counting: fine"])
    write(make_adata(COUNTS, n_counts=[4.0, 4.0, 12.0]))
    works(capsys, "a.h5ad", says=["(4 to 12) and used as the cells' totals; the row sums are lower in all 3 cells (by up to 50.0 %), as"])
    write(make_adata(COUNTS, n_counts=[1.0, 3.0, 12.0]))
    warned = "warning n_counts is below the row sum in 1 of 3 cells: was it counted otherwise?"
    works(capsys, "a.h5ad", says=["lower in 1 of 3 cells (by up to 50.0 %) and higher in 1 of 3 cells (see the warning)", warned])
    write(make_adata(COUNTS, n_counts=[1.0, 3.0, 6.0]))
    works(capsys, "a.h5ad", says=["totals; the row sums are higher in 1 of 3 cells (see the warning)", warned])
    write(make_adata([[1, 2], [0, 0]], n_counts=[3, 0]))
    works(capsys, "a.h5ad", says=["n_counts in obs (0 to 3), equal to the row sum"])


@pytest.mark.parametrize(
    "n_counts, found, message",
    [
        ([3, 0, 6], "it is 0 in cell 'cell1', which has counts", "obs 'n_counts' of cell 'cell1' is 0 but the cell has counts"),
        ([3, np.nan, 6], "it is NaN in cell 'cell1'", "obs 'n_counts' of cell 'cell1' is nan"),
        ([3, -1, -2], "it is -1 in cell 'cell1' (2 such cells)", "obs 'n_counts' of cell 'cell1' is -1"),
        (["3", "x", "6"], "it holds no numbers", "not numbers"),
    ],
)
def test_n_counts_that_cannot_be(here, capsys, n_counts, found, message):
    remedy = "correct or remove that column; without it the row sum is used"
    page = fails(capsys, write(make_adata(COUNTS, n_counts=n_counts)), says=[f"n_counts in obs, but not usable: {found} cells 3", message])
    assert page.count(remedy) == 1 and "a cell's total" not in page


def test_empty_cells(here, capsys):
    tokens = works(
        capsys, write(make_adata([[1, 2], [0, 0]])), says=["empty 1 cell has no known gene (50.0 %): its row is kept, without genes"]
    )
    assert tokens.n_genes.tolist() == [2, 0]


def test_cropping_follows_the_frame(here, capsys):
    name = write(make_adata([range(1, 11), [1] * 8 + [0] * 2, [1] * 5 + [0] * 5]))
    said = "cropped 2 cells have more than 5 known genes (66.7 %); genes lost there: median 4, at most 5"
    tokens = works(
        capsys, name, "--max-len", "5", "--no-cls", says=[said, "rows of up to 5 tokens, no CLS"], options="--max-len 5 --no-cls"
    )
    assert tokens.lengths.tolist() == [5, 5, 5]
    works(capsys, name, "--max-len", "7", "--cls", says=[said], options="--max-len 7 --cls")
    works(capsys, name, says=["cropped no cell, as none has more than 4,094 known genes"])


def test_a_filter(here, capsys):
    name = write(make_adata(COUNTS, kind=["x", "y", "x"], filter_pass=[1, 0, 1]))
    said = (
        "filter_pass in obs: 2 of 3 cells pass. Geneformer would leave the others out; here all cells are kept unless --filter filter_pass"
    )
    assert len(works(capsys, name, says=[said])) == 3
    says = [
        "2 kept by the filter, 1 left out",
        "5 stored entries in the 2 cells kept (62.5 % of the matrix)",
        "known genes: median 2, from 2 to 3",
    ]
    says.append("known 4 of 4 gene columns (100 %), 3 of 3 with a count")
    tokens = works(capsys, name, "--filter", "kind == 'x'", says=says, options="--filter 'kind == '\"'\"'x'\"'\"''")
    assert tokens.cell_ids == ["cell0", "cell2"]
    fails(capsys, name, "--filter", "sort == 'x'", says=['the filter "sort ==', "names no cell column; there are kind, filter_pass"])


def test_a_filter_that_keeps_no_cell(here, capsys):
    name = write(make_adata(COUNTS, kind=["x", "y", "x"], n_counts=[3, 3, 6]))
    said = ["size 3 cells x 4 gene columns counts X", "known 4 of 4 gene columns (100 %) species", "n_counts in obs and used as"]
    said += ["0 kept by the filter, 3 left out", "will not work: - ", "keeps none of the 3 cells; kind holds x, y"]
    page = fails(capsys, name, "--filter", "kind == 'z'", says=said)
    assert "0 to 0" not in page and "0 of 0" not in page and "stored entries" not in page and "per cell" not in page
    write(make_adata(COUNTS, kind=["z", "y", "x"], n_counts=[3, 3, 6]), "b.h5ad")
    said = ["0 kept by the filter, 3 left out warning the filter keeps no cell file b.h5ad", "total 2 inputs, 6 cells, 1 kept"]
    tokens = works(capsys, name, "b.h5ad", "--filter", "kind == 'z'", says=said, options="--filter 'kind == '\"'\"'z'\"'\"''")
    assert tokens.cell_ids == ["b:cell0"]


def test_cell_columns(here, capsys):
    name = write(make_adata(COUNTS, kind=["x", "y", "x"], length=[1, 2, 3]))
    assert works(capsys, name, "--obs", "kind", options="--obs kind").obs_columns == ["kind"]
    fails(capsys, name, "--obs", "kind", "--obs", "sort", says=["has no cell column 'sort'; it has kind, length"])
    assert works(capsys, name, "--obs", "length", options="--obs length").obs("length").tolist() == [1, 2, 3]
    many = write(make_adata(COUNTS, **{f"c{i:02d}": [1, 2, 3] for i in range(30)}))
    assert "c10 (whole numbers), c11 (whole numbers) and 18 more" in checked(capsys, many)[1]


def test_no_cell_columns(here, capsys):
    works(capsys, write(make_adata(COUNTS)), says=["obs no columns (for --obs and --filter)"])


# Several inputs


def test_several_inputs(here, capsys):
    os.mkdir("runs")
    write(make_adata(COUNTS, kind=["x", "y", "x"], n_counts=[3, 3, 6]), "runs/a.h5ad")
    write(make_adata([[1, 0, 0, 0], [0, 0, 0, 0]], kind=["x", "y"], batch=["1", "2"]), "runs/b.h5ad")
    says = [
        "total 2 inputs, 5 cells",
        "per cell known genes: median 1, from 0 to 3",
        "cells ids will be <source>:<id>, such as 'a:...'",
        "obs in all inputs: kind (2 kinds or text) not in all: n_counts (not in b), batch (not in a)",
        "warning n_counts is in the obs of some inputs only",
    ]
    tokens = works(capsys, "runs", says=says)
    assert tokens.cell_ids == ["a:cell0", "a:cell1", "a:cell2", "b:cell0", "b:cell1"]
    works(capsys, "runs/*.h5ad", says=says)
    works(capsys, "runs/a.h5ad", "runs/b.h5ad", "--obs", "kind", says=says, options="--obs kind")
    assert sorted(p.name for p in here.glob("*.dataset")) == ["runs-2.dataset", "runs.dataset", "tokens.dataset"]
    fails(capsys, "runs", "--obs", "batch", says=["a.h5ad has no cell column 'batch'"])


def test_the_genes_of_each_input(here, capsys):
    a, b = make_adata(COUNTS), make_adata(COUNTS)
    del b.var["ensembl_id"]
    write(a), write(b, "b.h5ad"), write(make_adata(COUNTS), "c.h5ad")
    says = [
        "gene ids 'ensembl_id' names the genes: Ensembl gene ids; species human, by the ids known 4 of 4",
        "gene ids 'index' names the genes: symbols; species human, by the letter case of the symbols known 4 of 4",
        "warning the inputs differ in the gene column: 'index' in b; 'ensembl_id' in c (each input is looked up by its own)",
        "warning the inputs differ in the id system: symbols in b; Ensembl gene ids in c (each",
    ]
    works(capsys, "b.h5ad", "c.h5ad", says=says)
    assert "differ" not in checked(capsys, "a.h5ad", "c.h5ad")[1]
    b.var_names = ["Gapdh", "Cd3d", "Cd8a", "Actb"]
    said = ["warning the inputs differ in species: human in a; mouse in b (does one vocabulary fit them all?)"]
    fails(capsys, "a.h5ad", write(b, "b.h5ad"), says=[*said, "not known the most abundant: Gapdh (41.7 %)"])


@pytest.mark.parametrize("value", [-0.5, 0.5, np.nan, np.inf])
def test_ranking_as_it_is_is_offered_and_works(here, capsys, value):
    said = "take the file from before it was normalised (or rank the values as they are with --allow-non-counts: what is NaN, infinite or"
    fails(capsys, write(make_adata([[1, 2, value, 0]])), says=[said])
    assert main(["tokenize", "a.h5ad", "--vocab", "v", "-o", "o", "--allow-non-counts"]) == 0
    assert TokenSet.open("o").n_genes.tolist() == [3 if value == 0.5 else 2]


def test_several_inputs_use_the_same_matrix(here, capsys):
    a = make_adata(COUNTS)
    a.layers["counts"] = a.X.copy()
    b = a.copy()
    b.X = b.X.log1p()
    write(a), write(b, "b.h5ad")
    tokens = works(
        capsys,
        "a.h5ad",
        "b.h5ad",
        says=["used: layer 'counts', as all inputs hold counts there; X holds counts too"],
        options="--counts-layer counts",
    )
    assert len(tokens) == 6
    del a.layers["counts"]
    write(a)
    assert len(works(capsys, "a.h5ad", "b.h5ad", says=["used: layer 'counts'"], notes=["layer 'counts', which holds counts"])) == 6
    b.layers["umis"] = b.layers["counts"].copy()
    write(b, "b.h5ad")
    fails(
        capsys,
        "a.h5ad",
        "b.h5ad",
        says=["the inputs hold their counts in different places (no option for a; --counts-layer counts for b): tokenize"],
    )


def test_one_of_several_inputs_is_broken(here, capsys):
    write(make_adata(COUNTS))
    (here / "b.h5ad").write_bytes(b"nothing")
    fails(
        capsys,
        "a.h5ad",
        "b.h5ad",
        says=["file b.h5ad problem b.h5ad is not an HDF5 file", "total 2 inputs, 3 cells", "- b.h5ad is not an HDF5"],
    )


def test_columns_that_do_not_go_together(here, capsys):
    write(make_adata(COUNTS, kind=["x", "y", "x"])), write(make_adata(COUNTS, kind=[1, 2, 3]), "b.h5ad")
    fails(capsys, "a.h5ad", "b.h5ad", "--obs", "kind", says=["the cell column 'kind' holds string in a and int64 in b"])


# At the door


def refused(capsys, *args, message):
    assert main(["check", *map(str, args)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err and err.startswith("rankcell: ")


def test_what_cannot_be_opened_is_one_line(here, capsys):
    write(make_adata(COUNTS))
    refused(capsys, "none.h5ad", message="no such file: none.h5ad")
    refused(capsys, "a.h5ad", "--vocab", "none", message="no vocabulary 'none'")
    refused(capsys, "a.h5ad", "--vocab", "v", "--layer", "none", message="has no layer 'none'")
    refused(capsys, "a.h5ad", "--vocab", "v", "--raw", "--layer", "x", message="choose one")
    refused(capsys, "a.h5ad", "--vocab", "v", "--max-len", "2", message="no gene fits")
    refused(capsys, "a.h5ad", "--vocab", "v", "--workers", "0", message="at least 1")
    os.mkdir("folder")
    refused(capsys, "folder", message="is a folder without count files")
    Tokenizer("v").write("a.h5ad", "some.dataset")
    refused(capsys, "some.dataset", message="holds tokens already")
    adata = make_adata(COUNTS)
    adata.obs_names = ["x", "x", "y"]
    write(adata)
    refused(capsys, "a.h5ad", "--vocab", "v", message="1 cell id stands there more than once (such as 'x', 2 times)")


def test_a_file_that_breaks_off_while_it_is_read(here, capsys):
    write(make_adata(COUNTS))
    with h5py.File("a.h5ad", "r+") as f:
        f["X"]["indices"][-1] = 9
    refused(capsys, "a.h5ad", "--vocab", "v", message="an entry refers to column 9")


def test_names_that_the_shell_would_split(here, capsys):
    assert len(works(capsys, write(make_adata(COUNTS), "my cells & more.h5ad"))) == 3
    assert (here / "my cells & more.dataset").is_dir()
    write(make_adata(COUNTS), "--x.h5ad")
    report = call(check, "--x.h5ad", vocab="v")
    assert report.command == "rankcell tokenize ./--x.h5ad --vocab v -o x.dataset" and main(shlex.split(report.command)[1:]) == 0


def test_in_python(here):
    write(make_adata(COUNTS))
    seen = []
    report = call(check, "a.h5ad", vocab="v", obs=(), progress=lambda done, total: seen.append((done, total)))
    assert report.ok and report.lines()[-1] == report.command and seen[-1] == (3, 3)
    assert report.inputs[0].genes.counts == 12 and report.inputs[0].genes_per_cell.tolist() == [2, 1, 3]
    report = call(check, "a.h5ad", vocab="v", obs="nothing")
    assert not report.ok and report.command is None and len(report.reasons) == 1
    with pytest.raises(InputError, match="write the AnnData to a file first"):
        call(check, make_adata(COUNTS), vocab="v")
    with pytest.raises(SettingsError, match="no <cls> token"):
        make_vocab(special=("<pad>", "<mask>"), name="bare").save("bare")
        call(check, "a.h5ad", vocab="bare", cls=True)


# Against a plain computation


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_numbers_are_those_of_a_plain_computation(seed, workers):
    rng = np.random.default_rng(seed)
    x = rng.poisson(0.7, (rng.integers(1, 30), 20)).astype(np.float32)
    names = [f"G{i}" if i < 12 and rng.random() < 0.8 else f"U{i}" for i in range(20)]
    names[13] = "ENSG00000000001"  # the gene that G1 names too
    names[0] = "G0"
    adata = ad.AnnData(sp.csr_matrix(x), var=pd.DataFrame(index=names))
    vocab = make_vocab()
    facts = read_facts(adata, vocab, choose(find_places(adata)), workers=workers)
    gene = np.array([vocab.lookup([n])[0] for n in names])
    of_gene = np.stack([x[:, gene == g].sum(1) for g in np.unique(gene[gene >= 0])], 1)
    assert facts.genes_per_cell.tolist() == (of_gene > 0).sum(1).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankcellWarning)  # cells without genes
        assert facts.genes_per_cell.tolist() == Tokenizer(vocab, rc.Tokenizing(workers=1)).tokenize(adata).n_genes.tolist()
    assert (facts.genes.counts, facts.genes.counts_known) == (x.sum(), x[:, gene >= 0].sum())
    assert facts.genes.n_detected == (x.sum(0) > 0).sum() and facts.genes.n_detected_known == ((x.sum(0) > 0) & (gene >= 0)).sum()
    assert (facts.totals.low, facts.totals.high) == (x.sum(1).min(), x.sum(1).max())
    assert facts.n_entries == (x != 0).sum() and facts.n_repeated == facts.n_zeros == 0
