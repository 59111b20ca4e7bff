"""Record batches of token rows: rows that stand end to end, their cell ids and their annotations as arrow columns."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.counts.columns import arrow_column
from rankcell.errors import CellError
from rankcell.tokens.token_rows import plain_ids, plain_row


def table_of_rows(rows: Iterable[Sequence[int]], cell_ids: Sequence[str] | None, obs: Mapping[str, Any]) -> pa.Table:
    """The table of rows in memory; without cell ids they are the row numbers as text.

    TokensError for what are no token numbers; CellError for ids that are missing, stand there twice, or are of another number.
    """
    rows = [plain_row(r, i) for i, r in enumerate(rows)]
    ids = [str(i) for i in range(len(rows))] if cell_ids is None else [None if c is None or c != c else str(c) for c in cell_ids]
    if len(ids) != len(rows):
        raise CellError(f"{len(rows):,} rows and {len(ids):,} cell ids: give one for each row")
    plain_ids(pa.chunked_array([pa.array(ids, pa.string())]), "these rows")
    lengths = np.array([len(r) for r in rows], np.int64)
    return pa.Table.from_batches([make_batch(np.concatenate([np.empty(0, np.int32), *rows]), lengths, ids, obs)])


def make_batch(values: np.ndarray, lengths: np.ndarray, cell_ids: Sequence[str], obs: Mapping[str, Any]) -> pa.RecordBatch:
    """One record batch of rows that stand end to end in `values` (int32)."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    columns = {
        "input_ids": pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, pa.int32())),
        "length": pa.array(lengths, pa.int64()),
        "cell_id": pa.array(cell_ids, pa.string()),
    }
    return pa.RecordBatch.from_pydict(columns | {name: plain_obs(v, name) for name, v in obs.items()})


def plain_obs(values: Any, name: str = "") -> pa.Array:
    """Annotations as plain arrow values: categories as their names, numbers and booleans as they are, NaN as null."""
    array = values if isinstance(values, pa.Array) else arrow_column(values, name)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_large_string(array.type) or pa.types.is_null(array.type):
        array = array.cast(pa.string())
    return array
