"""Whose labels to buy next? Scikit-learn's digits, bought group by group, with curves refitted in every round.

    python examples/collect_data.py [--groups scanners | digits] [--objective worst_group weighted_mean] [--seeds 20]
        [--start 8] [--rounds 6] [--labels 8] [--costs 1 2 …] [--rarest 0.25] [--floor 0.5] [--hidden 32]
        [--server ADDRESS] [--device cuda] [--out collect_data.png]

Groups are eight ways to scan the same digits, from plain to noisy, or the ten digits themselves. A run (one seed) puts
60 % of the digits into a pool, of some groups fewer than of others, and keeps the rest for the test. Every buyer starts
with the same labels and spends the same money in every round: on as many labels of every group, in proportion to the
pool, or as a plan says. After each round one small network is trained on all that was bought, and tested on every
group. Planned buying sees nothing but the labels it has bought (`collection/buyers.py`). Pools of digits are smaller
than those of scanners: `--groups digits --start 4 --labels 4` leaves something to choose.

Differences are taken run by run, ± is half the interval of 95 % of their mean (Student's t), and a difference counts
as one only where it is beyond that. Eight are looked at, and one in twenty passes by chance.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from equipoise.examples import loop
from equipoise.examples.collection.buyers import (
    FOLDS,
    Amounts,
    Buyer,
    Planned,
    Standing,
    equal,
    proportional,
    purchase,
    spread,
)
from equipoise.examples.collection.learners import School, Training
from equipoise.examples.collection.report import Story, drawn, tables, verdict
from equipoise.examples.collection.slices import OFFERS, Integers, Split, split

PLANS = {"worst_group": "planned: worst", "weighted_mean": "planned: mean"}
"""Buyers that plan, by objective."""
POOL_SHARE = 0.6
"""Of all digits; the others are the test."""


@dataclass(frozen=True)
class World:
    """What all buyers share: who teaches, what each run's pool and test are, and prices."""

    school: School
    splits: list[Split]
    cost: Amounts
    start: int
    rounds: int
    labels: int

    def play(self, buyer: Buyer) -> Story:
        """All runs of one buyer, side by side."""
        groups = len(self.cost)
        full, money = np.full(groups, self.start), float(self.labels * self.cost.sum())
        held = [self._bought(seed, np.zeros(0, np.int64), full, 0) for seed in range(len(self.splits))]
        marks, spent = [self._tested(held)], [self._spent(held)]
        for turn in range(1, self.rounds + 1):
            due = float(self.start * self.cost.sum()) + turn * money - spent[-1]
            left = due + (self.rounds - turn) * money
            runs = [
                Standing(seed, turn, rows, self._count(rows), self._count(self.splits[seed].pool), self.cost, now, rest)
                for seed, (rows, now, rest) in enumerate(zip(held, due.tolist(), left.tolist(), strict=True))
            ]
            shares = buyer(runs)
            held = [
                self._bought(run.seed, run.held, spread(share, run), turn)
                for run, share in zip(runs, shares, strict=True)
            ]
            marks.append(self._tested(held))
            spent.append(self._spent(held))
        return Story(np.array(marks), np.array(spent), np.array([self._count(rows) for rows in held]))

    def _bought(self, seed: int, held: Integers, labels: Integers, turn: int) -> Integers:
        return purchase(self.school.offer, self.splits[seed].pool, held, labels, 1000 * seed + turn)

    def _count(self, rows: Integers) -> Integers:
        return np.bincount(self.school.offer.group[rows], minlength=len(self.cost))

    def _spent(self, held: Sequence[Integers]) -> Amounts:
        return np.array([self._count(rows) @ self.cost for rows in held])

    def _tested(self, held: Sequence[Integers]) -> Amounts:
        """(seeds, 2, groups) error and loss of a learner for each run."""
        exams, found = [split.test for split in self.splits], list[list[Amounts]]()
        for exam, marks in zip(exams, self.school.marks(held, exams, range(len(held))), strict=True):
            group = self.school.offer.group[exam]
            found.append([np.bincount(group, mark) / np.bincount(group) for mark in marks])
        return np.array(found)


