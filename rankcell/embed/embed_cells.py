"""Counts or tokens -> embeddings of the cells: the input is opened, tokenized where it holds counts, and embedded."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rankcell.counts.options import Counts
from rankcell.embed.carried import columns_to_carry
from rankcell.embed.embedder import Embedder
from rankcell.embed.embedding_tables import Embeddings
from rankcell.embed.options import LAYER, POOL, EmbedConfig
from rankcell.embed.store_run import Written, check_store, embed_part_to_store, embed_to_store
from rankcell.model.options import Compute, ModelLike
from rankcell.progress import Progress
from rankcell.store import require_apart
from rankcell.store.parts import PartDone
from rankcell.tokens.opening import TokenNeeds, is_token_folder, require_there, tokens_of, tokens_on_disk


def embed_in_memory(
    source: Any,
    model: ModelLike = None,
    *,
    pool: str | Sequence[str] = POOL,
    layer: int | Sequence[int] = LAYER,
    counts: Counts = Counts(),
    compute: Compute = Compute(),
    progress: Progress = None,
) -> Embeddings:
    """The Embeddings of counts (an AnnData, a count file) or tokens."""
    config = EmbedConfig(pool, layer)
    embedder = Embedder(model, compute)
    tokens = tokens_of(source, embedder.checkpoint, counts=counts)
    return embedder.embed(tokens, pool=config.pool, layer=config.layer, progress=progress)


def embed_to_file(
    source: Any,
    out: str | os.PathLike,
    config: EmbedConfig = EmbedConfig(),
    *,
    model: ModelLike = None,
    counts: Counts = Counts(),
    compute: Compute = Compute(),
    force: bool = False,
    progress: Progress = None,
) -> Written:
    """Embeddings of counts or tokens into a store, going on where the same run was stopped."""
    with _opened(source, out, config, model, counts, compute, force) as to_store:
        return to_store(embed_to_store, force=force, progress=progress)


def embed_part(
    source: Any,
    out: str | os.PathLike,
    config: EmbedConfig = EmbedConfig(),
    *,
    shard: str,
    model: ModelLike = None,
    counts: Counts = Counts(),
    compute: Compute = Compute(),
    force: bool = False,
    progress: Progress = None,
) -> PartDone:
    """The part `shard` (i/n) of a store; `embed_to_file` puts the parts together."""
    with _opened(source, out, config, model, counts, compute, force) as to_store:
        return to_store(embed_part_to_store, shard=shard, force=force, progress=progress)


@contextlib.contextmanager
def _opened(
    source: Any, out: str | os.PathLike, config: EmbedConfig, model: ModelLike, counts: Counts, compute: Compute, force: bool
) -> Iterator[Callable]:
    """What runs `embed_to_store` or `embed_part_to_store` on the input; tokens of a large count file stand beside the output meanwhile."""
    require_there(source)
    require_apart(out, [source])
    check_store(out, config, force=force)
    embedder = Embedder(model, compute)
    is_path = isinstance(source, (str, os.PathLike))
    is_file = is_path and not is_token_folder(source)
    obs = [config.by] if config.by is not None else []
    if is_file:
        obs = list(dict.fromkeys([*obs, *columns_to_carry(source, out, required=obs)]))
    with tokens_on_disk(source, embedder.checkpoint, beside=out, counts=counts, needs=TokenNeeds(obs)) as tokens:
        places = {"source": Path(source) if is_file else None, "tokens_folder": Path(source) if is_path and not is_file else None}
        yield lambda run, **options: run(embedder, tokens, out, config, **places, **options)
