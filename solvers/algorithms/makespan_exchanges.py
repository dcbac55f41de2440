"""What it is worth to take a placed piece away from its worker, for another of the pool or of another worker: machine
code of `makespan`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba.core.types import BaseTuple

from ...specs.arrays import Floats, Integers
from ..machine import compiled, integer, none, out_integers, out_real_table, out_reals, real
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
    change_places,
    fits,
    others,
    record,
)


class Turn(NamedTuple):
    """The placed pieces, and what is known of the one whose turn it is.

    inside: the placed pieces. part: (placed × points) what they take up without `saved`. bare, rest, spread: (points,)
    the load of its worker without it, the heaviest other worker, the sum of all loads without it. cost: (pieces,) for
    sums over the points.
    """

    inside: Integers
    part: Floats
    bare: Floats
    rest: Floats
    spread: Floats
    cost: Floats


a_turn = record(Turn, out_integers, out_real_table, out_reals, out_reals, out_reals, out_reals)
a_find: Any = BaseTuple.from_types((real, integer))


@compiled(real(integer, integer, a_terms, a_pieces, a_state, a_heights, a_turn), allocates=False)
def take_out(piece: int, here: int, terms: Terms, pieces: Pieces, state: State, heights: Heights, turn: Turn) -> float:
    """What the worker of a piece gives up without it, but for its height; fills in the turn."""
    weight, even, pace = terms.weight, terms.even, terms.pace[here]
    less = pieces.saved[here, piece] if pieces.saved.shape[0] else 0.0
    before = 0.0
    for point in range(len(weight)):
        own = pieces.size[point, piece] - less * pieces.share[point, piece]
        bare = state.load[point, here] - own
        turn.bare[point], turn.rest[point] = bare, others(heights.top, heights.who, point, here, -1)
        turn.spread[point] = heights.total[point] - own
        before += weight[point] * (terms.tall * heights.top[point, 0] - terms.worth * own)
        before += even[point] * own * (2.0 * bare + own) * pace
        before -= terms.level[point] * own * (2.0 * heights.total[point] - own)
    return before


@compiled(none(integer, real, a_terms, a_pieces, a_turn), allocates=False)
def _weigh_pool(here: int, before: float, terms: Terms, pieces: Pieces, turn: Turn) -> None:
    """The cost of every piece in place of the one whose turn it is: sweeps over memory, point by point."""
    cost, size, pace = turn.cost, pieces.size, terms.pace[here]
    number = len(cost)
    cost[:] = -before
    for point in range(len(terms.weight)):
        base, high, factor = turn.bare[point], turn.rest[point], terms.weight[point] * terms.tall
        even, level = terms.even[point], terms.level[point]
        gain = terms.weight[point] * terms.worth - 2.0 * (even * pace * base - level * turn.spread[point])
        square = even * pace - level
        if pieces.saved.shape[0]:
            for other in range(number):
                own = size[point, other] - pieces.saved[here, other] * pieces.share[point, other]
                height = (base + own) * pace
                cost[other] += factor * (height if height > high else high) - own * (gain - square * own)
        else:
            for other in range(number):
                own = size[point, other]
                height = (base + own) * pace
                cost[other] += factor * (height if height > high else high) - own * (gain - square * own)


@compiled(a_find(integer, integer, real, real, a_terms, a_pieces, a_memory, a_choice, a_state, a_turn), allocates=False)
def replacement(
    piece: int, here: int, before: float, best: float,
    terms: Terms, pieces: Pieces, memory: Memory, choice: Choice, state: State, turn: Turn,
) -> tuple[float, int]:  # fmt: skip
    """The piece of the pool that costs least in place of one, and its cost; −1 if all cost `best` or more."""
    _weigh_pool(here, before, terms, pieces, turn)
    target = -1
    for other in range(len(turn.cost)):
        if not turn.cost[other] < best or state.placed[other] >= 0 or choice.barred[other]:
            continue
        if fits(other, piece, here, memory, state.room):
            best, target = turn.cost[other], other
    return best, target


@compiled(a_find(integer, integer, real, a_terms, a_pieces, a_memory, a_state, a_heights, a_turn), allocates=False)
def exchange(
    own: int, here: int, best: float,
    terms: Terms, pieces: Pieces, memory: Memory, state: State, heights: Heights, turn: Turn,
) -> tuple[float, int]:  # fmt: skip
    """The placed piece that costs least in exchange for one, by its place `own` among them, and the cost; −1 if all
    cost `best` or more. A piece takes the same on every worker."""
    weight, even, tower, part, top, who = terms.weight, terms.even, heights.tower, turn.part, heights.top, heights.who
    piece, target, mine_pace = turn.inside[own], -1, terms.pace[here]
    anywhere = memory.need.shape[1] == 0
    for place in range(len(turn.inside)):
        other = int(turn.inside[place])
        there: int = state.placed[other]
        if there == here:
            continue
        change, its_pace = 0.0, terms.pace[there]
        for point in range(len(weight)):
            before, grows = tower[here, point], part[place, point] - part[own, point]
            its = tower[there, point]
            mine, falls = before + grows, its - grows
            rest = turn.rest[point]
            if who[point, 0] == there or who[point, 1] == there:
                rest = others(top, who, point, here, there)
            height = max(mine * mine_pace, falls * its_pace, rest)
            change += weight[point] * terms.tall * (height - top[point, 0])
            change += even[point] * grows * (mine_pace * (before + mine) - its_pace * (its + falls))
        if change < best and (anywhere or change_places(piece, here, other, there, memory, state.room)):
            best, target = change, other
    return best, target


@compiled(a_find(integer, integer, real, a_terms, a_pieces, a_memory, a_state, a_heights, a_turn), allocates=False)
def exchange_saved(
    own: int, here: int, best: float,
    terms: Terms, pieces: Pieces, memory: Memory, state: State, heights: Heights, turn: Turn,
) -> tuple[float, int]:  # fmt: skip
    """As `exchange`, where what a piece takes depends on the worker."""
    weight, level, size, share, saved = terms.weight, terms.level, pieces.size, pieces.share, pieces.saved
    piece, target, mine_pace = turn.inside[own], -1, terms.pace[here]
    for other in turn.inside:
        there = int(state.placed[other])
        if there == here:
            continue
        change, its_pace = 0.0, terms.pace[there]
        for point in range(len(weight)):
            old = size[point, piece] - saved[here, piece] * share[point, piece]
            new = size[point, other] - saved[here, other] * share[point, other]
            its_old = size[point, other] - saved[there, other] * share[point, other]
            its_new = size[point, piece] - saved[there, piece] * share[point, piece]
            mine, its = state.load[point, here], state.load[point, there]
            rest = others(heights.top, heights.who, point, here, there)
            height = max((mine + new - old) * mine_pace, (its + its_new - its_old) * its_pace, rest)
            more = new + its_new - old - its_old
            change += weight[point] * (terms.tall * (height - heights.top[point, 0]) - terms.worth * more)
            change -= level[point] * more * (2.0 * heights.total[point] + more)
            change += terms.even[point] * mine_pace * (new - old) * (2.0 * mine + new - old)
            change += terms.even[point] * its_pace * (its_new - its_old) * (2.0 * its + its_new - its_old)
        if change < best and change_places(piece, here, other, there, memory, state.room):
            best, target = change, other
    return best, target


@compiled(a_find(integer, integer, real, a_terms, a_pieces, a_memory, a_state, a_heights), allocates=False)
def free_slot(
    piece: int, here: int, best: float,
    terms: Terms, pieces: Pieces, memory: Memory, state: State, heights: Heights,
) -> tuple[float, int]:  # fmt: skip
    """The worker with a slot on which a piece costs least, and what its move there costs; −1 if all cost `best` or
    more."""
    weight, even, level, size, share = terms.weight, terms.even, terms.level, pieces.size, pieces.share
    target, depends = -1, pieces.saved.shape[0] > 0
    less = pieces.saved[here, piece] if depends else 0.0
    for there in range(len(state.slots)):
        if state.slots[there] <= 0 or there == here or not fits(piece, -1, there, memory, state.room):
            continue
        away, pace = pieces.saved[there, piece] if depends else 0.0, terms.pace[there]
        change = 0.0
        for point in range(len(weight)):
            old = size[point, piece] - less * share[point, piece]
            new = size[point, piece] - away * share[point, piece]
            mine, its = state.load[point, here] - old, state.load[point, there]
            rest = others(heights.top, heights.who, point, here, there)
            height = max(mine * terms.pace[here], (its + new) * pace, rest)
            change += weight[point] * (terms.tall * (height - heights.top[point, 0]) - terms.worth * (new - old))
            change -= level[point] * (new - old) * (2.0 * heights.total[point] + new - old)
            change -= even[point] * terms.pace[here] * old * (2.0 * mine + old)
            change += even[point] * pace * new * (2.0 * its + new)
        if change < best:
            best, target = change, there
    return best, target
