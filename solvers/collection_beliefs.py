"""Learning curves of a whole batch at once: each group's curve is what its points and the other groups' say together.

Every group's curve is believed to be a power law n ↦ level·(1 − part + part·(n / now)^−exponent), `now` being the
largest size observed, with `part` and `exponent` on a grid. The grid's prior is shared: it is fitted to the batch by
maximum likelihood over all mixtures on the grid (Kiefer and Wolfowitz, Annals of Mathematical Statistics 27, 1956),
by expectation maximisation, held back by a Dirichlet prior, so that a few groups do not dictate it.

Real curves are no power laws: they pause, peak and rise. So a point at n may be off its curve, beside its noise, by
discrepancy·level·log(now / n), the discrepancy being part of the grid: a group whose early points do not foretell the
later ones is believed by its late points and the prior. Points of one curve err together: as evidence, a group counts
for `MOST_EVIDENCE` points at most (a coarsened posterior: Miller and Dunson, JASA 114, 2019).

The loss expected at n is the posterior mean over the grid: a mixture of power laws, of which the nearest single one
over the next `REACH`-fold is the group's curve. A risk-neutral buyer needs to know no more than that mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..specs.arrays import Floats, Integers
from .collection_curves import NEGLIGIBLE, PowerLawCurves, Sightings

PARTS: Final = np.linspace(1, 11, 11) / 11
"""Parts of the present loss that more samples could remove, at last; besides, there is none at all."""
EXPONENTS: Final = np.geomspace(0.05, 2.0, 12)
"""Exponents of the grid."""
DISCREPANCIES: Final = (0.05, 0.15, 0.45)
"""By how much of its level a curve may stray from its power law per unit of log n."""
FLAT: Final = 0.3
"""Prior belief that more samples remove nothing."""
HELD_BACK: Final = 10.0
"""Groups that the batch's own prior is outvoted by, at first: the Dirichlet prior's weight."""
SWEEPS: Final = 20
"""Sweeps of expectation maximisation."""
MOST_EVIDENCE: Final = 6.0
"""Points that the observations of one group count for, at most."""
NOISE: Final = (1e-3, 1e3)
"""Standard errors, relative to a group's mean loss, that are told apart."""
UNSTATED: Final = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Standard errors, relative to the level, of which the batch's likeliest stands for those that are not given."""
REACH: Final = 64.0
"""How many times the present size the nearest power law looks ahead."""
NEAREST: Final = np.geomspace(0.02, 2.5, 96)
"""Exponents that the nearest power law may have."""


@dataclass(frozen=True)
class SharedFit:
    """curves: the power law nearest to each group's posterior mean.

    stderr: (groups,) posterior standard deviation of the loss at twice the largest size observed.
    """

    curves: PowerLawCurves
    stderr: Floats


@dataclass(frozen=True)
class _Evidence:
    """likelihood: (groups × discrepancies × cells), the largest of a group 1; log_scale: (groups,) what that was.

    level: loss at the largest size observed, in units of the group's mean loss, and precision: its inverse
    variance, of the same shape. The first cell is that of a flat curve, the others run over parts × exponents.
    """

    likelihood: Floats
    log_scale: Floats
    level: Floats
    precision: Floats


def fit_shared_power_laws(seen: Sightings) -> SharedFit:
    """The power laws that a batch of learning curves is best believed to follow, group by group.

    Up to rounding, it does not matter in which order groups and observations come. Takes some 25 ms for 1000 groups
    of six observations; memory and time grow with groups × (400 + 24·observations).
    """
    first, now = seen.starts[:-1], np.maximum.reduceat(seen.samples, seen.starts[:-1]).astype(np.float64)
    count = np.diff(seen.starts)
    largest = np.maximum.reduceat(seen.loss, first)
    mean = largest * (seen.total(seen.loss / np.where(largest > 0, largest, 1.0)[seen.group]) / count)
    unit = np.where(mean > 0, mean, 1.0)[seen.group]
    back = np.log(now[seen.group] / seen.samples)
    growth = np.exp(back[:, None] * EXPONENTS)
    loss, base = seen.loss / unit, _base()

    def evidence(noise: Floats) -> _Evidence:
        return _weighed(loss, np.clip(noise, *NOISE), back, growth, first, count)

    if seen.stderr is not None:
        with np.errstate(over="ignore"):  # more noise than can be told apart
            found = evidence(seen.stderr / unit)
    else:
        # The level of each group stands for its unit: points are noisy in proportion to it.
        tried = [evidence(np.full(len(loss), noise)) for noise in UNSTATED]
        found = max(tried, key=lambda one: math.fsum(one.log_scale + np.log(_explained(one.likelihood, base))))
    prior = _shared_prior(found.likelihood, base)
    belief = found.likelihood * prior
    belief /= belief.sum(axis=(1, 2), keepdims=True)
    return SharedFit(_nearest(found, belief, now, mean), _spread(found, belief) * mean)


