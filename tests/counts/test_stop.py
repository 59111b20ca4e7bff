"""rankcell tokenize stopped, crowded out or refused: kill -9, Ctrl-C and SIGTERM at every moment, full and failing disks, two at once."""

import errno
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import scipy.io
from builders import make_adata, make_vocab

from rankcell.cli import main
from rankcell.errors import OutputError
from rankcell.store import atomic_path, lock, require_apart
from rankcell.tokens import TokenSet, arrow, job

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")
STOPPED = "rankcell: stopped; nothing half-written is left, the same command starts again"


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with counts of three blocks (`a.h5ad`, 2,500 cells), of one (`b.h5ad`, 40, and `c.h5ad`, 150) and a vocabulary (`vocab`)."""
    folder = tmp_path_factory.mktemp("given")
    make_vocab().save(folder / "vocab")
    rng = np.random.default_rng(0)
    for name, n in (("a", 2_500), ("b", 40), ("c", 150)):
        make_adata(rng.poisson(2, (n, 12)) + 1).write_h5ad(folder / f"{name}.h5ad")
    return folder


def command(given, out, *more, source="a.h5ad"):
    return [str(x) for x in ("tokenize", given / source, "-o", out, "--vocab", given / "vocab", "--workers", 2, *more)]


def one_line(text):
    """The only line beside those of progress."""
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("cells tokenized: "))
    assert text.startswith("rankcell: ") and text.count("\n") == 1 and text.endswith("\n"), text
    return text.strip()


def digest(folder):
    """sha256 of the names and bytes in a folder; None when there is none."""
    if not pathlib.Path(folder).exists():
        return None
    h = hashlib.sha256()
    for p in sorted(pathlib.Path(folder).iterdir()):
        h.update(p.name.encode() + b"\0" + p.read_bytes())
    return h.hexdigest()


@pytest.fixture(scope="module")
def whole(given, tmp_path_factory):
    """Digests of undisturbed outputs: {"new": of `c.h5ad`, "old": of it with --max-len 9}, a file for each batch."""
    base = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as m:
        m.setattr(arrow.DatasetWriter.__init__, "__kwdefaults__", {"shard_bytes": 1})
        m.setattr(job, "ROWS_PER_BATCH", 100)
        assert main(command(given, base / "new", source="c.h5ad")) == 0
        assert main(command(given, base / "old", "--max-len", 9, source="c.h5ad")) == 0
    assert len(list((base / "new").glob("data-*-of-00002.arrow"))) == 2
    return {name: digest(base / name) for name in ("new", "old")} | {"old folder": base / "old"}


# At every step: a loaded process forks a child for each step, which sends itself a signal there.

STEPS = """
import contextlib, json, os, shutil, signal, sys, threading
from rankcell.cli import main
from rankcell.store import atomic
from rankcell.tokens import arrow, job
import tests_digest

base, old, number, swap, *command = sys.argv[1:]
number = int(number)
job.ROWS_PER_BATCH = 100
arrow.DatasetWriter.__init__.__kwdefaults__["shard_bytes"] = 1
exchange, fsync = atomic._exchange, os.fsync

