"""One count per item out of a table of what counts are worth, within a budget of whole units: machine code.

    maximise Σ value[i, k_i]   subject to   Σ cost_i·k_i ≤ room (or = room, at unit costs),  0 ≤ k_i ≤ top_i

The linear relaxation climbs each item's upper hull, the steepest step first (Sinha and Zoltners, "The
multiple-choice knapsack problem", 1979; Dyer, 1984; Zemel, 1984); its critical slope is found by weighted
selection, without sorting. Its price λ bounds every plan by Σ max_k (value − λ·cost·k) + λ·room. What is left over
is filled in; where that is not close enough, `exchange.py` goes on from the counts in doubt.
"""

from __future__ import annotations

import numpy as np

from ...specs.arrays import Floats, Integers
from ..machine import (
    compiled,
    flag,
    integer,
    integers,
    none,
    out_integer_table,
    out_integers,
    out_reals,
    real,
    real_table,
    reals,
)

FILLS = 200
"""Rounds of filling in what is left over, at most."""


@compiled(none(real_table, integers, flag, out_integer_table, out_integers))
def hulls(values: Floats, top: Integers, falling: bool, corner: Integers, corners: Integers) -> None:
    """The counts at the corners of every item's upper hull, in order, and how many there are.

    Counts on a straight line are corners too. Unless `falling`, the hull ends at the largest value.
    """
    for item in range(len(top)):
        size = 0
        for count in range(top[item] + 1):
            value = values[item, count]
            if not falling and size > 0 and value <= values[item, corner[item, size - 1]]:
                continue
            while size > 1:
                last, before = corner[item, size - 1], corner[item, size - 2]
                rise = (values[item, last] - values[item, before]) * (count - last)
                if rise >= (value - values[item, last]) * (last - before):
                    break
                size -= 1
            corner[item, size] = count
            size += 1
        corners[item] = size


