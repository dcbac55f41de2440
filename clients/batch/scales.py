"""The axes of a sweep's picture: logarithmic where the values ask for it, with ticks at few values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from ...specs.sweeps import Scalar
from .layout import Layout, written
from .swept import Outcome

_MANY = 10
"""Ticks on one axis, at most, that stand at the values themselves."""
_CLOSE = 0.08
"""The part of an axis that a tick's label needs."""
_WIDE = 30
"""Positive values that span more than this are drawn on a logarithmic axis."""


def position(outcome: Outcome, layout: Layout) -> float:
    """Where a point stands on the horizontal axis."""
    value = outcome.point.get(layout.across)
    return float(value or 0) if layout.along_numbers else layout.number(outcome, layout.across)


def along(axes: Axes, layout: Layout) -> None:
    """The horizontal axis of lines, of numbers or of words."""
    values = layout.fields[layout.across]
    if layout.along_numbers:
        scaled(axes, axes.xaxis, values)
        return
    labels = [written(value) for value in values]
    crowded = len(axes.figure.axes) > 1 or sum(map(len, labels)) > 50
    turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(range(len(values)), labels, **turned)
    axes.margins(x=0.5 / len(values))


def scaled(axes: Axes, axis: Axis, values: Sequence[Scalar]) -> None:
    """A numeric axis: logarithmic where the values ask for it, its ticks at few values."""
    numbers = np.array(values, float)
    if is_geometric(numbers):
        (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
    axis.set_minor_formatter(NullFormatter())
    apart = _apart(numbers) if len(numbers) <= _MANY else []
    if len(apart) >= min(3, len(numbers)):
        axis.set_minor_locator(NullLocator())
        axis.set_ticks(apart)
    elif is_geometric(numbers):
        axis.set_major_locator(LogLocator(numticks=8))
    axis.set_major_formatter(FuncFormatter(_plain))


def upright(frames: Sequence[Axes], outcomes: Sequence[Outcome], strip: float) -> None:
    """The vertical axis of objectives and bounds, which all frames share. strip: the part at its foot to keep free."""
    axes = frames[0]
    solved = [outcome for outcome in outcomes if not outcome.failed]
    values = [outcome.objective for outcome in solved]
    values += [outcome.bound for outcome in solved if outcome.bound is not None]
    if not values:
        axes.set_yticks([])
        return
    wide = is_wide(np.array(values))
    if wide:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.margins(y=0.06)
    low, high = axes.get_ylim()
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
    room = strip / (1 - strip)
    axes.set_ylim(low * (low / high) ** room if wide else low - (high - low) * room, high)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))


def _apart(numbers: NDArray[np.float64]) -> list[float]:
    """The numbers whose labels do not run into that of the one before."""
    places = np.log(numbers) if is_geometric(numbers) else numbers
    span = float(places[-1] - places[0]) or 1.0
    kept = [0]
    for number in range(1, len(numbers)):
        if places[number] - places[kept[-1]] >= _CLOSE * span:
            kept.append(number)
    return [float(numbers[number]) for number in kept]


def is_wide(numbers: NDArray[np.float64]) -> bool:
    """Whether a logarithmic axis suits numbers."""
    return bool(numbers.min() > 0 and numbers.max() > _WIDE * numbers.min())


def is_geometric(numbers: NDArray[np.float64]) -> bool:
    """Whether a logarithmic axis suits the values of a swept field: also one of equal ratios."""
    if is_wide(numbers) or numbers.min() <= 0 or len(numbers) < 3:
        return is_wide(numbers)
    ratios = numbers[1:] / numbers[:-1]
    return bool(ratios.min() > 1.2 and ratios.max() < 1.01 * ratios.min())


def _plain(value: float, _: Any = None) -> str:
    """A number as people write it: 1,024 and 0.5, and 1e+07 where that is shorter."""
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:.4g}"
