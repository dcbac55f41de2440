"""Machine code for the algorithms, by Numba: compiled when its module is imported, and kept on disk.

A function states its types where it is defined, so that it has one machine code for ever and nothing is compiled
inside a call:

    @compiled(none(reals, integers, out_integers))
    def place(load, waiting, worker): ...

`reals` and its like are read-only views, which an array in a spec is; what a function writes to is an `out_…`.
It releases the interpreter lock. Numba looks for changes in the file of a function alone: so a compiled function
calls no compiled function of another module.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numba
from numba.core.types import Array, none, uint8
from numba.core.types import boolean as flag
from numba.core.types import float64 as real
from numba.core.types import int64 as integer

F = TypeVar("F", bound=Callable[..., Any])

reals = Array(real, 1, "C", readonly=True)
real_table = Array(real, 2, "C", readonly=True)
integers = Array(integer, 1, "C", readonly=True)
integer_table = Array(integer, 2, "C", readonly=True)
flags = Array(flag, 1, "C", readonly=True)
out_reals = Array(real, 1, "C")
out_real_table = Array(real, 2, "C")
out_integers = Array(integer, 1, "C")
out_integer_table = Array(integer, 2, "C")
out_flags = Array(flag, 1, "C")

__all__ = [
    "Made",
    "compiled",
    "flag",
    "flags",
    "integer",
    "integer_table",
    "integers",
    "made",
    "none",
    "out_flags",
    "out_integer_table",
    "out_integers",
    "out_real_table",
    "out_reals",
    "real",
    "real_table",
    "reals",
    "uint8",
]


@dataclass(frozen=True)
class Made:
    """One function's machine code: how long it took to have it, and whether it was on disk already.

    kept: whether it is on disk now; a folder that cannot be written to leaves it to be compiled in every process.
    """

    name: str
    seconds: float
    found: bool
    kept: bool


made: list[Made] = []
"""All machine code of this process, in the order in which it was made."""


def compiled(signature: Any) -> Callable[[F], F]:
    """Compiles a function for one signature, or reads it from disk; divisions by zero follow IEEE 754."""

    def decorate(function: F) -> F:
        started, kept = time.perf_counter(), True
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
        try:
            code = numba.njit(signature, cache=True, **options)(function)
        except RuntimeError as error:  # Numba finds no folder to write to
            if "cannot cache" not in str(error):
                raise
            code, kept = numba.njit(signature, **options)(function), False
        found = kept and not code.stats.cache_misses
        made.append(Made(f"{function.__module__}.{function.__qualname__}", time.perf_counter() - started, found, kept))
        return cast(F, code)

    return decorate
