"""Decode allocation by enumeration: every placement of every request, straight from the text of the task."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np


class Best(NamedTuple):
    """The largest number that can be admitted, and the least objective among the plans that admit so many."""

    admitted: int
    objective: float


def lengths(remaining: Any, row: int) -> list[float]:
    """The lengths that a request may turn out to have, each as likely as the others."""
    return [np.inf] if remaining is None else np.atleast_1d(remaining[row]).tolist()


def tokens_at(tokens: float, growth: float, remaining: Any, row: int, steps: list[int]) -> list[float]:
    """Expected tokens that one request occupies at each step ahead."""
    possible = lengths(remaining, row)
    return [sum(tokens + growth * step for length in possible if length > step) / len(possible) for step in steps]


def best(spec: Any) -> Best:
    """Enumerates (workers + 1)^waiting placements. Numbers in tests are multiples of ¼, exact in floating point."""
    workers, waiting = len(spec.workers.slots), len(spec.waiting.tokens)
    steps = spec.horizon.tolist()
    weights = [spec.discount**entry for entry in range(len(steps))]
    speed = [1.0] * workers if spec.workers.speed is None else spec.workers.speed.tolist()
    resident = [0] * workers
    before = np.zeros((workers, len(steps)))
    for row, worker in enumerate(spec.active.worker.tolist()):
        resident[worker] += 1
        before[worker] += tokens_at(spec.active.tokens[row], spec.growth, spec.active.remaining, row, steps)
    free = [max(slots - taken, 0) for slots, taken in zip(spec.workers.slots.tolist(), resident, strict=True)]
    limit = None
    if spec.workers.kv_capacity is not None:
        limit = np.maximum(spec.workers.kv_capacity[:, None], before)

    size = np.zeros((waiting, workers, len(steps)))
    for row, worker in product(range(waiting), range(workers)):
        saved = 0 if spec.waiting.affinity is None else spec.waiting.affinity[row, worker]
        tokens = spec.waiting.tokens[row] - saved
        size[row, worker] = tokens_at(tokens, spec.growth, spec.waiting.remaining, row, steps)

    priority = [0.0] * waiting if spec.waiting.priority is None else spec.waiting.priority.tolist()
    queue = sorted(range(waiting), key=lambda row: (-priority[row], row))
    waited = [0] * waiting if spec.waiting.waited is None else spec.waiting.waited.tolist()

    found = Best(-1, np.inf)
    for placement in product(range(-1, workers), repeat=waiting):
        admitted = sum(worker >= 0 for worker in placement)
        if admitted < found.admitted:
            continue
        if any(placement.count(worker) > free[worker] for worker in range(workers)):
            continue
        taken = [placement[row] >= 0 for row in queue]
        if spec.admission == "fifo":
            if taken != sorted(taken, reverse=True):
                continue
        elif any(
            taken[behind] and not taken[ahead]
            for ahead in range(waiting)
            if waited[queue[ahead]] >= spec.overdue_after
            for behind in range(ahead + 1, waiting)
        ):
            continue
        load = before.copy()
        for row, worker in enumerate(placement):
            if worker >= 0:
                load[worker] += size[row, worker]
        if limit is not None and (load > limit).any():
            continue
        found = min(found, Best(admitted, measure(spec, load, speed, weights)), key=lambda one: (-one[0], one[1]))
    return found


def measure(spec: Any, load: Any, speed: list[float], weights: list[float]) -> float:
    """The objective of the loads after admission."""
    total = 0.0
    for entry, weight in enumerate(weights):
        heaviest = max((load[worker, entry] / pace for worker, pace in enumerate(speed)), default=0.0)
        if spec.minimise == "step_time":
            total += weight * heaviest
        else:
            total += weight * sum(pace * heaviest - load[worker, entry] for worker, pace in enumerate(speed))
    return total
