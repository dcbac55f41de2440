"""What a solve is allowed and how it is watched: the options, the deadline, progress, and the stop button."""

from __future__ import annotations

import atexit
import math
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from ..specs.certificate import Stopped
from ..specs.errors import BackendError, SolveTimeout, UnsupportedError

T = TypeVar("T")

Method = Literal["auto", "exact", "fast"]

FAST_GAP = 1e-3
"""The relative gap that `method="fast"` stops at."""
MOST_THREADS = 256
"""Threads that a backend may be given: each costs memory before it does any work."""
POLL = 0.02
"""Seconds between two looks at the deadline and the watcher while a backend runs."""
GRACE = 1.0
"""Seconds that a backend has to stop after it was told to, before it is given up."""
LAST_GRACE = 5.0
"""Seconds that backends which were given up have at the end of the process."""


class BackendStuck(SolveTimeout):
    """A backend did not stop when it was told to. Its thread is left behind, and ends when the backend looks up."""


@dataclass(frozen=True)
class Options:
    """How to solve. Times in seconds; `gap` is relative, None for the method's own."""

    method: Method = "auto"
    backend: str | None = None
    time_limit: float | None = None
    gap: float | None = None
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.method not in ("auto", "exact", "fast"):
            raise UnsupportedError(f"method: must be 'auto', 'exact' or 'fast', got {self.method!r}")
        if self.method == "fast" and self.backend is not None:
            raise UnsupportedError(
                f"method 'fast' runs no backend, got {self.backend!r}; leave it out, or use 'auto' or 'exact'"
            )
        _finite("time_limit", self.time_limit)
        _finite("gap", self.gap)
        for name, value, least, most in (("seed", self.seed, 0, 2**31 - 1), ("threads", self.threads, 1, MOST_THREADS)):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise UnsupportedError(f"{name}: must be a whole number from {least} to {most}, got {value!r}")

    def asked_gap(self, default: float) -> float:
        """The relative gap to stop at, where `default` is what `auto` asks for."""
        if self.gap is not None:
            return self.gap
        return {"exact": 0.0, "fast": FAST_GAP}.get(self.method, default)


def _finite(name: str, value: float | None) -> None:
    if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
        raise UnsupportedError(f"{name}: must be a finite number, at least 0, got {value!r}")


@dataclass(frozen=True)
class Progress:
    """Where a running solve stands. Objective and bound are None until there is one."""

    seconds: float
    objective: float | None = None
    bound: float | None = None
    stage: str = ""


Watcher = Callable[[Progress], object]
"""Called about 50 times a second while a backend runs; returning False stops the solve."""


@dataclass
class Control:
    """Deadline, watcher and stop button of one solve, shared by all its stages."""

    time_limit: float | None = None
    watch: Watcher | None = None
    stage: str = ""
    started: float = field(default_factory=time.perf_counter)
    interrupted: bool = False
    _objective: float | None = None
    _bound: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the solve began."""
        return time.perf_counter() - self.started

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; infinite without one."""
        return math.inf if self.time_limit is None else max(self.time_limit - self.seconds, 0.0)

    @property
    def bound(self) -> float | None:
        """The last bound that a backend reported."""
        return self._bound

    def enter(self, stage: str) -> None:
        """Begin another stage, of which nothing is known yet."""
        self.stage, self._objective, self._bound = stage, None, None

    def report(self, objective: float | None, bound: float | None) -> None:
        """What a backend knows so far; may be called from its own thread."""
        self._objective, self._bound = objective, bound

    def look(self) -> bool:
        """Show the watcher where the solve stands. True if the solve is to stop now."""
        if self.watch is not None and not self.interrupted:
            progress = Progress(self.seconds, self._objective, self._bound, self.stage)
            self.interrupted = self.watch(progress) is False
        return self.interrupted or self.remaining <= 0

    def check(self) -> None:
        """For work between solves. Raises `SolveTimeout` if the solve is to stop now."""
        if self.look():
            raise SolveTimeout(f"no plan within {self.seconds:.3g} s ({self.why_stopped()})")

    def why_stopped(self) -> Stopped:
        """What ended a solve that was not finished."""
        return "interrupted" if self.interrupted else "time limit"


class Cancel(Protocol):
    """Tells a running backend to stop soon; returns at once."""

    def __call__(self) -> None: ...


_running: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
"""The threads of backends; those that still live at the end of the process were abandoned."""


def abandoned() -> bool:
    """Whether a backend is still running that was given up."""
    return any(thread.is_alive() for thread in list(_running))


@atexit.register
def _wait_for_the_abandoned() -> None:
    """A process that ends under a running HiGHS is aborted as that calls back into Python: give it some time more."""
    end = time.perf_counter() + LAST_GRACE
    for thread in list(_running):
        thread.join(max(end - time.perf_counter(), 0.0))


def run_apart(work: Callable[[], T], cancel: Cancel | None, control: Control) -> T:
    """Run a backend's blocking call in a thread of its own, and stop it when the deadline or the watcher says.

    A thread per call also keeps two solves apart: HiGHS sizes its executor per thread. A backend that does not
    stop within the grace (or cannot be told to, without `cancel`) is abandoned with its (daemon) thread, and
    `BackendStuck` is raised.
    """
    finished = threading.Event()
    outcome: list[Any] = []

    def target() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:
            outcome.append((None, error))
        finally:
            finished.set()

    thread = threading.Thread(target=target, daemon=True, name="equipoise-backend")
    _running.add(thread)
    thread.start()
    stop_at: float | None = None
    try:
        while not finished.wait(POLL):
            if stop_at is None and control.look():
                if cancel is None:
                    raise BackendStuck(f"no plan within {control.seconds:.3g} s ({control.why_stopped()})")
                cancel()
                stop_at = time.perf_counter() + GRACE
            if stop_at is not None and time.perf_counter() > stop_at:
                raise BackendStuck(
                    f"no plan within {control.seconds:.3g} s ({control.why_stopped()}); "
                    "allow more time or a larger gap, or make the task coarser"
                )
    except BackendStuck:
        raise
    except BaseException:
        if cancel is not None:
            cancel()
            finished.wait(GRACE)
        raise
    thread.join(GRACE)  # HiGHS takes its own threads down as this one ends, which must not meet the end of the process
    result, error = outcome[0]
    if error is not None:
        raise error if isinstance(error, Exception) else BackendError(f"the backend died: {error!r}")
    return result
