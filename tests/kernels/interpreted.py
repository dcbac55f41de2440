"""Triton's kernels on the CPU, by Triton's interpreter, against torch's operators; `test_triton` runs this file.

With `EQUIPOISE_TEST_DEVICE=cuda` and without the interpreter, the same on a GPU, against torch on the CPU. Integers and
chosen floats must be the same bits; sums over slots and dot products over the width may differ by `ROUNDING`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from equipoise.kernels import (
    capped,
    choice,
    groups,
    order,
    permutation,
    routing,
    selection,
    shuffle,
    swaps,
    triton_capped,
    triton_interior,
    triton_permutation,
    triton_routing,
    triton_shuffle,
)
from equipoise.kernels.order import comparable, ordered_keys
from equipoise.kernels.proposals import depth_of

from .routing_cases import Case, random_case

torch.set_num_threads(1)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
DEVICE = os.environ.get("EQUIPOISE_TEST_DEVICE", "cpu")
ROUNDING = {  # relative and absolute
    torch.float32: (1e-5, 1e-4),
    torch.bfloat16: (1.6e-2, 1e-2),
    torch.float16: (2e-3, 2e-3),
    torch.float64: (1e-12, 1e-12),
}
SIGN = -(2**31)
SHAPES = {  # tokens, width, slots, experts, share of slots left unfilled
    "usual": (57, 6, 3, 8, 0.2),
    "several blocks of slots": (100, 2, 4, 5, 0.1),
    "more slots than are unrolled": (7, 3, 11, 12, 0.1),
    "a width of several blocks": (3, 9000, 2, 4, 0.3),
    "one slot, one expert": (9, 3, 1, 1, 0.4),
    "no tokens": (0, 4, 2, 3, 0.0),
    "no width": (5, 0, 2, 3, 0.2),
    "nothing filled": (8, 4, 2, 3, 1.0),
}


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """The interpreter is numpy, which warns of infinities."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Calls an operator with torch's own version."""

    def call(operator: Callable[..., Any], *given: Any, **options: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setenv(choice.VARIABLE, "torch")
            return operator(*given, **options)

    return call


def launched(launcher: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """What a launcher makes of tensors on the device, back on the CPU."""
    made = launcher(*(one.to(DEVICE) if isinstance(one, Tensor) else one for one in given), **options)
    return made.cpu() if isinstance(made, Tensor) else tuple(one.cpu() for one in made)


def close(got: Tensor, want: Tensor) -> None:
    """The same up to rounding."""
    relative, absolute = ROUNDING[want.dtype]
    torch.testing.assert_close(got, want, rtol=relative, atol=absolute)


def scores_of(case: Case, dtype: torch.dtype, seed: int) -> Tensor:
    """The scores of a task, some of them +inf."""
    scores = case.tensor(dtype)
    if seed % 6 == 1 and dtype != torch.float64:  # whose largest number is beyond the keys of columns
        scores[1:4, -1] = torch.inf
    return scores


def prices_for(case: Case, dtype: torch.dtype, seed: int) -> Tensor:
    """Prices on the grid of tied scores."""
    drawn = np.rint(4 * np.random.default_rng(seed).random(case.scores.shape[1])) / 2
    return torch.tensor(drawn, dtype=torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("seed", range(24))
def test_routes_are_those_of_torch(seed: int, by_torch: Callable[..., Any]) -> None:
    case, dtype = random_case(seed), DTYPES[seed % 4]
    scores, prices, valid = scores_of(case, dtype, seed), prices_for(case, dtype, seed), case.flags()
    want = by_torch(routing.topk_route, scores, prices, case.k, valid)
    assert torch.equal(launched(triton_routing.topk_route, scores, prices, case.k, valid), want)


@pytest.mark.parametrize("seed", range(8))
def test_the_best_of_rows_are_those_of_torch(seed: int, by_torch: Callable[..., Any]) -> None:
    case = random_case(seed)
    value = comparable(case.tensor(DTYPES[seed % 4]), case.flags())
    for count in range(1, value.shape[1] + 1):
        assert torch.equal(launched(triton_routing.best, value, count), by_torch(order.best, value, count))


@pytest.mark.parametrize("seed", range(24))
def test_thresholds_are_the_next_best_of_each_row(seed: int) -> None:
    case, dtype = random_case(seed), DTYPES[seed % 4]
    scores, prices, valid = scores_of(case, dtype, seed), prices_for(case, dtype, seed), case.flags()
    value = comparable(scores, valid)
    want = []
    for row in value:
        ranked = (row - prices)[row > -torch.inf].sort(descending=True).values
        ranked = ranked if len(ranked) else value.new_zeros(1)
        want.append(ranked[[min(case.k, len(ranked)) - 1, min(case.k, len(ranked) - 1)]])
    last_in, first_out = (torch.stack(want) if want else value.new_zeros(0, 2)).unbind(1)
    got = launched(triton_routing.row_thresholds, scores, prices, case.k, valid)
    assert got.dtype == value.dtype and torch.equal(got, first_out)
    got = launched(triton_routing.row_thresholds, scores, prices, case.k, valid, middle=True)
    assert torch.equal(got, (last_in + first_out) / 2)


@pytest.mark.parametrize("seed", range(14))
@pytest.mark.parametrize("clip", [True, False], ids=["clipped", "unclipped"])
def test_prices_are_those_of_torch(seed: int, clip: bool, by_torch: Callable[..., Any]) -> None:
    case, dtype = random_case(seed), DTYPES[seed % 4]
    scores, start, valid = scores_of(case, dtype, seed), prices_for(case, dtype, seed), case.flags()
    capacity = torch.tensor(case.capacity)
    want = by_torch(routing.quantile_prices, scores, case.k, capacity, start, 2, valid, clip)
    got = launched(triton_routing.quantile_prices, scores, start, capacity, case.k, 2, valid, clip)
    assert got.dtype == want.dtype and torch.equal(got, want)


@pytest.mark.parametrize("seed", range(24))
def test_interior_prices_are_those_of_torch(seed: int, by_torch: Callable[..., Any]) -> None:
    case, dtype = random_case(seed), DTYPES[seed % 4]
    if not len(case.scores):
        return
    scores, start, valid = case.tensor(dtype), prices_for(case, dtype, seed), case.flags()
    capacity = torch.tensor(case.capacity) - int(seed % 5 == 4)
    want = by_torch(routing.interior_prices, scores, case.k, capacity, start, 2, valid)
    got = launched(triton_interior.interior_prices, scores, start, capacity, case.k, 2, valid)
    assert got.dtype == want.dtype and torch.equal(got, want)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "capacity",
    [[100] * 6, [130] * 6, [700] * 6, [0, 0, 150, 150, 150, 150], [0, 0, 170, 170, 170, 170]],
    ids=["nothing to spare", "some", "a place for everyone", "two closed", "two closed, some to spare"],
)
def test_interior_prices_of_several_chunks_are_those_of_torch(
    capacity: list[int], tied: bool, by_torch: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All scores alike: no claim is above what experts ask."""
    monkeypatch.setattr("equipoise.kernels.triton_numbers._COLUMN", 256)
    scores = torch.rand(300, 6, generator=torch.Generator().manual_seed(4)) + torch.arange(6) / 5
    scores, start = torch.ones_like(scores) if tied else scores, torch.arange(6) / 20
    want = by_torch(routing.interior_prices, scores, 2, capacity, start, 2)
    got = launched(triton_interior.interior_prices, scores, start, torch.tensor(capacity), 2, 2, None)
    assert torch.equal(got, want)


@pytest.mark.parametrize("experts", [3, 70])
def test_many_tokens_and_experts_take_several_programs(experts: int, by_torch: Callable[..., Any]) -> None:
    tokens = 9000 if experts < 10 else 300  # a column, a tile of rows and a span of tokens are shorter
    scores = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(3))
    prices, capacity = torch.linspace(0, 1, experts), torch.full((experts,), 2 * tokens // experts)
    want = by_torch(routing.quantile_prices, scores, 2, capacity, prices)
    assert torch.equal(launched(triton_routing.quantile_prices, scores, prices, capacity, 2, 1, None, True), want)
    keys, prefix = ordered_keys(scores) ^ SIGN, torch.zeros(experts, dtype=torch.int32)
    want = by_torch(selection.digit_histogram, keys, prefix, 21, 11)
    assert torch.equal(launched(triton_routing.digit_histogram, keys, prefix, 21, 11, None), want)


@pytest.mark.parametrize(("shift", "bits"), [(21, 11), (10, 11), (0, 10), (16, 16), (31, 1), (4, 8)])
@pytest.mark.parametrize("padded", [False, True])
def test_histograms_are_those_of_torch(shift: int, bits: int, padded: bool, by_torch: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(shift)
    keys = torch.randint(-(2**31), 2**31, (90, 5), generator=generator).int()
    keys[:, 1:4] >>= 20  # so that prefixes are shared
    top = (keys[7] >> (shift + bits)) & (2 ** (32 - shift - bits) - 1) if shift + bits < 32 else 0 * keys[7]
    valid = torch.rand(90, generator=generator) < 0.6 if padded else None
    want = by_torch(selection.digit_histogram, keys, top, shift, bits, valid)
    got = launched(triton_routing.digit_histogram, keys, top, shift, bits, valid)
    assert got.dtype == torch.int32 and torch.equal(got, want)


@pytest.mark.parametrize("seed", range(12))
def test_claims_are_counted_without_being_made(seed: int, by_torch: Callable[..., Any]) -> None:
    case, dtype = random_case(seed), DTYPES[seed % 4]
    scores, valid = case.tensor(dtype), case.flags()
    value = comparable(scores, valid)
    thresholds = torch.randn(len(scores), generator=torch.Generator().manual_seed(seed), dtype=value.dtype)
    keys = ordered_keys(value - thresholds[:, None]) ^ SIGN
    prefix = torch.zeros(scores.shape[1], dtype=torch.int32)
    lost = (value == -torch.inf).sum(0)
    want = by_torch(selection.digit_histogram, keys, prefix, 21, 11)
    want[:, 3] -= lost.int()  # the digit of −inf: its sign's bits turned over, and the exponent's
    assert torch.equal(launched(triton_routing.claim_histogram, scores, thresholds, prefix, 21, 11, valid), want)


def the_same_route(
    by_torch: Callable[..., Any], scores: Tensor, prices: Tensor, places: Tensor, k: int, valid: Any, rounds: int
) -> None:
    """Every number of a capped route, the sums in float64 too."""
    want = by_torch(capped._capped_route, scores, prices, places, k, valid, rounds)
    depth = depth_of(scores.shape[1], k, rounds)
    got = launched(triton_capped.capped_route, scores, prices, places, k, valid, rounds, depth)
    for one, other in zip(got[:4], want[:4], strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
    for one, other in zip(got[4:], want[4:], strict=True):  # a GPU adds up in another order
        torch.testing.assert_close(one, other, rtol=0 if DEVICE == "cpu" else 1e-12, atol=0, equal_nan=True)


@pytest.mark.parametrize("seed", range(1, 31))
def test_capped_routes_are_those_of_torch(seed: int, by_torch: Callable[..., Any]) -> None:
    case, dtype = random_case(seed), DTYPES[seed % 3]
    if not len(case.scores):
        return
    scores, prices = scores_of(case, dtype, seed), prices_for(case, dtype, seed)
    places = torch.tensor(case.capacity) - seed % 3 // 2
    if seed % 5 == 2:
        prices[0] = (torch.nan, torch.inf, -torch.inf)[seed % 3]
        places[0] = 0 if seed % 2 == 0 else places[0]
    the_same_route(by_torch, scores, prices, places, case.k, case.flags(), (1, 2, 5)[seed % 3])


@pytest.mark.parametrize("seed", [4, 5, 12, 14, 18, 22, 26, 34, 37, 60])
def test_routes_that_need_swaps_are_those_of_torch(seed: int, by_torch: Callable[..., Any]) -> None:
    """With k near the number of experts and hardly a place to spare: several swaps are asked for at once, and some of
    them would be at one expert, of one mover, or for the last place of one target. 18, 60: there is still room for
    tokens that miss places, which must not move."""
    tokens, experts, k = ((40, 8, 6), (60, 7, 5), (30, 12, 10), (24, 6, 4))[seed % 4]
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(tokens, experts, generator=generator)
    scores = scores.mul(4).round() if seed % 2 else scores
    if seed % 3 == 0:
        scores[torch.rand(scores.shape, generator=generator) < 0.1] = -torch.inf
    prices, places = torch.zeros(experts), torch.full((experts,), -(-tokens * k // experts))
    prices[0] = -2
    asked: list[Tensor] = []

    def watched(wanted: swaps.Swaps, room: Tensor) -> swaps.Swaps:
        asked.append(wanted.heard.sum())
        return compatible(wanted, room)

    compatible = swaps._compatible
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(swaps, "_compatible", watched)
        the_same_route(by_torch, scores, prices, places, k, None, 1 if seed in (18, 60) else 3)
    assert asked and max(asked) > (seed not in (18, 60))


@pytest.mark.parametrize("tied", [False, True])
def test_columns_of_several_chunks_keep_what_torch_keeps(
    tied: bool, by_torch: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("equipoise.kernels.triton_numbers._COLUMN", 256)
    scores = torch.rand(700, 3, generator=torch.Generator().manual_seed(1))
    scores = scores.mul(8).round() if tied else scores
    the_same_route(by_torch, scores, torch.tensor([0.1, 0.0, 0.2]), torch.full((3,), 470), 2, None, 2)


@pytest.mark.parametrize("size", [1, 2, 13, 652, 1601, 2**52])
def test_draws_go_where_torch_sends_them(size: int, by_torch: Callable[..., Any]) -> None:
    """Of two sizes, one of them with cells beyond, so that walks are of several steps."""
    sizes = torch.tensor([size, 7])
    which = torch.arange(600) % 2
    generator = torch.Generator().manual_seed(size % 2**31)
    index = (torch.rand(600, generator=generator, dtype=torch.float64) * sizes[which]).long()
    want = by_torch(shuffle.shuffled, index, sizes, which, 2**62 + 5)
    keys = shuffle._keys(2**62 + 5, 2, sizes.device)
    got = launched(triton_shuffle.shuffled, index, which, sizes, *shuffle.rectangle(sizes), keys, shuffle.WALK)
    assert torch.equal(got, want)


def drawn(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """x, experts, weights in float32 at least, a gradient of the sums, and the number of experts."""
    tokens, width, slots, count, unfilled = SHAPES[name]
    generator = torch.Generator().manual_seed(11)
    x, grad = torch.randn(2, tokens, width, generator=generator, dtype=torch.float64).to(dtype).unbind()
    weights = torch.rand(tokens, slots, generator=generator, dtype=torch.float64)
    experts = torch.randint(0, count, (tokens, slots), generator=generator)
    experts[torch.rand(tokens, slots, generator=generator) < unfilled] = -1
    return x, experts, weights.to(torch.promote_types(dtype, torch.float32)), grad, count


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dispatched_rows_are_those_of_torch(name: str, dtype: torch.dtype, by_torch: Callable[..., Any]) -> None:
    x, experts, _, _, count = drawn(name, dtype)
    want = by_torch(permutation.dispatch, x, experts, count)
    for given in (experts, experts.int(), experts.t().contiguous().t()):
        for got, wanted in zip(launched(triton_permutation.dispatch, x, given, count), want, strict=True):
            assert got.dtype == wanted.dtype and torch.equal(got, wanted)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_combined_rows_and_their_gradients_are_those_of_torch(
    name: str, dtype: torch.dtype, by_torch: Callable[..., Any]
) -> None:
    x, experts, weights, grad, count = drawn(name, dtype)
    rows, _, place = by_torch(permutation.dispatch, x, experts, count)
    rows = torch.where(torch.arange(len(rows))[:, None] < (place >= 0).sum(), rows + 0.5, torch.nan)  # none is read
    for factors in (weights, weights.to(dtype)):
        want = by_torch(permutation.combine, rows, place, factors)
        got = launched(triton_permutation.combine, rows, place, factors)
        assert got.dtype == dtype
        close(got, want)
        wanted = by_torch(permutation._combine_backward, grad, rows, place, factors)
        for one, other in zip(
            launched(triton_permutation.combine_backward, grad, rows, place, factors), wanted, strict=True
        ):
            close(one, other)


@pytest.mark.skipif(DEVICE != "cpu", reason="a device's assertion ends its process")
def test_a_row_of_two_slots_is_refused_on_the_way_back() -> None:
    rows, place = torch.ones(3, 2), torch.tensor([[0, 2], [2, -1]])
    with pytest.raises(ValueError, match="must not name a row twice"):
        launched(triton_permutation.combine_backward, torch.ones(2, 2), rows, place, torch.ones(2, 2))


class Called(Exception):
    """A kernel's launcher was reached."""


X, TOP = torch.zeros(4, 3, device=DEVICE), torch.zeros(4, 2, dtype=torch.int64, device=DEVICE)
OPERATORS: dict[str, tuple[str, Callable[[], Any]]] = {
    "topk_route": ("triton_routing.topk_route", lambda: routing.topk_route(X, X[0], 2)),
    "quantile_prices": ("triton_routing.quantile_prices", lambda: routing.quantile_prices(X, 2, 4)),
    "capped_route": ("triton_capped.capped_route", lambda: routing.capped_route(X, X[0], 2, 4)),
    "capped_route, float64": ("triton_routing.best", lambda: routing.capped_route(X.double(), X[0], 2, 4)),
    "interior_prices": ("triton_interior.interior_prices", lambda: routing.interior_prices(X, 2, 4)),
    "digit_histogram": (
        "triton_routing.digit_histogram",
        lambda: selection.digit_histogram(X.int(), X[0].int(), 0, 8),
    ),
    "draw_by_budget": ("triton_shuffle.shuffled", lambda: groups.draw_by_budget(TOP[0] + 9, TOP[0] + 2, 4, 0)),
    "dispatch": ("triton_permutation.dispatch", lambda: permutation.dispatch(X, TOP, 3)),
    "combine": ("triton_permutation.combine", lambda: permutation.combine(X, TOP, X[:, :2])),
    "combine, backward": (
        "triton_permutation.combine_backward",
        lambda: permutation._combine_backward(X, X, TOP, X[:, :2]),
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_run_what_was_chosen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher, operator = OPERATORS[name]

    def called(*given: Any, **options: Any) -> None:
        raise Called

    monkeypatch.setattr(f"equipoise.kernels.{launcher}", called)
    monkeypatch.setenv(choice.VARIABLE, "triton")
    with pytest.raises(Called):
        operator()
    monkeypatch.setenv(choice.VARIABLE, "torch")
    if name != "combine, backward":  # whose places name a row twice here
        operator()
