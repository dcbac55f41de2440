"""From prices to an assignment: by single moves where a gap is allowed or time is short, else along paths."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ..answer import ProgramInfeasible
from ..program import Floats, Integers
from .matching import level, lower
from .matching_graph import draw, reseat, seat
from .matching_market import SLICE, Interrupted, Market, Workers
from .matching_moves import appraise, shed, spill, squeeze
from .matching_prices import CHUNK
from .matching_ties import MOST, values_of

QUICK: Final = 0.04
"""Choices beyond capacity, as a share, from which on single moves are tried where a gap is allowed: by prices that were
the best a step ago. New prices are further off than such an excess tells, and have to come to a third of it."""
SQUEEZED: Final = 512
"""Tokens at most that are moved to experts that are not even on their lists."""
STEPS: Final = 2**22
"""Steps of a loop in machine code, about, between two looks at the clock."""


@dataclass(frozen=True)
class Matching:
    """An assignment and the prices that prove how good it is.

    experts: (tokens × k) by descending score. prices, load: (experts,). objective: the scores of all choices.
    regret: by how much any assignment can be better, at most. paths: chains of moves that met the capacities. warm: the
    search started from the prices of the last task. exact: nothing was left to single moves. stopped: time was up.
    """

    experts: Integers
    prices: Floats
    load: Integers
    objective: float
    regret: float
    paths: int
    warm: bool = False
    exact: bool = True
    stopped: bool = False


def quick(market: Market, prices: Floats, capacity: Integers) -> Matching | None:
    """Every token gets what it wants, but some move on to the nearest expert with room. None if that does not do."""
    if float(np.maximum(market.excess(), 0).sum()) > 2 * QUICK * market.rows * market.wanted:
        return None
    room, load = capacity - market.load, market.load.copy()
    chosen = np.ascontiguousarray(market.near[:, : market.wanted])
    _shed(market, room, load, chosen)
    left, before = -int(np.minimum(room, 0).sum()), math.inf
    if left > SQUEEZED:
        return None
    most = max(4 * STEPS // (int(capacity.max(initial=1)) * market.experts), 1)
    while 0 < left < before:
        market.workers.look()
        before, left = left, squeeze(market.scores, most, prices, room, load, chosen)
    if left:
        return None
    return replace(weighed(market.scores, chosen, prices, load, capacity, 0, market.workers), exact=False)


def _shed(market: Market, room: Integers, load: Integers, chosen: Integers) -> None:
    """Move tokens from experts over their capacity straight to those with room that are listed, the nearest first."""
    depth = market.depth() or math.inf
    for most in (depth / 16, depth / 4, depth, math.inf):
        for first in range(0, market.rows, SLICE):
            if room.min() >= 0:
                return
            market.workers.look()
            last = min(first + SLICE, market.rows)
            shed(market.near, market.value, market.count, first, last, most, room, load, chosen)


class _Seats:
    """The graph of experts at the prices of a market, none of whose moves is known."""

    def __init__(self, market: Market, prices: Floats, capacity: Integers, fullest: int) -> None:
        tokens, experts, self.spare = market.rows, market.experts, int(capacity.sum()) - market.rows * market.wanted
        self.workers, self.scores, self.prices, self.capacity = market.workers, market.scores, prices.copy(), capacity
        self.chosen = np.empty((tokens, market.wanted), np.int64)
        self.held = np.zeros(self.scores.shape, np.bool_)
        places = max(fullest, int(np.minimum(capacity, tokens).max())) + 1
        self.holder, self.load = np.empty((experts, places), np.int64), np.zeros(experts, np.int64)
        self.loss, self.mover = np.full((experts, experts), np.inf), np.full((experts, experts), -1)

    def met(self, exact: Floats | None) -> int:
        """Move tokens along paths until all capacities are met, and lower the prices; how many paths. Raises
        `Interrupted`, with tokens moved in part, and `ProgramInfeasible`."""
        free = _spread(self.prices, self.capacity - self.load, self.spare)
        excess = self.load + free - self.capacity
        graph = (
            self.scores, self.chosen, self.held, self.holder, self.load, free, self.prices, self.loss, self.mover
        )  # fmt: skip
        ties, slices = values_of(self.scores)[0] <= MOST, 0
        searches, paths = min(max(STEPS // len(excess) ** 2, 1), 64), 0
        while (excess < 0).any():
            self.workers.look()
            slices += 1  # ties that were not seen are tried in the 4th slice, the 8th, …
            more = level(searches, ties or (slices >= 4 and slices & (slices - 1) == 0), excess, *graph)
            if more < 0:
                raise ProgramInfeasible("no moves lead to the places that are left")
            paths += more
        lower(self.scores if exact is None else exact, *graph)
        return paths


def met(
    market: Market,
    prices: Floats,
    depth: float,
    capacity: Integers,
    exact: Floats | None = None,
) -> Matching:
    """Take every token to what it wants, then along paths until all capacities are met.

    exact: the scores that the last prices are to be exact for, if not the market's. When time is up, `completed`.
    """
    market.workers.enter("paths")
    seats = _Seats(market, prices, capacity, int(market.load.max()))
    lists = market.near, market.value, market.count, market.cutoff
    reach, hidden = depth if math.isfinite(depth) else 0.0, np.full(market.experts, np.inf)
    told = seats.chosen, seats.held, seats.holder, seats.load, seats.loss, seats.mover
    for first in range(0, market.rows, SLICE):
        market.workers.look()
        seat(*lists, first, min(first + SLICE, market.rows), reach, *told, hidden)
    draw(market.scores, seats.prices, hidden, seats.loss, seats.mover)
    try:
        paths = seats.met(exact)
    except Interrupted:
        market.workers.allow()
        return completed(market, seats.prices, capacity, seats.chosen, seats.load)
    return weighed(market.scores, seats.chosen, seats.prices, seats.load, capacity, paths, market.workers)


def completed(market: Market, prices: Floats, capacity: Integers, chosen: Integers, load: Integers) -> Matching:
    """Meet the capacities as quickly as can be, from any choices: straight moves, and paths where those do not do.

    Raises `Interrupted` if even that takes longer than the workers are allowed, and `ProgramInfeasible`.
    """
    scores, workers, room, paths = market.scores, market.workers, capacity - load, 0
    _shed(market, room, load, chosen)
    for first in range(0, market.rows, SLICE):
        if room.min() >= 0:
            break
        workers.look()
        spill(scores, first, min(first + SLICE, market.rows), prices, room, load, chosen)
    if room.min() < 0:
        seats = _Seats(market, prices, capacity, int(load.max()))
        seats.chosen = chosen
        seats.loss[:] = -np.inf  # whatever a move costs, it is looked up before it is made
        reseat(chosen, seats.held, seats.holder, seats.load)
        paths, load = seats.met(None), seats.load
    return replace(weighed(scores, chosen, prices, load, capacity, paths, workers), exact=False, stopped=True)


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

    workers.split(tokens, work, whole=True)
    empty = ((capacity - load) * prices).tolist()
    regret = max(math.fsum([*sums[:, 2].tolist(), *empty]), 0.0)
    return Matching(chosen, prices, load, math.fsum(sums[:, :2].ravel().tolist()), regret, paths)


def excess_of(load: Integers) -> float:
    """max load / mean load − 1; 0 if nothing is assigned."""
    total = int(load.sum())
    return (int(load.max()) * len(load) - total) / total if total else 0.0
