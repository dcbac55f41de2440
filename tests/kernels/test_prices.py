"""Prices against their formulas in plain numpy, on one rank and on two, and the order statistics beneath them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import equipoise as eq
from equipoise.kernels.routing import capped_route, digit_histogram, interior_prices, quantile_prices, topk_route
from equipoise.kernels.selection import Ranks, in_line

from . import price_ranks
from .routing_cases import Case, plain, random_case

SECONDS = 90
METHODS: dict[str, Any] = {
    "clipped": lambda *given, **options: quantile_prices(*given, **options),
    "unclipped": lambda *given, **options: quantile_prices(*given, clip=False, **options),
    "interior": lambda *given, **options: interior_prices(*given, **options),
}


class Merged(Ranks):
    """A single rank that takes the way of several."""

    def __init__(self) -> None:
        super().__init__()
        self.alone = False

    def sum(self, counts: torch.Tensor) -> torch.Tensor:
        return counts

    def least(self, values: torch.Tensor) -> torch.Tensor:
        return values


def next_of(values: list[Any], count: int) -> Any:
    """The (count + 1)-th largest, or the last; None of nothing."""
    ranked = sorted((value for value in values if value > -np.inf), reverse=True)
    return ranked[min(count, len(ranked) - 1)] if ranked else None


def expected(case: Case, prices: Any, clip: bool, rounds: int) -> Any:
    """Quantile updates in float32, one token and one expert after the other."""
    scores = plain(case)
    for _ in range(rounds):
        of_token = {}
        for token in case.rows():
            found = next_of(list(scores[token] - prices), case.k)
            of_token[token] = np.float32(0) if found is None else found
        moved = prices.copy()
        for expert, capacity in enumerate(case.capacity):
            claims = [scores[token, expert] - of_token[token] for token in case.rows()]
            found = next_of(claims, capacity)
            if clip:
                room_for_all = sum(claim > -np.inf for claim in claims) <= capacity
                moved[expert] = 0 if found is None or room_for_all else max(found, np.float32(0))
            elif found is not None:
                moved[expert] = found
        prices = moved if clip else moved - moved.min()
    return prices


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("seed", range(60))
def test_quantile_prices_are_the_formulas_bit_for_bit(seed: int, clip: bool) -> None:
    case = random_case(seed)
    start = np.random.default_rng(seed).random(case.scores.shape[1]).astype(np.float32)
    found = quantile_prices(case.tensor(), case.k, case.capacity, torch.tensor(start), 2, case.flags(), clip)
    assert found.dtype == torch.float32
    assert found.tolist() == expected(case, start, clip, 2).tolist()


@pytest.mark.parametrize("clip", [True, False])
def test_a_capacity_may_come_in_any_form(clip: bool) -> None:
    scores = torch.rand(40, 6, generator=torch.Generator().manual_seed(1))
    forms: list[Any] = [14, [14] * 6, (14,) * 6, torch.full((6,), 14), torch.full((6,), 14, dtype=torch.int32)]
    found = [quantile_prices(scores, 2, form, iterations=3, clip=clip).tolist() for form in forms]
    assert all(prices == found[0] for prices in found)


def test_no_rounds_leave_prices_as_they_are_and_float64_stays_float64() -> None:
    start = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    found = quantile_prices(torch.rand(9, 3, dtype=torch.float64), 1, 3, start, iterations=0)
    assert found.dtype == torch.float64 and torch.equal(found, start)


@pytest.mark.parametrize("seed", range(40))
def test_radix_selection_finds_what_a_sort_finds(seed: int) -> None:
    random = np.random.default_rng(seed)
    tokens, experts = int(random.integers(1, 30)), int(random.integers(2, 6))
    scale = 10.0 ** random.integers(-40, 38)
    values = (random.normal(size=(tokens, experts)) * scale).astype(np.float32)
    if seed % 2:
        values = np.rint(values / scale).astype(np.float32)
    values[random.random(values.shape) < 0.1] = -np.inf
    tensor, rank = torch.tensor(values), random.integers(0, tokens + 2, experts)
    ranked = -np.sort(-values, axis=0)
    wanted = ranked[np.minimum(rank, tokens - 1), np.arange(experts)].tolist()
    whole = int(random.integers(0, values.size + 2))
    pooled = -np.sort(-values.ravel())[min(whole, values.size - 1)]
    for ranks in (Ranks(), Merged()):
        assert in_line(tensor, torch.tensor(rank), ranks).tolist() == wanted
        assert in_line(tensor, torch.tensor([whole]), ranks).item() == pooled


def test_of_no_numbers_none_is_found() -> None:
    assert in_line(torch.zeros(0, 3), torch.tensor([0, 1, 2]), Ranks()).tolist() == [-torch.inf] * 3


@pytest.mark.parametrize(("shift", "bits"), [(21, 11), (10, 11), (0, 10), (28, 4), (0, 16)])
@pytest.mark.parametrize("seed", range(3))
def test_digits_are_counted_where_the_prefix_fits(seed: int, shift: int, bits: int) -> None:
    random = np.random.default_rng(seed)
    keys = random.integers(0, 2**32, (50, 3), dtype=np.uint64)
    valid = random.random(50) < 0.8
    prefix = keys[random.integers(0, 50, 3), np.arange(3)] >> np.uint64(shift + bits)
    counts = np.zeros((3, 2**bits), np.int64)
    for token, expert in np.argwhere(np.broadcast_to(valid[:, None], keys.shape)):
        key = int(keys[token, expert])
        if key >> (shift + bits) == prefix[expert]:
            counts[expert, (key >> shift) % 2**bits] += 1
    found = digit_histogram(
        torch.tensor(keys.astype(np.uint32).view(np.int32)),
        torch.tensor(prefix.astype(np.uint32).view(np.int32)),
        shift,
        bits,
        torch.tensor(valid),
    )
    assert found.dtype == torch.int32
    assert found.tolist() == counts.tolist()


def cold(tokens: int, experts: int, skew: float, seed: int) -> torch.Tensor:
    """Scores of a router with popular experts."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(tokens, experts)) + skew * random.normal(size=experts)
    return torch.tensor(1 / (1 + np.exp(-logits)), dtype=torch.float32)


