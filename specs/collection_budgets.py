"""Whose data to collect next: how many further samples of each group to buy within a budget.

A group's loss falls with its samples along a learning curve, given or fitted to observations. Sources: Cai et al.
(arXiv 2202.01327) for utilities of power-law group losses under a budget; LCDB 1.1 (arXiv 2505.15657) for how
often real curves are no power laws, hence the models `shared_power_law` and `convex_monotone`, and the recorded
errors of every fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction as Rational
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .arrays import Amounts, Counts, Floats, Integers, PositiveAmounts, Rates
from .certificate import relative_gap
from .collection_curves import ConvexCurves, Curve, Fit, Law, Observations, PowerLaws, fall_over, fit_error, loss_at
from .errors import Fault
from .exact import decimals, exact, exact_dot
from .scalars import LARGEST_INTEGER, Amount, PositiveCount
from .sources import suggest
from .spec import Broken, Plan, Spec, above, below, differs, misshapen
from .tables import Names, Table

Objective = Literal["weighted_mean", "worst_group", "alpha_fair"]
Model = Literal["shared_power_law", "power_law", "convex_monotone"]

FEWEST: dict[Model, int] = {"shared_power_law": 1, "power_law": 3, "convex_monotone": 2}
"""Observations that a fit of each model needs per group."""
GAP_ROOM = 1e-9
"""By how much, relative to the largest loss, two losses may exceed `max_gap`: they are computed, not given."""
LARGEST_AMOUNT = 1e50
"""Costs, weights and losses may be at most this, and costs and weights, unless 0, at least one over it."""
LARGEST_EXPONENT = 1e6
"""Exponents of curves, at most: at one of a hundred, the second sample does all that there is to do."""
LARGEST_POWER = 200.0
"""Powers of ten that the terms of `alpha_fair` may reach, up or down."""
PRICE_STEP = 1e-4
"""How far from a plan's price, relatively, the price that proves most is looked for at first."""
SAME = 1e-14
"""Relative difference of two bounds that is none."""
SHARE_ROOM = 1e-9
"""By how much of all samples a share may be missed: a third of them cannot be written down."""


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
        groups = self.groups
        self._check_sizes()
        if len(groups) and (groups.curve is None) == (self.observations is None):
            raise Fault("give exactly one of {groups.curve} and {observations}, which curves are fitted to", "groups")
        if groups.weight is not None and len(groups) and not groups.weight.any():
            raise Fault("must be above 0 for at least one group, got only zeros", "groups", "weight")
        if groups.least is not None and groups.most is not None:
            for row in np.flatnonzero(groups.least > groups.most)[:1].tolist():
                text = f"must be at most {{groups.most}}[{row}] ({groups.most[row]}), got {groups.least[row]}"
                raise Fault(text, "groups", "least", row)
        self._check_shares()
        if groups.curve is not None:
            self._check_curve(groups.curve)
        if self.observations is not None:
            self._check_observations(self.observations)
        self._check_alpha()
        return self

    def _check_sizes(self) -> None:
        """What a unit of budget spares, a product and quotient of these, must be a number that floats can hold."""
        least, most, groups, curve = 1 / LARGEST_AMOUNT, LARGEST_AMOUNT, self.groups, self.groups.curve
        columns = [(("groups", "cost"), groups.cost, least, most), (("groups", "weight"), groups.weight, least, most)]
        if curve is not None:
            place = ("groups", "curve")
            columns += [
                ((*place, "asymptote"), curve.asymptote, 0.0, most),
                ((*place, "scale"), curve.scale, 0.0, most),
                ((*place, "exponent"), curve.exponent, 0.0, LARGEST_EXPONENT),
                ((*place, "loss_at_zero"), curve.loss_at_zero, 0.0, most),
            ]
        if self.observations is not None:
            columns.append((("observations", "loss"), self.observations.loss, 0.0, most))
        for path, column, low, high in columns:
            if column is None or not len(column):
                continue
            if column.max() > high:
                row = int(column.argmax())
                raise Fault(f"must be at most {high:g}, got {column[row]:g}", *path, row)
            if low and (tiny := np.flatnonzero((column < low) & (column > 0))).size:
                row = int(tiny[0])
                raise Fault(f"must be at least {low:g}, got {column[row]:g}", *path, row)

    def _check_alpha(self) -> None:
        """Losses to the power of 1 + alpha must be numbers that floats can hold."""
        curve, seen = self.groups.curve, self.observations
        losses = [] if seen is None else [seen.loss]
        if curve is not None:
            losses += [curve.asymptote + curve.scale, *([] if curve.loss_at_zero is None else [curve.loss_at_zero])]
        largest = max((float(loss.max(initial=0.0)) for loss in losses), default=0.0)
        if (
            self.minimise == "alpha_fair"
            and largest > 0
            and abs((1 + self.alpha) * math.log10(largest)) > LARGEST_POWER
        ):
            text = f"is so large that losses about {largest:.3g}, to the power of 1 + alpha, leave the range of numbers"
            raise Fault(f"{text}; got {self.alpha:g}", "alpha")

    def _check_shares(self) -> None:
        least, most = self.groups.least_share, self.groups.most_share
        if least is not None and most is not None:
            for row in np.flatnonzero(least > most)[:1].tolist():
                text = f"must be at most {{groups.most_share}}[{row}] ({most[row]:g}), got {least[row]:g}"
                raise Fault(text, "groups", "least_share", row)
        if least is not None and (total := math.fsum(least)) > 1 + SHARE_ROOM:
            raise Fault(f"adds up to {total:g}, and shares can add up to 1 at most", "groups", "least_share")
        if most is not None and len(most) and (total := math.fsum(most)) < 1 - SHARE_ROOM:
            text = f"adds up to {total:g}; below 1 nothing could ever be bought"
            raise Fault(text, "groups", "most_share")

    def _check_curve(self, curve: Curve) -> None:
        if self.model == "convex_monotone":
            raise Fault(f"{self.model!r} is fitted to {{observations}}, and there are curves instead", "model")
        for row in np.flatnonzero(self.groups.collected == 0).tolist():
            who = f"group {self.groups.name[row]!r}, of which nothing is collected yet,"
            if curve.loss_at_zero is None:
                raise Fault(f"needs loss_at_zero: for {who} a power law has no loss", "groups", "curve")
            first = float(curve.asymptote[row] + curve.scale[row])
            if curve.loss_at_zero[row] < first:
                text = f"must be at least the loss at one sample ({first:g}) for {who} got {curve.loss_at_zero[row]:g}"
                raise Fault(text, "groups", "curve", "loss_at_zero", row)

    def _check_observations(self, seen: Observations) -> None:
        names = {name: row for row, name in enumerate(self.groups.name)}
        for row, name in enumerate(seen.group):
            if name not in names:
                raise Fault(
                    f"must be the name of a group, got {name!r}{suggest(name, list(names))}",
                    "observations",
                    "group",
                    row,
                )
        for row in np.flatnonzero(self.groups.collected == 0)[:1].tolist():
            text = (
                f"must be at least 1 where curves are fitted, which say nothing at 0 samples; collect one sample of "
                f"{self.groups.name[row]!r}, or give {{groups.curve}} with loss_at_zero"
            )
            raise Fault(text, "groups", "collected", row)
        counts = np.bincount([names[name] for name in seen.group], minlength=len(names))
        fewest = FEWEST[self.model]
        for row in np.flatnonzero(counts < fewest)[:1].tolist():
            other = "; or set {model} to shared_power_law, for which 1 will do" if counts[row] else ""
            text = f"hold {counts[row]} of group {self.groups.name[row]!r}, and a {self.model} needs {fewest}{other}"
            raise Fault(text, "observations")

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
        spent, budget = exact_dot(self._cost(), samples), exact(self.budget)
        if spent > budget:
            message = f"cost {float(spent):.10g}, and the budget is {float(budget):.10g}"
            yield Broken("budget", ("samples",), float(spent - budget), message)
        yield from self._share_rules(samples)
        if self.fairness is not None and len(groups):
            yield from self._gap_rule(self._loss(plan, samples), self.fairness.max_gap)

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
            for row in np.flatnonzero(fit.bends.group >= len(self.groups)).tolist():
                yield Broken("shape", ("fit", "bends", "group", row), 1.0, "is no row of the groups")

    def reports(self, plan: CollectionPlan) -> Iterator[Broken]:
        """Predicted losses, the price, and how well the fit fits."""
        if next(self._shapes(plan), None) is not None:  # which `demands` has told of
            return
        loss = self._loss(plan, plan.samples)
        yield from differs("predicted_loss", "predicted_loss", plan.predicted_loss, loss)
        price = np.array([self._price(plan)])
        yield from differs("price", "price", np.array([plan.price]), price, relative=1e-8, absolute=0.0)
        if plan.fit is not None and self.observations is not None:
            rows = {name: row for row, name in enumerate(self.groups.name)}
            row = np.array([rows[name] for name in self.observations.group], np.int64)
            error = fit_error(plan.fit, row, self.observations, len(rows))
            yield from differs("fit", "fit.error", plan.fit.error, error)
        if isinstance(plan.fit, PowerLaws):
            idle = (plan.fit.scale == 0) & (plan.fit.exponent != 1)
            for row in np.flatnonzero(idle).tolist():
                yield Broken("fit", ("fit", "exponent", row), 1.0, "must be 1 where the scale is 0")

    def objective(self, plan: CollectionPlan) -> float:
        """The mean, the largest or the alpha-fair sum of the losses after the purchase."""
        loss = self._loss(plan, plan.samples)
        if self.minimise == "worst_group":
            return float(loss.max(initial=0.0))
        return math.fsum(self._share_of_objective(loss))

    def bound(self, plan: CollectionPlan) -> float:
        """What no plan can beat under the plan's own curves.

        `worst_group`: the lowest level that the budget can bring every group to, by counting. Otherwise the best
        Lagrangian bound over all prices of the budget, which is rounded down to what whole lots can spend.
        Shares and `max_gap` are left out of both, which keeps them true.
        """
        if not len(self.groups):
            return 0.0
        return self._lowest_level(plan) if self.minimise == "worst_group" else self._lagrangian(plan)

    def gap(self, plan: CollectionPlan, objective: float, bound: float) -> float:
        """The relative gap; for `worst_group` that of the excess over (1 + tolerance)·bound."""
        if self.minimise == "worst_group":
            return relative_gap(objective, min(objective, (1 + self.tolerance) * bound))
        return relative_gap(objective, bound)

    def measures(self, plan: CollectionPlan) -> dict[str, float]:
        """Mean and largest loss, and what is spent."""
        loss, weight = self._loss(plan, plan.samples), self._weight()
        return {
            "mean loss": math.fsum(weight * loss) / math.fsum(weight) if len(loss) else 0.0,
            "worst-group loss": float(loss.max(initial=0.0)),
            "budget spent": float(exact_dot(self._cost(), plan.samples)),
        }

    def _cost(self) -> Floats:
        return np.ones(len(self.groups)) if self.groups.cost is None else self.groups.cost

    def _weight(self) -> Floats:
        return np.ones(len(self.groups)) if self.groups.weight is None else self.groups.weight

    def _loss(self, plan: CollectionPlan, bought: Integers) -> Floats:
        """(groups,) loss with so many samples bought."""
        return loss_at(self._law(plan), np.arange(len(self.groups)), self.groups.collected + bought)

    def _law(self, plan: CollectionPlan) -> Law:
        """What says how losses fall."""
        law = self.groups.curve if plan.fit is None else plan.fit
        none = np.zeros(0)  # without groups there are no curves
        return Curve(asymptote=none, scale=none, exponent=none) if law is None else law

    def _share_of_objective(self, loss: Floats) -> Floats:
        """(groups,) what each loss contributes; for `worst_group`, to the weighted mean."""
        weight = self._weight()
        if self.minimise == "alpha_fair":
            return weight * loss ** (1 + self.alpha) / (1 + self.alpha)
        return weight * loss / math.fsum(weight) if len(loss) else loss

    def _most(self) -> Integers:
        """(groups,) samples that `available` and `most` allow."""
        infinite = np.full(len(self.groups), LARGEST_INTEGER)
        available = infinite if self.groups.available is None else self.groups.available
        return np.minimum(available, infinite if self.groups.most is None else self.groups.most)

    def _decrease(self, plan: CollectionPlan, row: Integers, samples: Integers) -> Floats:
        """(k,) what one more lot takes off the objective; differences of losses would lose their digits."""
        law, weight = self._law(plan), self._weight()
        fall = fall_over(law, row, samples, self.lot)
        if self.minimise != "alpha_fair":
            return weight[row] * fall / math.fsum(weight)
        loss, power = loss_at(law, row, samples), 1 + self.alpha
        share = np.divide(fall, loss, out=np.zeros(len(row)), where=loss > 0)
        with np.errstate(divide="ignore"):  # all of the loss may go
            return -weight[row] * loss**power / power * np.expm1(power * np.log1p(-np.minimum(share, 1.0)))

    def _price(self, plan: CollectionPlan) -> float:
        """The best decrease of the objective per unit of cost by one more lot."""
        cost, every = self._cost() * self.lot, np.arange(len(self.groups))
        decrease = self._decrease(plan, every, self.groups.collected + plan.samples) / cost
        return float(decrease[plan.samples + self.lot <= self._most()].max(initial=0.0))

    def _money(self) -> tuple[list[int], int, Rational]:
        """What a lot of each group costs, the budget, and the unit of both: the largest that all costs divide into."""
        cost, known = self._cost(), decimals(self._cost())
        if known is None:
            lots = [exact(price) * self.lot for price in cost.tolist()]
            unit = Rational(math.gcd(*(lot.numerator for lot in lots)), math.lcm(*(lot.denominator for lot in lots)))
            return [int(lot / unit) for lot in lots], int(exact(self.budget) / unit), unit
        whole, places = known
        common = int(np.gcd.reduce(whole))
        unit = Rational(common * self.lot, 10**places)
        return (whole // common).tolist(), int(exact(self.budget) / unit), unit

    def _ranges(self, cost: list[int], budget: int) -> tuple[Integers, Integers]:
        """(groups,) fewest and most lots, the most being what the budget allows each group alone."""
        least = np.zeros(len(self.groups), np.int64) if self.groups.least is None else self.groups.least
        alone = np.array([min(budget // lot, LARGEST_INTEGER) for lot in cost], np.int64)
        low = -(-least // self.lot)
        return low, np.maximum(np.minimum(self._most() // self.lot, alone), low)

    def _lowest_level(self, plan: CollectionPlan) -> float:
        cost, budget, _ = self._money()
        low, high = self._ranges(cost, budget)
        every = np.arange(len(low))

        def attained(level: float) -> float | None:
            """The largest loss once every group is just within a level; None if that takes more than there is."""
            lots = _first(lambda row, lots: self._lots_loss(plan, row, lots) <= level, low, high)
            loss = self._lots_loss(plan, every, lots)
            spent = sum(unit * count for unit, count in zip(cost, lots.tolist(), strict=True))
            return float(loss.max()) if loss.max() <= level and spent <= budget else None

        if attained(0.0) is not None:
            return 0.0
        within = float(self._lots_loss(plan, every, low).max())
        beyond = math.nextafter(float(self._lots_loss(plan, every, high).max()), -math.inf)
        while beyond < (middle := (beyond + within) / 2) < within:
            reached = attained(middle)
            beyond, within = (middle, within) if reached is None else (beyond, reached)
        return within

    def _lots_loss(self, plan: CollectionPlan, row: Integers, lots: Integers) -> Floats:
        return loss_at(self._law(plan), row, self.groups.collected[row] + lots * self.lot)

    def _lagrangian(self, plan: CollectionPlan) -> float:
        units, room, unit = self._money()
        low, high = self._ranges(units, room)
        cost, budget = np.array([float(lot * unit) for lot in units]), float(room * unit)
        weight, total = self._weight(), 1.0 if self.minimise == "alpha_fair" else math.fsum(self._weight())
        power = 1 + self.alpha if self.minimise == "alpha_fair" else 1.0

        def worth(row: Integers, lots: Integers) -> Floats:
            return weight[row] * self._lots_loss(plan, row, lots) ** power / (power * total)

        every = np.arange(len(low))
        # The loss without any sample stands apart from the curve, and what follows it falls ever more slowly.
        start = np.where((self.groups.collected + low == 0) & (low < high), low + 1, low)
        at_low = worth(every, low)

        def priced(price: float, least: Integers, most: Integers) -> _Priced:
            """The Lagrangian bound at a price, where the lots worth it are between `least` and `most`."""

            def too_dear(row: Integers, lots: Integers) -> NDArray[np.bool_]:
                decrease = self._decrease(plan, row, self.groups.collected[row] + lots * self.lot)
                return decrease < price * cost[row]

            worth_it = _first(too_dear, least, most)
            lots = np.where(
                at_low + price * cost * low <= worth(every, worth_it) + price * cost * worth_it, low, worth_it
            )
            excess = math.fsum((cost * lots).tolist()) - budget
            return _Priced(price, math.fsum(worth(every, lots).tolist()) + price * excess, excess, worth_it)

        cheap = priced(0.0, start, high)
        if cheap.excess <= 0:
            return cheap.bound
        largest = float(self._decrease(plan, every, self.groups.collected + start * self.lot).max(initial=0.0))
        dear = priced(max(largest, float((at_low - worth(every, start)).max())) / float(cost.min()), start, high)
        near = [plan.price, plan.price * (1 - PRICE_STEP), plan.price * (1 + PRICE_STEP)]
        for turn in range(500):
            best = max(cheap.bound, dear.bound)
            # The bound is concave in the price: nowhere between two is it above where their tangents meet.
            if not (drop := cheap.excess - dear.excess) > 0:
                break
            meet = (dear.bound - cheap.bound + cheap.price * cheap.excess - dear.price * dear.excess) / drop
            if cheap.bound + cheap.excess * (meet - cheap.price) - best <= SAME * abs(best):
                break
            half = (cheap.price + dear.price) / 2
            price = near[turn] if turn < len(near) else half if turn % 3 == 2 else meet
            if not cheap.price < price < dear.price:
                if turn >= len(near) and not cheap.price < half < dear.price:
                    break
                price = half
            trial = priced(price, dear.lots, cheap.lots)
            cheap, dear = (trial, dear) if trial.excess > 0 else (cheap, trial)
        return max(cheap.bound, dear.bound)


@dataclass(frozen=True)
class _Priced:
    """The Lagrangian bound at a price of the budget, by how much it is overspent there, and the lots worth it."""

    price: float
    bound: float
    excess: float
    lots: Integers


def _first(holds: Callable[[Integers, Integers], NDArray[np.bool_]], low: Integers, high: Integers) -> Integers:
    """(rows,) the smallest count in [low, high] at which something holds that goes on to hold; `high` if none."""
    low, high = low.copy(), high.copy()
    while (undecided := np.flatnonzero(low < high)).size:
        middle = (low[undecided] + high[undecided]) // 2
        yes = holds(undecided, middle)
        high[undecided[yes]], low[undecided[~yes]] = middle[yes], middle[~yes] + 1
    return low
