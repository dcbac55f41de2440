"""Specs and plans that a stranger wrote to cost much: refused, or cut off, before they do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import equipoise as eq
from equipoise.solvers.algorithms import rollout_steps
from equipoise.solvers.algorithms.collection_budgets import CollectionAlgorithm
from equipoise.solvers.algorithms.decode_allocation import DecodeSearch
from equipoise.solvers.algorithms.expert_assignment import ExpertAlgorithm
from equipoise.solvers.algorithms.rollout_budgets import RolloutAlgorithm
from equipoise.solvers.collection_curves import nonnegative_least_squares
from equipoise.specs.collection_budgets import CollectionPlan
from equipoise.specs.collection_sense import MOST_FITTED
from equipoise.specs.reading import parse
from equipoise.specs.rollout_budgets import RolloutPlan
from equipoise.specs.rollout_worth import Worth
from equipoise.specs.spec import kind

LARGE = 2**26
"""Numbers that no thread of a service should be asked for."""


def rollouts(**fields: Any) -> eq.RolloutBudgets:
    return eq.RolloutBudgets(**{"prompts": {"success_rate": [0.5, 0.3]}, "total": 8, "value": "knapsack_rl"} | fields)


def fitted(observations: int, groups: int = 1, **fields: Any) -> dict[str, Any]:
    """A spec of curves to fit, to so many observations of each group."""
    samples = np.tile(10 + np.arange(observations), groups)
    names = [f"group {number}" for number in range(groups)]
    return {
        "groups": {"name": names, "collected": [10] * groups},
        "observations": {
            "group": [name for name in names for _ in range(observations)],
            "samples": samples,
            "loss": 0.2 + 3 * samples**-0.3,
        },
        "budget": 100.0,
        "model": "convex_monotone",
    } | fields


def test_a_plan_that_breaks_a_demand_is_asked_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its counts may be anything: what it reports is not recomputed from them."""
    spec = eq.RolloutBudgets(
        prompts={"successes": [1], "trials": [2]}, total=2, prior={"alpha": 1.0, "beta": 1.0}, most=2**53 - 1
    )
    plan = RolloutPlan(rollouts=[2**53 - 1], price=3.0, prior={"alpha": 1.0, "beta": 1.0}, expected_gradient_share=0.5)

    def walked(*_: Any) -> None:
        raise AssertionError("9 007 199 254 740 991 rollouts were gone through")

    monkeypatch.setattr(Worth, "_powers", walked)
    problems = eq.check(spec, plan).problems
    assert problems == ("total: rollouts sum to 9007199254740991, must sum to 2",)


def test_prompts_whose_outcomes_are_both_there_are_worth_nothing_more() -> None:
    """So the judge need not go through all counts at a price of 0 to find it out."""
    seen = {"success_rate": [0.5, 0.5], "drawn": [3, 3], "drawn_successes": [1, 3]}
    assert Worth(rollouts(prompts=seen), None).limit.tolist() == [0.0, 0.125]


def test_only_so_many_problems_are_told() -> None:
    with pytest.raises(eq.SpecError) as error:
        rollouts(**{f"field{number}": 0 for number in range(250)})
    assert len(error.value.problems) == 101
    assert error.value.problems[-1].message == "and 150 more problems"


@pytest.mark.parametrize(
    "read",
    [
        lambda: kind("x" * 10**6),
        lambda: parse('{"kind": "rollout_budgets", ' + ", ".join([f'"{"x" * 10**6}": 0'] * 2) + "}", "spec.json", None),
        lambda: rollouts(
            prompts={"success_rate": [0.5], "group": ["x" * 10**6]}, groups={"name": [str(row) for row in range(10**5)]}
        ),
        lambda: rollouts(
            prompts={"success_rate": [0.5], "group": ["x"]}, groups={"name": [str(row) for row in range(10**5)]}
        ),
        lambda: rollouts(prompts={"success_rate": [0.5]}, groups={"name": ["x" * 10**6] * 2}),
        lambda: eq.CollectionBudgets(
            **fitted(3, groups=1000) | {"observations": {"group": ["x" * 10**6], "samples": [1], "loss": [1.0]}}
        ),
    ],
    ids=["kind", "field given twice", "long name of a group", "groups", "group given twice", "observed group"],
)
def test_errors_stay_short_whatever_is_long(read: Any) -> None:
    with pytest.raises(eq.SpecError) as error:
        read()
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [((0, 5), (0, 7), False), ((3, 0), (0, 0), False), ((3, 0), (4, 0), False), ((0, 0), (0,), True)],
)
def test_tables_without_numbers_have_the_digest_of_their_shape(one: Any, other: Any, same: bool) -> None:
    specs = [eq.ExpertAssignment(scores=np.zeros(shape), experts_per_token=1) for shape in (one, other)]
    assert (specs[0].digest() == specs[1].digest()) == same
    assert (specs[0] == specs[1]) == same


