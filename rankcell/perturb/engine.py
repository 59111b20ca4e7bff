"""The engine: edits of a few cells -> score columns. Baseline states once per cell, edits in batches, reductions on the device."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rankcell.model import Batch, Encoder, collate, plan_batches
from rankcell.perturb.edits import KINDS, Edit, EditPlan
from rankcell.perturb.shifts import gene_shifts, mean_over, mean_states, readout_scores
from rankcell.perturb.states import StateEmbeddings
from rankcell.vocab import Frame


@dataclass
class AffectedSums:
    """Per perturbed target and affected token: n, sum and sum of squares of the shift (float64), in one streaming pass."""

    n_tokens: int
    parts: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, target: int, tokens: np.ndarray, shifts: np.ndarray) -> None:
        self.parts.append((target * self.n_tokens + tokens.astype(np.int64), shifts.astype(np.float64)))

    def reduce(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(key, n, sum, sum of squares), keys ascending; key = target * n_tokens + affected token."""
        if not self.parts:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0)
        keys, where = np.unique(np.concatenate([k for k, _ in self.parts]), return_inverse=True)
        shift = np.concatenate([s for _, s in self.parts])
        n = np.bincount(where, minlength=len(keys))
        return keys, n, np.bincount(where, shift, len(keys)), np.bincount(where, shift**2, len(keys))