def child(out, die_at=None, *more):
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    left = [die_at]
    def step():
        if left[0]:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), number)
    def hook(event, args):  # every change that python makes there, and every file it opens there
        name = str(args[0]) if args else ""
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree") and os.path.dirname(out) in name:
            step()
    def stepping(function):
        def run(*args):
            step()
            try:
                return function(*args)
            finally:
                step()
        return run
    if die_at:
        sys.addaudithook(hook)
    os.fsync = stepping(fsync)
    atomic._exchange = stepping(exchange if swap == "swap" else lambda a, b: False)
    arrow.DatasetWriter.write = stepping(arrow.DatasetWriter.write)
    with open(os.path.join(base, "said"), "w") as said:
        os.dup2(said.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = main([out if c == "OUT" else c for c in command] + list(more))
        sys.stderr.flush()
    os._exit(code)

def look(folder):
    with open(os.path.join(base, "said")) as f:
        said = f.read()
    return {"name": tests_digest.digest(os.path.join(folder, "out")), "left": sorted(os.listdir(folder)), "said": said}

main([os.path.join(base, "warm") if c == "OUT" else c for c in command])
for step in range(1 if old == "none" else 25, 200):  # the first steps are the same with and without an old output
    folder = os.path.join(base, f"step{step}")
    os.mkdir(folder)
    out = os.path.join(folder, "out")
    if old != "none":
        shutil.copytree(old, out)
    code = child(out, step, *["--force"] * (old != "none"))
    found = {"step": step, "code": code, "stopped": look(folder)}
    if code == 0:
        break
    if number == signal.SIGKILL:
        if old == "none" or not os.path.exists(out) or step % 7 == 0:
            found |= {"plain": child(out), "without force": look(folder)}
        if found.get("plain") != 0:
            child(out, None, "--force")
        found["again"] = look(folder)
    print("FOUND", json.dumps(found))
    shutil.rmtree(folder)
"""


def at_every_step(given, base, number, *, old=None, swap=True):
    """Send the signal at each step in turn, and after kill -9 give the same command again: what was found after each."""
    (base / "tests_digest.py").write_text("import hashlib, pathlib\n\n" + _source_of(digest))
    done = subprocess.run(
        [sys.executable, "-c", STEPS, str(base), str(old or "none"), str(int(number)), "swap" if swap else "moves", *command(given, "OUT", source="c.h5ad")],
        capture_output=True, text=True, timeout=600, check=False, env=os.environ | {"PYTHONPATH": str(base)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line.removeprefix("FOUND ")) for line in done.stdout.splitlines() if line.startswith("FOUND ")]


def _source_of(function):
    import inspect

    return inspect.getsource(function)


@posix
@pytest.mark.parametrize("how", ["new", "swap", "moves"])
def test_killed_at_every_step(given, whole, tmp_path, how):
    """kill -9: a new output; a replaced one, by one swap, and by two renames where the system has no swap."""
    old = None if how == "new" else whole["old folder"]
    found = at_every_step(given, tmp_path, signal.SIGKILL, old=old, swap=how != "moves")
    assert len(found) >= (40 if how == "new" else 18)
    names = [f["stopped"]["name"] for f in found]
    for f in found:
        assert f["code"] == -signal.SIGKILL
        nothing = how == "moves" and any(n.endswith(".old") for n in f["stopped"]["left"])  # between the two renames
        allowed = {None, whole["new"]} if how == "new" else {whole["old"], whole["new"], *([None] if nothing else [])}
        assert f["stopped"]["name"] in allowed, f
        first = f.get("without force")  # the plain command: done, or refused because there is an output, which is the one that was there
        if f.get("plain") == 0:
            assert how == "new" and first["name"] == whole["new"]
        elif first:
            assert f["plain"] == 2 and "pass --force to replace it" in one_line(first["said"])
            assert first["name"] == (f["stopped"]["name"] or whole["old"])
        assert f["again"]["name"] == whole["new"] and f["again"]["left"] == ["out"], f
    assert whole["new"] in names and (None if how == "new" else whole["old"]) in names
    assert (None in names) == (how != "swap")


@posix
@pytest.mark.parametrize("how", ["new", "swap", "moves"])
def test_interrupted_at_every_step(given, whole, tmp_path, how):
    """Ctrl-C: one line, exit code 130, and nothing is left beside the output that was there, or the new one."""
    old = None if how == "new" else whole["old folder"]
    found = at_every_step(given, tmp_path, signal.SIGINT, old=old, swap=how != "moves")
    assert len(found) >= (40 if how == "new" else 18)
    before = None if how == "new" else whole["old"]
    for f in found:
        assert f["code"] == 130 and one_line(f["stopped"]["said"]) == STOPPED, f
        assert f["stopped"]["name"] in (before, whole["new"]), f
        beside = [n for n in f["stopped"]["left"] if n != "out"]
        assert beside in ([], [".out.lock"]) and (not beside or f["step"] <= 2), f  # while the lock is taken: an empty file, not held


# In processes of their own


def start(given, out, *more, patch="", source="a.h5ad", sources=(), env=None):
    """The command in a process of its own, after `patch`."""
    code = f"import os, signal, sys, time\n{patch}\nfrom rankcell.cli import main\nsys.exit(main())"
    words = command(given, out, *more, source=source)
    words[2:2] = [str(s) for s in sources]
    return subprocess.Popen(
        [sys.executable, "-u", "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | (env or {})
    )


def stop_after(process, word, number=signal.SIGINT):
    """Send the signal once `word` stands in a line of stdout; (exit code, stderr, seconds that the process took to end)."""
    for line in process.stdout:
        if word in line:
            break
    process.send_signal(number)
    began = time.monotonic()
    _, said = process.communicate(timeout=600)
    return process.returncode, said, time.monotonic() - began


BLOCKS = """
from rankcell.counts.source import CountSource
block = CountSource.block
def slow(self, a, b, **how):
    time.sleep(SECONDS if a else 0)
    print("BLOCK", a)
    return block(self, a, b, **how)
CountSource.block = slow
"""
WRITES = """
from rankcell.tokens.arrow import DatasetWriter
write = DatasetWriter.write
def slow(self, batch):
    write(self, batch)
    print("WRITTEN")
    time.sleep(60)
DatasetWriter.write = slow
"""
SYNCS = """
from rankcell.tokens import arrow
def slow(path):
    print("SYNCING")
    time.sleep(60)
arrow._sync_and_hash = slow
arrow.DatasetWriter.__init__.__kwdefaults__["shard_bytes"] = 1
"""
END = """
def slow(handle):
    print("SYNCING")
    time.sleep(60)
os.fsync = slow
"""


@posix
@pytest.mark.parametrize(
    ("patch", "word"),
    [
        (BLOCKS.replace("SECONDS", "0.3"), "BLOCK 0"),
        (BLOCKS.replace("SECONDS", "60"), "BLOCK 0"),
        (WRITES, "WRITTEN"),
        (SYNCS, "SYNCING"),
        (END, "SYNCING"),
    ],
    ids=["slow blocks", "a block that hangs", "writing", "a background sync that hangs", "the last sync"],
)
def test_ctrl_c(given, tmp_path, patch, word):
    code, said, seconds = stop_after(start(given, tmp_path / "out", patch=patch), word)
    assert (code, one_line(said)) == (130, STOPPED) and seconds < 2
    assert list(tmp_path.iterdir()) == []


@posix
def test_ctrl_c_among_several_inputs(given, tmp_path):
    patch = BLOCKS.replace("SECONDS", "60")
    code, said, seconds = stop_after(start(given, tmp_path / "out", patch=patch, sources=[given / "b.h5ad"]), "BLOCK 0")
    assert (code, one_line(said)) == (130, STOPPED) and seconds < 2
    assert list(tmp_path.iterdir()) == []


AT_IMPORT = """
def hook(event, args):
    if event == "import" and args[0] == "MODULE":
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)
"""


@posix
@pytest.mark.parametrize("module", ["typer", "rankcell.tokens.cells", "pyarrow", "h5py", "rankcell.tokens.rank_kernel"])
def test_ctrl_c_while_it_starts(given, tmp_path, module):
    """While the parser, the job, the libraries and the kernels are loaded."""
    process = start(given, tmp_path / "out", patch=AT_IMPORT.replace("MODULE", module))
    _, said = process.communicate(timeout=600)
    assert process.returncode == 130 and one_line(said).startswith("rankcell: stopped")
    assert list(tmp_path.iterdir()) == []


COMPILES = """
from numba.core import codegen
hook = codegen.CPUCodeLibrary._object_compiled_hook
sent = []
def stop(*args):
    if not sent:
        sent.append(1)
        os.kill(os.getpid(), signal.SIGINT)
    return hook(*args)
