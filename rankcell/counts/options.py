"""Where the counts of an input are: the options of every verb that reads counts."""

from dataclasses import dataclass
from typing import Annotated

from rankcell.options import Help, Options

RepeatedCells = Annotated[bool, Help("Take several inputs that hold the same cells, which count twice then.")]


@dataclass(frozen=True)
class CountsPlace(Options):
    """Where the counts of an AnnData or a count file are, and which of its genes are taken."""

    counts_layer: Annotated[str | None, Help("The layer that holds the counts (default: X itself).", hidden=("layer",))] = None
    raw: Annotated[bool, Help("The counts are in raw.")] = False
    gene_column: Annotated[str | None, Help("The var column that names the genes (default: found by membership).")] = None
    genome: Annotated[
        str | None, Help("Of an input with genes of several genomes: the one to take (default: the one that the vocabulary knows).")
    ] = None


@dataclass(frozen=True)
class Counts(CountsPlace):
    """Where the counts of an AnnData or a count file are, which of its genes are taken, and whether values may be no counts."""

    allow_non_counts: Annotated[bool, Help("Rank values that are not counts; what is not above zero is left out.")] = False
