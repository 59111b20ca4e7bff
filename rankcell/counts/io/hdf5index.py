"""Where the chunks of an HDF5 dataset lie, read from the B-tree in the file (version 1, what h5py, anndata and loompy write).

HDF5 tells the same through a call per chunk, which for a loom file of small chunks takes a fifth of the whole work. What is
not exactly as expected here is left to HDF5.
"""

import os
import struct
from typing import Any

import numpy as np

_LAYOUT, _CONTINUATION = 0x08, 0x10
_HEADER = 24  # bytes of a node before its keys


def chunk_index(dataset: Any, fd: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(place in the grid of chunks [chunk, dimension], byte offset, size) of every stored chunk; None: ask HDF5."""
    try:
        root = _root_of_tree(dataset, fd)
        if root is None:
            return None
        leaves = _leaves(fd, root, dataset.ndim)
        grid = tuple(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
        if len(leaves) != np.prod(grid) and len(leaves) != dataset.id.get_num_chunks():  # counting is slow
            return None
    except (OSError, ValueError, struct.error, RuntimeError, AttributeError, OverflowError):
        return None
    if leaves["mask"].any() or leaves["element"].any():
        return None
    place, odd = np.divmod(leaves["at"].astype(np.int64).reshape(-1, dataset.ndim), np.array(dataset.chunks))
    if odd.any() or (place < 0).any() or (place >= grid).any():
        return None
    if len(place) and np.bincount(np.ravel_multi_index(tuple(place.T), grid)).max() > 1:
        return None
    return place, leaves["address"].astype(np.int64), leaves["size"].astype(np.int64)


def _root_of_tree(dataset: Any, fd: int) -> int | None:
    """The address of the B-tree, from the layout message of the dataset's object header."""
    from h5py import h5o

    if dataset.file.id.get_create_plist().get_sizes() != (8, 8):
        return None
    header = os.pread(fd, 16, h5o.get_info(dataset.id).addr)
    version, _, n_messages, _, size = struct.unpack("<BBHII", header[:12])
    if version != 1:
        return None
    parts = [(h5o.get_info(dataset.id).addr + 16, size)]
    while parts and n_messages:
        start, size = parts.pop(0)
        raw, at = os.pread(fd, size, start), 0
        while n_messages and at + 8 <= len(raw):
            kind, length = struct.unpack_from("<HH", raw, at)
            body = raw[at + 8 : at + 8 + length]
            if kind == _LAYOUT:
                version, layout_class, n_dimensions, address = struct.unpack_from("<BBBQ", body)
                return address if (version, layout_class, n_dimensions) == (3, 2, dataset.ndim + 1) else None
            if kind == _CONTINUATION:
                parts.append(struct.unpack_from("<QQ", body))
            at, n_messages = at + 8 + length, n_messages - 1
    return None


def _leaves(fd: int, root: int, n_dimensions: int) -> np.ndarray:
    """The entries of all leaves: size, mask, position and address of a chunk."""
    entry = np.dtype([("size", "<u4"), ("mask", "<u4"), ("at", "<u8", (n_dimensions,)), ("element", "<u8"), ("address", "<u8")])
    leaves, nodes, level = [], [root], -1
    while level != 0:
        below: list[int] = []
        for address in nodes:
            raw = os.pread(fd, _HEADER + 64 * entry.itemsize, address)
            mark, kind, here, n = struct.unpack_from("<4sBBH", raw)
            if mark != b"TREE" or kind != 1 or (level >= 0 and here != level - 1):
                raise ValueError("not a node of chunks")
            if len(raw) < _HEADER + n * entry.itemsize:
                raw = os.pread(fd, _HEADER + n * entry.itemsize, address)
            entries = np.frombuffer(raw, entry, n, _HEADER)
            if here == 0:
                leaves.append(entries)
            else:
                below += entries["address"].tolist()
            reached = here
        nodes, level = below, reached
    return np.concatenate(leaves) if leaves else np.empty(0, entry)
