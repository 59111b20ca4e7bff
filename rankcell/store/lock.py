"""One writer at a time: a lock that the operating system drops with its process, kill -9 included."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rankcell.errors import OutputError

LOCK = ".lock"
_PAUSE = 0.1  # seconds between two tries of who waits
_IN_USE = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


@contextlib.contextmanager
def locked(folder: str | os.PathLike, *, name: str = LOCK, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold `folder/<name>`, or raise OutputError when another process holds it.

    name
        A folder may have several locks; names begin with `.lock`.
    shared
        Others may hold it shared too, but nobody alone.
    wait
        Wait for it as long as it takes.

    Where the system has no locks (Windows, some cluster filesystems) nothing is locked.
    """
    with contextlib.ExitStack() as stack:
        try:
            handle = stack.enter_context(_open(Path(folder) / name))
        except OSError as e:
            raise OutputError(f"{folder} cannot be written to: {e.strerror}") from e
        while not _take_or_wait(handle, folder, shared=shared, wait=wait):
            time.sleep(_PAUSE)
        yield


def _take_or_wait(handle: IO[str], folder: str | os.PathLike, *, shared: bool, wait: bool) -> bool:
    try:
        _take(handle, folder, shared=shared)
    except OutputError:
        if not wait:
            raise
        return False
    return True


@contextlib.contextmanager
def locked_name(path: Path) -> Iterator[bool]:
    """Lock an output that is not there yet: `.<name>.lock` beside it, removed afterwards. Yields whether it is locked."""
    lock = path.with_name(f".{path.name}.lock")
    try:
        handle = _open(lock)
    except OSError as e:
        raise OutputError(f"the folder {path.parent} cannot be written to ({e.strerror})") from e
    with handle:
        is_locked = _take(handle, path)
        if not _is_at(handle, lock):
            raise OutputError(f"another process has just written {path}: look at it, or run again")
        try:
            yield is_locked
        finally:
            try:
                _unlink(handle, lock)
            except KeyboardInterrupt:
                _unlink(handle, lock)
                raise


def _is_at(handle: IO[str], lock: Path) -> bool:
    """Whether the open file is the one that stands at `lock`."""
    return os.path.lexists(lock) and os.path.samestat(os.fstat(handle.fileno()), os.lstat(lock))


def _unlink(handle: IO[str], lock: Path) -> None:
    """Remove the lock's file, which is empty; one that holds something was there before."""
    if _is_at(handle, lock) and not os.fstat(handle.fileno()).st_size:
        lock.unlink(missing_ok=True)


def _open(lock: Path) -> IO[str]:
    """The lock's file, which stays empty: what stands there is neither cut short nor, where it is a link, followed."""
    if lock.is_symlink():
        raise OutputError(f"{lock} is a link, which rankcell did not make: remove it and run again")
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)  # shared locks over a network want it readable
    return os.fdopen(os.open(lock, flags, 0o666), "r+")


def _take(handle: IO[str], path: str | os.PathLike, *, shared: bool = False) -> bool:
    """Lock an open file, or OutputError when it is locked. False where the system or the filesystem has no locks."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno in _IN_USE:
            raise OutputError(f"another process is writing to {path}: wait for it, or choose another output") from e
        return False
    return True
