"""What goes to a service and what comes back: each call as the bytes of its request and a reader of its answer.

Nothing here does I/O. The arrays of a spec are copied once, into the bytes that go out.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any, Generic, TypeVar, cast, get_args

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status

from ...server.protocol import equipoise_pb2 as pb
from ...server.protocol import wire
from ...server.protocol.failures import Refused, from_status, read_infeasible
from ...solvers.check import CheckResult
from ...solvers.control import Options, Progress
from ...specs.errors import EquipoiseError, ServiceError, SolveTimeout, SpecError, UnsupportedError, shown
from ...specs.sources import Folder
from ...specs.spec import Plan, Spec
from ..asked import LONGEST, name, seconds
from ..client import Kind
from ..jobs import JobState, JobStatus
from .patience import Patience

P = TypeVar("P", bound=Plan)
R = TypeVar("R", covariant=True)

PAGE = 100
"""Jobs that are asked for at a time."""

_LIMITS = wire.Limits()
_BALANCER, _JOBS = "/equipoise.v1.Balancer/", "/equipoise.v1.Jobs/"
SESSION = f"{_BALANCER}Session"
WATCH = f"{_JOBS}Watch"

PlanReader = Callable[[pb.Plan], P]


@dataclass(frozen=True)
class Operation(Generic[R]):
    """One call: the method's path, the request, and what makes of the answer what the caller wants.

    Each may be made again where the fate of the first attempt is not known.
    """

    path: str
    request: bytes
    read: Callable[[bytes], R]


# -- Balancer ------------------------------------------------------------------------------------------------------


def solve(spec: Spec[P], options: Options) -> Operation[P]:
    """Solve, for the plan."""
    request = b"".join([*wire.field(1, wire.spec_fields(spec)), _options(options)])
    read = plan_reader(spec)
    return Operation(f"{_BALANCER}Solve", request, lambda data: outcome(_parsed(pb.SolveResponse, data), read))


def check(spec: Spec[Any], plan: Plan) -> Operation[CheckResult]:
    """Check."""
    if not isinstance(spec, Spec) or not isinstance(plan, Plan):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SpecError(f"check takes a spec and a plan, got {type(spec).__name__} and {type(plan).__name__}")
    request = b"".join([*wire.field(1, wire.spec_fields(spec)), *wire.field(2, wire.plan_fields(plan))])

    def read(data: bytes) -> CheckResult:
        found = _parsed(pb.CheckResponse, data)
        numbers = {name: getattr(found, name) for name in ("objective", "bound", "gap") if found.HasField(name)}
        known = {"objective": None, "bound": None, "gap": None} | numbers
        return CheckResult(tuple(found.problems), violation=found.violation, trusted=found.trusted, **known)

    return Operation(f"{_BALANCER}Check", request, read)


def list_kinds() -> Operation[dict[str, str]]:
    """ListKinds: names, and what each decides."""
    return Operation(
        f"{_BALANCER}ListKinds",
        b"",
        lambda data: {kind.name: kind.summary for kind in _parsed(pb.ListKindsResponse, data).kinds},
    )


def describe_kind(kind: str) -> Operation[Kind]:
    """DescribeKind."""

    def read(data: bytes) -> Kind:
        found = _parsed(pb.DescribeKindResponse, data)
        try:
            return Kind(kind, json.loads(found.spec_schema), found.example)
        except ValueError as error:
            raise ServiceError(f"the service answered with a schema that is no JSON: {error}") from None

    request = pb.DescribeKindRequest(kind=name("kind", kind)).SerializeToString()
    return Operation(f"{_BALANCER}DescribeKind", request, read)


def session_open(spec: Spec[Any], options: Options) -> bytes:
    """The request that opens a session."""
    return b"".join(wire.field(1, [*wire.field(1, wire.spec_fields(spec)), _options(options)]))


def session_step(changes: dict[str, Any], revision: int) -> bytes:
    """The request for a step of a session."""
    document = wire.field(1, wire.document(changes)) if changes else []
    return b"".join(wire.field(2, [*document, pb.SessionRequest.Step(revision=revision).SerializeToString()]))


def session_response(data: bytes) -> pb.SessionResponse:
    """The answer to either."""
    return _parsed(pb.SessionResponse, data)


def plan_reader(spec: Spec[P]) -> PlanReader[P]:
    """What reads the plans of a spec."""
    cls = type(spec).plan

    def read(message: pb.Plan) -> P:
        fields = wire.read_document(message.document, _LIMITS)
        plan = cls.read(fields, Folder(None)).with_certificate(wire.read_certificate(message.certificate))
        return cast("P", plan)  # a spec of plans P says in `plan` which class that is

    return read


def any_plan(message: pb.Plan) -> Plan:
    """Reads the plan of any kind."""
    return wire.read_plan(message, _LIMITS)


def outcome(message: pb.SolveResponse | pb.SessionResponse, read: PlanReader[P]) -> P:
    """The plan in an answer. Raises `InfeasibleError`, and `ServiceError` for an answer that makes no sense."""
    if message.HasField("plan"):
        try:
            return read(message.plan)
        except SpecError as error:
            raise ServiceError(f"the service answered with a plan that this version cannot read: {error}") from None
    if message.HasField("infeasible"):
        raise read_infeasible(message.infeasible)
    raise ServiceError("the service answered with neither a plan nor why there is none; is this client too old for it?")


def failure(message: pb.Failure) -> EquipoiseError:
    """The error that a failure on the wire stands for."""
    return from_status(Status(code=message.code, message=message.message, details=message.details))


def _options(options: Options) -> bytes:
    """Options as the second field of a request. Raises `UnsupportedError` for a backend that has no name."""
    if options.backend is not None:
        name("backend", options.backend)
    return _encoded(options)


@lru_cache(256)
def _encoded(options: Options) -> bytes:
    return b"".join(wire.field(2, [wire.options(options).SerializeToString()]))


# -- Jobs ----------------------------------------------------------------------------------------------------------


def submit(spec: Spec[Any], options: Options, key: str | None) -> Operation[JobStatus]:
    """Submit."""
    key = secrets.token_hex(16) if key is None else name("idempotency_key", key)
    request = pb.SubmitRequest(idempotency_key=key).SerializeToString()
    request = b"".join([*wire.field(1, wire.spec_fields(spec)), _options(options), request])
    return Operation(f"{_JOBS}Submit", request, lambda data: status(_parsed(pb.SubmitResponse, data).job))


def get(job_id: str) -> Operation[JobStatus]:
    """Get, without the result."""
    request = pb.GetRequest(id=name("job_id", job_id), without_result=True).SerializeToString()
    return Operation(f"{_JOBS}Get", request, lambda data: status(_parsed(pb.GetResponse, data).job))


def result(job_id: str, read: PlanReader[P]) -> Operation[P]:
    """Get, for the plan of a job that has ended. Raises what became of it otherwise."""

    def plan(data: bytes) -> P:
        response = _parsed(pb.GetResponse, data)
        found = status(response.job)
        if found.failure is not None:
            raise found.failure
        if found.state == "cancelled":
            raise SolveTimeout(f"the job {job_id} was cancelled before there was a plan")
        if found.state != "done":
            raise ServiceError(f"the job {job_id} is {found.state}, though it had ended")
        return outcome(response.result, read)

    return Operation(f"{_JOBS}Get", pb.GetRequest(id=job_id).SerializeToString(), plan)


def list_jobs(states: Iterable[JobState], kind: str | None, token: str) -> Operation[tuple[list[JobStatus], str]]:
    """List: one page, and the token of the next."""
    wanted = [_state_number(state) for state in states]
    chosen = "" if kind is None else name("kind", kind)
    request = pb.ListRequest(page_size=PAGE, page_token=token, states=wanted, kind=chosen).SerializeToString()

    def read(data: bytes) -> tuple[list[JobStatus], str]:
        page = _parsed(pb.ListResponse, data)
        return [status(job) for job in page.jobs], page.next_page_token

    return Operation(f"{_JOBS}List", request, read)


def watch(job_id: str, interval: float | None) -> Operation[JobStatus]:
    """Watch: what to send, and how to read each answer."""
    request = pb.WatchRequest(id=job_id)
    if interval is not None:
        request.interval.FromNanoseconds(round(seconds("interval", interval) * 1e9))
    return Operation(WATCH, request.SerializeToString(), lambda data: status(_parsed(pb.WatchResponse, data).job))


def watching(status: JobStatus, timeout: float | None, retry_for: float) -> Patience:
    """The time for a job to end; as long as it takes where there is no timeout."""
    late = f"the job {status.id} has not ended within {{timeout:g}} s; it goes on"
    return Patience(LONGEST if timeout is None else seconds("timeout", timeout), retry_for, late)


def cancel(job_id: str) -> Operation[JobStatus]:
    """Cancel."""
    request = pb.CancelRequest(id=job_id).SerializeToString()
    return Operation(f"{_JOBS}Cancel", request, lambda data: status(_parsed(pb.CancelResponse, data).job))


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
    return stamp.ToDatetime(UTC)


M = TypeVar("M", bound=Any)


def _parsed(message: type[M], data: bytes) -> M:
    try:
        return message.FromString(data)
    except DecodeError as error:
        raise ServiceError(f"the service answered with no {message.__name__}: {error}") from None
