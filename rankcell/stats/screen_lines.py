"""Sentences on a finished screen: what was run, how good a prediction is, what follows mere rank.

The command line prints them at the end of a screen, and rankcell.Screen shows those on ranking and audit.
"""

from pathlib import Path
from typing import Any

import numpy as np

from rankcell.perturb.results.screen_folder import ScreenFolder
from rankcell.scores import in_place_of, scores_in
from rankcell.wording import option

_ROWS = 2_000_000  # of a screen that are read to see how far its scores follow the rank


def screen_lines(screen: ScreenFolder) -> list[str]:
    """Summary lines of a finished screen: its rows, and for a fast one its audit and interactions."""
    m = screen.manifest
    skipped = m["n_skipped"]
    skipped_note = f"; {skipped:,} pairs of cell and target have no row (the cell lacks the gene, or nothing would change)" if skipped else ""
    lines = [f"{screen.folder}/screen.parquet: {m['n_rows']:,} rows for {m['n_cells']:,} cells{skipped_note}"]
    lines += audit_lines(screen)
    return lines + ([_pairs_line(screen)] if "epistasis" in m else [])


def audit_lines(screen: ScreenFolder) -> list[str]:
    """How much of a fast screen was run exactly, and its audit; nothing for a screen by the exact method."""
    return [_run_line(screen), _audit_line(screen.manifest)] if "audit" in screen.manifest else []


def _run_line(screen: ScreenFolder) -> str:
    """The number of values of a fast screen that were run exactly, and advice where that is all of them."""
    names = [n for n in ("exact", "exact_in_place") if n in screen.columns()]
    table = screen.read("screen.parquet", columns=["cell_id", *names])
    run = [table[n].to_numpy() for n in names]
    words = [f"{int(r.sum()):,} {'in place' if n == 'exact_in_place' else 'whole'}" for n, r in zip(names, run, strict=True)]
    line = f"run exactly: {', '.join(words)}, of {len(table):,} edits"
    cells = table.select(["cell_id"]).to_pandas().assign(run=np.logical_and.reduce(run)).groupby("cell_id").run.all()
    less = f" (fewer {option('projections')} cost less)" if screen.manifest["settings"]["projections"] else ""
    all_run = f"; all edits of {int(cells.sum()):,} of {len(cells):,} cells, where to predict them or to draw from them would have saved nothing{less}"
    return line + (all_run if cells.any() else "")


def _pairs_line(screen: ScreenFolder) -> str:
    """How many pairs of genes there are, and how well the interactions of those that were not run are known."""
    pairs = screen.manifest["epistasis"]
    line = f"{screen.folder}/epistasis.parquet: {pairs['pairs']:,} pairs of genes, {pairs['run']:,} of them run"
    if pairs["run"] == pairs["pairs"]:
        return line
    if "spearman" not in pairs:
        return f"{line}; {pairs['judged']:,} drawn at random, too few to judge the others by"
    by = screen.manifest["settings"]["verify_by"]
    judged = f"{pairs['judged']:,} drawn at random, by {by}: Spearman {pairs['spearman']:.2f}, relative error {pairs['relative_error']:.1%}"
    return f"{line}; interactions of the others are predicted, judged by {judged}"


def _audit_line(manifest: dict[str, Any]) -> str:
    """The audit of the score by which the predicted first are verified."""
    by = manifest["settings"]["verify_by"]
    audit = manifest["audit"].get(by, {})
    if not audit.get("n"):
        return f"audit, {by}: no prediction was judged, every edit was run"
    rho, many = (audit["spearman"], " in the median cell") if audit["spearman"] is not None else (audit["spearman_pooled"], " over all")
    parts = [] if rho is None else [f"Spearman {rho:.2f}{many}"]
    if audit["recall"] is not None:
        parts.append(f"recall of the top tenth {audit['recall']:.2f} ({audit['recall_low']:.2f} to {audit['recall_high']:.2f})")
    if audit["relative_error"] is not None:
        parts.append(f"relative error {audit['relative_error']:.1%}")
    parts += [f"recall of the top {k} {v['recall']:.2f} ({v['low']:.2f} to {v['high']:.2f})" for k, v in audit.get("at", {}).items()]
    return f"audit, {by}: {', '.join(parts)}; judged by {audit['n']:,} edits of {audit['cells']:,} cell{'s' if audit['cells'] != 1 else ''} drawn at random"


def rank_lines(screen: ScreenFolder, rows: int = _ROWS) -> tuple[list[str], list[str]]:
    """(lines, warnings) of a finished screen: how many edits `rankcell stats` ranks, and how far each score follows the mere rank of
    the gene in the cell.

    That is the median over cells of the Spearman correlation, of the first `rows` rows; none where no cell has ten edits.
    """
    from rankcell.stats import rank_spearman
    from rankcell.stats.covariates import TOO_CLOSE
    from rankcell.stats.summary import edit_counts, edits_sentence

    edits = [f"to rank: {edits_sentence(edit_counts(screen))}"]
    table = _first_rows(screen.path("screen.parquet"), rows)
    follows = {s: rank_spearman(table, s) for s in scores_in(table.columns, parts=False)}
    known = {s: v for s, v in follows.items() if v == v}
    if not known:
        return edits, []
    subset_note = f", first {len(table):,} rows" if len(table) < screen.manifest["n_rows"] else ""
    follows_rank = ", ".join(f"{s} {v:.2f}" for s, v in known.items())
    lines = [*edits, f"how far each score follows the gene's rank in the cell (median Spearman{subset_note}): {follows_rank}"]
    close = [s for s, v in known.items() if abs(v) > TOO_CLOSE]
    if not close:
        return lines, []
    better = [name for s in close if (name := in_place_of(s, known)) and abs(known[name]) <= TOO_CLOSE]
    advice = f": rank by {', '.join(better)}" if better else ""
    return lines, [f"{', '.join(close)} order{'s' if len(close) == 1 else ''} genes by their position in the cell more than by effect{advice}"]


def _first_rows(path: Path, most: int) -> Any:
    """The first row groups of a screen, which hold whole cells."""
    import pyarrow.parquet as pq

    file, n, groups = pq.ParquetFile(path), 0, []
    for group in range(file.num_row_groups):
        if groups and n + file.metadata.row_group(group).num_rows > most:
            break
        n += file.metadata.row_group(group).num_rows
        groups.append(group)
    table = file.read_row_groups(groups).to_pandas()
    table["rank"] = table["rank"].astype("Int32")
    return table
