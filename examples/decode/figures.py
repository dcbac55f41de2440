"""What a replay comes to: its figures, the table of all policies, what the table says, and the plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from equipoise.examples import loop

from .policies import OURS
from .replay import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Figures = dict[str, float]
Results = Mapping[str, Sequence[Record]]
"""Policy → a record a seed."""


def figures(record: Record) -> Figures:
    """Figures of the steps that count (`_counted`), and those of the whole replay."""
    busy = _counted(record)
    step, load, made = record.step[busy], record.load[busy], record.made[busy]
    return {
        "rate": made.sum() / step.sum(),
        "replay": record.step.sum(),
        "step": step.mean() * 1e3,
        "step p99": float(np.quantile(step, 0.99)) * 1e3,
        "idle": record.wait[busy].mean(axis=1).sum() / step.sum() * 100,
        "cpu": record.cpu[busy].max(axis=1).mean() * 1e3,
        "spread": float((1 - load.mean(axis=1) / load.max(axis=1)).mean()) * 100,
        "decide": record.decide[busy].sum() / step.sum() * 100,
        "decide p99": float(np.quantile(record.decide[busy], 0.99)) * 1e3,
        "wait": float(record.waited.mean()),
        "wait p99": float(np.quantile(record.waited, 0.99)),
        "wait max": float(record.waited.max()),
    }


def _counted(record: Record) -> np.ndarray:
    """The steps while anybody waits, less the first, which fills empty workers."""
    counted = record.queue > 0
    counted[:1] = False
    return counted


def law(results: Results) -> str:
    """How a worker's processor time in a step depends on its tokens: least squares over all that was counted."""
    counted = [(record, _counted(record)) for records in results.values() for record in records]
    load = np.concatenate([record.load[steps].ravel() for record, steps in counted]) / 1e3
    spent = np.concatenate([record.cpu[steps].ravel() for record, steps in counted]) * 1e3
    if len(load) < 3 or not np.ptp(load):
        return "Too few steps to tell how their time depends on tokens."
    slope, base = np.polyfit(load, spent, 1)
    r = float(np.corrcoef(load, spent)[0, 1])
    share = slope * load.mean() / spent.mean() * 100
    return (
        f"A worker's processor time in a step: {base:.2f} ms + {slope:.3f} ms per 1,000 resident tokens "
        f"(r² {r * r:.2f}); {share:.0f} % of it goes with the tokens."
    )


COLUMNS = {
    "tokens/s": ("rate", 0),
    "whole replay, s": ("replay", 2),
    "step, ms": ("step", 2),
    "step p99, ms": ("step p99", 1),
    "heaviest's processor time, ms": ("cpu", 2),
    "load spread, %": ("spread", 2),
    "idle at the barrier, %": ("idle", 2),
    "deciding, %": ("decide", 2),
    "decision p99, ms": ("decide p99", 2),
    "wait, steps": ("wait", 1),
    "wait p99": ("wait p99", 0),
    "wait max": ("wait max", 0),
}
"""Heading → figure and digits."""


def table(results: Results) -> Table:
    """A row a figure, a column a policy: mean over seeds ± half the interval of 95 %."""
    shown = Table()
    shown.add_column("")
    for policy in results:
        shown.add_column(policy, justify="right", style="bold" if policy == OURS else None)
    found = {policy: [figures(record) for record in records] for policy, records in results.items()}
    for heading, (name, digits) in COLUMNS.items():
        shown.add_row(heading, *(loop.shown([run[name] for run in runs], digits) for runs in found.values()))
    return shown


_CLAIMS = (
    ("tokens/s", "rate", True),
    ("whole replay", "replay", False),
    ("step p99", "step p99", False),
    ("processor time", "cpu", False),
    ("load spread", "spread", False),
    ("idle at the barrier", "idle", False),
    ("mean wait", "wait", False),
    ("wait p99", "wait p99", False),
    ("wait max", "wait max", False),
)
"""What is compared, which figure that is, and whether more of it is better."""


def compared(results: Results) -> tuple[Table, list[str]]:
    """Ours as a multiple of each peer, seed by seed, and in words where it does not win. Empty without ours."""
    mine = [figures(record) for record in results.get(OURS, ())]
    shown = Table(title=f"{OURS}, as a multiple of each peer's", title_justify="left")
    shown.add_column("")
    peers = {policy: [figures(record) for record in records] for policy, records in results.items() if policy != OURS}
    lost: dict[str, dict[str, list[str]]] = {policy: {_WORSE: [], _OPEN: []} for policy in peers if mine}
    for policy in lost:
        shown.add_column(policy, justify="right")
    for words, name, more in _CLAIMS:
        cells = []
        for policy in lost:
            pairs = zip(mine, peers[policy], strict=True)
            ratios = [run[name] / max(other[name], 1e-9) for run, other in pairs]
            found = _verdict(*loop.interval(ratios), more)
            cells.append(f"{loop.shown(ratios)}  {found}")
            lost[policy].setdefault(found, []).append(words)
        shown.add_row(words, *cells)
    return shown, [_words(policy, told) for policy, told in lost.items()]


def _words(policy: str, told: dict[str, list[str]]) -> str:
    losses = [f"{verdict} for {', '.join(told[verdict])}" for verdict in (_WORSE, _OPEN) if told[verdict]]
    return f"Where {OURS} does not win against {policy}: {'; '.join(losses) or 'nowhere'}."


_BETTER, _WORSE, _OPEN = "better", "worse", "open"


def _verdict(ratio: float, half: float, more: bool) -> str:
    if math.isnan(half) or abs(ratio - 1) <= half:
        return _OPEN
    return _BETTER if (ratio > 1) == more else _WORSE


def plot(title: str, results: Results) -> Figure:
    """Of the first seed: time and load spread of every step, smoothed, and below how both are distributed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7))
    axes = figure.subplots(2, 2)
    for policy, records in results.items():
        busy = _counted(records[0])
        step, load = records[0].step[busy] * 1e3, records[0].load[busy]
        spread = (1 - load.mean(axis=1) / load.max(axis=1)) * 100
        for row, values in enumerate((step, spread)):
            share = np.arange(1, len(values) + 1) / len(values)
            axes[row][0].plot(_smooth(values), label=policy, linewidth=1.2)
            axes[row][1].plot(np.sort(values), share, label=policy, linewidth=1.2)
    for row, words in enumerate(("step, ms", "load spread, %: 1 − mean / heaviest")):
        axes[row][0].set(xlabel="step", ylabel=words)
        axes[row][1].set(xlabel=words, ylabel="share of steps below")
        axes[row][1].grid(linewidth=0.3)
    axes[0][1].set_xlim(right=max(float(np.quantile(found[0].step * 1e3, 0.995)) for found in results.values()))
    axes[0][0].legend()
    figure.suptitle(title)
    figure.tight_layout()
    return figure


def _smooth(values: np.ndarray, width: int = 15) -> np.ndarray:
    """Medians of that many steps."""
    if len(values) < width:
        return values
    return np.median(np.lib.stride_tricks.sliding_window_view(values, width), axis=1)
