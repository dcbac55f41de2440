"""A task that is solved again and again while it changes a little: the embedded way to use Equipoise."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np
from pydantic import BaseModel

from ..specs.errors import EquipoiseError
from ..specs.spec import Plan, Spec
from .control import Method, Options, Watcher
from .solve import Solver

P = TypeVar("P", bound=Plan)


class Session(Generic[P]):
    """A spec kept warm: each `step` changes some of its fields and solves again.

    What is kept between steps: the algorithm's prices and workspaces, and the backend's model, of which one of the
    same structure is changed in place and starts from the last basis or plan. Opening a session makes the machine
    code that it will need. Arrays are copied as they come in, so that their owner may write to them again. A session
    belongs to one thread at a time.

    watch, within: for every step, as in `Solver.solve`.
    """

    def __init__(
        self, spec: Spec[P], options: Options, watch: Watcher | None = None, within: float | None = None
    ) -> None:
        self.spec = kept(spec)
        self._watch, self._within = watch, within
        self._solver: Solver | None = Solver(options)
        self._solver.warm_up(self.spec)

    def step(self, **changes: Any) -> P:
        """Replace some fields of the spec, whole tables included, and solve.

        Raises as `solve` does, and `SpecError` for a bad change; the spec then stays as it was.
        """
        if self._solver is None:
            raise EquipoiseError("the session is closed")
        spec = kept(self.spec.replace(**changes), changes) if changes else self.spec
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


def kept(spec: Spec[P], fields: Iterable[str] | None = None) -> Spec[P]:
    """The same spec with arrays that nobody else can write to, in the fields of some names or else in all."""
    named = {field.alias or name: name for name, field in type(spec).model_fields.items()}
    return _own(spec, named.values() if fields is None else [named[field] for field in fields])


def _own(value: Any, names: Iterable[str] = ()) -> Any:
    if isinstance(value, BaseModel):
        found = {name: getattr(value, name) for name in names or type(value).model_fields}
        return value.model_copy(update={name: _own(entry) for name, entry in found.items()})
    if isinstance(value, np.ndarray) and value.base is not None:  # a view, and maybe of the caller's own
        value = value.copy()
        value.flags.writeable = False
    return value
