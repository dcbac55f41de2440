"""The state of a decode step before anyone is admitted, in the arrays that the program and the baselines share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..specs.decode_allocation import DecodeAllocation, DecodePlan
from .decode_memory import KVCaches, Units, kv_caches, lasting
from .program import Floats, Integers

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class DecodeStep:
    """What a step looks like before anyone is admitted. Loads are in tokens.

    queue: (waiting,) the requests in their order. place: (waiting,) the place of each in the queue.
    free: (workers,) slots. active: (workers × horizon) load. lasting: (waiting × horizon) how much of a request is
    still there. grown: (waiting × horizon) its tokens by then, prefix caches aside.
    """

    spec: DecodeAllocation
    queue: Integers
    place: Integers
    overdue: Flags
    free: Integers
    speed: Floats
    weight: Floats
    active: Floats
    lasting: Floats
    grown: Floats

    @cached_property
    def memory(self) -> KVCaches | None:
        """The KV limits; None if there are none."""
        return kv_caches(self.spec)

    @cached_property
    def open(self) -> Integers:
        """The workers with free slots."""
        return np.flatnonzero(self.free)

    @property
    def most(self) -> int:
        """How many can be admitted as far as slots go."""
        return min(int(self.free.sum()), len(self.queue))

    @property
    def protected(self) -> Flags:
        """(waiting,) whom nobody may overtake: all under `fifo`, the overdue else."""
        return self.overdue if self.spec.admission == "window" else np.ones(len(self.queue), np.bool_)

    def sure(self, number: int) -> Flags:
        """(waiting,) who is certainly among the admitted, if there are at least `number` of them.

        Were such a request kept waiting, only those ahead of it in the queue could be admitted: too few.
        """
        return self.protected & (self.place < number)

    def added(self, requests: Integers, workers: Integers) -> Floats:
        """(n × horizon) tokens that each of n requests puts on the worker beside it."""
        tokens, affinity = self.grown[requests], self.spec.waiting.affinity
        if affinity is not None:
            tokens = tokens - affinity[requests, workers][:, None]
        return self.lasting[requests] * tokens

    def smallest(self) -> Floats:
        """(waiting × horizon) the fewest tokens that a request puts on any worker with free slots."""
        affinity = self.spec.waiting.affinity
        saved = 0.0 if affinity is None else affinity[:, self.open].max(axis=1, initial=0.0)[:, None]
        return self.lasting * (self.grown - saved)

    def largest(self) -> Floats:
        """(waiting × horizon) the most tokens that a request puts on any worker with free slots."""
        affinity = self.spec.waiting.affinity
        if affinity is None or not len(self.open):
            return self.lasting * self.grown
        return self.lasting * (self.grown - affinity[:, self.open].min(axis=1)[:, None])

    def load(self, worker: Integers) -> Floats:
        """(workers × horizon) tokens after admission."""
        load, new = self.active.copy(), np.flatnonzero(worker >= 0)
        np.add.at(load, worker[new], self.added(new, worker[new]))
        return load

    def step_time(self, load: Floats) -> Floats:
        """(horizon,) the heaviest worker's load over its speed."""
        return (load / self.speed[:, None]).max(axis=0, initial=0.0)

    def report(self, worker: Integers) -> DecodePlan:
        """The plan that sends the waiting requests to these workers, with what it says of itself."""
        load = self.load(worker)
        return DecodePlan(name=self.spec.name, worker=worker, load=load, step_time=self.step_time(load))

    def objective(self, plan: DecodePlan) -> float:
        """What is minimised, from the loads and step times of a plan."""
        if self.spec.minimise == "step_time":
            return math.fsum(self.weight * plan.step_time)
        idle = self.speed[:, None] * plan.step_time - plan.load
        return math.fsum((self.weight * idle).ravel())


def decode_step(spec: DecodeAllocation) -> DecodeStep:
    """The state that a spec describes."""
    waiting, active, workers = spec.waiting, spec.active, len(spec.workers)
    requests, horizon = len(waiting), spec.horizon
    queue = np.arange(requests) if waiting.priority is None else np.argsort(-waiting.priority, kind="stable")
    place = np.empty(requests, np.int64)
    place[queue] = np.arange(requests)
    load = np.zeros((workers, len(horizon)))
    np.add.at(load, active.worker, lasting(active, horizon) * (active.tokens[:, None] + spec.growth * horizon))
    return DecodeStep(
        spec=spec,
        queue=queue,
        place=place,
        overdue=np.full(requests, 0 if waiting.waited is None else waiting.waited) >= spec.overdue_after,
        free=np.maximum(spec.workers.slots - np.bincount(active.worker, minlength=workers), 0),
        speed=np.ones(workers) if spec.workers.speed is None else spec.workers.speed,
        weight=spec.discount ** np.arange(len(horizon), dtype=np.float64),
        active=load,
        lasting=lasting(waiting, horizon),
        grown=waiting.tokens[:, None] + spec.growth * horizon,
    )


@dataclass
class Admission:
    """A step whose slots are filled one request at a time.

    worker: (waiting,) −1 for those not admitted so far. slots, room, load: what is left and what is there now.
    """

    step: DecodeStep
    worker: Integers
    slots: Integers
    room: Units | None
    load: Floats

    @classmethod
    def start(cls, step: DecodeStep, worker: Integers | None = None) -> Admission:
        """Nobody admitted yet, or those of a placement that keeps the limits."""
        nobody = np.full(len(step.queue), -1, np.int64)
        room = None if step.memory is None else step.memory.room.copy()
        admission = cls(step, nobody, step.free.copy(), room, step.active.copy())
        if worker is not None:
            for request in np.flatnonzero(worker >= 0).tolist():
                admission.place(request, int(worker[request]))
        return admission

    def fits(self, request: int) -> Integers:
        """The workers that can take a request."""
        there = np.flatnonzero(self.slots)
        if self.step.memory is None or self.room is None:
            return there
        needed = self.step.memory.needed(np.full(len(there), request), there)
        return there[(needed <= self.room[there]).all(axis=1)]

    def place(self, request: int, worker: int) -> None:
        """Put a request on a worker."""
        pair = np.array([request]), np.array([worker])
        self.worker[request] = worker
        self.slots[worker] -= 1
        self.load[worker] += self.step.added(*pair)[0]
        if self.step.memory is not None and self.room is not None:
            self.room[worker] -= self.step.memory.needed(*pair)[0]

    def least_rise(self, request: int, workers: Integers) -> int:
        """The worker on which a request raises the heaviest least over the horizon; of several, the lightest."""
        step, speed = self.step, self.step.speed[workers, None]
        after = (self.load[workers] + step.added(np.full(len(workers), request), workers)) / speed
        risen = np.maximum(after, step.step_time(self.load))
        return int(workers[np.lexsort((after @ step.weight, risen @ step.weight))[0]])

    def serve(self, requests: Iterable[int], choose: Callable[[int, Integers], int]) -> None:
        """Admit those of some requests, in the order given, that fit, as far as the admission allows.

        `choose` picks from the workers that can take a request. A protected one that fits nowhere blocks those
        after it.
        """
        protected = self.step.protected
        for request in requests:
            if self.worker[request] >= 0:
                continue
            workers = self.fits(request)
            if len(workers):
                self.place(request, choose(request, workers))
            elif protected[request]:
                break
