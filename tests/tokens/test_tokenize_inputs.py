"""Many inputs, filters, kept columns, and the same bytes however the work is cut."""

import hashlib
import json
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from builders import make_adata, make_vocab
from flat_options import tokens_of_flat
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference import rank_values, stored_cells

import rankcell as rc
from rankcell.cli import main
from rankcell.counts import find_inputs
from rankcell.errors import CellError, InputError, RankcellWarning
from rankcell.tokens import Tokenizer, TokenSet
from rankcell.tokens import arrow as arrow_files

RNG = np.random.default_rng(0)


def counts(n_cells, n_genes=12, seed=0):
    return np.random.default_rng(seed).poisson(0.9, (n_cells, n_genes))


@pytest.fixture
def two(tmp_path):
    """Two count files with some cells of the same name, and their AnnDatas."""
    a = make_adata(counts(5), cell_type=pd.Categorical(list("ABABA")), age=np.arange(5), ok=[True, False, True, True, True])
    b = make_adata(counts(3, seed=1), cell_type=pd.Categorical(list("CAC")), age=np.arange(3) + 50, ok=[True, True, False])
    for name, adata in {"one": a, "two": b}.items():
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    return tmp_path, a, b


def rows(tokens):
    return [r.tolist() for r in tokens]


# Several inputs


def test_several_files_follow_each_other(two):
    folder, a, b = two
    tokenizer = Tokenizer(make_vocab())
    whole = tokenizer.tokenize([folder / "two.h5ad", folder / "one.h5ad"], obs=["cell_type", "age"])
    assert rows(whole) == rows(tokenizer.tokenize(b)) + rows(tokenizer.tokenize(a))
    assert whole.cell_ids == [f"two:cell{i}" for i in range(3)] + [f"one:cell{i}" for i in range(5)]
    assert whole.table["source"].to_pylist() == ["two"] * 3 + ["one"] * 5
    assert whole.table["cell_type"].to_pylist() == list("CAC") + list("ABABA")
    assert whole.table["age"].to_pylist() == [50, 51, 52, 0, 1, 2, 3, 4]
    assert [f["source"] for f in whole.spec.source["files"]] == ["two", "one"]
    assert whole.spec.source["files"][0]["name"] == "two.h5ad" and whole.spec.source["files"][0]["genes_known"] == 12


@pytest.mark.parametrize("named", ["folder", "pattern", "list", "mixed"])
def test_folder_and_pattern_are_their_files_in_order(two, named):
    folder, *_ = two
    (folder / "notes.txt").write_text("not counts")
    (folder / ".hidden.h5ad").write_text("not counts either")
    source = {
        "folder": folder,
        "pattern": str(folder / "*.h5ad"),
        "list": [folder / "one.h5ad", folder / "two.h5ad"],
        "mixed": [str(folder / "on?.h5ad"), folder / "two.h5ad"],
    }[named]
    tokens = Tokenizer(make_vocab()).tokenize(source)
    assert tokens.table["source"].to_pylist() == ["one"] * 5 + ["two"] * 3


def test_a_folder_of_one_file_says_its_source_too(two):
    folder, *_ = two
    (folder / "two.h5ad").unlink()
    assert Tokenizer(make_vocab()).tokenize(folder).cell_ids[0] == "one:cell0"
    assert Tokenizer(make_vocab()).tokenize(folder / "one.h5ad").cell_ids[0] == "cell0"


