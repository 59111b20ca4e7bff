"""Edits of a batch: applied at once where their shapes are equal, put end to end on the device, and scored at once where their lengths are similar.

Deletions, whole and in place, are applied on the device, all of a batch by one expression: token t of a row after the deletion of the
positions p_0 < p_1 < ... stood at t + #{j : t >= p_j - j} before. Other kinds are applied by numpy (rankcell.perturb.edits.kinds).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rankcell.model import Encoder, Packed
from rankcell.perturb.edits.kinds import KindOptions
from rankcell.perturb.edits.plan import RowEdits
from rankcell.perturb.exact.baseline import Baseline
from rankcell.scores import IN_PLACE, UNFILLED

_NO_GAP = 2**62  # beyond the end of any row
_PADDED = 1.25  # of a sheet's tokens at most, with its padding


@dataclass(frozen=True)
class Piece:
    """Edits of one cell that are applied at once: `edit` are their numbers among those of the cell."""

    cell: int
    row_edits: RowEdits
    edit: np.ndarray

    def options(self, which: str) -> KindOptions:
        """The options of the kind in a pass."""
        return KindOptions() if which == UNFILLED else self.row_edits.plan.options

    def closes_up(self, which: str) -> bool:
        """Whether genes go and nothing comes, in a pass."""
        return self.row_edits.plan.kind == "delete" and not self.options(which).refill

    @property
    def perturbed(self) -> np.ndarray:
        """int64 [edits, perturbed]: positions of the perturbed genes, ascending."""
        where = self.row_edits.where[self.edit]
        return np.sort(where[where >= 0].reshape(len(where), -1), axis=1)


@dataclass(frozen=True)
class EditedRows:
    """The rows of some edits, end to end.

    cell, edit, target
        int64 [edits]: the cell of each, its number among those of the cell, and its target in the plan.
    packed
        The tokens on the encoder's device.
    came_from
        int64 tensor [tokens], where 64-bit numbers are computed: the position before the edit of each gene that is compared; -1
        elsewhere.
    pieces
        [pieces]: edits and tokens of one row, of each piece.
    """

    cell: np.ndarray
    edit: np.ndarray
    target: np.ndarray
    packed: Packed
    came_from: Any
    pieces: list[tuple[int, int]]

    @classmethod
    def of(cls, pieces: Sequence[Piece], which: str, base: Baseline, encoder: Encoder) -> "EditedRows":
        """Apply the edits of `pieces` in one pass of their plan."""
        cell = np.repeat([p.cell for p in pieces], [len(p.edit) for p in pieces])
        edit, target = (np.concatenate(parts) for parts in ([p.edit for p in pieces], [p.row_edits.target[p.edit] for p in pieces]))
        if which == IN_PLACE:
            packed, came_from = _Deletions(pieces, cell, base, encoder).in_place()
        elif pieces[0].closes_up(which):
            packed, came_from = _Deletions(pieces, cell, base, encoder).closed_up()
        else:
            packed, came_from = _edited_by_kind(pieces, which, encoder)
        ends = np.cumsum([len(p.edit) for p in pieces])
        shapes = [(len(p.edit), int(packed.lengths[end - 1])) for p, end in zip(pieces, ends, strict=True)]
        return cls(cell, edit, target, packed, came_from.to(encoder.wide_device), shapes)

    def sheets(self, tensor: Any) -> "Iterator[Sheet]":
        """Cut the edits into neighbours that are scored at once: as many as waste little on padding. `tensor`: brings an array to
        where they are scored."""
        start, n, tokens, longest = 0, 0, 0, 0
        for n_edits, length in self.pieces:
            more = n + n_edits, tokens + n_edits * length, max(longest, length)
            if n and more[0] * more[2] > _PADDED * more[1]:
                yield self._sheet(start, start + n, tensor)
                start, more = start + n, (n_edits, n_edits * length, length)
            n, tokens, longest = more
        if n:
            yield self._sheet(start, start + n, tensor)

    def _sheet(self, a: int, b: int, tensor: Any) -> "Sheet":
        length = self.packed.lengths[a:b]
        tokens = slice(int(self.packed.lengths[:a].sum()), int(self.packed.lengths[:b].sum()))
        came_from, places, longest = self.came_from[tokens], None, int(length.max())
        if (length != longest).any():
            place = torch.arange(longest, device=came_from.device)
            ends = tensor(np.stack([np.cumsum(length) - length, length]))[:, :, None]
            is_token = place < ends[1]
            places = ends[0] + torch.where(is_token, place, 0)
            came_from = torch.where(is_token, came_from[places], -1)
        return Sheet(self.cell[a:b], self.edit[a:b], self.target[a:b], length, came_from.view(b - a, longest), tokens, places)


@dataclass(frozen=True)
class Sheet:
    """Edits under each other, each a line as long as the longest.

    cell, edit, target, length
        int64 [edits]: as in EditedRows; tokens of each row.
    came_from
        int64 tensor [edits, longest]: where each gene that is compared stood before the edit; -1 where none is.
    tokens
        Where its tokens stand among those of all edits.
    places
        int64 tensor [edits, longest]: where they stand among `tokens`, a line's first again in its padding; None without padding.
    """

    cell: np.ndarray
    edit: np.ndarray
    target: np.ndarray
    length: np.ndarray
    came_from: Any
    tokens: slice
    places: Any

    def lines(self, states: Any) -> Any:
        """States of all edits' tokens [tokens, width] -> [edits, longest, width]."""
        own = states[self.tokens]
        return own.view(len(self.length), -1, own.shape[1]) if self.places is None else own[self.places]


