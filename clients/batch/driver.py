"""Runs a batch: tasks to workers in chunks, a bounded number of them in flight, and outcomes to where they are kept.

A chunk is solved by one worker. What the worker writes of a plan goes to the output as it is: nothing here depends on
how large a spec or a plan is but the copying of its bytes.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ...server.protocol import wire
from ...server.protocol.failures import Refused
from ...server.workers import chunks_pb2 as pb
from ...server.workers.chunks import CHECK_FAILED
from ...server.workers.pool import Workers
from ...solvers.control import Options
from ...specs.errors import EquipoiseError, SpecError
from ...specs.reading import TaskDocument
from ..failures import CHECK_FAILED as CHECK_FAILED_CODE
from ..failures import failure_of
from .feed import Feed
from .outputs import Failed, Output, Solved
from .pace import Pace
from .sharing import CHUNK_BYTES, CHUNKS_PER_WORKER, error_of, first_of, solve_shared
from .tasks import Place, Task, Unread

MOST_BYTES = 2**30
"""Bytes of tasks in all chunks in flight; one alone may be larger."""
READ_AGAIN = 2**16
"""Characters of a task up to which it is read here for its name, if the worker that should have told it died."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A task as workers take it; or what is wrong with it already."""

    place: Place
    digest: bytes
    item: pb.Item | None
    failed: Failed | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return 0 if self.item is None else len(self.item.text) or self.item.ByteSize()


class Batch:
    """One run over tasks. Belongs to the event loop that runs it.

    elsewhere: whether workers run where our files are not: what a spec refers to is then read here.
    """

    def __init__(
        self,
        tasks: Iterable[Task | Unread],
        output: Output,
        workers: Workers,
        options: Options,
        *,
        check: bool = True,
        elsewhere: bool = False,
    ) -> None:
        self.fresh = self.failures = 0
        """Outcomes of this run, and the failures among them."""
        self.skipped = 0
        """Tasks that had an outcome before."""
        self.points = 0
        """Tasks beyond the first of each sweep."""
        self.started = False
        """Whether there was something to do, for which workers have started."""
        self._tasks, self._output, self._workers = tasks, output, workers
        self._check, self._elsewhere = check, elsewhere
        self._options = wire.options(options)
        self._pace = Pace(workers.count)

    async def run(self) -> None:
        """Give every task an outcome; workers start with the first that has none yet.

        Raises what ends all of them: an output that cannot be written, workers that cannot be started. Cancelling it
        leaves what has no outcome yet.
        """
        room = _Room(CHUNKS_PER_WORKER * self._workers.count, MOST_BYTES)
        feed = Feed(self._ready(), lambda ready: ready.size)
        try:
            async with asyncio.TaskGroup() as group:
                while entries := await feed.take(self._pace.tasks, CHUNK_BYTES):
                    if not self.started:
                        await self._workers.start()
                        self.started = True
                    size = sum(entry.size for entry in entries)
                    await room.take(size)
                    solving = group.create_task(self._solve(entries))
                    solving.add_done_callback(lambda _, size=size: room.give(size))
        except BaseExceptionGroup as errors:
            raise first_of(errors) from None
        finally:
            feed.close()

    def _ready(self) -> Iterator[Ready]:
        """The tasks without an outcome, in a thread of their own."""
        swept = None
        for task in self._tasks:
            if task.place.point is not None:
                document = task.place.file, task.place.line
                self.points += document == swept
                swept = document
            if self._output.has(task):
                self.skipped += 1
            elif isinstance(task, Unread):
                digest = task.digest()
                yield Ready(task.place, digest, None, _failed(task.place, digest, task.error, "", task.name or ""))
            else:
                yield self._item(task)

    def _item(self, task: Task) -> Ready:
        place, digest = task.place, task.digest()
        item = pb.Item(source=_printable(place.file), line=place.line or 0)
        if place.point is not None:
            item.point = json.dumps(dict(place.point))
        if self._elsewhere and "file" in task.text:
            document = None
            try:
                document = TaskDocument(task.text, place.file, place.line)
                spec = document.spec(task.folder, place.point)
            except SpecError as error:
                kind, name = ("", "") if document is None else (document.kind or "", document.name or "")
                return Ready(place, digest, None, _failed(place, digest, error, kind, name))
            item.document.MergeFromString(b"".join(wire.spec_fields(spec)))
        else:
            item.text, item.folder = _printable(task.text), b"" if self._elsewhere else os.fsencode(task.folder)
        return Ready(place, digest, item)

    async def _solve(self, entries: Sequence[Ready]) -> None:
        self._keep([], [entry.failed for entry in entries if entry.failed is not None])
        ready = [entry for entry in entries if entry.item is not None]
        chunk = pb.Chunk(options=self._options, form=pb.FORM_RECORD, check=self._check)
        chunk.items.extend(entry.item for entry in ready if entry.item is not None)
        if ready:
            await solve_shared(self._workers, chunk, ready, self._told)

    def _told(self, found: Sequence[tuple[Ready, pb.Result]]) -> None:
        solved, failed = list[Solved](), list[Failed]()
        for entry, result in found:
            if result.WhichOneof("outcome") == "record":
                solved.append(_solved(entry, result))
            else:
                kind, name = (result.kind, result.name) if result.kind else _known(entry)
                failed.append(_failed(entry.place, entry.digest, error_of(result), kind, name))
        self._keep(solved, failed)

    def _keep(self, solved: Sequence[Solved], failed: Sequence[Failed]) -> None:
        if solved:
            self._output.add(solved)
        if failed:
            self._output.fail(failed)
        self.fresh += len(solved) + len(failed)
        self.failures += len(failed)
        self._pace.done(len(solved) + len(failed), self._workers.running)


class _Room:
    """Room for so many chunks, of so many bytes together, taken by one and given back by all."""

    def __init__(self, chunks: int, size: int) -> None:
        self._chunks, self._bytes, self._most = chunks, size, chunks
        self._more = asyncio.Event()

    async def take(self, size: int) -> None:
        """Wait for room for a chunk; one that is larger than all there is waits for all of it."""
        while not (self._chunks and (size <= self._bytes or self._chunks == self._most)):
            self._more.clear()
            await self._more.wait()
        self._chunks -= 1
        self._bytes -= size

    def give(self, size: int) -> None:
        """A chunk is done."""
        self._chunks += 1
        self._bytes += size
        self._more.set()


def _solved(entry: Ready, result: pb.Result) -> Solved:
    record = result.record
    return Solved(
        entry.place, entry.digest, record.body, result.kind, record.status, gap=record.gap, seconds=record.seconds
    )


def _known(entry: Ready) -> tuple[str, str]:
    """The kind and the name of a task whose worker could not tell them any more; nothing of one that does not parse, or
    that would take long to."""
    if entry.item is None or not 0 < len(entry.item.text) <= READ_AGAIN:
        return "", ""
    try:
        document = TaskDocument(entry.item.text, entry.item.source, entry.item.line or None)
    except SpecError:
        return "", ""
    return document.kind or "", document.name or ""


def _failed(place: Place, digest: bytes, error: EquipoiseError, kind: str, name: str) -> Failed:
    failure = failure_of(error)
    if isinstance(error, Refused):
        code = CHECK_FAILED_CODE if error.reason == CHECK_FAILED else failure.code
        failure = replace(failure, type="ServiceError", code=code, details={"cause": error.reason})
    return Failed(
        place, digest, kind or None, name or None, failure.type, failure.message, failure.code, failure.details
    )


def _printable(text: str) -> str:
    """A text that a message can hold: no lone surrogates."""
    return text.encode(errors="replace").decode()
