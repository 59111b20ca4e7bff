"""The modes of rank_edits, each a function Work -> {column: array per edit}."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rankcell.errors import SettingsError
from rankcell.near_names import near_names
from rankcell.scores import Score
from rankcell.stats.matched import LEAST, Residuals, compare_to_peers, excess_kurtosis, log_error, log_size, residuals
from rankcell.stats.mixture import impact
from rankcell.stats.replicates import LEAST_REPLICATES, Donors, Means, means, means_of_matrix, p_against_zero
from rankcell.stats.screen_rows import Rows
from rankcell.wording import note, option

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Work:
    """Input of a mode of rank_edits: rows, the estimates of their edits, and the options.

    base
        DataFrame of the edits with `mean_rank`, `detection` and `effect`.
    keep
        Which edits have enough cells to be judged.
    controls
        Codes of the control edits.
    other
        The rows of another screen.
    """

    rows: Rows
    score: str
    base: Any
    keep: np.ndarray
    donors: Donors | None
    seed: int
    controls: np.ndarray | None = None
    other: Rows | None = None

    @property
    def n_edits(self) -> int:
        return len(self.rows.edits)

    def rng(self) -> np.random.Generator:
        """A new generator: no mode's draws depend on which others run."""
        return np.random.default_rng(self.seed)

    def means(self, values: np.ndarray, error: np.ndarray | None = None) -> Means:
        """Means of row values over donors, or over cells where there are none.

        error
            Of a fast screen: the scale of each value's prediction error, 0 where it was run; None: the values are not judged.
        """
        over_replicates = means_over(self.rows, values, self.donors)
        return over_replicates if error is None else over_replicates.with_common(*common_error(self.rows, self.score, values, error, self.donors))

    @property
    def error(self) -> np.ndarray | None:
        """The scale of the prediction error of each row's effect; None for an exact screen."""
        fast = self.rows.predicted.get(self.score)
        return None if fast is None else fast.scale

    @cached_property
    def residuals(self) -> Residuals:
        return residuals(self.rows, self.score)


def means_over(rows: Rows, values: np.ndarray, donors: Donors | None) -> Means:
    if donors is None:
        return means(rows.edit, values, len(rows.edits))
    return means(rows.edit, values, len(rows.edits), donor=donors.of_cell[rows.cell], n_donors=len(donors))


def common_error(rows: Rows, score: str, values: np.ndarray, error: np.ndarray, donors: Donors | None) -> tuple[np.ndarray, float, float]:
    """(variance [edits], degrees of freedom, excess kurtosis) of the prediction error that the mean of `values` has from what an edit's errors share."""
    fast = rows.predicted[score]
    weight = means_over(rows, np.where(np.isfinite(values), error, np.nan), donors).mean
    return np.nan_to_num(weight) ** 2 * fast.variance, fast.df, fast.heavy


