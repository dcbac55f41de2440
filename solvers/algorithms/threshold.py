"""The threshold at which what lies above it costs about what there is to spend: machine code.

The first search is over closed forms of the counts, by secants on the logarithms of the threshold and of what is
spent, which along power laws lie nearly on a line; the second is over the counts themselves, to the last key. Both
keep the threshold between bounds, so that they end whatever the curves are. A step is O(groups), whatever the counts
are; the keys are those of `demand.py`.
"""

from __future__ import annotations

import numpy as np

from ...specs.arrays import Floats, Integers
from ..machine import compiled, integer, out_integers, out_real_table, out_reals, real
from .demand import AHEAD, BEHIND, ENDLESS, LEVEL, WORTH, count, key
from .learning_curves import (
    BASE,
    COLLECTED,
    COST,
    EXPONENT,
    FIRST,
    LOT,
    LOW,
    OPENING,
    PLAIN,
    POWER,
    PULL,
    SCALE,
    TOP,
    WEIGHT,
    ZERO,
    law_gain,
    law_log_at_price,
    log_at_level,
    log_at_price,
    tables,
)

FULL = 1 << 62
"""Stands for more money than there is."""
FEW = 32
"""Lots per group, on average, that are bought or given back one by one, at most, once a threshold is found."""
TINY = 1e-290
"""Keys below this are as good as none: nearer to 0, floats no longer tell one lot from the next."""
NEAR = 0.1
"""How near to the budget the closed forms need to come, in lots of every group: the rest is bought one by one."""


@compiled(real(integer, *tables, real, out_integers, out_reals, out_reals))
def _roughly(
    kind: int,
    curve: Floats,
    bend: Floats,
    whole: Integers,
    log_threshold: float,
    counts: Integers,
    active: Floats,
    edge: Floats,
) -> float:
    """About what the lots above a threshold cost, by closed forms; and a guess at each count.

    active[0]: what one lot more of every group that is between its bounds would cost. edge: room for two keys.
    """
    threshold, spent = np.exp(log_threshold), 0.0
    active[0] = 0.0
    for group in range(len(whole)):
        low, top, cost = whole[group, LOW], whole[group, TOP], float(whole[group, COST])
        if low == top:
            spent += cost * low
            continue
        if kind == LEVEL:
            log = log_at_level(curve, bend, whole, group, threshold)
        elif whole[group, PLAIN]:  # as `log_at_price` has it, without handing over the tables
            base, scale, exponent = curve[group, BASE], curve[group, SCALE], curve[group, EXPONENT]
            samples = max(whole[group, COLLECTED] + counts[group] * whole[group, LOT], 1)
            pull = curve[group, PULL] - log_threshold
            log = law_log_at_price(base, scale, exponent, curve[group, POWER], pull, samples)
        else:
            log = log_at_price(curve, bend, whole, group, log_threshold, counts[group])
        if np.isnan(log):
            lots = count(kind, curve, bend, whole, threshold, group, counts[group], edge)
            counts[group] = lots
            spent += cost * lots
            active[0] += cost if low < lots < top else 0.0
            continue
        aim = (min(np.exp(log), ENDLESS) - whole[group, COLLECTED]) / whole[group, LOT]
        if kind == WORTH:
            aim -= 0.5  # a lot is worth about its middle
            if whole[group, OPENING] > 0:
                if curve[group, FIRST] / cost > threshold:
                    low += whole[group, OPENING]
                else:
                    aim = float(low)
        elif aim <= low and whole[group, COLLECTED] + low * whole[group, LOT] == 0 and curve[group, ZERO] > threshold:
            aim = 0.5  # the curve says nothing of no samples at all
        if aim <= low:
            counts[group] = low
            spent += cost * low
        elif aim >= top:
            counts[group] = top
            spent += cost * top
        else:
            counts[group] = int(np.ceil(aim))
            spent += cost * min(aim + 0.5, float(top))
            active[0] += cost
    return spent


@compiled(real(integer, *tables, integer, real, real, out_integers))
def rough_threshold(
    kind: int, curve: Floats, bend: Floats, whole: Integers, room: int, floor: float, start: float, counts: Integers
) -> float:
    """A threshold, by closed forms, at which about the room is spent; and a guess at each count."""
    active, edge, base = np.empty(1), np.empty(2), 0.0
    for group in range(len(whole)):
        base += float(whole[group, COST]) * whole[group, LOW]
        counts[group] = whole[group, LOW]
    above = max(room - base, 1.0)
    low, high = max(np.log(max(floor, 1e-300)), -690.0), 690.0
    at, before, over_before, slope = min(max(np.log(max(start, 1e-300)), low), high), 0.0, np.nan, -0.7
    for turn in range(60):
        money = _roughly(kind, curve, bend, whole, at, counts, active, edge)
        if abs(money - room) <= NEAR * active[0]:
            break
        # Along power laws, the logarithm of what is spent is nearly straight in that of the threshold.
        over = np.log(max(money - base, 1e-9 * above) / above)
        if over > 0.0:
            low = at
        else:
            high = at
        slope = (over - over_before) / (at - before) if turn > 0 else slope
        following = at - over / slope if -20.0 < slope < -0.05 else (low + high) / 2.0
        if turn % 4 == 3 or not low < following < high:
            following = (low + high) / 2.0 if high - low < 10.0 else min(max(at + np.sign(over), low), high)
        before, over_before, at = at, over, following
        if high - low <= 1e-13 * max(abs(low), abs(high), 1.0):
            break
    return max(np.exp(at), floor)


