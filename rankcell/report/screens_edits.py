"""Pictures with a row or a dot per edit: volcano, heatmap over states or groups of cells, affected genes, decomposition."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from rankcell.errors import CellError, SettingsError
from rankcell.report.figures import DOWN, GREY, INK, UP, _plain
from rankcell.report.screens import (
    Tables,
    choose_score,
    effects,
    find_edit,
    least_cells,
    parts_of,
    ranking,
    strongest,
)
from rankcell.report.screens_labels import name_points, scaled_axis
from rankcell.report.words import words
from rankcell.scores import IN_PLACE, PART_LABELS, READOUT_LABELS, STATE_READOUTS, TOWARD, Score, in_place_of, scores_in
from rankcell.stats.summary import LEVEL
from rankcell.wording import option, shorten

# Okabe and Ito's colours, told apart with any kind of colour vision; shapes and places differ too
LOOKS = {
    "total": {"color": INK, "marker": "o", "markerfacecolor": "white"},
    "position": {"color": "#D55E00", "marker": "^"},
    "refill": {"color": "#009E73", "marker": "D"},
    "in_place": {"color": "#0072B2", "marker": "o"},
}
PART_WORDS = {"total": "total", "position": "position part", "refill": "refill part", "in_place": "in place"}


# Volcano


def draw_volcano(ranked: Any, *, by: str | None, ax: Any, x: str | None = None, y: str | None = None, n: int = 12) -> Any:
    """See rankcell.pl.volcano. `by`: the score of the effects, where it is known."""
    y = _probability_column(ranked, y)
    x = _effect_column(ranked, x, y)
    effect, p = (ranked[c].to_numpy(float) for c in (x, y))
    good = np.isfinite(effect) & np.isfinite(p)
    if not good.any():
        raise SettingsError(f"no edit has both an effect and '{y}': nothing to draw")
    if (p[good] < 0).any() or (p[good] > 1).any():
        raise SettingsError(f"'{y}' is not a probability: it goes from {p[good].min():g} to {p[good].max():g}")
    ranked, effect, p = ranked[good], effect[good], p[good]
    height = _minus_log10(p)
    fdr_name = fdr_of(y)
    fdr = ranked[fdr_name].to_numpy(float) if fdr_name in ranked else p
    called = fdr < LEVEL
    colour = np.where(~called, GREY, np.where(effect >= 0, UP, DOWN))
    for shape, these in (("o", p > 0), ("^", p == 0)):
        for which, size in ((~called & these, 13), (called & these, 20)):
            ax.scatter(effect[which], height[which], s=size, c=colour[which], marker=shape, linewidths=0, alpha=0.8 if size > 13 else 0.5)
    _volcano_axes(ax, _effect_words(by, x), y, effect, height)
    _threshold(ax, p, called, fdr_name if fdr_name in ranked else y, y)
    order = np.lexsort((-np.abs(effect), -height))
    chosen = [int(i) for i in order if called[i] or len(order) <= n][:n]
    name_points(ax, effect, height, ranked["symbols"].astype(str).tolist(), chosen=chosen, colour=colour)
    return ax


def probability_columns(ranked: Any) -> list[str]:
    """`p`, `fdr`, `matched_p`, `control_p`, ...: those of probabilities before those of false discovery rates."""
    found = [[c for c in ranked.columns if c == ending or c.endswith(f"_{ending}")] for ending in ("p", "fdr")]
    return [*found[0], *found[1]]


def fdr_of(y: str) -> str:
    """The false discovery rate that belongs to a column of probabilities."""
    return f"{y[:-1]}fdr" if y == "p" or y.endswith("_p") else y


def _probability_column(ranked: Any, y: str | None) -> str:
    there = probability_columns(ranked)
    y = y or next((c for c in there if ranked[c].notna().any()), there[0] if there else None)
    if "effect" not in ranked or "symbols" not in ranked:
        raise SettingsError("this is not a ranking: give what rc.tl.rank_edits(table) returns")
    if y is None or y not in ranked:
        asked = f"column '{y}'" if y else "column of probabilities ('p', 'matched_p', ...)"
        raise SettingsError(
            f"the ranking has no {asked}, which a volcano is drawn from (it has {', '.join(map(str, ranked.columns))}): "
            "give the ranking of rc.tl.rank_edits, or the table that 'rankcell stats' writes"
        )
    return y


def _effect_column(ranked: Any, x: str | None, y: str) -> str:
    """The column that y is the probability of: the difference from the null where the test has one, else the effect itself."""
    x = x or (f"{y.rpartition('_')[0]}_diff" if f"{y.rpartition('_')[0]}_diff" in ranked else "effect")
    if x not in ranked or ranked[x].dtype.kind not in "fiu":
        raise SettingsError(f"the ranking has no column of numbers '{x}' (it has {', '.join(map(str, ranked.columns))})")
    return x


_NULLS = {"matched_diff": "genes of like rank", "control_diff": "the controls", "vs_diff": "the other screen"}


def _effect_words(by: str | None, x: str) -> str:
    what = f"mean {words(by)}" if by else "effect"
    return what if x == "effect" else f"{what}\nless that of {_NULLS[x]}" if x in _NULLS else x


def _minus_log10(p: np.ndarray) -> np.ndarray:
    """-log10; zeros (too small to be written) stand a little above the least of the others."""
    least = p[p > 0].min(initial=1.0)
    return -np.log10(np.where(p > 0, p, min(least, 1e-3) / 3))


def _volcano_axes(ax: Any, what: str, y: str, effect: np.ndarray, height: np.ndarray) -> None:
    ax.axvline(0, color=GREY, linewidth=0.6, zorder=0)
    span = float(np.ptp(effect)) or float(np.abs(effect).max()) or 1.0
    ax.set_xlim(min(effect.min(), 0) - 0.12 * span, max(effect.max(), 0) + 0.18 * span)
    ax.set_ylim(-0.03 * max(height.max(), 1), 1.12 * max(height.max(), 1))
    unit = scaled_axis(ax.xaxis, effect)
    ax.set_xlabel(f"{what}{unit}", fontsize=9, parse_math=False)
    kind, _, ending = y.rpartition("_")
    name = {"p": "p", "fdr": "FDR"}.get(ending, ending)
    ax.set_ylabel(f"\u2212log10 {name}{f' ({kind})' if kind else ''}", fontsize=9, parse_math=False)
    _plain(ax)


def _threshold(ax: Any, p: np.ndarray, called: np.ndarray, fdr_name: str, y: str) -> None:
    """How many edits are called, and where the line between them and the others lies."""
    label = "FDR" if fdr_name.endswith("fdr") else "p"
    text = f"{int(called.sum()):,} of {len(p):,} edits with {label} < {LEVEL:g}"
    ax.set_title(text, fontsize=9, loc="left", color=INK, parse_math=False)
    line = LEVEL if y == fdr_name else p[called].max() if called.any() and p[called].max() > 0 else None
    if line is not None:
        ax.axhline(-np.log10(line), color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)


# Heatmap


def draw_heatmap(
    tables: Tables, *, ax: Any, score: str | None = None, groupby: str | None = None, n: int = 30, min_cells: int | None = None
) -> Any:
    """See rankcell.pl.screen_heatmap."""
    least = least_cells(tables, min_cells)
    work, columns, what = _by_group(tables, score, groupby) if groupby else _by_state(tables, score)
    held = tables.table.groupby("edit", sort=False)["cell_id"].nunique()
    matrix = work.loc[[e for e in work.index if held[e] >= least]]
    matrix = matrix[np.isfinite(matrix.to_numpy(float)).any(1)]
    if not len(matrix):
        raise SettingsError(f"no edit in {least} cells or more has a value of {what}: nothing to draw")
    size = matrix.abs().max(axis=1).to_numpy(float)
    matrix = matrix.iloc[np.lexsort((matrix.index.astype(str), -size))[: max(1, n)]]
    matrix = matrix.iloc[_order(matrix.to_numpy(float))]
    symbols = dict(zip(tables.table["edit"], tables.table["genes"], strict=True))
    names = [tables.symbols.get(symbols[e], symbols[e]) for e in matrix.index]
    _draw_matrix(ax, matrix.to_numpy(float), [shorten(x) for x in names], columns, what)
    total = int((held >= least).sum())
    many = f"the {len(matrix)} strongest of {total:,} edits" if len(matrix) < total else f"{total} edit{'' if total == 1 else 's'}"
    ax.set_title(f"{many}{_in_cells(least)}", fontsize=9, loc="left", color=INK, parse_math=False)
    return ax


def _in_cells(least: int) -> str:
    return f" in {least} cells or more" if least > 1 else ""


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
    found = tables.cells if tables.cells is not None and column in tables.cells else tables.table
    if column not in found or column in ("edit", "genes", "cell_id"):
        there = [] if tables.cells is None else [c for c in tables.cells.columns if c != "cell_id"]
        have = (
            f"they have {', '.join(there)}" if there else f"this screen keeps none: run it again with {option('obs', placeholder='COLUMN')}"
        )
        raise CellError(f"the screened cells have no column '{column}' ({have})")
    return dict(zip(found["cell_id"], found[column].astype(str), strict=True))


def _order(values: np.ndarray) -> np.ndarray:
    """Rows in an order that puts alike ones together; the first is the one with the higher mean."""
    if len(values) < 3:
        return np.arange(len(values))
    from scipy.cluster.hierarchy import leaves_list, linkage

    filled = np.nan_to_num(values)
    order = leaves_list(linkage(filled, "average", optimal_ordering=True))
    return order if filled[order[0]].mean() >= filled[order[-1]].mean() else order[::-1]


def _draw_matrix(ax: Any, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], what: str) -> None:
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
    bar.set_label(textwrap.fill(f"mean {what}{scaled_axis(bar.ax.yaxis, values)}", 32), fontsize=8.5, parse_math=False)
    bar.outline.set_visible(False)


# Affected genes


def draw_affected(tables: Tables, edit: str, *, ax: Any, n: int = 20, min_cells: int | None = None) -> Any:
    """See rankcell.pl.affected_genes."""
    affected = tables.affected()
    edit = find_edit(tables, edit)
    found = affected[affected["edit"] == edit]
    least = min(3, int(found["n"].max())) if min_cells is None and len(found) else min_cells or 0
    found = found[found["n"] >= least]
    if not len(found):
        raise SettingsError(f"no gene is affected by '{edit}'{_in_cells(least)}: nothing to draw")
    which = IN_PLACE if f"mean_cos{IN_PLACE}" in found else ""
    shift = 1 - found[f"mean_cos{which}"].to_numpy(float)
    order = np.lexsort((found["affected"].to_numpy(), -shift))[: max(1, n)]
    shift, sd, cells = shift[order], found[f"sd_cos{which}"].to_numpy(float)[order], found["n"].to_numpy(int)[order]
    error = np.nan_to_num(sd / np.sqrt(np.maximum(cells - 1, 1)))  # sd is that of the population
    names = [tables.gene_names.get(g, g) for g in found["affected"].to_numpy()[order]]
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
    symbol = tables.symbols.get(found["genes"].iloc[0], found["genes"].iloc[0])
    title = f"{found['edit'].iloc[0].partition(':')[0]} {shorten(symbol, 24)}: most affected genes{_in_cells(least)} (number of cells)"
    ax.set_title(title, fontsize=9.5, loc="left", color=INK, parse_math=False)
    ax.margins(y=0.02)
    _plain(ax)
    ax.tick_params(axis="y", labelsize=8.5)
    return ax


# Decomposition


def decomposition_table(tables: Tables, score: str | None, *, n: int, min_cells: int) -> tuple[str, Any]:
    """(score, DataFrame: edit, symbols, n_cells and the mean of every part over cells, for the `n` strongest edits in place)."""
    import pandas as pd

    stem = str(Score.parse(choose_score(tables.table, score)).whole)
    parts = parts_of(tables.table, stem)
    if "in_place" not in parts:
        kind = ", ".join(sorted(set(map(str, tables.table["kind"])))) if "kind" in tables.table else "this"
        raise SettingsError(
            f"'{stem}' of this screen ({kind}) has no in-place value, so there are no parts to show: that is scored for deletions"
        )
    ranked = strongest(ranking(tables, in_place_of(stem, tables.table), min_cells=min_cells).table, n)
    means = pd.DataFrame(parts).groupby(tables.table["edit"].to_numpy(), sort=False).mean()
    return stem, ranked[["edit", "symbols", "n_cells"]].join(means, on="edit")


def draw_decomposition(tables: Tables, *, ax: Any, score: str | None = None, n: int = 20, min_cells: int | None = None) -> Any:
    """See rankcell.pl.decomposition."""
    least = least_cells(tables, min_cells)
    stem, found = decomposition_table(tables, score, n=n, min_cells=least)
    shown = [p for p in LOOKS if p in found]
    at = np.arange(len(found))[::-1]
    values = found[shown].to_numpy(float)
    set_scale(ax.set_xscale, values)
    for i in at[::2]:
        ax.axhspan(i - 0.5, i + 0.5, color="#f3f5f7", zorder=0, linewidth=0)
    for k, part in enumerate(shown):
        y = at + (0.22 - 0.44 * k / max(1, len(shown) - 1))
        ax.plot(found[part], y, linestyle="", markersize=5, zorder=3, label=PART_WORDS[part], **LOOKS[part])
    if (values < 0).any():
        ax.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    ax.set_yticks(at, [shorten(s) for s in found["symbols"]], fontsize=8.5, parse_math=False)
    ax.set_ylim(-0.6, len(found) - 0.4)
    ax.set_xlabel(f"{words(stem)}\nmean over cells, {'symmetric log' if (values < 0).any() else 'log'} scale", fontsize=9, parse_math=False)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(shown), fontsize=8.5, frameon=False, borderaxespad=0.1, handletextpad=0.2)
    _plain(ax)
    ax.tick_params(axis="y", length=0, labelsize=8.5)
    return ax


def set_scale(set_axis: Any, values: np.ndarray) -> None:
    """A log scale; symmetric about a straight middle where there are negative values or zeros."""
    from matplotlib.ticker import SymmetricalLogLocator

    axis = getattr(set_axis.__self__, set_axis.__name__.removeprefix("set_")[0] + "axis")
    size = np.abs(values[np.isfinite(values) & (values != 0)])
    if not len(size):
        return
    if (values[np.isfinite(values)] > 0).all():
        set_axis("log")
        plain_log_ticks(axis, float(np.log10(size.max() / size.min())) + 0.2)
        return
    middle = 10 ** np.floor(np.log10(max(np.quantile(size, 0.25), size.max() * 1e-3)))
    set_axis("symlog", linthresh=middle, linscale=0.5)
    axis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=middle))
    axis.set_minor_locator(SymmetricalLogLocator(base=10, linthresh=middle, subs=[2, 5]))


def plain_log_ticks(axis: Any, decades: float) -> None:
    """Numbers at powers of ten, and between them only where there are few of those."""
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

    if decades < 2:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades > 0.5 else range(1, 10)))
        axis.set_major_formatter(LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(np.inf, np.inf)))
    axis.set_minor_formatter(NullFormatter())
