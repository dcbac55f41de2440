"""OR-Tools min-cost flow, for programs that are transportation problems: supplies, capacities, unit arcs.

It holds the interpreter lock while it solves (a second for some million arcs), so nothing can interrupt it: a time
limit that it oversteps is noted in the certificate.

Its costs are integers: real ones are counted in steps of about 2⁻⁴⁰ of their spread (a power of two, so that costs
of few digits are not rounded at all), and what the rounding may have cost is added to the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np

from ...specs.errors import BackendError, UnsupportedError
from ..answer import Answer, ProgramInfeasible
from ..control import Control, Options, run_apart
from ..program import Floats, Integers, Program

STEP_BITS, COST_BITS = 40, 60
"""Binary digits of the integer costs, and of their product with the number of nodes, which OR-Tools forms."""


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

        sign = 1.0 if program.sense == "minimise" else -1.0
        above, exact = _above(sign * program.cost, network.chain)
        bits = min(STEP_BITS, COST_BITS - (program.height + 1).bit_length())
        exponent = math.frexp(float(above.max(initial=0.0)))[1] - bits
        costs = np.rint(np.ldexp(above, -exponent)).astype(np.int64)
        solver: Any = min_cost_flow.SimpleMinCostFlow()
        network.load(solver, program, costs)
        status = run_apart(solver.solve, None, control)
        if status == solver.INFEASIBLE:
            raise ProgramInfeasible("no flow meets the supplies")
        if status != solver.OPTIMAL:
            raise BackendError(f"OR-Tools min-cost flow answered {status}")
        values = np.asarray(solver.flows(np.arange(program.columns, dtype=np.int32)), dtype=np.float64)
        objective = math.fsum(program.cost * values) + program.offset
        # Half a step per unit in this flow, half in the better one.
        rounding = float(values.sum()) * math.ldexp(1.0, exponent)
        bound = objective - sign * rounding if rounding < exact else -sign * math.inf
        label = _label()
        late = control.remaining <= 0
        notes = ("min-cost flow cannot be interrupted, and took longer than the time limit",) if late else ()
        return Answer(program, values, objective, bound, "solved", label, notes=notes)


@cache
def _label() -> str:
    return f"OR-Tools {version('ortools')} min-cost flow"


@dataclass(frozen=True)
class _Network:
    """Rows as nodes: sources are met exactly, sinks are limits; one arc per column.

    chain: arcs at most that one rerouting takes up; it gives up as many.
    """

    tails: Integers
    heads: Integers
    chain: int

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
    chain = min(int(exact.sum()), int((~exact).sum())) + 1
    return _Network(np.where(first, pairs[:, 0], pairs[:, 1]), np.where(first, pairs[:, 1], pairs[:, 0]), chain)


def _above(cost: Floats, chain: int) -> tuple[Floats, float]:
    """Costs above the smallest, gaps that decide alone made smaller; and up to which sum differences are still true.

    A score of −3e38 as a mask would leave no digits for the others. Two flows differ by reroutings of `chain` arcs at
    most. So a gap between consecutive costs of more than `chain` times all smaller gaps together decides over them,
    whatever its exact size, and the order of the flows stays the same if it shrinks to twice that.
    """
    if not len(cost):
        return cost, math.inf
    low, high = cost.min(), cost.max()
    edge = (high - low) / (chain + 1)
    if not edge > 0 or ((cost - low > edge) & (high - cost > edge)).any():
        return cost - low, math.inf  # there is no such gap
    values = np.unique(cost)
    gaps = np.diff(values)
    order = np.argsort(gaps, kind="stable")
    within = np.concatenate([[0.0], np.cumsum(gaps[order])[:-1]])  # all smaller gaps together
    kept = len(gaps)
    while kept > 1 and gaps[order[kept - 1]] > chain * within[kept - 1]:
        kept -= 1
    if kept == len(gaps):
        return cost - low, math.inf
    total = float(gaps[order[:kept]].sum())
    exact = chain * total
    for wide in order[kept:].tolist():
        gaps[wide] = min(gaps[wide], 2 * chain * total)
        total += float(gaps[wide])
    cuts = np.sort(order[kept:])
    firsts, lasts = values[np.append(0, cuts + 1)], values[np.append(cuts, -1)]
    offset = np.append(0.0, np.cumsum((lasts - firsts)[:-1] + gaps[cuts]))
    cluster = np.searchsorted(firsts, cost, side="right") - 1
    return cost - firsts[cluster] + offset[cluster], exact
