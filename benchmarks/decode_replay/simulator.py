"""One replay: a trace, a policy, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.solvers.baselines.decode_snapshot import Rule, Snapshot

from . import steps
from .traces import ROUNDS, Integers, Trace

TOKEN_SECONDS = 1.005e-7
POOL = 4
"""Waiting requests per worker."""


def base_seconds(slots: int) -> float:
    """What a step costs whatever the load: (0.6 ms·B + 35 ms)/16."""
    return (0.6e-3 * slots + 35e-3) / 16


@dataclass(frozen=True)
class Setting:
    """What a policy is told before a replay."""

    workers: int
    slots: int
    seed: int


Policy = Callable[[Setting], Rule]
"""Gives the rule of one replay, which may keep what it likes between steps."""


@dataclass(frozen=True)
class Timeline:
    """All that happened. Steps and requests are numbered from 0 in the order in which they come.

    heaviest, total, watts, made, queue: (steps,) heaviest load, sum of the loads, power of all workers, tokens made,
    requests left waiting. worker, joined, admitted, finished: (requests,) where each was, the steps in which it
    joined the pool and was admitted, and the last step that it was there. initial: how many were there at the start.
    decided, decision: (decisions,) the step and the seconds of each.
    """

    trace: Trace
    workers: int
    slots: int
    initial: int
    heaviest: NDArray[np.float64]
    total: NDArray[np.float64]
    watts: NDArray[np.float64]
    made: NDArray[np.float64]
    queue: NDArray[np.float64]
    worker: Integers
    joined: Integers
    admitted: Integers
    finished: Integers
    decided: Integers
    decision: NDArray[np.float64]

    def window(self) -> tuple[int, int]:
        """The first step without initial requests, and the first after which nobody waits and nobody will come."""
        first = int(self.finished[: self.initial].max(initial=-1)) + 1
        dry = int(self.admitted.max(initial=0))
        if dry <= first:
            raise ValueError(
                f"the queue runs dry at step {dry}, before the last initial request leaves at step {first}: more rounds"
            )
        return first, dry

    def seconds(self) -> NDArray[np.float64]:
        """(steps,) C + t·M."""
        return base_seconds(self.slots) + TOKEN_SECONDS * self.heaviest

    def metrics(self) -> Metrics:
        """The figures of the window; definitions in the package's docstring."""
        first, dry = self.window()
        seconds, span = self.seconds(), slice(first, dry)
        heaviest, total = self.heaviest[span], self.total[span]
        clock = np.concatenate([[0.0], np.cumsum(seconds)])
        level = base_seconds(self.slots) + TOKEN_SECONDS * total / self.workers
        made, spent = float(self.made[span].sum()), float(seconds[span].sum())
        left = (self.finished >= first) & (self.finished < dry)
        per_token = (clock[self.finished[left] + 1] - clock[self.admitted[left]]) / self.trace.output[left]
        entered = (self.admitted >= first) & (self.admitted <= dry) & (self.joined >= 0)
        waits = (self.admitted - self.joined)[entered]
        decision = self.decision[(self.decided >= first) & (self.decided <= dry)]
        return Metrics(
            steps=dry - first,
            imbalance=float((self.workers * heaviest - total).mean()),
            idle=float((1 - total / (self.workers * np.maximum(heaviest, 1))).mean()),
            tokens_per_second=made / spent,
            of_limit=float(level.sum()) / spent,
            tpot_mean=float(per_token.mean()),
            tpot_p95=float(np.quantile(per_token, 0.95)),
            makespan=float(clock[-1]),
            wait_p50=float(np.median(waits)),
            wait_p99=float(np.quantile(waits, 0.99)),
            wait_max=int(waits.max()),
            wait_longest=int((self.admitted - self.joined)[self.joined >= 0].max()),
            joules_per_token=float((self.watts[span] * seconds[span]).sum()) / made,
            decision_p50=float(np.median(decision)),
            decision_p99=float(np.quantile(decision, 0.99)),
        )


@dataclass(frozen=True)
class Metrics:
    """Figures of one replay: tokens, seconds, steps, joules per token; shares between 0 and 1."""

    steps: int
    imbalance: float
    idle: float
    tokens_per_second: float
    of_limit: float
    tpot_mean: float
    tpot_p95: float
    makespan: float
    wait_p50: float
    wait_p99: float
    wait_max: int
    wait_longest: int
    joules_per_token: float
    decision_p50: float
    decision_p99: float

    def figures(self) -> dict[str, float]:
        """By name."""
        return asdict(self)


