"""How counts become rows of tokens, as options. No numpy."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from rankcell.counts.options import RepeatedCells
from rankcell.options import Help, Options, at_least


@dataclass(frozen=True)
class RowOptions(Options):
    """Which cells become rows, and how long rows are."""

    _: KW_ONLY
    max_len: Annotated[int | None, Help("Longest row, special tokens included (default: the vocabulary's).")] = None
    cls: Annotated[bool | None, Help("With or without CLS and EOS (default: as the vocabulary says).")] = None
    filter: Annotated[
        str | None, Help("Only cells for which this is true: \"cell_type == 'B'\", or filter_pass. A pandas expression.", "EXPR")
    ] = None
    workers: Annotated[int | None, Help("Threads (default: the processors, at most 8); the result does not depend on it.")] = None


@dataclass(frozen=True)
class Tokenizing(RowOptions):
    """How cells are tokenized: which of them, how long a row is, and what is kept beside it."""

    _: KW_ONLY
    keep_counts: Annotated[bool, Help("Also keep count / n_counts * 10,000 beside each token.")] = False
    keep_uncropped: Annotated[bool, Help("Also keep all genes of each cell, beyond {max_len}.")] = False
    allow_repeated_cells: RepeatedCells = False
    rows_per_block: Annotated[
        int | None, Help("Cells read at once (default: by memory); the result does not depend on it.", check=at_least(1), python_only=True)
    ] = None
