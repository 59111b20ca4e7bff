"""What rankcell itself wrote, and so may replace or remove: nothing else is, and no link is followed.

An output that is a file is replaced where it was named. One that is a folder is replaced only when it holds the marker of its kind
and nothing that such a folder would not hold; a file that no one named (written beside an output) only when rankcell wrote it.
"""

import contextlib
import fnmatch
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rankcell.errors import OutputError
from rankcell.wording import offers, option

Own = (
    str | re.Pattern
)  # part by part, such as `tables/*.parquet`; `tables/` is that folder; an expression is for the whole path in the folder
_PART = re.compile(r"\.(?P<name>.+)\.part-(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{6,}(?P<old>\.old)?", re.DOTALL)


def require_new(
    path: str | os.PathLike,
    *,
    force: bool = False,
    marker: str | None = None,
    own: Sequence[Own] = (),
    wrote: Callable[[Path], bool] | None = None,
) -> Path:
    """Return `path` if nothing stands there yet (or `force`), and its parent can hold it.

    marker
        None for an output that is a file; for a folder, the file in it that shows that an earlier output of the same kind
        stands there: only such a folder is ever replaced.
    own
        Patterns of all that such a folder holds, the marker too (empty: the marker alone): one that holds anything else is not replaced.
    wrote
        For a file that the user did not name: whether rankcell wrote the one that stands there.

    Raises OutputError when it exists or is a link, when it would replace something of another kind (the input, somebody's folder),
    or when its parent is missing or cannot be written to.
    """
    path = Path(path)
    if path.name in ("", ".."):
        raise OutputError(f"{path} cannot be replaced: name the output itself")
    require_unlinked(path)
    if marker and path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file: this writes a folder, choose another name")
    if not marker and path.is_dir():
        raise OutputError(f"{path} is a folder: this writes a file, choose another name")
    if path.exists() and not force:
        raise OutputError(f"{path} exists: choose another output{_or_replace()}")
    if marker and path.is_dir():
        _require_own_folder(path, marker, own)
    if wrote is not None and path.exists() and not wrote(path):
        raise OutputError(
            f"{path}, which belongs to this output, exists and rankcell did not write it: move it away, or choose another output"
        )
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist: make it first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"the folder {path.parent} cannot be written to")
    return path


def _or_replace() -> str:
    return f", or pass {option('force', True)} to replace it" if offers("force") else ""


def _require_own_folder(path: Path, marker: str, own: Sequence[Own]) -> None:
    if not (path / marker).exists() and any(path.iterdir()):
        why = f", so {option('force')} does not replace it" if offers("force") else ""
        raise OutputError(f"{path} holds something else (it has no {marker}){why}: choose another output")
    require_own(path, own or (marker,))


def require_own(folder: Path, own: Iterable[Own]) -> None:
    """OutputError when `folder` holds anything that is none of `own`."""
    if (other := foreign(folder, own)) is not None:
        raise OutputError(f"{folder} holds {other}, which rankcell did not write there: move it away, or choose another output")


def require_apart(out: str | os.PathLike, inputs: Iterable[Any]) -> None:
    """OutputError when `out` is one of the inputs, lies inside one, or holds one; inputs that are not paths are left alone.

    Links are followed. An output that stands inside an input changes it, and one that holds an input removes it when it is replaced.
    """
    real = Path(os.path.realpath(out))
    for source in inputs:
        if not isinstance(source, (str, os.PathLike)):
            continue
        real_source = Path(os.path.realpath(source))
        if real_source == real:
            raise OutputError(f"{out} is the input, which is never written to: choose another output")
        if real_source in real.parents:
            raise OutputError(f"{out} lies inside the input {source}, which is not written to: choose another output")
        if real in real_source.parents:
            raise OutputError(f"{out} holds the input {source}, which would be lost: choose another output")


def require_unlinked(path: Path) -> None:
    """OutputError when `path` is a link: neither what is behind it, which may be somebody else's, nor the link itself is replaced."""
    if path.is_symlink():
        where = f"a link to {os.path.realpath(path)}: name that place itself" if path.exists() else "a link to nothing: remove it"
        raise OutputError(f"{path} is {where}, or choose another output")


