"""Whose data to collect next: how many further samples of each group to buy within a budget.

A group's loss falls with its samples along a learning curve, given or fitted to observations. Sources: Cai et al.
(arXiv 2202.01327) for utilities of power-law group losses under a budget; LCDB 1.1 (arXiv 2505.15657) for how
often real curves are no power laws, hence the models `shared_power_law` and `convex_monotone`, and the recorded
errors of every fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .arrays import Amounts, Counts, Floats, Integers, PositiveAmounts, Rates
from .certificate import relative_gap
from .collection_bounds import lagrangian, lowest_level
from .collection_curves import ConvexCurves, Curve, Fit, Observations, PowerLaws, fit_error
from .collection_effects import Effects
from .collection_sense import SHARE_ROOM, consistent
from .exact import exact, exact_dot
from .scalars import Amount, PositiveCount
from .spec import Broken, Plan, Spec, above, below, differs, misshapen
from .tables import Names, Table

Objective = Literal["weighted_mean", "worst_group", "alpha_fair"]
Model = Literal["shared_power_law", "power_law", "convex_monotone"]

GAP_ROOM = 1e-9
"""By how much, relative to the largest loss, two losses may exceed `max_gap`: they are computed, not given."""


class Groups(Table):
    """The groups whose data can be collected, a row each."""

    name: Names
    """What each group is called; all differ."""
    collected: Counts
    """Samples held already."""
    cost: PositiveAmounts | None = None
    """Budget that one further sample takes; 1 if absent."""
    available: Counts | None = None
    """Further samples that can be bought, at most; unlimited if absent."""
    weight: Amounts | None = None
    """Weight in the objective; 1 if absent."""
    least: Counts | None = None
    """Samples bought, at least."""
    most: Counts | None = None
    """Samples bought, at most."""
    least_share: Rates | None = None
    """Share of all samples bought, at least."""
    most_share: Rates | None = None
    """Share of all samples bought, at most."""
    curve: Curve | None = None
    """The learning curves. Either these, or observations to fit them to."""


class Fairness(BaseModel):
    """What the losses of different groups owe each other."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    max_gap: Amount
    """Largest predicted loss less the smallest, at most."""


class CollectionPlan(Plan):
    """Samples to buy per group.

    samples: (groups,) further samples, multiples of `lot`.
    predicted_loss: (groups,) loss once they are there, by the curves given or by `fit`.
    price: what one more unit of budget would remove of the objective: the best decrease per unit of cost among
        single further lots that `available` and `most` still allow, 0 if there is none. For `worst_group` it
        counts the weighted mean, on which the last of the budget is spent.
    fit: the curves fitted to the observations, on which the plan's optimality is conditional; None where the
        spec gives curves.
    """

    kind: Literal["collection_budgets"] = "collection_budgets"
    samples: Counts
    predicted_loss: Amounts
    price: Amount
    fit: Fit | None = None

    axes: ClassVar = {"samples": ("groups",), "predicted_loss": ("groups",), "fit": ("groups",)}


