"""Statistics by cells: few of them, copies of one, ids that repeat, cells without an edit; one number of edits everywhere."""

import html
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from flat_options import perturb_df, write_stats

import rankcell as rc
from rankcell.cli.main import main
from rankcell.errors import CellError, InputError, RankcellError, RankcellWarning, SettingsError
from rankcell.perturb import read_screen
from rankcell.stats import rank_edits
from rankcell.stats.replicates import LEAST_REPLICATES, means, p_against_zero
from rankcell.stats.screen_lines import rank_lines
from rankcell.stats.screen_rows import least_cells
from rankcell.stats.summary import edit_counts, edits_sentence

RNG = np.random.default_rng
SYMBOL = "MS4A1"


def in_so_many_cells(counts, *, pool=20, seed=0):
    """Edit i in counts[i] cells; no effect but noise of any size."""
    rng = RNG(seed)
    rows = [(f"c{c}", f"delete:g{i}", "delete", f"g{i}") for i, n in enumerate(counts) for c in rng.choice(pool, n, replace=False)]
    table = pd.DataFrame(rows, columns=["cell_id", "edit", "kind", "genes"]).sort_values("cell_id", kind="stable", ignore_index=True)
    table["rank"] = table.groupby("cell_id").cumcount()
    return table.assign(toward_t_cell=rng.normal(size=len(table)), donor="d" + (table.cell_id.str[1:].astype(int) % 8).astype(str))


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    """Six cells, the one gene of interest in few of them, one gene in none."""
    adata = rc.datasets.pbmc68k()
    shown = adata[:, [SYMBOL, "LYZ", "CD3D", "CD79A"]].X.toarray() > 0
    few = np.flatnonzero(shown[:, 0] & ~shown[:, 1])[:2]
    none = np.flatnonzero(~shown[:, :3].any(1))[:4]
    folder = tmp_path_factory.mktemp("few") / "s"
    table = perturb_df(adata[np.r_[few, none]], "demo", genes=[SYMBOL, "LYZ", "CD79A"], device="cpu", out=folder)
    return folder, table


@pytest.fixture(scope="module")
def broad(tmp_path_factory):
    """Eight cells, every gene of each."""
    adata = rc.datasets.pbmc68k()
    folder = tmp_path_factory.mktemp("broad") / "s"
    genes = adata.var_names[np.argsort(-(adata.X > 0).sum(0).A1 if hasattr((adata.X > 0).sum(0), "A1") else 0)][:90]
    perturb_df(adata[:8], "demo", genes=list(genes), device="cpu", out=folder)
    return folder


# Few cells


def test_no_p_from_fewer_than_five_cells():
    counts = np.repeat(np.arange(1, 11), 20)
    table = in_so_many_cells(counts)
    other = table.assign(toward_t_cell=RNG(1).normal(size=len(table)))
    controls = [f"g{i}" for i in range(180, 200)]
    ranked = rank_edits(table, mode=["toward", "control", "vs"], controls=controls, against=other, min_cells=0)
    few = ranked.n_cells < LEAST_REPLICATES
    columns = [c for c in ranked if c.endswith(("_p", "_fdr", "_p_mean", "_p_spread"))]
    assert {"zero_p", "matched_p", "control_p", "vs_p", "zero_fdr"} <= set(columns) and few.sum() == 80
    assert ranked.loc[few, columns].isna().all().all()
    assert ranked.loc[~few & ~ranked.is_control, ["zero_p", "matched_p", "vs_p"]].notna().all().all()
    assert ranked.attrs["without_p"] == 80 and ranked["matched_z"].notna().all()  # the order stays


def test_fdr_is_over_the_edits_that_have_a_p():
    from rankcell.stats.replicates import fdr

    ranked = rank_edits(in_so_many_cells(np.repeat([2, 9], 60)), mode="toward", min_cells=0)
    with_p = ranked[ranked.zero_p.notna()]
    assert len(with_p) == 60
    np.testing.assert_allclose(with_p.zero_fdr, fdr(with_p.zero_p.to_numpy()))


@pytest.mark.parametrize("n", [5, 6, 10])
def test_p_of_few_cells_are_level(n):
    """40,000 means of normal noise: the share below a level is the level."""
    edit = np.repeat(np.arange(40_000), n)
    p = p_against_zero(means(edit, RNG(n).normal(size=len(edit)), 40_000), RNG(0))
    for level in (0.05, 0.01, 1e-3):
        assert (p < level).mean() == pytest.approx(level, abs=5 * np.sqrt(level / 40_000))


def test_copies_of_a_cell_are_no_replicates():
    """Six cells whose effects differ by rounding alone: t would be 1e7."""
    values = 3e-4 * (1 + 1e-8 * RNG(0).normal(size=6))
    assert np.isnan(p_against_zero(means(np.zeros(6, int), values, 1), RNG(0))).all()


