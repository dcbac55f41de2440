"""The best move of one placed piece after the other, until none helps: machine code of `makespan`."""

from __future__ import annotations

import numpy as np

from ...specs.arrays import Integers
from ..machine import compiled, integer, none, out_integers, real
from .makespan_exchanges import Turn, a_turn, exchange, exchange_saved, free_slot, replacement, take_out
from .makespan_state import (
    Choice,
    Heights,
    Memory,
    Pieces,
    State,
    Terms,
    a_choice,
    a_heights,
    a_memory,
    a_pieces,
    a_state,
    a_terms,
    look_again,
    put,
)

LEFT, TURN, IDLE = 0, 1, 2
"""Counters of a search: work that may still be done, whose turn it is, turns without a move."""
PAIR = 8
"""Work of judging an exchange beside that of its points, in the unit of a piece of the pool at a point: about 1 ns."""
STAY, REPLACE, EXCHANGE, MOVE = 0, 1, 2, 3
"""What a turn may end in."""


@compiled(a_turn(a_terms, a_pieces, a_state))
def turns(terms: Terms, pieces: Pieces, state: State) -> Turn:
    """The turns of the pieces that are placed."""
    inside, points = np.flatnonzero(state.placed >= 0), len(terms.weight)
    part = np.empty((len(inside), points))
    for place in range(len(inside)):
        for point in range(points):
            part[place, point] = pieces.size[point, inside[place]]
    return Turn(inside, part, np.empty(points), np.empty(points), np.empty(points), np.empty(len(state.placed)))


@compiled(none(integer, integer, integer, a_terms, a_pieces, a_memory, a_state, a_heights, a_turn), allocates=False)
def make(
    kind: int, own: int, target: int,
    terms: Terms, pieces: Pieces, memory: Memory, state: State, heights: Heights, turn: Turn,
) -> None:  # fmt: skip
    """Replace the placed piece at `own` by a piece, exchange it with one, or move it to a worker."""
    piece, placed = int(turn.inside[own]), state.placed
    here, goes = int(placed[piece]), target if kind == MOVE else -1
    put(piece, here, -1, pieces, memory, state)
    if kind == EXCHANGE:
        goes = int(placed[target])
        put(target, goes, -1, pieces, memory, state)
    if kind == MOVE:
        state.slots[here] += 1
        state.slots[goes] -= 1
    else:
        placed[target] = here
        put(target, here, 1, pieces, memory, state)
    placed[piece] = goes
    if goes >= 0:
        put(piece, goes, 1, pieces, memory, state)
    if kind == REPLACE:
        turn.inside[own] = target
        for point in range(len(terms.weight)):
            turn.part[own, point] = pieces.size[point, target]
    look_again(goes, here, terms, state.load, heights)


@compiled(none(real, a_terms, a_pieces, a_memory, a_choice, a_state, a_heights, a_turn, out_integers), allocates=False)
def improve(
    least: float, terms: Terms, pieces: Pieces, memory: Memory, choice: Choice, state: State, heights: Heights,
    turn: Turn, counter: Integers,
) -> None:  # fmt: skip
    """Makes the best move of one placed piece after the other until none gains `least`, or the work in `counter` is
    done; called again, the search goes on where it stood.
    """
    points, workers, number = len(terms.weight), len(state.slots), len(turn.inside)
    seats = False
    for at in range(workers):
        seats |= state.slots[at] > 0
    while counter[LEFT] > 0 and counter[IDLE] < number:
        own = counter[TURN] % number
        piece = int(turn.inside[own])
        here: int = state.placed[piece]
        before = take_out(piece, here, terms, pieces, state, heights, turn)
        best, kind, target = -least, STAY, -1
        if not choice.fixed[piece]:
            best, target = replacement(piece, here, before, best, terms, pieces, memory, choice, state, turn)
            kind = REPLACE if target >= 0 else STAY
            counter[LEFT] -= points * len(state.placed)
        if pieces.saved.shape[0]:
            best, other = exchange_saved(own, here, best, terms, pieces, memory, state, heights, turn)
        else:
            best, other = exchange(own, here, best, terms, pieces, memory, state, heights, turn)
        if other >= 0:
            kind, target = EXCHANGE, other
        counter[LEFT] -= (PAIR + 4 * points) * number
        if seats:
            best, there = free_slot(piece, here, best, terms, pieces, memory, state, heights)
            if there >= 0:
                kind, target = MOVE, there
            counter[LEFT] -= (PAIR + 4 * points) * workers
        counter[TURN] = own + 1
        counter[IDLE] += 1
        if kind != STAY:
            counter[IDLE] = 0
            make(kind, own, target, terms, pieces, memory, state, heights, turn)
