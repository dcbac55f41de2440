"""A budget and prices in whole units of money, so that what is affordable is a matter of integers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ..specs.arrays import Floats, Integers
from ..specs.errors import UnsupportedError
from ..specs.exact import decimals, exact

FINEST = 2**52
"""Units that a budget is cut into where decimals share no unit that float64 can count in."""
LARGEST = 2**52
COARSE = "costs share no unit with the budget: each was rounded up to a 2⁻⁵²nd of it"
"""The note of a certificate whose budget was counted in such units."""
FINER = 2**58
"""The same where machine code counts money in int64 and nothing goes through float64."""
ROUNDED = "costs share no unit with the budget: each was rounded up, by less than 10⁻¹⁶ of it"
"""The note of a certificate whose budget was counted in such units."""
FURTHEST = 2**60
"""What a price may be in units, at most: more than any room."""
OUT_OF_REACH = 2**8
"""How many times the budget a price may be before it no longer matters how many."""


@dataclass(frozen=True)
class Purse:
    """A budget and what pieces of each item cost, in whole units.

    cost: (items,) units that one piece takes; true_cost: the same before any rounding. room: units there are.
    unit: what one is, in money. true_room: units that the budget has before any rounding, rounded up; `room` unless
    given. true_floor: (items,) true costs rounded down; `cost` unless given.

    Prices far above `room` are all the same: out of reach. coarse: prices had to be rounded up to a small part of
    the budget: no purchase overspends, and one that just would not may be missed.
    """

    cost: Integers
    room: int
    unit: Fraction
    true_cost: Floats
    coarse: bool = False
    true_room: int | None = None
    true_floor: Integers | None = None

    @property
    def whole_room(self) -> int:
        """Units that no purchase spends more than, whatever was rounded."""
        return self.room if self.true_room is None else self.true_room

    @property
    def floor(self) -> Integers:
        """(items,) units that one piece takes at least, whatever was rounded."""
        return self.cost if self.true_floor is None else self.true_floor

    def spent(self, pieces: Integers) -> int:
        """Units that so many pieces of each item take."""
        if float(np.abs(self.cost) @ np.abs(pieces).astype(np.float64)) < FURTHEST:
            return int(self.cost @ pieces)  # no part of the sum leaves what int64 holds
        return sum(unit * count for unit, count in zip(self.cost.tolist(), pieces.tolist(), strict=True))


def purse(cost: Floats, lot: int, budget: float) -> Purse:
    """The purse of a budget for lots of items at (items,) costs each; what no lots could spend is left out."""
    amount, units = exact(budget), decimals(cost)
    if units is not None:
        whole, places = units
        common = int(np.gcd.reduce(whole)) if len(whole) else 0
        # The largest unit that every price is a multiple of; a budget above a multiple of it is as good as that.
        unit = Fraction(common * lot, 10**places) if common else Fraction(1)
        whole = whole // max(common, 1)
        if amount <= LARGEST * unit:
            room = int(amount / unit)
            ceiling = max(OUT_OF_REACH * (room + 1), 2**20)
            whole = np.minimum(whole, ceiling)
            return Purse(whole, room, unit, whole.astype(np.float64))
    return _purse_one_by_one(cost, lot, amount)


def purse_of_lots(cost: Floats, lot: int, budget: float, least: Integers, most: Integers) -> Purse:
    """The purse of a budget for (items,) lots from `least` to `most`, exact if int64 can count it.

    Where it is not, the unit is a power of ten, so that only costs of more digits than that are rounded up, and those
    of `least` are not: what must be bought can be paid if and only if it can.
    """
    counted = purse(cost, lot, budget)
    if not counted.coarse:
        return counted
    amount, highest = exact(budget), np.maximum(least, most)
    lots = [exact(price) * lot for price in cost.tolist()]
    # More than all that there is to buy is as good as that.
    amount = min(amount, sum((price * count for price, count in zip(lots, highest.tolist(), strict=True)), Fraction(0)))
    unit = _common(lots)
    coarse = amount > FINER * unit
    if coarse:
        unit = Fraction(10) ** (math.ceil(_log10(amount)) - math.floor(math.log10(FINER)))
    true_room = amount / unit
    ceiling = min(max(OUT_OF_REACH * (int(true_room) + 1), 2**20), FURTHEST)
    units = [min(price / unit, Fraction(ceiling)) for price in lots]
    whole = np.array([math.ceil(price) for price in units], np.int64)
    must = sum((price * count for price, count in zip(lots, least.tolist(), strict=True)), Fraction(0))
    room = int(true_room)
    if coarse and must <= amount:
        room = sum(price * count for price, count in zip(whole.tolist(), least.tolist(), strict=True))
        room += int((amount - must) / unit)
        if room > FURTHEST:
            raise UnsupportedError("groups.least asks for more, at costs of more digits, than can be counted")
    true_cost, floor = np.array([float(price) for price in units]), np.array([int(price) for price in units], np.int64)
    return Purse(whole, room, unit, true_cost, coarse, math.ceil(true_room), floor)


def _log10(amount: Fraction) -> float:
    """The logarithm of an amount of any size."""
    return math.log10(amount.numerator) - math.log10(amount.denominator)


def _common(lots: list[Fraction]) -> Fraction:
    """The largest unit that every price is a multiple of."""
    return Fraction(
        math.gcd(*(price.numerator for price in lots)) or 1, math.lcm(*(price.denominator for price in lots))
    )


def _purse_one_by_one(cost: Floats, lot: int, amount: Fraction) -> Purse:
    lots = [exact(price) * lot for price in cost.tolist()]
    unit = _common(lots)  # a budget above a multiple of it is as good as that
    coarse = amount > LARGEST * unit
    if coarse:
        unit = amount / FINEST
    room = int(amount / unit)
    ceiling = max(OUT_OF_REACH * (room + 1), 2**20)
    units = [min(price / unit, Fraction(ceiling)) for price in lots]
    whole = np.array([math.ceil(price) for price in units], np.int64)
    return Purse(whole, room, unit, np.array([float(price) for price in units]), coarse)