def intersection_union_p(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """p of the intersection-union test that both null hypotheses are wrong: the larger of the two; NaN where either is."""
    return np.where(np.isnan(one) | np.isnan(other), np.nan, np.maximum(one, other))


def matched(work: Work) -> Columns:
    """(a) Test against rank- and detection-matched genes of the same cells; NaN where all edits of a cell have one rank."""
    if _has_one_rank(work.rows):
        note(
            "all edits of a cell have the same rank (that of an anchor, or of the first gene of sets): genes alike in rank cannot be told, "
            "and there is no matched p"
        )
        none = np.full(work.n_edits, np.nan)
        return dict.fromkeys(("matched_diff", "matched_z", "matched_p"), none)
    of = work.means(work.residuals.z, work.residuals.error)
    tails = excess_kurtosis(work.rows.edit, work.residuals.z, of if work.donors is None else means_over(work.rows, work.residuals.z, None))
    comparison = compare_to_peers(of, work.base["mean_rank"].to_numpy(float), work.base["detection"].to_numpy(float), heavy=tails)
    columns = {"matched_diff": work.means(work.residuals.diff).mean, "matched_z": comparison.z}
    if work.n_edits == 1:
        note(
            f"this screen has a single edit, and an edit is compared with at least {LEAST} others alike in rank and detection: "
            "matched_diff, matched_z and matched_p are empty"
        )
    if work.donors is None:
        return columns | {"matched_p": comparison.p}
    off = means_of_matrix(of.by_donor - comparison.centre[:, None])
    off = off if of.common is None else off.with_common(of.common, of.common_df, of.common_heavy)
    p_donors = np.where(np.isfinite(comparison.p), p_against_zero(off, work.rng()), np.nan)
    return columns | {"matched_p_peers": comparison.p, "matched_p_donors": p_donors, "matched_p": intersection_union_p(comparison.p, p_donors)}


def _has_one_rank(rows: Rows) -> bool:
    """Whether no cell with two edits or more has two ranks."""
    import pandas as pd

    several = np.bincount(rows.cell) > 1
    by_cell = pd.Series(rows.rank).groupby(rows.cell)
    low, high = by_cell.min().dropna(), by_cell.max().dropna()
    several = several[low.index]
    return bool(several.any()) and bool((low == high)[several].all())


def toward(work: Work) -> Columns:
    """(c) Test of the movement toward a state against zero, and against matched genes."""
    return {"zero_p": p_against_zero(work.means(work.rows.effect(work.score), work.error), work.rng())} | matched(work)


def control(work: Work) -> Columns:
    """(b) Test against control edits in the same cells: each row less the mean of the cell's controls (itself left out)."""
    rows, controls = work.rows, work.controls
    if controls is None:
        raise SettingsError(f"mode control needs the names of the control genes: {option('controls', placeholder='A,B|@FILE')}")
    is_control = np.zeros(work.n_edits, bool)
    is_control[controls] = True
    effect = rows.effect(work.score)
    diff = work.means(less_controls(rows, effect, is_control), work.error)
    if work.error is not None:
        diff = diff.with_common(*_error_of_controls(work, effect, is_control))
    p = np.where(is_control, np.nan, p_against_zero(diff, work.rng()))
    columns = {"is_control": is_control, "control_diff": diff.mean, "control_n": diff.n}
    spread = _beyond_controls(work, effect, is_control)
    if spread is None:
        note(
            "fewer than three control edits: p says whether an effect differs from the controls' mean, not whether it is beyond what "
            "controls do; name more"
        )
        return columns | {"control_p": p}
    return columns | {"control_p_mean": p, "control_p_spread": spread, "control_p": intersection_union_p(p, spread)}


def less_controls(rows: Rows, effect: np.ndarray, is_control: np.ndarray) -> np.ndarray:
    """Each effect less the mean effect of the controls in its cell, itself left out; NaN where a cell has none."""
    own = is_control[rows.edit] & np.isfinite(effect)
    n = np.bincount(rows.cell[own], minlength=len(rows.cell_ids))[rows.cell] - own
    total = np.bincount(rows.cell[own], effect[own], len(rows.cell_ids))[rows.cell] - np.where(own, effect, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(n > 0, effect - total / n, np.nan)


def _error_of_controls(work: Work, effect: np.ndarray, is_control: np.ndarray) -> tuple[np.ndarray, float, float]:
    """(variance [edits], degrees of freedom, excess kurtosis) that the mean of the controls has from their own common errors, over all cells."""
    rows, fast = work.rows, work.rows.predicted[work.score]
    at = np.flatnonzero(is_control[rows.edit] & np.isfinite(effect))
    n = np.bincount(rows.cell[at], minlength=len(rows.cell_ids))
    weight = np.bincount(rows.edit[at], fast.scale[at] / n[rows.cell[at]], work.n_edits) / max(1, np.count_nonzero(n))
    return np.full(work.n_edits, (weight**2 * fast.variance).sum()), fast.df, fast.heavy


def _beyond_controls(work: Work, effect: np.ndarray, is_control: np.ndarray) -> np.ndarray | None:
    """p that an edit is one more control: Student's t prediction interval from the controls' own means, on the log scale for sizes."""
    from scipy.stats import t

    rows, error = work.rows, work.error
    if Score.parse(work.score).is_size:
        logs = np.full(len(rows), np.nan)
        for piece in rows.pieces():
            at = piece[np.isfinite(effect[piece])]
            logs[at] = log_size(effect[at], rows.cell[at])
        effect = logs
        error = None if error is None else log_error(error, np.exp(logs))
    m = work.means(less_controls(rows, effect, is_control), error)
    known = is_control & np.isfinite(m.mean)
    k = int(known.sum())
    if k < 3:
        return None
    centre, noise = m.mean[known].mean(), np.nan_to_num(m.var_of_mean)
    between = max(0.0, float(m.mean[known].var(ddof=1) - noise[known].mean()))
    se = np.sqrt(between + noise + (between + noise[known].mean()) / k)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * t.sf(np.abs(m.mean - centre) / se, k - 1)
    return np.where(is_control | ~(se > 0) | (m.n < LEAST_REPLICATES), np.nan, p)


def mixture(work: Work) -> Columns:
    """(d) Two-component mixture, impact or none."""
    error = work.base["prediction_se"].to_numpy(float) if "prediction_se" in work.base else None
    return impact(work.base["effect"].to_numpy(float), work.keep, is_size=Score.parse(work.score).is_size, seed=work.seed, error=error).columns()


def versus(work: Work) -> Columns:
    """Paired test against another screen of the same cells and edits (another model, layer or kind), row by row."""
    if work.other is None:
        raise SettingsError(f"mode vs needs the other screen: {option('against', placeholder='DIR')}")
    theirs = work.other.effect(next(iter(work.other.scores)))
    other = _aligned(work.rows, work.other, theirs)
    difference = work.means(apart := work.rows.effect(work.score) - other, work.error)
    for fast in work.other.predicted.values():
        difference = difference.with_common(*_error_of_other(work, fast, apart))
    if not np.isfinite(difference.mean).any():
        raise SettingsError("the two screens share no cell and edit: mode vs compares the same edits in the same cells")
    p = p_against_zero(difference, work.rng())
    return {"vs_effect": work.means(other).mean, "vs_diff": difference.mean, "vs_n": difference.n, "vs_p": p}


def _names(rows: Rows) -> list[str]:
    """Targets of the edits: each id without the kind."""
    return [str(e).removeprefix(f"{k}:") for e, k in zip(rows.edits["edit"], rows.edits["kind"], strict=True)]


def _error_of_other(work: Work, fast: Any, apart: np.ndarray) -> tuple[np.ndarray, float, float]:
    """(variance [edits], degrees of freedom, excess kurtosis) of the other screen's prediction error in the mean of the differences `apart`."""
    import pandas as pd

    scale = np.where(np.isfinite(apart), _aligned(work.rows, work.other, fast.scale), np.nan)
    at = pd.Index(_names(work.other)).get_indexer(pd.Index(_names(work.rows)))
    variance = np.where(at >= 0, fast.variance[at], 0.0)
    return np.nan_to_num(means_over(work.rows, scale, work.donors).mean) ** 2 * variance, fast.df, fast.heavy


def _aligned(rows: Rows, other: Rows, values: np.ndarray) -> np.ndarray:
    """Align the other screen's values to these rows by cell and target; NaN where it has no such row."""
    import pandas as pd

    cell = pd.Index(rows.cell_ids).get_indexer(pd.Index(other.cell_ids))[other.cell].astype(np.int64)
    edit = pd.Index(_names(rows)).get_indexer(pd.Index(_names(other)))[other.edit]
    shared = (cell >= 0) & (edit >= 0)
    n = len(rows.edits)
    by_row = pd.Series(values[shared], index=cell[shared] * n + edit[shared])
    by_row = by_row[~by_row.index.duplicated()]  # of several kinds that do something to the same genes: the first
    return by_row.reindex(rows.cell.astype(np.int64) * n + rows.edit).to_numpy()


MODES: dict[str, Callable[[Work], Columns]] = {
    "matched": matched,
    "control": control,
    "toward": toward,
    "mixture": mixture,
    "vs": versus,
}


def check_modes(modes: str | Sequence[str], known: Sequence[str] = tuple(MODES)) -> list[str]:
    """Parse `mode` into a list without repeats. SettingsError for an unknown one."""
    requested = [modes] if isinstance(modes, str) else modes
    if not isinstance(requested, (list, tuple, set)) or not all(isinstance(m, str) for m in requested):
        raise SettingsError(f"{option('mode')}: expected one or several of {', '.join(known)}, found {modes!r}")
    names = list(dict.fromkeys(m.strip() for part in requested for m in part.split(",") if m.strip()))
    for m in names:
        if m not in known:
            near = near_names(m, known)
            meant = f"; did you mean {near}? It" if near else "; it"
            raise SettingsError(f"unknown mode '{m}'{meant} is one of {', '.join(known)}, or affected alone (rc.tl.rank_affected)")
    return names
