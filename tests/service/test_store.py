"""Jobs are kept, found again by their owners alone, and bounded; on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status
from sqlalchemy import event, text
from sqlalchemy.exc import DatabaseError

from equipoise.server import database, job_ends
from equipoise.server.job_ends import CANCELLED, DONE, ENDED, FAILED, QUEUED, RUNNING
from equipoise.server.leases import MOST_LOST, MOST_STARTS, Beat, Claim, Leases, Outcome
from equipoise.server.protocol import equipoise_pb2 as pb
from equipoise.server.protocol.failures import Refused
from equipoise.server.store import Bounds, NewJob, Store
from equipoise.specs.errors import ServiceError

from .databases import fresh_database, postgresql, store_url  # noqa: F401  (fixtures)

BOUNDS = Bounds()
RESULT = pb.SolveResponse(infeasible=pb.Infeasible(message="no plan")).SerializeToString()


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:  # noqa: F811
    opened = Store(store_url)
    yield opened
    opened.close()


def _new(number: int = 0, tenant: str = "ours", **fields: Any) -> NewJob:
    request = pb.SolveRequest(spec=pb.Document(json=f'{{"n": {number}}}')).SerializeToString()
    same = f"{number:064x}"
    return replace(NewJob(tenant, "rollout_budgets", f"job {number}", request, same, same), **fields)


def _submit(store: Store, number: int = 0, tenant: str = "ours", **fields: Any) -> pb.Job:
    return store.submit(_new(number, tenant, **fields), BOUNDS)


def _claim(leases: Leases) -> Claim:
    claim = leases.claim()
    assert claim is not None
    return claim


def _answer(whole: bool = True) -> Outcome:
    return Outcome(DONE, result=RESULT, whole=whole)


def test_a_job_is_found_again_by_another_process(store: Store, store_url: str) -> None:  # noqa: F811
    job = _submit(store, 1, name="mine")
    again = Store(store_url)
    try:
        assert again.find("ours", job.id) == job
    finally:
        again.close()
    assert (job.state, job.kind, job.name, job.attempts) == (QUEUED, "rollout_budgets", "mine", 0)
    assert abs(job.created.ToMicroseconds() / 1e6 - time.time()) < 60
    assert not job.HasField("started") and not job.HasField("finished")


def test_ids_cannot_be_guessed(store: Store) -> None:
    ids = {_submit(store, number).id for number in range(20)}
    assert len({id[12:] for id in ids}) == 20  # 80 random bits after the time
    assert all(len(id) == 32 for id in ids)


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "É" * 10_000, "'; DROP TABLE equipoise_jobs; --"])
def test_any_name_is_kept(store: Store, name: str) -> None:
    shown = store.find("ours", _submit(store, name=name).id).name
    assert shown == (name if len(name) < 100 else "É" * 199 + "…").replace("\ud800", "?")


def test_another_tenant_sees_nothing(store: Store) -> None:
    job = _submit(store, 1, "ours")
    for ask in (store.find, store.result, store.cancel, store.delete):
        with pytest.raises(Refused) as refused:
            ask("theirs", job.id)
        assert refused.value.code == Code.NOT_FOUND
    assert store.page("theirs", 10) == []
    assert store.find("ours", job.id) == job


def test_an_idempotency_key_makes_a_repeated_submit_harmless(store: Store) -> None:
    first = _submit(store, 1, idempotency_key="k")
    assert _submit(store, 1, idempotency_key="k").id == first.id
    assert _submit(store, 1, "theirs", idempotency_key="k").id != first.id
    with pytest.raises(Refused) as refused:
        _submit(store, 2, idempotency_key="k")
    assert refused.value.code == Code.ALREADY_EXISTS and first.id in str(refused.value)
    assert len(store.page("ours", 10)) == 1


def test_a_key_submitted_from_many_threads_at_once_makes_one_job(store: Store) -> None:
    with ThreadPoolExecutor(5) as threads:
        jobs = list(threads.map(lambda _: _submit(store, 1, idempotency_key="k").id, range(20)))
    assert len(set(jobs)) == 1
    assert store.counts() == {QUEUED: 1}


def test_what_waits_is_bounded(store: Store) -> None:
    size = len(_new(1).request)
    for number in range(3):
        store.submit(_new(number), Bounds(jobs=4, per_tenant=3, size=5 * size))
    for bounds, tenant in ((Bounds(4, 3), "ours"), (Bounds(3, 9), "theirs"), (Bounds(9, 9, 4 * size - 1), "theirs")):
        with pytest.raises(Refused) as refused:
            store.submit(_new(7, tenant), bounds)
        assert (refused.value.code, refused.value.reason) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert refused.value.retry_after
    assert store.counts() == {QUEUED: 3}


def test_a_full_queue_still_answers_what_it_knows(store: Store) -> None:
    first = _submit(store, 1, idempotency_key="k")
    full = Bounds(jobs=1, per_tenant=1)
    assert store.submit(_new(1, idempotency_key="k"), full).id == first.id
    leases = Leases(store.database, "one")
    leases.finish(_claim(leases), _answer())
    _submit(store, 2)
    assert store.submit(_new(1), full).state == DONE


def test_an_identical_request_is_answered_by_the_stored_result(store: Store) -> None:
    leases = Leases(store.database, "one")
    first = _submit(store, 1)
    leases.finish(_claim(leases), _answer())
    again, other = _submit(store, 1), _submit(store, 1, "theirs")
    assert (again.state, again.attempts, other.state) == (DONE, 0, QUEUED)
    results = [store.result("ours", job.id)[1] for job in (first, again)]
    sources = [pb.SolveResponse.FromString(result or b"").source for result in results]
    assert sources == [pb.SOURCE_SOLVED, pb.SOURCE_CACHED]
    store.delete("ours", first.id)
    assert store.result("ours", again.id)[1] == results[1]


def test_a_result_is_kept_once_however_many_jobs_it_answers_and_until_the_last_is_gone(store: Store) -> None:
    leases = Leases(store.database, "one")
    jobs = [_submit(store, 1) for _ in range(3)]
    leases.finish(_claim(leases), _answer())
    assert leases.claim() is None  # two have the answer of the first now
    jobs += [_submit(store, 1) for _ in range(3)]
    results = {store.result("ours", job.id)[1] for job in jobs[1:]}
    assert _rows(store, "equipoise_results") == 1
    for job in jobs[:-1]:
        store.delete("ours", job.id)
    assert {store.result("ours", jobs[-1].id)[1]} == results
    assert _rows(store, "equipoise_results") == 1
    store.delete("ours", jobs[-1].id)
    assert _rows(store, "equipoise_results") == 0


def _solved(store: Store, number: int, size: int = 0, tenant: str = "ours") -> str:
    """A job that is done, with a result of so many bytes and some."""
    job, leases = _submit(store, number, tenant), Leases(store.database, "one")
    leases.finish(_claim(leases), replace(_answer(), result=RESULT + bytes(size)))
    leases.beat(float(number))  # time goes on
    return job.id


def test_a_tenants_ended_jobs_are_bounded_by_their_number(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_ends, "MOST_KEPT", 3)
    theirs, waiting = _solved(store, 1, tenant="theirs"), _submit(store, 100, "others").id
    store.cancel("others", waiting)
    ids = [_solved(store, number) for number in range(5)]
    ids += [_submit(store, 4).id for _ in range(2)]  # answered at once
    kept = store.page("ours", 9)
    assert {job.id for job in kept} == set(ids[-3:])
    assert [job.id for job in store.page("theirs", 9)] == [theirs]


def test_a_tenants_results_are_bounded_by_their_bytes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_ends, "MOST_BYTES_KEPT", 30_000)
    theirs = _solved(store, 1, 9_000, tenant="theirs")
    ids = [_solved(store, number, 9_000) for number in range(5)]
    assert {job.id for job in store.page("ours", 9)} == set(ids[-3:])
    _solved(store, 5, 20_000)
    assert len(store.page("ours", 9)) == 2
    assert [job.id for job in store.page("theirs", 9)] == [theirs]


def test_a_state_and_a_result_are_of_one_moment(store: Store) -> None:
    """PostgreSQL shows each statement what is true when that begins."""
    leases = Leases(store.database, "one")
    job = _submit(store, 1)
    claim = _claim(leases)

    @event.listens_for(store.database._engine, "after_cursor_execute")
    def ends_now(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT") and threading.current_thread() is threading.main_thread():
            finishing = threading.Thread(target=leases.finish, args=(claim, _answer()))
            finishing.start()
            finishing.join()

    found, body = store.result("ours", job.id)
    assert (found.state == DONE) == (body is not None)
    found, body = store.result("ours", job.id)
    assert found.state == DONE and body is not None


def test_a_result_that_was_cut_short_answers_nobody_else(store: Store) -> None:
    leases = Leases(store.database, "one")
    _submit(store, 1)
    leases.finish(_claim(leases), _answer(whole=False))
    assert _submit(store, 1).state == QUEUED


def test_identical_jobs_in_the_queue_are_solved_once(store: Store) -> None:
    leases = Leases(store.database, "one")
    jobs = [_submit(store, 1) for _ in range(5)]
    claim = _claim(leases)
    assert leases.claim() is None  # the others wait for its answer
    leases.finish(claim, _answer())
    assert leases.claim() is None
    assert [store.find("ours", job.id).state for job in jobs] == [DONE] * 5
    assert [store.find("ours", job.id).attempts for job in jobs] == [1, 0, 0, 0, 0]
    assert all(store.result("ours", job.id)[1] for job in jobs)


def test_pages_hold_every_job_once_the_newest_first(store: Store) -> None:
    made = []
    for number in range(25):
        made.append(_submit(store, number).id)
        time.sleep(0.001)  # ids tell milliseconds
    found, before = [], ""
    while page := store.page("ours", 10, before):
        found += [job.id for job in page]
        before = found[-1]
        store.delete("ours", store.cancel("ours", found[0]).id) if len(found) == 10 else None  # it comes no second time
    assert found == made[::-1]


def test_pages_are_filtered(store: Store) -> None:
    leases = Leases(store.database, "one")
    for number in range(4):
        _submit(store, number, kind="collection_budgets" if number % 2 else "rollout_budgets")
    leases.finish(_claim(leases), _answer())
    assert [job.name for job in store.page("ours", 9, states=[DONE])] == ["job 0"]
    assert len(store.page("ours", 9, states=[QUEUED, RUNNING])) == 3
    assert [job.name for job in store.page("ours", 9, kind="rollout_budgets", states=[QUEUED])] == ["job 2"]


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_asked_to_stop(store: Store) -> None:
    leases = Leases(store.database, "one")
    running, waiting = _submit(store, 1), _submit(store, 2)
    claim = _claim(leases)
    assert store.cancel("ours", waiting.id).state == CANCELLED
    asked = store.cancel("ours", running.id)
    assert (asked.state, asked.cancel_requested) == (RUNNING, True)
    assert leases.held() == {claim.seq: (claim.turn, True)}
    assert leases.finish(claim, _answer(whole=False)) == DONE
    assert store.cancel("ours", running.id).state == DONE  # no effect on one that has ended
    assert leases.claim() is None


def test_only_a_job_that_has_ended_can_be_deleted(store: Store) -> None:
    leases = Leases(store.database, "one")
    job = _submit(store, 1, idempotency_key="k")
    _refuses_to_delete(store, job)
    claim = _claim(leases)
    _refuses_to_delete(store, job)
    leases.finish(claim, _answer())
    store.delete("ours", job.id)
    with pytest.raises(Refused, match="there is no job"):
        store.result("ours", job.id)
    assert _submit(store, 1, idempotency_key="k").id != job.id
    assert _rows(store, "equipoise_results") == 0


def _refuses_to_delete(store: Store, job: pb.Job) -> None:
    with pytest.raises(Refused) as refused:
        store.delete("ours", job.id)
    assert refused.value.code == Code.FAILED_PRECONDITION


def _rows(store: Store, table: str) -> int:
    with store.database.reading() as connection:
        return connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()


def test_the_request_of_an_ended_job_is_thrown_away(store: Store) -> None:
    leases = Leases(store.database, "one")
    _submit(store, 1)
    _submit(store, 2)
    leases.finish(_claim(leases), _answer())
    assert _rows(store, "equipoise_requests") == 1


# -- leases ----------------------------------------------------------------------------------------------------------


def test_jobs_start_oldest_first_the_tenants_taking_turns(store: Store) -> None:
    for number in range(4):
        _submit(store, number, "many")
    for tenant in ("few", "one"):
        _submit(store, 9, tenant)
    _submit(store, 8, "few")
    leases = Leases(store.database, "one")
    started = []
    while (claim := leases.claim()) is not None:
        started.append(f"{claim.tenant} {store.find(claim.tenant, claim.id).name}")
        leases.finish(claim, _answer())
    assert started == [
        *("many job 0", "few job 9", "one job 9", "many job 1", "few job 8", "many job 2", "many job 3"),
    ]


def test_a_tenant_with_running_jobs_waits_for_those_without(store: Store) -> None:
    leases = Leases(store.database, "one")
    for number in range(3):
        _submit(store, number, "many")
    first, second = _claim(leases), _claim(leases)
    _submit(store, 5, "few")
    leases.finish(first, _answer())
    assert (second.tenant, _claim(leases).tenant) == ("many", "few")


def test_a_job_is_never_claimed_twice(store: Store) -> None:
    for number in range(40):
        _submit(store, number)
    servers = [Leases(store.database, f"server {index}") for index in range(4)]

    def drain(leases: Leases) -> list[Claim]:
        return list(iter(leases.claim, None))

    with ThreadPoolExecutor(4) as threads:
        claims = [claim for some in threads.map(drain, servers) for claim in some]
    assert len({claim.seq for claim in claims}) == len(claims) == 40
    assert len({claim.turn for claim in claims}) == 40
    assert store.counts() == {RUNNING: 40}


def test_the_request_comes_back_as_it_was_sent(store: Store) -> None:
    request = bytes(range(256)) * 4096
    _submit(store, 1, request=request)
    assert _claim(Leases(store.database, "one")).request == request


def test_what_a_dead_server_left_is_taken_over_and_its_late_result_is_refused(store: Store) -> None:
    dead, alive = Leases(store.database, "dead"), Leases(store.database, "alive")
    job = _submit(store, 1)
    late = _claim(dead)
    _, others = alive.beat(0.0)
    assert alive.bury("dead", Beat(others["dead"].number - 1, 15.0)) == 0  # it has shown itself since
    assert alive.bury("dead", others["dead"]) == 1
    claim = _claim(alive)
    assert dead.finish(late, _answer()) is None
    assert store.find("ours", job.id).state == RUNNING
    assert alive.finish(claim, _answer()) == DONE
    assert dead.finish(late, Outcome(FAILED, failure=Status(code=13))) is None
    assert alive.finish(claim, _answer()) is None  # and none is recorded twice
    assert store.find("ours", job.id).attempts == 2
    assert dead.held() == {}


def test_a_server_that_was_taken_for_dead_shows_another_beat_when_it_is_back(store: Store) -> None:
    silent, other = Leases(store.database, "silent"), Leases(store.database, "other")
    silent.beat(0.0)
    beat = other.beat(0.0)[1]["silent"]
    other.bury("silent", beat)
    assert "silent" not in other.beat(0.0)[1]
    silent.beat(0.0)
    assert other.beat(0.0)[1]["silent"] != beat


def test_who_holds_a_job_is_on_the_list_of_servers(store: Store) -> None:
    alive, silent = Leases(store.database, "alive"), Leases(store.database, "silent")
    _submit(store, 1)
    _claim(silent)
    assert set(alive.beat(0.0)[1]) == {"silent"}


def test_a_cancelled_job_of_a_dead_server_is_not_started_again(store: Store) -> None:
    dead, alive = Leases(store.database, "dead"), Leases(store.database, "alive")
    job = _submit(store, 1)
    _claim(dead)
    store.cancel("ours", job.id)
    alive.bury("dead", alive.beat(0.0)[1]["dead"])
    assert store.find("ours", job.id).state == CANCELLED


def test_a_job_that_takes_every_server_with_it_is_given_up(store: Store) -> None:
    alive = Leases(store.database, "alive")
    job = _submit(store, 1)
    for start in range(MOST_STARTS):
        dead = Leases(store.database, f"dead {start}")
        assert _claim(dead).attempts == start + 1
        alive.bury(f"dead {start}", alive.beat(0.0)[1][f"dead {start}"])
    found = store.find("ours", job.id)
    assert found.state == FAILED and f"started {MOST_STARTS} times" in found.failure.message


def test_a_lost_worker_is_forgiven_once(store: Store) -> None:
    leases = Leases(store.database, "one")
    job = _submit(store, 1)
    lost = Outcome(QUEUED, failure=Status(code=Code.INTERNAL, message="killed"))
    states = [leases.finish(_claim(leases), lost) for _ in range(MOST_LOST)]
    assert states == [QUEUED, FAILED]
    found = store.find("ours", job.id)
    assert (found.attempts, found.failure.message, found.failure.code) == (2, "killed", Code.INTERNAL)


def test_a_job_that_is_given_back_counts_as_not_started(store: Store) -> None:
    leases = Leases(store.database, "one")
    job = _submit(store, 1)
    for _ in range(3 * MOST_STARTS):
        leases.give_back([_claim(leases)])
    found = store.find("ours", job.id)
    assert (found.state, found.attempts) == (QUEUED, 0)


def test_what_becomes_of_a_job_that_is_given_back_is_told(store: Store) -> None:
    leases = Leases(store.database, "one")
    cancelled, other = _submit(store, 1), _submit(store, 2)
    claims = [_claim(leases), _claim(leases)]
    store.cancel("ours", cancelled.id)
    assert leases.give_back(claims) == [CANCELLED, QUEUED]
    assert [store.find("ours", job.id).state for job in (cancelled, other)] == [CANCELLED, QUEUED]
    assert leases.give_back(claims) == [None, None]


def test_each_server_shows_for_how_long_it_may_be_silent(store: Store) -> None:
    Leases(store.database, "slow", 60.0).beat(0.0)
    Leases(store.database, "quick", 2.0).beat(0.0)
    others = Leases(store.database, "one").beat(0.0)[1]
    assert {owner: beat.lease for owner, beat in others.items()} == {"slow": 60.0, "quick": 2.0}


def test_progress_is_kept_from_who_holds_the_job_alone(store: Store) -> None:
    dead, alive = Leases(store.database, "dead"), Leases(store.database, "alive")
    job = _submit(store, 1)
    old = _claim(dead)
    dead.note({old: pb.Progress(seconds=1.0)})
    assert store.find("ours", job.id).progress.seconds == 1.0
    alive.bury("dead", alive.beat(0.0)[1]["dead"])
    assert not store.find("ours", job.id).HasField("progress")
    _claim(alive)
    dead.note({old: pb.Progress(seconds=2.0)})
    assert not store.find("ours", job.id).HasField("progress")


def test_ended_jobs_are_forgotten_by_time_served_whatever_the_clock_says(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = Leases(store.database, "one")
    _submit(store, 1)
    leases.beat(100.0)
    monkeypatch.setattr(time, "time", lambda: 4e9)  # a clock that has jumped by decades
    leases.finish(_claim(leases), _answer())
    old, waiting = store.page("ours", 9)[0], _submit(store, 2)
    monkeypatch.undo()
    assert leases.beat(50.0)[0] == 100.0  # a server that knows less learns
    assert leases.forget(100.0) == 0
    assert leases.forget(100.1) == 1
    assert [job.id for job in store.page("ours", 9)] == [waiting.id] != [old.id]


@pytest.mark.parametrize("seed", [0, 1])
def test_in_whatever_order_things_happen_each_job_ends_once(store: Store, seed: int) -> None:
    random = Random(seed)
    owners = [Leases(store.database, name) for name in ("one", "two", "three")]
    made, claims, ended = list[str](), list[tuple[Leases, Claim]](), dict[str, pb.Job]()

    def check() -> None:
        for job in store.page("ours", 1000):
            if job.state in ENDED:
                assert ended.setdefault(job.id, job) == job  # and stays as it ended
            else:
                assert job.id not in ended and job.attempts <= MOST_STARTS
        done = [job for job in ended.values() if job.state == DONE]
        assert all(store.result("ours", job.id)[1] for job in done)
        assert _rows(store, "equipoise_results") == sum(job.attempts > 0 for job in done)  # the others share theirs
        assert _rows(store, "equipoise_requests") == len(made) - len(ended)

    for step in range(300):
        owner = random.choice(owners)
        match random.choice(["submit", "claim", "claim", "finish", "finish", "lose", "give back", "cancel", "bury"]):
            case "submit":
                made.append(_submit(store, random.randrange(30)).id)
            case "claim" if (claim := owner.claim()) is not None:
                claims.append((owner, claim))
            case "finish" if claims:  # late, early, or a second time
                holder, claim = random.choice(claims)
                holder.finish(claim, _answer(whole=random.random() < 0.5))
            case "lose" if claims:
                holder, claim = random.choice(claims)
                holder.finish(claim, Outcome(QUEUED, failure=Status(code=13, message="lost")))
            case "give back" if claims:
                holder, claim = random.choice(claims)
                holder.give_back([claim])
            case "cancel" if made:
                store.cancel("ours", random.choice(made))
            case "bury":
                for name, beat in owner.beat(0.0)[1].items():
                    owner.bury(name, beat)
        if step % 20 == 0:
            check()
    last = owners[0]
    for name, beat in last.beat(0.0)[1].items():
        last.bury(name, beat)
    last.disown({seq: turn for seq, (turn, _) in last.held().items()})
    while (claim := last.claim()) is not None:
        assert last.finish(claim, _answer()) == DONE
    check()
    assert len(made) == len(set(made)) == len(ended) > 20
    assert {job.state for job in ended.values()} >= {DONE, CANCELLED}


# -- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["", "mysql://u:secret@h/d", "sqlite://", "sqlite:///:memory:", "postgresql+psycopg2"])
def test_an_address_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ServiceError, match="store") as error:
        Store(url)
    assert "secret" not in str(error.value)


def test_a_server_that_is_not_there_is_told_without_its_address(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be reached") as error:
        Store(f"postgresql://somebody:secret@/d?host={tmp_path}")
    assert error.value.code == Code.UNAVAILABLE
    assert "secret" not in str(error.value) and str(tmp_path) not in str(error.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "equipoise.sqlite"
    file.write_text("something else " * 1000)
    with pytest.raises(ServiceError, match="NOTADB"):
        Store(f"sqlite:///{file}")
    with pytest.raises(ServiceError, match="cannot be opened"):
        Store(f"sqlite:///{tmp_path}")


def test_tables_of_another_version_are_refused(store: Store, store_url: str) -> None:  # noqa: F811
    with store.database.writing() as connection:
        connection.execute(text("UPDATE equipoise_about SET version = 99"))
    with pytest.raises(ServiceError, match="version 99"):
        Store(store_url)


def test_many_servers_may_open_an_empty_database_at_once(store_url: str) -> None:  # noqa: F811
    with ThreadPoolExecutor(4) as threads:
        stores = list(threads.map(lambda _: Store(store_url), range(4)))
    for opened in stores:
        opened.close()


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/deep/folder/equipoise.sqlite")
    _submit(store)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "deep/folder").iterdir()}
    store.close()
    assert modes == {0o600}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "equipoise.sqlite"


def test_sqlite_writes_so_that_a_loss_of_power_loses_nothing(file: Path) -> None:
    store = Store(f"sqlite:///{file}")
    with store.database.writing() as connection:
        settings = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    store.close()
    assert settings == ["wal", 2, 1]


def test_a_locked_store_refuses_and_then_goes_on(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PATIENCE", 0.2)
    store = Store(f"sqlite:///{file}")
    job = _submit(store, 1)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Refused, match="is locked") as refused:
        _submit(store, 2)
    assert refused.value.code == Code.UNAVAILABLE and refused.value.retry_after
    assert store.find("ours", job.id) == job  # who only looks is not kept out
    other.execute("ROLLBACK")
    other.close()
    assert _submit(store, 2).state == QUEUED
    store.close()


def test_a_lock_that_is_held_in_postgresql_refuses_and_then_goes_on(
    postgresql: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database, "PATIENCE", 0.2)
    store = Store(fresh_database(postgresql))
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with store.database.writing():
            taken.set()
            done.wait(30)

    with ThreadPoolExecutor(1) as threads:
        holding = threads.submit(hold)
        assert taken.wait(30)
        with pytest.raises(Refused, match="is locked"):
            _submit(store, 1)
        assert store.page("ours", 9) == []
        done.set()
        holding.result()
    assert _submit(store, 1).state == QUEUED
    store.close()


def test_the_log_of_a_store_that_fails_holds_nothing_of_a_tenants(store: Store) -> None:
    leases = Leases(store.database, "one")
    _submit(store, 1)
    claim = _claim(leases)
    with store.database.writing() as connection:
        connection.execute(text("DROP TABLE equipoise_results"))
    with pytest.raises((DatabaseError, Refused)) as told:
        leases.finish(claim, replace(_answer(), result=b"SECRET PLAN" * 100))
    logged = f"{told.value} {told.value.__cause__}"
    assert "equipoise_results" in logged and "SECRET" not in logged


def test_a_full_disk_loses_nothing_that_was_acknowledged(file: Path) -> None:
    store = Store(f"sqlite:///{file}")

    def bound(connection: Any, pages: int) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}")

    engine = store.database._engine
    engine.dispose()
    event.listen(engine, "connect", lambda connection, _: bound(connection, 100))
    kept = list[str]()

    def fill() -> None:
        for number in range(1000):
            kept.append(_submit(store, number, request=bytes(10_000)).id)

    with pytest.raises(Refused, match="has no room") as refused:
        fill()
    assert refused.value.code == Code.UNAVAILABLE
    assert kept and {job.id for job in store.page("ours", 1000)} == set(kept)
    store.cancel("ours", kept[0])  # makes room
    assert _submit(store, 1000, request=bytes(5000)).state == QUEUED
    store.close()
