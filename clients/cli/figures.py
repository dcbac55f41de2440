"""Numbers as people read them: thousands separators, digits that mean something, columns that line up."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGITS = 6
"""Significant digits of a number that stands alone."""
COLUMN_DIGITS = 5
"""Significant digits of the largest number of a column."""


def number(value: float, digits: int = DIGITS) -> str:
    """A number to so many significant digits, whole ones in full: `1,234,567`, `11.7577`, `2.5e-09`."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    size = math.floor(math.log10(abs(value)))
    if not -5 <= size < 15:
        return f"{value:.{digits - 1}g}"
    text = f"{value:,.{max(digits - 1 - size, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def counted(count: int, noun: str) -> str:
    """So many of something: `1 worker`, `2,000 workers`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def distinct(one: float, other: float) -> tuple[str, str]:
    """Two numbers to as many digits as tell them apart, within reason."""
    for digits in range(DIGITS, 13):
        texts = number(one, digits), number(other, digits)
        if texts[0] != texts[1]:
            return number(one, digits + 1), number(other, digits + 1)
    return number(one), number(other)


def percent(share: float) -> str:
    """A share to two significant digits: `0 %`, `0.00061 %`, `12 %`."""
    if not math.isfinite(share):
        return "unknown"
    scaled = 100 * share
    return f"{scaled:,.0f} %" if abs(scaled) >= 10 else f"{scaled:.2g} %"


def gain(share: float) -> str:
    """A relative improvement, with its sign: `+3.49 %`."""
    return f"{100 * share:+,.2f} %" if math.isfinite(share) else number(share)


def duration(seconds: float) -> str:
    """A time: `4 ms`, `0.46 s`, `12.3 s`, `3 min 25 s`."""
    if seconds < 0.1:
        return f"{1000 * seconds:.2g} ms"
    if seconds < 10:
        return f"{seconds:.2f} s"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def column(values: NDArray[Any]) -> list[str]:
    """The numbers of a column, all to the same number of decimals."""
    if values.dtype.kind != "f":
        return [f"{value:,}" if isinstance(value, int) else str(value) for value in values.tolist()]
    finite = values[np.isfinite(values)]
    largest = float(np.abs(finite).max(initial=0.0))
    if largest and not 1e-5 <= largest < 1e15:
        return [f"{value:.3e}" if math.isfinite(value) else number(value) for value in values.tolist()]
    decimals = 0 if (finite == np.rint(finite)).all() else max(COLUMN_DIGITS - 1 - math.floor(math.log10(largest)), 0)
    return [f"{value + 0.0:,.{decimals}f}" if math.isfinite(value) else number(value) for value in values.tolist()]
