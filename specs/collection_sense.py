"""What numbers a collection budget can be made of: fields that go together, and sizes that floats can hold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .collection_curves import Curve, Observations
from .errors import Fault, shown
from .sources import suggest

if TYPE_CHECKING:
    from .collection_budgets import CollectionBudgets, Groups

FEWEST = {"shared_power_law": 1, "power_law": 3, "convex_monotone": 2}
"""Observations that a fit of each model needs per group."""
LARGEST_AMOUNT = 1e50
"""Costs, weights and losses may be at most this, and costs and weights, unless 0, at least one over it."""
WIDEST = 1e15
"""How many times the least, the largest standard error may be at most: beyond, the other says nothing."""
MOST_FITTED = 500
"""Observations of a group that a `convex_monotone` fit takes, at most: its time grows with their fourth power."""
LARGEST_EXPONENT = 1e6
"""Exponents of curves, at most: at one of a hundred, the second sample does all that there is to do."""
LARGEST_POWER = 200.0
"""Powers of ten that the terms of `alpha_fair` may reach, up or down."""
SHARE_ROOM = 1e-9
"""By how much of all samples a share may be missed: a third of them cannot be written down."""


def consistent(spec: CollectionBudgets) -> None:
    """Raises `Fault` for the first thing about a spec that makes no sense."""
    groups = spec.groups
    _sizes(spec)
    if len(groups) and (groups.curve is None) == (spec.observations is None):
        raise Fault("give exactly one of {groups.curve} and {observations}, which curves are fitted to", "groups")
    if groups.weight is not None and len(groups) and not groups.weight.any():
        raise Fault("must be above 0 for at least one group, got only zeros", "groups", "weight")
    if groups.least is not None and groups.most is not None:
        for row in np.flatnonzero(groups.least > groups.most)[:1].tolist():
            text = f"must be at most {{groups.most}}[{row}] ({groups.most[row]}), got {groups.least[row]}"
            raise Fault(text, "groups", "least", row)
    _shares(groups)
    if groups.curve is not None:
        _curve(spec, groups.curve)
    if spec.observations is not None:
        _observations(spec, spec.observations)
    _alpha(spec)


def _sizes(spec: CollectionBudgets) -> None:
    """What a unit of budget spares, a product and quotient of these, must be a number that floats can hold."""
    least, most, groups, curve = 1 / LARGEST_AMOUNT, LARGEST_AMOUNT, spec.groups, spec.groups.curve
    columns = [(("groups", "cost"), groups.cost, least, most), (("groups", "weight"), groups.weight, least, most)]
    if curve is not None:
        place = ("groups", "curve")
        columns += [
            ((*place, "asymptote"), curve.asymptote, 0.0, most),
            ((*place, "scale"), curve.scale, 0.0, most),
            ((*place, "exponent"), curve.exponent, 0.0, LARGEST_EXPONENT),
            ((*place, "loss_at_zero"), curve.loss_at_zero, 0.0, most),
        ]
    if spec.observations is not None:
        seen = spec.observations
        columns += [
            (("observations", "loss"), seen.loss, 0.0, most),
            (("observations", "stderr"), seen.stderr, least, most),
        ]
    for path, column, low, high in columns:
        if column is None or not len(column):
            continue
        if column.max() > high:
            row = int(column.argmax())
            raise Fault(f"must be at most {high:g}, got {column[row]:g}", *path, row)
        if low and (tiny := np.flatnonzero((column < low) & (column > 0))).size:
            row = int(tiny[0])
            raise Fault(f"must be at least {low:g}, got {column[row]:g}", *path, row)
    if spec.observations is not None and (stderr := spec.observations.stderr) is not None and len(stderr):
        row, largest = int(stderr.argmin()), float(stderr.max())
        if stderr[row] < largest / WIDEST:
            text = f"must be at least {largest / WIDEST:g}, 1/{WIDEST:g} of the largest, got {stderr[row]:g}"
            raise Fault(text, "observations", "stderr", row)


def _alpha(spec: CollectionBudgets) -> None:
    """Losses to the power of 1 + alpha must be numbers that floats can hold."""
    curve, seen = spec.groups.curve, spec.observations
    losses = [] if seen is None else [seen.loss]
    if curve is not None:
        losses += [curve.asymptote + curve.scale, *([] if curve.loss_at_zero is None else [curve.loss_at_zero])]
    largest = max((float(loss.max(initial=0.0)) for loss in losses), default=0.0)
    if spec.minimise == "alpha_fair" and largest > 0 and abs((1 + spec.alpha) * math.log10(largest)) > LARGEST_POWER:
        text = f"is so large that losses about {largest:.3g}, to the power of 1 + alpha, leave the range of numbers"
        raise Fault(f"{text}; got {spec.alpha:g}", "alpha")


def _shares(groups: Groups) -> None:
    least, most = groups.least_share, groups.most_share
    if least is not None and most is not None:
        for row in np.flatnonzero(least > most)[:1].tolist():
            text = f"must be at most {{groups.most_share}}[{row}] ({most[row]:g}), got {least[row]:g}"
            raise Fault(text, "groups", "least_share", row)
    if least is not None and (total := math.fsum(least)) > 1 + SHARE_ROOM:
        raise Fault(f"adds up to {total:g}, and shares can add up to 1 at most", "groups", "least_share")
    if most is not None and len(most) and (total := math.fsum(most)) < 1 - SHARE_ROOM:
        text = f"adds up to {total:g}; below 1 nothing could ever be bought"
        raise Fault(text, "groups", "most_share")


def _curve(spec: CollectionBudgets, curve: Curve) -> None:
    if spec.model == "convex_monotone":
        raise Fault(f"{spec.model!r} is fitted to {{observations}}, and there are curves instead", "model")
    for row in np.flatnonzero(spec.groups.collected == 0).tolist():
        who = f"group {spec.groups.name[row]!r}, of which nothing is collected yet,"
        if curve.loss_at_zero is None:
            raise Fault(f"needs loss_at_zero: for {who} a power law has no loss", "groups", "curve")
        first = float(curve.asymptote[row] + curve.scale[row])
        if curve.loss_at_zero[row] < first:
            text = f"must be at least the loss at one sample ({first:g}) for {who} got {curve.loss_at_zero[row]:g}"
            raise Fault(text, "groups", "curve", "loss_at_zero", row)


def _observations(spec: CollectionBudgets, seen: Observations) -> None:
    names = {name: row for row, name in enumerate(spec.groups.name)}
    for row, name in enumerate(seen.group):
        if name not in names:
            raise Fault(
                f"must be the name of a group, got {shown(name)}{suggest(name, list(names))}",
                "observations",
                "group",
                row,
            )
    for row in np.flatnonzero(spec.groups.collected == 0)[:1].tolist():
        text = (
            f"must be at least 1 where curves are fitted, which say nothing at 0 samples; collect one sample of "
            f"{spec.groups.name[row]!r}, or give {{groups.curve}} with loss_at_zero"
        )
        raise Fault(text, "groups", "collected", row)
    counts = np.bincount([names[name] for name in seen.group], minlength=len(names))
    fewest = FEWEST[spec.model]
    for row in np.flatnonzero(counts < fewest)[:1].tolist():
        other = "; or set {model} to shared_power_law, for which 1 will do" if counts[row] else ""
        text = f"hold {counts[row]} of group {spec.groups.name[row]!r}, and a {spec.model} needs {fewest}{other}"
        raise Fault(text, "observations")
    if spec.model == "convex_monotone" and (over := np.flatnonzero(counts > MOST_FITTED)).size:
        row = int(over[0])
        text = (
            f"hold {counts[row]} of group {shown(spec.groups.name[row])}, and a convex_monotone fit takes at most "
            f"{MOST_FITTED}; give the mean of neighbouring ones, or set {{model}} to shared_power_law"
        )
        raise Fault(text, "observations")
