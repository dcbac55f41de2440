"""The lines of a frame: objectives along the horizontal axis, each line with its bound.

A thin dashed line is the bound, and the gap to it is shaded. Points without a plan are crosses at the foot of the
frame, at a height of their own for each line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from .layout import Combination, Layout
from .scales import along, position
from .swept import Outcome

GREY = "#777777"

_COLOURS = ("#2f6f8f", "#c9683c", "#5b8c3e", "#8c5b9c", "#b0912f", "#4f9d9d", "#a3475a", "#6b6b6b")
_STEP = 0.04
"""The part of a frame's height that a row of crosses takes."""
_ALIKE = 0.005
"""The part of all objectives' span by which two lines may differ where they are drawn over each other."""


def fill_with_lines(frames: Sequence[Axes], groups: Sequence[list[Outcome]], layout: Layout, columns: int) -> float:
    """Lines of all colours in each frame. Returns the part of their height that the crosses at their foot take."""
    drawn = [outcome for group in groups for outcome in group]
    every = layout.grouped(drawn, layout.colours)
    ordered = len(layout.colours) == 1 and not any(isinstance(value, str) for value in layout.fields[layout.colours[0]])
    colours = dict(zip(every, _shades(len(every)) if ordered else _COLOURS, strict=False))
    failing = [combination for combination, outcomes in every.items() if any(outcome.failed for outcome in outcomes)]
    strip = (len(failing) + 0.5) * _STEP if failing else 0.0
    for axes, group in zip(frames, groups, strict=True):
        covered = _covered(group, layout)
        for combination, outcomes in layout.grouped(group, layout.colours).items():
            height = strip - (failing.index(combination) + 0.75) * _STEP if combination in failing else 0.0
            _line(axes, outcomes, layout, colours[combination], height, covered[combination])
        if strip:
            foot = Rectangle((0, 0), 1, strip, transform=axes.transAxes, color="#f0f0f0", linewidth=0, zorder=0.1)
            axes.add_artist(foot)
        if all(outcome.failed for outcome in drawn):
            axes.text(0.5, 0.6, "no point has a plan", transform=axes.transAxes, ha="center", color=GREY)
        along(axes, layout)
    _legend(frames[columns - 1], layout, colours, strip > 0)
    return strip


def _line(axes: Axes, outcomes: list[Outcome], layout: Layout, colour: Any, height: float, covered: int) -> None:
    """One line: the objective where there is a plan, its bound, and crosses at that height where there is none.

    covered: how many lines are drawn over this one; it is the broader for it, so that it is seen.
    """
    outcomes = sorted(outcomes, key=lambda outcome: layout.number(outcome, layout.across))
    across = np.array([position(outcome, layout) for outcome in outcomes])
    objective = np.array([outcome.objective for outcome in outcomes])  # NaN where there is no plan: the line breaks
    bound = np.array([math.nan if outcome.bound is None else outcome.bound for outcome in outcomes])
    if layout.along_numbers:
        axes.plot(across, bound, "--", color=colour, linewidth=0.8)
        axes.fill_between(across, objective, bound, color=colour, alpha=0.18, linewidth=0)
    else:
        axes.vlines(across, objective, bound, color=colour, alpha=0.4, linewidth=1.5)
        axes.plot(across, bound, "_", color=colour, markersize=12, markeredgewidth=0.8)
    joined = "-" if layout.along_numbers else "none"
    width = 1.5 + 1.5 * covered
    size = width + 2.5 if len(across) <= 40 else width
    axes.plot(across, objective, marker="o", markersize=size, linestyle=joined, linewidth=width, color=colour)
    there_is_none = across[[outcome.failed for outcome in outcomes]]
    if len(there_is_none):
        foot = axes.get_xaxis_transform()
        axes.plot(there_is_none, np.full(len(there_is_none), height), "x", color=colour, markersize=4.5, transform=foot)


def _covered(group: list[Outcome], layout: Layout) -> dict[Combination, int]:
    """How many lines of a frame run over each: those that are drawn after it and are alike at half of its points."""
    values = {
        combination: {
            layout.number(outcome, layout.across): outcome.objective for outcome in outcomes if not outcome.failed
        }
        for combination, outcomes in layout.grouped(group, layout.colours).items()
    }
    every = [objective for line in values.values() for objective in line.values()]
    room = _ALIKE * (max(every, default=0.0) - min(every, default=0.0))

    def runs_over(later: Mapping[int, float], line: Mapping[int, float]) -> bool:
        alike = sum(abs(later.get(place, math.inf) - objective) <= room for place, objective in line.items())
        return 2 * alike >= len(line) > 0

    lines = list(values.values())
    return {
        combination: sum(runs_over(later, line) for later in lines[number + 1 :])
        for number, (combination, line) in enumerate(values.items())
    }


def _legend(axes: Axes, layout: Layout, colours: dict[tuple[int, ...], Any], failing: bool) -> None:
    """To the right of a frame."""
    handles = [
        Line2D([], [], color=colour, marker="o", markersize=4, label=layout.label(layout.colours, combination))
        for combination, colour in colours.items()
        if layout.colours
    ]
    handles.append(Line2D([], [], color=GREY, linewidth=0.8, linestyle="--", label="bound"))
    if failing:
        handles.append(Line2D([], [], color=GREY, marker="x", markersize=4.5, linestyle="none", label="no plan"))
    right = {"loc": "upper left", "bbox_to_anchor": (1.02, 1), "borderaxespad": 0}
    heading = layout.heading(layout.colours) or None
    axes.legend(handles=handles, title=heading, fontsize=8, title_fontsize=8, alignment="left", **right)


def _shades(count: int) -> list[Any]:
    """Colours for numbers in their order, from dark to light."""
    return [colormaps["viridis"](0.85 * number / max(count - 1, 1)) for number in range(count)]
