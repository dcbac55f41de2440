"""Compile and solve: time and memory of the exact program of each kind, at three sizes, on this machine.

    python benchmarks/compile_and_solve.py [KIND …] [--repeats 3] [--seed 0] [--time-limit 60]

Each row runs in a process of its own, so that its peak memory is its own; times are medians over the repeats, each
on another seed. Compiling is `formulate`; solving is the whole of `eq.solve(spec, "exact", backend=…)`, which leaves
out our own algorithms: compiling, the certificate and the final look at the demands included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))  # a script's own folder, which PYTHONSAFEPATH leaves out
from instances import SIZES


def measure(kind: str, size: int, repeats: int, seed: int, time_limit: float) -> dict[str, Any]:
    """One row: what this process measured of one kind at one size."""
    import equipoise as eq
    from equipoise.solvers.formulation import formulation

    _, make = SIZES[kind][size]
    backend = "flow" if kind == "expert_assignment" else "highs"
    small = SIZES[kind][0][1](seed)
    plan = eq.solve(small, "exact", backend, time_limit)  # imports and caches are not what we measure
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    compiled, solved, gaps, nonzeros, status = [], [], [], 0, set[str]()
    for repeat in range(repeats):
        spec = make(seed + repeat)
        started = time.perf_counter()
        program = formulation(spec).formulate()
        compiled.append(time.perf_counter() - started)
        nonzeros = program.nonzeros
        del program
        started = time.perf_counter()
        plan = eq.solve(spec, "exact", backend, time_limit)
        solved.append(time.perf_counter() - started)
        gaps.append(plan.certificate.gap)
        status.add(plan.certificate.status)
    return {
        "compile": statistics.median(compiled),
        "solve": statistics.median(solved),
        "nonzeros": nonzeros,
        "gap": max(gaps),
        "status": "/".join(sorted(status)),
        "memory": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        "method": plan.certificate.backend,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(SIZES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        kind, size = options.row.split(":")
        print(json.dumps(measure(kind, int(size), options.repeats, options.seed, options.time_limit)))
        return
    packages = ", ".join(f"{name} {version(name)}" for name in ("equipoise", "highspy", "ortools", "numpy"))
    table = Table(
        "kind", "size", "nonzeros", "compile", "solve", "gap", "status", "memory", "backend",
        title=f"Compile and solve, medians of {options.repeats} seeds from {options.seed}",
        caption=f"Python {platform.python_version()}, {packages}; {os.cpu_count()} cores",
    )  # fmt: skip
    for column in table.columns[2:6]:
        column.justify = "right"
    for kind in options.kinds or SIZES:
        for size, (label, _) in enumerate(SIZES[kind]):
            row = json.loads(
                subprocess.run(
                    [sys.executable, __file__, "--row", f"{kind}:{size}", "--repeats", str(options.repeats),
                     "--seed", str(options.seed), "--time-limit", str(options.time_limit)],
                    capture_output=True, text=True, check=True,
                ).stdout
            )  # fmt: skip
            table.add_row(
                kind if size == 0 else "", label, f"{row['nonzeros']:,}", f"{row['compile'] * 1e3:.1f} ms",
                f"{row['solve'] * 1e3:.1f} ms", f"{row['gap']:.1e}", row["status"], f"{row['memory']:.0f} MiB",
                row["method"],
            )  # fmt: skip
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
