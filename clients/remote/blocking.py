"""The client of a service whose calls block."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import grpc

from ...server.protocol.failures import Refused, from_call
from ...solvers.check import CheckResult
from ...solvers.control import Options
from ...specs.errors import EquipoiseError, ServiceError
from ...specs.spec import Plan, Spec
from ..asked import limit, seconds
from ..client import Client, ClientSession, Kind
from ..jobs import Job, JobState, JobStatus
from . import job_messages, messages
from .channel import Target
from .job_messages import Pages, Report
from .messages import Operation, PlanReader
from .patience import Patience
from .spans import span
from .turns import Change, Turns, lost
from .watchdog import Watchdog

P = TypeVar("P", bound=Plan)
R = TypeVar("R")


class Stream(Protocol):
    """A call that is answered by a stream, as gRPC hands it out."""

    def __iter__(self) -> Iterator[bytes]: ...

    def __next__(self) -> bytes: ...

    def cancel(self) -> object: ...

    def add_callback(self, callback: Callable[[], None]) -> object: ...


class RemoteClient(Client):
    """A service at an address. One channel, shared by all threads; it connects with the first call.

    It serves no process that is forked later: threads, gRPC's and ours, do not come along.
    """

    def __init__(self, target: Target, timeout: float, retry_for: float) -> None:
        self.target, self.timeout, self.retry_for = target, timeout, retry_for
        where, options = str(target.address), target.options
        self._channel = (
            grpc.insecure_channel(where, options)
            if target.credentials is None
            else grpc.secure_channel(where, target.credentials, options)
        )
        self._methods: dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]] = {}
        self._closed, self._process = threading.Event(), os.getpid()
        self.watchdog = Watchdog()

    def check(self, spec: Spec[Any], plan: Plan, *, timeout: float | None = None) -> CheckResult:
        return self.run(messages.check(spec, plan), timeout)

    def kinds(self, *, timeout: float | None = None) -> dict[str, str]:
        return self.run(messages.list_kinds(), timeout)

    def describe(self, kind: str, *, timeout: float | None = None) -> Kind:
        return self.run(messages.describe_kind(kind), timeout)

    def job(self, job_id: str, *, timeout: float | None = None) -> Job[Plan]:
        return RemoteJob(self, self.run(job_messages.get(job_id), timeout), messages.any_plan)

    def jobs(
        self, *, states: Iterable[JobState] = (), kind: str | None = None, timeout: float | None = None
    ) -> Iterator[Job[Plan]]:
        pages = Pages(states, kind)
        while pages.more:
            for status in self.run(pages.next(), timeout):
                yield RemoteJob(self, status, messages.any_plan)

    @property
    def forked(self) -> bool:
        """Whether this is another process than the client's own, in which even hanging up would wait for ever."""
        return os.getpid() != self._process

    def close(self) -> None:
        self._closed.set()
        if not self.forked:
            self.watchdog.stop()
            self._channel.close()

    def _solve(self, spec: Spec[P], options: Options, timeout: float | None) -> P:
        return self.run(messages.solve(spec, options), limit(timeout, options, self.timeout))

    def _session(self, spec: Spec[P], options: Options, timeout: float | None) -> ClientSession[P]:
        return RemoteSession(self, Turns(spec, options, timeout, self.timeout))

    def _submit(self, spec: Spec[P], options: Options, key: str | None, timeout: float | None) -> Job[P]:
        status = self.run(job_messages.submit(spec, options, key), timeout)
        return RemoteJob(self, status, messages.plan_reader(spec))

    def run(self, operation: Operation[R], timeout: float | Patience | None) -> R:
        """Make a call, again if need be, and read its answer."""
        patience = timeout if isinstance(timeout, Patience) else self.patience(timeout)
        method = self._methods.get(operation.path)
        if method is None:
            method = self._methods[operation.path] = self._channel.unary_unary(operation.path)
        while True:
            try:
                with span(operation.path):
                    data = self._begun(method, operation.request, patience.left)
            except grpc.RpcError as failed:
                error = from_call(failed)
            else:
                return operation.read(data)
            self.wait(patience.pause(error))

    def converse(self, path: str, requests: Iterator[bytes]) -> Stream:
        """Begin a call with a stream each way."""
        return self._begun(self._channel.stream_stream(path), requests)

    def subscribe(self, path: str, request: bytes, timeout: float) -> Stream:
        """Begin a call that is answered by a stream."""
        return self._begun(self._channel.unary_stream(path), request, timeout)

    def _begun(self, method: Callable[..., R], request: bytes | Iterator[bytes], timeout: float | None = None) -> R:
        self.ensure_open()
        try:
            return method(request, timeout=timeout, metadata=self.target.call_metadata())
        except ValueError as error:
            self.ensure_open()  # another thread has closed the channel meanwhile
            raise ServiceError(f"gRPC refuses to make the call: {error}") from None

    def patience(self, timeout: float | None) -> Patience:
        """The time for one call."""
        return Patience(self.timeout if timeout is None else seconds("timeout", timeout), self.retry_for)

    def wait(self, pause: float) -> None:
        """Let some time pass. Raises `ServiceError` if the client is closed meanwhile."""
        if self._closed.wait(pause):
            self.ensure_open()

    def ensure_open(self) -> None:
        """Raises `ServiceError` once the client is closed, and in another process than its own."""
        if self._closed.is_set():
            raise ServiceError("the client is closed")
        if self.forked:
            raise ServiceError("the client was made before this process was forked: connect in this one")


