"""Write under a temporary name beside the target, sync, rename: a final name never holds half a file."""

import contextlib
import errno
import os
import platform
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from rankcell.errors import OutputError
from rankcell.store.lock import locked_name

_FULL = {errno.ENOSPC, errno.EDQUOT}


def require_new(path: str | os.PathLike, *, force: bool = False, marker: str | None = None) -> Path:
    """Return `path` if nothing stands there yet (or `force`), and its parent can hold it.

    marker
        None for an output that is a file; for a folder, the file in it that shows that an earlier output of the same kind
        stands there: only such a folder is ever replaced.

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
    if path.exists() and not force:
        raise OutputError(f"{path} exists: choose another output, or pass --force to replace it")
    if marker and path.is_dir() and not (path / marker).exists() and any(path.iterdir()):
        raise OutputError(f"{path} holds something else (it has no {marker}), so --force does not replace it: choose another output")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist: make it first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"the folder {path.parent} cannot be written to")
    return path


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
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _part_prefix(path: Path) -> str:
    return f".{path.name}.part-{platform.node() or 'here'}-"


def _sweep(path: Path) -> None:
    """Remove what processes of this machine that are gone (kill -9) left half-written for `path`."""
    prefix = _part_prefix(path)
    for left in path.parent.iterdir():
        pid = left.name.removeprefix(prefix).partition("-")[0]
        if left.name.startswith(prefix) and pid.isdigit() and not _is_alive(int(pid)):
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


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turn the operating system's refusals to write into one clear line about `path`."""
    try:
        yield
    except OSError as e:
        if e.errno in _FULL or "No space left" in str(e) or "errno = 28" in str(e):  # HDF5 hides the errno in its text
            raise OutputError(f"the disk is full: {path} was not written; free some space and run again") from e
        if e.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.EIO, errno.ENAMETOOLONG}:
            raise OutputError(f"{path} cannot be written: {e.strerror}") from e
        raise


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike, *, force: bool = False, marker: str | None = None, exclusive: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of `path` to write to: a file, or with `marker` (see require_new) a folder, made by the caller.

    On success it is synced and renamed to `path`; on any failure it is removed and `path` is as it was. With `exclusive`,
    OutputError when another process is writing `path`.
    """
    path = require_new(path, force=force, marker=marker)
    with locked_name(path) if exclusive else contextlib.nullcontext():
        yield from _written_aside(path, force=force, marker=marker)


def _written_aside(path: Path, *, force: bool, marker: str | None) -> Iterator[Path]:
    _sweep(path)
    part = path.with_name(f"{_part_prefix(path)}{os.getpid()}-{secrets.token_hex(3)}")
    try:
        with writing(path):
            yield part
            _sync(part)
            require_new(path, force=force, marker=marker)
            if path.is_dir():
                old = part.with_name(part.name + ".old")
                path.rename(old)
                part.rename(path)
                _remove(old)
            else:
                os.replace(part, path)
            if os.name == "posix":
                _sync_folder(path.parent)
    finally:
        _remove(part)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
