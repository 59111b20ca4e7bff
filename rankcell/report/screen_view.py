"""What the pictures of a screen are drawn from: its tables, its scores and their parts."""

import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from rankcell.errors import CellError, InputError, OutputError, RankcellWarning, SettingsError
from rankcell.perturb import ScreenFolder
from rankcell.report.words import in_cells
from rankcell.scores import POSITION, REFILL, Score, in_place_of, scores_in
from rankcell.stats import effect_of
from rankcell.stats.affected_pairs import gene_symbols
from rankcell.stats.options import RankOptions
from rankcell.stats.prediction import Shared, attrs_of
from rankcell.stats.rank import edit_ranking
from rankcell.stats.ranked_tables import read_statistics
from rankcell.stats.ranking import Ranking
from rankcell.stats.screen_rows import is_table, screen_of
from rankcell.stats.screen_rows import least_cells as floor_of
from rankcell.wording import option

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Tables:
    """The tables of one screen as DataFrames. What was not kept is None.

    table
        One row per cell and edit, with `attrs["symbols"]`.
    cells, edits
        One row per screened cell, per target.
    manifest
        Of the results folder; empty for a table in memory.
    """

    table: "pd.DataFrame"
    cells: "pd.DataFrame | None" = None
    edits: "pd.DataFrame | None" = None
    manifest: dict[str, Any] = field(default_factory=dict)
    screen: ScreenFolder | None = None
    _affected: "pd.DataFrame | None" = None

    @property
    def symbols(self) -> dict[str, str]:
        return self.table.attrs.get("symbols", {})

    @property
    def n_cells(self) -> int:
        return int(self.table["cell_id"].nunique())

    @property
    def model_note(self) -> str:
        """Remark on the model that stands above every result: that it is a toy."""
        return str(self.table.attrs.get("model_note") or "")

    @property
    def has_affected(self) -> bool:
        return self._affected is not None or (self.screen is not None and (self.screen.folder / "affected.parquet").exists())

    @property
    def gene_names(self) -> dict[str, str]:
        """Gene id -> symbol: of the perturbed genes, and of the whole vocabulary where it ships with the package."""
        return self.symbols if self.screen is None else gene_symbols(self.screen) | self.symbols

    def affected(self) -> "pd.DataFrame":
        """The table of affected genes. OutputError when there is none."""
        if self._affected is None:
            if self.screen is None:
                raise OutputError(
                    f"affected genes are kept in the results folder: give the folder of a screen that was run with {option('affected', True)}"
                )
            self._affected = self.screen.affected().to_pandas()
        return self._affected


def open_tables(source: Any) -> Tables:
    """The tables of a results folder, a Screen, or a table of rc.tl.perturb and rc.get.screen_df."""
    if isinstance(source, Tables):
        return source
    if is_table(source):
        missing = [c for c in ("cell_id", "edit", "genes", "rank") if c not in source.columns]
        if missing:
            raise InputError(f"this is not a table of a screen (it has no column {missing[0]}): give what rc.tl.perturb returns")
        table = source.copy(deep=False)
        table.attrs = {**source.attrs, "symbols": Shared(source.attrs.get("symbols", {}))}
        return Tables(table)
    screen = source if isinstance(source, ScreenFolder) else _read(source)
    table = screen.table().to_pandas()
    table["rank"] = table["rank"].astype("Int32")
    table.attrs |= {"symbols": Shared(screen.symbols()), **attrs_of(screen)}
    return Tables(table, _optional(screen, "cells"), _optional(screen, "edits"), screen.manifest, screen)


def _read(source: Any) -> ScreenFolder:
    if isinstance(source, (str, os.PathLike)) and not Path(source).exists():
        raise InputError(f"no results folder {source}")
    screen = screen_of(source)
    if not (screen.folder / "screen.parquet").exists():
        raise InputError(f"{source} holds results of another kind (it has no screen.parquet): name the folder of rankcell perturb")
    return screen


def _optional(screen: ScreenFolder, name: str) -> Any:
    """cells.parquet or edits.parquet; None where an older screen has none."""
    return screen.read(f"{name}.parquet").to_pandas() if screen.has(f"{name}.parquet") else None


# Scores


def scores_of(table: "pd.DataFrame") -> list[str]:
    """Scores of the edits as made, without their in-place values and parts."""
    return [c for c in scores_in(table.columns) if Score.parse(c).part == ""]


def choose_score(table: "pd.DataFrame", score: str | None) -> str:
    """The score to draw: `score`, else the shift of the other genes, in place where that is known. SettingsError when it is not there."""
    all_scores = scores_in(table.columns)
    if score is None:
        scores = scores_of(table)
        first = "cos_genes" if "cos_genes" in scores else next(iter(scores), "")
        score = in_place_of(first, all_scores) or first
    if score not in all_scores:
        raise SettingsError(f"the screen has no score '{score}'; it has {', '.join(all_scores) or 'none'}")
    return score


def effects(table: "pd.DataFrame", score: str) -> np.ndarray:
    """The effect of each row (Score.effect), float64."""
    return np.asarray(effect_of(table, score), float)


def parts_of(table: "pd.DataFrame", score: str) -> dict[str, np.ndarray]:
    """Decompose the effect of each row: `total`, and `in_place`, `position`, `refill` where they are known.

    The parts add up to the total. The position part is read where the screen holds it, else it is the total less the others.
    """
    plain = Score.parse(score).plain
    parts = {"total": effects(table, str(plain))}
    in_place = in_place_of(str(plain), table)
    if in_place is None:
        return parts
    parts["in_place"] = effects(table, in_place)
    position, refill = (table[n].to_numpy(float) if n in table else None for n in (str(plain.with_part(p)) for p in (POSITION, REFILL)))
    if position is not None:
        parts["position"] = position
    else:
        parts["position"] = parts["total"] - parts["in_place"] - (0 if refill is None else refill)
    return parts if refill is None else parts | {"refill": refill}


