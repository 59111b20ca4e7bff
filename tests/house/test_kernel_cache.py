"""Compiled kernels: where they are kept, what damages them, several processes and processors at once; the same tokens everywhere."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from builders import ROOT, make_adata, make_vocab

from rankcell.cli import main

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals")


def environment(**changed):
    """This process' environment without what numba reads from it, and with `changed`; None takes a name out."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "NPY_"))}
    return {k: str(v) for k, v in (kept | changed).items() if v is not None}


# Small kernels of their own

KERNELS = """
import sys
import numpy as np
from rankcell.compiled import compiled

@compiled
def inner(x):
    return x[0] + OFFSET

@compiled
def outer(x):
    return inner(x) + len(x)

before = sys.argv[2:]
exec(before[0] if before else "")
found = outer(np.full(3, 7, sys.argv[1]))
print(int(found), sum(outer.stats.cache_hits.values()) if hasattr(outer, "stats") else "none")
"""


class Small:
    """A script with two kernels, one calling the other, and a cache of its own: outer(x) is 10 + offset."""

    def __init__(self, folder):
        self.script, self.cache = folder / "small.py", folder / "cache"
        self.write(0)

    def write(self, offset):
        self.script.write_text(KERNELS.replace("OFFSET", str(offset)))

    def run(self, dtype="int64", before="", **changed):
        env = environment(PYTHONPATH=ROOT, **({"NUMBA_CACHE_DIR": self.cache} | changed))
        return subprocess.run(
            [sys.executable, str(self.script), dtype, before], capture_output=True, text=True, env=env, timeout=600, check=False
        )

    def result(self, *args, **how):
        """(result, whether the outer kernel came from the cache)"""
        done = self.run(*args, **how)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        return tuple(int(w) for w in done.stdout.split())

    def files(self):
        return sorted(p for p in self.cache.rglob("*") if p.is_file())


@pytest.fixture
def small(tmp_path):
    return Small(tmp_path)


def test_kept_and_found(small):
    assert small.result() == (10, 0)
    assert [p.name.split(".")[1].split("-")[0] for p in small.files()] == ["inner", "outer"]
    before = [(p, p.stat().st_mtime_ns) for p in small.files()]
    assert small.result() == (10, 1)
    assert [(p, p.stat().st_mtime_ns) for p in small.files()] == before
    assert small.result("float32") == (10, 0) and len(small.files()) == 4  # a file for each type
    assert small.result(NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="") == (10, 0) and len(small.files()) == 6  # and processor
    small.write(5)
    assert small.result() == (15, 0) and small.result() == (15, 1)  # and source
    assert small.run(NUMBA_DISABLE_JIT=1).stdout.split() == ["15", "none"]


def empty(path):
    path.write_bytes(b"")


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_its_end(path):
    path.write_bytes(path.read_bytes()[:-1])


def other_bytes(path):
    path.write_bytes(b"\x00\xff" * 500)


def test_damaged_files_are_compiled_again(small):
    small.result()
    for damage in (empty, half, without_its_end, other_bytes):
        for path in small.files():
            damage(path)
        assert small.result() == (10, 0), damage.__name__
    assert small.result() == (10, 1)


KILLED = """
import os, signal
def hook(event, args, left=[STEP]):
    if event == "os.rename" and "/cache" in str(args[0]):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""


@posix
def test_killed_while_a_new_version_is_kept(small):
    """Code of an older source is never taken for that of the present one."""
    kept = small.cache
    small.result()
    small.write(5)
    for step in range(1, 20):  # before each file takes its name
        small.cache = kept.with_name(f"cache{step}")
        shutil.copytree(kept, small.cache)
        done = small.run(before=KILLED.replace("STEP", str(step)))
        if done.returncode == 0:
            break
        assert done.returncode == -9
        assert small.result()[0] == 15
    assert step > 2 and done.stdout.split()[0] == "15"


@posix
def test_a_cache_that_takes_nothing(small):
    """A full disk or a quota of the user's cache folder is no reason to stop."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
    assert small.result(before=limit) == (10, 0) and small.files() == []


@posix
def test_a_cache_folder_that_cannot_be_made(small):
    assert small.result(NUMBA_CACHE_DIR="/dev/null/x", HOME="/dev/null/x", XDG_CACHE_HOME=None)[0] == 10
    shutil.rmtree(small.script.parent / "__pycache__", ignore_errors=True)
    (small.script.parent / "__pycache__").touch()  # root may write everywhere, but not here
    assert small.result(NUMBA_CACHE_DIR=None, HOME="/dev/null/x", XDG_CACHE_HOME=None) == (10, 0)
    assert small.result(NUMBA_CACHE_DIR=None, HOME=small.cache, XDG_CACHE_HOME=None) == (10, 0)
    assert len(small.files()) == 2  # the user's cache folder


