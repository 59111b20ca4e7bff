"""OUT.npy: one vector of every cell as a plain array, for programs that read nothing else; the ids and the meta stand beside it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from rankcell.embed.embedding_tables import CELLS, Result, Table
from rankcell.embed.stores.base import Store, Stored, as_json, beside, matches, number_type, raw, tables_of, walk
from rankcell.embed.stores.npz import write_header
from rankcell.errors import InputError, SettingsError

_IDS, _META = ".cells.txt", ".json"
_BREAKS = r"[\n\r\v\f\x1c-\x1e\x{85}\x{2028}\x{2029}]"
_STORED = "stored"  # the key of the meta file that says what the array is


def files(out: Path, tables: Sequence[str]) -> list[Path]:
    return [out, beside(out, _IDS), beside(out, _META)]


def require(out: Path, n_vectors: int | None, tables: Sequence[str] | None) -> None:
    """SettingsError unless it is one vector a cell and nothing else."""
    remedy = "ask for one pooling and one layer, or write .npz or .parquet"
    others = [t for t in tables or () if t != CELLS]
    if others or (tables is not None and CELLS not in tables):
        raise SettingsError(f"{out}: a .npy holds one vector of every cell and no table of {' or '.join(others) or 'anything'}: {remedy}")
    if n_vectors not in (None, 1):
        raise SettingsError(f"{out}: a .npy holds one vector of every cell, and there are {n_vectors}: {remedy}")


def write(parts: list[Path], result: Result, source: Path | None) -> None:
    part, ids, meta = parts
    (table,) = tables_of(result)
    (column,) = table.vectors
    _write_ids(ids, table)
    stored = {"column": column.name, "n_cells": table.n_rows}
    meta.write_text(as_json(result.meta | {_STORED: stored}) + "\n", encoding="utf-8")
    with open(part, "wb") as f:
        write_header(f, number_type(column), (table.n_rows, column.width))
        for block in walk(table, [column.name]):
            f.write(raw(block[column.name]))


def _write_ids(path: Path, table: Table) -> None:
    with open(path, "wb") as f:
        for block in walk(table, ["cell_id"]):
            f.write("".join(f"{name}\n" for name in block["cell_id"].to_pylist()).encode())


def read(out: Path, tables: Sequence[str] | None) -> Stored:
    _, ids, meta = files(out, ())
    for path in (ids, meta):
        if not path.is_file():
            raise InputError(f"{path}, which belongs to {out}, is not there")
    values = np.load(out, allow_pickle=False)
    facts = json.loads(meta.read_text(encoding="utf-8"))
    stored = facts.pop(_STORED)
    names = ids.read_bytes().decode().split("\n")[:-1]
    if not len(names) == len(values) == stored["n_cells"]:
        raise InputError(f"{ids} has {len(names):,} cells, {meta} says {stored['n_cells']:,} and {out} has {len(values):,}")
    return Stored(names, {stored["column"]: values}, facts)


def wrote(path: Path) -> bool:
    """Whether it is the meta file of an array, or the ids beside one: the ids, which bear no mark, are the first to go and the last to come."""
    stem = path.name.removesuffix(_IDS).removesuffix(_META)
    try:
        return "n_cells" in json.loads(path.with_name(stem + _META).read_text(encoding="utf-8"))[_STORED]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def reason_against(name: str, values: pa.ChunkedArray) -> str:
    """The ids stand in a file of lines: none may hold what any program takes for the end of one."""
    return "holds a line break, which a list of lines cannot hold" if name == "cell_id" and matches(values, _BREAKS) else ""


STORE = Store(".npy", write, read, files=files, require=require, reason_against=reason_against, wrote=wrote)
