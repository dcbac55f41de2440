"""Prices and paths: the algorithm for expert assignment against the compiled program, enumeration and itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import equipoise as eq
from equipoise.solvers.algorithms import matching_market
from equipoise.solvers.algorithms.matching_descent import Matcher
from equipoise.solvers.algorithms.matching_market import Market, Workers
from equipoise.solvers.answer import ProgramInfeasible
from equipoise.solvers.control import Options
from equipoise.solvers.solve import Solver

from .test_expert_assignment import achieved, best, random_spec

OWN = "equipoise prices and paths"


def routed(
    seed: int, tokens: int = 600, experts: int = 16, chosen: int = 4, skew: float = 2.0, **fields: Any
) -> eq.ExpertAssignment:
    """Router scores with popular experts; large enough for prices to be looked for on a sample first."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(tokens, experts)) + skew * random.normal(size=experts)
    return eq.ExpertAssignment(scores=1 / (1 + np.exp(-logits)), experts_per_token=chosen, **fields)


def held_up(spec: eq.ExpertAssignment, plan: Any) -> None:
    """A plan keeps every rule and its certificate is true; raises if not."""
    result = eq.check(spec, plan)
    assert result.ok, result.problems


@pytest.mark.parametrize("block", range(8))
def test_small_tasks_of_every_form_are_solved_as_enumeration_does(block: int) -> None:
    for seed in range(1000 + block * 25, 1025 + block * 25):
        spec = random_spec(seed)
        top = best(spec)
        if top is None:
            with pytest.raises(eq.InfeasibleError):
                eq.solve(spec, "exact")
            continue
        plan = eq.solve(spec, "exact")
        assert OWN in plan.certificate.method
        assert float(top - achieved(spec, plan)) <= 1e-14 * abs(float(top)), seed
        assert plan.certificate.status == "optimal", seed
        held_up(spec, plan)


def _forbidden(seed: int) -> eq.ExpertAssignment:
    spec, random = routed(seed), np.random.default_rng(seed)
    return spec.replace(scores=np.where(random.random(spec.scores.shape) < 0.15, -math.inf, spec.scores))


def _padded(seed: int) -> eq.ExpertAssignment:
    return routed(seed, valid=np.random.default_rng(seed).random(600) < 0.7)


def _odd(seed: int) -> eq.ExpertAssignment:
    random = np.random.default_rng(seed)
    return routed(seed, capacity=random.multinomial(2600, random.dirichlet(np.ones(16) * 8)))


def _masked(seed: int) -> eq.ExpertAssignment:
    spec, random = routed(seed), np.random.default_rng(seed)
    return spec.replace(scores=np.where(random.random(spec.scores.shape) < 0.3, -1e9, spec.scores))


def _tied(seed: int) -> eq.ExpertAssignment:
    return eq.ExpertAssignment(
        scores=np.random.default_rng(seed).integers(0, 4, (600, 16)).astype(float), experts_per_token=3
    )


def _levels(count: int) -> Callable[[int], eq.ExpertAssignment]:
    """Scores rounded to so many steps."""
    return lambda seed: (spec := routed(seed)).replace(scores=np.rint(spec.scores * count) / count)


def _bfloat16(seed: int) -> eq.ExpertAssignment:
    bits = routed(seed).scores.astype(np.float32).view(np.uint32)
    return routed(seed).replace(scores=((bits + 0x8000) & 0xFFFF0000).view(np.float32).astype(float))


LARGER: dict[str, Callable[[int], eq.ExpertAssignment]] = {
    "every place taken": lambda seed: routed(seed),
    "a place left over here and there": lambda seed: routed(seed, tokens=601, experts=13),
    "a quarter more places": lambda seed: routed(seed, capacity=188),
    "places for everyone": lambda seed: routed(seed, capacity=600),
    "capacities of all sizes": _odd,
    "forbidden pairs": _forbidden,
    "padding": _padded,
    "a huge negative score as a mask": _masked,
    "scores of four values": _tied,
    "scores of two values": _levels(1),
    "scores of 17 values": _levels(16),
    "scores in bfloat16": _bfloat16,
    "scores of 17 values, places left over": lambda seed: _levels(16)(seed).replace(capacity=190),
    "scores of steps that are not exact": _levels(10),
    "all scores equal": lambda seed: eq.ExpertAssignment(scores=np.ones((600, 16)), experts_per_token=3),
    "every expert takes every token": lambda seed: routed(seed, experts=8, chosen=8),
    "flat columns": lambda seed: routed(seed, skew=6.0),
    "tiny scores": lambda seed: (spec := routed(seed)).replace(scores=spec.scores * 2.0**-1000),
    "large scores": lambda seed: (spec := routed(seed)).replace(scores=spec.scores * 2.0**300),
    "negative scores": lambda seed: (spec := routed(seed)).replace(scores=spec.scores - 5.0),
}


