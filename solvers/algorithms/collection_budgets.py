"""Collection budgets without a search: the best lots per unit of cost, or those that bring the worst losses down.

Weighted means and alpha-fair sums are one threshold on what a lot is worth (`purchase.py`); a worst-group task is one
threshold on the losses of all groups, one on those of all but one, and then the mean of what these leave to choose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ...specs.arrays import Floats, Integers
from ...specs.collection_budgets import CollectionBudgets, CollectionPlan
from ..algorithm import Algorithm, Found
from ..answer import ProgramInfeasible
from ..collection_curves import ConvexCurves, Curves, PowerLawCurves
from ..collection_market import Market
from ..control import Control
from ..doubt import first
from ..formulation import Evidence
from ..purse import COARSE
from . import leftover
from . import purchase as core

GAP = 1e-5
"""The gap that `auto` asks for where costs differ."""
SETTLED = 5e-10
"""Relative difference of plan and bound that is none: half of what calls itself optimal."""
DOUBTS = 1 << 14
"""Counts of groups that may be in doubt where lots are exchanged."""


class CollectionAlgorithm(Algorithm[CollectionBudgets, CollectionPlan]):
    """Thresholds on what lots are worth, and on losses; remembers the last price to begin the next search from."""

    name = "thresholds"

    def __init__(self) -> None:
        self._price = 0.0

    def refuses(self, spec: CollectionBudgets) -> str | None:
        """Shares and gaps tie groups together beyond the budget."""
        groups = spec.groups
        if len(groups) and (groups.least_share is not None or groups.most_share is not None):
            return "shares of all samples tie the groups together beyond the budget"
        if len(groups) and spec.fairness is not None:
            return "fairness.max_gap ties the groups together beyond the budget"
        return None

    def gap(self, spec: CollectionBudgets) -> float:
        """That of the mean; at equal costs, where nothing is left over, none remains."""
        return GAP

    def search_seconds(self, spec: CollectionBudgets) -> float:
        """Windows and a start from a good plan leave HiGHS little to do: 30 ms for 16 groups, 200 ms for 1000."""
        return 0.03 + 2e-4 * len(spec.groups)

    def solve(
        self, spec: CollectionBudgets, gap: float, seed: int, threads: int, control: Control
    ) -> Found[CollectionPlan]:
        """Raises `ProgramInfeasible` where what must be bought cannot be."""
        market = Market(spec)
        if not market.affordable:
            raise ProgramInfeasible("what must be bought is more than can be")
        if not len(spec.groups):
            nothing = np.zeros(0, np.int64)
            return Found(market.plan(nothing), Evidence(0.0, 0.0, "threshold"), "nothing to buy")
        shop = Shop.of(market)
        notes = (COARSE,) if market.purse.coarse else ()
        if spec.minimise == "worst_group":
            return _worst(shop, gap, notes)
        bought = shop.bought(market.least, gap, self._price)
        self._price = bought.price
        proof, how = ("search", ", then exchanges") if bought.searched else ("dual", "")
        bound = max(bought.bound - shop.rounded(bought.price), 0.0)
        return Found(market.plan(bought.lots), Evidence(bought.objective, bound, proof, notes), f"marginal values{how}")


@dataclass(frozen=True)
class Bought:
    """A purchase: (groups,) lots, what the objective comes to, and how far it is from the Lagrangian bound at a price.

    searched: there is none better, as a search that looked at all that the price leaves in doubt has shown.
    """

    lots: Integers
    price: float
    objective: float
    short: float
    searched: bool = False

    @property
    def bound(self) -> float:
        """What no purchase gets below."""
        return self.objective if self.searched else self.objective - self.short


@dataclass(frozen=True)
class Shop:
    """A market as tables for machine code, laid out as `purchase.py` says."""

    market: Market
    curve: Floats
    starts: Integers
    bend: Floats
    whole: Integers

    @classmethod
    def of(cls, market: Market) -> Shop:
        """The tables of a market."""
        curve, starts, bend = _curve_tables(market.curves, len(market.weight))
        whole = np.zeros((len(curve), 7), np.int64)
        whole[:, core.COLLECTED] = market.spec.groups.collected
        whole[:, core.LOT] = market.spec.lot
        whole[:, core.COST] = market.purse.cost
        whole[:, core.LOW], whole[:, core.TOP] = market.least, market.top
        whole[:, core.PLAIN] = (curve[:, core.SLOPE] == 0) & (np.diff(starts) == 0)
        fair = market.spec.minimise == "alpha_fair"
        curve[:, core.WEIGHT] = market.weight if fair else market.weight / math.fsum(market.weight.tolist())
        curve[:, core.POWER] = 1 + market.spec.alpha if fair else 1.0
        scale, exponent = curve[:, core.SCALE], curve[:, core.EXPONENT]
        with np.errstate(divide="ignore"):
            pull = curve[:, core.WEIGHT] * scale * exponent * (market.spec.lot / market.purse.cost)
            curve[:, core.PULL] = np.log(pull)
        return cls(market, curve, starts, bend, whole)

    def starting(self, low: Integers) -> Shop:
        """The same where so many lots are bought already, seen by worth: groups that gain nothing have nothing."""
        market, whole, curve = self.market, self.whole.copy(), self.curve
        inert = (curve[:, core.SCALE] == 0) & (whole[:, core.PLAIN] == 1)
        inert = (inert & (whole[:, core.COLLECTED] + low > 0)) | (curve[:, core.WEIGHT] == 0)
        whole[:, core.LOW] = low
        whole[inert, core.TOP] = low[inert]
        bare = np.flatnonzero((whole[:, core.COLLECTED] + low == 0) & (whole[:, core.TOP] > low + 1))
        if len(bare):
            blunt = market.blunt(bare, low[bare])
            lots, each = _opening(market, blunt, whole[blunt, core.TOP])
            curve = curve.copy()
            whole[blunt, core.OPENING], curve[blunt, core.FIRST] = lots, each
        return replace(self, curve=curve, whole=whole)

    def bought(self, low: Integers, gap: float, start: float = 0.0) -> Bought:
        """The best purchase above (groups,) lots, by worth, at a relative gap if it can be reached.

        start: a price to begin the search from, 0 if none is known.
        """
        shop = self.starting(low)
        lots, edge, left, found = shop._room()
        found[0] = start
        tables = shop.curve, shop.starts, shop.bend, shop.whole
        core.purchase(core.WORTH, *tables, self.market.purse.room, 0.0, lots, edge, left, found)
        price, short = float(found[0]), float(found[1])
        objective = self.objective(lots)
        enough = max(gap, SETTLED) * objective
        return Bought(lots, price, objective, short) if short <= enough else shop._exchanged(lots, price, short, enough)

    def _exchanged(self, bought: Integers, price: float, short: float, enough: float) -> Bought:
        """A purchase after exchanges of lots that the price leaves in doubt, until it is short of `enough` at most."""
        counts, purse = bought.copy(), self.market.purse
        group, lots, regret = np.empty(DOUBTS, np.int64), np.empty(DOUBTS, np.int64), np.empty(DOUBTS)
        tables = self.curve, self.starts, self.bend, self.whole
        size = core.in_doubt(*tables, price, short, counts, group, lots, regret)
        if size < 0:
            return Bought(bought, price, self.objective(bought), short)
        group, lots, regret = group[:size], lots[:size], regret[:size]
        width, nearest = np.bincount(group, minlength=len(counts)), np.full(len(counts), np.inf)
        np.minimum.at(nearest, group[lots != 0], regret[lots != 0])
        order = np.argsort(nearest, kind="stable")[: int((width > 1).sum())]  # the least regretted first
        rank = np.full(len(counts), len(counts))
        rank[order] = np.arange(len(order))
        entry = np.argsort(rank[group], kind="stable")[: int(width[order].sum())]
        starts, lots = np.concatenate([[0], np.cumsum(width[order])]), lots[entry]
        choice, known = np.full(len(order), -1), np.array([short])
        spare, cost = purse.room - purse.spent(counts), purse.cost[order]
        best = leftover.exchange(starts, lots, regret[entry], cost, spare, price, enough, known, choice)
        if known[0] < short:
            counts[order] += np.where(choice >= 0, lots[choice], 0)
            bought, short = counts, float(known[0])
        return Bought(bought, price, self.objective(bought), short, best and short > enough)

    def objective(self, lots: Integers) -> float:
        """What the losses come to; for `worst_group`, their weighted mean."""
        return -math.fsum(self.market.worth(self.market.every, lots).tolist())

    def rounded(self, price: float) -> float:
        """By how much the costs having been rounded up may have raised a Lagrangian bound."""
        purse = self.market.purse
        if not purse.coarse:
            return 0.0
        return price * float(((purse.cost - purse.true_cost) * self.market.top).sum())

    def demand(self, low: Integers, price: float, group: Integers) -> Integers:
        """(groups,) lots above `low` that are worth more than a price, for some groups; `low` for the others."""
        shop, lots = self.starting(low), low.copy()
        others = np.delete(self.market.every, group)
        shop.whole[others, core.TOP], shop.whole[others, core.OPENING] = low[others], 0
        core.demand(shop.curve, shop.starts, shop.bend, shop.whole, price, lots)
        return lots

    def loss(self, lots: Integers) -> Floats:
        """(groups,) losses, to the last bit as the levels have them."""
        loss = np.empty(len(lots))
        core.losses(self.curve, self.starts, self.bend, self.whole, lots, loss)
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
        whole[:, core.LOW] = low
        # Where a loss is at the floor or below it, there is nothing to buy.
        whole[now <= floor, core.TOP] = low[now <= floor]
        lots, edge, left, found = self._room()
        found[0] = start if start > 0 else math.sqrt(max(floor, 1e-3 * most) * most)
        tables = self.curve, self.starts, self.bend, whole
        core.purchase(core.LEVEL, *tables, market.purse.room, floor, lots, edge, left, found)
        return float(found[0])

    def need(self, level: float, low: Integers) -> Integers:
        """(groups,) the fewest lots from `low` on that bring each loss to a level; one above the top if none do."""
        market, whole, lots = self.market, self.whole.copy(), low.copy()
        now = self.loss(low)
        whole[:, core.LOW] = low
        whole[now <= level, core.TOP] = low[now <= level]
        core.need(self.curve, self.starts, self.bend, whole, level, lots)
        return np.where((now > level) & (low == market.top), market.top + 1, lots)

    def _room(self) -> tuple[Integers, Floats, Integers, Floats]:
        size = len(self.whole)
        return np.zeros(size, np.int64), np.empty((size, 2)), np.zeros(1, np.int64), np.zeros(2)


def _curve_tables(curves: Curves, groups: int) -> tuple[Floats, Integers, Floats]:
    """Learning curves as `purchase.py` has them: curve, starts, bend."""
    curve, starts, bend = np.zeros((groups, 9)), np.zeros(groups + 1, np.int64), np.zeros((0, 2))
    if isinstance(curves, PowerLawCurves):
        curve[:, core.BASE], curve[:, core.SCALE] = curves.asymptote, curves.scale
        curve[:, core.EXPONENT] = curves.exponent
        if curves.at_zero is not None:
            curve[:, core.ZERO] = curves.at_zero
        return curve, starts, bend
    if not isinstance(curves, ConvexCurves):
        raise TypeError(f"no tables are known for {type(curves).__name__}")
    curve[:, core.BASE], curve[:, core.SLOPE] = curves.level, curves.slope
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


def _worst(shop: Shop, gap: float, notes: tuple[str, ...]) -> Found[CollectionPlan]:
    """The lowest largest loss; within its tolerance the lowest second largest; within that, the best mean."""
    market, slack = shop.market, 1 + shop.market.spec.tolerance
    worst = shop.lowest(market.least)
    exempt = shop.need(slack * worst, market.least)
    exempt = np.minimum(exempt, market.top)
    others = exempt if len(exempt) == 1 else shop.need(slack * _second(shop, exempt), exempt)
    if (others > market.top).any():  # a group that cannot reach the second level takes the one exemption there is
        exempt = others = np.where(others > market.top, exempt, others)
    lots, doubt = _mean(shop, exempt, others, gap)
    bound = worst if not market.purse.coarse else _cautious(shop)
    plan = market.plan(lots)
    objective = float(plan.predicted_loss.max())
    notes = (*notes, f"the gap is the excess of the largest loss over {slack:g} times its bound")
    if doubt > 1e-9:
        notes = (*notes, f"the weighted mean, which comes last, is within {doubt:.1g} of the best, relatively")
    return Found(plan, Evidence(objective, min(bound, objective), "threshold", notes), "levels, then marginal values")


def _second(shop: Shop, low: Integers) -> float:
    """The lowest level to which all groups but one can be brought above (groups,) lots.

    Whoever spares most by staying behind at a level does so; if a level below the best without one group is
    affordable without another, that one it is.
    """
    market = shop.market
    stays, level = int(shop.last.argmax()), math.inf
    while True:
        before, level = level, shop.lowest(low, stays, 0.0 if math.isinf(level) else level)
        lots = shop.need(math.nextafter(level, -math.inf), low)
        beyond = np.flatnonzero(lots > market.top)
        if level <= 0 or level >= before or len(beyond) > 1:
            return min(level, before)
        lots = np.minimum(lots, market.top)
        saved = market.purse.cost * (lots - low)
        other = int(beyond[0]) if len(beyond) else int(saved.argmax())
        if other == stays or market.purse.spent(lots) - int(saved[other]) > market.purse.room:
            return level
        stays = other


def _mean(shop: Shop, exempt: Integers, others: Integers, gap: float) -> tuple[Integers, float]:
    """The best mean where one group may stay at `exempt` lots and the rest are at `others` at least.

    Returns (groups,) lots and by how much, relatively, a better mean may have been missed.
    """
    market, rise = shop.market, others - exempt
    saved, over = market.purse.cost * rise, market.purse.spent(others) - market.purse.room
    able = np.flatnonzero((rise > 0) & (saved >= over))
    # To stay behind is never worse than not to, and most likely best for the group that spares most.
    lead = int(able[saved[able].argmax()]) if len(able) else -1
    bought = shop.bought(np.where(market.every == lead, exempt, others), gap)
    best, least, bound = bought.lots, bought.objective, bought.bound
    # At one price, the bounds of two cases differ by what their own groups gain from staying behind.
    price, forced = bought.price, others[able]
    free = np.minimum(shop.demand(exempt, price, able)[able], forced)
    gained = market.worth(able, free) - market.worth(able, forced) + price * market.purse.cost[able] * (forced - free)
    limits = bought.objective - bought.short + float(gained[able == lead].sum()) - gained
    for place in np.argsort(limits, kind="stable").tolist():
        case, limit = int(able[place]), float(limits[place])
        if limit >= least * (1 - max(gap, SETTLED)):
            bound = min(bound, limit)  # and so are all that follow
            break
        if case != lead:
            bought = shop.bought(np.where(market.every == case, exempt, others), gap, price)
            bound = min(bound, max(limit, bought.bound))
            if bought.objective < least:
                best, least = bought.lots, bought.objective
    return best, max(least - bound, 0.0) / least if least > 0 else 0.0


def _cautious(shop: Shop) -> float:
    """The lowest level with the costs, which were rounded up, rounded down."""
    whole = shop.whole.copy()
    whole[:, core.COST] = np.floor(shop.market.purse.true_cost).astype(np.int64)
    return replace(shop, whole=whole).lowest(shop.market.least)


ALGORITHM = CollectionAlgorithm
