"""The last word on an assignment of tokens to experts: exchanges until none helps, then the least prices that prove it.

An assignment is optimal exactly if no chain of moves gains: a token leaves expert a for b, another leaves b for c,
and so on, back to a or to an expert with a place left (a negative cycle of the residual network: Klein, 1967). A step
of the chain costs loss[a, b], the least that any token of a loses by taking b instead. Longest paths over the experts
then give the prices: what an expert must cost so that nobody else wants in. Few experts, many tokens: the loops here
run over experts, and each step is over all of an expert's tokens at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .program import Floats, Integers

ROUNDING = 2.0**-50
"""Relative error of a difference of scores, with some room: smaller gains are not looked for."""
LARGEST_ROUNDING = 2.0**-30
ROUNDS = 2000
"""Rounds of exchanges at most. A solver that rounded costs to 2⁻⁴⁰ leaves none or a few."""

Chain = list[tuple[int, int, int]]
"""Moves: the token, the expert that it leaves, and the one that it takes."""


@dataclass(frozen=True)
class Settled:
    """An assignment that no chain of moves improves, and the least prices that prove it.

    experts: (tokens × experts per token) by descending score. prices: (experts,). moves: tokens moved to get here.
    stopped: there was no time to look for all.
    """

    experts: Integers
    prices: Floats
    moves: int
    stopped: bool = False


def settle(
    scores: Floats,
    experts: Integers,
    capacity: Integers,
    rounds: int = ROUNDS,
    stop: Callable[[], bool] = lambda: False,
) -> Settled:
    """An optimal assignment, reached from a feasible one, with the least prices that prove it.

    scores: (tokens × experts), −inf where forbidden. experts: (tokens × k) distinct in a row, none forbidden, no
    expert over its capacity. When the rounds run out, or `stop` says so, prices are at least 0 and bound the optimum
    all the same.
    A round costs O(tokens·k·experts) at first and then little more than its longest path, O(experts³) at worst.
    """
    held = np.zeros(scores.shape, np.bool_)
    np.put_along_axis(held, experts, True, axis=1)
    exchange = _Exchange(scores, held, capacity)
    moves, rounding, stopped = 0, ROUNDING, False
    for _ in range(rounds):
        stopped = stop()
        if stopped:
            prices, _ = exchange.search(rounding)
            break
        prices, chains = exchange.search(rounding)
        real = [chain for chain in chains if exchange.gain(chain) > 0]
        if chains and not real and rounding < LARGEST_ROUNDING:
            rounding *= 8  # only rounding errors were found
            continue
        if not real:
            break
        exchange.apply(real)
        moves += sum(map(len, real))
    else:
        prices, _ = exchange.search(rounding)
    return Settled(_ranked(scores, np.nonzero(held)[1].reshape(experts.shape)), prices, moves, stopped)


def _ranked(scores: Floats, experts: Integers) -> Integers:
    """The experts of each token by descending score."""
    order = np.argsort(-np.take_along_axis(scores, experts, axis=1), axis=1, kind="stable")
    return np.take_along_axis(experts, order, axis=1)


class _Exchange:
    """The experts as a graph, whose arcs are the cheapest moves; kept up to date as moves are made."""

    def __init__(self, scores: Floats, held: NDArray[np.bool_], capacity: Integers) -> None:
        self.scores, self.held, self.capacity = scores, held, capacity
        self.load = held.sum(axis=0)
        self.open = np.where(held, -np.inf, scores)  # what a token could take
        self.sources = np.flatnonzero(self.load)
        self.place = np.full(len(capacity), -1)
        self.place[self.sources] = np.arange(len(self.sources))
        self.loss = np.full((len(self.sources), len(capacity)), np.inf)
        self.mover = np.zeros(self.loss.shape, np.int64)
        for expert in self.sources.tolist():
            self._refresh(expert)

    def _refresh(self, expert: int) -> None:
        """Find the cheapest moves out of an expert."""
        tokens, row = np.flatnonzero(self.held[:, expert]), self.place[expert]
        if not len(tokens):
            self.loss[row] = np.inf
            return
        gain = self.open[tokens]
        gain -= self.scores[tokens, expert][:, None]
        best = gain.argmax(axis=0)
        self.mover[row] = tokens[best]
        self.loss[row] = -gain[best, np.arange(gain.shape[1])]

    def search(self, rounding: float) -> tuple[Floats, list[Chain]]:
        """The least prices and no chain; or chains that seem to gain, and the prices as far as they are known."""
        prices, parent = np.zeros(len(self.capacity)), np.full(len(self.capacity), -1)
        if not len(self.sources):
            return prices, []
        free, every = self.load < self.capacity, np.arange(len(self.capacity))
        chains: list[Chain] = []
        for _ in range(2 * len(every) + 2):  # a longest path without a ring passes every expert once
            margin = prices[self.sources][:, None] - self.loss
            best = margin.argmax(axis=0)
            price, source = margin[best, every], self.sources[best]
            room = rounding * np.maximum(prices[source], np.abs(self.loss[best, every]))
            dearer = price > prices + room
            if not dearer.any():
                break
            parent[dearer] = source[dearer]
            chains = [self._chain(ring, closed=True) for ring in _rings(parent)]
            if not chains:
                chains = self._ways_out(parent, np.flatnonzero(dearer & free))
            if chains:
                break
            prices = np.where(dearer & ~free, price, prices)
        return prices, chains

    def _ways_out(self, parent: Integers, ends: Integers) -> list[Chain]:
        """Chains that end at an expert with a place left; no two meet."""
        chains: list[Chain] = []
        passed: set[int] = set()
        for end in ends.tolist():
            way = [end]
            while parent[way[-1]] >= 0:
                way.append(int(parent[way[-1]]))
            if passed.isdisjoint(way):
                passed.update(way)
                chains.append(self._chain(way[::-1], closed=False))
        return chains

    def _chain(self, way: list[int], closed: bool) -> Chain:
        steps = zip(way if closed else way[:-1], way[1:] + way[:closed], strict=True)
        return [(int(self.mover[self.place[source], target]), source, target) for source, target in steps]

    def gain(self, chain: Chain) -> float:
        """What a chain of moves adds to the objective; its sign is exact."""
        taken = (float(self.scores[token, target]) for token, _, target in chain)
        left = (-float(self.scores[token, source]) for token, source, _ in chain)
        return math.fsum([*taken, *left])

    def apply(self, chains: list[Chain]) -> None:
        """Make the moves of chains that do not meet, so that their gains add up."""
        touched: set[int] = set()
        for token, source, target in (move for chain in chains for move in chain):
            touched.update(np.flatnonzero(self.held[token]).tolist())
            self.held[token, source], self.held[token, target] = False, True
            self.open[token, source], self.open[token, target] = self.scores[token, source], -np.inf
            self.load[source] -= 1
            self.load[target] += 1
            touched.add(target)
        fresh = [expert for expert in sorted(touched) if self.place[expert] < 0]
        self.place[fresh] = len(self.sources) + np.arange(len(fresh))
        self.sources = np.append(self.sources, np.array(fresh, np.int64))
        more = (len(fresh), len(self.capacity))
        self.loss = np.concatenate([self.loss, np.full(more, np.inf)])
        self.mover = np.concatenate([self.mover, np.zeros(more, np.int64)])
        for expert in touched:
            self._refresh(expert)


def _rings(parent: Integers) -> list[list[int]]:
    """The cycles of a graph in which every node has at most one parent, each from parent to child."""
    rings: list[list[int]] = []
    seen = np.full(len(parent), -1)
    for start in np.flatnonzero(parent >= 0).tolist():
        node, way = start, []
        while node >= 0 and seen[node] < 0:
            seen[node] = start
            way.append(node)
            node = int(parent[node])
        if node >= 0 and seen[node] == start:
            rings.append(way[way.index(node) :][::-1])
    return rings
