"""Columns in Triton: which claim of an expert's so many larger ones precede, of scores − the tokens' thresholds.

Columns are long, so they are searched digit by digit from the top (radix selection), with histograms in shared memory;
the difference is made anew for each digit, never in memory. Claims are compared in float32, as torch's version does it.
"""

# The kernels' Python is Triton's language, and annotations stay values, not strings, since Triton reads them.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_numbers import PLAIN, chunk_of, compared, flags, floats, keys, on_its_device

_BINS = 8192  # bins of the experts that a program counts for
_SPAN = 2048  # tokens that a program counts


@triton.jit
def claims_of(scores, inside, thresholds, valid, token, present, VALID: tl.constexpr, WIDE: tl.constexpr):
    """Scores − thresholds as 32-bit codes in the order of unsigned integers, and which pairs are allowed.

    scores: where they are. inside: which of them are. token, present: whose thresholds, and which of those are.
    """
    score = compared(scores, inside, WIDE)
    allowed = score > -float("inf")
    if VALID:  # not in the mask of the scores, which would keep their loads narrow
        allowed = allowed & (tl.load(valid + token, mask=present, other=0) != 0)
    threshold = tl.load(thresholds + token, mask=present, other=0.0).to(score.dtype)
    key = keys((score - threshold).to(tl.float32))
    return key.to(tl.uint32, bitcast=True) ^ 0x80000000, allowed


