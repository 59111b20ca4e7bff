"""One screen on its way: what it is, prepared once, run unit by unit, finished."""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.embed.carried import note_left_out
from rankcell.errors import SettingsError
from rankcell.model import Encoder
from rankcell.model.batches import TOKENS_PER_BATCH
from rankcell.model.devices import choose_device
from rankcell.model.encoder import threads_as
from rankcell.model.workers import run_here, run_on, warn_of_threads
from rankcell.perturb.edits.plan import EditPlan
from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.exact.shift_precision import FEW, probe_rows
from rankcell.perturb.exact.states import StateEmbeddings, embed_states, read_states, rows_of_states, split_state, states_hash
from rankcell.perturb.fast import effort
from rankcell.perturb.fast.epistasis import tokens_of_pairs
from rankcell.perturb.fast.fast_engine import FastEngine, refuse, verify_score
from rankcell.perturb.fast.ratios import measure
from rankcell.perturb.results.screen_tables import STATES, Screen
from rankcell.perturb.run.cells_table import columns_left_out
from rankcell.perturb.run.estimate import Estimate
from rankcell.perturb.run.merge import finish
from rankcell.perturb.run.prepared import OWN, Prepared, is_begun, is_prepared, prepare, read_prepared, remove_work, settings_in
from rankcell.perturb.run.runtime import Runtime
from rankcell.perturb.run.screen_config import AUTO, TOKENS_PER_UNIT, Asked, rows_hash
from rankcell.perturb.run.survey import Survey, tokens_of_rows
from rankcell.perturb.run.verify import verify_screen
from rankcell.perturb.run.worker import Amount, Count, TokenCount, Worker
from rankcell.scores import Score
from rankcell.store import LOCK, ShardedRun, content_hash, locked, result_folder
from rankcell.store.parts import Part, PartDone, preparing
from rankcell.tokens.cropping import note_cropping
from rankcell.tokens.spec import input_facts
from rankcell.tokens.tokenset import TokenSet
from rankcell.wording import option

Progress = Callable[[int, int], None] | None
_WORKER, _VERIFIER = "rankcell.perturb.run.worker:open_worker", "rankcell.perturb.run.verify:open_verification"


