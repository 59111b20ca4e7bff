"""How kernels are compiled. Files with kernels are imported inside the functions that call them: numba takes half a second."""

import contextlib
import hashlib
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import numba
from numba.core.caching import IndexDataCacheFile


def compiled(function: Callable, **options: Any) -> Any:
    """`function` compiled to run without the interpreter's lock, kept beside its file, else in the user's cache folder, else nowhere.

    numba looks for the two folders itself; where it finds neither (a read-only installation of a user without a home), it would
    refuse to compile. `options`: of numba.njit.
    """
    try:
        kernel = numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:
        kernel = numba.njit(nogil=True, **options)(function)
    if kernel is not function:  # NUMBA_DISABLE_JIT gives it back
        with contextlib.suppress(AttributeError, TypeError):  # a numba that is built otherwise inside keeps its own ways
            _make_safe(kernel)
    return kernel


def _make_safe(kernel: Any) -> None:
    """Make a kernel's cache and compilation safe for several processes, damaged files and Ctrl-C."""
    kernel._compile_for_args = _aside(kernel._compile_for_args)
    if kernel._cache.cache_path:
        _close_new(kernel._cache.cache_path)
        impl = kernel._cache._impl
        kernel._cache._cache_file = _OneFileEach(kernel._cache.cache_path, impl.filename_base, impl.locator.get_source_stamp())


def _aside(compile: Callable) -> Callable:
    """`compile` in a thread of its own when the main thread calls it.

    A Ctrl-C is raised in the main thread wherever that is, and LLVM's callbacks lose it: the program would run on, or end with
    an error of numba's. Here the main thread only waits.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            return compile(*args, **kwargs)
        pool = ThreadPoolExecutor(1, "compile")
        try:
            return pool.submit(compile, *args, **kwargs).result()
        finally:
            pool.shutdown(wait=False)

    return run


_FILE_MODE = 0o644  # of what is kept, less what the umask takes: what is loaded is run, so that nobody else may write it
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def _close_new(folder: str) -> None:
    """Take from others the right to write into a folder that was just made (it is empty), whatever the umask says."""
    with contextlib.suppress(OSError):
        status = os.lstat(folder)
        is_new = stat.S_ISDIR(status.st_mode) and hasattr(os, "geteuid") and status.st_uid == os.geteuid() and not os.listdir(folder)
        if is_new and status.st_mode & _OTHERS_WRITE:
            os.chmod(folder, stat.S_IMODE(status.st_mode) & ~_OTHERS_WRITE)


def _is_trusted(path: str, writers: int = stat.S_IWOTH) -> bool:
    """Whether only this user, root, or whoever owns this package can have put there what stands at `path`: no link, not writable by
    any of `writers`."""
    if not hasattr(os, "geteuid"):
        return True
    try:
        status = os.lstat(path)
    except OSError:
        return False
    owners = {os.geteuid(), 0, os.stat(__file__).st_uid}
    return not stat.S_ISLNK(status.st_mode) and status.st_uid in owners and not status.st_mode & writers


class _OneFileEach(IndexDataCacheFile):
    """Compiled code in files whose names say all that it depends on: source, numba, argument types, processor.

    numba numbers its files and keeps an index of them. Two processes that start at once can give one number to two kernels, and
    one that is stopped between index and file leaves a number that stands for older code: both would run the wrong code
    unnoticed. An index or file that was cut short stops every later run. Here there is no index, a file is replaced whole, what
    cannot be read is compiled again, and what cannot be kept is not kept.
    """

    def load(self, key: Any) -> Any:
        name = self._name(key)
        if not (_is_trusted(self._cache_path) and _is_trusted(self._data_path(name), _OTHERS_WRITE)):
            return None  # what is loaded is run
        try:
            return self._load_data(name)
        except Exception:  # a damaged file can raise anything
            return None

    def save(self, key: Any, data: Any) -> None:
        if not _is_trusted(self._cache_path):
            return
        with contextlib.suppress(OSError):
            self._save_data(self._name(key), data)

    @contextlib.contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[IO[bytes]]:
        """A new file of a name that cannot be foretold, which then takes the place of `filepath`."""
        aside = f"{filepath}.tmp.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            with os.fdopen(os.open(aside, flags, _FILE_MODE), "wb") as f:
                yield f
            os.replace(aside, filepath)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise

    def flush(self) -> None:
        """There is no index to empty."""

    def _name(self, key: Any) -> str:
        key_text = repr((self._version, self._source_stamp, key))
        return f"{self._index_name.removesuffix('.nbi')}.{hashlib.sha256(key_text.encode()).hexdigest()[:24]}.nbc"
