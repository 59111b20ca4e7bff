"""The rows of a screen as plain arrays: what every statistic counts over, and what the screen knows beside its rows."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.errors import CellError, InputError, SettingsError
from rankcell.near_names import near_names
from rankcell.scores import IN_PLACE, READOUTS, STATE_READOUTS, TOWARD, Score, score_name, scores_in
from rankcell.wording import option

DEFAULT_SCORES = tuple(score_name("cos", readout, None, part) for readout in READOUTS for part in (IN_PLACE, ""))
_AT_ONCE = 1_000_000  # rows
_FACTS = ("detection", "expression", "mean_rank")
_OF_EDITS = ("edit", "kind", "genes", "symbols", *_FACTS)
LEAST_CELLS = 3  # the floor of a ranking where none is given: the mean of one or two cells can stand anywhere


def least_cells(n_cells: np.ndarray, min_cells: int | None) -> int:
    """Minimum number of cells of an edit that is ranked: `min_cells`, else three, or fewer where no edit has three.

    n_cells
        [edits]: in how many cells each edit has an effect.
    """
    return min_cells if min_cells is not None else min(LEAST_CELLS, int(np.max(n_cells, initial=0)))


def effect_of(table: Any, score: str) -> Any:
    """The effect that a score column of a table states (Score.effect)."""
    return Score.parse(score).effect(table[score])


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
        Number of screened cells; None: not known, a table does not say which cells had no edit.
    unseen
        DataFrame like `edits`: the edits of the screen that no cell has; None where that is not known.
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
    unseen: Any = None
    predicted: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cell)

    def effect(self, score: str, at: Any = slice(None)) -> np.ndarray:
        return Score.parse(score).effect(self.scores[score][at])

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


def choose_score(columns: Sequence[str], score: str | None) -> str:
    """The score to rank by: `score`, else the in-place shift of all non-perturbed genes, else the plain one; in a table
    without sizes of shift (a fast screen without projections) the movement toward its state."""
    scores = scores_in(columns)
    wanted = [score] if score is not None else list(DEFAULT_SCORES)
    for name in wanted:
        if name in scores:
            return name
    if score is None and any(Score.parse(n).family == TOWARD for n in scores):
        return goal_score(columns, None)
    if score is not None and not isinstance(score, str):
        raise SettingsError(f"{option('score')}: expected the name of one score, found {type(score).__name__}: one of {', '.join(scores)}")
    near = near_names(str(score), scores)
    if near:
        raise SettingsError(f"the table has no score '{score}'; did you mean {near}? It has {', '.join(scores)}")
    raise SettingsError(f"the table has no score '{score or 'cos_genes'}'; it has {', '.join(scores) or 'none'}")


def goal_score(columns: Sequence[str], score: str | None) -> str:
    """The toward score to rank by: `score`, else that of the only state: of the cell readout and in place where there are such."""
    scores = [c for c in scores_in(columns, parts=False) if Score.parse(c).is_toward]
    if score is not None:
        if score in scores:
            return score
        near = near_names(str(score), scores)
        meant = f"did you mean {near}? " if near else ""
        available = f"{meant}{'The' if meant else 'the'} table has {', '.join(scores)}" if scores else f"the table has none: {_screen_toward()}"
        raise SettingsError(f"'{score}' is no toward score; {available}")
    plain = [c for c in scores if Score.parse(c).family == TOWARD]
    states = dict.fromkeys(Score.parse(c).state for c in plain)
    if not states:
        raise SettingsError(f"the table has no toward score: {_screen_toward()}")
    if len(states) > 1:
        raise SettingsError(f"there are several states: choose a score, one of {', '.join(plain)}")
    state = next(iter(states))
    return next(n for r in STATE_READOUTS for part in (IN_PLACE, "") if (n := score_name(TOWARD, r, state, part)) in plain)


def _screen_toward() -> str:
    return f"run the screen with {option('toward', placeholder='COL=STATE')}"


def rows_of(table: Any, scores: Sequence[str]) -> Rows:
    """A screen's DataFrame (rc.get.screen_df) as Rows with these score columns; CellError when a cell has an edit twice."""
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
    rows = Rows(
        cell=cell.astype(np.int32),
        edit=edit.astype(np.int32),
        rank=_floats(table["rank"]),
        n_tokens=table["n_tokens"].to_numpy(np.int32) if "n_tokens" in table else None,
        scores={s: _floats(table[s]) for s in scores},
        edits=edits,
        cell_ids=np.asarray(cell_ids, object),
    )
    _require_once(rows)
    facts = table.attrs.get("facts")
    return rows if facts is None else _with_facts(rows, facts)


