"""What every call goes through, whichever it is: who calls, within which quota, told by metrics and traces, its errors
as statuses of the protocol.

Requests arrive as bytes: they are parsed in a thread, off the event loop.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import structlog

from ..specs.errors import EquipoiseError
from .engine import Call
from .protocol.failures import Refused, to_status
from .telemetry import Record, Telemetry
from .tenants import Tenants

if TYPE_CHECKING:  # generic to type checkers alone
    Context = grpc.aio.ServicerContext[bytes, bytes]
    Handler = grpc.RpcMethodHandler[bytes, bytes]

DETAILS = "grpc-status-details-bin"
"""Trailer that holds the google.rpc.Status."""
PUSHBACK = "grpc-retry-pushback-ms"
"""Trailer by which a server tells gRPC's own retries how long to wait."""

_log = structlog.get_logger()


class Gate:
    """Turns what answers a call into a handler of the gRPC server."""

    def __init__(self, tenants: Tenants, telemetry: Telemetry) -> None:
        self._tenants, self._telemetry = tenants, telemetry

    def unary(self, rpc: str, answer: Callable[[Call, bytes], Awaitable[bytes]]) -> Handler:
        """A call with one request and one response."""

        async def handle(raw: bytes, context: Context) -> bytes:
            with self._telemetry.call(rpc, context.invocation_metadata()) as record:
                try:
                    with self._entered(context, record) as call:
                        return await answer(call, raw)
                except Exception as error:
                    await self._abort(context, error, record)

        return grpc.unary_unary_rpc_method_handler(handle)

    def streamed(self, rpc: str, answer: Callable[[Call, bytes], AsyncGenerator[bytes]]) -> Handler:
        """A call with one request and a stream of responses, which waits for a slow reader."""

        async def handle(raw: bytes, context: Context) -> None:
            with self._telemetry.call(rpc, context.invocation_metadata()) as record:
                try:
                    with self._entered(context, record) as call:
                        async with aclosing(answer(call, raw)) as responses:  # let go at once where the caller hangs up
                            async for response in responses:
                                await context.write(response)
                except Exception as error:
                    await self._abort(context, error, record)

        return grpc.unary_stream_rpc_method_handler(handle)

    def conversation(self, rpc: str, answer: Callable[[Call, Context], Awaitable[None]]) -> Handler:
        """A call whose requests and responses both stream."""

        async def handle(requests: Any, context: Context) -> None:
            with self._telemetry.call(rpc, context.invocation_metadata()) as record:
                try:
                    with self._known(context, record) as call:  # its steps count as calls, one by one
                        await answer(call, context)
                except Exception as error:
                    await self._abort(context, error, record)

        return grpc.stream_stream_rpc_method_handler(handle)

    @contextmanager
    def _known(self, context: Context, record: Record) -> Iterator[Call]:
        """The call as the engine knows it. Raises `Refused` for a stranger."""
        tenant = self._tenants.authenticate(context.invocation_metadata())
        record.tenant = tenant.name
        left = context.time_remaining()
        call = Call(None if left is None else time.monotonic() + left, tenant=tenant, trace=record.trace)
        try:
            yield call
        finally:
            record.kind = call.kind

    @contextmanager
    def _entered(self, context: Context, record: Record) -> Iterator[Call]:
        """The same within the quotas of its tenant, while it lasts."""
        with self._known(context, record) as call, call.tenant.call():
            yield call

    async def _abort(self, context: Context, error: Exception, record: Record) -> NoReturn:
        """End a call with the status that tells of an error."""
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if not isinstance(error, EquipoiseError):
            _log.error("internal error", rpc=record.rpc, exc_info=error)
        status = to_status(error)
        code = _CODES[status.code]
        record.code = code.name
        trailers: list[tuple[str, str | bytes]] = [(DETAILS, status.SerializeToString())]
        if isinstance(error, Refused):
            self._telemetry.refused(record.tenant, error.reason)
            if error.retry_after is not None:
                trailers.append((PUSHBACK, str(max(round(error.retry_after * 1000), 1))))
        await context.abort(code, status.message, tuple(trailers))


_CODES = {code.value[0]: code for code in grpc.StatusCode}
