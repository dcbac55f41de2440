"""What a decode step means: defaults, the queue and who is overdue, the rules by name, tampering, bad specs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import equipoise as eq
from equipoise.specs.decode_allocation import DecodePlan

from .decode_tasks import EXAMPLES, random_spec


def test_by_default_the_heaviest_worker_now_is_what_counts() -> None:
    spec = eq.DecodeAllocation(workers={"slots": [1]}, waiting={"tokens": [1]})
    assert spec.horizon.tolist() == [0]
    assert spec.minimise == "step_time"
    assert spec.max_bypass is None


def test_an_integer_horizon_stands_for_all_steps_up_to_it() -> None:
    spec = eq.DecodeAllocation(workers={"slots": [1]}, waiting={"tokens": [1]}, horizon=3)
    assert spec.horizon.tolist() == [0, 1, 2, 3]
    assert spec == spec.replace(horizon=[0, 1, 2, 3])


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


QUEUED = {"tokens": [10, 20, 30, 40], "remaining": [3, 50, 7, 21]}


@pytest.mark.parametrize(
    ("slots", "waiting", "fields", "steps"),
    [
        ([2, 1], QUEUED, {}, 106),  # 6.5·4/3·(3·50·7·21)^¼ = 105.6…
        ([2, 5], QUEUED, {}, 46),  # 6.5·4/7·12.18… = 45.2…
        ([2, 1], {**QUEUED, "remaining": [1, 50, 1, 50]}, {}, 434),  # predictions that were outlived do not count
        ([2, 1], {**QUEUED, "remaining": [1, 1, 1, 1]}, {}, 9),  # 6.5·4/3 = 8.6…
        ([2, 1], QUEUED, {"max_bypass": 9}, 9),
        ([2, 1], QUEUED, {"max_bypass": 0}, 0),
        ([2, 1], {**QUEUED, "remaining": [[3, 9], [50, 51], [7, 900], [21, 21]]}, {}, 106),  # of a pair the median
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


def test_active_and_waiting_tell_how_long_requests_usually_take() -> None:
    spec = eq.DecodeAllocation(
        workers={"slots": [1, 1]},
        active={"worker": [0, 1, 1], "tokens": [5, 5, 5], "remaining": [8, 8, 1]},
        waiting={"tokens": [9], "remaining": [27]},
    )
    assert spec.overdue_after == 39  # 6.5·1/2·(8·8·27)^⅓, and not one more for rounding
    assert spec.replace(waiting={"tokens": [9]}).overdue_after == 26  # 6.5·1/2·8


def test_the_queue_tells_who_is_overdue() -> None:
    """6.5·3/2·(4·2·2)^⅓ = 24.5…: after 25 steps, not after 24, the first may not be passed."""
    fields: dict[str, Any] = {"workers": {"slots": [1, 1]}, "active": {"worker": [0], "tokens": [5]}}
    waiting = {"tokens": [90, 5, 7], "remaining": [4, 2, 2]}
    for waited, worker in ((24, [-1, 1, -1]), (25, [1, -1, -1])):
        spec = eq.DecodeAllocation(**fields, waiting={**waiting, "waited": [waited, 0, 0]})
        assert eq.solve(spec).worker.tolist() == worker
        assert eq.solve(spec, "exact", backend="highs").worker.tolist() == worker
    held = eq.solve(spec.replace(max_bypass=26))
    assert held.worker.tolist() == [-1, 1, -1]
    assert {broken.rule for broken in spec.rules(held)} == {"max_bypass"}


def test_an_overdue_request_that_fits_nowhere_blocks_the_window() -> None:
    fields: dict[str, Any] = {
        "workers": {"slots": [3], "kv_capacity": [50]},
        "waiting": {"tokens": [10, 90, 20], "waited": [0, 64, 0]},
        "horizon": [0],
    }
    assert eq.solve(eq.DecodeAllocation(**fields)).worker.tolist() == [0, -1, -1]
    assert eq.solve(eq.DecodeAllocation(**fields, max_bypass=65)).worker.tolist() == [0, -1, 0]


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