@triton.jit
def column_digits(
    scores, thresholds, valid, expert, prefix, tokens, token_stride, expert_stride,
    SHIFT: tl.constexpr, WIDTH: tl.constexpr, VALID: tl.constexpr, WIDE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Of one expert: how many claims have which digit, among those that share the prefix."""
    counts = tl.zeros([1 << WIDTH], tl.int32)
    for start in range(0, tokens, CHUNK):
        token = start + tl.arange(0, CHUNK).to(tl.int64)
        at = scores + token * token_stride + expert * expert_stride
        code, counted = claims_of(at, token < tokens, thresholds, valid, token, token < tokens, VALID, WIDE)
        if SHIFT + WIDTH < 32:
            counted = counted & ((code >> (SHIFT + WIDTH)) == prefix)
        counts += tl.histogram(((code >> SHIFT) & ((1 << WIDTH) - 1)).to(tl.int32), 1 << WIDTH, mask=counted)
    return counts


@triton.jit
def narrowed(counts, prefix, rank, WIDTH: tl.constexpr):
    """The prefix with the digit of the claim that `rank` − 1 others precede, and its rank among those that share it."""
    above = tl.cumsum(counts, 0, reverse=True)  # claims with this digit or a larger one
    digit = tl.maximum(tl.sum((above >= rank).to(tl.int32), 0) - 1, 0)
    rank -= tl.sum(tl.where(tl.arange(0, 1 << WIDTH) == digit, above - counts, 0), 0)
    return (prefix << WIDTH) | digit.to(tl.uint32), rank


@triton.jit
def _column_prices(
    scores, thresholds, valid, places, prices, updated, tokens, token_stride, expert_stride,
    VALID: tl.constexpr, WIDE: tl.constexpr, CLIP: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Of one expert: the claim that as many larger ones precede as it has places, in three digits."""
    expert = tl.program_id(0).to(tl.int64)
    prefix = (expert * 0).to(tl.uint32)
    counts = column_digits(
        scores, thresholds, valid, expert, prefix, tokens, token_stride, expert_stride, 21, 11, VALID, WIDE, CHUNK
    )
    callers = tl.sum(counts, 0)
    room = tl.load(places + expert)
    prefix, rank = narrowed(counts, prefix, tl.maximum(tl.minimum(room, callers - 1), 0) + 1, 11)
    counts = column_digits(
        scores, thresholds, valid, expert, prefix, tokens, token_stride, expert_stride, 10, 11, VALID, WIDE, CHUNK
    )
    prefix, rank = narrowed(counts, prefix, rank, 11)
    counts = column_digits(
        scores, thresholds, valid, expert, prefix, tokens, token_stride, expert_stride, 0, 10, VALID, WIDE, CHUNK
    )
    prefix, rank = narrowed(counts, prefix, rank, 10)
    found = floats((prefix ^ 0x80000000).to(tl.int32, bitcast=True))
    if CLIP:
        price = tl.where(callers <= room, 0.0, tl.maximum(found, 0.0))
    else:
        price = tl.where(callers > 0, found, tl.load(prices + expert))
    tl.store(updated + expert, price)


@triton.jit
def _digit_histogram(
    scores, thresholds, valid, prefix, counts, tokens, experts, token_stride, expert_stride,
    SHIFT: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr, VALID: tl.constexpr, WIDE: tl.constexpr,
    DIRECT: tl.constexpr, SPAN: tl.constexpr, TOKENS: tl.constexpr, EXPERTS: tl.constexpr,
):  # fmt: skip
    """Of some experts and a span of tokens: how many have which digit, among those that share the expert's prefix.

    KEYS: `scores` are codes already, all of them counted, and nothing is subtracted. DIRECT: each is added where it
    belongs, since so many bins fit nowhere else.
    """
    BINS: tl.constexpr = 1 << WIDTH
    lane = tl.arange(0, EXPERTS)
    expert = tl.program_id(0).to(tl.int64) * EXPERTS + lane
    shared = tl.load(prefix + expert, mask=expert < experts, other=0).to(tl.uint32, bitcast=True)
    first = tl.program_id(1).to(tl.int64) * SPAN
    if not DIRECT:
        seen = tl.zeros([EXPERTS * BINS], tl.int32)
    for start in range(0, SPAN, TOKENS):
        token = (first + start + tl.arange(0, TOKENS))[:, None]
        inside = (token < tokens) & (expert < experts)[None, :]
        at = scores + token * token_stride + expert[None, :] * expert_stride
        if KEYS:
            code = tl.load(at, mask=inside, other=0).to(tl.uint32, bitcast=True)
            counted = inside
            if VALID:
                counted = counted & (tl.load(valid + token, mask=token < tokens, other=0) != 0)
        else:
            code, counted = claims_of(at, inside, thresholds, valid, token, token < tokens, VALID, WIDE)
        if SHIFT + WIDTH < 32:
            counted = counted & ((code >> (SHIFT + WIDTH)) == shared[None, :])
        digit = ((code >> SHIFT) & (BINS - 1)).to(tl.int32)
        if DIRECT:
            tl.atomic_add(counts + expert[None, :] * BINS + digit, counted.to(tl.int32), mask=counted, sem="relaxed")
        else:
            bin = tl.reshape(digit + lane[None, :] * BINS, [TOKENS * EXPERTS])
            seen += tl.histogram(bin, EXPERTS * BINS, mask=tl.reshape(counted, [TOKENS * EXPERTS]))
    if not DIRECT:
        bin = tl.arange(0, EXPERTS * BINS)
        row = tl.program_id(0).to(tl.int64) * EXPERTS + bin // BINS
        tl.atomic_add(counts + row * BINS + bin % BINS, seen, mask=(row < experts) & (seen > 0), sem="relaxed")


@on_its_device
def column_prices(
    scores: Tensor, thresholds: Tensor, places: Tensor, prices: Tensor, valid: Tensor | None, clip: bool
) -> Tensor:
    """(experts,) from scores (experts × tokens) and the tokens' thresholds; prices of nobody's experts are kept.

    clip: at least 0, and 0 where there is room for all.
    """
    experts, tokens = scores.shape
    updated = torch.empty(experts, dtype=prices.dtype, device=prices.device)
    if experts:
        _column_prices[(experts,)](
            scores, thresholds, flags(valid, scores), places.contiguous(), prices.contiguous(), updated,
            tokens, 1, tokens, VALID=valid is not None, WIDE=scores.dtype == torch.float64, CLIP=clip,
            **chunk_of(tokens),
        )  # fmt: skip
    return updated


@on_its_device
def claim_histogram(
    scores: Tensor, thresholds: Tensor, prefix: Tensor, shift: int, bits: int, valid: Tensor | None
) -> Tensor:
    """(experts × 2^bits) int32: digits of the codes of scores − thresholds (tokens,), of allowed pairs alone.

    The code of a claim is its ordered key with the first bit turned over, so that codes are unsigned; prefix, shift
    and bits are those of `digit_histogram`.
    """
    return _launch_histogram(scores, thresholds, prefix, shift, bits, valid, keys=False)


@on_its_device
def digit_histogram(keys: Tensor, prefix: Tensor, shift: int, bits: int, valid: Tensor | None) -> Tensor:
    """(experts × 2^bits) int32."""
    return _launch_histogram(keys, prefix, prefix, shift, bits, valid, keys=True)


def _launch_histogram(
    scores: Tensor, thresholds: Tensor, prefix: Tensor, shift: int, bits: int, valid: Tensor | None, keys: bool
) -> Tensor:
    tokens, experts = scores.shape
    counts = torch.zeros((experts, 2**bits), dtype=torch.int32, device=scores.device)
    if not tokens or not experts:
        return counts
    together = min(_BINS >> bits, 8) or 8  # eight neighbours of float32 fill what memory moves at once
    grid = (triton.cdiv(experts, together), triton.cdiv(tokens, _SPAN))
    _digit_histogram[grid](
        scores, thresholds, flags(valid, scores), prefix.contiguous(), counts, tokens, experts, *scores.stride(),
        SHIFT=shift, WIDTH=bits, KEYS=keys, VALID=valid is not None, WIDE=scores.dtype == torch.float64,
        DIRECT=2**bits > _BINS, SPAN=_SPAN, TOKENS=1024, EXPERTS=together, num_warps=8, **PLAIN,
    )  # fmt: skip
    return counts
