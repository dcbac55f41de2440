"""OR-Tools min-cost flow, for programs that are transportation problems: supplies, capacities, unit arcs.

Its costs are integers: real ones are scaled to 2⁴⁰ steps between the smallest and the largest, and what the
rounding may have cost is added to the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np

from ...specs.errors import BackendError, UnsupportedError
from ..answer import Answer, ProgramInfeasible
from ..control import Control, Options, run_apart
from ..program import Integers, Program

STEPS = 2.0**40
"""Integer cost steps between the cheapest and the dearest arc. OR-Tools multiplies by the number of nodes."""


class FlowBackend:
    """Successive approximation by cost scaling, for bipartite programs whose matrix is 0 or 1."""

    name: ClassVar[str] = "flow"

    def refuses(self, program: Program) -> str | None:
        """A flow has two ones in every column, one in a row that is met exactly, one in a row that is a limit."""
        return "it is not a transportation problem" if _network(program) is None else None

    def solve(self, program: Program, options: Options, control: Control) -> Answer:
        """The optimum up to the rounding of costs, which the bound includes. Knows no duals and no time limit."""
        network = _network(program)
        if network is None:
            raise UnsupportedError("the program is not a transportation problem")
        from ortools.graph.python import min_cost_flow

        spread = float(np.ptp(program.cost)) if program.columns else 0.0
        step = spread / STEPS if spread > 0 else 1.0
        sign = 1.0 if program.sense == "minimise" else -1.0
        low = program.cost.min(initial=0.0) if sign > 0 else program.cost.max(initial=0.0)
        costs = np.rint(sign * (program.cost - low) / step).astype(np.int64)
        solver: Any = min_cost_flow.SimpleMinCostFlow()
        network.load(solver, program, costs)
        status = run_apart(solver.solve, lambda: None, control)
        if status == solver.INFEASIBLE:
            raise ProgramInfeasible("no flow meets the supplies")
        if status != solver.OPTIMAL:
            raise BackendError(f"OR-Tools min-cost flow answered {status}")
        values = np.asarray(solver.flows(np.arange(program.columns, dtype=np.int32)), dtype=np.float64)
        objective = math.fsum(program.cost * values) + program.offset
        rounding = float(values.sum()) * step  # half a step per unit in this flow, half in the better one
        bound = objective - sign * rounding
        label = f"OR-Tools {version('ortools')} min-cost flow"
        return Answer(program, values, objective, bound, "solved", label)


@dataclass(frozen=True)
class _Network:
    """Rows as nodes: sources are met exactly, sinks are limits; one arc per column."""

    tails: Integers
    heads: Integers

    def load(self, solver: Any, program: Program, costs: Integers) -> None:
        nodes, drain = program.height, program.height
        solver.add_arcs_with_capacity_and_unit_cost(
            self.tails.astype(np.int32), self.heads.astype(np.int32), program.upper.astype(np.int64), costs
        )
        supply = np.zeros(nodes, np.int64)
        exact = program.row_lower == program.row_upper
        supply[exact] = program.row_lower[exact]
        sinks = np.flatnonzero(~exact)
        total = int(supply.sum())
        solver.add_arcs_with_capacity_and_unit_cost(
            sinks.astype(np.int32),
            np.full(len(sinks), drain, np.int32),
            np.minimum(program.row_upper[sinks], total).astype(np.int64),
            np.zeros(len(sinks), np.int64),
        )
        solver.set_nodes_supplies(np.arange(nodes + 1, dtype=np.int32), np.append(supply, -total))


def _network(program: Program) -> _Network | None:
    """The flow network that a program states; None if it states none."""
    if program.goals or (np.diff(program.starts) != 2).any() or (program.coefficients != 1).any():
        return None
    pairs = program.rows.reshape(-1, 2)
    exact, limit = program.row_lower == program.row_upper, program.row_lower <= 0
    whole = np.isfinite(program.upper) & (np.floor(program.upper) == program.upper) & (program.lower == 0)
    bounds = program.row_upper[np.isfinite(program.row_upper)]
    first, second = exact[pairs[:, 0]], exact[pairs[:, 1]]
    if not (whole.all() and (exact | limit).all() and (np.floor(bounds) == bounds).all() and (bounds >= 0).all()):
        return None
    if (first == second).any():
        return None
    return _Network(np.where(first, pairs[:, 0], pairs[:, 1]), np.where(first, pairs[:, 1], pairs[:, 0]))
