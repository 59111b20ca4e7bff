"""HDF5 datasets read from any number of threads, without the library's lock where the storage is plain.

HDF5 reads one thing at a time, whichever thread asks. Where the file tells where its bytes are (contiguous, or chunks that
are plain, deflated or shuffled and deflated), they are read and inflated here, each thread for itself; everything else
(lzf, blosc, zstd, virtual datasets) goes through h5py.
"""

import contextlib
import math
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.counts.io.file_kinds import describe_file, require_file
from rankcell.counts.io.hdf5index import chunk_index
from rankcell.counts.io.hdf5links import require_plain_sources
from rankcell.counts.io.heaps import require_walkable_heaps
from rankcell.counts.matrix import plain_dtype
from rankcell.errors import OF_A_PART, InputError, is_out_of_memory

_SMALL = 32_768  # bytes
_DEFLATE, _SHUFFLE = 1, 2  # numbers of HDF5's own filters
_PLAIN = ((), (_DEFLATE,), (_SHUFFLE, _DEFLATE))
_MOST_CHUNKS = 2**26  # of a dataset whose chunks are listed here: one that claims more is left to HDF5
_RUN = 64  # chunks that are read at once at most


def open_hdf5(path: Path) -> Any:
    """An h5py.File opened to read; InputError when it is not there, not HDF5 or cut off."""
    import h5py

    if path.is_dir():
        raise InputError(f"{path} is a folder, not an HDF5 file")
    require_file(path)
    try:
        return h5py.File(path, "r")
    except (OSError, RuntimeError, ValueError) as e:  # an OSError for nearly everything: HDF5 tells these cases apart in its text only
        if "truncated" in str(e):
            raise InputError(f"{path} is truncated (it ends before the HDF5 file it says it is): copy it again") from e
        if "unable to lock" in str(e) or "errno = 11" in str(e):
            raise InputError(f"{path} is open in another program that may be writing it (it holds the file's lock): close it there, or copy the file") from e
        if "already open for" in str(e) or "consistency flags" in str(e):
            raise InputError(
                f"{path} was left open by a program that was writing it and ended before it closed it: write it again, or take the mark off "
                f"(h5clear -s {path.name}) and look whether it is whole"
            ) from e
        if isinstance(e, PermissionError):
            raise InputError(f"{path} cannot be read: permission denied") from e
        if not is_hdf5(path) and (kind := describe_file(path)):
            raise InputError(f"{path} is not an HDF5 file (h5ad, loom, 10x h5); it {kind}") from e
        raise InputError(f"{path} is not a readable HDF5 file (h5ad, loom, 10x h5): {first_line(e)}") from e


def open_source(path: Path) -> Any:
    """Open an HDF5 file whose strings will be read; InputError also where reading them would never end (damaged heaps, pipes)."""
    root = open_hdf5(path)
    try:
        require_walkable_heaps(path)
        require_plain_sources(root, path)
    except BaseException:
        root.close()
        raise
    return root


def holds(source: Any, layout: Callable[[Any], bool]) -> bool:
    """Whether `source` is the path of an HDF5 file whose root group has this layout; False when it cannot be read."""
    if not is_hdf5(source):
        return False
    try:
        with open_hdf5(Path(source)) as root:
            return layout(root)
    except MemoryError:
        raise
    except Exception:  # whatever HDF5 says about a damaged file, its reader says it better
        return False


def is_hdf5(source: Any) -> bool:
    """Whether `source` is a file that begins as HDF5 files do, at its start or after a block of the user's own."""
    if not isinstance(source, (str, os.PathLike)) or not Path(source).is_file():
        return False
    try:
        with open(source, "rb") as f:
            size = os.fstat(f.fileno()).st_size
            at = 0
            while at < size:
                f.seek(at)
                if f.read(8) == b"\x89HDF\r\n\x1a\n":
                    return True
                at = 2 * at or 512
    except OSError:
        pass
    return False


@contextlib.contextmanager
def loading(source: Any) -> Iterator[None]:
    """Turn what goes wrong while a source is opened into one line with its name; it is closed then."""
    try:
        yield
    except InputError as e:
        source.close()
        if e.of == OF_A_PART:
            raise e.completed(of=source.name) from e
        raise
    except Exception as e:  # HDF5 and zarr raise whatever they like at a damaged file
        source.close()
        if is_out_of_memory(e):
            raise
        raise InputError(f"{source.name} is not a readable {source.format} file ({type(e).__name__}: {first_line(e)})") from e
    except BaseException:
        source.close()
        raise


