"""Metrics, traces and logs: what happened is told, whoever reads slowly holds nobody up, and no data gets out."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from equipoise.server import logs, tracing
from equipoise.server.settings import ServerSettings
from equipoise.server.telemetry import Telemetry
from equipoise.specs.certificate import Certificate
from equipoise.specs.errors import ServiceError

SOLVE = "equipoise.v1.Balancer/Solve"


def _certificate(**fields: Any) -> Certificate:
    known = {"status": "feasible", "sense": "maximise", "objective": 1.0, "bound": 1.01, "gap": 0.01, "violation": 0.0}
    how = {"proof": "dual", "method": "m", "seconds": 0.003, "backend": "b", "seed": 0, "threads": 1, "gap_asked": 0.0}
    return Certificate(**known | how | fields)


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    made = Telemetry(ServerSettings())
    yield made
    made.close()


def _value(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    return telemetry.registry.get_sample_value(name, labels)


# -- metrics -------------------------------------------------------------------------------------------------------


def test_a_call_counts_for_its_tenant_kind_and_code(telemetry: Telemetry) -> None:
    labels = {"rpc": SOLVE, "tenant": "alice", "kind": "rollout_budgets"}
    for code in ("OK", "OK", "INVALID_ARGUMENT"):
        with telemetry.call(SOLVE) as record:
            record.tenant, record.kind, record.code = "alice", "rollout_budgets", code
    assert _value(telemetry, "equipoise_requests_total", **labels, code="OK") == 2
    assert _value(telemetry, "equipoise_requests_total", **labels, code="INVALID_ARGUMENT") == 1
    assert _value(telemetry, "equipoise_request_seconds_count", **labels) == 3


@pytest.mark.parametrize(("error", "code"), [(asyncio.CancelledError, "CANCELLED"), (ZeroDivisionError, "UNKNOWN")])
def test_a_call_that_ends_otherwise_is_no_success(telemetry: Telemetry, error: type[BaseException], code: str) -> None:
    with pytest.raises(error), telemetry.call(SOLVE):
        raise error
    assert _value(telemetry, "equipoise_requests_total", rpc=SOLVE, tenant="", kind="", code=code) == 1


def test_an_error_that_was_given_a_code_keeps_it(telemetry: Telemetry) -> None:
    record = telemetry.call(SOLVE)
    record.code = "INTERNAL"
    with pytest.raises(ZeroDivisionError), record:
        raise ZeroDivisionError
    assert _value(telemetry, "equipoise_requests_total", rpc=SOLVE, tenant="", kind="", code="INTERNAL") == 1


def test_calls_in_flight_are_seen_while_they_last(telemetry: Telemetry) -> None:
    with telemetry.call(SOLVE), telemetry.call(SOLVE):
        assert _value(telemetry, "equipoise_in_flight", rpc=SOLVE) == 2
    assert _value(telemetry, "equipoise_in_flight", rpc=SOLVE) == 0


def test_a_solve_tells_time_gap_and_what_cut_it_short(telemetry: Telemetry) -> None:
    telemetry.solved("t", "k", _certificate())
    telemetry.solved("t", "k", _certificate(stopped="time limit", notes=("the search gave no answer",)))
    telemetry.solved("t", "k", None)
    labels = {"tenant": "t", "kind": "k"}
    assert _value(telemetry, "equipoise_solves_total", **labels, proof="dual", stopped="solved") == 1
    assert _value(telemetry, "equipoise_solves_total", **labels, proof="infeasible", stopped="solved") == 1
    assert _value(telemetry, "equipoise_solver_seconds_sum", **labels) == pytest.approx(0.006)
    assert _value(telemetry, "equipoise_gap_bucket", **labels, le="0.001") == 0
    assert _value(telemetry, "equipoise_gap_bucket", **labels, le="0.01") == 2
    for reason in ("time limit", "noted"):
        assert _value(telemetry, "equipoise_fallbacks_total", **labels, reason=reason) == 1


def test_the_rest_of_what_happens_is_counted(telemetry: Telemetry) -> None:
    telemetry.repeated("cached")
    telemetry.refused("t", "OVERLOADED")
    telemetry.sessions(3)
    telemetry.worker_lost("signal 9")
    telemetry.job("t", "k", "done")
    assert _value(telemetry, "equipoise_repeated_total", source="cached") == 1
    assert _value(telemetry, "equipoise_refused_total", tenant="t", reason="OVERLOADED") == 1
    assert _value(telemetry, "equipoise_sessions") == 3
    assert _value(telemetry, "equipoise_workers_lost_total") == 1
    assert _value(telemetry, "equipoise_jobs_total", tenant="t", kind="k", state="done") == 1


def test_queues_are_read_when_somebody_asks(telemetry: Telemetry) -> None:
    waiting = [1, 2]
    telemetry.queue("workers", lambda: len(waiting))
    assert _value(telemetry, "equipoise_waiting", queue="workers") == 2
    waiting.clear()
    assert _value(telemetry, "equipoise_waiting", queue="workers") == 0


def test_a_number_that_cannot_be_read_hides_no_other(telemetry: Telemetry) -> None:
    def locked() -> dict[str, float]:
        raise OSError("the store is locked")

    telemetry.observe("equipoise_jobs_now", "Jobs.", "state", locked)
    telemetry.repeated("cached")
    assert _value(telemetry, "equipoise_repeated_total", source="cached") == 1


def test_two_servers_in_one_process_do_not_share_their_metrics(telemetry: Telemetry) -> None:
    telemetry.repeated("cached")
    other = Telemetry(ServerSettings())
    assert _value(other, "equipoise_repeated_total", source="cached") is None


def test_metrics_are_served_over_http_and_no_longer_once_closed() -> None:
    telemetry = Telemetry(ServerSettings(metrics="127.0.0.1:0"))
    place = telemetry.start()
    assert place is not None and place.port > 0
    telemetry.repeated("shared")
    with urllib.request.urlopen(f"http://{place}/metrics", timeout=10) as answer:
        assert b'equipoise_repeated_total{source="shared"} 1.0' in answer.read()
    with pytest.raises(ServiceError, match="metrics cannot be served"):
        Telemetry(ServerSettings(metrics=str(place))).start()
    telemetry.close()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://{place}/metrics", timeout=10)


# -- traces --------------------------------------------------------------------------------------------------------

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def _spans(exporter: InMemorySpanExporter, telemetry: Telemetry) -> dict[str, Any]:
    telemetry.close()
    return {span.name: span for span in exporter.get_finished_spans()}


def test_the_clients_trace_goes_on_through_the_server_into_its_threads() -> None:
    telemetry = Telemetry(ServerSettings(), exporter := InMemorySpanExporter())
    with telemetry.call(SOLVE, [("user-agent", "x"), ("traceparent", f"00-{TRACE}-{SPAN}-01")]) as record:
        record.tenant, record.kind = "alice", "rollout_budgets"

        def work() -> None:
            with telemetry.span("solve", record.trace):
                pass

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    spans = _spans(exporter, telemetry)
    call, solve = spans[SOLVE], spans["solve"]
    assert f"{call.context.trace_id:032x}" == TRACE and f"{call.parent.span_id:016x}" == SPAN
    assert call.kind is SpanKind.SERVER
    assert solve.context.trace_id == call.context.trace_id and solve.parent.span_id == call.context.span_id
    assert call.attributes["equipoise.tenant"] == "alice" and call.attributes["equipoise.kind"] == "rollout_budgets"
    assert call.attributes["rpc.service"] == "equipoise.v1.Balancer" and call.attributes["rpc.method"] == "Solve"


@pytest.mark.parametrize("metadata", [None, (), [("traceparent", "junk")], [("traceparent", b"\xff")]])
def test_without_a_trace_of_the_client_a_new_one_begins(metadata: Any) -> None:
    telemetry = Telemetry(ServerSettings(), exporter := InMemorySpanExporter())
    with telemetry.call(SOLVE, metadata):
        pass
    assert _spans(exporter, telemetry)[SOLVE].parent is None


def test_a_client_that_samples_nothing_is_followed() -> None:
    telemetry = Telemetry(ServerSettings(), exporter := InMemorySpanExporter())
    with telemetry.call(SOLVE, [("traceparent", f"00-{TRACE}-{SPAN}-00")]):
        pass
    assert not _spans(exporter, telemetry)


def test_an_error_leaves_its_type_in_the_trace_and_nothing_of_the_data() -> None:
    telemetry = Telemetry(ServerSettings(), exporter := InMemorySpanExporter())
    with (
        pytest.raises(ValueError),
        telemetry.call(SOLVE, [("authorization", "Bearer secret")]) as record,
        telemetry.span("validate", record.trace),
    ):
        raise ValueError("secret")
    spans = _spans(exporter, telemetry)
    assert spans["validate"].status.description == "ValueError" and not spans["validate"].status.is_ok
    assert "secret" not in "".join(span.to_json() for span in spans.values())


def test_spans_reach_a_collector() -> None:
    arrived = list[str]()

    def export(request: bytes, _: Any) -> bytes:
        for resource in ExportTraceServiceRequest.FromString(request).resource_spans:
            arrived.extend(span.name for scope in resource.scope_spans for span in scope.spans)
        return b""

    collector = grpc.server(ThreadPoolExecutor(1))
    handlers = {"Export": grpc.unary_unary_rpc_method_handler(export)}
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    collector.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = collector.add_insecure_port("127.0.0.1:0")
    collector.start()
    telemetry = Telemetry(ServerSettings(otlp=f"http://127.0.0.1:{port}"))
    with telemetry.call(SOLVE) as record, telemetry.span("solve", record.trace):
        pass
    telemetry.close()
    collector.stop(None).wait(10)
    assert sorted(arrived) == [SOLVE, "solve"]


def test_a_collector_that_takes_nothing_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    free, ended = threading.Event(), threading.Event()

    class Stuck(InMemorySpanExporter):
        def export(self, spans: Any) -> Any:
            ended.set() if free.wait(60) else None
            return super().export(spans)

        def shutdown(self) -> None:
            free.set()

    monkeypatch.setattr(tracing, "FLUSHED", 0.1)
    telemetry = Telemetry(ServerSettings(), Stuck())
    with telemetry.call(SOLVE):
        pass
    telemetry.close()
    assert ended.wait(10), "told to give up, and not before"


def test_without_a_collector_there_are_no_spans(telemetry: Telemetry) -> None:
    with telemetry.call(SOLVE) as record, telemetry.span("solve", record.trace):
        assert record.trace is None and telemetry.tracing is None


# -- logs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def _unconfigured() -> Iterator[None]:
    handlers, level = list(logging.root.handlers), logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers, logging.root.level = handlers, level


@pytest.mark.usefixtures("_unconfigured")
def test_each_call_leaves_one_line(tmp_path: Any) -> None:
    writer = logs.configure("info", "json", stream := io.StringIO())
    telemetry = Telemetry(ServerSettings())
    with telemetry.call(SOLVE, [("authorization", "Bearer secret")]) as record:
        record.tenant, record.kind, record.code = "alice", "rollout_budgets", "INVALID_ARGUMENT"
    writer.close()
    (line,) = stream.getvalue().splitlines()
    told = json.loads(line)
    assert 0 <= told.pop("seconds") < 60 and told.pop("timestamp").endswith("Z")
    assert told == {
        "event": "call",
        "level": "info",
        "rpc": SOLVE,
        "tenant": "alice",
        "kind": "rollout_budgets",
        "code": "INVALID_ARGUMENT",
    }


@pytest.mark.usefixtures("_unconfigured")
@pytest.mark.parametrize("form", ["json", "console"])
def test_a_fault_of_the_server_is_an_error_with_its_traceback(form: Any) -> None:
    writer = logs.configure("warning", form, stream := io.StringIO())
    telemetry = Telemetry(ServerSettings())
    with telemetry.call(SOLVE):
        pass
    with telemetry.call(SOLVE) as record:
        record.code = "INTERNAL"
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError as error:
        structlog.get_logger().error("internal error", exc_info=error)
    writer.close()
    text = stream.getvalue()
    assert "INTERNAL" in text and "OK" not in text, "what went well is not a warning"
    assert "Traceback" in text and "by nothing" in text


@pytest.mark.usefixtures("_unconfigured")
def test_libraries_are_heard_from_warnings_on() -> None:
    writer = logs.configure("info", "json", stream := io.StringIO())
    logging.getLogger("grpc").info("chatter")
    logging.getLogger("grpc").warning("trouble at %s", "home")
    writer.close()
    (line,) = stream.getvalue().splitlines()
    told = json.loads(line)
    assert (told["event"], told["logger"], told["level"]) == ("trouble at home", "grpc", "warning")


class Stuck(io.StringIO):
    """A reader that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.free = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        self.free.wait(30)
        return super().write(text)


