"""What the collection loop tells of its buyers: tables, a plot, and what the numbers allow to say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from equipoise.examples import loop

from .buyers import Amounts
from .slices import Integers

MEASURES = {
    "worst error": (0, np.max),
    "mean error": (0, np.mean),
    "worst loss": (1, np.max),
    "mean loss": (1, np.mean),
}
"""Error or loss, and over the groups its largest or its mean."""


@dataclass(frozen=True)
class Story:
    """What happened to one buyer. marks: (rounds + 1, seeds, 2, groups) test error and loss, first at the start.

    spent: (rounds + 1, seeds) money for all labels held. bought: (seeds, groups) labels held in the end.
    """

    marks: Amounts
    spent: Amounts
    bought: Integers

    def measured(self, measure: str) -> Amounts:
        """(rounds + 1, seeds)."""
        which, over = MEASURES[measure]
        return over(self.marks[:, :, which], axis=-1)


def table(stories: dict[str, Story], title: str, rows: Sequence[tuple[str, Callable[[Story], str]]]) -> Table:
    """A column for each buyer; what stands in front of a row, and how it reads a buyer's story."""
    made = Table("", title=title)
    for name in stories:
        made.add_column(name, justify="right")
    for name, cell in rows:
        made.add_row(name, *map(cell, stories.values()))
    return made


def tables(stories: dict[str, Story], groups: Sequence[str]) -> list[Table]:
    """The errors after each round, all measures after the last, and what was bought."""
    spent, made = next(iter(stories.values())).spent.mean(axis=1), list[Table]()
    for measure in ("worst error", "mean error"):
        made.append(
            table(
                stories, f"{measure} after spending",
                [(f"{money:g}", partial(cell, measure, turn)) for turn, money in enumerate(spent.tolist())],
            )
        )  # fmt: skip
    ends = [(measure, partial(cell, measure, -1)) for measure in MEASURES]
    made.append(table(stories, "in the end", [*ends, ("money spent", lambda story: f"{story.spent[-1].mean():.2f}")]))
    held = [(group, partial(average, row)) for row, group in enumerate(groups)]
    return [*made, table(stories, "labels held in the end", held)]


def cell(measure: str, turn: int, story: Story) -> str:
    """A measure after some round, over seeds."""
    return loop.shown(story.measured(measure)[turn].tolist())


def average(row: int, story: Story) -> str:
    """Labels of a group held in the end, over seeds."""
    return f"{story.bought[:, row].mean():.1f}"


def verdict(stories: dict[str, Story], names: Sequence[str], other: str) -> list[str]:
    """What planning did to the errors in the end, against another buyer, and whether that is beyond the interval."""
    said = list[str]()
    for name in names:
        for measure in ("worst error", "mean error"):
            gain = stories[other].measured(measure)[-1] - stories[name].measured(measure)[-1]
            mean, half = loop.interval(gain.tolist())
            helps = "cannot be told from one seed" if np.isnan(half) else "no difference shown"
            if abs(mean) > half:
                helps = "planning helps" if mean > 0 else "planning HURTS"
            said.append(f"{name} against {other}: {measure} lower by {mean:+.4f} ± {half:.4f}: {helps}")
    return said


def drawn(stories: dict[str, Story], names: Sequence[str]) -> Figure:
    """Worst and mean error by money spent, and the labels held in the end."""
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    *errors, labels = figure.subplots(1, 3)
    for axes, measure in zip(errors, ("worst error", "mean error"), strict=True):
        for name, story in stories.items():
            centre, half = np.array([loop.interval(values.tolist()) for values in story.measured(measure)]).T
            axes.errorbar(story.spent.mean(axis=1), centre, np.nan_to_num(half), label=name, capsize=2)
        axes.set(title=f"{measure} over the groups", xlabel="money spent", ylabel="test error")
    errors[0].legend()
    width = 0.8 / len(stories)
    for place, story in enumerate(stories.values()):
        labels.bar(np.arange(len(names)) + width * place, story.bought.mean(axis=0), width)
    labels.set_xticks(np.arange(len(names)) + 0.4 - width / 2, names, rotation=45, ha="right")
    labels.set(title="labels held in the end", ylabel="mean over seeds")
    return figure
