"""The best way to spread a number of pieces over items whose further pieces are worth less and less: machine code.

    maximise Σ value_i(n_i)   subject to   Σ n_i = N,  low_i ≤ n_i ≤ cap_i,  n whole,  every value concave

The optimum takes the N best marginal values (Fox, "Discrete optimization via marginal analysis", 1966; Gross, 1956).
They are never tabulated: each item climbs its own sequence, one ratio per piece, as long as the next marginal value
beats a price; the price is found by bisection on the bits of a float, and the last few pieces by selection. A solve
takes O(N + items) steps times a small constant, and O(items) memory, whatever the caps are.

A piece is a rung of `step` units. Tables of one row per item carry an item's sequence and where it stands in it:

    curve   FIRST, SECOND, GROWTH, DECAY, TOTAL: what the law of marginal values is made of
    state   FIRST, SECOND after the rung ahead; GAIN of the rung ahead; LAST rung's gain; SUM of all gains so far
    place   AT: units up to the rung ahead; COUNT: rungs taken
"""

from __future__ import annotations

import numpy as np

from ...specs.arrays import Floats, Integers
from ..machine import (
    compiled,
    integer,
    integers,
    none,
    out_integer_table,
    out_real_table,
    out_reals,
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
SAMPLE, SHARE = 64, 16
"""The price is first looked for on one of so many items, and on so many at least."""
SPARE = 512
"""Rungs beyond one per item among which the last ones are selected directly."""
FINE, COARSE = 1 << 49, 1 << 52
"""Bits of a float that a price moves by at first: about a tenth, and a factor of two."""


@compiled(real(integer, integer, real, real))
def _single(law: int, unit: int, first: float, second: float) -> float:
    """What one more unit is worth after `unit` of them."""
    if law <= RATE:
        return first + second if unit > 0 else 0.0
    count = float(unit)
    if law == RECIPROCAL:
        return first / (count * (count + 1.0))
    return first * ((count * (count - 1.0) - 1.0) / (count * count * (count + 1.0) * (count + 1.0)))


@compiled(none(integer, integer, integers, integers, real_table, out_real_table, out_integer_table))
def begin(law: int, step: int, seen: Integers, start: Integers, curve: Floats, state: Floats, place: Integers) -> None:
    """Places every item at rung `start`; SUM is what the units between `seen` and there are worth."""
    drift = 1.0 if law == BELIEF else 0.0
    for item in range(len(curve)):
        first, second, total = curve[item, FIRST], curve[item, SECOND], 0.0
        unit, ahead = (seen[item] if law <= RATE else start[item] * step), start[item] * step
        for goal in range(2):
            gain = 0.0
            while unit < ahead:
                gain += _single(law, unit, first, second)
                if law <= RATE:
                    along = drift * (unit - seen[item])
                    scale = 1.0 / (curve[item, TOTAL] + along)
                    first *= (curve[item, GROWTH] + along) * scale
                    second *= (curve[item, DECAY] + along) * scale
                    first = first if first > TINY else 0.0
                    second = second if second > TINY else 0.0
                unit += 1
            if goal == 0:
                total, ahead = gain, ahead + step
            else:
                state[item, GAIN] = gain
        state[item, FIRST], state[item, SECOND] = first, second
        state[item, LAST], state[item, SUM] = np.inf, total
        place[item, AT], place[item, COUNT] = unit, start[item]


@compiled(none(integer, integer, integers, real_table, out_real_table, out_integer_table, integer))
def _step(law: int, step: int, seen: Integers, curve: Floats, state: Floats, place: Integers, item: int) -> None:
    """Takes one item's next rung, whatever it is worth."""
    drift = 1.0 if law == BELIEF else 0.0
    first, second, unit, gain = state[item, FIRST], state[item, SECOND], place[item, AT], 0.0
    for _ in range(step):
        gain += _single(law, unit, first, second)
        if law <= RATE:
            along = drift * (unit - seen[item])
            scale = 1.0 / (curve[item, TOTAL] + along)
            first *= (curve[item, GROWTH] + along) * scale
            second *= (curve[item, DECAY] + along) * scale
            first = first if first > TINY else 0.0
            second = second if second > TINY else 0.0
        unit += 1
    state[item, LAST] = state[item, GAIN]
    state[item, SUM] += state[item, GAIN]
    state[item, FIRST], state[item, SECOND], state[item, GAIN] = first, second, gain
    place[item, AT] = unit
    place[item, COUNT] += 1


@compiled(integer(integer, integer, integers, real_table, out_real_table, out_integer_table, integers, real, integer))
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
    drift = 1.0 if law == BELIEF else 0.0
    taken = 0
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
            for _ in range(step):
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


@compiled(none(out_real_table, out_integer_table, out_real_table, out_integer_table))
def _copy(state: Floats, place: Integers, to_state: Floats, to_place: Integers) -> None:
    for item in range(len(state)):
        for column in range(5):
            to_state[item, column] = state[item, column]
        to_place[item, AT], to_place[item, COUNT] = place[item, AT], place[item, COUNT]


@compiled(real(out_reals, integer))
def _ranked(numbers: Floats, rank: int) -> float:
    """The number that would stand at a place if all were sorted; reorders them (quickselect: Hoare, 1961)."""
    low, high = 0, len(numbers) - 1
    while low < high:
        one, two, three = numbers[low], numbers[(low + high) // 2], numbers[high]
        pivot = max(min(one, two), min(max(one, two), three))
        left, right = low, high
        while left <= right:
            while numbers[left] < pivot:
                left += 1
            while numbers[right] > pivot:
                right -= 1
            if left <= right:
                numbers[left], numbers[right] = numbers[right], numbers[left]
                left += 1
                right -= 1
        if rank <= right:
            high = right
        elif rank >= left:
            low = left
        else:
            break
    return numbers[rank]


@compiled(real(real, integer))
def _moved(price: float, bits: int) -> float:
    """The float so many bit patterns away, 0 where that would be below."""
    cell = np.empty(1)
    cell[0] = price
    pattern = cell.view(np.int64)
    pattern[0] = max(pattern[0] + bits, 0)
    return cell[0]


@compiled(real(real, real))
def _between(low: float, high: float) -> float:
    """The float halfway between two, by bit pattern: near their geometric mean."""
    cell = np.empty(2)
    cell[0], cell[1] = low, high
    pattern = cell.view(np.int64)
    pattern[0] = pattern[0] + (pattern[1] - pattern[0]) // 2
    return cell[0]


@compiled(
    integer(
        integer, integer, integers, real_table, out_real_table, out_integer_table, integers, integer, real, integer,
        integer, out_reals,
    )
)  # fmt: skip
def _settle(
    law: int,
    step: int,
    seen: Integers,
    curve: Floats,
    state: Floats,
    place: Integers,
    cap: Integers,
    wanted: int,
    price: float,
    width: int,
    spare: int,
    level: Floats,
) -> int:
    """Takes rungs at falling prices until the `wanted` last ones are known to a level; how many are still wanted.

    level[0]: every rung taken is worth more than it, and those still wanted are worth exactly it.
    """
    tried, stood = state.copy(), place.copy()
    low, high = -1.0, np.inf
    while wanted > 0:
        _copy(state, place, tried, stood)
        taken = climb(law, step, seen, curve, tried, stood, cap, price, wanted + spare)
        if taken <= wanted:
            _copy(tried, stood, state, place)
            wanted -= taken
            high = price
            if price == 0.0:
                break
        elif taken <= min(wanted, spare) + spare:
            ahead = np.empty(taken)
            size = 0
            for item in range(len(curve)):
                target = stood[item, COUNT]
                for column in range(5):
                    tried[item, column] = state[item, column]
                stood[item, AT], stood[item, COUNT] = place[item, AT], place[item, COUNT]
                while stood[item, COUNT] < target:
                    ahead[size] = tried[item, GAIN]
                    size += 1
                    _step(law, step, seen, curve, tried, stood, item)
            high = _ranked(ahead, taken - wanted)
            wanted -= climb(law, step, seen, curve, state, place, cap, high, wanted)
            break
        else:
            low = price
        if low < 0.0:
            price = _moved(price, -width)
            width *= 2
        elif high == np.inf:
            price = _moved(price, width)
            width *= 2
        else:
            price = _between(low, high)
            if price <= low or price >= high:
                break
    level[0] = high
    return wanted


@compiled(none(integer, integer, integers, real_table, out_real_table, out_integer_table, integers, integer, real))
def _share(
    law: int,
    step: int,
    seen: Integers,
    curve: Floats,
    state: Floats,
    place: Integers,
    cap: Integers,
    wanted: int,
    level: float,
) -> None:
    """Takes rungs worth exactly a level, one per item and round, in the order of the items."""
    tied = np.empty(len(curve), np.int64)
    size = 0
    for item in range(len(curve)):
        if state[item, GAIN] == level and place[item, COUNT] < cap[item]:
            tied[size] = item
            size += 1
    while wanted > 0 and size > 0:
        kept = 0
        for entry in range(size):
            item = tied[entry]
            if wanted > 0:
                _step(law, step, seen, curve, state, place, item)
                wanted -= 1
            if state[item, GAIN] == level and place[item, COUNT] < cap[item]:
                tied[kept] = item
                kept += 1
        size = kept


@compiled(real(integer, integer, integers, real_table, out_real_table, out_integer_table, integers, integer))
def take(
    law: int, step: int, seen: Integers, curve: Floats, state: Floats, place: Integers, cap: Integers, wanted: int
) -> float:
    """Takes the `wanted` best rungs of all that lie below the caps, as many as there are; the least value among them.

    Of rungs that tie at it, every item gets one in turn, the first items first.
    """
    level = np.full(1, np.inf)
    if wanted <= 0:
        return np.inf
    size, top = len(curve), 0.0
    for item in range(size):
        if place[item, COUNT] < cap[item]:
            top = max(top, state[item, GAIN])
    price, width = top, COARSE
    if size > 2 * SAMPLE:
        stride = min(size // SAMPLE, SHARE)
        rows = size // stride
        few, tried, stood = np.empty((rows, 5)), np.empty((rows, 5)), np.empty((rows, 2), np.int64)
        before, most = np.empty(rows, np.int64), np.empty(rows, np.int64)
        for row in range(rows):
            item = row * stride
            before[row], most[row] = seen[item], cap[item]
            for column in range(5):
                few[row, column], tried[row, column] = curve[item, column], state[item, column]
            stood[row, AT], stood[row, COUNT] = place[item, AT], place[item, COUNT]
        goal = max(wanted * rows // size, 1)
        _settle(law, step, before, few, tried, stood, most, goal, top, COARSE, 8, level)
        # A little dearer than the sample says: what is taken there stays taken, what is too much is climbed again.
        price, width = min(_moved(level[0], FINE), top), FINE
    wanted = _settle(law, step, seen, curve, state, place, cap, wanted, price, width, size + SPARE, level)
    _share(law, step, seen, curve, state, place, cap, wanted, level[0])
    return level[0]


@compiled(none(integer, integer, integers, real_table, out_real_table, out_integer_table, integers, out_real_table))
def tabulate(
    law: int, step: int, seen: Integers, curve: Floats, state: Floats, place: Integers, cap: Integers, values: Floats
) -> None:
    """(items × rungs) the SUM at every rung from where each item stands to its cap, the last one repeated after it."""
    for item in range(len(curve)):
        for rung in range(values.shape[1]):
            values[item, rung] = state[item, SUM]
            if place[item, COUNT] < cap[item]:
                _step(law, step, seen, curve, state, place, item)


@compiled(none(reals, reals, integers, out_reals))
def running_product(start: Floats, total: Floats, further: Integers, product: Floats) -> None:
    """(items,) Π_{j < further} (start + j)/(total + j)."""
    for item in range(len(start)):
        worth = 1.0
        for unit in range(further[item]):
            worth *= (start[item] + unit) / (total[item] + unit)
            if worth == 0.0:
                break
        product[item] = worth
