"""Tools counter: embeddings into an AnnData, what they are worth, perturbation screens and their ranking, in scanpy's manner."""

from typing import TYPE_CHECKING

from rankcell.near_names import suggest_names
from rankcell.tl.assessments import compare_poolings, map_labels, rank_bias, score_embedding
from rankcell.tl.embeddings import embed, embed_cells, gene_embeddings, state_embeddings
from rankcell.tl.screens import estimate_perturb, merge, perturb, rank_affected, rank_edits, run_part

__all__ = [
    "compare_poolings",
    "embed",
    "embed_cells",
    "estimate_perturb",
    "gene_embeddings",
    "map_labels",
    "merge",
    "perturb",
    "rank_affected",
    "rank_bias",
    "rank_edits",
    "run_part",
    "score_embedding",
    "state_embeddings",
]
if not TYPE_CHECKING:
    __getattr__ = suggest_names(__name__, __all__)
