"""What an algorithm of our own is: a direct way from a spec to a plan and its evidence, without a program.

A module `algorithms/KIND.py` names its class `ALGORITHM`. Like a formulation, it never uses the spec's own `rules`,
`objective` or `bound`: those judge it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from ..specs.certificate import Stopped
from ..specs.spec import Plan, Spec
from .control import Control
from .formulation import Evidence

S = TypeVar("S", bound=Spec[Any])
P = TypeVar("P", bound=Plan)


@dataclass(frozen=True)
class Found(Generic[P]):
    """What an algorithm found: a plan without certificate, what proves it, what ran, and what ended it.

    settled: whether no plan does better in what counts before the objective (`Spec.rank`). Where that is not proved,
    the plan is not called optimal whatever its gap, and the program is asked.
    """

    plan: P
    evidence: Evidence
    method: str
    stopped: Stopped = "solved"
    settled: bool = True


class Algorithm(ABC, Generic[S, P]):
    """Answers the specs of one kind, one after the other, and keeps what helps with the next (prices, workspaces).

    An instance belongs to one thread at a time.
    """

    name: ClassVar[str]
    """The method, as certificates name it."""

    def refuses(self, spec: S) -> str | None:
        """Why this algorithm cannot answer a spec; None if it can."""
        return None

    @classmethod
    def quick(cls, spec: S) -> bool:
        """Whether `solve` is sure to take well under a millisecond, by the size of the spec alone: by measurements of
        random specs up to that size (`benchmarks/quick_solves.py`)."""
        return False

    @classmethod
    def numbers(cls, spec: S) -> int:
        """About how many numbers `solve` holds in tables that the spec itself does not have."""
        return 0

    def gap(self, spec: S) -> float:
        """The relative gap that `method="auto"` asks for."""
        return 0.0

    @abstractmethod
    def solve(self, spec: S, gap: float, seed: int, threads: int, control: Control) -> Found[P]:
        """A plan that keeps every rule, at the gap asked for or as near as the method comes.

        Raises `ProgramInfeasible` where no plan can keep the rules.
        """

    def search_seconds(self, spec: S) -> float:
        """About how long the exact program would take, by measured costs: what `auto` weighs a time limit against
        where the algorithm has left a gap."""
        return 0.0
