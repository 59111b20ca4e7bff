"""Pictures of a screen and its page: what stands in them, at any size, and what is said where there is nothing to draw."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from builders import ROOT
from hand_screens import AFFECTED, CELLS, hand_table, made_table, write_screen
from scipy.stats import spearmanr

import rankcell as rc
from rankcell.cli.main import main
from rankcell.errors import CellError, InputError, OutputError, SettingsError
from rankcell.report import screen_view
from rankcell.report.pictures.screen_pictures import PICTURES, explain_cell
from rankcell.report.pictures.shift_by_rank import running_band
from rankcell.report.words import words

pytestmark = pytest.mark.filterwarnings("ignore:no edit is in 5 cells:rankcell.errors.RankcellWarning")  # tables of a hand's size


@pytest.fixture
def folder(tmp_path):
    return write_screen(tmp_path / "screen", hand_table(), cells=CELLS, affected=AFFECTED)


@pytest.fixture(autouse=True)
def plt():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def texts(ax):
    from matplotlib.text import Text

    return [t.get_text() for t in ax.findobj(Text) if t.get_text()]


def names_in(ax):
    return [t.get_text() for t in ax.texts if t.get_text()]


def rows_of(ax):
    return [t.get_text() for t in ax.get_yticklabels()]


def require_apart(ax):
    """No name in the axes lies on another, and none outside."""
    figure = ax.figure
    figure.draw_without_rendering()
    renderer, frame = figure.canvas.get_renderer(), ax.get_window_extent()
    boxes = [t.get_window_extent(renderer) for t in ax.texts if t.get_text()]
    for i, a in enumerate(boxes):
        assert frame.x0 - 2 <= a.x0 and a.x1 <= frame.x1 + 2 and frame.y0 - 2 <= a.y0 and a.y1 <= frame.y1 + 2
        for b in boxes[i + 1 :]:
            assert not (a.x0 + 1 < b.x1 and b.x0 + 1 < a.x1 and a.y0 + 1 < b.y1 and b.y0 + 1 < a.y1)


# Scores and their parts


def test_parts_add_up_and_are_read_where_they_stand():
    table = hand_table()
    parts = screen_view.parts_of(table, "cos_genes")
    assert list(parts) == ["total", "in_place", "position"]
    np.testing.assert_allclose(parts["total"], [0.5, 0.25, 0.125, 0.25, 0.5])
    np.testing.assert_allclose(parts["position"], [0.375, 0.1875, 0.115, 0.125, 0.46875])
    table["shift_genes_refill"] = 0.0625
    table["shift_genes_position"] = 0.25  # what the screen says is not worked out again
    parts = screen_view.parts_of(table, "cos_genes_in_place")
    assert set(parts["position"]) == {0.25} and set(parts["refill"]) == {0.0625}
    without = screen_view.parts_of(table.drop(columns="shift_genes_position"), "cos_genes")
    np.testing.assert_allclose(without["in_place"] + without["position"] + without["refill"], without["total"])
    table["toward_hot_cell_position"] = 7.0
    assert set(screen_view.parts_of(table, "toward_hot_cell")["position"]) == {7.0}
    assert list(screen_view.parts_of(table[["cos_genes"]], "cos_genes")) == ["total"]


def test_scores_are_told_from_their_parts():
    table = hand_table().assign(shift_genes_position=0.1, toward_hot_cell_refill=0.1, euclidean_genes=1.0)
    assert screen_view.scores_of(table) == ["cos_genes", "toward_hot_cell", "toward_cold_cell", "euclidean_genes"]
    assert screen_view.choose_score(table, None) == "cos_genes_in_place"
    assert screen_view.choose_score(table.drop(columns="cos_genes_in_place"), None) == "cos_genes"
    with pytest.raises(SettingsError, match="no score 'cos_cls'; it has cos_genes, cos_genes_in_place"):
        screen_view.choose_score(table, "cos_cls")


@pytest.mark.parametrize(
    ("score", "said"),
    [
        ("cos_genes", "shift of the other genes (1 - cosine)"),
        ("cos_cell_in_place", "shift of the cell mean, in place (1 - cosine)"),
        ("shift_cls_position", "shift of the CLS, due to positions (1 - cosine)"),
        ("toward_T cell_cls_in_place", "movement toward T cell, CLS, in place"),
        ("euclidean_toward_T_cell", "distance closed toward T, cell mean"),
        ("euclidean_genes", "distance moved by the other genes"),
    ],
)
def test_words(score, said):
    assert words(score) == said


def test_spearman_is_scipys():
    rng = np.random.default_rng(0)
    a, b = np.round(rng.random(40), 1), rng.integers(0, 9, 40)
    assert screen_view.spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    a[:5] = np.nan
    assert screen_view.spearman(a, b) == pytest.approx(spearmanr(a[5:], b[5:]).statistic)
    assert np.isnan(screen_view.spearman([1, 2], [1, 2])) and np.isnan(screen_view.spearman([1, 1, 1], [1, 2, 3]))


# The pictures


def test_ranked_genes_without_values(plt):
    ranked = rc.tl.rank_edits(hand_table())
    ranked.loc[ranked["symbols"] == "Gamma", "effect"] = np.nan
    assert rows_of(rc.pl.ranked_genes(ranked)) == ["Alpha", "Beta"]
    with pytest.raises(SettingsError, match="no edit has a value of 'cos_genes_in_place': nothing to draw"):
        rc.pl.ranked_genes(ranked.assign(effect=np.nan))


def test_volcano_of_the_statistics():
    """Of rc.tl.rank_edits as it comes: matched_p, coloured by matched_fdr."""
    table = made_table(300, 12)
    table.loc[table["genes"] == "G7", "cos_genes_in_place"] = 1 - 1e-2
    ax = rc.pl.volcano(rc.tl.rank_edits(table))
    assert "\u2212log10 p (matched)" in texts(ax) and names_in(ax)[0] == "SG7"
    assert any(re.fullmatch(r"[1-9]\d* of 300 edits with FDR < 0.05", t) for t in texts(ax))
    assert any("less that of genes of like rank" in t for t in texts(ax))
    ranked = rc.tl.rank_edits(table).set_index("symbols")
    at = np.concatenate([c.get_offsets() for c in ax.collections if len(c.get_offsets())])
    assert np.abs(at[:, 0] - ranked.loc["SG7", "matched_diff"]).min() < 1e-12
    ax = rc.pl.volcano(rc.tl.rank_edits(table), x="effect", y="matched_fdr")
    assert "\u2212log10 FDR (matched)" in texts(ax) and not any("less that of" in t for t in texts(ax))
    with pytest.raises(SettingsError, match="no column of numbers 'kind'"):
        rc.pl.volcano(rc.tl.rank_edits(table), x="kind")


def ranked_with_p():
    ranked = pd.DataFrame(
        {
            "edit": ["delete:A", "delete:B", "delete:C", "delete:D"],
            "symbols": ["Alpha", "Beta", "Gamma", "Delta"],
            "effect": [0.5, -0.25, 0.1, 0.3],
            "p": [1e-6, 1e-3, 0.5, 0.0],
            "fdr": [1e-5, 0.04, 0.6, 0.0],
        }
    )
    ranked.attrs["by"] = "toward_hot_cell_in_place"
    return ranked


def test_a_table_that_is_not_of_the_picture(folder, tmp_path, capsys):
    """Another screen's, of another score, or of pairs: refused, where it would be drawn under a wrong name."""
    import json

    ranked = ranked_with_p().assign(n_cells=2, sem=0.1, mean_rank=1.0)
    for name, table, more, said in (
        ("other.csv", ranked, [], "the table has 1 edits that are not in this screen, such as delete:D"),
        ("by.csv", ranked[:3], ["--score", "cos_genes"], "ranks by toward_hot_cell_in_place, and --score cos_genes was given"),
        ("pairs.csv", ranked[:3].assign(affected="B"), [], "has a row per perturbation and affected gene"),
    ):
        table.to_csv(tmp_path / name, index=False)
        (tmp_path / f"{name}.json").write_text(json.dumps({"by": "toward_hot_cell_in_place"}))
        for what in ("ranked", "volcano"):
            command = ["plot", str(folder), "--what", what, "-o", str(tmp_path / "a.png"), "--statistics", str(tmp_path / name), *more]
            assert main(command) == 2
            assert said in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


