"""Count files in blocks: whatever the storage, the same numbers, and the input untouched."""

import pickle

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from builders import make_adata, make_vocab
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rankcell.counts import match_genes, open_counts
from rankcell.counts.io import spill
from rankcell.errors import OF_A_PART, CountsError, GeneError, InputError
from rankcell.wording import command_line

STORED = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": lambda x: sp.csr_matrix(x).toarray()}


@pytest.fixture(scope="module")
def dense():
    x = np.random.default_rng(0).poisson(0.6, (23, 17)).astype(np.float32)
    x[5] = 0
    x[:, 3] = 0
    return x


def with_everything(dense, kind):
    """X, a layer and raw, each its own multiple of the counts, all stored as `kind`."""
    store = STORED[kind]
    adata = make_adata(dense)
    adata.X = store(dense * 3)
    adata.raw = adata.copy()
    adata.X = store(dense)
    adata.layers["twice"] = store(dense * 2)
    return adata


WHERE = [({}, "X", 1), ({"layer": "twice"}, "layer 'twice'", 2), ({"raw": True}, "raw", 3)]


def read(source, rows_per_block=None):
    """The dense matrix that the blocks hold, their starts checked."""
    parts, at = [], 0
    for block in source.blocks(rows_per_block=rows_per_block):
        assert block.start == at and len(block) == len(block.indptr) - 1 == len(block.n_counts) > 0
        assert block.indptr[0] == 0 and block.indptr[-1] == len(block.indices) == len(block.data)
        matrix = sp.csr_matrix((block.data, block.indices, block.indptr), shape=(len(block), source.n_genes)).toarray()
        np.testing.assert_array_equal(block.n_counts, matrix.sum(1))
        parts.append(matrix)
        at += len(block)
    assert at == source.n_cells
    return np.concatenate(parts)


@pytest.mark.parametrize("how", WHERE, ids=lambda w: w[1])
@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("backing", ["file", "memory", "backed"])
def test_every_storage(dense, tmp_path, kind, how, backing):
    options, name, times = how
    source = adata = with_everything(dense, kind)
    path = tmp_path / "x.h5ad"
    if backing != "memory":
        adata.write_h5ad(path)
        before = path.read_bytes(), path.stat().st_mtime_ns
        source = path if backing == "file" else ad.read_h5ad(path, backed="r")
    for rows_per_block in (None, 1, 5, 23, 99):
        with open_counts(source, **options) as counts:
            assert (counts.matrix, counts.n_cells, counts.n_genes, counts.dtype) == (name, 23, 17, np.float32)
            assert counts.cell_ids == list(adata.obs_names) and counts.has_cell_ids
            assert counts.var["index"] == list(adata.var_names) and counts.var["ensembl_id"] == list(adata.var["ensembl_id"])
            np.testing.assert_array_equal(read(counts, rows_per_block), dense * times)
    if backing == "backed":
        source.file.close()
    if backing != "memory":
        assert (path.read_bytes(), path.stat().st_mtime_ns) == before
        assert [p.name for p in tmp_path.iterdir()] == ["x.h5ad"]


@pytest.mark.parametrize("per_walk", [1, 7, 1_000_000])
@pytest.mark.parametrize("per_bucket", [1, 40, 1_000_000])
def test_csc_in_several_buckets(dense, tmp_path, monkeypatch, per_walk, per_bucket):
    make = make_adata(dense)
    make.X = sp.csc_matrix(dense)
    make.write_h5ad(tmp_path / "x.h5ad")
    monkeypatch.setattr(spill, "BUCKET_ENTRIES", per_bucket)
    monkeypatch.setattr(spill, "WALK_ENTRIES", per_walk)
    for rows_per_block in (None, 2, 50):
        with open_counts(tmp_path / "x.h5ad") as counts:
            np.testing.assert_array_equal(read(counts, rows_per_block), dense)
            buckets = counts.x.ranges()
        assert [a for a, _ in buckets] == [0, *(b for _, b in buckets[:-1])] and buckets[-1][1] == 23
        in_bucket = [int((dense[a:b] > 0).sum()) for a, b in buckets]
        assert all(n <= per_bucket or b - a == 1 for n, (a, b) in zip(in_bucket, buckets, strict=True))
        assert (len(buckets) == 1) == (per_bucket == 1_000_000)