def require_unshared(path: Path) -> None:
    """OutputError where a name that can be foretold (work beside an output) is a link or belongs to somebody else: it is not followed."""
    try:
        state = os.lstat(path)
    except FileNotFoundError:
        return
    is_link = stat.S_ISLNK(state.st_mode)
    if is_link or not is_mine(path):
        trouble = "is a link" if is_link else "belongs to somebody else"
        raise OutputError(f"{path}, where the work for this output is kept, {trouble}: remove it, or choose another output")


def is_mine(path: Path) -> bool:
    """Whether what stands there, which is no link, belongs to the user of this process."""
    try:
        state = os.lstat(path)
    except OSError:
        return False
    return not stat.S_ISLNK(state.st_mode) and (not hasattr(os, "getuid") or state.st_uid == os.getuid())


def part_of(name: str) -> re.Match | None:
    """The name of a temporary sibling (see `atomic_path`) taken apart into `name`, `host`, `pid` and `old`; None for any other name."""
    return _PART.fullmatch(name)


def foreign(folder: Path, own: Iterable[Own]) -> str | None:
    """The name in `folder` of something that is none of `own`, as every link is and every empty folder without a place; None where all is."""
    patterns = tuple(own)
    for path in _inside(folder):
        place = path.relative_to(folder)
        if path.is_symlink() or not _is_own(place, patterns, is_folder=path.is_dir()):
            return str(place)
    return None


def remove_own(folder: Path, own: Iterable[Own]) -> None:
    """Remove the files in `folder` that are some of `own`, and the folders of such files that are then empty."""
    patterns = tuple(own)
    for path in [p for p in _inside(folder) if not p.is_symlink() and not p.is_dir() and _is_own(p.relative_to(folder), patterns)]:
        path.unlink(missing_ok=True)
    for inner, _, _ in os.walk(folder, topdown=False):
        if Path(inner) != folder and _is_own(Path(inner).relative_to(folder), patterns, is_folder=True):
            with contextlib.suppress(OSError):
                os.rmdir(inner)


def remove_folder(folder: Path, own: Iterable[Own]) -> None:
    """Remove `folder` as far as it is rankcell's: it stays when it holds anything that is none of `own`, and so does a link."""
    if not folder.is_symlink():
        remove_own(folder, own)
        with contextlib.suppress(OSError):
            folder.rmdir()


def remove_file(path: Path, wrote: Callable[[Path], bool]) -> None:
    """Remove a file that `wrote` says rankcell wrote; a link, and any other file, stays."""
    if path.is_file() and not path.is_symlink() and wrote(path):
        path.unlink(missing_ok=True)


def remove_temporary(path: Path) -> None:
    """Remove a file or folder that this process made for itself; a Ctrl-C meanwhile waits until it is gone."""
    try:
        _delete(path)
    except KeyboardInterrupt:
        _delete(path)
        raise


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _inside(folder: Path) -> Iterator[Path]:
    """Everything in `folder` but folders that hold something; links, which are not followed."""
    for inner, folders, files in os.walk(folder):
        yield from (Path(inner) / name for name in files)
        yield from (path for name in folders if (path := Path(inner) / name).is_symlink())
        if not folders and not files and Path(inner) != folder:
            yield Path(inner)


def _is_own(path: Path, own: Sequence[Own], *, is_folder: bool = False) -> bool:
    """Whether the path of a file in a folder fits a pattern, or that of a folder leads to some; a temporary one is what it is to become."""
    parts, is_temporary = list(path.parts), False
    for n, name in enumerate(parts):
        if part := part_of(name):
            parts, is_temporary = [*parts[:n], part["name"]], True
            break
    split = [pattern.split("/") for pattern in own if isinstance(pattern, str)]
    fits = any(p.fullmatch("/".join(parts)) for p in own if isinstance(p, re.Pattern)) or any(
        len(p) == len(parts) and all(map(fnmatch.fnmatchcase, parts, p)) for p in split
    )
    leads = any(len(p) > len(parts) and all(map(fnmatch.fnmatchcase, parts, p)) for p in split)
    return fits or leads if is_temporary else leads if is_folder else fits


def inside(folder: str, own: Iterable[Own]) -> tuple[Own, ...]:
    """The patterns of what stands in `folder`, as those of the folder around it."""
    return tuple(f"{folder}/{p}" if isinstance(p, str) else re.compile(f"{re.escape(folder)}/(?:{p.pattern})") for p in own)
