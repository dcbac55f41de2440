"""An assignment of tokens to experts that meets every capacity, exactly optimal, from nearly right prices.

Every token starts with the experts that it wants at these prices: the best there is for it, but some experts are
over their capacity and others have places left. Tokens then move, one at a time, along shortest paths of the graph of
experts, in which an arc a → b is the cheapest move of a token that a has and b has not: its loss of score, plus
what b costs more than a. Such moves keep every token with what is best for it at prices that follow the lengths of
the paths, so that meeting the last capacity proves the optimum (successive shortest paths with potentials: Edmonds
and Karp, 1972; Tomizawa, 1971). One search serves as many paths of its forest as do not meet.

Free places are tokens as well, that nobody holds and any expert may have at no loss: so an expert with places left
costs nothing in the end, and the two sides are equal.

What an arc costs is looked up late: an arc has a lower bound until a path wants to use it, and then the tokens of its
tail are looked at. Near the optimum few arcs of the many are ever wanted.
"""

from __future__ import annotations

import numpy as np

from ..machine import (
    compiled,
    flag,
    integer,
    none,
    out_integers,
    out_reals,
    real_table,
)
from .matching_flow import drain
from .matching_graph import FREE, GRAPH, look, move

PATIENCE = 64
"""Searches at most between two trials of moves that lose nothing."""
MANY = 16
"""Such moves from which on the trial was worth it."""
DRAINED = 1024
"""Such moves after which the caller has time to look at the clock."""


@compiled(integer(integer, *GRAPH, out_reals, out_integers, out_integers))
def search(goals, scores, chosen, held, holder, load, free, prices, loss, mover, distance, parent, order):
    """Shortest paths over the experts, in the order in which they are reached, until all goals are; how many are.

    distance (experts): at first 0 where a path may start (or what starting there costs), infinite elsewhere; then the
    length. parent: the expert before, −1 at a start; experts + that where a free place moves, not a token. order: the
    experts by distance. goals (experts) marked in order: 1 for a goal, else 0, −1 to reach all. Dijkstra's method
    over a dense graph, O(experts²), whose arcs are looked up when the search is about to use them.
    """
    experts = len(load)
    goal = np.empty(experts, np.int64)
    goal[:] = order
    todo = np.arange(experts)
    label = np.empty(experts)
    label[:] = distance
    parent[:] = -1
    count, left, met = 0, experts, 0
    while left > 0:
        spot, best = -1, np.inf
        for place in range(left):
            if label[todo[place]] < best:
                best = label[todo[place]]
                spot = place
        if spot < 0:
            break
        here = todo[spot]
        before = parent[here]
        if 0 <= before < experts:
            token = mover[before, here]
            if token < 0 or not held[token, before] or held[token, here]:
                look(before, here, scores, chosen, held, holder, load, free, prices, loss, mover)
                label[here] = distance[here]
                parent[here] = -1
                for place in range(count):
                    other = order[place]
                    far = distance[other] + max(loss[other, here] + prices[here] - prices[other], 0.0)
                    if far < label[here]:
                        label[here] = far
                        parent[here] = other
                    if free[other] > 0:
                        far = distance[other] + max(prices[here] - prices[other], 0.0)
                        if far < label[here]:
                            label[here] = far
                            parent[here] = experts + other
                continue
        distance[here] = best
        left -= 1
        todo[spot] = todo[left]
        order[count] = here
        count += 1
        if goal[here] == 1:
            met += 1
            if met == goals:
                break
        base = best - prices[here]
        for place in range(left):
            other = todo[place]
            far = max(base + (loss[here, other] + prices[other]), best)
            if far < label[other]:
                label[other] = far
                parent[other] = here
        if free[here] > 0:
            for place in range(left):
                other = todo[place]
                far = max(base + prices[other], best)
                if far < label[other]:
                    label[other] = far
                    parent[other] = experts + here
    return count


