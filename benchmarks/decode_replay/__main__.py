"""The command line; `--help` tells the options, the package's docstring what is measured."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from . import __doc__ as about
from .experiments import OURS, Grid, Results, policy_named
from .policies import POLICIES
from .report import document, draw_frontier, markdown, progress_line, summaries, table
from .traces import FORESIGHT, SAMPLES, TRACES, read_trace

FRONTIER = (
    f"{OURS}:admission=fifo",
    *(f"{OURS}:max_bypass={steps}" for steps in (8, 16, 32, 64, 128, 256, 512, 1024)),
)


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m equipoise.benchmarks.decode_replay",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--traces", type=Path, default=SAMPLES, metavar="DIR", help="folder of the whole traces; default: samples"
    )
    parser.add_argument("--trace", nargs="+", default=list(TRACES), choices=list(TRACES), help="default: all")
    parser.add_argument("--workers", nargs="+", type=int, default=[16], metavar="G")
    parser.add_argument("--slots", type=int, default=72, metavar="B", help="per worker")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=0, metavar="SEED")
    parser.add_argument("--policy", nargs="+", default=list(POLICIES), metavar="NAME", help=(
        f"of {', '.join(POLICIES)}, or ours with fields of the spec, {OURS}:max_bypass=32,horizon=0/4/16; default: all"
    ))  # fmt: skip
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="policies to leave out")
    parser.add_argument("--foresight", nargs="+", default=["exact"], choices=list(FORESIGHT), help="what is predicted")
    parser.add_argument("--rounds", type=float, help="requests per slot in a replay; default: what suits the trace")
    parser.add_argument("--start", choices=["full", "empty"], default="full", help="the workers at the first step")
    parser.add_argument("--results", type=Path, metavar="FILE", help=(
        "keeps each replay as a line of JSON, and does not run again what is there; delete it after a change of rules"
    ))  # fmt: skip
    parser.add_argument("--json", action="store_true", help="JSON on standard output instead of tables")
    parser.add_argument("--markdown", action="store_true", help="shorter tables, for a page")
    parser.add_argument("--frontier", type=Path, metavar="PNG", help="draw imbalance against the longest wait")
    options = parser.parse_args(arguments)
    options.policy = [name for name in options.policy if name not in options.without]
    if options.frontier is not None:
        options.policy += [name for name in FRONTIER if name not in options.policy]
    for name in options.policy:
        try:
            policy_named(name)
        except ValueError as error:
            parser.error(str(error))
    for name in options.trace:
        if not (options.traces / TRACES[name]).is_file():
            parser.error(f"{options.traces / TRACES[name]} is not there; README.md beside this script tells its source")
    if min(options.workers) < 1 or options.slots < 1 or options.seeds < 1:
        parser.error("--workers, --slots and --seeds must be at least 1")
    if options.first_seed < 0:
        parser.error("--first-seed must be at least 0")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Replay, and print the tables."""
    options = read_options(arguments)
    full = options.start == "full"
    grid = Grid(
        options.trace, options.workers, options.slots, options.foresight, options.rounds, full,
        options.policy, options.seeds, options.first_seed,
    )  # fmt: skip
    traces = {name: read_trace(options.traces / TRACES[name], name) for name in options.trace}
    results, cells = Results(options.results), list(grid.cells())
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(cells))
        for done, cell in enumerate(cells):
            progress.update(task, description=progress_line(cell), completed=done)
            try:
                results.run(
                    cell, traces[cell.trace], lambda share, done=done: progress.update(task, completed=done + share)
                )
            except ValueError as error:
                raise SystemExit(f"{progress_line(cell)}: {error}") from None
    if options.frontier is not None:
        draw_frontier(grid, results, options.frontier)
    if options.json:
        json.dump(document(grid, results), sys.stdout, indent=1)
        print()
        return
    console = Console(width=None if sys.stdout.isatty() else 240)
    for (trace, workers, foresight), rows in summaries(grid, results).items():
        seeds = f"seeds {options.first_seed} to {options.first_seed + options.seeds - 1}"
        title = f"{trace}: {workers} workers × {options.slots} slots, predictions: {foresight}, {seeds}"
        if options.markdown:
            print(markdown(title, rows))
        else:
            console.print(table(title, rows))
    packages = ", ".join(f"{name} {version(name)}" for name in ("equipoise", "numpy", "numba"))
    if options.traces == SAMPLES:
        console.print("From the samples that are shipped, a few rows of each trace; --traces DIR takes the whole.")
    console.print(f"Python {platform.python_version()}, {packages}; {os.cpu_count()} cores; ± is the 95 % interval")


if __name__ == "__main__":
    main()