@compiled(real(*tables, integer))
def usual_price(curve: Floats, bend: Floats, whole: Integers, room: int) -> float:
    """The mean of a few keys, taken in their logarithms, where every group has as many lots more."""
    each, base = 0.0, 0.0
    for group in range(len(whole)):
        base += float(whole[group, COST]) * whole[group, LOW]
        each += float(whole[group, COST])
    more, total, found = max(room - base, 0.0) / max(each, 1.0), 0.0, 0
    for group in range(0, len(whole), max(len(whole) // 32, 1)):
        low, top = whole[group, LOW], whole[group, TOP]
        if low < top:
            worth = key(WORTH, curve, bend, whole, group, low + int(min(more, float(top - low - 1))))
            total += np.log(worth) if worth > 0.0 else 0.0
            found += 1 if worth > 0.0 else 0
    return np.exp(total / found) if found > 0 else 1.0


@compiled(integer(integer, integer, integer))
def plus(spent: int, cost: int, lots: int) -> int:
    """Money and what so many lots cost, or as much as there could be."""
    return spent + cost * lots if float(spent) + float(cost) * float(lots) < ENDLESS else FULL


@compiled(integer(integer, *tables, real, out_integers, out_real_table, out_integers))
def _spent(
    kind: int,
    curve: Floats,
    bend: Floats,
    whole: Integers,
    threshold: float,
    counts: Integers,
    edge: Floats,
    each: Integers,
) -> int:
    """What the lots above a threshold cost, looked for from the counts given.

    each: what a lot of every group costs that is not settled, what the cheapest of them does, and all lots.
    """
    money = 0
    each[0], each[1], each[2] = 0, FULL, 0
    for group in range(len(whole)):
        low, lots, top, cost = whole[group, LOW], counts[group], whole[group, TOP], whole[group, COST]
        lot, ahead, behind = whole[group, LOT], -1.0, np.inf
        samples, found = whole[group, COLLECTED] + lots * lot, low == top
        if low < top:
            each[0] = plus(each[0], cost, 1)
            each[1] = min(each[1], cost)
            if kind == WORTH and whole[group, PLAIN] and whole[group, OPENING] == 0 and samples > lot:
                # The guess is nearly always right: the two keys that show it, at the least expense.
                base, scale, exponent = curve[group, BASE], curve[group, SCALE], curve[group, EXPONENT]
                weight, power = curve[group, WEIGHT], curve[group, POWER]
                if lots < top:
                    ahead = law_gain(base, scale, exponent, weight, power, samples, lot) / cost
                if lots > low:
                    behind = law_gain(base, scale, exponent, weight, power, samples - lot, lot) / cost
                found = ahead <= threshold < behind
        if found:
            edge[group, AHEAD], edge[group, BEHIND] = ahead, behind
        else:
            counts[group] = count(kind, curve, bend, whole, threshold, group, lots, edge[group])
        money = plus(money, cost, counts[group])
        each[2] = plus(each[2], 1, counts[group])
    return money


@compiled(real(real, real))
def _between(cheap: float, dear: float) -> float:
    """Halfway between two thresholds, in their logarithms if they are far apart."""
    return cheap + (dear - cheap) / 2.0 if dear <= 4.0 * cheap else np.sqrt(cheap) * np.sqrt(dear)


@compiled(real(integer, *tables, integer, real, real, out_integers, out_real_table, out_integers))
def true_threshold(
    kind: int,
    curve: Floats,
    bend: Floats,
    whole: Integers,
    room: int,
    floor: float,
    threshold: float,
    counts: Integers,
    edge: Floats,
    spent: Integers,
) -> float:
    """A threshold at which the room is spent but for a few lots of every group, or none comes nearer; true counts.

    Those lots are few however much dearer one group's are than another's.
    """
    cheap, dear, factor, each = 0.0, np.inf, 1.0 + 1e-4, np.empty(3, np.int64)
    most, fewest, few = FULL, -1, FEW * (len(whole) + 1)
    while True:
        money = _spent(kind, curve, bend, whole, threshold, counts, edge, each)
        spent[0] = money
        if money <= room and threshold <= max(floor, 1e-300):
            return threshold
        if money < FULL and abs(money - room) <= each[0] and abs(money - room) // max(each[1], 1) <= few:
            return threshold
        if money > room:
            cheap, most = threshold, each[2]
            threshold = threshold * factor if dear == np.inf else _between(cheap, dear)
        else:
            dear, fewest = threshold, each[2]
            threshold = threshold / factor if cheap == 0.0 else _between(cheap, dear)
        if money < FULL and fewest >= 0 and most - fewest <= few:
            return cheap if money > room else dear
        threshold, factor = max(threshold, floor), factor * factor
        if money <= room and not cheap < threshold < dear and threshold > floor:
            return dear
        if not cheap < threshold < dear and threshold > floor:
            threshold = dear
