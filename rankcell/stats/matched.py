"""An edit against its peers: within each cell the genes nearest in rank, across cells the edits alike in rank and detection.

Why two steps: rank belongs to a gene in a cell, detection to a gene. The first is matched inside the cell, the second between
edits. Why an edit is compared with the *spread* of its peers and not only with their mean: a model gives every gene some effect
of its own, the same in cell after cell, so with enough cells each gene differs from the mean of its peers beyond doubt, in a
model with random weights too. What a screen can say is which genes stand out among their peers.
"""

from dataclasses import dataclass

import numpy as np

from rankcell.scores import Score
from rankcell.stats.replicates import LEAST_REPLICATES, Means
from rankcell.stats.screen_rows import Rows

NEAREST = 25  # neighbours on each side in a cell
LEAST = 10  # fewest neighbours, and fewest peers, that make a comparison
PEERS = 100  # edits that one edit is compared with
_CLIP, _TO_SD = 4.0, 1.4826
_PRIOR_DF = 10.0
_CHI2_MEDIAN = 0.45493642311957283
_MEDIAN_EFFICIENCY = 0.37
_LEAST_ROWS, _HEAVIEST = 5, 50.0


@dataclass(frozen=True)
class Residuals:
    """Residuals of the rows: `z`, by how many standard deviations of its neighbours the effect differs from what their ranks predict
    (sizes on the log scale); `diff`, the effect less that prediction, in the score's own unit. NaN without enough neighbours.

    error
        Of a fast screen: the scale of the prediction error in units of z, 0 where the row was run; else None.
    """

    z: np.ndarray
    diff: np.ndarray
    error: np.ndarray | None = None


def residuals(rows: Rows, score: str) -> Residuals:
    """Studentised residual of each row from a local regression on the `NEAREST` genes on either side of it in its cell's rank order.

    At the ends of the order the nearest there are. A line in log(1 + rank) is fitted without the row itself; z is the externally studentised residual
    (Cook and Weisberg 1982, section 2.2). Neighbours further than 4 robust standard deviations out are pulled in first.
    """
    fast, is_size = rows.predicted.get(score), Score.parse(score).is_size
    result = Residuals(*(np.full(len(rows), np.nan) for _ in range(2)), None if fast is None else np.full(len(rows), np.nan))
    kinds = rows.edits["kind"].astype("category").cat.codes.to_numpy().astype(np.int64)
    for piece in rows.pieces():
        effect = rows.effect(score, piece)
        at, effect = piece[np.isfinite(effect)], effect[np.isfinite(effect)]
        group = rows.cell[at] * (kinds.max() + 1) + kinds[rows.edit[at]]  # kinds are not compared with one another
        order = np.lexsort((rows.x(at), group))
        at, y, group = at[order], effect[order], group[order]
        used = log_size(y, group) if is_size else y
        keep = np.isfinite(used)
        at, y, used = at[keep], y[keep], used[keep]
        predicted, result.z[at], sd = _against_neighbours(group[keep], rows.x(at), used)
        result.diff[at] = y - (np.exp(predicted) if is_size else predicted)
        if fast is not None:
            scale = fast.scale[at]
            result.error[at] = (log_error(scale, np.exp(used)) if is_size else scale) / sd
    return result