def _base() -> Floats:
    """(discrepancies × cells) the prior before any batch: even, but for the cell of flat curves."""
    cells = np.full(1 + len(PARTS) * len(EXPONENTS), (1 - FLAT) / (len(PARTS) * len(EXPONENTS)))
    cells[0] = FLAT
    return np.tile(cells / len(DISCREPANCIES), (len(DISCREPANCIES), 1))


def _weighed(loss: Floats, noise: Floats, back: Floats, growth: Floats, first: Integers, count: Integers) -> _Evidence:
    """The likelihood of every cell, its level integrated out under a flat prior.

    Sums over points are wanted of 1, (n / now)^−exponent and its square alone: a cell's curve is linear in that.
    """
    shape = (len(first), len(DISCREPANCIES), 1 + growth.shape[1] * len(PARTS))
    log_likelihood, level, precision = np.empty(shape), np.empty(shape), np.empty(shape)
    tempered = np.minimum(1.0, MOST_EVIDENCE / count)[:, None]
    for place, discrepancy in enumerate(DISCREPANCIES):
        variance = noise**2 + (discrepancy * back) ** 2
        weight = 1 / variance
        all_of = np.add.reduceat(np.stack([weight, weight * loss, weight * loss**2, np.log(variance)], axis=1), first)
        once, twice, with_loss = (
            np.add.reduceat(part, first)[:, None, :]
            for part in (weight[:, None] * growth, weight[:, None] * growth**2, (weight * loss)[:, None] * growth)
        )
        mass, target, square, log_variance = all_of.T[:, :, None]
        rest, part = (1 - PARTS)[:, None], PARTS[:, None]
        curved = rest**2 * mass[:, None] + 2 * rest * part * once + part**2 * twice
        common = rest * target[:, None] + part * with_loss
        curve = np.concatenate([mass, curved.reshape(len(first), shape[2] - 1)], axis=1)
        product = np.concatenate([target, common.reshape(len(first), shape[2] - 1)], axis=1)
        level[:, place], precision[:, place] = product / curve, curve
        misfit = np.maximum(square - product * level[:, place], 0.0)
        log_likelihood[:, place] = -0.5 * (tempered * (misfit + log_variance) + np.log(curve))
    log_scale = log_likelihood.max(axis=(1, 2))
    return _Evidence(np.exp(log_likelihood - log_scale[:, None, None]), log_scale, level, precision)


def _explained(likelihood: Floats, prior: Floats) -> Floats:
    """(groups,) likelihood of each group's points under a prior."""
    return np.einsum("gdc,dc->g", likelihood, prior)


def _shared_prior(likelihood: Floats, base: Floats) -> Floats:
    """(discrepancies × cells) the prior most likely given all groups, held back towards `base`."""
    prior = base
    for _ in range(SWEEPS):
        # Each group votes with its posterior.
        votes = prior * np.einsum("gdc,g->dc", likelihood, 1 / _explained(likelihood, prior))
        prior = (HELD_BACK * base + votes) / (HELD_BACK + len(likelihood))
    return prior


def _nearest(found: _Evidence, belief: Floats, now: Floats, mean: Floats) -> PowerLawCurves:
    """The power law nearest to each group's posterior mean, in the square over log n from now to REACH times now.

    It has the posterior mean's loss now, and so much of its fall as leaves the asymptote at 0 at least.
    """
    groups = len(now)
    by_cell = (belief * found.level).sum(axis=1)
    level = by_cell.sum(axis=1)
    removable = by_cell[:, 1:].reshape(groups, len(PARTS), len(EXPONENTS)) * PARTS[:, None]
    ahead = np.linspace(0.0, math.log(REACH), 33)[1:]
    fall = np.einsum("ge,ek->gk", removable.sum(axis=1), -np.expm1(-EXPONENTS[:, None] * ahead))
    shape = -np.expm1(-NEAREST[:, None] * ahead)
    common, square = np.einsum("gk,ek->ge", fall, shape), (shape**2).sum(axis=1)
    best = (common**2 / square).argmax(axis=1)
    drop = np.minimum(common[np.arange(groups), best] / square[best], level)
    with np.errstate(over="ignore"):  # losses near the largest float have no scale
        scale = mean * drop * now ** NEAREST[best]
    flat = (drop <= NEGLIGIBLE * level) | (mean == 0) | ~np.isfinite(scale)
    asymptote = mean * np.where(flat, level, level - drop)
    return PowerLawCurves(asymptote, np.where(flat, 0.0, scale), np.where(flat, 1.0, NEAREST[best]))


def _spread(found: _Evidence, belief: Floats) -> Floats:
    """(groups,) posterior standard deviation of the loss at twice the present size, in units of the mean loss."""
    later = np.concatenate([[1.0], ((1 - PARTS)[:, None] + PARTS[:, None] * 2.0**-EXPONENTS).ravel()])
    stray = np.array(DISCREPANCIES)[:, None] * math.log(2)
    mean = (belief * found.level * later).sum(axis=(1, 2))
    square = belief * (found.level**2 * (later**2 + stray**2) + later**2 / found.precision)
    return np.sqrt(np.maximum(square.sum(axis=(1, 2)) - mean**2, 0.0))
