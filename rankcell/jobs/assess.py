"""How good embeddings are: what the assess room needs, taken from an AnnData, a token set or a path."""

import difflib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from rankcell.errors import CellError, InputError, SettingsError
from rankcell.jobs.chosen import model_for
from rankcell.jobs.inputs import tokens_of
from rankcell.vocab import Vocabulary
from rankcell.wording import note


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
    """A DataFrame, one row of scores per obsm key."""
    import pandas as pd

    from rankcell.assess import ScoreSettings, score

    require_anndata(adata, "rc.tl.score_embedding")
    settings = ScoreSettings(k, folds, tuple(resolution), seed)
    keys = [key] if isinstance(key, str) else list(dict.fromkeys(key))
    vectors = {name: embedding(adata, name) for name in keys}
    cells = labelled_cells(adata, label, batch, settings)
    rows = [{"key": name, "width": x.shape[1]} | score(x, cells, settings)[0] for name, x in vectors.items()]
    table = pd.DataFrame(rows).set_index("key")
    table.attrs = settings_of(settings, label, batch, cells)
    return table


def compare_poolings(
    adata: Any,
    label: str,
    model: Any = None,
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
    vocab_mismatch_ok: bool = False,
    counts_layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    allow_non_counts: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tokens_per_batch: int | None = None,
) -> Any:
    """A DataFrame, one row per pooling, layer and model, and one for PCA."""
    from rankcell.assess import ScoreSettings
    from rankcell.assess import compare_poolings as compare
    from rankcell.assess.poolings import pool_names
    from rankcell.embed import Embedder

    require_anndata(adata, "rc.tl.compare_poolings")
    settings = ScoreSettings(k, folds, tuple(resolution), seed)
    cells = labelled_cells(adata, label, batch, settings)
    options = {"device": device, "precision": precision, "tokens_per_batch": tokens_per_batch}
    model = model_for(adata, model, vocab=vocab, vocab_mismatch_ok=vocab_mismatch_ok)
    embedder = Embedder(model, vocab=vocab, vocab_mismatch_ok=vocab_mismatch_ok, **options)
    chosen = {"counts_layer": counts_layer, "raw": raw, "gene_column": gene_column, "allow_non_counts": allow_non_counts}
    tokens = tokens_of(adata, embedder.checkpoint, **chosen)
    table = compare(
        tokens,
        embedder,
        cells,
        counts=_counts(adata, counts_layer, raw),
        pool=None if pool is None else pool_names(pool),
        layer=_several(layer),
        settings=settings,
        n_random=n_random,
        options=options,
    )
    said = {"model": embedder.checkpoint.name} | embedder.checkpoint.remarks
    table.attrs = settings_of(settings, label, batch, cells) | said | {"n_random": n_random}
    return table


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
    """Writes the labels of the reference, their confidence and the distance into `adata.obs`."""
    import pandas as pd

    from rankcell.assess import Reference
    from rankcell.assess import map_labels as mapped

    require_anndata(adata, "rc.tl.map_labels")
    if isinstance(reference, (str, os.PathLike)):
        reference = _read(reference)
    require_anndata(reference, "rc.tl.map_labels", what="reference")
    if metric not in ("cosine", "euclidean"):
        raise SettingsError(f"unknown metric '{metric}'; cosine or euclidean")
    x, known = embedding(adata, key), embedding(reference, key, where="the reference")
    require_same_origin(adata, reference, key, x.shape[1], known.shape[1])
    labels = _categorical(obs_column(reference, label, where="the reference"))
    good = np.isfinite(known).all(1) & (labels.codes >= 0)
    if not good.all():
        n = int((~good).sum())
        note(f"{n:,} of {len(good):,} reference cells lack a label '{label}' or an embedding: they are left out")
    found = mapped(x, Reference(known[good], labels.codes[good], len(labels.categories)), k=k, metric=metric)
    name = key_added or f"{label}_mapped"
    adata.obs[name] = pd.Categorical.from_codes(found.code, dtype=labels.dtype)
    adata.obs[f"{name}_confidence"] = found.confidence
    adata.obs[f"{name}_distance"] = found.distance


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
    allow_non_counts: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tokens_per_batch: int | None = None,
) -> Any:
    """A DataFrame, one row per pooling, layer, kind of edit and decile."""
    from rankcell.assess import rank_bias as bias
    from rankcell.assess.poolings import fitting_pools, pool_names
    from rankcell.assess.rankbias import BiasSettings
    from rankcell.embed import Embedder

    settings = BiasSettings(tuple(_several(how)), n_bins, cells, seed)
    precision = "fp32" if precision == "auto" else precision  # shifts can be smaller than what bf16 rounds off
    model = model_for(adata, model, vocab=vocab, vocab_mismatch_ok=vocab_mismatch_ok)
    embedder = Embedder(
        model, vocab=vocab, vocab_mismatch_ok=vocab_mismatch_ok, device=device, precision=precision, tokens_per_batch=tokens_per_batch
    )
    settings.check(embedder.checkpoint.vocab)
    chosen = {"counts_layer": counts_layer, "raw": raw, "gene_column": gene_column, "allow_non_counts": allow_non_counts}
    tokens = tokens_of(adata, embedder.checkpoint, **chosen)
    layers = _several(layer)
    pools = fitting_pools(embedder, tokens, layers) if pool is None else pool_names(pool)
    return bias(tokens, embedder, pool=pools, layer=layers, settings=settings)


