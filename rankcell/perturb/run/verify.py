"""The largest predictions of a whole screen, run exactly once all units are there."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from rankcell.execute import UnitJob, run_units
from rankcell.model.devices import has_idle_processor
from rankcell.perturb.edits.plan import RowEdits
from rankcell.perturb.fast.audit_tables import set_values
from rankcell.perturb.fast.effort import fast_engine, pass_of
from rankcell.perturb.results.screen_tables import numbers, read_shard, shard_damage, write_shard
from rankcell.perturb.run.counting import Ticks, TokenCount
from rankcell.perturb.run.loaded import LoadedScreen, VerifyJob, threads_as_begun
from rankcell.perturb.run.prepared import read_prepared
from rankcell.scores import IN_PLACE, Score
from rankcell.store import ShardedRun, content_hash

_VERIFIER = "rankcell.perturb.run.verify:open_verification"


class Chosen(NamedTuple):
    """Rows of a screen, in its order: the unit of each, and its row in the unit's shard (int64)."""

    unit: np.ndarray
    row: np.ndarray


def verify_screen(job: VerifyJob) -> dict[int, pa.Table]:
    """Run the largest predictions of a fast screen exactly, as far as they are not done: {unit: its rows that were}.

    The rows of a table: `cell` (number in the screen), `row` (in the shard of its unit), and every score. The same rows are chosen
    whenever this is called, and what is chosen is in the names of the shards.
    """
    run = job.run
    chunks = _Chunks.of(run, job.sources)
    pending = [n for n in range(chunks.n) if shard_damage(run, chunks.kind, n) is not None]  # damaged or not there yet
    units = UnitJob(_VERIFIER, run.folder, pending, job.devices)
    run_units(units, TokenCount(job.progress), worker=lambda: _Verifier(chunks, job.load()), release=job.release)
    if not chunks.n:
        return {}
    verified = pa.concat_tables([read_shard(run, chunks.kind, n) for n in range(chunks.n)])
    at = verified["unit"].to_numpy()
    return {int(u): verified.filter(pa.array(at == u)) for u in np.unique(at)}


@dataclass(frozen=True)
class _Chunks:
    """The rows that are verified, in chunks of neighbours: chunk n is rows `edges[n]` to `edges[n + 1]` of `chosen`."""

    home: ShardedRun
    sources: Sequence[ShardedRun]
    chosen: Chosen
    edges: Sequence[int]

    @classmethod
    def of(cls, run: ShardedRun, sources: Sequence[ShardedRun]) -> "_Chunks":
        settings = run.manifest["settings"]
        n_verified, none = settings.get("verify_screen", 0), np.empty(0, np.int64)
        chosen = choose(sources, settings["verify_by"], n_verified) if n_verified else Chosen(none, none)
        return cls(run, sources, chosen, _edges(chosen, sources, settings["tokens_per_unit"]) if len(chosen.unit) else [0])

    @property
    def n(self) -> int:
        return len(self.edges) - 1

    @functools.cached_property
    def kind(self) -> str:
        return f"verified-{content_hash([self.chosen.unit.tolist(), self.chosen.row.tolist()])[:12]}"

    def compute(self, loaded: LoadedScreen, number: int, progress: Ticks) -> Callable[[], Path]:
        """Run a chunk; the function that is returned writes it."""
        a, b = self.edges[number], self.edges[number + 1]
        rows = Chosen(self.chosen.unit[a:b], self.chosen.row[a:b])
        return functools.partial(write_shard, _run_chunk(loaded, rows, self.sources, progress), self.home, self.kind, number)


@dataclass(frozen=True)
class _Verifier:
    """Runs chunks on one device (rankcell.execute.Worker)."""

    chunks: _Chunks
    loaded: LoadedScreen

    @property
    def leaves_processor_idle(self) -> bool:
        return has_idle_processor(self.loaded.engine.encoder.device)

    def compute(self, unit: int, tick: Callable[[int], None]) -> Callable[[], Path]:
        return self.chunks.compute(self.loaded, unit, tick)

    def finish(self) -> None:
        """Nothing is left once the chunks are done."""


@contextlib.contextmanager
def open_verification(folder: str, device: str, name: str) -> Iterator[_Verifier]:
    """The verification of a screen whose units are all in one folder, on one device (rankcell.execute)."""
    work = read_prepared(folder)
    with threads_as_begun(work):
        yield _Verifier(_Chunks.of(work.run, [work.run] * work.n_units), LoadedScreen.open(work, device))


