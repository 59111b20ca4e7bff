"""Counts or tokens through a model: embeddings, training."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankcell.arguments import whole_layers
from rankcell.counts.options import Counts
from rankcell.embed.carried import columns_to_carry
from rankcell.errors import SettingsError, VocabularyError
from rankcell.model.chosen_model import model_for
from rankcell.model.options import Compute, Model
from rankcell.progress import Progress
from rankcell.store import require_apart
from rankcell.tokens import TokenSet
from rankcell.tokens.opening import TokenNeeds, is_token_folder, require_there, tokens_of, tokens_on_disk
from rankcell.vocab import Vocabulary, find_vocabulary
from rankcell.vocab.catalog import find_by_hash
from rankcell.wording import option

LITTLE_LEARNED = 0.05  # nats a masked gene: a model of smaller gain over gene frequencies is no use


def embed(
    source: Any,
    out: str | os.PathLike | None = None,
    *,
    model: Any = None,
    vocab: str | os.PathLike | Vocabulary | None = None,
    vocab_mismatch_ok: bool = False,
    pool: str | Sequence[str] = "mean",
    layer: int | Sequence[int] = -2,
    include: str | Sequence[str] = "cell",
    by: str | None = None,
    statistic: str = "mean",
    dtype: str = "float32",
    counts_layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    genome: str | None = None,
    allow_non_counts: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tokens_per_batch: int | None = None,
    shard: str | None = None,
    force: bool = False,
    progress: Progress = None,
) -> Any:
    """Counts or tokens -> Embeddings of the cells in memory; with `out` a store, of which a rankcell.embed.store_run.Written is returned.

    shard
        `i/n`: only the i-th of n parts of the store is computed (-> rankcell.store.parts.PartDone); the same without it puts them together.

    include, by, statistic, dtype
        What the store is to hold: see rankcell.embed.embed_config.EmbedConfig.
    """
    from rankcell.embed import Embedder
    from rankcell.embed.embed_config import EmbedConfig
    from rankcell.embed.store_run import check_store, embed_to_store

    pool, include = ([x] if isinstance(x, str) else list(dict.fromkeys(x)) for x in (pool, include))
    layer = whole_layers(layer)
    config = EmbedConfig(pool, layer, [i.strip() for part in include for i in part.split(",")], by, statistic, dtype)
    config.check()
    if out is None and config.include != ["cell"]:
        raise SettingsError(f"{', '.join(config.include)} need an output to be written to")
    if out is None and shard is not None:
        raise SettingsError(f"{option('shard', shard)} is of an output that is written: name one")
    if out is not None:
        require_there(source)
        require_apart(out, [source])
        check_store(out, config, force=force)
    embedder = Embedder(Model(model, vocab=vocab, vocab_mismatch_ok=vocab_mismatch_ok), Compute(device, precision, tokens_per_batch))
    counts = Counts(counts_layer, raw, gene_column, genome, allow_non_counts)
    is_file = isinstance(source, (str, os.PathLike)) and not is_token_folder(source)
    obs = [by] if by is not None else []
    if out is None:
        return embedder.embed(tokens_of(source, embedder.checkpoint, counts=counts, needs=TokenNeeds(obs)), pool=pool, layer=layer, progress=progress)
    if is_file:
        obs = list(dict.fromkeys([*obs, *columns_to_carry(source, out, named=obs)]))
    with tokens_on_disk(source, embedder.checkpoint, beside=out, counts=counts, needs=TokenNeeds(obs)) as tokens:
        how = {"shard": shard, "force": force, "progress": progress, "source": Path(source) if is_file else None}
        is_folder = isinstance(source, (str, os.PathLike)) and not is_file
        return embed_to_store(embedder, tokens, out, config, tokens_folder=Path(source) if is_folder else None, **how)


def state_embeddings(
    source: Any,
    by: str,
    model: Any = None,
    *,
    statistic: str = "mean",
    pool: str | Sequence[str] = "mean",
    layer: int | Sequence[int] = -2,
    vocab: str | os.PathLike | Vocabulary | None = None,
    vocab_mismatch_ok: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tokens_per_batch: int | None = None,
    progress: Progress = None,
    **counts: Any,
) -> Any:
    """Counts or tokens -> a DataFrame of the embedding of each category in the cell column `by`; `counts`: as for `tokens_of`."""
    import pandas as pd

    from rankcell.embed import Embedder
    from rankcell.embed.embedding_tables import CELLS
    from rankcell.embed.groups import check_statistic, groups_of, state_vectors

    check_statistic(statistic)
    layer = whole_layers(layer)
    embedder = Embedder(model_for(source, Model(model, vocab=vocab, vocab_mismatch_ok=vocab_mismatch_ok)), Compute(device, precision, tokens_per_batch))
    tokens = tokens_of(source, embedder.checkpoint, counts=Counts(**counts), needs=TokenNeeds([by]))
    groups, keep = groups_of(tokens, by), tokens.n_genes > 0
    found = embedder.embed(tokens, pool=pool, layer=layer, progress=progress)
    cells = found.result().tables[CELLS]
    table = pd.DataFrame({"state": groups.names, "n_cells": groups.counts(keep)})
    for name in found.columns:
        table[name] = list(state_vectors(cells, name, groups, keep, statistic).astype("float32"))
    table.attrs["rankcell"] = found.meta | {"by": by, "statistic": statistic}
    return table


def gene_embeddings(
    source: Any,
    model: Any = None,
    *,
    by: str | None = None,
    per_cell: bool = False,
    layer: int = -2,
    vocab: str | os.PathLike | Vocabulary | None = None,
    vocab_mismatch_ok: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tokens_per_batch: int | None = None,
    progress: Progress = None,
    **counts: Any,
) -> Any:
    """Counts or tokens -> an AnnData of genes, their mean state over cells (of each category of `by`) or their state in each cell."""
    from rankcell.embed import Embedder
    from rankcell.embed.contexts import gene_means, gene_states

    layers = whole_layers(layer)
    if len(layers) != 1:
        raise SettingsError(f"gene embeddings are of one layer, and {len(layers)} were named: call it once for each")
    if by is not None and per_cell:
        raise SettingsError("by is for means over cells: leave out per_cell")
    embedder = Embedder(model_for(source, Model(model, vocab=vocab, vocab_mismatch_ok=vocab_mismatch_ok)), Compute(device, precision, tokens_per_batch))
    tokens = tokens_of(source, embedder.checkpoint, counts=Counts(**counts), needs=TokenNeeds([] if by is None else [by]))
    if per_cell:
        return gene_states(embedder, tokens, layers[0], progress=progress)
    return gene_means(embedder, tokens, layers[0], by=by, progress=progress)


def pretrain(
    source: Any,
    out: str | os.PathLike,
    *,
    vocab: str | os.PathLike | Vocabulary | None = None,
    device: str = "auto",
    precision: str = "auto",
    force: bool = False,
    progress: Progress = None,
    **recipe: Any,
) -> dict[str, Any]:
    """Tokens -> a trained checkpoint folder `out`; `recipe`: the fields of rankcell.train.Recipe."""
    from rankcell.train import Recipe, pretrain

    chosen = None if vocab is None else find_vocabulary(vocab)
    tokens = source if isinstance(source, TokenSet) else TokenSet.open(source, vocab=chosen)
    chosen = chosen or _shipped_of(tokens)
    return pretrain(tokens, out, vocab=chosen, recipe=Recipe(**recipe), device=device, precision=precision, force=force, progress=progress)


def training_report(facts: dict[str, Any]) -> list[str]:
    """The outcome of `pretrain` in a line or two: held-out loss and accuracy beside guessing by gene frequency."""
    model, frequent = facts["heldout_excluding_shown"], facts["baselines"]["frequent"]
    gain = frequent["loss"] - model["loss"]
    lines = [
        f"held-out masked genes: loss {model['loss']:.3f} (by gene frequency {frequent['loss']:.3f}), top 10 {model['top10']:.3f} "
        f"({frequent['top10']:.3f}); {facts['n_train']:,} cells, {facts['steps']:,} steps, {facts['minutes']} minutes"
    ]
    if gain < LITTLE_LEARNED:
        lines.append(
            f"the model has learned little more than gene frequencies (gain {gain:.3f} nats a gene): it needs more steps, cells, or a "
            "vocabulary of fewer genes (rankcell vocab build --min-cells N)"
        )
    return lines


def _shipped_of(tokens: TokenSet) -> Vocabulary:
    """The shipped vocabulary that the tokens were made with; VocabularyError when there is none."""
    found = find_by_hash(tokens.spec.vocabulary_hash)
    if found is not None:
        return found
    raise VocabularyError(f"the tokens' vocabulary '{tokens.spec.vocabulary}' does not ship with rankcell and was not fetched: pass its folder with {option('vocab')}")
