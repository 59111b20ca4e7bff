"""A row's forward pass, taped, and its adjoint: what becomes of functions of the states when one token is replaced, for all tokens at once.

Frozen context. A token j that is absent, or another, or elsewhere, reaches the other tokens in one way only: as a key and a value of
each attention. There its part of every query's attention is exchanged exactly, softmax included:

    change of the output of query i = (w' (v'_j - O_i) - P_ij (v_j - O_i)) / (1 - P_ij + w'),    w' = exp(q_i k'_j - log sum of i)

(w' = 0 where the token is absent). k'_j and v'_j are those of the token in its new shape, which went through the blocks beside the others
as they were (`Tape.replaced`). What these changes do to the final states of the other tokens is taken as linear: one adjoint
(backward) pass carries a cotangent to all attentions, and gives all tokens' effects as sums over queries.

The adjoint runs for many cotangents at once, so that weights and attention are computed once for all, and in pieces of queries whose
scores stay in the caches. A processor takes one head after the other, a GPU all of them in one product. Where the tape would not fit
the memory, only the states before each block are kept.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rankcell.model.blocks import Block, has_onednn, onednn_linear
from rankcell.model.encoder import Encoder

_LN2 = math.log(2.0)
_LEAST_REMAINING = 1e-3  # of a query's attention, beside what a token takes of it
_MOST_LOG2 = 40.0
SCORES = {"cpu": 2**23, "cuda": 2**28}  # bytes of scores at once
AT_ONCE = {"cpu": 8, "cuda": 32}  # functions of the states that suit an adjoint pass
TAPE_BYTES = {"cpu": 2**30, "cuda": 2**32}  # bytes of a tape above which blocks are computed again


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
class _BlockRecord:
    """Forward values that the adjoint of a block needs, each [tokens, ...]: queries, keys, values, attention's output and log2 of its sums
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
        self._weights, self._inputs, self._records = weights, [], []
        self.n = len(embedded)
        self._bias = None
        if attend is not None:
            self._bias = torch.zeros(self.n, dtype=weights[0].qkv.dtype, device=embedded.device).masked_fill_(~attend, -torch.inf)
        size = embedded.element_size() * self.n * sum(7 * embedded.shape[1] + w.up.shape[1] for w in weights)
        keeps_records = size <= TAPE_BYTES.get(embedded.device.type, TAPE_BYTES["cpu"])
        with torch.no_grad():
            for w in weights:
                self._inputs.append(embedded)
                record, embedded = self._forward(w, embedded)
                self._records.append(record if keeps_records else None)
        self.states = embedded

    def _forward(self, w: Weights, x: Any) -> tuple[_BlockRecord, Any]:
        block = w.block
        q, k, v = block.project(x)
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        mixed, log_sums = self._attention(q, k, v, block.heads)
        before = block.out.plus(mixed, x)
        hidden, *one = _norm(before, block.out_norm)
        up, slope = _with_slope(block, hidden)
        after = block.down.plus(up, hidden)
        states, *two = _norm(after, block.down_norm)
        return _BlockRecord(q, k, v, mixed, log_sums, slope, ((before, *one), (after, *two))), states

    def _attention(self, q: Any, k: Any, v: Any, heads: int) -> tuple[Any, Any]:
        """What attention gives [tokens, width], and log2 of its sums [heads, tokens]."""
        mixed, log_sums = torch.empty_like(q), torch.empty((heads, self.n), dtype=torch.float32, device=q.device)
        for h in _head_groups(q, heads):
            qh, kh, vt = h.of(q), h.of(k), h.of(v).transpose(1, 2).contiguous()
            for at in self._tiles(1, qh):
                scores = self._scores(qh[:, at], kh)
                top = scores.amax(-1, keepdim=True)
                p = scores.sub_(top).exp2_()
                total = p.sum(-1, keepdim=True, dtype=torch.float32)
                mixed[at, h.columns] = h.back(_products(p, vt).div_(total))
                log_sums[h.heads, at] = (total.log2() + top).squeeze(2)
        return mixed, log_sums

    def _scores(self, q: Any, k: Any) -> Any:
        """log2 of attention before its sum, [heads, queries, keys]."""
        scores = _products(q.contiguous(), k)
        return scores if self._bias is None else scores.add_(self._bias)

    def _tiles(self, n_cotangents: int, like: Any) -> list[slice]:
        """Queries whose scores, of the heads of `like` [heads, ...] and for so many cotangents, are made at once."""
        room = SCORES.get(like.device.type, SCORES["cpu"])
        if like.device.type == "cpu":
            room *= torch.get_num_threads()
        step = max(32, room // (len(like) * n_cotangents * self.n * like.element_size()))
        return [slice(a, min(a + step, self.n)) for a in range(0, self.n, step)]

    def replaced(self, embedded: Any) -> list[tuple[Any, Any]]:
        """Keys and values [tokens, width] at each block of every token in another shape, all the others being as they were.

        embedded
            [tokens, width]: each token's new state before the first block.
        """
        pairs, x = [], embedded
        with torch.no_grad():
            for n, w in enumerate(self._weights):
                record, block = self._record(n), w.block
                q, k, v = block.project(x)
                pairs.append((k.contiguous(), v.contiguous()))
                if n + 1 < len(self._weights):
                    mixed = self._mixed_beside(q, pairs[-1], record, block.heads)
                    hidden = block.out_norm(block.out.plus(mixed, x))
                    x = block.down_norm(block.down.plus(block.up(hidden), hidden))
        return pairs

    def _mixed_beside(self, q: Any, own: tuple[Any, Any], record: _BlockRecord, heads: int) -> Any:
        """Attention of each replaced token to the others as they were and to itself as it is."""
        mixed = torch.empty_like(q)
        for h in _head_groups(q, heads):
            qh, kh, vh = (h.of(x) for x in (q, record.k, record.v))
            own_k, own_v, vt = h.of(own[0]), h.of(own[1]), vh.transpose(1, 2).contiguous()
            for at in self._tiles(1, qh):
                scores = self._scores(qh[:, at], kh)
                here = torch.arange(at.start, at.stop, device=q.device)
                scores[:, here - at.start, here] = (qh[:, at] * own_k[:, at]).sum(-1)
                p = scores.sub_(scores.amax(-1, keepdim=True)).exp2_()
                p.div_(p.sum(-1, keepdim=True, dtype=torch.float32))
                itself = p[:, here - at.start, here].unsqueeze(2)
                mixed[at, h.columns] = h.back(_products(p, vt).add_(itself * (own_v[:, at] - vh[:, at])))
        return mixed

    def _record(self, n: int) -> _BlockRecord:
        record = self._records[n]
        return self._forward(self._weights[n], self._inputs[n])[0] if record is None else record

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
        effect_sums = torch.zeros(cotangents.shape[:2], dtype=torch.float32, device=cotangents.device) if effects else None
        dy = cotangents.to(self.states.dtype)
        with torch.no_grad():
            for n in reversed(range(len(self._weights))):
                dy = self._back(self._weights[n], self._record(n), dy, None if replaced is None else replaced[n], effect_sums)
        return effect_sums, dy

    def _back(self, w: Weights, record: _BlockRecord, dy: Any, replaced: tuple[Any, Any] | None, effects: Any) -> Any:
        block = w.block
        dy = _norm_back(dy, record.norms[1], block.down_norm)
        inner = _product(dy.flatten(0, 1), w.down).view(*dy.shape[:2], -1).mul_(record.slope)
        dy = dy + _product(inner.flatten(0, 1), w.up).view(dy.shape)
        dy = _norm_back(dy, record.norms[0], block.out_norm)
        mixed = _product(dy.flatten(0, 1), w.out).view(dy.shape)
        qkv = torch.empty((*dy.shape[:2], 3 * dy.shape[2]), dtype=w.qkv.dtype, device=dy.device)
        for h in _head_groups(record.q, block.heads):
            self._back_heads(record, h, h.of(mixed), qkv, replaced, effects)
        return dy + _product(qkv.flatten(0, 1), w.qkv).view(dy.shape)

    def _back_heads(self, record: _BlockRecord, h: "_HeadGroup", d_out: Any, qkv: Any, replaced: tuple[Any, Any] | None, effects: Any) -> None:
        """Some heads, d_out [heads, functions, tokens, head width]: fills their columns of `qkv` [functions, tokens, 3 widths] and adds
        to the effects."""
        g, c, n, width = d_out.shape
        total = record.q.shape[1]
        q, k, v = (h.of(x) for x in (record.q, record.k, record.v))
        log_sums = record.log_sums[h.heads].unsqueeze(2)
        kt = k.transpose(1, 2).contiguous()
        dots = (d_out * h.of(record.mixed).unsqueeze(1)).sum(-1)  # heads, functions, tokens
        dkt, dvt = (torch.zeros((g, c, width, n), dtype=torch.float32, device=q.device) for _ in range(2))
        sums = _Effects(replaced, h, v, c, n) if effects is not None else None
        for at in self._tiles(c, q):
            part = d_out[:, :, at].contiguous()
            p = self._scores(q[:, at], k).sub_(log_sums[:, at].to(q.dtype)).exp2_()
            ds = _products(part.flatten(1, 2), v).view(g, c, -1, n).sub_(dots[:, :, at, None]).mul_(p.unsqueeze(1))
            qkv[:, at, h.columns] = h.back(_products(ds.flatten(1, 2), kt).view(g, c, -1, width).mul_(_LN2))
            dkt += _turned(q[:, at], ds)
            dvt += _outer(part, p)
            if sums is not None:
                sums.add(self, at, q[:, at], p, log_sums[:, at], part, dots[:, :, at])
        for number, gradient in ((1, dkt.mul_(_LN2)), (2, dvt)):
            qkv[:, :, number * total + h.columns.start : number * total + h.columns.stop] = h.back(gradient.transpose(2, 3))
        if sums is not None:
            effects += sums.effects()


class _Effects:
    """The effects of some heads, gathered over pieces of queries."""

    def __init__(self, replaced: tuple[Any, Any] | None, h: "_HeadGroup", v: Any, c: int, n: int):
        self._k, self._new = (None, None) if replaced is None else (h.of(x) for x in replaced)
        self._v, self._c, self._n = v, c, n
        rows = c * (v.shape[2] + 1)
        self._removed = torch.zeros((len(v), rows, n), dtype=torch.float32, device=v.device)
        self._inserted = None if replaced is None else torch.zeros_like(self._removed)

    def add(self, tape: Tape, at: slice, q: Any, p: Any, log_sums: Any, part: Any, dots: Any) -> None:
        """part [heads, functions, queries, head width], dots [heads, functions, queries]."""
        remaining = (1 - p).clamp_(min=_LEAST_REMAINING)
        extended = torch.cat([part, dots.to(part.dtype).unsqueeze(3)], 3).transpose(2, 3).flatten(1, 2).contiguous()
        here = torch.arange(at.start, at.stop, device=q.device)
        if self._inserted is not None:
            w = tape._scores(q, self._k).sub_(log_sums.to(q.dtype)).clamp_(max=_MOST_LOG2).exp2_()
            remaining += w
            w.div_(remaining)[:, here - at.start, here] = 0
            self._inserted += _by_weight(extended, w)
        p = p.div_(remaining)
        p[:, here - at.start, here] = 0
        self._removed += _by_weight(extended, p)

    def effects(self) -> Any:
        """float32 [functions, tokens], summed over the heads."""
        removed = self._dotted(self._removed, self._v)
        return -removed if self._inserted is None else self._dotted(self._inserted, self._new) - removed

    def _dotted(self, sums: Any, v: Any) -> Any:
        sums = sums.view(len(sums), self._c, -1, self._n)
        return ((sums[:, :, :-1] * v.transpose(1, 2).unsqueeze(1)).sum(2) - sums[:, :, -1]).sum(0)


def functions_at_once(device: Any) -> int:
    """How many functions of the states suit one adjoint pass on a device."""
    return AT_ONCE.get(device.type, AT_ONCE["cpu"])


def weights_of(encoder: Encoder, n_blocks: int) -> list[Weights]:
    """The first blocks of a model, for tapes."""
    return [Weights.of(encoder.block(n)) for n in range(n_blocks)]


@dataclass(frozen=True)
class _HeadGroup:
    """Heads that are computed at once: their numbers, and their columns among those of all heads."""

    heads: slice
    columns: slice

    def of(self, x: Any) -> Any:
        """[..., tokens, width of all heads] -> [these heads, ..., tokens, head width]"""
        return x[..., self.columns].unflatten(-1, (self.heads.stop - self.heads.start, -1)).movedim(-2, 0).contiguous()

    def back(self, x: Any) -> Any:
        """[these heads, ..., tokens, head width] -> [..., tokens, their columns]"""
        return x.movedim(0, -2).flatten(-2)


def _head_groups(like: Any, heads: int) -> list[_HeadGroup]:
    """One by one on a processor, whose caches hold the scores of one; all at once elsewhere."""
    at_once, width = 1 if like.device.type == "cpu" else heads, like.shape[1] // heads
    groups = [slice(a, min(a + at_once, heads)) for a in range(0, heads, at_once)]
    return [_HeadGroup(g, slice(g.start * width, g.stop * width)) for g in groups]


@functools.cache
def _has_onednn(dtype: Any) -> bool:
    return has_onednn(torch.device("cpu"), dtype)


def _uses_onednn(x: Any) -> bool:
    return x.device.type == "cpu" and _has_onednn(x.dtype)


def _product(x: Any, w: Any) -> Any:
    """x [rows, inner] @ w.T [inner, columns], in the precision of w"""
    x = x.to(w.dtype)
    return onednn_linear()(x, w, None, "none", [], "") if _uses_onednn(x) else x @ w.t()


def _products(x: Any, w: Any) -> Any:
    """x [heads, rows, inner] @ w.T [heads, inner, columns]"""
    return _product(x[0], w[0])[None] if len(x) == 1 else x @ w.transpose(1, 2)


def _by_weight(x: Any, p: Any) -> Any:
    """x [heads, rows, queries] @ p [heads, queries, keys]"""
    return _products(x, p.transpose(1, 2)) if x.dtype == torch.float32 else x @ p


def _turned(q: Any, ds: Any) -> Any:
    """[heads, functions, head width, keys]: the queries' transpose times each function's [queries, keys]."""
    qt = q.transpose(1, 2).contiguous()
    if ds.dtype == torch.float32 and _uses_onednn(ds):
        return torch.stack([_products(qt, d.transpose(1, 2)) for d in ds.unbind(1)], 1)
    return qt.unsqueeze(1) @ ds


def _outer(part: Any, p: Any) -> Any:
    """[heads, functions, head width, keys] of [heads, functions, queries, head width] and [heads, queries, keys]."""
    rows = part.transpose(2, 3).flatten(1, 2).contiguous()
    return _by_weight(rows, p).view(len(p), part.shape[1], part.shape[3], -1)


def _norm(x: Any, norm: Any) -> tuple[Any, Any, Any]:
    return torch.native_layer_norm(x, (x.shape[-1],), norm.weight, norm.bias, norm.eps)


def _norm_back(dy: Any, record: tuple[Any, Any, Any], norm: Any) -> Any:
    """One function after the other on a processor, in one kernel each; all at once elsewhere."""
    x, mean, rstd = record
    if dy.device.type != "cpu":
        unit, dz = (x - mean).mul_(rstd), dy * norm.weight
        return (dz - dz.mean(-1, keepdim=True)).sub_(unit * (dz * unit).mean(-1, keepdim=True)).mul_(rstd)
    back = torch.ops.aten.native_layer_norm_backward
    return torch.stack([back(d, x, (x.shape[-1],), mean, rstd, norm.weight, norm.bias, [True, False, False])[0] for d in dy])


def _with_slope(block: Block, hidden: Any) -> tuple[Any, Any]:
    """What the first half of the feed-forward gives, and its activation's derivative there."""
    import dataclasses

    if block.up.activation == "relu":
        up = block.up(hidden)
        return up, (up > 0).to(up.dtype)
    before = dataclasses.replace(block.up, activation=None)(hidden)
    with torch.enable_grad():
        inner = before.detach().clone().requires_grad_()
        up = block.up.activation(inner)
        (slope,) = torch.autograd.grad(up.sum(), inner)
    return up.detach(), slope
