"""A cell column in memory (pandas, numpy, a list) -> arrow; the names under which a table carries cell columns."""

from collections.abc import Collection, Iterable
from typing import Any

import pyarrow as pa

from rankcell.errors import CellError


def arrow_column(values: Any, name: str) -> pa.Array:
    """The column as an arrow array: categories as a dictionary array, missing values as nulls, intervals and periods as their text.

    CellError for what arrow has no type for (complex numbers, objects, several kinds of values).
    """
    try:
        column = pa.array(_plain(values), from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as e:
        kind = getattr(values, "dtype", type(values).__name__)
        why = "several kinds of values, or such as no table holds" if str(kind) in ("object", "category") else f"{kind} values"
        raise CellError(f"the cell column '{name}' holds {why} ({_first_line(e)}): make it text first, with .astype(str)") from e
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def carried_names(columns: Iterable[str], own: Collection[str]) -> dict[str, str]:
    """{name in a table: cell column}, for a table with columns of its `own`: `obs_...` for a cell column that is called as one of them."""
    names: dict[str, str] = {}
    for column in columns:
        name = column
        while name in own or name in names:
            name = f"obs_{name}"
        names[name] = column
    return names


def _plain(values: Any) -> Any:
    """`values` without what pandas alone knows: sparse columns, intervals, periods."""
    kind = getattr(values, "dtype", None)
    if type(kind).__name__ == "SparseDtype":
        return values.sparse.to_dense() if hasattr(values, "sparse") else values.to_dense()
    if type(kind).__name__ in _AS_TEXT:
        return values.astype(object).map(str, na_action="ignore") if hasattr(values, "map") else values.astype(str)
    names = getattr(kind, "categories", None)
    if names is not None and type(names.dtype).__name__ in _AS_TEXT:
        return values.cat.rename_categories(str) if hasattr(values, "cat") else values.rename_categories(str)
    return values


_AS_TEXT = ("IntervalDtype", "PeriodDtype")


def _first_line(e: Exception) -> str:
    return (str(e).splitlines() or [type(e).__name__])[0][:150]
