"""The canonical program: a mixed-integer linear program over sparse columns, with names from the spec.

    maximise or minimise  cost·x + offset
    subject to            row_lower ≤ A x ≤ row_upper,  lower ≤ x ≤ upper,  x_j whole where integer_j

`Builder` assembles one from blocks of columns and rows, whole arrays at a time; `build` checks what backends do
not (finite numbers, indices in range, no entry twice). A block remembers which fields of the spec its bounds
come from, so that a conflict found on the program can be told in the words of the spec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..specs.arrays import Floats, Integers
from ..specs.certificate import Sense
from ..specs.errors import UnsupportedError

LARGEST = 2**27
"""Columns, rows or nonzeros of one program, at most: beyond, memory runs out before the solver starts."""


@dataclass(frozen=True)
class Block:
    """A range of columns or rows of one meaning.

    lower_field, upper_field: the field of the spec that the lower or upper bounds come from; None where they
    are part of the task itself and cannot be relaxed.
    """

    name: str
    start: int
    shape: tuple[int, ...]
    lower_field: str | None = None
    upper_field: str | None = None

    @property
    def stop(self) -> int:
        return self.start + int(np.prod(self.shape))

    @property
    def slice(self) -> slice:
        return slice(self.start, self.stop)

    def label(self, index: int) -> str:
        """The name of one column or row: `route[3,7]`."""
        place = np.unravel_index(index - self.start, self.shape)
        return f"{self.name}[{','.join(str(step) for step in place)}]"


@dataclass(frozen=True)
class Goal:
    """An objective that is settled before the program's own, and then kept within `slack`, relatively."""

    name: str
    sense: Sense
    cost: Floats
    slack: float = 0.0


@dataclass(frozen=True)
class Program:
    """A mixed-integer linear program; see the module's text. Arrays are in compressed sparse columns."""

    sense: Sense
    cost: Floats
    offset: float
    lower: Floats
    upper: Floats
    integer: NDArray[np.bool_]
    row_lower: Floats
    row_upper: Floats
    starts: Integers
    rows: Integers
    coefficients: Floats
    column_blocks: tuple[Block, ...]
    row_blocks: tuple[Block, ...]
    goals: tuple[Goal, ...] = ()
    gap: float = 0.0
    """The relative gap that `method="auto"` asks for."""
    integral: bool = False
    """The relaxation has whole vertices (its matrix is totally unimodular): no branching is needed."""
    start: Floats | None = None
    """A point that satisfies everything, for a search to begin with; and the answer if there is no time for any."""

    @property
    def columns(self) -> int:
        return len(self.cost)

    @property
    def height(self) -> int:
        """The number of rows."""
        return len(self.row_lower)

    @property
    def nonzeros(self) -> int:
        return len(self.coefficients)

    def entry_columns(self) -> Integers:
        """The column of each nonzero."""
        return np.repeat(np.arange(self.columns), np.diff(self.starts))

    def activity(self, values: Floats) -> Floats:
        """A·x."""
        products = self.coefficients * values[self.entry_columns()]
        return np.bincount(self.rows, weights=products, minlength=self.height).astype(np.float64)

    def settled(self, goal: Goal, best: float) -> Program:
        """The program with one more row, which keeps a goal at its best (within its slack)."""
        room = abs(best) * goal.slack
        lower, upper = (-np.inf, best + room) if goal.sense == "minimise" else (best - room, np.inf)
        used = np.flatnonzero(goal.cost)
        columns = np.concatenate([self.entry_columns(), used])
        order = np.argsort(columns, kind="stable")
        row = Block(goal.name, self.height, (1,))
        return replace(
            self,
            row_lower=np.append(self.row_lower, lower),
            row_upper=np.append(self.row_upper, upper),
            starts=_starts(columns, self.columns),
            rows=np.concatenate([self.rows, np.full(len(used), self.height)])[order],
            coefficients=np.concatenate([self.coefficients, goal.cost[used]])[order],
            row_blocks=(*self.row_blocks, row),
        )

    @property
    def unbounded(self) -> float:
        """The bound of which nothing is known: −inf when minimising, inf when maximising."""
        return -np.inf if self.sense == "minimise" else np.inf

    def starting(self, values: Mapping[str, ArrayLike]) -> Program:
        """The program with a point to start from: the values of each block of columns, by its name."""
        parts: list[Floats] = [np.asarray(values[block.name], dtype=np.float64).ravel() for block in self.column_blocks]
        return replace(self, start=_together(parts))

    def relaxed(self) -> Program:
        """The program without integrality."""
        return replace(self, integer=np.zeros(self.columns, np.bool_))

    def aimed(self, sense: Sense, cost: Floats, offset: float = 0.0) -> Program:
        """The same constraints under another objective, without goals."""
        return replace(self, sense=sense, cost=cost, offset=offset, goals=())

    def column_names(self) -> Iterator[str]:
        """The name of every column, in order."""
        return (block.label(index) for block in self.column_blocks for index in range(block.start, block.stop))

    def row_names(self) -> Iterator[str]:
        """The name of every row, in order."""
        return (block.label(index) for block in self.row_blocks for index in range(block.start, block.stop))


