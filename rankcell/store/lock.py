"""One writer at a time: a lock that the operating system drops with its process, kill -9 included."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rankcell.errors import OutputError


@contextlib.contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
    """Hold `folder/.lock`, or raise OutputError when another process holds it.

    Where the system has no fcntl (Windows) nothing is locked.
    """
    with open(Path(folder) / ".lock", "w") as handle:
        _take(handle, folder)
        yield


@contextlib.contextmanager
def locked_name(path: Path) -> Iterator[None]:
    """The same for an output that is not there yet: `.<name>.lock` beside it, removed afterwards."""
    lock = path.with_name(f".{path.name}.lock")
    try:
        handle = open(lock, "w")  # noqa: SIM115 (held open by the with-statement below)
    except OSError as e:
        raise OutputError(f"the folder {path.parent} cannot be written to ({e.strerror})") from e
    with handle:
        _take(handle, path)
        if not lock.exists() or not os.path.samestat(os.fstat(handle.fileno()), lock.stat()):
            raise OutputError(f"another process has just written {path}: look at it, or run again")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _take(handle: IO[str], path: str | os.PathLike) -> None:
    """The lock of an open file, or OutputError."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        raise OutputError(f"another process is writing to {path}: wait for it, or choose another output") from e
