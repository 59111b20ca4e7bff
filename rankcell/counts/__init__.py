"""Count matrices in, block by block: one file per format behind one interface. Inputs are never written to."""

from rankcell.counts.block import CountBlock
from rankcell.counts.fallback import open_at_counts
from rankcell.counts.genes import GeneMap, match_genes
from rankcell.counts.inputs import Inputs, find_inputs
from rankcell.counts.opening import open_counts
from rankcell.counts.parallel import in_order
from rankcell.counts.selection import select_rows, values_named
from rankcell.counts.source import CountSource, register

__all__ = [
    "CountBlock",
    "CountSource",
    "GeneMap",
    "Inputs",
    "find_inputs",
    "in_order",
    "match_genes",
    "open_at_counts",
    "open_counts",
    "register",
    "select_rows",
    "values_named",
]
