"""Edits that are made at once, of one cell and one length; and edits that are scored at once, of any cells."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rankcell.perturb.edits import RowEdits
from rankcell.perturb.kinds import Options

Made = tuple[np.ndarray, np.ndarray, np.ndarray]

UNFILLED = "_unfilled"  # the deletion without refill, which is only run to take the two apart


@dataclass(frozen=True)
class Piece:
    """Edits of one cell that are made at once: `edit` are their numbers among those of the cell."""

    cell: int
    held: RowEdits
    edit: np.ndarray

    def made(self, which: str) -> Made:
        """[edits, length]: tokens, where each gene that is compared stood before (-1: none), and what may be attended to."""
        if which != "_in_place":
            ids, came_from = self.held.made(self.edit, Options() if which == UNFILLED else None)
            return ids, came_from, np.ones(ids.shape, bool)
        row, frame = self.held.row, self.held.plan.frame
        first, last = frame.span(len(row))
        place = np.arange(len(row))
        ids, came_from = (np.tile(x, (len(self.edit), 1)) for x in (row, np.where((place >= first) & (place < last), place, -1)))
        attend = np.ones(ids.shape, bool)
        where = self.held.where[self.edit]
        np.put_along_axis(attend, where[where >= 0].reshape(len(where), -1), False, axis=1)
        return ids, np.where(attend, came_from, -1), attend


_PADDED = 1.25  # of a sheet's tokens at most, with its padding


@dataclass(frozen=True)
class Sheet:
    """Edits under each other, each a line as long as the longest.

    cell, edit
        int64 [edits]: the cell of each, and its number among those of the cell.
    target
        int64 [edits]: its target in the plan.
    length
        int64 [edits]: tokens of its row.
    came_from
        [edits, longest]: where each gene that is compared stood before the edit; -1 where none is.
    """

    cell: np.ndarray
    edit: np.ndarray
    target: np.ndarray
    length: np.ndarray
    came_from: np.ndarray

    @classmethod
    def of(cls, pieces: Sequence[Piece], made: Sequence[Made]) -> "Sheet":
        counts = [len(p.edit) for p in pieces]
        length = np.repeat([ids.shape[1] for ids, _, _ in made], counts)
        came_from = np.full((len(length), int(length.max())), -1, np.int64)
        for end, n, (_, places, _) in zip(np.cumsum(counts), counts, made, strict=True):
            came_from[end - n : end, : places.shape[1]] = places
        target = np.concatenate([p.held.target[p.edit] for p in pieces])
        return cls(np.repeat([p.cell for p in pieces], counts), np.concatenate([p.edit for p in pieces]), target, length, came_from)

    @property
    def is_padded(self) -> bool:
        return bool((self.length != self.came_from.shape[1]).any())

    @property
    def places(self) -> np.ndarray:
        """int64 [edits, longest]: where the tokens stand among those of all edits end to end; padding repeats a line's first one."""
        place, starts = np.arange(self.came_from.shape[1]), np.cumsum(self.length) - self.length
        return starts[:, None] + np.where(place < self.length[:, None], place, 0)


def sheets(made: Sequence[Made]) -> Iterator[slice]:
    """Pieces cut into neighbours that are scored at once: as many as waste little on padding."""
    start, n, tokens, longest = 0, 0, 0, 0
    for i, (ids, _, _) in enumerate(made):
        n, tokens, longest = n + len(ids), tokens + ids.size, max(longest, ids.shape[1])
        if i > start and n * longest > _PADDED * tokens:
            yield slice(start, i)
            start, n, tokens, longest = i, len(ids), ids.size, ids.shape[1]
    if len(made) > start:
        yield slice(start, len(made))