@compiled(integer(integer, flag, out_integers, *GRAPH))
def level(most, ties, excess, scores, chosen, held, holder, load, free, prices, loss, mover):
    """Move tokens until no expert has an excess, of either sign; how many paths that took, −1 if there is no way.

    excess (experts): tokens and free places beyond the capacity; they add up to 0. At most `most` searches, and fewer
    where they move many; then what is left stands in excess. ties: many scores are equal.
    """
    experts = len(load)
    distance = np.empty(experts)
    parent = np.empty(experts, np.int64)
    order = np.empty(experts, np.int64)
    used = np.empty(experts, np.bool_)
    way = np.empty(experts + 1, np.int64)
    paths, wait, patience = 0, 0, 1
    graph = scores, chosen, held, holder, load, free, prices, loss, mover
    for _ in range(most):
        goals = 0
        for one in range(experts):
            distance[one] = 0.0 if excess[one] > 0 else np.inf
            order[one] = 1 if excess[one] < 0 else 0
            goals += order[one]
        if goals == 0:
            return paths
        count = search(goals, scores, chosen, held, holder, load, free, prices, loss, mover, distance, parent, order)
        furthest = -1
        for place in range(count):
            if excess[order[place]] < 0:
                furthest = place
        if furthest < 0:
            return -1
        top = distance[order[furthest]]
        for place in range(furthest + 1):
            one = order[place]
            prices[one] += top - distance[one]
        used[:] = False
        for place in range(furthest + 1):
            end = order[place]
            if excess[end] >= 0:
                continue
            steps, here, open_ = 0, end, True
            while open_:
                way[steps] = here
                steps += 1
                before = parent[here]
                if before < 0:
                    break
                free_place = before >= experts
                before = before - experts if free_place else before
                token = mover[before, here]
                if used[here]:
                    open_ = False
                elif free_place:
                    open_ = free[before] > 0
                else:
                    open_ = token >= 0 and held[token, before] and not held[token, here]
                here = before
            if not open_ or excess[here] <= 0:
                continue
            amount = 1
            if steps == 2 and parent[end] >= experts:  # free places alone may move by the dozen
                amount = min(excess[here], -excess[end], free[here])
                free[here] -= amount
                free[end] += amount
            else:
                for step in range(steps - 1, 0, -1):
                    one, other = way[step], way[step - 1]
                    token = FREE if parent[other] >= experts else mover[one, other]
                    move(token, one, other, scores, chosen, held, holder, load, free, prices, loss, mover)
            for step in range(steps - 1):
                used[way[step]] = True
            excess[here] -= amount
            excess[end] += amount
            paths += 1
        # Ties let more go at these prices; where they seldom do, this is tried ever more seldom.
        wait -= 1
        if ties and wait < 0:
            moves = drain(DRAINED, excess, *graph)
            patience = 1 if moves > MANY else min(2 * patience, PATIENCE)
            wait = 0 if moves > MANY else patience
            paths += moves
            if moves >= DRAINED:
                break
    return paths


@compiled(none(real_table, *GRAPH))
def lower(exact, scores, chosen, held, holder, load, free, prices, loss, mover):
    """Lower prices that prove the optimum to the least that do.

    A price may fall as far as it reaches 0 or a token of another expert would come, whose price may fall too: shortest
    paths again. Then each is what the path to it says, from 0 on, so that no rounding of the old prices stays.
    """
    experts = len(load)
    distance = np.empty(experts)
    parent = np.empty(experts, np.int64)
    order = np.zeros(experts, np.int64)
    base, placed = np.inf, False
    for one in range(experts):
        if free[one] > 0 and not placed:
            base, placed = prices[one], True
        if (free[one] > 0 or not placed) and prices[one] < base:
            base = prices[one]
    for one in range(experts):
        prices[one] = max(prices[one] - base, 0.0)
        if free[one] > 0:
            prices[one] = 0.0
        distance[one] = prices[one]
    count = search(experts + 1, scores, chosen, held, holder, load, free, prices, loss, mover, distance, parent, order)
    for place in range(count):
        one = order[place]
        before = parent[one]
        if before < 0 or before >= experts:
            prices[one] = 0.0
        else:
            token = mover[before, one]
            prices[one] = max(prices[before] - (exact[token, before] - exact[token, one]), 0.0)
