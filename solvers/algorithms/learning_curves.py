"""What a group's loss is after so many samples, what one more lot takes off the objective, and where the loss reaches
a level, or its fall a price: machine code.

    loss(n) = max(0, BASE + SCALE·n^−EXPONENT − SLOPE·log n + Σ steeper·max(0, knot − log n)), ZERO at n = 0

is a power law (Hestness and others, "Deep learning scaling is predictable, empirically", 2017), or straight pieces over
log n that bend upwards; the objective adds WEIGHT·loss^POWER / POWER. A fall is worked out by `expm1` and `log1p`, to
full relative precision even where it is a tiny part of the loss.

A group is a row of three tables:

    curve   as above; FIRST: what each lot of the opening block is worth; PULL: the logarithm of what a cost of 1 takes
            off a mean at one sample, by a power law
    bend    rows from its FIRST_BEND up to its LAST_BEND, exclusive: KNOT, rising, and by how much it is STEEPER below
    whole   COLLECTED samples, in lots of LOT at COST units; LOW and TOP counts of lots;
            OPENING: lots that only pay together, as the first samples of all may, 0 for none;
            PLAIN: 1 for power laws; FIRST_BEND, LAST_BEND: where its rows of `bend` are
"""

from __future__ import annotations

import numpy as np

from ...specs.arrays import Floats, Integers
from ..machine import (
    compiled,
    integer,
    integer_table,
    integers,
    none,
    out_reals,
    real,
    real_table,
)

BASE, SCALE, EXPONENT, SLOPE, ZERO, WEIGHT, POWER, FIRST, PULL = range(9)
KNOT, STEEPER = 0, 1
COLLECTED, LOT, COST, LOW, TOP, OPENING, PLAIN, FIRST_BEND, LAST_BEND = range(9)


tables = real_table, real_table, integer_table
"""The types of curve, bend and whole."""


@compiled(real(*tables, integer, integer))
def loss_at(curve: Floats, bend: Floats, whole: Integers, group: int, samples: int) -> float:
    """A group's loss at so many samples in all."""
    if samples <= 0:
        return curve[group, ZERO]
    count, loss = float(samples), curve[group, BASE]
    if curve[group, SCALE] > 0.0:
        loss += curve[group, SCALE] * count ** -curve[group, EXPONENT]
    if curve[group, SLOPE] > 0.0 or whole[group, FIRST_BEND] < whole[group, LAST_BEND]:
        log = np.log(count)
        loss -= curve[group, SLOPE] * log
        for place in range(whole[group, FIRST_BEND], whole[group, LAST_BEND]):
            loss += bend[place, STEEPER] * max(bend[place, KNOT] - log, 0.0)
    return max(loss, 0.0)


@compiled(none(*tables, integers, out_reals))
def losses(curve: Floats, bend: Floats, whole: Integers, lots: Integers, loss: Floats) -> None:
    """(groups,) losses with so many lots bought, to the last bit as all thresholds on them see them."""
    for group in range(len(whole)):
        loss[group] = loss_at(curve, bend, whole, group, whole[group, COLLECTED] + lots[group] * whole[group, LOT])


@compiled(real(real, real, real, real))
def part(fall: float, loss: float, weight: float, power: float) -> float:
    """What a fall of a loss takes off the objective."""
    if power == 1.0:
        return weight * fall
    if loss <= 0.0:
        return 0.0
    return weight * loss**power * -np.expm1(power * np.log1p(-min(fall / loss, 1.0))) / power


@compiled(real(real, real, real, real, real, integer, integer))
def law_gain(
    base: float, scale: float, exponent: float, weight: float, power: float, samples: int, further: int
) -> float:
    """What so many samples further along a power law take off the objective.

    Numbers alone, as those of the tables take longer to hand over than this takes.
    """
    above = scale * samples**-exponent
    return part(above * -np.expm1(-exponent * np.log1p(further / samples)), base + above, weight, power)


@compiled(real(*tables, integer, integer))
def _bent_gain(curve: Floats, bend: Floats, whole: Integers, group: int, samples: int) -> float:
    """What one more lot takes off the objective along any curve."""
    further = whole[group, LOT]
    loss, fall = loss_at(curve, bend, whole, group, samples), 0.0
    if samples <= 0:
        fall = loss - loss_at(curve, bend, whole, group, further)
    else:
        growth, exponent, log = np.log1p(further / samples), curve[group, EXPONENT], np.log(samples)
        if curve[group, SCALE] > 0.0:
            fall = curve[group, SCALE] * samples**-exponent * -np.expm1(-exponent * growth)
        fall += curve[group, SLOPE] * growth
        for place in range(whole[group, FIRST_BEND], whole[group, LAST_BEND]):
            fall += bend[place, STEEPER] * min(max(bend[place, KNOT] - log, 0.0), growth)
        fall = min(fall, loss)
    return part(fall, loss, curve[group, WEIGHT], curve[group, POWER])


