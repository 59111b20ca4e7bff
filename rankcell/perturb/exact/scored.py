"""Scored edits: what an engine returns and tables are made of. No torch."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scored:
    """The edits of some cells and their scores, ordered by cell and within one as the plan gives them.

    cell, target, rank, n_tokens
        [edits]: number of the cell among those given, of the plan's target, rank of its first gene before (-1: absent), length
        of the cell's row.
    scores
        {name: float64 [edits]}, NaN where there is none.
    """

    cell: np.ndarray
    target: np.ndarray
    rank: np.ndarray
    n_tokens: np.ndarray
    scores: dict[str, np.ndarray]
