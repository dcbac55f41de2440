"""How is a start found where scores have few values, so that prices alone cannot share tokens out?

Scores of few values were rounded, most likely: noise as wide as the rounding makes them continuous again, and prices
of those are near the right ones. Noise is a hash, so that every run sees the same. What tokens got then, they keep
where they want nothing more by their true scores.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ..machine import (
    compiled,
    integer,
    integer_table,
    integers,
    none,
    out_integer_table,
    out_real_table,
    real,
    real_table,
)
from ..program import Floats

SAMPLED: Final = 512
FEWEST, MOST = 3, 128
"""Different values among the scores of a sample, from which and up to which they count as few."""


def values_of(scores: Floats) -> tuple[int, float]:
    """How many different values a sample of the scores has, and the least difference of two (0 without any)."""
    some = scores.reshape(-1)[:: max(scores.size // SAMPLED, 1) | 1]
    values = np.unique(some[np.isfinite(some)])
    return len(values), float(np.diff(values).min(initial=np.inf)) if len(values) > 1 else 0.0


def step_of(scores: Floats) -> float:
    """The least difference of scores that have few values, but not too few to need noise; 0 for others."""
    several, step = values_of(scores)
    return step if FEWEST <= several <= MOST else 0.0


@compiled(none(real_table, integer, integer, real, out_real_table))
def dither(scores, first, last, step, noisy):
    """noisy: the scores of rows first…last − 1 and noise, evenly between −step/2 and step/2."""
    experts = scores.shape[1]
    scale = step * 2.0**-53
    for row in range(first, last):
        for expert in range(experts):
            bits = np.uint64(row * experts + expert) * np.uint64(0x9E3779B97F4A7C15)  # splitmix64 (Steele et al., 2014)
            bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            share = np.int64((bits ^ (bits >> np.uint64(31))) >> np.uint64(11)) - 2**52
            noisy[row, expert] = scores[row, expert] + scale * share


@compiled(none(integer_table, out_integer_table, real_table, integers))
def prefer(kept, near, value, count):
    """Put those of a token's equally good experts first that it has already (kept: tokens × k, by any order)."""
    wanted = kept.shape[1]
    for row in range(len(count)):
        if count[row] <= wanted or value[row, wanted - 1] != value[row, wanted]:
            continue
        tie = value[row, wanted]
        first, last = wanted - 1, wanted + 1
        while first > 0 and value[row, first - 1] == tie:
            first -= 1
        while last < count[row] and value[row, last] == tie:
            last += 1
        front = first
        for place in range(first, last):
            if front == wanted:
                break
            expert = near[row, place]
            for other in range(wanted):
                if kept[row, other] == expert:
                    near[row, place] = near[row, front]
                    near[row, front] = expert
                    front += 1
                    break