def read_rows(screen: Any, scores: Sequence[str]) -> Rows:
    """A finished screen (rankcell.perturb.ScreenFolder) as Rows; of its table only the columns needed are read."""
    import pandas as pd

    from rankcell.perturb.results.screen_tables import SCREEN

    columns = ["cell_id", "edit", "kind", "genes", "rank", "n_tokens", *scores]
    table = screen.read(SCREEN, columns, read_dictionary=["cell_id", "edit", "kind", "genes"])
    cell, cell_ids = _codes(table["cell_id"])
    edit, names = _codes(table["edit"])
    first = np.full(len(names), -1, np.int64)
    first[edit[::-1]] = np.arange(len(table))[::-1]
    take = {c: table[c].take(first).to_numpy() if len(table) else np.empty(0, object) for c in ("kind", "genes")}
    edits = pd.DataFrame({"edit": names, "kind": take["kind"], "genes": take["genes"]}).astype(object)
    rows = Rows(
        cell=cell,
        edit=edit,
        rank=_floats(table["rank"].to_numpy()),
        n_tokens=table["n_tokens"].to_numpy().astype(np.int32, copy=False),
        scores={s: _floats(table[s].to_numpy()) for s in scores},
        edits=edits.assign(symbols=edits["genes"]),
        cell_ids=cell_ids,
    )
    if not _require_own_ids(screen):
        _require_once(rows)
    return _with_facts(rows, facts_of(screen, np.bincount(rows.edit, minlength=len(names)), names))


def is_table(source: Any) -> bool:
    """Whether something is a DataFrame (a Screen has columns too, but no attrs)."""
    return hasattr(source, "columns") and hasattr(source, "attrs")


def remarks_of(source: Any) -> dict[str, Any]:
    """What all results of the screen's model are to say of it (that it is a toy, that its vocabulary differs), as far as there is something
    to say: of a Screen or of a table of one.
    """
    settings = source.attrs if is_table(source) else source.manifest.get("settings", {})
    return {key: settings[key] for key in ("model_note", "vocab_mismatch") if settings.get(key)}


def screen_of(source: Any) -> Any:
    """The rankcell.perturb.ScreenFolder of a results folder, of the screen.parquet in it, or as it is. InputError for anything else."""
    from rankcell.perturb import ScreenFolder, read_screen

    if isinstance(source, ScreenFolder):
        return source
    if not isinstance(source, (str, os.PathLike)):
        advice = "; perturb it first: rc.tl.perturb(adata, ...)" if hasattr(source, "obs") and hasattr(source, "var") else ""
        raise InputError(
            f"expected a screen (what rc.tl.perturb or rc.get.screen_df returns, or a results folder), found {type(source).__name__}{advice}"
        )
    path = Path(source)
    return read_screen(path.parent if path.name == "screen.parquet" and path.is_file() else path)


def mean_ranks(screen: Any) -> Any:
    """`edit` and `mean_rank` of a finished screen."""
    import pandas as pd

    rows = read_rows(screen, [])
    shown = np.isfinite(rows.rank)
    n = np.bincount(rows.edit[shown], minlength=len(rows.edits))
    with np.errstate(invalid="ignore"):
        return pd.DataFrame({"edit": rows.edits["edit"], "mean_rank": np.bincount(rows.edit[shown], rows.rank[shown], len(rows.edits)) / n})


# What a screen knows beside its rows


def _require_once(rows: Rows) -> None:
    """CellError when a cell has an edit twice: cells of one id would count as one."""
    import pandas as pd

    key = rows.cell.astype(np.int64) * max(1, len(rows.edits)) + rows.edit
    if (np.diff(key) > 0).all() or pd.Index(key).is_unique:
        return
    cell, edit = divmod(int(key[pd.Index(key).duplicated()][0]), len(rows.edits))
    n = int((key == cell * len(rows.edits) + edit).sum())
    raise CellError(
        f"cell '{rows.cell_ids[cell]}' has {n:,} rows for {rows.edits['edit'][edit]}; expected one: several cells have this id. "
        "Give cells ids of their own (adata.obs_names_make_unique()) and screen again"
    )


