"""Getters counter: results as DataFrames."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rankcell.near_names import suggest_names
from rankcell.vocab import Vocabulary
from rankcell.wording import python_verb

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

__all__ = ["affected_df", "ranking", "read_embeddings", "screen_adata", "screen_df", "tokens_df"]
if not TYPE_CHECKING:
    __getattr__ = suggest_names(__name__, __all__)


@python_verb()
def screen_df(folder: Any, *, obs: bool = False) -> "pd.DataFrame":
    """Read the table of a finished screen.

    Parameters
    ----------
    folder
        The results folder, or a Screen.
    obs
        Also the cell columns that the screen carries (donor, cell type, ...) and `n_genes`, joined by `cell_id`.

    Returns
    -------
    DataFrame
        One row per cell and edit. `attrs["symbols"]` maps `genes` to symbols, `attrs["facts"]` holds what the rows do not say (the number
        of screened cells, the edits that no cell has): with it the table is ranked as its folder is. Of a fast screen, `exact` and
        `exact_in_place` say which values were run, and `attrs["prediction"]` holds for every score what the audit says of the others.
    """
    from rankcell.export import open_screen
    from rankcell.stats.prediction import attrs_of

    screen = open_screen(folder)
    table = screen.table().to_pandas()
    table["rank"] = table["rank"].astype("Int32")
    if obs:
        cells = screen.cells().to_pandas()
        more = [c for c in cells if c == "cell_id" or c not in table]
        table = table.merge(cells[more], on="cell_id", how="left", validate="many_to_one")
    table.attrs |= {"symbols": screen.symbols(), **attrs_of(screen)}
    return table


@python_verb()
def affected_df(folder: Any, *, which: str = "mean") -> "pd.DataFrame":
    """Read the affected genes of a finished screen.

    Parameters
    ----------
    folder
        The results folder, or a Screen.
    which
        `mean`: means over cells. `top`, `raw`: per cell, the ones that move most, or all.

    Returns
    -------
    DataFrame
        `mean`: a row per perturbed target and affected gene, over cells: `edit`, `genes`, `affected`, `n`, `mean_cos`, `sd_cos`; of a
        deletion also `mean_cos_in_place`, `sd_cos_in_place`, without the shift of positions. `top`, `raw`: a row per cell, edit and
        affected gene: `cell_id`, `edit`, `genes`, `affected`, `cos`. `attrs["symbols"]` maps the ids of genes to symbols.

    Raises
    ------
    SettingsError
        For any other `which`.
    """
    from rankcell.errors import SettingsError
    from rankcell.export import open_screen
    from rankcell.stats.affected_pairs import gene_symbols
    from rankcell.stats.screen_rows import remarks_of

    if which not in ("mean", "top", "raw"):
        raise SettingsError(f"which is '{which}'; mean, top or raw")
    screen = open_screen(folder)
    table = screen.affected(which).to_pandas()
    table.attrs |= {"symbols": gene_symbols(screen)} | remarks_of(screen)
    return table


@python_verb()
def screen_adata(folder: Any, score: str | Sequence[str] | None = None, *, by: str = "edits") -> "AnnData":
    """Convert a finished screen into an AnnData of edits or of cells.

    Parameters
    ----------
    folder
        The results folder, or a Screen.
    score
        Which score's effect (1 - cosine for `cos_...`, the value itself for every other). With `by="edits"` also several; None:
        the affected genes where the screen has them, else all scores. With `by="cells"` one; None: `cos_genes_in_place`, or
        `cos_genes` where that is missing.
    by
        `edits` or `cells`: what the rows are.

    Returns
    -------
    AnnData
        `edits`: edits x affected genes (X is the mean shift of each affected gene; layers `n`, the number of cells, and `sd`;
        mean effects of all scores in obs as `effect_<score>`, a / in the name of a state as `|`), or edits x scores (X is the mean
        effect). `cells`: cells x edits, X the effect in each cell, layer `rank` the rank of the gene before the edit; of a fast
        screen also layer `exact`, 1 where the value was run and 0 where it is predicted. NaN stands wherever there is no number (the
        cell lacks the gene). obs and var hold edits.parquet and cells.parquet, `uns["rankcell"]` the settings.

    Raises
    ------
    SettingsError
        For an unknown score or `by`.
    """
    from rankcell.errors import SettingsError
    from rankcell.export import cells_adata, edits_adata, open_screen

    if by not in ("edits", "cells"):
        raise SettingsError(f"by is '{by}'; edits or cells")
    screen = open_screen(folder)
    return edits_adata(screen, score) if by == "edits" else cells_adata(screen, score)


@python_verb()
def ranking(ranked: Any, *, column: str = "effect", names: str = "symbols") -> "pd.Series":
    """Rank genes by one number, as enrichment tools take it.

    Parameters
    ----------
    ranked
        What rc.tl.rank_edits gives, or the table of `rankcell stats` or its path.
    column
        The numbers; edits without one are left out.
    names
        The index: `symbols`, `genes` (Ensembl ids) or `edit`. Of two edits of one name the stronger stays.

    Returns
    -------
    Series
        Numbers by name (gene symbol), greatest first, each name once.

    Notes
    -----
    gseapy.prerank takes it as it is, decoupler its frame of one row: `ranking.to_frame().T`.
    """
    from rankcell.export import ranking as series
    from rankcell.stats.ranked_tables import read_statistics
    from rankcell.stats.ranking import Ranking
    from rankcell.stats.screen_rows import is_table

    return series(Ranking.of(ranked) if is_table(ranked) else read_statistics(ranked, None), column=column, names=names)


@python_verb()
def read_embeddings(out: str | os.PathLike, *, tables: Sequence[str] | None = None) -> Any:
    """Read the output of `rankcell embed` from any store.

    Parameters
    ----------
    out
        The output: a file or a folder.
    tables
        Which of "genes", "gene_means" and "states" to read with the cells; None: all that there are.

    Returns
    -------
    object
        With `columns` {name: float array, a row per cell}, `cell_ids`, `tables` and `meta`.
    """
    from rankcell.embed.stores import read_embeddings as read

    return read(out, tables=tables)


@python_verb()
def tokens_df(tokens: Any, cell: str | int, *, vocab: str | os.PathLike | Vocabulary | None = None) -> "pd.DataFrame":
    """Tabulate the token row of one cell.

    Parameters
    ----------
    tokens
        A TokenSet, or its folder.
    cell
        A cell id (str) or a row number from 0 (int).
    vocab
        The vocabulary that the tokens were made with. None: it is found by its content hash (`TokenSet.find_vocabulary`); required
        where the tokens were opened from a folder and an own vocabulary lies neither in the working folder nor beside them.

    Returns
    -------
    DataFrame
        A row per position in order: `position` (from 0), `rank` (0 = the top gene; null for special tokens), `token`, `gene` (its id, or
        the special token's name), `symbol` ("" where there is none) and `value`, which ranked the gene: count / n_counts * target_sum /
        median, so 1 is what a typical cell that shows the gene has. `value` is NaN for special tokens, and everywhere when the tokens
        do not carry their counts: tokenize with keep_counts=True.

    Raises
    ------
    CellError
        When there is no such cell.
    """
    from rankcell.report.token_table import encoding_table, tokens_and_vocabulary

    return encoding_table(*tokens_and_vocabulary(tokens, vocab), cell)
