"""zarr stores, version 2 and 3, in folders and .zip files, with AnnData's layout. Opened read-only."""

import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.counts.io.h5ad import StoredAnnData
from rankcell.counts.io.hdf5 import first_line, loading
from rankcell.counts.io.room import require_room
from rankcell.counts.io.spill import dense_matrix
from rankcell.counts.io.zarropen import MARKS, open_zarr, require_sound
from rankcell.counts.matrix import ArrayVector, Matrix
from rankcell.counts.source import register
from rankcell.errors import OF_A_PART, InputError


class ZarrSource(StoredAnnData):
    """An AnnData in a zarr store. zarr decodes chunks without the interpreter's lock, whichever thread asks."""

    format = "zarr"

    def __init__(self, path: str | os.PathLike, *, layer: str | None = None, raw: bool = False):
        self.name = str(path)
        self._store, root = open_zarr(Path(path))
        with loading(self):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Object at .* is not recognized")  # such as .DS_Store; what is missing is said below
                names = set(root)
            require_sound(self._store)
            if not any({"obs", "var"} <= names or group in root for group in ("mod", "tables")):
                present = ", ".join(sorted(names)) or "nothing"
                raise InputError(f"{path} is a zarr store but not an AnnData, which has obs and var: it holds {present}")
        try:
            super().__init__(root, self.name, lambda node: ArrayVector(_Slices(node)), layer=layer, raw=raw)
        finally:  # a part that is passed over is the cause of what it lacks
            require_sound(self._store)

    def _dense(self, node: Any) -> Matrix:
        return dense_matrix(_Slices(node), getattr(node, "shards", None) or node.chunks)

    def close(self) -> None:
        if hasattr(self, "x"):
            self.x.close()
        self._store.close()


class _Slices:
    """An array of a store; whatever goes wrong in reading it is an OSError."""

    def __init__(self, node: Any):
        if not hasattr(node, "shape"):
            raise InputError(f"{node.name} is not a list of numbers", of=OF_A_PART)
        require_room(node, all_rows=False)
        self._node, self.shape, self.dtype = node, node.shape, node.dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        try:
            return np.asarray(self._node[key])
        except MemoryError:
            raise
        except Exception as e:  # every codec has its own
            raise OSError(f"{self._node.name}: {first_line(e)}") from e


def _is_zarr(source: Any) -> bool:
    if not isinstance(source, (str, os.PathLike)):
        return False
    path = Path(source)
    if path.is_dir():
        return path.suffix.lower() == ".zarr" or any((path / name).is_file() for name in MARKS)
    if path.suffix.lower() != ".zip" or not path.is_file():
        return False
    if path.name.lower().endswith(".zarr.zip"):
        return True
    try:
        with zipfile.ZipFile(path) as z:
            return not {*MARKS}.isdisjoint(z.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


register("zarr", _is_zarr, ZarrSource)
