"""Collection budgets as a separable convex program: whole lots per group, and a column for what each lot is worth.

The loss of a group falls ever more slowly with the lots bought, so columns for single lots fill in the right order
by themselves (piecewise linear, exact at the integers). Where nothing but the budget ties the groups, columns are
made only for the lots that the Lagrangian bound leaves in doubt (`doubt.py`), and the levels of `worst_group` are
settled by counting (`levels.py`), one group being exempt from the second. Groups that shares or `max_gap` tie
together are another program (`collection_coupled.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ...specs.collection_budgets import CollectionBudgets, CollectionPlan
from ...specs.errors import SolveTimeout
from ..answer import Answer, ProgramInfeasible
from ..backends.highs import HighsBackend
from ..collection_columns import Columns
from ..collection_coupled import Coupled, level_scale
from ..collection_scarcity import explain
from ..control import Control, Options
from ..doubt import Doubt
from ..formulation import Conflict, Evidence, Explanation, Formulation
from ..levels import Floors, Levels, settle
from ..program import Builder, Floats, Integers, Program
from ..purse import ROUNDED

WINDOW_GAP = 1e-5
"""The gap that `auto` asks for: the windows are narrow, and the bound before any search is nearly that good."""
LARGEST_WINDOWS = 2**16
"""Lots in doubt that a program gets columns for."""
CUT = "too many lots were in doubt for a search: only those nearest to the plan were looked at"
LATE = "there was no time to go through all levels of the largest loss: only some were looked at"
UNSETTLED = "the second largest loss and the mean may not be the best: the search for them was stopped"
PATIENCE = 1.0
"""Seconds to find out which of the changes that come to mind leave no conflict; the others are not told."""


@dataclass(frozen=True)
class Windows:
    """Where the optimum lies if nothing but the budget ties the groups.

    low, high: (groups,) lots. lots: (groups,) a good plan. bound: what the objective cannot get below (for
    `worst_group`, the largest loss). floors: for `worst_group`, what its settled levels demand. cut: there was too
    much doubt for a program, and only the lots nearest to the plan are left.
    """

    low: Integers
    high: Integers
    lots: Integers
    bound: float
    floors: Floors | None = None
    cut: bool = False

    def within(self, columns: int) -> Windows:
        """These windows, or their middles if they would take more columns than allowed."""
        if (self.high - self.low).sum() <= columns:
            return self
        reach = max(columns // (2 * len(self.lots)), 1)
        low, high = np.maximum(self.low, self.lots - reach), np.minimum(self.high, self.lots + reach)
        return replace(self, low=low, high=high, cut=True)


class CollectionProgram(Formulation[CollectionBudgets, CollectionPlan]):
    """Collection budgets as a program, and back."""

    def __init__(self, spec: CollectionBudgets) -> None:
        super().__init__(spec)
        self.columns = Columns(spec)
        self.market = self.columns.market
        self.coupled = Coupled(self.columns)

    def formulate(self) -> Program:
        """Columns: `lots` (groups), and what they spare: `extra` per lot that is in doubt."""
        self.market.control = self.control
        if self.coupled.there:
            return self.coupled.formulate(self.control)
        builder = Builder("minimise", gap=WINDOW_GAP)
        if not self.market.affordable:
            self.columns.lots(builder, 0, np.inf)  # nothing to aim at: only the conflict is of interest
            return builder.build()
        windows = self.windows
        lots = self.columns.lots(builder, windows.low, windows.high)
        self.columns.worth_rows(builder, lots, windows.low, windows.high)
        if windows.floors is not None:
            self._exemption(builder, lots, windows.floors)
        builder.offset = -math.fsum(self.market.worth(self.market.every, windows.low))
        return self._started(builder.build(), windows)

    def _started(self, program: Program, windows: Windows) -> Program:
        """The program with the plan that the windows were found around to start from."""
        group, lot, blunt = self.columns.single(windows.low, windows.high)
        taken = lot < windows.lots[group]
        there = {"lots": windows.lots, "extra": taken[~blunt], "opened": taken[blunt]}
        if windows.floors is not None:
            floors = windows.floors
            there["exempt"] = (windows.lots < floors.others)[floors.others > floors.exempt]
        return program.starting(there)

    def _exemption(self, builder: Builder, lots: Integers, floors: Floors) -> None:
        """Every group buys what the second level takes; one of them may stay at what the first takes."""
        rise = floors.others - floors.exempt
        group = np.flatnonzero(rise)
        exempt = builder.columns("exempt", len(group), upper=1.0, integer=True)
        rows = builder.rows("second_level", len(group), lower=floors.others[group])
        builder.entries(rows, lots[group])
        builder.entries(rows, exempt, rise[group])
        builder.entries(builder.rows("one_exempt", 1, upper=1.0), exempt)

    @cached_property
    def windows(self) -> Windows:
        """Where the optimum lies, shares and gaps left out."""
        market = self.market
        if self.spec.minimise != "worst_group":
            doubt = self._doubt(market.least)
            low, high = doubt.windows(doubt.achieved)
            return Windows(low, high, doubt.counts, -doubt.bound).within(LARGEST_WINDOWS)
        nothing = np.zeros(0, np.int64)
        if not len(market.least):
            return Windows(nothing, nothing, nothing, 0.0, Floors(0.0, 0.0, nothing, nothing))
        levels = Levels(market.loss, market.least, market.top, market.purse.cost, market.purse.room)
        floors = settle(levels, self.spec.tolerance)
        return self._below(floors)

    def _doubt(self, low: Integers) -> Doubt:
        market = self.market
        return Doubt(market.worth, low, market.top, market.purse.cost, market.purse.room, market.gain)

    def _below(self, floors: Floors) -> Windows:
        """Where the best mean lies once the levels of the worst groups are settled, whoever is exempt."""
        market, rise = self.market, floors.others - floors.exempt
        saved = market.purse.cost * rise
        over = market.purse.spent(floors.others) - market.purse.room
        # Where no exemption is needed, none is as good as that of the group it frees most; -1 stands for none.
        able = [group for group in np.flatnonzero(rise).tolist() if saved[group] >= over]
        cases = ([-1] if over <= 0 else []) + sorted(able, key=lambda group: -int(saved[group]))
        lows = {case: np.where(market.every == case, floors.exempt, floors.others) for case in cases}
        lead = self._doubt(lows[cases[0]])
        achieved, lots = lead.achieved, lead.counts
        # At any one price, the bounds of all cases differ from the first one's by the cases' own groups alone.
        at_others, at_exempt = (self._best(start, lead.price) for start in (floors.others, floors.exempt))
        base = math.fsum(at_others) + lead.price * market.purse.room
        looked: list[Doubt] = []
        for case in sorted(cases, key=lambda case: 0.0 if case < 0 else float(at_others[case] - at_exempt[case])):
            bound = base + (0.0 if case < 0 else float(at_exempt[case] - at_others[case]))
            if bound < achieved - 1e-12 * abs(achieved):
                continue
            looked.append(doubt := self._doubt(lows[case]))
            if doubt.achieved > achieved:
                achieved, lots = doubt.achieved, doubt.counts
        low, high = lots, lots
        for doubt in looked:
            if doubt.bound >= achieved - 1e-12 * abs(achieved):
                start, stop = doubt.windows(achieved)
                low, high = np.minimum(low, start), np.maximum(high, stop)
        return Windows(low, high, lots, floors.worst, floors).within(LARGEST_WINDOWS)

    def _best(self, low: Integers, price: float) -> Floats:
        return self._doubt(low).best(price)

    def interpret(self, answer: Answer) -> CollectionPlan:
        """Samples per group, and what they are expected to do."""
        lots = answer.whole("lots")
        if not self.coupled.there:
            lots = self._affordable(lots)
            # A search may stop within its gap of a plan that the bound itself has already led to.
            if self._worth(lots) < self._worth(self.windows.lots):
                lots = self.windows.lots
        return self.market.plan(lots)

    def _affordable(self, lots: Integers) -> Integers:
        """Lots without those that only a solver's tolerance could pay for: hardly ever is there one."""
        market, lots = self.market, lots.copy()
        while market.purse.spent(lots) > market.purse.room and (lots > self.windows.low).any():
            loss = market.worth(market.every, lots) - market.worth(market.every, np.maximum(lots - 1, 0))
            lots[np.where(lots > self.windows.low, loss / market.purse.cost, np.inf).argmin()] -= 1
        return lots

    def _worth(self, lots: Integers) -> float:
        return math.fsum(self.market.worth(self.market.every, lots))

    def prove(self, plan: CollectionPlan, answer: Answer) -> Evidence:
        """Lagrangian and counting bounds hold whatever ties the groups; what they leave open, the search answers."""
        lots = plan.samples // self.spec.lot
        notes = (ROUNDED,) if self.market.purse.coarse else ()
        late = self.coupled.late
        notes = (*notes, LATE) if late else notes
        if self.spec.minimise == "worst_group" and any(part.stopped != "solved" for part in (*answer.goals, answer)):
            notes = (*notes, UNSETTLED)
        if self.spec.minimise == "worst_group":
            notes = (
                *notes,
                f"the gap is the excess of the largest loss over {1 + self.spec.tolerance:g} times its bound",
            )
            objective = float(plan.predicted_loss.max(initial=0.0))
            bound = min(self._lowest(), objective)
            if objective <= (1 + self.spec.tolerance) * bound * (1 + 1e-12):
                return Evidence(objective, bound, "threshold", notes)
            # Which have seen rounded costs, or some levels alone.
            goals = () if self.market.purse.coarse or late else answer.goals[:1]
            found = [goal.bound / level_scale(self.coupled.worst_levels) for goal in goals]
            if not found:
                return Evidence(objective, bound, "threshold", notes)
            return Evidence(objective, min(max([bound, *found]), objective), "search", notes)
        objective, purse = -self._worth(lots), self.market.purse
        price = self._doubt(self.market.least).price
        honest = self._doubt(self.market.least)
        if purse.coarse:
            honest = replace(honest, high=self.market.reach, cost=purse.floor, room=purse.whole_room)
        bound = min(-honest.priced(price), objective)
        if not self.coupled.there and self.windows.cut:
            return Evidence(objective, bound, "dual", (*notes, CUT))
        if objective - bound <= 1e-9 * abs(objective):
            return Evidence(objective, bound, "dual", notes)
        if purse.coarse or late:  # the search has seen rounded costs, or some levels alone
            return Evidence(objective, bound, "dual", notes)
        return Evidence(objective, min(max(bound, answer.bound), objective), "search", notes)

    def _lowest(self) -> float:
        """The level that the budget alone allows."""
        market = self.market
        if not len(market.least):
            return 0.0
        purse = market.purse
        return Levels(market.loss, market.least, market.reach, purse.floor, purse.whole_room).lowest()

    def explain(self, conflict: Conflict) -> Explanation:
        """What clashes, with the numbers of the spec; a change is proposed if, alone, it leaves no conflict at all."""
        found = explain(self.market, conflict, self.columns.money_scale, self.control)
        control = Control(min(PATIENCE, self.control.remaining), self.control.watch)
        change = {place: value for place, value in found.change.items() if self._mended(place, value, control)}
        remedy = " or ".join(f"{place} to {value:.10g}" for place, value in change.items())
        return Explanation(f"{found.message}; set {remedy}" if remedy else found.message, change)

    def _mended(self, place: str, value: float, control: Control) -> bool:
        """Whether there is a plan with one number of the spec changed."""
        if place == "fairness.max_gap":
            spec = self.spec.replace(fairness={"max_gap": value})
        elif place == "budget":
            spec = self.spec.replace(budget=value)
        else:
            column, _, row = place.removeprefix("groups.").rstrip("]").partition("[")
            groups = self.spec.fields()["groups"]
            changed = groups[column].copy()
            changed[int(row)] = value
            spec = self.spec.replace(groups={**groups, column: changed})
        form = CollectionProgram(spec)
        form.control = control
        try:
            program = form.formulate()
            bare = program.aimed("minimise", np.zeros(program.columns))
            HighsBackend().solve(bare, Options(), control)
        except (ProgramInfeasible, SolveTimeout):
            return False
        return True


FORMULATION = CollectionProgram
