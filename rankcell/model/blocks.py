"""The blocks of a BERT encoder over packed rows: attention, feed-forward and layer norms, as fast as the machine allows.

Nothing is padded: what is the same for every token (the linear layers) runs over all tokens of a batch at once, and
attention over runs of rows of equal length. On processors, matrix products go through oneDNN where torch has it (on some it is
more than twice as fast as the library that torch takes by itself: benchmarks/RESULTS.md), and long rows through an attention whose scores
stay in the caches.

In half precision the products are half and the residual stream is not: states between blocks, sums with the residual and norms
are float32. A shift is a small difference of two runs, and what rounds it off is the residual, block after block
(benchmarks/bench_precision.py measures what is left).
"""

import functools
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from rankcell.errors import ModelError, is_out_of_memory
from rankcell.model import varlen
from rankcell.model.batches import Run
from rankcell.wording import note

_LONG = 256  # keys from which attention on a processor goes row by row and head by head
SCORES_PER_THREAD = 2**22  # bytes: attention takes as many queries at once as keep their scores in a thread's share of the caches
_SAFE = 100.0  # powers of two that neither overflow nor vanish in float32 and bfloat16, with room for sums of thousands
_BASE2 = math.log2(math.e)

Watch = Callable[[Run, Any], None]


class Rows:
    """The rows of a batch as attention takes them.

    runs
        Neighbouring rows of equal shape, together.
    tensor
        What brings an array to the device.
    """

    def __init__(self, runs: Sequence[Run], tensor: Callable[[Any], Any]):
        self.runs, self._tensor = runs, tensor

    @functools.cached_property
    def ends(self) -> varlen.Ends:
        """Where each row ends on the device, brought there once for all blocks."""
        return varlen.Ends.of(self.runs, self._tensor)


@dataclass(frozen=True)
class Linear:
    """x @ weight.T + bias in the weight's precision, then `activation` ("relu", "gelu" or another as a function)."""

    weight: Any
    bias: Any
    activation: Any = None
    onednn: bool = False

    def __call__(self, x: Any) -> Any:
        x = x.to(self.weight.dtype)
        if self.onednn:
            fused = {None: "none", "relu": "relu"}.get(self.activation)
            out = onednn_linear()(x, self.weight, self.bias, fused or "none", [], "")
            return out if fused else _activate(out, self.activation)
        return _activate(F.linear(x, self.weight, self.bias), self.activation)

    def plus(self, x: Any, other: Any, *, into: bool = False) -> Any:
        """The same with `other` added, in the precision of `other`, whose place it may take with `into`."""
        if other.dtype != self.weight.dtype:
            return other.add_(self(x)) if into else other + self(x)
        if self.onednn:
            return onednn_linear().binary(x, other, self.weight, self.bias, "add")
        return F.linear(x, self.weight, self.bias).add_(other)


def _activate(x: Any, activation: Any) -> Any:
    if activation is None:
        return x
    return F.relu_(x) if activation == "relu" else activation(x)


