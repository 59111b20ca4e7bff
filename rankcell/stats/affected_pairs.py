"""Ranking of pairs of perturbation and affected gene against other perturbations of like rank, without p.

A p from this comparison is not calibrated (benchmarks/calibration.py: its tails are too heavy for untrained models), so there is none.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rankcell.errors import InputError, SettingsError
from rankcell.stats.matched import LEAST, from_neighbours, log_size
from rankcell.stats.ranking import Ranking
from rankcell.stats.screen_rows import is_table, mean_ranks, remarks_of, screen_of
from rankcell.wording import option

COLUMNS = ("edit", "genes", "affected", "n", "mean_cos", "sd_cos")
DIRECTIONS = ("more", "less", "both")
LEAST_CELLS = 5  # of a pair: one of fewer is at the top by chance


def rank_affected(table: Any, **options: Any) -> Any:
    """See rankcell.tl.rank_affected."""
    return affected_ranking(table, **options).df()


def affected_ranking(
    table: Any, *, edits: Any = None, min_cells: int | None = None, direction: str = "more", symbols: Mapping[str, str] | None = None
) -> Ranking:
    """See rankcell.tl.rank_affected. `symbols`: of genes by their ids; None: those of the table."""
    if direction not in DIRECTIONS:
        raise SettingsError(f"direction is '{direction}'; one of {', '.join(DIRECTIONS)}")
    table, edits = _opened(table, edits)
    symbols, remarks = table.attrs.get("symbols", {}) if symbols is None else symbols, remarks_of(table)
    in_place = "mean_cos_in_place" in table
    cos, sd_cos = (f"{c}_in_place" if in_place else c for c in ("mean_cos", "sd_cos"))
    least = LEAST_CELLS if min_cells is None else min_cells
    if len(table) and table["n"].max() < least:
        most = int(table["n"].max())
        raise SettingsError(
            f"no pair of perturbation and affected gene is seen in {least:,} cells or more; the most is {most:,}: "
            f"screen more cells, or give {option('min_cells', most)}, where single cells decide the order"
        )
    n_pairs = len(table)
    table = table[(table["n"] >= max(least, 1)) & np.isfinite(table[cos])].reset_index(drop=True)
    ranked = _compared(table.assign(mean=table[cos], sd=table[sd_cos]), edits)
    names = {column: [symbols.get(g, g) for g in ranked[column]] for column in ("genes", "affected")}
    ranked.insert(2, "symbols", names["genes"])
    ranked.insert(4, "affected_symbol", names["affected"])
    z = ranked["z"].to_numpy()
    order = {"more": -z, "less": z, "both": -np.abs(z)}[direction]
    wanted = np.isnan(z) | (direction == "both") | (ranked["direction"] == direction).to_numpy(bool)
    ranked = ranked.iloc[np.lexsort((ranked["affected"], ranked["edit"], -ranked["effect"], order))]  # without z: last
    ranked = ranked[wanted[ranked.index]].reset_index(drop=True)
    facts = {"mode": ["affected"], "by": cos, "direction": direction, "min_cells": least, "pairs": n_pairs}
    return Ranking(ranked, facts | remarks)


def _opened(table: Any, edits: Any) -> tuple[Any, Any]:
    """(table of affected genes, table of edits or None), of a results folder too."""
    if not is_table(table):
        screen = screen_of(table)
        table = screen.affected().to_pandas()
        table.attrs |= {"symbols": gene_symbols(screen)} | remarks_of(screen)
        edits = mean_ranks(screen) if edits is None else edits
    missing = [c for c in COLUMNS if c not in table]
    if missing:
        raise InputError(
            f"this is no table of affected genes: it lacks {', '.join(missing)}; give what rc.get.affected_df returns, or the results folder"
        )
    return table, edits


def gene_symbols(screen: Any) -> dict[str, str]:
    """Gene id -> symbol: of the perturbed genes, and of the whole vocabulary where it ships with the package."""
    from rankcell.vocab import Vocabulary, shipped_vocabularies

    folder = shipped_vocabularies().get(screen.manifest.get("settings", {}).get("vocabulary"))
    vocab = None if folder is None else Vocabulary.load(folder)
    known = {} if vocab is None else {g: s for g, s in zip(vocab.genes, vocab.symbols, strict=True) if s}
    return known | screen.symbols()


def _compared(table: Any, edits: Any) -> Any:
    """Compare each pair with the other perturbations of like rank of the same gene: effect, expected, z and direction.

    z is the smaller of two: how far the pair stands out among the gene's other perturbations (on the log scale), and how sure its
    own cells are of the difference (effect - expected over its standard error), so that one cell alone makes no finding.
    """
    import pandas as pd

    table = table.assign(gene=pd.factorize(table["affected"])[0], x=_places(table, edits))
    table = table.sort_values(["gene", "x"], kind="stable", ignore_index=True)
    gene, n, sd = table["gene"].to_numpy(), table["n"].to_numpy(float), table["sd"].to_numpy(float)
    effect = 1 - table["mean"].to_numpy(float)
    predicted = from_neighbours(gene, table["x"].to_numpy(), np.nan_to_num(log_size(effect, gene)))
    off = log_size(effect, gene) - predicted
    noise = _cell_noise(effect, sd, n, gene)
    others, spread2 = _spread(off, noise, gene)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = off / np.sqrt(spread2 + noise)
        own = (effect - np.exp(predicted)) / (sd / np.sqrt(np.maximum(n - 1, 0)))  # 1 where a single cell makes the mean
        z = np.where(np.abs(own) < np.abs(z), own, z)
    z = np.where(np.isfinite(z) & (others >= LEAST), z, np.nan)
    ranked = table[["edit", "genes", "affected", "n"]].assign(effect=effect, sd=sd, expected=np.exp(predicted), n_others=others, z=z)
    ranked.insert(4, "direction", np.select([z > 0, z <= 0], ["more", "less"], "").astype(object))
    return ranked


def _places(table: Any, edits: Any) -> np.ndarray:
    """log(1 + mean rank) of each perturbed gene; all one where it is not known."""
    if edits is None:
        return np.zeros(len(table))
    absent = [c for c in ("edit", "mean_rank") if c not in edits]
    if absent:
        raise InputError(f"the table of edits lacks {', '.join(absent)}: give what rc.tl.rank_edits returns")
    rank = edits.drop_duplicates("edit").set_index("edit")["mean_rank"].astype(float)
    return np.log1p(table["edit"].map(rank).fillna(rank.max() if rank.notna().any() else 0).to_numpy(float))


def _cell_noise(effect: np.ndarray, sd: np.ndarray, n: np.ndarray, gene: np.ndarray) -> np.ndarray:
    """Variance of each log mean over cells: the squared coefficient of variation, pooled over the gene's perturbations, over n."""
    with np.errstate(invalid="ignore", divide="ignore"):
        squares = np.where(effect > 0, n * (sd / effect) ** 2, 0)
        pooled = np.bincount(gene, squares) / np.bincount(gene, n - 1)
    return np.where(np.isfinite(pooled), pooled, 0)[gene] / n


def _spread(off: np.ndarray, noise: np.ndarray, gene: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(number of other perturbations of the gene, variance between them that is not noise), the row itself left out."""
    good = np.isfinite(off)
    n = np.bincount(gene[good], minlength=int(gene.max(initial=-1)) + 1)[gene] - good
    squares = np.where(good, off**2 - noise, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return n, np.maximum((np.bincount(gene, squares)[gene] - squares) / n, 0)
