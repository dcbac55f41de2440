"""Decode allocation: the exact method against enumeration, its shortcuts, the real step, time limits, sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import equipoise as eq
from equipoise.solvers.baselines import baselines
from equipoise.solvers.formulations import decode_allocation as program

from .decode_tasks import EXAMPLES, edges, hold_against_enumeration, random_spec, real_step


@pytest.mark.parametrize("block", range(12))
def test_exact_equals_enumeration(block: int) -> None:
    admitted = [
        (hold_against_enumeration(random_spec(seed)).worker >= 0).sum() for seed in range(block * 25, block * 25 + 25)
    ]
    assert sum(admitted) > 25


def test_the_counting_bound_closes_many_small_steps() -> None:
    proofs = [eq.solve(random_spec(seed), "exact", backend="highs").certificate.proof for seed in range(100)]
    assert proofs.count("threshold") > 20


def test_a_step_that_the_presolve_of_highs_1_14_gets_wrong() -> None:
    spec = eq.DecodeAllocation(
        workers={"slots": [3, 1], "kv_capacity": [35, 31], "speed": [0.5, 0.5]},
        waiting={"tokens": [5, 5, 5, 8], "remaining": [5, 11, 7, 3]},
        horizon=[1, 5],
        discount=1.0,
        growth=0.0,
        admission="fifo",
    )
    assert hold_against_enumeration(spec).certificate.objective == 46


class Plain(program.DecodeProgram):
    """The program without its shortcuts."""

    drops_dominated = False
    orders_twins = False


@pytest.mark.parametrize("kv", [False, True])
@pytest.mark.parametrize("admission", ["window", "fifo"])
def test_shortcuts_leave_the_optimum_where_it_is(admission: str, kv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps with idle and with equally loaded workers, so that twins and dominated requests are many."""
    random = np.random.default_rng([7, kv])
    specs = []
    for _ in range(12):
        workers, size = int(random.integers(2, 5)), random.choice([10, 40, 90], 12)
        places: dict[str, Any] = {"slots": [3] * workers}
        if kv:
            places["kv_capacity"] = random.choice([150, 200], workers)
        waiting = {"tokens": size, "remaining": random.integers(1, 9, 12), "waited": [9, 9, *[0] * 10]}
        active = {"worker": np.arange(workers - 1), "tokens": [50] * (workers - 1)}
        specs.append(
            eq.DecodeAllocation(
                workers=places, active=active, waiting=waiting, horizon=[0, 4], admission=admission, max_bypass=9
            )
        )
    short = [eq.solve(spec, "exact", backend="highs") for spec in specs]
    width = [sum(form(spec).formulate().columns for spec in specs) for form in (program.DecodeProgram, Plain)]
    assert width[0] < width[1]
    monkeypatch.setattr(program, "FORMULATION", Plain)
    for spec, plan in zip(specs, short, strict=True):
        whole = eq.solve(spec, "exact", backend="highs")
        assert plan.certificate.objective == pytest.approx(whole.certificate.objective, rel=1e-9)
        assert (plan.worker >= 0).sum() == (whole.worker >= 0).sum()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(edges())
def test_edges_equal_enumeration(spec: eq.DecodeAllocation) -> None:
    hold_against_enumeration(spec)


@pytest.mark.parametrize("fields", [{"workers": [], "waiting": []}, {"workers": [], "waiting": {"tokens": [3]}}])
def test_a_plan_without_workers_is_saved_and_read(fields: dict[str, Any], tmp_path: Path) -> None:
    spec = eq.DecodeAllocation(**fields)
    plan = eq.solve(spec)
    assert plan.worker.tolist() == [-1] * len(spec.waiting)
    assert plan.certificate.gap == 0
    for suffix in ("json", "safetensors"):
        eq.save(plan, tmp_path / f"plan.{suffix}", spec=spec)
        bundle = eq.load_bundle(tmp_path / f"plan.{suffix}")
        assert bundle.spec == spec
        assert eq.check(spec, bundle.plan).ok


@pytest.mark.parametrize(
    ("admission", "optimum"), [("window", 266828.1497), ("fifo", 269331.6097)]
)  # both measured by an independent program
def test_the_real_step_reaches_its_measured_optimum(admission: str, optimum: float) -> None:
    spec = eq.load(EXAMPLES / "decode_allocation.yaml").replace(admission=admission)
    plan = eq.solve(spec, "exact", backend="highs", time_limit=60)
    assert plan.certificate.status == "optimal"
    assert plan.certificate.objective == pytest.approx(optimum, rel=1e-9)
    assert eq.check(spec, plan).ok
    first = baselines("decode_allocation")["first come first served"](spec)
    assert spec.objective(first) == pytest.approx(293251.8477, rel=1e-9)


