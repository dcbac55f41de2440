"""How far a solve has come, live: shown once it has lasted a second, on a terminal only."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ...solvers.control import Progress
from ...specs.certificate import relative_gap
from .figures import distinct, duration, percent
from .interrupt import NOTICE, Interrupt

QUIET = 1.0
"""Seconds before anything is shown."""
INTERVAL = 0.1
"""Seconds between two drawings."""
ECHO = 3
"""Columns left free at the end of the line: a terminal prints ^C there, which must not begin a new line."""
HINT = "   Ctrl-C stops with the best plan"
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class ProgressDisplay:
    """A watcher of one solve: draws where it stands, and stops it when the user says so."""

    def __init__(self, console: Console, interrupt: Interrupt) -> None:
        self._console = console
        self._interrupt = interrupt
        self._shown = console.is_terminal and not console.is_dumb_terminal and sys.stderr.isatty()
        self._live: Live | None = None
        self._drawn = 0.0

    def __call__(self, progress: Progress) -> bool:
        """Whether to go on."""
        if self._interrupt.requested:
            if self._close():
                self._console.print(NOTICE)
            return False
        now = time.perf_counter()
        if self._shown and progress.seconds >= QUIET and now - self._drawn >= INTERVAL:
            self._drawn = now
            options = self._console.options
            self._draw(status_line(progress, options.max_width - ECHO, unicode=not options.ascii_only))
        return True

    def _draw(self, line: Text) -> None:
        if self._live is None:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._interrupt.announced = True
            self._live.start()
        self._live.update(line, refresh=True)

    def _close(self) -> bool:
        """Take the display away. Whether there was one."""
        if self._live is None:
            return False
        self._live.stop()
        self._live = None
        self._interrupt.announced = False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


def status_line(progress: Progress, width: int, unicode: bool = True) -> Text:
    """Elapsed time, incumbent, bound and gap in one line of at most so many columns."""
    turn = _SPINNER[int(progress.seconds / INTERVAL) % len(_SPINNER)] if unicode else "*"
    found, bound = progress.objective, progress.bound
    parts = [f"{turn} {duration(progress.seconds)}"]
    if progress.stage:
        parts.append(progress.stage)
    if found is not None and bound is not None:
        first, second = distinct(found, bound)
        parts += [f"incumbent {first}", f"bound {second}", f"gap {percent(relative_gap(found, bound))}"]
    else:
        parts.append("no plan yet" if found is None else f"incumbent {distinct(found, found)[0]}")
        if bound is not None:
            parts.append(f"bound {distinct(bound, bound)[0]}")
    line = Text("   ".join(parts), no_wrap=True)
    if line.cell_len + len(HINT) <= width:
        line.append(HINT, style="dim")
    line.truncate(width, overflow="ellipsis" if unicode else "crop")
    return line
