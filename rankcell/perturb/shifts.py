"""What is compared: states of the same genes before and after, their means, CLS, and the way toward a state.

A shift (1 - cosine) is computed as half the squared distance of the two unit vectors: most shifts are 1e-3 and less,
and 1 - a.b in float32 would lose all below 1e-7. Means after an edit are the mean before plus the mean difference, in
float64, for the same reason.
"""

from collections.abc import Mapping
from typing import Any


def gene_shifts(before_bpd: Any, after_bpd: Any) -> Any:
    """1 - cosine of each pair of states [edits, pairs, width] -> [edits, pairs]."""
    import torch.nn.functional as F

    return 0.5 * (F.normalize(before_bpd, dim=-1) - F.normalize(after_bpd, dim=-1)).square().sum(-1)


def mean_over(values_bp: Any, weight_bp: Any) -> Any:
    """Mean over the weighted pairs in float64; NaN where an edit has none."""
    return (values_bp * weight_bp).double().sum(-1) / weight_bp.double().sum(-1)


def mean_states(before_bpd: Any, after_bpd: Any, weight_bp: Any) -> tuple[Any, Any]:
    """Mean state over the pairs before and after, [edits, width] in float64; NaN where an edit has no pairs."""
    weight = weight_bp[:, None, :]
    n = weight_bp.double().sum(-1, keepdim=True)
    before = (weight @ before_bpd)[:, 0].double() / n
    change = (weight @ (after_bpd - before_bpd))[:, 0].double() / n
    return before, before + change


def cosine(a_bd: Any, b_bd: Any) -> Any:
    """Cosine of rows in float64, by the distance of unit vectors."""
    import torch.nn.functional as F

    distance = F.normalize(a_bd.double(), dim=-1) - F.normalize(b_bd.double(), dim=-1)
    return 1 - 0.5 * distance.square().sum(-1)


def toward(before_bd: Any, after_bd: Any, state_d: Any) -> Any:
    """cos(after, state) - cos(before, state), float64 [edits]."""
    return cosine(after_bd, state_d[None]) - cosine(before_bd, state_d[None])


def readout_scores(readout: str, before_bd: Any, after_bd: Any, states: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    """`cos_<readout>` and `toward_<state>_<readout>` for every state that has this readout."""
    scores = {f"cos_{readout}": cosine(before_bd, after_bd)}
    for (state, of), vector in states.items():
        if of == readout:
            scores[f"toward_{state}_{readout}"] = toward(before_bd, after_bd, vector)
    return scores
