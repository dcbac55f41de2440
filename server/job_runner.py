"""One server's share of the work in a store's queue: claimed, given to workers, written down.

A store that fails stops nothing: what runs goes on, and a result is held until it can be written down.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ParamSpec, Protocol, TypeVar

import structlog
from google.rpc.code_pb2 import Code

from ..solvers.control import Progress
from ..specs.errors import EquipoiseError, SolveTimeout
from .database import Database
from .leases import CANCELLED, DONE, FAILED, QUEUED, Claim, Leases, Outcome
from .protocol import equipoise_pb2 as pb
from .protocol.failures import Refused, to_status
from .workers import WorkerLost

P = ParamSpec("P")
T = TypeVar("T")

LOOK = 1.0
"""Seconds between two looks at the queue, which other servers write to as well, and at who asked for an end."""
SWEEP = 60.0
"""Seconds between two searches for jobs to forget, at most."""
SLOWEST = 5.0
"""Seconds between two tries of a store that fails, at most."""
SILENCE = 30.0
"""Seconds between two lines in the log about a store that fails."""
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
    def worker_lost(self, reason: str) -> None: ...


@dataclass(eq=False)
class Running:
    """A job at work here. `noted` is the progress that is written down."""

    claim: Claim
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    progress: pb.Progress | None = None
    noted: pb.Progress | None = None
    task: asyncio.Task[None] | None = None


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
        self._leases = Leases(database, secrets.token_hex(16))
        self._workers, self._changes, self._telemetry = workers, changes, telemetry
        self._slots, self._lease, self._retention = slots, lease, retention
        self._threads = ThreadPoolExecutor(2, "equipoise-jobs")
        self._loops: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self._draining = False
        self._tell_at = 0.0
        self._served, self._served_at = 0.0, 0.0
        self._beat_at, self._sweep_at = 0.0, 0.0
        self._seen: dict[str, tuple[int, float]] = {}
        self._strange: dict[int, int] = {}

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    async def in_thread(self, function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Speak to the store in a thread that callers do not use."""
        try:
            return await in_threads(self._threads, function, *args, **options)
        except Refused as error:
            if now() >= self._tell_at:
                self._tell_at = now() + SILENCE
                _log.error("store_failed", error=str(error), cause=str(error.__cause__))
            raise

    async def start(self) -> None:
        """Begin. Raises `Refused` where the store cannot be reached."""
        self._served_at = now()
        await self._beat()
        self._loops = [
            asyncio.create_task(self._start_jobs(), name="equipoise-jobs-start"),
            asyncio.create_task(self._keep(), name="equipoise-jobs-keep"),
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
                await self.in_thread(self._leases.give_back, list(left.values()))
                await self.in_thread(self._leases.leave)
                if left:
                    _log.info("jobs_given_back", jobs=len(left))
        await asyncio.to_thread(self._threads.shutdown)

    # -- jobs --------------------------------------------------------------------------------------------------------

    async def _start_jobs(self) -> None:
        """Claim jobs while there is room to run them."""
        pause = 0.1
        while not self._draining:
            self._wake.clear()
            claim = None
            try:
                if len(self.running) < self._slots:
                    claim = await self.in_thread(self._leases.claim)
                pause = 0.1
            except Exception as error:
                _tell(error, "jobs_not_claimed")
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
        reason = {} if outcome.failure is None else {"reason": outcome.failure.message}
        self._told(claim, _name(state), seconds=round(now() - began, 3), **reason)

    async def _outcome(self, running: Running) -> Outcome:
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
            if self._telemetry is not None:
                self._telemetry.worker_lost(str(error))
            return Outcome(QUEUED, failure=to_status(error))
        except SolveTimeout as error:
            state = CANCELLED if running.stop.is_set() else FAILED
            return Outcome(state, failure=to_status(error))
        except Exception as error:
            if isinstance(error, Refused) and error.code in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED):
                await asyncio.sleep(min(error.retry_after or LOOK, SLOWEST))  # no fault of the job's
                return Outcome(QUEUED, failure=to_status(error), counted=False)
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

    async def _recorded(self, claim: Claim, outcome: Outcome) -> int | None:
        """Write the end of a job down, however long the store fails."""
        pause = 0.1
        while True:
            try:
                return await self.in_thread(self._leases.finish, claim, outcome)
            except Refused:
                await asyncio.sleep(pause)
                pause = min(2 * pause, SLOWEST)

    # -- leases ------------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Show that this server lives, bury those that do not, and see to what others have asked of our jobs."""
        while True:
            await asyncio.sleep(min(LOOK, self._lease / 10))
            try:
                await self._keep_once()
            except Exception as error:
                _tell(error, "jobs_not_kept")

    async def _keep_once(self) -> None:
        if now() >= self._beat_at:  # first: whatever else fails, the others must see that this server lives
            await self._beat()
        await self._compare()
        await self._note()
        if now() >= self._sweep_at:
            self._sweep_at = now() + min(SWEEP, self._retention / 2)
            await self._sweep()

    async def _beat(self) -> None:
        began = now()
        self._served, others = await self.in_thread(self._leases.beat, self._clock())
        self._beat_at = began + self._lease / 4
        blind, self._served_at = now() - self._served_at > self._lease / 2, now()
        if blind:  # the store was away: the others could not show themselves either
            self._seen = {}
        self._seen = {
            owner: seen if (seen := self._seen.get(owner)) is not None and seen[0] == beat else (beat, now())
            for owner, beat in others.items()
        }
        for owner, (beat, since) in self._seen.items():
            if now() - since > self._lease:
                found = await self.in_thread(self._leases.bury, owner, beat)
                _log.warning("server_gone", server=owner, jobs=found)
                self._wake.set()

    def _clock(self) -> float:
        """Seconds in which a server of this store has been running: what retention counts, since clocks jump."""
        return self._served + now() - self._served_at

    async def _compare(self) -> None:
        """Hold what runs here against what is written down."""
        before = list(self.running.values())
        held = await self.in_thread(self._leases.held)
        for running in before:
            turn, asked = held.get(running.claim.seq, (None, False))
            if self.running.get(running.claim.seq) is not running:
                continue
            if turn != running.claim.turn:
                _log.warning("lease_lost", job=running.claim.id)
                if running.task is not None:
                    running.task.cancel()
            elif asked:
                running.stop.set()
        # One that is written down as ours and does not run, twice in a row: its claim was never heard of here.
        strange = {seq: turn for seq, (turn, _) in held.items() if seq not in self.running}
        orphans = {seq: turn for seq, turn in strange.items() if self._strange.get(seq) == turn}
        self._strange = strange
        if orphans:
            await self.in_thread(self._leases.disown, orphans)
            _log.warning("jobs_disowned", jobs=len(orphans))
            self._wake.set()

    async def _note(self) -> None:
        news = [running for running in self.running.values() if running.progress is not running.noted]
        if not news:
            return
        latest = {running.claim: running.progress for running in news if running.progress is not None}
        await self.in_thread(self._leases.note, latest)
        for running in news:
            running.noted = latest[running.claim]

    async def _sweep(self) -> None:
        while found := await self.in_thread(self._leases.forget, self._clock() - self._retention):
            _log.info("jobs_forgotten", jobs=found)


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


def _tell(error: Exception, event: str) -> None:
    """Failures of the store are told elsewhere, once; anything else is told with where it happened."""
    if not isinstance(error, Refused):
        _log.error(event, exc_info=error)


def now() -> float:
    """Seconds on the event loop's clock, which never jumps."""
    return asyncio.get_running_loop().time()


async def in_threads(threads: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Run something that waits, off the event loop."""
    return await asyncio.get_running_loop().run_in_executor(threads, lambda: function(*args, **options))
