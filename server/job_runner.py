"""One server's share of the work in a store's queue: claimed, given to workers, written down.

A store that fails stops nothing: what runs goes on, and a result is held until it can be written down.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import structlog
from google.rpc.code_pb2 import Code

from ..solvers.control import Progress
from ..specs.errors import EquipoiseError, SolveTimeout
from .database import Database
from .job_ends import CANCELLED, DONE, FAILED, QUEUED
from .job_keeper import LOOK, Keeper, Running, now, tell
from .leases import Claim, Leases, Outcome
from .protocol import equipoise_pb2 as pb
from .protocol.failures import Refused, to_status
from .store_calls import StoreCalls
from .workers.worker import WorkerLost

SLOWEST = 5.0
"""Seconds between two tries of a store that fails, at most."""
JOB_PRIORITY = 1
"""Behind callers who wait for their answers."""

_log = structlog.get_logger()


class Solves(Protocol):
    """What runs a job: `Workers`."""

    async def solve(
        self,
        request: bytes,
        *,
        within: float | None = None,
        priority: int = 0,
        progress: Callable[[Progress], None] | None = None,
        stop: asyncio.Event | None = None,
    ) -> bytes: ...


class Observer(Protocol):
    """What counts what happens: `Telemetry`."""

    def job(self, tenant: str, kind: str, state: str) -> None: ...
    def solved(self, tenant: str, kind: str, certificate: pb.Certificate | None) -> None: ...


class Changes(Protocol):
    """Who wants to know that a job has changed: `Watching`."""

    def poke(self) -> None: ...
    def progressed(self, id: str, progress: pb.Progress) -> None: ...


class Runner:
    """Runs jobs until it is drained. Belongs to the event loop."""

    def __init__(
        self,
        database: Database,
        workers: Solves,
        changes: Changes,
        *,
        slots: int,
        lease: float,
        retention: float,
        telemetry: Observer | None,
    ) -> None:
        """See `JobQueue`."""
        self.running: dict[int, Running] = {}
        self.calls = StoreCalls(2, "equipoise-jobs", ours=True)
        """To the store, past those of callers: many of them cannot keep a server from showing that it lives."""
        self._leases = Leases(database, secrets.token_hex(16), lease)
        self._keeper = Keeper(self._leases, self.calls, self.running, self.wake, lease=lease, retention=retention)
        self._workers, self._changes, self._telemetry = workers, changes, telemetry
        self._slots = slots
        self._loops: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self._draining = False

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    async def start(self) -> None:
        """Begin. Raises `Refused` where the store cannot be reached."""
        await self._keeper.start()
        self._loops = [
            asyncio.create_task(self._start_jobs(), name="equipoise-jobs-start"),
            asyncio.create_task(self._keeper.keep(), name="equipoise-jobs-keep"),
        ]

    async def drain(self, grace: float) -> None:
        """Start nothing more, let what runs finish within the grace in seconds, and put the rest back.

        Where the store cannot be reached, other servers find out by themselves what was left behind.
        """
        self._draining = True
        self._wake.set()
        if self._loops:
            starter, keeper = self._loops
            await starter  # not cancelled: what it claims must be known here
            tasks = {running.task: running.claim for running in self.running.values() if running.task is not None}
            if tasks:
                await asyncio.wait(tasks, timeout=grace)
            left = {task: claim for task, claim in tasks.items() if not task.done()}
            for task in (*left, keeper):
                task.cancel()
            await asyncio.gather(*left, keeper, return_exceptions=True)
            with suppress(Refused):
                states = await self.calls.ask(self._leases.give_back, list(left.values()))
                await self.calls.ask(self._leases.leave)
                if given := states.count(QUEUED):
                    _log.info("jobs_given_back", jobs=given)
        await self.calls.close()

    # -- jobs --------------------------------------------------------------------------------------------------------

    async def _start_jobs(self) -> None:
        """Claim jobs while there is room to run them."""
        pause = 0.1
        while not self._draining:
            self._wake.clear()
            claim = None
            try:
                if len(self.running) < self._slots:
                    claim = await self.calls.ask(self._leases.claim)
                pause = 0.1
            except Exception as error:
                tell(error, "jobs_not_claimed")
                await self._pause(pause)
                pause = min(2 * pause, SLOWEST)
                continue
            if claim is None:
                await self._pause(LOOK)
                continue
            running = self.running[claim.seq] = Running(claim)
            running.task = asyncio.create_task(self._run(running), name=f"equipoise-job-{claim.id}")
            self._changes.poke()

    async def _pause(self, seconds: float) -> None:
        """Wait for something to do, or for a time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _run(self, running: Running) -> None:
        claim, began = running.claim, now()
        self._told(claim, "running", attempt=claim.attempts)
        try:
            outcome = await self._outcome(running)
            running.recording = True
            state = await self._recorded(claim, outcome)
        except Exception as error:
            _log.error("job_not_recorded", job=claim.id, exc_info=error)  # it is found ownerless, and put back
            return
        finally:
            if self.running.get(claim.seq) is running:
                del self.running[claim.seq]
            self._wake.set()
            self._changes.poke()
        if state is None:
            _log.warning("job_lost_to_another_server", job=claim.id)
            return
        failure = None if outcome is None else outcome.failure
        reason = {} if failure is None else {"reason": failure.message}
        self._told(claim, _name(state), seconds=round(now() - began, 3), **reason)

    async def _outcome(self, running: Running) -> Outcome | None:
        """How a job ends; None where it never came to a worker."""
        claim = running.claim

        def progress(now: Progress) -> None:
            running.progress = pb.Progress(
                seconds=now.seconds, objective=now.objective, bound=now.bound, stage=now.stage
            )
            self._changes.progressed(claim.id, running.progress)

        try:
            answer = await self._workers.solve(
                claim.request, priority=JOB_PRIORITY, progress=progress, stop=running.stop
            )
            whole, certificate = await asyncio.to_thread(_read, claim.request, answer)
        except WorkerLost as error:
            return Outcome(FAILED if error.memory else QUEUED, failure=to_status(error))
        except SolveTimeout as error:
            state = CANCELLED if running.stop.is_set() else FAILED
            return Outcome(state, failure=to_status(error))
        except Exception as error:
            if isinstance(error, Refused) and error.code in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED):
                await asyncio.sleep(min(error.retry_after or LOOK, SLOWEST))  # no fault of the job's
                return None
            if not isinstance(error, EquipoiseError):
                _log.error("job_failed", job=claim.id, exc_info=error)
            return Outcome(FAILED, failure=to_status(error))
        if self._telemetry is not None:
            self._telemetry.solved(claim.tenant, claim.kind, certificate)
        return Outcome(DONE, result=answer, whole=whole)

    def _told(self, claim: Claim, state: str, **more: object) -> None:
        _log.info(f"job_{state}", job=claim.id, tenant=claim.tenant, kind=claim.kind, **more)
        if self._telemetry is not None:
            self._telemetry.job(claim.tenant, claim.kind, state)

    async def _recorded(self, claim: Claim, outcome: Outcome | None) -> int | None:
        """Write the end of a job down, however long the store fails. Returns its state, None if it is not ours."""
        pause = 0.1
        while True:
            try:
                if outcome is not None:
                    return await self.calls.ask(self._leases.finish, claim, outcome)
                (state,) = await self.calls.ask(self._leases.give_back, [claim])
                return state
            except Refused:
                await asyncio.sleep(pause)
                pause = min(2 * pause, SLOWEST)


def _read(request: bytes, answer: bytes) -> tuple[bool, pb.Certificate | None]:
    """Whether no limit cut an answer short, and its certificate if there is a plan."""
    message = pb.SolveResponse.FromString(answer)
    if message.HasField("plan"):
        return message.plan.certificate.stopped in ("solved", "gap"), message.plan.certificate
    # Why there is no plan is explored within the time limit as well.
    return not pb.SolveRequest.FromString(request).options.HasField("time_limit"), None


def _name(state: int) -> str:
    """A state of a job as people call it."""
    return pb.JobState.Name(pb.JobState.ValueType(state)).removeprefix("JOB_STATE_").lower()
