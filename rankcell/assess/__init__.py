"""How good is it: scores of embeddings against labels."""

from rankcell.assess.knn import knn_accuracy

__all__ = ["knn_accuracy"]
