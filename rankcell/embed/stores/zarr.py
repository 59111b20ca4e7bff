"""OUT.zarr, a folder: a copy of the count store with the embeddings added; without such a store, an AnnData of the cells alone."""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from rankcell.embed.embedding_tables import Block, Column, Result, Table
from rankcell.embed.stores import layout
from rankcell.embed.stores.base import Store, Stored, number_type, rechunk, row_bytes, rows_within, walk
from rankcell.errors import InputError

_CHUNK = 4 * 2**20  # bytes of the widest column's chunks
_FILES = re.compile(r"(.+/)?(\.zarray|\.zattrs|\.zgroup|\.zmetadata|zarr\.json|c|\d+(\.\d+)*)", re.DOTALL)  # the last two are chunks
_ROOTS = (".zgroup", "zarr.json")


def reason_against(name: str, values: pa.ChunkedArray) -> str:
    is_taken = name.startswith(".z") or name.lower() in ("zarr.json", "__ome")
    return layout.reason_against(name, values) or ("has a name that a zarr store uses itself" if is_taken else "")


def copies(source: Path | None) -> bool:
    return source is not None and source.is_dir() and any((source / name).is_file() for name in _ROOTS)


def write(parts: list[Path], result: Result, source: Path | None) -> None:
    part = parts[0]
    is_copy = copies(source)
    if is_copy:
        layout.require_cells(_open(source, "r"), result, str(source))
        _copy(source, part)
        root = _open(part, "r+")
    else:
        root = _open(part, "w")
        layout.write_skeleton(root, result)
    layout.add(root, result, _create, _blocks)
    if not is_copy or _is_consolidated(part):
        _consolidate(part)


def _copy(source: Path, to: Path, above: tuple[Path, ...] = ()) -> None:
    """A copy of the store's files; what lies there beside them is left out. InputError when a link leads back to a folder around it."""
    if (real := source.resolve()) in above:
        raise InputError(f"{source} is a link to a folder around it: remove it, or write .parquet")
    to.mkdir()
    for item in sorted(source.iterdir()):
        if item.is_dir():
            _copy(item, to / item.name, (*above, real))
        elif _FILES.fullmatch(item.name) and item.is_file():
            shutil.copyfile(item, to / item.name)
    if above and not any(to.iterdir()):
        to.rmdir()


def _has_v3() -> bool:
    """Whether the library is zarr 3 (it writes both versions of the format); its names differ from those of zarr 2."""
    import zarr

    return int(zarr.__version__.split(".")[0]) >= 3


def _open(path: Path, mode: str) -> Any:
    """The root group, seen as it lies there. A new store has version 2 of the format, which every reader of AnnData knows."""
    import zarr

    if not _has_v3():
        return zarr.open_group(str(path), mode=mode)
    if mode == "w":
        return zarr.open_group(str(path), mode="w", zarr_format=2)
    return zarr.open_group(str(path), mode=mode, use_consolidated=False)


def _is_consolidated(path: Path) -> bool:
    if (path / "zarr.json").is_file():
        return bool(json.loads((path / "zarr.json").read_text(encoding="utf-8")).get("consolidated_metadata"))
    return (path / ".zmetadata").is_file()


def _consolidate(path: Path) -> None:
    import zarr

    with layout.quiet():
        zarr.consolidate_metadata(str(path))


def _rows(table: Table) -> int:
    """Rows of a chunk: the same in all columns of a table, so that each chunk is written once."""
    return min(rows_within(_CHUNK, max(map(row_bytes, table.columns))), max(table.n_rows, 1))


def _blocks(table: Table, names: Sequence[str]) -> Iterator[Block]:
    return rechunk(walk(table, names), _rows(table))


def _create(group: Any, key: str, column: Column, table: Table) -> Any:
    """An empty array. Vectors are not compressed, and every chunk is written: one that is missing is then known to be lost."""
    width = (column.width,) if column.width else ()
    shapes: dict[str, Any] = {"shape": (table.n_rows, *width), "chunks": (_rows(table), *width)}
    if _has_v3():
        plain = {"compressors": None} if width else {}
        kind: Any = str if column.is_text else number_type(column)
        return group.create_array(key, dtype=kind, config={"write_empty_chunks": True}, **shapes, **plain)
    plain = {"compressor": None} if width else {}
    return group.create_dataset(key, dtype=str if column.is_text else number_type(column), write_empty_chunks=True, **shapes, **plain)


def read(out: Path, tables: Sequence[str] | None) -> Stored:
    return layout.read(_open(out, "r"), str(out), tables)


STORE = Store(".zarr", write, read, has_obs=True, reason_against=reason_against, copies=copies, marker=layout.MARKER, own=(_FILES,))
