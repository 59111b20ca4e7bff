"""The audit of predictions: intervals against scipy, expectations and estimates against screens whose truth is made up."""

import numpy as np
import pytest
from scipy import stats

from rankcell.perturb.fast import audit
from rankcell.perturb.fast.audit import columns, expected_recall, garwood, judge, recall_at, summarize, wilson

NAN = np.nan


@pytest.mark.parametrize("hits", [0, 1, 7, 10])
def test_wilson_limits_are_shares_that_the_score_test_just_keeps(hits):
    """At each limit p the share differs from p by 1.96 of the standard errors that p has, unless it is 0 or 1."""
    for p in wilson(hits, 10):
        if 0 < p < 1:
            assert abs(hits / 10 - p) / np.sqrt(p * (1 - p) / 10) == pytest.approx(stats.norm.ppf(0.975))
    assert wilson(0, 10)[0] == 0 and wilson(10, 10)[1] == 1


@pytest.mark.parametrize("count", [0, 1, 2, 10, 300, 2_001])
def test_garwood_limits_leave_tails_of_poisson(count):
    low, high = garwood(count)
    assert stats.poisson.cdf(count, high) == pytest.approx(0.025)
    assert stats.poisson.sf(count - 1, low) == pytest.approx(0.025) if count else low == 0


def test_nothing_known():
    assert np.isnan(wilson(0, 0)).all()


def test_one_cell_by_hand():
    """Ten edits, four of them drawn; the one predicted largest was run for it."""
    predicted = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 30])
    exact = np.array([1.0, NAN, 4, NAN, 6, NAN, NAN, 6, NAN, 31])
    drawn = np.isfinite(exact) & (predicted < 30)
    found = judge(predicted, exact, drawn, depth=5)
    errors = np.array([0, 1, 1, -2])
    assert (found["n_edits"], found["n"]) == (10, 4)
    assert found["error"] == pytest.approx(np.sqrt((errors**2).mean()))
    assert found["relative_error"] == pytest.approx(found["error"] / np.sqrt((1 + 16 + 36 + 36) / 4))
    assert found["spearman"] == pytest.approx(stats.spearmanr([1, 3, 5, 8], [1, 4, 6, 6]).statistic)
    assert found["off"] == pytest.approx(-errors.sum())
    assert (found["hits"], found["tops"]) == (0, 1)  # of the two largest the first, and the last is predicted larger
    assert found["recall"] == 1  # nothing comes near the largest
    assert (found["weight"], found["places"]) == (9 / 4, [1, 1, 1, 1])  # one edit is as large as each
    assert judge(predicted, exact, drawn)["places"] == []


def test_cells_that_were_run_or_not_predicted():
    values, none = np.array([1.0, 2, 3]), np.full(3, NAN)
    all_run = judge(none, values, np.zeros(3, bool), depth=2)
    assert (all_run["recall"], all_run["n"], all_run["weight"], all_run["places"]) == (1, 0, 0, [])
    assert np.isnan(judge(none, np.array([1, NAN, NAN]), np.ones(3, bool))["recall"])
    assert np.isnan(judge(values, none, np.zeros(3, bool))["recall"])
    found = summarize(columns([all_run], (*audit.REPORTED, *audit.SUMMANDS)), verify_top=5)
    assert found["n"] == found["cells"] == 0 and found["spearman"] is found["recall"] is found["bias"] is None
    assert found["at"] == {"5": {"recall": 1.0, "low": 1.0, "high": 1.0}}
    assert found["expected"] == 1


def test_a_drawn_edit_counts_as_verified_where_it_would_have_been():
    predicted, exact = np.arange(10.0, 0, -1), np.array([9, 8, NAN, NAN, 7.5, NAN, NAN, NAN, NAN, 0.1])
    drawn = np.zeros(10, bool)
    drawn[[0, 4, 9]] = True  # the first is predicted larger than the second, which was verified
    found = judge(predicted, exact, drawn, depth=2)
    assert (found["weight"], found["places"]) == (8 / 2, [])
    exact[4] = 8.5
    assert judge(predicted, exact, drawn, depth=2)["places"] == [1]
    drawn[1] = True  # nothing but the sample was run: the two predicted largest of it
    assert judge(predicted, exact, drawn, depth=2)["places"] == [1]


@pytest.mark.parametrize("noise", [0.05, 0.3, 1.0, 3.0])
def test_the_recall_expected_is_that_of_draws_and_of_the_truth(noise):
    """Predictions with a heavy tail: against the mean over 200 draws, and over what happens in 300 cells."""
    rng = np.random.default_rng(5)
    expected, drawn, true = [], [], []
    for _ in range(300):
        predicted = rng.standard_t(3, 300)
        exact = predicted + noise * rng.normal(size=300)
        at = rng.choice(300, 40, replace=False)
        expected.append(expected_recall(predicted, at, (exact - predicted)[at]))
        best = set(np.argsort(-np.abs(predicted))[:30])
        true.append(len(best & set(np.argsort(-np.abs(exact))[:30])) / 30)
        if len(drawn) < 20:
            drawn.append(by_drawing(predicted, at, (exact - predicted)[at], rng))
    assert np.mean(expected[:20]) == pytest.approx(np.mean(drawn), abs=0.01)
    # few residuals stand for all: some 40 of each cell, so that what is expected is a few hundredths off
    assert np.mean(expected) == pytest.approx(np.mean(true), abs=0.04)


