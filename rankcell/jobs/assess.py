"""How good embeddings are: what the assess room needs, taken from an AnnData, a token set or a file; a table out."""

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.arguments import whole_layers
from rankcell.counts import open_at_counts
from rankcell.counts.genes.genomes import keep_genome
from rankcell.counts.options import Counts
from rankcell.errors import CellError, InputError
from rankcell.model.chosen_model import model_for
from rankcell.model.options import Compute, Model
from rankcell.progress import Progress
from rankcell.store import require_apart
from rankcell.tokens import TokenSet
from rankcell.tokens.opening import TokenNeeds, is_tokens, require_there, tokens_of
from rankcell.vocab import Vocabulary


def score_embedding(
    adata: Any,
    label: str,
    *,
    key: str | Sequence[str] = "X_rankcell",
    batch: str | None = None,
    k: int = 15,
    folds: int = 5,
    resolution: float | Sequence[float] | None = (0.2, 0.5, 1.0),
    seed: int = 0,
) -> Any:
    """A DataFrame, one row of scores per obsm key."""
    import pandas as pd

    from rankcell.assess import ScoreSettings, score

    require_anndata(adata, "rc.tl.score_embedding")
    settings = ScoreSettings(k, folds, resolution, seed)
    keys = [key] if isinstance(key, str) else list(dict.fromkeys(key))
    vectors = {name: embedding(adata, name) for name in keys}
    cells = labelled_cells(adata, label, batch, settings)
    rows = [{"key": name, "width": x.shape[1]} | score(x, cells, settings)[0] for name, x in vectors.items()]
    table = pd.DataFrame(rows).set_index("key")
    table.attrs = settings_of(settings, label, batch, cells)
    return table


@dataclass(frozen=True)
class Compared:
    """What `compare` gives: the table, where it was written (None: nowhere), and lines for a reader."""

    table: Any
    path: Path | None
    lines: tuple[str, ...]


def compare(
    source: Any,
    label: str,
    out: str | os.PathLike | None = None,
    *,
    model: Any = None,
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
    force: bool = False,
    progress: Progress = None,
) -> Compared:
    """Every pooling and layer scored against the cell column `label`, beside random weights and PCA: see rankcell.tl.compare_poolings.

    source
        A count file, a token folder, an AnnData or a TokenSet. Tokens hold no counts, so there is no PCA beside them.
    out
        `.csv`, `.tsv` or `.parquet` for the whole table; what it is of goes beside it as OUT.json.
    """
    from rankcell.assess import ScoreSettings
    from rankcell.assess import compare_poolings as compare_poolings_of
    from rankcell.assess.comparison import summary
    from rankcell.assess.poolings import pool_names
    from rankcell.embed import Embedder
    from rankcell.stats.ranked_tables import check_out, write_ranked

    if out is not None:
        require_apart(out, [source])
        check_out(out, force=force)
    require_there(source)
    settings = ScoreSettings(k, folds, resolution, seed)
    compute = Compute(device, precision, tokens_per_batch)
    embedder = Embedder(model_for(source, Model(model, vocab=vocab, vocab_mismatch_ok=vocab_mismatch_ok)), compute)
    chosen = {"counts_layer": counts_layer, "raw": raw, "gene_column": gene_column, "genome": genome, "allow_non_counts": allow_non_counts}
    cells, tokens = _cells_and_tokens(source, embedder.checkpoint, label, batch, settings, chosen)
    table = compare_poolings_of(
        tokens,
        embedder,
        cells,
        counts=None if is_tokens(source) else _counts(source, embedder.checkpoint.vocab, **chosen),
        pool=None if pool is None else pool_names(pool),
        layer=whole_layers(layer),
        settings=settings,
        n_random=n_random,
        compute=compute,
        progress=progress,
    )
    said = {"model": embedder.checkpoint.name} | embedder.checkpoint.remarks
    table.attrs = settings_of(settings, label, batch, cells) | said | {"n_random": n_random}
    if out is not None:
        write_ranked(table, out, facts=table.attrs, force=force)
    return Compared(table, None if out is None else Path(out), tuple(summary(table).splitlines()))


def rank_bias(
    adata: Any,
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
    progress: Progress = None,
) -> Any:
    """A DataFrame, one row per pooling, layer, kind of edit and decile."""
    from rankcell.assess import rank_bias as bias
    from rankcell.assess.poolings import fitting_pools, pool_names
    from rankcell.assess.rankbias import BiasSettings
    from rankcell.embed import Embedder

    settings = BiasSettings(tuple(_several(how)), n_bins, cells, seed)
    precision = "fp32" if precision == "auto" else precision  # shifts can be smaller than what bf16 rounds off
    embedder = Embedder(model_for(adata, Model(model, vocab=vocab, vocab_mismatch_ok=vocab_mismatch_ok)), Compute(device, precision, tokens_per_batch))
    settings.check(embedder.checkpoint.vocab)
    chosen = {"counts_layer": counts_layer, "raw": raw, "gene_column": gene_column, "genome": genome, "allow_non_counts": allow_non_counts}
    tokens = tokens_of(adata, embedder.checkpoint, counts=Counts(**chosen))
    layers = whole_layers(layer)
    pools = fitting_pools(embedder, tokens, layers) if pool is None else pool_names(pool)
    table = bias(tokens, embedder, pool=pools, layer=layers, settings=settings, progress=progress)
    table.attrs |= {"model": embedder.checkpoint.name} | embedder.checkpoint.remarks
    return table


