"""JSON in one canonical form, and the hash of it."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from rankcell.store.atomic import atomic_path


def canonical(value: Any) -> bytes:
    """`value` as JSON with sorted keys and no white space: the same value gives the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def content_hash(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value)).hexdigest()


def read_json(path: str | os.PathLike) -> Any:
    """The value in a JSON file; a byte-order mark, as editors on Windows put before it, is no part of it."""
    return json.loads(Path(path).read_text(encoding="utf-8-sig"))


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` atomically, indented, replacing what stood there."""
    with atomic_path(path, force=True) as part:
        part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
