"""How good embeddings are, and which serves best."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rankcell.progress import progress
from rankcell.vocab import Vocabulary
from rankcell.wording import python_verb

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


@python_verb()
def score_embedding(
    adata: "AnnData",
    label: str,
    *,
    key: str | Sequence[str] = "X_rankcell",
    batch: str | None = None,
    k: int = 15,
    folds: int = 5,
    resolution: float | Sequence[float] | None = (0.2, 0.5, 1.0),
    seed: int = 0,
) -> "pd.DataFrame":
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
        A Leiden resolution to try, or several; 0 or () leaves `ari` and `nmi` out, which need igraph.
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


@python_verb()
def compare_poolings(
    adata: "AnnData",
    label: str,
    model: Any = None,
    *,
    pool: str | Sequence[str] | None = None,
    layer: int | Sequence[int] = (-1, -2),
    batch: str | None = None,
    k: int = 15,
    folds: int = 5,
    resolution: float | Sequence[float] | None = (0.2, 0.5, 1.0),
    seed: int = 0,
    n_random: int = 1,
    vocab: str | os.PathLike | Vocabulary | None = None,
    vocab_mismatch_ok: bool = False,
    counts_layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    genome: str | None = None,
    allow_non_counts: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tokens_per_batch: int | None = None,
) -> "pd.DataFrame":
    """Every pooling and layer of a model scored against labels, beside PCA and the same model with random weights.

    adata
        An AnnData with raw counts, a TokenSet, or the path of either. Beside tokens there is no PCA: they hold no counts.
    label, batch, k, folds, resolution, seed
        As for rc.tl.score_embedding.
    model
        As for rc.tl.embed; None: the one that made the embeddings of `adata`, as its `uns["rankcell"]` says.
    vocab, vocab_mismatch_ok
        As for rc.tl.embed.
    pool
        Poolings; None: all registered ones that the tokens and layers allow.
    layer
        Layers, as for rc.tl.embed.
    n_random
        How many models of the same config with random weights (as transformers initialises them; seeds `seed`, `seed` + 1,
        ...) are scored beside it: what these reach is not due to training.
    counts_layer, raw, gene_column, genome, allow_non_counts
        As for rc.tl.embed.
    device, precision, tokens_per_batch
        Where and how the models run.

    Returns a DataFrame, a row per pooling, layer and model (`source`: "model" or "random weights", with its `seed`) and one for
    "PCA" (50 components of log1p of counts scaled to the median total, on all genes given), best `knn_accuracy` first and
    nothing left out. Columns: `source`, `pool`, `layer`, `seed`, `width`, the scores of rc.tl.score_embedding, and `over_pca` and
    `over_random`: how much more of the cells are right than with PCA, and than with the random models of the same pooling
    and layer; `_se` is the standard error of the difference over the cells (the same cells and folds for all). `attrs`
    holds the settings. Printed whole it shows the columns to decide by, rounded, 100 characters wide;
    all of them are there (`table.to_string()`).
    """
    options = {k: v for k, v in locals().items() if k not in ("adata", "label")}
    from rankcell.jobs import assess

    with progress("compare") as tick:
        return assess.compare(adata, label, **options, progress=tick).table


@python_verb()
def map_labels(
    adata: "AnnData",
    reference: Any,
    label: str,
    *,
    key: str = "X_rankcell",
    k: int = 15,
    metric: str = "cosine",
    min_confidence: float = 0.5,
    max_distance: float = 0.95,
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
    min_confidence, max_distance
        A cell of less confidence, or of more distance, is labelled 'unsure' (both are defined below): its neighbours do not agree, or
        it is of a kind that the reference lacks. 0 and 1 label every cell. At a distance of 0.95 about 5 % of the cells like those of
        the reference are unsure too.
    key_added
        Name in obs; None: `<label>_mapped`. Columns that no earlier run of that name wrote are never replaced (CellError).

    Returns None, and warns with their number where more than half of the cells are unsure. Sets `adata.obs[key_added]` (categorical: 'unsure', or the label with
    the most votes among the `k` nearest reference cells, of equal ones the nearer), `adata.obs["<key_added>_confidence"]` (the share of the votes that it has, each neighbour
    one vote) and `adata.obs["<key_added>_distance"]`: the share of reference cells that are nearer to their own `k` neighbours,
    on average, than this cell is to its. It is even over 0 to 1 for cells like the reference; at 1 the cell is farther from the
    reference than any cell of it is, and its label says little whatever the confidence. Cells without an embedding
    get no label, confidence 0 and distance NaN. Reference cells without label or embedding are left out, with a warning.
    """
    options = {k: v for k, v in locals().items() if k not in ("adata", "reference", "label")}
    from rankcell.jobs import labels

    labels.map_labels(adata, reference, label, **options)


@python_verb()
def rank_bias(
    adata: "AnnData",
    model: Any = None,
    *,
    pool: str | Sequence[str] | None = None,
    layer: int | Sequence[int] = -2,
    how: str | Sequence[str] = ("drop", "shuffle", "mask"),
    n_bins: int = 10,
    cells: int | None = 200,
    seed: int = 0,
    vocab: str | os.PathLike | Vocabulary | None = None,
    vocab_mismatch_ok: bool = False,
    counts_layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    genome: str | None = None,
    allow_non_counts: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tokens_per_batch: int | None = None,
) -> "pd.DataFrame":
    """Which ranks each pooling looks at: how far it moves when the genes of one rank decile of a cell are taken from it.

    adata
        An AnnData with raw counts, a TokenSet, or the path of either.
    model
        As for rc.tl.embed; None: the one that made the embeddings of `adata`, as its `uns["rankcell"]` says.
    vocab, vocab_mismatch_ok
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
    counts_layer, raw, gene_column, genome, allow_non_counts
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

    with progress("rank_bias") as tick:
        return assess.rank_bias(adata, model, **options, progress=tick)
