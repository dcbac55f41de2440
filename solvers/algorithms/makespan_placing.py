"""Placing pieces one after the other, each where it costs least: machine code of `makespan`.

Source of the rule: Graham, "Bounds on multiprocessing timing anomalies" (1969), with a cost in place of the load.
"""

from __future__ import annotations

import numpy as np

from ...specs.arrays import Integers
from ..machine import compiled, flags, integer, integers, none
from .makespan_state import (
    Flags,
    Heights,
    Memory,
    Pieces,
    State,
    Terms,
    a_heights,
    a_memory,
    a_pieces,
    a_state,
    a_terms,
    fits,
    heights_of,
    look_again,
    put,
)


@compiled(integer(integer, integers, a_terms, a_pieces, a_memory, a_state, a_heights), allocates=False)
def _cheapest(
    piece: int, seats: Integers, terms: Terms, pieces: Pieces, memory: Memory, state: State, heights: Heights
) -> int:
    """The worker among some on which a piece costs least; of equals the most even, −1 if it fits nowhere."""
    weight, even, level, tower = terms.weight, terms.even, terms.level, heights.tower
    points, size, saved, slots = len(weight), pieces.size, pieces.saved, state.slots
    anywhere = memory.need.shape[1] == 0
    best, best_cost, best_second = -1, np.inf, np.inf
    for at in seats:
        if slots[at] <= 0 or not (anywhere or fits(piece, -1, at, memory, state.room)):
            continue
        less = saved[at, piece] if saved.shape[0] else 0.0
        pace, cost, second = terms.pace[at], 0.0, 0.0
        for point in range(points):
            added = size[point, piece]
            if saved.shape[0]:
                added -= less * pieces.share[point, piece]
            over = (tower[at, point] + added) * pace - heights.top[point, 0]
            cost += weight[point] * terms.tall * (over if over > 0.0 else 0.0)
            cost -= weight[point] * terms.worth * added
            second += even[point] * added * (2.0 * tower[at, point] + added) * pace
            second -= level[point] * added * (2.0 * heights.total[point] + added)
        if cost + second < best_cost or (cost + second == best_cost and second < best_second):
            best, best_cost, best_second = at, cost + second, second
    return best


@compiled(none(integers, flags, a_terms, a_pieces, a_memory, a_state))
def begin(order: Integers, guarded: Flags, terms: Terms, pieces: Pieces, memory: Memory, state: State) -> None:
    """Places pieces in the order given, each where it costs least, until one that is guarded fits nowhere.

    Those that fit nowhere and are not guarded are passed over. O(pieces · workers with a slot · points).
    """
    heights = heights_of(terms, state.load)
    seats = np.flatnonzero(state.slots > 0)
    for piece in order:
        if state.placed[piece] >= 0:
            continue
        best = _cheapest(piece, seats, terms, pieces, memory, state, heights)
        if best >= 0:
            state.placed[piece] = best
            state.slots[best] -= 1
            put(piece, best, 1, pieces, memory, state)
            look_again(best, -1, terms, state.load, heights)
        elif guarded[piece]:
            return
