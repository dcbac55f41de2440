"""The whole way from scores to an optimal assignment: prices on a sample, prices on all tokens, then paths.

`matching_prices` and `matching` do the work in machine code; this module decides what is done, and shares rows among
threads. The outcome does not depend on their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ...specs.certificate import OPTIMAL_GAP
from ..answer import ProgramInfeasible
from ..program import Floats, Integers
from .matching import draw, level, lower, seat
from .matching_moves import appraise, shed, squeeze
from .matching_prices import BINS, CHUNK, answers, gaps, newton, survey, windows

SAMPLE_CAPACITY: Final = 48
"""A sample leaves an expert so many tokens at least: fewer say little of where its price should be."""
SAMPLE_ROUNDS: Final = 3
ROUNDS: Final = 8
SMALL: Final = 4096
"""Scores up to which prices are not worth looking for: the paths alone are as fast."""
LISTED: Final = 10
"""Experts that are listed of a token, about, beyond those that it wants."""
WIDTH, SAMPLE_WIDTH = 24, 38
"""Experts that are listed at most beyond those: in a sample prices move far, and more come into question."""
PATHS: Final = 0.002
"""Choices beyond capacity, as a share, that are left to paths: another round would take longer."""
QUICK: Final = 0.04
"""Choices beyond capacity, as a share, from which on single moves are tried where a gap is allowed: by prices that were
the best a step ago. New prices are further off than such an excess tells, and have to come to a third of it."""
FAR: Final = 0.08
"""Choices beyond capacity, as a share, at which prices have so far to go that more experts have to be in sight."""
LEVELS: Final = (0.0, 0.3, 0.6, 0.8, 0.9, 0.97, 1.0)
"""Shares of the experts whose prices are put to 0 on trial, where places are left over."""
LOST: Final = 0.3
"""Choices beyond capacity, as a share, at which given prices are worth less than new ones."""
SQUEEZED: Final = 512
"""Tokens at most that are moved to experts that are not even on their lists."""
SOLVES: Final = 40
"""Rounds of conjugate gradients at most."""


class Workers:
    """Shares rows among threads; machine code releases the interpreter lock."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None

    def split(self, rows: int, work: Callable[[int, int, int], None]) -> None:
        """Call work(part, first, last) for every part of the rows, one per thread; parts end where chunks do."""
        chunks = -(-rows // CHUNK)
        parts = min(self.threads, max(chunks, 1))
        edges = [min(chunks * part // parts * CHUNK, rows) for part in range(parts + 1)]
        if parts == 1:
            work(0, 0, rows)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads - 1, "equipoise-matching")
        others = [self._pool.submit(work, part, edges[part], edges[part + 1]) for part in range(1, parts)]
        work(0, edges[0], edges[1])
        for other in others:
            other.result()


@dataclass(frozen=True)
class Matching:
    """An assignment and the prices that prove how good it is.

    experts: (tokens × k) by descending score. prices, load: (experts,). objective: the scores of all choices.
    regret: by how much any assignment can be better, at most. paths: chains of moves that met the capacities. warm: the
    search started from the prices of the last task. exact: nothing was left to single moves.
    """

    experts: Integers
    prices: Floats
    load: Integers
    objective: float
    regret: float
    paths: int
    warm: bool = False
    exact: bool = True


class Market:
    """The tokens of one task (or every `stride`-th of them) at the prices of the moment. Its tables serve the next
    task of the same size, whose lists are guessed from this one's."""

    def __init__(self, scores: Floats, wanted: int, capacity: Integers, stride: int, workers: Workers) -> None:
        self.wanted, self.stride, self.workers = wanted, stride, workers
        self.rows, self.experts = -(-len(scores) // stride), scores.shape[1]
        width = min(self.experts, wanted + 1 + (WIDTH if stride == 1 else SAMPLE_WIDTH))
        self.near = np.empty((self.rows, width), np.int64)
        self.value = np.empty(self.near.shape)
        self.count = np.empty(self.rows, np.int64)
        self.cutoff, self.surplus = np.empty(self.rows), np.empty(self.rows)
        self.load = np.zeros(self.experts, np.int64)
        self.seen = False
        self.open(scores, capacity)

    def open(self, scores: Floats, capacity: Integers) -> None:
        """Take other scores, and other capacities, of the same size."""
        self.scores = scores
        self.capacity = capacity * (self.rows / len(scores))
        self.spare = float(self.capacity.sum()) - self.rows * self.wanted

    def visit(self, prices: Floats, depth: float) -> float:
        """Ask all tokens what they want at these prices. The dual bound (of the sample)."""
        loads = np.zeros((self.workers.threads, self.experts), np.int64)
        lists = self.near, self.value, self.count, self.cutoff, self.surplus

        def work(part: int, first: int, last: int) -> None:
            for start_ in range(first, last, CHUNK):
                end = min(start_ + CHUNK, last)
                survey(
                    self.scores, self.wanted, self.stride, start_, end, prices, depth, self.seen, *lists, loads[part]
                )

        self.workers.split(self.rows, work)
        self.load, self.seen = loads.sum(axis=0), True
        return self.bound(prices)

    def bound(self, prices: Floats) -> float:
        """The dual bound at the prices of the last visit."""
        return float(self.surplus.sum()) + float(self.capacity @ prices)

    def depth(self) -> float | None:
        """How far below what is wanted a list must reach to hold about `LISTED` more; None if that is not known."""
        for more in (LISTED, LISTED // 2, 1):
            last = self.wanted + more
            full = np.flatnonzero(self.count > last)
            if last < self.near.shape[1] and 4 * len(full) >= self.rows:
                reach = float(np.median(self.value[full, self.wanted] - self.value[full, last]))
                return reach * (LISTED / more)
        return None

    def excess(self) -> Floats:
        """(experts,) tokens that want an expert beyond its capacity."""
        return self.load - self.capacity

    def misfit(self, prices: Floats) -> float:
        """Tokens beyond capacities; or places that stay free at a price, if those are more."""
        excess = self.excess()
        over = float(np.maximum(excess, 0).sum())
        return over if self.spare <= 0 else max(over, float(np.maximum(-excess, 0)[prices > 0].sum()))

    def fits(self, scores: Floats, wanted: int) -> bool:
        """Whether a task is of this one's size."""
        return scores.shape == (self.rows, self.experts) and wanted == self.wanted

    def clipped(self, prices: Floats) -> Floats:
        """Prices of at least 0. Where all places will be taken, only differences of prices count."""
        return prices - prices.min() if self.spare <= 0 else np.maximum(prices, 0.0)

    def way(self, unit: float, depth: float) -> Way:
        """What a change of each price would do, by what tokens said at the last visit."""
        several, excess = self.workers.threads, self.excess()
        bins = np.zeros((several, 2 * self.experts, BINS), np.int64)
        lists = self.near, self.value, self.count, self.wanted
        self.workers.split(self.rows, lambda part, first, last: gaps(*lists, first, last, unit, bins[part]))
        window = np.empty(self.experts)
        least = 12 if self.stride == 1 else 4
        windows(bins.sum(axis=0), np.rint(excess).astype(np.int64), unit, least, 2 * depth, window)
        moved = np.zeros((several, self.experts, self.experts))
        self.workers.split(self.rows, lambda part, first, last: answers(*lists, first, last, window, moved[part]))
        return Way(excess, window, moved.sum(axis=0))


@dataclass(frozen=True)
class Way:
    """excess: (experts,) tokens to be sent away. window: (experts,) how far a price may change. moved: (experts ×
    experts) the tokens that such a change of the first's price sends to the second or takes from it."""

    excess: Floats
    window: Floats
    moved: Floats


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

    def match(self, scores: Floats, wanted: int, capacity: Integers, given: Floats | None, gap: float) -> Matching:
        """The best assignment of `wanted` experts to every token, or one within the relative gap.

        scores: (tokens × experts), −inf where forbidden. capacity: (experts,). given: prices to start from, where
        there are none of a last task. Raises `ProgramInfeasible`.
        """
        tokens, experts = scores.shape
        capacity = np.minimum(capacity, tokens + 1)  # a place beyond that stays free in any case
        if wanted > experts or int(np.minimum(capacity, tokens).sum()) < tokens * wanted:
            raise ProgramInfeasible("there are too few places")
        last, prices = self._market, self._prices
        self._market = self._prices = None  # nothing is kept of a task that fails
        warm = last is not None and prices is not None and last.fits(scores, wanted)
        if warm and last is not None and prices is not None:
            market = last
            if (
                market.misfit(prices.values) > experts
            ):  # the last prices were good enough, and can be better before they are used
                prices.follow(market)
            market.open(scores, capacity)
        else:
            market = Market(scores, wanted, capacity, 1, self.workers)
            prices = self._begin(market, capacity, given)
        market.visit(prices.values, prices.depth)
        prices.depth = market.depth() or 2 * prices.depth
        if (market.count < wanted).any():
            raise ProgramInfeasible("a token is allowed too few experts")
        if warm and market.misfit(prices.values) > LOST * tokens * wanted:
            warm, prices = False, self._begin(market, capacity, None)
            market.visit(prices.values, prices.depth)
        done = self._finish(market, prices, capacity, gap, QUICK if warm else QUICK / 3)
        self._market, self._prices = market, prices
        return replace(done, warm=warm)

    def _begin(self, market: Market, capacity: Integers, given: Floats | None) -> Prices:
        """Prices to start from: those given if they are any good, else those of a sample."""
        scores, wanted, workers = market.scores, market.wanted, self.workers
        tokens, experts = scores.shape
        if scores.size <= SMALL:
            return Prices(np.zeros(experts), 0.0, math.inf)
        stride = 1
        while tokens * wanted / experts >= 2 * stride * SAMPLE_CAPACITY:
            stride *= 2
        sample = market if stride == 1 else Market(scores, wanted, capacity, stride, workers)
        if given is not None:
            prices = _known(market.clipped(given))
            prices.settle(sample, 1, 0.0)
            if prices.sensible and sample.misfit(prices.values) <= LOST * sample.rows * wanted:
                return prices
        prices = _known(start(scores, capacity))
        if not prices.sensible:
            return Prices(prices.values, 0.0, math.inf)
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
                return _met(market, prices, capacity)
            quick = _quick(market, prices.values, capacity)
            if quick is not None and quick.regret <= gap * abs(quick.objective):
                # What is optimal, by luck, has the least prices too.
                optimal = quick.regret <= OPTIMAL_GAP * abs(quick.objective)
                return _met(market, prices, capacity) if optimal else quick
            enough = max(enough / 8, paths)


def _known(values: Floats) -> Prices:
    unit = float(values.max() - values.min())
    return Prices(values, unit, unit / 16)


def _quick(market: Market, prices: Floats, capacity: Integers) -> Matching | None:
    """Every token gets what it wants, but some move on to the nearest expert with room. None if that does not do."""
    if float(np.maximum(market.excess(), 0).sum()) > 2 * QUICK * market.rows * market.wanted:
        return None
    room, load = capacity - market.load, market.load.copy()
    chosen = np.ascontiguousarray(market.near[:, : market.wanted])
    lists = market.near, market.value, market.count
    depth = market.depth() or math.inf
    for most in (depth / 16, depth / 4, depth, math.inf):
        if room.min() < 0:
            shed(*lists, 0, market.rows, most, room, load, chosen)
    left = -int(np.minimum(room, 0).sum())
    if left > SQUEEZED or (left and squeeze(market.scores, prices, room, load, chosen)):
        return None
    return replace(weighed(market.scores, chosen, prices, load, capacity, 0, market.workers), exact=False)


def _met(market: Market, found: Prices, capacity: Integers) -> Matching:
    """Take every token to what it wants, then along paths until all capacities are met."""
    prices = found.values.copy()
    scores, wanted, tokens, experts = market.scores, market.wanted, market.rows, market.experts
    held = np.zeros(scores.shape, np.bool_)
    places = max(int(market.load.max()), int(np.minimum(capacity, tokens).max())) + 1
    holder = np.empty((experts, places), np.int64)
    load = np.zeros(experts, np.int64)
    loss, mover = np.full((experts, experts), np.inf), np.full((experts, experts), -1)
    hidden = np.full(experts, np.inf)
    reach = found.depth if math.isfinite(found.depth) else 0.0
    lists = market.near, market.value, market.count, market.cutoff
    chosen = np.empty((tokens, wanted), np.int64)
    seat(*lists, 0, tokens, reach, chosen, held, holder, load, loss, mover, hidden)
    draw(scores, prices, hidden, loss, mover)
    free = _spread(prices, capacity - load, int(capacity.sum()) - tokens * wanted)
    excess = load + free - capacity
    graph = scores, chosen, held, holder, load, free, prices, loss, mover
    paths = level(2**62, excess, *graph)
    if paths < 0:
        raise ProgramInfeasible("no moves lead to the places that are left")
    lower(*graph)
    return weighed(scores, chosen, prices, load, capacity, paths, market.workers)


def _spread(prices: Floats, room: Integers, spare: int) -> Integers:
    """(experts,) free places: where they cost nothing, as far as there is room; the rest where it is cheapest."""
    free = np.zeros(len(prices), np.int64)
    cheapest = np.flatnonzero(prices == prices.min(initial=np.inf))
    for expert in cheapest.tolist():
        free[expert] = min(max(int(room[expert]), 0), spare)
        spare -= int(free[expert])
    if spare:
        free[cheapest[0]] += spare
    return free


def weighed(
    scores: Floats,
    chosen: Integers,
    prices: Floats,
    load: Integers,
    capacity: Integers,
    paths: int,
    workers: Workers,
) -> Matching:
    """An assignment, put in order of scores, with what it achieves and what its prices prove."""
    tokens, wanted = chosen.shape
    sums = np.zeros((-(-tokens // CHUNK), 3))

    def work(part: int, first: int, last: int) -> None:
        scratch = np.empty(2 * max(scores.shape[1], wanted))
        for start_ in range(first, last, CHUNK):
            end = min(start_ + CHUNK, last)
            appraise(scores, start_, end, prices, chosen, sums[start_ // CHUNK], scratch)

    workers.split(tokens, work)
    empty = ((capacity - load) * prices).tolist()
    regret = max(math.fsum([*sums[:, 2].tolist(), *empty]), 0.0)
    return Matching(chosen, prices, load, math.fsum(sums[:, :2].ravel().tolist()), regret, paths)


def excess_of(load: Integers) -> float:
    """max load / mean load − 1; 0 if nothing is assigned."""
    total = int(load.sum())
    return (int(load.max()) * len(load) - total) / total if total else 0.0