def test_means_over_donors_are_called_so(folder, tmp_path):
    ranked = ranked_with_p()[:3].assign(n_cells=2, n_donors=2, sem=0.1, mean_rank=1.0)
    assert "mean over donors" in rc.pl.ranked_genes(ranked).get_xlabel()
    assert "mean over cells" in rc.pl.ranked_genes(ranked.drop(columns="n_donors")).get_xlabel()
    ranked.to_csv(tmp_path / "r.csv", index=False)
    assert main(["plot", str(folder), "-o", str(tmp_path / "r.html"), "--statistics", str(tmp_path / "r.csv")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "means over the donors" in page and "Alpha" in page and "standard error over cells" not in page


def test_volcano():
    ax = rc.pl.volcano(ranked_with_p(), n=3)
    at = np.concatenate([c.get_offsets() for c in ax.collections if len(c.get_offsets())])
    found = {round(float(x), 3): float(y) for x, y in at}
    assert found[0.5] == pytest.approx(6) and found[-0.25] == pytest.approx(3) and found[0.1] == pytest.approx(-np.log10(0.5))
    assert found[0.3] > 6  # a p of 0 stands above all
    assert names_in(ax) == ["Delta", "Alpha", "Beta"]
    assert "3 of 4 edits with FDR < 0.05" in texts(ax) and "mean movement toward hot, cell mean, in place" in texts(ax)
    assert "\u2212log10 p" in texts(ax)
    require_apart(ax)
    ax = rc.pl.volcano(ranked_with_p(), y="fdr", n=2)
    assert "\u2212log10 FDR" in texts(ax) and len(names_in(ax)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: r.drop(columns=["p", "fdr"]),
            "the ranking has no column of probabilities .'p', 'matched_p', ....*it has edit, symbols, effect.*rankcell stats",
        ),
        (lambda r: r.drop(columns="effect"), "this is not a ranking"),
        (lambda r: r.assign(p=np.nan, fdr=np.nan), "no edit has both an effect and 'p'"),
        (lambda r: r.assign(p=[2, 0, 0, 0]), "'p' is not a probability: it goes from 0 to 2"),
    ],
)
def test_volcano_of_what_is_none(change, message):
    with pytest.raises(SettingsError, match=message):
        rc.pl.volcano(change(ranked_with_p()))
    with pytest.raises(SettingsError, match="no column 'p_null'"):
        rc.pl.volcano(ranked_with_p(), y="p_null")


