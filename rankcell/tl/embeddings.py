"""Embeddings of cells, states and genes."""

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rankcell.arguments import layer_list
from rankcell.counts.options import Counts
from rankcell.embed.added import added_name, foreign_keys, require_free
from rankcell.embed.embedding_tables import CELLS, obsm_keys
from rankcell.embed.options import KEY, LAYER, POOL, STATISTICS, EmbedConfig
from rankcell.errors import InputError, SettingsError
from rankcell.model.chosen_model import model_for
from rankcell.model.options import Compute, ModelLike
from rankcell.progress import progress
from rankcell.tokens import TokenSet
from rankcell.tokens.opening import TokenNeeds, tokens_of
from rankcell.wording import python_verb

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from rankcell.embed.embedding_tables import Embeddings


@python_verb()
def embed(
    adata: "AnnData",
    model: ModelLike = None,
    *,
    pool: str | Sequence[str] = POOL,
    layer: int | Sequence[int] = LAYER,
    key_added: str = KEY,
    counts: Counts = Counts(),
    compute: Compute = Compute(),
) -> None:
    """Embed every cell with a rank-encoding model, straight from its counts.

    Parameters
    ----------
    adata
        An AnnData with raw counts; a view becomes an AnnData of its own.
    model
        A checkpoint folder, a hub name (`owner/repo/folder`), or `demo`, a toy of 765 genes; rc.Model of one with the vocabulary that
        completes it (`uns["rankcell"]["vocab_mismatch"]` then says where that has other tokens than the model).
    pool
        Over the genes of a cell: `mean`, `max`, `min`, `std`, `var`, `median`, `norm`, `parti` (by the PageRank of attention);
        `mean_all` (special tokens too); one token: `cls`, `first` (the top-ranked gene), `position0`. Several at once:
        `mean+var` side by side in one output, `["mean", "cls"]` as two outputs.
    layer
        Model layer, or several: -1 the output of the last block, 0 the embedding layer. (Geneformer's `emb_layer` 0
        and -1 are -1 and -2 here.)
    key_added
        Name in obsm; with several outputs each is `<key_added>_<pool>_layer<n>`. A key of obsm that is no embedding by rankcell is
        never replaced.
    counts
        Where the counts are (`rc.Counts`).
    compute
        Where and how the model runs (`rc.Compute`). Precision "auto" is the fastest with which the embeddings of some cells keep a
        cosine of 0.9999 with fp32's; `uns["rankcell"]["precision_check"]` says which was tried, and the smallest cosine.

    Returns
    -------
    None
        Sets `adata.obsm[key_added]` (float32 [cells, width]; NaN for cells without a known gene) and `adata.uns["rankcell"]` (model,
        vocabulary and its hash, and pooling and layer of each output, with the columns of each part).

    Raises
    ------
    InputError
        For a view of an AnnData in a file, which cannot be written into.
    CellError
        When `key_added` is a key of obsm that is no embedding by rankcell.
    """
    if not hasattr(adata, "obsm"):
        advice = ": rc.tl.embed_cells makes an AnnData of it" if isinstance(adata, (TokenSet, str, os.PathLike)) else ""
        raise InputError(f"rc.tl.embed writes into an AnnData, and got {type(adata).__name__}{advice}")
    if getattr(adata, "is_view", False) and adata.isbacked:
        raise InputError(
            "this is a view of an AnnData in a file, which cannot be written into: give its .to_memory(), or the whole AnnData"
        )
    config = EmbedConfig(pool, layer)
    keys = obsm_keys(config.outputs, added_name(key_added, KEY))
    require_free(keys, foreign_keys(adata.obsm, adata.uns.get("rankcell"), KEY), "adata.obsm")
    _write_into(adata, _embedded(adata, model, config, counts, compute), key_added)


@python_verb()
def embed_cells(
    source: "TokenSet | AnnData | str | os.PathLike",
    model: ModelLike = None,
    *,
    pool: str | Sequence[str] = POOL,
    layer: int | Sequence[int] = LAYER,
    key_added: str = KEY,
    counts: Counts = Counts(),
    compute: Compute = Compute(),
) -> "AnnData":
    """Embed the cells of a TokenSet, an AnnData or a path of counts or tokens into a new AnnData.

    Parameters
    ----------
    source
        A TokenSet, an AnnData with raw counts, or the path of counts or tokens.
    model, pool, layer, key_added, counts, compute
        As for rc.tl.embed.

    Returns
    -------
    AnnData
        The cell ids, the cell columns that the tokens carry, no genes, and the obsm and uns that rc.tl.embed writes.

    Raises
    ------
    InputError
        When the source is none of these.
    """
    if not (hasattr(source, "obsm") or isinstance(source, (TokenSet, str, os.PathLike))):
        raise InputError(f"rc.tl.embed_cells takes a TokenSet or a path, and got {type(source).__name__}")
    added_name(key_added, KEY)
    embeddings = _embedded(source, model, EmbedConfig(pool, layer), counts, compute)
    import anndata as ad

    obs = None if embeddings.read_obs is None else embeddings.read_obs().rename_axis(None)
    cells = ad.AnnData(obs=obs)
    _write_into(cells, embeddings, key_added)
    return cells


def _embedded(source: Any, model: ModelLike, config: EmbedConfig, counts: Counts, compute: Compute) -> "Embeddings":
    from rankcell.embed.embed_cells import embed_in_memory

    with progress("embed") as tick:
        return embed_in_memory(source, model, pool=config.pool, layer=config.layer, counts=counts, compute=compute, progress=tick)


