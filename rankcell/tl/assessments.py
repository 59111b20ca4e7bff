"""How good embeddings are, and which serves best."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rankcell.arguments import layer_list
from rankcell.assess.options import COMPARED_LAYERS, N_RANDOM, LabelMapping, RankBins, Scoring
from rankcell.counts.options import Counts
from rankcell.embed.options import KEY, LAYER
from rankcell.model.chosen_model import model_for
from rankcell.model.options import Compute, ModelLike
from rankcell.progress import progress
from rankcell.tokens.opening import tokens_of
from rankcell.wording import python_verb

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


@python_verb()
def score_embedding(
    adata: "AnnData",
    label: str,
    *,
    key: str | Sequence[str] = KEY,
    batch: str | None = None,
    scoring: Scoring = Scoring(),
) -> "pd.DataFrame":
    """Score embeddings against labels (kNN accuracy, ARI, NMI, silhouette) and, with `batch`, for mixing of batches.

    Parameters
    ----------
    adata
        An AnnData with an embedding in obsm.
    label
        The obs column of cell groups.
    key
        An obsm key, or several.
    batch
        The obs column of batches.
    scoring
        Neighbours, folds, Leiden resolutions and the seed: `rc.Scoring(k=15, resolution=0)` leaves `ari` and `nmi` out, which need igraph.

    Returns
    -------
    DataFrame
        A row per key: the scores of the notes, and the numbers of cells left out. `n_cells` have a label; `n_missing_label` have none and
        are left out; `n_rare_label` (labels with fewer cells than folds) are left out of the cross-validation; `n_without_embedding`
        (NaN) count as wrong there and are left out elsewhere; `n_missing_batch` are left out of the batch scores. `attrs` holds the
        settings, and `largest_label`: the accuracy of always naming the most frequent label.

    Notes
    -----
    All distances are cosine.
    `knn_accuracy`: share of cells whose label is the majority of their `k` nearest cells in the other folds (stratified);
    `knn_sd`: its standard deviation over the folds; `knn_balanced`: the mean over labels of each label's share.
    `ari`, `nmi`: adjusted Rand index and normalised mutual information of Leiden clusters and labels, each the best over
    `resolution` (`ari_resolution`, `nmi_resolution` say which): so compare only what was scored with the same list.
    `silhouette`: mean silhouette width of the labels, -1 to 1 (above 10,000 cells on as many, drawn with `seed`).
    `batch_mixing`: neighbours of another batch among the `k` nearest, divided by their number under chance: 1 as mixed as
    random, 0 apart. Batches of other cell types can't reach 1. `batch_silhouette`: 1 - abs(silhouette of the batch) within
    each label, mean over labels: 1 mixed, 0 apart.

    References
    ----------
    Luecken et al. 2022 (`batch_silhouette`).
    """
    import pandas as pd

    from rankcell.assess import score
    from rankcell.assess.anndata_parts import embedding, labelled_cells, require_anndata
    from rankcell.assess.clusters import computable
    from rankcell.assess.compare_cells import score_facts

    require_anndata(adata, "rc.tl.score_embedding")
    keys = [key] if isinstance(key, str) else list(dict.fromkeys(key))
    vectors = {name: embedding(adata, name) for name in keys}
    cells, scoring = labelled_cells(adata, label, batch, scoring.folds), computable(scoring)
    rows = [{"key": name, "width": x.shape[1]} | score(x, cells, scoring)[0] for name, x in vectors.items()]
    table = pd.DataFrame(rows).set_index("key")
    table.attrs = score_facts(scoring, label, batch, cells)
    return table


@python_verb()
def compare_poolings(
    adata: Any,
    label: str,
    model: ModelLike = None,
    *,
    pool: str | Sequence[str] | None = None,
    layer: int | Sequence[int] = COMPARED_LAYERS,
    batch: str | None = None,
    scoring: Scoring = Scoring(),
    n_random: int = N_RANDOM,
    counts: Counts = Counts(),
    compute: Compute = Compute(),
) -> "pd.DataFrame":
    """Compare poolings and layers of a model by their scores against labels, beside PCA and the same model with random weights.

    Parameters
    ----------
    adata
        An AnnData with raw counts, a TokenSet, or the path of either. Beside tokens there is no PCA: they hold no counts.
    label
        As for rc.tl.score_embedding.
    model
        As for rc.tl.embed; None: the one that made the embeddings of `adata`, as its `uns["rankcell"]` says.
    pool
        Poolings; None: all registered ones that the tokens and layers allow.
    layer
        Layers, as for rc.tl.embed.
    batch, scoring
        As for rc.tl.score_embedding.
    n_random
        Number of models of the same config with random weights (as transformers initialises them; seeds `scoring.seed`, that + 1,
        ...) that are scored beside it: what these reach is not due to training.
    counts, compute
        As for rc.tl.embed.

    Returns
    -------
    DataFrame
        A row per pooling, layer and model (`source`: "model" or "random weights", with its `seed`) and one for "PCA" (50 components of
        log1p of counts scaled to the median total, on all genes given), best `knn_accuracy` first and nothing left out. Columns:
        `source`, `pool`, `layer`, `seed`, `width`, the scores of rc.tl.score_embedding, and `over_pca` and `over_random`: how much
        more of the cells are right than with PCA, and than with the random models of the same pooling and layer; `_se` is the standard
        error of the difference over the cells (the same cells and folds for all). `attrs` holds the settings. Printed whole it shows the
        columns to decide by, rounded, 100 characters wide; all of them are there (`table.to_string()`).
    """
    from rankcell.assess.compare_cells import compare_cells

    with progress("compare") as tick:
        run = functools.partial(compare_cells, adata, label, model, pool=pool, layer=layer, batch=batch, scoring=scoring, n_random=n_random)
        return run(counts=counts, compute=compute, progress=tick)


@python_verb()
def map_labels(
    adata: "AnnData",
    reference: Any,
    label: str,
    *,
    key: str = KEY,
    mapping: LabelMapping = LabelMapping(),
    key_added: str | None = None,
) -> None:
    """Transfer labels from a reference to cells by their k nearest neighbours in an embedding.

    Parameters
    ----------
    adata
        An AnnData with an embedding in obsm.
    reference
        An AnnData with the same kind of embedding in obsm, or the path of an h5ad. Where both say in `uns["rankcell"]` how it was made,
        another model, vocabulary, pooling or layer is an error.
    label
        An obs column of the reference.
    key
        The obsm key of both.
    mapping
        Neighbours, metric, and the confidence and distance (both are defined below) beyond which a cell is labelled 'unsure': its
        neighbours do not agree, or it is of a kind that the reference lacks. `rc.LabelMapping(min_confidence=0, max_distance=1)` labels
        every cell. At a distance of 0.95 about 5 % of the cells like those of the reference are unsure too.
    key_added
        Name in obs; None: `<label>_mapped`. Columns that no earlier run of that name wrote are never replaced.

    Returns
    -------
    None
        Sets `adata.obs[key_added]` (categorical: 'unsure', or the label with the most votes among the `k` nearest reference cells, of
        equal ones the nearer), `adata.obs["<key_added>_confidence"]` (the share of the votes that it has, each neighbour one vote) and
        `adata.obs["<key_added>_distance"]`: the share of reference cells that are nearer to their own `k` neighbours, on average, than
        this cell is to its.

    Raises
    ------
    CellError
        When `key_added` is a column that no earlier run of that name wrote.

    Warns
    -----
    RankcellWarning
        With their number where more than half of the cells are unsure, and when reference cells are left out.

    Notes
    -----
    The distance is even over 0 to 1 for cells like the reference; at 1 the cell is farther from the reference than any cell of it is, and
    its label says little whatever the confidence. Cells without an embedding get no label, confidence 0 and distance NaN. Reference cells
    without label or embedding are left out, with a warning.
    """
    from rankcell.assess.annotate import map_labels as write_labels

    write_labels(adata, reference, label, key=key, mapping=mapping, key_added=key_added)


@python_verb()
def rank_bias(
    adata: Any,
    model: ModelLike = None,
    *,
    pool: str | Sequence[str] | None = None,
    layer: int | Sequence[int] = LAYER,
    bins: RankBins = RankBins(),
    counts: Counts = Counts(),
    compute: Compute = Compute(),
) -> "pd.DataFrame":
    """Measure the rank bias of poolings: the shift of each when the genes of one rank decile of a cell are edited.

    Parameters
    ----------
    adata
        An AnnData with raw counts, a TokenSet, or the path of either.
    model
        As for rc.tl.embed; None: the one that made the embeddings of `adata`, as its `uns["rankcell"]` says.
    pool
        Poolings; None: all registered ones that the tokens and layers allow.
    layer
        Model layer, or several.
    bins
        How genes are edited and into how many runs of ranks a cell is cut: see help(rc.RankBins).
    counts, compute
        As for rc.tl.embed; the precision `auto` is fp32 here, because shifts can be smaller than what bf16 rounds off.

    Returns
    -------
    DataFrame
        `pool`, `layer`, `how`, `decile` (0 = top), `genes` ("decile"; or "random", `decile` null: the same done to n / n_bins genes drawn
        from all ranks, which tells the place from the number of genes), `shift` (mean over cells of 1 - cosine to the unedited
        embedding), `sem` (its standard error), `distance` (mean Euclidean distance, as a share of the unedited embedding's length),
        `between_cells` (mean 1 - cosine of two different cells: shifts of two poolings are compared as shares of it) and `n_cells`.
        `attrs` holds the settings.
    """
    from rankcell.assess import rank_bias as bias
    from rankcell.assess.poolings import fitting_pools, pool_names
    from rankcell.assess.rankbias import require_mask
    from rankcell.embed import Embedder

    exact = replace(compute, precision="fp32") if compute.precision == "auto" else compute
    embedder = Embedder(model_for(adata, model), exact)
    require_mask(bins, embedder.checkpoint.vocab)
    tokens, layers = tokens_of(adata, embedder.checkpoint, counts=counts), layer_list(layer)
    pools = fitting_pools(embedder, tokens, layers) if pool is None else pool_names(pool)
    with progress("rank_bias") as tick:
        return bias(tokens, embedder, pool=pools, layer=layers, ranks=bins, progress=tick)
