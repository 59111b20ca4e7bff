"""The audit of a fast screen: a table of scores, and a picture of predicted against exact."""

from collections.abc import Callable, Mapping
from typing import Any

from rankcell.report.pages import page as p
from rankcell.report.pictures.predicted_effects import draw_predicted
from rankcell.report.screen_view import Tables
from rankcell.report.words import words


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
    table = p.table(columns, [_row(score, facts) for score, facts in audit.items()])
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


def _row(score: str, facts: Mapping[str, Any]) -> list[str]:
    rho, pooled = (_two(facts[k]) for k in ("spearman", "spearman_pooled"))
    interval = "-" if facts["recall_low"] is None else f"{facts['recall_low']:.2f} to {facts['recall_high']:.2f}"
    shares = [_two(facts[k]) for k in ("recall", "expected")]
    sizes = ["-" if facts[k] is None else f"{100 * facts[k]:{sign}.1f} %" for k, sign in (("relative_error", ""), ("bias", "+"))]
    low = _two(facts["spearman_low"])
    correlation = rho if rho != "-" else f"({pooled})" if pooled != "-" else "-"
    return [f"`{score}`", f"{facts['n']:,}", f"{facts['cells']:,}", correlation, low, shares[0], interval, shares[1], *sizes]


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
