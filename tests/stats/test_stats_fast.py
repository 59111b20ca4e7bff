"""Statistics of fast screens: what the audit says of the error is right, and is in every interval and p; exact screens know nothing of it."""

import json
import warnings
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from builders import make_adata, make_checkpoint, make_vocab
from flat_options import perturb_df
from scipy import stats

from rankcell import get, tl
from rankcell.cli.main import main
from rankcell.errors import InputError, RankcellWarning, SettingsError
from rankcell.stats import rank_edits
from rankcell.stats.mixture import impact
from rankcell.stats.prediction import Shared, calibrate, fit_error
from rankcell.stats.replicates import Means, interval, p_against_zero
from rankcell.stats.screen_rows import rows_of

RNG = np.random.default_rng
SCORE = "toward_t_cell"


def exact_screen(rng, n_cells=300, n_edits=150, *, own=0.7, score=SCORE):
    """(table of exact values, mean effect of each edit in all cells that could have been drawn)."""
    truth = pd.Series(own * rng.normal(size=n_edits), [f"delete:g{e}" for e in range(n_edits)])
    cell, edit = (v.ravel() for v in np.meshgrid(np.arange(n_cells), np.arange(n_edits), indexing="ij"))
    shown = rng.random(len(cell)) < rng.uniform(0.2, 0.9, n_edits)[edit]
    cell, edit = cell[shown], edit[shown]
    rank = pd.Series(rng.random(len(cell))).groupby(cell).rank().to_numpy().astype(int) - 1
    effect = truth.to_numpy()[edit] + 0.7 * rng.normal(size=len(cell))
    if score.startswith("cos_"):
        effect, truth = 1e-3 * np.exp(effect - 0.245), 1e-3 * np.exp(truth)
    names = {"cell_id": [f"c{c}" for c in cell], "edit": [f"delete:g{e}" for e in edit], "kind": "delete", "genes": [f"g{e}" for e in edit]}
    return pd.DataFrame(names | {"rank": rank, "n_tokens": n_edits, score: 1 - effect if score.startswith("cos_") else effect}), truth


def effects(table, score):
    return (1 - table[score] if score.startswith("cos_") else table[score]).to_numpy(float)


def predictions(table, score, rng, *, error=0.5, share=0.3, bias=0.0):
    """Effects less errors, of which an edit has `share` (of the variance) in common over cells; they grow with the effect."""
    exact = effects(table, score)
    codes, ids = pd.factorize(table["edit"])
    size = error * np.sqrt(0.5 * (exact**2).mean() + 0.5 * exact**2)
    wrong = size * (bias + np.sqrt(share) * rng.normal(size=len(ids))[codes] + np.sqrt(1 - share) * rng.normal(size=len(exact)))
    return np.maximum(exact - wrong, 0.05 * exact) if score.startswith("cos_") else exact - wrong


def fast_table(table, score, rng, *, audit=0.02, run=0.0, known=True, **how):
    """A fast screen's table: all values predicted but those of a random sample, and of the share `run` of the edits."""
    exact, guess = effects(table, score), predictions(table, score, rng, **how)
    sampled = rng.random(len(table)) < audit
    codes, ids = pd.factorize(table["edit"])
    is_exact = sampled | (np.arange(len(ids)) < run * len(ids))[codes]
    value = np.where(is_exact, exact, guess)
    fast = table.assign(exact=is_exact, **{score: 1 - value if score.startswith("cos_") else value})
    found = fit_error(table["edit"].to_numpy()[sampled], guess[sampled], exact[sampled])
    fast.attrs = {"prediction": Shared({score: asdict(found)})} if known else {}
    return fast


def as_if_exact(fast):
    table = fast.drop(columns="exact")
    table.attrs = {}
    return table


def coverage(ranked, truth):
    ranked = ranked[ranked["n_cells"] >= 3]
    true = truth[ranked["edit"]].to_numpy()
    return ((ranked["ci_low"] <= true) & (true <= ranked["ci_high"])).mean()


