"""What routers do today: count slots, count tokens, or place the longest first.

All admit in the order of the queue, as far as slots, memory and the spec's admission allow.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...specs.decode_allocation import DecodeAllocation, DecodePlan
from ..decode_step import Admission, decode_step
from ..program import Integers

Choice = Callable[[Admission, Integers], int]


def first_come_first_served(spec: DecodeAllocation) -> DecodePlan:
    """The oldest goes to the worker with most free slots, of several to the one with the fewest tokens."""
    return _served(spec, _roomiest)


def shortest_queue_by_tokens(spec: DecodeAllocation) -> DecodePlan:
    """The oldest goes to the worker with the fewest tokens for its speed, among those with a free slot."""
    return _served(spec, _lightest)


def longest_first(spec: DecodeAllocation) -> DecodePlan:
    """The oldest that fit, the longest of them first, each to the worker with the fewest tokens for its speed.

    Where memory leaves one without a place, all stay where the shortest queue by tokens has them.
    """
    plan = _served(spec, _lightest)
    admitted = np.flatnonzero(plan.worker >= 0)
    admission = Admission.start(decode_step(spec))
    for request in admitted[np.argsort(-spec.waiting.tokens[admitted], kind="stable")].tolist():
        workers = admission.fits(request)
        if not len(workers):
            return plan
        admission.place(request, _lightest(admission, workers))
    return admission.step.report(admission.worker)


def _served(spec: DecodeAllocation, choose: Choice) -> DecodePlan:
    admission = Admission.start(decode_step(spec))
    admission.serve(admission.step.queue.tolist(), lambda _, workers: choose(admission, workers))
    return admission.step.report(admission.worker)


def _roomiest(admission: Admission, workers: Integers) -> int:
    """Most free slots, then fewest tokens at the first step of the horizon, then the lowest number."""
    return int(workers[np.lexsort((admission.load[workers, 0], -admission.slots[workers]))[0]])


def _lightest(admission: Admission, workers: Integers) -> int:
    return int(workers[np.argmin(admission.load[workers, 0] / admission.step.speed[workers])])


BASELINES = {
    "first come first served": first_come_first_served,
    "join shortest queue by tokens": shortest_queue_by_tokens,
    "longest first": longest_first,
}
