"""Errors of Equipoise as statuses of the protocol and back: a remote caller catches what a local one does.

Statuses follow google.rpc: https://google.aip.dev/193.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from ...specs.errors import (
    BackendError,
    EquipoiseError,
    InfeasibleError,
    Problem,
    ServiceError,
    SolveTimeout,
    SpecError,
    UnsupportedError,
)
from . import equipoise_pb2 as pb

M = TypeVar("M", bound=Message)

DOMAIN = "equipoise"
_CODES: dict[type[EquipoiseError], tuple[int, str]] = {
    SpecError: (Code.INVALID_ARGUMENT, "SPEC"),
    UnsupportedError: (Code.INVALID_ARGUMENT, "UNSUPPORTED"),
    SolveTimeout: (Code.DEADLINE_EXCEEDED, "SOLVE_TIMEOUT"),
    BackendError: (Code.INTERNAL, "BACKEND"),
}
_PLAIN = "".join(chr(code) for code in range(32, 127) if chr(code) != "%")
_CLASSES = {reason: error for error, (_, reason) in _CODES.items()}
LARGEST_DETAIL = 2000
"""Bytes of details after which no more problems are told: gRPC sends a status in trailers, a third larger, and callers
have 8 KiB for all of these."""
LONGEST_MESSAGE, LONGEST_PROBLEM = 1200, 600
"""Bytes of a message, and of one problem, at most, as gRPC sends them: percent-encoded."""


class Refused(ServiceError):
    """The service does not take a request, for a reason of its own.

    code: of google.rpc. reason: in capitals, for programs. retry_after: seconds, where another try may succeed.
    """

    def __init__(self, code: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return Refused, (self.code, self.reason, self.message, self.retry_after)


def to_status(error: Exception) -> Status:
    """The status that tells of an error. What is not an `EquipoiseError` tells nothing of the server's insides."""
    details = list[Message]()
    if isinstance(error, Refused):
        code, reason = error.code, error.reason
        if error.retry_after is not None:
            delay = Duration()
            delay.FromNanoseconds(round(error.retry_after * 1e9))
            details.append(RetryInfo(retry_delay=delay))
    elif isinstance(error, EquipoiseError):
        code, reason = next((_CODES[cls] for cls in type(error).__mro__ if cls in _CODES), (Code.INTERNAL, "ERROR"))
        if isinstance(error, SpecError):
            details += _problems(error.problems)
    else:
        code, reason, error = Code.INTERNAL, "INTERNAL", EquipoiseError("the server failed; its log says why")
    status = Status(code=code, message=_cut(str(error), LONGEST_MESSAGE))
    for detail in (ErrorInfo(reason=reason, domain=DOMAIN), *details):
        status.details.add().Pack(detail)
    return status


def _problems(problems: Sequence[Problem]) -> list[Message]:
    violations, places = BadRequest(), pb.Problems()
    for number, problem in enumerate(problems):
        if violations.ByteSize() + places.ByteSize() > LARGEST_DETAIL:
            places.problems.add(message=f"and {len(problems) - number} more problems")
            break
        message, field = _cut(problem.message, LONGEST_PROBLEM), _cut(problem.field, LONGEST_PROBLEM)
        violations.field_violations.add(field=field, description=message)
        entry = places.problems.add(message=message, file=problem.file, line=problem.line)
        for step in problem.place if field == problem.field else ():
            entry.place.steps.add(**({"row": step} if isinstance(step, int) else {"field": step}))
    return [violations, places]


def _cut(text: str, most: int) -> str:
    """As much of a text as takes so many bytes when percent-encoded, which only printable ASCII is not."""
    if len(text) <= most and text.isascii() and text.isprintable() and "%" not in text:
        return text
    cut, size = text[:most].encode(errors="replace").decode(), 0  # no message holds half a character
    for place, sign in enumerate(cut):
        size += len(quote(sign, safe=_PLAIN))
        if size > most:
            return cut[: max(place - 3, 0)] + "…"
    return cut if len(text) <= most else cut[: most - 9] + "…"


def from_status(status: Status) -> EquipoiseError:
    """The error that a status tells of."""
    info = _detail(status.details, ErrorInfo())
    cls = _CLASSES.get(info.reason) if info.domain == DOMAIN else None
    if cls is SpecError and (found := _detail(status.details, pb.Problems()).problems):
        return SpecError(_problem(problem) for problem in found)
    if cls is not None:
        return cls(status.message)
    if status.code == Code.DEADLINE_EXCEEDED:
        return SolveTimeout("no plan within the deadline of the call")
    delay = _detail(status.details, RetryInfo())
    retry_after = delay.retry_delay.ToNanoseconds() / 1e9 if delay.HasField("retry_delay") else None
    known = Code.Name(status.code) if status.code in Code.values() else "UNKNOWN"
    reason = info.reason if info.domain == DOMAIN else known
    return Refused(status.code, reason, status.message, retry_after)


def from_call(error: grpc.RpcError) -> EquipoiseError:
    """The error behind a call that failed, be it the server's answer or the way there."""
    if not isinstance(error, (grpc.Call, grpc.aio.AioRpcError)):
        return ServiceError(str(error))
    try:
        # AioRpcError has the methods that this reads, though it is not declared to be a Call.
        status = rpc_status.from_call(error)  # pyright: ignore[reportArgumentType]
    except (ValueError, DecodeError):  # a status that contradicts its own details: believe the code alone
        status = None
    if status is None:
        status = Status(code=error.code().value[0], message=error.details() or "")
    return from_status(status)


def _problem(message: pb.Problems.Problem) -> Problem:
    place = tuple(step.row if step.HasField("row") else step.field for step in message.place.steps)
    file = message.file if message.HasField("file") else None
    return Problem(message.message, place, file, message.line if message.HasField("line") else None)


def _detail(details: Sequence[AnyMessage], found: M) -> M:
    """The detail of a message's type, empty if there is none."""
    for detail in details:
        if detail.TypeName() == found.DESCRIPTOR.full_name:
            try:
                detail.Unpack(found)
            except DecodeError:  # the code and the message still hold
                found.Clear()
    return found


def infeasible(error: InfeasibleError) -> pb.Infeasible:
    """The result that there is no plan, as a message."""
    return pb.Infeasible(message=error.message, fields=error.fields, change=error.change)


def read_infeasible(message: pb.Infeasible) -> InfeasibleError:
    """The error that the result stands for."""
    # A map comes in any order, another one in each process.
    return InfeasibleError(message.message, tuple(message.fields), dict(sorted(message.change.items())))
