"""What counts as a replicate: donors where they are given, else cells; means over them, intervals, and tests against zero."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rankcell.errors import CellError
from rankcell.wording import note

LEAST_REPLICATES = 5  # cells, or donors, below which no p rests on their spread (tutorials/STATISTICS.md)
_SAME = 1e-4  # replicates whose spread is a smaller part of their mean differ by rounding: copies of one cell
_EXACT = 17  # donors up to which every assignment of signs is tried
_DRAWN = 2**16
_AT_ONCE = 2**24  # numbers held at once


@dataclass(frozen=True)
class Donors:
    """Donors of cells: `of_cell` int32 [cells], -1 where a cell has none; `names`."""

    of_cell: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


def donors_of(cell_ids: np.ndarray, cells: Any, column: str) -> Donors:
    """Donors from a table of cells (`cell_id` and `column`). CellError when the column is not there or no cell is named in it."""
    import pandas as pd

    if column not in cells:
        has = [str(c) for c in cells.columns if c != "cell_id"]
        raise CellError(f"there is no column '{column}' for donors; the table of cells has {', '.join(has) or 'none'}")
    if "cell_id" in cells:
        cells = cells.set_index("cell_id")
    if cells.index.has_duplicates:
        twice = cells.index[cells.index.duplicated()][0]
        raise CellError(f"the table of cells names cell '{twice}' twice: donors need one row a cell")
    donor_names = cells[column].reindex(pd.Index(cell_ids))
    if not donor_names.notna().any():
        raise CellError(f"column '{column}' names a donor for none of the {len(cell_ids):,} screened cells: is cell_id the same in both?")
    missing = int(donor_names.isna().sum())
    if missing:
        note(f"{missing:,} of {len(donor_names):,} cells have no '{column}' and are left out")
    codes, names = pd.factorize(donor_names.astype(object), sort=False)
    return Donors(codes.astype(np.int32), tuple(str(n) for n in names))


def least_p(n_donors: int) -> float:
    """The smallest two-sided p that flipping the signs of so many donors can give."""
    return min(1.0, 2.0 ** (1 - n_donors))


def warn_few(donors: Donors, threshold: float = 0.05) -> str | None:
    """Warn, and return the line, when no p over so few donors can fall below the threshold."""
    n = len(donors)
    if least_p(n) < threshold:
        return None
    needed = int(np.floor(1 - np.log2(threshold))) + 1
    line = f"{n} donor{'s' * (n != 1)}: no p over donors can fall below {least_p(n):.3g}; {needed} are needed for one below {threshold:g}"
    note(line)
    return line


@dataclass(frozen=True)
class Means:
    """Moments of each edit over its replicates: their number, mean, variance of one replicate (NaN below two), and with donors the
    matrix of donor means [edits, donors] (NaN where an edit has no cell of a donor).

    common
        Variance of an error that all replicates of an edit share (of predictions), with its degrees of freedom `common_df` and
        excess kurtosis `common_heavy`; it adds to the mean's variance and does not fall with n. None: there is none.
    """

    n: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    by_donor: np.ndarray | None = None
    common: np.ndarray | None = None
    common_df: float = np.inf
    common_heavy: float = 0.0

    @property
    def var_of_mean(self) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.var / self.n if self.common is None else self.var / self.n + self.common

    @property
    def student(self) -> tuple[np.ndarray, np.ndarray]:
        """(scale, degrees of freedom) of the Student's t that the mean follows: its standard error and replicates less one.

        With a common error: degrees of freedom of a sum of two variances (Satterthwaite 1946), or, where the common error is heavy in
        its tails and asks for fewer, the t of the sum's own variance and kurtosis.
        """
        se, own = np.sqrt(self.var_of_mean), np.maximum(self.n - 1, 1)
        if self.common is None:
            return se, own
        with np.errstate(invalid="ignore", divide="ignore"):
            df = self.var_of_mean**2 / ((self.var / self.n) ** 2 / own + self.common**2 / self.common_df)
            df = np.where(np.isfinite(df), df, own)
            heavy = 4 + 6 / (self.common_heavy * (self.common / self.var_of_mean) ** 2)  # the excess of t is 6 / (df - 4)
            return np.where(heavy < df, se * np.sqrt(1 - 2 / heavy), se), np.fmin(df, heavy)

    def with_common(self, variance: np.ndarray, df: float, heavy: float) -> "Means":
        """Add an error that is common to replicates."""
        if self.common is None:
            return replace(self, common=variance, common_df=df, common_heavy=heavy)
        df, heavy = min(df, self.common_df), max(heavy, self.common_heavy)
        return replace(self, common=self.common + variance, common_df=df, common_heavy=heavy)


def means(edit: np.ndarray, values: np.ndarray, n_edits: int, *, donor: np.ndarray | None = None, n_donors: int = 0) -> Means:
    """Means of row values over the replicates of each edit; `donor`: a code per row (-1: left out), None: each row is a replicate."""
    good = np.isfinite(values)
    if donor is not None:
        good &= donor >= 0
        key = edit[good].astype(np.int64) * n_donors + donor[good]
        n, mean, _ = _moments(key, values[good], n_edits * n_donors)
        by_donor = np.where(n > 0, mean, np.nan).reshape(n_edits, n_donors)
        return means_of_matrix(by_donor)
    n, mean, var = _moments(edit[good], values[good], n_edits)
    return Means(n, mean, var)


def means_of_matrix(by_donor: np.ndarray) -> Means:
    shown = np.isfinite(by_donor)
    edit = np.nonzero(shown)[0]
    return Means(*_moments(edit, by_donor[shown], len(by_donor)), by_donor)


def _moments(key: np.ndarray, values: np.ndarray, n_keys: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number, mean and unbiased variance (two passes) of the values of each key; NaN where there are too few."""
    n = np.bincount(key, minlength=n_keys)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(n > 0, np.bincount(key, values, n_keys) / n, np.nan)
        var = np.bincount(key, (values - mean[key]) ** 2, n_keys) / (n - 1)
    return n, mean, np.where(n > 1, var, np.nan)


