"""Top-k by scores − prices: every shape of input against a sort in plain Python, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from equipoise.kernels.routing import topk_route

from .routing_cases import Case, plain, random_case

OPERATOR = torch.ops.equipoise.topk_route.default


def expected(case: Case, prices: Any) -> list[list[int]]:
    """The k best experts of each token, by a sort of pairs."""
    rows = []
    with np.errstate(invalid="ignore"):
        reduced = plain(case) - prices
    for row in reduced.tolist():
        ranked = sorted((-value, expert) for expert, value in enumerate(row) if value > -math.inf)
        chosen = [expert for _, expert in ranked[: case.k]]
        rows.append(chosen + [-1] * (case.k - len(chosen)))
    return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(60))
def test_the_k_largest_win_and_ties_go_to_the_lower_expert(seed: int, dtype: torch.dtype) -> None:
    case = random_case(seed)
    prices = np.random.default_rng(seed).integers(-2, 3, case.scores.shape[1]).astype(np.float32)
    chosen = topk_route(case.tensor(dtype), torch.tensor(prices), case.k, case.flags())
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == expected(case, prices)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_float32(dtype: torch.dtype) -> None:
    scores = torch.randn(50, 7, generator=torch.Generator().manual_seed(1)).to(dtype)
    prices = torch.rand(7, generator=torch.Generator().manual_seed(2))
    assert torch.equal(topk_route(scores, prices, 3), topk_route(scores.float(), prices, 3))


def test_infinite_scores_win_unless_negative_and_infinite_prices_close_an_expert() -> None:
    scores = torch.tensor([[math.inf, 1.0, -math.inf], [1.0, 2.0, 3.0]])
    prices = torch.tensor([0.0, math.inf, 0.0])
    assert topk_route(scores, prices, 2).tolist() == [[0, -1], [2, 0]]


def test_nothing_of_it_is_differentiable() -> None:
    chosen = topk_route(torch.rand(3, 4, requires_grad=True), torch.zeros(4, requires_grad=True), 2)
    assert not chosen.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("tokens", [0, 5])
def test_the_operator_is_well_formed(tokens: int, dtype: torch.dtype) -> None:
    scores = torch.randn(tokens, 6, generator=torch.Generator().manual_seed(3)).to(dtype)
    torch.library.opcheck(OPERATOR, (scores, torch.zeros(6), 2, torch.ones(tokens, dtype=torch.bool)))
    torch.library.opcheck(OPERATOR, (scores, torch.zeros(6), 6, None))


def test_a_compiled_graph_gives_the_same() -> None:
    scores = torch.randn(20, 6, generator=torch.Generator().manual_seed(4))
    prices = torch.rand(6, generator=torch.Generator().manual_seed(5))

    def route(scores: torch.Tensor, prices: torch.Tensor) -> torch.Tensor:
        return topk_route(scores, prices, 2, scores[:, 0] > 0)

    compiled = torch.compile(route, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(scores, prices), route(scores, prices))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 0}, ValueError, "k: must be from 1 to 4 .the number of experts., got 0"),
        ({"k": -1}, ValueError, "got -1"),
        ({"k": 5}, ValueError, "k: must be from 1 to 4"),
        ({"k": 1.0}, TypeError, "k: must be a whole number, got float"),
        (
            {"scores": torch.zeros(3, 4, dtype=torch.int64)},
            TypeError,
            "scores: must be floating point, got torch.int64",
        ),
        ({"scores": [[1.0]]}, TypeError, "scores: must be a tensor, got list"),
        ({"scores": torch.zeros(4)}, ValueError, "scores: must have the axes .tokens, experts."),
        ({"prices": torch.zeros(5)}, ValueError, "prices: has 5 experts, but scores has 4"),
        ({"prices": torch.zeros(4, device="meta")}, ValueError, "prices: is on meta, but scores is on cpu"),
        ({"valid": torch.zeros(3)}, TypeError, "valid: must be bool"),
        ({"valid": torch.ones(4, dtype=torch.bool)}, ValueError, "valid: has 4 tokens, but scores has 3"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        topk_route(**{"scores": torch.zeros(3, 4), "prices": torch.zeros(4), "k": 2, "valid": None, **change})
