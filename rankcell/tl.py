"""Tools counter: embeddings into an AnnData, perturbation screens and their ranking, in scanpy's manner."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankcell import jobs
from rankcell.errors import InputError, SettingsError
from rankcell.vocab import Vocabulary

__all__ = ["compare_poolings", "embed", "gene_embeddings", "map_labels", "perturb", "rank_bias", "rank_edits", "score_embedding", "state_embeddings"]


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
        A checkpoint folder, a hub name (`owner/repo/folder`), or `demo`.
    pool
        Over the genes of a cell: `mean`, `max`, `min`, `std`, `var`, `median`, `norm`, `parti` (by the PageRank of attention);
        `mean_all` (special tokens too); one token: `cls`, `first` (the top-ranked gene), `position0`. Several at once:
        `mean+var` side by side in one output, `["mean", "cls"]` as two outputs.
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
        Where and how the model runs. Precision "auto" is bf16 where that is faster and the embeddings of some cells keep a
        cosine of 0.9999 with fp32's, else fp32; `uns["rankcell"]["precision_check"]` says what was found.

    Returns None. Sets `adata.obsm[key_added]` (float32 [cells, width]; NaN for cells without a known gene) and
    `adata.uns["rankcell"]` (model, vocabulary and its hash, and pooling and layer of each output, with the columns of each part).
    """
    options = {k: v for k, v in locals().items() if k not in ("adata", "key_added")}  # the others are the job's own
    if not hasattr(adata, "obsm"):
        raise InputError(f"rc.tl.embed writes into an AnnData and got {type(adata).__name__}: read the file first, or run rankcell embed")
    from rankcell.embed.stores import uns_entry

    found = jobs.embed(adata, **options)
    for key, values in found.obsm(key_added).items():
        adata.obsm[key] = values
    adata.uns["rankcell"] = uns_entry(found.result(), key_added)


def state_embeddings(
    adata: Any,
    by: str,
    model: Any = "demo",
    *,
    statistic: str = "mean",
    pool: str | Sequence[str] = "mean",
    layer: int | Sequence[int] = -2,
    vocab: str | os.PathLike | Vocabulary | None = None,
    counts_layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    allow_non_counts: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tokens_per_batch: int | None = None,
) -> Any:
    """The embedding of each category of cells: where a model puts a cell type, a disease, a day.

    adata
        An AnnData with raw counts, a TokenSet, or the path of either.
    by
        The cell column whose categories are the states.
    statistic
        `mean` of the cells' embeddings (in float64), or their exact `median`, dimension by dimension.
    model, pool, layer, vocab, counts_layer, raw, gene_column, allow_non_counts, device, precision, tokens_per_batch
        As for rc.tl.embed.

    Returns a DataFrame, a row per category: `state`, `n_cells`, and a column per output, `<pool>_layer<n>`, of float32 vectors.
    Cells without genes, and cells of no category, are left out. rc.tl.perturb takes it as its `states`.
    """
    options = {k: v for k, v in locals().items() if k != "adata"}  # the others are the job's own
    return jobs.state_embeddings(adata, **options)


def gene_embeddings(
    adata: Any,
    model: Any = "demo",
    *,
    by: str | None = None,
    per_cell: bool = False,
    layer: int = -2,
    vocab: str | os.PathLike | Vocabulary | None = None,
    counts_layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    allow_non_counts: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tokens_per_batch: int | None = None,
) -> Any:
    """Genes in context: the mean state of each gene over the cells that show it, or its state in every cell.

    adata
        An AnnData with raw counts, a TokenSet, or the path of either.
    by
        A cell column: means over the cells of each category instead of over all.
    per_cell
        A row per cell and gene instead of means: memory for cells x genes x width numbers (`rankcell embed --include gene` streams
        them into a file).
    layer, model, vocab, counts_layer, raw, gene_column, allow_non_counts, device, precision, tokens_per_batch
        As for rc.tl.embed.

    Returns an AnnData whose rows are genes and whose X (float32) are their vectors. obs: `gene`, `symbol`, with `by` also
    `group`, and `n` (cells that show it); `layers["sd"]` is the standard deviation over them (of the population: 0 for
    one cell). With `per_cell` obs is `cell_id`, `gene`, `symbol` and `rank` (0 = top).
    """
    options = {k: v for k, v in locals().items() if k != "adata"}  # the others are the job's own
    return jobs.gene_embeddings(adata, **options)


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


