"""Whether the intervals and p of a fast screen hold what they say: screens of known effects, predictions of known errors.

    python benchmarks/prediction_error.py [--screens 12]

Prints three tables (tutorials/STATISTICS.md holds them): coverage of 95 % intervals, with and without the correction; what it
pays to use each edit's own audited error; and discoveries where nothing but errors makes effects.
"""

import argparse
import warnings

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from rankcell.stats import rank_edits
from rankcell.stats.prediction import Shared, fit_error


def made_up(rng, *, n_cells, n_edits, score, own=1.0, noise=1.0):
    """(table of exact values, mean effect of each edit in the population of cells). `own`: spread of the edits' effects."""
    truth = own * (rng.normal(size=n_edits) if score.startswith("cos_") else rng.standard_t(4, n_edits))
    cell, edit = (v.ravel() for v in np.meshgrid(np.arange(n_cells), np.arange(n_edits), indexing="ij"))
    shown = rng.random(len(cell)) < rng.beta(2, 2, n_edits)[edit]
    cell, edit = cell[shown], edit[shown]
    effect = truth[edit] + noise * rng.normal(size=len(cell))
    rank = pd.Series(rng.random(len(cell))).groupby(cell).rank().to_numpy().astype(int) - 1
    if score.startswith("cos_"):
        effect, truth = 1e-3 * np.exp(effect - noise**2 / 2), 1e-3 * np.exp(truth)
    names = {"cell_id": [f"c{c}" for c in cell], "edit": [f"delete:g{e}" for e in edit], "kind": "delete", "genes": [f"g{e}" for e in edit]}
    table = pd.DataFrame(names | {"rank": rank, "n_tokens": n_edits, score: 1 - effect if score.startswith("cos_") else effect})
    return table, pd.Series(truth, [f"delete:g{e}" for e in range(n_edits)])


def predicted(table, rng, *, score, error=0.5, share=0.3, bias=0.0, grows=1.0, tails=np.inf, audit=0.02, top=0):
    """(fast table, audited rows): values replaced by predictions whose errors have `share` of their variance in common over cells.

    error
        Root mean square of the errors, in that of the effects; `grows` of it (in variance) goes with the size of the effect.
    bias
        What all errors have in common, in root mean square of the errors.
    """
    is_cos = score.startswith("cos_")
    exact = (1 - table[score] if is_cos else table[score]).to_numpy()
    codes, ids = pd.factorize(table["edit"])
    typical = (exact**2).mean()
    draw = (lambda n: rng.normal(size=n)) if np.isinf(tails) else (lambda n: rng.standard_t(tails, n) / np.sqrt(tails / (tails - 2)))
    mean = pd.Series(exact).groupby(codes).mean().to_numpy()[codes]
    size = error * np.sqrt((1 - grows) * typical + grows * mean**2)
    wrong = size * (bias + np.sqrt(share) * draw(len(ids))[codes] + np.sqrt(1 - share) * draw(len(exact)))
    guess = exact - wrong
    if is_cos:
        guess = np.maximum(guess, 0.02 * exact)
    sampled = rng.random(len(table)) < audit
    place = pd.Series(-guess).groupby(table["cell_id"].to_numpy()).rank().to_numpy()
    run = sampled | (place <= top)
    value = np.where(run, exact, guess)
    fast = table.assign(exact=run, **{score: 1 - value if is_cos else value})
    rows = pd.DataFrame({"edit": table["edit"], "exact": exact, "predicted": guess})[sampled]
    return fast, rows


def with_audit(fast, rows, score):
    from dataclasses import asdict

    error = fit_error(rows["edit"].to_numpy(), rows["predicted"].to_numpy(), rows["exact"].to_numpy())
    fast.attrs = {"prediction": Shared({score: asdict(error)})}
    return fast


def without(fast, score):
    """The same values as if all were exact."""
    table = fast.drop(columns="exact")
    table.attrs = {}
    return table


def covered(ranked, truth):
    ranked = ranked[ranked["n_cells"] >= 3]
    true = truth[ranked["edit"]].to_numpy()
    return ((ranked["ci_low"] <= true) & (true <= ranked["ci_high"])).mean(), (ranked["ci_high"] - ranked["ci_low"]).median() / 2


