"""Labels with 'unsure', comparisons that fit a screen, and both from files to files."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from builders import make_adata, make_checkpoint, make_vocab
from flat_options import call

import rankcell as rc
from rankcell.assess.annotate import annotate
from rankcell.assess.compare_cells import compare_cells
from rankcell.cli.annotate import label_lines
from rankcell.cli.main import main
from rankcell.errors import CellError, InputError, OutputError, RankcellWarning, SettingsError

pytestmark = pytest.mark.usefixtures("one_thread")


def placed(x, **obs):
    adata = ad.AnnData(np.zeros((len(x), 1), np.float32), obs=pd.DataFrame(obs, index=[f"c{i}" for i in range(len(x))]))
    adata.obsm["X_rankcell"] = np.asarray(x, float)
    return adata


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("models") / "small", make_vocab())


@pytest.fixture(scope="module")
def counted():
    rng = np.random.default_rng(0)
    kind = np.tile(["a", "b"], 30)
    return make_adata(rng.poisson(np.where((kind == "a")[:, None] == (np.arange(12) < 6), 9, 1)), kind=kind)


def test_unsure_where_neighbours_disagree_or_are_far():
    reference = placed([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]], kind=["a", "a", "a", "b", "b", "b"])
    adata = placed([[0.9], [2.5], [40.0]])
    rc.tl.map_labels(adata, reference, "kind", mapping=rc.LabelMapping(k=2, metric="euclidean"))  # few are unsure: no note
    assert adata.obs.kind_mapped.tolist() == ["a", "b", "unsure"] or adata.obs.kind_mapped.tolist() == ["a", "a", "unsure"]
    assert adata.obs.kind_mapped_confidence.tolist() == [1, 0.5, 1] and adata.obs.kind_mapped_distance.iloc[2] == 1
    with pytest.warns(RankcellWarning, match=r"2 of 3 cells \(67%\) are 'unsure': fewer than 60% .*rc.LabelMapping\(min_confidence=0\) and rc.LabelMapping\(max_distance=1\)"):
        rc.tl.map_labels(adata, reference, "kind", mapping=rc.LabelMapping(k=2, metric="euclidean", min_confidence=0.6))
    assert adata.obs.kind_mapped.tolist() == ["a", "unsure", "unsure"] and adata.obs.kind_mapped.cat.categories.tolist() == [
        "a",
        "b",
        "unsure",
    ]
    rc.tl.map_labels(adata, reference, "kind", mapping=rc.LabelMapping(k=2, metric="euclidean", min_confidence=0, max_distance=1))
    assert adata.obs.kind_mapped.iloc[2] == "b" and adata.obs.kind_mapped.cat.categories.tolist() == ["a", "b"]


@pytest.mark.parametrize("wrong", [{"min_confidence": 1.5}, {"max_distance": -0.1}, {"min_confidence": float("nan")}])
def test_shares_are_shares(wrong):
    with pytest.raises(SettingsError, match="a share, 0 to 1"):
        call(rc.tl.map_labels, placed([[0.0]]), placed([[0.0], [1.0]], kind=["a", "b"]), "kind", k=1, **wrong)


def test_a_label_called_unsure_and_numbers_as_labels():
    reference = placed([[0.0], [1.0], [9.0]], kind=[1, 1, 2])
    adata = placed([[0.5], [500.0]])
    rc.tl.map_labels(adata, reference, "kind", mapping=rc.LabelMapping(k=2, metric="euclidean"))
    assert adata.obs.kind_mapped.astype(str).tolist() == ["1", "unsure"]


def test_a_note_where_more_than_half_are_unsure():
    """Of the cells that have an embedding."""
    reference = placed([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]], kind=["a", "a", "a", "b", "b", "b"])
    far, near, without = [90.0], [0.9], [np.nan]
    how = {"k": 2, "metric": "euclidean"}
    call(rc.tl.map_labels, placed([far, near, far, near]), reference, "kind", **how)  # a half: no note
    for cells, says in (([far, near, far], "2 of 3 cells .67%"), ([far, without, without], "1 of 1 cells .100%")):
        with pytest.warns(RankcellWarning, match=f"{says}. are 'unsure'"):
            call(rc.tl.map_labels, placed(cells), reference, "kind", **how)
    call(rc.tl.map_labels, placed([far, far]), reference, "kind", **how, min_confidence=0, max_distance=1)  # none is unsure


def test_annotate_notes_it_too(files, counted, small, capsys):
    from rankcell.cli import main

    words = ["annotate", files / "cells.h5ad", "--reference", files / "reference.h5ad", "--label", "kind", "--model", small[1], "--k", 5]
    words += ["--device", "cpu", "-o"]
    assert main([str(w) for w in [*words, files / "few.csv"]]) == 0
    out, err = capsys.readouterr()
    n = (pd.read_csv(files / "few.csv").kind_mapped == "unsure").sum()
    assert 0 <= n <= 15 and f"{n} unsure\n" in out and "unsure" not in err
    assert main([str(w) for w in [*words, files / "many.csv", "--max-distance", 0.01, "--min-confidence", 1]]) == 0
    out, err = capsys.readouterr()
    n = (pd.read_csv(files / "many.csv").kind_mapped == "unsure").sum()
    assert n > 15 and f"{n} unsure\n" in out and f"{n} of 30 cells" in err and "--min-confidence 0 and --max-distance 1 label every cell" in err


@pytest.fixture()
def files(counted, tmp_path):
    counted[:30].copy().write_h5ad(tmp_path / "cells.h5ad")
    counted[30:].copy().write_h5ad(tmp_path / "reference.h5ad")
    return tmp_path


def test_annotate_from_counts_to_a_table_and_to_a_copy(files, counted, model):
    before = (files / "cells.h5ad").read_bytes()
    options = {"label": "kind", "model": model, "k": 5, "device": "cpu"}
    done = call(annotate, files / "cells.h5ad", files / "reference.h5ad", files / "labels.tsv", **options)
    table = pd.read_csv(files / "labels.tsv", sep="\t", dtype={"cell_id": str})
    assert table.columns.tolist() == ["cell_id", "kind_mapped", "kind_mapped_confidence", "kind_mapped_distance"]
    assert table.cell_id.tolist() == counted.obs_names[:30].tolist() and table.kind_mapped.tolist() == done.table.kind_mapped.tolist()
    # the same as in memory
    parts = [counted[:30].copy(), counted[30:].copy()]
    for part in parts:
        rc.tl.embed(part, model, compute=rc.Compute("cpu"))
    rc.tl.map_labels(parts[0], parts[1], "kind", mapping=rc.LabelMapping(k=5, min_confidence=0, max_distance=1))
    sure = table.kind_mapped != "unsure"
    assert sure.sum() > 20 and (table.kind_mapped[sure].to_numpy() == parts[0].obs.kind_mapped[sure.to_numpy()].to_numpy()).all()
    np.testing.assert_allclose(table.kind_mapped_distance, parts[0].obs.kind_mapped_distance)
    lines = label_lines(done)
    assert any(f"{int((~sure).sum())} unsure" in line for line in lines) and f"{int(sure.sum())} of 30 cells labelled" in lines[0]
    # a copy with the columns added, the input untouched
    call(annotate, files / "cells.h5ad", files / "reference.h5ad", files / "out.h5ad", key_added="guess", **options)
    written = ad.read_h5ad(files / "out.h5ad")
    assert written.obs.columns.tolist() == ["kind", "guess", "guess_confidence", "guess_distance"]
    assert written.obs.guess.astype(str).tolist() == table.kind_mapped.tolist() and (written.X != counted[:30].X).nnz == 0
    assert (files / "cells.h5ad").read_bytes() == before


def test_annotate_takes_what_is_embedded_and_embeds_the_other_alike(files, counted, model):
    reference = counted[30:].copy()
    rc.tl.embed(reference, model, pool="cls", layer=-1, compute=rc.Compute("cpu"))
    reference.write_h5ad(files / "embedded.h5ad")
    done = call(annotate, files / "cells.h5ad", files / "embedded.h5ad", files / "a.csv", label="kind", model=model, pool="cls", layer=-1, k=5, device="cpu")
    cells = counted[:30].copy()
    rc.tl.embed(cells, model, pool="cls", layer=-1, compute=rc.Compute("cpu"))
    cells.write_h5ad(files / "both.h5ad")
    alone = call(annotate, files / "both.h5ad", files / "embedded.h5ad", files / "b.csv", label="kind", k=5)
    np.testing.assert_allclose(alone.table.kind_mapped_distance, done.table.kind_mapped_distance)
    assert alone.table.kind_mapped.tolist() == done.table.kind_mapped.tolist()


def test_annotate_tokens_that_carry_the_label(files, counted, model):
    rc.pp.tokenize(counted[30:], vocab=make_vocab(), obs=["kind"]).save(files / "reference.dataset")
    done = call(annotate, files / "cells.h5ad", files / "reference.dataset", files / "a.parquet", label="kind", model=model, k=5, device="cpu")
    assert set(done.table.kind_mapped.astype(str)) <= {"a", "b", "unsure"} and len(pd.read_parquet(files / "a.parquet")) == 30


@pytest.mark.parametrize(
    ("change", "error", "line"),
    [
        ({"label": "kinds"}, CellError, "'kinds'"),
        ({"source": "nowhere.h5ad"}, InputError, "no such file"),
        ({"reference": "nowhere.h5ad"}, InputError, "no such file"),
        ({"out": "labels.xlsx"}, OutputError, "the suffix says how the labels are written"),
        ({"out": "cells.h5ad", "force": True}, OutputError, "is the input"),
        ({"model": None}, (SettingsError, rc.errors.ModelError), "no model was named"),
        ({"k": 0}, SettingsError, "k is 0"),
        ({"k": 30}, SettingsError, "k is 30"),
        ({"metric": "l1"}, SettingsError, "metric is l1; one of cosine, euclidean"),
    ],
)
def test_annotate_is_refused_in_one_line(files, model, change, error, line, monkeypatch):
    monkeypatch.chdir(files)
    given = {
        "source": "cells.h5ad",
        "reference": "reference.h5ad",
        "out": "labels.csv",
        "label": "kind",
        "model": model,
        "device": "cpu",
    } | change
    there = sorted(p.name for p in files.iterdir())
    with pytest.raises(error, match=line) as refused:
        call(annotate, given.pop("source"), given.pop("reference"), given.pop("out"), **given)
    assert "\n" not in str(refused.value) and sorted(p.name for p in files.iterdir()) == there


# Comparisons


def test_a_comparison_fits_a_screen_and_keeps_its_columns(counted, model, tmp_path):
    table = rc.tl.compare_poolings(counted, "kind", model, pool=["mean", "cls"], n_random=2, scoring=rc.Scoring(k=5, folds=3, resolution=()), compute=rc.Compute("cpu"))
    lines = repr(table).splitlines()
    assert max(map(len, lines)) <= 100 and len(lines) == 3 + 9  # 2 poolings x 2 layers of the model and of random weights, and PCA
    accuracy = [float(line[30:].split()[0]) for line in lines[2:-1] if line.startswith("model")]
    assert (
        accuracy
        == sorted(accuracy, reverse=True)
        == sorted((round(x, 3) for x in table[table.source == "model"].knn_accuracy), reverse=True)
    )
    best = table[table.source == "model"].iloc[0]
    row = next(line for line in lines if line.startswith("model  "))
    assert best.pool in row and f"{best.knn_accuracy:.3f} ± {best.knn_sd / np.sqrt(3):.3f}" in row
    assert {"width", "seed", "silhouette", "n_cells"} <= set(table) and "<pre>" in table._repr_html_()
    assert type(table.head()) is pd.DataFrame and type(table[["pool", "knn_accuracy"]]) is pd.DataFrame and table.copy().equals(table)
    table.attrs["model_note"] = "a toy"
    assert repr(table).splitlines()[0] == "a toy"


def test_compare_from_a_file_to_a_file(counted, model, tmp_path, capsys):
    counted.write_h5ad(tmp_path / "cells.h5ad")
    options = {"pool": "mean", "layer": -1, "k": 5, "folds": 3, "resolution": (), "device": "cpu"}
    words = ["--pool", "mean", "--layer", "-1", "--k", "5", "--folds", "3", "--resolution", "0", "--device", "cpu", "--model", str(model)]
    command = ["compare", str(tmp_path / "cells.h5ad"), "--label", "kind", "-o", str(tmp_path / "table.csv"), *words]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    table = call(compare_cells, tmp_path / "cells.h5ad", "kind", model=model, **options)
    assert pd.read_csv(tmp_path / "table.csv").knn_accuracy.tolist() == pytest.approx(table.knn_accuracy.tolist())
    assert table.equals(call(rc.tl.compare_poolings, counted, "kind", model, **options)) and lines[:-1] == repr(table).splitlines()
    assert main(command) == 2 and "exists" in capsys.readouterr().err


def test_tokens_have_no_pca_beside_them(counted, model, tmp_path):
    rc.pp.tokenize(counted, vocab=make_vocab(), obs=["kind"]).save(tmp_path / "cells.dataset")
    table = call(compare_cells, tmp_path / "cells.dataset", "kind", model=model, pool="mean", layer=-1, k=5, folds=3, resolution=(), device="cpu")
    assert table.source.tolist() == ["model", "random weights"] or table.source.tolist() == ["random weights", "model"]
    assert table.over_pca.isna().all() and table.over_random.notna().any() and "\nPCA" not in repr(table)
    with pytest.raises(CellError, match="'batch'"):
        call(compare_cells, tmp_path / "cells.dataset", "kind", model=model, batch="batch")


def test_the_model_is_that_of_the_embedding_or_named(counted, model):
    with pytest.raises((SettingsError, rc.errors.ModelError), match="no model was named: model"):
        rc.tl.compare_poolings(counted, "kind")
    cells = counted.copy()
    rc.tl.embed(cells, model, compute=rc.Compute("cpu"))
    cells.uns["rankcell"].pop("model_source", None)
    with pytest.raises((SettingsError, rc.errors.ModelError), match="small"):  # whose folder is not known
        rc.tl.rank_bias(cells)
