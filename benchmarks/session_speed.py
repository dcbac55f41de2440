"""What a session saves: each kind solved cold by `eq.solve` and warm by `session.step`, in one run.

    python benchmarks/session_speed.py [KIND …] [--size 0 | 1 | 2] [--steps 15] [--seed 0] [--method auto]
        [--backend highs] [--json]

Every step changes what a loop would change: router scores by 1 %, the whole queue and the remaining lengths of a decode
step, the histories and draws of a batch of prompts, the samples collected and the budget. Cold is the spec from arrays
and `eq.solve`; warm is `session.step` with the changed fields; validation and certificate are in both. The two take
turns, step by step; times are medians (and the 90th percentile) after a first step of each that does not count. Both
must reach the same objective within the gaps of their certificates, or the script fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import equipoise as eq

sys.path.insert(0, str(Path(__file__).parent))  # a script's own folder, which PYTHONSAFEPATH leaves out
from instances import SIZES

Changes = dict[str, Any]


def _scores(before: Any, fresh: Any, random: np.random.Generator) -> Changes:
    """Scores that drift by 1 % of their spread."""
    scores = before.scores
    return {"scores": scores + 0.01 * scores.std() * random.normal(size=scores.shape)}


def _decode(before: Any, fresh: Any, random: np.random.Generator) -> Changes:
    """The residents and the queue of another step."""
    return {"active": fresh.active.columns(), "waiting": fresh.waiting.columns()}


def _rollouts(before: Any, fresh: Any, random: np.random.Generator) -> Changes:
    """The histories of the next batch of prompts."""
    return {"prompts": fresh.prompts.columns()}


def _collection(before: Any, fresh: Any, random: np.random.Generator) -> Changes:
    """Some samples more of each group, and a tenth more or less to spend."""
    groups = before.fields()["groups"]
    collected = groups["collected"] + random.integers(0, 5, len(groups["collected"]))
    return {"groups": groups | {"collected": collected}, "budget": before.budget * random.uniform(0.9, 1.1)}


CHANGES: dict[str, Callable[[Any, Any, np.random.Generator], Changes]] = {
    "expert_assignment": _scores,
    "decode_allocation": _decode,
    "rollout_budgets": _rollouts,
    "collection_budgets": _collection,
}


def measure(kind: str, size: int, steps: int, seed: int, ask: dict[str, Any], quiet: bool) -> dict[str, Any]:
    """One row: seconds of every cold solve and of every warm step on the same sequence of tasks, both with `ask`."""
    label, make = SIZES[kind][size]
    random = np.random.default_rng(seed)
    spec = make(seed)
    cold, warm = list[float](), list[float]()
    alone: Any = None
    plan: Any = None
    with eq.session(spec, **ask) as session:
        session.step()
        console = Console(stderr=True)
        for step in track(range(1, steps + 2), f"{kind}, {label}", console=console, disable=quiet):
            changes = CHANGES[kind](spec, make(seed + step), random)
            fields = {**spec.fields(), **changes}
            spec, warmer = type(spec)(**fields), step % 2
            for now_warm in (warmer, 1 - warmer):  # neither always comes second
                started = time.perf_counter()
                if now_warm:
                    plan = session.step(**changes)
                else:
                    alone = eq.solve(type(spec)(**fields), **ask)
                (warm if now_warm else cold).append(time.perf_counter() - started)
            _compare(kind, alone, plan)
    return {
        "kind": kind,
        "size": label,
        "cold": cold[1:],
        "warm": warm[1:],
        "method": plan.certificate.method,
        "gap": plan.certificate.gap,
    }


def _compare(kind: str, alone: Any, plan: Any) -> None:
    """Raises `SystemExit` where cold and warm differ by more than their certificates allow."""
    one, other = alone.certificate, plan.certificate
    allowed = (one.gap + other.gap + 1e-9) * max(abs(one.objective), abs(other.objective))
    if abs(one.objective - other.objective) > allowed:
        raise SystemExit(
            f"{kind}: {one.objective} cold, {other.objective} in a session, at gaps {one.gap}, {other.gap}"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(CHANGES))
    parser.add_argument("--size", type=int, choices=(0, 1, 2), help="of `instances.py`; all if absent")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", choices=("auto", "exact", "fast"), default="auto")
    parser.add_argument("--backend", help="of the compiled program, such as highs; the kind's own algorithm if absent")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := [kind for kind in options.kinds if kind not in CHANGES]:
        parser.error(f"{unknown[0]!r} is not among {', '.join(CHANGES)}")
    ask = {"method": options.method, "backend": options.backend}
    sizes = range(3) if options.size is None else [options.size]
    rows = [
        measure(kind, size, options.steps, options.seed, ask, options.json)
        for kind in options.kinds or CHANGES
        for size in sizes
    ]
    if options.json:
        print(json.dumps(rows))
        return
    packages = ", ".join(f"{name} {version(name)}" for name in ("equipoise", "numba", "highspy", "ortools", "numpy"))
    table = Table(
        title=f"Cold `eq.solve` and warm `session.step`, medians of {options.steps} steps from seed {options.seed}",
        caption=f"Python {platform.python_version()}, {packages}; {os.cpu_count()} cores",
    )
    for column in ("kind", "size"):
        table.add_column(column)
    for column in ("cold (p90), ms", "warm (p90), ms", "warm saves", "gap"):
        table.add_column(column, justify="right")
    table.add_column("method")
    for row in rows:
        table.add_row(
            row["kind"],
            row["size"],
            _times(row["cold"]),
            _times(row["warm"]),
            f"{statistics.median(row['cold']) / statistics.median(row['warm']):.1f}×",
            f"{row['gap']:.1e}",
            row["method"],
        )
    Console(width=170).print(table)


def _times(seconds: list[float]) -> str:
    return f"{1e3 * statistics.median(seconds):.2f} ({1e3 * float(np.quantile(seconds, 0.9)):.2f})"


if __name__ == "__main__":
    main()
