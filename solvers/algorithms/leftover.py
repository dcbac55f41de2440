"""What a price leaves over, spent as well as it can be: counts exchanged where the price leaves doubt. Machine code.

    minimise Σ regret[k_i] + price·(spare − Σ cost_i·lots[k_i])   subject to   Σ cost_i·lots[k_i] ≤ spare

over one entry k_i per item, all of them at least 0; the entry that changes nothing has no regret. A state is what is
spent and regretted so far; one that spends more for no better reckoning at the price is dropped, and so is one that
regrets more than the best answer so far falls short: by expanding a core of items, the least regretted first (Pisinger,
"A minimal algorithm for the multiple-choice knapsack problem", 1995). Without a limit reached, the answer is optimal.
"""

from __future__ import annotations

import numpy as np

from ...specs.arrays import Floats, Integers
from ..machine import compiled, flag, integer, integers, out_integers, out_reals, real, reals

LIST = 1 << 15
"""States kept from item to item, at most; beyond, those that regret less, and no proof."""
POOL = 1 << 20
"""States in all, at most."""


@compiled(flag(integers, integers, reals, integers, integer, real, real, out_reals, out_integers))
def exchange(
    starts: Integers,
    lots: Integers,
    regret: Floats,
    cost: Integers,
    spare: int,
    price: float,
    enough: float,
    short: Floats,
    choice: Integers,
) -> bool:
    """The best entry of each item, as far as it is looked; whether that is proved to be the best there is.

    starts: (items + 1,) where each item's entries begin. short[0]: by how much a known answer falls short, then the
    new one; `choice` (entries, −1 for none) stays as it was where none is better. enough: stops at a shortfall of this.
    """
    items = len(starts) - 1
    money, sorrow = np.empty(POOL, np.int64), np.empty(POOL)
    parent, taken = np.empty(POOL, np.int64), np.empty(POOL, np.int64)
    layers = np.zeros(items + 2, np.int64)
    money[0], sorrow[0], parent[0], taken[0] = 0, 0.0, -1, -1
    layers[1] = 1
    best, complete = -1, True
    if price * spare < short[0]:
        short[0], best = price * spare, 0
    for item in range(items):
        if short[0] <= enough:
            break
        low, high, entries = layers[item], layers[item + 1], starts[item + 1] - starts[item]
        if POOL - high < LIST:
            complete = False
            break
        limit, place = short[0], np.full(entries, low, np.int64)
        size, peak = high, -np.inf
        while True:
            nearest, at = np.int64(1 << 62), -1
            for entry in range(entries):
                if place[entry] < high:
                    spent = money[place[entry]] + cost[item] * lots[starts[item] + entry]
                    if spent < nearest:
                        nearest, at = spent, entry
            if at < 0:
                break
            state, chosen = place[at], starts[item] + at
            place[at] += 1
            lost = sorrow[state] + regret[chosen]
            worth = price * nearest - lost
            if lost > limit or worth <= peak:
                continue
            peak = worth
            if size > high and money[size - 1] == nearest:
                size -= 1  # as much spent, and less regretted
            if size - high == LIST:  # once more, with less patience
                complete = False
                limit, size, peak = limit / 2.0, high, -np.inf
                place[:] = low
                continue
            money[size], sorrow[size], parent[size], taken[size] = nearest, lost, state, chosen
            size += 1
        layers[item + 2] = size
        for state in range(high, size):
            total = sorrow[state] + price * (spare - money[state])
            if money[state] <= spare and total < short[0]:
                short[0], best = total, state
    if best < 0:
        return complete
    for item in range(items):
        choice[item] = -1
    item = 0
    while best >= layers[item + 1]:
        item += 1
    while item > 0:
        choice[item - 1] = taken[best]
        best = parent[best]
        item -= 1
    return complete
