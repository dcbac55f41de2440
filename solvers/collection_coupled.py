"""Collection budgets whose groups are tied together by shares or by `max_gap`, as one program over all lots.

`max_gap`, and levels under shares, choose one level of the largest loss among all that can be attained: each gives
every group a window of lots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..specs.collection_budgets import GAP_ROOM
from ..specs.errors import SolveTimeout, UnsupportedError
from .collection_columns import COEFFICIENT, Columns
from .control import Control
from .doubt import Doubt
from .levels import Ladder, attained, ladder
from .program import Builder, Floats, Integers, Program

COUPLED_GAP = 1e-3
"""The gap that `auto` asks for where shares or gaps tie the groups together."""
LARGEST_RANGE = 2**18
"""Lots of all groups together in a program that needs a column for each."""
FEW, STARTS = 64, 24
"""Levels of the largest loss that a program is made of where there is no time for all, and that are tried for a plan to
start from."""
LARGEST_CHOICE = 2**24
"""Groups × levels of a program that chooses a level."""
STRETCH = 2**10
"""How many times further than the budget reaches a conflict is looked into."""


@dataclass(frozen=True)
class Rungs:
    """A ladder of levels. able: those that the largest loss may be at. high: (groups,) the most lots looked at.

    sure: whether there is a plan for certain; otherwise the ladder reaches beyond what can be bought.
    """

    ladder: Ladder
    able: Integers
    high: Integers
    sure: bool


class Coupled:
    """The program over every lot that the budget could buy, with the levels that gaps and worst groups need."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.control = Control()
        self.late = False
        """Whether there was no time for all levels, so that no bound of the program's holds for the task."""
        self.spec, self.market = columns.spec, columns.market
        groups = self.spec.groups
        self.shares = groups.least_share is not None or groups.most_share is not None
        self.max_gap = None if self.spec.fairness is None else self.spec.fairness.max_gap

    @property
    def there(self) -> bool:
        """Whether anything ties the groups together beyond the budget."""
        return len(self.spec.groups) > 0 and (self.shares or self.max_gap is not None)

    def formulate(self, control: Control) -> Program:
        """Columns: `lots` (groups), `extra` per lot, and `level` per level that the largest loss may be at.

        Raises `SolveTimeout` where the levels take too long, and some of them alone give no plan.
        """
        self.control = control
        market, spec, none = self.market, self.spec, np.zeros_like(self.market.top)
        if (size := int(market.top.sum())) > LARGEST_RANGE:
            raise _too_large(f"a column for each of {size:,} lots", LARGEST_RANGE, spec.lot * size / LARGEST_RANGE)
        builder = Builder("minimise", gap=COUPLED_GAP)
        builder.offset = -math.fsum(market.worth(market.every, none))
        lots = self.columns.lots(builder, 0, np.inf)
        rows = self.columns.worth_rows(builder, lots, none, market.top)
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
        group, lot, blunt = self.columns.single(np.zeros_like(market.top), market.top)
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
        strict = self._strict(least, top, level)
        able = strict.affordable(market.purse.cost, market.purse.room, top)
        if market.affordable and not self.shares and len(able):
            return Rungs(strict, able, top, sure=True)
        self.control.check()
        # There may be a conflict, and what could mend it lies outside of what can be bought.
        stretch = np.unique(np.geomspace(1, STRETCH, 64).astype(np.int64))
        group = np.repeat(market.every, len(stretch))
        further = market.loss(group, np.tile(stretch, len(top)) * (top[group] + 1))
        level = np.unique(np.concatenate([attained(market.loss, np.zeros_like(top), top), further]))[::-1]
        high = STRETCH * (top + 1)
        loose = ladder(market.loss, np.zeros_like(top), high, level, self._gap(level), self.control)
        return Rungs(loose, np.arange(len(level)), high, sure=False)

    def _strict(self, least: Integers, top: Integers, level: Floats) -> Ladder:
        """What levels demand within what can be bought; only some of them if time runs out over it."""
        try:
            return ladder(self.market.loss, least, top, level, self._gap(level), self.control)
        except SolveTimeout:
            self.late = True
            some = level[np.unique(np.linspace(0, len(level) - 1, FEW).astype(np.int64))]
            return ladder(self.market.loss, least, top, some, self._gap(some), Control())

    def _gap(self, level: Floats) -> Floats | None:
        """(levels,) by how much a loss may be below each level."""
        return None if self.max_gap is None else self.max_gap + GAP_ROOM * level / 2

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
        scale, slack = level_scale(worst.level), self.spec.tolerance
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
            builder.goal("second largest loss", "minimise", second, others.level * level_scale(others.level), slack)

    @property
    def worst_levels(self) -> Floats:
        """The levels that the largest loss may be at, falling."""
        return np.zeros(0) if self._rungs is None else self._rungs.ladder.level[self._rungs.able]


def level_scale(level: Floats) -> float:
    """Levels are multiplied by this, so that the absolute tolerance of a solver is small beside them."""
    largest = float(level.max(initial=0.0))
    return COEFFICIENT / largest if largest > 0 else 1.0


def _too_large(what: str, limit: int, lot: float) -> UnsupportedError:
    return UnsupportedError(
        f"with shares or gaps between groups the exact program needs {what}, and {limit:,} are the limit; "
        f"set lot to {math.ceil(lot)} or more"
    )
