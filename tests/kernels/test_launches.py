"""What operators start on a GPU: few kernels where they are fused, and nothing that waits; no GPU is needed to tell."""

from __future__ import annotations

import pytest
import torch

from equipoise.benchmarks.kernel_launches import counting, launches, operators

pytest.importorskip("triton")
SIZE = 4096, 64
FUSED = {  # at most so many: seven for each round of interior prices and of a capped route, and what is needed once
    "topk_route": 1,
    "quantile_prices, 1 round": 5,
    "interior_prices, 1 round": 14,
    "interior_prices, 4 rounds": 7 * 4 + 7,
    "capped_route, 2 rounds": 7 * 2 + 12,
    "capped_route, 16 rounds": 7 * 16 + 12,
    "draw_by_budget": 100,
}


@pytest.mark.parametrize("name", FUSED)
def test_fused_operators_start_few_kernels(name: str) -> None:
    assert launches(name, *SIZE).all <= FUSED[name]


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("name", operators(*SIZE))
def test_no_operator_looks_at_a_number_of_the_device(name: str, kernels: str) -> None:
    assert launches(name, *SIZE, kernels).all > 0


def test_a_look_at_a_number_is_noticed() -> None:
    with counting(), pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        bool(torch.empty(3).any())


def test_views_and_allocations_are_not_counted_and_the_rest_is() -> None:
    with counting() as seen:
        there = torch.empty(4, 3)
        there.t()[1:].reshape(2, 4).detach().new_empty(3)
        assert not seen.all
        (there + 1).add_(there).contiguous()
        there.t().contiguous()
    assert dict(seen.torch) == {"add": 1, "add_": 1, "clone": 1}
