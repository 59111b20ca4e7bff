"""Calibration of predicted values by the exact values of a few edits, with leave-one-out values of the few.

    value = sum over predictors of (1 + b) x + s(rank)

s is a broken line over the rank whose bends are held small, b small numbers that are held near 0. How strongly, leave-one-out
decides: both are linear in the exact values, so that the value of each without itself follows from the fit of all (Allen 1974's
PRESS). Of few values a free fit may look good by chance, so that its error is counted larger by the share of them that it uses up.
Where the correction does not pay, it is left out.
"""

from dataclasses import dataclass

import numpy as np

_KNOTS = 24
_LEAST = 6  # edits run, below which nothing is corrected
_PAYS = 0.8  # of the squared error without a correction, above which it is left out
_BENDS = 10.0 ** np.arange(-4, 7)
_SLOPES = (1e-2, 1.0, 1e4)


@dataclass(frozen=True)
class Calibrated:
    """Calibrated values.

    values
        float64 [edits]: of all edits.
    leave_one_out
        float64 [run]: of those that were run, each without its own exact value.
    """

    values: np.ndarray
    leave_one_out: np.ndarray


def calibrate(predictors: np.ndarray, rank: np.ndarray, at: np.ndarray, exact: np.ndarray, *, least_factor: float = -np.inf) -> Calibrated:
    """Calibrate the predicted values of all edits by those that were run, with leave-one-out values of these.

    predictors
        float64 [edits, predictors], in the units of the value.
    rank
        [edits]: where along the cell the edit stands.
    at, exact
        int64 [run], float64 [run]: which edits were run, and their exact values.
    least_factor
        The least that 1 + b may be.
    """
    plain = predictors.sum(1)
    best = Calibrated(plain, plain[at])
    if len(at) < _LEAST or not np.isfinite(exact).all():
        return best
    floor = np.median(np.abs(plain)) + 1e-300
    weight = floor / np.hypot(plain[at], floor)
    residuals = (exact - plain[at]) * weight
    least = _PAYS * float((residuals**2).mean())
    scale = np.sqrt((predictors**2).mean(0))
    predictors = predictors[:, scale > 0] / scale[scale > 0]
    line, bends = _line(rank, min(_KNOTS, len(at)))
    basis = np.concatenate([predictors, line], axis=1)
    n = predictors.shape[1]
    run = basis[at] * weight[:, None]
    inner, aim = run.T @ run, run.T @ residuals
    for bend in _BENDS:
        for slope in _SLOPES:
            penalty = np.zeros_like(inner)
            penalty[:n, :n] = slope * np.eye(n)
            penalty[n:, n:] = bend * bends + 1e-6 * np.eye(len(bends))
            solved = np.linalg.solve(inner + penalty, np.concatenate([aim[:, None], run.T], axis=1))
            lever = np.einsum("ij,ji->i", run, solved[:, 1:])
            loo_residuals = (residuals - run @ solved[:, 0]) / np.maximum(1 - lever, 1e-3)
            error = float((loo_residuals**2).mean()) * (1 + float(lever.sum()) / len(at))
            if error < least and (1 + solved[:n, 0] / scale[scale > 0] >= least_factor).all():
                least, best = error, Calibrated(plain + basis @ solved[:, 0], exact - loo_residuals / weight)
    return best


def _line(rank: np.ndarray, knots: int) -> tuple[np.ndarray, np.ndarray]:
    """(hat functions [edits, knots], the sum of squared bends as a form [knots, knots])."""
    low, high = int(rank.min()), int(rank.max())
    along = (rank - low) / max(1, high - low) * (knots - 1)
    bends = np.diff(np.eye(knots), 2, axis=0)
    return np.maximum(0.0, 1 - np.abs(along[:, None] - np.arange(knots))), bends.T @ bends
