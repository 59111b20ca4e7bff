"""Tokens against a plain reference, and token sets as folders that `datasets` reads."""

import hashlib
import json
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp
from builders import make_adata, make_vocab
from flat_options import tokens_of_flat
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import rank_values, reference_row, stored_cells

import rankcell
import rankcell as rc
from rankcell.errors import CellError, RankcellWarning, SettingsError, TokensError, VocabularyError
from rankcell.tokens import Tokenizer, TokenSet, TokenSpec
from rankcell.vocab import Frame

SPECIALS = ("<pad>", "<mask>", "<cls>", "<eos>")
MEDIANS = [1.0, 2.0, 0.5, 1 / 3, 3.0, 0.7]


def rows(tokens):
    return [r.tolist() for r in tokens]


def anndata_of(matrix, gene_of_column, n_counts=None):
    """An AnnData whose var column `gene` names gene numbers of `make_vocab`; None becomes a gene it does not know."""
    names = [f"unknown{c}" if g is None else f"ENSG{g:011d}" for c, g in enumerate(gene_of_column)]
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(matrix.shape[0])])
    if n_counts is not None:
        obs["n_counts"] = n_counts
    return ad.AnnData(matrix, obs=obs, var=pd.DataFrame({"gene": names}, index=[f"column{c}" for c in range(len(names))]))


def expected_rows(matrix, gene_of_column, vocab, n_counts=None, **how):
    totals = [None] * matrix.shape[0] if n_counts is None else n_counts
    return [reference_row(c, n, gene_of_column, vocab, **how) for c, n in zip(stored_cells(matrix), totals, strict=True)]


def test_two_cells_written_out():
    """Values count / n_counts * 10,000 / median: cell 0 has 2/10/1, 3/10/2, 5/10/5 -> 2000, 1500, 1000; cell 1 only gene 2."""
    vocab = make_vocab(3, medians=[1.0, 2.0, 5.0])
    tokens = Tokenizer(vocab).tokenize(make_adata([[2, 3, 5], [0, 0, 1]]))
    assert rows(tokens) == [[2, 4, 5, 6, 3], [2, 6, 3]]
    assert tokens.cell_ids == ["cell0", "cell1"]
    assert rows(Tokenizer(vocab, rc.Tokenizing(cls=False)).tokenize(make_adata([[2, 3, 5], [0, 0, 1]]))) == [[4, 5, 6], [6]]
    assert rows(Tokenizer(vocab, rc.Tokenizing(max_len=4)).tokenize(make_adata([[2, 3, 5], [0, 0, 1]]))) == [[2, 4, 5, 3], [2, 6, 3]]


def test_ties_keep_the_genes_order_in_the_input():
    vocab = make_vocab(4)
    matrix = sp.csr_matrix(np.array([[1, 2, 1, 1]], np.float32))
    assert rows(Tokenizer(vocab, rc.Tokenizing(cls=False)).tokenize(anndata_of(matrix, [3, 0, 2, 1]), counts=rc.Counts(gene_column="gene"))) == [[4, 7, 6, 5]]


def test_columns_of_one_gene_are_summed():
    """Genes 1, 0, 1: gene 1 has 2 + 2 and beats gene 0 with 3; apart, gene 0 would come first."""
    matrix = sp.csr_matrix(np.array([[2, 3, 2]], np.float32))
    assert rows(Tokenizer(make_vocab(2), rc.Tokenizing(cls=False)).tokenize(anndata_of(matrix, [1, 0, 1]), counts=rc.Counts(gene_column="gene"))) == [[5, 4]]


