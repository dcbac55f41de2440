"""The steps of a replay in machine code: admit, measure, decode, refill, until there is something to decide."""

from __future__ import annotations

import numpy as np

from equipoise.solvers.machine import compiled, integer, integers, out_integer_table, out_integers, out_real_table

from .traces import Integers

WORKER, TOKENS, LEFT, PREDICTED, REQUEST = range(5)
"""Rows of the table of active requests: where it is, resident tokens, steps left, predicted steps left, its number."""
QUEUED, JOINED = range(2)
"""Rows of the table of waiting requests: number in the trace, step of joining the pool."""
ACTIVE, WAITING, NEXT, STEP, INITIAL = range(5)
"""Counters: active, waiting, next request of the line, steps so far, number of initial requests."""
HEAVIEST, SUM, WATTS, MADE, QUEUE = range(5)
"""Rows of the record of steps: heaviest load, sum of loads, power of all workers, tokens made, left waiting."""
ADMITTED, FINISHED, AT = range(3)
"""Rows of the record of requests: step of admission, last step, worker."""
DECIDE, DONE, FULL, NO_WORKER, NO_SLOT, STUCK = range(6)
"""Why the steps stop: a decision is due, all are served, the record is full, or a plan is wrong: a worker that
there is not, a worker without a slot, nobody admitted to idle workers."""


@compiled(
    integer(
        out_integers, out_integer_table, out_integer_table, integers, integers, integers, integers, integers,
        out_integers, out_integer_table, out_real_table,
    )
)  # fmt: skip
def advance(
    counters: Integers,
    active: Integers,
    queue: Integers,
    placed: Integers,
    slots: Integers,
    tokens: Integers,
    output: Integers,
    predicted: Integers,
    held: Integers,
    served: Integers,
    record: np.ndarray,
) -> int:
    """Carries out a plan, `placed` (waiting,), and steps on until the next decision. Returns why it stopped.

    active (5 × slots in all), queue (2 × pool), held (workers) and the records are changed in place.
    """
    workers = len(slots)
    load = np.empty(workers, np.int64)
    kept = 0
    for place in range(counters[WAITING]):
        request, at = queue[QUEUED, place], placed[place] if len(placed) else -1
        if at < -1 or at >= workers:
            return NO_WORKER
        if at < 0:
            queue[QUEUED, kept], queue[JOINED, kept] = request, queue[JOINED, place]
            kept += 1
            continue
        held[at] += 1
        if held[at] > slots[at]:
            return NO_SLOT
        new = counters[ACTIVE]
        active[WORKER, new], active[TOKENS, new] = at, tokens[request]
        active[LEFT, new], active[PREDICTED, new] = output[request], predicted[request]
        active[REQUEST, new] = request
        served[ADMITTED, request], served[AT, request] = counters[STEP], at
        counters[ACTIVE] += 1
    counters[WAITING] = kept
    if counters[ACTIVE] == 0 and kept > 0:
        return STUCK
    while counters[ACTIVE] > 0:
        step = counters[STEP]
        if step == record.shape[1]:
            return FULL
        load[:] = 0
        for row in range(counters[ACTIVE]):
            load[active[WORKER, row]] += active[TOKENS, row]
        heaviest, total, watts = load.max(), load.sum(), 0.0
        for at in range(workers):
            watts += 100.0 + 300.0 * (load[at] / heaviest) ** 0.7 if heaviest > 0 else 100.0
        record[HEAVIEST, step], record[SUM, step], record[WATTS, step] = heaviest, total, watts
        record[MADE, step], record[QUEUE, step] = counters[ACTIVE], counters[WAITING]
        row = 0
        while row < counters[ACTIVE]:
            active[TOKENS, row] += 1
            active[LEFT, row] -= 1
            active[PREDICTED, row] = max(active[PREDICTED, row] - 1, 1)
            if active[LEFT, row] > 0:
                row += 1
                continue
            served[FINISHED, active[REQUEST, row]] = step
            held[active[WORKER, row]] -= 1
            counters[ACTIVE] -= 1
            for field in range(5):
                active[field, row] = active[field, counters[ACTIVE]]
        counters[STEP] += 1
        while counters[WAITING] < queue.shape[1] and counters[NEXT] < len(tokens):
            queue[QUEUED, counters[WAITING]] = counters[NEXT]
            queue[JOINED, counters[WAITING]] = counters[STEP]
            counters[WAITING] += 1
            counters[NEXT] += 1
        if counters[WAITING] > 0:
            for at in range(workers):
                if held[at] < slots[at]:
                    return DECIDE
    return DONE