class RemoteSession(ClientSession[P]):
    """A session of a service: a stream, and how to get another when it breaks."""

    def __init__(self, client: RemoteClient, turns: Turns[P]) -> None:
        self._client, self._turns = client, turns
        self._requests = SimpleQueue[bytes | None]()
        self._call: Stream | None = None
        self._mine = threading.Lock()
        self._persist(self._open)

    @property
    def spec(self) -> Spec[P]:
        return self._turns.spec

    @property
    def restarts(self) -> int:
        return self._turns.restarts

    def step(self, **changes: Any) -> P:
        self._client.ensure_open()
        with self._mine, span(messages.STEP):
            change = self._turns.change(changes)
            return self._persist(lambda patience: self._turn(change, patience))

    def close(self) -> None:
        self._turns.closed = True
        self._hang_up()

    def _persist(self, attempt: Callable[[Patience], R]) -> R:
        """Try something that takes a stream, with another stream where one breaks."""
        patience = self._turns.patience(self._client.retry_for)
        while True:
            try:
                return attempt(patience)
            except Refused as refusal:
                error = refusal
            finally:
                if not self._turns.ready:
                    self._hang_up()
            self._turns.ensure_open()
            self._client.wait(patience.pause(error))

    def _turn(self, change: Change[P], patience: Patience) -> P:
        self._open(patience)
        request = self._turns.step(change)
        with self._turns.on_the_wire():
            answer = self._ask(request, patience)
        return self._turns.answered(answer, change)

    def _open(self, patience: Patience) -> None:
        if not self._turns.lacks_stream():
            return
        with self._turns.on_the_wire():
            requests = self._requests = SimpleQueue[bytes | None]()
            call = self._call = self._client.converse(messages.SESSION, iter(requests.get, None))
            call.add_callback(partial(requests.put, None))  # or gRPC's thread would wait there for ever
            self._turns.ensure_open()
            self._turns.opened(self._ask(self._turns.opening(), patience))

    def _ask(self, request: bytes, patience: Patience) -> bytes:
        call = self._call
        if call is None:
            raise lost("the session has no stream")
        watchdog = self._client.watchdog
        self._requests.put(request)
        watchdog.watch(call, patience.left)
        try:
            return next(call)
        except StopIteration:
            raise lost("the service ended the session") from None
        finally:
            watchdog.release(call)

    def _hang_up(self) -> None:
        call, self._call = self._call, None
        self._requests.put(None)
        if call is not None and not self._client.forked:
            call.cancel()


class RemoteJob(Job[P]):
    """A job of a service."""

    def __init__(self, client: RemoteClient, status: JobStatus, read: PlanReader[P]) -> None:
        self._client, self.status, self._read = client, status, read

    def refresh(self, *, timeout: float | None = None) -> JobStatus:
        self.status = self._client.run(job_messages.get(self.id), timeout)
        return self.status

    def watch(self, *, interval: float | None = None, timeout: float | None = None) -> Iterator[JobStatus]:
        return self._watch(Report(self.status, interval, timeout, self._client.retry_for))

    def result(self, timeout: float | None = None) -> P:
        timeout = self._client.timeout if timeout is None else timeout
        report = Report(self.status, None, timeout, self._client.retry_for)
        if not self.status.ended:
            for _ in self._watch(report):
                pass
        return self._client.run(job_messages.result(self.id, self._read), report.patience)

    def cancel(self, *, timeout: float | None = None) -> JobStatus:
        self.status = self._client.run(job_messages.cancel(self.id), timeout)
        return self.status

    def delete(self, *, timeout: float | None = None) -> None:
        try:
            self._client.run(job_messages.delete(self.id), timeout)
        except Refused as error:
            if not job_messages.gone(error):  # a repeated attempt finds nothing
                raise

    def _watch(self, report: Report) -> Iterator[JobStatus]:
        while True:
            error: EquipoiseError = lost("the service ended the report before the job ended")
            call = self._client.subscribe(report.path, report.request, report.begin())
            try:
                for data in call:
                    if (status := report.news(data)) is not None:
                        self.status = status
                        yield status
                    if report.ended:
                        return
            except grpc.RpcError as failed:
                error = from_call(failed)
            finally:
                call.cancel()
            self._client.wait(report.patience.pause(error))
