"""CUDA graphs keep the operators: captured once, replayed on other numbers, they answer as a call does.

Capture takes a GPU; that nothing in the operators looks at a number, `test_launches` tells without one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from equipoise.kernels import (
    admit,
    capped_route,
    combine,
    dispatch,
    draw_by_budget,
    group_advantages,
    interior_prices,
    project_loads,
    quantile_prices,
    repeat_by_budget,
    topk_route,
)

TOKENS, EXPERTS, CHOSEN = 512, 16, 4
CAPACITY = TOKENS * CHOSEN // EXPERTS


def scores(seed: int) -> Tensor:
    """Of a router with popular experts."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(TOKENS, EXPERTS, generator=generator) + torch.randn(EXPERTS, generator=generator)
    return logits.sigmoid()


def moved(table: Tensor) -> Any:
    """To the experts and back, weighted."""
    experts = topk_route(table, torch.zeros_like(table[0]), CHOSEN)
    sent = dispatch(table, experts, EXPERTS)
    return *sent, combine(sent.rows, sent.place, table[:, :CHOSEN].contiguous())


def trained(table: Tensor) -> Any:
    """The way back through both."""
    x = table.detach().requires_grad_()
    sent = dispatch(x, topk_route(table, torch.zeros_like(table[0]), CHOSEN), EXPERTS)
    return torch.autograd.grad(combine(sent.rows, sent.place, x[:, :CHOSEN]), x, table)


def budgeted(table: Tensor) -> Any:
    """Rows, advantages and draws of counts that follow from the numbers."""
    counts = (table[:64, 0] * 9).long()
    repeated = repeat_by_budget(table[:64], counts, TOKENS)
    sizes = (table[:64, 1] * 99).long()
    return *repeated, group_advantages(table[:, 2], repeated.prompt, 64), draw_by_budget(sizes, counts, TOKENS, 3)


def decoded(table: Tensor) -> Any:
    """Loads and slots of requests whose workers follow from the numbers."""
    worker, tokens = (table[:, 0] * 9).long() - 1, (table[:, 1] * 999).long()
    slots = (table[:8] > 0.5).long() - 1
    loads = project_loads(worker, tokens, tokens + 1, torch.arange(0, 900, 300, device=table.device), 8)
    return loads, *admit(slots, tokens, worker)


CALLS: dict[str, Callable[[Tensor], Any]] = {
    "quantile_prices": lambda table: quantile_prices(table, CHOSEN, CAPACITY, iterations=3),
    "quantile_prices, unclipped": lambda table: quantile_prices(table, CHOSEN, CAPACITY, iterations=3, clip=False),
    "interior_prices": lambda table: interior_prices(table, CHOSEN, CAPACITY, iterations=3),
    "capped_route, cold": lambda table: capped_route(table, torch.zeros_like(table[0]), CHOSEN, CAPACITY),
    "capped_route, warm": lambda table: capped_route(table, table.mean(0), CHOSEN, CAPACITY, rounds=2),
    "capped_route, float64": lambda table: capped_route(table.double(), table.mean(0), CHOSEN, CAPACITY, rounds=2),
    "dispatch, combine": moved,
    "dispatch, combine, backward": trained,
    "repeat_by_budget, group_advantages, draw_by_budget": budgeted,
    "project_loads, admit": decoded,
}


def tensors(answer: Any) -> tuple[Tensor, ...]:
    """Of a call, one or many."""
    return (answer,) if isinstance(answer, Tensor) else tuple(answer)


@pytest.mark.parametrize("name", CALLS)
def test_other_numbers_have_another_answer(name: str) -> None:
    """Else a replay that changes nothing would pass below."""
    pairs = zip(tensors(CALLS[name](scores(0))), tensors(CALLS[name](scores(1))), strict=True)
    assert not all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is at hand")
@pytest.mark.parametrize("kernels", ["triton", "torch"])
@pytest.mark.parametrize("name", CALLS)
def test_a_graph_is_replayed_on_other_numbers(name: str, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQUIPOISE_KERNELS", kernels)
    call, given = CALLS[name], scores(0).cuda()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # what is compiled or allocated once is not part of the graph
        call(given)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = tensors(call(given))
    for seed in (1, 2, 0):
        given.copy_(scores(seed))
        graph.replay()
        for replayed, called in zip(kept, tensors(call(scores(seed).cuda())), strict=True):
            assert torch.equal(replayed, called), seed
