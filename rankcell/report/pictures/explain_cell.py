"""One cell: the shift of every edit against the rank of its gene."""

from typing import TYPE_CHECKING

import numpy as np

from rankcell.errors import SettingsError
from rankcell.report.pictures.axes import rank_axes, set_scale
from rankcell.report.pictures.colours import GREY, INK
from rankcell.report.pictures.part_styles import LOOKS, PART_WORDS
from rankcell.report.pictures.point_names import name_points
from rankcell.report.screen_view import Tables, choose_score, find_cell, parts_of, spearman
from rankcell.report.words import counted, words, wrapped
from rankcell.scores import Score
from rankcell.wording import shorten

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def draw_cell(tables: Tables, cell: str, *, ax: "Axes", score: str | None = None, n: int = 10) -> "Axes":
    """See rankcell.pl.explain_cell."""
    plain = Score.parse(choose_score(tables.table, score)).plain
    stem = str(plain)
    rows = find_cell(tables, cell)
    parts = parts_of(rows, stem)
    rank = rows["rank"].astype(float).to_numpy(float)
    series: dict[str, np.ndarray] = {p: parts[p] for p in ("total", "in_place") if p in parts}
    known = np.isfinite(rank) & np.isfinite(np.column_stack(list(series.values()))).any(1)
    if not known.any():
        raise SettingsError(f"no edit of cell '{cell}' has both a rank and '{stem}': nothing to draw")
    rank, series = rank[known], {p: v[known] for p, v in series.items()}
    every = np.concatenate(list(series.values()))
    log = plain.is_cosine and bool((every > 0).any())
    if log:
        series = {p: np.maximum(v, every[every > 0].min()) for p, v in series.items()}
    for part, value in series.items():
        rho = spearman(value, rank)
        follows = "" if np.isnan(rho) else f": Spearman with the rank {rho:+.2f}"
        look = LOOKS[part] | {"markersize": 3.6, "linestyle": "", "alpha": 0.75, "markeredgewidth": 0.9}
        ax.plot(rank, value, label=f"{PART_WORDS[part]}{follows}", zorder=3, **look)
    every = np.concatenate(list(series.values()))
    if not log:
        set_scale(ax.set_yscale, every)
        ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
    rank_axes(ax, rank, every, log)
    ax.set_xlabel(
        "rank of the deleted gene in the cell (0 = top)" if _deletes(rows) else "rank of the gene in the cell (0 = top)",
        fontsize=9,
        parse_math=False,
    )
    ax.set_ylabel(wrapped(words(stem)), fontsize=9, parse_math=False)
    ax.set_title(
        f"Cell {shorten(cell, 40)}: {counted(len(rows), 'edit')}",
        fontsize=9.5,
        loc="left",
        color=INK,
        parse_math=False,
        pad=22,
    )
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8.5, frameon=False, borderaxespad=0.1, handletextpad=0.2)
    _name_cell(ax, tables, rows[known], rank, series, n)
    return ax


def _deletes(rows: "pd.DataFrame") -> bool:
    return "kind" in rows and set(rows["kind"]) == {"delete"}


def _name_cell(ax: "Axes", tables: Tables, rows: "pd.DataFrame", rank: np.ndarray, series: dict[str, np.ndarray], n: int) -> None:
    """Name the genes that matter most in place, at their in-place dots."""
    part = "in_place" if "in_place" in series else "total"
    value = series[part]
    chosen = [int(i) for i in np.argsort(-np.abs(np.nan_to_num(value)), kind="stable")][: max(0, n)]
    others = [v for p, v in series.items() if p != part]
    x, y = np.tile(rank, 1 + len(others)), np.concatenate([value, *others])
    names = [tables.symbols.get(g, g) for g in rows["genes"]]
    name_points(ax, x, y, [*names, *names], chosen=chosen, colour=str(LOOKS[part]["color"]))
