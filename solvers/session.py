"""A task that is solved again and again while it changes a little: the embedded way to use Equipoise."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from ..specs.errors import EquipoiseError
from ..specs.spec import Plan, Spec
from .control import Method, Options, Watcher
from .solve import Solver

P = TypeVar("P", bound=Plan)


class Session(Generic[P]):
    """A spec kept warm: each `step` changes some of its fields and solves again.

    What is kept between steps: the algorithm's prices and workspaces, and the backend's model, of which one of the
    same structure is changed in place and starts from the last basis or plan. Opening a session makes the machine
    code that it will need. A session belongs to one thread at a time.

    watch, within: for every step, as in `Solver.solve`.
    """

    def __init__(
        self, spec: Spec[P], options: Options, watch: Watcher | None = None, within: float | None = None
    ) -> None:
        self.spec = spec
        self._watch, self._within = watch, within
        self._solver: Solver | None = Solver(options)
        self._solver.warm_up(spec)

    def step(self, **changes: Any) -> P:
        """Replace some fields of the spec, whole tables included, and solve.

        Raises as `solve` does, and `SpecError` for a bad change; the spec then stays as it was.
        """
        if self._solver is None:
            raise EquipoiseError("the session is closed")
        spec = self.spec.replace(**changes) if changes else self.spec
        plan = self._solver.solve(spec, self._watch, self._within)
        self.spec = spec
        return plan

    def close(self) -> None:
        """Let the warm state go. Further steps raise."""
        self._solver = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def session(
    spec: Spec[P],
    method: Method = "auto",
    backend: str | None = None,
    time_limit: float | None = None,
    gap: float | None = None,
    seed: int = 0,
    threads: int = 1,
) -> Session[P]:
    """A warm session on a spec; options as in `solve`, the time limit for each step."""
    return Session(spec, Options(method, backend, time_limit, gap, seed, threads))
