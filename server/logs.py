"""Structured logs that never hold up the event loop: events go through a bounded queue to a thread that writes them.

What the standard library's loggers say (gRPC's, SQLAlchemy's, asyncio's) goes the same way.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Literal, TextIO

import structlog

MOST_WAITING = 10_000
"""Events that may wait to be written; more are dropped, and counted in the log."""
LONGEST_CLOSE = 2.0
"""Seconds that the rest of the log may take to be written at the end."""

Event = MutableMapping[str, Any]


class Writer:
    """Writes events to a stream, in a thread of its own."""

    def __init__(self, render: Callable[[Event], str], stream: TextIO, most: int = MOST_WAITING) -> None:
        self._render, self._stream = render, stream
        self._waiting = queue.Queue[Event | None](most)
        self._lost = 0
        self._thread = threading.Thread(target=self._write, name="equipoise-log", daemon=True)
        self._thread.start()

    def msg(self, event: Event) -> None:
        """Have an event written; dropped and counted if the stream has not kept up."""
        try:
            self._waiting.put_nowait(event)
        except queue.Full:
            self._lost += 1

    debug = info = warning = error = critical = exception = msg

    def close(self) -> None:
        """Write what waits, as far as the stream takes it within a limit."""
        end = time.monotonic() + LONGEST_CLOSE
        try:
            self._waiting.put(None, timeout=LONGEST_CLOSE)
        except queue.Full:
            return
        self._thread.join(max(end - time.monotonic(), 0.01))

    def _write(self) -> None:
        while (event := self._waiting.get()) is not None:
            lines = [self._line(event)]
            if self._lost:
                lost, self._lost = self._lost, 0
                lines.append(self._line(_dated({"event": "log_events_lost", "level": "warning", "count": lost})))
            try:
                self._stream.write("".join(lines))
                if self._waiting.empty():
                    self._stream.flush()
            except (OSError, ValueError):  # nobody reads, or the stream is closed: there is nowhere to tell it
                return

    def _line(self, event: Event) -> str:
        try:
            return self._render(event) + "\n"
        except Exception as error:  # an event that cannot be shown must not end the log
            return f"an event could not be logged: {type(error).__name__}\n"


def _dated(event: Event) -> Event:
    event["timestamp"] = time.time()
    return event


def _add_time(_: Any, method: str, event: Event) -> Event:
    event["level"] = method
    return _dated(event)


def _hand_over(_: Any, __: str, event: Event) -> tuple[tuple[Event], dict[str, Any]]:
    return (event,), {}


def _stamp(event: Event) -> str:
    seconds, fraction = divmod(event["timestamp"], 1)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(fraction * 1000):03d}Z"


def _as_json(event: Event) -> str:
    event["timestamp"] = _stamp(event)
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(None, "", event)
    return json.dumps(event, default=str)


def _as_text(colors: bool) -> Callable[[Event], str]:
    console = structlog.dev.ConsoleRenderer(
        colors=colors, exception_formatter=structlog.dev.plain_traceback, sort_keys=False
    )

    def render(event: Event) -> str:
        event["timestamp"] = _stamp(event)
        return console(None, event.get("level", ""), event)

    return render


class _Forward(logging.Handler):
    """What the standard library's loggers say, to the same writer."""

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        event: Event = {"event": record.getMessage(), "logger": record.name, "level": record.levelname.lower()}
        if record.exc_info and record.exc_info[0]:
            event["exc_info"] = record.exc_info
        self._writer.msg(_dated(event))


def configure(
    level: Literal["debug", "info", "warning", "error"], form: Literal["console", "json"], stream: TextIO | None = None
) -> Writer:
    """Send the process' logs to a stream, standard error if not given. Close the writer at the end."""
    target: TextIO = stream or sys.stderr
    writer = Writer(_as_json if form == "json" else _as_text(target.isatty()), target)
    structlog.configure(
        processors=[_add_time, _hand_over],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: writer,
    )
    logging.basicConfig(level=max(logging.getLevelNamesMapping()[level.upper()], logging.WARNING), force=True)
    logging.root.handlers = [_Forward(writer)]
    return writer
