"""OUT.npz: a zip of .npy arrays, written array by array and block by block, that numpy.load reads without pickles."""

import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankcell.embed.embedding_tables import CELLS, Column, Result, Table
from rankcell.embed.stores.base import Store, Stored, as_json, by_table, is_wanted, key_of, matches, number_type, raw, tables_of, walk
from rankcell.errors import InputError

_META = "meta"
_TIME = (1980, 1, 1, 0, 0, 0)  # the same result gives the same bytes


def write_header(f: Any, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """The head of a .npy file for an array in C order."""
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(f, {"descr": descr, "fortran_order": False, "shape": shape})


def write(parts: list[Path], result: Result, source: Path | None) -> None:
    with zipfile.ZipFile(parts[0], "w", zipfile.ZIP_STORED, allowZip64=True) as z:
        for table in tables_of(result):
            for column in table.columns:
                dtype, blocks = _arrays(table, column)
                _add(z, key_of(table.name, column.name), dtype, (table.n_rows, *([column.width] if column.width else [])), blocks)
        meta = np.array(as_json(result.meta))
        _add(z, _META, meta.dtype, (), iter([meta]))


def _arrays(table: Table, column: Column) -> tuple[np.dtype, Iterator[np.ndarray]]:
    """(dtype, blocks) of a column as numpy has it; text as wide as its longest, which a first walk finds."""
    if not column.is_text:
        return number_type(column), (b[column.name] for b in walk(table, [column.name]))
    longest = max((pc.max(pc.utf8_length(b[column.name])).as_py() for b in walk(table, [column.name])), default=0)
    dtype = np.dtype(f"<U{max(longest, 1)}")
    return dtype, (np.array(b[column.name].to_pylist(), dtype) for b in walk(table, [column.name]))


def _add(z: zipfile.ZipFile, key: str, dtype: np.dtype, shape: tuple[int, ...], blocks: Iterator[np.ndarray]) -> None:
    entry = zipfile.ZipInfo(f"{key}.npy", _TIME)
    entry.create_system, entry.external_attr = 3, 0o644 << 16
    with z.open(entry, "w", force_zip64=True) as f:
        write_header(f, dtype, shape)
        for block in blocks:
            f.write(raw(block))


def read(out: Path, tables: Sequence[str] | None) -> Stored:
    with open(out, "rb") as f, np.load(f, allow_pickle=False) as z:
        if not isinstance(z, np.lib.npyio.NpzFile) or _META not in z:
            raise InputError(f"{out} is an npz that rankcell did not write: it has no {_META}")
        keys = [k for k in z if k != _META and is_wanted(k.rpartition("/")[0] or CELLS, tables)]
        values_of_table = by_table((k, z[k].tolist() if z[k].dtype.kind == "U" else z[k]) for k in keys)
        return Stored.of(values_of_table, json.loads(str(z[_META])))


def reason_against(name: str, values: pa.ChunkedArray) -> str:
    """numpy's text of one width does not know NUL characters at its end from none."""
    return "holds text that ends in a NUL character" if name in ("cell_id", "state") and matches(values, "\\x00\\z") else ""


STORE = Store(".npz", write, read, reason_against=reason_against)
