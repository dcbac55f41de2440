"""The policies of the rollout replay: who draws how many rollouts of which prompt, in how many rounds.

A policy is called once per step and draws. Peers follow their published rules; ours go through `eq.session`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from rollout_world import Integers, Step

import equipoise as eq
from equipoise.solvers.baselines.rollout_budgets import ALLOTMENTS

Policy = Callable[[Step], None]


def _spec(step: Step, **fields: Any) -> Any:
    setting = step.setting
    bounds = {"total": step.total, "least": setting.least, "most": setting.most}
    return eq.RolloutBudgets(**(bounds | fields))


class Rule:
    """One round by a published rule, from what the history says."""

    def __init__(self, name: str) -> None:
        self.allot = ALLOTMENTS[name]

    def __call__(self, step: Step) -> None:
        prompts = {"successes": step.successes, "trials": step.trials}
        step.draw(self.allot(_spec(step, prompts=prompts)))


class ReinforceAda:
    """Reinforce-Ada (arXiv 2510.04996): the same number for every active prompt, round by round.

    A prompt is done once it has `positive` successes and `negative` failures, or `most` rollouts. Down-sampling
    afterwards keeps both outcomes, so that it changes nothing that is measured here. A round that the budget does not
    cover serves active prompts in random order. What is left when all are done is not spent.
    """

    def __init__(self, size: int, most: int, positive: int = 1, negative: int = 1) -> None:
        self.size, self.most, self.positive, self.negative = size, most, positive, negative

    def __call__(self, step: Step) -> None:
        most = min(self.most, step.setting.most)
        while step.left:
            done = (step.won >= self.positive) & (step.drawn - step.won >= self.negative)
            active = np.flatnonzero(~done & (step.drawn < most))
            if not len(active):
                return
            further = np.zeros_like(step.drawn)
            further[active] = np.minimum(self.size, most - step.drawn[active])
            order = step.random.permutation(active)
            before = np.cumsum(further[order]) - further[order]
            further[order] = np.clip(step.left - before, 0, further[order])
            step.draw(step.drawn + further)


class Posterior:
    """Equipoise: expected gradient value under the posterior of each rate, in one round or several.

    prior: `fit`, or alpha and beta. rounds: the first draws `first` of every prompt (a whole number), or that share of
    the budget by plan (a fraction); the others share what is left, each planned on the outcomes so far. A single
    round plans everything.
    """

    def __init__(self, prior: Any = "fit", rounds: int = 1, first: int | float = 2) -> None:
        self.prior, self.rounds, self.first = prior, rounds, first
        self._session: Any = None

    def __call__(self, step: Step) -> None:
        if self.rounds > 1 and isinstance(self.first, int):
            step.draw(np.full_like(step.drawn, min(self.first, step.setting.each)))
        elif self.rounds > 1:
            step.draw(self.plan(step, max(int(self.first * step.total), step.setting.least * step.setting.prompts)))
        for left in range(max(self.rounds - 1, 1), 0, -1):
            step.draw(self.plan(step, int(step.drawn.sum()) + step.left // left))

    def plan(self, step: Step, total: int) -> Integers:
        """Rollouts per prompt, those drawn included, if `total` are drawn by the end of the round."""
        prompts = {
            "successes": step.successes,
            "trials": step.trials,
            "drawn": step.drawn,
            "drawn_successes": step.won,
        }
        return self._solved(step, prompts=prompts, total=total, prior=self.prior)

    def _solved(self, step: Step, **fields: Any) -> Integers:
        if self._session is None:
            self._session = eq.session(_spec(step, **fields))
            return self._session.step().rollouts
        return self._session.step(**fields).rollouts


class Oracle(Posterior):
    """The same with the true rates in place of a belief: what estimation costs, and what rounds give beyond it."""

    def plan(self, step: Step, total: int) -> Integers:
        """Rollouts per prompt at the true rates."""
        prompts = {"success_rate": step.rates, "drawn": step.drawn, "drawn_successes": step.won}
        return self._solved(step, prompts=prompts, total=total, value="knapsack_rl")


FLAT, JEFFREYS = {"alpha": 1.0, "beta": 1.0}, {"alpha": 0.5, "beta": 0.5}

POLICIES: dict[str, Callable[[int], Policy]] = {
    "uniform": lambda each: Rule("uniform"),
    "Knapsack RL": lambda each: Rule("Knapsack RL"),
    "Neyman": lambda each: Rule("Neyman"),
    "GVM": lambda each: Rule("GVM"),
    "VIP": lambda each: Rule("VIP"),
    "Reinforce-Ada": lambda each: ReinforceAda(max(each // 4, 1), 4 * each),
    "Reinforce-Ada, 4 rounds": lambda each: ReinforceAda(max(each // 2, 1), 2 * each),
    "Reinforce-Ada, balanced": lambda each: ReinforceAda(max(each // 2, 1), 4 * each, each // 4, each // 4),
    "flat prior": lambda each: Posterior(FLAT),
    "Jeffreys prior": lambda each: Posterior(JEFFREYS),
    "fitted prior": lambda each: Posterior(),
    "flat prior, 4 rounds": lambda each: Posterior(FLAT, 4, each // 2),
    "fitted prior, 4 rounds": lambda each: Posterior("fit", 4, each // 2),
    "fitted prior, 8 rounds": lambda each: Posterior("fit", 8, each // 2),
    "oracle": lambda each: Oracle(),
    "oracle, 4 rounds": lambda each: Oracle(rounds=4, first=each // 2),
}
"""By name: given the mean number of rollouts per prompt, a fresh policy. Rounds begin with half of that of each."""


def party(name: str) -> str:
    """Whose policy it is: `oracle`, `ours` or `peer`."""
    if name.startswith("oracle"):
        return "oracle"
    ours = not name.startswith("Reinforce-Ada") and (" prior" in name or " round" in name)
    return "ours" if ours else "peer"


def _in_rounds(rounds: int, first: int | float) -> tuple[str, Callable[[int], Policy]]:
    opening = f"{first} each" if isinstance(first, int) else f"{first:.0%} planned"
    return f"{rounds} rounds, {opening} first", lambda each: Posterior("fit", rounds, first)


ROUNDS: dict[str, Callable[[int], Policy]] = {
    "uniform": POLICIES["uniform"],
    "oracle": POLICIES["oracle"],
    "1 round": POLICIES["fitted prior"],
    **dict(
        _in_rounds(rounds, first)
        for rounds, first in [
            (2, 2), (2, 4), (2, 0.5), (3, 2), (3, 4), (3, 0.4), (4, 1), (4, 2), (4, 3), (4, 4), (4, 0.35),
            (8, 2), (8, 4), (16, 2),
        ]
    ),
}  # fmt: skip
"""Fitted priors in more and fewer rounds, and what the first of them draws."""

STUDIES = {"policies": POLICIES, "rounds": ROUNDS}
