"""Sweeps: one document that stands for many specs, a spec per point of a grid of its fields.

    sweep: {most: [32, 64, 128], prior.alpha: [0.5, 1]}

Each name is a field, dotted where it lies inside another; each list holds the values that it takes. The points are the
product of the lists in the order they are written, the last field changing fastest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from .errors import Problem, SpecError, shown

Scalar = bool | int | float | str | None
"""What a swept field may be at a point."""
Point = dict[str, Scalar]
"""The values of the swept fields, by dotted name."""
MOST_POINTS = 100_000
LONGEST_VALUE = 1000
"""Characters of a swept string: every result repeats it."""

SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "Fields, dotted where they lie inside others, and the values that each takes: `equipoise batch` "
    "solves the spec for every combination.",
    "minProperties": 1,
    "additionalProperties": {
        "type": "array",
        "items": {"type": ["boolean", "number", "string", "null"]},
        "minItems": 1,
        "uniqueItems": True,
    },
}
"""What a sweep may say, as JSON Schema."""

_FIXED = ("kind", "name", "sweep")
_LARGEST_WHOLE = 2**63


def points(document: Mapping[Any, Any]) -> Iterator[Point]:
    """The points of a document with a sweep. All of it is looked at before the first point is given.

    Raises `SpecError` for a sweep that is none, that names a field which cannot be swept or not be reached, or that
    has more than 100,000 points.
    """
    axes = _axes(document["sweep"])
    grid = (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))
    at(document, {name: values[0] for name, values in axes.items()})
    return grid


def at(document: Mapping[Any, Any], point: Mapping[str, Scalar]) -> dict[Any, Any]:
    """The document of one point: without its sweep, the values of the point put in place.

    A mapping on the way to a field is made where it is missing. Raises `SpecError` where something else is there.
    """
    made = {name: value for name, value in document.items() if name != "sweep"}
    for name, value in point.items():
        *outer, last = name.split(".")
        inner = made
        for depth, step in enumerate(outer, 1):
            below = inner.get(step, {})
            if not isinstance(below, Mapping):
                at_fault = ".".join(outer[:depth])
                raise _problem(f"lies inside {at_fault}, which must be a set of named fields, got {shown(below)}", name)
            inner[step] = inner = dict(below)  # the document is shared by all points: what is changed is a copy
        inner[last] = value
    return made


def unfit(value: Any) -> str | None:
    """What is wrong with a value of a swept field; None for one that it can have."""
    match value:
        case None | bool():
            return None
        case int():
            return None if abs(value) <= _LARGEST_WHOLE else "must be within ±2⁶³"
        case float():
            return None if math.isfinite(value) else "must be finite"
        case str():
            return None if len(value) <= LONGEST_VALUE else f"must have at most {LONGEST_VALUE:,} characters"
        case _:
            return "must be a number, a string, true, false or null"


def _axes(sweep: Any) -> dict[str, list[Scalar]]:
    if not isinstance(sweep, Mapping) or not sweep:
        raise _problem(f"must map fields to lists of their values, as in {{most: [32, 64]}}, got {shown(sweep)}")
    axes, count = dict[str, list[Scalar]](), 1
    for name, values in sweep.items():
        _check_field(name, sweep)
        axes[name] = _values(name, values)
        count *= len(values)
        if count > MOST_POINTS:
            raise _problem(f"has more than {MOST_POINTS:,} points; split it over several documents")
    return axes


def _check_field(name: Any, sweep: Mapping[Any, Any]) -> None:
    if not isinstance(name, str):
        raise _problem(f"must name fields by strings, got {shown(name)}")
    steps = name.split(".")
    if not all(steps):
        raise _problem("is not the dotted name of a field, such as prior.alpha", name)
    if steps[0] in _FIXED:
        raise _problem(f"cannot be swept: {', '.join(_FIXED)} are the same at every point", name)
    around = next((".".join(steps[:depth]) for depth in range(1, len(steps)) if ".".join(steps[:depth]) in sweep), None)
    if around is not None:
        raise _problem(f"lies inside {around}, which is swept too; sweep one of them", name)


def _values(name: str, values: Any) -> list[Scalar]:
    if not isinstance(values, list) or not values:
        raise _problem(f"must be a list of at least one value, got {shown(values)}", name)
    if len(values) > MOST_POINTS:
        raise _problem(f"has more than {MOST_POINTS:,} values", name)
    seen = set[tuple[bool, Scalar]]()
    for number, value in enumerate(values):
        wrong = unfit(value)
        if wrong:
            raise _problem(f"{wrong}, got {shown(value)}", name, number)
        alike = (isinstance(value, bool), value)  # true is another value than 1, which it equals
        if alike in seen:
            raise _problem(f"is there twice: {shown(value)}", name, number)
        seen.add(alike)
    return values


def _problem(message: str, *place: str | int) -> SpecError:
    return SpecError([Problem(message, ("sweep", *place))])
