"""What rollouts are worth by the definition of a task: the numbers that its plans are judged by.

Values come from their closed forms, by running products over counts. Solvers use marginal values and ratios instead,
and the two have to agree. Nothing is tabulated whole: counts are looked at in blocks, and only as far as any could
still be the best at the prices given, since no value exceeds its limit and every count costs its price.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Floats, Integers
from .errors import SpecError
from .exact import exact, exact_dot

if TYPE_CHECKING:
    from .rollout_budgets import Beta, RolloutBudgets

GVM_ALPHA, GVM_BETA = 1e-3, 2.0
"""Constants of GVM-RAFT (arXiv 2505.02391)."""
BLOCK = 2**18
"""Values that are held at a time, or a column of them where there are more prompts."""
STEEPEST = 1e250
"""Prices of a rollout from here on bound nothing: products of them would overflow."""
MOST_LOOKED = 2**26
"""Signals that are looked at for one bound, at most: some ten seconds. Those beyond are taken for their limit."""
CUTS = 200
"""Prices tried for the least bound, at most."""


@dataclass(frozen=True)
class Worth:
    """The value of any count of rollouts, under the prior that a plan records."""

    spec: RolloutBudgets
    prior: Beta | None
    _looked: Counter[str] = field(default_factory=Counter, compare=False)

    @cached_property
    def cost(self) -> Floats:
        """(prompts,) what a rollout takes of the budget."""
        tokens = self.spec.prompts.tokens if self.spec.token_budget is not None else None
        return np.ones(len(self.spec.prompts)) if tokens is None else tokens

    @cached_property
    def reach(self) -> tuple[Integers, Integers]:
        """(prompts,) the fewest and the most rollouts that any plan can have, where the others have their fewest."""
        step, spec = self.spec.multiple_of, self.spec
        drawn = 0 if spec.prompts.drawn is None else spec.prompts.drawn
        least = -(-np.maximum(np.full(len(spec.prompts), spec.least), drawn) // step) * step
        most = np.full(len(least), spec.most // step * step)
        if spec.total is not None:
            room = max(spec.total - int(least.sum()), 0) // step * step
            return least, np.minimum(most, least + room)
        left = exact(spec.token_budget or 0.0) - exact_dot(self.cost, least)
        rungs = [max(int(left / (exact(cost) * step)), 0) for cost in self.cost.tolist()]
        top = [
            min(low + step * more, high) for low, more, high in zip(least.tolist(), rungs, most.tolist(), strict=True)
        ]
        return least, np.array(top, np.int64)

    def at(self, rollouts: Integers) -> Floats:
        """(prompts,) the value of so many rollouts; −inf where that is not allowed."""
        drawn = 0 if self.spec.prompts.drawn is None else self.spec.prompts.drawn
        allowed = (rollouts >= np.maximum(self.spec.least, drawn)) & (rollouts <= self.spec.most)
        allowed &= rollouts % self.spec.multiple_of == 0
        counts = np.clip(rollouts, np.maximum(self.spec.least, drawn), self.spec.most)[:, None]
        every = np.arange(len(rollouts))
        if self.spec.value in ("posterior", "knapsack_rl"):
            worth = self._both(every, counts, self._powers(counts), 1, 2, self.certain)
        else:
            worth = self._plain(every, counts)
        return np.where(allowed, worth[:, 0], -np.inf)

    @property
    def certain(self) -> bool:
        """Whether rates are taken for known, even where they come from histories."""
        return self.spec.value == "knapsack_rl"

    def best(self, rate: Floats) -> tuple[Floats, Integers]:
        """(prompts,) the value of the count with the largest value less rate·count, and that count.

        Counts are charged from the fewest on, so that a price far above all values costs no digits there.
        """
        least, most = self.reach
        peak, place, rows = np.full(len(rate), -np.inf), least.copy(), np.flatnonzero(least <= most)
        worth, last = peak.copy(), peak.copy()
        signal = self.spec.value in ("posterior", "knapsack_rl")
        carried, low, width = np.ones((2, len(rows), 1)), 0, 32
        if not signal:
            low = int(least.min(initial=self.spec.most))
        while rows.size:
            if signal and self._weary:
                # No count is worth more than the limit, and none further on costs less than the next.
                worth[rows] = self.limit[rows]
                place[rows] = np.where(rate[rows] > 0, np.clip(low, least[rows], most[rows]), most[rows])
                break
            width = max(min(width * 2, BLOCK // len(rows), int(most[rows].max()) + 1 - low), 1)
            counts = np.arange(low, low + width)
            if signal:
                self._looked["values"] += width * len(rows)
                powers = self._chained(rows, counts, carried)
                values = self._both(rows, counts, powers, 1, 2, self.certain)
                carried = self._chained(rows, counts[-1:] + 1, carried, counts)
            else:
                values = self._plain(rows, counts)
            allowed = (counts >= least[rows, None]) & (counts <= most[rows, None])
            allowed &= counts % self.spec.multiple_of == 0
            charged = np.maximum(counts - least[rows, None], 0)
            surplus = np.where(allowed, values - rate[rows, None] * charged, -np.inf)
            top = surplus.argmax(axis=1)
            every = np.arange(len(rows))
            here = surplus[every, top]
            better = here > peak[rows]
            peak[rows[better]], place[rows[better]] = here[better], counts[top[better]]
            worth[rows[better]] = values[every, top][better]
            low += width
            # Further counts are worth at most the limit, and cost no less than the next one if they cost at all.
            next_ = np.maximum(np.where(rate[rows] > 0, low, most[rows]) - least[rows], 0)
            further = self.limit[rows] - rate[rows] * next_
            going = (low <= most[rows]) & (further > peak[rows])
            if signal:
                # Signals are concave from the first rollout on: a surplus that has fallen goes on to fall.
                there = allowed & (counts > 0)
                first, final = there.argmax(axis=1), there.shape[1] - 1 - there[:, ::-1].argmax(axis=1)
                before = np.where(first < final, surplus[every, first], last[rows])
                some = there.any(axis=1)
                going &= ~(some & (surplus[every, final] <= before))
                last[rows[some]] = surplus[every, final][some]
            rows, carried = rows[going], carried[:, going]
        return worth, place

    @property
    def _weary(self) -> bool:
        """Whether as many values were looked at as may be."""
        return self._looked["values"] > MOST_LOOKED

    @cached_property
    def limit(self) -> Floats:
        """(prompts,) what no count is worth more than."""
        if self.spec.table is not None:
            return self.spec.table.max(axis=1, initial=-np.inf)
        if self.spec.value not in ("posterior", "knapsack_rl"):
            return np.zeros(len(self.spec.prompts))
        success, failure = self._outcomes(np.arange(len(self.spec.prompts)))
        return np.where(success & failure, 0.0, self._moment(1, 2, self.certain))[:, 0]

    def sizes(self, rollouts: Integers) -> Floats:
        """(prompts,) how large the numbers are that values are differences of: a signal is its limit less the rest."""
        if self.spec.value in ("posterior", "knapsack_rl"):
            return self.limit
        worth = np.abs(self.at(rollouts))
        return np.where(np.isfinite(worth), worth, 0.0)

    def _belief(self) -> tuple[Floats, Floats]:
        """(prompts,) the belief after the history, before the draws."""
        successes, trials = self.spec.prompts.successes, self.spec.prompts.trials
        if successes is None or trials is None or self.prior is None:
            raise SpecError("a belief needs successes and trials")
        return self.prior.alpha + successes, self.prior.beta + (trials - successes)

    def _rate(self) -> Floats:
        if self.spec.prompts.success_rate is not None:
            return self.spec.prompts.success_rate
        if self.prior is None:
            raise SpecError("a success rate needs success_rate, or successes and trials")
        a, b = self._belief()
        return a / (a + b)

    def _updated(self) -> tuple[Floats, Floats]:
        """(prompts,) the belief after the draws too."""
        a, b = self._belief()
        drawn, rewarded = self.spec.prompts.drawn, self.spec.prompts.drawn_successes
        return (a, b) if drawn is None or rewarded is None else (a + rewarded, b + (drawn - rewarded))

    def _moment(self, ones: int, zeros: int, certain: bool) -> Floats:
        """(prompts × 1) E[p^ones·q^zeros] with q = 1 − p."""
        if self.prior is None or certain:
            rate = self._rate()[:, None]
            return rate**ones * (1 - rate) ** zeros
        a, b = self._updated()
        moment = np.ones(len(a))
        for one in range(ones):
            moment = moment * ((a + one) / (a + b + one))
        for zero in range(zeros):
            moment = moment * ((b + zero) / (a + b + ones + zero))
        return moment[:, None]

    def _chained(self, rows: Integers, counts: Integers, carried: Floats, passed: Integers | None = None) -> Floats:
        """(2 × rows × counts) how far pᵏ and qᵏ bring E[p·q²] down, k the further rollouts at each of some counts in a
        row, from what was carried up to the first; `passed` are counts gone over before the first."""
        drawn = 0 if self.spec.prompts.drawn is None else self.spec.prompts.drawn[rows, None]
        if self.prior is None or self.certain:
            rate, further = self._rate()[rows, None], np.maximum(counts - drawn, 0)
            return np.stack([rate**further, _rest(rate, further)])
        a, b = (shape[rows, None] for shape in self._updated())
        steps = (counts if passed is None else passed) - drawn
        # From each count to the next, nothing before the draws are reached.
        factor = np.stack(
            [np.where(steps >= 0, (start + steps) / (a + b + 3 + steps), 1.0) for start in (a + 1, b + 2)]
        )
        if passed is not None:
            return carried * np.prod(factor, axis=2, keepdims=True)
        return np.cumprod(np.concatenate([carried, factor[:, :, :-1]], axis=2), axis=2)

    def _powers(self, counts: Integers, ones: int = 1, zeros: int = 2, certain: bool | None = None) -> Floats:
        """(2 × prompts × 1) how far pᵏ and qᵏ bring E[p^ones·q^zeros] down, for one count of each prompt."""
        drawn = 0 if self.spec.prompts.drawn is None else self.spec.prompts.drawn[:, None]
        further = np.maximum(counts - drawn, 0)
        if self.prior is None or (self.certain if certain is None else certain):
            rate = self._rate()[:, None]
            return np.stack([rate**further, _rest(rate, further)])
        a, b = self._updated()
        product = np.ones((2, len(a), 1))
        rows, low = np.flatnonzero(further[:, 0] > 0), 0
        while rows.size:
            width = max(min(BLOCK // len(rows), int(further[rows].max()) - low), 1)
            steps = np.arange(low, low + width)
            total, inside = (a + b)[rows, None] + ones + zeros + steps, steps < further[rows]
            for side, start in enumerate((a + ones, b + zeros)):
                factor = np.where(inside, (start[rows, None] + steps) / total, 1.0)
                product[side, rows] *= np.prod(factor, axis=1, keepdims=True)
            low += width
            rows = rows[further[rows, 0] > low]
        return product

    def _outcomes(self, rows: Integers) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(rows × 1) whether a success, and whether a failure, is among the drawn."""
        drawn, rewarded = self.spec.prompts.drawn, self.spec.prompts.drawn_successes
        if drawn is None or rewarded is None:
            nothing = np.zeros((len(rows), 1), np.bool_)
            return nothing, nothing
        return (rewarded > 0)[rows, None], (rewarded < drawn)[rows, None]

    def _both(self, rows: Integers, counts: Integers, powers: Floats, ones: int, zeros: int, certain: bool) -> Floats:
        """(rows × counts) E[p^ones·q^zeros·1(both outcomes occur, not before the draws)] for n rollouts in all."""
        all_of_it = self._moment(ones, zeros, certain)[rows]
        success, failure = self._outcomes(rows)
        missing = np.where(failure, 0.0, powers[0]) + np.where(success, 0.0, powers[1])
        gain = np.where(success & failure, 0.0, all_of_it * (1 - missing))
        # Without any rollout both events coincide, and nothing is gained.
        return np.where((counts == 0) & ~success & ~failure, 0.0, gain)

    def _plain(self, rows: Integers, counts: Any) -> Floats:
        """(rows × counts) the values of a table, or the variance that `neyman`, `gvm` and `vip` minimise, negated."""
        if self.spec.table is not None:
            return self.spec.table[rows[:, None], np.minimum(counts, self.spec.most)]
        rate = self._rate()[rows, None]
        norm = np.ones(len(rows)) if self.spec.prompts.gradient_norm is None else self.spec.prompts.gradient_norm[rows]
        norm = norm[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.spec.value == "vip":
                return -4 * norm**2 * rate * (1 - rate) * ((counts - 1) / np.square(counts, dtype=np.float64))
            if self.spec.value == "gvm":
                # n ∝ G/√(p + α/p^(β−1)) is the optimum of Σ G²/((p + α/p^(β−1))·n).
                weight = norm**2 / (rate + GVM_ALPHA / rate ** (GVM_BETA - 1))
            else:
                weight = norm**2 * rate * (1 - rate)
            return -weight / counts

    def gradient_share(self, rollouts: Integers) -> float | None:
        """Share of the rollouts expected in groups with both outcomes; None where nothing is known about rates."""
        if self.spec.prompts.success_rate is None and self.spec.prompts.successes is None:
            return None
        spent = int(rollouts.sum())
        if spent == 0:
            return 0.0
        every = np.arange(len(rollouts))
        success, failure = self._outcomes(every)
        powers = self._powers(rollouts[:, None], 0, 0, False)
        chance = np.where(success & failure, 1.0, self._both(every, rollouts[:, None], powers, 0, 0, False))
        return math.fsum(chance[:, 0] * rollouts) / spent

    def prices(self, rollouts: Integers) -> tuple[float, Floats | None]:
        """The best marginal value not taken, per unit of budget; and what groups at a bound pay beside it."""
        step = self.spec.multiple_of
        here, cost = self.at(rollouts), self.cost * step
        gain = (self.at(rollouts + step) - here) / cost
        if self.spec.groups is None:
            return self._price(gain), None
        loss = (here - self.at(rollouts - step)) / cost
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
        return self._tangent(price, group_price)[0]

    def _tangent(self, price: float, group_price: Floats | None = None) -> tuple[float, float]:
        """The Lagrangian bound at given prices, and how it changes with the price of the budget."""
        if self.spec.total is None and price < 0:
            return math.inf, -math.inf
        rate, own = np.full(len(self.spec.prompts), price), group_price if self.spec.groups is not None else None
        with np.errstate(over="ignore"):
            rate = (rate if own is None else rate + own[self.spec.membership()]) * self.cost
        if not (np.abs(rate) < STEEPEST).all():
            return math.inf, math.inf
        worth, counts = self.best(rate)
        # What is left over is counted without rounding: at prices far above the values it may not cost any digits.
        slack, terms = self.budget - self._spent(counts), worth.tolist()
        if own is not None:
            terms += map(operator.mul, own.tolist(), self._group_slack(counts, own).tolist())
        try:
            return math.fsum([*terms, float(exact(price) * slack)]), float(slack)
        except (OverflowError, ValueError):
            return math.inf, math.copysign(math.inf, slack)

    def _group_slack(self, counts: Integers, group_price: Floats) -> Floats:
        """(groups,) how far counts stay below the bound that each group's price is charged for; 0 without a price."""
        groups, step = self.spec.groups, self.spec.multiple_of
        if groups is None:
            return np.zeros(0)
        infinite = np.full(len(groups), np.inf)
        # Sums of multiples: a bound between two of them is as good as the nearer one that it allows.
        most = infinite if groups.most is None else groups.most // step * step
        least = -infinite if groups.least is None else -(-groups.least // step) * step
        given = np.bincount(self.spec.membership(), weights=counts, minlength=len(groups))
        return np.where(group_price == 0, 0.0, np.where(group_price > 0, most, least) - given)

    def _spent(self, counts: Integers) -> Fraction:
        """What counts take of the budget, without rounding."""
        if self.spec.total is not None:
            return Fraction(sum(counts.tolist()))
        whole, unit = self._units
        return sum(map(operator.mul, whole, counts.tolist())) * unit

    @cached_property
    def _units(self) -> tuple[list[int], Fraction]:
        """(prompts,) what a rollout takes in whole multiples of the largest unit that all costs share; and the unit."""
        different, place = np.unique(self.cost, return_inverse=True)
        costs = [exact(cost) for cost in different.tolist()]
        unit = Fraction(
            math.gcd(*(cost.numerator for cost in costs)) or 1, math.lcm(*(cost.denominator for cost in costs))
        )
        whole = [int(cost / unit) for cost in costs]
        return [whole[entry] for entry in place.tolist()], unit

    @cached_property
    def budget(self) -> Fraction:
        """What of the budget counts can use up: whole multiples of the unit that all costs share."""
        if self.spec.total is not None:
            return Fraction(self.spec.total)
        unit = self._units[1] * self.spec.multiple_of
        return exact(self.spec.token_budget or 0.0) // unit * unit

    def least_priced(self, start: float) -> float:
        """The least Lagrangian bound that some single price gives, searched from one such price.

        The bound is convex in the price: two tangents of opposite slope meet where the next price is tried, or
        halfway between their prices where that gets on too slowly.
        """
        low, high = start, start
        value, slope = self._tangent(start)
        best, below, above = value, (value, slope), (value, slope)
        around = max(abs(start), 1e-3 * abs(value) / max(math.fsum(self.cost * self.reach[1]), 1.0), 1e-300)
        width = around
        while slope < 0 and not self._weary:
            low, below = high, above
            high, width = high + width, width * 4
            if not math.isfinite(high):
                return best
            above = value, slope = self._tangent(high)
            best = min(best, value)
        width = around
        while below[1] > 0 and not self._weary and not (self.spec.total is None and low <= 0):
            high, above = low, below
            low, width = low - width, width * 4
            low = low if self.spec.total is not None else max(low, 0.0)
            if not math.isfinite(low):
                return best
            below = self._tangent(low)
            best = min(best, below[0])
        for cut in range(CUTS):
            if self._weary or not below[1] < 0 < above[1]:
                break
            meet = (below[0] - below[1] * low - above[0] + above[1] * high) / (above[1] - below[1])
            lowest = below[0] + below[1] * (meet - low)
            if not lowest < best - 1e-14 * abs(best):
                break
            price = meet if cut % 3 < 2 and low < meet < high else (low + high) / 2
            if not low < price < high:
                break
            value, slope = self._tangent(price)
            best = min(best, value)
            if slope < 0:
                low, below = price, (value, slope)
            else:
                high, above = price, (value, slope)
        return best


def _rest(rate: Floats, further: Integers) -> Floats:
    """(1 − rate)^further, with the digits of tiny rates."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(further == 0, 1.0, np.exp(further * np.log1p(-rate)))
