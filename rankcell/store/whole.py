"""Whether a file of ours is what was written: its size and SHA-256, kept in a manifest, or inside the file where no manifest is.

A parquet file is sealed by the second way: a value in its footer is the SHA-256 of a label and of the whole file, taken with zeros
in that value's place.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

SEAL_KEY = b"rankcell.seal"
_MARK = b"rankcell-sha256:"
BLANK = _MARK + b"0" * 64  # what the metadata of a parquet file hold under SEAL_KEY until it is sealed
_CHUNK = 2**20
_verified: set[tuple] = set()  # files that this process has hashed: they are hashed again when they change


def file_facts(path: str | os.PathLike) -> dict[str, Any]:
    """`bytes` and `sha256` of a file."""
    with open(path, "rb") as f:
        return {"bytes": os.path.getsize(path), "sha256": hashlib.file_digest(f, "sha256").hexdigest()}


def damage(path: str | os.PathLike, facts: Mapping[str, Any] | None = None) -> str | None:
    """Describe how a file differs from what was written; None when it does not.

    facts
        What `file_facts` gave when it was written; None where that is not known.
    """
    path = Path(path)
    if not path.is_file():
        return "a folder stands in its place" if path.is_dir() else "it is missing"
    stat = path.stat()
    if not stat.st_size and (facts is None or facts["bytes"]):
        return "it is empty"
    if facts is None:
        return None
    if stat.st_size != facts["bytes"]:
        return f"it has {stat.st_size:,} bytes and was written with {facts['bytes']:,}"
    key = (str(path.absolute()), stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, facts["sha256"])
    if key not in _verified:
        if file_facts(path)["sha256"] != facts["sha256"]:
            return "its bytes are not those that were written"
        _verified.add(key)
    return None


def seal(path: str | os.PathLike, label: str) -> None:
    """Seal a parquet file whose metadata hold BLANK under SEAL_KEY; `label` says what the file is."""
    with open(path, "r+b") as f:
        at = _seal_place(f)
        if at is None:
            raise ValueError(f"{path} has no place for a seal")
        digest = _sealed_hash(f, at, label)
        f.seek(at)
        f.write(digest.encode())


def seal_damage(path: str | os.PathLike, label: str, *, required: bool = True) -> str | None:
    """Describe the damage of a sealed parquet file, None when there is none. Without `required`, one that is not sealed passes."""
    fault = damage(path)
    if fault is not None:
        return fault
    with open(path, "rb") as f:
        at = _seal_place(f)
        if at is None:
            return "its end is cut off or changed" if required else None
        f.seek(at)
        sealed = f.read(64).decode("ascii", "replace")
        return None if sealed == _sealed_hash(f, at, label) else "its bytes are not those that were written"


def _seal_place(f: BinaryIO) -> int | None:
    """Byte offset of the hash in a parquet file; None where there is none."""
    size = f.seek(0, os.SEEK_END)
    if size < 12:
        return None
    f.seek(size - 8)
    end = f.read(8)
    length = int.from_bytes(end[:4], "little") + 8
    if end[4:] != b"PAR1" or length > size:
        return None
    f.seek(size - length)
    at = f.read(length).rfind(_MARK)
    return None if at < 0 or at + len(BLANK) > length else size - length + at + len(_MARK)


def _sealed_hash(f: BinaryIO, at: int, label: str) -> str:
    sha256 = hashlib.sha256(f"{label}\n".encode())
    f.seek(0)
    n_remaining = at
    while n_remaining:
        data = f.read(min(n_remaining, _CHUNK))
        sha256.update(data)
        n_remaining -= len(data)
    sha256.update(b"0" * 64)
    f.seek(at + 64)
    while data := f.read(_CHUNK):
        sha256.update(data)
    return sha256.hexdigest()