class CollectionBudgets(Spec[CollectionPlan]):
    """How many further samples of each group to buy, in lots, with Σ cost·samples ≤ budget.

    Losses are taken at collected + samples. Minimise

    - `weighted_mean`: Σ weight·loss / Σ weight;
    - `alpha_fair`: Σ weight·loss^(1+alpha) / (1+alpha);
    - `worst_group`: first the largest loss; then, every loss within (1 + tolerance) of that, the second largest;
      then, the second largest within (1 + tolerance) of its own best as well, the weighted mean. So a group that
      no money can help does not swallow the budget. Objective and bound of the certificate are the largest loss,
      of which only the excess over (1 + tolerance)·bound counts as gap.
    """

    kind: Literal["collection_budgets"] = "collection_budgets"
    groups: Groups
    budget: Amount
    """What may be spent, in the unit of `groups.cost`."""
    observations: Observations | None = None
    """Losses that the curves are fitted to. Either these, or `groups.curve`."""
    model: Model = "shared_power_law"
    """What is fitted to observations. `shared_power_law`: the power law that each group's own points and the curves of
    all others together let one expect, which a few noisy points, or points off any power law, mislead the least.
    `power_law`: least squares, each group alone. `convex_monotone`: least squares by any curve that falls and
    flattens in log n, for many good points. Without observations it says nothing."""
    lot: PositiveCount = 1
    """Samples are bought in multiples of this: `least` is rounded up, `most` and `available` down."""
    minimise: Objective = Field(default="weighted_mean", alias="objective")
    """What is minimised."""
    alpha: Amount = 1.0
    """How much `alpha_fair` cares about large losses: 0 is a sum."""
    tolerance: Amount = 1e-3
    """How far, relatively, `worst_group` lets a level rise again for the sake of the next."""
    fairness: Fairness | None = None
    """Bounds between the losses of different groups."""

    sense = "minimise"
    unit = "loss"

    @model_validator(mode="after")
    def _consistent(self) -> CollectionBudgets:
        consistent(self)
        return self

    def demands(self, plan: CollectionPlan) -> Iterator[Broken]:
        """Shapes, lots, bounds, the budget, shares and gaps."""
        wrong = [*self._shapes(plan)]
        yield from wrong
        if wrong:
            return
        groups, samples = self.groups, plan.samples
        for row in np.flatnonzero(samples % self.lot).tolist():
            message = f"is {samples[row]}, must be a multiple of {self.lot}"
            yield Broken("lot", ("samples", row), int(samples[row] % self.lot), message)
        if groups.least is not None:
            yield from below("groups.least", "samples", samples, groups.least)
        for name, most in (("available", groups.available), ("most", groups.most)):
            if most is not None:
                yield from above(f"groups.{name}", "samples", samples, most)
        spent, budget = exact_dot(self._effects(plan).cost, samples), exact(self.budget)
        if spent > budget:
            message = f"cost {float(spent):.10g}, and the budget is {float(budget):.10g}"
            yield Broken("budget", ("samples",), float(spent - budget), message)
        yield from self._share_rules(samples)
        if self.fairness is not None and len(groups):
            yield from self._gap_rule(self._effects(plan).losses(samples), self.fairness.max_gap)

    def _gap_rule(self, loss: Floats, most: float) -> Iterator[Broken]:
        gap, room = float(loss.max() - loss.min()), GAP_ROOM * float(loss.max())
        if gap > most + room:
            worst, best = self.groups.name[int(loss.argmax())], self.groups.name[int(loss.argmin())]
            message = f"of {worst!r} and {best!r} are {gap:.10g} apart, at most {most:g} is allowed"
            yield Broken("fairness.max_gap", ("predicted_loss",), gap - most, message)

    def _share_rules(self, samples: Integers) -> Iterator[Broken]:
        total = int(samples.sum())
        for name, sign, shares in (
            ("least_share", 1, self.groups.least_share),
            ("most_share", -1, self.groups.most_share),
        ):
            for row, share in enumerate([] if shares is None else shares.tolist()):
                short = sign * (share * total - int(samples[row]))
                if short > SHARE_ROOM * total:
                    side = "least" if sign > 0 else "most"
                    message = f"is {samples[row]} of {total} bought, must be at {side} {share:g} of them"
                    yield Broken(f"groups.{name}", ("samples", row), float(short), message)

    def _shapes(self, plan: CollectionPlan) -> Iterator[Broken]:
        yield from misshapen("samples", plan.samples, (len(self.groups),))
        yield from misshapen("predicted_loss", plan.predicted_loss, (len(self.groups),))
        yield from self._fit_shapes(plan.fit)

    def _fit_shapes(self, fit: PowerLaws | ConvexCurves | None) -> Iterator[Broken]:
        """A plan carries a fit, of the right model and size, exactly if there is something to fit to."""
        expected = None if self.observations is None else ConvexCurves if self.model == "convex_monotone" else PowerLaws
        if expected is not (None if fit is None else type(fit)):
            wanted = "must be absent: the spec gives curves" if expected is None else f"must be a {self.model} fit"
            yield Broken("shape", ("fit",), 1.0, wanted)
        elif isinstance(fit, PowerLaws):
            yield from misshapen("fit", fit.asymptote, (len(self.groups),))
            if (fit.stderr is None) == (self.model == "shared_power_law"):
                wanted = "must be there" if fit.stderr is None else "must be absent"
                yield Broken("shape", ("fit", "stderr"), 1.0, f"{wanted} under the model {self.model}")
        elif isinstance(fit, ConvexCurves):
            for column in (fit.level, fit.slope, fit.error):
                yield from misshapen("fit", column, (len(self.groups),))
            yield from self._bend_rules(fit.bends.group)

    def _bend_rules(self, group: Integers) -> Iterator[Broken]:
        """Curves bend where something was observed, so often at most."""
        beyond = np.flatnonzero(group >= len(self.groups)).tolist()
        for row in beyond:
            yield Broken("shape", ("fit", "bends", "group", row), 1.0, "is no row of the groups")
        if not beyond and self.observations is not None:
            seen = np.bincount(self._seen_rows(self.observations), minlength=len(self.groups))
            bends = np.bincount(group, minlength=len(self.groups))
            for row in np.flatnonzero(bends > seen).tolist():
                message = (
                    f"hold {bends[row]} of group {self.groups.name[row]!r}, of which {seen[row]} losses were observed"
                )
                yield Broken("shape", ("fit", "bends"), float(bends[row] - seen[row]), message)

    def _seen_rows(self, seen: Observations) -> Integers:
        """(observations,) row of the group that each is of."""
        rows = {name: row for row, name in enumerate(self.groups.name)}
        return np.array([rows[name] for name in seen.group], np.int64)

    def reports(self, plan: CollectionPlan) -> Iterator[Broken]:
        """Predicted losses, the price, and how well the fit fits."""
        if next(self._shapes(plan), None) is not None:  # which `demands` has told of
            return
        effects, samples = self._effects(plan), plan.samples
        loss, size = effects.losses(samples), effects.terms(samples)
        yield from differs("predicted_loss", "predicted_loss", plan.predicted_loss, loss, size=size)
        price = np.array([effects.price(samples)])
        yield from differs("price", "price", np.array([plan.price]), price, relative=1e-8, size=0.0)
        if plan.fit is not None and self.observations is not None:
            row = self._seen_rows(self.observations)
            error, size = fit_error(plan.fit, row, self.observations, len(self.groups))
            yield from differs("fit", "fit.error", plan.fit.error, error, size=size)
        if isinstance(plan.fit, PowerLaws):
            idle = (plan.fit.scale == 0) & (plan.fit.exponent != 1)
            for row in np.flatnonzero(idle).tolist():
                yield Broken("fit", ("fit", "exponent", row), 1.0, "must be 1 where the scale is 0")

    def objective(self, plan: CollectionPlan) -> float:
        """The mean, the largest or the alpha-fair sum of the losses after the purchase."""
        effects = self._effects(plan)
        return self._achieved(effects, effects.losses(plan.samples))

    def bound(self, plan: CollectionPlan) -> float:
        """What no plan can beat under the plan's own curves.

        `worst_group`: the lowest level that the budget can bring every group to, by counting. Otherwise the best
        Lagrangian bound over all prices of the budget, which is rounded down to what whole lots can spend.
        Shares and `max_gap` are left out of both, which keeps them true.
        """
        if not len(self.groups):
            return 0.0
        effects = self._effects(plan)
        return lowest_level(effects) if self.minimise == "worst_group" else lagrangian(effects, plan.price)

    def gap(self, plan: CollectionPlan, objective: float, bound: float) -> float:
        """The relative gap; for `worst_group` that of the excess over (1 + tolerance)·bound."""
        if self.minimise == "worst_group":
            return relative_gap(objective, min(objective, (1 + self.tolerance) * bound))
        return relative_gap(objective, bound)

    def magnitude(self, plan: CollectionPlan) -> float:
        """The objective with every loss as large as its terms, and what the budget is worth at the plan's price."""
        effects = self._effects(plan)
        spent = 0.0 if self.minimise == "worst_group" else plan.price * self.budget
        return self._achieved(effects, effects.terms(plan.samples)) + spent

    def measures(self, plan: CollectionPlan) -> dict[str, float]:
        """Mean and largest loss, and what is spent."""
        effects = self._effects(plan)
        loss, weight = effects.losses(plan.samples), effects.weight
        return {
            "mean loss": math.fsum(weight * loss) / math.fsum(weight) if len(loss) else 0.0,
            "worst-group loss": float(loss.max(initial=0.0)),
            "budget spent": float(exact_dot(effects.cost, plan.samples)),
        }

    def _achieved(self, effects: Effects, loss: Floats) -> float:
        """The objective of given losses."""
        if self.minimise == "worst_group":
            return float(loss.max(initial=0.0))
        return math.fsum(effects.counted(effects.every, loss)) if len(loss) else 0.0

    def _effects(self, plan: CollectionPlan) -> Effects:
        """What purchases do by the curves given, or by those that a plan has fitted."""
        law, none = self.groups.curve if plan.fit is None else plan.fit, np.zeros(0)
        return Effects(self, Curve(asymptote=none, scale=none, exponent=none) if law is None else law)
