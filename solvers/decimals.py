"""Decimal numbers as whole multiples of one unit, so that a solver's tolerance cannot blur a budget.

A float means its shortest decimal: costs of 0.1 and a budget of 0.3 become 1, 1 and 3 tenths.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from ..specs.scalars import LARGEST_INTEGER
from .program import Floats


def whole_multiples(numbers: Floats, budget: float) -> tuple[Floats, float]:
    """The numbers and the budget as multiples of their largest common unit; unchanged where float64 cannot hold them.

    The sum of multiples that a program compares is exact as long as it stays below 2⁵³.
    """
    distinct, place = np.unique(numbers, return_inverse=True)
    fractions = [Fraction(repr(value)) for value in distinct.tolist()]
    limit = Fraction(repr(float(budget)))
    unit = Fraction(
        math.gcd(*(value.numerator for value in fractions if value), 0) or 1,
        math.lcm(*(value.denominator for value in fractions)),
    )
    scaled = [value / unit for value in fractions]
    if any(value.denominator != 1 or value > LARGEST_INTEGER for value in scaled):
        return numbers, float(budget)
    room = math.floor(limit / unit)  # what is left below one unit cannot be spent
    if room > LARGEST_INTEGER:
        return numbers, float(budget)
    return np.array([float(value) for value in scaled])[place], float(room)
