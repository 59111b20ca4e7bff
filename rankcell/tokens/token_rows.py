"""Token rows as other programs save them -> the column that a TokenSet walks: lists of whole numbers without holes."""

import operator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankcell.counts.arrays import as_numbers
from rankcell.errors import CellError, TokensError
from rankcell.wording import note, shortened

ROWS, COUNTS, UNCROPPED, IDS = "input_ids", "counts", "input_ids_uncropped", "cell_id"
_FEW = 3


class ListColumns:
    """The list columns of a table of tokens, walked by rows without a copy."""

    def __init__(self, table: pa.Table):
        self._table = table
        self._opened: dict[str, Any] = {}

    def of(self, column: str) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        """Where each chunk of a list column begins, and its (offsets, values) as views of the mapped file."""
        if column not in self._opened:
            chunks = self._table[column].chunks
            start = np.cumsum([0, *(len(c) for c in chunks)])
            self._opened[column] = start, [(as_numbers(c.offsets), as_numbers(c.values)) for c in chunks]
        return self._opened[column]

    def entry(self, column: str, i: int) -> np.ndarray:
        """The list in row `i`. CellError for what is no row number."""
        i = row_number(i, self._table.num_rows)
        start, flat = self.of(column)
        chunk = int(np.searchsorted(start, i, side="right")) - 1
        offsets, values = flat[chunk]
        k = i - int(start[chunk])
        return values[offsets[k] : offsets[k + 1]]


def plain_row(row: Any, number: int) -> np.ndarray:
    """One row of token numbers as int32. TokensError for what is none."""
    try:
        values = np.asarray(row)
        is_plain = values.ndim == 1 and (values.dtype.kind in "iuf" or not values.size) and np.isfinite(values.astype(float)).all()
        if is_plain and (values == np.rint(values)).all() and (np.abs(values.astype(float)) < 2**31).all():
            return values.astype(np.int32)
    except (ValueError, TypeError):
        pass
    raise TokensError(f"row {number} is no list of token numbers: {str(row)[:80]}")


def row_number(i: Any, n: int) -> int:
    """`i` as the number of one of `n` rows, counted from 0; CellError for any other, negative ones included."""
    try:
        number = operator.index(i)
    except TypeError:
        number = None
    if number is None or i is True or i is False:
        raise CellError(f"a row is named by its number, a whole number from 0, and this is {shortened(i)}")
    if not 0 <= number < n:
        raise CellError(f"there is no row {number}: the tokens have {n:,} cells, counted from 0")
    return number


def row_numbers(rows: Any, n: int) -> np.ndarray:
    """Row numbers as int64, each checked as by `row_number`."""
    try:
        numbers = np.asarray(rows)
    except ValueError:
        numbers = np.empty((0, 0))
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        remedy = ": np.flatnonzero(mask) gives the numbers of a mask's rows" if numbers.dtype == bool else ""
        raise CellError(f"rows are named by a list of whole numbers from 0, and this is {shortened(rows)}{remedy}")
    wrong = numbers[(numbers < 0) | (numbers >= n)]
    if len(wrong):
        row_number(wrong[0], n)
    return numbers.astype(np.int64)


def plain_rows(table: pa.Table, where: str | Path) -> pa.Table:
    """`table` with plain rows: large and fixed-size lists as lists, whole numbers stored as floats as int32, cell ids as text.

    TokensError for what are no rows of tokens, CellError for cell ids that are missing or stand there twice.
    """
    for column in (ROWS, COUNTS, UNCROPPED):
        if column in table.column_names and (column == ROWS or _is_list(table.schema.field(column).type)):
            chunks = [_plain_list(chunk, column, where) for chunk in table[column].chunks]
            kind = chunks[0].type if chunks else pa.list_(pa.int32())
            table = _replaced(table, column, pa.chunked_array([c.cast(kind) for c in chunks], kind))
    if ROWS not in table.column_names:
        raise TokensError(
            f"{where} is a dataset without token rows: it has no list column '{ROWS}' ({', '.join(table.column_names) or 'none'})"
        )
    return _replaced(table, IDS, plain_ids(table[IDS], where)) if IDS in table.column_names else table


