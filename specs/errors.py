"""What can go wrong, as exceptions that name the place, the value and the remedy.

Every error of Equipoise is an `EquipoiseError` with the exit code that the command line answers with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

Place = tuple[str | int, ...]
"""Where in a spec: field names and row numbers, outermost first."""


def dotted(place: Place) -> str:
    """A place as people write it: `prompts.trials[3]`."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a spec: the place, what it got and what it wants."""

    message: str
    place: Place = ()
    file: str | None = None
    line: int | None = None

    @property
    def field(self) -> str:
        """The place in dotted form, empty where the document as a whole is meant."""
        return dotted(self.place)

    def located(self, file: str | None, line: int | None) -> Problem:
        """The same problem, told where in which file it stands."""
        return replace(self, file=file, line=line)

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        # A message that compares fields already names this one.
        names_itself = not self.field or self.message.startswith(f"{self.field} ")
        return ": ".join(part for part in (where, "" if names_itself else self.field, self.message) if part)


class EquipoiseError(Exception):
    """Root of all errors raised by Equipoise."""

    exit_code: ClassVar[int] = 5


class SpecError(EquipoiseError):
    """A spec, a plan or a file cannot be read as what it claims to be. Nothing was solved."""

    exit_code = 2

    def __init__(self, problems: str | Iterable[Problem]) -> None:
        listed = (Problem(problems),) if isinstance(problems, str) else tuple(problems)
        super().__init__(listed)
        self.problems = listed

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class InfeasibleError(EquipoiseError):
    """No plan satisfies the spec.

    `fields` is a minimal set of fields that conflict: with any one of them relaxed, the rest can be met.
    `change` maps a field to a value for it that would make the spec feasible, the others as they are.
    """

    exit_code = 3

    def __init__(self, message: str, fields: tuple[str, ...] = (), change: Mapping[str, float] | None = None) -> None:
        super().__init__(message, fields, change)
        self.message = message
        self.fields = fields
        self.change = dict(change or {})

    def __str__(self) -> str:
        return self.message


class SolveTimeout(EquipoiseError):
    """The time limit ran out (or the solve was stopped) before any feasible plan was found."""

    exit_code = 4


class UnsupportedError(EquipoiseError):
    """This backend or method cannot do what was asked; another one may."""

    exit_code = 2


class BackendError(EquipoiseError):
    """A solver failed, or answered something that its own problem statement contradicts."""


class ServiceError(EquipoiseError):
    """The service, or the way to it, failed."""


class Fault(ValueError):
    """What a validator raises: a message, and the place within the value that it looked at.

    In the message, `{name}` stands for a sibling field by its full dotted name.
    """

    def __init__(self, message: str, *place: str | int) -> None:
        super().__init__(message)
        self.message = message
        self.place: Place = place


def shown(value: Any) -> str:
    """A value as an error shows it: not all of it, and never an error of its own."""
    try:
        return f"{value!r:.60}"
    except (ValueError, RecursionError):  # an integer of thousands of digits, a list without end
        return f"a very large {type(value).__name__}"
