"""A screen's results folder -> a table of ranked edits."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankcell.errors import SettingsError
from rankcell.perturb.edits.gene_lists import named_genes
from rankcell.scores import TOWARD, Score, score_name, scores_in
from rankcell.stats.ranking import Ranking
from rankcell.store import require_apart
from rankcell.wording import note, option

COMPAT_MODES = ("goal_state_shift", "vs_null", "mixture_model", "aggregate_data", "aggregate_gene_shifts")


@dataclass(frozen=True)
class Ranked:
    """The table that was written, what stands of it beside it (OUT.json), where, and what was found in it as lines."""

    table: Any
    facts: Mapping[str, Any]
    path: Path
    lines: tuple[str, ...]


def stats(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    score: str | None = None,
    mode: str | Sequence[str] = "matched",
    donor: str | None = None,
    cells: str | os.PathLike | None = None,
    controls: str | Sequence[str] | None = None,
    against: str | os.PathLike | None = None,
    min_cells: int | None = None,
    direction: str | None = None,
    seed: int = 0,
    compat: str = "rankcell",
    force: bool = False,
) -> Ranked:
    """Rank the edits of the screen in `source`, test them as `mode` says, and write OUT (tsv, csv or parquet) and OUT.json."""
    from rankcell.stats.ranked_tables import check_out, write_ranked

    modes = [m.strip() for part in ([mode] if isinstance(mode, str) else mode) for m in part.split(",") if m.strip()]
    check_out(out, force=force)
    require_apart(out, [source, *([against] if against is not None else [])])
    if not modes:
        raise SettingsError(f"{option('mode')}: name a mode")
    if min_cells is not None and min_cells < 0:
        raise SettingsError(f"{option('min_cells')} is {min_cells}; at least 0")
    given = {"controls": controls, "cells": cells, "against": against, "direction": direction, "donor": donor, "min_cells": min_cells}
    _check_uses(modes, compat, {name for name, value in given.items() if value is not None})
    if compat == "geneformer":
        ranking = _compat(Path(source), modes, score, against)
    elif "affected" in modes:
        from rankcell.stats.affected_pairs import affected_ranking

        ranking = affected_ranking(source, min_cells=min_cells, direction=direction or "more")
    else:
        from rankcell.stats.rank import edit_ranking

        ranking = edit_ranking(
            source,
            by=score,
            mode=modes,
            donor=donor,
            cells=cells,
            controls=None if controls is None else named_genes(controls, "controls"),
            against=against,
            min_cells=min_cells,
            seed=seed,
        )
    if not len(ranking):
        raise SettingsError(f"no edit is left with {option('min_cells', min_cells)}: nothing to write")
    facts = {**ranking.facts, "screen": str(source)}
    write_ranked(ranking.table, out, facts=facts, force=force)
    return Ranked(ranking.df(), facts, Path(out), tuple(_found(ranking)))


_USES = {"controls": "control", "against": "vs", "direction": "affected"}  # options that one mode alone has


def _check_uses(modes: Sequence[str], compat: str, given: set[str]) -> None:
    """SettingsError for an option that nothing would use."""
    if compat not in ("rankcell", "geneformer"):
        raise SettingsError(f"unknown compat '{compat}'; rankcell or geneformer")
    if compat == "geneformer":
        unused = [option(n) for n in ("donor", "cells", "controls", "min_cells", "direction") if n in given]
        if unused:
            raise SettingsError(f"{option('compat', 'geneformer')} knows no {', '.join(unused)}: leave it out")
        return
    theirs = next((m for m in modes if m in COMPAT_MODES), None)
    if theirs is not None:
        raise SettingsError(f"mode '{theirs}' is Geneformer's: add {option('compat', 'geneformer')}")
    if "affected" in modes and len(modes) > 1:
        raise SettingsError("mode affected gives a table of its own, a row per perturbation and affected gene: run it alone")
    if "cells" in given and "donor" not in given:
        raise SettingsError(f"{option('cells')} is for {option('donor', placeholder='COL')}, which is not asked for")
    for name, mode in _USES.items():
        if name in given and mode not in modes:
            raise SettingsError(f"{option(name)} is for {option('mode', mode)}, which is not asked for")


def _compat(source: Path, modes: Sequence[str], score: str | None, against: str | os.PathLike | None) -> Ranking:
    """One of Geneformer's own tables."""
    from rankcell.perturb import read_screen
    from rankcell.stats import geneformer as g
    from rankcell.stats.prediction import is_fast
    from rankcell.stats.screen_rows import goal_score, read_rows, remarks_of

    if len(modes) != 1 or modes[0] not in COMPAT_MODES:
        raise SettingsError(f"{option('compat', 'geneformer')} takes one mode of {', '.join(COMPAT_MODES)}; it got {', '.join(modes)}")
    screen, mode = read_screen(source), modes[0]
    columns = screen.columns()
    if is_fast(columns):
        note("this is a fast screen: Geneformer's tables take predicted values for exact ones and know nothing of their error")
    if mode == "goal_state_shift":
        goal = _goal(screen, columns, score, goal_score)
        alternatives = _alternatives(columns, goal)
        table = g.goal_state_shift(read_rows(screen, [goal, *alternatives.values()]), goal, alternatives)
        return Ranking(table, {"mode": [mode], "compat": "geneformer", "by": goal} | remarks_of(screen))
    used = g.cell_score(columns, score)
    rows = read_rows(screen, [used])
    if mode == "vs_null":
        if against is None:
            raise SettingsError(f"vs_null needs the null screen: {option('against', placeholder='DIR')}")
        other = read_screen(against)
        table = g.vs_null(rows, read_rows(other, [g.cell_score(other.columns(), used)]), used)
    elif mode == "aggregate_gene_shifts":
        table = g.aggregate_gene_shifts(rows, used, screen.affected().to_pandas(), screen.symbols())
    else:
        table = {"mixture_model": g.mixture_model, "aggregate_data": g.aggregate_data}[mode](rows, used)
    return Ranking(table, {"mode": [mode], "compat": "geneformer", "by": used} | remarks_of(screen))


