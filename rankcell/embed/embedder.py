"""Embedder: token rows -> cell embeddings, in the caller's order with the caller's cell ids."""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rankcell.embed.pools import Pool, States, choose_pools
from rankcell.errors import RankcellWarning, SettingsError
from rankcell.model import Checkpoint, Encoder, collate, open_checkpoint, plan_batches
from rankcell.model.batches import default_budget
from rankcell.model.encoder import choose_device
from rankcell.tokens.tokenset import TokenSet
from rankcell.vocab import Frame, Vocabulary


@dataclass(frozen=True)
class Embeddings:
    """What an embedding run gives: `cell_ids`, `columns` (`<pool>_layer<n>` -> float32 [cells, width]), and its `meta` (plain JSON)."""

    cell_ids: list[str]
    columns: dict[str, np.ndarray]
    meta: dict[str, Any] = field(default_factory=dict)

    def obsm(self, key: str = "X_rankcell") -> dict[str, np.ndarray]:
        """The columns under their AnnData names: `key` when there is one, `<key>_<pool>_layer<n>` when there are several."""
        if len(self.columns) == 1:
            return {key: next(iter(self.columns.values()))}
        return {f"{key}_{name}": values for name, values in self.columns.items()}


class Embedder:
    """Runs a checkpoint over token rows and pools its states.

    model
        A checkpoint folder, `demo`, or a Checkpoint.
    vocab
        Completes a checkpoint that carries no vocabulary.
    device, precision
        See rankcell.model.Encoder.
    tokens_per_batch
        Most tokens, padding included, that the model is given at once; None: 4,096 on a processor, 32,768 on a GPU.
    """

    def __init__(
        self,
        model: str | os.PathLike | Checkpoint = "demo",
        *,
        vocab: str | os.PathLike | Vocabulary | None = None,
        device: str = "auto",
        precision: str = "auto",
        tokens_per_batch: int | None = None,
    ):
        self.checkpoint = open_checkpoint(model, vocab=vocab)
        if tokens_per_batch is not None and tokens_per_batch < 1:
            raise SettingsError(f"tokens_per_batch is {tokens_per_batch}; at least 1")
        self._budget = tokens_per_batch
        self._device, self._precision = device, precision
        self._encoder: Encoder | None = None

    @property
    def tokens_per_batch(self) -> int:
        """Most tokens, padding included, that the model is given at once."""
        return self._budget or default_budget(choose_device(self._device).type)

    @property
    def encoder(self) -> Encoder:
        """The loaded model; loaded when first asked for, so that settings are checked before."""
        if self._encoder is None:
            self._encoder = Encoder(self.checkpoint, device=self._device, precision=self._precision)
        return self._encoder

    def check(self, tokens: TokenSet, pool: Sequence[str], layer: Sequence[int]) -> tuple[list[Pool], dict[int, int]]:
        """The pools and {layer as typed: number of blocks}; raises when tokens, pools or layers do not fit the model."""
        self.checkpoint.require(tokens.spec, int(tokens.lengths.max(initial=0)))
        pools = choose_pools(list(pool), tokens.frame)
        if not layer:
            raise SettingsError("no layer was asked for")
        return pools, {n: self.checkpoint.resolve_layer(n) for n in layer}

    def embed(
        self,
        tokens: TokenSet,
        *,
        pool: str | Sequence[str] = "mean",
        layer: int | Sequence[int] = -2,
        progress: Callable[[int, int], None] | None = None,
    ) -> Embeddings:
        """Pooled states of every cell, for every pool and layer, from one pass.

        Columns are named `<pool>_layer<n>` with the layer as typed (-1: output of the last block; 0: embedding layer).
        Cells without genes get NaN and are counted in one RankcellWarning. `progress(cells_done, cells)` per batch.
        """
        pools, blocks = self.check(tokens, _several(pool), _several(layer))
        filled = np.flatnonzero(tokens.n_genes > 0)
        names = [(f"{p.name}_layer{n}", p, n) for n in blocks for p in pools]
        columns = {name: np.full((len(tokens), self.checkpoint.width), np.nan, np.float32) for name, _, _ in names}
        done = 0
        for rows in plan_batches(tokens.lengths[filled], tokens_per_batch=self.tokens_per_batch):
            rows = filled[rows]
            batch = collate([tokens.row(i) for i in rows], rows, pad=self.checkpoint.vocab.pad)
            states = self.encoder.states(batch.input_ids, batch.attend, list(blocks.values()))
            body = self.encoder.tensor(body_mask(batch.lengths, batch.input_ids.shape[1], tokens.frame))
            for name, p, n in names:
                columns[name][batch.rows] = p.compute(States(states[blocks[n]], body, tokens.frame)).cpu().numpy()
            done += len(rows)
            if progress:
                progress(done, len(filled))
        if len(filled) < len(tokens):
            n = len(tokens) - len(filled)
            warnings.warn(f"{n:,} of {len(tokens):,} cells have no genes: their embeddings are NaN", RankcellWarning, stacklevel=2)
        return Embeddings(tokens.cell_ids, columns, self._meta(tokens, names))

    def _meta(self, tokens: TokenSet, names: list[tuple[str, Pool, int]]) -> dict[str, Any]:
        return {
            "model": self.checkpoint.name,
            "model_hash": self.checkpoint.hash,
            "width": self.checkpoint.width,
            "vocabulary": tokens.spec.vocabulary,
            "vocabulary_hash": tokens.spec.vocabulary_hash,
            "frame": tokens.frame.to_json(),
            "outputs": {name: {"pool": p.name, "layer": n} for name, p, n in names},
            "n_cells_without_genes": int((tokens.n_genes <= 0).sum()),
            "version": tokens.spec.version,
        } | self.encoder.description


def _several(value: Any) -> list[Any]:
    return [value] if isinstance(value, (str, int)) else list(dict.fromkeys(value))


def body_mask(lengths: np.ndarray, width: int, frame: Frame) -> np.ndarray:
    """bool [rows, width]: where the genes of each row stand."""
    at = np.arange(width)
    return (at >= len(frame.head)) & (at < (lengths - len(frame.tail))[:, None])