codegen.CPUCodeLibrary._object_compiled_hook = codegen.JITCodeLibrary._object_compiled_hook = stop
"""


@posix
def test_ctrl_c_in_a_callback_of_the_compiler(given, tmp_path):
    """An exception there is lost; the interrupt must not come there."""
    cold = {"NUMBA_CACHE_DIR": str(tmp_path / "cold")}
    process = start(given, tmp_path / "out", patch=COMPILES, env=cold)
    _, said = process.communicate(timeout=600)
    assert (process.returncode, one_line(said)) == (130, STOPPED)
    assert [p.name for p in tmp_path.iterdir()] == ["cold"]


@posix
def test_terminated_and_killed_as_a_command(given, tmp_path):
    """SIGTERM and SIGHUP clear up as Ctrl-C does; SIGKILL leaves no output, and the next run clears up after it."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        slow = start(given, tmp_path / "out", patch=BLOCKS.replace("SECONDS", "60"))
        code, said, _ = stop_after(slow, "BLOCK 0", number)
        assert (code, one_line(said)) == (128 + number, STOPPED) and list(tmp_path.iterdir()) == []
    slow = start(given, tmp_path / "out", patch=BLOCKS.replace("SECONDS", "60"))
    code, said, _ = stop_after(slow, "BLOCK 0", signal.SIGKILL)
    assert code == -signal.SIGKILL and said == "" and not (tmp_path / "out").exists()
    assert any(p.name.startswith(".out.part-") for p in tmp_path.iterdir())
    assert main(command(given, tmp_path / "out")) == 0
    assert main(command(given, tmp_path / "undisturbed")) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "undisturbed"]
    assert digest(tmp_path / "out") == digest(tmp_path / "undisturbed")


