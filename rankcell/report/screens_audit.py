"""What a fast screen says of its own predictions: a table of scores, and predicted against exact of the edits that were run."""

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rankcell.errors import SettingsError
from rankcell.report import page as p
from rankcell.report.figures import DOWN, GREY, INK, _plain
from rankcell.report.screens import Tables, effects
from rankcell.report.screens_labels import scaled_axis
from rankcell.report.words import words
from rankcell.scores import Score
from rankcell.stats.prediction import drawn_column

_POINTS = 20_000  # that are drawn at most


def audit_section(tables: Tables, figure: Callable[..., str]) -> str:
    """The section of the page; nothing for a screen by the exact method.

    figure
        (width, height, draw, alt=, caption=) -> a picture with its caption.
    """
    audit = tables.manifest.get("audit")
    if not audit:
        return ""
    settings = tables.manifest["settings"]
    by = settings["verify_by"]
    picture = figure(
        4.6,
        4.3,
        lambda f: draw_predicted(tables, ax=f.subplots(), score=by),
        alt=f"Predicted against exact {words(by)} of the edits that were run",
        caption="Each dot is an edit of a cell that was run exactly. Blue: drawn at random, predicted without its own value; these judge. Grey: "
        "run because it was predicted to be large. On the line the prediction is right.",
    )
    columns = ["score", "edits", "cells", "Spearman", "5 % of cells below", "recall of the top tenth", "95 %", "expected", "error", "bias"]
    table = p.table(columns, [_row(score, found) for score, found in audit.items()])
    return p.section("How good the predictions are", *map(p.paragraph, _sentences(settings)), picture, table, *_verified(audit, settings))


def _sentences(settings: Mapping[str, Any]) -> list[str]:
    return [
        "This screen was predicted: of each cell one forward and a few backward passes tell what every edit does, and a random sample of "
        f"the edits ({settings['audit']:.1%} of a cell's, at least {settings['splits']}) was run exactly, to correct the predictions and to judge them. The columns "
        "`exact` of the table say which values were run.",
        "Spearman: predicted against exact within a cell, the median over cells with ten audited edits (with fewer, in brackets, of all cells "
        "together). Recall: of the largest tenth of a cell's audited edits, the share that is in the predicted largest tenth. Expected: the same "
        "of all edits of a cell, as their predictions and the errors of the audited let expect. Error: root mean square of the difference over "
        "that of the effect; bias: its mean over the same.",
    ]


def _row(score: str, found: Mapping[str, Any]) -> list[str]:
    rho, pooled = (_two(found[k]) for k in ("spearman", "spearman_pooled"))
    interval = "-" if found["recall_low"] is None else f"{found['recall_low']:.2f} to {found['recall_high']:.2f}"
    shares = [_two(found[k]) for k in ("recall", "expected")]
    sizes = ["-" if found[k] is None else f"{100 * found[k]:{sign}.1f} %" for k, sign in (("relative_error", ""), ("bias", "+"))]
    low = _two(found["spearman_low"])
    told = rho if rho != "-" else f"({pooled})" if pooled != "-" else "-"
    return [f"`{score}`", f"{found['n']:,}", f"{found['cells']:,}", told, low, shares[0], interval, shares[1], *sizes]


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _verified(audit: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """What is known of those that were run for being predicted large, and whether cells fall short."""
    by, lines = settings["verify_by"], []
    at = audit.get(by, {}).get("at", {})
    if at:
        parts = ", ".join(f"of the {k} largest {v['recall']:.0%} ({v['low']:.0%} to {v['high']:.0%})" for k, v in at.items())
        lines.append(
            f"The {settings['verify_top']} edits of each cell predicted largest by `{by}` were run. Among them are, as the audit tells, {parts}."
        )
    if settings["verify_screen"]:
        lines.append(f"The {settings['verify_screen']:,} of the whole screen predicted largest were run as well.")
    return [p.paragraph(line) for line in lines]


def draw_predicted(tables: Tables, *, ax: Any, score: str) -> Any:
    """Predicted against exact effect of the edits that were run; SettingsError when none of them was predicted."""
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
    both = np.concatenate([predicted, exact])
    low, high = float(both.min()), float(both.max())
    ax.plot([low, high], [low, high], color=INK, linewidth=0.8, zorder=0)
    ax.set_aspect("equal", adjustable="datalim")
    for axis, label in ((ax.xaxis, "predicted"), (ax.yaxis, "exact")):
        axis.set_label_text(f"{label}{scaled_axis(axis, both)}", fontsize=9, parse_math=False)
    ax.set_title(textwrap.fill(words(score), 44), fontsize=10, loc="left", color=INK, parse_math=False)
    ax.legend(fontsize=8, frameon=False, loc="upper left")
    _plain(ax)
    return ax
