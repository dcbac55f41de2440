"""Rollout budgets: the exact method against enumeration, the edges, tampering, conflicts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import equipoise as eq
from equipoise.solvers.conflicts import find_conflict
from equipoise.solvers.formulation import formulation

from .oracles import rollout_budgets as oracle

ANY_PRIOR = eq.RolloutBudgets(prompts={"successes": [], "trials": []}, total=0, prior={"alpha": 1, "beta": 1}).prior
VALUES = ("posterior", "knapsack_rl", "neyman", "gvm", "vip", "table")


def random_spec(seed: int) -> eq.RolloutBudgets:
    """A small task of any value, with or without draws, groups, multiples and token costs."""
    random = np.random.default_rng(seed)
    prompts, most = int(random.integers(1, 5)), int(random.integers(3, 7))
    value = VALUES[seed % len(VALUES)]
    step = int(random.choice([1, 1, 1, 2]))
    fields: dict[str, Any] = {"value": value, "most": most, "multiple_of": step}
    least = int(random.integers(1 if value in ("neyman", "gvm", "vip") else 0, 3))
    fields["least"] = min(least, most)
    table: dict[str, Any] = {}
    if value == "posterior" or random.random() < 0.4:
        trials = random.integers(0, 9, prompts)
        table |= {"trials": trials, "successes": random.binomial(trials, random.beta(0.5, 0.5, prompts))}
    else:
        table["success_rate"] = random.choice([0.0, 0.1, 0.25, 0.5, 0.9, 1.0], prompts)
    if value in ("posterior", "knapsack_rl") and random.random() < 0.4:
        drawn = random.integers(0, min(3, most) + 1, prompts)
        table |= {"drawn": drawn, "drawn_successes": random.binomial(drawn, 0.5)}
    if value == "table":
        fields["table"] = random.choice([0.0, 0.5, 1.0, 2.0, -1.0], (prompts, most + 1))
    if value in ("neyman", "gvm", "vip") and random.random() < 0.5:
        table["gradient_norm"] = random.choice([0.0, 0.5, 2.0], prompts)
    if random.random() < 0.3:
        table["tokens"] = random.choice([0.1, 0.3, 1.5, 7.0], prompts)
        fields["token_budget"] = float(np.round(table["tokens"].sum() * random.integers(1, most + 1), 1))
    else:
        fields["total"] = int(random.integers(0, prompts * most + 2)) // step * step
    if random.random() < 0.3:
        table["group"] = random.choice(["a", "b"], prompts).tolist()
        low = random.integers(0, 3, 2)
        fields["groups"] = {"name": ["a", "b"], "least": low, "most": low + random.integers(0, 9, 2)}
    if random.random() < 0.5:
        fields["prior"] = {"alpha": 0.5, "beta": 2.0}
    return eq.RolloutBudgets(prompts=table, **fields)


@pytest.mark.parametrize("block", range(12))
def test_exact_equals_enumeration(block: int) -> None:
    feasible = 0
    for seed in range(block * 25, block * 25 + 25):
        spec = random_spec(seed)
        plan = oracle.solved(spec)
        if plan is None:
            assert oracle.best(spec, ANY_PRIOR) is None, seed  # no prior makes a count allowed
            continue
        top = oracle.best(spec, plan.prior)
        feasible += 1
        assert top is not None, seed
        assert plan.certificate.status == "optimal", seed
        assert plan.certificate.objective == pytest.approx(float(top), rel=1e-9, abs=1e-12), seed
        result = eq.check(spec, plan)
        assert result.ok, (seed, result.problems)
    assert feasible >= 8


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_edges_are_solved_to_the_optimum(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 3))
    successes = data.draw(st.lists(st.sampled_from([0, 1, 4]), min_size=size, max_size=size))
    least, most = data.draw(st.sampled_from([(0, 3), (1, 1), (2, 4), (3, 3)]))
    total = data.draw(st.sampled_from([size * least, size * most, (size * least + size * most) // 2]))
    spec = eq.RolloutBudgets(
        prompts={"successes": successes, "trials": [4] * size}, total=total, least=least, most=most
    )
    plan = eq.solve(spec, "exact")
    top = oracle.best(spec, plan.prior)
    assert top is not None
    assert plan.certificate.objective == pytest.approx(float(top), rel=1e-9, abs=1e-13)
    assert eq.check(spec, plan).ok


def test_no_prompts_need_no_rollouts() -> None:
    spec = eq.RolloutBudgets(prompts={"successes": [], "trials": []}, total=0)
    plan = eq.solve(spec)
    assert plan.rollouts.size == 0
    assert eq.check(spec, plan).ok


def test_small_marginal_values_keep_their_digits() -> None:
    """At rates of 10⁻⁴ the values lie far below a solver's default tolerances."""
    rates = np.array([1e-4, 2e-4, 3e-4, 1e-5, 0.5])
    spec = eq.RolloutBudgets(prompts={"success_rate": rates}, total=40, most=30, value="knapsack_rl")
    plan = eq.solve(spec, "exact")
    worth = rates * (1 - rates) ** 2
    gains = np.array(
        [[w * (p**n * (1 - p) + (1 - p) ** n * p) for n in range(2, 30)] for w, p in zip(worth, rates, strict=True)]
    )
    first = worth * (1 - rates**2 - (1 - rates) ** 2)
    best = math.fsum(first) + math.fsum(np.sort(gains.ravel())[::-1][:30])
    assert plan.certificate.objective == pytest.approx(best, rel=1e-12)
    assert plan.certificate.gap <= 1e-9


