"""Weights: the trunk's tensors out of a checkpoint's files; a pickle is read as plain tensors or not at all."""

import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from rankcell.errors import ModelError, is_out_of_memory
from rankcell.model.weight_files import MERGE, WEIGHTS, stays_inside
from rankcell.wording import shortened

_POINTER = b"version https://git-lfs"
_PULL = "run 'git lfs pull' in its folder, or download the file itself"
_FLOATS = ("float32", "float16", "bfloat16", "float64")
_QUANTISED = (".SCB", ".qweight", ".absmax", ".quant_map")  # names that bitsandbytes and GPTQ add
_WRAPPERS = ("module", "model", "base_model")  # before each name: of DataParallel, Lightning, PEFT
_INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # before and inside names: torch.compile, FSDP, checkpointing
_NESTS = ("state_dict", "model_state_dict", "model")  # under which training programs save the weights, beside other things
_LORA = re.compile(r"\.(lora_|base_layer\.)")
_OLD_ENDS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def read_weights(model: str, files: Sequence[Path], prefix: str, wanted: set[str]) -> dict[str, Any]:
    """The trunk's tensors by their name in the trunk, in float32 on the CPU.

    prefix
        What a model with a head puts before the trunk's names ("bert."); names without it are taken too, and names with what
        wrappers put before and into them.
    wanted
        The names to read; what the file lacks of them is left out.

    Raises ModelError when a file cannot be read, carries code, or holds numbers that are quantised, NaN or infinite.
    """
    weights: dict[str, Any] = {}
    for path in files:
        for key, tensor in _tensors(path, prefix, wanted, model):
            name = _trunk_name(key, prefix)
            if name in weights:
                raise ModelError(f"the weights of model '{model}' hold '{name}' twice, under different names")
            weights[name] = _checked(tensor, name, model).to(torch.float32)
    for name, w in weights.items():
        if not torch.isfinite(w).all():
            raise ModelError(f"'{name}' of model '{model}' holds NaN or infinite weights")
    return weights


def _trunk_name(key: str, prefix: str) -> str:
    parts = [part for part in key.split(".") if part not in _INSIDE]
    while parts[:1] and parts[0] in (*_WRAPPERS, prefix.rstrip(".")):
        del parts[0]
    key = ".".join(parts)
    for old, new in _OLD_ENDS.items():
        if key.endswith(old):
            key = key.removesuffix(old) + new
    return key


def _tensors(path: Path, prefix: str, wanted: set[str], model: str) -> Iterator[tuple[str, Any]]:
    """(key, tensor) of what is wanted in one file."""
    if path.suffix != ".safetensors":
        tensors = _unpickled(path, lambda key: _trunk_name(key, prefix) in wanted)
        _refuse_unreadable(tensors, model)
        yield from ((key, tensor) for key, tensor in tensors.items() if _trunk_name(key, prefix) in wanted)
        return
    try:
        with safe_open(path, framework="pt") as f:
            keys = list(f.keys())
            _refuse_unreadable(keys, model)
            for key in keys:
                if _trunk_name(key, prefix) in wanted:
                    yield key, f.get_tensor(key)
    except (SafetensorError, OSError) as e:
        known = f" it is a pointer: {_PULL}" if _is_pointer(path) else ""
        raise ModelError(f"{path} cannot be read: {e} (truncated, or a git-lfs pointer?{known})") from e


def _is_pointer(path: Path) -> bool:
    """Whether git-lfs left its note in the place of the file."""
    try:
        with open(path, "rb") as f:
            return f.read(len(_POINTER)) == _POINTER
    except OSError:
        return False


def _unpickled(path: Path, is_wanted: Callable[[str], bool]) -> dict[str, Any]:
    """Tensors by name of a pickled file, also where they stand in a dict beside other things; read by torch's unpickler for plain
    tensors, which runs nothing."""
    if _is_pointer(path):
        raise ModelError(f"{path} is a git-lfs pointer, not the weights: {_PULL}")
    _require_plain_archive(path)
    try:
        with warnings.catch_warnings():  # torch's own remarks on old files
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as e:  # whatever a broken file provokes in zip, pickle or torch
        if is_out_of_memory(e):
            raise
        raise ModelError(_not_plain(path, e)) from e
    for _ in range(len(_NESTS) + 1):
        if not isinstance(content, dict) or any(isinstance(key, str) and is_wanted(key) for key in content):
            break
        content = next((content[name] for name in _NESTS if isinstance(content.get(name), dict)), content)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ModelError(f"{path} holds a {type(content).__name__}, not tensors by name: save the model with save_pretrained")
    return content


def _require_plain_archive(path: Path) -> None:
    """ModelError when a zip of pickled weights holds more than its size, or names a place outside of it: torch compresses nothing."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as e:
        raise ModelError(_not_plain(path, e)) from e
    claimed, size = sum(m.file_size for m in members), path.stat().st_size
    if claimed > size or any(m.compress_type != zipfile.ZIP_STORED for m in members):
        raise ModelError(f"{path} has {size:,} bytes and claims {claimed:,} inside, or compresses them: torch saved no such file, it is not read")
    outside = next((m.filename for m in members if not stays_inside(m.filename)), None)
    if outside is not None:
        raise ModelError(f"{path} names {shortened(outside)}, which does not lie in it: it is not read")


def _not_plain(path: Path, e: Exception) -> str:
    """What is wrong with a pickled file. torch's own text is left out where it recommends to run what the file carries."""
    text = str(e)
    from_torch = "Weights only load failed" in text  # a plain UnpicklingError as any other: torch says it in the text only
    code = re.search(r"GLOBAL (\S+)", text) if from_torch else None
    if code:
        fault = f"carry code, which is never run ({path.name}: {code[1].rstrip('.')}),"
    else:
        cause = "" if from_torch else ": " + (text.strip().splitlines() or [type(e).__name__])[0][:200]
        fault = f"are truncated, garbled, or more than plain tensors ({path.name}{cause})"
    advice = "save them with safe_serialization=True (transformers' save_pretrained, which then writes model.safetensors) where they load"
    return f"{path.parent} has no {WEIGHTS}; pickled weights that {fault} are not read: {advice}"


def _refuse_unreadable(keys: Any, model: str) -> None:
    unmerged = next((key for key in keys if _LORA.search(key)), None)
    if unmerged is not None:
        raise ModelError(f"the weights of model '{model}' hold '{unmerged}', of a LoRA adapter beside its base model: {MERGE}")
    quantised = next((key for key in keys if key.endswith(_QUANTISED)), None)
    if quantised is not None:
        raise ModelError(_quantised(f"the weights of model '{model}' hold '{quantised}'"))


def _quantised(finding: str) -> str:
    return f"{finding}: quantised weights (bitsandbytes, GPTQ) are not read; save the model in float32, float16 or bfloat16"


def _checked(tensor: Any, name: str, model: str) -> Any:
    """A plain tensor of floating-point numbers."""
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise ModelError(f"'{name}' of model '{model}' is not a plain tensor: save the model with save_pretrained")
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in _FLOATS:
        raise ModelError(_quantised(f"'{name}' of model '{model}' is stored as {kind}"))
    return tensor
