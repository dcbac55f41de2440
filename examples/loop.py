"""What the live loops share: their flags, a client, intervals over seeds, tables and plots."""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import equipoise as eq

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
