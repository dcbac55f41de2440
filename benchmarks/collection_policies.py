"""Ways to buy data, for the collection replay: today's rules, Slice Tuner's, ours, and those that know the curves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from collection_world import Draw, Floats, Integers, Seen, Setting, cheapest, most_level

import equipoise as eq
from equipoise.solvers.baselines.collection_budgets import BASELINES

Objective = Literal["weighted_mean", "worst_group"]
TOLERANCE = 1e-3
"""How far the worst group's level may rise again for the sake of the others."""
UNFAIRNESS = 1.0
"""Slice Tuner's λ."""


@dataclass(frozen=True)
class Purchase:
    """One decision. samples: (groups,) collected so far. budget: samples to spend in it; left: that and all later."""

    setting: Setting
    samples: Integers
    available: Integers
    seen: Seen
    budget: int
    left: int

    def spec(self, model: str, objective: Objective, budget: int) -> eq.CollectionBudgets:
        """The decision as a task."""
        names = [f"group {group}" for group in range(len(self.samples))]
        return eq.CollectionBudgets(
            groups={"name": names, "collected": self.samples, "available": self.available},
            observations={
                "group": [names[group] for group in self.seen.group.tolist()],
                "samples": self.seen.samples,
                "loss": self.seen.loss,
                "stderr": np.maximum(self.seen.stderr, 1e-12),
            },
            model=model,
            budget=float(budget),
            lot=self.setting.lot,
            objective=objective,
            tolerance=TOLERANCE,
        )


Buy = Callable[[Purchase], Integers]


@dataclass(frozen=True)
class Policy:
    """How a budget is spent. rounds: in so many equal parts, each after a new look. whole: it knows the curves to
    their end, up to what a fit makes of them. oracle: it knows the curves, and this is what it buys."""

    name: str
    buy: Buy | None = None
    rounds: int = 1
    whole: bool = False
    oracle: Callable[[Floats, int], Integers] | None = None

    def play(self, draw: Draw, setting: Setting) -> Floats:
        """(groups,) true errors once everything is spent."""
        lots, samples = setting.budget // setting.lot, draw.start.copy()
        if self.oracle is not None:
            return draw.error(samples + setting.lot * self.oracle(draw.options(setting), lots))
        assert self.buy is not None
        seen = None
        for time in range(self.rounds):
            part = (lots * (time + 1) // self.rounds - lots * time // self.rounds) * setting.lot
            left = (lots - lots * time // self.rounds) * setting.lot
            new = draw.whole() if self.whole else draw.observe(setting, samples, time)
            seen = seen.and_then(new) if setting.keep and seen is not None else new
            samples = samples + self.buy(Purchase(setting, samples, draw.end - samples, seen, part, left))
        return draw.error(samples)


def by_rule(name: str) -> Buy:
    """A rule that looks at no error."""
    return lambda now: BASELINES[name](now.spec("shared_power_law", "weighted_mean", now.budget)).samples


def by_plan(model: str, objective: Objective) -> Buy:
    """The plan for the budget at hand."""
    return lambda now: eq.solve(now.spec(model, objective, now.budget)).samples


def by_part(model: str, objective: Objective) -> Buy:
    """The plan for all that is left, of which the budget at hand buys an equal part of every group's."""

    def buy(now: Purchase) -> Integers:
        plan = eq.solve(now.spec(model, objective, now.left)).samples // now.setting.lot
        return part_of(plan, now.budget // now.setting.lot, now.left // now.setting.lot) * now.setting.lot

    return buy


def part_of(plan: Integers, part: int, whole: int) -> Integers:
    """(groups,) part/whole of a plan, in whole lots by largest remainders, earlier groups first among equals."""
    share = plan * part
    lots, rest = share // whole, share % whole
    missing = min(part, -(-int(share.sum()) // whole)) - int(lots.sum())
    lots[np.argsort(-rest, kind="stable")[:missing]] += 1
    return lots


def slice_tuner(now: Purchase) -> Integers:
    """Slice Tuner's one-shot rule: min Σ b(s + x)^−a + λ·Σ max(0, b(s + x)^−a / A − 1), A the mean loss at present.

    Power laws without asymptote, fitted to logarithms with the sizes as weights; exact in whole lots, since the
    sum is convex and separable: lots go where the next spares the most.
    """
    setting, lots = now.setting, now.budget // now.setting.lot
    size, loss = np.log(now.seen.samples), np.log(np.maximum(now.seen.loss, 1e-3))
    total = np.bincount(now.seen.group, now.seen.samples)
    mean_size, mean_loss = (np.bincount(now.seen.group, now.seen.samples * part) / total for part in (size, loss))
    aside = now.seen.samples * (size - mean_size[now.seen.group])
    slope = np.bincount(now.seen.group, aside * (loss - mean_loss[now.seen.group]))
    spread = np.bincount(now.seen.group, aside * (size - mean_size[now.seen.group]))
    exponent = np.maximum(-slope / np.where(spread > 0, spread, 1.0), 0.0)
    later = now.samples[:, None] + setting.lot * np.arange(lots + 1)
    predicted = np.exp(mean_loss[:, None] - exponent[:, None] * (np.log(later) - mean_size[:, None]))
    worth = -(predicted + UNFAIRNESS * np.maximum(predicted / predicted[:, 0].mean() - 1, 0.0))
    gain = np.diff(worth, axis=1)
    gain[np.arange(lots) >= (now.available // setting.lot)[:, None]] = -np.inf
    best = np.argsort(-gain.ravel(), kind="stable")[:lots]
    return np.bincount(best[np.isfinite(gain.ravel()[best])] // lots, minlength=len(gain)) * setting.lot


def party(rounds: int) -> list[Policy]:
    """All policies, those of today first, then ours, then those that know what nobody does."""
    models = {"least squares": "power_law", "convex": "convex_monotone", "shared": "shared_power_law"}
    made = [Policy(name, by_rule(name)) for name in ("equal", "proportional", "water-filling")]
    made += [Policy("Slice Tuner, one shot", slice_tuner), Policy("Slice Tuner, rounds", slice_tuner, rounds)]
    objectives: list[tuple[str, Objective]] = [("mean", "weighted_mean"), ("worst", "worst_group")]
    for aim, objective in objectives:
        for name, model in models.items():
            made.append(Policy(f"{name}, {aim}, one shot", by_plan(model, objective)))
            made.append(Policy(f"{name}, {aim}, rounds", by_plan(model, objective), rounds))
            made.append(Policy(f"{name}, {aim}, rounds ahead", by_part(model, objective), rounds))
    for name, model in (("power law", "power_law"), ("convex curve", "convex_monotone")):
        made.append(Policy(f"knows the nearest {name}", by_plan(model, "weighted_mean"), whole=True))
    made.append(Policy("oracle, mean", oracle=cheapest))
    made.append(Policy("oracle, worst", oracle=lambda error, lots: most_level(error, lots, TOLERANCE)))
    return made
