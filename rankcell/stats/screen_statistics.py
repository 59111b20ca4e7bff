"""A screen's results folder -> a table of ranked edits."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rankcell.errors import SettingsError
from rankcell.scores import TOWARD, Score, score_name, scores_in
from rankcell.stats.affected_pairs import DIRECTIONS, affected_ranking
from rankcell.stats.options import RankOptions
from rankcell.stats.rank import edit_ranking
from rankcell.stats.ranked_tables import check_out, write_ranked
from rankcell.stats.ranking import Ranking
from rankcell.store import require_apart
from rankcell.wording import note, option

COMPAT_MODES = ("goal_state_shift", "vs_null", "mixture_model", "aggregate_data", "aggregate_gene_shifts")


@dataclass(frozen=True)
class WrittenRanking:
    """A ranking that was written: the file, and the ranking with all the facts that stand beside it (OUT.json)."""

    path: Path
    ranking: Ranking


def write_statistics(
    source: str | os.PathLike,
    out: str | os.PathLike,
    options: RankOptions = RankOptions(),
    *,
    direction: str | None = None,
    compat: str = "rankcell",
    force: bool = False,
) -> WrittenRanking:
    """Rank the edits of the screen in `source`, test them as the modes say, and write OUT (tsv, csv or parquet) and OUT.json.

    direction
        Of mode affected: `more` (None), `less` or `both`.
    compat
        `geneformer`: one of Geneformer's own tables, named by the mode.
    """
    check_out(out, force=force)
    require_apart(out, [source, *([options.against] if options.against is not None else [])])
    if not options.mode:
        raise SettingsError(f"{option('mode')}: name a mode")
    set_options = {name for name in ("controls", "cells", "against", "donor", "min_cells") if getattr(options, name) is not None}
    _check_uses(options.mode, compat, set_options | ({"direction"} if direction is not None else set()))
    if compat == "geneformer":
        ranking = _compat(Path(source), options.mode, options.score, options.against)
    elif "affected" in options.mode:
        ranking = affected_ranking(source, min_cells=options.min_cells, direction=direction or DIRECTIONS[0])
    else:
        ranking = edit_ranking(source, options)
    if not len(ranking):
        raise SettingsError(f"no edit is left with {option('min_cells', options.min_cells)}: nothing to write")
    ranking = replace(ranking, facts={**ranking.facts, "screen": str(source)})
    write_ranked(ranking.table, out, facts=ranking.facts, force=force)
    return WrittenRanking(Path(out), ranking)


_USES = {"controls": "control", "against": "vs", "direction": "affected"}  # options that one mode alone has


def _check_uses(modes: Sequence[str], compat: str, set_options: set[str]) -> None:
    """Refuse options that the modes do not use (SettingsError)."""
    if compat not in ("rankcell", "geneformer"):
        raise SettingsError(f"unknown compat '{compat}'; rankcell or geneformer")
    if compat == "geneformer":
        unused = [option(n) for n in ("donor", "cells", "controls", "min_cells", "direction") if n in set_options]
        if unused:
            raise SettingsError(f"{option('compat', 'geneformer')} knows no {', '.join(unused)}: leave it out")
        return
    theirs = next((m for m in modes if m in COMPAT_MODES), None)
    if theirs is not None:
        raise SettingsError(f"mode '{theirs}' is Geneformer's: add {option('compat', 'geneformer')}")
    if "affected" in modes and len(modes) > 1:
        raise SettingsError("mode affected gives a table of its own, a row per perturbation and affected gene: run it alone")
    if "cells" in set_options and "donor" not in set_options:
        raise SettingsError(f"{option('cells')} is for {option('donor', placeholder='COL')}, which is not asked for")
    for name, mode in _USES.items():
        if name in set_options and mode not in modes:
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
    """Scores of the other states with the goal's readout: state -> score."""
    measured = Score.parse(goal)
    states = {c: Score.parse(c) for c in scores_in(columns) if c != goal}
    goal_readout = (measured.family, measured.readout, measured.part)
    return {s.state: c for c, s in states.items() if s.state and (s.family, s.readout, s.part) == goal_readout}