@pytest.mark.parametrize("name", LARGER)
@pytest.mark.parametrize("seed", range(3))
def test_larger_tasks_are_solved_as_min_cost_flow_does(name: str, seed: int) -> None:
    spec = LARGER[name](seed)
    plan, program = eq.solve(spec, "exact"), eq.solve(spec, "exact", backend="flow")
    assert OWN in plan.certificate.method
    assert plan.certificate.status == "optimal"
    assert plan.certificate.objective == pytest.approx(program.certificate.objective, rel=1e-13)
    assert np.allclose(plan.prices, program.prices, rtol=1e-9, atol=1e-12 * float(np.abs(program.prices).max()))
    held_up(spec, plan)


@pytest.mark.parametrize("name", LARGER)
def test_fast_meets_every_capacity_within_its_gap(name: str) -> None:
    spec = LARGER[name](7)
    plan = eq.solve(spec, "fast")
    assert (plan.load <= spec.places()).all()
    assert plan.certificate.gap <= 1e-3
    held_up(spec, plan)


def test_fast_bounds_what_exact_reaches() -> None:
    spec = routed(3, tokens=4096, experts=32)
    fast, exact = eq.solve(spec, "fast"), eq.solve(spec, "exact")
    assert "moves" in fast.certificate.method
    assert fast.certificate.objective < exact.certificate.objective <= fast.certificate.bound
    held_up(spec, fast)


@pytest.mark.parametrize("method", ["exact", "fast"])
def test_threads_do_not_change_the_plan(method: Any) -> None:
    spec = routed(5, tokens=5000, experts=24)
    one, two, three = (eq.solve(spec, method, threads=threads) for threads in (1, 2, 3))
    assert one.fields().keys() == two.fields().keys()
    for field in ("experts", "prices", "load"):
        assert getattr(one, field).tobytes() == getattr(two, field).tobytes() == getattr(three, field).tobytes()
    assert one.certificate.objective == two.certificate.objective
    assert one.certificate.bound == two.certificate.bound


def test_a_warm_session_reaches_the_optimum_of_every_step() -> None:
    spec, random = routed(8, tokens=2000), np.random.default_rng(8)
    scores = spec.scores
    with eq.session(spec, "exact") as session:
        for step in range(4):
            plan, alone = session.step(scores=scores), eq.solve(spec.replace(scores=scores), "exact")
            assert ("from the last prices" in plan.certificate.method) == (step > 0)
            assert plan.certificate.objective == alone.certificate.objective
            assert (plan.experts == alone.experts).all()
            assert np.allclose(plan.prices, alone.prices, rtol=0, atol=1e-12)
            scores = scores + 0.01 * random.normal(size=scores.shape)


def test_a_warm_session_survives_tasks_that_have_nothing_in_common() -> None:
    first = routed(1)
    with eq.session(first, "exact") as session:
        session.step()
        for scores in (1e6 * routed(2).scores, -first.scores, np.ones((600, 16)), 1e-9 * routed(3).scores):
            plan = session.step(scores=scores)
            alone = eq.solve(first.replace(scores=scores), "exact", backend="flow")
            assert plan.certificate.objective == pytest.approx(alone.certificate.objective, rel=1e-13)
        with pytest.raises(eq.InfeasibleError):
            session.step(scores=first.scores, capacity=1)
        assert session.step(scores=first.scores) == eq.solve(first, "exact")


def test_fast_sessions_keep_capacities_and_gaps_as_scores_drift() -> None:
    spec, random = routed(9, tokens=3000, experts=32), np.random.default_rng(9)
    with eq.session(spec, "fast") as session:
        scores = spec.scores
        for _ in range(6):
            plan = session.step(scores=scores)
            assert plan.load.max() <= spec.places().max()
            assert plan.certificate.gap <= 1e-3
            held_up(spec.replace(scores=scores), plan)
            scores = scores + 0.01 * random.normal(size=scores.shape)


