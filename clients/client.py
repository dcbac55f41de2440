"""What a client can do, wherever its solves run: in this process or at a service, blocking or with asyncio.

The two classes here say what may be asked and with which options. Those that derive from them carry it out:
`local.py` in this process, `remote/` over gRPC.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from ..solvers.check import CheckResult
from ..solvers.control import Method, Options
from ..specs.spec import Plan, Spec
from .asked import task
from .jobs import AsyncJob, Job, JobState

P = TypeVar("P", bound=Plan)


@dataclass(frozen=True)
class Kind:
    """What the spec of one kind may say: its JSON Schema, and a commented example in YAML that is ready to solve."""

    name: str
    schema: dict[str, Any]
    example: str


class ClientSession(ABC, Generic[P]):
    """A task that is solved again and again while it changes a little. To be used by one thread at a time.

    spec: the task as it stands, with every change that was answered with a plan.
    restarts: how often the warm state was lost and built up again, of which the next plan's certificate has a note.
    """

    spec: Spec[P]
    restarts: int = 0

    @abstractmethod
    def step(self, **changes: Any) -> P:
        """Replace some fields of the spec, whole tables included, and solve.

        Raises as `solve` does, and `SpecError` for a bad change; the spec then stays as it was.
        """

    @abstractmethod
    def close(self) -> None:
        """Let the warm state go. Further steps raise."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Client(ABC):
    """A way to have specs solved: `connect` makes one. For any number of threads; sessions belong to one each.

    Every call ends within `timeout` seconds, its own or else the client's, or raises `SolveTimeout`. Where only a time
    limit is given, that comes first. Calls raise what `equipoise.solve` raises in this process, and `ServiceError`
    where the service, or the way to it, fails.
    """

    timeout: float

    def solve(
        self,
        spec: Spec[P],
        method: Method = "auto",
        backend: str | None = None,
        time_limit: float | None = None,
        gap: float | None = None,
        seed: int = 0,
        threads: int = 1,
        *,
        timeout: float | None = None,
    ) -> P:
        """The best plan for a spec, with its certificate. Options as in `equipoise.solve`.

        timeout: seconds for the whole call; the best plan by then is the answer.
        """
        options = Options(method, backend, time_limit, gap, seed, threads)
        return self._solve(task(spec, "solve"), options, timeout)

    def session(
        self,
        spec: Spec[P],
        method: Method = "auto",
        backend: str | None = None,
        time_limit: float | None = None,
        gap: float | None = None,
        seed: int = 0,
        threads: int = 1,
        *,
        timeout: float | None = None,
    ) -> ClientSession[P]:
        """A warm session on a spec; options as in `solve`, the time limit and the timeout for each step."""
        options = Options(method, backend, time_limit, gap, seed, threads)
        return self._session(task(spec, "session"), options, timeout)

    def submit(
        self,
        spec: Spec[P],
        method: Method = "auto",
        backend: str | None = None,
        time_limit: float | None = None,
        gap: float | None = None,
        seed: int = 0,
        threads: int = 1,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> Job[P]:
        """Put a spec into the queue. At a service, the job outlives this client, and `job(id)` finds it again.

        idempotency_key: at most 128 characters of the caller's own; submitting again under the same key gives the
            same job. A random one is made where there is none, so that a repeated attempt makes no second job.
        timeout: seconds for putting it there, not for the solve.
        """
        options = Options(method, backend, time_limit, gap, seed, threads)
        return self._submit(task(spec, "submit"), options, idempotency_key, timeout)

    @abstractmethod
    def check(self, spec: Spec[Any], plan: Plan, *, timeout: float | None = None) -> CheckResult:
        """What is true of a plan, recomputed from scratch, whatever its certificate says."""

    @abstractmethod
    def kinds(self, *, timeout: float | None = None) -> dict[str, str]:
        """The kinds of task that are solved there, by name, with a line on what each decides."""

    @abstractmethod
    def describe(self, kind: str, *, timeout: float | None = None) -> Kind:
        """What the spec of a kind may say. Raises `SpecError` where there is no such kind."""

    @abstractmethod
    def job(self, job_id: str, *, timeout: float | None = None) -> Job[Plan]:
        """A job that was submitted before, by this client or another. Raises `ServiceError` where there is none."""

    @abstractmethod
    def jobs(
        self, *, states: Iterable[JobState] = (), kind: str | None = None, timeout: float | None = None
    ) -> Iterator[Job[Plan]]:
        """The caller's jobs, the newest first: all, or those in some states or of one kind."""

    @abstractmethod
    def close(self) -> None:
        """Let everything go. Further calls raise `ServiceError`; jobs at a service go on."""

    @abstractmethod
    def _solve(self, spec: Spec[P], options: Options, timeout: float | None) -> P: ...

    @abstractmethod
    def _session(self, spec: Spec[P], options: Options, timeout: float | None) -> ClientSession[P]: ...

    @abstractmethod
    def _submit(self, spec: Spec[P], options: Options, key: str | None, timeout: float | None) -> Job[P]: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncSession(ABC, Generic[P]):
    """As `ClientSession`, awaited. It opens with its first step, or as its context is entered."""

    spec: Spec[P]
    restarts: int = 0

    @abstractmethod
    async def step(self, **changes: Any) -> P:
        """Replace some fields of the spec, whole tables included, and solve."""

    @abstractmethod
    async def close(self) -> None:
        """Let the warm state go. Further steps raise."""

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncClient(ABC):
    """As `Client`, awaited: `connect_async` makes one. It belongs to one event loop.

    Cancelling a call stops its solve.
    """

    timeout: float

    async def solve(
        self,
        spec: Spec[P],
        method: Method = "auto",
        backend: str | None = None,
        time_limit: float | None = None,
        gap: float | None = None,
        seed: int = 0,
        threads: int = 1,
        *,
        timeout: float | None = None,
    ) -> P:
        """The best plan for a spec, with its certificate; as `Client.solve`."""
        options = Options(method, backend, time_limit, gap, seed, threads)
        return await self._solve(task(spec, "solve"), options, timeout)

    def session(
        self,
        spec: Spec[P],
        method: Method = "auto",
        backend: str | None = None,
        time_limit: float | None = None,
        gap: float | None = None,
        seed: int = 0,
        threads: int = 1,
        *,
        timeout: float | None = None,
    ) -> AsyncSession[P]:
        """A warm session on a spec, for `async with`; as `Client.session`."""
        options = Options(method, backend, time_limit, gap, seed, threads)
        return self._session(task(spec, "session"), options, timeout)

    async def submit(
        self,
        spec: Spec[P],
        method: Method = "auto",
        backend: str | None = None,
        time_limit: float | None = None,
        gap: float | None = None,
        seed: int = 0,
        threads: int = 1,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> AsyncJob[P]:
        """Put a spec into the queue; as `Client.submit`."""
        options = Options(method, backend, time_limit, gap, seed, threads)
        return await self._submit(task(spec, "submit"), options, idempotency_key, timeout)

    @abstractmethod
    async def check(self, spec: Spec[Any], plan: Plan, *, timeout: float | None = None) -> CheckResult:
        """What is true of a plan, recomputed from scratch, whatever its certificate says."""

    @abstractmethod
    async def kinds(self, *, timeout: float | None = None) -> dict[str, str]:
        """The kinds of task that are solved there, by name, with a line on what each decides."""

    @abstractmethod
    async def describe(self, kind: str, *, timeout: float | None = None) -> Kind:
        """What the spec of a kind may say. Raises `SpecError` where there is no such kind."""

    @abstractmethod
    async def job(self, job_id: str, *, timeout: float | None = None) -> AsyncJob[Plan]:
        """A job that was submitted before, by this client or another. Raises `ServiceError` where there is none."""

    @abstractmethod
    def jobs(
        self, *, states: Iterable[JobState] = (), kind: str | None = None, timeout: float | None = None
    ) -> AsyncIterator[AsyncJob[Plan]]:
        """The caller's jobs, the newest first: all, or those in some states or of one kind."""

    @abstractmethod
    async def close(self) -> None:
        """Let everything go. Further calls raise `ServiceError`; jobs at a service go on."""

    @abstractmethod
    async def _solve(self, spec: Spec[P], options: Options, timeout: float | None) -> P: ...

    @abstractmethod
    def _session(self, spec: Spec[P], options: Options, timeout: float | None) -> AsyncSession[P]: ...

    @abstractmethod
    async def _submit(self, spec: Spec[P], options: Options, key: str | None, timeout: float | None) -> AsyncJob[P]: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
