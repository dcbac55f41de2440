"""Lots bought in the order of what each of them is worth, down to the level that a budget reaches: machine code.

Every group has a sequence of keys that falls with the lots bought: what the next lot takes off a separable convex
objective per unit of cost (`WORTH`), or the loss that the group is at (`LEVEL`). Every lot whose key is above a
threshold is bought, and the threshold is the lowest that the budget allows. By worth, that is marginal analysis (Fox,
"Discrete optimization via marginal analysis", 1966), exact where what it leaves of the budget is nothing, and otherwise
a Lagrangian bound (Everett, 1963); by level, it is the smallest largest loss.

The threshold is found by a one-dimensional search over closed forms of the counts, then over the counts themselves,
each corrected by the true keys; the last few lots are bought, or given back, one after the other from a heap. That is
O(groups) per step of the search and O(groups·log groups) in all, whatever the counts are.

A group is a row of three tables:

    curve   loss(n) = max(0, BASE + SCALE·n^−EXPONENT − SLOPE·log n + Σ steeper·max(0, knot − log n)), ZERO at n = 0;
            WEIGHT·loss^POWER / POWER in the objective; FIRST: what each lot of the opening block is worth;
            PULL: the logarithm of what a cost of 1 takes off a mean at one sample, by a power law
    bend    rows `starts[group]` to `starts[group + 1]`: KNOT, rising, and by how much it is STEEPER below
    whole   COLLECTED samples, in lots of LOT at COST units; LOW and TOP counts of lots;
            OPENING: lots that only pay together, as the first samples of all may, 0 for none; PLAIN: 1 for power laws
"""

from __future__ import annotations

import numpy as np

from ...specs.arrays import Floats, Integers
from ..machine import (
    compiled,
    flag,
    integer,
    integer_table,
    integers,
    none,
    out_integers,
    out_real_table,
    out_reals,
    real,
    real_table,
    reals,
)

WORTH, LEVEL = 0, 1
BASE, SCALE, EXPONENT, SLOPE, ZERO, WEIGHT, POWER, FIRST, PULL = range(9)
KNOT, STEEPER = 0, 1
COLLECTED, LOT, COST, LOW, TOP, OPENING, PLAIN = range(7)
AHEAD, BEHIND = 0, 1
"""Columns of `edge`: the keys of a group's next lot and of its last one; −1 and infinity where there is none."""
ENDLESS = 2.0**62
"""Stands for as many lots as there could be."""
FULL = 1 << 62
"""Stands for more money than there is."""
NEAR = 0.1
"""How near to the budget the closed forms need to come, in lots of every group: the rest is bought one by one."""
SINGLY = 64
"""Lots that are added up one by one, to the last digit; further ones are a difference of two values."""


@compiled(real(real_table, integers, real_table, integer, integer))
def _loss(curve: Floats, starts: Integers, bend: Floats, group: int, samples: int) -> float:
    """A group's loss at so many samples in all."""
    if samples <= 0:
        return curve[group, ZERO]
    count, loss = float(samples), curve[group, BASE]
    if curve[group, SCALE] > 0.0:
        loss += curve[group, SCALE] * count ** -curve[group, EXPONENT]
    if curve[group, SLOPE] > 0.0 or starts[group] < starts[group + 1]:
        log = np.log(count)
        loss -= curve[group, SLOPE] * log
        for place in range(starts[group], starts[group + 1]):
            loss += bend[place, STEEPER] * max(bend[place, KNOT] - log, 0.0)
    return max(loss, 0.0)


@compiled(real(real, real, real, real))
def _part(fall: float, loss: float, weight: float, power: float) -> float:
    """What a fall of a loss takes off the objective."""
    if power == 1.0:
        return weight * fall
    if loss <= 0.0:
        return 0.0
    return weight * loss**power * -np.expm1(power * np.log1p(-min(fall / loss, 1.0))) / power


