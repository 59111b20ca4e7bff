"""OUT.h5ad: a copy of the count file with the embeddings added; without such a file, an AnnData of the cells alone."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from rankcell.embed.embedding_tables import Column, Result, Table
from rankcell.embed.stores import layout
from rankcell.embed.stores.base import Store, Stored, matches, number_type, walk


@contextlib.contextmanager
def _as_oserror() -> Iterator[None]:
    """HDF5 has the operating system's number in its text only, and some of its errors are RuntimeErrors."""
    try:
        yield
    except (OSError, RuntimeError) as e:
        number = re.search(r"errno = (\d+)", str(e))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from e


def reason_against(name: str, values: pa.ChunkedArray) -> str:
    return layout.reason_against(name, values) or ("holds text with a NUL character" if matches(values, "\\x00") else "")


def copies(source: Path | None) -> bool:
    return source is not None and source.suffix.lower() == ".h5ad"


def write(parts: list[Path], result: Result, source: Path | None) -> None:
    import h5py

    is_copy = copies(source)
    if is_copy:
        with h5py.File(source, "r") as f:
            layout.require_cells(f, result, str(source))
        shutil.copyfile(source, parts[0])
    with _as_oserror(), h5py.File(parts[0], "r+" if is_copy else "w") as f:
        if not is_copy:
            layout.write_skeleton(f, result)
        layout.add(f, result, _create, walk)


def _create(group: Any, key: str, column: Column, table: Table) -> Any:
    import h5py

    shape = (table.n_rows, *([column.width] if column.width else []))
    return group.create_dataset(key, shape, dtype=h5py.string_dtype() if column.is_text else number_type(column))


def read(out: Path, tables: Sequence[str] | None) -> Stored:
    import h5py

    with h5py.File(out, "r") as f:
        return layout.read(f, str(out), tables)


STORE = Store(".h5ad", write, read, has_obs=True, reason_against=reason_against, copies=copies)