def test_heatmap_of_states_is_the_mean_movement():
    ax = rc.pl.screen_heatmap(hand_table(), min_cells=0)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["hot", "cold"]
    found = dict(zip(rows_of(ax), ax.images[0].get_array().filled(np.nan), strict=True))
    np.testing.assert_allclose(found["Alpha"], [0.15, 0.05])
    np.testing.assert_allclose(found["Beta"], [-0.1, 0.15])
    np.testing.assert_allclose(found["Gamma"], [0.3, np.nan])
    assert "hatched: no cell has the gene" in texts(ax)
    assert sorted(rows_of(rc.pl.screen_heatmap(hand_table()))) == ["Alpha", "Beta"]  # by default those in most cells
    ax = rc.pl.screen_heatmap(hand_table(), score="toward_hot_cell", min_cells=0, n=1)
    assert rows_of(ax) in (["Alpha"], ["Gamma"]) and ax.images[0].get_array()[0, 0] == pytest.approx(0.3)


def test_heatmap_of_groups(folder):
    ax = rc.pl.screen_heatmap(folder, groupby="cell_type", min_cells=0)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["B (1)", "T (1)"]
    found = dict(zip(rows_of(ax), ax.images[0].get_array().filled(np.nan), strict=True))
    np.testing.assert_allclose(found["Beta"], [0.03125, 0.0625])
    np.testing.assert_allclose(found["Gamma"], [np.nan, 0.01])
    with pytest.raises(CellError, match=r"no column 'donor' \(they have n_tokens, n_genes, cell_type\)"):
        rc.pl.screen_heatmap(folder, groupby="donor")
    with pytest.raises(CellError, match="no column 'cell_type'"):
        rc.pl.screen_heatmap(hand_table(), groupby="cell_type")


def test_heatmap_without_states():
    table = hand_table()
    bare = table[[c for c in table if not c.startswith("toward_")]]
    with pytest.raises(SettingsError, match="no movement toward a state: run it with rc.ScreenConfig\\(toward=...\\)"):
        rc.pl.screen_heatmap(bare)
    with pytest.raises(SettingsError, match="'cos_genes' is not a movement toward a state"):
        rc.pl.screen_heatmap(table, score="cos_genes")
    empty = table.assign(toward_hot_cell_in_place=np.nan, toward_cold_cell_in_place=np.nan)
    with pytest.raises(SettingsError, match="no edit in 2 cells or more has a value of movement toward a state"):
        rc.pl.screen_heatmap(empty)


