"""Genes in context, in memory: means over cells, or the state in each cell, as an AnnData of genes."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.embed.embedder import TOKENS_PER_UNIT, Embedder, Ticker, units_of, warn_of_empty
from rankcell.embed.gene_sums import GeneSums
from rankcell.embed.groups import Groups, groups_of
from rankcell.embed.unit_cells import Work
from rankcell.errors import SettingsError
from rankcell.tokens.tokenset import TokenSet
from rankcell.vocab import Vocabulary

Progress = Callable[[int, int], None] | None


def gene_means(embedder: Embedder, tokens: TokenSet, layer: int, *, by: str | None = None, progress: Progress = None) -> Any:
    """An AnnData, a row per gene (and group of `by`): X the mean state, layers["sd"], obs gene, symbol, group, n."""
    groups = None if by is None else groups_of(tokens, by)
    sums = GeneSums(
        embedder.checkpoint.vocab.n_ids, embedder.checkpoint.width, embedder.layers(layer), None if groups is None else groups.codes
    )
    _run(embedder, tokens, layer, Work([], sums=sums), progress)
    columns = gene_mean_columns(sums, groups, embedder.checkpoint.vocab, "float32")
    mean, sd = (columns.pop(f"{k}_layer{layer}") for k in ("mean", "sd"))
    names = columns["gene"] if groups is None else [f"{g}|{gene}" for g, gene in zip(columns["group"], columns["gene"], strict=True)]
    adata = _anndata(mean, columns, names, embedder.meta(tokens, []) | {"layer": layer})
    adata.layers["sd"] = sd
    return adata


def gene_states(embedder: Embedder, tokens: TokenSet, layer: int, *, progress: Progress = None) -> Any:
    """An AnnData, a row per cell and gene: X the state, obs cell_id, gene, symbol, rank."""
    parts = _run(embedder, tokens, layer, Work([], embedder.layers(layer)), progress)
    vocab, n = embedder.checkpoint.vocab, np.maximum(tokens.n_genes, 0)
    flat = np.concatenate([np.empty(0, np.int32), *(tokens.genes(i) for i in range(len(tokens)))])
    genes = vocab.gene_of_token[flat]
    columns = {
        "cell_id": np.asarray(tokens.cell_ids, object)[np.repeat(np.arange(len(tokens)), n)],
        "gene": np.asarray(vocab.genes, object)[genes],
        "symbol": np.asarray(vocab.symbols, object)[genes],
        "rank": (np.arange(len(flat)) - np.repeat(np.cumsum(n) - n, n)).astype(np.int32),
    }
    names = [f"{c}|{g}" for c, g in zip(columns["cell_id"], columns["gene"], strict=True)]
    values = np.concatenate([np.empty((0, embedder.checkpoint.width), np.float32), *parts])
    return _anndata(values, columns, names, embedder.meta(tokens, []) | {"layer": layer})


def _run(embedder: Embedder, tokens: TokenSet, layer: int, work: Work, progress: Progress) -> list[np.ndarray]:
    """The genes' states unit by unit, where `work` keeps them."""
    embedder.require_one_device()
    embedder.settle_precision(tokens, embedder.check(tokens, "mean", layer))
    warn_of_empty(tokens)
    tick = Ticker(tokens, progress)
    units = units_of(tokens.lengths, embedder.tokens_per_unit(TOKENS_PER_UNIT))
    states_of_unit = [embedder.run(tokens, np.arange(a, b), work, tick=tick.add).genes for a, b in units]
    return [genes[layer] for genes in states_of_unit if genes]


def _anndata(values: np.ndarray, columns: dict[str, Any], names: list[str], meta: dict[str, Any]) -> Any:
    import anndata as ad
    import pandas as pd

    adata = ad.AnnData(values, obs=pd.DataFrame(columns, index=pd.Index(names, dtype=object)))
    adata.uns["rankcell"] = {k: v for k, v in meta.items() if not isinstance(v, dict)}
    return adata


def gene_mean_columns(sums: GeneSums, groups: Groups | None, vocab: Vocabulary, dtype: str) -> dict[str, Any]:
    """gene, symbol, the group if there are any, n, and mean and sd of each layer; by group, then by token."""
    if not sums.counts:
        raise SettingsError("no cell has genes: there is nothing to take means of")
    names = gene_names(vocab).to_pylist()
    parts_of_column: dict[str, list[Any]] = {}
    for g in sorted(sums.counts):
        parts: dict[str, Any] = {}
        for layer in sums.layers:
            tokens, n, mean, sd = sums.mean_sd(g, layer)
            parts |= {"gene": [names[t] for t in tokens], "symbol": [vocab.symbols[vocab.gene_of_token[t]] for t in tokens]}
            parts |= {} if groups is None else {"group": [groups.names[g]] * len(tokens)}
            parts |= {"n": n, f"mean_layer{layer}": mean.astype(dtype), f"sd_layer{layer}": sd.astype(dtype)}
        for key, values in parts.items():
            parts_of_column.setdefault(key, []).append(values)
    return {k: np.concatenate(v) if isinstance(v[0], np.ndarray) else list(itertools.chain.from_iterable(v)) for k, v in parts_of_column.items()}


def gene_names(vocab: Vocabulary) -> pa.Array:
    """The gene id of each token number."""
    names = [""] * vocab.n_ids
    for gene, token in zip(vocab.genes, vocab.tokens, strict=True):
        names[int(token)] = gene
    return pa.array(names, pa.string())
