"""Embeddings of cells, states and genes."""

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rankcell import jobs
from rankcell.arguments import whole_layers
from rankcell.embed.embedding_tables import obsm_keys
from rankcell.errors import InputError
from rankcell.jobs.added import added_name, foreign_keys, require_free
from rankcell.progress import progress
from rankcell.tokens import TokenSet
from rankcell.vocab import Vocabulary
from rankcell.wording import python_verb

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


@python_verb()
def embed(
    adata: Any,
    model: Any = None,
    *,
    pool: str | Sequence[str] = "mean",
    layer: int | Sequence[int] = -2,
    key_added: str = "X_rankcell",
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
) -> Any:
    """Embed every cell with a rank-encoding model, straight from its counts.

    adata
        An AnnData with raw counts; a view becomes an AnnData of its own. Or a TokenSet, or the path of counts or tokens.
    model
        A checkpoint folder, a hub name (`owner/repo/folder`), or `demo`, a toy of 765 genes.
    pool
        Over the genes of a cell: `mean`, `max`, `min`, `std`, `var`, `median`, `norm`, `parti` (by the PageRank of attention);
        `mean_all` (special tokens too); one token: `cls`, `first` (the top-ranked gene), `position0`. Several at once:
        `mean+var` side by side in one output, `["mean", "cls"]` as two outputs.
    layer
        Model layer, or several: -1 the output of the last block, 0 the embedding layer. (Geneformer's `emb_layer` 0
        and -1 are -1 and -2 here.)
    key_added
        Name in obsm; with several outputs each is `<key_added>_<pool>_layer<n>`. A key of obsm that is no embedding by rankcell is
        never replaced (CellError).
    vocab, vocab_mismatch_ok
        Completes a checkpoint that carries no vocabulary; whether it may have fewer tokens than the model has, or other special
        tokens (`uns["rankcell"]["vocab_mismatch"]` then says so).
    counts_layer, raw, gene_column, genome, allow_non_counts
        As for rc.pp.tokenize (`counts_layer` is its `layer`).
    device, precision, tokens_per_batch
        Where and how the model runs. Precision "auto" is the fastest with which the embeddings of some cells keep a
        cosine of 0.9999 with fp32's; `uns["rankcell"]["precision_check"]` says which was tried, and the smallest cosine.

    Sets `adata.obsm[key_added]` (float32 [cells, width]; NaN for cells without a known gene) and `adata.uns["rankcell"]` (model,
    vocabulary and its hash, and pooling and layer of each output, with the columns of each part) and returns None. Of a TokenSet or a
    path there is no AnnData to write into: a new one is returned, with the cell ids and the columns that the tokens carry, no genes, and
    the same obsm and uns. InputError for a view of an AnnData in a file, which cannot be written into.
    """
    options = {k: v for k, v in locals().items() if k not in ("adata", "key_added")}  # the others are the job's own
    is_anndata = hasattr(adata, "obsm")
    if not is_anndata and not isinstance(adata, (TokenSet, str, os.PathLike)):
        raise InputError(f"rc.tl.embed takes an AnnData, a TokenSet or a path, and got {type(adata).__name__}")
    if getattr(adata, "is_view", False) and adata.isbacked:
        raise InputError(
            "this is a view of an AnnData in a file, which cannot be written into: give its .to_memory(), or the whole AnnData"
        )
    added_name(key_added, "X_rankcell")
    if is_anndata:
        pools = [pool] if isinstance(pool, str) else dict.fromkeys(pool)
        keys = obsm_keys([f"{p}_layer{n}" for n in whole_layers(layer) for p in pools], key_added)
        require_free(keys, foreign_keys(adata.obsm, adata.uns.get("rankcell"), "X_rankcell"), "adata.obsm")
    with progress("embed") as tick:
        embeddings = jobs.embed(adata, **options, progress=tick)
    if is_anndata:
        return _write_into(adata, embeddings, key_added)
    import anndata as ad

    cells = ad.AnnData(obs=embeddings.read_obs().rename_axis(None))
    _write_into(cells, embeddings, key_added)
    return cells


