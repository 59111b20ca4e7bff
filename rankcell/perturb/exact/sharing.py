"""What all deletions of single genes of one cell share: everything up to the first block's attention.

Before the first block a token's state depends on the token and its position alone, and in every deletion a token has one of
two positions: its own, or one less behind the gap. So there are two queries, keys and values of each token for all deletions
of a cell. A query's attention is then a sum over the keys before the gap (at their own positions) and one over the keys
behind it (moved up), of which both grow by a key from one deletion to the next: sums of positive weights, held for a segment
of the row at a time, so that nothing is ever subtracted.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rankcell.model import Encoder

DEVICES = ("cpu",)  # kinds of devices on which sharing gains
LEAST_EDITS, LEAST_TOKENS = 32, 256  # of a cell, for sharing to gain more than it costs
_SEGMENTS = 32
_LEAST = 2.0**-60  # of the largest weight, which may be the deleted gene's
_KEYS = 512  # taken at once where a segment's sums are made anew


class Vanished(Exception):
    """A query's weights are too small to be kept: all but a trace of them was the deleted gene's."""


@dataclass(frozen=True)
class _Segment:
    """The keys `a` to `b` of a row and the sums over all others.

    before, behind
        [heads, queries, head width + 1]: as FirstBlock._sums, over the keys before and behind.
    here
        [heads, queries, b - a], once or twice: weights of the segment's own keys, at their positions and moved up.
    """

    number: int
    moved: int
    a: int
    b: int
    before: Any
    behind: Any
    here: list[Any]


class FirstBlock:
    """The first block's attention for every deletion of one gene of `row`, token numbers with special tokens."""

    def __init__(self, encoder: Encoder, row: np.ndarray):
        n = len(row)
        place = np.arange(n)
        with torch.inference_mode():
            self.hidden = encoder.embedded(np.concatenate([row, row]), np.concatenate([place, np.maximum(place - 1, 0)]))
            block = encoder.block(0)
            q, k, v = (x.float().unflatten(1, (block.heads, -1)).transpose(0, 1) for x in block.project(self.hidden))
            self.q = q.contiguous()  # [heads, both positions of all tokens, head width]
            self.k, self.v = (x.unflatten(1, (2, n)).transpose(0, 1).contiguous() for x in (k, v))  # [position, heads, tokens, head width]
            self.top = torch.full((*self.q.shape[:2], 1), -torch.inf, device=q.device)
            for moved in (0, 1):
                for a in range(0, n, _KEYS):
                    self.top = torch.maximum(self.top, self._scores(moved, a, a + _KEYS).amax(-1, keepdim=True))
        self.n, self.encoder = n, encoder
        self.step = max(32, -(-n // _SEGMENTS))
        self._segment: _Segment | None = None

    def _scores(self, moved: int, a: int, b: int) -> Any:
        """[heads, queries, keys a to b], in powers of two."""
        return self.q @ self.k[moved, :, a:b].transpose(1, 2)

    def _weights(self, moved: int, a: int, b: int) -> Any:
        return (self._scores(moved, a, b) - self.top).exp2_()

    def _sums(self, moved: int, a: int, b: int) -> Any:
        """[heads, queries, head width + 1]: weighted values of the keys a to b, and the sum of their weights."""
        total = torch.zeros((*self.q.shape[:2], self.q.shape[2] + 1), device=self.q.device)
        for start in range(a, b, _KEYS):
            w = self._weights(moved, start, min(start + _KEYS, b))
            total[..., :-1] += w @ self.v[moved, :, start : min(start + _KEYS, b)]
            total[..., -1] += w.sum(-1)
        return total

    def _segment_at(self, number: int, moved: int) -> "_Segment":
        """The sums beside a segment, the keys behind it at their own positions or moved up; kept for the deletions that follow."""
        last = self._segment
        if last is not None and (last.number, last.moved) == (number, moved):
            return last
        a, b = number * self.step, min((number + 1) * self.step, self.n)
        if last is not None and last.moved == moved and last.number < number:
            before = last.before + self._sums(0, last.a, a)
        else:
            before = self._sums(0, 0, a)
        here = [self._weights(m, a, b) for m in range(moved + 1)]
        self._segment = _Segment(number, moved, a, b, before, self._sums(moved, b, self.n), here)
        return self._segment

    def run(self, where: np.ndarray, *, in_place: bool) -> tuple[Any, Any]:
        """Output of the first block's attention, and the states before it: both [deletions * tokens, width].

        where
            The position that each deletion takes out, ascending.
        in_place
            Whether nothing moves: the token is there and asks, and nobody attends to it.

        Raises Vanished where a sum of weights is too small for its precision.
        """
        parts = []
        with torch.inference_mode():
            for at in np.split(where, np.flatnonzero(np.diff(where // self.step)) + 1):
                segment = self._segment_at(int(at[0]) // self.step, 0 if in_place else 1)
                parts.append(self._in_place(at, segment) if in_place else self._closed_up(at, segment))
            return tuple(torch.cat(x) for x in zip(*parts, strict=True))

    def _keys(self, at: np.ndarray, segment: "_Segment") -> tuple[Any, Any]:
        """(position of each gap [deletions, 1], positions of the keys of the segment [1, keys])."""
        return self.encoder.tensor(at[:, None]), self.encoder.tensor(np.arange(segment.a, segment.b)[None])

    def _in_place(self, at: np.ndarray, segment: "_Segment") -> tuple[Any, Any]:
        gap, keys = self._keys(at, segment)
        w = segment.here[0][:, None, : self.n] * (keys != gap)[None, :, None]
        values = self.v[0, :, None, segment.a : segment.b]
        other_sums = (segment.before + segment.behind)[:, None, : self.n]
        return self._weighted_means(other_sums, w, values), self.hidden[: self.n].repeat(len(at), 1)

    def _closed_up(self, at: np.ndarray, segment: "_Segment") -> tuple[Any, Any]:
        gap, keys = self._keys(at, segment)
        r = torch.arange(self.n - 1, device=gap.device)[None]
        queries = torch.where(r < gap, r, self.n + 1 + r)  # behind the gap: the next token, at its position less one
        other_sums = (segment.before + segment.behind)[:, queries]
        own, moved = ((side[None, :, None]) for side in (keys < gap, keys > gap))
        w = torch.where(own, segment.here[0][:, queries], segment.here[1][:, queries] * moved)
        values = torch.where(own.transpose(2, 3), self.v[0, :, None, segment.a : segment.b], self.v[1, :, None, segment.a : segment.b])
        return self._weighted_means(other_sums, w, values), self.hidden[queries.flatten()]

    def _weighted_means(self, other_sums: Any, w: Any, values: Any) -> Any:
        """Weighted means over all keys, [deletions * queries, width] in the encoder's precision; `other_sums`: over the keys beside the segment."""
        total = other_sums[..., -1:] + w.sum(-1, keepdim=True)
        if bool((total < _LEAST).any()):
            raise Vanished
        mixed = (other_sums[..., :-1] + w @ values).div_(total)
        return mixed.permute(1, 2, 0, 3).flatten(2).flatten(0, 1).to(self.encoder.dtype)