@st.composite
def matrices(draw):
    """A small CSR matrix with ties, explicit zeros, unsorted and repeated columns, and which gene each column is."""
    dtype = draw(st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.uint16]))
    n_columns = draw(st.integers(1, 8))
    gene_of_column = draw(st.lists(st.sampled_from([None, *range(6)]), min_size=n_columns, max_size=n_columns))
    gene_of_column[draw(st.integers(0, n_columns - 1))] = 0  # a matrix without a known gene is refused at the door
    entry = st.tuples(st.integers(0, n_columns - 1), st.sampled_from([0, 1, 1, 2, 3, 4, 7, 60_000]))
    cells = draw(st.lists(st.lists(entry, max_size=10), min_size=1, max_size=5))
    indptr = np.cumsum([0, *(len(c) for c in cells)])
    indices = [column for c in cells for column, _ in c]
    data = np.array([x for c in cells for _, x in c], dtype)
    matrix = sp.csr_matrix((data, np.array(indices, np.int32), indptr.astype(np.int32)), shape=(len(cells), n_columns))
    kind = draw(st.sampled_from([None, np.float32, np.float64, np.int64, np.int32]))
    totals = st.lists(st.integers(1, 90_000), min_size=len(cells), max_size=len(cells))
    return matrix, gene_of_column, None if kind is None else np.array(draw(totals), kind)


def tokenize_quietly(vocab, source, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankcellWarning)  # cells without genes are drawn on purpose
        return tokens_of_flat(vocab, source, **how)


@settings(deadline=None, max_examples=60)
@given(matrices(), st.sampled_from([None, True, False]), st.sampled_from([3, 4, 6, 64]), st.booleans())
def test_kernel_against_reference(case, cls, max_len, with_specials):
    matrix, gene_of_column, n_counts = case
    vocab = make_vocab(6, medians=MEDIANS, special=SPECIALS if with_specials else SPECIALS[:2])
    if cls and not with_specials:
        with pytest.raises(SettingsError, match="no <cls>"):
            Tokenizer(vocab, rc.Tokenizing(cls=cls))
        return
    found = tokenize_quietly(vocab, anndata_of(matrix, gene_of_column, n_counts), gene_column="gene", cls=cls, max_len=max_len)
    scalars = None if n_counts is None else n_counts if n_counts.dtype == np.float32 else n_counts.astype(np.float64)
    assert rows(found) == expected_rows(matrix, gene_of_column, vocab, scalars, cls=cls, max_len=max_len)
    assert found.lengths.tolist() == [len(r) for r in rows(found)] == found.table["length"].to_pylist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("given_counts", [None, np.float32, np.float64])
@pytest.mark.parametrize("max_len", [64, 2048])
def test_wide_cells_against_reference(dtype, given_counts, max_len):
    """Cells of hundreds of genes (the radix sort), full of ties and near-ties, cropped and whole."""
    rng = np.random.default_rng(0)
    n = 400
    vocab = make_vocab(n, medians=rng.choice(rng.lognormal(0, 1, 40), n))
    dense = rng.poisson(rng.lognormal(0.5, 1.5, n), (12, n)).astype(dtype)
    matrix = sp.csr_matrix(dense)
    assert max(np.diff(matrix.indptr)) > 200
    gene_of_column = rng.permutation(n).tolist()
    n_counts = None if given_counts is None else (dense.sum(1) * 1.7).astype(given_counts)
    found = Tokenizer(vocab, rc.Tokenizing(max_len=max_len)).tokenize(anndata_of(matrix, gene_of_column, n_counts), counts=rc.Counts(gene_column="gene"))
    assert rows(found) == expected_rows(matrix, gene_of_column, vocab, n_counts, max_len=max_len)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, np.uint16])
@pytest.mark.parametrize("total_type", [np.float32, np.float64, np.int64])
def test_reference_is_scipys_sparse_arithmetic(dtype, total_type):
    """The reference's values are, to the bit, those of the expression in Geneformer's tokenizer."""
    rng = np.random.default_rng(1)
    x = rng.poisson(2.0, (20, 30))
    n_counts = x.sum(1).astype(total_type) + total_type(17)
    medians = rng.lognormal(0, 1, 30)
    as_scipy = sp.csr_matrix(x.astype(dtype)) / n_counts[:, None] * 10_000 / medians
    values = sp.csr_matrix(as_scipy).toarray()
    for i, cell in enumerate(stored_cells(sp.csr_matrix(x.astype(dtype)))):
        mine = {gene: v for v, _, gene in rank_values(cell, n_counts[i], list(range(30)), medians)}
        assert mine == {g: values[i, g] for g in mine} and set(mine) == set(np.flatnonzero(x[i]))