def _require_own_ids(screen: Any) -> bool:
    """Whether the screen has a table of its cells; CellError when a cell stands in it twice."""
    from rankcell.perturb.results.screen_tables import CELLS

    if not screen.has(CELLS):
        return False
    ids = screen.read(CELLS, ["cell_id"]).to_pandas()["cell_id"]
    if not ids.is_unique:
        twice = ids[ids.duplicated()]
        raise CellError(
            f"cell '{twice.iloc[0]}' was screened {int((ids == twice.iloc[0]).sum()):,} times ({twice.nunique():,} ids of several cells in "
            f"{screen.folder}): give cells ids of their own (adata.obs_names_make_unique()) and screen again"
        )
    return True


def facts_of(screen: Any, n_rows: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """What a table of the screen must carry in `attrs["facts"]` so that it is ranked as the folder is.

    n_rows, names
        [edits]: the rows of each edit in the table, and its id.

    Returns `n_cells`, the number of screened cells (None: not known); `rows` {edit: number of rows}; `edits` {column: list}, of all
    edits that were tried, those too that no cell has.
    """
    from rankcell.perturb.results.screen_tables import EDITS

    edits: dict[str, list[Any]] = {"edit": []}
    if screen.has(EDITS):
        table = screen.edits()
        known = table.select([c for c in _OF_EDITS if c in table.column_names]).to_pandas().drop_duplicates("edit")
        edits = {c: known[c].tolist() for c in known}
    rows = dict(zip(map(str, names), map(int, n_rows), strict=True))
    return {"n_cells": screen.manifest.get("n_cells"), "rows": rows, "edits": edits}


def _with_facts(rows: Rows, facts: dict[str, Any]) -> Rows:
    """Join to the rows the facts of their screen: symbols and covariates of the edits, the number of screened cells, edits without a row.

    A table of which cells were taken away since is not the screen that the facts are of: of that only the symbols hold.
    """
    import pandas as pd

    n_rows = np.bincount(rows.edit, minlength=len(rows.edits))
    is_complete = bool((n_rows == [facts["rows"].get(e, -1) for e in rows.edits["edit"]]).all())
    known = pd.DataFrame(facts["edits"]).set_index("edit")
    wanted = [c for c in ("symbols", *(_FACTS if is_complete else ())) if c in known]
    edit_facts = known[wanted].reindex(rows.edits["edit"]).reset_index(drop=True)
    edits = rows.edits.copy()
    if "symbols" in edit_facts:
        edits["symbols"] = edit_facts["symbols"].where(edit_facts["symbols"].notna(), edits["symbols"])
    for c in wanted:
        if c != "symbols":
            edits[c] = edit_facts[c].astype(float)
    unseen = None
    if is_complete and len(edits) == len(facts["rows"]) and {"kind", "genes"} <= set(known):
        unseen = known[~known.index.isin(edits["edit"])].reset_index()
        unseen = unseen.reindex(columns=edits.columns).assign(symbols=lambda t: t["symbols"].fillna(t["genes"]))
    return replace(rows, edits=edits, n_screened=facts["n_cells"] if is_complete else None, unseen=unseen)


def _codes(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """A dictionary column as codes in order of first appearance, and the values."""
    import pandas as pd

    combined = column.unify_dictionaries().combine_chunks()
    if hasattr(combined, "num_chunks"):
        combined = combined.chunk(0) if combined.num_chunks else None
    if combined is None or not len(combined):
        return np.empty(0, np.int32), np.empty(0, object)
    codes, order = pd.factorize(combined.indices.to_numpy())
    return codes.astype(np.int32), np.asarray(combined.dictionary.to_pylist(), object)[order]


def _floats(column: Any) -> np.ndarray:
    """float64, null and NA as NaN."""
    if hasattr(column, "to_numpy"):
        return column.to_numpy(np.float64, na_value=np.nan)
    return np.asarray(column, np.float64)
