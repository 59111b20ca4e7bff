"""The tables of an audit: the shards of a unit, their joining, and the facts of the manifest."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.perturb.exact.shift_precision import FEW, spearman
from rankcell.perturb.fast import audit
from rankcell.perturb.fast.effort import pass_of
from rankcell.perturb.fast.epistasis import Interactions
from rankcell.perturb.fast.fast_engine import FastScored
from rankcell.perturb.results.screen_tables import AUDIT, AUDIT_CELLS, EPISTASIS, SHORT, join_tables, numbers, read_shard
from rankcell.scores import Score
from rankcell.store import ShardedRun, atomic_path
from rankcell.vocab import Vocabulary
from rankcell.wording import note, option

_PLACES = ("cell", "row")  # in a shard of the audit, for whoever joins it: number of the cell in the screen, and row in its unit
_PLAIN = ("cell_id", "edit", "rank", "n_tokens")


def drawn(scored: FastScored, which: str) -> np.ndarray:
    """bool [edits]: drawn for the audit of a pass."""
    sampled = scored.sampled
    return sampled[which] if isinstance(sampled, Mapping) else sampled & scored.exact[which]


def audit_table(scored: FastScored, table: pa.Table, *, first_cell: int) -> pa.Table:
    """The edits of a unit that were run exactly in some pass.

    table
        The same as `rankcell.perturb.results.screen_tables.screen_table` gives them.
    first_cell
        Number in the screen of the unit's first cell.
    """
    at = np.flatnonzero(np.logical_or.reduce(list(scored.exact.values())))
    columns = {"cell": pa.array(first_cell + scored.cell[at]), "row": pa.array(at)}
    columns |= {n: table[n].combine_chunks().take(pa.array(at)) for n in _PLAIN}
    by_pass = {which: drawn(scored, which)[at] for which in scored.exact}
    columns["sampled"] = pa.array(np.logical_or.reduce(list(by_pass.values())))
    if len(by_pass) > 1:
        columns |= {f"sampled{which or '_whole'}": pa.array(v) for which, v in by_pass.items()}
    for score in scored.scores:
        if score in scored.predicted:
            run = np.where(scored.exact[pass_of(score)], scored.scores[score], np.nan)[at]
            columns |= {score: numbers(run), f"{score}_predicted": numbers(scored.predicted[score][at])}
    return pa.table(columns)


def audit_cells_table(scored: FastScored, *, cell_ids: Sequence[str], settings: Mapping[str, Any]) -> pa.Table:
    """One row per cell of a unit and score: rankcell.perturb.fast.audit.judge, and whether the cell is `short` of `min_recall`."""
    cells = [np.flatnonzero(scored.cell == c) for c in range(len(cell_ids))]
    scores = [s for s in scored.scores if s in scored.predicted]
    ids, names, records = [], [], []
    for cell, at in zip(cell_ids, cells, strict=True):
        for score in scores if len(at) else ():
            which = pass_of(score)
            exact = np.where(scored.exact[which], scored.scores[score], np.nan)[at]
            values = (Score.parse(score).effect(v) for v in (scored.predicted[score][at], exact))
            depth = settings["verify_top"] if score == settings["verify_by"] else 0
            ids.append(cell)
            names.append(score)
            records.append(audit.judge(*values, drawn(scored, which)[at], depth=depth))
    judgements = audit.columns(records, (*audit.REPORTED, *audit.SUMMANDS))
    least = settings["min_recall"]
    by = np.array([n == settings["verify_by"] for n in names], bool)
    short = np.zeros(len(records), bool) if least is None else by & (judgements["recall"] < least)
    plain = {k: pa.array(v, from_pandas=True) for k, v in judgements.items() if k != "places"}
    plain["places"] = pa.array(judgements["places"], pa.list_(pa.int32()))
    reported, summands = ({k: plain[k] for k in names} for names in (audit.REPORTED, audit.SUMMANDS))
    return pa.table(
        {"cell_id": pa.array(ids, pa.string()), "score": pa.array(names, pa.string())} | reported | {"short": pa.array(short)} | summands
    )


def epistasis_table(interactions: Interactions, *, cell_ids: Sequence[str], vocab: Vocabulary) -> pa.Table:
    """One row per pair of genes of a cell: cell_id, first, second (gene ids), symbols, exact, sampled; of each score that of both,
    `<score>_interaction` and `<score>_interaction_predicted` (without running the pair)."""
    tokens = np.unique(np.concatenate([interactions.first, interactions.second]))
    first, second = (np.searchsorted(tokens, t) for t in (interactions.first, interactions.second))
    ids = np.array([vocab.describe_token(int(t)) for t in tokens], object)
    labels = np.array([vocab.label(int(vocab.gene_of_token[t])) for t in tokens], object)
    columns = {
        "cell_id": pa.array(cell_ids, pa.string()).take(pa.array(interactions.cell)),
        "first": pa.array(ids[first], pa.string()),
        "second": pa.array(ids[second], pa.string()),
        "symbols": pa.array([f"{a}+{b}" for a, b in zip(labels[first], labels[second], strict=True)], pa.string()),
        "exact": pa.array(interactions.exact),
        "sampled": pa.array(interactions.sampled),
    }
    for score, values in interactions.values.items():
        columns |= {score: numbers(interactions.joint[score]), f"{score}_interaction": numbers(values)}
        columns[f"{score}_interaction_predicted"] = numbers(interactions.predicted[score])
    return pa.table(columns)


def join_audit(run: ShardedRun, sources: Sequence[ShardedRun], verified: Mapping[int, pa.Table], out: Path) -> dict[str, Any]:
    """Write audit.parquet, audit_cells.parquet and, with `min_recall`, short_cells.txt; returns their facts for the manifest.

    verified
        {unit: rows that were run once the units were there} (rankcell.perturb.run.verify).
    out
        The folder to write them into.
    """
    import pyarrow.compute as pc

    def change(unit: int, table: pa.Table) -> pa.Table:
        if unit in verified:
            table = _with_verified(table, verified[unit], read_shard(sources[unit], "screen", unit))
        return table.drop_columns(list(_PLACES))

    join_tables(sources, "audit", out / AUDIT, change)
    join_tables(sources, "audit_cells", out / AUDIT_CELLS, lambda _, table: table.drop_columns(list(audit.SUMMANDS)))
    settings = run.manifest["settings"]
    if settings.get("epistasis"):
        join_tables(sources, "epistasis", out / EPISTASIS)
    short, columns_of_score = [], {}
    for unit, source in enumerate(sources):
        table = read_shard(source, "audit_cells", unit)
        by = table.filter(pc.equal(table["score"], settings["verify_by"]))
        short += by.filter(by["short"])["cell_id"].to_pylist()
        _gather(columns_of_score, table, settings["verify_by"])
    depth = {settings["verify_by"]: settings["verify_top"]}
    facts = {"audit": {score: audit.summarize(_under(columns), verify_top=depth.get(score, 0)) for score, columns in columns_of_score.items()}}
    if settings["min_recall"] is not None:
        with atomic_path(out / SHORT, force=True) as part:
            part.write_text("".join(f"{cell}\n" for cell in short), encoding="utf-8")
        facts["n_short"] = len(short)
    if settings.get("epistasis"):
        facts["epistasis"] = _pair_facts(out / EPISTASIS, f"{settings['verify_by']}_interaction")
    return facts


def _pair_facts(path: Path, score: str) -> dict[str, Any]:
    """Facts of the pairs for the manifest: their number and how many were run; of those drawn at random, agreement of predicted and exact."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["exact", "sampled", score, f"{score}_predicted"])
    drawn = table["sampled"].to_numpy()
    exact, predicted = (table[n].to_numpy()[drawn] for n in (score, f"{score}_predicted"))
    facts: dict[str, Any] = {"pairs": len(table), "run": int(table["exact"].to_numpy().sum()), "judged": int(drawn.sum())}
    size = float(np.sqrt(np.mean(exact**2))) if drawn.any() else 0.0
    if len(exact) >= FEW and size:
        facts["spearman"] = round(spearman(exact, predicted), 4)
        facts["relative_error"] = round(float(np.sqrt(np.mean((exact - predicted) ** 2))) / size, 4)
    return facts


