"""Ends calls that take too long, where gRPC's own deadline does not serve: a stream lives for many answers."""

from __future__ import annotations

import threading
import time
from typing import Protocol

LINGER = 10.0
"""Seconds for which the thread stays when there is nothing to watch."""


class Cancellable(Protocol):
    """A call that can be given up."""

    def cancel(self) -> object: ...


class Watchdog:
    """One thread that cancels each call at its time; there is none while there is nothing to watch.

    Setting a time is cheap: the thread wakes for the earliest that it knew, and then looks what has become of it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: dict[Cancellable, float] = {}
        self._wakes = 0.0
        self._thread: threading.Thread | None = None

    def watch(self, call: Cancellable, within: float) -> None:
        """Cancel a call in so many seconds, unless it is released before."""
        due = time.monotonic() + within
        with self._changed:
            self._due[call] = due
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="equipoise-watchdog")
                self._thread.start()
            elif due < self._wakes:
                self._changed.notify()

    def release(self, call: Cancellable) -> None:
        """Let a call be."""
        with self._changed:
            self._due.pop(call, None)

    def stop(self) -> None:
        """Let them all be."""
        with self._changed:
            self._due.clear()
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                self._wakes = min(self._due.values(), default=now + LINGER)
                idle = not self._due
                self._changed.wait(max(self._wakes - now, 0.0))
                if idle and not self._due:
                    self._thread = None
                    return
                now = time.monotonic()
                for call in [call for call, due in self._due.items() if due <= now]:
                    del self._due[call]
                    call.cancel()
