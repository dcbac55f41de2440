"""What a batch's own history says about success rates: the Beta prior of greatest likelihood.

Successes out of trials that share a Beta(α, β) prior are beta-binomial. Its log-likelihood is a sum of
log(α + j), log(β + j) and −log(α + β + j) over counts (Minka, "Estimating a Dirichlet distribution", 2000), so
that no special functions are needed: how many counts exceed j is all that matters, and is the same for any number
of prompts. What lies beyond LONG counts follows Stirling's series. It is climbed by Newton's method in log α and log β.
"""

from __future__ import annotations

import math

import numpy as np

from ..specs.arrays import Floats, Integers
from .machine import compiled, integer, integers, none, out_real_table, out_reals, real, real_table

LIMITS = (1e-2, 1e3)
"""α and β stay within these: a batch without any failure, or without any spread, would send them to 0 or ∞."""
STEPS = 100
FLAT, DAMPING = 1e-9, 1e-3
"""Determinants that are too small to tell, and the share of the curvature that is then added to it."""
LONG = 4096
"""Counts whose terms are added up one by one."""


def fit_beta(successes: Integers, trials: Integers) -> tuple[float, float]:
    """α and β of greatest likelihood; (1, 1), the flat prior, where there is no history at all.

    Takes O(prompts) for the counts and O(trials of a prompt) a step.
    """
    most = int(trials.max(initial=0))
    if most == 0:
        return 1.0, 1.0
    point = np.empty(2)
    low, high = math.log(LIMITS[0]), math.log(LIMITS[1])
    _fit(successes, trials, min(most, LONG), low, high, STEPS, point)
    alpha, beta = (
        LIMITS[0] if entry <= low else LIMITS[1] if entry >= high else math.exp(entry) for entry in point.tolist()
    )
    return alpha, beta


def fit_notes(prior: tuple[float, float], trials: Integers) -> tuple[str, ...]:
    """What a user should know of a prior that was fitted: where the history says too little."""
    if not trials.any():
        return ("there is no history to fit the prior to: it is flat, Beta(1, 1)",)
    if prior[0] in LIMITS or prior[1] in LIMITS:
        return ("the history has too little spread to fit the prior: it lies at the limit of the fit",)
    return ()


@compiled(none(integers, integers, integer, out_real_table))
def _count(successes: Integers, trials: Integers, width: int, tails: Floats) -> None:
    """(3 × width) how many successes, failures and trials exceed j, for j = 0, 1, …"""
    for row in range(len(trials)):
        for kind in range(3):
            count = successes[row] if kind == 0 else trials[row] - successes[row] if kind == 1 else trials[row]
            if count > 0:
                tails[kind, min(count, width) - 1] += 1.0
    for kind in range(3):
        for j in range(width - 2, -1, -1):
            tails[kind, j] += tails[kind, j + 1]


@compiled(none(real, integers, integers, integer, integer, out_reals))
def _beyond(shape: float, successes: Integers, trials: Integers, kind: int, width: int, sums: Floats) -> None:
    """Adds Σ log(shape + j), Σ 1/(shape + j) and Σ 1/(shape + j)² over width ≤ j < count, by Euler and Maclaurin."""
    for row in range(len(trials)):
        count = successes[row] if kind == 0 else trials[row] - successes[row] if kind == 1 else trials[row]
        if count > width:
            low, high = shape + width, shape + count
            sums[0] += (high - 0.5) * math.log(high) - high - (low - 0.5) * math.log(low) + low
            sums[0] += (1.0 / high - 1.0 / low) / 12.0
            sums[1] += math.log(high / low) - 0.5 / high + 0.5 / low - (1.0 / high**2 - 1.0 / low**2) / 12.0
            sums[2] += 1.0 / low - 1.0 / high + 0.5 / low**2 - 0.5 / high**2 + (1.0 / low**3 - 1.0 / high**3) / 6.0


