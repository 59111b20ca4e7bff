"""Vocabularies: folders, names, frames, building from counts, and pickles that must not run."""

import json
import os
import pickle

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from builders import ROOT, make_adata
from flat_options import call
from hypothesis import given, settings
from hypothesis import strategies as st

from rankcell.cli import main
from rankcell.cli.vocabulary_lines import vocabulary_lines
from rankcell.counts.vocabulary.build_vocab import build_vocab
from rankcell.errors import GeneError, InputError, OutputError, SettingsError, TokensError, VocabularyError
from rankcell.vocab import Frame, Vocabulary, find_vocabulary, import_geneformer, shipped_vocabularies
from rankcell.vocab.published import import_vocab


def a_vocabulary(**changed):
    parts = dict(
        name="two",
        species="human",
        genes=["ENSG00000000010", "LOC7", "ENSG00000000030"],
        symbols=["TEN", "LOC7", ""],
        tokens=[4, 9, 5],
        medians=[1.5, 1 / 3, 2e-7],
        special={"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3},
        aliases={"X1": "ENSG00000000010"},
        max_len=128,
        target_sum=10_000.0,
        provenance={"from": "hand"},
    )
    return Vocabulary(**parts | changed)


# What it is, and its folder


def test_folder_round_trip(tmp_path):
    v = a_vocabulary()
    v.save(tmp_path / "v")
    assert sorted(p.name for p in (tmp_path / "v").iterdir()) == ["aliases.tsv", "genes.tsv", "vocabulary.json"]
    assert (tmp_path / "v" / "genes.tsv").read_text() == (
        "token\tensembl_id\tsymbol\tmedian\n4\tENSG00000000010\tTEN\t1.5\n9\t\tLOC7\t0.3333333333333333\n5\tENSG00000000030\t\t2e-07\n"
    )
    assert (tmp_path / "v" / "aliases.tsv").read_text() == "alias\tgene\nX1\tENSG00000000010\n"
    head = json.loads((tmp_path / "v" / "vocabulary.json").read_text())
    assert head == {
        "format": "rankcell-vocabulary-1",
        "name": "two",
        "species": "human",
        "n_genes": 3,
        "special_tokens": {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3},
        "max_len": 128,
        "target_sum": 10_000.0,
        "hash": v.hash,
        "provenance": {"from": "hand"},
    }
    again = Vocabulary.load(tmp_path / "v")
    assert again == v and again.hash == v.hash
    for field in ("name", "species", "genes", "symbols", "special", "aliases", "max_len", "target_sum", "provenance"):
        assert getattr(again, field) == getattr(v, field), field
    assert again.tokens.tolist() == [4, 9, 5] and again.medians.tolist() == [1.5, 1 / 3, 2e-7]


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n"), min_size=1, max_size=6)


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(names, st.floats(1e-300, 1e300), min_size=1, max_size=6), st.data())
def test_any_names_and_medians_come_back(tmp_path_factory, medians, data):
    n = len(medians)
    symbols = data.draw(st.lists(names | st.just(""), min_size=n, max_size=n))
    v = Vocabulary(
        name="any", genes=list(medians), symbols=symbols, tokens=range(1, n + 1), medians=list(medians.values()), special={"<pad>": 0}
    )
    folder = tmp_path_factory.mktemp("v") / "v"
    v.save(folder)
    again = Vocabulary.load(folder)
    assert (again.genes, again.symbols, again.medians.tolist(), again.hash) == (v.genes, v.symbols, v.medians.tolist(), v.hash)


def test_hash_is_the_meaning_of_a_row():
    base = a_vocabulary()
    same = [
        a_vocabulary(name="other", species="", symbols=["A", "B", "C"], aliases={}, max_len=99, provenance={}),
        a_vocabulary(  # the same genes in another order
            genes=["ENSG00000000030", "ENSG00000000010", "LOC7"], symbols=[], tokens=[5, 4, 9], medians=[2e-7, 1.5, 1 / 3]
        ),
        a_vocabulary(special={"<eos>": 3, "<cls>": 2, "<mask>": 1, "<pad>": 0}),
    ]
    for other in same:
        assert other == base and other.hash == base.hash and hash(other) == hash(base)
    other = [
        a_vocabulary(genes=["ENSG00000000011", "LOC7", "ENSG00000000030"]),
        a_vocabulary(tokens=[4, 9, 6]),
        a_vocabulary(tokens=[5, 9, 4]),
        a_vocabulary(medians=[np.nextafter(1.5, 2), 1 / 3, 2e-7]),
        a_vocabulary(special={"<pad>": 0, "<mask>": 1, "<cls>": 3, "<eos>": 2}),
        a_vocabulary(special={"<pad>": 0, "<mask>": 1}),
        a_vocabulary(target_sum=10_001.0),
    ]
    assert len({base.hash, *(v.hash for v in other)}) == len(other) + 1
    assert all(v != base for v in other) and base != "two"


