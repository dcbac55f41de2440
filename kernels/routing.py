"""Which experts does a token take at given prices? The k with the largest scores − prices.

Prices come from `quantile_prices`; where capacities must hold exactly, `capped_route` takes the place of `topk_route`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .capped import CappedRoute, capped_route
from .checks import Inputs, whole
from .choice import uses_triton
from .interior import interior_prices
from .order import best, comparable, reduced_scores
from .prices import quantile_prices
from .selection import digit_histogram

__all__ = ["CappedRoute", "capped_route", "digit_histogram", "interior_prices", "quantile_prices", "topk_route"]


def topk_route(scores: Tensor, prices: Tensor, k: int, valid: Tensor | None = None) -> Tensor:
    """The k experts of each token with the largest scores − prices, whatever their load.

    scores: (tokens × experts) floating point; −inf and NaN forbid a pair. prices: (experts,).
    valid: (tokens,) bool, false for padding; all true if absent.
    Returns (tokens × k) int64, best first, of equals the lower expert first; −1 for padding and where fewer than k
    pairs are allowed. Half precision is compared in float32. Raises `TypeError` and `ValueError`.
    """
    given = Inputs()
    given.take("scores", scores, "tokens experts")
    given.take("prices", prices, "experts")
    given.take_if("valid", valid, "tokens", "flag")
    wanted = whole("k", k, 1, scores.shape[1], " (the number of experts)")
    return _topk_route(scores.detach(), prices.detach(), wanted, valid)


@torch.library.custom_op("equipoise::topk_route", mutates_args=())
def _topk_route(scores: Tensor, prices: Tensor, k: int, valid: Tensor | None) -> Tensor:
    if uses_triton(scores):
        from . import triton_routing

        return triton_routing.topk_route(scores, prices, k, valid)
    reduced = reduced_scores(comparable(scores, valid), prices)
    chosen = best(reduced, k)
    return chosen.masked_fill(reduced.gather(1, chosen) == -torch.inf, -1)


@_topk_route.register_fake
def _(scores: Tensor, prices: Tensor, k: int, valid: Tensor | None) -> Tensor:
    return scores.new_empty((scores.shape[0], k), dtype=torch.int64)
