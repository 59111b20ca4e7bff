"""The page about one screen: what was run, what follows mere rank, what came out, and how to read it."""

import contextlib
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rankcell.errors import RankcellError
from rankcell.report.pages import page as p
from rankcell.report.pages.answer import answer, question, small, toy_line
from rankcell.report.pages.audit_section import audit_section
from rankcell.report.pictures.absence import draw_absence
from rankcell.report.pictures.decomposition import decomposition_table
from rankcell.report.pictures.figures import new_figure, save
from rankcell.report.pictures.part_styles import PART_WORDS
from rankcell.report.pictures.ranked_genes import draw_ranked
from rankcell.report.pictures.screen_pictures import PICTURES, size_of
from rankcell.report.ranked_columns import fdr_of, probability_columns
from rankcell.report.screen_view import Tables, choose_score, effect_spread, least_cells, of_this_screen, ranking, scores_of, strongest
from rankcell.report.words import IN_SILICO, replicates, words
from rankcell.scores import IN_PLACE, TOWARD, Score, in_place_of, score_name
from rankcell.stats import rank_spearman
from rankcell.stats.covariates import TOO_CLOSE
from rankcell.stats.ranking import Ranking
from rankcell.stats.summary import calls, calls_sentence, edits_sentence, without_p_sentence
from rankcell.store import atomic_path

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_KINDS = {
    "delete": "was deleted: it is gone and every gene below it moves up one position",
    "overexpress": "was put to the front of the list, also in cells that lacked it",
    "inhibit": "was moved down the list",
    "activate": "was moved up the list",
    "mask": "was replaced by the mask token where it stood",
    "move": "was moved to a given rank",
}


def write_page(
    tables: Tables,
    path: str | os.PathLike,
    *,
    score: str | None = None,
    n: int | None = None,
    min_cells: int | None = None,
    statistics: Ranking | None = None,
    force: bool = False,
) -> Path:
    """Write the page of a screen: one html file that holds its pictures and needs no network."""
    with atomic_path(path, force=force) as part:
        part.write_text(screen_page(tables, score=score, n=n, min_cells=min_cells, statistics=statistics), encoding="utf-8")
    return Path(path)


def screen_page(
    tables: Tables, *, score: str | None = None, n: int | None = None, min_cells: int | None = None, statistics: Ranking | None = None
) -> str:
    """The HTML of the page. Sections for which the screen holds nothing are left out."""
    from rankcell import __version__

    score = choose_score(tables.table, score if score is not None or statistics is None else statistics.by)
    n = n or 20
    ranked = ranking(tables, score, min_cells=min_cells, tested=True) if statistics is None else of_this_screen(tables, statistics)
    least = ranked.facts.get("min_cells", least_cells(tables, min_cells))
    settings = tables.manifest.get("settings", {})
    parts = [
        answer(tables, ranked, score, _toward_rankings(tables, min_cells)),
        _follows(tables),
        audit_section(tables, _figure),
        _ranked(ranked, score, n),
        _volcano(ranked),
        _decomposition(tables, score, n, least),
        _by_rank(tables, score, least),
        _states(tables, n, least),
        _affected(tables, ranked.table),
        _one_cell(tables, score),
        _run(tables, settings),
        _reading(settings.get("kind", "delete")),
        _again(tables),
    ]
    model = f", model '{settings['model']}' ({str(settings.get('model_hash', ''))[:12]})" if "model" in settings else ""
    name = tables.screen.folder.resolve().name if tables.screen is not None else "a screen"
    return p.page(
        f"{name}: what stands out",
        question(tables),
        *[part for part in parts if part],
        footer=f"rankcell {settings.get('version', __version__)}{model}, page drawn by rankcell {__version__}.",
        first=toy_line(tables.model_note),
    )


def _toward_rankings(tables: Tables, min_cells: int | None) -> dict[str, Ranking]:
    """{state: ranking by the movement of the cell mean toward it, in place where that is known}, of the first states."""
    rankings = {}
    for state in list(tables.manifest.get("settings", {}).get("states") or [])[:3]:
        for score in (score_name(TOWARD, "cell", str(state), part) for part in (IN_PLACE, "")):
            if score in tables.table:
                with contextlib.suppress(RankcellError):
                    rankings[str(state)] = ranking(tables, score, min_cells=min_cells, tested=True)
                break
    return rankings


# Pictures inside the page


