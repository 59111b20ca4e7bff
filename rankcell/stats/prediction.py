"""The error of a fast screen's predictions: estimated from its audit, and carried into what is counted over cells.

Of the audit only the random sample counts, each edit of it predicted without its own exact value; edits that were run because
their prediction was large are no fair sample of errors. What cells do not share of the error is in the variance between cells as
it is. What an edit has in common over cells is not, and no number of cells averages it away: that is what is estimated here.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from rankcell.errors import InputError, SettingsError
from rankcell.scores import Score, scores_in
from rankcell.stats.screen_rows import Rows, facts_of, is_table, remarks_of

LEAST_TWICE = 20  # edits audited in two cells or more below which the whole error counts as common
_BINS, _LEAST_IN_BIN = 20, 10
_HEAVIEST = 50.0


@dataclass(frozen=True)
class PredictionError:
    """The error (exact less predicted effect) of a score: scale * (u + w), u of the edit in all cells, w of the cell's edit.

    floor, growth
        scale^2 = floor^2 + (growth * predicted effect)^2: the mean square of errors at that predicted effect.
    edits, shift, variance
        Of each audited edit its id, its u as the audit has it (drawn toward 0), and the mean square error of that.
    variance_else
        The same of an edit that was not audited, whose u is taken to be 0.
    df, heavy
        Degrees of freedom of these variances, and the excess kurtosis of scaled errors (0 to 50).
    facts
        What a reader is told, in the score's unit.
    """

    floor: float
    growth: float
    edits: list[str]
    shift: list[float]
    variance: list[float]
    variance_else: float
    df: float
    heavy: float
    facts: dict[str, Any] = field(default_factory=dict)

    def scale(self, predicted: np.ndarray) -> np.ndarray:
        return np.sqrt(self.floor**2 + (self.growth * predicted) ** 2)

    def of_edits(self, ids: Any) -> tuple[np.ndarray, np.ndarray]:
        """(shift, variance) of the edits `ids`."""
        import pandas as pd

        at = pd.Index(self.edits, dtype=object).get_indexer(pd.Index(ids, dtype=object))
        shift, variance = np.r_[self.shift, 0.0], np.r_[self.variance, self.variance_else]
        return shift[at], variance[at]  # -1, not audited: the last


def fit_error(edit: np.ndarray, predicted: np.ndarray, exact: np.ndarray) -> PredictionError:
    """Fit the prediction error to the audited rows: ids of their edits, predicted and exact effects.

    The share that an edit has in common is the mean product of scaled errors of the same edit in two cells, which is unbiased and
    knows no shape: a common bias of the audit is in it. Edits weigh by what they tell of it at the estimated share. Its standard error
    is over edits. With fewer than `LEAST_TWICE` edits audited twice the share is taken to be 1 and no edit's own error is used.
    """
    import pandas as pd

    good = np.isfinite(predicted) & np.isfinite(exact)
    codes, ids = pd.factorize(np.asarray(edit, object)[good], sort=True)
    m, e = np.asarray(predicted, float)[good], (exact - predicted)[good]
    floor, growth = _spread_of_errors(m, e)
    error = PredictionError(floor, growth, [], [], [], 1.0, float(max(1, len(ids))), 0.0)
    scale = error.scale(m)
    r = np.divide(e, scale, out=np.zeros_like(e), where=scale > 0)
    k, total, squares = (np.bincount(codes, w, len(ids)) for w in (None, r, r * r))
    share, se, n_twice = _common_share(k, total, squares)
    known = n_twice >= LEAST_TWICE
    low, high = (max(0.0, share - se), min(1.0, max(0.0, share) + se)) if known else (0.0, 1.0)
    used = min(1.0, max(0.0, share)) if known else 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = np.where(used > 0, used / (used + (1 - used) / k), 0.0)
        shift, unknown_variance = drawn * total / k, [(1 - drawn) ** 2 * s + drawn**2 * (1 - s) / k for s in (low, high)]
    rms = float(np.sqrt((e**2).mean())) if len(e) else 0.0
    facts = {"audited": len(e), "edits_audited": len(ids), "edits_audited_twice": n_twice, "bias": float(e.mean()) if len(e) else 0.0}
    facts |= {"error": rms, "common_share": used if known else None, "common_share_used": high}
    facts |= {"tau": rms * float(np.sqrt(high)), "sigma": rms * float(np.sqrt(1 - used)), "floor": floor, "growth": growth}
    return replace(
        error,
        edits=[str(i) for i in ids],
        shift=shift.tolist(),
        variance=np.maximum(*unknown_variance).tolist(),
        variance_else=high,
        heavy=float(np.clip((r**4).mean() / (r**2).mean() ** 2 - 3, 0, _HEAVIEST)) if r.any() else 0.0,
        df=float(n_twice if known else max(1, len(ids))),
        facts=facts,
    )


def _spread_of_errors(m: np.ndarray, e: np.ndarray) -> tuple[float, float]:
    """(floor, growth) of the scale: squared errors on squared predictions, by bins of their size; scaled errors have mean square 1."""
    from scipy.optimize import nnls

    total = float((e**2).mean()) if len(e) else 0.0
    if total == 0:
        return 0.0, 0.0
    n_bins = min(_BINS, len(e) // _LEAST_IN_BIN)
    coefficients = np.array([total, 0.0])
    if n_bins >= 2 and (m**2).mean() > 0:
        parts = np.array_split(np.argsort(np.abs(m), kind="stable"), n_bins)
        x, y = (np.array([(v[p] ** 2).mean() for p in parts]) for v in (m, e))
        design = np.column_stack([np.ones(n_bins), x / x.mean()])
        weight = 1 / np.maximum(y, 1e-3 * total)
        fitted = nnls(design * weight[:, None], y * weight)[0]
        coefficients = fitted / [1, x.mean()] if fitted.sum() > 0 else coefficients
    coefficients = coefficients * (e**2 / np.maximum(coefficients[0] + coefficients[1] * m**2, 1e-300)).mean()
    return float(np.sqrt(coefficients[0])), float(np.sqrt(coefficients[1]))


def _common_share(k: np.ndarray, total: np.ndarray, squares: np.ndarray) -> tuple[float, float, int]:
    """(share, its standard error, number of edits that tell it) from number, sum and sum of squares of the scaled errors of each edit."""
    twice = k > 1
    k, product = k[twice], (total**2 - squares)[twice] / (k * (k - 1.0))[twice]
    if not len(k):
        return 1.0, 0.0, 0
    share = 0.5
    for _ in range(20):
        weight = (k - 1) / k / (share + (1 - share) / k) ** 2
        share = float(np.clip((weight * product).sum() / weight.sum(), 0, 1))
    estimate = float((weight * product).sum() / weight.sum())
    return estimate, float(np.sqrt((weight**2 * (product - estimate) ** 2).sum()) / weight.sum()), len(k)


# A screen's rows


@dataclass(frozen=True)
class Predicted:
    """Of one score of a screen's rows: `exact` bool [rows]; `scale` [rows] of the error, 0 where exact; `variance` [edits] of what is not
    known of the edits' common errors, in that scale; its `df`, and tails, `heavy`; `facts`."""

    exact: np.ndarray
    scale: np.ndarray
    variance: np.ndarray
    df: float
    heavy: float
    facts: dict[str, Any]

    def where(self, keep: np.ndarray) -> "Predicted":
        return replace(self, exact=self.exact[keep], scale=self.scale[keep])

    def with_more_edits(self, n: int) -> "Predicted":
        """Pad with `n` edits that have no row and no prediction."""
        return replace(self, variance=np.pad(self.variance, (0, n)))


