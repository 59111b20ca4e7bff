"""Edits that are made at once: of one cell and one length."""

from dataclasses import dataclass

import numpy as np

from rankcell.perturb.edits import RowEdits
from rankcell.perturb.kinds import Options

UNFILLED = "_unfilled"  # the deletion without refill, which is only run to take the two apart


@dataclass(frozen=True)
class Piece:
    """Edits of one cell that are made at once: `edit` are their numbers among those of the cell."""

    cell: int
    held: RowEdits
    edit: np.ndarray

    def made(self, which: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
