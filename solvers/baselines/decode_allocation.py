"""What routers do today: count slots, count tokens, or place the longest first; and the rules of the literature.

The first three admit in the order of the queue, as far as slots, memory and the spec's admission allow. The others are
the rules of `decode_rules`, which know workers of one speed and no memory, prefix caches or limits on overtaking: what
memory cannot hold of their plan keeps waiting, and the comparison shows which of the spec's rules they break.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...specs.decode_allocation import DecodeAllocation, DecodePlan
from ..decode_step import Admission, decode_step
from ..program import Integers
from .decode_snapshot import Snapshot

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


def snapshot(spec: DecodeAllocation) -> Snapshot:
    """The step as a router sees it, the waiting requests in the order of the queue; of two predictions the median."""
    active, waiting = spec.active, spec.waiting
    queue = decode_step(spec).queue
    waited = np.zeros(len(queue), np.int64) if waiting.waited is None else waiting.waited
    return Snapshot(
        slots=spec.workers.slots,
        worker=active.worker,
        tokens=active.tokens,
        remaining=_median(active.remaining),
        waiting_tokens=waiting.tokens[queue],
        waiting_remaining=None if waiting.remaining is None else _median(waiting.remaining[queue]),
        waited=waited[queue],
    )


def _median(remaining: Integers | None) -> Integers | None:
    return remaining if remaining is None or remaining.ndim == 1 else np.ascontiguousarray(remaining[:, 0])


def published(name: str) -> Callable[[DecodeAllocation], DecodePlan]:
    """A rule of `decode_rules.RULES`, as a baseline. Its machine code is made at the first call."""

    def rule(spec: DecodeAllocation) -> DecodePlan:
        from .decode_rules import RULES  # here, so that nothing is compiled for those who do not compare

        admission = Admission.start(decode_step(spec))
        placed = RULES[name](0)(snapshot(spec))
        for request, worker in zip(admission.step.queue.tolist(), placed.tolist(), strict=True):
            if worker >= 0 and worker in admission.fits(request):
                admission.place(request, worker)
        return admission.step.report(admission.worker)

    rule.__name__ = name
    return rule


BASELINES = {
    "first come first served": first_come_first_served,
    "join shortest queue by tokens": shortest_queue_by_tokens,
    "longest first": longest_first,
    "longest first + swaps": published("longest first + swaps"),
    "BF-IO": published("BF-IO H=0"),
    "BalanceRoute": published("BalanceRoute"),
}
