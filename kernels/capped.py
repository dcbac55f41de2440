"""Which experts take which token, when no expert may take more than its capacity? Decided on the device.

Deferred acceptance in the order of scores − prices, then what stayed empty is filled, if need be by swaps. With good
prices few tokens are turned away, and the prices prove how much is lost at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import Inputs, whole
from .choice import uses_triton
from .order import best, comparable, places
from .proposals import depth_of, proposed
from .swaps import filled, swapped

ROUNDS = 16
"""Rounds unless asked otherwise."""


class CappedRoute(NamedTuple):
    """An assignment within the capacities, and what it is worth.

    experts: (tokens × k) int64, distinct in a row, by descending scores − prices; −1 for padding and empty places.
    load: (experts,) int64 tokens that each takes, at most its capacity.
    unfilled: () int64 places of valid tokens that stay empty. complete: () bool, none does.
    objective: () float64, the scores of all that was assigned, added up.
    bound: () float64, no complete assignment within the capacities has more, by the prices (those below 0 count as 0).
    No gradient runs through any of them. With forbidden pairs places may stay empty that another assignment would fill.
    """

    experts: Tensor
    load: Tensor
    unfilled: Tensor
    complete: Tensor
    objective: Tensor
    bound: Tensor


def capped_route(
    scores: Tensor,
    prices: Tensor,
    k: int,
    capacity: int | Sequence[int] | Tensor,
    valid: Tensor | None = None,
    rounds: int | None = None,
) -> CappedRoute:
    """k experts for each token, near the largest total score, and no expert above its capacity.

    scores: (tokens × experts) floating point; −inf and NaN forbid a pair. prices: (experts,), as `quantile_prices`
    finds them. capacity: one number or one per expert, these in a tensor where nothing may wait for the device. valid:
    (tokens,) bool, false for padding; all true if absent.
    rounds: of proposals at most; afterwards what is left is filled where room is.
    Raises `TypeError` and `ValueError`, also for too little capacity where numbers alone tell.
    """
    given = Inputs()
    given.take("scores", scores, "tokens experts")
    given.take("prices", prices, "experts")
    given.take_if("valid", valid, "tokens", "flag")
    tokens, experts = scores.shape
    wanted = whole("k", k, 1, experts, " (the number of experts)")
    limit = ROUNDS if rounds is None else whole("rounds", rounds, 1)
    size = places(capacity, given, tokens, experts, tokens * wanted if valid is None else None)
    return CappedRoute(*_capped_route(scores.detach(), prices.detach(), size, wanted, valid, limit))


@torch.library.custom_op("equipoise::capped_route", mutates_args=())
def _capped_route(
    scores: Tensor, prices: Tensor, places: Tensor, k: int, valid: Tensor | None, rounds: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    if scores.dtype != torch.float64 and len(scores) and uses_triton(scores):
        from . import triton_capped

        depth = depth_of(scores.shape[1], k, rounds)
        return triton_capped.capped_route(scores, prices, places, k, valid, rounds, depth)
    value = comparable(scores, valid)
    # The largest float stands for +inf, so that differences of these are numbers.
    reduced = torch.nan_to_num_(value - prices.to(value.dtype), nan=-torch.inf, neginf=-torch.inf)
    wanted = torch.full((len(value),), k, device=value.device)
    wanted = wanted if valid is None else wanted * valid
    rounds = rounds if len(value) else 0
    assigned = proposed(reduced, places, k, rounds)
    filled(assigned, reduced, places, wanted, rounds)
    swapped(assigned, reduced, places, wanted, rounds)
    held = best(torch.where(assigned.mine, reduced, -torch.inf), k)
    there = assigned.mine.gather(1, held)
    unfilled = (wanted - assigned.count).sum()
    objective = value.gather(1, held).double().where(there, 0).sum()
    return held.where(there, -1), assigned.load, unfilled, unfilled == 0, objective, _bound(value, prices, places, k)


@_capped_route.register_fake
def _(
    scores: Tensor, prices: Tensor, places: Tensor, k: int, valid: Tensor | None, rounds: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    tokens, experts = scores.shape
    return (
        scores.new_empty((tokens, k), dtype=torch.int64),
        scores.new_empty((experts,), dtype=torch.int64),
        scores.new_empty((), dtype=torch.int64),
        scores.new_empty((), dtype=torch.bool),
        scores.new_empty((), dtype=torch.float64),
        scores.new_empty((), dtype=torch.float64),
    )


def _bound(value: Tensor, prices: Tensor, places: Tensor, k: int) -> Tensor:
    """() float64: what prices at least 0 prove; not a number where a price is none."""
    floor = prices.double().clamp(min=0)
    top = (value.double() - floor).topk(k, dim=1).values
    used = torch.minimum(places, (value > -torch.inf).sum(0))  # no assignment can use more
    fees = (used * floor).where((used > 0) | floor.isnan(), 0)
    return top.where(top > -torch.inf, 0).sum() + fees.sum()
