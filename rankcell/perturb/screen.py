"""Perturber: the screen as units of work, each a pure function of the manifest and its number, to one shard."""

import dataclasses
import hashlib
import itertools
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.embed import Embedder
from rankcell.errors import RankcellWarning, SettingsError
from rankcell.model import Checkpoint
from rankcell.perturb.edits import EditPlan
from rankcell.perturb.engine import AffectedSums, Engine
from rankcell.perturb.results import EDITS, STATES, Screen, join_affected, join_shards, screen_table, sums_table, write_table
from rankcell.perturb.states import StateEmbeddings, cells_of, embed_states, read_states
from rankcell.store import ShardedRun, check_result_folder, locked, result_folder
from rankcell.tokens.tokenset import TokenSet
from rankcell.vocab import Vocabulary

TOKENS_PER_UNIT = 250_000
COMPAT = ("rankcell", "geneformer")


class Perturber:
    """Runs in-silico perturbation screens with one checkpoint.

    model, vocab, device, precision, tokens_per_batch
        As for rankcell.Embedder; precision "auto" is fp32.
    layer
        Whose states are compared (-1: output of the last block; default the block before it).
    """

    def __init__(
        self,
        model: str | os.PathLike | Checkpoint = "demo",
        *,
        vocab: str | os.PathLike | Vocabulary | None = None,
        layer: int = -2,
        device: str = "auto",
        precision: str = "auto",
        tokens_per_batch: int | None = None,
    ):
        precision = "fp32" if precision == "auto" else precision  # shifts are far smaller than what bf16 keeps of a state
        self.embedder = Embedder(model, vocab=vocab, device=device, precision=precision, tokens_per_batch=tokens_per_batch)
        self.checkpoint = self.embedder.checkpoint
        self.layer = layer
        self.n_blocks = self.checkpoint.resolve_layer(layer)

    def perturb(
        self,
        tokens: TokenSet,
        out: str | os.PathLike,
        *,
        kind: str = "delete",
        genes: str | Sequence[str] = "all",
        group: bool = False,
        any: bool = False,
        start: str | None = None,
        toward: Sequence[str] = (),
        states: str | os.PathLike | StateEmbeddings | None = None,
        affected: bool = False,
        readout_compat: str = "rankcell",
        cells: int | None = None,
        seed: int | None = None,
        tokens_per_unit: int = TOKENS_PER_UNIT,
        force: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Screen:
        """Run a screen into the folder `out`, or go on with the same one there; returns it when it is complete.

        kind
            "delete" (the rest closes up; also scored `_in_place`) or "overexpress" (to the front, absent genes inserted).
        genes
            "all" (every gene that a cell holds, one by one), or names: one by one, or together with `group`.
        any
            With `group`: cells that hold only some of the group are edited too.
        start
            COL=STATE: only these cells are perturbed.
        toward
            COL=STATE, each adding `toward_<state>_...` scores; a state is the mean over all its cells in `tokens`.
        states
            Further states, from a file or DataFrame (rankcell.perturb.read_states) or as they are.
        affected
            Also aggregate the cosine of each affected gene (`affected.parquet`).
        readout_compat
            "geneformer" keeps the perturbed gene in the cell readout of `toward`.
        cells, seed
            The first `cells` cells in order, or that many drawn with `seed`; None: all.
        tokens_per_unit
            What is saved at once: whole cells of about so many edited tokens. A stop loses at most one unit.
        progress
            Called with (tokens through the model, tokens to come in all), an estimate.
        """
        check_result_folder(out)
        if tokens_per_unit < 1:
            raise SettingsError(f"tokens_per_unit is {tokens_per_unit}; at least 1")
        if readout_compat not in COMPAT:
            raise SettingsError(f"unknown readout compatibility '{readout_compat}'; one of {', '.join(COMPAT)}")
        self.checkpoint.require(tokens.spec, int(tokens.lengths.max(initial=0)))
        max_len = min(tokens.spec.max_len, self.checkpoint.max_positions)
        plan = EditPlan.make(self.checkpoint.vocab, kind=kind, genes=genes, group=group, any=any, frame=tokens.frame, max_len=max_len)
        rows = self._choose(tokens, start, cells, seed)
        todo = _Todo.make(tokens, rows, plan, tokens_per_unit)
        if not todo.n_edits:
            raise SettingsError(self._nothing(plan, len(rows)))
        vectors = self._states(tokens, toward, states)
        engine = Engine(
            self.embedder.encoder, plan, self.n_blocks, vectors, self.embedder.tokens_per_batch, readout_compat == "geneformer", affected
        )
        settings = self._settings(tokens, rows, engine, readout_compat, tokens_per_unit)
        with locked(result_folder(out)):
            run = ShardedRun.open(out, settings, force=force)
            if not run.complete:
                self._run_units(run, engine, tokens, todo, progress)
                self._finish(run, engine, tokens, todo)
            shutil.rmtree(run.folder / "shards", ignore_errors=True)
        return Screen(run.folder, run.manifest)

    def _choose(self, tokens: TokenSet, start: str | None, cells: int | None, seed: int | None) -> np.ndarray:
        """The rows to perturb, in the caller's order; cells without genes are left out and counted in a warning."""
        rows = np.arange(len(tokens)) if start is None else cells_of(tokens, start, "--start")
        if cells is not None and cells < 1:
            raise SettingsError(f"cells is {cells}; at least 1")
        if cells is not None and cells < len(rows):
            rows = rows[:cells] if seed is None else np.sort(np.random.default_rng(seed).choice(rows, cells, replace=False))
        empty = tokens.n_genes[rows] <= 0
        if empty.any():
            warnings.warn(f"{int(empty.sum()):,} of {len(rows):,} cells have no genes and give no rows", RankcellWarning, stacklevel=3)
        return rows[~empty]

    def _nothing(self, plan: EditPlan, n_cells: int) -> str:
        names = plan.labels(self.checkpoint.vocab)
        what = "all genes of the group" if len(plan.targets) == 1 and len(plan.targets[0]) > 1 else "any of the genes"
        return f"none of the {n_cells:,} cells holds {what} to {plan.kind} ({', '.join(names[:4])}{' ...' if len(names) > 4 else ''}): nothing to do"

    def _states(self, tokens: TokenSet, toward: Sequence[str], states: Any) -> StateEmbeddings:
        toward = [toward] if isinstance(toward, str) else list(toward)
        found = embed_states(self.embedder, tokens, toward, layer=self.layer).vectors if toward else {}
        if states is not None:
            typed = list(dict.fromkeys([self.layer, self.n_blocks, self.n_blocks - self.checkpoint.n_layers - 1]))
            given = states if isinstance(states, StateEmbeddings) else read_states(states, layers=typed)
            given.check(self.checkpoint)
            twice = set(given.names) & {s for s, _ in found}
            if twice:
                raise SettingsError(f"state '{min(twice)}' is asked for twice, from the cells and from the file")
            found = found | given.vectors
        vectors = StateEmbeddings(found, self.checkpoint.hash)
        unread = [s for s in vectors.names if (s, "cell") not in found and not tokens.frame.has_cls]
        if unread:
            raise SettingsError(
                f"state '{unread[0]}' is given for the CLS readout alone, and these tokens have no CLS: give its cell readout"
            )
        vectors.check_width(self.checkpoint.width, self.checkpoint.name)
        return vectors

    def _settings(self, tokens: TokenSet, rows: np.ndarray, engine: Engine, compat: str, tokens_per_unit: int) -> dict[str, Any]:
        """All that decides the result, to the last bit: plain JSON."""
        from rankcell import __version__

        h = hashlib.sha256()
        for (state, readout), v in engine.states.vectors.items():
            h.update(f"{state}|{readout}|".encode() + v.astype("<f8").tobytes())
        return {
            "model": self.checkpoint.name,
            "model_hash": self.checkpoint.hash,
            "vocabulary": self.checkpoint.vocab.name,
            "tokens_hash": tokens.fingerprint,
            "cells": len(rows),
            "cells_hash": hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest(),
            "kind": engine.plan.kind,
            "n_targets": len(engine.plan.targets),
            "targets_hash": hashlib.sha256(repr((engine.plan.targets, engine.plan.need_all)).encode()).hexdigest(),
            "layer": self.layer,
            "states": engine.states.names,
            "states_hash": h.hexdigest(),
            "affected": engine.affected,
            "readout_compat": compat,
            "max_len": engine.plan.max_len,
            "tokens_per_batch": engine.tokens_per_batch,
            "tokens_per_unit": tokens_per_unit,
            "version": __version__,
        } | self.embedder.encoder.description

    def _run_units(
        self, run: ShardedRun, engine: Engine, tokens: TokenSet, todo: "_Todo", progress: Callable[[int, int], None] | None
    ) -> None:
        genes = engine.plan.names(self.checkpoint.vocab)
        done = 0

        def tick(n: int) -> None:
            nonlocal done
            done = min(done + n, todo.n_tokens)
            if progress:
                progress(done, todo.n_tokens)

        for unit, rows in enumerate(todo.units):
            expected = todo.unit_tokens[unit]
            if run.shard("screen", unit).exists():
                tick(expected)
                continue
            before = done
            sums = AffectedSums(self.checkpoint.vocab.n_ids) if engine.affected else None
            edits, scores = engine.run([tokens.row(i) for i in rows], sums=sums, progress=tick)
            if sums is not None:
                write_table(sums_table(sums), run.shard("affected", unit))
            ids = [tokens.cell_ids[i] for i in rows]
            write_table(screen_table(edits, scores, cell_ids=ids, plan=engine.plan, genes=genes), run.shard("screen", unit))
            done = before
            tick(expected)

    def _finish(self, run: ShardedRun, engine: Engine, tokens: TokenSet, todo: "_Todo") -> None:
        vocab = self.checkpoint.vocab
        n_rows = join_shards(run, len(todo.units))
        genes, symbols = engine.plan.names(vocab), engine.plan.labels(vocab)
        if engine.affected:
            join_affected(run, len(todo.units), plan=engine.plan, genes=genes, vocab=vocab)
        if engine.states.vectors:
            engine.states.save(run.folder / STATES)
        kind = engine.plan.kind
        edits = {"edit": [f"{kind}:{g}" for g in genes], "kind": [kind] * len(genes), "genes": genes, "symbols": symbols}
        write_table(pa.table(edits), run.folder / EDITS)
        run.finish(n_rows=n_rows, n_cells=sum(map(len, todo.units)), n_skipped=todo.n_skipped, n_units=len(todo.units))


@dataclasses.dataclass(frozen=True)
class _Todo:
    """The cells of a screen cut into units: whole cells, about `tokens_per_unit` edited tokens each.

    `n_skipped`: cell and target combinations without a row (the cell lacks the gene, or nothing would change); null
    for "all", where the targets are the cell's own genes.
    """

    units: list[np.ndarray]
    unit_tokens: list[int]
    n_edits: int
    n_skipped: int | None

    @property
    def n_tokens(self) -> int:
        return sum(self.unit_tokens)

    @classmethod
    def make(cls, tokens: TokenSet, rows: np.ndarray, plan: EditPlan, tokens_per_unit: int) -> "_Todo":
        from rankcell.perturb.edits import KINDS

        counts = np.array([plan.count(tokens.row(i)) for i in rows], np.int64)
        passes = 2 if KINDS[plan.kind].in_place else 1
        cost = counts * tokens.lengths[rows] * passes
        unit_of = (np.cumsum(cost) - cost) // tokens_per_unit
        edges = [*np.flatnonzero(np.diff(unit_of, prepend=-1)), len(rows)]
        spans = list(itertools.pairwise(edges))
        units = [rows[a:b] for a, b in spans]
        skipped = int(len(rows) * len(plan.targets) - counts.sum()) if not plan.every_gene else None
        return cls(units, [int(cost[a:b].sum()) for a, b in spans], int(counts.sum()), skipped)
