"""How scores are put in order: what may be compared, which are the best of a row, which number stands for a float.

Equal values are ordered by index, so that the same input gives the same bits on every machine and rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import Inputs, whole
from .choice import uses_triton

LOW = 0xFFFF_FFFF
MOST = 2**62
"""Places that an expert can have: sums of two fit 64 bits."""


def comparable(scores: Tensor, valid: Tensor | None) -> Tensor:
    """Scores as float32, or float64 where they are: −inf for NaN and in padding, the largest float for +inf."""
    wide = scores if scores.dtype == torch.float64 else scores.float()
    wide = torch.nan_to_num(wide, nan=-torch.inf, neginf=-torch.inf)
    return wide if valid is None else wide.masked_fill(~valid[:, None], -torch.inf)


def reduced_scores(value: Tensor, prices: Tensor) -> Tensor:
    """Comparable scores − prices (experts,); −inf where that is no number."""
    return torch.nan_to_num_(value - prices.to(value.dtype), nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def ordered_keys(values: Tensor) -> Tensor:
    """int32 of the same order as float32 values: −0 and 0 are one, and no value may be NaN."""
    bits = (values.float() + 0.0).view(torch.int32)
    return (bits >> 31).bitwise_and_(0x7FFF_FFFF).bitwise_xor_(bits)


def keyed_values(keys: Tensor) -> Tensor:
    """The float32 values of ordered keys."""
    return (keys ^ ((keys >> 31) & 0x7FFF_FFFF)).view(torch.float32)


def best(values: Tensor, count: int) -> Tensor:
    """(rows × count) int64 columns of the largest values of each row, largest first, the lower of equals first."""
    if uses_triton(values):
        from . import triton_routing

        return triton_routing.best(values, count)
    if values.device.type != "cpu":
        return _stable(values, count)
    found = values.topk(min(count + 1, values.shape[1]), dim=1)
    tied = (found.values[:, 1:] == found.values[:, :-1]).any(1).nonzero()[:, 0]  # few, and topk orders ties as it likes
    chosen = found.indices[:, :count]
    chosen[tied] = _stable(values[tied], count)
    return chosen


def allowed_counts(value: Tensor) -> tuple[Tensor, Tensor]:
    """(tokens,) and (experts,) int64: allowed pairs of each."""
    tokens, experts = value.shape
    if value.device.type == "cpu" and value.numel() and bool(value.amin() > -torch.inf):
        return torch.full((tokens,), experts), torch.full((experts,), tokens)
    allowed = value > -torch.inf
    return allowed.sum(1), allowed.sum(0)


def _stable(values: Tensor, count: int) -> Tensor:
    """As `best`, whatever ties."""
    if values.dtype == torch.float64:
        return values.sort(dim=1, descending=True, stable=True).indices[:, :count]
    columns = torch.arange(values.shape[1], device=values.device)
    packed = torch.add(LOW - columns, ordered_keys(values), alpha=2**32)
    return LOW - (packed.topk(count, dim=1).values & LOW)


def places(
    capacity: int | Sequence[int] | Tensor, given: Inputs, tokens: int, experts: int, needed: int | None
) -> Tensor:
    """(experts,) int64 places from a capacity in any of its forms.

    needed: places that the tokens ask for, where that is known; a capacity given in numbers is held against it.
    Raises `TypeError` and `ValueError`; the numbers of a tensor are not looked at, and count as 0 where negative.
    """
    if isinstance(capacity, Tensor):
        given.take("capacity", capacity, "experts", "whole")
        return capacity.long().clamp(min=0)
    numpys = getattr(capacity, "ndim", 0) == 1  # whose arrays are no sequences
    if not isinstance(capacity, (int, str)) and (isinstance(capacity, Sequence) or numpys):
        if len(capacity) != experts:
            raise ValueError(f"capacity: has {len(capacity)} experts, but scores has {experts}")
        each = [whole(f"capacity[{expert}]", size, 0, MOST) for expert, size in enumerate(capacity)]
        there = sum(min(size, tokens) for size in each) if needed is not None else 0
        made = torch.tensor(each, dtype=torch.int64, device=given.device)
    else:
        size = whole("capacity", capacity, 0, MOST)
        there = experts * min(size, tokens) if needed is not None else 0
        made = torch.full((experts,), size, dtype=torch.int64, device=given.device)
    if needed is not None and there < needed:
        raise ValueError(f"capacity: the experts have {there} places for the tokens, which ask for {needed}: raise it")
    return made
