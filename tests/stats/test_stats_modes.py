"""What rank_edits tests, mode by mode: hand-sized cases, scipy and statsmodels as the independent truth, and what odd input gives."""

import itertools
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from flat_options import perturb_df, write_stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rankcell import tl
from rankcell.cli.main import main
from rankcell.errors import CellError, InputError, OutputError, RankcellError, RankcellWarning, SettingsError
from rankcell.stats import rank_affected
from rankcell.stats import rank_edits as rank_any
from rankcell.stats.covariates import partial_spearman, ranks_within
from rankcell.stats.matched import NEAREST, compare_to_peers, log_size, residuals
from rankcell.stats.mixture import impact
from rankcell.stats.replicates import Means, donors_of, fdr, least_p, means, p_against_zero, sign_flip_p
from rankcell.stats.screen_rows import rows_of

RNG = np.random.default_rng


def screen(n_cells=30, n_edits=60, *, seed=0, implant=None, score="toward_t_cell", share=0.8):
    """Cells in which a share of the edits stands in random order; `implant`: {edit number: added effect}. Sizes are log-normal."""
    rng = RNG(seed)
    rows = []
    for c in range(n_cells):
        shown = rng.permutation(n_edits)[: max(1, int(share * n_edits))]
        noise = rng.normal(size=len(shown))
        for rank, (e, x) in enumerate(zip(shown, noise, strict=True)):
            rows.append((f"c{c}", f"delete:g{e}", "delete", f"g{e}", rank, x - 0.5 * np.log1p(rank) + (implant or {}).get(int(e), 0.0)))
    table = pd.DataFrame(rows, columns=["cell_id", "edit", "kind", "genes", "rank", "x"])
    table[score] = 1 - 1e-3 * np.exp(table.x) if score.startswith("cos_") else table.x
    table["donor"] = "d" + (table.cell_id.str[1:].astype(int) % 8).astype(str)
    return table.drop(columns="x")


def rank_edits(table, **how):
    """By the one score that `screen` makes, and of any number of cells, where nothing else is asked for."""
    how = {"min_cells": 0} | how
    if isinstance(table, pd.DataFrame) and "cos_genes" not in table and "toward" not in how.get("mode", ""):
        how = {"score": "toward_t_cell"} | how
    return rank_any(table, **how)


# Replicates


def test_sign_flips_by_hand():
    """Three donors, all positive: of the eight assignments of signs only +++ and --- reach the mean, so p = 2/8."""
    found = sign_flip_p(np.array([[1.0, 2.0, 3.0], [1.0, -1.0, np.nan], [4.0, np.nan, np.nan], [np.nan] * 3]), RNG(0))
    np.testing.assert_allclose(found, [0.25, 1.0, 1.0, np.nan])
    assert least_p(3) == 0.25 and least_p(6) == 0.03125 and least_p(1) == 1