def raw_h5ad(path, kind, data, indices, indptr, shape, n_cells):
    """An h5ad whose X holds exactly these arrays (anndata would put them in order)."""
    empty = sp.csr_matrix(shape, dtype=data.dtype)
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)])
    ad.AnnData(empty, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(shape[1])])).write_h5ad(path)
    with h5py.File(path, "r+") as f:
        f["X"].attrs["encoding-type"] = f"{kind}_matrix"
        for name, values in {"data": data, "indices": indices, "indptr": indptr}.items():
            del f["X"][name]
            f["X"][name] = values
    return path


@st.composite
def entries(draw):
    cells, genes = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    found = draw(st.lists(st.tuples(st.integers(0, cells - 1), st.integers(0, genes - 1), st.sampled_from([0, 1, 3, 200])), max_size=20))
    return cells, genes, found


@settings(deadline=None, max_examples=30)
@given(
    entries(), st.sampled_from([np.uint8, np.uint16, np.int32, np.float32, np.float64]), st.sampled_from([np.int32, np.int64, np.uint32])
)
@example((1, 1, [(0, 0, 200), (0, 0, 200)]), np.uint8, np.int32)  # the sum does not fit the type
@example((2, 3, []), np.float32, np.int64)
def test_unsorted_and_repeated_entries(tmp_path_factory, case, dtype, index_type):
    """CSR and CSC files with entries in any order, repeated and zero, are the sum of their entries, whatever the type can hold."""
    cells, genes, found = case
    expected = np.zeros((cells, genes))
    for row, column, x in found:
        expected[row, column] += x
    folder = tmp_path_factory.mktemp("raw")
    for kind, major, minor, n in (("csr", 0, 1, cells), ("csc", 1, 0, genes)):
        ordered = sorted(found, key=lambda e, major=major: e[major])
        indptr = np.searchsorted([e[major] for e in ordered], np.arange(n + 1)).astype(index_type)
        data, indices = np.array([e[2] for e in ordered], dtype), np.array([e[minor] for e in ordered], index_type)
        path = raw_h5ad(folder / f"{kind}.h5ad", kind, data, indices, indptr, (cells, genes), cells)
        total = np.zeros((cells, genes))
        with open_counts(path) as counts:
            for block in counts.blocks(rows_per_block=2):
                row = block.start + np.repeat(np.arange(len(block)), np.diff(block.indptr))
                np.add.at(total, (row, block.indices), block.data.astype(np.float64))
                np.testing.assert_array_equal(block.n_counts, expected[block.start : block.start + len(block)].sum(1))
        np.testing.assert_array_equal(total, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indices": [0, 9]}, "refers to column 9; there are 3"),
        ({"indices": [0, -1]}, "refers to column -1"),
        ({"indptr": [0, 2, 1]}, "row pointers"),
        ({"indptr": [0, 1, 9]}, "row pointers"),
        ({"indptr": [1, 1, 2]}, "row pointers"),
        ({"indptr": [0, 2]}, "pointers for 2 cells x 3 genes"),
    ],
)
@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_sparse_files_that_contradict_themselves(tmp_path, change, message, kind):
    parts = {"data": [1, 1], "indices": [0, 1], "indptr": [0, 1, 2] if kind == "csr" else [0, 1, 2, 2]} | change
    if kind == "csc" and "indptr" in change:
        parts["indptr"] = [*change["indptr"], 2]
    path = raw_h5ad(
        tmp_path / "x.h5ad", kind, np.array(parts["data"], np.float32), np.array(parts["indices"]), np.array(parts["indptr"]), (2, 3), 2
    )
    if kind == "csc":
        message = message.replace("there are 3", "there are 2").replace("column", "row")
    with pytest.raises(InputError, match=message), open_counts(path) as counts:
        list(counts.blocks())


def test_n_counts_as_given(tmp_path):
    """float32 stays float32, whole numbers and float64 become float64; the row sum of a float32 matrix is float32."""
    for dtype, expected in {np.float32: np.float32, np.float64: np.float64, np.int64: np.float64, np.uint16: np.float64}.items():
        make_adata([[1, 2], [3, 0]], n_counts=np.array([7, 9], dtype)).write_h5ad(tmp_path / "x.h5ad")
        with open_counts(tmp_path / "x.h5ad") as counts:
            (block,) = counts.blocks()
            assert block.n_counts.dtype == expected and block.n_counts.tolist() == [7, 9]
    for dtype, expected in {np.float32: np.float32, np.float64: np.float64, np.int32: np.float64, np.uint8: np.float64}.items():
        adata = make_adata([[1, 2], [3, 0]])
        adata.X = sp.csr_matrix(np.array([[200, 100], [3, 0]], dtype))
        (block,) = open_counts(adata).blocks()
        assert block.n_counts.dtype == expected and block.n_counts.tolist() == [300, 3]


