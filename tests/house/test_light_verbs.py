"""Verbs that run no model load neither torch nor transformers; the rooms that run one import where little is installed."""

import json
import subprocess
import sys

import pytest
from builders import make_adata

MODEL_LIBRARIES = ("torch", "transformers", "accelerate", "safetensors")
READING_LIBRARIES = ("anndata", "scanpy", "datasets", "loompy", "zarr")


def in_child(code):
    """What the last line of the output of `code` holds, as JSON, in an interpreter of its own."""
    process = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def run_verb(*words):
    """(exit code, which of MODEL_LIBRARIES are loaded afterwards)"""
    code = "import json, sys\nfrom rankcell.cli import main\n"
    code += f"status = main({[str(word) for word in words]!r})\n"
    return tuple(in_child(f"{code}print(json.dumps([status, [m for m in {MODEL_LIBRARIES!r} if m in sys.modules]]))"))


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory):
    """A count file, its vocabulary, and a finished screen of it."""
    import rankcell as rc

    vocab, model = small
    folder = tmp_path_factory.mktemp("light")
    counts = [[(3 * cell + 5 * gene) % 7 + 1 for gene in range(12)] for cell in range(4)]
    adata = make_adata(counts, kind=["a", "a", "b", "b"])
    adata.write_h5ad(folder / "counts.h5ad")
    vocab.save(folder / "vocabulary")
    rc.tl.perturb(adata, rc.Delete(), model=model, out=folder / "screen", compute=rc.Compute("cpu"))
    return folder


def test_a_verb_that_runs_a_model_loads_torch(folder, small, tmp_path):
    status, loaded = run_verb("embed", folder / "counts.h5ad", "--model", small[1], "--device", "cpu", "-o", tmp_path / "e.parquet")
    assert status == 0 and "torch" in loaded


@pytest.mark.parametrize(
    "words",
    [
        ("check", "counts.h5ad", "--model", "demo"),
        ("check", "counts.h5ad", "--vocab", "vocabulary"),
        ("tokenize", "counts.h5ad", "--vocab", "vocabulary", "-o", "new.dataset"),
        ("stats", "screen", "-o", "new.tsv"),
        ("plot", "screen", "-o", "new.html"),
    ],
    ids=lambda words: " ".join(words[:1] + words[2:3]),
)
def test_a_verb_that_runs_no_model_does_not(words, folder, tmp_path):
    paths = {name: folder / name for name in ("counts.h5ad", "vocabulary", "screen")}
    status, loaded = run_verb(*(tmp_path / word if word.startswith("new.") else paths.get(word, word) for word in words))
    assert loaded == [] and status in ((0, 2) if words[0] == "check" else (0,))


def test_reading_a_screen_loads_no_torch(folder):
    code = f"import json, sys\nimport rankcell as rc\nscreen = rc.Screen({str(folder / 'screen')!r})\nscreen.df(), screen.rank()\n"
    assert in_child(f"{code}print(json.dumps([m for m in {MODEL_LIBRARIES!r} if m in sys.modules]))") == []


def test_rooms_that_run_models_import_where_nothing_reads_counts():
    code = f"import importlib, json, pkgutil, sys\nsys.modules.update(dict.fromkeys({READING_LIBRARIES!r}))\n"
    code += (
        "names = []\n"
        "for room in ('model', 'embed', 'perturb', 'train'):\n"
        "    package = importlib.import_module(f'rankcell.{room}')\n"
        "    names += [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + '.')]\n"
        "for name in names:\n"
        "    importlib.import_module(name)\n"
    )
    assert in_child(f"{code}print(json.dumps(len(names)))") > 80
