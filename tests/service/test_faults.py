"""What goes wrong in real life, done to a whole server: nothing is lost, nothing crashes, nothing piles up."""

from __future__ import annotations

import gc
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

import equipoise as eq
from equipoise.server.protocol import equipoise_pb2 as pb
from equipoise.server.protocol import failures, wire
from equipoise.specs.spec import Spec

from .running import Conversation, Raw, Running, running, serving, solve_request

LIMIT = 60.0
"""Seconds in which anything that is waited for must come true."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("data"), largest_message=2**20, largest_json=2**16) as started:
        yield started


@pytest.fixture
def raw(server: Running) -> Iterator[Raw]:
    caller = Raw(server.address)
    yield caller
    caller.close()


def until(condition: Any, seconds: float = LIMIT) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def small(number: int = 0) -> eq.RolloutBudgets:
    return eq.RolloutBudgets(
        prompts={"successes": [0, 3, 8], "trials": [8, 8, 8]}, total=24 + number % 50, name=str(number)
    )


def hard(number: int = 0) -> eq.DecodeAllocation:
    """A task that takes a search of minutes under `exact`."""
    rng = np.random.default_rng(number)
    waiting = {"tokens": rng.integers(1000, 9000, 96), "remaining": rng.integers(1, 900, 96)}
    return eq.DecodeAllocation(
        workers={"slots": np.full(12, 8)},
        active={"worker": [], "tokens": [], "remaining": []},
        waiting={**waiting, "waited": np.zeros(96, int)},
    )


def submitted(raw: Raw, spec: Spec[Any], **options: Any) -> pb.Job:
    request = solve_request(spec, **options)
    return pb.SubmitResponse.FromString(raw.send("Jobs/Submit", request)).job


def job(raw: Raw, identity: str) -> pb.GetResponse:
    return pb.GetResponse.FromString(raw.send("Jobs/Get", pb.GetRequest(id=identity).SerializeToString()))


def fine(raw: Raw) -> None:
    """The server answers as ever."""
    assert raw.solve(small(random.randrange(10**9))).WhichOneof("outcome") == "plan"


# -- processes that die ------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_costs_one_solve_and_no_more(server: Running, raw: Raw) -> None:
    call = raw.channel.unary_unary("/equipoise.v1.Balancer/Solve")
    future = call.future(solve_request(hard(), method="exact"), timeout=LIMIT)
    until(lambda: server.server.workers.running == 1)
    for pid in server.server.workers.pids():
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as caught:
        future.result()
    told = failures.from_call(caught.value)
    assert isinstance(told, failures.Refused) and told.reason == "WORKER_LOST" and "SIGKILL" in str(told)
    fine(raw)
    assert raw.solve(hard(1), method="exact", time_limit=0.5).WhichOneof("outcome") == "plan"


def test_a_job_whose_worker_is_killed_is_tried_once_more(server: Running, raw: Raw) -> None:
    identity = submitted(raw, hard(2), method="exact", time_limit=2.0).id
    until(lambda: server.server.workers.running == 1)
    for pid in server.server.workers.pids():
        os.kill(pid, signal.SIGKILL)
    until(lambda: job(raw, identity).job.state == pb.JOB_STATE_DONE)
    found = job(raw, identity)
    assert found.job.attempts == 2
    assert eq.check(hard(2), wire.read_plan(found.result.plan, wire.Limits())).ok


def test_a_server_that_is_killed_amid_a_hundred_jobs_finishes_them_all_after_a_restart(tmp_path: Path) -> None:
    flags = ("--listen", f"unix:{tmp_path}/socket", "--lease", "2")
    with serving(tmp_path, *flags) as (address, process):
        caller = Raw(address)
        kept = [submitted(caller, small(number)).id for number in range(100)]
        until(lambda: any(job(caller, identity).job.state == pb.JOB_STATE_DONE for identity in kept[:3]))
        process.send_signal(signal.SIGKILL)
        process.wait()
        caller.close()
    with serving(tmp_path, *flags) as (address, _):
        caller = Raw(address)
        until(lambda: all(job(caller, identity).job.state == pb.JOB_STATE_DONE for identity in kept))
        for number, identity in enumerate(kept):
            plan = wire.read_plan(job(caller, identity).result.plan, wire.Limits())
            assert plan == eq.solve(small(number))
        listed = pb.ListResponse.FromString(
            caller.send("Jobs/List", pb.ListRequest(page_size=1000).SerializeToString())
        )
        assert sorted(entry.id for entry in listed.jobs) == sorted(kept), "none lost, none twice"
        caller.close()


def test_no_worker_outlives_a_server_that_is_killed(tmp_path: Path) -> None:
    with serving(tmp_path, "--listen", "127.0.0.1:0") as (address, process):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children
        fine(Raw(address))
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(lambda: not any(Path(f"/proc/{child}/exe").exists() for child in children))


def test_a_server_that_is_told_to_stop_finishes_what_is_in_flight(tmp_path: Path) -> None:
    with serving(tmp_path, "--listen", "127.0.0.1:0", "--drain", "20") as (address, process):
        caller = Raw(address)
        call = caller.channel.unary_unary("/equipoise.v1.Balancer/Solve")
        future = call.future(solve_request(hard(3), method="exact", time_limit=2.0), timeout=LIMIT)
        time.sleep(0.7)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(eq.ServiceError):
            Raw(address).solve(small())
        assert pb.SolveResponse.FromString(future.result()).plan.certificate.stopped == "time limit"
        assert process.wait(LIMIT) == 0


# -- callers who behave badly ------------------------------------------------------------------------------------------


def test_a_caller_who_hangs_up_in_mid_stream_leaves_nothing_behind(server: Running) -> None:
    for number in range(20):
        caller = Raw(server.address)
        session = Conversation(caller)
        session.open(small(number))
        session.step(0)
        caller.close()
    until(lambda: server.server.sessions.number == 0)
    assert server.server.tenants.authenticate(()).calls == 0


def test_a_caller_who_never_reads_slows_nobody_else(server: Running, raw: Raw) -> None:
    session = Conversation(raw)
    session.open(eq.ExpertAssignment(scores=np.eye(256), experts_per_token=1))
    document = pb.Document.FromString(b"".join(wire.document({})))
    for number in range(200):  # answers of 8 KiB each that are never fetched
        step = pb.SessionRequest.Step(changes=document, revision=number)
        session._requests.put(pb.SessionRequest(step=step).SerializeToString())
    other = Raw(server.address)
    for _ in range(20):
        fine(other)
    other.close()
    session.call.cancel()
    until(lambda: server.server.sessions.number == 0)


def test_half_a_message_and_what_is_no_http_at_all(server: Running, raw: Raw) -> None:
    host, port = server.address.rsplit(":", 1)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for data in (
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        preface[:10],
        preface + bytes(5),
        preface + b"\xff" * 500,
        b"\x16\x03",
    ):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(data)
    fine(raw)


def test_a_message_beyond_the_limit_is_refused_before_it_is_read(raw: Raw) -> None:
    with pytest.raises(eq.ServiceError) as caught:
        raw.send("Balancer/Solve", bytes(2**20 + 1))
    assert isinstance(caught.value, failures.Refused) and "larger" in str(caught.value).lower()
    fine(raw)


def test_an_array_that_claims_more_than_is_there_takes_no_memory(raw: Raw) -> None:
    message = pb.SolveRequest()
    message.spec.json = '{"kind": "expert_assignment", "scores": {"$tensor": "s"}, "experts_per_token": 1}'
    message.spec.tensors["s"].CopyFrom(pb.Tensor(dtype="float64", shape=[2**14, 2**14], data=b""))
    with pytest.raises(eq.SpecError, match="has 0 bytes, but"):
        raw.send("Balancer/Solve", message.SerializeToString())


# -- junk --------------------------------------------------------------------------------------------------------------


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed, cut out or put in."""
    junk = bytearray(data)
    for _ in range(rng.randrange(1, 8)):
        place = rng.randrange(len(junk) + 1)
        match rng.randrange(4):
            case 0:
                junk[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                del junk[place : place + rng.randrange(1, 20)]
            case 2:
                junk[place:place] = rng.randbytes(rng.randrange(1, 20))
            case _:
                junk[place : place + 4] = b"\xff\xff\xff\x7f"
    return bytes(junk)


def test_a_hundred_thousand_junk_messages_raise_what_junk_raises() -> None:
    """Parsing and validation, without the network: they run on every byte that a stranger sends."""
    rng = random.Random(0)
    seeds = [
        solve_request(small()),
        solve_request(eq.ExpertAssignment(scores=np.eye(3), experts_per_token=1)),
        solve_request(hard()),
        rng.randbytes(200),
    ]
    limits = wire.Limits(json_bytes=2**16, numbers=2**16)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(100_000):
        junk = mutated(rng, rng.choice(seeds))
        try:
            message = pb.SolveRequest.FromString(junk)
        except DecodeError:
            continue
        try:
            wire.read_options(message.options)
            wire.read_task(message.spec, limits)
            outcomes["read"] += 1
        except eq.EquipoiseError as error:
            failures.to_status(error).SerializeToString()
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 1000, "both ways were tried"


def test_junk_over_the_wire_is_refused_and_the_server_goes_on(server: Running, raw: Raw) -> None:
    rng = random.Random(1)
    seed = solve_request(small())
    rpcs = [f"Balancer/{name}" for name in ("Solve", "Check", "ListKinds", "DescribeKind")]
    rpcs += [f"Jobs/{name}" for name in ("Submit", "Get", "List", "Cancel", "Delete")]
    reasons = set[str]()
    for _ in range(3000):
        try:
            raw.send(rng.choice(rpcs), mutated(rng, seed), timeout=20)
        except eq.EquipoiseError as error:
            reasons.add(getattr(error, "reason", "SPEC"))
    assert not reasons & {"INTERNAL", "UNKNOWN"}
    fine(raw)


@given(
    document=some.recursive(
        some.none()
        | some.booleans()
        | some.integers()
        | some.floats(allow_nan=False, allow_infinity=False)
        | some.text(),
        lambda inner: some.lists(inner, max_size=5) | some.dictionaries(some.text(max_size=10), inner, max_size=5),
        max_leaves=20,
    ),
    kind=some.sampled_from(["rollout_budgets", "expert_assignment", "decode_allocation", "collection_budgets"]),
    field=some.sampled_from(
        ["prompts", "scores", "workers", "waiting", "groups", "total", "budget", "name", "capacity"]
    ),
)
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_document_is_a_spec_or_a_spec_error(document: Any, kind: str, field: str) -> None:
    import json

    text = json.dumps({"kind": kind, field: document})
    try:
        wire.read_task(pb.Document(json=text), wire.Limits())
    except eq.SpecError as error:
        failures.to_status(error).SerializeToString()


# -- leaks -------------------------------------------------------------------------------------------------------------


def resident(pid: int) -> float:
    """MiB that a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_ten_thousand_sessions_leave_memory_and_descriptors_level(tmp_path: Path) -> None:
    with serving(tmp_path, "--listen", f"unix:{tmp_path}/socket", "--log-level", "warning") as (address, process):

        def visit(times: int) -> None:
            caller = Raw(address)
            for number in range(times):
                session = Conversation(caller)
                session.open(small())
                assert session.step(0, total=24 + number % 50).WhichOneof("response") == "plan"
                session.end()
                for _ in session.call:
                    pass
            caller.close()

        def together(times: int) -> None:
            callers = [threading.Thread(target=visit, args=(times // 4,)) for _ in range(4)]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()

        together(2000)
        time.sleep(1)
        before = resident(process.pid), descriptors(process.pid)
        together(8000)
        time.sleep(1)
        gc.collect()
        after = resident(process.pid), descriptors(process.pid)
        assert after[1] <= before[1] + 5
        assert after[0] <= before[0] + 20, "8000 sessions may not add 20 MiB"
