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


_Whole = Annotated[int, Strict(), BeforeValidator(_plain)]
_Real = Annotated[float, Strict(), BeforeValidator(_plain)]

Count = Annotated[_Whole, Field(ge=0, le=LARGEST_INTEGER)]
"""A whole number, at least 0."""
PositiveCount = Annotated[_Whole, Field(ge=1, le=LARGEST_INTEGER)]
"""A whole number, at least 1."""
Real = Annotated[_Real, Field(allow_inf_nan=False)]
"""A finite number."""
Amount = Annotated[_Real, Field(ge=0, allow_inf_nan=False)]
"""A finite number, at least 0."""
PositiveAmount = Annotated[_Real, Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0."""
Fraction = Annotated[_Real, Field(ge=0, le=1, allow_inf_nan=False)]
"""A number between 0 and 1."""
