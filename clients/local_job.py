"""One job of this process as its owner holds it, blocking or awaited: what is watched, and until when."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from ..specs.errors import SolveTimeout
from ..specs.spec import Plan
from .asked import LONGEST, seconds
from .jobs import AsyncJob, Job, JobStatus
from .local_jobs import LocalJobs, Record

P = TypeVar("P", bound=Plan)

INTERVAL = 0.25
"""Seconds between two reports of progress, unless told otherwise."""


class _News:
    """What a watcher of a job has seen, and how long he waits."""

    def __init__(self, record: Record[Any], interval: float | None, timeout: float | None) -> None:
        self._record = record
        self._interval = INTERVAL if interval is None else seconds("interval", interval)
        self._timeout = LONGEST if timeout is None else seconds("timeout", timeout)
        self._due = time.monotonic() + self._timeout
        self._seen: JobStatus | None = None
        self._quiet_until = 0.0

    @property
    def ended(self) -> bool:
        """Whether the job has ended, and that was told."""
        return self._seen is not None and self._seen.ended

    def next(self) -> JobStatus | float:
        """Where the job stands, if that is news; else the seconds until it may be, unless the job changes before.

        Mere progress is no news before its time has come. Raises `SolveTimeout`.
        """
        now, status, seen = time.monotonic(), self._record.status, self._seen
        moved = seen is None or replace(status, progress=None) != replace(seen, progress=None)
        if moved or (status != seen and now >= self._quiet_until):
            self._seen, self._quiet_until = status, now + self._interval
            return status
        if now >= self._due:
            raise SolveTimeout(f"the job {status.id} has not ended within {self._timeout:g} s; it goes on")
        return (self._due if status == seen else min(self._due, self._quiet_until)) - now


class LocalJob(Job[P]):
    """A job of this process."""

    def __init__(self, record: Record[P], jobs: LocalJobs, timeout: float) -> None:
        self.record, self.jobs, self.timeout = record, jobs, timeout
        self.status = record.status

    def refresh(self, *, timeout: float | None = None) -> JobStatus:
        _checked(timeout)
        self.status = self.jobs.known(self.record).status
        return self.status

    def watch(self, *, interval: float | None = None, timeout: float | None = None) -> Iterator[JobStatus]:
        return self._watch(_News(self.record, interval, timeout))

    def result(self, timeout: float | None = None) -> P:
        for _ in self.watch(timeout=self.timeout if timeout is None else timeout):
            pass
        return self.record.answer()

    def cancel(self, *, timeout: float | None = None) -> JobStatus:
        _checked(timeout)
        self.jobs.cancel(self.record)
        return self.refresh()

    def delete(self, *, timeout: float | None = None) -> None:
        _checked(timeout)
        self.jobs.delete(self.record)

    def _watch(self, news: _News) -> Iterator[JobStatus]:
        changed = threading.Event()
        with self.jobs.watching(self.jobs.known(self.record), changed.set):
            while not news.ended:
                changed.clear()
                found = news.next()
                if isinstance(found, JobStatus):
                    self.status = found
                    yield found
                else:
                    changed.wait(found)


class AsyncLocalJob(AsyncJob[P]):
    """A job of this process, awaited."""

    def __init__(self, job: LocalJob[P]) -> None:
        self._job = job

    @property
    def status(self) -> JobStatus:
        return self._job.status

    async def refresh(self, *, timeout: float | None = None) -> JobStatus:
        return self._job.refresh(timeout=timeout)

    def watch(self, *, interval: float | None = None, timeout: float | None = None) -> AsyncIterator[JobStatus]:
        return self._watch(_News(self._job.record, interval, timeout))

    async def result(self, timeout: float | None = None) -> P:
        async for _ in self.watch(timeout=self._job.timeout if timeout is None else timeout):
            pass
        return self._job.record.answer()

    async def cancel(self, *, timeout: float | None = None) -> JobStatus:
        return self._job.cancel(timeout=timeout)

    async def delete(self, *, timeout: float | None = None) -> None:
        self._job.delete(timeout=timeout)

    async def _watch(self, news: _News) -> AsyncIterator[JobStatus]:
        job, changed = self._job, asyncio.Event()
        with job.jobs.watching(job.jobs.known(job.record), _from_any_thread(changed.set)):
            while not news.ended:
                changed.clear()
                found = news.next()
                if isinstance(found, JobStatus):
                    job.status = found
                    yield found
                else:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(changed.wait(), found)


def _from_any_thread(told: Callable[[], None]) -> Callable[[], None]:
    """A function that has another called by the event loop."""
    loop = asyncio.get_running_loop()

    def tell() -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits
            loop.call_soon_threadsafe(told)

    return tell


def _checked(timeout: float | None) -> None:
    """Raises `UnsupportedError` for a timeout that is none; here, nothing takes any time."""
    if timeout is not None:
        seconds("timeout", timeout)