def test_a_reader_that_is_stuck_holds_nobody_up_and_what_is_lost_is_counted() -> None:
    writer = logs.Writer(json.dumps, stream := Stuck(), most=10)
    writer.msg({"event": 0})
    assert stream.reached.wait(10)
    for number in range(1, 31):
        writer.msg({"event": number})
    stream.free.set()
    writer.close()
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    lost = [event["count"] for event in told if event["event"] == "log_events_lost"]
    assert sum(lost) == 20 and len(told) == 11 + len(lost)


def test_an_event_that_cannot_be_shown_does_not_end_the_log() -> None:
    writer = logs.Writer(json.dumps, stream := io.StringIO())
    writer.msg({"event": object()})
    writer.msg({"event": "next"})
    writer.close()
    assert "could not be logged" in stream.getvalue() and "next" in stream.getvalue()


def test_a_program_that_set_up_no_logs_gets_no_line_for_each_call(
    telemetry: Telemetry, capsys: pytest.CaptureFixture[str]
) -> None:
    with telemetry.call(SOLVE):
        pass
    assert capsys.readouterr() == ("", "")


def test_every_metric_stands_in_the_manual(telemetry: Telemetry) -> None:
    manual = (Path(__file__).parents[2] / "docs" / "service.md").read_text("utf-8")
    for metric in telemetry.registry.collect():
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        assert f"| `{name}` |" in manual
