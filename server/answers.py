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
from typing import Any

import numpy as np

from ..solvers.control import Options
from ..specs.spec import Spec


def content_key(tenant: str, spec: Spec[Any], options: Options) -> str:
    """SHA-256 of all that determines an answer, time limits aside."""
    chosen = (options.method, options.backend, options.gap, options.seed, options.threads)
    return hashlib.sha256(repr((tenant, spec.digest(), chosen, _versions())).encode()).hexdigest()


@cache
def _versions() -> tuple[str, ...]:
    return version("equipoise"), np.__version__, version("highspy"), version("ortools")


class Cache:
    """The latest answers of each tenant, as bytes, as many as fit. For any thread.

    most: bytes for each tenant.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._answers: dict[str, OrderedDict[str, bytes]] = {}
        self._sizes: dict[str, int] = {}

    def get(self, tenant: str, key: str) -> bytes | None:
        """The answer that is kept under a key."""
        with self._lock:
            answers = self._answers.get(tenant)
            if answers is None or key not in answers:
                return None
            answers.move_to_end(key)
            return answers[key]

    def put(self, tenant: str, key: str, answer: bytes) -> None:
        """Keep an answer, and let the oldest go that have no more room."""
        if len(answer) > self._most:
            return
        with self._lock:
            answers = self._answers.setdefault(tenant, OrderedDict())
            size = self._sizes.get(tenant, 0) + len(answer) - len(answers.pop(key, b""))
            answers[key] = answer
            while size > self._most:
                size -= len(answers.popitem(last=False)[1])
            self._sizes[tenant] = size


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