def test_a_prompt_with_both_outcomes_drawn_gets_nothing_more() -> None:
    prompts = {"successes": [4, 4], "trials": [8, 8], "drawn": [2, 2], "drawn_successes": [1, 2]}
    plan = eq.solve(eq.RolloutBudgets(prompts=prompts, total=10))
    assert plan.rollouts.tolist() == [2, 8]


def test_group_bounds_are_kept_and_priced() -> None:
    spec = eq.RolloutBudgets(
        prompts={"success_rate": [0.5, 0.5, 0.05, 0.05], "group": ["maths", "maths", "code", "code"]},
        groups={"name": ["maths", "code"], "least": [0, 20], "most": [8, 100]},
        total=32,
        value="knapsack_rl",
    )
    plan = eq.solve(spec)
    assert plan.rollouts[:2].sum() == 8
    assert plan.group_price is not None and plan.group_price[0] > 0
    assert plan.certificate.proof == "threshold"
    assert eq.check(spec, plan).ok


def test_a_decimal_token_budget_is_met_exactly() -> None:
    """3 × 0.1 is 0.3 in decimals, and 0.30000000000000004 in binary."""
    spec = eq.RolloutBudgets(
        prompts={"success_rate": [0.5], "tokens": [0.1]}, token_budget=0.3, least=1, value="knapsack_rl"
    )
    plan = eq.solve(spec, "exact")
    assert plan.rollouts.tolist() == [3]
    assert eq.check(spec, plan).ok


TAMPERED = [
    ("rollouts", lambda a: a + np.array([1, 0, 0, 0]), "total"),
    ("rollouts", lambda a: np.array([0, a.sum() - 4, 2, 2]), "least"),
    ("rollouts", lambda a: a[:3], "shape"),
    ("price", lambda p: p * 1.001, "price"),
    ("price", lambda p: -p, "price"),
    ("expected_gradient_share", lambda s: s * 0.999, "expected_gradient_share"),
    ("prior", lambda b: {"alpha": b.alpha * 1.01, "beta": b.beta}, "price"),
]


@pytest.mark.parametrize(("field", "change", "rule"), TAMPERED)
def test_a_tampered_plan_fails_the_check(field: str, change: Any, rule: str) -> None:
    spec = eq.RolloutBudgets(prompts={"successes": [3, 0, 8, 5], "trials": [8, 8, 8, 8]}, total=40)
    plan = eq.solve(spec)
    fields = plan.fields() | {field: change(getattr(plan, field))}
    forged = type(plan)(**fields).with_certificate(plan.certificate)
    result = eq.check(spec, forged)
    assert not result.ok
    assert any(problem.startswith(rule) for problem in result.problems), result.problems


CERTIFICATE_TAMPERED = [
    ("objective", 1.01, "objective"),
    ("bound", 0.99, "bound"),
    ("gap", None, "gap"),
    ("sense", "minimise", "sense"),
    ("violation", 1.0, "violation"),
]


