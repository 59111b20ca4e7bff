"""Embeddings in an AnnData on disk, h5ad and zarr alike: the cells' vectors in obsm, the other tables and the meta in uns.

The arrays are created here and filled block by block; what is small (annotations, meta) goes through anndata.
"""

import contextlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.counts.io import elements
from rankcell.embed.embedding_tables import CELLS, Block, Column, Result, Table
from rankcell.embed.options import KEY
from rankcell.embed.stores.base import TABLES, Stored, as_json, is_wanted, tables_of, walk
from rankcell.errors import InputError

ENTRY, STORED = "rankcell", "stored"  # uns["rankcell"], and in it the JSON text that says what stands where
MARKER = f"uns/{ENTRY}/{STORED}"
_DICT = {"encoding-type": "dict", "encoding-version": "0.1.0"}
_ARRAY = {"encoding-type": "array", "encoding-version": "0.2.0"}
_TEXT = {"encoding-type": "string-array", "encoding-version": "0.2.0"}

Create = Callable[[Any, str, Column, Table], Any]  # group, key, column, table -> an empty array of the format
Blocks = Callable[[Table, Sequence[str]], Iterator[Block]]


def uns_key(table: str) -> str:
    """The key in uns under which a table other than "cells" stands."""
    return f"rankcell_{table}"


def uns_entry(result: Result, key: str = KEY) -> dict[str, Any]:
    """What stands in `uns["rankcell"]`: the meta, with the pool and layer of each obsm key. Nulls, and names that no key of an
    AnnData can be, are left out.
    """
    meta = dict(result.meta)
    if "outputs" in meta and CELLS in result.tables:
        keys = {column: k for k, column in result.obsm_keys(key).items()}
        meta["outputs"] = {keys.get(name, name): output for name, output in meta["outputs"].items()}
    if "frame" in meta:
        meta["frame"] = as_json(meta["frame"])
    return {name: _plain(value) for name, value in meta.items() if value is not None and "/" not in name}


def _plain(value: Any) -> Any:
    """A JSON value as anndata can write it: what it cannot (lists of several kinds, keys with a slash) as its JSON text."""
    if isinstance(value, dict) and not any("/" in str(k) or not k for k in value):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, (dict, list, tuple)):
        kinds = {type(v) for v in value}
        is_list = not isinstance(value, dict) and (kinds <= {int, float} or kinds in ({str}, {bool}))
        return list(value) if is_list else as_json(value)
    return value


def reason_against(name: str, values: pa.ChunkedArray) -> str:
    """Why obs of an AnnData on disk cannot have this column (Store.reason_against)."""
    if reason := forbidden_name(name):
        return reason
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    is_plain = any(f(kind) for f in _OBS_TYPES)
    return "" if is_plain else f"holds {kind}"


def forbidden_name(name: str) -> str:
    """Why no column of obs on disk can have this name, in words that follow it; "" where one can."""
    if "/" in name:
        return "has a slash in its name"
    return "has a name that a file cannot have" if "\0" in name or name in _RESERVED else ""


_RESERVED = ("", ".", "..", "_index", "__categories")
_OBS_TYPES = (
    *(pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating),
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_null),
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what anndata and zarr announce of their own future, and what anndata says about cell ids that occur twice."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "zarr v3 autosharding")
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        warnings.filterwarnings("ignore", "Observation names are not unique")
        yield


def _put(group: Any, key: str, value: Any) -> None:
    """Write a small value with anndata in place of what stood there."""
    from anndata.io import write_elem

    if key in group:
        del group[key]
    with quiet():
        write_elem(group, key, value)


def write_skeleton(root: Any, result: Result) -> None:
    """An AnnData with the cells' ids and annotations, and no genes."""
    import anndata as ad

    with quiet():
        ad.io.write_elem(root, "/", ad.AnnData(obs=_obs(result)))


def _obs(result: Result) -> Any:
    """The annotations as a DataFrame whose index are the cell ids; what were categories, and all text, are categories."""
    import pandas as pd

    frame = pd.DataFrame() if result.obs is None else _with_missing(result.obs)
    own = frame.pop("cell_id").astype(str).tolist() if "cell_id" in frame else None
    ids = _ids(result.tables[CELLS]) if CELLS in result.tables else own
    index = pd.Index(ids or [], dtype=object, name="cell_id")
    if ids is None or not len(frame.columns):
        return pd.DataFrame(index=index)
    if len(frame) != len(ids):
        raise ValueError(f"{len(frame):,} rows of annotations for {len(ids):,} cells")
    frame.index = index
    for name, kind in result.categories.items():
        if name in frame:
            frame[name] = pd.Categorical(frame[name], categories=kind["categories"], ordered=kind["ordered"])
    for name in frame:
        if not (pd.api.types.is_numeric_dtype(frame[name]) or isinstance(frame[name].dtype, pd.CategoricalDtype)):
            frame[name] = frame[name].astype("category")
    return frame


