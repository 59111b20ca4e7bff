"""A screen as AnnData and as a ranking, against tables made by hand; and the examples of tutorials/SCREENS.md, run as they stand."""

import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from builders import ROOT
from flat_options import perturb_df
from hand_screens import AFFECTED, CELLS, hand_table, write_screen

import rankcell as rc
from rankcell.errors import InputError, OutputError, SettingsError
from rankcell.vocab import find_vocabulary

EDITS = ["delete:A", "delete:B", "delete:C"]


@pytest.fixture
def folder(tmp_path):
    return write_screen(tmp_path / "screen", hand_table(), cells=CELLS, affected=AFFECTED)


@pytest.fixture
def bare(tmp_path):
    """As an earlier version left it: no cells.parquet, no affected genes; a target that no cell has."""
    return write_screen(tmp_path / "bare", hand_table(), symbols={"A": "Alpha", "B": "Beta", "C": "Gamma", "Z": "Zeta"})


def test_edits_by_affected_genes(folder):
    found = rc.get.screen_adata(folder)
    assert found.obs_names.tolist() == EDITS and found.var_names.tolist() == ["A", "B", "C", "D"]
    nan = np.nan
    np.testing.assert_allclose(found.X, [[nan, 0.25, 0.75, 0.5], [0.1, nan, nan, nan], [nan] * 4], rtol=1e-6)
    np.testing.assert_array_equal(found.layers["n"], [[0, 2, 1, 2], [2, 0, 0, 0], [0] * 4])
    np.testing.assert_allclose(found.layers["sd"], [[nan, 0.1, 0, 0.2], [0, nan, nan, nan], [nan] * 4], rtol=1e-6)
    assert found.var["symbol"].tolist() == ["Alpha", "Beta", "Gamma", "D"]
    assert found.obs["symbols"].tolist() == ["Alpha", "Beta", "Gamma"] and found.obs["n_cells"].tolist() == [2, 2, 1]
    np.testing.assert_allclose(found.obs["effect_cos_genes"], [0.375, 0.375, 0.125])
    np.testing.assert_allclose(found.obs["effect_toward_hot_cell"], [0.3, -0.2, 0.3])
    np.testing.assert_allclose(found.obs["mean_rank"], [0.5, 0.5, 2])


def test_edits_by_scores(folder, bare):
    found = rc.get.screen_adata(bare)
    assert found.obs_names.tolist() == [*EDITS, "delete:Z"] and found.obs["n_cells"].tolist() == [2, 2, 1, 0]
    assert found.var_names.tolist() == [c for c in hand_table() if c.startswith(("cos_", "toward_"))]
    np.testing.assert_allclose(found[:, "cos_genes_in_place"].X.ravel(), [0.125, 0.046875, 0.01, np.nan])
    np.testing.assert_allclose(found[:, "toward_cold_cell_in_place"].X.ravel(), [0.05, 0.15, np.nan, np.nan])
    named = rc.get.screen_adata(folder, ["toward_hot_cell", "cos_genes"])  # although it has affected genes
    assert named.var_names.tolist() == ["toward_hot_cell", "cos_genes"] and named.shape == (3, 2)
    assert rc.get.screen_adata(folder, "cos_genes").shape == (3, 1)


def test_cells_by_edits(folder, bare):
    found = rc.get.screen_adata(folder, by="cells")
    assert found.obs_names.tolist() == ["x", "y"] and found.var_names.tolist() == EDITS
    np.testing.assert_allclose(found.X, [[0.125, 0.0625, 0.01], [0.125, 0.03125, np.nan]])
    np.testing.assert_allclose(found.layers["rank"], [[0, 1, 2], [1, 0, np.nan]])
    assert found.obs["cell_type"].tolist() == ["T", "B"] and found.var["symbols"].tolist() == ["Alpha", "Beta", "Gamma"]
    assert found.uns["rankcell"]["score"] == "cos_genes_in_place" and found.uns["rankcell"]["model"] == "small"
    found = rc.get.screen_adata(bare, "toward_hot_cell", by="cells")
    np.testing.assert_allclose(found.X, [[0.2, -0.1, 0.3, np.nan], [0.4, -0.3, np.nan, np.nan]])
    assert found.obs.columns.tolist() == ["n_tokens"]


@pytest.mark.parametrize("by", ["edits", "cells"])
def test_what_is_exported_can_be_written(tmp_path, by):
    """A state's name with a slash in it, which h5ad takes for a path, included."""
    table = hand_table().rename(columns={"toward_hot_cell": "toward_CD4+/CD25 T_cell"})
    folder = write_screen(tmp_path / "s", table, cells=CELLS, affected=AFFECTED)
    found = rc.get.screen_adata(folder, by=by)
    found.write_h5ad(tmp_path / "s.h5ad")
    again = ad.read_h5ad(tmp_path / "s.h5ad")
    np.testing.assert_array_equal(again.X, found.X)
    assert again.obs_names.tolist() == found.obs_names.tolist() and again.uns["rankcell"]["kind"] == "delete"
    if by == "edits":
        assert "effect_toward_CD4+|CD25 T_cell" in again.obs


