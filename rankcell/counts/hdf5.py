"""HDF5 datasets read from any number of threads, without the library's lock where the storage is plain.

HDF5 reads one thing at a time, whichever thread asks. Where the file tells where its bytes are (contiguous, or chunks that
are plain, deflated or shuffled and deflated), they are read and inflated here, each thread for itself; everything else
(lzf, blosc, zstd, virtual datasets) goes through h5py.
"""

import contextlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.errors import InputError

_DEFLATE, _SHUFFLE = 1, 2  # numbers of HDF5's own filters
_PLAIN = ((), (_DEFLATE,), (_SHUFFLE, _DEFLATE))


def open_hdf5(path: Path) -> Any:
    """An h5py.File opened to read; InputError when it is not there, not HDF5 or cut off."""
    import h5py

    if path.is_dir():
        raise InputError(f"{path} is a folder, not an HDF5 file")
    try:
        return h5py.File(path, "r")
    except OSError as e:
        if "truncated" in str(e):
            raise InputError(f"{path} is truncated (it ends before the HDF5 file it says it is): copy it again") from e
        if isinstance(e, PermissionError):
            raise InputError(f"{path} cannot be read: permission denied") from e
        raise InputError(f"{path} is not an HDF5 file (h5ad, loom, 10x h5): {first_line(e)}") from e


def first_line(e: BaseException) -> str:
    return str(e).splitlines()[0][:200] if str(e) else type(e).__name__


def inflater() -> Callable[[bytes, int], bytes]:
    """(zlib stream, size of what is in it) -> its content, by ISA-L where it is installed."""
    try:
        from isal import isal_zlib

        return lambda raw, size: isal_zlib.decompress(raw, 15, size)
    except ImportError:
        return lambda raw, size: zlib.decompress(raw, 15, size)


def require_filters(dataset: Any) -> None:
    """InputError when the dataset is compressed by something that cannot be undone here."""
    import h5py

    pipeline = dataset.id.get_create_plist()
    codes = [pipeline.get_filter(i)[0] for i in range(pipeline.get_nfilters())]
    if all(h5py.h5z.filter_avail(c) for c in codes):
        return
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401 (it registers its filters when imported)
    lacking = [c for c in codes if not h5py.h5z.filter_avail(c)]
    if lacking:
        raise InputError(
            f"{dataset.file.filename}: {dataset.name} is compressed with HDF5 filter {lacking[0]}, which is not installed: "
            "pip install hdf5plugin"
        )


class _Chunks:
    """Where the chunks of a dataset lie in its file, in the order of their place in it."""

    def __init__(self, dataset: Any, fd: int, filters: tuple[int, ...]):
        self.fd = fd
        self.shape, self.dtype = dataset.chunks, dataset.dtype
        self.grid = tuple(-(-n // c) for n, c in zip(dataset.shape, self.shape, strict=True))
        self.offset = np.full(self.grid, -1, np.int64)
        self.size = np.zeros(self.grid, np.int64)
        self.whole = True

        def found(info: Any) -> None:
            at = tuple(int(o) // c for o, c in zip(info.chunk_offset, self.shape, strict=True))
            self.offset[at], self.size[at] = info.byte_offset, info.size
            self.whole = self.whole and not info.filter_mask

        dataset.id.chunk_iter(found)
        self.whole = self.whole and bool((self.offset >= 0).all())
        self.shuffled, self.deflated = _SHUFFLE in filters, _DEFLATE in filters
        self.n_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self._inflate = inflater()

    def read(self, at: tuple[int, ...]) -> np.ndarray:
        """The values of one chunk, flat. OSError when its bytes are not what they should be."""
        raw: Any = os.pread(self.fd, int(self.size[at]), int(self.offset[at]))
        if self.deflated:
            try:
                raw = self._inflate(raw, self.n_bytes)
            except (zlib.error, ValueError, OSError, EOFError) as e:
                raise OSError(f"a compressed chunk is damaged ({e})") from e
        if len(raw) != self.n_bytes:
            raise OSError(f"a chunk holds {len(raw):,} bytes instead of {self.n_bytes:,}")
        if self.shuffled:
            raw = np.ascontiguousarray(np.frombuffer(raw, np.uint8).reshape(self.dtype.itemsize, -1).T)
        return np.frombuffer(raw, self.dtype)


def chunks_of(dataset: Any) -> _Chunks | None:
    """Its chunks, when they can be read without HDF5; else None."""
    fd, filters = _plain_file(dataset), _filters(dataset)
    if fd is None or dataset.chunks is None or filters not in _PLAIN or not hasattr(dataset.id, "chunk_iter"):
        return None
    found = _Chunks(dataset, fd, filters)
    return found if found.whole else None


def _filters(dataset: Any) -> tuple[int, ...]:
    pipeline = dataset.id.get_create_plist()
    return tuple(pipeline.get_filter(i)[0] for i in range(pipeline.get_nfilters()))


def _plain_file(dataset: Any) -> int | None:
    """The file descriptor that HDF5 reads from, when bytes are where it says: an ordinary file, native numbers."""
    native = dataset.dtype.kind in "biuf" and dataset.dtype.isnative
    if not (native and hasattr(os, "pread") and dataset.file.driver == "sec2" and not dataset.file.userblock_size):
        return None
    if dataset.is_virtual or dataset.external:
        return None
    try:
        return int(dataset.file.id.get_vfd_handle())
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return None


class Hdf5Vector:
    """A one-dimensional dataset, read in slices from any thread."""

    def __init__(self, dataset: Any):
        if not hasattr(dataset, "ndim") or dataset.ndim != 1:
            raise InputError(f"{dataset.file.filename}: {dataset.name} is not a list of numbers")
        require_filters(dataset)
        self._dataset = dataset
        self.dtype = dataset.dtype
        self._chunks = chunks_of(dataset) if len(dataset) else None
        self._start = None if self._chunks is not None or dataset.chunks is not None else _contiguous(dataset)

    def __len__(self) -> int:
        return int(self._dataset.shape[0])

    def read(self, a: int, b: int) -> np.ndarray:
        """Entries `a` to `b`. OSError when the file does not hold them."""
        if self._start is not None:
            return self._contiguous(a, b)
        if self._chunks is None:
            return self._dataset[a:b]
        out = np.empty(b - a, self.dtype)
        step = self._chunks.shape[0]
        for k in range(a // step, -(-b // step)):
            lo, hi = max(a, k * step), min(b, (k + 1) * step)
            if lo < hi:
                out[lo - a : hi - a] = self._chunks.read((k,))[lo - k * step : hi - k * step]
        return out

    def _contiguous(self, a: int, b: int) -> np.ndarray:
        fd, start = self._start
        out = np.empty(b - a, self.dtype)
        view, at, size = memoryview(out).cast("B"), start + a * out.itemsize, out.nbytes
        done = 0
        while done < size:
            n = os.preadv(fd, [view[done:]], at + done)
            if not n:
                raise OSError("the file ends before the data does")
            done += n
        return out


def _contiguous(dataset: Any) -> tuple[int, int] | None:
    """(file descriptor, first byte) of a dataset that lies in one piece."""
    fd, start = _plain_file(dataset), dataset.id.get_offset()
    return None if fd is None or start is None or not hasattr(os, "preadv") else (fd, int(start))
