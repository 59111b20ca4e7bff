"""Embedder: token rows -> cell embeddings, in the caller's order with the caller's cell ids."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from rankcell.embed.embedding_tables import Embeddings
from rankcell.embed.options import LAYER, POOL
from rankcell.embed.precision_check import least_cosine, probe_rows
from rankcell.embed.unit_cells import BatchResult, Unit, UnitResult, Work, prepared_batches
from rankcell.errors import SettingsError
from rankcell.model import Batch, Checkpoint, Encoder, plan_batches
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


class Embedder:
    """Embedding of token rows by a checkpoint: runs the model and pools its states.

    Parameters
    ----------
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
        """Most tokens that the model is given at once, before any memory has run out."""
        if self._budget is None:
            self._budget = budget_for(self.checkpoint, self._device, self._precision)
        return self._budget

    def tokens_per_unit(self, least: int) -> int:
        """Compute the tokens of a unit of work on this device.

        Parameters
        ----------
        least
            The least that a unit has.

        Returns
        -------
        int
            At least `least`.
        """
        return unit_size(self._device, self.planned_tokens_per_batch, least)

    def restore_budget(self, tokens_per_batch: int | None) -> None:
        """Restore the budget of an earlier start of the same run.

        Parameters
        ----------
        tokens_per_batch
            The budget; None or 0: none.
        """
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
        """Check that one device was named, for work that is not shared out.

        Raises
        ------
        SettingsError
            Where several were named.
        """
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
        """Make an Embedder for one run, as this one was constructed, which has its loaded model meanwhile.

        What the run settles (precision, budget) and what its memory was found to hold is not carried to another.

        Yields
        ------
        Embedder
            That of the run.
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
        """Check tokens, pools and layers against the model.

        Parameters
        ----------
        tokens
            The token rows.
        pool, layer
            As in `embed`.

        Returns
        -------
        list of Output
            The outputs, one per pool and layer.

        Raises
        ------
        RankcellError
            When tokens, pools or layers do not fit the model.
        """
        self.checkpoint.require(tokens.spec, int(tokens.lengths.max(initial=0)))
        tokens.require_rows(self.checkpoint.vocab)
        return choose_outputs(_several(pool), self.layers(layer), tokens.frame)

    def layers(self, layer: int | Sequence[int]) -> dict[int, int]:
        """Resolve layers into numbers of blocks.

        Parameters
        ----------
        layer
            Model layer, or several.

        Returns
        -------
        dict
            {layer as typed: number of blocks}.

        Raises
        ------
        SettingsError
            When none is given.
        """
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
        """Embed every cell, for every pool and layer, in one pass.

        Parameters
        ----------
        tokens
            The token rows.
        pool
            Poolings of a cell's states.
        layer
            Model layers (-1: output of the last block; 0: embedding layer).
        progress
            Called as `progress(cells_done, cells)` per batch.

        Returns
        -------
        Embeddings
            Pooled states: columns `<pool>_layer<n>` with the layer as typed. Cells without genes get NaN.

        Warns
        -----
        RankcellWarning
            One, with the number of cells without genes.
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
        """Settle what precision "auto" means for some tokens, once.

        It is the first faster precision whose embeddings of the first cells agree with fp32's.

        Parameters
        ----------
        tokens
            The token rows.
        outputs
            The outputs whose embeddings are compared.
        """
        if self._precision != "auto" or self._encoder is not None or not outputs:
            return
        faster = faster_precisions(choose_device(self._device), self.checkpoint.width)
        rows = probe_rows(tokens, max(_PROBE, self.tokens_per_batch)) if faster else ()
        if not len(rows):
            return

        def embeddings(precision: str) -> tuple[Encoder, dict[str, np.ndarray]]:
            self._encoder = Encoder(self.checkpoint, device=self._device, precision=precision)
            return self._encoder, self._run(tokens, rows, Work(outputs)).cells

        exact_encoder, exact = embeddings("fp32")
        for precision in faster:
            encoder, lower = embeddings(precision)
            worst, name = min((least_cosine(exact[o.name], lower[o.name]), o.name) for o in outputs)
            is_accurate = worst >= LEAST_COSINE
            self._encoder = encoder if is_accurate else exact_encoder
            settled = precision if is_accurate else "fp32"
            self._checked = {"kept": settled, "tried": precision, "cells": len(rows), "least_cosine": worst, "output": name}
            if is_accurate:
                return

    def run(self, tokens: TokenSet, rows: np.ndarray, work: Work, *, tick: Callable[[int], None] | None = None) -> UnitResult:
        """Compute all that `work` asks for of some cells.

        Parameters
        ----------
        tokens
            The token rows.
        rows
            Row numbers of the cells.
        work
            What is computed of them.
        tick
            Called as `tick(cells)` per batch.

        Returns
        -------
        UnitResult
            Of the cells at `rows`, in their order. NaN for cells without genes.

        Raises
        ------
        ModelError
            Where the states of a cell with genes are no finite numbers.
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
            for batch in prepared_batches(ahead, tokens, plan):
                work_on = functools.partial(_compute, unit, batch)
                for _, result in self.encoder.memory.batches(batch.lengths, work_on, tokens_per_batch=self.tokens_per_batch):
                    unit.keep(result)
                    if tick:
                        tick(len(result.at))
        return unit.home()

    def meta(self, tokens: TokenSet, outputs: list[Output]) -> dict[str, Any]:
        """Describe an embedding.

        Parameters
        ----------
        tokens
            The token rows.
        outputs
            The outputs that were computed.

        Returns
        -------
        dict
            Model, vocabulary, frame, outputs and precision: plain JSON.
        """
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


def units_of(lengths: np.ndarray, tokens_per_unit: int) -> list[tuple[int, int]]:
    """Rows cut into neighbouring ranges of about `tokens_per_unit` tokens."""
    unit = (np.cumsum(lengths) - lengths) // tokens_per_unit
    edges = [*np.flatnonzero(np.diff(unit, prepend=-1)).tolist(), len(lengths)]
    return [(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True) if b > a]


def warn_of_empty(tokens: TokenSet) -> None:
    n = int((tokens.n_genes <= 0).sum())
    if n:
        note(f"{n:,} of {len(tokens):,} cells have no genes: their embeddings are NaN")


def _several(value: Any) -> list[Any]:
    return [value] if isinstance(value, (str, int, np.integer)) else list(dict.fromkeys(value))
