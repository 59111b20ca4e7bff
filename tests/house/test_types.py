"""The public surface has types: editors complete the lazy names, and mypy agrees with what the signatures say."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rankcell

ROOT = Path(rankcell.__file__).parents[1]


def test_the_stub_names_what_the_front_door_offers():
    stub = ast.parse((ROOT / "rankcell/__init__.pyi").read_text())
    imported = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    declared = {node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)}
    assert imported | declared == set(rankcell.__all__)
    for node in (n for n in stub.body if isinstance(n, ast.ImportFrom)):
        for alias in node.names:
            module = __import__(node.module, fromlist=[alias.name])
            assert getattr(module, alias.name, None) is getattr(rankcell, alias.asname), alias.name


@pytest.fixture(scope="module")
def mypy(tmp_path_factory):
    """Calls mypy with one cache for all; its exit status and output."""

    def call(*paths):
        command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path_factory.getbasetemp() / "mypy"), *map(str, paths)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return run.returncode, run.stdout + run.stderr

    return call


def test_mypy(mypy):
    """pyproject.toml names the files; a return type that is wrong there fails here."""
    status, output = mypy()
    assert status == 0, output


PICTURES = {  # the call with what it must have -> what it returns
    **{f"{name}(1)": "Axes" for name in ("ranked_genes", "volcano", "screen_heatmap", "shift_by_rank", "decomposition")},
    **{f"{name}(1, '')": "Axes" for name in ("affected_genes", "explain_cell")},
    "compare_poolings(pd.DataFrame())": "Axes",
    "rank_bias(pd.DataFrame())": "npt.NDArray[np.object_]",
    "rank_encoding(1, 0)": "Axes | npt.NDArray[np.object_]",
}


def test_what_a_picture_returns_is_known_to_a_caller(mypy, tmp_path):
    """The decorator of public functions keeps their types."""
    imports = ["from typing import assert_type", "import numpy as np", "import numpy.typing as npt", "import pandas as pd"]
    imports += ["from matplotlib.axes import Axes", "import rankcell as rc"]
    caller = tmp_path / "caller.py"
    caller.write_text("\n".join([*imports, *(f"assert_type(rc.pl.{call}, {kind})" for call, kind in PICTURES.items())]))
    assert {call.partition("(")[0] for call in PICTURES} == set(rankcell.pl.__all__)
    status, output = mypy(caller)
    assert status == 0, output
    caller.write_text("\n".join([*imports, "assert_type(rc.pl.volcano(1), int)"]))
    assert mypy(caller)[0] == 1


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "rankcell/py.typed").is_file()
