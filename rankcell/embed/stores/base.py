"""What every store stands on: Store and Stored, and walks over a table's blocks that never hold more than a few of them."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankcell.embed.embedding_tables import CELLS, GENE_MEANS, GENES, STATES, Block, Column, Result, Table
from rankcell.store import Own

TABLES = (CELLS, GENES, GENE_MEANS, STATES)
_TEXT_BYTES = 32  # what a text is taken to need when rows are counted out
_MOST_ROWS = 65_536


@dataclass(frozen=True)
class Stored:
    """What was read back: the table "cells" as `cell_ids` and `columns`, all others in `tables` (text as lists of str), and the meta."""

    cell_ids: list[str]
    columns: dict[str, np.ndarray]
    meta: dict[str, Any]
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, tables: dict[str, dict[str, Any]], meta: dict[str, Any]) -> "Stored":
        """From all tables, "cells" among them or not."""
        cells = dict(tables.get(CELLS, {}))
        ids = cells.pop("cell_id", [])
        return cls(ids, cells, meta, {name: t for name, t in tables.items() if name != CELLS})


def _only_itself(out: Path, tables: Sequence[str]) -> list[Path]:
    return [out]


def _nothing(out: Path, tables: Sequence[str]) -> list[Path]:
    return []


def _anything(out: Path, n_vectors: int | None, tables: Sequence[str] | None) -> None:
    return None


def _none_of_ours(path: Path) -> bool:
    return False


def _no_reason(name: str, values: pa.ChunkedArray) -> str:
    return ""


def _no_copy(source: Path | None) -> bool:
    return False


def matches(values: pa.ChunkedArray, pattern: str) -> bool:
    """Whether a text (of a column of text, or a category of one) matches the regular expression."""
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    return (pa.types.is_string(kind) or pa.types.is_large_string(kind)) and bool(
        pc.any(pc.match_substring_regex(values.cast(kind), pattern)).as_py()
    )


@dataclass(frozen=True)
class Store:
    """One format.

    write
        `write(parts, result, source)`: `parts` are temporary paths for `files`, in that order; `source` is the count file.
    read
        `read(out, tables)`: the table "cells" and those named (None: all).
    files
        `files(out, tables)`: every path that is written for these tables, `out` first.
    leftovers
        `leftovers(out, tables)`: what an earlier output of this name left beside `out` that this one does not replace.
    require
        `require(out, n_vectors, tables)`: SettingsError when the format cannot hold that; None is what is not known yet.
    reason_against
        `reason_against(name, values)`: why the format cannot hold a cell column, the cells' ids ("cell_id") or the names of states ("state"),
        in words that follow the column's name; "" when it can, and where it has no place for such a column at all.
    has_obs
        Whether the cells' annotations are written at all.
    copies
        `copies(source)`: whether an output is a copy of this count file, cell columns and all.
    marker, own
        For a format that is a folder: what in it shows that an embedding stands there, and patterns of all that it holds.
    wrote
        `wrote(path)`: whether rankcell wrote the file that stands beside an output under the name of one of `files`.
    """

    suffix: str
    write: Callable[[list[Path], Result, Path | None], None]
    read: Callable[[Path, Sequence[str] | None], Stored]
    files: Callable[[Path, Sequence[str]], list[Path]] = _only_itself
    leftovers: Callable[[Path, Sequence[str]], list[Path]] = _nothing
    require: Callable[[Path, int | None, Sequence[str] | None], None] = _anything
    has_obs: bool = False
    reason_against: Callable[[str, pa.ChunkedArray], str] = _no_reason
    copies: Callable[[Path | None], bool] = _no_copy
    marker: str | None = None
    own: Sequence[Own] = ()
    wrote: Callable[[Path], bool] = _none_of_ours

    @property
    def is_folder(self) -> bool:
        return self.marker is not None


def beside(out: Path, ending: str) -> Path:
    """The path of a side file: `e.parquet` and `.genes.parquet` give `e.genes.parquet`."""
    return out.with_name(out.stem + ending)


def in_order(names: Iterable[str]) -> list[str]:
    """Names of tables, the known ones first and in their order."""
    names = list(names)
    return [n for n in TABLES if n in names] + [n for n in names if n not in TABLES]


def tables_of(result: Result) -> list[Table]:
    """The tables in the order in which they are written. ValueError for what no run should hand over."""
    if not result.tables:
        raise ValueError("a result without tables cannot be written")
    cells = result.tables.get(CELLS)
    if cells is not None and [c.name for c in cells.columns if not c.width] != ["cell_id"]:
        raise ValueError(f"the table of cells holds cell_id and vectors, not {', '.join(cells.names)}")
    return [result.tables[name] for name in in_order(result.tables)]


def as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def key_of(table: str, column: str) -> str:
    """The name of a column where all tables share one list of names."""
    return column if table == CELLS else f"{table}/{column}"


def by_table(values: Iterable[tuple[str, Any]]) -> dict[str, dict[str, Any]]:
    """{table: {column: values}} from the names that `key_of` gave."""
    tables: dict[str, dict[str, Any]] = {}
    for key, value in values:
        table, _, column = key.rpartition("/")
        tables.setdefault(table or CELLS, {})[column] = value
    return tables


def is_wanted(table: str, wanted: Sequence[str] | None) -> bool:
    return wanted is None or table == CELLS or table in wanted


def number_type(column: Column) -> np.dtype:
    """The dtype in which a column of numbers is stored: little-endian."""
    return np.dtype(column.dtype).newbyteorder("<")


def walk(table: Table, names: Sequence[str]) -> Iterator[Block]:
    """The blocks of some columns, made plain: text as an arrow string array in which "" stands for a null, numbers little-endian
    and contiguous. Empty blocks are left out. ValueError when the blocks are not what the table says.
    """
    columns, done = [table.column(name) for name in names], 0
    for block in table.blocks(names):
        plain = {c.name: _plain(c, block[c.name]) for c in columns}
        del block
        sizes = {len(v) for v in plain.values()}
        if len(sizes) > 1:
            raise ValueError(f"a block of the table '{table.name}' has columns of {' and '.join(map(str, sorted(sizes)))} rows")
        n = next(iter(sizes), 0)
        if n:
            yield plain
        del plain
        done += n
    if columns and done != table.n_rows:
        raise ValueError(f"the table '{table.name}' gave {done:,} rows instead of {table.n_rows:,}")


def _plain(column: Column, values: Any) -> Any:
    if column.is_text:
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        return values.cast(pa.string()).fill_null("")
    values = np.ascontiguousarray(values, number_type(column))
    if values.shape[1:] != ((column.width,) if column.width else ()):
        raise ValueError(f"the column '{column.name}' of width {column.width} was given values of the shape {values.shape}")
    return values


def rechunk(blocks: Iterable[Block], rows: int) -> Iterator[Block]:
    """The same rows in blocks of `rows` each (the last one may be shorter), however they come."""
    pending: list[Block] = []
    n_pending = 0
    for block in blocks:
        start, n = 0, len(next(iter(block.values())))
        while n_pending + n - start >= rows:
            stop = start + rows - n_pending
            pending.append({k: v[start:stop] for k, v in block.items()})
            full, pending, n_pending, start = _joined(pending), [], 0, stop
            yield full
            del full
        if start < n:
            pending.append({k: _copy(v[start:]) for k, v in block.items()})
            n_pending += n - start
        del block
    if pending:
        yield _joined(pending)


def _copy(values: Any) -> Any:
    """A slice that does not keep the whole block."""
    return values.copy() if isinstance(values, np.ndarray) else values


def _joined(parts: list[Block]) -> Block:
    if len(parts) == 1:
        return parts[0]
    join = {True: np.concatenate, False: pa.concat_arrays}
    return {k: join[isinstance(v, np.ndarray)]([p[k] for p in parts]) for k, v in parts[0].items()}


def row_bytes(column: Column) -> int:
    return _TEXT_BYTES if column.is_text else max(column.width, 1) * number_type(column).itemsize


def rows_within(budget: int, bytes_a_row: int) -> int:
    """How many rows fit into `budget` bytes: a power of two, at least 1."""
    rows = min(max(budget // max(bytes_a_row, 1), 1), _MOST_ROWS)
    return 1 << (rows.bit_length() - 1)


def raw(values: np.ndarray) -> memoryview:
    """The bytes of a contiguous array, without a copy."""
    return memoryview(values.reshape(-1).view(np.uint8))
