"""Questions to a store from the event loop, which never waits for it: a few threads ask, and a bounded number waits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

import structlog
from google.rpc.code_pb2 import Code

from .protocol.failures import Refused

P = ParamSpec("P")
T = TypeVar("T")

MOST_CALLS = 256
"""Calls that may wait for a thread, and be with one."""
MOST_BYTES = 256 * 2**20
"""Bytes of requests that may wait to be written down; one alone may be larger."""

SILENCE = 30.0
"""Seconds between two lines in the log about a store that fails."""

_log = structlog.get_logger()


class StoreCalls:
    """Threads that speak to a store. Belongs to the event loop.

    ours: the server asks for itself, so that none is refused, and a store that fails is told of in the log.
    """

    def __init__(self, threads: int, name: str, ours: bool = False) -> None:
        self._threads = ThreadPoolExecutor(threads, name)
        self._calls = self._bytes = 0
        self._most = math.inf if ours else MOST_CALLS
        self._tell_at = 0.0 if ours else math.inf

    async def ask(self, function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """What a method of the store returns. Raises what it raises, and `Refused` where too many wait."""
        return await self.write(0, function, *args, **options)

    async def write(self, size: int, function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """As `ask`, for what carries so many bytes."""
        if self._calls >= self._most or (self._bytes and self._bytes + size > MOST_BYTES):
            raise Refused(Code.RESOURCE_EXHAUSTED, "STORE_BUSY", "too many calls wait for the store of jobs", 0.5)
        self._calls += 1
        self._bytes += size
        asked = asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *args, **options))
        asked.add_done_callback(partial(self._answered, size))
        return await asyncio.shield(asked)  # the thread holds it to the end, whether or not the caller stays

    def _answered(self, size: int, asked: asyncio.Future[Any]) -> None:
        self._calls -= 1
        self._bytes -= size
        error = None if asked.cancelled() else asked.exception()
        if isinstance(error, Refused) and (time := asked.get_loop().time()) >= self._tell_at:
            self._tell_at = time + SILENCE
            _log.error("store_failed", error=str(error), cause=str(error.__cause__))

    async def close(self) -> None:
        """Wait for what was asked, and let the threads go."""
        await asyncio.to_thread(self._threads.shutdown)
