"""What came of a batch: a table by kind of task, the causes of failures, and where everything is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ...solvers.records import line
from ..batch.outputs import Output
from ..batch.tally import Kind
from .batch_progress import Stand
from .figures import counted, duration, percent
from .terminal import plain

NO_KIND = "(no kind)"
WIDE = 120
"""Columns that a table may take, however many the terminal has."""
LONGEST = 40
"""Characters of a kind in a table: a document may say any."""


def print_summary(console: Console, output: Output, stand: Stand, plots: Sequence[Path], interrupted: bool) -> None:
    """Print all that came of a batch, earlier runs of it included."""
    tally = output.tally
    console.width = max(console.width, WIDE)  # a narrow terminal folds lines, which cuts no figure off
    console.print(_headline(output, stand), soft_wrap=True)
    if tally.kinds:
        console.print()
        console.print(_kinds(tally.kinds))
    if causes := tally.causes():
        table = _table("failed because of", "specs")
        for cause, count in causes.items():
            table.add_row(plain(cause), f"{count:,}")
        console.print()
        console.print(table)
    console.print()
    files = [("results", output.results_path)] if tally.plans else []
    if tally.failures:
        files.append(("failures", output.failures_path))
    for label, path in [*files, *(("plot", path) for path in plots)]:
        console.print(f"{label:<9} {plain(str(path))}", soft_wrap=True)
    if interrupted:
        left = "" if stand.total is None else f" with {counted(stand.total - stand.done, 'spec')} left"
        console.print(f"stopped{left}; the same command with --resume goes on", soft_wrap=True)


def summary_document(output: Output, stand: Stand, plots: Sequence[Path], interrupted: bool) -> str:
    """The same as a line of JSON."""
    tally = output.tally
    return line(
        {
            "solved": tally.plans,
            "failed": tally.failures,
            "of_this_run": stand.fresh,
            "seconds": stand.seconds,
            "workers": stand.workers,
            "workers_lost": stand.lost,
            "interrupted": interrupted,
            "kinds": {name or NO_KIND: _kind_document(kind) for name, kind in tally.kinds.items()},
            "causes": dict(tally.causes()),
            "results": str(output.results_path),
            "failures": str(output.failures_path) if tally.failures else None,
            "plots": [str(path) for path in plots],
        }
    )


def _headline(output: Output, stand: Stand) -> str:
    tally = output.tally
    parts = [f"{tally.plans:,} solved"]
    if tally.failures:
        parts.append(f"{tally.failures:,} failed")
    if earlier := tally.done - stand.fresh:
        parts.append(f"{earlier:,} of them before")
    rate = stand.fresh / stand.seconds
    pace = f", {rate:,.0f} per second" if rate >= 10 else ""
    lost = f", {stand.lost:,} of them lost" if stand.lost else ""
    workers = f"{counted(stand.workers, 'worker')}{lost}"
    return f"{counted(tally.done, 'spec')}: {', '.join(parts)}; {duration(stand.seconds)} with {workers}{pace}"


def _kinds(kinds: dict[str | None, Kind]) -> Table:
    table = _table("kind", "solved", "failed", "gap p50", "p99", "max", "time p50", "p99")
    for name, kind in sorted(kinds.items(), key=lambda item: item[0] or "~"):
        gaps = [_quantile(kind.gap, share, percent) for share in (0.5, 0.99, 1.0)]
        times = [_quantile(kind.seconds, share, duration) for share in (0.5, 0.99)]
        label = NO_KIND if name is None else _label(name)
        table.add_row(label, f"{kind.solved:,}", f"{kind.failed:,}", *gaps, *times)
    return table


def _label(name: str) -> str:
    shown = plain(name).replace("\n", " ")
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


def _quantile(spread: Any, share: float, shown: Any) -> str:
    value = spread.quantile(share)
    return "–" if value is None else shown(value)


def _kind_document(kind: Kind) -> dict[str, Any]:
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {
        "solved": kind.solved,
        "statuses": dict(kind.statuses),
        "failed": kind.failed,
        "failures": dict(kind.failures),
        "gap": {name: kind.gap.quantile(share) for name, share in shares.items()},
        "seconds": {name: kind.seconds.quantile(share) for name, share in shares.items()},
        "seconds_total": kind.seconds.total,
    }


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    return table
