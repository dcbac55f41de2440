"""A budget and prices in whole units of money, so that what is affordable is a matter of integers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ..specs.arrays import Floats, Integers
from ..specs.exact import decimals, exact

FINEST = 2**52
"""Units that a budget is cut into where decimals share no unit that float64 can count in."""
LARGEST = 2**52
COARSE = "costs share no unit with the budget: each was rounded up to a 2⁻⁵²nd of it"
"""The note of a certificate whose budget was counted in such units."""
OUT_OF_REACH = 2**8
"""How many times the budget a price may be before it no longer matters how many."""


@dataclass(frozen=True)
class Purse:
    """A budget and what pieces of each item cost, in whole units.

    cost: (items,) units that one piece takes; true_cost: the same before any rounding. room: units there are.
    unit: what one is, in money.

    Prices far above `room` are all the same: out of reach. coarse: prices had to be rounded up to a FINEST-th of
    the budget: no purchase overspends, and one that just would not may be missed.
    """

    cost: Integers
    room: int
    unit: Fraction
    true_cost: Floats
    coarse: bool = False

    def spent(self, pieces: Integers) -> int:
        """Units that so many pieces of each item take."""
        if float(np.abs(self.cost) @ np.abs(pieces).astype(np.float64)) < LARGEST:
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


def _purse_one_by_one(cost: Floats, lot: int, amount: Fraction) -> Purse:
    lots = [exact(price) * lot for price in cost.tolist()]
    # The largest unit that every price is a multiple of; a budget above a multiple of it is as good as that.
    unit = Fraction(
        math.gcd(*(price.numerator for price in lots)) or 1, math.lcm(*(price.denominator for price in lots))
    )
    coarse = amount > LARGEST * unit
    if coarse:
        unit = amount / FINEST
    room = int(amount / unit)
    ceiling = max(OUT_OF_REACH * (room + 1), 2**20)
    units = [min(price / unit, Fraction(ceiling)) for price in lots]
    whole = np.array([math.ceil(price) for price in units], np.int64)
    return Purse(whole, room, unit, np.array([float(price) for price in units]), coarse)
