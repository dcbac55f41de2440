"""Tokens go to their experts' rows and come back as weighted sums; held against loops over tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from equipoise.kernels import permutation
from equipoise.kernels.permutation import combine, dispatch

CASES = {  # tokens, width, slots, experts, share of slots left unfilled
    "usual": (57, 6, 3, 8, 0.2),
    "small": (6, 3, 2, 3, 0.3),
    "all filled": (40, 5, 2, 4, 0.0),
    "one slot": (33, 4, 1, 5, 0.3),
    "fewer tokens than experts": (3, 4, 2, 16, 0.1),
    "one token": (1, 3, 4, 6, 0.5),
    "one expert": (9, 3, 2, 1, 0.4),
    "no tokens": (0, 4, 2, 3, 0.0),
    "no width": (5, 0, 2, 3, 0.2),
    "nothing filled": (6, 4, 2, 3, 1.0),
    "more experts than 16 bits count": (20, 2, 2, 40_000, 0.2),
}


def drawn(name: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, int]:
    """x, experts, weights and the number of experts of a case; most experts stay empty where there are many."""
    tokens, width, slots, count, unfilled = CASES[name]
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(tokens, width, generator=generator, dtype=torch.float64).to(dtype)
    weights = torch.rand(tokens, slots, generator=generator, dtype=torch.float64).to(dtype)
    experts = torch.randint(0, count, (tokens, slots), generator=generator)
    experts[torch.rand(tokens, slots, generator=generator) < unfilled] = -1
    return x, experts, weights, count


@pytest.mark.parametrize("name", CASES)
def test_rows_are_those_of_each_expert_by_token_then_slot(name: str) -> None:
    x, experts, _, count = drawn(name)
    got = dispatch(x, experts, count)
    rows, ends, place = [], [], torch.full_like(experts, -1)
    for expert in range(count):
        for token, slot in (experts == expert).nonzero().tolist():
            place[token, slot] = len(rows)
            rows.append(x[token])
        ends.append(len(rows))
    assert got.rows.shape == (experts.numel(), x.shape[1]) and got.rows.dtype == x.dtype
    assert torch.equal(got.place, place) and got.place.dtype == torch.int64
    assert torch.equal(got.rows[: len(rows)], torch.stack(rows) if rows else x[:0])
    assert not got.rows[len(rows) :].any()
    assert got.offsets.dtype == torch.int32 and got.offsets.tolist() == ends


@pytest.mark.parametrize("name", CASES)
def test_combine_is_the_weighted_sum_over_filled_slots(name: str) -> None:
    x, experts, weights, count = drawn(name)
    place = dispatch(x, experts, count).place
    rows = torch.randn(experts.numel(), x.shape[1], generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    wanted = torch.zeros_like(x)
    for token, slot in (place >= 0).nonzero().tolist():
        wanted[token] += weights[token, slot] * rows[place[token, slot]]
    assert torch.allclose(combine(rows, place, weights), wanted, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_combining_what_was_dispatched_gives_each_token_its_weights(name: str) -> None:
    x, experts, weights, count = drawn(name)
    sent = dispatch(x, experts, count)
    share = weights.masked_fill(experts < 0, 0).sum(dim=1, keepdim=True)
    assert torch.allclose(combine(sent.rows, sent.place, weights), share * x, rtol=1e-14)


@pytest.mark.parametrize("kept", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weighed", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_types_are_added_up_in_float32(kept: torch.dtype, weighed: torch.dtype) -> None:
    """What comes out is the exact sum of the given numbers, rounded to float32 on the way and to its type once."""
    x, experts, weights, count = drawn("usual")
    x, weights = x.to(kept), weights.to(weighed)
    sent = dispatch(x, experts, count)
    got = combine(sent.rows, sent.place, weights)
    exact = combine(sent.rows.double(), sent.place, weights.double())
    assert got.dtype == kept
    assert ((got.double() - exact).abs() <= exact.abs() * torch.finfo(kept).eps + 1e-6).all()


@pytest.mark.parametrize("name", ["small", "one token", "nothing filled", "no tokens"])
def test_gradients_of_first_and_second_order(name: str) -> None:
    x, experts, weights, count = drawn(name)
    place = dispatch(x, experts, count).place

    def layer(x: Tensor, weights: Tensor) -> Tensor:
        return combine(dispatch(x, experts, count).rows ** 2, place, weights)

    given = x.requires_grad_(), weights.requires_grad_()
    assert torch.autograd.gradcheck(layer, given)
    assert torch.autograd.gradgradcheck(layer, given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_narrow_types_are_those_of_float64_rounded(dtype: torch.dtype) -> None:
    x, experts, weights, count = drawn("usual", dtype)
    up = torch.randn(x.shape, generator=torch.Generator().manual_seed(7)).to(dtype)

    def gradients(kind: torch.dtype) -> tuple[Tensor, ...]:
        given = x.to(kind).requires_grad_(), weights.to(kind).requires_grad_()
        sent = dispatch(given[0], experts, count)
        return torch.autograd.grad(combine(sent.rows, sent.place, given[1]), given, up.to(kind))

    for got, wanted in zip(gradients(dtype), gradients(torch.float64), strict=True):
        assert got.dtype == dtype
        assert ((got.double() - wanted).abs() <= 8 * torch.finfo(dtype).eps * wanted.abs().max()).all()


@pytest.mark.parametrize("weighed", [torch.float64, torch.float32])
def test_what_lies_behind_the_last_end_is_never_read(weighed: torch.dtype) -> None:
    """Kernels of experts leave those rows unwritten, in both directions."""
    x, experts, weights, count = drawn("usual")
    sent = dispatch(x.requires_grad_(), experts, count)
    end = int(sent.offsets[-1])
    assert 0 < end < len(sent.rows)

    class Unwritten(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, rows: Tensor) -> Tensor:
            return torch.cat([rows[:end], torch.full_like(rows[end:], torch.nan)])

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            assert not grads[0][end:].any()
            return torch.cat([grads[0][:end], torch.full_like(grads[0][end:], torch.nan)])

    weights = weights.to(weighed).requires_grad_()
    out = combine(Unwritten.apply(sent.rows), sent.place, weights)  # pyright: ignore[reportArgumentType]
    into_x, into_weights = torch.autograd.grad(out.sum(), (x, weights))
    assert out.isfinite().all() and into_x.isfinite().all() and into_weights.isfinite().all()
    assert not into_weights[experts < 0].any()


def by_token(x: Tensor, experts: Tensor, weights: Tensor, matrices: Tensor) -> Tensor:
    """A layer of experts, token by token."""
    out = []
    for token, chosen in enumerate(experts.tolist()):
        parts = [weights[token, slot] * (x[token] @ matrices[one]) for slot, one in enumerate(chosen) if one >= 0]
        out.append(torch.stack(parts).sum(dim=0) if parts else torch.zeros_like(matrices[0, 0]))
    return torch.stack(out)


def looped(rows: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    ends = [0, *offsets.tolist()]
    parts = [rows[start:end] @ matrix for start, end, matrix in zip(ends[:-1], ends[1:], matrices, strict=True)]
    return torch.cat([*parts, rows.new_zeros(len(rows) - ends[-1], matrices.shape[2])])


def multiplied(rows: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    return torch._grouped_mm(rows, matrices, offs=offsets)  # pyright: ignore[reportPrivateImportUsage]


@pytest.mark.parametrize(("product", "dtype"), [(looped, torch.float64), (multiplied, torch.float32)])
def test_a_layer_of_experts_is_what_its_tokens_make_one_by_one(product: Any, dtype: torch.dtype) -> None:
    """With gradients; torch's own grouped product takes the offsets as they are. Two experts stay empty."""
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(48, 16, generator=generator, dtype=dtype)
    matrices = torch.randn(8, 16, 24, generator=generator, dtype=dtype)
    experts = torch.rand(48, 6, generator=generator).topk(3).indices
    experts[torch.rand(experts.shape, generator=generator) < 0.2] = -1
    weights = torch.rand(experts.shape, generator=generator, dtype=dtype)
    up = torch.randn(48, 24, generator=generator, dtype=dtype)
    given = tuple(one.requires_grad_() for one in (x, weights, matrices))
    sent = dispatch(x, experts, 8)
    got = combine(product(sent.rows, matrices, sent.offsets), sent.place, weights)
    wanted = by_token(x, experts, weights, matrices)
    close = 1e-12 if dtype == torch.float64 else 2e-5
    assert torch.allclose(got, wanted, atol=close, rtol=close)
    pairs = zip(torch.autograd.grad(got, given, up), torch.autograd.grad(wanted, given, up), strict=True)
    assert all(torch.allclose(one, other, atol=10 * close, rtol=close) for one, other in pairs)


