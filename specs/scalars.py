"""Numbers that stand alone in a spec: whole, bounded, finite; never a string or a boolean read as one."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, Strict

LARGEST_INTEGER = 2**53
"""Whole numbers up to here are exact in float64, which the solvers compute in."""


def _plain(value: Any) -> Any:
    """A numpy or torch scalar as the Python number that it holds."""
    item = getattr(value, "item", None)
    return item() if item is not None and getattr(value, "ndim", 1) == 0 else value


PLAIN = BeforeValidator(_plain)
"""Reads numpy and torch scalars as the numbers that they hold; for types with bounds of their own."""

# The bounds stand inside the conversion, where JSON Schema finds them.
Count = Annotated[int, Strict(), Field(ge=0, le=LARGEST_INTEGER), PLAIN]
"""A whole number, at least 0."""
PositiveCount = Annotated[int, Strict(), Field(ge=1, le=LARGEST_INTEGER), PLAIN]
"""A whole number, at least 1."""
Real = Annotated[float, Strict(), Field(allow_inf_nan=False), PLAIN]
"""A finite number."""
Amount = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False), PLAIN]
"""A finite number, at least 0."""
PositiveAmount = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False), PLAIN]
"""A finite number above 0."""
Fraction = Annotated[float, Strict(), Field(ge=0, le=1, allow_inf_nan=False), PLAIN]
"""A number between 0 and 1."""
