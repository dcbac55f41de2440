"""Which pairs of a waiting request and a worker the exact program of a decode step needs a column for.

Two observations leave most pairs out, at no loss: a request is never needed if enough others are as small at every
step; and workers that are just alike can be filled in the order of their largest requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .decode_step import DecodeStep, Flags
from .program import Integers

DEAREST_COMPARISON = 2**30
"""Comparisons of requests, step by step, beyond which looking for those not needed costs more than it saves."""


@dataclass(frozen=True)
class Routes:
    """The requests and workers that may be paired, as parallel arrays `request` and `worker`.

    candidates: the requests that may be admitted, in the order of the queue. size_rank: (waiting,) 0 for the
    largest of these. twin: (workers,) the first of the workers that are just like this one, itself included.
    """

    request: Integers
    worker: Integers
    candidates: Integers
    size_rank: Integers
    twin: Integers

    def renamed(self, worker: Integers) -> Integers:
        """A placement with twins exchanged so that it uses these routes alone."""
        largest = np.full(len(self.twin), len(worker))
        placed = np.flatnonzero(worker >= 0)
        np.minimum.at(largest, worker[placed], self.size_rank[placed])
        name = np.empty_like(self.twin)
        name[np.lexsort((largest, self.twin))] = np.lexsort((np.arange(len(self.twin)), self.twin))
        return np.where(worker >= 0, name[worker], -1) if len(name) else worker


def find_routes(step: DecodeStep, number: int, drop_dominated: bool, order_twins: bool) -> Routes:
    """The pairs that an optimal plan may need, where `number` requests are admitted for certain."""
    requests = len(step.queue)
    fits = np.zeros((requests, len(step.free)), np.bool_)
    fits[:, step.open] = True
    if step.memory is not None:
        every = np.arange(requests)
        for worker in step.open.tolist():
            needed = step.memory.needed(every, np.full(requests, worker))
            fits[:, worker] = (needed <= step.memory.room[worker]).all(axis=1)
    there = fits.any(axis=1)
    there &= step.place < step.place[step.protected & ~there].min(initial=requests)
    if step.spec.admission == "fifo":
        there &= step.place < step.most
    if drop_dominated:
        there &= ~_dominated(step, number)
    candidates = step.queue[there[step.queue]]
    size = step.lasting * step.grown @ step.weight
    size_rank = np.full(requests, requests)
    size_rank[candidates[np.argsort(-size[candidates], kind="stable")]] = np.arange(len(candidates))
    twin, before = _twins(step) if order_twins else (np.arange(len(step.free)), np.zeros(len(step.free), np.int64))
    # Of twins in that order, the r-th largest request needs none beyond the r-th.
    request, worker = np.nonzero(fits & there[:, None] & (size_rank[:, None] >= before))
    return Routes(request, worker, candidates, size_rank, twin)


def _dominated(step: DecodeStep, number: int) -> Flags:
    """(waiting,) who can be left out: enough others are no larger at any step, and as free to be admitted.

    An admitted one could be exchanged for one of these that is not, at no loss. That is only so where load is a cost
    whoever brings it, depends on no worker, and no overdue request can be left waiting.
    """
    spec, sure = step.spec, step.sure(number)
    free = np.flatnonzero(~sure)
    dominated = np.zeros(len(step.queue), np.bool_)
    unsafe = spec.minimise != "step_time" or spec.waiting.affinity is not None or step.memory is not None
    if unsafe or (step.protected & ~sure).any() or len(free) ** 2 * len(step.weight) > DEAREST_COMPARISON:
        return dominated
    load = (step.lasting * step.grown)[free]
    smaller = np.zeros(len(free), np.int64)
    for row, own in enumerate(load):
        no_larger, equal = (load <= own).all(axis=1), (load == own).all(axis=1)
        equal[:row] = False  # of equals, the first are kept
        smaller[row] = np.count_nonzero(no_larger & ~equal)
    dominated[free] = smaller >= number - int(sure.sum())
    return dominated


def _twins(step: DecodeStep) -> tuple[Integers, Integers]:
    """(workers,) each: the first worker that is just like this one, and how many such come before it."""
    first, before = np.arange(len(step.free)), np.zeros(len(step.free), np.int64)
    if not len(step.open) or (step.memory is not None and not step.memory.short):
        return first, before
    traits: list[NDArray[Any]] = [step.active, step.free[:, None], step.speed[:, None]]
    if step.memory is not None:
        traits.append(step.memory.room)
    if step.spec.waiting.affinity is not None:
        traits.append(step.spec.waiting.affinity.T)
    _, kind = np.unique(np.hstack(traits)[step.open], axis=0, return_inverse=True)
    for group in range(int(kind.max()) + 1):
        alike = step.open[kind.ravel() == group]
        first[alike], before[alike] = alike[0], np.arange(len(alike))
    return first, before
