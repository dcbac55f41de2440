"""Rollout budgets: time and objective beside the published dynamic program, a heap, and the compiled program.

    python benchmarks/rollout_speed.py [--repeats 31] [--seed 0] [--no-search]

Every row is measured in this one process, one thread, on the same data: medians over the repeats, peers over at most
three (the dynamic program of 1024 × 8 once). Ours is the whole of `eq.solve` on numpy arrays, spec, validation,
certificate and the final check of the demands included; warm is `session.step` with the data of the next step.

The dynamic program is that of Knapsack RL (arXiv 2509.25849), written here from its description in Numba: every
prompt has its least, the rest of the budget is spread by O(prompts · budget · most) steps, and no extra rollouts at all
are scored as zero. `published` works out a value where it needs one, `with a table` reads it from a table of values,
whose making is not counted; nor is it for the heap, which takes the best marginal value one by one. 8192 × 16 does not
fit: its choices take 2 GB, and it has about 10¹¹ steps.

Rates come from Beta(½, ½): known under `knapsack_rl`, seen in eight rollouts each under `posterior`, whose prior is
fitted inside the solve. The multiple choice is 1024 items × 64 options, its peer HiGHS at a gap of 0.1 %.
"""

from __future__ import annotations

import argparse
import heapq
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import equipoise as eq

LEAST, MOST = 2, 128
SIZES = ((256, 8), (1024, 8), (8192, 16))
LARGEST_CHOICES = 2**30
"""Bytes of choices that the dynamic program may take."""

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@numba.njit("void(float64[:, ::1], int64, int16[:, ::1])", nogil=True)
def _program(values: Floats, budget: int, choice: NDArray[np.int16]) -> None:
    """choice[i, b]: extra rollouts of prompt i where the prompts up to i spend b extra ones together."""
    best = np.full(budget + 1, -np.inf)
    best[0] = 0.0
    following = np.empty(budget + 1)
    for prompt in range(len(values)):
        for spent in range(budget + 1):
            top, extra = best[spent], 0
            for count in range(1, min(values.shape[1] - 1, spent) + 1):
                worth = best[spent - count] + values[prompt, count]
                if worth > top:
                    top, extra = worth, count
            following[spent], choice[prompt, spent] = top, extra
        best, following = following, best


@numba.njit("void(float64[::1], int64, int64, int64, int16[:, ::1])", nogil=True)
def _published(rates: Floats, least: int, most: int, budget: int, choice: NDArray[np.int16]) -> None:
    """The same, every value worked out where it is needed."""
    best = np.full(budget + 1, -np.inf)
    best[0] = 0.0
    following = np.empty(budget + 1)
    for prompt in range(len(rates)):
        rate = rates[prompt]
        weight = rate * (1 - rate) ** 2
        for spent in range(budget + 1):
            top, extra = best[spent], 0
            for count in range(1, min(most - least, spent) + 1):
                value = (1 - rate ** (least + count) - (1 - rate) ** (least + count)) * weight
                if best[spent - count] + value > top:
                    top, extra = best[spent - count] + value, count
            following[spent], choice[prompt, spent] = top, extra
        best, following = following, best


def published(rates: Floats, budget: int) -> None:
    """The dynamic program as published, for the time that it takes."""
    _published(rates, LEAST, MOST, budget, np.empty((len(rates), budget + 1), np.int16))


def dynamic_program(values: Floats, budget: int) -> Counts:
    """(prompts,) extra rollouts by dynamic programming; column n of `values` is what n extra ones are worth."""
    choice = np.empty((len(values), budget + 1), np.int16)
    scored = values.copy()
    scored[:, 0] = 0.0
    _program(scored, budget, choice)
    extra = np.zeros(len(values), np.int64)
    for prompt in range(len(values) - 1, -1, -1):
        extra[prompt] = choice[prompt, budget]
        budget -= int(extra[prompt])
    return extra


