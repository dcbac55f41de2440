"""Why a program has no solution: a minimal set of the spec's fields that clash, and how far each must give way.

A field is relaxed by freeing every bound that comes from it. Fields are dropped one by one as long as the rest
still clashes (the deletion filter of Chinneck and Dravnieks, 1991), which leaves a minimal set; then, for each
of its fields, one elastic program finds the least uniform shift of its bounds that makes everything fit.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from ..specs.errors import BackendError, SolveTimeout
from .answer import Answer, ProgramInfeasible
from .backends.highs import HighsBackend
from .control import Control, Options
from .formulation import Conflict, Shift
from .program import Block, Builder, Floats, Program

PROBE, PROBES = 10.0, 60.0
"""Seconds: the most for one probe, and for all together. An undecided probe counts as feasible: the set may then not be
minimal, but it is true."""


def find_conflict(program: Program, control: Control | None = None) -> Conflict:
    """The conflict in an infeasible program, as far as the time allows to narrow it down; see `PROBES`."""
    control = control or Control()
    whole = Control(min(PROBES, control.remaining), control.watch)
    blocks = (*program.column_blocks, *program.row_blocks)
    named = [(name, block.start < block.stop) for block in blocks for name in (block.lower_field, block.upper_field)]
    there = {name for name, bounds in named if bounds}
    fields = list(dict.fromkeys(name for name, _ in named if name is not None and name in there))
    core = list(fields)
    for name in fields:
        rest = [other for other in core if other != name]
        if not _feasible(_relaxed(program, set(fields) - set(rest)), whole):
            core = rest
    shifts = {name: shift for name in core if (shift := _least_shift(program, name, whole)) is not None}
    return Conflict(tuple(core), shifts)


def _feasible(program: Program, whole: Control) -> bool:
    try:
        _solve(program, whole)
    except ProgramInfeasible:
        return False
    except (SolveTimeout, BackendError):
        return True
    return True


def _solve(program: Program, whole: Control) -> Answer:
    whole.check()
    return HighsBackend().solve(program, Options("exact"), Control(min(whole.remaining, PROBE), whole.watch))


def _relaxed(program: Program, fields: Collection[str]) -> Program:
    """The constraints of a program without the bounds that come from some fields, and without objective."""

    def freed(blocks: tuple[Block, ...], lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
        lower, upper = lower.copy(), upper.copy()
        for block in blocks:
            if block.lower_field in fields:
                lower[block.slice] = -np.inf
            if block.upper_field in fields:
                upper[block.slice] = np.inf
        return lower, upper

    lower, upper = freed(program.column_blocks, program.lower, program.upper)
    row_lower, row_upper = freed(program.row_blocks, program.row_lower, program.row_upper)
    bare = program.aimed("minimise", np.zeros(program.columns))
    return replace(bare, lower=lower, upper=upper, row_lower=row_lower, row_upper=row_upper)


def _least_shift(program: Program, field: str, whole: Control) -> Shift | None:
    """By how much the bounds of one field must give way, all by the same amount; None if that cannot help."""
    integer = bool(program.integer.any())
    builder = Builder("minimise")
    columns = builder.columns("column", program.columns)
    rows = builder.rows("row", program.height)
    builder.entries(program.rows, columns[program.entry_columns()], program.coefficients)
    down, up = builder.columns("shift", 2, cost=1.0, integer=integer)
    bounds = builder.rows("bound", program.columns)
    builder.entries(bounds, columns, 1.0)
    for first, blocks in ((rows, program.row_blocks), (bounds, program.column_blocks)):
        for block in blocks:
            if block.lower_field == field:
                builder.entries(first[block.slice], down, 1.0)
            if block.upper_field == field:
                builder.entries(first[block.slice], up, -1.0)
    elastic = builder.build()
    free = np.full(program.columns, np.inf)
    elastic = replace(
        elastic,
        lower=np.concatenate([-free, [0.0, 0.0]]),
        upper=np.concatenate([free, [np.inf, np.inf]]),
        integer=np.concatenate([program.integer, [integer, integer]]),
        row_lower=np.concatenate([program.row_lower, program.lower]),
        row_upper=np.concatenate([program.row_upper, program.upper]),
    )
    try:
        answer = _solve(elastic, whole)
    except (ProgramInfeasible, SolveTimeout, BackendError):
        return None
    if answer.stopped != "solved":
        return None  # some shift that mends it, but not known to be the least
    lower, upper = answer.values[-2:].tolist()
    return Shift(lower, upper)
