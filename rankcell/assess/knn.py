"""k-nearest-neighbour label accuracy by cross-validation."""

from collections.abc import Sequence

import numpy as np

from rankcell.assess.options import FOLDS, METRIC, K
from rankcell.errors import SettingsError


def knn_right(
    x: np.ndarray, labels: Sequence[str], *, k: int = K, folds: int = FOLDS, metric: str = METRIC, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(bool: the label is the majority label of the cell's `k` nearest neighbours in the other folds, int: the cell's own fold), an entry per cell.

    x
        [cells, dimensions]; rows with NaN count as wrong.
    labels
        One per cell, none missing; folds are stratified by them and shuffled with `seed`.

    By scikit-learn's KNeighborsClassifier and StratifiedKFold. SettingsError when a fold leaves fewer than `k` cells to look among.
    """
    from sklearn.model_selection import StratifiedKFold
    from sklearn.neighbors import KNeighborsClassifier

    labels = np.asarray(labels, str)
    good = np.isfinite(x).all(1)
    right, fold = np.zeros(len(labels), bool), np.full(len(labels), -1)
    for i, (fit, test) in enumerate(StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, labels)):
        fold[test] = i
        fit, test = fit[good[fit]], test[good[test]]
        if len(fit) < k:
            raise SettingsError(
                f"{good.sum():,} cells have an embedding and a label, and {folds} folds leave {len(fit):,} of them to look among: "
                f"fewer than the {k} neighbours wanted; pass a smaller k, or more cells"
            )
        if len(test):
            right[test] = KNeighborsClassifier(k, metric=metric).fit(x[fit], labels[fit]).predict(x[test]) == labels[test]
    return right, fold
