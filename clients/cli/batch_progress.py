"""How far a batch has come: a live bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ...specs.errors import EquipoiseError
from ..batch.driver import Batch
from ..batch.sources import Sources
from .figures import counted, duration

REFRESH, LOGGED = 0.2, 10.0
"""Seconds between two looks: on a terminal, and in a log."""
RECENT = 10.0
"""Seconds over which the rate is taken."""


@dataclass
class Stand:
    """Where a batch stands, for who wants to know: read by one thread while others write.

    expected: documents among the sources, once they are counted. workers: asked for. lost: that died. closing: every
    spec has its outcome, and the output is being finished.
    """

    began: float = field(default_factory=time.monotonic)
    batch: Batch | None = None
    expected: int | None = None
    workers: int = 0
    lost: int = 0
    closing: bool = False

    @property
    def fresh(self) -> int:
        """Outcomes of this run."""
        return 0 if self.batch is None else self.batch.fresh

    @property
    def done(self) -> int:
        """Specs with an outcome, of this run or an earlier one."""
        return 0 if self.batch is None else self.batch.fresh + self.batch.skipped

    @property
    def total(self) -> int | None:
        """Specs that there are, as far as that is known: a sweep is counted when it is come to."""
        if self.batch is None or self.expected is None:
            return self.expected
        return max(self.expected + self.batch.points, self.done)

    @property
    def seconds(self) -> float:
        """Seconds since the batch began."""
        return time.monotonic() - self.began

    def count(self, sources: Sources) -> None:
        """Count the documents, in a thread: it may take as long as reading them."""

        def run() -> None:
            with suppress(EquipoiseError, OSError):  # who reads them is told
                self.expected = sources.expected()

        threading.Thread(target=run, name="equipoise-count", daemon=True).start()


class BatchProgress:
    """Shows a `Stand` for as long as it is entered."""

    def __init__(self, console: Console, stand: Stand) -> None:
        self._console, self._stand = console, stand
        self._recent = deque([(time.monotonic(), 0)])
        self._over = threading.Event()
        live = console.is_terminal and not console.is_dumb_terminal and sys.stderr.isatty()
        self._bar = _bar(console) if live else None
        self._thread = threading.Thread(target=self._follow, name="equipoise-progress", daemon=True)

    def _follow(self) -> None:
        shown = None if self._bar is None else self._bar.add_task("", total=None, line="")
        while not self._over.wait(LOGGED if self._bar is None else REFRESH):
            self._show(shown)

    def _show(self, shown: TaskID | None) -> None:
        stand = self._stand
        rate = self._rate()
        if self._bar is not None and shown is not None:
            self._bar.update(shown, completed=stand.done, total=stand.total, line=line(stand, rate))
        elif stand.batch is not None:
            self._console.print(line(stand, rate), soft_wrap=True)

    def _rate(self) -> float:
        """Specs per second, of late."""
        now = time.monotonic(), self._stand.fresh
        while len(self._recent) > 1 and now[0] - self._recent[1][0] >= RECENT:
            self._recent.popleft()
        then = self._recent[0]
        self._recent.append(now)
        return (now[1] - then[1]) / max(now[0] - then[0], 1e-9)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.stop()


def line(stand: Stand, rate: float) -> str:
    """`1,200 of 10,000   345/s   2 failed   25 s left`."""
    if stand.batch is None:
        return "looking at what is there"
    if stand.closing:
        return f"{stand.done:,} done; finishing the output"
    if not stand.batch.started:
        return f"{stand.done:,} done before" if stand.done else f"starting {counted(stand.workers, 'worker')}"
    total = stand.total
    parts = [f"{stand.done:,}" + ("" if total is None else f" of {total:,}")]
    parts.append(f"{rate:,.0f}/s" if rate >= 10 or not rate else f"{rate:.2g}/s")
    if failed := stand.batch.failures:
        parts.append(f"{failed:,} failed")
    if stand.lost:
        parts.append(f"{counted(stand.lost, 'worker')} lost")
    if total is not None and rate:
        parts.append(f"{duration(max(total - stand.done, 0) / rate)} left")
    return "   ".join(parts)


def _bar(console: Console) -> Progress:
    text = TextColumn("{task.fields[line]}", markup=False)
    return Progress(
        BarColumn(bar_width=24), text, console=console, transient=True, auto_refresh=True, refresh_per_second=5
    )
