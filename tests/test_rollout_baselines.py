"""Today's rules for rollout budgets, on cases that can be worked out by hand, and their accounts in general."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

import equipoise as eq
from equipoise.solvers.baselines import baselines, compare

RULES = baselines("rollout_budgets")


def rollouts(rule: str, prompts: dict[str, Any], **fields: Any) -> list[int]:
    """What a rule gives each prompt."""
    plan: Any = RULES[rule](eq.RolloutBudgets(prompts=prompts, **fields))
    return plan.rollouts.tolist()


def rates(*rates: float) -> dict[str, Any]:
    return {"success_rate": list(rates)}


KNOWN = {"value": "knapsack_rl"}


def test_neyman_goes_with_the_standard_deviation() -> None:
    """√(p·q) is 0.5, 0.3 and 0.4."""
    assert rollouts("Neyman", rates(0.5, 0.1, 0.8), total=24, **KNOWN) == [10, 6, 8]


def test_neyman_goes_with_the_norm_of_the_gradient() -> None:
    prompts = rates(0.5, 0.5) | {"gradient_norm": [1.0, 3.0]}
    assert rollouts("Neyman", prompts, total=16, value="neyman") == [4, 12]


def test_neyman_goes_with_one_over_the_root_of_the_cost() -> None:
    """At a quarter of the tokens a prompt gets twice the rollouts: 12 × 1 + 6 × 4 tokens."""
    prompts = rates(0.5, 0.5) | {"tokens": [1.0, 4.0]}
    assert rollouts("Neyman", prompts, token_budget=36.0, **KNOWN) == [12, 6]


def test_neyman_gives_a_prompt_that_never_varied_the_least() -> None:
    assert rollouts("Neyman", {"successes": [0, 4, 8], "trials": [8, 8, 8]}, total=24) == [2, 20, 2]


def test_gvm_goes_with_one_over_the_root_of_the_rate() -> None:
    """p + 0.001/p is 0.8112… at 0.81 and 0.0925… at 0.08: roots of 0.9007 and 0.3041, a ratio of 2.96."""
    assert rollouts("GVM", rates(0.81, 0.08, 0.0), total=34, **KNOWN) == [8, 24, 2]


def test_vip_is_the_optimum_of_its_objective() -> None:
    prompts = rates(0.01, 0.1, 0.2, 0.4, 0.5, 0.8, 0.95, 0.99)
    found = rollouts("VIP", prompts, total=64, least=4, most=12, value="vip")
    assert found == [4, 7, 10, 12, 12, 10, 5, 4]
    best = eq.solve(eq.RolloutBudgets(prompts=prompts, total=64, least=4, most=12, value="vip"), backend="highs")
    assert best.rollouts.tolist() == found


def test_vip_gives_everyone_three_where_that_is_affordable() -> None:
    assert rollouts("VIP", rates(0.5, 0.0), total=8, least=2, value="vip") == [5, 3]
    assert rollouts("VIP", rates(0.5, 0.0), total=5, least=2, value="vip") == [3, 2]


def knapsack_value(counts: tuple[int, ...], rates: list[float]) -> float:
    return sum((1 - p**n - (1 - p) ** n) * p * (1 - p) ** 2 for n, p in zip(counts, rates, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_knapsack_rl_is_the_optimum_of_its_value_where_all_rates_are_inside(seed: int) -> None:
    """Hard rates: a gradient at 0.9 each takes more than there is, and the fallback stays out."""
    hard = np.random.default_rng(seed).uniform(0.02, 0.2, 3).tolist()
    found = rollouts("Knapsack RL", rates(*hard), total=18, least=1, most=12, **KNOWN)
    plans = [counts for counts in product(range(1, 13), repeat=3) if sum(counts) == 18]
    assert knapsack_value(tuple(found), hard) == pytest.approx(max(knapsack_value(n, hard) for n in plans), rel=1e-12)


def test_knapsack_rl_leaves_what_is_left_to_prompts_that_were_never_solved() -> None:
    """Each has 2. At ½, log 0.1/log ½ = 3.3, so 3 more are set aside; the other 21 go evenly to the two at 0 of 8."""
    prompts = {"successes": [4, 0, 0, 8], "trials": [8, 8, 8, 8]}
    assert rollouts("Knapsack RL", prompts, total=32) == [5, 13, 12, 2]


def test_knapsack_rl_leaves_it_to_solved_prompts_where_none_is_unsolved() -> None:
    assert rollouts("Knapsack RL", {"successes": [4, 8, 8], "trials": [8, 8, 8]}, total=24) == [5, 10, 9]


def test_knapsack_rl_gives_prompts_at_the_ends_the_least_where_the_others_need_everything() -> None:
    """At 1 of 8, log 0.1/log 0.875 = 17.2: more than the 16 that are left."""
    prompts = {"successes": [1, 0, 8], "trials": [8, 8, 8]}
    assert rollouts("Knapsack RL", prompts, total=22) == [18, 2, 2]


def test_knapsack_rl_gives_new_prompts_what_uniform_gives() -> None:
    found = rollouts("Knapsack RL", {"successes": [1, 0, 0], "trials": [8, 8, 0]}, total=24)
    assert found == [14, 2, 8]


def test_a_prompt_without_history_counts_as_a_coin_toss() -> None:
    assert rollouts("Neyman", {"successes": [0, 4], "trials": [0, 8]}, total=16) == [8, 8]


def random_spec(seed: int) -> eq.RolloutBudgets:
    random = np.random.default_rng(seed)
    prompts, step = int(random.integers(1, 12)), int(random.choice([1, 2, 4]))
    least, most = int(random.integers(1, 4)), int(random.integers(8, 20))
    trials = random.integers(0, 9, prompts)
    table: dict[str, Any] = {"trials": trials, "successes": random.binomial(trials, random.beta(0.5, 0.5, prompts))}
    fields: dict[str, Any] = {"least": least, "most": most, "multiple_of": step}
    low, high = -(-least // step) * step, most // step * step
    if seed % 2:
        table["drawn"] = random.integers(0, low + 1, prompts)
        table["drawn_successes"] = random.binomial(table["drawn"], 0.5)
    if seed % 3:
        fields["total"] = int(random.integers(low // step, high // step + 1)) * step * prompts
    else:
        table["tokens"] = random.choice([0.1, 0.7, 3.0], prompts)
        fields["token_budget"] = round(float(table["tokens"].sum() * low * random.uniform(1.01, 2)), 1)
    return eq.RolloutBudgets(prompts=table, **fields)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_spends_the_budget_and_keeps_the_bounds(rule: str) -> None:
    """`rules` holds them against all demands of the spec, and against what their plans say of themselves."""
    for seed in range(60):
        spec = random_spec(seed)
        plan: Any = RULES[rule](spec)
        assert [str(broken) for broken in spec.rules(plan)] == [], seed


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_leaves_tokens_for_another_rollout(rule: str) -> None:
    for seed in range(0, 60, 3):
        spec: Any = random_spec(seed)
        plan: Any = RULES[rule](spec)
        left = spec.token_budget - plan.rollouts @ spec.prompts.tokens
        room = plan.rollouts + spec.multiple_of <= spec.most
        assert (left < spec.prompts.tokens[room] * spec.multiple_of + 1e-9).all(), seed


@pytest.mark.parametrize("rule", RULES)
def test_a_budget_below_the_least_is_overspent_not_cut(rule: str) -> None:
    assert rollouts(rule, {"successes": [1, 2], "trials": [4, 4]}, total=3) == [2, 2]


@pytest.mark.parametrize("rule", RULES)
def test_no_prompts_get_no_rollouts(rule: str) -> None:
    assert rollouts(rule, {"successes": [], "trials": []}, total=0) == []


def test_rules_stand_beside_a_plan_of_any_value() -> None:
    for value in ("posterior", "knapsack_rl", "neyman", "gvm", "vip", "table"):
        prompts = {"successes": [0, 3, 8], "trials": [8, 8, 8]}
        table = np.sqrt(np.arange(11.0)) * np.ones((3, 1)) if value == "table" else None
        spec = eq.RolloutBudgets(prompts=prompts, total=24, most=10, value=value, table=table)
        compared = compare(spec, eq.solve(spec, "exact"))
        assert [one.name for one in compared] == list(RULES)
        assert all(one.gain >= -1e-12 or one.broken for one in compared), value
