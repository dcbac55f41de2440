"""Capped routes: never above a capacity, near the optimum, and honest about what stays empty."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import equipoise as eq
from equipoise.kernels.routing import CappedRoute, capped_route, interior_prices, quantile_prices, topk_route

from ..oracles import expert_assignment as oracle
from .routing_cases import Case, plain, random_case

OPERATOR = torch.ops.equipoise.capped_route.default


def routed(case: Case, seed: int, rounds: int | None = None) -> tuple[CappedRoute, torch.Tensor]:
    """The route of a case, at random prices or good ones, of either sign."""
    prices = torch.randn(case.scores.shape[1], generator=torch.Generator().manual_seed(seed))
    if seed % 2:
        prices = interior_prices(case.tensor(), case.k, case.capacity, valid=case.flags())
    return capped_route(case.tensor(), prices, case.k, case.capacity, case.flags(), rounds), prices


def keep(case: Case, route: CappedRoute) -> None:
    """Every rule of a route, counted again one pair after the other."""
    allowed = plain(case) > -np.inf
    load = [0] * len(case.capacity)
    value = Fraction(0)
    for token, chosen in enumerate(route.experts.tolist()):
        there = [expert for expert in chosen if expert >= 0]
        assert chosen == there + [-1] * (case.k - len(there)), "empty places come last"
        assert len(set(there)) == len(there)
        for expert in there:
            assert allowed[token, expert]
            load[expert] += 1
            value += Fraction(float(case.scores[token, expert]))
    assert route.load.tolist() == load
    assert all(count <= capacity for count, capacity in zip(load, case.capacity, strict=True))
    assert route.unfilled.item() == len(case.rows()) * case.k - sum(load)
    assert route.complete.item() == (route.unfilled.item() == 0)
    assert route.objective.item() == pytest.approx(float(value), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("rounds", [None, 1, 2])
@pytest.mark.parametrize("seed", range(80))
def test_a_route_keeps_every_rule_and_its_bound_holds(seed: int, rounds: int | None) -> None:
    case = random_case(seed)
    route, prices = routed(case, seed, rounds)
    keep(case, route)
    floor = prices.double().clamp(min=0).numpy()
    callers = [sum(plain(case)[token, expert] > -math.inf for token in case.rows()) for expert in range(len(floor))]
    proven = sum(min(*both) * price for *both, price in zip(case.capacity, callers, floor, strict=True) if price)
    for token in case.rows():
        ranked = sorted((float(value) for value in plain(case)[token] - floor if value > -math.inf), reverse=True)
        proven += sum(ranked[: case.k])
    assert route.bound.item() == pytest.approx(proven, rel=1e-12, abs=1e-12)
    if math.comb(len(case.capacity), case.k) ** len(case.rows()) > 10_000:
        return
    valid = case.valid if case.valid is None else case.valid.tolist()
    best = oracle.best(plain(case).tolist(), case.k, case.capacity, valid)
    if best is not None:
        assert route.bound.item() >= float(best) - 1e-9
        if route.complete:
            assert route.objective.item() <= float(best) + 1e-9


@pytest.mark.parametrize("seed", range(80))
def test_what_stays_empty_had_no_room_that_the_token_may_take(seed: int) -> None:
    case = random_case(seed)
    route, _ = routed(case, seed)
    allowed = plain(case) > -np.inf
    room = [capacity - load for capacity, load in zip(case.capacity, route.load.tolist(), strict=True)]
    for token in case.rows():
        chosen = set(route.experts[token].tolist()) - {-1}
        if len(chosen) < case.k:
            assert not [j for j, left in enumerate(room) if left > 0 and allowed[token, j] and j not in chosen]


def proposed(case: Case, prices: Any, rounds: int) -> list[list[int]] | None:
    """Deferred acceptance, one proposal after the other; None if it does not end in so many rounds, all places filled.

    Every token asks down its list; an expert that is over its capacity turns away the claims that are smallest.
    """
    reduced = plain(case) - prices
    lists = {
        i: sorted(np.flatnonzero(reduced[i] > -np.inf).tolist(), key=lambda j: (-reduced[i, j], j)) for i in case.rows()
    }
    asked = dict.fromkeys(lists, 0)
    held: dict[int, list[int]] = {token: [] for token in lists}
    for _ in range(rounds):
        short = [token for token in lists if len(held[token]) < case.k and asked[token] < len(lists[token])]
        if not short:
            break
        for token in short:
            new = lists[token][asked[token] :][: case.k - len(held[token])]
            held[token] += new
            asked[token] += len(new)
        for expert, capacity in enumerate(case.capacity):
            claims = []
            for token in (token for token in lists if expert in held[token]):
                following = lists[token][asked[token] :]
                loss = reduced[token, expert] - reduced[token, following[0]] if following else np.float32(np.inf)
                claims.append((-loss, token))
            for _, token in sorted(claims)[capacity:]:
                held[token].remove(expert)
    if any(len(chosen) < case.k for chosen in held.values()):
        return None
    rows = [sorted(held[i], key=lambda j: (-reduced[i, j], j)) if i in held else [] for i in range(len(case.scores))]
    return [row + [-1] * (case.k - len(row)) for row in rows]


def test_the_route_is_that_of_deferred_acceptance() -> None:
    compared = 0
    for seed in range(300):
        case = random_case(seed)
        prices = np.random.default_rng(seed).random(case.scores.shape[1]).astype(np.float32)
        expected = proposed(case, prices, 16)
        route = capped_route(case.tensor(), torch.tensor(prices), case.k, case.capacity, case.flags())
        if expected is not None:
            compared += 1
            assert route.experts.tolist() == expected, seed
    assert compared > 150


def test_room_where_a_token_is_already_is_reached_by_a_swap() -> None:
    forced = torch.tensor([[5.0, 4.0, 0.0], [5.0, -math.inf, 0.0]])
    route = capped_route(forced, torch.zeros(3), 2, [1, 1, 2])
    assert route.complete, "the second token may take experts 0 and 2 alone, so the first takes the others"
    assert route.experts.tolist() == [[1, 2], [0, 2]]
    for seed in range(40):
        scores = torch.rand(40, 8, generator=torch.Generator().manual_seed(seed))
        assert capped_route(scores, torch.zeros(8), 6, 30).complete


def test_proposals_that_run_out_of_rounds_are_filled_where_room_is() -> None:
    scores = cold(256, 16, 1.0, 5)
    prices = interior_prices(scores, 4, 64, iterations=3)
    for rounds in (2, 3, 4):
        assert capped_route(scores, prices, 4, 64, rounds=rounds).complete


def cold(tokens: int, experts: int, skew: float, seed: int) -> torch.Tensor:
    """Scores of a router with popular experts."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(tokens, experts)) + skew * random.normal(size=experts)
    return torch.tensor(1 / (1 + np.exp(-logits)), dtype=torch.float32)


