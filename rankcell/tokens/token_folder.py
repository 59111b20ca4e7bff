"""The folder of a TokenSet: a `datasets` folder with rankcell.json, the TokenSpec, beside the data."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from rankcell.errors import TokensError
from rankcell.store import atomic_path, content_hash, read_json
from rankcell.tokens.arrow import DatasetWriter, dataset_files, read_rows
from rankcell.tokens.fingerprint import check_seal, sealed
from rankcell.tokens.token_rows import plain_rows

SPEC_FILE = "rankcell.json"
DATASET_FILES = (  # all that a token folder holds; the last are what the datasets library keeps there of its own steps
    *(SPEC_FILE, "dataset_info.json", "state.json"),
    re.compile(r"data-\d{5,}(-of-\d{5,})?\.arrow"),
    re.compile(r"cache-[0-9a-f]{16}(_\d{5,}_of_\d{5,})?\.arrow"),
)


def read_folder(folder: str | os.PathLike) -> tuple[pa.Table, dict[str, Any] | None, bool]:
    """The rows of a token folder; its rankcell.json, None of a plain `datasets` folder; and whether a fingerprint was there and right."""
    files = dataset_files(folder)
    head = _read_spec(Path(folder))
    is_sealed = check_seal(Path(folder), head, files, name=SPEC_FILE)
    return plain_rows(read_rows(folder, files, validate=not is_sealed), folder), head, is_sealed


def _read_spec(folder: Path) -> dict[str, Any] | None:
    """Read rankcell.json; None where there is none."""
    try:
        value = read_json(folder / SPEC_FILE)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise TokensError(f"{folder / SPEC_FILE} cannot be read ({e}): bring it back, or tokenize again") from e
    if not isinstance(value, dict):
        raise TokensError(f"{folder / SPEC_FILE} holds no spec: bring it back, or tokenize again")
    return value


@contextlib.contextmanager
def dataset_folder(folder: str | os.PathLike, schema: pa.Schema, *, force: bool = False) -> Iterator[DatasetWriter]:
    """A DatasetWriter on a temporary folder that becomes `folder` when all went well. Set its `spec` before leaving."""
    with atomic_path(folder, force=force, marker=SPEC_FILE, own=DATASET_FILES, exclusive=True) as part:
        sink = DatasetWriter(part, schema)
        try:
            yield sink
        finally:
            sink.close()
        spec = sink.spec.to_json()
        sink.describe(content_hash(spec))
        value = sealed(spec, sink.hashes)
        (part / SPEC_FILE).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