def _figure(width: float, height: float, draw: Callable[[Any], Any], *, alt: str, caption: str) -> str:
    """A picture with its caption; where there is nothing to draw, the reason in its place."""
    figure = new_figure(width, height)
    try:
        draw(figure)
    except RankcellError as e:
        return p.note(f"{alt}: {e}.")
    buffer = io.BytesIO()
    save(figure, buffer, ".png")
    return p.picture(buffer.getvalue(), alt=alt, caption=caption, width=width)


def _one(name: str, tables: Tables, *, rows: int, alt: str, caption: str, **options: Any) -> str:
    return _figure(
        *size_of(name, tables, rows), lambda f: PICTURES[name].draw(tables, ax=f.subplots(), **options), alt=alt, caption=caption
    )


# Sections


def _run(tables: Tables, settings: dict[str, Any]) -> str:
    if not settings:
        return p.section("What was run", p.paragraph("The table was in memory, so its settings are not known here."))
    kind = str(settings.get("kind", "delete"))
    states = list(settings.get("states") or [])
    n_skipped = tables.manifest.get("n_skipped")
    sentences = [
        f"In {tables.manifest.get('n_cells', tables.n_cells):,} cells, {settings.get('n_targets', 0):,} targets (a gene, or genes together) were tried one at a time; "
        f"where a cell was edited, the target {_KINDS.get(kind, f'was edited ({kind})')}.",
        f"Model '{settings.get('model')}', layer {settings.get('layer')}, computed with {settings.get('precision', '?')} on {settings.get('device', '?')}.",
    ]
    if states:
        sentences.append(f"Each edit was also scored for movement toward {', '.join(states)}.")
    if n_skipped:
        sentences.append(f"{n_skipped:,} pairs of cell and target gave no row: the cell lacks the gene, or nothing would change.")
    shown = [(k, _plain_value(v)) for k, v in settings.items() if not k.endswith("hash")]
    details = f"<details><summary>All settings</summary>{p.table(['setting', 'value'], shown)}</details>"
    return p.section("What was run", p.paragraph(" ".join(sentences)), details)


