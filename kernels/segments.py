"""Which rows belong to which group, and what each group's rows add up to, the same bits on every run.

Each group's rows are added up one after the other, in their own order: on the CPU as they come, elsewhere brought
together by a stable sort first, so that no sum of floats is left to atomics. Every shape follows from the shapes given,
so that nothing waits for a device.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class Sorted(NamedTuple):
    """Rows by group.

    order (rows,): the rows, group after group, each group's in their own order, those of no group last.
    ends (groups,): where each group ends in that order.
    """

    order: Tensor
    ends: Tensor


class Groups:
    """The groups (rows,) of rows, from 0 up to below `count`; below 0 is none."""

    def __init__(self, group: Tensor, count: int) -> None:
        self.count = count
        self.key = torch.where(group < 0, count, group.to(torch.int64))
        """(rows,) the group, `count` for none: where a tensor of `count` + 1 holds what is the group's."""

    @cached_property
    def sorted(self) -> Sorted:
        """The rows brought together."""
        key, order = self.key.to(torch.int16 if self.count < 2**15 else torch.int64).sort(stable=True)
        numbers = torch.arange(self.count, dtype=key.dtype, device=key.device)
        return Sorted(order, torch.searchsorted(key, numbers, right=True))

    @cached_property
    def sizes(self) -> Tensor:
        """(count + 1,) int64 rows of each group, and of none."""
        return self._zeros(self.key).index_add_(0, self.key, torch.ones_like(self.key))

    def sums(self, values: Tensor) -> Tensor:
        """(count + 1, …) sums of values (rows, …) over each group, 0 for none, in the dtype of the values."""
        total = self._zeros(values)
        if not values.numel() or not self.count:
            return total
        if values.device.type == "cpu":
            total.index_add_(0, self.key, values)
            total[self.count] = 0
        else:
            total[: self.count] = self.sums_by_order(values)
        return total

    def sums_by_order(self, values: Tensor) -> Tensor:
        """(count, …) the same sums, to the bit, from the rows brought together; there must be rows and groups."""
        order, ends = self.sorted
        flat = values.index_select(0, order).reshape(len(order), -1)
        ends = torch.cat([ends.new_zeros(1), ends])
        added = torch.segment_reduce(flat, "sum", offsets=ends, axis=0, initial=0.0, unsafe=True)
        return added.reshape(self.count, *values.shape[1:])

    def _zeros(self, values: Tensor) -> Tensor:
        return values.new_zeros((self.count + 1, *values.shape[1:]))


def sure(name: str, values: Tensor, good: Tensor, rule: str, remedy: str) -> None:
    """Hold numbers against a rule, which `good` says of each of them.

    On the CPU `ValueError` with the first that breaks it; elsewhere an assertion on the device, so that nothing waits:
    it names the argument, the rule and the remedy, and can name no number.
    """
    if good.device.type != "cpu":
        seen = f"{name}: must be {rule}: {remedy} (the same call on tensors of the CPU names the number)"
        torch._assert_async(good.all(), seen)  # pyright: ignore[reportPrivateImportUsage]
    elif not bool(good.all()):
        at = (~good).nonzero()[0].tolist()
        where = f"{name}{at}" if at else name
        raise ValueError(f"{where}: must be {rule}, got {values[tuple(at)].item()}: {remedy}")


def nothing(flags: Tensor) -> bool:
    """Whether no flag is set; told only on the CPU, where a look costs no wait."""
    return flags.device.type == "cpu" and not bool(flags.any())


def clear(rows: Tensor, empty: Tensor) -> Tensor:
    """Set some rows to zero in place, whatever they hold; on the CPU, where a look is free, only if there are any."""
    if rows.device.type != "cpu" or bool(empty.any()):
        rows.masked_fill_(empty.reshape(-1, *[1] * (rows.ndim - 1)), 0)
    return rows
