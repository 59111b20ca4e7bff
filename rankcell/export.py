"""A screen as other tools take it: AnnData of edits or cells, and rankings as Series."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from rankcell.counts.source import first_names
from rankcell.errors import InputError, SettingsError
from rankcell.scores import Score, scores_in
from rankcell.stats import effect_of
from rankcell.stats.ranking import Ranking
from rankcell.stats.screen_rows import DEFAULT_SCORES


def edits_adata(screen: Any, score: str | Sequence[str] | None) -> Any:
    """AnnData of edits x affected genes where the screen has them and `score` is None, else of edits x scores. See rankcell.get.screen_adata."""
    import anndata as ad

    table = _table(screen)
    all_scores = scores_in(table.columns)
    wanted = all_scores if score is None else [score] if isinstance(score, str) else list(score)
    effects = _mean_effects(table, _known(wanted, all_scores))
    obs = _edits_obs(screen, table)
    if score is None and screen.has("affected.parquet"):
        matrix, layers, var = _affected_matrices(screen, obs.index)
        obs = obs.join(effects.rename(columns=lambda s: f"effect_{s}".replace("/", "|")))
        result = ad.AnnData(matrix, obs=obs, var=var, layers=layers)
        meaning = "mean shift (1 - cosine) of the affected gene; NaN where it was in no cell that was edited"
    else:
        result = ad.AnnData(effects.reindex(obs.index).to_numpy(float), obs=obs, var=_scores_var(effects.columns))
        meaning = "mean effect over the cells that were edited; NaN where there is none"
    result.uns["rankcell"] = _provenance(screen, meaning)
    return result


def cells_adata(screen: Any, score: str | Sequence[str] | None) -> Any:
    """AnnData of cells x edits, the effect of one score, NaN where a cell was not edited. See rankcell.get.screen_adata."""
    import anndata as ad

    if score is not None and not isinstance(score, str):
        raise SettingsError("cells x edits hold one score: name one, or ask for each by itself")
    table = _table(screen)
    all_scores = scores_in(table.columns)
    default = next((s for s in DEFAULT_SCORES if s in all_scores), "cos_genes")
    (score,) = _known([score or default], all_scores)
    obs, var = _cells_obs(screen, table), _edits_obs(screen, table)
    row, column = obs.index.get_indexer(table["cell_id"]), var.index.get_indexer(table["edit"])
    matrix, rank = (np.full((len(obs), len(var)), np.nan, dtype) for dtype in (np.float64, np.float32))
    matrix[row, column] = np.asarray(effect_of(table, score), float)
    rank[row, column] = table["rank"]
    layers = {"rank": rank}
    flag = "exact_in_place" if Score.parse(score).is_in_place and "exact_in_place" in table else "exact"
    if flag in table:
        layers["exact"] = np.full(matrix.shape, np.nan, np.float32)
        layers["exact"][row, column] = table[flag]
    result = ad.AnnData(matrix, obs=obs, var=var, layers=layers)
    result.uns["rankcell"] = _provenance(screen, f"effect of {score}; NaN where the cell was not edited") | {"score": score}
    return result


def _table(screen: Any) -> Any:
    """The rows, ranks as float64 (NaN where the cell lacks the gene), which every store can write."""
    table = screen.table().to_pandas()
    return table.assign(rank=table["rank"].to_numpy(np.float64, na_value=np.nan))


def _known(requested: Sequence[str], there: Sequence[str]) -> list[str]:
    for score in requested:
        if score not in there:
            raise SettingsError(f"the screen has no score '{score}'; it has {', '.join(there) or 'none'}")
    return list(dict.fromkeys(requested))


def _mean_effects(table: Any, scores: Sequence[str]) -> Any:
    """Mean effects [edits, scores], in the order in which the table names the edits."""
    import pandas as pd

    work = pd.DataFrame({s: np.asarray(effect_of(table, s), float) for s in scores})
    return work.groupby(table["edit"].to_numpy(), sort=False).mean()


def _edits_obs(screen: Any, table: Any) -> Any:
    """The obs of edits: edits.parquet by edit id with cell counts and mean ranks of the table; all targets, also those that no cell has."""
    obs = screen.edits().to_pandas().set_index("edit", drop=True)
    grouped = table.groupby("edit", sort=False)
    known = {"n_cells": grouped["cell_id"].nunique(), "mean_rank": grouped["rank"].mean()}
    for name, values in known.items():
        if name not in obs:
            obs[name] = values.reindex(obs.index)
    obs["n_cells"] = obs["n_cells"].fillna(0).astype(np.int64)
    obs.index = obs.index.astype(str)
    obs.index.name = None
    return obs


def _cells_obs(screen: Any, table: Any) -> Any:
    import pandas as pd

    if screen.has("cells.parquet"):
        obs = screen.cells().to_pandas().set_index("cell_id")
        for name in obs.select_dtypes("object"):
            obs[name] = obs[name].astype("category")
    else:  # a screen of an earlier version
        lengths = table.drop_duplicates("cell_id").set_index("cell_id")["n_tokens"]
        obs = pd.DataFrame({"n_tokens": lengths})
    obs.index = obs.index.astype(str)
    obs.index.name = None
    return obs


def _affected_matrices(screen: Any, edits: Any) -> tuple[np.ndarray, dict[str, np.ndarray], Any]:
    """(mean shift, {n, sd}, genes), [edits, affected genes in order of their ids]; float32 and int32, since there may be 20,000 x 20,000."""
    import pandas as pd

    from rankcell.report.screen_view import open_tables

    affected = screen.affected().to_pandas()
    genes = pd.Index(sorted(affected["affected"].unique()), dtype=object)
    at = edits.get_indexer(affected["edit"]), genes.get_indexer(affected["affected"])
    shift, sd = (np.full((len(edits), len(genes)), np.nan, np.float32) for _ in range(2))
    n = np.zeros((len(edits), len(genes)), np.int32)
    shift[at], sd[at], n[at] = 1 - affected["mean_cos"].to_numpy(float), affected["sd_cos"], affected["n"]
    names = open_tables(screen).gene_names
    return shift, {"n": n, "sd": sd}, pd.DataFrame({"symbol": [names.get(g, g) for g in genes]}, index=genes)


def _scores_var(scores: Sequence[str]) -> Any:
    import pandas as pd

    from rankcell.report.words import words

    return pd.DataFrame({"what": [words(s) for s in scores]}, index=list(scores))


def _provenance(screen: Any, meaning: str) -> dict[str, Any]:
    """The settings that AnnData can write (texts and numbers), and the meaning of X."""
    settings = screen.manifest.get("settings", {})
    return {"X": meaning} | {k: v for k, v in settings.items() if isinstance(v, (str, int, float, bool))}


def ranking(edits: Ranking, *, column: str, names: str) -> Any:
    """See rankcell.get.ranking."""
    ranked = edits.table
    missing = [c for c in (column, names) if c not in ranked]
    if missing:
        advice = "this is the table of a screen: rank it with rc.tl.rank_edits" if {"cell_id", "edit"} <= set(ranked) else ""
        raise SettingsError(f"the ranking has no column '{missing[0]}'; {advice or 'it has ' + first_names([str(c) for c in ranked.columns], 30)}")
    values = ranked[column]
    if values.dtype.kind not in "fiu":
        raise SettingsError(f"the column '{column}' does not hold numbers")
    series = values.astype(float)
    series.index = ranked[names].astype(str).to_numpy()
    series = series[np.isfinite(series.to_numpy())]
    series = series.iloc[np.argsort(-series.abs().to_numpy(), kind="stable")]
    series = series[~series.index.duplicated()]  # of a name that stands for two, the stronger one
    series = series.sort_values(ascending=False, kind="stable")
    return series.rename(edits.by or column if column == "effect" else column)


def open_screen(folder: str | os.PathLike | Any) -> Any:
    """A Screen as it is, or read from its folder. InputError for anything else: a table in memory has no files beside it."""
    from rankcell.perturb import ScreenFolder
    from rankcell.stats.screen_rows import is_table, screen_of

    if isinstance(folder, (str, os.PathLike, ScreenFolder)):
        return screen_of(folder)
    advice = ""
    if hasattr(folder, "obs") and hasattr(folder, "var"):
        advice = "; perturb it first: rc.tl.perturb(adata, ..., out=FOLDER)"
    elif is_table(folder):
        advice = "; a table of rc.tl.perturb is one already: rank it with rc.tl.rank_edits, or perturb with out=FOLDER"
    raise InputError(f"expected the results folder of a screen, or a Screen, found {type(folder).__name__}{advice}")
