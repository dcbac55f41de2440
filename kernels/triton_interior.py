"""Interior prices in Triton: seven launches a round, of which four leave at once where no place is to spare.

As in `triton_columns`, claims are scores − the tokens' thresholds, made anew wherever they are read, and found by radix
selection. Over all experts together that takes a histogram that all of them add to, a launch for each digit; every
program then finds the digits so far by itself. The numbers are those of `interior`, bit for bit.
"""

# The kernels' Python is Triton's language, and annotations stay values, not strings, since Triton reads them.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# pyright: reportAssignmentType=false
import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_columns import claims_of, column_digits, narrowed
from .triton_numbers import PLAIN, chunk_of, compared, flags, floats, keys, on_its_device, rows_of
from .triton_routing import row_thresholds

_BINS = tl.constexpr(2048)
_STATE = (
    3 * 2048 + 2
)  # of a round: a histogram for each digit, how many claims are larger than the one found, their least


@triton.jit
def _counted(
    scores, valid, callers, needed, tokens, experts, stride, k,
    VALID: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, EXPERTS: tl.constexpr,
):  # fmt: skip
    """How many tokens each expert may take, and how many places they all need."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, EXPERTS)
    inside = (row < tokens)[:, None] & (column < experts)[None, :]
    if VALID:
        inside = inside & (tl.load(valid + row, mask=row < tokens, other=0) != 0)[:, None]
    allowed = (compared(scores + row[:, None] * stride + column[None, :], inside, WIDE) > -float("inf")).to(tl.int64)
    count = tl.sum(allowed, 0)
    tl.atomic_add(callers + column, count, mask=count > 0, sem="relaxed")
    tl.atomic_add(needed, tl.sum(tl.minimum(tl.sum(allowed, 1), k), 0), sem="relaxed")


@triton.jit
def _value(code):
    """The float of a code in the order of unsigned integers."""
    return floats((code.to(tl.uint32) ^ 0x80000000).to(tl.int32, bitcast=True))


@triton.jit
def _code(value):
    return keys(value).to(tl.uint32, bitcast=True) ^ 0x80000000


@triton.jit
def _of_one(
    scores, thresholds, valid, callers, places, spare, found, tokens,
    VALID: tl.constexpr, WIDE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """What an expert asks by itself: the middle of the last claim that has a place and the first that has none; with
    room for all its callers nothing, or, where no place is to spare, what the last of them bids."""
    expert = tl.program_id(0).to(tl.int64)
    calls, room = tl.load(callers + expert), tl.load(places + expert)
    first_out = (expert * 0).to(tl.uint32)
    roomy = calls <= room
    if roomy == 0:
        rank = room.to(tl.int32) + 1
        counts = column_digits(
            scores, thresholds, valid, expert, first_out, tokens, 1, tokens, 21, 11, VALID, WIDE, CHUNK
        )
        first_out, rank = narrowed(counts, first_out, rank, 11)
        counts = column_digits(
            scores, thresholds, valid, expert, first_out, tokens, 1, tokens, 10, 11, VALID, WIDE, CHUNK
        )
        first_out, rank = narrowed(counts, first_out, rank, 11)
        counts = column_digits(
            scores, thresholds, valid, expert, first_out, tokens, 1, tokens, 0, 10, VALID, WIDE, CHUNK
        )
        first_out, rank = narrowed(counts, first_out, rank, 10)
    above, last_in = (expert * 0), (expert * 0) + 0xFFFFFFFF  # of the claims above the first that has no place
    if (roomy == 0) | (tl.load(spare) == 0):
        for start in range(0, tokens, CHUNK):
            token = start + tl.arange(0, CHUNK).to(tl.int64)
            there = token < tokens
            code, more = claims_of(
                scores + expert * tokens + token, there, thresholds, valid, token, there, VALID, WIDE
            )
            more = more & (code > first_out)  # every claim is larger than the code 0
            above += tl.sum(more.to(tl.int64), 0)
            last_in = tl.minimum(last_in, tl.min(tl.where(more, code.to(tl.int64), 0xFFFFFFFF), 0))
    price = _value(first_out)
    price = tl.where((above == room) & (room > 0), (price + _value(last_in)) * 0.5, price)
    price = tl.where(roomy, tl.where(above > 0, _value(last_in), -float("inf")), price)
    tl.store(found + expert, price)


@triton.jit
def _pooled_digit(state, needed, DIGITS: tl.constexpr):
    """Of the first claim of all that needs no place: its first digits, and its rank among those that share them."""
    prefix, rank = tl.load(needed).to(tl.uint32) * 0, tl.load(needed) + 1
    bin = tl.arange(0, _BINS)
    if DIGITS > 0:
        prefix, rank = narrowed(tl.load(state + bin), prefix, rank, 11)
    if DIGITS > 1:
        prefix, rank = narrowed(tl.load(state + _BINS + bin), prefix, rank, 11)
    if DIGITS > 2:  # ten bits; the rest of these bins is empty
        prefix, rank = narrowed(tl.load(state + 2 * _BINS + tl.arange(0, 1024)), prefix, rank, 10)
    return prefix, rank


@triton.jit
def _of_all(
    scores, thresholds, valid, found, spare, needed, state, tokens,
    DIGIT: tl.constexpr, VALID: tl.constexpr, WIDE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Of the claims above what an expert asks: how many have which digit, of those that share the digits found before;
    after the last digit, how many are above the claim that was found, and the least of them."""
    if tl.load(spare) == 0:
        return
    expert = tl.program_id(0).to(tl.int64)
    SHIFT: tl.constexpr = 21 if DIGIT == 0 else (10 if DIGIT == 1 else 0)
    WIDTH: tl.constexpr = 11 if DIGIT < 2 else 10
    prefix, _ = _pooled_digit(state, needed, DIGIT)
    floor = _code(tl.load(found + expert))
    counts = tl.zeros([1 << WIDTH], tl.int32)
    above, least = (expert * 0), (expert * 0) + 0xFFFFFFFF
    for start in range(0, tokens, CHUNK):
        token = start + tl.arange(0, CHUNK).to(tl.int64)
        there = token < tokens
        code, counted = claims_of(scores + expert * tokens + token, there, thresholds, valid, token, there, VALID, WIDE)
        counted = counted & (code > floor)
        if DIGIT == 3:
            counted = counted & (code > prefix)
            above += tl.sum(counted.to(tl.int64), 0)
            least = tl.minimum(least, tl.min(tl.where(counted, code.to(tl.int64), 0xFFFFFFFF), 0))
        else:
            if DIGIT > 0:
                counted = counted & ((code >> (SHIFT + WIDTH)) == prefix)
            counts += tl.histogram(((code >> SHIFT) & ((1 << WIDTH) - 1)).to(tl.int32), 1 << WIDTH, mask=counted)
    if DIGIT == 3:
        tl.atomic_add(state + 3 * _BINS, above, sem="relaxed")
        tl.atomic_max(state + 3 * _BINS + 1, 0xFFFFFFFF - least, sem="relaxed")
    else:
        bin = tl.arange(0, 1 << WIDTH)
        tl.atomic_add(state + DIGIT * _BINS + bin, counts.to(tl.int64), mask=counts > 0, sem="relaxed")


