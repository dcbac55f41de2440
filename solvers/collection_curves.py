"""Learning curves: how a group's loss falls with its samples, evaluated anywhere and fitted to observations.

Two models are fitted to each group alone, by weighted least squares (`collection_beliefs.py` has a third, fitted to
all groups together): power laws, loss = asymptote + scale·n^−exponent with all three at least 0; and, for curves that
are none, any function that falls and flattens in log n, piecewise linear with bends at the observations (least squares
under such constraints: Hildreth, 1954; solved as nonnegative least squares by the active set of Lawson and Hanson,
1974). Both are convex in n, as the solvers need.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..specs.arrays import Floats, Integers
from ..specs.errors import BackendError

EXPONENTS = (1e-3, 4.0)
"""Exponents looked for. Below, a power law is no different from its asymptote; above, from a step."""
GRID = 240
"""Exponents tried before the best is refined."""
REFINEMENTS = 80
"""Golden-section steps of that refinement: enough to exhaust float64."""
NEGLIGIBLE = 1e-12
"""Relative to the largest observed loss: a fitted scale or weight below this is none."""


class Curves(Protocol):
    """The learning curves of all groups."""

    def loss(self, group: Integers, samples: Integers) -> Floats:
        """(k,) losses of (k,) groups at (k,) samples."""
        ...

    def fall(self, group: Integers, samples: Integers, further: int) -> Floats:
        """(k,) loss less loss after so many further samples, to full relative precision where it is tiny."""
        ...


@dataclass(frozen=True)
class PowerLawCurves:
    """loss(n) = asymptote + scale·n^−exponent, (groups,) each; at 0 samples `at_zero`."""

    asymptote: Floats
    scale: Floats
    exponent: Floats
    at_zero: Floats | None = None

    def loss(self, group: Integers, samples: Integers) -> Floats:
        """(k,) losses of (k,) groups at (k,) samples."""
        count = np.maximum(samples, 1).astype(np.float64)
        loss = self.asymptote[group] + self.scale[group] * count ** -self.exponent[group]
        return loss if self.at_zero is None else np.where(samples > 0, loss, self.at_zero[group])

    def fall(self, group: Integers, samples: Integers, further: int) -> Floats:
        """(k,) loss less loss after so many further samples, to full relative precision where it is tiny."""
        count, exponent = np.maximum(samples, 1).astype(np.float64), self.exponent[group]
        fall = self.scale[group] * count**-exponent * -np.expm1(-exponent * np.log1p(further / count))
        if self.at_zero is None:
            return fall
        return np.where(samples > 0, fall, self.at_zero[group] - self.loss(group, np.full(len(group), further)))


@dataclass(frozen=True)
class ConvexCurves:
    """loss(n) = max(0, level − slope·log n + Σ_k weight_k·max(0, log bend_k − log n)).

    level, slope: (groups,). bend: (groups × bends) samples at the bends; weight: the same shape, 0 where none.
    """

    level: Floats
    slope: Floats
    bend: Integers
    weight: Floats

    def loss(self, group: Integers, samples: Integers) -> Floats:
        """(k,) losses of (k,) groups at (k,) samples."""
        log = np.log(np.maximum(samples, 1).astype(np.float64))
        loss = self.level[group] - self.slope[group] * log
        for bend, weight in zip(self.bend.T, self.weight.T, strict=True):
            loss += weight[group] * np.maximum(np.log(bend[group]) - log, 0.0)
        return np.maximum(loss, 0.0)

    def fall(self, group: Integers, samples: Integers, further: int) -> Floats:
        """(k,) loss less loss after so many further samples, to full relative precision where it is tiny."""
        count = np.maximum(samples, 1).astype(np.float64)
        growth = np.log1p(further / count)
        fall = self.slope[group] * growth
        for bend, weight in zip(self.bend.T, self.weight.T, strict=True):
            until = np.maximum(np.log(bend[group] / count), 0.0)
            fall += weight[group] * np.minimum(growth, until)
        return np.minimum(fall, self.loss(group, samples))


@dataclass(frozen=True)
class Sightings:
    """Observed losses, sorted by group: (observations,) each; weight is 1/stderr², scaled to at most 1.

    starts: (groups + 1,) where each group's observations begin. Every group has some.
    stderr: None where it is not known.
    """

    group: Integers
    samples: Integers
    loss: Floats
    weight: Floats
    starts: Integers
    stderr: Floats | None = None

    def total(self, values: Floats) -> Floats:
        """The sums of (observations, ...) values over each group's."""
        return np.add.reduceat(values, self.starts[:-1], axis=0)

    def error(self, curves: Curves) -> Floats:
        """(groups,) root of the weighted mean squared residual."""
        residual = self.loss - curves.loss(self.group, self.samples)
        return np.sqrt(self.total(self.weight * residual**2) / self.total(self.weight))