@dataclass(frozen=True)
class Engine:
    """What stays the same over a screen.

    plan, layer (number of blocks), states, tokens_per_batch; `keep_perturbed`: the cell readout of `toward` keeps the
    perturbed gene, as Geneformer's goal-state mode does (`--readout-compat geneformer`).
    """

    encoder: Encoder
    plan: EditPlan
    n_blocks: int
    states: StateEmbeddings
    tokens_per_batch: int
    keep_perturbed: bool = False
    affected: bool = False

    @property
    def score_names(self) -> list[str]:
        """Score columns in their order."""
        readouts = ["cell", "cls"] if self.plan.frame.has_cls else ["cell"]
        cos = ["cos_genes", *(f"cos_{r}" for r in readouts)]
        toward = [f"toward_{s}_{r}" for s in self.states.names for r in readouts if (s, r) in self.states.vectors]
        if not KINDS[self.plan.kind].in_place:
            return [*cos, *toward]
        return [*cos, *(f"{c}_in_place" for c in cos), *(n for t in toward for n in (t, f"{t}_in_place"))]

    def run(
        self, rows: Sequence[np.ndarray], *, sums: AffectedSums | None = None, progress: Callable[[int], None] | None = None
    ) -> tuple[list[tuple[int, Edit]], dict[str, np.ndarray]]:
        """All edits of `rows` as (row number, Edit), row by row, and their scores (float64, NaN where there is none)."""
        edits: list[tuple[int, Edit]] = []
        scores: list[dict[str, np.ndarray]] = []
        for group in self._groups([len(r) for r in rows]):
            found = [(int(i), e) for i in group for e in self.plan.edits(rows[i])]
            if found:
                edits += found
                scores.append(self._run_group([rows[i] for i in group], group, found, sums, progress))
        order = np.argsort([i for i, _ in edits], kind="stable")
        joined = {name: np.concatenate([s[name] for s in scores])[order] if edits else np.empty(0) for name in self.score_names}
        return [edits[k] for k in order], joined

    def _groups(self, lengths: Sequence[int]) -> Iterable[np.ndarray]:
        """Cells of like length whose baselines fit one batch."""
        return plan_batches(lengths, tokens_per_batch=self.tokens_per_batch)

    def _run_group(
        self,
        rows: list[np.ndarray],
        where: np.ndarray,
        edits: list[tuple[int, Edit]],
        sums: AffectedSums | None,
        progress: Callable[[int], None] | None,
    ) -> dict[str, np.ndarray]:
        base = _Baseline.of(self.encoder, rows, where, self.n_blocks)
        out = {name: np.full(len(edits), np.nan) for name in self.score_names}
        passes = [("", lambda e: e.edited, lambda e: e.pairs)]
        if KINDS[self.plan.kind].in_place:
            passes.append(("_in_place", lambda e: e.baseline, lambda e: e.pairs_in_place))
        for suffix, row_of, pairs_of in passes:
            lengths = np.array([len(row_of(e)) for _, e in edits])
            runnable = np.flatnonzero([self._can_run(e, suffix) for _, e in edits])
            for chosen in plan_batches(lengths[runnable], tokens_per_batch=self.tokens_per_batch):
                at = runnable[chosen]
                items = [edits[k] for k in at]
                attend = [_without(e) for _, e in items] if suffix else None
                batch = collate([row_of(e) for _, e in items], at, attend)
                found, shifts = self._score(base, batch, items, [pairs_of(e) for _, e in items], suffix)
                for name, values in found.items():
                    out[name + suffix][at] = values
                if sums is not None and not suffix:
                    for (_, e), line in zip(items, shifts, strict=True):
                        sums.add(e.target, e.baseline[e.pairs[:, 0]], line[: len(e.pairs)])
                if progress:
                    progress(batch.input_ids.size)
        return out

    def _can_run(self, e: Edit, suffix: str) -> bool:
        """Whether a token is left to attend to."""
        return len(e.baseline) > len(e.gone) if suffix else len(e.edited) > 0

    def _score(
        self,
        base: "_Baseline",
        batch: Batch,
        items: list[tuple[int, Edit]],
        pairs: list[np.ndarray],
        suffix: str,
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Scores of a batch (without suffix) and the shift of each pair, [edits, pairs] padded with what is not to be read."""
        import torch

        flat = self.encoder.states(batch, [self.n_blocks])[self.n_blocks]
        starts = batch.starts
        most = max(1, *(len(p) for p in pairs))
        index = np.zeros((2, len(items), most), np.int64)
        weight = np.zeros((len(items), most), np.float32)
        for k, ((cell, _), p) in enumerate(zip(items, pairs, strict=True)):
            index[0, k, : len(p)] = base.start[cell] + p[:, 0]
            index[1, k, : len(p)] = starts[k] + p[:, 1]
            weight[k, : len(p)] = 1
        tensor = self.encoder.tensor
        with torch.inference_mode():
            before, after, w = base.flat[tensor(index[0])], flat[tensor(index[1])], tensor(weight)
            shifts = gene_shifts(before, after)
            found = {"cos_genes": 1 - mean_over(shifts, w)}
            mean_before, mean_after = mean_states(before, after, w)
            vectors = {k: tensor(v) for k, v in self.states.vectors.items()}
            found |= readout_scores("cell", mean_before, mean_after, vectors)
            if self.keep_perturbed:
                first = np.array([base.start[cell] for cell, _ in items])
                whole = base.body_means(first, self.plan.frame)
                after = _body_means(flat, batch, self.plan.frame, self.encoder)
                found |= _toward_only(readout_scores("cell", whole, after, vectors))
            if self.plan.frame.has_cls:
                cls = tensor(np.array([base.start[cell] for cell, _ in items]))
                found |= readout_scores("cls", base.flat[cls].double(), flat[tensor(starts)].double(), vectors)
        keep = {n: v.cpu().numpy() for n, v in found.items()}
        return keep, shifts.cpu().numpy() if self.affected and not suffix else np.empty(0)


def _toward_only(scores: dict[str, Any]) -> dict[str, Any]:
    return {n: v for n, v in scores.items() if n.startswith("toward_")}


def _without(e: Edit) -> np.ndarray:
    """bool [tokens before the edit]: all but the perturbed."""
    attend = np.ones(len(e.baseline), bool)
    attend[e.gone] = False
    return attend


def _body_means(states: Any, batch: Batch, frame: Frame, encoder: Encoder) -> Any:
    """Mean state over all genes that each row holds after its edit (one lost in place is in no mean), float64 [rows, width]."""
    import torch

    here = batch.is_gene(frame)
    here = here if batch.attend is None else here & batch.attend
    n = np.add.reduceat(here.astype(np.int64), batch.starts)
    return torch.segment_reduce(states[encoder.tensor(np.flatnonzero(here))].double(), "mean", lengths=encoder.tensor(n), axis=0)


@dataclass(frozen=True)
class _Baseline:
    """States of a few cells before any edit: `flat` [positions of all, width]; `start[cell]` is where a cell's row begins."""

    flat: Any
    start: dict[int, int]
    length: dict[int, int]

    @classmethod
    def of(cls, encoder: Encoder, rows: list[np.ndarray], where: np.ndarray, n_blocks: int) -> "_Baseline":
        batch = collate(rows, where)
        start = dict(zip((int(cell) for cell in where), batch.starts.tolist(), strict=True))
        lengths = dict(zip(batch.starts.tolist(), (len(r) for r in rows), strict=True))
        return cls(encoder.states(batch, [n_blocks])[n_blocks], start, lengths)

    def body_means(self, first: np.ndarray, frame: Frame) -> Any:
        """Mean state over all genes of the rows that begin at `first`, float64."""
        import torch

        spans = [(int(f), *frame.span(self.length[int(f)])) for f in first]
        means = {f: self.flat[f + a : f + b].double().mean(0) for f, a, b in set(spans)}
        return torch.stack([means[f] for f, _, _ in spans])