# What an AnnData holds


def require_anndata(adata: Any, verb: str, what: str = "adata") -> None:
    if not hasattr(adata, "obsm"):
        advice = "read the file first" if isinstance(adata, (str, os.PathLike)) else "rc.tl.embed makes one of tokens" if is_tokens(adata) else "anndata.AnnData makes one"
        raise InputError(f"{verb} wants an AnnData as {what} and got {type(adata).__name__}: {advice}")


def obs_column(adata: Any, name: str, where: str = "adata") -> Any:
    """One column of obs; CellError naming near ones when there is none."""
    if name in adata.obs:
        return adata.obs[name]
    raise CellError(f"{where} has no obs column '{name}'{_offer(name, list(adata.obs))}")


def embedding(adata: Any, key: str, where: str = "adata") -> np.ndarray:
    """An embedding [cells, width] of obsm; CellError when there is none or it is no table of numbers."""
    if key not in adata.obsm:
        hint = " (rc.tl.embed makes X_rankcell)" if not len(adata.obsm) else ""
        raise CellError(f"{where} has no obsm key '{key}'{_offer(key, list(adata.obsm))}{hint}")
    x = adata.obsm[key]
    x = np.asarray(x.toarray() if hasattr(x, "toarray") else x)
    if x.ndim != 2 or x.shape[1] < 1 or x.dtype.kind not in "fiu":
        raise CellError(f"obsm key '{key}' of {where} is {x.dtype} of shape {x.shape}: an embedding is numbers, [cells, width]")
    return x


def labelled_cells(adata: Any, label: str, batch: str | None, settings: Any) -> Any:
    values = obs_column(adata, label)
    batches = None if batch is None else obs_column(adata, batch)
    return labelled(values, batches, label, batch, settings)


def labelled(values: Any, batches: Any, label: str, batch: str | None, settings: Any) -> Any:
    from rankcell.assess import LabelledCells

    return LabelledCells.of(values, batches, folds=settings.folds, name=label, batch_name=batch or "")


def _cells_and_tokens(
    source: Any, checkpoint: Any, label: str, batch: str | None, settings: Any, chosen: Mapping[str, Any]
) -> tuple[Any, TokenSet]:
    """The labelled cells, which are checked first where they are at hand, and the tokens."""
    if hasattr(source, "obsm"):
        return labelled_cells(source, label, batch, settings), tokens_of(source, checkpoint, counts=Counts(**chosen))
    columns = [label] if batch is None else [label, batch]
    tokens = tokens_of(source, checkpoint, counts=Counts(**chosen), needs=TokenNeeds(columns))
    values = [pd_missing(tokens.obs(c)) for c in columns]
    return labelled(values[0], values[1] if batch is not None else None, label, batch, settings), tokens


def pd_missing(values: np.ndarray) -> Any:
    """A column of tokens with "" as missing: text columns of files have no other way to say it."""
    import pandas as pd

    series = pd.Series(values)
    return series.where(series != "") if series.dtype == object else series


def settings_of(settings: Any, label: str, batch: str | None, cells: Any) -> dict[str, Any]:
    """What the attrs of a table of scores hold: plain JSON."""
    found = {"label": label, "batch": batch, "k": settings.k, "folds": settings.folds, "resolution": list(settings.resolution)}
    return found | {"seed": settings.seed, "small_labels": list(cells.small), "largest_label": cells.largest}


def _counts(source: Any, vocab: Vocabulary, *, counts_layer: str | None, raw: bool, genome: str | None, allow_non_counts: bool, **_: Any) -> Any:
    """The matrix that the tokens are made from, in memory: scipy csr, cells x genes."""
    import scipy.sparse as sp

    with open_at_counts(source, layer=counts_layer, raw=raw, genome=genome, allow_non_counts=allow_non_counts) as counts:
        keep_genome(counts, genome, vocab)
        parts = [
            sp.csr_matrix((block.data, block.indices, block.indptr), (len(block), counts.n_genes))
            for block in counts.blocks(allow_non_counts=allow_non_counts)
        ]
    return sp.vstack(parts, format="csr")


def _offer(name: str, names: Sequence[str]) -> str:
    lower = {str(n).lower(): str(n) for n in names}
    near = [lower[n] for n in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.6)]
    if near:
        return f"; did you mean {' or '.join(repr(n) for n in near)}?"
    return f" (it has: {', '.join(map(str, list(names)[:12])) or 'none'}{', ...' if len(names) > 12 else ''})"


def _several(value: Any) -> list[Any]:
    return [value] if isinstance(value, (str, int, np.integer)) else list(dict.fromkeys(value))
