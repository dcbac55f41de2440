"""A worker process: one solve after the other, for the server that started it and for nobody else.

It reads frames from the socket that it was given, and ends when that socket does or when the server dies, however
that happens: a guardian process sees to it that no solver program is left either. A thread listens, so that a solve
can be told to stop; the main thread solves.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from ...solvers.algorithms import algorithm_kinds, load
from ...solvers.check import check
from ...solvers.control import Options, Progress, abandoned
from ...solvers.solve import SHORTEST, Solver
from ...specs.errors import EquipoiseError, InfeasibleError, ServiceError, SpecError
from ...specs.reading import load as load_spec
from ..protocol import equipoise_pb2 as pb
from ..protocol import failures, wire
from .chunks import Results, solve_chunk
from .chunks_pb2 import Chunk
from .frames import LARGEST, Frame, Junk, Kind, receive, send
from .worker import GRACE, READING

M = TypeVar("M", bound=Message)

SPARE = 64 * 2**20
"""Bytes that a memory limit must leave a worker to solve anything in."""
PROGRESS_EVERY = 0.05
"""Seconds between two messages about progress."""
NO_MEMORY = 77
"""Exit code of a worker that was given no more memory: it would not be sound afterwards."""
_GUARDIAN = """
import os, signal
try:
    os.read(0, 1)
finally:
    os.killpg(0, signal.SIGKILL)
"""
"""Waits for the end of the leash, whose other end the server alone holds, and then ends its whole group: the system
ends a worker whose server is gone, but not the solver programs that the worker runs."""
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_KILLED_FIRST = "500"  # of 1000: where the system runs out of memory, a worker goes and the server stays


@dataclass(frozen=True)
class Setup:
    """What a worker is told on its command line, as JSON.

    connection: descriptor of its socket. parent: process id of the server. memory: bytes that it may take.
    """

    connection: int
    parent: int
    memory: int | None
    limits: wire.Limits

    def argument(self) -> str:
        """As the command line carries it."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, argument: str) -> Setup:
        """The inverse of `argument`."""
        fields = json.loads(argument)
        return cls(**fields | {"limits": wire.Limits(**fields["limits"])})


class _Worker:
    def __init__(self, connection: socket.socket, limits: wire.Limits) -> None:
        self._connection = connection
        self._limits = limits
        self._requests = queue.Queue[tuple[Frame, float]](1)
        self._runs = {Kind.SOLVE: self._solved, Kind.CHECK: self._checked, Kind.CHUNK: self._solved_all}
        self._stopped = 0  # the solve that was last told to stop
        self._sending = threading.Lock()

    def listen(self) -> None:
        """Take frames in until the socket ends; then end the process, whatever it is doing."""
        try:
            while True:
                frame = receive(self._connection)
                if frame.kind == Kind.STOP:
                    self._stopped = frame.solve
                elif frame.kind in (Kind.SOLVE, Kind.CHECK, Kind.CHUNK):
                    self._requests.put_nowait((frame, time.monotonic()))
                else:
                    raise Junk(f"a server does not send {frame.kind.name}")
        except (Junk, queue.Full) as error:
            print(f"equipoise worker {os.getpid()}: {error!r}", file=sys.stderr, flush=True)
        except MemoryError:
            os._exit(NO_MEMORY)
        except OSError:  # the socket ended
            pass
        _end()

    def run(self) -> None:
        """Answer for ever."""
        self.send(Frame(Kind.READY))
        while True:
            frame, arrived = self._requests.get()
            self._answer(frame, arrived)
            del frame

    def _answer(self, frame: Frame, arrived: float) -> None:
        number = frame.solve
        try:
            kind, parts = Kind.ANSWER, self._runs[frame.kind](frame, arrived)
            if (length := sum(map(len, parts))) > LARGEST:
                raise ServiceError(f"the plan takes {length:,} bytes, at most {LARGEST:,} can be sent")
            fit = not abandoned()
        except MemoryError:
            os._exit(NO_MEMORY)
        except Exception as error:
            if not (known := isinstance(error, EquipoiseError)):
                traceback.print_exc()
            kind, parts = Kind.FAILED, [failures.to_status(error).SerializeToString()]
            fit = known and not abandoned()
        self.send(Frame(kind, number, last=not fit), parts)

    def _solved(self, frame: Frame, arrived: float) -> Sequence[bytes | memoryview]:
        """The answer as a `SolveResponse`."""
        request = _parsed(pb.SolveRequest, frame.body)
        options = wire.read_options(request.options)
        spec = wire.read_task(request.spec, self._limits)
        self.send(Frame(Kind.STARTED, frame.solve, _patience(options)))
        within = frame.seconds - (time.monotonic() - arrived)
        try:
            plan = Solver(options).solve(
                spec, _Watcher(self, frame.solve), None if within == math.inf else max(within, 0.0)
            )
        except InfeasibleError as error:
            return [pb.SolveResponse(infeasible=failures.infeasible(error)).SerializeToString()]
        return wire.field(1, wire.plan_fields(plan))

    def _checked(self, frame: Frame, arrived: float) -> Sequence[bytes | memoryview]:
        """The answer as a `CheckResponse`. Nothing stops it but the end of the process."""
        request = _parsed(pb.CheckRequest, frame.body)
        spec, plan = wire.read_task(request.spec, self._limits), wire.read_plan(request.plan, self._limits)
        self.send(Frame(Kind.STARTED, frame.solve, math.inf))
        result = check(spec, plan)
        response = pb.CheckResponse(
            problems=result.problems,
            objective=result.objective,
            bound=result.bound,
            gap=result.gap,
            violation=result.violation,
            trusted=result.trusted,
        )
        return [response.SerializeToString()]

    def _solved_all(self, frame: Frame, arrived: float) -> Sequence[bytes | memoryview]:
        """Nothing: the results of a chunk are told as they come."""
        chunk = _parsed(Chunk, frame.body)
        options = wire.read_options(chunk.options)
        pace = READING + _patience(options)
        self.send(Frame(Kind.STARTED, frame.solve, pace))

        def tell(results: bytes) -> None:
            self.send(Frame(Kind.RESULTS, frame.solve, pace), [results])

        with Results(tell) as results:
            solve_chunk(chunk, options, self._limits, results.add, lambda: self.stopped(frame.solve))
        return []

    def stopped(self, number: int) -> bool:
        """Whether a solve was told to stop."""
        return self._stopped == number

    def tell(self, number: int, progress: Progress) -> None:
        """Send where a solve stands."""
        known = {name: value for name, value in asdict(progress).items() if value is not None}
        self.send(Frame(Kind.PROGRESS, number), [pb.Progress(**known).SerializeToString()])

    def send(self, frame: Frame, parts: Sequence[bytes | memoryview] = ()) -> None:
        """Send a frame, whichever thread has one."""
        with self._sending:
            send(self._connection, frame, parts)