@given(st.lists(st.floats(-5, 5).map(lambda v: round(v, 2)), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_sign_flips_are_all_sign_flips(x):
    sums = [abs(sum(s * v for s, v in zip(signs, x, strict=True))) for signs in itertools.product([1, -1], repeat=len(x))]
    expected = np.mean([s >= abs(sum(x)) - 1e-9 for s in sums])
    np.testing.assert_allclose(sign_flip_p(np.array([x]), RNG(0)), [expected])


def test_sign_flips_are_scipys():
    x = RNG(1).normal(0.4, 1, size=9)
    truth = stats.permutation_test((x,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    np.testing.assert_allclose(sign_flip_p(x[None], RNG(0)), [truth])
    many = RNG(2).normal(0.5, 1, size=(1, 25))
    near = stats.permutation_test((many[0],), np.mean, permutation_type="samples", n_resamples=60_000, rng=RNG(3)).pvalue
    found = sign_flip_p(many, RNG(0))
    assert found == pytest.approx(near, abs=4 * np.sqrt(near / 60_000)) and sign_flip_p(many + 50, RNG(0))[0] == 1 / (2**16 + 1)


def test_cells_as_replicates_are_scipys_t():
    rng = RNG(0)
    edit, x = np.repeat([0, 1, 2], [5, 9, 1]), rng.normal(0.3, 1, 15)
    m = means(edit, x, 4)
    truth = [stats.ttest_1samp(x[:5], 0), stats.ttest_1samp(x[5:14], 0)]
    np.testing.assert_allclose(p_against_zero(m, rng), [truth[0].pvalue, truth[1].pvalue, np.nan, np.nan])
    np.testing.assert_allclose(m.mean, [x[:5].mean(), x[5:14].mean(), x[14], np.nan])
    assert np.isnan(p_against_zero(means(np.zeros(4, int), np.full(4, 0.7), 1), rng)).all()  # no spread to judge by


def test_donors_count_alike_however_many_cells():
    edit, x, donor = np.zeros(5, int), np.array([1.0, 1, 1, 1, 3]), np.array([0, 0, 0, 0, 1])
    m = means(edit, x, 1, donor=donor, n_donors=2)
    assert m.mean[0] == 2 and m.n[0] == 2 and m.var[0] == 2 and m.by_donor.tolist() == [[1, 3]]


def test_fdr_is_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is not installed")
    p = RNG(0).random(50) ** 2
    np.testing.assert_allclose(fdr(p), multitest.multipletests(p, method="fdr_bh")[1])
    np.testing.assert_allclose(fdr(np.array([0.01, np.nan, 0.04])), [0.02, np.nan, 0.04])
    assert np.isnan(fdr(np.full(3, np.nan))).all() and len(fdr(np.empty(0))) == 0


# Matched genes


def test_residuals_are_those_of_a_fit_to_the_neighbours():
    """Against numpy's least squares on the 25 rows either side, the row itself left out."""
    table = screen(1, 120, share=1.0)
    table["toward_t_cell"] = RNG(8).uniform(-1, 1, 120)  # none far enough out to be pulled in
    found = residuals(rows_of(table, ["toward_t_cell"]), "toward_t_cell")
    x, y = np.log1p(table["rank"].to_numpy(float)), table["toward_t_cell"].to_numpy()
    for i in (0, 1, 60, 119):
        lo = min(max(i - NEAREST, 0), 120 - 2 * NEAREST - 1)
        near = np.setdiff1d(np.arange(lo, lo + 2 * NEAREST + 1), [i])
        design = np.column_stack([np.ones(len(near)), x[near]])
        beta, sse, _, _ = np.linalg.lstsq(design, y[near], rcond=None)
        own = np.array([1, x[i]])
        sd = np.sqrt(sse[0] / (len(near) - 2) * (1 + own @ np.linalg.inv(design.T @ design) @ own))  # of a new value
        assert found.diff[i] == pytest.approx(y[i] - own @ beta, rel=1e-6)
        assert found.z[i] == pytest.approx((y[i] - own @ beta) / sd, rel=1e-6)


def test_residuals_of_sizes_are_ratios():
    """Multiplying a cell's shifts by ten, and adding any power of the rank, changes nothing."""
    table = screen(2, 80, score="cos_genes", share=1.0)
    first = residuals(rows_of(table, ["cos_genes"]), "cos_genes").z
    shift = (1 - table.cos_genes) * 10 * (1.0 + table["rank"]) ** -1.5
    np.testing.assert_allclose(residuals(rows_of(table.assign(cos_genes=1 - shift), ["cos_genes"]), "cos_genes").z, first, atol=1e-6)


def test_residuals_do_not_depend_on_the_order_of_rows():
    table = screen(5, 40)
    mixed = table.sample(frac=1, random_state=1)
    a, b = (residuals(rows_of(t, ["toward_t_cell"]), "toward_t_cell").z for t in (table, mixed))
    np.testing.assert_allclose(b, a[mixed.index], rtol=1e-9)


def test_matched_is_level_where_nothing_is_and_finds_what_is_implanted():
    p = np.concatenate([rank_edits(screen(seed=s, n_edits=200)).matched_p for s in range(4)])
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    ranked = rank_edits(screen(n_edits=200, implant={7: 3.0}))
    assert ranked.genes[0] == "g7" and ranked.matched_fdr[0] < 1e-6 and (ranked.matched_fdr[1:] < 0.05).sum() <= 2


def test_effects_that_every_gene_has_are_no_discoveries():
    """Each gene with an effect of its own, the same in all cells, as a model with random weights gives: against zero nearly all
    are significant, against the spread of their peers one in twenty."""
    own = {e: float(v) for e, v in enumerate(RNG(5).normal(size=300))}
    ranked = rank_edits(screen(n_cells=60, n_edits=300, implant=own), mode="toward")
    assert (ranked.matched_p < 0.05).mean() < 0.1 and (ranked.matched_fdr < 0.05).sum() <= 1
    assert (ranked.zero_p < 0.05).mean() > 0.8


def test_standing_by_hand():
    """Twelve edits of equal means but one, no noise to speak of: the spread is that of the others."""
    mean = np.array([-3.0, -2, -1, 0, 1, 2, 3, -1, 1, 0, 0.5, 40])
    found = compare_to_peers(Means(np.full(12, 50), mean, np.full(12, 1e-6)), np.arange(12.0), np.full(12, 0.5))
    assert found.n_peers.tolist() == [11] * 12
    assert found.centre[11] == np.median(mean[:11]) and found.centre[0] == np.median(mean[1:])
    assert np.argmax(np.abs(found.z)) == 11 and found.z[11] > 10
    few = compare_to_peers(Means(np.full(5, 9), np.arange(5.0), np.ones(5)), np.arange(5.0), np.full(5, 0.5))
    assert np.isnan(few.p).all()


def test_matched_with_donors_needs_both():
    table = screen(n_cells=40, n_edits=100, implant={3: 4.0})
    ranked = rank_edits(table, donor="donor")
    assert ranked.n_donors.max() == 8 and ranked.attrs["few_donors"] is None
    np.testing.assert_allclose(ranked.matched_p, np.maximum(ranked.matched_p_peers, ranked.matched_p_donors))
    top = ranked.iloc[0]
    assert top.genes == "g3" and top.matched_p_donors == 2 / 2**8 and top.matched_p_peers < 1e-6
    by = table[table.genes == "g3"].groupby("donor").toward_t_cell.mean()
    low, high = stats.t.interval(0.95, 7, by.mean(), by.sem())
    np.testing.assert_allclose([top.effect, top["sem"], top.ci_low, top.ci_high], [by.mean(), by.sem(), low, high])
    assert rank_edits(table, donor="donor").equals(ranked)


# Other comparisons


def test_control_by_hand():
    """One cell after the other: the edit less the mean of the controls that the cell shows."""
    effects = {"x": [0.5, 0.1, 0.2], "y": [0.9, 0.3, 0.3], "z": [0.4, 0.2, np.nan], "v": [0.3, 0.3, 0.1], "w": [0.6, 0.1, 0.0]}
    table = pd.DataFrame(
        [(c, f"delete:{g}", "delete", g, i, v[i]) for c, v in effects.items() for i, g in enumerate("ABC")],
        columns=["cell_id", "edit", "kind", "genes", "rank", "toward_t_cell"],
    )
    with pytest.warns(RankcellWarning, match="fewer than three control edits"):
        ranked = rank_edits(table, mode="control", controls=["B", "C"]).set_index("genes")
    diff = [0.5 - 0.15, 0.9 - 0.3, 0.4 - 0.2, 0.3 - 0.2, 0.6 - 0.05]
    assert ranked.control_diff["A"] == pytest.approx(np.mean(diff)) and ranked.control_n["A"] == 5
    assert ranked.control_p["A"] == pytest.approx(stats.ttest_1samp(diff, 0).pvalue)
    assert ranked.is_control.to_dict() == {"A": False, "B": True, "C": True} and ranked.control_p[["B", "C"]].isna().all()
    assert ranked.control_diff["C"] == pytest.approx(np.mean([0.1, 0.0, -0.2, -0.1]))


def test_controls_say_whether_an_edit_is_beyond_them():
    own = {e: float(v) for e, v in enumerate(RNG(6).normal(size=80))} | {50: 12.0}
    controls = [f"g{i}" for i in range(20)]
    ranked = rank_edits(screen(n_cells=60, n_edits=80, implant=own), mode="control", controls=controls).set_index("genes")
    rest = ranked[~ranked.is_control].drop("g50")
    assert (rest.control_p_mean < 0.05).mean() > 0.5  # all differ from the controls' mean
    assert (rest.control_p < 0.05).mean() < 0.2 and ranked.control_p["g50"] < 1e-4
    np.testing.assert_allclose(rest.control_p, np.maximum(rest.control_p_mean, rest.control_p_spread))


def test_toward_against_zero():
    table = screen(n_cells=12, n_edits=30)
    ranked = rank_edits(table, mode="toward").set_index("genes")
    assert ranked.zero_p["g4"] == pytest.approx(stats.ttest_1samp(table[table.genes == "g4"].toward_t_cell, 0).pvalue)
    with_donors = rank_edits(table, mode="toward", donor="donor").set_index("genes")
    by = table[table.genes == "g4"].groupby("donor").toward_t_cell.mean().to_numpy()
    truth = stats.permutation_test((by,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert with_donors.zero_p["g4"] == pytest.approx(truth)


def test_toward_chooses_and_asks():
    table = screen(6, 12, share=1.0).assign(toward_t_cell_in_place=0.0)
    assert rank_edits(table, mode="toward").attrs["by"] == "toward_t_cell_in_place"
    assert rank_edits(table, mode="toward", score="toward_t_cell").attrs["by"] == "toward_t_cell"
    with pytest.raises(SettingsError, match="several states: choose a score, one of toward_t_cell"):
        rank_edits(table.assign(toward_u_cell=0.0), mode="toward")
    with pytest.raises(SettingsError, match="no toward score: run the screen with toward"):
        rank_edits(screen(3, 12, score="cos_genes"), mode="toward")
    with pytest.raises(SettingsError, match="'cos_genes' is no toward score"):
        rank_edits(table.assign(cos_genes=0.5), mode="toward", score="cos_genes")


@pytest.mark.parametrize("widths", [(0.3, 1.0), (1.0, 0.3)])
def test_mixture_goes_by_the_means(widths):
    rng = RNG(0)
    x = np.concatenate([rng.normal(-8, widths[0], 300), rng.normal(-3, widths[1], 60)])
    order = rng.permutation(360)
    for sign in (1, -1):  # whichever component the fit calls its first
        found = impact(np.exp(x[order][::sign]), np.ones(360, bool), is_size=True, seed=0)
        np.testing.assert_allclose([found.none[1], found.impact[1]], [-8, -3], atol=0.3)
        assert found.bic_gain > 0
    called = impact(np.exp(x), np.ones(360, bool), is_size=True, seed=0).posterior > 0.5
    assert called[300:].mean() > 0.95 and called[:300].mean() < 0.05


@given(st.integers(0, 10_000), st.floats(0.2, 3), st.floats(0.2, 3))
@settings(max_examples=25, deadline=None)
def test_the_posterior_never_falls_as_the_effect_rises(seed, a, b):
    rng = RNG(seed)
    x = np.concatenate([rng.normal(0, a, 60), rng.normal(3, b, 30)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankcellWarning)
        posterior = impact(x, np.ones(90, bool), is_size=False, seed=0).posterior
    assert (np.diff(posterior[np.argsort(x)]) >= -1e-9).all() and ((posterior >= 0) & (posterior <= 1)).all()


def test_mixture_says_when_there_is_one_group():
    with pytest.warns(RankcellWarning, match="one Gaussian fits the effects as well"):
        impact(RNG(1).normal(size=300), np.ones(300, bool), is_size=False, seed=0)
    assert np.isnan(impact(np.ones(50), np.ones(50, bool), is_size=True, seed=0).posterior).all()
    assert np.isnan(impact(np.arange(9.0), np.ones(9, bool), is_size=False, seed=0).posterior).all()


def test_versus_pairs_cells():
    table = screen(10, 20)
    other = table.assign(toward_t_cell=table.toward_t_cell - 1 - 0.1 * RNG(0).normal(size=len(table))).sample(frac=1, random_state=0)
    other = other[other.cell_id != "c3"]
    ranked = rank_edits(table, score="toward_t_cell", mode="vs", against=other).set_index("genes")
    both = table.merge(other, on=["cell_id", "genes"])
    both = both[both.genes == "g5"]
    d = both.toward_t_cell_x - both.toward_t_cell_y
    assert ranked.vs_n["g5"] == len(d) and ranked.vs_diff["g5"] == pytest.approx(d.mean())
    assert ranked.vs_p["g5"] == pytest.approx(stats.ttest_1samp(d, 0).pvalue, rel=1e-6)
    with pytest.raises(SettingsError, match="share no cell and edit"):
        rank_edits(table, score="toward_t_cell", mode="vs", against=other.assign(cell_id="elsewhere " + other.cell_id))
    with pytest.raises(SettingsError, match="needs the other screen"):
        rank_edits(table, score="toward_t_cell", mode="vs")


# Trivial predictors


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=40))
@settings(max_examples=60, deadline=None)
def test_ranks_within_are_scipys(pairs):
    group, values = np.array([p[0] for p in pairs], int), np.array([p[1] for p in pairs], float)
    expected = np.empty(len(pairs))
    for g in set(group):
        expected[group == g] = stats.rankdata(values[group == g])
    np.testing.assert_array_equal(ranks_within(group, values), expected)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-9, 9)), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_log_sizes_have_a_floor_at_a_thousandth_of_the_median_of_their_group(pairs):
    group, values = np.array([p[0] for p in pairs], int), np.array([p[1] for p in pairs], float)
    floor = np.array([np.median(values[group == g]) for g in group]) * 1e-3
    expected = np.where(floor > 0, np.log(np.maximum(values, np.where(floor > 0, floor, 1))), np.nan)
    np.testing.assert_array_equal(log_size(values, group), expected)


def test_partial_spearman_is_that_of_the_inverse_correlation_matrix():
    """An independent way to the same number: -P_ij / sqrt(P_ii P_jj), P the inverse of the matrix of rank correlations."""
    rng = RNG(0)
    rank = rng.random(80)
    table = pd.DataFrame({"mean_rank": rank, "detection": 1 - rank + 0.3 * rng.random(80), "expression": rng.random(80)})
    table["effect"] = table.detection + 0.5 * rng.random(80)
    found = partial_spearman(table)
    names = ["effect", "mean_rank", "detection", "expression"]
    precision = np.linalg.inv(np.corrcoef([stats.rankdata(table[c]) for c in names]))
    for i, name in enumerate(names[1:], 1):
        assert found[name]["partial"] == pytest.approx(-precision[0, i] / np.sqrt(precision[0, 0] * precision[i, i]))
        assert found[name]["spearman"] == pytest.approx(stats.spearmanr(table.effect, table[name]).statistic)
    assert abs(found["mean_rank"]["partial"]) < abs(found["mean_rank"]["spearman"])  # detection stands behind it
    assert set(partial_spearman(table.assign(detection=1.0))) == {"mean_rank", "expression"}
    assert partial_spearman(table.assign(effect=1.0)) == {} == partial_spearman(table[:9])


def test_expression_and_detection_come_from_the_folder(folder):
    ranked = rank_edits(folder)
    assert ranked.detection.equals(pd.Series([0.9] * len(ranked), name="detection")) and "expression" in ranked
    assert set(ranked.attrs["predictors"]) == {"mean_rank", "expression"}  # detection is all one


# Affected genes


def pairs_table(cos, **columns):
    """One affected gene under as many perturbations as there are cosines."""
    n = len(cos)
    table = {"edit": [f"e{i}" for i in range(n)], "genes": "g", "affected": "a", "n": 5, "mean_cos": cos, "sd_cos": 1e-6}
    return pd.DataFrame(table | columns)


def test_affected_by_hand():
    """Fourteen perturbations of one gene, alike but one that moves it more and one that moves it less."""
    cos = np.r_[1 - 1e-3 * np.exp(0.1 * RNG(0).normal(size=13)), 0.9, 1 - 1e-6]
    table = pairs_table(cos)
    ranked = rank_affected(table)
    assert ranked.edit[0] == "e13" and ranked.z[0] > 2 and ranked.effect[0] == pytest.approx(0.1)
    assert (ranked.direction == "more").all() and "e14" not in set(ranked.edit) and (ranked.n_others == 14).all()
    expected = np.exp(np.log(1 - cos[:13]).mean())  # without ranks: the mean of the others
    assert rank_affected(table[:14]).expected[0] == pytest.approx(expected, rel=1e-6)
    assert not {"p", "fdr"} & set(ranked)  # their tails are not calibrated
    less = rank_affected(table, direction="less")
    assert less.edit[0] == "e14" and less.z[0] < -2 and (less.direction == "less").all()
    both = rank_affected(table, direction="both")
    assert len(both) == len(ranked) + len(less) == 15 and (np.diff(both.z.abs()) <= 0).all()
    few = rank_affected(table[:9])
    assert len(few) == 9 and few.z.isna().all() and (few.direction == "").all()
    with pytest.raises(SettingsError, match="direction is 'up'"):
        rank_affected(table, direction="up")
    with pytest.raises(InputError, match="lacks mean_cos"):
        rank_affected(table.drop(columns="mean_cos"))
    with pytest.raises(InputError, match="lacks mean_rank"):
        rank_affected(table, edits=table[["edit"]])


def test_affected_floor_on_cells():
    cos = np.r_[np.full(14, 1 - 1e-3), 0.9]
    ranked = rank_affected(pairs_table(cos, n=[9] * 14 + [4]), direction="both")
    assert "e14" not in set(ranked.edit) and ranked.attrs["min_cells"] == 5 and ranked.attrs["pairs"] == 15
    assert rank_affected(pairs_table(cos, n=[9] * 14 + [4]), min_cells=4).edit[0] == "e14"
    with pytest.raises(SettingsError, match="seen in 5 cells or more; the most is 4: .*min_cells=4"):
        rank_affected(pairs_table(cos, n=4))


def test_affected_in_place_not_by_position():
    """As made, e3 moves the gene most, by its place; in place e7 does: what is ranked is in place where that is known."""
    plain, in_place = np.full(15, 1 - 1e-2), 1 - 1e-4 * np.exp(0.1 * RNG(0).normal(size=15))
    plain[3], in_place[7] = 0.5, 0.9
    table = pairs_table(plain, mean_cos_in_place=in_place, sd_cos_in_place=1e-6)
    table.attrs["symbols"] = {"g": "Gene", "a": "Other"}
    ranked = rank_affected(table)
    assert ranked.edit[0] == "e7" and ranked.effect[0] == pytest.approx(0.1) and ranked.attrs["by"] == "mean_cos_in_place"
    assert ranked.symbols[0] == "Gene" and ranked.affected_symbol[0] == "Other"
    assert rank_affected(table.drop(columns=["mean_cos_in_place", "sd_cos_in_place"])).edit[0] == "e3"


def test_one_cell_makes_no_affected_gene():
    """The same mean shift: of all cells, and of one cell of six alone (its standard deviation is sqrt(5) means)."""
    cos = np.r_[1 - 1e-5 * np.exp(0.1 * RNG(0).normal(size=20)), 1 - 1e-2, 1 - 1e-2]
    sd = np.r_[np.full(20, 1e-6), 1e-3, 1e-2 * np.sqrt(5)]
    ranked = rank_affected(pairs_table(cos, n=6, sd_cos=sd)).set_index("edit")
    assert ranked.index[0] == "e20" and ranked.z["e20"] > 2 and ranked.z["e21"] <= 1


def test_affected_compares_perturbations_of_like_rank():
    """Shifts that follow the perturbed gene's rank alone are what others do; one that does not is found."""
    rank = np.arange(60.0)
    shift = 1e-2 * (1 + rank) ** -1.0 * np.exp(0.05 * RNG(0).normal(size=60))
    shift[30] *= 3
    table = pairs_table(1 - shift, n=9, sd_cos=0.0)
    ranked = rank_affected(table, edits=pd.DataFrame({"edit": table.edit, "mean_rank": rank}))
    assert ranked.edit[0] == "e30" and ranked.z[0] > 2 * ranked.z[1]
    assert rank_affected(table).edit[0] == "e0"  # by size alone it is the top rank that stands out


# Odd input


@pytest.mark.filterwarnings("ignore:no edit is in 5 donors:rankcell.errors.RankcellWarning")
def test_one_donor_and_few_donors():
    table = screen(12, 40)
    with pytest.warns(RankcellWarning, match="1 donor: no p over donors can fall below 1; 6 are needed for one below 0.05"):
        ranked = rank_edits(table.assign(donor="only"), donor="donor")
    assert (ranked.matched_p_donors == 1).all() or ranked.matched_p_donors.isna().all()
    assert ranked["sem"].isna().all() and ranked.ci_low.isna().all() and ranked.n_donors.max() == 1
    with pytest.warns(RankcellWarning, match="4 donors: no p over donors can fall below 0.125") as told:
        ranked = rank_edits(table.assign(donor=table.donor.str[1:].astype(int) % 4), donor="donor", mode="toward")
    assert ranked.attrs["few_donors"] in [str(w.message) for w in told]
    assert ranked.zero_p.min() >= 0.125 and ranked.matched_p.isna().all() and ranked.attrs["without_p"] == 40


def test_donor_columns():
    table = screen(8, 20)
    with pytest.raises(SettingsError, match="the table has no column 'patient' for donors"):
        rank_edits(table, donor="patient")
    cells = table[["cell_id", "donor"]].drop_duplicates()
    with pytest.raises(CellError, match="no column 'patient' for donors; the table of cells has donor"):
        rank_edits(table, donor="patient", cells=cells)
    with pytest.raises(CellError, match="names a donor for none of the 8 screened cells"):
        rank_edits(table, donor="donor", cells=cells.assign(cell_id="x" + cells.cell_id))
    with pytest.raises(CellError, match="names cell 'c0' twice"):
        rank_edits(table, donor="donor", cells=pd.concat([cells, cells[:1].assign(donor="other")]))
    with pytest.warns(RankcellWarning, match="1 of 8 cells have no 'donor' and are left out"):
        ranked = rank_edits(table, donor="donor", cells=cells.assign(donor=cells.donor.where(cells.cell_id != "c0")))
    assert ranked.n_cells.max() <= 7
    with pytest.warns(RankcellWarning, match="1 of 3 cells"):
        found = donors_of(np.array(["a", "b", "c"], object), pd.DataFrame({"cell_id": ["b", "a"], "d": [2, 1]}), "d")
    assert found.of_cell.tolist() == [0, 1, -1]


def test_controls_not_in_the_screen():
    table = screen(5, 20)
    with pytest.raises(SettingsError, match=r"none of the controls is an edit of this screen \(nope\)"):
        rank_edits(table, mode="control", controls=["nope"])
    with pytest.raises(SettingsError, match="no names were given"):
        rank_edits(table, mode="control", controls=[])
    with pytest.raises(SettingsError, match="needs the names of the control genes"):
        rank_edits(table, mode="control")
    with pytest.warns(RankcellWarning, match="1 of 5 controls are not in the screen: nope"):
        ranked = rank_edits(table, score="toward_t_cell", mode="control", controls=["g1", "delete:g2", "g3", "g4", "nope"])
    assert ranked.is_control.sum() == 4


def test_unknown_mode_and_table():
    with pytest.raises(SettingsError, match="unknown mode 'best'; it is one of matched, control, toward, mixture, vs"):
        rank_edits(screen(2, 12), mode="best")
    with pytest.raises(InputError, match="no table of a screen: it lacks edit"):
        rank_edits(screen(2, 12).drop(columns="edit"), score="toward_t_cell")


@pytest.mark.parametrize("mode", ["matched", "toward", "mixture", "control"])
def test_empty_one_cell_one_edit_and_nothing_but_nan(mode):
    table = screen(3, 20)
    how = {"score": "toward_t_cell", "mode": mode} | ({"controls": ["g1"]} if mode == "control" else {})
    one_edit = table[table.genes == "g1"]
    for part in (
        table[table.cell_id == table.cell_id[table.genes == "g1"].iloc[0]],
        one_edit,
        table.assign(toward_t_cell=np.nan),
        table.assign(toward_t_cell=0.25),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RankcellWarning)
            ranked = rank_edits(part, **how)
        assert len(ranked) == part.edit.nunique()
        p = ranked[[c for c in ranked if c.endswith(("_p", "_fdr"))]].to_numpy(float)
        assert (np.isnan(p) | ((p >= 0) & (p <= 1))).all()
    empty = table[:0]
    if mode == "control":
        with pytest.raises(SettingsError, match="none of the controls"):
            rank_edits(empty, **how)
    else:
        ranked = rank_edits(empty, **how)
        assert ranked.empty and np.isnan(ranked.attrs["rank_spearman"]) and ranked.attrs["predictors"] == {}


def test_a_single_edit_has_no_peers_and_it_is_said():
    table = screen(8, 20)
    with pytest.warns(RankcellWarning, match="a single edit, and an edit is compared with at least 10 others"):
        ranked = rank_edits(table[table.genes == "g1"], score="toward_t_cell", mode="matched")
    assert len(ranked) == 1 and ranked[["matched_diff", "matched_z", "matched_p"]].isna().all(axis=None)


@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 40), st.sampled_from(["ties", "nan", "groups", "absent", "inf"]))
@settings(max_examples=40, deadline=None)
def test_any_table_gives_a_row_per_edit(seed, n_cells, n_edits, what):
    table = screen(n_cells, n_edits, seed=seed)
    rng = RNG(seed)
    if what == "ties":
        table["toward_t_cell"] = rng.integers(0, 2, len(table)) * 1.0
    elif what == "nan":
        table.loc[rng.random(len(table)) < 0.4, "toward_t_cell"] = np.nan
    elif what == "groups":
        table = table.assign(genes=table.genes + "+x", edit="delete:" + table.genes + "+x")
    elif what == "absent":
        table["rank"] = table["rank"].astype("Int32").where(rng.random(len(table)) < 0.5)
    else:
        table.loc[rng.random(len(table)) < 0.2, "toward_t_cell"] = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankcellWarning)
        ranked = rank_edits(table, mode=["toward", "mixture"], donor="donor")
    assert sorted(ranked.edit) == sorted(table.edit.unique())
    p = ranked[[c for c in ranked if "_p" in c or "_fdr" in c]].to_numpy(float)
    assert (np.isnan(p) | ((p >= 0) & (p <= 1))).all()


