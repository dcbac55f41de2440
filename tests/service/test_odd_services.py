"""Services that answer oddly or with ill will: whatever comes, a caller gets an answer or an error of ours, in time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import equipoise as eq
from equipoise.clients.jobs import JobStatus
from equipoise.clients.remote import job_messages
from equipoise.clients.remote.patience import LARGEST, Patience
from equipoise.server.protocol import equipoise_pb2 as pb

from .faults import Faulty, late, unavailable
from .flavours import FLAVOURS, Awaited, connected

LIMIT = 20.0
"""Seconds that anything here may take before its test fails."""


def experts(capacity: int = 2) -> eq.ExpertAssignment:
    return eq.ExpertAssignment(scores=[[3.0, 1.0], [2.0, 1.5], [1.0, 0.5]], experts_per_token=1, capacity=capacity)


def job(state: Any = pb.JOB_STATE_RUNNING, id: str = "j") -> pb.Job:
    return pb.Job(id=id, kind="expert_assignment", state=state)


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    with Faulty() as service:
        yield service


@pytest.fixture(params=FLAVOURS)
def client(request: pytest.FixtureRequest, faulty: Faulty) -> Iterator[Any]:
    with connected(request.param, faulty.address) as connection:
        yield connection


def test_a_time_that_there_is_not_is_an_error(faulty: Faulty, client: Any) -> None:
    faulty.jobs = [job()]
    faulty.jobs[0].created.seconds = 10**15
    with pytest.raises(eq.ServiceError, match="a time that there is not"):
        client.job("j")


def test_an_id_is_text_and_nothing_more(faulty: Faulty, client: Any) -> None:
    faulty.jobs = [job(id="{0}")]
    found = client.job("j")
    faulty.faults = [late(LIMIT)]
    with pytest.raises(eq.SolveTimeout, match=r"the job \{0\} has not ended within 0\.2 s"):
        found.result(timeout=0.2)


@pytest.mark.parametrize("schema", ["[" * 100_000, "[]", "no JSON"], ids=["deep", "list", "text"])
def test_a_schema_that_is_none_is_an_error(faulty: Faulty, client: Any, schema: str) -> None:
    faulty.schema = schema
    with pytest.raises(eq.ServiceError, match="a schema that is no"):
        client.describe("expert_assignment")


def test_a_report_ends_with_its_job(faulty: Faulty, client: Any) -> None:
    faulty.jobs = [job(pb.JOB_STATE_DONE)] * 2
    found = client.job("j")
    faulty.faults = [lambda context: None, late(LIMIT)]
    assert [status.state for status in found.watch(timeout=2.0)] == ["done"]


@pytest.mark.parametrize("token", ["2", "3"])
def test_pages_without_end_are_an_error(faulty: Faulty, client: Any, token: str) -> None:
    faulty.jobs, faulty.next_page = [job()] * 3, token
    with pytest.raises(eq.ServiceError, match="lists jobs without end"):
        list(client.jobs())
    assert len(faulty.requests("List")) <= 2


def test_reports_that_break_off_without_news_are_asked_for_less_and_less(faulty: Faulty, client: Any) -> None:
    faulty.jobs = [job()]
    found = client.job("j")
    faulty.faults = [lambda context: None, unavailable] * 1000
    with pytest.raises(eq.EquipoiseError):
        list(found.watch(timeout=1.2))
    assert 2 <= len(faulty.requests("Watch")) <= 6


def test_a_report_that_lasted_renews_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    renewed, now = list[float](), [100.0]
    monkeypatch.setattr(Patience, "renew", lambda patience: renewed.append(now[0]))
    monkeypatch.setattr(job_messages.time, "monotonic", lambda: now[0])
    report = job_messages.Report(JobStatus("j", "running", "expert_assignment"), None, None, 1.0)
    data = pb.WatchResponse(job=job()).SerializeToString()
    report.begin()
    assert report.news(data) is not None and renewed == [100.0]
    report.begin()
    assert report.news(data) is None and renewed == [100.0]
    now[0] += LARGEST + 0.1
    assert report.news(data) is None and renewed == [100.0, now[0]]


def test_headers_of_a_trace_go_out_in_lower_case(faulty: Faulty, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import opentelemetry.propagate

    def inject(carrier: dict[str, str]) -> None:
        carrier["X-Amzn-Trace-Id"] = "Root=1-5759e988-bd862e3fe1be46a994272793"

    monkeypatch.setattr(opentelemetry.propagate, "inject", inject)
    client.solve(experts())
    assert "x-amzn-trace-id" in faulty.seen[0].metadata


def test_closing_in_the_moment_of_a_call_is_told_as_such(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty.jobs = [job()]
    for call in (
        lambda client, found: client.solve(experts()),
        lambda client, found: list(found.watch()),
        lambda client, found: client.session(experts()),
    ):
        client: Any = eq.connect(faulty.address)
        found = client.job("j")
        original = client.ensure_open

        def close_after(client: Any = client, original: Any = original) -> None:
            original()
            client.close()

        monkeypatch.setattr(client, "ensure_open", close_after)
        with pytest.raises(eq.ServiceError, match="the client is closed"):
            call(client, found)


def test_a_client_of_asyncio_serves_one_loop(faulty: Faulty) -> None:
    client = eq.connect_async(faulty.address)
    session = client.session(experts())

    async def solve() -> None:
        await client.solve(experts())
        await session.step()

    asyncio.run(solve())
    for call in (lambda: client.solve(experts()), session.step):

        async def again(call: Any = call) -> None:
            await asyncio.wait_for(call(), LIMIT)

        with pytest.raises(eq.ServiceError, match="on another event loop"):
            asyncio.run(again())


def test_a_client_serves_the_process_that_made_it(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    with eq.connect(faulty.address) as client, client.session(experts()) as session:
        session.step()
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            for call in (lambda: client.solve(experts()), lambda: session.step(), lambda: client.session(experts())):
                with pytest.raises(eq.ServiceError, match="before this process was forked"):
                    call()
        assert session.step().certificate.notes == () and session.restarts == 0


@pytest.mark.parametrize("what", ["session", "client"])
@pytest.mark.parametrize("turns", range(5))
def test_closing_while_a_stream_is_opened_ends_the_step(faulty: Faulty, what: str, turns: int) -> None:
    async def main() -> None:
        client = eq.connect_async(faulty.address, timeout=60.0)
        session = client.session(experts())
        step = asyncio.ensure_future(session.step())
        for _ in range(turns):  # of the event loop, so that each stage of the opening is met
            await asyncio.sleep(0)
        await (session if what == "session" else client).close()
        with pytest.raises(eq.EquipoiseError, match="closed"):
            await step
        await client.close()

    asyncio.run(asyncio.wait_for(main(), LIMIT / 2))


def test_a_step_that_is_late_is_told_as_late_and_not_as_cut_off(faulty: Faulty) -> None:
    async def main() -> None:
        async with eq.connect_async(faulty.address) as client, client.session(experts(), timeout=0.3) as session:
            faulty.faults = [late(LIMIT)]
            with pytest.raises(eq.SolveTimeout, match=r"no answer to this step within 0\.3 s"):
                await session.step()
            assert len(faulty.requests("Session")) == 2

    asyncio.run(asyncio.wait_for(main(), LIMIT / 2))


def test_a_session_that_is_closed_between_two_tries_stays_closed(
    faulty: Faulty, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = client.session(experts())
    session.step()
    before, pause = len(faulty.seen), Patience.pause

    def closing(patience: Patience, error: eq.EquipoiseError) -> float:
        if isinstance(session, Awaited):  # its own loop runs already
            asyncio.get_running_loop().create_task(session._value.close())
        else:
            session.close()
        return pause(patience, error)

    faulty.faults = [unavailable]
    monkeypatch.setattr(Patience, "pause", closing)
    with pytest.raises(eq.EquipoiseError, match="the session is closed"):
        session.step()
    assert len(faulty.seen) == before + 1


def test_a_stream_that_is_opened_as_its_session_closes_is_given_up(faulty: Faulty) -> None:
    with connected("blocking", faulty.address) as client:
        session = client.session(experts())
        session.step()
        session._turns.ready = False
        session._hang_up()
        begin, opened = client.converse, list[Any]()

        def converse(*arguments: Any) -> Any:
            session.close()  # by another thread, at this very moment
            opened.append(begin(*arguments))
            return opened[-1]

        client.converse = converse
        with pytest.raises(eq.EquipoiseError, match="the session is closed"):
            session.step()
        assert not opened[0].is_active()


def test_a_session_keeps_the_state_that_was_acknowledged(faulty: Faulty, client: Any) -> None:
    opening = np.array([[3.0, 1.0], [2.0, 1.5], [1.0, 0.5]])
    spec = eq.ExpertAssignment(scores=opening, experts_per_token=1, capacity=2)
    with client.session(spec) as session:
        opening[:] = 0.0
        buffer = np.array([[3.0, 1.0], [1.0, 2.5], [1.0, 0.5]])
        session.step(valid=[True, True, True])
        second = session.step(scores=buffer)
        buffer[:] = [[0.0, 9.0], [9.0, 0.0], [9.0, 0.0]]  # the caller's next step is being written there
        faulty.faults = [unavailable]
        assert session.step().experts.tolist() == second.experts.tolist()
    opened = [message.open for message in faulty.requests("Session") if message.HasField("open")]
    assert [np.frombuffer(one.spec.tensors["scores"].data).tolist() for one in opened] == [
        [3.0, 1.0, 2.0, 1.5, 1.0, 0.5],
        [3.0, 1.0, 1.0, 2.5, 1.0, 0.5],
    ]