@compiled(real(real, real, real, real, real, integer, integer))
def _law_gain(
    base: float, scale: float, exponent: float, weight: float, power: float, samples: int, further: int
) -> float:
    """What so many samples further along a power law take off the objective, to full relative precision."""
    above = scale * samples**-exponent
    return _part(above * -np.expm1(-exponent * np.log1p(further / samples)), base + above, weight, power)


@compiled(real(real_table, integers, real_table, integer_table, integer, integer))
def _gain(curve: Floats, starts: Integers, bend: Floats, whole: Integers, group: int, lots: int) -> float:
    """What one more lot takes off the objective, to full relative precision where that is tiny."""
    further = whole[group, LOT]
    samples = whole[group, COLLECTED] + lots * further
    loss, fall = _loss(curve, starts, bend, group, samples), 0.0
    if samples <= 0:
        fall = loss - _loss(curve, starts, bend, group, further)
    else:
        growth, exponent = np.log1p(further / samples), curve[group, EXPONENT]
        if curve[group, SCALE] > 0.0:
            fall = curve[group, SCALE] * samples**-exponent * -np.expm1(-exponent * growth)
        if not whole[group, PLAIN]:
            log = np.log(samples)
            fall += curve[group, SLOPE] * growth
            for place in range(starts[group], starts[group + 1]):
                fall += bend[place, STEEPER] * min(max(bend[place, KNOT] - log, 0.0), growth)
            fall = min(fall, loss)
    return _part(fall, loss, curve[group, WEIGHT], curve[group, POWER])


@compiled(real(integer, real_table, integers, real_table, integer_table, integer, integer))
def _key(kind: int, curve: Floats, starts: Integers, bend: Floats, whole: Integers, group: int, lots: int) -> float:
    """What decides whether the lot after so many is bought."""
    if kind == LEVEL:
        return _loss(curve, starts, bend, group, whole[group, COLLECTED] + lots * whole[group, LOT])
    if whole[group, OPENING] > 0 and lots == whole[group, LOW]:
        return curve[group, FIRST] / whole[group, COST]
    samples = whole[group, COLLECTED] + lots * whole[group, LOT]
    if whole[group, PLAIN] and samples > 0:
        law = curve[group, BASE], curve[group, SCALE], curve[group, EXPONENT], curve[group, WEIGHT], curve[group, POWER]
        return _law_gain(law[0], law[1], law[2], law[3], law[4], samples, whole[group, LOT]) / whole[group, COST]
    return _gain(curve, starts, bend, whole, group, lots) / whole[group, COST]


@compiled(
    integer(
        integer, real_table, integers, real_table, integer_table, real, integer, integer, integer, integer, out_reals
    )
)  # fmt: skip
def _count(
    kind: int,
    curve: Floats,
    starts: Integers,
    bend: Floats,
    whole: Integers,
    threshold: float,
    group: int,
    guess: int,
    low: int,
    top: int,
    edge: Floats,
) -> int:
    """The fewest lots in [low, top] after which the key is at most a threshold, `top` if there are none.

    Looked for from a guess in strides that double, then by halves.
    """
    over, under, stride, towards = np.inf, -1.0, 1, 0
    start = low
    probe = min(max(guess, low), top - 1)
    while low < top:
        key = _key(kind, curve, starts, bend, whole, group, probe)
        if key > threshold:
            over, low, move = key, probe + 1, 1
        else:
            under, top, move = key, probe, -1
        if towards == 0 or move == towards:
            towards = move
            probe = low + stride - 1 if move > 0 else top - stride
            stride *= 2
        else:
            towards = 2  # turned back once: by halves from here
            probe = low + (top - low) // 2
        probe = min(max(probe, low), top - 1)
    edge[AHEAD], edge[BEHIND] = under, over if low > start else np.inf
    return low