# The audit


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7])
def test_the_common_share_is_found(share):
    """Against the analysis of variance of a balanced design, and against the share that was put in; scale 0.3 + half the prediction."""
    rng = RNG(1)
    k, n = 8, 400
    m = rng.gamma(2, size=n * k)
    size = np.sqrt(0.3**2 + (0.5 * m) ** 2)
    r = np.sqrt(share) * rng.normal(size=n).repeat(k) + np.sqrt(1 - share) * rng.normal(size=n * k)
    found = fit_error(np.repeat([f"e{i}" for i in range(n)], k), m, m + size * r)
    assert found.facts["common_share"] == pytest.approx(share, abs=0.06)
    assert found.facts["common_share"] <= found.facts["common_share_used"] <= share + 0.12
    assert found.floor == pytest.approx(0.3, rel=0.25) and found.growth == pytest.approx(0.5, rel=0.1)
    scaled = ((size * r) / found.scale(m)).reshape(n, k)
    within = scaled.var(1, ddof=1).mean()
    between = (k * (scaled.mean(1) ** 2).sum() / n - within) / k  # around zero, not around the grand mean: a bias counts as common
    assert found.facts["common_share"] == pytest.approx(max(0, between), abs=1e-9)
    assert found.facts["audited"] == n * k and found.facts["edits_audited_twice"] == n
    assert found.facts["error"] == pytest.approx(np.sqrt(((size * r) ** 2).mean()))


def test_an_edits_own_error_is_used_as_far_as_it_is_known():
    rng = RNG(2)
    k = np.r_[np.full(100, 2), np.full(100, 40), 1]
    u = rng.normal(size=len(k))
    e = np.sqrt(0.5) * (u.repeat(k) + rng.normal(size=k.sum()))
    found = fit_error(np.repeat([f"e{i:03d}" for i in range(len(k))], k), np.ones(k.sum()), 1 + e)
    shift, variance = found.of_edits([f"e{i:03d}" for i in range(len(k))] + ["never audited"])
    assert shift[-1] == 0 and variance[-1] == found.variance_else == found.facts["common_share_used"] < 0.7
    assert variance[100] < 0.05 < variance[0] < variance[-2] <= variance[-1]
    off = found.scale(np.ones(1)) * shift[:-1] - np.sqrt(0.5) * u
    for part in (slice(0, 100), slice(100, 200)):  # the mean square error is what it says, and smaller than without
        said = found.scale(np.ones(1)) ** 2 * variance[:-1][part].mean()
        assert 0.7 * said < (off[part] ** 2).mean() < 1.3 * said
        assert (off[part] ** 2).mean() < 0.7 * (0.5 * u[part] ** 2).mean()


def test_with_few_edits_audited_twice_all_of_the_error_is_common():
    rng = RNG(3)
    edit = np.array([f"e{i}" for i in range(60)] + [f"e{i}" for i in range(19)])
    found = fit_error(edit, np.ones(79), 1 + 0.1 * rng.normal(size=79))
    assert found.facts["common_share"] is None and found.facts["edits_audited_twice"] == 19
    assert set(found.variance) == {1.0} and set(found.shift) == {0.0} and found.variance_else == 1
    assert found.facts["tau"] == pytest.approx(found.facts["error"])
    more = fit_error(np.r_[edit, ["e19"]], np.ones(80), 1 + 0.1 * rng.normal(size=80))
    assert more.facts["common_share"] is not None


def test_no_error_and_no_audit():
    perfect = fit_error(np.repeat(["a", "b"], 30), np.ones(60), np.ones(60))
    assert perfect.scale(np.array([0.0, 7.0])).tolist() == [0, 0] and perfect.facts["error"] == 0
    nothing = fit_error(np.array(["a"]), np.array([np.nan]), np.array([1.0]))
    assert nothing.facts["audited"] == 0 and nothing.edits == []


def test_sizes_stay_sizes():
    """A correction larger than the size itself stops at zero."""
    table = pd.DataFrame({"cell_id": "c", "edit": ["delete:a", "delete:b"], "kind": "delete", "genes": ["a", "b"], "rank": [0, 1]})
    rows = rows_of(table.assign(cos_genes=[1 - 0.001, 1 - 0.002]), ["cos_genes"])
    error = fit_error(np.repeat([f"delete:{c}" for c in "abcdefghijklmnopqrstuvwxyz"], 9), np.full(234, 0.01), np.full(234, 0.001))
    found = calibrate(rows, {"cos_genes": np.array([False, True])}, {"cos_genes": error})
    np.testing.assert_allclose(1 - found.scores["cos_genes"], [0, 0.002])
    assert found.predicted["cos_genes"].scale[1] == 0 < found.predicted["cos_genes"].scale[0]


