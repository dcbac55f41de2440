"""One server's place among those that share a store: it shows that it lives, holds on to its jobs, buries the dead.

The times are those of the event loop's clock, which never jumps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from .leases import Beat, Claim, Leases
from .protocol import equipoise_pb2 as pb
from .protocol.failures import Refused
from .store_calls import StoreCalls

LOOK = 1.0
"""Seconds between two looks at who asked for an end of our jobs, at most."""
SWEEP = 60.0
"""Seconds between two searches for jobs to forget, at most."""
FORGOTTEN_AT_ONCE = 50
"""Jobs forgotten between two beats: a server that forgets many must still show that it lives."""

_log = structlog.get_logger()


@dataclass(eq=False)
class Running:
    """A job at work here. `noted` is the progress that is written down; `recording`: its end is being written."""

    claim: Claim
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    progress: pb.Progress | None = None
    noted: pb.Progress | None = None
    recording: bool = False
    task: asyncio.Task[None] | None = None


class Keeper:
    """Keeps the leases of the jobs in `running`, by number. Belongs to the event loop.

    lease: seconds of silence after which other servers take over. retention: seconds that an ended job is kept.
    wake: called where there may be jobs to start.
    """

    def __init__(
        self,
        leases: Leases,
        calls: StoreCalls,
        running: Mapping[int, Running],
        wake: Callable[[], None],
        *,
        lease: float,
        retention: float,
    ) -> None:
        self._leases, self._calls, self._running, self._wake = leases, calls, running, wake
        self._lease, self._retention = lease, retention
        self._shortest = lease
        self._served, self._served_at = 0.0, 0.0
        self._beat_at, self._sweep_at = 0.0, 0.0
        self._seen: dict[str, tuple[Beat, float]] = {}
        self._strange: dict[int, int] = {}

    async def start(self) -> None:
        """Show this server for the first time. Raises `Refused` where the store cannot be reached."""
        self._served_at = now()
        await self._beat()

    async def keep(self) -> None:
        """Go on until cancelled, whatever the store does."""
        while True:
            await asyncio.sleep(min(LOOK, self._shortest / 10))
            try:
                await self._keep_once()
            except Exception as error:
                tell(error, "jobs_not_kept")

    async def _keep_once(self) -> None:
        if now() >= self._beat_at:  # first: whatever else fails, the others must see that this server lives
            await self._beat()
        await self._compare()
        await self._note()
        if now() >= self._sweep_at:
            await self._sweep()

    async def _beat(self) -> None:
        began = now()
        self._served, others = await self._calls.ask(self._leases.beat, self._clock())
        blind, self._served_at = now() - self._served_at, now()
        self._shortest = min([self._lease, *(beat.lease for beat in others.values())])
        self._beat_at = began + self._shortest / 4
        before, self._seen = self._seen, {owner: (beat, now()) for owner, beat in others.items()}
        for owner, (beat, since) in before.items():
            # Where the store was away for long, the others could not show themselves either.
            if others.get(owner) == beat and blind <= beat.lease / 2:
                self._seen[owner] = beat, since
        for owner, (beat, since) in self._seen.items():
            if now() - since > beat.lease:
                found = await self._calls.ask(self._leases.bury, owner, beat)
                _log.warning("server_gone", server=owner, jobs=found)
                self._wake()

    def _clock(self) -> float:
        """Seconds in which a server of this store has been running: what retention counts, since clocks jump."""
        return self._served + now() - self._served_at

    async def _compare(self) -> None:
        """Hold what runs here against what is written down."""
        before = list(self._running.values())
        held = await self._calls.ask(self._leases.held)
        for running in before:
            turn, asked = held.get(running.claim.seq, (None, False))
            if self._running.get(running.claim.seq) is not running or running.recording:
                continue
            if turn != running.claim.turn:
                _log.warning("lease_lost", job=running.claim.id)
                if running.task is not None:
                    running.task.cancel()
            elif asked:
                running.stop.set()
        # One that is written down as ours and does not run, twice in a row: its claim was never heard of here.
        strange = {seq: turn for seq, (turn, _) in held.items() if seq not in self._running}
        orphans = {seq: turn for seq, turn in strange.items() if self._strange.get(seq) == turn}
        self._strange = strange
        if orphans:
            await self._calls.ask(self._leases.disown, orphans)
            _log.warning("jobs_disowned", jobs=len(orphans))
            self._wake()

    async def _note(self) -> None:
        news = [running for running in self._running.values() if running.progress is not running.noted]
        if not news:
            return
        latest = {running.claim: running.progress for running in news if running.progress is not None}
        await self._calls.ask(self._leases.note, latest)
        for running in news:
            running.noted = latest[running.claim]

    async def _sweep(self) -> None:
        before = self._clock() - self._retention
        found = await self._calls.ask(self._leases.forget, before, FORGOTTEN_AT_ONCE)
        if found:
            _log.info("jobs_forgotten", jobs=found)
        if found < FORGOTTEN_AT_ONCE:
            self._sweep_at = now() + min(SWEEP, self._retention / 2)


def tell(error: Exception, event: str) -> None:
    """Failures of the store are told elsewhere, once; anything else is told with where it happened."""
    if not isinstance(error, Refused):
        _log.error(event, exc_info=error)


def now() -> float:
    """Seconds on the event loop's clock."""
    return asyncio.get_running_loop().time()
