"""A unit of work: a pure function of a results folder and a number, to its shards. Every way to run a screen calls it."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rankcell.errors import SettingsError
from rankcell.model.devices import has_idle_processor
from rankcell.model.options import AUTO
from rankcell.perturb.run.counting import Ticks
from rankcell.perturb.run.loaded import LoadedScreen, threads_as_begun
from rankcell.perturb.run.methods import method_of
from rankcell.perturb.run.prepared import Prepared, read_prepared
from rankcell.store import ShardedRun


def run_unit(folder: str | os.PathLike, unit: int, *, device: str = AUTO) -> Path:
    """Run one unit of a prepared screen and return its shard; one that is there already is left as it is.

    folder
        A results folder that `rankcell perturb` has prepared.
    unit
        From 0.
    device
        "auto", "cpu", "cuda", "cuda:1", ...: of the same make as the one that the screen began on.

    The bytes of the shard depend on the folder's manifest and the number alone. The model is loaded once per process. Nothing is
    locked: two processes may run the same unit, and the shard is the same.
    """
    worker = _worker(os.path.realpath(folder), device, ShardedRun.read(folder).manifest["fingerprint"])
    if not 0 <= unit < worker.work.n_units:
        raise SettingsError(f"unit {unit} is not there: {folder} has units 0 to {worker.work.n_units - 1}")
    drop_damaged(worker.work, unit)
    with threads_as_begun(worker.work):
        return worker.compute(unit)()


def drop_damaged(work: Prepared, unit: int) -> None:
    """Of a unit that is done, remove the shard that says so when any of its shards is damaged: it is run again, with a warning."""
    work.drop_damaged(unit, method_of(work.settings).shard_kinds(work.settings))


@contextlib.contextmanager
def open_worker(folder: str, device: str, name: str) -> "Iterator[Worker]":
    """What a process of one device does its units with (rankcell.execute)."""
    work = read_prepared(folder)
    with threads_as_begun(work):
        yield Worker(LoadedScreen.open(work, device))


@functools.lru_cache(1)
def _worker(folder: str, device: str, fingerprint: str) -> "Worker":
    """The one that was used last, as long as the folder holds the same screen."""
    return Worker(LoadedScreen.open(read_prepared(folder), device))


@dataclass(frozen=True)
class Worker:
    """What computes the units of a screen on one device (rankcell.execute.Worker)."""

    loaded: LoadedScreen

    @property
    def work(self) -> Prepared:
        return self.loaded.work

    @property
    def leaves_processor_idle(self) -> bool:
        return has_idle_processor(self.loaded.engine.encoder.device)

    def compute(self, unit: int, progress: Ticks = None) -> Callable[[], Path]:
        """Compute a unit; the function that is returned writes its shards, that of the screen last, and returns that."""
        path = self.work.run.shard("screen", unit)
        if path.exists():
            return lambda: path
        return method_of(self.work.settings).run_unit(self.loaded, unit, progress)

    def finish(self) -> None:
        """Nothing is left once the units are done."""
