"""What must a place at each expert cost, so that about as many tokens want one as there are?

Rounds of two order statistics: a token's price is its (k + 1)-th largest score − expert's price, an expert's price the
(capacity + 1)-th largest score − token's price. Floored at 0 this is BIP (arXiv 2502.15451); without floors it is
Quantile Balancing, which asks for equal loads and so balances in fewer rounds. Prices of at least 0 prove a bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .checks import Inputs, flag, whole
from .choice import uses_triton
from .order import allowed_counts, comparable, places
from .selection import Ranks, by_digits, digit_histogram, in_line

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["digit_histogram", "quantile_prices"]


def quantile_prices(
    scores: Tensor,
    k: int,
    capacity: int | Sequence[int] | Tensor,
    prices: Tensor | None = None,
    iterations: int = 1,
    valid: Tensor | None = None,
    clip: bool = True,
    group: ProcessGroup | None = None,
) -> Tensor:
    """Prices of the experts' places after rounds of quantile updates.

    scores: (tokens × experts) floating point, of magnitudes up to 1e37, beyond which differences overflow; −inf and NaN
    forbid a pair. capacity: tokens that an expert takes, one number or one per expert; with `group`, of all ranks'
    tokens together. prices: (experts,) to start from, 0 if absent; the same on every rank.
    valid: (tokens,) bool, false for padding; all true if absent.
    clip: prices at least 0, and 0 where an expert has room for every token that may come ("at most capacity"); without,
    loads are to be equal to the capacities, only differences of prices count, and the least is 0.
    group: ranks whose tokens are taken together; every rank gets the same prices.

    Returns (experts,) float32, or float64 for float64 scores; an expert's statistic is taken of float32 all the same.
    Where a token may take k experts or fewer, or an expert has room for all its tokens, the last of them stands in; an
    expert that no token may take keeps its price, unless clipped. Nothing is differentiable.
    Raises `TypeError` and `ValueError`, also for too little capacity where numbers alone tell.
    """
    start, size, wanted, rounds = asked(scores, k, capacity, prices, iterations, valid, group)
    flag("clip", clip)
    if group is not None and not torch.compiler.is_compiling():  # a group that has no name will do
        return _rounds(scores.detach(), start, size, wanted, rounds, valid, clip, Ranks(group))
    name = None if group is None else group.group_name
    return _quantile_prices(scores.detach(), start, size, wanted, rounds, valid, clip, name)


def asked(
    scores: Tensor,
    k: int,
    capacity: int | Sequence[int] | Tensor,
    prices: Tensor | None,
    iterations: int,
    valid: Tensor | None,
    group: ProcessGroup | None,
) -> tuple[Tensor, Tensor, int, int]:
    """Prices to start from, places per expert, k and the rounds, checked. Raises `TypeError` and `ValueError`."""
    if group is not None and not hasattr(group, "rank"):
        raise TypeError(f"group: must be a process group of torch.distributed, got {type(group).__name__}")
    given = Inputs()
    given.take("scores", scores, "tokens experts")
    given.take_if("prices", prices, "experts")
    given.take_if("valid", valid, "tokens", "flag")
    tokens, experts = scores.shape
    wanted = whole("k", k, 1, experts, " (the number of experts)")
    rounds = whole("iterations", iterations, 0)
    size = places(capacity, given, tokens, experts, tokens * wanted if valid is None and group is None else None)
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    start = torch.zeros(experts, dtype=dtype, device=scores.device) if prices is None else prices.detach().to(dtype)
    return start, size, wanted, rounds


@torch.library.custom_op("equipoise::quantile_prices", mutates_args=())
def _quantile_prices(
    scores: Tensor,
    prices: Tensor,
    places: Tensor,
    k: int,
    iterations: int,
    valid: Tensor | None,
    clip: bool,
    group: str | None = None,
) -> Tensor:
    if group is None and uses_triton(scores):
        from . import triton_routing

        return triton_routing.quantile_prices(scores, prices.clone(), places, k, iterations, valid, clip)
    return _rounds(scores, prices.clone(), places, k, iterations, valid, clip, Ranks.named(group))


@_quantile_prices.register_fake
def _(
    scores: Tensor,
    prices: Tensor,
    places: Tensor,
    k: int,
    iterations: int,
    valid: Tensor | None,
    clip: bool,
    group: str | None = None,
) -> Tensor:
    return torch.empty_like(prices)


def _rounds(
    scores: Tensor,
    prices: Tensor,
    places: Tensor,
    k: int,
    iterations: int,
    valid: Tensor | None,
    clip: bool,
    ranks: Ranks,
) -> Tensor:
    value = comparable(scores, valid)
    choices, callers = allowed_counts(value)
    callers = ranks.sum(callers)
    rank = torch.minimum(places, callers - 1).clamp(min=0)
    fused = uses_triton(scores)
    columns = value if fused else value.t().contiguous()
    for _ in range(iterations):
        if fused:
            found = _claimed(scores, prices, k, valid, rank, ranks)
        else:
            claims = (columns - _next_best(value - prices, k, choices)).t()
            found = in_line(claims, rank, ranks)
        found = found.to(prices.dtype)
        if clip:
            prices = found.clamp(min=0).masked_fill(callers <= places, 0)
        else:
            prices = torch.where(callers > 0, found, prices)
            prices = prices - prices.min()
    return prices


def _claimed(scores: Tensor, prices: Tensor, k: int, valid: Tensor | None, rank: Tensor, ranks: Ranks) -> Tensor:
    """What `in_line` finds of the claims, which are never in memory."""
    from . import triton_routing

    thresholds = triton_routing.row_thresholds(scores, prices, k, valid)

    def histogram(prefix: Tensor, shift: int, bits: int) -> Tensor:
        return triton_routing.claim_histogram(scores, thresholds, prefix, shift, bits, valid)

    return by_digits(histogram, scores.shape[1], rank, ranks)


def _next_best(reduced: Tensor, k: int, choices: Tensor) -> Tensor:
    """(tokens,) the (k + 1)-th largest of each row, or the last that is allowed; 0 without any."""
    ranked = reduced.topk(min(k + 1, reduced.shape[1]), dim=1).values
    last = (choices - 1).clamp(0, ranked.shape[1] - 1)
    return ranked.gather(1, last[:, None])[:, 0].masked_fill(choices == 0, 0)