@pytest.mark.parametrize("skew", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("room", [1.0, 1.25])
def test_interior_prices_leave_next_to_nothing_to_gain(skew: float, room: float) -> None:
    scores, k, capacity = cold(1024, 16, skew, 1), 4, int(256 * room)
    prices = interior_prices(scores, k, capacity, iterations=8)
    route = capped_route(scores, prices, k, capacity, rounds=4)
    optimum = eq.solve(eq.ExpertAssignment(scores=scores.double().numpy(), experts_per_token=k, capacity=capacity))
    assert route.complete and route.load.max() <= capacity
    assert route.objective >= optimum.certificate.objective * (1 - 1e-3)
    assert optimum.certificate.objective <= route.bound <= optimum.certificate.objective * (1 + 1e-4)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("skew", [0.0, 1.0, 3.0])
def test_every_place_is_filled_even_at_poor_prices(skew: float, clip: bool) -> None:
    for seed in range(3):
        scores = cold(512, 16, skew, seed)
        prices = quantile_prices(scores, 4, 128, iterations=seed, clip=clip)
        route = capped_route(scores, prices, 4, 128)
        assert route.complete and route.load.tolist() == [128] * 16


@pytest.mark.parametrize("seed", [*range(24), 27, 34])
def test_where_no_look_ends_the_rounds_the_route_is_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device a look would have to wait, so that all rounds are run, by no token too."""
    case = random_case(seed)
    route, _ = routed(case, seed)
    for module in ("proposals", "swaps", "interior"):
        monkeypatch.setattr(f"equipoise.kernels.{module}.nothing", lambda _: False)
    again, _ = routed(case, seed)
    for one, same in zip(route, again, strict=True):
        assert torch.equal(one, same)


def test_too_little_room_in_a_tensor_is_counted() -> None:
    route = capped_route(torch.rand(10, 4), torch.zeros(4), 2, torch.tensor([3, 3, 0, 0]))
    assert route.unfilled == 14 and not route.complete
    assert route.load.tolist() == [3, 3, 0, 0]
    less = capped_route(torch.rand(10, 4), torch.zeros(4), 2, torch.tensor([3, 3, -1, -9]))
    assert less.load.tolist() == [3, 3, 0, 0], "a negative number of places is none"


def test_a_price_that_is_no_number_closes_its_expert() -> None:
    scores, prices = torch.rand(6, 3), torch.tensor([0.0, math.nan, 0.0])
    route = capped_route(scores, prices, 1, 3)
    assert route.load.tolist() == [3, 0, 3] and route.complete
    assert route.bound.isnan(), "such prices prove nothing"
    assert capped_route(scores, prices, 1, [3, 0, 3]).bound.isnan(), "nor where the expert has no place"
    assert torch.equal(route.experts, capped_route(scores, torch.tensor([0.0, math.inf, 0.0]), 1, 3).experts)


def test_endless_prices_leave_claims_that_are_numbers() -> None:
    """The differences of two infinite ones would be none."""
    scores = torch.rand(30, 4, generator=torch.Generator().manual_seed(11))
    endless, huge = torch.tensor([-math.inf, -math.inf, 0.0, 0.0]), torch.tensor([-3e38, -3e38, 0.0, 0.0])
    for k, capacity in ((1, 8), (2, 15), (3, 23)):
        route = capped_route(scores, endless, k, capacity)
        assert route.complete and torch.equal(route.experts, capped_route(scores, huge, k, capacity).experts)


def test_with_room_for_all_the_route_is_top_k() -> None:
    scores = torch.rand(30, 8, generator=torch.Generator().manual_seed(6))
    prices = torch.rand(8, generator=torch.Generator().manual_seed(7))
    route = capped_route(scores, prices, 3, 30)
    assert torch.equal(route.experts, topk_route(scores, prices, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_routed_alike(dtype: torch.dtype) -> None:
    scores = torch.randint(0, 9, (40, 6), generator=torch.Generator().manual_seed(8)).to(dtype)
    route = capped_route(scores, torch.zeros(6), 2, 14)
    same = capped_route(scores.float(), torch.zeros(6), 2, 14)
    assert torch.equal(route.experts, same.experts) and route.objective == same.objective


@pytest.mark.parametrize("tokens", [0, 9])
def test_the_operator_is_well_formed(tokens: int) -> None:
    scores = torch.rand(tokens, 4, generator=torch.Generator().manual_seed(9))
    places, valid = torch.tensor([2, 4, 4, 9]), torch.ones(tokens, dtype=torch.bool)
    for flags in (None, valid):
        torch.library.opcheck(OPERATOR, (scores, torch.zeros(4), places, 2, flags, 3))


def test_a_compiled_graph_gives_the_same() -> None:
    scores = torch.rand(40, 6, generator=torch.Generator().manual_seed(10))

    def route(scores: torch.Tensor) -> CappedRoute:
        return capped_route(scores, interior_prices(scores, 2, 14), 2, 14)

    compiled = torch.compile(route, fullgraph=True, backend="aot_eager")
    for one, other in zip(compiled(scores), route(scores), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 0}, ValueError, "k: must be from 1 to 4"),
        ({"rounds": 0}, ValueError, "rounds: must be at least 1, got 0"),
        ({"prices": torch.zeros(3)}, ValueError, "prices: has 3 experts, but scores has 4"),
        ({"capacity": 1}, ValueError, "the experts have 4 places for the tokens, which ask for 6: raise it"),
        ({"capacity": [9, 9]}, ValueError, "capacity: has 2 experts, but scores has 4"),
        ({"capacity": True}, TypeError, "capacity: must be a whole number, got bool"),
        ({"valid": [True]}, TypeError, "valid: must be a tensor, got list"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        capped_route(**{"scores": torch.zeros(3, 4), "prices": torch.zeros(4), "k": 2, "capacity": 2, **change})