@triton.jit
def _raised(found, spare, needed, state, prices, updated, experts, EXPERTS: tl.constexpr):
    """One program: no expert asks less than the least price, which then is 0; without one, prices stay."""
    expert = tl.arange(0, EXPERTS)
    inside = expert < experts
    own = tl.load(found + expert, mask=inside, other=-float("inf"))
    lowest = tl.min(tl.where(own == -float("inf"), float("inf"), own), 0)
    if tl.load(spare) != 0:
        many = tl.load(needed)
        code, _ = _pooled_digit(state, needed, 3)
        lowest = _value(code)
        last_in = _value(0xFFFFFFFF - tl.load(state + 3 * _BINS + 1))
        lowest = tl.where(tl.load(state + 3 * _BINS) == many, (lowest + last_in) * 0.5, lowest)
        total = tl.sum(tl.load(state + tl.arange(0, _BINS)), 0)
        lowest = tl.where(many >= total, -float("inf"), lowest)
    price = tl.load(prices + expert, mask=inside, other=0.0)
    raised = tl.maximum(own, lowest).to(price.dtype)
    least = tl.min(tl.where(inside, raised, float("inf")), 0)
    known = (lowest > -float("inf")) & (lowest < float("inf"))
    tl.store(updated + expert, tl.where(known, raised - least, price), mask=inside)


@on_its_device
def interior_prices(
    scores: Tensor, prices: Tensor, places: Tensor, k: int, iterations: int, valid: Tensor | None
) -> Tensor:
    """(experts,) in the dtype of prices, after rounds on the tokens of this rank alone, of which there is one."""
    tokens, experts = scores.shape
    columns, places, padding = scores.t().contiguous(), places.contiguous(), flags(valid, scores)
    zeros = torch.zeros(experts + 1 + iterations * _STATE, dtype=torch.int64, device=scores.device)
    callers, needed, *states = zeros.split([experts, 1, *[_STATE] * iterations])
    rows = rows_of(experts)
    options = {"VALID": valid is not None, "WIDE": scores.dtype == torch.float64}
    packed = scores if scores.stride(1) == 1 else scores.contiguous()
    _counted[(triton.cdiv(tokens, rows["ROWS"]),)](
        packed, padding, callers, needed, tokens, experts, packed.stride(0), k, **options, **rows
    )
    spare = (torch.minimum(places, callers).sum() > needed).view(torch.uint8)
    found = torch.empty(experts, dtype=torch.float32, device=scores.device)
    for state in states:
        thresholds = row_thresholds(packed, prices, k, valid, middle=True)
        table = columns, thresholds, padding
        _of_one[(experts,)](*table, callers, places, spare, found, tokens, **options, **chunk_of(tokens))
        for digit in range(4):
            _of_all[(experts,)](*table, found, spare, needed, state, tokens, DIGIT=digit, **options, **chunk_of(tokens))
        updated = torch.empty_like(prices)
        _raised[(1,)](
            found,
            spare,
            needed,
            state,
            prices.contiguous(),
            updated,
            experts,
            EXPERTS=rows["EXPERTS"],
            num_warps=4,
            **PLAIN,
        )
        prices = updated
    return prices
