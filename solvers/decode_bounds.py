"""What the heaviest worker of a decode step must at least come to, by counting: no search, no relaxation."""

from __future__ import annotations

import math

import numpy as np

from .decode_step import DecodeStep
from .program import Floats


def lowest_height(step: DecodeStep, number: int) -> Floats:
    """(horizon,) what the heaviest worker must at least come to if `number` requests are admitted, by counting.

    A worker holds its active load and the smallest requests that it must take even with all the others full;
    and the lightest worker with free slots has to take any one request that is certain to be admitted.
    """
    least = step.smallest()
    sums = np.vstack([np.zeros(len(step.weight)), np.cumsum(np.sort(least, axis=0), axis=0)])
    forced = np.maximum(number - (step.free.sum() - step.free), 0)
    height = ((step.active + sums[forced]) / step.speed[:, None]).max(axis=0, initial=0.0)
    pace = step.speed[step.open, None]
    for request in np.flatnonzero(step.sure(number)).tolist():
        added = step.added(np.full(len(step.open), request), step.open)
        height = np.maximum(height, ((step.active[step.open] + added) / pace).min(axis=0, initial=np.inf))
    if step.spec.minimise == "step_time" and len(step.open):
        height = np.maximum(height, (step.active[step.open].sum(axis=0) + _volume(step, number)[0]) / pace.sum())
    return height


def counting_bound(step: DecodeStep, number: int) -> float:
    """What no plan that admits `number` requests or more (exactly that many, where memory is no limit) can beat.

    The admitted, as small as they can be, are spread over the workers with free slots as if they could be cut.
    """
    height = lowest_height(step, number)
    if step.spec.minimise == "step_time":
        return math.fsum(step.weight * height)
    # The idle share falls with the volume until the open workers stand level, and rises from there on.
    pace, held = float(step.speed[step.open].sum()), step.active[step.open].sum(axis=0)
    low, high = _volume(step, number)
    volume = np.minimum(np.maximum(height * pace - held, low), high)
    if pace:
        height = np.maximum(height, (held + volume) / pace)
    return math.fsum(step.weight * (height * step.speed.sum() - step.active.sum(axis=0) - volume))


def _volume(step: DecodeStep, number: int) -> tuple[Floats, Floats]:
    """(horizon,) each: the least and the most tokens that the admitted can bring."""
    least, most = step.smallest(), step.largest()
    sure = step.sure(number)
    rest = number - int(sure.sum())
    low = least[sure].sum(axis=0) + np.sort(least[~sure], axis=0)[:rest].sum(axis=0)
    at_most = (number if step.spec.workers.kv_capacity is None else step.most) - int(sure.sum())
    high = most[sure].sum(axis=0) + np.sort(most[~sure], axis=0)[::-1][:at_most].sum(axis=0)
    return low, np.maximum(low, high)
