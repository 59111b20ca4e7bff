"""Progress of a screen: counts of edits and cells done, and of tokens alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rankcell.progress import report

Ticks = Callable[[int], None] | None


@dataclass(frozen=True)
class TokenCount:
    """A count of tokens alone (rankcell.execute.Count); None: of nothing."""

    tokens: Ticks = None

    def tick(self, unit: int, n: int) -> None:
        if self.tokens is not None:
            self.tokens(n)

    def finish(self, unit: int) -> None:
        """All tokens of a unit have been counted by then."""


class Amount(NamedTuple):
    """Amount of work in a unit: tokens through the model, edits, cells."""

    tokens: int
    edits: int
    cells: int


class EditCount:
    """Edits done, of those of some units, and cells; within a unit in proportion to the tokens that went through the model."""

    def __init__(self, amounts: Mapping[int, Amount], progress: Callable[[int, int], None] | None):
        self._amounts, self._progress = amounts, progress
        self._edits, self._cells = (sum(getattr(a, name) for a in amounts.values()) for name in ("edits", "cells"))
        self._tokens, self._finished = {}, set()  # tokens done of the open units; units that are done

    def tick(self, unit: int, n: int) -> None:
        self._tokens[unit] = min(self._tokens.get(unit, 0) + n, self._amounts[unit].tokens)
        self._report()

    def finish(self, unit: int) -> None:
        self._tokens.pop(unit, None)
        self._finished.add(unit)
        self._report()

    def _report(self) -> None:
        done = [self._amounts[u] for u in self._finished]
        part = [n / max(1, self._amounts[u].tokens) * np.array(self._amounts[u][1:]) for u, n in self._tokens.items()]
        edits, cells = (int(sum(x)) for x in zip((sum(a.edits for a in done), sum(a.cells for a in done)), *part, strict=True))
        report(self._progress, edits, self._edits, f"{cells:,} of {self._cells:,} cells")
