"""Are the p of `rankcell stats` what they say? Data without effects, models without training, and an effect put in.

python benchmarks/calibration.py -o FOLDER [--model demo] [--cells 120] [--twins 4] [--shuffles 50] [--keep FOLDER]
python benchmarks/calibration.py -o FOLDER --few-cells [--shuffles 50]

The first, on real PBMCs (rc.datasets.pbmc68k), every gene of every chosen cell deleted:
1. shuffled labels: the effects of a screen handed round among genes of like rank in the same cell, and the donors of cells drawn
   anew (12 donors, which the data has not); of a movement toward a state the sign, too, is drawn. Nothing is left to find.
2. random weights: the same screen with models of the same shape that nobody trained (rankcell.model.twin.random_twin). Each gene
   has an effect of its own there, by its random embedding, and none stands for biology.
3. power: in each shuffled screen, 10 genes' effects multiplied by 1.25, 1.5, 2 and 4 in all cells.
The second, on made-up screens without any effect: edits in 2 to 10 cells, noise that is normal, heavy in its tails, skewed, or with rare
outliers; every test with the p that is left out below five cells too. Writes few_cells.tsv.
The first writes calibration.tsv (share of p below 0.05 and 0.01; discoveries at a false discovery rate of 0.05 and 0.1; power) and
calibration.png (QQ plots). `--keep` keeps the screens, and takes those that are there.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

import rankcell as rc
from rankcell.errors import RankcellWarning
from rankcell.model import open_checkpoint
from rankcell.model.twin import random_twin
from rankcell.stats import rank_affected, rank_edits

SCORES = ("cos_genes_in_place", "cos_cell_in_place", "cos_genes")
TOWARD = "CD14+ Monocyte"
N_DONORS, NEAR, N_IMPLANTED, FACTORS = 12, 25, 10, (1.25, 1.5, 2.0, 4.0)


def screens(model: str, cells: int, twins: int, keep: Path) -> dict[str, pd.DataFrame]:
    """Deletion screens by name: the model's, and those of its untrained twins."""
    checkpoint = open_checkpoint(model)
    tokens = rc.pp.tokenize(rc.datasets.pbmc68k(), checkpoint.vocab, obs=["bulk_labels"])
    found = {}
    for name in [model, *(f"random {i}" for i in range(twins))]:
        folder = keep / f"{name.replace(' ', '_')}_{cells}"
        if not (folder / "screen.parquet").exists():
            with tempfile.TemporaryDirectory() as tmp:
                used = checkpoint if name == model else random_twin(checkpoint, Path(tmp) / "twin", seed=int(name.split()[1]))
                rc.tl.perturb(
                    tokens,
                    model=used if name == model else used.folder,
                    toward=f"bulk_labels={TOWARD}",
                    subset=rc.Subset(cells, seed=1),
                    measure=rc.Measure(affected=True),
                    out=folder,
                    compute=rc.Compute("cpu"),
                )
        found[name] = rc.get.screen_df(folder)
        found[name].attrs["folder"] = folder
    return found


def shuffled(table: pd.DataFrame, score: str, rng: np.random.Generator) -> pd.DataFrame:
    """The effects of each cell handed round among runs of genes next to each other in rank."""
    table = table.sort_values(["cell_id", "rank"], kind="stable", ignore_index=True)
    place = table.groupby("cell_id", sort=False).cumcount().to_numpy()
    cell = pd.factorize(table["cell_id"])[0]
    run = (place + rng.integers(0, NEAR)) // NEAR
    values = table[score].to_numpy()[np.lexsort((rng.random(len(table)), run, cell))]
    if score.startswith("toward"):  # so that nothing moves toward the state on the whole either
        values = values * rng.choice([-1.0, 1.0], len(values))
    return table.assign(**{score: values})


def donors(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """A donor for each cell, drawn."""
    ids = table["cell_id"].unique()
    return pd.DataFrame({"cell_id": ids, "donor": rng.permutation(np.arange(len(ids)) % N_DONORS)})


def ranked(table: pd.DataFrame, score: str, **how) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankcellWarning)
        return rank_edits(table, score=score, mode="toward" if score.startswith("toward") else "matched", **how)


class Findings:
    """p by case and test, over repeats."""

    def __init__(self):
        self.p: dict[tuple[str, str, str], list[np.ndarray]] = {}

    def add(self, case: str, score: str, table: pd.DataFrame, donor: bool) -> None:
        names = {"matched_p": "matched"} if not donor else {
            "matched_p_peers": "matched, donors: peers", "matched_p_donors": "matched, donors: signs", "matched_p": "matched, donors: both",
        }  # fmt: skip
        for column, name in (names | {"zero_p": f"toward against zero{', donors' if donor else ''}"}).items():
            if column in table:
                self.p.setdefault((case, score, name), []).append(table[column].dropna().to_numpy())

    def table(self) -> pd.DataFrame:
        from scipy.stats import false_discovery_control as bh

        rows = []
        for (case, score, test), sets in self.p.items():
            p = np.concatenate(sets)
            q = [bh(s) for s in sets]
            row = {"case": case, "score": score, "test": test, "screens": len(sets), "edits": len(sets[0])}
            row |= {f"p<{a}": (p < a).mean() for a in (0.05, 0.01)}
            for a in (0.05, 0.1):
                row |= {f"any_fdr<{a}": np.mean([(x < a).any() for x in q]), f"mean_fdr<{a}": np.mean([(x < a).sum() for x in q])}
            rows.append(row)
        return pd.DataFrame(rows)


