"""One worker process as the server sees it: started, asked, hurried, and killed where it does not listen.

All of it runs on the event loop and none of it blocks: frames go over a socket pair in pieces.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from typing import Self

from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from ...specs.errors import SolveTimeout
from ..protocol.failures import from_status
from .child import NO_MEMORY, Setup
from .frames import Frame, Junk, Kind, receive_soon, send_soon
from .worker import GRACE, READING, STARTUP, Report, Worker, WorkerLost, WorkerSettings

COMMAND = (sys.executable, "-P", "-m", f"{__package__}.child")
"""What runs in a worker; its one argument is the `Setup`."""
STILL = 1.0
"""Seconds that a limit is found to be over too late, from which on it says nothing of the worker."""
_DEATH = 1.0
"""Seconds that a process has to end after its socket did."""


class _Unheard(Exception):
    """Whoever was told of a task failed at it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class WorkerProcess(Worker):
    """A worker of this machine."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        connection: socket.socket,
        leash: socket.socket,
        settings: WorkerSettings,
    ) -> None:
        super().__init__()
        self._dead = asyncio.ensure_future(process.wait())
        self._process = process
        self._connection = connection
        self._leash = leash  # its other end tells a worker's guardian, whatever the worker does, that this one is gone
        self._settings = settings
        self._sending = asyncio.Lock()
        self._stopping: asyncio.Task[None] | None = None
        self._clock: asyncio.Timeout | None = None
        self._latest: float | None = None  # by the loop's clock: when the task in hand has to be done
        self._pace: float | None = None  # and when its next results have to be there

    @property
    def dead(self) -> asyncio.Future[int]:
        """Done once the process is; its exit code."""
        return self._dead

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @classmethod
    async def start(cls, settings: WorkerSettings) -> Self:
        """A new worker, warm. Raises `WorkerLost` where it does not get ready."""
        try:
            process, connection, leash = await _spawned(settings)
        except OSError as error:  # no more processes, descriptors or memory to be had
            raise WorkerLost(f"no worker process can be started: {error}") from None
        worker = cls(process, connection, leash, settings)
        try:
            await worker._ready()
        except BaseException:
            await worker.end()
            raise
        return worker

    async def _ready(self) -> None:
        try:
            async with asyncio.timeout(STARTUP):
                frame = await receive_soon(self._connection)
        except TimeoutError:
            raise WorkerLost(f"a worker was not ready within {STARTUP:g} s") from None
        except OSError as error:
            raise await self._lost(error) from None
        if frame.kind == Kind.FAILED:
            raise WorkerLost(str(from_status(Status.FromString(frame.body))))
        if frame.kind != Kind.READY:
            raise WorkerLost(f"a worker began with {frame.kind.name}")

    # -- a task ------------------------------------------------------------------------------------------------------

    def prepare(self, deadline: float | None) -> None:
        super().prepare(deadline)
        self._stopping = self._pace = None
        self._latest = None if deadline is None else deadline + GRACE

    async def ask(
        self, kind: Kind, request: bytes | memoryview, deadline: float | None, report: Report | None
    ) -> bytes:
        try:
            async with asyncio.timeout_at(self._latest) as self._clock:
                await self._begin(kind, request, deadline)
                return await self._answer(report)
        except TimeoutError:
            self.kill()
            if kind == Kind.CHUNK and self._stood_still():
                raise WorkerLost("this process stood still for longer than a worker may take to answer") from None
            raise SolveTimeout(
                "no answer in time, and the worker did not stop when it was told to: it was ended"
            ) from None
        except (OSError, DecodeError) as error:
            raise await self._lost(error) from None
        except _Unheard as unheard:  # the solve goes on, and nobody listens
            self.kill()
            raise unheard.error from None
        finally:
            self._clock = None

    async def _begin(self, kind: Kind, request: bytes | memoryview, deadline: float | None) -> None:
        """Send the task and see it begun, or fail. Raises `WorkerLost` where that takes too long."""
        try:
            async with asyncio.timeout(READING):
                async with self._sending:
                    within = math.inf if deadline is None else deadline - asyncio.get_running_loop().time()
                    await send_soon(self._connection, Frame(kind, self.solves, within), request)
                frame = await self._frame()
        except TimeoutError:
            self.kill()
            raise WorkerLost(f"a worker process did not read its request within {READING:g} s") from None
        if frame.kind != Kind.STARTED:
            raise _unexpected(frame)
        self.started = True
        if kind == Kind.CHUNK:
            self._keep_pace(frame.seconds)
        else:
            self._no_later(frame.seconds)

    async def _answer(self, report: Report | None) -> bytes:
        while (frame := await self._frame()).kind != Kind.ANSWER:
            if frame.kind not in (Kind.PROGRESS, Kind.RESULTS):
                raise _unexpected(frame)
            if frame.kind == Kind.RESULTS:
                self._keep_pace(frame.seconds)
            if report is not None:
                try:
                    report(frame.kind, frame.body)
                except DecodeError:
                    raise
                except Exception as error:
                    raise _Unheard(error) from None
        return frame.body

    async def _frame(self) -> Frame:
        """What the worker says next of the task in hand. Raises the error of the solve."""
        frame = await receive_soon(self._connection)
        if frame.solve != self.solves:
            raise Junk(f"{frame.kind.name} of solve {frame.solve}, not {self.solves}")
        self.fit = self.fit and not frame.last
        if frame.kind == Kind.FAILED:
            raise from_status(Status.FromString(frame.body))
        return frame

    def hurry(self, seconds: float) -> None:
        if self._stopping is None:
            self.hurried = True
            self._stopping = asyncio.ensure_future(self._stop(self.solves))
        self._no_later(seconds)

    async def _stop(self, solve: int) -> None:
        with suppress(OSError):
            async with self._sending:
                await send_soon(self._connection, Frame(Kind.STOP, solve))

    def _no_later(self, seconds: float) -> None:
        when = asyncio.get_running_loop().time() + seconds
        self._latest = when if self._latest is None else min(when, self._latest)
        self._set_clock()

    def _keep_pace(self, seconds: float) -> None:
        """The next results have to come within so many seconds."""
        self._pace = asyncio.get_running_loop().time() + seconds
        self._set_clock()

    def _stood_still(self) -> bool:
        """Whether the time ran out while nothing ran here, stopped by Ctrl-Z or with the whole machine: what the worker
        said may wait in the socket."""
        when = None if self._clock is None else self._clock.when()
        return when is not None and asyncio.get_running_loop().time() > when + STILL

    def _set_clock(self) -> None:
        if self._clock is not None and not self._clock.expired():
            limits = [limit for limit in (self._latest, self._pace) if limit is not None and limit < math.inf]
            self._clock.reschedule(min(limits, default=None))

    # -- its end -----------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """End it now, whatever it does, with the solver programs that it started."""
        self.fit = False
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def end(self) -> None:
        """As of every worker. It is waited for even if this is cancelled."""
        self.kill()
        self._connection.close()
        self._leash.close()
        if self._stopping is not None:
            self._stopping.cancel()
        cancelled: asyncio.CancelledError | None = None
        while not self.dead.done():
            try:
                await asyncio.wait([self.dead])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    async def _lost(self, error: Exception) -> WorkerLost:
        """What became of the process whose socket ended, or brought junk."""
        self.fit = False
        if isinstance(error, (Junk, DecodeError)):
            return WorkerLost(f"a worker process sent what no worker sends: {error}")
        done, _ = await asyncio.wait([self.dead], timeout=_DEATH)
        code = self.dead.result() if done else None
        if code is None:
            return WorkerLost(f"a worker process hung up: {error}")
        if code == NO_MEMORY:
            return WorkerLost(f"the task needs more memory than {self._allowed()}", memory=True)
        if code >= 0:
            return WorkerLost(f"a worker process ended with exit code {code}; the server's log says why")
        name = signal.Signals(-code).name
        if -code == signal.SIGKILL:
            return WorkerLost(f"a worker process was killed ({name}): by hand, or for want of memory on the machine")
        hint = f"; native code that needs more memory than {self._allowed()} ends so" if self._settings.memory else ""
        return WorkerLost(f"a worker process died ({name}){hint}")

    def _allowed(self) -> str:
        memory = self._settings.memory
        return "there is" if memory is None else f"the {memory:,} bytes that a worker may take"


async def _spawned(settings: WorkerSettings) -> tuple[asyncio.subprocess.Process, socket.socket, socket.socket]:
    """A new process, this end of its socket, and this end of its leash. Raises `OSError`."""
    with ExitStack() as ours, ExitStack() as theirs:
        (connection, its_connection), (leash, its_leash) = _pair(ours, theirs), _pair(ours, theirs)
        connection.setblocking(False)
        setup = Setup(its_connection.fileno(), os.getpid(), settings.memory, settings.limits)
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            setup.argument(),
            stdin=its_leash.fileno(),
            stdout=2,  # what a library prints is for the log
            pass_fds=[its_connection.fileno()],
            start_new_session=True,  # a group of its own, so that its solver programs die with it
        )
        ours.pop_all()
        return process, connection, leash


def _pair(ours: ExitStack, theirs: ExitStack) -> tuple[socket.socket, socket.socket]:
    one, other = socket.socketpair()
    return ours.enter_context(one), theirs.enter_context(other)


def _unexpected(frame: Frame) -> Junk:
    return Junk(f"a worker does not send {frame.kind.name} now")
