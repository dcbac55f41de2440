"""What the live loops share: their flags, a client, intervals over seeds, tables and plots."""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import equipoise as eq

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")
R = TypeVar("R")

_T95 = (
    math.nan, 12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t for intervals of 95 %, by degrees of freedom; 1.96 beyond."""


def parser(description: str, out: str) -> argparse.ArgumentParser:
    """The flags that every loop has."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    flags.add_argument("--server", metavar="ADDRESS", help="solve at this service instead of in this process")
    flags.add_argument("--seeds", type=int, default=3, help="runs, with seeds 0, 1, …")
    flags.add_argument("--device", default="cpu", help="where torch computes, such as cuda")
    flags.add_argument("--out", type=Path, default=Path("build", out), help="the plot that is written, .png or .svg")
    return flags


def client(address: str | None) -> eq.Client:
    """The service at an address, or this process."""
    return eq.connect() if address is None else eq.connect(address)


def each(train: Callable[[T, Namespace], R], tasks: Sequence[T], options: Namespace) -> Iterator[R]:
    """What training makes of every task, as each ends: in `--workers` processes, one a core unless asked otherwise, and
    in this one where a single process does, as on another device."""
    workers = options.workers or (1 if options.device != "cpu" else os.cpu_count() or 1)
    if workers == 1:
        yield from (train(task, options) for task in tasks)
        return
    with ProcessPoolExecutor(min(workers, len(tasks)), multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(train, task, options) for task in tasks]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean of runs, and half the width of its interval of 95 % (Student's t); nan for a single run."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    t = _T95[len(values) - 1] if len(values) <= len(_T95) else 1.96
    return mean, t * statistics.stdev(values) / math.sqrt(len(values))


def shown(values: Sequence[float], digits: int = 3) -> str:
    """A mean with its interval, as tables show it."""
    mean, half = interval(values)
    return f"{mean:.{digits}f}" if math.isnan(half) else f"{mean:.{digits}f} ± {half:.{digits}f}"


def save(figure: Figure, path: Path) -> None:
    """Write a plot, and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    print(f"plot: {path}")
