"""Cells by category: groups of a cell column, and the mean or median embedding of each (the embedding of a state)."""

from dataclasses import dataclass

import numpy as np

from rankcell.embed.embedding_tables import Table
from rankcell.errors import SettingsError
from rankcell.tokens.tokenset import TokenSet
from rankcell.wording import note

_MEDIAN_BYTES = 2**28


@dataclass(frozen=True)
class Groups:
    """`names` of the groups, and for each cell the number of its own (`codes`), -1 where the column says nothing."""

    names: list[str]
    codes: np.ndarray

    def counts(self, keep: np.ndarray) -> np.ndarray:
        """int64: cells per group, of those in `keep` (bool)."""
        return np.bincount(self.codes[keep & (self.codes >= 0)], minlength=len(self.names)).astype(np.int64)


def groups_of(tokens: TokenSet, column: str) -> Groups:
    """The categories of a cell column in their order, where it was categorical, else sorted. SettingsError when there is none."""
    values = tokens.obs(column)
    known = np.array([v is not None and v == v and str(v) != "" for v in values.tolist()], bool)
    texts = np.array([str(v) for v in values.tolist()], object)
    there = set(texts[known])
    ordered = [str(c) for c in tokens.spec.categories.get(tokens.obs_name(column), {}).get("categories", [])]
    names = [c for c in ordered if c in there] or sorted(there)
    if not names:
        raise SettingsError(f"cell column '{column}' says nothing about any cell: name another")
    if len(names) == len(values) > 1:
        note(f"every cell has a '{column}' of its own: is this the right column?")
    number = {name: i for i, name in enumerate(names)}
    return Groups(names, np.array([number[t] if k else -1 for t, k in zip(texts, known, strict=True)], np.int64))


def state_vectors(cells: Table, name: str, groups: Groups, keep: np.ndarray, statistic: str) -> np.ndarray:
    """Mean (in float64) or exact median of a vector column over the cells of each group, of those in `keep`.

    float64 [groups, width]; NaN for a group without cells. In bounded memory: means in one walk over the table, medians in as
    many as it takes to hold some dimensions of all cells at a time.
    """
    width = cells.column(name).width
    codes = np.where(keep, groups.codes, -1)
    if statistic == "mean":
        return _means(cells, name, codes, len(groups.names), width)
    step = max(1, _MEDIAN_BYTES // (8 * max(1, cells.n_rows)))
    out = np.full((len(groups.names), width), np.nan)
    for a in range(0, width, step):
        values = np.concatenate([b[name][:, a : a + step].astype(np.float64) for b in cells.blocks([name])])
        for g in np.unique(codes[codes >= 0]):
            out[g, a : a + step] = np.median(values[codes == g], axis=0)
    return out


def _means(cells: Table, name: str, codes: np.ndarray, n_groups: int, width: int) -> np.ndarray:
    total, done = np.zeros((n_groups, width)), 0
    for block in cells.blocks([name]):
        values = block[name]
        mine = codes[done : done + len(values)]
        for g in np.unique(mine[mine >= 0]):
            total[g] += values[mine == g].sum(0, dtype=np.float64)
        done += len(values)
    n = np.bincount(codes[codes >= 0], minlength=n_groups)
    return np.divide(total, n[:, None], out=np.full_like(total, np.nan), where=n[:, None] > 0)
