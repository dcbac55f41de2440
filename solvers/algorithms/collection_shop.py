"""What a budget buys of learning curves: the best lots per unit of cost, or those that bring the worst losses down.

A `Shop` is a market (`collection_market.py`) as the tables of `learning_curves.py`. It states three questions about it
for machine code: the best purchase by worth (`purchase.py`, and `exchange.py` where costs differ), the lowest level
that all groups can be brought to, and what a price or a level asks for group by group (`demand.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ...specs.arrays import Floats, Integers
from ..collection_curves import ConvexCurves, Curves, PowerLawCurves
from ..collection_market import Market
from ..doubt import first
from .demand import LEVEL, WORTH, demand, in_doubt, need
from .exchange import exchange
from .learning_curves import (
    BASE,
    COLLECTED,
    COST,
    EXPONENT,
    FIRST,
    FIRST_BEND,
    LAST_BEND,
    LOT,
    LOW,
    OPENING,
    PLAIN,
    POWER,
    PULL,
    SCALE,
    SLOPE,
    TOP,
    WEIGHT,
    ZERO,
    losses,
)
from .purchase import purchase

SETTLED = 5e-10
"""Relative difference of plan and bound that is none: half of what calls itself optimal."""
DOUBTS = 1 << 14
"""Counts of groups that may be in doubt where lots are exchanged."""


@dataclass(frozen=True)
class Bought:
    """A purchase: (groups,) lots, what the objective comes to, and how far it is from the Lagrangian bound at a price.

    searched: there is none better, as a search that looked at all that the price leaves in doubt has shown.
    hidden: what costs having been rounded up may have kept from all of that.
    """

    lots: Integers
    price: float
    objective: float
    short: float
    searched: bool = False
    hidden: float = 0.0

    @property
    def bound(self) -> float:
        """What no purchase gets below."""
        return self.objective if self.searched else self.lagrangian

    @property
    def lagrangian(self) -> float:
        """What the price proves that no purchase gets below."""
        return self.objective - self.short - self.hidden


@dataclass(frozen=True)
class Shop:
    """A market, and its groups as tables for machine code."""

    market: Market
    curve: Floats
    bend: Floats
    whole: Integers

    @classmethod
    def of(cls, market: Market) -> Shop:
        """The tables of a market."""
        curve, starts, bend = _curve_tables(market.curves, len(market.weight))
        whole = np.zeros((len(curve), LAST_BEND + 1), np.int64)
        whole[:, COLLECTED] = market.spec.groups.collected
        whole[:, LOT] = market.spec.lot
        whole[:, COST] = market.purse.cost
        whole[:, LOW], whole[:, TOP] = market.least, market.top
        whole[:, FIRST_BEND], whole[:, LAST_BEND] = starts[:-1], starts[1:]
        whole[:, PLAIN] = (curve[:, SLOPE] == 0) & (np.diff(starts) == 0)
        fair = market.spec.minimise == "alpha_fair"
        curve[:, WEIGHT] = market.weight if fair else market.weight / math.fsum(market.weight.tolist())
        curve[:, POWER] = 1 + market.spec.alpha if fair else 1.0
        scale, exponent = curve[:, SCALE], curve[:, EXPONENT]
        with np.errstate(divide="ignore"):
            pull = curve[:, WEIGHT] * scale * exponent * (market.spec.lot / market.purse.cost)
            curve[:, PULL] = np.log(pull)
        return cls(market, curve, bend, whole)

    def starting(self, low: Integers) -> Shop:
        """The same where so many lots are bought already, seen by worth: groups that gain nothing have nothing."""
        market, whole, curve = self.market, self.whole.copy(), self.curve
        inert = (curve[:, SCALE] == 0) & (whole[:, PLAIN] == 1)
        inert = (inert & (whole[:, COLLECTED] + low > 0)) | (curve[:, WEIGHT] == 0)
        whole[:, LOW] = low
        whole[inert, TOP] = low[inert]
        bare = np.flatnonzero((whole[:, COLLECTED] + low == 0) & (whole[:, TOP] > low + 1))
        if len(bare):
            blunt = market.blunt(bare, low[bare])
            lots, each = _opening(market, blunt, whole[blunt, TOP])
            curve = curve.copy()
            whole[blunt, OPENING], curve[blunt, FIRST] = lots, each
        return replace(self, curve=curve, whole=whole)

    def bought(self, low: Integers, gap: float, start: float = 0.0) -> Bought:
        """The best purchase above (groups,) lots, by worth, at a relative gap if it can be reached.

        start: a price to begin the search from, 0 if none is known.
        """
        shop = self.starting(low)
        lots, edge, left, found = shop._room()
        found[0] = start
        purchase(WORTH, shop.curve, shop.bend, shop.whole, self.market.purse.room, 0.0, lots, edge, left, found)
        price, short = float(found[0]), float(found[1])
        objective = self.objective(lots)
        enough = max(gap, SETTLED) * objective
        bought = Bought(lots, price, objective, short)
        if short > enough:
            bought = shop._exchanged(lots, price, short, enough)
        if self.market.purse.coarse:  # a search has seen rounded costs alone
            return replace(bought, searched=False, hidden=self.rounded(low, price))
        return bought

    def _exchanged(self, bought: Integers, price: float, short: float, enough: float) -> Bought:
        """A purchase after exchanges of lots that the price leaves in doubt, until it is short of `enough` at most."""
        counts, purse = bought.copy(), self.market.purse
        group, lots, regret = np.empty(DOUBTS, np.int64), np.empty(DOUBTS, np.int64), np.empty(DOUBTS)
        size = in_doubt(self.curve, self.bend, self.whole, price, short, counts, group, lots, regret)
        if size < 0:
            return Bought(bought, price, self.objective(bought), short)
        spare = purse.room - purse.spent(counts)
        entries = group[:size], lots[:size], regret[:size]
        found = exchange(*entries, counts, purse.cost, spare, price, short, enough)
        bought = bought if found.counts is None else found.counts
        return Bought(bought, price, self.objective(bought), found.short, found.proven and found.short > enough)

    def objective(self, lots: Integers) -> float:
        """What the losses come to; for `worst_group`, their weighted mean."""
        return -math.fsum(self.market.worth(self.market.every, lots).tolist())

    def rounded(self, low: Integers, price: float) -> float:
        """By how much the costs having been rounded up may have raised a Lagrangian bound.

        Every lot within reach may have cost a unit less, as may the budget have had one more; and what could be
        reached beyond the counts that rounded costs allow may have been worth more than it cost.
        """
        market = self.market
        floor, top = market.purse.floor, np.maximum(market.top, low)
        cheaper = (market.purse.cost - floor).astype(np.float64) * market.reach
        room = max(market.purse.whole_room - market.purse.room, 0) + 1
        further = np.flatnonzero(market.reach > top)
        more = market.worth(further, market.reach[further]) - market.worth(further, top[further])
        beyond = np.maximum(more - price * floor[further], 0.0)
        return (price * (math.fsum(cheaper.tolist()) + room) + math.fsum(beyond.tolist())) * (1 + 1e-9)

    def demand(self, low: Integers, price: float, group: Integers) -> Integers:
        """(groups,) lots above `low` that are worth more than a price, for some groups; `low` for the others."""
        shop, lots = self.starting(low), low.copy()
        others = np.delete(self.market.every, group)
        shop.whole[others, TOP], shop.whole[others, OPENING] = low[others], 0
        demand(shop.curve, shop.bend, shop.whole, price, lots)
        return lots

    def loss(self, lots: Integers) -> Floats:
        """(groups,) losses, to the last bit as the levels have them."""
        loss = np.empty(len(lots))
        losses(self.curve, self.bend, self.whole, lots, loss)
        return loss

    @cached_property
    def last(self) -> Floats:
        """(groups,) losses with all bought that the budget and the supply allow each alone."""
        return self.loss(self.market.top)

    def lowest(self, low: Integers, skip: int = -1, start: float = 0.0) -> float:
        """The lowest level that all groups, or all but one, can be brought to above (groups,) lots."""
        market, whole = self.market, self.whole.copy()
        now, last = self.loss(low), self.last.copy()
        if skip >= 0:
            now[skip] = last[skip] = 0.0
        floor, most = float(last.max()), float(now.max())
        if not most > floor:
            return most
        whole[:, LOW] = low
        # Where a loss is at the floor or below it, there is nothing to buy.
        whole[now <= floor, TOP] = low[now <= floor]
        lots, edge, left, found = self._room()
        found[0] = start if start > 0 else math.sqrt(max(floor, 1e-3 * most) * most)
        purchase(LEVEL, self.curve, self.bend, whole, market.purse.room, floor, lots, edge, left, found)
        return float(found[0])

    def need(self, level: float, low: Integers) -> Integers:
        """(groups,) the fewest lots from `low` on that bring each loss to a level; one above the top if none do."""
        market, whole, lots = self.market, self.whole.copy(), low.copy()
        now = self.loss(low)
        whole[:, LOW] = low
        whole[now <= level, TOP] = low[now <= level]
        need(self.curve, self.bend, whole, level, lots)
        return np.where((now > level) & (low == market.top), market.top + 1, lots)

    def _room(self) -> tuple[Integers, Floats, Integers, Floats]:
        size = len(self.whole)
        return np.zeros(size, np.int64), np.empty((size, 2)), np.zeros(1, np.int64), np.zeros(2)


def _curve_tables(curves: Curves, groups: int) -> tuple[Floats, Integers, Floats]:
    """Learning curves as `learning_curves.py` has them: curve, the bends of each group, bend."""
    curve, starts, bend = np.zeros((groups, PULL + 1)), np.zeros(groups + 1, np.int64), np.zeros((0, 2))
    if isinstance(curves, PowerLawCurves):
        curve[:, BASE], curve[:, SCALE] = curves.asymptote, curves.scale
        curve[:, EXPONENT] = curves.exponent
        if curves.at_zero is not None:
            curve[:, ZERO] = curves.at_zero
        return curve, starts, bend
    if not isinstance(curves, ConvexCurves):
        raise TypeError(f"no tables are known for {type(curves).__name__}")
    curve[:, BASE], curve[:, SLOPE] = curves.level, curves.slope
    group, place = np.nonzero(curves.weight)
    bend = np.stack([np.log(curves.bend[group, place]), curves.weight[group, place]], axis=1)
    order = np.lexsort((bend[:, 0], group))
    starts[1:] = np.cumsum(np.bincount(group, minlength=groups))
    return curve, starts, np.ascontiguousarray(bend[order])


def _opening(market: Market, group: Integers, top: Integers) -> tuple[Integers, Floats]:
    """The lots that only pay together, of groups whose first is worth less than their second, and what each does.

    On average they are worth most if the next is worth no more than that.
    """
    none = np.zeros_like(group)

    def mean(item: Integers, lots: Integers) -> Floats:
        return (market.worth(group[item], lots) - market.worth(group[item], none[item])) / lots

    lots = first(lambda item, lots: market.gain(group[item], lots) <= mean(item, lots), none + 1, top)
    return lots, mean(np.arange(len(group)), lots)