def test_arithmetic_is_seen_in_the_order():
    """Counts 3, 7 and 11 over medians 3, 7 and 11 are equal but for rounding: each pair of types has an order of its own."""
    vocab = make_vocab(3, medians=[3.0, 7.0, 11.0])
    totals = np.arange(20, 520)
    seen = []
    for matrix_type, total_type in [(np.float32, np.float32), (np.float64, np.float32), (np.float64, np.float64)]:
        n_counts = totals.astype(total_type)
        matrix = sp.csr_matrix(np.tile([3, 7, 11], (len(totals), 1)).astype(matrix_type))
        seen.append(expected_rows(matrix, [0, 1, 2], vocab, n_counts))
        assert rows(Tokenizer(vocab).tokenize(anndata_of(matrix, [0, 1, 2], n_counts), counts=rc.Counts(gene_column="gene"))) == seen[-1]
        whole = anndata_of(matrix.astype(np.int32), [0, 1, 2], n_counts)
        if matrix_type == np.float64:  # whole numbers of 32 bits are multiplied as float64
            assert rows(Tokenizer(vocab).tokenize(whole, counts=rc.Counts(gene_column="gene"))) == seen[-1]
    assert seen[0] != seen[1] != seen[2] != seen[0]


def test_totals_that_do_not_fit_the_matrix_type():
    """Two uint8 counts of 200 have the total 400, which uint8 cannot hold; the order is that of the same counts in float64."""
    counts = np.array([[200, 200, 1], [255, 255, 255]])
    vocab = make_vocab(3, medians=[1.0, 0.9, 0.001])
    small = Tokenizer(vocab).tokenize(anndata_of(sp.csr_matrix(counts.astype(np.uint8)), [0, 1, 2]), counts=rc.Counts(gene_column="gene"))
    wide = Tokenizer(vocab).tokenize(anndata_of(sp.csr_matrix(counts.astype(np.float64)), [0, 1, 2]), counts=rc.Counts(gene_column="gene"))
    assert rows(small) == rows(wide) == [[2, 6, 5, 4, 3], [2, 6, 5, 4, 3]]


@pytest.fixture(scope="module")
def counts():
    """40 cells x 30 columns of 24 genes with ties; cell 7 is empty."""
    rng = np.random.default_rng(2)
    dense = rng.poisson(0.8, (40, 30)).astype(np.float32)
    dense[7] = 0
    gene_of_column = [*range(20), None, None, 3, 5, 20, 21, 22, 23, 23, None]
    vocab = make_vocab(24, medians=rng.choice([0.5, 1.0, 2.0], 24), max_len=12)
    adata = anndata_of(sp.csr_matrix(dense), gene_of_column)
    adata.obs["batch"] = pd.Categorical(rng.choice(["a", "b"], 40))
    adata.obs["score"] = np.where(np.arange(40) % 5, np.arange(40) / 4, np.nan)
    return adata, gene_of_column, vocab


STORED = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": lambda x: x.toarray()}


@pytest.mark.parametrize("storage", STORED)
@pytest.mark.parametrize("in_file", [False, True])
def test_same_rows_from_any_storage(counts, tmp_path, storage, in_file):
    adata, gene_of_column, vocab = counts
    expected = expected_rows(adata.X, gene_of_column, vocab)
    source = adata.copy()
    source.X = STORED[storage](adata.X)
    if in_file:
        source.write_h5ad(tmp_path / "x.h5ad")
        source = tmp_path / "x.h5ad"
    for rows_per_block, workers in [(None, None), (1, 1), (7, 3), (40, 2), (1000, 5)]:
        found = tokenize_quietly(vocab, source, gene_column="gene", rows_per_block=rows_per_block, workers=workers)
        assert rows(found) == expected
        assert found.cell_ids == list(adata.obs_names)


