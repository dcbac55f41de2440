"""Collection budgets without a search: the best lots per unit of cost, or those that bring the worst losses down.

Weighted means and alpha-fair sums are one threshold on what a lot is worth (`collection_shop.py`); a worst-group task
is one threshold on the losses of all groups, one on those of all but one, and then the mean of what these leave to
choose (`collection_levels.py`).
"""

from __future__ import annotations

import math

import numpy as np

from ...specs.collection_budgets import CollectionBudgets, CollectionPlan
from ..algorithm import Algorithm, Found
from ..answer import ProgramInfeasible
from ..collection_market import Market
from ..control import Control
from ..formulation import Evidence
from ..purse import ROUNDED
from .collection_levels import worst_group
from .collection_shop import Shop

GAP = 1e-5
"""The gap that `auto` asks for where costs differ."""
UNEVEN = 1e5
"""Ratio of two costs from which on a search is not worth trying unless it is asked for."""
PER_FIT = {"shared_power_law": (1200, 50), "power_law": (1000, 1000)}
"""Numbers that a fit comes to, per group and per observation."""
CONVEX = 6000
"""Those of a convex fit per group, whose observations count by their fourth power besides."""


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

    @classmethod
    def numbers(cls, spec: CollectionBudgets) -> int:
        """What a fit holds at a time, or as many as would take about as long: up to 60 ns each, by measurement."""
        if spec.observations is None:
            return 0
        if spec.model == "convex_monotone":
            seen = np.unique(spec.observations.group, return_counts=True)[1]
            return int((CONVEX + seen**4 // 16).sum())
        each, every = PER_FIT[spec.model]
        return each * len(spec.groups) + every * len(spec.observations)

    def gap(self, spec: CollectionBudgets) -> float:
        """That of the mean; at equal costs, where nothing is left over, none remains."""
        return GAP

    def search_seconds(self, spec: CollectionBudgets) -> float:
        """Windows and a start from a good plan leave HiGHS little to do: 30 ms for 16 groups, 200 ms for 1000.

        Where costs are further than `UNEVEN` apart, what the exchanges left open it did not close in 4 s either.
        """
        cost = np.ones(1) if spec.groups.cost is None else spec.groups.cost
        bought = cost[cost * spec.lot <= spec.budget]
        if bought.max(initial=0.0) > UNEVEN * bought.min(initial=np.inf):
            return math.inf
        return 0.03 + 2e-4 * len(spec.groups)

    def solve(
        self, spec: CollectionBudgets, gap: float, seed: int, threads: int, control: Control
    ) -> Found[CollectionPlan]:
        """Raises `ProgramInfeasible` where what must be bought cannot be."""
        market = Market(spec, control)
        if not market.affordable:
            raise ProgramInfeasible("what must be bought is more than can be")
        if not len(spec.groups):
            nothing = np.zeros(0, np.int64)
            return Found(market.plan(nothing), Evidence(0.0, 0.0, "threshold"), "nothing to buy")
        shop = Shop.of(market)
        notes = (ROUNDED,) if market.purse.coarse else ()
        if spec.minimise == "worst_group":
            return worst_group(shop, gap, notes)
        bought = shop.bought(market.least, gap, self._price)
        self._price = bought.price
        proof, how = ("search", ", then exchanges") if bought.searched else ("dual", "")
        bound = max(bought.bound, 0.0)
        return Found(market.plan(bought.lots), Evidence(bought.objective, bound, proof, notes), f"marginal values{how}")


ALGORITHM = CollectionAlgorithm
