"""The lowest level to which a budget can bring the losses of all groups, or of all but one, by counting.

A level is affordable if the cheapest counts that bring every loss within it are; they only rise as the level
falls, so bisection finds the lowest one exactly: the answer is a loss that is attained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..specs.arrays import Floats, Integers
from .control import Control
from .doubt import Value, first


@dataclass(frozen=True)
class Levels:
    """Losses that fall with counts, and what the counts cost.

    loss: (k,) rows of groups and (k,) counts to (k,) losses. low, high: (groups,) bounds of the counts,
    affordable at `low`. cost: (groups,) whole units per count. room: whole units.
    """

    loss: Value
    low: Integers
    high: Integers
    cost: Integers
    room: int

    def counts(self, level: float) -> Integers:
        """(groups,) the fewest counts that bring each loss within a level; `high` where none does."""
        return first(lambda group, count: self.loss(group, count) <= level, self.low, self.high)

    def lowest(self, but_one: bool = False) -> float:
        """The lowest affordable level for all groups, or for all but one, which may stay at `low`."""
        every = np.arange(len(self.low))
        start = np.sort(self.loss(every, self.low))
        within = float(start[-2] if but_one else start[-1])
        if (reached := self._attained(0.0, but_one)) is not None:
            return reached
        beyond = 0.0
        while beyond < (middle := (beyond + within) / 2) < within:
            reached = self._attained(middle, but_one)
            beyond, within = (middle, within) if reached is None else (beyond, reached)
        return within

    def _attained(self, level: float, but_one: bool) -> float | None:
        """The loss that is reached, at most the level; None if that is not affordable."""
        counts = self.counts(level)
        loss = self.loss(np.arange(len(counts)), counts)
        out_of_reach = np.flatnonzero(loss > level)
        paid = [unit * count for unit, count in zip(self.cost.tolist(), counts.tolist(), strict=True)]
        cheapest = [unit * count for unit, count in zip(self.cost.tolist(), self.low.tolist(), strict=True)]
        saved = [have - least for have, least in zip(paid, cheapest, strict=True)]
        spent = sum(paid)
        if not but_one:
            return float(loss.max()) if not out_of_reach.size and spent <= self.room else None
        if out_of_reach.size > 1:
            return None
        exempt = int(out_of_reach[0]) if out_of_reach.size else max(range(len(saved)), key=saved.__getitem__)
        if spent - saved[exempt] > self.room:
            return None
        return float(np.delete(loss, exempt).max())


@dataclass(frozen=True)
class Floors:
    """What is left to choose once both levels of a worst-group problem are settled.

    worst, second: the levels. exempt: (groups,) the counts that the worst group needs; others: those that all
    the other groups need, never less.
    """

    worst: float
    second: float
    exempt: Integers
    others: Integers


def settle(levels: Levels, tolerance: float) -> Floors:
    """The lowest level of all groups; and, that kept within the tolerance, the lowest of all but one."""
    worst = levels.lowest()
    exempt = levels.counts((1 + tolerance) * worst)
    if len(exempt) == 1:
        return Floors(worst, 0.0, exempt, exempt)
    inner = Levels(levels.loss, exempt, levels.high, levels.cost, levels.room)
    second = inner.lowest(but_one=True)
    others = inner.counts((1 + tolerance) * second)
    beyond = levels.loss(np.arange(len(others)), others) > (1 + tolerance) * second
    if beyond.any():  # a group that cannot reach the second level takes the one exemption there is
        others = np.where(beyond, exempt, others)
        exempt = others
    return Floors(worst, second, exempt, others)


@dataclass(frozen=True)
class Ladder:
    """Every level that the largest loss may be at, falling, and what each demands of every group.

    need: (groups × levels) the fewest counts within the level, one above the highest count where none is.
    spare: (groups × levels) the most counts that leave the loss within a gap of the level, −1 where none does.
    """

    level: Floats
    need: Integers
    spare: Integers | None

    def at(self, rungs: Integers) -> Ladder:
        """Some of its levels."""
        return Ladder(self.level[rungs], self.need[:, rungs], None if self.spare is None else self.spare[:, rungs])

    def affordable(self, cost: Integers, room: int, high: Integers) -> Integers:
        """The levels, by number, at which every group has counts left, and the fewest of them can be paid."""
        able = (self.need <= high[:, None]).all(axis=0)
        if self.spare is not None:
            able &= (self.need <= self.spare).all(axis=0)
        rungs = np.flatnonzero(able)
        paid = (self.need.T[rungs].astype(object) * cost.astype(object)).sum(axis=1)  # whole numbers of any size
        return rungs[paid <= room] if len(rungs) else rungs


def ladder(loss: Value, low: Integers, high: Integers, level: Floats, gap: Floats | None, control: Control) -> Ladder:
    """What (levels,) levels demand of every group, within [low, high]; (levels,) `gap` is between that and any loss.

    Raises `SolveTimeout`.
    """
    groups, width = len(low), len(level)
    row = np.repeat(np.arange(groups), width)
    top, bottom = np.repeat(high, width), np.repeat(low, width)

    def reached(wanted: Floats, strictly: bool) -> Integers:
        def within(item: Integers, count: Integers) -> NDArray[np.bool_]:
            control.check()
            found = loss(row[item], np.minimum(count, top[item]))
            return (count > top[item]) | (found < wanted[item] if strictly else found <= wanted[item])

        return first(within, bottom, top + 1).reshape(groups, width)

    wanted = np.tile(level, groups)
    # The first count beyond the gap, less one: below `low` where even that is beyond.
    spare = None if gap is None else reached(wanted - np.tile(gap, groups), strictly=True) - 1
    return Ladder(level, reached(wanted, strictly=False), spare)


def attained(loss: Value, low: Integers, high: Integers) -> Floats:
    """Every level at which some group can be, falling."""
    width = high - low + 1
    group = np.repeat(np.arange(len(low)), width)
    count = low[group] + np.arange(len(group)) - np.repeat(np.cumsum(width) - width, width)
    return np.unique(loss(group, count))[::-1]
