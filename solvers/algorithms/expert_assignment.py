"""Expert assignment without a program: prices by Newton's method, then shortest paths over the experts.

The optimum is exact: whatever rounding may have left is taken out by exchanges whose gain is exact (`expert_prices`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import numpy as np

from ...specs.expert_assignment import AssignmentPlan, ExpertAssignment
from ..algorithm import Algorithm, Found
from ..control import Control
from ..expert_prices import settle
from ..formulation import Evidence
from ..program import Integers
from .matching_descent import Matcher
from .matching_finish import Matching, excess_of, weighed

MOST_EXPERTS: Final = 4096
"""Experts up to which a table of all moves between them fits into memory without thought."""
EXACT: Final = 2.0**-52
"""Regret, relative to the objective, that is no more than the rounding of the sum itself."""


class ExpertAlgorithm(Algorithm[ExpertAssignment, AssignmentPlan]):
    """Prices, then paths. Keeps the prices of the last answer to start from."""

    name = "prices and paths"

    def __init__(self) -> None:
        self._matcher = Matcher(1)

    @classmethod
    def quick(cls, spec: ExpertAssignment) -> bool:
        """Up to 1024 scores of 128 experts, of which a token gets 16: 0.2 ms, 1 ms at most."""
        tokens, experts = spec.tokens, spec.experts
        few = experts <= 128 and spec.experts_per_token <= 16
        return few and max(tokens, 1) * max(experts, 1) <= 1024 and tokens * spec.experts_per_token <= 1024

    @classmethod
    def numbers(cls, spec: ExpertAssignment) -> int:
        """Scores in the order of the experts, choices, and moves from each expert to each."""
        return spec.tokens * (spec.experts + spec.experts_per_token) + spec.experts**2

    def refuses(self, spec: ExpertAssignment) -> str | None:
        """The graph of experts has an arc for every pair of them."""
        if spec.experts > MOST_EXPERTS:
            return f"it has {spec.experts:,} experts, and a graph over more than {MOST_EXPERTS:,} does not pay"
        return None

    def solve(
        self, spec: ExpertAssignment, gap: float, seed: int, threads: int, control: Control
    ) -> Found[AssignmentPlan]:
        """The optimum and the least prices that prove it. Raises `ProgramInfeasible`."""
        if self._matcher.workers.threads != threads:
            self._matcher = Matcher(threads)
        rows = spec.real_tokens()
        if not len(rows):
            return _found(spec, rows, _nothing(spec), 0)
        scores = spec.scores if spec.valid is None else spec.scores[rows]
        capacity = spec.places()
        found = self._matcher.match(scores, spec.experts_per_token, capacity, spec.prices, gap, control)
        size = max(abs(found.objective) * max(gap, EXACT), 0.0)
        blurred = float(found.prices.max()) * 2.0**-52 * len(scores) > max(gap, 1e-12) * abs(found.objective)
        moves = 0
        if not found.stopped and (found.regret > size or blurred):
            control.enter("exchanges")
            settled = settle(scores, found.experts, capacity, stop=control.look)
            load = np.bincount(settled.experts.ravel(), minlength=spec.experts).astype(np.int64)
            moves = settled.moves
            again = weighed(scores, settled.experts, settled.prices, load, capacity, found.paths, self._matcher.workers)
            found = replace(again, warm=found.warm)
            found = replace(found, stopped=settled.stopped)
        done = _found(spec, rows, found, moves)
        return replace(done, stopped=control.why_stopped()) if found.stopped else done


def _nothing(spec: ExpertAssignment) -> Matching:
    experts = np.empty((0, spec.experts_per_token), np.int64)
    return Matching(experts, np.zeros(spec.experts), np.zeros(spec.experts, np.int64), 0.0, 0.0, 0)


def _found(spec: ExpertAssignment, rows: Integers, found: Matching, moves: int) -> Found[AssignmentPlan]:
    experts = found.experts
    if spec.valid is not None or not len(rows):
        experts = np.full((spec.tokens, spec.experts_per_token), -1)
        experts[rows] = found.experts
    plan = AssignmentPlan(
        name=spec.name,
        experts=experts,
        prices=found.prices,
        load=found.load,
        max_violation=excess_of(found.load),
    )
    bound = found.objective + found.regret
    if found.regret > 0:
        bound = math.nextafter(bound, math.inf)
    notes = (f"{moves} choices were improved after rounding",) if moves else ()
    label = f"prices and {'paths' if found.exact else 'moves'}{', from the last prices' if found.warm else ''}"
    return Found(plan, Evidence(found.objective, bound, "dual", notes), label)


ALGORITHM = ExpertAlgorithm