def _plain_value(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 90 else f"{text[:87]}..."


def _follows(tables: Tables) -> str:
    """Section on the correlation of each score with the rank, plain and in place."""
    rows, warned = [], []
    for score in scores_of(tables.table):
        names = [name for name in (score, in_place_of(score, tables.table)) if name is not None]
        rho = [rank_spearman(tables.table, name) for name in names]
        warned += [name for name, r in zip(names, rho, strict=True) if abs(r) > TOO_CLOSE]
        size = [small(effect_spread(tables, name)) for name in names]
        pad = [] if len(names) == 2 else ["-"]
        rows.append([f"`{score}`", *size, *pad, *map(_signed, rho), *pad])
    lines = [
        p.paragraph(
            "A gene that stands higher in the list has more genes below it, and a score may say little more than that. So each score is held against the rank: the Spearman "
            "correlation of effect and rank within a cell, median over cells. Near 1 or -1 a score orders genes by where they stood, whatever they are. The size is the median "
            "size of the effect over all edited cells (of a cosine: 1 - cosine)."
        ),
        p.table(["score", "size", "size, in place", "follows the rank", "in place"], rows),
    ]
    if warned:
        score_names = ", ".join(f"`{w}`" for w in warned)
        lines.append(
            p.note(
                f"Warning: {score_names} follow{'s' if len(warned) == 1 else ''} the rank (above {TOO_CLOSE:g} in size). Do not rank genes by {'it' if len(warned) == 1 else 'them'}."
            )
        )
    return p.section("How far each score follows the mere rank", *lines)


def _signed(x: float) -> str:
    return "unknown" if not np.isfinite(x) else f"{x:+.2f}"


def _ranked(statistics: Ranking, score: str, n: int) -> str:
    ranked, facts = statistics.table, statistics.facts
    columns = ["edit", "cells", "mean rank", "effect", "s.e."] + (["effect, gap closed"] if "plain_effect" in ranked else [])
    columns += [c for c in probability_columns(ranked)[:1] + [fdr_of(c) for c in probability_columns(ranked)[:1]] if c in ranked]
    shown = strongest(ranked, n) if Score.parse(score).is_toward else ranked.head(n)
    rows = [[_cell_of(r, c) for c in columns] for r in shown.to_dict("records")]
    counts = f" {edits_sentence(facts)}." if "left_out" in facts else ""
    counts_text = f"{counts} The mean of one or two cells can stand anywhere." if facts.get("left_out") else counts
    where = (
        "in place: nothing attends to the gene, the others keep their positions; 'gap closed' is the deletion as such, after which every later gene moves up one"
        if Score.parse(score).is_in_place
        else "as the screen scored it"
    )
    over = replicates(ranked)
    dependent = (
        " Cells of one donor are not independent: an error bar here is not one of a replicated experiment." if over == "cells" else ""
    )
    return p.section(
        "Strongest edits",
        p.paragraph(f"Edits by the {words(score)} ({where}), means over the {over} that were edited.{counts_text}"),
        _figure(
            *PICTURES["ranked"].size(min(n, len(ranked))),
            lambda f: draw_ranked(ranked, by=statistics.by, ax=f.subplots(), n=n),
            alt="Bars of the strongest edits",
            caption=f"Mean {words(score)}; line: standard error over {over}.{dependent}",
        ),
        f"<details><summary>The same in numbers</summary>{p.table(columns, rows)}</details>",
    )


def _cell_of(row: dict[str, Any], column: str) -> str:
    names = {"edit": "symbols", "cells": "n_cells", "mean rank": "mean_rank", "s.e.": "sem", "effect, gap closed": "plain_effect"}
    value = row[names.get(column, column)]
    if column == "edit":
        return str(value)
    if column == "cells":
        return f"{int(value):,}"
    if not np.isfinite(value):
        return "-"
    return f"{value:.0f}" if column == "mean rank" else f"{value:+.2e}" if column in ("effect", "effect, gap closed") else f"{value:.1e}"


def _volcano(statistics: Ranking) -> str:
    ranked = statistics.table
    if not any(ranked[c].notna().any() for c in probability_columns(ranked)):
        return ""
    picture = _figure(
        *PICTURES["volcano"].size(0),
        lambda f: PICTURES["volcano"].draw(None, ax=f.subplots(), statistics=statistics),
        alt="Volcano of all edits",
        caption="Each dot is an edit: its effect, less that of genes alike in rank and detection where these are the null, against how unlikely one as large is. Red: more than they do, blue: less, both with FDR below 0.05. Without donors, cells are taken for replicates.",
    )
    sentences = [calls_sentence(name, *counts) for name, counts in calls(ranked).items()]
    sentences += [without_p_sentence(statistics)] if without_p_sentence(statistics) else []
    return p.section("Effect and significance", p.paragraph("; ".join(sentences) + "."), picture)


def _decomposition(tables: Tables, score: str, n: int, least: int) -> str:
    try:
        stem, means = decomposition_table(tables, score, n=n, min_cells=least)
    except RankcellError:
        return ""
    shown = [c for c in PART_WORDS if c in means]
    rows = [[r["symbols"], int(r["n_cells"]), *(f"{r[c]:+.2e}" for c in shown)] for r in means.to_dict("records")]
    refill = (
        " Refilling lets the next genes of the uncropped cell enter at the end; its part is what that adds." if "refill" in shown else ""
    )
    return (
        p.section(
            "What a deletion consists of",
            p.paragraph(
                "Deleting a token does two things at once: the gene is gone, and every gene below it moves up one position. Three kinds of absence tell these apart:"
            ),
            _figure(
                9.6,
                3.6,
                lambda f: draw_absence(f.subplots()),
                alt="Delete, absence in place, and mask",
                caption="A cell of six genes, the third one lost in three ways.",
            ),
            p.paragraph(
                f"In place is what the gene itself does; the position part is the total less that.{refill} For the strongest edits in place:"
            ),
            _one(
                "decomposition",
                tables,
                rows=len(means),
                alt="Total, in place and position part of the strongest edits",
                caption="Means over cells, logarithmic scale; the parts of an edit add up to its total. Where circle and triangle lie together, the score is position and nothing else.",
                score=score,
                n=n,
                min_cells=least,
            ),
            f"<details><summary>The same in numbers</summary>{p.table(['edit', 'cells', *(PART_WORDS[c] for c in shown)], rows)}</details>",
        )
        if stem
        else ""
    )


def _by_rank(tables: Tables, score: str, least: int) -> str:
    plain = str(Score.parse(score).plain)
    scores = [s for s in dict.fromkeys((plain, score)) if s in tables.table]

    def draw(figure: "Figure") -> None:
        for ax, name in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores, strict=True):
            PICTURES["rank"].draw(tables, ax=ax, score=name, min_cells=least, n=8)

    sides = "Left as deleted (later genes move up one position), right in place. " if len(scores) == 2 else ""
    caption = f"{sides}Band: 5 to 95 % of the genes next in rank, line: their median. A gene counts for as much as it stands out of the band; those that do most are named."
    return p.section(
        "Shift against rank", _figure(5.9 * len(scores), 4.5, draw, alt="Effect of every edit against its gene's mean rank", caption=caption)
    )


