"""Write in a temporary folder beside the target, sync, rename: a final name never holds half a file.

The folder's name cannot be foretold and nobody else may enter it, so that no file or link waits there for what is written.
"""

import contextlib
import ctypes
import errno
import os
import platform
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rankcell.errors import OutputError
from rankcell.store.lock import locked_name
from rankcell.store.own import Own, is_mine, part_of, remove_temporary, require_new, require_unlinked

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.EIO, errno.ENAMETOOLONG}
_OLD = ".old"  # ends the name of an output that was moved aside to be replaced


def _host() -> str:
    return platform.node() or "here"


def _sweep(path: Path, *, alone: bool) -> None:
    """Remove what processes of this machine that are gone (kill -9) left half-written for `path`, and undo a broken replacing.

    alone: the lock of `path` is held, so that no process of this machine is writing it, whatever its number says (a container
    gives the same numbers again).
    """
    for leftover in path.parent.iterdir():
        part = part_of(leftover.name)
        if part is None or part["name"] != path.name or not is_mine(leftover):
            continue
        is_dead = part["host"] == _host() and (alone or not _is_alive(int(part["pid"])))
        if part["old"] and (is_dead or alone):
            _settle(leftover, path)
        elif is_dead:
            remove_temporary(leftover)


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


def remove_parts(folder: Path, *, alone: bool = True) -> None:
    """Remove half-written files in `folder`: all where its lock is held, so that no one else can be writing (`alone`); else those of
    processes of this machine that are gone."""
    for leftover in folder.iterdir() if folder.is_dir() else ():
        part = part_of(leftover.name)
        if part and is_mine(leftover) and (alone or (part["host"] == _host() and not _is_alive(int(part["pid"])))):
            remove_temporary(leftover)


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
    path: str | os.PathLike,
    *,
    force: bool = False,
    marker: str | None = None,
    own: Sequence[Own] = (),
    wrote: Callable[[Path], bool] | None = None,
    exclusive: bool = False,
    sweep: bool = True,
) -> Iterator[Path]:
    """Yield a temporary path to write to, of the same name: a file, or with `marker` a folder, made by the caller. See require_new.

    On success it is synced, gets the permissions of a new file or folder and is renamed to `path`; on any failure it is removed
    and `path` is as it was. With `exclusive`, OutputError when another process is writing `path`. `sweep`: remove first what
    processes that are gone left half-written for it, which lists the folder: for one file of many, see remove_parts.
    """

    def check() -> Path:
        return require_new(path, force=force, marker=marker, own=own, wrote=wrote)

    path = check()
    with locked_name(path) if exclusive else contextlib.nullcontext(False) as alone:
        if sweep:
            _sweep(path, alone=alone)
            check()  # an earlier output may have come back
        yield from _written_aside(path, check)


def _written_aside(path: Path, check: Callable[[], object]) -> Iterator[Path]:
    home, part = _temporary(path), _temporary(path)
    try:
        with writing(path):
            home.mkdir(mode=0o700)
            yield home / path.name
            _settle_on_disk(home / path.name)
            check()
            os.rename(home / path.name, part)
            remove_temporary(home)  # killed after the last step, nothing is left
            _rename(part, path)
            if os.name == "posix":
                _sync_folder(path.parent)
    finally:
        _remove_all(home, part)


def _remove_all(*paths: Path) -> None:
    """Remove temporary paths, all of them also where Ctrl-C is pressed meanwhile."""
    stopped = None
    for path in paths:
        try:
            remove_temporary(path)
        except KeyboardInterrupt as e:
            stopped = e
            remove_temporary(path)
    if stopped is not None:
        raise stopped


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.part-{_host()}-{os.getpid()}-{secrets.token_hex(8)}")


def _settle_on_disk(path: Path) -> None:
    """Sync a file or a folder with all that is in it, and give each the permissions of a new one, however it was made."""
    if os.name != "posix":
        for file in filter(Path.is_file, [path, *path.rglob("*")]):
            _sync(file)
        return
    probe = path.with_name("b" if path.name == "a" else "a")
    probe.mkdir()
    mode = stat.S_IMODE(probe.stat().st_mode) & 0o777  # what the umask, or the folder's own rule, leaves
    probe.rmdir()
    for target in [path, *path.rglob("*")] if path.is_dir() else [path]:
        _sync(target, mode if target.is_dir() else mode & 0o666)


def _sync(path: Path, mode: int | None = None) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        before = stat.S_IMODE(os.fstat(fd).st_mode)
        if mode is not None and before & 0o777 != mode:
            os.fchmod(fd, before & ~0o777 | mode)
        os.fsync(fd)
    finally:
        os.close(fd)


def publish(staged: Path, folder: Path) -> list[str]:
    """Give every file of `staged`, each whole and synced, its name in `folder` on the same disk; their names.

    OutputError when a folder or a link stands where one is to go.
    """
    names = sorted(p.name for p in staged.iterdir() if not p.name.startswith("."))
    for name in names:
        require_unlinked(folder / name)
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
        remove_temporary(old)
    elif os.path.lexists(old):
        old.rename(path)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
