"""The worst group first: which losses can be reached by all groups, which by all but one, and the best mean after that.

A level is affordable where the fewest lots that reach it are, group by group; so the lowest one is a threshold on the
losses, and proved to be. One group may stay behind at the second level: which one is found by what each would save, and
of those that the mean is tried with, all whose Lagrangian bound is no worse than the best mean found.
"""

from __future__ import annotations

import math

import numpy as np

from ...specs.arrays import Integers
from ...specs.collection_budgets import CollectionPlan
from ..algorithm import Found
from ..formulation import Evidence
from ..levels import Levels
from .collection_shop import SETTLED, Shop


def worst_group(shop: Shop, gap: float, notes: tuple[str, ...]) -> Found[CollectionPlan]:
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
    limits = bought.lagrangian + float(gained[able == lead].sum()) - gained
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
    """What no level is below: the lowest with the costs, which were rounded up, rounded down, and all within reach."""
    market = shop.market
    levels = Levels(market.loss, market.least, market.reach, market.purse.floor, market.purse.whole_room)
    return levels.lowest()
