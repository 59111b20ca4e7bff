"""What an embedding holds, as options. No numpy, no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from rankcell.arguments import layer_list
from rankcell.errors import SettingsError
from rankcell.options import Help, Options, one_of
from rankcell.wording import option

POOL, LAYER = "mean", -2  # where nothing else is asked for
KEY = "X_rankcell"  # in obsm
INCLUDE = {"cell": "cells", "gene": "genes", "gene_mean": "gene_means", "state": "states"}  # -> the table that is written
STATISTICS = ("mean", "median")
DTYPES = ("float16", "float32", "float64")

_POOLS = (
    "mean, max, min, std, var, median, norm, parti (over genes), mean_all (special tokens too), cls, first, position0; "
    "A+B puts several side by side; may be repeated."
)
_INCLUDE = (
    "cell; gene (the state of each gene in each cell); gene_mean (n, mean and sd over cells); state (of each category of {by}); "
    "several with commas, or repeated."
)


def several(value: Any) -> tuple[Any, ...]:
    """One name or several -> a tuple without repeats."""
    return (value,) if isinstance(value, str) else tuple(dict.fromkeys(value))


def _layers(value: Any) -> tuple[int, ...]:
    return tuple(layer_list(value))


def _tables(value: Any) -> tuple[str, ...]:
    return tuple(name.strip() for part in several(value) for name in part.split(","))


@dataclass(frozen=True)
class EmbedConfig(Options):
    """What is computed of the cells and written: everything that decides it but the model and the cells' tokens."""

    pool: Annotated[str | Sequence[str], Help(_POOLS, "KIND", parse=several, cli=list[str])] = (POOL,)
    layer: Annotated[
        int | Sequence[int], Help("-1: output of the last block, 0: embedding layer; may be repeated.", "N", parse=_layers, cli=list[int])
    ] = (LAYER,)
    include: Annotated[str | Sequence[str], Help(_INCLUDE, "WHAT", parse=_tables, cli=list[str])] = ("cell",)
    by: Annotated[str | None, Help("The cell column whose categories state and gene_mean are for.", "COL")] = None
    statistic: Annotated[str, Help("Of states: mean, or the exact median.", check=one_of(*STATISTICS))] = STATISTICS[0]
    dtype: Annotated[str, Help("What numbers are stored as: float16, float32 or float64.", check=one_of(*DTYPES))] = "float32"

    def check(self) -> None:
        if not self.include:
            raise SettingsError(f"nothing is to be included: one or several of {', '.join(INCLUDE)}")
        unknown = [i for i in self.include if i not in INCLUDE]
        if unknown:
            raise SettingsError(f"'{unknown[0]}' cannot be included; one or several of {', '.join(INCLUDE)}")
        if "state" in self.include and self.by is None:
            raise SettingsError(f"states are the categories of a cell column: name it ({option('by', placeholder='COLUMN')})")
        if self.by is not None and not {"state", "gene_mean"} & set(self.include):
            raise SettingsError(f"{option('by')} is for {option('include', 'state')} and {option('include', 'gene_mean')}")

    @property
    def outputs(self) -> list[str]:
        """The names of the vectors: `<pool>_layer<n>`."""
        return [f"{pool}_layer{n}" for n in layer_list(self.layer) for pool in self.pool]

    @property
    def tables(self) -> list[str]:
        return [table for name, table in INCLUDE.items() if name in self.include]

    @property
    def pools(self) -> bool:
        """Whether cells are pooled at all."""
        return bool({"cell", "state"} & set(self.include))
