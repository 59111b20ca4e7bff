"""OUT.parquet, a file a table: `OUT.parquet` is the first, `OUT.genes.parquet` and so on stand beside it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.embed.embedding_tables import CELLS, Block, Result, Table
from rankcell.embed.stores.base import (
    TABLES,
    Store,
    Stored,
    as_json,
    beside,
    in_order,
    is_wanted,
    rechunk,
    row_bytes,
    rows_within,
    tables_of,
    walk,
)
from rankcell.errors import InputError

_GROUP = 16 * 2**20  # bytes of a row group
_META, _TABLE, _ALL = b"rankcell", b"rankcell_table", b"rankcell_tables"  # keys of the schema's metadata


def files(out: Path, tables: Sequence[str]) -> list[Path]:
    return [out, *(_side(out, name) for name in in_order(tables)[1:])]


def _side(out: Path, table: str) -> Path:
    return beside(out, f".{table}{out.suffix}")


def leftovers(out: Path, tables: Sequence[str]) -> list[Path]:
    """Side files of an earlier output of this name for tables that this one does not have."""
    current = files(out, tables)
    return [p for p in (_side(out, name) for name in TABLES) if p not in current and p.is_file() and _is_side(p)]


def _is_side(path: Path) -> bool:
    metadata = _metadata(path)
    return _TABLE in metadata and _ALL not in metadata


def wrote(path: Path) -> bool:
    return _META in _metadata(path)


def _metadata(path: Path) -> dict[bytes, bytes]:
    """The metadata of a file; empty where it is no parquet."""
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return {}


def write(parts: list[Path], result: Result, source: Path | None) -> None:
    tables = tables_of(result)
    for part, table in zip(parts, tables, strict=True):
        metadata = {_META: as_json(result.meta), _TABLE: table.name}
        if table is tables[0]:
            metadata[_ALL] = json.dumps({t.name: t.n_rows for t in tables})
        _write_table(part, table, metadata)


def _write_table(part: Path, table: Table, metadata: dict[bytes, str]) -> None:
    import pyarrow.parquet as pq

    schema = pa.schema([(c.name, c.arrow) for c in table.columns], metadata=metadata)
    plain = [c.name for c in table.columns if not c.width]  # what dictionaries and statistics are of use for
    rows = rows_within(_GROUP, sum(map(row_bytes, table.columns)))
    with pq.ParquetWriter(part, schema, use_dictionary=plain or False, write_statistics=plain or False) as sink:
        for block in rechunk(walk(table, table.names), rows):
            sink.write_table(_arrow(block, schema), row_group_size=rows)


def _arrow(block: Block, schema: pa.Schema) -> pa.Table:
    columns = []
    for kind in schema:
        values = block[kind.name]
        if pa.types.is_fixed_size_list(kind.type):
            values = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), kind.type.list_size)
        columns.append(values if isinstance(values, pa.Array) else pa.array(values))
    return pa.table(columns, schema=schema)


def read(out: Path, tables: Sequence[str] | None) -> Stored:
    metadata, first, n = _read_table(out)
    meta = json.loads(metadata[_META])
    name = metadata.get(_TABLE, CELLS.encode()).decode()
    values_of_table = {name: first}
    expected = json.loads(metadata[_ALL]) if _ALL in metadata else {name: n}
    for other in [t for t in expected if t != name and is_wanted(t, tables)]:
        path = _side(out, other)
        if not path.is_file():
            raise InputError(f"{path}, which belongs to {out}, is not there")
        side, values, n = _read_table(path)
        if n != expected[other] or side[_META] != metadata[_META]:
            raise InputError(f"{path} does not belong to {out}: it is of another run")
        values_of_table[other] = values
    return Stored.of({t: v for t, v in values_of_table.items() if is_wanted(t, tables)}, meta)


def _read_table(path: Path) -> tuple[dict[bytes, bytes], dict[str, Any], int]:
    """(metadata, columns, number of rows) of one file."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as f:
        metadata = f.schema_arrow.metadata or {}
        if _META not in metadata:
            raise InputError(f"{path} is a parquet file that rankcell did not write")
        columns = {kind.name: _values(f.read(columns=[kind.name])[0], kind.type) for kind in f.schema_arrow}
        return metadata, columns, f.metadata.num_rows


def _values(column: pa.ChunkedArray, kind: pa.DataType) -> Any:
    if not pa.types.is_fixed_size_list(kind):
        return column.to_pylist() if pa.types.is_string(kind) else column.to_numpy()
    dtype = pa.array([], kind.value_type).to_numpy(zero_copy_only=False).dtype  # pyarrow's own way to it wants pandas in older versions
    vectors = np.empty((len(column), kind.list_size), dtype)
    start = 0
    for chunk in column.chunks:
        vectors[start : start + len(chunk)] = chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), kind.list_size)
        start += len(chunk)
    return vectors


STORE = Store(".parquet", write, read, files=files, leftovers=leftovers, wrote=wrote)
