"""A batch by discrete events: one driver, many workers, chunks between them, and measured costs.

The driver is one thread: it prepares chunks, hands one to each worker that is free, and writes what comes back, in
the order in which these things come up. The code of `equipoise.clients.batch.pace` says how large chunks are, by the
simulated clock; two chunks per worker are in flight. A worker tells its results some at a time. Time begins when the
workers are ready. That a chunk which takes too long gives its last specs back is left out.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.clients.batch.pace import MOST, Pace
from equipoise.clients.batch.sharing import CHUNKS_OF_A_WORKER, CHUNKS_PER_WORKER
from equipoise.server.workers.chunks import TOLD_EVERY

LOOKS = 10
"""Messages of one chunk that are told apart, at most; more of them come together, at their summed cost."""


@dataclass(frozen=True)
class Costs:
    """What was measured: seconds, and bytes.

    driver_spec: of the driver for a spec, from its line to the line of its result. driver_chunk: of the driver for a
    chunk. hand_over: from the end of one chunk to the start of the next that is ready, beside the driver's work.
    worker_spec: of a worker for a spec, beside its solve. worker_start: until a worker that is replaced is there again.
    spec_bytes: of a spec and its result. bandwidth: of the driver's network, in bytes per second.
    """

    driver_spec: float
    driver_chunk: float
    hand_over: float
    worker_spec: float
    worker_start: float
    spec_bytes: float
    bandwidth: float

    def sharing(self, cores: int, workers: int, solve: float) -> float:
        """How much slower workers are where driver and workers take turns on too few cores; 1 where they need not."""
        if workers < cores:
            return 1.0
        busy = self.worker_spec + solve
        return workers * (busy + self.driver_spec) / (cores * busy)


@dataclass(frozen=True)
class Outlook:
    """What a batch came to. wall: seconds. The others are shares of what all workers could have done in that time:
    solving, reading and checking and writing (beside), waiting for the driver or the network (waiting), waiting for the
    last ones at the end (tail); busy is the share of time in which the driver had work."""

    wall: float
    solving: float
    beside: float
    waiting: float
    tail: float
    busy: float
    chunk: float
    """Specs in a chunk, on average."""
    lost: int
    """Workers that died."""

    @property
    def limit(self) -> str:
        """What costs the most."""
        waiting = "driver" if self.busy > 0.75 else "hand-over"
        costs = {waiting: self.waiting, "beside the solve": self.beside, "tail": self.tail}
        return max(costs, key=lambda name: costs[name])


@dataclass(slots=True)
class _Chunk:
    """Specs from one number to another. alone: one after the other, each a chunk, since they lost their worker."""

    start: int
    stop: int
    alone: bool = False


class Simulation:
    """One batch. seconds: solve time of each spec. failures: of a worker, per second. chunk: specs in each chunk; as
    the pace has it, if absent."""

    def __init__(
        self,
        seconds: NDArray[np.float64],
        workers: int,
        costs: Costs,
        failures: float = 0.0,
        chunk: int | None = None,
        seed: int = 0,
    ) -> None:
        self._ends: list[float] = np.concatenate([[0.0], np.cumsum(seconds + costs.worker_spec)]).tolist()
        self._solving = float(seconds.sum())
        self._workers, self._costs, self._failures = workers, costs, failures
        self._chunk = chunk
        self._random = np.random.default_rng(seed)
        self._now = self._driver_free = self._driver_busy = self._network_free = 0.0
        self._pace = Pace(workers, lambda: self._now)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = 0
        self._next = self._done = self._in_flight = self._chunks = self._lost = self._missing = 0
        self._held: _Chunk | None = None
        self._line = deque[_Chunk]()
        self._served = [0] * workers
        self._idle = deque((worker, 0.0) for worker in range(workers))
        self._tail_since = 0.0

    def run(self) -> Outlook:
        """The whole batch."""
        self._prepare()
        while self._events:
            self._now, _, happens, arguments = heapq.heappop(self._events)
            happens(*arguments)
        wall = self._now
        whole = self._workers * wall
        tail = sum(wall - max(since, self._tail_since) for _, since in self._idle)
        beside = (len(self._ends) - 1) * self._costs.worker_spec
        solving = self._solving / whole
        return Outlook(
            wall,
            solving,
            beside / whole,
            max(1.0 - solving - (beside + tail) / whole, 0.0),
            tail / whole,
            self._driver_busy / wall,
            (len(self._ends) - 1) / self._chunks,
            self._lost,
        )

    # -- the driver --------------------------------------------------------------------------------------------------

    def _at(self, when: float, happens: Callable[..., None], *arguments: Any) -> None:
        self._numbers += 1
        heapq.heappush(self._events, (when, self._numbers, happens, arguments))

    def _work(self, seconds: float, happens: Callable[..., None], *arguments: Any) -> None:
        """Have the driver do something, after all that it has to do already."""
        self._driver_free = max(self._now, self._driver_free) + seconds
        self._driver_busy += seconds
        self._at(self._driver_free, happens, *arguments)

    def _prepare(self) -> None:
        """Take the next chunk: its size is settled before there is room for it."""
        if self._next == len(self._ends) - 1:
            self._tail_since = self._now
            return
        stop = min(self._next + (self._chunk or min(self._pace.tasks, MOST)), len(self._ends) - 1)
        self._held = _Chunk(self._next, stop)
        self._next = stop
        self._send()

    def _send(self) -> None:
        if self._held is not None and self._in_flight < CHUNKS_PER_WORKER * self._workers:
            chunk, self._held = self._held, None
            self._in_flight += 1
            self._work(0.5 * self._costs.driver_spec * (chunk.stop - chunk.start), self._sent, chunk)

    def _sent(self, chunk: _Chunk) -> None:
        self._line.append(chunk)
        self._match()
        self._prepare()

    def _match(self) -> None:
        while self._line and self._idle:
            chunk, (worker, _) = self._line.popleft(), self._idle.popleft()
            self._chunks += 1
            self._work(self._costs.driver_chunk, self._handed, chunk, worker)

    def _handed(self, chunk: _Chunk, worker: int) -> None:
        specs = 1 if chunk.alone else chunk.stop - chunk.start
        costs = self._costs
        self._network_free = max(self._now, self._network_free) + specs * costs.spec_bytes / costs.bandwidth
        self._solve(chunk, worker, self._network_free + costs.hand_over)

    def _told(self, specs: int) -> None:
        self._work(0.5 * self._costs.driver_spec * specs, self._written, specs)

    def _written(self, specs: int) -> None:
        self._done += specs
        self._pace.done(specs, self._workers - len(self._idle) - self._missing)

    def _ended(self) -> None:
        self._in_flight -= 1
        self._send()

    # -- a worker ----------------------------------------------------------------------------------------------------

    def _solve(self, chunk: _Chunk, worker: int, begin: float) -> None:
        stop = chunk.start + 1 if chunk.alone else chunk.stop
        took = self._ends[stop] - self._ends[chunk.start]
        dies = self._random.exponential(1.0 / self._failures) if self._failures else np.inf
        if dies < took:
            whole = bisect_right(self._ends, self._ends[chunk.start] + dies) - 1
            self._tell(chunk.start, whole, begin)
            self._lost += 1
            self._at(begin + dies, self._died, replace(chunk, start=whole, alone=True), worker)
            return
        self._tell(chunk.start, stop, begin)
        self._at(begin + took, self._finished, replace(chunk, start=stop), worker)

    def _tell(self, start: int, stop: int, begin: float) -> None:
        """Have the results of some specs told as they come."""
        if stop == start:
            return
        took = self._ends[stop] - self._ends[start]
        messages = max(1, min(round(took / TOLD_EVERY), stop - start, LOOKS))
        marks = np.linspace(start, stop, messages + 1).astype(int)
        for first, last in zip(marks[:-1].tolist(), marks[1:].tolist(), strict=True):
            self._at(begin + self._ends[last] - self._ends[start], self._told, last - first)

    def _finished(self, chunk: _Chunk, worker: int) -> None:
        self._served[worker] += 1
        if self._served[worker] % CHUNKS_OF_A_WORKER:
            self._idle.append((worker, self._now))
        else:
            self._replace(worker)
        if chunk.alone and chunk.start < chunk.stop:
            self._line.append(chunk)
        else:
            self._ended()
        self._match()

    def _died(self, chunk: _Chunk, worker: int) -> None:
        self._replace(worker)
        self._line.append(chunk)
        self._match()

    def _replace(self, worker: int) -> None:
        self._missing += 1
        self._at(self._now + self._costs.worker_start, self._joined, worker)

    def _joined(self, worker: int) -> None:
        self._missing -= 1
        self._idle.append((worker, self._now))
        self._match()


def lognormal(count: int, mean: float, sigma: float, seed: int, longest: float = 3600.0) -> NDArray[np.float64]:
    """Solve times of that mean, the longest cut off by a time limit."""
    drawn = np.random.default_rng(seed).lognormal(0.0, sigma, count)
    return np.minimum(drawn * (mean / drawn.mean()), longest)
