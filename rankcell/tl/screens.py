"""Perturbation screens and their ranking."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankcell import jobs
from rankcell.errors import SettingsError
from rankcell.vocab import Vocabulary


def perturb(
    adata: Any,
    model: Any = "demo",
    *,
    kind: str = "delete",
    genes: str | Sequence[str] = "all",
    group: bool = False,
    any: bool = False,
    start: str | None = None,
    toward: str | Sequence[str] = (),
    states: Any = None,
    readout_compat: str = "rankcell",
    layer: int = -2,
    cells: int | None = None,
    seed: int | None = None,
    affected: bool = False,
    out: str | os.PathLike | None = None,
    vocab: str | os.PathLike | Vocabulary | None = None,
    counts_layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    allow_non_counts: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tokens_per_batch: int | None = None,
    tokens_per_unit: int = 250_000,
) -> Any:
    """Perturb genes in every cell and measure how far the model's states move.

    adata
        An AnnData with raw counts, a TokenSet, or the path of either.
    kind
        `delete` (the gene is removed and the rest closes up) or `overexpress` (moved to the front, inserted if absent).
    genes
        `all` (every gene that a cell shows, one by one), or names (Ensembl ids, symbols): one by one, or all together
        with `group`. With `any`, a group is deleted also where a cell shows only some of it.
    start
        `COL=STATE`: perturb only these cells.
    toward
        `COL=STATE` or several: also measure the movement toward the mean embedding of all cells of that state, cells that are
        perturbed included: name others with `start`.
    states
        Further states: the DataFrame of rc.tl.state_embeddings, or a file (`rankcell.perturb.read_states` says which).
    readout_compat
        `geneformer` keeps the perturbed gene in the cell readout of `toward`, as Geneformer does.
    layer
        Model layer whose states are compared.
    cells, seed
        Only the first `cells` cells, or that many drawn with `seed`.
    affected, out
        `out` keeps the results in a folder, resumable; `affected` adds the table per affected gene to it
        (rc.get.affected_df).

    Returns a DataFrame, one row per cell and edit: `cell_id`, `edit`, `kind`, `genes`, `rank`, `n_tokens`, then scores.
    `cos_genes`: mean cosine, before and after, of the states of all non-perturbed genes; `cos_cell`: cosine of the mean of
    those states; `cos_cls`: of the CLS states. `toward_<state>_<readout>`: cos(after, state) - cos(before, state). Each
    score of a deletion also comes `_in_place`: the gene is not attended to and the others keep their positions.
    `attrs["symbols"]` maps `genes` to symbols.
    """
    options = {k: v for k, v in locals().items() if k not in ("adata", "out")}  # the others are the job's own
    from rankcell.get import screen_df

    if affected and out is None:
        raise SettingsError("affected genes are a table of their own: give `out` and read it with rc.get.affected_df(out)")
    with tempfile.TemporaryDirectory() as folder:
        where = Path(out) if out is not None else Path(folder) / "screen"
        jobs.perturb(adata, where, **options)
        return screen_df(where)


def rank_edits(table: Any, *, by: str | None = None, min_cells: int = 0) -> Any:
    """One row per edit of a screen, strongest effect first.

    table
        What rc.tl.perturb or rc.get.screen_df gives.
    by
        The score to rank by; None: `cos_genes_in_place` where there is one, else `cos_genes`. The effect of a cosine is its
        shift, 1 - cosine; that of `toward_...` is the score itself.
    min_cells
        Leave out edits with fewer cells: the mean of one or two can stand anywhere.

    Returns a DataFrame: `edit`, `kind`, `genes`, `symbols`, `n_cells`, `n_absent` (cells that lacked the gene: overexpression
    inserts it), `mean_rank` (over the others), `effect` (mean over all), `sem` (its standard error; null for one cell), and for an in-place score `plain_effect` (the same with the shift of positions).
    `attrs` holds `by`, and `rank_spearman` and `plain_rank_spearman`: the median over cells of the Spearman correlation of
    the effect with the gene's rank (NaN when no cell has ten edits).
    """
    from rankcell.stats import rank_edits as rank

    return rank(table, by=by, min_cells=min_cells)
