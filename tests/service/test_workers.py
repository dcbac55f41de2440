"""Worker processes: what they answer, and that whatever becomes of one costs a single solve."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

import equipoise as eq
from equipoise.server.protocol import equipoise_pb2 as pb
from equipoise.server.protocol import wire
from equipoise.server.protocol.failures import Refused, to_status
from equipoise.server.workers import line as worker_line
from equipoise.server.workers import process as worker_process
from equipoise.server.workers.frames import Frame, Kind, receive, send
from equipoise.server.workers.pool import Workers, pause
from equipoise.server.workers.worker import WorkerLost
from equipoise.solvers.control import Options, Progress

SECONDS = 60.0
"""What any wait here may take; only a failure takes that long."""
EXAMPLES = sorted((Path(eq.__file__).parent / "specs" / "examples" / "minimal").glob("*.yaml"))

TINY = eq.RolloutBudgets(prompts={"successes": [1, 2], "trials": [4, 4]}, total=8)


def hard(requests: int = 40, workers: int = 6) -> eq.DecodeAllocation:
    """A task whose exact search takes minutes, and finds its first plan at once."""
    random = np.random.default_rng(1)
    return eq.DecodeAllocation(
        workers={"slots": [requests // workers] * workers},
        waiting={"tokens": random.integers(100, 9000, requests), "remaining": random.integers(1, 1500, requests)},
        horizon=[0, 4, 16, 64, 256, 1024],
    )


def request(spec: eq.Spec[Any], **options: Any) -> bytes:
    """A serialised SolveRequest."""
    chosen = wire.options(Options(**options)).SerializeToString()
    return b"".join([*wire.field(1, wire.spec_fields(spec)), *wire.field(2, [chosen])])


LONG = request(hard(), method="exact", backend="highs")


def plan_in(answer: bytes) -> eq.Plan:
    response = pb.SolveResponse.FromString(answer)
    assert response.WhichOneof("outcome") == "plan"
    return wire.read_plan(response.plan, wire.Limits())


@asynccontextmanager
async def running(count: int = 1, **settings: Any) -> AsyncIterator[Workers]:
    workers = Workers(count, **settings)
    await workers.start()
    try:
        yield workers
    finally:
        await workers.stop(0.0)
        assert workers.pids() == []


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, SECONDS))


Shared = Callable[[Callable[[Workers], Coroutine[Any, Any, None]]], None]


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    """Runs scenarios on one worker after another: each finds it in order, whatever the last one did to it."""
    with asyncio.Runner() as runner:
        workers = Workers(1)
        runner.run(workers.start())

        async def whole(scenario: Callable[[Workers], Coroutine[Any, Any, None]]) -> None:
            await scenario(workers)
            await until(lambda: len(workers.pids()) == 1 and workers.running == workers.waiting == 0)

        yield lambda scenario: runner.run(asyncio.wait_for(whole(scenario), SECONDS))
        runner.run(workers.stop(0.0))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether a process is there and not only waits to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Begun:
    """Tells when a solve is under way."""

    def __init__(self) -> None:
        self.seen: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        self.seen.append(progress)

    @property
    def plan(self) -> bool:
        return any(progress.objective is not None for progress in self.seen)


async def begin(workers: Workers, task: bytes = LONG, **how: Any) -> asyncio.Task[bytes]:
    """A solve that has found its first plan and goes on searching."""
    begun = Begun()
    solving = asyncio.create_task(workers.solve(task, progress=begun, **how))
    await until(lambda: begun.plan or solving.done())
    assert not solving.done()
    return solving


async def fails(solving: Awaitable[object], error: type[BaseException], match: str | None = None) -> None:
    with pytest.raises(error, match=match):
        await solving


# -- answers ---------------------------------------------------------------------------------------------------------


def test_a_worker_answers_as_the_library_does(shared: Shared) -> None:
    async def scenario(workers: Workers) -> None:
        for path in EXAMPLES:
            spec = eq.load(path)
            eq.solve(spec, "exact")  # compiled here, too
            there, here = plan_in(await workers.solve(request(spec, method="exact"))), eq.solve(spec, "exact")
            assert there == here
            kept = {"seconds"}
            assert there.certificate.model_dump(exclude=kept) == here.certificate.model_dump(exclude=kept)
        assert workers.running == 0 and workers.waiting == 0

    shared(scenario)


def test_no_plan_is_an_answer_and_everything_else_the_error_of_the_solve(shared: Shared) -> None:
    prompts = {"successes": [1, 2], "trials": [4, 4]}
    impossible = eq.RolloutBudgets(prompts=prompts, total=1000)
    with pytest.raises(eq.InfeasibleError) as told:
        eq.solve(impossible)
    invalid = pb.SolveRequest(spec=pb.Document(json='{"kind": "rollout_budgets", "prompts": {}, "total": -1}'))

    async def scenario(workers: Workers) -> None:
        lost = workers.lost
        response = pb.SolveResponse.FromString(await workers.solve(request(impossible)))
        assert response.infeasible.message == told.value.message
        assert tuple(response.infeasible.fields) == told.value.fields
        await fails(workers.solve(invalid.SerializeToString()), eq.SpecError, "total")
        await fails(workers.solve(b"no protobuf at all"), eq.SpecError, "no message of the protocol")
        await fails(workers.solve(request(TINY, backend="flow")), eq.UnsupportedError, "flow")
        assert plan_in(await workers.solve(request(TINY))).certificate.status == "optimal"
        assert workers.lost == lost

    shared(scenario)


def test_a_request_and_an_answer_of_many_megabytes_do_not_hold_up_the_loop(shared: Shared) -> None:
    scores = np.random.default_rng(2).random((100_000, 32))  # 26 MB
    spec = eq.ExpertAssignment(scores=scores, experts_per_token=2)

    async def scenario(workers: Workers) -> None:
        turns = 0

        async def beat() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beating = asyncio.create_task(beat())
        plan: Any = plan_in(await workers.solve(request(spec, method="fast")))
        beating.cancel()
        assert plan.experts.shape == (100_000, 2)
        assert turns > 100  # between the pieces of the frames

    shared(scenario)


def test_progress_comes_as_the_search_goes_on(shared: Shared) -> None:
    async def scenario(workers: Workers) -> None:
        begun = Begun()
        answer = await workers.solve(request(hard(), method="exact", backend="highs", time_limit=1.0), progress=begun)
        assert plan_in(answer).certificate.stopped == "time limit"
        known = [progress for progress in begun.seen if progress.objective is not None]
        assert known
        for progress in known:
            assert progress.objective is not None and (progress.bound or 0.0) <= progress.objective
        assert [progress.seconds for progress in begun.seen] == sorted(progress.seconds for progress in begun.seen)

    shared(scenario)


# -- limits ----------------------------------------------------------------------------------------------------------


def test_the_callers_time_is_a_limit_and_the_best_plan_by_then_the_answer(shared: Shared) -> None:
    async def scenario(workers: Workers) -> None:
        lost = workers.lost
        plan = plan_in(await workers.solve(LONG, within=1.0))
        assert plan.certificate.stopped == "time limit"
        assert eq.check(hard(), plan).ok
        assert workers.lost == lost

    shared(scenario)


def test_a_stop_brings_the_best_plan_so_far(shared: Shared) -> None:
    async def scenario(workers: Workers) -> None:
        lost = workers.lost
        stop = asyncio.Event()
        solving = await begin(workers, stop=stop)
        stop.set()
        plan = plan_in(await solving)
        assert plan.certificate.stopped == "interrupted"
        assert eq.check(hard(), plan).ok
        assert workers.lost == lost

    shared(scenario)


@pytest.mark.parametrize("limit", ["within", "stop"])
def test_a_worker_that_does_not_stop_is_killed_and_replaced(limit: str, shared: Shared) -> None:
    async def scenario(workers: Workers) -> None:
        how: dict[str, Any] = {"within": 0.5} if limit == "within" else {"stop": asyncio.Event()}
        solving = await begin(workers, **how)
        (pid,) = workers.pids()
        os.kill(pid, signal.SIGSTOP)  # it does nothing more, for whatever reason
        if "stop" in how:
            how["stop"].set()
        await fails(solving, eq.SolveTimeout, "did not stop when it was told to")
        assert plan_in(await workers.solve(request(TINY))).certificate.status == "optimal"
        assert not alive(pid)

    shared(scenario)


def judged(spec: eq.Spec[Any], plan: eq.Plan) -> bytes:
    """A serialised CheckRequest."""
    return b"".join([*wire.field(1, wire.spec_fields(spec)), *wire.field(2, wire.plan_fields(plan))])


def test_a_plan_is_judged_by_a_worker(shared: Shared) -> None:
    plan = eq.solve(TINY)
    worse = type(plan)(**{**plan.fields(), "rollouts": [1, 8]}).with_certificate(plan.certificate)

    async def scenario(workers: Workers) -> None:
        for one in (plan, worse):
            answer = pb.CheckResponse.FromString((await workers.check(judged(TINY, one)))[0])
            assert tuple(answer.problems) == eq.check(TINY, one).problems
        await fails(workers.check(b"no protobuf at all"), eq.SpecError, "no message of the protocol")

    shared(scenario)


@pytest.mark.parametrize("end", ["deadline", "caller leaves"])
def test_a_check_that_does_not_end_costs_its_worker_alone(end: str, shared: Shared) -> None:
    request = judged(TINY, eq.solve(TINY))

    async def scenario(workers: Workers) -> None:
        (pid,) = workers.pids()
        os.kill(pid, signal.SIGSTOP)
        checking = asyncio.create_task(workers.check(request, within=0.3 if end == "deadline" else 60.0))
        await until(lambda: workers.running == 1)
        if end == "deadline":
            await fails(checking, eq.SolveTimeout, "did not stop when it was told to")
        else:
            checking.cancel()
            await fails(checking, asyncio.CancelledError)
        await until(lambda: not alive(pid))
        assert pb.CheckResponse.FromString((await workers.check(request))[0]).problems == []

    shared(scenario)


def test_a_worker_that_ignores_the_tasks_own_time_limit_is_killed(shared: Shared) -> None:
    async def scenario(workers: Workers) -> None:
        solving = await begin(workers, request(hard(), method="exact", backend="highs", time_limit=0.5))
        os.kill(workers.pids()[0], signal.SIGSTOP)
        await fails(solving, eq.SolveTimeout, "did not stop")

    shared(scenario)


def test_a_cancelled_caller_frees_the_worker_even_one_that_does_not_listen(shared: Shared) -> None:
    async def scenario(workers: Workers) -> None:
        lost = workers.lost
        for deaf in (False, True):
            solving = await begin(workers)
            (pid,) = workers.pids()
            if deaf:
                os.kill(pid, signal.SIGSTOP)
            solving.cancel()
            await fails(solving, asyncio.CancelledError)
            await until(lambda: workers.running == 0)
            assert plan_in(await workers.solve(request(TINY))).certificate.status == "optimal"
        assert not alive(pid)
        assert workers.lost == lost  # they were killed, not lost

    shared(scenario)


# -- the line --------------------------------------------------------------------------------------------------------


def test_the_line_goes_by_priority_and_then_by_turn(shared: Shared) -> None:
    order: list[str] = []

    async def scenario(workers: Workers) -> None:

        async def ask(name: str, priority: int) -> None:
            await workers.solve(request(TINY), priority=priority)
            order.append(name)

        stop = asyncio.Event()
        first = await begin(workers, stop=stop)
        others = [asyncio.create_task(ask(name, int(name[0]))) for name in ("1a", "1b", "0a", "1c", "0b")]
        await until(lambda: workers.waiting == 5)
        stop.set()
        await asyncio.gather(first, *others)

    shared(scenario)
    assert order == ["0a", "0b", "1a", "1b", "1c"]


def test_who_waits_in_the_line_has_limits_too() -> None:
    async def scenario() -> None:
        async with running(most_waiting=2) as workers:
            stop = asyncio.Event()
            solving = await begin(workers)
            await fails(workers.solve(request(TINY), within=0.05), eq.SolveTimeout, "no worker was free in time")
            stopped = asyncio.create_task(workers.solve(request(TINY), stop=stop))
            left = asyncio.create_task(workers.solve(request(TINY)))
            await until(lambda: workers.waiting == 2)
            with pytest.raises(Refused) as refused:
                await workers.solve(request(TINY))
            assert refused.value.reason == "OVERLOADED" and refused.value.retry_after
            left.cancel()
            stop.set()
            await fails(stopped, eq.SolveTimeout, "before a worker was free")
            assert workers.waiting == 0
            solving.cancel()

    run(scenario())


def test_what_no_caller_waits_for_leaves_one_worker_to_callers() -> None:
    async def scenario() -> None:
        async with running(2) as workers:
            stops = asyncio.Event(), asyncio.Event()
            first = await begin(workers, priority=1, stop=stops[0])
            second = asyncio.create_task(workers.solve(LONG, priority=1, stop=stops[1]))
            for _ in range(3):
                assert plan_in(await workers.solve(request(TINY))).certificate.status == "optimal"
            assert (workers.running, workers.waiting) == (1, 1)
            stops[0].set()
            assert plan_in(await first).certificate.stopped == "interrupted"
            await until(lambda: (workers.running, workers.waiting) == (1, 0))
            second.cancel()

    run(scenario())


def test_what_waits_in_the_line_is_bounded_by_its_bytes(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_line, "MOST_BYTES", 1000)

    async def scenario(workers: Workers) -> None:
        solving = await begin(workers)
        waiting = asyncio.create_task(workers.solve(bytes(600)))
        await until(lambda: workers.waiting == 1)
        with pytest.raises(Refused, match="requests of 600 bytes wait for a worker already, at most 1,000") as refused:
            await workers.solve(bytes(600))
        assert refused.value.reason == "OVERLOADED" and refused.value.retry_after
        waiting.cancel()
        await fails(waiting, asyncio.CancelledError)
        await fails(workers.solve(bytes(5000), within=0.01), eq.SolveTimeout)  # one alone may be larger
        solving.cancel()

    shared(scenario)


# -- deaths ----------------------------------------------------------------------------------------------------------


def test_a_killed_worker_costs_the_one_solve_that_it_had() -> None:
    told = list[str]()

    async def scenario() -> None:
        async with running(2, on_lost=told.append) as workers:
            stop = asyncio.Event()
            solving = {await begin(workers, stop=stop), await begin(workers, stop=stop)}
            os.kill(workers.pids()[0], signal.SIGKILL)
            (lost,), (left,) = await asyncio.wait(solving, return_when=asyncio.FIRST_COMPLETED)
            await fails(lost, WorkerLost, "killed .SIGKILL.")
            assert plan_in(await workers.solve(request(TINY))).certificate.status == "optimal"
            stop.set()
            assert plan_in(await left).certificate.stopped == "interrupted"
            assert workers.lost == 1

    run(scenario())
    assert len(told) == 1 and "SIGKILL" in told[0]


def test_a_lost_worker_is_told_of_without_details_of_the_server() -> None:
    status = to_status(WorkerLost("a worker process died (SIGSEGV)"))
    assert status.message == "a worker process died (SIGSEGV)"
    assert "WORKER_LOST" in str(status)


def test_a_dead_idle_worker_is_replaced_and_costs_nobody_anything(shared: Shared) -> None:
    async def scenario(workers: Workers) -> None:
        lost = workers.lost
        (pid,) = workers.pids()
        os.kill(pid, signal.SIGKILL)
        answer = await workers.solve(request(TINY))  # before anybody here knows
        assert plan_in(answer).certificate.status == "optimal"
        os.kill(workers.pids()[0], signal.SIGKILL)
        await until(lambda: workers.pids() == [])
        await until(lambda: len(workers.pids()) == 1)
        assert workers.lost == lost + 2

    shared(scenario)


def test_a_worker_that_does_not_read_its_request_is_replaced_and_the_next_one_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = list[str]()
    large = eq.ExpertAssignment(scores=np.random.default_rng(3).random((100_000, 2)), experts_per_token=1)

    async def scenario() -> None:
        async with running(on_lost=told.append) as workers:
            monkeypatch.setattr(worker_process, "READING", 2.0)
            (pid,) = workers.pids()
            os.kill(pid, signal.SIGSTOP)  # the request is more than its socket holds
            assert plan_in(await workers.solve(request(large, method="fast"))).certificate.status == "optimal"
            assert not alive(pid)

    run(scenario())
    assert len(told) == 1 and "did not read its request within 2 s" in told[0]


def test_a_task_whose_worker_died_gets_no_other_once_its_time_is_over(shared: Shared) -> None:
    async def scenario(workers: Workers) -> None:
        lost = workers.lost
        (pid,) = workers.pids()
        os.kill(pid, signal.SIGSTOP)
        solving = asyncio.create_task(workers.solve(request(TINY), within=0.2))
        await asyncio.sleep(0.5)
        os.kill(pid, signal.SIGKILL)
        await fails(solving, WorkerLost, "SIGKILL")
        assert workers.waiting == 0
        assert plan_in(await workers.solve(request(TINY))).certificate.status == "optimal"
        assert workers.lost == lost + 1

    shared(scenario)


def test_a_loss_that_cannot_be_told_of_costs_neither_the_answer_nor_the_worker_after_it() -> None:
    def tell(reason: str) -> NoReturn:
        raise ZeroDivisionError(reason)

    async def scenario() -> None:
        async with running(on_lost=tell) as workers:
            for _ in range(2):
                solving = await begin(workers)
                os.kill(workers.pids()[0], signal.SIGKILL)
                await fails(solving, WorkerLost, "SIGKILL")
            assert workers.lost == 2

    run(scenario())


def test_a_worker_is_replaced_after_so_many_solves() -> None:
    async def scenario() -> None:
        async with running(recycle_after=2) as workers:
            seen = list[int]()
            for _ in range(5):
                await workers.solve(request(TINY))
                await until(lambda: len(workers.pids()) == 1)
                seen += workers.pids()
            assert len(set(seen)) == 3
            assert workers.lost == 0

    run(scenario())


MEMORY = 512 * 2**20


@pytest.mark.parametrize("tokens", [100_000, 2_000_000])
def test_a_task_that_needs_too_much_memory_costs_one_worker_and_says_so(tokens: int) -> None:
    """Its program needs too much in the one case, its very request in the other."""
    scores = np.random.default_rng(2).random((tokens, 32))
    huge = request(eq.ExpertAssignment(scores=scores, experts_per_token=2), method="exact", backend="highs")

    async def scenario() -> None:
        async with running(memory=MEMORY) as workers:
            await fails(
                workers.solve(huge), WorkerLost, "more memory than the 536,870,912 bytes that a worker may take"
            )
            assert plan_in(await workers.solve(request(TINY))).certificate.status == "optimal"
            assert workers.lost == 1

    run(scenario())


def test_a_memory_limit_that_leaves_nothing_to_solve_in_is_refused() -> None:
    async def scenario() -> None:
        with pytest.raises(WorkerLost, match=r"is too low: it takes .* allow at least"):
            await Workers(2, memory=2**20).start()

    run(scenario())


def test_workers_that_die_at_once_are_not_started_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = list[float]()
    start = worker_process.WorkerProcess.start

    async def counted(settings: worker_process.WorkerSettings) -> worker_process.WorkerProcess:
        starts.append(time.monotonic())
        return await start(settings)

    monkeypatch.setattr(worker_process.WorkerProcess, "start", counted)
    working = worker_process.COMMAND

    async def scenario() -> None:
        async with running() as workers:
            monkeypatch.setattr(worker_process, "COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
            waits = asyncio.create_task(workers.solve(LONG))
            await until(lambda: workers.running == 1)
            os.kill(workers.pids()[0], signal.SIGKILL)
            await fails(waits, Refused, "SIGKILL|exit code 3")
            await until(lambda: len(starts) >= 3)
            with pytest.raises(Refused, match="exit code 3") as refused:
                await workers.solve(request(TINY))
            assert refused.value.reason == "NO_WORKERS"
            await until(lambda: len(starts) >= 5)
            pauses = np.diff(starts[1:])
            assert pauses[-1] > 0.19  # half of 0.1 · 2², at least, and what a start takes
            monkeypatch.setattr(worker_process, "COMMAND", working)
            await until(lambda: len(workers.pids()) == 1)
            assert plan_in(await workers.solve(request(TINY))).certificate.status == "optimal"

    run(scenario())


def test_the_pause_between_two_starts_is_bounded_however_many_fail() -> None:
    assert [pause(failures) for failures in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert pause(10**6) == 30.0


def test_no_worker_can_be_started_where_python_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "COMMAND", ("/nowhere/python",))

    async def scenario() -> None:
        with pytest.raises(WorkerLost, match=r"no worker process can be started: .*/nowhere/python"):
            await Workers(1).start()

    run(scenario())


def test_where_descriptors_run_out_a_worker_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    working = socket.socketpair

    def none_left() -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    async def scenario() -> None:
        async with running() as workers:
            monkeypatch.setattr(socket, "socketpair", none_left)
            os.kill(workers.pids()[0], signal.SIGKILL)
            await until(lambda: workers.pids() == [])
            await fails(workers.solve(request(TINY)), Refused, "Too many open files")
            monkeypatch.setattr(socket, "socketpair", working)
            await until(lambda: len(workers.pids()) == 1)
            assert plan_in(await workers.solve(request(TINY))).certificate.status == "optimal"

    run(scenario())


def test_a_caller_that_fails_at_its_own_progress_gets_its_error_and_frees_the_worker(shared: Shared) -> None:
    def fail(progress: Progress) -> NoReturn:
        raise ZeroDivisionError(f"after {progress.seconds} s")

    async def scenario(workers: Workers) -> None:
        await fails(workers.solve(LONG, progress=fail), ZeroDivisionError, "after")
        assert plan_in(await workers.solve(request(TINY))).certificate.status == "optimal"

    shared(scenario)


# -- junk ------------------------------------------------------------------------------------------------------------

BABBLER = """
import json, os, socket, sys
from equipoise.server.workers.frames import Frame, Kind, receive, send
connection = socket.socket(fileno=json.loads(sys.argv[1])["connection"])
send(connection, Frame(Kind.READY))
number = receive(connection).solve
{junk}
receive(connection)
"""
JUNK = {
    "bytes that are no frame": "connection.sendall(os.urandom(1000))",
    "a length beyond all measure": "connection.sendall(bytes([6, 0]) + bytes(12) + bytes([255] * 8))",
    "half a frame": "connection.sendall(bytes([6, 0, 1])); sys.exit(0)",
    "an answer to another question": "send(connection, Frame(Kind.ANSWER, number + 1))",
    "what only servers send": "send(connection, Frame(Kind.STOP, number))",
    "progress that is no message": "send(connection, Frame(Kind.PROGRESS, number), [b'junk'])",
    "a failure that is no message": "send(connection, Frame(Kind.FAILED, number), [b'junk'])",
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK.keys())
def test_junk_from_a_worker_costs_that_worker(junk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    working = worker_process.COMMAND

    async def scenario() -> None:
        monkeypatch.setattr(worker_process, "COMMAND", (sys.executable, "-P", "-c", BABBLER.format(junk=junk)))
        async with running() as workers:
            (pid,) = workers.pids()
            monkeypatch.setattr(worker_process, "COMMAND", working)
            answer = await workers.solve(request(TINY))  # by the worker that comes next, as this one had not begun
            assert plan_in(answer).certificate.status == "optimal"
            assert workers.lost == 1 and not alive(pid)

    run(scenario())


@contextmanager
def worker_of_mine() -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A worker process whose server is this test."""
    ours, theirs = socket.socketpair()
    ours.settimeout(SECONDS)
    setup = worker_process.Setup(theirs.fileno(), os.getpid(), None, wire.Limits())
    command = [*worker_process.COMMAND, setup.argument()]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[theirs.fileno()], start_new_session=True)
    with ours, process:
        theirs.close()
        try:
            assert receive(ours).kind == Kind.READY
            yield process, ours
        finally:
            process.kill()


