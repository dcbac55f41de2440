"""What no purchase can beat: the worst group's level by counting, the others' objectives by Lagrangian duality.

Shares and `max_gap` are left out of both, which keeps them true.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from .arrays import Floats, Integers
from .collection_effects import Effects
from .exact import decimals, exact
from .scalars import LARGEST_INTEGER

PRICE_STEP = 1e-4
"""How far from a plan's price, relatively, the price that proves most is looked for at first."""
SAME = 1e-14
"""Relative difference of two bounds that is none."""
PRICES = 500
"""Prices tried, at most."""


@dataclass(frozen=True)
class Lots:
    """What can be bought in whole lots.

    units, room: (groups,) what a lot costs, and the budget, in whole multiples of `unit`, the largest that all costs
    divide into. low, high: (groups,) fewest and most lots, the most being what the budget allows each group alone.
    """

    units: list[int]
    room: int
    unit: Fraction
    low: Integers
    high: Integers


def lots_of(effects: Effects) -> Lots:
    """What the budget can buy."""
    spec = effects.spec
    units, room, unit = _money(effects)
    least = np.zeros(len(units), np.int64) if spec.groups.least is None else spec.groups.least
    alone = np.array([min(room // lot, LARGEST_INTEGER) for lot in units], np.int64)
    low = -(-least // spec.lot)
    return Lots(units, room, unit, low, np.maximum(np.minimum(effects.most // spec.lot, alone), low))


def _money(effects: Effects) -> tuple[list[int], int, Fraction]:
    lot, budget, known = effects.spec.lot, exact(effects.spec.budget), decimals(effects.cost)
    if known is None:
        lots = [exact(price) * lot for price in effects.cost.tolist()]
        unit = Fraction(math.gcd(*(lot.numerator for lot in lots)), math.lcm(*(lot.denominator for lot in lots)))
        return [int(lot / unit) for lot in lots], int(budget / unit), unit
    whole, places = known
    common = int(np.gcd.reduce(whole))
    unit = Fraction(common * lot, 10**places)
    return (whole // common).tolist(), int(budget / unit), unit


def lowest_level(effects: Effects) -> float:
    """The lowest level that the budget can bring every group's loss to."""
    lots, size = lots_of(effects), effects.spec.lot

    def attained(level: float) -> float | None:
        """The largest loss once every group is just within a level; None if that takes more than there is."""
        count = _first(lambda row, count: effects.loss(row, count * size) <= level, lots.low, lots.high)
        loss = effects.losses(count * size)
        spent = sum(unit * number for unit, number in zip(lots.units, count.tolist(), strict=True))
        return float(loss.max()) if loss.max() <= level and spent <= lots.room else None

    if attained(0.0) is not None:
        return 0.0
    within = float(effects.losses(lots.low * size).max())
    beyond = math.nextafter(float(effects.losses(lots.high * size).max()), -math.inf)
    while beyond < (middle := (beyond + within) / 2) < within:
        reached = attained(middle)
        beyond, within = (middle, within) if reached is None else (beyond, reached)
    return within


@dataclass(frozen=True)
class _Priced:
    """What is counted at a price of the budget, by how much that is overspent there, and the lots worth it."""

    price: float
    counted: float
    excess: float
    lots: Integers

    def bound_at(self, price: float) -> float:
        """The Lagrangian of what is bought here, at another price: a tangent of the bound, which is concave."""
        return self.counted + price * self.excess

    @property
    def bound(self) -> float:
        """The Lagrangian bound."""
        return self.bound_at(self.price)


class _Dual:
    """The Lagrangian of the budget: at any price, every group buys what is worth it to itself."""

    def __init__(self, effects: Effects) -> None:
        lots = lots_of(effects)
        self.effects, self.low, self.high = effects, lots.low, lots.high
        self.cost, self.budget = np.array([float(lot * lots.unit) for lot in lots.units]), float(lots.room * lots.unit)
        # The loss without any sample stands apart from the curve, and what follows it falls ever more slowly.
        blunt = (effects.spec.groups.collected + lots.low == 0) & (lots.low < lots.high)
        self.start = np.where(blunt, lots.low + 1, lots.low)
        self.at_low = self._counted(lots.low)

    def _counted(self, lots: Integers) -> Floats:
        return self.effects.counted(self.effects.every, self.effects.losses(lots * self.effects.spec.lot))

    def _decrease(self, row: Integers, lots: Integers) -> Floats:
        return self.effects.decrease(row, lots * self.effects.spec.lot)

    def at(self, price: float, least: Integers, most: Integers) -> _Priced:
        """The bound at a price, where the lots worth it are between `least` and `most`."""
        worth_it = _first(lambda row, lots: self._decrease(row, lots) < price * self.cost[row], least, most)
        counted = self._counted(worth_it)
        stay = self.at_low + price * self.cost * self.low <= counted + price * self.cost * worth_it
        excess = math.fsum((self.cost * np.where(stay, self.low, worth_it)).tolist()) - self.budget
        return _Priced(price, math.fsum(np.where(stay, self.at_low, counted).tolist()), excess, worth_it)

    def free(self) -> _Priced:
        """The bound at no price at all."""
        return self.at(0.0, self.start, self.high)

    def dear(self) -> _Priced:
        """The bound at a price at which nothing is bought that need not be."""
        largest = float(self._decrease(self.effects.every, self.start).max(initial=0.0))
        first = float((self.at_low - self._counted(self.start)).max())
        return self.at(max(largest, first) / float(self.cost.min()), self.start, self.high)


def lagrangian(effects: Effects, near: float) -> float:
    """The best Lagrangian bound over all prices of the budget, which is rounded down to what whole lots can spend.

    near: a price from which to begin.
    """
    dual = _Dual(effects)
    cheap = dual.free()
    if cheap.excess <= 0:
        return cheap.bound
    dear = dual.dear()
    first = [near, near * (1 - PRICE_STEP), near * (1 + PRICE_STEP)]
    for turn in range(PRICES):
        best = max(cheap.bound, dear.bound)
        # The bound is concave in the price: nowhere between two is it above where their tangents meet. These are told
        # by what is counted, beside which a dear price times the excess would leave no digits.
        if not (drop := cheap.excess - dear.excess) > 0:
            break
        meet = (dear.counted - cheap.counted) / drop
        if cheap.bound_at(meet) - best <= SAME * abs(best):
            break
        half = (cheap.price + dear.price) / 2
        price = first[turn] if turn < len(first) else half if turn % 3 == 2 else meet
        if not cheap.price < price < dear.price:
            if turn >= len(first) and not cheap.price < half < dear.price:
                break
            price = half
        trial = dual.at(price, dear.lots, cheap.lots)
        cheap, dear = (trial, dear) if trial.excess > 0 else (cheap, trial)
    return max(cheap.bound, dear.bound)


def _first(holds: Callable[[Integers, Integers], NDArray[np.bool_]], low: Integers, high: Integers) -> Integers:
    """(rows,) the smallest count in [low, high] at which something holds that goes on to hold; `high` if none."""
    low, high = low.copy(), high.copy()
    while (undecided := np.flatnonzero(low < high)).size:
        middle = (low[undecided] + high[undecided]) // 2
        yes = holds(undecided, middle)
        high[undecided[yes]], low[undecided[~yes]] = middle[yes], middle[~yes] + 1
    return low
