"""Pyomo: the same program for any solver that a user has installed and licensed, and for export to files.

What a solver calls its gap, seed and threads differs; those of the known ones are set, and where one is not known
to us the certificate says so.
"""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np

from ...specs.certificate import OPTIMAL_GAP, Stopped
from ...specs.errors import BackendError, SolveTimeout, UnsupportedError
from ..answer import Answer, ProgramInfeasible, cost_scale, empty_answer
from ..control import Control, Options, run_apart
from ..program import Block, Floats, Integers, Program

KNOWN_SOLVERS: dict[str, tuple[str, str, str]] = {
    # solver: its names for the relative gap, the seed, the threads
    "gurobi": ("MIPGap", "Seed", "Threads"),
    "cplex": ("mip_tolerances_mipgap", "randomseed", "threads"),
    "highs": ("mip_rel_gap", "random_seed", "threads"),
    "appsi_highs": ("mip_rel_gap", "random_seed", "threads"),
    "cbc": ("ratioGap", "randomSeed", "threads"),
    "glpk": ("mipgap", "seed", ""),
    "scip": ("limits/gap", "randomization/randomseedshift", ""),
    "xpress": ("miprelstop", "randomseed", "threads"),
}


class PyomoBackend:
    """Any solver that Pyomo can drive, by its name there: `pyomo:gurobi`, `pyomo:cbc`, …"""

    name: ClassVar[str] = "pyomo"

    def __init__(self, solver: str) -> None:
        import pyomo.environ as pyo

        self.solver = solver
        factory: Any = pyo.SolverFactory(solver)
        if factory is None or not factory.available(exception_flag=False):
            raise UnsupportedError(f"backend 'pyomo:{solver}': Pyomo finds no solver {solver!r} on this machine")

    def refuses(self, program: Program) -> str | None:
        """Pyomo states every program; whether the solver takes integers, it says itself."""
        return None

    def solve(self, program: Program, options: Options, control: Control) -> Answer:
        """The solver's answer. It cannot be interrupted, and duals are not read back."""
        import pyomo.environ as pyo

        if program.columns == 0:
            return empty_answer(program, self._label())
        scale = cost_scale(program.cost)
        model = pyomo_model(replace(program, cost=program.cost * scale, offset=program.offset * scale))
        solver: Any = pyo.SolverFactory(self.solver)
        notes = self._configure(solver, options, program)
        limit = {} if math.isinf(control.remaining) else {"timelimit": max(control.remaining, 0.01)}

        def run() -> Any:
            return solver.solve(model, load_solutions=False, **limit)

        try:
            results = run_apart(run, lambda: None, control)
        except (ValueError, RuntimeError, OSError) as error:
            raise BackendError(f"{self.solver}: {error}") from None
        return self._answer(model, program, scale, results, options, control, notes)

    def _configure(self, solver: Any, options: Options, program: Program) -> tuple[str, ...]:
        if self.solver not in KNOWN_SOLVERS:
            return (f"gap, seed and threads are left to {self.solver}'s own defaults",)
        gap, seed, threads = KNOWN_SOLVERS[self.solver]
        solver.options[gap] = options.asked_gap(program.gap)
        solver.options[seed] = options.seed
        if threads:
            solver.options[threads] = options.threads
        return ()

    def _answer(
        self,
        model: Any,
        program: Program,
        scale: float,
        results: Any,
        options: Options,
        control: Control,
        notes: tuple[str, ...],
    ) -> Answer:
        from pyomo.opt import TerminationCondition as Ended

        ended = results.solver.termination_condition
        if ended in (Ended.infeasible, Ended.infeasibleOrUnbounded):
            raise ProgramInfeasible(f"{self.solver} proved the program infeasible")
        stopped: Stopped = "solved" if ended in (Ended.optimal, Ended.globallyOptimal) else "time limit"
        if stopped == "time limit" and ended not in (Ended.maxTimeLimit, Ended.maxIterations, Ended.feasible):
            raise BackendError(f"{self.solver} stopped without an answer: {ended}")
        try:
            model.solutions.load_from(results)
            values = np.array([_number(column.value) for column in model.columns_in_order], dtype=np.float64)
        except ValueError:
            raise SolveTimeout(f"{self.solver} found no feasible plan within {control.seconds:.3g} s") from None
        values[program.integer] = np.rint(values[program.integer])
        objective = math.fsum(program.cost * values) + program.offset
        sides = results.problem.lower_bound, results.problem.upper_bound
        stated = sides[0] if program.sense == "minimise" else sides[1]
        bound = float(stated) / scale if isinstance(stated, (int, float)) and math.isfinite(stated) else None
        worse = -1.0 if program.sense == "minimise" else 1.0
        asked = options.asked_gap(program.gap) if self.solver in KNOWN_SOLVERS else math.inf
        if bound is None and stopped == "solved":
            bound = objective + worse * (asked * abs(objective) if asked else 0.0)
            notes = (*notes, f"{self.solver} reports no bound: its word for the gap that was asked for is taken")
        elif bound is None:
            bound = worse * math.inf
        if stopped == "solved" and asked > 0 and abs(objective - bound) > OPTIMAL_GAP * abs(objective):
            stopped = "gap"
        return Answer(program, values, objective, bound, stopped, self._label(), notes=notes)

    def _label(self) -> str:
        return f"{self.solver} through Pyomo {version('pyomo')}"