@compiled(real(real_table, integers, out_integer_table, out_integers, real, flag))
def critical(values: Floats, cost: Integers, corner: Integers, corners: Integers, room: float, whole: bool) -> float:
    """The price at which the steps up the hulls use up the room; 0 (or, if `whole`, the least) if all of them fit.

    Weights are added up as floats: whole ones are exact as far as the room reaches.
    """
    size = 0
    for item in range(len(corners)):
        size += corners[item] - 1
    slope, weight = np.empty(size), np.empty(size)
    size, least = 0, 0.0
    for item in range(len(corners)):
        for step in range(1, corners[item]):
            low, high = corner[item, step - 1], corner[item, step]
            weight[size] = float(cost[item]) * (high - low)
            slope[size] = (values[item, high] - values[item, low]) / weight[size]
            least = min(least, slope[size])
            size += 1
    low, high = 0, size - 1
    while low <= high:
        one, two, three = slope[low], slope[(low + high) // 2], slope[high]
        pivot = max(min(one, two), min(max(one, two), three))
        # Three parts: above the pivot, at it, below it.
        above, at, below = low, low, high
        heavier, same = 0.0, 0.0
        while at <= below:
            if slope[at] > pivot:
                heavier += weight[at]
                slope[at], slope[above] = slope[above], slope[at]
                weight[at], weight[above] = weight[above], weight[at]
                above += 1
                at += 1
            elif slope[at] == pivot:
                same += weight[at]
                at += 1
            else:
                slope[at], slope[below] = slope[below], slope[at]
                weight[at], weight[below] = weight[below], weight[at]
                below -= 1
        if heavier > room:
            high = above - 1
        elif heavier + same > room:
            return pivot
        else:
            room -= heavier + same
            low = below + 1
    return least if whole else 0.0


@compiled(integer(real_table, integers, out_integer_table, out_integers, integer, real, flag, out_integers, out_reals))
def relax(
    values: Floats,
    cost: Integers,
    corner: Integers,
    corners: Integers,
    room: int,
    price: float,
    whole: bool,
    counts: Integers,
    surplus: Floats,
) -> int:
    """The best counts at the critical price, steps that tie filled in as far as they fit; what is left of the room.

    surplus: (items,) value − price·cost·count there, which no other count exceeds.
    """
    places = np.zeros(len(corners), np.int64)
    for item in range(len(corners)):
        place = 0
        while place + 1 < corners[item]:
            low, high = corner[item, place], corner[item, place + 1]
            if not (values[item, high] - values[item, low]) / (float(cost[item]) * (high - low)) > price:
                break
            place += 1
        counts[item] = corner[item, place]
        surplus[item] = values[item, counts[item]] - price * float(cost[item]) * counts[item]
        places[item] = place
        room -= cost[item] * counts[item]
    for item in range(len(corners)):
        place = places[item]
        while place + 1 < corners[item] and (price > 0.0 or whole):
            low, high = corner[item, place], corner[item, place + 1]
            weight = cost[item] * (high - low)
            if weight > room or (values[item, high] - values[item, low]) / float(weight) < price:
                break
            room -= weight
            place += 1
        counts[item] = corner[item, place]
    return room


@compiled(integer(real_table, integers, integers, integer, real, flag, integer, out_integers))
def fill(
    values: Floats, cost: Integers, top: Integers, room: int, price: float, whole: bool, rounds: int, counts: Integers
) -> int:
    """Spends what is left over: one step after the other that loses least at the price, or gains most if the room
    need not be used up. What is left of the room."""
    charge = price if whole else 0.0
    while room > 0 and (rounds > 0 or whole):
        rounds -= 1
        best, chosen, target = (-np.inf if whole else 0.0), -1, 0
        for item in range(len(counts)):
            here = counts[item]
            for count in range(here + 1, min(top[item], here + room // cost[item]) + 1):
                gain = values[item, count] - values[item, here] - charge * float(cost[item]) * (count - here)
                if gain > best:
                    best, chosen, target = gain, item, count
        if chosen < 0:
            break
        room -= cost[chosen] * (target - counts[chosen])
        counts[chosen] = target
    return room


@compiled(
    integer(
        real_table, integers, integers, real, reals, real, out_integers, out_integers, out_integers, out_reals
    )
)  # fmt: skip
def in_doubt(
    values: Floats,
    cost: Integers,
    top: Integers,
    price: float,
    surplus: Floats,
    short: float,
    counts: Integers,
    group: Integers,
    shift: Integers,
    regret: Floats,
) -> int:
    """How many counts lose less than `short` at the price against an item's best one.

    counts: (items,) the best ones. group, shift: which item it is, and by how much it differs from its best count,
    which is among them; regret: what it loses.
    """
    size = 0
    for item in range(len(top)):
        least, best, first = np.inf, 0, size
        for count in range(top[item] + 1):
            loss = max(surplus[item] - (values[item, count] - price * float(cost[item]) * count), 0.0)
            if loss < least:
                least, best = loss, count
            if loss < short:
                group[size], shift[size], regret[size] = item, count, loss
                size += 1
        if not least < short:
            group[size], shift[size] = item, best
            size += 1
        counts[item] = best
        for entry in range(first, size):
            shift[entry] -= best
            if shift[entry] == 0:
                regret[entry] = 0.0
    return size


@compiled(real(real_table, reals, out_integer_table, out_integers, real, real))
def bound(values: Floats, cost: Floats, corner: Integers, corners: Integers, room: float, price: float) -> float:
    """The Lagrangian bound at a price: Σ max_k (value − price·cost·k) + price·room (Neumaier's sum)."""
    total, lost = price * room, 0.0
    for item in range(len(corners)):
        best = -np.inf
        for place in range(corners[item]):
            best = max(best, values[item, corner[item, place]] - price * cost[item] * corner[item, place])
        after = total + best
        lost += (total - after) + best if abs(total) >= abs(best) else (best - after) + total
        total = after
    return total + lost
