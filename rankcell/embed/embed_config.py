"""EmbedConfig: the settings of an embedding run."""

from collections.abc import Sequence
from dataclasses import dataclass

from rankcell.embed.embedding_tables import CELLS, GENE_MEANS, GENES, STATES, check_dtype
from rankcell.embed.groups import check_statistic
from rankcell.errors import SettingsError
from rankcell.wording import option

INCLUDE = {"cell": CELLS, "gene": GENES, "gene_mean": GENE_MEANS, "state": STATES}


@dataclass(frozen=True)
class EmbedConfig:
    """Settings of an embedding run.

    include
        Any of "cell", "gene" (each gene in each cell), "gene_mean" (its mean over cells), "state" (of the cells of each category).
    by
        The cell column whose categories "gene_mean" and "state" are for.
    statistic
        Of states: "mean", or "median" (exact, of each dimension).
    dtype
        What vectors are stored as.
    """

    pool: Sequence[str]
    layer: Sequence[int]
    include: Sequence[str] = ("cell",)
    by: str | None = None
    statistic: str = "mean"
    dtype: str = "float32"

    def check(self) -> None:
        if not self.include:
            raise SettingsError(f"nothing is to be included: one or several of {', '.join(INCLUDE)}")
        unknown = [i for i in self.include if i not in INCLUDE]
        if unknown:
            raise SettingsError(f"'{unknown[0]}' cannot be included; one or several of {', '.join(INCLUDE)}")
        check_statistic(self.statistic)
        if "state" in self.include and self.by is None:
            raise SettingsError(f"states are the categories of a cell column: name it ({option('by', placeholder='COLUMN')})")
        if self.by is not None and not {"state", "gene_mean"} & set(self.include):
            raise SettingsError(f"{option('by')} is for {option('include', 'state')} and {option('include', 'gene_mean')}")
        check_dtype(self.dtype)

    @property
    def tables(self) -> list[str]:
        return [table for name, table in INCLUDE.items() if name in self.include]

    @property
    def pools(self) -> bool:
        """Whether cells are pooled at all."""
        return bool({"cell", "state"} & set(self.include))
