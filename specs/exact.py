"""Exact arithmetic on the numbers that people write: a float means its shortest decimal, so 3 × 0.1 is 0.3."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray


def exact(number: float) -> Fraction:
    """The number that a float was written as."""
    return Fraction(repr(float(number)))


def exact_dot(amounts: NDArray[np.floating[Any]], counts: NDArray[np.int64]) -> Fraction:
    """Σ amounts·counts, without rounding."""
    pairs = zip(amounts.tolist(), counts.tolist(), strict=True)
    return sum((exact(amount) * count for amount, count in pairs if count), Fraction(0))
