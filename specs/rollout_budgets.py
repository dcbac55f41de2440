"""How many rollouts each prompt gets in one step of reinforcement learning.

Sources: Knapsack RL (arXiv 2509.25849) for the value of a rollout; its expectation under a Beta belief for
`posterior`; GVM-RAFT (arXiv 2505.02391) and VIP (arXiv 2602.01601) for the variance objectives; Neyman (1934).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Strict, Tag, model_validator

from .arrays import ArrayRule, Counts, Floats, Integers, Rates, Reals
from .errors import Fault, shown
from .exact import exact, exact_dot
from .rollout_worth import Worth
from .scalars import PLAIN, Count, Fraction, PositiveCount, Real
from .spec import Broken, Plan, Spec, above, below, differs, misshapen
from .tables import Labels, Names, Table

Value = Literal["posterior", "knapsack_rl", "neyman", "gvm", "vip", "table"]

LARGEST_TABLE = 2**26
"""Prompts × counts that a task may have (half a gigabyte of values) where counts have to be weighed one by one."""
LARGEST_TOTAL = 2**24
"""Rollouts that a step may have, and those of a `multiple_of` for every prompt: they are gone through one by one."""
LARGEST_VALUE = 1e100
"""Values in a `table` have at most this magnitude, so that no sum of them overflows."""
CHEAPEST, DEAREST, LARGEST_BUDGET = 1e-30, 1e30, 1e40
"""Tokens of a rollout lie between the first two, and a budget is at most the third: prices times costs stay finite."""
LARGEST_NORM = 1e50
"""Norms of gradients are at most this, and so are their squares fit to be added up."""
NAMED = 10
"""Names of groups that an error lists, at most."""

Belief = Annotated[float, Strict(), Field(ge=1e-9, le=1e5, allow_inf_nan=False), PLAIN]
"""Observations counted in advance: neither so few nor so many that beliefs lose their digits."""


class Prompts(Table):
    """The prompts of one step, a row each."""

    success_rate: Rates | None = None
    """Probability that a rollout is rewarded. Either this, or successes and trials."""
    successes: Counts | None = None
    """Rewarded rollouts so far."""
    trials: Counts | None = None
    """Rollouts so far."""
    tokens: Annotated[Floats, ArrayRule(least=CHEAPEST, most=DEAREST)] | None = None
    """Expected tokens of one rollout; used with `token_budget`."""
    group: Labels | None = None
    """Name of the group that a prompt belongs to, such as its data set."""
    gradient_norm: Annotated[Floats, ArrayRule(least=0, most=LARGEST_NORM)] | None = None
    """Norm of the prompt's gradient, for `neyman`, `gvm` and `vip`; 1 if absent."""
    drawn: Counts | None = None
    """Rollouts of this very step that are already there."""
    drawn_successes: Counts | None = None
    """How many of those were rewarded."""


class Groups(Table):
    """Bounds on the rollouts of whole groups of prompts."""

    name: Names
    """Name of the group."""
    least: Counts | None = None
    """Rollouts of the group together, at least."""
    most: Counts | None = None
    """Rollouts of the group together, at most."""