def test_min_cells_leaves_out_of_fdr_too():
    table = screen(12, 60, share=0.5)
    ranked = rank_edits(table, min_cells=7)
    assert ranked.n_cells.min() >= 7
    np.testing.assert_allclose(ranked.matched_fdr, fdr(ranked.matched_p.to_numpy()))
    assert len(rank_edits(table, min_cells=99)) == 0


# Files


@pytest.fixture
def folder(tmp_path):
    """A results folder with everything that a screen may leave."""
    table = screen(10, 30, score="cos_genes").assign(n_tokens=26, toward_t_cell=0.1, cos_genes_in_place=lambda t: t.cos_genes)
    table["toward_t_cell"] = RNG(0).normal(size=len(table))
    out = tmp_path / "screen"
    out.mkdir()
    columns = ["cell_id", "edit", "kind", "genes", "rank", "n_tokens", "cos_genes", "cos_genes_in_place", "toward_t_cell"]
    table[columns].astype({"rank": "int32", "n_tokens": "int32"}).to_parquet(out / "screen.parquet", index=False)
    names = table[["edit", "kind", "genes"]].drop_duplicates()
    names.assign(symbols=names.genes.str.upper(), n_cells=9, detection=0.9, expression=RNG(1).random(len(names)), mean_rank=5.0).to_parquet(
        out / "edits.parquet"
    )
    table[["cell_id", "donor"]].drop_duplicates().to_parquet(out / "cells.parquet", index=False)
    pairs = [(f"delete:g{i}", f"g{i}", f"g{j}", 6, 1 - 1e-3 * (i + j + 1), 1e-4) for i in range(15) for j in range(15) if i != j]
    pd.DataFrame(pairs, columns=["edit", "genes", "affected", "n", "mean_cos", "sd_cos"]).to_parquet(out / "affected.parquet")
    manifest = {"fingerprint": "f", "settings": {"states": ["t"]}, "complete": True, "n_rows": len(table), "n_cells": 10, "n_units": 1}
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def test_a_folder_is_its_table(folder):
    from rankcell import get

    a, b = rank_edits(folder), tl.rank_edits(get.screen_df(folder))
    shared = ["edit", "symbols", "n_cells", "effect", "ci_low", "matched_z"]
    assert a.symbols[0].startswith("G") and a.genes[0].startswith("g")
    pd.testing.assert_frame_equal(a[["edit", "symbols", "n_cells", "effect"]], b[shared[:4]])
    with_donors = rank_edits(folder, donor="donor")
    assert with_donors.n_donors.max() == 8


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".parquet"])
def test_command_writes(folder, tmp_path, capsys, suffix):
    out = tmp_path / f"ranked{suffix}"
    assert main(["stats", str(folder), "-o", str(out), "--mode", "matched", "--mode", "mixture", "--donor", "donor"]) == 0
    said = capsys.readouterr()
    assert "30 edits by mean effect on cos_genes_in_place; largest: G" in said.out and "median Spearman with the gene's rank" in said.out
    table = pd.read_parquet(out) if suffix == ".parquet" else pd.read_csv(out, sep="\t" if suffix == ".tsv" else ",")
    assert len(table) == 30 and {"matched_p", "matched_fdr", "impact_posterior", "n_donors", "expression"} <= set(table)
    facts = json.loads((tmp_path / f"ranked{suffix}.json").read_text())
    assert facts["by"] == "cos_genes_in_place" and set(facts["predictors"]) == {"mean_rank", "expression"}
    assert main(["stats", str(folder), "-o", str(out)]) == 2 and "exists" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == [out.name, f"{out.name}.json", "screen"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mode", "matchd"], "unknown mode 'matchd'"),
        (["--score", "cos_cls"], "no score 'cos_cls'; it has cos_genes"),
        (["--donor", "patient"], "no column 'patient' for donors; the table of cells has donor"),
        (["--donor", "donor", "--cells", "nowhere.tsv"], "no such file: nowhere.tsv"),
        (["--mode", "control"], "needs the names of the control genes"),
        (["--mode", "control", "--controls", "@nowhere"], "no such file: nowhere"),
        (["--mode", "affected", "--mode", "matched"], "run it alone"),
        (["--compat", "seurat"], "unknown compat 'seurat'"),
        (["--compat", "geneformer"], "takes one mode of goal_state_shift"),
        (["--compat", "geneformer", "--mode", "vs_null"], "needs the null screen"),
        (["--compat", "geneformer", "--mode", "aggregate_data"], "one gene or group; this one has 30 edits"),
        (["--compat", "geneformer", "--mode", "mixture_model", "--donor", "donor"], "knows no --donor"),
        (["--mode", "vs", "--against", "nowhere"], "no results folder nowhere"),
    ],
)
def test_command_refuses_in_one_line(folder, tmp_path, capsys, arguments, said):
    before = sorted(tmp_path.iterdir())
    assert main(["stats", str(folder), "-o", str(tmp_path / "o.tsv"), *arguments]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if "note:" not in line]
    assert len(err) == 1 and said in err[0]
    assert sorted(tmp_path.iterdir()) == before


