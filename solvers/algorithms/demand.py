"""How many lots of a group lie above a threshold, and which counts beside those are hardly worse: machine code.

Every group has a sequence of keys that falls with the lots bought: what the next lot takes off the objective per unit
of cost (`WORTH`), or the loss that the group is at (`LEVEL`). Its demand is the lots whose key is above a threshold:
looked for from a guess in strides that double, then by halves (Bentley and Yao, "An almost optimal algorithm for
unbounded searching", 1976), so that a good guess costs two keys whatever the counts are.
"""

from __future__ import annotations

import numpy as np

from ...specs.arrays import Floats, Integers
from ..machine import compiled, integer, none, out_integers, out_reals, real
from .learning_curves import (
    COLLECTED,
    COST,
    FIRST,
    LOT,
    LOW,
    OPENING,
    TOP,
    gain,
    log_at_level,
    loss_at,
    tables,
)

WORTH, LEVEL = 0, 1
AHEAD, BEHIND = 0, 1
"""Columns of `edge`: the keys of a group's next lot and of its last one; −1 and infinity where there is none."""
ENDLESS = 2.0**62
"""Stands for as many lots as there could be."""


@compiled(real(integer, *tables, integer, integer))
def key(kind: int, curve: Floats, bend: Floats, whole: Integers, group: int, lots: int) -> float:
    """What decides whether the lot after so many is bought."""
    if kind == LEVEL:
        return loss_at(curve, bend, whole, group, whole[group, COLLECTED] + lots * whole[group, LOT])
    if whole[group, OPENING] > 0 and lots == whole[group, LOW]:
        return curve[group, FIRST] / whole[group, COST]
    return gain(curve, bend, whole, group, lots) / whole[group, COST]


@compiled(integer(integer, *tables, real, integer, integer, integer, integer, out_reals))
def count_between(
    kind: int,
    curve: Floats,
    bend: Floats,
    whole: Integers,
    threshold: float,
    group: int,
    guess: int,
    low: int,
    top: int,
    edge: Floats,
) -> int:
    """The fewest lots in [low, top] after which the key is at most a threshold, `top` if there are none."""
    over, under, stride, towards = np.inf, -1.0, 1, 0
    start = low
    probe = min(max(guess, low), top - 1)
    while low < top:
        found = key(kind, curve, bend, whole, group, probe)
        if found > threshold:
            over, low, move = found, probe + 1, 1
        else:
            under, top, move = found, probe, -1
        if towards == 0 or move == towards:
            towards = move
            probe = low + stride - 1 if move > 0 else top - stride
            stride *= 2
        else:
            towards = 2  # turned back once: by halves from here
            probe = low + (top - low) // 2
        probe = min(max(probe, low), top - 1)
    edge[AHEAD], edge[BEHIND] = under, over if low > start else np.inf
    return low


@compiled(integer(integer, *tables, real, integer, integer, out_reals))
def count(
    kind: int,
    curve: Floats,
    bend: Floats,
    whole: Integers,
    threshold: float,
    group: int,
    guess: int,
    edge: Floats,
) -> int:
    """The lots of a group with a key above a threshold."""
    low, top = whole[group, LOW], whole[group, TOP]
    if kind == LEVEL or whole[group, OPENING] == 0:
        return count_between(kind, curve, bend, whole, threshold, group, guess, low, top, edge)
    first = curve[group, FIRST] / whole[group, COST]
    if first <= threshold:
        edge[AHEAD], edge[BEHIND] = first, np.inf
        return low
    opened = low + whole[group, OPENING]
    lots = count_between(kind, curve, bend, whole, threshold, group, guess, opened, top, edge)
    if lots == opened:
        edge[BEHIND] = first
    return lots


@compiled(none(*tables, real, out_integers))
def demand(curve: Floats, bend: Floats, whole: Integers, price: float, counts: Integers) -> None:
    """(groups,) the lots that are worth more than a price per unit of cost, looked for from the counts given."""
    edge = np.empty(2)
    for group in range(len(whole)):
        counts[group] = count(WORTH, curve, bend, whole, price, group, counts[group], edge)


@compiled(none(*tables, real, out_integers))
def need(curve: Floats, bend: Floats, whole: Integers, level: float, counts: Integers) -> None:
    """(groups,) the fewest lots that bring each loss to a level; one above TOP if none do, LOW if that is LOW."""
    edge = np.empty(2)
    for group in range(len(whole)):
        low, top = whole[group, LOW], whole[group, TOP]
        counts[group] = low
        if low < top:
            log, guess = log_at_level(curve, bend, whole, group, level), low
            if not np.isnan(log):
                aim = (min(np.exp(log), ENDLESS) - whole[group, COLLECTED]) / whole[group, LOT]
                guess = int(np.ceil(min(max(aim, float(low)), float(top))))
            counts[group] = count(LEVEL, curve, bend, whole, level, group, guess, edge)
            if counts[group] == top and key(LEVEL, curve, bend, whole, group, top) > level:
                counts[group] = top + 1


@compiled(integer(*tables, real, real, out_integers, out_integers, out_integers, out_reals))
def in_doubt(
    curve: Floats,
    bend: Floats,
    whole: Integers,
    price: float,
    short: float,
    counts: Integers,
    group: Integers,
    lots: Integers,
    regret: Floats,
) -> int:
    """How many counts regret no more than `short`, which is what a better purchase could still gain; −1 if too many.

    counts: (groups,) become the best at the price. group, lots: whose it is, and by how much it differs from that;
    regret: what it is worth less, at the price. The best itself is among them, for every group.
    """
    size, edge = 0, np.empty(2)
    for item in range(len(whole)):
        best = count(WORTH, curve, bend, whole, price, item, counts[item], edge)
        counts[item] = best
        low, top, rent = whole[item, LOW], whole[item, TOP], price * whole[item, COST]
        opened = low + whole[item, OPENING]
        if opened - low > len(group) or size == len(group):
            return -1
        group[size], lots[size], regret[size] = item, 0, 0.0
        size += 1
        for direction in range(-1, 2, 2):
            total, at = 0.0, best
            while low < at if direction < 0 else at < top:
                total -= direction * gain(curve, bend, whole, item, min(at, at + direction))
                total += direction * rent
                at += direction
                if total <= short:
                    if size == len(group):
                        return -1
                    group[size], lots[size], regret[size] = item, at - best, max(total, 0.0)
                    size += 1
                elif not low <= at < opened:
                    break
    return size
