"""JSON in one canonical form, and the hash of it."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from rankcell.store.atomic import atomic_path

HASH = "sha256"  # of a JSON object, under this key in it


def canonical(value: Any) -> bytes:
    """`value` as JSON with sorted keys and no white space: the same value gives the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def content_hash(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value)).hexdigest()


def read_json(path: str | os.PathLike) -> Any:
    """The value in a JSON file; a byte-order mark, as editors on Windows put before it, is no part of it."""
    return json.loads(Path(path).read_text(encoding="utf-8-sig"))


def write_sealed_json(path: str | os.PathLike, value: dict[str, Any], *, indent: int | None = 1) -> None:
    """Write JSON with the hash of its content under `sha256`; otherwise as `write_json`."""
    write_json(path, {k: v for k, v in value.items() if k != HASH} | {HASH: _hash_without_seal(value)}, indent=indent)


def read_sealed_json(path: str | os.PathLike) -> dict[str, Any]:
    """Read and verify the JSON of `write_sealed_json`, the hash included. ValueError when the content was changed; a file without a hash passes."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__} and no object")
    if HASH in value and value[HASH] != _hash_without_seal(value):
        raise ValueError("its content is not what was written")
    return value


def _hash_without_seal(value: dict[str, Any]) -> str:
    plain = json.loads(json.dumps({k: v for k, v in value.items() if k != HASH}))  # as it comes back: text keys, lists
    return content_hash(plain)


def write_json(path: str | os.PathLike, value: Any, *, indent: int | None = 1) -> None:
    """Write `value` atomically, replacing what stood there; without `indent` in one line, which is faster."""
    with atomic_path(path, force=True) as part:
        part.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
