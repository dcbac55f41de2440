"""Tokens' rows to their experts and back in Triton, at the pace of memory.

Where each slot goes is counted, not sorted: every block of slots counts its own per expert, one running sum over
(expert, block) says where the block's share of the expert begins, and a slot comes after the equal ones before it in
its block. So the order is stable, and nothing is added by atomics. A token's row is read once and written to all its
slots; the way back reads each slot's row once, and sums over slots in their order in the wider dtype, float32 at least.

The functions take what the operators of the same names have checked.
"""

# The kernels' Python is Triton's language, and annotations stay values, not strings, since Triton reads them.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
import torch
import triton
import triton.language as tl
from torch import Tensor

from .segments import sure
from .triton_numbers import PLAIN, on_its_device

_SLOTS = 128  # that a program compares with each other
_CLEARED = 64  # rows that a program looks through
_UNROLLED = 8  # slots of a token whose rows are on their way at once
_LAUNCH = {"num_warps": 4, **PLAIN}


@triton.jit
def _bucket(experts, slot, slots, count):
    """The experts of some slots; empty ones are counted behind the last expert."""
    expert = tl.load(experts + slot, mask=slot < slots, other=-1).to(tl.int32)
    return tl.where(expert < 0, count, expert)


@triton.jit
def _count(experts, counts, slots, count, blocks, SLOTS: tl.constexpr):
    lane = tl.arange(0, SLOTS)
    slot = tl.program_id(0) * SLOTS + lane
    bucket = _bucket(experts, slot, slots, count)
    alike = (bucket[:, None] == bucket[None, :]) & (slot < slots)[None, :]
    at = bucket.to(tl.int64) * blocks + tl.program_id(0)
    tl.store(counts + at, tl.sum(alike.to(tl.int32), 1), mask=slot < slots)  # the same number from all that are alike


@triton.jit
def _number(experts, ends, places, rows, order, slots, count, blocks, ORDER: tl.constexpr, SLOTS: tl.constexpr):
    lane = tl.arange(0, SLOTS)
    slot = tl.program_id(0) * SLOTS + lane
    bucket = _bucket(experts, slot, slots, count)
    later = (bucket[:, None] == bucket[None, :]) & (slot < slots)[None, :] & (lane[None, :] >= lane[:, None])
    end = tl.load(ends + bucket.to(tl.int64) * blocks + tl.program_id(0), mask=slot < slots, other=0)
    row = end - tl.sum(later.to(tl.int32), 1)
    tl.store(rows + slot, row, mask=slot < slots)
    if ORDER:
        tl.store(order + row, slot, mask=slot < slots)
    tl.store(places + slot, tl.where(bucket < count, row, -1).to(tl.int64), mask=slot < slots)


@triton.jit
def _spread(
    x, places, lines, rows, tokens,
    STRIDE: tl.constexpr, WIDTH: tl.constexpr, SLOTS: tl.constexpr, TOKENS: tl.constexpr,
    BLOCK: tl.constexpr, UNROLLED: tl.constexpr,
):  # fmt: skip
    """Rows of tokens to the lines of their slots; zeros to the lines of empty ones."""
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (token < tokens)[:, None] & (column < WIDTH)[None, :]
    value = tl.load(x + token[:, None] * STRIDE + column[None, :], mask=inside, other=0.0)
    for first in range(0, SLOTS, UNROLLED):
        for step in tl.static_range(UNROLLED):
            slot = token * SLOTS + first + step
            there = (token < tokens) & (slot < (token + 1) * SLOTS)
            line = tl.load(lines + slot, mask=there, other=0).to(tl.int64)
            filled = tl.load(places + slot, mask=there, other=-1) >= 0
            kept = tl.where(filled[:, None], value, 0.0)
            tl.store(rows + line[:, None] * WIDTH + column[None, :], kept, mask=inside & there[:, None])


