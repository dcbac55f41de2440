"""Tables of replays, and the frontier of imbalance against the longest wait."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from .experiments import OURS, Cell, Grid, Results
from .simulator import Metrics

REFERENCE, QUEUE = "longest first + swaps", "FCFS"
"""The peer that ratios of imbalance, tokens/s and makespan refer to, and the one that waits refer to."""
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Quantiles of Student's t at 97.5 %, for 1 to 10 degrees of freedom."""


@dataclass(frozen=True)
class Spread:
    """A mean and half its 95 % interval over seeds; NaN from one seed."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Student's interval."""
        number = len(values)
        if number < 2:
            return cls(float(np.mean(values)), math.nan)
        quantile = STUDENT[number - 2] if number - 2 < len(STUDENT) else 1.96
        return cls(float(np.mean(values)), quantile * float(np.std(values, ddof=1)) / math.sqrt(number))

    def shown(self, scale: float = 1.0, digits: int = 0) -> str:
        """As text, in units of `scale`."""
        mean = f"{self.mean / scale:,.{digits}f}"
        return mean if math.isnan(self.half) else f"{mean} ±{self.half / scale:,.{digits}f}"


@dataclass(frozen=True)
class Summary:
    """One policy over the seeds of one setting: every metric, and its ratios to the peers seed by seed."""

    policy: str
    metrics: dict[str, Spread]
    ratios: dict[str, Spread]


def summaries(grid: Grid, results: Results) -> dict[tuple[str, int, str], list[Summary]]:
    """(trace, workers, foresight) → one summary a policy, from what there is."""
    found: dict[tuple[str, int, str], dict[str, dict[int, Metrics]]] = {}
    for cell in grid.cells():
        if cell in results:
            setting = found.setdefault((cell.trace, cell.workers, cell.foresight), {})
            setting.setdefault(cell.policy, {})[cell.seed] = results[cell]
    return {
        setting: [_summary(policy, seeds, policies) for policy, seeds in policies.items()]
        for setting, policies in found.items()
    }


def _summary(policy: str, seeds: dict[int, Metrics], policies: dict[str, dict[int, Metrics]]) -> Summary:
    names = next(iter(seeds.values())).figures()
    metrics = {name: Spread.of([seeds[seed].figures()[name] for seed in seeds]) for name in names}
    ratios = {}
    for name, peer in (
        ("imbalance", REFERENCE), ("tokens_per_second", REFERENCE), ("makespan", REFERENCE),
        ("wait_max", QUEUE), ("wait_longest", QUEUE),
    ):  # fmt: skip
        both = [seed for seed in seeds if seed in policies.get(peer, {})]
        if both:
            pairs = [(seeds[seed].figures()[name], policies[peer][seed].figures()[name]) for seed in both]
            ratios[name] = Spread.of([mine / other for mine, other in pairs])
    return Summary(policy, metrics, ratios)


COLUMNS = (
    "policy", "imbalance, 10³", "ratio", "idle %", "tokens/s, 10³", "ratio", "of limit %", "tpot ms, mean / p95",
    "makespan s", "ratio", "waits p50 / p99 / max", "× FCFS", "longest", "× FCFS", "mJ/token", "decision µs, p50 / p99",
)  # fmt: skip
"""Ratios of imbalance, tokens/s and makespan refer to longest first + swaps, those of waits to FCFS."""

PAGE: Mapping[int, str] = {
    0: "policy", 2: "imbalance", 3: "idle %", 5: "tokens/s", 6: "of limit %", 9: "makespan",
    10: "waits p50 / p99 / max", 13: "longest, × FCFS", 15: "decision µs, p50 / p99",
}  # fmt: skip
"""Columns of a page, by their place: imbalance, tokens/s and makespan are ratios there."""


def cells(row: Summary) -> list[str]:
    """A summary in these columns."""
    of, ratio = row.metrics, row.ratios
    return [
        row.policy,
        of["imbalance"].shown(1e3, 1),
        _ratio(ratio, "imbalance"),
        of["idle"].shown(0.01, 2),
        of["tokens_per_second"].shown(1e3, 2),
        _ratio(ratio, "tokens_per_second"),
        f"{of['of_limit'].mean * 100:.1f}",
        f"{of['tpot_mean'].mean * 1e3:.2f} / {of['tpot_p95'].mean * 1e3:.2f}",
        f"{of['makespan'].mean:,.1f}",
        _ratio(ratio, "makespan"),
        " / ".join(f"{of[name].mean:,.0f}" for name in ("wait_p50", "wait_p99", "wait_max")),
        f"{ratio['wait_max'].mean:.1f}" if "wait_max" in ratio else "",
        f"{of['wait_longest'].mean:,.0f}",
        f"{ratio['wait_longest'].mean:.1f}" if "wait_longest" in ratio else "",
        f"{of['joules_per_token'].mean * 1e3:.1f}",
        f"{of['decision_p50'].mean * 1e6:,.0f} / {of['decision_p99'].mean * 1e6:,.0f}",
    ]