@pytest.mark.parametrize("skew", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("room", [1.0, 1.25])
def test_interior_prices_prove_the_optimum_nearly_and_balance(skew: float, room: float) -> None:
    scores, k, capacity = cold(512, 16, skew, 2), 2, int(64 * room)
    prices = interior_prices(scores, k, capacity, iterations=16)
    assert prices.min() == 0
    plan = eq.solve(eq.ExpertAssignment(scores=scores.double().numpy(), experts_per_token=k, capacity=capacity))
    proven = (scores.double() - prices).topk(k, dim=1).values.sum() + capacity * prices.double().sum()
    assert plan.certificate.objective <= proven <= plan.certificate.objective * 1.0001
    load = torch.bincount(topk_route(scores, prices, k).flatten(), minlength=16)
    assert load.max() <= capacity * 1.04


def test_interior_prices_of_no_token_stay() -> None:
    start = torch.tensor([0.0, 0.5, 0.25])
    nobody = torch.zeros(4, dtype=torch.bool)
    assert torch.equal(interior_prices(torch.rand(4, 3), 1, 2, start, valid=nobody), start)
    assert torch.equal(interior_prices(torch.rand(0, 3), 1, 2, start), start)


@pytest.mark.parametrize("seed", range(60))
def test_interior_prices_are_finite_and_at_least_zero_whatever_comes(seed: int) -> None:
    case = random_case(seed)
    given = case.tensor(), case.k, case.capacity
    found = interior_prices(*given, iterations=3, valid=case.flags())
    assert found.isfinite().all() and found.min() >= 0
    repeated = interior_prices(*given, found, 0, case.flags())
    assert torch.equal(found, repeated)


def divided(seed: int) -> dict[str, Any]:
    """A case whose tokens lie on two ranks, on the second perhaps none."""
    case = random_case(seed)
    cut = len(case.scores) if seed % 4 == 0 else len(case.scores) // 3
    return {
        "scores": case.tensor(torch.float64 if seed % 3 == 0 else torch.float32),
        "k": case.k,
        "capacity": case.capacity,
        "prices": torch.rand(case.scores.shape[1], generator=torch.Generator().manual_seed(seed)),
        "valid": case.flags(),
        "cuts": [0, cut, len(case.scores)],
    }


def test_two_ranks_find_the_prices_of_all_their_tokens_compiled_or_not(tmp_path: Path) -> None:
    cases = [divided(seed) for seed in range(40)]
    given, meeting = tmp_path / "cases.pt", tmp_path / "meeting"
    torch.save(cases, given)
    results = [tmp_path / f"prices{rank}.pt" for rank in range(2)]
    programs = [
        subprocess.Popen(
            [sys.executable, price_ranks.__file__, str(rank), "2", str(meeting), str(given), str(result)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, result in enumerate(results)
    ]
    try:
        for program in programs:
            _, complaint = program.communicate(timeout=SECONDS)
            assert program.returncode == 0, complaint
    finally:
        for program in programs:
            program.kill()
            program.communicate()
    alone = [[found.tolist() for found in price_ranks.prices(case, None)] for case in cases]
    for result in results:
        assert [[found.tolist() for found in case] for case in torch.load(result)] == alone


@pytest.mark.parametrize("tokens", [0, 7])
def test_the_operators_are_well_formed(tokens: int) -> None:
    scores = torch.randn(tokens, 4, generator=torch.Generator().manual_seed(3))
    places, valid = torch.tensor([2, 4, 4, 4]), torch.ones(tokens, dtype=torch.bool)
    operators = torch.ops.equipoise
    for clip in (True, False):
        operands = scores, torch.zeros(4), places, 2, 2, valid, clip
        torch.library.opcheck(operators.quantile_prices.default, operands)
    torch.library.opcheck(operators.interior_prices.default, (scores, torch.zeros(4), places, 2, 2, None))
    keys = torch.zeros(tokens, 4, dtype=torch.int32)
    torch.library.opcheck(operators.digit_histogram.default, (keys, keys.new_zeros(4), 3, 5, valid))


@pytest.mark.parametrize("method", METHODS)
def test_a_compiled_graph_gives_the_same(method: str) -> None:
    scores = torch.rand(30, 6, generator=torch.Generator().manual_seed(4))

    def prices(scores: torch.Tensor) -> torch.Tensor:
        return METHODS[method](scores, 2, 10, iterations=3)

    compiled = torch.compile(prices, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(scores), prices(scores))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 5}, ValueError, "k: must be from 1 to 4"),
        ({"capacity": -1}, ValueError, "capacity: must be from 0 to .*, got -1"),
        ({"capacity": 2**70}, ValueError, "capacity: must be from 0 to .*, got 1180591620717411303424"),
        ({"capacity": 2.0}, TypeError, "capacity: must be a whole number, got float"),
        ({"capacity": "9"}, TypeError, "capacity: must be a whole number, got str"),
        ({"capacity": [3, 3, 3]}, ValueError, "capacity: has 3 experts, but scores has 4"),
        ({"capacity": [3, 3, 3, -3]}, ValueError, r"capacity\[3\]: must be from 0 to .*, got -3"),
        ({"capacity": torch.zeros(4)}, TypeError, "capacity: must be int32 or int64"),
        ({"capacity": 1}, ValueError, "the experts have 4 places for the tokens, which ask for 6: raise it"),
        ({"capacity": [9, 1, 0, 0]}, ValueError, "the experts have 4 places for the tokens, which ask for 6: raise it"),
        ({"prices": torch.zeros(3)}, ValueError, "prices: has 3 experts, but scores has 4"),
        ({"iterations": -1}, ValueError, "iterations: must be at least 0, got -1"),
        ({"valid": torch.ones(2, dtype=torch.bool)}, ValueError, "valid: has 2 tokens, but scores has 3"),
    ],
)
def test_bad_input_is_refused(method: str, change: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"scores": torch.zeros(3, 4), "k": 2, "capacity": 2, "prices": None, **change}
    with pytest.raises(error, match=message):
        METHODS[method](given.pop("scores"), given.pop("k"), given.pop("capacity"), given.pop("prices"), **given)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"keys": torch.zeros(3, 4, dtype=torch.int64)}, TypeError, "keys: must be int32, got torch.int64"),
        ({"prefix": torch.zeros(4)}, TypeError, "prefix: must be int32 or int64"),
        ({"bits": 0}, ValueError, "bits: must be from 1 to 16, got 0"),
        ({"shift": 30}, ValueError, "shift: must be from 0 to 28 .32 − bits., got 30"),
    ],
)
def test_a_bad_digit_is_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    keys = torch.zeros(3, 4, dtype=torch.int32)
    with pytest.raises(error, match=message):
        digit_histogram(**{"keys": keys, "prefix": keys[0], "shift": 0, "bits": 4, **change})