@triton.jit
def _combine(
    rows, places, weights, total, tokens,
    STRIDE: tl.constexpr, WIDTH: tl.constexpr, SLOTS: tl.constexpr, WIDE: tl.constexpr,
    TOKENS: tl.constexpr, BLOCK: tl.constexpr, UNROLLED: tl.constexpr,
):  # fmt: skip
    """Weighted sums over slots; rows of empty slots are not read."""
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (token < tokens)[:, None] & (column < WIDTH)[None, :]
    added = tl.zeros([TOKENS, BLOCK], tl.float64 if WIDE else tl.float32)
    for first in range(0, SLOTS, UNROLLED):
        for step in tl.static_range(UNROLLED):
            slot = token * SLOTS + first + step
            there = (token < tokens) & (slot < (token + 1) * SLOTS)
            place = tl.load(places + slot, mask=there, other=-1).to(tl.int64)
            filled = place >= 0
            weight = tl.load(weights + slot, mask=filled, other=0.0).to(added.dtype)
            at = rows + place[:, None] * STRIDE + column[None, :]
            row = tl.load(at, mask=inside & filled[:, None], other=0.0)
            added += row.to(added.dtype) * weight[:, None]
    tl.store(total + token[:, None] * WIDTH + column[None, :], added.to(total.dtype.element_ty), mask=inside)


