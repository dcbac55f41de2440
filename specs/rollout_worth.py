"""What rollouts are worth by the definition of a task: the numbers that its plans are judged by.

Values come from their closed forms, by running products over counts. Solvers use marginal values and ratios instead,
and the two have to agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Floats, Integers
from .errors import SpecError

if TYPE_CHECKING:
    from .rollout_budgets import Beta, RolloutBudgets

GVM_ALPHA, GVM_BETA = 1e-3, 2.0
"""Constants of GVM-RAFT (arXiv 2505.02391)."""


@dataclass(frozen=True)
class Worth:
    """The value of every count of rollouts, under the prior that a plan records."""

    spec: RolloutBudgets
    prior: Beta | None

    def cost(self) -> Floats:
        """(prompts,) what a rollout takes of the budget."""
        tokens = self.spec.prompts.tokens if self.spec.token_budget is not None else None
        return np.ones(len(self.spec.prompts)) if tokens is None else tokens

    @cached_property
    def table(self) -> Floats:
        """(prompts × counts) value of n rollouts in column n; −inf where n is not allowed."""
        counts = np.arange(self.spec.most + 1)
        if self.spec.table is not None:
            worth = self.spec.table.copy()
        elif self.spec.value in ("posterior", "knapsack_rl"):
            worth = self._signal(counts)
        else:
            worth = -self._variance(counts)
        drawn = self.spec.prompts.drawn
        least = np.maximum(self.spec.least, 0 if drawn is None else drawn[:, None])
        worth[np.broadcast_to((counts < least) | (counts % self.spec.multiple_of > 0), worth.shape)] = -np.inf
        return worth

    def _moments(self, counts: Integers, ones: int, zeros: int, certain: bool) -> tuple[Any, Any, Any]:
        """E[p^ones·q^zeros·(1, p^k, q^k)] with q = 1 − p, for further rollouts k, over the belief after the draws."""
        drawn, rewarded = self.spec.prompts.drawn, self.spec.prompts.drawn_successes
        further = counts[None, :] - (0 if drawn is None else drawn[:, None])
        if self.prior is None or certain:
            rate = self._rate()[:, None]
            weight = rate**ones * (1 - rate) ** zeros
            clipped = np.maximum(further, 0)
            return weight, weight * rate**clipped, weight * (1 - rate) ** clipped
        a, b = self._belief(self.prior)
        if drawn is not None and rewarded is not None:
            a, b = a + rewarded, b + drawn - rewarded
        base = np.exp(_log_beta(a + ones, b + zeros) - _log_beta(a, b))[:, None]
        return (
            base,
            base * _ratios(a + ones, a + b + ones + zeros, further),
            base * _ratios(b + zeros, a + b + ones + zeros, further),
        )

    def _belief(self, prior: Beta) -> tuple[Floats, Floats]:
        successes, trials = self.spec.prompts.successes, self.spec.prompts.trials
        if successes is None or trials is None:
            raise SpecError("a belief needs successes and trials")
        return prior.alpha + successes, prior.beta + (trials - successes)

    def _rate(self) -> Floats:
        if self.spec.prompts.success_rate is not None:
            return self.spec.prompts.success_rate
        if self.prior is None:
            raise SpecError("a success rate needs success_rate, or successes and trials")
        a, b = self._belief(self.prior)
        return a / (a + b)

    def _outcomes(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(prompts × 1) whether a success, and whether a failure, is among the drawn."""
        drawn, rewarded = self.spec.prompts.drawn, self.spec.prompts.drawn_successes
        if drawn is None or rewarded is None:
            nothing = np.zeros((len(self.spec.prompts), 1), np.bool_)
            return nothing, nothing
        return (rewarded > 0)[:, None], (rewarded < drawn)[:, None]

    def _both(self, counts: Integers, ones: int, zeros: int, certain: bool = False) -> Floats:
        """(prompts × counts) E[p^ones·q^zeros·1(both outcomes occur, not before the draws)] for n rollouts in all."""
        all_of_it, no_failure, no_success = self._moments(counts, ones, zeros, certain)
        success, failure = self._outcomes()
        missing = np.where(failure, 0.0, no_failure) + np.where(success, 0.0, no_success)
        gain = np.where(success & failure, 0.0, all_of_it - missing)
        # Without any rollout both events coincide, and nothing is gained.
        return np.where((counts == 0) & ~success & ~failure, 0.0, gain)

    def _signal(self, counts: Integers) -> Floats:
        return self._both(counts, 1, 2, certain=self.spec.value == "knapsack_rl")

    def gradient_share(self, rollouts: Integers) -> float | None:
        """Share of the rollouts expected in groups with both outcomes; None where nothing is known about rates."""
        if self.spec.prompts.success_rate is None and self.spec.prompts.successes is None:
            return None
        spent = int(rollouts.sum())
        if spent == 0:
            return 0.0
        success, failure = self._outcomes()
        counts = np.arange(int(rollouts.max()) + 1)
        chance = np.where(success & failure, 1.0, self._both(counts, 0, 0))
        return math.fsum(chance[np.arange(len(chance)), rollouts] * rollouts) / spent

    def _variance(self, counts: Integers) -> Floats:
        rate = self._rate()[:, None]
        norm = np.ones(len(rate)) if self.spec.prompts.gradient_norm is None else self.spec.prompts.gradient_norm
        norm = norm[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.spec.value == "vip":
                return 4 * norm**2 * rate * (1 - rate) * ((counts - 1) / counts.astype(np.float64) ** 2)
            if self.spec.value == "gvm":
                # n ∝ G/√(p + α/p^(β−1)) is the optimum of Σ G²/((p + α/p^(β−1))·n).
                weight = norm**2 / (rate + GVM_ALPHA / rate ** (GVM_BETA - 1))
            else:
                weight = norm**2 * rate * (1 - rate)
            return weight / counts

    def prices(self, rollouts: Integers) -> tuple[float, Floats | None]:
        """The best marginal value not taken, per unit of budget; and what groups at a bound pay beside it."""
        row, step = np.arange(len(self.table)), self.spec.multiple_of
        cost, padded = self.cost() * step, np.pad(self.table, ((0, 0), (step, step)), constant_values=-np.inf)
        here = padded[row, rollouts + step]
        gain = (padded[row, rollouts + 2 * step] - here) / cost
        loss = (here - padded[row, rollouts]) / cost
        if self.spec.groups is None:
            return self._price(gain), None
        group, size = self.spec.membership(), len(self.spec.groups)
        next_gain, last_gain = np.full(size, -np.inf), np.full(size, np.inf)
        np.maximum.at(next_gain, group, gain)
        np.minimum.at(last_gain, group, loss)
        given = np.bincount(group, weights=rollouts, minlength=size)
        full = given + step > (np.inf if self.spec.groups.most is None else self.spec.groups.most)
        empty = given - step < (-np.inf if self.spec.groups.least is None else self.spec.groups.least)
        price = self._price(next_gain[~full])
        own = np.full(size, price)
        own[full] = np.maximum(own, next_gain)[full]
        own[empty] = np.minimum(own, last_gain)[empty]
        return price, own - price

    def _price(self, gain: Floats) -> float:
        """The best of some gains; 0 if there is none, and never negative where the budget need not be spent."""
        best = float(gain.max(initial=-np.inf))
        floor = -math.inf if self.spec.total is not None else 0.0
        return max(best, floor) if math.isfinite(best) else 0.0

    def priced(self, price: float, group_price: Floats | None = None) -> float:
        """The Lagrangian bound at given prices."""
        if self.spec.total is None and price < 0:
            return math.inf
        rate, room = np.full(len(self.table), price), 0.0
        if self.spec.groups is not None and group_price is not None:
            rate = rate + group_price[self.spec.membership()]
            infinite = np.full(len(self.spec.groups), np.inf)
            most = infinite if self.spec.groups.most is None else self.spec.groups.most
            least = -infinite if self.spec.groups.least is None else self.spec.groups.least
            charged = group_price != 0
            bound = np.where(group_price > 0, most, least)[charged]
            room = math.fsum(group_price[charged] * bound)
        charge = (rate * self.cost())[:, None] * np.arange(self.table.shape[1])
        budget = self.spec.total if self.spec.total is not None else self.spec.token_budget or 0.0
        return math.fsum((self.table - charge).max(axis=1)) + price * budget + room

    def least_priced(self) -> float:
        """The Lagrangian bound at the single price that makes it least; it is convex in the price."""
        slopes = np.abs(np.diff(np.where(np.isfinite(self.table), self.table, 0.0))) / self.cost()[:, None]
        high = float(slopes.max(initial=1.0))
        low = 0.0 if self.spec.total is None else -high
        for _ in range(100):  # golden-section search
            third = (high - low) * 0.382
            if self.priced(low + third) < self.priced(high - third):
                high -= third
            else:
                low += third
        return self.priced((low + high) / 2)


def _log_beta(a: Floats, b: Floats) -> Floats:
    return np.array(
        [math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    )


def _ratios(start: Floats, total: Floats, further: Integers) -> Floats:
    """(rows × counts) Π_{j<k} (start + j)/(total + j) for k = further, 1 where that is 0 or less."""
    steps = np.maximum(further - 1, 0)
    factor: Floats = np.where(further > 0, (start[:, None] + steps) / (total[:, None] + steps), 1.0)
    return np.cumprod(factor, axis=1)