# What an AnnData holds


def require_anndata(adata: Any, verb: str, what: str = "adata") -> None:
    if not hasattr(adata, "obsm"):
        raise InputError(f"{verb} wants an AnnData as {what} and got {type(adata).__name__}: read the file first")


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
    from rankcell.assess import LabelledCells

    values = obs_column(adata, label)
    batches = None if batch is None else obs_column(adata, batch)
    return LabelledCells.of(values, batches, folds=settings.folds, name=label, batch_name=batch or "")


def settings_of(settings: Any, label: str, batch: str | None, cells: Any) -> dict[str, Any]:
    """What the attrs of a table of scores hold: plain JSON."""
    found = {"label": label, "batch": batch, "k": settings.k, "folds": settings.folds, "resolution": list(settings.resolution)}
    return found | {"seed": settings.seed, "small_labels": list(cells.small), "largest_label": cells.largest}


def require_same_origin(adata: Any, reference: Any, key: str, width: int, reference_width: int) -> None:
    """Raise unless the two embeddings are equally wide and, where both say how they were made, were made alike."""
    own, other = _origin(adata, key), _origin(reference, key)
    for what in own:
        if what in other and own[what] != other[what]:
            raise SettingsError(
                f"obsm key '{key}' was made with {what} {own[what]} in adata and with {what} {other[what]} in the reference: embed both alike"
            )
    if width != reference_width:
        raise SettingsError(f"obsm key '{key}' has {width} columns in adata and {reference_width} in the reference: embed both alike")


def _origin(adata: Any, key: str) -> dict[str, str]:
    """Model, vocabulary, frame, pooling and layer of an embedding, as far as `uns["rankcell"]` says."""
    entry = adata.uns.get("rankcell", {})
    outputs = entry.get("outputs", {}) if hasattr(entry, "get") else {}
    if not hasattr(outputs, "get") or not hasattr(outputs.get(key), "get"):  # another embedding, of which nothing is said
        return {}
    entry = {**{k: entry[k] for k in entry}, **{k: outputs[key][k] for k in outputs[key]}}  # an older output says itself whose it is
    found = {what: str(entry[what]) for what in ("pool", "layer") if what in outputs[key]}
    for what in ("model", "vocabulary"):
        if f"{what}_hash" in entry:
            found[what] = f"'{entry.get(what, '')}' ({str(entry[f'{what}_hash'])[:12]})"
    if "frame" in entry:
        frame = entry["frame"]
        found["frame"] = frame if isinstance(frame, str) else json.dumps(frame)
    return found


def _categorical(values: Any) -> Any:
    """A column's values as a pandas Categorical without unused categories."""
    import pandas as pd

    return pd.Categorical(values).remove_unused_categories()


def _read(path: str | os.PathLike) -> Any:
    import anndata as ad

    if not os.path.exists(path):
        raise InputError(f"no such file: {path}")
    try:
        return ad.read_h5ad(path)
    except (OSError, KeyError, ValueError) as e:
        raise InputError(f"{path} cannot be read as h5ad: {e}") from e


def _counts(adata: Any, counts_layer: str | None, raw: bool) -> Any:
    """The matrix that the tokens are made from, in memory."""
    import scipy.sparse as sp

    x = adata.raw.X if raw else adata.X if counts_layer is None else adata.layers[counts_layer]
    for way in ("to_memory", "compute"):  # backed; dask
        x = getattr(x, way)() if hasattr(x, way) else x
    return sp.csr_matrix(x if sp.issparse(x) else np.asarray(x))


def _offer(name: str, names: Sequence[str]) -> str:
    lower = {str(n).lower(): str(n) for n in names}
    near = [lower[n] for n in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.6)]
    if near:
        return f"; did you mean {' or '.join(repr(n) for n in near)}?"
    return f" (it has: {', '.join(map(str, list(names)[:12])) or 'none'}{', ...' if len(names) > 12 else ''})"


def _several(value: Any) -> list[Any]:
    return [value] if isinstance(value, (str, int, np.integer)) else list(dict.fromkeys(value))
