"""What the runs showed: a table, what its numbers say in words, and a plot."""

from __future__ import annotations

import math
import statistics
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loop import interval, save, shown
from rich.console import Console
from rich.table import Table

from .budgets import UNIFORM
from .training import Run


@dataclass(frozen=True)
class Outcome:
    """The runs of one way to budget rollouts, by seed; the measures below have an entry per run."""

    rounds: int
    runs: Sequence[Run]

    @property
    def name(self) -> str:
        """As tables and plots show it."""
        if self.rounds == UNIFORM:
            return "uniform"
        return f"planned, {self.rounds} round{'s' if self.rounds > 1 else ''}"

    def last(self) -> list[float]:
        """Success on held-out questions at the end."""
        return [run.judged[-1][1] for run in self.runs]

    def along(self) -> list[float]:
        """Success on held-out questions, averaged over all judgements: how fast it was reached, too."""
        return [statistics.fmean(rate for _, rate in run.judged) for run in self.runs]

    def groups(self) -> list[float]:
        """The share of groups with a gradient, over all steps."""
        return [statistics.fmean(run.groups) for run in self.runs]

    def rollouts(self) -> list[float]:
        """The share of rollouts in such groups, over all steps."""
        return [statistics.fmean(run.rollouts) for run in self.runs]

    def milliseconds(self) -> list[float]:
        """Of a step, the median one of each run."""
        return [1e3 * statistics.median(run.seconds) for run in self.runs]

    def planning(self) -> list[float]:
        """The share of a step's time that planning takes, in percent, the median step of each run."""
        return [
            100 * statistics.median(part / whole for part, whole in zip(run.planning, run.seconds, strict=True))
            for run in self.runs
        ]


def outcomes(runs: Iterable[Run]) -> list[Outcome]:
    """Runs put together by rounds, uniform first, each by seed."""
    ordered = sorted(runs, key=lambda run: (run.rounds, run.seed))
    return [
        Outcome(rounds, [run for run in ordered if run.rounds == rounds])
        for rounds in dict.fromkeys(run.rounds for run in ordered)
    ]


def tell(found: Sequence[Outcome], options: Namespace, console: Console) -> None:
    """Print all of it."""
    uniform, *planned = found
    console.print(_table(uniform, planned))
    starts = [run.judged[0][1] for run in uniform.runs]
    seeds = f"seeds 0–{options.seeds - 1}" if options.seeds > 1 else "seed 0"
    console.print(
        f"{options.steps} steps of {options.prompts} prompts × {options.rollouts} rollouts, the same for all; "
        f"{seeds}; success after the warm-up: {shown(starts)}; ± 95 % over seeds, "
        "differences seed by seed, not corrected for their number.",
        highlight=False,
        soft_wrap=True,
    )
    gap = max((run.gap for outcome in planned for run in outcome.runs), default=math.nan)
    console.print(f"Largest gap of any plan's certificate: {gap:.1e}.", highlight=False, soft_wrap=True)
    for outcome in planned:
        console.print(verdict(outcome, uniform), highlight=False, soft_wrap=True)


def _table(uniform: Outcome, planned: Sequence[Outcome]) -> Table:
    shape = Table()
    shape.add_column("budgets", no_wrap=True)
    names = ["success at end", "− uniform's", "on the way − uniform's", "groups with gradient", "rollouts in those"]
    for name in [*names, "ms/step", "planning %"]:
        shape.add_column(name, justify="right")
    for outcome in (uniform, *planned):
        shape.add_row(
            outcome.name,
            shown(outcome.last()),
            *(
                "" if outcome is uniform else _signed(_beside(measure, outcome, uniform))
                for measure in (Outcome.last, Outcome.along)
            ),
            shown(outcome.groups()),
            shown(outcome.rollouts()),
            shown(outcome.milliseconds(), 1),
            "" if outcome is uniform else shown(outcome.planning(), 1),
        )
    return shape


def verdict(outcome: Outcome, uniform: Outcome) -> str:
    """In words: what budgets did to gradients, and whether that brought any reward."""
    signal = " and ".join(
        f"{_share(measure, outcome, uniform)} {what}"
        for measure, what in [
            (Outcome.groups, "of the groups have a gradient"),
            (Outcome.rollouts, "of the rollouts are in such groups"),
        ]
    )
    if len(outcome.runs) < 2:
        return f"{outcome.name}: {signal}. From one seed no difference in reward can be told from chance."
    told = [_told(measure, outcome, uniform) for measure in (Outcome.last, Outcome.along)]
    words = {
        "higher": "improved the reward",
        "lower": "lowered the reward",
        "same": "did not improve it to a degree that shows",
    }
    return (
        f"{outcome.name}: {signal}. Reward: at the end budgets {words[told[0]]} "
        f"({_signed(_beside(Outcome.last, outcome, uniform))}), on the way they {words[told[1]]} "
        f"({_signed(_beside(Outcome.along, outcome, uniform))})."
    )


def _share(measure: Callable[[Outcome], list[float]], outcome: Outcome, uniform: Outcome) -> str:
    mine, theirs = (statistics.fmean(measure(which)) for which in (outcome, uniform))
    return f"{mine:.0%} ({theirs:.0%} if uniform)"


def _beside(measure: Callable[[Outcome], list[float]], outcome: Outcome, other: Outcome) -> tuple[float, float]:
    """How much larger a measure is than another's, seed by seed, and half the width of the interval."""
    return interval([mine - theirs for mine, theirs in zip(measure(outcome), measure(other), strict=True)])


def _told(measure: Callable[[Outcome], list[float]], outcome: Outcome, other: Outcome) -> str:
    mean, half = _beside(measure, outcome, other)
    if abs(mean) <= half:
        return "same"
    return "higher" if mean > 0 else "lower"


def _signed(difference: tuple[float, float]) -> str:
    mean, half = difference
    return f"{mean:+.3f}" if math.isnan(half) else f"{mean:+.3f} ± {half:.3f}"


def draw(found: Sequence[Outcome], path: Path) -> None:
    """Reward and what it differs from uniform's against rollouts used, and the groups with a gradient by step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (reward, beside, groups) = pyplot.subplots(1, 3, figsize=(15, 4.2))
    for number, outcome in enumerate(found):
        colour, used = f"C{number}", [rollouts for rollouts, _ in outcome.runs[0].judged]
        rates = [[rate for _, rate in run.judged] for run in outcome.runs]
        others = [[rate for _, rate in run.judged] for run in found[0].runs]
        differences = [[a - b for a, b in zip(*both, strict=True)] for both in zip(rates, others, strict=True)]
        for axes, lines in ((reward, rates), (beside, differences)):
            middle, half = zip(*(interval(at) for at in zip(*lines, strict=True)), strict=True)
            axes.plot(used, middle, color=colour, label=outcome.name)
            if len(lines) > 1 and not (axes is beside and number == 0):
                low, high = ([m + sign * h for m, h in zip(middle, half, strict=True)] for sign in (-1, 1))
                axes.fill_between(used, low, high, color=colour, alpha=0.15, linewidth=0)
        shares = [statistics.fmean(at) for at in zip(*(run.groups for run in outcome.runs), strict=True)]
        groups.plot(range(1, len(shares) + 1), shares, color=colour, linewidth=1)
    for axes, label in ((reward, "success on held-out questions"), (beside, "the same, − uniform's")):
        axes.set_xlabel("rollouts used")
        axes.set_ylabel(label)
    groups.set_xlabel("step")
    groups.set_ylabel("share of groups with a gradient")
    reward.legend()
    figure.tight_layout()
    save(figure, path)
    pyplot.close(figure)
