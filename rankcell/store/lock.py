"""One writer at a time: a lock that the operating system drops with its process, kill -9 included."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rankcell.errors import OutputError


@contextlib.contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
    """Hold `folder/.lock`, or raise OutputError when another process holds it.

    Where the system has no fcntl (Windows) nothing is locked.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(Path(folder) / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise OutputError(f"another process is writing to {folder}: wait for it, or choose another output") from e
        yield
