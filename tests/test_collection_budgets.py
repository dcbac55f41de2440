"""Collection budgets: the exact method against enumeration, windows, edges, tampering, conflicts, baselines."""

from __future__ import annotations

import math
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import equipoise as eq
from equipoise.solvers.baselines import compare
from equipoise.solvers.baselines.collection_budgets import BASELINES
from equipoise.solvers.doubt import Doubt
from equipoise.solvers.formulations.collection_budgets import CollectionProgram, Windows

from .oracles import collection_budgets as oracle

EXAMPLES = Path(__file__).parent.parent / "specs" / "examples"
OBJECTIVES = ("weighted_mean", "worst_group", "alpha_fair")
TOLERANCE = 1e-9


def curve(asymptote: list[float], scale: list[float], exponent: list[float], **more: Any) -> dict[str, Any]:
    """The columns of a table of curves."""
    return {"asymptote": asymptote, "scale": scale, "exponent": exponent, **more}


def two_groups(**fields: Any) -> dict[str, Any]:
    """A small task: `a` is cheap and improves, `b` is dear and hard. Fields are added or replaced."""
    groups: dict[str, Any] = {
        "name": ["a", "b"],
        "collected": [10, 10],
        "cost": [1.0, 2.0],
        "available": [50, 30],
        "curve": curve([0.1, 0.3], [1.0, 1.0], [0.5, 0.4]),
    }
    return {"groups": {**groups, **fields.pop("groups", {})}, "budget": 40.0, **fields}


def observed(model: str = "power_law", **fields: Any) -> dict[str, Any]:
    """A small task whose curves are fitted: `flat` does not fall."""
    samples = [8, 12, 16, 32]
    losses = [0.1 + 2.1 * n**-0.6 + 0.004 * (-1) ** place for place, n in enumerate(samples)]
    losses += [0.4, 0.38, 0.41, 0.42, *(0.9 * n**-0.2 for n in samples)]
    return {
        "groups": {"name": ["good", "flat", "slow"], "collected": [32, 32, 32], "available": [90, 90, 90]},
        "observations": {
            "group": ["good"] * 4 + ["flat"] * 4 + ["slow"] * 4,
            "samples": samples * 3,
            "loss": losses,
            "stderr": [0.01, 0.02, 0.01, 0.01] * 3,
        },
        "model": model,
        "budget": 30.0,
        **fields,
    }