def test_affected_genes(folder):
    ax = rc.pl.affected_genes(folder, "Alpha")  # by symbol; most are in two cells, so those in one are left out
    assert rows_of(ax) == ["D  (2)", "Beta  (2)"]
    assert [b.get_width() for b in ax.patches] == pytest.approx([0.5, 0.25])
    assert any("delete Alpha: most affected genes in 2 cells or more" in t for t in texts(ax))
    assert rows_of(rc.pl.affected_genes(folder, "A", min_cells=1)) == ["Gamma  (1)", "D  (2)", "Beta  (2)"]
    assert rows_of(rc.pl.affected_genes(folder, "delete:A", min_cells=1, n=1)) == ["Gamma  (1)"]


def test_affected_genes_are_drawn_in_place_where_that_is_known(tmp_path):
    in_place = AFFECTED | {"mean_cos_in_place": [0.99, 0.9, 0.98, 0.9], "sd_cos_in_place": [0.0] * 4}
    ax = rc.pl.affected_genes(write_screen(tmp_path / "s", hand_table(), affected=in_place), "A")
    assert rows_of(ax) == ["D  (2)", "Beta  (2)"] and "in place" in ax.get_xlabel()
    np.testing.assert_allclose(sorted(p.get_width() for p in ax.patches), [0.01, 0.02])


def test_affected_genes_that_are_not_there(folder, tmp_path):
    with pytest.raises(SettingsError, match="no edit 'Z'; it has 3, such as Alpha, Beta, Gamma"):
        rc.pl.affected_genes(folder, "Z")
    with pytest.raises(SettingsError, match="no gene is affected by 'delete:C'"):
        rc.pl.affected_genes(folder, "C")
    bare = write_screen(tmp_path / "bare", hand_table())
    with pytest.raises(OutputError, match="affected=True"):
        rc.pl.affected_genes(bare, "A")
    with pytest.raises(OutputError, match="give the folder"):
        rc.pl.affected_genes(hand_table(), "A")


def test_decomposition():
    ax = rc.pl.decomposition(hand_table(), min_cells=0)
    assert rows_of(ax) == ["Alpha", "Beta", "Gamma"]
    found = {line.get_label(): line.get_xdata() for line in ax.lines if not line.get_label().startswith("_")}
    np.testing.assert_allclose(found["total"], [0.375, 0.375, 0.125])
    np.testing.assert_allclose(found["in place"], [0.125, 0.046875, 0.01])
    np.testing.assert_allclose(found["position part"], [0.25, 0.328125, 0.115])
    assert ax.get_xscale() == "log"
    ax = rc.pl.decomposition(hand_table(), score="toward_hot_cell_in_place", min_cells=2)
    assert ax.get_xscale() == "symlog" and rows_of(ax) == ["Alpha", "Beta"]
    refilled = hand_table().assign(shift_genes_refill=0.01)
    assert "refill part" in [t.get_text() for t in rc.pl.decomposition(refilled).get_legend().get_texts()]


def test_decomposition_of_what_has_no_parts():
    table = hand_table().drop(columns="cos_genes_in_place").assign(kind="overexpress")
    with pytest.raises(SettingsError, match=r"'cos_genes' of this screen \(overexpress\) has no in-place value"):
        rc.pl.decomposition(table)
    with pytest.raises(SettingsError, match="n is 0; at least 1"):
        rc.pl.decomposition(hand_table(), n=0)


def test_the_band_holds_nine_tenths_of_what_is_like():
    rng = np.random.default_rng(1)
    rank = rng.uniform(0, 500, 1000)
    value = np.sin(rank / 100) + rng.normal(0, 0.1, 1000)
    at, (low, middle, high) = running_band(rank, value)
    assert (np.diff(at) >= 0).all()
    there = np.interp(rank, at, low), np.interp(rank, at, high)
    assert 0.86 < ((value > there[0]) & (value < there[1])).mean() < 0.94
    assert np.abs(middle - np.sin(at / 100)).max() < 0.12
    steep = running_band(np.arange(50.0), np.arange(50.0))[1]  # a slope is no spread
    np.testing.assert_allclose(steep[2] - steep[0], 0, atol=3)


