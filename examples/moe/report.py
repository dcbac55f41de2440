"""What the runs showed: a table, what its numbers say in words, and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

from loop import interval, save, shown
from rich.console import Console
from rich.table import Table

from .training import Run

UNTOLD = "not shown to differ"


@dataclass(frozen=True)
class Outcome:
    """The runs of one method with so many experts, by seed; the measures below have an entry per run."""

    method: str
    experts: int
    runs: Sequence[Run]

    def loss(self) -> list[float]:
        """Validation loss at the end, nats per byte."""
        return [run.judged[-1][1] for run in self.runs]

    def average_violation(self) -> list[float]:
        """AvgMaxVio: over all steps and layers, from the first."""
        return [statistics.fmean(chain(*run.violation)) for run in self.runs]

    def largest_violation(self) -> list[float]:
        """SupMaxVio: over all steps and layers, from the first."""
        return [max(chain(*run.violation)) for run in self.runs]

    def milliseconds(self) -> list[float]:
        """Of a training step, the median one of each run."""
        return [1e3 * statistics.median(run.seconds) for run in self.runs]

    def dropped(self) -> list[float]:
        """Choices without a place, in percent of all."""
        return [100 * run.dropped / max(run.due, 1) for run in self.runs]

    def beside(self, other: Outcome) -> tuple[float, float]:
        """How much larger the loss is than another's, seed by seed, and half the width of the interval."""
        return interval([mine - theirs for mine, theirs in zip(self.loss(), other.loss(), strict=True)])


def outcomes(runs: Iterable[Run], methods: Sequence[str]) -> list[Outcome]:
    """Runs put together by number of experts, then by method, in the order of `methods`."""

    def place(run: Run) -> tuple[int, int, int]:
        return run.task.experts, methods.index(run.task.method), run.task.seed

    grouped = groupby(sorted(runs, key=place), key=lambda run: (run.task.experts, run.task.method))
    return [Outcome(method, experts, list(members)) for (experts, method), members in grouped]


def table(found: Sequence[Outcome]) -> Table:
    """Outcomes with one number of experts; losses also beside the first, seed by seed."""
    first = found[0]
    shape = Table(title=f"{first.experts} experts", title_justify="left")
    shape.add_column("balance")
    names = ["validation loss", f"− {first.method}'s", "AvgMaxVio", "SupMaxVio", "ms/step", "dropped %"]
    for name in names:
        shape.add_column(name, justify="right")
    for outcome in found:
        shape.add_row(
            outcome.method,
            shown(outcome.loss()),
            "" if outcome is first else _signed(outcome.beside(first)),
            shown(outcome.average_violation()),
            shown(outcome.largest_violation(), 2),
            shown(outcome.milliseconds(), 1),
            shown(outcome.dropped(), 2),
        )
    return shape


def verdict(found: Sequence[Outcome]) -> str:
    """In words: whose loss differs from that of the first, and whether the evenest load comes with the lowest loss."""
    first, *others = found
    if not others:
        return ""
    if len(first.runs) < 2:
        return f"{first.experts} experts: one seed each, so no difference of losses can be told from chance."
    said: dict[str, list[str]] = {"lower": [], "higher": [], UNTOLD: []}
    for outcome in others:
        said[_told(outcome, first)].append(f"{outcome.method} ({_signed(outcome.beside(first))})")
    parts = [f"{which}: {', '.join(names)}" for which, names in said.items() if names]
    words = [f"{first.experts} experts, loss beside that of {first.method}, 95 %: {'; '.join(parts)}."]
    violation = [statistics.fmean(outcome.average_violation()) for outcome in found]
    evenest = [outcome for outcome, level in zip(found, violation, strict=True) if level == min(violation)]
    lowest = min(found, key=lambda outcome: statistics.fmean(outcome.loss()))
    names = " and ".join(outcome.method for outcome in evenest)
    if first not in evenest and not any(_told(outcome, first) == "lower" for outcome in evenest):
        words.append(f"The evenest load, that of {names}, did not improve the loss as far as these seeds show.")
    if lowest in evenest:
        words.append(f"The evenest load, that of {names}, has the lowest mean loss.")
    else:
        beside = [f"{_signed(lowest.beside(outcome))}: {_told(lowest, outcome)}" for outcome in evenest]
        words.append(
            f"The lowest mean loss, that of {lowest.method}, is not that of the evenest load, "
            f"{names}'s ({', '.join(beside)})."
        )
    short = statistics.fmean(first.dropped())
    if short > 0:
        words.append(
            f"{first.method} had no place for {short:.0f} % of its choices in training: --capacity-factor inf shows "
            "what the losses are without a limit."
        )
    return " ".join(words)


def certificates(found: Sequence[Outcome]) -> str:
    """How good the plans were that steered the runs; empty where none did."""
    gaps = [run.gap for outcome in found for run in outcome.runs if outcome.method == "exact"]
    return f"plans of exact: largest gap of any certificate {max(gaps):.1e}" if gaps else ""


def tell(found: Sequence[Outcome], console: Console) -> None:
    """Print all of it."""
    for _, members in groupby(found, key=lambda outcome: outcome.experts):
        alike = list(members)
        console.print(table(alike))
        console.print(verdict(alike), soft_wrap=True, highlight=False)
        console.print()
    console.print(certificates(found), highlight=False)


def draw(found: Sequence[Outcome], path: Path) -> None:
    """Validation loss and violation against steps, means over the seeds; violations averaged over the layers too."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = list(dict.fromkeys(outcome.experts for outcome in found))
    methods = list(dict.fromkeys(outcome.method for outcome in found))
    figure, axes = pyplot.subplots(2, len(sizes), figsize=(5.5 * len(sizes), 7), sharex=True, squeeze=False)
    for outcome in found:
        upper, lower = axes[:, sizes.index(outcome.experts)]
        colour = f"C{methods.index(outcome.method)}"
        steps = [step for step, _ in outcome.runs[0].judged]
        losses = zip(*([loss for _, loss in run.judged] for run in outcome.runs), strict=True)
        upper.plot(steps, [statistics.fmean(at) for at in losses], color=colour, label=outcome.method)
        violations = zip(*([statistics.fmean(layers) for layers in run.violation] for run in outcome.runs), strict=True)
        means = [statistics.fmean(at) for at in violations]
        lower.plot(range(1, len(means) + 1), means, color=colour, linewidth=1, clip_on=False)
        upper.set_title(f"{outcome.experts} experts")
    for upper, lower in axes.T:
        upper.set_ylabel("validation loss, nats per byte")
        lower.set_ylabel("max load / mean load − 1")
        lower.set_yscale("symlog", linthresh=0.1)
        lower.set_ylim(bottom=0)
        lower.set_xlabel("step")
    axes[0, 0].legend()
    save(figure, path)


def _told(outcome: Outcome, other: Outcome) -> str:
    mean, half = outcome.beside(other)
    if abs(mean) <= half:
        return UNTOLD
    return "lower" if mean < 0 else "higher"


def _signed(difference: tuple[float, float]) -> str:
    mean, half = difference
    return f"{mean:+.3f}" if half != half else f"{mean:+.3f} ± {half:.3f}"
