"""What a batch's own history says about success rates: the Beta prior of greatest likelihood.

Successes out of trials that share a Beta(α, β) prior are beta-binomial. Its log-likelihood is a sum of
log(α + j), log(β + j) and −log(α + β + j) over counts (Minka, "Estimating a Dirichlet distribution", 2000), so
that no special functions are needed. It is climbed by Newton's method in log α and log β.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .program import Floats

LIMITS = (1e-2, 1e3)
"""α and β stay within these: a batch without any failure, or without any spread, would send them to 0 or ∞."""
STEPS = 100


def fit_beta(successes: NDArray[np.int64], trials: NDArray[np.int64]) -> tuple[float, float]:
    """α and β of greatest likelihood; (1, 1), the flat prior, where there is no history at all."""
    if not trials.any():
        return 1.0, 1.0
    tails = _tail(successes), _tail(trials - successes), _tail(trials)
    point, (low, high) = _start(successes, trials), np.log(LIMITS)
    value, gradient, hessian = _likelihood(point, *tails)
    for _ in range(STEPS):
        # A coordinate at a limit that the gradient pushes further out stays there.
        free = ~(((point <= low) & (gradient < 0)) | ((point >= high) & (gradient > 0)))
        step = _ascent(gradient * free, hessian)
        rate = 1.0
        while rate > 1e-8:
            trial = np.clip(point + rate * step * free, low, high)
            found = _likelihood(trial, *tails)
            if found[0] > value:
                break
            rate /= 2
        else:
            break
        gained = found[0] - value
        point, (value, gradient, hessian) = trial, found
        if gained < 1e-14 * abs(value):
            break
    alpha, beta = np.clip(np.exp(point), *LIMITS).tolist()
    return alpha, beta


def _tail(counts: NDArray[np.int64]) -> Floats:
    """How many counts exceed j, for j = 0, 1, …"""
    return len(counts) - np.cumsum(np.bincount(counts, minlength=1))[:-1].astype(np.float64)


def _start(successes: NDArray[np.int64], trials: NDArray[np.int64]) -> Floats:
    rate = (successes.sum() + 0.5) / (trials.sum() + 1.0)
    return np.log([rate, 1 - rate])


def _likelihood(point: Floats, won: Floats, lost: Floats, tried: Floats) -> tuple[float, Floats, Floats]:
    """Log-likelihood with gradient and Hessian in (log α, log β)."""
    alpha, beta = np.exp(point)
    at_alpha = alpha + np.arange(len(won))
    at_beta = beta + np.arange(len(lost))
    at_sum = alpha + beta + np.arange(len(tried))
    value = float(won @ np.log(at_alpha) + lost @ np.log(at_beta) - tried @ np.log(at_sum))
    shared, curved = float((tried / at_sum).sum()), float((tried / at_sum**2).sum())
    slope = np.array([(won / at_alpha).sum() - shared, (lost / at_beta).sum() - shared])
    scale = np.array([alpha, beta])
    second = np.diag([-(won / at_alpha**2).sum(), -(lost / at_beta**2).sum()]) + curved
    return value, slope * scale, second * np.outer(scale, scale) + np.diag(slope * scale)


def _ascent(gradient: Floats, hessian: Floats) -> Floats:
    """The Newton step, or the gradient where the function is not concave."""
    (a, b), (_, d) = hessian
    determinant = a * d - b * b
    if a < 0 and determinant > 0:
        newton = -np.array([d * gradient[0] - b * gradient[1], a * gradient[1] - b * gradient[0]]) / determinant
        if math.isfinite(newton.sum()) and newton @ gradient > 0:
            return newton
    return gradient / max(float(np.abs(gradient).max()), 1e-300)
