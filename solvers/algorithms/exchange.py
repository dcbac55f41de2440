"""From the best counts at a price to the best there are, by dynamic programming over what the price leaves in doubt.

    minimise Σ regret[k_i] + price·(spare − Σ cost_i·shift[k_i])   subject to   Σ cost_i·shift[k_i] ≤ spare (or = spare)

over one entry k_i per item: by how much its count differs from the best one at the price, and what it loses by that.
The minimum is how far the plan falls short of the Lagrangian bound. So a count that alone loses as much as a known plan
is in no better plan, and items are looked at in the order of the least that another count loses (Pisinger, "A minimal
algorithm for the multiple-choice knapsack problem", 1995). A state is what is spent and lost so far; one that spends
more for no better reckoning at the price is dropped, and so is one that can lead to nothing better than what is known.
The core is machine code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...specs.arrays import Floats, Integers
from ..machine import compiled, flag, integer, integers, none, out_integers, out_reals, real, reals

LIST = 1 << 15
"""States kept from item to item, at most; beyond, those that lose less, and no proof."""
POOL = 1 << 20
"""States in all, at most."""
LOOKED = 1 << 23
"""Pairs of a state and an entry of the next item that are looked at in all, at most."""
FAR = 1 << 60
"""More than any room, and far from what int64 holds."""
NEVER = 1 << 62
"""Stands for what is spent where nothing is ahead."""


@compiled(none(integers, integers, integers, out_integers, out_integers))
def _reach(starts: Integers, shift: Integers, cost: Integers, down: Integers, up: Integers) -> None:
    """(items + 1,) by how much the items from each place on can lower and raise what is spent."""
    for item in range(len(cost) - 1, -1, -1):
        least, most = shift[starts[item] : starts[item + 1]].min(), shift[starts[item] : starts[item + 1]].max()
        down[item] = min(down[item + 1] - cost[item] * least, FAR)
        up[item] = min(up[item + 1] + cost[item] * most, FAR)


@compiled(
    integer(
        integers, reals, integer, integer, integer, integer, integer, real, flag, real, integer, out_integers,
        out_reals, out_integers, out_integers,
    )
)  # fmt: skip
def _extend(
    shift: Integers,
    regret: Floats,
    cost: int,
    begin: int,
    end: int,
    lowest: int,
    highest: int,
    price: float,
    whole: bool,
    limit: float,
    longest: int,
    money: Integers,
    lost: Floats,
    parent: Integers,
    taken: Integers,
) -> int:
    """The states `begin` to `end` with every entry of one more item, written behind them; where they end, negative if
    they had to be found with less patience than `limit`, as there were too many.

    lowest, highest: between what spent sums the later items can still reach the room.
    """
    entries = len(shift)
    place, ahead = np.full(entries, begin, np.int64), np.empty(entries, np.int64)
    size, peak, sign, low, high = end, -np.inf, 1, 0, entries
    while True:
        # States come in the order of what they spend, once for every entry: these sequences are merged.
        for entry in range(low, high):
            ahead[entry] = NEVER
            for state in range(place[entry], end):
                spent = money[state] + cost * shift[entry]
                missing = max(lowest - spent, 0)
                total = lost[state] + regret[entry] + price * missing
                if spent > highest:
                    break
                if total < limit and not (whole and missing > 0):
                    place[entry], ahead[entry] = state, spent
                    break
        at = 0
        for entry in range(1, entries):
            if ahead[entry] < ahead[at]:
                at = entry
        spent = ahead[at]
        if spent == NEVER:
            return sign * size
        state, low, high = place[at], at, at + 1
        place[at] += 1
        total = lost[state] + regret[at]
        worth, again = price * spent - total, size > end and money[size - 1] == spent
        if (again and lost[size - 1] <= total) if whole else worth <= peak:
            continue
        peak = worth
        if again:
            size -= 1  # as much spent, and less lost
        if size - end == longest:
            sign, limit, size, peak, low, high = -1, limit / 2.0, end, -np.inf, 0, entries
            place[:] = begin
            continue
        money[size], lost[size], parent[size], taken[size] = spent, total, state, at
        size += 1


@compiled(
    flag(integers, integers, reals, integers, integer, flag, real, real, integer, integer, out_reals, out_integers)
)
def search(
    starts: Integers,
    shift: Integers,
    regret: Floats,
    cost: Integers,
    spare: int,
    whole: bool,
    price: float,
    enough: float,
    longest: int,
    largest: int,
    short: Floats,
    choice: Integers,
) -> bool:
    """The best entry of each item, as far as it is looked; whether that is proved to be the best there is.

    starts: (items + 1,) where each item's entries begin; each has one that changes nothing. whole: nothing may be
    left. short[0]: by how much a known plan falls short, then the new one; `choice` (items,) is an entry each, −1 for
    no change, and stays as it was where none is better. enough: stops at a shortfall of this. longest, largest: states
    kept from item to item, and in all.
    """
    items, looked = len(cost), 0
    money, lost = np.empty(largest, np.int64), np.empty(largest)
    parent, taken = np.empty(largest, np.int64), np.empty(largest, np.int64)
    layers, down, up = np.zeros(items + 2, np.int64), np.zeros(items + 1, np.int64), np.zeros(items + 1, np.int64)
    _reach(starts, shift, cost, down, up)
    money[0], lost[0] = 0, 0.0
    layers[1] = 1
    best, complete = -1, True
    if spare >= 0 and (spare == 0 or not whole) and price * spare < short[0]:
        short[0], best = price * spare, 0
    for item in range(items):
        first, last, begin, end = starts[item], starts[item + 1], layers[item], layers[item + 1]
        looked += (end - begin) * (last - first)
        if short[0] <= enough or end + longest > largest or looked > LOOKED:
            complete = short[0] <= 0.0
            break
        size = _extend(
            shift[first:last], regret[first:last], cost[item], begin, end, spare - up[item + 1], spare + down[item + 1],
            price, whole, short[0], longest, money, lost, parent, taken,
        )  # fmt: skip
        complete, size = complete and size > 0, abs(size)
        layers[item + 2] = size
        for state in range(end, size):
            rest = spare - money[state]
            total = lost[state] + price * rest
            if rest >= 0 and (rest == 0 or not whole) and total < short[0]:
                short[0], best = total, state
    if best < 0:
        return complete
    choice[:] = -1
    item = 0
    while best >= layers[item + 1]:
        item += 1
    while item > 0:
        item -= 1
        choice[item] = starts[item] + taken[best]
        best = parent[best]
    return complete


@dataclass(frozen=True)
class Exchanged:
    """(items,) better counts, None if none were found; by how much the plan falls short of the bound; whether it was
    proved that none is better."""

    counts: Integers | None
    short: float
    proven: bool


def exchange(
    item: Integers,
    shift: Integers,
    regret: Floats,
    best: Integers,
    cost: Integers,
    spare: int,
    price: float,
    short: float,
    enough: float,
    *,
    whole: bool = False,
    longest: int = LIST,
    largest: int = POOL,
) -> Exchanged:
    """Better counts than a plan that falls short of the bound by `short`, until one does by `enough` at most.

    item, shift, regret: (entries,) the counts in doubt, in the order of the items, whose best ones at the price are
    among them. best, cost: (items,); spare: what the best counts leave of the room.
    """
    width, nearest = np.bincount(item, minlength=len(best)), np.full(len(best), np.inf)
    np.minimum.at(nearest, item[shift != 0], regret[shift != 0])
    order = np.argsort(nearest, kind="stable")[: int((width > 1).sum())]  # the least regretted first
    rank = np.full(len(best), len(best))
    rank[order] = np.arange(len(order))
    entry = np.argsort(rank[item], kind="stable")[: int(width[order].sum())]
    starts, shift = np.concatenate([[0], np.cumsum(width[order])]), shift[entry]
    choice, known = np.full(len(order), -1), np.array([short])
    limits = longest, largest
    proven = search(starts, shift, regret[entry], cost[order], spare, whole, price, enough, *limits, known, choice)
    if not known[0] < short:
        return Exchanged(None, short, proven)
    counts = best.copy()
    counts[order] += np.where(choice >= 0, shift[choice], 0)
    return Exchanged(counts, float(known[0]), proven)