def _with_missing(obs: pa.Table) -> Any:
    """As pandas; whole numbers and truth values of which some are missing stay what they are."""
    import pandas as pd

    frame = obs.to_pandas()
    for name in obs.column_names:
        kind = obs.schema.field(name).type
        if obs[name].null_count and (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            nullable = (
                pd.BooleanDtype()
                if pa.types.is_boolean(kind)
                else getattr(pd, f"{'U' if 'u' in str(kind) else ''}Int{kind.bit_width}Dtype")()
            )
            frame[name] = pd.Series(obs[name].to_pandas(types_mapper={kind: nullable}.get), index=frame.index)
    return frame


def _ids(cells: Table) -> list[str]:
    return [name for block in walk(cells, ["cell_id"]) for name in block["cell_id"].to_pylist()]


def require_cells(root: Any, result: Result, where: str) -> None:
    """InputError unless the count file, of which the output is to be a copy, has as many cells as the result."""
    n = len(elements.index(root["obs"], where=where))
    if CELLS in result.tables and n != result.tables[CELLS].n_rows:
        raise InputError(
            f"{where} has {n:,} cells and the embeddings {result.tables[CELLS].n_rows:,}: embed the whole file, or write .parquet"
        )


def add(root: Any, result: Result, create: Create, blocks: Blocks) -> None:
    """Put the result into an AnnData that stands in `root`, in place of an earlier one. `blocks` walks a table."""
    for name in ("obsm", "uns"):
        if name not in root:
            _put(root, name, {})
    tables = tables_of(result)
    keys = result.obsm_keys() if CELLS in result.tables else {}
    for name in TABLES:
        if uns_key(name) in root["uns"]:
            del root["uns"][uns_key(name)]
    for table in tables:
        if table.name == CELLS:
            _fill(root["obsm"], table, keys, create, blocks)
            continue
        group = root["uns"].create_group(uns_key(table.name))
        group.attrs.update(_DICT)
        _fill(group, table, {c: c for c in table.names}, create, blocks)
    stored = {"meta": result.meta, "keys": keys, "tables": {t.name: t.names for t in tables}}
    _put(root["uns"], ENTRY, uns_entry(result) | {STORED: json.dumps(stored)})


def _fill(group: Any, table: Table, keys: dict[str, str], create: Create, blocks: Blocks) -> None:
    """Write columns of a table ({key: column}) into arrays of `group`."""
    arrays = {}
    for key, name in keys.items():
        if key in group:
            del group[key]
        arrays[key] = create(group, key, table.column(name), table)
        arrays[key].attrs.update(_TEXT if table.column(name).is_text else _ARRAY)
    start = 0
    for block in blocks(table, list(keys.values())) if keys else ():
        n = len(next(iter(block.values())))
        for key, name in keys.items():
            values = block[name]
            arrays[key][start : start + n] = np.array(values.to_pylist(), object) if isinstance(values, pa.Array) else values
        start += n
        del block


def read(root: Any, where: str, wanted: Sequence[str] | None) -> Stored:
    """What `add` wrote, or what rankcell.tl.embed left in an AnnData that was saved."""
    if "uns" not in root or ENTRY not in root["uns"]:
        raise InputError(f"{where} holds no embeddings of rankcell: it has no uns['{ENTRY}']")
    stored = _stored(root["uns"][ENTRY])
    tables: dict[str, dict[str, Any]] = {}
    for name, columns in stored["tables"].items():
        if name == CELLS:
            ids = {"cell_id": elements.index(root["obs"], where=where).to_pylist()}
            tables[name] = ids | {column: _values(root["obsm"][key]) for key, column in stored["keys"].items()}
        elif is_wanted(name, wanted):
            tables[name] = _table(root["uns"][uns_key(name)], columns, where)
    return Stored.of(tables, stored["meta"])


def _stored(entry: Any) -> dict[str, Any]:
    from anndata.io import read_elem

    if STORED in entry:
        return json.loads(str(read_elem(entry[STORED])))
    meta = read_elem(entry)
    keys = {key: f"{output['pool']}_layer{output['layer']}" for key, output in meta["outputs"].items()}
    meta = {name: value.item() if isinstance(value, np.generic) else value for name, value in meta.items()}
    return {"meta": meta, "keys": keys, "tables": {CELLS: ["cell_id", *keys.values()]}}


def _table(group: Any, columns: Iterable[str], where: str) -> dict[str, Any]:
    values_of_column = {}
    for name in columns:
        node = group[name]
        is_plain = hasattr(node, "shape") and node.dtype.kind in "iuf"
        values_of_column[name] = _values(node) if is_plain else elements.column(group, name, where=where).cast(pa.string()).to_pylist()
    return values_of_column


def _values(node: Any) -> np.ndarray:
    """A whole array of numbers. A chunk of a zarr store that is not there would read as zeros: ValueError."""
    missing = node.nchunks - node.nchunks_initialized if node.dtype.kind == "f" and hasattr(node, "nchunks_initialized") else 0
    if missing:
        raise ValueError(f"{missing:,} of {node.nchunks:,} chunks of {node.name} are not there")
    return np.asarray(node[:])
