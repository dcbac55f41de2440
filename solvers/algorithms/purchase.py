"""Lots bought in the order of what each of them is worth, down to the level that a budget reaches: machine code.

Every lot whose key (`demand.py`) is above a threshold is bought, and the threshold is the lowest that the budget
allows. By worth, that is marginal analysis (Fox, "Discrete optimization via marginal analysis", 1966), exact where what
it leaves of the budget is nothing, and otherwise a Lagrangian bound (Everett, 1963); by level, it is the smallest
largest loss. Once the threshold is found (`threshold.py`), the last few lots are bought, or given back, one after the
other from a heap: O(groups·log groups) in all, whatever the counts are.
"""

from __future__ import annotations

import numpy as np

from ...specs.arrays import Floats, Integers
from ..machine import (
    compiled,
    flag,
    integer,
    integer_table,
    none,
    out_integer_table,
    out_integers,
    out_real_table,
    out_reals,
    real,
    reals,
)
from .demand import AHEAD, BEHIND, LEVEL, WORTH, count, count_between, key
from .learning_curves import COLLECTED, COST, LOT, LOW, OPENING, POWER, TOP, WEIGHT, loss_at, part, tables
from .threshold import FEW, FULL, TINY, plus, rough_threshold, true_threshold, usual_price


@compiled(none(reals, out_integers, integer, integer))
def _sink(keys: Floats, heap: Integers, size: int, place: int) -> None:
    """Puts an entry of a heap, the largest key and then the first group on top, where it belongs further down."""
    item = heap[place]
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size:
            one, other = heap[child], heap[child + 1]
            if keys[other] > keys[one] or (keys[other] == keys[one] and other < one):
                child += 1
        below = heap[child]
        if keys[item] > keys[below] or (keys[item] == keys[below] and item < below):
            break
        heap[place] = below
        place = child
    heap[place] = item


@compiled(integer(*tables, integer, integer))
def _stride(curve: Floats, bend: Floats, whole: Integers, group: int, lots: int) -> int:
    """How many lots are bought together after so many."""
    return max(whole[group, OPENING], 1) if lots == whole[group, LOW] else 1


@compiled(flag(integer_table, integer, integer, integer))
def _fits(whole: Integers, group: int, lots: int, left: int) -> bool:
    """Whether so many lots of a group can be paid: a matter of integers, and of none that leaves int64."""
    return whole[group, COST] == 0 or lots <= left // whole[group, COST]


