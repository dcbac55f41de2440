"""The server as a whole: what it is made of, how it starts, and how it stops without losing anything."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from .balancer import NAME as BALANCER
from .balancer import Balancer
from .calls import Doorkeeper, Gate
from .engine import Engine
from .job_queue import JobQueue
from .jobs import NAME as JOBS
from .jobs import JobsService
from .protocol import equipoise_pb2 as pb
from .sessions import Sessions
from .settings import ServerSettings
from .store import Store
from .telemetry import Telemetry
from .tenants import Tenants
from .transport import bind
from .workers.engines import open_workers
from .workers.pool import Workers

SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread that holds the interpreter lock gives way: the event loop must not wait for parsing."""
KEEPALIVE = 60.0
"""Seconds of silence after which either side of a connection looks whether the other is there."""
KEEPALIVE_TIMEOUT = 20.0
"""Seconds that the other side has to answer."""

LAST_GRACE = 1.0
"""Seconds that a solve has to end once everything else has."""
MOST_PENDING = 256
"""Calls that have arrived and are not looked at yet."""
MOST_CALLS = 4096
"""Calls in flight, sessions aside; gRPC itself refuses more."""
SERVICES = (BALANCER, JOBS)

_log = structlog.get_logger()


def grpc_options(largest_message: int) -> list[tuple[str, int]]:
    """Options of the gRPC server. The client's pings are answered as often as its keepalive sends them."""
    return [
        ("grpc.max_receive_message_length", largest_message),
        ("grpc.max_send_message_length", -1),  # an answer that was worked for is not thrown away
        ("grpc.keepalive_time_ms", round(KEEPALIVE * 1000)),
        ("grpc.keepalive_timeout_ms", round(KEEPALIVE_TIMEOUT * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", round(KEEPALIVE * 500)),
        ("grpc.max_concurrent_streams", 1024),  # of one connection
        # What the loop has not come to yet admission cannot see: gRPC itself cancels some of it beyond the first number
        # and all of it beyond the second. Clients try again.
        ("grpc.server.max_pending_requests", MOST_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", 2 * MOST_PENDING),
        ("grpc.so_reuseport", 0),  # two servers on one port would each get some of the calls
    ]


class Server:
    """One server process. Belongs to the event loop that starts it.

    addresses: where it listens, once it has started.
    """

    def __init__(self, settings: ServerSettings, telemetry: Telemetry | None = None) -> None:
        """Raises `SpecError` for a file of tenants that cannot be read."""
        self.settings = settings
        self.telemetry = telemetry or Telemetry(settings)
        self.tenants = Tenants(settings.tenants)
        self.addresses: list[str] = []
        self._opened = AsyncExitStack()
        self._grace = 0.0

    async def start(self) -> None:
        """Open the store, start the workers, listen. Raises `ServiceError` or `SpecError` where that fails."""
        try:
            await self._start()
        except BaseException:
            await self._opened.aclose()
            raise

    async def _start(self) -> None:
        settings, opened = self.settings, self._opened
        sys.setswitchinterval(SWITCH_INTERVAL)
        self.store = await asyncio.to_thread(Store, settings.store_url)
        opened.callback(self.store.close)
        await asyncio.to_thread(self.telemetry.start)
        opened.push_async_callback(asyncio.to_thread, self.telemetry.close)
        self.workers = await asyncio.to_thread(_workers, settings, self.telemetry)
        opened.push_async_callback(self.workers.stop, LAST_GRACE)
        self.queue = JobQueue(
            self.store,
            self.workers,
            slots=self.workers.for_jobs,
            lease=settings.lease,
            retention=settings.retention,
            most_queued=settings.most_queued,
            most_queued_per_tenant=settings.most_queued_per_tenant,
            telemetry=self.telemetry,
        )
        engine = self.engine = Engine(settings, self.workers, self.telemetry)
        opened.callback(engine.close)
        self.sessions = Sessions(engine)
        self._assemble(engine)
        self.addresses = bind(self._grpc, settings)  # an address that cannot be had is told before the long part
        await asyncio.to_thread(_load_algorithms)
        await self.workers.start()
        opened.push_async_callback(self._stop)
        await self.queue.start()
        await self._grpc.start()
        refreshing = asyncio.create_task(self.tenants.watch())
        opened.callback(refreshing.cancel)
        for name in (*SERVICES, ""):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def _assemble(self, engine: Engine) -> None:
        self.telemetry.queue("threads", lambda: engine.admission.taken)
        self.telemetry.queue("workers", lambda: self.workers.waiting)
        self.telemetry.observe("equipoise_jobs_now", "Jobs in each state, of all servers.", "state", self._jobs)
        gate = Gate(self.tenants, self.telemetry)
        self._grpc = grpc.aio.server(
            options=grpc_options(self.settings.largest_message),
            interceptors=[] if self.settings.tenants is None else [Doorkeeper(self.tenants, self.telemetry)],
            maximum_concurrent_rpcs=MOST_CALLS + self.settings.most_sessions,
        )
        services = Balancer(engine, self.sessions).handlers(gate), JobsService(engine, self.queue).handlers(gate)
        self._grpc.add_generic_rpc_handlers(services)
        self._health = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue]  # there since 3.6
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._grpc)

    def _jobs(self) -> dict[str, float]:
        states = pb.JobState.Name
        return {states(state).removeprefix("JOB_STATE_").lower(): count for state, count in self.store.counts().items()}

    async def wait(self) -> None:
        """Return when the server has stopped."""
        await self._grpc.wait_for_termination()

    async def drain(self, seconds: float) -> None:
        """Refuse what is new, let what is in flight end for so long, and stop."""
        self._grace = seconds
        await self._opened.aclose()

    async def _stop(self) -> None:
        await self._health.enter_graceful_shutdown()
        self.sessions.drain()
        await asyncio.gather(self._grpc.stop(self._grace), self.queue.drain(self._grace))


def _workers(settings: ServerSettings, telemetry: Telemetry) -> Workers:
    """Takes seconds where it joins a cluster."""
    counted = settings.engine == "local" or "workers" in settings.model_fields_set
    return open_workers(
        settings.engine,
        settings.workers if counted else None,
        memory=settings.worker_memory,
        address=settings.ray_address,
        limits=settings.limits,
        on_lost=telemetry.worker_lost,
    )


def _load_algorithms() -> None:
    from ..solvers.algorithms import algorithm_kinds, load

    for kind in algorithm_kinds():
        load(kind)


async def serve(settings: ServerSettings, ready: Callable[[Sequence[str]], None] = lambda _: None) -> int:
    """Run a server until it is told to stop by SIGTERM or SIGINT; at the second signal it stops at once.

    ready: told the addresses once they answer. Returns how many threads are still at work for callers who have left:
    the end of the process would wait for them.
    """
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    server = Server(settings)
    await server.start()

    def stop() -> None:
        if asked.is_set():
            os._exit(130)  # an orderly end is what was asked for the first time
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    for address in server.addresses:
        _log.info("listening", address=address)
    ready(server.addresses)
    stopped = asyncio.ensure_future(server.wait())
    waiting = asyncio.ensure_future(asked.wait())
    await asyncio.wait((stopped, waiting), return_when=asyncio.FIRST_COMPLETED)
    _log.info("draining", seconds=settings.drain)
    await server.drain(settings.drain)
    return server.engine.busy
