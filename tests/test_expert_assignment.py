"""Expert assignment: the exact method against enumeration, the edges, tampering, conflicts, prices."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import equipoise as eq
from equipoise.solvers.baselines import baselines
from equipoise.solvers.expert_prices import settle

from .oracles import expert_assignment as oracle

INF = math.inf
EXAMPLES = Path(eq.__file__).parent / "specs" / "examples"


def best(spec: eq.ExpertAssignment) -> Fraction | None:
    """What enumeration finds."""
    valid = None if spec.valid is None else spec.valid.tolist()
    return oracle.best(spec.scores.tolist(), spec.experts_per_token, spec.places().tolist(), valid)


def achieved(spec: eq.ExpertAssignment, plan: Any) -> Fraction:
    """What a plan achieves, without rounding."""
    rows = zip(spec.scores.tolist(), plan.experts.tolist(), strict=True)
    return sum((Fraction(row[expert]) for row, chosen in rows for expert in chosen if expert >= 0), Fraction(0))


def fits(spec: eq.ExpertAssignment, fields: set[str]) -> bool:
    """Whether the demands of these fields alone can be met together."""
    free = [spec.tokens] * spec.experts
    return (
        "experts_per_token" not in fields
        or oracle.best(
            (spec.scores if "scores" in fields else np.zeros_like(spec.scores)).tolist(),
            spec.experts_per_token,
            spec.places().tolist() if "capacity" in fields else free,
            None if spec.valid is None else spec.valid.tolist(),
        )
        is not None
    )


def random_spec(seed: int) -> eq.ExpertAssignment:
    """A small task: scores of several kinds and scales, capacities of all three forms, forbidden pairs, padding."""
    random = np.random.default_rng(seed)
    tokens, experts = int(random.integers(1, 7)), int(random.integers(1, 5))
    chosen = int(random.integers(1, experts + 1))
    shape = (tokens, experts)
    draw: list[Callable[[], Any]] = [
        lambda: random.random(shape),
        lambda: random.normal(size=shape),
        lambda: random.integers(-2, 4, shape).astype(float),
        lambda: random.dirichlet(np.ones(experts) * 0.3, tokens).astype(np.float32),
        lambda: 10.0 ** random.uniform(-6, 6, shape),
        lambda: np.where(random.random(shape) < 0.3, -1e9, random.random(shape)),
    ]
    scores = draw[seed % len(draw)]()
    if random.random() < 0.4:
        scores = np.where(random.random(shape) < 0.2, -INF, scores)
    fields: dict[str, Any] = {"scores": scores, "experts_per_token": chosen}
    valid = random.random(tokens) < 0.8
    if random.random() < 0.3:
        fields["valid"] = valid
    needed = (int(valid.sum()) if "valid" in fields else tokens) * chosen
    match int(random.integers(3)):
        case 0:
            fields["capacity"] = -(-needed // experts) + int(random.integers(0, 3))
        case 1:
            fields["capacity"] = random.multinomial(needed + int(random.integers(0, 4)), np.ones(experts) / experts)
    return eq.ExpertAssignment(**fields)


@pytest.mark.parametrize("block", range(12))
def test_exact_equals_enumeration_whichever_backend_answers(block: int) -> None:
    feasible = 0
    for seed in range(block * 25, block * 25 + 25):
        spec = random_spec(seed)
        top = best(spec)
        if top is None:
            with pytest.raises(eq.InfeasibleError):
                eq.solve(spec, "exact")
            continue
        feasible += 1
        plans = [eq.solve(spec, "exact", backend=backend) for backend in ("flow", "highs")]
        for plan in plans:
            assert float(top - achieved(spec, plan)) <= 1e-14 * abs(float(top)), seed
            assert plan.certificate.objective == pytest.approx(float(top), rel=1e-12), seed
            assert plan.certificate.status == "optimal", seed
            assert plan.certificate.gap <= 1e-12, seed
            result = eq.check(spec, plan)
            assert result.ok, (seed, result.problems)
            assert result.bound is not None and Fraction(result.bound) >= top, seed
        assert np.allclose(plans[0].prices, plans[1].prices, rtol=1e-9, atol=1e-9 * (1 + plans[0].prices.max())), seed
    assert feasible >= 12


SCORES = st.sampled_from([0.0, 0.0, 1.0, 1.0, -1.0, 0.5, 0.25, 3.0, -INF])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_edges_are_solved_to_the_optimum_or_refused(data: st.DataObject) -> None:
    """Ties, zeros, negative sums, one token, one expert, k = experts, tight capacity, all padding, forbidden pairs."""
    tokens, experts = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    chosen = data.draw(st.integers(1, experts + 1))
    rows = st.lists(SCORES, min_size=experts, max_size=experts)
    fields: dict[str, Any] = {
        "scores": data.draw(st.lists(rows, min_size=tokens, max_size=tokens)),
        "experts_per_token": chosen,
        "capacity": data.draw(
            st.none()
            | st.integers(0, tokens + 1)
            | st.lists(st.integers(0, tokens + 1), min_size=experts, max_size=experts)
        ),
        "valid": data.draw(st.none() | st.lists(st.booleans(), min_size=tokens, max_size=tokens)),
    }
    scale = data.draw(st.sampled_from([1.0, 2.0**-1060, 2.0**300]))  # exact: nothing is rounded at any scale
    spec = eq.ExpertAssignment(**fields | {"scores": np.array(fields["scores"]) * scale})
    top = best(spec)
    if top is None:
        with pytest.raises(eq.InfeasibleError) as caught:
            eq.solve(spec, "exact")
        clash = set(caught.value.fields)
        assert not fits(spec, clash)
        assert all(fits(spec, clash - {field}) for field in clash)
        for field, value in caught.value.change.items():
            assert best(spec.replace(**{field: int(value)})) is not None
            less = int(value) + (1 if field == "experts_per_token" else -1)
            assert best(spec.replace(**{field: less})) is None
        return
    plan = eq.solve(spec, "exact", backend=data.draw(st.sampled_from(["flow", "highs"])))
    assert plan.certificate.objective == float(top)
    assert plan.certificate.bound == float(top)
    result = eq.check(spec, plan)
    assert result.ok, result.problems
    assert result.gap == 0


@pytest.mark.parametrize(
    ("scores", "valid"),
    [([], None), (np.zeros((0, 16)), None), (np.ones((3, 2)), [False, False, False])],
)
def test_nothing_to_assign_is_an_answer(scores: Any, valid: Any, tmp_path: Path) -> None:
    spec = eq.ExpertAssignment(scores=scores, experts_per_token=5, valid=valid)
    plan = eq.solve(spec)
    assert (plan.experts == -1).all()
    assert plan.load.tolist() == [0] * spec.experts
    assert plan.max_violation == 0
    assert eq.check(spec, plan).ok
    for suffix in (".json", ".safetensors"):
        eq.save(plan, tmp_path / f"plan{suffix}", spec=spec)
        bundle = eq.load_bundle(tmp_path / f"plan{suffix}")
        assert bundle.spec is not None
        assert bundle.spec == spec
        assert eq.check(spec, bundle.plan).ok
        assert eq.check(bundle.spec, bundle.plan).ok


@pytest.mark.parametrize("backend", ["flow", "highs"])
@pytest.mark.parametrize("mask", [-1e4, -1e9, float(np.finfo(np.float32).min), -1e99])
def test_a_huge_negative_score_as_a_mask_costs_no_precision(mask: float, backend: str) -> None:
    """Masks beside scores of size 1 leave a solver with rounded costs no digits for these."""
    random = np.random.default_rng(7)
    scores = random.random((5, 4))
    scores[random.random((5, 4)) < 0.4] = mask
    scores[0, 0] = mask / 1e3  # a second level
    spec = eq.ExpertAssignment(scores=scores, experts_per_token=2, capacity=3)
    plan = eq.solve(spec, "exact", backend=backend)
    assert achieved(spec, plan) == best(spec)
    assert eq.check(spec, plan).ok


@pytest.mark.parametrize("size", [2.0**-1060, 2.0**-1000])
def test_what_a_backend_loses_within_its_tolerances_is_won_back_and_told(size: float) -> None:
    spec = eq.ExpertAssignment(scores=np.random.default_rng(1).random((6, 3)) * size, experts_per_token=1)
    plan = eq.solve(spec, "exact", backend="highs")
    assert achieved(spec, plan) == best(spec)
    assert plan.certificate.status == "optimal"
    assert "were improved afterwards" in plan.certificate.notes[0]
    assert eq.check(spec, plan).ok


def test_min_cost_flow_needs_no_exchange_after_a_mask() -> None:
    random = np.random.default_rng(3)
    scores = np.where(random.random((256, 16)) < 0.3, np.finfo(np.float32).min, random.random((256, 16)))
    plan = eq.solve(eq.ExpertAssignment(scores=scores, experts_per_token=2), backend="flow")
    assert plan.certificate.status == "optimal"
    assert plan.certificate.notes == ()


def batch(seed: int, tokens: int = 96, experts: int = 8, chosen: int = 2) -> eq.ExpertAssignment:
    """A batch with popular experts, so that capacities bind."""
    random = np.random.default_rng(seed)
    scores = 1 / (1 + np.exp(-random.normal(size=(tokens, experts)) - random.normal(size=experts)))
    return eq.ExpertAssignment(scores=scores, experts_per_token=chosen)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spare", [0, 3])
def test_exchanges_alone_lead_from_any_assignment_to_the_optimum(seed: int, spare: int) -> None:
    spec = batch(seed)
    spec = spec.replace(capacity=spec.places() + spare)
    experts = (np.arange(96)[:, None] * 2 + np.arange(2)) % 8
    settled = settle(spec.scores, experts, spec.places())
    plan = eq.solve(spec)
    assert settled.moves > 0
    assert np.allclose(settled.prices, plan.prices, rtol=0, atol=1e-12)
    total = math.fsum(np.take_along_axis(spec.scores, settled.experts, axis=1).ravel())
    assert total == pytest.approx(plan.certificate.objective, rel=1e-14)


def test_prices_of_unfinished_exchanges_still_bound_the_optimum() -> None:
    spec = batch(11)
    experts = (np.arange(96)[:, None] * 2 + np.arange(2)) % 8
    settled = settle(spec.scores, experts, spec.places(), rounds=2)
    optimum = eq.solve(spec)
    half = type(optimum)(**optimum.fields() | {"prices": settled.prices})
    assert (settled.prices >= 0).all()
    assert optimum.certificate.objective < spec.bound(half) < INF


def test_prices_are_zero_where_places_are_left_and_the_least_elsewhere() -> None:
    spec = batch(2).replace(capacity=30)
    plan = eq.solve(spec)
    assert (plan.prices[plan.load < 30] == 0).all()
    for expert in np.flatnonzero(plan.prices):
        lower = plan.prices.copy()
        lower[expert] *= 0.999
        assert spec.bound(type(plan)(**plan.fields() | {"prices": lower})) > plan.certificate.objective


def test_experts_of_a_token_stand_in_the_order_of_their_scores() -> None:
    spec = batch(4, chosen=3)
    plan = eq.solve(spec)
    assert (np.diff(np.take_along_axis(spec.scores, plan.experts, axis=1), axis=1) <= 0).all()


def forged(plan: Any, field: str, value: Any) -> Any:
    return type(plan)(**plan.fields() | {field: value}).with_certificate(plan.certificate)


TAMPERED = {
    "three forms at once": {
        "scores": [[0.6, 0.2, -INF], [0.5, 0.3, 0.1], [0.4, 0.35, 0.2], [0.3, 0.1, 0.2]],
        "experts_per_token": 2,
        "capacity": [3, 2, 2],
        "valid": [True, True, True, False],
    },
    "every place is taken, prices could be anything": {"scores": np.ones((3, 2)), "experts_per_token": 2},
    "a price that leaves the bound as it is": {"scores": [[5.0, 0.0], [4.0, 0.0]], "experts_per_token": 1},
    "nothing but padding": {"scores": np.ones((2, 2)), "experts_per_token": 1, "valid": [0, 0]},
}


@pytest.mark.parametrize("name", TAMPERED)
def test_any_one_entry_tampered_with_fails_the_check(name: str) -> None:
    spec = eq.ExpertAssignment(**TAMPERED[name])
    plan = eq.solve(spec)
    assert eq.check(spec, plan).ok
    for place in np.ndindex(plan.experts.shape):
        for other in set(range(-1, spec.experts + 1)) - {int(plan.experts[place])}:
            experts = plan.experts.copy()
            experts[place] = other
            assert refused(spec, forged(plan, "experts", experts)), (place, other)
    for expert in range(spec.experts):
        for field, steps in (("load", (1, 7)), ("prices", (1e-4, 0.05, 3.0, -1e-4, -1.0))):
            for step in steps:
                values = getattr(plan, field).copy()
                values[expert] += step
                assert refused(spec, forged(plan, field, values)), (field, expert, step)
    assert refused(spec, forged(plan, "max_violation", plan.max_violation + 1e-6))


def refused(spec: eq.ExpertAssignment, plan: Any) -> bool:
    result = eq.check(spec, plan)
    return not result.ok and all(problem.partition(": ")[0] for problem in result.problems)


RULES = [
    ("experts", [[0, 1], [0, 1], [0, 2]], "shape: experts"),
    ("experts", [[0, 1], [0, 1], [0, 2], [0, 1]], "padding: experts[3][0] is 0, must be -1"),
    ("experts", [[0, 1], [0, 1], [0, -1], [-1, -1]], "experts_per_token: experts[2][1] is -1, must be an expert"),
    ("experts", [[0, 1], [0, 1], [0, 3], [-1, -1]], "experts_per_token: experts[2][1] is 3, must be an expert, 0 to 2"),
    ("experts", [[0, 1], [0, 0], [0, 2], [-1, -1]], "distinct: experts[1] is [0, 0]"),
    ("experts", [[0, 2], [0, 1], [0, 1], [-1, -1]], "forbidden: experts[0][1] is 2"),
    ("experts", [[0, 1], [0, 1], [0, 1], [-1, -1]], "capacity: load[1] is 3, must be at most 2"),
    ("experts", [[0, 1], [1, 0], [0, 2], [-1, -1]], "order: experts[1][1] has a larger score"),
    ("load", [3, 2, 2], "load: load[2] is 2, but comes to 1"),
    ("prices", [0.0, 0.0], "shape: prices is 2, must be 3"),
    ("prices", [-0.5, 0.15, 0.0], "prices: prices[0] is -0.5, must be at least 0"),
    ("max_violation", 0.25, "max_violation: max_violation[0] is 0.25"),
]


@pytest.mark.parametrize(("field", "value", "words"), RULES)
def test_a_broken_rule_is_named_with_its_place(field: str, value: Any, words: str) -> None:
    spec = eq.ExpertAssignment(**TAMPERED["three forms at once"])
    result = eq.check(spec, forged(eq.solve(spec), field, value))
    assert any(problem.startswith(words) for problem in result.problems), result.problems


def test_a_price_above_the_least_is_named() -> None:
    spec = eq.ExpertAssignment(**TAMPERED["a price that leaves the bound as it is"])
    plan = eq.solve(spec)
    assert plan.prices.tolist() == [4.0, 0.0]
    result = eq.check(spec, forged(plan, "prices", [4.5, 0.0]))
    assert result.problems == (
        "least price: prices[0] is 4.5, and a lower price proves as much: demand for the expert is 1, its capacity 1",
    )


CONFLICTS = [
    (
        {"scores": np.ones((5, 4)), "experts_per_token": 3, "capacity": 3},
        {"capacity", "experts_per_token"},
        "capacity 3 × 4 experts = 12 places, but 5 tokens × 3 experts need 15; raise capacity to 4",
        {"capacity": 4, "experts_per_token": 2},
    ),
    (
        {"scores": np.ones((5, 4)), "experts_per_token": 3, "capacity": [3, 3, 3, 9]},
        {"capacity", "experts_per_token"},
        "capacity adds up to 14 places (at most 5 tokens each), but 5 tokens × 3 experts need 15; "
        "raise each capacity by 1",
        {"experts_per_token": 2},
    ),
    (
        {"scores": np.ones((5, 2)), "experts_per_token": 3},
        {"experts_per_token"},
        "experts_per_token is 3, but there are 2 experts; lower experts_per_token to 2",
        {"experts_per_token": 2},
    ),
    (
        {"scores": [[1, 2, 3], [1, -INF, -INF], [-INF, -INF, 1]], "experts_per_token": 2, "valid": [1, 1, 1]},
        {"experts_per_token", "scores"},
        "scores[1] allows 1 expert (the rest are -inf), but experts_per_token is 2 (and 1 other token too few)",
        {"experts_per_token": 1},
    ),
    (
        {"scores": [[0, 0], [0, 1], [-INF, -INF]], "experts_per_token": 1, "valid": [0, 1, 1]},
        {"experts_per_token", "scores"},
        "scores[2] allows 0 experts (the rest are -inf), but experts_per_token is 1",
        {},
    ),
    (
        {"scores": [[1, 2, -INF]] * 3 + [[1, 2, 3]], "experts_per_token": 1, "capacity": [1, 1, 5]},
        {"capacity", "experts_per_token", "scores"},
        "capacity of experts 0, 1 = 2 places, but forbidden pairs leave 3 tokens (0, 1, 2) to need 3 of them; "
        "raise each capacity by 1",
        {},
    ),
    (
        {"scores": [[1, -INF]] * 3 + [[1, 3]], "experts_per_token": 1},
        {"capacity", "experts_per_token", "scores"},
        "capacity 2 (by default) × 1 expert (0) = 2 places, but forbidden pairs leave 3 tokens (0, 1, 2) "
        "to need 3 of them; set capacity to 3",
        {"capacity": 3},
    ),
    (
        {"scores": np.ones((3, 2)), "experts_per_token": 1, "capacity": 0},
        {"capacity", "experts_per_token"},
        "capacity 0 × 2 experts = 0 places, but 3 tokens × 1 expert need 3; raise capacity to 2",
        {"capacity": 2},
    ),
    (
        # One expert fewer per token would do if the default capacity did not fall with it.
        {"scores": [[1, -INF, -INF], [1, 2, 3], [1, -INF, -INF]], "experts_per_token": 2},
        {"experts_per_token", "scores"},
        "scores[0] allows 1 expert",
        {},
    ),
]


@pytest.mark.parametrize(("fields", "conflict", "words", "change"), CONFLICTS)
def test_a_conflict_is_told_in_the_words_of_the_spec_and_its_remedy_works(
    fields: dict[str, Any], conflict: set[str], words: str, change: dict[str, float]
) -> None:
    spec = eq.ExpertAssignment(**fields)
    with pytest.raises(eq.InfeasibleError) as caught:
        eq.solve(spec)
    assert set(caught.value.fields) == conflict
    assert words in str(caught.value)
    assert caught.value.change == change
    for field, value in change.items():
        mended = spec.replace(**{field: int(value)})
        assert eq.check(mended, eq.solve(mended)).ok
        with pytest.raises(eq.InfeasibleError):  # and less would not do
            eq.solve(spec.replace(**{field: int(value) + (1 if field == "experts_per_token" else -1)}))
    if "raise each capacity by 1" in words:
        assert spec.capacity is not None
        mended = spec.replace(capacity=spec.capacity + 1)
        assert eq.check(mended, eq.solve(mended)).ok


BAD = [
    ({"scores": [[0.1, math.nan]]}, "scores[0][1] must be finite or -inf, got nan"),
    ({"scores": [[0.1, INF]]}, "scores[0][1] must be finite or -inf, got inf"),
    ({"scores": [[0.1, 1e200]]}, "scores[0][1] must be at most 1e+100, got 1e+200"),
    ({"scores": [[0.1, -1e200]]}, "scores[0][1] must be at least -1e+100 (-inf forbids a pair), got -1e+200"),
    ({"scores": [0.1, 0.2]}, "scores must be a table (a list of lists) of numbers, got the shape [2]"),
    ({"experts_per_token": 0}, "experts_per_token must be at least 1, got 0"),
    ({"capacity": 1.5}, "capacity must be a whole number, got 1.5"),
    ({"capacity": "all"}, "capacity must be a whole number, got 'all'"),
    ({"capacity": -1}, "capacity must be at least 0, got -1"),
    ({"capacity": [1, 2, 3]}, "capacity has 3 entries, but there are 2 experts"),
    ({"capacity": [1, 0.5]}, "capacity[1] must be a whole number, got 0.5"),
    ({"valid": [True]}, "valid has 1 entries, but there are 2 tokens"),
    ({"valid": [1, 2]}, "valid[1] must be true or false, got 2"),
    ({"valid": [True, "no"]}, "valid[1] must be true or false, got 'no'"),
    ({"prices": [0.1]}, "prices has 1 entries, but there are 2 experts"),
    ({"prices": [0.1, -0.2]}, "prices[1] must be at least 0, got -0.2"),
]


@pytest.mark.parametrize(("fields", "words"), BAD)
def test_a_bad_field_is_named_with_what_it_got_and_what_it_wants(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(eq.SpecError) as caught:
        eq.ExpertAssignment(**{"scores": [[0.6, 0.4], [0.3, 0.7]], "experts_per_token": 1} | fields)
    assert words in str(caught.value).replace("]: ", "] ").replace(": must", " must")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
def test_numpy_scores_of_any_type_give_the_same_plan(dtype: str) -> None:
    scores = np.random.default_rng(5).integers(0, 64, (12, 4)).astype(dtype)
    plan = eq.solve(eq.ExpertAssignment(scores=scores, experts_per_token=2))
    assert plan == eq.solve(eq.ExpertAssignment(scores=scores.tolist(), experts_per_token=2))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_torch_tensors_are_read(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    whole = np.random.default_rng(5).integers(0, 64, (12, 4)).astype(np.float64)
    valid = np.arange(12) < 10
    tensor = torch.tensor(whole, dtype=getattr(torch, dtype), requires_grad=True)
    spec = eq.ExpertAssignment(scores=tensor, experts_per_token=2, valid=torch.tensor(valid), capacity=torch.tensor(5))
    assert spec == eq.ExpertAssignment(scores=whole, experts_per_token=2, valid=valid, capacity=5)
    assert eq.check(spec, eq.solve(spec)).ok


@pytest.mark.parametrize("valid", [[True, False, True], [1, 0, 1], [1.0, 0.0, 1.0], np.array([1, 0, 1], np.bool_)])
def test_flags_may_be_written_as_booleans_or_as_ones_and_zeros(valid: Any) -> None:
    spec = eq.ExpertAssignment(scores=np.ones((3, 2)), experts_per_token=1, valid=valid)
    assert spec.valid is not None
    assert spec.valid.dtype == np.bool_
    assert eq.solve(spec).experts[:, 0].tolist().index(-1) == 1


def test_the_same_spec_gives_the_same_plan_to_the_bit() -> None:
    first, second = (eq.solve(batch(9, 256, 16, 2)) for _ in range(2))
    assert first.experts.tobytes() == second.experts.tobytes()
    assert first.prices.tobytes() == second.prices.tobytes()


def test_prices_to_start_from_do_not_change_the_answer() -> None:
    spec = batch(6)
    assert eq.solve(spec.replace(prices=np.full(8, 0.3))) == eq.solve(spec)


def test_a_session_follows_scores_of_another_length() -> None:
    spec = batch(1)
    with eq.session(spec) as session:
        for seed, tokens in ((1, 96), (2, 96), (3, 40)):
            other = batch(seed, tokens)
            plan = session.step(scores=other.scores)
            assert plan == eq.solve(other)


def test_baselines_keep_what_they_promise() -> None:
    spec = eq.load(EXAMPLES / "expert_assignment.yaml")
    assert isinstance(spec, eq.ExpertAssignment)
    violation: dict[str, float] = {}
    for name, rule in baselines("expert_assignment").items():
        plan: Any = rule(spec)
        assert {broken.rule for broken in spec.rules(plan)} <= {"capacity", "experts_per_token"}, name
        violation[name] = plan.max_violation
    assert violation["top-k"] == pytest.approx(322 / 128 - 1)
    assert violation["top-k"] > violation["BIP, 4 rounds"] > violation["Quantile Balancing, 14 rounds"] > 0
    assert eq.solve(spec).max_violation == 0


@pytest.mark.parametrize("seed", range(40))
def test_baselines_answer_odd_tasks_with_plans_that_only_lack_places(seed: int) -> None:
    spec = random_spec(seed)
    for name, rule in baselines("expert_assignment").items():
        plan: Any = rule(spec)
        assert {broken.rule for broken in spec.rules(plan)} <= {"capacity", "experts_per_token"}, name
