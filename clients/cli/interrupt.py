"""Ctrl-C: once, and the solve stops with the best plan so far; twice, and the program ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

from ..failures import INTERRUPTED

NOTICE = "stopping with the best plan so far; Ctrl-C again to quit at once"


class Interrupt:
    """While it is entered, the first Ctrl-C only sets `requested`.

    announced: somebody else shows the notice, such as a live display that a stray line would tear.
    """

    def __init__(self) -> None:
        self.requested = False
        self.announced = False
        self._before: Any = None
        # Python delivers signals to its main thread only, and lets nobody else ask for them.
        self._mine = threading.current_thread() is threading.main_thread()

    def _press(self, number: int, frame: FrameType | None) -> None:
        # Neither buffered streams nor locks may be touched here: the program may hold them.
        if self.requested:
            quit_at_once()
        self.requested = True
        if not self.announced:
            notify(f"\n{NOTICE}\n" if os.isatty(2) else f"{NOTICE}\n")

    def __enter__(self) -> Self:
        if self._mine:
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mine:
            signal.signal(signal.SIGINT, self._before)


def quit_at_once() -> NoReturn:
    """End the process, whatever it does."""
    notify("\x1b[?25h" if os.isatty(2) else "")  # a live display hides the cursor
    os._exit(INTERRUPTED)


def notify(text: str) -> None:
    """Write to standard error past its buffers, if anybody listens."""
    with contextlib.suppress(OSError):  # nobody listens
        os.write(2, text.encode())
