"""The whole way from scores to an optimal assignment: prices on a sample, prices on all tokens, then paths.

`matching_prices` and `matching` do the work in machine code; this module decides what is done. The outcome does not
depend on the number of threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ...specs.certificate import OPTIMAL_GAP
from ...specs.errors import SolveTimeout
from ..answer import ProgramInfeasible
from ..control import Control
from ..program import Floats, Integers
from .matching_finish import QUICK, Matching, completed, met, quick
from .matching_market import Interrupted, Market, Workers
from .matching_prices import newton
from .matching_ties import dither, prefer, step_of

SAMPLE_CAPACITY: Final = 48
"""A sample leaves an expert so many tokens at least: fewer say little of where its price should be."""
SAMPLE_ROUNDS: Final = 3
ROUNDS: Final = 8
SMALL: Final = 4096
"""Scores up to which prices are not worth looking for: the paths alone are as fast."""
PATHS: Final = 0.002
"""Choices beyond capacity, as a share, that are left to paths: another round would take longer."""
FAR: Final = 0.08
"""Choices beyond capacity, as a share, at which prices have so far to go that more experts have to be in sight."""
LEVELS: Final = (0.0, 0.3, 0.6, 0.8, 0.9, 0.97, 1.0)
"""Shares of the experts whose prices are put to 0 on trial, where places are left over."""
LOST: Final = 0.3
"""Choices beyond capacity, as a share, at which given prices are worth less than new ones."""
SOLVES: Final = 40
"""Rounds of conjugate gradients at most."""


@dataclass
class Prices:
    """The prices that are being looked for, and what the search has learnt of the scores.

    unit: about the largest difference of prices that makes sense. depth: how far below what a token wants the listed
    experts reach.
    """

    values: Floats
    unit: float
    depth: float

    @property
    def sensible(self) -> bool:
        """Whether there is anything to look for, at a scale that can be counted in."""
        return 1e-200 < self.unit < 1e200

    def follow(self, market: Market) -> None:
        """One step of Newton's method from what the market last said."""
        if self.sensible:
            way, change = market.way(self.unit, self.depth), np.empty_like(self.values)
            newton(way.moved, way.window, way.excess, _free(self.values, way.excess, market.spare), 0.0, SOLVES, change)
            self.values = market.clipped(self.values + change)

    def settle(self, market: Market, rounds: int, enough: float, visited: bool = False) -> None:
        """Newton's method until the excess is small enough or the rounds are over. The market ends at the prices.

        visited: the market is at the prices already.
        """
        way = market.way(self.unit, self.depth) if visited else None
        caution, best, kept, change = 0.0, math.inf, self.values, np.empty_like(self.values)
        for left in range(rounds, 0, -1):
            if way is None or left < rounds:
                bound = market.visit(self.values, self.depth)
                far = market.misfit(self.values) > FAR * market.rows * market.wanted
                self.depth = (market.depth() or 2 * self.depth) * (4 if far else 1)
                if left == 1 and bound > best and market.stride > 1:
                    self.values = kept
                if left == 1 or market.misfit(self.values) <= enough:
                    return
                if way is not None and bound > best and left > 2:
                    caution = max(8 * caution, 1.0)
                else:
                    best, kept, caution = min(bound, best), self.values, caution / 4
                    way = market.way(self.unit, self.depth)
            newton(way.moved, way.window, way.excess, _free(kept, way.excess, market.spare), caution, SOLVES, change)
            self.values = market.clipped(kept + change)


def _free(prices: Floats, excess: Floats, spare: float) -> Floats:
    """1 for prices that may change; with places to spare, those of experts that stay free do not."""
    free = np.ones(len(prices))
    if spare > 0:
        idle = excess < 0
        ground = idle & (prices <= 0)
        if not ground.any() and idle.any():
            ground[np.where(idle, prices, np.inf).argmin()] = True
        free[ground] = 0.0
    return free


