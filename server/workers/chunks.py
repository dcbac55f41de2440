"""Many tasks in one worker, one after the other: each read, solved, held against its spec, and written down.

Results are told a few at a time, soon after they are there: of tasks that take a millisecond, one message each would
cost more than some solves, and what a slow or deadly task holds up should be little.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from google.rpc.code_pb2 import Code

from ...solvers.check import check
from ...solvers.control import Options, abandoned
from ...solvers.records import line, plan_document
from ...solvers.solve import Solver
from ...specs.errors import EquipoiseError, InfeasibleError, ServiceError
from ...specs.reading import TaskDocument
from ...specs.spec import Plan, Spec
from ..protocol import failures, wire
from ..protocol.failures import Refused
from . import chunks_pb2 as pb
from .frames import LARGEST

TOLD_EVERY = 0.02
"""Seconds that a result waits for others, at most, before all of them are told."""
MANY_BYTES = 2**22
"""Bytes of results that wait for no others."""
SLICE = 1.0
"""Seconds after which a worker gives back what it has not begun of a chunk: it is larger than was thought, and others
may have nothing to do."""
CHECK_FAILED = "CHECK_FAILED"
"""The reason of a plan that breaks its spec, or whose certificate claims what does not hold."""


class Results:
    """Tells results in the order in which they are added, as long as it is entered."""

    def __init__(self, tell: Callable[[bytes], None]) -> None:
        """tell: gets serialised `Results`, from one thread at a time."""
        self._tell = tell
        self._held = pb.Results()
        self._bytes = 0
        self._lock = threading.Lock()
        self._some, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._tell_soon, name="equipoise-results", daemon=True)

    def add(self, result: pb.Result) -> None:
        """Have a result told."""
        size = result.ByteSize()
        if size > LARGEST - 2**20:
            error = ServiceError(f"the plan takes {size:,} bytes, at most {LARGEST:,} can be sent")
            result = pb.Result(failure=failures.to_status(error), kind=result.kind, name=result.name)
            size = 0
        if self._bytes + size > MANY_BYTES:
            self._flush()
        with self._lock:
            self._held.results.append(result)
            self._bytes += size
        self._some.set()

    def _tell_soon(self) -> None:
        while not self._over.is_set():
            self._some.wait()
            self._over.wait(TOLD_EVERY)
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            self._some.clear()
            if self._held.results:
                self._tell(self._held.SerializeToString())
                self._held, self._bytes = pb.Results(), 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._some.set()
        self._thread.join()
        self._flush()


def solve_chunk(
    chunk: pb.Chunk,
    options: Options,
    limits: wire.Limits,
    add: Callable[[pb.Result], None],
    stopped: Callable[[], bool],
) -> None:
    """Add the result of each task; none of those after it was told to stop, after a backend did not, or after as much
    time as a chunk may take: whoever asked asks for them again.

    Every task gets a solver of its own: what one leaves behind must not decide which of two equally good plans the
    next one gets.
    """
    read, latest = _Reader(limits), time.monotonic() + SLICE
    for item in chunk.items:
        result = pb.Result()
        try:
            spec = read(item, result)
            plan = Solver(options).solve(spec, lambda _: not stopped())
            _write(result, chunk, spec, plan)
        except InfeasibleError as error:
            result.infeasible.CopyFrom(failures.infeasible(error))
        except MemoryError:
            raise
        except Exception as error:
            result.failure.CopyFrom(failures.to_status(_told(error)))
        if stopped():
            return
        add(result)
        if abandoned() or time.monotonic() > latest:
            return


class _Reader:
    """Reads the tasks of a chunk. The points of a sweep share a document, which is parsed once."""

    def __init__(self, limits: wire.Limits) -> None:
        self._limits = limits
        self._last: tuple[str, str, int] | None = None
        self._document: TaskDocument | None = None

    def __call__(self, item: pb.Item, result: pb.Result) -> Spec[Any]:
        """The spec of a task, and what is known of it in its result. Raises `SpecError`."""
        if item.WhichOneof("content") == "document":
            spec = wire.read_task(item.document, self._limits)
            result.kind, result.name = spec.kind, _printable(spec.name)
            return spec
        key = item.text, item.source, item.line
        if self._document is None or key != self._last:
            self._document = None
            self._document, self._last = TaskDocument(item.text, item.source, item.line or None), key
        result.kind, result.name = _printable(self._document.kind), _printable(self._document.name)
        folder = Path(os.fsdecode(item.folder)) if item.folder else None
        return self._document.spec(folder, json.loads(item.point) if item.point else None)


def _write(result: pb.Result, chunk: pb.Chunk, spec: Spec[Any], plan: Plan) -> None:
    """A plan as its chunk wants it. Raises `Refused` for one that does not hold."""
    found = check(spec, plan) if chunk.check else None
    if found is not None and not found.ok:
        raise Refused(Code.DATA_LOSS, CHECK_FAILED, f"the plan does not hold: {'; '.join(found.problems)}")
    if chunk.form == pb.FORM_PLAN:
        result.plan.MergeFromString(b"".join(wire.field(1, wire.document(plan.fields()))))
        result.plan.certificate.CopyFrom(wire.certificate(plan.certificate))
        return
    certificate = plan.certificate
    result.record.body = line(plan_document(plan, spec, found)).encode()
    result.record.status, result.record.gap = certificate.status, certificate.gap
    result.record.seconds = certificate.seconds


def _told(error: Exception) -> EquipoiseError:
    """An error in words for who runs the batch."""
    if isinstance(error, EquipoiseError):
        return error
    print(f"equipoise worker {os.getpid()}: a task failed:", file=sys.stderr)
    traceback.print_exception(error)
    return ServiceError(f"{type(error).__name__}: {error} (this is a bug in Equipoise; its traceback was printed)")


def _printable(text: str | None) -> str:
    """As much of a text as a message can hold: no lone surrogates."""
    return "" if text is None else text.encode(errors="replace").decode()