TIGHT = {
    "one has room for all": (torch.rand(100, 4, generator=torch.Generator().manual_seed(0)), 2, [100, 40, 30, 30]),
    "two are closed": (torch.rand(100, 6, generator=torch.Generator().manual_seed(1)), 2, [0, 0, 100, 34, 33, 33]),
    "one place each": (torch.tensor([[0.0, 1.0], [0.1, 1.0]]), 1, [2, 0]),
}


@pytest.mark.parametrize("case", TIGHT)
def test_interior_prices_find_the_optimum_where_no_place_is_to_spare_and_some_expert_has_room(case: str) -> None:
    scores, k, capacity = TIGHT[case]
    scores = scores - torch.arange(scores.shape[1]).eq(0).to(scores.dtype)  # what has room is wanted the least
    best = eq.solve(eq.ExpertAssignment(scores=scores.double().numpy(), experts_per_token=k, capacity=capacity))
    prices = interior_prices(scores, k, capacity, iterations=32)
    route = capped_route(scores, prices, k, capacity)
    assert bool(route.complete) and float(prices.min()) == 0
    assert float(route.objective) == pytest.approx(best.certificate.objective, rel=1e-3)
    assert float(route.bound) == pytest.approx(best.certificate.objective, rel=1e-3)


def test_places_that_nobody_can_use_loosen_no_bound() -> None:
    route = capped_route(torch.tensor([[1.0, 0.5], [0.9, 0.4]]), torch.tensor([0.1, 0.0]), 1, 1000)
    assert float(route.bound) == pytest.approx(1.9)
    assert float(capped_route(torch.rand(8, 4), torch.ones(4), 2, 2**62).bound) < 100
