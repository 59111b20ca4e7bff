"""A vocabulary from counts: exact non-zero medians of normalised expression, one per gene."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rankcell.errors import VocabularyError
from rankcell.vocab.vocabulary import SPECIALS, Vocabulary, ensembl_id


def build_vocabulary(
    blocks: Iterable[Any],
    genes: Iterable[str],
    *,
    name: str,
    ids: Mapping[str, str] | None = None,
    symbols: Iterable[str] | None = None,
    special: Iterable[str] = SPECIALS,
    species: str = "",
    max_len: int = 4096,
    target_sum: float = 10_000.0,
    provenance: Mapping[str, Any] | None = None,
) -> Vocabulary:
    """Make a Vocabulary from the cells of `blocks` (rankcell.counts.CountBlock, all with the columns `genes`).

    A gene's median is taken over the cells that show it, of count / n_counts * target_sum in float64, where n_counts
    is the cell's total over all its columns (obs `n_counts` where there is one). Genes that no cell shows are left
    out. With `ids` (symbol -> Ensembl id) a column is known by its Ensembl id and keeps its name as the symbol; columns
    of one id are summed. `symbols`: one per column, where `genes` are ids (versions dropped; a symbol stands in for a
    missing id). Tokens follow the special ones in column order. Memory: 8 bytes per stored count.
    """
    ids = ids or {}
    columns = [str(g) for g in genes]
    names = columns if symbols is None else [str(s) for s in symbols]
    keys = [ids.get(c) or ensembl_id(c) or c or n for c, n in zip(columns, names, strict=True)]
    order = list(dict.fromkeys(keys))
    slot_of_key = {k: i for i, k in enumerate(order)}
    slot = np.array([slot_of_key[k] for k in keys], np.int64)
    slots, values = _values(blocks, slot, len(order), target_sum)
    sort = np.argsort(slots, kind="stable")
    slots, values = slots[sort], values[sort]
    seen, start = np.unique(slots, return_index=True)
    if not len(seen):
        raise VocabularyError("no gene has a count: a vocabulary cannot be built from empty cells")
    medians = [float(np.median(v)) for v in np.split(values, start[1:])]
    first_name = {}
    for gene_name, key in zip(names, keys, strict=True):
        first_name.setdefault(key, gene_name)
    special = list(special)
    kept = [order[s] for s in seen]
    return Vocabulary(
        name=name,
        species=species,
        genes=tuple(kept),
        symbols=tuple(first_name[k] if not ensembl_id(first_name[k]) else "" for k in kept),
        tokens=np.arange(len(kept)) + len(special),
        medians=medians,
        special={t: i for i, t in enumerate(special)},
        max_len=max_len,
        target_sum=target_sum,
        provenance=dict(provenance or {}) | {"n_genes_detected": len(kept), "n_columns": len(columns)},
    )


def _values(blocks: Iterable[Any], slot: np.ndarray, n_slots: int, target_sum: float) -> tuple[np.ndarray, np.ndarray]:
    """Every non-zero normalised value with its gene slot, columns of one slot summed within a cell."""
    all_slots, all_values = [], []
    for block in blocks:
        n_rows = len(block.indptr) - 1
        row = np.repeat(np.arange(n_rows), np.diff(block.indptr))
        key = row * n_slots + slot[block.indices]
        unique, where = np.unique(key, return_inverse=True)
        total = np.bincount(where, weights=block.data.astype(np.float64), minlength=len(unique))
        unique, total = unique[total > 0], total[total > 0]
        all_slots.append(unique % n_slots)
        all_values.append(total / block.n_counts.astype(np.float64)[unique // n_slots] * target_sum)
    if not all_slots:
        return np.empty(0, np.int64), np.empty(0)
    return np.concatenate(all_slots), np.concatenate(all_values)
