"""As many tokens as can go without loss, from experts with too many to experts with places left.

Where scores are equal, many tokens are as well off with another expert, at the same prices: then one shortest path at
a time is slow, and all moves that lose nothing are made at once. They form a network, whose blocking flows are found
in layers (Dinic, 1970; with unit capacities, Hopcroft and Karp, 1973). An arc's capacity is counted when a way leads
along it, for tokens that have moved change it.
"""

from __future__ import annotations

import numpy as np

from ..machine import compiled, flag, integer, out_integer_table, out_integers
from .matching_graph import FREE, GRAPH, look, move

NEAR = 2.0**-49
"""What is lost, relative to prices and scores, that counts as nothing: the rounding of the sum."""


@compiled(flag(integer, integer, *GRAPH))
def _tight(one, other, scores, chosen, held, holder, load, free, prices, loss, mover):
    """Whether a token can go from one expert to another without loss."""
    rise = prices[other] - prices[one]
    size = NEAR * (abs(prices[one]) + abs(prices[other]))
    for _ in range(2):
        least = loss[one, other]
        if not (least < np.inf and least + rise <= size + NEAR * abs(least)):
            return False
        token = mover[one, other]
        if token >= 0 and held[token, one] and not held[token, other]:
            return True
        look(one, other, scores, chosen, held, holder, load, free, prices, loss, mover)
    return False


@compiled(flag(integer, integer, *GRAPH))
def _open(one, other, scores, chosen, held, holder, load, free, prices, loss, mover):
    """Whether a free place can go from one expert to another without loss."""
    rise = prices[other] - prices[one]
    return free[one] > 0 and rise <= NEAR * (abs(prices[one]) + abs(prices[other]))


@compiled(integer(out_integers, out_integers, out_integers, *GRAPH))
def _layers(excess, depth, queue, scores, chosen, held, holder, load, free, prices, loss, mover):
    """depth (experts): moves that it takes to come there from an expert with an excess, −1 if there is no way. The
    least at which places are left; −1 if none can be reached."""
    graph = scores, chosen, held, holder, load, free, prices, loss, mover
    experts = len(load)
    head, tail, goal = 0, 0, -1
    for one in range(experts):
        depth[one] = -1
        if excess[one] > 0:
            depth[one] = 0
            queue[tail] = one
            tail += 1
    while head < tail:
        one = queue[head]
        head += 1
        if goal >= 0 and depth[one] >= goal:
            break
        for other in range(experts):
            if depth[other] < 0 and (_open(one, other, *graph) or _tight(one, other, *graph)):
                depth[other] = depth[one] + 1
                queue[tail] = other
                tail += 1
                if excess[other] < 0 and goal < 0:
                    goal = depth[other]
    return goal


@compiled(integer(integer, integer, out_integers, out_integer_table, *GRAPH))
def _send(steps, most, way, movers, scores, chosen, held, holder, load, free, prices, loss, mover):
    """Move as many tokens as can go along a way of so many steps, at most so many, each step's own; how many."""
    graph = scores, chosen, held, holder, load, free, prices, loss, mover
    amount = most
    for step in range(steps):
        one, other = way[step], way[step + 1]
        if _open(one, other, *graph):
            amount = min(amount, free[one])
            movers[step, 0] = FREE
        elif amount == 1:
            movers[step, 0] = mover[one, other]
        else:
            found = 0
            for place in range(load[one]):
                token = holder[one, place]
                if not held[token, other] and scores[token, one] - scores[token, other] <= loss[one, other]:
                    movers[step, found] = token
                    found += 1
                    if found == amount:
                        break
            amount = found
    for step in range(steps - 1, -1, -1):
        one, other = way[step], way[step + 1]
        if movers[step, 0] == FREE:
            free[one] -= amount
            free[other] += amount
        else:
            for place in range(amount):
                move(movers[step, place], one, other, *graph)
    return amount


@compiled(integer(integer, out_integers, *GRAPH))
def drain(most, excess, scores, chosen, held, holder, load, free, prices, loss, mover):
    """Move tokens and free places that lose nothing, until no more excess can go or `most` moves were made; how many.

    excess (experts): as in `level`. A layering costs O(experts²) and the arcs that it looks at.
    """
    graph = scores, chosen, held, holder, load, free, prices, loss, mover
    experts = len(load)
    depth = np.empty(experts, np.int64)
    queue = np.empty(experts, np.int64)
    place = np.empty(experts, np.int64)
    way = np.empty(experts + 1, np.int64)
    movers = np.empty((0, 0), np.int64)
    moves = 0
    while moves < most:
        goal = _layers(excess, depth, queue, *graph)
        if goal < 0:
            break
        if len(movers) < goal:
            movers = np.empty((goal, holder.shape[1]), np.int64)
        place[:] = 0
        for source in range(experts):
            if depth[source] != 0:
                continue
            way[0] = source
            steps = 0
            while excess[source] > 0 and steps >= 0 and moves < most:
                one = way[steps]
                if steps == goal:
                    amount = _send(steps, min(excess[source], -excess[one]), way, movers, *graph)
                    excess[source] -= amount
                    excess[one] += amount
                    moves += amount * steps
                    steps = 0
                    continue
                found = False
                while place[one] < experts:
                    other = place[one]
                    closer = depth[other] == steps + 1 and (steps + 1 < goal or excess[other] < 0)
                    if closer and (_open(one, other, *graph) or _tight(one, other, *graph)):
                        found = True
                        break
                    place[one] += 1
                if found:
                    steps += 1
                    way[steps] = place[one]
                else:
                    depth[one] = -1
                    steps -= 1
                    if steps >= 0:
                        place[way[steps]] += 1
    return moves
