"""The thresholds that answer collection budgets, against enumeration, the compiled program, and at the edges."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import equipoise as eq
from equipoise.solvers.algorithms import learning_curves
from equipoise.solvers.algorithms.collection_shop import Shop
from equipoise.solvers.algorithms.exchange import exchange
from equipoise.solvers.collection_market import Market
from equipoise.solvers.levels import Levels, settle

OBJECTIVES = ("weighted_mean", "worst_group", "alpha_fair")
SEEDS = range(0, 360, 30)


def task(seed: int, largest: int = 8) -> dict[str, Any]:
    """A task of a few groups, every field of it now and then at an edge: ties, flat curves, nothing collected, lots."""
    random = np.random.default_rng(seed)
    size = int(random.integers(1, largest + 1))
    prices = [float(random.choice([0.1, 0.3, 1.0, 2.5]))] if random.random() < 0.4 else [0.1, 0.35, 1.0, 1.25, 3.7]
    asymptote = random.choice([0.0, 0.1, 0.2, 0.5], size)
    scale = np.where(random.random(size) < 0.15, 0.0, random.uniform(0.1, 2, size).round(2))
    if random.random() < 0.3:
        asymptote[:], scale[:] = asymptote[0], scale[0]
    groups: dict[str, Any] = {
        "name": [f"g{row}" for row in range(size)],
        "collected": random.integers(0, 30, size) * (random.random(size) < 0.8),
        "cost": random.choice(prices, size),
        "curve": {
            "asymptote": asymptote,
            "scale": scale,
            "exponent": random.choice([0.1, 0.3, 0.5, 1.0, 2.0], size),
            # At 0 and 0.01 above the loss at one sample, the first lot is worth less than the second.
            "loss_at_zero": asymptote + scale + random.choice([0.0, 0.01, 0.5], size),
        },
    }
    if random.random() < 0.3:
        groups["weight"] = np.concatenate([[1.0], random.choice([0.0, 1.0, 2.5], size - 1)])
    if random.random() < 0.3:
        groups["least"] = random.integers(0, 4, size)
    least = groups.get("least", np.zeros(size, np.int64))
    if random.random() < 0.5:
        groups["available"] = np.maximum(random.integers(0, 60, size), least)
    if random.random() < 0.3:
        groups["most"] = np.maximum(random.integers(0, 50, size), least)
    return {
        "groups": groups,
        "budget": float(random.choice([0, 0.3, 1, 5, 20.5, 100, 1e9 if "available" in groups else 1000])),
        "lot": int(random.choice([1, 1, 2, 3])),
        "objective": OBJECTIVES[seed % 3],
        "alpha": float(random.choice([0, 1, 2.5])),
        "tolerance": float(random.choice([0, 1e-3, 0.05])),
    }


def solved(spec: eq.CollectionBudgets, method: Any, backend: str | None = None) -> Any:
    """The plan; None if there can be none."""
    try:
        return eq.solve(spec, method, backend=backend)
    except eq.InfeasibleError:
        return None


def mean_of(spec: eq.CollectionBudgets, plan: Any) -> float:
    return spec.measures(plan)["mean loss"]


@pytest.mark.parametrize("first", SEEDS)
def test_exact_agrees_with_the_compiled_program_and_needs_no_backend(first: int) -> None:
    compared = 0
    for seed in range(first, first + 30):
        spec = eq.CollectionBudgets(**task(seed))
        ours, program = solved(spec, "exact"), solved(spec, "exact", "highs")
        assert (ours is None) == (program is None), seed
        if ours is None:
            continue
        result = eq.check(spec, ours)
        assert result.ok, (seed, result.problems)
        assert "HiGHS" not in ours.certificate.method
        assert ours.certificate.status == "optimal", seed
        assert ours.certificate.objective == pytest.approx(program.certificate.objective, rel=1e-9, abs=1e-12) or (
            spec.minimise == "worst_group"
        )
        if spec.minimise == "worst_group":
            assert ours.certificate.bound == pytest.approx(program.certificate.bound, rel=1e-9, abs=1e-12), seed
            assert mean_of(spec, ours) == pytest.approx(mean_of(spec, program), rel=1e-9, abs=1e-12), seed
        compared += 1
    assert compared >= 15


@pytest.mark.parametrize("first", SEEDS)
def test_fast_keeps_the_rules_and_its_bound_is_true_and_proved_again(first: int) -> None:
    for seed in range(first, first + 30):
        spec = eq.CollectionBudgets(**task(seed, largest=20))
        fast, best = solved(spec, "fast"), solved(spec, "exact")
        if fast is None:
            assert best is None
            continue
        result = eq.check(spec, fast)
        assert result.ok, (seed, result.problems)
        assert fast.certificate.proof in ("dual", "threshold", "search")
        if spec.minimise != "worst_group":
            assert fast.certificate.bound <= best.certificate.objective * (1 + 1e-9) + 1e-12
            assert fast.certificate.objective >= best.certificate.objective * (1 - 1e-9) - 1e-12


@pytest.mark.parametrize("objective", ["weighted_mean", "alpha_fair"])
@pytest.mark.parametrize("seed", range(20))
def test_at_equal_costs_the_prices_alone_prove_the_optimum(seed: int, objective: str) -> None:
    fields = task(seed, largest=40)
    groups = fields["groups"]
    groups["cost"] = np.full(len(groups["name"]), 0.3)
    groups["collected"] = groups["collected"] + 1
    spec = eq.CollectionBudgets(**{**fields, "objective": objective})
    plan = solved(spec, "auto")
    if plan is not None:
        assert plan.certificate.proof == "dual"
        assert plan.certificate.objective == plan.certificate.bound
        assert eq.check(spec, plan).gap == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("seed", range(60))
def test_levels_are_those_found_by_bisection(seed: int) -> None:
    spec = eq.CollectionBudgets(**{**task(seed), "objective": "worst_group"})
    market = Market(spec)
    if not market.affordable:
        return
    floors = settle(Levels(market.loss, market.least, market.top, market.purse.cost, market.purse.room), 0.01)
    shop = Shop.of(market)
    assert shop.lowest(market.least) == pytest.approx(floors.worst, rel=1e-12, abs=1e-15)
    lots = shop.need(floors.worst * (1 + 1e-12), market.least)
    assert (lots <= market.top).all()
    assert market.purse.spent(lots) <= market.purse.room


@pytest.mark.parametrize("model", ["power_law", "convex_monotone"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fitted_curves_are_bought_along_like_given_ones(objective: str, model: str) -> None:
    for seed in range(6):
        random = np.random.default_rng(seed)
        size, points = int(random.integers(1, 6)), 5
        samples = np.sort(random.choice(np.arange(1, 60), (size, points)), axis=1)
        clean = random.uniform(0, 0.3, (size, 1)) + random.uniform(0.5, 2, (size, 1)) * samples**-0.5
        noisy = clean * random.uniform(0.9, 1.1, clean.shape)
        spec = eq.CollectionBudgets(
            groups={
                "name": [f"g{row}" for row in range(size)],
                "collected": samples[:, -1],
                "cost": random.choice([0.5, 1.3], size),
            },
            observations={
                "group": np.repeat([f"g{row}" for row in range(size)], points).tolist(),
                "samples": samples.ravel(),
                "loss": noisy.ravel(),
            },
            model=model,
            budget=float(random.integers(0, 300)),
            objective=objective,
            lot=int(random.integers(1, 3)),
        )
        ours, program = solved(spec, "exact"), solved(spec, "exact", "highs")
        assert eq.check(spec, ours).ok
        assert ours.certificate.status == "optimal"
        assert mean_of(spec, ours) == pytest.approx(mean_of(spec, program), rel=1e-8) or objective == "alpha_fair"
        assert ours.certificate.objective == pytest.approx(program.certificate.objective, rel=1e-3)


def test_a_large_budget_buys_all_that_helps_and_no_more() -> None:
    groups = {
        "name": ["helps", "flat", "counts for nothing"],
        "collected": [10, 10, 10],
        "available": [500, 500, 500],
        "weight": [1.0, 1.0, 0.0],
        "curve": {"asymptote": [0.1, 0.2, 0.1], "scale": [1.0, 0.0, 1.0], "exponent": [0.5, 1.0, 0.5]},
    }
    spec = eq.CollectionBudgets(groups=groups, budget=1e6)
    plan = eq.solve(spec)
    assert plan.samples.tolist() == [500, 0, 0]
    assert plan.price == 0
    assert plan.certificate.status == "optimal"


def test_a_first_lot_worth_less_than_the_second_is_bought_with_it_or_not_at_all() -> None:
    groups = {
        "name": ["new", "old"],
        "collected": [0, 50],
        "curve": {
            "asymptote": [0.0, 0.0],
            "scale": [1.0, 1.2],
            "exponent": [1.0, 0.5],
            "loss_at_zero": [1.0, 1.2],  # the first sample of `new` is worth nothing, the second a half
        },
    }
    for budget in range(1, 12):
        spec = eq.CollectionBudgets(groups=groups, budget=budget)
        plan = eq.solve(spec, "exact")
        assert plan.certificate.objective == pytest.approx(
            eq.solve(spec, "exact", backend="highs").certificate.objective, rel=1e-9
        )
        assert plan.samples[0] != 1


def test_what_must_be_bought_and_cannot_be_is_told_like_the_program_tells_it() -> None:
    groups = {
        "name": ["a", "b"],
        "collected": [10, 10],
        "least": [30, 10],
        "curve": {"asymptote": [0.1, 0.1], "scale": [1.0, 1.0], "exponent": [0.5, 0.5]},
    }
    spec = eq.CollectionBudgets(groups=groups, budget=20)
    with pytest.raises(eq.InfeasibleError) as ours:
        eq.solve(spec, "fast")
    with pytest.raises(eq.InfeasibleError) as program:
        eq.solve(spec, backend="highs")
    assert str(ours.value) == str(program.value)
    assert "budget" in str(ours.value)


@pytest.mark.parametrize("field", ["fairness", "least_share", "most_share"])
def test_what_ties_the_groups_together_is_left_to_the_program(field: str) -> None:
    fields = task(3)
    shares = {"least_share": 0.05, "most_share": 1.0}
    if field == "fairness":
        fields["fairness"] = {"max_gap": 5.0}
    else:
        fields["groups"][field] = np.full(len(fields["groups"]["name"]), shares[field])
    spec = eq.CollectionBudgets(**fields)
    with pytest.raises(eq.UnsupportedError, match="tie"):
        eq.solve(spec, "fast")
    assert "HiGHS" in eq.solve(spec).certificate.method


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_plan_depends_on_nothing_but_the_spec(objective: str) -> None:
    for seed in range(8):
        spec = eq.CollectionBudgets(**{**task(seed, largest=60), "objective": objective, "budget": 150.0})
        first = solved(spec, "auto")
        if first is None:
            continue
        with eq.session(spec.replace(budget=2000.0), threads=2, seed=5) as session:  # warm from another price
            session.step()
            again = session.step(budget=150.0)
        assert again.samples.tolist() == first.samples.tolist()


def test_a_thousand_groups_leave_a_gap_of_a_hundredth_of_a_percent_at_most() -> None:
    random = np.random.default_rng(11)
    for objective in OBJECTIVES:
        spec = eq.CollectionBudgets(
            groups={
                "name": [f"g{row}" for row in range(1000)],
                "collected": random.integers(20, 200, 1000),
                "cost": random.uniform(0.5, 5, 1000).round(2),
                "curve": {
                    "asymptote": random.uniform(0, 0.3, 1000),
                    "scale": random.uniform(0.2, 3, 1000),
                    "exponent": random.uniform(0.2, 1, 1000),
                },
            },
            budget=123456.7,
            objective=objective,
        )
        plan = eq.solve(spec, "fast")
        assert plan.certificate.gap <= 1e-4
        assert eq.check(spec, plan).ok


def test_counts_beyond_all_measure_end_and_are_proved() -> None:
    groups = {
        "name": ["a", "b", "c"],
        "collected": [1, 10**6, 5],
        "cost": [1e-6, 3e-6, 2e-6],
        "curve": {"asymptote": [0.5, 0.4, 0.0], "scale": [1e-9, 2.0, 1.0], "exponent": [0.5, 0.001, 3.0]},
    }
    for objective in OBJECTIVES:
        spec = eq.CollectionBudgets(groups=groups, budget=1e7, objective=objective)
        plan = eq.solve(spec, "fast")
        assert eq.check(spec, plan).ok
        assert plan.certificate.gap <= 1e-9


@pytest.mark.parametrize("seed", range(40))
def test_exchanges_find_the_best_entries_there_are(seed: int) -> None:
    random = np.random.default_rng(seed)
    items, price = int(random.integers(1, 6)), 0.5
    widths = random.integers(1, 4, items)
    item, starts = np.repeat(np.arange(items), widths), np.concatenate([[0], np.cumsum(widths)])
    shift, regret = random.integers(-2, 3, starts[-1]), random.choice([0.1, 0.2, 0.7, 1.0], starts[-1])
    shift[starts[:-1]], regret[starts[:-1]] = 0, 0.0
    cost, spare, at = random.integers(1, 6, items), int(random.integers(0, 12)), random.integers(4, 9, items)
    entries = [range(starts[item], starts[item + 1]) for item in range(items)]
    combinations = np.stack(np.meshgrid(*entries, indexing="ij"), axis=-1).reshape(-1, items)
    for whole in (False, True):
        best = math.inf
        for chosen in combinations:
            rest = spare - int(cost @ shift[chosen])
            if rest == 0 or (rest > 0 and not whole):
                best = min(best, float(regret[chosen].sum()) + price * rest)
        found = exchange(item, shift, regret, at, cost, spare, price, math.inf, 0.0, whole=whole)
        assert found.proven
        assert found.short == pytest.approx(best)
        if found.counts is None:
            assert best == math.inf
        else:
            spent = int(cost @ (found.counts - at))
            assert spent == spare if whole else spent <= spare


def test_exchanges_that_run_out_of_room_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equipoise.solvers.algorithms.collection_shop.DOUBTS", 1)
    spec = eq.CollectionBudgets(**{**task(1, largest=8), "objective": "weighted_mean"})
    spec = spec.replace(groups={**spec.fields()["groups"], "cost": np.linspace(0.7, 3.1, len(spec.groups)).round(2)})
    fast = eq.solve(spec.replace(budget=50.0), "fast", gap=0.0)
    assert fast.certificate.proof == "dual"
    assert eq.check(spec.replace(budget=50.0), fast).ok


def test_losses_are_those_of_the_curves() -> None:
    columns = [getattr(learning_curves, name) for name in ("BASE", "SCALE", "EXPONENT", "SLOPE", "ZERO")]
    market = Market(eq.CollectionBudgets(**task(2)))
    shop = Shop.of(market)
    assert np.isfinite(shop.curve[:, columns]).all()
    assert shop.loss(market.least) == pytest.approx(market.loss(market.every, market.least), rel=1e-14)


def thirds(**groups: Any) -> dict[str, Any]:
    """Two groups whose costs share no unit but 10⁻¹⁶; only the first gains anything."""
    curve = {"asymptote": [0.1, 0.1], "scale": [1.0, 0.0], "exponent": [0.3, 0.3]}
    return {"name": ["a", "b"], "collected": [10, 10], "cost": [0.1, 1 / 3], "curve": curve, **groups}


@pytest.mark.parametrize("backend", [None, "highs"])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("budget", "best"), [(1.0, 10), (100.0, 1000), (1e6, 10**7)])
def test_a_lot_that_just_fits_is_bought_though_costs_share_no_unit(
    budget: float, best: int, objective: str, backend: str | None
) -> None:
    for groups in (thirds(), thirds(least=[best, 0])):
        spec = eq.CollectionBudgets(groups=groups, budget=budget, objective=objective)
        plan = eq.solve(spec, backend=backend)
        assert plan.samples.tolist() == [best, 0]
        assert plan.certificate.status == "optimal"
        assert eq.check(spec, plan).ok
    with pytest.raises(eq.InfeasibleError, match="budget"):
        eq.solve(spec.replace(groups=thirds(least=[best, 1])), backend=backend)


@pytest.mark.parametrize(("first", "backend"), [(0, None), (20, None), (40, None), (60, None), (0, "highs")])
def test_no_plan_is_called_optimal_that_a_count_of_fractions_beats(first: int, backend: str | None) -> None:
    for seed in range(first, first + (20 if backend is None else 3)):
        random = np.random.default_rng(seed)
        cost = random.choice([0.1, 0.7, 1 / 3, 1 / 7, math.pi, 1e-3 / 3], 3)
        budget = float(random.choice([1.0, 1e3, 12345.678, 1e9] if backend is None else [1.0, 30.0]))
        fields = {**task(seed, largest=1), "budget": budget, "lot": 1}
        fields["groups"] = {
            "name": ["a", "b", "c"],
            "collected": [5, 9, 2],
            "cost": cost,
            "least": [int(Fraction(repr(budget)) / Fraction(repr(float(cost[0])))), 0, 0],  # all that fits
            "curve": {"asymptote": [0.1, 0.0, 0.2], "scale": [1.0, 0.5, 2.0], "exponent": [0.3, 0.5, 1.0]},
        }
        for spec in (
            eq.CollectionBudgets(**fields),
            eq.CollectionBudgets(**{**fields, "groups": {**fields["groups"], "least": [0, 0, 0]}}),
        ):
            plan = eq.solve(spec, "fast" if backend is None else "auto", backend=backend, time_limit=5.0)
            result = eq.check(spec, plan)
            assert result.ok, (seed, result.problems)


def test_a_budget_beyond_all_that_there_is_buys_all_there_is() -> None:
    curve = {"asymptote": [0.0], "scale": [1.0], "exponent": [0.1]}
    groups = {"name": ["a"], "collected": [10], "cost": [0.25], "curve": curve}
    for objective, backend in itertools.product(OBJECTIVES, (None, "highs")):
        spec = eq.CollectionBudgets(groups=groups, budget=2.0**53, objective=objective)
        plan = eq.solve(spec, backend=backend)
        assert plan.samples.tolist() == [2**53]
        assert eq.check(spec, plan).ok


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("cheap", [1, 2, 7])
def test_costs_of_many_orders_of_magnitude_take_no_longer(cheap: int, objective: str) -> None:
    random = np.random.default_rng(cheap)  # lot by lot, this would be 10¹² steps
    groups = {
        "name": [f"g{row}" for row in range(cheap + 1)],
        "collected": [100] + [10**6] * cheap,
        "cost": [1e6] + [1e-6] * cheap,
        "curve": {
            "asymptote": [0.1] + [0.0] * cheap,
            "scale": [2.0] + [2.0] * cheap,
            "exponent": np.concatenate([[1.0], random.uniform(0.3, 0.6, cheap)]),
        },
    }
    for budget in (2000000.000004, 1999999.5, 3.0, 12345678.9):
        spec = eq.CollectionBudgets(groups=groups, budget=budget, objective=objective)
        plan = eq.solve(spec, "fast")
        result = eq.check(spec, plan)
        assert result.ok, result.problems
        # Whatever still fits is bought.
        assert spec.budget - float(plan.samples @ np.array(groups["cost"])) < 1e-3 or objective == "worst_group"


def test_gains_too_small_for_floats_are_left_and_end_the_purchase() -> None:
    curve = {"asymptote": [0.1, 0.0, 0.0], "scale": [1.0] * 3, "exponent": [31.0] * 3}
    groups = {"name": ["a", "b", "c"], "collected": [2, 100, 50], "cost": [1.0, 1.0, 2.0], "curve": curve}
    spec = eq.CollectionBudgets(groups=groups, budget=1e11)
    plan = eq.solve(spec, "fast")
    assert plan.certificate.gap <= 1e-9
    assert eq.check(spec, plan).ok


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cost", 1e-300),
        ("cost", 1e300),
        ("weight", 1e-60),
        ("weight", 1e60),
        ("curve.scale", 1e100),
        ("curve.asymptote", 1e51),
        ("curve.exponent", 1e7),
        ("curve.loss_at_zero", 1e60),
    ],
)
def test_numbers_whose_products_leave_the_range_of_floats_are_refused_by_name(field: str, value: float) -> None:
    groups: dict[str, Any] = thirds()
    column = [value, 1.0]
    if "." in field:
        groups["curve"][field.partition(".")[2]] = column
    else:
        groups[field] = column
    with pytest.raises(eq.SpecError, match=rf"groups\.{field}\[0\].* 1e[-+]\d+, got"):
        eq.CollectionBudgets(groups=groups, budget=2.0)