def test_exports_of_bad_input(folder, tmp_path):
    with pytest.raises(SettingsError, match="by is 'genes'; edits or cells"):
        rc.get.screen_adata(folder, by="genes")
    for by in ("edits", "cells"):
        with pytest.raises(SettingsError, match="no score 'cos_cls'; it has cos_genes, cos_genes_in_place"):
            rc.get.screen_adata(folder, "cos_cls", by=by)
    with pytest.raises(SettingsError, match="hold one score"):
        rc.get.screen_adata(folder, ["cos_genes", "cos_genes_in_place"], by="cells")
    with pytest.raises(InputError, match="no results folder"):
        rc.get.screen_adata(tmp_path / "nothing")
    with pytest.raises(OutputError, match="not a rankcell result"):
        rc.get.screen_adata(tmp_path)


def test_a_screen_of_the_demo_model(tmp_path):
    """A real one: every number is that of the table."""
    adata = rc.datasets.pbmc68k()[:3].copy()
    table = perturb_df(adata, model="demo", genes=["CD74", "HLA-DRA", "LYZ"], affected=True, out=tmp_path / "s")
    cells = rc.get.screen_adata(tmp_path / "s", "cos_cell", by="cells")
    held = table.pivot(index="cell_id", columns="edit", values="cos_cell").reindex(index=cells.obs_names, columns=cells.var_names)
    np.testing.assert_array_equal(cells.X, 1 - held.to_numpy())
    edits = rc.get.screen_adata(tmp_path / "s")
    affected = rc.get.affected_df(tmp_path / "s").pivot(index="edit", columns="affected", values="mean_cos")
    np.testing.assert_allclose(edits.X, 1 - affected.reindex(index=edits.obs_names, columns=edits.var_names).to_numpy(), atol=1e-8)
    assert "CD74" in set(edits.var["symbol"]) and edits.obs["symbols"].tolist() == ["CD74", "HLA-DRA", "LYZ"]


# The ranking


def ranked(**columns):
    table = pd.DataFrame(
        {"edit": list("abcd"), "symbols": ["X", "Y", "X", "Z"], "genes": list("ABCD"), "effect": [0.1, -0.3, -0.2, np.nan]} | columns
    )
    table.attrs["by"] = "toward_hot_cell"
    return table


def test_ranking():
    found = rc.get.ranking(ranked())
    assert found.index.tolist() == ["X", "Y"] and found.tolist() == [-0.2, -0.3]  # of the two X the stronger
    assert found.name == "toward_hot_cell" and found.index.is_unique
    assert rc.get.ranking(ranked(), names="genes").to_dict() == {"A": 0.1, "C": -0.2, "B": -0.3}
    found = rc.get.ranking(ranked(matched_z=[1, 2, 3, 4]), column="matched_z", names="edit")
    assert found.index.tolist() == ["d", "c", "b", "a"] and found.name == "matched_z"
    assert len(rc.get.ranking(ranked(effect=np.nan))) == 0


def test_ranking_of_what_is_none():
    with pytest.raises(SettingsError, match="no column 'z'; it has edit, symbols, genes, effect"):
        rc.get.ranking(ranked(), column="z")
    with pytest.raises(SettingsError, match="'genes' does not hold numbers"):
        rc.get.ranking(ranked(), column="genes")


# The examples of the documentation

TEXT = (ROOT / "tutorials" / "SCREENS.md").read_text()
EXAMPLES = {m["name"]: m["code"] for m in re.finditer(r"<!-- example: (?P<name>\w+) -->\n```python\n(?P<code>.*?)```", TEXT, re.S)}


@pytest.fixture(scope="module")
def screened(tmp_path_factory):
    """A small screen in the place that the examples name: fewer cells than theirs, and the genes that they speak of."""
    where = tmp_path_factory.mktemp("examples")
    adata = rc.datasets.pbmc68k()
    adata = adata[adata.obs["bulk_labels"] == "CD19+ B"][:12].copy()
    genes = [
        "CD79A",
        "CD79B",
        "MS4A1",
        "BLK",
        "BANK1",
        "SPIB",
        "CD37",
        "CD74",
        "HLA-DRA",
        "HLA-DRB1",
        "HLA-DPA1",
        "HLA-DPB1",
        "HLA-DQA1",
        "HLA-DMA",
        "PSMA7",
        "PSMB6",
        "PSMC5",
        "PSMC3",
    ]
    known = set(find_vocabulary("demo").symbols)
    perturb_df(adata, model="demo", genes=[g for g in genes if g in known], affected=True, obs=["bulk_labels"], out=where / "b_cells")
    return where


def test_the_examples_are_found():
    assert set(EXAMPLES) == {"tables", "anndata", "gseapy", "decoupler", "pertpy"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name, screened, monkeypatch):
    if name in ("gseapy", "decoupler", "pertpy"):
        pytest.importorskip(name)
    monkeypatch.chdir(screened)
    names = {}
    exec(EXAMPLES["tables"], names)
    exec(EXAMPLES[name], names)
    assert names["ranked"]["effect"].notna().any()
