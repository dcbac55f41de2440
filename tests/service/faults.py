"""A service that answers truly, and fails as it is told to: for what a client must survive."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc.code_pb2 import Code

from equipoise.server.protocol import equipoise_pb2 as pb
from equipoise.server.protocol import wire
from equipoise.server.protocol.failures import Refused, infeasible, to_status
from equipoise.solvers.session import Session
from equipoise.solvers.solve import Solver
from equipoise.specs.errors import EquipoiseError, InfeasibleError
from equipoise.specs.sources import Folder

LIMITS = wire.Limits()
Fault = Callable[[grpc.ServicerContext], bytes | None]
"""What happens in place of the next answer; where it returns None, the answer follows all the same."""


def unavailable(context: grpc.ServicerContext) -> None:
    """As a server that is about to stop, or a balancer before it."""
    context.abort(grpc.StatusCode.UNAVAILABLE, "nobody is here")


def cancelled(context: grpc.ServicerContext) -> None:
    """As a server that gives up what it has not finished."""
    context.abort(grpc.StatusCode.CANCELLED, "given up")


def refused(code: int, reason: str, retry_after: float | None = None) -> Fault:
    """As our own server refuses."""

    def fault(context: grpc.ServicerContext) -> None:
        status = to_status(Refused(code, reason, "as the test wants it", retry_after))
        trailers = (("grpc-status-details-bin", status.SerializeToString()),)
        context.set_trailing_metadata(trailers)
        named = {code.value[0]: code for code in grpc.StatusCode}
        context.abort(named[status.code], status.message)

    return fault


def stale(context: grpc.ServicerContext) -> None:
    """As a server that no longer knows a session."""
    refused(Code.FAILED_PRECONDITION, "STALE_SESSION")(context)


def failing(error: EquipoiseError) -> Fault:
    """The answer that a step of a session failed."""
    status = to_status(error)
    failure = pb.Failure(code=status.code, message=status.message, details=status.details)
    return lambda context: pb.SessionResponse(failure=failure).SerializeToString()


def junk(context: grpc.ServicerContext) -> bytes:
    """No message of ours."""
    return b"\xff\xff\xff"


def late(seconds: float) -> Fault:
    """Takes its time, unless the caller leaves before."""

    def fault(context: grpc.ServicerContext) -> None:
        until = time.monotonic() + seconds
        while context.is_active() and time.monotonic() < until:
            time.sleep(0.01)

    return fault


class HangUp(Exception):
    """Ends the stream as if all were well."""


def hang_up(context: grpc.ServicerContext) -> None:
    """Ends a stream as if all were well."""
    raise HangUp


@dataclass
class Seen:
    """One request as it came in: the method, the message, when, and under which deadline and metadata."""

    method: str
    message: Any
    moment: float
    remaining: float | None
    metadata: dict[str, str | bytes]
    context: grpc.ServicerContext


@dataclass
class Faulty:
    """The service. `faults` are taken one for each request to come; after them, all is well.

    jobs: what Get and Watch tell, one after the other; the last again and again. schema: of every kind.
    next_page: the token of the next page that every List tells, if it is not the right one.
    """

    address: str = "127.0.0.1:0"
    faults: list[Fault] = field(default_factory=list)
    jobs: list[pb.Job] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    schema: str = "{}"
    next_page: str | None = None

    def start(self) -> Faulty:
        self._server = grpc.server(ThreadPoolExecutor(8))
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        balancer = {
            "Solve": unary(self._solve),
            "Session": stream(self._session),
            "ListKinds": unary(self._kinds),
            "DescribeKind": unary(self._describe),
        }
        jobs = {
            "Submit": unary(self._submit),
            "Get": unary(self._get),
            "Delete": unary(self._delete),
            "List": unary(self._list),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }
        for name, methods in (("equipoise.v1.Balancer", balancer), ("equipoise.v1.Jobs", jobs)):
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
        port = self._server.add_insecure_port(self.address)
        if not self.address.startswith("unix:"):
            self.address = f"127.0.0.1:{port}"
        self._server.start()
        return self

    def stop(self) -> None:
        """At once, as a process that dies."""
        self._server.stop(None).wait(10)

    def __enter__(self) -> Faulty:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def requests(self, method: str) -> list[Any]:
        """The messages that one method has got."""
        return [seen.message for seen in self.seen if seen.method == method]

    def _note(self, method: str, message: Any, context: grpc.ServicerContext) -> bytes | None:
        metadata = {entry[0]: entry[1] for entry in context.invocation_metadata()}
        self.seen.append(Seen(method, message, time.monotonic(), context.time_remaining(), metadata, context))
        return self.faults.pop(0)(context) if self.faults else None

    def _solve(self, raw: bytes, context: grpc.ServicerContext) -> bytes:
        message = pb.SolveRequest.FromString(raw)
        instead = self._note("Solve", message, context)
        return self._answer(message) if instead is None else instead

    def _answer(self, message: Any) -> bytes:
        spec = wire.read_task(message.spec, LIMITS)
        try:
            plan = Solver(wire.read_options(message.options)).solve(spec)
        except InfeasibleError as error:
            return pb.SolveResponse(infeasible=infeasible(error)).SerializeToString()
        return b"".join(wire.field(1, wire.plan_fields(plan)))

    def _session(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        session: Session[Any] | None = None
        revision = 0
        for raw in requests:
            message = pb.SessionRequest.FromString(raw)
            try:
                instead = self._note("Session", message, context)
            except HangUp:
                return
            if instead is not None:
                yield instead
            elif message.HasField("open"):
                spec = wire.read_task(message.open.spec, LIMITS)
                session = Session(spec, wire.read_options(message.open.options))
                yield pb.SessionResponse(opened=pb.SessionResponse.Opened(session_id="1")).SerializeToString()
            elif session is not None:
                assert message.step.revision == revision
                changes = wire.read_document(message.step.changes, LIMITS) if message.step.HasField("changes") else {}
                session.spec = session.spec.replaced(changes, Folder(None))
                plan = session.step()
                revision += 1
                told = pb.SessionResponse(revision=revision).SerializeToString()
                yield b"".join([*wire.field(2, wire.plan_fields(plan)), told])

    def _kinds(self, raw: bytes, context: grpc.ServicerContext) -> bytes:
        instead = self._note("ListKinds", pb.ListKindsRequest.FromString(raw), context)
        return pb.ListKindsResponse().SerializeToString() if instead is None else instead

    def _describe(self, raw: bytes, context: grpc.ServicerContext) -> bytes:
        self._note("DescribeKind", pb.DescribeKindRequest.FromString(raw), context)
        return pb.DescribeKindResponse(spec_schema=self.schema).SerializeToString()

    def _submit(self, raw: bytes, context: grpc.ServicerContext) -> bytes:
        self._note("Submit", pb.SubmitRequest.FromString(raw), context)
        return pb.SubmitResponse(job=self.jobs[0]).SerializeToString()

    def _get(self, raw: bytes, context: grpc.ServicerContext) -> bytes:
        message = pb.GetRequest.FromString(raw)
        self._note("Get", message, context)
        response = pb.GetResponse(job=self.jobs[-1])
        submitted = self.requests("Submit")
        if submitted and not message.without_result and self.jobs[-1].state == pb.JOB_STATE_DONE:
            response.result.MergeFromString(self._answer(submitted[0]))
        return response.SerializeToString()

    def _delete(self, raw: bytes, context: grpc.ServicerContext) -> bytes:
        self._note("Delete", pb.DeleteRequest.FromString(raw), context)
        return b""

    def _list(self, raw: bytes, context: grpc.ServicerContext) -> bytes:
        """Pages of two."""
        message = pb.ListRequest.FromString(raw)
        self._note("List", message, context)
        start = int(message.page_token or 0)
        after = str(start + 2) if start + 2 < len(self.jobs) else ""
        after = after if self.next_page is None else self.next_page
        return pb.ListResponse(jobs=self.jobs[start : start + 2], next_page_token=after).SerializeToString()

    def _watch(self, raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self._note("Watch", pb.WatchRequest.FromString(raw), context)
        for job in self.jobs:
            yield pb.WatchResponse(job=job).SerializeToString()
            if self.faults:
                self.faults.pop(0)(context)
