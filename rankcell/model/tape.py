"""A row's forward pass, taped, and its adjoint: what becomes of functions of the states when one token is replaced, for all tokens at once.

Frozen context. A token j that is absent, or another, or elsewhere, reaches the other tokens in one way only: as a key and a value of
each attention. There its part of every query's attention is exchanged exactly, softmax included:

    change of the output of query i = (w' (v'_j - O_i) - P_ij (v_j - O_i)) / (1 - P_ij + w'),    w' = exp(q_i k'_j - log sum of i)

(w' = 0 where the token is absent). k'_j and v'_j are those of the token in its new shape, which went through the blocks beside the others
as they were (`Tape.replaced`). What these changes do to the final states of the other tokens is taken as linear: one adjoint
(backward) pass carries a cotangent to all attentions, and gives all tokens' effects as sums over queries.

The adjoint runs for many cotangents at once, so that weights and attention are computed once for all, and in pieces of queries whose
scores stay in the caches. Where the tape would not fit the memory, only the states before each block are kept.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rankcell.model.blocks import Block, has_onednn, onednn_linear
from rankcell.model.encoder import Encoder

_LN2 = math.log(2.0)
_LEAST_LEFT = 1e-3  # of a query's attention, beside what a token takes of it
_MOST_LOG2 = 40.0
SCORES = {"cpu": 2**23, "cuda": 2**28}  # bytes of scores at once
AT_ONCE = {"cpu": 8, "cuda": 32}  # functions of the states that suit an adjoint pass
KEPT = {"cpu": 2**30, "cuda": 2**32}  # bytes of a tape above which blocks are computed again


@dataclass(frozen=True)
class Weights:
    """A block and its weights the other way round."""

    block: Block
    qkv: Any
    out: Any
    up: Any
    down: Any

    @classmethod
    def of(cls, block: Block) -> "Weights":
        return cls(block, *(part.weight.t().contiguous() for part in (block.qkv, block.out, block.up, block.down)))


@dataclass(frozen=True)
class _Kept:
    """What the adjoint of a block needs, each [tokens, ...]: queries, keys, values, attention's output and log2 of its sums
    [heads, tokens], the slope of the activation, and both norms' inputs, means and reciprocal deviations."""

    q: Any
    k: Any
    v: Any
    mixed: Any
    log_sums: Any
    slope: Any
    norms: tuple[Any, Any]


