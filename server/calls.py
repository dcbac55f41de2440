"""What every call goes through, whichever it is: who calls, within which quota, told by metrics and traces, its errors
as statuses of the protocol.

Requests arrive as bytes: they are parsed in a thread, off the event loop.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import structlog
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status

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


SHORT = 2**14
"""Bytes of a request that carries no document, at most."""


class Gate:
    """Turns what answers a call into a handler of the gRPC server."""

    def __init__(self, tenants: Tenants, telemetry: Telemetry) -> None:
        self._tenants, self._telemetry = tenants, telemetry

    def unary(self, rpc: str, answer: Callable[[Call, bytes], Awaitable[bytes]], most: float = math.inf) -> Handler:
        """A call with one request, of so many bytes at most, and one response."""

        async def handle(raw: bytes, context: Context) -> bytes:
            with self._telemetry.call(rpc, context.invocation_metadata()) as record:
                try:
                    call = self._known(context, record)
                    try:
                        with call.tenant.call():
                            return await answer(call, _short(raw, most))
                    finally:
                        record.kind = call.kind
                except Exception as error:
                    await self._abort(context, error, record)

        return grpc.unary_unary_rpc_method_handler(handle)

    def streamed(self, rpc: str, answer: Callable[[Call, bytes], AsyncGenerator[bytes]]) -> Handler:
        """A call with one short request and a stream of responses, which waits for a slow reader. Counted while it
        begins: one who watches a job for hours may still cancel it."""

        async def handle(raw: bytes, context: Context) -> None:
            with self._telemetry.call(rpc, context.invocation_metadata()) as record:
                try:
                    call = self._lasting(context, record)
                    with call.tenant.call():
                        responses = answer(call, _short(raw, SHORT))
                    async with aclosing(responses):  # let go at once where the caller hangs up
                        async for response in responses:
                            call.renew()
                            record.kind = call.kind
                            await context.write(response)
                except Exception as error:
                    await self._abort(context, error, record)

        return grpc.unary_stream_rpc_method_handler(handle)

    def conversation(self, rpc: str, answer: Callable[[Call, Context], Awaitable[None]]) -> Handler:
        """A call whose requests and responses both stream; its steps count as calls, one by one."""

        async def handle(requests: Any, context: Context) -> None:
            with self._telemetry.call(rpc, context.invocation_metadata()) as record:
                try:
                    call = self._lasting(context, record)
                    try:
                        await answer(call, context)
                    except asyncio.CancelledError:
                        call.gone = True  # seen by the thread that works for it
                        raise
                    finally:
                        record.kind = call.kind
                except Exception as error:
                    await self._abort(context, error, record)

        return grpc.stream_stream_rpc_method_handler(handle)

    def _known(self, context: Context, record: Record) -> Call:
        """The call as the engine knows it. Raises `Refused` for a stranger."""
        tenant = self._tenants.authenticate(context.invocation_metadata())
        record.tenant = tenant.name
        left = context.time_remaining()
        deadline = None if left is None else time.monotonic() + left
        return Call(deadline, tenant=tenant, trace=record.trace)

    def _lasting(self, context: Context, record: Record) -> Call:
        """As `_known`, for a call that may outlive its token."""
        call = self._known(context, record)
        call.renew = self._tenants.renewal(context.invocation_metadata())
        return call

    async def _abort(self, context: Context, error: Exception, record: Record) -> NoReturn:
        """End a call with the status that tells of an error."""
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if context.done():  # the caller hung up while he was being answered
            record.code = "CANCELLED"
            raise asyncio.CancelledError
        if not isinstance(error, EquipoiseError):
            _log.error("internal error", rpc=record.rpc, exc_info=error)
        status = to_status(error)
        code = _CODES[status.code]
        record.code = code.name
        if isinstance(error, Refused):
            self._telemetry.refused(record.tenant, error.reason)
        await context.abort(code, status.message, trailers(error, status))


class Doorkeeper(grpc.aio.ServerInterceptor):
    """Turns strangers away at the headers of their call, before a byte of its body is waited for."""

    def __init__(self, tenants: Tenants, telemetry: Telemetry) -> None:
        self._tenants, self._telemetry = tenants, telemetry

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """The handler of a call; for a stranger, one that refuses it. Health and reflection are for all."""
        if not handler_call_details.method.startswith("/equipoise."):
            return await continuation(handler_call_details)
        try:
            self._tenants.authenticate(handler_call_details.invocation_metadata)
        except Refused as error:
            refusal = error
        else:
            return await continuation(handler_call_details)

        async def refuse(requests: Any, context: Context) -> None:
            self._telemetry.refused("", refusal.reason)
            status = to_status(refusal)
            await context.abort(_CODES[status.code], status.message, trailers(refusal, status))

        return grpc.stream_stream_rpc_method_handler(refuse)


def trailers(error: Exception, status: Status) -> tuple[tuple[str, str | bytes], ...]:
    """The metadata that tells of an error beside its code and message."""
    details = ((DETAILS, status.SerializeToString()),)
    if not isinstance(error, Refused) or error.retry_after is None:
        return details
    return (*details, (PUSHBACK, str(max(round(error.retry_after * 1000), 1))))


def _short(raw: bytes, most: float) -> bytes:
    if len(raw) > most:
        raise Refused(
            Code.INVALID_ARGUMENT, "REQUEST", f"the request has {len(raw):,} bytes, at most {most:,} are read"
        )
    return raw


_CODES = {code.value[0]: code for code in grpc.StatusCode}
