"""k-nearest-neighbour label accuracy by cross-validation."""

from collections.abc import Sequence

import numpy as np


def knn_accuracy(x: np.ndarray, labels: Sequence[str], *, k: int = 15, folds: int = 5, metric: str = "cosine", seed: int = 0) -> float:
    """Share of cells whose label is the majority label of their `k` nearest neighbours in the other folds.

    x
        [cells, dimensions]; rows with NaN count as wrong.
    labels
        One per cell; folds are stratified by them and shuffled with `seed`.

    By scikit-learn's KNeighborsClassifier and StratifiedKFold.
    """
    from sklearn.model_selection import StratifiedKFold
    from sklearn.neighbors import KNeighborsClassifier

    labels = np.asarray(labels, str)
    good = np.isfinite(x).all(1)
    right = 0
    for fit, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, labels):
        fit, test = fit[good[fit]], test[good[test]]
        right += int((KNeighborsClassifier(k, metric=metric).fit(x[fit], labels[fit]).predict(x[test]) == labels[test]).sum())
    return right / len(labels)
