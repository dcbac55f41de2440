"""Tasks from a thread that reads them, some ahead of those that are worked on: a slow disk, or a pipe that somebody
fills by hand, holds up no result."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")

MOST_AHEAD = 4096
"""Tasks that are read ahead, at most."""
MOST_BYTES = 64 * 2**20
"""Bytes of them, at most; one alone may be larger."""


class Feed(Generic[T]):
    """What a thread reads, for the event loop that makes this."""

    def __init__(self, source: Iterable[T], size: Callable[[T], int]) -> None:
        """size: bytes that an entry takes."""
        self._source, self._size = source, size
        self._ahead = deque[T]()
        self._bytes = 0
        self._error: BaseException | None = None
        self._closed = self._ended = False
        self._changed = threading.Condition()
        self._some = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        # As a daemon: it may wait for a pipe that never ends.
        threading.Thread(target=self._read, name="equipoise-feed", daemon=True).start()

    async def take(self, most: int, most_bytes: int) -> list[T]:
        """The next entries, as soon as there is one; none at the end. Raises what reading them raised, after those
        before it."""
        while True:
            with self._changed:
                if self._ahead:
                    return self._taken(most, most_bytes)
                if self._ended:
                    if self._error is not None:
                        raise self._error
                    return []
                self._some.clear()
            await self._some.wait()

    def close(self) -> None:
        """Read no more."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _taken(self, most: int, most_bytes: int) -> list[T]:
        taken, left = list[T](), most_bytes
        while self._ahead and len(taken) < most and (not taken or self._size(self._ahead[0]) <= left):
            entry = self._ahead.popleft()
            size = self._size(entry)
            taken.append(entry)
            self._bytes -= size
            left -= size
        self._changed.notify()
        return taken

    def _read(self) -> None:
        try:
            for entry in self._source:
                size = self._size(entry)
                with self._changed:
                    while not self._closed and self._ahead and self._full(size):
                        self._changed.wait()
                    if self._closed:
                        return
                    self._ahead.append(entry)
                    self._bytes += size
                    waited_for = len(self._ahead) == 1
                if waited_for:
                    self._tell()
        except BaseException as error:
            self._error = error
        finally:
            self._ended = True
            self._tell()

    def _full(self, size: int) -> bool:
        return len(self._ahead) >= MOST_AHEAD or self._bytes + size > MOST_BYTES

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._some.set)