def test_a_vocabulary_cannot_be_changed():
    v = a_vocabulary()
    with pytest.raises(AttributeError):
        v.name = "other"
    with pytest.raises(ValueError, match="read-only"):
        v.medians[0] = 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokens": [4, 9]}, "3 genes, 3 symbols, 2 tokens"),
        ({"genes": [], "symbols": [], "tokens": [], "medians": []}, "no genes"),
        ({"genes": ["A", "A", "B"]}, "twice"),
        ({"genes": ["A", "", "B"]}, "cannot be a gene's name"),
        ({"genes": ["A", "C\tD", "B"]}, r"'C\\tD' cannot be"),
        ({"symbols": ["A\n", "", ""]}, "line break"),
        ({"special": {"<cls>": 0}}, "no <pad>"),
        ({"tokens": [4, 9, 4]}, "stands for two things"),
        ({"tokens": [4, 9, 0]}, "stands for two things"),
        ({"tokens": [4, 9, -5]}, "negative"),
        ({"medians": [1, 0, 1]}, "median of LOC7 is 0.0"),
        ({"medians": [1, 1, np.nan]}, "median of ENSG00000000030 is nan"),
        ({"medians": [1, np.inf, 1]}, "median of LOC7 is inf"),
        ({"target_sum": 0}, "target_sum"),
        ({"max_len": 2}, "max_len"),
    ],
)
def test_a_vocabulary_that_contradicts_itself(changed, message):
    with pytest.raises(VocabularyError, match=message):
        a_vocabulary(**changed)


def edit(folder, name, old, new):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("genes.tsv", "\t1.5", "\t1.6", "changed by hand.*content hash"),
        ("genes.tsv", "ENSG00000000010", "ENSG00000000011", "changed by hand"),
        ("vocabulary.json", '"<cls>": 2', '"<cls>": 12', "changed by hand"),
        ("vocabulary.json", '"target_sum": 10000.0', '"target_sum": 10.0', "changed by hand"),
        ("vocabulary.json", '"hash"', '"hush"', "changed by hand"),
        ("vocabulary.json", '"max_len": 128', '"max_len": "long"', "cannot be read"),
        ("vocabulary.json", '"name"', '"nome"', "vocabulary.json: name is None"),
        ("vocabulary.json", "{", "[", "cannot be read"),
        ("vocabulary.json", '"special_tokens": {', '"special_tokens": [], "x": {', "cannot be read"),
        ("genes.tsv", "\t1.5", "\tmuch", "cannot be read"),
        ("genes.tsv", "\t1.5", "", "line 2 has 3 fields"),
        ("genes.tsv", "9\t", "99999999999\t", "99999999999.; expected a whole number"),
        ("genes.tsv", "token\t", "tocken\t", "has columns"),
        ("aliases.tsv", "alias\t", "other\t", "has columns"),
    ],
)
def test_folder_changed_by_hand(tmp_path, file, old, new, message):
    a_vocabulary().save(tmp_path / "v")
    edit(tmp_path / "v", file, old, new)
    with pytest.raises(VocabularyError, match=message) as e:
        Vocabulary.load(tmp_path / "v")
    assert "\n" not in str(e.value)


def test_symbols_and_aliases_may_be_edited(tmp_path):
    """They are ways to find a gene and not its meaning: the hash leaves them out."""
    a_vocabulary().save(tmp_path / "v")
    edit(tmp_path / "v", "genes.tsv", "TEN", "ZEHN")
    assert Vocabulary.load(tmp_path / "v").lookup(["ZEHN", "TEN"]).tolist() == [0, -1]


@pytest.mark.parametrize("missing", ["vocabulary.json", "genes.tsv"])
def test_folder_without_a_part(tmp_path, missing):
    a_vocabulary().save(tmp_path / "v")
    (tmp_path / "v" / missing).unlink()
    with pytest.raises(VocabularyError, match=f"{missing} is missing"):
        Vocabulary.load(tmp_path / "v")


