"""Jobs of this process: a queue, and a thread that takes one after the other."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar, get_args

from ..solvers.control import Options, Progress
from ..solvers.solve import Solver
from ..specs.errors import EquipoiseError, InfeasibleError, ServiceError, SolveTimeout, UnsupportedError, shown
from ..specs.spec import Plan, Spec
from .asked import LONGEST, name, seconds
from .jobs import AsyncJob, Job, JobState, JobStatus

P = TypeVar("P", bound=Plan)

MOST = 1000
"""Jobs that may wait at one time; and jobs that have ended and can still be found, the latest of them."""
INTERVAL = 0.25
"""Seconds between two reports of progress, unless told otherwise."""


class Record(Generic[P]):
    """A job: what was asked, where it stands, and what came of it. All under the lock of its queue."""

    def __init__(self, spec: Spec[P], options: Options, key: str | None) -> None:
        self.spec, self.options, self.key = spec, options, key
        now = datetime.now(UTC)
        self.status = JobStatus(secrets.token_hex(16), "queued", spec.kind, spec.name, created=now)
        self.outcome: P | InfeasibleError | None = None

    def answer(self) -> P:
        """The plan of a job that has ended. Raises what became of it otherwise."""
        if isinstance(self.outcome, InfeasibleError):
            raise self.outcome
        if self.outcome is None:
            cancelled = SolveTimeout(f"the job {self.status.id} was cancelled before there was a plan")
            raise self.status.failure or cancelled
        return self.outcome


class LocalJobs:
    """The jobs of one client, the oldest first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # its lock may be taken again by who holds it
        self._records: dict[str, Record[Any]] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, spec: Spec[P], options: Options, key: str | None) -> Record[P]:
        """A new job; or the one that was submitted under the same key. Raises `ServiceError` where too many wait."""
        Solver(options)  # refuses what no spec could be solved with
        record = Record(spec, options, None if key is None else name("idempotency_key", key))
        with self._changed:
            for other in self._records.values() if key is not None else ():
                if other.key == key:
                    if (other.spec, other.options) != (spec, options):
                        raise ServiceError(f"idempotency_key: {shown(key)} was used for another request")
                    return other
            if sum(record.status.state == "queued" for record in self._records.values()) >= MOST:
                raise ServiceError(f"{MOST} jobs wait already: submit again when some have ended")
            self._records[record.status.id] = record
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="equipoise-jobs")
                self._thread.start()
        return record

    def find(self, job_id: str) -> Record[Any]:
        """The job of an id. Raises `ServiceError` where there is none."""
        with self._changed:
            try:
                return self._records[job_id]
            except (KeyError, TypeError):
                raise ServiceError(f"there is no job {shown(job_id)}") from None

    def listed(self, states: Sequence[JobState], kind: str | None) -> list[Record[Any]]:
        """The jobs in some states, or all; the newest first."""
        for state in states:
            if state not in get_args(JobState):
                raise UnsupportedError(f"states: must be some of {', '.join(get_args(JobState))}, got {shown(state)}")
        with self._changed:
            newest = reversed(list(self._records.values()))
        return [
            record
            for record in newest
            if (not states or record.status.state in states) and kind in (None, record.status.kind)
        ]

    def cancel(self, record: Record[Any]) -> None:
        """Stop a job, unless it has ended."""
        with self._changed:
            if record.status.state == "queued":
                self._end(record, "cancelled", cancel_requested=True)
            elif record.status.state == "running":
                self._tell(record, cancel_requested=True)

    def delete(self, record: Record[Any]) -> None:
        """Forget a job. Raises `ServiceError` where it has not ended."""
        with self._changed:
            if not record.status.ended:
                raise ServiceError(f"the job {record.status.id} is {record.status.state}: cancel it first")
            self._records.pop(record.status.id, None)

    def news(self, record: Record[Any], seen: JobStatus | None, quiet_until: float, wait: float) -> JobStatus | None:
        """Where a job stands, once that differs from what was seen; None where it does not for so many seconds.

        quiet_until: before then, on the monotonic clock, mere progress is no news.
        """
        due = time.monotonic() + wait
        with self._changed:
            while True:
                now, status = time.monotonic(), record.status
                moved = seen is None or replace(status, progress=None) != replace(seen, progress=None)
                if moved or (status != seen and now >= quiet_until):
                    return status
                if now >= due:
                    return None
                until = due if status == seen else min(due, quiet_until)
                self._changed.wait(max(until - now, 0.0))

    def close(self) -> None:
        """Stop all jobs, and take no more."""
        with self._changed:
            self._closed = True
            for record in list(self._records.values()):
                self.cancel(record)
            self._changed.notify_all()

    def _work(self) -> None:
        while (record := self._next()) is not None:
            self._solve(record)

    def _next(self) -> Record[Any] | None:
        with self._changed:
            while not self._closed:
                for record in self._records.values():
                    if record.status.state == "queued":
                        self._tell(record, state="running", started=datetime.now(UTC), attempts=1)
                        return record
                self._changed.wait()
        return None

    def _solve(self, record: Record[Any]) -> None:
        def watch(progress: Progress) -> bool:
            with self._changed:
                self._tell(record, progress=progress)
                return not record.status.cancel_requested

        try:
            outcome, failure = Solver(record.options).solve(record.spec, watch), None
        except InfeasibleError as error:
            outcome, failure = error, None
        except EquipoiseError as error:
            outcome, failure = None, error
        except Exception as error:  # a defect must cost one job, not all that wait
            outcome, failure = None, EquipoiseError(f"the solve failed: {error!r}")
        with self._changed:
            record.outcome = outcome
            if outcome is not None:
                self._end(record, "done")
            elif record.status.cancel_requested and isinstance(failure, SolveTimeout):
                self._end(record, "cancelled")
            else:
                self._end(record, "failed", failure=failure)

    def _tell(self, record: Record[Any], **news: Any) -> None:
        record.status = replace(record.status, **news)
        self._changed.notify_all()

    def _end(self, record: Record[Any], state: JobState, **news: Any) -> None:
        self._tell(record, state=state, finished=datetime.now(UTC), **news)
        ended = [job_id for job_id, record in self._records.items() if record.status.ended]
        for job_id in ended[: max(len(ended) - MOST, 0)]:
            del self._records[job_id]