def test_baselines_keep_the_rules_and_never_beat_the_optimum() -> None:
    for seed in range(100):
        spec = random_spec(seed)
        optimum = eq.solve(spec, "exact")
        for name, rule in baselines("decode_allocation").items():
            plan: Any = rule(spec)
            careless = name not in ("first come first served", "join shortest queue by tokens")
            if not (careless and spec.workers.kv_capacity is not None) and not name.startswith(("BF-IO", "Balance")):
                assert list(spec.rules(plan)) == [], (seed, name)
            if (plan.worker >= 0).sum() == (optimum.worker >= 0).sum() and not list(spec.rules(plan)):
                assert spec.objective(plan) >= optimum.certificate.objective - 1e-9


@pytest.mark.parametrize("memory", [None, 5000])
def test_a_time_limit_gives_a_plan_and_a_finite_gap(memory: int | None) -> None:
    """Empty workers and a full queue: nothing is proved optimal in so short a time."""
    places = {"slots": [4] * 16} | ({} if memory is None else {"kv_capacity": [memory] * 16})
    spec = eq.load(EXAMPLES / "decode_allocation.yaml").replace(workers=places, active=[])
    for limit in (0.0, 0.3):
        plan = eq.solve(spec, "exact", backend="highs", time_limit=limit)
        assert plan.certificate.status == "feasible"
        assert plan.certificate.stopped == "time limit"
        assert 0 < plan.certificate.gap < 1
        assert eq.check(spec, plan).ok
        told = any("not proved to be the largest number" in note for note in plan.certificate.notes)
        assert told == (memory is not None)


def test_a_search_that_finds_nothing_in_time_answers_with_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    import highspy

    monkeypatch.setattr(highspy.Highs, "setSolution", lambda *_: None)
    spec = eq.load(EXAMPLES / "decode_allocation.yaml").replace(active=[])
    plan = eq.solve(spec, backend="highs", time_limit=0.0)
    assert "no time to search" in plan.certificate.notes[0]
    assert plan.certificate.gap < 1
    assert eq.check(spec, plan).ok


def test_a_small_request_behind_an_overdue_one_cannot_stand_in_for_one_ahead_of_it() -> None:
    spec = eq.DecodeAllocation(
        workers={"slots": [1]},
        waiting={"tokens": [5, 100, 1], "waited": [0, 64, 0], "priority": [1, 0, 0]},
        horizon=[0],
    )
    assert hold_against_enumeration(spec).worker.tolist() == [0, -1, -1]


def test_a_long_horizon_is_solved_to_the_last_digit_that_its_weights_leave() -> None:
    spec = random_spec(2).replace(horizon=4095, discount=0.7)
    plan = eq.solve(spec, "exact", backend="highs")
    assert plan.load.shape == (len(spec.workers), 4096)
    assert plan.certificate.gap < 1e-9
    assert eq.check(spec, plan).ok


def test_a_step_too_large_for_the_exact_program_is_refused_at_once() -> None:
    spec = eq.DecodeAllocation(
        workers={"slots": [1] * 200, "speed": np.linspace(1, 2, 200)},
        waiting={"tokens": np.arange(200)},
        horizon=4095,
        discount=1.0,
    )
    with pytest.raises(eq.UnsupportedError, match="name fewer steps"):
        eq.solve(spec, backend="highs")


def test_a_session_takes_a_queue_of_another_length() -> None:
    spec = eq.load(EXAMPLES / "decode_allocation.yaml")
    with eq.session(spec, "exact") as session:
        first = session.step()
        assert session.step(waiting=[]).worker.tolist() == []
        fields = spec.fields()["waiting"]
        half = session.step(waiting={name: column[:32] for name, column in fields.items()})
        assert half.certificate.objective >= first.certificate.objective
        assert session.step(waiting=fields).certificate.objective == first.certificate.objective


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("objective", ["step_time", "imbalance"])
def test_a_time_limit_that_is_not_near_changes_nothing(objective: Any, seed: int) -> None:
    spec = real_step(seed, workers=16, objective=objective, horizon=[0, 4, 16])
    assert eq.solve(spec, method="fast", time_limit=600.0) == eq.solve(spec, method="fast")
