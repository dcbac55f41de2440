"""What a formulation is: how a kind of task becomes a program, and how the answer becomes a plan again.

A module `formulations/KIND.py` names its class `FORMULATION`. It never uses the spec's own `rules`, `objective` or
`bound`: those judge it.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ..specs.certificate import Proof
from ..specs.errors import UnsupportedError
from ..specs.spec import Plan, Spec
from .answer import Answer
from .control import Control
from .program import Program

S = TypeVar("S", bound=Spec[Any])
P = TypeVar("P", bound=Plan)


@dataclass(frozen=True)
class Evidence:
    """What a plan achieves, what no plan can beat, and why to believe that."""

    objective: float
    bound: float
    proof: Proof
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shift:
    """How far the bounds that come from one field must give way: lower ones down, upper ones up."""

    lower: float = 0.0
    upper: float = 0.0


@dataclass(frozen=True)
class Conflict:
    """A minimal set of fields that cannot be met together.

    shifts: for each field that can mend the conflict alone, the least by which its bounds must give way.
    """

    fields: tuple[str, ...]
    shifts: Mapping[str, Shift] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanation:
    """A conflict in the words of the spec: what clashes with what, and the smallest change that mends it."""

    message: str
    change: Mapping[str, float] = field(default_factory=dict)


class Formulation(ABC, Generic[S, P]):
    """One task as a program, and the way back. What both need is derived from the spec once."""

    def __init__(self, spec: S) -> None:
        self.spec = spec
        self.control = Control()
        """Deadline and stop button of whoever asks: where `formulate` and `explain` can take long, they look at it."""

    @abstractmethod
    def formulate(self) -> Program:
        """The program that states the spec exactly. Raises `SolveTimeout` where there is no time for that."""

    @abstractmethod
    def interpret(self, answer: Answer) -> P:
        """The plan that an answer means, without certificate."""

    @abstractmethod
    def prove(self, plan: P, answer: Answer) -> Evidence:
        """Objective and bound of that plan."""

    def conflict(self) -> Conflict | None:
        """The conflict in an infeasible spec, if this kind has a way of its own to find it; None leaves it to the
        program's."""
        return None

    def explain(self, conflict: Conflict) -> Explanation:
        """A conflict in the words of the spec."""
        return Explanation(f"{' and '.join(conflict.fields) or 'the spec'} cannot be met together")


def formulation(spec: Spec[P], control: Control | None = None) -> Formulation[Any, P]:
    """The formulation of a spec, by its kind, under a deadline. Raises `UnsupportedError` where there is none."""
    package = f"{__package__}.formulations"
    try:
        module = importlib.import_module(f".{spec.kind}", package)
    except ModuleNotFoundError as error:
        if error.name != f"{package}.{spec.kind}":
            raise
        raise UnsupportedError(f"there is no exact program for the kind {spec.kind!r}") from None
    form = module.FORMULATION(spec)
    form.control = control or Control()
    return form
