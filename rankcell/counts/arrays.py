"""numpy and lists to arrow without `pyarrow.array`, which loads pandas at its first call (a quarter of a second, 40 MB)."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def numbers(values: np.ndarray, missing: np.ndarray | None = None) -> pa.Array:
    """Numbers or truth values as arrow; null where `missing`, and where a fraction is NaN."""
    values = np.ascontiguousarray(values)
    if missing is None and values.dtype.kind == "f" and np.isnan(values).any():
        missing = np.isnan(values)
    if values.dtype.kind == "b":
        kind, data = pa.bool_(), _bits(values)
    else:
        kind, data = pa.from_numpy_dtype(values.dtype), pa.py_buffer(values)
    return pa.Array.from_buffers(kind, len(values), [None if missing is None else _bits(~missing), data])


def texts(values: Sequence[str | None]) -> pa.StringArray:
    """Strings as arrow; None is null. Text of more than 2 GB is large_string."""
    return _strings([None if v is None else v.encode() for v in values])


def utf8(values: Sequence[bytes | str | None]) -> pa.StringArray:
    """Strings given by their bytes. UnicodeDecodeError when one is not UTF-8."""
    strings = _strings([v.encode() if isinstance(v, str) else v for v in values])
    try:
        strings.validate(full=True)
    except pa.ArrowInvalid:
        for v in values:
            v.decode() if isinstance(v, bytes) else v
        raise
    return strings


def _strings(raw: list[bytes | None]) -> pa.StringArray:
    known = np.array([v is not None for v in raw], bool)
    if not known.all():
        raw = [b"" if v is None else v for v in raw]
    ends = np.cumsum([0, *map(len, raw)])
    large = bool(ends[-1] > np.iinfo(np.int32).max)
    offsets = ends.astype(np.int64 if large else np.int32)
    buffers = [None if known.all() else _bits(known), pa.py_buffer(offsets), pa.py_buffer(b"".join(raw))]
    return pa.Array.from_buffers(pa.large_string() if large else pa.string(), len(raw), buffers)


def _bits(values: np.ndarray) -> pa.Buffer:
    return pa.py_buffer(np.packbits(values.astype(bool), bitorder="little"))


def as_numbers(values: pa.Array) -> np.ndarray | None:
    """The numbers of an arrow array, NaN (in float64) for nulls; None when it holds no numbers."""
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        return None
    kind, stored = np.dtype(values.type.to_pandas_dtype()), values.buffers()[1]
    if stored is None:  # an empty array may have no room at all
        return np.empty(0, kind)
    entries = np.frombuffer(stored, kind, len(values), values.offset * kind.itemsize)
    if not values.null_count:
        return entries
    known = np.unpackbits(np.frombuffer(values.buffers()[0], np.uint8), bitorder="little")[values.offset : values.offset + len(values)]
    return np.where(known, entries.astype(np.float64), np.nan)
