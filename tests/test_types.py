"""The public surface has types: editors complete the lazy names, and mypy agrees with what the signatures say."""

import ast
import subprocess
import sys
from pathlib import Path

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


def test_mypy(tmp_path):
    """pyproject.toml names the files; a return type that is wrong there fails here."""
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "rankcell/py.typed").is_file()
