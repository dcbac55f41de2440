"""Decode allocation by placing the longest first and moving requests while that helps; family `makespan`.

What the spec's admission allows is decided first: who is admitted for certain, and who may be exchanged for whom.
Whatever else could be admitted is in the hands of the search.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...specs.decode_allocation import Active, DecodeAllocation, DecodePlan, Waiting
from ..algorithm import Algorithm, Found
from ..control import Control
from ..decode_memory import KVCaches, kv_caches
from ..formulation import Evidence
from ..program import Floats, Integers
from . import makespan, makespan_bound, makespan_loads

Flags = NDArray[np.bool_]

SEARCH_GAP = 1e-3
"""The gap that `auto` asks for."""
EVEN = 6.25e-8
"""What the unevenness of loads counts beside the heaviest worker: it decides between plans that cost the same.

A worker's share of it does not depend on how many there are, as what the search takes for a gain does not: a request is
not passed over for a difference of less than about 0.4 % of the heaviest load, which no later step would notice.
"""
SLICE = 20_000
"""Work between two looks at the clock: about 20 µs."""
ALL = 2**62
"""More work than any search does."""
ROUNDS, WORK = 10, 80_000
"""Random exchanges that a finished search goes on from, and work in doing so, at most: about 0.1 ms."""
OPTIONS = 4
"""Ways to draw the line behind which nobody is admitted that are tried, at most."""
PER_ENTRY = {"step_time": 5e-6, "imbalance": 3e-4}
"""Seconds of search per request, worker with a slot and entry of the horizon."""
PATIENCE = 60.0
"""Seconds from which on a search is not worth trying unless it is asked for."""
_begin: Callable[..., None] = makespan.begin
_improve: Callable[..., None] = makespan.improve
_shake: Callable[..., int] = makespan.shake
NOTHING = np.zeros((0, 0))
NO_UNITS = np.zeros((0, 0), np.int64)
NO_STEPS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Step:
    """A step in the arrays of the machine code: (horizon × workers), (horizon × waiting) tables."""

    spec: DecodeAllocation
    held: Integers
    slots: Integers
    speed: Floats
    weight: Floats
    active: Floats
    share: Floats
    size: Floats
    saved: Floats
    queue: Integers
    overdue: Flags
    memory: KVCaches | None


@dataclass(frozen=True)
class Choice:
    """Whom a search may exchange: `fixed` are admitted and stay, those at `cut` in the queue or behind stay out."""

    fixed: Flags
    cut: int


class Placement:
    """One attempt: who is where, and what is left, as the search changes it in place."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.worker = np.full(len(step.queue), -1, np.int64)
        self.slots = step.slots.copy()
        self.load = step.active.copy()
        memory = step.memory
        self.pace = 1.0 / step.speed
        idle = step.spec.minimise == "imbalance"
        self.tall, self.worth = (float(step.speed.sum()), 1.0) if idle else (1.0, 0.0)
        height = (step.active * self.pace).max(axis=1, initial=0.0)
        usual = float(step.speed.sum()) / max(len(step.speed), 1) or 1.0
        self.even = EVEN * step.weight * self.tall / (usual * (height + 1.0))
        self.counter = np.zeros(4, np.int64)
        self.need = self.halves = self.spared = NO_UNITS
        self.room = NO_UNITS
        if memory is not None:
            self.need, self.halves, self.spared = memory.tables()
            self.room = memory.room.T.copy()

    def begin(self, order: Integers, guarded: Flags) -> None:
        """Place requests in this order; one that is guarded and fits nowhere blocks the rest."""
        step = self.step
        _begin(
            order, step.weight, self.tall, self.worth, self.even, self.pace, step.size, step.share, step.saved,
            self.need, self.halves, self.spared, guarded, self.worker, self.slots, self.load, self.room,
        )  # fmt: skip

    def cost(self, fee: Floats) -> float:
        """What the search minimises."""
        weighed = self.step.weight, self.tall, self.worth, self.even, self.pace
        return makespan.cost(*weighed, self.load, self.worker, fee)

    def move(self, fixed: Flags, fee: Floats, work: int) -> bool:
        """Move and exchange until nothing helps; False if the work is done before. Called again, it goes on."""
        self.counter[makespan.LEFT] = work
        _improve(*(*self._state(fixed, fee), self.counter))
        return bool(self.counter[makespan.LEFT] > 0)

    def improve(self, choice: Choice, seed: int, control: Control) -> bool:
        """Move until nothing helps, then go on from random exchanges; False if time ran out before."""
        limited = control.time_limit is not None
        fee = np.zeros(len(self.step.queue))
        fee[self.step.queue[choice.cut :]] = np.inf
        self.counter[:] = 0
        while not self.move(choice.fixed, fee, SLICE if limited else ALL):
            if control.remaining <= 0:
                return False
        state = self._state(choice.fixed, fee)
        if not limited:
            _shake(*(*state, ROUNDS, WORK, seed))
            return True
        for _ in range(ROUNDS):
            if control.remaining <= 0:
                return False
            seed = _shake(*(*state, 1, WORK // ROUNDS, seed))
        return True

    def _state(self, fixed: Flags, fee: Floats) -> tuple[Any, ...]:
        step = self.step
        return (
            step.weight, self.tall, self.worth, self.even, self.pace, step.size, step.share, step.saved,
            self.need, self.halves, self.spared, fixed, fee, self.worker, self.slots, self.load, self.room,
        )  # fmt: skip


class DecodeSearch(Algorithm[DecodeAllocation, DecodePlan]):
    """Longest first, then moves, exchanges and replacements over the whole horizon."""

    name: ClassVar[str] = "makespan search"

    def refuses(self, spec: DecodeAllocation) -> str | None:
        """Tables of more than 2²⁸ entries, and KV limits that 64 bits cannot count."""
        entries = len(spec.horizon) * (len(spec.workers) + len(spec.waiting))
        if entries > 1 << 28:
            return f"tables of {entries:,} loads do not fit into memory; name fewer steps, far apart"
        if spec.workers.kv_capacity is not None and (memory := kv_caches(spec)) is not None and not memory.short:
            return "KV limits against loads of so many digits need more than 64 bits"
        return None

    def gap(self, spec: DecodeAllocation) -> float:
        """0.1 %, as for the program."""
        return SEARCH_GAP

    def search_seconds(self, spec: DecodeAllocation) -> float:
        """By the entries of the program: measured on steps of replayed traces. Infinite from `PATIENCE` on."""
        held = np.bincount(spec.active.worker, minlength=len(spec.workers))
        entries = float(len(spec.waiting)) * float(np.count_nonzero(spec.workers.slots > held)) * len(spec.horizon)
        seconds = 5e-3 + PER_ENTRY[spec.minimise] * entries
        return seconds if seconds < PATIENCE else math.inf

    def solve(self, spec: DecodeAllocation, gap: float, seed: int, threads: int, control: Control) -> Found[DecodePlan]:
        """The best placement found; without a time limit the same one for the same spec and seed.

        A spec without a choice (nothing waits, no slot) is answered like any other: by a plan of −1.
        """
        step = _step(spec)
        worker, finished = _placed(step, seed, control)
        load, height, objective = _report(step, worker)
        number = int(np.count_nonzero(worker >= 0))
        plan = DecodePlan(name=spec.name, worker=worker, load=load, step_time=height)
        settled = number >= _most(step)
        evidence = _evidence(step, number, objective, height, settled)
        return Found(plan, evidence, self.name, "solved" if finished else control.why_stopped(), settled)


def decide(spec: DecodeAllocation, seed: int = 0) -> Integers:
    """(waiting,) the worker of each request, without a plan and its proof: what a decision itself takes."""
    return _placed(_step(spec), seed, Control())[0]


def _placed(step: Step, seed: int, control: Control) -> tuple[Integers, bool]:
    """The best of the attempts, by the number admitted and then by cost; and whether all were finished."""
    best: Placement | None = None
    rank, finished, nothing = (0, math.inf), True, np.zeros(len(step.queue))
    for choice, order in (starts := _starts(step)):
        attempt, finished = _attempt(step, choice, order, seed, control)
        if len(starts) > 1:
            reached = (-int(np.count_nonzero(attempt.worker >= 0)), attempt.cost(nothing))
            if best is not None and reached >= rank:
                continue
            rank = reached
        best = attempt
        if not finished:
            break
    assert best is not None
    return best.worker, finished


def _step(spec: DecodeAllocation) -> Step:
    """The state that a spec describes. O(active + waiting·horizon + workers·horizon)."""
    workers, points, horizon, waiting = len(spec.workers), len(spec.horizon), spec.horizon, spec.waiting
    requests = len(waiting)
    active, held = np.empty((points, workers)), np.empty(workers, np.int64)
    makespan_loads.project(
        spec.active.worker, spec.active.tokens, *_predictions(spec.active), horizon, spec.growth, active, held
    )
    share, size = np.empty((points, requests)), np.empty((points, requests))
    makespan_loads.measure(waiting.tokens, *_predictions(waiting), horizon, spec.growth, share, size)
    return Step(
        spec=spec,
        held=held,
        slots=np.maximum(spec.workers.slots - held, 0),
        speed=np.ones(workers) if spec.workers.speed is None else spec.workers.speed,
        weight=spec.discount ** np.arange(points, dtype=np.float64),
        active=active,
        share=share,
        size=size,
        saved=NOTHING if waiting.affinity is None or not requests else np.ascontiguousarray(waiting.affinity.T),
        queue=np.arange(requests) if waiting.priority is None else np.argsort(-waiting.priority, kind="stable"),
        overdue=_overdue(spec),
        memory=kv_caches(spec) if requests else None,
    )


def _overdue(spec: DecodeAllocation) -> Flags:
    """(waiting,) whom nobody may overtake, where only the overdue are protected."""
    waiting = spec.waiting
    if spec.admission == "fifo":
        return np.zeros(len(waiting), np.bool_)
    if waiting.waited is None:
        return np.full(len(waiting), spec.overdue_after <= 0)
    return waiting.waited >= spec.overdue_after


def _predictions(requests: Active | Waiting) -> tuple[Integers, int]:
    """Predicted steps one after the other, and how many there are per request."""
    remaining = requests.remaining
    if remaining is None or not len(remaining):
        return NO_STEPS, 0
    return remaining.reshape(-1), 1 if remaining.ndim == 1 else 2


def _starts(step: Step) -> list[tuple[Choice, Integers]]:
    """What to search from: who stays and who may be exchanged, and the requests to place first, longest first."""
    requests = len(step.queue)
    most = min(int(step.slots.sum()), requests)
    total = step.weight @ step.size
    if step.memory is not None:
        return [(Choice(_protected(step), requests), np.argsort(total, kind="stable"))]
    if step.spec.admission == "fifo" or most == requests:
        fixed = np.ones(requests, np.bool_)
        return [(Choice(fixed, requests), _longest(total, step.queue[:most]))]
    late = np.flatnonzero(step.overdue[step.queue])
    cuts = [*late[late >= most].tolist(), requests]
    ahead = int((late < most).sum())
    cuts = [cut for extra, cut in enumerate(cuts) if ahead + extra <= most]
    if len(cuts) > OPTIONS:
        cuts = [cuts[round(place)] for place in np.linspace(0, len(cuts) - 1, OPTIONS)]
    starts: list[tuple[Choice, Integers]] = []
    for cut in cuts:
        fixed = np.zeros(requests, np.bool_)
        fixed[step.queue[late[late < cut]]] = True
        rest = step.queue[:cut][~fixed[step.queue[:cut]]]
        chosen = np.concatenate([np.flatnonzero(fixed), rest[: most - int(fixed.sum())]])
        starts.append((Choice(fixed, cut), _longest(total, chosen)))
    return starts


def _longest(total: Floats, chosen: Integers) -> Integers:
    return chosen[np.argsort(-total[chosen], kind="stable")]


def _protected(step: Step) -> Flags:
    """Whom nobody may overtake: all under `fifo`, the overdue else."""
    return step.overdue if step.spec.admission == "window" else np.ones(len(step.queue), np.bool_)


def _attempt(step: Step, choice: Choice, order: Integers, seed: int, control: Control) -> tuple[Placement, bool]:
    """Place, then move until nothing helps; whether that was finished.

    Under KV limits the protected come first, and whoever fits in the room that moves have made is let in.
    """
    placement, guarded = Placement(step), _protected(step)
    if step.memory is None:
        placement.begin(order, np.zeros(len(guarded), np.bool_))
        return placement, placement.improve(choice, seed, control)
    first = step.queue[guarded[step.queue]]
    while True:
        before = int((placement.worker >= 0).sum())
        placement.begin(first, guarded)
        out = np.flatnonzero((placement.worker < 0)[step.queue] & guarded[step.queue])
        cut = int(out[0]) if len(out) else len(step.queue)
        place = np.empty(len(step.queue), np.int64)
        place[step.queue] = np.arange(len(place))
        placement.begin(order[(place[order] < cut) & ~guarded[order]], guarded)
        if int((placement.worker >= 0).sum()) == before:
            return placement, True
        if not placement.improve(Choice(guarded, cut), seed, control):
            return placement, False


def _report(step: Step, worker: Integers) -> tuple[Floats, Floats, float]:
    """Loads (workers × horizon) and step times after admission, and the objective."""
    load, height = step.active.T.copy(), np.empty(len(step.weight))
    makespan_bound.settle(worker, step.size, step.share, step.saved, step.speed, load, height)
    idle = step.spec.minimise == "imbalance"
    return load, height, makespan_bound.objective(step.weight, step.speed, height, load, idle)


def _most(step: Step) -> int:
    """How many can be admitted at most, by slots and by what the smallest requests take of the KV caches."""
    most = min(int(step.slots.sum()), len(step.queue))
    if step.memory is None or most == 0:
        return most
    need, halves, spared = step.memory.tables()
    open_ = np.flatnonzero(step.slots)
    if spared.shape[0]:
        need = need - spared[open_].max(axis=0) * halves // 2
    taken = np.cumsum(np.sort(need, axis=1), axis=1)
    for point, sums in enumerate(taken):
        room = step.memory.room[open_, point]
        each = np.minimum(np.searchsorted(sums, room, side="right"), step.slots[open_])
        most = min(most, int(each.sum()), int(np.searchsorted(sums, room.sum(), side="right")))
    return most


def _evidence(step: Step, number: int, objective: float, height: Floats, settled: bool) -> Evidence:
    """The counting bound, rounded down by more than its sums can be off."""
    spec = step.spec
    most = min(int(step.slots.sum()), len(step.queue))
    place = np.empty(len(step.queue), np.int64)
    place[step.queue] = np.arange(len(place))
    sure = _protected(step) & (place < number)
    idle = spec.minimise == "imbalance"
    bound = makespan_bound.bound(
        step.weight, step.speed, step.slots, step.active, step.size, step.share, step.saved,
        sure, number, number if step.memory is None else most, idle,
    )  # fmt: skip
    total = float(step.weight @ height) * (float(step.speed.sum()) if idle else 1.0)
    notes = () if settled else (f"{number} requests are admitted, which was not proved to be the largest number",)
    if idle:
        notes = (*notes, "the gap is relative to the weighted capacity of a step, since imbalance tends to zero")
    return Evidence(objective, min(bound - 1e-13 * total, objective), "threshold", notes)


ALGORITHM = DecodeSearch
