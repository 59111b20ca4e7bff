"""Getters counter: results as DataFrames."""

import os
from collections.abc import Sequence
from typing import Any

from rankcell.vocab import Vocabulary

__all__ = ["affected_df", "read_embeddings", "screen_df", "tokens_df"]


def screen_df(folder: str | os.PathLike) -> Any:
    """The table of a finished screen (one row per cell and edit); `attrs["symbols"]` maps `genes` to symbols."""
    from rankcell.perturb import read_screen

    screen = read_screen(folder)
    table = screen.table().to_pandas()
    table["rank"] = table["rank"].astype("Int32")
    table.attrs["symbols"] = screen.symbols()
    return table


def affected_df(folder: str | os.PathLike) -> Any:
    """Per perturbed target and affected gene of a finished screen: `edit`, `genes`, `affected`, `n`, `mean_cos`, `sd_cos`."""
    from rankcell.perturb import read_screen

    return read_screen(folder).affected().to_pandas()


def read_embeddings(out: str | os.PathLike, *, tables: Sequence[str] | None = None) -> Any:
    """What `rankcell embed` wrote, whatever the store: `columns` {name: float array, a row per cell}, `cell_ids`, `tables` and `meta`.

    tables
        Which of "genes", "gene_means" and "states" to read with the cells; None: all that there are.
    """
    from rankcell.embed.stores import read_embeddings as read

    return read(out, tables=tables)


def tokens_df(tokens: Any, cell: str | int, *, vocab: str | os.PathLike | Vocabulary | None = None) -> Any:
    """What the model reads for one cell, a row per position in order.

    tokens
        A TokenSet, or its folder.
    cell
        A cell id (str) or a row number from 0 (int). CellError when there is no such cell.
    vocab
        The vocabulary that the tokens were made with; None: the shipped one with the same content hash.

    Returns a DataFrame: `position` (from 0), `rank` (0 = the top gene; null for special tokens), `token`, `gene` (its id, or the
    special token's name), `symbol` ("" where there is none) and `value`, which ranked the gene: count / n_counts *
    target_sum / median, so 1 is what a typical cell that shows the gene has. `value` is NaN for special tokens, and
    everywhere when the tokens do not carry their counts: tokenize with keep_counts=True.
    """
    from rankcell.report.encoding import encoding_table, opened

    return encoding_table(*opened(tokens, vocab), cell)