class _Watcher:
    """Passes on the progress of one solve, now and then, and says whether it goes on."""

    def __init__(self, worker: _Worker, number: int) -> None:
        self._worker = worker
        self._number = number
        self._told = -math.inf

    def __call__(self, progress: Progress) -> bool:
        if self._worker.stopped(self._number):
            return False
        now = time.monotonic()
        if now >= self._told + PROGRESS_EVERY:
            self._told = now
            self._worker.tell(self._number, progress)
        return True


def _parsed(message: type[M], body: bytes) -> M:
    try:
        return message.FromString(body)
    except DecodeError:
        raise SpecError("the request is no message of the protocol") from None


def _patience(options: Options) -> float:
    """Seconds after which a solve under its own time limit is not to be believed in any more: why there is no plan
    may take as long again as the search for one."""
    limit = options.time_limit
    return math.inf if limit is None else limit + max(limit, SHORTEST) + GRACE


def _end() -> None:
    """End at once, together with the solver programs that this worker started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _tie_to(parent: int) -> None:
    """Have the system end this process when the server dies, even if nothing here runs any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server decides
    if ctypes.CDLL(None, use_errno=True).prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before
        _end()
    with suppress(OSError):  # some containers forbid it
        Path("/proc/self/oom_score_adj").write_text(_KILLED_FIRST)


def _guard() -> None:
    """Have all that this process starts end when the server dies. The standard input is the leash."""
    if os.getpgrp() == os.getpid():  # else there is no group of its own to end
        command = [sys.executable, "-I", "-S", "-c", _GUARDIAN]
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)  # the leash is the guardian's alone


def _limit_memory(memory: int) -> None:
    """Let no more data be taken from the system. Raises `ServiceError` where the limit leaves nothing to solve in.

    RLIMIT_DATA counts what is written to: heap, stacks of threads and private mappings. RLIMIT_AS would also count
    the address space that allocators and libraries keep for themselves without using it.
    """
    status = Path("/proc/self/status").read_text()
    taken = 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmData:")))
    if memory < taken + SPARE:
        raise ServiceError(
            f"a worker's memory limit of {memory:,} bytes is too low: it takes {taken:,} before it solves anything; "
            f"allow at least {taken + SPARE:,}"
        )
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def _warm() -> None:
    """Have everything ready that a first solve would wait for: machine code, backends, libraries.

    A kind that fails here is told of in the log, and fails again, with its error, for whoever asks for it.
    """
    for kind in algorithm_kinds():
        try:
            load(kind)
            example = Path(__file__).parents[2] / "specs" / "examples" / "minimal" / f"{kind}.yaml"
            if example.is_file():
                Solver(Options("exact")).solve(load_spec(example))
        except Exception:
            print(f"equipoise worker {os.getpid()}: the kind {kind} does not work:", file=sys.stderr)
            traceback.print_exc()


def main() -> None:
    """Serve the server whose socket the command line names."""
    setup = Setup.read(sys.argv[1])
    _tie_to(setup.parent)
    _guard()
    connection = socket.socket(fileno=setup.connection)
    worker = _Worker(connection, setup.limits)
    threading.Thread(target=worker.listen, daemon=True, name="equipoise-listen").start()
    try:
        _warm()
        if setup.memory is not None:
            _limit_memory(setup.memory)
    except Exception as error:
        traceback.print_exc()
        send(connection, Frame(Kind.FAILED, last=True), [failures.to_status(error).SerializeToString()])
        _end()
    worker.run()


if __name__ == "__main__":
    main()
