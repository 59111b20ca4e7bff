"""Counts or tokens through a model: embeddings, screens, training."""

import os
from collections.abc import Sequence
from typing import Any

from rankcell.errors import OutputError, VocabularyError
from rankcell.jobs.inputs import Progress, is_token_folder, named_genes, tokens_of
from rankcell.tokens import TokenSet
from rankcell.vocab import Vocabulary, find_vocabulary, shipped_vocabularies


def embed(
    source: Any,
    out: str | os.PathLike | None = None,
    *,
    model: Any = "demo",
    vocab: str | os.PathLike | Vocabulary | None = None,
    pool: str | Sequence[str] = "mean",
    layer: int | Sequence[int] = -2,
    counts_layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    allow_non_counts: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tokens_per_batch: int | None = None,
    force: bool = False,
    progress: Progress = None,
) -> Any:
    """Counts or tokens -> Embeddings, written to `out` when it is given."""
    from rankcell.embed import Embedder, check_output, write_embeddings

    if out is not None:
        check_output(out, force=force)
        if isinstance(source, (str, os.PathLike)) and os.path.exists(out) and os.path.samefile(source, out):
            raise OutputError(f"{out} is the input, which is never written to: choose another output")
    embedder = Embedder(model, vocab=vocab, device=device, precision=precision, tokens_per_batch=tokens_per_batch)
    tokens = tokens_of(
        source, embedder.checkpoint, counts_layer=counts_layer, raw=raw, gene_column=gene_column, allow_non_counts=allow_non_counts
    )
    found = embedder.embed(tokens, pool=pool, layer=layer, progress=progress)
    if out is not None:
        is_file = isinstance(source, (str, os.PathLike)) and not is_token_folder(source)
        write_embeddings(found, out, tokens=tokens, source=source if is_file else None, force=force)
    return found


def perturb(
    source: Any,
    out: str | os.PathLike,
    *,
    model: Any = "demo",
    vocab: str | os.PathLike | Vocabulary | None = None,
    layer: int = -2,
    kind: str = "delete",
    genes: str | Sequence[str] = "all",
    group: bool = False,
    any: bool = False,
    start: str | None = None,
    toward: str | Sequence[str] = (),
    states: Any = None,
    affected: bool = False,
    readout_compat: str = "rankcell",
    cells: int | None = None,
    seed: int | None = None,
    counts_layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    allow_non_counts: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tokens_per_batch: int | None = None,
    tokens_per_unit: int = 250_000,
    force: bool = False,
    progress: Progress = None,
) -> Any:
    """Counts or tokens -> a finished Screen in the folder `out`, going on where the same command was stopped."""
    from rankcell.perturb import Perturber
    from rankcell.perturb.states import split_state

    perturber = Perturber(model, vocab=vocab, layer=layer, device=device, precision=precision, tokens_per_batch=tokens_per_batch)
    toward = [toward] if isinstance(toward, str) else list(toward)
    columns = [split_state(t, "--toward")[0] for t in toward] + ([split_state(start, "--start")[0]] if start else [])
    tokens = tokens_of(
        source,
        perturber.checkpoint,
        obs=list(dict.fromkeys(columns)),
        counts_layer=counts_layer,
        raw=raw,
        gene_column=gene_column,
        allow_non_counts=allow_non_counts,
    )
    return perturber.perturb(
        tokens,
        out,
        kind=kind,
        genes=named_genes(genes),
        group=group,
        any=any,
        start=start,
        toward=toward,
        states=states,
        affected=affected,
        readout_compat=readout_compat,
        cells=cells,
        seed=seed,
        tokens_per_unit=tokens_per_unit,
        force=force,
        progress=progress,
    )


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


def _shipped_of(tokens: TokenSet) -> Vocabulary:
    """The shipped vocabulary that the tokens were made with; VocabularyError when there is none."""
    for folder in shipped_vocabularies().values():
        vocab = Vocabulary.load(folder)
        if vocab.hash == tokens.spec.vocabulary_hash:
            return vocab
    raise VocabularyError(f"the tokens' vocabulary '{tokens.spec.vocabulary}' does not ship with rankcell: pass its folder with --vocab")
