"""What the model reads for one cell: the table written out by hand, and the picture of it."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from builders import make_adata, make_vocab
from hypothesis import given
from hypothesis import strategies as st

import rankcell as rc
from rankcell.errors import CellError, SettingsError, TokensError, VocabularyError
from rankcell.report.pictures.rank_encoding import spread
from rankcell.tokens import TokenSet, TokenSpec
from rankcell.vocab import find_vocabulary

VOCAB = make_vocab(4, medians=[1.0, 2.0, 0.5, 4.0])
ROWS = [[2, 6, 4, 5, 3], [2, 7, 3], [2, 3]]  # genes 2, 0, 1; gene 3; none
COUNTS = [[0, 2000, 3000, 5000, 0], [0, 10_000, 0], [0, 0]]  # count / n_counts * 10,000


def with_counts(tokens, counts):
    return TokenSet(tokens.table.append_column("counts", pa.array(counts, pa.list_(pa.float32()))), tokens.spec)


def token_set(*, counts=COUNTS, vocab=VOCAB, rows=ROWS, frame=None, ids=("x", "y", "z")):
    spec = TokenSpec.of(vocab, frame=vocab.frame if frame is None else frame, max_len=4096)
    tokens = TokenSet.from_rows(rows, spec, cell_ids=list(ids))
    return tokens if counts is None else with_counts(tokens, counts)


def wide(n, *, cls=True):
    """A vocabulary of `n` genes with names of all lengths, and one cell that shows them all, values falling."""
    vocab = make_vocab(n, special=("<pad>", "<mask>", "<cls>", "<eos>") if cls else ("<pad>", "<mask>"))
    body, values = vocab.tokens.tolist(), np.geomspace(500, 0.02, n).tolist()
    head, tail = list(vocab.frame.head), list(vocab.frame.tail)
    counts = [0.0] * len(head) + values + [0.0] * len(tail)
    return vocab, token_set(vocab=vocab, rows=[head + body + tail], counts=[counts], ids=["x"])


@pytest.fixture
def plt():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


# The table


def test_a_cell_written_out():
    """Values are counts / medians 0.5, 1, 2."""
    table = rc.get.tokens_df(token_set(), "x", vocab=VOCAB)
    expected = pd.DataFrame(
        {
            "position": [0, 1, 2, 3, 4],
            "rank": pd.array([None, 0, 1, 2, None], "Int64"),
            "token": [2, 6, 4, 5, 3],
            "gene": ["<cls>", "ENSG00000000002", "ENSG00000000000", "ENSG00000000001", "<eos>"],
            "symbol": ["", "G2", "G0", "G1", ""],
            "value": [np.nan, 4000.0, 3000.0, 2500.0, np.nan],
        }
    )
    pd.testing.assert_frame_equal(table, expected)
    assert table.attrs == {"cell_id": "x"}


def test_rows_by_number_from_a_folder_and_without_genes(tmp_path):
    token_set().save(tmp_path / "t")
    table = rc.get.tokens_df(tmp_path / "t", np.int64(1), vocab=VOCAB)
    assert table["gene"].tolist() == ["<cls>", "ENSG00000000003", "<eos>"] and table["value"].tolist()[1] == 2500
    empty = rc.get.tokens_df(str(tmp_path / "t"), 2, vocab=VOCAB)
    assert empty["gene"].tolist() == ["<cls>", "<eos>"] and empty["rank"].isna().all()


def test_without_counts_the_values_are_unknown():
    table = rc.get.tokens_df(token_set(counts=None), "x", vocab=VOCAB)
    assert table["value"].isna().all() and table["rank"].tolist()[1:4] == [0, 1, 2]
    plain = token_set(counts=None)
    plain = TokenSet(plain.table.append_column("counts", pa.array([5, 6, 7])), plain.spec)  # an annotation of that name
    assert rc.get.tokens_df(plain, "x", vocab=VOCAB)["value"].isna().all()


def test_without_special_tokens_and_over_chunks():
    vocab = make_vocab(4, special=("<pad>", "<mask>"))
    tokens = token_set(vocab=vocab, rows=[[2, 3], [], [5]], counts=[[4, 2], [], [1]])
    parts = pa.concat_tables([tokens.table.slice(0, 1), tokens.table.slice(1)])
    tokens = TokenSet(parts, tokens.spec)
    assert rc.get.tokens_df(tokens, "z", vocab=vocab)["rank"].tolist() == [0]
    assert rc.get.tokens_df(tokens, "z", vocab=vocab)["value"].tolist() == [1]
    empty = rc.get.tokens_df(tokens, "y", vocab=vocab)
    assert len(empty) == 0 and empty.columns.tolist() == ["position", "rank", "token", "gene", "symbol", "value"]


def test_the_values_of_real_cells():
    """They are count / n_counts * 10,000 / median, and fall from the top down."""
    adata, vocab = rc.datasets.pbmc68k()[:5].copy(), find_vocabulary("demo")
    tokens = rc.pp.tokenize(adata, vocab="demo", tokenizing=rc.Tokenizing(keep_counts=True))
    value = adata.X.toarray() / adata.obs["n_counts"].to_numpy()[:, None] * 1e4 / vocab.medians[vocab.lookup(adata.var_names)]
    column = {vocab.genes[g]: j for j, g in enumerate(vocab.lookup(adata.var_names))}
    for i, cell in enumerate(adata.obs_names):
        table = rc.get.tokens_df(tokens, cell).dropna()  # the shipped vocabulary is found by its hash
        assert len(table) == tokens.n_genes[i]
        np.testing.assert_allclose(table["value"], value[i, [column[g] for g in table["gene"]]], rtol=1e-6)
        assert (np.diff(table["value"]) <= 1e-6 * table["value"].max()).all()


def test_cells_that_are_not_there():
    tokens = token_set(ids=("AAAC-1", "AAAG-1", "zz"))
    with pytest.raises(CellError, match="no cell 'aaac' .*3 cells, such as AAAC-1, AAAG-1.*; did you mean 'AAAC-1'?"):
        rc.get.tokens_df(tokens, "aaac", vocab=VOCAB)
    with pytest.raises(CellError, match=r"such as AAAC-1, AAAG-1\)$"):
        rc.get.tokens_df(tokens, "no such thing", vocab=VOCAB)
    for row in (3, -1):
        with pytest.raises(CellError, match=f"there is no row {row}: the tokens have 3 cells, counted from 0"):
            rc.get.tokens_df(tokens, row, vocab=VOCAB)
    for cell in (1.0, True, None):
        with pytest.raises(CellError, match=f"and this is {type(cell).__name__}"):
            rc.get.tokens_df(tokens, cell, vocab=VOCAB)


def test_vocabularies_and_tokens_that_do_not_fit():
    with pytest.raises(VocabularyError, match="'small' .*does not ship with rankcell: pass it, as vocab=..."):
        rc.get.tokens_df(token_set(), "x")
    with pytest.raises(VocabularyError, match="made with vocabulary 'small' .*, not with 'pbmc68k'"):
        rc.get.tokens_df(token_set(), "x", vocab="demo")
    with pytest.raises(TokensError, match="this is dict: give what rc.pp.tokenize returns"):
        rc.get.tokens_df({}, "x", vocab=VOCAB)
    with pytest.raises(TokensError, match="'x' has 5 tokens and 4 counts"):
        rc.get.tokens_df(token_set(counts=[[1, 2, 3, 4], *COUNTS[1:]]), "x", vocab=VOCAB)


def test_an_own_vocabulary_is_found(tmp_path, monkeypatch):
    """That of this process; else a folder of its name in the working folder or beside the tokens, with the same content."""
    adata = make_adata([[1, 2, 0, 4], [3, 0, 1, 1]])
    mine, other = make_vocab(name="mine"), make_vocab(name="mine", medians=[3.0] * 12)
    (tmp_path / "there").mkdir()
    in_memory, written = rc.pp.tokenize(adata, mine), rc.pp.tokenize(adata, mine, out=tmp_path / "there" / "t")
    for tokens in (in_memory, written, written.take([1]), TokenSet.open(tmp_path / "there" / "t", vocab=mine)):
        assert len(rc.get.tokens_df(tokens, 0)) and tokens.find_vocabulary() is mine
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for place in (tmp_path / "here", tmp_path / "there"):
        for vocab in (None, other, mine):
            if vocab is not None:
                vocab.save(place / "mine", force=True)
            tokens = TokenSet.open(tmp_path / "there" / "t")
            if vocab is mine:
                assert tokens.find_vocabulary() == mine and len(rc.get.tokens_df(tokens, 0))
                shutil.rmtree(place / "mine")
            else:  # none, or one of the name with other medians
                with pytest.raises(VocabularyError, match="'mine' .*does not ship with rankcell: pass it, as vocab=..."):
                    rc.get.tokens_df(tokens, 0)
    (tmp_path / "here" / "mine").mkdir()
    (tmp_path / "here" / "mine" / "vocabulary.json").write_text("damaged")
    assert TokenSet.open(tmp_path / "there" / "t").find_vocabulary() is None
    for name in ("", ".", "..", "../here", str(tmp_path)):
        assert TokenSet(in_memory.table, dataclasses.replace(in_memory.spec, vocabulary=name)).find_vocabulary() is None


# The picture


def texts(ax):
    from matplotlib.text import Text

    return [t.get_text() for t in ax.findobj(Text) if t.get_text()]


def test_curve_and_row(plt):
    axes = rc.pl.rank_encoding(token_set(), "x", vocab=VOCAB, genes=["G1", "G3"])
    curve, row = axes
    assert axes.shape == (2,) and curve.figure is row.figure
    assert curve.lines[0].get_ydata().tolist() == [4000, 3000, 2500] and curve.get_yscale() == "log"
    assert {"G2", "G0", "G1, rank 2", "rank (0 = top gene)"} <= set(texts(curve))
    assert [t for t in texts(row) if t in ("<cls>", "G2", "G0", "G1", "<eos>")] == ["<cls>", "G2", "G0", "G1", "<eos>"]
    assert {"2", "6", "4", "5", "3", "gene", "token", "position", "The row of 5 tokens"} <= set(texts(row))
    headline = texts(plt.gcf().axes[0])
    assert "Cell x as the model reads it: 3 genes, ranked" in headline and "not in this cell: G3" in headline
    assert "rank value = count / n_counts × 10,000 / median of the gene" in headline


def test_without_counts_there_is_only_the_row(plt):
    row = rc.pl.rank_encoding(token_set(counts=None), 0, vocab=VOCAB, genes="G0")
    assert "G2" in texts(row) and not isinstance(row, np.ndarray)
    assert any("tokenize with keep_counts=True" in t for t in texts(plt.gcf().axes[0]))


@pytest.mark.parametrize("cls", [True, False])
@pytest.mark.parametrize("n_genes", [1, 2, 3, 30, 31, 2000])
def test_any_number_of_genes(plt, n_genes, cls):
    vocab, tokens = wide(n_genes, cls=cls)
    last = f"G{n_genes - 1}"
    curve, row = rc.pl.rank_encoding(tokens, "x", vocab=vocab, genes=[last])
    plt.gcf().savefig("/dev/null", format="png")
    assert f"{last}, rank {n_genes - 1}" in texts(curve)
    assert last in texts(row) and ("<cls>" in texts(row)) == ("<eos>" in texts(row)) == cls
    assert sum(t.endswith(" genes") for t in texts(row)) == (n_genes > 15)
    inside = row.get_window_extent()
    right = [p.get_window_extent().x1 for p in row.patches]
    assert max(right) <= inside.x1 + 1
    assert len(curve.texts) >= min(n_genes, 15)


@pytest.mark.parametrize("n_genes", [5, 400])
def test_names_lie_clear_of_each_other(plt, n_genes):
    """In the row: every text inside the figure and none upon another. Above the curve: places are a line apart."""
    vocab, tokens = wide(n_genes)
    curve, row = rc.pl.rank_encoding(tokens, "x", vocab=vocab, genes=[f"G{k}" for k in (3, n_genes - 2, n_genes - 1)])
    figure = plt.gcf()
    renderer = figure.canvas.get_renderer()
    boxes = [t.get_window_extent(renderer) for t in row.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    everything = [t.get_window_extent(renderer) for ax in (curve, row) for t in ax.texts]
    assert all(b.x0 >= 0 and b.x1 <= figure.bbox.x1 and b.y0 >= 0 and b.y1 <= figure.bbox.y1 for b in everything)
    starts = sorted(t.xy[0] for t in curve.texts if t.get_rotation())
    line = 8.2 / np.sin(np.deg2rad(50)) / 72 * figure.dpi / curve.get_window_extent().width
    assert min(np.diff(starts)) >= line


@given(st.lists(st.floats(0, 500), min_size=1, max_size=20), st.data())
def test_spread(wanted, data):
    """Apart, before the ends, in order; and nothing moves that has room."""
    wanted, gap = np.sort(wanted), 20.0
    ends = np.array(data.draw(st.lists(st.floats(400, 600), min_size=len(wanted), max_size=len(wanted))))
    at = spread(wanted, gap, ends)
    assert (np.diff(at) >= gap - 1e-9).all() and (at <= ends).all()
    if (np.diff(wanted) >= gap).all() and (wanted + gap * np.arange(len(wanted))[::-1] <= 400).all():
        np.testing.assert_array_equal(at, wanted)


def test_axes_of_ones_own(plt):
    vocab, tokens = wide(40)
    figure, ax = plt.subplots(2, 1, figsize=(8, 10), layout="constrained")
    axes = rc.pl.rank_encoding(tokens, "x", vocab=vocab, ax=ax[1], n=3)
    assert axes[0].figure.figure is figure and len(plt.get_fignums()) == 1
    assert [t for t in texts(axes[0]) if t in {f"G{i}" for i in range(40)}] == ["G0", "G1", "G2"]
    _, small = plt.subplots(figsize=(3, 2))
    with pytest.raises(SettingsError, match="this picture needs at least 6.0 x 4.2"):
        rc.pl.rank_encoding(tokens, "x", vocab=vocab, ax=small)


def test_genes_named_one_too_many(plt):
    """Those for which there is no room go unnamed; long cell ids are cut."""
    vocab, tokens = wide(300)
    columns = dict(zip(tokens.table.column_names, tokens.table.columns, strict=True))
    tokens = TokenSet(pa.table(columns | {"cell_id": pa.array(["sample_" * 20])}), tokens.spec)
    curve, row = rc.pl.rank_encoding(tokens, 0, vocab=vocab, genes=[f"G{i}" for i in range(0, 300, 2)])
    assert len(curve.texts) < 60 and len(row.patches) < 20
    assert any(t.startswith("Cell sample_") and "…" in t for t in texts(plt.gcf().axes[0]))


def test_nothing_to_draw_or_to_find(plt):
    with pytest.raises(CellError, match="cell 'z' has no gene of vocabulary 'small': there is nothing to draw"):
        rc.pl.rank_encoding(token_set(), "z", vocab=VOCAB)
    with pytest.raises(SettingsError, match="gene 'CD74' is not in vocabulary 'small'"):
        rc.pl.rank_encoding(token_set(), "x", vocab=VOCAB, genes="CD74")
    assert plt.get_fignums() == []