def test_shift_by_rank_names_what_stands_out():
    table = made_table(300, 12)
    table.loc[table["genes"] == "G7", "cos_genes_in_place"] = 1 - 1e-2
    ax = rc.pl.shift_by_rank(table, n=3)
    assert names_in(ax)[0] == "SG7" and len(names_in(ax)) == 3 and ax.get_yscale() == "log"
    assert {"genes of like rank: 5-95 %", "their median"} <= set(texts(ax))
    require_apart(ax)
    points = max((c.get_offsets() for c in ax.collections), key=len)
    ranked = rc.tl.rank_edits(table)
    np.testing.assert_allclose(np.sort(points[:, 1]), np.sort(ranked["effect"]))
    np.testing.assert_allclose(np.sort(points[:, 0]), np.sort(ranked["mean_rank"]))
    assert not any("orders genes by position" in t for t in texts(ax))
    ax = rc.pl.shift_by_rank(table, score="cos_genes")
    (title,) = [t for t in texts(ax) if "Spearman" in t]
    assert "-1.00 (median over cells): it orders genes by position" in title
    ax = rc.pl.shift_by_rank(table, score="toward_hot_cell")
    assert ax.get_yscale() == "linear"


def test_shift_by_rank_without_ranks_or_values():
    table = hand_table()
    with pytest.raises(SettingsError, match="no edit with 'cos_genes_in_place' has a rank"):
        rc.pl.shift_by_rank(table.assign(rank=pd.array([None] * 5, "Int32")))
    with pytest.raises(SettingsError, match="no edit has a value of 'cos_genes_in_place'"):
        rc.pl.shift_by_rank(table.assign(cos_genes_in_place=np.nan))
    ax = rc.pl.shift_by_rank(table)
    assert "2 edits in 2 cells or more\nhow far it follows the rank is unknown: no cell has ten edits" in texts(ax)
    assert ax.get_legend() is None


def test_explain_cell(folder):
    ax = rc.pl.explain_cell(folder, "x")
    lines = {line.get_label().partition(":")[0]: line for line in ax.lines}
    np.testing.assert_allclose(lines["total"].get_ydata(), [0.5, 0.25, 0.125])
    np.testing.assert_allclose(lines["in place"].get_ydata(), [0.125, 0.0625, 0.01])
    assert lines["total"].get_xdata().tolist() == [0, 1, 2]
    assert "total: Spearman with the rank -1.00" in texts(ax) and {"Alpha", "Beta", "Gamma"} == set(names_in(ax))
    require_apart(ax)
    with pytest.raises(CellError, match=r"no cell 'zz' \(it has 2, such as x, y\)"):
        rc.pl.explain_cell(folder, "zz")
    with pytest.raises(SettingsError, match="has both a rank and 'cos_genes'"):
        rc.pl.explain_cell(hand_table().assign(cos_genes=np.nan, cos_genes_in_place=np.nan), "x")


def test_explain_cell_to_a_file(folder, tmp_path):
    """The function that `rankcell perturb --explain` calls."""
    found = explain_cell(rc.perturb.read_screen(folder), "y", tmp_path / "cell.png")
    assert found.read_bytes().startswith(b"\x89PNG")
    again = explain_cell(hand_table(), "y", tmp_path / "again.png")  # of all cells or of one read alone: the same picture
    assert again.read_bytes() == found.read_bytes()
    with pytest.raises(OutputError, match=r"written as .png, .svg, .pdf"):
        explain_cell(folder, "y", tmp_path / "cell.txt")
    with pytest.raises(CellError, match=r"no cell 'zz' \(it has 2, such as x, y\)"):
        explain_cell(folder, "zz", tmp_path / "zz.png")


SCREENS_OF_ALL_SIZES = {
    "one": (1, 1, False),
    "five": (5, 8, False),
    "long": (5, 8, True),
    "many": (5000, 3, False),
}


@pytest.mark.filterwarnings("ignore:this screen has a single edit:rankcell.errors.RankcellWarning")
@pytest.mark.parametrize("size", SCREENS_OF_ALL_SIZES)
def test_any_number_of_edits(size):
    n_edits, n_cells, long = SCREENS_OF_ALL_SIZES[size]
    table = made_table(n_edits, n_cells, long=long)
    ranked = rc.tl.rank_edits(table)
    ranked["p"] = np.linspace(0, 1, len(ranked)) ** 4
    axes = [
        rc.pl.shift_by_rank(table),
        rc.pl.explain_cell(table, "c0"),
        rc.pl.decomposition(table),
        rc.pl.screen_heatmap(table),
        rc.pl.volcano(ranked, y="p"),
        rc.pl.ranked_genes(ranked),
    ]
    for ax in axes:
        ax.figure.savefig("/dev/null", format="png")
        assert all(len(name) <= 40 for name in rows_of(ax))
    assert len(rows_of(axes[2])) == min(20, n_edits) and len(rows_of(axes[3])) == min(30, n_edits)
    for ax in (axes[0], axes[1], axes[4]):
        require_apart(ax)
        assert names_in(ax)


