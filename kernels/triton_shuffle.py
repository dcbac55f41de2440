"""Places in a shuffled order in Triton: one launch for all rounds of the network and all steps of the walk.

The numbers are those of `shuffle`, which says what is computed; integers of 64 bits wrap around in both.
"""

# The kernels' Python is Triton's language, and annotations stay values, not strings, since Triton reads them.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_numbers import PLAIN, on_its_device

_ENTRIES = 256  # that a program takes at once


@triton.jit
def _mixed(number):
    """A hash of 32 bits, as `shuffle` makes it."""
    number = number & 0xFFFFFFFF
    number = ((number ^ (number >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    number = ((number ^ (number >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return number ^ (number >> 16)


@triton.jit
def _added(number, other, limit):
    """A number below a limit plus a hash of another, modulo the limit."""
    added = ((_mixed(other) * limit) >> 32) + number
    return tl.where(added < limit, added, added - limit)


@triton.jit
def _shuffled(
    index, which, size, width, height, keys, went, entries, domains,
    ROUNDS: tl.constexpr, WALK: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    entry = tl.program_id(0).to(tl.int64) * ENTRIES + tl.arange(0, ENTRIES)
    there = entry < entries
    domain = tl.load(which + entry, mask=there, other=0)
    most = tl.load(size + domain, mask=there, other=1)
    wide, high = tl.load(width + domain, mask=there, other=1), tl.load(height + domain, mask=there, other=1)
    number = tl.load(index + entry, mask=there, other=0)
    for step in range(WALK):
        left = number // high
        right = number - left * high
        for turn in range(0, ROUNDS, 2):
            left = _added(left, right + tl.load(keys + turn * domains + domain, mask=there, other=0), wide)
            right = _added(right, left + tl.load(keys + (turn + 1) * domains + domain, mask=there, other=0), high)
        number = tl.where((number >= most) | (step == 0), left * high + right, number)
    tl.store(went + entry, number, mask=there)


@on_its_device
def shuffled(
    index: Tensor, which: Tensor, size: Tensor, width: Tensor, height: Tensor, keys: Tensor, walk: int
) -> Tensor:
    """(entries,) int64, of a network (keys: rounds × domains) over rectangles (domains,), after `walk` steps at
    most."""
    went = torch.empty_like(index)
    if len(index):
        _shuffled[(triton.cdiv(len(index), _ENTRIES),)](
            index.contiguous(), which.contiguous(), size.contiguous(), width.contiguous(), height.contiguous(),
            keys.contiguous(), went, len(index), len(size),
            ROUNDS=len(keys), WALK=walk, ENTRIES=_ENTRIES, num_warps=4, **PLAIN,
        )  # fmt: skip
    return went
