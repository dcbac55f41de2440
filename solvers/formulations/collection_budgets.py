"""Collection budgets as a separable convex program: whole lots per group, and a column for what each lot is worth.

The loss of a group falls ever more slowly with the lots bought, so columns for single lots fill in the right order
by themselves (piecewise linear, exact at the integers). Where nothing but the budget ties the groups, columns are
made only for the lots that the Lagrangian bound leaves in doubt (`doubt.py`), and the levels of `worst_group` are
settled by counting (`levels.py`), one group being exempt from the second. `max_gap`, and levels under shares, choose
one level of the largest loss among all that can be attained: each gives every group a window of lots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...specs.collection_budgets import GAP_ROOM, SHARE_ROOM, CollectionBudgets, CollectionPlan
from ...specs.errors import SolveTimeout, UnsupportedError
from ..answer import Answer, ProgramInfeasible
from ..backends.highs import HighsBackend
from ..collection_market import Market
from ..collection_scarcity import explain
from ..control import Control, Options
from ..doubt import Doubt
from ..formulation import Conflict, Evidence, Explanation, Formulation
from ..levels import Floors, Ladder, Levels, attained, ladder, settle
from ..program import Builder, Floats, Integers, Program
from ..purse import COARSE

WINDOW_GAP = 1e-5
"""The gap that `auto` asks for: the windows are narrow, and the bound before any search is nearly that good."""
COUPLED_GAP = 1e-3
"""The gap that `auto` asks for where shares or gaps tie the groups together."""
LARGEST_RANGE = 2**18
"""Lots of all groups together in a program that needs a column for each."""
LARGEST_WINDOWS = 2**20
"""Lots in doubt that a program gets columns for."""
STARTS = 24
"""Levels of the largest loss that are tried for a plan to start from."""
LARGEST_CHOICE = 2**24
"""Groups × levels of a program that chooses a level."""
COEFFICIENT = 2.0**20
"""Coefficients of the budget row are brought below this, by a power of two: HiGHS's tolerances are absolute."""
CUT = "too many lots were in doubt for a search: only those nearest to the plan were looked at"
UNSETTLED = "the second largest loss and the mean may not be the best: the search for them was stopped"
PATIENCE = 10.0
"""Seconds to find out whether a proposed change leaves no conflict."""
STRETCH = 2**10
"""How many times further than the budget reaches a conflict is looked into."""


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


@dataclass(frozen=True)
class Rungs:
    """A ladder of levels. able: those that the largest loss may be at. high: (groups,) the most lots looked at.

    sure: whether there is a plan for certain; otherwise the ladder reaches beyond what can be bought.
    """

    ladder: Ladder
    able: Integers
    high: Integers
    sure: bool


