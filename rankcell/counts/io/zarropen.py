"""zarr stores as files of this machine: what stands in a store is read only where it is a file of the store, of a size that can be.

A store that somebody sent may hold a pipe (reading it never ends), a device, links to files that are none of its, or a zip member
that claims gigabytes.
"""

import contextlib
import os
import zipfile
from pathlib import Path
from typing import Any

from rankcell.counts.io.file_kinds import require_file
from rankcell.counts.io.hdf5 import first_line
from rankcell.errors import InputError, is_out_of_memory

MARKS = ("zarr.json", ".zgroup", ".zmetadata", ".zattrs", ".zarray")
_MOST, _MOST_TEXT = 2**31, 2**28  # bytes of a chunk or shard, of metadata


def open_zarr(path: Path) -> tuple[Any, Any]:
    """(store, root group), read-only. InputError when it is none."""
    import zarr

    store: Any = None
    try:
        store = _folder_store(path) if path.is_dir() else _zip_store(path)
        root = zarr.open_group(store, mode="r")
        require_sound(store)
        return store, root
    except Exception as e:  # zarr, zipfile and json have their own
        e = getattr(store, "refusal", None) or e
        if store is not None:
            with contextlib.suppress(Exception):  # a .zip that could not be opened cannot be closed
                store.close()
        if isinstance(e, InputError) or is_out_of_memory(e):
            raise e from None
        raise InputError(f"{path} is not a readable zarr store ({type(e).__name__}: {first_line(e)})") from e


def _folder_store(path: Path) -> Any:
    from zarr.storage import LocalStore

    files = _Files(path)

    class FolderStore(LocalStore):
        refusal: InputError | None = None  # of a file of metadata: zarr asks for several at once, and leaves the others where one fails

        async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
            try:
                files.require(key)
            except InputError as e:
                if key.rpartition("/")[2] not in MARKS:
                    raise
                FolderStore.refusal = FolderStore.refusal or e
                return None
            return await super().get(key, prototype, byte_range)

    return FolderStore(path, read_only=True)


def require_sound(store: Any) -> None:
    """InputError when a file of the store's metadata was passed over because it is none."""
    if (refusal := getattr(store, "refusal", None)) is not None:
        raise refusal


def _zip_store(path: Path) -> Any:
    from zarr.storage import ZipStore

    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            _require_size(path, member.filename, member.file_size)
    return ZipStore(path, mode="r")


class _Files:
    """The files of a store in a folder, each looked at before it is read."""

    def __init__(self, root: Path):
        self._root, self._real = root, os.path.realpath(root)
        self._inside: set[str] = set()  # folders that are known to lie in the store

    def require(self, key: str) -> None:
        """InputError for a key that leads out of the store, or to what is no file of a size that can be."""
        folder = key.rpartition("/")[0]
        if key.startswith("/") or ".." in key.split("/"):
            raise InputError(f"{self._root}: the name {key!r} leads out of the store")
        path = os.path.join(self._root, key)
        try:
            at = os.lstat(path)
        except OSError:  # there is none, which the format allows
            return
        if folder not in self._inside or os.path.islink(path):
            real = os.path.realpath(path)
            if os.path.commonpath([real, self._real]) != self._real or not os.path.exists(real):
                raise InputError(f"{path} is a link to what is not in the store ({real}): put the file itself there")
            at = os.stat(real)
            self._inside.add(folder)
        require_file(Path(path))
        _require_size(self._root, key, at.st_size)


def _require_size(store: Path, name: str, size: int) -> None:
    most = _MOST_TEXT if name.rpartition("/")[2] in MARKS else _MOST
    if size > most:
        raise InputError(f"{store}: {name} is {size:,} bytes ({most:,} at most are read): is it damaged?")
