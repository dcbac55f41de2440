"""The client of a service for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from ...server.protocol.failures import Refused, from_call
from ...solvers.check import CheckResult
from ...solvers.control import Options
from ...specs.errors import EquipoiseError, ServiceError
from ...specs.spec import Plan, Spec
from ..asked import limit, seconds
from ..client import AsyncClient, AsyncSession, Kind
from ..jobs import AsyncJob, JobState, JobStatus
from . import job_messages, messages
from .channel import Target
from .job_messages import Pages, Report
from .messages import Operation, PlanReader
from .patience import Patience
from .spans import span
from .turns import Change, Turns, lost

P = TypeVar("P", bound=Plan)
R = TypeVar("R")


class AsyncRemoteClient(AsyncClient):
    """A service at an address. One channel, which connects with the first call."""

    def __init__(self, target: Target, timeout: float, retry_for: float) -> None:
        self.target, self.timeout, self.retry_for = target, timeout, retry_for
        self._channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._methods: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}
        self._closed = False

    async def check(self, spec: Spec[Any], plan: Plan, *, timeout: float | None = None) -> CheckResult:
        return await self.run(messages.check(spec, plan), timeout)

    async def kinds(self, *, timeout: float | None = None) -> dict[str, str]:
        return await self.run(messages.list_kinds(), timeout)

    async def describe(self, kind: str, *, timeout: float | None = None) -> Kind:
        return await self.run(messages.describe_kind(kind), timeout)

    async def job(self, job_id: str, *, timeout: float | None = None) -> AsyncJob[Plan]:
        return AsyncRemoteJob(self, await self.run(job_messages.get(job_id), timeout), messages.any_plan)

    async def jobs(
        self, *, states: Iterable[JobState] = (), kind: str | None = None, timeout: float | None = None
    ) -> AsyncIterator[AsyncJob[Plan]]:
        pages = Pages(states, kind)
        while pages.more:
            for status in await self.run(pages.next(), timeout):
                yield AsyncRemoteJob(self, status, messages.any_plan)

    async def close(self) -> None:
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    async def _solve(self, spec: Spec[P], options: Options, timeout: float | None) -> P:
        return await self.run(messages.solve(spec, options), limit(timeout, options, self.timeout))

    def _session(self, spec: Spec[P], options: Options, timeout: float | None) -> AsyncSession[P]:
        return AsyncRemoteSession(self, Turns(spec, options, timeout, self.timeout))

    async def _submit(self, spec: Spec[P], options: Options, key: str | None, timeout: float | None) -> AsyncJob[P]:
        status = await self.run(job_messages.submit(spec, options, key), timeout)
        return AsyncRemoteJob(self, status, messages.plan_reader(spec))

    async def run(self, operation: Operation[R], timeout: float | Patience | None) -> R:
        """Make a call, again if need be, and read its answer."""
        patience = timeout if isinstance(timeout, Patience) else self.patience(timeout)
        while True:
            channel, method = self.channel(), self._methods.get(operation.path)
            if method is None:
                method = self._methods[operation.path] = channel.unary_unary(operation.path)
            try:
                with span(operation.path):
                    data = await method(operation.request, timeout=patience.left, metadata=self.target.call_metadata())
            except grpc.RpcError as failed:
                error = from_call(failed)
            except asyncio.CancelledError:
                error = given_up()
            else:
                return operation.read(data)
            await asyncio.sleep(patience.pause(error))

    def channel(self) -> grpc.aio.Channel:
        """The channel, of the event loop that made the first call. Raises `ServiceError` on another, and once the
        client is closed."""
        if self._closed:
            raise ServiceError("the client is closed")
        loop = asyncio.get_running_loop()
        if self._channel is None:
            self._loop = loop
            where, credentials, options = str(self.target.address), self.target.credentials, self.target.options
            self._channel = (
                grpc.aio.insecure_channel(where, options)
                if credentials is None
                else grpc.aio.secure_channel(where, credentials, options)
            )
        if self._loop is not loop:
            raise ServiceError("the client was used on another event loop before: connect on this one")
        return self._channel

    def patience(self, timeout: float | None) -> Patience:
        """The time for one call."""
        return Patience(self.timeout if timeout is None else seconds("timeout", timeout), self.retry_for)


def given_up() -> Refused:
    """What gRPC's CancelledError stands for, which it raises too where the service has cancelled a call.

    Raises `CancelledError` again where it is the caller who was cancelled.
    """
    current = asyncio.current_task()
    if current is None or current.cancelling():
        raise asyncio.CancelledError
    return lost("the call was cut off")


async def _written(call: grpc.aio.StreamStreamCall[bytes, bytes], request: bytes) -> None:
    """Send a request. Raises that the session is lost where the stream cannot take it."""
    try:
        await call.write(request)
    except asyncio.InvalidStateError:  # the stream has ended, and reading says why
        pass
    except grpc.RpcError:  # an internal error of gRPC's core, whatever the reason
        raise lost("the stream broke") from None


class AsyncRemoteSession(AsyncSession[P]):
    """A session of a service: a stream, and how to get another when it breaks."""

    def __init__(self, client: AsyncRemoteClient, turns: Turns[P]) -> None:
        self._client, self._turns = client, turns
        self._call: grpc.aio.StreamStreamCall[bytes, bytes] | None = None
        self._mine = asyncio.Lock()
        self._clock: asyncio.Timeout | None = None

    @property
    def spec(self) -> Spec[P]:
        return self._turns.spec

    @property
    def restarts(self) -> int:
        return self._turns.restarts

    async def __aenter__(self) -> Self:
        async with self._mine:
            await self._persist(self._open)
        return self

    async def step(self, **changes: Any) -> P:
        self._client.channel()
        with span(messages.STEP):
            return await self._step(changes)

    async def _step(self, changes: dict[str, Any]) -> P:
        async with self._mine:
            change = self._turns.change(changes)
            return await self._persist(lambda patience: self._turn(change, patience))

    async def close(self) -> None:
        self._turns.closed = True
        self._hang_up()

    async def _persist(self, attempt: Callable[[Patience], Awaitable[R]]) -> R:
        """Try something that takes a stream, with another stream where one breaks."""
        patience = self._turns.patience(self._client.retry_for)
        while True:
            try:
                return await attempt(patience)
            except Refused as refusal:
                error = refusal
            finally:
                if not self._turns.ready:
                    self._hang_up()
            self._turns.ensure_open()
            await asyncio.sleep(patience.pause(error))

    async def _turn(self, change: Change[P], patience: Patience) -> P:
        await self._open(patience)
        request = self._turns.step(change)
        with self._turns.on_the_wire():
            answer = await self._ask(request, patience)
        return self._turns.answered(answer, change)

    async def _open(self, patience: Patience) -> None:
        if not self._turns.lacks_stream():
            return
        with self._turns.on_the_wire():
            method = self._client.channel().stream_stream(messages.SESSION)
            self._call = method(metadata=self._client.target.call_metadata())
            self._call.add_done_callback(self._let_go)
            self._turns.opened(await self._ask(self._turns.opening(), patience))

    async def _ask(self, request: bytes, patience: Patience) -> bytes:
        call = self._call
        if call is None:
            raise lost("the session has no stream")
        try:
            async with asyncio.timeout(patience.left) as self._clock:
                await _written(call, request)
                answer = await call.read()
        except TimeoutError:
            self._turns.ensure_open()
            raise (lost("the call was cut off") if self._clock is None else patience.late()) from None
        except asyncio.CancelledError:
            raise given_up() from None
        finally:
            self._clock = None
        if not isinstance(answer, bytes):
            raise lost("the service ended the session")
        return answer

    def _let_go(self, call: grpc.aio.Call) -> None:
        """End the wait for a call that is cancelled: gRPC leaves who writes to one waiting if it had not begun yet."""
        clock = self._clock
        if self._call in (None, call) and call.cancelled() and clock is not None and not clock.expired():
            self._clock = None
            clock.reschedule(asyncio.get_running_loop().time())

    def _hang_up(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()


class AsyncRemoteJob(AsyncJob[P]):
    """A job of a service."""

    def __init__(self, client: AsyncRemoteClient, status: JobStatus, read: PlanReader[P]) -> None:
        self._client, self.status, self._read = client, status, read

    async def refresh(self, *, timeout: float | None = None) -> JobStatus:
        self.status = await self._client.run(job_messages.get(self.id), timeout)
        return self.status

    def watch(self, *, interval: float | None = None, timeout: float | None = None) -> AsyncIterator[JobStatus]:
        return self._watch(Report(self.status, interval, timeout, self._client.retry_for))

    async def result(self, timeout: float | None = None) -> P:
        timeout = self._client.timeout if timeout is None else timeout
        report = Report(self.status, None, timeout, self._client.retry_for)
        if not self.status.ended:
            async for _ in self._watch(report):
                pass
        return await self._client.run(job_messages.result(self.id, self._read), report.patience)

    async def cancel(self, *, timeout: float | None = None) -> JobStatus:
        self.status = await self._client.run(job_messages.cancel(self.id), timeout)
        return self.status

    async def delete(self, *, timeout: float | None = None) -> None:
        try:
            await self._client.run(job_messages.delete(self.id), timeout)
        except Refused as error:
            if not job_messages.gone(error):  # a repeated attempt finds nothing
                raise

    async def _watch(self, report: Report) -> AsyncIterator[JobStatus]:
        while True:
            error: EquipoiseError = lost("the service ended the report before the job ended")
            method = self._client.channel().unary_stream(report.path)
            call = method(report.request, timeout=report.begin(), metadata=self._client.target.call_metadata())
            try:
                async for data in call:
                    if (status := report.news(data)) is not None:
                        self.status = status
                        yield status
                    if report.ended:
                        return
            except grpc.RpcError as failed:
                error = from_call(failed)
            except asyncio.CancelledError:
                error = given_up()
            finally:
                call.cancel()
            await asyncio.sleep(report.patience.pause(error))
