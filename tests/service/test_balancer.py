"""Solve, Check and the kinds over the wire: the same answers and the same errors as in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest
from grpc_status import rpc_status

import equipoise as eq
from equipoise.server.protocol import equipoise_pb2 as pb
from equipoise.server.protocol import failures, wire
from equipoise.specs.saving import detach
from equipoise.specs.spec import Plan, Spec

from .running import Raw, Running, running, solve_request

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "specs" / "examples").glob("**/*.yaml"))
LIMITS = wire.Limits()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("data")) as started:
        yield started


@pytest.fixture(scope="module")
def raw(server: Running) -> Iterator[Raw]:
    caller = Raw(server.address)
    yield caller
    caller.close()


def without_times(plan: Plan) -> dict[str, Any]:
    """A plan with all that its certificate says, but for what depends on the clock."""
    timed = {"seconds": 0.0, "notes": tuple(note for note in plan.certificate.notes if "compiled" not in note)}
    return {**plan.fields(), "certificate": plan.certificate.model_copy(update=timed).document()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two documents hold the same values, arrays bit for bit."""
    (slim, arrays), (others, other_arrays) = detach(one), detach(other)
    alike = arrays.keys() == other_arrays.keys() and slim == others
    return alike and all(array.tobytes() == other_arrays[name].tobytes() for name, array in arrays.items())


def hard(number: int = 0) -> eq.DecodeAllocation:
    """A task that takes a search of minutes: which of 96 requests go where, on twelve empty workers."""
    rng = np.random.default_rng(number)
    waiting = {
        "tokens": rng.integers(1000, 9000, 96),
        "remaining": rng.integers(1, 900, 96),
        "waited": np.zeros(96, int),
    }
    return eq.DecodeAllocation(
        workers={"slots": np.full(12, 8)}, active={"worker": [], "tokens": [], "remaining": []}, waiting=waiting
    )


def small(number: int) -> eq.RolloutBudgets:
    """A task that is solved in a moment, another one for each number."""
    return eq.RolloutBudgets(prompts={"successes": [0, 3, 8], "trials": [8, 8, 8]}, total=24 + number)


@pytest.mark.parametrize("method", ["auto", "exact", "fast"])
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_plan_is_that_of_this_process_bit_for_bit(raw: Raw, path: Path, method: Any) -> None:
    spec = eq.load(path)
    plan = wire.read_plan(raw.solve(spec, method=method).plan, LIMITS)
    assert same(without_times(plan), without_times(eq.solve(spec, method=method)))


def test_a_repeated_request_is_answered_with_the_stored_certificate(raw: Raw) -> None:
    first, second = raw.solve(small(0)), raw.solve(small(0))
    assert (first.source, second.source) == (pb.SOURCE_SOLVED, pb.SOURCE_CACHED)
    assert second.plan == first.plan


@pytest.mark.parametrize("options", [{"method": "exact"}, {"seed": 1}, {"gap": 0.5}, {"backend": "highs"}])
def test_other_options_are_another_request(raw: Raw, options: dict[str, Any]) -> None:
    raw.solve(small(1))
    assert raw.solve(small(1), **options).source == pb.SOURCE_SOLVED


def test_a_time_limit_that_did_not_matter_makes_no_other_request(raw: Raw) -> None:
    raw.solve(small(2))
    assert raw.solve(small(2), time_limit=60.0).source == pb.SOURCE_CACHED


def test_no_plan_is_a_result_which_is_stored_too(raw: Raw) -> None:
    spec = eq.RolloutBudgets(prompts={"successes": [0, 3], "trials": [8, 8]}, total=3)
    with pytest.raises(eq.InfeasibleError) as local:
        eq.solve(spec)
    first, second = raw.solve(spec), raw.solve(spec)
    assert (first.source, second.source) == (pb.SOURCE_SOLVED, pb.SOURCE_CACHED)
    assert first.infeasible == second.infeasible == failures.infeasible(local.value)
    remote = failures.read_infeasible(first.infeasible)
    assert (str(remote), remote.fields, remote.change) == (
        str(local.value),
        local.value.fields,
        local.value.change,
    )


def test_a_bad_spec_names_its_fields_in_the_status(raw: Raw) -> None:
    fields = {"kind": "rollout_budgets", "prompts": {"successes": [9], "trials": [8]}, "total": -1}
    request = b"".join(wire.field(1, wire.document(fields)))
    with pytest.raises(grpc.RpcError) as caught:
        raw.channel.unary_unary("/equipoise.v1.Balancer/Solve")(request, timeout=30)
    status = rpc_status.from_call(caught.value)  # pyright: ignore[reportArgumentType]
    assert status is not None and status.code == Code.INVALID_ARGUMENT
    violations = BadRequest()
    assert any(detail.Unpack(violations) for detail in status.details if detail.Is(violations.DESCRIPTOR))
    with pytest.raises(eq.SpecError) as local:
        eq.RolloutBudgets(**fields)
    assert [violation.field for violation in violations.field_violations] == [
        problem.field for problem in local.value.problems
    ]


