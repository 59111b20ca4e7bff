"""Comparison of poolings and layers on counts or tokens: the input is opened, its cells are labelled, tokenized and scored."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rankcell.arguments import layer_list
from rankcell.assess.anndata_parts import labelled_cells
from rankcell.assess.clusters import computable
from rankcell.assess.embedding_scores import LabelledCells
from rankcell.assess.options import COMPARED_LAYERS, N_RANDOM, Scoring
from rankcell.assess.poolings import compare_poolings, pool_names
from rankcell.counts import open_at_counts
from rankcell.counts.genes.genomes import keep_genome
from rankcell.counts.options import Counts
from rankcell.embed import Embedder
from rankcell.model.chosen_model import model_for
from rankcell.model.options import Compute, ModelLike
from rankcell.progress import Progress
from rankcell.tokens import TokenSet
from rankcell.tokens.opening import TokenNeeds, is_tokens, require_there, tokens_of
from rankcell.vocab import Vocabulary


def compare_cells(
    source: Any,
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
    progress: Progress = None,
) -> Any:
    """Compare poolings and layers by their scores against the cell column `label`, beside random weights and PCA: see rankcell.tl.compare_poolings.

    source
        A count file, a token folder, an AnnData or a TokenSet. Tokens hold no counts, so there is no PCA beside them.
    """
    require_there(source)
    scoring = computable(scoring)
    embedder = Embedder(model_for(source, model), compute)
    cells, tokens = _cells_and_tokens(source, embedder.checkpoint, label, batch, scoring, counts)
    table = compare_poolings(
        tokens,
        embedder,
        cells,
        counts=None if is_tokens(source) else count_matrix(source, embedder.checkpoint.vocab, counts),
        pool=None if pool is None else pool_names(pool),
        layer=layer_list(layer),
        scoring=scoring,
        n_random=n_random,
        compute=compute,
        progress=progress,
    )
    model_facts = {"model": embedder.checkpoint.name} | embedder.checkpoint.remarks
    table.attrs = score_facts(scoring, label, batch, cells) | model_facts | {"n_random": n_random}
    return table


def score_facts(scoring: Scoring, label: str, batch: str | None, cells: LabelledCells) -> dict[str, Any]:
    """The settings and counts in the attrs of a table of scores, as plain JSON."""
    facts = {"label": label, "batch": batch, "k": scoring.k, "folds": scoring.folds, "resolution": list(scoring.resolution)}
    return facts | {"seed": scoring.seed, "small_labels": list(cells.small), "largest_label": cells.largest}


def _cells_and_tokens(
    source: Any, checkpoint: Any, label: str, batch: str | None, scoring: Scoring, counts: Counts
) -> tuple[LabelledCells, TokenSet]:
    """The labelled cells, which are checked first where they are at hand, and the tokens."""
    if hasattr(source, "obsm"):
        return labelled_cells(source, label, batch, scoring.folds), tokens_of(source, checkpoint, counts=counts)
    columns = [label] if batch is None else [label, batch]
    tokens = tokens_of(source, checkpoint, counts=counts, needs=TokenNeeds(columns))
    values = [_with_missing(tokens.obs(c)) for c in columns]
    batches = values[1] if batch is not None else None
    return LabelledCells.of(values[0], batches, folds=scoring.folds, name=label, batch_name=batch or ""), tokens


def _with_missing(values: np.ndarray) -> Any:
    """A column of tokens with "" as missing: text columns of files have no other way to say it."""
    import pandas as pd

    series = pd.Series(values)
    return series.where(series != "") if series.dtype == object else series


def count_matrix(source: Any, vocab: Vocabulary, counts: Counts) -> Any:
    """The matrix that the tokens are made from, in memory: scipy csr, cells x genes."""
    import scipy.sparse as sp

    place = {"layer": counts.counts_layer, "raw": counts.raw, "genome": counts.genome}
    with open_at_counts(source, **place, allow_non_counts=counts.allow_non_counts) as opened:
        keep_genome(opened, counts.genome, vocab)
        parts = [
            sp.csr_matrix((block.data, block.indices, block.indptr), (len(block), opened.n_genes))
            for block in opened.blocks(allow_non_counts=counts.allow_non_counts)
        ]
    return sp.vstack(parts, format="csr")