class Tape:
    """The states of one row after `n_blocks` blocks, and how they would change.

    weights
        Of the model's blocks (`weights_of`).
    embedded
        [tokens, width]: the row's states before the first block.
    attend
        bool [tokens]: tokens that may be attended to; None: all.

    states
        [tokens, width]: after the last block.
    """

    def __init__(self, weights: Sequence[Weights], embedded: Any, *, attend: Any = None):
        import torch

        self._weights, self._inputs, self._kept = weights, [], []
        self.n = len(embedded)
        self._bias = None
        if attend is not None and not bool(attend.all()):
            self._bias = torch.zeros(self.n, dtype=weights[0].qkv.dtype, device=embedded.device).masked_fill_(~attend, -torch.inf)
        size = embedded.element_size() * self.n * sum(7 * embedded.shape[1] + w.up.shape[1] for w in weights)
        keeps = size <= KEPT.get(embedded.device.type, KEPT["cpu"])
        with torch.no_grad():
            for w in weights:
                self._inputs.append(embedded)
                kept, embedded = self._forward(w, embedded)
                self._kept.append(kept if keeps else None)
        self.states = embedded

    def _forward(self, w: Weights, x: Any) -> tuple[_Kept, Any]:
        import torch

        block = w.block
        q, k, v = block.project(x)
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        mixed, log_sums = self._attention(q, k, v, block.heads)
        before = block.out.plus(mixed, x)
        hidden, *one = _norm(before, block.out_norm)
        up, slope = _with_slope(block, hidden)
        after = block.down.plus(up, hidden)
        states, *two = _norm(after, block.down_norm)
        return _Kept(q, k, v, mixed, torch.stack(log_sums), slope, ((before, *one), (after, *two))), states

    def _attention(self, q: Any, k: Any, v: Any, heads: int) -> tuple[Any, list[Any]]:
        import torch

        mixed, log_sums = torch.empty_like(q), []
        for h in _heads(q, heads):
            kh, vt, sums = k[:, h].contiguous(), v[:, h].t().contiguous(), []
            for at in self._tiles(1, q):
                scores = self._scores(q[at, h], kh)
                top = scores.amax(-1, keepdim=True)
                p = scores.sub_(top).exp2_()
                total = p.sum(-1, keepdim=True, dtype=torch.float32)
                mixed[at, h] = _product(p, vt).div_(total)
                sums.append((total.log2() + top).squeeze(1))
            log_sums.append(torch.cat(sums))
        return mixed, log_sums

    def _scores(self, q: Any, k: Any) -> Any:
        """log2 of attention before its sum, [queries, keys]."""
        scores = _product(q.contiguous(), k)
        return scores if self._bias is None else scores.add_(self._bias)

    def _tiles(self, n_cotangents: int, like: Any) -> list[slice]:
        room = SCORES.get(like.device.type, SCORES["cpu"])
        if like.device.type == "cpu":
            import torch

            room *= torch.get_num_threads()
        step = max(32, room // (n_cotangents * self.n * like.element_size()))
        return [slice(a, min(a + step, self.n)) for a in range(0, self.n, step)]

    def replaced(self, embedded: Any) -> list[tuple[Any, Any]]:
        """Keys and values [tokens, width] at each block of every token in another shape, all the others being as they were.

        embedded
            [tokens, width]: each token's new state before the first block.
        """
        import torch

        found, x = [], embedded
        with torch.no_grad():
            for n, w in enumerate(self._weights):
                kept, block = self._of(n), w.block
                q, k, v = block.project(x)
                found.append((k.contiguous(), v.contiguous()))
                if n + 1 < len(self._weights):
                    mixed = self._mixed_beside(q, found[-1], kept, block.heads)
                    hidden = block.out_norm(block.out.plus(mixed, x))
                    x = block.down_norm(block.down.plus(block.up(hidden), hidden))
        return found

    def _mixed_beside(self, q: Any, own: tuple[Any, Any], kept: _Kept, heads: int) -> Any:
        """Attention of each replaced token to the others as they were and to itself as it is."""
        import torch

        mixed = torch.empty_like(q)
        for h in _heads(q, heads):
            kh, vt = kept.k[:, h].contiguous(), kept.v[:, h].t().contiguous()
            for at in self._tiles(1, q):
                k, v = own[0][at, h], own[1][at, h]
                scores = self._scores(q[at, h], kh)
                here = torch.arange(at.start, at.stop, device=q.device)
                scores[here - at.start, here] = (q[at, h] * k).sum(-1)
                p = scores.sub_(scores.amax(-1, keepdim=True)).exp2_()
                p.div_(p.sum(-1, keepdim=True, dtype=torch.float32))
                itself = p[here - at.start, here].unsqueeze(1)
                mixed[at, h] = _product(p, vt).add_(itself * (v - kept.v[at, h]))
        return mixed

    def _of(self, n: int) -> _Kept:
        kept = self._kept[n]
        return self._forward(self._weights[n], self._inputs[n])[0] if kept is None else kept

    def adjoint(self, cotangents: Any, replaced: list[tuple[Any, Any]] | None = None, *, effects: bool = True) -> tuple[Any, Any]:
        """(effects, slopes) of linear functions of the states.

        cotangents
            [functions, tokens, width]: each function is the sum over tokens of cotangent times state.
        replaced
            Every token's keys and values in its new shape; None: the token is absent.

        effects
            float32 [functions, tokens]: how much each function changes when this one token is replaced, the token's own state not
            counted; None where they are not wanted.
        slopes
            [functions, tokens, width]: derivatives by the states before the first block.
        """
        import torch

        found = torch.zeros(cotangents.shape[:2], dtype=torch.float32, device=cotangents.device) if effects else None
        dy = cotangents.to(self.states.dtype)
        with torch.no_grad():
            for n in reversed(range(len(self._weights))):
                dy = self._back(self._weights[n], self._of(n), dy, None if replaced is None else replaced[n], found)
        return found, dy

    def _back(self, w: Weights, kept: _Kept, dy: Any, replaced: tuple[Any, Any] | None, found: Any) -> Any:
        import torch

        block = w.block
        dy = _norm_back(dy, kept.norms[1], block.down_norm)
        inner = _product(dy.flatten(0, 1), w.down).view(*dy.shape[:2], -1).mul_(kept.slope)
        dy = dy + _product(inner.flatten(0, 1), w.up).view(dy.shape)
        dy = _norm_back(dy, kept.norms[0], block.out_norm)
        mixed = _product(dy.flatten(0, 1), w.out).view(dy.shape)
        qkv = torch.empty((*dy.shape[:2], 3 * dy.shape[2]), dtype=w.qkv.dtype, device=dy.device)
        for number, h in enumerate(_heads(kept.q, block.heads)):
            self._back_head(kept, number, h, mixed[..., h], qkv, replaced, found)
        return dy + _product(qkv.flatten(0, 1), w.qkv).view(dy.shape)

    def _back_head(self, kept: _Kept, number: int, h: slice, d_out: Any, qkv: Any, replaced: tuple[Any, Any] | None, found: Any) -> None:
        """One head: fills its columns of `qkv` [functions, tokens, 3 widths] and adds to the effects."""
        import torch

        c, n, width = d_out.shape
        total = kept.q.shape[1]
        q, k, v = (x[:, h].contiguous() for x in (kept.q, kept.k, kept.v))
        kt = k.t().contiguous()
        dots = (d_out * kept.mixed[:, h]).sum(-1)  # functions, tokens
        dkt, dvt = (torch.zeros((c, width, n), dtype=torch.float32, device=q.device) for _ in range(2))
        sums = _Effects(replaced, h, v, c, n) if found is not None else None
        for at in self._tiles(c, q):
            part = d_out[:, at].contiguous()
            p = self._scores(q[at], k).sub_(kept.log_sums[number, at, None].to(q.dtype)).exp2_()
            ds = _product(part.flatten(0, 1), v).view(c, -1, n).sub_(dots[:, at, None]).mul_(p)
            qkv[:, at, h.start : h.stop] = _product(ds.flatten(0, 1), kt).view(c, -1, width).mul_(_LN2)
            dkt += _turned(q[at], ds)
            dvt += _outer(part, p)
            if sums is not None:
                sums.add(self, at, q[at], p, kept.log_sums[number, at, None], part, dots[:, at])
        qkv[:, :, total + h.start : total + h.stop] = dkt.mul_(_LN2).transpose(1, 2)
        qkv[:, :, 2 * total + h.start : 2 * total + h.stop] = dvt.transpose(1, 2)
        if sums is not None:
            found += sums.found()


class _Effects:
    """The effects of one head, gathered over pieces of queries."""

    def __init__(self, replaced: tuple[Any, Any] | None, h: slice, v: Any, c: int, n: int):
        import torch

        self._k, self._new = (None, None) if replaced is None else (x[:, h].contiguous() for x in replaced)
        self._v, self._c, self._n = v, c, n
        rows = c * (v.shape[1] + 1)
        self._gone = torch.zeros((rows, n), dtype=torch.float32, device=v.device)
        self._come = None if replaced is None else torch.zeros_like(self._gone)

    def add(self, tape: Tape, at: slice, q: Any, p: Any, log_sums: Any, part: Any, dots: Any) -> None:
        """part [functions, queries, head width], dots [functions, queries]."""
        import torch

        left = (1 - p).clamp_(min=_LEAST_LEFT)
        both = torch.cat([part, dots.to(part.dtype).unsqueeze(2)], 2).transpose(1, 2).flatten(0, 1).contiguous()
        here = torch.arange(at.start, at.stop, device=q.device)
        if self._come is not None:
            w = tape._scores(q, self._k).sub_(log_sums.to(q.dtype)).clamp_(max=_MOST_LOG2).exp2_()
            left += w
            w.div_(left)[here - at.start, here] = 0
            self._come += _by_weight(both, w)
        p = p.div_(left)
        p[here - at.start, here] = 0
        self._gone += _by_weight(both, p)

    def found(self) -> Any:
        """float32 [functions, tokens]."""
        gone = self._dotted(self._gone, self._v)
        return -gone if self._come is None else self._dotted(self._come, self._new) - gone

    def _dotted(self, sums: Any, v: Any) -> Any:
        sums = sums.view(self._c, -1, self._n)
        return (sums[:, :-1] * v.t()).sum(1) - sums[:, -1]


def functions_at_once(device: Any) -> int:
    """How many functions of the states suit one adjoint pass on a device."""
    return AT_ONCE.get(device.type, AT_ONCE["cpu"])


def weights_of(encoder: Encoder, n_blocks: int) -> list[Weights]:
    """The first blocks of a model, for tapes."""
    return [Weights.of(encoder.block(n)) for n in range(n_blocks)]


def _heads(q: Any, heads: int) -> list[slice]:
    width = q.shape[1] // heads
    return [slice(i * width, (i + 1) * width) for i in range(heads)]


@functools.cache
def _has_onednn() -> bool:
    import torch

    return has_onednn(torch.device("cpu"))


def _uses_onednn(x: Any) -> bool:
    return x.device.type == "cpu" and _has_onednn()


def _product(x: Any, w: Any) -> Any:
    """x [rows, inner] @ w.T [inner, columns], in the precision of w"""
    x = x.to(w.dtype)
    return onednn_linear()(x, w, None, "none", [], "") if _uses_onednn(x) else x @ w.t()


def _by_weight(x: Any, p: Any) -> Any:
    """x [rows, queries] @ p [queries, keys]"""
    import torch

    return _product(x, p.t()) if x.dtype == torch.float32 else x @ p


def _turned(q: Any, ds: Any) -> Any:
    """[functions, head width, keys]: the queries' transpose times each function's [queries, keys]."""
    import torch

    qt = q.t().contiguous()
    if ds.dtype == torch.float32 and _uses_onednn(ds):
        return torch.stack([_product(qt, d.t()) for d in ds])
    return qt @ ds


def _outer(part: Any, p: Any) -> Any:
    """[functions, head width, keys] of [functions, queries, head width] and [queries, keys]."""
    rows = part.transpose(1, 2).flatten(0, 1).contiguous()
    return _by_weight(rows, p).view(part.shape[0], part.shape[2], -1)


def _norm(x: Any, norm: Any) -> tuple[Any, Any, Any]:
    import torch

    return torch.native_layer_norm(x, (x.shape[-1],), norm.weight, norm.bias, norm.eps)


def _norm_back(dy: Any, kept: tuple[Any, Any, Any], norm: Any) -> Any:
    import torch

    x, mean, rstd = kept
    back = torch.ops.aten.native_layer_norm_backward
    return torch.stack([back(d, x, (x.shape[-1],), mean, rstd, norm.weight, norm.bias, [True, False, False])[0] for d in dy])


def _with_slope(block: Block, hidden: Any) -> tuple[Any, Any]:
    """What the first half of the feed-forward gives, and its activation's derivative there."""
    import dataclasses

    import torch

    if block.up.activation == "relu":
        up = block.up(hidden)
        return up, (up > 0).to(up.dtype)
    before = dataclasses.replace(block.up, activation=None)(hidden)
    with torch.enable_grad():
        inner = before.detach().clone().requires_grad_()
        up = block.up.activation(inner)
        (slope,) = torch.autograd.grad(up.sum(), inner)
    return up.detach(), slope
