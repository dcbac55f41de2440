"""Traces from the client's call to the solve: spans that continue the trace in a call's metadata.

W3C Trace Context (https://www.w3.org/TR/trace-context/) carried as OpenTelemetry's conventions for RPC describe.
Nothing of OpenTelemetry is imported unless traces are asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

FLUSHED = 5.0
"""Seconds that the last spans may take to reach their collector."""
_NOTHING = nullcontext()
_log = structlog.get_logger()


class Tracing:
    """Makes spans and sends them off in the background, in batches of a bounded queue."""

    def __init__(self, exporter: SpanExporter) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        named = Resource.create({"service.name": "equipoise", "service.version": version("equipoise")})
        self._provider = TracerProvider(resource=named, shutdown_on_exit=False)
        self._exporter = exporter
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("equipoise")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, rpc: str, metadata: Iterable[tuple[str, str | bytes]] | None) -> tuple[Span, Context]:
        """The server's span of a call, and the context that its child spans belong to."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        wanted = ("traceparent", "tracestate")
        carrier = {key: value for key, value in metadata or () if key in wanted and isinstance(value, str)}
        service, _, method = rpc.rpartition("/")
        span = self._tracer.start_span(
            rpc,
            self._propagator.extract(carrier),
            SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
        )
        return span, set_span_in_context(span)

    def end(self, span: Span, code: str, known: dict[str, str]) -> None:
        """The call is over. A span of the server is in error only where the server is at fault."""
        from opentelemetry.trace import StatusCode

        span.set_attributes({"rpc.grpc.status_code": code, **known})
        if code in ("UNKNOWN", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNIMPLEMENTED", "DEADLINE_EXCEEDED"):
            span.set_status(StatusCode.ERROR, code)
        span.end()

    @contextmanager
    def child(self, name: str, trace: Context) -> Iterator[Span]:
        """A span around a part of a call, in whichever thread. Errors leave their type, not their text: it may quote
        a caller's data."""
        from opentelemetry.trace import StatusCode

        span = self._tracer.start_span(name, trace)
        try:
            yield span
        except BaseException as error:
            span.set_status(StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            span.end()

    def close(self) -> None:
        """Send what waits, as far as the collector takes it within a limit."""
        # The SDK's own limit does not hold where a collector cannot be reached: it tries batch after batch.
        sending = threading.Thread(target=self._provider.shutdown, name="equipoise-last-spans", daemon=True)
        sending.start()
        sending.join(FLUSHED)
        if sending.is_alive():
            _log.warning("spans_lost", reason="the collector did not take the last ones in time")
            self._exporter.shutdown()  # wakes it from waiting


def child(tracing: Tracing | None, name: str, trace: Any) -> AbstractContextManager[Any]:
    """A span around a part of a call; nothing where there are no traces."""
    return _NOTHING if tracing is None or trace is None else tracing.child(name, trace)


def exporter(endpoint: str) -> SpanExporter:
    """Sends spans to a collector, by OTLP over gRPC."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=FLUSHED)
