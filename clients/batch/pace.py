"""How many tasks to hand over at once: so many that handing over costs little, and so few that no worker is left alone
with what others could have done."""

from __future__ import annotations

import time
from collections.abc import Callable

LEAST, PER_WORKER = 0.05, 0.002
"""Seconds of work in a chunk: so many, and more where one driver has to keep many workers busy."""
MOST = 500
"""Tasks in one chunk."""
LOOK = 0.1
"""Seconds between two looks at the pace."""
_SOONER = 4
"""How much larger a chunk may be than the last ones were."""


class Pace:
    """Follows how long tasks take. workers: that work at once."""

    def __init__(self, workers: int, now: Callable[[], float] = time.monotonic) -> None:
        self.tasks = 1
        """Tasks for the next chunk."""
        self._now = now
        self._since, self._done, self._busy = now(), 0, 0
        self._seconds = max(LEAST, PER_WORKER * workers)

    def done(self, tasks: int, busy: int) -> None:
        """So many tasks more have an outcome, and so many workers have something to do.

        The time of those that wait for their driver must not count as a task's: chunks would shrink just where handing
        them over is what costs.
        """
        self._done += tasks
        self._busy += tasks * max(busy, 1)
        elapsed = self._now() - self._since
        if self._done and elapsed >= LOOK:
            each = elapsed * self._busy / self._done**2
            self.tasks = max(1, min(round(self._seconds / each), _SOONER * self.tasks, MOST))
            self._since, self._done, self._busy = self._now(), 0, 0