@compiled(integer(integer, real_table, integers, real_table, integer_table, real, integer, integer, out_reals))
def _bought(
    kind: int,
    curve: Floats,
    starts: Integers,
    bend: Floats,
    whole: Integers,
    threshold: float,
    group: int,
    guess: int,
    edge: Floats,
) -> int:
    """The lots of a group with a key above a threshold."""
    low, top = whole[group, LOW], whole[group, TOP]
    if kind == LEVEL or whole[group, OPENING] == 0:
        return _count(kind, curve, starts, bend, whole, threshold, group, guess, low, top, edge)
    first = curve[group, FIRST] / whole[group, COST]
    if first <= threshold:
        edge[AHEAD], edge[BEHIND] = first, np.inf
        return low
    opened = low + whole[group, OPENING]
    count = _count(kind, curve, starts, bend, whole, threshold, group, guess, opened, top, edge)
    if count == opened:
        edge[BEHIND] = first
    return count


@compiled(real(real_table, integers, real_table, integer, real))
def _log_samples(curve: Floats, starts: Integers, bend: Floats, group: int, loss: float) -> float:
    """The logarithm of the samples at which a loss is reached; infinite if it never is, NaN without a closed form."""
    if loss < 0.0:
        return np.inf
    slope, level = curve[group, SLOPE], curve[group, BASE]
    if slope == 0.0 and starts[group] == starts[group + 1]:
        if curve[group, SCALE] == 0.0:
            return np.inf if level > loss else -np.inf
        if loss <= level:
            return np.inf
        return np.log(curve[group, SCALE] / (loss - level)) / curve[group, EXPONENT]
    if curve[group, SCALE] > 0.0:
        return np.nan
    for place in range(starts[group + 1] - 1, starts[group] - 1, -1):
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
def _law_aim(base: float, scale: float, exponent: float, power: float, pull: float, guess: int) -> float:
    """The logarithm of the samples at which a power law's loss to a power falls at a price, looked for from a guess."""
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


@compiled(real(real_table, integers, real_table, integer_table, real, integer, integer))
def _log_aim(
    curve: Floats, starts: Integers, bend: Floats, whole: Integers, log_price: float, group: int, guess: int
) -> float:
    """The logarithm of the samples at which the objective falls at a price per unit of cost; NaN as above."""
    weight, power = curve[group, WEIGHT], curve[group, POWER]
    if weight == 0.0:
        return -np.inf
    if whole[group, PLAIN]:
        samples = max(whole[group, COLLECTED] + guess * whole[group, LOT], 1)
        pull = curve[group, PULL] - log_price
        return _law_aim(curve[group, BASE], curve[group, SCALE], curve[group, EXPONENT], power, pull, samples)
    if power != 1.0 or curve[group, SCALE] > 0.0:
        return np.nan
    slope = curve[group, SLOPE]
    for place in range(starts[group], starts[group + 1]):
        slope += bend[place, STEEPER]
    rest = np.log(weight * whole[group, LOT] / whole[group, COST]) - log_price
    log = -np.inf
    for place in range(starts[group], starts[group + 1]):
        aim = np.log(slope) + rest
        if aim <= bend[place, KNOT]:
            return max(aim, log)
        log, slope = bend[place, KNOT], slope - bend[place, STEEPER]
    return max(np.log(slope) + rest, log) if slope > 0.0 else log