def test_drawn_on_given_axes(plt, folder):
    figure, axes = plt.subplots(2, 3, figsize=(18, 10))
    drawn = [
        rc.pl.shift_by_rank(folder, ax=axes[0, 0]),
        rc.pl.decomposition(folder, ax=axes[0, 1]),
        rc.pl.screen_heatmap(folder, ax=axes[0, 2]),
        rc.pl.affected_genes(folder, "A", ax=axes[1, 0]),
        rc.pl.explain_cell(folder, "x", ax=axes[1, 1]),
        rc.pl.volcano(ranked_with_p(), ax=axes[1, 2]),
    ]
    assert drawn == list(axes.ravel()) and plt.get_fignums() == [figure.number]


def test_what_is_no_screen(tmp_path):
    with pytest.raises(InputError, match="not a table of a screen .it has no column cell_id"):
        rc.pl.shift_by_rank(pd.DataFrame({"a": [1]}))
    with pytest.raises(InputError, match="found int"):
        rc.pl.shift_by_rank(3)
    with pytest.raises(InputError, match="no results folder"):
        rc.pl.shift_by_rank(tmp_path / "nothing")


def test_the_table_is_not_changed():
    table = hand_table()
    for draw in (rc.pl.shift_by_rank, rc.pl.decomposition, rc.pl.screen_heatmap):
        draw(table)
    pd.testing.assert_frame_equal(table, hand_table())
    assert table.attrs == hand_table().attrs


