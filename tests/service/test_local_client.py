"""The client without a service: the same calls, plans and errors, in this process."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import pytest

import equipoise as eq
from equipoise.clients import local_jobs
from equipoise.solvers.control import Options, Progress
from equipoise.solvers.session import Session
from equipoise.solvers.solve import Solver
from equipoise.specs.expert_assignment import AssignmentPlan

from .flavours import FLAVOURS, connected
from .running import running

EXAMPLES = Path(eq.__file__).parent / "specs" / "examples" / "minimal"
KINDS = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))
LIMIT = 20.0
"""Seconds that anything here may take before its test fails."""


def experts(capacity: int = 2) -> eq.ExpertAssignment:
    return eq.ExpertAssignment(scores=[[3.0, 1.0], [2.0, 1.5], [1.0, 0.5]], experts_per_token=1, capacity=capacity)


@pytest.fixture(params=FLAVOURS)
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    with connected(request.param, None) as connection:
        yield connection


class Solving:
    """A solve that the test holds in its hands: it goes on until it is let go or told to stop."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.stopped = False

    def __call__(self, solver: Solver, spec: Any, watch: Any = None, within: float | None = None) -> Any:
        self.begun.set()
        end = time.monotonic() + LIMIT
        while not self.go.wait(0.01):
            assert time.monotonic() < end
            if watch is not None and watch(Progress(0.0, 1.0, 2.0)) is False:
                self.stopped = True
                raise eq.SolveTimeout("stopped")
        return SOLVE(solver, spec, watch, within)


SOLVE = Solver.solve


@pytest.fixture
def solving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Solving]:
    held = Solving()
    monkeypatch.setattr(Solver, "solve", lambda *arguments, **options: held(*arguments, **options))
    yield held
    held.go.set()


@pytest.mark.parametrize("kind", KINDS)
def test_plans_are_those_of_solve(kind: str, client: Any) -> None:
    spec: Any = eq.load(EXAMPLES / f"{kind}.yaml")
    plan = eq.solve(spec)
    assert client.solve(spec) == plan
    with client.session(spec) as session:
        assert session.step() == plan
    assert client.submit(spec).result() == plan
    assert client.check(spec, plan) == eq.check(spec, plan)


def test_type_checkers_know_what_it_returns() -> None:
    with eq.connect() as client:
        assert_type(client.solve(experts()), AssignmentPlan)
        assert_type(client.submit(experts()).result(), AssignmentPlan)


