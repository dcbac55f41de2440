"""How do tokens get to their experts and back: rows next to each other by expert, and their weighted sums.

`dispatch` puts the rows of each expert next to each other, with the ends that grouped matrix products take;
`combine` brings what the experts made of them back to the tokens. Gradients run through both, of any order: the
gradient of either is made of the two. A place that was left empty (expert −1) is never read, so whatever an expert's
kernel leaves behind the last end, not-a-number included, stays there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from .checks import Inputs, whole
from .choice import uses_triton
from .segments import Groups, clear, sure

_BLOCK = 2**17
"""Numbers of a block of rows in cache."""


class Dispatched(NamedTuple):
    """Tokens' rows in the order of their experts.

    rows (tokens·k, width): each expert's rows one after the other, by token, then slot; zero behind the last end.
    offsets (experts,) int32: where each expert's rows end. place (tokens, k) int64: the row of each slot, −1: none.
    """

    rows: Tensor
    offsets: Tensor
    place: Tensor


def dispatch(x: Tensor, experts: Tensor, count: int) -> Dispatched:
    """Copy each token's row (tokens, width) to each of its experts (tokens, k), of which there are `count`.

    An expert of −1 is an unfilled slot. Differentiable in `x`. Raises `TypeError` and `ValueError` for wrong dtypes,
    shapes, devices and counts, and `ValueError` for an expert of `count` or more (on a GPU: a device assertion).
    """
    inputs = Inputs()
    inputs.take("x", x, "tokens width")
    inputs.take("experts", experts, "tokens slots", "whole")
    if not inputs.sizes["slots"]:
        raise ValueError(f"experts: must have at least one slot per token, got the shape {tuple(experts.shape)}")
    count = whole("count", count, 1)
    if experts.numel() >= 2**31:
        raise ValueError(f"experts: must have fewer than 2³¹ slots, which offsets can count, got {experts.numel()}")
    return Dispatched(*_dispatch(x, experts, count))


def combine(rows: Tensor, place: Tensor, weights: Tensor) -> Tensor:
    """(tokens, width): Σ over slots of weights (tokens, k) · rows[place], in the dtype of `rows`.

    A `place` (tokens, k) of −1 contributes nothing; each row is the place of one slot at most, which the
    backward pass holds it to. Half types are added
    up in float32. Differentiable in `rows` and `weights`. Raises `TypeError` and `ValueError` for wrong dtypes,
    shapes and devices, and `ValueError` for a place beyond the rows (on a GPU: a device assertion).
    """
    inputs = Inputs()
    inputs.take("rows", rows, "rows width")
    inputs.take("place", place, "tokens slots", "whole")
    inputs.take("weights", weights, "tokens slots")
    if not inputs.sizes["slots"]:
        raise ValueError(f"place: must have at least one slot per token, got the shape {tuple(place.shape)}")
    return _combine(rows, place, weights)


@torch.library.custom_op("equipoise::dispatch", mutates_args=())
def _dispatch(x: Tensor, experts: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    sure("experts", experts, experts < count, f"below count, {count}", "raise count, or pass −1 for an unfilled slot")
    if uses_triton(x):
        from . import triton_permutation

        return triton_permutation.dispatch(x, experts, count)
    tokens, slots = experts.shape
    order, ends = Groups(experts.flatten(), count).sorted
    place = torch.empty_like(order)
    place[order] = torch.arange(tokens * slots, device=x.device)
    rows = x.index_select(0, order // slots)
    clear(rows, torch.arange(tokens * slots, device=x.device) >= ends[-1])
    place = place.reshape(tokens, slots).masked_fill(experts < 0, -1)
    return rows, ends.to(torch.int32), place


@_dispatch.register_fake
def _(x: Tensor, experts: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty((experts.numel(), x.shape[1])),
        x.new_empty((count,), dtype=torch.int32),
        x.new_empty(experts.shape, dtype=torch.int64),
    )


def _keep_place(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(output[2])
    ctx.mark_non_differentiable(*output[1:])


def _dispatch_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
    (place,) = ctx.saved_tensors
    return _combine(grad, place, grad.new_ones(place.shape)), None, None


_dispatch.register_autograd(_dispatch_backward, setup_context=_keep_place)


@torch.library.custom_op("equipoise::combine", mutates_args=())
def _combine(rows: Tensor, place: Tensor, weights: Tensor) -> Tensor:
    sure("place", place, place < len(rows), f"below the number of rows, {len(rows)}", "pass all rows of the dispatch")
    if uses_triton(rows):
        from . import triton_permutation

        return triton_permutation.combine(rows, place, weights)
    if rows.device.type == "cpu" and rows.dtype == weights.dtype and len(rows):
        return _combine_bags(rows, place, weights)
    wide = _wide(rows, weights)
    total = rows.new_zeros((len(place), rows.shape[1]), dtype=wide)
    for slot in range(place.shape[1]):
        total.addcmul_(_picked(rows, place[:, slot]), weights[:, slot, None].to(wide))
    return total.to(rows.dtype)


def _combine_bags(rows: Tensor, place: Tensor, weights: Tensor) -> Tensor:
    """One pass over the rows, without copies of them; on the CPU, where a look at how many slots are filled is free."""
    filled = place >= 0
    if bool(filled.all()):
        return embedding_bag(place, rows, per_sample_weights=weights, mode="sum")
    number = filled.sum(dim=1)
    starts = (number.cumsum(0) - number).to(place.dtype)
    return embedding_bag(place[filled], rows, starts, per_sample_weights=weights[filled], mode="sum")


@_combine.register_fake
def _(rows: Tensor, place: Tensor, weights: Tensor) -> Tensor:
    return rows.new_empty((place.shape[0], rows.shape[1]))


@torch.library.custom_op("equipoise::combine_backward", mutates_args=())
def _combine_backward(grad: Tensor, rows: Tensor, place: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Of Σ grad·combine(rows, place, weights), the derivatives in rows and in weights."""
    if uses_triton(rows):
        from . import triton_permutation

        return triton_permutation.combine_backward(grad, rows, place, weights)
    slot, empty = _slots(place, len(rows))
    if not len(rows) or not place.numel():
        return rows.new_zeros(rows.shape), weights.new_zeros(weights.shape)
    token, weight = slot // place.shape[1], weights.flatten().index_select(0, slot)[:, None]
    into_rows, products = rows.new_empty(rows.shape), rows.new_empty(len(rows), dtype=_wide(rows, weights))
    # On the CPU by blocks that stay in its cache, so that each row is read and written once.
    step = max(_BLOCK // max(rows.shape[1], 1), 1) if rows.device.type == "cpu" else len(rows)
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        above = grad.index_select(0, token[block])
        torch.sum(above.to(products.dtype) * rows[block], dim=1, out=products[block])
        torch.mul(above, weight[block], out=into_rows[block])
    products = products.index_select(0, place.flatten().clamp_min(0)).reshape(place.shape)
    return clear(into_rows, empty), products.masked_fill_(place < 0, 0).to(weights.dtype)


@_combine_backward.register_fake
def _(grad: Tensor, rows: Tensor, place: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    return rows.new_empty(rows.shape), weights.new_empty(weights.shape)


def _keep_three(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _through_combine(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
    rows, place, weights = ctx.saved_tensors
    into_rows, into_weights = _combine_backward(grad, rows, place, weights)
    return into_rows, None, into_weights


def _through_backward(ctx: Any, rows_grad: Tensor, weights_grad: Tensor) -> tuple[Tensor, Tensor, None, Tensor]:
    grad, rows, place, weights = ctx.saved_tensors
    into_grad = _combine(rows_grad, place, weights) + _combine(rows, place, weights_grad)
    into_rows, into_weights = _combine_backward(grad, rows_grad, place, weights_grad)
    return into_grad, into_rows, None, into_weights


_combine.register_autograd(_through_combine, setup_context=_keep_three)
_combine_backward.register_autograd(_through_backward, setup_context=_keep_three)


def _wide(rows: Tensor, weights: Tensor) -> torch.dtype:
    """What sums are kept in: the wider of both, float32 at least."""
    return torch.promote_types(torch.promote_types(rows.dtype, weights.dtype), torch.float32)


def _picked(rows: Tensor, place: Tensor) -> Tensor:
    """(places, width): the rows at some places, zero at −1."""
    if not len(rows):
        return rows.new_zeros((len(place), rows.shape[1]))
    return clear(rows.index_select(0, place.clamp_min(0)), place < 0)


def _slots(place: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """(rows,) the slot that has each row, 0 where none has; (rows,) whether none has."""
    flat = place.flatten()
    number = torch.arange(len(flat), device=place.device)
    slot = number.new_full((rows + 1,), -1).scatter_(0, torch.where(flat < 0, rows, flat.to(torch.int64)), number)
    again = slot.index_select(0, flat.clamp_min(0)) == number if rows else number >= 0
    once = (again | (flat < 0)).view(place.shape)
    sure("place", place, once, "a row that no other slot has", "place must not name a row twice")
    return slot[:rows].clamp_min(0), slot[:rows] < 0
