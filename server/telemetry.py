"""What a server tells of itself while it runs: metrics for Prometheus, traces, a line in the log for each call.

A call's numbers cost a few microseconds: label children are looked up once and kept, queues and jobs are read when
somebody scrapes. Labels take values from small sets only: names of RPCs, tenants, kinds and codes, no text of callers.
Nothing here ever holds a spec, a plan or a token.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, Self
from wsgiref.simple_server import WSGIServer

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..specs.errors import ServiceError
from .addresses import Address, address
from .settings import ServerSettings
from .tracing import Tracing, child, exporter

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

Metadata = Iterable[tuple[str, str | bytes]]

LATENCIES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)
GAPS = (0.0, 1e-9, 1e-6, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
_OF_THE_SERVER = ("UNKNOWN", "INTERNAL", "DATA_LOSS")
"""Codes that mean a fault of ours."""

_log = structlog.get_logger()


class Issued(Protocol):
    """What metrics take from a certificate, ours or the protocol's."""

    @property
    def proof(self) -> str: ...
    @property
    def stopped(self) -> str: ...
    @property
    def gap(self) -> float: ...
    @property
    def seconds(self) -> float: ...
    @property
    def notes(self) -> Any: ...


class Record:
    """One call, from its first byte to its last.

    tenant, kind: empty until they are known. code: the name of the gRPC status. All set by whoever answers.
    trace: the parent of spans within this call, None without traces.
    """

    __slots__ = ("_span", "_started", "_telemetry", "code", "kind", "rpc", "tenant", "trace")

    def __init__(self, telemetry: Telemetry, rpc: str, metadata: Metadata | None) -> None:
        self._telemetry = telemetry
        self.rpc = rpc
        self.tenant = self.kind = ""
        self.code = "OK"
        tracing = telemetry.tracing
        self._span, self.trace = (None, None) if tracing is None else tracing.begin(rpc, metadata)
        self._started = 0.0

    def __enter__(self) -> Self:
        self._telemetry.in_flight[self.rpc] += 1
        self._started = time.perf_counter()
        return self

    def __exit__(self, cls: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        seconds = time.perf_counter() - self._started
        telemetry = self._telemetry
        telemetry.in_flight[self.rpc] -= 1
        if error is not None and self.code == "OK":
            self.code = "CANCELLED" if isinstance(error, asyncio.CancelledError) else "UNKNOWN"
        telemetry.ended(self.rpc, self.tenant, self.kind, self.code, seconds, self._span)


class Telemetry:
    """The metrics of one server, its traces, and its lines in the log. Metrics may be told from any thread.

    spans: where traces go, instead of the collector of the settings.
    """

    def __init__(self, settings: ServerSettings, spans: SpanExporter | None = None) -> None:
        self._metrics_at = None if settings.metrics is None else address(settings.metrics)
        if spans is None and settings.otlp is not None:
            spans = exporter(settings.otlp)
        self.tracing = None if spans is None else Tracing(spans)
        # Bound once, which is the slow part. A program that embeds the server and set up no logs gets no lines.
        self._calls_log = structlog.get_logger().bind() if structlog.is_configured() else None
        self._http: WSGIServer | None = None
        self.in_flight = Tally[str]()
        self.registry = registry = CollectorRegistry()
        per_call, per_solve = ("rpc", "tenant", "kind"), ("tenant", "kind")
        self._requests = Counter("equipoise_requests", "Calls that ended.", (*per_call, "code"), registry=registry)
        self._seconds = Histogram(
            "equipoise_request_seconds",
            "From a call's arrival to its end.",
            per_call,
            buckets=LATENCIES,
            registry=registry,
        )
        self._solves = Counter(
            "equipoise_solves", "Solves that ended.", (*per_solve, "proof", "stopped"), registry=registry
        )
        self._solver_seconds = Histogram(
            "equipoise_solver_seconds", "Within the solver.", per_solve, buckets=LATENCIES, registry=registry
        )
        self._gap = Histogram(
            "equipoise_gap", "Relative gap between plan and bound.", per_solve, buckets=GAPS, registry=registry
        )
        self._fallbacks = Counter(
            "equipoise_fallbacks",
            "Plans that a limit cut short, or whose certificate has notes.",
            (*per_solve, "reason"),
            registry=registry,
        )
        self._repeated = Counter("equipoise_repeated", "Answers that took no solve.", ("source",), registry=registry)
        self._refused = Counter(
            "equipoise_refused", "Calls that were refused.", ("tenant", "reason"), registry=registry
        )
        self._sessions = Gauge("equipoise_sessions", "Sessions that are open.", registry=registry)
        self._workers_lost = Counter("equipoise_workers_lost", "Worker processes that died at work.", registry=registry)
        self._jobs = Counter("equipoise_jobs", "Jobs that came into a state.", (*per_solve, "state"), registry=registry)
        self._waiting = Gauge(
            "equipoise_waiting", "What waits in a queue of this server.", ("queue",), registry=registry
        )
        self.observe("equipoise_in_flight", "Calls that are being answered.", "rpc", lambda: self.in_flight)
        # Looking a label's child up takes longer than counting in it.
        self._of_call = cache(lambda *labels: (self._requests.labels(*labels), self._seconds.labels(*labels[:3])))
        per = self._solver_seconds, self._gap
        self._of_solve = cache(lambda *labels: (self._solves.labels(*labels), *(it.labels(*labels[:2]) for it in per)))

    # -- calls -----------------------------------------------------------------------------------------------------

    def call(self, rpc: str, metadata: Metadata | None = None) -> Record:
        """To be entered around a call. On the event loop."""
        return Record(self, rpc, metadata)

    def span(self, name: str, trace: Any) -> AbstractContextManager[Any]:
        """A span around a part of a call, whose record's `trace` is given."""
        return child(self.tracing, name, trace)

    def ended(self, rpc: str, tenant: str, kind: str, code: str, seconds: float, span: Any = None) -> None:
        """A call is over."""
        requests, latency = self._of_call(rpc, tenant, kind, code)
        requests.inc()
        latency.observe(seconds)
        known = {"rpc": rpc, "tenant": tenant, "kind": kind}
        if self._calls_log is not None:
            more = {} if span is None else {"trace": f"{span.get_span_context().trace_id:032x}"}
            log = self._calls_log.error if code in _OF_THE_SERVER else self._calls_log.info
            log("call", **known, code=code, seconds=round(seconds, 6), **more)
        if span is not None and self.tracing is not None:
            self.tracing.end(span, code, {"equipoise.tenant": tenant, "equipoise.kind": kind})

    # -- what happens ----------------------------------------------------------------------------------------------

    def solved(self, tenant: str, kind: str, certificate: Issued | None) -> None:
        """A solve ended under a certificate, or without one: there is no plan."""
        if certificate is None:
            self._solves.labels(tenant, kind, "infeasible", "solved").inc()
            return
        solves, seconds, gap = self._of_solve(tenant, kind, certificate.proof, certificate.stopped)
        solves.inc()
        seconds.observe(certificate.seconds)
        gap.observe(certificate.gap)
        if certificate.stopped not in ("solved", "gap"):
            self._fallbacks.labels(tenant, kind, certificate.stopped).inc()
        if certificate.notes:
            self._fallbacks.labels(tenant, kind, "noted").inc()

    def repeated(self, source: str) -> None:
        """An answer took no solve of its own: it was `cached` or `shared`."""
        self._repeated.labels(source).inc()

    def refused(self, tenant: str, reason: str) -> None:
        """A call was refused, for one of the reasons that `Refused` names."""
        self._refused.labels(tenant, reason).inc()

    def sessions(self, number: int) -> None:
        """So many sessions are open now."""
        self._sessions.set(number)

    def worker_lost(self, reason: str) -> None:
        """A worker process died at work."""
        self._workers_lost.inc()
        _log.warning("worker_lost", reason=reason)

    def job(self, tenant: str, kind: str, state: str) -> None:
        """A job came into a state: `queued`, `running`, `done`, `failed`, `cancelled`."""
        self._jobs.labels(tenant, kind, state).inc()

    def queue(self, name: str, length: Callable[[], float]) -> None:
        """Tell the length of a queue from now on."""
        self._waiting.labels(name).set_function(length)

    def observe(self, metric: str, text: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        """Tell numbers that are read when somebody scrapes, one for each value of a label. Not on the event loop."""
        self.registry.register(_Observed(metric, text, label, read))

    # -- the place where metrics are read --------------------------------------------------------------------------

    def start(self) -> Address | None:
        """Serve the metrics over HTTP. Returns where, None if nowhere. Raises `ServiceError`."""
        if self._metrics_at is None:
            return None
        try:
            self._http, _ = start_http_server(self._metrics_at.port, self._metrics_at.host, self.registry)
        except OSError as error:
            raise ServiceError(f"metrics cannot be served at {self._metrics_at}: {error.strerror or error}") from None
        place = Address(self._metrics_at.host, self._http.server_port)
        _log.info("metrics_served", address=f"http://{place}/metrics")
        return place

    def close(self) -> None:
        """Stop serving metrics, and send the last spans. Takes seconds where the collector does not answer."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None
        if self.tracing is not None:
            self.tracing.close()


class _Observed(Collector):
    """A gauge whose values are read when somebody scrapes."""

    def __init__(self, metric: str, text: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        self._metric, self._text, self._label, self._read = metric, text, label, read

    def describe(self) -> Iterable[Metric]:
        """The metric without its values, which may not be there yet."""
        return [GaugeMetricFamily(self._metric, self._text, labels=[self._label])]

    def collect(self) -> Iterable[Metric]:
        """The values now. None where they cannot be read: the other metrics are still told."""
        found = GaugeMetricFamily(self._metric, self._text, labels=[self._label])
        try:
            for value, number in dict(self._read()).items():
                found.add_metric([value], number)
        except Exception as error:
            _log.warning("metric_unreadable", metric=self._metric, error=type(error).__name__)
        yield found
