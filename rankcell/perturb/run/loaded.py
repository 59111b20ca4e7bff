"""A prepared screen with its model loaded on one device, and what is written of a unit."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from rankcell.errors import OutputError
from rankcell.model import Encoder
from rankcell.model.encoder import threads_as
from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.exact.options import Measure
from rankcell.perturb.results.screen_tables import Names, write_shard
from rankcell.perturb.run.counting import Ticks
from rankcell.perturb.run.prepared import Prepared
from rankcell.store import ShardedRun
from rankcell.store.sharded_run import differences
from rankcell.wording import note, option


@contextlib.contextmanager
def threads_as_begun(work: Prepared) -> Iterator[None]:
    """Set the number of threads that the run began with, without a note."""
    with threads_as(work.settings["threads"], quiet=True):
        yield


@dataclass(frozen=True)
class LoadedScreen:
    """A prepared screen, the engine that runs its edits exactly, and the texts of its targets."""

    work: Prepared
    engine: Engine
    names: Names

    @classmethod
    def of(cls, work: Prepared, encoder: Encoder) -> "LoadedScreen":
        settings = work.settings
        measure = Measure.of_settings(settings)
        n_blocks = work.checkpoint.resolve_layer(measure.layer)
        engine = Engine.measuring(measure, encoder, work.plan, n_blocks, work.states, settings["tokens_per_batch"])
        return cls(work, engine, Names(work.plan, work.checkpoint.vocab))

    @classmethod
    def open(cls, work: Prepared, device: str, *, elsewhere: bool = False) -> "LoadedScreen":
        """Load the model; OutputError when the device would not give the bytes of the one that the screen began on.

        elsewhere
            A warning is enough.
        """
        settings = work.settings
        with threads_as_begun(work):
            encoder = Encoder(work.checkpoint, device=device, precision=settings["precision"])
            now = encoder.description
        if any(settings[k] != v for k, v in now.items()):
            fact = f"{work.run.folder} began on another machine ({differences({k: settings[k] for k in now}, now)})"
            if not elsewhere:
                raise OutputError(
                    f"{fact}: give this one a folder of its own with {option('shard')}, and put them together with {option('merge', True)}"
                )
            note(f"{fact}: what is verified now agrees to rounding, not to the last bit")
        return cls.of(work, encoder)

    def rows_of(self, unit: int) -> np.ndarray:
        """int64: the rows of the token set that are the cells of a unit."""
        return self.work.rows[self.work.edges[unit] : self.work.edges[unit + 1]]

    def tokens_of(self, rows: Sequence[int]) -> list[np.ndarray]:
        return [self.work.tokens.row(int(i)) for i in rows]

    def uncropped_of(self, rows: Sequence[int]) -> list[np.ndarray] | None:
        """The genes of the cells before cropping, where the plan refills from them; else None."""
        return [self.work.tokens.uncropped(int(i)) for i in rows] if self.work.plan.options.refill else None

    def cell_ids(self, rows: Sequence[int]) -> list[str]:
        ids = self.work.tokens.cell_ids
        return [ids[i] for i in rows]

    def write(self, tables: dict[str, pa.Table], unit: int) -> Path:
        """Write the shards of a unit, that of the screen last, and return it: with it the unit is done."""
        screen = tables.pop("screen")
        for kind, table in tables.items():
            write_shard(table, self.work.run, kind, unit)
        return write_shard(screen, self.work.run, "screen", unit)


@dataclass(frozen=True)
class VerifyJob:
    """Input of a method's `verify`, once all units are there.

    run
        Where the shards of what is verified go.
    sources
        Where the shards of each unit are.
    load
        Returns the screen with its model loaded; called when there is something to run here.
    devices, release
        Devices that share the work where all units are in the folder of `run`, and what is called before they do (rankcell.execute).
    progress
        Called with tokens that went through the model.
    """

    run: ShardedRun
    sources: Sequence[ShardedRun]
    load: Callable[[], LoadedScreen]
    devices: Sequence[str] = ()
    progress: Ticks = None
    release: Callable[[Sequence[str]], None] = lambda devices: None
