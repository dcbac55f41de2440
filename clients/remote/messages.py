"""What goes to a service and what comes back: each call as the bytes of its request and a reader of its answer.

Nothing here does I/O. The arrays of a spec are copied once, into the bytes that go out. What is said of jobs stands in
`job_messages.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from ...server.protocol import equipoise_pb2 as pb
from ...server.protocol import wire
from ...server.protocol.failures import from_status, read_infeasible
from ...solvers.check import CheckResult
from ...solvers.control import Options
from ...specs.errors import EquipoiseError, ServiceError, SpecError
from ...specs.sources import Folder
from ...specs.spec import Plan, Spec
from ..asked import name
from ..client import Kind

P = TypeVar("P", bound=Plan)
R = TypeVar("R", covariant=True)
M = TypeVar("M", bound=Any)

_LIMITS = wire.Limits()
_BALANCER = "/equipoise.v1.Balancer/"
SESSION = f"{_BALANCER}Session"
STEP = f"{SESSION}.step"
"""What a step is called in traces."""

PlanReader = Callable[[pb.Plan], P]


@dataclass(frozen=True)
class Operation(Generic[R]):
    """One call: the method's path, the request, and what makes of the answer what the caller wants.

    Each may be made again where the fate of the first attempt is not known.
    """

    path: str
    request: bytes
    read: Callable[[bytes], R]


def solve(spec: Spec[P], options: Options) -> Operation[P]:
    """Solve, for the plan."""
    request = b"".join([*wire.field(1, wire.spec_fields(spec)), encoded(options)])
    read = plan_reader(spec)
    return Operation(f"{_BALANCER}Solve", request, lambda data: outcome(parsed(pb.SolveResponse, data), read))


def check(spec: Spec[Any], plan: Plan) -> Operation[CheckResult]:
    """Check."""
    if not isinstance(spec, Spec) or not isinstance(plan, Plan):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SpecError(f"check takes a spec and a plan, got {type(spec).__name__} and {type(plan).__name__}")
    request = b"".join([*wire.field(1, wire.spec_fields(spec)), *wire.field(2, wire.plan_fields(plan))])

    def read(data: bytes) -> CheckResult:
        found = parsed(pb.CheckResponse, data)
        numbers = {name: getattr(found, name) for name in ("objective", "bound", "gap") if found.HasField(name)}
        known = {"objective": None, "bound": None, "gap": None} | numbers
        return CheckResult(tuple(found.problems), violation=found.violation, trusted=found.trusted, **known)

    return Operation(f"{_BALANCER}Check", request, read)


def list_kinds() -> Operation[dict[str, str]]:
    """ListKinds: names, and what each decides."""
    return Operation(
        f"{_BALANCER}ListKinds",
        b"",
        lambda data: {kind.name: kind.summary for kind in parsed(pb.ListKindsResponse, data).kinds},
    )


def describe_kind(kind: str) -> Operation[Kind]:
    """DescribeKind."""

    def read(data: bytes) -> Kind:
        found = parsed(pb.DescribeKindResponse, data)
        try:
            schema = json.loads(found.spec_schema)
        except (ValueError, RecursionError) as error:
            raise ServiceError(f"the service answered with a schema that is no JSON: {error}") from None
        if not isinstance(schema, dict):
            raise ServiceError(f"the service answered with a schema that is no object, but {type(schema).__name__}")
        return Kind(kind, schema, found.example)

    request = pb.DescribeKindRequest(kind=name("kind", kind)).SerializeToString()
    return Operation(f"{_BALANCER}DescribeKind", request, read)


def session_open(spec: Spec[Any], options: Options) -> bytes:
    """The request that opens a session."""
    return b"".join(wire.field(1, [*wire.field(1, wire.spec_fields(spec)), encoded(options)]))


def session_step(changes: dict[str, Any], revision: int) -> bytes:
    """The request for a step of a session."""
    document = wire.field(1, wire.document(changes)) if changes else []
    return b"".join(wire.field(2, [*document, pb.SessionRequest.Step(revision=revision).SerializeToString()]))


def session_response(data: bytes) -> pb.SessionResponse:
    """The answer to either."""
    return parsed(pb.SessionResponse, data)


def plan_reader(spec: Spec[P]) -> PlanReader[P]:
    """What reads the plans of a spec."""
    cls = type(spec).plan

    def read(message: pb.Plan) -> P:
        fields = wire.read_document(message.document, _LIMITS)
        plan = cls.read(fields, Folder(None)).signed(wire.read_certificate(message.certificate))
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


def encoded(options: Options) -> bytes:
    """Options as the second field of a request. Raises `UnsupportedError` for a backend that has no name."""
    if options.backend is not None:
        name("backend", options.backend)
    return wire.options_field(options)


def parsed(message: type[M], data: bytes) -> M:
    """A message from its bytes. Raises `ServiceError` where they are none."""
    try:
        return message.FromString(data)
    except DecodeError as error:
        raise ServiceError(f"the service answered with no {message.__name__}: {error}") from None
