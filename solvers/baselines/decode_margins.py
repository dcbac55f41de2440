"""BF-IO and BalanceRoute: fill the workers up to the heaviest one, and no further, over a horizon of every step.

Sources: BF-IO (arXiv 2601.17855) and BalanceRoute (arXiv 2605.06113), from their formulas; our own code. With
load[g,h] the tokens on worker g that are still there h steps ahead (growth left out), and margin m[g,h] =
max over workers of load[·,h] − load[g,h], adding requests of S tokens in all to worker g is worth

    F = reach·S·Σ_h w_h − penalty·Σ_h w_h·max(S − m[g,h], 0),  w_h = discount^h.

BF-IO: reach 1, penalty 43, discount 0.86. BalanceRoute without lookahead: h = 0 alone, reach 1, penalty the number of
workers. Slots are filled as far as requests go under every rule, F negative or not.

While more than `few` slots are free in all, the worker with most free slots (ties: the fewest tokens) takes the one
request with the best F; the last slots are filled worker by worker in the same order, each with the set of best
F: among all that wait (BF-IO, an exact subset sum) or among the first four (BalanceRoute, all sets tried).

F is concave in S, with its peak at a margin: so the best set is the nearest to the peak from below or from above.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..machine import compiled, integer, integers, none, out_integer_table, out_integers, real, reals
from ..program import Floats, Integers

WINDOW = 4
"""Requests at the head of the queue from which BalanceRoute fills the last slots."""
NO_PEAK = 1 << 60
"""The peak of F where nothing is too much."""
LARGEST_TABLE = 1 << 21
"""Sums that a table of subset sums holds; where more are needed, sizes are counted in units that make them fit."""


@compiled(none(integers, integers, integer, out_integers, out_integers))
def pair(size: Integers, order: Integers, target: int, below: Integers, above: Integers) -> None:
    """`nearest` for two requests: from both ends of the sorted sizes towards the middle."""
    low, high = 0, len(order) - 1
    best_below, best_above = -1, -1
    while low < high:
        total = size[order[low]] + size[order[high]]
        if total <= target:
            if total > best_below:
                best_below, below[0], below[1] = total, order[low], order[high]
            if total == target:
                above[:] = -1
                return
            low += 1
        else:
            if best_above < 0 or total < best_above:
                best_above, above[0], above[1] = total, order[low], order[high]
            high -= 1


@compiled(integer(out_integer_table, integer, integer, integer))
def spread(reached: Integers, level: int, length: Any, words: Any) -> int:
    """Bits of `level` that one more request of a length reaches from the level below it, and were not there before.

    They are left in the last row of the table; the number of the first word that has any comes back, −1 if none.
    """
    shift, by = length // 63, length % 63
    first, last = -1, len(reached) - 1
    for word in range(words):
        reached[last, word] = 0
    for word in range(words - 1, shift - 1, -1):
        moved = (reached[level - 1, word - shift] << by) & 0x7FFFFFFFFFFFFFFF
        if by > 0 and word - shift - 1 >= 0:
            moved |= reached[level - 1, word - shift - 1] >> (63 - by)
        moved &= ~reached[level, word]
        if moved != 0:
            reached[last, word] = moved
            first = word
    return first


@compiled(none(integers, integers, integer, integer, out_integers, out_integers))
def table(size: Integers, order: Integers, count: int, target: int, below: Integers, above: Integers) -> None:
    """`nearest` for any number of requests: reachable sums by number of requests, 63 to a word."""
    number, largest = len(order), size[order[-1]]
    unit = (target + largest) // LARGEST_TABLE + 1
    goal = target // unit
    cap = goal + largest // unit + 2
    words = cap // 63 + 1
    reached = np.zeros((count + 2, words), np.int64)
    by = np.empty((count + 1, words * 63), np.int32)
    reached[0, 0] = 1
    done = False
    for place in range(number):
        length = size[order[place]] // unit
        for level in range(min(count, place + 1), 0, -1):
            first = spread(reached, level, length, words)
            if first < 0:
                continue
            for word in range(first, words):
                bits = reached[count + 1, word]
                if bits == 0:
                    continue
                reached[level, word] |= bits
                at = word * 63
                while bits != 0:
                    while (bits & 0xFF) == 0:
                        bits >>= 8
                        at += 8
                    if bits & 1:
                        by[level, at] = place
                    bits >>= 1
                    at += 1
        if (reached[count, goal // 63] >> (goal % 63)) & 1 and unit == 1:
            done = True
            break
    for side in range(2):
        total, step = (goal, -1) if side == 0 else (goal + 1, 1)
        while 0 <= total < words * 63 and not (reached[count, total // 63] >> (total % 63)) & 1:
            total += step
        if total < 0 or total >= words * 63:
            continue
        found = below if side == 0 else above
        for level in range(count, 0, -1):
            place = by[level, total]
            found[level - 1] = order[place]
            total -= size[order[place]] // unit
        if done:
            return


@compiled(none(integers, integers, integer, integer, out_integers, out_integers))
def nearest(size: Integers, order: Integers, count: int, target: int, below: Integers, above: Integers) -> None:
    """The best `count` of some requests: the largest total up to the target, and the smallest beyond it.

    size: tokens of all requests. order: the requests to choose from, by rising size, at least `count` of them.
    below, above: (count,) the two sets; their first entry is −1 where there is no such set. Nothing above is looked for
    once the target itself is reached.
    """
    number = len(order)
    below[:] = -1
    above[:] = -1
    if count < 1:
        return
    lightest, heaviest = 0, 0
    for place in range(count):
        lightest += size[order[place]]
        heaviest += size[order[number - 1 - place]]
    if heaviest <= target:
        for place in range(count):
            below[place] = order[number - 1 - place]
        return
    if lightest > target:
        for place in range(count):
            above[place] = order[place]
        return
    if count == 1:
        for place in range(number):
            if size[order[place]] <= target:
                below[0] = order[place]
            elif above[0] < 0:
                above[0] = order[place]
        return
    if count == 2:
        pair(size, order, target, below, above)
        return
    table(size, order, count, target, below, above)


@compiled(real(integer, integers, reals, real, real))
def worth(total: Any, margin: Integers, weight: Floats, reach: float, penalty: float) -> float:
    """F of adding so many tokens to a worker of these margins, (steps ahead,) each."""
    value = 0.0
    for step in range(len(margin)):
        value += weight[step] * (reach * total - penalty * max(total - margin[step], 0))
    return value


@compiled(integer(integers, reals, real, real))
def peak(margin: Integers, weight: Floats, reach: float, penalty: float) -> Any:
    """The total at which F is largest: the first margin from which on another token costs more than it brings."""
    bearable, beyond = reach * weight.sum() / penalty, 0.0
    for step in np.argsort(margin):
        beyond += weight[step]
        if beyond > bearable:
            return margin[step]
    return NO_PEAK


@compiled(integers(integers, integers, integers, integers, reals, real, real))
def better(
    size: Integers,
    below: Integers,
    above: Integers,
    margin: Integers,
    weight: Floats,
    reach: float,
    penalty: float,
) -> Integers:
    """Of two sets of requests the one of higher F; one that starts with −1 is not there."""
    if below[0] < 0:
        return above
    if above[0] < 0:
        return below
    low, high = size[below].sum(), size[above].sum()
    more = worth(high, margin, weight, reach, penalty) > worth(low, margin, weight, reach, penalty)
    return above if more else below


@compiled(integer(integers, integers, integer, integer, integers, reals, real, real, out_integers))
def best_of_first(
    size: Integers,
    placed: Integers,
    free: int,
    window: int,
    margin: Integers,
    weight: Floats,
    reach: float,
    penalty: float,
    chosen: Integers,
) -> int:
    """The set of best F among the first that are still waiting, as many as there are slots for; their number."""
    first, waiting = np.empty(window, np.int64), 0
    for request in range(len(size)):
        if placed[request] < 0 and waiting < window:
            first[waiting] = request
            waiting += 1
    number, best, best_worth = min(free, waiting), 0, -np.inf
    for members in range(1 << waiting):
        total, count = 0, 0
        for place in range(waiting):
            if (members >> place) & 1:
                total += size[first[place]]
                count += 1
        if count == number:
            value = worth(total, margin, weight, reach, penalty)
            if value > best_worth:
                best, best_worth = members, value
    count = 0
    for place in range(waiting):
        if (best >> place) & 1:
            chosen[count] = first[place]
            count += 1
    return number


@compiled(
    none(integers, integers, integers, integers, integers, integers, reals, real, real, integer, integer, out_integers)
)
def fill(
    slots: Integers,
    worker: Integers,
    tokens: Integers,
    remaining: Integers,
    waiting: Integers,
    lasting: Integers,
    weight: Floats,
    reach: float,
    penalty: float,
    few: int,
    window: int,
    placed: Integers,
) -> None:
    """`placed`, (waiting,) the worker of each request or −1.

    weight: (steps ahead,) discount^h. window: how many of the oldest compete for the last slots; 0: all that wait.
    Time for n waiting, H steps, a admitted: n·log n + a·(H·log H + workers + n), and the subset sums.
    """
    workers, steps = len(slots), len(weight)
    load = np.zeros((workers, steps + 1), np.int64)
    free = slots.copy()
    for row in range(len(worker)):
        at = worker[row]
        free[at] -= 1
        load[at, 0] += tokens[row]
        load[at, min(remaining[row], steps)] -= tokens[row]
    top, margin = np.zeros(steps, np.int64), np.empty(steps, np.int64)
    left = 0
    for at in range(workers):
        left += max(free[at], 0)
        for step in range(steps):
            if step > 0:
                load[at, step] += load[at, step - 1]
            top[step] = max(top[step], load[at, step])
    placed[:] = -1
    order = np.argsort(waiting, kind="mergesort")
    pool = len(order)
    chosen = np.empty(max(few, 1), np.int64)
    below, above = np.empty_like(chosen), np.empty_like(chosen)
    while left > 0 and pool > 0:
        best = 0
        for at in range(1, workers):
            if free[at] > free[best] or (free[at] == free[best] and load[at, 0] < load[best, 0]):
                best = at
        for step in range(steps):
            margin[step] = top[step] - load[best, step]
        aim = peak(margin, weight, reach, penalty)
        number = 1
        if left > few:
            place = np.searchsorted(waiting[order[:pool]], aim, side="right")
            low, high = place - 1, place
            while low > 0 and waiting[order[low - 1]] == waiting[order[low]]:
                low -= 1
            chosen[0] = order[max(low, 0)]
            if low < 0 or (
                high < pool
                and worth(waiting[order[high]], margin, weight, reach, penalty)
                > worth(waiting[order[low]], margin, weight, reach, penalty)
            ):
                chosen[0] = order[high]
        elif window == 0:
            number = min(free[best], pool)
            nearest(waiting, order[:pool], number, aim, below[:number], above[:number])
            chosen[:number] = better(waiting, below[:number], above[:number], margin, weight, reach, penalty)
        else:
            number = best_of_first(waiting, placed, free[best], window, margin, weight, reach, penalty, chosen)
        for place in range(number):
            request = chosen[place]
            placed[request] = best
            free[best] -= 1
            left -= 1
            for step in range(min(lasting[request], steps)):
                load[best, step] += waiting[request]
                top[step] = max(top[step], load[best, step])
        kept = 0
        for place in range(pool):
            if placed[order[place]] < 0:
                order[kept] = order[place]
                kept += 1
        pool = kept
