"""The fast algorithm for decode allocation against enumeration, the program and the rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import equipoise as eq
from equipoise.solvers.decode_bounds import counting_bound
from equipoise.solvers.decode_step import decode_step

from .decode_tasks import AHEAD, edges, random_spec, real_step
from .oracles import decode_allocation as oracle


def share_of_whole(spec: eq.DecodeAllocation, plan: Any, excess: float) -> float:
    """An excess relative to the weighted height of the plan, which no objective exceeds."""
    whole = float(spec.discount ** np.arange(len(spec.horizon)) @ plan.step_time)
    speed = 1.0 if spec.workers.speed is None else spec.workers.speed
    whole *= float(np.sum(np.ones(len(spec.workers)) * speed)) if spec.minimise == "imbalance" else 1.0
    return excess / whole if whole else 0.0


@pytest.mark.parametrize("block", range(8))
def test_every_plan_keeps_the_rules_and_few_are_off_the_optimum(block: int) -> None:
    excess: list[float] = []
    fewer = 0
    for seed in range(block * 50, block * 50 + 50):
        spec = random_spec(seed)
        best, plan = oracle.best(spec), eq.solve(spec, "fast")
        result = eq.check(spec, plan)
        assert result.ok, (seed, result.problems)
        assert result.trusted == ""
        admitted = int((plan.worker >= 0).sum())
        assert admitted <= best.admitted
        if admitted < best.admitted:
            assert spec.workers.kv_capacity is not None
            assert plan.certificate.status == "feasible"
            assert any("largest number" in note for note in plan.certificate.notes)
            fewer += 1
            continue
        room = 1e-9 * max(1.0, best.objective)
        assert plan.certificate.bound - room <= best.objective <= plan.certificate.objective + room, seed
        if plan.certificate.status == "optimal":
            assert plan.certificate.objective == pytest.approx(best.objective, rel=1e-9, abs=1e-9)
        excess.append(share_of_whole(spec, plan, plan.certificate.objective - best.objective))
    assert fewer <= 1
    assert np.mean(excess) < 0.005
    assert np.mean(np.array(excess) < 1e-9) >= 0.95


@settings(max_examples=150, deadline=None, derandomize=True)
@given(edges(workers=0, horizons=([0], [0, 2], [3], [9], [0, 100_000])))
def test_edges_keep_the_rules(spec: eq.DecodeAllocation) -> None:
    plan = eq.solve(spec, "fast")
    result = eq.check(spec, plan)
    assert result.ok, result.problems
    if len(spec.workers) and len(spec.horizon) < 2:
        best = oracle.best(spec).objective
        assert plan.certificate.objective >= best - 1e-9 or spec.workers.kv_capacity is not None


@pytest.mark.parametrize("seed", range(60))
def test_the_bound_is_the_one_that_the_spec_proves(seed: int) -> None:
    spec = random_spec(seed)
    plan = eq.solve(spec, "fast")
    number = int((plan.worker >= 0).sum())
    room = 1e-9 * max(1.0, plan.certificate.objective)
    assert plan.certificate.bound == pytest.approx(min(spec.bound(plan), plan.certificate.objective), abs=room)
    assert counting_bound(decode_step(spec), number) == pytest.approx(spec.bound(plan), rel=1e-9, abs=room)


@pytest.mark.parametrize("horizon", [[0], AHEAD])
def test_real_steps_are_within_a_fifth_of_a_percent_of_the_exact_optimum(horizon: list[int]) -> None:
    excess = []
    for seed in range(12):
        spec = real_step(seed, 6, ("step_time", "imbalance")[seed % 2], horizon=horizon)
        fast, exact = eq.solve(spec, "fast"), eq.solve(spec, "exact", backend="highs")
        assert exact.certificate.status == "optimal"
        assert fast.certificate.objective >= exact.certificate.objective * (1 - 1e-9)
        excess.append(fast.certificate.objective / exact.certificate.objective - 1)
    assert np.mean(excess) <= 0.002


def test_under_imbalance_several_workers_rise_together_where_no_single_move_pays() -> None:
    """Four workers with slots meet a thousand tokens above the heaviest of the others."""
    loads, free = [83891, 86799, 88033, 89038, 84887, 90428, 87315, 87221], np.array([3, 1, 0, 0, 1, 0, 1, 1])
    pool = [400, 1314, 212, 386, 1064, 1025, 4082, 120, 872, 178, 412, 1075, 376, 4087, 991, 181]
    pool += [1171, 409, 4081, 194, 387, 4080, 4083, 378, 2079, 4143, 1003, 393, 758, 1109, 420, 1094]
    spec = eq.DecodeAllocation(
        workers={"slots": free + 1},
        active={"worker": np.arange(8), "tokens": loads},
        waiting={"tokens": pool},
        objective="imbalance",
    )
    fast, exact = eq.solve(spec, "fast"), eq.solve(spec, "exact", backend="highs")
    assert fast.certificate.objective == exact.certificate.objective == 9680
    assert fast.step_time[0] > max(loads) + 900
    assert eq.check(spec, fast).ok


@pytest.mark.parametrize("horizon", [[0], [0, 8, 64]])
def test_imbalance_is_within_a_fifth_of_a_percent_where_the_admitted_can_be_chosen(horizon: list[int]) -> None:
    excess = []
    for seed in range(24):
        spec = real_step(seed, 4, horizon=horizon)
        fast, exact = eq.solve(spec, "fast").certificate, eq.solve(spec, "exact", backend="highs").certificate
        assert exact.status == "optimal"
        excess.append(fast.objective / exact.objective - 1)
    assert np.mean(excess) <= 0.002


def test_exact_goes_on_where_the_fast_answer_leaves_a_gap() -> None:
    spec = real_step(1, 4)
    fast, exact = eq.solve(spec, "fast"), eq.solve(spec, "exact")
    assert fast.certificate.gap > 1e-6
    assert fast.certificate.method == "fast: equipoise makespan search"
    assert exact.certificate.status == "optimal"
    assert "HiGHS" in exact.certificate.method
    assert exact.certificate.objective <= fast.certificate.objective


def test_the_same_spec_and_seed_give_the_same_plan() -> None:
    for seed in range(20):
        spec = real_step(seed)
        first = eq.solve(spec, "fast", seed=seed)
        again = [eq.solve(spec, "fast", seed=seed, threads=threads) for threads in (1, 2)]
        with eq.session(real_step(seed + 1), "fast", seed=seed) as session:
            session.step()
            again.append(session.step(**{name: getattr(spec, name) for name in ("active", "waiting")}))
        assert all(plan.worker.tolist() == first.worker.tolist() for plan in again)


@pytest.mark.parametrize("limit", [0.0, 1e-6, 0.001])
@pytest.mark.parametrize("memory", [None, 9000])
def test_a_time_limit_of_nearly_nothing_gives_a_plan(limit: float, memory: int | None) -> None:
    places = {"slots": [16] * 32} | ({} if memory is None else {"kv_capacity": [memory] * 32})
    spec = real_step(3, 32).replace(workers=places, active=[])
    plan = eq.solve(spec, "fast", time_limit=limit)
    assert eq.check(spec, plan).ok
    assert plan.certificate.bound <= plan.certificate.objective
    if limit == 0.0:
        assert plan.certificate.stopped == "time limit"


def test_more_time_never_gives_a_worse_plan() -> None:
    for seed in range(10):
        spec = real_step(seed, 32)
        short, long = (eq.solve(spec, "fast", time_limit=limit).certificate.objective for limit in (0.0, 10.0))
        assert long <= short * (1 + 1e-9)


def test_an_overdue_request_far_back_in_the_queue_draws_a_line() -> None:
    """By priority the overdue one comes last: admitted, or nobody behind it is; either may be best."""
    for tokens in ([5, 90, 1], [5, 6, 100]):
        spec = eq.DecodeAllocation(
            workers={"slots": [2]},
            waiting={"tokens": [*tokens, 3], "waited": [0, 0, 64, 0], "priority": [2, 2, 1, 0]},
            horizon=[0],
        )
        plan = eq.solve(spec, "fast")
        assert eq.check(spec, plan).ok
        assert plan.certificate.objective == pytest.approx(oracle.best(spec).objective)


def test_faster_workers_are_given_more() -> None:
    spec = eq.DecodeAllocation(
        workers={"slots": [8, 8], "speed": [3.0, 1.0]}, waiting={"tokens": [100] * 8}, horizon=[0], growth=0.0
    )
    plan = eq.solve(spec, "fast")
    assert np.bincount(plan.worker).tolist() == [6, 2]
    assert plan.certificate.status == "optimal"


def test_a_prefix_cache_draws_its_request() -> None:
    spec = eq.DecodeAllocation(
        workers={"slots": [1, 1, 1]},
        waiting={"tokens": [100, 100, 100], "affinity": [[0, 0, 90], [90, 0, 0], [0, 90, 0]]},
        horizon=[0],
    )
    plan = eq.solve(spec, "fast")
    assert plan.worker.tolist() == [2, 0, 1]
    assert plan.load.tolist() == [[10], [10], [10]]


def test_draining_workers_are_weighed_and_given_nothing() -> None:
    spec = real_step(5, 8)
    slots = np.where(np.arange(8) < 4, 3, 30)
    spec = spec.replace(workers={"slots": slots})
    plan = eq.solve(spec, "fast")
    assert eq.check(spec, plan).ok
    assert (plan.worker[plan.worker >= 0] >= 4).all()
    assert (plan.worker >= 0).any()


def test_memory_limits_beyond_64_bits_are_left_to_the_program() -> None:
    spec = eq.DecodeAllocation(
        workers={"slots": [2], "kv_capacity": [10**6]},
        waiting={"tokens": [1000]},
        growth=0.123456789012345,
        horizon=[7],
    )
    with pytest.raises(eq.UnsupportedError, match="64 bits"):
        eq.solve(spec, "fast")
    assert eq.solve(spec).worker.tolist() == [0]


def test_under_memory_limits_a_step_that_admits_more_wins_over_a_lighter_one() -> None:
    """The longest first leave room for one more only after they have been moved; whatever `fast` finds, `exact`
    admits as many as there can be."""
    for seed in range(40):
        random = np.random.default_rng(seed)
        spec = eq.DecodeAllocation(
            workers={"slots": [3, 3], "kv_capacity": random.integers(60, 120, 2)},
            waiting={"tokens": random.integers(10, 60, 6)},
            horizon=[0],
            growth=0.0,
        )
        fast, exact, best = eq.solve(spec, "fast"), eq.solve(spec, "exact"), oracle.best(spec)
        assert (exact.worker >= 0).sum() == best.admitted
        assert exact.certificate.objective == pytest.approx(best.objective)
        assert eq.check(spec, fast).ok
