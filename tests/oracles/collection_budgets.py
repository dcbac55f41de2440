"""Collection budgets by looking at every purchase there is, with loss, cost and order written down anew."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

ROOM = 1e-9
"""Relative room of the gap between losses, which are computed."""


def curve_loss(curve: dict[str, list[float]], group: int, samples: int) -> float:
    """Loss of one group at so many samples in all."""
    if samples == 0:
        return curve["loss_at_zero"][group]
    return curve["asymptote"][group] + curve["scale"][group] / math.pow(samples, curve["exponent"][group])


def purchases(fields: dict[str, Any]) -> Iterator[tuple[tuple[int, ...], list[float]]]:
    """Every purchase that the spec allows, with the losses after it."""
    groups, lot = fields["groups"], fields.get("lot", 1)
    size, budget = len(groups["name"]), Decimal(repr(float(fields["budget"])))
    cost = [Decimal(repr(float(price))) for price in groups.get("cost", [1.0] * size)]
    choices = []
    for row in range(size):
        most = int(budget / cost[row])
        for name in ("available", "most"):
            most = min(most, groups[name][row]) if name in groups else most
        least = groups["least"][row] if "least" in groups else 0
        choices.append([count for count in range(0, most + 1, lot) if count >= least])
    gap = fields.get("fairness", {}).get("max_gap", math.inf)
    for bought in itertools.product(*choices):
        if sum(price * count for price, count in zip(cost, bought, strict=True)) > budget:
            continue
        total = sum(bought)
        low, high = groups.get("least_share", [0] * size), groups.get("most_share", [1] * size)
        if any(not low[row] * total - ROOM <= bought[row] <= high[row] * total + ROOM for row in range(size)):
            continue
        losses = [curve_loss(groups["curve"], row, groups["collected"][row] + bought[row]) for row in range(size)]
        if max(losses) - min(losses) <= gap + ROOM * max(losses):
            yield bought, losses


def weighted_mean(fields: dict[str, Any], losses: list[float]) -> float:
    """Σ weight·loss / Σ weight."""
    weight = fields["groups"].get("weight", [1.0] * len(losses))
    return math.fsum(w * loss for w, loss in zip(weight, losses, strict=True)) / math.fsum(weight)


def best(fields: dict[str, Any]) -> tuple[float, float, float] | None:
    """The best objective; for `worst_group` the largest loss, the second largest and the mean. None if infeasible.

    For `worst_group` the first is the lowest level there is, and the mean that within the tolerance of both levels.
    """
    found = [losses for _, losses in purchases(fields)]
    if not found:
        return None
    objective = fields.get("objective", "weighted_mean")
    if objective == "weighted_mean":
        return min(weighted_mean(fields, losses) for losses in found), math.nan, math.nan
    if objective == "alpha_fair":
        power = 1 + fields.get("alpha", 1.0)
        weight = fields["groups"].get("weight", [1.0] * len(found[0]))
        terms = ([w * loss**power / power for w, loss in zip(weight, losses, strict=True)] for losses in found)
        return min(map(math.fsum, terms)), math.nan, math.nan
    room = (1 + fields.get("tolerance", 1e-3)) * (1 + 1e-12)
    worst = min(max(losses) for losses in found)
    found = [losses for losses in found if max(losses) <= room * worst]
    second = min(sorted([0.0, *losses])[-2] for losses in found)
    found = [losses for losses in found if sorted([0.0, *losses])[-2] <= room * second]
    return worst, second, min(weighted_mean(fields, losses) for losses in found)
