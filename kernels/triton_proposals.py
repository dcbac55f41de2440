"""Deferred acceptance in Triton: tokens propose down their lists, experts keep their largest claims.

Claims lie in a matrix (experts × tokens), as integers in the order of the floats, the lowest integer where no place is
held: a token writes what it asks, an expert reads its own row from end to end, finds its last claim that has room by
radix selection, and wipes out those behind it. Nothing is sorted, and nothing depends on the order of programs. A round
in which nobody asks anything new is left at once by all of its programs.
"""

# The kernels' Python is Triton's language, and annotations stay values, not strings, since Triton reads them.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
import triton
import triton.language as tl

from .triton_columns import narrowed
from .triton_numbers import compared, floats, keys

NOBODY = tl.constexpr(-0x80000000)
"""The key of no number."""


@triton.jit
def reduced_rows(scores, prices, valid, row, column, tokens, experts, stride, VALID: tl.constexpr):
    """Of a tile: scores − prices in float32; −inf for forbidden pairs, in padding and outside."""
    inside = (row < tokens)[:, None] & (column < experts)[None, :]
    if VALID:
        inside = inside & (tl.load(valid + row, mask=row < tokens, other=0) != 0)[:, None]
    score = compared(scores + row[:, None] * stride + column[None, :], inside, False)
    return finite(score - tl.load(prices + column, mask=column < experts, other=0.0).to(tl.float32)[None, :])


@triton.jit
def finite(reduced):
    """−inf for no number, the largest number for +inf."""
    reduced = tl.where(reduced != reduced, -float("inf"), reduced)
    return tl.where(reduced == float("inf"), 3.4028234663852886e38, reduced)


@triton.jit
def best_of(key, column, EXPERTS: tl.constexpr):
    """The largest key of each row, and its column, the lower of equals."""
    largest = tl.max(key, 1)
    return largest, tl.min(tl.where(key == largest[:, None], column[None, :], EXPERTS), 1)


@triton.jit
def went_on(flags, turn):
    """Whether the round before this one changed anything; of the first round, true."""
    return tl.load(flags + turn - 1, mask=turn > 0, other=1) != 0


