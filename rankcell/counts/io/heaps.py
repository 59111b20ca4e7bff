"""Whether the heaps of an HDF5 file, where its strings lie, can be walked: on a damaged one the HDF5 library never comes back.

A global heap collection is a header of 16 bytes ("GCOL", version, size) and objects: a header of 16 bytes (index, references, size)
and data padded to 8 bytes. Object 0 is the free space at the end, and its size counts its own header; a size of zero there, as an
overwritten block leaves, is a step of no length. HDF5 File Format Specification 3.0, III.E.
"""

import mmap
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rankcell.errors import InputError

_MARK = re.compile(rb"GCOL\x01\0\0\0")
_WHOLE = 2**27  # bytes: of a larger file only both ends are looked at, in less than a tenth of a second
_END = 2**26
_SMALLEST, _LARGEST = 16, 2**30  # bytes of a collection


def require_walkable_heaps(path: str | os.PathLike) -> None:
    """InputError when a string heap of the HDF5 file cannot be walked to its end. A file of another kind passes."""
    from rankcell.counts.kernels import heap_is_walkable

    path = Path(path)
    size = os.path.getsize(path)
    if not size:
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for start, n in _collections(mapped, size):
            if not heap_is_walkable(np.frombuffer(mapped[start : start + n], np.uint8)):
                raise InputError(f"{path} is damaged (its block of text at byte {start:,} is overwritten): copy it again, or write it again")


def _collections(mapped: mmap.mmap, size: int) -> Iterator[tuple[int, int]]:
    """(offset, size) of each collection."""
    for a, b in [(0, size)] if size <= _WHOLE else [(0, _END), (size - _END, size)]:
        for at in [match.start() for match in _MARK.finditer(mapped, a, b)]:
            if at + 16 <= size:
                (n,) = struct.unpack_from("<Q", mapped, at + 8)
                if _SMALLEST < n <= _LARGEST and at + n <= size:
                    yield at, n