@pytest.mark.parametrize("seed", range(3))
def test_junk_from_a_server_ends_the_worker(seed: int) -> None:
    random = np.random.default_rng(seed)
    with worker_of_mine() as (process, connection):
        with suppress(OSError):  # it may hang up before it has read all
            connection.sendall(random.bytes(1000))
        with pytest.raises(ConnectionError):
            receive(connection)
        assert process.wait(SECONDS) == -signal.SIGKILL


def test_a_worker_answers_frame_by_frame_and_ends_with_its_socket() -> None:
    with worker_of_mine() as (process, connection):
        for solve, body in enumerate([b"junk", request(TINY)], 1):
            send(connection, Frame(Kind.STOP, solve - 1))  # of one that is over: it says nothing about this one
            send(connection, Frame(Kind.SOLVE, solve), [body])
            while (frame := receive(connection)).kind not in (Kind.ANSWER, Kind.FAILED):
                assert frame.solve == solve and not frame.last
            assert frame.solve == solve and not frame.last
            assert frame.kind == (Kind.FAILED, Kind.ANSWER)[solve - 1]
        connection.shutdown(socket.SHUT_RDWR)
        assert process.wait(SECONDS) == -signal.SIGKILL


# -- the end ---------------------------------------------------------------------------------------------------------

