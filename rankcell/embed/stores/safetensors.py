"""OUT.safetensors, written by hand: the file's layout is a length, a JSON header and the bytes of the arrays, and any array can
be written block by block once its size is known. A text column is two arrays: `<name>.utf8`, and `<name>.offsets` (n + 1).
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankcell.embed.embedding_tables import Block, Column, Result, Table
from rankcell.embed.stores.base import Store, Stored, as_json, is_wanted, key_of, number_type, raw, tables_of, walk
from rankcell.errors import InputError

_META, _COLUMNS = "rankcell", "rankcell_columns"  # keys of the file's own metadata
_UTF8, _OFFSETS = ".utf8", ".offsets"
_CODES = {
    "f2": "F16",
    "f4": "F32",
    "f8": "F64",
    "i8": "I64",
    "i4": "I32",
    "i2": "I16",
    "i1": "I8",
    "u8": "U64",
    "u4": "U32",
    "u2": "U16",
    "u1": "U8",
}


@dataclass
class _Array:
    """An array of the file: what the header says, where its next byte goes, and where it ends (both from the first array on)."""

    dtype: np.dtype
    shape: list[int]
    at: int = 0
    end: int = 0

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def write(parts: list[Path], result: Result, source: Path | None) -> None:
    tables = tables_of(result)
    arrays = {key: array for table in tables for key, array in _arrays(table).items()}
    header = _header(arrays, {_META: as_json(result.meta), _COLUMNS: json.dumps({t.name: t.names for t in tables})})
    with open(parts[0], "wb") as f:
        f.write(header)
        for table in tables:
            _write_table(f, len(header), table, arrays)
    wrong = [key for key, array in arrays.items() if array.at != array.end]
    if wrong:
        raise ValueError(f"a second walk over the blocks gave other texts: {', '.join(wrong)}")


def _arrays(table: Table) -> dict[str, _Array]:
    """The arrays of a table; the texts are walked once, for how long they are."""
    texts = [c.name for c in table.columns if c.is_text]
    lengths = dict.fromkeys(texts, 0)
    for block in walk(table, texts) if texts else ():
        for name in texts:
            lengths[name] += pc.sum(pc.binary_length(block[name])).as_py()
    arrays = {}
    for column in table.columns:
        key = key_of(table.name, column.name)
        if column.is_text:
            arrays[key + _UTF8] = _Array(np.dtype("u1"), [lengths[column.name]])
            arrays[key + _OFFSETS] = _Array(np.dtype("<i8"), [table.n_rows + 1])
        else:
            arrays[key] = _Array(number_type(column), [table.n_rows, *([column.width] if column.width else [])])
    return arrays


def _header(arrays: dict[str, _Array], metadata: dict[str, str]) -> bytes:
    """The first bytes of the file, padded so that the arrays begin at a multiple of 8; places the arrays, wide numbers first."""
    head: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for key, array in sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        array.at, array.end = end, end + array.nbytes
        end = array.end
        head[key] = {"dtype": _CODES[array.dtype.str[1:]], "shape": array.shape, "data_offsets": [array.at, array.end]}
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _write_table(f: BinaryIO, start: int, table: Table, arrays: dict[str, _Array]) -> None:
    def put(key: str, values: np.ndarray) -> None:
        array = arrays[key]
        f.seek(start + array.at)
        f.write(raw(values))
        array.at += values.nbytes

    ends = {}
    for column in table.columns:
        if column.is_text:
            ends[column.name] = 0
            put(key_of(table.name, column.name) + _OFFSETS, np.zeros(1, "<i8"))
    for block in walk(table, table.names):
        for column in table.columns:
            key = key_of(table.name, column.name)
            if column.is_text:
                utf8, offsets = _texts(block, column)
                put(key + _UTF8, utf8)
                put(key + _OFFSETS, offsets[1:] + ends[column.name])
                ends[column.name] += int(offsets[-1])
            else:
                put(key, block[column.name])


def _texts(block: Block, column: Column) -> tuple[np.ndarray, np.ndarray]:
    """(bytes, int64 offsets from 0) of an arrow string array without nulls."""
    values: pa.StringArray = block[column.name]
    _, where, data = values.buffers()
    offsets = np.frombuffer(where, np.int32)[values.offset : values.offset + len(values) + 1].astype("<i8")
    text_bytes = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return text_bytes[offsets[0] : offsets[-1]], offsets - offsets[0]


def read(out: Path, tables: Sequence[str] | None) -> Stored:
    from safetensors import safe_open

    with safe_open(out, framework="np") as f:
        metadata = f.metadata() or {}
        if _META not in metadata:
            raise InputError(f"{out} is a safetensors file that rankcell did not write")
        columns = json.loads(metadata[_COLUMNS])
        values_of_table = {table: {c: _column(f, key_of(table, c)) for c in names} for table, names in columns.items() if is_wanted(table, tables)}
    return Stored.of(values_of_table, json.loads(metadata[_META]))


def _column(f: Any, key: str) -> Any:
    if key in f.keys():  # noqa: SIM118  (the opened file is no dict)
        return f.get_tensor(key)
    return _unpacked(f.get_tensor(key + _UTF8), f.get_tensor(key + _OFFSETS))


def _unpacked(utf8: np.ndarray, offsets: np.ndarray) -> list[str]:
    data = utf8.tobytes()
    return [data[a:b].decode() for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]


STORE = Store(".safetensors", write, read)