@compiled(real(*tables, integer, integer))
def gain(curve: Floats, bend: Floats, whole: Integers, group: int, lots: int) -> float:
    """What one more lot after so many takes off the objective."""
    further = whole[group, LOT]
    samples = whole[group, COLLECTED] + lots * further
    if whole[group, PLAIN] == 0 or samples <= 0:
        return _bent_gain(curve, bend, whole, group, samples)
    base, scale, exponent = curve[group, BASE], curve[group, SCALE], curve[group, EXPONENT]
    return law_gain(base, scale, exponent, curve[group, WEIGHT], curve[group, POWER], samples, further)


@compiled(real(*tables, integer, real))
def log_at_level(curve: Floats, bend: Floats, whole: Integers, group: int, loss: float) -> float:
    """The logarithm of the samples at which a loss is reached; infinite if it never is, NaN without a closed form."""
    if loss < 0.0:
        return np.inf
    slope, level = curve[group, SLOPE], curve[group, BASE]
    if slope == 0.0 and whole[group, FIRST_BEND] == whole[group, LAST_BEND]:
        if curve[group, SCALE] == 0.0:
            return np.inf if level > loss else -np.inf
        if loss <= level:
            return np.inf
        return np.log(curve[group, SCALE] / (loss - level)) / curve[group, EXPONENT]
    if curve[group, SCALE] > 0.0:
        return np.nan
    for place in range(whole[group, LAST_BEND] - 1, whole[group, FIRST_BEND] - 1, -1):
        knot = bend[place, KNOT]
        if level - slope * knot <= loss:  # it is reached before this bend, or never after it
            slope += bend[place, STEEPER]
            level += bend[place, STEEPER] * knot
        else:
            break
    if slope == 0.0:
        return np.inf if level > loss else -np.inf
    return (level - loss) / slope


@compiled(real(real, real, real, real, real, integer))
def law_log_at_price(base: float, scale: float, exponent: float, power: float, pull: float, guess: int) -> float:
    """The logarithm of the samples at which a power law's loss to a power falls at a price, looked for from a guess.

    pull: PULL less the logarithm of the price.
    """
    if power == 1.0 or scale == 0.0:
        return pull / (exponent + 1.0)
    # The logarithm of the slope is convex in log n and nearly straight: Newton's steps hardly overshoot.
    log = np.log(guess)
    for _ in range(8):
        above = scale * np.exp(-exponent * log)
        size = base + above
        excess = pull + (power - 1.0) * np.log(size) - (exponent + 1.0) * log
        step = excess / (exponent + 1.0 + (power - 1.0) * exponent * above / size)
        log += step
        if abs(step) < 1e-3:  # and the error is about the square of that
            break
    return log


@compiled(real(*tables, integer, real))
def _bent_log_at_price(curve: Floats, bend: Floats, whole: Integers, group: int, log_price: float) -> float:
    """The logarithm of the samples at which straight pieces over log n fall at a price, by mean; NaN for others."""
    if curve[group, POWER] != 1.0 or curve[group, SCALE] > 0.0:
        return np.nan
    slope = curve[group, SLOPE]
    for place in range(whole[group, FIRST_BEND], whole[group, LAST_BEND]):
        slope += bend[place, STEEPER]
    rest = np.log(curve[group, WEIGHT] * whole[group, LOT] / whole[group, COST]) - log_price
    log = -np.inf
    for place in range(whole[group, FIRST_BEND], whole[group, LAST_BEND]):
        aim = np.log(slope) + rest
        if aim <= bend[place, KNOT]:
            return max(aim, log)
        log, slope = bend[place, KNOT], slope - bend[place, STEEPER]
    return max(np.log(slope) + rest, log) if slope > 0.0 else log


@compiled(real(*tables, integer, real, integer))
def log_at_price(curve: Floats, bend: Floats, whole: Integers, group: int, log_price: float, guess: int) -> float:
    """The logarithm of the samples at which the objective falls at a price per unit of cost, looked for from a guess
    at the lots; NaN without a closed form."""
    if curve[group, WEIGHT] == 0.0:
        return -np.inf
    if whole[group, PLAIN] == 0:
        return _bent_log_at_price(curve, bend, whole, group, log_price)
    samples, pull = max(whole[group, COLLECTED] + guess * whole[group, LOT], 1), curve[group, PULL] - log_price
    base, scale, exponent = curve[group, BASE], curve[group, SCALE], curve[group, EXPONENT]
    return law_log_at_price(base, scale, exponent, curve[group, POWER], pull, samples)
