"""Write under a temporary name beside the target, sync, rename: a final name never holds half a file."""

import contextlib
import ctypes
import errno
import fnmatch
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rankcell.errors import OutputError
from rankcell.store.lock import locked_name
from rankcell.wording import offers, option

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.EIO, errno.ENAMETOOLONG}
_OLD = ".old"  # ends the name of an output that was moved aside to be replaced


def require_new(path: str | os.PathLike, *, force: bool = False, marker: str | None = None, own: Sequence[str] = ()) -> Path:
    """Return `path` if nothing stands there yet (or `force`), and its parent can hold it.

    marker
        None for an output that is a file; for a folder, the file in it that shows that an earlier output of the same kind
        stands there: only such a folder is ever replaced.
    own
        Patterns of all that such a folder holds, where that is known: one that holds anything else is not replaced.

    Raises OutputError when it exists, when it would replace something of another kind (the input, somebody's folder), or when
    its parent is missing or cannot be written to.
    """
    path = Path(path)
    if path.name in ("", ".."):
        raise OutputError(f"{path} cannot be replaced: name the output itself")
    if marker and path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file: this writes a folder, choose another name")
    if not marker and path.is_dir():
        raise OutputError(f"{path} is a folder: this writes a file, choose another name")
    if path.is_symlink() and not path.exists():
        raise OutputError(f"{path} is a link to nothing: remove it, or choose another output")
    if path.exists() and not force:
        replace = f", or pass {option('force', True)} to replace it" if offers("force") else ""
        raise OutputError(f"{path} exists: choose another output{replace}")
    if marker and path.is_dir() and not (path / marker).exists() and any(path.iterdir()):
        why = f", so {option('force')} does not replace it" if offers("force") else ""
        raise OutputError(f"{path} holds something else (it has no {marker}){why}: choose another output")
    if own and path.is_dir() and not path.is_symlink() and (other := foreign(path, own)) is not None:
        raise OutputError(f"{path} holds {other}, which rankcell did not write there: move it away, or choose another output")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist: make it first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"the folder {path.parent} cannot be written to")
    return path


def require_apart(out: str | os.PathLike, inputs: Iterable[Any]) -> None:
    """OutputError when `out` is one of the inputs, lies inside one, or holds one; inputs that are not paths are left alone.

    Links are followed. An output that stands inside an input changes it, and one that holds an input removes it when it is replaced.
    """
    real = Path(os.path.realpath(out))
    for given in inputs:
        if not isinstance(given, (str, os.PathLike)):
            continue
        source = Path(os.path.realpath(given))
        if source == real:
            raise OutputError(f"{out} is the input, which is never written to: choose another output")
        if source in real.parents:
            raise OutputError(f"{out} lies inside the input {given}, which is not written to: choose another output")
        if real in source.parents:
            raise OutputError(f"{out} holds the input {given}, which would be lost: choose another output")


