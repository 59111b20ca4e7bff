"""The files that hold a checkpoint's weights: which there are, and whether they stay in its folder. No torch."""

import json
from pathlib import Path, PurePosixPath, PureWindowsPath

from rankcell.errors import ModelError
from rankcell.wording import shortened

WEIGHTS, PICKLED = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"  # ends the name of the list of a file's parts
WEIGHT_FILES = (WEIGHTS, WEIGHTS + INDEX, PICKLED, PICKLED + INDEX)  # the first that is there is read
_ADAPTER = "adapter_config.json"
MERGE = "merge the two (peft's merge_and_unload, then save_pretrained) and give the folder of the merged model"


def find_weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights in `folder`, safetensors where there are any; ModelError when there are none."""
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if path is None:
        refuse_adapter(folder)
        raise ModelError(f"{folder} has no {WEIGHTS}")
    if path.name.endswith(INDEX):
        return _indexed_files(path)
    return [path]


def refuse_adapter(folder: Path) -> None:
    """ModelError when `folder` holds a PEFT adapter without the weights that it belongs to."""
    if (folder / _ADAPTER).exists() and not any((folder / name).exists() for name in WEIGHT_FILES):
        raise ModelError(f"{folder} holds a PEFT adapter (LoRA) without the weights of its base model{_base_of(folder)}: {MERGE}")


def _base_of(folder: Path) -> str:
    """What the adapter says it belongs to, for a message."""
    try:
        base = json.loads((folder / _ADAPTER).read_text(encoding="utf-8-sig")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""
    return f", {shortened(base, 120)}" if isinstance(base, str) and base else ""


def names_in_index(index: Path) -> list[str]:
    """The files that the list of a checkpoint in parts names, in order; ModelError when one would lie elsewhere."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = next((name for name in names if not stays_inside(name)), None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise ModelError(f"{index} cannot be read: {e}") from e
    if outside is not None:
        raise ModelError(f"{index} names '{outside}', which does not lie in its folder: it is not followed")
    return names


def stays_inside(name: str) -> bool:
    """Whether a relative name stays in its folder, as Linux and as Windows read it. (Links are followed: the cache of
    huggingface_hub consists of them.)"""
    kinds = PurePosixPath(name), PureWindowsPath(name)
    return bool(name) and not any(p.is_absolute() or p.anchor or ".." in p.parts for p in kinds)


def _indexed_files(index: Path) -> list[Path]:
    """The files of a checkpoint in parts, all there."""
    files = [index.parent / name for name in names_in_index(index)]
    for file in files:
        if not file.exists():
            raise ModelError(f"{file} is not there, though {index.name} names it")
    return files
