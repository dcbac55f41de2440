"""Why a collection budget cannot be met, in the words of its spec, and the smallest change that mends it."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from ..specs.arrays import Integers
from ..specs.collection_budgets import GAP_ROOM
from .collection_market import Market
from .control import Control
from .formulation import Conflict, Explanation
from .levels import attained, ladder

LARGEST_LOOK = 2**20
"""Pairs of group and level looked at to find the budget that a gap needs."""
FURTHER = 64
"""How many times more than the present budget buys is looked at."""


def explain(market: Market, conflict: Conflict, money_scale: float, control: Control) -> Explanation:
    """What clashes, with the numbers of the spec, and changes each of which may mend it.

    money_scale: units of money in one of the budget row. Raises `SolveTimeout`.
    """
    fields = set(conflict.fields)
    if "fairness.max_gap" in fields:
        return _apart(market, conflict, control)
    if fields == {"budget", "groups.least"}:
        needed = float(market.money(market.least))
        text = f"groups.least takes {_listed(market)}, that is {needed:.10g}, but budget is {market.spec.budget:.10g}"
        return Explanation(text, {"budget": needed})
    for name, limit in (("available", market.available), ("most", market.permitted)):
        if fields == {"groups.least", f"groups.{name}"}:
            return _short(market, name, limit)
    clash = ", ".join(_words(market, field) for field in conflict.fields)
    change: dict[str, float] = {}
    if "budget" in conflict.shifts:
        further = math.ceil(conflict.shifts["budget"].upper * money_scale - 1e-6)
        change["budget"] = float((market.purse.room + further) * market.purse.unit)
    return Explanation(f"cannot be met together: {clash}", change)


def _listed(market: Market) -> str:
    """What the least purchases are, the dearest first."""
    samples = market.least * market.spec.lot
    order = np.argsort(-(market.cost * samples), kind="stable")
    there = [group for group in order.tolist() if samples[group]]
    names = market.spec.groups.name
    parts = [f"{samples[group]} × {market.cost[group]:.10g} for {names[group]!r}" for group in there[:3]]
    return " + ".join([*parts, *(["more"] if len(there) > 3 else [])])


def _short(market: Market, name: str, limit: Integers) -> Explanation:
    """A group must buy more than it may."""
    spec, bound = market.spec, getattr(market.spec.groups, name)
    least = spec.groups.least if spec.groups.least is not None else market.least
    rows = np.flatnonzero(market.least > limit).tolist()
    texts = []
    for row in rows[:3]:
        lots = f", in lots of {spec.lot}: {market.least[row] * spec.lot}" if spec.lot > 1 else ""
        whole = f", in whole lots {limit[row] * spec.lot}" if spec.lot > 1 else ""
        texts.append(
            f"groups.least asks for {least[row]} samples of {spec.groups.name[row]!r}{lots}, "
            f"but groups.{name} has {bound[row]}{whole}"
        )
    if len(rows) > 1:
        return Explanation("; ".join([*texts, *(["and so on"] if len(rows) > 3 else [])]))
    change = {
        f"groups.least[{rows[0]}]": float(limit[rows[0]] * spec.lot),
        f"groups.{name}[{rows[0]}]": float(market.least[rows[0]] * spec.lot),
    }
    return Explanation(texts[0], change)


def _words(market: Market, field: str) -> str:
    spec, groups = market.spec, market.spec.groups
    if field == "budget":
        return f"budget {spec.budget:.10g}"
    column = np.asarray(getattr(groups, field.removeprefix("groups.")))
    listed = ", ".join(f"{groups.name[row]!r} {column[row]:.10g}" for row in range(min(len(column), 4)))
    return f"{field} ({listed}{', …' if len(column) > 4 else ''})"


def _apart(market: Market, conflict: Conflict, control: Control) -> Explanation:
    """The losses cannot come as close as `max_gap` wants them."""
    spec, names = market.spec, market.spec.groups.name
    wanted = 0.0 if spec.fairness is None else spec.fairness.max_gap
    others = [field for field in conflict.fields if field != "fairness.max_gap"]
    shares = spec.groups.least_share is not None or spec.groups.most_share is not None
    least = np.minimum(market.least, market.top)
    level = attained(market.loss, least, market.top)
    rungs = ladder(market.loss, least, market.top, level, None, control)
    able = rungs.affordable(market.purse.cost, market.purse.room, market.top)
    if shares or not len(able):
        clash = " and ".join(["fairness.max_gap", *(_words(market, field) for field in others)])
        return Explanation(f"no purchase brings all losses within {wanted:g} of each other: {clash}")
    group, count = np.repeat(market.every, len(able)), rungs.need[:, able].ravel()
    loss = market.loss(group, count).reshape(-1, len(able))
    best = int((loss.max(axis=0) - loss.min(axis=0)).argmin())
    high, low = int(loss[:, best].argmax()), int(loss[:, best].argmin())
    closest = _rounded_up(float(loss[high, best] - loss[low, best]))
    change = {"fairness.max_gap": closest}
    if "budget" in others and (needed := _needed(market, wanted, control)) is not None:
        change["budget"] = needed
    limits = " and ".join(_words(market, field) for field in others)
    reached = f"{names[high]!r} gets down to {loss[high, best]:.4g}{' with ' + limits if limits else ''}"
    return Explanation(
        f"the losses of {names[high]!r} and {names[low]!r} cannot come within fairness.max_gap {wanted:g} "
        f"of each other: {reached}, while {names[low]!r} is at {loss[low, best]:.4g}",
        change,
    )


def _needed(market: Market, gap: float, control: Control) -> float | None:
    """The budget at which losses can come within a gap, as far as is looked."""
    top = np.maximum(np.minimum(market.most, FURTHER * (market.top + 1)), market.least)
    if int(top.sum()) * len(top) > LARGEST_LOOK:
        return None
    level = attained(market.loss, market.least, top)
    rungs = ladder(market.loss, market.least, top, level, gap + GAP_ROOM * level / 2, control)
    if rungs.spare is None:
        return None
    able = np.flatnonzero(((rungs.need <= rungs.spare) & (rungs.need <= top[:, None])).all(axis=0))
    spent = [market.money(rungs.need[:, rung]) for rung in able.tolist()]
    return float(min(spent)) if spent else None


def _rounded_up(amount: float) -> float:
    """The amount with six digits, never less than it is."""
    if amount <= 0:
        return 0.0
    step = Fraction(10) ** (math.floor(math.log10(amount)) - 5)
    return float(math.ceil(Fraction(amount) / step) * step)
