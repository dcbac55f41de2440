"""The best marginal values where groups of prompts have bounds of their own, and what each group pays beside the price.

Bounds on groups that do not overlap leave the problem a greedy one (Federgruen and Groenevelt, "The greedy procedure
for resource allocation problems", 1986): what a group must have, and what it may not exceed, is found group by group.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from ...specs.arrays import Floats, Integers
from ..answer import ProgramInfeasible
from ..rollout_values import Outlook
from .budget import take
from .rollout_steps import Steps
from .rungs import COUNT, GAIN, LAST


def grouped(run: Steps, total: int) -> tuple[Steps, float, Floats]:
    """The best marginal values where groups have bounds; the price, and what groups pay beside it.

    A group takes its own best rungs whatever they are: first those that its `least` calls for, last those that its
    `most` allows. Between the two, groups compete.
    """
    spec, step, size = run.spec, run.spec.multiple_of, run.size
    groups = spec.groups
    if groups is None:
        raise ValueError("there are no groups")
    member, several = spec.membership(), len(groups)
    order = np.argsort(member, kind="stable")
    ends = np.searchsorted(member[order], np.arange(several + 1)).tolist()
    sorted_ = Steps(
        spec,
        Outlook(None, None, None, None, run.view.seen[order], run.view.won[order]),
        run.start[order],
        run.top[order],
        run.law,
        run.curve[order],
        run.state[order],
        run.place[order],
    )
    rows = [slice(first, last) for first, last in pairwise(ends)]
    first = [int(sorted_.start[members].sum()) for members in rows]
    last = [int(sorted_.top[members].sum()) for members in rows]
    least = first if groups.least is None else np.maximum(first, -(-groups.least // step)).tolist()
    most = last if groups.most is None else np.minimum(last, groups.most // step).tolist()
    if any(low > high for low, high in zip(least, most, strict=True)):
        raise ProgramInfeasible("a group's bounds are out of reach")
    needed = sum(least)
    if not needed <= total <= sum(most):  # before anything is climbed: no climb is longer than the total
        raise ProgramInfeasible("the total is out of reach")
    cap = sorted_.top.copy()
    for group, members in enumerate(rows):
        sorted_.take(members, sorted_.top[members], least[group] - first[group])
        room = most[group] - least[group]
        if most[group] < last[group] and room < total - needed:
            further = sorted_.state[members].copy(), sorted_.place[members].copy()
            take(sorted_.law, step, sorted_.view.seen[members], sorted_.curve[members], *further, cap[members], room)
            cap[members] = further[1][:, COUNT]
    sorted_.take(slice(None), cap, total - needed)
    back = np.empty(size, np.int64)
    back[order] = np.arange(size)
    done = Steps(spec, run.view, run.start, run.top, run.law, run.curve, sorted_.state[back], sorted_.place[back])
    return (done, *_group_prices(done, member, several))


def _group_prices(run: Steps, member: Integers, several: int) -> tuple[float, Floats]:
    """The best gain in groups that could take more, and how far the others' next or last gain lies from it."""
    spec, step = run.spec, run.spec.multiple_of
    counts = run.place[:, COUNT]
    following, latest = np.full(several, -np.inf), np.full(several, np.inf)
    np.maximum.at(following, member, np.where(counts < run.top, run.state[:, GAIN], -np.inf) / step)
    np.minimum.at(latest, member, run.state[:, LAST] / step)
    given = np.bincount(member, weights=counts * step, minlength=several)
    groups = spec.groups
    none_ = np.full(several, np.inf)
    most = none_ if groups is None or groups.most is None else groups.most
    least = -none_ if groups is None or groups.least is None else groups.least
    full, short = given + step > most, given - step < least
    best = float(following[~full].max(initial=-np.inf))
    price = best if math.isfinite(best) else 0.0
    own = np.where(full, np.maximum(following, price), price)
    return price, np.where(short, np.minimum(own, latest), own) - price