def test_save_over(tmp_path):
    a_vocabulary().save(tmp_path / "v")
    with pytest.raises(OutputError, match="force=True"):
        a_vocabulary(medians=[1, 2, 3]).save(tmp_path / "v")
    a_vocabulary(medians=[1, 2, 3], aliases={}).save(tmp_path / "v", force=True)
    assert Vocabulary.load(tmp_path / "v").medians.tolist() == [1, 2, 3]
    assert sorted(p.name for p in (tmp_path / "v").iterdir()) == ["genes.tsv", "vocabulary.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["v"]


# Names


def test_lookup():
    v = Vocabulary(
        name="names",
        genes=["ENSG00000000001", "ENSG00000000002", "ENSG00000000003", "ENSG00000000004", "CD8A", "ENSG00000000006", "ENSG00000143420"],
        symbols=["ONE", "TWIN", "TWIN", "CD8A", "EIGHT", "", "ENSA"],
        tokens=range(1, 8),
        medians=np.ones(7),
        special={"<pad>": 0},
        aliases={"UNO": "ENSG00000000001", "TWIN": "ENSG00000000006", "ONE": "ENSG00000000002", "LOST": "ENSG00000000099"},
    )
    expected = {
        "ENSG00000000001": 0,
        "ENSG00000000001.7": 0,
        "ENSG00000000001.": 0,
        "ensg00000000001": 0,
        "EnsG00000000001.12": 0,
        " ENSG00000000001 ": 0,
        "ENSG00000000001.x": -1,
        "ENSG00000000001.2_PAR_Y": -1,
        "ENSG0000000000": -1,
        "ONE": 0,  # a symbol wins over an alias
        "one": -1,  # a change of case would make a mouse gene human
        "UNO": 0,
        "Uno": -1,
        "TWIN": -1,  # the symbol of two genes names neither, and no alias decides
        "LOST": -1,  # an alias of a gene that is not there
        "CD8A": 4,  # an id wins over the symbol of another gene
        "EIGHT": 4,
        "ENSA": 6,
        "Ensa": -1,  # mouse Ensa, although it begins as Ensembl ids do
        "": -1,
        "nan": -1,
    }
    assert dict(zip(expected, v.lookup(expected).tolist(), strict=True)) == expected
    assert v.lookup([]).tolist() == [] and v.lookup(["ONE"]).dtype == np.int32
    assert v.find("UNO") == 0
    with pytest.raises(SettingsError, match=r"'Ensa' is not in vocabulary 'names' \(7 genes, such as ENSG00000000001 \(ONE\)"):
        v.find("Ensa")
    assert [v.label(i) for i in (0, 4, 5)] == ["ONE", "EIGHT", "ENSG00000000006"]


def test_tokens_and_their_names():
    v = a_vocabulary()
    assert v.n_ids == 10
    assert v.gene_of_token.tolist() == [-1, -1, -1, -1, 0, 2, -1, -1, -1, 1]
    assert [v.describe_token(t) for t in (0, 2, 4, 5, 9)] == ["<pad>", "<cls>", "ENSG00000000010", "ENSG00000000030", "LOC7"]
    assert [v.describe_token(t) for t in (6, 10, -1)] == ["<unknown 6>", "<unknown 10>", "<unknown -1>"]
    assert (v.pad, v.mask, a_vocabulary(special={"<pad>": 0}).mask) == (0, 1, None)


def test_frame():
    v = a_vocabulary()
    assert v.frame == v.make_frame(cls=True) == Frame((2,), (3,))
    assert v.make_frame(cls=False) == Frame() and len(v.frame) == 2 and v.frame.has_cls and not Frame().has_cls
    assert a_vocabulary(special={"<pad>": 0, "<cls>": 2}).frame == Frame((2,), ())
    plain = a_vocabulary(special={"<pad>": 0, "<eos>": 3})
    assert plain.frame == Frame()
    with pytest.raises(SettingsError, match="cls=False"):
        plain.make_frame(cls=True)
    row = np.array([2, 7, 8, 3], np.int32)
    assert v.frame.body(row).tolist() == [7, 8] and Frame().body(row).tolist() == [2, 7, 8, 3]
    assert v.frame.span(4) == (1, 3) and Frame().span(4) == (0, 4)
    assert v.frame.wrap(np.array([7, 8, 9]), max_len=4).tolist() == [2, 7, 8, 3]
    assert v.frame.wrap(np.array([7]), max_len=4).tolist() == [2, 7, 3]
    assert [v.frame.matches(np.array(r)) for r in ([2, 7, 3], [2, 3], [2, 7], [7, 3], [3], [])] == [True, True, False, False, False, False]
    assert Frame().matches(np.array([], int)) and Frame.from_json(v.frame.to_json()) == v.frame
    for bad in (None, {"head": [1]}, {"head": ["x"], "tail": []}):
        with pytest.raises(TokensError, match="not a frame"):
            Frame.from_json(bad)


def test_find_vocabulary(tmp_path, monkeypatch):
    v = a_vocabulary()
    v.save(tmp_path / "mine")
    assert find_vocabulary(v) is v and find_vocabulary(tmp_path / "mine") == v
    assert find_vocabulary("demo") == find_vocabulary("pbmc68k")
    with pytest.raises(VocabularyError, match=r"no vocabulary 'human'.*demo, .*pbmc68k"):
        find_vocabulary("human")
    with pytest.raises(VocabularyError, match=r"'geneformer-v2' is not fetched yet: run 'rankcell vocab fetch geneformer-v2'"):
        find_vocabulary("geneformer-v2")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pbmc68k").mkdir()  # somebody's folder of that name, without a vocabulary in it, is not in the way
    assert len(find_vocabulary("pbmc68k")) == 765
    v.save(tmp_path / "pbmc68k", force=True)
    assert find_vocabulary("pbmc68k") == v


# Built from counts


def test_build_medians_by_hand(tmp_path):
    """Cells with totals 4, 10, 20: gene A shows 2/4, 5/10 -> 5000 both; B 2/4, 1/20 -> median of 5000 and 500; C 5/10; D nowhere."""
    make_adata([[2, 2, 0, 0], [5, 0, 5, 0], [0, 1, 0, 0]], n_counts=[4, 10, 20]).write_h5ad(tmp_path / "in.h5ad")
    v = call(build_vocab, [tmp_path / "in.h5ad"], tmp_path / "v", gene_column="index")
    assert v.genes == ("G0", "G1", "G2") and v.medians.tolist() == [5000, 2750, 5000] and v.tokens.tolist() == [4, 5, 6]
    assert v.special == {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3} and v.name == "v" and v.max_len == 4096
    assert v.provenance == {
        "built_from": [{"file": "in.h5ad", "cells": 3, "matrix": "X"}],
        "gene_column": "index",
        "command": "rankcell vocab build in.h5ad -o v --gene-column index",
        "n_genes_detected": 3,
        "n_columns": 4,
    }
    assert Vocabulary.load(tmp_path / "v") == v
    no_cls = call(build_vocab, [tmp_path / "in.h5ad"], tmp_path / "w", cls=False, name="x", species="y", max_len=9)  # by Ensembl ids
    assert no_cls.special == {"<pad>": 0, "<mask>": 1} and no_cls.genes[0] == "ENSG00000000000" and no_cls.symbols[0] == "G0"
    assert (no_cls.name, no_cls.species, no_cls.max_len) == ("x", "y", 9)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=1, max_size=8), st.booleans())
