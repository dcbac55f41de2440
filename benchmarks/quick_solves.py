"""Quick solves: how long those specs take at most that are solved where they arrive, by each algorithm's `quick`.

    python benchmarks/quick_solves.py [--specs 600] [--seed 0] [--kind KIND]

Random specs up to the sizes of `quick` and just below, ties, edges and extreme numbers among them; those that are not
quick are left out, and counted. Each is solved three times as the service does, without a search, and the shortest
counts: what the machine does besides is not the spec's. The slowest are listed by kind and by what they are made of.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import equipoise as eq
from equipoise.solvers.algorithms import load
from equipoise.solvers.control import Options
from equipoise.solvers.solve import SearchNeeded, Solver

REPEATS = 3
Made = tuple[str, dict[str, Any]]


def rollout_budgets(random: np.random.Generator) -> Made:
    """A step of up to 512 prompts and 8192 rollouts, over rates that are spread, equal, certain or tiny."""
    prompts = int(random.choice([1, 2, 64, 400, 512, int(random.integers(1, 513))]))
    step = int(random.choice([1, 1, max(8192 // prompts, 1), int(random.integers(1, 8192 // prompts + 1))]))
    value = str(random.choice(["posterior", "fitted", "knapsack_rl", "neyman", "gvm", "vip"]))
    shape = str(random.choice(["spread", "equal", "certain", "tiny"]))
    rate = {
        "spread": random.beta(0.5, 0.5, prompts),
        "equal": np.full(prompts, random.random()),
        "certain": random.choice([0.0, 0.5, 1.0], prompts),
        "tiny": 10.0 ** -random.integers(3, 15, prompts),
    }[shape]
    known: dict[str, Any] = {"success_rate": rate}
    if value in ("posterior", "fitted"):
        trials = random.integers(0, 33 if value == "fitted" else 10**6, prompts)
        known = {"successes": random.binomial(trials, rate), "trials": trials}
    drawn = int(random.choice([0, 0, 3]))
    if drawn and value not in ("neyman", "gvm", "vip"):
        known |= {"drawn": np.full(prompts, drawn), "drawn_successes": random.integers(0, drawn + 1, prompts)}
    least = 3 if value == "vip" else int(random.integers(1, 3))
    start = prompts * max(step, -(-max(least, drawn) // step) * step)
    total = int(random.choice([0, min(start, 8192), 8192, int(random.integers(min(start, 8192), 8193))])) // step * step
    fields = {
        "prompts": known,
        "total": total,
        "multiple_of": step,
        "least": least,
        "most": int(random.choice([16, 128, 2**25])),
        "value": "posterior" if value == "fitted" else value,
        "prior": {"alpha": 0.5, "beta": 2.0} if value == "posterior" else "fit",
    }
    return f"{value}, {shape} rates", fields


def expert_assignment(random: np.random.Generator) -> Made:
    """A batch of up to 1024 scores, over scores that are spread, tied, equal, forbidden or of any magnitude."""
    experts = int(random.choice([1, 2, 8, 16, 32, 64, 512, 1024, int(random.integers(1, 1025))]))
    tokens = int(random.choice([1024 // experts, int(random.integers(0, 1024 // experts + 1))]))
    chosen = int(min(random.choice([1, 2, 8, experts // 2 + 1]), experts, 1024 // max(tokens, 1)))
    shape = str(random.choice(["spread", "tied", "equal", "forbidden", "wide", "favourites"]))
    size = (tokens, experts)
    scores = {
        "spread": random.random(size),
        "tied": random.integers(0, 3, size).astype(float),
        "equal": np.ones(size),
        "forbidden": np.where(random.random(size) < 0.3, -np.inf, random.random(size)),
        "wide": 10.0 ** random.uniform(-99, 99, size),
        "favourites": random.normal(size=size) + 3 * random.normal(size=experts),
    }[shape]
    even = -(-tokens * chosen // experts)
    fields = {
        "scores": scores,
        "experts_per_token": chosen,
        "capacity": random.choice(np.array([None, even, even + 1, 2 * even, tokens], object)),
        "prices": random.choice(np.array([0.0, 1.0])) * random.random(experts) if random.random() < 0.3 else None,
    }
    return f"{shape} scores", fields


def decode_allocation(random: np.random.Generator) -> Made:
    """A step of up to 16 workers of 72 slots, 64 waiting requests and 8 steps of the horizon."""
    workers, waiting = int(random.choice([1, 2, 15, 16])), int(random.choice([0, 1, 63, 64]))
    slots = random.choice([np.full(workers, 72), random.integers(0, 73, workers)])
    taken = np.repeat(np.arange(workers), slots)
    active = random.permutation(taken)[: int(len(taken) * random.choice([0.0, 0.5, 0.95, 1.0]))]
    shape = str(random.choice(["long-tailed", "equal", "doubling", "tied"]))

    def tokens(size: int) -> Any:
        return {
            "long-tailed": random.lognormal(6.6, 1.0, size).astype(int) + 1,
            "equal": np.full(size, 1000),
            "doubling": 2 ** random.integers(0, 41, size),
            "tied": random.integers(1, 4, size),
        }[shape]

    fields: dict[str, Any] = {
        "workers": {"slots": slots},
        "active": {"worker": active, "tokens": tokens(len(active)), "remaining": random.geometric(0.005, len(active))},
        "waiting": {"tokens": tokens(waiting), "remaining": random.geometric(0.005, waiting)},
        "horizon": [[0], [0, 1, 2, 3, 4, 5, 6, 7], [0, 4, 16, 64, 128, 256, 512, 1024]][random.integers(3)],
        "growth": float(random.choice([0.0, 1.0, 3.3])),
    }
    if random.random() < 0.3:
        fields["workers"]["speed"] = 10.0 ** random.uniform(-12, 12, workers)
    if random.random() < 0.5:
        fields |= {"max_bypass": int(random.choice([0, 8, 64]))}
        fields["waiting"]["waited"] = random.integers(0, 100, waiting)
    if random.random() < 0.3:
        fields["waiting"]["affinity"] = random.integers(0, 200, (waiting, workers))
    return f"{shape} requests", fields


KINDS: dict[str, tuple[type[Any], Callable[[np.random.Generator], Made]]] = {
    "rollout_budgets": (eq.RolloutBudgets, rollout_budgets),
    "expert_assignment": (eq.ExpertAssignment, expert_assignment),
    "decode_allocation": (eq.DecodeAllocation, decode_allocation),
}


def outcome(spec: Any) -> tuple[float, str]:
    """Milliseconds that a solve takes, and how it ends."""
    best, ended = np.inf, ""
    for _ in range(REPEATS):
        solver = Solver(Options())
        solver.warm_up(spec)
        started = time.perf_counter()
        try:
            solver.solve(spec, search=False)
            ended = "solved"
        except SearchNeeded:
            ended = "to be searched"
        best = min(best, 1e3 * (time.perf_counter() - started))
    return best, ended


def measured(kind: str, number: int, seed: int) -> tuple[dict[str, list[tuple[float, int]]], Counter[str]]:
    """Milliseconds, and the seeds that they are of, by what specs are made of; and how solves ended."""
    model, make = KINDS[kind]
    loaded = load(kind)
    assert loaded is not None
    found, ends = defaultdict[str, list[tuple[float, int]]](list), Counter[str]()
    for own in range(seed, seed + number):
        label, fields = make(np.random.default_rng(own))
        try:
            spec = model(**{name: value for name, value in fields.items() if value is not None})
        except eq.SpecError:
            ends["refused"] += 1
            continue
        if not loaded.algorithm.quick(spec):
            ends["not quick"] += 1
            continue
        taken, ended = outcome(spec)
        ends[ended] += 1
        found[label].append((taken, own))
    return found, ends


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--specs", type=int, default=600, help="per kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS))
    options = parser.parse_args()
    console = Console()
    console.print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, one thread")
    for kind in [options.kind] if options.kind else KINDS:
        found, ends = measured(kind, options.specs, options.seed)
        table = Table("made of", "specs", "median ms", "slowest ms", "its seed", title=f"{kind}: {dict(ends)}")
        for label, taken in sorted(found.items(), key=lambda entry: -max(entry[1])[0]):
            slowest, own = max(taken)
            middle = statistics.median(time for time, _ in taken)
            table.add_row(label, str(len(taken)), f"{middle:.3f}", f"{slowest:.3f}", str(own))
        console.print(table)


if __name__ == "__main__":
    main()