def log_error(scale: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The standard deviation of a log whose argument `size` has the standard deviation `scale` (of a log-normal one)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(np.log1p(np.where(scale > 0, scale / size, 0.0) ** 2))


def log_size(effect: np.ndarray, group: np.ndarray) -> np.ndarray:
    """log of effects that are sizes; what is below a thousandth of its group's median (rounding error, zero) is set to that.

    group
        In order. NaN where the group's median is not positive.
    """
    floor = 1e-3 * _median_by(effect, group)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(floor > 0, np.log(np.maximum(effect, floor)), np.nan)


def _median_by(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """For each entry the median of its group; no NaN."""
    import pandas as pd

    return pd.Series(values, dtype=float).groupby(group, sort=False).transform("median").to_numpy()


def _runs(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    start = np.flatnonzero(np.r_[True, np.diff(group) != 0])
    return start, np.diff(np.r_[start, len(group)])


def from_neighbours(group: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Leave-one-out prediction of each entry by its neighbours in its group (entries in order of group and x); NaN with too few."""
    return _against_neighbours(group, x, y)[0]


def _against_neighbours(group: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(prediction, studentised residual, its unit) of each y from its neighbours; entries in order of group and x."""
    if not len(y):
        return y, y, y
    window = _Window.of(group, x)
    fitted, _, _ = window.fit(y)
    far = _CLIP * _TO_SD * _median_by(np.abs(y - fitted), group)
    calm = fitted + np.clip(y - fitted, -far, far)
    fitted, leverage, sse = window.fit(calm)
    with np.errstate(invalid="ignore", divide="ignore"):
        own = (calm - fitted) / (1 - leverage)  # as if the row had not been in the fit
        predicted = calm - own
        variance = (sse - own * (calm - fitted)) / (window.n - 3)
        sd = np.sqrt(variance / (1 - leverage))
        z = (y - predicted) / sd
    enough = (window.n > LEAST) & (leverage < 1 - 1e-9) & (variance > 1e-24 * y**2) & (variance > 0)
    return np.where(enough, predicted, np.nan), np.where(enough, z, np.nan), np.where(enough, sd, np.nan)


@dataclass(frozen=True)
class _Window:
    """The neighbours of each entry, itself included: from `lo` to `hi`, their number `n`, and where it stands among them."""

    lo: np.ndarray
    hi: np.ndarray
    n: np.ndarray
    x: np.ndarray  # less the mean of the group, so that sums of squares keep their digits
    sx: np.ndarray
    sxx: np.ndarray

    @classmethod
    def of(cls, group: np.ndarray, x: np.ndarray) -> "_Window":
        start, size = _runs(group)
        begin, n = np.repeat(start, size), np.repeat(size, size)
        width = np.minimum(2 * NEAREST + 1, n)
        lo = np.clip(np.arange(len(x)) - NEAREST, begin, begin + n - width)
        x = x - np.repeat(np.add.reduceat(x, start) / size, size)
        total, squares = _sums(x, lo, lo + width), _sums(x * x, lo, lo + width)
        return cls(lo, lo + width, width.astype(float), x, total, np.maximum(squares - total**2 / width, 0))

    def fit(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(value of the window's line at its entry, leverage of the entry, sum of squared residuals); level where x is all one."""
        sy, sxy, syy = (_sums(v, self.lo, self.hi) for v in (y, self.x * y, y * y))
        level = self.sxx <= 1e-9 * self.n
        away = np.where(level, 0, self.x - self.sx / self.n)
        sxx = np.where(level, 1, self.sxx)
        slope = np.where(level, 0, (sxy - self.sx * sy / self.n) / sxx)
        sse = np.maximum(syy - sy**2 / self.n - slope**2 * sxx, 0)
        return sy / self.n + slope * away, 1 / self.n + away**2 / sxx, sse


def _sums(v: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
    total = np.concatenate([[0.0], np.cumsum(v)])
    return total[hi] - total[lo]


@dataclass(frozen=True)
class PeerComparison:
    """Comparison of each edit with its peers: `z`, two-sided `p`, `n_peers`, and `spread`, the standard deviation between edits
    that is not sampling (of the mean studentised residual)."""

    z: np.ndarray
    p: np.ndarray
    n_peers: np.ndarray
    centre: np.ndarray
    spread: float


def compare_to_peers(m: Means, mean_rank: np.ndarray, detection: np.ndarray, *, heavy: float = 0.0) -> PeerComparison:
    """Test of each edit's mean residual against those of the `PEERS` edits nearest in mean rank and detection (empirical null).

    z = (T - median of the peers' T) / (s * sqrt(spread^2 + v)): v is the sampling variance of T over its replicates, shrunk
    toward the one that all edits share (as if that had 10 degrees of freedom); spread^2 the variance between all edits; s the
    scale of the peers, near 1 where one spread fits all. Both are robust: such that the median of z^2 is that of a chi-square
    with one degree of freedom (in the manner of Efron 2004's empirical null), so that a few real effects do not widen them.
    p from Student's t with 0.37 degrees of freedom a peer (what a median of squares is worth beside their mean), and fewer for
    edits of few replicates where those have heavy tails; NaN below `LEAST_REPLICATES` replicates. What the replicates of an edit share by error (`m.common`) is part of v,
    so that it is judged by each edit's own and not by what its peers have on average.

    heavy
        Excess kurtosis of single replicates around their edit's mean; that of a mean of n is heavy / n times the square of the
        share that sampling has in its variance, and the t that is taken has that kurtosis more.
    """
    from scipy.stats import t

    n = len(m.n)
    z, centre, peers = np.full(n, np.nan), np.full(n, np.nan), np.zeros(n, np.int64)
    at = np.flatnonzero(np.isfinite(m.mean) & np.isfinite(detection))
    if len(at) <= LEAST:
        return PeerComparison(z, z.copy(), peers, centre, float("nan"))
    values, near = m.mean[at], _nearest(mean_rank[at], detection[at])
    centre[at] = np.median(values[near], axis=1)
    off = values - centre[at]
    sampling = _sampling(m)[at]
    noise = sampling if m.common is None else sampling + m.common[at]
    spread2 = _between(off, noise)
    rough = off / np.sqrt(np.maximum(spread2 + noise, 1e-300))
    scale = np.sqrt(np.median(rough[near] ** 2, axis=1) / _CHI2_MEDIAN)
    with np.errstate(invalid="ignore", divide="ignore"):
        z[at] = np.where(scale > 0, rough / (scale * np.sqrt(1 + np.pi / 2 / near.shape[1])), np.nan)
    peers[at] = near.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        excess = heavy / m.n[at] * np.nan_to_num(sampling / (spread2 + noise)) ** 2
        if m.common is not None:
            excess += m.common_heavy * np.nan_to_num(m.common[at] / (spread2 + noise)) ** 2
    df = np.full(n, np.nan)
    df[at] = _tails(_MEDIAN_EFFICIENCY * near.shape[1], excess)
    at_median = t.ppf(0.75, df) / t.ppf(0.75, _MEDIAN_EFFICIENCY * max(near.shape[1], 1))  # the scale was fitted at the median
    p = np.where(m.n >= LEAST_REPLICATES, 2 * t.sf(np.abs(z) * at_median, df), np.nan)
    return PeerComparison(z, p, peers, centre, float(np.sqrt(spread2)))


def _tails(df: float, excess: np.ndarray) -> np.ndarray:
    """Degrees of freedom of a t with `excess` kurtosis more than one of `df`: the excess of t is 6 / (df - 4)."""
    if df <= 4.5:
        return np.full(len(excess), df)
    return 4 + 6 / (6 / (df - 4) + excess)


def excess_kurtosis(edit: np.ndarray, values: np.ndarray, m: Means) -> float:
    """Excess kurtosis of rows around the mean of their edit, of the edits with at least five: between 0 and 50."""
    good = np.isfinite(values)
    good[good] = m.n[edit[good]] >= _LEAST_ROWS
    off = values[good] - m.mean[edit[good]]
    second = (off**2).mean() if len(off) else 0.0
    return float(np.clip((off**4).mean() / second**2 - 3, 0, _HEAVIEST)) if second > 0 else 0.0


def _nearest(mean_rank: np.ndarray, detection: np.ndarray) -> np.ndarray:
    """Nearest neighbours of each edit in the ranks of mean rank and detection, itself left out: codes [edits, peers]."""
    from scipy.spatial import cKDTree
    from scipy.stats import rankdata

    behind = np.where(np.isfinite(mean_rank), mean_rank, np.inf)  # genes that no cell shows
    places = np.column_stack([rankdata(behind), rankdata(detection)])
    k = min(PEERS, len(places) - 1)
    _, nearest = cKDTree(places).query(places, k + 1)
    own = nearest == np.arange(len(places))[:, None]
    own[~own.any(1), -1] = True  # many at one place: the edit itself is not among the nearest, so the last makes room
    return nearest[~own].reshape(len(places), k)


def _sampling(m: Means) -> np.ndarray:
    """Variance of each mean over its replicates, the variance of one replicate shrunk toward the common one."""
    df = np.maximum(m.n - 1.0, 0)
    known = np.isfinite(m.var)
    pooled = float((m.var[known] * df[known]).sum() / df[known].sum()) if known.any() else 1.0
    own = np.where(known, m.var, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (_PRIOR_DF * pooled + df * own) / (_PRIOR_DF + df) / m.n


def _between(off: np.ndarray, noise: np.ndarray) -> float:
    """The variance s2 >= 0 between edits for which the median of off^2 / (s2 + noise) is a chi-square's."""
    low, high = 0.0, float(np.median(off**2) / _CHI2_MEDIAN) + 1e-300

    def over(s2: float) -> bool:
        return np.median(off**2 / np.maximum(s2 + noise, 1e-300)) > _CHI2_MEDIAN

    if not over(low):
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if over(middle) else (low, middle)
    return high
