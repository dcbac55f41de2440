"""How far a decode decision is from the exact optimum: ours, and longest first with swaps, against HiGHS.

    python benchmarks/decode_gap.py --traces DIR [--trace azure mooncake] [--workers 4 8] [--steps 12] [--seed 0]
        [--admitted 12] [--horizon 0 4 16 64 256 1024] [--time-limit 60]

The steps are those of a replay with a pool of four requests per worker, where at most `--admitted` slots are free;
horizon and weights are the spec's own unless `--horizon` is given. Excess: objective over the optimum, in per cent of
the objective; of longest first with swaps only those that the rules of the spec allow count, and it looks at the
present step alone. A step that HiGHS does not finish in time is left out, and counted.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import equipoise as eq
from equipoise.benchmarks.decode_replay import RULES, read_trace, replay
from equipoise.benchmarks.decode_replay.simulator import Setting
from equipoise.benchmarks.decode_replay.traces import TRACES
from equipoise.benchmarks.decode_speed import fields, watched
from equipoise.solvers.baselines.decode_snapshot import Snapshot
from equipoise.solvers.decode_step import decode_step


def excess(spec: eq.DecodeAllocation, step: Snapshot, limit: float, seed: int) -> tuple[float, float, float] | None:
    """Ours and longest first's over the optimum, and the gap that ours claims; None without an optimum in time."""
    exact = eq.solve(spec, "exact", backend="highs", time_limit=limit).certificate
    if exact.status != "optimal":
        return None
    fast = eq.solve(spec, "fast", seed=seed).certificate
    rule: Any = RULES["longest first + swaps"](Setting(len(step.slots), int(step.slots.max()), seed))
    longest = decode_step(spec).report(rule(step))
    peer = np.nan if list(spec.rules(longest)) else spec.objective(longest) / exact.objective - 1
    return fast.objective / exact.objective - 1, peer, fast.gap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, required=True, metavar="DIR", help="folder of the whole traces")
    parser.add_argument("--trace", nargs="+", default=["azure", "mooncake"], choices=list(TRACES))
    parser.add_argument("--workers", nargs="+", type=int, default=[4, 8], metavar="G")
    parser.add_argument("--slots", type=int, default=72, metavar="B")
    parser.add_argument("--steps", type=int, default=12, help="of each trace and size")
    parser.add_argument("--admitted", type=int, default=12)
    parser.add_argument("--horizon", nargs="+", type=int, metavar="STEP", help="default: the spec's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time-limit", type=float, default=60.0)
    options = parser.parse_args()
    table = Table(title=f"Excess over the exact optimum, at most {options.admitted} admitted, in %")
    for name in (
        "objective",
        "steps",
        "unfinished",
        "ours: mean",
        "max",
        "optimal",
        "longest first: mean",
        "claimed gap",
    ):
        table.add_column(name, justify="right")
    steps: list[Snapshot] = []
    ahead = {} if options.horizon is None else {"horizon": options.horizon}
    for name in options.trace:
        trace = read_trace(options.traces / TRACES[name], name)
        for workers in options.workers:
            some: list[Snapshot] = []
            watch = watched(RULES["longest first + swaps"], 37, options.steps, some)
            replay(trace, watch, workers, options.slots, options.seed, rounds=15.0)
            steps += [step for step in some if step.slots.sum() - len(step.worker) <= options.admitted]
    for objective in ("step_time", "imbalance"):
        found = []
        for step in track(steps, objective, transient=True):
            spec = eq.DecodeAllocation(workers={"slots": step.slots}, objective=objective, **ahead, **fields(step))
            found.append(excess(spec, step, options.time_limit, options.seed))
        done = np.array([one for one in found if one is not None]).reshape(-1, 3)
        table.add_row(
            objective, str(len(found)), str(len(found) - len(done)), f"{100 * done[:, 0].mean():.4f}",
            f"{100 * done[:, 0].max():.3f}", f"{100 * (done[:, 0] < 1e-9).mean():.0f} %",
            f"{100 * np.nanmean(done[:, 1]):.3f}", f"{100 * done[:, 2].mean():.3f}",
        )  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