# Means


def test_the_mean_with_a_common_error_by_hand():
    """Two variances, 4/10 of nine degrees of freedom and 0.6 of thirty: Satterthwaite's 1 / (0.16/9 + 0.36/30)."""
    m = Means(np.array([10, 1]), np.array([2.0, 2.0]), np.array([4.0, np.nan])).with_common(np.array([0.6, 0.6]), 30.0, 0.0)
    low, high = interval(m)
    df = 1 / (0.4**2 / 9 + 0.6**2 / 30)
    assert low[0] == pytest.approx(2 - stats.t.ppf(0.975, df)) and high[0] == pytest.approx(2 + stats.t.ppf(0.975, df)) and np.isnan(low[1])
    assert p_against_zero(m, RNG(0))[0] == pytest.approx(2 * stats.t.sf(2, df))
    heavy = Means(m.n, m.mean, m.var).with_common(m.common, 1e9, 30.0)
    nu = 4 + 6 / (30 * 0.6**2)  # a t of this kurtosis and of variance 1
    scale, found = heavy.student
    assert found[0] == pytest.approx(nu) and scale[0] == pytest.approx(np.sqrt((nu - 2) / nu))
    twice = m.with_common(np.array([1.0, 1.0]), 12.0, 2.0)
    assert twice.common.tolist() == [1.6, 1.6] and twice.common_df == 12 and twice.common_heavy == 2


def test_donors_that_agree_do_not_outvote_a_common_error():
    by_donor = np.full((2, 8), 1.0) + 0.01 * RNG(0).normal(size=(2, 8))
    m = Means(np.full(2, 8), by_donor.mean(1), by_donor.var(1, ddof=1), by_donor).with_common(np.array([0.0, 1.0]), 500.0, 0.0)
    found = p_against_zero(m, RNG(0))
    assert found[0] == 2 / 2**8 and found[1] == pytest.approx(stats.norm.sf(1) * 2, rel=0.05)


# Intervals and p


@pytest.mark.parametrize(("score", "donor"), [(SCORE, None), (SCORE, "donor"), ("cos_genes", None)])
def test_intervals_cover_the_exact_means(score, donor):
    found = []
    for seed in range(4):
        rng = RNG(seed)
        table, truth = exact_screen(rng, score=score)
        table["donor"] = "d" + (table["cell_id"].str[1:].astype(int) % 10).astype(str)
        fast = fast_table(table, score, rng)
        found.append([coverage(rank_edits(t, score=score, mode=[], donor=donor), truth) for t in (table, as_if_exact(fast), fast)])
    exact, naive, carried = np.mean(found, axis=0)
    assert 0.91 < exact < 0.98 and naive < 0.75 and 0.925 < carried < 0.99, found


def test_intervals_cover_the_exact_means_of_a_model(tmp_path):
    """A random model's own screen as the population: cells drawn from it again and again, predicted with errors."""
    vocab = make_vocab(30)
    rng = RNG(5)
    counts = rng.poisson(1.5, (16, 30)) * rng.integers(1, 50, (16, 30))
    score = "cos_genes_in_place"
    table = perturb_df(make_adata(counts), make_checkpoint(tmp_path / "model", vocab))
    table = table[["cell_id", "edit", "kind", "genes", "rank", score]]
    truth = (1 - table[score]).groupby(table["edit"]).mean()
    cells = [c for _, c in table.groupby("cell_id", sort=False)]
    found = []
    for _ in range(12):
        drawn = pd.concat([cells[i].assign(cell_id=f"c{n}") for n, i in enumerate(rng.integers(0, len(cells), 150))], ignore_index=True)
        fast = fast_table(drawn, score, rng, audit=0.05)
        found.append([coverage(rank_edits(t, score=score, mode=[]), truth) for t in (drawn, as_if_exact(fast), fast)])
    exact, naive, carried = np.mean(found, axis=0)
    assert exact > 0.88 and naive < 0.7 and carried > 0.92, found