def _states(tables: Tables, n: int, least: int) -> str:
    toward = [s for s in scores_of(tables.table) if Score.parse(s).family == TOWARD]
    if not toward:
        return ""
    blocks = []
    for score in [s for s in toward if Score.parse(s).readout == "cell"][:4]:
        name = in_place_of(score, tables.table) or score
        rows = min(n, tables.table["edit"].nunique())
        caption = f"{words(name)}. Red: the edit moves cells toward the state; blue: away from it."
        blocks.append(
            _one("ranked", tables, rows=rows, alt=f"Strongest edits by {words(name)}", caption=caption, score=name, n=n, min_cells=least)
        )
    if len(toward) > 1:
        caption = "Mean movement of the cell readout; rows that are alike stand together."
        blocks.insert(0, _one("heatmap", tables, rows=n, alt="Edits against states", caption=caption, n=n, min_cells=least))
    intro = "Cosine with the mean embedding of the state after the edit, less before. A movement toward one state is often one away from where the cell was, in any direction: compare states."
    return p.section("Movement toward states", p.paragraph(intro), *blocks)


def _affected(tables: Tables, ranked: "pd.DataFrame") -> str:
    if not tables.has_affected:
        return ""
    edits = strongest(ranked, 2)["edit"].tolist()

    def draw(figure: "Figure") -> None:
        for ax, edit in zip(figure.subplots(1, len(edits), squeeze=False)[0], edits, strict=True):
            PICTURES["affected"].draw(tables, ax=ax, edit=edit, n=15)

    treatment = (
        "in place" if "mean_cos_in_place" in tables.affected() else "of the edit as made: for a deletion they hold the change of positions"
    )
    intro = f"Mean shift of single other genes under the strongest edits. These are shifts {treatment}."
    caption = "Beside each gene, in how many cells it was there to be shifted. `--what affected --edit GENE` draws any other edit."
    picture = _figure(5.9 * len(edits), 4.6, draw, alt="Genes affected most by the strongest edits", caption=caption)
    return p.section("Affected genes", p.paragraph(intro), picture)


def _one_cell(tables: Tables, score: str) -> str:
    counts = tables.table["cell_id"].value_counts(sort=False)
    order = np.lexsort((counts.index.astype(str), counts.to_numpy()))
    cell = str(counts.index[order[len(order) // 2]])
    caption = f"Cell {cell}, the one with the median number of edits. Named: the strongest in place. `--what explain --cell CELL` draws any other."
    return p.section("One cell", _one("explain", tables, rows=0, alt=f"Every edit of cell {cell}", caption=caption, cell=cell, score=score))


def _reading(kind: str) -> str:
    in_place = (
        "`..._in_place`: the same with no token attending to the gene, which is in no mean either, the others at their own positions. Rank genes by it."
        if kind == "delete"
        else "This kind of edit is not scored in place: what it does to the positions of the other genes is part of its effect."
    )
    return p.section(
        "How to read it",
        p.bullets(
            [
                "`cos_genes`: mean cosine, before and after, of the states of all genes that were not perturbed; its shift is 1 less that. `cos_cell`: the same of the mean of those states, `cos_cls`: of the CLS state.",
                in_place,
                "`toward_<state>_<readout>`: cosine with the state's mean embedding after the edit, less before. Positive is nearer.",
                "The edit kind `mask` is a third thing: the mask token stands in the gene's place, and what the model then does is to guess what was there.",
                IN_SILICO,
                "Cells of one donor are not replicates: take p-values from `rankcell stats` with the donors named.",
            ]
        ),
    )


def _again(tables: Tables) -> str:
    folder = tables.screen.folder.resolve().name if tables.screen is not None else "DIR"
    lines: Sequence[str] = [
        f"rankcell plot {_quoted(folder)} --what rank --score cos_genes -o rank.png",
        f"rankcell plot {_quoted(folder)} --what explain --cell CELL -o cell.svg",
        f"rankcell plot {_quoted(folder)} --what heatmap --groupby COLUMN -o groups.pdf",
        f"rankcell stats {_quoted(folder)} -o stats.csv",
    ]
    return p.section("Each picture by itself", p.commands(lines))


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)
