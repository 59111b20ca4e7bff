"""Edits ranked by effect: a hand-sized table, and scipy for the rank correlation."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from rankcell import tl
from rankcell.errors import RankcellWarning, SettingsError
from rankcell.stats import RankOptions, effect_of, rank_edits, rank_spearman
from rankcell.stats.rank import edit_ranking
from rankcell.stats.ranking import Ranking

pytestmark = pytest.mark.filterwarnings("ignore:no edit is in 5 cells:rankcell.errors.RankcellWarning")  # tables of a hand's size


def hand_table():
    """Three edits; B in two cells, C with one null score, A in all three."""
    table = pd.DataFrame(
        {
            "cell_id": ["x", "x", "y", "y", "z", "z"],
            "edit": ["delete:A", "delete:B", "delete:A", "delete:B", "delete:A", "delete:C"],
            "kind": "delete",
            "genes": ["A", "B", "A", "B", "A", "C"],
            "rank": pd.array([0, 1, 3, 2, None, 5], "Int32"),
            "n_tokens": 9,
            "cos_genes": [0.9, 0.7, 0.8, 0.5, 0.7, np.nan],
            "cos_genes_in_place": [0.99, 0.98, 0.97, 0.90, 0.95, np.nan],
            "toward_t_cell": [0.1, -0.1, 0.2, -0.3, 0.3, 0.05],
        }
    )
    table.attrs["symbols"] = {"A": "Alpha", "B": "Beta"}
    return table


def test_hand_sized_table():
    ranked = rank_edits(hand_table(), min_cells=0)
    assert ranked.columns.tolist()[:10] == [
        "edit",
        "kind",
        "genes",
        "symbols",
        "n_cells",
        "n_absent",
        "mean_rank",
        "effect",
        "sem",
        "plain_effect",
    ]
    assert ranked.columns.tolist()[10:] == ["ci_low", "ci_high", "detection", "matched_diff", "matched_z", "matched_p", "matched_fdr"]
    assert ranked.edit.tolist() == ["delete:B", "delete:A", "delete:C"]
    assert ranked.genes.tolist() == ["B", "A", "C"]
    assert ranked.kind.tolist() == ["delete"] * 3
    assert ranked.symbols.tolist() == ["Beta", "Alpha", "C"]
    assert ranked.n_cells.tolist() == [2, 3, 0]
    assert ranked.n_absent.tolist() == [0, 1, 0]
    assert rank_edits(hand_table(), min_cells=3).edit.tolist() == rank_edits(hand_table()).edit.tolist() == ["delete:A"]
    np.testing.assert_allclose(ranked.mean_rank, [1.5, 1.5, 5])
    np.testing.assert_allclose(ranked.effect, [0.06, 0.03, np.nan])
    # sd of (0.02, 0.10) / sqrt 2 = 0.04; sd of (0.01, 0.03, 0.05) = 0.02, / sqrt 3
    np.testing.assert_allclose(ranked["sem"], [0.04, 0.02 / np.sqrt(3), np.nan])
    np.testing.assert_allclose(ranked.plain_effect, [0.4, 0.2, np.nan])
    # Student's t at 97.5 %: 12.7062 with one degree of freedom, 4.30265 with two
    np.testing.assert_allclose(ranked.ci_low, [0.06 - 12.7062 * 0.04, 0.03 - 4.30265 * 0.02 / np.sqrt(3), np.nan], rtol=1e-5)
    np.testing.assert_allclose(ranked.ci_high, [0.06 + 12.7062 * 0.04, 0.03 + 4.30265 * 0.02 / np.sqrt(3), np.nan], rtol=1e-5)
    np.testing.assert_allclose(ranked.detection, [2 / 3, 2 / 3, 1 / 3])  # A has no rank in one of its three cells
    assert ranked.matched_p.isna().all()  # nobody has ten peers here
    assert ranked.attrs["by"] == "cos_genes_in_place"
    assert np.isnan(ranked.attrs["rank_spearman"]) and np.isnan(ranked.attrs["plain_rank_spearman"])


@pytest.mark.parametrize(
    ("by", "order", "effects"),
    [
        ("cos_genes", ["B", "A", "C"], [0.4, 0.2, np.nan]),
        ("toward_t_cell", ["A", "C", "B"], [0.2, 0.05, -0.2]),  # the score itself, greatest first
    ],
)
def test_by(by, order, effects):
    ranked = rank_edits(hand_table(), score=by, min_cells=0)
    assert ranked.genes.tolist() == order
    np.testing.assert_allclose(ranked.effect, effects)
    assert "plain_effect" not in ranked and "plain_rank_spearman" not in ranked.attrs
    assert ranked.attrs["by"] == by


def test_default_without_in_place_and_single_cell():
    table = hand_table().drop(columns="cos_genes_in_place").iloc[:2]
    ranked = tl.rank_edits(table)
    assert ranked.attrs["by"] == "cos_genes"
    np.testing.assert_allclose(ranked.effect, [0.3, 0.1])
    assert ranked["sem"].isna().all()


def test_equal_effects_stand_by_name():
    table = hand_table().iloc[:2].assign(edit=["delete:Z", "delete:Y"], cos_genes=0.5, cos_genes_in_place=0.5)
    assert rank_edits(table).edit.tolist() == ["delete:Y", "delete:Z"]


def test_the_table_is_not_changed():
    table = hand_table()
    rank_edits(table)
    pd.testing.assert_frame_equal(table, hand_table())


def test_unknown_score():
    with pytest.raises(SettingsError, match="no score 'cos_cls'.* has cos_genes, cos_genes_in_place, toward_t_cell"):
        rank_edits(hand_table(), score="cos_cls")
    with pytest.raises(SettingsError, match="no score 'cos_genes'; it has none"):
        rank_edits(hand_table()[["cell_id", "edit", "kind", "genes", "rank"]])


def test_cell_columns_are_no_scores():
    """Columns that begin as scores do, such as those that rc.get.screen_df(..., obs=True) adds."""
    table = hand_table().assign(toward_treatment="drug", shift_work="night", cos_dose=1.5)
    pd.testing.assert_frame_equal(rank_edits(table), rank_edits(hand_table()))
    assert rank_edits(table, mode="toward").attrs["by"] == "toward_t_cell"
    with pytest.raises(SettingsError, match="no score 'cos_dose'"):
        rank_edits(table, score="cos_dose")


def test_effect_of():
    assert effect_of({"cos_cell": 0.75}, "cos_cell") == 0.25
    assert effect_of({"toward_s_cls": -0.5}, "toward_s_cls") == -0.5


def cells_table(effects, ranks):
    """A cell per row of `effects` [cells, edits]."""
    n_cells, n = effects.shape
    return pd.DataFrame(
        {
            "cell_id": np.repeat([f"c{i}" for i in range(n_cells)], n),
            "edit": np.tile([f"delete:{k}" for k in range(n)], n_cells),
            "kind": "delete",
            "genes": np.tile([str(k) for k in range(n)], n_cells),
            "rank": pd.array(ranks.ravel(), "Int32"),
            "cos_genes": 1 - effects.ravel(),
        }
    )


def test_rank_spearman_is_scipys_median():
    rng = np.random.default_rng(3)
    effects = np.round(rng.random((5, 14)), 1)  # with ties
    ranks = np.stack([rng.permutation(14) for _ in range(5)])
    table = cells_table(effects, ranks)
    expected = np.median([spearmanr(1 - (1 - e), r).statistic for e, r in zip(effects, ranks, strict=True)])
    np.testing.assert_allclose(rank_spearman(table, "cos_genes"), expected, rtol=1e-12)
    # nulls do not take part; a cell left with fewer than ten edits neither, nor one whose effects are all the same
    table.loc[table.cell_id == "c0", "cos_genes"] = [np.nan] * 5 + [0.5] * 9
    table.loc[table.cell_id == "c1", "cos_genes"] = 0.5
    table.loc[(table.cell_id == "c2") & (table["rank"] < 4), "rank"] = pd.NA
    kept = table[table.cell_id.isin(["c2", "c3", "c4"])].dropna()
    expected = np.median([spearmanr(1 - c.cos_genes, c["rank"].astype(float)).statistic for _, c in kept.groupby("cell_id")])
    np.testing.assert_allclose(rank_spearman(table, "cos_genes"), expected, rtol=1e-12)


def test_rank_spearman_without_a_cell_of_ten_edits():
    ranks = np.arange(9)[None]
    assert np.isnan(rank_spearman(cells_table(ranks / 10.0, ranks), "cos_genes"))
    ranks = np.arange(10)[None]
    assert rank_spearman(cells_table(ranks / 10.0, ranks), "cos_genes") == pytest.approx(1)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_score_that_follows_the_rank_is_told(sign):
    ranks = np.arange(12)[None]
    table = cells_table(0.5 + sign * ranks / 100.0, ranks)
    with pytest.warns(RankcellWarning, match="'cos_genes' follows the gene's rank") as told:
        ranked = rank_edits(table)
    assert "_in_place" not in str(told[0].message)
    assert ranked.attrs["rank_spearman"] == pytest.approx(sign)
    rng = np.random.default_rng(0)
    table["cos_genes_in_place"] = rng.random(12)
    with pytest.warns(RankcellWarning, match="Rank by its _in_place counterpart"):
        rank_edits(table, score="cos_genes")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "'cos_genes")
        ranked = rank_edits(table)  # the counterpart itself is fine
    assert ranked.attrs["plain_rank_spearman"] == pytest.approx(sign)
    assert abs(ranked.attrs["rank_spearman"]) < 0.9


def test_a_ranking_and_its_table():
    """The facts of a ranking are its own: the table of a public verb carries them, and changing either leaves the other."""
    ranking = edit_ranking(hand_table(), RankOptions("cos_genes"))
    table = ranking.df()
    assert table.attrs == dict(ranking.facts) and ranking.by == "cos_genes" and ranking.model_note == ""
    table.attrs["by"] = "other"
    assert ranking.by == "cos_genes" and ranking.table.attrs == {} and Ranking.of(table).by == "other"
    keep = ranking.table["effect"] > ranking.table["effect"].min()
    assert len(ranking.where(keep)) < len(ranking) and ranking.where(keep).facts == ranking.facts
