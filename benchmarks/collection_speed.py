"""Collection budgets: the time to a proven plan, beside the compiled program, a continuous solve and today's rules.

    python benchmarks/collection_speed.py [--sizes 16 128 1000] [--seeds 5] [--repeats 20] [--costs equal few cents]
        [--method auto | exact | fast] [--program 60]

Curves are power laws, budgets about a hundred samples a group. Costs are all 1, one of 1, 1.5, 2 and 2.5, or any number
of cents from 0.50 to 5.00. `cold` is the spec from numpy arrays and `eq.solve`, validation and certificate included;
`warm` is `session.step` with other samples collected and another budget; `program` is the same cold solve by the
compiled program (HiGHS, `backend="highs"`), once a seed and for --program seconds at most. `continuous` is the convex
problem of Slice Tuner (Tae and Whang, arXiv 2003.04549) without its unfairness term, solved by bisection on the
multiplier and rounded down to whole samples; for the worst group, bisection on the level. `excess` is by how much a
plan's objective is above the bound that we prove; that of the rules is their best one's. For `worst_group`, objectives
are compared by the largest loss alone, on which the tolerance of our plans (1e-3) shows. Times are medians over seeds
and repeats.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import equipoise as eq
from equipoise.solvers.baselines import compare

OBJECTIVES = ("weighted_mean", "worst_group", "alpha_fair")
COSTS: dict[str, Callable[[np.random.Generator, int], Any]] = {
    "equal": lambda random, size: np.ones(size),
    "few": lambda random, size: random.choice([1.0, 1.5, 2.0, 2.5], size),
    "cents": lambda random, size: random.integers(50, 501, size) / 100,
}


def fields_of(size: int, costs: str, objective: str, seed: int) -> dict[str, Any]:
    """A task as the arrays that a user would have."""
    random = np.random.default_rng(seed)
    return {
        "groups": {
            "name": [f"group {number}" for number in range(size)],
            "collected": random.integers(20, 200, size),
            "cost": COSTS[costs](random, size),
            "curve": {
                "asymptote": random.uniform(0.0, 0.3, size),
                "scale": random.uniform(0.2, 3.0, size),
                "exponent": random.uniform(0.2, 1.0, size),
            },
        },
        "budget": 100.0 * size,
        "objective": objective,
    }


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that something takes, and what it gives."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def continuous(fields: dict[str, Any]) -> Any:
    """(groups,) samples of the continuous optimum, rounded down; None for alpha-fair sums."""
    groups, curve = fields["groups"], fields["groups"]["curve"]
    held, cost, budget = groups["collected"], groups["cost"], fields["budget"]
    asymptote, scale, exponent = curve["asymptote"], curve["scale"], curve["exponent"]
    if fields["objective"] == "alpha_fair":
        return None
    worst = fields["objective"] == "worst_group"
    most = float((asymptote + scale * held**-exponent).max())
    low, high = (float(asymptote.max()), most) if worst else (-60.0, 20.0)
    bought = np.zeros(len(held))
    for _ in range(60):
        middle = (low + high) / 2
        if worst:
            with np.errstate(divide="ignore", over="ignore"):
                total = (scale / np.maximum(middle - asymptote, 1e-300)) ** (1 / exponent)
        else:
            total = (scale * exponent / (cost * np.exp(middle))) ** (1 / (exponent + 1))
        bought = np.maximum(total - held, 0.0)
        low, high = (middle, high) if cost @ bought > budget else (low, middle)
    return np.floor(bought).astype(np.int64) if cost @ np.floor(bought) <= budget else None


def row(size: int, costs: str, objective: str, options: argparse.Namespace) -> list[str]:
    """One line of the table."""
    cold, warm, program, slice_tuner = list[float](), list[float](), list[float](), list[float]()
    gaps, program_gaps, excess, rules = list[float](), list[float](), list[float](), list[float]()
    unfinished = 0
    for seed in range(options.seeds):
        fields = fields_of(size, costs, objective, seed)
        spec = eq.CollectionBudgets(**fields)
        plan = eq.solve(spec)
        for _ in range(options.repeats):
            seconds, plan = timed(lambda fields=fields: eq.solve(eq.CollectionBudgets(**fields), options.method))
            cold.append(seconds)
        gaps.append(plan.certificate.gap)
        if not eq.check(spec, plan).ok:
            raise SystemExit(f"a plan of seed {seed} fails its check")
        random = np.random.default_rng(seed)
        with eq.session(spec, options.method) as session:
            session.step()
            for _ in range(options.repeats):
                collected = fields["groups"]["collected"] + random.integers(0, 5, size)
                changes = {"groups": {**fields["groups"], "collected": collected}}
                changes["budget"] = fields["budget"] * random.uniform(0.9, 1.1)
                warm.append(timed(lambda session=session, changes=changes: session.step(**changes))[0])
        seconds, found = timed(
            lambda fields=fields: eq.solve(
                eq.CollectionBudgets(**fields),
                "exact" if options.method == "exact" else "auto",
                backend="highs",
                time_limit=options.program,
            )
        )
        program.append(seconds)
        program_gaps.append(found.certificate.gap)
        unfinished += found.certificate.stopped == "time limit"
        bound = plan.certificate.bound
        seconds, bought = timed(lambda fields=fields: continuous(fields))
        if bought is not None:
            slice_tuner.append(seconds)
            rounded = type(plan)(**{**plan.fields(), "samples": bought})
            excess.append(spec.objective(rounded) / bound - 1)
        rules.append(min(other.objective for other in compare(spec, plan)) / bound - 1)
    middle = statistics.median
    ours, theirs = middle(cold), middle(program)
    return [
        f"{size}",
        costs,
        objective.replace("_", " "),
        f"{1e3 * theirs:.4g} ms{' *' if unfinished else ''}",
        f"{1e3 * ours:.3g} ms",
        f"{1e3 * middle(warm):.3g} ms",
        f"{theirs / ours:.0f}×",
        f"{max(program_gaps):.1g}",
        f"{max(gaps):.1g}",
        f"{1e3 * middle(slice_tuner):.3g} ms" if slice_tuner else "",
        f"{100 * middle(excess):.2g} %" if excess else "",
        f"{100 * middle(rules):.3g} %",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 128, 1000])
    parser.add_argument("--costs", nargs="+", choices=COSTS, default=["equal", "few", "cents"])
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--method", choices=("auto", "exact", "fast"), default="auto")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--program", type=float, default=60.0)
    options = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("equipoise", "numba", "highspy", "numpy"))
    table = Table(
        title=f"Collection budgets, {options.method}, {options.seeds} seeds × {options.repeats} repeats",
        caption=f"Python {platform.python_version()}, {packages}; {os.cpu_count()} cores. * the program was stopped",
    )
    heads = ["groups", "costs", "objective", "program", "cold", "warm", "ratio", "its gap", "our gap"]
    for head in [*heads, "continuous", "excess", "best rule's"]:
        table.add_column(head, justify="right", no_wrap=True)
    for size in options.sizes:
        for costs in options.costs:
            for objective in options.objectives:
                table.add_row(*row(size, costs, objective, options))
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