def operators() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    x, experts, weights, count = drawn("usual")
    sent = dispatch(x, experts, count)
    given = [one.clone().requires_grad_() for one in (x, sent.rows, weights)]
    return {
        "dispatch": (permutation._dispatch, (given[0], experts, count)),
        "combine": (permutation._combine, (given[1], sent.place, given[2])),
        "combine_backward": (permutation._combine_backward, (given[0], given[1], sent.place, given[2])),
    }


@pytest.mark.parametrize("name", ["dispatch", "combine", "combine_backward"])
def test_the_operators_are_registered_as_torch_wants_them(name: str) -> None:
    torch.library.opcheck(*operators()[name])


def layer(x: Tensor, experts: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    sent = dispatch(x, experts, 8)
    return combine(sent.rows.sin(), sent.place, weights), sent.offsets


def test_a_compiled_graph_keeps_them_whole() -> None:
    x, experts, weights, _ = drawn("usual")
    given = x.requires_grad_(), weights.requires_grad_()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    got, offsets = compiled(x, experts, weights)
    wanted, ends = layer(x, experts, weights)
    assert torch.equal(got, wanted) and torch.equal(offsets, ends)
    pairs = zip(torch.autograd.grad(got.sum(), given), torch.autograd.grad(wanted.sum(), given), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_other_strides_and_index_types_change_nothing() -> None:
    x, experts, weights, count = drawn("usual")
    wanted = dispatch(x, experts, count)
    got = dispatch(x.t().contiguous().t(), experts.t().contiguous().t().int(), count)
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))
    strided = torch.stack([wanted.rows, wanted.rows], dim=2)[:, :, 0]
    out = combine(strided, wanted.place.int(), weights.t().contiguous().t())
    assert torch.equal(out, combine(wanted.rows, wanted.place, weights))