class _News:
    """What a watcher of a job has seen, and how long he waits."""

    def __init__(self, jobs: LocalJobs, record: Record[Any], interval: float | None, timeout: float | None) -> None:
        self._jobs, self._record = jobs, record
        self._interval = INTERVAL if interval is None else seconds("interval", interval)
        self._timeout = LONGEST if timeout is None else seconds("timeout", timeout)
        self._due = time.monotonic() + self._timeout
        self._seen: JobStatus | None = None
        self._quiet_until = 0.0

    @property
    def ended(self) -> bool:
        return self._seen is not None and self._seen.ended

    def next(self, most: float = LONGEST) -> JobStatus | None:
        """The news; None where there is none for `most` seconds. Raises `SolveTimeout`."""
        left = self._due - time.monotonic()
        found = self._jobs.news(self._record, self._seen, self._quiet_until, max(min(left, most), 0.0))
        if found is None:
            if left <= most:
                job = self._record.status.id
                raise SolveTimeout(f"the job {job} has not ended within {self._timeout:g} s; it goes on")
            return None
        self._seen, self._quiet_until = found, time.monotonic() + self._interval
        return found


class LocalJob(Job[P]):
    """A job of this process."""

    def __init__(self, record: Record[P], jobs: LocalJobs, timeout: float) -> None:
        self._record, self._jobs, self.timeout = record, jobs, timeout
        self.status = record.status

    def news(self, interval: float | None, timeout: float | None) -> _News:
        """What a watcher is to see."""
        return _News(self._jobs, self._record, interval, timeout)

    def refresh(self, *, timeout: float | None = None) -> JobStatus:
        self.status = self._record.status
        return self.status

    def watch(self, *, interval: float | None = None, timeout: float | None = None) -> Iterator[JobStatus]:
        return self._watch(self.news(interval, timeout))

    def result(self, timeout: float | None = None) -> P:
        for _ in self.watch(timeout=self.timeout if timeout is None else timeout):
            pass
        return self._record.answer()

    def cancel(self, *, timeout: float | None = None) -> JobStatus:
        self._jobs.cancel(self._record)
        return self.refresh()

    def delete(self, *, timeout: float | None = None) -> None:
        self._jobs.delete(self._record)

    def _watch(self, news: _News) -> Iterator[JobStatus]:
        while not news.ended:
            if (status := news.next()) is not None:
                self.status = status
                yield status


SLICE = 0.1
"""Seconds for which a thread waits on behalf of an event loop that may have lost interest."""


class AsyncLocalJob(AsyncJob[P]):
    """A job of this process, awaited."""

    def __init__(self, job: LocalJob[P]) -> None:
        self._job = job

    @property
    def status(self) -> JobStatus:
        return self._job.status

    async def refresh(self, *, timeout: float | None = None) -> JobStatus:
        return self._job.refresh()

    def watch(self, *, interval: float | None = None, timeout: float | None = None) -> AsyncIterator[JobStatus]:
        return self._watch(self._job.news(interval, timeout))

    async def result(self, timeout: float | None = None) -> P:
        async for _ in self.watch(timeout=self._job.timeout if timeout is None else timeout):
            pass
        return self._job.result()

    async def cancel(self, *, timeout: float | None = None) -> JobStatus:
        return self._job.cancel()

    async def delete(self, *, timeout: float | None = None) -> None:
        self._job.delete()

    async def _watch(self, news: _News) -> AsyncIterator[JobStatus]:
        while not news.ended:
            if (status := await asyncio.to_thread(news.next, SLICE)) is not None:
                self._job.status = status
                yield status
