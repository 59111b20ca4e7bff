"""Embedder: token rows -> cell embeddings, in the caller's order with the caller's cell ids."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from rankcell.embed.embedding_tables import CELLS, Result, memory_table, obsm_keys
from rankcell.embed.options import KEY, LAYER, POOL
from rankcell.embed.unit_cells import BatchResult, Unit, UnitResult, Work
from rankcell.errors import SettingsError
from rankcell.model import Batch, Checkpoint, Encoder, collate, plan_batches
from rankcell.model.device_memory import Memory, release
from rankcell.model.devices import choose_device, devices_of, one_device
from rankcell.model.encoder import budget_for, unit_size
from rankcell.model.finite import require_finite
from rankcell.model.options import Compute, Model
from rankcell.model.pools import Output, choose_outputs
from rankcell.model.precisions import faster_precisions, precision_on
from rankcell.tokens.tokenset import TokenSet
from rankcell.wording import note, python_verb

TOKENS_PER_UNIT = 500_000  # what is computed before anything is brought home, at least
LEAST_COSINE = 0.9999  # of a cell's embedding in bf16 with the same in fp32, for `auto` to keep bf16
_PROBE = 16_384  # tokens, at least, that "auto" looks at


@dataclass(frozen=True)
class Embeddings:
    """What an embedding run gives: `cell_ids`, `columns` (`<pool>_layer<n>` -> float32 [cells, width]), and its `meta` (plain JSON).

    `read_obs()`: the cells' annotations as a DataFrame with the ids as its index (TokenSet.obs_df); None where there were no tokens.
    """

    cell_ids: list[str]
    columns: dict[str, np.ndarray]
    meta: dict[str, Any] = field(default_factory=dict)
    read_obs: Callable[[], Any] | None = None

    def obsm(self, key: str = KEY) -> dict[str, np.ndarray]:
        """The columns under their AnnData names: `key` when there is one, `<key>_<pool>_layer<n>` when there are several."""
        return {k: self.columns[name] for k, name in obsm_keys(list(self.columns), key).items()}

    def result(self) -> Result:
        """The same as what a store is given."""
        return Result({CELLS: memory_table(CELLS, {"cell_id": self.cell_ids, **self.columns})}, self.meta)


class Embedder:
    """Runs a checkpoint over token rows and pools its states.

    model
        A checkpoint folder, a hub name, `demo` (a toy of 765 genes, by name only), a Checkpoint, or a Model of these with the vocabulary
        that completes it; `meta["vocab_mismatch"]` says where that has other tokens.
    compute
        The device (several with commas, and "auto": all GPUs alike, share what is written to a store), the tokens of a batch, and the
        precision: "auto" takes the fastest that the device and the model gain from and with which the first cells' embeddings keep a
        cosine of 0.9999 with fp32's, else fp32 (`meta["precision_check"]` says which and why).
    """

    def __init__(self, model: str | os.PathLike | Checkpoint | Model | None = None, compute: Compute = Compute()):
        self.devices = devices_of(compute.device)
        precision_on(compute.precision, choose_device(self.devices[0]))
        model = Model.of(model)
        self.checkpoint = model.open()
        self.model = model.name_or(self.checkpoint)
        self._budget = self.requested_tokens_per_batch = compute.tokens_per_batch
        self._requested_device, self._device, self._precision = compute.device, self.devices[0], compute.precision
        self._encoder: Encoder | None = None
        self._description: dict[str, Any] | None = None
        self._checked: dict[str, Any] | None = None

    @property
    def tokens_per_batch(self) -> int:
        """Most tokens that the model is given at once: what was asked for, or less where memory has run out."""
        planned = self.planned_tokens_per_batch
        return planned if self._encoder is None else self._encoder.memory.limit("tokens", planned)

    @property
    def planned_tokens_per_batch(self) -> int:
        """The same before any memory has run out."""
        if self._budget is None:
            self._budget = budget_for(self.checkpoint, self._device, self._precision)
        return self._budget

    def tokens_per_unit(self, least: int) -> int:
        """Tokens a unit of work on this device, at least `least`."""
        return unit_size(self._device, self.planned_tokens_per_batch, least)

    def restore_budget(self, tokens_per_batch: int | None) -> None:
        """Restore the budget (tokens per batch) of an earlier start of the same run; None or 0: none."""
        self._budget = tokens_per_batch or self._budget

    @property
    def encoder(self) -> Encoder:
        """The loaded model; loaded when first asked for, so that settings are checked before. Without a check, "auto" is fp32."""
        if self._encoder is None:
            settled = self._precision if self._description is None else self._description["precision"]
            self._encoder = Encoder(self.checkpoint, device=self._device, precision=settled)
        return self._encoder

    @property
    def description(self) -> dict[str, Any]:
        """Encoder.description, also once the model is released."""
        if self._encoder is not None or self._description is None:
            self._description = self.encoder.description
        return self._description

    def require_one_device(self) -> None:
        """SettingsError where several devices were named for work that is not shared out."""
        if self._requested_device != "auto":
            one_device(self._requested_device)

    def release(self) -> None:
        """Let go of the loaded model and of its device's memory; it is loaded again when it is asked for."""
        _ = self.description
        device, self._encoder = self._encoder.device if self._encoder else None, None
        if device is not None and device.type != "cpu":
            release(device)

    @contextlib.contextmanager
    def one_run(self) -> Iterator["Embedder"]:
        """An Embedder for one run, as this one was constructed, which has its loaded model meanwhile.

        What the run settles (precision, budget) and what its memory was found to hold is not carried to another.
        """
        run = Embedder(self.checkpoint, Compute(self._requested_device, self._precision, self.requested_tokens_per_batch))
        run.model = self.model
        settles = self._precision == "auto" and bool(faster_precisions(choose_device(self._device), self.checkpoint.width))
        if settles and self._encoder is not None:
            self.release()
        if self._encoder is not None:
            run._encoder, self._encoder = self._encoder, None
            run._encoder.memory = Memory(run._encoder.device, precision=run._encoder.precision)
        try:
            yield run
        finally:
            if not settles:
                self._encoder, run._encoder = run._encoder, None

    def check(self, tokens: TokenSet, pool: str | Sequence[str], layer: int | Sequence[int]) -> list[Output]:
        """The outputs; raises when tokens, pools or layers do not fit the model."""
        self.checkpoint.require(tokens.spec, int(tokens.lengths.max(initial=0)))
        tokens.require_rows(self.checkpoint.vocab)
        return choose_outputs(_several(pool), self.layers(layer), tokens.frame)

    def layers(self, layer: int | Sequence[int]) -> dict[int, int]:
        """{layer as typed: number of blocks}."""
        blocks_of_layer = {n: self.checkpoint.resolve_layer(n) for n in _several(layer)}
        if not blocks_of_layer:
            raise SettingsError("no layer was asked for")
        return blocks_of_layer

    @python_verb(**{name: name for name in ("device", "precision", "tokens_per_batch")})  # which are the constructor's
    def embed(
        self,
        tokens: TokenSet,
        *,
        pool: str | Sequence[str] = POOL,
        layer: int | Sequence[int] = LAYER,
        progress: Callable[[int, int], None] | None = None,
    ) -> Embeddings:
        """Pooled states of every cell, for every pool and layer, from one pass.

        Columns are named `<pool>_layer<n>` with the layer as typed (-1: output of the last block; 0: embedding layer).
        Cells without genes get NaN and are counted in one RankcellWarning. `progress(cells_done, cells)` per batch.
        """
        self.require_one_device()
        work = Work(self.check(tokens, pool, layer))
        self.settle_precision(tokens, work.outputs)
        warn_of_empty(tokens)
        columns = {o.name: np.empty((len(tokens), self.checkpoint.width * len(o.pools)), np.float32) for o in work.outputs}
        tick = Ticker(tokens, progress)
        for a, b in units_of(tokens.lengths, self.tokens_per_unit(TOKENS_PER_UNIT)):
            for name, values in self.run(tokens, np.arange(a, b), work, tick=tick.add).cells.items():
                columns[name][a:b] = values
        return Embeddings(tokens.cell_ids, columns, self.meta(tokens, work.outputs), tokens.obs_df)

    def settle_precision(self, tokens: TokenSet, outputs: list[Output]) -> None:
        """Decide what "auto" means for these tokens, once: the first faster precision whose embeddings of the first cells agree with fp32's."""
        if self._precision != "auto" or self._encoder is not None or not outputs:
            return
        faster = faster_precisions(choose_device(self._device), self.checkpoint.width)
        rows = _probe_rows(tokens, max(_PROBE, self.tokens_per_batch)) if faster else ()
        if not len(rows):
            return

        def embeddings(precision: str) -> tuple[Encoder, dict[str, np.ndarray]]:
            self._encoder = Encoder(self.checkpoint, device=self._device, precision=precision)
            return self._encoder, self._run(tokens, rows, Work(outputs)).cells

        exact_encoder, exact = embeddings("fp32")
        for precision in faster:
            encoder, lower = embeddings(precision)
            worst, name = min((_least_cosine(exact[o.name], lower[o.name]), o.name) for o in outputs)
            is_accurate = worst >= LEAST_COSINE
            self._encoder = encoder if is_accurate else exact_encoder
            settled = precision if is_accurate else "fp32"
            self._checked = {"kept": settled, "tried": precision, "cells": len(rows), "least_cosine": worst, "output": name}
            if is_accurate:
                return

    def run(self, tokens: TokenSet, rows: np.ndarray, work: Work, *, tick: Callable[[int], None] | None = None) -> UnitResult:
        """All that `work` asks for of the cells at `rows`, in their order. NaN for cells without genes. `tick(cells)` per batch.

        ModelError where the states of a cell with genes are no finite numbers.
        """
        result = self._run(tokens, rows, work, tick=tick)
        filled = tokens.n_genes[rows] > 0
        parts = [*(values[filled] for values in result.cells.values()), *result.genes.values()]
        is_finite = all(np.isfinite(part).all() for part in parts) and (work.sums is None or work.sums.is_finite)
        require_finite(is_finite, self.encoder.precision)
        return result

    def _run(self, tokens: TokenSet, rows: np.ndarray, work: Work, *, tick: Callable[[int], None] | None = None) -> UnitResult:
        unit = Unit(self.encoder, tokens, rows, work)
        filled = rows[tokens.n_genes[rows] > 0]
        plan = [filled[at] for at in plan_batches(tokens.lengths[filled], tokens_per_batch=self.tokens_per_batch)]
        with torch.inference_mode(), self.encoder.pinned(), ThreadPoolExecutor(1) as ahead:
            for batch in _prepared(ahead, tokens, plan):
                work_on = functools.partial(_compute, unit, batch)
                for _, result in self.encoder.memory.batches(batch.lengths, work_on, tokens_per_batch=self.tokens_per_batch):
                    unit.keep(result)
                    if tick:
                        tick(len(result.at))
        return unit.home()

    def meta(self, tokens: TokenSet, outputs: list[Output]) -> dict[str, Any]:
        """What an embedding says of itself: plain JSON."""
        facts = {
            "model": self.checkpoint.name,
            "model_hash": self.checkpoint.hash,
            "model_source": self.checkpoint.source,
            **self.checkpoint.remarks,
            "width": self.checkpoint.width,
            "vocabulary": tokens.spec.vocabulary,
            "vocabulary_hash": tokens.spec.vocabulary_hash,
            "frame": tokens.frame.to_json(),
            "outputs": {o.name: o.describe(self.checkpoint.width) for o in outputs},
            "n_cells_without_genes": int((tokens.n_genes <= 0).sum()),
            "version": tokens.spec.version,
        } | self.description
        facts |= {"cropping": dict(tokens.spec.cropping)} if tokens.spec.cropping.get("cropped") else {}
        return facts | ({"precision_check": self._checked} if self._checked else {})


