"""Atomic writes: whole or absent; what a killed process left is swept; a live one's work is not touched."""

import errno
import os
import platform
import re
import subprocess
import sys

import pytest

from rankcell.errors import OutputError
from rankcell.store import LOCK, ShardedRun, atomic_path, locked, require_new
from rankcell.store.lock import locked_name
from rankcell.store.own import foreign, remove_own


def test_failure_leaves_what_was_there(tmp_path):
    out = tmp_path / "a.txt"
    out.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(out, force=True) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert out.read_text() == "old" and list(tmp_path.iterdir()) == [out]


def test_folder_replaces_folder(tmp_path):
    out = tmp_path / "d"
    for content in ("one", "two"):
        with atomic_path(out, force=True, marker="mark") as part:
            part.mkdir()
            (part / "mark").write_text(content)
    assert (out / "mark").read_text() == "two" and [p.name for p in out.iterdir()] == ["mark"] and list(tmp_path.iterdir()) == [out]


def test_refusals(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(OutputError, match="force=True"):
        require_new(tmp_path / "a")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for marker, says in ((None, "is a folder"), ("mark", "holds something else")):
        with pytest.raises(OutputError, match=says):
            require_new(tmp_path / "mine", force=True, marker=marker)
    with pytest.raises(OutputError, match="is a file"):
        require_new(tmp_path / "a", force=True, marker="mark")
    with pytest.raises(OutputError, match="does not exist"):
        require_new(tmp_path / "b" / "c")
    with pytest.raises(OutputError, match="disk is full"), atomic_path(tmp_path / "b"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_sweeps_after_the_dead_and_only_them(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead = tmp_path / f".a.part-{platform.node() or 'here'}-{gone.pid}-abc123"
    alive = tmp_path / f".a.part-{platform.node() or 'here'}-{os.getppid()}-abc123"
    elsewhere = tmp_path / f".a.part-another-machine-{gone.pid}-abc123"
    for p in (dead, alive, elsewhere):
        p.mkdir()
    with atomic_path(tmp_path / "a") as part:
        part.write_text("x")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["a", alive.name, elsewhere.name])


def test_second_writer_is_refused(tmp_path):
    with locked(tmp_path):
        code = f"from rankcell.store import locked\nwith locked({str(tmp_path)!r}): pass"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "another process is writing" in done.stderr
    with locked(tmp_path):
        pass


def test_a_folder_with_something_of_others_is_never_replaced(tmp_path):
    """Neither by what writes the folder anew, nor by a run that empties it; links are somebody's too."""
    own = ("mark", "data-*.arrow", "sub/*.txt")
    for name in ("thesis.tex", "sub/deep/x.txt", ".hidden", "data-1.arrow.bak"):
        out = tmp_path / name.replace("/", "_")
        (out / name).parent.mkdir(parents=True)
        (out / "mark").touch()
        (out / "data-0.arrow").touch()
        (out / name).write_text("mine")
        with (
            pytest.raises(OutputError, match=re.escape(f"holds {name}, which rankcell did not write")),
            atomic_path(out, force=True, marker="mark", own=own),
        ):
            raise AssertionError
        (out / "manifest.json").write_text('{"fingerprint": "x", "settings": {}}')
        with pytest.raises(OutputError, match="which rankcell did not write"):
            ShardedRun.open(out, {"a": 1}, force=True, own=own)
        assert (out / name).read_text() == "mine"
    (tmp_path / "run").mkdir()
    run = ShardedRun.open(tmp_path / "run", {"a": 1}, own=own)
    (tmp_path / "run" / "mark").touch()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(OutputError, match="is a link to"):
        ShardedRun.open(tmp_path / "link", {"a": 2}, force=True, own=own)
    (tmp_path / "run" / "shards" / "screen-000000.parquet").symlink_to(tmp_path / "run" / "mark")
    (tmp_path / "run" / "sub").symlink_to(tmp_path)
    with pytest.raises(OutputError, match="holds sub, which"):
        ShardedRun.open(tmp_path / "run", {"a": 2}, force=True, own=own)
    (tmp_path / "run" / "sub").unlink()
    (tmp_path / "run" / "shards" / "screen-000000.parquet").unlink()
    assert ShardedRun.open(tmp_path / "run", {"a": 2}, force=True, own=own).manifest["settings"] == {"a": 2} != run.manifest["settings"]
    assert not (tmp_path / "run" / "mark").exists()


def test_written_files_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "a") as part:
            part.write_text("x")
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path):
    victim, out = tmp_path / "victim.txt", tmp_path / "out"
    victim.write_text("somebody's")
    (tmp_path / ".out.lock").symlink_to(victim)
    with pytest.raises(OutputError, match="is a link, which rankcell did not make"), locked_name(out):
        pass
    (tmp_path / LOCK).symlink_to(victim)
    with pytest.raises(OutputError, match="is a link"), locked(tmp_path):
        pass
    assert victim.read_text() == "somebody's"


