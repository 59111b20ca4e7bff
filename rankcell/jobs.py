"""One function a verb: files in, files out. The command line and the counters (pp, tl) both stand on these."""

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rankcell.errors import InputError, OutputError, RankcellWarning, SettingsError, VocabularyError
from rankcell.tokens import Tokenizer, TokenSet
from rankcell.vocab import SPECIALS, Vocabulary, build_vocabulary, find_vocabulary, import_geneformer, shipped_vocabularies
from rankcell.vocab.vocabulary import ensembl_id

Progress = Callable[[int, int], None] | None


def is_token_folder(source: Any) -> bool:
    """Whether `source` is the path of a `datasets` folder."""
    return isinstance(source, (str, os.PathLike)) and (Path(source) / "state.json").exists()


def tokenize(
    source: Any,
    out: str | os.PathLike | None = None,
    *,
    vocab: str | os.PathLike | Vocabulary = "demo",
    max_len: int | None = None,
    cls: bool | None = None,
    layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    obs: Sequence[str] = (),
    allow_non_counts: bool = False,
    workers: int | None = None,
    force: bool = False,
    progress: Progress = None,
) -> TokenSet:
    """Counts -> TokenSet, in memory or streamed into the folder `out`."""
    tokenizer = Tokenizer(vocab, max_len=max_len, cls=cls)
    obs = [obs] if isinstance(obs, str) else list(obs)
    how = dict(obs=obs, layer=layer, raw=raw, gene_column=gene_column, allow_non_counts=allow_non_counts, workers=workers)
    if out is None:
        return tokenizer.tokenize(source, **how)
    return tokenizer.write(source, out, force=force, progress=progress, **how)


def tokens_of(
    source: Any,
    checkpoint: Any,
    *,
    obs: Sequence[str] = (),
    counts_layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    allow_non_counts: bool = False,
) -> TokenSet:
    """What a model is to be run on: a TokenSet as it is, a token folder, or counts tokenized with the model's vocabulary."""
    if isinstance(source, TokenSet):
        return source
    if is_token_folder(source):
        if counts_layer or raw or gene_column:
            raise SettingsError(f"{source} holds tokens: --counts-layer, --raw and --gene-column are for counts")
        has_spec = (Path(source) / "rankcell.json").exists()
        return TokenSet.open(source, vocab=None if has_spec else checkpoint.vocab)
    if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
        raise InputError(f"{source} is a folder but no token set (it has no state.json)")
    tokenizer = Tokenizer(checkpoint.vocab, max_len=checkpoint.max_len)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[0-9,]+ of [0-9,]+ cells have no gene", RankcellWarning)  # said by what comes next
        return tokenizer.tokenize(source, obs=obs, layer=counts_layer, raw=raw, gene_column=gene_column, allow_non_counts=allow_non_counts)


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


def named_genes(genes: str | Sequence[str]) -> str | list[str]:
    """`all`, `A,B` or `@file` (a name a line) -> "all" or a list of names; lists pass."""
    if not isinstance(genes, str):
        return list(genes)
    if genes == "all":
        return genes
    if not genes.startswith("@"):
        return [g.strip() for g in genes.split(",") if g.strip()]
    path = Path(genes[1:])
    if not path.is_file():
        raise InputError(f"no such file: {path} (from --genes {genes})")
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [g for line in lines for g in line.replace(",", " ").split()]


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