def sightings(group: Integers, samples: Integers, loss: Floats, stderr: Floats | None, groups: int) -> Sightings:
    """Observations in any order, as the fits want them."""
    order = np.argsort(group, kind="stable")
    weight = np.ones(len(group)) if stderr is None else (stderr.min(initial=np.inf) / stderr) ** 2
    starts = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=groups))]).astype(np.int64)
    error = None if stderr is None else stderr[order]
    return Sightings(group[order], samples[order], loss[order], weight[order], starts, error)


def fit_power_laws(seen: Sightings) -> PowerLawCurves:
    """The power law nearest to each group's observations, in the weighted square.

    For a fixed exponent that is least squares in two nonnegative variables, in closed form; the exponent is
    searched on a grid in its logarithm and refined by golden section. A curve that does not fall gets scale 0
    and exponent 1.
    """
    grid = np.linspace(math.log(EXPONENTS[0]), math.log(EXPONENTS[1]), GRID)
    misfit, _, _ = _linear_parts(seen, np.broadcast_to(grid, (len(seen.starts) - 1, GRID)))
    best = misfit.argmin(axis=1)
    left, right = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, GRID - 1)]
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(REFINEMENTS):
        inner = np.stack([right - golden * (right - left), left + golden * (right - left)], axis=1)
        misfit, _, _ = _linear_parts(seen, inner)
        lower = misfit[:, 0] <= misfit[:, 1]
        left, right = np.where(lower, left, inner[:, 0]), np.where(lower, inner[:, 1], right)
    # The grid's own ends and best point stand beside the refined one.
    tried = np.stack([grid[best], (left + right) / 2], axis=1)
    misfit, asymptote, scale = _linear_parts(seen, tried)
    row, chosen = np.arange(len(best)), misfit.argmin(axis=1)
    flat = scale[row, chosen] <= NEGLIGIBLE * np.maximum.reduceat(seen.loss, seen.starts[:-1])
    mean = seen.total(seen.weight * seen.loss) / seen.total(seen.weight)
    return PowerLawCurves(
        np.where(flat, mean, asymptote[row, chosen]),
        np.where(flat, 0.0, scale[row, chosen]),
        np.where(flat, 1.0, np.exp(tried[row, chosen])),
    )


def _linear_parts(seen: Sightings, log_exponent: Floats) -> tuple[Floats, Floats, Floats]:
    """(groups × k) least weighted squares, and their asymptotes and scales, at (groups × k) fixed exponents."""
    width = np.diff(seen.starts)
    power = seen.samples[:, None] ** -np.exp(np.repeat(log_exponent, width, axis=0))
    weight, loss = seen.weight[:, None], seen.loss[:, None]
    mass = seen.total(weight)
    middle, mean = seen.total(weight * power) / mass, seen.total(weight * loss) / mass
    aside, above = power - np.repeat(middle, width, axis=0), loss - np.repeat(mean, width, axis=0)
    spread, common = seen.total(weight * aside**2), seen.total(weight * aside * above)
    scale = np.maximum(common, 0.0) / np.where(spread > 0, spread, 1.0)
    asymptote = mean - scale * middle
    # Below zero, the asymptote stays at zero, and the scale alone does what it can.
    alone = seen.total(weight * power * loss) / seen.total(weight * power**2)
    scale = np.where(asymptote < 0, alone, scale)
    asymptote = np.maximum(asymptote, 0.0)
    residual = np.repeat(asymptote, width, axis=0) + np.repeat(scale, width, axis=0) * power - loss
    return seen.total(weight * residual**2), asymptote, scale


