"""Jobs as they change, for any number of readers, from one question to the store at a time.

Readers are shown the latest state when they are ready for it, and never a backlog: a slow one costs no memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

from google.rpc.code_pb2 import Code

from .job_ends import ENDED
from .protocol import equipoise_pb2 as pb
from .protocol.failures import Refused
from .store import not_found

EVERY = 0.25
"""Seconds between two questions to the store, which other servers write to as well."""
PATIENCE = 30.0
"""Seconds without an answer from the store after which readers are told."""
MOST = 10_000
"""Readers at one time."""
TOGETHER = 500
"""Jobs asked after in one question."""


@dataclass(eq=False)
class _Watched:
    job: pb.Job
    readers: set[asyncio.Event] = field(default_factory=set)
    error: Exception | None = None

    def changed(self) -> None:
        for reader in self.readers:
            reader.set()


class Watching:
    """The jobs that somebody watches. Belongs to the event loop."""

    def __init__(self, look: Callable[[Sequence[str]], Awaitable[list[pb.Job]]]) -> None:
        """look: the jobs of some ids, as far as they are there. Raises `Refused` where the store fails."""
        self._look = look
        self._watched: dict[str, _Watched] = {}
        self._poke = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed: Refused | None = None
        self._readers = 0

    async def watch(self, job: pb.Job, interval: float) -> AsyncGenerator[pb.Job, None]:
        """A job, and again whenever it changes, until it has ended.

        interval: the shortest time in seconds between two messages about progress.

        Raises `Refused` where it is deleted meanwhile, and where the store or this server goes away.
        """
        if self._readers >= MOST:
            raise Refused(Code.RESOURCE_EXHAUSTED, "WATCHERS", f"{MOST:,} watch jobs here, and no more may", 5.0)
        # Who comes later is shown what the others see: of two looks at the store, nobody knows which is the newer.
        entry = self._watched.setdefault(job.id, _Watched(job))
        event = asyncio.Event()
        entry.readers.add(event)
        self._readers += 1
        try:
            job = entry.job
            if job.state not in ENDED:
                self._begin()
            yield job
            async with aclosing(self._changes(entry, event, job, interval)) as changes:
                async for latest in changes:
                    yield latest
        finally:
            self._readers -= 1
            entry.readers.discard(event)
            if not entry.readers and self._watched.get(job.id) is entry:
                del self._watched[job.id]

    async def _changes(
        self, entry: _Watched, event: asyncio.Event, sent: pb.Job, interval: float
    ) -> AsyncGenerator[pb.Job, None]:
        clock = asyncio.get_running_loop().time
        sent_at = clock()
        while sent.state not in ENDED:
            error = entry.error or self._closed
            if error is not None:
                raise error
            latest, pause = entry.job, None
            if latest != sent:
                pause = sent_at + interval - clock() if latest.state == sent.state else 0.0
            if pause is not None and pause <= 0:
                sent, sent_at = latest, clock()
                yield latest
                continue
            event.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await event.wait()

    def poke(self) -> None:
        """Something has changed here: ask the store now."""
        self._poke.set()

    def progressed(self, id: str, progress: pb.Progress) -> None:
        """A job that runs on this server has come further."""
        entry = self._watched.get(id)
        if entry is not None and entry.job.state == pb.JOB_STATE_RUNNING:
            latest = pb.Job()
            latest.CopyFrom(entry.job)
            latest.progress.CopyFrom(progress)
            entry.job = latest
            entry.changed()

    async def close(self, error: Refused) -> None:
        """Tell all readers that there is nothing more to see here."""
        self._closed = error
        for entry in self._watched.values():
            entry.changed()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def _begin(self) -> None:
        if (self._task is None or self._task.done()) and self._closed is None:
            self._task = asyncio.create_task(self._follow(), name="equipoise-watching")
        self._poke.set()

    async def _follow(self) -> None:
        """Ask after all that is watched, as long as something is."""
        clock = asyncio.get_running_loop().time
        answered = clock()
        while self._watched:
            self._poke.clear()
            ids = list(self._watched)
            try:
                for first in range(0, len(ids), TOGETHER):
                    some = ids[first : first + TOGETHER]
                    self._seen(some, await self._look(some))
                answered = clock()
            except Exception as error:
                if clock() - answered > PATIENCE or not isinstance(error, Refused):
                    for id in ids:
                        self._fail(id, error)
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await self._poke.wait()

    def _seen(self, ids: Sequence[str], found: Sequence[pb.Job]) -> None:
        jobs = {job.id: job for job in found}
        for id in ids:
            entry, job = self._watched.get(id), jobs.get(id)
            if job is None:
                self._fail(id, not_found(id))
            elif entry is not None and job != entry.job:
                entry.job = job
                entry.changed()

    def _fail(self, id: str, error: Exception) -> None:
        """Who watches a job is told, and who comes later asks anew."""
        entry = self._watched.pop(id, None)
        if entry is not None:
            entry.error = error
            entry.changed()
