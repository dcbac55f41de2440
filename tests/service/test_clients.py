"""Clients of a service: what they send, what they make of the answers, and what they survive."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import pytest
from google.rpc.code_pb2 import Code

import equipoise as eq
from equipoise.server.protocol import equipoise_pb2 as pb
from equipoise.server.protocol import wire
from equipoise.server.protocol.failures import Refused, to_status
from equipoise.specs.expert_assignment import AssignmentPlan
from equipoise.specs.rollout_budgets import RolloutPlan

from .faults import Faulty, cancelled, failing, hang_up, junk, late, refused, stale, unavailable
from .flavours import FLAVOURS, connected
from .running import Running, running
from .test_transport import Authority

EXAMPLES = Path(eq.__file__).parent / "specs" / "examples" / "minimal"
KINDS = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))
LIMIT = 20.0
"""Seconds that anything here may take before its test fails."""


def spec_of(kind: str) -> Any:
    return eq.load(EXAMPLES / f"{kind}.yaml")


def experts(capacity: int = 2) -> eq.ExpertAssignment:
    return eq.ExpertAssignment(scores=[[3.0, 1.0], [2.0, 1.5], [1.0, 0.5]], experts_per_token=1, capacity=capacity)


def timeless(plan: eq.Plan) -> dict[str, Any]:
    """All that a plan and its certificate say, seconds aside."""
    fields = {
        name: (str(value.dtype), value.tolist()) if isinstance(value, np.ndarray) else value
        for name, value in plan.fields().items()
    }
    return fields | {"certificate": plan.certificate.model_copy(update={"seconds": 0.0}).document()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("clients")
    with running(folder, listen=["127.0.0.1:0", f"unix:{folder}/socket"]) as started:
        yield started


@pytest.fixture(params=FLAVOURS)
def client(request: pytest.FixtureRequest, server: Running) -> Iterator[Any]:
    with connected(request.param, server.address) as connection:
        yield connection


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    return request.param


# -- a real server ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("transport", [0, 1], ids=["tcp", "unix"])
def test_a_plan_is_the_same_wherever_it_was_made(kind: str, transport: int, server: Running, flavour: str) -> None:
    spec = spec_of(kind)
    here = timeless(eq.solve(spec))
    with connected(flavour, server.server.addresses[transport]) as client:
        assert timeless(client.solve(spec)) == here
        with client.session(spec) as session:
            assert timeless(session.step()) == here
        job = client.submit(spec)
        assert timeless(job.result(LIMIT)) == here
        assert timeless(client.job(job.id).result(LIMIT)) == here


def test_type_checkers_know_what_a_client_returns(server: Running) -> None:
    with eq.connect(server.address) as client:
        assert_type(client.solve(experts()), AssignmentPlan)
        with client.session(experts()) as session:
            assert_type(session.step(), AssignmentPlan)
        job = client.submit(spec_of("rollout_budgets"))
        assert_type(client.submit(experts()).result(LIMIT), AssignmentPlan)
        assert isinstance(job.result(LIMIT), RolloutPlan)


def test_what_has_no_plan_raises_as_it_does_here(client: Any) -> None:
    spec = experts(capacity=1)
    with pytest.raises(eq.InfeasibleError) as here:
        eq.solve(spec)
    with client.session(experts()) as session:
        for attempt in (
            lambda: client.solve(spec),
            lambda: session.step(capacity=1),
            lambda: client.submit(spec).result(LIMIT),
        ):
            with pytest.raises(eq.InfeasibleError) as there:
                attempt()
            assert there.value.args == here.value.args


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"method": "best"}, eq.UnsupportedError),
        ({"time_limit": -1}, eq.UnsupportedError),
        ({"backend": "no such thing"}, eq.UnsupportedError),
        ({"method": "fast", "backend": "highs"}, eq.UnsupportedError),
        ({"timeout": 0}, eq.UnsupportedError),
        ({"timeout": float("nan")}, eq.UnsupportedError),
    ],
    ids=str,
)
def test_options_that_no_solve_allows_are_refused(client: Any, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        client.solve(experts(), **options)
    with pytest.raises(error), client.session(experts(), **options) as session:
        session.step()


def test_only_specs_are_taken(client: Any) -> None:
    for call in (client.solve, client.session, client.submit):
        with pytest.raises(eq.SpecError, match="takes a spec, got dict"):
            call({"kind": "expert_assignment"})


def test_a_check_says_there_what_it_says_here(client: Any) -> None:
    spec = spec_of("rollout_budgets")
    plan = eq.solve(spec)
    broken = type(plan)(**{**plan.fields(), "rollouts": plan.rollouts + 1})
    assert client.check(spec, plan) == eq.check(spec, plan)
    assert client.check(spec, broken) == eq.check(spec, broken)
    assert not client.check(spec, broken)


def test_kinds_and_their_schemas_are_told(client: Any) -> None:
    with eq.connect() as here:
        assert client.kinds() == here.kinds()
        assert [client.describe(kind) for kind in KINDS] == [here.describe(kind) for kind in KINDS]
    with pytest.raises(eq.SpecError, match="is not a kind of task"):
        client.describe("no_such_kind")


def test_a_session_follows_one_of_this_process(client: Any) -> None:
    draw = np.random.default_rng(4)
    steps: list[dict[str, Any]] = [{}, {"capacity": 3}, {"scores": draw.random((4, 2))}, {"capacity": None}, {}]
    with client.session(experts()) as there, eq.session(experts()) as here:
        for changes in steps:
            assert timeless(there.step(**changes)) == timeless(here.step(**changes))
            assert there.spec == here.spec
        assert there.restarts == 0


def test_a_step_that_fails_leaves_the_session_as_it_was(client: Any) -> None:
    with client.session(experts()) as session:
        before = timeless(session.step())
        for changes, error in (
            ({"capacity": 1}, eq.InfeasibleError),
            ({"capacity": -1}, eq.SpecError),
            ({"scores": [[float("nan"), 0.0]]}, eq.SpecError),
            ({"colour": 1}, eq.SpecError),
        ):
            with pytest.raises(error):
                session.step(**changes)
            assert session.spec == experts()
        assert timeless(session.step()) == before
        assert session.restarts == 0


ODD_CHANGES = {
    "big-endian": {"scores": np.array([[1, 515], [514, 3], [7, 1029]], ">u2")},
    "big-endian floats": {"scores": np.array([[1.5, 2.5], [2.0, 1.0], [0.5, 4.0]], ">f4")},
    "strided": {"scores": np.arange(12.0).reshape(3, 4)[:, ::2]},
    "a mark of the wire's": {"scores": {"$tensor": "scores"}},
    "no text": {"name": "\ud83d\ude00"},
    "a huge integer": {"experts_per_token": 10**5000},
    "no name of a field": {"\ud800": np.zeros(3)},
    "rows that hold arrays": {"scores": [{"a": {"$tensor": "scores"}}]},
}


@pytest.mark.parametrize("odd", ODD_CHANGES)
def test_odd_changes_do_what_they_do_in_this_process(client: Any, odd: str) -> None:
    def outcome(session: Any) -> Any:
        try:
            return timeless(session.step(**ODD_CHANGES[odd]))
        except eq.SpecError as error:
            return [(problem.place, problem.message) for problem in error.problems]

    with client.session(experts()) as there, eq.session(experts()) as here:
        assert outcome(there) == outcome(here)
        assert there.spec == here.spec and there.restarts == 0
        assert timeless(there.step()) == timeless(here.step())


def test_a_closed_session_takes_no_step(client: Any) -> None:
    with client.session(experts()) as session:
        session.step()
    with pytest.raises(eq.EquipoiseError, match="the session is closed"):
        session.step()


def test_tensors_go_out_as_they_are(client: Any) -> None:
    import torch

    scores = torch.tensor([[3.0, 1.0], [2.0, 1.5]], dtype=torch.bfloat16)
    spec = eq.ExpertAssignment(scores=scores, experts_per_token=1)
    assert timeless(client.solve(spec)) == timeless(eq.solve(spec))
    with client.session(experts()) as session:
        assert timeless(session.step(scores=scores)) == timeless(eq.solve(experts().replace(scores=scores)))
    prompts = {"success_rate": torch.tensor([0.2, 0.7], dtype=torch.float32)}
    budgets = eq.RolloutBudgets(prompts={"success_rate": [0.5, 0.5]}, total=16, value="knapsack_rl")
    with client.session(budgets) as session:
        assert timeless(session.step(prompts=prompts)) == timeless(eq.solve(budgets.replace(prompts=prompts)))


def test_files_are_read_here_and_never_there(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("scores.npy", np.array([[0.0, 9.0], [1.0, 0.0]]))
    with client.session(experts()) as session:
        plan = session.step(scores={"file": "scores.npy"})
        (tmp_path / "scores.npy").unlink()
        assert plan.experts.tolist() == [[1], [0]]
        assert session.step().experts.tolist() == [[1], [0]]


def test_a_job_can_be_watched_cancelled_found_and_forgotten(client: Any) -> None:
    job = client.submit(experts())
    told = list(job.watch(timeout=LIMIT))
    assert told[-1].state == "done" and told[-1].ended and job.state == "done"
    assert len({status.created for status in told}) == 1 and told[-1].finished is not None
    assert job.id in [other.id for other in client.jobs(kind="expert_assignment", states=["done"])]
    assert job.id not in [other.id for other in client.jobs(kind="rollout_budgets")]
    assert job.cancel().state == "done"
    job.delete()
    job.delete()
    with pytest.raises(eq.ServiceError):
        client.job(job.id)


def test_a_key_makes_a_second_submit_the_first_job(client: Any) -> None:
    key = f"once {time.monotonic_ns()}"
    first = client.submit(experts(), idempotency_key=key)
    assert client.submit(experts(), idempotency_key=key).id == first.id
    assert client.submit(experts()).id != first.id
    with pytest.raises(eq.ServiceError):
        client.submit(experts(capacity=3), idempotency_key=key)


@pytest.mark.parametrize("states", [["asleep"], ["done", 3]], ids=str)
def test_states_that_no_job_has_are_refused(client: Any, states: list[Any]) -> None:
    with pytest.raises(eq.UnsupportedError, match="queued, running, done, failed, cancelled"):
        list(client.jobs(states=states))


def test_a_session_outlives_its_server(tmp_path: Path, flavour: str) -> None:
    where = [f"unix:{tmp_path}/socket"]
    with connected(flavour, where[0], timeout=LIMIT) as client:
        with running(tmp_path / "data", listen=where):
            session = client.session(experts()).__enter__()
            session.step(scores=[[5.0, 1.0], [1.0, 5.0], [1.0, 5.0]])
        with running(tmp_path / "data", listen=where):
            plan = session.step(capacity=3)
            alone = eq.solve(experts(3).replace(scores=[[5.0, 1.0], [1.0, 5.0], [1.0, 5.0]]))
            assert plan == alone
            (note,) = plan.certificate.notes
            assert "warm state was lost" in note and session.restarts == 1
            assert session.step().certificate.notes == ()
            session.close()


# -- a service that fails --------------------------------------------------------------------------------------------


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    with Faulty() as service:
        yield service


@pytest.mark.parametrize("fault", [unavailable, cancelled], ids=["unavailable", "cancelled"])
def test_a_solve_is_tried_again(faulty: Faulty, flavour: str, fault: Callable[..., Any]) -> None:
    faulty.faults = [fault, fault]
    with connected(flavour, faulty.address) as client:
        assert client.solve(experts()) == eq.solve(experts())
    assert len(faulty.requests("Solve")) == 3


def test_a_busy_service_is_left_alone_for_as_long_as_it_asks(faulty: Faulty, flavour: str) -> None:
    faulty.faults = [refused(Code.RESOURCE_EXHAUSTED, "OVERLOADED", retry_after=0.3)]
    with connected(flavour, faulty.address) as client:
        client.solve(experts())
    first, second = faulty.seen
    assert second.moment - first.moment >= 0.3


@pytest.mark.parametrize(
    "fault",
    [
        refused(Code.RESOURCE_EXHAUSTED, "TOO_LARGE"),
        refused(Code.PERMISSION_DENIED, "TENANT_GONE"),
        refused(Code.RESOURCE_EXHAUSTED, "OVERLOADED", retry_after=60.0),
        junk,
    ],
    ids=["too large", "denied", "busy for too long", "junk"],
)
def test_what_another_try_would_not_mend_is_raised_at_once(faulty: Faulty, flavour: str, fault: Any) -> None:
    faulty.faults = [fault]
    with connected(flavour, faulty.address, retry_for=1.0) as client:
        with pytest.raises(eq.ServiceError):
            client.solve(experts())
        assert len(faulty.seen) == 1
        assert client.solve(experts()).certificate.status == "optimal"


def test_a_refusal_tells_programs_why_and_how_long(faulty: Faulty, flavour: str) -> None:
    faulty.faults = [refused(Code.RESOURCE_EXHAUSTED, "OVERLOADED", retry_after=60.0)]
    with connected(flavour, faulty.address) as client, pytest.raises(Refused, match="as the test wants it") as error:
        client.solve(experts())
    assert (error.value.reason, error.value.retry_after) == ("OVERLOADED", 60.0)


def test_nobody_at_the_address_is_told_with_how_often_it_was_tried(tmp_path: Path, flavour: str) -> None:
    with connected(flavour, f"unix:{tmp_path}/nobody", retry_for=0.5) as client:
        with pytest.raises(eq.ServiceError, match=r"tried [2-9] times in 0\.\d s"):
            client.solve(experts())
        with (
            pytest.raises(eq.ServiceError, match=r"tried [2-9] times in 0\.\d s"),
            client.session(experts()) as session,
        ):
            session.step()


def test_no_retries_if_none_are_wanted(faulty: Faulty, flavour: str) -> None:
    faulty.faults = [unavailable]
    with connected(flavour, faulty.address, retry_for=0) as client, pytest.raises(eq.ServiceError, match="nobody is"):
        client.solve(experts())
    assert len(faulty.seen) == 1


def test_a_submit_keeps_its_key_when_it_is_tried_again(faulty: Faulty, flavour: str) -> None:
    faulty.jobs = [pb.Job(id="j", state=pb.JOB_STATE_QUEUED, kind="expert_assignment")]
    faulty.faults = [unavailable, unavailable]
    with connected(flavour, faulty.address) as client:
        client.submit(experts())
        client.submit(experts())
    keys = [message.idempotency_key for message in faulty.requests("Submit")]
    assert len(keys) == 4 and len(set(keys[:3])) == 1 and len(set(keys)) == 2 and min(map(len, keys)) == 32


def test_the_timeout_is_the_deadline_of_the_call(faulty: Faulty, flavour: str) -> None:
    with connected(flavour, faulty.address, timeout=50.0) as client:
        client.solve(experts())
        client.solve(experts(), timeout=5.0)
        client.solve(experts(), time_limit=100.0)
    first, second, third = (seen.remaining or 0.0 for seen in faulty.seen)
    assert 40 < first < 51 and 0 < second < 6 and 100 < third < 131


def test_no_answer_in_time_is_a_timeout(faulty: Faulty, flavour: str) -> None:
    faulty.faults = [late(LIMIT)]
    with connected(flavour, faulty.address) as client, pytest.raises(eq.SolveTimeout):
        client.solve(experts(), timeout=0.3)


@pytest.mark.parametrize(
    "fault",
    [unavailable, cancelled, stale, hang_up, failing(Refused(Code.FAILED_PRECONDITION, "STALE_SESSION", "gone"))],
    ids=["unavailable", "cancelled", "stale", "ended", "told so"],
)
def test_a_session_opens_again_with_all_that_it_knows(faulty: Faulty, flavour: str, fault: Any) -> None:
    scores = [[5.0, 1.0], [1.0, 5.0], [1.0, 5.0]]
    with connected(flavour, faulty.address) as client, client.session(experts(), seed=7) as session:
        session.step(scores=scores)
        faulty.faults = [fault]
        plan = session.step(capacity=3)
        assert plan == eq.solve(experts(3).replace(scores=scores))
        assert "the session's warm state was lost and built up again" in plan.certificate.notes[-1]
        assert session.restarts == 1 and session.spec == experts(3).replace(scores=scores)
        assert session.step().certificate.notes == ()
        assert session.restarts == 1
    opened = [message.open for message in faulty.requests("Session") if message.HasField("open")]
    assert len(opened) == 2 and opened[1].spec.tensors["scores"].data == np.array(scores).tobytes()
    assert {message.options.seed for message in opened} == {7}


def test_a_session_whose_service_is_away_waits_for_it(faulty: Faulty, flavour: str) -> None:
    with (
        connected(flavour, faulty.address, timeout=LIMIT, retry_for=0.0) as client,
        client.session(experts()) as session,
    ):
        session.step()
        faulty.stop()
        again = Faulty(faulty.address)
        timer = threading.Timer(0.7, again.start)
        timer.start()
        try:
            assert session.step(capacity=3) == eq.solve(experts(3))
        finally:
            timer.join()
            again.stop()


def test_only_what_has_changed_is_sent(faulty: Faulty, flavour: str) -> None:
    with connected(flavour, faulty.address) as client, client.session(experts()) as session:
        session.step()
        session.step(capacity=3)
        session.step(valid=[True, True, False])
        session.step(valid=None)
    steps = [message.step for message in faulty.requests("Session")[1:]]
    assert [step.revision for step in steps] == [0, 1, 2, 3]
    assert [step.changes.json for step in steps] == [
        "",
        '{"capacity":3}',
        '{"valid":{"$tensor":"valid"}}',
        '{"valid":null}',
    ]


def test_a_step_that_is_refused_keeps_its_stream(faulty: Faulty, flavour: str) -> None:
    with connected(flavour, faulty.address) as client, client.session(experts()) as session:
        session.step()
        faulty.faults = [
            failing(Refused(Code.RESOURCE_EXHAUSTED, "OVERLOADED", "busy", 0.01)),
            failing(eq.BackendError("the backend broke")),
        ]
        with pytest.raises(eq.BackendError, match="the backend broke"):
            session.step(capacity=3)
        assert session.step(capacity=3).certificate.notes == ()
        assert session.restarts == 0
    assert sum(message.HasField("open") for message in faulty.requests("Session")) == 1


def test_a_step_without_an_answer_times_out_and_the_session_goes_on(faulty: Faulty, flavour: str) -> None:
    with connected(flavour, faulty.address) as client, client.session(experts(), timeout=0.4) as session:
        session.step()
        faulty.faults = [late(LIMIT)]
        with pytest.raises(eq.SolveTimeout, match=r"within 0\.4 s"):
            session.step(capacity=3)
        assert session.spec == experts()
        assert "warm state was lost" in session.step().certificate.notes[-1]


def test_the_timeout_of_a_session_is_a_time_limit_too(faulty: Faulty, flavour: str) -> None:
    with connected(flavour, faulty.address) as client:
        for options in ({}, {"timeout": 10.0}, {"timeout": 10.0, "time_limit": 0.0}, {"timeout": 0.1}):
            with client.session(experts(), **options) as session:
                session.step()
    limits = [message.open.options for message in faulty.requests("Session") if message.HasField("open")]
    assert [options.time_limit if options.HasField("time_limit") else None for options in limits] == [
        None,
        pytest.approx(9.95),
        0.0,
        pytest.approx(0.09),
    ]


@pytest.mark.parametrize(
    "fault", [junk, lambda context: pb.SessionResponse().SerializeToString()], ids=["junk", "empty"]
)
def test_an_answer_that_makes_no_sense_is_an_error(faulty: Faulty, flavour: str, fault: Any) -> None:
    with connected(flavour, faulty.address) as client, client.session(experts()) as session:
        faulty.faults = [fault]
        with pytest.raises(eq.ServiceError):
            session.step()
        assert session.step() == eq.solve(experts())


def test_a_plan_of_another_kind_is_an_error(faulty: Faulty, flavour: str) -> None:
    plan = eq.solve(spec_of("rollout_budgets"))
    faulty.faults = [lambda context: b"".join(wire.field(1, wire.plan_fields(plan)))]
    with connected(flavour, faulty.address) as client, pytest.raises(eq.ServiceError, match="cannot read"):
        client.solve(experts())


def jobs(*states: Any) -> list[pb.Job]:
    return [pb.Job(id="j", kind="expert_assignment", state=state) for state in states]


def test_a_report_that_breaks_off_goes_on_without_repeating(faulty: Faulty, flavour: str) -> None:
    faulty.jobs = jobs(pb.JOB_STATE_QUEUED, pb.JOB_STATE_RUNNING, pb.JOB_STATE_DONE)
    with connected(flavour, faulty.address) as client:
        job = client.submit(experts())
        faulty.faults = [lambda context: None, unavailable]
        assert [status.state for status in job.watch()] == ["queued", "running", "done"]
        assert job.result() == eq.solve(experts())
    assert len(faulty.requests("Watch")) == 2


def test_jobs_are_listed_page_after_page(faulty: Faulty, flavour: str) -> None:
    faulty.jobs = [pb.Job(id=str(number), state=pb.JOB_STATE_QUEUED) for number in range(5)]
    with connected(flavour, faulty.address) as client:
        found = client.jobs(states=(state for state in ("queued", "running")), kind="rollout_budgets")
        assert [job.id for job in found] == ["0", "1", "2", "3", "4"]
    assert [message.page_token for message in faulty.requests("List")] == ["", "2", "4"]
    for message in faulty.requests("List"):
        assert list(message.states) == [pb.JOB_STATE_QUEUED, pb.JOB_STATE_RUNNING]
        assert message.kind == "rollout_budgets" and 0 < message.page_size <= 1000


def test_a_job_in_an_unknown_state_is_an_error(faulty: Faulty, flavour: str) -> None:
    faulty.jobs = [pb.Job(id="j", state=99)]  # pyright: ignore[reportArgumentType]
    with (
        connected(flavour, faulty.address) as client,
        pytest.raises(eq.ServiceError, match="this version does not know"),
    ):
        client.job("j")


def test_names_that_cannot_be_sent_are_refused_here(faulty: Faulty, flavour: str) -> None:
    with connected(flavour, faulty.address) as client:
        for bad in ("", "\ud800", "x" * 129, 5, None):
            with pytest.raises(eq.UnsupportedError, match="job_id: must be 1 to 128 printable characters"):
                client.job(bad)
        for options in ({"backend": ["highs"]}, {"backend": "\ud800"}, {"backend": 5}):
            with pytest.raises(eq.UnsupportedError, match="backend"):
                client.solve(experts(), **options)
    assert not faulty.seen


def test_a_job_that_failed_raises_why(faulty: Faulty, flavour: str) -> None:
    status = to_status(eq.BackendError("the worker died"))
    faulty.jobs = jobs(pb.JOB_STATE_FAILED)
    faulty.jobs[0].failure.MergeFrom(pb.Failure(code=status.code, message=status.message, details=status.details))
    with connected(flavour, faulty.address) as client, pytest.raises(eq.BackendError, match="the worker died"):
        client.job("j").result()


def test_a_job_that_was_cancelled_has_no_plan(faulty: Faulty, flavour: str) -> None:
    faulty.jobs = jobs(pb.JOB_STATE_CANCELLED)
    with connected(flavour, faulty.address) as client, pytest.raises(eq.SolveTimeout, match="cancelled"):
        client.job("j").result()


def test_a_job_that_takes_too_long_goes_on(faulty: Faulty, flavour: str) -> None:
    faulty.jobs = jobs(pb.JOB_STATE_RUNNING)
    with connected(flavour, faulty.address) as client:
        job = client.job("j")
        faulty.faults = [late(LIMIT), late(LIMIT)]
        with pytest.raises(eq.SolveTimeout, match=r"the job j has not ended within 0\.3 s; it goes on"):
            job.result(timeout=0.3)


def test_a_job_that_is_gone_is_deleted_already(faulty: Faulty, flavour: str) -> None:
    faulty.jobs = jobs(pb.JOB_STATE_DONE)
    with connected(flavour, faulty.address) as client:
        job = client.job("j")
        faulty.faults = [unavailable, refused(Code.NOT_FOUND, "NO_SUCH_JOB")]
        job.delete()
        faulty.faults = [refused(Code.FAILED_PRECONDITION, "RUNNING")]
        with pytest.raises(eq.ServiceError):
            job.delete()


def test_cancelling_a_solve_ends_its_call(faulty: Faulty) -> None:
    async def main() -> None:
        faulty.faults = [late(LIMIT)]
        async with eq.connect_async(faulty.address) as client:
            solving = asyncio.create_task(client.solve(experts()))
            while not faulty.seen:
                await asyncio.sleep(0.01)
            solving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await solving
            await until(lambda: not faulty.seen[0].context.is_active())
            async with client.session(experts()) as session:
                faulty.faults = [late(LIMIT)]
                step = asyncio.create_task(session.step(capacity=3))
                while faulty.faults:
                    await asyncio.sleep(0.01)
                step.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await step
                assert session.spec == experts()
                assert "warm state was lost" in (await session.step()).certificate.notes[-1]

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_an_interrupt_ends_a_call_and_a_step(faulty: Faulty) -> None:
    def interrupt(context: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        late(LIMIT)(context)

    with eq.connect(faulty.address, timeout=LIMIT) as client, client.session(experts()) as session:
        for call in (lambda: client.solve(experts()), lambda: session.step(capacity=3)):
            faulty.faults = [interrupt]
            gc.disable()  # at once, and not when garbage happens to be collected
            try:
                with pytest.raises(KeyboardInterrupt):
                    call()
                asyncio.run(until(lambda: not faulty.seen[-1].context.is_active()))
            finally:
                gc.enable()
        assert "the step was given up (KeyboardInterrupt)" in session.step().certificate.notes[-1]
        assert session.spec == experts()


def test_closing_a_session_ends_the_step_that_is_under_way(faulty: Faulty) -> None:
    with eq.connect(faulty.address) as client:
        session = client.session(experts())
        faulty.faults = [lambda context: session.close(), late(LIMIT)]  # pyright: ignore[reportAssignmentType]
        with pytest.raises(eq.EquipoiseError, match="the session is closed"):
            session.step()


def test_many_calls_at_once_are_all_answered(server: Running) -> None:
    async def main() -> None:
        async with eq.connect_async(server.address) as client:
            specs = [experts().replace(scores=np.random.default_rng(seed).random((3, 2))) for seed in range(200)]
            plans = await asyncio.gather(*(client.solve(spec) for spec in specs))
            assert plans == [eq.solve(spec) for spec in specs]

    asyncio.run(asyncio.wait_for(main(), 2 * LIMIT))


async def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def test_steps_that_are_asked_for_at_once_come_one_after_the_other(faulty: Faulty) -> None:
    async def main() -> None:
        async with eq.connect_async(faulty.address) as client, client.session(experts()) as session:
            plans = await asyncio.gather(*(session.step(capacity=capacity) for capacity in (2, 3, 2, 3)))
            assert plans == [eq.solve(experts(capacity)) for capacity in (2, 3, 2, 3)]

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_sessions_leave_nothing_behind(faulty: Faulty, flavour: str) -> None:
    with connected(flavour, faulty.address) as client:
        client.solve(experts())
        before = threading.active_count()
        for _ in range(20):
            with client.session(experts()) as session:
                session.step()
        end = time.monotonic() + LIMIT
        while threading.active_count() > before + 2:  # the watchdog, and one that gRPC keeps
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_closed_client_makes_no_call(faulty: Faulty, flavour: str) -> None:
    with connected(flavour, faulty.address) as client:
        session = client.session(experts())
        client.close()
        for call in (lambda: client.solve(experts()), client.kinds, lambda: session.step()):
            with pytest.raises(eq.ServiceError, match="the client is closed"):
                call()
    assert not faulty.requests("Solve")


def test_the_token_goes_out_with_every_call(faulty: Faulty, flavour: str) -> None:
    faulty.jobs = jobs(pb.JOB_STATE_DONE)
    with connected(flavour, faulty.address, token="secret") as client:
        client.solve(experts())
        with client.session(experts()) as session:
            session.step()
        list(client.submit(experts()).watch())
    assert {seen.metadata.get("authorization") for seen in faulty.seen} == {"Bearer secret"}


def test_the_trace_goes_on_at_the_service(faulty: Faulty, flavour: str) -> None:
    from opentelemetry.sdk.trace import TracerProvider

    with connected(flavour, faulty.address) as client:
        client.solve(experts())
        with TracerProvider().get_tracer("test").start_as_current_span("planning") as span:
            client.solve(experts())
    without, within = (seen.metadata.get("traceparent") for seen in faulty.seen)
    assert without is None
    assert f"{span.get_span_context().trace_id:032x}" in str(within)


def test_a_call_is_a_span_of_the_callers_trace(faulty: Faulty, flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import opentelemetry.trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    provider, spans = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(opentelemetry.trace, "get_tracer", provider.get_tracer)
    with connected(flavour, faulty.address) as client:
        client.solve(experts())
        with client.session(experts()) as session:
            session.step(capacity=3)
            with pytest.raises(eq.SpecError, match=r"nowhere\.npy"):
                session.step(scores={"file": "nowhere.npy"})
    solve, *_, good, bad = spans.get_finished_spans()
    assert solve.name == "equipoise.v1.Balancer/Solve"
    assert solve.context is not None
    assert f"{solve.context.span_id:016x}" in str(faulty.seen[0].metadata.get("traceparent"))
    assert [step.name for step in (good, bad)] == ["equipoise.v1.Balancer/Session.step"] * 2
    assert (good.status.description, bad.status.description) == (None, "SpecError")


def test_tls_works_both_ways(tmp_path: Path, flavour: str) -> None:
    server_side, client_side = Authority(tmp_path, "server-ca"), Authority(tmp_path, "client-ca")
    cert, key = server_side.issue("server")
    settings = {"tls_cert": cert, "tls_key": key, "client_ca": client_side.pem}
    own = dict(zip(("cert", "key"), map(str, client_side.issue("client")), strict=True))
    strange = dict(zip(("cert", "key"), map(str, server_side.issue("stranger")), strict=True))
    with running(tmp_path / "data", **settings) as server:
        with connected(flavour, server.address, ca=str(server_side.pem), **own) as client:
            assert client.solve(experts()) == eq.solve(experts())
        for options in (
            {"ca": str(client_side.pem), **own},
            {"ca": str(server_side.pem), **strange},
            {"ca": str(server_side.pem)},
            {"tls": False},
        ):
            with (
                connected(flavour, server.address, retry_for=0.0, **options) as client,
                pytest.raises(eq.ServiceError),
            ):
                client.solve(experts())