@dataclass
class Builder:
    """Assembles a program, block by block."""

    sense: Sense
    offset: float = 0.0
    gap: float = 0.0
    integral: bool = False
    _columns: list[tuple[Block, Floats, Floats, Floats, bool]] = field(default_factory=list)
    _rows: list[tuple[Block, Floats, Floats]] = field(default_factory=list)
    _entries: list[tuple[Integers, Integers, Floats]] = field(default_factory=list)
    _goals: list[tuple[str, Sense, Integers, Floats, float]] = field(default_factory=list)
    _width: int = 0
    _height: int = 0
    _nonzeros: int = 0

    def columns(
        self,
        name: str,
        shape: int | tuple[int, ...],
        *,
        cost: ArrayLike = 0.0,
        lower: ArrayLike = 0.0,
        upper: ArrayLike = np.inf,
        integer: bool = False,
        lower_field: str | None = None,
        upper_field: str | None = None,
    ) -> Integers:
        """Add a block of columns; returns their indices, in the block's shape."""
        block = Block(name, self._width, _shape(shape), lower_field, upper_field)
        self._width = self._room(block.stop, "columns")
        costs, lowers, uppers = (_filled(values, block.shape) for values in (cost, lower, upper))
        self._columns.append((block, costs, lowers, uppers, integer))
        return np.arange(block.start, block.stop).reshape(block.shape)

    def rows(
        self,
        name: str,
        shape: int | tuple[int, ...],
        *,
        lower: ArrayLike = -np.inf,
        upper: ArrayLike = np.inf,
        field: str | None = None,
        lower_field: str | None = None,
        upper_field: str | None = None,
    ) -> Integers:
        """Add a block of rows; returns their indices, in the block's shape. `field` names both bounds' origin."""
        block = Block(name, self._height, _shape(shape), lower_field or field, upper_field or field)
        self._height = self._room(block.stop, "rows")
        self._rows.append((block, _filled(lower, block.shape), _filled(upper, block.shape)))
        return np.arange(block.start, block.stop).reshape(block.shape)

    def entries(self, rows: ArrayLike, columns: ArrayLike, coefficients: ArrayLike = 1.0) -> None:
        """Add coefficients; the three arrays are broadcast against each other. Zeros are left out."""
        row, column, value = np.broadcast_arrays(
            np.asarray(rows, dtype=np.int64),
            np.asarray(columns, dtype=np.int64),
            np.asarray(coefficients, dtype=np.float64),
        )
        row, column, value = row.ravel(), column.ravel(), value.ravel()
        if not value.all():
            there = value != 0
            row, column, value = row[there], column[there], value[there]
        self._nonzeros = self._room(self._nonzeros + len(value), "nonzeros")
        self._entries.append((row, column, value))

    def goal(self, name: str, sense: Sense, columns: ArrayLike, costs: ArrayLike = 1.0, slack: float = 0.0) -> None:
        """Add an objective that is settled before the program's own, in the order of the calls."""
        index = np.asarray(columns, dtype=np.int64).ravel()
        self._goals.append((name, sense, index, _filled(costs, index.shape), slack))

    def build(self) -> Program:
        """The program. Raises `ValueError` for what no backend could take: a defect of the formulation."""
        rows, columns, values = _joined(self._entries)
        order = np.argsort(columns * max(self._height, 1) + rows, kind="stable")
        rows, columns, values = rows[order], columns[order], values[order]
        goals = []
        for name, sense, index, costs, slack in self._goals:
            dense = np.zeros(self._width)
            dense[index] = costs
            goals.append(Goal(name, sense, dense, slack))
        program = Program(
            sense=self.sense,
            offset=self.offset,
            cost=_together([part[1] for part in self._columns]),
            lower=_together([part[2] for part in self._columns]),
            upper=_together([part[3] for part in self._columns]),
            integer=np.repeat(
                np.array([part[4] for part in self._columns], dtype=np.bool_),
                [part[0].stop - part[0].start for part in self._columns],
            ),
            row_lower=_together([part[1] for part in self._rows]),
            row_upper=_together([part[2] for part in self._rows]),
            starts=_starts(columns, self._width),
            rows=rows,
            coefficients=values,
            column_blocks=tuple(part[0] for part in self._columns),
            row_blocks=tuple(part[0] for part in self._rows),
            goals=tuple(goals),
            gap=self.gap,
            integral=self.integral,
        )
        _check(program, columns)
        return program

    def _room(self, size: int, what: str) -> int:
        if size > LARGEST:
            raise UnsupportedError(
                f"the exact program would have {size:,} {what}, and {LARGEST:,} are the limit; "
                "make the task smaller or coarser"
            )
        return size


def _check(program: Program, columns: Integers) -> None:
    if columns.size:
        if columns.min() < 0 or columns.max() >= program.columns:
            raise ValueError("an entry lies in a column that is not there")
        if program.rows.min() < 0 or program.rows.max() >= program.height:
            raise ValueError("an entry lies in a row that is not there")
        if ((np.diff(columns) == 0) & (np.diff(program.rows) == 0)).any():
            raise ValueError("two entries share a row and a column")
    for name, values in (("cost", program.cost), ("coefficient", program.coefficients)):
        if not np.isfinite(values).all():
            raise ValueError(f"a {name} is not finite")
    for lower, upper in ((program.lower, program.upper), (program.row_lower, program.row_upper)):
        if np.isnan(lower).any() or np.isnan(upper).any() or (lower == np.inf).any() or (upper == -np.inf).any():
            raise ValueError("a bound is not a number, or infinite on the wrong side")


def _shape(shape: int | tuple[int, ...]) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else shape


def _filled(values: ArrayLike, shape: tuple[int, ...]) -> Floats:
    return np.broadcast_to(np.asarray(values, dtype=np.float64), shape).ravel()


def _together(parts: list[Floats]) -> Floats:
    return np.concatenate(parts) if parts else np.zeros(0)


def _joined(entries: list[tuple[Integers, Integers, Floats]]) -> tuple[Integers, Integers, Floats]:
    if not entries:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    rows, columns, values = zip(*entries, strict=True)
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(values)


def _starts(columns: Integers, width: int) -> Integers:
    return np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=width))]).astype(np.int64)
