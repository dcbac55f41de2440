"""Answers that need no solve: the stored one to a repeated request, the coming one to a request that is under way.

An answer is kept under a digest of all that determines it: tenant, spec, options, versions. Time limits are not part
of that, since an answer that one of them cut short is never kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version

import numpy as np

from ..solvers.control import Options
from .protocol import equipoise_pb2 as pb
from .protocol import wire

TENANTS_FULL = 8
"""Tenants whose answers fill the room of each before the largest have to give way to others."""


def content_key(tenant: str, document: pb.Document, options: Options, limits: wire.Limits | None = None) -> str:
    """SHA-256 of all that determines an answer, time limits aside.

    The spec counts as it was sent, in whichever order its tensors came: what would come to the same once it is read
    is not read to find out. limits: what it may hold, so that no stored answer stands for what would now be refused.
    """
    chosen = (options.method, options.backend, options.gap, options.seed, options.threads)
    tensors = [(name, document.tensors[name]) for name in sorted(document.tensors)]
    heads = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors]
    state = hashlib.sha256(repr((tenant, chosen, limits, _versions(), document.json, heads)).encode())
    for _, tensor in tensors:
        data = tensor.data
        state.update(len(data).to_bytes(8))
        state.update(data)
    return state.hexdigest()


@cache
def _versions() -> tuple[str, ...]:
    return version("equipoise"), np.__version__, version("highspy"), version("ortools")


@dataclass(frozen=True)
class Answer:
    """A serialised SolveResponse, without its source, and the kind of task that it answers."""

    kind: str
    response: bytes


class Cache:
    """The latest answers of each tenant, as many as fit. For any thread.

    most: bytes for each tenant. altogether: bytes for all of them; the one that holds the most gives way.
    """

    def __init__(self, most: int, altogether: int | None = None) -> None:
        self._most = most
        self._altogether = TENANTS_FULL * most if altogether is None else altogether
        self._lock = threading.Lock()
        self._answers: dict[str, OrderedDict[str, Answer]] = {}
        self._sizes: dict[str, int] = {}
        self._held = 0

    def get(self, tenant: str, key: str) -> Answer | None:
        """The answer that is kept under a key."""
        with self._lock:
            answers = self._answers.get(tenant)
            if answers is None or key not in answers:
                return None
            answers.move_to_end(key)
            return answers[key]

    def put(self, tenant: str, key: str, answer: Answer) -> None:
        """Keep an answer, and let the oldest go that have no more room."""
        size = len(answer.response)
        if size > self._most:
            return
        with self._lock:
            answers = self._answers.setdefault(tenant, OrderedDict())
            if key in answers:
                self._count(tenant, answers.pop(key), -1)
            answers[key] = answer
            self._count(tenant, answer, 1)
            while self._sizes[tenant] > self._most:
                self._forget(tenant)
            while self._held > self._altogether:
                self._forget(max(self._sizes, key=self._sizes.__getitem__))

    def _forget(self, tenant: str) -> None:
        self._count(tenant, self._answers[tenant].popitem(last=False)[1], -1)
        if not self._answers[tenant]:
            del self._answers[tenant], self._sizes[tenant]

    def _count(self, tenant: str, answer: Answer, sign: int) -> None:
        size = sign * len(answer.response)
        self._sizes[tenant] = self._sizes.get(tenant, 0) + size
        self._held += size


@dataclass(frozen=True)
class Outcome:
    """How a solve ended: with a serialised SolveResponse, without its source, or with an error.

    hurried: it was cut short by what binds its first caller alone, his deadline or that he left. Others do not have to
    put up with it.
    """

    response: bytes = b""
    error: BaseException | None = None
    hurried: bool = False

    def answer(self) -> bytes:
        """The response. Raises the error."""
        if self.error is not None:
            raise self.error
        return self.response


@dataclass
class Flight:
    """One solve that is under way, and those who wait for it.

    deadline: when its first caller goes, on the monotonic clock; None for never.
    abandoned: nobody waits any more; seen by the thread that works on it.
    search: the task that waits for a worker process, if one does.
    """

    key: str
    deadline: float | None
    callers: int = 1
    abandoned: bool = False
    search: asyncio.Task[None] | None = None
    outcome: Outcome | None = None
    waiting: list[Future[Outcome]] = field(default_factory=list)


@dataclass
class Caller:
    """Somebody who waits for an answer. deadline: on the monotonic clock, None for never."""

    deadline: float | None = None
    gone: bool = False
    flight: Flight | None = None


class Flights:
    """What is being solved, by key. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[str, Flight] = {}

    def join(self, key: str, caller: Caller) -> tuple[Flight, bool]:
        """The flight under a key, and whether it is a new one, which somebody must then `land`.

        A caller who cannot wait as long as the first gets a flight of its own.
        """
        with self._lock:
            flight, first = self._flights.get(key), False
            if flight is None or flight.abandoned:
                flight = self._flights[key] = Flight(key, caller.deadline)
                first = True
            elif _outlives(caller.deadline, flight.deadline):
                flight.callers += 1
            else:
                flight, first = Flight(key, caller.deadline), True
            caller.flight = flight
            if caller.gone:
                self._left(flight)
            return flight, first

    def leave(self, caller: Caller, gone: bool = True) -> None:
        """A caller waits for its flight no more; with `gone`, for nothing. Belongs to the event loop."""
        with self._lock:
            caller.gone, flight = gone, caller.flight
            caller.flight = None
            if flight is not None:
                self._left(flight)
        if flight is not None and flight.abandoned and flight.search is not None:
            flight.search.cancel()

    def _left(self, flight: Flight) -> None:
        flight.callers -= 1
        flight.abandoned = not flight.callers

    def landing(self, flight: Flight) -> Future[Outcome]:
        """What one caller waits for; cancelling it is nothing to the others."""
        mine = Future[Outcome]()
        with self._lock:
            flight.waiting.append(mine)
            if flight.outcome is not None:
                _tell(flight, flight.outcome)
        return mine

    def land(self, flight: Flight, outcome: Outcome) -> None:
        """A flight is over: tell all who wait."""
        with self._lock:
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
            flight.outcome = outcome
            _tell(flight, outcome)


def _tell(flight: Flight, outcome: Outcome) -> None:
    while flight.waiting:
        future = flight.waiting.pop()
        if future.set_running_or_notify_cancel():
            future.set_result(outcome)


def _outlives(mine: float | None, other: float | None) -> bool:
    return mine is None or (other is not None and mine >= other)