def _goal(screen: Any, columns: Sequence[str], score: str | None, choose: Any) -> str:
    """The plain toward score of the goal: the one asked for, else of the first state of the screen, CLS before cell as Geneformer V2."""
    if score is not None:
        return choose(columns, score)
    for state in screen.manifest["settings"].get("states", []):
        for readout in ("cls", "cell"):
            if (name := score_name(TOWARD, readout, state)) in columns:
                return name
    return choose(columns, None)


def _alternatives(columns: Sequence[str], goal: str) -> dict[str, str]:
    """Every other state of the goal's readout: name -> score."""
    measured = Score.parse(goal)
    states = {c: Score.parse(c) for c in scores_in(columns) if c != goal}
    return {s.state: c for c, s in states.items() if (s.family, s.readout, s.part) == (TOWARD, measured.readout, measured.part)}


def _found(ranking: Ranking) -> list[str]:
    """What stands in the table, for a reader in a hurry."""
    from rankcell.stats.summary import calls, calls_sentence, edits_sentence, without_p_sentence

    table, facts, by, modes = ranking.table, ranking.facts, ranking.by, ranking.facts["mode"]
    if facts.get("compat") == "geneformer":
        n = int(table["Sig"].sum()) if "Sig" in table else None
        return [
            f"{len(table):,} rows as Geneformer's {modes[0]}"
            + (f" on {by}" if by else "")
            + (f"; {n:,} with Sig = 1" if n is not None else "")
        ]
    if modes == ["affected"]:
        return _pairs(ranking)
    top = ", ".join(f"{r.symbols} {r.effect:.2e}" for r in table.head(5).itertuples()) or "none"
    keep = f" ({option('min_cells', 0)} keeps them)" if facts["left_out"] else ""
    lines = [f"{len(table):,} edits by mean effect on {by}; largest: {top}", f"{edits_sentence(facts)}{keep}", *_of_predictions(ranking)]
    for name, (called, tested) in calls(table).items():
        no_peers = name.startswith("matched") and not tested and not table["matched_diff"].notna().any()
        few = ": ten edits alike in rank and detection are needed to compare with" if no_peers else ""
        lines.append(calls_sentence(name, called, tested) + few)
    if calls(table) and without_p_sentence(ranking):
        lines.append(without_p_sentence(ranking))
    if "impact" in table:
        lines.append(f"impact component: {int(table['impact'].sum()):,} edits")
    plain = facts.get("plain_rank_spearman")
    also = f" (with the shift of positions {plain:.2f})" if plain is not None else ""
    if facts["rank_spearman"] == facts["rank_spearman"]:
        lines.append(f"median Spearman with the gene's rank in the cell {facts['rank_spearman']:.2f}{also}")
    else:
        lines.append("Spearman with the gene's rank: unknown, no cell has ten edits of different rank")
    held = ", ".join(f"{k.replace('_', ' ')} {v['partial']:.2f}" for k, v in facts["predictors"].items())
    return [*lines, f"partial Spearman over edits, each with the others held fixed: {held}"] if held else lines


def _pairs(ranking: Ranking) -> list[str]:
    """What stands in a table of affected genes."""
    table, a = ranking.table, ranking.facts
    how = "in place" if a["by"] != "mean_cos" else "with the change of positions, as the screen has no values in place"
    which = {"more": "that move more than expected", "less": "that move less than expected", "both": "by how far they are from expected"}
    first = [f"{r.symbols} -> {r.affected_symbol}" for r in table.head(5).itertuples()]
    said = f"{len(table):,} pairs of perturbation and affected gene {which[a['direction']]}, {how}"
    return [
        f"{said}; of {a['pairs']:,}, those in {a['min_cells']:,} cells or more; first: {', '.join(first) or 'none'}",
        "a ranking without p or FDR: these are not calibrated for pairs",
    ]


def _of_predictions(ranking: Ranking) -> list[str]:
    """Of a fast screen: how much was run, how far the rest is off, and what the intervals and p hold of it."""
    table, facts = ranking.table, ranking.facts
    if facts.get("method") != "fast":
        return []
    f, n_exact, n = facts["prediction"], int(table["n_exact"].sum()), int(table["n_cells"].sum())
    if n_exact == n:
        return ["fast screen: all values were run, none is predicted"]
    said = f"fast screen: {n_exact:,} of {n:,} values run; the others are off by {f['error']:.1e}"
    said += f" (root mean square of {f['audited']:,} audited, mean {f['bias']:+.1e})"
    if f["common_share"] is None:
        few = f"only {f['edits_audited_twice']:,} edits were audited in two cells, so all of it is taken to be the same in all cells of an edit"
        return [f"{said}; {few}: intervals and p are wider than they need be (perturb with audit 0.2, or more cells, would tell)"]
    return [f"{said}, of which {f['common_share']:.0%} is the same in all cells of an edit: that is in every interval and p"]