def choose(sources: Sequence[ShardedRun], score: str, n: int) -> Chosen:
    """Choose the `n` rows with the largest predicted effects by `score` that were not run; of equal ones the first."""
    unit, row, size = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    for number, source in enumerate(sources):
        table = read_shard(source, "screen", number, [score, f"exact{pass_of(score)}"])
        value = np.abs(Score.parse(score).effect(table[score].to_numpy()))
        at = np.flatnonzero(~table.column(1).to_numpy() & np.isfinite(value))
        unit, row = np.concatenate([unit, np.full(len(at), number)]), np.concatenate([row, at])
        size = np.concatenate([size, value[at]])
        best = np.sort(np.argsort(-size, kind="stable")[:n])
        unit, row, size = unit[best], row[best], size[best]
    return Chosen(unit, row)


def _edges(chosen: Chosen, sources: Sequence[ShardedRun], tokens_per_chunk: int) -> list[int]:
    """Where the chunks begin, and the end: rows of about so many edited tokens together."""
    tokens = np.zeros(len(chosen.unit), np.int64)
    for unit in np.unique(chosen.unit):
        here = chosen.unit == unit
        tokens[here] = read_shard(sources[unit], "screen", int(unit), ["n_tokens"])["n_tokens"].to_numpy()[chosen.row[here]]
    chunk = (np.cumsum(tokens) - tokens) // tokens_per_chunk
    return [*np.flatnonzero(np.diff(chunk, prepend=-1)).tolist(), len(tokens)]


def _run_chunk(loaded: LoadedScreen, chosen: Chosen, sources: Sequence[ShardedRun], progress: Ticks) -> pa.Table:
    parts = []
    for unit in np.unique(chosen.unit).tolist():
        rows = chosen.row[chosen.unit == unit]
        screen = read_shard(sources[unit], "screen", unit).take(pa.array(rows))
        parts.append(_run_rows(loaded, unit, rows, screen, progress))
    return pa.concat_tables(parts)


def _run_rows(loaded: LoadedScreen, unit: int, rows: np.ndarray, screen: pa.Table, progress: Ticks) -> pa.Table:
    """Rows of one unit with all scores exact; only the passes that were not run are run."""
    work, fast = loaded.work, fast_engine(loaded.engine, loaded.work.settings)
    first = work.edges[unit]
    tokens = [work.tokens.row(int(i)) for i in work.rows[first : work.edges[unit + 1]]]
    edits = [work.plan.of_row(row) for row in tokens]
    ends = np.cumsum([len(e) for e in edits])
    cell = np.searchsorted(ends, rows, side="right")
    inside = rows - np.concatenate([[0], ends])[cell]
    lacks = {which: ~screen[f"exact{which}"].to_numpy() for which in _passes(screen)}
    names = [n + which for n in fast.plain_names for which in lacks]
    values = {n: screen[n].to_numpy().copy() for n in names}
    for pattern in np.unique(np.stack(list(lacks.values()), axis=1), axis=0):
        passes = [which for which, lacking in zip(lacks, pattern, strict=True) if lacking]
        at = np.flatnonzero(np.all([lacks[w] == p for w, p in zip(lacks, pattern, strict=True)], axis=0))
        if passes:
            _score_edits(loaded, tokens, edits, (cell[at], inside[at]), passes, at, values, progress)
    columns = {"unit": pa.array(np.full(len(rows), unit)), "cell": pa.array(first + cell), "row": pa.array(rows)}
    return pa.table(columns | {n: numbers(v) for n, v in fast.with_parts(values).items()})


def _score_edits(
    loaded: LoadedScreen,
    tokens: Sequence[np.ndarray],
    edits: Sequence[RowEdits],
    place: tuple[np.ndarray, np.ndarray],
    passes: Sequence[str],
    at: np.ndarray,
    values: dict[str, np.ndarray],
    progress: Ticks,
) -> None:
    """Score edits exactly in `passes` and write the scores into `values` at `at`; `place`: cell and number in it, ascending."""
    cell, inside = place
    here = np.unique(cell)
    selected_edits = [edits[c].chosen(inside[cell == c]) for c in here]
    scored = loaded.engine.run_edits([tokens[c] for c in here], selected_edits, passes=passes, progress=progress)
    for score in values:
        if pass_of(score) in passes:
            values[score][at] = scored.scores[score]


def _passes(screen: pa.Table) -> list[str]:
    return [which for which in ("", IN_PLACE) if f"exact{which}" in screen.column_names]


def with_verified(table: pa.Table, verified: pa.Table) -> pa.Table:
    """Insert the verified rows into the screen of a unit."""
    rows = verified["row"].to_numpy()
    for which in _passes(table):
        table = set_values(table, f"exact{which}", rows, np.ones(len(rows), bool))
    for name in verified.column_names[3:]:
        table = set_values(table, name, rows, verified[name].to_numpy())
    return table


def by_unit(verified: Mapping[int, pa.Table]) -> Callable[[int, pa.Table], pa.Table]:
    """The function (unit, its screen) -> the screen with its verified rows."""
    return lambda unit, table: with_verified(table, verified[unit]) if unit in verified else table