def test_errors_come_back_as_they_are_raised_here(raw: Raw) -> None:
    fields = {"kind": "rollout_budgets", "prompts": {"successes": [9], "trials": [8]}, "total": -1}
    with pytest.raises(eq.SpecError) as local:
        eq.RolloutBudgets(**fields)
    with pytest.raises(eq.SpecError) as remote:
        raw.send("Balancer/Solve", b"".join(wire.field(1, wire.document(fields))))
    assert remote.value.problems == local.value.problems


def test_a_spec_may_not_refer_to_files_of_the_server(raw: Raw) -> None:
    fields = {"kind": "expert_assignment", "scores": {"file": "/etc/passwd"}, "experts_per_token": 1}
    with pytest.raises(eq.SpecError, match="files are not read for a remote caller"):
        raw.send("Balancer/Solve", b"".join(wire.field(1, wire.document(fields))))


@pytest.mark.parametrize("solver", ["sh", "asl:sh", "../../bin/sh", "gurobi;sh"])
def test_pyomo_runs_no_program_of_a_strangers_choice(raw: Raw, solver: str) -> None:
    with pytest.raises(eq.UnsupportedError, match="is not served"):
        raw.solve(small(3), backend=f"pyomo:{solver}")


def test_a_deadline_is_a_time_limit(raw: Raw) -> None:
    plan = wire.read_plan(raw.solve(hard(), method="exact", timeout=1.5).plan, LIMITS)
    assert plan.certificate.stopped == "time limit"
    assert plan.certificate.time_limit is not None and plan.certificate.time_limit < 1.5
    assert eq.check(hard(), plan).ok


def test_an_answer_that_a_deadline_cut_short_is_not_kept(raw: Raw) -> None:
    raw.solve(hard(1), method="exact", timeout=1.0)
    again = raw.solve(hard(1), method="exact", timeout=1.0)
    assert again.source == pb.SOURCE_SOLVED


