"""The records that the search of `makespan` works on, and how a placement changes by a piece: machine code.

Tables of a column per worker or piece are laid out point by point, (points × workers) and (points × pieces): a sweep
over the pool is then a sweep over memory. The three heaviest workers are kept for each point, so that a move is
judged in O(points).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.core.types import BaseTuple
from numpy.typing import NDArray

from ...specs.arrays import Floats, Integers
from ..machine import (
    compiled,
    flag,
    flags,
    integer,
    integer_table,
    none,
    out_integer_table,
    out_integers,
    out_real_table,
    out_reals,
    real,
    real_table,
    reals,
)

Flags = NDArray[np.bool_]

TOPS = 3
"""Heaviest workers kept for each point: two may take part in an exchange, so one of three is left."""
NOBODY, FLOOR = -1, -2
"""In place of a worker among the heaviest: none, and the height that counts as reached anyway."""


class Terms(NamedTuple):
    """What is minimised: Σ_j weight_j·(tall·M_j − worth·Σ_g load[j,g]) and, a little, how uneven the loads are.

    weight, even: (points,). level: (points,) even/Σ speed, which makes unevenness the same for all who add to the sum
    of the loads. floor: (points,) height that counts as reached anyway. pace: (workers,) 1/speed.
    """

    weight: Floats
    tall: float
    worth: float
    even: Floats
    level: Floats
    floor: Floats
    pace: Floats


class Pieces(NamedTuple):
    """What pieces take up. size, share: (points × pieces). saved: (workers × pieces), or no rows: a piece on a worker
    takes size − saved·share."""

    size: Floats
    share: Floats
    saved: Floats


class Memory(NamedTuple):
    """What pieces take of the workers' room, in whole units. need, halves: (points × pieces), no columns where memory
    is no limit. spared: (workers × pieces), or no rows: a piece on a worker takes need − spared·halves/2."""

    need: Integers
    halves: Integers
    spared: Integers


class Choice(NamedTuple):
    """Whom a search may exchange, (pieces,) each. fixed: placed pieces that may not be taken out. barred: pieces of the
    pool that may not be put in."""

    fixed: Flags
    barred: Flags


class State(NamedTuple):
    """A placement. placed: (pieces,) worker, −1 for none. slots: (workers,) that are left. load, room: (points ×
    workers) what is there, and what memory is left."""

    placed: Integers
    slots: Integers
    load: Floats
    room: Integers


class Heights(NamedTuple):
    """How high the workers stand. top, who: (points × TOPS) the heaviest and their heights. total: (points,) the sum
    of all loads. tower: (workers × points) the loads, worker by worker."""

    top: Floats
    who: Integers
    total: Floats
    tower: Floats


def record(kind: type[Any], *types: Any) -> Any:
    """The machine type of a record of these types."""
    return BaseTuple.from_types(types, kind)


a_terms = record(Terms, reals, real, real, reals, out_reals, reals, reals)
a_pieces = record(Pieces, real_table, real_table, real_table)
a_memory = record(Memory, integer_table, integer_table, integer_table)
a_choice = record(Choice, flags, flags)
a_state = record(State, out_integers, out_integers, out_real_table, out_integer_table)
a_heights = record(Heights, out_real_table, out_integer_table, out_reals, out_real_table)


@compiled(real(reals))
def added_up(values: Floats) -> float:
    """Their sum, one after the other."""
    total = 0.0
    for value in values:
        total += value
    return total


@compiled(none(real_table, reals, real, integer, out_real_table, out_integer_table), allocates=False)
def _rank(load: Floats, pace: Floats, floor: float, point: int, top: Floats, who: Integers) -> None:
    """The heaviest workers at a point, from scratch."""
    top[point, 0], who[point, 0] = floor, FLOOR
    for rank in range(1, TOPS):
        top[point, rank], who[point, rank] = 0.0, NOBODY
    for at in range(load.shape[1]):
        height = load[point, at] * pace[at]
        if height > top[point, 2] or who[point, 2] == NOBODY:
            place = 2
            while place > 0 and (height > top[point, place - 1] or who[point, place - 1] == NOBODY):
                top[point, place], who[point, place] = top[point, place - 1], who[point, place - 1]
                place -= 1
            top[point, place], who[point, place] = height, at


@compiled(none(a_terms, real_table, a_heights), allocates=False)
def look(terms: Terms, load: Floats, heights: Heights) -> None:
    """Take the heights from the loads."""
    for point in range(load.shape[0]):
        _rank(load, terms.pace, terms.floor[point], point, heights.top, heights.who)
        heights.total[point] = added_up(load[point])
        for at in range(load.shape[1]):
            heights.tower[at, point] = load[point, at]


@compiled(a_heights(a_terms, real_table))
def heights_of(terms: Terms, load: Floats) -> Heights:
    """The heights of some loads."""
    points, workers = load.shape
    heights = Heights(
        np.empty((points, TOPS)), np.empty((points, TOPS), np.int64), np.empty(points), np.empty((workers, points))
    )
    look(terms, load, heights)
    return heights


@compiled(none(integer, integer, a_terms, real_table, a_heights), allocates=False)
def look_again(one: int, two: int, terms: Terms, load: Floats, heights: Heights) -> None:
    """Bring the heights up to date after the loads of one worker, or two, have changed (−1 for none)."""
    top, who = heights.top, heights.who
    for at in (one, two):
        if at < 0:
            continue
        for point in range(load.shape[0]):
            heights.total[point] -= heights.tower[at, point]
            heights.tower[at, point] = load[point, at]
            heights.total[point] += load[point, at]
            height = load[point, at] * terms.pace[at]
            if height > top[point, 2] or who[point, 0] == at or who[point, 1] == at or who[point, 2] == at:
                _rank(load, terms.pace, terms.floor[point], point, top, who)


@compiled(real(real_table, out_integer_table, integer, integer, integer), allocates=False)
def others(top: Floats, who: Integers, point: int, one: int, two: int) -> float:
    """The heaviest of all workers but two."""
    for rank in range(TOPS):
        if who[point, rank] != one and who[point, rank] != two:
            return top[point, rank]
    return 0.0


@compiled(none(integer, integer, integer, a_pieces, a_memory, a_state), allocates=False)
def put(piece: int, at: int, sign: int, pieces: Pieces, memory: Memory, state: State) -> None:
    """Puts a piece on a worker, or with −1 takes it off: its load and its memory."""
    less = pieces.saved[at, piece] if pieces.saved.shape[0] else 0.0
    for point in range(state.load.shape[0]):
        state.load[point, at] += sign * (pieces.size[point, piece] - less * pieces.share[point, piece])
    if memory.need.shape[1] == 0:
        return
    spared = memory.spared[at, piece] if memory.spared.shape[0] else 0
    for point in range(state.room.shape[0]):
        state.room[point, at] -= sign * (memory.need[point, piece] - spared * memory.halves[point, piece] // 2)


@compiled(flag(integer, integer, integer, a_memory, integer_table), allocates=False)
def fits(piece: int, instead: int, at: int, memory: Memory, room: Integers) -> bool:
    """Whether a worker has the memory for a piece, in place of another (−1 for none)."""
    need, halves, spared = memory.need, memory.halves, memory.spared
    if need.shape[1] == 0:
        return True
    less = spared[at, piece] if spared.shape[0] else 0
    back = spared[at, instead] if spared.shape[0] and instead >= 0 else 0
    for point in range(room.shape[0]):
        there = room[point, at]
        if instead >= 0:
            there += need[point, instead] - back * halves[point, instead] // 2
        if need[point, piece] - less * halves[point, piece] // 2 > there:
            return False
    return True


@compiled(flag(integer, integer, integer, integer, a_memory, integer_table), allocates=False)
def change_places(one: int, here: int, two: int, there: int, memory: Memory, room: Integers) -> bool:
    """Whether two pieces on two workers have the memory to change places."""
    return fits(two, one, here, memory, room) and fits(one, two, there, memory, room)