# The command


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with counts of many ties (`x.h5ad`, 1,200 cells x 300 genes), few cells (`few.h5ad`) and a vocabulary (`vocab`)."""
    folder = tmp_path_factory.mktemp("given")
    rng = np.random.default_rng(3)
    make_vocab(300, medians=rng.choice([0.7, 1.0, 1.3, 2.9], 300)).save(folder / "vocab")
    x = rng.negative_binomial(0.4, 0.1, (1_200, 300))
    make_adata(x).write_h5ad(folder / "x.h5ad")
    make_adata(x[:25]).write_h5ad(folder / "few.h5ad")
    return folder


def start(given, out, *more, source="x.h5ad", package=ROOT, **changed):
    words = [sys.executable, "-m", "rankcell", "tokenize", given / source, "-o", out, "--vocab", given / "vocab", *more]
    env = environment(PYTHONPATH=package, **changed)
    return subprocess.Popen([str(w) for w in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=out.parent)


def ended(process):
    out, err = process.communicate(timeout=600)
    lines = [line for line in err.splitlines() if not line.startswith("cells tokenized: ")]  # of a slow machine
    assert process.returncode == 0 and lines == [], err
    return out


def rows(out):
    """The bytes of the data files."""
    return b"".join(p.read_bytes() for p in sorted(pathlib.Path(out).glob("data-*.arrow")))


@pytest.fixture(scope="module")
def expected(given):
    assert main([str(w) for w in ("tokenize", given / "x.h5ad", "-o", given / "expected", "--vocab", given / "vocab")]) == 0
    return rows(given / "expected")


def numpy_features():
    """What numpy can do without on this processor."""
    try:
        from numpy._core import _multiarray_umath as core
    except ImportError:
        from numpy.core import _multiarray_umath as core
    return [f for f in core.__cpu_dispatch__ if core.__cpu_features__.get(f)]


def test_four_at_once_on_a_cold_cache_and_other_processors(given, expected, tmp_path):
    """All start at once in one empty folder, two as processors without AVX."""
    cold = {"NUMBA_CACHE_DIR": tmp_path / "cold"}
    plain = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    old = plain | {"NPY_DISABLE_CPU_FEATURES": " ".join(numpy_features())}
    started = [
        start(given, tmp_path / f"out{n}", "--workers", workers, **cold, **changed)
        for n, (workers, changed) in enumerate([(1, {}), (5, {}), (2, plain), (2, old)])
    ]
    for process in started:
        ended(process)
    assert [rows(tmp_path / f"out{n}") == expected for n in range(4)] == [True] * 4
    files = [p for p in (tmp_path / "cold").rglob("*") if p.is_file()]
    assert files and all(p.suffix == ".nbc" for p in files)
    names = {p.name.split(".py")[0] for p in files}
    assert len(files) == 2 * len(names)  # a file a processor, though two wrote each


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers(given, expected, tmp_path, workers):
    words = ("tokenize", given / "x.h5ad", "-o", tmp_path / "out", "--vocab", given / "vocab", "--workers", workers)
    assert main([str(w) for w in words]) == 0 and rows(tmp_path / "out") == expected


def test_without_compiling(given, tmp_path):
    """The kernels as plain Python: the slow truth."""
    ended(start(given, tmp_path / "slow", source="few.h5ad", NUMBA_DISABLE_JIT=1))
    assert main([str(w) for w in ("tokenize", given / "few.h5ad", "-o", tmp_path / "fast", "--vocab", given / "vocab")]) == 0
    assert len(rows(tmp_path / "fast")) > 5_000 and rows(tmp_path / "slow") == rows(tmp_path / "fast")


@posix
def test_a_read_only_installation_of_a_user_without_a_home(given, expected, tmp_path):
    package = tmp_path / "site"
    shutil.copytree(ROOT / "rankcell", package / "rankcell", ignore=shutil.ignore_patterns("__pycache__", "checkpoints"))
    for folder in [p for p in (package / "rankcell").rglob("*") if p.is_dir()]:
        (folder / "__pycache__").touch()  # root may write everywhere, but not here
    nowhere = {"NUMBA_CACHE_DIR": None, "HOME": "/dev/null/x", "XDG_CACHE_HOME": None, "PYTHONDONTWRITEBYTECODE": "1"}
    before = sorted(package.rglob("*"))
    ended(start(given, tmp_path / "out", package=package, **nowhere))
    assert rows(tmp_path / "out") == expected and sorted(package.rglob("*")) == before


# Who may have put it there


@posix
@pytest.mark.parametrize("how", ["mine", "world", "link", "file world", "file group", "file link", "gone", "another's"])
def test_only_what_nobody_else_can_have_written_is_loaded(tmp_path, monkeypatch, how):
    """Compiled code is a pickle, and what is loaded is run."""
    from rankcell import compiled

    folder = tmp_path / "cache"
    folder.mkdir(mode=0o755)
    cache = compiled._OneFileEach(str(folder), "kernel", ("stamp",))
    cache.save("key", (1, 2))
    (kept,) = folder.iterdir()
    assert cache.load("key") == (1, 2)
    if how == "world":
        folder.chmod(0o777)
    elif how == "link":
        folder.rename(tmp_path / "real")
        folder.symlink_to(tmp_path / "real")
    elif how == "file world":
        kept.chmod(0o666)
    elif how == "file group":
        kept.chmod(0o664)
    elif how == "file link":
        kept.rename(tmp_path / "real")
        kept.symlink_to(tmp_path / "real")
    elif how == "gone":
        kept.unlink()
    elif how == "another's":
        monkeypatch.setattr(compiled.os, "geteuid", lambda: 12345)
        real = os.lstat
        monkeypatch.setattr(compiled.os, "lstat", lambda p: os.stat_result((*real(p)[:4], 54321, *real(p)[5:])))
    assert cache.load("key") == ((1, 2) if how == "mine" else None)
    if how in ("world", "link", "another's"):
        cache.save("other", 3)
        assert len([p for p in folder.iterdir()]) == 1


@posix
@pytest.mark.parametrize("mask", [0, 0o002, 0o027, 0o077])
def test_nobody_else_may_write_what_is_kept(small, mask):
    before = os.umask(mask)
    try:
        assert small.result() == (10, 0) and small.result() == (10, 1)
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in small.files()} == {0o644 & ~mask}
    assert not any(p.parent.stat().st_mode & 0o022 for p in small.files())
