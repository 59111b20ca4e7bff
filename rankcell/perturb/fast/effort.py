"""Effort of the fast method on a cell: the engine that settings make, and the least effort that reaches a recall."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.exact.scored import Scored
from rankcell.perturb.fast import audit
from rankcell.perturb.fast.fast_engine import FastEngine, FastScored
from rankcell.perturb.fast.options import AUTO
from rankcell.perturb.fast.ratios import Ratios
from rankcell.scores import IN_PLACE, Score
from rankcell.wording import note, option

SPLITS = (8, 16, 32, 64)
PROJECTIONS = (8, 16, 32, 64, 128)
PROBED = 128  # edits of a probed cell that are run exactly


def fast_engine(engine: Engine, settings: Mapping[str, Any]) -> FastEngine:
    """The engine of a fast screen with these settings."""
    own = {field.name for field in dataclasses.fields(FastEngine)} & settings.keys() - {"ratios"}
    return FastEngine(engine, **{name: settings[name] for name in own}, ratios=Ratios.of(settings))


def pass_of(score: str) -> str:
    """The end of a score's name that says in which pass it is run."""
    return IN_PLACE if Score.parse(score).is_in_place else ""


def grid(splits: int | str, projections: int | str, verify_by: str) -> list[tuple[int, int]]:
    """Grid of efforts to try: (splits, projections). The projections are for sizes of shift, so that a screen judged by a movement toward
    states keeps to the fewest."""
    fewest = PROJECTIONS if Score.parse(verify_by).is_cosine else PROJECTIONS[:1]
    all_splits, all_projections = SPLITS if splits == AUTO else (splits,), fewest if projections == AUTO else (projections,)
    return [(s, k) for s in all_splits for k in all_projections]


def judged(names: Sequence[str], verify_by: str) -> list[str]:
    """The scores that are to reach the recall: the one by which edits are verified."""
    return [n for n in names if n == verify_by]


def choose_effort(
    engine_of: Callable[[int, int], FastEngine],
    rows: Sequence[np.ndarray],
    exact: Engine,
    min_recall: float,
    *,
    tries: Sequence[tuple[int, int]],
    verify_by: str,
) -> dict[str, Any]:
    """The cheapest number of splits and projections with which the expected recall of the top tenth reaches `min_recall`: plain JSON.

    engine_of
        (splits, projections) -> the engine that would run the screen.
    rows, exact
        The cells to probe, and the engine that runs some of their edits.

    Tries from the cheapest until `verify_by` reaches it, in the mean over the probed cells. Returns `splits`, `projections`, whether
    it is `reached`, and `tried`: of each try the tokens that a probed cell takes, and the recall. Where nothing reaches it: the
    cheapest of those that come closest, to a hundredth.
    """
    lengths = np.array([len(r) for r in rows], np.int64)
    edits = np.array([exact.plan.count(r) for r in rows], np.int64)
    costs = {at: float(np.asarray(engine_of(*at).cost(edits, lengths)).mean()) for at in tries}
    known = exact.run(rows, most=PROBED)
    tried: list[dict[str, Any]] = []
    for at in sorted(tries, key=lambda at: (costs[at], at)):
        recall = _recalls(engine_of(*at).run(rows), known, verify_by)
        tried.append({"splits": at[0], "projections": at[1], "tokens": round(costs[at]), "recall": recall})
        if recall and min(recall.values()) >= min_recall:
            break
    reached = bool(tried[-1]["recall"]) and min(tried[-1]["recall"].values()) >= min_recall
    best = tried[-1] if reached else max(tried, key=lambda t: round(min(t["recall"].values(), default=0.0), 2))  # of equals the first
    return {"splits": best["splits"], "projections": best["projections"], "reached": reached, "tried": tried}


def _recalls(scored: FastScored, known: Scored, verify_by: str) -> dict[str, float]:
    """Expected recall of each score, mean over cells, judged by the exact scores `known`."""
    truth, recalls = _exact_of(scored, known), {}
    cells = [scored.cell == c for c in np.unique(scored.cell)]
    for score in judged(list(scored.predicted), verify_by):
        predicted, exact = (Score.parse(score).effect(v[score]) for v in (scored.predicted, truth))
        each = [audit.judge(predicted[c], exact[c], np.isfinite(exact[c]))["recall"] for c in cells]
        if np.isfinite(each).any():
            recalls[score] = round(float(np.nanmean(each)), 4)
    return recalls


def _exact_of(scored: FastScored, known: Scored) -> dict[str, np.ndarray]:
    """The scores of `known` where its edits stand in `found`, NaN elsewhere."""
    place = {(c, t): i for i, (c, t) in enumerate(zip(scored.cell.tolist(), scored.target.tolist(), strict=True))}
    at = np.array([place[key] for key in zip(known.cell.tolist(), known.target.tolist(), strict=True)], np.int64)
    truth = {}
    for score in scored.predicted:
        truth[score] = np.full(len(scored.cell), np.nan)
        truth[score][at] = known.scores[score]
    return truth


def note_choice(choice: Mapping[str, Any], min_recall: float) -> None:
    """Note the choice of `choose_effort` and its reason, once."""
    last = next(t for t in choice["tried"] if all(t[name] == choice[name] for name in ("splits", "projections")))
    worst = min(last["recall"].items(), key=lambda r: r[1], default=None)
    chosen = f"{choice['splits']} splits and {choice['projections']} projections"
    if worst is None:
        text = f"{chosen}: in the cells that were tried there is too little to judge by"
    elif choice["reached"]:
        text = f"{chosen} reach the recall asked for: in the cells that were tried '{worst[0]}' has {worst[1]:.2f}"
    else:
        text = (
            f"none of {len(choice['tried'])} efforts reaches a recall of {min_recall:g} (what {option('splits')} and {option('projections')} name is kept to): going "
            f"on with {chosen}, with which '{worst[0]}' has {worst[1]:.2f}; {option('method', 'exact')} has all"
        )
    note(text)
