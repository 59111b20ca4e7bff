"""All scores of one embedding against labels and batches, over the same cells and folds for every embedding."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankcell.assess.clusters import cluster_scores
from rankcell.assess.knn import knn_right
from rankcell.assess.mixing import batch_mixing, batch_silhouette, silhouette
from rankcell.assess.options import FOLDS, METRIC, K, Scoring
from rankcell.errors import CellError, SettingsError
from rankcell.wording import note, python_verb, shortened


@dataclass(frozen=True)
class LabelledCells:
    """The cells that have a label, and what else is known of them.

    rows
        Their row numbers among all cells.
    labels, batch
        One per row (str); `batch` is None without one, "" where it is missing.
    crossed
        bool per row: its label has a cell for every fold, so that it takes part in the cross-validation.
    small
        Labels with fewer cells than folds.
    n_cells
        All cells, those without a label included.
    """

    rows: np.ndarray
    labels: np.ndarray
    crossed: np.ndarray
    small: tuple[str, ...]
    n_cells: int
    batch: np.ndarray | None = None

    @classmethod
    def of(cls, labels: Any, batch: Any = None, *, folds: int, name: str = "label", batch_name: str = "batch") -> "LabelledCells":
        """From a value per cell (missing: None, NaN, NA). CellError with fewer than two labels that have a cell per fold."""
        import pandas as pd

        labels = pd.Series(labels).reset_index(drop=True)
        rows = np.flatnonzero(labels.notna().to_numpy())
        known = labels.iloc[rows].astype(str).to_numpy(str)
        names, code, size = np.unique(known, return_inverse=True, return_counts=True)
        if len(names) < 2:
            problem = f"'{names[0]}' in every cell that has one" if len(names) else f"missing in all {len(labels):,} cells"
            raise CellError(f"label '{name}' is {problem}: scores need at least two labels")
        small = tuple(names[size < folds].tolist())
        if len(names) - len(small) < 2:
            raise CellError(
                f"label '{name}' has {len(names):,} values and {len(names) - len(small)} of them have the {folds} cells that "
                f"{folds} folds need: choose a label of cell groups, or fewer folds"
            )
        if small:
            _warn_small(name, small, int(size[size < folds].sum()), folds)
        cells = cls(rows, known, size[code] >= folds, small, len(labels))
        return cells if batch is None else cells._with_batch(batch, batch_name)

    def _with_batch(self, batch: Any, name: str) -> "LabelledCells":
        import dataclasses

        import pandas as pd

        values = pd.Series(batch).reset_index(drop=True).iloc[self.rows]
        known = np.where(values.isna(), "", values.astype(str)).astype(str)
        if len(np.unique(known[known != ""])) < 2:
            raise CellError(f"batch '{name}' has fewer than two values: mixing needs at least two batches")
        return dataclasses.replace(self, batch=known)

    @functools.cached_property
    def counts(self) -> dict[str, int]:
        """Numbers of cells with a label, without one, and left out of the cross-validation because their label is rare."""
        return {
            "n_cells": len(self.rows),
            "n_missing_label": self.n_cells - len(self.rows),
            "n_rare_label": int((~self.crossed).sum()),
        }

    @property
    def largest(self) -> float:
        """Share of the most frequent label among the cross-validated cells: the accuracy of always saying that one."""
        _, size = np.unique(self.labels[self.crossed], return_counts=True)
        return float(size.max() / size.sum())


def _warn_small(name: str, small: Sequence[str], n: int, folds: int) -> None:
    shown = ", ".join(f"'{s}'" for s in small[:3]) + (f" and {len(small) - 3} more" if len(small) > 3 else "")
    note(
        f"{n:,} cells have a label '{name}' with fewer than {folds} cells ({shown}): they are left out of the {folds}-fold cross-validation",
    )


@python_verb()
def knn_accuracy(x: Any, labels: Any, *, k: int = K, folds: int = FOLDS, metric: str = METRIC, seed: int = 0) -> float:
    """Share of cells whose label is the majority label of their `k` nearest neighbours in the other folds.

    x
        [cells, dimensions]; rows with NaN count as wrong.
    labels
        One per cell. Cells without one (None, NaN, NA) are left out, and, with a warning, those of labels with fewer cells than folds;
        folds are stratified by them and shuffled with `seed`.

    The `knn_accuracy` of rc.tl.score_embedding, of an array. CellError for labels that are not one per cell.
    """
    from sklearn.neighbors import VALID_METRICS

    scoring = Scoring(k, folds, (), seed)
    if metric not in VALID_METRICS["brute"]:
        raise SettingsError(f"unknown metric {shortened(metric)}; cosine or euclidean")
    x, values = _numbers(x), _column(labels)
    if len(values) != len(x):
        raise CellError(f"there are {len(values):,} labels for {len(x):,} cells: one per cell is wanted")
    cells = LabelledCells.of(values, folds=scoring.folds)
    used = cells.rows[cells.crossed]
    right, _ = knn_right(x[used], cells.labels[cells.crossed], k=scoring.k, folds=scoring.folds, metric=metric, seed=scoring.seed)
    return int(right.sum()) / len(right)


def _numbers(x: Any) -> np.ndarray:
    """An embedding as an array [cells, dimensions]."""
    try:
        x = np.asarray(x.toarray() if hasattr(x, "toarray") else x)
        x = x.astype(float) if x.dtype == object else x
    except (TypeError, ValueError):
        x = np.empty(0)
    if x.ndim != 2 or not x.shape[1] or x.dtype.kind not in "fiu":
        raise CellError(f"the embedding is {x.dtype} of shape {x.shape}: numbers, [cells, dimensions], are wanted")
    return x


def _column(labels: Any) -> Any:
    """Labels as a Series, an entry per cell."""
    import pandas as pd

    try:
        if isinstance(labels, (str, bytes, Mapping)) or hasattr(labels, "columns"):
            raise TypeError
        return pd.Series(labels if hasattr(labels, "dtype") else list(labels)).reset_index(drop=True)
    except (TypeError, ValueError):
        raise CellError(f"labels is {shortened(labels)}: a list of one label per cell is wanted") from None


def score(x: np.ndarray, cells: LabelledCells, scoring: Scoring) -> tuple[dict[str, Any], np.ndarray]:
    """Score an embedding: ({score: value}, bool per cross-validated cell: its label was predicted).

    x
        [all cells, dimensions]; rows that are not finite count as wrong in the cross-validation and are left out elsewhere.
    """
    x = np.asarray(x, np.float64)[cells.rows]  # cells of an untrained model differ by less than float32 cosines can tell
    good = np.isfinite(x).all(1)
    crossed = cells.labels[cells.crossed]
    right, fold = knn_right(x[cells.crossed], crossed, k=scoring.k, folds=scoring.folds, seed=scoring.seed)
    scores = _knn_scores(right, fold, crossed)
    x, labels = x[good], cells.labels[good]
    scores |= cluster_scores(x, labels, k=scoring.k, resolution=scoring.resolution, seed=scoring.seed)
    scores["silhouette"] = silhouette(x, labels, seed=scoring.seed)
    if cells.batch is not None:
        scores |= _batch_scores(x, labels, cells.batch[good], scoring)
    return scores | cells.counts | {"n_without_embedding": int((~good).sum())}, right


def _knn_scores(right: np.ndarray, fold: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    by_fold = [right[fold == f].mean() for f in np.unique(fold)]
    by_label = [right[labels == name].mean() for name in np.unique(labels)]
    return {
        "knn_accuracy": int(right.sum()) / len(right),
        "knn_sd": float(np.std(by_fold, ddof=1)),
        "knn_balanced": float(np.mean(by_label)),
    }


def _batch_scores(x: np.ndarray, labels: np.ndarray, batch: np.ndarray, scoring: Scoring) -> dict[str, float]:
    known = batch != ""
    x, labels, batch = x[known], labels[known], batch[known]
    if len(x) <= scoring.k or len(np.unique(batch)) < 2:
        raise CellError(f"{len(x):,} cells have an embedding, a label and a batch: too few for {scoring.k} neighbours and two batches")
    return {
        "batch_mixing": batch_mixing(x, batch, k=scoring.k),
        "batch_silhouette": batch_silhouette(x, labels, batch, seed=scoring.seed),
        "n_missing_batch": int((~known).sum()),
    }


def paired_difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(mean, standard error) of `a - b` over the same cells; bool each."""
    difference = a.astype(float) - b.astype(float)
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))