@pytest.mark.parametrize("rows_per_block", [None, 1, 11])
def test_written_folder_is_the_set_in_memory(counts, tmp_path, rows_per_block):
    adata, _, vocab = counts
    ticks = []
    with pytest.warns(RankcellWarning, match="1 of 40 cells"):
        written = Tokenizer(vocab, rc.Tokenizing(rows_per_block=rows_per_block)).write(
            adata, tmp_path / "t.dataset", obs=["batch", "score"], counts=rc.Counts(gene_column="gene"), progress=lambda *t: ticks.append(t)
        )
    held = tokenize_quietly(vocab, adata, gene_column="gene", obs=["batch", "score"])
    assert rows(written) == rows(held) and written.cell_ids == held.cell_ids and written.fingerprint == held.fingerprint
    assert written.obs("batch").tolist() == held.obs("batch").tolist() == adata.obs["batch"].tolist()
    np.testing.assert_array_equal(written.obs("score"), adata.obs["score"])
    assert written.spec == held.spec
    assert ticks[-1] == (40, 40) and [t[0] for t in ticks] == sorted(t[0] for t in ticks)
    assert [p.name for p in tmp_path.iterdir()] == ["t.dataset"]


def test_same_input_same_bytes(counts, tmp_path):
    adata, _, vocab = counts
    for name in ("one", "two"):
        with pytest.warns(RankcellWarning):
            Tokenizer(vocab, rc.Tokenizing(workers=len(name))).write(adata, tmp_path / name, counts=rc.Counts(gene_column="gene"))
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert one == two
    assert sorted(one) == ["data-00000-of-00001.arrow", "dataset_info.json", "rankcell.json", "state.json"]


