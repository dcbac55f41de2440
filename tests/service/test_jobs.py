"""Jobs run to their end: once, whatever happens to workers, servers, clocks and databases on the way."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from google.rpc.code_pb2 import Code
from sqlalchemy import event
from structlog.testing import capture_logs

from equipoise.server import database, job_keeper, store_calls, watching
from equipoise.server.job_ends import CANCELLED, DONE, ENDED, FAILED, QUEUED, RUNNING
from equipoise.server.job_queue import JobQueue
from equipoise.server.leases import Leases
from equipoise.server.protocol import equipoise_pb2 as pb
from equipoise.server.protocol.failures import Refused
from equipoise.server.store import Bounds, NewJob, Store
from equipoise.server.workers.worker import WorkerLost
from equipoise.solvers.control import Progress
from equipoise.specs.errors import BackendError, SolveTimeout

from .databases import fresh_database, postgresql, store_url  # noqa: F401  (fixtures)
from .doomed import plan

LIMIT = 30.0
"""Seconds that anything here may take."""
LEASE = 1.0


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:  # noqa: F811
    opened = Store(store_url)
    yield opened
    opened.close()


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path / 'equipoise.sqlite'}")
    yield opened
    opened.close()


def _new(number: int = 0, act: str = "answer", tenant: str = "ours", **fields: Any) -> NewJob:
    request = pb.SolveRequest(spec=pb.Document(json=json.dumps({"act": act, "number": number})))
    same = f"{number:064x}"
    return NewJob(tenant, "rollout_budgets", f"job {number}", request.SerializeToString(), same, same, **fields)


class Acting:
    """Stands in for worker processes: each request says what happens to it."""

    def __init__(self) -> None:
        self.solved = Counter[int]()
        self.release = asyncio.Event()
        self.progress = pb.Progress()

    async def solve(
        self,
        request: bytes,
        *,
        within: float | None = None,
        priority: int = 0,
        progress: Callable[[Progress], None] | None = None,
        stop: asyncio.Event | None = None,
    ) -> bytes:
        assert within is None and priority == 1 and progress is not None and stop is not None
        told = json.loads(pb.SolveRequest.FromString(request).spec.json)
        act, number = told["act"], told["number"]
        self.solved[number] += 1
        match act:
            case "answer":
                await asyncio.sleep(0.01)
            case "wait":
                progress(Progress(1.0, 10.0, 20.0, "search"))
                await _first(self.release, stop)
                if stop.is_set():
                    return plan(number, "interrupted")
            case "wait for much":
                await self.release.wait()
                return plan(number, padding=200_000)
            case "wait in vain":
                await _first(self.release, stop)
                raise SolveTimeout("no plan yet")
            case "count":
                for step in range(10_000):
                    progress(Progress(float(step)))
                    await asyncio.sleep(0)
            case "die once" if self.solved[number] == 1:
                raise WorkerLost("killed")
            case "die":
                raise WorkerLost("killed")
            case "outgrow":
                raise WorkerLost("too much memory", memory=True)
            case "overload" if self.solved[number] < 4:
                raise Refused(Code.UNAVAILABLE, "NO_WORKERS", "none", 0.01)
            case "fail":
                raise BackendError("the solver failed")
            case "bug":
                raise ZeroDivisionError("secret")
        return plan(number)


async def _first(*events: asyncio.Event) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _run(work: Awaitable[None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT):
            await work

    asyncio.run(limited())


@asynccontextmanager
async def _queue(store: Store, workers: Acting | None = None, **options: Any):
    queue = JobQueue(store, workers or Acting(), **{"slots": 2, "lease": LEASE, **options})
    await queue.start()
    try:
        yield queue
    finally:
        await queue.drain(0.0)


async def _ended(queue: JobQueue, job: pb.Job, tenant: str = "ours") -> pb.Job:
    async for latest in queue.watch(tenant, job.id, 0.0):
        job = latest
    return job


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0.01)


async def _reaches(queue: JobQueue, job: pb.Job, state: int) -> None:
    async def reached() -> bool:
        return (await queue.get("ours", job.id)).state == state

    await _until(reached)


# -- the ways a job can go -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "state", "attempts", "message"),
    [
        ("answer", DONE, 1, ""),
        ("die once", DONE, 2, ""),
        ("die", FAILED, 2, "killed"),
        ("outgrow", FAILED, 1, "too much memory"),
        ("overload", DONE, 1, ""),
        ("fail", FAILED, 1, "the solver failed"),
        ("bug", FAILED, 1, "the server failed; its log says why"),
    ],
)
def test_a_job_ends_as_its_solve_does(store: Store, act: str, state: int, attempts: int, message: str) -> None:
    async def work() -> None:
        async with _queue(store) as queue:
            job = await _ended(queue, await queue.submit(_new(7, act)))
            assert (job.state, job.attempts, job.failure.message) == (state, attempts, message)
            assert job.HasField("started") and job.HasField("finished")
            found, result = await queue.result("ours", job.id)
            assert found == job
            expected = plan(7) + pb.SolveResponse(source=pb.SOURCE_SOLVED).SerializeToString()
            assert result == (expected if state == DONE else None)

    _run(work())


def test_no_more_jobs_run_than_there_are_slots(store: Store) -> None:
    async def work() -> None:
        workers = Acting()
        async with _queue(store, workers, slots=3) as queue:
            jobs = [await queue.submit(_new(number, "wait")) for number in range(5)]
            await _until(lambda: _counted(queue, {RUNNING: 3, QUEUED: 2}))
            workers.release.set()
            assert [(await _ended(queue, job)).state for job in jobs] == [DONE] * 5

    _run(work())


async def _counted(queue: JobQueue, wanted: dict[int, int]) -> bool:
    return queue._store.counts() == wanted


def test_a_server_without_slots_leaves_the_work_to_others(store: Store) -> None:
    async def work() -> None:
        workers = Acting()
        async with _queue(store, workers, slots=0) as front, _queue(store) as back:
            job = await front.submit(_new(1))
            assert (await _ended(front, job)).state == DONE  # seen here, run there
            assert not workers.solved
            assert (await back.get("ours", job.id)).state == DONE

    _run(work())


@pytest.mark.parametrize(("act", "state"), [("wait", DONE), ("wait in vain", CANCELLED)])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_cancelled_job_ends_with_the_best_plan_so_far(store: Store, act: str, state: int, elsewhere: bool) -> None:
    async def work() -> None:
        async with _queue(store) as queue, _queue(store, slots=0) as other:
            job = await queue.submit(_new(1, act))
            await _reaches(queue, job, RUNNING)
            asked = await (other if elsewhere else queue).cancel("ours", job.id)
            assert asked.cancel_requested
            ended = await _ended(queue, job)
            assert (ended.state, ended.cancel_requested) == (state, True)
            _, result = await queue.result("ours", job.id)
            stopped = pb.SolveResponse.FromString(result or b"").plan.certificate.stopped
            assert stopped == ("interrupted" if state == DONE else "")
            assert (await queue.cancel("ours", job.id)).state == state
            assert (await queue.submit(_new(1, act))).state == QUEUED  # a plan cut short is nobody else's answer

    _run(work())


# -- watching --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elsewhere", [False, True])
def test_watching_shows_incumbents_and_the_end(store: Store, elsewhere: bool) -> None:
    async def work() -> None:
        workers = Acting()
        async with _queue(store, workers) as queue, _queue(store, slots=0) as other:
            job = await queue.submit(_new(1, "wait"))
            seen = []
            async for latest in (other if elsewhere else queue).watch("ours", job.id, 0.0):
                seen.append(latest)
                if latest.progress.bound == 20.0:
                    workers.release.set()
            assert [latest.state for latest in seen] == sorted(latest.state for latest in seen)
            assert seen[-1].state == DONE and any(latest.progress.objective == 10.0 for latest in seen)
            assert all(one != next for one, next in pairwise(seen))

    _run(work())


def test_watching_tells_of_progress_no_oftener_than_asked(sqlite_store: Store) -> None:
    async def work() -> None:
        async with _queue(sqlite_store) as queue:
            job = await queue.submit(_new(1, "count"))
            seen = [latest async for latest in queue.watch("ours", job.id, 60.0)]
            assert len(seen) <= 4 and seen[-1].state == DONE  # queued, running, the first progress at most, done

    _run(work())


def test_a_slow_reader_costs_no_memory(sqlite_store: Store) -> None:
    async def work() -> None:
        workers = Acting()
        async with _queue(sqlite_store, workers) as queue:
            job = await queue.submit(_new(1, "wait"))
            async with aclosing(queue.watch("ours", job.id, 0.0)) as jobs:
                while (await anext(jobs)).state != RUNNING:  # which may be the first that is seen
                    pass
                tracemalloc.start()
                before, _ = tracemalloc.get_traced_memory()
                for step in range(20_000):
                    queue._watching.progressed(job.id, pb.Progress(seconds=step, stage="x" * 100))
                after, _ = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                assert after - before < 200_000
                assert (await anext(jobs)).progress.seconds == 19_999.0  # the latest, when it is ready for it
            assert not queue._watching._watched

    _run(work())


def test_who_begins_to_watch_later_sees_no_step_back(sqlite_store: Store) -> None:
    async def work() -> None:
        workers = Acting()
        async with _queue(sqlite_store, workers) as queue:
            job = await queue.submit(_new(1, "wait"))

            async def watch(number: int) -> list[int]:
                await asyncio.sleep(0.005 * number)
                if number == 20:
                    workers.release.set()
                return [latest.state async for latest in queue.watch("ours", job.id, 0.0)]

            for states in await asyncio.gather(*map(watch, range(40))):
                assert states == sorted(states) and states[-1] == DONE

    _run(work())


def test_watching_a_job_that_is_deleted_ends_with_an_error(store: Store) -> None:
    async def work() -> None:
        async with _queue(store, slots=0) as queue:
            job = await queue.submit(_new(1))
            watching = asyncio.ensure_future(_ended(queue, job))
            await asyncio.sleep(0.05)
            with store.database.writing() as connection:  # by another server's sweep, say
                connection.exec_driver_sql("DELETE FROM equipoise_jobs")
            with pytest.raises(Refused) as refused:
                await watching
            assert refused.value.code == Code.NOT_FOUND

    _run(work())


def test_cancelling_deleting_and_watching_at_once_leave_nothing_behind(store: Store) -> None:
    async def work() -> None:
        async with _queue(store, slots=2) as queue:
            jobs = [await queue.submit(_new(number, "wait")) for number in range(8)]
            watching = [asyncio.ensure_future(_ended(queue, job)) for job in jobs for _ in range(3)]
            await asyncio.sleep(0.05)

            async def remove(job: pb.Job) -> None:
                await queue.cancel("ours", job.id)
                while (await queue.get("ours", job.id)).state not in ENDED:
                    await asyncio.sleep(0.001)
                await queue.delete("ours", job.id)

            await asyncio.gather(*map(remove, jobs))
            for ended in await asyncio.gather(*watching, return_exceptions=True):
                gone = isinstance(ended, Refused) and ended.code == Code.NOT_FOUND
                assert gone or (isinstance(ended, pb.Job) and ended.state in ENDED)
            assert queue._store.counts() == {}
            assert not queue._watching._watched and not queue._runner.running

    _run(work())


def test_watchers_are_told_when_the_server_stops(sqlite_store: Store) -> None:
    async def work() -> None:
        async with _queue(sqlite_store, slots=0) as queue:
            job = await queue.submit(_new(1))
            watching = asyncio.ensure_future(_ended(queue, job))
            await asyncio.sleep(0.05)
            await queue.drain(0.0)
            with pytest.raises(Refused, match="about to stop") as refused:
                await watching
            assert refused.value.code == Code.UNAVAILABLE and refused.value.retry_after
            for ask in (queue.submit(_new(2)), queue.get("ours", job.id)):
                with pytest.raises(Refused, match="about to stop"):
                    await ask

    _run(work())


# -- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_drained_server_gives_back_what_it_could_not_finish(store: Store) -> None:
    async def work() -> None:
        workers = Acting()
        async with _queue(store, workers) as queue:
            jobs = [await queue.submit(_new(number, act)) for number, act in enumerate(("wait", "wait", "answer"))]
            await _until(lambda: _counted(queue, {RUNNING: 2, QUEUED: 1}))
            await queue.drain(0.1)
            assert store.counts() == {QUEUED: 3}
            assert [store.find("ours", job.id).attempts for job in jobs] == [0, 0, 0]
        workers.release.set()
        async with _queue(store, workers) as queue:
            assert [(await _ended(queue, job)).state for job in jobs] == [DONE] * 3

    _run(work())


def test_a_drained_server_finishes_what_it_can(store: Store) -> None:
    async def work() -> None:
        workers = Acting()
        async with _queue(store, workers) as queue:
            job = await queue.submit(_new(1, "wait"))
            await _reaches(queue, job, RUNNING)
            asyncio.get_running_loop().call_later(0.1, workers.release.set)
            await queue.drain(LIMIT)
            assert store.find("ours", job.id).state == DONE

    _run(work())


def test_two_servers_share_a_queue_and_solve_each_job_once(store: Store) -> None:
    async def work() -> None:
        workers = Acting()
        async with _queue(store, workers) as one, _queue(store, workers) as two:
            jobs = [await (one if number % 2 else two).submit(_new(number)) for number in range(60)]
            await _until(lambda: _counted(one, {DONE: 60}))
            assert workers.solved == Counter(range(60))
            for number, job in enumerate(jobs):
                found, result = await two.result("ours", job.id)
                assert found.attempts == 1 and (result or b"").startswith(plan(number))

    _run(work())


def test_after_a_server_is_killed_amid_a_hundred_jobs_another_finishes_them(store: Store, store_url: str) -> None:  # noqa: F811
    ids = [store.submit(_new(number), Bounds()).id for number in range(100)]
    program = [sys.executable, "-P", str(Path(__file__).with_name("doomed.py")), store_url]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        answers = (line for line in server.stdout if line == "answered\n")  # and not what it logs
        assert len(list(islice(answers, 30))) == 30
        server.kill()
    left = store.counts()
    assert left[RUNNING] and left[QUEUED] and left[DONE]
    before = {job.id: job for job in store.page("ours", 100) if job.state == DONE}

    async def work() -> None:
        workers = Acting()
        async with _queue(store, workers, slots=4) as queue:
            await _until(lambda: _counted(queue, {DONE: 100}))
        assert sum(workers.solved.values()) == 100 - left[DONE] and max(workers.solved.values()) == 1

    _run(work())
    after = {job.id: job for job in store.page("ours", 100)}
    assert set(after) == set(ids)
    assert {id: after[id] for id in before} == before  # none was recorded again
    assert sum(job.attempts for job in after.values()) == 100 + left[RUNNING]
    for number, id in enumerate(ids):
        assert (store.result("ours", id)[1] or b"").startswith(plan(number))


@pytest.mark.parametrize("jump", [-1e8, 1e8])
def test_a_clock_that_jumps_takes_no_job_from_a_server_that_lives(
    store: Store, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    async def work() -> None:
        workers = Acting()
        async with _queue(store, workers) as one, _queue(store, workers, retention=1e6) as two:
            ended = await one.submit(_new(1))
            await _ended(one, ended)
            jobs = [await one.submit(_new(number, "wait")) for number in (2, 3, 4)]
            await _until(lambda: _counted(two, {RUNNING: 3, DONE: 1}))
            clock = time.time
            monkeypatch.setattr(time, "time", lambda: clock() + jump)
            await asyncio.sleep(2 * LEASE)  # leases would have run out, and ended jobs been forgotten
            assert two._store.counts() == {RUNNING: 3, DONE: 1}
            workers.release.set()
            assert [(await _ended(two, job)).attempts for job in jobs] == [1, 1, 1]
            assert set(workers.solved.values()) == {1}

    _run(work())


def test_a_silent_server_loses_its_jobs_and_stops_them_when_it_is_back(store: Store) -> None:
    async def work() -> None:
        first, second = Acting(), Acting()
        with capture_logs() as logs:
            async with _queue(store, first, lease=0.4) as silent:
                job = await silent.submit(_new(1, "wait"))
                await _reaches(silent, job, RUNNING)
                keep, silent._runner._keeper._keep_once = (
                    silent._runner._keeper._keep_once,
                    _nothing,
                )  # as if the machine slept
                async with _queue(store, second, lease=0.4) as other:
                    await _until(lambda: _has_run(second))
                    silent._runner._keeper._keep_once = keep
                    await _until(lambda: _idle(silent))
                    second.release.set()
                    assert (await _ended(other, job)).attempts == 2
        events = {entry["event"] for entry in logs}
        assert {"server_gone", "lease_lost"} <= events

    _run(work())


@pytest.mark.parametrize(("lease", "gone"), [(0.4, True), (60.0, False)])
def test_a_servers_own_lease_says_how_long_it_may_be_silent(sqlite_store: Store, lease: float, gone: bool) -> None:
    async def work() -> None:
        workers = Acting()
        with capture_logs() as logs:
            async with _queue(sqlite_store, workers, lease=lease) as silent:
                job = await silent.submit(_new(1, "wait"))
                await _reaches(silent, job, RUNNING)
                silent._runner._keeper._keep_once = _nothing
                async with _queue(sqlite_store, workers, lease=60.4 - lease):
                    await asyncio.sleep(1.0)
                    workers.release.set()
                    await _ended(silent, job)
        assert ("server_gone" in {entry["event"] for entry in logs}) == gone

    _run(work())


def test_an_end_that_is_being_written_down_is_no_lost_lease(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Leases.finish

    def slow(*how: Any) -> int | None:
        state = finish(*how)
        time.sleep(0.5)  # written down, and not yet known here
        return state

    monkeypatch.setattr(Leases, "finish", slow)

    async def work() -> None:
        with capture_logs() as logs:
            async with _queue(sqlite_store) as queue:
                await _ended(queue, await queue.submit(_new(1)))
                await _until(lambda: _idle(queue))
        events = {entry["event"] for entry in logs}
        assert "job_done" in events and "lease_lost" not in events

    _run(work())


def test_a_server_that_forgets_many_jobs_shows_that_it_lives_meanwhile(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_keeper, "FORGOTTEN_AT_ONCE", 1)
    done = list[str]()

    async def work() -> None:
        async with _queue(sqlite_store, slots=0) as front:
            for number in range(20):
                await front.cancel("ours", (await front.submit(_new(number))).id)
        async with _queue(sqlite_store, slots=0, lease=0.4, retention=0.3) as queue:
            leases = queue._runner._leases
            for name in ("beat", "forget"):
                monkeypatch.setattr(leases, name, _noted(name, getattr(leases, name), done))
            await _until(lambda: _counted(queue, {}))

    _run(work())
    assert done.count("forget") >= 20
    assert ["forget"] * 10 not in [done[first : first + 10] for first in range(len(done))]


def _noted(name: str, function: Callable[..., Any], done: list[str]) -> Callable[..., Any]:
    def noted(*how: Any) -> Any:
        done.append(name)
        time.sleep(0.02)
        return function(*how)

    return noted


async def _nothing() -> None:
    return


async def _has_run(workers: Acting) -> bool:
    return bool(workers.solved)


async def _idle(queue: JobQueue) -> bool:
    return not queue._runner.running


def test_a_claim_that_was_never_heard_of_is_put_back(store: Store) -> None:
    async def work() -> None:
        async with _queue(store, slots=0) as queue:
            job = await queue.submit(_new(1))
            assert queue._runner._leases.claim() is not None  # the answer is lost on its way
            await _reaches(queue, job, QUEUED)

    _run(work())


def test_jobs_go_on_while_the_store_is_locked(
    sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PATIENCE", 0.1)
    store = Store(f"sqlite:///{tmp_path / 'impatient.sqlite'}")

    async def work() -> None:
        workers = Acting()
        with capture_logs() as logs:
            async with _queue(store, workers) as queue:
                running, waiting = [await queue.submit(_new(number, "wait")) for number in (1, 2)]
                await _until(lambda: _counted(queue, {RUNNING: 2}))
                other = sqlite3.connect(tmp_path / "impatient.sqlite", isolation_level=None)
                other.execute("BEGIN IMMEDIATE")
                workers.release.set()  # both end, and neither can be written down
                with pytest.raises(Refused, match="is locked"):
                    await queue.submit(_new(3))
                await asyncio.sleep(2 * LEASE)
                assert queue._store.counts() == {RUNNING: 2}
                other.execute("ROLLBACK")
                other.close()
                for job in (running, waiting):
                    assert ((await _ended(queue, job)).state, job.attempts) == (DONE, 0)
                assert workers.solved == {1: 1, 2: 1}
        assert [entry["event"] for entry in logs].count("store_failed") == 1  # once, not at every try

    _run(work())
    store.close()


def test_a_result_waits_until_the_disk_has_room_for_it(sqlite_store: Store) -> None:
    room = {"pages": 2**30}

    def bound(connection: Any, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count={room['pages']}")

    event.listen(sqlite_store.database._engine, "checkout", bound)

    async def work() -> None:
        workers = Acting()
        with capture_logs() as logs:
            async with _queue(sqlite_store, workers) as queue:
                job = await queue.submit(_new(1, "wait for much"))
                await _reaches(queue, job, RUNNING)
                room["pages"] = 1  # the file may grow no more
                workers.release.set()
                while not any(entry["event"] == "store_failed" for entry in logs):
                    await asyncio.sleep(0.01)
                with pytest.raises(Refused, match="no room") as refused:
                    await queue.submit(NewJob("ours", "rollout_budgets", "", bytes(200_000), "f", "c"))
                assert refused.value.code == Code.UNAVAILABLE
                assert (await queue.get("ours", job.id)).state == RUNNING
                room["pages"] = 2**30
                assert (await _ended(queue, job)).state == DONE
                assert (await queue.result("ours", job.id))[1] is not None
                assert workers.solved == {1: 1}

    _run(work())


def test_servers_that_all_missed_the_store_for_a_while_keep_their_jobs(
    store: Store,
    store_url: str,  # noqa: F811
) -> None:
    other = Store(store_url)

    def away() -> Any:
        raise Refused(Code.UNAVAILABLE, "STORE", "away", 1.0)

    async def work() -> None:
        workers = Acting()
        with capture_logs() as logs, pytest.MonkeyPatch.context() as first, pytest.MonkeyPatch.context() as second:
            async with _queue(store, workers) as one, _queue(other, workers) as two:
                jobs = [await one.submit(_new(number, "wait")) for number in range(4)]
                await _until(lambda: _counted(two, {RUNNING: 4}))
                second.setattr(other.database, "writing", away)
                await asyncio.sleep(0.5 * LEASE)  # the last that one sees of the other
                first.setattr(store.database, "writing", away)
                await asyncio.sleep(2 * LEASE)
                first.undo()
                await asyncio.sleep(0.3 * LEASE)  # one is back first
                second.undo()
                workers.release.set()
                assert [(await _ended(one, job)).attempts for job in jobs] == [1] * 4
                assert workers.solved == Counter(range(4))
        assert not any(entry["event"] in ("server_gone", "lease_lost") for entry in logs)

    _run(work())
    other.close()


def test_jobs_go_on_when_postgresql_drops_every_connection(postgresql: str) -> None:  # noqa: F811
    store = Store(fresh_database(postgresql))

    async def work() -> None:
        async with _queue(store, slots=4) as queue:
            jobs = [await queue.submit(_new(number)) for number in range(40)]
            for _ in range(5):
                with psycopg.connect(f"postgresql://equipoise@/postgres?host={postgresql}") as connection:
                    connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'equipoise'"
                    )
                await asyncio.sleep(0.1)
            for job in jobs:
                ended = await _ended(queue, await queue.get("ours", job.id))
                assert ended.state == DONE

    _run(work())
    store.close()


def test_watchers_are_told_when_the_store_stays_away(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PATIENCE", 0.3)

    async def work() -> None:
        async with _queue(sqlite_store, slots=0) as queue:
            job = await queue.submit(_new(1))
            watched = asyncio.ensure_future(_ended(queue, job))
            await asyncio.sleep(0.05)

            def fail(ids: Any) -> Any:
                raise Refused(Code.UNAVAILABLE, "STORE", "away", 1.0)

            monkeypatch.setattr(sqlite_store, "look", fail)
            with pytest.raises(Refused, match="away"):
                await watched
            monkeypatch.undo()
            again = asyncio.ensure_future(_ended(queue, job))
            await queue.cancel("ours", job.id)
            assert (await again).state == CANCELLED

    _run(work())


def test_calls_beyond_those_the_store_can_answer_are_refused(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_calls, "MOST_CALLS", 8)

    async def work() -> None:
        async with _queue(sqlite_store, slots=0) as queue:
            answers = await asyncio.gather(*(queue.page("ours", 9) for _ in range(20)), return_exceptions=True)
            refused = [answer for answer in answers if isinstance(answer, Refused)]
            assert len(refused) == 12 and {error.code for error in refused} == {Code.RESOURCE_EXHAUSTED}
            assert await queue.page("ours", 9) == []

    _run(work())


def test_ended_jobs_are_forgotten_after_their_time(store: Store) -> None:
    async def work() -> None:
        async with _queue(store, retention=0.3, lease=0.4) as queue:
            old, waiting = await queue.submit(_new(1)), await queue.submit(_new(2, "wait"))
            await _ended(queue, old)
            await _until(lambda: _counted(queue, {RUNNING: 1}))
            assert [job.id for job in await queue.page("ours", 9)] == [waiting.id]

    _run(work())


def test_requests_that_wait_to_be_written_are_bounded_by_their_bytes(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_calls, "MOST_BYTES", 250_000)

    async def work() -> None:
        async with _queue(sqlite_store, slots=0) as queue:
            large = [NewJob("ours", "rollout_budgets", "", bytes(100_000), str(number), "") for number in range(5)]
            answers = await asyncio.gather(*map(queue.submit, large), return_exceptions=True)
            assert sum(isinstance(answer, pb.Job) for answer in answers) == 2
            whole = NewJob("ours", "rollout_budgets", "", bytes(400_000), "", "")
            assert (await queue.submit(whole)).state == QUEUED  # one alone may be larger

    _run(work())


def test_requests_whose_callers_have_left_count_until_they_are_written(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_calls, "MOST_BYTES", 250_000)
    submit, locked = sqlite_store.submit, threading.Event()

    def waits(*how: Any) -> pb.Job:
        locked.wait(LIMIT)
        return submit(*how)

    monkeypatch.setattr(sqlite_store, "submit", waits)

    async def work() -> None:
        async with _queue(sqlite_store, slots=0) as queue:
            large = [NewJob("ours", "rollout_budgets", "", bytes(100_000), str(number), "") for number in range(3)]
            for new in large[:2]:
                leaves = asyncio.create_task(queue.submit(new))
                await asyncio.sleep(0)
                leaves.cancel()
            with pytest.raises(Refused, match="too many calls"):
                await queue.submit(large[2])
            locked.set()
            await _until(lambda: _counted(queue, {QUEUED: 2}))
            assert (await queue.submit(large[2])).state == QUEUED

    _run(work())