@dataclass
class Job:
    """What is to be run: cells `rows` of `tokens` by `plan`; `given`: states that are not of these cells;
    `tokens_per_unit`: see `settle_units`; `effort` and `ratios`: settings that are decided when it begins."""

    runtime: Runtime
    tokens: TokenSet
    tokens_folder: Path | None
    asked: Asked
    plan: EditPlan
    rows: np.ndarray
    given: StateEmbeddings
    tokens_per_unit: int = TOKENS_PER_UNIT
    effort: dict[str, int] = field(default_factory=dict)
    ratios: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, runtime: Runtime, tokens: TokenSet | str | os.PathLike, asked: Asked, states: Any) -> "Job":
        """Everything that can be refused without the model's weights is refused here."""
        checkpoint, folder = runtime.checkpoint, None
        if not isinstance(tokens, TokenSet):
            folder = Path(tokens)
            tokens = TokenSet.open(folder, vocab=None if (folder / "rankcell.json").exists() else checkpoint.vocab)
            note_cropping(tokens.spec)
        checkpoint.require(tokens.spec, int(tokens.lengths.max(initial=0)))
        tokens.require_rows(checkpoint.vocab)
        note_left_out(columns_left_out(tokens), "cells.parquet")
        plan = asked.plan(checkpoint.vocab, tokens, min(tokens.spec.max_len, checkpoint.max_positions))
        if asked.is_fast:
            refuse(asked, plan)
        rows = asked.choose(tokens)
        job = cls(runtime, tokens, folder, asked, plan, rows, StateEmbeddings({}))
        job.given = job._given_states(states)
        rows_of_states(tokens, asked.states_asked)
        if asked.is_fast:
            _ = job.verify_by
        return job

    def settle_units(self, out: Path, *, part: Part | None, force: bool) -> None:
        """Decide `tokens_per_unit`: what is asked for, else that of an earlier start in `out`, else what suits the device.

        A part that comes first keeps to what does not depend on its device: others may be run on other devices, in folders of
        their own, and be put together with it.
        """
        begun = None if force else settings_in(out).get("tokens_per_unit")
        least = TOKENS_PER_UNIT
        self.tokens_per_unit = self.asked.tokens_per_unit or begun or (least if part else self.runtime.embedder.tokens_per_unit(least))

    def _given_states(self, states: Any) -> StateEmbeddings:
        """States from a file, or as they are; SettingsError when they do not fit model, tokens or the states of the cells."""
        if states is None:
            return StateEmbeddings({})
        p = self.runtime
        typed = list(dict.fromkeys([p.layer, p.n_blocks, p.n_blocks - p.checkpoint.n_layers - 1]))
        given = states if isinstance(states, StateEmbeddings) else read_states(states, layers=typed)
        given.check(p.checkpoint)
        twice = set(given.names) & {split_state(t, "toward")[1] for t in self.asked.states_asked}
        if twice:
            raise SettingsError(f"state '{min(twice)}' is asked for twice, from the cells and from the file")
        unread = [s for s in given.names if (s, "cell") not in given.vectors and not self.tokens.frame.has_cls]
        if unread:
            raise SettingsError(
                f"state '{unread[0]}' is given for the CLS readout alone, and these tokens have no CLS: give its cell readout"
            )
        return given

    @functools.cached_property
    def states(self) -> StateEmbeddings:
        """All states: the means over cells, embedded now, and those that were given."""
        p, toward = self.runtime, self.asked.states_asked
        found = embed_states(p.embedder, self.tokens, toward, layer=p.layer).vectors if toward else {}
        both = StateEmbeddings(found | self.given.vectors, p.checkpoint.hash)
        both.check(p.checkpoint)
        return both

    @functools.cached_property
    def survey(self) -> Survey:
        """SettingsError when no cell has an edit."""
        found = Survey.of(self.tokens, self.rows, self.plan, self.runtime.checkpoint.vocab)
        if not found.edits.any():
            raise SettingsError(self._nothing())
        return found

    def _nothing(self) -> str:
        plan = self.plan
        names = plan.set_names or plan.labels(self.runtime.checkpoint.vocab)
        what = "all genes of the group" if len(plan.targets) == 1 and len(plan.targets[0]) > 1 else "any of the genes"
        named = f"{', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"
        return f"none of the {len(self.rows):,} cells holds {what} to {plan.kind} ({named}): nothing to do"

    @functools.cached_property
    def what(self) -> dict[str, Any]:
        """All that decides the result but the machine: plain JSON."""
        from rankcell import __version__

        p, asked, checkpoint = self.runtime, self.asked, self.runtime.checkpoint
        names = [split_state(t, "toward")[1] for t in asked.states_asked]
        held = {"model": checkpoint.name, "model_hash": checkpoint.hash, "vocabulary": checkpoint.vocab.name, "layer": p.layer}
        held |= checkpoint.remarks
        held |= asked.words(self.plan, checkpoint.vocab) | {"cells": len(self.rows), "start": asked.start, "toward": asked.states_asked}
        held |= {"states": [*names, *self.given.names], "distance": asked.distance, "readouts": asked.readouts, "affected": asked.collects}
        held |= {"affected_top": asked.affected_top, "readout_compat": asked.readout_compat, "max_len": self.plan.max_len}
        held |= {"tokens_per_unit": self.tokens_per_unit, "tokens_hash": self.tokens.fingerprint, "cells_hash": rows_hash(self.rows)}
        held |= {"plan_hash": content_hash(self.plan.to_json()), "states_hash": states_hash(self.given), "version": __version__}
        if asked.is_fast:
            held |= {n: asked.fast(n) for n in ("method", "audit", "verify_top", "verify_screen", "min_recall")}
            held |= {n: asked.fast(n) for n in ("epistasis", "verify_pairs") if asked.epistasis is not None}
            held |= {"verify_by": self.verify_by} | {n: v for n, v in self._effort_asked.items() if v != AUTO}
        return held | ({"uncropped_hash": self._uncropped_hash()} if asked.refill else {})

    def _uncropped_hash(self) -> str:
        h = hashlib.sha256()
        for i in self.rows:
            h.update(self.tokens.uncropped(int(i)).astype("<i4").tobytes() + b"|")
        return h.hexdigest()

    def estimate(self) -> Estimate:
        """What the screen would take, after timing some of it; nothing is written."""
        self._settle()
        self._settle_ratios({}, may_measure=True)
        self._settle_effort({})
        engine = self._engine(self.runtime.embedder.encoder)
        return Estimate.of(self.fast(engine) if self.asked.is_fast else engine, self, n_devices=len(self.runtime.devices))

    def _engine(self, encoder: Encoder) -> Engine:
        return self.runtime.engine(encoder, plan=self.plan, states=self.states, asked=self.asked)

    @functools.cached_property
    def outline(self) -> Engine:
        """The engine without model and states, which knows what is scored and what a cell costs; the same on every machine."""
        readouts = ["cell", *(["cls"] if self.tokens.frame.has_cls else [])]
        none, named = np.zeros(0), [split_state(t, "toward")[1] for t in self.asked.states_asked]
        states = StateEmbeddings({(s, r): none for s in named for r in readouts} | self.given.vectors)
        engine = self.runtime.engine(None, plan=self.plan, states=states, asked=self.asked)
        return replace(engine, tokens_per_batch=TOKENS_PER_BATCH)

    @functools.cached_property
    def verify_by(self) -> str:
        """SettingsError when what is asked for is not predicted."""
        names = [n + which for n in self.outline.plain_names for which in self.plan.passes]
        asked = self.asked.verify_by
        if asked is not None and asked not in names:
            raise SettingsError(f"{option('verify_by', asked)} is not a score that is predicted; one of {', '.join(names)}")
        by = asked or verify_score(self.outline)
        if Score.parse(by).is_cosine and self.asked.fast("projections") == 0:
            none = option("projections", 0)
            add = f"add {option('toward', placeholder='COL=STATE')} (or {option('states')}), or leave out {none}"
            way = "verify by a movement toward a state" if asked else add
            raise SettingsError(f"{none} predicts no sizes of shift, and {option('verify_by')} is {by}: {way}")
        return by

    @property
    def _effort_asked(self) -> dict[str, int | str]:
        return {name: self.asked.fast(name) for name in ("splits", "projections")}

    def fast(self, engine: Engine, **effort_: int) -> FastEngine:
        """The fast engine with the effort that was settled, or another."""
        return effort.fast_engine(engine, self.what | self.effort | self.ratios | effort_)

    @functools.cached_property
    def alone(self) -> Survey:
        """As `work`, without the pairs of --epistasis."""
        return effort.with_cost(self.survey, self.fast(self.outline), self.tokens.lengths[self.rows])

    @functools.cached_property
    def work(self) -> Survey:
        """The survey with what the edits cost by the method asked for; known once the effort is."""
        if not self.asked.is_fast:
            return self.survey
        fast, lengths, n = self.fast(self.outline), self.tokens.lengths[self.rows], self.asked.epistasis
        if n is None:
            return self.alone
        pairs = tokens_of_pairs(fast, self.survey.edits, lengths, n=self.asked.fast("epistasis"), verify=self.asked.fast("verify_pairs"))
        return replace(self.alone, tokens=self.alone.tokens + pairs)

    @property
    def n_verified_tokens(self) -> int:
        """Tokens that the largest predictions of the whole screen will take, about."""
        n = min(self.asked.fast("verify_screen"), int(self.survey.edits.sum())) if self.asked.is_fast else 0
        return tokens_of_rows(n, self.tokens.lengths[self.rows], self.plan)

    def _settle_ratios(self, earlier: Mapping[str, Any], *, may_measure: bool) -> None:
        """Decide what the parts of a prediction take: as an earlier start measured it, else measured now; on a processor, and where
        nothing may be measured, the constants, of which the settings say nothing."""
        device = choose_device(self.runtime.devices[0])
        self.ratios = {n: v for n, v in earlier.items() if n == "ratios"}
        if may_measure and self.asked.is_fast and device.type != "cpu":
            rows = sorted((self.tokens.row(int(i)) for i in self._probed()), key=len)[-2:]
            projections = self._effort_asked["projections"]
            most = None if projections == AUTO else projections
            self.ratios = measure(self._engine(self.runtime.embedder.encoder), rows, functions=most).settings

    def _settle_effort(self, held: Mapping[str, Any]) -> dict[str, Any] | None:
        """Decide what is left to be chosen of splits and projections, or go on with what an earlier start came to."""
        asked = self._effort_asked if self.asked.is_fast else {}
        self.effort = {n: held.get(n, v) for n, v in asked.items() if v == AUTO}
        if AUTO not in self.effort.values():
            return None
        exact, by = self._engine(self.runtime.embedder.encoder), self.verify_by
        rows = [self.tokens.row(int(i)) for i in self._probed()]
        tries = effort.grid(asked["splits"], asked["projections"], by)
        engine_of = lambda splits, projections: self.fast(exact, splits=splits, projections=projections)  # noqa: E731
        found = effort.choose_effort(engine_of, rows, exact, self.asked.min_recall, tries=tries, verify_by=by)
        self.effort = {n: found[n] for n in self.effort}
        effort.note_choice(found, self.asked.min_recall)
        return found

    def longer(self, rows: np.ndarray) -> list[np.ndarray] | None:
        """The uncropped genes of some rows, where the plan refills from them."""
        return [self.tokens.uncropped(int(i)) for i in rows] if self.plan.options.refill else None

    def run(self, out: Path, *, part: Part | None, force: bool, progress: Progress) -> Screen | PartDone:
        """Prepare what is not prepared, run the units that are not done, and without `part` write the tables."""
        if force or not is_begun(out, self.what):
            _ = self.survey  # whether there is anything to do is known before a folder is made
        with _kept_when_useful(out), contextlib.ExitStack() as stack:
            if part is None:
                stack.enter_context(locked(out))
            with contextlib.nullcontext() if part is None else preparing(out, force=force):
                stack.enter_context(threads_as(None if force else settings_in(out).get("threads")))
                work = self._open(out, force=force, shared=part is not None)
            if work is None:
                screen = Screen(out, ShardedRun.read(out).manifest)
                screen.check()
                return screen
            if part is not None:
                stack.enter_context(locked(out, shared=True))
                stack.enter_context(locked(out, name=part.lock))
            count = self._run_units(work, part, progress)
            if part is not None:
                return PartDone(out, part, sum(map(work.is_done, range(work.n_units))), work.n_units)
            self._finish(work, count)
            return Screen(out, work.run.manifest)

    def _finish(self, work: Prepared, count: Count) -> None:
        sources, last = [work.run] * work.n_units, work.n_units
        worker = lambda: Worker(work, self.runtime.embedder.encoder)  # noqa: E731
        tick = functools.partial(count.tick, last)
        verified = verify_screen(
            work.run, sources, worker, tick, share=lambda chunks: self._shared(_VERIFIER, work, chunks, TokenCount(tick))
        )
        if verified:
            count.finish(last)
        finish(work.run, sources, work.run.folder, verified)

    def _shared(self, task: str, work: Prepared, units: Sequence[int], count: Any) -> bool:
        """Have units run by a process of each device, where there are several of both; whether they were."""
        devices = self.runtime.devices[: len(units)]
        if len(devices) < 2:
            return False
        warn_of_threads(devices)
        self.runtime.embedder.release()  # the GPU's memory is for whoever works there
        run_on(task, work.run.folder, units, devices, count)
        return True

    def _open(self, out: Path, *, force: bool, shared: bool) -> Prepared | None:
        """The prepared run; None when it is complete."""
        earlier = {} if force else settings_in(out)
        has_earlier = self.runtime.restore(earlier)
        check = None if has_earlier else self._settle()
        # parts in folders of their own measure nothing: they are to be cut into the same units
        self._settle_ratios(earlier if has_earlier else {}, may_measure=not has_earlier and not shared)
        tried = self._settle_effort(earlier if has_earlier else {})
        run = ShardedRun.open(out, self.what | self.runtime.settings | self.effort | self.ratios, force=force, shared=shared, own=OWN)
        if run.complete:
            remove_work(out)
            return None
        if not is_prepared(out):
            if self.what["states"]:
                self.states.save(out / STATES)
            parts = {"plan": self.plan, "survey": self.work, "checkpoint": self.runtime.checkpoint, "model": self.runtime.model}
            parts |= {"tokens_folder": self.tokens_folder, "tokens_per_unit": self.tokens_per_unit}
            unknown = self.asked.unknown_genes(self.runtime.checkpoint.vocab)
            if unknown:
                run.note(unknown_genes=unknown)
            if check is not None:
                run.note(precision_check=check)
            if self.tokens.spec.cropping.get("cropped"):
                run.note(cropping=dict(self.tokens.spec.cropping))
            if self.tokens.spec.source:
                run.note(input=input_facts(self.tokens.spec.source))
            if tried is not None:
                run.note(effort=tried)
            prepare(run, self.tokens, self.rows, **parts)
        return read_prepared(out, checkpoint=self.runtime.checkpoint, tokens=self.tokens)

    def _settle(self) -> dict[str, Any] | None:
        """Decide the precision by some edits of a few cells."""
        p, rows = self.runtime, self._probed()
        return p.settle_precision(
            self._engine,
            [self.tokens.row(int(i)) for i in rows],
            self.longer(rows),
        )

    def _probed(self) -> np.ndarray:
        """Rows of a few cells, of all lengths, to try things on."""
        some = np.flatnonzero(self.survey.edits)
        rich = some[self.survey.edits[some] >= min(FEW, self.survey.edits.max())]
        return self.rows[rich[probe_rows(self.tokens.lengths[self.rows[rich]])]]

    def _run_units(self, work: Prepared, part: Part | None, progress: Progress) -> Count:
        """Run what is not done; the count, in which what is verified at the end is still to come (as one unit more)."""
        units = [u for u in range(work.n_units) if part is None or part.has(u)]
        later = {work.n_units: n} if part is None and (n := work.n_verified_tokens) else {}
        amounts = {u: Amount(work.unit_tokens[u], work.unit_edits[u], work.edges[u + 1] - work.edges[u]) for u in units}
        count = Count(
            amounts | {u: Amount(n, min(self.asked.fast("verify_screen"), sum(work.unit_edits)), 0) for u, n in later.items()}, progress
        )
        left = []
        for unit in units:
            work.drop_damaged(unit)
            if work.is_done(unit):
                count.finish(unit)
            else:
                left.append(unit)
        if self._shared(_WORKER, work, left, count):
            return count
        if left:
            run_here(Worker(work, self.runtime.embedder.encoder), left, count)
        return count


@contextlib.contextmanager
def _kept_when_useful(folder: Path) -> Iterator[None]:
    """Make the folder; when that which follows fails before its manifest stands, nothing is left of it."""
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