def _gather(columns_of_score: dict[str, dict[str, list[np.ndarray]]], table: pa.Table, verify_by: str) -> None:
    """Append a unit's judgements to the columns of each score; `weight` and `places` only of the score that edits were verified by."""
    import pyarrow.compute as pc

    for score in table["score"].unique().to_pylist():
        here = table.filter(pc.equal(table["score"], score))
        names = [n for n in (*audit.REPORTED, *audit.SUMMANDS) if score == verify_by or n not in ("weight", "places")]
        columns = columns_of_score.setdefault(score, {n: [] for n in names})
        for n in names:
            columns[n].append(here[n].to_numpy(zero_copy_only=False))


def _under(columns: Mapping[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    return {k: np.concatenate(v) for k, v in columns.items()}


def _with_verified(table: pa.Table, verified: pa.Table, screen: pa.Table) -> pa.Table:
    """Insert the verified rows into a unit's audit, in the order of the screen."""
    rows, audited_rows = verified["row"].to_numpy(), table["row"].to_numpy()
    is_new = ~np.isin(rows, audited_rows)
    new = pa.array(rows[is_new])
    before = screen.take(new)
    columns = {}
    for name in table.column_names:
        if name in _PLACES:
            columns[name] = verified[name].combine_chunks().filter(pa.array(is_new))
        elif name in _PLAIN:
            columns[name] = before[name].combine_chunks()
        elif name.startswith("sampled"):
            columns[name] = pa.array(np.zeros(len(new), bool))
        elif name.endswith("_predicted"):
            columns[name] = before[name.removesuffix("_predicted")].combine_chunks()
        else:
            columns[name] = verified[name].combine_chunks().filter(pa.array(is_new))
            table = set_values(table, name, np.searchsorted(audited_rows, rows[~is_new]), verified[name].to_numpy()[~is_new])
    joined = pa.concat_tables([table, pa.table(columns, schema=table.schema)])
    return joined.take(pa.array(np.argsort(joined["row"].to_numpy(), kind="stable"))).combine_chunks()


def set_values(table: pa.Table, name: str, at: np.ndarray, values: np.ndarray) -> pa.Table:
    """Replace the values of a column of `table` in the rows `at`."""
    new_values = table[name].to_numpy().copy()
    new_values[at] = values
    column = numbers(new_values) if new_values.dtype.kind == "f" else pa.array(new_values)
    return table.set_column(table.column_names.index(name), table.schema.field(name), column)


def warn_if_short(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Warn, once, when the screen or some of its cells fall short of `min_recall`."""
    settings = manifest["settings"]
    least, n, by = settings["min_recall"], manifest.get("n_short", 0), settings["verify_by"]
    recall = manifest["audit"].get(by, {}).get("recall")
    is_short = least is not None and recall is not None and recall < least
    if not n and not is_short:
        return
    parts = []
    if is_short:
        parts.append(f"the recall of the top tenth by {by} is {recall:.2f} in the audit, below the {least:g} asked for")
    if n:
        parts.append(
            f"{n:,} of {manifest['n_cells']:,} cells are expected to stay below a recall of {least:g}: run these exactly with "
            f"{option('method', 'exact')} and {option('only', folder / SHORT)} (in a folder of their own)"
        )
    else:
        parts.append(f"run it exactly with {option('method', 'exact')}")
    note("; ".join(parts))