def test_a_file_in_place_of_a_lock_keeps_its_bytes(tmp_path):
    (tmp_path / LOCK).write_text("somebody's")
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text() == "somebody's"


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_is_being_written_is_where_nobody_else_may_enter(tmp_path, is_folder):
    """And its name cannot be foretold, so that no link can wait there."""
    homes = set()
    for _ in range(2):
        with atomic_path(tmp_path / "out", force=True, marker="mark" if is_folder else None) as part:
            state = os.lstat(part.parent)
            assert state.st_mode & 0o777 == 0o700 and state.st_uid == os.getuid() and part.parent.parent == tmp_path
            homes.add(part.parent.name.rpartition("-")[2])
            if is_folder:
                part.mkdir(mode=0o777)
            (part / "mark" if is_folder else part).write_text("x")
            os.chmod(part, 0o700 if is_folder else 0o600)  # some libraries do
    assert len(homes) == 2 and all(len(name) >= 16 for name in homes)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    (tmp_path / "new").mkdir()
    assert (tmp_path / "out").stat().st_mode & 0o777 == (tmp_path / "new").stat().st_mode & (0o777 if is_folder else 0o666)


@pytest.mark.parametrize("kind", ["link", "old link", "another's", "old of another", "other name"])
def test_what_somebody_left_under_a_temporary_name_stays(tmp_path, monkeypatch, kind):
    """It is neither removed nor taken for an output that was moved aside."""
    from rankcell.store import own

    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_text("x")
    name = f".out.part-{platform.node() or 'here'}-{os.getpid()}-abcdef0123456789"
    left = tmp_path / {"old link": f"{name}.old", "old of another": f"{name}.old", "other name": f"{name}.mine"}.get(kind, name)
    if "link" in kind:
        left.symlink_to(tmp_path / "victim")
    else:
        left.mkdir()
    real = os.lstat
    if "another" in kind:

        def lstat(path, **how):
            state = real(path, **how)
            return os.stat_result((*state[:4], os.getuid() + 1, *state[5:])) if str(path) == str(left) else state

        monkeypatch.setattr(own.os, "lstat", lstat)
    with atomic_path(tmp_path / "out", exclusive=True) as part:
        part.write_text("x")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([left.name, "out", "victim"]) and (tmp_path / "out").read_text() == "x"
    assert (tmp_path / "victim" / "file").read_text() == "x"


def test_an_empty_folder_of_somebody_else_stays(tmp_path):
    """So does a link to nothing, and a file of a name that only begins as one of ours."""
    for name in ("drafts", "sub/drafts"):
        out = tmp_path / name.replace("/", "_")
        (out / name).mkdir(parents=True)
        (out / "mark").touch()
        with (
            pytest.raises(OutputError, match=f"holds {name}, which"),
            atomic_path(out, force=True, marker="mark", own=("mark", "sub/*.txt")),
        ):
            raise AssertionError
        assert (out / name).is_dir()
    run = tmp_path / "run"
    run.mkdir()
    ShardedRun.open(run, {})
    for name in ("shards/screen-000001.parquet.bak", "shards/notes-1.parquet", ".lock.mine", ".mine.part-x"):
        (run / name).write_text("mine")
        with pytest.raises(OutputError, match=f"holds {re.escape(name)}, which"):
            ShardedRun.open(run, {"a": 1}, force=True)
        (run / name).unlink()
    ShardedRun.open(run, {"a": 1}, force=True)


def test_what_a_killed_process_left_in_a_folder_is_rankcells(tmp_path):
    """Whatever is in a temporary folder; a name that only looks like one is somebody's."""
    own, name = ("mark", "sub/a.txt"), "part-vm-1-abcdef0123456789"
    for left in (f".mark.{name}/a", f".mark.{name}/mark", f"sub/.a.txt.{name}/x/y", f".sub.{name}/a.txt"):
        (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / left).touch()
    (tmp_path / f".mark.{name}" / "empty").mkdir()
    assert foreign(tmp_path, own) is None
    (tmp_path / ".mine.part-x").mkdir()
    assert foreign(tmp_path, own) == ".mine.part-x"
    (tmp_path / ".mine.part-x").rmdir()
    remove_own(tmp_path, own)
    assert list(tmp_path.iterdir()) == []
