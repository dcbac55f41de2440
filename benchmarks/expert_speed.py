"""Expert assignment beside its peers: time, violation and gap to the optimum, all measured in one run.

    python benchmarks/expert_speed.py [--sizes 4096x64 16384x256] [--skews 1 3] [--repeats 3] [--threads 2] [--seed 0]
    python benchmarks/expert_speed.py --ties [--sizes 16384x256]

Scores are sigmoid(N(0,1) + skew·N(0,1) per expert), k 8, capacity tokens·k / experts. Ours are whole calls: the spec
from a numpy array and `eq.solve`, or `session.step` with new scores; validation and certificate included. Warm steps
drift in one of two ways: every score by 1 % of the spread of all scores, or the logits behind them by 1 % of theirs.
OR-Tools is its bare min-cost flow: scores scaled to 10⁶ and rounded, `solve` alone, building it not counted. BIP and
Quantile Balancing are our own numpy, by their published formulas, cold after so many rounds, and one step of Quantile
Balancing from the optimal prices of the step before; they bound nothing and leave experts over their capacity.

violation: max load / capacity − 1, of each method's own plan. gap: ours is the certificate's; a peer's is what its
objective, on the true scores, lacks of our optimum, negative where a plan over capacity exceeds it. Peers' times
include the routing by the last prices; numpy runs on one thread, OR-Tools too. Medians over the repeats, each on
another seed (warm: over the steps). With `--ties`, the table is of our exact answers, cold, where scores have few
values: all the same, multiples of 1/L, or what is left of them in bfloat16.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import equipoise as eq
from equipoise.solvers.baselines.expert_assignment import bip, quantile_balancing

CHOSEN = 8
ROUNDS = (4, 14, 64)
COSTS = 1e6
LEVELS = (1, 4, 16, 100)


@dataclass
class Row:
    """What one method reached: seconds, violations and gaps, one per repeat or step."""

    seconds: list[float] = field(default_factory=list)
    violation: list[float] = field(default_factory=list)
    gap: list[float] = field(default_factory=list)


Rows = dict[str, Row]


def timed(row: Row, work: Callable[[], Any]) -> Any:
    """The plan that a method gives, its time noted."""
    started = time.perf_counter()
    plan = work()
    row.seconds.append(time.perf_counter() - started)
    return plan


def min_cost_flow(scores: Any, capacity: int) -> tuple[float, float, Any]:
    """OR-Tools on rounded scores: seconds of `solve` alone, the objective on the true scores, and the loads."""
    from ortools.graph.python import min_cost_flow as flow

    tokens, experts = scores.shape
    solver: Any = flow.SimpleMinCostFlow()
    rows = np.arange(tokens, dtype=np.int32)
    columns = np.arange(tokens, tokens + experts, dtype=np.int32)
    tails, heads = np.repeat(rows, experts), np.tile(columns, tokens)
    cost = -np.rint(scores.ravel() * COSTS).astype(np.int64)
    pairs = solver.add_arcs_with_capacity_and_unit_cost(tails, heads, np.ones(scores.size, np.int64), cost)
    sink, every = tokens + experts, np.full(experts, capacity, np.int64)
    drains = solver.add_arcs_with_capacity_and_unit_cost(
        columns, np.full(experts, sink, np.int32), every, np.zeros_like(every)
    )
    supply = np.zeros(tokens + experts + 1, np.int64)
    supply[:tokens], supply[sink] = CHOSEN, -tokens * CHOSEN
    solver.set_nodes_supplies(np.arange(len(supply), dtype=np.int32), supply)
    started = time.perf_counter()
    status = solver.solve()
    seconds = time.perf_counter() - started
    if status != solver.OPTIMAL:
        raise SystemExit(f"OR-Tools min-cost flow answered {status}")
    return seconds, float((solver.flows(pairs) * scores.ravel()).sum()), solver.flows(drains)


def logits(tokens: int, experts: int, skew: float, seed: int) -> Any:
    """(tokens × experts) router logits with popular experts."""
    random = np.random.default_rng(seed)
    return random.normal(size=(tokens, experts)) + skew * random.normal(size=experts)


def sigmoid(values: Any) -> Any:
    """Scores of logits."""
    return 1 / (1 + np.exp(-values))


TIED: dict[str, Callable[[Any], Any]] = {
    "all equal": lambda scores: np.full_like(scores, 0.5),
    **{
        f"multiples of 1/{levels}": lambda scores, levels=levels: np.rint(scores * levels) / levels for levels in LEVELS
    },
    "bfloat16": lambda scores: bfloat16(scores),
    "continuous": lambda scores: scores,
}


def bfloat16(scores: Any) -> Any:
    """Scores rounded to the nearest number with eight significant bits."""
    fraction, exponent = np.frexp(scores)
    return np.ldexp(np.rint(fraction * 2**8) / 2**8, exponent)


def ties(tokens: int, experts: int, skews: list[float], seeds: range, threads: int) -> Table:
    """Our exact answers, cold, on scores of few values: median milliseconds per skew, and the largest gap."""
    title = f"{tokens} × {experts}, k {CHOSEN}, exact, cold: ms, {len(seeds)} seeds from {seeds[0]}, {threads} threads"
    table = Table(title=title)
    table.add_column("scores")
    for skew in skews:
        table.add_column(f"skew {skew:g}", justify="right")
    table.add_column("largest gap", justify="right")
    for name, rounded in track(TIED.items(), "ties", console=Console(stderr=True)):
        columns = [Row() for _ in skews]
        for row, skew in zip(columns, skews, strict=True):
            for seed in seeds:
                scores = rounded(sigmoid(logits(tokens, experts, skew, seed)))
                plan = timed(row, lambda scores=scores: eq.solve(_spec(scores), "exact", threads=threads))
                row.gap.append(plan.certificate.gap)
        worst = max(max(row.gap) for row in columns)
        table.add_row(name, *(f"{1e3 * _middle(row.seconds):.0f}" for row in columns), f"{worst:.1e}")
    return table


def _spec(scores: Any) -> eq.ExpertAssignment:
    return eq.ExpertAssignment(scores=scores, experts_per_token=CHOSEN)


def cold(rows: Rows, tokens: int, experts: int, skew: float, seed: int, threads: int, peers: bool) -> None:
    """All methods once, each from nothing, on the same scores."""
    scores = sigmoid(logits(tokens, experts, skew, seed))
    capacity = -(-tokens * CHOSEN // experts)
    spec = _spec(scores)

    def ours(method: Any) -> Any:
        return eq.solve(_spec(scores), method, threads=threads)

    exact = timed(_row(rows, "exact, cold"), lambda: ours("exact"))
    optimum = exact.certificate.objective
    _note(rows["exact, cold"], exact.load, exact.certificate.bound, optimum, capacity)
    fast = timed(_row(rows, "fast, cold"), lambda: ours("fast"))
    _note(rows["fast, cold"], fast.load, fast.certificate.bound, fast.certificate.objective, capacity)
    if not peers:
        return
    seconds, objective, load = min_cost_flow(scores, capacity)
    flow = _row(rows, "OR-Tools min-cost flow, cold")
    flow.seconds.append(seconds)
    _note(flow, load, optimum, objective, capacity)
    for name, rule in (("BIP", bip), ("Quantile Balancing", quantile_balancing)):
        for count in ROUNDS:
            row = _row(rows, f"{name} T={count}, cold")
            plan = timed(row, lambda rule=rule, count=count: rule(spec, count))
            _note(row, plan.load, optimum, spec.objective(plan), capacity)


def warm(rows: Rows, tokens: int, experts: int, skew: float, seed: int, threads: int, steps: int, drift: str) -> None:
    """Steps of a session, exact and fast, and one round of Quantile Balancing from the prices before."""
    random = np.random.default_rng(seed)
    inner = logits(tokens, experts, skew, seed)
    scores = sigmoid(inner)
    capacity = -(-tokens * CHOSEN // experts)
    spec = _spec(scores)
    with eq.session(spec, "exact", threads=threads) as exact, eq.session(spec, "fast", threads=threads) as fast:
        before = exact.step()
        fast.step()
        for step in range(steps + 2):
            if drift == "scores":
                scores = scores + 0.01 * scores.std() * random.normal(size=scores.shape)
            else:
                inner = inner + 0.01 * inner.std() * random.normal(size=inner.shape)
                scores = sigmoid(inner)
            scratch: Rows = rows if step >= 2 else {}  # the first steps are not the drift's own pace
            row = _row(scratch, f"exact, warm, {drift} drift")
            plan = timed(row, lambda scores=scores: exact.step(scores=scores))
            optimum = plan.certificate.objective
            _note(row, plan.load, plan.certificate.bound, optimum, capacity)
            row = _row(scratch, f"fast, warm, {drift} drift")
            quick = timed(row, lambda scores=scores: fast.step(scores=scores))
            _note(row, quick.load, quick.certificate.bound, quick.certificate.objective, capacity)
            task, prices = spec.replace(scores=scores), before.prices
            row = _row(scratch, f"Quantile Balancing, one step, {drift} drift")
            one = timed(row, lambda task=task, prices=prices: quantile_balancing(task, 1, prices))
            _note(row, one.load, optimum, task.objective(one), capacity)
            before = plan


def _row(rows: Rows, name: str) -> Row:
    return rows.setdefault(name, Row())


def _note(row: Row, load: Any, bound: float, objective: float, capacity: int) -> None:
    row.violation.append(float(load.max()) / capacity - 1)
    row.gap.append((bound - objective) / abs(objective))


def main() -> None:
    """Print a table per size and skew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["4096x64", "16384x256"], metavar="TOKENSxEXPERTS")
    parser.add_argument("--skews", nargs="+", type=float, default=[1.0, 3.0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=7, help="warm steps that count")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ties", action="store_true", help="only our exact answers on scores of few values")
    options = parser.parse_args()
    console = Console(width=120)
    for size in options.sizes:
        tokens, experts = map(int, size.split("x"))
        if options.ties:
            seeds = range(options.seed, options.seed + options.repeats)
            cold({}, tokens, experts, 1.0, options.seed, options.threads, peers=False)  # machine code and memory
            console.print(ties(tokens, experts, options.skews, seeds, options.threads))
            continue
        for skew in options.skews:
            rows: Rows = {}
            arguments = tokens, experts, skew
            cold({}, *arguments, options.seed, options.threads, peers=False)  # machine code and memory
            for seed in track(range(options.seed, options.seed + options.repeats), size, console=Console(stderr=True)):
                cold(rows, *arguments, seed, options.threads, peers=True)
            for drift in ("scores", "logits"):
                warm(rows, *arguments, options.seed, options.threads, options.steps, drift)
            console.print(_table(rows, f"{tokens} × {experts}, k {CHOSEN}, skew {skew:g}", options))


def _table(rows: Rows, title: str, options: argparse.Namespace) -> Table:
    packages = ", ".join(f"{name} {version(name)}" for name in ("equipoise", "numba", "ortools", "numpy"))
    settings = f"{options.repeats} seeds from {options.seed}, {options.steps} warm steps, {options.threads} threads"
    table = Table(
        title=title,
        caption=f"{settings}; Python {platform.python_version()}, {packages}; {os.cpu_count()} cores",
    )
    table.add_column("method")
    for column in ("ms", "ours is faster by", "violation", "gap"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        ours = name.startswith(("exact", "fast"))
        other = _counterpart(name, rows)
        ratio = "" if ours or other is None else f"{_middle(row.seconds) / _middle(other.seconds):.1f}×"
        table.add_row(
            name,
            f"{1e3 * _middle(row.seconds):.1f}",
            ratio,
            f"{statistics.median(row.violation):.3f}",
            f"{statistics.median(row.gap):.1e}",
        )
    return table


def _counterpart(name: str, rows: Rows) -> Row | None:
    """Our row that a peer is held against: exact for the one that is exact, fast for the others."""
    if name.startswith("OR-Tools"):
        return rows["exact, cold"]
    return rows["fast, cold"] if name.endswith("cold") else rows[f"fast, warm, {name.rpartition(', ')[2]}"]


def _middle(values: list[float]) -> float:
    return statistics.median(values)


if __name__ == "__main__":
    main()
