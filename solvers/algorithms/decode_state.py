"""A decode step in the arrays of the machine code, and what its admission leaves to a search.

What the rules allow is decided first: who is admitted for certain, and who may be exchanged for whom. Whatever else
could be admitted is in the hands of the search.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...specs.decode_allocation import Active, DecodeAllocation, Waiting
from ..decode_memory import KVCaches, kv_caches
from ..machine import compiled, flags, integers, none, out_flags, out_integers, reals
from ..program import Floats, Integers
from . import makespan_loads
from .makespan_state import Choice

Flags = NDArray[np.bool_]

EVEN = 6.25e-8
"""What the unevenness of loads counts beside the heaviest worker: it decides between plans that cost the same.

A worker's share of it does not depend on how many there are, as what the search takes for a gain does not: a request is
not passed over for a difference of less than about 0.4 % of the heaviest load, which no later step would notice.
"""
OPTIONS = 4
"""Ways to draw the line behind which nobody is admitted that are tried, at most."""
NOTHING = np.zeros((0, 0))
NO_STEPS = np.zeros(0, np.int64)


class Step(NamedTuple):
    """A step in the arrays of the machine code: (horizon × workers), (horizon × waiting) tables.

    slots: free. most: how many can be admitted, as far as these go. weight, even: (horizon,). tall, worth: what the
    heaviest worker and the sum of the loads count. total: (waiting,) weighed size. guarded: (waiting,) whom nobody may
    overtake.
    """

    spec: DecodeAllocation
    slots: Integers
    most: int
    speed: Floats
    pace: Floats
    tall: float
    worth: float
    weight: Floats
    even: Floats
    active: Floats
    share: Floats
    size: Floats
    saved: Floats
    total: Floats
    queue: Integers
    guarded: Flags
    memory: KVCaches | None


def survey(spec: DecodeAllocation) -> Step:
    """The state that a spec describes. O(active + waiting·horizon + workers·horizon)."""
    workers, active, waiting, horizon = spec.workers, spec.active, spec.waiting, spec.horizon
    number, requests, points = workers.slots.size, waiting.tokens.size, horizon.size
    speed = np.ones(number) if workers.speed is None else workers.speed
    tall, worth = (float(np.add.reduce(speed)), 1.0) if spec.minimise == "imbalance" else (1.0, 0.0)
    slots, load = np.empty(number, np.int64), np.empty((points, number))
    share, size, total = np.empty((points, requests)), np.empty((points, requests)), np.empty(requests)
    weight, even = np.empty(points), np.empty(points)
    free = makespan_loads.survey(
        active.worker, active.tokens, *_predictions(active), waiting.tokens, *_predictions(waiting), horizon,
        spec.growth, spec.discount, EVEN * tall, workers.slots, speed,
        slots, load, share, size, weight, even, total,
    )  # fmt: skip
    return Step(
        spec=spec,
        slots=slots,
        most=min(free, requests),
        speed=speed,
        pace=speed if workers.speed is None else 1.0 / speed,
        tall=tall,
        worth=worth,
        weight=weight,
        even=even,
        active=load,
        share=share,
        size=size,
        saved=NOTHING if waiting.affinity is None or not requests else np.ascontiguousarray(waiting.affinity.T),
        total=total,
        queue=np.arange(requests) if waiting.priority is None else np.argsort(-waiting.priority, kind="stable"),
        guarded=_guarded(spec),
        memory=kv_caches(spec) if requests else None,
    )


def _guarded(spec: DecodeAllocation) -> Flags:
    """(waiting,) whom nobody may overtake: all under `fifo`, the overdue else."""
    waiting = spec.waiting
    if spec.admission == "fifo":
        return np.ones(waiting.tokens.size, np.bool_)
    if waiting.waited is None:
        return np.full(waiting.tokens.size, spec.overdue_after <= 0)
    return waiting.waited >= spec.overdue_after


def _predictions(requests: Active | Waiting) -> tuple[Integers, int]:
    """Predicted steps one after the other, and how many there are per request."""
    remaining = requests.remaining
    if remaining is None or not remaining.size:
        return NO_STEPS, 0
    return (remaining, 1) if remaining.ndim == 1 else (remaining.reshape(-1), 2)


@compiled(none(integers, flags, reals, out_integers, out_flags, out_flags))
def _draw(ahead: Integers, guarded: Flags, total: Floats, order: Integers, fixed: Flags, barred: Flags) -> None:
    """Admit the guarded among some requests and, as far as `order` is long, the first others; nobody besides these.

    order: those admitted, longest first.
    """
    fixed[:], barred[:], number = False, True, 0
    for wanted in (True, False):
        for piece in ahead:
            if guarded[piece] != wanted:
                continue
            barred[piece], fixed[piece] = False, wanted
            if number < len(order):
                order[number] = piece
                number += 1
    order[:] = order[np.argsort(-total[order], kind="mergesort")]


def starts(step: Step) -> list[tuple[Choice, Integers]]:
    """What to search from: whom it may exchange, and the requests to place first, in their order, longest first; under
    KV limits, where that decides how many fit, shortest first.

    The first of the queue are placed; under `imbalance`, which long requests pay for, the smallest of it as well, from
    where a search comes to rest lower.
    """
    requests = len(step.queue)
    if step.memory is not None:
        return [(Choice(step.guarded, np.zeros(requests, np.bool_)), np.argsort(step.total, kind="stable"))]
    free = step.most < requests and step.spec.admission == "window"
    guarded = step.guarded if free else np.ones(requests, np.bool_)
    found: list[tuple[Choice, Integers]] = []
    for cut in _lines(step) if free else [requests]:
        ahead = step.queue[:cut]
        smallest = [ahead[np.argsort(step.total[ahead], kind="stable")]] if free and step.worth > 0 else []
        for preferred in (ahead, *smallest):
            choice = Choice(np.empty(requests, np.bool_), np.empty(requests, np.bool_))
            order = np.empty(step.most, np.int64)
            _draw(preferred, guarded, step.total, order, *choice)
            found.append((choice, order))
    return found


def _lines(step: Step) -> list[int]:
    """Places in the queue behind which nobody is admitted: at an overdue request that is left waiting, or at the end.

    Those ahead of a line are admitted if they are overdue: more than there are places for cannot be.
    """
    requests = len(step.queue)
    if not step.guarded.any():
        return [requests]
    late = np.flatnonzero(step.guarded[step.queue])
    cuts = [*late[late >= step.most].tolist(), requests]
    ahead = int((late < step.most).sum())
    cuts = [cut for extra, cut in enumerate(cuts) if ahead + extra <= step.most]
    if len(cuts) > OPTIONS:
        cuts = [cuts[round(place)] for place in np.linspace(0, len(cuts) - 1, OPTIONS)]
    return cuts