def _replaced(table: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _plain_list(rows: pa.Array, column: str, where: str | Path) -> pa.ListArray:
    kind = rows.type
    if not _is_list(kind):
        raise TokensError(f"{where}: '{column}' holds {kind}, not lists of token numbers: is this a token set?")
    if not (pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)):
        raise TokensError(f"{where}: '{column}' holds lists of {kind.value_type}, not of token numbers: save the rows as whole numbers")
    if rows.null_count:
        raise TokensError(
            f"{where}: '{column}' is missing in row {_first_null(rows)} ({rows.null_count:,} such rows): leave these rows out"
        )
    if not pa.types.is_list(kind):
        lengths = pc.list_value_length(rows).to_numpy(zero_copy_only=False)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        rows = pa.ListArray.from_arrays(offsets, rows.flatten())
    if rows.values.null_count and (n := rows.flatten().null_count):
        raise TokensError(f"{where}: {n:,} tokens of '{column}' are missing: a row holds token numbers only")
    if pa.types.is_floating(kind.value_type) and column != COUNTS:
        rows = pa.ListArray.from_arrays(rows.offsets, _as_integers(rows.values, column, where))
    return rows


def _first_null(values: pa.Array) -> int:
    return pc.index(pc.is_null(values), True).as_py()


def _as_integers(values: pa.Array, column: str, where: str | Path) -> pa.Array:
    """Cast floats that are whole numbers to int32; TokensError for others."""
    numbers = as_numbers(values)
    wrong = np.flatnonzero(~(np.isfinite(numbers) & (numbers == np.rint(numbers)) & (np.abs(numbers) < 2**31)))
    if len(wrong):
        raise TokensError(f"{where}: '{column}' holds {numbers[wrong[0]]!s}, which is no token number")
    return pa.array(numbers.astype(np.int32))


def plain_ids(ids: pa.ChunkedArray, where: str | Path) -> pa.ChunkedArray:
    """Cell ids as text. CellError where one is missing, or stands there more than once."""
    try:
        texts = ids.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise CellError(f"{where}: '{IDS}' holds {ids.type}, not text: save the ids as text, or leave the column out") from None
    if texts.null_count:
        raise CellError(
            f"{where}: {texts.null_count:,} of {len(texts):,} cells have no id, such as row {_first_null(texts)}: give each its own, "
            f"or leave out the column '{IDS}', so that cells go by their row number"
        )
    if pc.count_distinct(texts).as_py() < len(texts):
        refuse_twice(texts, where)
    return texts


def refuse_twice(ids: pa.ChunkedArray, where: str | Path) -> None:
    """CellError that names some of the ids that stand there more than once."""
    counts = pc.value_counts(ids)
    twice = [c for c in counts.to_pylist() if c["counts"] > 1]
    examples = ", ".join(f"'{c['values']}' {c['counts']:,} times" for c in twice[:_FEW])
    raise CellError(
        f"{where}: {len(twice):,} cell id{'s stand' if len(twice) > 1 else ' stands'} there more than once ({examples}): make them unique, "
        f"or leave out the column '{IDS}', so that cells go by their row number"
    )


def without_padding(table: pa.Table, pad: int) -> pa.Table:
    """Remove the padding at the end of rows, with a note; returns `table` itself where no row ends in padding."""
    lengths = [_lengths_without(chunk, pad) for chunk in table[ROWS].chunks]
    padded_lengths = [np.diff(as_numbers(chunk.offsets)) for chunk in table[ROWS].chunks]
    n = sum(int((k < w).sum()) for k, w in zip(lengths, padded_lengths, strict=True))
    if not n:
        return table
    note(f"{n:,} of {table.num_rows:,} rows end in padding, which is left out")
    before = table[ROWS]
    for column in (ROWS, COUNTS):
        if column in table.column_names and pc.list_value_length(table[column]).equals(pc.list_value_length(before)):
            chunks = [_cut(chunk, k) for chunk, k in zip(table[column].chunks, lengths, strict=True)]
            table = _replaced(table, column, pa.chunked_array(chunks, table.schema.field(column).type))
    return table


def _lengths_without(rows: pa.ListArray, pad: int) -> np.ndarray:
    """int64 tokens per row without the padding at its end."""
    offsets, values = as_numbers(rows.offsets).astype(np.int64), as_numbers(rows.values)
    if not (values == pad).any():
        return np.diff(offsets)
    tokens = np.flatnonzero(values != pad)
    before = np.searchsorted(tokens, offsets[1:])  # tokens that are no padding up to the end of each row
    last = np.where(before > 0, tokens[np.maximum(before - 1, 0)] if len(tokens) else -1, -1)
    return np.maximum(last + 1 - offsets[:-1], 0)


def _cut(rows: pa.ListArray, lengths: np.ndarray) -> pa.ListArray:
    """The first `lengths` entries of each row."""
    offsets, values = as_numbers(rows.offsets).astype(np.int64), as_numbers(rows.values)
    place = np.arange(offsets[-1] - offsets[0]) - np.repeat(offsets[:-1] - offsets[0], np.diff(offsets))
    chosen = values[offsets[0] : offsets[-1]][place < np.repeat(lengths, np.diff(offsets))]
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), pa.array(chosen))
