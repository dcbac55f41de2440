"""What a worker is to its pool, wherever it runs: a few methods, which `process.py` and `ray_worker.py` fill in.

A worker solves one task, or one chunk of tasks, at a time. It is started warm, asked, hurried if need be, and ended;
one that is lost costs what it had in hand, which its pool gives to another where that may help.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from google.rpc.code_pb2 import Code

from ..protocol.failures import Refused
from ..protocol.wire import Limits
from .frames import Kind

GRACE = 1.5
"""Seconds that a solve may take beyond its limit: a backend has one to stop, and the certificate is written after."""
STARTUP = 300.0
"""Seconds that a worker has to get ready: the first one on a machine compiles."""
READING = 60.0
"""Seconds that a worker has to read and validate a request, and to check a plan of a chunk."""

Report = Callable[[Kind, bytes], None]
"""Told what comes before the answer: PROGRESS with a `Progress`, RESULTS with the `Results` of some tasks."""


class WorkerLost(Refused):
    """A worker died with what it had in hand.

    memory: it needed more than there was, as it would again.
    """

    def __init__(self, message: str, memory: bool = False) -> None:
        super().__init__(Code.INTERNAL, "WORKER_OUT_OF_MEMORY" if memory else "WORKER_LOST", message)
        self.memory = memory

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerLost, (self.message, self.memory)


@dataclass(frozen=True)
class WorkerSettings:
    """What all workers have in common. memory: bytes that each may take."""

    memory: int | None = None
    limits: Limits = field(default_factory=Limits)


class Worker(ABC):
    """A worker, ready."""

    def __init__(self) -> None:
        self.fit = True
        """Whether it may be given another task."""
        self.solves = 0
        """Tasks and chunks that it was given."""
        self.started = False
        """Whether it has read the request of the task in hand."""
        self.hurried = False
        """Whether the task in hand was told to stop."""

    @property
    @abstractmethod
    def dead(self) -> asyncio.Future[Any]:
        """Done once the worker is no more."""

    @property
    @abstractmethod
    def pid(self) -> int:
        """The process id of the worker, on the machine where it runs."""

    def prepare(self, deadline: float | None) -> None:
        """Take the next task on, whose caller waits until then by the loop's clock; from now on it can be hurried."""
        self.solves += 1
        self.started = self.hurried = False

    @abstractmethod
    async def ask(self, kind: Kind, request: bytes, deadline: float | None, report: Report | None) -> bytes:
        """The answer to SOLVE, CHECK or CHUNK. Raises the error of the solve, `SolveTimeout` or `WorkerLost`."""

    @abstractmethod
    def hurry(self, seconds: float) -> None:
        """Tell the task in hand to stop with the best plan so far; end the worker after so many seconds."""

    @abstractmethod
    async def end(self) -> None:
        """End it now, whatever it does, wait until it is gone, and give everything back."""


Start = Callable[[], Awaitable[Worker]]
"""Makes a new worker, warm. Raises `WorkerLost` where it does not get ready."""