@triton.jit
def _lists(
    scores, prices, valid, order, ranked, tokens, experts, stride, depth,
    VALID: tl.constexpr, ROWS: tl.constexpr, EXPERTS: tl.constexpr,
):  # fmt: skip
    """Each token's best experts, the lower of equals first, and what they are worth: −inf behind the last allowed."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, EXPERTS)
    key = keys(reduced_rows(scores, prices, valid, row, column, tokens, experts, stride, VALID))
    for entry in range(depth):
        largest, expert = best_of(key, column, EXPERTS)
        tl.store(order + row * depth + entry, expert, mask=row < tokens)
        tl.store(ranked + row * depth + entry, floats(largest), mask=row < tokens)
        key = tl.where(column[None, :] == expert[:, None], NOBODY, key)


@triton.jit
def _still_held(order, claims, held, row, inside, tokens, depth):
    """The entries of the lists that still hold a place, −1 for those turned away; and their experts."""
    expert = tl.load(order + row[:, None] * depth + held, mask=inside & (held >= 0), other=0).to(tl.int64)
    claim = tl.load(claims + expert * tokens + row[:, None], mask=inside & (held >= 0), other=NOBODY)
    return tl.where(claim != NOBODY, held, -1), expert


@triton.jit(do_not_specialize=["turn"])
def _propose(
    order, ranked, claims, held, asked, news, turn, tokens, depth, k,
    FIRST: tl.constexpr, ROWS: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """Tokens fill their empty slots from their lists, and claim what they would lose by going further down."""
    if not FIRST and not went_on(news, turn):
        return
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    slot = tl.arange(0, SLOTS)
    inside = (row < tokens)[:, None] & (slot < k)[None, :]
    entry = tl.zeros([ROWS, SLOTS], tl.int32) - 1
    reached = tl.zeros([ROWS], tl.int32)
    if not FIRST:
        entry = tl.load(held + row[:, None] * k + slot[None, :], mask=inside, other=-1)
        entry, _ = _still_held(order, claims, entry, row, inside, tokens, depth)
        reached = tl.load(asked + row, mask=row < tokens, other=0)
    empty = inside & (entry < 0)
    following = reached[:, None] + tl.cumsum(empty.to(tl.int32), 1) - 1
    there = empty & (following < depth)
    worth = tl.load(ranked + row[:, None] * depth + following, mask=there, other=-float("inf"))
    new = worth > -float("inf")
    entry = tl.where(new, following, entry)
    reached += tl.sum(new.to(tl.int32), 1)
    holds = inside & (entry >= 0)
    at = row[:, None] * depth + entry
    expert = tl.load(order + at, mask=holds, other=0).to(tl.int64)
    worth = tl.load(ranked + at, mask=holds, other=0.0)
    there = (row < tokens) & (reached < depth)
    elsewhere = tl.load(ranked + row * depth + reached, mask=there, other=-float("inf"))
    tl.debug_barrier()  # all that is read is read before any of it is written again
    tl.store(claims + expert * tokens + row[:, None], keys(worth - elsewhere[:, None]), mask=holds)
    tl.store(held + row[:, None] * k + slot[None, :], entry, mask=inside)
    tl.store(asked + row, reached, mask=row < tokens)
    if tl.sum(tl.sum(new.to(tl.int32), 1), 0) > 0:
        tl.store(news + turn, 1)


@triton.jit
def claims_on(expert, claims, targets, start, tokens, DENSE: tl.constexpr, CHUNK: tl.constexpr):
    """Some tokens, their claims on an expert as codes in the order of unsigned integers, and which there are.

    DENSE: `claims` has a row for each expert; else one number a token, whose expert is in `targets`.
    """
    token = start + tl.arange(0, CHUNK).to(tl.int64)
    inside = token < tokens
    if DENSE:
        key = tl.load(claims + expert.to(tl.int64) * tokens + token, mask=inside, other=NOBODY)
        there = key != NOBODY
    else:
        there = tl.load(targets + token, mask=inside, other=-1) == expert
        key = tl.load(claims + token, mask=there, other=0)
    return token, key.to(tl.uint32, bitcast=True) ^ 0x80000000, there


@triton.jit
def claim_digits(
    expert, claims, targets, prefix, tokens,
    SHIFT: tl.constexpr, WIDTH: tl.constexpr, DENSE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """How many claims on an expert have which digit, among those that share the prefix."""
    counts = tl.zeros([1 << WIDTH], tl.int32)
    for start in range(0, tokens, CHUNK):
        _, code, counted = claims_on(expert, claims, targets, start, tokens, DENSE, CHUNK)
        if SHIFT + WIDTH < 32:
            counted = counted & ((code >> (SHIFT + WIDTH)) == prefix)
        counts += tl.histogram(((code >> SHIFT) & ((1 << WIDTH) - 1)).to(tl.int32), 1 << WIDTH, mask=counted)
    return counts


@triton.jit
def last_with_room(expert, claims, targets, counts, room, tokens, DENSE: tl.constexpr, CHUNK: tl.constexpr):
    """The code of the `room`-th largest claim, and how many of those that tie with it have room; `counts`: by the first
    digit. Without room no claim is as large as the code."""
    prefix = (expert * 0).to(tl.uint32)
    prefix, rank = narrowed(counts, prefix, room, 11)
    prefix, rank = narrowed(
        claim_digits(expert, claims, targets, prefix, tokens, 10, 11, DENSE, CHUNK), prefix, rank, 11
    )
    prefix, rank = narrowed(
        claim_digits(expert, claims, targets, prefix, tokens, 0, 10, DENSE, CHUNK), prefix, rank, 10
    )
    return prefix, rank


@triton.jit(do_not_specialize=["turn"])
def _keep(claims, places, load, news, turn, tokens, CHUNK: tl.constexpr):
    """An expert wipes out the claims that it has no room for, of equals those of later tokens."""
    if turn > 0 and tl.load(news + turn) == 0:
        return
    expert = tl.program_id(0)
    prefix = (expert * 0).to(tl.uint32)
    counts = claim_digits(expert, claims, claims, prefix, tokens, 21, 11, True, CHUNK)
    callers = tl.sum(counts, 0)
    room = tl.minimum(tl.load(places + expert), callers).to(tl.int32)
    tl.store(load + expert, room.to(tl.int64))
    if callers > room:
        last, rank = last_with_room(expert, claims, claims, counts, room, tokens, True, CHUNK)
        for start in range(0, tokens, CHUNK):
            token, code, there = claims_on(expert, claims, claims, start, tokens, True, CHUNK)
            ties = (there & (code == last)).to(tl.int32)
            before = tl.cumsum(ties, 0) - ties
            keep = (code > last) | ((code == last) & (before < rank))
            tl.store(claims + expert.to(tl.int64) * tokens + token, NOBODY, mask=there & (keep == 0))
            rank -= tl.sum(ties, 0)


@triton.jit
def _settle(
    order, claims, held, valid, chosen, filled, missing, tokens, depth, k,
    VALID: tl.constexpr, ROWS: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """The experts that kept a token, the empty slots behind them; their number, and how many are missing in all."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    slot = tl.arange(0, SLOTS)
    inside = (row < tokens)[:, None] & (slot < k)[None, :]
    entry = tl.load(held + row[:, None] * k + slot[None, :], mask=inside, other=-1)
    entry, expert = _still_held(order, claims, entry, row, inside, tokens, depth)
    there = (entry >= 0).to(tl.int32)
    count = tl.sum(there, 1)
    tl.store(chosen + row[:, None] * k + tl.cumsum(there, 1) - 1, expert.to(tl.int32), mask=there != 0)
    tl.store(chosen + row[:, None] * k + slot[None, :], -1, mask=inside & (slot[None, :] >= count[:, None]))
    tl.store(filled + row, count, mask=row < tokens)
    counted = row < tokens
    if VALID:
        counted = counted & (tl.load(valid + row, mask=counted, other=0) != 0)
    tl.atomic_add(missing, tl.sum(tl.where(counted, k - count, 0).to(tl.int64), 0), sem="relaxed")
