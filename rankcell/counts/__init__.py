"""Count matrices in, block by block: one file per format behind one interface. Inputs are never written to."""

from rankcell.lazy import door

_PLACES = {
    "CountBlock": "rankcell.counts.block",
    "CountSource": "rankcell.counts.source",
    "GeneMap": "rankcell.counts.genes.gene_map",
    "Inputs": "rankcell.counts.io.inputs",
    "column_values": "rankcell.counts.selection",
    "find_inputs": "rankcell.counts.io.inputs",
    "in_order": "rankcell.counts.parallel",
    "match_genes": "rankcell.counts.genes.gene_map",
    "open_at_counts": "rankcell.counts.io.fallback",
    "open_counts": "rankcell.counts.io.opening",
    "register": "rankcell.counts.source",
    "select_rows": "rankcell.counts.selection",
}
__getattr__, __dir__ = door(__name__, _PLACES)
