"""Edits ranked by their mean effect, and how far a score merely follows the gene's rank in the cell."""

import warnings
from typing import Any

import numpy as np

from rankcell.errors import RankcellWarning, SettingsError

_LEAST_EDITS = 10
_TOO_CLOSE = 0.9


def effect_of(table: Any, score: str) -> Any:
    """The effect that a score column states: 1 - cosine for `cos_...`, the score itself for `toward_...`."""
    return 1 - table[score] if score.startswith("cos_") else table[score]


def rank_edits(table: Any, *, by: str | None = None, min_cells: int = 0) -> Any:
    """See rankcell.tl.rank_edits."""
    scores = [c for c in table.columns if c.startswith(("cos_", "toward_"))]
    if by is None:
        by = "cos_genes_in_place" if "cos_genes_in_place" in scores else "cos_genes"
    if by not in scores:
        raise SettingsError(f"the table has no score '{by}'; it has {', '.join(scores) or 'none'}")
    plain = by.removesuffix("_in_place")
    work = table[["edit", "kind", "genes", "rank"]].assign(effect=effect_of(table, by), rank=table["rank"].astype(float))
    has_plain = plain != by and plain in scores
    if has_plain:
        work["plain_effect"] = effect_of(table, plain)
    grouped = work.groupby("edit", sort=False)
    ranked = grouped.agg(
        kind=("kind", "first"),
        genes=("genes", "first"),
        n_cells=("effect", "count"),
        n_absent=("rank", lambda r: int(r.isna().sum())),
        mean_rank=("rank", "mean"),
        effect=("effect", "mean"),
        sem=("effect", "sem"),
        **({"plain_effect": ("plain_effect", "mean")} if has_plain else {}),
    ).reset_index()
    symbols = table.attrs.get("symbols", {})
    ranked.insert(3, "symbols", [symbols.get(g, g) for g in ranked.genes])
    ranked = ranked[ranked.n_cells >= min_cells]
    ranked = ranked.sort_values(["effect", "edit"], ascending=[False, True], ignore_index=True)
    ranked.attrs = {"by": by, "rank_spearman": rank_spearman(table, by)}
    if has_plain:
        ranked.attrs["plain_rank_spearman"] = rank_spearman(table, plain)
    if abs(ranked.attrs["rank_spearman"]) > _TOO_CLOSE:
        better = " Rank by its _in_place counterpart." if f"{by}_in_place" in scores else ""
        warnings.warn(
            f"'{by}' follows the gene's rank in the cell (median Spearman {ranked.attrs['rank_spearman']:.2f}): it orders genes by "
            f"position more than by effect.{better}",
            RankcellWarning,
            stacklevel=3,
        )
    return ranked


def rank_spearman(table: Any, score: str) -> float:
    """Median over cells of the Spearman correlation of the effect with the rank (0 = top); NaN when no cell has 10 edits."""
    from scipy.stats import rankdata

    found = []
    for _, cell in table.groupby("cell_id", sort=False):
        effect, rank = effect_of(cell, score).to_numpy(float), cell["rank"].astype(float).to_numpy()
        good = np.isfinite(effect) & np.isfinite(rank)
        if good.sum() >= _LEAST_EDITS and len(np.unique(effect[good])) > 1 and len(np.unique(rank[good])) > 1:
            found.append(np.corrcoef(rankdata(effect[good]), rankdata(rank[good]))[0, 1])
    return float(np.median(found)) if found else float("nan")
