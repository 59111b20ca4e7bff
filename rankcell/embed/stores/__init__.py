"""Where embeddings are written: a registry of formats by suffix. Every store streams, so that no table is ever held whole."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from rankcell.embed.embedding_tables import CELLS, Result
from rankcell.embed.stores import h5ad, npy, npz, parquet, safetensors, sqlite, zarr
from rankcell.embed.stores.base import Store, Stored, tables_of
from rankcell.embed.stores.layout import uns_entry
from rankcell.errors import CellError, InputError, RankcellError, SettingsError, is_out_of_memory
from rankcell.store import atomic_path, remove_file, require_new, writing
from rankcell.wording import command

__all__ = ["STORES", "Store", "Stored", "check_output", "read_embeddings", "reasons_against", "require_texts", "uns_entry", "write_result"]

STORES: dict[str, Store] = {m.STORE.suffix: m.STORE for m in (h5ad, zarr, parquet, npz, npy, safetensors, sqlite)}


def _store_of(out: Path) -> Store:
    try:
        return STORES[out.suffix.lower()]
    except KeyError:
        raise SettingsError(f"{out}: embeddings are written as {', '.join(STORES)}; give the output one of these endings") from None


def check_output(out: str | os.PathLike, *, force: bool = False, n_vectors: int | None = None, tables: Sequence[str] | None = None) -> Path:
    """`out` when it can be written; raised before any work is done.

    n_vectors, tables
        How many vectors a cell will have, and which tables there will be, as far as they are known: what the format cannot
        hold is refused, and the files that will stand beside `out` are looked at too.

    Raises OutputError, or SettingsError for an unknown suffix and for what the format cannot hold.
    """
    out = Path(out)
    store = _store_of(out)
    store.require(out, n_vectors, tables)
    for path in store.files(out, tables or ()):
        require_new(path, force=force, **_replaced(store, path, out))
    return out


def _replaced(store: Store, path: Path, out: Path) -> dict[str, Any]:
    """For require_new: what may be replaced where `out` or a file beside it is to be written."""
    return {"marker": store.marker, "own": store.own} if path == out else {"wrote": store.wrote}


def reasons_against(out: str | os.PathLike, columns: Mapping[str, pa.ChunkedArray], *, source: Path | None = None) -> dict[str, str]:
    """{column: why the format of `out` cannot hold it} of those cell columns that it cannot hold.

    source
        The count file: of one that `out` is a copy of, every column comes along as it is.
    """
    store = _store_of(Path(out))
    if store.copies(source):
        return {}
    reasons = {name: store.reason_against(name, values) for name, values in columns.items()}
    taken: dict[str, str] = {}
    for name in columns if store.is_folder else ():  # there names are file names
        first = taken.setdefault(name.casefold(), name)
        reasons[name] = reasons[name] or (f"differs from {first!r} by case alone" if first != name else "")
    return {name: reason for name, reason in reasons.items() if reason}


def require_texts(out: str | os.PathLike, ids: pa.ChunkedArray, states: Sequence[str] = ()) -> None:
    """CellError when the format of `out` cannot hold the cells' ids or the names of states as they are."""
    store = _store_of(Path(out))
    for name, values, label in (
        ("cell_id", ids, "a cell id"),
        ("state", pa.chunked_array([pa.array(states, pa.string())]), "the name of a state"),
    ):
        if reason := store.reason_against(name, values):
            while len(values) > 1:  # to the first that it is
                half = values.slice(0, len(values) // 2)
                values = half if store.reason_against(name, half) else values.slice(len(half))
            raise CellError(f"{out}: {label}, {values[0].as_py()!r}, {reason}: rename it, or write .parquet or .sqlite")


def write_result(result: Result, out: str | os.PathLike, *, source: str | os.PathLike | None = None, force: bool = False) -> list[Path]:
    """Write `result` in the format of `out`'s suffix and return the paths written, `out` first.

    All files are written under temporary names and then renamed, `out` last. Texts that are null are written as "".

    source
        The count file that the embeddings come from: an h5ad of an h5ad, and a zarr folder of a zarr folder, is a copy of it
        with the embeddings added. InputError when it has another number of cells.

    Raises OutputError and SettingsError as `check_output` does.
    """
    names = [t.name for t in tables_of(result)]
    n_vectors = len(result.tables[CELLS].vectors) if CELLS in result.tables else None
    out = check_output(out, force=force, n_vectors=n_vectors, tables=names)
    store = _store_of(out)
    files = store.files(out, names)
    if CELLS in result.tables:
        require_texts(out, pa.chunked_array([result.tables[CELLS].read("cell_id")], pa.string()))
    with contextlib.ExitStack() as stack:
        parts = [stack.enter_context(atomic_path(path, force=force, **_replaced(store, path, out))) for path in files]
        with writing(out):
            store.write(parts, result, None if source is None else Path(source))
    for path in store.leftovers(out, names) if force else ():
        remove_file(path, store.wrote)
    return files


def read_embeddings(out: str | os.PathLike, *, tables: Sequence[str] | None = None) -> Stored:
    """What `write_result` wrote, in memory: the cells, and of the other tables those named in `tables` (None: all).

    InputError when it is not there, is broken, or was not written by rankcell; SettingsError for an unknown suffix.
    """
    out = Path(out)
    store = STORES.get(out.suffix.lower())
    if store is None:
        raise SettingsError(f"{out}: embeddings end in {', '.join(STORES)}; give the path that {command('embed')} wrote")
    if not out.exists():
        raise InputError(f"{out} does not exist")
    if out.is_dir() != store.is_folder:
        raise InputError(f"{out} is a {'folder' if out.is_dir() else 'file'}; embeddings that end in {store.suffix} are not")
    try:
        return store.read(out, tables)
    except Exception as e:  # every format has its own errors
        if isinstance(e, RankcellError) or is_out_of_memory(e):
            raise
        first_line = (str(e).splitlines() or [""])[0][:200]
        raise InputError(f"{out} is broken, or rankcell did not write it ({type(e).__name__}: {first_line}): write it again") from e