def test_command_refuses_outputs(folder, tmp_path, capsys):
    assert main(["stats", str(folder), "-o", str(tmp_path / "o.xlsx")]) == 2 and "one of .tsv, .csv, .parquet" in capsys.readouterr().err
    assert main(["stats", str(folder), "-o", str(folder / "o.tsv")]) == 2 and "lies inside the input" in capsys.readouterr().err
    (folder / "screen.parquet").write_bytes(b"no table")
    assert main(["stats", str(folder), "-o", str(tmp_path / "o.tsv")]) == 2 and "is damaged" in capsys.readouterr().err


def test_a_write_that_fails_leaves_nothing(folder, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)

    with pytest.raises(OutputError, match="the disk is full"):
        write_stats(folder, tmp_path / "o.tsv")
    assert [p.name for p in tmp_path.iterdir()] == ["screen"]


@pytest.mark.parametrize("mode", ["goal_state_shift", "mixture_model", "aggregate_gene_shifts", "vs_null"])
def test_compat_writes_geneformers_tables(folder, tmp_path, mode):
    more = ["--against", str(folder)] if mode == "vs_null" else []
    out = tmp_path / "o.csv"
    assert main(["stats", str(folder), "-o", str(out), "--compat", "geneformer", "--mode", mode, *more]) == 0
    table = pd.read_csv(out)
    assert {"Gene_name", "Ensembl_ID"} <= set(table) and table.Gene_name.dropna().str.startswith("G").all()
    if mode == "vs_null":
        assert (table.Test_vs_null_avg_shift == 0).all() and (table.Test_vs_null_pval == 1).all()


