"""From a good choice of counts to the best one, by dynamic programming over what a price leaves in doubt: machine code.

    maximise Σ value[i, k_i]   subject to   Σ cost_i·k_i ≤ room (or = room),  0 ≤ k_i ≤ top_i

At the price of the linear relaxation every item has a best count, its peak, and every other count loses something
against it. What a plan loses in all, what it leaves unspent included, is how far it falls short of the bound. So a
count that alone loses as much as a plan that is known is in no better plan, and only the few others are looked at
(Pisinger, "A minimal algorithm for the multiple-choice knapsack problem", 1995).
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
    out_integers,
    out_reals,
    real,
    real_table,
    reals,
)

LIST = 1 << 13
"""States that are kept from item to item, at most; with more, those that lost least, and no proof."""
FAR = 1 << 60
"""More than any room, and far from what int64 holds."""
POOL = 1 << 20
"""States in all, at most, and four times as many looked at."""


@compiled(real(real_table, integers, real, reals, integer, integer))
def _loss(values: Floats, cost: Integers, price: float, surplus: Floats, item: int, count: int) -> float:
    """What an item's count loses at the price against its best one."""
    return max(surplus[item] - (values[item, count] - price * float(cost[item]) * count), 0.0)


@compiled(none(real_table, integers, integers, real, reals, out_integers, out_reals))
def _survey(
    values: Floats, cost: Integers, top: Integers, price: float, surplus: Floats, peak: Integers, nearest: Floats
) -> None:
    """The best count of every item at the price, and the least that another one loses."""
    for item in range(len(top)):
        least = np.inf
        for count in range(top[item] + 1):
            loss = _loss(values, cost, price, surplus, item, count)
            if loss < least:
                least, peak[item] = loss, count
        nearest[item] = np.inf
        for count in range(top[item] + 1):
            if count != peak[item]:
                nearest[item] = min(nearest[item], _loss(values, cost, price, surplus, item, count))


@compiled(
    integer(
        real_table, integers, integers, real, flag, reals, integer, integer, real, integer, integer, integer,
        reals, integers, out_reals, out_integers, out_integers, out_integers,
    )
)  # fmt: skip
def _extend(
    values: Floats,
    cost: Integers,
    top: Integers,
    price: float,
    whole: bool,
    surplus: Floats,
    item: int,
    peak: int,
    known: float,
    left: int,
    down: int,
    up: int,
    lost: Floats,
    spent: Integers,
    new_lost: Floats,
    new_spent: Integers,
    parent: Integers,
    choice: Integers,
) -> int:
    """Every state with every count of one more item that may still lead to a better plan; how many there are.

    left: the room beside all peaks. down, up: how far the items to come can lower and raise what is spent.
    """
    found = 0
    for count in range(top[item] + 1):
        loss = 0.0 if count == peak else _loss(values, cost, price, surplus, item, count)
        if loss >= known:
            continue
        shift = cost[item] * (count - peak)
        for row in range(len(spent)):
            total, money = lost[row] + loss, spent[row] + shift
            short = left - money - up
            if total >= known or money - down > left:
                continue
            if short > 0 and (whole or total + price * float(short) >= known):
                continue
            new_lost[found], new_spent[found], parent[found], choice[found] = total, money, row, count
            found += 1
    return found


@compiled(integer(out_reals, out_integers, integer, real, flag, integer, out_integers))
def _sift(lost: Floats, spent: Integers, found: int, price: float, whole: bool, longest: int, kept: Integers) -> int:
    """The states that no other one dominates, by what they spend; how many, negative if some had to be given up.

    One that spends more must be worth more, unless all of the room must be spent: then each spends its own.
    """
    order = np.argsort(spent[:found], kind="mergesort")
    size, row, highest = 0, 0, -np.inf
    while row < found:
        best = order[row]
        row += 1
        while row < found and spent[order[row]] == spent[best]:
            if lost[order[row]] < lost[best]:
                best = order[row]
            row += 1
        worth = price * float(spent[best]) - lost[best]
        if whole or worth > highest:
            highest = worth
            kept[size] = best
            size += 1
    if size <= longest:
        return size
    losses = np.empty(size)
    for row in range(size):
        losses[row] = lost[kept[row]]
    chosen = np.sort(np.argsort(losses, kind="mergesort")[:longest])
    for row in range(longest):
        kept[row] = kept[chosen[row]]
    return -longest


