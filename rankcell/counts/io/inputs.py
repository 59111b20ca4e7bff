"""Expansion of inputs: files, folders of files, patterns and objects -> the single inputs."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankcell.counts.io.folders import choose_files
from rankcell.counts.io.opening import is_input
from rankcell.errors import InputError


@dataclass(frozen=True)
class Inputs:
    """The single inputs in order, each with the label that tells its cells from those of others.

    `several`: more were named, or a folder or pattern that may hold more: cells are then called `<label>:<id>`.
    """

    items: tuple[Any, ...]
    labels: tuple[str, ...]
    several: bool


def find_inputs(source: Any) -> Inputs:
    """Expand an input: a count file, an AnnData, a folder of count files, a pattern such as `runs/*.h5ad`, or a list of these.

    Raises InputError when something is not there, is no count file, is named twice, or a folder or pattern holds none.
    """
    sources = list(source) if isinstance(source, (list, tuple)) else [source]
    if not sources:
        raise InputError("no input was named")
    items, several = [], len(sources) > 1
    for one in sources:
        expanded, is_many = _expand(one)
        items += expanded
        several = several or is_many
    _refuse_twice(items)
    return Inputs(tuple(items), tuple(_labels(items)), several)


def _expand(one: Any) -> tuple[list[Any], bool]:
    """The inputs behind one name, and whether it stands for any number of them."""
    if not isinstance(one, (str, os.PathLike)):
        return [one], False
    path = Path(one)
    if path.is_dir() and not is_input(path):
        paths = sorted(p for p in _entries(path) if not p.name.startswith(".") and is_input(p))
        if not paths:
            if (path / "state.json").exists():
                raise InputError(f"{path} holds tokens already; this takes counts")
            raise InputError(f"{path} is a folder without count files or tokens (h5ad, loom, zarr, 10x h5, 10x matrix folders)")
        return choose_files(paths, str(path)), True
    if not path.exists() and glob.has_magic(str(one)):
        paths = [Path(p) for p in sorted(glob.glob(str(one), recursive=True))]
        if not paths:
            raise InputError(f"no file matches {one}")
        return choose_files(paths, str(one)), True
    return [path], False


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except PermissionError as e:
        raise InputError(f"{folder} cannot be read: permission denied") from e


def _refuse_twice(items: Sequence[Any]) -> None:
    seen: dict[Any, Any] = {}
    for item in items:
        key = os.path.realpath(item) if isinstance(item, (str, os.PathLike)) else id(item)
        if key in seen:
            raise InputError(f"{item if isinstance(key, str) else 'an AnnData'} is named twice: its cells would come twice")
        seen[key] = item


def _labels(items: Sequence[Any]) -> list[str]:
    """The shortest end of each path, without its suffix, that no other input shares; objects by their number."""
    ends = [Path(i).parts if isinstance(i, (str, os.PathLike)) else (f"input{n}",) for n, i in enumerate(items)]
    stems = [(*e[:-1], _stem(e[-1])) for e in ends]
    for names in (stems, ends):
        for depth in range(1, max(map(len, names)) + 1):
            labels = ["/".join(n[-depth:]) for n in names]
            if len(set(labels)) == len(labels):
                return labels
    return [os.path.realpath(i) for i in items]


def _stem(name: str) -> str:
    for suffix in (".gz", ".h5ad", ".loom", ".zarr", ".zip", ".h5", ".hdf5", ".mtx"):
        name = name[: -len(suffix)] if name.lower().endswith(suffix) and len(name) > len(suffix) else name
    return name