def _write_into(adata: Any, embeddings: Any, key_added: str) -> None:
    """obsm and uns of `adata`; a view becomes an AnnData of its own."""
    from rankcell.embed.stores import uns_entry

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting element .* of view, initializing view as actual")
        for key, values in embeddings.obsm(key_added).items():
            adata.obsm[key] = values
        entry, former = uns_entry(embeddings.result(), key_added), adata.uns.get("rankcell")
        entry["outputs"] = _kept_outputs(former, adata.obsm) | entry["outputs"]
        adata.uns["rankcell"] = entry


def _kept_outputs(former: Any, obsm: Any) -> dict[str, Any]:
    """What an earlier `uns["rankcell"]` says of keys that are still in obsm, each with the model that it was made with."""
    outputs = former.get("outputs", {}) if hasattr(former, "get") else {}
    whose = {k: former[k] for k in ("model", "model_hash", "vocabulary", "vocabulary_hash", "frame") if k in former} if outputs else {}
    return {key: whose | dict(said) for key, said in outputs.items() if key in obsm and hasattr(said, "get")}


@python_verb()
def state_embeddings(
    adata: Any,
    by: str,
    model: Any = None,
    *,
    statistic: str = "mean",
    pool: str | Sequence[str] = "mean",
    layer: int | Sequence[int] = -2,
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
    """The embedding of each category of cells: where a model puts a cell type, a disease, a day.

    adata
        An AnnData with raw counts, a TokenSet, or the path of either.
    by
        The cell column whose categories are the states.
    statistic
        `mean` of the cells' embeddings (in float64), or their exact `median`, dimension by dimension.
    model
        As for rc.tl.embed; None: the one that made the embeddings of `adata`, as its `uns["rankcell"]` says.
    pool, layer, vocab, vocab_mismatch_ok, counts_layer, raw, gene_column, genome, allow_non_counts, device, precision, tokens_per_batch
        As for rc.tl.embed.

    Returns a DataFrame, a row per category: `state`, `n_cells`, and a column per output, `<pool>_layer<n>`, of float32 vectors.
    Cells without genes, and cells of no category, are left out. rc.tl.perturb takes it as its `states`.
    """
    options = {k: v for k, v in locals().items() if k != "adata"}  # the others are the job's own
    with progress("state_embeddings") as tick:
        return jobs.state_embeddings(adata, **options, progress=tick)


@python_verb()
def gene_embeddings(
    adata: Any,
    model: Any = None,
    *,
    by: str | None = None,
    per_cell: bool = False,
    layer: Any = -2,
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
) -> "AnnData":
    """Genes in context: the mean state of each gene over the cells that show it, or its state in every cell.

    adata
        An AnnData with raw counts, a TokenSet, or the path of either.
    by
        A cell column: means over the cells of each category instead of over all.
    per_cell
        A row per cell and gene instead of means: memory for cells x genes x width numbers (`rankcell embed --include gene` streams
        them into a file).
    layer
        One model layer.
    model
        As for rc.tl.embed; None: the one that made the embeddings of `adata`, as its `uns["rankcell"]` says.
    vocab, vocab_mismatch_ok, counts_layer, raw, gene_column, genome, allow_non_counts, device, precision, tokens_per_batch
        As for rc.tl.embed.

    Returns an AnnData whose rows are genes and whose X (float32) are their vectors. obs: `gene`, `symbol`, with `by` also
    `group`, and `n` (cells that show it); `layers["sd"]` is the standard deviation over them (of the population: 0 for
    one cell). With `per_cell` obs is `cell_id`, `gene`, `symbol` and `rank` (0 = top).
    """
    options = {k: v for k, v in locals().items() if k != "adata"}  # the others are the job's own
    with progress("gene_embeddings") as tick:
        return jobs.gene_embeddings(adata, **options, progress=tick)