def interval(m: Means, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Student's t interval of the mean over replicates; NaN with fewer than two."""
    from scipy.stats import t

    scale, df = m.student
    half = t.ppf(0.5 + level / 2, df) * scale
    return m.mean - half, m.mean + half


def p_against_zero(m: Means, rng: np.random.Generator) -> np.ndarray:
    """Two-sided p that the mean over replicates is zero: signs of donors flipped, or Student's t over cells.

    NaN with fewer than `LEAST_REPLICATES` cells, or where the cells are copies of one: nothing then says how sure the mean is. Flipping
    signs is exact with any number of donors (none of few is small), but knows nothing of an error that all donors share: with such,
    Student's t has to say so too, and the larger p stands.
    """
    if m.by_donor is not None:
        flipped = sign_flip_p(m.by_donor, rng)
        return flipped if m.common is None else np.where(m.common > 0, np.fmax(flipped, _student_p(m)), flipped)
    return np.where(m.n >= LEAST_REPLICATES, _student_p(m), np.nan)


def _student_p(m: Means) -> np.ndarray:
    from scipy.stats import t

    with np.errstate(invalid="ignore", divide="ignore"):
        se, df = m.student
        level = _SAME * np.abs(m.mean) / np.sqrt(m.n)
        p = 2 * t.sf(np.abs(m.mean) / se, df)
    return np.where((m.n > 1) & (se > level), p, np.nan)


def sign_flip_p(by_donor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two-sided sign-flip permutation p of each row's mean over its donors; NaN where a row has none.

    Exact up to 17 donors (half of the 2^D assignments, the others being their mirror images); above that 65,536 drawn ones
    and the observed one (Phipson and Smyth 2010: a permutation p is never zero).
    """
    count = np.isfinite(by_donor).sum(1)
    p = np.full(len(by_donor), np.nan)
    for d in np.unique(count[count > 0]):
        at = np.flatnonzero(count == d)
        x = by_donor[at]
        x = x[np.isfinite(x)].reshape(len(at), d)
        p[at] = _flipped(x, _signs(int(d), rng), exact=d <= _EXACT)
    return p


def _signs(d: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of +1 and -1, the first column fixed at +1; the first row is the observed one when all are listed."""
    if d <= _EXACT:
        bits = (np.arange(2 ** (d - 1))[:, None] >> np.arange(d)) & 1
        signs = 1.0 - 2.0 * bits
        return np.roll(signs, 1, axis=1) if d > 1 else signs
    return rng.choice([-1.0, 1.0], size=(_DRAWN, d))


def _flipped(x: np.ndarray, signs: np.ndarray, *, exact: bool) -> np.ndarray:
    observed = np.abs(x.sum(1)) * (1 - 1e-9) - 1e-300  # equal sums that rounding tells apart count as equal
    step = max(1, _AT_ONCE // len(signs))
    hits = np.concatenate([(np.abs(x[i : i + step] @ signs.T) >= observed[i : i + step, None]).sum(1) for i in range(0, len(x), step)])
    return hits / len(signs) if exact else (hits + 1) / (len(signs) + 1)


def fdr(p: np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg's adjusted p; NaN stays NaN and does not count."""
    from scipy.stats import false_discovery_control

    adjusted = np.full(len(p), np.nan)
    good = np.isfinite(p)
    if good.any():
        adjusted[good] = false_discovery_control(p[good])
    return adjusted