def test_an_empty_list_has_one_digest_wherever_it_stands() -> None:
    text = "kind: expert_assignment\nscores: []\nexperts_per_token: 1\n"
    arrays = [eq.ExpertAssignment(scores=scores, experts_per_token=1) for scores in ([], np.zeros((0, 0)))]
    assert len({spec.digest() for spec in (parse(text, "spec.yaml", None), *arrays)}) == 1


def test_a_batch_without_tokens_keeps_its_certificate_in_lists(tmp_path: Any) -> None:
    """They forget how many experts there are; another spec's certificate is still told from this one's."""
    spec = eq.ExpertAssignment(scores=np.zeros((0, 5)), experts_per_token=1)
    eq.save(eq.solve(spec), tmp_path / "plan.json", spec=spec)
    plan = eq.load_plan(tmp_path / "plan.json")
    assert eq.check(spec, plan).ok
    assert not eq.check(spec.replace(capacity=3), plan).ok


@pytest.mark.parametrize("stderr", [[0.1, 1e-300, 0.1], [0.1, 1e60, 0.1], [1.0, 1e-16, 1.0]])
def test_standard_errors_that_leave_nothing_of_the_others_are_refused(stderr: list[float]) -> None:
    task = fitted(3, model="power_law")
    with pytest.raises(eq.SpecError, match=r"observations\.stderr\[1\]: must be at (least|most)"):
        eq.CollectionBudgets(**task | {"observations": task["observations"] | {"stderr": stderr}})


def test_convex_fits_take_only_so_many_observations_of_a_group() -> None:
    assert len(eq.CollectionBudgets(**fitted(MOST_FITTED)).groups) == 1
    with pytest.raises(eq.SpecError, match=f"hold {MOST_FITTED + 1} of group 'group 0'.*at most {MOST_FITTED}"):
        eq.CollectionBudgets(**fitted(MOST_FITTED + 1))
    assert len(eq.CollectionBudgets(**fitted(MOST_FITTED + 1, model="power_law")).groups) == 1


@pytest.mark.parametrize("backend", [None, "highs"])
def test_a_convex_fit_is_cut_off(backend: str | None) -> None:
    spec = eq.CollectionBudgets(**fitted(40))
    with pytest.raises(eq.SolveTimeout, match="time limit"):
        eq.solve(spec, time_limit=0.0, backend=backend)
    with pytest.raises(eq.SolveTimeout, match="interrupted"):
        eq.solve(spec, watch=lambda progress: False, backend=backend)


def test_least_squares_look_at_the_clock_in_every_step() -> None:
    random, looks = np.random.default_rng(0), list[int]()
    matrix = random.random((30, 12))
    nonnegative_least_squares(matrix, matrix @ np.arange(1.0, 13.0), look=lambda: looks.append(0))
    assert len(looks) >= 12


def test_what_fits_take_is_known_before() -> None:
    small, long = (eq.CollectionBudgets(**fitted(size)) for size in (10, 400))
    assert CollectionAlgorithm.numbers(small) < 2**14 < LARGE < CollectionAlgorithm.numbers(long)
    laws = [eq.CollectionBudgets(**fitted(100_000, model=model)) for model in ("power_law", "shared_power_law")]
    assert [CollectionAlgorithm.numbers(spec) > 2**22 for spec in laws] == [True, True]


def test_fitted_curves_bend_no_more_often_than_there_are_observations() -> None:
    spec = eq.CollectionBudgets(**fitted(5, groups=2))
    fit = {"level": [1.0, 1.0], "slope": [0.0, 0.0], "error": [0.0, 0.0]}
    bends = {"group": [0] * 6, "samples": [11] * 6, "weight": [0.1] * 6}
    plan = CollectionPlan(samples=[0, 0], predicted_loss=[1.0, 1.0], price=0.0, fit={**fit, "bends": bends})
    assert eq.check(spec, plan).problems == (
        "shape: fit.bends hold 6 of group 'group 0', of which 5 losses were observed",
    )


def test_a_table_of_values_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = rollouts(prompts={"success_rate": [0.5, 0.3], "tokens": [1.0, 2.5]}, total=None, token_budget=500.0)
    whole = eq.solve(spec)
    monkeypatch.setattr(rollout_steps, "BLOCK", 50)
    assert eq.solve(spec) == whole
    with pytest.raises(eq.SolveTimeout):
        eq.solve(spec, watch=lambda progress: False)


def test_what_counts_to_a_multiple_is_not_quick_however_little_is_spent() -> None:
    assert RolloutAlgorithm.quick(rollouts(total=0, least=0, most=2**25, multiple_of=4096))
    assert not RolloutAlgorithm.quick(rollouts(total=0, least=0, most=2**25, multiple_of=4097))


def test_priors_are_fitted_to_short_histories_alone_where_it_must_be_quick() -> None:
    def history(trials: int, **fields: Any) -> eq.RolloutBudgets:
        return eq.RolloutBudgets(prompts={"successes": [1, 2], "trials": [8, trials]}, total=8, **fields)

    assert RolloutAlgorithm.quick(history(32))
    assert not RolloutAlgorithm.quick(history(33))
    assert RolloutAlgorithm.quick(history(10**6, prior={"alpha": 1.0, "beta": 1.0}))