def test_goal_state_shift_is_scipys_rank_sum(folder):
    from rankcell.stats.geneformer import goal_state_shift
    from rankcell.stats.screen_rows import read_rows, screen_of

    rows = read_rows(screen_of(folder), ["toward_t_cell"])
    found = goal_state_shift(rows, "toward_t_cell", {}).set_index("Ensembl_ID")
    values = rows.scores["toward_t_cell"]
    own = values[(rows.edits["genes"] == "g3").to_numpy()[rows.edit]]
    assert found.Goal_end_vs_random_pval["g3"] == pytest.approx(stats.ranksums(values, own).pvalue)
    assert found.Shift_to_goal_end["g3"] == pytest.approx(own.mean())


def test_affected_command(folder, tmp_path, capsys):
    out = tmp_path / "a.tsv"
    assert main(["stats", str(folder), "-o", str(out), "--mode", "affected"]) == 0
    said, more = capsys.readouterr().out, pd.read_csv(out, sep="\t")
    assert "that move more than expected" in said and "of 210, those in 5 cells or more" in said and "without p or FDR" in said
    assert set(more.direction) == {"more"} and more.symbols[0].startswith("G") and not {"p", "fdr"} & set(more)
    pd.testing.assert_frame_equal(tl.rank_affected(folder), more, check_dtype=False)
    assert main(["stats", str(folder), "-o", str(out), "--force", "--mode", "affected", "--direction", "both"]) == 0
    both = pd.read_csv(out, sep="\t")
    assert len(both) == 210 and set(both.direction) == {"more", "less"} and capsys.readouterr().err == ""
    for how, line in ((["--min-cells", "7"], "the most is 6: "), (["--direction", "up"], "direction is 'up'")):
        assert main(["stats", str(folder), "-o", str(out), "--force", "--mode", "affected", *how]) == 2
        assert line in capsys.readouterr().err
    assert main(["stats", str(folder), "-o", str(out), "--force", "--direction", "less"]) == 2
    assert "--direction is for --mode affected" in capsys.readouterr().err
    (folder / "affected.parquet").unlink()
    assert main(["stats", str(folder), "-o", str(tmp_path / "b.tsv"), "--mode", "affected"]) == 2
    assert "--affected" in capsys.readouterr().err


