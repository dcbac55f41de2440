"""How rollouts are allotted today: the same for every prompt, and the published rules for one step.

Sources: Knapsack RL (arXiv 2509.25849) with the fallback of its authors' code; Neyman (1934); GVM-RAFT
(arXiv 2505.02391); VIP (arXiv 2602.01601). All but the first plan at the success rate seen so far, a prompt without
history counting as a coin toss; what VIP predicts from embeddings is that rate here.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...specs.arrays import Floats, Integers
from ...specs.rollout_budgets import RolloutBudgets, RolloutPlan
from ...specs.rollout_worth import GVM_ALPHA, GVM_BETA
from ..formulations.rollout_budgets import RolloutProgram
from ..purse import Purse, purse

Priority = Callable[[int, int], float]
"""How much a prompt wants its next rung, given the number of its rollouts so far."""

CONFIDENCE = 0.9
"""Knapsack RL's fallback sets rollouts aside for a gradient at this probability."""


def uniform(spec: RolloutBudgets) -> Integers:
    """The same number of rollouts for every prompt, what is left over going to the first ones."""
    allotment = Allotment(spec)
    allotment.climb(lambda _, rollouts: -rollouts)
    return allotment.rollouts


def knapsack_rl(spec: RolloutBudgets) -> Integers:
    """Knapsack RL: the best sum of (1 − pⁿ − qⁿ)·p·q² at the rates seen so far, q = 1 − p.

    Prompts without any or with only successes sit outside the optimisation. They get `least`, and the former share
    what is left once each prompt inside has enough for a gradient with a probability of 0.9. Prompts without
    history get what uniform budgets give.
    """
    allotment, (rate, seen) = Allotment(spec), observed(spec)
    inside = seen & (rate > 0) & (rate < 1)
    allotment.raise_to(np.where(seen, 0, uniform(spec)))
    effort = np.zeros(len(rate))
    effort[inside] = np.log(1 - CONFIDENCE) / np.log(np.maximum(rate, 1 - rate)[inside])
    needed = allotment.spent(np.minimum(effort, spec.most).astype(np.int64) * inside)
    outside = seen & (rate == 0) if (seen & (rate == 0)).any() else seen & ~inside
    if needed < allotment.left and outside.any():
        allotment.climb(lambda _, rollouts: -rollouts, outside, keep=needed)
    worth, step = (rate * (1 - rate) ** 2).tolist(), spec.multiple_of

    def gain(prompt: int, rollouts: int) -> float:
        won, lost = rate[prompt], 1 - rate[prompt]
        if rollouts == 0:
            return worth[prompt] * (1 - won**step - lost**step)
        return worth[prompt] * (won**rollouts * (1 - won**step) + lost**rollouts * (1 - lost**step))

    allotment.climb(gain, inside)
    allotment.climb(lambda _, rollouts: -rollouts)  # where all inside have `most`
    return allotment.rollouts


def neyman(spec: RolloutBudgets) -> Integers:
    """Neyman: n ∝ G·√(p·q)/√cost, the least variance of a stratified mean."""
    rate, _ = observed(spec)
    return proportional(spec, norm(spec) * np.sqrt(rate * (1 - rate)) / np.sqrt(cost(spec)))


def gvm(spec: RolloutBudgets) -> Integers:
    """GVM: n ∝ G/√(p + α/p^(β − 1)), which is 0 for a prompt without successes."""
    rate, _ = observed(spec)
    with np.errstate(divide="ignore"):
        return proportional(spec, norm(spec) / np.sqrt(rate + GVM_ALPHA / rate ** (GVM_BETA - 1)))


