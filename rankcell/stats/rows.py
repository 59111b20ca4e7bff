"""The rows of a screen as plain arrays: what every statistic counts over."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.errors import InputError, SettingsError

SCORES = ("cos_", "toward_", "euclidean_", "shift_")
DEFAULT_SCORES = tuple(f"cos_{r}{end}" for r in ("genes", "cell", "cls") for end in ("_in_place", ""))
_AT_ONCE = 1_000_000  # rows
_FACTS = ("detection", "expression", "mean_rank")


def effect_of(table: Any, score: str) -> Any:
    """The effect that a score column states: 1 - cosine for `cos_...`, the score itself for all others."""
    return 1 - table[score] if score.startswith("cos_") else table[score]


def is_size(score: str) -> bool:
    """Whether an effect is a size (0 = nothing happened) and not a movement with a sign: cosine shifts, distances."""
    stem = score.removesuffix("_in_place")
    return stem.startswith("cos_") or stem in ("euclidean_genes", "euclidean_cell", "euclidean_cls")


@dataclass(frozen=True)
class Rows:
    """One entry per cell and edit.

    cell, edit
        int32 codes into `cell_ids` and the rows of `edits`.
    rank
        float64, of the edited gene in the cell (0 = top); NaN where the cell lacks it.
    n_tokens
        int32, length of the cell's row; None where the table does not say.
    scores
        Score columns by name, float64, NaN where undefined.
    edits
        DataFrame: `edit`, `kind`, `genes`, `symbols`, and what is known of them (`detection`, `expression`, `mean_rank`).
    n_screened
        Number of screened cells; None: those with a row.
    predicted
        Of a fast screen, by score: which values are exact, and the error of the others (rankcell.stats.prediction.Predicted).
    """

    cell: np.ndarray
    edit: np.ndarray
    rank: np.ndarray
    n_tokens: np.ndarray | None
    scores: dict[str, np.ndarray]
    edits: Any
    cell_ids: np.ndarray
    n_screened: int | None = None
    predicted: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cell)

    def effect(self, score: str, at: Any = slice(None)) -> np.ndarray:
        return effect_of({score: self.scores[score][at]}, score)

    def x(self, at: np.ndarray) -> np.ndarray:
        """log(1 + rank) of the rows `at`; a gene that the cell lacks stands behind all that it shows."""
        behind = 1e6 if self.n_tokens is None else self.n_tokens[at]
        return np.log1p(np.where(np.isnan(self.rank[at]), behind, self.rank[at]))

    def pieces(self) -> Iterator[np.ndarray]:
        """Row numbers of whole cells, about a million at a time and in order of cells: what works cell by cell needs no more memory."""
        if not len(self.cell):
            return
        ordered = None if (np.diff(self.cell) >= 0).all() else np.argsort(self.cell, kind="stable")
        cell = self.cell if ordered is None else self.cell[ordered]
        begins = np.flatnonzero(np.diff(cell, prepend=-1))
        cut = begins[np.diff(begins // _AT_ONCE, prepend=-1) > 0]
        for a, b in zip(cut, [*cut[1:], len(cell)], strict=True):
            yield np.arange(a, b) if ordered is None else ordered[a:b]

    def where(self, keep: np.ndarray) -> "Rows":
        """The rows at which `keep` is true; codes stay."""
        n_tokens = None if self.n_tokens is None else self.n_tokens[keep]
        columns = {"cell": self.cell[keep], "edit": self.edit[keep], "rank": self.rank[keep], "n_tokens": n_tokens}
        scores, predicted = {k: v[keep] for k, v in self.scores.items()}, {k: v.where(keep) for k, v in self.predicted.items()}
        return replace(self, **columns, scores=scores, predicted=predicted)


def score_names(columns: Sequence[str]) -> list[str]:
    return [c for c in columns if c.startswith(SCORES)]


def choose_score(columns: Sequence[str], score: str | None) -> str:
    """The score to rank by: the one asked for, else the in-place shift of all non-perturbed genes, else the plain one; in a table
    without sizes of shift (a fast screen without projections) the movement toward its state."""
    scores = score_names(columns)
    wanted = [score] if score is not None else list(DEFAULT_SCORES)
    for name in wanted:
        if name in scores:
            return name
    if score is None and any(n.startswith("toward_") for n in scores):
        return goal_score(columns, None)
    raise SettingsError(f"the table has no score '{score or 'cos_genes'}'; it has {', '.join(scores) or 'none'}")


def goal_score(columns: Sequence[str], score: str | None) -> str:
    """The toward score asked for, else that of the only state: of the cell readout and in place where there are such."""
    scores = [c for c in score_names(columns) if "toward_" in c and not c.endswith(("_position", "_refill"))]
    if score is not None:
        if score in scores:
            return score
        raise SettingsError(f"'{score}' is no toward score; the table has {', '.join(scores) or 'none: screen with --toward'}")
    plain = [c for c in scores if c.startswith("toward_")]
    states = dict.fromkeys(c.removesuffix("_in_place").removeprefix("toward_").rpartition("_")[0] for c in plain)
    if not states:
        raise SettingsError("the table has no toward score: run the screen with --toward COL=STATE")
    if len(states) > 1:
        raise SettingsError(f"there are several states: choose a score, one of {', '.join(plain)}")
    state = next(iter(states))
    return next(n for r in ("cell", "cls") for p in ("_in_place", "") if (n := f"toward_{state}_{r}{p}") in plain)


def rows_of(table: Any, scores: Sequence[str]) -> Rows:
    """A screen's DataFrame (rc.get.screen_df) as Rows with these score columns."""
    import pandas as pd

    missing = [c for c in ("cell_id", "edit", "kind", "genes", "rank") if c not in table]
    if missing:
        raise InputError(
            f"this is no table of a screen: it lacks {', '.join(missing)}; give what rc.tl.perturb or rc.get.screen_df returns"
        )
    cell, cell_ids = pd.factorize(table["cell_id"])
    edit, names = pd.factorize(table["edit"])
    first = np.full(len(names), -1, np.int64)
    first[edit[::-1]] = np.arange(len(table))[::-1]
    symbols = table.attrs.get("symbols", {})
    genes = table["genes"].astype(str).to_numpy()[first]
    edits = pd.DataFrame({"edit": np.asarray(names, object), "kind": table["kind"].astype(str).to_numpy()[first], "genes": genes})
    edits["symbols"] = [symbols.get(g, g) for g in genes]
    return Rows(
        cell=cell.astype(np.int32),
        edit=edit.astype(np.int32),
        rank=_floats(table["rank"]),
        n_tokens=table["n_tokens"].to_numpy(np.int32) if "n_tokens" in table else None,
        scores={s: _floats(table[s]) for s in scores},
        edits=edits,
        cell_ids=np.asarray(cell_ids, object),
    )