@pytest.mark.parametrize(
    ("n_counts", "message"),
    [
        ([np.nan, 3.0], "of cell 'cell0' is nan .1 such cells."),
        ([5.0, -3.0], "of cell 'cell1' is -3.0"),
        ([np.inf, np.inf], "of cell 'cell0' is inf .2 such cells."),
        ([5.0, 0.0], "of cell 'cell1' is 0 but the cell has counts"),
        ([0, 3], "of cell 'cell0' is 0 but"),
        (["many", "few"], "not numbers"),
    ],
)
def test_n_counts_that_make_no_sense(n_counts, message):
    with pytest.raises(CountsError, match=message):
        list(open_counts(make_adata([[5, 0], [0, 3]], n_counts=n_counts)).blocks(rows_per_block=1))


def test_n_counts_of_zero_in_an_empty_cell():
    blocks = list(open_counts(make_adata([[5, 0], [0, 0]], n_counts=[5, 0])).blocks())
    assert blocks[0].n_counts.tolist() == [5, 0]


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize(
    ("value", "says"), [(-1.0, "negative"), (1.5, "fractional"), (np.nan, "NaN"), (np.inf, "infinite"), (0.25, "log-normalised")]
)
def test_values_that_are_no_counts(dense, kind, value, says):
    bad = dense.copy()
    bad[11, 4] = value
    adata = make_adata(dense)
    adata.X = STORED[kind](bad)
    for rows_per_block in (None, 1, 4):
        with pytest.raises(CountsError, match=rf"X holds {value:.6g} \(cell 'cell11', gene 'G4'\).*{says}"):
            list(open_counts(adata).blocks(rows_per_block=rows_per_block))
    usable = np.where(np.isfinite(bad) & (bad > 0), bad, 0)
    blocks = list(open_counts(adata).blocks(allow_non_counts=True, rows_per_block=4))
    np.testing.assert_array_equal(np.concatenate([b.data for b in blocks]), usable[usable > 0])
    np.testing.assert_array_equal(np.concatenate([b.n_counts for b in blocks]), usable.sum(axis=1))


@pytest.mark.parametrize("in_file", [True, False])
def test_hint_points_at_the_counts(dense, tmp_path, in_file):
    for kind in STORED:
        adata = with_everything(dense, kind)
        adata.X = STORED[kind](np.log1p(dense))
        source = adata
        if in_file:
            adata.write_h5ad(tmp_path / f"{kind}.h5ad")
            source = tmp_path / f"{kind}.h5ad"
        with open_counts(source) as counts, command_line({"raw": "--raw"}), pytest.raises(CountsError, match="pass --raw, which holds"):
            list(counts.blocks())
        adata.layers["twice"] = STORED[kind](np.log1p(dense))
        if in_file:
            adata.write_h5ad(tmp_path / f"{kind}.h5ad")
        with open_counts(source) as counts, pytest.raises(CountsError, match="pass raw=True, which holds counts"):
            list(counts.blocks())


# Which column names the genes


def genes_of(var, vocab, **how):
    adata = make_adata(np.ones((2, len(var))))
    adata.var = var
    return match_genes(open_counts(adata), vocab, **how)


def test_gene_column_is_found_by_membership():
    vocab = make_vocab(5)
    ids = [f"ENSG{i:011d}" for i in range(5)]
    for_ids = pd.DataFrame({"note": list("abcde"), "whatever": ids}, index=list("vwxyz"))
    assert genes_of(for_ids, vocab).column == "whatever"
    assert genes_of(pd.DataFrame({"note": list("abcde")}, index=ids), vocab).column == "index"
    named = pd.DataFrame({"note": list("abcde")}, index=pd.Index([f"G{i}" for i in range(5)], name="symbol"))
    assert genes_of(named, vocab).column == "symbol"
    both = pd.DataFrame({"id": ids}, index=[f"G{i}" for i in range(5)])
    assert genes_of(both, vocab).column == "id"  # as many known: Ensembl ids before symbols
    fewer = pd.DataFrame({"id": [ids[0], *"bcde"]}, index=[f"G{i}" for i in range(5)])
    assert genes_of(fewer, vocab).column == "index"  # more known: symbols before ids
    assert genes_of(fewer, vocab, gene_column="id").slot_of_column.tolist() == [0, -1, -1, -1, -1]
    categories = pd.DataFrame({"id": pd.Categorical(ids)}, index=list("vwxyz"))
    assert genes_of(categories, vocab).column == "id"
    with pytest.raises(GeneError, match="no gene column 'ids'; it has index, id"):
        genes_of(both, vocab, gene_column="ids")


