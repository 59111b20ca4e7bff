"""Affected genes: sums of shifts per perturbed target and affected gene, or the shifts themselves.

A collector's `collect` selects what it needs of a batch, and changes nothing; `keep` adds that once the batch is complete.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch


@dataclass
class AffectedSums:
    """Per perturbed target and affected token: n, sum and sum of squares of the shift (float64), in one streaming pass; apart for
    the edit as made ("") and in place ("_in_place")."""

    n_tokens: int
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)

    def collect(self, edit: np.ndarray, target: np.ndarray, tokens: np.ndarray, shifts: Any, here: np.ndarray, which: str = "") -> Any:
        """Collect the shifts of edits of one length, for `keep`; None: nothing.

        edit, target
            int64 [edits]: number of each in its unit, and its target in the plan.
        tokens, shifts, here
            [edits, places]: which gene stands there, its shift (a tensor), and whether it is to be read.
        which
            The pass: "" (the edit as made) or "_in_place".
        """
        return which, ((target[:, None] * self.n_tokens + tokens)[here], shifts.cpu().numpy()[here])

    def keep(self, part: Any) -> None:
        which, collected = part
        self.parts.setdefault(which, []).append(collected)

    def reduce(self, which: str = "") -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(key, n, sum, sum of squares) of a pass, keys ascending; key = target * n_tokens + affected token.

        A deletion compares the same genes as made and in place, so that keys and n of both are the same.
        """
        parts = self.parts.get(which)
        if not parts:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0)
        keys, where = np.unique(np.concatenate([k for k, _ in parts]), return_inverse=True)
        shift = np.concatenate([s for _, s in parts])
        n = np.bincount(where, minlength=len(keys))
        return keys, n, np.bincount(where, shift, len(keys)), np.bincount(where, shift**2, len(keys))


@dataclass
class AffectedRows:
    """Each affected gene of each edit as made; with `k` only the k that move most."""

    k: int | None = None
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)

    def collect(self, edit: np.ndarray, target: np.ndarray, tokens: np.ndarray, shifts: Any, here: np.ndarray, which: str = "") -> Any:
        """As AffectedSums.collect; only the edit as made."""
        if which:
            return None
        if self.k is not None and self.k < here.shape[1]:
            at = torch.where(torch.from_numpy(here).to(shifts.device), shifts, -1).topk(self.k, dim=1).indices
            shifts, at = shifts.gather(1, at), at.cpu().numpy()
            tokens, here = np.take_along_axis(tokens, at, 1), np.take_along_axis(here, at, 1)
        edits = np.broadcast_to(edit[:, None], here.shape)
        return edits[here], tokens[here], shifts.cpu().numpy()[here]

    def keep(self, part: Any) -> None:
        if part is not None:
            self.parts.append(part)

    def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(number of the edit in its unit, affected token, shift): by edit, and within one the largest shift first."""
        if not self.parts:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
        edit, token, shift = (np.concatenate(columns) for columns in zip(*self.parts, strict=True))
        order = np.lexsort((token, -shift, edit))
        return edit[order], token[order], shift[order]