@triton.jit
def _combine_backward(
    grad, rows, places, weights, into_rows, into_weights, named, tokens,
    GRAD_STRIDE: tl.constexpr, STRIDE: tl.constexpr, WIDTH: tl.constexpr, SLOTS: tl.constexpr, WIDE: tl.constexpr,
    TOKENS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    for slot in range(SLOTS):
        there = token < tokens
        place = tl.load(places + token * SLOTS + slot, mask=there, other=-1).to(tl.int64)
        filled = place >= 0
        weight = tl.load(weights + token * SLOTS + slot, mask=filled, other=0.0)
        weight = weight.to(tl.float64 if WIDE else tl.float32)
        added = tl.zeros([TOKENS, BLOCK], weight.dtype)
        for start in range(0, WIDTH, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = filled[:, None] & (column < WIDTH)[None, :]
            given = tl.load(grad + token[:, None] * GRAD_STRIDE + column[None, :], mask=inside, other=0.0)
            given = given.to(weight.dtype)
            row = tl.load(rows + place[:, None] * STRIDE + column[None, :], mask=inside, other=0.0)
            added += row.to(weight.dtype) * given
            moved = (given * weight[:, None]).to(into_rows.dtype.element_ty)
            tl.store(into_rows + place[:, None] * WIDTH + column[None, :], moved, mask=inside)
        answer = tl.sum(added, 1).to(into_weights.dtype.element_ty)
        tl.store(into_weights + token * SLOTS + slot, answer, mask=there)
        tl.atomic_add(named + place, tl.where(filled, 1, 0), mask=filled, sem="relaxed")


@triton.jit
def _clear(rows, named, count, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Zeros in the rows that were not named."""
    first = tl.program_id(0).to(tl.int64) * ROWS
    row = first + tl.arange(0, ROWS)
    empty = tl.load(named + row, mask=row < count, other=1) == 0
    if tl.sum(empty.to(tl.int32), 0) > 0:
        for step in range(ROWS):
            if tl.sum((empty & (row == first + step)).to(tl.int32), 0) > 0:
                for start in range(0, WIDTH, BLOCK):
                    column = start + tl.arange(0, BLOCK)
                    zero = tl.zeros([BLOCK], rows.dtype.element_ty)
                    tl.store(rows + (first + step) * WIDTH + column, zero, mask=column < WIDTH)


@on_its_device
def dispatch(x: Tensor, experts: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, offsets and places."""
    tokens, slots = experts.shape
    offsets, places, lines, _ = positions(experts, count, order=False)
    rows = x.new_empty((tokens * slots, x.shape[1]))
    if rows.numel():
        x = _packed(x)
        together, block = _tile(x)
        _spread[(triton.cdiv(tokens, together), triton.cdiv(x.shape[1], block))](
            x, places, lines, rows, tokens, STRIDE=x.stride(0), WIDTH=x.shape[1], SLOTS=slots, TOKENS=together,
            BLOCK=block, UNROLLED=_unrolled(slots), **_LAUNCH,
        )  # fmt: skip
    return rows, offsets, places


@on_its_device
def combine(rows: Tensor, place: Tensor, weights: Tensor) -> Tensor:
    """(tokens, width) in the dtype of rows."""
    tokens, slots = place.shape
    total = rows.new_empty((tokens, rows.shape[1]))
    if total.numel():
        rows = _packed(rows)
        together, block = _tile(rows)
        _combine[(triton.cdiv(tokens, together), triton.cdiv(rows.shape[1], block))](
            rows, place.contiguous(), weights.contiguous(), total, tokens, STRIDE=rows.stride(0),
            WIDTH=rows.shape[1], SLOTS=slots, WIDE=_wide(rows, weights), TOKENS=together, BLOCK=block,
            UNROLLED=_unrolled(slots), **_LAUNCH,
        )  # fmt: skip
    return total


@on_its_device
def combine_backward(grad: Tensor, rows: Tensor, place: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives in rows and in weights; raises as `segments.sure` does where a row is the place of two slots."""
    tokens, slots = place.shape
    into_rows = torch.empty_like(rows, memory_format=torch.contiguous_format)
    into_weights = torch.empty_like(weights, memory_format=torch.contiguous_format)
    named = torch.zeros(len(rows), dtype=torch.int32, device=rows.device)
    grad, rows = _packed(grad), _packed(rows)
    together, block = _tile(rows)
    if into_weights.numel():
        _combine_backward[(triton.cdiv(tokens, together),)](
            grad, rows, place.contiguous(), weights.contiguous(), into_rows, into_weights, named, tokens,
            GRAD_STRIDE=grad.stride(0), STRIDE=rows.stride(0), WIDTH=rows.shape[1], SLOTS=slots,
            WIDE=_wide(rows, weights, grad), TOKENS=together, BLOCK=block, **_LAUNCH,
        )  # fmt: skip
    sure("slots of a row", named, named < 2, "at most 1", "place must not name a row twice")
    if into_rows.numel():
        _clear[(triton.cdiv(len(rows), _CLEARED),)](
            into_rows, named, len(rows), WIDTH=rows.shape[1], ROWS=_CLEARED, BLOCK=block, **_LAUNCH
        )
    return into_rows, into_weights


def positions(experts: Tensor, count: int, order: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where slots go that are put together by expert, empty ones behind the others.

    Returns (count,) int32 ends, (tokens, k) int64 rows or −1 where empty, (tokens, k) int32 rows, and, if `order`,
    (tokens · k,) int32 the slot of each row.
    """
    device, slots = experts.device, experts.numel()
    places = torch.empty(experts.shape, dtype=torch.int64, device=device)
    lines = torch.empty(experts.shape, dtype=torch.int32, device=device)
    slot = torch.empty_like(lines.flatten()) if order else lines
    if not slots:
        return torch.zeros(count, dtype=torch.int32, device=device), places, lines, slot
    experts = experts.contiguous()
    blocks = triton.cdiv(slots, _SLOTS)
    counts = torch.zeros((count + 1, blocks), dtype=torch.int32, device=device)
    _count[(blocks,)](experts, counts, slots, count, blocks, SLOTS=_SLOTS, **_LAUNCH)
    ends = counts.flatten().cumsum(0, dtype=torch.int32).view(count + 1, blocks)
    _number[(blocks,)](experts, ends, places, lines, slot, slots, count, blocks, ORDER=order, SLOTS=_SLOTS, **_LAUNCH)
    return ends[:count, -1].contiguous(), places, lines, slot


def _tile(rows: Tensor) -> tuple[int, int]:
    """Rows and columns that a program takes at once: 8 KiB, more rows where they are short."""
    most = 8192 // rows.element_size()
    block = min(triton.next_power_of_2(max(rows.shape[1], 1)), most)
    return max(most // block, 1), block


def _unrolled(slots: int) -> int:
    return min(triton.next_power_of_2(slots), _UNROLLED)


def _packed(rows: Tensor) -> Tensor:
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _wide(*tensors: Tensor) -> bool:
    return any(tensor.dtype == torch.float64 for tensor in tensors)
