"""Units of work: how many tokens one is, on a processor and on a GPU; how they are computed and written."""

import errno
import json
import os
import platform
import subprocess
import sys
import threading

import numpy as np
import pytest
from flat_options import call, run_screen
from pretended_gpu import pretended
from small_screens import Stopped, stop

from rankcell.embed import Embedder
from rankcell.embed import embedding_units as units
from rankcell.embed import store_run as run
from rankcell.embed.options import EmbedConfig
from rankcell.embed.store_run import embed_part_to_store, embed_to_store
from rankcell.errors import OutputError
from rankcell.execute import run_here
from rankcell.model.encoder import budget_for, unit_size
from rankcell.perturb import Perturber
from rankcell.perturb.results import screen_tables as results
from rankcell.perturb.run import loaded
from rankcell.perturb.run import worker as perturb_units
from rankcell.store import ShardedRun
from rankcell.tokens import TokenSet, TokenSpec

pytestmark = [pytest.mark.pretended_gpu, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def tokens(small):
    rng = np.random.default_rng(1)
    rows = [[2, *(rng.permutation(12)[:n] + 4), 3] for n in (3, 5, 4, 6, 2, 5)]
    return TokenSet.from_rows(rows, TokenSpec.of(small[0], frame=small[0].frame, max_len=10))


def settings_of(folder):
    return json.loads((folder / "manifest.json").read_text())["settings"]


def screen(small, tokens, out, device, *, budget=None, **how):
    """The settings of a screen that is begun and stopped, or gone on with, in `out`; and the error that ended it, if any."""
    with pytest.raises((Stopped, OutputError)) as e:
        run_screen(call(Perturber, small[1], device=device, precision="fp32", tokens_per_batch=budget), tokens, out, progress=stop, **how)
    return settings_of(out), e.value


def test_the_rule(small):
    assert unit_size("cpu", 10**6, 250_000) == 250_000
    with pretended():
        assert unit_size("cuda:0", 1_000, 250_000) == 250_000
        assert unit_size("cuda:0", 262_144, 250_000) == 8 * 262_144
        assert unit_size("cpu", 262_144, 250_000) == 250_000
        embedder = call(Embedder, small[1], device="cuda:0")
        assert embedder.tokens_per_unit(1) == 8 * budget_for(embedder.checkpoint, "cuda:0", "auto") == 8 * embedder.tokens_per_batch


def test_units_of_a_screen(small, tokens, tmp_path):
    """On a processor as ever; on a GPU several batches; what is asked for as it is; a part as on a processor."""
    assert screen(small, tokens, tmp_path / "cpu", "cpu", budget=100_000)[0]["tokens_per_unit"] == 250_000
    with pretended():
        assert screen(small, tokens, tmp_path / "gpu", "cuda:0")[0]["tokens_per_unit"] == 8 * 262_144
        assert screen(small, tokens, tmp_path / "small", "cuda:0", budget=100_000)[0]["tokens_per_unit"] == 800_000
        assert screen(small, tokens, tmp_path / "asked", "cuda:0", tokens_per_unit=30)[0]["tokens_per_unit"] == 30
        assert screen(small, tokens, tmp_path / "part", "cuda:0", shard="1/2")[0]["tokens_per_unit"] == 250_000


@pytest.mark.parametrize("held", [250_000, 30])
def test_a_folder_goes_on_with_its_units(small, tokens, tmp_path, held):
    """Also one of an earlier version, whose units were 250,000 tokens on every device; parts take them from the folder."""
    with pretended():
        begun, _ = screen(small, tokens, tmp_path / "s", "cuda:0", tokens_per_unit=held)
        for how in ({}, {"shard": "1/2"}, {"tokens_per_unit": held}):
            again, error = screen(small, tokens, tmp_path / "s", "cuda:0", **how)
            assert again == begun and isinstance(error, Stopped)
        perturber = call(Perturber, small[1], device="cuda:0", precision="fp32")
        assert run_screen(perturber, tokens, tmp_path / "s", dry_run=True).n_units == (
            1 if held > 1_000 else 5
        )  # of 330 tokens, the last two cells together
        again, error = screen(small, tokens, tmp_path / "s", "cuda:0", tokens_per_unit=31)
        assert again == begun and f"tokens_per_unit: {held} there, 31 now" in str(error)
        anew, error = screen(small, tokens, tmp_path / "s", "cuda:0", force=True)
        assert anew["tokens_per_unit"] == 8 * 262_144 and isinstance(error, Stopped)
        assert screen(small, tokens, tmp_path / "s", "cuda:0", shard="1/2")[0] == anew


def test_units_of_an_embedding(small, tokens, tmp_path, monkeypatch):
    """Settled when a run begins, and held in its folder; a folder of an earlier version goes on with its own."""

    def begin(out, device):
        monkeypatch.setattr(run, "_compute", stop_before)
        with pytest.raises(Stopped):
            embed_part_to_store(call(Embedder, small[1], device=device, precision="fp32"), tokens, tmp_path / out, EmbedConfig(["mean"], [-2]), shard="1/1")
        return settings_of(tmp_path / f"{out}.run")

    def stop_before(units, part, prepare, progress):
        raise Stopped

    assert begin("cpu.npz", "cpu")["tokens_per_unit"] == 500_000
    with pretended():
        assert begin("gpu.npz", "cuda:0")["tokens_per_unit"] == 8 * 262_144
        with monkeypatch.context() as m:
            m.setattr(Embedder, "tokens_per_unit", lambda self, least: least)
            old = begin("old.npz", "cuda:0")
        assert old["tokens_per_unit"] == 500_000 and begin("old.npz", "cuda:0") == old


# results are written while the next unit is computed, where the processor is idle


class Job:
    """A worker that computes nothing: what happens, in order, and in which thread."""

    def __init__(self, device="cuda", fails_at=None, error=None):
        self.leaves_processor_idle, self.fails_at, self.error = device != "cpu", fails_at, error
        self.events, self.threads, self.computing = [], set(), [threading.Event() for _ in range(9)]

    def compute(self, unit, tick):
        self.computing[unit].set()
        self.events.append(f"compute {unit}")
        tick(1)
        if self.fails_at == f"compute {unit}":
            raise self.error
        return lambda: self.write(unit)

    def write(self, unit):
        self.threads.add(threading.current_thread())
        if self.fails_at == f"write {unit}":
            raise self.error
        if self.leaves_processor_idle and unit < 3:  # the next one begins meanwhile
            assert self.computing[unit + 1].wait(60)
        self.events.append(f"write {unit}")

    def tick(self, unit, n):
        assert threading.current_thread() is threading.main_thread()

    def finish(self, unit):
        assert threading.current_thread() is threading.main_thread()
        self.events.append(f"done {unit}")


def order(events, *wanted):
    """Whether events stand in this order."""
    at = [events.index(event) for event in wanted]
    return at == sorted(at)


def test_a_unit_is_written_while_the_next_is_computed():
    job = Job()
    run_here(job, range(4), job)
    assert len(job.events) == 12 and threading.main_thread() not in job.threads and len(job.threads) == 1
    for n in range(4):
        assert order(job.events, f"compute {n}", f"write {n}", f"done {n}")
    for n in range(2):  # never more than one is written, and none waits
        assert order(job.events, f"compute {n + 1}", f"done {n}", f"compute {n + 2}") and order(job.events, f"done {n}", f"write {n + 1}")


def test_on_a_processor_one_thread_does_both():
    job = Job("cpu")
    run_here(job, range(3), job)
    assert job.events == [f"{step} {n}" for n in range(3) for step in ("compute", "write", "done")]
    assert job.threads == {threading.main_thread()}


def test_an_error_of_the_thread_that_writes():
    """Nothing is written after it, and the unit is not done."""
    job = Job(fails_at="write 1", error=OutputError("the disk is full"))
    with pytest.raises(OutputError, match="the disk is full"):
        run_here(job, range(9), job)
    assert job.events == ["compute 0", "compute 1", "write 0", "done 0", "compute 2"] or order(job.events, "done 0", "compute 2")
    assert not {"write 1", "done 1", "write 2", "compute 3"} & set(job.events)


def test_a_stop_waits_for_what_is_written():
    job = Job(fails_at="compute 2", error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_here(job, range(9), job)
    assert "write 1" in job.events and "compute 3" not in job.events


def listed(monkeypatch, folder):
    """The folders in `folder` that are listed from now on, each as often as it is."""
    seen = []
    for name in ("scandir", "listdir"):
        real = getattr(os, name)

        def look(path=".", real=real):
            if not isinstance(path, int) and str(path) in (str(folder), str(folder / "shards")):
                seen.append(str(path))
            return real(path)

        monkeypatch.setattr(os, name, look)
    return seen


WAYS = {"exact": dict(affected=True, affected_top=2), "fast": dict(method="fast", splits=2, projections=2, genes="all")}


@pytest.mark.parametrize("way", WAYS)
def test_a_shard_lists_no_folder(small, tokens, tmp_path, way):
    """As often for many units as for one."""
    counts = {}
    for name, size in (("one", 10**9), ("many", 1)):
        with pytest.MonkeyPatch.context() as m:
            seen = listed(m, tmp_path / name)
            run_screen(call(Perturber, small[1], device="cpu"), tokens, tmp_path / name, tokens_per_unit=size, **WAYS[way])
        counts[name] = len(seen)
    assert counts["many"] == counts["one"] > 0


def test_a_shard_of_an_embedding_lists_no_folder(small, tokens, tmp_path, monkeypatch):
    counts = {}
    for name, size in (("one", 10**9), ("many", 1)):
        with pytest.MonkeyPatch.context() as m:
            m.setattr(run, "TOKENS_PER_UNIT", size)
            m.setattr(units, "_SECONDS", 10**9)
            seen = listed(m, tmp_path / f"{name}.npz.run")
            asked = EmbedConfig(["mean"], [-2], ("cell", "gene", "gene_mean"))
            embed_to_store(call(Embedder, small[1], device="cpu"), tokens, tmp_path / f"{name}.npz", asked)
        counts[name] = len(seen)
    assert counts["many"] == counts["one"] > 0


@pytest.mark.parametrize("way", WAYS)
def test_a_screen_on_a_gpu_is_that_of_one_thread(small, tokens, tmp_path, monkeypatch, way):
    how = WAYS[way] | dict(tokens_per_unit=1)
    threads = set()
    real = results.write_shard

    def write_shard(*args):
        threads.add(threading.current_thread() is threading.main_thread())
        return real(*args)

    monkeypatch.setattr(loaded, "write_shard", write_shard)
    with pretended():
        perturber = call(Perturber, small[1], device="cuda:0", precision="fp32", tokens_per_batch=40)
        run_screen(perturber, tokens, tmp_path / "aside", **how)
        assert threads == {False}
        with monkeypatch.context() as m:
            m.setattr(perturb_units, "has_idle_processor", lambda device: False)
            run_screen(perturber, tokens, tmp_path / "plain", **how)
        assert threads == {False, True}
    names = sorted(p.name for p in (tmp_path / "plain").glob("*.parquet"))
    assert len(names) > 2 and names == sorted(p.name for p in (tmp_path / "aside").glob("*.parquet"))
    assert all((tmp_path / "plain" / n).read_bytes() == (tmp_path / "aside" / n).read_bytes() for n in names)


def test_a_full_disk_on_a_gpu(small, tokens, tmp_path, monkeypatch):
    """One line, nothing half-written, and the same command goes on."""
    real, n = os.fsync, [0]

    def full(fd):
        n[0] += threading.current_thread() is not threading.main_thread()
        if n[0] == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd)

    with pretended():
        perturber = call(Perturber, small[1], device="cuda:0", precision="fp32", tokens_per_batch=40)
        with (
            monkeypatch.context() as m,
            pytest.raises(OutputError, match="the disk is full: .*000.parquet was not written|the disk is full"),
        ):
            m.setattr(os, "fsync", full)
            run_screen(perturber, tokens, tmp_path / "s", tokens_per_unit=1)
        shards = sorted(p.name for p in (tmp_path / "s" / "shards").iterdir())
        assert shards and all(name.startswith("screen-") for name in shards) and len(shards) < len(tokens)
        assert run_screen(perturber, tokens, tmp_path / "s", tokens_per_unit=1).manifest["n_units"] == len(tokens)


def test_leftovers_of_a_killed_part_are_removed_once(tmp_path):
    folder = tmp_path / "s"
    ShardedRun.open(folder, {"a": 1}, shared=True)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = platform.node() or "here"
    dead, alive = (folder / "shards" / f".screen-000000.parquet.part-{host}-{pid}-abc123" for pid in (gone.pid, os.getppid()))
    for path in (dead, alive):
        path.mkdir()
    ShardedRun.open(folder, {"a": 1}, shared=True)
    assert [p.name for p in (folder / "shards").iterdir()] == [alive.name]
    ShardedRun.open(folder, {"a": 1})
    assert not list((folder / "shards").iterdir())


def test_a_unit_in_the_sums_without_its_shard(small, tokens, tmp_path, monkeypatch):
    """Killed between the two, the unit is computed again, and is in the sums once."""
    monkeypatch.setattr(run, "TOKENS_PER_UNIT", 1)
    monkeypatch.setattr(units, "_SECONDS", 0)
    asked, embedder = EmbedConfig(["mean"], [-2], ("cell", "gene_mean")), call(Embedder, small[1], device="cpu")
    embed_to_store(embedder, tokens, tmp_path / "whole.npz", asked)
    real = units.Units._keep

    def stop_keeping(self, unit, *args):
        if unit == 2:
            raise Stopped
        real(self, unit, *args)

    with monkeypatch.context() as m, pytest.raises(Stopped):
        m.setattr(units.Units, "_keep", stop_keeping)
        embed_to_store(embedder, tokens, tmp_path / "stopped.npz", asked)
    assert (tmp_path / "stopped.npz.run" / "gene_sums.npz").exists()
    embed_to_store(embedder, tokens, tmp_path / "stopped.npz", asked)
    whole, stopped = (np.load(tmp_path / name, allow_pickle=False) for name in ("whole.npz", "stopped.npz"))
    assert whole.files == stopped.files and any(name == "n" or name.endswith("/n") or "mean" in name for name in whole.files)
    for name in whole.files:
        if whole[name].dtype.kind in "fi":
            assert np.array_equal(whole[name], stopped[name], equal_nan=whole[name].dtype.kind == "f"), name
