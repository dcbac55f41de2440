"""What requests that come, grow and leave take up at some points in time, and what a point weighs: machine code beside
`makespan`.
"""

from __future__ import annotations

import numpy as np

from ...specs.arrays import Floats, Integers
from ..machine import compiled, integer, integers, none, out_integers, out_real_table, out_reals, real, reals

TABLE = 1 << 16
"""Longest horizon for which the entry at which a request leaves is looked up."""


@compiled(none(integers, integers, integers, integer, integers, real, out_real_table, out_integers))
def project(
    worker: Integers, tokens: Integers, remaining: Integers, width: int, horizon: Integers, growth: float,
    load: Floats, held: Integers,
) -> None:  # fmt: skip
    """Loads of the requests on the workers, (points × workers), and how many sit on each.

    remaining: `width` predictions per request one after the other: none, one or a pair. O(requests + points·workers).
    """
    points, workers = load.shape
    amount, count = np.zeros((workers, points + 1), np.int64), np.zeros((workers, points + 1), np.int64)
    last = horizon[points - 1]
    entry = np.empty(min(last, TABLE) + 2, np.int64)
    if last <= TABLE:
        at = 0
        for step in range(last + 2):
            while at < points and horizon[at] < step:
                at += 1
            entry[step] = at
    held[:] = 0
    for row in range(len(worker)):
        at = worker[row]
        held[at] += 1
        if width == 0:
            amount[at, points] += 2 * tokens[row]
            count[at, points] += 2
        for prediction in range(width):
            stays, share = remaining[row * width + prediction], 2 // width
            end = entry[min(stays, last + 1)] if last <= TABLE else np.searchsorted(horizon, stays)
            amount[at, end] += share * tokens[row]
            count[at, end] += share
    for at in range(workers):
        tokens_there, requests_there = 0, 0
        for point in range(points - 1, -1, -1):
            tokens_there += amount[at, point + 1]
            requests_there += count[at, point + 1]
            load[point, at] = 0.5 * (tokens_there + growth * horizon[point] * requests_there)


@compiled(none(integers, integers, integer, integers, real, out_real_table, out_real_table))
def measure(
    tokens: Integers, remaining: Integers, width: int, horizon: Integers, growth: float, share: Floats, size: Floats
) -> None:
    """(points × requests) how much of each request is there, 1, ½ or 0, and the tokens that it takes."""
    points, requests = size.shape
    for point in range(points):
        step = horizon[point]
        for row in range(requests):
            there = 1.0
            if width == 1:
                there = 1.0 if remaining[row] > step else 0.0
            elif width == 2:
                there = 0.5 * (remaining[2 * row] > step) + 0.5 * (remaining[2 * row + 1] > step)
            share[point, row] = there
            size[point, row] = there * (tokens[row] + growth * step)


@compiled(
    integer(
        integers, integers, integers, integer, integers, integers, integer, integers, real, real, real, integers, reals,
        out_integers, out_real_table, out_real_table, out_real_table, out_reals, out_reals, out_reals,
    )
)  # fmt: skip
def survey(
    worker: Integers, tokens: Integers, remaining: Integers, width: int,
    new_tokens: Integers, new_remaining: Integers, new_width: int,
    horizon: Integers, growth: float, discount: float, evenness: float, places: Integers, speed: Floats,
    slots: Integers, load: Floats, share: Floats, size: Floats, weight: Floats, even: Floats, total: Floats,
) -> int:  # fmt: skip
    """All that a search starts from: see `project` for `load`, `measure` for `share` and `size`.

    slots: (workers,) of `places`, those that are left. weight: (points,) discount^j. even: (points,) what unevenness
    counts, `evenness` of the weight at loads of the heaviest worker's size. total: (requests,) weighed size. Returns
    the number of slots.
    """
    points, workers = load.shape
    project(worker, tokens, remaining, width, horizon, growth, load, slots)
    measure(new_tokens, new_remaining, new_width, horizon, growth, share, size)
    usual, free = 0.0, 0
    for at in range(workers):
        slots[at] = max(places[at] - slots[at], 0)
        free += slots[at]
        usual += speed[at] / workers
    total[:] = 0.0
    for point in range(points):
        height = 0.0
        for at in range(workers):
            height = max(height, load[point, at] / speed[at])
        weight[point] = discount**point
        even[point] = evenness * weight[point] / ((usual if usual > 0.0 else 1.0) * (height + 1.0))
        for piece in range(len(total)):
            total[piece] += weight[point] * size[point, piece]
    return free
