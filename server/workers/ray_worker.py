"""A worker on a Ray cluster as its pool sees it: an actor that takes one slot of some node, asked from afar.

The worker process beside the actor keeps the clocks of a task, as on one machine. Here it is only given some seconds
more, for the way, and an actor that shows no sign of life counts as lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from importlib.metadata import version
from typing import Any, Self, TypeVar

from google.rpc.code_pb2 import Code

from ...specs.errors import EquipoiseError
from ..protocol.failures import Refused
from .frames import Kind
from .ray_slot import LARGE, Told, packed, unpacked
from .worker import GRACE, STARTUP, Report, Worker, WorkerLost, WorkerSettings

T = TypeVar("T")

PLACED = 300.0
"""Seconds that a cluster has to find a place for an actor: one that grows starts a machine first."""
NETWORK = 5.0
"""Seconds that the way to a node and back may take, beyond what the work there may."""
SILENCE = 60.0
"""Seconds after which an actor that shows no sign of life is lost; a large request is under way for some of them."""
DEATH = 10.0
"""Seconds to wait for the end of an actor. On a node that does not answer it comes when Ray gives the node up."""
_LONGEST = 400
"""Characters of what Ray says of a loss, which can be pages."""


class RayWorker(Worker):
    """A worker in an actor. pid: of the worker process, on its node."""

    def __init__(self, actor: Any, pid: int) -> None:
        super().__init__()
        self._actor, self._pid = actor, pid
        self._dead = asyncio.ensure_future(_over(actor))
        self._clock: asyncio.Timeout | None = None
        self._latest: float | None = None  # by the loop's clock: when the task in hand has to be done
        self._heard = 0.0  # and when the actor last gave a sign of life

    @property
    def dead(self) -> asyncio.Future[None]:
        """Done once the actor or its worker process is no more."""
        return self._dead

    @property
    def pid(self) -> int:
        return self._pid

    @classmethod
    async def start(cls, actor: Any, settings: WorkerSettings) -> Self:
        """The worker of a new actor, warm. Raises `WorkerLost` where it does not get ready, and `Refused` where its
        node has another version of Equipoise."""
        try:
            there: str = await _within(PLACED, actor.version.remote(), "the cluster has no free slot for an actor")
            if there != (here := version("equipoise")):
                raise _unusable(f"it has equipoise {there}, and this is {here}")
            ready = actor.begin.remote(settings)
            pid = await _within(STARTUP + NETWORK, ready, "the worker process of an actor was not ready")
            if isinstance(pid, EquipoiseError):
                raise pid
        except BaseException as error:
            await _ended(actor)
            raise _not_started(error) from None
        return cls(actor, pid)

    # -- a task ------------------------------------------------------------------------------------------------------

    def prepare(self, deadline: float | None) -> None:
        super().prepare(deadline)
        self._latest = None if deadline is None else deadline + GRACE + NETWORK

    async def ask(self, kind: Kind, request: bytes, deadline: float | None, report: Report | None) -> bytes:
        self.fit = False  # until the actor has come to an end with it; if `report` fails, nobody listens any more
        try:
            async with asyncio.timeout(None) as self._clock:
                self._hear()
                coming = await self._asked(kind, request, deadline)
                while (told := await self._next(coming)).kind not in (Kind.ANSWER, Kind.FAILED):
                    if told.kind is not None and report is not None:
                        report(told.kind, unpacked(told.body))
        except TimeoutError:
            raise WorkerLost("an actor did not answer in time: its node hangs, or the way to it is cut") from None
        finally:
            self._clock = None
        self.fit = told.fit
        if told.error is not None:
            raise told.error
        return unpacked(told.body)

    async def _asked(self, kind: Kind, request: bytes, deadline: float | None) -> AsyncIterator[Awaitable[Told]]:
        """What the actor will say of the task, sent there."""
        try:
            body = request if len(request) < LARGE else await asyncio.to_thread(_put, request)
            within = None if deadline is None else deadline - asyncio.get_running_loop().time()
            see_ray()
            return self._actor.ask.options(num_returns="streaming").remote(self.solves, kind, body, within)
        except Exception as error:
            raise WorkerLost(f"an actor could not be asked: {_told(error)}") from None

    async def _next(self, coming: AsyncIterator[Awaitable[Told]]) -> Told:
        """What the actor says next."""
        try:
            told = await (await anext(coming))
        except Exception as error:
            raise WorkerLost(f"an actor was lost: {_told(error) or 'it gave no answer'}") from None
        self.started = told.started
        self._hear()
        return told

    def hurry(self, seconds: float) -> None:
        self.hurried = True
        with suppress(Exception):  # it is gone, or Ray is: `ask` tells
            see_ray()
            self._actor.hurry.remote(self.solves, seconds)
        when = asyncio.get_running_loop().time() + seconds + NETWORK
        self._latest = when if self._latest is None else min(when, self._latest)
        self._set_clock()

    def _hear(self) -> None:
        self._heard = asyncio.get_running_loop().time()
        self._set_clock()

    def _set_clock(self) -> None:
        if self._clock is not None and not self._clock.expired():
            silent = self._heard + SILENCE
            self._clock.reschedule(silent if self._latest is None else min(silent, self._latest))

    # -- its end -----------------------------------------------------------------------------------------------------

    async def end(self) -> None:
        """As of every worker. It is waited for even if this is cancelled."""
        self.fit = False
        ending = asyncio.ensure_future(_ended(self._actor, self._dead))
        cancelled: asyncio.CancelledError | None = None
        while not ending.done():
            try:
                await asyncio.wait([ending])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled


async def _over(actor: Any) -> None:
    """Return when an actor, or the worker process that it holds, is no more."""
    with suppress(Exception):  # that it is gone is told as an error
        see_ray()
        await actor.live.remote()


async def _ended(actor: Any, dead: asyncio.Future[None] | None = None) -> None:
    """End an actor, with all that it started, and wait until Ray says that it is gone: its process is by then, or soon
    after."""
    import ray

    if not ray.is_initialized():
        return
    dead = dead or asyncio.ensure_future(_over(actor))
    with suppress(Exception):  # it is gone
        await asyncio.wait_for(asyncio.to_thread(ray.kill, actor), DEATH)
    await asyncio.wait([dead], timeout=DEATH)
    dead.cancel()


async def _within(seconds: float, coming: Awaitable[T], late: str) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await coming
    except TimeoutError:
        raise WorkerLost(f"{late} within {seconds:g} s") from None


def see_ray() -> None:
    """Raises `Refused` where Ray was shut down in this process: asked for anything, it would start a cluster."""
    import ray

    if not ray.is_initialized():
        raise Refused(Code.UNAVAILABLE, "NO_CLUSTER", "Ray was shut down in this process")


def _put(request: bytes) -> Any:
    import ray

    see_ray()
    return ray.put(packed(request))


def _not_started(error: BaseException) -> BaseException:
    """Why an actor is of no use, in our words where Ray has the say."""
    from ray.exceptions import RayActorError, RayError

    if isinstance(error, RayActorError) and not error.actor_init_failed:
        return WorkerLost(f"an actor was lost at its start: {_told(error)}")
    if isinstance(error, RayError):  # what it needs cannot be imported there, for one
        return _unusable(_told(error))
    return error


def _told(error: BaseException) -> str:
    """The part of what Ray says that names the cause, in one line: of a dead actor why, of a traceback its last."""
    text, known = str(error).strip(), "The actor is dead because "
    text = text.partition(known)[2].partition("Some common causes")[0] if known in text else text.rpartition("\n")[2]
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def _unusable(why: str) -> Refused:
    return Refused(
        Code.FAILED_PRECONDITION,
        "NO_EQUIPOISE",
        f"a node of the Ray cluster cannot run a worker: {why}; every node needs what is installed here: "
        f"pip install 'equipoise[ray]=={version('equipoise')}'",
    )
