"""A number of workers, kept at work: a crash, or memory that runs out, costs one task.

Each is kept by a task that starts it again when it is gone. Who asks waits in one `Line`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Callable, Sequence

from google.rpc.code_pb2 import Code

from ...solvers.control import Progress
from ...specs.errors import EquipoiseError, SolveTimeout
from ..protocol import equipoise_pb2
from ..protocol.failures import Refused, to_status
from ..protocol.wire import Limits
from .chunks_pb2 import Chunk, Item, Result, Results
from .frames import Kind
from .line import CALLERS, Line, Task
from .process import WorkerProcess
from .worker import GRACE, Report, Start, Worker, WorkerLost, WorkerSettings

FREED = 0.15
"""Seconds that a worker has to stop when its caller is gone."""
CHECKED = 2.0
"""Seconds that a check may run on whose caller is gone: nothing stops it but the end of its worker, and another takes
about as long to start."""
BACKOFF = 0.1, 30.0
"""Seconds between the starts of a worker that does not live: at first, and at most; twice as long each time."""
STEADY = 10.0
"""Seconds that a worker lives, or else it counts as one that does not."""
STARTS = 5
"""Starts of each worker that may fail in a row before chunks are refused: whoever has many tasks can wait for a worker,
and who has one is told at once."""
_log = logging.getLogger(__name__)


class Workers:
    """Workers, kept running. Belongs to the event loop whose thread starts it: processes die with that thread.

    count: workers; where there are two or more, solves of priority 1 and above keep all but one of them busy at most.
    memory: bytes of data that each may take. recycle_after: tasks after which one is replaced. most_waiting: requests
    that may wait for a worker, None where those who ask see to a bound. limits: what a document in a request may hold.
    on_lost: told of each worker that died and should not have; the log is, if there is none.
    start: makes a worker; a process of this machine, if absent. close: called once all are gone, in a thread.
    all_at_once: whether `start` waits for every worker; on a cluster that grows as it is asked to, others join as they
    come.
    """

    def __init__(
        self,
        count: int,
        memory: int | None = None,
        recycle_after: int = 1000,
        most_waiting: int | None = 1000,
        limits: Limits | None = None,
        on_lost: Callable[[str], None] | None = None,
        start: Start | None = None,
        close: Callable[[], None] | None = None,
        all_at_once: bool = True,
    ) -> None:
        self.lost = 0
        """Workers that died and should not have."""
        self.count = count
        """Workers that there are to be."""
        self._recycle_after = recycle_after
        self._on_lost = on_lost or (lambda reason: _log.warning("worker lost: %s", reason))
        settings = WorkerSettings(memory, limits or Limits())
        self._start: Start = start or (lambda: WorkerProcess.start(settings))
        self._close, self._all_at_once = close, all_at_once
        self._keepers: list[asyncio.Task[None]] = []
        self._alive = set[Worker]()
        self._line = Line(count, most_waiting)
        self._numbers = itertools.count()
        self._closing = False
        self._failure: Exception | None = None  # why the last start failed, until one succeeds
        self._failures = 0  # starts that failed since

    @property
    def running(self) -> int:
        """Requests that are with a worker."""
        return len(self._line.busy)

    @property
    def waiting(self) -> int:
        """Requests that wait for a worker."""
        return len(self._line)

    @property
    def for_jobs(self) -> int:
        """Solves of priority 1 and above that run at one time: who starts more lets them wait in the line."""
        return self._line.most_behind

    def pids(self) -> list[int]:
        """The processes that are there and ready, at work or not."""
        return sorted(worker.pid for worker in self._alive)

    async def start(self) -> None:
        """Start the workers and wait until they are warm. Raises `WorkerLost` where one does not get ready."""
        ready = list[Worker | None]()
        try:
            ready.append(await self._joined())  # alone: it compiles what is not on disk yet
            if self._all_at_once:
                others = await asyncio.gather(*(self._joined() for _ in range(1, self.count)), return_exceptions=True)
                for worker in others:
                    if isinstance(worker, BaseException):
                        raise worker
                    ready.append(worker)
            else:
                ready += [None] * (self.count - 1)
        except BaseException:
            await asyncio.gather(*(worker.end() for worker in self._alive))
            self._alive.clear()
            await self._let_go()
            raise
        self._keepers = [asyncio.create_task(self._keep(worker)) for worker in ready]

    async def _joined(self) -> Worker:
        worker = await self._start()
        self._alive.add(worker)
        return worker

    async def stop(self, grace: float) -> None:
        """Take nothing more, let what runs finish for so many seconds, and end all workers."""
        self._closing = True
        for task in self._line.clear():
            task.fail(_closed())
        self._line.dismiss()
        if busy := [task.answer for task in self._line.busy.values()]:
            await asyncio.wait(busy, timeout=grace)
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for task in list(self._line.busy.values()):
            task.fail(_closed())
            self._line.ended(task)
        await self._let_go()

    async def _let_go(self) -> None:
        if self._close is not None:
            await asyncio.to_thread(self._close)

    async def solve(
        self,
        request: bytes,
        *,
        within: float | None = None,
        priority: int = CALLERS,
        progress: Callable[[Progress], None] | None = None,
        stop: asyncio.Event | None = None,
    ) -> bytes:
        """The serialised SolveResponse to a serialised SolveRequest.

        within: seconds that the caller waits, in the line too. priority: the lower, the sooner it gets a worker; first
        come, first served within one. progress: called about 20 times a second. stop: once set, the best plan so far
        is the answer.

        Raises what the solve raised; `SolveTimeout` where there was no plan in time; `WorkerLost` where the process
        died; `Refused` where the line is full or no worker can be started. Cancelling it frees the worker.
        """
        report: Report | None = None if progress is None else lambda _, body: progress(_progress(body))
        task = self._task(Kind.SOLVE, request, within, priority, report)
        stopping = None if stop is None else asyncio.ensure_future(stop.wait())
        if stopping is not None:
            stopping.add_done_callback(lambda done: None if done.cancelled() else self._interrupt(task))
        try:
            return await self._answer(task)
        finally:
            if stopping is not None:
                stopping.cancel()

    async def check(self, request: bytes, *, within: float | None = None) -> tuple[bytes, float]:
        """The serialised CheckResponse to a serialised CheckRequest, and the seconds that a worker had it. Raises as
        `solve` does."""
        task = self._task(Kind.CHECK, request, within, CALLERS, None)
        return await self._answer(task), task.seconds

    async def solve_all(
        self,
        chunk: Chunk,
        told: Callable[[Sequence[Result]], None],
        back: Callable[[Chunk], None] | None = None,
    ) -> None:
        """Solve many tasks with one worker; `told` gets their results in order, some at a time, as they come.

        back: gets the last tasks of a chunk that takes longer than it should, where another worker may have them: they
        are the caller's again. All are for the one worker, if absent.

        No task costs another its result: where a worker dies, the tasks that had none yet are tried once more, each
        alone. One that loses its worker twice, or has outlasted its time limit and does not stop, gets that as its
        result. Raises `Refused` where no worker can be started or the line is full. Cancelling it frees the worker.
        """
        while True:
            done, error = await self._attempt(chunk, told)
            left = chunk.items[done:]
            if isinstance(error, WorkerLost) and left:
                if error.memory and len(chunk.items) == 1:
                    told([_failed(error)])
                    return
                while left:
                    await self._alone(_part(chunk, left[:1]), told)
                    left = self._shared(chunk, left[1:], back)
                return
            if left and error is not None:  # of the first without a result: the others were waiting for that one
                told([_failed(error)])
                left = left[1:]
            elif left and not done:  # its backend does not stop, and it has said nothing: not to be tried for ever
                told([_failed(WorkerLost("a worker process gave a task up, and said nothing"))])
                left = left[1:]
            if not left:
                return
            chunk = _part(chunk, self._shared(chunk, left, back))

    def _shared(self, chunk: Chunk, left: Sequence[Item], back: Callable[[Chunk], None] | None) -> Sequence[Item]:
        """What of the tasks that are left stays here: half of them go back where other workers have nothing to do."""
        if back is None or self.waiting or not len(left) > 1 < self.count:
            return left
        half = (len(left) + 1) // 2
        back(_part(chunk, left[half:]))
        return left[:half]

    async def _alone(self, chunk: Chunk, told: Callable[[Sequence[Result]], None]) -> None:
        done, error = await self._attempt(chunk, told)
        if not done:
            told([_failed(error or WorkerLost("a worker process gave a task up, and said nothing"))])

    async def _attempt(
        self, chunk: Chunk, told: Callable[[Sequence[Result]], None]
    ) -> tuple[int, WorkerLost | SolveTimeout | None]:
        """How many results a worker gave, and what stopped it from giving the others."""
        done = 0

        def report(_: Kind, body: bytes) -> None:
            nonlocal done
            results = Results.FromString(body).results
            done += len(results)
            told(results)

        task = self._task(Kind.CHUNK, chunk.SerializeToString(), None, CALLERS, report)
        try:
            await self._answer(task)
        except (WorkerLost, SolveTimeout) as error:
            return done, error
        return done, None

    def _task(self, kind: Kind, request: bytes, within: float | None, priority: int, report: Report | None) -> Task:
        loop = asyncio.get_running_loop()
        self._check(kind, len(request))
        deadline = None if within is None else loop.time() + within
        return Task(priority, next(self._numbers), request, deadline, report, loop.create_future(), kind)

    async def _answer(self, task: Task) -> bytes:
        """Stand in the line and get what a worker says."""
        self._line.join(task)
        timer = None
        if task.deadline is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_at(task.deadline, self._leave_line, task, "no worker was free in time")
        try:
            return await task.answer
        except asyncio.CancelledError:
            if task.worker is not None:
                task.worker.hurry(CHECKED if task.kind == Kind.CHECK else FREED)
            self._leave_line(task, "the caller has left")
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _check(self, kind: Kind, size: int) -> None:
        if self._closing or not self._keepers:
            raise _closed()
        if self._failure is not None and self._hopeless(kind):
            raise _none(self._failure)
        self._line.check(size)

    def _hopeless(self, kind: Kind) -> bool:
        """Whether a request is not to wait for a worker any more: there is none, and none can be started."""
        return not self._alive and self._failures >= (STARTS * self.count if kind == Kind.CHUNK else 1)

    def _leave_line(self, task: Task, why: str) -> None:
        if self._line.leave(task):
            task.fail(SolveTimeout(f"no {'plan' if task.kind == Kind.SOLVE else 'answer'}: {why}"))

    def _interrupt(self, task: Task) -> None:
        if task.worker is not None:
            task.worker.hurry(GRACE)
        self._leave_line(task, "interrupted before a worker was free")

    # -- one worker and those after it -------------------------------------------------------------------------------

    async def _keep(self, worker: Worker | None) -> None:
        """Keep one worker at work, and start another when it is gone."""
        failures = 0
        while not self._closing:
            if failures:
                await asyncio.sleep(pause(failures) * random.uniform(0.5, 1.0))
            if worker is None and (worker := await self._started()) is None:
                failures += 1
                continue
            since = asyncio.get_running_loop().time()
            try:
                await self._employ(worker)
            except Exception as error:  # whatever it is, the next worker is not to be missed for it
                _log.error("a worker was not kept", exc_info=error)
            finally:
                self._alive.discard(worker)
                await worker.end()
            lived = worker.solves or asyncio.get_running_loop().time() - since > STEADY
            worker, failures = None, 0 if lived else failures + 1

    async def _started(self) -> Worker | None:
        try:
            worker = await self._joined()
        except Exception as error:  # whatever it is, it is tried again
            _log.error("no worker: %s", error, exc_info=not isinstance(error, EquipoiseError))
            self._failure = error
            self._failures += 1
            for task in self._line.clear():
                if self._hopeless(task.kind):
                    task.fail(_none(error))
                else:
                    self._line.join(task)
            return None
        self._failure, self._failures = None, 0
        return worker

    async def _employ(self, worker: Worker) -> None:
        """Give one worker task after task while it is fit."""
        while not self._closing and worker.fit and worker.solves < self._recycle_after:
            if (task := await self._line.next(worker)) is not None:
                await self._serve(task, worker)
            elif worker.dead.done():
                worker.fit = False
                self._note_loss(worker, "it died with nothing to do")

    async def _serve(self, task: Task, worker: Worker) -> None:
        error: Exception | None = None
        answer, began = b"", time.perf_counter()
        try:
            answer = await worker.ask(task.kind, task.request, task.deadline, task.report)
        except Exception as raised:
            error = raised
        task.seconds = time.perf_counter() - began
        self._line.ended(task)
        if isinstance(error, WorkerLost):
            self._note_loss(worker, str(error))
            unread = not (worker.started or worker.hurried or error.memory)
            if unread and self._again(task):
                return
        if error is not None:
            task.fail(error)
        elif not task.answer.done():
            task.answer.set_result(answer)

    def _again(self, task: Task) -> bool:
        """Whether a task gets another worker: the one that it had was dead or dying before it had read the request."""
        late = task.deadline is not None and asyncio.get_running_loop().time() >= task.deadline
        if task.again or late or task.answer.done() or self._closing:
            return False
        task.again = True
        self._line.join(task)
        return True

    def _note_loss(self, worker: Worker, how: str) -> None:
        self.lost += 1
        try:
            self._on_lost(f"{how} (process {worker.pid})")
        except Exception as error:  # who is told must not cost the caller an answer
            _log.error("the loss of a worker was not told", exc_info=error)


def pause(failures: int) -> float:
    """Seconds before a worker is started again after so many failures."""
    return min(BACKOFF[0] * 2.0 ** min(failures - 1, 20), BACKOFF[1])


def _progress(body: bytes) -> Progress:
    message = equipoise_pb2.Progress.FromString(body)
    known = {name: getattr(message, name) for name in ("objective", "bound") if message.HasField(name)}
    return Progress(message.seconds, stage=message.stage, **known)


def _part(chunk: Chunk, items: Sequence[Item]) -> Chunk:
    """A chunk of some of the tasks."""
    return Chunk(options=chunk.options, form=chunk.form, check=chunk.check, items=items)


def _failed(error: Exception) -> Result:
    return Result(failure=to_status(error))


def _closed() -> Refused:
    return Refused(Code.UNAVAILABLE, "SHUTTING_DOWN", "the server takes no more solves: it is shutting down", 1.0)


def _none(failure: Exception) -> Refused:
    return Refused(Code.UNAVAILABLE, "NO_WORKERS", f"there is no worker: {failure}", BACKOFF[1])