def random_fields(seed: int) -> dict[str, Any]:
    """A small task with any objective, decimal costs, lots, and some bounds, shares and gaps."""
    random = np.random.default_rng(seed)
    size = int(random.integers(2, 5))
    collected = random.integers(0, 12, size) * (random.random(size) < 0.8)
    asymptote = random.choice([0.0, 0.1, 0.2, 0.5], size)
    scale = np.where(random.random(size) < 0.15, 0.0, random.uniform(0.2, 2, size).round(2))
    groups: dict[str, Any] = {
        "name": [f"g{row}" for row in range(size)],
        "collected": collected.tolist(),
        "cost": random.choice([0.1, 0.2, 0.3, 0.25, 0.5, 1.0, 1.5], size).tolist(),
        "available": random.integers(0, 9, size).tolist(),
        "curve": curve(
            asymptote.tolist(),
            scale.tolist(),
            random.choice([0.1, 0.3, 0.5, 1.0, 2.0], size).tolist(),
            # At 0 and 0.01 above the loss at one sample, the first sample is worth less than the second.
            loss_at_zero=(asymptote + scale + random.choice([0, 0.01, 0.5], size)).tolist(),
        ),
    }
    if random.random() < 0.3:
        groups["weight"] = [1.0, *random.choice([0.0, 1.0, 2.5], size - 1).tolist()]
    if random.random() < 0.3:
        groups["least"] = [int(random.integers(0, available // 2 + 1)) for available in groups["available"]]
    if random.random() < 0.3:
        least = groups.get("least", [0] * size)
        groups["most"] = [max(int(random.integers(0, 9)), low) for low in least]
    if random.random() < 0.2:
        groups["least_share"] = random.choice([0, 0.1, 0.2, 0.25], size).tolist()
    if random.random() < 0.2:
        groups["most_share"] = random.choice([0.5, 0.6, 1], size).tolist()
    fields: dict[str, Any] = {
        "groups": groups,
        "budget": float(random.choice([0, 0.3, 0.9, 1.2, 2.0, 3.3, 5.0])),
        "lot": int(random.choice([1, 1, 2, 3])),
        "objective": OBJECTIVES[seed % 3],
        "alpha": float(random.choice([0, 1, 2.5])),
        "tolerance": float(random.choice([0, 1e-3, 0.05])),
    }
    if random.random() < 0.3:
        fields["fairness"] = {"max_gap": float(random.choice([0.1, 0.3, 0.6]))}
    return fields


def agrees(fields: dict[str, Any], spec: eq.CollectionBudgets, plan: Any) -> None:
    """Holds a plan against the best there is, and against `check`."""
    want = oracle.best(fields)
    assert want is not None
    assert plan.certificate.status == "optimal"
    result = eq.check(spec, plan)
    assert result.ok, result.problems
    if spec.minimise != "worst_group":
        assert plan.certificate.objective == pytest.approx(want[0], rel=TOLERANCE, abs=1e-12)
        return
    room = (1 + spec.tolerance) * (1 + TOLERANCE)
    ordered = sorted([0.0, *plan.predicted_loss.tolist()])
    assert ordered[-1] <= want[0] * room
    assert ordered[-2] <= want[1] * room
    assert spec.measures(plan)["mean loss"] == pytest.approx(want[2], rel=1e-8)


@pytest.mark.parametrize("block", range(10))
def test_exact_equals_enumeration(block: int) -> None:
    solved, refused = 0, list[dict[str, Any]]()
    for seed in range(block * 42, block * 42 + 42):
        fields = random_fields(seed)
        if math.fsum(fields["groups"].get("most_share", [1])) < 1:
            continue
        spec = eq.CollectionBudgets(**fields)
        try:
            plan = eq.solve(spec, method="exact")
        except eq.InfeasibleError:
            refused.append(fields)
            continue
        agrees(fields, spec, plan)
        solved += 1
    assert [oracle.best(fields) for fields in refused] == [None] * len(refused)
    assert solved >= 20


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_edges_are_solved_to_the_optimum(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 3))

    def column(*values: float) -> list[Any]:
        return data.draw(st.lists(st.sampled_from(values), min_size=size, max_size=size))

    asymptote, scale = column(0.0, 0.25), column(0.0, 0.5, 0.5)
    least = column(0, 0, 1)
    fields = {
        "groups": {
            "name": ["a", "b", "c"][:size],
            "collected": column(0, 4, 4),
            "cost": column(0.1, 0.1, 0.3),
            "least": least,
            "most": [low + more for low, more in zip(least, column(0, 2, 6), strict=True)],
            "curve": curve(asymptote, scale, column(0.5, 1.0), loss_at_zero=column(0.75, 2.0)),
        },
        "budget": data.draw(st.sampled_from([0.0, 0.1, 0.3, 0.6, 0.7])),
        "lot": data.draw(st.sampled_from([1, 1, 2])),
        "objective": data.draw(st.sampled_from(OBJECTIVES)),
    }
    spec = eq.CollectionBudgets(**fields)
    try:
        plan = eq.solve(spec, method="exact")
    except eq.InfeasibleError:
        plan = None
    if plan is None:
        assert oracle.best(fields) is None
        return
    agrees(fields, spec, plan)


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
    full = eq.solve(spec, method="exact")
    monkeypatch.setattr("equipoise.solvers.formulations.collection_budgets.LARGEST_WINDOWS", 1)
    plan = eq.solve(spec, method="exact")
    assert plan.certificate.proof == "dual"
    assert plan.certificate.status == "feasible"
    assert plan.certificate.bound <= full.certificate.objective <= plan.certificate.objective
    assert any("too many lots were in doubt" in note for note in plan.certificate.notes)
    assert eq.check(spec, plan).ok


def test_without_time_the_plan_behind_the_bound_is_the_answer() -> None:
    spec = eq.CollectionBudgets(**two_groups(groups={"cost": [1.3, 2.9]}))
    plan = eq.solve(spec, time_limit=0)
    assert eq.check(spec, plan).ok


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


class FullRange(CollectionProgram):
    """The program with a column for every lot there is."""

    @property
    def windows(self) -> Windows:  # pyright: ignore[reportIncompatibleVariableOverride]
        narrow = super().windows
        low = self.market.least if narrow.floors is None else narrow.floors.exempt
        return Windows(low, self.market.top, narrow.lots, narrow.bound, narrow.floors)


@pytest.mark.parametrize("seed", range(24))
def test_windows_do_not_cut_off_the_optimum(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(seed)
    size = int(random.integers(2, 7))
    groups = {
        "name": [f"g{row}" for row in range(size)],
        "collected": random.integers(0, 60, size),
        "cost": random.choice([0.7, 1.1, 1.3, 2.9, 7.3], size),
        "available": random.integers(0, 150, size),
        "curve": curve(
            random.uniform(0, 0.3, size),  # pyright: ignore[reportArgumentType]
            random.uniform(0.2, 2, size),  # pyright: ignore[reportArgumentType]
            random.uniform(0.1, 1, size),  # pyright: ignore[reportArgumentType]
            loss_at_zero=np.full(size, 2.5),
        ),
    }
    objective = OBJECTIVES[seed % 3]
    spec = eq.CollectionBudgets(groups=groups, budget=float(random.integers(10, 300)), objective=objective)
    form, full = CollectionProgram(spec), FullRange(spec)
    columns = form.formulate().columns
    narrow = eq.solve(spec, method="exact")
    monkeypatch.setattr("equipoise.solvers.formulations.collection_budgets.FORMULATION", FullRange)
    wide = eq.solve(spec, method="exact")
    assert columns < full.formulate().columns
    mean = spec.measures(wide)["mean loss"]
    assert narrow.certificate.objective == pytest.approx(wide.certificate.objective, rel=2e-3)
    if objective == "worst_group":
        assert spec.measures(narrow)["mean loss"] == pytest.approx(mean, rel=TOLERANCE)
    else:
        assert narrow.certificate.objective == pytest.approx(wide.certificate.objective, rel=TOLERANCE)


@pytest.mark.parametrize("seed", range(40))
def test_every_optimum_of_a_budget_problem_lies_within_its_windows(seed: int) -> None:
    random = np.random.default_rng(seed)
    size, height = int(random.integers(1, 4)), 6
    gains = -np.sort(-random.choice([0.0, 0.5, 1.0, 1.5, 2.0, 3.0], (size, height)), axis=1)
    gains[:, 0] = random.choice([0.0, 1.0, 3.0], size)  # the first count may stand apart
    table = np.pad(np.cumsum(gains, axis=1), ((0, 0), (1, 0)))
    cost, room = random.integers(1, 5, size), int(random.integers(0, 25))
    high = np.minimum(height, room // cost)
    doubt = Doubt(lambda items, counts: table[items, counts], np.zeros(size, np.int64), high, cost, room)
    plans = [np.array(plan) for plan in product(range(height + 1), repeat=size) if np.dot(plan, cost) <= room]
    values = [float(table[np.arange(size), plan].sum()) for plan in plans]
    best = max(values)
    assert np.dot(doubt.counts, cost) <= room
    assert doubt.achieved <= best <= doubt.bound * (1 + 1e-12)
    low, top = doubt.windows(doubt.achieved)
    inside = [((low <= plan) & (plan <= top)).all() for plan in plans]
    assert any(value == best for value, there in zip(values, inside, strict=True) if there)
    if doubt.bound - doubt.achieved > 1e-9:
        assert all(there for value, there in zip(values, inside, strict=True) if value == best)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("model", ["power_law", "convex_monotone"])
def test_fitted_curves_are_in_the_plan_and_verified(objective: str, model: str) -> None:
    spec = eq.CollectionBudgets(**observed(model, objective=objective))
    plan = eq.solve(spec, method="exact")
    assert plan.certificate.status == "optimal"
    assert plan.samples[1] == 0  # a curve that does not fall is worth no sample
    assert plan.fit is not None
    assert plan.fit.error[1] > 0.005
    assert eq.check(spec, plan).ok


def changed(plan: Any, **fields: Any) -> Any:
    """The plan with some fields replaced, under its old certificate."""
    return type(plan)(**{**plan.fields(), **fields}).with_certificate(plan.certificate)


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


def change_of(fields: dict[str, Any], place: str, value: float) -> dict[str, Any]:
    """The fields with one number replaced, named as `InfeasibleError.change` does."""
    groups = {name: list(column) if isinstance(column, list) else column for name, column in fields["groups"].items()}
    if place == "fairness.max_gap":
        return {**fields, "fairness": {"max_gap": value}}
    if (entry := re.fullmatch(r"groups\.(\w+)\[(\d+)\]", place)) is not None:
        groups[entry[1]][int(entry[2])] = int(value)
        return {**fields, "groups": groups}
    return {**fields, place: value}


CONFLICTS: dict[str, tuple[dict[str, Any], set[str], set[str], list[str]]] = {
    "least costs more than the budget": (
        two_groups(groups={"least": [10, 20]}),
        {"budget", "groups.least"},
        {"budget"},
        ["groups.least takes 20 × 2 for 'b' + 10 × 1 for 'a', that is 50, but budget is 40; set budget to 50"],
    ),
    "least is more than is available": (
        two_groups(groups={"least": [0, 31]}, budget=100.0),
        {"groups.available", "groups.least"},
        {"groups.least[1]", "groups.available[1]"},
        ["31 samples of 'b'", "groups.available has 30", "set groups.least[1] to 30 or groups.available[1] to 31"],
    ),
    "least and most leave no whole lot": (
        two_groups(groups={"least": [5, 0], "most": [7, 9]}, lot=4),
        {"groups.most", "groups.least"},
        {"groups.least[0]", "groups.most[0]"},
        ["5 samples of 'a', in lots of 4: 8", "groups.most has 7, in whole lots 4", "groups.most[0] to 8"],
    ),
    "the gap is out of reach of the budget": (
        two_groups(
            groups={"curve": curve([0.05, 0.3], [1.0, 1.0], [2.0, 0.4]), "available": [50, 200]},
            fairness={"max_gap": 0.4},
        ),
        {"budget", "fairness.max_gap"},
        {"fairness.max_gap", "budget"},
        ["losses of 'b' and 'a' cannot come within fairness.max_gap 0.4", "with budget 40"],
    ),
    "the gap is out of reach of what is available": (
        two_groups(
            groups={"curve": curve([0.05, 0.3], [1.0, 1.0], [2.0, 0.4]), "available": [5, 2]},
            fairness={"max_gap": 0.5},
        ),
        {"groups.available", "fairness.max_gap"},
        {"fairness.max_gap"},
        ["losses of 'b' and 'a'", "with groups.available ('a' 5, 'b' 2)"],
    ),
    "the gap is out of reach for good": (
        two_groups(groups={"curve": curve([0.1, 0.9], [0.0, 0.0], [1.0, 1.0])}, fairness={"max_gap": 0.5}),
        {"fairness.max_gap"},
        {"fairness.max_gap"},
        ["'b' gets down to 0.9, while 'a' is at 0.1; set fairness.max_gap to 0.8"],
    ),
    "a share forces more than the budget": (
        two_groups(groups={"least": [20, 0], "least_share": [0.0, 0.5]}),
        {"budget", "groups.least", "groups.least_share"},
        {"budget"},
        ["budget 40", "groups.least ('a' 20, 'b' 0)", "groups.least_share ('a' 0, 'b' 0.5)", "set budget to 60"],
    ),
    "a share forces more than is available": (
        two_groups(groups={"least": [20, 0], "least_share": [0.0, 0.5], "available": [50, 5]}, budget=500.0),
        {"groups.available", "groups.least", "groups.least_share"},
        set(),
        ["groups.available ('a' 50, 'b' 5)"],
    ),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_conflicts_are_told_in_the_words_of_the_spec(name: str) -> None:
    fields, conflicting, mending, words = CONFLICTS[name]
    with pytest.raises(eq.InfeasibleError) as caught:
        eq.solve(eq.CollectionBudgets(**fields))
    assert set(caught.value.fields) == conflicting
    assert set(caught.value.change) == mending
    for word in words:
        assert word in str(caught.value)
    for place, value in caught.value.change.items():
        mended = eq.CollectionBudgets(**change_of(fields, place, value))
        assert eq.check(mended, eq.solve(mended)).ok


@pytest.mark.parametrize("place", ["budget", "fairness.max_gap"])
def test_the_change_that_is_proposed_is_the_smallest(place: str) -> None:
    fields = CONFLICTS["the gap is out of reach of the budget"][0]
    with pytest.raises(eq.InfeasibleError) as caught:
        eq.solve(eq.CollectionBudgets(**fields))
    less = caught.value.change[place] * (1 - 1e-4) - (0.5 if place == "budget" else 0)
    with pytest.raises(eq.InfeasibleError):
        eq.solve(eq.CollectionBudgets(**change_of(fields, place, less)))


def without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    """The fields without some columns of the groups."""
    return {**fields, "groups": {name: value for name, value in fields["groups"].items() if name not in names}}


BAD: list[tuple[dict[str, Any], str]] = [
    (two_groups(groups={"curve": None}), "give exactly one of groups.curve and observations"),
    ({**observed(), **two_groups()}, "give exactly one of groups.curve and observations"),
    (two_groups(groups={"weight": [0, 0]}), "groups.weight: must be above 0 for at least one group"),
    (
        two_groups(groups={"least": [5, 1], "most": [4, 1]}),
        "groups.least[0]: must be at most groups.most[0] (4), got 5",
    ),
    (two_groups(groups={"cost": [1, 0]}), "groups.cost[1]: must be above 0, got 0"),
    (two_groups(groups={"name": ["a", "a"]}), "groups.name[1]: is 'a', as entry 0 is; names must differ"),
    (two_groups(groups={"collected": [1.5, 1]}), "groups.collected[0]: must be a whole number, got 1.5"),
    (two_groups(groups={"least_share": [0.6, 0.5]}), "groups.least_share: adds up to 1.1, and shares"),
    (two_groups(groups={"most_share": [0.4, 0.5]}), "groups.most_share: adds up to 0.9; below 1 nothing"),
    (
        two_groups(groups={"least_share": [0.5, 0.3], "most_share": [0.4, 1]}),
        "groups.least_share[0]: must be at most groups.most_share[0] (0.4), got 0.5",
    ),
    (two_groups(groups={"collected": [0, 1]}), "groups.curve: needs loss_at_zero: for group 'a'"),
    (
        two_groups(groups={"collected": [0, 1], "curve": curve([0.1] * 2, [1.0] * 2, [1.0] * 2, loss_at_zero=[1, 1])}),
        "groups.curve.loss_at_zero[0]: must be at least the loss at one sample (1.1) for group 'a'",
    ),
    (two_groups(groups={"curve": curve([0.1], [1.0], [0.5])}), "groups.name has 2 entries, groups.curve has 1"),
    (
        two_groups(groups={"curve": curve([0.1, 0.1], [1.0, 1.0], [0.5, 0.0])}),
        "groups.curve.exponent[1]: must be above 0, got 0",
    ),
    (two_groups(model="convex_monotone"), "model: 'convex_monotone' is fitted to observations"),
    (two_groups(objective="mean"), "objective: must be 'weighted_mean', 'worst_group' or 'alpha_fair', got 'mean'"),
    (two_groups(objectiv="worst_group"), "objectiv: is not a field of this spec; did you mean 'objective'?"),
    (two_groups(fairness={"gap": 1}), "fairness.gap: is not a field of fairness; did you mean 'max_gap'?"),
    (two_groups(budget=-1.0), "budget: must be at least 0"),
    (two_groups(budget=math.nan), "budget: must be"),
    (two_groups(lot=0), "lot: must be at least 1, got 0"),
    (two_groups(alpha=math.inf), "alpha: must be a finite number"),
    (two_groups(alpha=5000.0, objective="alpha_fair"), "alpha: is so large that losses about 1.3, to the power of"),
    (
        {**observed(), "groups": {"name": ["good", "flat", "bad"], "collected": [1, 1, 1]}},
        "observations.group[8]: must be the name of a group",
    ),
    (
        {**observed(), "groups": {"name": ["good", "flat", "slow"], "collected": [1, 0, 1]}},
        "groups.collected[1]: must be at least 1 where curves are fitted",
    ),
    (
        {**observed(), "groups": {"name": ["good", "flat", "slow", "new"], "collected": [1] * 4}},
        "observations: hold 0 of group 'new', and a power_law needs 3",
    ),
    (
        {
            **without(two_groups(), "curve"),
            "observations": {"group": ["a"] * 3 + ["b"] * 2, "samples": [1, 2, 3, 1, 2], "loss": [1] * 5},
        },
        "observations: hold 2 of group 'b', and a power_law needs 3; or set model to convex_monotone, for which 2",
    ),
    (
        {**observed(), "observations": {"group": ["good"], "samples": [0], "loss": [1.0]}},
        "observations.samples[0]: must be at least 1, got 0",
    ),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_bad_specs_are_refused_with_the_place_and_the_remedy(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(eq.SpecError) as caught:
        eq.CollectionBudgets(**fields)
    assert message in str(caught.value)


def test_groups_may_be_written_as_rows() -> None:
    rows = [
        {"name": "a", "collected": 10, "cost": 1.0, "curve": {"asymptote": 0.1, "scale": 1.0, "exponent": 0.5}},
        {"name": "b", "collected": 10, "cost": 2.0, "curve": {"asymptote": 0.3, "scale": 1.0, "exponent": 0.4}},
    ]
    assert eq.CollectionBudgets(groups=rows, budget=40.0) == eq.CollectionBudgets(**without(two_groups(), "available"))


@pytest.mark.parametrize("suffix", ["json", "yaml", "safetensors"])
@pytest.mark.parametrize("model", ["power_law", "convex_monotone"])
def test_a_saved_plan_with_its_fit_is_read_back(tmp_path: Path, suffix: str, model: str) -> None:
    spec = eq.CollectionBudgets(**observed(model, objective="worst_group"))
    plan = eq.solve(spec)
    eq.save(plan, tmp_path / f"plan.{suffix}", spec=spec)
    bundle = eq.load_bundle(tmp_path / f"plan.{suffix}")
    assert bundle.plan == plan
    assert bundle.spec == spec
    assert eq.check(spec, bundle.plan).ok


def test_a_session_steps_from_purchase_to_purchase() -> None:
    fields = two_groups()
    with eq.session(eq.CollectionBudgets(**fields)) as session:
        first = session.step()
        held = {**fields["groups"], "collected": np.array([10, 10]) + first.samples}
        second = session.step(groups=held, objective="worst_group")
    assert (second.predicted_loss <= first.predicted_loss).all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_shipped_example_beats_todays_rules(objective: str) -> None:
    spec = eq.load(EXAMPLES / "collection_budgets.yaml").replace(objective=objective)
    plan = eq.solve(spec)
    assert plan.certificate.status == "optimal"
    assert eq.check(spec, plan).ok
    found = compare(spec, plan)
    assert [baseline.name for baseline in found] == ["equal", "proportional", "water-filling"]
    for baseline in found:
        assert baseline.broken == 0
        assert baseline.gain > 0.015


def test_the_minimal_example_solves() -> None:
    spec = eq.load(EXAMPLES / "minimal" / "collection_budgets.yaml")
    plan = eq.solve(spec, method="exact")
    assert plan.certificate.status == "optimal"
    assert eq.check(spec, plan).ok


def test_baselines_spend_the_budget_as_they_say() -> None:
    groups = {"cost": [1.0, 1.0], "collected": [10, 30], "available": [100, 100]}
    spec = eq.CollectionBudgets(**two_groups(groups=groups, budget=40.0))
    bought = {name: rule(spec).samples.tolist() for name, rule in BASELINES.items()}
    assert bought == {"equal": [20, 20], "proportional": [10, 30], "water-filling": [30, 10]}
    scarce = spec.replace(groups={**spec.fields()["groups"], "available": [4, 100]})
    bought = {name: rule(scarce).samples.tolist() for name, rule in BASELINES.items()}
    assert bought == {"equal": [4, 36], "proportional": [4, 36], "water-filling": [4, 36]}


def test_too_fine_a_lot_is_refused_with_the_one_that_would_do() -> None:
    fields = two_groups(groups={"least_share": [0.2, 0.2]}, budget=1e7)
    with pytest.raises(eq.UnsupportedError, match=r"set lot to \d+ or more") as caught:
        eq.solve(eq.CollectionBudgets(**without(fields, "available")))
    lot = int(re.findall(r"set lot to (\d+)", str(caught.value))[0])
    CollectionProgram(eq.CollectionBudgets(**without(fields, "available"), lot=lot)).formulate()


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