class Beta(BaseModel):
    """A Beta distribution over success rates."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    alpha: Belief
    """Successes counted in advance."""
    beta: Belief
    """Failures counted in advance."""


def _prior_form(value: Any) -> str:
    return "~fit" if isinstance(value, str) else "~beta"


class RolloutPlan(Plan):
    """Rollouts per prompt.

    rollouts: (prompts,) whole numbers, those already drawn included.
    price: the best marginal value per unit of budget that was not taken; 0 if none was left.
    group_price: (groups,) what a unit of budget costs each group beyond `price`; only where groups bind.
    expected_gradient_share: share of the rollouts expected in groups with both outcomes, which have a gradient.
    prior: alpha and beta of the belief that the histories were weighed with, given or fitted; `posterior` only.
    """

    kind: Literal["rollout_budgets"] = "rollout_budgets"
    rollouts: Counts
    price: Real
    group_price: Reals | None = None
    expected_gradient_share: Fraction | None = None
    prior: Beta | None = None

    axes: ClassVar = {"rollouts": ("prompts",), "group_price": ("groups",)}


class RolloutBudgets(Spec[RolloutPlan]):
    """How many rollouts each prompt gets in one step of reinforcement learning.

    Maximise Σ value(n_i) over prompts i, with Σ n_i = total (or Σ tokens_i·n_i ≤ token_budget),
    least ≤ n_i ≤ most, n_i a multiple of `multiple_of` and at least what is already drawn.
    """

    kind: Literal["rollout_budgets"] = "rollout_budgets"
    prompts: Prompts
    """The prompts of the step."""
    total: Count | None = None
    """Rollouts in the step, exactly. Either this, or `token_budget`."""
    token_budget: Annotated[float, Strict(), Field(ge=0, le=LARGEST_BUDGET, allow_inf_nan=False), PLAIN] | None = None
    """Tokens in the step, at most."""
    least: Count = 2
    """Rollouts per prompt, at least."""
    most: PositiveCount = 128
    """Rollouts per prompt, at most."""
    multiple_of: PositiveCount = 1
    """Every count of rollouts is a multiple of this: `least` is rounded up, `most` down."""
    value: Value = "posterior"
    """What a prompt's rollouts are worth together."""
    prior: Annotated[
        Annotated[Literal["fit"], Tag("~fit")] | Annotated[Beta, Tag("~beta")], Discriminator(_prior_form)
    ] = "fit"
    """Belief about success rates before any history: fitted to the batch's own history, or given."""
    table: Annotated[Floats, ArrayRule(dimensions=(2,), least=-LARGEST_VALUE, most=LARGEST_VALUE)] | None = None
    """(prompts × counts) value of n rollouts in column n, from 0 to `most`; for `value: table`."""
    groups: Groups | None = None
    """Bounds on the rollouts of whole groups."""

    sense = "maximise"
    unit = "expected gradient value"

    @model_validator(mode="after")
    def _consistent(self) -> RolloutBudgets:
        prompts = self.prompts
        if (self.total is None) == (self.token_budget is None):
            raise Fault("give exactly one of {total} (rollouts) and {token_budget} (tokens)", "total")
        if self.token_budget is not None and prompts.tokens is None:
            raise Fault("{token_budget} needs {prompts.tokens}, the expected tokens of a rollout", "token_budget")
        if self.total is not None and self.total > LARGEST_TOTAL:
            raise Fault(f"must be at most {LARGEST_TOTAL}, got {self.total}", "total")
        if self.multiple_of > (limit := max(LARGEST_TOTAL // max(len(self.prompts), 1), 1)):
            raise Fault(
                f"must be at most {limit} for {len(self.prompts)} prompts, got {self.multiple_of}", "multiple_of"
            )
        if not self._graded() and len(self.prompts) * (self.most + 1) > LARGEST_TABLE:
            limit = LARGEST_TABLE // len(self.prompts) - 1
            raise Fault(f"must be at most {limit} for {len(self.prompts)} prompts, got {self.most}", "most")
        if self.least > self.most:
            raise Fault(f"must be at most {{most}} ({self.most}), got {self.least}", "least")
        self._check_histories()
        self._check_values()
        self._check_groups()
        return self

    def _graded(self) -> bool:
        """Whether one threshold on marginal values decides, so that no table of counts is ever needed: values are
        concave over all allowed counts, and a rollout costs as much as another."""
        if self.total is None or self.value == "table":
            return False
        first = {"vip": 3, "neyman": 1, "gvm": 1}.get(self.value, 1)
        return self.least >= first or self.multiple_of > 1

    def _check_histories(self) -> None:
        prompts = self.prompts
        if (prompts.successes is None) != (prompts.trials is None):
            there = "trials" if prompts.successes is None else "successes"
            raise Fault(f"{{prompts.successes}} and {{prompts.trials}} go together, only {there} is given", "prompts")
        if self.value != "table" and (prompts.success_rate is None) == (prompts.successes is None):
            raise Fault("give exactly one of success_rate, and successes with trials", "prompts")
        _at_most(prompts.successes, prompts.trials, "successes", "trials")
        if (prompts.drawn is None) != (prompts.drawn_successes is None):
            raise Fault("{prompts.drawn} and {prompts.drawn_successes} go together", "prompts")
        _at_most(prompts.drawn_successes, prompts.drawn, "drawn_successes", "drawn")
        if prompts.drawn is not None:
            if self.value not in ("posterior", "knapsack_rl"):
                raise Fault(
                    f"applies to the values 'posterior' and 'knapsack_rl', not to {self.value!r}",
                    "prompts",
                    "drawn",
                )
            if (over := np.flatnonzero(prompts.drawn > self.most)).size:
                row = int(over[0])
                raise Fault(
                    f"must be at most {{most}} ({self.most}), got {prompts.drawn[row]}",
                    "prompts",
                    "drawn",
                    row,
                )

    def _check_values(self) -> None:
        if self.value == "posterior" and self.prompts.success_rate is not None:
            raise Fault(
                "'posterior' weighs histories (successes and trials); with success_rate use another value, "
                "such as 'knapsack_rl'",
                "value",
            )
        if self.value in ("neyman", "gvm", "vip") and self.least < 1:
            raise Fault(f"must be at least 1 with the value {self.value!r}, whose variance is infinite at 0", "least")
        if (self.value == "table") != (self.table is not None):
            raise Fault("{table} and `value: table` go together", "table")
        if self.table is not None and self.table.shape != (len(self.prompts), self.most + 1):
            raise Fault(
                f"must have a row per prompt and columns 0 to {{most}}, that is {len(self.prompts)} × {self.most + 1}, "
                f"got {' × '.join(map(str, self.table.shape))}",
                "table",
            )

    def _check_groups(self) -> None:
        if self.groups is None:
            return
        if self.prompts.group is None:
            raise Fault("{groups} needs {prompts.group}, the group of each prompt", "groups")
        names = set(self.groups.name)
        for row, name in enumerate(self.prompts.group):
            if name not in names:
                first = ", ".join(self.groups.name[:NAMED]) + (", …" if len(names) > NAMED else "")
                raise Fault(f"must be one of {first}, got {shown(name)}", "prompts", "group", row)
        if self.groups.least is not None and self.groups.most is not None:
            _at_most(self.groups.least, self.groups.most, "least", "most", "groups")

    def demands(self, plan: RolloutPlan) -> Iterator[Broken]:
        """Counts per prompt, multiples, the budget and the groups."""
        rollouts, prompts = plan.rollouts, self.prompts
        yield from (wrong := list(misshapen("rollouts", rollouts, (len(prompts),))))
        if wrong:
            return
        least = self.least if prompts.drawn is None else np.maximum(prompts.drawn, self.least)
        yield from below("least", "rollouts", rollouts, least)
        yield from above("most", "rollouts", rollouts, self.most)
        if self.multiple_of > 1:
            for row in np.flatnonzero(rollouts % self.multiple_of).tolist():
                message = f"is {rollouts[row]}, must be a multiple of {self.multiple_of}"
                yield Broken("multiple_of", ("rollouts", row), int(rollouts[row] % self.multiple_of), message)
        if self.total is not None and (spent := int(rollouts.sum())) != self.total:
            yield Broken("total", ("rollouts",), abs(spent - self.total), f"sum to {spent}, must sum to {self.total}")
        if self.token_budget is not None and prompts.tokens is not None:
            spent, budget = exact_dot(prompts.tokens, rollouts), exact(self.token_budget)
            if spent > budget:
                message = f"take {float(spent):.10g} tokens, and {float(budget):.10g} are there"
                yield Broken("token_budget", ("rollouts",), float(spent - budget), message)
        yield from self._group_rules(rollouts)

    def reports(self, plan: RolloutPlan) -> Iterator[Broken]:
        """The prior, the prices and the share of rollouts with a gradient."""
        if plan.rollouts.shape == (len(self.prompts),) and self._allowed(plan.rollouts):
            yield from self._report_rules(plan)

    def _allowed(self, rollouts: Integers) -> bool:
        """Whether every count has a value, so that what a plan reports of itself can be recomputed."""
        drawn = 0 if self.prompts.drawn is None else self.prompts.drawn
        inside = (rollouts >= np.maximum(drawn, self.least)) & (rollouts <= self.most)
        return bool((inside & (rollouts % self.multiple_of == 0)).all())

    def _group_rules(self, rollouts: Integers) -> Iterator[Broken]:
        if self.groups is None:
            return
        given = np.bincount(self.membership(), weights=rollouts, minlength=len(self.groups))
        if self.groups.least is not None:
            for row in np.flatnonzero(given < self.groups.least).tolist():
                message = f"of group {self.groups.name[row]!r} sum to {given[row]:g}, at least {self.groups.least[row]}"
                yield Broken("groups.least", ("rollouts",), float(self.groups.least[row] - given[row]), message)
        if self.groups.most is not None:
            for row in np.flatnonzero(given > self.groups.most).tolist():
                message = f"of group {self.groups.name[row]!r} sum to {given[row]:g}, at most {self.groups.most[row]}"
                yield Broken("groups.most", ("rollouts",), float(given[row] - self.groups.most[row]), message)

    def _report_rules(self, plan: RolloutPlan) -> Iterator[Broken]:
        if plan.prior is not None and not self.uses_prior:
            yield Broken("prior", ("prior",), math.inf, "is given, but no histories were weighed")
            return
        if isinstance(self.prior, Beta) and plan.prior is not None and plan.prior != self.prior:
            yield Broken("prior", ("prior",), math.inf, "is not the prior that the spec gives")
        if self.uses_prior and plan.prior is None:
            yield Broken("prior", ("prior",), math.inf, "is missing: the histories were weighed with one")
            return
        worth = Worth(self, plan.prior)
        price, group_price = worth.prices(plan.rollouts)
        # Marginal values are differences of values.
        size = float((worth.sizes(plan.rollouts) / (worth.cost * self.multiple_of)).max(initial=0.0))
        yield from differs("price", "price", np.asarray(plan.price), np.asarray(price), size=size)
        if (plan.group_price is None) != (group_price is None):
            yield Broken("group_price", ("group_price",), math.inf, "is there exactly if the spec has groups")
        elif plan.group_price is not None and group_price is not None:
            yield from misshapen("group_price", plan.group_price, group_price.shape)
            if plan.group_price.shape == group_price.shape:
                yield from differs("group_price", "group_price", plan.group_price, group_price, size=size)
        share = worth.gradient_share(plan.rollouts)
        if (share is None) != (plan.expected_gradient_share is None):
            yield Broken(
                "expected_gradient_share",
                ("expected_gradient_share",),
                1.0,
                "needs success rates or histories",
            )
        elif share is not None:
            got = np.asarray(plan.expected_gradient_share)
            yield from differs("expected_gradient_share", "expected_gradient_share", got, np.asarray(share), size=1.0)

    def objective(self, plan: RolloutPlan) -> float:
        """Σ value(n_i)."""
        return math.fsum(Worth(self, plan.prior).at(plan.rollouts))

    def bound(self, plan: RolloutPlan) -> float:
        """Lagrangian bound: any prices of the budget and the groups bound every plan's value from above.

        The plan's own prices are tried first; where they leave a gap, the best single price is searched for.
        """
        worth = Worth(self, plan.prior)
        bound, objective = worth.priced(plan.price, plan.group_price), math.fsum(worth.at(plan.rollouts))
        if self.groups is not None or abs(bound - objective) <= 1e-9 * abs(objective):
            return bound
        return min(bound, worth.least_priced(plan.price))

    def magnitude(self, plan: RolloutPlan) -> float:
        """Σ of what values are differences of, and what the budget is worth at the plan's price."""
        worth = Worth(self, plan.prior)
        return math.fsum(worth.sizes(plan.rollouts)) + abs(plan.price) * float(worth.budget)

    def measures(self, plan: RolloutPlan) -> dict[str, float]:
        """Rollouts, and the share of them expected to carry a gradient."""
        found = {"rollouts": float(plan.rollouts.sum())}
        if plan.expected_gradient_share is not None:
            found["in groups with a gradient (%)"] = 100 * plan.expected_gradient_share
        return found

    @property
    def uses_prior(self) -> bool:
        """Whether histories are weighed, for which a prior is needed."""
        return self.prompts.successes is not None

    def membership(self) -> Integers:
        """(prompts,) row of `groups` that each prompt belongs to."""
        if self.groups is None or self.prompts.group is None:
            return np.zeros(len(self.prompts), np.int64)
        rows = {name: row for row, name in enumerate(self.groups.name)}
        return np.array([rows[name] for name in self.prompts.group], np.int64)


def _at_most(
    part: Integers | None,
    whole: Integers | None,
    name: str,
    bound: str,
    table: str = "prompts",
) -> None:
    if part is not None and whole is not None and (over := part > whole).any():
        row = int(over.argmax())
        raise Fault(f"must be at most {{{table}.{bound}}}[{row}] ({whole[row]}), got {part[row]}", table, name, row)
