"""Who buys which labels: as many of every group, as the pool has them, or by a plan on fitted learning curves.

A buyer names proportions; `spread` turns them into labels for a round's money, for all buyers alike. Planned buying
looks at nothing but the labels bought so far: it cross-validates on them, trained on a quarter, a half and all that a
fold leaves, which gives three points of each group's curve. It then plans for all the money left, buys a part of that,
and looks again. All groups shrink together in these looks, as in Slice Tuner (arXiv 2003.04549): so a group's curve
also credits to its own labels what those of the other groups teach it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

import equipoise as eq
from equipoise.clients.client import ClientSession
from equipoise.kernels.groups import draw_by_budget
from equipoise.specs.collection_budgets import CollectionPlan

from .learners import School
from .slices import Integers, Offer

Objective = Literal["worst_group", "weighted_mean"]
Amounts = NDArray[np.float64]

FOLDS = 4
"""Parts of a cross-validation; every group starts with a label for each at least."""
SHARES = (0.25, 0.5, 1.0)
"""Of what a fold leaves for training, as much as each look trains on."""


@dataclass(frozen=True)
class Standing:
    """One run before a purchase. held: rows bought so far, in the order of the groups. collected, pool: (groups,) how
    many these are, and how many there were at first. money: of this round; left: of this round and all later ones."""

    seed: int
    turn: int
    held: Integers
    collected: Integers
    pool: Integers
    cost: Amounts
    money: float
    left: float

    @property
    def available(self) -> Integers:
        """(groups,) rows that can still be bought."""
        return self.pool - self.collected


Buyer = Callable[[Sequence[Standing]], list[Amounts]]
"""(groups,) proportions in which each run buys."""


def equal(runs: Sequence[Standing]) -> list[Amounts]:
    """As many labels of every group."""
    return [np.ones(len(run.pool)) for run in runs]


def proportional(runs: Sequence[Standing]) -> list[Amounts]:
    """In proportion to what the pool held at first."""
    return [run.pool.astype(np.float64) for run in runs]


class Planned:
    """By plans for one objective, in one session of a client for all runs.

    floor: share of equal buying that every group gets in any case; curves through few points can be far off.
    plans: all that were made.
    """

    def __init__(self, client: eq.Client, school: School, objective: Objective, floor: float) -> None:
        self.client, self.school, self.objective, self.floor = client, school, objective, floor
        self.plans = list[CollectionPlan]()
        self._session: ClientSession[CollectionPlan] | None = None

    def __call__(self, runs: Sequence[Standing]) -> list[Amounts]:
        looks = cross_validated(self.school, runs)
        return [self._planned(run, seen) for run, seen in zip(runs, looks, strict=True)]

    def close(self) -> None:
        """End the session."""
        if self._session is not None:
            self._session.close()

    def _planned(self, run: Standing, seen: dict[str, Any]) -> Amounts:
        names = list(self.school.offer.names)
        left = round(run.left, 9)  # a sum of prices, without the digits that adding up in binary leaves behind
        least = np.minimum(run.available, int(self.floor * left / run.cost.sum() + 1e-9))
        groups = {"name": names, "collected": run.collected, "cost": run.cost}
        groups |= {"available": run.available, "least": least}
        task = {"groups": groups, "observations": seen, "budget": left}
        if self._session is None:
            self._session = self.client.session(eq.CollectionBudgets(**task, objective=self.objective))
        plan = self._session.step(**task)
        self.plans.append(plan)
        return plan.samples.astype(np.float64)


def cross_validated(school: School, runs: Sequence[Standing]) -> list[dict[str, Any]]:
    """Each run's error on every group at a few sizes, with standard errors, as a spec takes observations."""
    folds = [_folds(school.offer, run) for run in runs]
    seeds = [run.seed for run in runs for _ in range(FOLDS)]
    seen = [dict[str, list[Any]](group=[], samples=[], loss=[], stderr=[]) for _ in runs]
    for share in SHARES:
        study = [_part(groups, fold, share) for groups in folds for fold in range(FOLDS)]
        exam = [np.concatenate([rows[fold::FOLDS] for rows in groups]) for groups in folds for fold in range(FOLDS)]
        marks = school.marks([np.concatenate(rows) for rows in study], exam, seeds)
        for at, (run, look) in enumerate(zip(runs, seen, strict=True)):
            part = slice(at * FOLDS, (at + 1) * FOLDS)
            wrong = np.bincount(
                school.offer.group[np.concatenate(exam[part])],
                np.concatenate([mark.error for mark in marks[part]]),
                minlength=len(run.pool),
            )
            size = np.mean([[len(rows) for rows in groups] for groups in study[part]], axis=0)
            smoothed = (wrong + 1) / (run.collected + 2)  # without a mistake, the error is still uncertain
            look["group"] += school.offer.names
            look["samples"] += np.maximum(np.rint(size), 1).astype(np.int64).tolist()
            look["loss"] += (wrong / run.collected).tolist()
            look["stderr"] += np.sqrt(smoothed * (1 - smoothed) / run.collected).tolist()
    return seen


def _folds(offer: Offer, run: Standing) -> list[Integers]:
    """The rows held of each group, shuffled: every `FOLDS`th is one fold."""
    random = np.random.default_rng([run.seed, run.turn])
    return [random.permutation(rows) for rows in np.split(run.held, np.cumsum(run.collected)[:-1])]


def _part(groups: list[Integers], fold: int, share: float) -> list[Integers]:
    """A share of each group's rows outside of a fold, rounded up."""
    outside = [rows[np.arange(len(rows)) % FOLDS != fold] for rows in groups]
    return [rows[: int(np.ceil(share * len(rows)))] for rows in outside]


def spread(shares: Amounts, run: Standing) -> Integers:
    """(groups,) labels in given proportions for a round's money, as long as any group can be paid and is not sold out.

    What proportions of zero leave of the money is spent as if they were equal.
    """
    bought, money = np.zeros(len(shares), np.int64), run.money
    for pace in (shares, np.ones(len(shares))):
        while True:
            open_ = (pace > 0) & (bought < run.available) & (run.cost <= money * (1 + 1e-12))
            if not open_.any():
                break
            group = int(np.argmin(np.where(open_, (bought + 1) / np.maximum(pace, 1e-300), np.inf)))
            bought[group] += 1
            money -= run.cost[group]
    return bought


def purchase(offer: Offer, pool: Integers, held: Integers, bought: Integers, seed: int) -> Integers:
    """The rows held once so many more of each group are drawn out of what a pool has left, in the order of the groups.

    Raises `ValueError` where a group has fewer.
    """
    rest = np.setdiff1d(pool, held)
    sizes = np.bincount(offer.group[rest], minlength=len(bought))
    for group in np.flatnonzero(bought > sizes).tolist():
        raise ValueError(f"{offer.names[group]}: {bought[group]} labels wanted, and the pool has {sizes[group]} left")
    drawn = draw_by_budget(torch.from_numpy(sizes), torch.from_numpy(bought), int(bought.sum()), seed)
    return np.sort(np.concatenate([held, rest[drawn.numpy()]]))
