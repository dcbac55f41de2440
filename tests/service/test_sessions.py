"""Sessions over the wire: warm steps, failures that leave them as they were, and the ways in which they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc.status_pb2 import Status

import equipoise as eq
from equipoise.server.protocol import equipoise_pb2 as pb
from equipoise.server.protocol import failures, wire
from equipoise.server.tenants import new_token

from .running import Conversation, Raw, Running, running

LIMITS = wire.Limits()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("data"), session_idle=3.0, most_sessions=3) as started:
        yield started


@pytest.fixture
def raw(server: Running) -> Iterator[Raw]:
    caller = Raw(server.address)
    yield caller
    caller.close()
    _until(lambda: server.server.sessions.number == 0)


def _until(condition: object, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # pyright: ignore[reportCallIssue]
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def spec() -> eq.RolloutBudgets:
    return eq.RolloutBudgets(prompts={"successes": [0, 3, 8], "trials": [8, 8, 8]}, total=24)


def failed(response: pb.SessionResponse) -> eq.EquipoiseError:
    assert response.WhichOneof("response") == "failure"
    return failures.from_status(Status.FromString(response.failure.SerializeToString()))


def test_steps_are_those_of_a_session_in_this_process(raw: Raw) -> None:
    scores = np.random.default_rng(0).standard_normal((5, 64, 8)).astype(np.float32)
    first = eq.ExpertAssignment(scores=scores[0], experts_per_token=2)
    session = Conversation(raw)
    assert session.open(first).WhichOneof("response") == "opened"
    with eq.session(first) as local:
        for number, changed in enumerate(scores):
            response = session.step(number, scores=changed)
            plan = wire.read_plan(response.plan, LIMITS)
            assert plan == local.step(scores=changed)
            assert response.revision == number + 1


def test_null_takes_a_field_away(raw: Raw) -> None:
    session = Conversation(raw)
    session.open(eq.ExpertAssignment(scores=np.eye(4), experts_per_token=1, capacity=4))
    plan = wire.read_plan(session.step(0, capacity=None).plan, LIMITS)
    assert isinstance(plan, type(eq.solve(eq.ExpertAssignment(scores=np.eye(4), experts_per_token=1))))
    assert plan.load.tolist() == [1, 1, 1, 1]


def test_a_bad_step_is_told_and_leaves_the_session_as_it_was(raw: Raw) -> None:
    session = Conversation(raw)
    session.open(spec())
    before = session.step(0)
    with pytest.raises(eq.SpecError) as local:
        spec().replace(total=-1)
    told = failed(session.step(1, total=-1))
    assert isinstance(told, eq.SpecError) and told.problems == local.value.problems
    unknown = failed(session.step(1, totle=3))
    assert isinstance(unknown, eq.SpecError) and "did you mean 'total'" in str(unknown)
    after = session.step(1)
    assert after.plan.document == before.plan.document
    assert after.revision == 2


def test_a_step_without_a_plan_leaves_the_session_as_it_was(raw: Raw) -> None:
    session = Conversation(raw)
    session.open(spec())
    response = session.step(0, total=3)
    assert response.WhichOneof("response") == "infeasible"
    with pytest.raises(eq.InfeasibleError) as local:
        eq.solve(spec().replace(total=3))
    assert str(failures.read_infeasible(response.infeasible)) == str(local.value)
    assert response.revision == 0
    assert wire.read_plan(session.step(0).plan, LIMITS) == eq.solve(spec())


def test_a_step_may_not_refer_to_files_of_the_server(raw: Raw) -> None:
    session = Conversation(raw)
    session.open(spec())
    told = failed(session.step(0, prompts={"file": "/etc/passwd"}))
    assert "files are not read for a remote caller" in str(told)


@pytest.mark.parametrize("revision", [1, 2**63])
def test_a_step_of_another_revision_is_stale(raw: Raw, revision: int) -> None:
    session = Conversation(raw)
    session.open(spec())
    told = failed(session.step(revision))
    assert isinstance(told, failures.Refused) and told.reason == "STALE_SESSION"
    assert session.step(0).WhichOneof("response") == "plan"


def test_a_stream_begins_by_opening_a_session(raw: Raw) -> None:
    with pytest.raises(failures.Refused) as caught:
        Conversation(raw).step(0)
    assert caught.value.reason == "STALE_SESSION"


def test_a_session_is_opened_once(raw: Raw) -> None:
    session = Conversation(raw)
    session.open(spec())
    assert "is open already" in str(failed(session.open(spec())))


def test_a_bad_spec_opens_no_session(raw: Raw) -> None:
    message = pb.SessionRequest()
    message.open.spec.json = '{"kind": "rollout_budgets"}'
    with pytest.raises(eq.SpecError, match="prompts"):
        Conversation(raw).say(message)


def test_a_session_without_steps_is_closed(raw: Raw) -> None:
    session = Conversation(raw)
    session.open(spec())
    time.sleep(3.5)
    with pytest.raises(failures.Refused, match="without a step") as caught:
        session.step(0)
    assert caught.value.reason == "STALE_SESSION"


def test_no_more_sessions_are_opened_than_the_server_holds(server: Running, raw: Raw) -> None:
    sessions = [Conversation(raw) for _ in range(3)]
    for session in sessions:
        session.open(spec())
    with pytest.raises(failures.Refused) as caught:
        Conversation(raw).open(spec())
    assert caught.value.reason == "SESSIONS" and caught.value.retry_after
    sessions[0].end()
    _until(lambda: server.server.sessions.number == 2)
    assert Conversation(raw).open(spec()).WhichOneof("response") == "opened"


def test_a_search_in_a_session_runs_in_a_worker(raw: Raw) -> None:
    session = Conversation(raw)
    session.open(spec(), backend="highs")
    plan = wire.read_plan(session.step(0).plan, LIMITS)
    assert "HiGHS" in plan.certificate.method
    assert plan == eq.solve(spec(), backend="highs")


def test_sessions_end_when_the_server_drains(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        caller = Raw(server.address)
        session = Conversation(caller)
        session.open(spec())
        server.call(_begin_drain(server))
        with pytest.raises(failures.Refused) as caught:
            session.step(0)
        assert caught.value.reason == "DRAINING"
        caller.close()


async def _begin_drain(server: Running) -> None:
    server.server.sessions.drain()


def test_a_drain_meets_a_session_that_just_expired(tmp_path: Path) -> None:
    with running(tmp_path, session_idle=2.0) as server:
        caller = Raw(server.address)
        session = Conversation(caller)
        session.open(spec())
        server.call(_drain_as_it_expires(server))
        with pytest.raises(failures.Refused) as caught:
            session.step(0)
        assert caught.value.reason in ("DRAINING", "STALE_SESSION")
        caller.close()


async def _drain_as_it_expires(server: Running) -> None:
    while not server.server.sessions._waiting:  # its answer has gone out, and it comes to wait for the next request
        await asyncio.sleep(0.001)
    (clock,) = server.server.sessions._waiting
    when = clock.when()
    assert when is not None
    drained = asyncio.get_running_loop().create_future()

    def drain() -> None:
        server.server.sessions.drain()
        drained.set_result(None)

    asyncio.get_running_loop().call_at(when, drain)
    await drained


def test_opening_sessions_counts_against_the_rate(tmp_path: Path) -> None:
    token, digest = new_token()
    (tmp_path / "tenants.toml").write_text(f'[a]\ntokens = ["{digest}"]\nrequests_per_second = 0.1\nburst = 2\n')
    with running(tmp_path, tenants=tmp_path / "tenants.toml") as server:
        caller = Raw(server.address, token)
        opened = [Conversation(caller) for _ in range(3)]
        assert [session.open(spec()).WhichOneof("response") for session in opened[:2]] == ["opened", "opened"]
        with pytest.raises(failures.Refused) as caught:
            opened[2].open(spec())
        assert caught.value.reason == "RATE_QUOTA"
        caller.close()


def test_open_sessions_hold_no_more_memory_than_there_is_for_them(tmp_path: Path) -> None:
    with running(tmp_path, session_memory=100_000) as server:
        caller = Raw(server.address)
        first, second = Conversation(caller), Conversation(caller)
        first.open(eq.ExpertAssignment(scores=np.eye(100), experts_per_token=1))
        with pytest.raises(failures.Refused, match="open sessions hold 80,000 bytes"):
            second.open(eq.ExpertAssignment(scores=np.eye(100), experts_per_token=1))
        caller.close()


def test_a_stranger_is_turned_away_before_the_body_of_his_call(tmp_path: Path) -> None:
    _, digest = new_token()
    (tmp_path / "tenants.toml").write_text(f'[a]\ntokens = ["{digest}"]\n')
    with running(tmp_path, tenants=tmp_path / "tenants.toml") as server:
        stranger = Raw(server.address)
        silent = Conversation(stranger)  # opens the stream, and says nothing
        with pytest.raises(grpc.RpcError) as caught:
            next(silent.call)
        assert isinstance(caught.value, grpc.Call) and caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        stranger.close()


def test_a_session_ends_with_its_token(tmp_path: Path) -> None:
    (old, digest), (_, other) = new_token(), new_token()
    file = tmp_path / "tenants.toml"
    file.write_text(f'[a]\ntokens = ["{digest}", "{other}"]\n')
    with running(tmp_path, tenants=file) as server:
        caller = Raw(server.address, old)
        session = Conversation(caller)
        session.open(spec())
        assert session.step(0, total=32).WhichOneof("response") == "plan"
        file.write_text(f'[a]\ntokens = ["{other}"]\n# the tenant stays, and one of its tokens goes\n')
        with pytest.raises(failures.Refused) as caught:
            _keep_stepping(session)
        assert caught.value.reason == "TOKEN_UNKNOWN"
        caller.close()


def _keep_stepping(session: Conversation) -> None:
    """For half a minute at most: the file of tenants is looked at once a second."""
    for revision in range(1, 600):
        session.step(revision, total=32)
        time.sleep(0.05)
