"""Moves of single tokens, quick and not the best there are; and what any assignment is worth at its prices.

Where a gap is allowed, tokens beyond a capacity go straight to the nearest expert with room. By weak duality the prices
tell how much that lost at most: what each token would still pay for its best experts, beyond those that it has.
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
    out_integers,
    out_reals,
    real,
    real_table,
    reals,
)

FEW: Final = 64
"""Experts of a token up to which their order is found by comparing each with each."""


@compiled(real(real_table, integer, integer, reals, out_reals))
def _regret(scores, row, wanted, prices, own):
    """By how much the best choices of a token beat its own, whose values stand first in `own`; both by rank."""
    best = own[wanted:]
    kept = 0
    for expert in range(scores.shape[1]):
        now = scores[row, expert] - prices[expert]
        if kept == wanted and not now > best[kept - 1]:
            continue
        kept += 1 if kept < wanted else 0
        spot = kept - 1
        while spot > 0 and best[spot - 1] < now:
            best[spot] = best[spot - 1]
            spot -= 1
        best[spot] = now
    for place in range(1, wanted):
        now, spot = own[place], place
        while spot > 0 and own[spot - 1] < now:
            own[spot] = own[spot - 1]
            spot -= 1
        own[spot] = now
    regret = 0.0
    for place in range(wanted):
        regret += best[place] - own[place]
    return regret


@compiled(none(real_table, integer, integer, reals, out_integer_table, out_reals, out_reals))
def appraise(scores, first, last, prices, chosen, sums, scratch):
    """What tokens have and what they would still pay beyond it, for the tokens first…last − 1.

    chosen (tokens × k): the experts of each, which are put in order: by descending score, ties by number. sums: [0],
    [1] the scores of the choices, as a sum and its rounding error; [2] by how much the best choices at these prices
    are better, rounded up. scratch: of 2·experts numbers.
    """
    experts = scores.shape[1]
    total, error, regret = 0.0, 0.0, 0.0
    wanted = chosen.shape[1]
    own = scratch[:wanted]
    expert_of = np.empty(wanted, np.int64)
    score_of = np.empty(wanted)
    for row in range(first, last):
        for place in range(wanted):
            expert_of[place] = chosen[row, place]
            score_of[place] = scores[row, expert_of[place]]
        if wanted <= FEW:
            for place in range(wanted):
                expert, score, spot = expert_of[place], score_of[place], 0
                for other in range(wanted):
                    ahead = score_of[other] > score or (score_of[other] == score and expert_of[other] < expert)
                    spot += 1 if ahead else 0
                chosen[row, spot] = expert
        else:
            chosen[row] = expert_of[np.argsort(expert_of)]
            for place in range(wanted):
                score_of[place] = -scores[row, chosen[row, place]]
            chosen[row] = chosen[row][np.argsort(score_of, kind="mergesort")]
        least = np.inf
        for place in range(wanted):
            expert, score = expert_of[place], score_of[place]
            fresh = total + score  # two-sum (Knuth): the error of every addition is kept
            back = fresh - total
            error += (total - (fresh - back)) + (score - back)
            total = fresh
            own[place] = score - prices[expert]
            if own[place] < least:
                least = own[place]
        better = 0
        for expert in range(experts):
            better += 1 if scores[row, expert] - prices[expert] > least else 0
        for place in range(wanted):
            if own[place] > least:
                better -= 1
        if better > 0:
            regret += _regret(scores, row, wanted, prices, scratch) * (1 + 2.0**-50)
    sums[0] += total
    sums[1] += error
    sums[2] += regret


@compiled(
    integer(integer_table, real_table, integers, integer, integer, real, out_integers, out_integers, out_integer_table)
)
def shed(near, value, count, first, last, most, room, load, chosen):
    """Move tokens straight from experts over their capacity to listed ones with room, where that loses at most `most`.

    room, load (experts): places left, negative where there are too many tokens, and tokens; chosen (tokens × k): the
    experts of each. All three are kept up to date. How many tokens moved. Quick, and not the best there is.
    """
    wanted = chosen.shape[1]
    moves = 0
    for row in range(first, last):
        for place in range(wanted):
            one = near[row, place]
            if room[one] >= 0:
                continue
            spot = 0
            while spot < wanted and chosen[row, spot] != one:
                spot += 1
            if spot == wanted:
                continue
            for other_place in range(wanted, count[row]):
                if value[row, place] - value[row, other_place] > most:
                    break
                other = near[row, other_place]
                if room[other] <= 0:
                    continue
                taken = False
                for third in range(wanted):
                    taken = taken or chosen[row, third] == other
                if not taken:
                    chosen[row, spot] = other
                    room[one] += 1
                    room[other] -= 1
                    load[one] -= 1
                    load[other] += 1
                    moves += 1
                    break
    return moves


@compiled(integer(real_table, integer, reals, out_integers, out_integers, out_integer_table))
def squeeze(scores, most, prices, room, load, chosen):
    """Move `most` tokens from experts over their capacity to any with room, the cheapest of all each time; how many
    are left.

    For the few that `shed` finds no listed expert for. room, load, chosen: as there. A move costs O(tokens of the
    expert · experts with room).
    """
    tokens, wanted = chosen.shape
    rows = np.empty(tokens, np.int64)
    roomy = np.empty(len(room), np.int64)
    left = 0
    for one in range(len(room)):
        if room[one] >= 0:
            continue
        several = 0
        for row in range(tokens):
            for place in range(wanted):
                if chosen[row, place] == one:
                    rows[several] = row
                    several += 1
        while room[one] < 0:
            if most == 0:
                left -= room[one]
                break
            most -= 1
            open_ = 0
            for other in range(len(room)):
                roomy[open_] = other
                open_ += 1 if room[other] > 0 else 0
            best, spot, target = np.inf, -1, -1
            for place in range(several):
                row = rows[place]
                own = scores[row, one] - prices[one]
                for candidate in range(open_):
                    other = roomy[candidate]
                    cost = own - (scores[row, other] - prices[other])
                    if cost < best and not (chosen[row] == other).any():
                        best, spot, target = cost, place, other
            if spot < 0:
                left -= room[one]
                break
            row = rows[spot]
            several -= 1
            rows[spot] = rows[several]
            for place in range(wanted):
                if chosen[row, place] == one:
                    chosen[row, place] = target
                    break
            room[one] += 1
            room[target] -= 1
            load[one] -= 1
            load[target] += 1
    return left


@compiled(none(real_table, integer, integer, reals, out_integers, out_integers, out_integer_table))
def spill(scores, first, last, prices, room, load, chosen):
    """Move tokens first…last − 1 from experts over their capacity to the best for them with room, in one pass.

    For the many that are left when time is up. room, load, chosen: as in `shed`.
    """
    wanted = chosen.shape[1]
    for row in range(first, last):
        for place in range(wanted):
            one = chosen[row, place]
            if room[one] >= 0:
                continue
            best, target = -np.inf, -1
            for other in range(len(room)):
                if room[other] > 0:
                    now = scores[row, other] - prices[other]
                    if now > best and not (chosen[row] == other).any():
                        best, target = now, other
            if target >= 0:
                chosen[row, place] = target
                room[one] += 1
                room[target] -= 1
                load[one] -= 1
                load[target] += 1
