"""Attention over rows of many lengths at once: flash attention, where torch and the device have it."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rankcell.errors import is_out_of_memory
from rankcell.model.batches import Run

_WIDEST, _STEP = 256, 8  # of heads that flash attention takes: the widest, and of which they are a multiple
_PROBE = ((8, 24), (16, 8))  # rows that it is tried on: queries, keys
_AGREES = 0.02  # with float32, for values of unit size


@dataclass(frozen=True)
class Ends:
    """Where each row's queries and keys end: int32 [rows + 1] on the device, from 0; and the longest of each."""

    q: Any
    k: Any
    most_q: int
    most_k: int

    @classmethod
    def of(cls, runs: Sequence[Run], tensor: Callable[[np.ndarray], Any]) -> "Ends":
        n_rows = [run.rows for run in runs]
        n_q, n_k = (np.repeat([getattr(run, name) for run in runs], n_rows) for name in ("n_q", "n_k"))
        q = tensor(_ends(n_q))
        return cls(q, q if np.array_equal(n_q, n_k) else tensor(_ends(n_k)), int(n_q.max()), int(n_k.max()))


def _ends(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def attention(q: Any, k: Any, v: Any, ends: Ends, *, scale: float) -> Any:
    """softmax(scale q k') v of each row, [tokens, heads, head width] each, in fp16 or bf16."""
    return _function()(q, k, v, ends.q, ends.k, ends.most_q, ends.most_k, scale)


def _function() -> Callable[..., Any]:
    """torch's own since 2.11, when it came to take a scale; before that what lies beneath it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        varlen_attn = None
    if varlen_attn is not None and "scale" in inspect.signature(varlen_attn).parameters:
        return lambda *args: varlen_attn(*args[:-1], scale=args[-1])
    flash = torch.ops.aten._flash_attention_forward
    return lambda *args: flash(*args[:-1], 0.0, False, False, scale=args[-1])[0]  # no dropout, not causal, no mask for debugging


def obstacle(device: Any, dtype: Any, head_width: int) -> str | None:
    """Why it cannot be used there, in a few words, after running it once; None when its numbers are right."""
    if head_width % _STEP or head_width > _WIDEST:
        return f"the heads are {head_width} wide: a multiple of {_STEP}, at most {_WIDEST}, is expected"
    runs, n_q, n_k = [], 0, 0
    for queries, keys in _PROBE:
        runs.append(Run(1, queries, keys, n_q, n_k))
        n_q, n_k = n_q + queries, n_k + keys
    rng = np.random.default_rng(0)
    values = [torch.from_numpy(rng.normal(size=(n, 2, head_width)).astype(np.float32)).to(dtype) for n in (n_q, n_k, n_k)]
    try:
        ends = Ends.of(runs, lambda x: torch.from_numpy(x).to(device))
        mixed = attention(*(x.to(device) for x in values), ends, scale=head_width**-0.5).float().cpu()
    except (RuntimeError, NotImplementedError, AttributeError, TypeError) as e:
        if is_out_of_memory(e):
            raise
        return next(iter(str(e).splitlines()), type(e).__name__)[:120]
    q, k, v = (x.float().transpose(0, 1) for x in values)
    for run in runs:
        at, to = slice(run.q, run.q + run.n_q), slice(run.k, run.k + run.n_k)
        wanted = (q[:, at] @ k[:, to].transpose(1, 2) * head_width**-0.5).softmax(-1) @ v[:, to]
        difference = float((mixed[at].transpose(0, 1) - wanted).abs().max())
        if not difference <= _AGREES:
            return f"its numbers are off by {difference:.2g}"
    return None
