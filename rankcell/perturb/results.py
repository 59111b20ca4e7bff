"""The tables of a screen: their schema, the shards they are made of, and how they are read back."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.errors import InputError, OutputError
from rankcell.perturb.affected import AffectedRows, AffectedSums
from rankcell.perturb.edits import EditPlan
from rankcell.perturb.engine import Scored
from rankcell.store import ShardedRun, atomic_path
from rankcell.tokens.tokenset import TokenSet
from rankcell.vocab import Vocabulary

SCREEN, CELLS, EDITS, STATES = "screen.parquet", "cells.parquet", "edits.parquet", "states.parquet"
AUDIT, AUDIT_CELLS, SHORT = "audit.parquet", "audit_cells.parquet", "short_cells.txt"
EPISTASIS = "epistasis.parquet"
AFFECTED = {"mean": "affected.parquet", "top": "affected_top.parquet", "raw": "affected_raw.parquet"}
ROW_GROUP = 131_072  # rows at least; a row group holds whole cells
_CELLS = 50_000  # cells written at once
_KEYS = 20_000_000  # pairs of perturbed and affected gene that are added up at once


class Names:
    """The texts of a plan's targets, of which tables are made."""

    def __init__(self, plan: EditPlan, vocab: Vocabulary):
        self.kind = plan.kind
        self.edits, self.genes = pa.array(plan.ids(vocab), pa.string()), pa.array(plan.names(vocab), pa.string())
        self.tokens = pa.array([vocab.describe_token(t) for t in range(vocab.n_ids)], pa.string())
        self.n_ids = vocab.n_ids


def screen_table(scored: Scored, *, cell_ids: Sequence[str], names: Names) -> pa.Table:
    """One row per cell and edit: cell_id, edit, kind, genes, rank, n_tokens, then the scores (NaN as null).

    `rank`: of the first gene before the edit, 0 = top, null when the cell lacks it; `n_tokens`: length of the cell's row
    before the edit, special tokens included. Of the fast method, before the scores: `exact` and, where there are scores in place,
    `exact_in_place`, whether these were run and not predicted.
    """
    target = pa.array(scored.target)
    columns = {
        "cell_id": pa.array(cell_ids, pa.string()).take(pa.array(scored.cell)),
        "edit": names.edits.take(target),
        "kind": pa.array([names.kind] * len(target), pa.string()),
        "genes": names.genes.take(target),
        "rank": pa.array(scored.rank.astype(np.int32), mask=scored.rank < 0),
        "n_tokens": pa.array(scored.n_tokens.astype(np.int32)),
    }
    columns |= {f"exact{which}": pa.array(v) for which, v in getattr(scored, "exact", {}).items()}
    return pa.table(columns | {name: numbers(v) for name, v in scored.scores.items()})


def numbers(values: np.ndarray) -> pa.Array:
    """NaN as null."""
    return pa.array(values, pa.float64(), from_pandas=True)


def affected_rows_table(rows: AffectedRows, table: pa.Table, names: Names) -> pa.Table:
    """One row per edit of `table` (see `screen_table`) and gene that it affects: cell_id, edit, genes, affected, cos."""
    edit, token, shift = rows.rows()
    at = pa.array(edit)
    columns = {name: table[name].combine_chunks().take(at) for name in ("cell_id", "edit", "genes")}
    return pa.table(columns | {"affected": names.tokens.take(pa.array(token)), "cos": pa.array(1 - shift.astype(np.float64))})


def sums_table(sums: AffectedSums) -> pa.Table:
    key, n, total, squares = sums.reduce()
    return pa.table({"key": key, "n": n, "sum": total, "squares": squares})


