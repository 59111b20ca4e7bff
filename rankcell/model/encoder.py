"""Encoder: hidden states of a checkpoint's trunk, no block past the wanted layer, never the language-model head."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModel

from rankcell.errors import ModelError
from rankcell.model.batches import TOKENS_PER_BATCH, Batch, Packed
from rankcell.model.bert_config import shape_of
from rankcell.model.blocks import Attention, Block, Rows, has_onednn
from rankcell.model.checkpoint import Checkpoint
from rankcell.model.device_memory import Memory
from rankcell.model.devices import choose_device, has_float64
from rankcell.model.options import AUTO
from rankcell.model.precisions import dtype_of, pinned, precision_on
from rankcell.model.weights import read_weights
from rankcell.wording import note

_SHARE = 0.5  # of a GPU's memory that the states of a batch may take
_MOST = 262_144  # tokens: beyond that nothing is gained
_BATCHES_PER_UNIT = 8  # on a GPU, which is idle for a moment at the start and the end of each unit


class Encoder:
    """A loaded checkpoint on one device.

    device
        "auto" (the first GPU, or the processor), "cpu", "cuda", "cuda:1", ...: see rankcell.model.devices.
    precision
        "fp32", "tf32" (CUDA), "bf16" or "fp16": what matrix products are computed in; "auto" is fp32. Embeddings, residual sums,
        norms and the states that come out are float32 in all of them.

    `memory`: what the device was found to hold beside the model.
    """

    def __init__(self, checkpoint: Checkpoint, *, device: str = AUTO, precision: str = AUTO):
        self.checkpoint = checkpoint
        self.device = choose_device(device)
        self.precision = precision_on(precision, self.device)
        self.dtype = dtype_of(self.precision)
        self.memory = Memory(self.device, precision=self.precision)
        self.memory.run(self._load, f"model '{checkpoint.name}'")

    def _load(self) -> None:
        onednn = self.precision != "fp16" and has_onednn(self.device, self.dtype)
        trunk = _load_trunk(self.checkpoint)
        config = trunk.config
        self._blocks = [Block.of(b, config, dtype=self.dtype, device=self.device, onednn=onednn) for b in trunk.encoder.layer]
        self._embeddings = _Embeddings(trunk, self.device)
        self._attention = Attention.choose(self.device, self.dtype, config.hidden_size // config.num_attention_heads, onednn=onednn)

    @property
    def description(self) -> dict[str, Any]:
        """What decides the last bits of a result besides the weights: plain JSON."""
        kind = self.device.type
        threads = torch.get_num_threads() if kind == "cpu" else 0
        name = torch.cuda.get_device_name(self.device) if kind == "cuda" else kind
        settings = {"device": name, "precision": self.precision, "attention": self._attention.method, "threads": threads}
        settings |= {"products": "tf32" if self.precision == "tf32" else "ieee"}
        return settings | {"torch": str(torch.__version__)}

    def walk(
        self,
        batch: Batch | Packed,
        layers: Sequence[int],
        *,
        only: Sequence[int] | None = None,
        watch: Callable[[int, Any, Any], None] | None = None,
        first: tuple[Any, Any] | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """(number of blocks, hidden states [tokens, width]) for each of `layers` in ascending order, as the blocks run.

        layers
            Numbers of blocks (`Checkpoint.resolve_layer`); 0 is the embedding layer's output.
        only
            Positions in the row whose states are wanted of the last layer, the same for all rows: its states are then
            [rows * positions, width], and the last block computes no others.
        watch
            `watch(number of blocks, run, attention)` for each run of rows: attention float32 [heads, queries, keys].
        first
            Where they are known: what the first block's attention gives, and the states before it, both [tokens, width]. Then
            0 cannot be among `layers`, and the first block cannot be one with `only`.

        States are float32, on the encoder's device.
        """
        wanted = sorted(set(layers))
        last = wanted[-1]
        packed = batch if isinstance(batch, Packed) else batch.packed(self.tensor)
        picked = None if only is None else self.tensor((packed.starts[:, None] + np.asarray(only)).ravel())
        rows = Rows(packed.runs(), self.tensor)
        short = None if only is None else Rows(packed.runs(len(only)), self.tensor)
        hidden = None
        for n in range(0 if first is None else 1, last + 1):
            trims = picked is not None and n == last
            with torch.inference_mode():  # not around the yield, which would leave it on for whoever is walking
                if n == 1 and first is not None:
                    hidden = self._blocks[0].after(*first)
                elif not n:
                    hidden = self._embeddings(packed.input_ids, packed.positions)
                    hidden = hidden[picked] if trims else hidden
                else:
                    options = {"keys": packed.keys, "only": picked if trims else None, "watch": None if watch is None else _at(watch, n)}
                    hidden = self._blocks[n - 1](hidden, short if trims else rows, self._attention, **options)
            if n in wanted:
                yield n, hidden

    def pinned(self) -> contextlib.AbstractContextManager[None]:
        """For all that this encoder computes: torch's switches as its precision says."""
        return pinned(self.precision)

    def embedded(self, ids: np.ndarray, positions: np.ndarray) -> Any:
        """States before the first block [tokens, width]."""
        return self._embeddings(self.tensor(ids.astype(np.int64)), self.tensor(positions.astype(np.int64)))

    def block(self, number: int) -> Block:
        """A block, from 0."""
        return self._blocks[number]

    def states(self, batch: Batch, layers: Sequence[int]) -> dict[int, Any]:
        """{number of blocks: hidden states [tokens, width]} (float32, on the device)."""
        return {n: hidden.float() for n, hidden in self.walk(batch, layers)}

    @property
    def wide_device(self) -> Any:
        """Where numbers of 64 bits are computed: the device, or the processor beside one that has none."""
        return self.device if has_float64(self.device) else torch.device("cpu")

    def wide_tensor(self, array: np.ndarray) -> Any:
        """`array` there."""
        return self.tensor(array) if has_float64(self.device) else torch.from_numpy(np.ascontiguousarray(array))

    def tensor(self, array: np.ndarray) -> Any:
        """`array` on the device."""
        t = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.type == "cuda":
            return t.pin_memory().to(self.device, non_blocking=True)
        return t.to(self.device)


