"""What an embedding run hands to a store: tables that are read block by block, so that none is ever held whole."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.embed.options import INCLUDE, KEY

CELLS, GENES, GENE_MEANS, STATES = INCLUDE.values()

Block = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a table: text, whole numbers (int64 or int32), or a vector of `width` floats a row."""

    name: str
    dtype: str
    width: int = 0

    @property
    def is_text(self) -> bool:
        return self.dtype == "text"

    @property
    def arrow(self) -> pa.DataType:
        if self.is_text:
            return pa.string()
        kind = pa.from_numpy_dtype(np.dtype(self.dtype))
        return pa.list_(kind, self.width) if self.width else kind


@dataclass(frozen=True)
class Table:
    """Rows of one kind: "cells", "genes" (a row per cell and gene), "gene_means" or "states".

    blocks
        `blocks(names)` walks the rows once, in order: {column: text as an arrow string array, numbers as numpy [rows],
        vectors as numpy [rows, width] of the column's dtype}, for the columns asked for. It can be called again.
    """

    name: str
    n_rows: int
    columns: tuple[Column, ...]
    blocks: Callable[[Sequence[str]], Iterator[Block]]

    @property
    def names(self) -> list[str]:
        return [c.name for c in self.columns]

    def column(self, name: str) -> Column:
        return next(c for c in self.columns if c.name == name)

    @property
    def vectors(self) -> list[Column]:
        return [c for c in self.columns if c.width]

    def read(self, name: str) -> Any:
        """A whole column in memory: numpy, or for text an arrow string array."""
        column = self.column(name)
        parts = [b[name] for b in self.blocks([name])]
        if column.is_text:
            return pa.concat_arrays(parts) if parts else pa.array([], pa.string())
        shape = (0, column.width) if column.width else (0,)
        return np.concatenate([np.empty(shape, column.dtype), *parts])


@dataclass(frozen=True)
class Result:
    """Everything that one run gives: its tables, its `meta` (plain JSON), and the cells' annotations (an arrow table or None)."""

    tables: dict[str, Table]
    meta: dict[str, Any]
    obs: pa.Table | None = None
    categories: dict[str, Any] = field(default_factory=dict)

    def obsm_keys(self, key: str = KEY) -> dict[str, str]:
        """{AnnData key: column} of the cells: `key` alone when there is one output, `<key>_<pool>_layer<n>` when several."""
        return obsm_keys([c.name for c in self.tables[CELLS].vectors], key)


def obsm_keys(names: Sequence[str], key: str) -> dict[str, str]:
    """{AnnData key: output} of outputs by their names `<pool>_layer<n>`."""
    return {key: names[0]} if len(names) == 1 else {f"{key}_{name}": name for name in names}


def memory_table(name: str, columns: dict[str, Any]) -> Table:
    """A table of arrays in memory: text (arrow, or a sequence of str), numbers, or vectors [rows, width]."""
    arrays, kinds = {}, []
    for key, values in columns.items():
        if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
            arrays[key] = values
            kinds.append(Column(key, str(values.dtype), values.shape[1] if values.ndim == 2 else 0))
        else:
            arrays[key] = values if isinstance(values, pa.Array) else pa.array(list(values), pa.string())
            kinds.append(Column(key, "text"))
    n = len(next(iter(arrays.values()))) if arrays else 0
    return Table(name, n, tuple(kinds), lambda names: iter([{k: arrays[k] for k in names}]))


@dataclass(frozen=True)
class Embeddings:
    """What an embedding run gives: `cell_ids`, `columns` (`<pool>_layer<n>` -> float32 [cells, width]), and its `meta` (plain JSON).

    `read_obs()`: the cells' annotations as a DataFrame with the ids as its index (TokenSet.obs_df); None where there were no tokens.
    """

    cell_ids: list[str]
    columns: dict[str, np.ndarray]
    meta: dict[str, Any] = field(default_factory=dict)
    read_obs: Callable[[], Any] | None = None

    def obsm(self, key: str = KEY) -> dict[str, np.ndarray]:
        """The columns under their AnnData names: `key` when there is one, `<key>_<pool>_layer<n>` when there are several."""
        return {k: self.columns[name] for k, name in obsm_keys(list(self.columns), key).items()}

    def result(self) -> Result:
        """The same as what a store is given."""
        return Result({CELLS: memory_table(CELLS, {"cell_id": self.cell_ids, **self.columns})}, self.meta)
