"""Which field of a sweep is told by what in its picture.

The numeric field with the most values is the horizontal axis. What else was swept is told by colour; where that is too
much for one frame, by a frame for each combination, and two fields of many numbers as a map.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ...specs.sweeps import Scalar
from .swept import Outcome, Swept, is_number

MOST_LINES, MOST_FRAMES = 8, 12
"""Lines in one frame, and frames in one picture."""

_LONGEST_WORD = 24

Combination = tuple[int, ...]
"""Which of its values each of some fields has."""


@dataclass(frozen=True)
class Layout:
    """How a sweep is drawn.

    fields: those of more than one value, each with its values in order. across: the horizontal axis. up: the vertical
    axis of a map, None for lines. colours, frames: the fields that these tell. shown: the combinations that are drawn,
    a frame each. left_out: how many there is no room for.
    """

    fields: Mapping[str, Sequence[Scalar]]
    across: str
    up: str | None
    colours: tuple[str, ...]
    frames: tuple[str, ...]
    shown: tuple[Combination, ...]
    left_out: int

    @classmethod
    def of(cls, swept: Swept) -> Layout:
        """The layout of a sweep of at least one point."""
        every = swept.fields()
        fields = {name: values for name, values in every.items() if len(values) > 1} or dict(
            [next(iter(every.items()))]
        )
        across = max(fields, key=lambda name: (_numeric(fields[name]), len(fields[name])))
        rest = [name for name in fields if name != across]
        up, colours = _told(fields, across, rest)
        frames = tuple(name for name in rest if name != up and name not in colours)
        numbers = {name: _numbered(fields[name]) for name in frames}
        there = sorted({_combination(outcome, numbers) for outcome in swept.outcomes})
        return cls(fields, across, up, colours, frames, tuple(there[:MOST_FRAMES]), len(there[MOST_FRAMES:]))

    @cached_property
    def along_numbers(self) -> bool:
        """Whether the horizontal axis is one of numbers, not of words."""
        return _numeric(self.fields[self.across])

    def heading(self, names: Sequence[str]) -> str:
        """What the labels of their combinations stand under."""
        return ", ".join(map(_short, names))

    def title(self) -> str:
        """What is drawn over what."""
        text = f"over {_short(self.across)}" + (f" and {_short(self.up)}" if self.up else "")
        told = [*self.colours, *self.frames]
        return text + (f", by {' and '.join(map(_short, told))}" if told else "")

    def label(self, names: Sequence[str], combination: Combination) -> str:
        """What a combination of values of some fields is called."""
        return ", ".join(written(self.fields[name][number]) for name, number in zip(names, combination, strict=True))

    def grouped(self, outcomes: Iterable[Outcome], names: Sequence[str]) -> dict[Combination, list[Outcome]]:
        """Outcomes by the values of some fields, in the order of these values."""
        numbers = {name: self._numbers[name] for name in names}
        groups = dict[Combination, list[Outcome]]()
        for outcome in outcomes:
            groups.setdefault(_combination(outcome, numbers), []).append(outcome)
        return dict(sorted(groups.items()))

    def number(self, outcome: Outcome, name: str) -> int:
        """Which of its values a field has."""
        return self._numbers[name][json.dumps(outcome.point.get(name))]

    @cached_property
    def _numbers(self) -> dict[str, dict[str, int]]:
        return {name: _numbered(values) for name, values in self.fields.items()}


def written(value: Scalar) -> str:
    """A value as a label shows it."""
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_WORD else f"{value[: _LONGEST_WORD - 1]}…"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if is_number(value) else json.dumps(value)


def _told(
    fields: Mapping[str, Sequence[Scalar]], across: str, rest: Sequence[str]
) -> tuple[str | None, tuple[str, ...]]:
    """The field of a map's vertical axis, if it is to be a map; and the fields that colours tell."""
    if math.prod(len(fields[name]) for name in rest) <= MOST_LINES:
        return None, tuple(rest)
    second = max(rest, key=lambda name: len(fields[name]))
    if len(fields[second]) > MOST_LINES and _numeric(fields[across]) and _numeric(fields[second]):
        return second, ()
    fitting = [name for name in rest if len(fields[name]) <= MOST_LINES]
    return None, (max(fitting, key=lambda name: len(fields[name])),) if fitting else ()


def _numeric(values: Sequence[Scalar]) -> bool:
    return all(map(is_number, values))


def _numbered(values: Sequence[Scalar]) -> dict[str, int]:
    """The places of values among them. As they are written: true is another value than 1."""
    return {json.dumps(value): number for number, value in enumerate(values)}


def _combination(outcome: Outcome, numbers: Mapping[str, Mapping[str, int]]) -> Combination:
    return tuple(places[json.dumps(outcome.point.get(name))] for name, places in numbers.items())


def _short(name: str) -> str:
    return name if len(name) <= 2 * _LONGEST_WORD else f"…{name[1 - 2 * _LONGEST_WORD :]}"
