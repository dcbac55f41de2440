"""What a backend answers to a program, and what a backend is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from ..specs.certificate import Stopped
from ..specs.errors import EquipoiseError
from .control import Control, Options
from .program import Block, Floats, Integers, Program


class ProgramInfeasible(EquipoiseError):
    """The program has no solution. `solve` turns this into an `InfeasibleError` in the words of the spec."""


@dataclass(frozen=True)
class Answer:
    """Values for the columns of a program, and what is known about how good they are.

    values: integer columns are rounded to whole numbers. bound: proven by the backend, in the program's own
    sense. row_duals: (rows,) shadow prices, ∂objective/∂bound; None from branch and bound.
    backend: name, version and algorithm. goals: the answers to the program's goals, settled before.
    """

    program: Program
    values: Floats
    objective: float
    bound: float
    stopped: Stopped
    backend: str
    row_duals: Floats | None = None
    goals: tuple[Answer, ...] = ()
    notes: tuple[str, ...] = ()

    def block(self, name: str) -> Floats:
        """The values of a block of columns, in its shape."""
        block = _named(self.program.column_blocks, name)
        return self.values[block.slice].reshape(block.shape)

    def whole(self, name: str) -> Integers:
        """The values of a block of integer columns."""
        return np.rint(self.block(name)).astype(np.int64)

    def duals(self, name: str) -> Floats | None:
        """The shadow prices of a block of rows, in its shape."""
        if self.row_duals is None:
            return None
        block = _named(self.program.row_blocks, name)
        return self.row_duals[block.slice].reshape(block.shape)


LARGEST_COST = 2.0**10
"""Costs are handed to a backend scaled to about this size, far above its absolute tolerances."""


def cost_scale(cost: Floats) -> float:
    """The power of two (so that nothing is rounded) that brings the largest cost to about `LARGEST_COST`."""
    largest = float(np.abs(cost).max(initial=0.0))
    # Below 2⁻⁹⁰⁰ the scale itself would overflow.
    return 2.0 ** round(math.log2(LARGEST_COST / max(largest, 2.0**-900))) if largest > 0 else 1.0


def empty_answer(program: Program, label: str) -> Answer:
    """The answer to a program without columns, which solvers do not care to give."""
    if (program.row_lower > 0).any() or (program.row_upper < 0).any():
        raise ProgramInfeasible("nothing can be decided, and something is demanded")
    return Answer(program, np.zeros(0), program.offset, program.offset, "solved", label, np.zeros(program.height))


class Backend(Protocol):
    """A solver behind the canonical program. An instance may keep the last model warm for the next solve.

    `solve` raises `ProgramInfeasible`, `SolveTimeout` (no feasible point in time) or `BackendError`.
    """

    name: ClassVar[str]

    def refuses(self, program: Program) -> str | None:
        """Why this backend cannot solve a program; None if it can."""
        ...

    def solve(self, program: Program, options: Options, control: Control) -> Answer: ...


def _named(blocks: tuple[Block, ...], name: str) -> Block:
    return next(block for block in blocks if block.name == name)