def read_rows(folder: Path, scores: Sequence[str]) -> Rows:
    """A finished results folder as Rows; of the table only the columns needed are read."""
    import pandas as pd
    import pyarrow.parquet as pq

    path = folder / "screen.parquet"
    columns = ["cell_id", "edit", "kind", "genes", "rank", "n_tokens", *scores]
    try:
        table = pq.read_table(path, columns=columns, read_dictionary=["cell_id", "edit", "kind", "genes"])
    except (OSError, ValueError, KeyError) as e:
        raise InputError(f"{path} cannot be read: {e}") from e
    cell, cell_ids = _codes(table["cell_id"])
    edit, names = _codes(table["edit"])
    first = np.full(len(names), -1, np.int64)
    first[edit[::-1]] = np.arange(len(table))[::-1]
    take = {c: table[c].take(first).to_numpy() if len(table) else np.empty(0, object) for c in ("kind", "genes")}
    edits = pd.DataFrame({"edit": names, "kind": take["kind"], "genes": take["genes"]}).astype(object)
    edits, n_screened = _with_facts(edits, folder)
    return Rows(
        cell=cell,
        edit=edit,
        rank=_floats(table["rank"].to_numpy()),
        n_tokens=table["n_tokens"].to_numpy().astype(np.int32, copy=False),
        scores={s: _floats(table[s].to_numpy()) for s in scores},
        edits=edits,
        cell_ids=cell_ids,
        n_screened=n_screened,
    )


def columns_of(folder: Path) -> list[str]:
    """Names of the columns of a folder's screen table."""
    import pyarrow.dataset as ds

    try:
        return ds.dataset(folder / "screen.parquet").schema.names
    except (OSError, ValueError) as e:
        raise InputError(f"{folder / 'screen.parquet'} cannot be read: {e}") from e


def _codes(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """A dictionary column as codes in order of first appearance, and the values."""
    import pandas as pd

    whole = column.unify_dictionaries().combine_chunks()
    if hasattr(whole, "num_chunks"):
        whole = whole.chunk(0) if whole.num_chunks else None
    if whole is None or not len(whole):
        return np.empty(0, np.int32), np.empty(0, object)
    codes, order = pd.factorize(whole.indices.to_numpy())
    return codes.astype(np.int32), np.asarray(whole.dictionary.to_pylist(), object)[order]


def _with_facts(edits: Any, folder: Path) -> tuple[Any, int | None]:
    """Symbols and trivial predictors from edits.parquet, the number of screened cells from cells.parquet or the manifest."""
    import pandas as pd

    from rankcell.store import read_json

    edits["symbols"] = edits["genes"]
    path = folder / "edits.parquet"
    if path.exists():
        known = pd.read_parquet(path).drop_duplicates("edit").set_index("edit")
        wanted = [c for c in ("symbols", *_FACTS) if c in known]
        found = known[wanted].reindex(edits["edit"]).reset_index(drop=True)
        if "symbols" in found:
            edits["symbols"] = found["symbols"].where(found["symbols"].notna(), edits["genes"])
        for c in wanted[1:]:
            edits[c] = found[c].astype(float)
    n = read_json(folder / "manifest.json").get("n_cells") if (folder / "manifest.json").exists() else None
    return edits, n


def _floats(column: Any) -> np.ndarray:
    """float64, null and NA as NaN."""
    if hasattr(column, "to_numpy"):
        return column.to_numpy(np.float64, na_value=np.nan)
    return np.asarray(column, np.float64)
