"""Which request gets the next worker that is free.

The lower its priority number the sooner, and first come, first served within one. What no caller waits for, priority 1
and above, never keeps all workers busy where there are two or more: it may run for hours.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import deque
from dataclasses import dataclass, field

from google.rpc.code_pb2 import Code

from ..protocol.failures import Refused
from .frames import Kind
from .worker import Report, Worker

MOST_BYTES = 256 * 2**20
"""Bytes of requests that may wait for a worker; one alone may be larger."""
CALLERS = 0
"""The priority of those who wait for their answers."""
BUSY = 1.0
"""Seconds after which a caller may try again who met a full line."""


@dataclass(order=True)
class Task:
    """A request that waits for a worker or is with one; sorts by who comes first. kind: SOLVE, CHECK or CHUNK.
    seconds: how long a worker had it."""

    priority: int
    number: int
    request: bytes = field(compare=False)
    deadline: float | None = field(compare=False)
    report: Report | None = field(compare=False)
    answer: asyncio.Future[bytes] = field(compare=False)
    kind: Kind = field(compare=False, default=Kind.SOLVE)
    seconds: float = field(compare=False, default=0.0)
    worker: Worker | None = field(compare=False, default=None)
    again: bool = field(compare=False, default=False)

    def fail(self, error: Exception) -> None:
        """Answer with an error, if anybody still waits for one."""
        if not self.answer.done():
            self.answer.set_exception(error)


@dataclass(frozen=True)
class _Idle:
    """A worker with nothing to do, and where to put what comes."""

    worker: Worker
    task: asyncio.Future[Task]


class Line:
    """The requests that wait, those that are with workers, and the workers that wait for one.

    workers: how many there are to be. most: requests that may wait, None where those who ask see to a bound.
    """

    def __init__(self, workers: int, most: int | None) -> None:
        self.busy: dict[int, Task] = {}
        """Requests that are with a worker, by number."""
        self._waiting: list[Task] = []
        self._idle = deque[_Idle]()
        self._bytes = 0
        self._most = most
        self.most_behind = max(1, workers - 1)
        """Workers that may be busy with what no caller waits for."""

    def __len__(self) -> int:
        return len(self._waiting)

    def check(self, size: int) -> None:
        """Raises `Refused` where a request of so many bytes may not come in."""
        full = None
        if self._most is None:
            return
        if len(self._waiting) >= self._most:
            full = f"{len(self._waiting):,} requests wait for a worker already"
        elif self._bytes and self._bytes + size > MOST_BYTES:
            full = f"requests of {self._bytes:,} bytes wait for a worker already, at most {MOST_BYTES:,} may"
        if full is not None:
            raise Refused(Code.RESOURCE_EXHAUSTED, "OVERLOADED", full, BUSY)

    def join(self, task: Task) -> None:
        """Give a task to the next worker that it may have."""
        insort(self._waiting, task)
        self._bytes += len(task.request)
        self._match()

    def leave(self, task: Task) -> bool:
        """Whether a task was waiting; it does no more."""
        if task not in self._waiting:
            return False
        self._waiting.remove(task)
        self._bytes -= len(task.request)
        return True

    def clear(self) -> list[Task]:
        """All that waited, which does no more."""
        left, self._waiting, self._bytes = self._waiting, [], 0
        return left

    def dismiss(self) -> None:
        """Nothing more comes: tell the workers that wait."""
        while self._idle:
            self._idle.popleft().task.cancel()

    async def next(self, worker: Worker) -> Task | None:
        """The task that a worker gets, as soon as there is one; None if it dies before, or nothing more comes."""
        idle = _Idle(worker, asyncio.get_running_loop().create_future())
        self._idle.append(idle)
        self._match()
        if not idle.task.done():
            await asyncio.wait([idle.task, worker.dead], return_when=asyncio.FIRST_COMPLETED)
        if idle.task.done():
            return None if idle.task.cancelled() else idle.task.result()
        self._idle.remove(idle)
        return None

    def ended(self, task: Task) -> None:
        """A task is with its worker no more."""
        task.worker = None
        self.busy.pop(task.number, None)
        self._match()

    def _match(self) -> None:
        while self._idle and self._waiting and self._may_start(self._waiting[0]):
            task, idle = self._waiting[0], self._idle.popleft()
            self.leave(task)
            task.worker = idle.worker
            self.busy[task.number] = task
            idle.worker.prepare(task.deadline)
            idle.task.set_result(task)

    def _may_start(self, task: Task) -> bool:
        behind = sum(other.priority > CALLERS for other in self.busy.values())
        return task.priority <= CALLERS or behind < self.most_behind
