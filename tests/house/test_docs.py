"""The site and its pages, the README, and what ships beside the package."""

import pathlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest
from builders import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tutorials").glob("*.md"), ROOT / "packaging" / "README.md"])
PAGES = [page for page in PAGES if "_build" not in page.parts]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def blocks(page: pathlib.Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", str(ROOT / "docs"), "-d", str(tmp_path / "trees")]
    built = subprocess.run([*command, str(ROOT), str(tmp_path / "site" / "html")], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    site = tmp_path / "site" / "html"
    assert (site / "index.html").is_file()
    for page in ("docs/glossary", "docs/howto/from_geneformer", "tutorials/04_perturbation_screen", "docs/api/generated/rankcell.tl.perturb"):
        assert (site / f"{page}.html").is_file()
    reference = (site / "docs/api/generated/rankcell.tl.perturb.html").read_text()
    assert "Parameters" in reference and "Returns" in reference and "Raises" in reference
    assert 'id="rankcell.TokenSet.open"' in (site / "docs/api/generated/rankcell.TokenSet.html").read_text()  # methods are on the page of their class


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), target


def test_readme_is_one_screen():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 700
    assert len(re.findall(r"^pip install .*&& *pytest$", text, re.M)) == 1  # what CI runs


def test_glossary_names_places_that_are_there():
    text = (ROOT / "docs" / "glossary.md").read_text()
    places = {p.strip() for line in re.findall(r"^\|.*\|$", text, re.M) for p in re.findall(r"`([a-z_/]+(?:\.py)?)`", line.rsplit("|", 2)[1])}
    places |= {p.rstrip(".") for p in re.findall(r"\*([a-z_]+/[a-z_/]+(?:\.py)?)\.?\*", text)}
    assert len(places) > 20
    for place in places:
        assert any((ROOT / "rankcell" / f"{place}{end}").exists() for end in ("", ".py")), place


def test_every_public_name_is_in_the_reference():
    import rankcell

    text = (ROOT / "docs" / "api" / "index.rst").read_text()
    listed = set(re.findall(r"^   ([\w.]+)$", text, re.M))
    public = {name for name in rankcell.__all__ if name[0].isupper()}
    for counter in ("pp", "tl", "pl", "get"):
        public |= {f"{counter}.{name}" for name in getattr(rankcell, counter).__all__}
    assert public <= listed, public - listed


def test_python_of_the_pages_compiles():
    for page in PAGES:
        for block in blocks(page, "python"):
            compile(block, str(page), "exec")


@pytest.mark.slow
def test_tasks_of_the_skill_run(tmp_path):
    import rankcell as rc

    text = ROOT / "rankcell" / "SKILL.md"
    rc.datasets.pbmc68k()[:120].copy().write_h5ad(tmp_path / "mine.h5ad")
    commands = [line for block in blocks(text, "bash") for line in block.splitlines()]
    assert len(commands) == 7
    for command in commands:
        typed = command.replace("rankcell ", f"{sys.executable} -m rankcell ", 1)
        ran = subprocess.run(typed, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, (command, ran.stderr)
    for name in ("mine.dataset", "embedded.h5ad", "screen/screen.parquet", "ranked.tsv", "report.html"):
        assert (tmp_path / name).exists()


@pytest.mark.slow
def test_wheel_and_sdist_are_sound(tmp_path):
    build = [sys.executable, "-m", "build", "--no-isolation", "-o", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)], check=True, capture_output=True)
    assert {"rankcell/SKILL.md", "rankcell/py.typed"} <= set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        names = {"/".join(name.split("/")[1:]) for name in archive.getnames()}
    assert {"docs/conf.py", "CITATION.cff", "constraints.txt", "tests/conftest.py"} <= names


CONDA_NAMES = {"torch": "pytorch", "isal": "python-isal", "matplotlib": "matplotlib-base"}


def test_conda_recipe_has_the_dependencies_of_the_package():
    recipe = (ROOT / "packaging" / "conda" / "recipe.yaml").read_text()
    run = dict(re.findall(r"^    - ([\w-]+) (\S+)$", recipe.split("  run:\n")[1].split("\ntests:")[0], re.M))
    assert run.pop("python") == PYPROJECT["requires-python"]
    needed = (re.match(r"([\w-]+)(\S+?)(?:;|$)", requirement) for requirement in PYPROJECT["dependencies"])
    assert run == {CONDA_NAMES.get(name := m[1], name): m[2] for m in needed}
    assert f'version: "{PYPROJECT["version"]}"' in recipe


def test_citation_is_of_this_version():
    assert f"version: {PYPROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()


def test_spelling():
    checked = subprocess.run([sys.executable, "-m", "codespell_lib", "."], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