def _sync(path: Path) -> None:
    for target in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if target.is_dir() and os.name != "posix":
            continue
        fd = os.open(target, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _remove(path: Path) -> None:
    """Remove a file or folder; a Ctrl-C meanwhile waits until it is gone."""
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


def _part_prefix(path: Path) -> str:
    return f".{path.name}.part-"


def _host() -> str:
    return platform.node() or "here"


def _sweep(path: Path, *, alone: bool) -> None:
    """Remove what processes of this machine that are gone (kill -9) left half-written for `path`, and undo a broken replacing.

    alone: the lock of `path` is held, so that no process of this machine is writing it, whatever its number says (a container
    gives the same numbers again).
    """
    for left in path.parent.iterdir():
        if not left.name.startswith(_part_prefix(path)):
            continue
        host, _, rest = left.name.removeprefix(_part_prefix(path)).rpartition("-")[0].rpartition("-")
        is_dead = host == _host() and rest.isdigit() and (alone or not _is_alive(int(rest)))
        if left.name.endswith(_OLD) and (is_dead or alone):
            _settle(left, path)
        elif is_dead:
            _remove(left)


def _is_alive(pid: int) -> bool:
    if os.name != "posix":
        return True  # there is no harmless way to ask
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs for somebody else
        return True
    return True


def remove_parts(folder: Path) -> None:
    """Remove every half-written file in `folder`: for a folder whose lock is held, where no one else can be writing."""
    for left in folder.glob(".*.part-*"):
        _remove(left)


def foreign(folder: Path, own: Iterable[str]) -> str | None:
    """The name in `folder` of something that is none of `own` (patterns such as `shards/*.parquet`); None where all is."""
    for path in _inside(folder):
        if not _is_own(path.relative_to(folder), own):
            return str(path.relative_to(folder))
    return None


def remove_own(folder: Path, own: Iterable[str]) -> None:
    """Remove the files in `folder` that are some of `own`, and the folders in it that are then empty."""
    for path in [p for p in _inside(folder) if _is_own(p.relative_to(folder), own)]:
        path.unlink(missing_ok=True)
    for inner, _, _ in os.walk(folder, topdown=False):
        if Path(inner) != folder:
            with contextlib.suppress(OSError):
                os.rmdir(inner)


def _inside(folder: Path) -> Iterator[Path]:
    """Everything in `folder` but folders; links, which are not followed."""
    for inner, folders, files in os.walk(folder):
        yield from (Path(inner) / name for name in files)
        yield from (path for name in folders if (path := Path(inner) / name).is_symlink())


def _is_own(path: Path, own: Iterable[str]) -> bool:
    """Whether a path in a folder, which is no link, fits a pattern part by part; half-written files do."""
    parts = (*path.parts[:-1], re.sub(r"^\.(.+)\.part-.*$", r"\1", path.parts[-1]))
    patterns = [pattern.split("/") for pattern in own]
    return any(len(p) == len(parts) and all(map(fnmatch.fnmatchcase, parts, p)) for p in patterns)


def require_unlinked(path: Path) -> None:
    """OutputError when `path` is a link: what is behind it may be somebody else's, and is not replaced."""
    if path.is_symlink():
        raise OutputError(f"{path} is a link to {os.path.realpath(path)}: name that folder itself to replace it, or choose another output")


def require_unshared(path: Path) -> None:
    """OutputError where a name that can be foretold (work beside an output) is a link or belongs to somebody else: it is not followed."""
    try:
        state = os.lstat(path)
    except FileNotFoundError:
        return
    is_link, is_foreign = path.is_symlink(), hasattr(os, "getuid") and state.st_uid != os.getuid()
    if is_link or is_foreign:
        what = "is a link" if is_link else "belongs to somebody else"
        raise OutputError(f"{path}, where the work for this output is kept, {what}: remove it, or choose another output")


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turn the operating system's refusals to write into one clear line about `path`."""
    try:
        yield
    except OSError as e:
        if e.errno in _FULL or "No space left" in str(e) or "errno = 28" in str(e):  # HDF5 hides the errno in its text
            raise OutputError(f"the disk is full: {path} was not written; free some space and run again") from e
        if e.errno in _REFUSED:
            raise OutputError(f"{path} cannot be written: {e.strerror}") from e
        raise


@contextlib.contextmanager
def atomic_path(
    path: str | os.PathLike, *, force: bool = False, marker: str | None = None, own: Sequence[str] = (), exclusive: bool = False
) -> Iterator[Path]:
    """Yield a temporary sibling of `path` to write to: a file, or with `marker` and `own` (see require_new) a folder, made by the caller.

    On success it is synced and renamed to `path`; on any failure it is removed and `path` is as it was. With `exclusive`,
    OutputError when another process is writing `path`.
    """
    path = require_new(path, force=force, marker=marker, own=own)
    with locked_name(path) if exclusive else contextlib.nullcontext(False) as alone:
        _sweep(path, alone=alone)
        require_new(path, force=force, marker=marker)  # an earlier output may have come back
        yield from _written_aside(path, force=force, marker=marker)


def _written_aside(path: Path, *, force: bool, marker: str | None) -> Iterator[Path]:
    part = path.with_name(f"{_part_prefix(path)}{_host()}-{os.getpid()}-{secrets.token_hex(3)}")
    try:
        with writing(path):
            yield part
            _sync(part)
            require_new(path, force=force, marker=marker)
            _rename(part, path)
            if os.name == "posix":
                _sync_folder(path.parent)
    finally:
        _remove(part)


def publish(staged: Path, folder: Path) -> list[str]:
    """Give every file of `staged`, each whole and synced, its name in `folder` on the same disk; their names.

    OutputError when a folder stands where one is to go.
    """
    names = sorted(p.name for p in staged.iterdir() if not p.name.startswith("."))
    for name in names:
        if (folder / name).is_dir():
            raise OutputError(f"{folder / name} is a folder, and a table is to be written there: move it away and run again")
    with writing(folder):
        for name in names:
            os.replace(staged / name, folder / name)
        if os.name == "posix":
            _sync_folder(folder)
    return names


def _rename(part: Path, path: Path) -> None:
    """Give `part` its final name. Where a folder stands there, the two change places, or it stays for a moment under a name of
    its own, from which `_settle` takes it back however this ends.
    """
    if not path.is_dir():
        os.replace(part, path)
    elif not _exchange(part, path):
        old = part.with_name(part.name + _OLD)
        try:
            path.rename(old)
            part.rename(path)
        finally:
            _settle(old, path)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two names in one step; False where that cannot be done: it is Linux's own, and not every filesystem has it."""
    try:
        swap = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return swap(here, os.fsencode(a.absolute()), here, os.fsencode(b.absolute()), exchange) == 0


def _settle(old: Path, path: Path) -> None:
    """An output that was moved aside: back to its name when no other has come there, else removed."""
    if os.path.lexists(old) and os.path.lexists(path):
        _remove(old)
    elif os.path.lexists(old):
        old.rename(path)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
