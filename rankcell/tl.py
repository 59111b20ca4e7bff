"""Tools counter: embeddings into an AnnData, perturbation screens and their ranking, in scanpy's manner."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankcell import jobs
from rankcell.errors import InputError, SettingsError
from rankcell.vocab import Vocabulary

__all__ = ["embed", "perturb", "rank_edits"]


def embed(
    adata: Any,
    model: Any = "demo",
    *,
    pool: str | Sequence[str] = "mean",
    layer: int | Sequence[int] = -2,
    key_added: str = "X_rankcell",
    vocab: str | os.PathLike | Vocabulary | None = None,
    counts_layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    allow_non_counts: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tokens_per_batch: int | None = None,
) -> None:
    """Embed every cell with a rank-encoding model, straight from its counts.

    adata
        An AnnData with raw counts.
    model
        A checkpoint folder, or `demo`.
    pool
        `mean` (over genes), `cls` (the CLS token) or `first` (the top-ranked gene), or several.
    layer
        Model layer, or several: -1 the output of the last block, 0 the embedding layer. (Geneformer's `emb_layer` 0
        and -1 are -1 and -2 here.)
    key_added
        Name in obsm; with several outputs each is `<key_added>_<pool>_layer<n>`.
    vocab
        Completes a checkpoint that carries no vocabulary.
    counts_layer, raw, gene_column, allow_non_counts
        As for rc.pp.tokenize (`counts_layer` is its `layer`).
    device, precision, tokens_per_batch
        Where and how the model runs.

    Returns None. Sets `adata.obsm[key_added]` (float32 [cells, width]; NaN for cells without a known gene) and
    `adata.uns["rankcell"]` (model, vocabulary, and the pooling and layer of each output).
    """
    options = {k: v for k, v in locals().items() if k not in ("adata", "key_added")}  # the others are the job's own
    if not hasattr(adata, "obsm"):
        raise InputError(f"rc.tl.embed writes into an AnnData and got {type(adata).__name__}: read the file first, or run rankcell embed")
    from rankcell.embed.outputs import uns_entry

    found = jobs.embed(adata, **options)
    for key, values in found.obsm(key_added).items():
        adata.obsm[key] = values
    adata.uns["rankcell"] = uns_entry(found, key_added)


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
        Further states, from a file (`from rankcell.perturb import read_states` reads it too).
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