class _Deletions:
    """Deletions on the device: for each edit where its row begins in the baseline, and which positions are perturbed.

    n_before, n_after
        int64 [edits]: tokens of the row before the deletion, and after it.
    """

    def __init__(self, pieces: Sequence[Piece], cell: np.ndarray, base: Baseline, encoder: Encoder):
        perturbed = [p.perturbed for p in pieces]
        n_perturbed = np.repeat([p.shape[1] for p in perturbed], [len(p) for p in perturbed])
        gaps, end = np.full((len(cell), int(n_perturbed.max())), _NO_GAP), 0
        for positions in perturbed:
            end += len(positions)
            gaps[end - len(positions) : end, : positions.shape[1]] = positions - np.arange(positions.shape[1])
        start, self.n_before = base.rows_of(cell)
        self.n_after = self.n_before - n_perturbed
        self._first, last = pieces[0].row_edits.plan.frame.span(self.n_before)
        edits = encoder.tensor(np.column_stack([start, last, self.n_before, self.n_after, gaps]))
        self._start, self._last, self._before, self._after = edits[:, :4].unbind(1)
        self._gaps, self._ids = edits[:, 4:], base.tokens

    def closed_up(self) -> tuple[Packed, Any]:
        """The rows without the perturbed genes, and where each of their genes stood."""
        edit, place = _enumerated(self._after, int(self.n_after.sum()))
        position = self._position(edit, place)
        return Packed(self._tokens(edit, position), place, self.n_after, self.n_after), self._compared(edit, position)

    def in_place(self) -> tuple[Packed, Any]:
        """The rows as they were, in which no token attends to the perturbed genes, and their other genes' positions."""
        edit, place = _enumerated(self._before, int(self.n_before.sum()))
        perturbed = self._gaps + torch.arange(self._gaps.shape[1], device=place.device)
        is_perturbed = (place[:, None] == perturbed[edit]).any(1)
        edit_after, place_after = _enumerated(self._after, int(self.n_after.sum()))
        keys = (self._before.cumsum(0) - self._before)[edit_after] + self._position(edit_after, place_after)
        packed = Packed(self._tokens(edit, place), place, self.n_before, self.n_after, keys)
        return packed, self._compared(edit, place).masked_fill_(is_perturbed, -1)

    def _position(self, edit: Any, place: Any) -> Any:
        """Where the tokens of closed-up rows stood before."""
        return place + (place[:, None] >= self._gaps[edit]).sum(1)

    def _tokens(self, edit: Any, position: Any) -> Any:
        return self._ids[self._start[edit] + position]

    def _compared(self, edit: Any, position: Any) -> Any:
        return torch.where((position >= self._first) & (position < self._last[edit]), position, -1)


def _enumerated(lengths: Any, total: int) -> tuple[Any, Any]:
    """For rows of these lengths end to end: the row of each token, and its place in it."""
    row = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths, output_size=total)
    starts = lengths.cumsum(0) - lengths
    return row, torch.arange(total, device=lengths.device) - starts[row]


def _edited_by_kind(pieces: Sequence[Piece], which: str, encoder: Encoder) -> tuple[Packed, Any]:
    """Rows edited by the plan's kind, and where each of their genes stood."""
    edited = [p.row_edits.apply(p.edit, p.options(which)) for p in pieces]
    lengths = np.concatenate([np.full(len(ids), ids.shape[1]) for ids, _ in edited]).astype(np.int64)
    ids, came_from = (np.concatenate([part.ravel() for part in parts]).astype(np.int64) for parts in zip(*edited, strict=True))
    place = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return Packed(encoder.tensor(ids), encoder.tensor(place), lengths, lengths), encoder.tensor(came_from)