def arguments() -> argparse.Namespace:
    """The flags, checked."""
    parser = loop.parser("Buy labels group by group, with curves refitted in every round.", "collect_data.png")
    parser.set_defaults(seeds=20)
    parser.add_argument("--groups", choices=OFFERS, default="scanners", help="how the data are cut")
    parser.add_argument("--objective", nargs="+", choices=PLANS, default=list(PLANS), help="what is planned for")
    parser.add_argument("--start", type=int, default=8, help="labels of every group that all start with")
    parser.add_argument("--rounds", type=int, default=6, help="rounds of buying")
    parser.add_argument("--labels", type=int, default=8, help="labels of every group that a round could pay for")
    parser.add_argument("--costs", type=float, nargs="+", default=[1.0], help="per label, repeated over the groups")
    parser.add_argument(
        "--rarest", type=float, default=0.25, help="pool of the rarest group over that of the commonest"
    )
    parser.add_argument("--floor", type=float, default=0.5, help="share of equal buying that plans keep to")
    parser.add_argument("--hidden", type=int, default=32, help="hidden units of the network")
    options = parser.parse_args()
    for name, least in (("seeds", 1), ("start", FOLDS), ("rounds", 1), ("labels", 1), ("hidden", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name}: must be at least {least}, got {getattr(options, name)}")
    if not 0 < options.rarest <= 1:
        parser.error(f"--rarest: must be above 0 and at most 1, got {options.rarest:g}")
    if not 0 <= options.floor <= 1:
        parser.error(f"--floor: must be from 0 to 1, got {options.floor:g}")
    if not all(0 < cost < float("inf") for cost in options.costs):
        parser.error(f"--costs: must be positive and finite, got {options.costs}")
    return options


def main() -> None:
    """Play, and print what came of it."""
    options = arguments()
    started = time.perf_counter()
    offer = OFFERS[options.groups]()
    splits = [
        split(offer, POOL_SHARE, options.rarest, np.random.default_rng(seed)) for seed in range(options.seeds)
    ]  # fmt: skip
    cost = np.resize(np.array(options.costs), len(offer.names))
    school = School(offer, Training(options.hidden), options.device)
    world = World(school, splits, cost, options.start, options.rounds, options.labels)
    buyers: dict[str, Buyer] = {"equal": equal, "proportional": proportional}
    with loop.client(options.server) as client:
        planners = {PLANS[goal]: Planned(client, school, goal, options.floor) for goal in options.objective}
        stories = {name: world.play(buyer) for name, buyer in (buyers | planners).items()}
        for planner in planners.values():
            planner.close()
    Console().print(*tables(stories, offer.names))
    print(f"{options.seeds} seeds, ± half the 95 % interval; {time.perf_counter() - started:.0f} s in all")
    for name, planner in planners.items():
        found = Counter(plan.certificate.status for plan in planner.plans)
        middle = 1e3 * float(np.median([plan.certificate.seconds for plan in planner.plans]))
        kinds = " and ".join(f"{count} {status}" for status, count in found.items())
        widest = max(plan.certificate.gap for plan in planner.plans)
        print(f"{name}: {kinds} plans, on the curves fitted, of gaps up to {widest:.1e}; {middle:.1f} ms each (median)")
        foreseen = np.mean([plan.predicted_loss for plan in planner.plans[-options.seeds :]])
        reached = stories[name].measured("mean error")[-1].mean()
        print(f"{name}: the last plans foresaw a mean error of {foreseen:.3f}, the test shows {reached:.3f}")
    for other in buyers:
        print(*verdict(stories, list(planners), other), sep="\n")
    loop.save(drawn(stories, offer.names), options.out)


if __name__ == "__main__":
    main()
