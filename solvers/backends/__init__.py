"""The solvers behind the canonical program, one thin module each, and the choice between them."""

from __future__ import annotations

import difflib

from ...specs.errors import UnsupportedError
from ..answer import Backend
from ..program import Program

NAMES = ("highs", "flow", "pyomo:SOLVER")


def make_backend(name: str) -> Backend:
    """A new backend by name. Raises `UnsupportedError` where there is none of that name."""
    match name.partition(":"):
        case ("highs", "", ""):
            from .highs import HighsBackend

            return HighsBackend()
        case ("flow", "", ""):
            from .flow import FlowBackend

            return FlowBackend()
        case ("pyomo", ":", solver) if solver:
            from .pyomo import PyomoBackend

            return PyomoBackend(solver)
        case _:
            close = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UnsupportedError(f"backend: must be one of {', '.join(NAMES)}, got {name!r}{hint}")


def backend_for(program: Program, name: str | None, kept: dict[str, Backend]) -> Backend:
    """The backend that a user asked for, or the one that suits a program; `kept` holds those already made.

    Raises `UnsupportedError` where the one asked for cannot solve the program.
    """
    if name is not None:
        backend = kept.setdefault(name, make_backend(name))
        if (reason := backend.refuses(program)) is not None:
            raise UnsupportedError(f"backend {name!r} cannot solve this task: {reason}")
        return backend
    flow = kept.setdefault("flow", make_backend("flow"))
    return flow if flow.refuses(program) is None else kept.setdefault("highs", make_backend("highs"))
