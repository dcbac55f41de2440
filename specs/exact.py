"""Exact arithmetic on the numbers that people write: a float means its shortest decimal, so 3 × 0.1 is 0.3."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray


def exact(number: float) -> Fraction:
    """The number that a float was written as."""
    return Fraction(repr(float(number)))


LONGEST = 1e15
"""Decimals of up to fifteen digits are told apart by float64, so that a float of one is written as that one."""
PLACES = 9
"""Decimal places that are tried before amounts are taken one by one."""


def decimals(amounts: NDArray[np.floating[Any]]) -> tuple[NDArray[np.int64], int] | None:
    """Amounts as whole multiples of 10⁻ᵏ, and k; None where they are not all such decimals of a few places."""
    for places in range(PLACES + 1):
        scaled = np.rint(amounts * 10.0**places)
        if not (np.abs(scaled) < LONGEST).all():
            return None
        if (scaled / 10.0**places == amounts).all():
            return scaled.astype(np.int64), places
    return None


def exact_dot(amounts: NDArray[np.floating[Any]], counts: NDArray[np.int64]) -> Fraction:
    """Σ amounts·counts, without rounding."""
    units = decimals(amounts)
    if units is not None:
        whole, places = units
        largest = int(np.abs(whole).max(initial=0)) * int(np.abs(counts).max(initial=0)) * len(whole)
        if largest < 2**62:
            return Fraction(int(whole @ counts), 10**places)
    pairs = zip(amounts.tolist(), counts.tolist(), strict=True)
    return sum((exact(amount) * count for amount, count in pairs if count), Fraction(0))
