"""knn_accuracy of labels as people have them, and resolutions and layers in any form."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from builders import make_adata, make_checkpoint, make_vocab
from flat_options import call

import rankcell as rc
from rankcell.assess import Scoring, knn_accuracy
from rankcell.errors import CellError, RankcellError, RankcellWarning, SettingsError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(0)
    centres = np.repeat([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], 20, axis=0)
    return centres + rng.normal(0, 0.5, centres.shape), np.repeat(["a", "b"], 20).astype(object)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_cells_without_a_label_are_left_out(points, missing):
    x, labels = points
    known = np.arange(40) % 4 != 0
    holed = pd.Series(labels).where(pd.Series(known), missing)
    alone = knn_accuracy(x[known], labels[known], k=3)
    assert 0.5 < alone < 1
    for form in (holed, holed.tolist(), holed.astype("category"), holed.to_numpy()):
        assert knn_accuracy(x, form, k=3) == alone
    adata = make_adata(np.ones((40, 2)), kind=holed.astype("category").to_numpy())
    adata.obsm["X"] = x
    assert rc.tl.score_embedding(adata, "kind", key="X", scoring=rc.Scoring(k=3, resolution=0)).knn_accuracy.item() == alone


def test_rare_labels_are_left_out_with_a_warning(points):
    x, labels = points
    labels = labels.copy()
    labels[:2] = "rare"
    with pytest.warns(RankcellWarning, match="2 cells have a label 'label' with fewer than 5 cells"):
        assert knn_accuracy(x, labels, k=3) == knn_accuracy(x[2:], labels[2:], k=3)


def test_forms_that_are_meant_are_taken(points):
    x, labels = points
    expected = knn_accuracy(x, labels, k=3)
    for form in (x.tolist(), pd.DataFrame(x), sp.csr_matrix(x)):
        assert knn_accuracy(form, list(labels), k="3", folds=5.0) == expected


@pytest.mark.parametrize(
    "change, said",
    [
        ({"labels": None}, "labels is None"),
        ({"labels": ["a", "b"] * 19 + ["a"]}, "39 labels for 40 cells"),
        ({"labels": "kind"}, "labels is 'kind'"),
        ({"labels": 3}, "labels is 3"),
        ({"labels": {"a": 1}}, "labels is {'a': 1}"),
        ({"labels": np.zeros((40, 2))}, "labels is "),
        ({"labels": [None] * 40}, "missing in all 40 cells"),
        ({"labels": ["a"] * 40}, "at least two labels"),
        ({"labels": list(range(40))}, "40 values and 0 of them"),
        ({"x": None}, "the embedding is"),
        ({"x": np.zeros(40)}, "of shape .40,."),
        ({"x": np.full((40, 2), "a")}, "the embedding is <U1"),
        ({"x": [[1], [2, 3]]}, "the embedding is"),
        ({"k": 0}, "k is 0"),
        ({"folds": 1}, "folds is 1"),
        ({"k": "x"}, "k is 'x'"),
        ({"metric": "nearness"}, "unknown metric 'nearness'"),
    ],
)
def test_everything_else_is_one_line(points, change, said):
    with pytest.raises(RankcellError, match=said) as e:
        knn_accuracy(**({"x": points[0], "labels": points[1]} | change))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "given, taken", [(0, ()), ((), ()), (None, ()), ([0], ()), (0.5, (0.5,)), ("0.5", (0.5,)), (np.float32(2), (2.0,)), ([0.5, "1"], (0.5, 1.0))]
)
def test_resolutions_in_any_form(given, taken):
    pytest.importorskip("igraph")
    assert Scoring(resolution=given).resolution == taken


@pytest.mark.parametrize("given", ["fine", -1, [0.5, 0], [0.5, None], float("nan"), float("inf"), True, [[0.5]]])
def test_resolutions_that_are_none(given):
    with pytest.raises(SettingsError, match="resolution is .*a number above 0") as e:
        Scoring(resolution=given)
    assert "\n" not in str(e.value)


def test_layers_and_resolutions_reach_the_comparison(tmp_path):
    adata = make_adata(np.random.default_rng(0).poisson(3, (12, 12)) + 1, kind=list("abcabcabcabc"))
    model = make_checkpoint(tmp_path / "small", make_vocab())
    how = {"pool": "mean", "k": 2, "folds": 2, "device": "cpu"}
    tables = [call(rc.tl.compare_poolings, adata, "kind", model, resolution=r, layer=n, **how) for r, n in ((0, "-1"), ((), -1), (0, -1.0))]
    assert all(t.equals(tables[0]) for t in tables) and "ari" not in tables[0]
    for wrong in (-1.5, "last", None, [0.5]):
        with pytest.raises(SettingsError, match="layer is "):
            rc.tl.rank_bias(adata, model, layer=wrong, compute=rc.Compute("cpu"))
    with pytest.raises((SettingsError, CellError), match="resolution is"):
        call(rc.tl.compare_poolings, adata, "kind", model, resolution=-1, **how)
