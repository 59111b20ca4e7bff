"""Two Gaussian components of the mean effects: impact, or none."""

import warnings
from dataclasses import dataclass

import numpy as np

from rankcell.errors import RankcellWarning

_LEAST_EDITS = 10


@dataclass(frozen=True)
class Impact:
    """`posterior`: the probability that an edit belongs to the component of the larger effects; NaN for edits left out.

    none, impact
        (weight, mean, sd) of the two components, of log effects where these are sizes; None where nothing could be fitted.
    bic_gain
        BIC of one Gaussian less that of two: above zero, the two components fit better.
    """

    posterior: np.ndarray
    none: tuple[float, float, float] | None = None
    impact: tuple[float, float, float] | None = None
    bic_gain: float = float("nan")

    def columns(self) -> dict[str, np.ndarray]:
        return {"impact_posterior": self.posterior, "impact": self.posterior > 0.5}


def impact(effect: np.ndarray, keep: np.ndarray, *, is_size: bool, seed: int) -> Impact:
    """Fit both components by expectation maximisation and say which edits are in that of the larger mean.

    Where the components differ in width, the wider one wins at both ends, so that the smallest effects of all could be called
    impact. The log odds are a parabola in the effect: effects beyond its turning point get the posterior of that point, so that
    the posterior never falls as the effect rises.
    """
    from sklearn.mixture import GaussianMixture

    posterior = np.full(len(effect), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        x = np.where(effect > 0, np.log(effect), np.nan) if is_size else effect
    at = np.flatnonzero(np.isfinite(x) & keep)
    if len(at) < _LEAST_EDITS or len(np.unique(x[at])) < 3:
        return Impact(posterior)
    centre, scale = x[at].mean(), x[at].std()
    y = ((x[at] - centre) / scale)[:, None]
    two = GaussianMixture(2, random_state=seed, n_init=5, max_iter=1000).fit(y)
    gain = GaussianMixture(1).fit(y).bic(y) - two.bic(y)
    low, high = np.argsort(two.means_[:, 0])
    posterior[at] = two.predict_proba(_held(y, two.means_[[low, high], 0], two.covariances_[[low, high], 0, 0]))[:, high]
    if gain <= 0:
        warnings.warn(
            f"one Gaussian fits the effects as well as two (BIC better by {-gain:.1f}): the screen does not show two groups of edits, "
            "so impact_posterior means little",
            RankcellWarning,
            stacklevel=2,
        )
    parts = [
        (float(two.weights_[i]), float(two.means_[i, 0] * scale + centre), float(np.sqrt(two.covariances_[i, 0, 0]) * scale))
        for i in (low, high)
    ]
    return Impact(posterior, parts[0], parts[1], float(gain))


def _held(y: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Values with those beyond the turning point of the log odds set to it; `mean`, `variance`: of none, then of impact."""
    bend = 1 / variance[0] - 1 / variance[1]
    if abs(bend) < 1e-12:
        return y
    turn = (mean[0] / variance[0] - mean[1] / variance[1]) / bend
    return np.maximum(y, turn) if bend > 0 else np.minimum(y, turn)
