"""Plotting counter: pictures of token rows, screens and embeddings as matplotlib axes."""

from typing import TYPE_CHECKING

from rankcell.near_names import suggest_names
from rankcell.pl.assessment_plots import compare_poolings, rank_bias
from rankcell.pl.screen_plots import affected_genes, decomposition, explain_cell, ranked_genes, screen_heatmap, shift_by_rank, volcano
from rankcell.pl.token_plots import rank_encoding

__all__ = [
    "affected_genes",
    "compare_poolings",
    "decomposition",
    "explain_cell",
    "rank_bias",
    "rank_encoding",
    "ranked_genes",
    "screen_heatmap",
    "shift_by_rank",
    "volcano",
]
if not TYPE_CHECKING:
    __getattr__ = suggest_names(__name__, __all__)