def power(table: pd.DataFrame, score: str, rng: np.random.Generator, shuffles: int) -> pd.DataFrame:
    """Of genes whose effects were multiplied, how many are found, by how many cells show them; and how many others are."""
    rows = []
    for factor in FACTORS:
        for _ in range(shuffles):
            t = shuffled(table, score, rng)
            n = t.groupby("genes").size()
            genes = rng.choice(n.index[n >= 20], N_IMPLANTED, replace=False)
            hit = t["genes"].isin(genes)
            t.loc[hit, score] = 1 - factor * (1 - t.loc[hit, score])
            r = ranked(t, score)
            called, real = r["matched_fdr"] < 0.1, r["genes"].isin(genes)
            rows.append((factor, called[real].mean(), (called & ~real).sum() / max(1, called.sum())))
    found = pd.DataFrame(rows, columns=["factor", "power", "false_share"]).groupby("factor", as_index=False).mean()
    return found.assign(score=score)


def affected_rates(table: pd.DataFrame) -> dict[str, float]:
    """Of pairs of perturbation and affected gene seen in at least ten cells: how many z are further out than a normal one would be."""
    folder = table.attrs["folder"]
    if not (folder / "affected.parquet").exists():
        return {}
    z = rank_affected(folder, min_cells=10, direction="both")["z"].dropna()
    return {"pairs": len(z)} | {f"z>{x}": round(float((z > x).mean()), 5) for x in (1.64, 2.33, 3.72)}


# Few cells

NOISES = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy tails (t, 3 degrees)": lambda rng, n: rng.standard_t(3, n) / np.sqrt(3),
    "skewed (exponential)": lambda rng, n: rng.exponential(size=n) - 1,
    "rare outliers (1 in 200, 20 times as wide)": lambda rng, n: rng.normal(size=n) * np.where(rng.random(n) < 0.005, 20, 1),
}
COUNTS, PER_COUNT, POOL, N_CONTROLS = tuple(range(2, 11)), 200, 40, 20


def made_up(noise: str, rng: np.random.Generator, *, is_size: bool) -> pd.DataFrame:
    """A screen without effects: `PER_COUNT` edits in each of 2 to 10 of 40 cells, and controls in all; ranks at random."""
    n = np.r_[np.repeat(COUNTS, PER_COUNT), np.full(N_CONTROLS, POOL)]
    edit = np.repeat(np.arange(len(n)), n)
    cell = np.concatenate([rng.choice(POOL, k, replace=False) for k in n])
    x = NOISES[noise](rng, len(edit))
    order = np.lexsort((rng.random(len(edit)), cell))
    edit, cell = edit[order], cell[order]
    rank = np.arange(len(edit)) - np.searchsorted(cell, cell)
    names = np.char.add("g", edit.astype(str))
    table = {"cell_id": np.char.add("c", cell.astype(str)), "edit": np.char.add("delete:", names), "kind": "delete", "genes": names}
    score = {"cos_genes": 1 - 1e-3 * np.exp(x)} if is_size else {"toward_t_cell": x}
    return pd.DataFrame(table | {"rank": rank} | score)


def few_cells(shuffles: int) -> pd.DataFrame:
    """Shares of p below 0.05, 0.01 and 1e-4 by noise, test and number of cells; with the p that are left out below five cells."""
    from rankcell.stats import matched, work
    from rankcell.stats import replicates as units

    found: dict[tuple[str, str, int], list[np.ndarray]] = {}
    columns = {"matched_p": "matched", "zero_p": "against zero", "control_p": "control", "vs_p": "vs"}
    held = [(m, m.LEAST_REPLICATES) for m in (matched, units, work)]
    for module, _ in held:
        module.LEAST_REPLICATES = 2
    try:
        rng = np.random.default_rng(0)
        for noise in NOISES:
            for _ in range(shuffles):
                size, sign, other = (made_up(noise, rng, is_size=i == 0) for i in range(3))
                other = sign.assign(toward_t_cell=NOISES[noise](rng, len(sign)))
                controls = [f"g{len(COUNTS) * PER_COUNT + i}" for i in range(N_CONTROLS)]
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", RankcellWarning)
                    tables = [
                        rank_edits(size, mode="matched", min_cells=0),
                        rank_edits(sign, mode=["toward", "control", "vs"], controls=controls, against=other, min_cells=0).drop(
                            columns="matched_p"
                        ),
                    ]
                for table in tables:
                    for column in [c for c in columns if c in table]:
                        for n, p in table[column].groupby(table["n_cells"]):
                            found.setdefault((noise, columns[column], int(n)), []).append(p.dropna().to_numpy())
    finally:
        for module, value in held:
            module.LEAST_REPLICATES = value
    rows = []
    for (noise, test, n), parts in found.items():
        p = np.concatenate(parts)
        if n in COUNTS and len(p):
            rows.append({"noise": noise, "test": test, "cells": n, "p": len(p)} | {f"p<{a:g}": (p < a).mean() for a in (0.05, 0.01, 1e-4)})
    return pd.DataFrame(rows).sort_values(["noise", "test", "cells"], ignore_index=True)


