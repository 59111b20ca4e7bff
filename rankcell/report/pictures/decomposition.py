"""What the effect of a deletion consists of: total, in place, positions, refill."""

from typing import TYPE_CHECKING

import numpy as np

from rankcell.errors import SettingsError
from rankcell.report.pictures.axes import plain_axes, set_scale
from rankcell.report.pictures.colours import GREY
from rankcell.report.pictures.part_styles import LOOKS, PART_WORDS
from rankcell.report.screen_view import Tables, choose_score, least_cells, parts_of, ranking, strongest
from rankcell.report.words import words
from rankcell.scores import Score, in_place_of
from rankcell.wording import shorten

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def decomposition_table(tables: Tables, score: str | None, *, n: int, min_cells: int) -> "tuple[str, pd.DataFrame]":
    """(score, DataFrame: edit, symbols, n_cells and the mean of every part over cells, for the `n` strongest edits in place)."""
    import pandas as pd

    stem = str(Score.parse(choose_score(tables.table, score)).plain)
    in_place = in_place_of(stem, tables.table)
    if in_place is None:
        kind = ", ".join(sorted(set(map(str, tables.table["kind"])))) if "kind" in tables.table else "this"
        raise SettingsError(
            f"'{stem}' of this screen ({kind}) has no in-place value, so there are no parts to show: that is scored for deletions"
        )
    ranked = strongest(ranking(tables, in_place, min_cells=min_cells).table, n)
    means = pd.DataFrame(parts_of(tables.table, stem)).groupby(tables.table["edit"].to_numpy(), sort=False).mean()
    return stem, ranked[["edit", "symbols", "n_cells"]].join(means, on="edit")


def draw_decomposition(tables: Tables, *, ax: "Axes", score: str | None = None, n: int = 20, min_cells: int | None = None) -> "Axes":
    """See rankcell.pl.decomposition."""
    least = least_cells(tables, min_cells)
    stem, means = decomposition_table(tables, score, n=n, min_cells=least)
    shown = [p for p in LOOKS if p in means]
    at = np.arange(len(means))[::-1]
    values = means[shown].to_numpy(float)
    set_scale(ax.set_xscale, values)
    for i in at[::2]:
        ax.axhspan(i - 0.5, i + 0.5, color="#f3f5f7", zorder=0, linewidth=0)
    for k, part in enumerate(shown):
        y = at + (0.22 - 0.44 * k / max(1, len(shown) - 1))
        ax.plot(means[part], y, linestyle="", markersize=5, zorder=3, label=PART_WORDS[part], **LOOKS[part])
    if (values < 0).any():
        ax.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    ax.set_yticks(at, [shorten(s) for s in means["symbols"]], fontsize=8.5, parse_math=False)
    ax.set_ylim(-0.6, len(means) - 0.4)
    ax.set_xlabel(f"{words(stem)}\nmean over cells, {'symmetric log' if (values < 0).any() else 'log'} scale", fontsize=9, parse_math=False)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(shown), fontsize=8.5, frameon=False, borderaxespad=0.1, handletextpad=0.2)
    plain_axes(ax)
    ax.tick_params(axis="y", length=0, labelsize=8.5)
    return ax
