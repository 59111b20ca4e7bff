"""Bars of the genes that one edit shifts most."""

from typing import TYPE_CHECKING

import numpy as np

from rankcell.errors import SettingsError
from rankcell.report.pictures.axes import plain_axes, scaled_axis
from rankcell.report.pictures.colours import DOWN, GREY, INK
from rankcell.report.screen_view import Tables, find_edit
from rankcell.report.words import in_cells
from rankcell.scores import IN_PLACE
from rankcell.wording import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_affected(tables: Tables, edit: str, *, ax: "Axes", n: int = 20, min_cells: int | None = None) -> "Axes":
    """See rankcell.pl.affected_genes."""
    affected = tables.affected()
    edit = find_edit(tables, edit)
    rows = affected[affected["edit"] == edit]
    least = min(3, int(rows["n"].max())) if min_cells is None and len(rows) else min_cells or 0
    rows = rows[rows["n"] >= least]
    if not len(rows):
        raise SettingsError(f"no gene is affected by '{edit}'{in_cells(least)}: nothing to draw")
    which = IN_PLACE if f"mean_cos{IN_PLACE}" in rows else ""
    shift = 1 - rows[f"mean_cos{which}"].to_numpy(float)
    order = np.lexsort((rows["affected"].to_numpy(), -shift))[: max(1, n)]
    shift, sd, cells = shift[order], rows[f"sd_cos{which}"].to_numpy(float)[order], rows["n"].to_numpy(int)[order]
    error = np.nan_to_num(sd / np.sqrt(np.maximum(cells - 1, 1)))  # sd is that of the population
    names = [tables.gene_names.get(g, g) for g in rows["affected"].to_numpy()[order]]
    at = np.arange(len(order))[::-1]
    ax.barh(
        at, shift, color=DOWN, height=0.72, xerr=[np.minimum(error, np.maximum(shift, 0)), error], ecolor=GREY, error_kw={"linewidth": 1}
    )
    ax.set_yticks(at, [f"{shorten(s)}  ({c:,})" for s, c in zip(names, cells, strict=True)], fontsize=8.5, parse_math=False)
    unit = scaled_axis(ax.xaxis, shift)
    ax.set_xlim(left=0)
    ax.set_xlabel(
        f"shift of the affected gene{', in place' if which else ''} (1 - cosine){unit}\nmean over cells, line: standard error",
        fontsize=9,
        parse_math=False,
    )
    symbol = tables.symbols.get(rows["genes"].iloc[0], rows["genes"].iloc[0])
    title = f"{rows['edit'].iloc[0].partition(':')[0]} {shorten(symbol, 24)}: most affected genes{in_cells(least)} (number of cells)"
    ax.set_title(title, fontsize=9.5, loc="left", color=INK, parse_math=False)
    ax.margins(y=0.02)
    plain_axes(ax)
    ax.tick_params(axis="y", labelsize=8.5)
    return ax
