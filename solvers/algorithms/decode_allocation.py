"""Decode allocation by placing the longest first and moving requests while that helps; family `makespan`.

Who may be placed is settled before (`decode_state`). Under `imbalance` the plan that comes of it is searched once more
with all workers allowed to rise: a higher step that several of them fill together is no single move away.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from ...specs.decode_allocation import DecodeAllocation, DecodePlan
from ..algorithm import Algorithm, Found
from ..control import Control
from ..decode_memory import kv_units
from ..formulation import Evidence
from ..program import Integers
from . import makespan, makespan_bound
from .decode_state import Step, starts, survey
from .makespan_state import Choice

SEARCH_GAP = 1e-3
"""The gap that `auto` asks for."""
SLICE, HASTY_SLICE = 5_000_000, 20_000
"""Work between two looks at the clock, about 5 ms and 20 µs: the second where `HASTY` seconds or less are left. Where a
search is cut changes what it finds, so a limit that is not near leaves the plan as it is without one."""
HASTY = 0.02
ROUNDS, WORK = 10, 80_000
"""Random exchanges that a finished search goes on from, and work in doing so, at most: about 0.1 ms."""
LIFT = 0.5
"""How far the step is raised to search a plan once more, of what fills the workers with slots at no loss."""
PER_ENTRY = {"step_time": 5e-6, "imbalance": 3e-4}
"""Seconds of search per request, worker with a slot and entry of the horizon."""
PATIENCE = 60.0
"""Seconds from which on a search is not worth trying unless it is asked for."""
NO_UNITS = np.zeros((0, 0), np.int64)
NOBODY = np.zeros(0, np.int64)


class Placement:
    """One attempt: who is where, and what is left, as the search changes it in place; and what it costs."""

    def __init__(self, step: Step, hasty: bool = False) -> None:
        self.step, self.hasty = step, hasty
        self.worker = np.full(len(step.queue), -1)
        self.slots = step.slots.copy()
        self.load = step.active.copy()
        self.counter = np.zeros(makespan.COUNTERS, np.int64)
        self.floor = np.zeros(len(step.weight))
        self.cost = math.inf
        self.memory, self.room = (NO_UNITS, NO_UNITS, NO_UNITS), NO_UNITS
        if step.memory is not None:
            self.memory, self.room = step.memory.tables, step.memory.room.T.copy()

    @property
    def number(self) -> int:
        """How many are admitted."""
        return int(np.count_nonzero(self.worker >= 0))

    def search(self, choice: Choice, order: Integers = NOBODY, work: int = 0, rounds: int = 0, shakes: int = 0) -> bool:
        """Place requests in this order, then move and exchange until nothing helps, then go on from random exchanges.

        work: that moves may take, after which the search goes on where it stood when called again. rounds, shakes:
        random exchanges, and the work in going on from them. Returns False if the work was done before.
        """
        step, counter = self.step, self.counter
        counter[makespan.LEFT], counter[makespan.ROUNDS], counter[makespan.WORK] = work, rounds, shakes
        self.cost = makespan.search(
            order, step.guarded, step.weight, step.tall, step.worth, step.even, self.floor, step.pace,
            step.size, step.share, step.saved, *self.memory, *choice,
            self.worker, self.slots, self.load, self.room, counter,
        )  # fmt: skip
        return bool(counter[makespan.LEFT] > 0)

    def improve(self, choice: Choice, seed: int, control: Control, order: Integers = NOBODY) -> bool:
        """Place, move until nothing helps, then go on from random exchanges; False if time ran out before."""
        self.counter[:] = 0
        self.counter[makespan.RANDOM] = seed
        if not self.hasty:
            return self.settle(choice, control, ROUNDS, WORK, order)
        self.search(choice, order)
        if not self.settle(choice, control):
            return False
        for _ in range(ROUNDS):
            if control.remaining <= 0:
                return False
            self.search(choice, work=HASTY_SLICE, rounds=1, shakes=WORK // ROUNDS)
        return True

    def settle(
        self, choice: Choice, control: Control, rounds: int = 0, shakes: int = 0, order: Integers = NOBODY
    ) -> bool:
        """Place in this order, move until nothing helps, go on from random exchanges; False if time ran out before."""
        work = HASTY_SLICE if self.hasty else SLICE
        while not self.search(choice, order, work, rounds, shakes):
            if control.look():
                return False
            order = NOBODY
        return True

    def lifted(self, choice: Choice, seed: int, control: Control) -> tuple[Placement, bool]:
        """The same placement, searched while the heaviest worker may rise, and then as ever; and whether that was
        finished.

        Raised by d, a step is filled at no loss if the workers with slots take up what the others then lack: so d is
        at most what the first are idle now per worker without a slot, and no more than the largest request.
        """
        step, lifted = self.step, Placement(self.step, self.hasty)
        lifted.worker, lifted.slots, lifted.load = self.worker.copy(), self.slots.copy(), self.load.copy()
        height, open_ = (self.load * step.pace).max(axis=1), step.slots > 0
        idle = (height[:, None] * step.speed - self.load)[:, open_].sum(axis=1)
        full = float(step.speed[~open_].sum())
        lifted.floor = height + LIFT * np.minimum(idle / full if full else np.inf, step.size.max(axis=1))
        if not lifted.settle(choice, control):
            return self, False
        lifted.floor = np.zeros(len(height))
        finished = lifted.improve(choice, seed, control)
        return (lifted if lifted.cost < self.cost else self), finished


class DecodeSearch(Algorithm[DecodeAllocation, DecodePlan]):
    """Longest first, then moves, exchanges and replacements over the whole horizon."""

    name: ClassVar[str] = "makespan search"

    def refuses(self, spec: DecodeAllocation) -> str | None:
        """Tables of more than 2²⁸ entries, and KV limits that 64 bits cannot count."""
        entries = spec.horizon.size * (spec.workers.slots.size + spec.waiting.tokens.size)
        if entries > 1 << 28:
            return f"tables of {entries:,} loads do not fit into memory; name fewer steps, far apart"
        if spec.workers.kv_capacity is not None and not kv_units(spec).short:
            return "KV limits against loads of so many digits need more than 64 bits"
        return None

    @classmethod
    def quick(cls, spec: DecodeAllocation) -> bool:
        """Up to 16 workers of 72 slots, 64 waiting requests and 8 steps, without KV limits, and without affinity, with
        which requests of one size can take 2.2 ms: 0.07 ms, 1.3 ms at most."""
        sizes = len(spec.workers), len(spec.waiting), len(spec.active), spec.horizon.size
        small = all(size <= most for size, most in zip(sizes, (16, 64, 16 * 72, 8), strict=True))
        alike = spec.workers.kv_capacity is None and spec.waiting.affinity is None
        return small and spec.minimise == "step_time" and alike

    @classmethod
    def numbers(cls, spec: DecodeAllocation) -> int:
        """Loads of workers and sizes of requests at every step of the horizon."""
        return spec.horizon.size * (2 * len(spec.workers) + 2 * len(spec.waiting))

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
        step = survey(spec)
        best, finished = _placed(step, seed, control)
        load, height = np.empty((len(step.slots), len(step.weight))), np.empty(len(step.weight))
        idle = spec.minimise == "imbalance"
        number, objective, bound = makespan_bound.verdict(
            best.worker, 0 if step.memory is None else step.most, step.weight, step.speed, step.slots, step.active,
            step.size, step.share, step.saved, step.queue, step.guarded, idle, load, height,
        )  # fmt: skip
        plan = DecodePlan.trusted(name=spec.name, worker=best.worker, load=load, step_time=height)
        settled = number >= _most(step)
        whole = float(step.weight @ height) * step.tall if idle else objective
        bound = min(bound - 1e-13 * whole, objective)  # lower by more than its sums can be off
        evidence = Evidence(objective, bound, "threshold", _notes(number, settled, idle))
        return Found(plan, evidence, self.name, "solved" if finished else control.why_stopped(), settled)


def decide(spec: DecodeAllocation, seed: int = 0) -> Integers:
    """(waiting,) the worker of each request, without a plan and its proof: what a decision itself takes."""
    return _placed(survey(spec), seed, Control())[0].worker


def _placed(step: Step, seed: int, control: Control) -> tuple[Placement, bool]:
    """The best of the attempts, by the number admitted and then by cost; and whether all were finished."""
    best: Placement | None = None
    finished, choice, hasty = True, None, control.remaining <= HASTY
    for chosen, order in starts(step):
        attempt = Placement(step, hasty)
        if step.memory is None:
            finished = attempt.improve(chosen, seed, control, order)
        else:
            finished = _packed(attempt, order, seed, control)
        if best is None or (-attempt.number, attempt.cost) < (-best.number, best.cost):
            best, choice = attempt, chosen
        if not finished:
            break
    assert best is not None and choice is not None
    free = step.worth > 0 and step.memory is None and step.most > 0 and ((best.worker < 0) & ~choice.barred).any()
    return best.lifted(choice, seed, control) if finished and free else (best, finished)


def _packed(placement: Placement, order: Integers, seed: int, control: Control) -> bool:
    """Under KV limits: the protected come first, and whoever fits in the room that moves have made is let in. False if
    time ran out before it was finished."""
    step, guarded = placement.step, placement.step.guarded
    everyone = Choice(guarded, np.zeros(len(guarded), np.bool_))
    place = np.empty(len(step.queue), np.int64)
    place[step.queue] = np.arange(len(place))
    first = step.queue[guarded[step.queue]]
    while True:
        before = placement.number
        placement.search(everyone, first)
        out = place[(placement.worker < 0) & guarded]
        barred = place >= out.min(initial=len(place))
        placement.search(everyone, order[~barred[order] & ~guarded[order]])
        if placement.number == before:
            return True
        if not placement.improve(Choice(guarded, barred), seed, control):
            return False


def _most(step: Step) -> int:
    """How many can be admitted at most, by slots and by what the smallest requests take of the KV caches."""
    most = step.most
    if step.memory is None or most == 0:
        return most
    need, halves, spared = step.memory.tables
    open_ = np.flatnonzero(step.slots)
    if spared.shape[0]:
        need = need - spared[open_].max(axis=0) * halves // 2
    taken = np.cumsum(np.sort(need, axis=1), axis=1)
    for point, sums in enumerate(taken):
        room = step.memory.room[open_, point]
        each = np.minimum(np.searchsorted(sums, room, side="right"), step.slots[open_])
        most = min(most, int(each.sum()), int(np.searchsorted(sums, room.sum(), side="right")))
    return most


def _notes(number: int, settled: bool, idle: bool) -> tuple[str, ...]:
    notes = () if settled else (f"{number} requests are admitted, which was not proved to be the largest number",)
    if idle:
        notes = (*notes, "the gap is relative to the weighted capacity of a step, since imbalance tends to zero")
    return notes


ALGORITHM = DecodeSearch
