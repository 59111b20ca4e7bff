"""Shifts: states of the same genes before and after an edit, their means, CLS, and the movement toward a state.

Most shifts are 1e-3 and less, and 1 - a.b/|a||b| in float32 would lose all below 1e-7. So nothing is computed from the state
after the edit alone: with d = after - before,

    1 - cos = (|before|^2 |d|^2 - (before.d)^2) / (|before| |after| (|before| |after| + before.after))

(Lagrange's identity), three sums over the width in float32 and the rest in float64. A mean after an edit is the mean before
plus the mean difference, and the cosine of two means half the squared distance of their unit vectors, in float64.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from rankcell.scores import COS, EUCLIDEAN, TOWARD, score_name


@dataclass(frozen=True)
class Compared:
    """Rows of genes before and after their edits.

    change
        float32 [edits, places, width]: state after - state of the same gene before.
    before
        float32 [edits, places, width]: that state before.
    here
        bool [edits, places]: where a gene stands that was not perturbed and was there before; elsewhere nothing is to be read.
    """

    change: Any
    before: Any
    here: Any

    def gene_shifts(self) -> Any:
        """float64 [edits, places]: 1 - cosine of each gene with itself, 0 where there is none."""
        moved = torch.linalg.vector_norm(self.change, dim=-1).double().square()
        along = (self.change * self.before).sum(-1).double()
        size = torch.linalg.vector_norm(self.before, dim=-1).double().square()
        product = (size * (size + 2 * along + moved).clamp_min(0)).sqrt()
        scale = (product * (product + size + along)).clamp_min(torch.finfo(torch.float64).tiny)  # 0 where a state is 0
        shift = (size * moved - along.square()).clamp_min(0) / scale
        return shift.masked_fill_(~self.here, 0)  # what is no number stays none

    def gene_distances(self) -> Any:
        """float64 [edits, places]: Euclidean distance of each gene from itself, 0 where there is none."""
        return torch.linalg.vector_norm(self.change, dim=-1).double().masked_fill_(~self.here, 0)

    @property
    def counts(self) -> Any:
        """float64 [edits]: genes compared."""
        return self.here.double().sum(-1)

    def mean(self, values: Any) -> Any:
        """float64 [edits]: mean of values over the genes compared; NaN where there are none."""
        return values.sum(-1) / self.counts

    def mean_states(self) -> tuple[Any, Any]:
        """float64 [edits, width], twice: mean state over the genes compared, before and after; NaN where there are none."""
        weight = self.here[:, None, :].to(self.change.dtype)
        n = self.counts[:, None]
        before = (weight @ self.before)[:, 0].double() / n
        return before, before + (weight @ self.change)[:, 0].double() / n


def cosine(a_bd: Any, b_bd: Any) -> Any:
    """Cosine of rows in float64, by the distance of unit vectors."""
    distance = F.normalize(a_bd.double(), dim=-1) - F.normalize(b_bd.double(), dim=-1)
    return 1 - 0.5 * distance.square().sum(-1)


def toward(before_bd: Any, after_bd: Any, state_d: Any) -> Any:
    """cos(after, state) - cos(before, state), float64 [edits]."""
    return cosine(after_bd, state_d[None]) - cosine(before_bd, state_d[None])


def nearer(before_bd: Any, after_bd: Any, state_d: Any) -> Any:
    """|before - state| - |after - state|, float64 [edits]: how much nearer the state is than before."""
    return torch.linalg.vector_norm(before_bd - state_d, dim=-1) - torch.linalg.vector_norm(after_bd - state_d, dim=-1)


def readout_scores(
    readout: str, before_bd: Any, after_bd: Any, states: Mapping[tuple[str, str], Any], *, euclidean: bool = False
) -> dict[str, Any]:
    """`cos_<readout>` and `toward_<state>_<readout>` for every state that has this readout; with `euclidean` also the same by distance."""
    scores = {score_name(COS, readout): cosine(before_bd, after_bd)}
    if euclidean:
        scores[score_name(EUCLIDEAN, readout)] = torch.linalg.vector_norm(after_bd - before_bd, dim=-1)
    for (state, of), vector in states.items():
        if of == readout:
            scores[score_name(TOWARD, readout, state)] = toward(before_bd, after_bd, vector)
            if euclidean:
                scores[score_name(EUCLIDEAN, readout, state)] = nearer(before_bd, after_bd, vector)
    return scores
