"""The tables of a screen: their schema, the shards they are made of, and how they are read back."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.errors import InputError, OutputError
from rankcell.perturb.edits import Edit, EditPlan
from rankcell.perturb.engine import AffectedSums
from rankcell.store import ShardedRun, atomic_path
from rankcell.vocab import Vocabulary

SCREEN, AFFECTED, EDITS, STATES = "screen.parquet", "affected.parquet", "edits.parquet", "states.parquet"


def screen_table(
    edits: Sequence[tuple[int, Edit]], scores: dict[str, np.ndarray], *, cell_ids: Sequence[str], plan: EditPlan, genes: Sequence[str]
) -> pa.Table:
    """One row per cell and edit: cell_id, edit, kind, genes, rank, n_tokens, then the scores (NaN as null).

    `rank`: of the first gene before the edit, 0 = top, null when the cell lacks it; `n_tokens`: length of the cell's row
    before the edit, special tokens included.
    """
    columns = {
        "cell_id": pa.array([cell_ids[i] for i, _ in edits], pa.string()),
        "edit": pa.array([f"{plan.kind}:{genes[e.target]}" for _, e in edits], pa.string()),
        "kind": pa.array([plan.kind] * len(edits), pa.string()),
        "genes": pa.array([genes[e.target] for _, e in edits], pa.string()),
        "rank": pa.array([e.rank for _, e in edits], pa.int32()),
        "n_tokens": pa.array([len(e.baseline) for _, e in edits], pa.int32()),
    }
    return pa.table(columns | {name: pa.array(v, pa.float64(), from_pandas=True) for name, v in scores.items()})


def sums_table(sums: AffectedSums) -> pa.Table:
    key, n, total, squares = sums.reduce()
    return pa.table({"key": key, "n": n, "sum": total, "squares": squares})


def write_table(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    with atomic_path(path, force=True) as part:
        pq.write_table(table, part)


def join_shards(run: ShardedRun, n_units: int) -> int:
    """Write screen.parquet from the shards, one at a time; the number of rows."""
    import pyarrow.parquet as pq

    n_rows = 0
    with atomic_path(run.folder / SCREEN, force=True) as part:
        with pq.ParquetWriter(part, pq.read_schema(run.shard("screen", 0))) as writer:
            for unit in range(n_units):
                table = pq.read_table(run.shard("screen", unit))
                n_rows += len(table)
                writer.write_table(table)
    return n_rows


def join_affected(run: ShardedRun, n_units: int, *, plan: EditPlan, genes: Sequence[str], vocab: Vocabulary) -> None:
    """Write affected.parquet: edit, genes, affected, n, mean_cos, sd_cos (population), by target and affected token."""
    import pyarrow.parquet as pq

    keys, n, total, squares = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0)
    for unit in range(n_units):
        t = pq.read_table(run.shard("affected", unit))
        merged, where = np.unique(np.concatenate([keys, t["key"].to_numpy()]), return_inverse=True)
        n = np.bincount(where, np.concatenate([n, t["n"].to_numpy()]), len(merged)).astype(np.int64)
        total = np.bincount(where, np.concatenate([total, t["sum"].to_numpy()]), len(merged))
        squares = np.bincount(where, np.concatenate([squares, t["squares"].to_numpy()]), len(merged))
        keys = merged
    target, token = keys // vocab.n_ids, keys % vocab.n_ids
    mean = total / n
    table = pa.table(
        {
            "edit": pa.array([f"{plan.kind}:{genes[t]}" for t in target], pa.string()),
            "genes": pa.array([genes[t] for t in target], pa.string()),
            "affected": pa.array([vocab.describe_token(int(t)) for t in token], pa.string()),
            "n": pa.array(n),
            "mean_cos": pa.array(1 - mean),
            "sd_cos": pa.array(np.sqrt(np.maximum(squares / n - mean**2, 0))),
        }
    )
    write_table(table, run.folder / AFFECTED)


@dataclass(frozen=True)
class Screen:
    """A finished screen: its folder and what its manifest says."""

    folder: Path
    manifest: dict[str, Any]

    def table(self) -> pa.Table:
        """One row per cell and edit (see `screen_table`)."""
        return _read(self.folder / SCREEN)

    def affected(self) -> pa.Table:
        """One row per perturbed target and affected gene. OutputError when the screen was run without --affected."""
        if not (self.folder / AFFECTED).exists():
            raise OutputError(f"{self.folder} has no {AFFECTED}: run the screen with --affected")
        return _read(self.folder / AFFECTED)

    def symbols(self) -> dict[str, str]:
        """`genes` as in the table -> symbols joined by +."""
        t = _read(self.folder / EDITS)
        return dict(zip(t["genes"].to_pylist(), t["symbols"].to_pylist(), strict=True))


def read_screen(folder: str | os.PathLike) -> Screen:
    """Open a results folder. OutputError when it is none, or its run has not finished."""
    if not Path(folder).is_dir():
        raise InputError(f"no results folder {folder}")
    run = ShardedRun.read(folder)
    if not run.complete:
        raise OutputError(f"the screen in {folder} has not finished: give the same rankcell perturb command again to go on")
    return Screen(Path(folder), run.manifest)


def _read(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as e:
        raise InputError(f"{path} cannot be read: {e}") from e
