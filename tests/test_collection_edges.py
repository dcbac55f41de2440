"""Collection budgets at their edges, and plans that break a rule: nothing, decimals, extremes, tampering."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import equipoise as eq

from .collection_tasks import OBJECTIVES, changed, curve, observed, two_groups, without


def test_a_budget_of_decimals_is_spent_to_the_last_cent() -> None:
    groups = {"name": ["a"], "collected": [1], "cost": [0.1], "curve": curve([0.0], [1.0], [1.0])}
    plan = eq.solve(eq.CollectionBudgets(groups=groups, budget=0.3))
    assert plan.samples.tolist() == [3]
    thirds = {**groups, "cost": [1 / 3]}
    assert eq.solve(eq.CollectionBudgets(groups=thirds, budget=1.0)).samples.tolist() == [3]


def test_nothing_can_be_asked() -> None:
    spec = eq.CollectionBudgets(groups={"name": [], "collected": []}, budget=5.0)
    for objective in OBJECTIVES:
        plan = eq.solve(spec.replace(objective=objective))
        assert plan.samples.size == 0
        assert eq.check(spec.replace(objective=objective), plan)
    for model in ("power_law", "convex_monotone"):
        nothing = {"group": [], "samples": [], "loss": []}
        fitted = eq.CollectionBudgets(groups={"name": [], "collected": []}, budget=5, observations=nothing, model=model)
        assert eq.check(fitted, eq.solve(fitted)).ok


def test_without_a_budget_nothing_is_bought() -> None:
    for objective in OBJECTIVES:
        plan = eq.solve(eq.CollectionBudgets(**two_groups(budget=0, objective=objective)))
        assert plan.samples.tolist() == [0, 0]
        assert plan.certificate.status == "optimal"


def test_unlimited_supply_is_limited_by_the_budget_alone() -> None:
    fields = two_groups(budget=1e7)
    del fields["groups"]["available"]
    spec = eq.CollectionBudgets(**fields)
    plan = eq.solve(spec, method="exact")
    assert eq.check(spec, plan)
    assert spec.measures(plan)["budget spent"] == 1e7
    assert plan.certificate.proof == "dual"


def test_gains_far_below_the_resolution_of_losses_are_told_apart() -> None:
    groups = {
        "name": ["a", "b", "c"],
        "collected": [5, 5, 100],
        "cost": [0.01, 0.013, 0.7],
        "curve": curve([0.1, 0.0, 0.1], [1.0, 2.0, 1.0], [0.5, 1.0, 0.01]),
    }
    for objective in OBJECTIVES:
        spec = eq.CollectionBudgets(groups=groups, budget=1e12, objective=objective)
        plan = eq.solve(spec, method="exact")
        assert plan.certificate.status == "optimal"
        assert eq.check(spec, plan).ok
        # Along power laws, what is bought for the mean goes as (scale·exponent/cost)^(1/(1 + exponent)).
        if objective == "weighted_mean":
            held = plan.samples + np.array([5, 5, 100])
            slope = np.array([0.5, 2.0, 0.01]) * held ** -np.array([1.5, 2.0, 1.01]) / np.array([0.01, 0.013, 0.7])
            assert slope == pytest.approx(slope[0], rel=1e-6)


def test_more_doubt_than_a_program_can_hold_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = eq.CollectionBudgets(**two_groups(groups={"cost": [1.3, 2.9]}))
    full = eq.solve(spec, method="exact", backend="highs")
    monkeypatch.setattr("equipoise.solvers.formulations.collection_budgets.LARGEST_WINDOWS", 1)
    plan = eq.solve(spec, method="exact", backend="highs")
    assert plan.certificate.proof == "dual"
    assert plan.certificate.status == "feasible"
    assert plan.certificate.bound <= full.certificate.objective <= plan.certificate.objective
    assert any("too many lots were in doubt" in note for note in plan.certificate.notes)
    assert eq.check(spec, plan).ok


def test_without_time_the_plan_behind_the_bound_is_the_answer() -> None:
    spec = eq.CollectionBudgets(**two_groups(groups={"cost": [1.3, 2.9]}))
    for backend in (None, "highs"):
        assert eq.check(spec, eq.solve(spec, time_limit=0, backend=backend)).ok


def test_a_hopeless_group_does_not_swallow_the_budget() -> None:
    fields = two_groups(objective="worst_group", groups={"curve": curve([0.1, 0.9], [1.0, 0.0], [0.5, 1.0])})
    plan = eq.solve(eq.CollectionBudgets(**fields))
    assert plan.samples.tolist() == [40, 0]


def test_equal_costs_are_proved_by_prices_alone() -> None:
    fields = two_groups(groups={"cost": [0.3, 0.3]}, budget=7.7)
    assert eq.solve(eq.CollectionBudgets(**fields), method="exact").certificate.proof == "dual"
    assert eq.solve(eq.CollectionBudgets(**fields, objective="worst_group")).certificate.proof == "threshold"


def test_costs_without_a_common_unit_are_never_overspent() -> None:
    random = np.random.default_rng(7)
    for _ in range(10):
        cost = random.lognormal(0, 1, 6)
        groups = {
            "name": list("abcdef"),
            "collected": [20] * 6,
            "cost": cost,
            "curve": curve([0.1] * 6, random.uniform(0.5, 2, 6).tolist(), [0.4] * 6),
        }
        spec = eq.CollectionBudgets(groups=groups, budget=float(cost.sum() * 7))
        plan = eq.solve(spec)
        assert eq.check(spec, plan).ok
        assert any("rounded up" in note for note in plan.certificate.notes)


def tampered(values: np.ndarray, place: int) -> np.ndarray:
    """The array with one entry changed."""
    changed = values.copy()
    changed[place] = changed[place] + 1 if changed.dtype.kind == "i" else changed[place] * 1.01 + 1e-5
    return changed


@pytest.mark.parametrize(
    ("field", "rule"), [("samples", "predicted_loss|budget"), ("predicted_loss", "predicted_loss"), ("price", "price")]
)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_tampered_plan_fails_and_the_rule_is_named(field: str, rule: str, objective: str) -> None:
    for fields in (two_groups(objective=objective), observed(objective=objective)):
        spec = eq.CollectionBudgets(**fields)
        plan = eq.solve(spec)
        value = getattr(plan, field)
        changes = [value * 1.01 + 1e-5] if field == "price" else [tampered(value, row) for row in range(len(value))]
        for change in changes:
            result = eq.check(spec, changed(plan, **{field: change}))
            assert re.match(rule, result.problems[0]), result.problems


@pytest.mark.parametrize("model", ["power_law", "convex_monotone"])
def test_a_tampered_fit_fails(model: str) -> None:
    spec = eq.CollectionBudgets(**observed(model))
    plan = eq.solve(spec)
    columns = ("asymptote", "scale", "exponent", "error") if model == "power_law" else ("level", "slope", "error")
    fit = plan.fields()["fit"]
    fits = [{**fit, column: tampered(fit[column], row)} for column in columns for row in range(3)]
    if model == "convex_monotone":
        bends = fit["bends"]
        assert len(bends["weight"]) > 0
        fits += [
            {**fit, "bends": {**bends, column: tampered(bends[column], row)}}
            for column in bends
            for row in range(len(bends[column]))
        ]
    for other in fits:
        problems = eq.check(spec, changed(plan, fit=other)).problems
        assert problems
        assert re.match("fit|predicted_loss|shape", problems[0]), problems


def test_a_fit_is_there_exactly_if_there_are_observations() -> None:
    spec, given_curves = eq.CollectionBudgets(**observed()), eq.CollectionBudgets(**two_groups())
    plan = eq.solve(spec)
    assert eq.check(spec, changed(plan, fit=None)).problems == ("shape: fit must be a power_law fit",)
    curved = changed(eq.solve(given_curves), fit=plan.fit)
    assert eq.check(given_curves, curved).problems == ("shape: fit must be absent: the spec gives curves",)
    other = eq.solve(eq.CollectionBudgets(**observed("convex_monotone")))
    assert eq.check(spec, other).problems[0] == "shape: fit must be a power_law fit"


@pytest.mark.parametrize(
    ("fields", "samples", "rule"),
    [
        ({"lot": 4}, [4, 3], "lot"),
        ({"groups": {"least": [3, 3]}}, [2, 3], "groups.least"),
        ({"groups": {"most": [5, 5]}}, [6, 3], "groups.most"),
        ({"groups": {"available": [5, 5]}}, [6, 3], "groups.available"),
        ({}, [40, 1], "budget"),
        ({"groups": {"least_share": [0.5, 0.0]}}, [3, 4], "groups.least_share"),
        ({"groups": {"most_share": [0.5, 1.0]}}, [4, 3], "groups.most_share"),
        ({"fairness": {"max_gap": 0.05}}, [20, 0], "fairness.max_gap"),
    ],
)
def test_every_rule_is_judged(fields: dict[str, Any], samples: list[int], rule: str) -> None:
    spec = eq.CollectionBudgets(**two_groups(**fields))
    plan = changed(eq.solve(eq.CollectionBudgets(**two_groups())), samples=np.array(samples))
    assert rule in [broken.rule for broken in spec.rules(plan)]


def test_groups_may_be_written_as_rows() -> None:
    rows = [
        {"name": "a", "collected": 10, "cost": 1.0, "curve": {"asymptote": 0.1, "scale": 1.0, "exponent": 0.5}},
        {"name": "b", "collected": 10, "cost": 2.0, "curve": {"asymptote": 0.3, "scale": 1.0, "exponent": 0.4}},
    ]
    assert eq.CollectionBudgets(groups=rows, budget=40.0) == eq.CollectionBudgets(**without(two_groups(), "available"))


def test_a_task_tied_by_max_gap_has_a_plan_however_little_time_there_is() -> None:
    """Thousands of single lots: the search has nothing of its own for a while, the levels give a plan to start from."""
    groups = {
        "name": ["a", "b", "c", "d"],
        "collected": [100, 1000, 50, 400],
        "cost": [1, 0.5, 2, 0.1],
        "curve": {"asymptote": [0.1, 0.2, 0.1, 0.3], "scale": [1, 2, 3, 1.5], "exponent": [0.3, 0.4, 0.25, 0.5]},
    }
    spec = eq.CollectionBudgets(groups=groups, budget=5000, fairness={"max_gap": 0.3})
    plan = eq.solve(spec, time_limit=0.5)
    assert plan.certificate.status == "feasible"
    assert plan.certificate.gap < 0.05
    assert eq.check(spec, plan).ok