def test_rankcell_json(tmp_path):
    adata = make_adata([[1, 0, 2], [0, 1, 0]], n_counts=np.array([3.0, 1.0], np.float32))
    adata.var["ensembl_id"] = ["ENSG00000000000", "ENSG00000000001", "ENSG99999999999"]
    adata.var_names = ["a", "b", "c"]
    adata.write_h5ad(tmp_path / "in.h5ad")
    vocab = make_vocab(3)
    Tokenizer(vocab, rc.Tokenizing(max_len=32)).write(tmp_path / "in.h5ad", tmp_path / "out")
    held = json.loads((tmp_path / "out" / "rankcell.json").read_text())
    data = (tmp_path / "out" / "data-00000-of-00001.arrow").read_bytes()
    assert held.pop("files") == {"data-00000-of-00001.arrow": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
    assert len(held.pop("hash")) == 64
    assert held == {
        "format": "rankcell-tokens-1",
        "vocabulary": "small",
        "vocabulary_hash": vocab.hash,
        "frame": {"head": [2], "tail": [3]},
        "max_len": 32,
        "source": {
            "name": "in.h5ad",
            "format": "h5ad",
            "matrix": "X",
            "gene_column": "ensembl_id",
            "genes_known": 2,
            "genes": 3,
            "n_counts": "obs n_counts",
            "cell_ids": "given",
        },
        "categories": {},
        "cropping": {"most_genes": 30, "cells": 2, "cropped": 0, "genes": 2, "unread": 0},
        "version": rankcell.__version__,
    }


def test_empty_cells_keep_their_row_and_warn_once():
    adata = make_adata([[0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 5]])
    adata.var["ensembl_id"] = ["ENSG00000000000", "ENSG00000000001", "no gene"]
    adata.var_names = ["a", "b", "c"]
    with pytest.warns(RankcellWarning) as warned:
        tokens = Tokenizer(make_vocab(3), rc.Tokenizing(rows_per_block=1)).tokenize(adata)
    assert [str(w.message).split(" cells")[0] for w in warned] == ["3 of 4"]
    assert rows(tokens) == [[2, 3], [2, 4, 3], [2, 3], [2, 3]]
    assert tokens.n_genes.tolist() == [0, 1, 0, 0]
    with pytest.warns(RankcellWarning):
        assert rows(Tokenizer(make_vocab(3), rc.Tokenizing(cls=False)).tokenize(adata)) == [[], [4], [], []]


def test_annotations_that_cannot_be_carried():
    adata = make_adata([[1, 1]], length=[1], label=["a"])
    with pytest.raises(CellError, match=r"'cluster'.*label"):
        Tokenizer(make_vocab(2)).tokenize(adata, obs=["cluster"])
    mixed = make_adata([[1, 1], [1, 0]])
    mixed.obs["mixed"] = pd.Series([1, "a"], index=mixed.obs_names, dtype=object)
    with pytest.raises(CellError, match=r"'mixed'.*several kinds"):
        Tokenizer(make_vocab(2)).tokenize(mixed, obs=["mixed"])
    tokens = Tokenizer(make_vocab(2)).tokenize(adata, obs=["label"])
    with pytest.raises(CellError, match=r"no cell column 'length'.*label.*obs='length'"):
        tokens.obs("length")


@pytest.mark.parametrize("workers", [0, -1])
def test_workers_below_one(workers):
    with pytest.raises(SettingsError, match="at least 1"):
        Tokenizer(make_vocab(2), rc.Tokenizing(workers=workers)).tokenize(make_adata([[1, 1]]))


@pytest.mark.parametrize(("max_len", "cls"), [(2, True), (1, None), (0, False), (-5, False)])
def test_max_len_without_room_for_a_gene(max_len, cls):
    with pytest.raises(SettingsError, match="give at least"):
        Tokenizer(make_vocab(2), rc.Tokenizing(max_len=max_len, cls=cls))


# TokenSet


def a_set(rows=((2, 5, 4, 3), (2, 3), (2, 6, 3)), vocab=None, **kw):
    vocab = vocab or make_vocab(4)
    return TokenSet.from_rows(rows, TokenSpec.of(vocab, frame=vocab.frame, max_len=16), **kw)


def test_token_set_of_rows(tmp_path):
    tokens = a_set(cell_ids=["x", "y", "z"], obs={"kind": ["T", "B", None], "age": [1, 2, 3]})
    assert len(tokens) == 3
    assert tokens.lengths.tolist() == [4, 2, 3] and tokens.n_genes.tolist() == [2, 0, 1]
    assert [tokens.genes(i).tolist() for i in range(3)] == [[5, 4], [], [6]]
    tokens.save(tmp_path / "set")
    opened = TokenSet.open(tmp_path / "set")
    assert rows(opened) == rows(tokens) == [[2, 5, 4, 3], [2, 3], [2, 6, 3]]
    assert opened.spec == tokens.spec and opened.fingerprint == tokens.fingerprint
    assert (
        opened.obs_columns == ["kind", "age"]
        and opened.obs("kind").tolist() == ["T", "B", None]
        and opened.obs("age").tolist() == [1, 2, 3]
    )
    assert a_set().cell_ids == ["0", "1", "2"]
    with pytest.raises(CellError, match="3 rows and 2 cell ids"):
        a_set(cell_ids=["x", "y"])


@given(st.lists(st.integers(0, 2), max_size=7))
@settings(deadline=None, max_examples=25)
def test_take(where):
    tokens = a_set(cell_ids=["x", "y", "z"], obs={"age": [1, 2, 3]})
    taken = tokens.take(where)
    assert rows(taken) == [rows(tokens)[i] for i in where]
    assert taken.cell_ids == ["xyz"[i] for i in where]
    assert taken.obs("age").tolist() == [i + 1 for i in where]
    assert taken.lengths.tolist() == [len(r) for r in rows(taken)]


def test_fingerprint_is_rows_ids_and_meaning():
    base = a_set(cell_ids=["x", "y", "z"]).fingerprint
    assert a_set(cell_ids=["x", "y", "z"], obs={"age": [1, 2, 3]}).fingerprint == base
    others = [
        a_set(cell_ids=["x", "z", "y"]),
        a_set(((2, 4, 5, 3), (2, 3), (2, 6, 3)), cell_ids=["x", "y", "z"]),
        a_set(cell_ids=["x", "y", "z"], vocab=make_vocab(4, medians=[1, 1, 1, 2])),
        a_set(cell_ids=["x", "y", "z"]).take([0, 1]),
    ]
    assert len({base, *(o.fingerprint for o in others)}) == 5


def test_set_in_several_files_and_chunks(tmp_path):
    """What `datasets` writes with several shards is one set, its rows in order."""
    import datasets

    table = {"input_ids": [[i % 4 + 4] * (i % 3) for i in range(11)], "cell_id": [f"c{i}" for i in range(11)]}
    datasets.Dataset.from_dict(table).save_to_disk(tmp_path / "plain", num_shards=3)
    vocab = make_vocab(4)
    tokens = TokenSet.open(tmp_path / "plain", vocab=vocab)
    assert rows(tokens) == table["input_ids"] and tokens.cell_ids == table["cell_id"]
    assert [tokens.row(i).tolist() for i in (10, 0, 5)] == [table["input_ids"][i] for i in (10, 0, 5)]
    assert rows(tokens.take([9, 1])) == [table["input_ids"][9], table["input_ids"][1]]


def test_datasets_reads_it(counts, tmp_path):
    import datasets

    adata, _, vocab = counts
    with pytest.warns(RankcellWarning):
        tokens = Tokenizer(vocab).write(adata, tmp_path / "t", obs=["batch", "score"], counts=rc.Counts(gene_column="gene"))
    loaded = datasets.load_from_disk(str(tmp_path / "t"))
    assert loaded.column_names == ["input_ids", "length", "cell_id", "batch", "score"]
    assert loaded["input_ids"][:] == rows(tokens)
    assert loaded["length"][:] == tokens.lengths.tolist()
    assert loaded["cell_id"][:] == list(adata.obs_names)
    assert loaded["batch"][:] == adata.obs["batch"].tolist()
    loaded.save_to_disk(tmp_path / "again")
    again = TokenSet.open(tmp_path / "again", vocab=vocab)
    assert rows(again) == rows(tokens) and again.frame == vocab.frame and again.fingerprint == tokens.fingerprint


def plain(folder, input_ids, **columns):
    import datasets

    datasets.Dataset.from_dict({"input_ids": input_ids, **columns}).save_to_disk(folder)
    return folder


def test_plain_folder_needs_a_vocabulary(tmp_path):
    folder = plain(tmp_path / "p", [[2, 5, 4, 3], [2, 3]], length=[4, 2])
    with pytest.raises(TokensError, match="pass it with vocab"):
        TokenSet.open(folder)
    tokens = TokenSet.open(folder, vocab=make_vocab(4))
    assert tokens.frame == Frame((2,), (3,)) and rows(tokens) == [[2, 5, 4, 3], [2, 3]]
    assert tokens.cell_ids == ["0", "1"] and tokens.spec.source["cell_ids"] == "row numbers"
    assert TokenSet.open(plain(tmp_path / "q", [[5, 4], []]), vocab=make_vocab(4)).frame == Frame()
    no_cls = make_vocab(4, special=SPECIALS[:2])
    assert TokenSet.open(plain(tmp_path / "r", [[5, 4], [2]]), vocab=no_cls).frame == Frame()


@pytest.mark.parametrize(
    ("input_ids", "message"),
    [
        ([[2, 5, 3], [5, 4]], "1 rows have.*1 have not"),
        ([[2, 5, 3], []], "1 rows have.*1 have not"),
        ([[2, 5, 1, 4, 3]], "1 have special tokens among the genes"),
        ([[5, 2, 4]], "1 have special tokens among the genes"),
        ([[2, 5, 8, 3]], "token 8 of row 0"),
        ([[5], [-3]], "token -3 of row 1"),
    ],
)
def test_plain_folder_that_does_not_fit(tmp_path, input_ids, message):
    with pytest.raises(TokensError, match=message):
        TokenSet.open(plain(tmp_path / "p", input_ids), vocab=make_vocab(4))


def test_another_vocabularys_frame_is_seen(tmp_path):
    """Rows with CLS and EOS, opened with a vocabulary in which those numbers are genes."""
    folder = plain(tmp_path / "p", [[2, 5, 4, 3]] * 3 + [[2, 6, 3]] * 3)
    with pytest.raises(TokensError, match="all 6 rows begin with one token.*look like another vocabulary's <cls>"):
        TokenSet.open(folder, vocab=make_vocab(8, special=SPECIALS[:2]))
    assert TokenSet.open(folder, vocab=make_vocab(8)).frame == Frame((2,), (3,))


def test_token_number_that_stands_for_nothing(tmp_path):
    from rankcell.vocab import Vocabulary

    gap = Vocabulary(name="gap", genes=["a", "b"], tokens=[4, 6], medians=[1, 1], special={"<pad>": 0})
    with pytest.raises(TokensError, match="token 5 of row 0 stands for nothing"):
        TokenSet.open(plain(tmp_path / "p", [[4, 5]]), vocab=gap)


def test_own_folder_with_another_vocabulary(tmp_path):
    a_set().save(tmp_path / "set")
    with pytest.raises(VocabularyError, match=r"tokens were made with vocabulary 'small'.*the one given has vocabulary 'other'"):
        TokenSet.open(tmp_path / "set", vocab=make_vocab(5, name="other"))
    assert len(TokenSet.open(tmp_path / "set", vocab=make_vocab(4, name="the same by another name"))) == 3


def broken_folders(folder):
    """(what was done, the folder) of token sets that cannot be read."""

    def fresh(name):
        a_set().save(folder / name)
        return folder / name

    yield "missing", folder / "nothing"
    (folder / "file").write_text("x")
    yield "file", folder / "file"
    (folder / "empty").mkdir()
    yield "empty", folder / "empty"
    for name in ("state.json", "data-00000-of-00001.arrow"):
        at = fresh(f"no {name}")
        (at / name).unlink()
        yield f"no {name}", at
        at = fresh(f"cut {name}")
        (at / name).write_bytes((at / name).read_bytes()[:100])
        yield f"cut {name}", at
    at = fresh("state of another shape")
    (at / "state.json").write_text("[1]")
    yield "state of another shape", at
    for name, text in {"spec no json": "{", "spec list": "[]", "spec format": '{"format": "rankcell-tokens-99"}'}.items():
        at = fresh(name)
        (at / "rankcell.json").write_text(text)
        yield name, at


def test_broken_folders(tmp_path):
    for what, folder in broken_folders(tmp_path):
        with pytest.raises(TokensError) as e:
            TokenSet.open(folder)
        assert folder.name in str(e.value) or "rankcell.json" in str(e.value), what


def test_selection_is_refused_with_the_remedy(tmp_path):
    import datasets

    datasets.Dataset.from_dict({"input_ids": [[4], [5], [6]]}).select([2, 0]).save_to_disk(tmp_path / "s")
    try:
        tokens = TokenSet.open(tmp_path / "s", vocab=make_vocab(4))
    except TokensError as e:
        assert "flatten_indices" in str(e)
    else:  # datasets flattens when it saves
        assert rows(tokens) == [[6], [4]]


def test_dataset_without_rows_of_tokens(tmp_path):
    import datasets

    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "s")
    with pytest.raises(TokensError, match="no list column 'input_ids'"):
        TokenSet.open(tmp_path / "s", vocab=make_vocab(4))