def by_drawing(predicted, at, residuals, rng):
    size = np.abs(predicted)
    top = max(1, len(size) // 10)
    best = np.argsort(-size, kind="stable")[:top]
    near = np.array([np.argsort(np.abs(size[at] - s), kind="stable")[: min(9, len(at))] for s in size])
    found = []
    for _ in range(200):
        chosen = near[np.arange(len(size)), rng.integers(0, near.shape[1], len(size))]
        true = np.argsort(-np.abs(predicted + residuals[chosen]), kind="stable")[:top]
        found.append(len(set(best) & set(true)) / top)
    return np.mean(found)


def test_a_perfect_prediction_and_one_of_equal_values():
    predicted = np.linspace(0, 1, 50)
    assert expected_recall(predicted, np.arange(0, 50, 7), np.zeros(8)) == 1
    assert expected_recall(np.ones(50), np.arange(5), np.zeros(5)) == pytest.approx(5 / 50)  # as good as any other choice
    assert expected_recall(predicted, np.array([3]), np.zeros(1), sure=np.ones(50, bool)) == 1


def made_up(rng, cells=40, edits=400, share=0.1, noise=0.5, depth=20):
    """A screen: (the records of its cells, the true share of the 10 largest of each cell that was verified)."""
    records, true = [], []
    for _ in range(cells):
        exact = rng.standard_t(3, edits)
        predicted = exact + noise * rng.normal(size=edits)
        drawn = np.zeros(edits, bool)
        drawn[rng.choice(edits, int(share * edits), replace=False)] = True
        best = np.argsort(-np.abs(predicted))[:depth]
        run = drawn.copy()
        run[best] = True
        true.append(np.isin(np.argsort(-np.abs(exact))[:10], best).mean())
        records.append(judge(predicted, np.where(run, exact, NAN), drawn, depth=depth))
    return columns(records, (*audit.REPORTED, *audit.SUMMANDS)), np.mean(true)


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_intervals_cover_the_truth(noise):
    """Of 150 screens about 95 %; 90 % is 2.8 standard errors of that share below."""
    rng = np.random.default_rng(11)
    screens = [made_up(rng, noise=noise, cells=25, edits=300) for _ in range(150)]
    found = [(summarize(cells, verify_top=20), true) for cells, true in screens]
    covered = np.mean([f["at"]["10"]["low"] <= true <= f["at"]["10"]["high"] for f, true in found])
    estimates, truths = (np.array(v) for v in zip(*[(f["at"]["10"]["recall"], true) for f, true in found], strict=True))
    assert covered >= 0.9
    assert estimates.mean() == pytest.approx(truths.mean(), abs=0.03)
    tenth = np.array([[f[k] for k in ("recall", "recall_low", "recall_high")] for f, _ in found])
    truth = tenth[:, 0].mean()  # 150 screens tell it to a hundredth
    assert np.mean((tenth[:, 1] <= truth) & (truth <= tenth[:, 2])) >= 0.9


def test_a_summary_of_a_screen():
    rng = np.random.default_rng(3)
    cells, _ = made_up(rng, noise=0.4)
    found = summarize(cells, verify_top=20)
    assert (found["n"], found["cells"]) == (1600, 40) and set(found["at"]) == {"5", "10", "20"}
    theirs = np.sqrt(np.average(cells["error"] ** 2)) / np.sqrt(cells["squares"].sum() / 1600)
    assert found["relative_error"] == pytest.approx(theirs, rel=1e-4)  # as many edits in each cell
    assert found["spearman"] == pytest.approx(np.median(cells["spearman"]), abs=1e-6)
    assert found["spearman_low"] < found["spearman"] and found["spearman_pooled"] == pytest.approx(cells["spearman"].mean(), abs=0.02)
    assert abs(found["bias"]) < 0.05  # no more than the error of a mean
    assert found["recall_low"] < found["recall"] < found["recall_high"]
    assert "at" not in summarize(cells)


def test_few_edits_say_less():
    cells, _ = made_up(np.random.default_rng(4), edits=80, share=0.1, cells=5)
    found = summarize(cells, verify_top=20)
    assert found["spearman"] is None and found["spearman_pooled"] > 0.5  # eight edits in each


def test_the_verified_top_does_not_judge():
    """What was run for being large is right more often: with it, the error would look smaller."""
    rng = np.random.default_rng(8)
    exact = rng.standard_t(3, 500)
    predicted = exact * (1 + 0.5 * (np.abs(exact) < 2) * rng.normal(size=500))  # the large ones are predicted well
    drawn = np.zeros(500, bool)
    drawn[rng.choice(500, 50, replace=False)] = True
    run = drawn | (np.abs(predicted) > 2.5)
    with_top = judge(predicted, np.where(run, exact, NAN), drawn, depth=10)
    without = judge(predicted, np.where(drawn, exact, NAN), drawn, depth=10)
    assert {k: with_top[k] for k in ("n", "spearman", "error")} == {k: without[k] for k in ("n", "spearman", "error")}


def test_recall_at_k_by_hand():
    """Two cells; one of the edits beyond the verified, which stands for three, is larger than the second largest verified."""
    found = recall_at(5, np.array([3.0, 3.0]), np.array([1]), np.array([3.0]))
    # so many edits of a cell exceed the j-th: 1, 2 + 1.5, 3 + 1.5, 4 + 1.5, ...: five of them reach to the 3.5-th
    assert found["recall"] == pytest.approx(3.5 / 5)
    assert found["low"] < found["recall"] < found["high"] <= 1
