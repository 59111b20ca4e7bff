"""Which perturbation moves which gene more than other perturbations move it."""

from typing import Any

import numpy as np

from rankcell.errors import InputError
from rankcell.stats.matched import LEAST, from_neighbours, log_size
from rankcell.stats.units import fdr

COLUMNS = ("edit", "genes", "affected", "n", "mean_cos", "sd_cos")


def rank_affected(table: Any, *, edits: Any = None, min_cells: int = 0) -> Any:
    """See rankcell.tl.rank_affected."""
    import pandas as pd
    from scipy.stats import t

    missing = [c for c in COLUMNS if c not in table]
    if missing:
        raise InputError(f"this is no table of affected genes: it lacks {', '.join(missing)}; give what rc.get.affected_df returns")
    table = table[(table["n"] >= max(min_cells, 1)) & np.isfinite(table["mean_cos"])].reset_index(drop=True)
    table = table.assign(gene=pd.factorize(table["affected"])[0], x=_places(table, edits))
    table = table.sort_values(["gene", "x"], kind="stable", ignore_index=True)
    gene, n, sd = table["gene"].to_numpy(), table["n"].to_numpy(float), table["sd_cos"].to_numpy(float)
    effect = 1 - table["mean_cos"].to_numpy(float)
    found = table[["edit", "genes", "affected", "n"]].assign(effect=effect, sd=sd)
    predicted = from_neighbours(gene, table["x"].to_numpy(), np.nan_to_num(log_size(effect, gene)))
    off = log_size(effect, gene) - predicted
    noise = _cell_noise(effect, sd, n, gene)
    others, spread2 = _spread(off, noise, gene)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = off / np.sqrt(spread2 + noise)
    found["expected"], found["n_others"], found["z"] = np.exp(predicted), others, np.where(np.isfinite(z) & (others >= LEAST), z, np.nan)
    found["p"] = 2 * t.sf(np.abs(found["z"].to_numpy()), np.maximum(others, 1))
    found["fdr"] = fdr(found["p"].to_numpy())
    return found.sort_values(["p", "edit", "affected"], ignore_index=True)


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
