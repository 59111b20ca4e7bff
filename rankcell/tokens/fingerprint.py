"""The fingerprint of a token folder: size and sha256 of every file of rows, and the hash of rankcell.json itself.

Rows that were changed behind the spec's back would give other vectors without a word, and a frame that is gone makes `<cls>` a
gene. Both are checked once, when a folder is opened: 0.26 s for 50,000 cells of 2,000 genes (201 MB) on two
processors.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rankcell.errors import TokensError
from rankcell.store import content_hash

FILES, HASH = "files", "hash"
_CHECKED: set[tuple[Any, ...]] = set()  # files that this process has looked at, as they were then
_MOST_THREADS = 8


def file_hash(path: Path) -> str:
    """sha256 (hex) of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sealed(spec: Mapping[str, Any], hashes: Mapping[Path, str]) -> dict[str, Any]:
    """The content of rankcell.json: the spec, the size and hash of each file of rows, and the hash of all that."""
    files = {path.name: {"bytes": path.stat().st_size, "sha256": digest} for path, digest in hashes.items()}
    value = {**spec, FILES: files}
    return value | {HASH: content_hash(value)}


def check_seal(folder: Path, value: Mapping[str, Any] | None, files: Iterable[Path], *, name: str) -> bool:
    """Verify the fingerprint of a token folder; False where it carries none. TokensError where something is not what was written.

    value
        What the file `name` (rankcell.json) holds; None where there is none.
    files
        The files that the rows are read from.
    """
    if value is None or not {FILES, HASH} & value.keys():
        return False
    if value.get(HASH) != content_hash({k: v for k, v in value.items() if k != HASH}):
        raise TokensError(f"{folder / name} was changed since it was written: bring it back, or tokenize again")
    files = list(files)
    if sorted(f.name for f in files) != sorted(value[FILES]):
        raise TokensError(f"{folder} reads its rows from other files than {name} says: bring them back, or tokenize again")
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1, max(1, len(files)))) as pool:
        for _ in pool.map(lambda f: _check_file(f, value[FILES][f.name]), files):
            pass
    return True


def remember(path: Path, digest: str) -> None:
    """Cache the verified sha256 of a file in this process: it is not looked through again while it stays as it is, whatever its name."""
    _CHECKED.add(_as_it_is(path, digest))


def _as_it_is(path: Path, digest: str) -> tuple[Any, ...]:
    state = path.stat()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, digest


def _check_file(path: Path, written: Mapping[str, Any]) -> None:
    n_bytes, digest = path.stat().st_size, written["sha256"]
    if _as_it_is(path, digest) in _CHECKED:
        return
    if n_bytes != written["bytes"]:
        raise TokensError(
            f"{path} has {n_bytes:,} bytes and not the {written['bytes']:,} that were written: bring it back, or tokenize again"
        )
    if file_hash(path) != digest:
        raise TokensError(f"{path} was changed since it was written (its sha256 is another): bring it back, or tokenize again")
    remember(path, digest)
