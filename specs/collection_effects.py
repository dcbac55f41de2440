"""What a purchase of samples does under given learning curves: losses, what they count, and what one more lot saves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .arrays import Floats, Integers
from .collection_curves import Law, fall_over, loss_at, terms_at
from .scalars import LARGEST_INTEGER

if TYPE_CHECKING:
    from .collection_budgets import CollectionBudgets


@dataclass(frozen=True)
class Effects:
    """The effects of a collection budget's purchases, by the curves that it gives or that a plan has fitted.

    Groups are given by their rows, (k,) of them, and samples as all that a group has, or as what is bought.
    """

    spec: CollectionBudgets
    law: Law

    @cached_property
    def every(self) -> Integers:
        """(groups,) the rows of all groups."""
        return np.arange(len(self.spec.groups))

    @cached_property
    def cost(self) -> Floats:
        """(groups,) what a sample costs."""
        cost = self.spec.groups.cost
        return np.ones(len(self.every)) if cost is None else cost

    @cached_property
    def weight(self) -> Floats:
        """(groups,) what a loss counts."""
        weight = self.spec.groups.weight
        return np.ones(len(self.every)) if weight is None else weight

    @cached_property
    def most(self) -> Integers:
        """(groups,) samples that `available` and `most` allow."""
        groups, infinite = self.spec.groups, np.full(len(self.every), LARGEST_INTEGER)
        available = infinite if groups.available is None else groups.available
        return np.minimum(available, infinite if groups.most is None else groups.most)

    def loss(self, row: Integers, bought: Integers) -> Floats:
        """(k,) losses with so many samples bought."""
        return loss_at(self.law, row, self.spec.groups.collected[row] + bought)

    def losses(self, bought: Integers) -> Floats:
        """(groups,) losses of all groups."""
        return self.loss(self.every, bought)

    def terms(self, bought: Integers) -> Floats:
        """(groups,) how large the terms are that these losses are sums of."""
        return terms_at(self.law, self.every, self.spec.groups.collected + bought)

    @property
    def power(self) -> float:
        """The power of a loss that the objective counts."""
        return 1 + self.spec.alpha if self.spec.minimise == "alpha_fair" else 1.0

    def counted(self, row: Integers, loss: Floats) -> Floats:
        """(k,) what losses contribute to the objective; for `worst_group`, to the weighted mean."""
        total = 1.0 if self.spec.minimise == "alpha_fair" else math.fsum(self.weight)
        return self.weight[row] * loss**self.power / (self.power * total)

    def decrease(self, row: Integers, bought: Integers) -> Floats:
        """(k,) what one more lot takes off the objective; differences of losses would lose their digits."""
        samples = self.spec.groups.collected[row] + bought
        fall = fall_over(self.law, row, samples, self.spec.lot)
        if self.spec.minimise != "alpha_fair":
            return self.weight[row] * fall / math.fsum(self.weight)
        loss = loss_at(self.law, row, samples)
        share = np.divide(fall, loss, out=np.zeros(len(row)), where=loss > 0)
        with np.errstate(divide="ignore"):  # all of the loss may go
            relative = np.expm1(self.power * np.log1p(-np.minimum(share, 1.0)))
        return -self.weight[row] * loss**self.power / self.power * relative

    def price(self, bought: Integers) -> float:
        """The best decrease of the objective per unit of cost by one more lot."""
        decrease = self.decrease(self.every, bought) / (self.cost * self.spec.lot)
        return float(decrease[bought + self.spec.lot <= self.most].max(initial=0.0))