def test_the_limits_of_a_call_reach_its_solve(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = list[float | None]()

    def solve(solver: Solver, spec: Any, watch: Any = None, within: float | None = None) -> Any:
        given.append(within)
        return SOLVE(solver, spec, watch, within)

    monkeypatch.setattr(Solver, "solve", solve)
    client.solve(experts())
    client.solve(experts(), timeout=5)
    client.solve(experts(), time_limit=1000)
    client.session(experts(), timeout=7).step()
    assert given == [600.0, 5.0, 1030.0, 7.0]


def test_a_session_keeps_what_it_was_told(client: Any) -> None:
    with client.session(experts()) as session:
        assert session.step(capacity=3) == eq.solve(experts(3))
        with pytest.raises(eq.InfeasibleError):
            session.step(capacity=1)
        with pytest.raises(eq.SpecError):
            session.step(colour=1)
        assert session.step() == eq.solve(experts(3)) and session.spec == experts(3)
        assert session.restarts == 0
    with pytest.raises(eq.EquipoiseError, match="the session is closed"):
        session.step()


def test_every_kind_is_described_with_an_example_that_solves(client: Any, tmp_path: Path) -> None:
    kinds = client.kinds()
    assert sorted(kinds) == KINDS and all(kinds.values())
    for name in kinds:
        about = client.describe(name)
        (tmp_path / "spec.yaml").write_text(about.example)
        assert eq.solve(eq.load(tmp_path / "spec.yaml")).certificate.status in ("optimal", "feasible")
        assert about.schema["properties"]["kind"]["const"] == name
    with pytest.raises(eq.SpecError, match="is not a kind of task"):
        client.describe("no_such_kind")


def test_a_job_tells_how_it_goes(client: Any, solving: Solving) -> None:
    job = client.submit(experts().replace(name="mine"))
    waiting = client.submit(experts(3))
    told = job.watch(interval=0.01)
    seen = [next(told)]
    while seen[-1].progress is None:
        seen.append(next(told))
    assert seen[-1].progress == Progress(0.0, 1.0, 2.0) and seen[-1].state == "running"
    assert waiting.refresh().state == "queued"
    assert [found.id for found in client.jobs()] == [waiting.id, job.id]
    assert [found.id for found in client.jobs(states=["queued"])] == [waiting.id]
    solving.go.set()
    last = list(told)[-1]
    assert (last.state, last.name, last.attempts, last.kind) == ("done", "mine", 1, "expert_assignment")
    assert last.created <= last.started <= last.finished
    assert waiting.result() == eq.solve(experts(3))


def test_progress_is_told_no_oftener_than_was_asked(client: Any, solving: Solving) -> None:
    job = client.submit(experts())
    told = job.watch(interval=LIMIT)
    threading.Timer(0.3, solving.go.set).start()
    states = [status.state for status in told]  # of progress there is news a hundred times a second
    assert states[-1] == "done" and len(states) == len(set(states))


def test_cancelling_stops_a_job_that_runs_and_one_that_waits(client: Any, solving: Solving) -> None:
    running, waiting = client.submit(experts()), client.submit(experts())
    assert solving.begun.wait(LIMIT)
    assert waiting.cancel().state == "cancelled"
    assert running.cancel().cancel_requested
    for job in (running, waiting):
        with pytest.raises(eq.SolveTimeout):
            job.result(LIMIT)
        assert job.refresh().state == "cancelled"
    assert solving.stopped


def test_a_result_that_takes_too_long_can_be_asked_for_again(client: Any, solving: Solving) -> None:
    job = client.submit(experts())
    with pytest.raises(eq.SolveTimeout, match=rf"the job {job.id} has not ended within 0\.1 s; it goes on"):
        job.result(timeout=0.1)
    solving.go.set()
    assert client.job(job.id).result() == eq.solve(experts())


def test_what_a_job_raises_is_what_solve_raises(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(eq.InfeasibleError) as here:
        eq.solve(experts(1))
    with pytest.raises(eq.InfeasibleError) as there:
        client.submit(experts(1)).result()
    assert there.value.args == here.value.args
    with pytest.raises(eq.UnsupportedError):
        client.submit(experts(), method="fast", backend="highs")

    def defect(*arguments: Any, **options: Any) -> Any:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(Solver, "solve", defect)
    job = client.submit(experts())
    with pytest.raises(eq.EquipoiseError, match="a defect"):
        job.result()
    assert job.state == "failed"
    monkeypatch.undo()
    assert client.submit(experts()).result() == eq.solve(experts())


def test_a_key_makes_a_second_submit_the_first_job(client: Any) -> None:
    job = client.submit(experts(), idempotency_key="once")
    assert client.submit(experts(), idempotency_key="once").id == job.id
    assert client.submit(experts()).id != client.submit(experts()).id
    for other in ({"spec": experts(3)}, {"spec": experts(), "seed": 1}):
        with pytest.raises(eq.ServiceError, match="which was another request: use a new key"):
            client.submit(idempotency_key="once", **other)
    for key in ("", "k" * 129, 5):
        with pytest.raises(eq.UnsupportedError, match="idempotency_key"):
            client.submit(experts(), idempotency_key=key)


def test_a_job_is_forgotten_once_it_has_ended(client: Any, solving: Solving) -> None:
    job = client.submit(experts())
    with pytest.raises(eq.ServiceError, match="has not ended: cancel it"):
        job.delete()
    solving.go.set()
    job.result()
    job.delete()
    job.delete()
    with pytest.raises(eq.ServiceError, match="there is no job"):
        client.job(job.id)
    for gone in (job.refresh, job.result, job.cancel, lambda: list(job.watch())):
        with pytest.raises(eq.ServiceError, match="it may have been deleted"):
            gone()


def test_the_queue_has_an_end_and_so_has_the_memory(
    client: Any, solving: Solving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_jobs, "MOST", 2)
    first = client.submit(experts())
    assert solving.begun.wait(LIMIT)
    others = [client.submit(experts()) for _ in range(2)]
    with pytest.raises(eq.ServiceError, match="2 jobs of yours are waiting, at most 2 may"):
        client.submit(experts())
    solving.go.set()
    assert others[-1].result() == eq.solve(experts())
    assert [job.id for job in client.jobs()] == [job.id for job in reversed(others)]
    assert first.result() == eq.solve(experts())


def test_closing_stops_everything(solving: Solving) -> None:
    with eq.connect() as client:
        job = client.submit(experts())
        assert solving.begun.wait(LIMIT)
    with pytest.raises(eq.SolveTimeout):
        job.result(LIMIT)
    calls: list[Callable[[], Any]] = [
        lambda: client.solve(experts()),
        lambda: client.session(experts()),
        lambda: client.submit(experts()),
        client.kinds,
        lambda: list(client.jobs()),
    ]
    for call in calls:
        with pytest.raises(eq.ServiceError, match="the client is closed"):
            call()


def test_cancelling_a_call_of_asyncio_stops_its_solve(solving: Solving) -> None:
    async def main() -> None:
        async with eq.connect_async() as client, client.session(experts()) as session:
            for call in (lambda: client.solve(experts()), lambda: session.step(capacity=3)):
                solving.begun.clear()
                solving.stopped = False
                task = asyncio.ensure_future(call())
                await asyncio.to_thread(solving.begun.wait, LIMIT)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                end = time.monotonic() + LIMIT
                while not solving.stopped:
                    assert time.monotonic() < end
                    await asyncio.sleep(0.01)
            solving.go.set()
            assert session.spec == experts()
            assert await session.step() == eq.solve(experts())

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_the_event_loop_goes_on_while_a_solve_runs(solving: Solving) -> None:
    async def main() -> None:
        async with eq.connect_async() as client:
            task = asyncio.ensure_future(client.solve(experts()))
            while not solving.begun.is_set():
                await asyncio.sleep(0.01)
            solving.go.set()
            assert await task == eq.solve(experts())

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_a_session_of_this_process_can_be_bounded_and_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    given = list[Any]()
    monkeypatch.setattr(Solver, "solve", lambda solver, spec, watch, within: given.append((watch, within)))
    watch = given.append
    Session(experts(), Options(), watch, 3.0).step()
    assert given == [(watch, 3.0)]


def test_a_session_holds_arrays_of_its_own() -> None:
    scores = np.array([[3.0, 1.0], [2.0, 1.5], [1.0, 0.5]])
    session = eq.session(eq.ExpertAssignment(scores=scores, experts_per_token=1, capacity=2))
    first = session.step()
    scores[:] = [[0.0, 9.0], [9.0, 0.0], [9.0, 0.0]]
    assert session.step() == first
    changed = session.step(scores=scores)
    scores[:] = 0.0
    assert session.step() == changed and changed.experts.tolist() == [[1], [0], [0]]
    budgets = eq.RolloutBudgets(prompts={"success_rate": [0.5, 0.5]}, total=16, value="knapsack_rl")
    rates = np.array([0.1, 0.9])
    of_tables: Any = eq.session(budgets)
    first = of_tables.step(prompts={"success_rate": rates})
    held = of_tables.spec.prompts.success_rate
    rates[:] = 0.5
    assert held.tolist() == [0.1, 0.9] and not held.flags.writeable
    assert of_tables.step().rollouts.tolist() == first.rollouts.tolist()


def test_what_stays_is_not_copied_again() -> None:
    session: Any = eq.session(experts().replace(valid=np.array([True, True, True])))
    held = session.spec.scores
    session.step(capacity=3)
    assert np.shares_memory(session.spec.scores, held)


def test_a_job_is_solved_as_it_was_submitted(client: Any, solving: Solving) -> None:
    scores = np.array([[3.0, 1.0], [2.0, 1.5], [1.0, 0.5]])
    job = client.submit(eq.ExpertAssignment(scores=scores, experts_per_token=1, capacity=2))
    scores[:] = [[0.0, 9.0], [9.0, 0.0], [9.0, 0.0]]
    solving.go.set()
    assert job.result() == eq.solve(experts())


def test_jobs_leave_no_thread_behind() -> None:
    def working() -> int:
        return sum(thread.name == "equipoise-jobs" for thread in threading.enumerate())

    for _ in range(3):
        client = eq.connect()
        for _ in range(2):  # the second in a thread of its own, if the first one's has ended
            assert client.submit(experts()).result() == eq.solve(experts())
        del client
    end = time.monotonic() + LIMIT
    while working():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_queue_that_is_closed_takes_no_job() -> None:
    jobs = local_jobs.LocalJobs()
    jobs.close()
    with pytest.raises(eq.ServiceError, match="the client is closed"):
        jobs.submit(experts(), Options(), None)


def test_who_watches_jobs_leaves_the_threads_to_solves(solving: Solving) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        async with eq.connect_async() as client:
            job = await client.submit(experts())
            waits = [asyncio.ensure_future(job.result()) for _ in range(3)]
            await asyncio.to_thread(solving.begun.wait, LIMIT)
            assert not [wait for wait in waits if wait.done()]
            await asyncio.to_thread(solving.go.set)
            assert await asyncio.gather(*waits) == [eq.solve(experts())] * 3

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_a_watcher_whose_loop_is_closed_harms_no_job(solving: Solving) -> None:
    client = eq.connect_async()

    async def begin() -> Any:
        job = await client.submit(experts())
        watch = job.watch()
        await anext(watch)
        return job, watch

    loop = asyncio.new_event_loop()
    job, watch = loop.run_until_complete(begin())
    loop.close()
    solving.go.set()
    assert asyncio.run(job.result(LIMIT)) == eq.solve(experts())
    del watch


REFUSED: dict[str, Callable[[Any], Any]] = {
    "a job that is not there": lambda client: client.job("0" * 32),
    "no id": lambda client: client.job(5),
    "jobs of no kind": lambda client: list(client.jobs(kind="nope")),
    "jobs of an empty kind": lambda client: list(client.jobs(kind="")),
    "no kind": lambda client: client.describe(5),
    "a long kind": lambda client: client.describe("x" * 200),
    "a timeout for jobs": lambda client: list(client.jobs(timeout=-1)),
    "a timeout for a check": lambda client: client.check(experts(), eq.solve(experts()), timeout=-1),
    "a timeout for kinds": lambda client: client.kinds(timeout="x"),
    "a timeout for a submit": lambda client: client.submit(experts(), timeout=-1),
    "a timeout for a job": lambda client: client.submit(experts()).refresh(timeout=0),
    "fast with a backend": lambda client: client.submit(experts(), method="fast", backend="highs"),
    "another request": lambda client: (
        client.submit(experts(), idempotency_key="again"),
        client.submit(experts(), time_limit=5.0, idempotency_key="again"),
    ),
    "forgotten": lambda client: (job := client.submit(experts()), job.result(LIMIT), job.delete(), job.refresh()),
    "forgotten result": lambda client: (job := client.submit(experts()), job.result(LIMIT), job.delete(), job.result()),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with running(tmp_path_factory.mktemp("service")) as server, eq.connect(server.address) as client:
        yield client


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_here_is_refused_there_in_the_same_words(client: Any, service: Any, what: str) -> None:
    told = list[tuple[Any, ...]]()
    for asked in (client, service):
        with pytest.raises(eq.EquipoiseError) as error:
            REFUSED[what](asked)
        text = re.sub("[0-9a-f]{32}", "ID", str(error.value))
        told.append((type(error.value), text, *(getattr(error.value, name, None) for name in ("code", "reason"))))
    assert told[0] == told[1]