@pytest.mark.parametrize("donor", [None, "donor"])
def test_errors_alone_make_no_discoveries(donor):
    """Nothing has an effect; as if exact, half of the edits have one."""
    said = []
    for seed in range(3):
        rng = RNG(seed)
        table, _ = exact_screen(rng, own=0.0)
        table["donor"] = "d" + (table["cell_id"].str[1:].astype(int) % 10).astype(str)
        fast = fast_table(table, SCORE, rng, run=0.2)
        how = {"score": SCORE, "mode": ["toward", "control", "vs"], "controls": [f"g{i}" for i in range(10)], "donor": donor, "against": table}
        naive, carried = (rank_edits(t, **how) for t in (as_if_exact(fast), fast))
        assert (naive["zero_fdr"] < 0.05).mean() > 0.2 and (naive["vs_fdr"] < 0.05).mean() > 0.3
        tests = ["zero", "matched", "control", "vs"]
        said.append([[(carried[f"{t}_fdr"] < 0.05).sum(), (carried[f"{t}_p"] < 0.05).mean()] for t in tests])
    discoveries, p = np.moveaxis(np.mean(said, axis=0), 1, 0)
    assert (discoveries <= 1).all() and (p < 0.075).all(), said


def test_exact_rows_shrink_the_interval():
    rng = RNG(0)
    table, _ = exact_screen(rng)
    fast = fast_table(table, SCORE, rng, run=0.5)
    ranked = rank_edits(fast, score=SCORE, mode=["matched"]).set_index("edit")
    exact = rank_edits(table, score=SCORE).set_index("edit").loc[ranked.index]
    run = ranked["n_exact"] == ranked["n_cells"]
    assert run.sum() == 75 and (ranked["prediction_se"][run] == 0).all() and (ranked["prediction_se"][~run] > 0).all()
    same = ["effect", "sem", "ci_low", "ci_high", "n_cells", "mean_rank"]
    pd.testing.assert_frame_equal(ranked.loc[run, same], exact.loc[run, same])
    assert (ranked["sem"] >= ranked["prediction_se"]).all() and ranked["sem"][~run].median() > 1.5 * ranked["sem"][run].median()
    assert {"n_exact", "prediction_se"} <= set(ranked) and ranked.attrs["method"] == "fast"
    more = rank_edits(fast_table(table, SCORE, RNG(0), run=0.5, audit=0.2), score=SCORE, mode=[])
    assert more.loc[more["n_exact"] < more["n_cells"], "prediction_se"].median() < 0.6 * ranked["prediction_se"][~run].median()


def test_true_effects_are_found_still():
    rng = RNG(0)
    table, truth = exact_screen(rng)
    ranked = rank_edits(fast_table(table, SCORE, rng), score=SCORE, mode="toward").set_index("edit")
    found = ranked["zero_fdr"] < 0.05
    assert found.mean() > 0.3 and (np.sign(ranked["effect"]) == np.sign(truth[ranked.index]))[found].all()


def test_an_exact_screen_knows_nothing_of_it():
    table, _ = exact_screen(RNG(0), 20, 40)
    ranked = rank_edits(table, score=SCORE)
    assert not {"n_exact", "prediction_se"} & set(ranked) and not {"method", "prediction"} & set(ranked.attrs)


def test_both_screens_of_vs_may_be_fast():
    rng = RNG(4)
    table, _ = exact_screen(rng)
    a, b = (fast_table(table, SCORE, RNG(s)) for s in (1, 2))
    p = {
        name: rank_edits(x, score=SCORE, mode="vs", against=y)["vs_p"]
        for name, x, y in (("both", a, b), ("naive", as_if_exact(a), as_if_exact(b)))
    }
    assert (p["naive"] < 0.05).mean() > 0.5 and (p["both"] < 0.05).mean() < 0.08


def test_an_error_makes_the_mixture_less_sure():
    rng = RNG(0)
    x = np.r_[rng.normal(0, 1, 300), rng.normal(6, 1, 60)]
    keep = np.ones(360, bool)
    plain = impact(x, keep, is_size=False, seed=0).posterior
    for error in (np.zeros(360), np.full(360, 0.5)):  # what all have is in the widths
        np.testing.assert_allclose(impact(x, keep, is_size=False, seed=0, error=error).posterior, plain, atol=1e-9)
    some = np.where(np.arange(360) % 3 == 0, 3.0, 0.1)
    wide = impact(x, keep, is_size=False, seed=0, error=some).posterior
    assert (np.abs(wide - 0.5) <= np.abs(plain - 0.5) + 0.15)[some > 1].all() and wide[some > 1].max() < 0.99 < plain[some > 1].max()
    np.testing.assert_allclose(wide[some < 1], plain[some < 1], atol=1e-9)


