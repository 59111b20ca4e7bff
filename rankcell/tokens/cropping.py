"""Cropping: cells with more genes than a row takes, and the share of their genes that the model never reads."""

from dataclasses import asdict, dataclass

import numpy as np

from rankcell.tokens.spec import TokenSpec
from rankcell.wording import note, offers, option


@dataclass(frozen=True)
class Cropping:
    """Cropping statistics of `cells` tokenized cells.

    most_genes
        Genes that fit a row: its longest length less the special tokens.
    cells, cropped
        Cells in all, and those with more genes than that.
    genes, unread
        Detected genes that the vocabulary knows, summed over all cells, and those of them beyond the end of a row.
    """

    most_genes: int = 0
    cells: int = 0
    cropped: int = 0
    genes: int = 0
    unread: int = 0

    def add(self, n_genes: np.ndarray) -> "Cropping":
        """The statistics with more cells added: `n_genes`, int64 [cells], the known genes detected in each."""
        beyond = n_genes - self.most_genes
        cropped = beyond > 0
        return Cropping(
            self.most_genes,
            self.cells + len(n_genes),
            self.cropped + int(cropped.sum()),
            self.genes + int(n_genes.sum()),
            self.unread + int(beyond[cropped].sum()),
        )

    @property
    def share_unread(self) -> float:
        """Share of the known detected genes that no row holds."""
        return self.unread / self.genes if self.genes else 0.0

    def sentence(self) -> str:
        """One line for the user; '' when no cell is cropped."""
        if not self.cropped:
            return ""
        remedy = f"longer rows hold more ({option('max_len')})" if offers("max_len") else "a model with more positions reads more"
        return (
            f"{self.cropped:,} of {self.cells:,} cells are cropped to the {self.most_genes:,} genes that fit a row: "
            f"{_percent(self.share_unread)} of the known genes detected in all cells are not read; {remedy}"
        )

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def note_cropping(spec: TokenSpec) -> None:
    """Warn (RankcellWarning) of the cells that were cropped when the rows were made; nothing where there are none."""
    if sentence := Cropping(**spec.cropping).sentence():
        note(sentence)


def _percent(share: float) -> str:
    """A share that is neither 0 nor 1 in whole percent, never shown as 0% or 100%."""
    if share < 0.005:
        return "less than 1%"
    return f"{share:.0%}" if share < 0.995 else "more than 99%"
