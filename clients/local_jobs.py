"""Jobs of this process: a queue, and a thread that takes one after the other."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar, get_args

from ..solvers.control import Options, Progress
from ..solvers.session import kept
from ..solvers.solve import Solver
from ..specs.errors import EquipoiseError, InfeasibleError, ServiceError, SolveTimeout, UnsupportedError, shown
from ..specs.spec import Plan, Spec, kind
from .asked import name
from .jobs import JobState, JobStatus

P = TypeVar("P", bound=Plan)

MOST = 1000
"""Jobs that may wait at one time; and jobs that have ended and can still be found, the latest of them."""
BUSY = 5.0
"""Seconds after which a caller may try again who met a full queue."""


class Record(Generic[P]):
    """A job: what was asked, where it stands, and what came of it. All under the lock of its queue."""

    def __init__(self, spec: Spec[P], options: Options, key: str | None) -> None:
        self.spec, self.options, self.key = kept(spec), options, key
        now = datetime.now(UTC)
        self.status = JobStatus(secrets.token_hex(16), "queued", spec.kind, spec.name, created=now)
        self.outcome: P | InfeasibleError | None = None
        self.deleted = False
        self.watchers = set[Callable[[], None]]()

    def answer(self) -> P:
        """The plan of a job that has ended. Raises what became of it otherwise."""
        if isinstance(self.outcome, InfeasibleError):
            raise self.outcome
        if self.outcome is None:
            cancelled = SolveTimeout(f"the job {self.status.id} was cancelled before there was a plan")
            raise self.status.failure or cancelled
        return self.outcome


class LocalJobs:
    """The jobs of one client, the oldest first. Refuses what the service refuses, in the same words."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._records: dict[str, Record[Any]] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, spec: Spec[P], options: Options, key: str | None) -> Record[P]:
        """A new job; or the one that was submitted under the same key. Raises `ServiceError` where too many wait."""
        record = Record(spec, options, None if key is None else name("idempotency_key", key))
        with self._lock:
            if self._closed:
                raise ServiceError("the client is closed")
            for other in self._records.values() if key is not None else ():
                if other.key == key:
                    if (other.spec, other.options) != (spec, options):
                        text = f"belongs to the job {other.status.id}, which was another request: use a new key"
                        raise _refused("ALREADY_EXISTS", "IDEMPOTENCY_KEY_USED", f"the idempotency key {text}")
                    return other
            waiting = sum(record.status.state == "queued" for record in self._records.values())
            if waiting >= MOST:
                text = f"the queue is full: {waiting:,} jobs of yours are waiting, at most {MOST:,} may"
                raise _refused("RESOURCE_EXHAUSTED", "QUEUE_FULL", text, BUSY)
            self._records[record.status.id] = record
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="equipoise-jobs")
                self._thread.start()
        return record

    def find(self, job_id: str) -> Record[Any]:
        """The job of an id. Raises `ServiceError` where there is none."""
        with self._lock:
            record = self._records.get(name("job_id", job_id))
        if record is None:
            raise _not_found(job_id)
        return record

    def listed(self, states: Sequence[JobState], of_kind: str | None) -> list[Record[Any]]:
        """The jobs in some states, or all; the newest first."""
        for state in states:
            if state not in get_args(JobState):
                raise UnsupportedError(f"states: must be some of {', '.join(get_args(JobState))}, got {shown(state)}")
        if of_kind is not None:
            kind(name("kind", of_kind))  # raises for one that there is not
        with self._lock:
            newest = reversed(list(self._records.values()))
        return [
            record
            for record in newest
            if (not states or record.status.state in states) and of_kind in (None, record.status.kind)
        ]

    def known(self, record: Record[P]) -> Record[P]:
        """A job of this queue. Raises `ServiceError` where it was deleted."""
        if record.deleted:
            raise _not_found(record.status.id)
        return record

    def cancel(self, record: Record[Any]) -> None:
        """Stop a job, unless it has ended."""
        with self._lock:
            self.known(record)
            if record.status.state == "queued":
                self._end(record, "cancelled", cancel_requested=True)
            elif record.status.state == "running":
                self._tell(record, cancel_requested=True)

    def delete(self, record: Record[Any]) -> None:
        """Forget a job. Raises `ServiceError` where it has not ended."""
        with self._lock:
            job = record.status.id
            if not record.status.ended:
                text = f"the job {job} has not ended: cancel it, then delete it"
                raise _refused("FAILED_PRECONDITION", "JOB_NOT_ENDED", text)
            self._records.pop(job, None)
            record.deleted = True

    @contextmanager
    def watching(self, record: Record[Any], told: Callable[[], None]) -> Iterator[None]:
        """Have a function called, by any thread, whenever a job changes."""
        with self._lock:
            record.watchers.add(told)
        try:
            yield
        finally:
            with self._lock:
                record.watchers.discard(told)

    def close(self) -> None:
        """Stop all jobs, and take no more."""
        with self._lock:
            self._closed = True
            for record in list(self._records.values()):
                if not record.status.ended:
                    self.cancel(record)

    def _work(self) -> None:
        while (record := self._next()) is not None:
            self._solve(record)

    def _next(self) -> Record[Any] | None:
        with self._lock:
            for record in self._records.values():
                if record.status.state == "queued":
                    self._tell(record, state="running", started=datetime.now(UTC), attempts=1)
                    return record
            self._thread = None  # the next to submit starts another
        return None

    def _solve(self, record: Record[Any]) -> None:
        def watch(progress: Progress) -> bool:
            with self._lock:
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
        with self._lock:
            record.outcome = outcome
            if outcome is not None:
                self._end(record, "done")
            elif record.status.cancel_requested and isinstance(failure, SolveTimeout):
                self._end(record, "cancelled")
            else:
                self._end(record, "failed", failure=failure)

    def _tell(self, record: Record[Any], **news: Any) -> None:
        record.status = replace(record.status, **news)
        for told in tuple(record.watchers):
            told()

    def _end(self, record: Record[Any], state: JobState, **news: Any) -> None:
        self._tell(record, state=state, finished=datetime.now(UTC), **news)
        ended = [job_id for job_id, record in self._records.items() if record.status.ended]
        for job_id in ended[: max(len(ended) - MOST, 0)]:
            del self._records[job_id]


def _not_found(job_id: str) -> ServiceError:
    text = f"there is no job {job_id!r:.60}: it may have been deleted"
    return _refused("NOT_FOUND", "JOB_NOT_FOUND", text)


def _refused(code: str, reason: str, message: str, retry_after: float | None = None) -> ServiceError:
    """The error by which the service refuses; the protocol is loaded for no less."""
    from google.rpc.code_pb2 import Code

    from ..server.protocol.failures import Refused

    return Refused(Code.Value(code), reason, message, retry_after)