def test_labels_are_the_shortest_that_differ(tmp_path):
    for name in ("a/x/counts.h5ad", "b/x/counts.h5ad", "b/y/other.h5ad"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        make_adata([[1]]).write_h5ad(tmp_path / name)
    assert find_inputs(str(tmp_path / "**" / "*.h5ad")).labels == ("a/x/counts", "b/x/counts", "b/y/other")
    assert find_inputs([tmp_path / "a/x/counts.h5ad", tmp_path / "b/y/other.h5ad"]).labels == ("counts", "other")


@pytest.mark.parametrize("case", ["twice", "no match", "empty folder", "none", "missing"])
def test_inputs_that_cannot_be(two, case, capsys):
    folder, *_ = two
    (folder / "empty").mkdir()
    named, message = {
        "twice": ([folder / "one.h5ad", folder / "empty" / ".." / "one.h5ad"], "named twice"),
        "no match": ([str(folder / "*.loom")], "no file matches"),
        "empty folder": ([folder / "empty"], "without count files"),
        "none": ([], "no input"),
        "missing": ([folder / "one.h5ad", folder / "three.h5ad"], "no such file"),
    }[case]
    with pytest.raises(InputError, match=message):
        Tokenizer(make_vocab()).tokenize(named)
    if named:
        assert main(["tokenize", *map(str, named), "-o", str(folder / "out")]) == 2
        assert not (folder / "out").exists() and len(capsys.readouterr().err.splitlines()) == 1


def test_what_is_wrong_with_the_last_file_is_said_first(two, monkeypatch):
    """Nothing is ranked before every file was looked at."""
    from rankcell.tokens import ranker

    folder, *_ = two
    make_adata(counts(2)).write_h5ad(folder / "without.h5ad")
    monkeypatch.setattr(ranker.Ranker, "__call__", lambda *a, **k: pytest.fail("ranked"))
    with pytest.raises(CellError, match=r"without.h5ad has no cell column 'age'"):
        Tokenizer(make_vocab()).tokenize(folder, obs=["age"])


def test_columns_of_unlike_types(two):
    folder, _, b = two
    b.obs["age"] = [1.5, 2.5, np.nan]
    b.write_h5ad(folder / "two.h5ad")
    tokens = Tokenizer(make_vocab()).tokenize(folder, obs=["age"])
    assert tokens.table["age"].to_pylist() == [0.0, 1.0, 2.0, 3.0, 4.0, 1.5, 2.5, None]
    b.obs["age"] = ["old", "older", "oldest"]
    b.write_h5ad(folder / "two.h5ad")
    with pytest.raises(CellError, match=r"'age' holds int64 in one and string in two"):
        Tokenizer(make_vocab()).tokenize(folder, obs=["age"])


def test_categories_stay_known(two):
    folder, a, _ = two
    a.obs["stage"] = pd.Categorical(["late", "early"] * 2 + ["late"], categories=["early", "mid", "late"], ordered=True)
    a.write_h5ad(folder / "one.h5ad")
    Tokenizer(make_vocab()).write(folder / "one.h5ad", folder / "out", obs=["stage", "cell_type", "age", "ok"])
    frame = TokenSet.open(folder / "out").obs_df()
    pd.testing.assert_frame_equal(frame, a.obs[["stage", "cell_type", "age", "ok"]].rename_axis("cell_id"))
    both = Tokenizer(make_vocab()).tokenize([folder / "one.h5ad", folder / "two.h5ad"], obs=["cell_type"]).obs_df()
    assert list(both["cell_type"].cat.categories) == ["A", "B", "C"] and list(both["cell_type"]) == list("ABABACAC")
    assert list(both["source"]) == ["one"] * 5 + ["two"] * 3


def test_missing_annotations_are_null(tmp_path):
    adata = make_adata(counts(3))
    adata.obs["kind"] = pd.Categorical(["x", None, "y"])
    adata.obs["n"] = pd.array([1, None, 3], dtype="Int64")
    adata.obs["flag"] = pd.array([True, None, False], dtype="boolean")
    adata.obs["share"] = [0.5, np.nan, 1.0]
    adata.write_h5ad(tmp_path / "in.h5ad")
    expected = {"kind": ["x", None, "y"], "n": [1, None, 3], "flag": [True, None, False], "share": [0.5, None, 1.0]}
    for source in (adata, tmp_path / "in.h5ad"):
        tokens = Tokenizer(make_vocab()).tokenize(source, obs=list(expected))
        assert {c: tokens.table[c].to_pylist() for c in expected} == expected


# Filters

FILTERS = {
    "cell_type == 'A'": [0, 2, 4],
    "cell_type in ['B', 'C'] or age > 3": [1, 3, 4],
    "ok": [0, 2, 3, 4],
    "not ok": [1],
    "age % 2 == 1 and `cell_type` == 'B'": [1, 3],
}


@pytest.mark.parametrize("expression", FILTERS)
def test_filters(two, expression):
    folder, a, _ = two
    kept = FILTERS[expression]
    for source in (a, folder / "one.h5ad"):
        for rows_per_block in (None, 1, 2):
            tokens = Tokenizer(make_vocab(), rc.Tokenizing(filter=expression, rows_per_block=rows_per_block)).tokenize(source, obs=["age"])
            assert tokens.cell_ids == [f"cell{i}" for i in kept] and tokens.table["age"].to_pylist() == kept
            assert rows(tokens) == [rows(Tokenizer(make_vocab()).tokenize(a))[i] for i in kept]
            assert tokens.spec.source["cells_left_out"] == 5 - len(kept)


def test_a_filter_that_keeps_nothing_says_what_there_is(two):
    folder, a, _ = two
    for source in (a, folder / "one.h5ad", folder):
        with pytest.raises(CellError, match=r"keeps none of the . cells; cell_type holds A, B"):
            Tokenizer(make_vocab(), rc.Tokenizing(filter="cell_type == 'a'")).tokenize(source)
    with pytest.raises(CellError, match=r"write =="):
        Tokenizer(make_vocab(), rc.Tokenizing(filter="cell_type = 'A'")).tokenize(a)


@pytest.mark.parametrize("values", [[1, 0, 1, 1, 0], [1.0, 0.0, 1.0, 1.0, np.nan], list("10110"), ["True", "False", "True", "true", ""]])
def test_filter_pass(two, values):
    """Geneformer's column, by its name alone: 1, True and their texts are kept."""
    _, a, _ = two
    a.obs["filter_pass"] = values
    assert Tokenizer(make_vocab(), rc.Tokenizing(filter="filter_pass")).tokenize(a).cell_ids == ["cell0", "cell2", "cell3"]
    assert len(Tokenizer(make_vocab()).tokenize(a)) == 5  # nothing is left out unasked


@pytest.mark.parametrize(
    "expression", ["cell_type = 'A'", "colour == 'red'", "cell_type", "age", "age +", "age + 1", "cell_type == ", "age.sum()"]
)
def test_filters_that_cannot_be(two, expression, capsys):
    folder, a, _ = two
    with pytest.raises(CellError, match="filter"):
        Tokenizer(make_vocab(), rc.Tokenizing(filter=expression)).tokenize(a)
    make_vocab().save(folder / "v")
    assert main(["tokenize", str(folder / "one.h5ad"), "-o", str(folder / "o"), "--vocab", str(folder / "v"), "--filter", expression]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not (folder / "o").exists()


# What is kept beside the rows


@pytest.mark.parametrize("cls", [True, False])
def test_counts_and_uncropped_rows(cls):
    vocab = make_vocab(medians=np.arange(1, 13) / 4)
    adata = make_adata(counts(6), n_counts=np.arange(6, dtype=np.float32) + 40)
    tokens = Tokenizer(vocab, rc.Tokenizing(cls=cls, max_len=6, keep_counts=True, keep_uncropped=True)).tokenize(adata)
    plain = Tokenizer(vocab, rc.Tokenizing(cls=cls, max_len=6)).tokenize(adata)
    whole = Tokenizer(vocab, rc.Tokenizing(cls=False, max_len=99)).tokenize(adata)
    assert rows(tokens) == rows(plain) and tokens.obs_columns == []
    assert tokens.table["input_ids_uncropped"].to_pylist() == rows(whole)
    assert tokens.table["length_uncropped"].to_pylist() == whole.lengths.tolist()
    for i, cell in enumerate(stored_cells(sp.csr_matrix(adata.X))):
        total = adata.obs["n_counts"].iloc[i]
        of_token = {int(vocab.tokens[c]): x * (1 / total) * np.float32(10_000) for c, x in cell}
        expected = [of_token.get(t, np.float32(0)) for t in tokens.row(i).tolist()]
        assert tokens.table["counts"][i].as_py() == expected
        values = rank_values(cell, total, list(range(12)), vocab.medians)
        assert len(values) == len(whole.row(i))
    assert min(len(r) for r in whole) > 4  # rows were cropped, so that this says something


def test_kept_columns_are_what_geneformers_tools_expect(two, tmp_path):
    import datasets

    folder, *_ = two
    out = tmp_path / "out"
    Tokenizer(make_vocab(), rc.Tokenizing(max_len=5, keep_counts=True, keep_uncropped=True)).write(folder / "one.h5ad", out, obs=["cell_type"])
    loaded = datasets.load_from_disk(str(out))
    assert loaded.column_names == ["input_ids", "length", "counts", "input_ids_uncropped", "length_uncropped", "cell_id", "cell_type"]
    assert loaded[0]["length"] == len(loaded[0]["input_ids"]) == len(loaded[0]["counts"])
    loaded.filter(lambda row: row["cell_type"] == "A").flatten_indices().save_to_disk(str(tmp_path / "filtered"))
    again = TokenSet.open(tmp_path / "filtered", vocab=make_vocab())  # without rankcell.json: the frame is read from the rows
    assert again.cell_ids == ["cell0", "cell2", "cell4"] and again.frame == make_vocab().frame


# Columns that are no genes


@pytest.mark.parametrize("in_file", [False, True])
def test_antibodies_are_not_the_genes_they_are_named_after(tmp_path, in_file):
    """In an AnnData as in 10x files: neither tokens nor totals, neither aligned nor shown."""
    import rankcell as rc

    rna = make_adata(counts(6))
    antibodies = make_adata(counts(6, 3, seed=4) * 90)
    antibodies.var_names = ["AB0", "AB1", "AB2"]
    both = ad.concat([rna, antibodies], axis="var", merge="first")
    both.var["feature_types"] = ["Gene Expression"] * 12 + ["Antibody Capture"] * 3
    assert both.var["ensembl_id"].duplicated().sum() == 3  # named after genes
    source = both
    if in_file:
        both.write_h5ad(tmp_path / "both.h5ad")
        source = tmp_path / "both.h5ad"
    with pytest.warns(RankcellWarning, match=r"left out: 3 columns that are no genes \(Antibody Capture\)"):
        tokens = Tokenizer(make_vocab()).tokenize(source)
    assert rows(tokens) == rows(Tokenizer(make_vocab()).tokenize(rna))
    assert tokens.spec.source["columns_left_out"] == {"Antibody Capture": 3} and tokens.spec.source["genes"] == 12
    if not in_file:
        alone = rc.pp.align_genes(rna, make_vocab())
        with pytest.warns(RankcellWarning, match="left out"):
            aligned = rc.pp.align_genes(both, make_vocab())
        assert (aligned.X != alone.X).nnz == 0 and (aligned.obs["n_counts"] == alone.obs["n_counts"]).all()


# The same bytes


def bytes_of(folder):
    """Names and contents of the arrow files."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("data-*.arrow"))}


@settings(deadline=None, max_examples=12)
@given(
    st.integers(1, 2300),
    st.sampled_from([None, 1_000, 777, 64]),
    st.sampled_from([1, 2, 5]),
    st.booleans(),
    st.sampled_from([None, "age > 3"]),
)
def test_same_bytes_however_it_is_cut(tmp_path_factory, n_cells, rows_per_block, workers, keep, expression):
    assume(expression is None or n_cells > 4)  # a filter that keeps no cell is refused
    folder = tmp_path_factory.mktemp("bytes")
    x = sp.random(n_cells, 12, 0.4, "csr", np.float32, np.random.default_rng(n_cells))
    x.data = np.ceil(x.data * 9)
    adata = make_adata(np.zeros((n_cells, 12)), age=np.arange(n_cells) % 11)
    adata.X = x
    adata.obs["note"] = pd.Categorical([None if i % 7 == 0 else f"cell {i}" for i in range(n_cells)])
    adata.obs["odd"] = pd.array([None if i % 5 == 0 else bool(i % 2) for i in range(n_cells)], dtype="boolean")
    adata.write_h5ad(folder / "in.h5ad")
    how = dict(obs=["age", "note", "odd"], keep_counts=keep, keep_uncropped=keep, filter=expression, max_len=7)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(arrow_files.DatasetWriter.__init__, "__kwdefaults__", {"shard_bytes": 40_000})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokens_of_flat(make_vocab(), folder / "in.h5ad", folder / "plain", **how)
            tokens_of_flat(make_vocab(), folder / "in.h5ad", folder / "cut", rows_per_block=rows_per_block, workers=workers, **how)
    assert bytes_of(folder / "plain") == bytes_of(folder / "cut") != {}
    names = [json.loads((folder / f / "state.json").read_text())["_data_files"] for f in ("plain", "cut")]
    assert names[0] == names[1] == [{"filename": n} for n in bytes_of(folder / "cut")]
    tokens = TokenSet.open(folder / "cut")
    kept = [i for i in range(n_cells) if expression is None or i % 11 > 3]
    assert tokens.cell_ids == [f"cell{i}" for i in kept]
    assert tokens.table["odd"].to_pylist() == [None if i % 5 == 0 else bool(i % 2) for i in kept]


def test_shards_are_read_as_one(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(arrow_files.DatasetWriter.__init__, "__kwdefaults__", {"shard_bytes": 1})
    adata = make_adata(counts(2_500))
    adata.write_h5ad(tmp_path / "in.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokens = Tokenizer(make_vocab()).write(tmp_path / "in.h5ad", tmp_path / "out")
        whole = Tokenizer(make_vocab()).tokenize(adata)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.arrow")) == [f"data-{i:05d}-of-00003.arrow" for i in range(3)]
    assert rows(tokens) == rows(whole)
    assert len(datasets.load_from_disk(str(tmp_path / "out"))) == 2_500


# The kernel where buckets are crowded


@pytest.mark.parametrize("shape", ["one value", "two values", "far outlier", "huge range", "tiny differences"])
@pytest.mark.parametrize("most", [5, 700, 10_000])
def test_crowded_buckets(shape, most):
    """Rows whose values fall into few buckets are ranked all the same: descending, equal ones by column."""
    from rankcell.tokens.rank_kernel import CellEntries, ColumnGenes, RowShape, RowsOut, rank_rows

    rng = np.random.default_rng(5)
    n = 3_000
    weight = {
        "one value": np.ones(n),
        "two values": rng.choice([1.0, np.nextafter(1.0, 2)], n),
        "far outlier": np.concatenate([rng.uniform(1, 1 + 1e-6, n - 1), [1e30]]),
        "huge range": 10.0 ** rng.uniform(-300, 300, n),
        "tiny differences": 1 + rng.integers(0, 50, n) * 1e-15,
    }[shape]
    token = rng.permutation(n).astype(np.int32)
    out, lengths, none = np.empty(n, np.int32), np.empty(1, np.int64), np.empty(0, np.int32)
    rank_rows(
        CellEntries(np.array([0]), np.array([0, n]), np.arange(n, dtype=np.uint32), np.ones(n), np.ones(1)),
        ColumnGenes(weight, np.arange(n, dtype=np.int32), True, token, np.ones(n)),
        RowShape(np.float64(1), most, none, none),
        RowsOut(out, lengths, np.empty(0, np.float32), none, np.empty(1, np.int64)),
    )
    order = sorted(range(n), key=lambda i: (-weight[i], i))[:most]
    assert lengths[0] == min(n, most) and out[: lengths[0]].tolist() == token[order].tolist()


def test_an_anndata_among_files(two):
    folder, _, b = two
    tokens = Tokenizer(make_vocab()).tokenize([folder / "one.h5ad", b])
    assert tokens.cell_ids[-1] == "input1:cell2"
    assert isinstance(b, ad.AnnData)
