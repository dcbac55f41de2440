"""One slot of a Ray cluster: the actor that lives on some node, and the worker process that it holds there.

The process is that of one machine alone: its memory and time limits, its solver programs that die with it, its models
that stay warm. The actor only passes on what is asked and what is told; `ray_worker.py` is its other side.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from ...specs.errors import EquipoiseError, ServiceError
from .engines import memory_of_a_worker
from .frames import Kind
from .process import WorkerProcess
from .worker import WorkerSettings

Body = bytes | np.ndarray[Any, np.dtype[np.uint8]]
"""Bytes as they travel: large ones through the object store, which hands them to a reader without a copy."""
LARGE = 100 * 1024
"""Bytes from which they do. Ray sends smaller values along with the call itself."""
HELD = 0.1
"""Seconds that results wait for others on their node: a message from there takes the pool more than a millisecond."""
LIFE = 1.0
"""Seconds without news of a task after which an actor says that it is still there."""


@dataclass(frozen=True, slots=True)
class Told:
    """What an actor says of the task in hand, and what has become of its worker by then.

    kind: as of frames, ANSWER or FAILED at last; None is a mere sign of life. error: why it failed.
    """

    kind: Kind | None
    started: bool
    fit: bool
    body: Body = b""
    error: EquipoiseError | None = None


class Slot:
    """The actor. Ray runs all of its methods on one event loop, `hurry` while `ask` goes on."""

    def __init__(self) -> None:
        self._worker: WorkerProcess | None = None
        self._hurried = (0, 0.0)  # the last task that was to stop, and until when by the loop's clock

    async def version(self) -> str:
        """The version of Equipoise on this node."""
        return version("equipoise")

    async def begin(self, settings: WorkerSettings) -> int | EquipoiseError:
        """Start the worker process, and get its id, or why there is none."""
        if settings.memory is None:
            settings = replace(settings, memory=memory_of_a_worker(_slots_here()))
        try:
            self._worker = await WorkerProcess.start(settings)
        except EquipoiseError as error:
            return error
        return self._worker.pid

    async def live(self) -> None:
        """Return when the worker process is no more."""
        await asyncio.wait([self._held().dead])

    async def ask(self, number: int, kind: Kind, request: Body, within: float | None) -> AsyncIterator[Told]:
        """All that the worker says of its task with this number. within: seconds that the caller still waits."""
        loop, worker = asyncio.get_running_loop(), self._held()
        deadline = None if within is None else loop.time() + within
        said = asyncio.Queue[tuple[Kind, bytes]]()  # as long as a task has results, and 20 times a second of progress
        worker.prepare(deadline)
        worker.solves = number
        hurried, until = self._hurried
        if hurried == number:  # it overtook the request
            worker.hurry(until - loop.time())
        body = request if isinstance(request, bytes) else request.data
        asking = asyncio.ensure_future(worker.ask(kind, body, deadline, lambda *news: said.put_nowait(news)))
        asking.add_done_callback(lambda _: said.put_nowait((Kind.ANSWER, b"")))
        news = None
        while news is None or news[0] != Kind.ANSWER:
            news, results = await _heard(said)
            if results:
                yield Told(Kind.RESULTS, worker.started, worker.fit, packed(results))
            elif news is None:
                yield Told(None, worker.started, worker.fit)
            if news is not None and news[0] == Kind.PROGRESS:
                yield Told(Kind.PROGRESS, worker.started, worker.fit, news[1])
        error = asking.exception()
        if error is None:
            yield Told(Kind.ANSWER, worker.started, worker.fit, packed(asking.result()))
        elif isinstance(error, EquipoiseError):
            yield Told(Kind.FAILED, worker.started, worker.fit, error=error)
        else:
            told = ServiceError(f"{type(error).__name__}: {error} (this is a bug in Equipoise)")
            yield Told(Kind.FAILED, worker.started, False, error=told)

    async def hurry(self, number: int, seconds: float) -> None:
        """As of every worker, for the task with this number."""
        self._hurried = number, asyncio.get_running_loop().time() + seconds
        if number == self._held().solves:
            self._held().hurry(seconds)

    def _held(self) -> WorkerProcess:
        if self._worker is None:
            raise ServiceError("the actor has no worker process")
        return self._worker


def packed(body: bytes) -> Body:
    """Bytes for the way between nodes."""
    return body if len(body) < LARGE else np.frombuffer(body, np.uint8)


def unpacked(body: Body) -> bytes:
    """The inverse of `packed`."""
    return body if isinstance(body, bytes) else body.tobytes()


async def _heard(said: asyncio.Queue[tuple[Kind, bytes]]) -> tuple[tuple[Kind, bytes] | None, bytes]:
    """What a worker says next, None if that takes long; and the results that came before, of some time as one message:
    `Results` one after the other are `Results`."""
    results, loop = list[bytes](), asyncio.get_running_loop()
    try:
        async with asyncio.timeout(LIFE) as clock:
            while (news := await said.get())[0] == Kind.RESULTS:
                if not results:
                    clock.reschedule(loop.time() + HELD)
                results.append(news[1])
    except TimeoutError:
        return None, b"".join(results)
    return news, b"".join(results)


def _slots_here() -> int:
    """Slots of this node, which share its memory."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    of_nodes = {node["NodeID"]: node["Resources"].get("CPU", 1.0) for node in ray.nodes()}
    return max(1, int(of_nodes.get(here, 1.0)))
