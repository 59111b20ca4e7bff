"""Predicted against exact effects of the edits that a fast screen ran."""

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from rankcell.errors import SettingsError
from rankcell.report.pictures.axes import plain_axes, scaled_axis
from rankcell.report.pictures.colours import DOWN, GREY, INK
from rankcell.report.screen_view import Tables, effects
from rankcell.report.words import words
from rankcell.scores import Score
from rankcell.stats.prediction import drawn_column

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 20_000  # that are drawn at most


def draw_predicted(tables: Tables, *, ax: "Axes", score: str) -> "Axes":
    """Predicted against exact effect of the edits that were run; SettingsError when none of them was predicted."""
    if tables.screen is None:
        raise SettingsError("what was predicted is kept in the results folder: give that of a fast screen")
    drawn_in = drawn_column(score, tables.screen.columns("audit.parquet"))
    table = tables.screen.read("audit.parquet", [score, f"{score}_predicted", drawn_in]).to_pandas()
    table = table[table[score].notna() & table[f"{score}_predicted"].notna()]
    if not len(table):
        raise SettingsError("every edit was run, and none predicted")
    if len(table) > _POINTS:
        table = table.iloc[np.linspace(0, len(table) - 1, _POINTS).astype(np.int64)]
    exact = effects(table, score)
    predicted = Score.parse(score).effect(table[f"{score}_predicted"].to_numpy())
    drawn = table[drawn_in].to_numpy(bool)
    for which, colour, size, label in ((~drawn, GREY, 8, "run for its size"), (drawn, DOWN, 12, "drawn at random")):
        if which.any():
            ax.scatter(predicted[which], exact[which], s=size, c=colour, linewidths=0, alpha=0.65, label=f"{label} ({which.sum():,})")
    values = np.concatenate([predicted, exact])
    low, high = float(values.min()), float(values.max())
    ax.plot([low, high], [low, high], color=INK, linewidth=0.8, zorder=0)
    ax.set_aspect("equal", adjustable="datalim")
    for axis, label in ((ax.xaxis, "predicted"), (ax.yaxis, "exact")):
        axis.set_label_text(f"{label}{scaled_axis(axis, values)}", fontsize=9, parse_math=False)
    ax.set_title(textwrap.fill(words(score), 44), fontsize=10, loc="left", color=INK, parse_math=False)
    ax.legend(fontsize=8, frameon=False, loc="upper left")
    plain_axes(ax)
    return ax
