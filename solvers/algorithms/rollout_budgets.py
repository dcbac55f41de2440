"""Rollout budgets without a program: the best marginal values where one rollout costs as much as another and values
are concave; multiple choice over the upper hulls elsewhere."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Final

import numpy as np

from ...specs.arrays import Floats, Integers
from ...specs.exact import exact, exact_dot
from ...specs.rollout_budgets import RolloutBudgets, RolloutPlan
from ..algorithm import Algorithm, Found
from ..answer import ProgramInfeasible
from ..control import Control
from ..formulation import Evidence
from ..purse import COARSE as COARSE_NOTE
from ..purse import Purse, purse
from ..rollout_beliefs import fit_notes
from ..rollout_values import Outlook, rest
from .choice import SETTLED, choose, worth
from .multiple_choice import bound, hulls
from .rollout_groups import grouped
from .rollout_steps import Steps, concave, steps, table
from .rungs import COUNT, GAIN, expected_with_both

SEARCH_GAP: Final = 1e-3
"""The gap that `auto` asks for where the problem is a multiple choice."""

LONGEST_HISTORY: Final = 32
"""Trials of a prompt up to which a prior is fitted in no time to speak of; with 4096 of them it takes 30 ms."""
LARGEST_CLIMB: Final = 2**26
"""Rollouts that groups are climbed up to, all of them together."""


class RolloutAlgorithm(Algorithm[RolloutBudgets, RolloutPlan]):
    """Thresholds on marginal values, or multiple choice over upper hulls."""

    name = "marginal values"

    def refuses(self, spec: RolloutBudgets) -> str | None:
        """Groups with bounds need concave values and a total."""
        if spec.groups is not None and (spec.total is None or not concave(spec)):
            return "bounds of groups need a total, and values that are concave (`least` of 1 or more; no table)"
        if spec.groups is not None and spec.groups.most is not None and spec.total is not None:
            binding = spec.groups.most[spec.groups.most < spec.total]  # each is climbed to on its own
            if float(binding.sum()) > LARGEST_CLIMB:
                return f"groups.most adds up to more than {LARGEST_CLIMB} where it is below the total"
        return None

    @classmethod
    def quick(cls, spec: RolloutBudgets) -> bool:
        """The threshold over up to 512 prompts and 8192 rollouts, those of one multiple for every prompt included;
        a prior is fitted to short histories alone. 0.07 ms, 0.5 ms at most."""
        prompts, step = spec.prompts, spec.multiple_of
        small = spec.total is not None and spec.total <= 8192 and len(prompts) <= 512 and step * len(prompts) <= 8192
        if not small or spec.groups is not None or not concave(spec):
            return False
        if prompts.trials is None or spec.prior != "fit":
            return True
        return int(prompts.trials.max(initial=0)) <= LONGEST_HISTORY

    @classmethod
    def numbers(cls, spec: RolloutBudgets) -> int:
        """A table of values, where they have to be weighed one by one."""
        if spec.total is not None and concave(spec):
            return 0
        return len(spec.prompts) * (spec.most // spec.multiple_of + 1)

    def gap(self, spec: RolloutBudgets) -> float:
        """0 where values are concave and rollouts cost the same."""
        return 0.0 if spec.total is not None and concave(spec) else SEARCH_GAP

    def solve(self, spec: RolloutBudgets, gap: float, seed: int, threads: int, control: Control) -> Found[RolloutPlan]:
        """The plan and its bound: exact over concave values, within the gap where the choice allows it elsewhere."""
        run = steps(spec)
        if spec.total is not None and spec.total % spec.multiple_of:
            raise ProgramInfeasible("the total is no multiple")
        if spec.total is not None and concave(spec):
            return _threshold(run, spec.total // spec.multiple_of)
        return _choice(run, gap, control)

    def search_seconds(self, spec: RolloutBudgets) -> float:
        """By measured costs: a column per prompt and count, 30 to 240 µs each at 1024 × 64."""
        return 0.05 + 1e-4 * len(spec.prompts) * (spec.most // spec.multiple_of)


def _threshold(run: Steps, total: int) -> Found[RolloutPlan]:
    """The best marginal values, so many that the counts add up to a total of rungs."""
    spec = run.spec
    counts, group_price, price = run.place[:, COUNT], None, 0.0
    if spec.groups is None:
        if not int(run.start.sum()) <= total <= int(run.top.sum()):
            raise ProgramInfeasible("the total is out of reach")
        run.take(slice(None), run.top, total - int(run.start.sum()))
        open_ = counts < run.top
        gains = run.state[:, GAIN] if open_.all() else run.state[open_, GAIN]
        price = float(gains.max()) / spec.multiple_of if gains.size else 0.0
    else:
        run, price, group_price = grouped(run, total)
        counts = run.place[:, COUNT]
    objective = float(run.values(counts).sum())  # of one sign: no digits are lost
    label = "best marginal values" + ("" if spec.groups is None else " within groups")
    return _found(run, counts, price, group_price, Evidence(objective, objective, "threshold", _notes(run)), label)


def _choice(run: Steps, gap: float, control: Control) -> Found[RolloutPlan]:
    """A choice among the counts of every prompt, and how good it is at least. Raises `SolveTimeout` where there is no
    time for the table of values."""
    spec, step, height = run.spec, run.spec.multiple_of, run.top - run.start
    if spec.total is not None:
        money = Purse(np.ones(run.size, np.int64), spec.total // step, Fraction(step), np.ones(run.size))
        room = left = money.room - int(run.start.sum())
        if room > int(height.sum()):
            raise ProgramInfeasible("the total is out of reach")
    else:
        tokens, budget = _tokens(spec), exact(spec.token_budget or 0.0)
        money = purse(tokens, step, spec.token_budget or 0.0)
        room = money.room - money.spent(run.start)
        rest = budget - exact_dot(tokens, run.start * step)
        left = float(rest / money.unit)
        if room < 0 <= rest:
            room = 0  # only costs that were rounded up exceed the budget
    if room < 0:
        raise ProgramInfeasible("the budget is out of reach")
    top = np.minimum(height, room // money.cost)
    reach = top
    if money.coarse:  # counts that only the rounding of costs excludes
        reach = np.minimum(height, np.floor(np.minimum(left / money.true_cost, height)).astype(np.int64) + 1)
    values = table(run, reach, control.check)
    chosen = choose(values, top, money.cost, room, spec.total is not None, gap)
    objective = worth(values, chosen.counts)
    highest = chosen.relaxed
    if money.coarse:  # the bound at what things cost
        corner, corners = np.empty(values.shape, np.int64), np.empty(run.size, np.int64)
        hulls(values, reach, False, corner, corners)
        highest = bound(values, money.true_cost, corner, corners, left, chosen.price)
    evidence = Evidence(objective, max(highest, objective), "threshold")
    if chosen.proven and highest - objective > SETTLED * abs(objective):
        ceiling = objective
        if money.coarse:  # what costs rounded down would allow, where none comes down to nothing
            low = np.maximum(np.floor(money.true_cost).astype(np.int64) - 1, 1)
            counted = bool((money.true_cost >= 1.0).all())
            ceiling = choose(values, reach, low, max(int(left) + 1, 0), False, gap).bound if counted else highest
        if ceiling < highest:
            evidence = Evidence(objective, max(ceiling, objective), "search")
    notes = (*((COARSE_NOTE,) if money.coarse else ()), *_notes(run))
    label = "multiple choice over upper hulls" + (", with exchanges" if chosen.exchanged else "")
    price = _next(values, chosen.counts, height, money.true_cost if spec.total is not None else _tokens(spec), spec)
    return _found(run, run.start + chosen.counts, price, None, replace(evidence, notes=notes), label)


def _tokens(spec: RolloutBudgets) -> Floats:
    return np.ones(len(spec.prompts)) if spec.prompts.tokens is None else spec.prompts.tokens


def _next(values: Floats, counts: Integers, height: Integers, cost: Floats | Integers, spec: RolloutBudgets) -> float:
    """The best value per unit of budget that one rung more would have; 0 if there is none."""
    open_ = np.flatnonzero(counts < height)
    if not open_.size:
        return 0.0
    gained = values[open_, counts[open_] + 1] - values[open_, counts[open_]]
    best = float((gained / (cost[open_] * spec.multiple_of)).max())
    return best if spec.total is not None else max(best, 0.0)


def _found(
    run: Steps, rungs: Integers, price: float, group_price: Floats | None, evidence: Evidence, label: str
) -> Found[RolloutPlan]:
    rollouts = rungs * run.spec.multiple_of
    plan = RolloutPlan(
        name=run.spec.name,
        rollouts=rollouts,
        price=price,
        group_price=group_price,
        expected_gradient_share=_gradient_share(run.view, rollouts),
        prior=run.view.prior,
    )
    return Found(plan, evidence, label)


def _gradient_share(view: Outlook, rollouts: Integers) -> float | None:
    """The share of rollouts expected in groups with both outcomes; None where nothing is known about rates."""
    if view.rate is None:
        return None
    total = int(rollouts.sum())
    if not total:
        return 0.0
    if view.alpha is not None and view.beta is not None:
        expected = expected_with_both(view.alpha, view.beta, view.won, view.seen, rollouts)
    else:
        further = rollouts - view.seen
        no_failure, no_success = view.rate**further, rest(view.rate, further)
        no_failure[view.won < view.seen] = 0.0
        no_success[view.won > 0] = 0.0
        chance = 1 - no_failure - no_success
        chance[rollouts == 0] = 0.0
        expected = float(chance @ rollouts)
    return min(max(expected / total, 0.0), 1.0)


def _notes(run: Steps) -> tuple[str, ...]:
    prior, trials = run.view.prior, run.spec.prompts.trials
    if prior is None or trials is None or run.spec.prior != "fit":
        return ()
    return fit_notes((prior.alpha, prior.beta), trials)


ALGORITHM = RolloutAlgorithm
