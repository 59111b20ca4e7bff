"""The fast screen: all edits of a cell predicted from its own forward pass, a sample of them run, the largest verified.

    predict    rankcell.perturb.fast.response, for all edits at once
    audit      a sample of the edits, one at random of each stretch of ranks, is run: half of them whole, half in place
    correct    by the sample, where that pays (rankcell.perturb.fast.calibration); each of the sample is also predicted without itself
    verify     the edits that are predicted to be largest are run

What was run is exact in the result, and said to be.
"""

import functools
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rankcell.model.tape import Tape, Weights, functions_at_once, weights_of
from rankcell.perturb.edits.plan import EditPlan, RowEdits
from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.exact.scored import Scored
from rankcell.perturb.fast.calibration import calibrate
from rankcell.perturb.fast.options import AUDIT, PROJECTIONS, SPLITS
from rankcell.perturb.fast.ratios import PROCESSOR, Ratios
from rankcell.perturb.fast.response import Context, Predictors, predictors
from rankcell.scores import COS, IN_PLACE, TOWARD, Score

LEAST_IN_PLACE = 0.5  # to which a correction may shrink what is predicted in place


@dataclass(frozen=True)
class FastScored(Scored):
    """Scored edits, and which of them were run exactly.

    exact
        {pass: bool [edits]}: whether the scores of this pass ("", "_in_place") were run and not predicted.
    sampled
        {pass: bool [edits]}: whether it was drawn at random to be run in this pass.
    predicted
        {score: float64 [edits]}: what was predicted without the edit itself being run; NaN where nothing was predicted.
    """

    exact: dict[str, np.ndarray]
    sampled: dict[str, np.ndarray]
    predicted: dict[str, np.ndarray]


def verify_score(engine: Engine) -> str:
    """The score whose largest are verified by default: the first toward a state, else the first cosine; in place where there is such."""
    names = engine.plain_names
    first = next((n for n in names if Score.parse(n).family == TOWARD), names[0])
    return first + (IN_PLACE if IN_PLACE in engine.plan.passes else "")


def cost(
    edits: np.ndarray,
    lengths: np.ndarray,
    *,
    passes: int,
    toward: int,
    readouts: int,
    audit: float = AUDIT,
    verify_top: int = 0,
    splits: int = SPLITS,
    projections: int = PROJECTIONS,
    contexts: int = 1,
    ratios: Ratios = PROCESSOR,
) -> np.ndarray:
    """int64 [cells]: tokens through the model for cells of so many edits and tokens, a backward pass counted as what it takes.

    passes, toward, readouts
        Passes of the exact method; scores toward states of one pass; readouts that are scored.
    contexts
        Rows that predictions of a cell start from: itself, or for pairs twice for each gene that others are paired with.
    """
    edits, lengths = np.asarray(edits, np.int64), np.asarray(lengths, np.int64)
    sample = np.minimum(edits, np.maximum(splits, np.ceil(audit * edits)))
    trapezoid = ratios.adjoint + ratios.slopes  # a function's slopes before and after the shift
    adjoints = 2 * ratios.tape + trapezoid * toward + projections * (ratios.adjoint + trapezoid * (readouts - 1))
    fast = contexts * adjoints + sample + passes * np.minimum(verify_top, edits)
    return np.ceil(np.minimum(fast, passes * edits) * lengths).astype(np.int64)


def contexts_of(plan: EditPlan) -> int:
    """Number of rows that the predictions of a cell start from."""
    if plan.genes.shape[1] == 1:
        return 1
    return 2 * len(np.unique(plan.genes[:, 0]))


