"""Geneformer's own statistics, on Geneformer's own screens: its tables come out again, the slip of its mixture included."""

import numpy as np
import pandas as pd
import pytest
from sklearn.mixture import GaussianMixture

from rankcell.errors import RankcellWarning
from rankcell.stats import geneformer
from rankcell.stats.mixture import impact
from rankcell.stats.screen_rows import rows_of

MODE = {"V1": "cell", "V2": "cls"}
SCORE = {"V1": "cos_genes", "V2": "cos_cls"}


def golden_case(golden, name):
    return pd.read_parquet(golden / "screens" / f"{name}.parquet").astype({"genes": str, "affected": str, "state": str})


def golden_rows(golden, version, name, symbols):
    """A golden screen without goal states in our form."""
    t = golden_case(golden, name)
    t = t[t.affected == "cell_emb"]
    table = pd.DataFrame({"cell_id": t.cell, "edit": "delete:" + t.genes, "kind": "delete", "genes": t.genes, "rank": np.nan})
    table[SCORE[version]] = t.value.astype(float)
    table.attrs["symbols"] = symbols
    return rows_of(table, [SCORE[version]])


def golden_stats(golden, version, mode):
    return pd.read_csv(golden / "stats" / f"{version}_{mode}.csv", index_col=0).drop(columns="Gene", errors="ignore")


def symbols_of(*tables):
    return {g: s for t in tables for g, s in zip(t.Ensembl_ID, t.Gene_name, strict=True)}


def require_same(found, expected, *, atol=0.0):
    """Same columns; the same rows; in the same order wherever the order is decided (not between equal genes)."""
    assert found.columns.tolist() == expected.columns.tolist()
    a, b = (t.set_index("Ensembl_ID").sort_index() for t in (found, expected))
    assert a.index.equals(b.index) and a.Gene_name.tolist() == b.Gene_name.tolist()
    numbers = [c for c in a if c != "Gene_name"]
    np.testing.assert_allclose(a[numbers].to_numpy(float), b[numbers].to_numpy(float), rtol=1e-6, atol=atol)
    moved = [i for i, (x, y) in enumerate(zip(found.Ensembl_ID, expected.Ensembl_ID, strict=True)) if x != y]
    assert len(moved) <= 0.02 * len(found)


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_goal_state_shift(golden, version):
    expected = golden_stats(golden, version, "goal_state_shift")
    t = golden_case(golden, f"{version}_delete_goal_all_{MODE[version]}")
    wide = t.pivot_table(index=["cell", "genes"], columns="state", values="value").reset_index()
    scores = {s: f"toward_{s}_{MODE[version]}" for s in ("CD19+ B", "CD56+ NK")}
    table = pd.DataFrame({"cell_id": wide.cell, "edit": wide.genes, "kind": "delete", "genes": wide.genes, "rank": np.nan})
    table = table.assign(**{score: wide[state] for state, score in scores.items()})
    table.attrs["symbols"] = symbols_of(expected)
    found = geneformer.goal_state_shift(rows_of(table, list(scores.values())), scores["CD19+ B"], {"CD56+ NK": scores["CD56+ NK"]})
    require_same(found, expected, atol=1e-12)


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_vs_null(golden, version):
    expected = golden_stats(golden, version, "vs_null")
    test, null = (golden_rows(golden, version, f"{version}_delete_all_{MODE[version]}_layer{i}", symbols_of(expected)) for i in (-1, 0))
    found = geneformer.vs_null(test, null, SCORE[version])
    require_same(found, expected, atol=1e-7)  # differences of float32 cosines near one
    assert found.Sig.sum() == 0 and (found.N_Detections_test == found.N_Detections_null).all()


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_mixture_model_with_its_slip(golden, version):
    expected = golden_stats(golden, version, "mixture_model")
    rows = golden_rows(golden, version, f"{version}_delete_all_{MODE[version]}_layer-1", symbols_of(expected))
    found = geneformer.mixture_model(rows, SCORE[version])
    require_same(found, expected)


def test_the_mixtures_slip_and_ours(golden):
    """In the V1 screen the fit's first component is the one of the higher cosines: upstream's rule calls 118 of 412 genes
    impact, the same fit's posterior about 250; ours is decided by the means."""
    expected = golden_stats(golden, "V1", "mixture_model")
    mean = expected.sort_values("Ensembl_ID").Test_avg_shift.to_numpy()
    fit = GaussianMixture(2, random_state=0).fit(mean[:, None])
    assert fit.means_[0, 0] > fit.means_[1, 0]
    assert expected.Impact_component.sum() == 118
    assert abs((mean < fit.means_[1, 0]).sum() - 118) <= 1  # the cut falls beside a gene, and the CSV's means are rounded
    assert 240 <= (fit.predict(mean[:, None]) == 1).sum() <= 260  # 246 with one version of scikit-learn, 252 with another
    with pytest.warns(RankcellWarning, match="one Gaussian fits the effects as well as two"):
        ours = impact(1 - mean, np.ones(len(mean), bool), is_size=False, seed=0)
    assert ours.impact[1] > ours.none[1]
    order = np.argsort(mean)
    assert (np.diff(ours.posterior[order]) <= 1e-12).all()  # the lower the cosine, the surer


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_aggregate_data(golden, version):
    rows = golden_rows(golden, version, f"{version}_delete_gene1_{MODE[version]}", {"ENSG00000138326": "RPS24"})
    found = geneformer.aggregate_data(rows, SCORE[version])
    assert found.columns.tolist() == ["Cosine_sim", "Gene"] and found.Gene.tolist() == ["RPS24"] * 64
    np.testing.assert_allclose(found.Cosine_sim, pd.read_csv(golden / "stats" / f"{version}_aggregate_data.csv").Cosine_sim, rtol=1e-6)


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_aggregate_gene_shifts(golden, version):
    expected = golden_stats(golden, version, "aggregate_gene_shifts").drop(columns=["Perturbed"])
    name = f"{version}_delete_gene1_{MODE[version]}_and_gene"
    t = golden_case(golden, name)
    single = t[t.affected != "cell_emb"].groupby(["genes", "affected"]).value
    affected = pd.DataFrame({"n": single.size(), "mean_cos": single.mean(), "sd_cos": single.std(ddof=0)}).reset_index()
    symbols = {"ENSG00000138326": "RPS24"} | dict(
        zip(expected.Affected_Ensembl_ID.dropna(), expected.Affected_gene_name.dropna(), strict=True)
    )
    found = geneformer.aggregate_gene_shifts(golden_rows(golden, version, name, symbols), SCORE[version], affected, symbols)
    assert found.columns.tolist() == expected.columns.tolist() and len(found) == len(expected) == 674
    assert found.Affected.iloc[0] == "cell_emb" and expected.Affected.iloc[0] == "cell_emb"
    key = ["Affected_Ensembl_ID"]
    a, b = found.iloc[1:].sort_values(key), expected.iloc[1:].sort_values(key)
    assert (
        a.Affected_Ensembl_ID.tolist() == b.Affected_Ensembl_ID.tolist() and a.Affected_gene_name.tolist() == b.Affected_gene_name.tolist()
    )
    assert a.N_Detections.tolist() == b.N_Detections.tolist() and set(found.Gene_name) == {"RPS24"}
    for column in ("Cosine_sim_mean", "Cosine_sim_stdev"):
        np.testing.assert_allclose(a[column].to_numpy(float), b[column].to_numpy(float), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(float(found[column].iloc[0]), float(expected[column].iloc[0]), rtol=1e-5)
    assert (np.diff(found.Cosine_sim_mean.iloc[1:].to_numpy(float)) >= 0).all()
