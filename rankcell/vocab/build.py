"""A vocabulary from counts: exact non-zero medians of normalised expression, one per gene."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rankcell.errors import GeneError, VocabularyError
from rankcell.vocab.medians import Values, exact_medians
from rankcell.vocab.vocabulary import SPECIALS, Vocabulary, ensembl_id
from rankcell.wording import option

TARGET_SUM = 10_000.0
_MISSING = ("", "nan", "NaN", "None", "<NA>")


@dataclasses.dataclass(frozen=True)
class GeneColumns:
    """The gene of each matrix column, as slots over distinct genes.

    keys, symbols
        Each gene once, in the order in which it first comes: its id (or name), and its symbol or "".
    slot_of_column
        int32, one per column: index into `keys`; -1 for a column without a name, which is no gene.
    """

    keys: tuple[str, ...]
    symbols: tuple[str, ...]
    slot_of_column: np.ndarray

    @classmethod
    def of(cls, genes: Iterable[str], *, ids: Mapping[str, str] | None = None, symbols: Iterable[str] | None = None) -> "GeneColumns":
        """Genes by the Ensembl id that `ids` gives, else their own without its version, else their name, else their symbol."""
        ids = ids or {}
        columns = [_gene_name(g) for g in genes]
        names = columns if symbols is None else [_gene_name(s) for s in symbols]
        keys = [ids.get(c) or ensembl_id(c) or c or n for c, n in zip(columns, names, strict=True)]
        first_name: dict[str, str] = {}
        for name, key in zip(names, keys, strict=True):
            if key:
                first_name.setdefault(key, name)
        slot_of_key = {k: i for i, k in enumerate(first_name)}
        return cls(
            keys=tuple(first_name),
            symbols=tuple("" if ensembl_id(n) else n for n in first_name.values()),
            slot_of_column=np.array([slot_of_key.get(k, -1) for k in keys], np.int32),
        )

    def inside(self, all_genes: "GeneColumns") -> "GeneColumns":
        """Renumber the columns to the slots of `all_genes`, whose genes they are among."""
        place = {k: i for i, k in enumerate(all_genes.keys)}
        slots = np.array([place[k] for k in self.keys] + [-1], np.int32)  # the last for -1
        return GeneColumns(all_genes.keys, all_genes.symbols, slots[self.slot_of_column])


def _gene_name(name: str) -> str:
    """A gene's name, "" where it is missing: empty, or what pandas prints for it."""
    text = str(name).strip()
    return "" if text in _MISSING else text


def union_of(parts: Sequence[GeneColumns]) -> GeneColumns:
    """The union of the genes of all parts: in the order of the parts where that is one and the same, else by id, whatever the order of the parts.

    A gene's symbol is the first in the alphabet where the parts give several.
    """
    symbol_of: dict[str, str] = {}
    for part in parts:
        for key, symbol in zip(part.keys, part.symbols, strict=True):
            other = symbol_of.get(key, "")
            symbol_of[key] = min(symbol, other) if symbol and other else symbol or other
    keys = parts[0].keys if len({part.keys for part in parts}) == 1 else tuple(sorted(symbol_of))
    return GeneColumns(keys, tuple(symbol_of[k] for k in keys), np.arange(len(keys), dtype=np.int32))


def build_vocabulary(
    blocks: Callable[[], Iterable[Any]] | Iterable[Any],
    genes: Iterable[str],
    *,
    name: str,
    ids: Mapping[str, str] | None = None,
    symbols: Iterable[str] | None = None,
    special: Iterable[str] = SPECIALS,
    species: str = "",
    max_len: int | None = None,
    target_sum: float = TARGET_SUM,
    min_cells: int = 1,
    provenance: Mapping[str, Any] | None = None,
) -> Vocabulary:
    """Make a Vocabulary from the cells of `blocks` (rankcell.counts.CountBlock, all with the columns `genes`).

    A gene's median is taken over the cells that show it, of count / n_counts * target_sum in float64, where n_counts
    is the cell's total over all its columns (obs `n_counts` where there is one). Genes that fewer than `min_cells` cells
    show are left out. With `ids` (symbol -> Ensembl id) a column is known by its Ensembl id and keeps its name as the
    symbol; columns of one id are summed. `symbols`: one per column, where `genes` are ids (versions dropped; a symbol
    stands in for a missing id). Tokens follow the special ones in column order.

    `blocks` is a function that gives the blocks anew each time it is called, once per pass: then memory does not grow with
    the number of cells (rankcell.vocab.medians says what is needed). Blocks themselves, or a generator of them, are
    taken too and held in memory.
    """
    columns = GeneColumns.of(genes, ids=ids, symbols=symbols)
    if callable(blocks):
        again = blocks
    else:
        block_list = list(blocks)

        def again() -> Iterable[Any]:
            return block_list

    return vocabulary_of_values(
        lambda: normalised(again(), columns, target_sum),
        columns,
        name=name,
        special=special,
        species=species,
        max_len=max_len,
        target_sum=target_sum,
        min_cells=min_cells,
        provenance=dict(provenance or {}) | {"n_columns": len(columns.slot_of_column)},
    )


