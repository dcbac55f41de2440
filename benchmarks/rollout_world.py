"""A world of prompts for the rollout replay: rates that drift, outcomes, and histories that age.

Every policy of a run meets the same rates, and the k-th rollout of a prompt in a step comes out the same under all of
them: what differs is how many each policy draws, and so what its histories say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LARGEST_LOGIT = 9.0
"""Rates stay within 1.2e-4 of 0 and 1."""


def _saturated(random: np.random.Generator, prompts: int) -> Floats:
    """35 % below 0.005, 35 % above 0.995, the others anywhere from 0.1 to 0.9."""
    kind, edge = random.permutation(np.arange(prompts) / prompts), random.uniform(0.0, 0.005, prompts)
    return np.where(kind < 0.35, edge, np.where(kind < 0.7, 1 - edge, random.uniform(0.1, 0.9, prompts)))


REGIMES: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "mixed": lambda random, prompts: random.beta(0.5, 0.5, prompts),
    "hard": lambda random, prompts: np.exp(random.uniform(np.log(0.005), np.log(0.1), prompts)),
    "easy": lambda random, prompts: random.uniform(0.9, 0.995, prompts),
    "saturated": _saturated,
}
"""Success rates at the start: Beta(½, ½); log-uniform on 0.005 to 0.1; uniform on 0.9 to 0.995; 70 % at the ends."""


@dataclass(frozen=True)
class Setting:
    """The size of a replay, and how fast its world moves.

    prompts: in a step, the same in every step. each: rollouts of a step per prompt, on average, and of every prompt in
    the first epoch. least, most: of a prompt in a step. steps: measured ones. memory: rollouts that a history goes
    back for. drift: standard deviation of a step's change of a rate's logit.
    """

    prompts: int = 256
    each: int = 8
    least: int = 2
    most: int = 128
    steps: int = 6
    memory: int = 8
    drift: float = 0.2


class History:
    """What a policy remembers of each prompt: its latest visits, whole, back to `memory` rollouts and no further.

    So a prompt that is drawn often is known by its last visit, and one that gets two rollouts a step by its last four
    visits, of which the oldest say least. No visit is cut, since the draws of a step that stops at its first success
    are fair only as a whole.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.visits: deque[tuple[Integers, Integers]] = deque()

    def add(self, drawn: Integers, won: Integers) -> None:
        """Remember a step."""
        self.visits.appendleft((drawn, won))
        while len(self.visits) > 1 and (self._tried() - self.visits[-1][0] >= self.memory).all():
            self.visits.pop()

    def _tried(self) -> Integers:
        return np.sum([drawn for drawn, _ in self.visits], axis=0)

    def counts(self) -> tuple[Integers, Integers]:
        """(prompts,) successes and trials."""
        won, tried = np.zeros_like(self.visits[0][0]), np.zeros_like(self.visits[0][0])
        for drawn, successes in self.visits:
            wanted = tried < self.memory
            won, tried = won + successes * wanted, tried + drawn * wanted
        return won, tried


class Step:
    """One step of one policy: what it may look at, and the rollouts that it draws.

    successes, trials: (prompts,) the history. total: rollouts in the step. drawn, won: (prompts,) those of this
    step so far. rounds: how often it has drawn. rates: (prompts,) the truth, for oracles alone.
    """

    def __init__(
        self,
        setting: Setting,
        history: tuple[Integers, Integers],
        wins: Integers,
        rates: Floats,
        random: np.random.Generator,
    ) -> None:
        self.setting, self.rates, self.random = setting, rates, random
        self.successes, self.trials = history
        self.total = setting.prompts * setting.each
        self.drawn, self.won = np.zeros_like(self.trials), np.zeros_like(self.trials)
        self.rounds = 0
        self._wins = wins

    @property
    def left(self) -> int:
        """Rollouts that may still be drawn."""
        return self.total - int(self.drawn.sum())

    @property
    def mixed(self) -> NDArray[np.bool_]:
        """(prompts,) whether both outcomes are out, so that the group has a gradient."""
        return (self.won > 0) & (self.won < self.drawn)

    def draw(self, rollouts: Integers) -> None:
        """Draw until each prompt has so many in all; those that are out stay. Raises `ValueError` beyond the bounds."""
        if (rollouts < self.drawn).any() or (rollouts > self.setting.most).any() or rollouts.sum() > self.total:
            raise ValueError("a step cannot draw fewer than are out, nor more than `most` or its total")
        self.drawn = rollouts.astype(np.int64)
        self.won = self._wins[np.arange(len(rollouts)), rollouts]
        self.rounds += 1

    def value(self) -> float:
        """The gradient value realised: Σ p·(1 − p)² over the groups with both outcomes, p being the true rate."""
        return float((self.rates * (1 - self.rates) ** 2)[self.mixed].sum())

    def rollout_share(self) -> float:
        """The share of the rollouts drawn that lie in groups with a gradient."""
        return float(self.drawn[self.mixed].sum() / max(int(self.drawn.sum()), 1))

    def group_share(self) -> float:
        """The share of the groups that have a gradient."""
        return float(self.mixed.mean())


@dataclass(frozen=True)
class Moment:
    """What every policy of a run meets in one step: true rates, and wins[prompt, k] among the first k rollouts."""

    rates: Floats
    wins: Integers


def moments(setting: Setting, regime: str, seed: int) -> Iterator[Moment]:
    """The first epoch, in which every prompt gets `each` rollouts, and then `steps` steps, rates drifting between.

    A rate's logit takes a step of N(0, drift²), a random walk.
    """
    random = np.random.default_rng([seed, *regime.encode()])
    rates = REGIMES[regime](random, setting.prompts)
    width = max(setting.most, setting.each)
    for number in range(setting.steps + 1):
        if number:
            rates = _moved(rates, random.normal(0.0, setting.drift, setting.prompts))
        heads = random.random((setting.prompts, width)) < rates[:, None]
        wins: Integers = np.cumsum(heads, axis=1, dtype=np.int64)
        yield Moment(rates, np.pad(wins, ((0, 0), (1, 0))))


def _moved(rates: Floats, change: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        logit = np.log(rates) - np.log1p(-rates)
    return 1 / (1 + np.exp(-np.clip(logit + change, -LARGEST_LOGIT, LARGEST_LOGIT)))