def start(scores: Floats, capacity: Integers) -> Floats:
    """Prices to start from: what the first token that an expert has no place for would pay, if all wanted it."""
    tokens, experts = scores.shape
    share = np.minimum(capacity / tokens, 1.0)
    stride = max(int(tokens * float(share.mean()) / 16), 1)
    some = scores[::stride]
    place = np.maximum(len(some) - 1 - (share * len(some)).astype(np.int64), 0)
    if (place == place[0]).all():
        column = np.partition(some, place[0], axis=0)[place[0]]
    else:
        column = np.sort(some, axis=0)[place, np.arange(experts)]
    middle = float(np.median(column))
    if not math.isfinite(middle):
        return np.zeros(experts)
    # A score that marks what is unwanted, such as −1e9, says nothing of prices.
    spread = max(float(column.max()) - middle, 0.0)
    column = np.maximum(column, middle - 16 * spread)
    return column - column.min()


class Matcher:
    """Answers one task after the other; of the same size, it starts from the prices and lists of the last."""

    def __init__(self, threads: int) -> None:
        self.workers = Workers(threads)
        self._market: Market | None = None
        self._prices: Prices | None = None
        self._latest = Prices(np.zeros(0), 0.0, math.inf)
        self._quick: Matching | None = None

    def match(
        self,
        scores: Floats,
        wanted: int,
        capacity: Integers,
        given: Floats | None,
        gap: float,
        control: Control | None = None,
    ) -> Matching:
        """The best assignment of `wanted` experts to every token, or one within the relative gap.

        scores: (tokens × experts), −inf where forbidden. capacity: (experts,). given: prices to start from, where
        there are none of a last task. When `control` says stop, what can be had quickly. Raises `ProgramInfeasible`,
        and `SolveTimeout` if there is nothing.
        """
        tokens, experts = scores.shape
        capacity = np.minimum(capacity, tokens + 1)  # a place beyond that stays free in any case
        if wanted > experts or int(np.minimum(capacity, tokens).sum()) < tokens * wanted:
            raise ProgramInfeasible("there are too few places")
        control = control or Control()
        self.workers.heed(control)
        self.workers.enter("prices")
        last, prices = self._market, self._prices
        self._market = self._prices = self._quick = None  # nothing is kept of a task that fails
        warm = last is not None and prices is not None and last.fits(scores, wanted)
        market = last if warm and last is not None else Market(scores, wanted, capacity, 1, self.workers)
        self._latest = prices if warm and prices is not None else Prices(np.zeros(experts), 0.0, math.inf)
        try:
            done = self._searched(market, scores, capacity, given, gap, warm)
        except Interrupted:
            done = self._rescued(market, scores, capacity, control)
        self._market, self._prices = market, self._latest
        return done

    def _searched(
        self, market: Market, scores: Floats, capacity: Integers, given: Floats | None, gap: float, warm: bool
    ) -> Matching:
        """The answer, if nothing interrupts; from the latest prices if the market is warm."""
        share, prices = market.rows * market.wanted, self._latest
        if warm:
            if market.misfit(prices.values) > market.experts:  # the last prices were good enough, and can be better
                prices.follow(market)
            market.open(scores, capacity)
        elif market.rows * market.experts > SMALL and (step := step_of(scores)) > 0:
            return self._untied(market, scores, capacity, step, gap)
        else:
            prices = self._begin(market, capacity, given)
        _ask(market, prices)
        if warm and market.misfit(prices.values) > LOST * share:
            warm, prices = False, self._begin(market, capacity, None)
            market.visit(prices.values, prices.depth)
        return replace(self._finish(market, prices, capacity, gap, QUICK if warm else QUICK / 3), warm=warm)

    def _untied(self, market: Market, scores: Floats, capacity: Integers, step: float, gap: float) -> Matching:
        """The answer for scores of few values, from that for scores with noise as wide as their step."""
        noisy = np.empty(scores.shape)
        self.workers.split(market.rows, lambda _, first, last: dither(scores, first, last, step, noisy))
        market.open(noisy, capacity)
        prices = self._begin(market, capacity, None)
        _ask(market, prices)
        if prices.sensible:
            prices.settle(market, ROUNDS, PATHS * market.rows * market.wanted, visited=True)
        near = met(market, prices.values, prices.depth, capacity, scores)
        prices.values = near.prices
        if near.stopped:
            raise Interrupted
        market.open(scores, capacity)
        _ask(market, prices)
        prefer(near.experts, market.near, market.value, market.count)
        market.load = np.bincount(market.near[:, : market.wanted].ravel(), minlength=market.experts)
        self._quick = quick(market, prices.values, capacity) if gap > 0 else None
        if self._quick is not None and OPTIMAL_GAP < _ratio(self._quick) <= gap:
            return self._quick
        return met(market, prices.values, prices.depth, capacity)

    def _rescued(self, market: Market, scores: Floats, capacity: Integers, control: Control) -> Matching:
        """A plan at the latest prices, when time is up."""
        if self._quick is not None:
            return replace(self._quick, stopped=True)
        self.workers.allow()
        market.open(scores, capacity)
        try:
            _ask(market, self._latest)
            chosen = np.ascontiguousarray(market.near[:, : market.wanted])
            return completed(market, self._latest.values, capacity, chosen, market.load.copy())
        except Interrupted:
            raise SolveTimeout(
                f"no plan within {control.seconds:.3g} s ({control.why_stopped()}); allow more time, or fewer tokens"
            ) from None

    def _begin(self, market: Market, capacity: Integers, given: Floats | None) -> Prices:
        """Prices to start from: those given if they are any good, else those of a sample."""
        scores, wanted, workers = market.scores, market.wanted, self.workers
        tokens, experts = scores.shape
        if scores.size <= SMALL:
            self._latest = Prices(np.zeros(experts), 0.0, math.inf)
            return self._latest
        stride = 1
        while tokens * wanted / experts >= 2 * stride * SAMPLE_CAPACITY:
            stride *= 2
        sample = market if stride == 1 else Market(scores, wanted, capacity, stride, workers)
        if given is not None:
            prices = self._latest = _known(market.clipped(given))
            prices.settle(sample, 1, 0.0)
            if prices.sensible and sample.misfit(prices.values) <= LOST * sample.rows * wanted:
                return prices
        prices = self._latest = _known(start(scores, capacity))
        if not prices.sensible:
            prices.unit, prices.depth = 0.0, math.inf
            return prices
        if market.spare > 0:  # then the level of prices counts, not only their differences
            levels = np.unique(np.quantile(prices.values, LEVELS))
            bounds = [sample.visit(np.maximum(prices.values - down, 0.0), prices.depth) for down in levels.tolist()]
            prices.values = np.maximum(prices.values - levels[int(np.argmin(bounds))], 0.0)
        if stride > 1:
            prices.settle(sample, SAMPLE_ROUNDS, 0.0)
        return prices

    def _finish(self, market: Market, prices: Prices, capacity: Integers, gap: float, quick_share: float) -> Matching:
        """From a first visit to the answer: more rounds while they pay, then moves or paths."""
        share = market.rows * market.wanted
        paths = max(float(market.experts), PATHS * share)
        enough = max(paths, quick_share * share) if gap > 0 else paths
        while True:
            if market.misfit(prices.values) > enough and prices.sensible:
                prices.settle(market, ROUNDS, enough, visited=True)
            if gap <= 0 or enough <= paths:
                return met(market, prices.values, prices.depth, capacity)
            found = quick(market, prices.values, capacity)
            if found is not None and found.regret <= gap * abs(found.objective):
                # What is optimal, by luck, has the least prices too.
                optimal = found.regret <= OPTIMAL_GAP * abs(found.objective)
                return met(market, prices.values, prices.depth, capacity) if optimal else found
            self._quick = found or self._quick
            enough = max(enough / 8, paths)


def _ratio(found: Matching) -> float:
    """The regret, relative to the objective."""
    return found.regret / abs(found.objective) if found.objective else math.inf


def _ask(market: Market, prices: Prices) -> None:
    """Visit a market, and see how deep its lists have to be. Raises `ProgramInfeasible`."""
    market.visit(prices.values, prices.depth)
    prices.depth = market.depth() or 2 * prices.depth
    if (market.count < market.wanted).any():
        raise ProgramInfeasible("a token is allowed too few experts")


def _known(values: Floats) -> Prices:
    unit = float(values.max() - values.min())
    return Prices(values, unit, unit / 16)