SERVER = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from test_workers import LONG, Workers, begin
async def main():
    workers = Workers(2)
    await workers.start()
    solving = await begin(workers)
    print(*workers.pids(), flush=True)
    await solving
asyncio.run(main())
"""


@pytest.mark.parametrize("deaf", [False, True])
def test_no_worker_survives_its_server(deaf: bool) -> None:
    """Be it at work or idle, and even if nothing in it runs any more."""
    command = [sys.executable, "-P", "-c", SERVER, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        pids = [int(pid) for pid in server.stdout.readline().split()]
        assert len(pids) == 2 and all(map(alive, pids))
        for pid in pids if deaf else []:
            os.kill(pid, signal.SIGSTOP)
        server.kill()
    end = time.monotonic() + SECONDS
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(map(alive, pids))


RUNS_A_PROGRAM = """
import subprocess
from equipoise.server.workers import child as worker
class Solver:
    def __init__(self, options): pass
    def solve(self, *task, **how):
        program = subprocess.Popen(["sleep", "600"])
        print(program.pid, flush=True)
        program.wait()
worker.Solver, worker._warm = Solver, lambda: None
worker.main()
"""
SERVER_OF_PROGRAMS = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from test_workers import RUNS_A_PROGRAM, TINY, Workers, request, worker_process
worker_process.COMMAND = (sys.executable, "-P", "-c", RUNS_A_PROGRAM)
async def main():
    workers = Workers(1)
    await workers.start()
    await workers.solve(request(TINY))
asyncio.run(main())
"""