CASES = {
    "no error": {"error": 1e-9},
    "errors differ between cells only": {"share": 0.0},
    "3 % in common": {"share": 0.03},
    "30 % in common": {"share": 0.3},
    "30 %, heavy tails (t, 5 df)": {"share": 0.3, "tails": 5},
    "30 %, errors of one size": {"share": 0.3, "grows": 0.0},
    "all in common": {"share": 1.0},
    "a bias as large as the rest": {"share": 0.3, "bias": 1.0},
    "30 %, top 10 of a cell run": {"share": 0.3, "top": 10},
}


def coverage(n_screens, n_cells, n_edits, score, seed=0):
    print(f"\n{score}: {n_cells} cells x {n_edits} edits, 2 % audited, error 0.5 of the effects, {n_screens} screens")
    print(
        "| errors | covered as if exact | covered | half width as if exact | half width | own error not used: covered, half width | all run |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, how in CASES.items():
        found = []
        for s in range(n_screens):
            rng = np.random.default_rng([seed, s])
            table, truth = made_up(rng, n_cells=n_cells, n_edits=n_edits, score=score, own=0.7, noise=0.7)
            fast, rows = predicted(table, rng, score=score, **how)
            plain = with_audit(fast, rows, score)
            no_own = fast.copy()
            shared = dict(plain.attrs["prediction"][score])
            n = len(shared["edits"])
            shared |= {"shift": [0.0] * n, "variance": [shared["variance_else"]] * n}
            no_own.attrs = {"prediction": Shared({score: shared})}
            tables = [without(plain, score), plain, no_own, table]
            found.append([v for t in tables for v in covered(rank_edits(t, score=score, mode=[]), truth)])
        a = np.mean(found, axis=0)
        unit = a[7]
        print(
            f"| {name} | {a[0]:.3f} | {a[2]:.3f} | {a[1] / unit:.2f} | {a[3] / unit:.2f} | {a[4]:.3f}, {a[5] / unit:.2f} | {a[6]:.3f}, 1 |",
            flush=True,
        )


TESTS = {"zero_p": {}, "matched_p": {}, "control_p_mean": {}, "control_p": {}, "vs_p": {}}


def false_discoveries(n_screens, n_cells, n_edits, *, score="toward_t_cell", donor=None, **how):
    how = {"grows": 0.0} | how
    print(f"\n{n_cells} cells x {n_edits} edits without any effect, {how}, donors: {donor or 'none'}, {n_screens} screens")
    print("| test | p < 0.05 as if exact | p < 0.05 | screens with a discovery (FDR 0.05) as if exact | screens with a discovery |")
    print("|---|---|---|---|---|")
    found = {t: [] for t in TESTS}
    for s in range(n_screens):
        rng = np.random.default_rng([7, s])
        table, _ = made_up(rng, n_cells=n_cells, n_edits=n_edits, score=score, own=0.0)
        table["donor"] = "d" + (table["cell_id"].str[1:].astype(int) % 8).astype(str)
        fast = with_audit(*predicted(table, rng, score=score, **how), score)
        controls = [f"g{i}" for i in range(20)]
        ask = {"by": score, "mode": ["toward", "control", "vs"], "controls": controls, "donor": donor}
        for t, a, b in zip(TESTS, *(one(t, ask, table) for t in (without(fast, score), fast)), strict=True):
            found[t].append([*a, *b])
    for t, rows in found.items():
        a = np.mean(rows, axis=0)
        print(f"| {t} | {a[0]:.3f} | {a[2]:.3f} | {a[1]:.2f} | {a[3]:.2f} |", flush=True)


def one(table, ask, exact):
    ranked = rank_edits(table, against=exact, **ask)
    for test in TESTS:
        p = ranked[test].dropna().to_numpy()
        yield (p < 0.05).mean(), float((false_discovery_control(p) < 0.05).any())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--screens", type=int, default=12)
    n = parser.parse_args().screens
    warnings.simplefilter("ignore")
    for n_cells, n_edits in ((60, 300), (600, 300)):
        for score in ("toward_t_cell", "cos_genes"):
            coverage(n, n_cells, n_edits, score)
    for score in ("toward_t_cell", "cos_genes"):
        coverage(max(2, n // 4), 300, 2000, score)
    for donor in (None, "donor"):
        false_discoveries(n, 400, 300, donor=donor)
        false_discoveries(n, 400, 300, donor=donor, top=30)


if __name__ == "__main__":
    main()