def _write_into(adata: Any, embeddings: "Embeddings", key_added: str) -> None:
    """obsm and uns of `adata`; a view becomes an AnnData of its own."""
    from rankcell.embed.stores import uns_entry

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting element .* of view, initializing view as actual")
        for key, values in embeddings.obsm(key_added).items():
            adata.obsm[key] = values
        entry, former = uns_entry(embeddings.result(), key_added), adata.uns.get("rankcell")
        entry["outputs"] = _remaining_outputs(former, adata.obsm) | entry["outputs"]
        adata.uns["rankcell"] = entry


def _remaining_outputs(former: Any, obsm: Any) -> dict[str, Any]:
    """Entries of an earlier `uns["rankcell"]` for keys that are still in obsm, each with its model."""
    outputs = former.get("outputs", {}) if hasattr(former, "get") else {}
    whose = {k: former[k] for k in ("model", "model_hash", "vocabulary", "vocabulary_hash", "frame") if k in former} if outputs else {}
    return {key: whose | dict(output) for key, output in outputs.items() if key in obsm and hasattr(output, "get")}


@python_verb()
def state_embeddings(
    adata: Any,
    by: str,
    model: ModelLike = None,
    *,
    statistic: str = STATISTICS[0],
    pool: str | Sequence[str] = POOL,
    layer: int | Sequence[int] = LAYER,
    counts: Counts = Counts(),
    compute: Compute = Compute(),
) -> "pd.DataFrame":
    """Average the embeddings of each category of cells (a cell type, a disease, a day).

    Parameters
    ----------
    adata
        An AnnData with raw counts, a TokenSet, or the path of either.
    by
        The cell column whose categories are the states.
    model
        As for rc.tl.embed; None: the one that made the embeddings of `adata`, as its `uns["rankcell"]` says.
    statistic
        `mean` of the cells' embeddings (in float64), or their exact `median`, dimension by dimension.
    pool, layer, counts, compute
        As for rc.tl.embed.

    Returns
    -------
    DataFrame
        A row per category: `state`, `n_cells`, and a column per output, `<pool>_layer<n>`, of float32 vectors. Cells without genes, and
        cells of no category, are left out. rc.tl.perturb takes it as its `states`.
    """
    import pandas as pd

    from rankcell.embed import Embedder
    from rankcell.embed.groups import groups_of, state_vectors

    config = EmbedConfig(pool, layer, "state", by, statistic)
    embedder = Embedder(model_for(adata, model), compute)
    tokens = tokens_of(adata, embedder.checkpoint, counts=counts, needs=TokenNeeds([by]))
    groups, keep = groups_of(tokens, by), tokens.n_genes > 0
    with progress("state_embeddings") as tick:
        embeddings = embedder.embed(tokens, pool=config.pool, layer=config.layer, progress=tick)
    cells = embeddings.result().tables[CELLS]
    table = pd.DataFrame({"state": groups.names, "n_cells": groups.counts(keep)})
    for name in embeddings.columns:
        table[name] = list(state_vectors(cells, name, groups, keep, config.statistic).astype("float32"))
    table.attrs["rankcell"] = embeddings.meta | {"by": by, "statistic": config.statistic}
    return table


@python_verb()
def gene_embeddings(
    adata: Any,
    model: ModelLike = None,
    *,
    by: str | None = None,
    per_cell: bool = False,
    layer: Any = LAYER,
    counts: Counts = Counts(),
    compute: Compute = Compute(),
) -> "AnnData":
    """Embed genes in context: the mean state of each gene over the cells that show it, or its state in every cell.

    Parameters
    ----------
    adata
        An AnnData with raw counts, a TokenSet, or the path of either.
    model
        As for rc.tl.embed; None: the one that made the embeddings of `adata`, as its `uns["rankcell"]` says.
    by
        A cell column: means over the cells of each category instead of over all.
    per_cell
        A row per cell and gene instead of means: memory for cells x genes x width numbers (`rankcell embed --include gene` streams
        them into a file).
    layer
        One model layer.
    counts, compute
        As for rc.tl.embed.

    Returns
    -------
    AnnData
        Its rows are genes and its X (float32) their vectors. obs: `gene`, `symbol`, with `by` also `group`, and `n` (cells that show
        it); `layers["sd"]` is the standard deviation over them (of the population: 0 for one cell). With `per_cell` obs is `cell_id`,
        `gene`, `symbol` and `rank` (0 = top).

    Raises
    ------
    SettingsError
        For several layers, and for `by` together with `per_cell`.
    """
    from rankcell.embed import Embedder
    from rankcell.embed.contexts import gene_means, gene_states

    layers = layer_list(layer)
    if len(layers) != 1:
        raise SettingsError(f"gene embeddings are of one layer, and {len(layers)} were named: call it once for each")
    if by is not None and per_cell:
        raise SettingsError("by is for means over cells: leave out per_cell")
    embedder = Embedder(model_for(adata, model), compute)
    tokens = tokens_of(adata, embedder.checkpoint, counts=counts, needs=TokenNeeds([] if by is None else [by]))
    with progress("gene_embeddings") as tick:
        if per_cell:
            return gene_states(embedder, tokens, layers[0], progress=tick)
        return gene_means(embedder, tokens, layers[0], by=by, progress=tick)
