"""How long to try one request, and when to try again.

Only what is safe to repeat comes here. A service that is not there, or that asks for another try later, is tried
again after a delay that grows and is drawn at random, so that many callers do not come back all at once. gRPC's own
retries (its proposal A6) do not serve here: they leave out requests beyond their buffer, and repeat those that are
too large for the service; and sessions need the same rule.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

from google.rpc.code_pb2 import Code

from ...server.protocol.failures import Refused
from ...specs.errors import EquipoiseError, SolveTimeout

FIRST = 0.1
"""Seconds before the second try, at most."""
GROWTH = 2.0
LARGEST = 2.0
"""Seconds between two tries, at most, unless the service asks for more."""


class Patience:
    """The time that one request has.

    timeout: seconds until there must be an answer. retry_for: seconds in which another try may begin. late: what is
    said where there is no answer in time.
    """

    def __init__(
        self,
        timeout: float,
        retry_for: float = math.inf,
        late: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._retry_for = retry_for
        self._late = f"no answer within {timeout:g} s" if late is None else late
        self._clock, self._draw = clock, draw
        self._due = clock() + timeout
        self._first: float | None = None
        self._tries = 1

    @property
    def left(self) -> float:
        """Seconds until there must be an answer. Raises `SolveTimeout` where there are none."""
        left = self._due - self._clock()
        if left <= 0:
            raise self.late()
        return left

    def late(self) -> SolveTimeout:
        """What is to be said where there is no answer in time."""
        return SolveTimeout(self._late)

    def pause(self, error: EquipoiseError) -> float:
        """Seconds to wait before another try. Raises the error where there is no use in one, or no time for it."""
        if isinstance(error, SolveTimeout) and self._clock() >= self._due:  # gRPC's own, which knows less of the matter
            raise self.late()
        if not isinstance(error, Refused) or not repeatable(error):
            raise error
        left, now = self.left, self._clock()
        if self._first is None:
            self._first = now
        grown = min(FIRST * GROWTH ** (self._tries - 1), LARGEST)
        delay = max(error.retry_after or 0.0, self._draw(0.5 * grown, grown))
        if delay >= left or now + delay - self._first > self._retry_for:
            raise error if self._tries == 1 else _tried(error, self._tries, now - self._first)
        self._tries += 1
        return delay

    def renew(self) -> None:
        """The service is there: another failure would be a new one."""
        self._first, self._tries = None, 1


def repeatable(error: Refused) -> bool:
    """Whether another try of the same request may succeed."""
    if error.code == Code.RESOURCE_EXHAUSTED:  # without a delay, it is the request that is too large
        return error.retry_after is not None
    # A server that stops cancels what it has not finished; a caller's own cancelling never comes here.
    return error.code == Code.UNAVAILABLE or (error.code == Code.CANCELLED and error.reason == "CANCELLED")


def _tried(error: Refused, tries: int, seconds: float) -> Refused:
    return Refused(error.code, error.reason, f"{error} (tried {tries} times in {seconds:.1f} s)", error.retry_after)
