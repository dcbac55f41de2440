"""Whether to take a request on: early and by its expected wait, since a queue without bound makes everyone late.

The wait is the work that was taken on and is not done, over the threads that do it. How long a request takes is
known from those of its like before it: the same call, of about the same size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Self

from google.rpc.code_pb2 import Code

from .protocol.failures import Refused

LEARNING = 0.1
"""Weight of the latest request in the running mean of its like."""
LEAST_ROOM = 2**28
"""Bytes of requests that a server has room for, at least."""
ROOM_DELAY = 0.2
"""Seconds that a caller is asked to wait for room."""
MOST_TAKEN = 1024
"""Requests taken on at one time, whatever is expected of them."""
CHEAP, MOST_CHEAP = 0.001, 128
"""Seconds that a request takes which costs no more than its refusal would, and how many requests may be taken on before
such a one is refused all the same."""
REFUSING, SPARE = 0.0002, 0.1
"""Seconds of the event loop that a refusal costs, and the share of a core that refusals may take before a thread is
left idle for them: what was taken on would wait for that core."""
WINDOW = 0.25
"""Seconds over which refusals are counted."""
LEAST_DELAY = 0.01
"""Seconds that a refused caller is asked to wait, at least."""


class Admission:
    """What a pool of threads has taken on. Belongs to the event loop.

    patience: seconds that a request may expect to wait; one that takes long itself may wait half as long as it takes.
    most: requests taken on at one time, whatever is expected of them.
    """

    def __init__(
        self, threads: int, patience: float, most: int = MOST_TAKEN, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._threads, self._patience, self._most = threads, patience, most
        self._clock = clock
        self._means: dict[tuple[str, int], float] = {}
        self._backlog = 0.0
        self._refusals, self._refused_at = 0.0, 0.0
        self.taken = 0

    @property
    def wait(self) -> float:
        """Seconds that the next request should expect to wait."""
        spared = self._threads > 1 and self.refusing * REFUSING > SPARE
        return self._backlog / (self._threads - spared)

    @property
    def refusing(self) -> float:
        """Refusals per second of late."""
        return self._refusals and self._recent(self._clock()) / WINDOW

    def _recent(self, now: float) -> float:
        return self._refusals * math.exp((self._refused_at - now) / WINDOW)

    def expected(self, call: str, size: int) -> float:
        """Seconds that a call of a size in bytes should take, 0 where nothing is known of its like."""
        return self._means.get((call, size.bit_length()), 0.0)

    def taking(self, call: str, size: int) -> Work:
        """Take a request on while the context lasts. Raises `Refused` where it would wait too long."""
        expected = self.expected(call, size)
        cheap = expected < CHEAP and self.taken < MOST_CHEAP
        if self.taken >= self._most or (self.wait > max(self._patience, expected / 2) and not cheap):
            now = self._clock()
            self._refusals, self._refused_at = self._recent(now) + 1, now
            delay = max(self.wait, LEAST_DELAY)
            raise Refused(Code.RESOURCE_EXHAUSTED, "OVERLOADED", "the server has more to do than it can do soon", delay)
        return Work(self, (call, size.bit_length()), expected)

    def begin(self, work: Work) -> None:
        """A request is taken on."""
        self.taken += 1
        self._backlog += work.expected

    def end(self, work: Work) -> None:
        """It is done, or given up."""
        self.taken -= 1
        self._backlog = self._backlog - work.expected if self.taken else 0.0  # no rounding is carried along
        if work.seconds is not None:
            known = self._means.get(work.like, work.seconds)
            self._means[work.like] = known + LEARNING * (work.seconds - known)


class Work:
    """A request that is taken on while the context lasts.

    like: its call, and its size in bits. expected: seconds that it should take. seconds: how long a thread worked on
    it, once it has.
    """

    __slots__ = ("_admission", "expected", "like", "seconds")

    def __init__(self, admission: Admission, like: tuple[str, int], expected: float) -> None:
        self._admission, self.like, self.expected = admission, like, expected
        self.seconds: float | None = None

    def __enter__(self) -> Self:
        self._admission.begin(self)
        return self

    def __exit__(self, *error: object) -> None:
        self._admission.end(self)


class Room:
    """Bytes of requests that are in hand. Belongs to the event loop.

    most: bytes, all together; a request that is alone has room whatever its size.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.taken = 0

    def taking(self, size: int) -> Held:
        """Hold a request of a size while the context lasts. Raises `Refused` where there is no room."""
        if self.taken and self.taken + size > self._most:
            text = f"the server has {self.taken:,} bytes of requests in hand, and room for {self._most:,}"
            raise Refused(Code.RESOURCE_EXHAUSTED, "OVERLOADED", text, ROOM_DELAY)
        return Held(self, size)


class Held:
    """Room that a request takes while the context lasts."""

    __slots__ = ("_room", "_size")

    def __init__(self, room: Room, size: int) -> None:
        self._room, self._size = room, size

    def __enter__(self) -> None:
        self._room.taken += self._size

    def __exit__(self, *error: object) -> None:
        self._room.taken -= self._size