def first_line(e: BaseException) -> str:
    return str(e).splitlines()[0][:200] if str(e) else type(e).__name__


def inflater(size: int) -> Callable[[Any], bytes]:
    """The decompressor of zlib streams for chunks of `size` bytes: the fastest library that is installed.

    libdeflate where chunks are small (loom: 16 KB; 5 against 7 us a chunk), ISA-L where they are not (h5ad: 75 KB; a quarter
    faster), zlib itself without them. All three check the sum that a stream carries.
    """
    with contextlib.suppress(ImportError):
        if size <= _SMALL:
            from deflate import zlib_decompress

            return lambda raw: zlib_decompress(raw, size)
    with contextlib.suppress(ImportError):
        from isal.isal_zlib import decompress

        return lambda raw: decompress(raw, 15, size)
    return lambda raw: zlib.decompress(raw, 15, size)


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


class Chunks:
    """Where the chunks of a dataset lie in its file, in the order of their place in it; what was never written is the fill value."""

    def __init__(self, dataset: Any, fd: int, filters: tuple[int, ...]):
        self.fd = fd
        self.shape, self.dtype = dataset.chunks, dataset.dtype
        self.grid = tuple(-(-n // c) for n, c in zip(dataset.shape, self.shape, strict=True))
        self.offset = np.full(self.grid, -1, np.int64)
        self.size = np.zeros(self.grid, np.int64)
        self.unfiltered = True
        self.shuffled, self.deflated = _SHUFFLE in filters, _DEFLATE in filters
        self.n_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self._fill = dataset.fillvalue
        self._inflate = inflater(self.n_bytes)
        self._find(dataset)

    def _find(self, dataset: Any) -> None:
        known = chunk_index(dataset, self.fd)
        if known is not None:
            place, offset, size = known
            self.offset[tuple(place.T)], self.size[tuple(place.T)] = offset, size
        else:
            dataset.id.chunk_iter(self._note_chunk)
        there = self.offset >= 0
        end = os.fstat(self.fd).st_size
        if (self.offset[there] + self.size[there] > end).any() or (self.size < 0).any():
            raise OSError(f"chunks of {dataset.name} lie beyond the end of the file")

    def _note_chunk(self, info: Any) -> None:
        at = tuple(o // c for o, c in zip(info.chunk_offset, self.shape, strict=True))
        self.offset[at], self.size[at] = info.byte_offset, info.size
        self.unfiltered = self.unfiltered and not info.filter_mask

    def read(self, at: tuple[int, ...]) -> np.ndarray:
        """The values of one chunk, flat. OSError when its bytes are not what they should be."""
        return self.values(self.inflated([at]))

    def inflated(self, places: list[tuple[int, ...]]) -> list[bytes]:
        """The bytes of some chunks, each n_bytes long; those that lie side by side in the file are read at once."""
        chunks = [b""] * len(places)
        where = tuple(np.array(places).T)
        offsets, sizes = self.offset[where].tolist(), self.size[where].tolist()
        run: list[int] = []
        for k in sorted(range(len(places)), key=offsets.__getitem__):
            if offsets[k] < 0:
                chunks[k] = self._filled()
                continue
            if run and not (offsets[k] == offsets[run[-1]] + sizes[run[-1]] and len(run) < _RUN):
                self._read_run(run, offsets, sizes, chunks)
                run = []
            run.append(k)
        if run:
            self._read_run(run, offsets, sizes, chunks)
        return chunks

    def _read_run(self, run: list[int], offsets: list[int], sizes: list[int], chunks: list[bytes]) -> None:
        start = offsets[run[0]]
        raw: Any = os.pread(self.fd, offsets[run[-1]] + sizes[run[-1]] - start, start)
        view = raw if len(run) == 1 else memoryview(raw)
        n_bytes = self.n_bytes
        for k in run:
            at = offsets[k] - start
            chunks[k] = view if len(run) == 1 else view[at : at + sizes[k]]
        if self.deflated:
            inflate = self._inflate
            try:
                for k in run:
                    chunks[k] = inflate(chunks[k])
            except MemoryError:
                raise
            except Exception as e:  # zlib and ISA-L have errors of their own
                raise OSError(f"a compressed chunk is damaged ({e})") from e
        for k in run:
            if len(chunks[k]) != n_bytes:
                raise OSError(f"a chunk holds {len(chunks[k]):,} bytes instead of {n_bytes:,}")

    def values(self, inflated: list[bytes]) -> np.ndarray:
        """The values in such bytes, chunk after chunk, flat."""
        raw = inflated[0] if len(inflated) == 1 else b"".join(inflated)
        if self.shuffled:
            by_byte = np.frombuffer(raw, np.uint8).reshape(len(inflated), self.dtype.itemsize, -1)
            raw = np.ascontiguousarray(by_byte.transpose(0, 2, 1)).ravel()
        return np.frombuffer(raw, self.dtype)

    def _filled(self) -> bytes:
        return np.full(self.n_bytes // self.dtype.itemsize, self._fill, self.dtype).tobytes()


def chunks_of(dataset: Any) -> Chunks | None:
    """The chunks of a dataset, when they can be read without HDF5; else None."""
    fd, filters = _plain_file(dataset), _filters(dataset)
    if fd is None or dataset.chunks is None or filters not in _PLAIN or not hasattr(dataset.id, "chunk_iter"):
        return None
    if math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True)) > _MOST_CHUNKS:
        return None
    chunks = Chunks(dataset, fd, filters)
    return chunks if chunks.unfiltered else None


def _filters(dataset: Any) -> tuple[int, ...]:
    pipeline = dataset.id.get_create_plist()
    return tuple(pipeline.get_filter(i)[0] for i in range(pipeline.get_nfilters()))


def _plain_file(dataset: Any) -> int | None:
    """The file descriptor that HDF5 reads from, when bytes are where it says: an ordinary file, native numbers."""
    native = dataset.dtype.kind in "biuf" and dataset.dtype == plain_dtype(dataset.dtype)
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
        if getattr(dataset, "ndim", 0) != 1:
            raise InputError(f"{dataset.file.filename}: {dataset.name} is not a list of numbers")
        require_filters(dataset)
        self._dataset = dataset
        self.dtype = plain_dtype(dataset.dtype)
        self._chunks = chunks_of(dataset) if len(dataset) else None
        self._start = None if self._chunks is not None or dataset.chunks is not None else _contiguous(dataset)

    def __len__(self) -> int:
        return int(self._dataset.shape[0])

    def read(self, a: int, b: int, out: np.ndarray | None = None) -> np.ndarray:
        """Entries `a` to `b`, in `out` when room is given. OSError when the file does not hold them."""
        if self._start is None and self._chunks is None:
            return np.asarray(self._dataset[a:b]).astype(self.dtype, copy=False)
        out = np.empty(b - a, self.dtype) if out is None else out
        if self._start is not None:
            _read_into(out, self._start[0], self._start[1] + a * out.itemsize)
            return out
        chunks, step = self._chunks, self._chunks.shape[0]
        as_stored = not (chunks.deflated or chunks.shuffled) and hasattr(os, "preadv")
        for k in range(a // step, -(-b // step)):
            lo, hi = max(a, k * step), min(b, (k + 1) * step)
            if lo >= hi:
                continue
            if as_stored and chunks.offset[k] >= 0:
                if chunks.size[k] != chunks.n_bytes:
                    raise OSError(f"a chunk holds {chunks.size[k]:,} bytes instead of {chunks.n_bytes:,}")
                _read_into(out[lo - a : hi - a], chunks.fd, int(chunks.offset[k]) + (lo - k * step) * out.itemsize)
            else:
                out[lo - a : hi - a] = chunks.read((k,))[lo - k * step : hi - k * step]
        return out


def _read_into(out: np.ndarray, fd: int, at: int) -> None:
    """Fill an array with the bytes at a place in a file."""
    view, done = memoryview(out).cast("B"), 0
    while done < len(view):
        n = os.preadv(fd, [view[done:]], at + done)
        if not n:
            raise OSError("the file ends before the data does")
        done += n


def _contiguous(dataset: Any) -> tuple[int, int] | None:
    """(file descriptor, first byte) of a dataset that lies in one piece."""
    fd, start = _plain_file(dataset), dataset.id.get_offset()
    return None if fd is None or start is None or not hasattr(os, "preadv") else (fd, int(start))
