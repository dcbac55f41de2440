"""Small programs with known answers, which every backend must give."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from equipoise.solvers.program import Builder, Program


@dataclass(frozen=True)
class Case:
    """A program, and its optimum; None where it has no solution."""

    name: str
    program: Program
    optimum: float | None


def knapsack(size: int, seed: int) -> Program:
    """Weights that are all alike make the bound useless: a long search even for a few dozen items."""
    random = np.random.default_rng(seed)
    builder = Builder("maximise")
    weights = random.integers(10_000, 20_000, (5, size))
    take = builder.columns(
        "take", size, cost=weights.mean(axis=0) + random.integers(0, 50, size), upper=1, integer=True
    )
    rows = builder.rows("room", 5, upper=weights.sum(axis=1) // 2, field="room")
    builder.entries(rows[:, None], take[None, :], weights)
    return builder.build()


def transport(scores: list[list[float]], places: list[int], capacity: list[int], sense: str = "maximise") -> Program:
    """Sources that must place their units on sinks of limited capacity, at most one each per pair."""
    builder = Builder("maximise" if sense == "maximise" else "minimise", integral=True)
    cost = np.array(scores)
    route = builder.columns("route", cost.shape, cost=cost, upper=1, integer=True)
    source = builder.rows("places", len(places), lower=places, upper=places, field="places")
    sink = builder.rows("capacity", len(capacity), upper=capacity, field="capacity")
    builder.entries(source[:, None], route)
    builder.entries(sink[None, :], route)
    return builder.build()


def linear() -> Program:
    """max 3x + 2y + 1, x + y ≤ 4, x + 3y ≤ 7.5, x ≤ 2.5: the optimum is (2.5, 1.5)."""
    builder = Builder("maximise", offset=1.0)
    x, y = builder.columns("amount", 2, cost=[3.0, 2.0], upper=[2.5, np.inf])
    rows = builder.rows("limit", 2, upper=[4.0, 7.5], field="limit")
    builder.entries(rows[[0, 0, 1, 1]], [x, y, x, y], [1, 1, 1, 3])
    return builder.build()


def whole() -> Program:
    """min 5x + 4y, 6x + 4y ≥ 25, x + 2y ≥ 6, whole: the relaxation lies at a fraction."""
    builder = Builder("minimise")
    x, y = builder.columns("units", 2, cost=[5.0, 4.0], integer=True)
    rows = builder.rows("demand", 2, lower=[25.0, 6.0], field="demand")
    builder.entries(rows[[0, 0, 1, 1]], [x, y, x, y], [6, 4, 1, 2])
    return builder.build()


def mixed() -> Program:
    """min 2x + 3z, x + z ≥ 4.5, z whole: HiGHS 1.14 takes 15 for the optimum (its issue 3043), which is 9."""
    builder = Builder("minimise")
    x = builder.columns("amount", 1, cost=2.0, upper=10.0)
    z = builder.columns("units", 1, cost=3.0, upper=10.0, integer=True)
    builder.entries(builder.rows("demand", 1, lower=4.5, field="demand"), [*x, *z])
    return builder.build()


def impossible() -> Program:
    """x ≤ 1, and x ≥ 2 by a row."""
    builder = Builder("minimise")
    x = builder.columns("amount", 1, cost=1.0, upper=1.0, upper_field="most")
    builder.entries(builder.rows("demand", 1, lower=2.0, field="demand"), x)
    return builder.build()


def tiny_costs() -> Program:
    """Costs that differ by 10⁻¹⁰: a solver at its default tolerances does not see them."""
    builder = Builder("maximise")
    take = builder.columns("take", 4, cost=np.array([1.0, 3.0, 2.0, 4.0]) * 1e-10, upper=1.0)
    builder.entries(builder.rows("room", 1, upper=2.0, field="room"), take)
    return builder.build()


def nothing() -> Program:
    """No columns at all."""
    return Builder("minimise", offset=2.5).build()


CASES = [
    Case("linear", linear(), 11.5),
    Case("whole", whole(), 23.0),
    Case("mixed", mixed(), 9.0),
    Case("transport", transport([[3, 1, 0], [3, 2, 0], [3, 0, 1]], [1, 1, 1], [1, 1, 1]), 6.0),
    Case("transport, two each", transport([[3, 1, 0], [3, 2, 0], [3, 0, 1]], [2, 2, 2], [2, 2, 2]), 10.0),
    Case("transport, least cost", transport([[3, 1], [3, 2.5]], [1, 1], [1, 1], "minimise"), 4.0),
    Case("transport, too little room", transport([[3, 1], [3, 2]], [1, 1], [1, 0]), None),
    Case("impossible", impossible(), None),
    Case("tiny costs", tiny_costs(), 7e-10),
    Case("nothing", nothing(), 2.5),
]


def with_cost(program: Program, values: list[float]) -> Program:
    """The same program under another objective."""
    return replace(program, cost=np.array(values))
