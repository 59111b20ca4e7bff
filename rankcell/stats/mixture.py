"""Two Gaussian components of the mean effects: impact, or none."""

from dataclasses import dataclass

import numpy as np

from rankcell.wording import note

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


def impact(effect: np.ndarray, keep: np.ndarray, *, is_size: bool, seed: int, error: np.ndarray | None = None) -> Impact:
    """Two-component Gaussian mixture of the mean effects by expectation maximisation: the posterior of the component of the larger mean.

    Where the components differ in width, the wider one wins at both ends, so that the smallest effects of all could be called
    impact. The log odds are a parabola in the effect: effects beyond its turning point get the posterior of that point, so that
    the posterior never falls as the effect rises.

    error
        Standard error of each effect that is of prediction, where the screen was fast. The widths of the components hold what the
        typical (median) edit has of it; where an edit has more, both are wider for it by the difference, so that it says less.
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
    if error is None:
        posterior[at] = two.predict_proba(_clip_at_turn(y, two.means_[[low, high], 0], two.covariances_[[low, high], 0, 0]))[:, high]
    else:
        own = (np.log1p((error[at] / effect[at]) ** 2) if is_size else error[at] ** 2) / scale**2
        variance = two.covariances_[[low, high], 0, 0][:, None] + np.maximum(own - np.median(own), 0)
        posterior[at] = _posterior(y[:, 0], two.weights_[[low, high]], two.means_[[low, high], 0], variance)
    if gain <= 0:
        note(
            f"one Gaussian fits the effects as well as two (BIC better by {-gain:.1f}): the screen does not show two groups of edits, "
            "so impact_posterior means little"
        )
    parts = [
        (float(two.weights_[i]), float(two.means_[i, 0] * scale + centre), float(np.sqrt(two.covariances_[i, 0, 0]) * scale))
        for i in (low, high)
    ]
    return Impact(posterior, parts[0], parts[1], float(gain))


def _posterior(y: np.ndarray, weight: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Posterior of the second of two components, with a `variance` [2, edits] per edit."""
    from scipy.special import expit
    from scipy.stats import norm

    clipped = np.array([_clip_at_turn(np.array([v]), mean, s)[0] for v, s in zip(y, variance.T, strict=True)])
    odds = [np.log(w) + norm.logpdf(clipped, m, np.sqrt(s)) for w, m, s in zip(weight, mean, variance, strict=True)]
    return expit(odds[1] - odds[0])


def _clip_at_turn(y: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Clip values at the turning point of the log odds; `mean`, `variance`: of none, then of impact."""
    bend = 1 / variance[0] - 1 / variance[1]
    if abs(bend) < 1e-12:
        return y
    turn = (mean[0] / variance[0] - mean[1] / variance[1]) / bend
    return np.maximum(y, turn) if bend > 0 else np.minimum(y, turn)