def test_gradients_have_the_same_bits_with_one_thread_and_with_two() -> None:
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(1500, 96, generator=generator, requires_grad=True)
    weights = torch.rand(1500, 4, generator=generator, requires_grad=True)
    experts = torch.randint(-1, 8, (1500, 4), generator=generator)
    threads, seen = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            out, _ = layer(x, experts, weights)
            seen.append((out, *torch.autograd.grad(out.square().sum(), (x, weights))))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))


X, EXPERTS = torch.zeros(4, 3), torch.zeros(4, 2, dtype=torch.int64)
WRONG = {
    "x is a list": (lambda: dispatch([[1.0]], EXPERTS, 2), TypeError, "x: must be a tensor"),  # pyright: ignore
    "x holds whole numbers": (lambda: dispatch(EXPERTS, EXPERTS, 2), TypeError, "x: must be floating"),
    "experts are real": (lambda: dispatch(X, X, 2), TypeError, "experts: must be int32 or int64"),
    "experts of other tokens": (lambda: dispatch(X, EXPERTS[:3], 2), ValueError, "has 3 tokens, but x has 4"),
    "experts of one axis": (lambda: dispatch(X, EXPERTS[0], 2), ValueError, r"axes \(tokens, slots\)"),
    "no slots": (lambda: dispatch(X, EXPERTS[:, :0], 2), ValueError, "at least one slot"),
    "no experts": (lambda: dispatch(X, EXPERTS, 0), ValueError, "count: must be at least 1, got 0"),
    "half an expert": (lambda: dispatch(X, EXPERTS, 2.5), TypeError, "count: must be a whole"),  # pyright: ignore
    "an expert too many": (
        lambda: dispatch(X, EXPERTS + 2, 2),
        ValueError,
        r"experts\[0, 0\]: must be below count, 2, got 2: raise",
    ),
    "elsewhere": (lambda: dispatch(X, EXPERTS.to("meta"), 2), ValueError, "experts: is on meta, but x is on cpu"),
    "a place beyond": (
        lambda: combine(X, EXPERTS + 4, X[:, :2]),
        ValueError,
        r"place\[0, 0\]: must be below .*, 4, got",
    ),
    "weights of other slots": (lambda: combine(X, EXPERTS, X), ValueError, "weights: has 3 slots, but place has 2"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_refused_in_words(name: str) -> None:
    call, kind, words = WRONG[name]
    with pytest.raises(kind, match=words):
        call()


def test_a_row_with_two_places_is_refused_where_its_gradient_would_be_wrong() -> None:
    out = combine(X.clone().requires_grad_(), EXPERTS, torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"\[.*\]: must be .*, got .: place must not name a row twice"):
        out.sum().backward()
