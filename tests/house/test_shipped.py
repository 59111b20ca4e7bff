"""What ships: the demo checkpoint and its vocabulary, the demo, the tutorial, the command reference, the wheel."""

import json
import pathlib
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from builders import ROOT
from flat_options import write_stats

import rankcell
from rankcell.model import open_checkpoint
from rankcell.vocab import find_vocabulary


def test_demo_model_and_demo_vocabulary_are_one():
    assert open_checkpoint("demo").vocab == find_vocabulary("demo") == find_vocabulary("pbmc68k")


def test_the_demos_folder_does_not_hide_its_model(tmp_path, monkeypatch):
    """`rankcell demo -o demo` makes a folder of this name."""
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("demo").folder == pathlib.Path(rankcell.__file__).parent / "checkpoints" / "demo"


def test_demo_checkpoint_is_small_and_better_than_the_baselines():
    checkpoint = open_checkpoint("demo")
    assert (checkpoint.folder / "model.safetensors").stat().st_size <= 3_000_000
    facts = json.loads((checkpoint.folder / "training.json").read_text())
    for baseline in facts["baselines"].values():
        assert facts["heldout"]["top1"] > baseline["top1"] and facts["heldout"]["top10"] > baseline["top10"]


def test_demo_figures_are_what_the_checkpoint_gives():
    """The held-out accuracy in training.json, asked again with the same questions."""
    import rankcell as rc
    from rankcell.model.heads import load_masked_lm
    from rankcell.train.evaluate import baseline_accuracy, masked_accuracy, masked_examples
    from rankcell.train.pretraining import split_cells

    checkpoint = open_checkpoint("demo")
    facts = json.loads((checkpoint.folder / "training.json").read_text())
    tokens = rc.pp.tokenize(rc.datasets.pbmc68k(), vocab=checkpoint.vocab)
    train, held = split_cells(tokens, facts["recipe"]["holdout"], facts["recipe"]["seed"])
    assert [tokens.cell_ids[i] for i in held] == facts["heldout_cells"]
    asked = masked_examples([tokens.row(i) for i in held], tokens.frame, mask=1, mask_rate=0.15, draws=5, seed=facts["recipe"]["seed"] + 1)
    found = masked_accuracy(load_masked_lm(checkpoint), asked, pad=0, device="cpu")
    for key in ("top1", "top10"):
        assert found[key] == pytest.approx(facts["heldout"][key], abs=2e-3)
    again = baseline_accuracy([tokens.row(i) for i in train], asked, tokens.frame, pad=checkpoint.vocab.pad, n_ids=checkpoint.vocab.n_ids)
    told = {
        name: {key: again[name][key] for key in figures} for name, figures in facts["baselines"].items()
    }  # the card has no loss of theirs
    assert told == facts["baselines"] and again.keys() == facts["baselines"].keys()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    from rankcell.demo import run_demo

    seen = []
    page = run_demo(tmp_path_factory.mktemp("demo") / "out", device="cpu", progress=lambda done, total: seen.append(done))
    assert seen == sorted(seen) and seen[-1] == 100
    return page.parent


def test_demo_writes_what_it_says(demo):
    from rankcell.tokens import TokenSet
    from rankcell.vocab import Vocabulary

    names = {p.name for p in demo.iterdir()}
    assert names == {
        "pbmc68k.h5ad", "vocabulary", "tokens.dataset", "embeddings.h5ad", "b_to_monocyte", "monocyte_to_b",
        "ranked_b_to_monocyte.csv", "ranked_monocyte_to_b.csv", "umap.png", "ranked_genes.png", "report.html",
        "ranked_b_to_monocyte.csv.json", "ranked_monocyte_to_b.csv.json",
    }  # fmt: skip
    assert Vocabulary.load(demo / "vocabulary") == find_vocabulary("demo")
    assert len(TokenSet.open(demo / "tokens.dataset")) == 700
    import anndata as ad

    adata = ad.read_h5ad(demo / "embeddings.h5ad")
    for pool in ("mean", "cls", "first"):
        assert np.isfinite(adata.obsm[f"X_rankcell_{pool}_layer-2"]).all() and adata.obsm[f"X_umap_{pool}"].shape == (700, 2)


