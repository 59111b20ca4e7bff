"""A screen on its way: prepared once, run unit by unit, finished."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rankcell.embed.carried import note_omitted_columns
from rankcell.errors import SettingsError
from rankcell.execute import UnitJob, run_units
from rankcell.model import Encoder
from rankcell.model.devices import choose_device, has_float64, warn_of_threads
from rankcell.model.encoder import threads_as
from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.exact.states import StateEmbeddings, embed_states, rows_of_states
from rankcell.perturb.results.screen_folder import ScreenFolder
from rankcell.perturb.results.screen_tables import STATES
from rankcell.perturb.run.cells_table import omitted_columns
from rankcell.perturb.run.counting import Amount, EditCount
from rankcell.perturb.run.estimate import Estimate
from rankcell.perturb.run.loaded import LoadedScreen, VerifyJob
from rankcell.perturb.run.merge import finish
from rankcell.perturb.run.methods import METHODS
from rankcell.perturb.run.prepared import OWN, Prepared, is_begun, is_prepared, prepare, read_prepared, remove_work, settings_in
from rankcell.perturb.run.run_plan import RunPlan, Settled, open_states
from rankcell.perturb.run.runtime import Runtime
from rankcell.perturb.run.screen_config import TOKENS_PER_UNIT, ScreenConfig
from rankcell.perturb.run.survey import tokens_of_rows
from rankcell.perturb.run.worker import Worker, drop_damaged
from rankcell.progress import Progress
from rankcell.store import LOCK, ShardedRun, locked, result_folder
from rankcell.store.parts import Part, PartDone, preparing
from rankcell.tokens.cropping import note_cropping
from rankcell.tokens.spec import input_facts
from rankcell.tokens.tokenset import TokenSet
from rankcell.wording import note, option

_WORKER = "rankcell.perturb.run.worker:open_worker"


def plan_screen(runtime: Runtime, tokens: Any, config: ScreenConfig, states: Any, *, tokens_per_unit: int) -> RunPlan:
    """Plan a screen. Everything that can be refused without the model's weights is refused here.

    tokens
        A TokenSet or the folder of one.
    states
        Further states (rankcell.perturb.read_states), or None.
    """
    checkpoint, folder = runtime.checkpoint, None
    checkpoint.resolve_layer(config.measure.layer)
    if not isinstance(tokens, TokenSet):
        folder = Path(tokens)
        tokens = TokenSet.open(folder, vocab=None if (folder / "rankcell.json").exists() else checkpoint.vocab)
        note_cropping(tokens.spec)
    checkpoint.require(tokens.spec, int(tokens.lengths.max(initial=0)))
    tokens.require_rows(checkpoint.vocab)
    note_omitted_columns(omitted_columns(tokens), "cells.parquet")
    edits = config.plan(checkpoint.vocab, tokens, min(tokens.spec.max_len, checkpoint.max_positions))
    rows = config.choose(tokens)
    further_states = open_states(states, checkpoint, config, tokens)
    rows_of_states(tokens, config.toward)
    plan = RunPlan(config, checkpoint, runtime.model, tokens, folder, edits, rows, further_states, tokens_per_unit)
    METHODS[config.method.method].check(plan)
    return plan


def unit_size(runtime: Runtime, config: ScreenConfig, out: Path | None, *, part: Part | None, force: bool) -> int:
    """Tokens of a unit: those of the config, else those of an earlier start in `out`, else what suits the device.

    A part that comes first keeps to what does not depend on its device: others may be run on other devices, in folders of
    their own, and be put together with it.
    """
    earlier = None if force or out is None else settings_in(out).get("tokens_per_unit")
    return config.method.tokens_per_unit or earlier or (TOKENS_PER_UNIT if part else runtime.embedder.tokens_per_unit(TOKENS_PER_UNIT))


def require_device(config: ScreenConfig, devices: list[str]) -> None:
    """SettingsError when a device lacks what the method needs."""
    method = METHODS[config.method.method]
    narrow = next((d for d in devices if method.needs_float64 and not has_float64(choose_device(d))), None)
    if narrow is not None:
        raise SettingsError(
            f"device '{narrow}' has no numbers of 64 bits, which {option('method', method.name)} needs: choose {option('device', 'cpu')}, or {option('method', 'exact')}"
        )


class ScreenRun:
    """Runs the units of a plan with a loaded model, and writes their tables."""

    def __init__(self, runtime: Runtime, plan: RunPlan):
        self.runtime, self.plan = runtime, plan
        self.method = METHODS[plan.config.method.method]

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """All that decides the result but the machine, and what is settled when it begins."""
        return self.plan.settings | self.method.settings(self.plan)

    @functools.cached_property
    def states(self) -> StateEmbeddings:
        """All states: the means over cells, embedded now, and the further ones."""
        plan, toward = self.plan, self.plan.config.toward
        means = embed_states(self.runtime.embedder, plan.tokens, toward, layer=plan.config.measure.layer).vectors if toward else {}
        states = StateEmbeddings(means | plan.further_states.vectors, plan.checkpoint.hash)
        states.check(plan.checkpoint)
        return states

    def _engine(self, encoder: Encoder | None = None) -> Engine:
        embedder = self.runtime.embedder
        return self.plan.engine(encoder or embedder.encoder, self.states, embedder.planned_tokens_per_batch)

    def _settle(self, earlier: Mapping[str, Any], *, may_measure: bool) -> Settled:
        device = choose_device(self.runtime.devices[0])
        return self.method.settle(self.plan, earlier, self._engine, device=device, may_measure=may_measure)

    def _settle_precision(self) -> dict[str, Any] | None:
        """Settle the precision by some edits of a few cells; the check, as the manifest has it."""
        rows = self.plan.probed
        return self.runtime.settle_precision(self._engine, [self.plan.tokens.row(int(i)) for i in rows], self.plan.uncropped_of(rows))

    def estimate(self) -> Estimate:
        """Estimate rows, time and room of the screen, after timing some of it; nothing is written."""
        self._settle_precision()
        settled = self._settle({}, may_measure=True)
        return Estimate.of(self.plan, self.method, settled, self._engine(), n_devices=len(self.runtime.devices))

    def run(self, out: Path, *, part: Part | None, force: bool, progress: Progress) -> ScreenFolder | PartDone:
        """Prepare what is not prepared, run the units that are not done, and without `part` write the tables."""
        if force or not is_begun(out, self.settings):
            _ = self.plan.survey  # whether there is anything to do is known before a folder is made
        with _removed_on_failure(out), contextlib.ExitStack() as stack:
            if part is None:
                stack.enter_context(locked(out))
            with contextlib.nullcontext() if part is None else preparing(out, force=force):
                stack.enter_context(threads_as(None if force else settings_in(out).get("threads")))
                work = self._open(out, force=force, shared=part is not None)
            if work is None:
                screen = ScreenFolder(out, ShardedRun.read(out).manifest)
                screen.check()
                return screen
            if part is not None:
                if not part.n_units(work.n_units):
                    note(
                        f"{option('shard', str(part))} has nothing to run: the screen has {work.n_units:,} {'unit' if work.n_units == 1 else 'units'} of work, "
                        f"fewer than {part.parts:,} parts"
                    )
                stack.enter_context(locked(out, shared=True))
                stack.enter_context(locked(out, name=part.lock))
            count = self._run_units(work, part, progress)
            if part is not None:
                return PartDone(out, part, sum(map(work.is_done, range(work.n_units))), work.n_units)
            self._finish(work, count)
            return ScreenFolder(out, work.run.manifest)

    def _open(self, out: Path, *, force: bool, shared: bool) -> Prepared | None:
        """The prepared run; None when it is complete."""
        earlier = {} if force else settings_in(out)
        has_earlier = self.runtime.restore(earlier)
        check = None if has_earlier else self._settle_precision()
        # parts in folders of their own measure nothing: they are to be cut into the same units
        settled = self._settle(earlier if has_earlier else {}, may_measure=not has_earlier and not shared)
        settings = self.settings | self.runtime.settings | dict(settled.settings)
        run = ShardedRun.open(out, settings, force=force, shared=shared, own=OWN)
        if run.complete:
            remove_work(out)
            return None
        if not is_prepared(out):
            if settings["states"]:
                self.states.save(out / STATES)
            run.note(**self._notes(check, settled))
            prepare(run, self.plan, self.method.cost(self.plan, settled))
        return read_prepared(out, checkpoint=self.plan.checkpoint, tokens=self.plan.tokens)

    def _notes(self, check: dict[str, Any] | None, settled: Settled) -> dict[str, Any]:
        """Notes of a manifest, beside its settings."""
        plan = self.plan
        notes = {
            "unknown_genes": plan.config.unknown_genes(plan.checkpoint.vocab),
            "precision_check": check,
            "cropping": dict(plan.tokens.spec.cropping) if plan.tokens.spec.cropping.get("cropped") else None,
            "input": input_facts(plan.tokens.spec.source) if plan.tokens.spec.source else None,
        }
        return {name: value for name, value in notes.items() if value} | dict(settled.note or {})

    def _release(self, devices: Any) -> None:
        """Release the model's memory on the devices before processes share them."""
        warn_of_threads(devices)
        self.runtime.embedder.release()

    def _loaded(self, work: Prepared) -> LoadedScreen:
        return LoadedScreen.of(work, self.runtime.embedder.encoder)

    def _run_units(self, work: Prepared, part: Part | None, progress: Progress) -> EditCount:
        """Run the units that are not done; the count, in which the edits to verify are still to come (as one unit more)."""
        units = [u for u in range(work.n_units) if part is None or part.has(u)]
        amounts = {u: Amount(work.unit_tokens[u], work.unit_edits[u], work.edges[u + 1] - work.edges[u]) for u in units}
        n_verified = self.method.n_verified(work.settings) if part is None else 0
        if n_verified:
            tokens = tokens_of_rows(n_verified, work.tokens.lengths[work.rows], work.plan)
            amounts[work.n_units] = Amount(tokens, min(n_verified, sum(work.unit_edits)), 0)
        count, pending = EditCount(amounts, progress), []
        for unit in units:
            drop_damaged(work, unit)
            if work.is_done(unit):
                count.finish(unit)
            else:
                pending.append(unit)
        job = UnitJob(_WORKER, work.run.folder, pending, self.runtime.devices)
        run_units(job, count, worker=lambda: Worker(self._loaded(work)), release=self._release)
        return count

    def _finish(self, work: Prepared, count: EditCount) -> None:
        sources, last = [work.run] * work.n_units, work.n_units
        tick = functools.partial(count.tick, last)
        job = VerifyJob(work.run, sources, lambda: self._loaded(work), self.runtime.devices, tick, self._release)
        verified = self.method.verify(job)
        if verified:
            count.finish(last)
        finish(work.run, sources, work.run.folder, verified)


@contextlib.contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    """Create a folder, and remove it when the block fails before its manifest stands."""
    is_new = not folder.exists()
    result_folder(folder)
    try:
        yield
    except BaseException:
        if is_new and all(p.name.startswith(LOCK) for p in folder.iterdir()):
            with contextlib.suppress(OSError):
                for lock in folder.iterdir():
                    lock.unlink()
                folder.rmdir()
        raise