@compiled(real(integer, real_table, integers, real_table, integer_table, real, out_integers, out_reals))
def _roughly(
    kind: int,
    curve: Floats,
    starts: Integers,
    bend: Floats,
    whole: Integers,
    log_threshold: float,
    counts: Integers,
    active: Floats,
) -> float:
    """About what the lots above a threshold cost, by closed forms; and a guess at each count.

    active[0]: what one lot more of every group that is between its bounds would cost.
    """
    threshold, spent, edge = np.exp(log_threshold), 0.0, np.empty(2)
    active[0] = 0.0
    for group in range(len(whole)):
        low, top, cost = whole[group, LOW], whole[group, TOP], float(whole[group, COST])
        if low == top:
            spent += cost * low
            continue
        if kind == LEVEL:
            log = _log_samples(curve, starts, bend, group, threshold)
        elif whole[group, PLAIN]:
            base, scale, exponent = curve[group, BASE], curve[group, SCALE], curve[group, EXPONENT]
            samples = max(whole[group, COLLECTED] + counts[group] * whole[group, LOT], 1)
            pull = curve[group, PULL] - log_threshold
            log = _law_aim(base, scale, exponent, curve[group, POWER], pull, samples)
        else:
            log = _log_aim(curve, starts, bend, whole, log_threshold, group, counts[group])
        if np.isnan(log):
            count = _bought(kind, curve, starts, bend, whole, threshold, group, counts[group], edge)
            counts[group] = count
            spent += cost * count
            active[0] += cost if low < count < top else 0.0
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


@compiled(real(integer, real_table, integers, real_table, integer_table, integer, real, real, out_integers))
def _sought(
    kind: int,
    curve: Floats,
    starts: Integers,
    bend: Floats,
    whole: Integers,
    room: int,
    floor: float,
    start: float,
    counts: Integers,
) -> float:
    """A threshold, by closed forms, at which about the room is spent; and a guess at each count."""
    active, base = np.empty(1), 0.0
    for group in range(len(whole)):
        base += float(whole[group, COST]) * whole[group, LOW]
        counts[group] = whole[group, LOW]
    above = max(room - base, 1.0)
    low, high = max(np.log(max(floor, 1e-300)), -690.0), 690.0
    at, before, over_before, slope = min(max(np.log(max(start, 1e-300)), low), high), 0.0, np.nan, -0.7
    for turn in range(60):
        money = _roughly(kind, curve, starts, bend, whole, at, counts, active)
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


@compiled(integer(integer, integer, integer))
def _plus(spent: int, cost: int, lots: int) -> int:
    """Money and what so many lots cost, or as much as there could be."""
    return spent + cost * lots if float(spent) + float(cost) * float(lots) < ENDLESS else FULL


@compiled(
    real(
        integer, real_table, integers, real_table, integer_table, integer, real, real, out_integers, out_real_table,
        out_integers,
    )
)  # fmt: skip
def _neared(
    kind: int,
    curve: Floats,
    starts: Integers,
    bend: Floats,
    whole: Integers,
    room: int,
    floor: float,
    threshold: float,
    counts: Integers,
    edge: Floats,
    spent: Integers,
) -> float:
    """A threshold at which the room is spent but for a lot of every group, or none comes nearer; and true counts."""
    cheap, dear, factor = 0.0, np.inf, 1.0 + 1e-4
    while True:
        money, each = 0, 0
        for group in range(len(whole)):
            low, count, top = whole[group, LOW], counts[group], whole[group, TOP]
            samples, lot = whole[group, COLLECTED] + count * whole[group, LOT], whole[group, LOT]
            ahead, behind = np.inf, -1.0
            if low == top:
                ahead, behind = -1.0, np.inf
                edge[group, AHEAD], edge[group, BEHIND] = ahead, behind
            elif kind == WORTH and whole[group, PLAIN] and whole[group, OPENING] == 0 and samples > lot:
                # The guess is nearly always right: the two keys that show it, at the least expense.
                base, scale, exponent = curve[group, BASE], curve[group, SCALE], curve[group, EXPONENT]
                weight, power, cost = curve[group, WEIGHT], curve[group, POWER], whole[group, COST]
                ahead, behind = -1.0, np.inf
                if count < top:
                    ahead = _law_gain(base, scale, exponent, weight, power, samples, lot) / cost
                if count > low:
                    behind = _law_gain(base, scale, exponent, weight, power, samples - lot, lot) / cost
                edge[group, AHEAD], edge[group, BEHIND] = ahead, behind
            if not ahead <= threshold < behind:
                counts[group] = _bought(kind, curve, starts, bend, whole, threshold, group, count, edge[group])
            money = _plus(money, whole[group, COST], counts[group])
            if whole[group, LOW] < whole[group, TOP]:
                each = _plus(each, whole[group, COST], 1)
        spent[0] = money
        if (money < FULL and abs(money - room) <= each) or (money <= room and threshold <= max(floor, 1e-300)):
            return threshold
        if money > room:
            cheap = threshold
            threshold = threshold * factor if dear == np.inf else cheap + (dear - cheap) / 2.0
        else:
            dear = threshold
            threshold = threshold / factor if cheap == 0.0 else cheap + (dear - cheap) / 2.0
        threshold, factor = max(threshold, floor), factor * factor
        if money <= room and not cheap < threshold < dear and threshold > floor:
            return dear
        if not cheap < threshold < dear and threshold > floor:
            threshold = dear


