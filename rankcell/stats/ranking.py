"""A ranking inside the package: its table, and what the table is of. Public verbs give and take it as one DataFrame."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Ranking:
    """Ranked edits, or pairs of perturbation and affected gene.

    table
        DataFrame, a row per edit or pair.
    facts
        What the table is of, as `rankcell stats` writes it beside its table (OUT.json): the score, the mode, counts, correlations.
    """

    table: Any
    facts: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.table)

    @classmethod
    def of(cls, table: Any) -> "Ranking":
        """Of the DataFrame that a public verb gave; of one that has lost its attrs no facts are known."""
        return cls(table, dict(table.attrs))

    def df(self) -> Any:
        """The DataFrame of a public verb, with the facts as its attrs."""
        table = self.table.copy(deep=False)
        table.attrs = dict(self.facts)
        return table

    @property
    def by(self) -> str | None:
        """The score that the edits are ranked by; None where that is not known."""
        return self.facts.get("by")

    @property
    def model_note(self) -> str:
        """Remark on the model that stands above every result: that it is a toy."""
        return str(self.facts.get("model_note") or "")

    def where(self, keep: np.ndarray) -> "Ranking":
        """The rows at which `keep` is true; the facts stay those of the whole."""
        return replace(self, table=self.table[keep].reset_index(drop=True))
