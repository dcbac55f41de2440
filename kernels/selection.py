"""Which number of a column do so many larger ones precede, over all ranks together, and without a sort?

Radix selection: integer histograms of one digit after the other, from the highest, among the keys that share the digits
found so far. Histograms of ranks add up, so that all ranks find the same exact number. On the CPU, alone, torch's own
selection is quicker and gives the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .checks import Inputs, whole
from .choice import uses_triton
from .order import keyed_values, ordered_keys

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

DIGITS = ((21, 11), (10, 11), (0, 10))
"""Lowest bit and width of the digits of a key, from the highest."""
SIGN = -(2**31)


class Ranks:
    """The ranks whose tokens are taken together: those of a process group, or this process alone."""

    def __init__(self, group: ProcessGroup | None = None) -> None:
        self.group = group
        self.alone = group is None

    @staticmethod
    def named(group: str | None) -> Ranks:
        """Those of the group that torch knows by this name: what an operator, which takes no groups, is told."""
        if group is None:
            return Ranks()
        from torch.distributed.distributed_c10d import (
            _resolve_process_group,  # pyright: ignore[reportPrivateImportUsage]
        )

        return Ranks(_resolve_process_group(group))  # pyright: ignore[reportArgumentType]

    def sum(self, counts: Tensor) -> Tensor:
        """Integers of all ranks, added up; `counts` itself is overwritten."""
        if not self.alone:
            from torch import distributed

            distributed.all_reduce(counts, group=self.group)
        return counts

    def least(self, values: Tensor) -> Tensor:
        """The smallest of all ranks; `values` itself is overwritten."""
        if not self.alone:
            from torch import distributed

            distributed.all_reduce(values, op=distributed.ReduceOp.MIN, group=self.group)
        return values


def in_line(values: Tensor, rank: Tensor, ranks: Ranks) -> Tensor:
    """The number that `rank` larger ones precede: of each column, or of all where `rank` is one for all.

    values: (tokens × experts) floating point without NaN, compared in float32. rank: (experts,) or (1,) int64; beyond
    the end the last stands in. Returns float32 like `rank`; −inf where there is no number at all.
    """
    pooled = len(rank) != values.shape[1]
    if ranks.alone and values.device.type == "cpu" and len(values):
        columns = values.float().reshape(1, -1) if pooled else values.float().t().contiguous()
        return _kth(columns, columns.shape[1] - rank.clamp(max=columns.shape[1] - 1))
    keys = ordered_keys(values) ^ SIGN  # in the order of unsigned integers
    return by_digits(lambda *digit: digit_histogram(keys, *digit), values.shape[1], rank, ranks)


def by_digits(histogram: Callable[[Tensor, int, int], Tensor], columns: int, rank: Tensor, ranks: Ranks) -> Tensor:
    """As `in_line`, of numbers that only `histogram` sees: (columns × 2^bits) counts of a prefix, a shift and bits."""
    pooled = len(rank) != columns
    prefix = torch.zeros(columns, dtype=torch.int32, device=rank.device)
    counted = torch.zeros_like(rank)
    for shift, bits in DIGITS:
        counts = histogram(prefix, shift, bits)
        counts = ranks.sum(counts.sum(0, keepdim=True) if pooled else counts)
        above = counts.flip(1).cumsum(1)  # keys with this digit or a larger one, from the largest
        counted = above[:, -1] if shift == DIGITS[0][0] else counted
        rank = torch.minimum(rank, above[:, -1] - 1)
        digit = (above <= rank[:, None]).sum(1)
        before = above.gather(1, (digit - 1).clamp(min=0)[:, None])[:, 0]
        rank = rank - before.masked_fill(digit == 0, 0)
        prefix = ((prefix << bits) | (2**bits - 1 - digit)).int()
    return keyed_values(prefix[: len(rank)] ^ SIGN).masked_fill(counted == 0, -torch.inf)


def _kth(rows: Tensor, positions: Tensor) -> Tensor:
    """The smallest but so many, counted from 1, of each row."""
    wanted = positions.tolist()
    if len(set(wanted)) == 1:
        return rows.kthvalue(wanted[0], dim=1).values
    found = [row.kthvalue(position).values for row, position in zip(rows, wanted, strict=True)]
    return torch.stack(found) if found else rows.new_zeros(0)


def digit_histogram(keys: Tensor, prefix: Tensor, shift: int, bits: int, valid: Tensor | None = None) -> Tensor:
    """How many keys of each expert have which digit, among those whose higher bits are the expert's prefix.

    keys: (tokens × experts) int32, taken as 32 unsigned bits. prefix: (experts,) int32, the bits above the digit.
    shift, bits: lowest bit and width of the digit, together at most 32, width at most 16. valid: (tokens,) bool.
    Returns (experts × 2^bits) int32, which may be added up over ranks. Raises `TypeError` and `ValueError`.
    """
    given = Inputs()
    given.take("keys", keys, "tokens experts", "whole")
    given.take("prefix", prefix, "experts", "whole")
    given.take_if("valid", valid, "tokens", "flag")
    for name, tensor in (("keys", keys), ("prefix", prefix)):
        if tensor.dtype != torch.int32:
            raise TypeError(f"{name}: must be int32, got {tensor.dtype}")
    width = whole("bits", bits, 1, 16)
    low = whole("shift", shift, 0, 32 - width, " (32 − bits)")
    return _digit_histogram(keys, prefix, low, width, valid)


@torch.library.custom_op("equipoise::digit_histogram", mutates_args=())
def _digit_histogram(keys: Tensor, prefix: Tensor, shift: int, bits: int, valid: Tensor | None) -> Tensor:
    if uses_triton(keys):
        from . import triton_routing

        return triton_routing.digit_histogram(keys, prefix, shift, bits, valid)
    experts, size = keys.shape[1], 2**bits
    bins = ((keys >> shift) & (size - 1)) + torch.arange(experts, device=keys.device) * size
    left = 32 - shift - bits
    if left:
        bins = bins.where(((keys >> (shift + bits)) & (2**left - 1)) == prefix, experts * size)
    if valid is not None:
        bins = bins.masked_fill(~valid[:, None], experts * size)
    counts = torch.zeros(experts * size + 1, dtype=torch.int32, device=keys.device)
    counts.scatter_add_(0, bins.flatten(), torch.ones_like(keys).flatten())
    return counts[:-1].reshape(experts, size).clone()


@_digit_histogram.register_fake
def _(keys: Tensor, prefix: Tensor, shift: int, bits: int, valid: Tensor | None) -> Tensor:
    return keys.new_empty((keys.shape[1], 2**bits))
