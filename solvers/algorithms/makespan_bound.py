"""What a placement comes to, and what none can beat: machine code beside `makespan`.

The bound counts. At each point the heaviest worker has at least what it holds and the smallest pieces that its slots
must take with all others full; at least what the lightest worker with a slot has with any one piece that is surely
placed; and at least an even share of all that sits on workers with slots. No search, no relaxation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core.types import BaseTuple
from numpy.typing import NDArray

from ...specs.arrays import Floats, Integers
from ..machine import compiled, flag, flags, integer, integers, none, out_real_table, out_reals, real, real_table, reals

Flags = NDArray[np.bool_]


@compiled(
    integer(integers, real_table, real_table, real_table, real_table, reals, out_real_table, out_reals),
    allocates=False,
)
def _settle(
    placed: Integers, active: Floats, size: Floats, share: Floats, saved: Floats, speed: Floats,
    load: Floats, height: Floats,
) -> int:  # fmt: skip
    """Loads, (workers × points), from what was there and the placed pieces in their order; and the heaviest worker's
    time. Returns how many are placed."""
    workers, points = load.shape
    number = 0
    for at in range(workers):
        for point in range(points):
            load[at, point] = active[point, at]
    for piece in range(len(placed)):
        at = placed[piece]
        if at >= 0:
            number += 1
            less = saved[at, piece] if saved.shape[0] else 0.0
            for point in range(points):
                load[at, point] += size[point, piece] - less * share[point, piece]
    height[:] = 0.0
    for at in range(workers):
        for point in range(points):
            height[point] = max(height[point], load[at, point] / speed[at])
    return number


@compiled(none(real, out_reals))
def _add(value: float, sum: Floats) -> None:
    """Adds to a sum in two parts, as Neumaier does: what rounding takes from the first is kept in the second."""
    total = sum[0] + value
    if abs(sum[0]) >= abs(value):
        sum[1] += (sum[0] - total) + value
    else:
        sum[1] += (value - total) + sum[0]
    sum[0] = total


@compiled(real(reals, reals, reals, real_table, flag))
def objective(weight: Floats, speed: Floats, height: Floats, load: Floats, idle: bool) -> float:
    """Σ weight·height; or, if what is idle counts, Σ weight·(speed·height − load), load (workers × points)."""
    sum = np.zeros(2)
    for point in range(len(weight)):
        if not idle:
            _add(weight[point] * height[point], sum)
            continue
        for at in range(len(speed)):
            _add(weight[point] * (speed[at] * height[point] - load[at, point]), sum)
    return sum[0] + sum[1]


@compiled(real(reals, integer))
def _smallest(values: Floats, number: int) -> float:
    """Sum of the smallest of some values."""
    if number <= 0 or len(values) == 0:
        return 0.0
    total = 0.0
    for value in values if number >= len(values) else np.partition(values, number - 1)[:number]:
        total += value
    return total


@compiled(
    real(
        reals, reals, integers, real_table, real_table, real_table, real_table,
        integers, flags, integer, integer, flag,
    )
)  # fmt: skip
def bound(
    weight: Floats, speed: Floats, slots: Integers, active: Floats, size: Floats, share: Floats, saved: Floats,
    queue: Integers, guarded: Flags, number: int, most: int, idle: bool,
) -> float:  # fmt: skip
    """What no placement of `number` to `most` pieces can beat, where nobody in the queue may overtake a guarded one.

    So the guarded among the first `number` of the queue are placed for sure. active: (points × workers) what each
    holds before. O(points · (pieces + workers·sure pieces)), without `saved`
    O(points · (pieces + workers)).
    """
    points, pieces = size.shape
    workers, total, certain = len(speed), 0, 0
    pace, all_speed, most_forced = 0.0, 0.0, 0
    for at in range(workers):
        total += slots[at]
        all_speed += speed[at]
        pace += speed[at] if slots[at] > 0 else 0.0
    for at in range(workers):
        most_forced = max(most_forced, number - (total - slots[at]))
    sure = np.zeros(pieces, np.bool_)
    for piece in queue[:number]:
        sure[piece] = guarded[piece]
        certain += 1 if guarded[piece] else 0
    open_ = np.flatnonzero(slots > 0)
    low, high = np.zeros(pieces), np.zeros(pieces)  # what an open worker's cache saves at most, at least
    if saved.shape[0] and len(open_):
        low[:], high[:] = -np.inf, np.inf
        for at in open_:
            for piece in range(pieces):
                low[piece], high[piece] = max(low[piece], saved[at, piece]), min(high[piece], saved[at, piece])
    free = np.flatnonzero(~sure)
    least, largest = np.empty(pieces), np.empty(len(free))
    forced = np.zeros(most_forced + 1)
    sum = np.zeros(2)
    for point in range(points):
        for piece in range(pieces):
            least[piece] = size[point, piece] - low[piece] * share[point, piece]
        if most_forced > 0:
            few = np.sort(np.partition(least, most_forced - 1)[:most_forced] if most_forced < pieces else least)
            for rank in range(most_forced):
                forced[rank + 1] = forced[rank] + few[rank]
        height, held, sitting = 0.0, 0.0, 0.0
        for at in range(workers):
            must = max(number - (total - slots[at]), 0)
            height = max(height, (active[point, at] + forced[must]) / speed[at])
            sitting += active[point, at]
            held += active[point, at] if slots[at] > 0 else 0.0
        volume, ceiling, one = 0.0, 0.0, -1.0
        for piece in range(pieces):
            if not sure[piece]:
                continue
            volume += least[piece]
            ceiling += size[point, piece] - high[piece] * share[point, piece]
            if saved.shape[0] == 0:
                one = max(one, size[point, piece])
                continue
            lightest = np.inf
            for at in open_:
                own = size[point, piece] - saved[at, piece] * share[point, piece]
                lightest = min(lightest, (active[point, at] + own) / speed[at])
            height = max(height, lightest if len(open_) else 0.0)
        if one >= 0.0 and len(open_):
            lightest = np.inf
            for at in open_:
                lightest = min(lightest, (active[point, at] + one) / speed[at])
            height = max(height, lightest)
        volume += _smallest(least[free], number - certain)
        if not idle:
            _add(weight[point] * max(height, (held + volume) / pace if pace > 0 else 0.0), sum)
            continue
        for place in range(len(free)):
            largest[place] = high[free[place]] * share[point, free[place]] - size[point, free[place]]
        ceiling = max(ceiling - _smallest(largest, most - certain), volume)
        volume = min(max(height * pace - held, volume), ceiling)
        height = max(height, (held + volume) / pace) if pace > 0 else height
        _add(weight[point] * (height * all_speed - sitting - volume), sum)
    return sum[0] + sum[1]


a_verdict: Any = BaseTuple.from_types((integer, real, real))


@compiled(
    a_verdict(
        integers, integer, reals, reals, integers, real_table, real_table, real_table, real_table,
        integers, flags, flag, out_real_table, out_reals,
    )
)  # fmt: skip
def verdict(
    placed: Integers, most: int, weight: Floats, speed: Floats, slots: Integers, active: Floats,
    size: Floats, share: Floats, saved: Floats, queue: Integers, guarded: Flags, idle: bool,
    load: Floats, height: Floats,
) -> tuple[int, float, float]:  # fmt: skip
    """How many pieces are placed, the objective, and what no placement of as many, or up to `most`, can beat.

    Fills in load, (workers × points), and height, (points,). See `bound` for the rest.
    """
    number = _settle(placed, active, size, share, saved, speed, load, height)
    reached = objective(weight, speed, height, load, idle)
    least = bound(weight, speed, slots, active, size, share, saved, queue, guarded, number, max(number, most), idle)
    return number, reached, least
