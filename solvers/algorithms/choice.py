"""The best choice of one count per item within a budget: hulls first (`multiple_choice.py`), then `exchange.py` where
their bound leaves more than the gap that is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...specs.arrays import Floats, Integers
from .exchange import exchange
from .multiple_choice import FILLS, bound, critical, fill, hulls, in_doubt, relax

SETTLED = 5e-10
"""Relative gap below which nothing is exchanged any more: half of what calls itself optimal."""


@dataclass(frozen=True)
class Chosen:
    """(items,) counts, the price of a unit of budget, the bound that it gives, and the one that is
    known; whether counts were exchanged, and whether that proved the bound."""

    counts: Integers
    price: float
    relaxed: float
    bound: float
    exchanged: bool = False
    proven: bool = False


def choose(values: Floats, top: Integers, cost: Integers, room: int, whole: bool, gap: float) -> Chosen:
    """A choice by upper hulls, and by exchanges where that leaves more than a relative gap.

    values: (items × counts); top, cost: (items,); whole: all of the room is to be used up.
    """
    counts, surplus, corners = np.empty(len(top), np.int64), np.empty(len(top)), np.empty(len(top), np.int64)
    corner = np.empty((len(top), values.shape[1]), np.int64)
    hulls(values, top, whole, corner, corners)
    price = critical(values, cost, corner, corners, float(room), whole)
    left = relax(values, cost, corner, corners, room, price, whole, counts, surplus)
    highest = bound(values, cost.astype(np.float64), corner, corners, float(room), price)
    fill(values, cost, top, left, price, whole, FILLS, counts)
    size = abs(worth(values, counts))
    if highest - worth(values, counts) <= max(gap, SETTLED) * size:
        return Chosen(counts, price, highest, highest)
    counts, proven = exchanged(values, top, cost, room, whole, price, surplus, counts, gap * size)
    return Chosen(counts, price, highest, worth(values, counts) if proven else highest, True, proven)


def exchanged(
    values: Floats,
    top: Integers,
    cost: Integers,
    room: int,
    whole: bool,
    price: float,
    surplus: Floats,
    counts: Integers,
    enough: float,
) -> tuple[Integers, bool]:
    """Better counts by exchanges, and whether none are better than those."""
    losses = surplus - (values[np.arange(len(counts)), counts] - price * cost * counts)
    short = float(np.maximum(losses, 0.0).sum()) + price * (room - int(cost @ counts))
    best, places = np.empty_like(counts), int((top + 1).sum())
    group, shift, regret = np.empty(places, np.int64), np.empty(places, np.int64), np.empty(places)
    size = in_doubt(values, cost, top, price, surplus, short, best, group, shift, regret)
    spare = room - int(cost @ best)
    found = exchange(group[:size], shift[:size], regret[:size], best, cost, spare, price, short, enough, whole=whole)
    return counts if found.counts is None else found.counts, found.proven


def worth(values: Floats, counts: Integers) -> float:
    """What counts come to."""
    return math.fsum(values[np.arange(len(counts)), counts].tolist())
