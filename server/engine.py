"""From the bytes of a request to the bytes of its answer.

A thread parses, validates and tries the kind's own algorithm, which releases the interpreter lock; what takes a
search goes to a worker process, whose death costs nobody else. The event loop itself does what is sure to take well
under a millisecond by its size: handing it over would take longer, for everyone. Identical requests that are under
way share one solve, and repeated ones get the stored answer.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message
from google.rpc.code_pb2 import Code

from ..solvers.algorithm import Algorithm
from ..solvers.algorithms import load
from ..solvers.backends.pyomo import KNOWN_SOLVERS
from ..solvers.control import Options
from ..solvers.solve import SearchNeeded, Solver
from ..specs.certificate import Certificate
from ..specs.errors import SolveTimeout, SpecError, UnsupportedError
from ..specs.spec import Spec, kinds
from .admission import LEAST_ROOM, Admission, Room, Work
from .answers import Answer, Cache, Caller, Flight, Flights, Outcome, content_key
from .protocol import equipoise_pb2 as pb
from .protocol import wire
from .protocol.failures import Refused
from .settings import ServerSettings
from .telemetry import Telemetry
from .tenants import Tenant
from .workers.pool import Workers

T = TypeVar("T")
M = TypeVar("M", bound=Message)

SMALL = 2**14
"""Bytes of a request up to which it is parsed where it arrives: that takes less than handing it to a thread."""
LARGEST_IN_A_THREAD, MOST_NUMBERS = 2**25, 2**24
"""Bytes of a request, and numbers in what a solve makes of it, beyond which it goes to a worker process, whose memory
has a limit of its own."""
MARGIN = 0.05
"""Seconds of a deadline that are kept for the way back, at most a tenth of what is left."""
SEARCH_PATIENCE = 1.0
"""Seconds that a search may expect to wait for a worker process, or half as long as it takes itself."""


@dataclass
class Call(Caller):
    """One request: who asks, until when, and for which kind of task."""

    tenant: Tenant = field(kw_only=True)
    kind: str = ""
    renew: Callable[[], None] = lambda: None
    """Raises `Refused` once the token of the call has been withdrawn; for calls that last."""
    trace: Any = None
    """The parent of spans within the call, None without traces."""

    @property
    def left(self) -> float | None:
        """Seconds for a solve that is to be back before the deadline."""
        if self.deadline is None:
            return None
        left = max(self.deadline - time.monotonic(), 0.0)
        return left - min(MARGIN, 0.1 * left)


@dataclass(frozen=True)
class _Request:
    """A request that was read. within: seconds that a solve of it may take, whatever its options say."""

    call: Call
    raw: bytes
    options: Options
    key: str
    within: float

    @property
    def pressed(self) -> bool:
        """Whether the caller's own deadline comes before the time limit in the options."""
        return self.options.time_limit is None or self.within < self.options.time_limit


@dataclass(frozen=True)
class _Waiting:
    """A solve to wait for: a worker's, or another caller's."""

    flight: Flight
    first: bool


