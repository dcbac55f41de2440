"""Sized pieces on workers so that the heaviest is as light as can be, at several points in time at once: machine code.

    minimise Σ_j weight_j·(tall·M_j − worth·Σ_g load[j,g]),   M_j = max_g load[j,g]/speed[g]

over which pieces of a pool are placed, a given number of them, and on which worker with a slot. A piece takes a
different amount at every point j, and the amount may depend on the worker. First come the longest to the worker on
which each costs least (Graham, "Bounds on multiprocessing timing anomalies", 1969, with a cost in place of the load);
then, piece by piece, the best of all moves to a free slot, exchanges of two placed pieces and replacements by a
piece left in the pool, until none helps. Of plans that cost the same, the one whose loads are more even is taken.

Tables of a column per worker or piece are laid out point by point, (points × workers) and (points × pieces): a sweep
over the pool is then a sweep over memory. The three heaviest workers are kept for each point, so that a move is
judged in O(points), a piece against the whole pool in O(points × pool).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...specs.arrays import Floats, Integers
from ..machine import (
    compiled,
    flag,
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

Flags = NDArray[np.bool_]

TOPS = 3
"""Heaviest workers kept for each point: two may take part in an exchange, so one of three is left."""
LEFT, MOVES, TURN, IDLE = 0, 1, 2, 3
"""Counters of a search: work that may still be done, moves made, whose turn it is, turns without a move."""
PAIR = 8
"""Work of judging an exchange beside that of its points, in the unit of a piece of the pool at a point: about 1 ns."""


@compiled(none(real_table, reals, integer, out_real_table, out_integer_table))
def _rank(load: Floats, pace: Floats, point: int, top: Floats, who: Integers) -> None:
    """The heaviest workers at a point, from scratch."""
    for rank in range(TOPS):
        top[point, rank], who[point, rank] = 0.0, -1
    for at in range(load.shape[1]):
        height = load[point, at] * pace[at]
        if height > top[point, 2] or who[point, 2] < 0:
            place = 2
            while place > 0 and (height > top[point, place - 1] or who[point, place - 1] < 0):
                top[point, place], who[point, place] = top[point, place - 1], who[point, place - 1]
                place -= 1
            top[point, place], who[point, place] = height, at


@compiled(none(real_table, reals, integer, out_real_table, out_integer_table))
def _changed(load: Floats, pace: Floats, at: int, top: Floats, who: Integers) -> None:
    """Bring the heaviest workers up to date after the load of one has changed."""
    for point in range(load.shape[0]):
        height = load[point, at] * pace[at]
        if height > top[point, 2] or who[point, 0] == at or who[point, 1] == at or who[point, 2] == at:
            _rank(load, pace, point, top, who)


@compiled(real(reals))
def _sum(values: Floats) -> float:
    total = 0.0
    for value in values:
        total += value
    return total


@compiled(real(real_table, out_integer_table, integer, integer, integer))
def _others(top: Floats, who: Integers, point: int, one: int, two: int) -> float:
    """The heaviest of all workers but two."""
    for rank in range(TOPS):
        if who[point, rank] != one and who[point, rank] != two:
            return top[point, rank]
    return 0.0


@compiled(none(integer, integer, real, real_table, real_table, real_table, reals, out_real_table))
def _put(
    piece: int, at: int, sign: float, size: Floats, share: Floats, saved: Floats, pace: Floats, load: Floats
) -> None:
    """Adds a piece to a worker's load, or takes it off. saved: (workers × pieces), or no rows."""
    less = saved[at, piece] if saved.shape[0] else 0.0
    for point in range(load.shape[0]):
        load[point, at] += sign * (size[point, piece] - less * share[point, piece])