# Folders, commands


@pytest.fixture
def folder(tmp_path):
    """A fast screen's results folder as `rankcell perturb --method fast` leaves it, of two scores and both passes."""
    rng = RNG(0)
    out = tmp_path / "screen"
    out.mkdir()
    table, _ = exact_screen(rng, 60, 80, score="cos_genes")
    table["rank"] = table["rank"].astype("int32")
    scores = ["cos_genes", "cos_genes_in_place", "toward_t_cell", "toward_t_cell_in_place"]
    for s in scores[1:]:
        table[s] = (
            rng.normal(size=len(table)) if s.startswith("toward") else 1 - effects(table, "cos_genes") * np.exp(rng.normal(size=len(table)))
        )
    sampled = rng.random(len(table)) < 0.15
    ran = {"exact": sampled & (rng.random(len(table)) < 0.5)}
    ran["exact_in_place"] = sampled & ~ran["exact"]
    audit = table.loc[sampled, ["cell_id", "edit", "rank", "n_tokens"]].assign(sampled=True)
    audit = audit.assign(sampled_whole=ran["exact"][sampled], sampled_in_place=ran["exact_in_place"][sampled])
    fast = table[["cell_id", "edit", "kind", "genes", "rank", "n_tokens"]].assign(**ran)
    for s in scores:
        run, guess = ran["exact_in_place" if s.endswith("_in_place") else "exact"], predictions(table, s, rng)
        value, exact = np.where(run, effects(table, s), guess), np.where(run, effects(table, s), np.nan)
        fast[s] = 1 - value if s.startswith("cos") else value
        audit[s], audit[f"{s}_predicted"] = ((1 - v if s.startswith("cos") else v)[sampled] for v in (exact, guess))
    fast["toward_t_cell_position"] = fast["toward_t_cell"] - fast["toward_t_cell_in_place"]
    for name, t in (("screen", fast), ("audit", audit)):
        t.to_parquet(out / f"{name}.parquet", index=False)
    names = table[["edit", "kind", "genes"]].drop_duplicates()
    names.assign(symbols=names["genes"].str.upper(), n_cells=9, detection=0.9, mean_rank=5.0).to_parquet(out / "edits.parquet", index=False)
    table[["cell_id"]].drop_duplicates().to_parquet(out / "cells.parquet", index=False)
    settings = {"states": ["t"], "method": "fast", "audit": 0.15}
    manifest = {"fingerprint": "f", "settings": settings, "complete": True, "n_rows": len(table), "n_cells": 60, "n_units": 1}
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def test_a_folder_and_its_table_say_the_same(folder):
    a, table = tl.rank_edits(folder), get.screen_df(folder)
    b = tl.rank_edits(table[table["cell_id"] != "nobody"])
    columns = ["edit", "n_cells", "n_exact", "effect", "sem", "prediction_se", "plain_effect", "ci_low", "ci_high"]
    pd.testing.assert_frame_equal(a[columns], b[columns])
    assert a.attrs["prediction"] == b.attrs["prediction"] and a.attrs["prediction"]["audited"] == table["exact_in_place"].sum()
    assert a["n_exact"].sum() == table["exact_in_place"].sum()
    assert tl.rank_edits(folder, score="cos_genes")["n_exact"].sum() == table["exact"].sum()
    json.dumps(table.attrs)  # pandas writes attrs into parquet
    both = pd.concat([table[:10], table[10:]])
    assert tl.rank_edits(both)["prediction_se"].equals(b["prediction_se"])


def test_edits_that_no_cell_has(folder):
    """Edits of the screen that stand in no row are in the table, and change nothing of the others."""
    before = tl.rank_edits(folder, min_cells=0)
    names = pd.read_parquet(folder / "edits.parquet")
    more = names.iloc[:3].assign(edit=["none1", "none2", "none3"], genes=["X1", "X2", "X3"], n_cells=0)
    pd.concat([names, more]).to_parquet(folder / "edits.parquet", index=False)
    after = tl.rank_edits(folder, min_cells=0)
    assert after["edit"].isin(more["edit"]).sum() == 3 and after.attrs["in_no_cell"] == 3
    kept = after[~after["edit"].isin(more["edit"])]
    for column in ("edit", "effect", "prediction_se", "n_exact"):
        assert kept[column].tolist() == before[column].tolist()