def test_nothing_is_left_when_writing_fails(tmp_path):
    class Broken(RuntimeError):
        pass

    def stop(done, total):
        raise Broken

    with pytest.raises(Broken):
        Tokenizer(make_vocab(2)).write(make_adata([[1, 1]]), tmp_path / "out", progress=stop)
    assert list(tmp_path.iterdir()) == []
    Tokenizer(make_vocab(2)).write(make_adata([[1, 1], [1, 0]]), tmp_path / "out")
    with pytest.raises(Broken):
        Tokenizer(make_vocab(2)).write(make_adata([[1, 1]]), tmp_path / "out", force=True, progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and len(TokenSet.open(tmp_path / "out")) == 2


def test_force_replaces_the_folder(tmp_path):
    for counts in ([[1, 1]], [[1, 0], [0, 1]]):
        Tokenizer(make_vocab(2)).write(make_adata(counts), tmp_path / "out", force=True)
    assert len(TokenSet.open(tmp_path / "out")) == 2 and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_memory_map_is_read_not_copied(tmp_path):
    a_set().save(tmp_path / "set")
    before = pa.total_allocated_bytes()
    tokens = TokenSet.open(tmp_path / "set")
    assert rows(tokens)[2] == [2, 6, 3] and pa.total_allocated_bytes() - before < 10_000
