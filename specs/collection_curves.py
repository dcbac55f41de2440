"""Learning curves as specs give them and plans carry them, and what they mean: the loss at any number of samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Discriminator, Tag

from .arrays import Amounts, Counts, Floats, Integers, PositiveAmounts, PositiveCounts, Reals
from .tables import Labels, Table

BLOCK = 2**20
"""Bends that are looked at together, at most."""


class Curve(Table):
    """Learning curves, a row per group: loss(n) = asymptote + scale·n^−exponent for n ≥ 1 samples."""

    asymptote: Amounts
    """Loss that no number of samples gets below."""
    scale: Amounts
    """Loss above the asymptote at one sample."""
    exponent: PositiveAmounts
    """How fast the loss falls."""
    loss_at_zero: Amounts | None = None
    """Loss without any sample, at least that at one; needed where nothing is collected yet."""


class Observations(Table):
    """Losses seen so far, a row each."""

    group: Labels
    """Name of a group."""
    samples: PositiveCounts
    """Samples of the group that the model was trained on."""
    loss: Amounts
    """Its loss on the group."""
    stderr: PositiveAmounts | None = None
    """Standard error of that loss; the fit weighs by 1/stderr²."""


class PowerLaws(Table):
    """Fitted power laws, a row per group; where the scale is 0 the exponent says nothing, and is 1."""

    asymptote: Amounts
    """Loss that no number of samples gets below."""
    scale: Amounts
    """Loss above the asymptote at one sample."""
    exponent: PositiveAmounts
    """How fast the loss falls."""
    error: Amounts
    """Root of the (weighted) mean squared residual over the group's observations."""
    stderr: Amounts | None = None
    """Standard error of the loss predicted at twice the largest size observed; of `shared_power_law` alone."""


class Bends(Table):
    """Where fitted convex curves bend: below `samples`, the loss is steeper by `weight` per unit of log n."""

    group: Counts
    """Row of `groups`."""
    samples: PositiveCounts
    """Where the curve bends."""
    weight: PositiveAmounts
    """By how much, in loss per unit of log n."""


class ConvexCurves(BaseModel):
    """Fitted curves that fall and flatten: max(0, level − slope·log n + Σ weight·max(0, log(samples) − log n))."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    level: Reals
    """Loss at n = 1, were there no bends."""
    slope: Amounts
    """Loss removed per unit of log n beyond the last bend."""
    bends: Bends
    """Where the curves are steeper than at their end."""
    error: Amounts
    """Root of the (weighted) mean squared residual over the group's observations."""


def fit_form(value: Any) -> str:
    there = "asymptote" in value if isinstance(value, dict) else isinstance(value, PowerLaws)
    return "~power_law" if there else "~convex_monotone"


Fit = Annotated[
    Annotated[PowerLaws, Tag("~power_law")] | Annotated[ConvexCurves, Tag("~convex_monotone")],
    Discriminator(fit_form),
]
"""Fitted curves of either model."""

Law = Curve | PowerLaws | ConvexCurves
"""Whatever says how losses fall."""


def loss_at(law: Law, row: Integers, samples: Integers) -> Floats:
    """(k,) losses of the groups in (k,) rows at (k,) samples in all."""
    at_least_one = np.maximum(samples, 1).astype(np.float64)
    if isinstance(law, ConvexCurves):
        log = np.log(at_least_one)
        steeper = _bent(law, row, lambda knots, place: np.maximum(knots - log[place], 0.0))
        return np.maximum(law.level[row] - law.slope[row] * log + steeper, 0.0)
    loss = law.asymptote[row] + law.scale[row] * at_least_one ** -law.exponent[row]
    if isinstance(law, Curve) and law.loss_at_zero is not None:
        loss = np.where(samples == 0, law.loss_at_zero[row], loss)
    return loss


def fall_over(law: Law, row: Integers, samples: Integers, further: int) -> Floats:
    """(k,) by how much those losses fall over `further` samples; a difference of losses would lose its digits."""
    at_least_one = np.maximum(samples, 1).astype(np.float64)
    growth = np.log1p(further / at_least_one)
    if isinstance(law, ConvexCurves):
        log = np.log(at_least_one)
        steeper = _bent(law, row, lambda knots, place: np.clip(knots - log[place], 0.0, growth[place]))
        return np.minimum(law.slope[row] * growth + steeper, loss_at(law, row, samples))
    above = law.scale[row] * at_least_one ** -law.exponent[row]
    first = loss_at(law, row, samples) - loss_at(law, row, samples + further)
    return np.where(samples == 0, first, -above * np.expm1(-law.exponent[row] * growth))


def terms_at(law: Law, row: Integers, samples: Integers) -> Floats:
    """(k,) how large the terms are that add up to those losses: convex curves subtract some from others."""
    if not isinstance(law, ConvexCurves):
        return loss_at(law, row, samples)
    falling = law.slope[row] * np.log(np.maximum(samples, 1).astype(np.float64))
    return np.maximum(loss_at(law, row, samples), np.abs(law.level[row])) + falling


def fit_error(law: Law, row: Integers, seen: Observations, groups: int) -> tuple[Floats, Floats]:
    """(groups,) root of the weighted mean squared residual of observations, of the groups in `row`; and how large
    the numbers are that the residuals are differences of."""
    weight = np.ones(len(row)) if seen.stderr is None else (seen.stderr.min(initial=np.inf) / seen.stderr) ** 2
    residual = loss_at(law, row, seen.samples) - seen.loss
    total, size = np.bincount(row, weights=weight, minlength=groups), np.zeros(groups)
    np.maximum.at(size, row, terms_at(law, row, seen.samples) + seen.loss)
    return np.sqrt(np.bincount(row, weights=weight * residual**2, minlength=groups) / total), size


def _bent(curves: ConvexCurves, row: Integers, height: Callable[[Floats, Integers], Floats]) -> Floats:
    """(k,) what the bends of the groups in (k,) rows add to a loss: Σ weight·height, the height being that of (m,)
    bends at these log n, for the entries of `row` in (m,) places."""
    bends, added = curves.bends, np.zeros(len(row))
    order = np.argsort(bends.group, kind="stable")
    knots, weights = np.log(bends.samples[order]), bends.weight[order]
    count = np.bincount(bends.group, minlength=len(curves.level))
    start, block = np.cumsum(count) - count, max(BLOCK // max(int(count.max(initial=0)), 1), 1)
    for first in range(0, len(row), block):
        part = row[first : first + block]
        width = count[part]
        place = np.repeat(np.arange(len(part)), width)
        bend = np.arange(len(place)) + np.repeat(start[part] - (np.cumsum(width) - width), width)
        terms = weights[bend] * height(knots[bend], first + place)
        added[first : first + block] = np.bincount(place, weights=terms, minlength=len(part))
    return added
