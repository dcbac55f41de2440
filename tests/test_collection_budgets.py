"""Collection budgets: both ways to the optimum against enumeration, the program's windows, examples, baselines."""

from __future__ import annotations

import math
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

from .collection_tasks import OBJECTIVES, curve, observed, random_fields, two_groups
from .oracles import collection_budgets as oracle

EXAMPLES = Path(__file__).parent.parent / "specs" / "examples"

TOLERANCE = 1e-9


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


@pytest.mark.parametrize("backend", [None, "highs"])
@pytest.mark.parametrize("block", range(10))
def test_exact_equals_enumeration(block: int, backend: str | None) -> None:
    solved, refused = 0, list[dict[str, Any]]()
    for seed in range(block * 42, block * 42 + 42):
        fields = random_fields(seed)
        if math.fsum(fields["groups"].get("most_share", [1])) < 1:
            continue
        spec = eq.CollectionBudgets(**fields)
        try:
            plan = eq.solve(spec, method="exact", backend=backend)
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
    for backend in (None, "highs"):
        try:
            plan = eq.solve(spec, method="exact", backend=backend)
        except eq.InfeasibleError:
            assert oracle.best(fields) is None
        else:
            agrees(fields, spec, plan)


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
    narrow = eq.solve(spec, method="exact", backend="highs")
    monkeypatch.setattr("equipoise.solvers.formulations.collection_budgets.FORMULATION", FullRange)
    wide = eq.solve(spec, method="exact", backend="highs")
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


def test_a_search_among_costs_far_apart_is_left_to_those_who_ask_for_it() -> None:
    groups = {
        "name": ["a", "b", "c"],
        "collected": [87, 58, 4],
        "cost": [0.00048, 0.00784, 257.15544],
        "curve": curve([0.1] * 3, [1.0] * 3, [0.5] * 3),
    }
    spec = eq.CollectionBudgets(groups=groups, budget=771.46632)
    plan = eq.solve(spec)
    assert plan.certificate.method == "auto: equipoise marginal values"
    assert plan.certificate.status == "feasible"
    assert "the exact program was left out: it is too large, or its costs too far apart" in plan.certificate.notes
    assert eq.check(spec, plan).ok
    asked = eq.solve(spec, "exact", time_limit=0.5)
    assert "HiGHS" in asked.certificate.method
    assert eq.solve(spec.replace(budget=200.0)).certificate.gap <= 1e-5  # what nobody can buy is not too far apart
