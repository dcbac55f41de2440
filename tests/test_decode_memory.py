"""KV limits of a decode step are counted without rounding."""

from __future__ import annotations

import numpy as np
import pytest

import equipoise as eq
from equipoise.solvers.decode_step import decode_step
from equipoise.solvers.formulations import decode_allocation as program

from .decode_tasks import hold_against_enumeration
from .oracles import decode_allocation as oracle


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