def write_table(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    with atomic_path(path, force=True) as part:
        pq.write_table(table, part)


def write_cells(tokens: TokenSet, rows: np.ndarray, path: Path) -> None:
    """cells.parquet: cell_id, n_tokens, n_genes and the cell columns that the tokens carry (`obs_...` where one has such a name)."""
    import pyarrow.parquet as pq

    ids, obs, writer = tokens.cell_ids, tokens.table.select(tokens.obs_columns), None
    with atomic_path(path, force=True) as part:
        try:
            for a in range(0, len(rows), _CELLS):
                at = rows[a : a + _CELLS]
                columns = {"cell_id": pa.array([ids[i] for i in at], pa.string())}
                columns |= {"n_tokens": pa.array(tokens.lengths[at]), "n_genes": pa.array(tokens.n_genes[at])}
                held = obs.slice(int(at[0]), int(at[-1] - at[0]) + 1).take(pa.array(at - at[0]))
                table = pa.table(columns | {f"obs_{n}" if n in columns else n: held[n].combine_chunks() for n in obs.column_names})
                writer = writer or pq.ParquetWriter(part, table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()


def join_tables(paths: Sequence[Path], out: Path, change: Callable[[int, pa.Table], pa.Table] = lambda _, table: table) -> int:
    """One table of many, in a stream; the number of rows. Neighbouring small ones share a row group.

    change
        (number of the table, table) -> what becomes of it.
    """
    import pyarrow.parquet as pq

    held: list[pa.Table] = []
    n_rows = n_held = 0
    schema = change(0, pq.read_table(paths[0])).schema
    with atomic_path(out, force=True) as part:
        with pq.ParquetWriter(part, schema) as writer:
            for number, path in enumerate(paths):
                held.append(change(number, pq.read_table(path)))
                n_held += len(held[-1])
                if n_held >= ROW_GROUP or number == len(paths) - 1:
                    writer.write_table(pa.concat_tables(held), row_group_size=max(1, n_held))
                    n_rows, n_held, held = n_rows + n_held, 0, []
    return n_rows


def join_affected(paths: Sequence[Path], out: Path, names: Names) -> None:
    """affected.parquet from shards of sums: edit, genes, affected, n, mean_cos, sd_cos (population), by target and affected token.

    Targets are taken in several goes where there are more pairs than the memory should hold.
    """
    import pyarrow.parquet as pq

    n_pairs = sum(pq.read_metadata(p).num_rows for p in paths)
    n_keys = min(n_pairs, len(names.edits) * names.n_ids)  # what is added up is no more than that
    edges = np.linspace(0, len(names.edits), n_keys // _KEYS + 2).astype(np.int64) * names.n_ids
    writer = None
    with atomic_path(out, force=True) as part:
        try:
            for a, b in zip(edges[:-1], edges[1:], strict=True):
                table = _affected_table(_added_up(paths, int(a), int(b), is_all=len(edges) == 2), names)
                writer = writer or pq.ParquetWriter(part, table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()


Sums = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _added_up(paths: Sequence[Path], a: int, b: int, *, is_all: bool) -> Sums:
    """(key, n, sum, sum of squares) over all shards, keys from `a` to before `b`."""
    import pyarrow.parquet as pq

    filters = None if is_all else [("key", ">=", a), ("key", "<", b)]
    waiting: list[Sums] = []
    for path in paths:
        table = pq.read_table(path, filters=filters)
        waiting.append(tuple(table[c].to_numpy() for c in ("key", "n", "sum", "squares")))
        if sum(len(w[0]) for w in waiting) > _KEYS:
            waiting = [_merged(waiting)]
    return _merged(waiting)


def _merged(parts: Sequence[Sums]) -> Sums:
    keys, n, total, squares = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    keys, where = np.unique(keys, return_inverse=True)
    add: Callable[[np.ndarray], np.ndarray] = lambda values: np.bincount(where, values, len(keys))  # noqa: E731
    return keys, add(n).astype(np.int64), add(total), add(squares)


def _affected_table(sums: Sums, names: Names) -> pa.Table:
    keys, n, total, squares = sums
    target, token = pa.array(keys // names.n_ids), pa.array(keys % names.n_ids)
    mean = total / n
    return pa.table(
        {
            "edit": names.edits.take(target),
            "genes": names.genes.take(target),
            "affected": names.tokens.take(token),
            "n": pa.array(n),
            "mean_cos": pa.array(1 - mean),
            "sd_cos": pa.array(np.sqrt(np.maximum(squares / n - mean**2, 0))),
        }
    )


@dataclass(frozen=True)
class Screen:
    """A finished screen: its folder and what its manifest says."""

    folder: Path
    manifest: dict[str, Any]

    def table(self) -> pa.Table:
        """One row per cell and edit (see `screen_table`)."""
        return _read(self.folder / SCREEN)

    def cells(self) -> pa.Table:
        """One row per screened cell, in order: `cell_id`, `n_tokens`, `n_genes` and the cell columns that the tokens carry."""
        return _read(self.folder / CELLS)

    def edits(self) -> pa.Table:
        """One row per target: `edit`, `kind`, `genes`, `symbols`, `n_cells`, `detection`, `expression`, `mean_rank`."""
        return _read(self.folder / EDITS)

    def affected(self, which: str = "mean") -> pa.Table:
        """One row per perturbed target and affected gene ("mean"), or per edit of a cell and affected gene ("top", "raw").

        OutputError when the screen was run without it.
        """
        path, option = self.folder / AFFECTED[which], "affected" if which == "mean" else f"affected-{which}"
        if not path.exists():
            raise OutputError(f"{self.folder} has no {path.name}: run the screen with --{option}")
        return _read(path)

    def audit(self) -> pa.Table:
        """Of a fast screen, one row per edit that was run exactly: `cell_id`, `edit`, `rank`, `n_tokens`, `sampled` (drawn at random),
        then each score and `<score>_predicted`. OutputError for a screen by the exact method."""
        path = self.folder / AUDIT
        if not path.exists():
            raise OutputError(f"{self.folder} has no {AUDIT}: it was not run with --method fast")
        return _read(path)

    def epistasis(self) -> pa.Table:
        """Pairs of genes of a fast screen: see rankcell.perturb.audit_tables.epistasis_table. OutputError when it was run without."""
        path = self.folder / EPISTASIS
        if not path.exists():
            raise OutputError(f"{self.folder} has no {EPISTASIS}: run the screen with --method fast --epistasis N")
        return _read(path)

    def symbols(self) -> dict[str, str]:
        """`genes` as in the table -> symbols joined by +."""
        t = self.edits()
        return dict(zip(t["genes"].to_pylist(), t["symbols"].to_pylist(), strict=True))


def read_screen(folder: str | os.PathLike) -> Screen:
    """Open a results folder. OutputError when it is none, or its run has not finished."""
    if not Path(folder).is_dir():
        raise InputError(f"no results folder {folder}")
    run = ShardedRun.read(folder)
    if not run.complete:
        parts = " (its parts by --shard are put together with --merge)" if any(Path(folder).glob(".lock-*of*")) else ""
        raise OutputError(f"the screen in {folder} has not finished: give the same rankcell perturb command again to go on{parts}")
    return Screen(Path(folder), run.manifest)


def _read(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as e:
        raise InputError(f"{path} cannot be read: {e}") from e