def test_no_solver_program_survives_a_server_that_is_killed() -> None:
    command = [sys.executable, "-P", "-c", SERVER_OF_PROGRAMS, str(Path(__file__).parent)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        program = int(server.stderr.readline())  # where the output of workers goes
        assert alive(program)
        server.kill()
        end = time.monotonic() + SECONDS
        while alive(program) and time.monotonic() < end:
            time.sleep(0.01)
        gone = not alive(program)
        if not gone:
            os.kill(program, signal.SIGKILL)
    assert gone


def test_a_stop_lets_what_runs_finish_and_refuses_the_rest() -> None:
    async def scenario() -> None:
        async with running() as workers:
            stop = asyncio.Event()
            solving = await begin(workers, stop=stop)
            waiting = asyncio.create_task(workers.solve(request(TINY)))
            await until(lambda: workers.waiting == 1)
            pids = workers.pids()
            stopping = asyncio.create_task(workers.stop(SECONDS))
            await fails(waiting, Refused, "shutting down")
            await fails(workers.solve(request(TINY)), Refused, "shutting down")
            stop.set()
            assert plan_in(await solving).certificate.stopped == "interrupted"
            await stopping
            assert not any(map(alive, pids))

    run(scenario())


def test_a_stop_without_grace_fails_what_runs() -> None:
    async def scenario() -> None:
        async with running() as workers:
            solving = await begin(workers)
            await workers.stop(0.0)
            await fails(solving, Refused, "shutting down")

    run(scenario())


def test_hundreds_of_solves_and_some_deaths_leave_nothing_open() -> None:
    def held() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def scenario() -> None:
        async with running(2) as workers:
            await workers.solve(request(TINY))
            before = held()
            for _ in range(3):
                await asyncio.gather(*(workers.solve(request(TINY)) for _ in range(100)))
                solving = await begin(workers)
                solving.cancel()
                os.kill(workers.pids()[0], signal.SIGKILL)
                await until(lambda: workers.running == 0)
                await until(lambda: len(workers.pids()) == 2)
            assert held() == before
            assert len(asyncio.all_tasks()) < 20

    before = held()
    run(scenario())
    assert held() == before