def build_vocab(
    sources: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    ids: str | os.PathLike | None = None,
    name: str | None = None,
    species: str = "",
    max_len: int = 4096,
    cls: bool = True,
    layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    force: bool = False,
) -> Vocabulary:
    """Count files with the same genes -> a vocabulary folder `out` (see rankcell.vocab.build_vocabulary)."""
    from rankcell.counts import open_counts
    from rankcell.errors import GeneError
    from rankcell.store import require_new
    from rankcell.vocab.catalog import read_ids
    from rankcell.vocab.folder import HEAD

    require_new(out, force=force, marker=HEAD)
    if not sources:
        raise InputError("no count file was named")
    table = read_ids(ids) if ids is not None else None
    genes: list[str] = []
    facts = []

    def blocks():
        for source in sources:
            with open_counts(source, layer=layer, raw=raw) as counts:
                here = counts.var[_gene_column(counts, gene_column, table is not None)]
                if genes and here != genes:
                    raise GeneError(
                        f"{counts.name} has other genes, or another order, than {facts[0]['file']}: build from files with the same genes"
                    )
                genes[:] = here
                facts.append({"file": os.path.basename(counts.name), "cells": counts.n_cells, "matrix": counts.matrix})
                yield from counts.blocks()

    with open_counts(sources[0], layer=layer, raw=raw) as first:
        column = _gene_column(first, gene_column, table is not None)
        index = next(iter(first.var))
        genes[:] = first.var[column]
        symbols = first.var[index] if column != index and _ensembl_share(first.var[index]) < 0.5 else None
    vocab = build_vocabulary(
        blocks(),
        genes,
        name=name or Path(out).name,
        ids=table,
        symbols=symbols,
        special=SPECIALS if cls else SPECIALS[:2],
        species=species,
        max_len=max_len,
        provenance={
            "built_from": facts,
            "gene_column": column,
            "command": _build_command(sources, out, ids, name, species, max_len, cls, layer, raw, gene_column),
        },
    )
    vocab.save(out, force=force)
    return vocab


def _gene_column(counts: Any, asked: str | None, has_table: bool) -> str:
    """The var column to name genes by: the one asked for; with a table of ids the index; else the one of most Ensembl ids, if
    they are more than half of it, and the index otherwise."""
    from rankcell.errors import GeneError

    if asked is not None and asked not in counts.var:
        raise GeneError(f"{counts.name} has no gene column '{asked}'; it has {', '.join(counts.var)}")
    if asked is not None or has_table:
        return asked or next(iter(counts.var))
    best = max(counts.var, key=lambda column: _ensembl_share(counts.var[column]))
    return best if _ensembl_share(counts.var[best]) > 0.5 else next(iter(counts.var))


def _ensembl_share(names: Sequence[str]) -> float:
    return sum(bool(ensembl_id(n)) for n in names) / max(1, len(names))


def _build_command(sources, out, ids, name, species, max_len, cls, layer, raw, gene_column) -> str:
    """The command line that makes this vocabulary, with file names and without folders."""
    words = ["rankcell vocab build", *(os.path.basename(s) for s in map(str, sources)), "-o", os.path.basename(str(out))]
    words += ["--ids", os.path.basename(str(ids))] if ids is not None else []
    options = {"--name": name, "--species": species, "--layer": layer, "--gene-column": gene_column}
    words += [w for option, value in options.items() if value for w in (option, str(value))]
    words += ["--max-len", str(max_len)] if max_len != 4096 else []
    words += ["--raw"] if raw else []
    return " ".join(words + ([] if cls else ["--no-cls"]))


def import_vocab(
    out: str | os.PathLike,
    *,
    tokens: str | os.PathLike,
    medians: str | os.PathLike,
    mapping: str | os.PathLike | None = None,
    symbols: str | os.PathLike | None = None,
    name: str | None = None,
    max_len: int | None = None,
    force: bool = False,
) -> Vocabulary:
    """Geneformer's dictionary pickles -> a vocabulary folder `out`."""
    from rankcell.store import require_new
    from rankcell.vocab.folder import HEAD

    require_new(out, force=force, marker=HEAD)
    vocab = import_geneformer(tokens, medians, mapping=mapping, symbols=symbols, name=name or Path(out).name, max_len=max_len)
    vocab.save(out, force=force)
    return vocab


def show_vocab(vocab: str | os.PathLike) -> list[str]:
    """What a vocabulary is, as lines of text."""
    v = find_vocabulary(vocab)
    special = ", ".join(f"{name}={token}" for name, token in v.special.items())
    frame = f"head {list(v.frame.head)}, tail {list(v.frame.tail)}"
    n_symbols = sum(map(bool, v.symbols))
    lines = [
        f"name        {v.name}",
        f"species     {v.species or 'not said'}",
        f"genes       {len(v):,} ({sum(g.startswith('ENS') for g in v.genes):,} with an Ensembl id, {n_symbols:,} with a symbol)",
        f"such as     {v.examples()}",
        f"aliases     {len(v.aliases):,}",
        f"special     {special}",
        f"frame       {frame}",
        f"max_len     {v.max_len}",
        f"target_sum  {v.target_sum:g}",
        f"hash        {v.hash}",
    ]
    return lines + [f"{key:<11} {value}" for key, value in v.provenance.items()]