def test_it_is_said_when_nothing_has_a_p():
    table = in_so_many_cells(np.full(30, 4))
    with pytest.warns(RankcellWarning, match="no edit is in 5 cells or more: there is no p"):
        ranked = rank_edits(table, score="toward_t_cell")
    assert ranked.matched_p.isna().all() and ranked.attrs["without_p"] == len(ranked) == 30
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "one Gaussian fits")
        rank_edits(table, score="toward_t_cell", mode="mixture")  # which has no p: nothing is said


def test_donors_below_five_have_signs_alone():
    table = in_so_many_cells(np.full(40, 16)).assign(donor=lambda t: "d" + (t.cell_id.str[1:].astype(int) % 4).astype(str))
    with pytest.warns(RankcellWarning):
        ranked = rank_edits(table, mode=["toward", "control"], controls=[f"g{i}" for i in range(9)], donor="donor")
    assert ranked.zero_p.min() >= 0.125 and ranked.zero_p.notna().all()
    assert ranked[["matched_p", "matched_p_peers", "control_p_spread"]].isna().all().all()


# Repeated ids


def test_repeated_cell_ids_are_refused():
    table = in_so_many_cells(np.full(12, 6))
    with pytest.raises(CellError, match=r"cell 'c\d+' has 2 rows for delete:g\d+; expected one"):
        rank_edits(pd.concat([table, table[:3]]), score="toward_t_cell")
    merged = table.assign(cell_id=table.cell_id.replace({"c1": "c0", "c2": "c0"}))
    with pytest.raises(CellError, match="cell 'c0' has"):
        rc.tl.rank_edits(merged, score="toward_t_cell", min_cells=0)


def test_a_folder_of_repeated_ids_is_refused(tmp_path, capsys):
    from hand_screens import hand_table, write_screen

    folder = write_screen(tmp_path / "s", hand_table(), cells={"cell_id": ["x", "y", "x"]})
    assert main(["stats", str(folder), "-o", str(tmp_path / "o.tsv")]) == 2
    assert "cell 'x' was screened 2 times" in capsys.readouterr().err and not (tmp_path / "o.tsv").exists()
    twice = write_screen(tmp_path / "t", pd.concat([hand_table(), hand_table()[:2]], ignore_index=True))  # without cells.parquet
    with pytest.raises(CellError, match="cell 'x' has 2 rows for delete:A"):
        rank_edits(twice)


# A table and its folder


@pytest.mark.filterwarnings("ignore::rankcell.errors.RankcellWarning")
def test_a_screen_gives_the_same_rows_in_python_and_from_its_folder(screen, tmp_path):
    folder, table = screen
    assert main(["stats", str(folder), "-o", str(tmp_path / "o.parquet"), "--min-cells", "0"]) == 0
    written = pd.read_parquet(tmp_path / "o.parquet")
    for source in (table, folder, str(folder), read_screen(folder), folder / "screen.parquet", rc.get.screen_df(folder)):
        ranked = rc.tl.rank_edits(source, min_cells=0)
        pd.testing.assert_frame_equal(ranked, written, check_dtype=False)
    ranked = written.set_index("symbols")
    assert ranked.detection[SYMBOL] == pytest.approx(2 / 6) and ranked.n_cells[SYMBOL] == 2
    assert ranked.n_cells["LYZ"] == 0 and ranked.detection["LYZ"] == 0 and np.isnan(ranked.effect["LYZ"])
    assert written.attrs["screened_cells"] == 6 and written.attrs["screened_cells_from"] == "screen"


@pytest.mark.filterwarnings("ignore::rankcell.errors.RankcellWarning")
def test_what_a_part_of_a_table_knows(screen):
    _, table = screen
    one = rc.tl.rank_edits(table[table.edit == table.edit.iloc[0]], min_cells=0)  # of some edits: what is known of them holds
    assert one.detection[0] == pytest.approx(2 / 6) and one.attrs["screened_cells"] == 6
    cell = rc.tl.rank_edits(table[table.cell_id == table.cell_id.iloc[0]], min_cells=0)  # of some cells: it does not
    assert (cell.detection == 1).all() and cell.attrs["screened_cells_from"] == "table" and cell.attrs["screened_cells"] == 1
    bare = table.copy()
    bare.attrs = {}
    alone = rc.tl.rank_edits(bare, min_cells=0)
    assert alone.attrs["screened_cells_from"] == "table" and len(alone) == table.edit.nunique()


