"""A unit of work: a pure function of a results folder and a number, to one shard. Every way to run a screen calls it."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from rankcell.errors import OutputError, SettingsError
from rankcell.model import Encoder
from rankcell.model.encoder import threads_as
from rankcell.perturb.exact.affected import AffectedRows, AffectedSums
from rankcell.perturb.exact.engine import Engine, Scored
from rankcell.perturb.fast.audit_tables import audit_cells_table, audit_table, epistasis_table
from rankcell.perturb.fast.effort import fast_engine
from rankcell.perturb.fast.epistasis import interactions
from rankcell.perturb.fast.fast_engine import FastScored
from rankcell.perturb.results.screen_tables import Names, affected_rows_table, screen_table, sums_table, write_shard
from rankcell.perturb.run.prepared import Prepared, read_prepared
from rankcell.progress import report
from rankcell.scores import Score
from rankcell.store import ShardedRun
from rankcell.store.sharded_run import differences
from rankcell.wording import note, option

Ticks = Callable[[int], None] | None


def run_unit(folder: str | os.PathLike, unit: int, *, device: str = "auto") -> Path:
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
    worker.work.drop_damaged(unit)
    with threads_as_begun(worker.work):
        return worker.run(unit)


@contextlib.contextmanager
def threads_as_begun(work: Prepared) -> Iterator[None]:
    """As many threads as the run began with, without a word."""
    with threads_as(work.settings["threads"], quiet=True):
        yield


@contextlib.contextmanager
def open_worker(folder: str, device: str, name: str) -> "Iterator[Worker]":
    """What a process of one device does its units with (rankcell.model.workers)."""
    work = read_prepared(folder)
    with threads_as_begun(work):
        yield Worker.open(work, device)


@functools.lru_cache(1)
def _worker(folder: str, device: str, fingerprint: str) -> "Worker":
    """The one that was used last, as long as the folder holds the same screen."""
    return Worker.open(read_prepared(folder), device)


class Worker:
    """A prepared screen with its model loaded on one device."""

    def __init__(self, work: Prepared, encoder: Encoder):
        self.work, settings = work, work.settings
        self.engine = Engine(
            encoder,
            work.plan,
            work.checkpoint.resolve_layer(settings["layer"]),
            work.states,
            settings["tokens_per_batch"],
            keep_perturbed=settings["readout_compat"] == "geneformer",
            euclidean=settings["distance"] == "euclidean",
            readouts=tuple(settings["readouts"]),
        )
        self.fast = fast_engine(self.engine, settings) if is_fast(settings) else None
        self.names = Names(work.plan, work.checkpoint.vocab)

    @classmethod
    def open(cls, work: Prepared, device: str, *, elsewhere: bool = False) -> "Worker":
        """Load the model; OutputError when the device would not give the bytes of the one that the screen began on.

        elsewhere
            A warning is enough.
        """
        settings = work.settings
        with threads_as_begun(work):
            encoder = Encoder(work.checkpoint, device=device, precision=settings["precision"])
            now = encoder.description
        if any(settings[k] != v for k, v in now.items()):
            said = f"{work.run.folder} began on another machine ({differences({k: settings[k] for k in now}, now)})"
            if not elsewhere:
                raise OutputError(
                    f"{said}: give this one a folder of its own with {option('shard')}, and put them together with {option('merge', True)}"
                )
            note(f"{said}: what is verified now agrees to rounding, not to the last bit")
        return cls(work, encoder)

    @property
    def device(self) -> Any:
        return self.engine.encoder.device

    def run(self, unit: int) -> Path:
        """Write the shards of one unit, that of the screen last, and return it."""
        return self.compute(unit)()

    def compute(self, unit: int, progress: Ticks = None) -> Callable[[], Path]:
        """Compute a unit; what is returned writes its shards, that of the screen last, and returns that."""
        settings = self.work.settings
        path = self.work.run.shard("screen", unit)
        if path.exists():
            return lambda: path
        rows = self.work.rows[self.work.edges[unit] : self.work.edges[unit + 1]]
        if self.fast is not None:
            return self._compute_fast(unit, rows, progress)
        kept = {name: _COLLECTORS[name](settings, self.names) for name in settings["affected"]}
        scored = self.engine.run(
            [self.work.tokens.row(int(i)) for i in rows],
            longer=[self.work.tokens.uncropped(int(i)) for i in rows] if self.work.plan.options.refill else None,
            sums=_Several(list(kept.values())) if kept else None,
            progress=progress,
        )
        return functools.partial(self._write, unit, rows, scored, kept)

    def _write(self, unit: int, rows: np.ndarray, scored: Scored, kept: Mapping[str, Any]) -> Path:
        run, table = self.work.run, screen_table(scored, cell_ids=self._cell_ids(rows), names=self.names)
        for name, collector in kept.items():
            is_sum = isinstance(collector, AffectedSums)
            collected = sums_table(collector, self.work.plan.passes) if is_sum else affected_rows_table(collector, table, self.names)
            write_shard(collected, run, f"affected_{name}", unit)
        return write_shard(table, run, "screen", unit)

    def _cell_ids(self, rows: np.ndarray) -> list[str]:
        ids = self.work.tokens.cell_ids
        return [ids[i] for i in rows]

    def finish(self) -> None:
        """Nothing is left once the units are done."""

    def _compute_fast(self, unit: int, rows: np.ndarray, progress: Ticks) -> Callable[[], Path]:
        scored = self.fast.run([self.work.tokens.row(int(i)) for i in rows], progress=progress)
        pairs = self._pairs(rows, scored, progress) if self.work.settings.get("epistasis") else None
        return functools.partial(self._write_fast, unit, rows, scored, pairs)

    def _write_fast(self, unit: int, rows: np.ndarray, scored: FastScored, pairs: pa.Table | None) -> Path:
        run, cell_ids = self.work.run, self._cell_ids(rows)
        table = screen_table(scored, cell_ids=cell_ids, names=self.names)
        write_shard(audit_table(scored, table, first_cell=self.work.edges[unit]), run, "audit", unit)
        write_shard(audit_cells_table(scored, cell_ids=cell_ids, settings=self.work.settings), run, "audit_cells", unit)
        if pairs is not None:
            write_shard(pairs, run, "epistasis", unit)
        return write_shard(table, run, "screen", unit)

    def _pairs(self, rows: np.ndarray, scored: FastScored, progress: Ticks) -> pa.Table:
        settings = self.work.settings
        size = Score.parse(settings["verify_by"]).effect(scored.scores[settings["verify_by"]])
        found = interactions(
            self.fast,
            [self.work.tokens.row(int(i)) for i in rows],
            [size[scored.cell == i] for i in range(len(rows))],
            n=settings["epistasis"],
            verify=settings["verify_pairs"],
            progress=progress,
        )
        return epistasis_table(found, cell_ids=self._cell_ids(rows), vocab=self.work.checkpoint.vocab)


def is_fast(settings: Mapping[str, Any]) -> bool:
    """Whether a screen with these settings is predicted; folders of earlier versions do not say."""
    return settings.get("method", "exact") == "fast"


_COLLECTORS: dict[str, Callable[[dict[str, Any], Names], Any]] = {
    "mean": lambda settings, names: AffectedSums(names.n_ids),
    "top": lambda settings, names: AffectedRows(settings["affected_top"]),
    "raw": lambda settings, names: AffectedRows(),
}


@dataclass(frozen=True)
class _Several:
    """Several collectors of affected genes as one."""

    collectors: list[Any]

    def collected(self, edit: np.ndarray, target: np.ndarray, tokens: np.ndarray, shifts: Any, here: np.ndarray, which: str = "") -> Any:
        return [collector.collected(edit, target, tokens, shifts, here, which) for collector in self.collectors]

    def keep(self, part: Any) -> None:
        for collector, own in zip(self.collectors, part, strict=True):
            collector.keep(own)


@dataclass(frozen=True)
class TokenCount:
    """A count of tokens alone (rankcell.model.workers.Count); None: of nothing."""

    tokens: Ticks = None

    def tick(self, unit: int, n: int) -> None:
        if self.tokens is not None:
            self.tokens(n)

    def finish(self, unit: int) -> None:
        """All tokens of a unit have been counted by then."""


class Amount(NamedTuple):
    """What a unit comes to: tokens through the model, edits, cells."""

    tokens: int
    edits: int
    cells: int


class Count:
    """Edits done, of those of some units, and cells; within a unit in proportion to the tokens that went through the model."""

    def __init__(self, amounts: Mapping[int, Amount], progress: Callable[[int, int], None] | None):
        self._amounts, self._progress = amounts, progress
        self._edits, self._cells = (sum(getattr(a, name) for a in amounts.values()) for name in ("edits", "cells"))
        self._tokens, self._finished = {}, set()  # tokens done of the open units; units that are done

    def tick(self, unit: int, n: int) -> None:
        self._tokens[unit] = min(self._tokens.get(unit, 0) + n, self._amounts[unit].tokens)
        self._say()

    def finish(self, unit: int) -> None:
        self._tokens.pop(unit, None)
        self._finished.add(unit)
        self._say()

    def _say(self) -> None:
        done = [self._amounts[u] for u in self._finished]
        part = [n / max(1, self._amounts[u].tokens) * np.array(self._amounts[u][1:]) for u, n in self._tokens.items()]
        edits, cells = (int(sum(x)) for x in zip((sum(a.edits for a in done), sum(a.cells for a in done)), *part, strict=True))
        report(self._progress, edits, self._edits, f"{cells:,} of {self._cells:,} cells")
