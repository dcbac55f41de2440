"""The caller's side of a trace: a span for each call, where the program uses OpenTelemetry."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

_NOTHING = nullcontext()


def span(rpc: str) -> AbstractContextManager[None]:
    """A span around one attempt of a call, which the span of the service then belongs to."""
    # Unless that is imported nobody can see a span.
    return _span(rpc.lstrip("/")) if sys.modules.get("opentelemetry.trace") else _NOTHING


@contextmanager
def _span(rpc: str) -> Iterator[None]:
    from opentelemetry.trace import SpanKind, StatusCode, get_tracer

    service, _, method = rpc.rpartition("/")
    with get_tracer("equipoise").start_as_current_span(
        rpc,
        kind=SpanKind.CLIENT,
        attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
        record_exception=False,  # its text may quote the caller's data
        set_status_on_exception=False,
    ) as made:
        try:
            yield
        except BaseException as error:
            made.set_status(StatusCode.ERROR, type(error).__name__)
            raise