@pytest.mark.parametrize("level", [0.0, 0.3, 1e6, 1e150])
def test_given_prices_do_not_change_the_answer(level: float) -> None:
    spec = routed(6)
    prices = level * np.random.default_rng(6).random(16)
    assert eq.solve(spec.replace(prices=prices), "exact") == eq.solve(spec, "exact")


def test_the_caller_may_use_its_array_again_between_steps() -> None:
    spec = routed(4, tokens=1500)
    mine = spec.scores.copy()
    with eq.session(spec, "exact") as session:
        session.step(scores=mine)
        mine[:] = mine[::-1].copy()
        assert session.step(scores=mine).certificate.objective == eq.solve(spec, "exact").certificate.objective


def test_scores_that_are_a_view_of_others_are_read_as_they_stand() -> None:
    wide = routed(4, experts=32).scores
    view = wide[:, ::2]
    plan = eq.solve(eq.ExpertAssignment(scores=view, experts_per_token=4), "exact")
    assert plan == eq.solve(eq.ExpertAssignment(scores=view.copy(), experts_per_token=4), "exact")


def test_forbidden_pairs_that_leave_too_few_places_are_infeasible_at_any_size() -> None:
    scores = routed(2).scores.copy()
    scores[:400, 4:] = -math.inf  # 400 tokens need 1600 places of four experts
    spec = eq.ExpertAssignment(scores=scores, experts_per_token=4)
    with pytest.raises(eq.InfeasibleError, match="forbidden pairs leave"):
        eq.solve(spec, "exact")
    with pytest.raises(eq.InfeasibleError):
        eq.solve(spec, "fast")


def test_too_many_experts_for_a_graph_are_left_to_the_program() -> None:
    spec = eq.ExpertAssignment(scores=np.random.default_rng(1).random((2, 4097)), experts_per_token=1)
    assert "flow" in eq.solve(spec).certificate.method
    with pytest.raises(eq.UnsupportedError, match="4,097 experts"):
        eq.solve(spec, "fast")


@pytest.mark.parametrize("depth", [0.0, 0.01, 10.0])
@pytest.mark.parametrize("again", [False, True])
def test_what_tokens_want_is_what_sorting_says(depth: float, again: bool) -> None:
    scores = routed(3, experts=64).scores
    random = np.random.default_rng(3)
    market = Market(scores, 4, np.full(64, 40), 1, Workers(1))
    prices = random.random(64)
    if again:
        market.visit(prices + 0.1 * random.random(64), 0.05)
    bound = market.visit(prices, depth)
    reduced = scores - prices
    ranked = np.sort(reduced, axis=1)[:, ::-1]
    wanted = np.take_along_axis(reduced, market.near[:, :5], axis=1)
    assert (wanted == ranked[:, :5]).all()
    assert (market.load == np.bincount(market.near[:, :4].ravel(), minlength=64)).all()
    assert bound == pytest.approx(ranked[:, :4].sum() + 40 * prices.sum(), rel=1e-13)
    for token in range(0, 600, 50):
        listed = market.near[token, : market.count[token]]
        others = np.delete(reduced[token], listed)
        assert len(set(listed.tolist())) == len(listed)
        assert (others <= market.cutoff[token]).all()


def _rough(seed: int) -> eq.ExpertAssignment:
    """Ties in plenty, and a task that takes a second or so."""
    spec = routed(seed, tokens=8192, experts=128, chosen=8, skew=3.0)
    return spec.replace(scores=np.rint(spec.scores * 200) / 200)


STOPPED: dict[str, Callable[[], eq.ExpertAssignment]] = {
    "skewed": lambda: routed(11, tokens=4096, experts=64, chosen=8, skew=3.0),
    "many ties": lambda: _rough(11),
    "places left over": lambda: routed(12, tokens=4096, experts=64, chosen=8, skew=3.0, capacity=700),
    "forbidden pairs": lambda: _forbidden(13),
    "forbidden pairs that leave few ways": lambda: _narrow(),
}


