"""What a caller of a client gives, checked: a spec, seconds, names."""

from __future__ import annotations

import math
from typing import TypeVar

from ..solvers.control import Options
from ..specs.errors import SpecError, UnsupportedError, shown
from ..specs.spec import Plan, Spec

P = TypeVar("P", bound=Plan)

TIMEOUT = 600.0
"""Seconds for one call, unless told otherwise."""
ROOM = 30.0
"""Seconds beyond a time limit, in which the answer has to arrive where no timeout is given."""
LONGEST = 1e8
"""Seconds that anything may be waited for: what timers of the system can count."""
LONGEST_NAME = 128
"""Characters of an idempotency key, the id of a job, or a kind, at most."""


def task(spec: Spec[P], call: str) -> Spec[P]:
    """The spec that a call was given. Raises `SpecError` for anything else."""
    if not isinstance(spec, Spec):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SpecError(f"{call} takes a spec, got {type(spec).__name__}; `load` reads one from a file")
    return spec


def limit(timeout: float | None, options: Options, default: float) -> float:
    """Seconds for a call: those asked for, or else the default, and never less than its time limit needs."""
    if timeout is not None:
        return seconds("timeout", timeout)
    return default if options.time_limit is None else max(default, options.time_limit + ROOM)


def seconds(name: str, value: float, least: float = 1e-3) -> float:
    """A number of seconds that somebody gave. Raises `UnsupportedError` for anything else."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not number or not least <= value <= LONGEST or math.isnan(value):
        raise UnsupportedError(f"{name}: must be seconds from {least:g} to {LONGEST:g}, got {shown(value)}")
    return float(value)


def name(what: str, text: str) -> str:
    """A short string that somebody gave. Raises `UnsupportedError` for anything else."""
    good = isinstance(text, str) and 0 < len(text) <= LONGEST_NAME and text.isprintable()  # pyright: ignore[reportUnnecessaryIsInstance]
    if not good:
        raise UnsupportedError(f"{what}: must be 1 to {LONGEST_NAME} printable characters, got {shown(text)}")
    return text
