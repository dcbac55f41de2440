"""Why no counts of rollouts keep the rules of a task, by exact arithmetic on the rules alone.

The rules are intervals of counts, bounds on groups that do not overlap, and one budget: whether any counts keep them
takes no search. Fields are dropped one by one as long as the rest still clashes (the deletion filter of Chinneck and
Dravnieks, 1991); how far one must give way is found by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from ..specs.arrays import Floats, Integers
from ..specs.exact import exact, exact_dot
from ..specs.rollout_budgets import RolloutBudgets
from .formulation import Conflict, Shift

NEAR = 1e-6
"""Relative distance from the budget within which sums of costs are taken without rounding."""


@dataclass(frozen=True)
class _Reach:
    """(groups,) rungs that each group must have at least and can have at most; (prompts,) lower and upper bounds."""

    least: Floats
    most: Floats
    lower: Floats
    upper: Floats


def rollout_conflict(spec: RolloutBudgets) -> Conflict | None:
    """A minimal set of fields that clash and how far each must give way; None where nothing does.

    Takes O(prompts) for each field, and some sixty times as much for `least` and `most`.
    """
    names = ["least", "most"]
    if spec.total is not None and spec.multiple_of > 1:
        names.append("multiple_of")
    if spec.prompts.drawn is not None:
        names.append("prompts.drawn")
    names.append("total" if spec.total is not None else "token_budget")
    if spec.groups is not None:
        bounds = {"groups.least": spec.groups.least, "groups.most": spec.groups.most}
        names += [name for name, bound in bounds.items() if bound is not None]
    if _feasible(spec, names):
        return None
    core = names
    for name in names:
        rest = [other for other in core if other != name]
        if not _feasible(spec, rest):
            core = rest
    shifts = {name: shift for name in core if (shift := _shift(spec, names, name)) is not None}
    return Conflict(tuple(core), shifts)


def least_tokens(spec: RolloutBudgets) -> float:
    """The least token budget within which all other rules can be kept; infinite if there is none."""
    reach = _reach(spec, ["least", "most", "prompts.drawn", "groups.least", "groups.most"])
    if reach is None:
        return math.inf
    spent = exact_dot(_costs(spec), _cheapest(spec, reach))
    budget = float(spent)
    return budget if exact(budget) >= spent else math.nextafter(budget, math.inf)


def _shift(spec: RolloutBudgets, names: Collection[str], name: str) -> Shift | None:
    """By how much a field must give way, in its own units or in rungs; None if that cannot help."""
    if name == "total" and spec.total is not None:
        reach, step = _reach(spec, names), spec.multiple_of
        if reach is None:
            return None
        nearest = min(max(round(spec.total / step), _whole(reach.least.sum())), _whole(reach.most.sum())) * step
        return Shift(max(spec.total - nearest, 0), max(nearest - spec.total, 0))
    if name == "token_budget":
        lacking = least_tokens(spec) - (spec.token_budget or 0.0)
        return Shift(0.0, lacking) if math.isfinite(lacking) else None
    if name == "least":
        fewest = 1 if spec.value in ("neyman", "gvm", "vip") else 0  # whose variance is infinite at 0
        by = _first(lambda less: _feasible(spec, names, less=less), -(-spec.least // spec.multiple_of) - fewest)
        return None if by is None else Shift(by, 0.0)
    if name == "most":
        highest = max(
            spec.least, spec.total or 0, 0 if spec.prompts.drawn is None else int(spec.prompts.drawn.max(initial=0))
        )
        if spec.groups is not None and spec.groups.least is not None:
            highest = max(highest, int(spec.groups.least.max(initial=0)))
        by = _first(lambda more: _feasible(spec, names, more=more), -(-highest // spec.multiple_of))
        return None if by is None else Shift(0.0, by)
    return None


def _first(holds: Callable[[int], bool], last: int) -> int | None:
    """The first of 0, 1, …, last from which on something holds; None if it does not even hold there."""
    if last < 0 or not holds(last):
        return None
    low = 0
    while low < last:
        middle = (low + last) // 2
        if holds(middle):
            last = middle
        else:
            low = middle + 1
    return last


def _feasible(spec: RolloutBudgets, names: Collection[str], less: int = 0, more: int = 0) -> bool:
    """Whether some counts keep the rules that come from some fields; `least` and `most` give way by some rungs."""
    reach = _reach(spec, names, less, more)
    if reach is None:
        return False
    if "total" in names and spec.total is not None and (spec.multiple_of == 1 or "multiple_of" in names):
        rungs, rest = divmod(spec.total, spec.multiple_of)
        return rest == 0 and float(reach.least.sum()) <= rungs <= float(reach.most.sum())
    if "token_budget" not in names or spec.token_budget is None:
        return True
    counts, costs, budget = _cheapest(spec, reach), _costs(spec), spec.token_budget
    with np.errstate(over="ignore"):
        about = float(costs @ counts.astype(np.float64))
    if abs(about - budget) > NEAR * budget:
        return about < budget
    return exact_dot(costs, counts) <= exact(budget)


def _reach(spec: RolloutBudgets, names: Collection[str], less: int = 0, more: int = 0) -> _Reach | None:
    """What each prompt and each group can have, the budget aside; None where that is nothing."""
    size, step = len(spec.prompts), spec.multiple_of
    lower, upper = np.zeros(size), np.full(size, np.inf)
    if "least" in names:
        lower[:] = max(-(-spec.least // step) - less, 0)
    if "prompts.drawn" in names and spec.prompts.drawn is not None:
        lower = np.maximum(lower, -(-spec.prompts.drawn // step))
    if "most" in names:
        upper[:] = spec.most // step + more
    if (lower > upper).any():
        return None
    if spec.groups is None:
        return _Reach(lower.sum(keepdims=True), upper.sum(keepdims=True), lower, upper)
    member, several = spec.membership(), len(spec.groups)
    least: Floats = np.bincount(member, weights=lower, minlength=several).astype(np.float64)
    most: Floats = np.bincount(member, weights=upper, minlength=several).astype(np.float64)
    if "groups.least" in names and spec.groups.least is not None:
        least = np.maximum(least, -(-spec.groups.least // step))
    if "groups.most" in names and spec.groups.most is not None:
        most = np.minimum(most, spec.groups.most // step)
    return None if (least > most).any() else _Reach(least, most, lower, upper)


def _cheapest(spec: RolloutBudgets, reach: _Reach) -> Integers:
    """(prompts,) the rollouts that take least of the budget."""
    counts, member = reach.lower.copy(), spec.membership()
    short = reach.least - np.bincount(member, weights=counts, minlength=len(reach.least))
    for group in np.flatnonzero(short > 0).tolist():
        rows, lacking = np.flatnonzero(member == group), float(short[group])
        for row in rows[np.argsort(_costs(spec)[rows], kind="stable")].tolist():
            added = min(lacking, float(reach.upper[row] - counts[row]))
            counts[row] += added
            lacking -= added
            if lacking <= 0:
                break
    return counts.astype(np.int64) * spec.multiple_of


def _costs(spec: RolloutBudgets) -> Floats:
    return np.ones(len(spec.prompts)) if spec.prompts.tokens is None else spec.prompts.tokens


def _whole(rungs: float) -> float:
    return int(rungs) if math.isfinite(rungs) else rungs