def test_build_medians_against_numpy(tmp_path_factory, cells, in_two_files):
    x = np.array(cells, np.float64)
    folder = tmp_path_factory.mktemp("b")
    parts = [x[: len(x) // 2], x[len(x) // 2 :]] if in_two_files and len(x) > 1 else [x]
    for i, part in enumerate(parts):
        make_adata(part).write_h5ad(folder / f"{i}.h5ad")
    files = [folder / f"{i}.h5ad" for i in range(len(parts))]
    if not x.any():
        with pytest.raises(VocabularyError, match="no gene has a count"):
            call(build_vocab, files, folder / "v", allow_repeated_cells=True)
        return
    v = call(build_vocab, files, folder / "v", allow_repeated_cells=True)  # so few counts come twice by chance
    total = x.sum(1, keepdims=True)
    normal = np.divide(x, total, out=np.zeros_like(x), where=total > 0) * 10_000
    expected = {f"ENSG{j:011d}": float(np.median(normal[normal[:, j] > 0, j])) for j in range(4) if x[:, j].any()}
    assert dict(zip(v.genes, v.medians.tolist(), strict=True)) == expected


def test_build_with_explicit_zeros_and_ids(tmp_path):
    """Columns A and B are one Ensembl id: their counts are summed within a cell; an empty cell with stored zeros counts for nothing."""
    x = sp.csr_matrix((np.array([1, 3, 4, 0, 0], np.float32), [0, 1, 2, 0, 1], [0, 3, 5]), shape=(2, 4))
    var = pd.DataFrame(index=["A", "B", "C", "ENSA"])
    ad.AnnData(x, obs=pd.DataFrame(index=["x", "y"]), var=var).write_h5ad(tmp_path / "in.h5ad")
    (tmp_path / "ids.tsv").write_text("symbol\tensembl_id\nA\tENSG00000000001\nB\tENSG00000000001\nC\t\n")
    v = call(build_vocab, [tmp_path / "in.h5ad"], tmp_path / "v", ids=tmp_path / "ids.tsv")
    assert v.genes == ("ENSG00000000001", "C") and v.symbols == ("A", "C") and v.medians.tolist() == [5000, 5000]
    assert v.provenance["command"] == "rankcell vocab build in.h5ad -o v --ids ids.tsv"
    assert Vocabulary.load(tmp_path / "v").genes == v.genes


def test_build_takes_the_column_of_ensembl_ids_without_versions(tmp_path):
    adata = make_adata([[1, 2, 3]])
    adata.var["ensembl_id"] = ["ENSG00000000007.12", "", "ENSG00000000008"]
    adata.write_h5ad(tmp_path / "in.h5ad")
    v = call(build_vocab, [tmp_path / "in.h5ad"], tmp_path / "v")
    assert v.genes == ("ENSG00000000007", "G1", "ENSG00000000008") and v.symbols == ("G0", "G1", "G2")


def test_build_keeps_a_symbol_that_looks_like_an_id(tmp_path):
    adata = make_adata([[1, 1]])
    adata.var_names = ["ENSA", "ENSG00000000002"]
    adata.write_h5ad(tmp_path / "in.h5ad")
    (tmp_path / "ids.tsv").write_text("symbol\tensembl_id\nENSA\tENSG00000143420\n")
    v = call(build_vocab, [tmp_path / "in.h5ad"], tmp_path / "v", ids=tmp_path / "ids.tsv")
    assert v.symbols == ("ENSA", "") and v.lookup(["ENSA"]).tolist() == [0]


def test_build_refuses_what_it_cannot_open(tmp_path):
    make_adata([[1, 2]]).write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(GeneError, match="no gene column 'nope'"):
        call(build_vocab, [tmp_path / "a.h5ad"], tmp_path / "v", gene_column="nope")
    with pytest.raises(InputError, match="no count file"):
        call(build_vocab, [], tmp_path / "v")
    with pytest.raises(InputError, match="no such file"):
        call(build_vocab, [tmp_path / "a.h5ad", tmp_path / "b.h5ad"], tmp_path / "v")
    with pytest.raises(InputError, match=r"a\.h5ad is named twice"):
        call(build_vocab, [tmp_path / "a.h5ad", tmp_path / "." / "a.h5ad"], tmp_path / "v")
    with pytest.raises(SettingsError, match="min_cells is 0"):
        call(build_vocab, [tmp_path / "a.h5ad"], tmp_path / "v", min_cells=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5ad"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("symbol,ensembl_id\nA,E\n", "not a table"), ("", "not a table"), ("symbol\tensembl_id\nA\n", "line 2"), (None, "no such file")],
)
def test_tables_of_ids_that_are_none(tmp_path, text, message):
    make_adata([[1, 2]]).write_h5ad(tmp_path / "a.h5ad")
    if text is not None:
        (tmp_path / "ids.tsv").write_text(text)
    with pytest.raises(VocabularyError, match=message):
        call(build_vocab, [tmp_path / "a.h5ad"], tmp_path / "v", ids=tmp_path / "ids.tsv")


# What ships


@pytest.fixture(scope="module")
def pbmc68k():
    from rankcell import datasets

    return datasets.pbmc68k()


def test_pbmc68k_has_scanpys_counts(pbmc68k):
    """The counts are whole numbers, and log1p of each row times one factor is scanpy's raw to its three decimals."""
    import warnings

    import scanpy as sc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy's own file is of an old anndata, whose reader warns
        shipped = sc.datasets.pbmc68k_reduced()
    x = pbmc68k.X.toarray().astype(np.float64)
    assert x.shape == (700, 765) and (x == np.rint(x)).all() and x.min() == 0 and (x.sum(1) > 0).all()
    raw = shipped.raw.X.toarray().astype(np.float64)
    assert ((x > 0) == (raw > 0)).all() and np.abs(raw * 1000 - np.rint(raw * 1000)).max() < 1e-3
    for counts, logged in zip(x, raw, strict=True):  # one factor lies within the rounding of every entry of the row
        shown = counts > 0
        low = np.expm1(logged[shown] - 0.000501) / counts[shown]
        high = np.expm1(logged[shown] + 0.000501) / counts[shown]
        assert low.max() <= high.min()
    assert list(pbmc68k.obs_names) == list(shipped.obs_names) and list(pbmc68k.var_names) == list(shipped.raw.var_names)
    assert (pbmc68k.obs["n_counts"].to_numpy() >= x.sum(1)).all()
    assert pbmc68k.obs["bulk_labels"].nunique() == 10


def test_shipped_vocabulary_is_what_build_makes(pbmc68k, tmp_path):
    pbmc68k.write_h5ad(tmp_path / "pbmc68k.h5ad")
    table = ROOT / "tokenizer_dicts" / "pbmc68k.symbols.tsv"
    made = call(build_vocab, [tmp_path / "pbmc68k.h5ad"], tmp_path / "pbmc68k", ids=table, species="human")
    shipped = Vocabulary.load(shipped_vocabularies()["pbmc68k"])
    assert made == shipped and made.symbols == shipped.symbols and made.provenance == shipped.provenance
    for name in ("genes.tsv", "vocabulary.json"):
        assert (tmp_path / "pbmc68k" / name).read_bytes() == (ROOT / "tokenizer_dicts" / "pbmc68k" / name).read_bytes()


# Geneformer's pickles


def dump(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


PLAIN = {"<pad>": np.int16(0), "<mask>": np.int16(1), "ENSG00000000002": np.int16(3), "ENSG00000000001": np.int16(2)}
SPECIAL = {"<pad>": 0, "<mask>": 1, "ENSG00000000001": 4, "ENSG00000000002": 5, "<cls>": 2, "<eos>": 3}
MEDIANS = {"ENSG00000000001": 1.5, "ENSG00000000002": np.float64(0.1), "ENSG00000000003": 9.0}


@pytest.mark.parametrize("protocol", range(6))
def test_import_without_cls(tmp_path, protocol):
    v = import_geneformer(dump(tmp_path / "t.pkl", PLAIN, protocol), dump(tmp_path / "m.pkl", MEDIANS, protocol))
    assert v.genes == ("ENSG00000000001", "ENSG00000000002") and v.tokens.tolist() == [2, 3] and v.medians.tolist() == [1.5, 0.1]
    assert v.special == {"<pad>": 0, "<mask>": 1} and v.max_len == 2048 and v.frame == Frame() and v.name == "t"
    assert v.provenance["imported_from"]["tokens"]["bytes"] == (tmp_path / "t.pkl").stat().st_size


def test_import_with_cls_symbols_and_mapping(tmp_path):
    import collections

    v = import_geneformer(
        dump(tmp_path / "t.pkl", collections.OrderedDict(SPECIAL)),
        dump(tmp_path / "m.pkl", MEDIANS),
        symbols=dump(tmp_path / "s.pkl", {"ONE": "ENSG00000000001", "EINS": "ENSG00000000001", "NINE": "ENSG00000000009"}),
        mapping=dump(tmp_path / "a.pkl", {"OLD": "ENSG00000000002", "ENSG00000000002": "ENSG00000000002", "GONE": "ENSG00000000009"}),
        name="mine",
    )
    assert v.symbols == ("EINS", "") and v.aliases == {"OLD": "ENSG00000000002"} and v.max_len == 4096 and v.frame == Frame((2,), (3,))
    assert v.lookup(["EINS", "OLD", "ENSG00000000002", "NINE", "GONE"]).tolist() == [0, 1, 1, -1, -1]
    assert sorted(v.provenance["imported_from"]) == ["mapping", "medians", "symbols", "tokens"]
    made = import_vocab(tmp_path / "v", tokens=tmp_path / "t.pkl", medians=tmp_path / "m.pkl", max_len=77)
    assert Vocabulary.load(tmp_path / "v") == made == v and made.max_len == 77 and made.name == "v"


def test_sufficient_subsets_and_numbers_of_every_kind(tmp_path):
    """Tokens and medians are enough; whole numbers may be written as floats, and numbers in any type of numpy."""
    v = import_geneformer(
        dump(tmp_path / "t.pkl", {"<pad>": 0.0, "A": np.uint8(1), "B": np.int64(2), "C": 3.0, "D": np.float16(4)}),
        dump(tmp_path / "m.pkl", {"A": 1, "B": np.int16(2), "C": np.float32(0.5), "D": np.dtype(">f8").type(7), "E": float("nan")}),
    )
    assert v.tokens.tolist() == [1, 2, 3, 4] and v.medians.tolist() == [1, 2, 0.5, 7] and not any(v.symbols) and not v.aliases
    symbols = dump(tmp_path / "s.pkl", {"ONE": "A", "TWO": None, None: "B", "THREE": float("nan")})  # what is missing names nothing
    mapping = dump(tmp_path / "a.pkl", {np.str_("UNO"): np.str_("A"), "OTHER": "Z"})
    for options in ({}, {"symbols": symbols}, {"mapping": mapping}, {"symbols": symbols, "mapping": mapping}):
        w = import_geneformer(tmp_path / "t.pkl", tmp_path / "m.pkl", **options)
        assert w == v and sorted(w.provenance["imported_from"]) == sorted(["tokens", "medians", *options])
        assert w.lookup(["ONE", "UNO", "TWO"]).tolist() == [0 if "symbols" in options else -1, 0 if "mapping" in options else -1, -1]
    with pytest.raises(VocabularyError, match="entry 'A': 1 does not belong in a symbol dictionary, which holds a symbol and a gene id"):
        import_geneformer(tmp_path / "t.pkl", tmp_path / "m.pkl", symbols=dump(tmp_path / "x.pkl", {"A": 1}))


@pytest.mark.parametrize(
    ("tokens", "medians", "message"),
    [
        ([1, 2], MEDIANS, "nothing of it was run: a list where a dict of plain values is expected"),
        ({}, MEDIANS, "holds an empty dict"),
        ({1: 2}, MEDIANS, "entry 1: 2 does not belong"),
        ({"<pad>": 0.5}, MEDIANS, "entry '<pad>': 0.5 does not belong"),
        ({"<pad>": float("inf")}, MEDIANS, "does not belong"),
        ({"<pad>": None}, MEDIANS, "does not belong"),
        ({"<pad>": True}, MEDIANS, "True does not belong in a token dictionary, which holds a gene and a whole number an entry"),
        ({"<pad>": "0"}, MEDIANS, "does not belong"),
        ({"<pad>": np.float32(np.nan)}, MEDIANS, "nan does not belong"),
        ({"<pad>": b"0"}, MEDIANS, "does not belong"),
        ({"A": 1}, MEDIANS, "no <pad> entry"),
        (PLAIN | {"<bos>": 9}, MEDIANS, "special tokens that are not known here: <bos>"),
        (PLAIN, {"ENSG00000000001": 1.0}, "1 of 2 genes have no median.*ENSG00000000002"),
        (PLAIN, MEDIANS | {"ENSG00000000001": "x"}, "'x' does not belong in a median dictionary"),
        (PLAIN, MEDIANS | {"ENSG00000000001": "1.5"}, "'1.5' does not belong in a median dictionary, which holds a gene and a number"),
        (PLAIN, MEDIANS | {"ENSG00000000001": True}, "True does not belong"),
        (PLAIN, MEDIANS | {"ENSG00000000001": 0.0}, "median of ENSG00000000001 is 0.0; medians are above zero"),
        (PLAIN, MEDIANS | {"ENSG00000000001": -1}, "median of ENSG00000000001 is -1.0"),
        (PLAIN, MEDIANS | {"ENSG00000000001": np.float32(np.nan)}, "median of ENSG00000000001 is nan"),
        (PLAIN, MEDIANS | {"ENSG00000000001": float("inf")}, "median of ENSG00000000001 is inf"),
        (PLAIN | {"ENSG00000000001": -3}, MEDIANS, "negative"),
        (PLAIN | {"A\nB": 7}, MEDIANS, r"1 of 3 genes have no median in .*such as 'A\\nB'"),
        (PLAIN | {"ENSG00000000001": 3}, MEDIANS, "stands for two things"),
        (PLAIN | {"ENSG00000000001": 10**12}, MEDIANS, "1000000000000"),
    ],
)
def test_dictionaries_that_make_no_sense(tmp_path, tokens, medians, message):
    with pytest.raises(VocabularyError, match=message) as e:
        import_geneformer(dump(tmp_path / "t.pkl", tokens), dump(tmp_path / "m.pkl", medians))
    assert "\n" not in str(e.value)


class Runs:
    """Pickles to a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(marker):
    """Pickles that would make the file `marker` if anything of them ran, or that are no dictionaries at all."""
    code = f"open({str(marker)!r}, 'w').close()"
    touch = f"touch {marker}"
    c_global = pickle.GLOBAL  # a global by its dotted name, which pickle.dumps does not write by itself
    yield "os.system", pickle.dumps({"<pad>": Runs(os.system, touch)})
    yield "eval", pickle.dumps({"<pad>": Runs(eval, code)})
    yield "exec in a key", pickle.dumps({(Runs(exec, code),): 0})
    yield "in a nested value", pickle.dumps({"<pad>": 0, "a": [{"b": (Runs(os.system, touch),)}]})
    yield "nested names", b"\x80\x04\x8c\x05numpy\x8c\x12dtype.type.__new__\x93."
    yield "through numpy", b"\x80\x04\x8c\x05numpy\x8c\x0fload.__globals__\x93."
    yield "through builtins.getattr", c_global + b"builtins\ngetattr\n(c__builtin__\n__import__\nS'x'\ntR."
    yield "posix.system", c_global + b"posix\nsystem\n(S'" + touch.encode() + b"'\ntR."
    yield "numpy.f2py", c_global + b"numpy.f2py.diagnose\nrun\n(tR."
    yield "object scalar", pickle.dumps({"a": np.dtype("O")})
    yield "array of objects", pickle.dumps({"a": np.array([Runs(os.system, touch)], dtype=object)})
    yield "persistent id", b"\x80\x04\x8c\x01xQ."
    yield "persistent id, text", b"Px\n."
    yield "instance", c_global + b"collections\nOrderedDict\n(tR}(S'a'\n" + c_global + b"os\nsystem\ndb."
    yield "extension code", b"\x80\x02\x82\x01."
    yield "a set class", pickle.dumps({"a": frozenset([Runs(os.system, touch)])})
    yield "git-lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    yield "text", b"gene,token\nA,1\n"
    yield "empty", b""
    yield "cut short", pickle.dumps(PLAIN)[:-20]
    yield "deep nesting", b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b"."
    yield "claims a huge string", b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"."
    yield "claims a huge scalar", b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02f8\x85R."


@pytest.mark.parametrize("role", ["tokens", "medians", "mapping", "symbols"])
def test_hostile_pickles_are_refused_and_nothing_runs(tmp_path, role):
    marker = tmp_path / "ran"
    for what, content in hostile(marker):
        files = {
            "tokens": dump(tmp_path / "t.pkl", PLAIN),
            "medians": dump(tmp_path / "m.pkl", MEDIANS),
            "mapping": dump(tmp_path / "a.pkl", {"x": "y"}),
            "symbols": dump(tmp_path / "s.pkl", {"x": "y"}),
        }
        files[role].write_bytes(content)
        with pytest.raises(VocabularyError) as e:
            import_geneformer(files["tokens"], files["medians"], mapping=files["mapping"], symbols=files["symbols"])
        assert files[role].name in str(e.value), what
        assert not marker.exists(), what


def test_the_hostile_pickles_would_run(tmp_path):
    """The cases above mean something: the plain unpickler runs them."""
    marker = tmp_path / "ran"
    ran = set()
    for what, content in hostile(marker):
        if what in ("os.system", "eval", "in a nested value", "posix.system", "array of objects"):
            with open(os.devnull, "w"):
                pickle.loads(content)
            if marker.exists():
                ran.add(what)
                marker.unlink()
    assert ran == {"os.system", "eval", "in a nested value", "posix.system", "array of objects"}


def test_pointers_and_missing_files_say_what_to_do(tmp_path):
    (tmp_path / "t.pkl").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    with pytest.raises(VocabularyError, match="git lfs pull"):
        import_geneformer(tmp_path / "t.pkl", tmp_path / "m.pkl")
    with pytest.raises(VocabularyError, match=r"no file .*nothing\.pkl"):
        import_geneformer(tmp_path / "nothing.pkl", tmp_path / "m.pkl")


# In words


def test_show_spells_the_provenance_out(tmp_path):
    nested = {"built_from": [{"file": "a.h5ad", "cells": 1200}], "files": {"tokens": {"bytes": 10, "parts": ["x", "y"]}}, "passes": 2}
    a_vocabulary(provenance=nested | {"command": "rankcell", "none": []}).save(tmp_path / "v")
    lines = vocabulary_lines(Vocabulary.load(tmp_path / "v"))
    assert lines[lines.index("provenance") :] == [
        "provenance",
        "  built_from",
        "    - file a.h5ad, cells 1,200",
        "  files",
        "    tokens",
        "      bytes 10",
        "      parts x, y",
        "  passes     2",
        "  command    rankcell",
        "  none",
    ]
    a_vocabulary(provenance={}).save(tmp_path / "w")
    assert "provenance" not in vocabulary_lines(Vocabulary.load(tmp_path / "w"))


def test_list_names_what_ships_and_what_can_be_fetched(capsys):
    assert main(["vocab", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("pbmc68k") and "765 genes" in lines[0]
    assert [line.split("  ")[0] for line in lines[1:]] == ["geneformer-v1", "geneformer-v2"]
    assert all(f"not fetched: rankcell vocab fetch {line.split()[0]}" in line for line in lines[1:])
