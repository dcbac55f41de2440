"""From the bytes of a request to the bytes of its answer.

A thread parses, validates and tries the kind's own algorithm, which releases the interpreter lock; what takes a
search goes to a worker process, whose death costs nobody else. The event loop itself does what is sure to take well
under a millisecond by its size: handing it over would take longer, for everyone. Identical requests that are under
way share one solve, and repeated ones get the stored answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message
from google.rpc.code_pb2 import Code

from ..solvers.algorithms import load
from ..solvers.backends.pyomo import KNOWN_SOLVERS
from ..solvers.control import Options
from ..solvers.solve import SearchNeeded, Solver
from ..specs.certificate import Certificate
from ..specs.errors import SolveTimeout, SpecError, UnsupportedError
from ..specs.spec import Spec, kinds
from .admission import Admission, Work
from .answers import Answer, Cache, Caller, Flight, Flights, content_key
from .protocol import equipoise_pb2 as pb
from .protocol import wire
from .protocol.failures import Refused
from .settings import ServerSettings
from .telemetry import Telemetry
from .tenants import Tenant
from .workers import Workers

T = TypeVar("T")
M = TypeVar("M", bound=Message)

SMALL = 2**14
"""Bytes of a request up to which it is parsed where it arrives: that takes less than handing it to a thread."""
LARGEST_IN_A_THREAD, LARGEST_TABLE = 2**25, 2**22
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
    trace: Any = None
    """The parent of spans within the call, None without traces."""

    @property
    def within(self) -> float | None:
        """Seconds for a solve that is to be back before the deadline, and within the tenant's quota."""
        quota = self.tenant.limits().seconds
        if self.deadline is None:
            return quota
        left = max(self.deadline - time.monotonic(), 0.0)
        left -= min(MARGIN, 0.1 * left)
        return left if quota is None else min(left, quota)


@dataclass(frozen=True)
class _Asked:
    """A request that was read, and the solve that will answer it, which may be another caller's."""

    call: Call
    spec: Spec[Any]
    options: Options
    key: str
    flight: Flight
    first: bool