STYLES = {
    "matched": "-",
    "matched, donors: both": "--",
    "matched, donors: signs": (0, (1, 1.2)),
    "toward against zero": "-.",
}


def draw(findings: Findings, cases: list[str], path: Path) -> None:
    """-log10 p seen against expected, a panel per case: a colour per score, a style of line per test."""
    from rankcell.report.pictures.colours import GREY, PALETTE
    from rankcell.report.pictures.figures import new_figure, save

    figure = new_figure(4.4 * len(cases), 5.4)
    axes = figure.subplots(1, len(cases), sharex=True, sharey=True)
    colours = dict(zip(dict.fromkeys(k[1] for k in findings.p), PALETTE, strict=False))
    drawn = {}
    for ax, case in zip(axes, cases, strict=True):
        ax.plot([0, 5], [0, 5], color=GREY, lw=0.8)
        for (_, score, test), sets in ((k, v) for k, v in findings.p.items() if k[0] == case and k[2] in STYLES):
            p = np.sort(np.concatenate(sets))
            expected = (np.arange(len(p)) + 0.5) / len(p)
            keep = np.unique(np.r_[np.arange(min(200, len(p))), np.linspace(0, len(p) - 1, 300).astype(int)])
            label = f"{score.replace(f'toward_{TOWARD}', 'toward')}: {test}"
            how = {"lw": 1.3, "color": colours[score], "ls": STYLES[test]}
            drawn[label] = ax.plot(-np.log10(expected[keep]), -np.log10(np.maximum(p[keep], 1e-8)), **how)[0]
        ax.set(title=case, xlabel="expected -log10 p", ylim=(0, 8), xlim=(0, 4.6))
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("seen -log10 p")
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=7)
    save(figure, path)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("-o", "--out", type=Path, required=True)
    ap.add_argument("--model", default="demo")
    ap.add_argument("--cells", type=int, default=120)
    ap.add_argument("--twins", type=int, default=4)
    ap.add_argument("--shuffles", type=int, default=50)
    ap.add_argument("--keep", type=Path)
    ap.add_argument("--few-cells", action="store_true")
    a = ap.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    if a.few_cells:
        table = few_cells(a.shuffles)
        table.to_csv(a.out / "few_cells.tsv", sep="\t", index=False, float_format="%.5f")
        print(table.to_string(index=False, float_format="%.5f"))
        return
    with tempfile.TemporaryDirectory() as tmp:
        keep = a.keep or Path(tmp)
        keep.mkdir(parents=True, exist_ok=True)
        tables = screens(a.model, a.cells, a.twins, keep)
        scores = [*SCORES, f"toward_{TOWARD}_cell_in_place"]
        findings, rng = Findings(), np.random.default_rng(0)
        for score in scores:
            for _ in range(a.shuffles):
                t = shuffled(tables[a.model], score, rng)
                findings.add("shuffled labels", score, ranked(t, score), donor=False)
                if score == scores[0]:
                    findings.add("shuffled labels", score, ranked(t, score, donor="donor", cells=donors(t, rng)), donor=True)
            for name, t in tables.items():
                case = "trained model (not a null)" if name == a.model else "random weights"
                findings.add(case, score, ranked(t, score), donor=False)
                findings.add(case, score, ranked(t, score, donor="donor", cells=donors(t, rng)), donor=True)
        summary = findings.table()
        summary.to_csv(a.out / "calibration.tsv", sep="\t", index=False, float_format="%.4f")
        draw(findings, ["shuffled labels", "random weights", "trained model (not a null)"], a.out / "calibration.png")
        print(summary.to_string(index=False, float_format="%.3f"))
        found = power(tables[a.model], scores[0], rng, max(1, a.shuffles // 5))
        found.to_csv(a.out / "power.tsv", sep="\t", index=False, float_format="%.4f")
        print(found.to_string(index=False, float_format="%.3f"))
        for name, t in tables.items():
            print("affected genes,", name, affected_rates(t))


if __name__ == "__main__":
    main()
