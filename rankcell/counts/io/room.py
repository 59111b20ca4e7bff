"""What a stored array claims to hold, against the memory of this machine and what is stored: a header of some bytes can name 10^12 cells."""

import math
import os
from typing import Any

from rankcell.errors import OF_A_PART, InputError

_UNKNOWN = 2**40  # bytes of memory where the system does not say
_TEXT = 70  # bytes of a short text


def machine_memory() -> int:
    """Bytes of memory of this machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN


def require_room(node: Any, *, all_rows: bool = True) -> None:
    """InputError when an array that is read at once (`all_rows`), or one of its chunks, is larger than this machine's memory."""
    for shape, words in ((node.shape if all_rows else (), "holds"), (getattr(node, "chunks", None) or (), "is stored in chunks of")):
        n_bytes = math.prod(map(int, shape)) * node.dtype.itemsize
        if n_bytes > machine_memory():
            size = " x ".join(f"{int(n):,}" for n in shape)
            raise InputError(f"{node.name} says that it {words} {size} values ({n_bytes / 1e9:,.0f} GB), more than fit in memory: is it damaged?", of=OF_A_PART)


def require_all_stored(node: Any) -> None:
    """InputError when a list of names claims more than is stored: of its last chunk, which was never written, all names are empty."""
    n, chunks = int(node.shape[0]), getattr(node, "chunks", None)
    if not n or not chunks or node.dtype.kind in "biufc":
        return
    start = (n - 1) // int(chunks[0]) * int(chunks[0])
    if start and not any(node[start:n].tolist()):
        raise InputError(f"{node.name} says that it holds {n:,} names, and those from number {start:,} on are not stored: is it damaged, or cut off?", of=OF_A_PART)


def row_numbers(n: int, kind: str) -> list[str]:
    """Numbers from 0, as text, in place of names that are not there. InputError when there would be more than fit in memory."""
    if n * _TEXT > machine_memory():
        raise InputError(f"the matrix says that it has {n:,} {kind}, more than fit in memory: is it damaged?", of=OF_A_PART)
    return [str(i) for i in range(n)]