def _compute(unit: Unit, batch: Batch, at: np.ndarray) -> BatchResult:
    return unit.compute(batch.taken(at))


class Ticker:
    """Cells done, of those that have genes."""

    def __init__(self, tokens: TokenSet, progress: Callable[[int, int], None] | None, *, cells: int | None = None):
        self._progress, self._done = progress, 0
        self._all = int((tokens.n_genes > 0).sum()) if cells is None else cells

    def add(self, cells: int) -> None:
        self._done += cells
        if self._progress:
            self._progress(self._done, self._all)


def _prepared(ahead: ThreadPoolExecutor, tokens: TokenSet, plan: list[np.ndarray]) -> Iterator[Batch]:
    """The batches of a plan, each collated while the model runs on the one before."""

    def make(rows: np.ndarray) -> Batch:
        return collate([tokens.row(i) for i in rows], rows)

    coming = [ahead.submit(make, rows) for rows in plan[:1]]
    for following in [*plan[1:], None]:
        batch = coming.pop().result() if coming else None
        if following is not None:
            coming.append(ahead.submit(make, following))
        if batch is not None:
            yield batch


def units_of(lengths: np.ndarray, tokens_per_unit: int) -> list[tuple[int, int]]:
    """Rows cut into neighbouring ranges of about `tokens_per_unit` tokens."""
    unit = (np.cumsum(lengths) - lengths) // tokens_per_unit
    edges = [*np.flatnonzero(np.diff(unit, prepend=-1)).tolist(), len(lengths)]
    return [(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True) if b > a]


def warn_of_empty(tokens: TokenSet) -> None:
    n = int((tokens.n_genes <= 0).sum())
    if n:
        note(f"{n:,} of {len(tokens):,} cells have no genes: their embeddings are NaN")


def _probe_rows(tokens: TokenSet, budget: int) -> np.ndarray:
    """Cells of all lengths, evenly drawn, of about `budget` tokens."""
    filled = np.flatnonzero(tokens.n_genes > 0)
    ordered = filled[np.argsort(-tokens.lengths[filled], kind="stable")]
    n = max(1, int(budget // max(1.0, tokens.lengths[filled].mean()))) if len(filled) else 0
    return np.sort(ordered[np.unique(np.linspace(0, len(ordered) - 1, min(n, len(ordered)), dtype=np.int64))]) if n else filled


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row of `a` with the same row of `b`; 1 where both are zero."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    size = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.where(size > 0, (a * b).sum(1) / np.where(size > 0, size, 1), (a == b).all(1))


def _least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The smallest cosine of rows; -1 where one is no number."""
    return float(np.nan_to_num(_cosines(a, b), nan=-1.0).min())


def _several(value: Any) -> list[Any]:
    return [value] if isinstance(value, (str, int, np.integer)) else list(dict.fromkeys(value))
