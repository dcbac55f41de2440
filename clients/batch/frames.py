"""The frames of a sweep's picture: one, or one for each combination of some fields; lines in them, or maps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from .curves import GREY, fill_with_lines
from .layout import Layout
from .scales import is_geometric, scaled, upright
from .swept import Outcome, Swept


def fill(swept: Swept, layout: Layout, unit: str) -> Figure:
    """The figure of a sweep, without its title. unit: what the objective counts."""
    columns = min(len(layout.shown), 4 if len(layout.shown) > 9 else 3)
    rows = -(-len(layout.shown) // columns)
    wide, high = (7.2, 4.4) if len(layout.shown) == 1 else (2.9 * columns + 1.6, 2.4 * rows + 1)
    figure = Figure(figsize=(wide, high), layout="constrained")
    frames: list[list[Axes]] = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).tolist()
    every = [axes for row in frames for axes in row]
    for axes in every[len(layout.shown) :]:
        axes.set_axis_off()
    groups = layout.grouped(swept.outcomes, layout.frames)
    used = every[: len(layout.shown)]
    drawn = [outcome for combination in layout.shown for outcome in groups[combination]]
    if layout.up is None:
        strip = fill_with_lines(used, [groups[combination] for combination in layout.shown], layout, columns)
        upright(used, drawn, strip)
        figure.supylabel(unit, fontsize=9)
    else:
        _fill_with_maps(figure, used, [groups[combination] for combination in layout.shown], layout, unit)
        figure.supylabel(layout.up, fontsize=9)
    for axes, combination in zip(used, layout.shown, strict=True):
        if layout.frames:
            title = f"{layout.heading(layout.frames)} = {layout.label(layout.frames, combination)}"
            axes.set_title(title, fontsize=8.5, loc="left")
    for column in range(columns):  # the last frame of a column may have an empty place below it
        last = max(row for row in range(rows) if row * columns + column < len(layout.shown))
        frames[last][column].tick_params(labelbottom=True)
    figure.supxlabel(layout.across, fontsize=9)
    return figure


def _fill_with_maps(
    figure: Figure, frames: Sequence[Axes], groups: Sequence[list[Outcome]], layout: Layout, unit: str
) -> None:
    assert layout.up is not None
    across, up = (np.array(layout.fields[name], float) for name in (layout.across, layout.up))
    values = np.array([outcome.objective for group in groups for outcome in group if not outcome.failed])
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    mesh = None
    for axes, group in zip(frames, groups, strict=True):
        heights = np.full((len(up), len(across)), math.nan)
        for outcome in group:
            heights[layout.number(outcome, layout.up), layout.number(outcome, layout.across)] = outcome.objective
        mesh = axes.pcolormesh(
            _edges(across), _edges(up), heights, cmap="viridis", vmin=low, vmax=high, rasterized=True
        )
        failed = [outcome.point for outcome in group if outcome.failed]
        places = [[float(point[name] or 0) for point in failed] for name in (layout.across, layout.up)]
        axes.plot(*places, "x", color=GREY, markersize=4, markeredgewidth=0.8)
        axes.grid(False)
        scaled(axes, axes.xaxis, layout.fields[layout.across])
        scaled(axes, axes.yaxis, layout.fields[layout.up])
    assert mesh is not None
    bar = figure.colorbar(mesh, ax=list(frames), label=unit)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    if any(outcome.failed for group in groups for outcome in group):
        crosses = [Line2D([], [], color=GREY, marker="x", linestyle="none", label="no plan")]
        figure.legend(handles=crosses, loc="outside right upper", fontsize=8)


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The borders of the cells around values, half way between them on the axis that they are drawn on."""
    middle = np.log(values) if is_geometric(values) else values
    half = np.diff(middle) / 2
    edges = np.concatenate([middle[:1] - half[:1], middle[:-1] + half, middle[-1:] + half[-1:]])
    return np.exp(edges) if is_geometric(values) else edges