# Two at once


@posix
@pytest.mark.parametrize("force", [[], ["--force"]], ids=["plain", "force"])
def test_the_second_is_refused(given, tmp_path, capsys, force):
    patch = BLOCKS.replace(
        "time.sleep(SECONDS if a else 0)", f"\n    while a and not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)"
    )
    first = start(given, tmp_path / "out", *force, patch=patch)
    assert "BLOCK 0" in first.stdout.readline()
    assert main(command(given, tmp_path / "out", *force)) == 2
    assert "another process is writing to" in one_line(capsys.readouterr().err)
    (tmp_path / "go").touch()
    _, said = first.communicate(timeout=600)
    assert first.returncode == 0 and all(line.startswith("cells tokenized: ") for line in said.splitlines())  # it had to wait: there may be lines
    assert len(TokenSet.open(tmp_path / "out")) == 2_500 and sorted(p.name for p in tmp_path.iterdir()) == ["go", "out"]


def test_a_lock_of_the_dead_is_none(given, tmp_path):
    (tmp_path / ".out.lock").touch()
    assert main(command(given, tmp_path / "out", source="b.h5ad")) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_parts_of_this_very_number(given, tmp_path):
    """In a container the next process often has the number of the killed one: under the lock it is no other's."""
    import platform

    for name in (f".out.part-{platform.node() or 'here'}-{os.getpid()}-abc123", f".out.part-{platform.node() or 'here'}-1-abc123"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data-00000.arrow").touch()
    assert main(command(given, tmp_path / "out", source="b.h5ad")) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_filesystem_without_locks(given, tmp_path, monkeypatch, capsys):
    """Some cluster filesystems have none: not to be taken for another process."""
    fcntl = pytest.importorskip("fcntl")

    def none(handle, how):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", none)
    assert main(command(given, tmp_path / "out", source="b.h5ad")) == 0
    with lock.locked_name(tmp_path / "x") as is_held:
        assert not is_held
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and capsys.readouterr().err == ""


RACE = """
import os, sys
from rankcell.cli import main

base, force, *command = sys.argv[1:]
def words(out, *more):
    return [out if c == "OUT" else c for c in command] + list(more)
main(words(os.path.join(base, "warm")))
for n in range(10):
    folder = os.path.join(base, f"race{n}")
    os.mkdir(folder)
    wait, go = os.pipe()
    pids = []
    for k in range(2):
        pid = os.fork()
        if not pid:
            os.close(go)
            os.dup2(os.open(f"{base}/said{n}{k}", os.O_WRONLY | os.O_CREAT), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.read(wait, 1)
            code = main(words(os.path.join(folder, "out"), *["--force"] * (force == "force")))
            sys.stderr.flush()
            os._exit(code)
        pids.append(pid)
    os.close(wait)
    os.close(go)
    print("RACE", *[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])
"""


@posix
@pytest.mark.parametrize("force", ["plain", "force"])
def test_two_at_the_same_moment(given, tmp_path, force):
    done = subprocess.run(
        [sys.executable, "-c", RACE, str(tmp_path), force, *command(given, "OUT")], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    codes = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("RACE")]
    assert len(codes) == 10
    for n, ended in enumerate(codes):
        assert sorted(ended) == ["0", "2"] or (force == "force" and ended == ["0", "0"])  # one after the other
        for k, code in enumerate(ended):
            said = (tmp_path / f"said{n}{k}").read_text()
            assert said == "" if code == "0" else any(w in one_line(said) for w in ("another process", "exists: choose"))
        assert [p.name for p in (tmp_path / f"race{n}").iterdir()] == ["out"]
        assert digest(tmp_path / f"race{n}" / "out") == digest(tmp_path / "warm")


# Disks


@pytest.fixture
def mounted(tmp_path):
    """`mounted(options)`: a small filesystem of its own, where that is permitted."""
    made = []

    def mount(options):
        place = tmp_path / f"disk{len(made)}"
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("may not mount a filesystem here")
        made.append(place)
        return place

    if not shutil.which("mount"):
        pytest.skip("no mount command")
    yield mount
    for place in made:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("size", ["4k", "48k", "100k", "nr_inodes=4"])
def test_full_disk(given, mounted, capsys, size):
    """Not even one page; a part of the rows; nearly all; no room for another file."""
    disk = mounted(f"size={size}" if size[0].isdigit() else size)
    assert main(command(given, disk / "out")) == 2
    assert "the disk is full" in one_line(capsys.readouterr().err)
    assert list(disk.iterdir()) == []


def test_full_disk_under_an_output_that_stays(given, mounted, capsys):
    disk = mounted("size=64k")
    assert main(command(given, disk / "out", source="b.h5ad")) == 0
    before = digest(disk / "out")
    capsys.readouterr()
    assert main(command(given, disk / "out", "--force")) == 2
    assert "the disk is full" in one_line(capsys.readouterr().err)
    assert digest(disk / "out") == before and [p.name for p in disk.iterdir()] == ["out"]


@posix
def test_a_limit_on_file_sizes(given, tmp_path):
    """pyarrow's own error, without a filesystem of one's own."""
    patch = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    process = start(given, tmp_path / "out", patch=patch)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 2 and f"{tmp_path / 'out'} cannot be written" in one_line(said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["first file", "last file", "all files", "folder"])
def test_a_disk_that_fails_at_sync(given, tmp_path, monkeypatch, capsys, where):
    """EIO in the background while later files are written, at the last file, before the rename, after it."""
    monkeypatch.setattr(arrow.DatasetWriter.__init__, "__kwdefaults__", {"shard_bytes": 1})
    real, calls, written = os.fsync, [], []
    failing = {"first file": 1, "last file": 3, "all files": 4, "folder": 11}[where]

    def fsync(handle):
        calls.append(handle)
        if len(calls) == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(handle)

    write = arrow.DatasetWriter.write

    def slow(self, batch):
        time.sleep(0.1)  # the background has been heard of
        written.append(len(batch))
        write(self, batch)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(arrow.DatasetWriter, "write", slow)
    assert main(command(given, tmp_path / "out")) == 2
    assert one_line(capsys.readouterr().err) == f"rankcell: {tmp_path / 'out'} cannot be written: Input/output error"
    assert len(written) == 3
    left = [p.name for p in tmp_path.iterdir()]
    assert left == (["out"] if where == "folder" else [])  # after the rename the output is whole, if perhaps not for long


def test_an_old_output_comes_back_when_the_new_one_cannot_take_its_name(tmp_path, monkeypatch):
    from rankcell.store import atomic

    monkeypatch.setattr(atomic, "_exchange", lambda a, b: False)
    rename = pathlib.Path.rename

    def fail(self, target):
        if self.name.startswith(".out.part-") and not self.name.endswith(".old"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", fail)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mark").write_text("old")
    with pytest.raises(OutputError, match="Input/output error"), atomic_path(tmp_path / "out", force=True, marker="mark") as part:
        part.mkdir()
        (part / "mark").write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and (tmp_path / "out" / "mark").read_text() == "old"


# Outputs that would harm an input, or cannot be


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def refused(given, folder, capsys, out, *more, source, says):
    before = contents(folder)
    capsys.readouterr()
    for force in ([], ["--force"]):
        assert main(command(given, out, *force, *more, source=source)) == 2
        line = one_line(capsys.readouterr().err)
    assert says in line and contents(folder) == before


@pytest.fixture
def matrix_folder(tmp_path):
    """A 10x matrix folder with 5 cells."""
    folder = tmp_path / "mtx"
    folder.mkdir()
    scipy.io.mmwrite(folder / "matrix.mtx", make_adata(np.ones((5, 12))).X.T.astype(int))
    (folder / "barcodes.tsv").write_text("".join(f"cell{i}\n" for i in range(5)))
    (folder / "features.tsv").write_text("".join(f"ENSG{i:011d}\tG{i}\tGene Expression\n" for i in range(12)))
    return folder


def test_output_and_matrix_folder(given, tmp_path, capsys, matrix_folder):
    refused(given, tmp_path, capsys, matrix_folder / "out", source=matrix_folder, says="lies inside the input")
    refused(given, tmp_path, capsys, matrix_folder, source=matrix_folder, says="is the input")
    (tmp_path / "link").symlink_to(matrix_folder)
    refused(given, tmp_path, capsys, tmp_path / "link" / "out", source=matrix_folder, says="lies inside the input")
    refused(given, tmp_path, capsys, matrix_folder / "out", source=tmp_path / "link", says="lies inside the input")
    assert main(command(given, tmp_path / "beside", source=matrix_folder)) == 0


def test_output_and_zarr(given, tmp_path, capsys):
    pytest.importorskip("zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata and zarr on formats to come
        make_adata(np.ones((5, 12))).write_zarr(tmp_path / "x.zarr")
    refused(given, tmp_path, capsys, tmp_path / "x.zarr" / "out", source=tmp_path / "x.zarr", says="lies inside the input")
    refused(given, tmp_path, capsys, tmp_path / "x.zarr" / "X" / "out", source=tmp_path / "x.zarr", says="lies inside the input")


def test_input_inside_the_output(given, tmp_path, capsys, matrix_folder):
    """--force would remove the input with the earlier output around it."""
    out = tmp_path / "out"
    assert main(command(given, out, source="b.h5ad")) == 0
    shutil.copy(given / "b.h5ad", out / "mine.h5ad")
    shutil.copytree(matrix_folder, out / "deep" / "mtx")
    for source in (out / "mine.h5ad", out / "deep" / "mtx"):
        before = contents(tmp_path)
        capsys.readouterr()
        assert main(command(given, out, "--force", source=source)) == 2
        assert "holds the input" in one_line(capsys.readouterr().err) and contents(tmp_path) == before
    (tmp_path / "link").symlink_to(out)
    assert main(command(given, tmp_path / "link", "--force", source=out / "mine.h5ad")) == 2
    assert "holds the input" in one_line(capsys.readouterr().err)
    with pytest.raises(OutputError, match="is the input"):
        require_apart(tmp_path / "link", [None, out])
    require_apart(tmp_path / "outer", [out, tmp_path / "out2" / "x"])


def test_outputs_that_cannot_be(given, mounted, tmp_path, capsys):
    disk = mounted("size=64k")
    (disk / "kept").write_text("x")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    refused(given, disk, capsys, disk / "out", source="b.h5ad", says=f"the folder {disk} cannot be written to")
    refused(given, tmp_path, capsys, "/proc/out", source="b.h5ad", says="the folder /proc cannot be written to")
    refused(given, tmp_path, capsys, tmp_path / "no" / "out", source="b.h5ad", says="does not exist: make it first")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    refused(given, tmp_path, capsys, tmp_path / "nowhere", source="b.h5ad", says="is a link to nothing")


def test_a_link_to_an_output_is_neither_replaced_nor_followed(given, tmp_path, capsys):
    assert main(command(given, tmp_path / "real", source="b.h5ad")) == 0
    (tmp_path / "link").symlink_to(tmp_path / "real")
    refused(given, tmp_path, capsys, tmp_path / "link", "--max-len", 9, source="b.h5ad", says=f"is a link to {tmp_path / 'real'}")
    assert (tmp_path / "link").is_symlink() and sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]