@compiled(none(integer, integer, integer, integer_table, integer_table, integer_table, out_integer_table))
def _take(piece: int, at: int, sign: int, need: Integers, halves: Integers, spared: Integers, room: Integers) -> None:
    """Takes a piece's memory from a worker's room; nothing where memory is no limit (no columns in `need`)."""
    if need.shape[1] == 0:
        return
    less = spared[at, piece] if spared.shape[0] else 0
    for point in range(room.shape[0]):
        room[point, at] -= sign * (need[point, piece] - less * halves[point, piece] // 2)


@compiled(flag(integer, integer, integer, integer_table, integer_table, integer_table, out_integer_table))
def _fits(
    piece: int, instead: int, at: int, need: Integers, halves: Integers, spared: Integers, room: Integers
) -> bool:
    """Whether a worker has the memory for a piece, in place of another (−1 for none)."""
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


@compiled(
    none(
        integers, reals, real, real, reals, reals, real_table, real_table, real_table,
        integer_table, integer_table, integer_table, flags,
        out_integers, out_integers, out_real_table, out_integer_table,
    )
)  # fmt: skip
def begin(
    order: Integers, weight: Floats, tall: float, worth: float, even: Floats, pace: Floats,
    size: Floats, share: Floats, saved: Floats, need: Integers, halves: Integers, spared: Integers, guarded: Flags,
    placed: Integers, slots: Integers, load: Floats, room: Integers,
) -> None:  # fmt: skip
    """Places pieces in the order given, each where it costs least, until one that is guarded fits nowhere.

    Those that fit nowhere and are not guarded are passed over. Changes `placed`, `slots`, `load` and `room`.
    O(pieces · workers with a slot · points).
    """
    points = load.shape[0]
    top, who = np.empty((points, TOPS)), np.empty((points, TOPS), np.int64)
    level, total = even / _sum(1.0 / pace), np.empty(points)
    for point in range(points):
        _rank(load, pace, point, top, who)
        total[point] = _sum(load[point])
    tower, open_ = load.T.copy(), np.flatnonzero(slots > 0)
    for piece in order:
        if placed[piece] >= 0:
            continue
        best, best_cost, best_second = -1, np.inf, np.inf
        for seat in range(len(open_)):
            at = int(open_[seat])
            if slots[at] <= 0 or not _fits(piece, -1, at, need, halves, spared, room):
                continue
            less = saved[at, piece] if saved.shape[0] else 0.0
            cost, second = 0.0, 0.0
            for point in range(points):
                added = size[point, piece] - less * share[point, piece]
                height = (tower[at, point] + added) * pace[at]
                if height > top[point, 0]:
                    cost += weight[point] * tall * (height - top[point, 0])
                cost -= weight[point] * worth * added
                second += even[point] * added * (2.0 * tower[at, point] + added) * pace[at]
                second -= level[point] * added * (2.0 * total[point] + added)
            if cost + second < best_cost or (cost + second == best_cost and second < best_second):
                best, best_cost, best_second = at, cost + second, second
        if best < 0:
            if guarded[piece]:
                return
            continue
        placed[piece] = best
        slots[best] -= 1
        for point in range(points):
            total[point] -= load[point, best]
        _put(piece, best, 1.0, size, share, saved, pace, load)
        for point in range(points):
            total[point] += load[point, best]
            tower[best, point] = load[point, best]
        _take(piece, best, 1, need, halves, spared, room)
        _changed(load, pace, best, top, who)


@compiled(
    none(
        reals, real, real, reals, reals, real_table, real_table, real_table,
        integer_table, integer_table, integer_table, flags, reals,
        out_integers, out_integers, out_real_table, out_integer_table, out_integers,
    )
)  # fmt: skip
def improve(
    weight: Floats, tall: float, worth: float, even: Floats, pace: Floats,
    size: Floats, share: Floats, saved: Floats, need: Integers, halves: Integers, spared: Integers,
    fixed: Flags, fee: Floats,
    placed: Integers, slots: Integers, load: Floats, room: Integers, counter: Integers,
) -> None:  # fmt: skip
    """Makes the best move of one placed piece after the other until none helps, or the work in `counter` is done.

    fixed: pieces that may not be taken out. fee: what having a piece costs besides; infinite if it may not be put
    in. counter: work that may be done (about 1 ns each), moves made, whose turn it is, turns without a move; called
    again, the search goes on where it stood.
    """
    points, workers = load.shape
    pieces = len(placed)
    top, who = np.empty((points, TOPS)), np.empty((points, TOPS), np.int64)
    scale, level, total = 0.0, even / _sum(1.0 / pace), np.empty(points)
    for point in range(points):
        _rank(load, pace, point, top, who)
        total[point] = _sum(load[point])
        scale += weight[point] * tall * top[point, 0]
    least = 1e-12 * scale
    inside = np.flatnonzero(placed >= 0)
    tower = load.T.copy()  # worker by worker, and so are the parts that the placed pieces have in it
    part = np.empty((len(inside), points))
    if saved.shape[0] == 0:
        for place in range(len(inside)):
            for point in range(points):
                part[place, point] = size[point, inside[place]]
    cost = np.empty(pieces)
    bare, rest, spread = np.empty(points), np.empty(points), np.empty(points)
    seats = False
    for at in range(workers):
        seats |= slots[at] > 0
    while counter[LEFT] > 0 and counter[IDLE] < len(inside):
        turn = counter[TURN] % len(inside)
        piece = int(inside[turn])
        here: int = placed[piece]
        speed = pace[here]
        less = saved[here, piece] if saved.shape[0] else 0.0
        before = 0.0  # what the worker without the piece gives up against the worker with it
        for point in range(points):
            own = size[point, piece] - less * share[point, piece]
            bare[point] = load[point, here] - own
            rest[point] = _others(top, who, point, here, -1)
            before += weight[point] * (tall * top[point, 0] - worth * own)
            before += even[point] * own * (2.0 * bare[point] + own) * speed
            before -= level[point] * own * (2.0 * total[point] - own)
            spread[point] = total[point] - own
        best, kind, target = -least, 0, -1
        if not fixed[piece]:
            for other in range(pieces):
                cost[other] = fee[other] - fee[piece] - before
            for point in range(points):
                base, high, factor = bare[point], rest[point], weight[point] * tall
                gain = weight[point] * worth - 2.0 * (even[point] * speed * base - level[point] * spread[point])
                square = even[point] * speed - level[point]
                if saved.shape[0]:
                    for other in range(pieces):
                        own = size[point, other] - saved[here, other] * share[point, other]
                        height = (base + own) * speed
                        cost[other] += factor * (height if height > high else high) - own * (gain - square * own)
                else:
                    for other in range(pieces):
                        own = size[point, other]
                        height = (base + own) * speed
                        cost[other] += factor * (height if height > high else high) - own * (gain - square * own)
            counter[LEFT] -= points * pieces
            for other in range(pieces):
                if not (cost[other] < best and placed[other] < 0):
                    continue
                if _fits(other, piece, here, need, halves, spared, room):
                    best, kind, target = cost[other], 1, other
        for place in range(len(inside)):
            other: int = inside[place]
            there: int = placed[other]
            if there == here:
                continue
            if saved.shape[0] == 0:
                change = 0.0
                its_pace = pace[there]
                for point in range(points):
                    own, grows = tower[here, point], part[place, point] - part[turn, point]
                    its = tower[there, point]
                    mine, falls = own + grows, its - grows
                    others = (
                        rest[point]
                        if who[point, 0] != there and who[point, 1] != there
                        else _others(top, who, point, here, there)
                    )
                    height = max(mine * speed, falls * its_pace, others)
                    change += weight[point] * tall * (height - top[point, 0])
                    change += even[point] * grows * (speed * (own + mine) - its_pace * (its + falls))
                if change < best and (
                    need.shape[1] == 0
                    or (
                        _fits(other, piece, here, need, halves, spared, room)
                        and _fits(piece, other, there, need, halves, spared, room)
                    )
                ):
                    best, kind, target = change, 2, other
                continue
            back = saved[here, other] if saved.shape[0] else 0.0
            away = saved[there, piece] if saved.shape[0] else 0.0
            home = saved[there, other] if saved.shape[0] else 0.0
            change = 0.0
            for point in range(points):
                old = size[point, piece] - less * share[point, piece]
                new = size[point, other] - back * share[point, other]
                mine, its = load[point, here] + new - old, load[point, there]
                old2 = size[point, other] - home * share[point, other]
                new2 = size[point, piece] - away * share[point, piece]
                its = its + new2 - old2
                height = max(mine * speed, its * pace[there], _others(top, who, point, here, there))
                more = new + new2 - old - old2
                change += weight[point] * (tall * (height - top[point, 0]) - worth * more)
                change -= level[point] * more * (2.0 * total[point] + more)
                change += even[point] * speed * (new - old) * (2.0 * load[point, here] + new - old)
                change += even[point] * pace[there] * (new2 - old2) * (2.0 * load[point, there] + new2 - old2)
            if change < best and (
                need.shape[1] == 0
                or (
                    _fits(other, piece, here, need, halves, spared, room)
                    and _fits(piece, other, there, need, halves, spared, room)
                )
            ):
                best, kind, target = change, 2, other
        counter[LEFT] -= (PAIR + 4 * points) * len(inside)
        if seats:
            for there in range(workers):
                if slots[there] <= 0 or there == here or not _fits(piece, -1, there, need, halves, spared, room):
                    continue
                away = saved[there, piece] if saved.shape[0] else 0.0
                change = 0.0
                for point in range(points):
                    old = size[point, piece] - less * share[point, piece]
                    new = size[point, piece] - away * share[point, piece]
                    mine, its = load[point, here] - old, load[point, there] + new
                    height = max(mine * speed, its * pace[there], _others(top, who, point, here, there))
                    change += weight[point] * (tall * (height - top[point, 0]) - worth * (new - old))
                    change -= level[point] * (new - old) * (2.0 * total[point] + new - old)
                    change -= even[point] * speed * old * (2.0 * mine + old)
                    change += even[point] * pace[there] * new * (2.0 * load[point, there] + new)
                if change < best:
                    best, kind, target = change, 3, there
            counter[LEFT] -= (PAIR + 4 * points) * workers
        counter[TURN] = turn + 1
        if kind == 0:
            counter[IDLE] += 1
            continue
        counter[IDLE] = 0
        counter[MOVES] += 1
        goes = placed[target] if kind == 2 else target if kind == 3 else -1
        for point in range(points):
            total[point] -= load[point, here] + (load[point, goes] if goes >= 0 else 0.0)
        _put(piece, here, -1.0, size, share, saved, pace, load)
        _take(piece, here, -1, need, halves, spared, room)
        if kind == 1:
            placed[piece] = -1
            placed[target], inside[turn] = here, target
            _put(target, here, 1.0, size, share, saved, pace, load)
            _take(target, here, 1, need, halves, spared, room)
        elif kind == 2:
            _put(target, goes, -1.0, size, share, saved, pace, load)
            _take(target, goes, -1, need, halves, spared, room)
            placed[target] = here
            _put(target, here, 1.0, size, share, saved, pace, load)
            _take(target, here, 1, need, halves, spared, room)
        else:
            slots[here] += 1
            slots[goes] -= 1
        if goes >= 0:
            placed[piece] = goes
            _put(piece, goes, 1.0, size, share, saved, pace, load)
            _take(piece, goes, 1, need, halves, spared, room)
            _changed(load, pace, goes, top, who)
        _changed(load, pace, here, top, who)
        for point in range(points):
            total[point] += load[point, here] + (load[point, goes] if goes >= 0 else 0.0)
            tower[here, point] = load[point, here]
            if goes >= 0:
                tower[goes, point] = load[point, goes]
            part[turn, point] = size[point, inside[turn]]


@compiled(real(reals, real, real, reals, reals, real_table, integers, reals))
def cost(
    weight: Floats, tall: float, worth: float, even: Floats, pace: Floats, load: Floats, placed: Integers, fee: Floats
) -> float:
    """What is minimised, unevenness and fees included."""
    points, workers = load.shape
    room, total = _sum(1.0 / pace), 0.0
    for point in range(points):
        height, sum, squares = 0.0, 0.0, 0.0
        for at in range(workers):
            amount = load[point, at]
            height = max(height, amount * pace[at])
            sum += amount
            squares += amount * amount * pace[at]
        total += weight[point] * (tall * height - worth * sum) + even[point] * (squares - sum * sum / room)
    for piece in range(len(placed)):
        if placed[piece] >= 0:
            total += fee[piece]
    return total


@compiled(
    integer(
        reals, real, real, reals, reals, real_table, real_table, real_table,
        integer_table, integer_table, integer_table, flags, reals,
        out_integers, out_integers, out_real_table, out_integer_table, integer, integer, integer,
    )
)  # fmt: skip
def shake(
    weight: Floats, tall: float, worth: float, even: Floats, pace: Floats,
    size: Floats, share: Floats, saved: Floats, need: Integers, halves: Integers, spared: Integers,
    fixed: Flags, fee: Floats,
    placed: Integers, slots: Integers, load: Floats, room: Integers, rounds: int, work: int, state: int,
) -> int:  # fmt: skip
    """Leaves a placement that no single move betters by a random exchange, and searches on from there, again and again.

    Each round puts another piece of the pool in the place of a placed one, or exchanges two; what comes of it is
    kept if it costs less. state: of a linear congruential generator with Knuth's constants. Returns its next state.
    """
    inside = np.flatnonzero(placed >= 0)
    outside = np.flatnonzero((placed < 0) & (fee < np.inf))
    best = cost(weight, tall, worth, even, pace, load, placed, fee)
    least = 1e-12 * abs(best)
    place_before, slots_before, load_before, room_before = placed.copy(), slots.copy(), load.copy(), room.copy()
    counter = np.zeros(4, np.int64)
    done = 0
    while done < rounds and work > 0 and len(inside) > 0:
        done += 1
        state = state * 6364136223846793005 + 1442695040888963407
        turn = ((state >> 33) & 0x3FFFFFFF) % len(inside)
        piece = int(inside[turn])
        here: int = placed[piece]
        state = state * 6364136223846793005 + 1442695040888963407
        if not fixed[piece] and len(outside) > 0:
            other = outside[((state >> 33) & 0x3FFFFFFF) % len(outside)]
            if not _fits(other, piece, here, need, halves, spared, room):
                continue
            there = -1
        else:
            other = inside[((state >> 33) & 0x3FFFFFFF) % len(inside)]
            there = int(placed[int(other)])
            if there == here or not (
                _fits(other, piece, here, need, halves, spared, room)
                and _fits(piece, other, there, need, halves, spared, room)
            ):
                continue
        _put(piece, here, -1.0, size, share, saved, pace, load)
        _take(piece, here, -1, need, halves, spared, room)
        if there >= 0:
            _put(other, there, -1.0, size, share, saved, pace, load)
            _take(other, there, -1, need, halves, spared, room)
            _put(piece, there, 1.0, size, share, saved, pace, load)
            _take(piece, there, 1, need, halves, spared, room)
        _put(other, here, 1.0, size, share, saved, pace, load)
        _take(other, here, 1, need, halves, spared, room)
        placed[other], placed[piece] = here, there
        counter[LEFT], counter[IDLE], counter[TURN] = work, 0, np.searchsorted(np.flatnonzero(placed >= 0), other) + 1
        improve(
            weight, tall, worth, even, pace, size, share, saved, need, halves, spared, fixed, fee,
            placed, slots, load, room, counter,
        )  # fmt: skip
        work = counter[LEFT]
        reached = cost(weight, tall, worth, even, pace, load, placed, fee)
        if reached < best - least:
            best = reached
            place_before[:], slots_before[:] = placed, slots
            load_before[:], room_before[:] = load, room
            inside = np.flatnonzero(placed >= 0)
            outside = np.flatnonzero((placed < 0) & (fee < np.inf))
        else:
            placed[:], slots[:] = place_before, slots_before
            load[:], room[:] = load_before, room_before
    return state