class Engine:
    """Solves for callers. Belongs to the event loop."""

    def __init__(self, settings: ServerSettings, workers: Workers, telemetry: Telemetry) -> None:
        self.settings, self.workers, self.telemetry = settings, workers, telemetry
        self.threads = ThreadPoolExecutor(settings.threads, "equipoise-solve")
        self.admission = Admission(settings.threads, settings.patience)
        self.searches = Admission(settings.workers, SEARCH_PATIENCE)
        self._cache = Cache(settings.cache)
        self._flights = Flights()
        self._loop = asyncio.get_running_loop()
        self._limits = settings.limits
        self._algorithms = {kind: found.algorithm for kind in kinds() if (found := load(kind)) is not None}

    async def solve(self, call: Call, raw: bytes) -> bytes:
        """The serialised SolveResponse to a serialised SolveRequest. Raises `EquipoiseError`."""
        try:
            while True:
                with self.admission.taking("Solve", len(raw)) as work:
                    begun = await self._begun(call, raw, work)
                if isinstance(begun, bytes):
                    return begun
                answer = await self._landed(begun)  # which takes no thread
                if answer is not None:
                    return answer + (_SOLVED if begun.first else _SHARED)
                self._flights.leave(call, gone=False)
        except asyncio.CancelledError:
            self._flights.leave(call)
            raise

    async def _begun(self, call: Call, raw: bytes, work: Work) -> bytes | _Asked:
        """The answer, or the solve to wait for, be it a worker's or another caller's."""
        if len(raw) > SMALL:
            return await self.in_thread(work, lambda: self._begin(call, raw))
        asked = self._read(call, raw)
        if isinstance(asked, bytes) or not asked.first:
            return asked
        if self.quick(asked.spec):
            return self._solved(asked, raw) or asked
        return await self.in_thread(work, lambda: self._solved(asked, raw) or asked)

    def quick(self, spec: Spec[Any]) -> bool:
        """Whether handing a task to a thread would take longer than solving it."""
        return self._algorithms[spec.kind].quick(spec)

    def large(self, spec: Spec[Any], raw: bytes) -> bool:
        """Whether a task may take more memory than this process should spend on one."""
        return len(raw) > LARGEST_IN_A_THREAD or self._algorithms[spec.kind].numbers(spec) > LARGEST_TABLE

    def close(self) -> None:
        """Let the threads go."""
        self.threads.shutdown(wait=False, cancel_futures=True)

    async def in_thread(self, work: Work, run: Callable[[], T]) -> T:
        """Run something in a solver thread, and note how long it took."""

        def timed() -> T:
            started = time.perf_counter()
            try:
                return run()
            finally:
                work.seconds = time.perf_counter() - started

        return await asyncio.get_running_loop().run_in_executor(self.threads, timed)

    async def search(self, call: Call, request: bytes) -> pb.SolveResponse:
        """Have a worker process answer a serialised SolveRequest. Raises `Refused` where too much waits for one."""
        with self.searches.taking(call.kind, len(request)) as work, self.telemetry.span("search", call.trace):
            response = pb.SolveResponse.FromString(await self.workers.solve(request, within=call.within))
            if response.HasField("plan"):
                work.seconds = response.plan.certificate.seconds
            return response

    def options(self, call: Call, message: pb.Options) -> Options:
        """The options of a request, as far as the tenant may have them. Raises `UnsupportedError` and `Refused`."""
        options = wire.read_options(message)
        solver = (options.backend or "").partition("pyomo:")[2]
        if solver and solver not in KNOWN_SOLVERS:  # Pyomo would run any program of that name
            known = ", ".join(KNOWN_SOLVERS)
            raise UnsupportedError(f"backend 'pyomo:{solver:.60}' is not served: pyomo takes {known} here")
        most = call.tenant.limits().threads
        if most is not None and options.threads > most:
            text = f"the tenant {call.tenant.name} may use {most} threads in a solve, and asked for {options.threads}"
            raise Refused(Code.PERMISSION_DENIED, "THREADS_QUOTA", text)
        return options

    def limits(self, call: Call) -> wire.Limits:
        """What one document of a caller may hold."""
        limits, quota = self._limits, call.tenant.limits().numbers
        return limits if quota is None or quota >= limits.numbers else replace(limits, numbers=quota)

    def _begin(self, call: Call, raw: bytes) -> bytes | _Asked:
        asked = self._read(call, raw)
        if isinstance(asked, bytes) or not asked.first:
            return asked
        return self._solved(asked, raw) or asked

    def _read(self, call: Call, raw: bytes) -> bytes | _Asked:
        """A request, validated whole, and the solve that will answer it; or the stored answer."""
        with self.telemetry.span("validate", call.trace):
            message = parsed(pb.SolveRequest, raw)
            options = self.options(call, message.options)
            spec = wire.read_task(message.spec, self.limits(call))
            call.kind = spec.kind
            key = content_key(call.tenant.name, spec, options)
        if (stored := self._cache.get(call.tenant.name, key)) is not None:
            self.telemetry.repeated("cached")
            return stored + _CACHED
        flight, first = self._flights.join(f"{key} {options.time_limit}", call)
        if not first:
            self.telemetry.repeated("shared")
        return _Asked(call, spec, options, key, flight, first)

    def _solved(self, asked: _Asked, raw: bytes) -> bytes | None:
        """The answer of the kind's own algorithm; None where a search has been begun."""
        call, flight = asked.call, asked.flight
        try:
            if self.large(asked.spec, raw):
                raise SearchNeeded
            with self.telemetry.span("solve", call.trace):
                plan = Solver(asked.options).solve(
                    asked.spec, lambda _: not flight.abandoned, call.within, search=False
                )
        except SearchNeeded:  # from here on it depends on this caller no more, who may leave before those who joined
            self._loop.call_soon_threadsafe(self._search_for, asked, raw)
            return None
        except BaseException as error:
            self._flights.land(flight, error)
            raise
        response = b"".join(wire.field(1, wire.plan_fields(plan)))
        self._land(asked, response, plan.certificate)
        return response + _SOLVED

    def _search_for(self, asked: _Asked, raw: bytes) -> None:
        if asked.flight.abandoned:
            self._flights.land(asked.flight, SolveTimeout("nobody waited for the answer any more"))
        else:
            asked.flight.search = asyncio.create_task(self._searched(asked, raw))

    async def _searched(self, asked: _Asked, raw: bytes) -> None:
        try:
            response = await self.search(asked.call, raw)
            certificate = response.plan.certificate if response.HasField("plan") else None
            self._land(asked, response.SerializeToString(), certificate)
        except asyncio.CancelledError:
            self._flights.land(asked.flight, SolveTimeout("nobody waited for the answer any more"))
            raise
        except Exception as error:
            self._flights.land(asked.flight, error)

    def _land(self, asked: _Asked, response: bytes, issued: Certificate | pb.Certificate | None) -> None:
        """Tell all who wait; keep what no limit cut short."""
        cut = hurried = False
        if issued is not None and issued.stopped in ("time limit", "interrupted"):
            cut, hurried = True, issued.stopped == "interrupted" or issued.time_limit != asked.options.time_limit
        if not cut:
            self._cache.put(asked.call.tenant.name, asked.key, response)
        self._flights.land(asked.flight, Answer(response, hurried))
        self.telemetry.solved(asked.call.tenant.name, asked.call.kind, issued)

    async def _landed(self, asked: _Asked) -> bytes | None:
        """The answer, once it is there; None if it was cut short by what does not bind this caller."""
        try:
            answer = await asyncio.wrap_future(self._flights.landing(asked.flight))
        except SolveTimeout:
            if asked.first or asked.options.time_limit is not None:
                raise
            return None
        return None if answer.hurried and not asked.first else answer.response


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
