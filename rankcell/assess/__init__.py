"""Assessment: scores of embeddings against labels, comparison of poolings, label transfer from a reference, rank bias of poolings."""

from rankcell.lazy import door

_PLACES = {
    "LabelledCells": "rankcell.assess.embedding_scores",
    "Mapped": "rankcell.assess.mapping",
    "Reference": "rankcell.assess.mapping",
    "Scoring": "rankcell.assess.options",
    "compare_poolings": "rankcell.assess.poolings",
    "knn_accuracy": "rankcell.assess.embedding_scores",
    "knn_right": "rankcell.assess.knn",
    "map_labels": "rankcell.assess.mapping",
    "rank_bias": "rankcell.assess.rankbias",
    "score": "rankcell.assess.embedding_scores",
}
__getattr__, __dir__ = door(__name__, _PLACES)