def heap(values: Floats, budget: int) -> Counts:
    """(prompts,) extra rollouts, the best marginal value one by one."""
    gains = np.diff(values, axis=1).tolist()
    queue = [(-row[0], prompt) for prompt, row in enumerate(gains)]
    heapq.heapify(queue)
    extra = [0] * len(gains)
    for _ in range(budget):
        _, prompt = queue[0]
        extra[prompt] += 1
        further = -gains[prompt][extra[prompt]] if extra[prompt] < len(gains[prompt]) else float("inf")
        heapq.heapreplace(queue, (further, prompt))
    return np.array(extra)


def signal_table(alpha: Floats, beta: Floats | None) -> Floats:
    """(prompts × LEAST … MOST) values under a belief, or at rates `alpha`: running sums of the marginal ones."""
    steps = np.arange(MOST)
    if beta is None:
        rate = alpha[:, None]
        gains = rate * (1 - rate) ** 3 * rate**steps + rate**2 * (1 - rate) ** 2 * (1 - rate) ** steps
    else:
        a, b = alpha[:, None], beta[:, None]
        total = a + b
        shared = a * b * (b + 1) / (total * (total + 1) * (total + 2) * (total + 3))
        up, down = (a + 1 + steps) / (total + 4 + steps), (b + 2 + steps) / (total + 4 + steps)
        chains = [np.cumprod(np.concatenate([np.ones_like(a), part[:, :-1]], axis=1), axis=1) for part in (up, down)]
        gains = shared * ((b + 2) * chains[0] + (a + 1) * chains[1])
    gains[:, 0] = 0.0
    return np.ascontiguousarray(np.cumsum(gains, axis=1)[:, LEAST - 1 :])