def test_errors_are_rankcells():
    for kind in (SettingsError, CellError, InputError, OutputError):
        assert issubclass(kind, RankcellError)


# what a command says of what it cannot do


def test_edits_of_one_rank_have_no_matched_p():
    table = screen(n_cells=12, n_edits=40)
    table["rank"] = table.groupby("cell_id").ngroup()  # an anchor stands somewhere else in each cell, and its edits all there
    with pytest.warns(RankcellWarning, match="all edits of a cell have the same rank"):
        ranked = rank_any(table, score="toward_t_cell")
    assert ranked["matched_p"].isna().all() and np.isfinite(ranked["effect"]).all()


def test_versus_compares_kinds_of_edit():
    a = screen(n_cells=12, n_edits=20, score="cos_genes")
    b = a.assign(kind="mask", edit=a["edit"].str.replace("delete:", "mask:"), cos_genes=1 - 2 * (1 - a["cos_genes"]))
    ranked = rank_any(a, score="cos_genes", mode="vs", against=b)
    np.testing.assert_allclose(ranked["vs_effect"], 2 * ranked["effect"], rtol=1e-12)
    assert (ranked["vs_diff"] < 0).all()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (["--min-cells", "99"], "no edit is left with --min-cells 99"),
        (["--min-cells", "-1"], "--min-cells is -1; at least 0"),
        (["--controls", "g1"], "--controls is for --mode control"),
        (["--cells", "c.csv"], "--cells is for --donor"),
        (["--against", "x"], "--against is for --mode vs"),
        (["--mode", "goal_state_shift"], "mode 'goal_state_shift' is Geneformer's: add --compat geneformer"),
        (["--mode", "nope"], "or affected alone"),
    ],
)
def test_options_without_a_use_are_refused(small, tmp_path, how, said, capsys):
    from builders import make_adata

    counts = RNG(0).poisson(2, (4, 12)) * RNG(1).permutation(np.arange(1, 49)).reshape(4, 12)
    perturb_df(make_adata(counts), small[1], genes=["G1", "G2"], out=tmp_path / "s")
    assert main(["stats", str(tmp_path / "s"), "-o", str(tmp_path / "o.tsv"), *how]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "o.tsv").exists()
    assert main(["stats", str(tmp_path / "s"), "-o", str(tmp_path / "o.tsv")]) == 0
    said = capsys.readouterr().out
    assert "0 of 0 edits tested: ten edits alike in rank and detection are needed" in said
    assert "Spearman with the gene's rank: unknown, no cell has ten edits" in said