def test_demo_writes_its_rankings_as_stats_does(demo, tmp_path):
    """The table, and beside it what the table cannot say."""
    import json

    import rankcell as rc

    score = "toward_CD14+ Monocyte_cell_in_place"
    write_stats(demo / "b_to_monocyte", tmp_path / "t.csv", score=score)
    saved = demo / "ranked_b_to_monocyte.csv"
    assert saved.read_text() == (tmp_path / "t.csv").read_text()
    beside = [json.loads((p.parent / f"{p.name}.json").read_text()) for p in (saved, tmp_path / "t.csv")]
    assert beside[1].pop("screen").endswith("b_to_monocyte") and beside[0] == beside[1]
    assert beside[0]["by"] == score and "toy" in beside[0]["model_note"]
    assert "toy" in rc.pl.ranked_genes(saved).get_title(loc="left").split("\n")[0]


def test_demo_screens_are_the_cells_and_genes_that_the_page_names(demo):
    from rankcell import get

    table = get.screen_df(demo / "b_to_monocyte")
    assert table.cell_id.nunique() == 25
    assert (table.groupby("genes").size() >= 5).all()  # a fifth of 25 cells
    assert table.filter(like="toward_").columns.tolist()[:2] == ["toward_CD14+ Monocyte_cell", "toward_CD14+ Monocyte_cell_in_place"]


def test_demo_in_place_score_names_biology_and_the_plain_score_the_rank(demo):
    """What the page claims: in place, monocytes lose monocyte genes to move toward B cells; the plain shift follows the rank."""
    from rankcell import get
    from rankcell.stats import rank_edits, rank_spearman

    table = get.screen_df(demo / "monocyte_to_b")
    ranked = rank_edits(table, score="toward_CD19+ B_cell_in_place")
    top = set(ranked[ranked.n_cells >= 5].head(40).symbols)
    assert (
        len(top & {"CTSS", "FTL", "PSAP", "IFITM3", "LST1", "TYROBP", "FCER1G", "AIF1", "S100A8", "S100A9", "LYZ", "CST3", "FCN1", "CFD"})
        >= 4
    )
    assert abs(rank_spearman(table, "cos_genes")) > abs(rank_spearman(table, "cos_genes_in_place"))


def test_demo_page_stands_alone(demo):
    page = (demo / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r"(src|href)=[\"']?(https?:|/|file:)", page) and "<script" not in page
    assert "now with your own file" in page.lower() and "rankcell perturb" in page
    assert 'name="viewport"' in page


def test_tutorial_runs_and_is_shown_with_its_outputs():
    import nbformat
    from nbclient import NotebookClient

    path = ROOT / "tutorials" / "01_from_counts_to_screen.ipynb"
    notebook = nbformat.read(path, as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert sum(bool(c.outputs) for c in code) >= len(code) - 2
    assert sum("image/png" in o.get("data", {}) for c in code for o in c.outputs) >= 3
    NotebookClient(notebook, timeout=900, kernel_name="python3").execute()


def test_tokenize_tutorial_prints_what_it_shows(monkeypatch, tmp_path):
    import os

    import nbformat
    from nbclient import NotebookClient

    def printed(notebook):
        """What each cell leaves on the screen: bars, which a slow machine shows, are taken off again."""
        cells = (c for c in notebook.cells if c.cell_type == "code")
        texts = ("".join(o["text"] for o in c.outputs if o.get("name") == "stdout") for c in cells)
        return [re.sub(r"\r[^\r\n]*\d %[^\r\n]*(\r?\n)?", "", t).replace("\r\n", "\n") for t in texts]

    path = ROOT / "tutorials" / "02_tokenize_anything.ipynb"
    shown = nbformat.read(path, as_version=4)
    assert sum("image/png" in o.get("data", {}) for c in shown.cells if c.cell_type == "code" for o in c.outputs) == 1
    monkeypatch.setenv("PATH", os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]))
    again = nbformat.read(path, as_version=4)
    NotebookClient(again, timeout=900, kernel_name="python3").execute(cwd=str(tmp_path))
    assert printed(again) == printed(shown) and "exit code 2" in "".join(printed(shown))


