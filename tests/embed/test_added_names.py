"""Names of what a verb adds: nothing of the user's is replaced, and nothing is added under an empty name."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from builders import make_adata, make_checkpoint, make_vocab
from flat_options import call

import rankcell as rc
from rankcell.assess.annotate import annotate
from rankcell.cli import main
from rankcell.cli.annotate import label_lines
from rankcell.errors import CellError, RankcellWarning, SettingsError

pytestmark = pytest.mark.usefixtures("one_thread")
LOOSE = {"k": 1, "min_confidence": 0, "max_distance": 1}


def placed(x, prefix="c", **obs):
    adata = ad.AnnData(np.zeros((len(x), 1), np.float32), obs=pd.DataFrame(obs, index=[f"{prefix}{i}" for i in range(len(x))]))
    adata.obsm["X_rankcell"] = np.asarray(x, float)
    return adata


@pytest.fixture
def cells():
    return placed([[1.0, 0.1], [0.1, 1.0]], prefix="q", kind=["x", "y"], n_counts=[5, 6])


@pytest.fixture
def reference():
    return placed([[1.0, 0.0], [0.0, 1.0], [1.0, 0.2], [0.2, 1.0]], kind=["a", "b", "a", "b"])


@pytest.mark.parametrize("name", ["kind", "n_counts", "", " ", "guess"])
def test_labels_replace_no_column_of_the_users(cells, reference, name):
    if name == "guess":  # the column of the confidence would be replaced
        cells.obs["guess_confidence"] = 7
    before = cells.obs.copy()
    with pytest.raises((CellError, SettingsError), match="already, which the result would replace|a name that is not empty") as e:
        call(rc.tl.map_labels, cells, reference, "kind", key_added=name, **LOOSE)
    assert "key_added" in str(e.value) and "\n" not in str(e.value) and cells.obs.equals(before)


def test_labels_replace_their_own(cells, reference):
    for x in ([[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.1], [0.1, 1.0]]):
        cells.obsm["X_rankcell"] = np.array(x)
        call(rc.tl.map_labels, cells, reference, "kind", **LOOSE)
    assert cells.obs.kind_mapped.tolist() == ["a", "b"] and cells.obs.kind.tolist() == ["x", "y"]


@pytest.mark.parametrize(
    "out, name", [("t.csv", "cell_id"), ("t.parquet", "cell_id"), ("t.h5ad", "n_counts"), ("t.h5ad", "kind"), ("t.h5ad", "_index"), ("t.h5ad", "a/b"), ("t.h5ad", ""), ("t.tsv", "")]
)
def test_annotate_replaces_nothing(cells, reference, tmp_path, capsys, monkeypatch, out, name):
    monkeypatch.chdir(tmp_path)
    cells.write_h5ad("cells.h5ad")
    reference.write_h5ad("reference.h5ad")
    command = ["annotate", "cells.h5ad", "--reference", "reference.h5ad", "--label", "kind", "-o", out, "--k", "1"]
    assert main([*command, "--key-added", name]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "--key-added" in said[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cells.h5ad", "reference.h5ad"]
    assert main([*command, "--key-added", "guess"]) == 0
    if out == "t.h5ad":
        assert ad.read_h5ad(out).obs.columns.tolist() == ["kind", "n_counts", "guess", "guess_confidence", "guess_distance"]
        assert main(["annotate", "t.h5ad", *command[2:6], "-o", "again.h5ad", "--k", "1", "--key-added", "guess"]) == 0


def test_embeddings_replace_their_own_and_no_others(tmp_path):
    adata = make_adata(np.random.default_rng(0).poisson(3, (5, 12)) + 1)
    model = make_checkpoint(tmp_path / "small", make_vocab())
    pca = adata.obsm["X_pca"] = np.ones((5, 2), np.float32)
    adata.obsm["X_mine_cls_layer-1"] = pca
    for how in ({"key_added": "X_pca"}, {"key_added": "X_mine", "pool": ["mean", "cls"], "layer": -1}):
        with pytest.raises(CellError, match="adata.obsm has '.*' already"):
            call(rc.tl.embed, adata, model, device="cpu", **how)
    assert set(adata.obsm) == {"X_pca", "X_mine_cls_layer-1"} and (adata.obsm["X_pca"] == pca).all() and "rankcell" not in adata.uns
    for pool in ("mean", "cls"):
        rc.tl.embed(adata, model, key_added="X_own", pool=pool, compute=rc.Compute("cpu"))
        assert adata.uns["rankcell"]["outputs"]["X_own"]["pool"] == pool
    rc.tl.embed(adata, model, key_added="X_pca_2", compute=rc.Compute("cpu"))


# What the reference is


def test_reference_cells_are_those_with_a_label(cells, reference, tmp_path):
    reference.obs["kind"] = ["a", "b", None, "b"]
    reference.write_h5ad(tmp_path / "reference.h5ad")
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.warns(RankcellWarning, match="1 of 4 reference cells lack a label"):
        done = call(annotate, tmp_path / "cells.h5ad", tmp_path / "reference.h5ad", tmp_path / "t.csv", label="kind", **LOOSE)
    assert label_lines(done)[0] == "2 of 2 cells labelled from 3 reference cells: a 1, b 1"


def test_cells_that_are_in_the_reference_too_are_counted(reference):
    cells = placed([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])  # ids c0, c1 and c2: c2 has another embedding than there
    with pytest.warns(RankcellWarning, match="2 of 3 cells are in the reference too"):
        call(rc.tl.map_labels, cells, reference, "kind", **LOOSE)
    assert cells.obs.kind_mapped.tolist()[:2] == ["a", "b"]
    cells = placed([[1.0, 0.0], [0.0, 1.0]], prefix="other")
    call(rc.tl.map_labels, cells, reference, "kind", **LOOSE)  # other cells of the same place: no warning


@pytest.mark.parametrize(
    "labels, k, said",
    [
        (["a", None, None, None], 1, "the reference has 1 cell with a label and an embedding: at least 2"),
        ([None] * 4, 1, "the reference has 0 cells"),
        (["a", "b", "a", None], 3, "k is 3 and the reference has 3 cells .* at most 2"),
        (["a", "b", "a", "b"], 4, "at most 3"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*reference cells lack a label:rankcell.errors.RankcellWarning")
def test_a_reference_too_small_is_said(cells, reference, labels, k, said):
    reference.obs["kind"] = pd.Categorical(labels, ["a", "b"])
    with pytest.raises(SettingsError, match=said):
        rc.tl.map_labels(cells, reference, "kind", mapping=rc.LabelMapping(k=k))
    assert "kind_mapped" not in cells.obs


def test_annotate_says_before_the_model_runs_what_the_reference_lacks(tmp_path, monkeypatch):
    adata = make_adata(np.random.default_rng(0).poisson(3, (6, 12)) + 1, kind=list("ababab"), empty=[""] * 6)
    model = make_checkpoint(tmp_path / "small", make_vocab())
    adata.write_h5ad(tmp_path / "cells.h5ad")
    rc.pp.tokenize(adata, make_vocab(), obs=["kind", "empty"]).save(tmp_path / "reference.dataset")

    def runs(*a, **k):
        raise AssertionError("the model runs")

    monkeypatch.setattr(rc.Embedder, "embed", runs)
    for change, error, said in (
        ({"label": "phase"}, CellError, "carry no cell column 'phase' .they have: kind, empty"),
        ({"label": "kind", "k": 6}, SettingsError, "k is 6 and the reference has 6 cells"),
    ):
        with pytest.raises(error, match=said):
            call(annotate, tmp_path / "cells.h5ad", tmp_path / "reference.dataset", tmp_path / "t.csv", model=model, **change)


def test_options_that_would_be_ignored_are_refused(cells, reference, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    reference.write_h5ad(tmp_path / "reference.h5ad")
    for change in ({"key": "X_pca", "model": "demo"}, {"pool": "cls"}, {"layer": -1}, {"vocab": "demo"}, {"counts_layer": "raw"}, {"raw": True}):
        with pytest.raises(SettingsError, match="leave "):
            call(annotate, tmp_path / "cells.h5ad", tmp_path / "reference.h5ad", tmp_path / "t.csv", label="kind", k=1, **change)
    assert not (tmp_path / "t.csv").exists()
