"""Chunks of many tasks, for whoever has them: which task a result is of, and what becomes of tasks that a worker gives
back so that others share them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ...server.protocol.failures import from_status, read_infeasible
from ...server.workers import chunks_pb2 as pb
from ...server.workers.engines import Engine, open_workers
from ...server.workers.pool import Workers
from ...specs.errors import EquipoiseError

T = TypeVar("T")

CHUNK_BYTES = 16 * 2**20
"""Bytes of tasks in one chunk; one alone may be larger."""
CHUNKS_PER_WORKER = 2
"""Chunks in flight: one that is solved, and one that waits so that nobody has to."""
CHUNKS_OF_A_WORKER = 20_000
"""Chunks after which a worker is replaced: a chunk is some 50 ms of work, and a start takes seconds."""


def open_many(
    engine: Engine,
    count: int | None,
    memory: int | None,
    address: str | None,
    on_lost: Callable[[str], None] | None = None,
) -> Workers:
    """Workers for chunks, as `open_workers`. Who asks them sees to a bound of what waits, as `CHUNKS_PER_WORKER`."""
    return open_workers(
        engine,
        count,
        memory=memory,
        address=address,
        on_lost=on_lost,
        most_waiting=None,
        recycle_after=CHUNKS_OF_A_WORKER,
    )


async def solve_shared(
    workers: Workers, chunk: pb.Chunk, tasks: Sequence[T], told: Callable[[list[tuple[T, pb.Result]]], None]
) -> None:
    """Solve a chunk; `told` gets its tasks, one for each item, with their results, some at a time.

    What one worker gives back is a chunk of its own. Raises as `Workers.solve_all`, and what `told` raises.
    """
    left = deque(tasks)

    def results(found: Sequence[pb.Result]) -> None:
        told([(left.popleft(), result) for result in found])

    def back(part: pb.Chunk) -> None:
        others = [left.pop() for _ in part.items][::-1]
        group.create_task(solve_shared(workers, part, others, told))

    try:
        async with asyncio.TaskGroup() as group:
            await workers.solve_all(chunk, results, back)
    except BaseExceptionGroup as errors:
        raise first_of(errors) from None


def first_of(errors: BaseExceptionGroup[Any]) -> BaseException:
    """The first error of several that came at once: the others follow from the same cause."""
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


def error_of(result: pb.Result) -> EquipoiseError:
    """Why there is no plan."""
    if result.WhichOneof("outcome") == "infeasible":
        return read_infeasible(result.infeasible)
    return from_status(result.failure)
