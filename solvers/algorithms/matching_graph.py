"""The graph of experts, whose arcs are the cheapest moves of a token: how it begins, what an arc costs, and a move.

`matching` says what it is for. All functions take the graph as the same nine arrays, `GRAPH`: scores, and what they
keep true: chosen (tokens × k) and held (tokens × experts), who has whom; holder (experts × places) and load (experts),
whom an expert has; free (experts), free places; prices (experts); loss and mover (experts × experts), the least that a
move from one to another loses and the token, or a lower bound and a token that is gone.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba.core.types import Array

from ..machine import (
    compiled,
    flag,
    integer,
    integer_table,
    integers,
    none,
    out_integer_table,
    out_integers,
    out_real_table,
    out_reals,
    real,
    real_table,
    reals,
)

FREE: Final = -2
"""Moves a free place, not a token."""

out_flag_table = Array(flag, 2, "C")
GRAPH = (
    real_table, out_integer_table, out_flag_table, out_integer_table, out_integers, out_integers, out_reals,
    out_real_table, out_integer_table,
)  # fmt: skip


@compiled(
    none(
        integer_table, real_table, integers, reals, integer, integer, real, out_integer_table, out_flag_table,
        out_integer_table, out_integers, out_real_table, out_integer_table, out_reals,
    )
)  # fmt: skip
def seat(near, value, count, cutoff, first, last, reach, chosen, held, holder, load, slack, mover, hidden):
    """Give the tokens first…last − 1 the experts that they want, and note the cheapest moves that are in sight.

    near, value, count, cutoff: as `survey` leaves them. chosen (tokens × k), held (tokens × experts) and holder
    (experts × places): who has whom; load (experts): how many. slack, mover (experts × experts): the least that a
    move costs beyond the prices, up to `reach`, and the token. hidden (experts): moves that are not in sight cost at
    least that beyond the prices.
    """
    wanted = chosen.shape[1]
    for row in range(first, last):
        listed = count[row]
        for place in range(wanted):
            expert = near[row, place]
            chosen[row, place] = expert
            held[row, expert] = True
            holder[expert, load[expert]] = row
            load[expert] += 1
            own = value[row, place]
            far = own - cutoff[row]
            if far > reach:
                far = reach
            if far < hidden[expert]:
                hidden[expert] = far
            if listed <= wanted or own - value[row, wanted] > reach:
                continue
            for other_place in range(wanted, listed):
                short = own - value[row, other_place]
                if short > reach:
                    break
                other = near[row, other_place]
                if short < slack[expert, other]:
                    slack[expert, other] = short
                    mover[expert, other] = row


@compiled(none(integer_table, out_flag_table, out_integer_table, out_integers))
def reseat(chosen, held, holder, load):
    """Note who has whom (held, holder, load; see `seat`) where nothing more is known of the tokens."""
    for row in range(len(chosen)):
        for place in range(chosen.shape[1]):
            expert = chosen[row, place]
            held[row, expert] = True
            holder[expert, load[expert]] = row
            load[expert] += 1


@compiled(none(real_table, reals, reals, out_real_table, out_integer_table))
def draw(scores, prices, hidden, loss, mover):
    """Turn what moves cost beyond the prices into loss (experts × experts), the scores that they lose; or a lower
    bound of that, where the cheapest move may be out of sight (mover −1)."""
    experts = len(prices)
    for one in range(experts):
        for other in range(experts):
            token = mover[one, other]
            if token >= 0 and loss[one, other] <= hidden[one]:
                loss[one, other] = scores[token, one] - scores[token, other]
            else:
                mover[one, other] = -1
                loss[one, other] = hidden[one] + prices[one] - prices[other]


@compiled(none(integer, integer, *GRAPH))
def look(one, other, scores, chosen, held, holder, load, free, prices, loss, mover):
    """Find the cheapest move from one expert to another."""
    best, token = np.inf, -1
    for place in range(load[one]):
        candidate = holder[one, place]
        if not held[candidate, other]:
            cost = scores[candidate, one] - scores[candidate, other]
            if cost < best:
                best, token = cost, candidate
    loss[one, other] = best
    mover[one, other] = token


@compiled(none(integer, integer, integer, *GRAPH))
def move(token, one, other, scores, chosen, held, holder, load, free, prices, loss, mover):
    """Move a token from one expert to another, or a free place back; and keep the arcs' lower bounds true."""
    if token == FREE:
        free[one] -= 1
        free[other] += 1
        return
    place = 0
    while holder[one, place] != token:
        place += 1
    load[one] -= 1
    holder[one, place] = holder[one, load[one]]
    holder[other, load[other]] = token
    load[other] += 1
    place = 0
    while chosen[token, place] != one:
        place += 1
    chosen[token, place] = other
    held[token, one] = False
    held[token, other] = True
    had, has = scores[token, one], scores[token, other]
    for third in range(len(load)):
        if held[token, third]:
            cost = scores[token, third] - had
            if cost < loss[third, one]:
                loss[third, one] = cost
                mover[third, one] = token
        else:
            cost = has - scores[token, third]
            if cost < loss[other, third]:
                loss[other, third] = cost
                mover[other, third] = token