class Engine:
    """Solves for callers. Belongs to the event loop."""

    def __init__(self, settings: ServerSettings, workers: Workers, telemetry: Telemetry) -> None:
        self.settings, self.workers, self.telemetry = settings, workers, telemetry
        self.threads = ThreadPoolExecutor(settings.threads, "equipoise-solve")
        self.busy = 0
        """Threads at work, for callers who have left too."""
        self.admission = Admission(settings.threads, settings.patience)
        self.searches = Admission(workers.count, SEARCH_PATIENCE)
        self.room = Room(max(4 * settings.largest_message, LEAST_ROOM))
        self._cache = Cache(settings.cache)
        self._flights = Flights()
        self._loop = asyncio.get_running_loop()
        self._limits = settings.limits

    async def solve(self, call: Call, raw: bytes) -> bytes:
        """The serialised SolveResponse to a serialised SolveRequest. Raises `EquipoiseError`."""
        with self.room.taking(len(raw)):
            try:
                while True:
                    with self.admission.taking("Solve", len(raw)) as work:
                        found = await self._attempt(call, raw, work)
                    if isinstance(found, bytes):
                        return found
                    outcome = await asyncio.wrap_future(self._flights.landing(found.flight))
                    if found.first or not outcome.hurried:
                        return outcome.answer() + (_SOLVED if found.first else _SHARED)
                    self._flights.leave(call, gone=False)  # what cut it short does not bind this caller
            except asyncio.CancelledError:
                self._flights.leave(call)
                raise

    async def _attempt(self, call: Call, raw: bytes, work: Work) -> bytes | _Waiting:
        """The answer, or the solve to wait for."""
        if len(raw) > SMALL:

            def run() -> bytes | _Waiting:
                read = self._read(call, raw)
                return read if isinstance(read, bytes) else self._fly(*read)

            return await self.in_thread(call, work, run)
        started = time.perf_counter()
        read = self._read(call, raw)
        if isinstance(read, bytes) or self.quick(read[1]):
            found = read if isinstance(read, bytes) else self._fly(*read)
            work.seconds = time.perf_counter() - started
            return found
        return await self.in_thread(call, work, lambda: self._fly(*read))

    def quick(self, spec: Spec[Any]) -> bool:
        """Whether handing a task to a thread would take longer than solving it."""
        algorithm = _algorithms().get(spec.kind)
        return algorithm is not None and algorithm.quick(spec)

    def large(self, spec: Spec[Any], size: int) -> bool:
        """Whether a task in so many bytes may take more memory than this process should spend on one."""
        algorithm = _algorithms().get(spec.kind)
        return size > LARGEST_IN_A_THREAD or (algorithm is not None and algorithm.numbers(spec) > MOST_NUMBERS)

    def close(self) -> None:
        """Let the threads go."""
        self.threads.shutdown(wait=False, cancel_futures=True)

    async def in_thread(self, call: Call, work: Work, run: Callable[[], T]) -> T:
        """Run something in a solver thread, and note how long it took. A caller who leaves is held here, and counted,
        until the thread is free again."""

        def timed() -> T:
            started = time.perf_counter()
            try:
                return run()
            finally:
                work.seconds = time.perf_counter() - started

        job = self.threads.submit(timed)
        self.busy += 1
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            self._flights.leave(call)
            if not job.cancelled():
                await asyncio.wait([asyncio.wrap_future(job)])
            raise
        finally:
            self.busy -= 1

    async def search(self, call: Call, request: bytes, within: float | None = None) -> tuple[bytes, pb.SolveResponse]:
        """The answer of a worker process to a serialised SolveRequest, as it came and read. Raises `Refused` where too
        much waits for one."""
        with self.searches.taking(call.kind, len(request)) as work, self.telemetry.span("search", call.trace):
            within = self.within(call) if within is None else within
            response = await self.workers.solve(request, within=within)
            message = pb.SolveResponse.FromString(response)
            if message.HasField("plan"):
                work.seconds = message.plan.certificate.seconds
            return response, message

    async def check(self, call: Call, request: bytes) -> bytes:
        """The serialised CheckResponse of a worker process. Raises as `search` does."""
        with self.searches.taking("Check", len(request)) as work, self.telemetry.span("check", call.trace):
            response, work.seconds = await self.workers.check(request, within=self.within(call))
            return response

    def within(self, call: Call) -> float:
        """Seconds that a solve may take: until the caller's deadline, the tenant's quota, the server's own limit."""
        limits = (call.left, call.tenant.limits().seconds, self.settings.longest_solve)
        return min(limit for limit in limits if limit is not None)

    def options(self, call: Call, message: pb.Options) -> Options:
        """The options of a request, as far as the tenant may have them. Raises `UnsupportedError` and `Refused`."""
        options = wire.read_options(message)
        solver = (options.backend or "").partition("pyomo:")[2]
        if solver and solver not in KNOWN_SOLVERS:  # Pyomo would run any program of that name
            known = ", ".join(KNOWN_SOLVERS)
            raise UnsupportedError(f"backend 'pyomo:{solver:.60}' is not served: pyomo takes {known} here")
        quota = call.tenant.limits().threads
        most = self.settings.solver_threads if quota is None else min(quota, self.settings.solver_threads)
        if options.threads > most:
            text = f"a solve of {call.tenant.name} may use {most} threads here, and {options.threads} are asked for"
            raise Refused(Code.PERMISSION_DENIED, "THREADS_QUOTA", text)
        return options

    def limits(self, call: Call) -> wire.Limits:
        """What one document of a caller may hold."""
        limits, quota = self._limits, call.tenant.limits().numbers
        return limits if quota is None or quota >= limits.numbers else replace(limits, numbers=quota)

    # -- one request, in whichever thread ----------------------------------------------------------------------------

    def _read(self, call: Call, raw: bytes) -> bytes | tuple[_Request, Spec[Any]]:
        """A request and its spec, validated whole; or the stored answer."""
        with self.telemetry.span("validate", call.trace):
            message = parsed(pb.SolveRequest, raw)
            options = self.options(call, message.options)
            limits = self.limits(call)
            key = content_key(call.tenant.name, message.spec, options, limits)
            if (stored := self._cache.get(call.tenant.name, key)) is not None:
                call.kind = stored.kind
                self.telemetry.repeated("cached")
                return stored.response + _CACHED
            spec = wire.read_task(message.spec, limits)
            call.kind = spec.kind
        return _Request(call, raw, options, key, self.within(call)), spec

    def _fly(self, request: _Request, spec: Spec[Any]) -> bytes | _Waiting:
        """Join the solve of an identical request, or be the first and solve. Whoever is first is not interrupted from
        joining to landing, or hands over to a search: nobody may join what nobody will land."""
        call, options = request.call, request.options
        flight, first = self._flights.join(f"{request.key} {options.time_limit}", call)
        if not first:
            self.telemetry.repeated("shared")
            return _Waiting(flight, first)
        try:
            if self.large(spec, len(request.raw)):
                raise SearchNeeded
            with self.telemetry.span("solve", call.trace):
                solver = Solver(options)
                plan = solver.solve(spec, lambda _: not flight.abandoned, request.within, search=False)
            response = b"".join(wire.field(1, wire.plan_fields(plan)))
            self._land(request, flight, response, plan.certificate, 0.0)
        except SearchNeeded:  # from here on it depends on this caller no more, who may leave before those who joined
            self._loop.call_soon_threadsafe(self._search_for, request, flight)
            return _Waiting(flight, first)
        except BaseException as error:
            self._flights.land(flight, _failed(request, error))
            raise
        return response + _SOLVED

    def _search_for(self, request: _Request, flight: Flight) -> None:
        if flight.abandoned:
            self._flights.land(flight, _failed(request, SolveTimeout("nobody waited for the answer any more")))
        else:
            flight.search = asyncio.create_task(self._searched(request, flight))

    async def _searched(self, request: _Request, flight: Flight) -> None:
        started = time.perf_counter()
        try:
            response, message = await self.search(request.call, request.raw, request.within)
            certificate = message.plan.certificate if message.HasField("plan") else None
            self._land(request, flight, response, certificate, time.perf_counter() - started)
        except asyncio.CancelledError:
            self._flights.land(flight, _failed(request, SolveTimeout("nobody waited for the answer any more")))
            raise
        except Exception as error:
            self._flights.land(flight, _failed(request, error))

    def _land(
        self,
        request: _Request,
        flight: Flight,
        response: bytes,
        issued: Certificate | pb.Certificate | None,
        seconds: float,
    ) -> None:
        """Tell all who wait; keep what no limit cut short.

        Without a plan it is the conflict that may have been cut short: where explaining it took about all of the time.
        """
        call, limit = request.call, min(request.within, request.options.time_limit or math.inf)
        cut = seconds > limit / 2 if issued is None else issued.stopped in ("time limit", "interrupted")
        interrupted = issued is not None and issued.stopped == "interrupted"
        if not cut:
            self._cache.put(call.tenant.name, request.key, Answer(call.kind, response))
        self._flights.land(flight, Outcome(response, hurried=cut and (request.pressed or interrupted)))
        self.telemetry.solved(call.tenant.name, call.kind, issued)


def _failed(request: _Request, error: BaseException) -> Outcome:
    """The end of a solve without an answer. A time-out is the first caller's own, unless the options asked for it."""
    return Outcome(error=error, hurried=isinstance(error, SolveTimeout) and request.pressed)


@cache
def _algorithms() -> dict[str, type[Algorithm[Any, Any]]]:
    return {kind: found.algorithm for kind in kinds() if (found := load(kind)) is not None}


def parsed(message: type[M], raw: bytes) -> M:
    """A message from its bytes. Raises `SpecError`."""
    try:
        return message.FromString(raw)
    except DecodeError:
        raise SpecError(f"the request is not an {message.DESCRIPTOR.full_name}") from None


def _source(source: pb.Source) -> bytes:
    """The field of a SolveResponse that says where it came from; messages that follow each other are merged."""
    return pb.SolveResponse(source=source).SerializeToString()


_SOLVED, _SHARED, _CACHED = map(_source, (pb.SOURCE_SOLVED, pb.SOURCE_SHARED, pb.SOURCE_CACHED))
