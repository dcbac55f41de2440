"""What each further piece of an item is worth: sequences of marginal values, climbed rung by rung at a ratio per piece.

A further rollout of a prompt reveals something only together with those before it; under a belief about its rate, what
it is worth is a sum of two products of ratios, and each further one multiplies both by one ratio more. The other laws
are published variances of a gradient, in closed form. All of it is machine code.

A piece is a rung of `step` units. Tables of one row per item carry an item's sequence and where it stands in it:

    curve   FIRST, SECOND, GROWTH, DECAY, TOTAL: what the law of marginal values is made of
    state   FIRST, SECOND after the rung ahead; GAIN of the rung ahead; LAST rung's gain; SUM of all gains so far
    place   AT: units up to the rung ahead; COUNT: rungs taken
"""

from __future__ import annotations

import numpy as np
from numba.core.types import UniTuple

from ...specs.arrays import Floats, Integers
from ..machine import (
    compiled,
    integer,
    integers,
    none,
    out_integer_table,
    out_real_table,
    real,
    real_table,
    reals,
)

BELIEF, RATE, RECIPROCAL, VIP = 0, 1, 2, 3
"""Laws of marginal values. BELIEF and RATE: first·Π (growth + j)/(total + j) + second·Π (decay + j)/(total + j) over
the units since `seen`, j standing still under RATE; nothing for the very first unit of all. RECIPROCAL: first/n falls.
VIP: first·(n − 1)/n² falls, from 3 on by less and less."""
FIRST, SECOND, GROWTH, DECAY, TOTAL = 0, 1, 2, 3, 4
GAIN, LAST, SUM = 2, 3, 4
AT, COUNT = 0, 1
TINY = 1e-290
"""Parts of marginal values that have come down to this are nothing: numbers further down are slow to multiply."""


@compiled(real(integer, integer, real, real))
def _single(law: int, unit: int, first: float, second: float) -> float:
    """What one more unit is worth after `unit` of them."""
    if law <= RATE:
        return first + second if unit > 0 else 0.0
    count = float(unit)
    if law == RECIPROCAL:
        return first / (count * (count + 1.0))
    return first * ((count * (count - 1.0) - 1.0) / (count * count * (count + 1.0) * (count + 1.0)))


@compiled(UniTuple(real, 3)(integer, integer, integer, integer, real, real, real, real, real))
def _rung(
    law: int,
    step: int,
    unit: int,
    seen: int,
    first: float,
    second: float,
    growth: float,
    decay: float,
    total: float,
) -> tuple[float, float, float]:
    """What `step` units after `unit` of them are worth, and FIRST and SECOND after those."""
    drift, gain = 1.0 if law == BELIEF else 0.0, 0.0
    for after in range(unit, unit + step):
        gain += _single(law, after, first, second)
        if law <= RATE:
            along = drift * (after - seen)
            scale = 1.0 / (total + along)
            first *= (growth + along) * scale
            second *= (decay + along) * scale
            first = first if first > TINY else 0.0
            second = second if second > TINY else 0.0
    return gain, first, second


@compiled(none(integer, integer, integers, integers, real_table, out_real_table, out_integer_table))
def begin(law: int, step: int, seen: Integers, start: Integers, curve: Floats, state: Floats, place: Integers) -> None:
    """Places every item at rung `start`; SUM is what the units between `seen` and there are worth."""
    for item in range(len(curve)):
        growth, decay, total = curve[item, GROWTH], curve[item, DECAY], curve[item, TOTAL]
        unit, at = (seen[item] if law <= RATE else start[item] * step), start[item] * step
        first, second, before = curve[item, FIRST], curve[item, SECOND], seen[item]
        below, first, second = _rung(law, at - unit, unit, before, first, second, growth, decay, total)
        gain, first, second = _rung(law, step, at, before, first, second, growth, decay, total)
        state[item, FIRST], state[item, SECOND], state[item, GAIN] = first, second, gain
        state[item, LAST], state[item, SUM] = np.inf, below
        place[item, AT], place[item, COUNT] = at + step, start[item]


@compiled(none(integer, integer, integers, real_table, out_real_table, out_integer_table, integer))
def take_rung(law: int, step: int, seen: Integers, curve: Floats, state: Floats, place: Integers, item: int) -> None:
    """Takes one item's next rung, whatever it is worth."""
    growth, decay, total = curve[item, GROWTH], curve[item, DECAY], curve[item, TOTAL]
    first, second, unit = state[item, FIRST], state[item, SECOND], place[item, AT]
    gain, first, second = _rung(law, step, unit, seen[item], first, second, growth, decay, total)
    state[item, LAST] = state[item, GAIN]
    state[item, SUM] += state[item, GAIN]
    state[item, FIRST], state[item, SECOND], state[item, GAIN] = first, second, gain
    place[item, AT] += step
    place[item, COUNT] += 1


