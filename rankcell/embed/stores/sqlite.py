"""OUT.sqlite: a table each, a row a row, vectors as blobs of little-endian floats; `meta` says what the columns are."""

import contextlib
import errno
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.embed.embedding_tables import CELLS, Block, Column, Result, Table
from rankcell.embed.stores.base import Store, Stored, is_wanted, number_type, tables_of, walk
from rankcell.errors import InputError

_COLUMNS = "columns"  # the key of `meta` that describes the tables; all other keys are the result's own
_SETUP = (
    "PRAGMA page_size = 32768",  # a vector fills most of a small page, and the rest of the page would stay empty
    "PRAGMA journal_mode = OFF",  # the file is temporary until it is whole
    "PRAGMA synchronous = OFF",
    "PRAGMA locking_mode = EXCLUSIVE",
)


@contextlib.contextmanager
def _as_oserror() -> Iterator[None]:
    """SQLite's refusals to write as what the operating system would say."""
    try:
        yield
    except sqlite3.Error as e:
        name = getattr(e, "sqlite_errorname", "") or ""
        if name == "SQLITE_FULL":
            raise OSError(errno.ENOSPC, str(e)) from e
        if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY")):
            raise OSError(errno.EIO, str(e)) from e
        raise


def write(parts: list[Path], result: Result, source: Path | None) -> None:
    tables = tables_of(result)
    if _COLUMNS in result.meta:
        raise ValueError(f"a meta with the key '{_COLUMNS}' cannot be written: the store has its own")
    with _as_oserror(), contextlib.closing(sqlite3.connect(parts[0], isolation_level=None)) as db:
        for line in _SETUP:
            db.execute(line)
        db.execute("BEGIN")
        db.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)")
        rows = {**result.meta, _COLUMNS: {t.name: _described(t) for t in tables}}
        db.executemany("INSERT INTO meta VALUES (?, ?)", ((key, json.dumps(value)) for key, value in sorted(rows.items())))
        for table in tables:
            _write_table(db, table)
        db.execute("COMMIT")


def _described(table: Table) -> dict[str, Any]:
    return {"n_rows": table.n_rows, "columns": [{"name": c.name, "dtype": c.dtype, "width": c.width} for c in table.columns]}


def _write_table(db: sqlite3.Connection, table: Table) -> None:
    name = _quoted(table.name)
    db.execute(f"CREATE TABLE {name} ({', '.join(f'{_quoted(c.name)} {_kind(c)}' for c in table.columns)})")
    insert = f"INSERT INTO {name} VALUES ({', '.join('?' * len(table.columns))})"
    for block in walk(table, table.names):
        db.executemany(insert, zip(*(_cells(block, c) for c in table.columns), strict=True))
    if table.name == CELLS:
        db.execute(f"CREATE INDEX cells_by_id ON {name} (cell_id)")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _kind(column: Column) -> str:
    if column.is_text:
        return "TEXT"
    return "BLOB" if column.width else "INTEGER" if number_type(column).kind in "iu" else "REAL"


def _cells(block: Block, column: Column) -> Iterator[Any]:
    values = block[column.name]
    return (row.tobytes() for row in values) if column.width else iter(values.tolist())


def read(out: Path, tables: Sequence[str] | None) -> Stored:
    with contextlib.closing(sqlite3.connect(f"{out.absolute().as_uri()}?mode=ro", uri=True)) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        meta = dict(db.execute("SELECT key, value FROM meta")) if "meta" in names else {}
        if _COLUMNS not in meta:
            raise InputError(f"{out} is an SQLite file that rankcell did not write")
        meta = {key: json.loads(value) for key, value in meta.items()}
        described = meta.pop(_COLUMNS)
        values_of_table = {}
        for table in [t for t in described if is_wanted(t, tables)]:
            n = described[table]["n_rows"]
            values_of_table[table] = {c["name"]: _column(db, table, n, Column(**c)) for c in described[table]["columns"]}
    return Stored.of(values_of_table, meta)


def _column(db: sqlite3.Connection, table: str, n: int, column: Column) -> Any:
    rows = (value for (value,) in db.execute(f"SELECT {_quoted(column.name)} FROM {_quoted(table)} ORDER BY rowid"))
    if column.is_text:
        entries: Any = list(rows)
    elif column.width:
        entries = np.empty((n, column.width), number_type(column))
        for i, (row, value) in enumerate(zip(entries, rows, strict=True)):
            entries[i] = np.frombuffer(value, row.dtype)
    else:
        entries = np.fromiter(rows, number_type(column))
    if len(entries) != n:
        raise ValueError(f"{table} has {len(entries):,} rows instead of {n:,}")
    return entries


STORE = Store(".sqlite", write, read)