@pytest.mark.parametrize(("field", "change", "word"), CERTIFICATE_TAMPERED)
def test_a_tampered_certificate_fails_the_check(field: str, change: Any, word: str) -> None:
    spec = eq.RolloutBudgets(prompts={"successes": [3, 0, 8, 5], "trials": [8, 8, 8, 8]}, total=40)
    plan = eq.solve(spec)
    old = getattr(plan.certificate, field)
    new = 0.1 if change is None else old * change if isinstance(old, float) and old else change
    forged = plan.with_certificate(plan.certificate.model_copy(update={field: new}))
    result = eq.check(spec, forged)
    assert any(f"certificate.{word}" in problem for problem in result.problems), result.problems


HISTORY = {"successes": [3, 0, 8, 5], "trials": [8, 8, 8, 8]}
CONFLICTS = [
    ({"total": 4}, {"least", "total"}, "least 2 × 4 prompts = 8, but total is 4"),
    ({"total": 900}, {"most", "total"}, "most 128 × 4 prompts = 512, but total is 900"),
    (
        {
            "token_budget": 400.0,
            "prompts": HISTORY | {"tokens": [10.0, 10.0, 10.0, 10.0]},
            "least": 5,
            "most": 7,
            "multiple_of": 4,
        },
        {"least", "most"},
        "no multiple of 4 lies between least 5 and most 7; set least to 4 or most to 8",
    ),
    ({"total": 42, "multiple_of": 8}, {"multiple_of", "total"}, "set total to 40 or 48"),
    (
        {"total": 10, "prompts": HISTORY | {"drawn": [5, 5, 5, 5], "drawn_successes": [0] * 4}},
        {"prompts.drawn", "total"},
        "prompts.drawn already holds 20 rollouts",
    ),
    (
        {
            "total": 40,
            "prompts": HISTORY | {"group": ["a", "a", "b", "b"]},
            "groups": {"name": ["a", "b"], "most": [10, 10]},
        },
        {"groups.most", "total"},
        "groups.most adds up to 20",
    ),
    (
        {
            "total": 40,
            "prompts": HISTORY | {"group": ["a", "a", "b", "b"]},
            "groups": {"name": ["a", "b"], "least": [10, 50]},
        },
        {"groups.least", "total"},
        "groups.least adds up to 60",
    ),
    (
        {"total": None, "token_budget": 50.0, "prompts": HISTORY | {"tokens": [10.0, 10.0, 10.0, 10.0]}},
        {"least", "token_budget"},
        "takes 80 tokens",
    ),
]


SWAY = np.where(np.arange(13) % 2, 2e-300, -2e-300)
HALVES: dict[str, Any] = {"success_rate": [0.5, 0.5]}
HARD: list[tuple[dict[str, Any], set[str]]] = [
    ({"least": 5, "most": 12, "token_budget": 1.0, "prompts": HALVES | {"tokens": [0.1, 1 / 3]}}, {"least"}),
    (
        {
            "least": 3,
            "most": 6,
            "token_budget": 2.4,
            "prompts": HALVES | {"drawn": [5, 6], "drawn_successes": [3, 5], "tokens": [0.1, 1 / 3]},
        },
        {"prompts.drawn"},
    ),
    (
        {
            "value": "table",
            "most": 12,
            "multiple_of": 4,
            "token_budget": 3.7,
            "table": np.stack([SWAY, SWAY]),
            "prompts": {"tokens": [0.5, 0.7]},
        },
        {"least"},
    ),
    ({"least": 1, "token_budget": 1e10, "prompts": HALVES | {"tokens": [1e-30, 1e30]}}, {"least"}),
]


@pytest.mark.parametrize(("fields", "conflict"), HARD)
@pytest.mark.parametrize("method", ["fast", "exact"])
def test_a_conflict_is_found_by_the_rules_alone_whatever_values_and_costs_are(
    fields: dict[str, Any], conflict: set[str], method: Any
) -> None:
    spec = eq.RolloutBudgets(**({"value": "knapsack_rl"} | fields))
    with pytest.raises(eq.InfeasibleError) as caught:
        eq.solve(spec, method=method)
    assert set(caught.value.fields) == conflict | {"token_budget"}
    for field, value in caught.value.change.items():
        mended = spec.replace(**{field: int(value) if field == "least" else value})
        assert eq.check(mended, eq.solve(mended, method="fast")).ok


