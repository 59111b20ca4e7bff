"""How good is it: scores of embeddings against labels, poolings compared, labels mapped from a reference, where poolings look in the ranking."""

from rankcell.assess.knn import knn_right
from rankcell.assess.mapping import Mapped, Reference, map_labels
from rankcell.assess.poolings import compare_poolings
from rankcell.assess.rankbias import rank_bias
from rankcell.assess.scores import LabelledCells, ScoreSettings, knn_accuracy, score

__all__ = [
    "LabelledCells",
    "Mapped",
    "Reference",
    "ScoreSettings",
    "compare_poolings",
    "knn_accuracy",
    "knn_right",
    "map_labels",
    "rank_bias",
    "score",
]
