"""What a page about a screen begins with: the question, what it was asked of, what stands out, and why to doubt it."""

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rankcell.report.pages import page as p
from rankcell.report.ranked_columns import fdr_of, probability_columns
from rankcell.report.screen_view import Tables
from rankcell.report.words import IN_SILICO, replicates, words
from rankcell.scores import Score
from rankcell.stats.covariates import TOO_CLOSE
from rankcell.stats.ranking import Ranking
from rankcell.stats.summary import LEVEL, edits_sentence, without_p_sentence

if TYPE_CHECKING:
    import pandas as pd

HITS = 10
FEW_CELLS, FEW_KNOWN = 50, 0.5  # below which a page says so
_VERBS = {
    "delete": "deleted",
    "overexpress": "put to the front of the list (overexpressed)",
    "inhibit": "moved down the list (inhibited)",
    "activate": "moved up the list (activated)",
    "mask": "masked (the mask token in its place)",
    "move": "moved to a given rank",
}


def toy_line(note: Any) -> str:
    """The first line of a page about results of a model that is not to be trusted; '' for others."""
    return p.note(f"{str(note)[:1].upper()}{str(note)[1:]}.") if note else ""


def question(tables: Tables) -> str:
    """What was perturbed, in which cells, toward what."""
    settings = tables.manifest.get("settings", {})
    kinds = sorted({str(k) for k in tables.table["kind"].unique()}) if "kind" in tables.table else [str(settings.get("kind", ""))]
    done = " or ".join(_VERBS.get(k, f"edited ({k})") for k in kinds)
    start = settings.get("start")
    where = f"cells with {start}" if start else "the cells"
    states = [str(s) for s in settings.get("states") or []]
    toward = f", and which move {where if start else 'them'} toward {' or '.join(states)}" if states else ""
    return f"Which genes change the model's picture of {where} most when they are {done}{toward}?"


def answer(tables: Tables, ranking: Ranking, score: str, toward: Mapping[str, Ranking]) -> str:
    """The first section: facts, the top hits or that there are none, caveats. `toward`: {state: ranking by movement toward it}."""
    parts = [_facts(tables, ranking), _hits(ranking, score)]
    parts += [_toward(state, of_state) for state, of_state in toward.items()]
    return p.section("The answer", *parts) + p.section("Before you believe it", p.bullets(caveats(tables, ranking, score)))


def _facts(tables: Tables, ranking: Ranking) -> str:
    facts = ranking.facts
    settings, manifest = tables.manifest.get("settings", {}), tables.manifest
    inputs = manifest.get("input", {}).get("names", [])
    rows = [
        (
            "input",
            f"{', '.join(map(str, inputs[:3]))}{f' and {len(inputs) - 3} more' if len(inputs) > 3 else ''}" if inputs else "not recorded",
        ),
        ("cells", f"{manifest.get('n_cells', tables.n_cells):,}" + (f", {settings['start']}" if settings.get("start") else "")),
        ("donors", _donors(tables, facts)),
        ("edits", edits_sentence(facts) if "left_out" in facts else f"{ranking.table['edit'].nunique():,} ranked"),
    ]
    if "model" in settings:
        model = f"{settings['model']} (sha256 {str(settings.get('model_hash', ''))[:12]}), layer {settings.get('layer')}"
        rows.append(("model", model))
    if tables.screen is not None:
        finished = (tables.screen.folder / "screen.parquet").stat().st_mtime
        rows.append(("date", datetime.datetime.fromtimestamp(finished, datetime.UTC).strftime("%Y-%m-%d")))
    return p.table(["", "what was asked"], rows)


def _donors(tables: Tables, facts: Mapping[str, Any]) -> str:
    if facts.get("donors"):
        return f"{len(facts['donors']):,} (column {facts.get('donor')})"
    columns = [] if tables.cells is None else [str(c) for c in tables.cells.columns if c not in ("cell_id", "n_tokens", "n_genes")]
    there = f"; the cells carry {', '.join(columns[:6])}" if columns else ""
    return f"not named: cells are taken for replicates{there}"


def _hits(ranking: Ranking, score: str) -> str:
    """A table of what stands out by FDR, strongest first; else that nothing does, and the strongest for orientation."""
    ranked = ranking.table
    name = next((fdr_of(c) for c in probability_columns(ranked) if fdr_of(c) in ranked and ranked[fdr_of(c)].notna().any()), None)
    if name is None:
        shown = _strongest(ranked, 5)
        why = without_p_sentence(ranking) or "too few edits are alike in rank and in how many cells show them to be compared with"
        lead = f"There is no test of these edits ({why}). The strongest, which chance alone may have put here:"
        return p.paragraph(lead) + _table(shown, score, None)
    below = ranked[ranked[name] < LEVEL]
    tested = int(ranked[name].notna().sum())
    if not len(below):
        least = float(ranked[name].min())
        lead = f"Nothing stands out: of {tested:,} edits tested none has an FDR below {LEVEL:g} (FDR >= {least:.2g}). The strongest, for orientation:"
        return p.paragraph(lead) + _table(_strongest(ranked, 5), score, name) + _reading(ranked, score, name)
    less = below[below["matched_diff"] < 0] if name == "matched_fdr" and Score.parse(score).is_size and "matched_diff" in below else below[:0]
    hits = below.drop(less.index) if len(less) < len(below) else below
    less_clause = f"; {len(less):,} of them shift the cell less than genes alike do" if len(less) else ""
    listed = "" if len(hits) == len(below) <= HITS else f" The strongest{' of the others' if len(hits) < len(below) else ''}:"
    lead = f"{len(below):,} of {tested:,} edits tested stand out (FDR below {LEVEL:g}){less_clause}{'.' + listed if listed else ':'}"
    return p.paragraph(lead) + _table(_strongest(hits, HITS), score, name) + _reading(ranked, score, name)