def vip(spec: RolloutBudgets) -> Integers:
    """VIP: least Σ 4G²·p·q·(n − 1)/n² over whole n.

    The variance falls ever more slowly from 3 rollouts on, so that each prompt gets 3 first where that is affordable.
    """
    allotment, (rate, _) = Allotment(spec), observed(spec)
    three = np.full(len(rate), min(-(-3 // spec.multiple_of) * spec.multiple_of, allotment.top))
    if allotment.spent(np.maximum(three, allotment.rollouts)) <= allotment.room:
        allotment.raise_to(three)
    weight, step = (4 * norm(spec) ** 2 * rate * (1 - rate)).tolist(), spec.multiple_of

    def gain(prompt: int, rollouts: int) -> float:
        after = rollouts + step
        return weight[prompt] * ((rollouts - 1) / max(rollouts, 1) ** 2 - (after - 1) / after**2)

    allotment.climb(gain)
    return allotment.rollouts


def proportional(spec: RolloutBudgets, weight: Floats) -> Integers:
    """Rollouts in proportion to weights, within the bounds, in whole rungs (rounded as Webster rounds seats)."""
    allotment, weights, half = Allotment(spec), weight.tolist(), spec.multiple_of / 2
    allotment.climb(lambda prompt, rollouts: -(rollouts + half) / weights[prompt] if weights[prompt] else -math.inf)
    return allotment.rollouts


class Allotment:
    """Rollouts that are handed out rung by rung, a rung being `multiple_of` of them, until the budget is spent.

    rollouts: (prompts,) what each has; at first `least`, or what is already drawn. top: what it can have.
    room, left: the budget, and what is left of it, in units of money.
    """

    def __init__(self, spec: RolloutBudgets) -> None:
        prompts, self.step = len(spec.prompts), spec.multiple_of
        drawn = np.zeros(prompts, np.int64) if spec.prompts.drawn is None else spec.prompts.drawn
        self.rollouts: Integers = -(-np.maximum(drawn, spec.least) // self.step) * self.step
        self.top = spec.most // self.step * self.step
        self.money = _money(spec)
        self.room = self.money.room

    @property
    def left(self) -> int:
        """Units of money that are not spent; negative where `least` alone takes more than there is."""
        return self.room - self.spent(self.rollouts)

    def spent(self, rollouts: Integers) -> int:
        """Units of money that so many rollouts take."""
        return self.money.spent(-(-rollouts // self.step))

    def raise_to(self, rollouts: Integers) -> None:
        """Give each prompt at least so many."""
        wanted = rollouts // self.step * self.step
        self.rollouts = np.maximum(self.rollouts, np.minimum(wanted, self.top))

    def climb(self, priority: Priority, prompts: NDArray[np.bool_] | None = None, keep: int = 0) -> None:
        """Always the next rung to the prompt that wants it most, the first of equals, while there is money for it.

        prompts: which take part, all if absent. keep: units of money to leave.
        """
        part = range(len(self.rollouts)) if prompts is None else np.flatnonzero(prompts).tolist()
        left, rollouts, price = self.left - keep, self.rollouts.tolist(), self.money.cost.tolist()
        queue = [(-priority(prompt, rollouts[prompt]), prompt) for prompt in part]
        heapq.heapify(queue)
        while queue:
            _, prompt = queue[0]
            if rollouts[prompt] >= self.top or price[prompt] > left:
                heapq.heappop(queue)
                continue
            rollouts[prompt] += self.step
            left -= price[prompt]
            heapq.heapreplace(queue, (-priority(prompt, rollouts[prompt]), prompt))
        self.rollouts = np.array(rollouts, np.int64)


def observed(spec: RolloutBudgets) -> tuple[Floats, NDArray[np.bool_]]:
    """(prompts,) the success rate seen so far, ½ where there is none; and whether there is one."""
    prompts = spec.prompts
    if prompts.success_rate is not None:
        return prompts.success_rate, np.ones(len(prompts), np.bool_)
    if prompts.successes is None or prompts.trials is None:
        return np.full(len(prompts), 0.5), np.zeros(len(prompts), np.bool_)
    seen = prompts.trials > 0
    return np.where(seen, prompts.successes / np.maximum(prompts.trials, 1), 0.5), seen


def norm(spec: RolloutBudgets) -> Floats:
    """(prompts,) norms of gradients, 1 where none are given."""
    given = spec.prompts.gradient_norm
    return np.ones(len(spec.prompts)) if given is None else given


def cost(spec: RolloutBudgets) -> Floats:
    """(prompts,) what a rollout takes of the budget: its tokens under `token_budget`, else 1."""
    tokens = spec.prompts.tokens if spec.token_budget is not None else None
    return np.ones(len(spec.prompts)) if tokens is None else tokens


def _money(spec: RolloutBudgets) -> Purse:
    if spec.total is not None:
        return purse(np.ones(len(spec.prompts)), 1, float(spec.total // spec.multiple_of))
    return purse(cost(spec), spec.multiple_of, spec.token_budget or 0.0)


def _rule(allot: Callable[[RolloutBudgets], Integers]) -> Callable[[RolloutBudgets], RolloutPlan]:
    """A rule as a plan, with what a plan says of itself."""

    def plan(spec: RolloutBudgets) -> RolloutPlan:
        return RolloutProgram(spec).report(allot(spec) // spec.multiple_of)

    return plan


ALLOTMENTS = {"uniform": uniform, "Knapsack RL": knapsack_rl, "Neyman": neyman, "GVM": gvm, "VIP": vip}
"""Rollouts alone, without a plan around them."""

BASELINES = {name: _rule(allot) for name, allot in ALLOTMENTS.items()}