def test_attributes_survive_parquet(screen, tmp_path):
    _, table = screen
    table.to_parquet(tmp_path / "t.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankcellWarning)
        ranked = rank_edits(pd.read_parquet(tmp_path / "t.parquet"), min_cells=0)
    assert ranked.attrs["screened_cells"] == 6 and len(ranked) == 3


# One number


@pytest.mark.parametrize(
    ("counts", "asked", "floor"), [([1, 2, 9], None, 3), ([1, 2], None, 2), ([0, 0], None, 0), ([], None, 0), ([9], 7, 7), ([9], 0, 0)]
)
def test_the_floor(counts, asked, floor):
    assert least_cells(np.array(counts, int), asked) == floor


def test_stats_perturb_and_page_say_one_number(broad, tmp_path, capsys):
    screen = read_screen(broad)
    lines, _ = rank_lines(screen)
    said = write_stats(broad, tmp_path / "o.tsv")
    ranked = rc.tl.rank_edits(broad)
    sentence = edits_sentence(ranked.attrs)
    assert re.match(r"\d+ of \d+ edits are in 3 cells or more; \d+ in fewer(, \d+ of them in none)? are left out", sentence)
    assert edit_counts(screen).items() <= ranked.attrs.items()
    assert lines[0] == f"to rank: {sentence}" and said.lines[1].startswith(sentence) and len(said.table) == len(ranked)
    assert main(["plot", str(broad), "-o", str(tmp_path / "p.html")]) == 0
    page = html.unescape(re.sub(r"<[^>]*>", "", re.sub(r'src="data[^"]*"', "", (tmp_path / "p.html").read_text())))
    fdr_line = next(line for line in said.lines if line.startswith("matched_fdr < 0.05"))
    assert sentence in page and re.search(r"of \d+ edits tested", fdr_line)[0] in page
    capsys.readouterr()


# Arguments


def wrong(screen):
    _, table = screen
    adata = rc.datasets.pbmc68k()[:2]
    return [
        (dict(table=adata), InputError, "found AnnData; perturb it first: rc.tl.perturb"),
        (dict(table=3), InputError, "found int"),
        (dict(table=None), InputError, "found NoneType"),
        (dict(table=[table]), InputError, "found list"),
        (dict(table="nowhere"), RankcellError, "no results folder nowhere"),
        (dict(table=table, score="cos_gene_in_place"), SettingsError, "did you mean 'cos_genes_in_place'"),
        (dict(table=table, score="COS_CELL"), SettingsError, "did you mean 'cos_cell'"),
        (dict(table=table, score=["cos_genes", "cos_cell"]), SettingsError, "score is ['cos_genes', 'cos_cell']; a name"),
        (dict(table=table, mode="match"), SettingsError, "did you mean 'matched'"),
        (dict(table=table, mode=3), SettingsError, "mode is 3; a name"),
        (dict(table=table, mode="control"), SettingsError, "names of the control genes: controls"),
        (dict(table=table, mode="control", controls=[3]), SettingsError, "controls holds 3; names of genes"),
        (dict(table=table, mode="vs"), SettingsError, "needs the other screen: against"),
        (dict(table=table, mode="vs", against=adata), InputError, "found AnnData"),
        (dict(table=table, mode="toward"), SettingsError, "run the screen with rc.ScreenConfig(toward=...)"),
        (dict(table=table, min_cells="many"), SettingsError, "min_cells is 'many'; a whole number"),
        (dict(table=table, min_cells=-1), SettingsError, "min_cells is -1; at least 0"),
        (dict(table=table, min_cells=True), SettingsError, "min_cells is True; a whole number"),
        (dict(table=table, seed=0.5), SettingsError, "seed is 0.5; a whole number"),
        (dict(table=table, donor=["d", "e"]), SettingsError, "donor is ['d', 'e']; a name"),
        (dict(table=table, donor="d", cells=10), SettingsError, "cells: expected a table of cell_id and 'd'"),
    ]


@pytest.mark.parametrize("i", range(21))
def test_wrong_arguments_in_one_line(screen, i):
    how, kind, line = wrong(screen)[i]
    with pytest.raises(kind) as caught:
        rc.tl.rank_edits(**how)
    assert line in str(caught.value) and "\n" not in str(caught.value) and "--" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::rankcell.errors.RankcellWarning")
def test_what_is_meant_is_taken(screen, tmp_path):
    folder, table = screen
    pd.testing.assert_frame_equal(rc.tl.rank_edits(folder, min_cells="0"), rc.tl.rank_edits(table, min_cells=np.int64(0)))
    adata = rc.datasets.pbmc68k()
    ranked = rc.tl.rank_edits(folder, min_cells=0, donor="bulk_labels", cells=adata)  # the donors of an AnnData's cells
    assert ranked.n_donors.max() >= 1
    by_text = perturb_df(adata, "demo", genes=["CD74"], cells="2", seed=1, device="cpu")
    by_number = perturb_df(adata, "demo", genes=["CD74"], cells=2.0, seed=1, device="cpu")
    pd.testing.assert_frame_equal(by_text, by_number)
    one = perturb_df(adata[:1], "demo", genes=None, device="cpu")
    assert len(one) > 100  # every gene
    for cells in ("ten", 0, 1.5, True):
        with pytest.raises(SettingsError, match="cells is"):
            perturb_df(adata, "demo", genes=[SYMBOL], cells=cells, device="cpu")
    with pytest.raises(InputError, match="lacks edit, genes, affected"):
        rc.tl.rank_affected(adata.obs)
    with pytest.raises(InputError, match="found AnnData"):
        rc.tl.rank_affected(adata)
