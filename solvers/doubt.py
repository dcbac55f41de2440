"""Where the plan of a separable budget problem is still in doubt, so that a search needs columns nowhere else.

    maximise Σ value_i(n_i)   subject to   Σ cost_i·n_i ≤ room,  low_i ≤ n_i ≤ high_i,  n whole

with every value concave, its first count excepted. A price of the budget splits the problem into one per item:
that gives a bound (Lagrangian relaxation: Everett, 1963) and, the leftover filled in, a good plan. A count whose
own optimum at that price falls short of the item's best by more than bound less plan lies in no better plan
(reduced-cost fixing): what remains is a window of counts per item, mostly narrow however far `high` reaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..specs.arrays import Floats, Integers

Value = Callable[[Integers, Integers], Floats]
"""What items are worth at counts: (k,) rows of items and (k,) counts to (k,) values."""

ROUNDING = 1e-12
"""Relative error that sums of values may carry: windows are that much wider."""
SETTLED = 5e-10
"""Relative difference of bound and plan below which there is no doubt left: half of what calls itself optimal."""
PARTNERS = 100
"""Items looked at for a step up, and for one down, when what is left over is spent."""
GRAINS = 2048
"""What the dearest step takes, in the grains that money is counted in when what is left over is spent."""
ROUNDS = 50
"""Times that what is left over is spent, at most. Any plan serves; a better one narrows the windows."""


@dataclass(frozen=True)
class Doubt:
    """A budget problem seen at the price that bounds it best.

    cost: (items,) units per count, whole ones where counts are asked for. room: whole units. low, high: (items,)
    bounds of the counts, affordable at `low`, none of them above what the room buys. gain: what one more count is
    worth; differences of values unless given, which lose their digits where gains are tiny beside them.
    """

    value: Value
    low: Integers
    high: Integers
    cost: Integers | Floats
    room: int
    gain: Value | None = None

    @cached_property
    def _settled(self) -> tuple[float, Integers, Integers]:
        """The price of one unit, the best counts at it that the room can pay, and those that it no longer can."""
        free = self._demand(0.0, self._first, self.high)
        if self._spent(free) <= self.room:
            return 0.0, free, free
        every = np.arange(len(self.low))
        rise = self.value(every, self.high) - self._at_low
        cheap, dear = 0.0, float((rise / self.cost).max(initial=0.0))
        lavish, frugal = free, self.low
        for _ in range(200):
            price = (cheap + dear) / 2
            if not cheap < price < dear:
                break
            demand = self._demand(price, np.maximum(frugal, self._first), np.maximum(lavish, self._first))
            if self._spent(demand) <= self.room:
                dear, frugal = price, demand
            else:
                cheap, lavish = price, demand
        return dear, frugal, lavish

    @property
    def price(self) -> float:
        """What a unit of the budget is worth."""
        return self._settled[0]

    @cached_property
    def bound(self) -> float:
        """What no plan exceeds."""
        return self.priced(self.price)

    @cached_property
    def counts(self) -> Integers:
        """(items,) a good plan: the best counts at the price, what is left over spent count by count."""
        _, counts, lavish = self._settled
        counts = counts.copy()
        left = self.room - self._spent(counts)
        for item in np.flatnonzero(lavish > counts).tolist():
            # Between the two, every count is worth the price; only a first count that stands apart is not.
            step = min(int(lavish[item] - counts[item]), left // int(self.cost[item]))
            counts[item] += step
            left -= step * int(self.cost[item])
        return self._improved(counts, left)

    @cached_property
    def achieved(self) -> float:
        """The value of that plan."""
        return math.fsum(self.value(np.arange(len(self.low)), self.counts))

    def priced(self, price: float) -> float:
        """The Lagrangian bound at a price: true at any, best at `self.price`."""
        return math.fsum(self.best(price)) + price * self.room

    def best(self, price: float) -> Floats:
        """(items,) each item's best value less what its counts cost at a price."""
        every = np.arange(len(self.low))
        counts = self._demand(price, self._first, self.high)
        return self.value(every, counts) - price * self.cost * counts

    def windows(self, achieved: float) -> tuple[Integers, Integers]:
        """(items,) fewest and most counts of any plan that achieves `achieved` or more."""
        size = max(abs(self.bound), abs(achieved))
        if self.bound - self.achieved <= SETTLED * size:
            return self.counts, self.counts
        gap = self.bound - achieved + ROUNDING * size
        every, peak, best = np.arange(len(self.low)), self._peak(self.price), self.best(self.price)

        def near(items: Integers, counts: Integers) -> NDArray[np.bool_]:
            surplus = self.value(items, counts) - self.price * self.cost[items] * counts
            return surplus >= best[items] - gap

        left = first(near, self._first, peak)
        # Seen from the far end, the counts that are near come last: count backwards.
        right = self.high - first(lambda items, back: near(items, self.high[items] - back), every * 0, self.high - peak)
        alone = near(every, self.low)
        apart = ~near(every, peak)
        return np.where(alone, self.low, left), np.where(apart, self.low, right)

    @cached_property
    def _first(self) -> Integers:
        """The count from which on values are concave."""
        return np.minimum(self.low + 1, self.high)

    @cached_property
    def _at_low(self) -> Floats:
        return self.value(np.arange(len(self.low)), self.low)

    def _peak(self, price: float) -> Integers:
        """The best count at a price from `_first` on."""
        return self._climb(price, self._first, self.high)

    def _climb(self, price: float, least: Integers, most: Integers) -> Integers:
        def falls(items: Integers, counts: Integers) -> NDArray[np.bool_]:
            return self._gain(items, counts) <= price * self.cost[items]

        return first(falls, least, most)

    def _gain(self, items: Integers, counts: Integers) -> Floats:
        if self.gain is not None:
            return self.gain(items, counts)
        return self.value(items, np.minimum(counts + 1, self.high[items])) - self.value(items, counts)

    def _demand(self, price: float, least: Integers, most: Integers) -> Integers:
        """The best counts at a price, the smallest of equals, where those after `low` lie in [least, most]."""
        counts = self._climb(price, least, most)
        surplus = self.value(np.arange(len(counts)), counts) - self._at_low
        return np.where(surplus > price * self.cost * (counts - self.low), counts, self.low)

    def _spent(self, counts: Integers) -> int:
        if len(counts) * (self.room + 1) < 2**62:
            return int(self.cost @ counts)
        return sum(unit * count for unit, count in zip(self.cost.tolist(), counts.tolist(), strict=True))

    def _improved(self, counts: Integers, left: int) -> Integers:
        """Counts after single steps up and down that, together, make the best of what is left to spend."""
        for _ in range(ROUNDS):
            steps = self._steps(counts)
            chosen = steps.best(left, self.price)
            if not chosen.any():
                break
            counts[steps.item[chosen]] += steps.up[chosen]
            left -= sum(steps.money[chosen].tolist())
        return counts

    def _steps(self, counts: Integers) -> _Steps:
        """The steps, one count up or down, that go least against the price."""
        every, cost = np.arange(len(counts)), np.ceil(self.cost) if self.cost.dtype.kind == "f" else self.cost
        cost = cost.astype(np.int64)
        price, gain = self.price * self.cost, self._gain(every, counts)
        more = np.where((counts < self.high) & (gain > 0), price - gain, np.inf)
        fewer = np.where(counts > self.low, self._gain(every, np.maximum(counts - 1, self.low)) - price, np.inf)
        ups, downs = (np.argsort(regret, kind="stable")[:PARTNERS] for regret in (more, fewer))
        ups, downs = ups[np.isfinite(more[ups])], downs[np.isfinite(fewer[downs])]
        return _Steps(
            np.concatenate([ups, downs]),
            np.repeat([1, -1], [len(ups), len(downs)]),
            np.concatenate([cost[ups], -cost[downs]]),
            np.concatenate([more[ups], fewer[downs]]),
        )


