"""Bars of the strongest edits."""

from typing import TYPE_CHECKING, Any

import numpy as np

from rankcell.errors import SettingsError
from rankcell.report.pictures.axes import plain_axes
from rankcell.report.pictures.colours import DOWN, GREY, INK, UP
from rankcell.report.screen_view import Tables, ranked_of
from rankcell.report.words import replicates, words
from rankcell.scores import Score
from rankcell.wording import shorten

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def draw_ranked_of_screen(
    tables: Tables, *, ax: "Axes", n: int | None = None, score: str | None = None, min_cells: int | None = None, statistics: Any = None
) -> "Axes":
    """`draw_ranked` of a screen, or of its ranking in `statistics`."""
    ranked = ranked_of(tables, score=score, min_cells=min_cells, statistics=statistics)
    return draw_ranked(ranked.table, by=ranked.by, ax=ax, n=n or 20)


def draw_ranked(ranked: "pd.DataFrame", *, by: str | None, ax: "Axes", n: int = 20, title: str | None = None) -> "Axes":
    """See rankcell.pl.ranked_genes. `by`: the score of the effects, where it is known."""
    by = by or "effect"
    ranked = ranked[np.isfinite(ranked["effect"].to_numpy(float))]
    score = Score.known(by)
    shown = both_ends(ranked, n) if score is not None and score.is_toward else ranked.head(n)
    if not len(shown):
        raise SettingsError(f"no edit has a value of '{by}': nothing to draw")
    at = np.arange(len(shown))[::-1]
    effect, sem = shown["effect"].to_numpy(float), np.nan_to_num(shown["sem"].to_numpy(float))
    power = int(np.floor(np.log10(np.abs(effect).max(initial=1e-300))))
    unit = 10.0**power if power < -1 else 1.0
    ax.barh(at, effect / unit, color=np.where(effect >= 0, UP, DOWN), height=0.72, xerr=sem / unit, ecolor=GREY)
    names = [f"{shorten(s)} (n=1)" if n == 1 else shorten(s) for s, n in zip(shown["symbols"], shown["n_cells"], strict=True)]
    ax.set_yticks(at, names, fontsize=9, parse_math=False)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_xlabel(
        f"{words(by)}{f', in units of 1e{power}' if unit < 1 else ''}\nmean over {replicates(ranked)}, line: standard error",
        fontsize=9,
        parse_math=False,
    )
    ax.set_title(title or "", fontsize=11, loc="left", color=INK, parse_math=False)
    ax.margins(y=0.02)
    plain_axes(ax)
    return ax


def both_ends(ranked: "pd.DataFrame", n: int) -> "pd.DataFrame":
    """Up to n/2 edits from the top and n/2 from the bottom, those of the top with a positive and of the bottom with a negative effect."""
    import pandas as pd

    if n == 1:
        return ranked.loc[[ranked["effect"].abs().idxmax()]] if len(ranked) else ranked
    up = ranked[ranked.effect > 0].head(n // 2)
    down = ranked[ranked.effect < 0].tail(n - n // 2)
    return pd.concat([up, down])
