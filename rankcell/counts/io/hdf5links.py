"""What an HDF5 file takes from other files: looked at before it is read, as a pipe or device among them never ends, and raw bytes may be anybody's."""

import os
from pathlib import Path
from typing import Any

from rankcell.counts.io.file_kinds import require_file
from rankcell.errors import InputError

_DEEPEST = 6
_NOT_READ = {"uns", "obsm", "obsp", "varm", "varp"}


def require_plain_sources(root: Any, path: Path) -> None:
    """InputError where a link or a dataset of an open HDF5 file leads to what is no file, or takes raw bytes from outside of its folder."""
    for name in _names(root):
        if name not in _NOT_READ:
            _check_group(root, name, path, 1)


def _names(group: Any) -> list[str]:
    try:
        return list(group)
    except Exception:  # whatever HDF5 says about a damaged part, its reader says it better
        return []


def _check_group(group: Any, name: str, path: Path, depth: int) -> None:
    import h5py

    try:
        link = group.get(name, getlink=True)
        node = group[name] if isinstance(link, h5py.HardLink) else None
    except Exception:
        return
    if isinstance(link, h5py.ExternalLink):
        _require(link.filename, path)
    if isinstance(node, h5py.Group) and depth < _DEEPEST:
        for inner in _names(node):
            _check_group(node, inner, path, depth + 1)
    if isinstance(node, h5py.Dataset):
        raws, sources = _elsewhere(node)
        for raw in raws:
            _require(raw, path)
            if os.path.dirname(os.path.realpath(path.parent / raw)) != os.path.realpath(path.parent):
                raise InputError(f"{path}: {node.name} is stored in {raw}, outside of its own folder: write it as one file")
        for source in sources:
            _require(source, path)


def _elsewhere(node: Any) -> tuple[list[str], list[str]]:
    """(files of raw bytes, HDF5 files of a virtual dataset) that a dataset takes its values from."""
    try:
        return [raw for raw, _, _ in node.external or ()], [s.file_name for s in node.virtual_sources()] if node.is_virtual else []
    except Exception:
        return [], []


def _require(name: Any, path: Path) -> None:
    """InputError where another file, by its name in the file at `path`, is a pipe or a device."""
    name = os.fsdecode(name)
    for place in {Path(name), path.parent / name}:  # HDF5 looks in both
        require_file(place)
