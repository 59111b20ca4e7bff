"""Columns of obs and var as anndata stores them, in HDF5 and zarr alike, read without anndata where that is simple.

Loading anndata takes longer than tokenizing some thousand cells. What is read here are arrays, strings, categories and
nullable columns; anything else is given to anndata.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.counts.arrays import as_numbers, numbers, texts, utf8
from rankcell.counts.io.hdf5 import first_line, require_filters
from rankcell.counts.io.room import require_all_stored, require_room
from rankcell.errors import OF_A_PART, InputError


def column(group: Any, name: str, *, where: str) -> pa.Array:
    """One column; categories as a dictionary array, missing values as nulls. InputError when it cannot be read."""
    try:
        return group.column(name) if isinstance(group, RecordTable) else _read(group[name], group)
    except MemoryError:
        raise
    except Exception as e:  # anndata's error for an unknown encoding has no public name
        raise InputError(f"{getattr(group, 'name', '')}/{name} is not readable ({first_line(e)})", of=where) from e


def attribute(node: Any, key: str, default: Any = "") -> Any:
    """An attribute of a group or array; text of fixed length, as Julia and MATLAB write it, is text."""
    value = node.attrs.get(key, default)
    if isinstance(value, np.ndarray) and value.shape in ((), (1,)):
        value = value.item()
    return value.decode() if isinstance(value, bytes) else value


class RecordTable:
    """obs or var as anndata before 0.7 stored it: one array of records, the categories of a column in uns (`NAME_categories`)."""

    def __init__(self, node: Any, uns: Any):
        self.name = node.name
        require_room(node)
        self._records, self._uns = node[:], uns
        names = list(self._records.dtype.names or ())
        if not names:
            raise InputError(f"{self.name} is stored as {self._records.dtype}, not as a table", of=OF_A_PART)
        self.index_name = next((n for n in ("index", "_index") if n in names), names[0])
        self.columns = [n for n in names if n != self.index_name]

    def column(self, name: str) -> pa.Array:
        values = self._records[name]
        if values.ndim != 1:
            raise InputError(f"it has {values.ndim} dimensions, not 1", of=OF_A_PART)
        if values.dtype.kind in "SOU":
            return texts([_decode(v) for v in values.tolist()])
        key = f"{name}_categories"
        if values.dtype.kind in "iu" and self._uns is not None and key in self._uns:
            return _dictionary(values, strings(self._uns[key]), ordered=False)
        return numbers(values.astype(values.dtype.newbyteorder("=")))


def table(node: Any, uns: Any = None) -> Any:
    """A stored data frame, whichever version of anndata wrote it."""
    return RecordTable(node, uns) if hasattr(node, "shape") else node


def strings(node: Any) -> pa.StringArray:
    """A stored list of strings (numbers as their text)."""
    return _plain(node).cast(pa.string())


def require_length(values: pa.Array, n: int, label: str) -> pa.Array:
    if len(values) != n:
        raise InputError(f"{label} has {len(values):,} entries instead of {n:,}")
    return values


def _read(node: Any, group: Any) -> pa.Array:
    encoding = attribute(node, "encoding-type")
    if hasattr(node, "shape"):
        if encoding not in ("", "array", "string-array"):
            raise InputError(f"it is stored as '{encoding}', which is not known here", of=OF_A_PART)
        if "categories" in node.attrs:  # anndata before 0.8
            names = strings(group[_text_or_ref(node.attrs["categories"], group)])
            return _dictionary(_array(node), names, ordered=False)
        return _plain(node)
    if encoding == "categorical":
        return _dictionary(_array(node["codes"]), _plain(node["categories"]), ordered=bool(attribute(node, "ordered", False)))
    if encoding.startswith("nullable"):
        values = _plain(node["values"])
        missing = _array(node["mask"]).astype(bool)
        return _with_nulls(values, missing)
    return _by_anndata(node)


def _with_nulls(values: pa.Array, missing: np.ndarray) -> pa.Array:
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return texts([None if is_missing else v for v, is_missing in zip(values.to_pylist(), missing.tolist(), strict=True)])
    if pa.types.is_boolean(values.type):
        return numbers(np.array(values.to_pylist()), missing)
    return numbers(as_numbers(values), missing)


def _text_or_ref(value: Any, group: Any) -> Any:
    value = value.decode() if isinstance(value, bytes) else value
    return value if isinstance(value, str) else group.file[value].name


def _dictionary(codes: np.ndarray, names: pa.Array, *, ordered: bool) -> pa.Array:
    where = numbers(codes.astype(np.int32), codes < 0)
    return pa.DictionaryArray.from_arrays(where, names, ordered=ordered)


def _plain(node: Any) -> pa.Array:
    """An array of numbers, truth values or strings."""
    if node.ndim != 1:
        raise InputError(f"it has {node.ndim} dimensions, not 1", of=OF_A_PART)
    if hasattr(node, "asstr") and node.dtype.kind in "OS":  # h5py: strings of variable or fixed length
        require_room(node)
        require_filters(node)
        return utf8(np.atleast_1d(node[:]).tolist())
    values = _array(node)
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    if values.dtype.kind in "OUT":
        return texts([v if v is None or isinstance(v, str) else _decode(v) for v in values.tolist()])
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    if values.dtype.kind not in "biuf":
        raise InputError(f"it holds {values.dtype}", of=OF_A_PART)
    return numbers(values)


def _array(node: Any) -> np.ndarray:
    require_room(node)
    if hasattr(node, "asstr"):
        require_filters(node)
    return np.asarray(node[:])


def _decode(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _by_anndata(node: Any) -> pa.Array:
    import pandas as pd
    from anndata.io import read_elem

    values = read_elem(node)
    return pa.array(pd.Series(values) if not isinstance(values, (pd.Series, pd.Categorical)) else values, from_pandas=True)


def column_names(group: Any) -> list[str]:
    """The columns of a stored data frame, in its order, without the index."""
    if isinstance(group, RecordTable):
        return group.columns
    order = group.attrs.get("column-order")
    names = [_decode(n) for n in np.atleast_1d(order)] if order is not None else list(group)
    return [n for n in names if n in group and n not in (_index_key(group), "__categories")]


def index_name(group: Any) -> str:
    key = _index_key(group)
    return "index" if key == "_index" else key


def index(group: Any, *, where: str) -> pa.StringArray:
    """The index of a stored data frame, as text; a missing name is null."""
    key = _index_key(group)
    if not isinstance(group, RecordTable) and hasattr(group.get(key), "shape"):
        try:
            require_room(group[key])
            require_all_stored(group[key])
        except InputError as e:
            raise e.completed(of=where) from e
    return column(group, key, where=where).cast(pa.string())


def _index_key(group: Any) -> str:
    if isinstance(group, RecordTable):
        return group.index_name
    return str(attribute(group, "_index", "_index" if "_index" in group else "index"))


def names_of(values: pa.Array) -> list[str]:
    """Names of genes as text; a missing name is "", which no vocabulary knows."""
    return ["" if v is None or v != v else str(v) for v in values.to_pylist()]
