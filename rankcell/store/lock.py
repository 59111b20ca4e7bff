"""One writer at a time: a lock that the operating system drops with its process, kill -9 included."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rankcell.errors import OutputError

_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


@contextlib.contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
    """Hold `folder/.lock`, or raise OutputError when another process holds it.

    Where the system has no locks (Windows, some cluster filesystems) nothing is locked.
    """
    with open(Path(folder) / ".lock", "w") as handle:
        _take(handle, folder)
        yield


@contextlib.contextmanager
def locked_name(path: Path) -> Iterator[bool]:
    """The same for an output that is not there yet: `.<name>.lock` beside it, removed afterwards. Yields whether it is locked."""
    lock = path.with_name(f".{path.name}.lock")
    try:
        handle = open(lock, "w")  # noqa: SIM115 (held open by the with-statement below)
    except OSError as e:
        raise OutputError(f"the folder {path.parent} cannot be written to ({e.strerror})") from e
    with handle:
        is_held = _take(handle, path)
        if not lock.exists() or not os.path.samestat(os.fstat(handle.fileno()), lock.stat()):
            raise OutputError(f"another process has just written {path}: look at it, or run again")
        try:
            yield is_held
        finally:
            try:
                lock.unlink(missing_ok=True)
            except KeyboardInterrupt:
                lock.unlink(missing_ok=True)
                raise


def _take(handle: IO[str], path: str | os.PathLike) -> bool:
    """Lock an open file, or OutputError when it is locked. False where the system or the filesystem has no locks."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno in _HELD:
            raise OutputError(f"another process is writing to {path}: wait for it, or choose another output") from e
        return False
    return True