@compiled(real(integer, *tables, real, flag, real, out_integers, out_real_table, out_integers, out_reals))
def _raise(
    kind: int,
    curve: Floats,
    bend: Floats,
    whole: Integers,
    floor: float,
    skipping: bool,
    price: float,
    counts: Integers,
    edge: Floats,
    left: Integers,
    lost: Floats,
) -> float:
    """Buys the next lot with the largest key until one cannot be paid, whose key is returned; `floor` if all can.

    skipping: goes on without those; lost[0] then grows by what the lots are worth less than a price.
    """
    keys, heap, size = np.empty(len(whole)), np.empty(len(whole), np.int64), 0
    for group in range(len(whole)):
        keys[group] = edge[group, AHEAD]
        fits = _fits(whole, group, _stride(curve, bend, whole, group, counts[group]), left[0])
        if keys[group] > floor and (fits or not skipping):
            heap[size] = group
            size += 1
    for place in range(size // 2 - 1, -1, -1):
        _sink(keys, heap, size, place)
    while size > 0:
        group = int(heap[0])
        largest, lots, following = keys[group], _stride(curve, bend, whole, group, counts[group]), -1.0
        if kind == LEVEL:
            here, below = counts[group], float(np.nextafter(largest, -1.0))
            goal = count_between(kind, curve, bend, whole, below, group, here + 1, here, whole[group, TOP], edge[group])
            lots = goal - here
            if lots == 0:
                return largest
            following = key(kind, curve, bend, whole, group, goal)
        if not _fits(whole, group, lots, left[0]):
            if not skipping:
                return largest
            following = floor
        else:
            left[0] -= whole[group, COST] * lots
            counts[group] += lots
            if kind == WORTH:
                lost[0] += (price - largest) * (whole[group, COST] * lots)
                if counts[group] < whole[group, TOP]:
                    following = key(kind, curve, bend, whole, group, counts[group])
                edge[group, AHEAD], edge[group, BEHIND] = following, largest
            keys[group] = following
        if following <= floor:
            size -= 1
            heap[0] = heap[size]
        if size > 0:
            _sink(keys, heap, size, 0)
    return floor


@compiled(real(integer, *tables, out_integers, out_real_table, out_integers))
def _lower(
    kind: int, curve: Floats, bend: Floats, whole: Integers, counts: Integers, edge: Floats, left: Integers
) -> float:
    """Gives back the lot with the smallest key, the last group's of equals, until nothing is overspent; its key."""
    last, smallest = len(whole) - 1, 0.0
    keys, heap, size = np.empty(len(whole)), np.empty(len(whole), np.int64), 0
    for place in range(len(whole)):
        keys[place] = -edge[last - place, BEHIND]
        if keys[place] > -np.inf:
            heap[size] = place
            size += 1
    for place in range(size // 2 - 1, -1, -1):
        _sink(keys, heap, size, place)
    while left[0] < 0 and size > 0:
        place = int(heap[0])
        group = last - place
        smallest, low, here = -keys[place], whole[group, LOW], counts[group]
        if kind == LEVEL:
            goal = count_between(kind, curve, bend, whole, smallest, group, here - 2, low, here - 1, edge[group])
        else:
            opening = whole[group, OPENING]
            goal = low if here == low + opening and opening > 0 else here - 1
            edge[group, AHEAD], edge[group, BEHIND] = smallest, np.inf
            if goal > low:
                edge[group, BEHIND] = key(kind, curve, bend, whole, group, low if goal == low + opening else goal - 1)
        left[0] += whole[group, COST] * (here - goal)
        counts[group] = goal
        keys[place] = -edge[group, BEHIND]
        if goal == low:
            size -= 1
            heap[0] = heap[size]
        if size > 0:
            _sink(keys, heap, size, 0)
    return smallest


@compiled(flag(*tables, out_integers, out_real_table, out_integers, out_integer_table))
def _frozen(
    curve: Floats,
    bend: Floats,
    whole: Integers,
    counts: Integers,
    edge: Floats,
    left: Integers,
    rest: Integers,
) -> bool:
    """Tables `rest` to spend what is left on: from the counts on, and no group whose next lot cannot be paid.

    Whether so many lots could still be bought that to buy them one by one would take long.
    """
    cheapest, able = FULL, 0
    rest[:] = whole
    for group in range(len(whole)):
        stride = _stride(curve, bend, whole, group, counts[group])
        rest[group, LOW] = counts[group]
        if counts[group] != whole[group, LOW]:
            rest[group, OPENING] = 0
        if edge[group, AHEAD] > TINY and counts[group] < whole[group, TOP] and _fits(whole, group, stride, left[0]):
            cheapest = min(cheapest, whole[group, COST])
            able += 1
        else:
            rest[group, TOP], rest[group, OPENING] = counts[group], 0
    return able > 0 and left[0] // max(cheapest, 1) > FEW * (len(whole) + 1)


@compiled(none(*tables, integer, real, real, out_integers, out_real_table, out_integers, out_reals))
def _spend(
    curve: Floats,
    bend: Floats,
    whole: Integers,
    room: int,
    floor: float,
    price: float,
    counts: Integers,
    edge: Floats,
    left: Integers,
    lost: Floats,
) -> None:
    """Spends what is left on whatever still fits, the best first; lost[0]: what that is worth less than a price, added.

    Many lots are bought by a threshold of their own, once for every group that becomes too dear on the way.
    """
    rest, spent, before = np.empty(whole.shape, np.int64), np.zeros(1, np.int64), np.empty(len(whole), np.int64)
    at, unused = price, np.empty(1)
    while left[0] > 0 and _frozen(curve, bend, whole, counts, edge, left, rest):
        before[:] = counts
        start = rough_threshold(WORTH, curve, bend, rest, room, floor, at, counts)
        at = true_threshold(WORTH, curve, bend, rest, room, floor, start, counts, edge, spent)
        left[0] = room - spent[0]
        if left[0] < 0:
            at = _lower(WORTH, curve, bend, rest, counts, edge, left)
        else:
            at = _raise(WORTH, curve, bend, rest, floor, False, 0.0, counts, edge, left, unused)
        at = max(at, floor)
        for group in range(len(whole)):
            if counts[group] > before[group]:
                samples, lot = whole[group, COLLECTED], whole[group, LOT]
                loss = loss_at(curve, bend, whole, group, samples + before[group] * lot)
                fall = loss - loss_at(curve, bend, whole, group, samples + counts[group] * lot)
                worth = part(fall, loss, curve[group, WEIGHT], curve[group, POWER])
                cost = float(whole[group, COST]) * (counts[group] - before[group])
                lost[0] += max(price * cost - worth, 0.0)
        # The keys of groups that were frozen, and of those that were opened, as the whole tables have them.
        for group in range(len(whole)):
            here = counts[group]
            edge[group, AHEAD] = key(WORTH, curve, bend, whole, group, here) if here < whole[group, TOP] else -1.0
            edge[group, BEHIND] = np.inf  # nothing is given back any more
        if (counts == before).all():
            break
    if left[0] > 0:
        _raise(WORTH, curve, bend, whole, floor, True, price, counts, edge, left, lost)


@compiled(none(integer, *tables, integer, real, out_integers, out_real_table, out_integers, out_reals))
def purchase(
    kind: int,
    curve: Floats,
    bend: Floats,
    whole: Integers,
    room: int,
    floor: float,
    counts: Integers,
    edge: Floats,
    left: Integers,
    found: Floats,
) -> None:
    """Buys what lies above the lowest threshold that the room pays for: found[0], where to begin from if it is not 0.

    By worth, every lot bought then has a key of at least the threshold and every other one at most that (0 if there
    is nothing left to wish for); what is left over is then spent on whatever still fits, the best first, and found[1]
    is by how much all that falls short of the Lagrangian bound at the threshold. By level, the threshold is the
    largest loss, except that of groups whose TOP is their LOW.

    floor: no threshold below this is looked for: 0 by worth, and by level the loss of the group worst off at its TOP.
    left[0]: the room that is left. edge: (groups × 2) keys, for the next call. Lots at LOW must be affordable.
    """
    start, spent, money = found[0], np.zeros(1, np.int64), 0
    floor = max(floor, TINY) if kind == WORTH else floor
    found[1] = 0.0
    for group in range(len(whole)):
        money = plus(money, whole[group, COST], whole[group, TOP])
    if kind == WORTH and money <= room:
        left[0] = room
        for group in range(len(whole)):
            counts[group] = count(kind, curve, bend, whole, 0.0, group, whole[group, TOP], edge[group])
            left[0] -= whole[group, COST] * counts[group]
        found[0] = 0.0
        return
    if start <= 0.0:
        start = usual_price(curve, bend, whole, room)
    start = rough_threshold(kind, curve, bend, whole, room, floor, start, counts)
    threshold = true_threshold(kind, curve, bend, whole, room, floor, start, counts, edge, spent)
    left[0] = room - spent[0]
    if left[0] < 0:
        threshold = _lower(kind, curve, bend, whole, counts, edge, left)
    else:
        threshold = _raise(kind, curve, bend, whole, floor, False, 0.0, counts, edge, left, found[1:])
    found[0], found[1] = threshold, 0.0
    if kind == WORTH:
        if left[0] > 0:
            _spend(curve, bend, whole, room, floor, threshold, counts, edge, left, found[1:])
        found[1] += threshold * left[0]
