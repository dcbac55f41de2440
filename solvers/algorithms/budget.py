"""The best way to spread a number of pieces over items whose further pieces are worth less and less: machine code.

    maximise Σ value_i(n_i)   subject to   Σ n_i = N,  low_i ≤ n_i ≤ cap_i,  n whole,  every value concave

The optimum takes the N best marginal values (Fox, "Discrete optimization via marginal analysis", 1966; Gross, 1956).
They are never tabulated: each item climbs its own sequence (`rungs.py`) as long as the next marginal value beats a
price; the price is found by bisection on the bits of a float, and the last few pieces by selection. A solve
takes O(N + items) steps times a small constant, and O(items) memory, whatever the caps are.
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
)
from .rungs import AT, COUNT, GAIN, climb, take_rung

SAMPLE, SHARE = 64, 16
"""The price is first looked for on one of so many items, and on so many at least."""
SPARE = 512
"""Rungs beyond one per item among which the last ones are selected directly."""
FINE, COARSE = 1 << 49, 1 << 52
"""Bits of a float that a price moves by at first: about a tenth, and a factor of two."""


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
                    take_rung(law, step, seen, curve, tried, stood, item)
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
                take_rung(law, step, seen, curve, state, place, item)
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