def fit_convex(seen: Sightings, look: Callable[[], None] | None = None) -> ConvexCurves:
    """The function nearest to each group's observations that falls and flattens in log n.

    Beyond the last observation it falls on with the slope it has there, down to 0 at most. Takes time with the fourth
    power of a group's observations at worst; `look` is called in every step, and raises where there is no more time.
    """
    fits = [_fit_one(seen, slice(*seen.starts[group : group + 2]), look) for group in range(len(seen.starts) - 1)]
    bends = max((len(bend) for _, _, bend, _ in fits), default=0)
    bend, weight = np.ones((len(fits), bends), np.int64), np.zeros((len(fits), bends))
    for group, (_, _, samples, weights) in enumerate(fits):
        bend[group, : len(samples)], weight[group, : len(samples)] = samples, weights
    return ConvexCurves(np.array([fit[0] for fit in fits]), np.array([fit[1] for fit in fits]), bend, weight)


def _fit_one(seen: Sightings, part: slice, look: Callable[[], None] | None) -> tuple[float, float, Integers, Floats]:
    """Level, slope, bends and their weights of one group."""
    samples, loss, root = seen.samples[part], seen.loss[part], np.sqrt(seen.weight[part])
    inner = np.unique(samples)[1:-1]
    log, knots = np.log(samples), np.log(inner)
    center = float((root**2 * log).sum() / (root**2).sum())
    hinges = np.maximum(knots[None, :] - log[:, None], 0.0)
    basis = np.column_stack([np.ones(len(log)), center - log, hinges])
    found = nonnegative_least_squares(basis * root[:, None], loss * root, 1, look)
    found[1:][found[1:] <= NEGLIGIBLE * loss.max()] = 0.0
    there = found[2:] > 0
    return float(found[0] + found[1] * center), float(found[1]), inner[there], found[2:][there]


def nonnegative_least_squares(
    matrix: Floats, target: Floats, free: int = 0, look: Callable[[], None] | None = None
) -> Floats:
    """(columns,) the x that minimises |matrix·x − target|², x ≥ 0 except for the first `free` columns.

    The active-set method of Lawson and Hanson (Solving Least Squares Problems, 1974, chapter 23). `look` is called
    before every least-squares problem in it.
    Raises `BackendError` if it does not end, which it always does up to rounding.
    """
    size = np.sqrt((matrix**2).sum(axis=0))
    scaled = matrix / np.where(size > 0, size, 1.0)
    passive, x = np.arange(matrix.shape[1]) < free, np.zeros(matrix.shape[1])
    room = 1e-12 * max(float(np.abs(target).max(initial=0.0)), 1e-300) * np.sqrt(len(target))
    x[passive] = _solved(scaled, target, passive)
    for _ in range(30 * (matrix.shape[1] + 1)):
        pull = scaled.T @ (target - scaled @ x)
        pull[passive | (size == 0)] = -np.inf
        entering = int(pull.argmax())
        if pull[entering] <= room:
            return x / np.where(size > 0, size, 1.0)
        passive[entering] = True
        while True:
            if look is not None:
                look()
            trial = np.zeros_like(x)
            trial[passive] = _solved(scaled, target, passive)
            bound = passive & (np.arange(len(x)) >= free)
            blocked = bound & (trial <= 0)
            if not blocked.any():
                break
            # Go towards the trial until the first variable is at zero, which leaves the passive set.
            step = (x[blocked] / np.maximum(x[blocked] - trial[blocked], 1e-300)).min()
            x = x + step * (trial - x)
            leaving = blocked & (x <= 1e-15 * np.abs(x).max())
            if not leaving.any():
                leaving = blocked & (x == x[blocked].min())
            x[leaving], passive[leaving] = 0.0, False
        if not passive[entering]:
            # Rounding alone made it look worth entering.
            return x / np.where(size > 0, size, 1.0)
        x = trial
    raise BackendError("nonnegative least squares did not end")


def _solved(matrix: Floats, target: Floats, passive: NDArray[np.bool_]) -> Floats:
    return np.linalg.lstsq(matrix[:, passive], target, rcond=None)[0]