@pytest.mark.parametrize(
    ("shape", "chosen", "quick"),
    [
        ((64, 16), 8, True),
        ((65, 16), 8, False),
        ((64, 16), 16, True),
        ((100, 8), 11, False),
        ((8, 128), 16, True),
        ((1, 129), 1, False),
        ((8, 128), 17, False),
        ((1024, 0), 1, True),
        ((2**20, 0), 1, False),
        ((0, 128), 1, True),
        ((0, 2**20), 1, False),
    ],
)
def test_batches_are_quick_by_tokens_and_experts(shape: tuple[int, int], chosen: int, quick: bool) -> None:
    assert ExpertAlgorithm.quick(eq.ExpertAssignment(scores=np.zeros(shape), experts_per_token=chosen)) == quick


def test_tokens_without_experts_count_by_their_choices() -> None:
    spec = eq.ExpertAssignment(scores=np.zeros((2**20, 0)), experts_per_token=64)
    assert ExpertAlgorithm.numbers(spec) == LARGE
    assert ExpertAlgorithm.numbers(eq.ExpertAssignment(scores=np.zeros((3, 8)), experts_per_token=2)) == 30 + 64


@pytest.mark.parametrize(("workers", "waiting", "quick"), [(16, 64, True), (17, 64, False), (16, 65, False)])
def test_decode_steps_are_quick_by_workers_and_requests(workers: int, waiting: int, quick: bool) -> None:
    spec = eq.DecodeAllocation(workers={"slots": [72] * workers}, waiting={"tokens": [5] * waiting})
    assert DecodeSearch.quick(spec) == quick


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many values of signals the judge looks at, call by call."""
    sizes, both = list[int](), Worth._both

    def watched(self: Worth, rows: Any, counts: Any, *rest: Any) -> Any:
        found = both(self, rows, counts, *rest)
        sizes.append(found.size)
        return found

    monkeypatch.setattr(Worth, "_both", watched)
    return sizes


def test_the_judge_goes_no_further_than_signals_gain_more_than_they_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where hardly any rollout is rewarded, all counts are far below their limit."""
    spec = rollouts(prompts={"success_rate": [1e-6] * 16}, total=2**14, least=1, most=2**24)
    plan = eq.solve(spec, "fast")
    sizes = counted(monkeypatch)
    worth = Worth(spec, None)
    assert worth.priced(plan.price) == pytest.approx(plan.certificate.objective, rel=1e-9)
    assert sum(sizes) <= 2**16  # not 16 · 2¹⁴


def test_the_judge_looks_at_so_many_signals_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has not looked at may be worth the limit, so that the bound stays true."""
    spec = rollouts(prompts={"success_rate": [1e-6, 0.3]}, total=2**14, least=1, most=2**24)
    true = spec.bound(eq.solve(spec, "fast"))
    monkeypatch.setattr("equipoise.specs.rollout_worth.MOST_LOOKED", 1000)
    sizes = counted(monkeypatch)
    worth = Worth(spec, None)
    assert worth.least_priced(1e-13) >= true
    assert sum(sizes) <= 4000


@pytest.mark.parametrize("rate", [1e-6, 1e-9, 1e-12])
def test_tiny_rates_keep_their_digits(rate: float) -> None:
    spec = rollouts(prompts={"success_rate": [rate] * 3}, total=3 * 2**16, least=1, most=2**17)
    plan = eq.solve(spec, "fast")
    assert eq.check(spec, plan).ok
    assert plan.expected_gradient_share == pytest.approx(-np.expm1(2**16 * np.log1p(-rate)), rel=1e-9)


@pytest.mark.parametrize("seed", [0, 4, 6, 8, 10, 26])
@pytest.mark.parametrize("apart", [14, 20, 50])
def test_costs_far_apart_leave_the_bound_its_digits(seed: int, apart: int) -> None:
    random = np.random.default_rng(seed)
    cost = random.uniform(0.5, 2, 4)
    cost[2] *= 10.0**-apart
    curve = {"asymptote": [0.1] * 4, "scale": random.uniform(0.2, 3, 4), "exponent": random.uniform(0.2, 1, 4)}
    groups = {"name": list("abcd"), "collected": random.integers(1, 100, 4), "cost": np.maximum(cost, 1e-50)}
    groups |= {"available": np.full(4, 10**6), "curve": curve}
    spec = eq.CollectionBudgets(groups=groups, budget=1000.0)
    assert eq.check(spec, eq.solve(spec, "fast")).problems == ()


def test_decode_steps_with_affinity_are_not_quick() -> None:
    waiting = {"tokens": [5, 5], "affinity": [[1, 0], [0, 1]]}
    assert not DecodeSearch.quick(eq.DecodeAllocation(workers={"slots": [72, 72]}, waiting=waiting))
