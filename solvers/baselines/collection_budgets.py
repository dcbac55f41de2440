"""How data is bought today: as much of each group, in proportion to what there is, or where there is least."""

from __future__ import annotations

import heapq

import numpy as np

from ...specs.collection_budgets import CollectionBudgets, CollectionPlan
from ..collection_market import Market
from ..program import Floats, Integers


def equal(spec: CollectionBudgets) -> CollectionPlan:
    """As many samples of every group."""
    market = Market(spec)
    return market.plan(_raised(market, np.zeros(len(market.top)), np.ones(len(market.top))))


def proportional(spec: CollectionBudgets) -> CollectionPlan:
    """Samples in proportion to what is collected; to the weights, if that is nothing."""
    market = Market(spec)
    shares = spec.groups.collected if spec.groups.collected.any() else market.weight
    return market.plan(_raised(market, np.zeros(len(market.top)), shares.astype(np.float64)))


def water_filling(spec: CollectionBudgets) -> CollectionPlan:
    """Always a sample of the group of which there is least."""
    market = Market(spec)
    return market.plan(_raised(market, spec.groups.collected / spec.lot, np.ones(len(market.top))))


def _raised(market: Market, start: Floats, pace: Floats) -> Integers:
    """(groups,) lots if levels start at `start`, rise by 1/pace per lot, and the lowest group always buys next.

    Groups that are sold out or no longer affordable drop out; those of pace 0 never buy.
    """
    every, none = market.every, np.zeros(len(start), np.int64)

    def lots(level: float) -> Integers:
        return np.clip(np.ceil((level - start) * pace), none, market.top).astype(np.int64)

    # First as far as all can rise together, then lot by lot.
    low, high = 0.0, float(((market.top / np.maximum(pace, 1e-300)) + start)[pace > 0].max(initial=0.0))
    for _ in range(100):
        level = (low + high) / 2
        low, high = (level, high) if market.purse.spent(lots(level)) <= market.purse.room else (low, level)
    bought = lots(low)
    left = market.purse.room - market.purse.spent(bought)
    queue = [(start[row] + bought[row] / pace[row], row) for row in every.tolist() if pace[row] > 0]
    heapq.heapify(queue)
    while queue:
        _, row = heapq.heappop(queue)
        if bought[row] < market.top[row] and market.purse.cost[row] <= left:
            bought[row] += 1
            left -= int(market.purse.cost[row])
            heapq.heappush(queue, (start[row] + bought[row] / pace[row], row))
    return bought


BASELINES = {"equal": equal, "proportional": proportional, "water-filling": water_filling}