def test_a_total_that_is_no_multiple_is_told_whatever_a_table_holds() -> None:
    fields: dict[str, Any] = {"value": "table", "least": 1, "most": 2, "multiple_of": 2, "total": 3}
    with pytest.raises(eq.InfeasibleError, match="total 3 is not a multiple of 2"):
        eq.solve(eq.RolloutBudgets(**fields, table=np.full((2, 3), 1e-101), prompts=HALVES), method="fast")


def conflict_of(spec: eq.RolloutBudgets) -> eq.InfeasibleError | None:
    """Why a task has no plan; None if it has one."""
    try:
        eq.solve(spec, method="fast" if spec.groups is None else "exact")
    except eq.InfeasibleError as error:
        return error
    return None


def test_conflicts_are_the_ones_of_the_compiled_rules_and_every_remedy_works() -> None:
    clashes = 0
    for seed in range(300):
        spec = random_spec(seed)
        if (error := conflict_of(spec)) is None:
            continue
        clashes += 1
        compiled = find_conflict(formulation(spec).formulate())
        assert set(error.fields) == set(compiled.fields), seed
        for field, value in error.change.items():
            mended = spec.replace(**{field: value if field == "token_budget" else int(value)})
            assert eq.check(mended, eq.solve(mended)).ok, (seed, field)
    assert clashes >= 30


@pytest.mark.parametrize(("fields", "conflict", "words"), CONFLICTS)
def test_a_conflict_is_told_in_the_words_of_the_spec_and_its_remedy_works(
    fields: dict[str, Any], conflict: set[str], words: str
) -> None:
    spec = eq.RolloutBudgets(**({"prompts": HISTORY} | fields))
    with pytest.raises(eq.InfeasibleError) as caught:
        eq.solve(spec)
    assert set(caught.value.fields) == conflict
    assert words in str(caught.value)
    for field, value in caught.value.change.items():
        whole = int(value) if field != "token_budget" else value
        mended = spec.replace(**{field: whole})
        assert eq.check(mended, eq.solve(mended)).ok


def test_the_fitted_prior_is_the_most_likely_one() -> None:
    random = np.random.default_rng(5)
    trials = random.integers(0, 17, 300)
    successes = random.binomial(trials, random.beta(0.4, 1.3, 300))
    plan = eq.solve(eq.RolloutBudgets(prompts={"successes": successes, "trials": trials}, total=1000))
    assert plan.prior is not None

    def likelihood(alpha: float, beta: float) -> float:
        return math.fsum(
            math.lgamma(alpha + s) + math.lgamma(beta + t - s) - math.lgamma(alpha + beta + t)
            - math.lgamma(alpha) - math.lgamma(beta) + math.lgamma(alpha + beta)
            for s, t in zip(successes.tolist(), trials.tolist(), strict=True)
        )  # fmt: skip

    best = likelihood(plan.prior.alpha, plan.prior.beta)
    for up in (0.999, 1.001):
        assert likelihood(plan.prior.alpha * up, plan.prior.beta) < best
        assert likelihood(plan.prior.alpha, plan.prior.beta * up) < best


@pytest.mark.parametrize(
    ("successes", "trials"), [([0, 0], [0, 0]), ([8, 8], [8, 8]), ([0, 0], [8, 8]), ([4, 4], [8, 8]), ([1], [1])]
)
def test_a_degenerate_history_still_gives_a_proper_prior(successes: list[int], trials: list[int]) -> None:
    plan = eq.solve(eq.RolloutBudgets(prompts={"successes": successes, "trials": trials}, total=8))
    assert plan.prior is not None
    assert 0.01 <= plan.prior.alpha <= 1000
    assert 0.01 <= plan.prior.beta <= 1000


def test_the_plan_beats_uniform_rollouts_on_a_mixed_batch() -> None:
    from equipoise.solvers.baselines import compare

    random = np.random.default_rng(0)
    successes = random.binomial(8, random.beta(0.5, 0.5, 64))
    spec = eq.RolloutBudgets(prompts={"successes": successes, "trials": np.full(64, 8)}, total=512)
    uniform, *_ = compare(spec, eq.solve(spec))
    assert uniform.broken == 0
    assert uniform.gain > 0.01