def calibrate(rows: Rows, exact: dict[str, np.ndarray], errors: dict[str, PredictionError]) -> Rows:
    """Calibrate predicted values by their edit's error in the audit, with the remaining prediction error beside them. Sizes stay sizes."""
    scores, predicted = {}, {}
    for score, values in rows.scores.items():
        error, effect = errors[score], rows.effect(score)
        shift, variance = error.of_edits(rows.edits["edit"].astype(str))
        scale = np.where(exact[score], 0.0, error.scale(effect))
        moved = effect + scale * shift[rows.edit]
        if Score.parse(score).is_size:
            moved = np.maximum(moved, np.minimum(effect, 0))
        scores[score] = np.where(exact[score], values, Score.parse(score).effect(moved))
        predicted[score] = Predicted(exact[score], scale, variance, error.df, error.heavy, error.facts)
    return replace(rows, scores=scores, predicted=predicted)


def is_fast(columns: Sequence[str]) -> bool:
    return "exact" in columns


def with_prediction_error(rows: Rows, source: Any) -> Rows:
    """Attach the prediction error to the rows of a Screen or of a table; those of an exact screen stay as they are."""
    from rankcell.perturb.results.screen_tables import SCREEN

    is_screen = not is_table(source)
    if is_screen:
        names = [c for c in ("exact", "exact_in_place") if c in source.columns()]
        table = source.read(SCREEN, names) if is_fast(names) else {}
        flags = {c: table[c].to_numpy() for c in names} if is_fast(names) else {}
    else:
        flags = {c: source[c].to_numpy(bool) for c in ("exact", "exact_in_place") if c in source}
    if not is_fast(flags):
        return rows
    exact = {s: flags["exact_in_place" if Score.parse(s).is_in_place and "exact_in_place" in flags else "exact"] for s in rows.scores}
    errors = read_errors(source, list(rows.scores)) if is_screen else _errors_of_table(source)
    for score in rows.scores:
        _check_known(score, errors, rows, exact[score])
    return calibrate(rows, exact, errors)