@dataclass(frozen=True)
class FastEngine:
    """Scores edits by the fast method: the settings of a screen with its exact engine.

    engine
        The exact one.
    audit, splits
        The sample of a cell: this share of its edits, at least `splits`.
    verify_top, verify_by
        So many edits of each cell with the largest predicted `verify_by` are run too.
    projections
        Of each size of shift; 0: there are no scores of sizes (cosines).
    seed
        Of the sample and the projections, together with the cell's own tokens.
    ratios
        What the parts of a prediction take.
    """

    engine: Engine
    audit: float = AUDIT
    verify_top: int = 0
    verify_by: str = ""
    splits: int = SPLITS
    projections: int = PROJECTIONS
    seed: int = 0
    ratios: Ratios = PROCESSOR

    @property
    def plain_names(self) -> list[str]:
        """The scores of one pass: those of the engine that are predicted."""
        return [n for n in self.engine.plain_names if self.projections or Score.parse(n).family != COS]

    @property
    def score_names(self) -> list[str]:
        """As Engine.score_names, of what is predicted."""
        return [n for n in self.engine.score_names if self.projections or Score.parse(n).family != COS]

    def with_parts(self, scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As Engine.with_parts."""
        none = np.full(len(next(iter(scores.values()))), np.nan)
        all_scores = self.engine.with_parts({n + which: scores.get(n + which, none) for n in self.engine.plain_names for which in self.passes})
        return {n: all_scores[n] for n in self.score_names}

    @property
    def passes(self) -> list[str]:
        """ "" and, where the kind has it, "_in_place"."""
        return list(self.engine.plan.passes)

    @property
    def names(self) -> dict[str, list[str]]:
        """{pass: the scores of it}"""
        return {which: [n + which for n in self.plain_names] for which in self.passes}

    def cost(self, edits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """See rankcell.perturb.fast.fast_engine.cost."""
        toward = sum(Score.parse(n).family == TOWARD for n in self.engine.plain_names)
        options = {n: getattr(self, n) for n in ("audit", "verify_top", "splits", "projections", "ratios")}
        options |= {"contexts": contexts_of(self.engine.plan)}
        return cost(edits, lengths, passes=len(self.passes), toward=toward, readouts=len(self.engine.scored), **options)

    @property
    def largest_by(self) -> str:
        """The score whose largest predictions are verified."""
        return self.verify_by or verify_score(self.engine)

    def draws(self, row: np.ndarray, *which: int) -> np.random.Generator:
        """Random numbers of a cell, the same in whatever company it is; `which` tells several streams apart."""
        return np.random.default_rng([self.seed, zlib.crc32(np.ascontiguousarray(row, np.int64).tobytes()), *which])

    @functools.cached_property
    def _weights(self) -> list[Weights]:
        return weights_of(self.engine.encoder, self.engine.n_blocks)

    def run(
        self, rows: Sequence[np.ndarray], uncropped: Sequence[np.ndarray] | None = None, *, progress: Callable[[int], None] | None = None
    ) -> FastScored:
        """All edits of `rows`, predicted or run; see Engine.run."""
        with self.engine.encoder.pinned():
            return self._run(rows, uncropped, progress)

    def _run(self, rows: Sequence[np.ndarray], uncropped: Sequence[np.ndarray] | None, progress: Callable[[int], None] | None) -> FastScored:
        cells = [_Cell(self, row, self.engine.plan.of_row(row, None if uncropped is None else uncropped[i])) for i, row in enumerate(rows)]
        for cell in cells:
            cell.predict()
            if progress and cell.predictors:
                progress(max(0, int(self.cost(np.array([len(cell.row_edits)]), np.array([len(cell.row)]))[0]) - cell.tokens_requested))
        self._run_requested(rows, cells, progress)
        for cell in cells:
            cell.correct()
            cell.request_largest(self.largest_by, self.verify_top)
        self._run_requested(rows, cells, progress)
        return self._concatenated(cells)

    def predict_row(self, row: np.ndarray, row_edits: RowEdits, rng: np.random.Generator) -> Predictors:
        """Predictors of edits of one row, each of one place."""
        cell = _Cell(self, row, row_edits)
        return cell.predict_single(np.arange(len(row_edits)), row_edits.where.max(1), rng)

    def _run_requested(self, rows: Sequence[np.ndarray], cells: Sequence["_Cell"], progress: Callable[[int], None] | None) -> None:
        """Run the exact passes that cells request and lack."""
        for which in self.passes:
            at = [np.flatnonzero(c.requested[which] & ~c.exact[which]) for c in cells]
            if not sum(map(len, at)):
                continue
            scored = self.engine.run_edits(
                rows, [c.row_edits.chosen(a) for c, a in zip(cells, at, strict=True)], passes=[which], progress=progress
            )
            ends = np.cumsum([len(a) for a in at])
            for cell, a, end in zip(cells, at, ends, strict=True):
                for name in self.names[which]:
                    cell.values[name][a] = scored.scores[name][end - len(a) : end]
                cell.exact[which][a] = True

    def _concatenated(self, cells: Sequence["_Cell"]) -> FastScored:
        def joined(of: Callable[["_Cell"], np.ndarray], dtype: Any) -> np.ndarray:
            return np.concatenate([np.empty(0, dtype), *(of(c) for c in cells)])

        counts = [len(c.row_edits) for c in cells]
        names = [n for part in self.names.values() for n in part]
        scores = {n: joined(lambda c, n=n: c.values[n], np.float64) for n in names}
        return FastScored(
            np.repeat(np.arange(len(cells)), counts),
            joined(lambda c: c.row_edits.target, np.int64),
            joined(lambda c: c.row_edits.rank, np.int64),
            np.repeat([len(c.row) for c in cells], counts).astype(np.int64),
            self.with_parts(scores),
            {which: joined(lambda c, w=which: c.exact[w], bool) for which in self.passes},
            {which: joined(lambda c, w=which: c.sampled[w], bool) for which in self.passes},
            {n: joined(lambda c, n=n: c.predicted[n], np.float64) for n in names},
        )


@dataclass(frozen=True)
class _Group:
    """Edits of a cell that are predicted from the same rows: `at` [edits], their numbers, and `place` [edits], where their genes
    stand; `beside`: where the gene stands that is deleted with each of them, -1 without."""

    at: np.ndarray
    place: np.ndarray
    beside: int = -1


class _Cell:
    """One row and its edits while they are scored. `values` and `predicted` {score: float64 [edits]}; `requested`, `sampled` and `exact` {pass: bool [edits]}."""

    def __init__(self, fast: FastEngine, row: np.ndarray, row_edits: RowEdits):
        self.fast, self.row, self.row_edits = fast, np.asarray(row), row_edits
        n = len(row_edits)
        names = [name for part in fast.names.values() for name in part]
        self.values, self.predicted = ({name: np.full(n, np.nan) for name in names} for _ in range(2))
        self.requested, self.sampled, self.exact = ({which: np.zeros(n, bool) for which in fast.passes} for _ in range(3))
        self.predictors: list[tuple[_Group, Predictors]] = []
        self._rng = fast.draws(row)

    @functools.cached_property
    def groups(self) -> list[_Group]:
        """The edits that can be predicted: of one place, and deletions of two."""
        row_edits = self.row_edits
        if not len(row_edits):
            return []
        alone = np.flatnonzero(row_edits.n_perturbed == 1)
        groups = [_Group(alone, row_edits.where[alone].max(1))] if len(alone) else []
        if row_edits.plan.kind == "delete" and row_edits.where.shape[1] == 2:
            two = np.flatnonzero((row_edits.n_perturbed == 2) & (row_edits.n_genes == 2))
            first, second = row_edits.where[two].T
            groups += [_Group(two[first == a], second[first == a], int(a)) for a in np.unique(first)]
        return groups

    @property
    def tokens_requested(self) -> int:
        """Tokens of the exact passes that are requested and not yet run."""
        return sum(int((w & ~self.exact[which]).sum()) for which, w in self.requested.items()) * len(self.row)

    def predict(self) -> None:
        """Compute predictors of all edits and draw the sample; all edits are requested exactly where that takes no longer."""
        fast = self.fast
        at = np.concatenate([np.empty(0, np.int64), *(g.at for g in self.groups)])
        n = len(at)
        sample = min(n, max(fast.splits, math.ceil(fast.audit * n)))
        for requested in self.requested.values():
            requested[:] = True
        if n <= sample or fast.cost(np.array([n]), np.array([1]))[0] >= n * len(fast.passes):
            return
        for requested in self.requested.values():
            requested[at] = False
        self._sample(at, np.concatenate([g.place for g in self.groups]), sample)
        self.predictors = [(group, self._predict_group(group)) for group in self.groups]

    def _sample(self, at: np.ndarray, place: np.ndarray, n: int) -> None:
        """Draw one edit at random of each of `n` stretches of ranks, for one pass each in turn."""
        order = at[np.argsort(place, kind="stable")]
        edges = np.linspace(0, len(order), n + 1).astype(np.int64)
        chosen = order[self._rng.integers(edges[:-1], edges[1:])]
        for i, which in enumerate(self.fast.passes):
            drawn = chosen[i :: len(self.fast.passes)]
            self.requested[which][drawn] = self.sampled[which][drawn] = True

    def _predict_group(self, group: _Group) -> Predictors:
        if group.beside >= 0:
            return pair_predictors(self.fast, self.row.astype(np.int64), group.place, group.beside, self._rng)
        return self.predict_single(group.at, group.place, self._rng)

    def predict_single(self, at: np.ndarray, place: np.ndarray, rng: np.random.Generator) -> Predictors:
        """Predictors of the edits `at` of one gene each, which stands at `place`."""
        plan = self.fast.engine.plan
        row, (first, last) = self.row.astype(np.int64), plan.frame.span(len(self.row))
        new = {"delete": np.full(len(place), -1), "mask": place}.get(plan.kind)
        if new is None:
            ids, _ = self.row_edits.apply(at)
            new = (ids == row[place][:, None]).argmax(1)
        context = Context(row, first, last, None, np.ones(len(row), bool), place, new, plan.mask)
        return _within_memory(self.fast, rng, functools.partial(_predict, self.fast, context, rng))

    def correct(self) -> None:
        """Calibrate the predictions by the edits that were run, into `values` (but for those) and `predicted`."""
        for group, predictors_ in self.predictors:
            for which in self.fast.passes:
                by_score = predictors_.in_place if which else predictors_.whole
                for plain in self.fast.plain_names:
                    if plain in by_score:
                        self._correct(plain + which, which, group, by_score[plain])

    def _correct(self, name: str, which: str, group: _Group, predictors_: np.ndarray) -> None:
        score = Score.parse(name)
        run = np.flatnonzero(self.exact[which][group.at])
        exact = self.values[name][group.at[run]]
        least = LEAST_IN_PLACE if which else -np.inf
        calibrated = calibrate(predictors_, group.place, run, score.effect(exact), least_factor=least)
        without = calibrated.values.copy()
        without[run] = calibrated.leave_one_out
        back = (lambda v: np.clip(1 - np.maximum(v, 0), -1, 1)) if score.is_cosine else (lambda v: v)
        self.predicted[name][group.at] = back(without)
        not_run = np.setdiff1d(np.arange(len(group.at)), run)
        self.values[name][group.at[not_run]] = back(calibrated.values[not_run])

    def request_largest(self, score: str, n: int) -> None:
        """Request exact passes of the `n` edits whose `score` is largest in size."""
        if not self.predictors or n < 1:
            return
        size = np.abs(Score.parse(score).effect(self.values[score]))
        size[~np.isfinite(size)] = -1
        for which in self.fast.passes:
            self.requested[which][np.argsort(-size, kind="stable")[:n]] = True


def pair_predictors(fast: FastEngine, row: np.ndarray, place: np.ndarray, beside: int, rng: np.random.Generator) -> Predictors:
    """Predictors of deletions of the gene at `beside` with each of those at `place`: the first exactly, the second from there.

    This is a difference of gradients along the first gene's whole deletion, where a Hessian times a vector would be along a small
    part of it; the price is the same.
    """
    return _within_memory(fast, rng, functools.partial(_pair_predictors, fast, row, place, beside, rng))


def _pair_predictors(fast: FastEngine, row: np.ndarray, place: np.ndarray, beside: int, rng: np.random.Generator, at_once: int) -> Predictors:
    plan, encoder, n = fast.engine.plan, fast.engine.encoder, len(row)
    first, last = plan.frame.span(n)
    removed = np.full(len(place), -1)
    with torch.no_grad():
        before = Tape(fast._weights, encoder.embedded(row, np.arange(n))).states.float()
    keep_mask = np.arange(n) != beside
    in_place = Context(row, first, last, before, keep_mask, place, removed, plan.mask, shifts=False)
    keep_positions = encoder.tensor(np.flatnonzero(keep_mask))
    closed_up = Context(row[keep_mask], first, last - 1, before[keep_positions], np.ones(n - 1, bool), place - (place > beside), removed, plan.mask)
    return Predictors(_predict(fast, in_place, rng, at_once).in_place, _predict(fast, closed_up, rng, at_once).whole)


def _predict(fast: FastEngine, context: Context, rng: np.random.Generator, at_once: int) -> Predictors:
    return predictors(fast.engine, fast._weights, context, projections=fast.projections, rng=rng, at_once=at_once)


def _within_memory(fast: FastEngine, rng: np.random.Generator, work: Callable[[int], Predictors]) -> Predictors:
    """`work(projections at once)`, with fewer, and the same random numbers, where the memory does not hold them."""
    encoder, state = fast.engine.encoder, rng.bit_generator.state

    def attempt(at_once: int) -> Predictors:
        rng.bit_generator.state = state
        return work(at_once)

    return encoder.memory.at_once("projections", functions_at_once(encoder.device), attempt, of="the tape of one cell")
