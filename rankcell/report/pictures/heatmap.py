"""The strongest edits against states or groups of cells."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rankcell.errors import CellError, SettingsError
from rankcell.report.pictures.axes import scaled_axis
from rankcell.report.pictures.colours import GREY, INK
from rankcell.report.screen_view import Tables, choose_score, effects, least_cells
from rankcell.report.words import counted, in_cells, words
from rankcell.scores import IN_PLACE, PART_LABELS, READOUT_LABELS, STATE_READOUTS, TOWARD, Score, scores_in
from rankcell.wording import option, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_heatmap(
    tables: Tables, *, ax: "Axes", score: str | None = None, groupby: str | None = None, n: int = 30, min_cells: int | None = None
) -> "Axes":
    """See rankcell.pl.screen_heatmap."""
    least = least_cells(tables, min_cells)
    work, columns, measure = _by_group(tables, score, groupby) if groupby else _by_state(tables, score)
    n_cells = tables.table.groupby("edit", sort=False)["cell_id"].nunique()
    matrix = work.loc[[e for e in work.index if n_cells[e] >= least]]
    matrix = matrix[np.isfinite(matrix.to_numpy(float)).any(1)]
    if not len(matrix):
        raise SettingsError(f"no edit in {least} cells or more has a value of {measure}: nothing to draw")
    size = matrix.abs().max(axis=1).to_numpy(float)
    matrix = matrix.iloc[np.lexsort((matrix.index.astype(str), -size))[: max(1, n)]]
    matrix = matrix.iloc[_order(matrix.to_numpy(float))]
    genes_of: dict[str, str] = dict(zip(tables.table["edit"], tables.table["genes"], strict=True))
    names = [tables.symbols.get(genes, genes) for genes in (genes_of[e] for e in matrix.index)]
    _draw_matrix(ax, matrix.to_numpy(float), [shorten(x) for x in names], columns, measure)
    total = int((n_cells >= least).sum())
    many = f"the {len(matrix)} strongest of {total:,} edits" if len(matrix) < total else counted(total, "edit")
    ax.set_title(f"{many}{in_cells(least)}", fontsize=9, loc="left", color=INK, parse_math=False)
    return ax


def _by_state(tables: Tables, score: str | None) -> tuple[Any, list[str], str]:
    """Mean of every movement of one readout, [edits, states]."""
    chosen = Score.known(score)
    if score is not None and (chosen is None or chosen.family != TOWARD):
        raise SettingsError(f"'{score}' is not a movement toward a state: name a toward_ score, or group the cells (groupby)")
    columns: dict[tuple[str, str], dict[str, str]] = {(r, part): {} for r in STATE_READOUTS for part in (IN_PLACE, "")}
    for name in scores_in(tables.table.columns, parts=False):
        measured = Score.parse(name)
        if measured.family == TOWARD and measured.part in ("", IN_PLACE):
            columns[measured.readout, measured.part][name] = str(measured.state)
    wanted = [(chosen.readout, chosen.part)] if chosen is not None and not chosen.is_part else [key for key, names in columns.items() if names]
    readout, part = wanted[0] if wanted else ("", "")
    states = columns.get((readout, part))
    if not states:
        raise SettingsError(
            f"the screen has no movement toward a state: run it with {option('toward', placeholder='COLUMN=STATE')}, or group its cells with {option('groupby', placeholder='COLUMN')}"
        )
    means = tables.table.groupby("edit", sort=False)[list(states)].mean()
    return means, list(states.values()), f"movement toward a state, {READOUT_LABELS[readout]}{PART_LABELS[part]}"


def _by_group(tables: Tables, score: str | None, groupby: str) -> tuple[Any, list[str], str]:
    """Mean effect in each group of cells, [edits, groups]."""
    import pandas as pd

    score = choose_score(tables.table, score)
    group = pd.Series(_groups(tables, groupby))
    names = sorted(group.unique())
    work = pd.DataFrame({"edit": tables.table["edit"], "group": tables.table["cell_id"].map(group), "effect": effects(tables.table, score)})
    matrix = work.pivot_table(index="edit", columns="group", values="effect", aggfunc="mean", sort=False).reindex(columns=names)
    return matrix, [f"{shorten(g, 22)} ({int((group == g).sum())})" for g in names], words(score)


def _groups(tables: Tables, column: str) -> dict[Any, str]:
    """Cell id -> its group. CellError when the cells carry no such column."""
    table = tables.cells if tables.cells is not None and column in tables.cells else tables.table
    if column not in table or column in ("edit", "genes", "cell_id"):
        there = [] if tables.cells is None else [c for c in tables.cells.columns if c != "cell_id"]
        have = (
            f"they have {', '.join(there)}" if there else f"this screen keeps none: run it again with {option('obs', placeholder='COLUMN')}"
        )
        raise CellError(f"the screened cells have no column '{column}' ({have})")
    return dict(zip(table["cell_id"], table[column].astype(str), strict=True))


def _order(values: np.ndarray) -> np.ndarray:
    """Rows in an order that puts alike ones together; the first is the one with the higher mean."""
    if len(values) < 3:
        return np.arange(len(values))
    from scipy.cluster.hierarchy import leaves_list, linkage

    filled = np.nan_to_num(values)
    order = leaves_list(linkage(filled, "average", optimal_ordering=True))
    return order if filled[order[0]].mean() >= filled[order[-1]].mean() else order[::-1]


def _draw_matrix(ax: "Axes", values: np.ndarray, rows: Sequence[str], columns: Sequence[str], measure: str) -> None:
    from matplotlib.patches import Rectangle

    most = float(np.nanmax(np.abs(values))) or 1.0
    signed = bool(np.nanmin(values) < 0)
    image = ax.imshow(
        np.ma.masked_invalid(values), aspect="auto", cmap="RdBu_r" if signed else "Blues", vmin=-most if signed else 0, vmax=most
    )
    lacking = ~np.isfinite(values)
    if lacking.any():
        ax.add_patch(
            Rectangle(
                (-0.5, -0.5),
                values.shape[1],
                values.shape[0],
                facecolor="#eceff2",
                edgecolor="#b9c3cc",
                hatch="////",
                zorder=0,
                linewidth=0,
            )
        )
    image.set_zorder(1)
    ax.set_yticks(range(len(rows)), rows, fontsize=8.5, parse_math=False)
    long = max(map(len, columns)) * len(columns) > 55
    ax.set_xticks(range(len(columns)), [shorten(c, 28) for c in columns], fontsize=8.5, parse_math=False)
    if long:
        for label in ax.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if lacking.any():
        ax.set_xlabel("hatched: no cell has the gene", fontsize=8.5, color=GREY, parse_math=False)
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.045, pad=0.02)
    bar.ax.tick_params(labelsize=8)
    bar.set_label(textwrap.fill(f"mean {measure}{scaled_axis(bar.ax.yaxis, values)}", 32), fontsize=8.5, parse_math=False)
    bar.outline.set_visible(False)