# Edits


def least_cells(tables: Tables, min_cells: int | None) -> int:
    """Minimum number of cells of an edit that is drawn: `min_cells`, else the floor of rank_edits."""
    return floor_of(tables.table["edit"].value_counts().to_numpy(), min_cells)


def ranking(tables: Tables, score: str, *, min_cells: int | None = None, tested: bool = False) -> Ranking:
    """Rank edits by mean effect, with p-values where `tested`; without the line about scores that follow the rank: the pictures say it.

    SettingsError when no edit has an effect.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankcellWarning)
        ranked = edit_ranking(tables.table, RankOptions(score, RankOptions.mode if tested else (), min_cells=min_cells))
    ranked = ranked.where(np.isfinite(ranked.table["effect"].to_numpy(float)))
    if not len(ranked):
        raise SettingsError(f"no edit has a value of '{score}'{in_cells(min_cells or 0)}: nothing to draw")
    return ranked


def open_ranking(source: Any) -> Ranking:
    """Resolve a ranking: itself, the path of the table of `rankcell stats`, or a screen, ranked by its default score."""
    if is_table(source) and ("effect" in source or "cell_id" not in source):
        return read_statistics(source, None)
    if isinstance(source, (str, os.PathLike)) and os.path.isfile(source) and os.path.basename(source) != "screen.parquet":
        return read_statistics(source, None)
    tables = open_tables(source)
    return ranking(tables, choose_score(tables.table, None), tested=True)


def strongest(ranked: "pd.DataFrame", n: int) -> "pd.DataFrame":
    """The `n` edits of the greatest effect, whichever its sign, strongest first; equal ones by name."""
    if n < 1:
        raise SettingsError(f"n is {n}; at least 1")
    size = -np.abs(ranked["effect"].to_numpy(float))
    return ranked.iloc[np.lexsort((ranked["edit"].astype(str).to_numpy(), size))[:n]].reset_index(drop=True)


def find_edit(tables: Tables, edit: str) -> str:
    """The edit meant by its id, its genes or its symbols. SettingsError when there is none."""
    known = tables.table[["edit", "genes"]].drop_duplicates()
    for row in known.itertuples():
        if edit in (row.edit, row.genes, tables.symbols.get(row.genes)):
            return str(row.edit)
    examples = ", ".join(tables.symbols.get(g, g) for g in known["genes"][:4])
    raise SettingsError(f"the screen has no edit '{edit}'; it has {len(known):,}, such as {examples}")


def find_cell(tables: Tables, cell: str) -> "pd.DataFrame":
    """The rows of one cell. CellError when it was not screened."""
    rows = tables.table[tables.table["cell_id"] == str(cell)]
    if not len(rows):
        examples = list(dict.fromkeys(tables.table["cell_id"].head(2000)))[:2]
        raise CellError(f"the screen has no cell '{cell}' (it has {tables.n_cells:,}, such as {', '.join(map(str, examples))})")
    return rows


def spearman(effect: ArrayLike, rank: ArrayLike) -> float:
    """Spearman correlation over what is known on both sides; NaN for fewer than three, or where one side does not vary."""
    from scipy.stats import spearmanr

    x, y = np.asarray(effect, float), np.asarray(rank, float)
    good = np.isfinite(x) & np.isfinite(y)
    if good.sum() < 3 or len(np.unique(x[good])) < 2 or len(np.unique(y[good])) < 2:
        return float("nan")
    return float(spearmanr(x[good], y[good]).statistic)


def one_cell(source: Any, cell_id: str) -> Tables:
    """The tables with the rows of one cell alone, so that a large screen is not read for it; all of them where it has no such cell."""
    if isinstance(source, Tables) or is_table(source):
        return open_tables(source)
    screen = source if isinstance(source, ScreenFolder) else _read(source)
    table = screen.read("screen.parquet", filters=[("cell_id", "=", str(cell_id))]).to_pandas()
    if not len(table):
        return open_tables(screen)
    table["rank"] = table["rank"].astype("Int32")
    table.attrs["symbols"] = Shared(screen.symbols())
    return Tables(table, manifest=screen.manifest, screen=screen)


def ranked_of(tables: Tables, *, score: str | None, min_cells: int | None, statistics: Ranking | None, tested: bool = False) -> Ranking:
    """The ranking to draw: `statistics` (the table of rankcell stats), else that of the screen itself."""
    if statistics is not None:
        return statistics if tables is None else of_this_screen(tables, statistics)
    return ranking(tables, choose_score(tables.table, score), min_cells=min_cells, tested=tested)


def of_this_screen(tables: Tables, statistics: Ranking) -> Ranking:
    """Check that a table of rankcell stats has no edits that the screen lacks (SettingsError), and return it."""
    edit = statistics.table["edit"]
    other = ~edit.isin(tables.table["edit"])
    if other.any():
        raise SettingsError(
            f"the table has {int(other.sum()):,} edits that are not in this screen, such as {edit[other].iloc[0]}"
        )
    return statistics


def effect_spread(tables: Tables, score: str) -> float:
    """Median size of the effect over all rows."""
    size = np.abs(effects(tables.table, score))
    return float(np.nanmedian(size)) if np.isfinite(size).any() else float("nan")
