"""The best marginal values and multiple choice, against the compiled program, brute force and their own definition."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest

import equipoise as eq
from equipoise.solvers.algorithms import choice, multiple_choice
from equipoise.solvers.algorithms.rollout_steps import concave
from equipoise.solvers.purse import _purse_one_by_one, purse
from equipoise.solvers.rollout_beliefs import fit_beta
from equipoise.specs.exact import exact, exact_dot
from equipoise.specs.rollout_budgets import RolloutPlan

from .oracles import rollout_budgets as oracle

SIGNALS = ("posterior", "knapsack_rl")
VARIANCES = ("neyman", "gvm", "vip")
RATES = (0.0, 1.0, 1e-9, 1 - 1e-9, 0.01, 0.1, 0.5, 0.5, 0.9)


def random_fields(seed: int, value: str, prompts: int) -> dict[str, Any]:
    """A task of one value; whether drawn, multiples, ties and saturated prompts are there is left to the seed."""
    random = np.random.default_rng(seed)
    step = int(random.choice([1, 1, 2, 3]))
    most = int(random.integers(4, 30))
    least = int(random.integers(1 if value in VARIANCES else 0, 5))
    table: dict[str, Any] = {}
    if value == "posterior" or random.random() < 0.3:
        trials = random.integers(0, 9, prompts)
        table |= {"trials": trials, "successes": random.binomial(trials, random.beta(0.5, 0.5, prompts))}
    else:
        table["success_rate"] = random.choice(RATES, prompts) if seed % 2 else random.random(prompts)
    if value in SIGNALS and random.random() < 0.5:
        drawn = random.integers(0, 5, prompts)
        table |= {"drawn": drawn, "drawn_successes": random.binomial(drawn, 0.6)}
    if value in VARIANCES and random.random() < 0.5:
        table["gradient_norm"] = random.choice([0.0, 0.5, 2.0, 3.7], prompts)
    top, bottom = most // step * step, -(-max(least, 4) // step) * step
    total = int(random.integers(bottom, max(top, bottom) + 1)) * prompts // step * step
    return {"prompts": table, "value": value, "least": least, "most": most, "multiple_of": step, "total": total}


def solved(spec: eq.RolloutBudgets, **options: Any) -> Any:
    """The plan, or None where the spec is infeasible."""
    try:
        return eq.solve(spec, **options)
    except eq.InfeasibleError:
        return None


@pytest.mark.parametrize("value", SIGNALS + VARIANCES)
def test_totals_agree_with_the_compiled_program(value: str) -> None:
    feasible, exactly = 0, 0
    for seed in range(40):
        spec = eq.RolloutBudgets(**random_fields(seed, value, 1 + seed % 12))
        plan, other = solved(spec, method="fast"), solved(spec, method="exact", backend="highs")
        assert (plan is None) == (other is None), seed
        if plan is None:
            continue
        feasible += 1
        assert eq.check(spec, plan).ok, (seed, eq.check(spec, plan).problems)
        best = other.certificate.objective
        if concave(spec):
            exactly += 1
            assert plan.certificate.status == "optimal" and plan.certificate.proof == "threshold", seed
        if plan.certificate.status == "optimal":
            assert plan.certificate.objective == pytest.approx(best, rel=1e-9, abs=1e-12), seed
        assert plan.certificate.objective <= best + 1e-9 * abs(best) + 1e-12, seed
        assert plan.certificate.bound >= best - 1e-9 * abs(best) - 1e-12, seed
    assert feasible >= 20 and exactly >= 10


@pytest.mark.parametrize("value", SIGNALS + VARIANCES)
def test_bounds_of_groups_agree_with_the_compiled_program(value: str) -> None:
    feasible = 0
    for seed in range(30):
        random = np.random.default_rng(seed)
        size = int(random.integers(2, 10))
        fields = random_fields(seed, value, size)
        fields["least"] = max(fields["least"], 3 if value == "vip" else 1)
        low = random.integers(0, 20, 3)
        fields["prompts"]["group"] = random.choice(["a", "b", "c"], size).tolist()
        fields["groups"] = {"name": ["a", "b", "c"], "least": low, "most": low + random.integers(0, 120, 3)}
        if seed % 3 == 0:
            fields["groups"].pop("least" if seed % 2 else "most")
        fields["most"] = max(fields["most"], fields["least"])
        spec = eq.RolloutBudgets(**fields)
        plan, other = solved(spec, method="fast"), solved(spec, method="exact", backend="highs")
        assert (plan is None) == (other is None), seed
        if plan is None:
            continue
        feasible += 1
        assert plan.certificate.status == "optimal", seed
        assert "within groups" in plan.certificate.method
        assert plan.certificate.objective == pytest.approx(other.certificate.objective, rel=1e-9, abs=1e-12), seed
        result = eq.check(spec, plan)
        assert result.ok, (seed, result.problems)
    assert feasible >= 5


@pytest.mark.parametrize("value", SIGNALS + VARIANCES)
def test_token_costs_stay_within_the_gap_of_the_compiled_program(value: str) -> None:
    for seed in range(15):
        fields = random_fields(seed, value, 1 + seed % 9)
        random = np.random.default_rng(seed)
        size = 1 + seed % 9
        fields["prompts"]["tokens"] = random.choice([0.1, 0.3, 1.5, 7.0, 12.25], size)
        floor = float(fields["prompts"]["tokens"].sum())
        fields |= {"total": None, "token_budget": round(floor * int(random.integers(2, 15)), 2)}
        spec = eq.RolloutBudgets(**fields)
        plan, other = solved(spec, method="exact"), solved(spec, method="exact", backend="highs")
        assert (plan is None) == (other is None), seed
        if plan is None:
            continue
        best = other.certificate.objective
        assert plan.certificate.objective == pytest.approx(best, rel=1e-9, abs=1e-12), seed
        assert plan.certificate.status == "optimal", seed
        assert eq.check(spec, plan).ok, (seed, eq.check(spec, plan).problems)
        quick = eq.solve(spec, "fast")
        assert quick.certificate.bound >= best - 1e-9 * abs(best) - 1e-12, seed
        assert eq.check(spec, quick).ok, (seed, eq.check(spec, quick).problems)


def test_costs_that_share_no_unit_are_never_overspent_and_still_bounded() -> None:
    noted = 0
    for seed in range(25):
        random = np.random.default_rng(seed)
        size = int(random.integers(1, 4))
        tokens = random.uniform(0.1, 3.0, size)
        spec = eq.RolloutBudgets(
            prompts={"success_rate": random.random(size), "tokens": tokens},
            token_budget=float(tokens.sum() * random.uniform(2.0, 7.0)),
            value="knapsack_rl",
            most=9,
        )
        plan, top = eq.solve(spec, "fast"), oracle.best(spec, None)
        assert top is not None
        best = float(top)
        noted += any("share no unit" in note for note in plan.certificate.notes)
        assert exact_dot(tokens, plan.rollouts) <= exact(spec.token_budget or 0.0)
        assert plan.certificate.objective <= best * (1 + 1e-9) <= plan.certificate.bound * (1 + 2e-9), seed
        result = eq.check(spec, plan)
        assert result.ok, (seed, result.problems)
    assert noted > 5


def test_costs_of_any_magnitude_keep_bounds_that_hold_and_are_proved_again() -> None:
    """Against every plan there is: prices times a dear prompt's tokens are far above all values."""
    feasible = 0
    for seed in range(120):
        random = np.random.default_rng(seed)
        size, most = int(random.integers(1, 5)), int(random.integers(2, 6))
        step, least = int(random.choice([1, 1, 2])), int(random.integers(1, 3))
        value = str(random.choice(["knapsack_rl", *VARIANCES]))
        tokens = random.choice([1.0, 1 / 3, 0.1, 2.7], size) * 10.0 ** random.choice(
            [-29, -10, 0, 3, 14, 16, 20, 29], size
        )
        budget = float((tokens * int(random.integers(least, most + 1))).sum() * random.choice([1, 1.0000001, 0.999]))
        prompts = {"success_rate": random.random(size), "tokens": tokens}
        fields: dict[str, Any] = {"least": least, "most": most, "multiple_of": step, "token_budget": budget}
        spec = eq.RolloutBudgets(prompts=prompts, value=value, **fields)
        counts = range(-(-least // step) * step, most + 1, step)
        allowed = [np.array(each, np.int64) for each in product(counts, repeat=size)]
        allowed = [each for each in allowed if exact_dot(tokens, each) <= exact(budget)]
        plan = solved(spec, method="fast")
        assert (plan is None) == (not allowed), seed
        if plan is None:
            continue
        feasible += 1
        best = max(spec.objective(RolloutPlan(rollouts=each, price=0.0)) for each in allowed)
        assert plan.certificate.bound >= best - 1e-9 * abs(best), seed
        assert eq.check(spec, plan).ok, (seed, eq.check(spec, plan).problems)
    assert feasible >= 60


def test_a_budget_that_the_fewest_rollouts_use_up_to_the_last_decimal_is_proved() -> None:
    """0.3 is 3 × 0.1, which floats sum to more: no price would ever make them fit."""
    prompts = {"tokens": [0.1] * 3, "trials": [0] * 3, "successes": [0] * 3}
    prior = {"alpha": 1e-9, "beta": 1.0}
    spec = eq.RolloutBudgets(value="knapsack_rl", least=1, most=8, prior=prior, token_budget=0.3, prompts=prompts)
    plan = eq.solve(spec)
    assert plan.rollouts.tolist() == [1, 1, 1] and plan.certificate.status == "optimal"
    assert eq.check(spec, plan).ok
    assert spec.bound(RolloutPlan(rollouts=plan.rollouts, price=1e308, prior=plan.prior)) == pytest.approx(
        0.0, abs=1e-12
    )


@pytest.mark.parametrize(
    ("tokens", "budget", "field"),
    [(1e31, 1e32, r"prompts\.tokens\[0\]"), (1e-31, 1.0, r"prompts\.tokens\[0\]"), (1.0, 1e41, "token_budget")],
)
def test_costs_and_budgets_beyond_all_reason_are_refused(tokens: float, budget: float, field: str) -> None:
    prompts = {"success_rate": [0.5], "tokens": [tokens]}
    with pytest.raises(eq.SpecError, match=f"{field}: must be|{field}: .*less than or equal"):
        eq.RolloutBudgets(value="knapsack_rl", token_budget=budget, prompts=prompts)


def test_what_no_count_can_use_of_a_budget_leaves_no_gap() -> None:
    """Of 6.4 tokens, rollouts of 3.3 tokens can use 3.3."""
    table = np.array([[-2.0, 0.0], [-2.0, 2.0]])
    spec = eq.RolloutBudgets(
        prompts={"tokens": [3.3, 3.3]}, token_budget=6.4, table=table, value="table", least=0, most=1
    )
    plan = eq.solve(spec, "fast")
    assert plan.rollouts.tolist() == [0, 1]
    assert (plan.certificate.objective, plan.certificate.bound, plan.certificate.status) == (0.0, 0.0, "optimal")
    assert eq.check(spec, plan).ok


@pytest.mark.parametrize("total", [True, False])
def test_tables_that_are_not_concave_agree_with_brute_force(total: bool) -> None:
    searched = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        size, most, least = int(random.integers(1, 5)), int(random.integers(1, 6)), int(random.integers(0, 2))
        table = (
            np.round(random.normal(size=(size, most + 1)), 2) if seed % 2 else random.integers(-2, 4, (size, most + 1))
        )
        fields: dict[str, Any] = {"table": table.astype(float), "value": "table", "most": most, "least": least}
        tokens = random.choice([1.0, 2.5, 3.3], size)
        if total:
            fields["total"] = int(random.integers(size * least, size * most + 1))
        else:
            fields["token_budget"] = float(np.round(random.uniform(tokens.sum() * least, tokens.sum() * most), 1))
        spec = eq.RolloutBudgets(prompts={"tokens": tokens}, **fields)
        plan = solved(spec, method="exact")
        top = oracle.best(spec, None)
        if plan is None:
            assert top is None, seed
            continue
        assert top is not None
        assert plan.certificate.objective == pytest.approx(float(top), rel=1e-12, abs=1e-12), seed
        assert plan.certificate.status == "optimal", seed
        searched += plan.certificate.proof == "search" and "HiGHS" not in plan.certificate.method
        assert eq.check(spec, plan).ok, (seed, eq.check(spec, plan).problems)
    assert searched > 0  # some are settled by exchanges, without a program


def test_a_large_choice_meets_its_gap_and_its_bound_is_proved_again() -> None:
    random = np.random.default_rng(1)
    table = np.cumsum(random.exponential(size=(1024, 64)) * (random.random((1024, 64)) < 0.3), axis=1)
    tokens = np.round(random.lognormal(6, 1, 1024), 1)
    spec = eq.RolloutBudgets(
        prompts={"tokens": tokens}, token_budget=round(float(tokens.sum()) * 16, 1), table=table, value="table",
        least=0, most=63,
    )  # fmt: skip
    plan = eq.solve(spec, "fast")
    assert plan.certificate.gap <= 1e-3 and plan.certificate.proof == "threshold"
    assert exact_dot(tokens, plan.rollouts) <= exact(spec.token_budget or 0.0)
    result = eq.check(spec, plan)
    assert result.ok, result.problems
    assert result.bound == pytest.approx(plan.certificate.bound, rel=1e-9)


@pytest.mark.parametrize(("prompts", "each"), [(1, 5), (3, 8), (129, 8), (1000, 5), (5000, 16)])
def test_the_best_marginal_values_are_taken_whatever_the_size(prompts: int, each: int) -> None:
    """Against a heap of all marginal values, by their definition."""
    random = np.random.default_rng(prompts)
    rate = random.beta(0.4, 0.7, prompts)
    rate[:: max(prompts // 7, 1)] = 0.5  # ties
    spec = eq.RolloutBudgets(prompts={"success_rate": rate}, total=prompts * each, value="knapsack_rl")
    plan = eq.solve(spec)
    counts = np.arange(2, 128)
    gains = (rate * (1 - rate) ** 2)[:, None] * (
        rate[:, None] ** counts * (1 - rate[:, None]) + (1 - rate[:, None]) ** counts * rate[:, None]
    )
    ordered = np.sort(gains, axis=None)[::-1]
    taken = prompts * (each - 2)
    best = math.fsum(rate * (1 - rate) ** 2 * (1 - rate**2 - (1 - rate) ** 2)) + math.fsum(ordered[:taken])
    assert plan.certificate.objective == pytest.approx(best, rel=1e-12)
    assert plan.price == pytest.approx(ordered[taken], rel=1e-9)
    assert plan.certificate.status == "optimal" and plan.certificate.gap == 0


def test_prompts_that_tie_are_served_in_turn() -> None:
    spec = eq.RolloutBudgets(prompts={"success_rate": [0.5] * 5}, total=13, value="knapsack_rl")
    assert eq.solve(spec).rollouts.tolist() == [3, 3, 3, 2, 2]


def test_rollouts_that_help_nobody_are_spread_evenly() -> None:
    """Rates of exactly 0 and 1 never have a gradient."""
    spec = eq.RolloutBudgets(prompts={"success_rate": [0.0, 1.0, 0.0]}, total=15, value="knapsack_rl")
    plan = eq.solve(spec)
    assert plan.rollouts.tolist() == [5, 5, 5]
    assert plan.price == 0 and plan.certificate.objective == 0 and plan.certificate.status == "optimal"


def test_a_huge_most_costs_nothing() -> None:
    """No table of counts is built; most of it could never be reached."""
    random = np.random.default_rng(2)
    successes = random.binomial(8, random.beta(0.5, 0.5, 3000))
    fields: dict[str, Any] = {"prompts": {"successes": successes, "trials": np.full(3000, 8)}, "total": 24000}
    wide = eq.RolloutBudgets(**fields, most=2**53)
    plan, narrow = eq.solve(wide), eq.solve(eq.RolloutBudgets(**fields, most=2000))
    assert plan.rollouts.max() < 2000
    assert plan.rollouts.tolist() == narrow.rollouts.tolist()
    assert eq.check(wide, plan).ok


def test_a_task_too_large_for_the_program_says_so_and_is_still_explained() -> None:
    fields: dict[str, Any] = {"prompts": {"success_rate": [0.5] * 300}, "value": "knapsack_rl", "most": 2**40}
    with pytest.raises(eq.UnsupportedError, match="300 prompts with up to"):
        eq.solve(eq.RolloutBudgets(**fields, total=6000), backend="highs")
    with pytest.raises(eq.InfeasibleError, match=r"least 2 × 300 prompts = 600, but total is 500"):
        eq.solve(eq.RolloutBudgets(**fields, total=500))


def test_a_total_beyond_all_reason_is_refused() -> None:
    with pytest.raises(eq.SpecError, match="total: must be at most 16777216"):
        eq.RolloutBudgets(prompts={"success_rate": [0.5]}, value="knapsack_rl", total=2**40, most=2**41)


def test_a_multiple_beyond_all_reason_is_refused() -> None:
    """Its rollouts would have to be gone through one by one, for the price of the first that is not taken."""
    fields: dict[str, Any] = {"value": "knapsack_rl", "least": 0, "most": 10**10, "total": 0}
    with pytest.raises(eq.SpecError, match="multiple_of: must be at most 16777216 for 1 prompts"):
        eq.RolloutBudgets(**fields, multiple_of=10**10, prompts={"success_rate": [0.5]})
    with pytest.raises(eq.SpecError, match="multiple_of: must be at most 16777 for 1000 prompts"):
        eq.RolloutBudgets(**fields, multiple_of=16778, prompts={"success_rate": [0.5] * 1000})


FAR: list[tuple[dict[str, Any], set[str]]] = [
    ({"least": 10**10, "most": 10**10, "total": 0}, {"least", "total"}),
    ({"least": 2**53, "most": 2**53, "total": 2**24}, {"least", "total"}),
    ({"drawn": 2**52, "most": 2**53, "total": 2**24}, {"prompts.drawn", "total"}),
    ({"groups": {"name": ["a"], "least": [2**52]}, "most": 2**53, "total": 2**24}, {"groups.least", "total"}),
]


@pytest.mark.parametrize(("fields", "conflict"), FAR)
def test_what_no_total_can_reach_is_told_before_anything_is_climbed(fields: dict[str, Any], conflict: set[str]) -> None:
    """Climbing there rollout by rollout would take days."""
    prompts: dict[str, Any] = {"success_rate": [0.5] * 2048, "group": ["a"] * 2048}
    if drawn := fields.get("drawn"):
        prompts |= {"drawn": [drawn] * 2048, "drawn_successes": [1] * 2048}
    fields = {name: value for name, value in fields.items() if name != "drawn"}
    with pytest.raises(eq.InfeasibleError) as caught:
        eq.solve(eq.RolloutBudgets(prompts=prompts, value="knapsack_rl", **fields))
    assert set(caught.value.fields) == conflict
    assert all(field != "total" for field in caught.value.change), "no total that large is allowed"


def test_the_most_that_prompts_could_take_together_may_exceed_all_integers() -> None:
    """2**53 for each of 2048 prompts is a whole multiple of 2**64."""
    spec = eq.RolloutBudgets(prompts={"success_rate": [0.5] * 2048}, total=6000, value="knapsack_rl", most=2**53)
    plan = eq.solve(spec)
    assert int(plan.rollouts.sum()) == 6000 and plan.certificate.status == "optimal"


def test_a_bound_of_a_group_that_cannot_bind_is_not_climbed_to() -> None:
    prompts = {"success_rate": [0.5, 0.3, 0.2, 0.1], "group": ["a", "a", "b", "b"]}
    groups = {"name": ["a", "b"], "most": [2**52, 12]}
    spec = eq.RolloutBudgets(prompts=prompts, groups=groups, total=40, value="knapsack_rl", most=2**53)
    plan = eq.solve(spec)
    assert int(plan.rollouts[2:].sum()) == 12 and plan.certificate.status == "optimal"
    assert eq.check(spec, plan).ok


def test_groups_that_would_be_climbed_to_for_minutes_are_left_to_the_program() -> None:
    names = [str(row) for row in range(100)]
    prompts = {"success_rate": [0.5] * 100, "group": names}
    groups = {"name": names, "most": [2**23] * 100}
    spec = eq.RolloutBudgets(prompts=prompts, groups=groups, total=2**24, value="knapsack_rl", most=2**24)
    with pytest.raises(eq.UnsupportedError, match=r"groups\.most adds up to more than 67108864"):
        eq.solve(spec, method="fast")
    with pytest.raises(eq.UnsupportedError, match="too large"):
        eq.solve(spec)


def test_the_same_seed_gives_the_same_plan_on_any_number_of_threads() -> None:
    for seed in range(5):
        spec = eq.RolloutBudgets(**random_fields(seed, "knapsack_rl", 300))
        plans = [solved(spec, threads=threads) for threads in (1, 2, 1)]
        if plans[0] is not None:
            assert all(plan == plans[0] for plan in plans)


def test_a_session_gives_the_plans_of_single_solves() -> None:
    random = np.random.default_rng(3)
    trials = np.full(64, 8)
    histories = [random.binomial(8, random.beta(0.5, 0.5, 64)) for _ in range(4)]
    specs = [eq.RolloutBudgets(prompts={"successes": won, "trials": trials}, total=512) for won in histories]
    with eq.session(specs[0]) as session:
        for won, spec in zip(histories, specs, strict=True):
            assert session.step(prompts={"successes": won, "trials": trials}) == eq.solve(spec)


def test_groups_with_token_costs_go_to_the_program() -> None:
    spec = eq.RolloutBudgets(
        prompts={"success_rate": [0.5, 0.2], "tokens": [2.0, 3.0], "group": ["a", "b"]},
        groups={"name": ["a", "b"], "most": [5, 9]},
        token_budget=40.0,
        value="knapsack_rl",
    )
    assert "HiGHS" in eq.solve(spec).certificate.method
    with pytest.raises(eq.UnsupportedError, match="bounds of groups need a total"):
        eq.solve(spec, "fast")


def test_exchanges_find_what_brute_force_finds() -> None:
    """The dynamic program alone, from the poorest plan there is."""
    proven = 0
    for seed in range(150):
        random = np.random.default_rng(seed)
        size, width = int(random.integers(1, 6)), int(random.integers(1, 6))
        values, cost = random.normal(size=(size, width)), random.integers(1, 6, size)
        whole = seed % 2 == 0
        cost = np.ones(size, np.int64) if whole else cost
        top = np.full(size, width - 1)
        room = int(random.integers(0, (cost * top).sum() + 1))
        corner, corners = np.empty((size, width), np.int64), np.empty(size, np.int64)
        counts, surplus = np.empty(size, np.int64), np.empty(size)
        multiple_choice.hulls(values, top, whole, corner, corners)
        price = multiple_choice.critical(values, cost, corner, corners, float(room), whole)
        left = multiple_choice.relax(values, cost, corner, corners, room, price, whole, counts, surplus)
        highest = multiple_choice.bound(values, cost.astype(float), corner, corners, float(room), price)
        multiple_choice.fill(values, cost, top, left, price, whole, 0, counts)
        counts, proved = choice.exchanged(values, top, cost, room, whole, price, surplus, counts, 0.0)
        fits = [
            sum(values[item, count] for item, count in enumerate(chosen))
            for chosen in product(range(width), repeat=size)
            if (spent := int(cost @ chosen)) == room or (not whole and spent < room)
        ]
        spent = int(cost @ counts)
        assert spent == room if whole else spent <= room
        achieved = float(values[np.arange(size), counts].sum())
        assert highest >= max(fits) - 1e-12, seed
        assert proved, seed
        assert achieved == pytest.approx(max(fits), abs=1e-12), seed
        proven += 1
    assert proven == 150


def test_a_purse_of_decimals_is_the_one_counted_in_fractions() -> None:
    random = np.random.default_rng(4)
    for case in range(300):
        size, lot = int(random.integers(0, 6)), int(random.integers(1, 5))
        cost = random.choice([0.1, 0.3, 1.5, 7.0, 1e-9, 123456.789, 3e12, 1 / 3, 1e-15], size)
        budget = float(np.round(random.uniform(0, 1000), 2))
        one, other = purse(cost, lot, budget), _purse_one_by_one(cost, lot, exact(budget))
        assert (one.unit, one.room, one.coarse) == (other.unit, other.room, other.coarse), case
        assert one.cost.tolist() == other.cost.tolist(), case


@pytest.mark.parametrize(
    ("successes", "trials"),
    [([0], [2**53]), ([2**53, 0], [2**53, 2**53]), ([5000, 20000, 100], [10000, 40000, 100]), ([0, 1, 1], [1, 1, 1])],
)
def test_the_prior_is_fitted_to_any_history(successes: list[int], trials: list[int]) -> None:
    alpha, beta = fit_beta(np.array(successes), np.array(trials))
    assert 0.01 <= alpha <= 1000 and 0.01 <= beta <= 1000


def test_long_histories_are_fitted_as_well_as_short_ones() -> None:
    """Beyond 4,096 rollouts the likelihood follows a series; it is the same function."""
    random = np.random.default_rng(6)
    trials = random.integers(3000, 9000, 400)
    successes = random.binomial(trials, random.beta(2.0, 5.0, 400))
    alpha, beta = fit_beta(successes, trials)

    def likelihood(alpha: float, beta: float) -> float:
        return math.fsum(
            math.lgamma(alpha + s) + math.lgamma(beta + t - s) - math.lgamma(alpha + beta + t)
            - math.lgamma(alpha) - math.lgamma(beta) + math.lgamma(alpha + beta)
            for s, t in zip(successes.tolist(), trials.tolist(), strict=True)
        )  # fmt: skip

    best = likelihood(alpha, beta)
    for up in (0.995, 1.005):
        assert likelihood(alpha * up, beta) < best
        assert likelihood(alpha, beta * up) < best
