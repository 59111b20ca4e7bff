"""Geneformer's own statistics, slips included: for comparison with its results, not for conclusions (tutorials/STATISTICS.md).

Column names are Geneformer's; its `Gene` (a token number) is left out, and so is the CSV's index. Genes are taken in the order of
their Ensembl ids, which is that of the tokens of its V1 vocabulary.
"""

import random
from typing import Any

import numpy as np

from rankcell.errors import SettingsError
from rankcell.stats.covariates import ranks_within
from rankcell.stats.replicates import fdr
from rankcell.stats.screen_rows import Rows

_MOST = 100_000
_LEVEL = 0.05


def cell_score(columns: Any, score: str | None) -> str:
    """The score that stands for Geneformer's "cell_emb" without goal states: `cos_cls` where there is a CLS, else `cos_genes`."""
    if score is not None:
        if score not in columns:
            raise SettingsError(f"the table has no score '{score}'")
        return score
    return "cos_cls" if "cos_cls" in columns else "cos_genes"


class _Genes:
    """The values of a screen by perturbed gene (or group, or pair), genes in order of their ids, null values left out."""

    def __init__(self, rows: Rows, values: np.ndarray):
        order = np.argsort(rows.edits["genes"].astype(str).to_numpy(), kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        self.edits = rows.edits.iloc[order].reset_index(drop=True)
        good = np.isfinite(values)
        gene = place[rows.edit[good]]
        by_gene = np.argsort(gene, kind="stable")
        self.gene, self.values = gene[by_gene], values[good][by_gene]
        self.n = np.bincount(self.gene, minlength=len(order))

    def mean(self) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.bincount(self.gene, self.values, len(self.n)) / self.n

    def frame(self) -> Any:
        import pandas as pd

        return pd.DataFrame({"Gene_name": self.edits["symbols"], "Ensembl_ID": self.edits["genes"]})


def goal_state_shift(rows: Rows, goal: str, alternatives: dict[str, str]) -> Any:
    """Mean movement toward the goal and toward each alternative, {state: score}; p from a rank-sum test against the values of all genes.

    As upstream the gene itself is among "all genes", and more than 100,000 values are drawn down to that with a fixed seed. For a
    screen of one edit: one row of means without p.
    """
    import pandas as pd

    by = _Genes(rows, rows.scores[goal])
    others = {name: _Genes(rows, rows.scores[score]) for name, score in alternatives.items()}
    if len(by.n) == 1:
        means = {f"Shift_to_alt_end_{name}": g.values.mean() for name, g in others.items()}
        return pd.DataFrame({"Shift_to_goal_end": by.values.mean(), **means}, index=[0])
    table = by.frame()
    table["Shift_to_goal_end"] = by.mean()
    for name, g in others.items():
        table[f"Shift_to_alt_end_{name}"] = g.mean()
    table["Goal_end_vs_random_pval"] = _against_all(by)
    for name, g in others.items():
        table[f"Alt_end_vs_random_pval_{name}"] = _against_all(g)
    table["Goal_end_FDR"] = fdr(table["Goal_end_vs_random_pval"].to_numpy())
    for name in others:
        table[f"Alt_end_FDR_{name}"] = fdr(table[f"Alt_end_vs_random_pval_{name}"].to_numpy())
    table["N_Detections"] = by.n
    table["Sig"] = (table["Goal_end_FDR"] < _LEVEL).astype(int)
    order = ["Sig", "Shift_to_goal_end", "Goal_end_FDR"]
    return table.sort_values(order, ascending=[False, False, True], ignore_index=True)


def vs_null(rows: Rows, null: Rows, score: str) -> Any:
    """The mean of each gene beside that of another screen, rank-sum p between the two."""
    test = _Genes(rows, rows.scores[score])
    other = _Genes(null, null.scores[score])
    table = test.frame()
    place = {g: i for i, g in enumerate(other.edits["genes"])}
    at = np.array([place.get(g, -1) for g in test.edits["genes"]], np.int64)
    known = at >= 0
    table["Test_avg_shift"] = test.mean()
    table["Null_avg_shift"] = np.where(known, other.mean()[at], np.nan)
    table["Test_vs_null_avg_shift"] = table["Test_avg_shift"] - table["Null_avg_shift"]
    table["Test_vs_null_pval"] = np.nan_to_num(_rank_sum(test, other, at), nan=1.0)
    table["Test_vs_null_FDR"] = fdr(table["Test_vs_null_pval"].to_numpy())
    table["N_Detections_test"], table["N_Detections_null"] = test.n, np.where(known, other.n[at], 0)
    table["Sig"] = (table["Test_vs_null_FDR"] < _LEVEL).astype(int)
    order = ["Sig", "Test_vs_null_avg_shift", "Test_vs_null_FDR"]
    return table.sort_values(order, ascending=[False, False, True], ignore_index=True)


def mixture_model(rows: Rows, score: str) -> Any:
    """Two Gaussian components of the genes' mean cosines, the first of the fit taken to be the one of impact.

    The slip: which component comes first is up to the fit, and nothing checks that its mean is the lower one. Where it is not, the
    rule below is the plain cut value < mean of the lower component, whatever the posterior says.
    """
    from sklearn.mixture import GaussianMixture

    by = _Genes(rows, rows.scores[score])
    mean = by.mean()
    scored = by.n > 0  # a gene of cells that have no other gene has none
    if scored.sum() < 2:
        raise SettingsError("mixture_model needs the screen of at least two genes")
    fit = GaussianMixture(2, random_state=0).fit(mean[scored, None])
    table = by.frame()
    table["Test_avg_shift"] = mean
    table["Impact_component"] = _impact_component(np.where(scored, mean, 1), fit)
    each = _impact_component(by.values, fit)
    table["Impact_component_percent"] = np.bincount(by.gene, each, len(by.n)) / np.maximum(by.n, 1) * 100
    table["N_Detections"] = by.n
    return table[scored].sort_values(["Impact_component", "Test_avg_shift"], ascending=[False, True], ignore_index=True)


def _impact_component(values: np.ndarray, fit: Any) -> np.ndarray:
    first, second = fit.means_[:, 0]
    return np.where(values > second, 0, np.where(values < first, 1, 1 - fit.predict(values[:, None])))


def aggregate_data(rows: Rows, score: str) -> Any:
    """The cosine of each cell of a screen of one edit, in the table's order."""
    import pandas as pd

    if len(rows.edits) != 1:
        raise SettingsError(f"aggregate_data is for a screen of one gene or group; this one has {len(rows.edits):,} edits")
    values = rows.scores[score]
    return pd.DataFrame({"Cosine_sim": values, "Gene": rows.edits["symbols"].iloc[0]})[np.isfinite(values)].reset_index(drop=True)


def aggregate_gene_shifts(rows: Rows, score: str, affected: Any, symbols: dict[str, str]) -> Any:
    """Mean, population standard deviation and number of the cosines of each affected gene; the cells' own on top ("cell_emb")."""
    import pandas as pd

    by = _Genes(rows, rows.scores[score])
    mean = by.mean()
    deviation = np.sqrt(np.bincount(by.gene, (by.values - mean[by.gene]) ** 2, len(by.n)) / by.n)
    top = pd.DataFrame({"Gene_name": by.edits["symbols"], "Ensembl_ID": by.edits["genes"], "Affected": "cell_emb"})
    top = top.assign(Affected_gene_name=None, Affected_Ensembl_ID=None, Cosine_sim_mean=mean, Cosine_sim_stdev=deviation, N_Detections=by.n)
    names = [symbols.get(g, g) for g in affected["affected"]]
    affected_rows = pd.DataFrame(
        {"Gene_name": [symbols.get(g, g) for g in affected["genes"]], "Ensembl_ID": affected["genes"], "Affected": affected["affected"]}
    )
    affected_rows = affected_rows.assign(Affected_gene_name=names, Affected_Ensembl_ID=affected["affected"], Cosine_sim_mean=affected["mean_cos"])
    affected_rows = affected_rows.assign(Cosine_sim_stdev=affected["sd_cos"], N_Detections=affected["n"])
    affected_rows = affected_rows.sort_values("Cosine_sim_mean", kind="stable")
    top, affected_rows = (part.astype({"Affected_gene_name": object, "Affected_Ensembl_ID": object}) for part in (top, affected_rows))
    return pd.concat([part for part in (top, affected_rows) if len(part)], ignore_index=True) if len(top) or len(affected_rows) else top


def _against_all(by: _Genes) -> np.ndarray:
    """Rank-sum p of each gene's values against those of all genes (normal approximation, no correction for ties)."""
    everything = by.values
    if len(everything) > _MOST:
        everything = everything[random.Random(42).sample(range(len(everything)), _MOST)]
    pool = np.sort(everything)
    below = (np.searchsorted(pool, by.values, "left") + np.searchsorted(pool, by.values, "right")) / 2
    total = np.bincount(by.gene, below, len(by.n)) + by.n * (by.n + 1) / 2
    return _rank_sum_p(total, by.n, len(pool))


def _rank_sum(test: _Genes, null: _Genes, at: np.ndarray) -> np.ndarray:
    """Rank-sum p of each gene's values in one screen against its values in the other; `at`: the gene's place there, -1 for none."""
    n = len(test.n)
    back = np.full(len(null.n), -1, np.int64)
    back[at[at >= 0]] = np.flatnonzero(at >= 0)
    shared = back[null.gene] >= 0
    gene = np.concatenate([test.gene, back[null.gene[shared]]])
    ranks = ranks_within(gene, np.concatenate([test.values, null.values[shared]]))
    total = np.bincount(test.gene, ranks[: len(test.gene)], n)
    return _rank_sum_p(total, test.n, np.bincount(back[null.gene[shared]], minlength=n))


def _rank_sum_p(total: np.ndarray, n: np.ndarray, m: Any) -> np.ndarray:
    """Two-sided p of a sum of ranks `total` of `n` values among n + m (Wilcoxon; scipy.stats.ranksums)."""
    from scipy.stats import norm

    with np.errstate(invalid="ignore", divide="ignore"):
        z = (total - n * (n + m + 1) / 2) / np.sqrt(n * m * (n + m + 1) / 12)
    return 2 * norm.sf(np.abs(z))
