"""Features that are no genes, in the words and columns that people use; names with a genome in front; genes of several genomes."""

import gzip

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from builders import make_adata, make_vocab
from count_files import Counts, write_mtx, write_tenx
from flat_options import call

import rankcell as rc
from rankcell.cli.main import main
from rankcell.counts.genes.features import feature_types
from rankcell.counts.vocabulary.build_vocab import build_vocab
from rankcell.errors import GeneError, InputError, RankcellWarning, SettingsError
from rankcell.vocab import find_vocabulary

GENES, OTHERS = 6, 3


def mixed(words, others, column="feature_types"):
    """Six genes and three features of a high count that are named after genes; `words`, `others`: what the column says of them."""
    counts = np.hstack([np.random.default_rng(0).poisson(2, (5, GENES)) + 1, np.full((5, OTHERS), 500)])
    adata = make_adata(counts)
    adata.var_names = [f"G{i}" for i in range(GENES)] + ["G1_TotalSeqB", "G2", "G3-1"]
    adata.var["ensembl_id"] = [f"ENSG{i:011d}" for i in range(GENES)] + [f"ENSG{i:011d}" for i in range(1, 4)]
    adata.var[column] = [words] * GENES + [others] * OTHERS
    return adata


def genes_alone():
    return rc.pp.tokenize(mixed("", "")[:, :GENES].copy(), make_vocab())


def rows(tokens):
    return [tokens.genes(i).tolist() for i in range(len(tokens))]


@pytest.mark.parametrize(
    "words", ["Gene Expression", "gene expression", "Gene_Expression", "GEX", "RNA", "mRNA", "gene", " Gene  Expression "]
)
@pytest.mark.parametrize(
    "others", ["Antibody Capture", "ADT", "protein", "CRISPR Guide Capture", "sgRNA", "HTO", "Multiplexing Capture", "Peaks"]
)
def test_words(words, others):
    with pytest.warns(RankcellWarning, match="left out: 3 columns that are no genes"):
        tokens = rc.pp.tokenize(mixed(words, others), make_vocab())
    assert rows(tokens) == rows(genes_alone()) and tokens.spec.source["columns_left_out"] == {others: OTHERS}


@pytest.mark.parametrize(
    "word",
    ["antibody-derived tags", "Surface Protein", "CITE", "Ab", "chromatin accessibility", "ATAC", "gRNA", "hashtag", "Custom", "AbSeq"],
)
@pytest.mark.parametrize("column", ["feature_types", "feature_type", "type", "modality", "library-type", "Feature Type"])
def test_columns(word, column):
    told = feature_types({"index": list("abc"), column: ["rna", word, "rna"]}, "it")
    assert told.is_gene.tolist() == [True, False, True] and told.excluded == {word: 1} and not told.remark


@pytest.mark.parametrize(
    "types", [["lncRNA", "protein_coding"], ["protein", "lncRNA"], ["processed_pseudogene", "miRNA"], ["IG_V_gene", "TEC"]]
)
@pytest.mark.parametrize("column", ["type", "feature_type"])
def test_biotypes_are_genes(types, column):
    assert feature_types({"index": list("ab"), column: types}, "it").is_gene.all()


@pytest.mark.parametrize("word", ["NA", "nan", "", "GRCh38", "mm10", "protein_coding"])
def test_where_nothing_is_known_all_are_genes(word):
    told = feature_types({"index": list("ab"), "feature_types": [word] * 2}, "it")
    assert told.is_gene.all() and not told.excluded and bool(told.remark) == bool(word)


def test_some_without_a_type_beside_genes_and_antibodies():
    told = feature_types({"index": list("abcd"), "feature_types": ["Gene Expression", "NA", "ADT", "Something"]}, "it")
    assert told.is_gene.tolist() == [True, True, False, False] and "1 columns" in told.remark
    told = feature_types({"index": list("abc"), "feature_types": ["protein_coding", "lncRNA", "ADT"]}, "it")
    assert told.is_gene.tolist() == [True, True, False]


