"""Label transfer from reference cells to other cells: AnnData in memory, or files in and a file out."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from rankcell.assess.anndata_parts import embedding, obs_column, require_anndata
from rankcell.assess.label_tables import UNSURE, check_out, write_labels
from rankcell.assess.options import LabelMapping
from rankcell.counts.options import Counts
from rankcell.embed.added import added_name, foreign_columns, label_columns, require_free
from rankcell.embed.options import KEY, LAYER, POOL
from rankcell.errors import CellError, InputError, SettingsError
from rankcell.model.chosen_model import model_for
from rankcell.model.options import Compute, Model, ModelLike
from rankcell.progress import Passes, Progress
from rankcell.tokens import TokenSet
from rankcell.tokens.opening import TokenNeeds, is_tokens, require_there, tokens_of
from rankcell.wording import note, option

_TOLERANCE = 1e-3  # of its length: two embeddings of one cell differ by less, whatever batches and precision they were made in


@dataclass(frozen=True)
class Embedded:
    """Cells with an embedding: `cell_ids`, `x` [cells, width], their `labels` (None unless requested), and the record of how `x` was computed.

    entry
        As `uns["rankcell"]` of an AnnData: empty where nothing is said.
    """

    cell_ids: list[str]
    x: np.ndarray
    labels: Any
    entry: Mapping[str, Any]


@dataclass(frozen=True)
class Annotation:
    """What `annotate` wrote: its table (a row per cell), the path, the column of the labels, and how many reference cells voted."""

    table: Any
    path: Path
    column: str
    n_reference: int


def map_labels(
    adata: Any,
    reference: Any,
    label: str,
    *,
    key: str = KEY,
    mapping: LabelMapping = LabelMapping(),
    key_added: str | None = None,
) -> None:
    """Transfer the labels of the reference into `adata.obs`, with confidence and distance."""
    require_anndata(adata, "rc.tl.map_labels")
    name = added_name(key_added, f"{label}_mapped")
    require_free(label_columns(name), foreign_columns(label_columns(name), list(adata.obs)), "adata.obs")
    if isinstance(reference, (str, os.PathLike)):
        reference = _read(reference)
    require_anndata(reference, "rc.tl.map_labels", role="reference")
    cells = Embedded(_ids(adata), embedding(adata, key), None, _uns(adata))
    labels = obs_column(reference, label, where="the reference")
    known = _labelled(Embedded(_ids(reference), embedding(reference, key, where="the reference"), labels, _uns(reference)), label)
    columns = _mapped(cells, known, key, mapping, name)
    for column, values in columns.items():
        adata.obs[column] = values


def annotate(
    source: Any,
    reference: Any,
    out: str | os.PathLike,
    *,
    label: str,
    model: ModelLike = None,
    key: str = KEY,
    pool: str | None = None,
    layer: int | None = None,
    mapping: LabelMapping = LabelMapping(),
    key_added: str | None = None,
    counts: Counts = Counts(),
    compute: Compute = Compute(),
    force: bool = False,
    progress: Progress = None,
) -> Annotation:
    """Label the cells of `source` by their nearest cells in `reference`, and write `out`.

    source, reference
        A count file or a token folder each (or an AnnData, a TokenSet). h5ad files that hold the embedding `key` are taken as they are;
        without it, or with `model` named, the cells are embedded, both alike.
    label
        The cell column of the reference.
    out
        `.csv`, `.tsv` or `.parquet`: a row per cell, `cell_id`, label, confidence, distance; `.h5ad`: a copy of the h5ad `source` with
        these as obs columns.
    pool, layer
        None: as the one that is embedded already says, else `mean` and -2.
    mapping
        See rankcell.tl.map_labels.
    """
    import pandas as pd

    model, name = Model.of(model), added_name(key_added, f"{label}_mapped")
    out = check_out(source, reference, Path(out), label_columns(name), force=force)
    with_model = model.model is not None
    known, cells = (None if with_model else _stored(s, key, column) for s, column in ((reference, label), (source, None)))
    missing = [which for which, there in (("reference", known), ("source", cells)) if there is None]
    _check_used(with_model, key, missing, {"pool": pool, "layer": layer, "vocab": model.vocab, **counts.settings()})
    if missing:
        entry = (known or cells).entry if known or cells else {}
        embedder, outputs = _embedder(model, entry, key, pool, layer, compute)
        inputs = {"source": (source, None), "reference": (reference, label)}
        tokens = {which: _tokens(*inputs[which], embedder.checkpoint, counts) for which in missing}
        if "reference" in missing:
            _require_labelled(tokens["reference"], label, mapping.k)
        passes = Passes(progress, sum(int((t.n_genes > 0).sum()) for t in tokens.values()))
        new_embeddings = {which: _embed(tokens[which], inputs[which][1], embedder, outputs, key, passes) for which in missing}
        known, cells = new_embeddings.get("reference", known), new_embeddings.get("source", cells)
    known = _labelled(known, label)
    columns = _mapped(cells, known, key, mapping, name)
    table = pd.DataFrame({"cell_id": cells.cell_ids, **columns})
    entry = cells.entry or known.entry
    table.attrs = {"label": label} | mapping.settings() | {n: entry[n] for n in ("model", "model_hash", "model_note") if n in entry}
    write_labels(table, source, out, force=force)
    return Annotation(table, out, name, len(known.x))


# The rule


def _note_unsure(n: int, of: int, mapping: LabelMapping) -> None:
    """A note where more than half of the cells with an embedding are unsure: then the reference is in doubt, not the cells."""
    if 2 * n <= of:
        return
    note(
        f"{n:,} of {of:,} cells ({n / of:.0%}) are '{UNSURE}': fewer than {mapping.min_confidence:.0%} of the neighbours agree, or the cell is farther from "
        f"the reference than {mapping.max_distance:.0%} of its cells are from each other; does the reference hold their kinds? "
        f"({option('min_confidence', 0)} and {option('max_distance', 1)} label every cell)"
    )


def _check_used(with_model: bool, key: str, missing: Sequence[str], options: Mapping[str, Any]) -> None:
    """SettingsError for an option that would be ignored: `key` beside a model, those of a model where nothing is embedded."""
    if with_model and key != KEY:
        raise SettingsError(
            f"{option('key', key)} names an embedding that is there, and {option('model')} makes new ones: leave one of them out"
        )
    if not missing and (unused := [option(name) for name, value in options.items() if value not in (None, False)]):
        raise SettingsError(
            f"both inputs hold the embedding '{key}', which is taken as it is: leave out {unused[0]}, or name {option('model')} to embed anew"
        )


def _labelled(known: Embedded, label: str) -> Embedded:
    """The reference cells with a label and an embedding; a note counts the others."""
    import pandas as pd

    labels = pd.Categorical(known.labels)
    good = np.isfinite(known.x).all(1) & (labels.codes >= 0)
    if not good.all():
        n = int((~good).sum())
        note(f"{n:,} of {len(good):,} reference cells lack a label '{label}' or an embedding: they are left out")
    ids = [i for i, is_good in zip(known.cell_ids, good, strict=True) if is_good]
    return Embedded(ids, known.x[good], labels[good].remove_unused_categories(), known.entry)


def _note_shared_cells(cells: Embedded, known: Embedded) -> None:
    """A note when cells are in the reference too: of the same id and embedding."""
    import pandas as pd

    here = pd.Index(cells.cell_ids)
    at = pd.Index(known.cell_ids).get_indexer(here) if here.is_unique and len(set(known.cell_ids)) == len(known.cell_ids) else np.array([])
    rows = np.flatnonzero(at >= 0)
    own, other = cells.x[rows].astype(float), known.x[at[rows]].astype(float)
    n = int((np.linalg.norm(own - other, axis=1) <= _TOLERANCE * np.linalg.norm(own, axis=1)).sum())
    if n:
        note(
            f"{n:,} of {len(here):,} cells are in the reference too, where each is its own nearest neighbour and votes for its own label: "
            "leave them out of the reference to see how well labels are carried over"
        )


def _mapped(cells: Embedded, known: Embedded, key: str, mapping: LabelMapping, name: str) -> dict[str, Any]:
    """{obs column: values}: the label as a Categorical, its confidence, the distance."""
    import pandas as pd

    from rankcell.assess import Reference
    from rankcell.assess import map_labels as vote

    require_same_origin(cells.entry, known.entry, key, cells.x.shape[1], known.x.shape[1])
    labels = known.labels
    votes = vote(cells.x, Reference(known.x, labels.codes, len(labels.categories)), mapping)
    _note_shared_cells(cells, known)
    mapped = pd.Categorical.from_codes(votes.code, dtype=labels.dtype)
    unsure = (votes.code >= 0) & ((votes.confidence < mapping.min_confidence) | (votes.distance > mapping.max_distance))
    _note_unsure(int(unsure.sum()), int((votes.code >= 0).sum()), mapping)
    if unsure.any():
        names = np.array([*map(str, labels.categories), UNSURE], object)
        code = np.where(unsure, len(names) - 1, votes.code)
        mapped = pd.Categorical(np.where(code >= 0, names[code], None), list(dict.fromkeys(names)))
    return dict(zip(label_columns(name), (mapped, votes.confidence, votes.distance), strict=True))


# Embeddings


def _ids(adata: Any) -> list[str]:
    return [str(c) for c in adata.obs_names]


def _uns(adata: Any) -> Mapping[str, Any]:
    entry = adata.uns.get("rankcell", {})
    return entry if hasattr(entry, "get") else {}


def _stored(source: Any, key: str, label: str | None) -> Embedded | None:
    """The embedding `key` that an AnnData or h5ad holds; None where there is none."""
    if isinstance(source, (str, os.PathLike)):
        if Path(source).suffix.lower() != ".h5ad" or not Path(source).is_file():
            return None
        source = _read(source, lightly=True)
    if not hasattr(source, "obsm") or key not in source.obsm:
        return None
    labels = None if label is None else obs_column(source, label, where="the reference")
    return Embedded(_ids(source), embedding(source, key), labels, _uns(source))


def _embedder(
    model: Model, entry: Mapping[str, Any], key: str, pool: str | None, layer: int | None, compute: Compute
) -> tuple[Any, tuple[str, int]]:
    """The Embedder, and the pooling and layer: the arguments, else those of the stored embedding."""
    from rankcell.embed import Embedder

    output = dict(dict(entry.get("outputs", {})).get(key, {})) if entry else {}
    pool = pool if pool is not None else str(output.get("pool", POOL))
    layer = layer if layer is not None else int(output.get("layer", LAYER))
    recorded = SimpleNamespace(obsm={}, uns={"rankcell": {**entry, **output}} if entry else {})
    return Embedder(model_for(recorded, model), compute), (pool, layer)


def _tokens(source: Any, label: str | None, checkpoint: Any, counts: Counts) -> TokenSet:
    """The tokens of a count file, an AnnData or tokens; CellError where no cell has the label."""
    require_there(source)
    tokens = tokens_of(source, checkpoint, counts=Counts() if is_tokens(source) else counts, needs=TokenNeeds([] if label is None else [label]))
    if label is not None:
        tokens.obs_name(label)
    return tokens


def _require_labelled(tokens: TokenSet, label: str, k: int) -> None:
    """Check, before the model runs, that enough cells of the reference have a label and genes."""
    from rankcell.assess.mapping import require_enough

    labels = tokens.obs_df()[tokens.obs_name(label)]
    if not labels.notna().any():
        raise CellError(f"the reference's cell column '{label}' is empty")
    require_enough(int((labels.notna().to_numpy() & (tokens.n_genes > 0)).sum()), k)


def _embed(tokens: TokenSet, label: str | None, embedder: Any, outputs: tuple[str, int], key: str, passes: Passes) -> Embedded:
    from rankcell.embed.stores import uns_entry

    pool, layer = outputs
    passes.begin("the cells" if label is None else "the reference")
    embedded = embedder.embed(tokens, pool=pool, layer=layer, progress=passes.add)
    labels = None if label is None else tokens.obs_df()[tokens.obs_name(label)]
    return Embedded(embedded.cell_ids, next(iter(embedded.columns.values())), labels, uns_entry(embedded.result(), key))


def require_same_origin(own: Mapping[str, Any], other: Mapping[str, Any], key: str, width: int, reference_width: int) -> None:
    """Refuse embeddings of different width, model, vocabulary, pooling or layer, as far as both record these."""
    here, there = _origin(own, key), _origin(other, key)
    for fact in here:
        if fact in there and here[fact] != there[fact]:
            raise SettingsError(
                f"obsm key '{key}' was made with {fact} {here[fact]} in adata and with {fact} {there[fact]} in the reference: embed both alike"
            )
    if width != reference_width:
        raise SettingsError(f"obsm key '{key}' has {width} columns in adata and {reference_width} in the reference: embed both alike")


def _origin(entry: Mapping[str, Any], key: str) -> dict[str, str]:
    """Model, vocabulary, frame, pooling and layer of an embedding, as far as `uns["rankcell"]` says."""
    outputs = entry.get("outputs", {})
    if not hasattr(outputs, "get") or not hasattr(outputs.get(key), "get"):  # another embedding, of which nothing is said
        return {}
    settings = {**{k: entry[k] for k in entry}, **{k: outputs[key][k] for k in outputs[key]}}  # an older output says itself whose it is
    facts = {fact: str(settings[fact]) for fact in ("pool", "layer") if fact in outputs[key]}
    for fact in ("model", "vocabulary"):
        if f"{fact}_hash" in settings:
            facts[fact] = f"'{settings.get(fact, '')}' ({str(settings[f'{fact}_hash'])[:12]})"
    if "frame" in settings:
        frame = settings["frame"]
        facts["frame"] = frame if isinstance(frame, str) else json.dumps(frame)
    return facts


def _read(path: str | os.PathLike, *, lightly: bool = False) -> Any:
    """An h5ad as AnnData; `lightly`: without its matrices."""
    import anndata as ad

    if not os.path.exists(path):
        raise InputError(f"no such file: {path}")
    try:
        if not lightly:
            return ad.read_h5ad(path)
        import h5py

        with h5py.File(path, "r") as f:
            parts = {name: ad.io.read_elem(f[name]) for name in ("obs", "obsm", "uns") if name in f}
        return ad.AnnData(**parts)
    except (OSError, KeyError, ValueError, TypeError) as e:
        raise InputError(f"{path} cannot be read as h5ad: {e}") from e
