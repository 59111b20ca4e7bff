"""cells.parquet: the cells of a screen with the cell columns that their tokens carry."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from rankcell.counts.columns import carried_names
from rankcell.store import atomic_path
from rankcell.tokens.tokenset import TokenSet

_CELLS = 50_000  # cells written at once
_OWN = ("cell_id", "n_tokens", "n_genes")  # columns of cells.parquet


def carried_columns(tokens: TokenSet) -> dict[str, str]:
    """{name in cells.parquet: cell column of the tokens}; columns whose type parquet does not have are left out.

    `obs_...` where a column has the name of one of the table's own.
    """
    return carried_names((c for c in tokens.obs_columns if _parquet_holds(tokens.table.schema.field(c))), _OWN)


def omitted_columns(tokens: TokenSet) -> dict[str, str]:
    """Cell columns that cells.parquet omits: {column: reason}."""
    carried = set(carried_columns(tokens).values())
    return {c: f"holds {tokens.table.schema.field(c).type}" for c in tokens.obs_columns if c not in carried}


def _parquet_holds(column: pa.Field) -> bool:
    import pyarrow.parquet as pq

    try:
        pq.ParquetWriter(pa.BufferOutputStream(), pa.schema([column])).close()
    except pa.ArrowException:
        return False
    return True


def write_cells(tokens: TokenSet, rows: np.ndarray, path: Path) -> None:
    """cells.parquet: cell_id, n_tokens, n_genes and the cell columns that the tokens carry (`carried_columns`)."""
    import pyarrow.parquet as pq

    carried, ids, writer = carried_columns(tokens), tokens.cell_ids, None
    obs = tokens.table.select(list(carried.values()))
    with atomic_path(path, force=True) as part:
        try:
            for a in range(0, len(rows), _CELLS):
                at = rows[a : a + _CELLS]
                columns = {"cell_id": pa.array([ids[i] for i in at], pa.string())}
                columns |= {"n_tokens": pa.array(tokens.lengths[at]), "n_genes": pa.array(tokens.n_genes[at])}
                obs_rows = obs.slice(int(at[0]), int(at[-1] - at[0]) + 1).take(pa.array(at - at[0]))
                table = pa.table(columns | {name: obs_rows[column].combine_chunks() for name, column in carried.items()})
                writer = writer or pq.ParquetWriter(part, table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()