def test_only_antibodies_are_refused(tmp_path, capsys):
    adata = make_adata(np.ones((3, 4)))
    adata.var["modality"] = "ADT"
    with pytest.raises(InputError, match="no gene expression: its features are of the type ADT"):
        rc.pp.tokenize(adata, make_vocab())
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert main(["check", str(tmp_path / "a.h5ad")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("to", ["h5ad", "tenx", "mtx", "old mtx"])
def test_the_same_from_files(tmp_path, to):
    counts = Counts(mixed("", "")[:, :GENES].X)
    if to == "h5ad":
        path = tmp_path / "a.h5ad"
        mixed("GEX", "ADT").write_h5ad(path)
    elif to == "tenx":
        path = write_tenx(counts, tmp_path / "a.h5", antibodies=2)
        with h5py.File(path, "r+") as f:
            types = f["matrix/features/feature_type"].asstr()[:]
            del f["matrix/features/feature_type"]
            f["matrix/features/feature_type"] = np.array(["gex" if t == "Gene Expression" else "Antibody" for t in types], "S")
    else:
        path = write_mtx(counts, tmp_path / "m", antibodies=2)
        text = gzip.decompress((path / "features.tsv.gz").read_bytes()).decode()
        (path / "features.tsv.gz").unlink()
        text = text.replace("Gene Expression", "gene expression").replace("Antibody Capture", "CITE-seq")
        (path / ("genes.tsv" if to == "old mtx" else "features.tsv")).write_text(text)
    with pytest.warns(RankcellWarning, match="left out: "):
        tokens = rc.pp.tokenize(path, make_vocab())
    assert rows(tokens) == rows(genes_alone())


def test_cellbender_types(tmp_path):
    path = write_tenx(Counts(mixed("", "")[:, :GENES].X), tmp_path / "a.h5")
    with h5py.File(path, "r+") as f:
        del f["matrix/features/feature_type"]
        f["matrix/features/feature_type"] = np.array(["NA"] * GENES, "S")
    with pytest.warns(RankcellWarning, match="all 6 are taken as genes"):
        tokens = rc.pp.tokenize(path, make_vocab())
    assert rows(tokens) == rows(genes_alone())


# Genomes


def renamed(names, **var):
    adata = mixed("", "")[:, :GENES].copy()
    adata.var = pd.DataFrame(var, index=names)
    return adata


@pytest.mark.parametrize(
    "front", ["GRCh38_", "GRCh38-", "hg19_", "mm10___", "GRCh38_premrna_", "GRCm39_", "human_", "GRCh38-2020-A_", "T2T-CHM13_"]
)
@pytest.mark.parametrize("names", ["G", "ENSG0000000000"])
def test_a_genome_in_front_of_names_is_taken_off(front, names):
    with pytest.warns(RankcellWarning, match=f"gene names begin with {front}, which is taken off"):
        tokens = rc.pp.tokenize(renamed([f"{front}{names}{i}" for i in range(GENES)]), make_vocab())
    assert rows(tokens) == rows(genes_alone()) and tokens.spec.source["prefix_taken_off"] == front


def test_names_that_the_vocabulary_has_as_they_are():
    from rankcell.vocab import Vocabulary

    names = [f"mm10_G{i}" for i in range(GENES)]
    vocab = Vocabulary(name="v", genes=names, tokens=range(1, GENES + 1), medians=[1.0] * GENES, special={"<pad>": 0})
    tokens = rc.pp.tokenize(renamed(names), vocab)
    assert tokens.spec.source["genes_known"] == GENES and "prefix_taken_off" not in tokens.spec.source


def barnyard(kind="prefix"):
    """Twelve columns, of human and mouse genes by turns."""
    human = [f"G{i}" for i in range(GENES)]
    mouse = [f"g{i}" for i in range(GENES)]
    x = np.repeat(mixed("", "")[:, :GENES].X.toarray(), 2, axis=1)
    x[:, 1::2] *= 40
    front = ("GRCh38_", "mm10___") if kind == "prefix" else ("", "")
    names = [f"{front[j]}{name}" for pair in zip(human, mouse, strict=True) for j, name in enumerate(pair)]
    var = pd.DataFrame({"genome": ["GRCh38", "mm10"] * GENES} if kind == "column" else {}, index=names)
    return ad.AnnData(x, obs=mixed("", "").obs, var=var)


@pytest.mark.parametrize("kind", ["prefix", "column"])
def test_of_two_genomes_the_one_that_the_vocabulary_knows(kind):
    with pytest.warns(RankcellWarning) as notes:
        tokens = rc.pp.tokenize(barnyard(kind), make_vocab(), tokenizing=rc.Tokenizing(keep_counts=True))
    said = " ".join(str(n.message) for n in notes)
    assert "of GRCh38, mm10 the vocabulary 'small' knows GRCh38" in said and "left out: 6 columns (genes of mm10)" in said
    alone = rc.pp.tokenize(mixed("", "")[:, :GENES].copy(), make_vocab(), tokenizing=rc.Tokenizing(keep_counts=True))
    assert rows(tokens) == rows(alone)
    assert tokens.table["counts"].to_pylist() == alone.table["counts"].to_pylist()  # the totals are of the genome too


def test_the_genome_that_was_named(tmp_path, capsys):
    with pytest.warns(RankcellWarning, match="left out"):
        named = rc.pp.tokenize(barnyard("column"), make_vocab(), counts=rc.Counts(genome="grch38"))
    assert rows(named) == rows(genes_alone())
    for genome, says in (("hg19", "has no genome 'hg19'; it has GRCh38, mm10"), ("mm10", "only 0 of 6 genes")):
        with pytest.raises(GeneError, match=says):
            rc.pp.tokenize(barnyard(), make_vocab(), counts=rc.Counts(genome=genome))
    with pytest.raises(GeneError, match="does not say of which genome"):
        rc.pp.tokenize(mixed("", ""), make_vocab(), counts=rc.Counts(genome="GRCh38"))


def test_a_genome_of_10x_files(tmp_path):
    path = write_tenx(Counts(mixed("", "")[:, :GENES].X), tmp_path / "a.h5")
    with h5py.File(path, "r+") as f:
        del f["matrix/features/genome"]
        f["matrix/features/genome"] = np.array(["GRCh38"] * 4 + ["mm10"] * 2, "S")
    with pytest.warns(RankcellWarning, match="left out: 2 columns .genes of mm10"):
        tokens = rc.pp.tokenize(path, make_vocab(), counts=rc.Counts(genome="GRCh38"))
    assert rows(tokens) == rows(rc.pp.tokenize(mixed("", "")[:, :4].copy(), make_vocab()))
    old = write_tenx(Counts(mixed("", "")[:, :GENES].X), tmp_path / "old.h5", version=2)
    with h5py.File(old, "r+") as f:
        f.copy("GRCh38", "mm10")
    assert rows(rc.pp.tokenize(old, make_vocab(), counts=rc.Counts(genome="GRCh38"))) == rows(genes_alone())


def test_transcripts_are_refused_with_their_cause():
    with pytest.raises(GeneError, match="transcripts .ENST.*sum the counts of each gene's transcripts"):
        rc.pp.tokenize(renamed([f"ENST{i:011d}.2" for i in range(GENES)]), make_vocab())


# Vocabularies from counts


def built(adata, tmp_path, **how):

    adata.write_h5ad(tmp_path / "in.h5ad")
    return call(build_vocab, [tmp_path / "in.h5ad"], tmp_path / "v", force=True, **how)


def test_columns_without_a_name_are_no_gene(tmp_path):
    adata = mixed("", "")[:, :GENES].copy()
    alone = built(adata[:, :4].copy(), tmp_path)
    adata.obs["n_counts"] = adata.X[:, :4].sum(1).A1 if hasattr(adata.X[:, :4].sum(1), "A1") else np.ravel(adata.X[:, :4].sum(1))
    adata.var = pd.DataFrame(index=["G0", "G1", "G2", "G3", "nan", "nan-1"])
    adata.var_names = ["G0", "G1", "G2", "G3", "nan", "nan"]
    with pytest.warns(RankcellWarning, match="2 columns have no name"):
        made = built(adata, tmp_path)
    assert made.genes == ("G0", "G1", "G2", "G3") and made.medians.tolist() == alone.medians.tolist()


def test_a_missing_id_falls_back_on_the_name():
    from rankcell.vocab.build import GeneColumns

    columns = GeneColumns.of(["ENSG00000000001", "nan", "<NA>", ""], symbols=["A", "B", "None", "C"])
    assert columns.keys == ("ENSG00000000001", "B", "C") and columns.slot_of_column.tolist() == [0, 1, -1, 2]
    assert columns.inside(GeneColumns(("X", "C", "B", "ENSG00000000001"), ("",) * 4, None)).slot_of_column.tolist() == [3, 2, -1, 1]


def test_fractional_counts_make_a_vocabulary(tmp_path, capsys):
    adata = mixed("", "")[:, :GENES].copy()
    whole = built(adata, tmp_path)
    adata.X = adata.X * 0.7
    x = adata.X.toarray()
    x[0, 0], x[1, 1] = np.nan, -3
    adata.X = x
    made = built(adata, tmp_path, allow_non_counts=True)
    usable = np.where(np.isfinite(x) & (x > 0), x, 0).astype(np.float64)
    values = usable / usable.sum(1, keepdims=True).astype(np.float32) * 10_000
    np.testing.assert_allclose(made.medians, [np.median(v[v > 0]) for v in values.T], rtol=1e-6)
    assert "--allow-non-counts" in made.provenance["command"] and len(whole) == len(made)
    tally = ["vocab", "tally", str(tmp_path / "in.h5ad"), "-o", str(tmp_path / "t.tally.parquet")]
    assert main(tally) == 2 and "--allow-non-counts" in capsys.readouterr().err
    assert main([*tally, "--allow-non-counts"]) == 0
    assert main(["vocab", "build", str(tmp_path / "t.tally.parquet"), "-o", str(tmp_path / "w")]) == 0
    assert rc.Vocabulary.load(tmp_path / "w").medians.tolist() == made.medians.tolist()


def test_a_vocabulary_of_one_genome(tmp_path):
    with pytest.warns(RankcellWarning):
        made = built(barnyard(), tmp_path, genome="mm10")
    assert sorted(made.genes) == [f"g{i}" for i in range(GENES)]
    both = built(barnyard(), tmp_path)
    assert len(both) == 2 * GENES and "mm10___g0" in both.genes
    with pytest.warns(RankcellWarning, match="names begin with hg19_"):
        assert built(renamed([f"hg19_G{i}" for i in range(GENES)]), tmp_path).genes[0] == "G0"


def test_check_embed_and_perturb_take_a_genome(tmp_path, capsys):
    adata = barnyard("column")
    adata.var["ensembl_id"] = [
        g for pair in zip(find_vocabulary("demo").genes, [f"g{i}" for i in range(GENES)], strict=False) for g in pair
    ]
    adata.write_h5ad(tmp_path / "a.h5ad")
    make_vocab().save(tmp_path / "v")
    assert main(["check", str(tmp_path / "a.h5ad"), "--vocab", str(tmp_path / "v"), "--genome", "GRCh38"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "left out 6 columns (genes of mm10)" in page and "--genome GRCh38" in page
    for verb, out in (("embed", "e.parquet"), ("perturb", "p")):
        words = [verb, str(tmp_path / "a.h5ad"), "-o", str(tmp_path / out), "--model", "demo", "--genome"]
        assert main([*words, "rn7"]) == 2
        assert "has no genome 'rn7'; it has GRCh38, mm10" in capsys.readouterr().err
        assert main([*words, "GRCh38"]) == 0
        assert "left out: 6 columns (genes of mm10)" in capsys.readouterr().err


def read_options(genome):
    return {"genome": genome, "model": "demo", "pool": "mean", "device": "cpu"}


SCORED = {"k": 2, "folds": 2, "resolution": (), "n_random": 0}


@pytest.fixture
def two_genomes():
    """24 cells of two groups; genes of the demo model by turns with mouse genes, which are 40 times as many."""
    rng = np.random.default_rng(3)
    x = rng.poisson(2, (24, 60)).astype(np.float32) + 1
    x[:12, :20] *= 5
    x[:, 1::2] *= rng.integers(1, 40, (24, 30))
    names = [g for pair in zip(find_vocabulary("demo").genes[:30], [f"g{i}" for i in range(30)], strict=True) for g in pair]
    var = pd.DataFrame({"genome": ["GRCh38", "mm10"] * 30}, index=names)
    return ad.AnnData(x, obs=pd.DataFrame({"kind": list("a" * 12 + "b" * 12)}, index=[f"c{i}" for i in range(24)]), var=var)


@pytest.mark.filterwarnings("ignore:left out:rankcell.errors.RankcellWarning")
@pytest.mark.parametrize("genome", ["GRCh38", None])
def test_poolings_are_compared_on_one_genome(two_genomes, genome):
    """PCA too: the mouse genes would be most of it."""
    with pytest.warns(RankcellWarning):
        of_both = call(rc.tl.compare_poolings, two_genomes, "kind", **read_options(genome), **SCORED)
        alone = call(rc.tl.compare_poolings, two_genomes[:, ::2].copy(), "kind", **read_options(None), **SCORED)
    assert of_both.astype(str).equals(alone.astype(str)) and set(of_both["source"]) == {"model", "PCA"}


@pytest.mark.filterwarnings("ignore:left out:rankcell.errors.RankcellWarning")
def test_rank_bias_takes_a_genome(two_genomes):
    with pytest.warns(RankcellWarning):
        of_both = call(rc.tl.rank_bias, two_genomes, **read_options("GRCh38"), n_bins=2)
        alone = call(rc.tl.rank_bias, two_genomes[:, ::2].copy(), **read_options(None), n_bins=2)
    assert of_both.equals(alone)


def test_a_genome_that_is_not_there(two_genomes):
    for verb, how in ((rc.tl.rank_bias, {}), (rc.tl.compare_poolings, SCORED | {"label": "kind"})):
        with pytest.raises(GeneError, match="has no genome 'rn7'; it has GRCh38, mm10"):
            call(verb, two_genomes, **read_options("rn7"), **how)
        with pytest.raises(SettingsError, match=r"holds tokens: rc\.Counts\(genome=\.\.\.\) is for counts"):
            call(verb, rc.pp.tokenize(two_genomes[:, ::2].copy(), "demo", obs=["kind"]), **read_options("GRCh38"), **how)


def test_compare_and_annotate_take_a_genome(two_genomes, tmp_path, capsys):
    two_genomes.write_h5ad(tmp_path / "a.h5ad")
    two_genomes[:, ::2].copy().write_h5ad(tmp_path / "human.h5ad")
    words = ["--label", "kind", "--model", "demo", "--device", "cpu", "--k", "2"]
    annotate = ["annotate", "--reference", str(tmp_path / "a.h5ad"), *words]
    compare = ["compare", *words, "--pool", "mean", "--folds", "2", "--resolution", "0", "--n-random", "0"]
    for verb in (annotate, compare):
        assert main([*verb, str(tmp_path / "a.h5ad"), "-o", str(tmp_path / "out.csv"), "--genome", "rn7"]) == 2
        assert "has no genome 'rn7'" in capsys.readouterr().err
    assert main([*annotate, str(tmp_path / "a.h5ad"), "-o", str(tmp_path / "labels.csv"), "--genome", "GRCh38"]) == 0
    assert list(pd.read_csv(tmp_path / "labels.csv")["kind_mapped"]).count("unsure") < 24
    assert main([*compare, str(tmp_path / "a.h5ad"), "-o", str(tmp_path / "c.csv"), "--genome", "GRCh38"]) == 0
    assert main([*compare, str(tmp_path / "human.h5ad"), "-o", str(tmp_path / "d.csv")]) == 0
    assert (tmp_path / "c.csv").read_text() == (tmp_path / "d.csv").read_text()


def test_a_missing_name_is_no_gene_and_the_ids_still_count(tmp_path):
    """pandas 3 writes nullable strings: a name may be missing."""
    adata = mixed("", "")[:, :GENES].copy()
    names = pd.array([*[f"G{i}" for i in range(GENES - 1)], None], dtype="string")
    adata.var = pd.DataFrame({"gene_id": [f"ENSG{i:011d}" for i in range(GENES)], "name": names}, index=[str(i) for i in range(GENES)])
    with ad.settings.override(allow_write_nullable_strings=True):
        adata.write_h5ad(tmp_path / "a.h5ad")
    assert rows(rc.pp.tokenize(tmp_path / "a.h5ad", make_vocab())) == rows(genes_alone())
    by_name = rc.pp.tokenize(tmp_path / "a.h5ad", make_vocab(), counts=rc.Counts(gene_column="name"))
    assert by_name.spec.source["genes_known"] == GENES - 1