def median(call: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Median seconds of a call, and what it gave last."""
    seconds, result = [], None
    for _ in range(repeats):
        started = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), result


def graded(table: Table, value: str, prompts: int, each: int, repeats: int, seed: int) -> None:
    """One row: a value whose marginal values fall."""
    random = np.random.default_rng(seed)
    rates = random.beta(0.5, 0.5, prompts)
    wins, trials = [random.binomial(8, rates) for _ in range(2)], np.full(prompts, 8)
    if value == "posterior":
        data: list[dict[str, Any]] = [{"successes": won, "trials": trials} for won in wins]
    else:
        data = [{"success_rate": rates}, {"success_rate": random.beta(0.5, 0.5, prompts)}]
    fields: dict[str, Any] = {"total": prompts * each, "least": LEAST, "most": MOST, "value": value}
    cold, plan = median(lambda: eq.solve(eq.RolloutBudgets(prompts=data[0], **fields)), repeats)
    with eq.session(eq.RolloutBudgets(prompts=data[1], **fields)) as session:
        turn = [0]

        def step() -> None:
            turn[0] ^= 1
            session.step(prompts=data[turn[0]])

        warm, _ = median(step, repeats)
    if value == "posterior":
        values = signal_table(plan.prior.alpha + wins[0], plan.prior.beta + trials - wins[0])
    else:
        values = signal_table(rates, None)
    every, budget = np.arange(prompts), prompts * (each - LEAST)
    ours = float(values[every, plan.rollouts - LEAST].sum())
    heap_seconds, extra = median(lambda: heap(values, budget), min(repeats, 3))
    heap_loss = 1 - float(values[every, extra].sum()) / ours
    program, ratio, loss, first, first_ratio = "does not fit", "", "", "", ""
    if 2 * prompts * (budget + 1) <= LARGEST_CHOICES:
        seconds, extra = median(lambda: dynamic_program(values, budget), 1 if prompts > 256 else min(repeats, 3))
        program, ratio = f"{seconds * 1e3:,.0f} ms", f"{seconds / cold:,.0f}×"
        loss = f"{100 * (1 - float(values[every, extra].sum()) / ours):.4f} %"
        if value == "knapsack_rl":
            seconds, _ = median(lambda: published(rates, budget), 1 if prompts > 256 else min(repeats, 3))
            first, first_ratio = f"{seconds * 1e3:,.0f} ms", f"{seconds / cold:,.0f}×"
    table.add_row(
        f"{prompts} × {each}", value, first, program, f"{heap_seconds * 1e3:.2f} ms", f"{cold * 1e3:.3f} ms",
        f"{warm * 1e3:.3f} ms", first_ratio, ratio, f"{heap_seconds / cold:.0f}×", loss, f"{100 * heap_loss:.1e} %",
        f"{plan.certificate.gap:.0e}", plan.certificate.status,
    )  # fmt: skip


def choices(seed: int) -> dict[str, eq.RolloutBudgets]:
    """Multiple choices of 1024 items × 64 options, by what they are like."""
    random = np.random.default_rng(seed)
    items, options = 1024, 64
    tokens = np.round(random.lognormal(6, 1, items), 1)
    counts = np.arange(options)
    stairs = np.cumsum(random.exponential(size=(items, options)) * (random.random((items, options)) < 0.3), axis=1)
    jump = np.where(counts >= random.integers(8, options, items)[:, None], random.uniform(1, 2, items)[:, None], 0.0)
    common: dict[str, Any] = {"value": "table", "least": 0, "most": options - 1}
    budget = round(float(tokens.sum()) * 16, 1)
    return {
        "stairs, token costs": eq.RolloutBudgets(
            prompts={"tokens": tokens}, token_budget=budget, table=stairs, **common
        ),
        "all or nothing, token costs": eq.RolloutBudgets(
            prompts={"tokens": tokens}, token_budget=budget, table=jump, **common
        ),
        "stairs, total": eq.RolloutBudgets(prompts={"tokens": tokens}, total=items * 16, table=stairs, **common),
        "all or nothing, total": eq.RolloutBudgets(prompts={"tokens": tokens}, total=items * 16, table=jump, **common),
    }


def choice(table: Table, name: str, spec: eq.RolloutBudgets, repeats: int, search: bool) -> None:
    """One row: a multiple choice."""
    fields = spec.fields()
    seconds, plan = median(lambda: eq.solve(eq.RolloutBudgets(**fields)), repeats)
    peer, ratio, loss, gap = "", "", "", ""
    if search:
        slow, other = median(lambda: eq.solve(spec, backend="highs", gap=1e-3, time_limit=120), 1)
        peer, ratio = f"{slow * 1e3:,.0f} ms", f"{slow / seconds:,.0f}×"
        loss = f"{100 * (1 - other.certificate.objective / plan.certificate.objective):.4f} %"
        gap = f"{100 * other.certificate.gap:.4f} %"
    table.add_row(name, peer, f"{seconds * 1e3:.2f} ms", ratio, loss, gap, f"{100 * plan.certificate.gap:.4f} %")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-search", action="store_true", help="leave HiGHS on the multiple choice out")
    options = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("equipoise", "numba", "numpy", "highspy"))
    about = f"seed {options.seed}; {packages}; Python {platform.python_version()}"
    eq.solve(eq.RolloutBudgets(prompts={"success_rate": [0.5, 0.1]}, total=8, value="knapsack_rl"))
    graded_table = Table(title=f"Best marginal values; {about}")
    for title in (
        "prompts × rollouts", "value", "published", "with a table", "heap", "ours, cold", "ours, warm",
        "published / ours", "with a table / ours", "heap / ours", "program loses", "heap loses", "our gap", "status",
    ):  # fmt: skip
        graded_table.add_column(title)
    for value in ("knapsack_rl", "posterior"):
        for prompts, each in SIZES:
            graded(graded_table, value, prompts, each, options.repeats, options.seed)
    choice_table = Table(title=f"Multiple choice, 1024 items × 64 options, gap asked 0.1 %; {about}")
    for title in ("values", "HiGHS", "ours", "HiGHS / ours", "HiGHS loses", "its gap", "our gap"):
        choice_table.add_column(title)
    for name, spec in choices(options.seed).items():
        choice(choice_table, name, spec, options.repeats, not options.no_search)
    console = Console(width=170)
    console.print(graded_table)
    console.print(choice_table)


if __name__ == "__main__":
    main()