def table(title: str, rows: Iterable[Summary]) -> Table:
    """A row per policy, for a terminal."""
    shown = Table(title=title, title_justify="left")
    for number, name in enumerate(COLUMNS):
        shown.add_column(name, justify="right" if number else "left", no_wrap=not number)
    for row in rows:
        shown.add_row(*cells(row), style="bold" if row.policy.startswith(OURS) else None)
    return shown


def markdown(title: str, rows: Iterable[Summary]) -> str:
    """A row per policy, for a page: the columns that decide between policies."""
    shown = [[cells(row)[place] for place in PAGE] for row in rows]
    lines = [list(PAGE.values()), ["---"] + ["---:"] * (len(PAGE) - 1), *shown]
    return f"**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _ratio(ratios: dict[str, Spread], name: str) -> str:
    return ratios[name].shown(1.0, 3) if name in ratios else ""


def document(grid: Grid, results: Results) -> dict[str, Any]:
    """Everything, for machines: each replay and each summary."""
    runs = [{**cell.__dict__, **results[cell].figures()} for cell in grid.cells() if cell in results]
    settings = []
    for (trace, workers, foresight), rows in summaries(grid, results).items():
        for row in rows:
            spreads = {name: [spread.mean, _plain(spread.half)] for name, spread in row.metrics.items()}
            ratios = {name: [spread.mean, _plain(spread.half)] for name, spread in row.ratios.items()}
            settings.append(
                {"trace": trace, "workers": workers, "foresight": foresight, "policy": row.policy,
                 "metrics": spreads, "ratios": ratios}
            )  # fmt: skip
    return {"replays": runs, "summaries": settings}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def draw_frontier(grid: Grid, results: Results, path: Path) -> None:
    """A panel per trace: imbalance against the longest wait of the replay over FCFS's, both logarithmic, a point each.

    The settings of ours are joined by a line, from the shortest wait to the longest; a star is ours as it comes. A
    dotted line marks twice FCFS's wait.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = summaries(grid, results)
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5.6 * len(panels), 4.8), squeeze=False)
    for panel, ((trace, workers, foresight), rows) in zip(axes[0], panels.items(), strict=True):
        for mine, colour, line in ((False, "0.4", "o"), (True, "tab:blue", "-o")):
            named = [row for row in rows if row.policy.startswith(OURS) == mine and row.policy != OURS]
            points = sorted((*_point(row), _label(row)) for row in named)
            if points:
                panel.plot(*zip(*[point[:2] for point in points], strict=True), line, color=colour, markersize=4)
            for x, y, label in _gathered(points):
                offset = (4, -11) if mine else (5, 4)
                panel.annotate(label, (x, y), xytext=offset, textcoords="offset points", fontsize=7, color=colour)
        for x, y in (_point(row) for row in rows if row.policy == OURS):
            panel.plot(x, y, "*", color="tab:red", markersize=11)
            panel.annotate(OURS, (x, y), xytext=(7, 6), textcoords="offset points", fontsize=8, color="tab:red")
        panel.axvline(2, color="tab:red", linewidth=0.9, linestyle=":")
        panel.set(xscale="log", yscale="log", xlabel="longest wait, times that of FCFS")
        panel.set_xlim(right=panel.get_xlim()[1] * 4)  # room for the names
        panel.set_ylim(top=panel.get_ylim()[1] * 1.6)
        panel.set_title(f"{trace}, {workers} workers" + ("" if foresight == "exact" else f", predictions {foresight}"))
        panel.grid(True, which="both", linewidth=0.3)
    axes[0][0].set_ylabel("imbalance, tokens")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _label(row: Summary) -> str:
    fields = row.policy.removeprefix(f"{OURS}:")
    return fields.replace("admission=", "").replace("max_bypass=", "")


def _gathered(points: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Points that lie on top of each other share a label: the names, three to a line, at the place of the highest."""
    groups: list[list[tuple[float, float, str]]] = []
    for point in sorted(points, key=lambda point: -point[1]):
        for group in groups:
            x, y, _ = group[0]
            if abs(math.log10(point[0] / x)) < 0.08 and abs(math.log10(point[1] / y)) < 0.05:
                group.append(point)
                break
        else:
            groups.append([point])
    labelled = []
    for group in groups:
        names = [name for *_, name in group]
        lines = [", ".join(names[start : start + 3]) for start in range(0, len(names), 3)]
        labelled.append((*group[0][:2], "\n".join(lines)))
    return labelled


def _point(row: Summary) -> tuple[float, float]:
    wait = row.ratios["wait_longest"].mean if "wait_longest" in row.ratios else row.metrics["wait_longest"].mean
    return wait, row.metrics["imbalance"].mean


def progress_line(cell: Cell) -> str:
    """What is being replayed."""
    foresight = "" if cell.foresight == "exact" else f", predictions {cell.foresight}"
    return f"{cell.trace}, {cell.workers} workers{foresight}, seed {cell.seed}: {cell.policy}"
