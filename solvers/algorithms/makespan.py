"""Sized pieces on workers so that the heaviest is as light as can be, at several points in time at once: machine code.

    minimise Σ_j weight_j·(tall·M_j − worth·Σ_g load[j,g]),   M_j = max(floor_j, max_g load[j,g]/speed[g])

over which pieces of a pool are placed, a given number of them, and on which worker with a slot. A piece takes a
different amount at every point j, and the amount may depend on the worker. First they are placed, in an order that is
given (`makespan_placing`); then, piece by piece, follows the best of all moves to a free slot, exchanges of two placed
pieces and replacements by a piece left in the pool (`makespan_moves`), until none helps; then the search goes on from
random exchanges. Of plans that cost the same, the one whose loads are more even is taken.
"""

from __future__ import annotations

import numpy as np

from ...specs.arrays import Floats, Integers
from ..machine import (
    compiled,
    flags,
    integer,
    integer_table,
    integers,
    none,
    out_integer_table,
    out_integers,
    out_real_table,
    real,
    real_table,
    reals,
)
from .makespan_exchanges import Turn, a_turn
from .makespan_moves import EXCHANGE, IDLE, LEFT, REPLACE, TURN, improve, make, turns
from .makespan_placing import begin
from .makespan_state import (
    Choice,
    Flags,
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
    added_up,
    change_places,
    fits,
    heights_of,
    look,
)

ROUNDS, WORK, RANDOM, COUNTERS = 3, 4, 5, 6
"""Further counters of a search: random exchanges still to go on from, the work in doing so, and the state of chance."""


@compiled(real(a_terms, a_state), allocates=False)
def _cost(terms: Terms, state: State) -> float:
    """What is minimised, unevenness included."""
    points, workers = state.load.shape
    total = 0.0
    for point in range(points):
        height, sum, squares = terms.floor[point], 0.0, 0.0
        for at in range(workers):
            amount = state.load[point, at]
            height = max(height, amount * terms.pace[at])
            sum += amount
            squares += amount * amount * terms.pace[at]
        total += terms.weight[point] * (terms.tall * height - terms.worth * sum)
        total += terms.even[point] * squares - terms.level[point] * sum * sum
    return total


@compiled(integer(out_integers, integer), allocates=False)
def _drawn(counter: Integers, number: int) -> int:
    """A random number below another, by a linear congruential generator with Knuth's constants."""
    counter[RANDOM] = counter[RANDOM] * 6364136223846793005 + 1442695040888963407
    return ((counter[RANDOM] >> 33) & 0x3FFFFFFF) % number


@compiled(none(a_state, a_turn, a_state, a_turn), allocates=False)
def _copy(one: State, its: Turn, other: State, others: Turn) -> None:
    """Make another placement what one is, and its turns."""
    for piece in range(len(one.placed)):
        other.placed[piece] = one.placed[piece]
    for at in range(len(one.slots)):
        other.slots[at] = one.slots[at]
        for point in range(len(one.load)):
            other.load[point, at] = one.load[point, at]
        for point in range(len(one.room)):
            other.room[point, at] = one.room[point, at]
    for place in range(len(its.inside)):
        others.inside[place] = its.inside[place]
        for point in range(its.part.shape[1]):
            others.part[place, point] = its.part[place, point]


@compiled(none(real, a_terms, a_pieces, a_memory, a_choice, a_state, a_heights, a_turn, out_integers))
def _shake(
    least: float, terms: Terms, pieces: Pieces, memory: Memory, choice: Choice, state: State, heights: Heights,
    turn: Turn, counter: Integers,
) -> None:  # fmt: skip
    """Leaves a placement that no single move betters by a random exchange, and searches on from there, again and again.

    Each round puts another piece of the pool in the place of a placed one, or exchanges two; what comes of it is
    kept if it costs less.
    """
    best, kept_turn = _cost(terms, state), turns(terms, pieces, state)
    kept = State(state.placed.copy(), state.slots.copy(), state.load.copy(), state.room.copy())
    _copy(state, turn, kept, kept_turn)
    outside = np.flatnonzero((state.placed < 0) & ~choice.barred)
    again = np.zeros(COUNTERS, np.int64)
    number = len(turn.inside)
    while counter[ROUNDS] > 0 and counter[WORK] > 0 and number > 0:
        counter[ROUNDS] -= 1
        own = _drawn(counter, number)
        piece = int(turn.inside[own])
        here: int = state.placed[piece]
        if not choice.fixed[piece] and len(outside) > 0:
            kind, place = REPLACE, own
            other = outside[_drawn(counter, len(outside))]
            if not fits(other, piece, here, memory, state.room):
                continue
        else:
            kind, place = EXCHANGE, _drawn(counter, number)
            other = int(turn.inside[place])
            there: int = state.placed[other]
            if there == here or not change_places(piece, here, other, there, memory, state.room):
                continue
        make(kind, own, other, terms, pieces, memory, state, heights, turn)
        again[LEFT], again[IDLE], again[TURN] = counter[WORK], 0, place + 1
        improve(least, terms, pieces, memory, choice, state, heights, turn, again)
        counter[WORK] = again[LEFT]
        reached = _cost(terms, state)
        if reached < best - 1e-12 * abs(best):
            best = reached
            _copy(state, turn, kept, kept_turn)
            outside = np.flatnonzero((state.placed < 0) & ~choice.barred)
        else:
            _copy(kept, kept_turn, state, turn)
            look(terms, state.load, heights)


@compiled(
    real(
        integers, flags, reals, real, real, reals, reals, reals, real_table, real_table, real_table,
        integer_table, integer_table, integer_table, flags, flags,
        out_integers, out_integers, out_real_table, out_integer_table, out_integers,
    )
)  # fmt: skip
def search(
    order: Integers, guarded: Flags,
    weight: Floats, tall: float, worth: float, even: Floats, floor: Floats, pace: Floats,
    size: Floats, share: Floats, saved: Floats, need: Integers, halves: Integers, spared: Integers,
    fixed: Flags, barred: Flags,
    placed: Integers, slots: Integers, load: Floats, room: Integers, counter: Integers,
) -> float:  # fmt: skip
    """Places pieces in the order given, moves and exchanges until nothing helps, and goes on from random exchanges.

    What the arrays hold, the records of `makespan_state` say; order and guarded: see `begin`. The last five are
    changed. counter: (COUNTERS,) the work that moves may take (about 1 ns each; no moves without any), whose turn it
    is, turns without a move, random exchanges, the work in going on from them, and the state of chance; called again
    without an order, the search goes on where it stood. Returns what the placement costs, unevenness included.
    """
    terms = Terms(weight, tall, worth, even, even / added_up(1.0 / pace), floor, pace)
    pieces, memory = Pieces(size, share, saved), Memory(need, halves, spared)
    choice, state = Choice(fixed, barred), State(placed, slots, load, room)
    begin(order, guarded, terms, pieces, memory, state)
    if counter[LEFT] > 0:
        heights, turn = heights_of(terms, load), turns(terms, pieces, state)
        least = 0.0
        for point in range(len(weight)):
            least += 1e-12 * weight[point] * tall * heights.top[point, 0]
        improve(least, terms, pieces, memory, choice, state, heights, turn, counter)
        if counter[LEFT] > 0:
            _shake(least, terms, pieces, memory, choice, state, heights, turn, counter)
    return _cost(terms, state)
