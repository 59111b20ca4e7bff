"""What the run of a screen asks of a method, which says how the edits get their scores; and the exact method, which runs every edit."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.perturb.exact.affected import AffectedRows, AffectedSums
from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.exact.scored import Scored
from rankcell.perturb.results.screen_tables import Names, affected_rows_table, screen_table, sums_table
from rankcell.perturb.run.counting import Ticks
from rankcell.perturb.run.loaded import LoadedScreen, VerifyJob
from rankcell.perturb.run.rates import rate_of_edits
from rankcell.perturb.run.run_plan import RunPlan, Settled
from rankcell.perturb.run.survey import Survey
from rankcell.store import ShardedRun

Verified = Mapping[int, pa.Table]  # {unit: rows of it that were run once all units were there}


class Method:
    """How the edits of a screen get their scores. Methods have no state: what is settled for a screen is in `Settled` and its manifest."""

    name = ""
    needs_float64 = False  # whether the device must compute in 64 bits

    # Before a unit is run

    def check(self, plan: RunPlan) -> None:
        """SettingsError for what this method cannot do."""

    def settings(self, plan: RunPlan) -> dict[str, Any]:
        """Settings of the method for a manifest, beside the options of every screen: plain JSON."""
        return {}

    def settle(
        self, plan: RunPlan, earlier: Mapping[str, Any], engine_of: Callable[[], Engine], *, device: Any, may_measure: bool
    ) -> Settled:
        """Settle the effort settings that are still "auto", or restore those of an earlier start.

        earlier
            The settings of an earlier start; empty without one.
        engine_of
            Gives the exact engine with the model loaded.
        device
            The torch.device that the screen begins on.
        may_measure
            Whether times may be measured: parts in folders of their own must all come to the same.
        """
        return Settled()

    def cost(self, plan: RunPlan, settled: Settled) -> Survey:
        """The survey of the cells with the tokens that this method takes for each."""
        return plan.survey

    def n_verified(self, settings: Mapping[str, Any]) -> int:
        """Edits that are run once all units are there."""
        return 0

    def shard_kinds(self, settings: Mapping[str, Any]) -> list[str]:
        """The kinds of shards that a unit has, that of the screen last."""
        return [*(f"affected_{name}" for name in settings["affected"]), "screen"]

    def result_bytes(self, plan: RunPlan, settled: Settled, n_scores: int) -> int:
        """Bytes, about, of the tables that only this method writes."""
        return 0

    def timed(self, plan: RunPlan, settled: Settled, engine: Engine) -> tuple[float, list[str]]:
        """(tokens a second over some cells of the screen, the names of its scores)"""
        raise NotImplementedError

    def run_unit(self, loaded: LoadedScreen, unit: int, progress: Ticks) -> Callable[[], Path]:
        """Compute a unit; the function that is returned writes its shards, that of the screen last, and returns that."""
        raise NotImplementedError

    # Once all units are there

    def verify(self, job: VerifyJob) -> Verified:
        """Run the largest predictions exactly (rankcell.perturb.run.verify.verify_screen)."""
        return {}

    def joined(self, verified: Verified) -> Callable[[int, pa.Table], pa.Table]:
        """The function (unit, its screen) -> the screen with its verified rows."""
        return lambda unit, table: table

    def join(self, run: ShardedRun, sources: Sequence[ShardedRun], verified: Verified, out: Path) -> dict[str, Any]:
        """Write the tables that only this method has into `out`; returns their facts for the manifest."""
        return {}

    def close(self, run: ShardedRun) -> None:
        """Warn of the shortfalls of a finished screen."""


class ExactMethod(Method):
    """Every edit is run."""

    name = "exact"

    def timed(self, plan: RunPlan, settled: Settled, engine: Engine) -> tuple[float, list[str]]:
        return rate_of_edits(engine, plan), engine.score_names

    def run_unit(self, loaded: LoadedScreen, unit: int, progress: Ticks) -> Callable[[], Path]:
        settings, rows = loaded.work.settings, loaded.rows_of(unit)
        collectors = {name: _COLLECTORS[name](settings, loaded.names) for name in settings["affected"]}
        sums = _Several(list(collectors.values())) if collectors else None
        scored = loaded.engine.run(loaded.tokens_of(rows), uncropped=loaded.uncropped_of(rows), sums=sums, progress=progress)
        return functools.partial(self._write, loaded, unit, rows, scored, collectors)

    def _write(self, loaded: LoadedScreen, unit: int, rows: np.ndarray, scored: Scored, collectors: Mapping[str, Any]) -> Path:
        table, tables = screen_table(scored, cell_ids=loaded.cell_ids(rows), names=loaded.names), {}
        for name, collector in collectors.items():
            is_sum = isinstance(collector, AffectedSums)
            tables[f"affected_{name}"] = (
                sums_table(collector, loaded.work.plan.passes) if is_sum else affected_rows_table(collector, table, loaded.names)
            )
        return loaded.write(tables | {"screen": table}, unit)


_COLLECTORS: dict[str, Callable[[Mapping[str, Any], Names], Any]] = {
    "mean": lambda settings, names: AffectedSums(names.n_ids),
    "top": lambda settings, names: AffectedRows(settings["affected_top"]),
    "raw": lambda settings, names: AffectedRows(),
}


@dataclass(frozen=True)
class _Several:
    """Several collectors of affected genes as one."""

    collectors: list[Any]

    def collect(self, edit: Any, target: Any, tokens: Any, shifts: Any, here: Any, which: str = "") -> Any:
        return [collector.collect(edit, target, tokens, shifts, here, which) for collector in self.collectors]

    def keep(self, part: Any) -> None:
        for collector, own in zip(self.collectors, part, strict=True):
            collector.keep(own)
