"""Edits ranked by their mean effect, with intervals, tests, and covariates beside them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rankcell.errors import SettingsError
from rankcell.scores import Score, in_place_of
from rankcell.stats.covariates import TOO_CLOSE, follows_rank, partial_spearman
from rankcell.stats.options import RankOptions
from rankcell.stats.prediction import with_prediction_error
from rankcell.stats.ranking import Ranking
from rankcell.stats.replicates import LEAST_REPLICATES, Donors, donors_of, fdr, interval, warn_few
from rankcell.stats.screen_rows import Rows, choose_score, goal_score, is_table, least_cells, read_rows, remarks_of, rows_of, screen_of
from rankcell.stats.work import MODES, Work, check_modes, common_error, means_over
from rankcell.wording import note, option

P_COLUMNS = ("matched_p", "matched_p_peers", "control_p", "zero_p", "vs_p")  # those that have a false discovery rate


def rank_edits(table: Any, **options: Any) -> Any:
    """See rankcell.tl.rank_edits."""
    return edit_ranking(table, RankOptions(**options)).df()


def edit_ranking(table: Any, options: RankOptions = RankOptions()) -> Ranking:
    """See rankcell.tl.rank_edits, whose table has the facts of the ranking in its attrs."""
    modes, donor, against = check_modes(options.mode), options.donor, options.against
    source = _source(table)
    columns = _columns(source)
    by = goal_score(columns, options.score) if "toward" in modes else choose_score(columns, options.score)
    plain = str(Score.parse(by).plain)
    plain = plain if plain != by and plain in columns else None
    rows = _with_unseen(_rows(source, [by] if plain is None else [by, plain]))
    donors = None if donor is None else donors_of(rows.cell_ids, _cells(source, options.cells, donor), donor)
    few = None if donors is None else warn_few(donors)
    if donors is not None and (donors.of_cell < 0).any():
        rows = rows.where(donors.of_cell[rows.cell] >= 0)
    ranked = _base(rows, by, plain, donors)
    n_cells = ranked["n_cells"].to_numpy()
    floor = least_cells(n_cells, options.min_cells)
    keep = n_cells >= floor
    other = None if against is None else _source(against)
    if other is not None and (other is source or _folder(other) == _folder(source) != ""):
        note(f"{option('against')} is this screen itself: every difference is 0")
    work = Work(
        rows=rows,
        score=by,
        base=ranked,
        keep=keep,
        donors=donors,
        seed=options.seed,
        controls=None if options.controls is None else control_edits(rows, options.controls),
        other=None if other is None else _rows(other, [choose_score(_columns(other), by)]),
    )
    ranked = ranked.assign(**{name: values for m in modes for name, values in MODES[m](work).items()})[keep]
    ranked = _with_fdr(ranked).sort_values(["effect", "edit"], ascending=[False, True], ignore_index=True)
    facts: dict[str, Any] = {"by": by, "mode": modes, "seed": options.seed, "rank_spearman": follows_rank(rows, by)}
    if plain is not None:
        facts["plain_rank_spearman"] = follows_rank(rows, plain)
    facts["predictors"] = partial_spearman(ranked)
    facts |= _counts(rows, n_cells, floor)
    if by in rows.predicted:
        facts |= {"method": "fast", "prediction": rows.predicted[by].facts}
    if donors is not None:
        facts |= {"donor": donor, "donors": list(donors.names), "few_donors": few}
    facts |= {"without_p": _without_p(ranked)} | remarks_of(source)
    _warn_position(facts["rank_spearman"], by, columns)
    return Ranking(ranked, facts)


def _with_unseen(rows: Rows) -> Rows:
    """Append the edits that no cell has to the edits of the rows."""
    import pandas as pd

    if rows.unseen is None or not len(rows.unseen):
        return rows
    edits = pd.concat([rows.edits, rows.unseen.astype(rows.edits.dtypes)], ignore_index=True)
    predicted = {score: fast.with_more_edits(len(rows.unseen)) for score, fast in rows.predicted.items()}
    return replace(rows, edits=edits, predicted=predicted)


def _counts(rows: Rows, n_cells: np.ndarray, floor: int) -> dict[str, Any]:
    """Counts behind the table: edits of the screen, edits dropped for being in fewer than `floor` cells, screened cells."""
    screened = rows.n_screened or len(rows.cell_ids)
    known = "screen" if rows.n_screened else "table"  # of a table alone it is not known which other cells were screened
    few = n_cells < floor
    counts = {"min_cells": floor, "edits": len(n_cells), "left_out": int(few.sum()), "in_no_cell": int((n_cells == 0).sum())}
    return counts | {"screened_cells": screened, "screened_cells_from": known}


def _without_p(ranked: Any) -> int:
    """Number of edits without p, being in too few cells or donors; a warning where that is all of them."""
    over = "donors" if "n_donors" in ranked else "cells"
    few = (ranked[f"n_{over}"] < LEAST_REPLICATES) & ranked["effect"].notna()
    if len(few) and few.all() and any(c in ranked for c in P_COLUMNS):
        signs = ", but for those of signs of donors" if over == "donors" else ""
        note(f"no edit is in {LEAST_REPLICATES} {over} or more: there is no p{signs}")
    return int(few.sum())


def _base(rows: Rows, by: str, plain: str | None, donors: Donors | None) -> Any:
    """Estimates per edit, a row each in the order of the rows: identity, mean effect, interval, covariates."""
    import pandas as pd

    n_edits, effect, fast = len(rows.edits), rows.effect(by), rows.predicted.get(by)
    m = means_over(rows, effect, donors)
    m = m if fast is None else m.with_common(*common_error(rows, by, effect, fast.scale, donors))
    shown = np.isfinite(rows.rank)
    n_shown, n_rows = (np.bincount(e, minlength=n_edits) for e in (rows.edit[shown], rows.edit))
    with np.errstate(invalid="ignore"):
        mean_rank = np.bincount(rows.edit[shown], rows.rank[shown], n_edits) / n_shown
        columns = {
            **{c: rows.edits[c] for c in ("edit", "kind", "genes", "symbols")},
            "n_cells": np.bincount(rows.edit[np.isfinite(effect)], minlength=n_edits),
            "n_absent": n_rows - n_shown,
            **({} if fast is None else {"n_exact": np.bincount(rows.edit[fast.exact & np.isfinite(effect)], minlength=n_edits)}),
            "mean_rank": mean_rank,
            "effect": m.mean,
            "sem": np.sqrt(m.var_of_mean),
            **({} if fast is None else {"prediction_se": np.where(np.isfinite(m.mean), np.sqrt(m.common), np.nan)}),
        }
    if plain is not None:
        columns["plain_effect"] = means_over(rows, rows.effect(plain), donors).mean
    if donors is not None:
        columns["n_donors"] = m.n
    columns["ci_low"], columns["ci_high"] = interval(m)
    columns["detection"] = _detection(rows, n_shown)
    if "expression" in rows.edits:
        columns["expression"] = rows.edits["expression"]
    return pd.DataFrame(columns)


def _detection(rows: Rows, n_shown: np.ndarray) -> np.ndarray:
    """Share of the screened cells that hold the genes: from the screen's own table of edits, else as the rows have it."""
    counted = n_shown / max(1, rows.n_screened or len(rows.cell_ids))
    if "detection" not in rows.edits:
        return counted
    known = rows.edits["detection"].to_numpy(float)
    return np.where(np.isfinite(known), known, counted)