def _strongest(ranked: "pd.DataFrame", n: int) -> Any:
    return ranked.iloc[np.argsort(-np.abs(ranked["effect"].to_numpy(float)), kind="stable")[:n]]


def _table(shown: Any, score: str, fdr: str | None) -> str:
    compares = fdr == "matched_fdr" and "matched_diff" in shown and Score.parse(score).is_size
    columns = ["gene", "effect", "s.e.", "cells", *(["than genes alike"] if compares else []), *(["FDR"] if fdr else [])]
    rows = []
    for row in shown.to_dict("records"):
        cells = [row["symbols"], signed(row["effect"]), small(row["sem"]), f"{int(row['n_cells']):,}"]
        cells += [_against(row["matched_diff"])] if compares else []
        rows.append([*cells, *([small(row[fdr])] if fdr else [])])
    return p.table(columns, rows)


def _against(diff: float) -> str:
    return "-" if not np.isfinite(diff) else "more" if diff > 0 else "less"


def signed(x: float) -> str:
    return "-" if not np.isfinite(x) else f"{x:+.2e}"


def small(x: float) -> str:
    return "-" if not np.isfinite(x) else f"{x:.1e}"


def _reading(ranked: "pd.DataFrame", score: str, fdr: str) -> str:
    """Legend of the columns of the hits."""
    in_place = (
        " (in place: no token attends to the gene any more, and all others keep their positions)" if Score.parse(score).is_in_place else ""
    )
    null = "genes of like rank that are shown by about as many cells, in the same cells" if fdr == "matched_fdr" else "its null hypothesis"
    return p.paragraph(
        f"Effect: {words(score)}{in_place}, the mean over {replicates(ranked)}; s.e.: its standard error, here and everywhere on this page. "
        f"Cells: in how many the gene was edited. FDR (false discovery rate): of all edits with an FDR this low or lower, the share that is expected "
        f"to be there by chance; an edit is compared with {null}."
    )


def _toward(state: str, ranking: Ranking) -> str:
    """The ends of the ranking by movement toward a state."""
    table = ranking.table
    up, down = table[table["effect"] > 0].head(5), table[table["effect"] < 0].tail(5)[::-1]
    name = next((c for c in ("matched_fdr",) if c in table and table[c].notna().any()), None)
    blocks = []
    for title, part in ((f"Toward {state}", up), (f"Away from {state}", down)):
        blocks.append(f"<h3>{p.text(title)}</h3>" + (_table(part, ranking.facts["by"], name) if len(part) else p.paragraph("No edit.")))
    return p.beside(*blocks)


def caveats(tables: Tables, ranking: Ranking, score: str) -> list[str]:
    """Caveats of this screen, the gravest first."""
    manifest, lines = tables.manifest, []
    if note := tables.model_note:
        lines.append(f"{note[:1].upper()}{note[1:]}.")
    follows = ranking.facts.get("rank_spearman", float("nan"))
    plain = ranking.facts.get("plain_rank_spearman")
    if abs(follows) > TOO_CLOSE:
        lines.append(
            f"The score follows the gene's mere rank in the list (Spearman {follows:+.2f}): it orders genes by where they stood, not by what they are."
        )
    elif plain is not None and abs(plain) > TOO_CLOSE:
        lines.append(
            f"Deleting a gene also moves every later gene up one position (it closes the gap), and that shift follows mere rank (Spearman {plain:+.2f}). "
            "The effects above are in place, without it."
        )
    n_cells = int(manifest.get("n_cells", tables.n_cells))
    if n_cells < FEW_CELLS:
        lines.append(f"Only {n_cells:,} cells were screened: means of so few change with other cells of the same kind.")
    if replicates(ranking.table) == "cells":
        lines.append(
            "Cells are taken for replicates. Cells of one donor are alike, so p and FDR are too small for a statement about donors: "
            "`rankcell stats DIR --donor COLUMN` tests over donors."
        )
    if without_p_sentence(ranking):
        lines.append(f"{without_p_sentence(ranking)}.")
    cropping = manifest.get("cropping") or {}
    if cropping.get("cropped"):
        share = cropping.get("unread", 0) / max(1, cropping.get("genes", 0))
        lines.append(
            f"{cropping['cropped']:,} of {cropping['cells']:,} cells have more genes than the model reads: {share:.0%} of the genes detected were never seen, and not edited."
        )
    known = manifest.get("input", {})
    if known.get("genes") and known.get("genes_known", 0) < FEW_KNOWN * known["genes"]:
        lines.append(f"The model knows {known['genes_known']:,} of the input's {known['genes']:,} genes: nothing is said about the others.")
    if manifest.get("audit"):
        lines.append("Most values are predicted and not run (the fast method); the section on predictions says how good they are.")
    lines.append(IN_SILICO)
    return lines
