"""What further samples of each group cost and are worth: collection budgets as formulation and baselines see them."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cached_property

import numpy as np

from ..specs.arrays import Floats, Integers
from ..specs.collection_budgets import CollectionBudgets, CollectionPlan
from ..specs.collection_curves import Bends, PowerLaws
from ..specs.collection_curves import ConvexCurves as RecordedConvex
from ..specs.exact import exact_dot
from .collection_beliefs import SharedFit, fit_shared_power_laws
from .collection_curves import ConvexCurves, Curves, PowerLawCurves, Sightings, fit_convex, fit_power_laws, sightings
from .control import Control
from .purse import purse_of_lots

UNLIMITED = 2**53
"""Stands for as many samples as anybody could want."""


class Market:
    """The groups of a spec, counted in lots.

    purse: prices of a lot and the budget, in whole units. least, most: (groups,) lots that must and may be
    bought, `most` as `groups.available` and `groups.most` say; top: no more than the whole budget buys of each.
    control: deadline and stop button of whoever asks, which fits that can take long look at.
    """

    def __init__(self, spec: CollectionBudgets, control: Control | None = None) -> None:
        self.spec = spec
        self.control = control or Control()
        groups, none = spec.groups, np.zeros(len(spec.groups), np.int64)
        self.cost: Floats = np.ones(len(groups)) if groups.cost is None else groups.cost
        self.weight: Floats = np.ones(len(groups)) if groups.weight is None else groups.weight
        self.least: Integers = none if groups.least is None else -(-groups.least // spec.lot)
        self.available: Integers = (none + UNLIMITED if groups.available is None else groups.available) // spec.lot
        self.permitted: Integers = (none + UNLIMITED if groups.most is None else groups.most) // spec.lot
        self.most: Integers = np.minimum(self.available, self.permitted)
        self.purse = purse_of_lots(self.cost, spec.lot, spec.budget, self.least, self.most)
        self.top: Integers = np.minimum(self.most, self.purse.room // self.purse.cost)

    @cached_property
    def reach(self) -> Integers:
        """(groups,) lots that no purchase has more of, however costs were rounded: `top` where they were not."""
        if not self.purse.coarse:
            return self.top
        cheapest = np.maximum(self.purse.floor, 1)
        most = np.where(self.purse.floor > 0, np.minimum(self.most, self.purse.whole_room // cheapest), self.most)
        return np.maximum(most, self.top)

    @property
    def affordable(self) -> bool:
        """Whether what must be bought can be bought."""
        return bool((self.least <= self.top).all()) and self.purse.spent(self.least) <= self.purse.room

    def money(self, lots: Integers) -> Fraction:
        """What so many lots of each group cost."""
        return exact_dot(self.cost, lots * self.spec.lot)

    @cached_property
    def seen(self) -> Sightings | None:
        """The observations, as the fits want them; None where curves are given."""
        seen = self.spec.observations
        if seen is None:
            return None
        names = {name: row for row, name in enumerate(self.spec.groups.name)}
        rows = np.array([names[name] for name in seen.group], np.int64)
        return sightings(rows, seen.samples, seen.loss, seen.stderr, len(names))

    @cached_property
    def _shared(self) -> SharedFit | None:
        """The curves fitted to all groups together, where that is asked for."""
        if self.seen is None or self.spec.model != "shared_power_law":
            return None
        return fit_shared_power_laws(self.seen)

    @cached_property
    def curves(self) -> Curves:
        """The learning curves, given or fitted. Raises `SolveTimeout` where there is no time for that."""
        if self.seen is not None:
            if self._shared is not None:
                return self._shared.curves
            if self.spec.model == "power_law":
                return fit_power_laws(self.seen)
            return fit_convex(self.seen, self.control.check)
        curve = self.spec.groups.curve
        if curve is None:  # no groups at all
            return PowerLawCurves(self.cost, self.cost, self.cost)
        return PowerLawCurves(curve.asymptote, curve.scale, curve.exponent, curve.loss_at_zero)

    def loss(self, group: Integers, lots: Integers) -> Floats:
        """(k,) losses of (k,) groups with (k,) lots bought."""
        return self.curves.loss(group, self.spec.groups.collected[group] + lots * self.spec.lot)

    def worth(self, group: Integers, lots: Integers) -> Floats:
        """(k,) what lots spare the objective, up to a constant; for `worst_group`, the weighted mean."""
        loss, weight = self.loss(group, lots), self.weight[group]
        if self.spec.minimise == "alpha_fair":
            return -weight * loss ** (1 + self.spec.alpha) / (1 + self.spec.alpha)
        return -weight * loss / math.fsum(self.weight)

    def gain(self, group: Integers, lots: Integers) -> Floats:
        """(k,) what one more lot is worth, however little that is beside the whole."""
        samples, weight = self.spec.groups.collected[group] + lots * self.spec.lot, self.weight[group]
        fall = self.curves.fall(group, samples, self.spec.lot)
        if self.spec.minimise != "alpha_fair":
            return weight * fall / math.fsum(self.weight)
        loss, power = self.curves.loss(group, samples), 1 + self.spec.alpha
        with np.errstate(divide="ignore"):  # a loss that falls to nothing
            part = -np.expm1(power * np.log1p(-np.minimum(fall / np.where(loss > 0, loss, 1.0), 1.0)))
        return weight * loss**power * part / power

    @property
    def every(self) -> Integers:
        """All groups."""
        return np.arange(len(self.weight))

    def blunt(self, group: Integers, start: Integers) -> Integers:
        """Of (k,) groups, those whose first lot after (k,) `start` is worth less than their second.

        That happens only to the first samples of all, whose loss is none of the curve's.
        """
        none = group[self.spec.groups.collected[group] + start == 0]
        first, second = (self.gain(none, np.full(len(none), lots)) for lots in (0, 1))
        return none[first < second]

    def plan(self, lots: Integers) -> CollectionPlan:
        """The plan that buys so many lots of each group, with what it says of itself."""
        return CollectionPlan(
            name=self.spec.name,
            samples=lots * self.spec.lot,
            predicted_loss=self.loss(self.every, lots),
            price=self._price(lots),
            fit=self._recorded(),
        )

    def _price(self, lots: Integers) -> float:
        """What the best single further lot spares the objective, per unit of budget; 0 if none may be bought."""
        gain = self.gain(self.every, lots) / (self.cost * self.spec.lot)
        return max(float(gain[lots < self.most].max(initial=0.0)), 0.0)

    def _recorded(self) -> PowerLaws | RecordedConvex | None:
        """The fit, in the form in which plans carry it."""
        if self.seen is None:
            return None
        curves, error = self.curves, self.seen.error(self.curves)
        if isinstance(curves, ConvexCurves):
            group, place = np.nonzero(curves.weight)
            bends = Bends(group=group, samples=curves.bend[group, place], weight=curves.weight[group, place])
            return RecordedConvex(level=curves.level, slope=curves.slope, bends=bends, error=error)
        if isinstance(curves, PowerLawCurves):
            laws = {"asymptote": curves.asymptote, "scale": curves.scale, "exponent": curves.exponent}
            return PowerLaws(**laws, error=error, stderr=None if self._shared is None else self._shared.stderr)
        return None