def test_slots_follow_the_input():
    """Columns G2, ?, G0, G2 again (by its id with a version), G1: slots 0, none, 1, 0, 2."""
    var = pd.DataFrame(index=["G2", "unknown", "G0", "ENSG00000000002.5", "G1"])
    found = genes_of(var, make_vocab(5))
    assert found.slot_of_column.tolist() == [0, -1, 1, 0, 2] and found.gene_of_slot.tolist() == [2, 0, 1]
    assert found.n_known == 4 > len(found.gene_of_slot)
    one_each = genes_of(pd.DataFrame(index=["G2", "G0"]), make_vocab(5))
    assert one_each.n_known == len(one_each.gene_of_slot) == 2


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ([f"ENSMUSG{i:011d}" for i in range(30)], "look like mouse genes"),
        ([f"Gene{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10]}" for i in range(30)], "look like mouse genes"),
        ([f"ENSRNOG{i:011d}" for i in range(30)], "another species"),
        ([str(i) for i in range(30)], "row numbers or Entrez"),
        ([f"X-{i}" for i in range(30)], "gene_column, or the right vocabulary with vocab"),
    ],
)
def test_genes_that_nobody_knows(genes, message):
    with pytest.raises(GeneError, match=message) as e:
        genes_of(pd.DataFrame(index=genes), make_vocab(12))
    text = str(e.value)
    assert "only 0 of 30 genes are in vocabulary 'small'" in text
    assert ", ".join(genes[:3]) in text and "ENSG00000000000 (G0), ENSG00000000001 (G1), ENSG00000000002 (G2)" in text


def test_symbols_for_a_vocabulary_without_any():
    from rankcell.vocab import Vocabulary

    no_symbols = Vocabulary(name="ids", genes=["ENSG00000000001"], tokens=[1], medians=[1], special={"<pad>": 0})
    with pytest.raises(GeneError, match="this vocabulary has none"):
        genes_of(pd.DataFrame(index=[f"X{i}" for i in range(20)]), no_symbols)


def test_enough_known_genes_are_enough():
    """A tenth of the columns, or a tenth of the vocabulary."""
    assert genes_of(pd.DataFrame(index=["G0", *(f"x{i}" for i in range(9))]), make_vocab(12)).n_known == 1
    assert genes_of(pd.DataFrame(index=["G0", "G1", *(f"x{i}" for i in range(90))]), make_vocab(12)).n_known == 2
    with pytest.raises(GeneError, match="only 1 of 11"):
        genes_of(pd.DataFrame(index=["G0", *(f"x{i}" for i in range(10))]), make_vocab(12))


def test_layer_and_raw_together():
    with pytest.raises(InputError, match="choose one"):
        open_counts(make_adata([[1]]), layer="x", raw=True)


@pytest.mark.parametrize("source", [3, None, np.ones((2, 2)), {"X": 1}])
def test_objects_that_are_no_counts(source):
    with pytest.raises(InputError, match="counts come as an AnnData or as the path of a file .*, and this is of type"):
        open_counts(source)


def test_an_error_of_an_input_takes_its_name_and_way_out_once():
    part = CountsError("it holds 3.5", of=OF_A_PART)
    named = part.completed(of="a.h5ad: X", remedy="correct it")
    assert str(part) == "it holds 3.5" and str(named) == "a.h5ad: X: it holds 3.5: correct it" and type(named) is CountsError
    assert named.completed(of="b", remedy="other") is named  # both are there
    about_itself = InputError("no such file: a.h5ad")
    assert about_itself.completed(of="a.h5ad") is about_itself
    again = pickle.loads(pickle.dumps(named))
    assert (str(again), again.fact, again.of, again.remedy) == (str(named), "it holds 3.5", "a.h5ad: X", "correct it")
