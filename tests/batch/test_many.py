"""`eq.solve_many`: the plans of many specs, one after the other, from worker processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import equipoise as eq
from equipoise.server.workers import process

from .test_chunks import odd

SECONDS = 60.0
EXAMPLES = sorted((Path(eq.__file__).parent / "specs" / "examples" / "minimal").glob("*.yaml"))


def rollouts(number: int, prompts: int = 8, **fields: Any) -> eq.RolloutBudgets:
    random = np.random.default_rng(number)
    trials = random.integers(4, 16, prompts)
    history = {"successes": random.integers(0, trials + 1), "trials": trials}
    return eq.RolloutBudgets(prompts=history, **{"total": 8 * prompts, **fields})


IMPOSSIBLE = rollouts(0, total=10**6)


def children() -> set[str]:
    """Processes that this one has started and that are there."""
    tasks = Path("/proc/self/task").iterdir()
    return {pid for task in tasks for pid in (task / "children").read_text().split()}


def test_plans_come_in_the_order_of_the_specs_and_are_those_of_solve() -> None:
    specs = [eq.load(path) for path in EXAMPLES] + [rollouts(number) for number in range(40)]
    plans = list(eq.solve_many(specs, workers=2))
    assert plans == [eq.solve(spec) for spec in specs]
    assert all(eq.check(spec, plan).ok for spec, plan in zip(specs, plans, strict=True))
    assert plans[0].certificate.bound == eq.solve(specs[0]).certificate.bound


def test_plans_come_as_they_are_done_with_their_positions() -> None:
    specs = [rollouts(number) for number in range(60)]
    found = dict(eq.solve_many(specs, workers=2, ordered=False))
    assert [found[number] for number in range(60)] == [eq.solve(spec) for spec in specs]


def test_options_are_those_of_solve() -> None:
    (plan,) = eq.solve_many([rollouts(1)], method="exact", seed=7, time_limit=30.0, workers=1)
    assert (plan.certificate.seed, plan.certificate.time_limit) == (7, 30.0)
    assert plan.certificate.method.startswith("exact")


def test_an_error_is_raised_in_its_place_or_returned_on_request() -> None:
    specs = [rollouts(1), IMPOSSIBLE, rollouts(2)]
    plans = eq.solve_many(specs, workers=1)
    assert next(plans) == eq.solve(specs[0])
    with pytest.raises(eq.InfeasibleError) as raised:
        next(plans)
    with pytest.raises(eq.InfeasibleError) as alone:
        eq.solve(IMPOSSIBLE)
    assert str(raised.value) == str(alone.value) and raised.value.fields == alone.value.fields
    first, error, last = eq.solve_many(specs, workers=1, errors="return")
    assert (first, last) == (eq.solve(specs[0]), eq.solve(specs[2]))
    assert isinstance(error, eq.InfeasibleError)


def test_a_spec_that_costs_its_worker_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "COMMAND", odd())
    specs = [rollouts(1), rollouts(2, name="dies"), rollouts(3), rollouts(4, name="hoards"), rollouts(5)]
    found = list(eq.solve_many(specs, workers=2, errors="return"))
    assert [isinstance(outcome, eq.ServiceError) for outcome in found] == [False, True, False, True, False]
    assert "memory" in str(found[3])


def test_specs_are_read_a_bounded_number_ahead() -> None:
    read = 0

    def endless() -> Iterator[eq.RolloutBudgets]:
        nonlocal read
        while True:
            read += 1
            yield rollouts(read)

    before = children()
    plans = eq.solve_many(endless(), workers=1)
    assert read == 0 and children() == before  # nothing starts before the first plan is asked for
    for _ in range(20):
        next(plans)
    behind = read
    time.sleep(0.3)
    assert read == behind < 20 + 4 * 500  # nobody reads on while the caller is away
    plans.close()  # pyright: ignore[reportAttributeAccessIssue]  # it is a generator
    assert children() == before


def test_one_slow_spec_holds_up_no_more_than_what_may_be_ahead() -> None:
    slow = eq.DecodeAllocation(
        workers={"slots": [6] * 6},
        waiting={
            "tokens": np.random.default_rng(1).integers(100, 9000, 40),
            "remaining": np.random.default_rng(2).integers(1, 1500, 40),
        },
        horizon=[0, 4, 16, 64, 256, 1024],
    )
    specs = [slow, *(rollouts(number) for number in range(200))]
    found = list(eq.solve_many(specs, workers=2, method="exact", time_limit=2.0))
    assert found[0].certificate.stopped == "time limit" and len(found) == 201


def test_it_works_where_a_loop_runs_already() -> None:
    async def scenario() -> list[eq.Plan]:
        return list(eq.solve_many([rollouts(1), rollouts(2)], workers=1))

    assert asyncio.run(scenario()) == [eq.solve(rollouts(1)), eq.solve(rollouts(2))]


def test_no_specs_are_no_plans() -> None:
    assert list(eq.solve_many([], workers=1)) == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "best"}, "method"),
        ({"engine": "spark"}, "engine"),
        ({"workers": 0}, "workers"),
        ({"workers": True}, "workers"),
        ({"errors": "ignore"}, "errors"),
        ({"worker_memory": 1000}, "memory"),
        ({"address": "auto"}, "address"),
        ({"backend": "nothing"}, "nothing"),
    ],
)
def test_bad_options_are_refused_at_once(options: dict[str, Any], told: str) -> None:
    with pytest.raises(eq.UnsupportedError, match=told):
        eq.solve_many([rollouts(1)], **options)


def test_what_is_no_spec_is_told() -> None:
    with pytest.raises(eq.SpecError, match="solve_many takes a spec"):
        next(eq.solve_many(["spec.yaml"], workers=1))  # pyright: ignore[reportArgumentType]
