"""How long one decode decision takes: ours and the rules of the literature, on the same steps of a replayed trace.

    python benchmarks/decode_speed.py --traces DIR [--trace azure] [--workers 8 64 256] [--slots 72] [--steps 60]
        [--seed 0] [--objective step_time] [--profile]

The steps come from a replay under the longest-first rule, spread over its window, with a pool of four requests per
worker. `decision`: plain arrays in, worker of each waiting request out, with growth, over horizons of 1, 6 and 17
entries; BF-IO decides over as many steps ahead (H = 0, 5, 16). `session`: `session.step(active=…, waiting=…)` with
method "fast": validation, certificate and the rules' own check included. Medians and 99th percentiles in milliseconds;
the rows of a size are measured in turns, step by step. `--profile` tells instead what a `session.step` over one entry
spends its time on, in microseconds: medians of each part on steps that are as new to it as to the session.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import equipoise as eq
from equipoise.benchmarks.decode_replay import RULES, read_trace, replay
from equipoise.benchmarks.decode_replay.simulator import Policy, Setting
from equipoise.benchmarks.decode_replay.traces import TRACES, Trace
from equipoise.solvers.algorithms.decode_allocation import DecodeSearch, decide
from equipoise.solvers.algorithms.decode_state import survey
from equipoise.solvers.baselines.decode_rules import bf_io
from equipoise.solvers.baselines.decode_snapshot import Snapshot
from equipoise.solvers.control import Control

HORIZONS = {1: [0], 6: [0, 4, 16, 64, 256, 1024], 17: list(range(17))}


def watched(policy: Policy, every: int, most: int, steps: list[Snapshot]) -> Policy:
    """The same policy, with some of the steps that it decides put aside."""

    def made(setting: Setting) -> Any:
        rule, seen = policy(setting), 0

        def decided(step: Snapshot) -> Any:
            nonlocal seen
            seen += 1
            if seen > 400 and seen % every == 0 and len(steps) < most:
                steps.append(step)
            return rule(step)

        return decided

    return made


def fields(step: Snapshot) -> dict[str, Any]:
    """The tables that a scheduler changes at every step."""
    return {
        "active": {"worker": step.worker, "tokens": step.tokens, "remaining": step.remaining},
        "waiting": {"tokens": step.waiting_tokens, "remaining": step.waiting_remaining, "waited": step.waited},
    }


def measured(trace: Trace, workers: int, slots: int, number: int, seed: int, objective: str) -> list[list[str]]:
    """A row per horizon."""
    steps: list[Snapshot] = []
    replay(trace, watched(RULES["longest first + swaps"], 7, number, steps), workers, slots, seed, rounds=12.0)
    rows = []
    for points, horizon in HORIZONS.items():
        spec = eq.DecodeAllocation(
            workers={"slots": steps[0].slots}, horizon=horizon, objective=objective, **fields(steps[0])
        )
        specs = [spec.replace(**fields(step)) for step in steps]
        session = eq.session(spec, "fast")
        rule = bf_io(horizon[-1] if points != 6 else 5)(seed)
        ways: dict[str, Callable[[int], Any]] = {
            "decision": lambda at, specs=specs: decide(specs[at]),
            "session": lambda at, session=session: session.step(**fields(steps[at])),
            "peer": lambda at, rule=rule: rule(steps[at]),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(2):  # the first turn warms up
            for at in range(len(steps)):
                for name, way in ways.items():
                    started = time.perf_counter()
                    way(at)
                    if turn:
                        taken[name].append(1e3 * (time.perf_counter() - started))
        cells = [f"{np.median(times):.3f} / {np.quantile(times, 0.99):.3f}" for times in taken.values()]
        ratio = np.median(taken["peer"]) / np.median(taken["decision"])
        more = np.median(taken["session"]) - np.median(taken["decision"])
        rows.append([str(workers), str(points), *cells, f"{ratio:.1f}×", f"{more:.3f}"])
    return rows


def profiled(trace: Trace, workers: int, slots: int, number: int, seed: int, objective: str) -> list[str]:
    """A row: the parts of a step of a session, the whole, and a decision alone."""
    steps: list[Snapshot] = []
    replay(trace, watched(RULES["longest first + swaps"], 7, number, steps), workers, slots, seed, rounds=12.0)
    spec = eq.DecodeAllocation(workers={"slots": steps[0].slots}, horizon=[0], objective=objective, **fields(steps[0]))
    session, algorithm = eq.session(spec, "fast"), DecodeSearch()
    taken: dict[str, list[float]] = {name: [] for name in ("replace", "survey", "decide", "solve", "demands", "step")}
    for _ in range(3):
        for step in steps:
            plan, new = session.step(**fields(step)), spec
            ways: dict[str, Callable[[eq.DecodeAllocation], Any]] = {
                "replace": lambda _, step=step: spec.replace(**fields(step)),
                "survey": survey,
                "decide": decide,
                "solve": lambda new: algorithm.solve(new, 1e-3, 0, 1, Control()),
                "demands": lambda new, plan=plan: list(new.demands(plan)),
                "step": lambda _, step=step: session.step(**fields(step)),
            }
            for name, way in ways.items():
                if name != "demands":  # rules are asked after the solve, all else of a spec that is new
                    new = spec.replace(**fields(step))
                started = time.perf_counter()
                way(new)
                taken[name].append(1e6 * (time.perf_counter() - started))
    of = {name: float(np.median(times)) for name, times in taken.items()}
    rest = of["step"] - of["replace"] - of["solve"] - of["demands"]
    parts = of["replace"], of["survey"], of["decide"] - of["survey"], of["solve"] - of["decide"], of["demands"], rest
    return [str(workers), *(f"{part:.0f}" for part in (*parts, of["step"], of["decide"], of["step"] - of["decide"]))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, required=True, metavar="DIR", help="folder of the whole traces")
    parser.add_argument("--trace", default="azure", choices=list(TRACES))
    parser.add_argument("--workers", nargs="+", type=int, default=[8, 64, 256], metavar="G")
    parser.add_argument("--slots", type=int, default=72, metavar="B")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--objective", default="step_time", choices=["step_time", "imbalance"])
    parser.add_argument("--profile", action="store_true", help="what a step of a session spends its time on")
    options = parser.parse_args()
    trace = read_trace(options.traces / TRACES[options.trace], options.trace)
    ask = options.slots, options.steps, options.seed, options.objective
    if options.profile:
        table = Table(title=f"A step of a session, {options.trace}, {options.objective}: medians in µs")
        names = "G", "validation", "state", "search", "plan, bound", "rules", "certificate", "sum", "decision", "more"
        for name in names:
            table.add_column(name, justify="right")
        for workers in options.workers:
            table.add_row(*profiled(trace, workers, *ask))
        Console(width=140).print(table)
        return
    table = Table(title=f"One decode decision, {options.trace}, {options.objective}: p50 / p99 in ms")
    for name in ("G", "entries", "decision", "session.step", "BF-IO", "BF-IO / decision", "session − decision, ms"):
        table.add_column(name, justify="right")
    for workers in options.workers:
        for row in measured(trace, workers, *ask):
            table.add_row(*row)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