@compiled(none(reals, out_integers, integer, integer))
def _sink(key: Floats, heap: Integers, size: int, place: int) -> None:
    """Puts an entry of a heap, the largest key and then the first group on top, where it belongs further down."""
    item = heap[place]
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size:
            one, other = heap[child], heap[child + 1]
            if key[other] > key[one] or (key[other] == key[one] and other < one):
                child += 1
        below = heap[child]
        if key[item] > key[below] or (key[item] == key[below] and item < below):
            break
        heap[place] = below
        place = child
    heap[place] = item


@compiled(integer(integer_table, integer, integer))
def _stride(whole: Integers, group: int, lots: int) -> int:
    """How many lots are bought together after so many."""
    return max(whole[group, OPENING], 1) if lots == whole[group, LOW] else 1


@compiled(
    real(
        integer, real_table, integers, real_table, integer_table, real, flag, real, out_integers, out_real_table,
        out_integers, out_reals,
    )
)  # fmt: skip
def _raise(
    kind: int,
    curve: Floats,
    starts: Integers,
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
    key, heap, size = np.empty(len(whole)), np.empty(len(whole), np.int64), 0
    for group in range(len(whole)):
        key[group] = edge[group, AHEAD]
        fits = float(whole[group, COST]) * _stride(whole, group, counts[group]) <= left[0]
        if key[group] > floor and (fits or not skipping):
            heap[size] = group
            size += 1
    for place in range(size // 2 - 1, -1, -1):
        _sink(key, heap, size, place)
    while size > 0:
        group = int(heap[0])
        largest, lots, following = key[group], _stride(whole, group, counts[group]), -1.0
        if kind == LEVEL:
            goal = _count(
                kind, curve, starts, bend, whole, float(np.nextafter(largest, -1.0)), group, counts[group] + 1,
                counts[group], whole[group, TOP], edge[group],
            )  # fmt: skip
            lots = goal - counts[group]
            if lots == 0:
                return largest
            following = _key(kind, curve, starts, bend, whole, group, goal)
        if float(whole[group, COST]) * lots > left[0]:
            if not skipping:
                return largest
            size -= 1
            heap[0] = heap[size]
        else:
            left[0] -= whole[group, COST] * lots
            counts[group] += lots
            if kind == WORTH:
                lost[0] += (price - largest) * (whole[group, COST] * lots)
                if counts[group] < whole[group, TOP]:
                    following = _key(kind, curve, starts, bend, whole, group, counts[group])
                edge[group, AHEAD], edge[group, BEHIND] = following, largest
            key[group] = following
            if following <= floor:
                size -= 1
                heap[0] = heap[size]
        if size > 0:
            _sink(key, heap, size, 0)
    return floor


@compiled(
    real(
        integer, real_table, integers, real_table, integer_table, out_integers, out_real_table, out_integers
    )
)  # fmt: skip
def _lower(
    kind: int,
    curve: Floats,
    starts: Integers,
    bend: Floats,
    whole: Integers,
    counts: Integers,
    edge: Floats,
    left: Integers,
) -> float:
    """Gives back the lot with the smallest key, the last group's of equals, until nothing is overspent; its key."""
    last, smallest = len(whole) - 1, 0.0
    key, heap, size = np.empty(len(whole)), np.empty(len(whole), np.int64), 0
    for place in range(len(whole)):
        key[place] = -edge[last - place, BEHIND]
        if key[place] > -np.inf:
            heap[size] = place
            size += 1
    for place in range(size // 2 - 1, -1, -1):
        _sink(key, heap, size, place)
    while left[0] < 0 and size > 0:
        place = int(heap[0])
        group = last - place
        smallest, low = -key[place], whole[group, LOW]
        if kind == LEVEL:
            goal = _count(
                kind, curve, starts, bend, whole, smallest, group, counts[group] - 2, low, counts[group] - 1,
                edge[group],
            )  # fmt: skip
        else:
            opening = whole[group, OPENING]
            goal = low if counts[group] == low + opening and opening > 0 else counts[group] - 1
            edge[group, AHEAD], edge[group, BEHIND] = smallest, np.inf
            if goal > low:
                before = low if goal == low + opening else goal - 1
                edge[group, BEHIND] = _key(kind, curve, starts, bend, whole, group, before)
        left[0] += whole[group, COST] * (counts[group] - goal)
        counts[group] = goal
        key[place] = -edge[group, BEHIND]
        if goal == low:
            size -= 1
            heap[0] = heap[size]
        if size > 0:
            _sink(key, heap, size, 0)
    return smallest


@compiled(real(real_table, integers, real_table, integer_table, integer))
def _usual_price(curve: Floats, starts: Integers, bend: Floats, whole: Integers, room: int) -> float:
    """The mean of a few keys, taken in their logarithms, where every group has as many lots more."""
    each, base = 0.0, 0.0
    for group in range(len(whole)):
        base += float(whole[group, COST]) * whole[group, LOW]
        each += float(whole[group, COST])
    more, total, found = max(room - base, 0.0) / max(each, 1.0), 0.0, 0
    for group in range(0, len(whole), max(len(whole) // 32, 1)):
        low, top = whole[group, LOW], whole[group, TOP]
        if low < top:
            key = _key(WORTH, curve, starts, bend, whole, group, low + int(min(more, float(top - low - 1))))
            total += np.log(key) if key > 0.0 else 0.0
            found += 1 if key > 0.0 else 0
    return np.exp(total / found) if found > 0 else 1.0


@compiled(
    none(
        integer, real_table, integers, real_table, integer_table, integer, real, out_integers, out_real_table,
        out_integers, out_reals,
    )
)  # fmt: skip
def purchase(
    kind: int,
    curve: Floats,
    starts: Integers,
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
    found[1] = 0.0
    for group in range(len(whole)):
        money = _plus(money, whole[group, COST], whole[group, TOP])
    if kind == WORTH and money <= room:
        left[0] = room
        for group in range(len(whole)):
            counts[group] = _bought(kind, curve, starts, bend, whole, 0.0, group, whole[group, TOP], edge[group])
            left[0] -= whole[group, COST] * counts[group]
        found[0] = 0.0
        return
    if start <= 0.0:
        start = _usual_price(curve, starts, bend, whole, room)
    start = _sought(kind, curve, starts, bend, whole, room, floor, start, counts)
    threshold = _neared(kind, curve, starts, bend, whole, room, floor, start, counts, edge, spent)
    left[0] = room - spent[0]
    if left[0] < 0:
        threshold = _lower(kind, curve, starts, bend, whole, counts, edge, left)
    else:
        threshold = _raise(kind, curve, starts, bend, whole, floor, False, 0.0, counts, edge, left, found[1:])
    found[0], found[1] = threshold, 0.0
    if kind == WORTH:
        if left[0] > 0:
            _raise(kind, curve, starts, bend, whole, floor, True, threshold, counts, edge, left, found[1:])
        found[1] += threshold * left[0]


@compiled(none(real_table, integers, real_table, integer_table, integers, out_reals))
def losses(curve: Floats, starts: Integers, bend: Floats, whole: Integers, lots: Integers, loss: Floats) -> None:
    """(groups,) losses with so many lots bought, to the last bit as all thresholds on them see them."""
    for group in range(len(whole)):
        samples = whole[group, COLLECTED] + lots[group] * whole[group, LOT]
        if whole[group, PLAIN] and samples > 0:
            above = curve[group, SCALE] * float(samples) ** -curve[group, EXPONENT]
            loss[group] = max(curve[group, BASE] + above, 0.0)
        else:
            loss[group] = _loss(curve, starts, bend, group, samples)


@compiled(none(real_table, integers, real_table, integer_table, real, out_integers))
def need(curve: Floats, starts: Integers, bend: Floats, whole: Integers, level: float, counts: Integers) -> None:
    """(groups,) the fewest lots that bring each loss to a level; one above TOP if none do, LOW if that is LOW."""
    edge = np.empty(2)
    for group in range(len(whole)):
        low, top = whole[group, LOW], whole[group, TOP]
        counts[group] = low
        if low < top:
            log, guess = _log_samples(curve, starts, bend, group, level), low
            if not np.isnan(log):
                aim = (min(np.exp(log), ENDLESS) - whole[group, COLLECTED]) / whole[group, LOT]
                guess = int(np.ceil(min(max(aim, float(low)), float(top))))
            counts[group] = _count(LEVEL, curve, starts, bend, whole, level, group, guess, low, top, edge)
            if counts[group] == top and _key(LEVEL, curve, starts, bend, whole, group, top) > level:
                counts[group] = top + 1


@compiled(none(real_table, integers, real_table, integer_table, real, out_integers))
def demand(curve: Floats, starts: Integers, bend: Floats, whole: Integers, price: float, counts: Integers) -> None:
    """(groups,) the lots that are worth more than a price per unit of cost, looked for from the counts given."""
    edge = np.empty(2)
    for group in range(len(whole)):
        counts[group] = _bought(WORTH, curve, starts, bend, whole, price, group, counts[group], edge)


@compiled(
    integer(
        real_table, integers, real_table, integer_table, real, real, out_integers, out_integers, out_integers, out_reals
    )
)
def in_doubt(
    curve: Floats,
    starts: Integers,
    bend: Floats,
    whole: Integers,
    price: float,
    short: float,
    counts: Integers,
    group: Integers,
    lots: Integers,
    regret: Floats,
) -> int:
    """How many counts regret no more than `short`, which is what a better purchase could still gain; −1 if too many.

    counts: (groups,) become the best at the price. group, lots: whose it is, and by how much it differs from that;
    regret: what it is worth less, at the price. The best itself is among them, for every group.
    """
    size, edge = 0, np.empty(2)
    for item in range(len(whole)):
        best = _bought(WORTH, curve, starts, bend, whole, price, item, counts[item], edge)
        counts[item] = best
        low, top, rent = whole[item, LOW], whole[item, TOP], price * whole[item, COST]
        opened = low + whole[item, OPENING]
        if opened - low > len(group):
            return -1
        if size == len(group):
            return -1
        group[size], lots[size], regret[size] = item, 0, 0.0
        size += 1
        for direction in range(-1, 2, 2):
            total, count = 0.0, best
            while low < count if direction < 0 else count < top:
                total -= direction * _gain(curve, starts, bend, whole, item, min(count, count + direction))
                total += direction * rent
                count += direction
                if total <= short:
                    if size == len(group):
                        return -1
                    group[size], lots[size], regret[size] = item, count - best, max(total, 0.0)
                    size += 1
                elif not low <= count < opened:
                    break
    return size
