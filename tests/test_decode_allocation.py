"""Decode allocation: the exact method against enumeration, the edges, the real step, tampering, time limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import equipoise as eq
from equipoise.solvers.baselines import baselines
from equipoise.solvers.decode_bounds import counting_bound
from equipoise.solvers.decode_step import decode_step
from equipoise.solvers.formulations import decode_allocation as program
from equipoise.specs.decode_allocation import DecodePlan

from .oracles import decode_allocation as oracle

EXAMPLES = Path(eq.__file__).parent / "specs" / "examples"
SETTINGS = [(objective, admission) for objective in ("step_time", "imbalance") for admission in ("window", "fifo")]
SIZES = [[0, 1, 2, 3, 4], [5, 5, 8], [100, 400, 900, 4000]]


def random_spec(seed: int) -> eq.DecodeAllocation:
    """A small step: both objectives and admissions in turn, the rest by chance. All numbers are multiples of ¼."""
    random = np.random.default_rng(seed)
    workers, waiting, active = (int(random.integers(low, high)) for low, high in ((2, 5), (1, 7), (0, 6)))
    waiting = min(waiting, 5) if workers == 4 else waiting
    objective, admission = SETTINGS[seed % 4]
    sizes = SIZES[int(random.integers(3))]

    def chance(share: float) -> bool:
        return bool(random.random() < share)

    def remaining(rows: int) -> Any:
        if chance(0.2):
            return None
        return np.sort(random.integers(1, 12, (rows, 2)), axis=1) if chance(0.3) else random.integers(1, 12, rows)

    places: dict[str, Any] = {"slots": random.integers(0, 5, workers)}
    table: dict[str, Any] = {"tokens": random.choice(sizes, waiting), "remaining": remaining(waiting)}
    if chance(0.5):
        places["kv_capacity"] = random.integers(0, 4 * max(sizes) + 8, workers)
    if chance(0.3):
        places["speed"] = random.choice([0.5, 1.0, 2.0], workers)
    if chance(0.5):
        table["waited"] = random.integers(0, 6, waiting)
    if chance(0.3):
        table["priority"] = random.choice([-1.0, 0.0, 2.5], waiting)
    if chance(0.3):
        table["affinity"] = np.floor(table["tokens"][:, None] * random.random((waiting, workers)) * 2) / 2
    return eq.DecodeAllocation(
        workers=places,
        active={
            "worker": random.integers(0, workers, active),
            "tokens": random.choice(sizes, active),
            "remaining": remaining(active),
        },
        waiting=table,
        horizon=[[0, 2, 8], [0], [1, 5], 3][int(random.integers(4))],
        discount=float(random.choice([0.5, 0.7, 1.0])),
        growth=float(random.choice([0.0, 0.5, 1.0, 2.5])),
        objective=objective,
        admission=admission,
        max_bypass=int(random.integers(1, 6)),
    )


def hold_against_enumeration(spec: eq.DecodeAllocation) -> DecodePlan:
    """Solve a small step and hold everything about the answer against the enumeration."""
    best, plan = oracle.best(spec), eq.solve(spec, "exact", backend="highs")
    quick = eq.solve(spec, "exact")  # our own search first, and the program where that leaves a gap
    assert int((quick.worker >= 0).sum()) == best.admitted
    assert quick.certificate.objective == pytest.approx(best.objective, rel=1e-9, abs=1e-9)
    assert quick.certificate.status == "optimal"
    assert eq.check(spec, quick).ok
    assert int((plan.worker >= 0).sum()) == best.admitted
    assert plan.certificate.objective == pytest.approx(best.objective, rel=1e-9, abs=1e-9)
    assert plan.certificate.status == "optimal"
    result = eq.check(spec, plan)
    assert result.ok, result.problems
    room = 1e-9 * max(1.0, best.objective)
    assert result.bound is not None
    assert result.bound <= best.objective + room
    assert spec.bound(decode_step(spec).report(np.full(len(spec.waiting), -1))) <= best.objective + room
    if spec.workers.kv_capacity is not None:
        assert counting_bound(decode_step(spec), 0) <= best.objective + room
    return plan


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


small = st.integers(0, 3)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    slots=st.lists(small, min_size=1, max_size=3),
    waiting=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4), small), max_size=4),
    active=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(1, 4)), max_size=4),
    capacity=st.none() | st.integers(0, 14),
    horizon=st.sampled_from([[0], [0, 2], [3], [9]]),
    setting=st.sampled_from(SETTINGS),
)
def test_edges_equal_enumeration(
    slots: list[int],
    waiting: list[tuple[int, int, int]],
    active: list[tuple[int, int, int]],
    capacity: int | None,
    horizon: list[int],
    setting: tuple[str, str],
) -> None:
    """Nothing waiting, nothing active, no slot, one worker, ties everywhere, all overdue, all gone, memory full."""
    places: dict[str, Any] = {"slots": slots}
    if capacity is not None:
        places["kv_capacity"] = [capacity] * len(slots)
    columns = list(zip(*waiting, strict=True)) or [(), (), ()]
    residents = list(zip(*active, strict=True)) or [(), (), ()]
    hold_against_enumeration(
        eq.DecodeAllocation(
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
    )


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


THREE = {
    "workers": {"slots": [2, 2], "kv_capacity": [100, 60]},
    "active": {"worker": [0], "tokens": [40]},
    "waiting": {"tokens": [30, 50, 20], "waited": [9, 9, 0]},
    "horizon": [0],
    "max_bypass": 5,
}


@pytest.mark.parametrize(
    ("worker", "changes", "rule"),
    [
        ([0, 1, 1], {}, "workers.kv_capacity"),
        ([0, 0, 1], {}, "workers.slots"),
        ([1, 1, 0], {}, "workers.kv_capacity"),
        ([0, -1, 1], {}, "max_bypass"),
        ([-1, 1, 0], {"admission": "fifo", "max_bypass": 99}, "admission"),
        ([0, 1, -1], {"workers": {"slots": [3, 2], "kv_capacity": [100, 60]}}, "filled"),
        ([0, 1, -1], {"workers": {"slots": [3, 2]}}, "filled"),
        ([-1, -1, -1], {}, "filled"),
        ([0, 2, 1], {}, "worker"),
        ([0, 1], {}, "shape"),
    ],
)
def test_a_broken_rule_is_named(worker: list[int], changes: dict[str, Any], rule: str) -> None:
    spec = eq.DecodeAllocation(**{**THREE, **changes})
    plan = DecodePlan(worker=worker, load=np.zeros((2, 1)), step_time=[0.0])
    problems = eq.check(spec, plan).problems
    assert any(problem.startswith(f"{rule}: worker") for problem in problems), problems


@pytest.mark.parametrize("seed", [3, 40, 41, 42, 43, 44, 45, 46])
def test_tampering_with_any_entry_fails_the_check(seed: int) -> None:
    spec = random_spec(seed).replace(active=[], horizon=[0, 3], growth=1.0)
    waiting = spec.fields()["waiting"]  # a request of no tokens could sit anywhere
    spec = spec.replace(waiting=waiting | {"tokens": waiting["tokens"] + 1})
    plan = eq.solve(spec, "exact")
    for field, column in (("worker", plan.worker), ("load", plan.load), ("step_time", plan.step_time)):
        for place in np.ndindex(column.shape):
            changed = column.copy()
            changed[place] += 1
            broken = eq.check(spec, type(plan)(**{**plan.fields(), field: changed})).problems
            names = [problem.split(":")[0] for problem in broken]
            expected = {field} if field != "worker" else {"worker", "workers.slots", "workers.kv_capacity", "load"}
            assert expected & set(names), (field, place, broken)


def test_a_certificate_that_claims_too_much_fails_the_check() -> None:
    spec = eq.load(EXAMPLES / "decode_allocation.yaml")
    plan = eq.solve(spec, "exact")
    for change in ({"objective": 1.0}, {"bound": plan.certificate.objective * 1.01}, {"sense": "maximise"}):
        assert not eq.check(spec, plan.with_certificate(plan.certificate.model_copy(update=change))).ok


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


def test_memory_is_counted_in_decimals() -> None:
    """In floating point ten requests of 7 steps at 1.1 tokens come to a little more than 77 tokens."""
    spec = eq.DecodeAllocation(
        workers={"slots": [12], "kv_capacity": [77]}, waiting={"tokens": [0] * 11}, horizon=[7], growth=1.1
    )
    plan = eq.solve(spec, "exact", backend="highs")
    assert plan.load[0, 0] > 77
    assert (plan.worker >= 0).sum() == 10
    assert eq.check(spec, plan).ok
    assert "workers.kv_capacity" in eq.check(spec, decode_step(spec).report(np.zeros(11, np.int64))).problems[0]


@pytest.mark.parametrize("capacity", range(14))
def test_memory_is_filled_to_the_last_token_and_not_beyond(capacity: int) -> None:
    spec = eq.DecodeAllocation(
        workers={"slots": [4], "kv_capacity": [capacity]}, waiting={"tokens": [3, 3, 3, 3]}, horizon=[0]
    )
    assert hold_against_enumeration(spec).load[0, 0] == min(capacity // 3, 4) * 3


@pytest.mark.parametrize("growth", [1 / 3, 0.123456789012345])
def test_loads_too_fine_for_a_solver_are_told(growth: float) -> None:
    spec = eq.DecodeAllocation(
        workers={"slots": [5, 5], "kv_capacity": [33, 70]},
        active={"worker": [0], "tokens": [3], "remaining": [[4, 40]]},
        waiting={"tokens": [7, 20, 9, 14, 3], "affinity": np.full((5, 2), 0.1)},
        horizon=[0, 3, 30],
        growth=growth,
    )
    plan = eq.solve(spec, "exact", backend="highs")
    assert "kv_capacity" in plan.certificate.notes[0]
    assert int((plan.worker >= 0).sum()) == oracle.best(spec).admitted
    assert eq.check(spec, plan).ok


def test_what_a_solver_must_not_decide_is_decided_exactly_afterwards() -> None:
    """100,000 steps at 0.00001 tokens are one token, so three fit to the last digit; the search may see two."""
    spec = eq.DecodeAllocation(
        workers={"slots": [5], "kv_capacity": [3]}, waiting={"tokens": [0] * 5}, horizon=[100_000], growth=0.00001
    )
    plan = eq.solve(spec, "exact", backend="highs")
    assert (plan.worker >= 0).sum() == 3
    assert eq.check(spec, plan).ok


def test_workers_that_differ_in_memory_alone_are_not_alike() -> None:
    spec = eq.DecodeAllocation(
        workers={"slots": [2, 2], "kv_capacity": [59, 118]},
        waiting={"tokens": [60, 59, 59]},
        horizon=[0],
        growth=0.0,
        admission="fifo",
    )
    routes = program.DecodeProgram(spec).routes
    assert (0, 1) in zip(routes.request.tolist(), routes.worker.tolist(), strict=True)
    assert hold_against_enumeration(spec).worker.tolist() == [1, 0, -1]


def test_a_pair_of_predictions_is_half_of_each() -> None:
    def loads(remaining: Any) -> Any:
        spec = eq.DecodeAllocation(
            workers={"slots": [1]}, waiting={"tokens": [10], "remaining": remaining}, horizon=[0, 4, 16, 64]
        )
        return eq.solve(spec).load.tolist()

    assert loads([[5, 17]]) == [[10, 14, 13, 0]]
    assert loads([[5, 5]]) == loads([5]) == [[10, 14, 0, 0]]
    assert loads(None) == [[10, 14, 26, 74]]


def test_priority_orders_the_queue() -> None:
    spec = eq.DecodeAllocation(
        workers={"slots": [2]}, waiting={"tokens": [1, 2, 3, 4], "priority": [0, 5, 0, 5]}, admission="fifo"
    )
    assert eq.solve(spec).worker.tolist() == [-1, 0, -1, 0]


def test_an_overdue_request_that_fits_nowhere_blocks_the_window() -> None:
    fields: dict[str, Any] = {
        "workers": {"slots": [3], "kv_capacity": [50]},
        "waiting": {"tokens": [10, 90, 20], "waited": [0, 64, 0]},
        "horizon": [0],
    }
    assert eq.solve(eq.DecodeAllocation(**fields)).worker.tolist() == [0, -1, -1]
    assert eq.solve(eq.DecodeAllocation(**fields, max_bypass=65)).worker.tolist() == [0, -1, 0]


QUEUED = {"tokens": [10, 20, 30, 40], "remaining": [3, 50, 7, 21]}  # 81 steps of work


@pytest.mark.parametrize(
    ("slots", "waiting", "fields", "steps"),
    [
        ([2, 1], QUEUED, {}, 81),  # 3·81/3
        ([2, 5], QUEUED, {}, 35),  # 3·81/7 = 34.7…
        ([2, 1], QUEUED, {"max_bypass": 9}, 9),
        ([2, 1], QUEUED, {"max_bypass": 0}, 0),
        ([2, 1], {**QUEUED, "remaining": [[3, 9], [50, 51], [7, 900], [21, 21]]}, {}, 81),  # of a pair the median
        ([2, 1], {"tokens": [10, 20]}, {}, 64),  # nothing is predicted
        ([0, 0], QUEUED, {}, 64),  # no slots
        ([2, 1], {"tokens": [], "remaining": []}, {}, 0),  # nobody waits
        ([1], {"tokens": [1] * 3, "remaining": [2**53] * 3}, {}, 2**53),
    ],
)
def test_a_request_is_overdue_when_it_has_waited_longer_than_suits_the_queue(
    slots: list[int], waiting: dict[str, Any], fields: dict[str, Any], steps: int
) -> None:
    spec = eq.DecodeAllocation(workers={"slots": slots}, waiting=waiting, **fields)
    assert spec.overdue_after == steps
    assert spec.replace(max_bypass=None).max_bypass is None
    assert spec.replace(max_bypass=17).overdue_after == 17


@pytest.mark.parametrize("seed", range(60))
def test_without_max_bypass_the_steps_it_stands_for_decide(seed: int) -> None:
    spec = random_spec(4 * seed + seed % 2)  # window
    spec = spec.replace(max_bypass=None)
    written = spec.replace(max_bypass=spec.overdue_after)
    for backend in ("highs", None):
        plan = eq.solve(spec, "exact", backend=backend)
        assert plan.worker.tolist() == eq.solve(written, "exact", backend=backend).worker.tolist()
        assert eq.check(spec, plan).ok
        assert spec.bound(plan) == written.bound(plan)


def test_the_queue_tells_who_is_overdue() -> None:
    """Two slots and 8 steps of work: after 12 steps, not after 11, the first may not be passed."""
    fields: dict[str, Any] = {"workers": {"slots": [1, 1]}, "active": {"worker": [0], "tokens": [5]}}
    waiting = {"tokens": [90, 5, 7], "remaining": [4, 2, 2]}
    for waited, worker in ((11, [-1, 1, -1]), (12, [1, -1, -1])):
        spec = eq.DecodeAllocation(**fields, waiting={**waiting, "waited": [waited, 0, 0]})
        assert eq.solve(spec).worker.tolist() == worker
        assert eq.solve(spec, "exact", backend="highs").worker.tolist() == worker
    held = eq.solve(spec.replace(max_bypass=13))
    assert held.worker.tolist() == [-1, 1, -1]
    assert {broken.rule for broken in spec.rules(held)} == {"max_bypass"}


def test_a_small_request_behind_an_overdue_one_cannot_stand_in_for_one_ahead_of_it() -> None:
    spec = eq.DecodeAllocation(
        workers={"slots": [1]},
        waiting={"tokens": [5, 100, 1], "waited": [0, 64, 0], "priority": [1, 0, 0]},
        horizon=[0],
    )
    assert hold_against_enumeration(spec).worker.tolist() == [0, -1, -1]


def test_a_draining_worker_takes_none_and_is_weighed() -> None:
    spec = eq.DecodeAllocation(
        workers={"slots": [1, 1]},
        active={"worker": [0, 0], "tokens": [50, 50]},
        waiting={"tokens": [5, 6]},
        horizon=[0],
    )
    plan = eq.solve(spec)
    assert plan.worker.tolist().count(1) == 1
    assert plan.step_time.tolist() == [100]


def test_imbalance_of_a_level_step_is_optimal_at_zero() -> None:
    spec = eq.DecodeAllocation(
        workers={"slots": [1, 1, 1], "speed": [0.1, 0.3, 0.7]},
        waiting={"tokens": [1, 3, 7]},
        horizon=[0],
        objective="imbalance",
    )
    plan = eq.solve(spec, "exact")
    assert plan.certificate.objective == pytest.approx(0, abs=1e-9)
    assert plan.certificate.status == "optimal"
    assert eq.check(spec, plan).ok


def test_by_default_the_heaviest_worker_now_is_what_counts() -> None:
    spec = eq.DecodeAllocation(workers={"slots": [1]}, waiting={"tokens": [1]})
    assert spec.horizon.tolist() == [0]
    assert spec.minimise == "step_time"
    assert spec.max_bypass is None


def test_an_integer_horizon_stands_for_all_steps_up_to_it() -> None:
    spec = eq.DecodeAllocation(workers={"slots": [1]}, waiting={"tokens": [1]}, horizon=3)
    assert spec.horizon.tolist() == [0, 1, 2, 3]
    assert spec == spec.replace(horizon=[0, 1, 2, 3])


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


BASE = {"workers": {"slots": [2, 1]}, "waiting": {"tokens": [5]}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"active": {"worker": [0, 2], "tokens": [1, 1]}}, "active.worker[1]: must be the number of a worker, below 2"),
        ({"active": {"worker": [-1], "tokens": [1]}}, "active.worker[0]: must be at least 0, got -1"),
        ({"active": {"worker": [0]}}, "active.tokens: is required"),
        ({"waiting": {"tokens": [5, -7]}}, "waiting.tokens[1]: must be at least 0, got -7"),
        ({"waiting": {"tokens": [5.5]}}, "waiting.tokens[0]: must be a whole number, got 5.5"),
        ({"waiting": {"tokens": [5], "remaining": [0]}}, "waiting.remaining[0]: must be at least 1, got 0"),
        ({"waiting": {"tokens": [5], "remaining": [[5, 4]]}}, "waiting.remaining[0][1]: must be at least the median"),
        ({"waiting": {"tokens": [5], "remaining": [[5, 6, 7]]}}, "waiting.remaining: must be a number or a pair"),
        ({"waiting": {"tokens": [5], "affinity": [[1, 2, 3]]}}, "has 3 columns, but there are 2 workers"),
        ({"waiting": {"tokens": [5], "affinity": [[1, 6]]}}, "waiting.affinity[0][1]: must be at most the request's"),
        ({"waiting": {"tokens": [5], "waited": [1, 2]}}, "waiting.waited has 2"),
        ({"waiting": {"tokens": [5], "priority": [np.nan]}}, "waiting.priority[0]: must be a finite number"),
        ({"workers": {"slots": [2, -1]}}, "workers.slots[1]: must be at least 0, got -1"),
        ({"workers": {"slots": [2, 1], "speed": [1, 0]}}, "workers.speed[1]: must be above 0, got 0"),
        ({"workers": {"slots": [2, 1], "kv_capacity": [9]}}, "workers.kv_capacity has 1"),
        ({"horizon": []}, "horizon: must have 1 to 4096 entries, got 0"),
        ({"horizon": [4, 4]}, "horizon[1]: must be above the entry before it, 4, got 4"),
        ({"horizon": 4096}, "horizon: must be at most 4095, got 4096"),
        ({"horizon": -1}, "horizon: must be at least 0, got -1"),
        ({"horizon": [0, 1.5]}, "horizon[1]: must be a whole number, got 1.5"),
        ({"discount": 0}, "discount: must be above 0"),
        ({"discount": 1.1}, "discount: must be at most 1"),
        ({"growth": -1.0}, "growth: must be at least 0"),
        ({"growth": 1e300, "horizon": 4}, "growth: lets loads grow beyond"),
        ({"objective": "makespan"}, "objective: must be 'step_time' or 'imbalance', got 'makespan'"),
        ({"admission": "lifo"}, "admission: must be 'window' or 'fifo', got 'lifo'"),
        ({"max_bypass": 1.5}, "max_bypass: must be a whole number, got 1.5"),
        ({"objectiv": "imbalance"}, "did you mean 'objective'?"),
    ],
)
def test_a_bad_spec_is_refused_with_its_place(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(eq.SpecError) as caught:
        eq.DecodeAllocation(**{**BASE, **changes})
    assert words in str(caught.value)


@pytest.mark.parametrize("growth", [1e-30, 1e-300, 5e-324])
def test_growth_of_any_size_is_counted_exactly(growth: float) -> None:
    """A request that grows at all does not fit where nothing is free."""
    for capacity, worker in ((0, -1), (8, 0)):
        spec = eq.DecodeAllocation(
            workers={"slots": [1], "kv_capacity": [capacity]},
            waiting={"tokens": [7], "affinity": [[7.0]]},
            horizon=[0, 4],
            growth=growth,
        )
        plan = eq.solve(spec, "exact")
        assert plan.worker.tolist() == [worker]
        assert eq.check(spec, plan).ok
