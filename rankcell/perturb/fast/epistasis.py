"""Epistasis: what two genes lost together do beyond the sum of each alone, for pairs among the genes of a cell that move it most.

    interaction = score(both) - score(first) - score(second),    1 - cos for the cosines

A pair is predicted twice, from the cell without the one and without the other gene (rankcell.perturb.fast.fast_engine.pair_predictors), and the
mean of the two is taken. Predictions of the joint and of the single effect are subtracted from each other, so that what
both have wrong falls out.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rankcell.perturb.edits.plan import EditPlan, RowEdits
from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.fast.fast_engine import FastEngine, cost, pair_predictors
from rankcell.perturb.fast.response import Predictors
from rankcell.scores import TOWARD, Score

_AUDIT, _LEAST = 0.05, 8  # of the pairs that are not verified: share that is run at random, and how many at least


@dataclass(frozen=True)
class Interactions:
    """Pairs of genes of some cells.

    cell, first, second
        int64 [pairs]: number of the cell among those given; the two genes' tokens, that of larger effect first.
    exact, sampled
        bool [pairs]: whether the pair was run; whether at random.
    values, predicted
        {score: float64 [pairs]}: interactions, and what was predicted without running the pair (NaN where nothing was).
    joint
        {score: float64 [pairs]}: the score of both, which is a cosine for `cos_`.
    """

    cell: np.ndarray
    first: np.ndarray
    second: np.ndarray
    exact: np.ndarray
    sampled: np.ndarray
    values: dict[str, np.ndarray]
    predicted: dict[str, np.ndarray]
    joint: dict[str, np.ndarray]


def interactions(
    fast: FastEngine,
    rows: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    *,
    n: int,
    verify: int,
    progress: Callable[[int], None] | None = None,
) -> Interactions:
    """Interactions of all pairs among the `n` genes of each cell that move it most.

    fast
        Of a screen that deletes single genes.
    scores
        For each cell float64 [its edits]: by whose size the genes are chosen.
    verify
        So many pairs of each cell, those with the largest predicted interaction of `fast.verify_by`, are run.
    """
    with fast.engine.encoder.pinned():
        of_cells = [_of_cell(fast, row, np.asarray(s), n, verify, progress) for row, s in zip(rows, scores, strict=True)]
    names = [name for part in fast.names.values() for name in part]

    def joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
        return np.concatenate([np.empty(0, dtype), *parts])

    return Interactions(
        joined([np.full(len(f["exact"]), i) for i, f in enumerate(of_cells)], np.int64),
        *(joined([f[k] for f in of_cells], np.int64) for k in ("first", "second")),
        *(joined([f[k] for f in of_cells], bool) for k in ("exact", "sampled")),
        *({name: joined([f[k][name] for f in of_cells], np.float64) for name in names} for k in ("values", "predicted", "joint")),
    )


def tokens_of_pairs(fast: FastEngine, edits: np.ndarray, lengths: np.ndarray, *, n: int, verify: int) -> np.ndarray:
    """int64 [cells]: tokens through the model for the interactions of cells of so many edits and tokens, as FastEngine.cost counts."""
    genes = np.minimum(n, edits)
    pairs = genes * (genes - 1) // 2
    passes = len(fast.passes)
    run = np.minimum(pairs, verify + np.maximum(_LEAST, np.ceil(_AUDIT * np.maximum(0, pairs - verify))))
    predicted = np.array([_passes_to_predict(fast, int(g)) for g in genes]) + passes * run
    return (np.minimum(passes * pairs, predicted) + passes * genes).astype(np.int64) * lengths


def _passes_to_predict(fast: FastEngine, genes: int) -> int:
    """Cost of predicting all pairs of so many genes of a row, in forward passes."""
    toward = sum(Score.parse(name).family == TOWARD for name in fast.plain_names)
    options = {"toward": toward, "readouts": len(fast.engine.scored), "projections": fast.projections}
    options |= {"passes": len(fast.passes), "ratios": fast.ratios}
    tokens = cost(np.array([10**9]), np.array([1]), audit=0.0, splits=0, contexts=2 * genes + 1, **options)
    return int(tokens[0])


def _of_cell(fast: FastEngine, row: np.ndarray, scores: np.ndarray, n: int, verify: int, progress: Callable[[int], None] | None) -> dict:
    engine = fast.engine
    row_edits = engine.plan.of_row(row)
    single = np.flatnonzero((row_edits.n_perturbed == 1) & np.isfinite(scores))
    genes = single[np.argsort(-np.abs(scores[single]), kind="stable")][:n]
    a, b = np.triu_indices(len(genes), 1)
    place = row_edits.where[genes].max(1)
    token = np.asarray(row, np.int64)[place]
    names = [name for part in fast.names.values() for name in part]
    blank = {name: np.full(len(a), np.nan) for name in names}
    pair_table = {"first": token[a], "second": token[b], "exact": np.zeros(len(a), bool), "sampled": np.zeros(len(a), bool)}
    pair_table |= {k: {name: v.copy() for name, v in blank.items()} for k in ("values", "predicted", "joint")}
    if not len(a):
        return pair_table
    alone = engine.run_edits([row], [row_edits.chosen(genes)], progress=progress).scores
    if _passes_to_predict(fast, len(genes)) >= len(fast.passes) * len(a):  # to run them all takes no longer
        _run(engine, row, pair_table, np.arange(len(a)), alone, (a, b), names, progress)
        return pair_table
    rng = fast.draws(row, 1)
    _predict(fast, row, row_edits.chosen(genes), place, alone, (a, b), pair_table, rng)
    order = np.argsort(-np.abs(np.nan_to_num(pair_table["values"][fast.largest_by])), kind="stable")
    unverified = order[verify:]
    drawn = rng.choice(unverified, min(len(unverified), max(_LEAST, int(np.ceil(_AUDIT * len(unverified))))), replace=False)
    pair_table["sampled"][drawn] = True
    _run(engine, row, pair_table, np.sort(np.concatenate([order[:verify], drawn])), alone, (a, b), names, progress)
    return pair_table


def _predict(
    fast: FastEngine,
    row: np.ndarray,
    gene_edits: RowEdits,
    place: np.ndarray,
    alone: dict[str, np.ndarray],
    pairs: tuple[np.ndarray, np.ndarray],
    pair_table: dict,
    rng: np.random.Generator,
) -> None:
    """Predict the interactions of all pairs of the genes at `place`, into `pair_table`."""
    state = rng.bit_generator.state
    base = fast.predict_row(row, gene_edits, rng)
    predicted = {name: np.full((len(place), len(place)), np.nan) for name in pair_table["values"]}
    for i in range(len(place)):
        rng.bit_generator.state = state  # the same projections, whose noise falls out of the difference
        others = np.flatnonzero(np.arange(len(place)) != i)
        joint = pair_predictors(fast, np.asarray(row, np.int64), place[others], int(place[i]), rng)
        for name in predicted:
            x, own = _sum(joint, name), _sum(base, name)
            if x is not None and own is not None:
                predicted[name][i, others] = x - own[others] - Score.parse(name).effect(alone[name])[i]
    a, b = pairs
    for name, values in predicted.items():
        mean = (values[a, b] + values[b, a]) / 2
        pair_table["values"][name][:] = pair_table["predicted"][name][:] = mean
        joint_effect = mean + sum(Score.parse(name).effect(alone[name])[x] for x in pairs)
        pair_table["joint"][name][:] = Score.parse(name).effect(joint_effect)


def _run(
    engine: Engine,
    row: np.ndarray,
    pair_table: dict,
    at: np.ndarray,
    alone: dict[str, np.ndarray],
    pairs: tuple[np.ndarray, np.ndarray],
    names: Sequence[str],
    progress: Callable[[int], None] | None,
) -> None:
    """Run the pairs `at` exactly, and write their values over the predictions in `pair_table`."""
    plan = engine.plan
    targets = tuple(zip(pair_table["first"][at].tolist(), pair_table["second"][at].tolist(), strict=True))
    pair_plan = EditPlan(plan.kind, targets, plan.frame, plan.max_len, mask=plan.mask, options=plan.options)
    exact = dataclasses.replace(engine, plan=pair_plan).run([row], progress=progress)
    where = at[exact.target]
    pair_table["exact"][where] = True
    for name in names:
        values = exact.scores[name]
        pair_table["joint"][name][where] = values
        single = Score.parse(name).effect(alone[name])
        pair_table["values"][name][where] = Score.parse(name).effect(values) - single[pairs[0][where]] - single[pairs[1][where]]


def _sum(row_predictors: Predictors, name: str) -> np.ndarray | None:
    score = Score.parse(name)
    values = (row_predictors.in_place if score.is_in_place else row_predictors.whole).get(str(score.plain))
    return None if values is None else values.sum(1)