def pyomo_model(program: Program) -> Any:
    """The program as a Pyomo model: a component per block of columns or rows, under the block's name."""
    import pyomo.environ as pyo

    model: Any = pyo.ConcreteModel()
    columns: list[Any] = []
    for block in program.column_blocks:
        variables: Any = pyo.Var(_places(block))
        model.add_component(block.name, variables)
        columns.extend(variables.values())
    for column, whole, lower, upper in zip(
        columns, program.integer.tolist(), program.lower.tolist(), program.upper.tolist(), strict=True
    ):
        column.domain = pyo.Integers if whole else pyo.Reals
        column.setlb(_bound(lower))
        column.setub(_bound(upper))
    used = np.flatnonzero(program.cost)
    sense = pyo.minimize if program.sense == "minimise" else pyo.maximize
    model.objective = pyo.Objective(expr=_linear(columns, used, program.cost[used], program.offset), sense=sense)
    order = np.argsort(program.rows, kind="stable")
    entries, coefficients = program.entry_columns()[order], program.coefficients[order]
    ends = np.cumsum(np.bincount(program.rows, minlength=program.height))
    taken = {block.name for block in program.column_blocks}
    for block in program.row_blocks:
        rows: Any = pyo.Constraint(pyo.Any)
        model.add_component(f"{block.name}_row" if block.name in taken else block.name, rows)
        for number, place in zip(range(block.start, block.stop), _places(block), strict=True):
            there = slice(ends[number - 1] if number else 0, ends[number])
            lower, upper = _bound(float(program.row_lower[number])), _bound(float(program.row_upper[number]))
            if there.stop > there.start:
                rows[place] = (lower, _linear(columns, entries[there], coefficients[there]), upper)
            elif (lower or 0.0) > 0 or (upper or 0.0) < 0:
                raise ProgramInfeasible(f"{block.label(number)} demands something, and no column enters it")
    model.columns_in_order = columns
    return model


def _places(block: Block) -> list[Any]:
    """The indices of a block, as Pyomo wants them: numbers along one axis, tuples along several."""
    return list(range(block.shape[0])) if len(block.shape) == 1 else list(np.ndindex(*block.shape))


def _linear(columns: list[Any], places: Integers, coefficients: Floats, constant: float = 0.0) -> Any:
    from pyomo.core.expr import LinearExpression

    chosen = [columns[place] for place in places.tolist()]
    return LinearExpression(constant=constant, linear_coefs=coefficients.tolist(), linear_vars=chosen)


def _bound(value: float) -> float | None:
    return None if math.isinf(value) else value


def _number(value: Any) -> float:
    if value is None:
        raise ValueError("the solver gave no value")
    return float(value)