def test_identical_requests_in_flight_are_solved_once(server: Running, raw: Raw) -> None:
    found: list[pb.SolveResponse] = []

    def ask(wait: float) -> None:
        time.sleep(wait)
        while True:  # on a busy machine the server may ask for another try
            try:
                found.append(raw.solve(hard(2), method="exact", time_limit=4.0))
            except failures.Refused as refusal:
                if refusal.reason != "OVERLOADED" or refusal.retry_after is None:
                    raise
                time.sleep(refusal.retry_after)
            else:
                return

    threads = [threading.Thread(target=ask, args=(0.05 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(response.source for response in found) == [pb.SOURCE_SOLVED] + 3 * [pb.SOURCE_SHARED]
    assert len({response.plan.SerializeToString(deterministic=True) for response in found}) == 1


def test_a_caller_who_leaves_takes_nobodys_answer_along(raw: Raw) -> None:
    request = solve_request(hard(3), method="exact", time_limit=2.0)
    call = raw.channel.unary_unary("/equipoise.v1.Balancer/Solve")
    first = call.future(request, timeout=30)
    time.sleep(0.5)
    second = call.future(request, timeout=30)
    time.sleep(0.2)
    first.cancel()
    assert pb.SolveResponse.FromString(second.result()).plan.certificate.status in ("feasible", "optimal")


def test_a_caller_who_leaves_frees_the_worker(server: Running, raw: Raw) -> None:
    call = raw.channel.unary_unary("/equipoise.v1.Balancer/Solve").future(
        solve_request(hard(4), method="exact"), timeout=60
    )
    _until(lambda: server.server.workers.running == 1)
    call.cancel()
    _until(lambda: server.server.workers.running == 0)


def test_a_caller_who_leaves_before_a_thread_is_free_strands_nobody(tmp_path: Path) -> None:
    request = solve_request(hard(5), method="fast")
    with running(tmp_path, threads=1) as server:
        held = threading.Event()
        server.server.engine.threads.submit(held.wait, 20)
        caller = Raw(server.address)
        call = caller.channel.unary_unary("/equipoise.v1.Balancer/Solve")
        first, second = call.future(request, timeout=20), call.future(request, timeout=20)
        time.sleep(0.2)
        first.cancel()
        time.sleep(0.1)
        held.set()
        assert pb.SolveResponse.FromString(second.result()).HasField("plan")
        caller.close()


def test_the_deadline_of_one_caller_does_not_end_the_solve_of_another(raw: Raw) -> None:
    request = solve_request(hard(6), method="exact", time_limit=2.5)
    call = raw.channel.unary_unary("/equipoise.v1.Balancer/Solve")
    hasty, patient = call.future(request, timeout=1.0), call.future(request, timeout=30)
    plan = wire.read_plan(pb.SolveResponse.FromString(patient.result()).plan, LIMITS)
    assert plan.certificate.stopped == "time limit" and plan.certificate.time_limit == 2.5
    hasty.cancel()


def test_a_tenant_is_counted_until_the_thread_that_works_for_it_is_free(tmp_path: Path) -> None:
    with running(tmp_path, threads=1) as server:
        engine, tenant = server.server.engine, server.server.tenants.authenticate(())
        held = threading.Event()
        caller = Raw(server.address)
        engine.quick = lambda spec: False
        engine._fly = lambda request, spec: held.wait(20)
        future = caller.channel.unary_unary("/equipoise.v1.Balancer/Solve").future(solve_request(small(7)), timeout=20)
        _until(lambda: tenant.calls == 1)
        future.cancel()
        time.sleep(0.3)
        assert tenant.calls == 1, "the thread is at work still"
        held.set()
        _until(lambda: tenant.calls == 0)
        caller.close()


def test_calls_without_a_document_are_short(raw: Raw) -> None:
    request = pb.DescribeKindRequest(kind="x" * 20_000).SerializeToString()
    with pytest.raises(failures.Refused, match="at most 16,384 are read"):
        raw.send("Balancer/DescribeKind", request)


def test_rows_without_numbers_are_rows(raw: Raw) -> None:
    message = pb.SolveRequest()
    message.spec.json = '{"kind": "expert_assignment", "scores": {"$tensor": "s"}, "experts_per_token": 1}'
    message.spec.tensors["s"].CopyFrom(pb.Tensor(dtype="uint8", shape=[2**29, 0]))
    with pytest.raises(eq.SpecError, match="at most 268,435,456 numbers"):
        raw.send("Balancer/Solve", message.SerializeToString())


def test_more_threads_than_the_server_has_are_not_given(raw: Raw) -> None:
    with pytest.raises(failures.Refused, match="may use") as caught:
        raw.solve(small(8), threads=200)
    assert caught.value.reason == "THREADS_QUOTA"


def _until(condition: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_check_says_what_check_says(raw: Raw) -> None:
    spec = small(5)
    plan = eq.solve(spec)
    bad = type(plan)(**{**plan.fields(), "rollouts": plan.rollouts + 1}).with_certificate(plan.certificate)
    for judged in (plan, bad):
        request = b"".join([*wire.field(1, wire.spec_fields(spec)), *wire.field(2, wire.plan_fields(judged))])
        message = pb.CheckResponse.FromString(raw.send("Balancer/Check", request))
        local = eq.check(spec, judged)
        assert tuple(message.problems) == local.problems
        assert (message.objective if message.HasField("objective") else None) == local.objective
        assert (message.violation, message.trusted) == (local.violation, local.trusted)


def test_kinds_are_listed_and_described(raw: Raw) -> None:
    listed = pb.ListKindsResponse.FromString(raw.send("Balancer/ListKinds", b""))
    assert {kind.name for kind in listed.kinds} >= {"expert_assignment", "rollout_budgets"}
    request = pb.DescribeKindRequest(kind="rollout_budgets").SerializeToString()
    described = pb.DescribeKindResponse.FromString(raw.send("Balancer/DescribeKind", request))
    assert '"prompts"' in described.spec_schema
    assert "kind: rollout_budgets" in described.example
    with pytest.raises(eq.SpecError, match="did you mean 'rollout_budgets'"):
        raw.send("Balancer/DescribeKind", pb.DescribeKindRequest(kind="rollout_budget").SerializeToString())


@pytest.mark.parametrize("junk", [b"junk", b"\xff" * 1000, b"\x0a\xff\xff\xff\x7f"])
def test_junk_is_refused(raw: Raw, junk: bytes) -> None:
    with pytest.raises(eq.SpecError, match=r"is not an equipoise\.v1\.SolveRequest"):
        raw.send("Balancer/Solve", junk)
    assert isinstance(raw.solve(small(6)), pb.SolveResponse)


def test_what_all_of_a_spec_needs_is_there(raw: Raw) -> None:
    """A request without anything is a request without a kind."""
    with pytest.raises(eq.SpecError):
        raw.send("Balancer/Solve", b"")


def test_every_kind_of_spec_is_served() -> None:
    assert {eq.load(path).kind for path in EXAMPLES} == set(eq.kinds())
    assert all(issubclass(spec, Spec) for spec in eq.kinds().values())