@compiled(none(real, real, real_table, integers, integers, out_reals))
def _likelihood(a: float, b: float, tails: Floats, successes: Integers, trials: Integers, found: Floats) -> None:
    """Log-likelihood at log α and log β, its gradient (2) and its Hessian (3: αα, αβ, ββ)."""
    width = tails.shape[1]
    shapes, sums = (math.exp(a), math.exp(b), math.exp(a) + math.exp(b)), np.zeros((3, 3))
    for kind in range(3):
        shape = shapes[kind]
        for j in range(width):
            if tails[kind, j] == 0.0:
                break
            at = shape + j
            sums[kind, 0] += tails[kind, j] * math.log(at)
            sums[kind, 1] += tails[kind, j] / at
            sums[kind, 2] += tails[kind, j] / (at * at)
        if width == LONG:
            _beyond(shape, successes, trials, kind, width, sums[kind])
    alpha, beta = shapes[0], shapes[1]
    found[0] = sums[0, 0] + sums[1, 0] - sums[2, 0]
    found[1] = (sums[0, 1] - sums[2, 1]) * alpha
    found[2] = (sums[1, 1] - sums[2, 1]) * beta
    found[3] = (sums[2, 2] - sums[0, 2]) * alpha * alpha + found[1]
    found[4] = sums[2, 2] * alpha * beta
    found[5] = (sums[2, 2] - sums[1, 2]) * beta * beta + found[2]


@compiled(none(integers, integers, integer, real, real, integer, out_reals))
def _fit(successes: Integers, trials: Integers, width: int, low: float, high: float, steps: int, point: Floats) -> None:
    """Newton's method with backtracking inside a box, from the batch's mean rate; gradient steps where it is not
    concave. A coordinate at a limit that the gradient pushes further out stays there."""
    tails, found, tried = np.zeros((3, width)), np.empty(6), np.empty(6)
    _count(successes, trials, width, tails)
    won, all_of_them = 0.5, 1.0
    for row in range(len(trials)):
        won += float(successes[row])
        all_of_them += float(trials[row])
    a, b = math.log(won / all_of_them), math.log(1.0 - won / all_of_them)
    _likelihood(a, b, tails, successes, trials, found)
    for _ in range(steps):
        free_a = not ((a <= low and found[1] < 0) or (a >= high and found[1] > 0))
        free_b = not ((b <= low and found[2] < 0) or (b >= high and found[2] > 0))
        slope_a, slope_b = found[1] if free_a else 0.0, found[2] if free_b else 0.0
        largest = max(abs(slope_a), abs(slope_b), 1e-300)
        step_a, step_b = slope_a / largest, slope_b / largest
        determinant = found[3] * found[5] - found[4] * found[4]
        if abs(determinant) <= FLAT * abs(found[3] * found[5]):
            # One trial each tells of α/(α + β) alone: damped, so that α + β stays where it is (Levenberg, 1944).
            damping = DAMPING * max(abs(found[3]), abs(found[5]))
            found[3] -= damping
            found[5] -= damping
            determinant = found[3] * found[5] - found[4] * found[4]
        if found[3] < 0 and determinant > 0:
            newton_a = (found[4] * slope_b - found[5] * slope_a) / determinant
            newton_b = (found[4] * slope_a - found[3] * slope_b) / determinant
            if math.isfinite(newton_a + newton_b) and newton_a * slope_a + newton_b * slope_b > 0:
                step_a, step_b = newton_a, newton_b
        rate, better, next_a, next_b = 1.0, False, a, b
        while rate > 1e-8 and not better:
            next_a = min(max(a + rate * step_a, low), high) if free_a else a
            next_b = min(max(b + rate * step_b, low), high) if free_b else b
            _likelihood(next_a, next_b, tails, successes, trials, tried)
            better = tried[0] > found[0]
            rate /= 2
        if not better:
            break
        gained = tried[0] - found[0]
        a, b = next_a, next_b
        found[:] = tried
        if gained < 1e-14 * abs(found[0]):
            break
    point[0], point[1] = a, b
