"""Solves that are submitted now and answered later: where one stands, and what may be done with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, TypeVar

from ..solvers.control import Progress
from ..specs.errors import EquipoiseError
from ..specs.spec import Plan

P = TypeVar("P", bound=Plan, covariant=True)

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
"""Where a job stands. Done: with a plan, or the proof that there is none. Cancelled: before there was a plan."""


@dataclass(frozen=True)
class JobStatus:
    """A job at one moment.

    name: the spec's own. started: when it was last started. attempts: how often it was; a job whose worker died is
    tried once more. failure: why it failed. Times are in UTC.
    """

    id: str
    state: JobState
    kind: str
    name: str | None = None
    created: datetime | None = None
    started: datetime | None = None
    finished: datetime | None = None
    attempts: int = 0
    progress: Progress | None = None
    cancel_requested: bool = False
    failure: EquipoiseError | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ("done", "failed", "cancelled")


class Job(ABC, Generic[P]):
    """A solve that was submitted.

    status: where it stood when this client last heard of it: `refresh`, `watch`, `cancel` and `result` bring news.
    """

    status: JobStatus

    @property
    def id(self) -> str:
        """What finds it again: `client.job(id)`."""
        return self.status.id

    @property
    def state(self) -> JobState:
        """Where it stood when this client last heard of it."""
        return self.status.state

    @abstractmethod
    def refresh(self, *, timeout: float | None = None) -> JobStatus:
        """Ask where it stands now."""

    @abstractmethod
    def watch(self, *, interval: float | None = None, timeout: float | None = None) -> Iterator[JobStatus]:
        """Where it stands now, and again whenever that changes: incumbents and bounds as they come. Ends with the job.

        interval: the shortest time between two reports of progress, in seconds; a quarter of one if absent.
        timeout: seconds after which `SolveTimeout` is raised; without one, as long as it takes.
        """

    @abstractmethod
    def result(self, timeout: float | None = None) -> P:
        """The plan, once there is one. Raises what `solve` would have raised.

        timeout: seconds to wait, the client's if absent; then `SolveTimeout` is raised, and the job goes on.
        """

    @abstractmethod
    def cancel(self, *, timeout: float | None = None) -> JobStatus:
        """Stop it. One that runs ends with the best plan so far if it has one; one that has ended stays as it is."""

    @abstractmethod
    def delete(self, *, timeout: float | None = None) -> None:
        """Forget it and its result, once it has ended. No error where it is gone already."""

    def __repr__(self) -> str:
        return f"<job {self.id}: {self.status.kind}, {self.state}>"


class AsyncJob(ABC, Generic[P]):
    """As `Job`, awaited."""

    status: JobStatus

    @property
    def id(self) -> str:
        """What finds it again: `await client.job(id)`."""
        return self.status.id

    @property
    def state(self) -> JobState:
        """Where it stood when this client last heard of it."""
        return self.status.state

    @abstractmethod
    async def refresh(self, *, timeout: float | None = None) -> JobStatus:
        """Ask where it stands now."""

    @abstractmethod
    def watch(self, *, interval: float | None = None, timeout: float | None = None) -> AsyncIterator[JobStatus]:
        """Where it stands now, and again whenever that changes; as `Job.watch`."""

    @abstractmethod
    async def result(self, timeout: float | None = None) -> P:
        """The plan, once there is one; as `Job.result`."""

    @abstractmethod
    async def cancel(self, *, timeout: float | None = None) -> JobStatus:
        """Stop it; as `Job.cancel`."""

    @abstractmethod
    async def delete(self, *, timeout: float | None = None) -> None:
        """Forget it and its result, once it has ended; as `Job.delete`."""

    def __repr__(self) -> str:
        return f"<job {self.id}: {self.status.kind}, {self.state}>"
