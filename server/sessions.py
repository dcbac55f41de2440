"""Sessions: one task that is solved again and again while it changes a little, its warm state kept here.

A session is one stream. Its steps are answered in order, one at a time; the next is read when the last answer has
been written, so a slow reader slows itself alone. A step that fails leaves the session as it was. What takes a
search goes to a worker process, from a cold start.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from google.rpc.code_pb2 import Code

from ..solvers.control import Options
from ..solvers.solve import SearchNeeded, Solver
from ..specs.errors import EquipoiseError, SpecError
from ..specs.saving import detach
from ..specs.sources import Folder
from ..specs.spec import Spec
from .admission import Work
from .engine import SMALL, Call, Engine, parsed
from .protocol import equipoise_pb2 as pb
from .protocol import wire
from .protocol.failures import Refused, to_status

if TYPE_CHECKING:
    from .calls import Context


@dataclass(eq=False)
class Session:
    """A spec and the warm state of its solver. size: bytes of the arrays in the spec."""

    spec: Spec[Any]
    options: Options
    solver: Solver
    size: int
    revision: int = 0


class Sessions:
    """The sessions of a server. Belongs to the event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._draining = False
        self._waiting = set[asyncio.Timeout]()
        self._open = set[Session]()
        self.number = 0

    def drain(self) -> None:
        """End every session after the step that it is at; callers open them again elsewhere."""
        self._draining = True
        for clock in self._waiting:
            if not clock.expired():
                clock.reschedule(0.0)

    async def converse(self, call: Call, context: Context) -> None:
        """Serve one session until its caller leaves it. Raises `Refused` where it may not be opened or goes stale."""
        if self.number >= self._engine.settings.most_sessions:
            raise Refused(Code.RESOURCE_EXHAUSTED, "SESSIONS", f"{self.number} sessions are open, and no more fit", 1.0)
        with call.tenant.session():
            self._count(1)
            try:
                await self._serve(call, context)
            finally:
                self._count(-1)

    def _count(self, more: int) -> None:
        self.number += more
        self._engine.telemetry.sessions(self.number)

    async def _serve(self, call: Call, context: Context) -> None:
        if (raw := await self._next(context)) is None:
            return
        session = await self._opened(call, raw)
        self._open.add(session)
        try:
            opened = pb.SessionResponse.Opened(session_id=secrets.token_hex(16))
            await self._say(context, pb.SessionResponse(opened=opened).SerializeToString())
            while (raw := await self._next(context)) is not None:
                call.renew()
                await self._say(context, await self._step(call, session, raw))
        finally:
            self._open.discard(session)

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

    async def _say(self, context: Context, response: bytes) -> None:
        """Send an answer. Raises `Refused` where the caller does not read it."""
        try:
            async with asyncio.timeout(self._engine.settings.session_idle):
                await context.write(response)
        except TimeoutError:
            text = "the session was closed, since its answer was not read: open it again"
            raise Refused(Code.FAILED_PRECONDITION, "STALE_SESSION", text) from None

    async def _opened(self, call: Call, raw: bytes) -> Session:
        engine = self._engine
        with (
            call.tenant.call(),
            engine.room.taking(len(raw)),
            engine.admission.taking("Session.open", len(raw)) as work,
        ):
            session = await engine.in_thread(call, work, partial(self._read, call, raw))
        self._hold(session.size)
        return session

    def _read(self, call: Call, raw: bytes) -> Session:
        message = parsed(pb.SessionRequest, raw)
        if message.WhichOneof("request") != "open":
            text = "the session is not open here: begin the stream with `open`"
            raise Refused(Code.FAILED_PRECONDITION, "STALE_SESSION", text)
        options = self._engine.options(call, message.open.options)
        spec = wire.read_task(message.open.spec, self._engine.limits(call))
        call.kind = spec.kind
        return Session(spec, options, Solver(options), _size(spec))

    def _hold(self, more: int) -> None:
        """Raises `Refused` where sessions would hold more than there is room for."""
        held, most = sum(session.size for session in self._open), self._engine.settings.session_memory
        if self._open and held + more > most:
            text = f"open sessions hold {held:,} bytes, and there is room for {most:,}"
            raise Refused(Code.RESOURCE_EXHAUSTED, "SESSIONS", text, 1.0)

    async def _step(self, call: Call, session: Session, raw: bytes) -> bytes:
        """The answer to one step, a failure included."""
        engine = self._engine
        try:
            with call.tenant.call(), engine.room.taking(len(raw)):
                with engine.admission.taking("Session.step", len(raw)) as work:
                    spec, outcome = await self._tried(call, session, raw, work)
                if outcome is None:
                    found = await self._searched(call, session, spec)
                    if not found.HasField("plan"):  # the session stays as it was
                        found.revision = session.revision
                        return found.SerializeToString()
                    outcome = found.SerializeToString()
                if len(raw) > SMALL:
                    size = _size(spec)
                    self._hold(size - session.size)
                    session.size = size
        except EquipoiseError as error:
            status = to_status(error)
            failure = pb.Failure(code=status.code, message=status.message, details=status.details)
            return pb.SessionResponse(failure=failure, revision=session.revision).SerializeToString()
        session.spec = spec
        session.revision += 1
        return outcome + pb.SessionResponse(revision=session.revision).SerializeToString()

    async def _tried(self, call: Call, session: Session, raw: bytes, work: Work) -> tuple[Spec[Any], bytes | None]:
        """The changed spec, and the answer where the kind's own algorithm gives it."""
        engine = self._engine
        if len(raw) > SMALL or not engine.quick(session.spec):

            def run() -> tuple[Spec[Any], bytes | None]:
                spec = self._changed(call, session, raw)
                return spec, self._solved(call, session, spec)

            return await engine.in_thread(call, work, run)
        started = time.perf_counter()
        spec = self._changed(call, session, raw)
        if engine.quick(spec):
            outcome = self._solved(call, session, spec)
            work.seconds = time.perf_counter() - started
            return spec, outcome
        return spec, await engine.in_thread(call, work, partial(self._solved, call, session, spec))

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
        engine = self._engine
        if engine.large(spec, 0):
            return None
        try:
            plan = session.solver.solve(spec, lambda _: not call.gone, engine.within(call), search=False)
        except SearchNeeded:
            return None
        engine.telemetry.solved(call.tenant.name, spec.kind, plan.certificate)
        return b"".join(wire.field(2, wire.plan_fields(plan)))

    async def _searched(self, call: Call, session: Session, spec: Spec[Any]) -> pb.SessionResponse:
        """The answer of a worker process."""
        options = wire.options(session.options).SerializeToString()
        request = b"".join([*wire.field(1, wire.spec_fields(spec)), *wire.field(2, [options])])
        _, message = await self._engine.search(call, request)
        if message.HasField("infeasible"):
            return pb.SessionResponse(infeasible=message.infeasible)
        self._engine.telemetry.solved(call.tenant.name, spec.kind, message.plan.certificate)
        return pb.SessionResponse(plan=message.plan)


def _size(spec: Spec[Any]) -> int:
    """Bytes of the arrays in a spec."""
    return sum(array.nbytes for array in detach(spec.fields())[1].values())