def test_command(folder, tmp_path, capsys):
    out = tmp_path / "ranked.tsv"
    modes = [a for m in ("matched", "mixture", "toward", "control") for a in ("--mode", m)]
    assert main(["stats", str(folder), "-o", str(out), "--score", "toward_t_cell_in_place", *modes, "--controls", "g1,g2,g3,g4"]) == 0
    said = capsys.readouterr().out
    assert "values run; the others are off by" in said and "is the same in all cells of an edit: that is in every interval and p" in said
    table, facts = pd.read_csv(out, sep="\t"), json.loads((tmp_path / "ranked.tsv.json").read_text())
    assert {"n_exact", "prediction_se", "zero_p", "matched_p", "control_p", "impact_posterior"} <= set(table)
    assert facts["method"] == "fast" and {"tau", "sigma", "audited", "bias", "common_share"} <= set(facts["prediction"])
    screen = pd.read_parquet(folder / "screen.parquet")
    screen.assign(exact_in_place=True).to_parquet(folder / "screen.parquet", index=False)
    assert main(["stats", str(folder), "-o", str(out), "--force"]) == 0
    assert "fast screen: all values were run, none is predicted" in capsys.readouterr().out
    screen.to_parquet(folder / "screen.parquet", index=False)
    audit = pd.read_parquet(folder / "audit.parquet")
    audit[:150].to_parquet(folder / "audit.parquet", index=False)
    assert main(["stats", str(folder), "-o", str(out), "--force"]) == 0
    assert "taken to be the same in all cells of an edit: intervals and p are wider than they need be" in capsys.readouterr().out


def one_line(arguments, capsys):
    assert main(arguments) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if "note:" not in line]
    assert len(err) == 1
    return err[0]


def test_command_refuses_in_one_line(folder, tmp_path, capsys):
    command = ["stats", str(folder), "-o", str(tmp_path / "o.tsv")]
    assert "does not cover 'toward_t_cell_position'" in one_line([*command, "--score", "toward_t_cell_position"], capsys)
    audit = pd.read_parquet(folder / "audit.parquet")
    audit.assign(sampled_in_place=False).to_parquet(folder / "audit.parquet", index=False)
    assert "has no sampled edit with a value of 'cos_genes_in_place'" in one_line(command, capsys)
    (folder / "audit.parquet").write_bytes(b"no table")
    assert "audit.parquet is damaged" in one_line(command, capsys)
    (folder / "audit.parquet").unlink()
    assert "is a fast screen and has lost its audit.parquet" in one_line(command, capsys)
    with pytest.raises(InputError, match="has lost what its audit says"):
        tl.rank_edits(get.screen_df(folder))
    assert not (tmp_path / "o.tsv").exists()


def test_compat_says_that_it_knows_nothing_of_the_error(folder, tmp_path, capsys):
    out = tmp_path / "o.csv"
    assert main(["stats", str(folder), "-o", str(out), "--compat", "geneformer", "--mode", "mixture_model"]) == 0
    assert "know nothing of their error" in capsys.readouterr().err
    by_hand = get.screen_df(folder).groupby("genes")["cos_genes"].mean()
    table = pd.read_csv(out).set_index("Ensembl_ID")
    np.testing.assert_allclose(table["Avg_shift" if "Avg_shift" in table else table.select_dtypes(float).columns[0]], by_hand[table.index])


def test_exact_is_a_layer(folder):
    found = get.screen_adata(folder, "cos_genes_in_place", by="cells")
    table = get.screen_df(folder)
    assert np.nansum(found.layers["exact"]) == table["exact_in_place"].sum()
    assert (np.isnan(found.layers["exact"]) == np.isnan(found.X)).all()
    assert get.ranking(tl.rank_edits(folder)).index[0].startswith("G")


def test_a_score_without_an_audit_is_named(folder):
    table = get.screen_df(folder)
    with pytest.raises(
        SettingsError, match="does not cover 'toward_t_cell_position'.*rank by a score that is predicted: one of cos_genes, "
    ):
        rank_edits(table, score="toward_t_cell_position")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RankcellWarning)
        rank_edits(
            table,
            score="toward_t_cell",
            donor="donor",
            cells=pd.DataFrame({"cell_id": table["cell_id"].unique()}).assign(donor=lambda t: np.arange(len(t)) % 7),
        )
