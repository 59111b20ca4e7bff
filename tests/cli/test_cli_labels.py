"""rankcell compare and rankcell annotate, on real cells with the demo model."""

import pandas as pd
import pytest

import rankcell as rc
from rankcell.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A folder with `known.h5ad` (300 labelled cells) and `new.h5ad` (100 others)."""
    folder = tmp_path_factory.mktemp("cells")
    adata = rc.datasets.pbmc68k()
    adata[:300].copy().write_h5ad(folder / "known.h5ad")
    adata[300:400].copy().write_h5ad(folder / "new.h5ad")
    return folder


def run(capsys, *args):
    code = main([str(a) for a in args])
    return code, *capsys.readouterr()


def test_compare_prints_a_table_that_fits_and_writes_the_whole(cells, tmp_path, capsys):
    words = ["--label", "bulk_labels", "--model", "demo", "--pool", "mean", "--pool", "cls", "--layer", "-2", "--resolution", "0"]
    code, out, err = run(capsys, "compare", cells / "known.h5ad", *words, "-o", tmp_path / "table.tsv")
    assert code == 0, err
    lines = out.splitlines()
    assert max(map(len, lines)) <= 100
    assert any("demo" in line for line in lines[:2]) and any("PCA" in line for line in lines)
    table = pd.read_csv(tmp_path / "table.tsv", sep="\t")
    assert set(table.source) == {"model", "random weights", "PCA"} and len(table) == 5
    assert table.knn_accuracy.is_monotonic_decreasing and table.knn_accuracy.max() > 0.7
    assert "ari" not in table or table.ari.isna().all()
    again = rc.tl.compare_poolings(rc.datasets.pbmc68k()[:300].copy(), "bulk_labels", "demo", pool=["mean", "cls"], layer=-2, scoring=rc.Scoring(resolution=()))
    assert again.knn_accuracy.tolist() == pytest.approx(table.knn_accuracy.tolist())


def test_annotate_carries_labels_over(cells, tmp_path, capsys):
    words = ["--reference", cells / "known.h5ad", "--label", "bulk_labels", "--model", "demo"]
    code, out, err = run(capsys, "annotate", cells / "new.h5ad", *words, "-o", tmp_path / "labels.csv")
    assert code == 0, err
    assert "unsure" in out and str(tmp_path / "labels.csv") in out.splitlines()[-1]
    table = pd.read_csv(tmp_path / "labels.csv", index_col="cell_id")
    truth = rc.datasets.pbmc68k().obs.bulk_labels[300:400].astype(str)
    assert table.index.tolist() == truth.index.tolist()
    sure = table.bulk_labels_mapped != "unsure"
    assert sure.mean() > 0.5 and (table.bulk_labels_mapped[sure] == truth[sure]).mean() > 0.75
    code, _, err = run(
        capsys, "annotate", cells / "new.h5ad", *words, "-o", tmp_path / "all.csv", "--min-confidence", 0, "--max-distance", 1
    )
    assert code == 0 and "unsure" not in set(pd.read_csv(tmp_path / "all.csv").bulk_labels_mapped)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["compare", "known.h5ad", "--label", "bulk_label", "--model", "demo"], "bulk_label"),
        (["compare", "known.h5ad", "--label", "bulk_labels", "--model", "demo", "-o", "t.xlsx"], "t.xlsx"),
        (["compare", "known.h5ad", "--label", "bulk_labels", "--model", "demo", "--pool", "meen"], "meen"),
        (["compare", "nothing.h5ad", "--label", "bulk_labels", "--model", "demo"], "nothing.h5ad"),
        (["compare", "known.h5ad"], "--label is missing"),
        (["annotate", "new.h5ad", "--reference", "known.h5ad", "--label", "cell_type", "-o", "o.csv", "--model", "demo"], "cell_type"),
        (["annotate", "new.h5ad", "--reference", "no.h5ad", "--label", "bulk_labels", "-o", "o.csv", "--model", "demo"], "no.h5ad"),
        (["annotate", "new.h5ad", "--reference", "known.h5ad", "--label", "bulk_labels", "-o", "o.doc", "--model", "demo"], "o.doc"),
        (["annotate", "new.h5ad", "--reference", "known.h5ad", "--label", "bulk_labels", "-o", "new.h5ad", "--model", "demo"], "new.h5ad"),
        (["annotate", "new.h5ad", "--reference", "known.h5ad", "--label", "bulk_labels", "-o", "o.csv", "--min-confidence", "2"], "share"),
    ],
)
def test_mistakes_are_one_line(cells, capsys, monkeypatch, args, says):
    monkeypatch.chdir(cells)
    before = {p.name: p.stat().st_mtime_ns for p in cells.iterdir()}
    code, out, err = run(capsys, *args)
    err = [line for line in err.splitlines() if not line.startswith("rankcell: note: ")]
    assert code == 2 and out == "" and len(err) == 1 and says in err[0]
    assert {p.name: p.stat().st_mtime_ns for p in cells.iterdir()} == before
