"""What is said of jobs, as `messages.py` says the rest: submitted, found, listed page after page, watched, forgotten.

Nothing here does I/O.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from typing import Any, cast, get_args

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.code_pb2 import Code

from ...server.protocol import equipoise_pb2 as pb
from ...server.protocol import wire
from ...server.protocol.failures import Refused
from ...solvers.control import Options, Progress
from ...specs.errors import EquipoiseError, ServiceError, SolveTimeout, UnsupportedError, shown
from ...specs.spec import Spec
from ..asked import LONGEST, name, seconds
from ..jobs import JobState, JobStatus
from .messages import Operation, P, PlanReader, encoded, failure, outcome, parsed
from .patience import LARGEST, Patience

PAGE = 100
"""Jobs that are asked for at a time."""

_JOBS = "/equipoise.v1.Jobs/"


def submit(spec: Spec[Any], options: Options, key: str | None) -> Operation[JobStatus]:
    """Submit."""
    key = secrets.token_hex(16) if key is None else name("idempotency_key", key)
    request = pb.SubmitRequest(idempotency_key=key).SerializeToString()
    request = b"".join([*wire.field(1, wire.spec_fields(spec)), encoded(options), request])
    return Operation(f"{_JOBS}Submit", request, lambda data: status(parsed(pb.SubmitResponse, data).job))


def get(job_id: str) -> Operation[JobStatus]:
    """Get, without the result."""
    request = pb.GetRequest(id=name("job_id", job_id), without_result=True).SerializeToString()
    return Operation(f"{_JOBS}Get", request, lambda data: status(parsed(pb.GetResponse, data).job))


def result(job_id: str, read: PlanReader[P]) -> Operation[P]:
    """Get, for the plan of a job that has ended. Raises what became of it otherwise."""

    def plan(data: bytes) -> P:
        response = parsed(pb.GetResponse, data)
        found = status(response.job)
        if found.failure is not None:
            raise found.failure
        if found.state == "cancelled":
            raise SolveTimeout(f"the job {job_id} was cancelled before there was a plan")
        if found.state != "done":
            raise ServiceError(f"the job {job_id} is {found.state}, though it had ended")
        return outcome(response.result, read)

    return Operation(f"{_JOBS}Get", pb.GetRequest(id=job_id).SerializeToString(), plan)


class Pages:
    """A list of jobs, page after page. more: whether there is another."""

    def __init__(self, states: Iterable[JobState], kind: str | None) -> None:
        self._states = [_state_number(state) for state in states]
        self._kind = "" if kind is None else name("kind", kind)
        self._token, self._told = "", {""}
        self.more = True

    def next(self) -> Operation[list[JobStatus]]:
        """List: the next page."""
        request = pb.ListRequest(page_size=PAGE, page_token=self._token, states=self._states, kind=self._kind)
        return Operation(f"{_JOBS}List", request.SerializeToString(), self._read)

    def _read(self, data: bytes) -> list[JobStatus]:
        page = parsed(pb.ListResponse, data)
        self._token = page.next_page_token
        self.more = bool(self._token)
        if self.more and (self._token in self._told or not page.jobs):
            raise ServiceError("the service lists jobs without end: a page is empty, or was there before")
        self._told.add(self._token)
        return [status(job) for job in page.jobs]


class Report:
    """Where a job stands, as the service reports it for as long as the job goes on, over one stream or several.

    patience: the time for it to end. A service that breaks every report off without news is left alone for longer and
    longer, and not for ever.
    """

    def __init__(self, known: JobStatus, interval: float | None, timeout: float | None, retry_for: float) -> None:
        request = pb.WatchRequest(id=known.id)
        if interval is not None:
            request.interval.FromNanoseconds(round(seconds("interval", interval) * 1e9))
        self.path, self.request = f"{_JOBS}Watch", request.SerializeToString()
        timeout = LONGEST if timeout is None else seconds("timeout", timeout)
        late = f"the job {known.id} has not ended within {timeout:g} s; it goes on"
        self.patience = Patience(timeout, retry_for, late)
        self._seen: JobStatus | None = None
        self._began = 0.0

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self._seen is not None and self._seen.ended

    def begin(self) -> float:
        """Seconds that a new stream may last."""
        self._began = time.monotonic()
        return self.patience.left

    def news(self, data: bytes) -> JobStatus | None:
        """Where the job stands, if that is not known already."""
        found = status(parsed(pb.WatchResponse, data).job)
        told, self._seen = self._seen, found
        if found != told or time.monotonic() - self._began > LARGEST:
            self.patience.renew()
        return None if found == told else found


def cancel(job_id: str) -> Operation[JobStatus]:
    """Cancel."""
    request = pb.CancelRequest(id=job_id).SerializeToString()
    return Operation(f"{_JOBS}Cancel", request, lambda data: status(parsed(pb.CancelResponse, data).job))


def delete(job_id: str) -> Operation[None]:
    """Delete."""
    return Operation(f"{_JOBS}Delete", pb.DeleteRequest(id=job_id).SerializeToString(), lambda data: None)


def gone(error: EquipoiseError) -> bool:
    """Whether an error says that there is no such job (any more)."""
    return isinstance(error, Refused) and error.code == Code.NOT_FOUND


def status(job: pb.Job) -> JobStatus:
    """A job on the wire as one of ours. Raises `ServiceError` for a state that this version does not know."""
    state = _states().get(job.state)
    if state is None:
        raise ServiceError(f"the job {job.id:.60} is in a state ({job.state}) that this version does not know")
    progress = None
    if job.HasField("progress"):
        found = job.progress
        objective = found.objective if found.HasField("objective") else None
        bound = found.bound if found.HasField("bound") else None
        progress = Progress(found.seconds, objective, bound, found.stage)
    return JobStatus(
        id=job.id,
        state=state,
        kind=job.kind,
        name=job.name or None,
        created=_moment(job.created) if job.HasField("created") else None,
        started=_moment(job.started) if job.HasField("started") else None,
        finished=_moment(job.finished) if job.HasField("finished") else None,
        attempts=job.attempts,
        progress=progress,
        cancel_requested=job.cancel_requested,
        failure=failure(job.failure) if job.HasField("failure") else None,
    )


@cache
def _states() -> dict[int, JobState]:
    return {pb.JobState.Value(f"JOB_STATE_{state.upper()}"): state for state in get_args(JobState)}


def _state_number(state: JobState) -> pb.JobState:
    for number, known in _states().items():
        if known == state:
            return cast("pb.JobState", number)
    raise UnsupportedError(f"states: must be some of {', '.join(get_args(JobState))}, got {shown(state)}")


def _moment(stamp: Timestamp) -> datetime:
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise ServiceError(f"the service told a time that there is not ({stamp.seconds} s after 1970)") from None