class CollectionProgram(Formulation[CollectionBudgets, CollectionPlan]):
    """Collection budgets as a program, and back."""

    def __init__(self, spec: CollectionBudgets) -> None:
        super().__init__(spec)
        self.market = Market(spec)
        groups = spec.groups
        self.shares = groups.least_share is not None or groups.most_share is not None
        self.max_gap = None if spec.fairness is None else spec.fairness.max_gap
        self.coupled = len(groups) > 0 and (self.shares or self.max_gap is not None)

    def formulate(self) -> Program:
        """Columns: `lots` (groups), and what they spare: `extra` per lot that is in doubt."""
        if self.coupled:
            return self._coupled()
        builder = Builder("minimise", gap=WINDOW_GAP)
        if not self.market.affordable:
            self._lots(builder, 0, np.inf)  # nothing to aim at: only the conflict is of interest
            return builder.build()
        windows = self.windows
        lots = self._lots(builder, windows.low, windows.high)
        self._worth_rows(builder, lots, windows.low, windows.high)
        if windows.floors is not None:
            self._exemption(builder, lots, windows.floors)
        builder.offset = -math.fsum(self.market.worth(self.market.every, windows.low))
        return self._started(builder.build(), windows)

    def _lots(self, builder: Builder, lower: Integers | float, upper: Integers | float) -> Integers:
        """The columns that count lots, and every bound that the spec puts on them."""
        market, groups = self.market, self.spec.groups
        lots = builder.columns("lots", len(groups), lower=lower, upper=upper, integer=True)
        for name, least, most in (
            ("least", groups.least is not None, None),
            ("available", False, None if groups.available is None else market.available),
            ("most", False, None if groups.most is None else market.permitted),
        ):
            if least:
                builder.entries(builder.rows(name, len(groups), lower=market.least, lower_field=f"groups.{name}"), lots)
            elif most is not None:
                builder.entries(builder.rows(name, len(groups), upper=most, upper_field=f"groups.{name}"), lots)
        scale = self.money_scale
        row = builder.rows("budget", 1, upper=market.purse.room / scale, upper_field="budget")
        builder.entries(row, lots, market.purse.cost / scale)
        for name, shares in (("least_share", groups.least_share), ("most_share", groups.most_share)):
            if shares is not None:
                self._share_rows(builder, lots, name, shares)
        return lots

    @property
    def money_scale(self) -> float:
        """Units of money in one unit of the budget row."""
        largest = float(self.market.purse.cost.max(initial=1))
        return 2.0 ** max(math.ceil(math.log2(largest / COEFFICIENT)), 0)

    def _share_rows(self, builder: Builder, lots: Integers, name: str, shares: Floats) -> None:
        """A group's lots against its share of all lots. Scaled, so that HiGHS's tolerance is far below SHARE_ROOM."""
        least = name == "least_share"
        lower, upper = (0.0, np.inf) if least else (-np.inf, 0.0)
        rows = builder.rows(name, len(lots), lower=lower, upper=upper, field=f"groups.{name}")
        lenient = shares + (-SHARE_ROOM if least else SHARE_ROOM) / 2
        builder.entries(rows[:, None], lots[None, :], (np.eye(len(lots)) - lenient[:, None]) * COEFFICIENT)

    def _worth_rows(self, builder: Builder, lots: Integers, low: Integers, high: Integers) -> Integers:
        """Ties the lots from `low` to `high` to the columns that carry what they spare; returns these rows."""
        group, lot, blunt = self._single(low, high)
        gain = self.market.gain(group, lot)
        rows = builder.rows("worth", len(lots), lower=low, upper=low)
        builder.entries(rows, lots)
        extra = builder.columns("extra", int((~blunt).sum()), cost=-gain[~blunt], upper=1.0)
        builder.entries(rows[group[~blunt]], extra, -1.0)
        if blunt.any():
            # A first lot that is worth less than the second must still come first.
            opened = builder.columns("opened", int(blunt.sum()), cost=-gain[blunt], upper=1.0, integer=True)
            builder.entries(rows[group[blunt]], opened, -1.0)
            gate = builder.rows("gate", len(opened), upper=0.0)
            builder.entries(gate, lots[group[blunt]])
            builder.entries(gate, opened, -high[group[blunt]].astype(np.float64))
        return rows

    def _single(self, low: Integers, high: Integers) -> tuple[Integers, Integers, NDArray[np.bool_]]:
        """Every single lot from `low` to `high`: its group, its number, and whether it is worth less than the next."""
        every, width = self.market.every, high - low
        group = np.repeat(every, width)
        lot = low[group] + np.arange(len(group)) - np.repeat(np.cumsum(width) - width, width)
        wide = every[width > 1]
        return group, lot, np.isin(group, self.market.blunt(wide, low[wide])) & (lot == low[group])

    def _started(self, program: Program, windows: Windows) -> Program:
        """The program with the plan that the windows were found around to start from."""
        group, lot, blunt = self._single(windows.low, windows.high)
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

    def _coupled(self) -> Program:
        """The program over every lot that the budget could buy, with the levels that gaps and worst groups need."""
        market, spec, none = self.market, self.spec, np.zeros_like(self.market.top)
        if (size := int(market.top.sum())) > LARGEST_RANGE:
            raise _too_large(f"a column for each of {size:,} lots", LARGEST_RANGE, spec.lot * size / LARGEST_RANGE)
        builder = Builder("minimise", gap=COUPLED_GAP)
        builder.offset = -math.fsum(market.worth(market.every, none))
        lots = self._lots(builder, 0, np.inf)
        rows = self._worth_rows(builder, lots, none, market.top)
        rungs = self._rungs
        if rungs is None or not rungs.sure:
            self._beyond(builder, lots, rows)
        if rungs is not None:
            self._level_rows(builder, lots, rungs)
        program = builder.build()
        return program if rungs is None else self._from_some_level(program, rungs)

    def _from_some_level(self, program: Program, rungs: Rungs) -> Program:
        """The program with a plan to start from: the best of some levels, at each of which only the budget ties."""
        market, worst = self.market, rungs.ladder.at(rungs.able)
        if not rungs.sure or worst.spare is None or self.spec.minimise == "worst_group":
            return program
        best: tuple[float, int, Integers] | None = None
        for rung in np.unique(np.linspace(0, len(worst.level) - 1, STARTS).astype(np.int64)).tolist():
            low, high = worst.need[:, rung], np.minimum(market.top, worst.spare[:, rung])
            doubt = Doubt(market.worth, low, high, market.purse.cost, market.purse.room, market.gain)
            if best is None or doubt.achieved > best[0]:
                best = doubt.achieved, rung, doubt.counts
        if best is None:
            return program
        group, lot, blunt = self._single(np.zeros_like(market.top), market.top)
        taken = lot < best[2][group]
        level = np.arange(len(worst.level)) == best[1]
        there = {"lots": best[2], "extra": taken[~blunt], "opened": taken[blunt], "level": level}
        return program.starting(there)

    def _beyond(self, builder: Builder, lots: Integers, worth: Integers) -> None:
        """Lots past the last that can be bought: none, except where a conflict is looked into."""
        market = self.market
        short, supply = market.top < market.most, market.available <= market.permitted
        for field, where in (
            ("budget", short),
            ("groups.available", ~short & supply),
            ("groups.most", ~short & ~supply),
        ):
            group = np.flatnonzero(where)
            name = f"beyond_{field.rpartition('.')[2]}"
            beyond = builder.columns(name, len(group), upper=0.0, upper_field=field, integer=True)
            builder.entries(worth[group], beyond, -1.0)

    @cached_property
    def _rungs(self) -> Rungs | None:
        """The levels that the largest loss may be at; None where it does not matter."""
        market, spec = self.market, self.spec
        if self.max_gap is None and spec.minimise != "worst_group":
            return None
        least, top = np.minimum(market.least, market.top), market.top
        level = attained(market.loss, least, top)
        if (size := len(level) * len(top)) > LARGEST_CHOICE:
            raise _too_large(f"{size:,} pairs of group and level", LARGEST_CHOICE, spec.lot * size / LARGEST_CHOICE)
        gap = None if self.max_gap is None else self.max_gap + GAP_ROOM * level / 2
        strict = ladder(market.loss, least, top, level, gap)
        able = strict.affordable(market.purse.cost, market.purse.room, top)
        if market.affordable and not self.shares and len(able):
            return Rungs(strict, able, top, sure=True)
        # There may be a conflict, and what could mend it lies outside of what can be bought.
        stretch = np.unique(np.geomspace(1, STRETCH, 64).astype(np.int64))
        group = np.repeat(market.every, len(stretch))
        further = market.loss(group, np.tile(stretch, len(top)) * (top[group] + 1))
        level = np.unique(np.concatenate([attained(market.loss, np.zeros_like(top), top), further]))[::-1]
        gap = None if self.max_gap is None else self.max_gap + GAP_ROOM * level / 2
        high = STRETCH * (top + 1)
        loose = ladder(market.loss, np.zeros_like(top), high, level, gap)
        return Rungs(loose, np.arange(len(level)), high, sure=False)

    def _level_rows(self, builder: Builder, lots: Integers, rungs: Rungs) -> None:
        """One level of the largest loss is chosen: it gives every group a window of lots."""
        worst, every = rungs.ladder.at(rungs.able), self.market.every
        level = builder.columns("level", len(worst.level), upper=1.0, integer=True)
        builder.entries(builder.rows("one_level", 1, lower=1.0, upper=1.0), level)
        within = builder.rows("within", len(lots), lower=0.0)
        builder.entries(within, lots)
        builder.entries(within[:, None], level[None, :], -worst.need)
        if worst.spare is not None:
            near = builder.rows("max_gap", len(lots), upper=0.0, upper_field="fairness.max_gap")
            builder.entries(near, lots)
            builder.entries(near[:, None], level[None, :], -worst.spare)
        if self.spec.minimise != "worst_group":
            return
        scale, slack = _level_scale(worst.level), self.spec.tolerance
        builder.goal("largest loss", "minimise", level, worst.level * scale, slack)
        if len(lots) > 1:
            others = rungs.ladder
            second = builder.columns("second_level", len(others.level), upper=1.0, integer=True)
            builder.entries(builder.rows("one_second_level", 1, lower=1.0, upper=1.0), second)
            exempt = builder.columns("exempt", len(lots), upper=1.0, integer=True)
            builder.entries(builder.rows("one_exempt", 1, lower=1.0, upper=1.0), exempt)
            inside = builder.rows("within_second", len(lots), lower=0.0)
            builder.entries(inside, lots)
            builder.entries(inside[:, None], second[None, :], -others.need)
            builder.entries(inside, exempt[every], rungs.high[every] + 1)
            builder.goal("second largest loss", "minimise", second, others.level * _level_scale(others.level), slack)

    def interpret(self, answer: Answer) -> CollectionPlan:
        """Samples per group, and what they are expected to do."""
        lots = answer.whole("lots")
        if not self.coupled:
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
        notes = (COARSE,) if self.market.purse.coarse else ()
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
            found = [goal.bound / _level_scale(self._worst_levels) for goal in answer.goals[:1]]
            return Evidence(objective, min(max([bound, *found]), objective), "search", notes)
        objective, purse = -self._worth(lots), self.market.purse
        price = self._doubt(self.market.least).price
        honest = replace(self._doubt(self.market.least), cost=purse.true_cost)
        bound = min(-honest.priced(price), objective)
        if not self.coupled and self.windows.cut:
            return Evidence(objective, bound, "dual", (*notes, CUT))
        if objective - bound <= 1e-9 * abs(objective):
            return Evidence(objective, bound, "dual", notes)
        # What rounding the costs may have hidden from the search, each lot could have spent besides.
        hidden = price * float(lots.sum()) if purse.coarse else 0.0
        return Evidence(objective, min(max(bound, answer.bound - hidden), objective), "search", notes)

    def _lowest(self) -> float:
        """The level that the budget alone allows."""
        market = self.market
        if not len(market.least):
            return 0.0
        return Levels(market.loss, market.least, market.top, market.purse.cost, market.purse.room).lowest()

    @property
    def _worst_levels(self) -> Floats:
        return np.zeros(0) if self._rungs is None else self._rungs.ladder.level[self._rungs.able]

    def explain(self, conflict: Conflict) -> Explanation:
        """What clashes, with the numbers of the spec; a change is proposed if, alone, it leaves no conflict at all."""
        found = explain(self.market, conflict, self.money_scale)
        change = {place: value for place, value in found.change.items() if self._mended(place, value)}
        remedy = " or ".join(f"{place} to {value:.10g}" for place, value in change.items())
        return Explanation(f"{found.message}; set {remedy}" if remedy else found.message, change)

    def _mended(self, place: str, value: float) -> bool:
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
        program = CollectionProgram(spec).formulate()
        bare = program.aimed("minimise", np.zeros(program.columns))
        try:
            HighsBackend().solve(bare, Options(), Control(PATIENCE))
        except (ProgramInfeasible, SolveTimeout):
            return False
        return True


def _level_scale(level: Floats) -> float:
    """Levels are multiplied by this, so that the absolute tolerance of a solver is small beside them."""
    largest = float(level.max(initial=0.0))
    return COEFFICIENT / largest if largest > 0 else 1.0


def _too_large(what: str, limit: int, lot: float) -> UnsupportedError:
    return UnsupportedError(
        f"with shares or gaps between groups the exact program needs {what}, and {limit:,} are the limit; "
        f"set lot to {math.ceil(lot)} or more"
    )


FORMULATION = CollectionProgram
