"""The client without a service: everything happens in this process, jobs in a thread of their own.

It is for programs that are written against a service and run without one: on a laptop, in a test. Its jobs end with
the process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from importlib.resources import files
from typing import Any, Self, TypeVar

from ..solvers.check import CheckResult, check
from ..solvers.control import Options
from ..solvers.session import Session, kept
from ..solvers.solve import Solver
from ..specs.errors import EquipoiseError, ServiceError
from ..specs.schema import json_schema
from ..specs.spec import Plan, Spec, kinds
from .asked import limit, name, seconds
from .client import AsyncClient, AsyncSession, Client, ClientSession, Kind
from .jobs import AsyncJob, JobState
from .local_job import AsyncLocalJob, LocalJob
from .local_jobs import LocalJobs

P = TypeVar("P", bound=Plan)
R = TypeVar("R")


class LocalClient(Client):
    """Solves in the calling thread, and jobs in another, one after the other."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._jobs = LocalJobs()
        self._closed = False

    def check(self, spec: Spec[Any], plan: Plan, *, timeout: float | None = None) -> CheckResult:
        self.ensure_open(timeout)
        return check(spec, plan)

    def kinds(self, *, timeout: float | None = None) -> dict[str, str]:
        self.ensure_open(timeout)
        return {name: (spec.__doc__ or "").partition("\n")[0] for name, spec in kinds().items()}

    def describe(self, kind: str, *, timeout: float | None = None) -> Kind:
        self.ensure_open(timeout)
        schema = json_schema(name("kind", kind))  # raises for a name that is none
        example = files("equipoise.specs") / "examples" / "minimal" / f"{kind}.yaml"
        return Kind(kind, schema, example.read_text("utf-8"))

    def job(self, job_id: str, *, timeout: float | None = None) -> LocalJob[Plan]:
        self.ensure_open(timeout)
        return LocalJob(self._jobs.find(job_id), self._jobs, self.timeout)

    def jobs(
        self, *, states: Iterable[JobState] = (), kind: str | None = None, timeout: float | None = None
    ) -> Iterator[LocalJob[Plan]]:
        self.ensure_open(timeout)
        for record in self._jobs.listed(tuple(states), kind):
            yield LocalJob(record, self._jobs, self.timeout)

    def close(self) -> None:
        self._closed = True
        self._jobs.close()

    def _solve(self, spec: Spec[P], options: Options, timeout: float | None, stop: threading.Event | None = None) -> P:
        self.ensure_open()
        watch = None if stop is None else (lambda _: not stop.is_set())
        return Solver(options).solve(spec, watch, within=limit(timeout, options, self.timeout))

    def _session(self, spec: Spec[P], options: Options, timeout: float | None) -> ClientSession[P]:
        self.ensure_open()
        return LocalSession(Session(spec, options, within=limit(timeout, options, self.timeout)))

    def _submit(self, spec: Spec[P], options: Options, key: str | None, timeout: float | None) -> LocalJob[P]:
        self.ensure_open(timeout)
        return LocalJob(self._jobs.submit(spec, options, key), self._jobs, self.timeout)

    def ensure_open(self, timeout: float | None = None) -> None:
        """Raises `ServiceError` once the client is closed, and `UnsupportedError` for a timeout that is none."""
        if self._closed:
            raise ServiceError("the client is closed")
        if timeout is not None:
            seconds("timeout", timeout)


class LocalSession(ClientSession[P]):
    """A warm session of this process, which nothing can take away."""

    def __init__(self, session: Session[P]) -> None:
        self._session = session

    @property
    def spec(self) -> Spec[P]:
        return self._session.spec

    @property
    def restarts(self) -> int:
        return 0

    def step(self, **changes: Any) -> P:
        return self._session.step(**changes)

    def close(self) -> None:
        self._session.close()


class AsyncLocalClient(AsyncClient):
    """Solves in threads, so that the event loop goes on meanwhile."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._client = LocalClient(timeout)

    async def check(self, spec: Spec[Any], plan: Plan, *, timeout: float | None = None) -> CheckResult:
        return await asyncio.to_thread(self._client.check, spec, plan, timeout=timeout)

    async def kinds(self, *, timeout: float | None = None) -> dict[str, str]:
        return self._client.kinds(timeout=timeout)

    async def describe(self, kind: str, *, timeout: float | None = None) -> Kind:
        return self._client.describe(kind, timeout=timeout)

    async def job(self, job_id: str, *, timeout: float | None = None) -> AsyncJob[Plan]:
        return AsyncLocalJob(self._client.job(job_id, timeout=timeout))

    async def jobs(
        self, *, states: Iterable[JobState] = (), kind: str | None = None, timeout: float | None = None
    ) -> AsyncIterator[AsyncJob[Plan]]:
        for job in self._client.jobs(states=states, kind=kind, timeout=timeout):
            yield AsyncLocalJob(job)

    async def close(self) -> None:
        self._client.close()

    async def _solve(self, spec: Spec[P], options: Options, timeout: float | None) -> P:
        return await _stoppable(lambda stop: self._client._solve(spec, options, timeout, stop))

    def _session(self, spec: Spec[P], options: Options, timeout: float | None) -> AsyncSession[P]:
        self._client.ensure_open()
        return AsyncLocalSession(spec, options, limit(timeout, options, self.timeout))

    async def _submit(self, spec: Spec[P], options: Options, key: str | None, timeout: float | None) -> AsyncJob[P]:
        return AsyncLocalJob(self._client._submit(spec, options, key, timeout))


class AsyncLocalSession(AsyncSession[P]):
    """A warm session of this process, whose steps run in a thread."""

    def __init__(self, spec: Spec[P], options: Options, within: float) -> None:
        self.spec = kept(spec)
        self._options, self._within = options, within
        self._session: Session[P] | None = None
        self._closed = False
        self._stop = threading.Event()
        self._mine = threading.Lock()

    async def __aenter__(self) -> Self:
        await _stoppable(self._opened)
        return self

    async def step(self, **changes: Any) -> P:
        return await _stoppable(lambda stop: self._step(changes, stop))

    async def close(self) -> None:
        self._closed = True

    def _opened(self, stop: threading.Event) -> Session[P]:
        self._stop = stop
        if self._session is None:
            self._session = Session(self.spec, self._options, lambda _: not self._stop.is_set(), self._within)
        return self._session

    def _step(self, changes: dict[str, Any], stop: threading.Event) -> P:
        with self._mine:  # by the thread, since one whose caller was cancelled may still be at it
            if self._closed:
                raise EquipoiseError("the session is closed")
            session = self._opened(stop)
            session.spec = self.spec
            plan = session.step(**changes)
            if not stop.is_set():
                self.spec = session.spec
            return plan


async def _stoppable(work: Callable[[threading.Event], R]) -> R:
    """What some work in a thread gives. Cancelling sets the event that it gets."""
    stop = threading.Event()
    try:
        return await asyncio.to_thread(work, stop)
    except asyncio.CancelledError:
        stop.set()
        raise
