"""How many rollouts each prompt of a step gets: the same number each, or by plans, in one round or in several."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

import equipoise as eq

UNIFORM = 0
"""The rounds of a step that is not planned."""


@dataclass
class Step:
    """What is known of the prompts of one step, (prompts,) int64 each.

    successes, trials: of earlier steps. drawn, won: rollouts of this step so far, and how many of those succeeded.
    """

    successes: np.ndarray
    trials: np.ndarray
    drawn: np.ndarray
    won: np.ndarray

    @property
    def mixed(self) -> np.ndarray:
        """(prompts,) whether both outcomes are out, so that the group has a gradient."""
        return (self.won > 0) & (self.won < self.drawn)


class History:
    """The latest visits of each prompt, whole, back to `memory` rollouts: success rates drift as the policy learns."""

    def __init__(self, prompts: int, memory: int) -> None:
        self.memory = memory
        self._visits: list[deque[tuple[int, int]]] = [deque() for _ in range(prompts)]

    def step(self, rows: np.ndarray) -> Step:
        """A new step with some prompts."""
        counts = np.array([np.sum(self._visits[row], axis=0) if self._visits[row] else (0, 0) for row in rows])
        trials, successes = counts.astype(np.int64).reshape(-1, 2).T
        return Step(successes, trials, np.zeros_like(trials), np.zeros_like(trials))

    def add(self, rows: np.ndarray, step: Step) -> None:
        """Remember a step, and forget the visits that are no longer needed."""
        for row, drawn, won in zip(rows, step.drawn.tolist(), step.won.tolist(), strict=True):
            visits = self._visits[row]
            visits.appendleft((drawn, won))
            while sum(tried for tried, _ in visits) - visits[-1][0] >= self.memory:
                visits.pop()


class Budgets:
    """Who gets the rollouts of a step, of which there are `each` per prompt on average, from `least` to `most`.

    rounds: UNIFORM, or in how many rounds a step is drawn. One round is planned from the histories alone. Of several,
    the first draws half of `each` from every prompt; the others share what is left, planned on the outcomes so far.
    gap: the largest of the plans' certificates.
    """

    def __init__(self, client: eq.Client, rounds: int, prompts: int, each: int, least: int, most: int) -> None:
        self.rounds, self.prompts, self.each, self.least = rounds, prompts, each, least
        self.gap = 0.0
        nothing = np.zeros(prompts, np.int64)
        spec = eq.RolloutBudgets(
            prompts={"successes": nothing, "trials": nothing}, total=prompts * each, least=least, most=most
        )
        self.session: Any = client.session(spec, timeout=60)
        if rounds != UNIFORM:
            self.session.step()  # opens the session, which is no part of a step

    def counts(self, number: int, step: Step) -> np.ndarray:
        """(prompts,) rollouts that each prompt should have after round `number` (0, 1, …), those drawn included."""
        if self.rounds == UNIFORM:
            return np.full(self.prompts, self.each)
        if self.rounds > 1 and number == 0:
            return np.full(self.prompts, max(self.each // 2, self.least))
        drawn = int(step.drawn.sum())
        total = drawn + (self.prompts * self.each - drawn) // (self.rounds - number)
        table = {"successes": step.successes, "trials": step.trials, "drawn": step.drawn, "drawn_successes": step.won}
        plan = self.session.step(prompts=table, total=total)
        self.gap = max(self.gap, plan.certificate.gap)
        return plan.rollouts

    def close(self) -> None:
        """End the session."""
        self.session.close()
