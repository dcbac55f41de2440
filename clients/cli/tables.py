"""A plan's decision as tables: a row for each thing that is decided about, beside what the spec says of it.

Nothing here knows a kind of task. A plan says what the axes of its arrays count (`Plan.axes`), and where that is a
table of the spec, its columns stand beside the decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from ...specs.arrays import ArrayRule
from ...specs.spec import Plan, Spec
from ...specs.tables import Table
from .figures import column, number
from .terminal import plain

LONG = 20
"""Rows up to which a table is printed whole."""
SAMPLE = 8
"""Rows of a longer table that are printed."""
WIDE = 8
"""Columns of a matrix that are printed."""
LEVELS = 20
"""Different whole numbers up to which they are counted."""
BAR = 24
"""Width of the longest bar."""
INDENT = 2
"""Columns that every table is indented by."""
BESIDE = 12
"""What indentation and spaces between columns take at most."""


@dataclass(frozen=True)
class Series:
    """A named array of a plan. `position`: its numbers are places in another table, −1 for none."""

    name: str
    values: NDArray[Any]
    position: bool = False

    @property
    def deep(self) -> bool:
        """Whether it lies deep in a plan: the parameters behind a fit, say, which few want to read."""
        return self.name.count(".") > 1

    def texts(self, values: NDArray[Any]) -> list[str]:
        """Some of its numbers, to be read."""
        if self.position:
            return ["–" if value < 0 else str(value) for value in values.tolist()]
        return column(values)


@dataclass
class Block:
    """The arrays of a plan that have a row for each of the same things.

    labels: what the rows are called. known: what the spec says of each row, by column.
    across: what the columns of a matrix are called, by its name.
    """

    axis: str
    labels: list[str]
    known: dict[str, NDArray[Any]] = field(default_factory=dict)
    series: list[Series] = field(default_factory=list)
    across: dict[str, list[str]] = field(default_factory=dict)


def decision(plan: Plan, spec: Spec[Any] | None, console: Console, whole: bool = False) -> Iterator[RenderableType]:
    """The tables of a plan, long ones cut short and summed up unless `whole`."""
    deep: list[str] = []
    for block in blocks(plan, spec):
        if not whole and all(series.deep for series in block.series):
            deep += [series.name for series in block.series]
            continue
        if not block.labels:
            yield Text(f"no {block.axis}: nothing to decide", style="dim")
            continue
        long = len(block.labels) > LONG and not whole
        grid = _fitting(block, SAMPLE if long else len(block.labels), console)
        counted = [series for series in block.series if _countable(series)] if long else []
        room = console.width - console.measure(grid).minimum - BESIDE
        if len(counted) == 1 and room >= BAR:
            beside = Grid.grid(padding=(0, 3))
            beside.add_row(grid, _counts(block, counted[0], room))
            yield beside
        else:
            yield grid
            yield from (_counts(block, series, console.width - BESIDE) for series in counted)
    if deep:
        yield Text(f"{', '.join(deep)}: shown with --all", style="dim")


def scalars(plan: Plan) -> dict[str, float]:
    """The numbers of a plan that stand alone, by dotted name."""
    found = ((name, value) for name, value in _flat(plan.fields()) if isinstance(value, (int, float)))
    return {name: float(value) for name, value in found if not isinstance(value, bool)}


def blocks(plan: Plan, spec: Spec[Any] | None) -> list[Block]:
    """The arrays of a plan, put together by what their rows are."""
    found: dict[str, Block] = {}
    for name, values in _flat(plan.fields()):
        if not isinstance(values, np.ndarray) or not 1 <= values.ndim <= 2:
            continue
        axes = _axes(plan, name)
        key = axes[0] if axes else next((axis for axis, b in found.items() if len(b.labels) == len(values)), "row")
        if key in found and len(found[key].labels) != len(values):
            key = name  # a plan that breaks its spec is shown all the same
        block = found.get(key) or found.setdefault(key, _block(key, len(values), spec))
        block.series.append(Series(name, values, _is_position(type(plan), name)))
        if values.ndim == 2 and len(axes) > 1:
            block.across[name] = _labels(axes[1], values.shape[1], spec) or []
    return list(found.values())


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _axes(plan: Plan, name: str) -> tuple[str, ...]:
    """What the axes of an array count; what is said of a group of arrays holds for each of them."""
    return plan.axes.get(name) or plan.axes.get(name.partition(".")[0], ())


def _is_position(model: type[Plan], name: str) -> bool:
    rules = model.model_fields[name].metadata if name in model.model_fields else []
    return any(isinstance(rule, ArrayRule) and rule.whole and rule.least == -1 for rule in rules)


def _block(axis: str, rows: int, spec: Spec[Any] | None) -> Block:
    block = Block(axis, _labels(axis, rows, spec) or [str(row) for row in range(rows)])
    table = getattr(spec, axis, None)
    if isinstance(table, Table) and len(table) == rows:
        columns = {name: values for name, values in table.columns().items() if name != "name"}
        known = {name: np.asarray(values) for name, values in columns.items() if not isinstance(values, Table)}
        block.known = {name: values for name, values in known.items() if values.shape == (rows,)}
    return block


def _labels(axis: str, size: int, spec: Spec[Any] | None) -> list[str] | None:
    """What the spec calls the things along an axis: the names in a table, or the entries of a list."""
    value = getattr(spec, axis, None)
    value = getattr(value, "name", None) if isinstance(value, Table) else value
    if isinstance(value, np.ndarray) and value.shape == (size,):
        return column(value)
    return [plain(name) for name in value] if isinstance(value, tuple) and len(value) == size else None


def _fitting(block: Block, rows: int, console: Console) -> Grid:
    """The table of a block, with as much as the terminal has room for: details go first, the decision never."""
    names, series = list(block.known), list(block.series)
    while True:
        grid = _table(block, names, series, rows)
        detail = next((place for place in reversed(range(len(series))) if "." in series[place].name), None)
        if console.measure(grid).maximum <= console.width - INDENT or (detail is None and not names):
            return grid
        if detail is not None:
            del series[detail]
        else:
            names.pop()


def _table(block: Block, names: list[str], decided: list[Series], rows: int) -> Grid:
    left = len(block.labels) - rows
    known = [Series(name, block.known[name]) for name in names]
    tail = [f"… {left:,} more"] if left else []
    if left and any(_ranges(series) for series in (*known, *decided)):
        tail += _SUMMARY
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    named = any(not label.replace(",", "").isdigit() for label in block.labels)
    grid.add_column(block.axis.removesuffix("s"), no_wrap=True, justify="left" if named else "right", style="dim")
    cells = [[*block.labels[:rows], *tail]]
    for series in known:
        words = series.values.dtype.kind not in "iuf"
        grid.add_column(plain(series.name), no_wrap=True, justify="left" if words else "right", style="dim")
        cells.append(_column(series, rows))
    for series in decided:
        for header, part in _parts(series, block.across.get(series.name, [])):
            grid.add_column(header, no_wrap=True, justify="right", style="bold")
            cells.append(_column(part, rows))
    for row in zip_longest(*(texts[: rows + len(tail)] for texts in cells), fillvalue=""):
        grid.add_row(*row)
    return grid


_SUMMARY = ("least", "median", "most")


def _column(series: Series, rows: int) -> list[str]:
    """The cells of a column; where rows are left out, a gap and what they range over."""
    values = series.values
    if rows == len(values) or not _ranges(series):
        return _texts(series, values[:rows])
    *shown, least, most = series.texts(np.concatenate([values[:rows], [values.min(), values.max()]]))
    median = float(np.median(values))
    middle = series.texts(np.array([median]))[0] if values.dtype.kind == "f" else number(median)
    return [*shown, "", least, middle, most]


def _ranges(series: Series) -> bool:
    """Whether its numbers are amounts, of which a least and a most mean something."""
    return not series.position and series.values.dtype.kind in "iuf"


def _texts(series: Series, values: NDArray[Any]) -> list[str]:
    if values.dtype.kind in "iuf":
        return series.texts(values)
    return [plain(str(value)) for value in values.tolist()]


def _parts(series: Series, across: list[str]) -> Iterator[tuple[str, Series]]:
    """The columns of an array under their headers: one for a list, several for a matrix."""
    if series.values.ndim == 1:
        yield plain(series.name), series
        return
    width = series.values.shape[1]
    shown = width if width <= WIDE else WIDE - 1
    for place in range(shown):
        above = plain(series.name) if place == 0 else ""
        label = across[place] if across else ""
        header = "\n".join(part for part in (above or " ", label) if part)
        yield header, Series(series.name, series.values[:, place], series.position)
    if shown < width:
        yield " ", Series("", np.full(len(series.values), f"… {width - shown:,} more"))


def _countable(series: Series) -> bool:
    """Whether it is a list of whole numbers of which there are few different ones."""
    return series.values.ndim == 1 and series.values.dtype.kind != "f" and len(np.unique(series.values)) <= LEVELS


def _counts(block: Block, series: Series, room: int) -> Grid:
    """How often each value occurs, in so many columns of text."""
    levels, counts = np.unique(series.values, return_counts=True)
    bar = min(BAR, room - len(series.name) - len(block.axis))
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    grid.add_column(plain(series.name), no_wrap=True, justify="right", style="bold")
    grid.add_column(block.axis, no_wrap=True, justify="right")
    grid.add_column("", no_wrap=True, style="cyan")
    for level, count in zip(series.texts(levels), counts.tolist(), strict=True):
        grid.add_row(level, f"{count:,}", "■" * max(round(bar * count / int(counts.max())), 1))
    return grid
