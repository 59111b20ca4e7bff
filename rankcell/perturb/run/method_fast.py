"""The fast method in a run: edits predicted, a sample of them run, the largest verified, and the audit that says how good it is."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.errors import SettingsError
from rankcell.perturb.edits.plan import EditPlan
from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.fast import effort
from rankcell.perturb.fast.audit_tables import audit_cells_table, audit_table, epistasis_table, join_audit, warn_if_short
from rankcell.perturb.fast.epistasis import interactions, tokens_of_pairs
from rankcell.perturb.fast.fast_engine import FastEngine, FastScored, verify_score
from rankcell.perturb.fast.options import AUTO
from rankcell.perturb.fast.ratios import measure
from rankcell.perturb.results.screen_tables import screen_table
from rankcell.perturb.run.counting import Ticks
from rankcell.perturb.run.loaded import LoadedScreen, VerifyJob
from rankcell.perturb.run.method import Method, Verified
from rankcell.perturb.run.rates import rate_of_cells
from rankcell.perturb.run.run_plan import RunPlan, Settled
from rankcell.perturb.run.screen_config import ScreenConfig
from rankcell.perturb.run.survey import Survey
from rankcell.perturb.run.verify import by_unit, verify_screen
from rankcell.scores import Score
from rankcell.store import ShardedRun
from rankcell.wording import option

_PER_ROW, _PER_SCORE, _PER_JUDGED = 9, 8, 60  # bytes on disk of the tables of an audit


def require_predictable(config: ScreenConfig, plan: EditPlan) -> None:
    """Require options that the fast method supports; SettingsError for those of the exact method alone."""
    edit, measure = config.edit, config.measure
    several = plan.genes.shape[1] > 1
    unsupported = {
        option("distance", measure.distance): measure.distance != "cos",
        f"{option('affected')}, {option('affected_top')} and {option('affected_raw')}": bool(measure.collects),
        option("refill", True): plan.options.refill,
        option("readout_compat", measure.readout_compat): measure.keeps_perturbed,
        "groups and sets of several genes": several and not ((edit.anchor is not None or edit.pairs) and plan.kind == "delete"),
    }
    for setting, is_set in unsupported.items():
        if is_set:
            raise SettingsError(f"{setting}: only {option('method', 'exact')} does that")
    if config.method.epistasis is not None and (several or plan.kind != "delete"):
        raise SettingsError(
            f"{option('epistasis')} makes pairs of the genes that a screen deletes one by one: take {option('kind', 'delete')}, "
            f"without {option('anchor')} and {option('pairs')}"
        )


class FastMethod(Method):
    """Edits are predicted, and some are run."""

    name = "fast"
    needs_float64 = True

    def check(self, plan: RunPlan) -> None:
        require_predictable(plan.config, plan.edits)
        self._verify_by(plan)

    def settings(self, plan: RunPlan) -> dict[str, Any]:
        return {"method": self.name} | plan.config.method.settings() | {"verify_by": self._verify_by(plan)}

    def _verify_by(self, plan: RunPlan) -> str:
        """The score whose largest predictions are run; SettingsError when it is not predicted."""
        options = plan.config.method
        names = [n + which for n in plan.outline.plain_names for which in plan.edits.passes]
        if options.verify_by is not None and options.verify_by not in names:
            raise SettingsError(f"{option('verify_by', options.verify_by)} is not a score that is predicted; one of {', '.join(names)}")
        by = options.verify_by or verify_score(plan.outline)
        if Score.parse(by).is_cosine and options.effort["projections"] == 0:
            none = option("projections", 0)
            add = f"add {option('toward', placeholder='COL=STATE')} (or {option('states')}), or leave out {none}"
            remedy = "verify by a movement toward a state" if options.verify_by else add
            raise SettingsError(f"{none} predicts no sizes of shift, and {option('verify_by')} is {by}: {remedy}")
        return by

    def engine(self, plan: RunPlan, settled: Mapping[str, Any], exact: Engine, **efforts: int) -> FastEngine:
        """The fast engine with the settled effort, or with `efforts`."""
        return effort.fast_engine(exact, self.settings(plan) | dict(settled) | efforts)

    def settle(
        self, plan: RunPlan, earlier: Mapping[str, Any], engine_of: Callable[[], Engine], *, device: Any, may_measure: bool
    ) -> Settled:
        ratios = self._ratios(plan, earlier, engine_of) if may_measure and device.type != "cpu" else {}
        ratios |= {n: v for n, v in earlier.items() if n == "ratios"}
        requested = plan.config.method.effort
        efforts = {name: earlier.get(name, value) for name, value in requested.items() if value == AUTO}
        if AUTO not in efforts.values():
            return Settled(efforts | ratios)
        exact, by, min_recall = engine_of(), self._verify_by(plan), plan.config.method.min_recall
        choice = effort.choose_effort(
            lambda splits, projections: self.engine(plan, ratios, exact, splits=splits, projections=projections),
            [plan.tokens.row(int(i)) for i in plan.probed],
            exact,
            min_recall,
            tries=effort.grid(requested["splits"], requested["projections"], by),
            verify_by=by,
        )
        effort.note_choice(choice, min_recall)
        return Settled({name: choice[name] for name in efforts} | ratios, {"effort": choice})

    def _ratios(self, plan: RunPlan, earlier: Mapping[str, Any], engine_of: Callable[[], Engine]) -> dict[str, Any]:
        """Cost ratios of the parts of a prediction on this device, measured unless an earlier start has them."""
        if "ratios" in earlier:
            return {}
        rows = sorted((plan.tokens.row(int(i)) for i in plan.probed), key=len)[-2:]
        projections = plan.config.method.effort["projections"]
        return dict(measure(engine_of(), rows, functions=None if projections == AUTO else projections).settings)

    def cost(self, plan: RunPlan, settled: Settled) -> Survey:
        alone, options = self._alone(plan, settled), plan.config.method
        if options.epistasis is None:
            return alone
        fast = self.engine(plan, settled.settings, plan.outline)
        pairs = tokens_of_pairs(fast, plan.survey.edits, plan.lengths, n=options.epistasis, verify=options.pairs_run)
        return replace(alone, tokens=alone.tokens + pairs)

    def _alone(self, plan: RunPlan, settled: Settled) -> Survey:
        """The survey without the pairs of epistasis."""
        fast, survey = self.engine(plan, settled.settings, plan.outline), plan.survey
        tokens = np.where(survey.edits > 0, np.asarray(fast.cost(survey.edits, plan.lengths), np.int64), 0)
        return replace(survey, tokens=tokens)

    def n_verified(self, settings: Mapping[str, Any]) -> int:
        return settings["verify_screen"]

    def shard_kinds(self, settings: Mapping[str, Any]) -> list[str]:
        pairs = ["epistasis"] if settings.get("epistasis") else []
        return ["audit", "audit_cells", *pairs, "screen"]

    def result_bytes(self, plan: RunPlan, settled: Settled, n_scores: int) -> int:
        options, edits = plan.config.method, plan.survey.edits
        splits = (plan.config.method.effort | dict(settled.settings))["splits"]
        run = np.maximum(options.audit * edits, splits) + options.verify_top
        n = int(np.minimum(run, edits).sum()) + options.verify_screen
        return n * (_PER_ROW + 2 * _PER_SCORE * n_scores) + len(edits) * n_scores * _PER_JUDGED

    def timed(self, plan: RunPlan, settled: Settled, engine: Engine) -> tuple[float, list[str]]:
        fast = self.engine(plan, settled.settings, engine)
        return rate_of_cells(fast, plan, self._alone(plan, settled).tokens), fast.score_names

    # The units

    def run_unit(self, loaded: LoadedScreen, unit: int, progress: Ticks) -> Callable[[], Path]:
        fast, rows = fast_engine_of(loaded), loaded.rows_of(unit)
        scored = fast.run(loaded.tokens_of(rows), progress=progress)
        pairs = self._pairs(loaded, fast, rows, scored, progress) if loaded.work.settings.get("epistasis") else {}
        return functools.partial(self._write, loaded, unit, rows, scored, pairs)

    def _pairs(
        self, loaded: LoadedScreen, fast: FastEngine, rows: np.ndarray, scored: FastScored, progress: Ticks
    ) -> dict[str, pa.Table]:
        settings = loaded.work.settings
        size = Score.parse(settings["verify_by"]).effect(scored.scores[settings["verify_by"]])
        pairs = interactions(
            fast,
            loaded.tokens_of(rows),
            [size[scored.cell == i] for i in range(len(rows))],
            n=settings["epistasis"],
            verify=settings["verify_pairs"],
            progress=progress,
        )
        return {"epistasis": epistasis_table(pairs, cell_ids=loaded.cell_ids(rows), vocab=loaded.work.checkpoint.vocab)}

    def _write(self, loaded: LoadedScreen, unit: int, rows: np.ndarray, scored: FastScored, pairs: dict[str, pa.Table]) -> Path:
        work, cell_ids = loaded.work, loaded.cell_ids(rows)
        screen = screen_table(scored, cell_ids=cell_ids, names=loaded.names)
        tables = {
            "audit": audit_table(scored, screen, first_cell=work.edges[unit]),
            "audit_cells": audit_cells_table(scored, cell_ids=cell_ids, settings=work.settings),
        }
        return loaded.write(tables | pairs | {"screen": screen}, unit)

    # Once all units are there

    def verify(self, job: VerifyJob) -> Verified:
        return verify_screen(job)

    def joined(self, verified: Verified) -> Callable[[int, pa.Table], pa.Table]:
        return by_unit(verified)

    def join(self, run: ShardedRun, sources: Sequence[ShardedRun], verified: Verified, out: Path) -> dict[str, Any]:
        return join_audit(run, sources, verified, out)

    def close(self, run: ShardedRun) -> None:
        warn_if_short(run.folder, run.manifest)


def fast_engine_of(loaded: LoadedScreen) -> FastEngine:
    """The fast engine of a screen whose model is loaded."""
    return effort.fast_engine(loaded.engine, loaded.work.settings)