def _narrow() -> eq.ExpertAssignment:
    """Full experts whose tokens are not allowed where there is room: direct moves do not do."""
    scores = np.full((300, 6), -math.inf)
    for token in range(300):
        scores[token, [token // 60, token // 60 + 1]] = 1.0, 0.5
    scores[:60, 1] = 2.0
    return eq.ExpertAssignment(scores=scores, experts_per_token=1, capacity=[10, 60, 60, 60, 60, 50])


@pytest.mark.parametrize("name", STOPPED)
@pytest.mark.parametrize("method", ["exact", "fast", "auto"])
@pytest.mark.parametrize("limit", [0.0, 1e-4, 3e-3, 2e-2])
def test_no_time_means_a_plan_and_its_honest_gap(name: str, method: Any, limit: float) -> None:
    spec = STOPPED[name]()
    plan = eq.solve(spec, method, time_limit=limit)
    assert plan.certificate.stopped in ("time limit", "solved")
    assert limit > 0 or plan.certificate.stopped == "time limit"
    assert plan.certificate.bound >= plan.certificate.objective
    held_up(spec, plan)


@pytest.mark.parametrize("looks", range(6))
def test_a_watcher_that_says_stop_gets_a_plan(looks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching_market, "POLL", 0.0)
    spec, seen = _rough(11), list[eq.Progress]()

    def watch(progress: eq.Progress) -> bool:
        seen.append(progress)
        return len(seen) <= 7 * looks

    plan = eq.solve(spec, "exact", watch=watch)
    assert plan.certificate.stopped == "interrupted"
    assert len(seen) == 7 * looks + 1
    assert looks == 0 or {progress.stage for progress in seen} >= {"prices"}
    held_up(spec, plan)


def test_a_watcher_sees_bounds_and_both_stages_without_changing_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching_market, "POLL", 0.0)
    spec, seen = routed(11, tokens=8192, experts=64), list[eq.Progress]()
    plan = eq.solve(spec, "exact", watch=seen.append)
    assert plan == eq.solve(spec, "exact", time_limit=600.0) == eq.solve(spec, "exact")
    assert [stage for stage in dict.fromkeys(progress.stage for progress in seen) if stage] == ["prices", "paths"]
    assert all(progress.bound is None or progress.bound > 0.999 * plan.certificate.objective for progress in seen)
    assert any(progress.bound is not None for progress in seen)


def test_a_solver_goes_on_after_a_task_that_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching_market, "POLL", 0.0)
    spec = _rough(11).replace(scores=routed(11, tokens=8192, experts=128, chosen=8).scores)
    solver = Solver(Options("exact"))
    solver.solve(spec)
    other = spec.replace(scores=spec.scores[::-1] ** 2)
    stopped = solver.solve(other, lambda _: False)
    assert stopped.certificate.stopped == "interrupted"
    held_up(other, stopped)
    again = solver.solve(spec)
    assert again.certificate.objective == eq.solve(spec, "exact").certificate.objective


def test_a_task_too_large_for_a_quick_plan_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching_market, "GRACE", 0.0)
    with pytest.raises(eq.SolveTimeout, match="no plan within"):
        eq.solve(routed(1), "exact", time_limit=0.0)


def test_without_time_what_is_infeasible_is_said_to_be_so() -> None:
    scores = routed(2).scores.copy()
    scores[:400, 4:] = -math.inf
    with pytest.raises(eq.InfeasibleError):
        eq.solve(eq.ExpertAssignment(scores=scores, experts_per_token=4), "fast", time_limit=0.0)


def test_a_matcher_forgets_a_task_that_failed() -> None:
    spec = routed(1)
    matcher = Matcher(1)
    first = matcher.match(spec.scores, 4, spec.places(), None, 0.0)
    with pytest.raises(ProgramInfeasible):
        matcher.match(np.where(np.arange(16) < 3, spec.scores, -math.inf), 4, spec.places(), None, 0.0)
    again = matcher.match(spec.scores, 4, spec.places(), None, 0.0)
    assert not again.warm
    assert (first.experts == again.experts).all()


def test_rows_of_very_different_size_are_held_to_what_their_sum_can_tell() -> None:
    """A token whose scores lie below the rounding of the objective cannot be told from one without preferences."""
    for seed in range(40):
        random = np.random.default_rng(seed)
        scores = random.normal(size=(200, 16)) * 10.0 ** random.integers(-8, 9, (200, 1))
        spec = eq.ExpertAssignment(scores=scores, experts_per_token=int(random.integers(1, 5)))
        result = eq.check(spec, eq.solve(spec, "exact"))
        assert result.ok, (seed, result.problems)
