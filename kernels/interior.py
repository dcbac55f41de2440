"""At which prices do capacities hold, near enough to the optimum that an assignment within them loses next to nothing?

The dual of expert assignment is minimised over the tokens' prices and over the experts' in turn, as in
`quantile_prices`, with two differences. Of the prices that are equally good for a block, the middle is taken, between
the last that gets a place and the first that does not: at the end of the range many pairs tie, and the rounds stall
(Werner, Průša and Dlask, "Relative Interior Rule in Block-Coordinate Descent", CVPR 2020). And where there are more
places than the tokens need, experts share the least price, found anew each round so that as many claims exceed their
prices as tokens need; that least price then becomes 0. Where no place is to spare, an expert that can take all its
callers asks what the last of them bids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .choice import uses_triton
from .order import allowed_counts, comparable
from .prices import asked
from .segments import nothing
from .selection import Ranks, in_line

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def interior_prices(
    scores: Tensor,
    k: int,
    capacity: int | Sequence[int] | Tensor,
    prices: Tensor | None = None,
    iterations: int = 8,
    valid: Tensor | None = None,
    group: ProcessGroup | None = None,
) -> Tensor:
    """Prices of the experts' places that come near the optimal ones, the least of them 0.

    Arguments and errors as of `quantile_prices`; without a valid token prices stay as they are.
    Returns (experts,) float32, or float64 for float64 scores; on every rank of `group` the same.
    """
    start, size, wanted, rounds = asked(scores, k, capacity, prices, iterations, valid, group)
    if group is not None and not torch.compiler.is_compiling():  # a group that has no name will do
        return _rounds(scores.detach(), start, size, wanted, rounds, valid, Ranks(group))
    name = None if group is None else group.group_name
    return _interior_prices(scores.detach(), start, size, wanted, rounds, valid, name)


@torch.library.custom_op("equipoise::interior_prices", mutates_args=())
def _interior_prices(
    scores: Tensor,
    prices: Tensor,
    places: Tensor,
    k: int,
    iterations: int,
    valid: Tensor | None,
    group: str | None = None,
) -> Tensor:
    if group is None and len(scores) and uses_triton(scores):
        from . import triton_interior

        return triton_interior.interior_prices(scores, prices.clone(), places, k, iterations, valid)
    return _rounds(scores, prices.clone(), places, k, iterations, valid, Ranks.named(group))


@_interior_prices.register_fake
def _(
    scores: Tensor,
    prices: Tensor,
    places: Tensor,
    k: int,
    iterations: int,
    valid: Tensor | None,
    group: str | None = None,
) -> Tensor:
    return torch.empty_like(prices)


def _rounds(
    scores: Tensor, prices: Tensor, places: Tensor, k: int, iterations: int, valid: Tensor | None, ranks: Ranks
) -> Tensor:
    value = comparable(scores, valid)
    choices, callers = allowed_counts(value)
    callers = ranks.sum(callers)
    needed = ranks.sum(choices.clamp(max=k).sum()[None])
    spare = torch.minimum(places, callers).sum()[None] > needed  # (1,)
    roomy = callers <= places
    lending = not nothing(roomy & ~spare)
    columns = value.t().contiguous()
    for _ in range(iterations):
        if uses_triton(scores):
            from . import triton_routing

            of_token = triton_routing.row_thresholds(scores, prices, k, valid, middle=True)
        else:
            of_token = _token_prices(value - prices, k, choices)
        claims = (columns - of_token).float().t()
        found = _between(claims, places, ranks).masked_fill(roomy, -torch.inf)
        if lending:
            found = torch.where(roomy, _last(claims, callers, spare, ranks), found)
        lowest = found.masked_fill(found == -torch.inf, torch.inf).min()
        if not nothing(spare):
            inside = torch.where(claims > found, claims, -torch.inf)
            lowest = torch.where(spare[0], _between(inside, needed, ranks)[0], lowest)
        raised = torch.maximum(found, lowest).to(prices.dtype)
        prices = torch.where(lowest.isfinite(), raised - raised.min(), prices)
    return prices


def _token_prices(reduced: Tensor, k: int, choices: Tensor) -> Tensor:
    """(tokens,) the middle of the k-th and the (k + 1)-th largest of each row; the last, where no more are allowed."""
    ranked = reduced.topk(min(k + 1, reduced.shape[1]), dim=1).values
    last = choices.clamp(1, k)[:, None] - 1
    first_out = torch.where(choices[:, None] > k, last + 1, last)
    middle = (ranked.gather(1, last) + ranked.gather(1, first_out)) / 2
    return middle[:, 0].masked_fill(choices == 0, 0)


def _last(claims: Tensor, callers: Tensor, spare: Tensor, ranks: Ranks) -> Tensor:
    """What an expert asks that has room for all its callers: nothing where places are to spare, else what the last of
    them bids, since every place is needed then."""
    bids = torch.where(claims > -torch.inf, claims, torch.inf) if len(claims) else claims.new_full((1, 1), torch.inf)
    last = ranks.least(bids.amin(0).expand(len(callers)).contiguous())
    return last.masked_fill(spare | (callers == 0), -torch.inf)


def _between(claims: Tensor, places: Tensor, ranks: Ranks) -> Tensor:
    """The middle of the last claim that has a place and the first that has none, per expert, or over all as one."""
    pooled = len(places) != claims.shape[1]
    first_out = in_line(claims, places, ranks)
    more = claims > first_out
    above = torch.where(more, claims, torch.inf) if len(claims) else claims.new_full((1, claims.shape[1]), torch.inf)
    last_in = above.amin()[None] if pooled else above.amin(0)
    count = more.sum()[None] if pooled else more.sum(0)
    last_in = ranks.least(last_in)
    alone = (ranks.sum(count) == places) & (places > 0)  # else the last with a place ties with the first without
    return torch.where(alone, (first_out + last_in) / 2, first_out)
