"""The fast algorithm for decode allocation against enumeration, the program and the rules; and its machine code."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import equipoise as eq
from equipoise.solvers.algorithms import decode_allocation as algorithm
from equipoise.solvers.algorithms import makespan_bound, makespan_loads
from equipoise.solvers.decode_bounds import counting_bound
from equipoise.solvers.decode_step import decode_step

from .oracles import decode_allocation as oracle
from .test_decode_allocation import SETTINGS, random_spec


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


small = st.integers(0, 3)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    slots=st.lists(small, max_size=3),
    waiting=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4), small), max_size=4),
    active=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(1, 4)), max_size=4),
    capacity=st.none() | st.integers(0, 14),
    horizon=st.sampled_from([[0], [0, 2], [3], [9], [0, 100_000]]),
    setting=st.sampled_from(SETTINGS),
)
def test_edges_keep_the_rules(
    slots: list[int],
    waiting: list[tuple[int, int, int]],
    active: list[tuple[int, int, int]],
    capacity: int | None,
    horizon: list[int],
    setting: tuple[str, str],
) -> None:
    """No worker, nothing waiting, nothing active, no slot, ties everywhere, all overdue, all gone, memory full."""
    columns = list(zip(*waiting, strict=True)) or [(), (), ()]
    residents = list(zip(*active, strict=True)) if active and slots else [(), (), ()]
    places: dict[str, Any] = {"slots": slots}
    if capacity is not None:
        places["kv_capacity"] = [capacity] * len(slots)
    spec = eq.DecodeAllocation(
        workers=places,
        active={
            "worker": [worker % len(slots) for worker in residents[0]],
            "tokens": list(residents[1]),
            "remaining": list(residents[2]),
        },
        waiting={"tokens": list(columns[0]), "remaining": list(columns[1]), "waited": list(columns[2])},
        horizon=horizon,
        objective=setting[0],
        admission=setting[1],
        max_bypass=2,
    )
    plan = eq.solve(spec, "fast")
    result = eq.check(spec, plan)
    assert result.ok, result.problems
    if slots and len(horizon) < 2:
        assert plan.certificate.objective >= oracle.best(spec).objective - 1e-9 or capacity is not None


@pytest.mark.parametrize("seed", range(60))
def test_the_bound_is_the_one_that_the_spec_proves(seed: int) -> None:
    spec = random_spec(seed)
    plan = eq.solve(spec, "fast")
    number = int((plan.worker >= 0).sum())
    room = 1e-9 * max(1.0, plan.certificate.objective)
    assert plan.certificate.bound == pytest.approx(min(spec.bound(plan), plan.certificate.objective), abs=room)
    assert counting_bound(decode_step(spec), number) == pytest.approx(spec.bound(plan), rel=1e-9, abs=room)


AHEAD = [0, 4, 16, 64, 256, 1024]


def real_step(seed: int, workers: int = 8, objective: Any = "imbalance", **fields: Any) -> eq.DecodeAllocation:
    """Busy workers, level to within a request, and a pool of four requests per worker; weighed far ahead."""
    random = np.random.default_rng(seed)
    slots, free = 24, workers // 2 + 1
    worker = random.permutation(np.repeat(np.arange(workers), slots))[free:]
    waiting = 4 * workers
    return eq.DecodeAllocation(
        workers={"slots": [slots] * workers},
        active={
            "worker": worker,
            "tokens": random.lognormal(6.6, 0.5, len(worker)).astype(int),
            "remaining": random.geometric(1 / 200, len(worker)),
        },
        waiting={
            "tokens": random.lognormal(6.6, 1.0, waiting).astype(int) + 1,
            "remaining": random.geometric(1 / 200, waiting),
            "waited": np.arange(waiting)[::-1],
        },
        objective=objective,
        **{"horizon": AHEAD, **fields},
    )


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


def test_projection_counts_each_request_until_it_leaves() -> None:
    random = np.random.default_rng(8)
    worker, tokens = random.integers(0, 5, 300), random.integers(0, 10_000, 300)
    for horizon in (np.array([0]), np.array([0, 4, 16, 64]), np.array([3, 2**40])):
        for width in (0, 1, 2):
            remaining = np.sort(random.integers(1, 100, (300, max(width, 1))), axis=1)
            load, held = np.empty((len(horizon), 5)), np.empty(5, np.int64)
            flat = remaining.reshape(-1) if width else np.zeros(0, np.int64)
            makespan_loads.project(worker, tokens, flat, width, horizon, 0.5, load, held)
            there = (remaining[:, :, None] > horizon).mean(axis=1) if width else np.ones((300, len(horizon)))
            share, size = np.empty((len(horizon), 300)), np.empty((len(horizon), 300))
            makespan_loads.measure(tokens, flat, width, horizon, 0.5, share, size)
            grown = there * (tokens[:, None] + 0.5 * horizon)
            for point in range(len(horizon)):
                expected = np.bincount(worker, weights=grown[:, point], minlength=5)
                np.testing.assert_allclose(load[point], expected, rtol=1e-12)
            np.testing.assert_allclose(share, there.T)
            np.testing.assert_allclose(size, grown.T)
            assert held.tolist() == np.bincount(worker, minlength=5).tolist()


def test_a_search_in_slices_ends_where_no_move_helps() -> None:
    """The work that is left is looked at between moves, so that a search can be stopped and go on."""
    step = algorithm._step(real_step(11, 16))
    choice, order = algorithm._starts(step)[0]
    fee = np.zeros(len(step.queue))
    for work in (1, 2000):
        placement = algorithm.Placement(step)
        placement.begin(order, np.zeros(len(step.queue), np.bool_))
        slices, costs = 0, [placement.cost(fee)]
        while not placement.move(choice.fixed, fee, work):
            slices += 1
            costs.append(placement.cost(fee))
        assert slices > 2
        assert all(later <= before * (1 + 1e-12) for before, later in pairwise(costs))
        end = placement.worker.copy()
        assert placement.move(choice.fixed, fee, algorithm.ALL)
        assert placement.worker.tolist() == end.tolist()


def test_sums_keep_their_last_digits() -> None:
    """An imbalance of nothing is a difference of large numbers."""
    load = np.full((3, 1), 2.0**52) + np.arange(3.0)[:, None]
    height = np.array([2.0**52 + 2])
    assert makespan_bound.objective(np.ones(1), np.ones(3), height, load, True) == 3.0