@contextlib.contextmanager
def threads_as(n: int | None, *, quiet: bool = False) -> Iterator[None]:
    """Let torch use `n` threads for a while, where `n` is neither None nor 0. `quiet`: without a note."""
    before = torch.get_num_threads()
    if n and n != before:
        if not quiet:
            note(f"going on with {n} threads, as this run began, not {before}: to the same numbers")
        torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _at(watch: Callable[[int, Any, Any], None], n: int) -> Callable[[Any, Any], None]:
    return lambda run, attention: watch(n, run, attention)


class _Embeddings:
    """Token, position and type embeddings with their norm, for packed rows."""

    def __init__(self, trunk: Any, device: Any):
        own = trunk.embeddings.to(device).eval()
        projection = getattr(trunk, "embeddings_project", None)  # ELECTRA's, where embeddings are narrower than states
        self._own = own
        self._projection = None if projection is None else projection.to(device).eval()
        first = getattr(own, "padding_idx", None) if trunk.config.model_type != "bert" else None
        self._first = (
            0 if first is None or trunk.config.model_type == "electra" else first + 1
        )  # RoBERTa counts from the padding's number on

    def __call__(self, ids: Any, positions: Any) -> Any:
        # types are given, because transformers before 5 has them for no more tokens than the model has positions
        where = {"position_ids": positions[None] + self._first, "token_type_ids": torch.zeros_like(ids[None])}
        hidden = self._own(input_ids=ids[None], **where)[0]
        return hidden if self._projection is None else self._projection(hidden)


def budget_for(checkpoint: Checkpoint, device: str, precision: str) -> int:
    """Tokens a batch for a device: what processors keep in their caches; on a GPU what half its memory holds of states."""
    chosen = choose_device(device)
    if chosen.type != "cuda":
        return TOKENS_PER_BATCH
    config = checkpoint.config
    numbers = 10 * checkpoint.width + 2 * int(config.get("intermediate_size", 4 * checkpoint.width))  # alive at once, a token
    size = 3 if precision in ("bf16", "fp16") else 4  # bytes: products are half, the residual stream is not
    weights = 4 * checkpoint.n_layers * (4 * checkpoint.width**2 + 2 * checkpoint.width * int(config.get("intermediate_size", 0)))
    memory = torch.cuda.get_device_properties(chosen).total_memory
    return int(np.clip((memory * _SHARE - weights) / (numbers * size), checkpoint.max_positions, _MOST))


def unit_size(device: str, tokens_per_batch: int, least: int) -> int:
    """Tokens a unit of work for a device: `least` on a processor; on a GPU at least several full batches."""
    return max(least, _BATCHES_PER_UNIT * tokens_per_batch) if choose_device(device).type == "cuda" else least


def _load_trunk(checkpoint: Checkpoint) -> Any:
    """The encoder without any head, its weights checked to be complete and finite, in float32."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        config = AutoConfig.for_model(**shape_of(checkpoint.config))
    except ValueError as e:
        raise ModelError(f"model '{checkpoint.name}' has an unknown model_type '{checkpoint.config['model_type']}'") from e
    try:
        with torch.device("meta"):
            trunk = AutoModel.from_config(config, **_without_pooler(config))
    except (TypeError, ValueError) as e:  # numbers that do not go together
        raise ModelError(f"no encoder built like BERT can be made from the config of model '{checkpoint.name}': {e}") from e
    if not hasattr(getattr(trunk, "encoder", None), "layer"):
        raise ModelError(f"model '{checkpoint.name}' is a {config.model_type}: only encoders built like BERT are read")
    wanted = trunk.state_dict()
    _ = checkpoint.weight_hashes  # the files are the ones that were saved
    weights = read_weights(checkpoint.name, checkpoint.weight_files, f"{trunk.base_model_prefix}.", set(wanted))
    for name, shape in ((n, tuple(w.shape)) for n, w in wanted.items()):
        if name not in weights:
            raise ModelError(f"the weights of model '{checkpoint.name}' lack '{name}': the file is not whole, or not of this config")
        if tuple(weights[name].shape) != shape:
            raise ModelError(f"'{name}' of model '{checkpoint.name}' is {tuple(weights[name].shape)}; its config says {shape}")
    trunk.load_state_dict(weights, assign=True)
    _fill_buffers(trunk)
    return trunk


def _without_pooler(config: Any) -> dict[str, Any]:
    return {} if config.model_type == "electra" else {"add_pooling_layer": False}  # ELECTRA has none to leave out


def _fill_buffers(trunk: Any) -> None:
    """Buffers that no checkpoint stores (position numbers, token types) as the model's own constructor makes them."""
    for module in trunk.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if not buffer.is_meta:
                continue
            if name == "position_ids":
                module.register_buffer(name, torch.arange(buffer.shape[-1]).expand(buffer.shape), persistent=False)
            elif name == "token_type_ids":
                module.register_buffer(name, torch.zeros(buffer.shape, dtype=torch.long), persistent=False)
            else:
                raise ModelError(f"the model has a buffer '{name}' that rankcell does not know how to fill")
