"""The table of a comparison of poolings: a DataFrame that shows itself in 100 characters a line."""

import html
from typing import Any

import numpy as np
import pandas as pd

_NEEDED = (
    "source",
    "pool",
    "layer",
    "seed",
    "knn_accuracy",
    "knn_sd",
    "over_pca",
    "over_pca_se",
    "over_random",
    "over_random_se",
    "n_cells",
)


class Comparison(pd.DataFrame):
    """A DataFrame in all that it does; only when it is shown whole, its `summary` stands in place of twenty columns.

    What is derived from it (rows, columns, a copy) is a plain DataFrame.
    """

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def __repr__(self) -> str:
        return summary(self) if set(_NEEDED) <= set(self.columns) and len(self) else super().__repr__()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def summary(table: Any) -> str:
    """A comparison as text of at most 100 characters a line, best first: what a reader decides by, rounded.

    The random models of a pooling and layer are one line, their mean. Every +- is a standard error: of an accuracy over the folds, of a
    difference over the cells.
    """
    scores = [c for c in ("ari", "silhouette", "batch_mixing") if c in table and table[c].notna().any()]
    by_pool = [c for c in ("source", "pool", "layer") if c in table]
    means = table.groupby(by_pool, dropna=False, sort=False)[["knn_accuracy", "knn_sd", *scores]].mean().reset_index()
    first = table.drop_duplicates(by_pool).reset_index(drop=True)
    means = means.join(first[["over_pca", "over_pca_se", "over_random", "over_random_se"]])
    means.loc[means["source"] != "model", ["over_random", "over_random_se"]] = np.nan
    several = table.loc[table["source"] == "random weights", "seed"].nunique() > 1
    means.loc[means["source"] == "random weights", ["over_pca", "over_pca_se"] if several else []] = np.nan
    means = means.sort_values("knn_accuracy", ascending=False, kind="stable")
    folds = table.attrs.get("folds", 5)
    lines = [["source", "pooling", "layer", "kNN accuracy", "over PCA", "over random", *scores]]
    for row in means.to_dict("records"):
        layer = "" if pd.isna(row["layer"]) else f"{int(row['layer'])}"
        pairs = [_with_error(row["knn_accuracy"], row["knn_sd"] / np.sqrt(folds), "")]
        pairs += [_with_error(row[c], row[f"{c}_se"], "+") for c in ("over_pca", "over_random")]
        lines.append([row["source"], row["pool"][:20], layer, *pairs, *(f"{row[s]:.2f}" for s in scores)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    shown = "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
    note = table.attrs.get("model_note")
    n, rare = int(table["n_cells"].max()), int(table["n_rare_label"].max()) if "n_rare_label" in table else 0
    cells = f"{n - rare:,} of {n:,} cells" if rare else f"{n:,} cells"
    head = f"model '{table.attrs.get('model', '?')}', label '{table.attrs.get('label', '?')}', {cells}"
    chance = f"; the most frequent label alone: {table.attrs['largest_label']:.3f}" if "largest_label" in table.attrs else ""
    no_pca = [] if (table["source"] == "PCA").any() else ["no PCA beside it: tokens hold no counts"]
    return "\n".join(
        [*([note] if note else []), head + chance, shown, *no_pca, "±: standard error, of accuracies over the folds, of differences over the cells"]
    )


def _with_error(value: float, error: float, sign: str) -> str:
    return "-" if not np.isfinite(value) else f"{value:{sign}.3f} ± {error:.3f}"