def _check_known(score: str, errors: dict[str, PredictionError], rows: Rows, exact: np.ndarray) -> None:
    if score not in errors:
        of = f": one of {', '.join(errors)}" if errors else ", such as cos_genes_in_place or toward_<state>_cell"
        raise SettingsError(
            f"the audit of this fast screen does not cover '{score}', so its error is not known; rank by a score that is predicted{of}"
        )
    if not errors[score].facts["audited"] and (~exact & np.isfinite(rows.scores[score])).any():
        raise InputError(
            f"the audit of this fast screen has no sampled edit with a value of '{score}': nothing says how far its values are off"
        )


def read_errors(screen: Any, scores: Sequence[str] | None = None) -> dict[str, PredictionError]:
    """Fit the prediction error of every audited score (of `scores` alone unless None) from a fast screen's audit.parquet. InputError when it is lost."""
    from rankcell.perturb.results.screen_tables import AUDIT

    if not screen.has(AUDIT):
        raise InputError(
            f"{screen.folder} is a fast screen and has lost its {AUDIT}: how far its predictions are off is not known; screen again"
        )
    names = screen.columns(AUDIT)
    scores = [s for s in scores_in(names) if f"{s}_predicted" in names and (scores is None or s in scores)]
    drawn = {s: drawn_column(s, names) for s in scores}
    columns = ["edit", *dict.fromkeys(drawn.values()), *scores, *(f"{s}_predicted" for s in scores)]
    table = screen.read(AUDIT, columns).to_pandas()
    errors = {}
    for s in scores:
        sample = table[table[drawn[s]].to_numpy(bool)]
        values = (sample[c].to_numpy(float, na_value=np.nan) for c in (f"{s}_predicted", s))
        errors[s] = fit_error(sample["edit"].astype(str).to_numpy(), *(np.asarray(Score.parse(s).effect(v)) for v in values))
    return errors


def drawn_column(score: str, names: Sequence[str]) -> str:
    """The column that says whether an edit was drawn for the audit of the score's own pass: drawn for one, it may have been run in the
    other because its prediction was large."""
    own = "sampled_in_place" if Score.parse(score).is_in_place else "sampled_whole"
    return own if own in names else "sampled"


class Shared(dict):
    """A dict that is not copied with the table in whose attrs it stands: pandas copies attrs at every step, also for each group."""

    def __deepcopy__(self, memo: Any) -> "Shared":
        return self


def attrs_of(screen: Any) -> dict[str, Any]:
    """What the table of a screen must carry in `attrs` so that it is ranked as its folder is: `facts`, of a fast one `prediction`, and
    what is to be said of the model.
    """
    from rankcell.perturb.results.screen_tables import AUDIT, SCREEN

    counts = screen.read(SCREEN, ["edit"], read_dictionary=["edit"])["edit"].value_counts()
    rows, names = counts.field("counts").to_numpy(), counts.field("values").to_pylist()
    attrs: dict[str, Any] = {"facts": Shared(facts_of(screen, rows, names))} | remarks_of(screen)
    if is_fast(screen.columns()) and screen.has(AUDIT):
        attrs["prediction"] = Shared({score: asdict(error) for score, error in read_errors(screen).items()})
    return attrs


def _errors_of_table(table: Any) -> dict[str, PredictionError]:
    if "prediction" not in table.attrs:
        raise InputError(
            "this table is of a fast screen and has lost what its audit says (attrs['prediction'] of rc.get.screen_df): "
            "give the results folder, or copy attrs from the first table"
        )
    return {score: PredictionError(**error) for score, error in table.attrs["prediction"].items()}