def onednn_linear() -> Any:
    """x, weight, bias, what follows, its numbers, its way -> x @ weight.T + bias, by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise


def has_onednn(device: Any, dtype: Any) -> bool:
    """Whether torch offers oneDNN's matrix product with what follows it fused in, for numbers of this type: on x86 processors, and so
    since torch 2.0; in half precision only on those with AVX-512."""
    if device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    try:
        x = torch.eye(2, dtype=dtype)
        return bool((onednn_linear()(x, x, None, "none", [], "") == x).all()) and bool(
            (onednn_linear().binary(x, x, x, None, "add") == 2 * x).all()
        )
    except (AttributeError, RuntimeError, TypeError) as e:
        if is_out_of_memory(e):
            raise
        return False


@dataclass(frozen=True)
class Norm:
    """Layer normalisation over the width."""

    weight: Any
    bias: Any
    eps: float

    def __call__(self, x: Any) -> Any:
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class Block:
    """One block. `qkv`: the three projections as one; queries come out times log2(e) / sqrt(head width), for powers of two."""

    qkv: Linear
    out: Linear
    out_norm: Norm
    up: Linear
    down: Linear
    down_norm: Norm
    heads: int

    @classmethod
    def of(cls, layer: Any, config: Any, *, dtype: Any, device: Any, onednn: bool) -> "Block":
        """From a block of transformers' BertModel (or one that is built alike), its weights moved, those of products as `dtype`."""
        try:
            own, after = layer.attention.self, layer.attention.output
            scale = _BASE2 / math.sqrt(config.hidden_size // config.num_attention_heads)
            with torch.no_grad():
                w = torch.cat([own.query.weight * scale, own.key.weight, own.value.weight])
                b = torch.cat([own.query.bias * scale, own.key.bias, own.value.bias])
            parts = [(w, b), after.dense, layer.intermediate.dense, layer.output.dense]
            norms = [after.LayerNorm, layer.output.LayerNorm]
            act = layer.intermediate.intermediate_act_fn
        except AttributeError as e:
            raise ModelError(f"a block of this {config.model_type} model is not built like BERT's ({e})") from None

        def moved(t: Any, dtype: Any) -> Any:
            return t.detach().to(device, dtype).contiguous()

        def linear(part: Any, activation: Any = None) -> Linear:
            weight, bias = part if isinstance(part, tuple) else (part.weight, part.bias)
            return Linear(moved(weight, dtype), moved(bias, dtype), activation, onednn)

        first, second = (Norm(moved(n.weight, torch.float32), moved(n.bias, torch.float32), n.eps) for n in norms)
        act = "relu" if config.hidden_act == "relu" else act
        qkv, out, up, down = (linear(p, act if i == 2 else None) for i, p in enumerate(parts))
        return cls(qkv, out, first, up, down, second, config.num_attention_heads)

    def __call__(
        self, hidden: Any, rows: Rows, attend: "Attention", *, keys: Any = None, only: Any = None, watch: Watch | None = None
    ) -> Any:
        """Hidden states [tokens, width] -> the same after the block.

        keys
            Index of the tokens that may be attended to; None: all.
        only
            Index of the tokens whose states are wanted; None: all. `rows` counts their queries.
        watch
            Called with each run and its attention [rows, heads, queries, keys] (float32).
        """
        q, k, v = self.project(hidden, keys, only)
        mixed = attend(q, k, v, rows, self.heads, watch)
        return self.after(mixed, hidden if only is None else hidden[only])

    def after(self, mixed: Any, own: Any) -> Any:
        """What attention gives and the states before the block -> the states after it, all [tokens, width]."""
        hidden = self.out_norm(self.out.plus(mixed, own))
        return self.down_norm(self.down.plus(self.up(hidden), hidden, into=True))

    def project(self, hidden: Any, keys: Any = None, only: Any = None) -> tuple[Any, Any, Any]:
        """Queries, keys and values, each [tokens, width]."""
        width = hidden.shape[1]
        if only is None:
            q, k, v = self.qkv(hidden).split(width, 1)
            return (q, k, v) if keys is None else (q, k[keys], v[keys])
        w, b = self.qkv.weight, self.qkv.bias
        q = Linear(w[:width], b[:width], None, self.qkv.onednn)(hidden[only])
        kv = Linear(w[width:], b[width:], None, self.qkv.onednn)(hidden if keys is None else hidden[keys])
        return (q, *kv.split(width, 1))


@dataclass(frozen=True)
class Attention:
    """softmax2(q k') v over runs of rows; softmax2 because the queries carry log2(e). `method` is one of these:

    blocked
        Processors with oneDNN: long rows head by head in pieces whose scores stay in the caches, short ones as `sdpa`.
    varlen
        CUDA, bf16 and fp16, where it runs: flash attention over all rows of a batch at once.
    sdpa
        Everywhere: torch's scaled_dot_product_attention, a call per run.
    """

    method: str

    @classmethod
    def choose(cls, device: Any, dtype: Any, head_width: int, *, onednn: bool) -> "Attention":
        if onednn:
            return cls("blocked")
        if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
            return cls("sdpa")
        why = varlen.obstacle(device, dtype, head_width)
        if why is not None:
            name = torch.cuda.get_device_name(device)
            note(
                f"attention takes rows of one length at a time on {name}, which is slower: over all lengths at once it does not run ({why})"
            )
        return cls("sdpa" if why else "varlen")

    def __call__(self, q: Any, k: Any, v: Any, rows: Rows, heads: int, watch: Watch | None) -> Any:
        if watch is None and self.method == "varlen":
            return varlen.attention(*(x.unflatten(1, (heads, -1)) for x in (q, k, v)), rows.ends, scale=1 / _BASE2).flatten(1)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for run in rows.runs:
            parts = [_by_head(x, at, run.rows, n, heads) for x, at, n in ((q, run.q, run.n_q), (k, run.k, run.n_k), (v, run.k, run.n_k))]
            target = out[run.q : run.q + run.rows * run.n_q].view(run.rows, run.n_q, heads, -1)
            if watch is not None:
                _watched(*parts, target, run, watch)
            elif self.method == "blocked" and run.n_k >= _LONG:
                _blocked(*parts, target)
            else:
                _sdpa(*parts, target)
        return out


def _by_head(x: Any, start: int, rows: int, n: int, heads: int) -> Any:
    """[tokens, width] -> [rows, heads, n, head width], a view."""
    return x[start : start + rows * n].unflatten(0, (rows, n)).unflatten(2, (heads, -1)).transpose(1, 2)


def _sdpa(q: Any, k: Any, v: Any, out: Any) -> None:
    out.copy_(F.scaled_dot_product_attention(q, k, v, scale=1 / _BASE2).transpose(1, 2))


def _watched(q: Any, k: Any, v: Any, out: Any, run: Run, watch: Watch) -> None:
    """The plain way, for whoever wants to see who attends to whom; a row at a time."""
    for r in range(run.rows):
        scores = (q[r].float() @ k[r].float().transpose(1, 2)).div_(_BASE2).softmax(-1)
        out[r] = (scores.to(v.dtype) @ v[r]).transpose(0, 1)
        watch(run._replace(rows=1, q=run.q + r * run.n_q, k=run.k + r * run.n_k), scores)


def queries_at_once(n_keys: int, element_size: int) -> int:
    """How many queries of a row `_blocked` takes at once, on all threads."""
    return max(64, SCORES_PER_THREAD // (n_keys * element_size)) * torch.get_num_threads()


def _blocked(q: Any, k: Any, v: Any, out: Any) -> None:
    """One row and head after the other, as many queries at once as fit the caches with their scores.

    softmax needs no maximum where no score can be large: |q k| <= |q| |k| bounds them all, and 2^x is as exact for any
    x in reach. Where the bound is too large, each row's maximum is taken off first.
    """

    product = onednn_linear()
    k, v_t = k.contiguous(), v.transpose(2, 3).contiguous()
    bound = (q.float().norm(dim=-1).amax(-1) * k.float().norm(dim=-1).amax(-1)).tolist()
    rows, heads, n, _ = q.shape
    step = queries_at_once(k.shape[2], k.element_size())
    for r in range(rows):
        for h in range(heads):
            for a in range(0, n, step):
                scores = product(q[r, h, a : a + step].contiguous(), k[r, h], None, "none", [], "")
                if not bound[r][h] < _SAFE:
                    scores.sub_(scores.amax(-1, keepdim=True))
                total = scores.exp2_().sum(-1, keepdim=True)
                mixed = product(scores, v_t[r, h], None, "none", [], "")
                out[r, a : a + step, h] = mixed.div_(total)
