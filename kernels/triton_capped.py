"""Proposals in Triton: which of them an expert keeps, when it has room for so many and wants the largest claims.

Proposals are put together by expert, by counting and in their order; each expert then finds its last claim that has
room by radix selection among its own, and of those that tie with it keeps the earlier. Nothing is sorted.
"""

# The kernels' Python is Triton's language, and annotations stay values, not strings, since Triton reads them.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_columns import narrowed
from .triton_numbers import PLAIN, keys, on_its_device
from .triton_permutation import positions

_CHUNK = 1024  # proposals that a program takes at once


@triton.jit
def _codes(claims, order, start, end, CHUNK: tl.constexpr):
    """Slots of some proposals, their claims as codes in the order of unsigned integers, and which there are."""
    row = start + tl.arange(0, CHUNK)
    there = row < end
    slot = tl.load(order + row, mask=there, other=0)
    key = keys(tl.load(claims + slot, mask=there, other=0.0).to(tl.float32))
    return slot, key.to(tl.uint32, bitcast=True) ^ 0x80000000, there


@triton.jit
def _digits(claims, order, begin, end, prefix, SHIFT: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr):
    """How many claims have which digit, among those that share the prefix."""
    counts = tl.zeros([1 << WIDTH], tl.int32)
    for start in range(begin, end, CHUNK):
        _, code, counted = _codes(claims, order, start, end, CHUNK)
        if SHIFT + WIDTH < 32:
            counted = counted & ((code >> (SHIFT + WIDTH)) == prefix)
        counts += tl.histogram(((code >> SHIFT) & ((1 << WIDTH) - 1)).to(tl.int32), 1 << WIDTH, mask=counted)
    return counts


@triton.jit
def _keep(claims, order, offsets, places, kept, slots, count, CHUNK: tl.constexpr):
    """Of one expert, or, behind the last, of the slots without a proposal, of which none is kept."""
    expert = tl.program_id(0)
    begin = tl.load(offsets + expert - 1, mask=expert > 0, other=0)
    end = tl.load(offsets + expert, mask=expert < count, other=slots)
    room = tl.load(places + expert, mask=expert < count, other=0)
    rank = tl.minimum(room, end - begin)
    some = rank > 0
    prefix = (expert * 0).to(tl.uint32)
    prefix, rank = narrowed(_digits(claims, order, begin, end, prefix, 21, 11, CHUNK), prefix, rank, 11)
    prefix, rank = narrowed(_digits(claims, order, begin, end, prefix, 10, 11, CHUNK), prefix, rank, 11)
    prefix, rank = narrowed(_digits(claims, order, begin, end, prefix, 0, 10, CHUNK), prefix, rank, 10)
    for start in range(begin, end, CHUNK):
        slot, code, there = _codes(claims, order, start, end, CHUNK)
        ties = (there & (code == prefix)).to(tl.int32)
        before = tl.cumsum(ties, 0) - ties
        keep = some & ((code > prefix) | ((code == prefix) & (before < rank)))
        tl.store(kept + slot, keep.to(tl.uint8), mask=there)
        rank -= tl.sum(ties, 0)


@on_its_device
def kept(claim: Tensor, experts: Tensor, there: Tensor, places: Tensor) -> Tensor:
    """Bool like `claim`: of the proposals that are there, those of largest claim, of equals the earlier."""
    flags = torch.empty(claim.shape, dtype=torch.bool, device=claim.device)
    count = len(places)
    offsets, _, _, order = positions(experts.where(there, -1), count, order=True)
    if flags.numel():
        _keep[(count + 1,)](
            claim.contiguous(), order, offsets, places.contiguous(), flags.view(torch.uint8), flags.numel(), count,
            CHUNK=_CHUNK, num_warps=4, **PLAIN,
        )  # fmt: skip
    return flags
