"""Encoder: hidden states of a checkpoint's trunk, no block past the wanted layer, never the language-model head."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rankcell.errors import ModelError, SettingsError
from rankcell.model.checkpoint import Checkpoint

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


class Encoder:
    """A loaded checkpoint on one device.

    device
        "auto" (the first CUDA device, or the CPU), "cpu", "cuda", "cuda:1", ...
    precision
        "fp32", "bf16" or "fp16" for weights and activations; "auto" is fp32. States always come out in float32.
    """

    def __init__(self, checkpoint: Checkpoint, *, device: str = "auto", precision: str = "auto"):
        import torch

        self.checkpoint = checkpoint
        self.device = choose_device(device)
        if precision not in PRECISIONS:
            raise SettingsError(f"unknown precision '{precision}'; one of {', '.join(PRECISIONS)}")
        self.precision = "fp32" if precision == "auto" else precision
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        self._trunk = _load_trunk(checkpoint).to(self.device, self._dtype).eval()
        self._blocks = self._trunk.encoder.layer

    @property
    def description(self) -> dict[str, Any]:
        """What decides the last bits of a result besides the weights: plain JSON."""
        import torch

        kind = self.device.type
        threads = torch.get_num_threads() if kind == "cpu" else 0
        name = torch.cuda.get_device_name(self.device) if kind == "cuda" else "cpu"
        return {"device": name, "precision": self.precision, "threads": threads, "torch": str(torch.__version__)}

    def states(self, input_ids: np.ndarray, attend: np.ndarray | None, layers: Sequence[int]) -> dict[int, Any]:
        """Hidden states [rows, positions, width] (float32, on the device) after each number of blocks in `layers`.

        input_ids
            int64 [rows, positions].
        attend
            bool [rows, positions]: which tokens may be attended to; None for all. Positions are counted over the whole
            row, attended or not.
        layers
            Numbers of blocks (`Checkpoint.resolve_layer`); 0 is the embedding layer's output.
        """
        import torch

        wanted = sorted(set(layers))
        ids = self.tensor(input_ids)
        mask = None if attend is None else self.tensor(attend).long()
        with torch.inference_mode(), self._only(wanted[-1]):
            out = self._trunk(input_ids=ids, attention_mask=mask, output_hidden_states=len(wanted) > 1)
        if len(wanted) == 1:
            return {wanted[0]: out.last_hidden_state.float()}
        return {n: out.hidden_states[n].float() for n in wanted}

    def tensor(self, array: np.ndarray) -> Any:
        """`array` on the device."""
        import torch

        t = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.type == "cuda":
            return t.pin_memory().to(self.device, non_blocking=True)
        return t.to(self.device)

    @contextlib.contextmanager
    def _only(self, n_blocks: int) -> Iterator[None]:
        """The trunk with its first `n_blocks` blocks alone."""
        self._trunk.encoder.layer = self._blocks[:n_blocks]
        try:
            yield
        finally:
            self._trunk.encoder.layer = self._blocks


def choose_device(device: str) -> Any:
    """A torch.device; SettingsError when it is not to be had."""
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise SettingsError(f"unknown device '{device}'; auto, cpu, cuda or cuda:N") from None
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise SettingsError(f"device '{device}' is not there: torch sees {torch.cuda.device_count()} CUDA devices; pass --device cpu")
    if chosen.type not in ("cpu", "cuda", "mps", "xpu"):
        raise SettingsError(f"device '{device}' cannot run a model; auto, cpu, cuda or cuda:N")
    return chosen


def _load_trunk(checkpoint: Checkpoint) -> Any:
    """The encoder without any head, its weights checked to be complete and finite."""
    import torch
    from transformers import AutoConfig, AutoModel

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        config = AutoConfig.for_model(**checkpoint.config)
    except ValueError as e:
        raise ModelError(f"model '{checkpoint.name}' has an unknown model_type '{checkpoint.config['model_type']}'") from e
    try:
        with torch.device("meta"):
            trunk = AutoModel.from_config(config, add_pooling_layer=False, attn_implementation="sdpa")
    except (TypeError, ValueError) as e:  # no pooling layer to leave out, or numbers that do not go together
        raise ModelError(f"no encoder built like BERT can be made from the config of model '{checkpoint.name}': {e}") from e
    if not hasattr(getattr(trunk, "encoder", None), "layer"):
        raise ModelError(f"model '{checkpoint.name}' is a {config.model_type}: only encoders built like BERT are read")
    wanted = trunk.state_dict()
    weights = _read_weights(checkpoint, f"{trunk.base_model_prefix}.", set(wanted))
    for name, shape in ((n, tuple(w.shape)) for n, w in wanted.items()):
        if name not in weights:
            raise ModelError(f"the weights of model '{checkpoint.name}' lack '{name}': the file is not whole, or not of this config")
        if tuple(weights[name].shape) != shape:
            raise ModelError(f"'{name}' of model '{checkpoint.name}' is {tuple(weights[name].shape)}; its config says {shape}")
    trunk.load_state_dict(weights, assign=True)
    _fill_buffers(trunk)
    return trunk


def _fill_buffers(trunk: Any) -> None:
    """Buffers that no checkpoint stores (position numbers, token types) as the model's own constructor makes them."""
    import torch

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


def _read_weights(checkpoint: Checkpoint, prefix: str, wanted: set[str]) -> dict[str, Any]:
    """The trunk's tensors by their name in the trunk, in float32."""
    import torch
    from safetensors import SafetensorError, safe_open

    weights: dict[str, Any] = {}
    for path in checkpoint.weight_files:
        try:
            with safe_open(path, framework="pt") as f:
                for key in f.keys():  # noqa: SIM118 (a safetensors handle is no dict)
                    name = key.removeprefix(prefix)
                    if name in wanted:
                        weights[name] = f.get_tensor(key).to(torch.float32)
        except (SafetensorError, OSError) as e:
            raise ModelError(f"{path} cannot be read: {e} (truncated, or a git-lfs pointer?)") from e
    for name, w in weights.items():
        if not torch.isfinite(w).all():
            raise ModelError(f"'{name}' of model '{checkpoint.name}' holds NaN or infinite weights")
    return weights