def score_embedding(
    adata: Any,
    label: str,
    *,
    key: str | Sequence[str] = "X_rankcell",
    batch: str | None = None,
    k: int = 15,
    folds: int = 5,
    resolution: Sequence[float] = (0.2, 0.5, 1.0),
    seed: int = 0,
) -> Any:
    """How well an embedding keeps the labels of cells together and, with `batch`, mixes the batches.

    adata
        An AnnData with an embedding in obsm.
    label, batch
        obs columns of cell groups and of batches.
    key
        An obsm key, or several.
    k, folds
        Neighbours, and folds of the cross-validation.
    resolution
        Leiden resolutions to try; () leaves `ari` and `nmi` out, which need igraph.
    seed
        Of the folds, the clusters and the samples.

    Returns a DataFrame, a row per key. All distances are cosine.
    `knn_accuracy`: share of cells whose label is the majority of their `k` nearest cells in the other folds (stratified);
    `knn_sd`: its standard deviation over the folds; `knn_balanced`: the mean over labels of each label's share.
    `ari`, `nmi`: adjusted Rand index and normalised mutual information of Leiden clusters and labels, each the best over
    `resolution` (`ari_resolution`, `nmi_resolution` say which): so compare only what was scored with the same list.
    `silhouette`: mean silhouette width of the labels, -1 to 1 (above 10,000 cells on as many, drawn with `seed`).
    `batch_mixing`: neighbours of another batch among the `k` nearest, divided by their number under chance: 1 as mixed as
    random, 0 apart. Batches of other cell types can't reach 1. `batch_silhouette`: 1 - |silhouette of the batch| within
    each label, mean over labels: 1 mixed, 0 apart (Luecken et al. 2022).
    `n_cells` have a label; `n_missing_label` have none and are left out; `n_rare_label` (labels with fewer cells than folds)
    are left out of the cross-validation; `n_without_embedding` (NaN) count as wrong there and are left out elsewhere;
    `n_missing_batch` are left out of the batch scores. `attrs` holds the settings, and `largest_label`: the accuracy of
    always naming the most frequent label.
    """
    options = {k: v for k, v in locals().items() if k not in ("adata", "label")}
    from rankcell.jobs import assess

    return assess.score_embedding(adata, label, **options)


def compare_poolings(
    adata: Any,
    label: str,
    model: Any = "demo",
    *,
    pool: str | Sequence[str] | None = None,
    layer: int | Sequence[int] = (-1, -2),
    batch: str | None = None,
    k: int = 15,
    folds: int = 5,
    resolution: Sequence[float] = (0.2, 0.5, 1.0),
    seed: int = 0,
    n_random: int = 1,
    vocab: str | os.PathLike | Vocabulary | None = None,
    counts_layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    allow_non_counts: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tokens_per_batch: int | None = None,
) -> Any:
    """Every pooling and layer of a model scored against labels, beside PCA and the same model with random weights.

    adata
        An AnnData with raw counts.
    label, batch, k, folds, resolution, seed
        As for rc.tl.score_embedding.
    model, vocab
        As for rc.tl.embed.
    pool
        Poolings; None: all registered ones that the tokens and layers allow.
    layer
        Layers, as for rc.tl.embed.
    n_random
        How many models of the same config with random weights (as transformers initialises them; seeds `seed`, `seed` + 1,
        ...) are scored beside it: what these reach is not due to training.
    counts_layer, raw, gene_column, allow_non_counts
        As for rc.tl.embed.
    device, precision, tokens_per_batch
        Where and how the models run.

    Returns a DataFrame, a row per pooling, layer and model (`source`: "model" or "random weights", with its `seed`) and one for
    "PCA" (50 components of log1p of counts scaled to the median total, on all genes given), best `knn_accuracy` first and
    nothing left out. Columns: `source`, `pool`, `layer`, `seed`, `width`, the scores of rc.tl.score_embedding, and `over_pca` and
    `over_random`: how much more of the cells are right than with PCA, and than with the random models of the same pooling
    and layer; `_se` is the standard error of the difference over the cells (the same cells and folds for all). `attrs`
    holds the settings.
    """
    options = {k: v for k, v in locals().items() if k not in ("adata", "label", "model")}
    from rankcell.jobs import assess

    return assess.compare_poolings(adata, label, model, **options)