def test_embedding_tutorial_runs_and_is_shown_with_its_outputs(monkeypatch, tmp_path):
    """Its figures are those of one machine: another's clusters may differ in the last digit."""
    import os

    import nbformat
    from nbclient import NotebookClient

    path = ROOT / "tutorials" / "03_embeddings_in_scanpy.ipynb"
    notebook = nbformat.read(path, as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert sum("image/png" in o.get("data", {}) for c in code for o in c.outputs) >= 3
    assert not any(o.get("name") == "stderr" or o.output_type == "error" for c in code for o in c.outputs)
    monkeypatch.setenv("PATH", os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]))
    NotebookClient(notebook, timeout=1800, kernel_name="python3").execute(cwd=str(tmp_path))


def test_tutorial_04_runs(tmp_path, monkeypatch):
    """A small screen from a checkout's notebook: it was saved with its outputs, and runs."""
    import os

    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "tutorials" / "04_perturbation_screen.ipynb", as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert sum("image/png" in o.get("data", {}) for c in code for o in c.outputs) >= 5
    assert not any(o.get("name") == "stderr" or o.output_type == "error" for c in code for o in c.outputs)
    monkeypatch.setenv("PATH", os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]))
    NotebookClient(notebook, timeout=900, kernel_name="python3").execute(cwd=str(tmp_path))
    assert (tmp_path / "report.html").stat().st_size > 100_000 and (tmp_path / "screen.tsv").is_file()


def test_tutorial_of_the_fast_screen(tmp_path, monkeypatch):
    """Both ways beside each other, from a checkout's notebook: it was saved with its outputs, runs, and still tells the same."""
    import os

    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "tutorials" / "05_fast_screen.ipynb", as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert any("image/png" in o.get("data", {}) for c in code for o in c.outputs)
    assert not any(o.get("name") == "stderr" or o.output_type == "error" for c in code for o in c.outputs)
    monkeypatch.setenv("PATH", os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]))
    NotebookClient(notebook, timeout=900, kernel_name="python3").execute(cwd=str(tmp_path))
    said = "".join(o.get("text", "") for c in code for o in c.outputs)
    follows = float(re.search(r"mean effects with the exact screen's: (\S+)", said)[1])
    assert follows > 0.98
    drawn, spearman = re.search(r"of (\d+) drawn at random predicted and exact interaction have Spearman (\S+)", said).groups()
    assert int(drawn) >= 20 and float(spearman) > 0.5


def test_command_reference_is_fresh():
    made = subprocess.run([sys.executable, "-m", "rankcell.cli.reference"], capture_output=True, text=True, check=True).stdout
    assert made == (ROOT / "tutorials" / "COMMANDS.md").read_text(), "run: python -m rankcell.cli.reference > tutorials/COMMANDS.md"


def test_wheel_carries_dictionaries_and_the_demo_checkpoint(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "rankcell/tokenizer_dicts/pbmc68k/genes.tsv",
        "rankcell/tokenizer_dicts/pbmc68k.symbols.tsv",
        "rankcell/tokenizer_dicts/geneformer-v1.recipe.json",
        "rankcell/tokenizer_dicts/geneformer-v2.recipe.json",
        "rankcell/checkpoints/demo/model.safetensors",
        "rankcell/checkpoints/demo/README.md",
        "rankcell/checkpoints/demo/vocabulary/vocabulary.json",
    ):
        assert name in names
    assert not any(pathlib.PurePath(n).parts[0] == "tests" for n in names)


def test_no_path_of_a_machine_and_no_golden_file_in_the_project():
    pattern = re.compile(r"/(work|root|home)/\w+|/tmp/\w+/dev")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if files.returncode:
        pytest.skip("not a git checkout")
    for name in files.stdout.split():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ".json", ".ipynb", ".tsv"} and path != pathlib.Path(__file__):
            assert not pattern.search(path.read_text()), name
