"""Cells in the forms that people give them: states, masks of cells, ids of cells, files of ids."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rankcell.errors import CellError, SettingsError
from rankcell.perturb.exact.state_names import STATE_FORMS, start_state
from rankcell.wording import option


def start_cells(value: Any, source: Any) -> tuple[str | None, list[str] | None]:
    """`start` as (COL=STATE, ids of cells), of which one is None: a state, a boolean mask of the cells of `source`, or their ids."""
    import numpy as np

    if value is None or isinstance(value, (str, Mapping)) or (isinstance(value, tuple) and len(value) == 2):
        return start_state(value), None
    if not isinstance(value, Iterable) or hasattr(value, "obs_names"):
        raise SettingsError(f"start is a {type(value).__name__}; {STATE_FORMS}, a boolean mask of the cells or their ids")
    values = np.asarray(value if hasattr(value, "__array__") else list(value))
    if values.dtype == bool or (values.dtype == object and len(values) and all(isinstance(v, (bool, np.bool_)) for v in values)):
        return None, _masked(value, values.astype(bool), source)
    texts = [str(v) for v in values.tolist()]
    if not all(isinstance(v, str) for v in values.tolist()):
        raise SettingsError(f"start is a list of {type(values.tolist()[0]).__name__}; {STATE_FORMS}, a boolean mask of the cells or their ids")
    return (texts[0], None) if len(texts) == 1 and "=" in texts[0] else (None, texts)


def _masked(value: Any, mask: Any, source: Any) -> list[str]:
    """Ids of the cells where a mask is true; one with an index is taken by its ids."""
    ids: Sequence[str] | None = getattr(source, "obs_names", None)
    ids = getattr(source, "cell_ids", None) if ids is None else ids
    if ids is None:
        raise SettingsError("start is a mask, and the input is a file: give the AnnData or the TokenSet that the mask is of")
    ids = [str(i) for i in ids]
    if len(mask) != len(ids):
        raise SettingsError(f"start is a mask of {len(mask):,} cells, and the input has {len(ids):,}")
    index = getattr(value, "index", None)
    if index is None or callable(index):
        return [i for i, masked in zip(ids, mask, strict=True) if masked]
    order = [str(i) for i in index]
    if order != ids and set(order) != set(ids):
        raise CellError(f"the index of the mask in start has other cells than the input (such as {order[0]}, and {ids[0]} there)")
    masked = {i for i, m in zip(order, mask, strict=True) if m}
    return [i for i in ids if i in masked]


def parse_cell_ids(cells: Any) -> tuple[str, ...]:
    """Parse cell ids: of a file, one a line, or of a list."""
    if not isinstance(cells, (str, os.PathLike)):
        return tuple(str(c) for c in cells)
    from rankcell.store import read_lines

    lines = read_lines(cells, "cell ids, one a line", option=option("only", cells))
    return tuple(line.strip() for line in lines if line.strip())
