"""The tables of a screen: their schema, and the shards that they are made of."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rankcell.errors import InputError, is_out_of_memory
from rankcell.perturb.edits.plan import EditPlan
from rankcell.perturb.exact.scored import Scored
from rankcell.scores import IN_PLACE
from rankcell.store import ShardedRun, atomic_path, seal, seal_damage
from rankcell.store.whole import BLANK, SEAL_KEY
from rankcell.vocab import Vocabulary
from rankcell.wording import command

if TYPE_CHECKING:
    from rankcell.perturb.exact.affected import AffectedRows, AffectedSums

SCREEN, CELLS, EDITS, STATES = "screen.parquet", "cells.parquet", "edits.parquet", "states.parquet"
AUDIT, AUDIT_CELLS, SHORT = "audit.parquet", "audit_cells.parquet", "short_cells.txt"
EPISTASIS = "epistasis.parquet"
AFFECTED = {"mean": "affected.parquet", "top": "affected_top.parquet", "raw": "affected_raw.parquet"}
ROW_GROUP = 131_072  # rows at least; a row group holds whole cells
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


def affected_rows_table(rows: "AffectedRows", table: pa.Table, names: Names) -> pa.Table:
    """One row per edit of `table` (see `screen_table`) and gene that it affects: cell_id, edit, genes, affected, cos."""
    edit, token, shift = rows.rows()
    at = pa.array(edit)
    columns = {name: table[name].combine_chunks().take(at) for name in ("cell_id", "edit", "genes")}
    return pa.table(columns | {"affected": names.tokens.take(pa.array(token)), "cos": pa.array(1 - shift.astype(np.float64))})


_SUMS = ("sum", "squares", "sum_in_place", "squares_in_place")


def sums_table(sums: "AffectedSums", passes: Sequence[str]) -> pa.Table:
    """key, n, sum, squares, and the last two of the shifts in place where the screen has such a pass."""
    key, n, *plain = sums.reduce()
    in_place = sums.reduce(IN_PLACE)[2:] if IN_PLACE in passes else []
    return pa.table({"key": key, "n": n} | dict(zip(_SUMS, (*plain, *in_place), strict=False)))


def write_table(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    with atomic_path(path, force=True) as part:
        pq.write_table(table, part)


def join_tables(
    sources: Sequence[ShardedRun], kind: str, out: Path, change: Callable[[int, pa.Table], pa.Table] = lambda _, table: table
) -> int:
    """One table of the shards of all units, in a stream; the number of rows. Neighbouring small ones share a row group.

    sources
        Where the shards of each unit are.
    change
        (unit, table) -> what becomes of it.
    """
    import pyarrow.parquet as pq

    pending: list[pa.Table] = []
    n_rows = n_pending = 0
    writer = None
    with atomic_path(out, force=True) as part:
        try:
            for unit, source in enumerate(sources):
                pending.append(change(unit, read_shard(source, kind, unit)))
                n_pending += len(pending[-1])
                writer = writer or pq.ParquetWriter(part, pending[0].schema)
                if n_pending >= ROW_GROUP or unit == len(sources) - 1:
                    writer.write_table(pa.concat_tables(pending), row_group_size=max(1, n_pending))
                    n_rows, n_pending, pending = n_rows + n_pending, 0, []
        finally:
            if writer is not None:
                writer.close()
    return n_rows


def join_affected(sources: Sequence[ShardedRun], out: Path, names: Names) -> None:
    """affected.parquet from shards of sums: edit, genes, affected, n, mean_cos, sd_cos (population), of deletions also mean_cos_in_place and
    sd_cos_in_place; by target and affected token.

    Targets are taken in several goes where there are more pairs than the memory should hold.
    """
    import pyarrow.parquet as pq

    n_pairs = sum(len(read_shard(source, "affected_mean", unit, columns=["n"])) for unit, source in enumerate(sources))
    n_keys = min(n_pairs, len(names.edits) * names.n_ids)  # what is added up is no more than that
    edges = np.linspace(0, len(names.edits), n_keys // _KEYS + 2).astype(np.int64) * names.n_ids
    writer = None
    with atomic_path(out, force=True) as part:
        try:
            for a, b in zip(edges[:-1], edges[1:], strict=True):
                table = _affected_table(_added_up(sources, int(a), int(b), is_all=len(edges) == 2), names)
                writer = writer or pq.ParquetWriter(part, table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()


Sums = tuple[np.ndarray, ...]  # key, n, then those of _SUMS that the shards have


def _added_up(sources: Sequence[ShardedRun], a: int, b: int, *, is_all: bool) -> Sums:
    """The sums over all shards, keys from `a` to before `b`."""
    filters = None if is_all else [("key", ">=", a), ("key", "<", b)]
    pending_sums: list[Sums] = []
    for unit, source in enumerate(sources):
        table = read_shard(source, "affected_mean", unit, filters=filters)
        pending_sums.append(tuple(table[c].to_numpy() for c in ("key", "n", *_SUMS) if c in table.column_names))
        if sum(len(w[0]) for w in pending_sums) > _KEYS:
            pending_sums = [_merged(pending_sums)]
    return _merged(pending_sums)


def _merged(parts: Sequence[Sums]) -> Sums:
    keys, n, *sums = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    keys, slots = np.unique(keys, return_inverse=True)
    n, *sums = (np.bincount(slots, values, len(keys)) for values in (n, *sums))
    return keys, n.astype(np.int64), *sums


def _affected_table(sums: Sums, names: Names) -> pa.Table:
    keys, n, *sums = sums
    target, token = pa.array(keys // names.n_ids), pa.array(keys % names.n_ids)
    columns = {"edit": names.edits.take(target), "genes": names.genes.take(target), "affected": names.tokens.take(token), "n": pa.array(n)}
    for which, total, squares in zip(("", IN_PLACE), sums[::2], sums[1::2], strict=False):
        mean = total / n
        columns |= {f"mean_cos{which}": 1 - mean, f"sd_cos{which}": np.sqrt(np.maximum(squares / n - mean**2, 0))}
    return pa.table(columns)


def write_shard(table: pa.Table, run: ShardedRun, kind: str, unit: int) -> Path:
    """Write a part of a table, sealed: `read_shard` knows whether it is this part of this run, and whole."""
    import pyarrow.parquet as pq

    path = run.shard(kind, unit)
    with atomic_path(path, force=True, sweep=False) as part:
        with pq.ParquetWriter(part, table.schema) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({SEAL_KEY: BLANK})
        seal(part, _label(run, path))
    return path


def shard_damage(run: ShardedRun, kind: str, unit: int) -> str | None:
    """Describe the damage of a shard, in words; None when it is as it was written."""
    path = run.shard(kind, unit)
    return seal_damage(path, _label(run, path), required=run.is_sealed)


def read_shard(run: ShardedRun, kind: str, unit: int, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
    """A part of a table. InputError when it is not as it was written."""
    import pyarrow.parquet as pq

    path = run.shard(kind, unit)
    reason: object = shard_damage(run, kind, unit)
    if reason is None:
        try:
            return pq.read_table(path, columns=columns, filters=filters)
        except (OSError, ValueError, KeyError, pa.ArrowException) as e:
            if is_out_of_memory(e):
                raise
            reason = e
    raise InputError(f"{path} is damaged ({first_line(reason)}): delete it and give the {command('perturb')} of {run.folder} again")


def _label(run: ShardedRun, path: Path) -> str:
    return f"{run.manifest['fingerprint']}/{path.name}"


def first_line(reason: object) -> str:
    """What is wrong, on one line."""
    text = str(reason).strip()
    return text.splitlines()[0][:200] if text else type(reason).__name__