def vocabulary_of_values(
    values: Values,
    columns: GeneColumns,
    *,
    name: str,
    special: Iterable[str] = SPECIALS,
    species: str = "",
    max_len: int | None = None,
    target_sum: float = TARGET_SUM,
    min_cells: int = 1,
    provenance: Mapping[str, Any] | None = None,
    expect: Callable[[int], None] = lambda passes: None,
) -> Vocabulary:
    """Make a Vocabulary from normalised values: `values()` gives pairs of slots of `columns.keys` and values above zero, at every call.

    `expect`: see rankcell.vocab.medians.exact_medians.
    """
    medians = exact_medians(values, len(columns.keys), likely=(target_sum / 2**18, target_sum * 2), expect=expect)
    selected = np.flatnonzero(medians.n >= max(1, min_cells))
    if not len(selected):
        if not medians.n.any():
            raise VocabularyError("no gene has a count: a vocabulary cannot be built from empty cells")
        raise VocabularyError(f"no gene is shown by {min_cells:,} cells; the most frequent one by {medians.n.max():,}: lower {option('min_cells')}")
    special = list(special)
    facts = dict(provenance or {})
    n_columns = facts.pop("n_columns", len(columns.keys))
    facts |= {"n_genes_detected": int((medians.n > 0).sum()), "n_columns": n_columns}
    facts |= {"min_cells": min_cells} if min_cells > 1 else {}
    facts |= {"passes": medians.passes} if medians.passes > 1 else {}
    return Vocabulary(
        name=name,
        species=species,
        genes=tuple(columns.keys[s] for s in selected),
        symbols=tuple(columns.symbols[s] for s in selected),
        tokens=np.arange(len(selected)) + len(special),
        medians=medians.median[selected],
        special={t: i for i, t in enumerate(special)},
        target_sum=target_sum,
        provenance=facts,
        **({} if max_len is None else {"max_len": max_len}),
    )


def normalised(blocks: Iterable[Any], columns: GeneColumns, target_sum: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(slots, values) of each block: every value above zero, columns of one slot summed within a cell."""
    from rankcell.vocab.tally_kernel import normalise

    for block in blocks:
        slots = np.empty(len(block.data), np.int32)
        values = np.empty(len(block.data), np.float64)
        n = normalise(
            block.indptr.astype(np.int64, copy=False),
            block.indices.astype(np.int32, copy=False),
            block.data.astype(np.float64, copy=False),
            block.n_counts.astype(np.float64, copy=False),
            columns.slot_of_column,
            len(columns.keys),
            float(target_sum),
            slots,
            values,
        )
        yield slots[:n], values[:n]


def choose_gene_column(counts: Any, gene_column: str | None, has_table: bool) -> str:
    """The var column to name genes by: the one asked for; with a table of ids the index; else the one of most Ensembl ids, if
    they are more than half of it, and the index otherwise."""
    if gene_column is not None and gene_column not in counts.var:
        raise GeneError(f"{counts.name} has no gene column '{gene_column}'; it has {', '.join(counts.var)}")
    if gene_column is not None or has_table:
        return gene_column or next(iter(counts.var))
    best = max(counts.var, key=lambda column: ensembl_share(counts.var[column]))
    return best if ensembl_share(counts.var[best]) > 0.5 else next(iter(counts.var))


def ensembl_share(names: Sequence[str]) -> float:
    """The share of names that are Ensembl ids, from 0 to 1."""
    return sum(bool(ensembl_id(n)) for n in names) / max(1, len(names))