# The command


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
@pytest.mark.parametrize("what", PICTURES)
def test_plot_writes_the_same_bytes(folder, tmp_path, what, suffix):
    options = {"affected": ["--edit", "Alpha"], "explain": ["--cell", "x"]}.get(what, [])
    if what == "volcano":
        ranked_with_p()[:3].to_csv(tmp_path / "stats.csv", index=False)
        options = ["--statistics", str(tmp_path / "stats.csv")]
    out = [tmp_path / f"{i}{suffix}" for i in range(2)]
    for path in out:
        assert main(["plot", str(folder), "--what", what, "-o", str(path), *options]) == 0
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert out[0].read_bytes() == out[1].read_bytes() and out[0].read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--what", "pie", "-o", "a.png"], "there is no picture 'pie'; one of volcano, ranked, .*report"),
        (["--what", "rank", "-o", "a.html"], "a.html: --what rank is written as .png, .svg or .pdf"),
        (["-o", "a.png"], "a.png: --what report is an .html file"),
        (["--what", "rank", "-o", "a.gif"], "written as .png, .svg, .pdf"),
        (["--what", "affected", "-o", "a.png"], "is of one edit: name it with --edit"),
        (["--what", "explain", "-o", "a.png"], "is of one cell: name it with --cell"),
        (["--what", "rank", "--cell", "x", "-o", "a.png"], "the picture 'rank' takes no --cell; it takes score, n, min_cells"),
        (["--what", "rank", "-n", "0", "-o", "a.png"], "n is 0; at least 1"),
        (["--what", "rank", "--min-cells", "-1", "-o", "a.png"], "min-cells is -1"),
        (["--what", "rank", "--score", "cos", "-o", "a.png"], "no score 'cos'"),
        (["--what", "volcano", "-o", "a.png"], "no edit has both an effect and 'matched_p'"),  # three edits have no peers
        (["--what", "volcano", "--statistics", "none.csv", "-o", "a.png"], "no such file"),
        (["--cell", "x", "-o", "a.html"], "a report takes no --cell"),
    ],
)
def test_plot_of_bad_input(folder, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert main(["plot", str(folder), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line) and {p.name for p in tmp_path.iterdir()} == {"screen"}


def test_plot_does_not_replace_unasked(folder, tmp_path, capsys):
    out = tmp_path / "a.png"
    out.write_text("mine")
    assert main(["plot", str(folder), "--what", "rank", "-o", str(out)]) == 2 and out.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert main(["plot", str(folder), "--what", "rank", "-o", str(out), "--force"]) == 0 and out.read_bytes().startswith(b"\x89PNG")
    (folder / "manifest.json").write_text(json.dumps({"fingerprint": "f", "settings": {}, "complete": False}))
    assert main(["plot", str(folder), "-o", str(tmp_path / "b.html")]) == 2
    assert "has not finished" in capsys.readouterr().err


# The page


class Reader(HTMLParser):
    """Every tag closed, no link outside, the text."""

    VOID = ("meta", "img", "br", "hr")

    def __init__(self):
        super().__init__()
        self.open, self.links, self.text, self.headings, self.alts = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        given = dict(attrs)
        self.links += [given[k] for k in ("src", "href") if k in given]
        self.alts += [given["alt"]] if "alt" in given else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def read_page(path):
    reader = Reader()
    reader.feed(path.read_text())
    assert reader.open == []
    assert all(link.startswith("data:image/png;base64,") for link in reader.links) and "<script" not in path.read_text()
    return reader


def test_report(tmp_path):
    table = made_table(60, 6)
    folder = write_screen(tmp_path / "my screen", table, symbols=table.attrs["symbols"], affected=None)
    assert main(["plot", str(folder), "-o", str(tmp_path / "report.html")]) == 0
    page = read_page(tmp_path / "report.html")
    text = " ".join(page.text)
    assert page.headings == [
        "The answer",
        "Before you believe it",
        "How far each score follows the mere rank",
        "Strongest edits",
        "Effect and significance",
        "What a deletion consists of",
        "Shift against rank",
        "Movement toward states",
        "One cell",
        "What was run",
        "How to read it",
        "Each picture by itself",
    ]
    assert "60 edits, all in 3 cells or more" in text and "Model 'small', layer -2" in text
    assert "Warning:  cos_genes  follows the rank (above 0.9 in size)" in text
    assert "Delete, absence in place, and mask" in page.alts and len(page.links) >= 6
    assert "'my screen'" in text  # commands that can be pasted
    assert main(["plot", str(folder), "-o", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_bytes() == (tmp_path / "report.html").read_bytes()


def test_report_of_everything_and_of_little(folder, tmp_path):
    ranked_with_p()[:3].assign(n_cells=2, sem=0.1, mean_rank=1.0).to_csv(tmp_path / "stats.csv", index=False)
    assert main(["plot", str(folder), "-o", str(tmp_path / "r.html"), "--statistics", str(tmp_path / "stats.csv")]) == 0
    headings = read_page(tmp_path / "r.html").headings
    assert {"Effect and significance", "Affected genes", "Movement toward states", "What a deletion consists of"} <= set(headings)
    bare = hand_table()[["cell_id", "edit", "kind", "genes", "rank", "n_tokens", "cos_genes"]].assign(kind="mask")
    little = write_screen(tmp_path / "little", bare, states=())
    assert main(["plot", str(little), "-o", str(tmp_path / "l.html")]) == 0
    headings = read_page(tmp_path / "l.html").headings
    assert not {"Effect and significance", "Affected genes", "Movement toward states", "What a deletion consists of"} & set(headings)


def test_names_in_the_page_are_made_safe(tmp_path):
    table = hand_table()
    folder = write_screen(tmp_path / "s", table, symbols={"A": "<b>&", "B": "x`y", "C": "C"})
    assert main(["plot", str(folder), "-o", str(tmp_path / "r.html")]) == 0
    read_page(tmp_path / "r.html")
    assert "<b>&" not in (tmp_path / "r.html").read_text() and "&lt;b&gt;&amp;" in (tmp_path / "r.html").read_text()


# The drawing for the docs


def test_the_picture_of_three_absences_is_the_one_that_is_drawn(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tutorials"))
    import draw_absence

    from rankcell.report.pictures.absence import GENES
    from rankcell.report.pictures.absence import draw_absence as draw
    from rankcell.report.pictures.figures import new_figure

    assert draw_absence.PICTURE.exists() and draw_absence.main(tmp_path / "a.png").stat().st_size > 10_000
    ax = draw(new_figure(9.6, 3.6).subplots())
    shown = texts(ax)
    assert shown.count("CD79A") == 2 and shown.count("<mask>") == 1 and shown.count(GENES[-1]) == 4
    assert {"delete", "absence in place", "mask", "the cell"} <= set(shown)