def map_labels(
    adata: Any,
    reference: Any,
    label: str,
    *,
    key: str = "X_rankcell",
    k: int = 15,
    metric: str = "cosine",
    key_added: str | None = None,
) -> None:
    """Give cells the labels of their nearest cells in a reference.

    adata, reference
        AnnData with the same kind of embedding in obsm; the reference may be the path of an h5ad. Where both say in
        `uns["rankcell"]` how it was made, another model, vocabulary, pooling or layer is an error.
    label
        An obs column of the reference.
    key
        The obsm key of both.
    k, metric
        Neighbours; `cosine` or `euclidean`.
    key_added
        Name in obs; None: `<label>_mapped`.

    Returns None. Sets `adata.obs[key_added]` (categorical: the label with the most votes among the `k` nearest reference
    cells, of equal ones the nearer), `adata.obs["<key_added>_confidence"]` (the share of the votes that it has, each neighbour
    one vote) and `adata.obs["<key_added>_distance"]`: the share of reference cells that are nearer to their own `k` neighbours,
    on average, than this cell is to its. It is even over 0 to 1 for cells like the reference; at 1 the cell is farther from the
    reference than any cell of it is, and its label says little whatever the confidence. Cells without an embedding
    get no label, confidence 0 and distance NaN. Reference cells without label or embedding are left out, with a warning.
    """
    options = {k: v for k, v in locals().items() if k not in ("adata", "reference", "label")}
    from rankcell.jobs import assess

    assess.map_labels(adata, reference, label, **options)


def rank_bias(
    adata: Any,
    model: Any = "demo",
    *,
    pool: str | Sequence[str] | None = None,
    layer: int | Sequence[int] = -2,
    how: str | Sequence[str] = ("drop", "shuffle", "mask"),
    n_bins: int = 10,
    cells: int | None = 200,
    seed: int = 0,
    vocab: str | os.PathLike | Vocabulary | None = None,
    counts_layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    allow_non_counts: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tokens_per_batch: int | None = None,
) -> Any:
    """Which ranks each pooling looks at: how far it moves when the genes of one rank decile of a cell are taken from it.

    adata
        An AnnData with raw counts, a TokenSet, or the path of either.
    model, vocab
        As for rc.tl.embed.
    pool
        Poolings; None: all registered ones that the tokens and layers allow.
    layer
        Model layer, or several.
    how
        `drop` (the genes are removed and the rest closes up, so that dropping the top decile also moves every later gene to
        another position, and dropping the last none), `shuffle` (the genes change places among themselves) and `mask` (the
        mask token stands in their place, is attended to and counts in the means; all positions are kept).
    n_bins
        Into how many runs, equal to within one gene, a cell's ranked genes are cut. Cells with fewer genes are left out, with a
        warning and in `attrs`.
    cells, seed
        How many cells, drawn with `seed`; None: all. `seed` also draws the shuffles and the random genes.
    counts_layer, raw, gene_column, allow_non_counts
        As for rc.tl.embed.
    device, precision, tokens_per_batch
        Where and how the model runs; `auto` is fp32 here, because shifts can be smaller than what bf16 rounds off.

    Returns a DataFrame: `pool`, `layer`, `how`, `decile` (0 = top), `genes` ("decile"; or "random", `decile` null: the same done
    to n / n_bins genes drawn from all ranks, which tells the place from the number of genes), `shift` (mean over cells of
    1 - cosine to the unedited embedding), `sem` (its standard error), `distance` (mean Euclidean distance, as a share of the
    unedited embedding's length), `between_cells` (mean 1 - cosine of two different cells: shifts of two poolings are compared as
    shares of it) and `n_cells`. `attrs` holds the settings.
    """
    options = {k: v for k, v in locals().items() if k not in ("adata", "model")}
    from rankcell.jobs import assess

    return assess.rank_bias(adata, model, **options)
