"""Clients of both flavours behind one face, so that one test speaks to either: blocking, and asyncio awaited here."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import equipoise as eq
from equipoise.clients.client import AsyncClient, AsyncSession
from equipoise.clients.jobs import AsyncJob

FLAVOURS = ("blocking", "asyncio")


class Awaited:
    """An object of asyncio whose methods are awaited as they are called."""

    def __init__(self, value: Any, runner: asyncio.Runner) -> None:
        self._value, self._runner = value, runner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._value, name)
        return self._calling(found) if callable(found) else found

    def __enter__(self) -> Awaited:
        self._wait(self._value.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self._wait(self._value.__aexit__(*error))

    def _calling(self, method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **options: self._faced(method(*arguments, **options))

    def _faced(self, value: Any) -> Any:
        if inspect.isawaitable(value):
            return self._faced(self._wait(value))
        if inspect.isasyncgen(value):
            return self._listed(value)
        return Awaited(value, self._runner) if isinstance(value, (AsyncClient, AsyncSession, AsyncJob)) else value

    def _listed(self, generator: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._faced(self._wait(anext(generator)))
                except StopAsyncIteration:
                    return
        finally:
            self._wait(generator.aclose())

    def _wait(self, awaitable: Any) -> Any:
        async def wait() -> Any:
            return await awaitable

        return self._runner.run(wait(), context=contextvars.copy_context())


@contextmanager
def connected(flavour: str, address: str | None, **options: Any) -> Iterator[Any]:
    """A client of a flavour."""
    if flavour == "blocking":
        with eq.connect(address, **options) as client:
            yield client
    else:
        with asyncio.Runner() as runner, Awaited(eq.connect_async(address, **options), runner) as client:
            yield client