@dataclass(frozen=True)
class _Steps:
    """Steps of single items: (steps,) item, one count up or down, what that costs, and what is lost at the price."""

    item: Integers
    up: Integers
    money: Integers
    regret: Floats

    def best(self, left: int, price: float) -> NDArray[np.bool_]:
        """Which steps to take together: they spend at most `left`, and lose least, money unspent counted too.

        A knapsack by dynamic programming over what is spent so far, in grains, rounded so that it is never less.
        """
        chosen = np.zeros(len(self.item), np.bool_)
        grain = max(-(-int(np.abs(self.money).max(initial=1)) // GRAINS), 1)
        spent = -(-self.money // grain)
        purse, middle = min(left // grain, 2 * GRAINS), 2 * GRAINS
        loss = np.full(4 * GRAINS + 1, np.inf)
        loss[middle] = 0.0
        taken = np.zeros((len(spent), len(loss)), np.bool_)
        for step, (amount, regret) in enumerate(zip(spent.tolist(), self.regret.tolist(), strict=True)):
            moved = np.full(len(loss), np.inf)
            if amount >= 0:
                moved[amount:] = loss[: len(loss) - amount] + regret
            else:
                moved[:amount] = loss[-amount:] + regret
            taken[step] = moved < loss
            loss = np.minimum(loss, moved)
        total = loss[: middle + purse + 1] - price * grain * np.arange(-middle, purse + 1)
        place = int(total.argmin())
        if not total[place] < -1e-15 * abs(price * grain * purse):
            return chosen
        for step in range(len(spent) - 1, -1, -1):
            if taken[step, place]:
                chosen[step] = True
                place -= int(spent[step])
        return chosen


def first(holds: Callable[[Integers, Integers], NDArray[np.bool_]], low: Integers, high: Integers) -> Integers:
    """(items,) the smallest count in [low, high] where a condition holds that holds ever after; `high` if none.

    `holds` takes rows of items and as many counts.
    """
    low, high = low.copy(), np.maximum(low, high)
    while (undecided := np.flatnonzero(low < high)).size:
        middle = low[undecided] + (high[undecided] - low[undecided]) // 2
        yes = holds(undecided, middle)
        high[undecided[yes]] = middle[yes]
        low[undecided[~yes]] = middle[~yes] + 1
    return low
