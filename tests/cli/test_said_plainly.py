"""Messages that say what is wrong in the reader's words: each fact here was once missing, or said of something else."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from builders import make_adata, make_checkpoint, make_vocab
from flat_options import perturb_df, screen_cells

import rankcell as rc
from rankcell.assess.comparison import Comparison
from rankcell.cli import main
from rankcell.cli.statistics_lines import statistics_lines as report_lines
from rankcell.errors import InputError, OutputError, RankcellError, RankcellWarning, SettingsError, VocabularyError
from rankcell.stats.ranking import Ranking
from rankcell.vocab.published import import_vocab

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def adata():
    counts = np.random.default_rng(0).poisson(3, (8, 12)) + 1
    return make_adata(counts, kind=list("aabbaabb"), nothing=pd.Categorical([None] * 8, ["x"]), some=["x", None] * 4, donor=list("xyxyxyxy"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("models") / "small", make_vocab())


def test_a_dry_run_into_another_runs_folder_is_refused_as_the_run_is(adata, model, tmp_path):
    how = {"model": model, "device": "cpu"}
    screen_cells(adata, tmp_path / "screen", genes=["G1"], **how)
    for dry_run in (True, False):
        with pytest.raises(OutputError, match="holds another run"):
            screen_cells(adata, tmp_path / "screen", genes=["G2"], dry_run=dry_run, **how)
    same = screen_cells(adata, tmp_path / "screen", genes=["G1"], dry_run=True, **how)
    other = screen_cells(adata, tmp_path / "screen", genes=["G2"], dry_run=True, force=True, **how)
    assert type(same).__name__ == type(other).__name__ == "Estimate"


@pytest.mark.parametrize(
    "options, said",
    [
        ({"start": "nothing=x"}, "cell column 'nothing' says nothing about any of the 8 cells"),
        ({"toward": "nothing=x"}, "cell column 'nothing' says nothing about any of the 8 cells"),
        ({"start": "some=y"}, "no cell has some = 'y'; there are x; of 4 of 8 cells it says nothing"),
        ({"start": "kind=c"}, "no cell has kind = 'c'; there are a, b$"),
    ],
)
def test_states_that_no_cell_has(adata, model, options, said):
    with pytest.raises(SettingsError, match=said):
        perturb_df(adata, model, genes="G1", device="cpu", **options)


def test_a_state_of_zeros_is_none(adata, model):
    states = rc.tl.state_embeddings(adata, "kind", model, compute=rc.Compute("cpu"))
    states["mean_layer-2"] = [np.zeros(16, np.float32), states["mean_layer-2"][1]]
    with pytest.raises(SettingsError, match="state 'a' .cell. is zero throughout"):
        perturb_df(adata, model, genes="G1", states=states, device="cpu")


def test_a_screen_against_itself_is_noted(adata, model, tmp_path):
    table = perturb_df(adata, model, out=tmp_path / "screen", device="cpu")
    for one, other in ((table, table), (tmp_path / "screen", tmp_path / "screen")):
        with pytest.warns(RankcellWarning, match="against is this screen itself"):
            ranked = rc.tl.rank_edits(one, mode="vs", against=other)
        assert (ranked.vs_diff.dropna() == 0).all()


def test_few_donors_are_the_reason_that_is_given():
    rng = np.random.default_rng(1)
    edits = [f"g{i}" for i in range(30)]
    rows = pd.DataFrame([(c, e, i) for c in range(9) for i, e in enumerate(edits)], columns=["cell_id", "edit", "rank"])
    rows = rows.astype({"cell_id": str}).assign(kind="delete", genes=rows.edit, n_tokens=40, cos_genes=1 - rng.uniform(0, 0.1, len(rows)))
    rows["donor"] = rows.cell_id.astype(int) % 3
    with pytest.warns(RankcellWarning):
        ranked = rc.tl.rank_edits(rows, donor="donor")
    lines = " ".join(report_lines(Ranking.of(ranked)))
    assert "matched_fdr < 0.05: 0 of 0 edits tested" in lines and "ten edits alike" not in lines and "fewer than 5 donors" in lines


@pytest.mark.parametrize("given", [pd.DataFrame({"a": [1]}), np.ones((2, 2)), None, 3, {"a": 1}])
def test_what_is_no_input_says_what_is(given):
    with pytest.raises(InputError, match=f"of type {type(given).__name__}: anndata.AnnData") as e:
        rc.pp.tokenize(given, make_vocab())
    assert "<class" not in str(e.value) and "\n" not in str(e.value)


def test_totals_as_text_and_infinite_counts(adata):
    wrong = adata.copy()
    wrong.obs["n_counts"] = pd.Categorical(["many"] * 8)
    with pytest.raises(RankcellError, match="'n_counts' holds text, not numbers"):
        rc.pp.tokenize(wrong, make_vocab())
    for value, said in ((np.inf, "an infinite value"), (-1, "a negative value"), (0.5, "a fractional value"), (np.nan, "a NaN value")):
        wrong = adata.copy()
        wrong.X.data[0] = value
        with pytest.raises(RankcellError, match=said):
            rc.pp.tokenize(wrong, make_vocab())


def test_vocabularies_by_name_and_what_is_none(tmp_path):
    for name, said in (("demo", "vocabulary.json is missing; rankcell.vocab.find_vocabulary.'demo'. takes names"), (None, "of type NoneType"), (3, "of type int")):
        with pytest.raises(VocabularyError, match=said):
            rc.Vocabulary.load(name)
    (tmp_path / "t.csv").write_text("cell_id,kind\nc1,a\n")
    with pytest.raises(VocabularyError, match="t.csv is a table or other text, and no dictionary pickle"):
        import_vocab(tmp_path / "v", tokens=tmp_path / "t.csv", medians=tmp_path / "t.csv")


def test_a_note_is_made_once(adata, tmp_path, recwarn):
    one = make_checkpoint(tmp_path / "one", make_vocab(), layers=1)
    rc.tl.embed(adata.copy(), one, compute=rc.Compute("cpu"))
    assert [str(w.message)[:9] for w in recwarn if "one block" in str(w.message)] == ["layer -2 "]


def test_a_comparison_says_how_many_cells_it_scores_and_why_there_is_no_pca():
    row = {"pool": "mean", "layer": -1, "seed": None, "knn_accuracy": 0.5, "knn_sd": 0.1, "over_pca": np.nan, "over_pca_se": np.nan}
    row |= {"over_random": np.nan, "over_random_se": np.nan, "n_cells": 200, "n_rare_label": 9}
    lines = repr(Comparison([{"source": "model"} | row])).splitlines()
    assert lines[0].endswith("191 of 200 cells") and "no PCA beside it: tokens hold no counts" in lines
    both = repr(Comparison([{"source": s} | row | {"n_rare_label": 0} for s in ("model", "PCA")]))
    assert both.splitlines()[0].endswith(", 200 cells") and "no PCA" not in both


def test_the_demo_names_a_wrong_device_before_it_begins(tmp_path, capsys):
    assert main(["demo", "-o", str(tmp_path / "demo"), "--device", "banana"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "banana" in said[0] and not list(tmp_path.iterdir())


def test_labels_carried_over_to_tokens_say_the_way(adata):
    cells = ad.AnnData(obs=pd.DataFrame({"kind": ["a", "b"]}, index=["1", "2"]), obsm={"X_rankcell": np.eye(2)})
    with pytest.raises(InputError, match="got TokenSet: rc.tl.embed_cells makes one of tokens"):
        rc.tl.map_labels(cells, rc.pp.tokenize(adata, make_vocab()), "kind")


@pytest.mark.parametrize("n_counts", [None, 9.0])
def test_a_matrix_in_which_nothing_is_counted(tmp_path, capsys, n_counts):
    nothing = make_adata(np.zeros((5, 12)), **({} if n_counts is None else {"n_counts": [n_counts] * 5}))
    nothing.write_h5ad(tmp_path / "cells.h5ad")
    make_vocab().save(tmp_path / "v")
    assert main(["check", str(tmp_path / "cells.h5ad"), "--vocab", str(tmp_path / "v")]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "nothing is counted: no gene of any cell has a count here" in page and "This will work" not in page and "fine" not in page
    with pytest.warns(RankcellWarning, match="5 of 5 cells have no gene with a count that vocabulary 'small' knows"):
        assert rc.pp.tokenize(nothing, make_vocab()).n_genes.tolist() == [0] * 5