@compiled(integer(real_table, integers, integers, integer, real, flag, reals, real, integer, integer, out_integers))
def exchange(
    values: Floats,
    cost: Integers,
    top: Integers,
    room: int,
    price: float,
    whole: bool,
    surplus: Floats,
    enough: float,
    longest: int,
    largest: int,
    counts: Integers,
) -> int:
    """Better counts; 2 if they are the best, 1 if they lose at most `enough` against the bound, else 0.

    surplus: (items,) the most that value − price·cost·count comes to. counts: a plan that keeps to the room, and
    the better one afterwards. Items come in the order of the least that another count loses; a state is what those
    looked at so far spend beside their peaks, and what they lose.
    """
    size = len(counts)
    peak, nearest = np.zeros(size, np.int64), np.empty(size)
    _survey(values, cost, top, price, surplus, peak, nearest)
    left, unspent, known = room, room, 0.0
    for item in range(size):
        left -= cost[item] * peak[item]
        unspent -= cost[item] * counts[item]
        known += _loss(values, cost, price, surplus, item, counts[item])
    known += price * float(unspent)
    order = np.argsort(nearest, kind="mergesort")
    involved = 0
    while involved < size and nearest[order[involved]] < known:
        involved += 1
    down, up = np.zeros(involved + 1, np.int64), np.zeros(involved + 1, np.int64)
    for place in range(involved - 1, -1, -1):
        item = order[place]
        down[place] = min(down[place + 1] + cost[item] * peak[item], FAR)
        up[place] = min(up[place + 1] + cost[item] * (top[item] - peak[item]), FAR)
    # Where each state came from, to find the way back: all states, one item after the other.
    parents, choices = np.empty(largest, np.int32), np.empty(largest, np.int32)
    starts = np.zeros(involved + 2, np.int64)
    starts[1] = 1
    spent, lost = np.zeros(1, np.int64), np.zeros(1)
    best_place, best_row = -1, -1
    if left >= 0 and (left == 0 or not whole) and price * float(left) < known:
        known, best_place, best_row = price * float(left), 0, 0
    proven, place, looked = True, 0, 0
    while place < involved and known > enough:
        item = order[place]
        options = 0
        for count in range(top[item] + 1):
            if count == peak[item] or _loss(values, cost, price, surplus, item, count) < known:
                options += 1
        width = len(spent) * options
        looked += width
        if looked > 4 * largest:
            proven = False
            break
        new_lost, new_spent = np.empty(width), np.empty(width, np.int64)
        parent, choice, kept = np.empty(width, np.int64), np.empty(width, np.int64), np.empty(width, np.int64)
        found = _extend(
            values, cost, top, price, whole, surplus, item, int(peak[item]), known, left,
            down[place + 1], up[place + 1], lost, spent, new_lost, new_spent, parent, choice,
        )  # fmt: skip
        fit = _sift(new_lost, new_spent, found, price, whole, longest, kept)
        if fit == 0:
            break  # nothing leads to a better plan
        proven, fit = proven and fit > 0, abs(fit)
        place += 1
        if starts[place] + fit > largest:
            proven = False
            place -= 1
            break
        starts[place + 1] = starts[place] + fit
        spent, lost = np.empty(fit, np.int64), np.empty(fit)
        for row in range(fit):
            state = kept[row]
            spent[row], lost[row] = new_spent[state], new_lost[state]
            parents[starts[place] + row], choices[starts[place] + row] = parent[state], choice[state]
            rest = left - spent[row]
            if rest >= 0 and (rest == 0 or not whole) and lost[row] + price * float(rest) < known:
                known, best_place, best_row = lost[row] + price * float(rest), place, row
    if best_place >= 0:
        for item in range(size):
            counts[item] = peak[item]
        for back in range(best_place, 0, -1):
            counts[order[back - 1]] = choices[starts[back] + best_row]
            best_row = parents[starts[back] + best_row]
    if proven and (place == involved or known > enough):
        return 2
    return 1 if known <= enough else 0