def replay(
    trace: Trace,
    policy: Policy,
    workers: int = 16,
    slots: int = 72,
    seed: int = 0,
    rounds: float | None = None,
    foresight: str = "exact",
    full: bool = True,
    watch: Callable[[float], Any] | None = None,
) -> Metrics:
    """The metrics of one replay.

    rounds: requests per slot, in all; None takes what suits the trace (`traces.ROUNDS`, else 20). foresight: a key
    of `traces.FORESIGHT`. full: whether the workers start full, or empty with a full pool. watch: called now and then
    with the share that is done.

    Raises `ValueError` for a plan that no worker can carry out, and where the trace is too short for a window.
    """
    rounds = ROUNDS.get(trace.name, 20.0) if rounds is None else rounds
    drawn = trace.drawn(round(rounds * workers * slots), seed, foresight)
    rule = policy(Setting(workers, slots, seed))
    return simulate(drawn, rule, np.full(workers, slots), full=full, watch=watch).metrics()


def simulate(
    trace: Trace,
    rule: Rule,
    slots: Integers,
    pool: int | None = None,
    full: bool = True,
    watch: Callable[[float], Any] | None = None,
) -> Timeline:
    """Every step of a trace whose requests come in its own order.

    slots: (workers,). pool: waiting requests, 4 per worker if None. full: the first requests fill all slots, one
    worker after the other in turn, and are the initial ones; else those that wait at the start are.
    """
    workers, number = len(slots), len(trace)
    pool = POOL * workers if pool is None else pool
    initial, seats = min(number, int(slots.sum()) if full else 0), np.argsort(_turns(slots), kind="stable")
    active = np.zeros((5, int(slots.sum())), np.int64)
    at = np.repeat(np.arange(workers), slots)[seats][:initial]
    predicted = np.full(number, 1) if trace.predicted is None else trace.predicted
    active[:, :initial] = (at, trace.tokens[:initial], trace.output[:initial], predicted[:initial], np.arange(initial))
    queue = np.zeros((2, pool), np.int64)
    waiting = min(pool, number - initial)
    queue[0, :waiting] = np.arange(initial, initial + waiting)
    counters = np.array([initial, waiting, initial + waiting, 0, initial])
    held = np.bincount(at, minlength=workers)
    served = np.full((3, number), -1)
    served[steps.ADMITTED, :initial], served[steps.AT, :initial] = 0, at
    record = np.zeros((5, 1 << 13))
    joined = np.full(number, -1)
    decided: list[int] = []
    decision: list[float] = []
    nobody = np.zeros(0, np.int64)

    def decide() -> Integers:
        snapshot = _snapshot(counters, active, queue, slots, trace, predicted)
        started = time.perf_counter()
        placed = rule(snapshot)
        decision.append(time.perf_counter() - started)
        decided.append(int(counters[steps.STEP]))
        if placed.shape != snapshot.waiting_tokens.shape or placed.dtype != np.int64:
            raise ValueError(f"step {counters[steps.STEP]}: the plan is an array of {placed.dtype}, {placed.shape}")
        admitted = np.flatnonzero(placed >= 0)
        joined[queue[0, admitted]] = queue[1, admitted]
        if watch is not None and len(decided) % 64 == 0:
            watch(float(counters[steps.NEXT]) / number)
        return placed

    placed = decide() if waiting and initial < slots.sum() else nobody
    while True:
        why = steps.advance(
            counters, active, queue, placed, slots, trace.tokens, trace.output, predicted, held, served, record
        )
        if why == steps.DONE:
            break
        if why in _FAULTS:
            raise ValueError(f"step {counters[steps.STEP]}: {_FAULTS[why]}")
        if why == steps.FULL:
            record = np.hstack([record, np.zeros_like(record)])
        placed = decide() if why == steps.DECIDE else nobody
    made = int(counters[steps.STEP])
    return Timeline(
        trace, workers, int(slots.max()), initial if full else waiting, *record[:, :made],
        worker=served[steps.AT], joined=joined, admitted=served[steps.ADMITTED], finished=served[steps.FINISHED],
        decided=np.array(decided, np.int64), decision=np.array(decision),
    )  # fmt: skip


_FAULTS = {
    steps.NO_WORKER: "the plan names a worker that there is not",
    steps.NO_SLOT: "the plan gives a worker more requests than it has slots",
    steps.STUCK: "the plan admits nobody although all workers are idle",
}


def _turns(slots: Integers) -> Integers:
    """The turn of each slot, numbered worker by worker, if every worker takes one request a turn."""
    return np.concatenate([np.arange(count) for count in slots]) if len(slots) else slots


def _snapshot(
    counters: Integers, active: Integers, queue: Integers, slots: Integers, trace: Trace, predicted: Integers
) -> Snapshot:
    """Copies, so that a policy may keep them."""
    here, waiting = int(counters[steps.ACTIVE]), int(counters[steps.WAITING])
    requests, known = queue[0, :waiting], trace.predicted is not None
    return Snapshot(
        slots=slots,
        worker=active[steps.WORKER, :here].copy(),
        tokens=active[steps.TOKENS, :here].copy(),
        remaining=active[steps.PREDICTED, :here].copy() if known else None,
        waiting_tokens=trace.tokens[requests],
        waiting_remaining=predicted[requests] if known else None,
        waited=counters[steps.STEP] - queue[1, :waiting],
    )
