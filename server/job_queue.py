"""A store's queue of jobs as one server offers it: all that their owners ask, and the runner beside it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import ParamSpec, TypeVar

from google.rpc.code_pb2 import Code

from .job_runner import Observer, Runner, Solves
from .protocol import equipoise_pb2 as pb
from .protocol.failures import Refused
from .store import Bounds, NewJob, Store
from .store_calls import StoreCalls
from .watching import Watching

P = ParamSpec("P")
T = TypeVar("T")

CALLERS = 3
"""Threads that speak to the store for callers."""


class JobQueue:
    """One server's part in a store's queue. Belongs to the event loop."""

    def __init__(
        self,
        store: Store,
        workers: Solves,
        *,
        slots: int,
        lease: float = 15.0,
        retention: float = 7 * 86400.0,
        most_queued: int = 10_000,
        most_queued_per_tenant: int = 1000,
        telemetry: Observer | None = None,
    ) -> None:
        """slots: jobs that run here at one time; none, to leave all to other servers.

        lease: seconds of silence after which this server's jobs are taken over.
        retention: seconds that an ended job is kept, counted while servers run.
        """
        self._store = store
        self._bounds = Bounds(most_queued, most_queued_per_tenant)
        self._watching = Watching(self._look)
        self._runner = Runner(
            store.database,
            workers,
            self._watching,
            slots=slots,
            lease=lease,
            retention=retention,
            telemetry=telemetry,
        )
        self._calls = StoreCalls(CALLERS, "equipoise-store")
        self._draining = self._closed = False

    async def start(self) -> None:
        """Begin to run jobs. Raises `Refused` where the store cannot be reached."""
        await self._runner.start()

    async def drain(self, grace: float) -> None:
        """Take no more jobs on, let those that run finish within the grace in seconds, and put the rest back.

        Who watches is sent away at once. The store stays open.
        """
        if self._draining:
            return
        self._draining = True
        await self._watching.close(_stopping())
        await self._runner.drain(grace)
        self._closed = True
        await self._calls.close()

    async def submit(self, new: NewJob, most: int | None = None) -> pb.Job:
        """The job for a request; see `Store.submit`. most: jobs of this tenant that may wait, if there is a quota."""
        if self._draining:
            raise _stopping()
        bounds = self._bounds
        if most is not None:
            bounds = replace(bounds, per_tenant=min(bounds.per_tenant, most))
        job = await self._calls.write(len(new.request), self._store.submit, new, bounds)
        self._runner.wake()
        return job

    async def get(self, tenant: str, id: str) -> pb.Job:
        """A job as it is now. Raises `Refused`, NOT_FOUND."""
        return self._live(await self._asked(self._store.find, tenant, id))

    async def result(self, tenant: str, id: str) -> tuple[pb.Job, bytes | None]:
        """A job and, where it is done, its serialised SolveResponse. Raises `Refused`, NOT_FOUND."""
        job, result = await self._asked(self._store.result, tenant, id)
        return self._live(job), result

    async def page(
        self, tenant: str, size: int, before: str = "", states: Sequence[int] = (), kind: str = ""
    ) -> list[pb.Job]:
        """A page of a tenant's jobs; see `Store.page`."""
        return [self._live(job) for job in await self._asked(self._store.page, tenant, size, before, states, kind)]

    async def watch(self, tenant: str, id: str, interval: float) -> AsyncGenerator[pb.Job, None]:
        """A job, and again whenever it changes, until it has ended; see `Watching.watch`."""
        job = await self.get(tenant, id)
        async with aclosing(self._watching.watch(job, interval)) as changes:
            async for latest in changes:
                yield latest

    async def cancel(self, tenant: str, id: str) -> pb.Job:
        """Asks for the end of a job. One that runs ends with the best plan so far. Raises `Refused`, NOT_FOUND."""
        job = await self._asked(self._store.cancel, tenant, id)
        for running in self._runner.running.values():
            if running.claim.id == id and job.cancel_requested:
                running.stop.set()
        self._watching.poke()
        return self._live(job)

    async def delete(self, tenant: str, id: str) -> None:
        """Forgets a job that has ended; see `Store.delete`."""
        await self._asked(self._store.delete, tenant, id)
        self._watching.poke()

    async def _look(self, ids: Sequence[str]) -> list[pb.Job]:
        return [self._live(job) for job in await self._runner.calls.ask(self._store.look, ids)]

    async def _asked(self, function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        if self._closed:
            raise _stopping()
        return await self._calls.ask(function, *args, **options)

    def _live(self, job: pb.Job) -> pb.Job:
        """A job with the progress that is not written down yet."""
        if job.state == pb.JOB_STATE_RUNNING:
            for running in self._runner.running.values():
                if running.claim.id == job.id and running.progress is not None:
                    job.progress.CopyFrom(running.progress)
        return job


def _stopping() -> Refused:
    return Refused(Code.UNAVAILABLE, "DRAINING", "the server is about to stop: try again, there or at another", 1.0)
