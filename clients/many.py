"""Many specs from Python: solved by worker processes, or on a Ray cluster, while the caller reads the results."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal, Self, TypedDict, TypeVar, Unpack, overload

from ..server.protocol import wire
from ..server.workers import chunks_pb2 as pb
from ..server.workers.engines import Engine, checked
from ..server.workers.pool import Workers
from ..solvers.control import Method, Options
from ..solvers.solve import Solver
from ..specs.errors import EquipoiseError, ServiceError, UnsupportedError
from ..specs.spec import Plan, Spec
from .asked import task
from .batch.pace import Pace
from .batch.sharing import CHUNK_BYTES, CHUNKS_PER_WORKER, error_of, open_many, solve_shared

P = TypeVar("P", bound=Plan)

AHEAD = 4
"""Chunks per worker that are read before the caller has taken the plans of the first of them."""
LOOK = 1.0
"""Seconds between two looks at whether anybody is left to tell of plans."""
LAST_GRACE = 10.0
"""Seconds that workers have to end."""


class ManyOptions(TypedDict, total=False):
    """What `solve_many` may be told, beside how results come."""

    method: Method
    backend: str | None
    time_limit: float | None
    gap: float | None
    seed: int
    threads: int
    engine: Engine
    workers: int | None
    worker_memory: int | None
    address: str | None


@overload
def solve_many(
    specs: Iterable[Spec[P]],
    *,
    ordered: Literal[True] = ...,
    errors: Literal["raise"] = ...,
    **options: Unpack[ManyOptions],
) -> Iterator[P]: ...
@overload
def solve_many(
    specs: Iterable[Spec[P]], *, ordered: Literal[True] = ..., errors: Literal["return"], **options: Unpack[ManyOptions]
) -> Iterator[P | EquipoiseError]: ...
@overload
def solve_many(
    specs: Iterable[Spec[P]], *, ordered: Literal[False], errors: Literal["raise"] = ..., **options: Unpack[ManyOptions]
) -> Iterator[tuple[int, P]]: ...
@overload
def solve_many(
    specs: Iterable[Spec[P]], *, ordered: Literal[False], errors: Literal["return"], **options: Unpack[ManyOptions]
) -> Iterator[tuple[int, P | EquipoiseError]]: ...
def solve_many(
    specs: Iterable[Spec[Any]],
    *,
    ordered: bool = True,
    errors: Literal["raise", "return"] = "raise",
    method: Method = "auto",
    backend: str | None = None,
    time_limit: float | None = None,
    gap: float | None = None,
    seed: int = 0,
    threads: int = 1,
    engine: Engine = "local",
    workers: int | None = None,
    worker_memory: int | None = None,
    address: str | None = None,
) -> Iterator[Any]:
    """The plan of each spec, while later ones are still being solved. Options as in `equipoise.solve`.

    specs: read in the caller's thread, a bounded number ahead of the plans that were taken.
    ordered: plans come in the order of the specs; if not, `(position, plan)` as soon as each is there.
    errors: `return` gives the error of a spec in its plan's stead; `raise` raises the first, and ends.
    engine: `local` solves in worker processes, `ray` on a Ray cluster. workers: as many as cores, if absent.
    worker_memory: bytes that one worker may take. address: of a Ray cluster; one on this machine, if absent.

    Workers start when the first plan is asked for, which takes some seconds, and end with the iteration or as the
    iterator is closed. Raises `UnsupportedError` for options that no solve allows; and while it is iterated what
    `equipoise.solve` raises, `SpecError` for what is no spec, and `ServiceError` for a spec that costs its worker twice
    (out of memory, say) or where no worker can be started.
    """
    options = Options(method, backend, time_limit, gap, seed, threads)
    Solver(options)  # refuses what no spec could be solved with
    if errors not in ("raise", "return"):
        raise UnsupportedError(f"errors: must be 'raise' or 'return', got {errors!r}")
    checked(engine, workers, worker_memory, address)
    opened = partial(open_many, engine, workers, worker_memory, address)
    return _solutions(specs, opened, options, ordered, errors == "raise")


def _solutions(
    specs: Iterable[Spec[Any]], opened: Callable[[], Workers], options: Options, ordered: bool, raising: bool
) -> Iterator[Any]:
    with _Pool(opened, options) as pool:
        for number, outcome in pool.outcomes(specs, ordered):
            if raising and isinstance(outcome, EquipoiseError):
                raise outcome
            yield outcome if ordered else (number, outcome)


Outcome = tuple[int, Plan | EquipoiseError]


@dataclass(frozen=True)
class _Ended:
    """A chunk is done; or what ends everything."""

    error: BaseException | None


class _Pool:
    """Workers, and the thread whose event loop they belong to."""

    def __init__(self, opened: Callable[[], Workers], options: Options) -> None:
        self._opened, self._options = opened, wire.options(options)
        self._told = queue.SimpleQueue[list[Outcome] | _Ended]()
        self._broken: Exception | None = None  # what reading the specs raised, for after the outcomes of those before
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._starting: asyncio.Future[None] | None = None
        self._ready = Future[Workers]()
        self._thread = threading.Thread(target=self._live, name="equipoise-workers", daemon=True)

    def outcomes(self, specs: Iterable[Spec[Any]], ordered: bool) -> Iterator[Outcome]:
        """The outcome of each spec, with its position."""
        source = enumerate(specs)
        held, pace = dict[int, Plan | EquipoiseError](), Pace(self._workers.count)
        sent = taken = running = 0
        more = True
        while more or running:
            while more and running < CHUNKS_PER_WORKER * self._workers.count and self._may_send(sent - taken, pace):
                numbers, chunk = self._chunk(source, pace.tasks)
                if more := bool(numbers):
                    asyncio.run_coroutine_threadsafe(self._solve(chunk, numbers), self._loop)
                    sent, running = sent + len(numbers), running + 1
            if not running:
                continue
            told = self._next()
            if isinstance(told, _Ended):
                if told.error is not None:
                    raise told.error
                running -= 1
                continue
            pace.done(len(told), self._workers.running)
            held.update(told)
            for number in list(held) if not ordered else range(taken, sent):
                if number not in held:
                    break
                taken += 1
                yield number, held.pop(number)
        if self._broken is not None:
            raise self._broken

    def _next(self) -> list[Outcome] | _Ended:
        """What is told next, however long it takes. Raises `ServiceError` where nothing comes any more."""
        while True:
            with suppress(queue.Empty):
                return self._told.get(timeout=LOOK)
            if not self._thread.is_alive():
                raise ServiceError(
                    "the thread of the workers is not in this process: it was forked; call solve_many there, anew"
                )

    def _may_send(self, ahead: int, pace: Pace) -> bool:
        return ahead < AHEAD * self._workers.count * pace.tasks

    def _chunk(self, source: Iterator[tuple[int, Spec[Any]]], most: int) -> tuple[list[int], pb.Chunk]:
        """The next specs, and their positions; none after one that could not be read, or is no spec."""
        chunk, numbers, size = pb.Chunk(options=self._options, form=pb.FORM_PLAN), list[int](), 0
        try:
            for number, spec in islice(source, most if self._broken is None else 0):
                document = b"".join(wire.spec_fields(task(spec, "solve_many")))
                chunk.items.add().document.MergeFromString(document)
                numbers.append(number)
                size += len(document)
                if size >= CHUNK_BYTES:
                    break
        except Exception as error:
            self._broken = error
        return numbers, chunk

    async def _solve(self, chunk: pb.Chunk, numbers: Sequence[int]) -> None:
        error: BaseException | None = None
        try:
            await solve_shared(self._workers, chunk, numbers, self._tell)
        except BaseException as raised:
            error = raised
        self._told.put(_Ended(error))

    def _tell(self, found: Sequence[tuple[int, pb.Result]]) -> None:
        self._told.put([(number, _outcome(result)) for number, result in found])

    # -- the thread of the workers -----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._workers = self._ready.result()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: what was to start did not
            self._loop.call_soon_threadsafe(self._end)
        self._thread.join(LAST_GRACE)

    def _end(self) -> None:
        self._over.set()
        if self._starting is not None:
            self._starting.cancel()

    def _live(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        try:
            workers = self._opened()
            self._starting = asyncio.ensure_future(workers.start())
            await self._starting
        except BaseException as error:
            self._ready.set_exception(error)
            return
        self._ready.set_result(workers)
        await self._over.wait()
        await workers.stop(0.0)
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)


def _outcome(result: pb.Result) -> Plan | EquipoiseError:
    if result.WhichOneof("outcome") == "plan":
        return wire.read_plan(result.plan, wire.Limits())
    return error_of(result)