def _with_fdr(ranked: Any) -> Any:
    """Insert the false discovery rate (Benjamini and Hochberg) beside each column of p."""
    for name in [c for c in P_COLUMNS if c in ranked]:
        ranked.insert(ranked.columns.get_loc(name) + 1, name.replace("_p", "_fdr", 1), fdr(ranked[name].to_numpy(float)))
    return ranked


def _warn_position(follows: float, by: str, columns: Sequence[str]) -> None:
    if abs(follows) > TOO_CLOSE:
        better = " Rank by its _in_place counterpart." if in_place_of(by, columns) else ""
        note(
            f"'{by}' follows the gene's rank in the cell (median Spearman {follows:.2f}): it orders genes by "
            f"position more than by effect.{better}"
        )


def rank_spearman(table: Any, score: str) -> float:
    """Median over cells of the Spearman correlation of the effect with the rank (0 = top); NaN when no cell has 10 edits."""
    return follows_rank(rows_of(table, [score]), score)


def control_edits(rows: Rows, controls: Sequence[str]) -> np.ndarray:
    """Codes of the edits named by Ensembl id, symbol or edit id. SettingsError when none is in the screen; a warning for some."""
    places: dict[str, list[int]] = {}
    for column in ("symbols", "genes", "edit"):
        for i, name in enumerate(rows.edits[column].astype(str)):
            places.setdefault(name, []).append(i)
    names = list(dict.fromkeys(controls))
    if not all(isinstance(n, str) for n in names):
        raise SettingsError(f"{option('controls')}: expected names of genes, found {next(n for n in names if not isinstance(n, str))!r}")
    absent = [n for n in names if n not in places]
    listed = ", ".join(absent[:5]) + (f" and {len(absent) - 5:,} more" if len(absent) > 5 else "")
    if len(absent) == len(names):
        raise SettingsError(
            f"none of the controls is an edit of this screen ({listed or 'no names were given'}): screen them with the others"
        )
    if absent:
        note(f"{len(absent):,} of {len(names):,} controls are not in the screen: {listed}")
    return np.unique([i for n in names if n in places for i in places[n]])


# Tables and folders


def _source(source: Any) -> Any:
    """A Screen for what names a results folder, else the table as it is."""
    return source if is_table(source) else screen_of(source)


def _folder(source: Any) -> str:
    """The results folder of a Screen; "" of a table."""
    import os

    return os.path.realpath(source.folder) if hasattr(source, "folder") else ""


def _columns(source: Any) -> list[str]:
    return [str(c) for c in source.columns] if is_table(source) else source.columns()


def _rows(source: Any, scores: Sequence[str]) -> Rows:
    return with_prediction_error(rows_of(source, scores) if is_table(source) else read_rows(source, scores), source)


def _cells(source: Any, cells: Any, donor: str) -> Any:
    """Resolve the table of cells: `cells`, else the screen's cells.parquet, or the screen's own table where it has the column."""
    import os

    from rankcell.perturb.results.screen_tables import CELLS
    from rankcell.stats.ranked_tables import read_table

    if isinstance(cells, (str, os.PathLike)):
        return read_table(cells)
    if cells is not None:
        if hasattr(cells, "obs") and hasattr(cells, "var"):
            return cells.obs.rename_axis("cell_id").reset_index()
        if not hasattr(cells, "columns"):
            raise SettingsError(f"{option('cells')}: expected a table of cell_id and '{donor}', or its file; found {type(cells).__name__}")
        return cells
    if is_table(source):
        if donor not in source:
            raise SettingsError(f"the table has no column '{donor}' for donors: give cells, a table of cell_id and '{donor}'")
        return source[["cell_id", donor]].drop_duplicates("cell_id")
    if not source.has(CELLS):
        cells_option = option("cells", placeholder="FILE")
        raise SettingsError(f"{source.folder} has no {CELLS} to take '{donor}' from: give a table of cell_id and '{donor}' ({cells_option})")
    return source.cells().to_pandas()
