"""The tokens of a task at the prices of the moment, asked by several threads, and for as long as there is time."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..control import GRACE, POLL, Control
from ..program import Floats, Integers
from .matching_prices import BINS, CHUNK, answers, gaps, survey, windows

LISTED: Final = 10
"""Experts that are listed of a token, about, beyond those that it wants."""
WIDTH, SAMPLE_WIDTH = 24, 38
"""Experts that are listed at most beyond those: in a sample prices move far, and more come into question."""
SLICE: Final = 4 * CHUNK
"""Rows between two looks at the clock."""


class Interrupted(Exception):
    """The time is up, or the watcher wants no more."""


class Workers:
    """Shares rows among threads, and stops when it is time; machine code releases the interpreter lock."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._control = Control()
        self._looked = 0.0
        self._stopped = False

    def heed(self, control: Control) -> None:
        """Stop when this says so."""
        self._control, self._looked, self._stopped = control, time.perf_counter(), False

    def look(self) -> None:
        """Raise `Interrupted` if the time is up; show the watcher where the solve stands, if it is time for that."""
        control = self._control
        if control.time_limit is None and control.watch is None:
            return
        now = time.perf_counter()
        due = now - self._looked >= POLL
        if due:
            self._looked = now
        if control.remaining <= 0 or (due and control.look()):
            self._stopped = True
            raise Interrupted

    def enter(self, stage: str) -> None:
        """Tell the watcher what begins."""
        self._control.enter(stage)

    def report(self, bound: float) -> None:
        """Tell the watcher a bound of the optimum."""
        self._control.report(None, bound)

    def allow(self) -> None:
        """Give so much more time that something can be completed."""
        self.heed(Control(GRACE))

    def split(self, rows: int, work: Callable[[int, int, int], None], whole: bool = False) -> None:
        """Call work(part, first, last) for slices of every part of the rows, one part per thread; slices end where
        chunks do. Raises `Interrupted`, with the work half done, unless it is to be done on the whole."""
        chunks = -(-rows // CHUNK)
        parts = min(self.threads, max(chunks, 1))
        edges = [min(chunks * part // parts * CHUNK, rows) for part in range(parts + 1)]

        def run(part: int) -> None:
            for first in range(edges[part], edges[part + 1], SLICE):
                if part == 0 and not whole:
                    self.look()
                elif self._stopped and not whole:
                    return
                work(part, first, min(first + SLICE, edges[part + 1]))

        if parts == 1:
            run(0)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads - 1, "equipoise-matching")
        others = [self._pool.submit(run, part) for part in range(1, parts)]
        try:
            run(0)
        finally:
            for other in others:
                other.result()


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
        again, self.seen = self.seen, False  # lists that are half done are no guess

        def work(part: int, first: int, last: int) -> None:
            for start_ in range(first, last, CHUNK):
                end = min(start_ + CHUNK, last)
                survey(self.scores, self.wanted, self.stride, start_, end, prices, depth, again, *lists, loads[part])

        self.workers.split(self.rows, work)
        self.load, self.seen = loads.sum(axis=0), True
        bound = self.bound(prices)
        if self.stride == 1:
            self.workers.report(bound)
        return bound

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
