"""Which prices of places make about as many tokens want each expert as it takes?

The dual of the assignment is convex and piecewise linear in the prices: at prices q every token wants the k experts
with the largest scores − q, and the slope along a price is its capacity less the tokens that want it. With many
tokens it is nearly smooth, so Newton's method finds its minimum in a few rounds. Its matrix says how many tokens a
small rise of one price sends to which other expert, counted over the rise that would mend the expert's own excess (a
secant, so that it fits columns of any spread). Rows of scores are independent: two cores share them.

Quantile Balancing takes one such secant per expert and neglects the others' answer, which is why it needs so many
more rounds (its rule is in `baselines/expert_assignment.py`).
"""

from __future__ import annotations

import numpy as np

from ..machine import (
    compiled,
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

BINS = 128
"""Bins of the histogram of gaps of an expert and side: four per octave, the first for all that is smaller."""
CHUNK = 1024
"""Rows that are looked at in one go, however many threads there are."""
FEW = 48
"""Experts up to which ranks are found by comparing each with each."""


@compiled(real(real_table, integer, reals, integers, integer, integer, integer, out_integers, out_reals))
def _best(scores, token, prices, index, found, begin, kept, near, value):
    """List the best of the experts found for a token, by insertion. The value of the best that is left out."""
    lost, listed = -np.inf, 0
    for turned in range(begin, begin + found):
        expert = index[turned if turned < found else turned - found]
        now = scores[token, expert] - prices[expert]
        if listed == kept:
            lost = max(lost, min(now, value[kept - 1]))
            if not now > value[kept - 1]:
                continue
        else:
            listed += 1
        spot = listed - 1
        while spot > 0 and value[spot - 1] < now:
            value[spot] = value[spot - 1]
            near[spot] = near[spot - 1]
            spot -= 1
        value[spot] = now
        near[spot] = expert
    return lost


@compiled(
    none(
        real_table, integer, integer, integer, integer, reals, real, integer,
        out_integer_table, out_real_table, out_integers, out_reals, out_reals, out_integers,
    )
)  # fmt: skip
def survey(scores, wanted, stride, first, last, prices, depth, again, near, value, count, cutoff, surplus, load):
    """What tokens want at these prices, and what they would want next.

    For rows first…last − 1 of near, value (rows × width) and count, cutoff, surplus (rows): of the token `row·stride`,
    near[:count] are the experts with the largest values = scores − prices in descending order, all others' are at
    most at the cutoff. More than `wanted` are listed, so that the first are what the token wants and the next what it
    would want next; fewer only where fewer are allowed. surplus is the sum of the wanted values. load (experts) counts
    the tokens that want an expert. depth: how far below the last of these the cutoff should be. `again`: near holds an
    earlier answer for the same rows, from which it is guessed.
    """
    experts = scores.shape[1]
    width = near.shape[1]
    index = np.empty(experts + 1, np.int64)
    seen = np.zeros(FEW + 1, np.int64)
    above = np.zeros(FEW, np.int64)
    best = np.empty(FEW)
    level = -np.inf
    for row in range(first, last):
        token = row * stride
        guess = -np.inf
        if again:
            if count[row] > wanted:
                guess = np.inf
                for place in range(wanted + 1):
                    expert = near[row, place]
                    guess = min(guess, scores[token, expert] - prices[expert])
                guess -= depth
        elif row > first:
            guess = level - depth
        found = 0
        for _ in range(2):
            found = 0
            for expert in range(experts):
                index[found] = expert
                found += 1 if scores[token, expert] - prices[expert] > guess else 0
            if found > wanted or guess == -np.inf:
                break
            guess = -np.inf
        for _ in range(2):
            if found <= FEW or wanted + 1 >= FEW or not depth > 0:
                break
            # What would be next among some of them is less than what is next among all.
            for place in range(FEW):
                best[place] = scores[token, index[place]] - prices[index[place]]
                above[place] = 0
            for place in range(FEW):
                now = best[place]
                for other in range(FEW):
                    above[other] += 1 if now > best[other] else 0
            least = np.inf
            for place in range(FEW):
                if above[place] <= wanted:
                    least = min(least, best[place])
            guess = max(guess, least - depth)
            before, found = found, 0
            for place in range(before):
                expert = index[place]
                index[found] = expert
                found += 1 if scores[token, expert] - prices[expert] > guess else 0
        kept = min(found, width)
        # Among equals, tokens take different experts: not all begin with the first.
        turn, begin = token * wanted % experts, 0
        while begin < found and index[begin] < turn:
            begin += 1
        if found <= FEW:  # ranks by counting, without a branch that could be guessed wrong
            filled = (found + 7) // 8 * 8
            for place in range(found):
                expert = index[place]
                best[place] = scores[token, expert] - prices[expert]
            for place in range(found, filled):
                best[place] = -np.inf
            for place in range(filled):
                above[place] = 0
                seen[place] = 0
            for place in range(found):
                now = best[place]
                for other in range(filled):
                    above[other] += 1 if now > best[other] else 0
            for turned in range(begin, begin + found):
                place = turned if turned < found else turned - found
                spot = above[place]
                seen[spot] += 1
                spot += seen[spot] - 1  # after its equals
                if spot < width:
                    near[row, spot] = index[place]
                    value[row, spot] = best[place]
                else:
                    guess = max(guess, best[place])
        else:
            guess = max(guess, _best(scores, token, prices, index, found, begin, kept, near[row], value[row]))
        total = 0.0
        for place in range(min(kept, wanted)):
            total += value[row, place]
            load[near[row, place]] += 1
        surplus[row] = total
        count[row] = kept
        cutoff[row] = guess
        if kept > wanted:
            level = value[row, wanted]


@compiled(none(integer_table, real_table, integers, integer, integer, integer, real, out_integer_table))
def gaps(near, value, count, wanted, first, last, unit, bins):
    """How near tokens are to giving up an expert, or to taking it.

    bins: (2·experts × BINS), for each expert the tokens that want it by how much its price can rise until they do
    not, then those that do not by how much it must fall until they do. A bin spans a quarter of an octave; the
    last ends at `unit`·2.
    """
    gap = np.empty(1)
    bits = gap.view(np.int64)
    gap[0] = unit
    base = (bits[0] >> 50) - BINS + 5
    for row in range(first, last):
        if count[row] <= wanted:
            continue
        low, high = value[row, wanted], value[row, wanted - 1]
        for place in range(count[row]):
            side = 0 if place < wanted else 1
            gap[0] = value[row, place] - low if side == 0 else high - value[row, place]
            bin_ = (bits[0] >> 50) - base
            bin_ = min(max(bin_, 0), BINS - 1)
            bins[2 * near[row, place] + side, bin_] += 1


@compiled(none(integer_table, real_table, integers, integer, integer, integer, reals, out_real_table))
def answers(near, value, count, wanted, first, last, window, moved):
    """moved (experts × experts): tokens that a change of the first's price within its window moves from or to the
    second."""
    for row in range(first, last):
        if count[row] <= wanted:
            continue
        low, high = value[row, wanted], value[row, wanted - 1]
        inner, outer = near[row, wanted - 1], near[row, wanted]
        for place in range(count[row]):
            expert = near[row, place]
            if place < wanted:
                if value[row, place] - low <= window[expert]:
                    moved[expert, outer] += 1
            elif high - value[row, place] <= window[expert]:
                moved[expert, inner] += 1


@compiled(none(integer_table, integers, real, integer, real, out_reals))
def windows(bins, excess, unit, least, blind, window):
    """window (experts): the change of price that would mend the excess alone, or that moves `least` tokens; as far as
    tokens are in sight, and `blind` where none is."""
    edge = np.empty(1)
    bits = edge.view(np.int64)
    edge[0] = unit
    base = (bits[0] >> 50) - BINS + 5
    for expert in range(len(excess)):
        goal = max(abs(excess[expert]), least)
        best = np.inf
        furthest = -1
        for side in range(2):
            if (excess[expert] > least and side == 1) or (excess[expert] < -least and side == 0):
                continue
            seen = 0
            for bin_ in range(BINS):
                here = bins[2 * expert + side, bin_]
                if here > 0:
                    furthest = max(furthest, bin_)
                if seen + here >= goal:
                    bits[0] = (base + bin_) << 50
                    below = edge[0]
                    bits[0] = (base + bin_ + 1) << 50
                    best = min(best, below + (edge[0] - below) * (goal - seen) / here)
                    break
                seen += here
        if best == np.inf:  # not so many are known: as far as they are
            bits[0] = (base + furthest + 1) << 50
            best = edge[0] if furthest >= 0 else blind
        window[expert] = best


@compiled(none(real_table, reals, reals, reals, real, integer, out_reals))
def newton(moved, window, excess, free, caution, rounds, change):
    """change (experts): of prices, so that as many tokens go as are in excess, to first order.

    moved, window: as `answers` and `windows` leave them, which make the matrix (tokens per unit of price, symmetric).
    free: 1 where a price may change, else 0. caution: the diagonal is so much heavier, against steps that go too far
    (Levenberg and Marquardt); beyond what is common to all, no price changes by more than its window. Conjugate
    gradients, preconditioned by the diagonal; few rounds, since the matrix itself is a rough count.
    """
    experts = len(excess)
    weights = np.empty((experts, experts))
    diagonal = np.zeros(experts)
    for one in range(experts):
        weights[one, one] = 0.0
        for other in range(one):
            weight = 0.5 * (moved[one, other] + moved[other, one]) / (window[one] + window[other])
            weights[one, other] = weight
            weights[other, one] = weight
            diagonal[one] += weight
            diagonal[other] += weight
    left = np.empty(experts)
    way = np.empty(experts)
    image = np.empty(experts)
    power = 0.0
    for one in range(experts):
        change[one] = 0.0
        if not diagonal[one] > 0:
            diagonal[one] = np.inf
        left[one] = excess[one] * free[one]
        way[one] = left[one] / diagonal[one]
        power += left[one] * way[one]
    begun = power
    for _ in range(rounds):
        if not power > 1e-6 * begun:
            break
        image[:] = 0.0
        for one in range(experts):
            pace = way[one]
            if pace != 0.0:
                for other in range(experts):
                    image[other] -= pace * weights[one, other]
        bend = 0.0
        for one in range(experts):
            if free[one] > 0 and diagonal[one] < np.inf:
                image[one] += diagonal[one] * way[one] * (1 + caution)
            else:
                image[one] = 0.0
            bend += way[one] * image[one]
        if not bend > 0:
            break
        size = power / bend
        fresh = 0.0
        for one in range(experts):
            change[one] += size * way[one]
            left[one] -= size * image[one]
            fresh += left[one] * (left[one] / diagonal[one])
        for one in range(experts):
            way[one] = left[one] / diagonal[one] + way[one] * (fresh / power)
        power = fresh
    # All that may change can need to go the same way: by so much on the whole, and a window more or less each.
    common, several = 0.0, 0
    for one in range(experts):
        if free[one] > 0:
            common += change[one]
            several += 1
    common = common / max(several, 1)
    for one in range(experts):
        if free[one] > 0:
            change[one] = common + min(max(change[one] - common, -window[one]), window[one])
