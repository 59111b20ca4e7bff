"""Which files of a folder or a pattern are inputs: each set of cells once, of Cell Ranger's matrices the filtered one."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from rankcell.counts.io.file_kinds import other_layout
from rankcell.counts.io.hdf5 import is_hdf5, open_hdf5
from rankcell.errors import InputError
from rankcell.wording import note

_CALLED = re.compile(r"(^|[^a-z])(filtered|raw|unfiltered)(?=[^a-z]|$)", re.IGNORECASE)
_PLAIN_LAYOUTS = ({"obs", "var"}, {"row_attrs", "col_attrs"}, {"matrix"})
_MOST_NAMED = 6


def choose_files(paths: Sequence[Path], where: str) -> list[Path]:
    """The inputs among files that a folder or pattern gives; what is passed over is said in one note.

    Passed over are HDF5 files without a matrix of cells (molecule_info.h5), further names of a file that is there already
    (links), matrices of all barcodes (raw) beside those of the called cells (filtered), and a folder of text beside the h5 of
    the same name.
    """
    passed: dict[Path, str] = {}
    files = [p for p in paths if not (why := _no_matrix(p)) or passed.setdefault(p, why) is None]
    files = _each_once(files, passed)
    files = _preferred(files, passed)
    if passed:
        shown = [f"{_name(p, where)} ({why})" for p, why in list(passed.items())[:_MOST_NAMED]]
        more = f" and {len(passed) - _MOST_NAMED:,} more" if len(passed) > _MOST_NAMED else ""
        passed_over = f"passed over {', '.join(shown)}{more}"
        if not files:
            raise InputError(f"{where} holds no counts: {passed_over}")
        note(f"{where}: {passed_over}; to read one of them, name it")
    return files


def _name(path: Path, where: str) -> str:
    return os.path.relpath(path, where) if os.path.isdir(where) else str(path)


def _no_matrix(path: Path) -> str:
    """Why a file is passed over, "" for one that is to be read, or that is too damaged to say."""
    if not is_hdf5(path):
        return ""
    try:
        with open_hdf5(path) as root:
            if words := other_layout(root):
                return words.split(":")[0]
            if "mod" in root or "tables" in root or any(layout <= set(root) for layout in _PLAIN_LAYOUTS):
                return ""
            if any("indptr" in root[name] for name in root if not hasattr(root[name], "shape")):  # 10x, a group per genome
                return ""
            return f"no matrix of cells: it holds {', '.join(sorted(root)[:4]) or 'nothing'}"
    except InputError:
        return ""
    except MemoryError:
        raise
    except Exception:  # whatever HDF5 says about a damaged file, its reader says it better
        return ""


def _each_once(paths: Sequence[Path], passed: dict[Path, str]) -> list[Path]:
    """Files without further names of the same one; the name that is no link is taken."""
    first: dict[object, Path] = {}
    for path in sorted(paths, key=lambda p: p.is_symlink()):
        at = path.stat()
        one = first.setdefault((at.st_dev, at.st_ino), path)
        if one is not path:
            passed[path] = f"the same file as {one.name}"
    return [p for p in paths if p not in passed]


def _preferred(paths: Sequence[Path], passed: dict[Path, str]) -> list[Path]:
    """Of the matrices of one run, filtered before raw, and h5 before the folder of text."""
    runs: dict[tuple[Path, str], list[tuple[bool, bool, Path]]] = {}
    for path in paths:
        if path.suffix.lower() == ".h5" or (path.is_dir() and path.suffix.lower() != ".zarr"):
            key, is_raw = _run_of(path)
            runs.setdefault((path.parent, key), []).append((is_raw, path.is_dir(), path))
    for matrices in runs.values():
        if len(matrices) > 1 and any(_CALLED.search(path.name) for _, _, path in matrices):
            is_raw, is_text, best = min(matrices)
            for other_raw, other_text, path in matrices:
                if (other_raw, other_text) != (is_raw, is_text):
                    passed[path] = f"all barcodes, beside {best.name}" if other_raw and not is_raw else f"the cells of {best.name}"
    return [p for p in paths if p not in passed]


def _run_of(path: Path) -> tuple[str, bool]:
    """(the name without the word that says which barcodes, whether these are all)."""
    stem = re.sub(r"(_h5)?(\.h5)?$", "", path.name, count=1, flags=re.IGNORECASE)
    word = _CALLED.search(stem)
    return _CALLED.sub(r"\1*", stem), word is not None and word[2].lower() != "filtered"