@compiled(
    integer(integer, integer, integers, real_table, out_real_table, out_integer_table, integers, real, integer),
)
def climb(
    law: int,
    step: int,
    seen: Integers,
    curve: Floats,
    state: Floats,
    place: Integers,
    cap: Integers,
    price: float,
    limit: int,
) -> int:
    """Takes every rung that is worth more than a price, up to the caps; how many, just over `limit` if it gives up."""
    drift, taken = 1.0 if law == BELIEF else 0.0, 0
    for item in range(len(curve)):
        gain, count, most = state[item, GAIN], place[item, COUNT], cap[item]
        if not (gain > price and count < most):
            continue
        first, second, last, total = state[item, FIRST], state[item, SECOND], 0.0, state[item, SUM]
        growth, decay, below = curve[item, GROWTH], curve[item, DECAY], curve[item, TOTAL]
        unit, before = place[item, AT], seen[item]
        while gain > price and count < most and taken <= limit:
            last = gain
            total += gain
            count += 1
            taken += 1
            gain = 0.0
            for _ in range(step):  # `_rung` once more: a call costs a third of a rung
                gain += _single(law, unit, first, second)
                if law <= RATE:
                    along = drift * (unit - before)
                    scale = 1.0 / (below + along)
                    first *= (growth + along) * scale
                    second *= (decay + along) * scale
                    first = first if first > TINY else 0.0
                    second = second if second > TINY else 0.0
                unit += 1
        state[item, FIRST], state[item, SECOND] = first, second
        state[item, GAIN], state[item, LAST], state[item, SUM] = gain, last, total
        place[item, AT], place[item, COUNT] = unit, count
        if taken > limit:
            break
    return taken


@compiled(none(integer, integer, integers, real_table, out_real_table, out_integer_table, integers, out_real_table))
def tabulate(
    law: int, step: int, seen: Integers, curve: Floats, state: Floats, place: Integers, cap: Integers, values: Floats
) -> None:
    """(items × rungs) the SUM at every rung from where each item stands to its cap, the last one repeated after it."""
    for item in range(len(curve)):
        for rung in range(values.shape[1]):
            values[item, rung] = state[item, SUM]
            if place[item, COUNT] < cap[item]:
                take_rung(law, step, seen, curve, state, place, item)


@compiled(none(reals, reals, integers, integers, out_real_table))
def beliefs(alpha: Floats, beta: Floats, won: Integers, seen: Integers, curve: Floats) -> None:
    """The curves of `BELIEF`, under beliefs of which `won` out of `seen` draws of the step are a part."""
    for item in range(len(alpha)):
        a, b = alpha[item], beta[item]
        total = a + b
        shared = a * b * (b + 1.0) / (total * (total + 1.0) * (total + 2.0) * (total + 3.0))
        # Where a failure is there already, further successes reveal nothing; and the other way round.
        curve[item, 0] = 0.0 if won[item] < seen[item] else shared * (b + 2.0)
        curve[item, 1] = 0.0 if won[item] > 0 else shared * (a + 1.0)
        curve[item, 2], curve[item, 3], curve[item, 4] = a + 1.0, b + 2.0, total + 4.0


@compiled(real(real, real, integer))
def _run(start: float, total: float, further: int) -> float:
    """Π_{j < further} (start + j)/(total + j)."""
    product = 1.0
    for unit in range(further):
        product *= (start + unit) / (total + unit)
        if product == 0.0:
            break
    return product


@compiled(real(reals, reals, integers, integers, integers))
def expected_with_both(alpha: Floats, beta: Floats, won: Integers, seen: Integers, counts: Integers) -> float:
    """Units expected in items with both outcomes: Σ counts·P(both), a run of one outcome having the probability
    Π_{j < further} (α + j)/(α + β + j)."""
    expected = 0.0
    for item in range(len(alpha)):
        further, chance = counts[item] - seen[item], 1.0
        if won[item] == seen[item]:
            chance -= _run(alpha[item], alpha[item] + beta[item], further)
        if won[item] == 0:
            chance -= _run(beta[item], alpha[item] + beta[item], further)
        if counts[item] > 0:
            expected += chance * counts[item]
    return expected
