"""Sessions: one task that is solved again and again while it changes a little, its warm state kept here.

A session is one stream. Its steps are answered in order, one at a time; the next is read when the last answer has
been written, so a slow reader slows itself alone. A step that fails leaves the session as it was. What takes a
search goes to a worker process, from a cold start.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from google.rpc.code_pb2 import Code

from ..solvers.control import Options
from ..solvers.solve import SearchNeeded, Solver
from ..specs.errors import EquipoiseError, SpecError
from ..specs.sources import Folder
from ..specs.spec import Spec
from .admission import Work
from .engine import SMALL, Call, Engine, parsed
from .protocol import equipoise_pb2 as pb
from .protocol import wire
from .protocol.failures import Refused, to_status

if TYPE_CHECKING:
    from .calls import Context


@dataclass
class Session:
    """A spec and the warm state of its solver."""

    spec: Spec[Any]
    options: Options
    solver: Solver
    revision: int = 0


class Sessions:
    """The sessions of a server. Belongs to the event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._draining = False
        self._waiting = set[asyncio.Timeout]()
        self.open = 0

    def drain(self) -> None:
        """End every session after the step that it is at; callers open them again elsewhere."""
        self._draining = True
        for clock in self._waiting:
            clock.reschedule(0.0)

    async def converse(self, call: Call, context: Context) -> None:
        """Serve one session until its caller leaves it. Raises `Refused` where it may not be opened or goes stale."""
        if self.open >= self._engine.settings.most_sessions:
            raise Refused(Code.RESOURCE_EXHAUSTED, "SESSIONS", f"{self.open} sessions are open, and no more fit", 1.0)
        with call.tenant.session():
            self.open += 1
            self._engine.telemetry.sessions(self.open)
            try:
                await self._serve(call, context)
            except asyncio.CancelledError:
                call.gone = True
                raise
            finally:
                self.open -= 1
                self._engine.telemetry.sessions(self.open)

    async def _serve(self, call: Call, context: Context) -> None:
        session: Session | None = None
        while (raw := await self._next(context)) is not None:
            if session is None:
                session = await self._opened(call, raw)
                opened = pb.SessionResponse.Opened(session_id=secrets.token_hex(16))
                await context.write(pb.SessionResponse(opened=opened).SerializeToString())
            else:
                await context.write(await self._step(call, session, raw))

    async def _next(self, context: Context) -> bytes | None:
        """The next request; None once the caller has said the last. Raises `Refused`."""
        idle = 0.0 if self._draining else self._engine.settings.session_idle
        clock = asyncio.timeout(idle)
        try:
            async with clock:
                self._waiting.add(clock)
                raw = await context.read()
        except TimeoutError:
            if self._draining:
                text = "the server is shutting down: open the session again"
                raise Refused(Code.UNAVAILABLE, "DRAINING", text) from None
            text = f"the session was closed after {idle:g} s without a step: open it again"
            raise Refused(Code.FAILED_PRECONDITION, "STALE_SESSION", text) from None
        finally:
            self._waiting.discard(clock)
        return None if raw is grpc.aio.EOF else raw

    async def _opened(self, call: Call, raw: bytes) -> Session:
        with self._engine.admission.taking("Session.open", len(raw)) as work:
            return await self._engine.in_thread(work, partial(self._open, call, raw))

    def _open(self, call: Call, raw: bytes) -> Session:
        message = parsed(pb.SessionRequest, raw)
        if message.WhichOneof("request") != "open":
            text = "the session is not open here: begin the stream with `open`"
            raise Refused(Code.FAILED_PRECONDITION, "STALE_SESSION", text)
        options = self._engine.options(call, message.open.options)
        spec = wire.read_task(message.open.spec, self._engine.limits(call))
        call.kind = spec.kind
        return Session(spec, options, Solver(options))

    async def _step(self, call: Call, session: Session, raw: bytes) -> bytes:
        """The answer to one step, a failure included."""
        try:
            with call.tenant.call():
                with self._engine.admission.taking("Session.step", len(raw)) as work:
                    spec, outcome = await self._tried(call, session, raw, work)
                if outcome is None:
                    found = await self._searched(call, session, spec)
                    spec = spec if found.HasField("plan") else None  # without a plan the session stays as it was
                    outcome = found.SerializeToString()
        except EquipoiseError as error:
            status = to_status(error)
            failure = pb.Failure(code=status.code, message=status.message, details=status.details)
            return pb.SessionResponse(failure=failure, revision=session.revision).SerializeToString()
        if spec is not None:
            session.spec = spec
            session.revision += 1
        return outcome + pb.SessionResponse(revision=session.revision).SerializeToString()

    async def _tried(self, call: Call, session: Session, raw: bytes, work: Work) -> tuple[Spec[Any], bytes | None]:
        """The changed spec, and the answer where the kind's own algorithm gives it."""
        if len(raw) > SMALL or not self._engine.quick(session.spec):

            def run() -> tuple[Spec[Any], bytes | None]:
                spec = self._changed(call, session, raw)
                return spec, self._solved(call, session, spec)

            return await self._engine.in_thread(work, run)
        spec = self._changed(call, session, raw)
        solve = partial(self._solved, call, session, spec)
        return spec, solve() if self._engine.quick(spec) else await self._engine.in_thread(work, solve)

    def _changed(self, call: Call, session: Session, raw: bytes) -> Spec[Any]:
        """The spec after a step's changes, validated whole."""
        message = parsed(pb.SessionRequest, raw)
        if message.WhichOneof("request") != "step":
            raise SpecError("the session is open already: send a `step`, or begin another stream")
        if message.step.revision != session.revision:
            text = f"the session stands at step {session.revision}, and the caller at {message.step.revision}"
            raise Refused(Code.FAILED_PRECONDITION, "STALE_SESSION", f"{text}: open it again")
        if not message.step.HasField("changes"):
            return session.spec
        changes = wire.read_document(message.step.changes, self._engine.limits(call))
        return session.spec.replaced(changes, Folder(None))

    def _solved(self, call: Call, session: Session, spec: Spec[Any]) -> bytes | None:
        """The answer of the kind's own algorithm; None where it takes a search."""
        try:
            if self._engine.large(spec, b""):
                return None
            plan = session.solver.solve(spec, lambda _: not call.gone, call.within, search=False)
        except SearchNeeded:
            return None
        self._engine.telemetry.solved(call.tenant.name, spec.kind, plan.certificate)
        return b"".join(wire.field(2, wire.plan_fields(plan)))

    async def _searched(self, call: Call, session: Session, spec: Spec[Any]) -> pb.SessionResponse:
        """The answer of a worker process."""
        options = wire.options(session.options).SerializeToString()
        request = b"".join([*wire.field(1, wire.spec_fields(spec)), *wire.field(2, [options])])
        message = await self._engine.search(call, request)
        if message.HasField("infeasible"):
            return pb.SessionResponse(infeasible=message.infeasible)
        self._engine.telemetry.solved(call.tenant.name, spec.kind, message.plan.certificate)
        return pb.SessionResponse(plan=message.plan)
