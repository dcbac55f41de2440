"""What proposals leave empty, filled in Triton: tokens ask where room is; where they are already, others move there.

Two launches fill, three swap, a round of each; all of their programs leave at once when nothing is missing any more, or
the round before changed nothing. Where one of many is wanted, it is found by the largest of integers that hold a key
and, in their lowest bits, the token: the same whatever the order of programs.
"""

# The kernels' Python is Triton's language, and annotations stay values, not strings, since Triton reads them.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
import triton
import triton.language as tl

from .triton_numbers import floats, keys
from .triton_proposals import best_of, claim_digits, claims_on, last_with_room, reduced_rows, went_on


@triton.jit
def _bid(value, token):
    """Integers above 0 that are larger for larger values, and for the earlier token where values are equal."""
    code = keys(value).to(tl.int64) + 0x80000000
    return (code << 31) | (token ^ 0x7FFFFFFF)


@triton.jit
def _bidder(bid):
    return (bid & 0x7FFFFFFF) ^ 0x7FFFFFFF


@triton.jit
def _worth(bid):
    """The value of a bid; −inf of none."""
    key = ((bid >> 31) - 0x80000000).to(tl.int32)
    return tl.where(bid == 0, -float("inf"), floats(key))


@triton.jit
def _short(filled, valid, row, tokens, k, VALID: tl.constexpr):
    """Which tokens miss places."""
    counted = row < tokens
    if VALID:
        counted = counted & (tl.load(valid + row, mask=counted, other=0) != 0)
    return counted & (tl.load(filled + row, mask=row < tokens, other=0) < k)


@triton.jit
def _is_mine(chosen, row, column, tokens, k):
    """(rows × experts) which experts a token has."""
    mine = (row[:, None] < 0) & (column[None, :] < 0)
    for slot in range(k):
        expert = tl.load(chosen + row * k + slot, mask=row < tokens, other=-1)
        mine = mine | (expert[:, None] == column[None, :])
    return mine


@triton.jit
def _has_room(places, load, column, experts):
    inside = column < experts
    return tl.load(places + column, mask=inside, other=0) > tl.load(load + column, mask=inside, other=0)


@triton.jit(do_not_specialize=["turn"])
def _ask(
    scores, prices, valid, places, load, chosen, filled, missing, targets, offers, asks, turn,
    tokens, experts, stride, k, VALID: tl.constexpr, ROWS: tl.constexpr, EXPERTS: tl.constexpr,
):  # fmt: skip
    """A token that misses places asks its best expert that has room and that it has not."""
    if tl.load(missing) == 0 or not went_on(asks, turn):
        return
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, EXPERTS)
    short = _short(filled, valid, row, tokens, k, VALID)
    target = tl.zeros([ROWS], tl.int32) - 1
    if tl.sum(short.to(tl.int32), 0) > 0:
        value = reduced_rows(scores, prices, valid, row, column, tokens, experts, stride, VALID)
        open = short[:, None] & _has_room(places, load, column, experts)[None, :]
        open = open & (_is_mine(chosen, row, column, tokens, k) == 0)
        offer, expert = best_of(keys(tl.where(open, value, -float("inf"))), column, EXPERTS)
        heard = floats(offer) > -float("inf")
        target = tl.where(heard, expert, target)
        tl.store(offers + row, offer, mask=heard)
        if tl.sum(heard.to(tl.int32), 0) > 0:
            tl.store(asks + turn, 1)
    tl.store(targets + row, target, mask=row < tokens)


@triton.jit(do_not_specialize=["turn"])
def _grant(
    offers, targets, places, load, chosen, filled, missing, asks, turn, tokens, k, CHUNK: tl.constexpr
):  # fmt: skip
    """An expert takes the largest offers that it has room for, of equals those of earlier tokens."""
    if tl.load(asks + turn) == 0:
        return
    expert = tl.program_id(0)
    last = (expert * 0).to(tl.uint32)
    counts = claim_digits(expert, offers, targets, last, tokens, 21, 11, False, CHUNK)
    callers = tl.sum(counts, 0)
    if callers > 0:
        taken = tl.load(load + expert)
        rank = tl.minimum(tl.load(places + expert) - taken, callers).to(tl.int32)
        tl.debug_barrier()  # `load` is read by all threads before it is written
        tl.store(load + expert, taken + rank)
        tl.atomic_add(missing, -rank.to(tl.int64), sem="relaxed")
        if rank < callers:
            last, rank = last_with_room(expert, offers, targets, counts, rank, tokens, False, CHUNK)
        for start in range(0, tokens, CHUNK):
            token, code, there = claims_on(expert, offers, targets, start, tokens, False, CHUNK)
            ties = (there & (code == last)).to(tl.int32)
            before = tl.cumsum(ties, 0) - ties
            keep = there & ((code > last) | ((code == last) & (before < rank)))
            slot = tl.load(filled + token, mask=keep, other=0)
            tl.store(chosen + token * k + slot, expert, mask=keep)
            tl.store(filled + token, slot + 1, mask=keep)
            rank -= tl.sum(ties, 0)


@triton.jit(do_not_specialize=["turn"])
def _offer_to_move(
    scores, prices, valid, places, load, chosen, filled, missing, targets, moves, swaps, turn,
    tokens, experts, stride, k, VALID: tl.constexpr, ROWS: tl.constexpr, EXPERTS: tl.constexpr,
):  # fmt: skip
    """A token that misses nothing tells each of its experts what it gains by moving to its best one that has room."""
    if tl.load(missing) == 0 or not went_on(swaps, turn):
        return
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, EXPERTS)
    short = _short(filled, valid, row, tokens, k, VALID)
    value = reduced_rows(scores, prices, valid, row, column, tokens, experts, stride, VALID)
    mine = _is_mine(chosen, row, column, tokens, k)
    open = (mine == 0) & _has_room(places, load, column, experts)[None, :]
    best, target = best_of(keys(tl.where(open, value, -float("inf"))), column, EXPERTS)
    best = floats(best)
    bid = _bid(best[:, None] - value, row[:, None])
    moves += turn * experts
    willing = mine & ((short == 0) & (best > -float("inf")))[:, None]
    at = tl.broadcast_to((moves + column)[None, :], [ROWS, EXPERTS])
    tl.atomic_max(at, bid, mask=willing, sem="relaxed")
    tl.store(targets + row, target, mask=row < tokens)


@triton.jit(do_not_specialize=["turn"])
def _ask_to_swap(
    scores, prices, valid, chosen, filled, missing, moves, calls, swaps, turn,
    tokens, experts, stride, k, VALID: tl.constexpr, ROWS: tl.constexpr, EXPERTS: tl.constexpr,
):  # fmt: skip
    """A token that misses places asks the expert where it and the token that would move from there do best together."""
    if tl.load(missing) == 0 or not went_on(swaps, turn):
        return
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, EXPERTS)
    short = _short(filled, valid, row, tokens, k, VALID)
    if tl.sum(short.to(tl.int32), 0) > 0:
        value = reduced_rows(scores, prices, valid, row, column, tokens, experts, stride, VALID)
        move = tl.load(moves + turn * experts + column, mask=column < experts, other=0)
        gain = tl.minimum(_worth(move), 3.4028234663852886e38)
        open = short[:, None] & (_is_mine(chosen, row, column, tokens, k) == 0)
        worth = tl.where(open, value + gain[None, :], -float("inf"))
        best, expert = best_of(keys(worth), column, EXPERTS)
        best = floats(best)
        calls += turn * experts
        tl.atomic_max(calls + expert, _bid(best, row), mask=best > -float("inf"), sem="relaxed")


@triton.jit(do_not_specialize=["turn"])
def _swap(
    places, load, chosen, filled, missing, targets, moves, calls, heard, swaps, turn, experts, k,
    EXPERTS: tl.constexpr, OTHERS: tl.constexpr,
):  # fmt: skip
    """One program: each expert gives the place of its mover to its caller, where the mover's target has room.

    A token that is the mover of several experts moves for the earliest caller; of those that move to one target the
    largest worth goes first. `heard`: (experts,) to write in.
    """
    if tl.load(missing) == 0 or not went_on(swaps, turn):
        return
    expert = tl.arange(0, EXPERTS)
    moves += turn * experts
    calls += turn * experts
    call = tl.load(calls + expert, mask=expert < experts, other=0)
    move = tl.load(moves + expert, mask=call > 0, other=0)
    caller, mover = _bidder(call), _bidder(move)
    target = tl.load(targets + mover, mask=call > 0, other=-1)
    later = tl.zeros([EXPERTS], tl.int32)
    for start in range(0, experts, OTHERS):
        other = start + tl.arange(0, OTHERS)
        their_call = tl.load(calls + other, mask=other < experts, other=0)
        their_move = tl.load(moves + other, mask=their_call > 0, other=0)
        same = (their_call > 0)[:, None] & (_bidder(their_move)[:, None] == mover[None, :])
        later += tl.sum((same & (_bidder(their_call)[:, None] < caller[None, :])).to(tl.int32), 0)
    good = (call > 0) & (later == 0)
    tl.store(heard + expert, good.to(tl.int32), mask=expert < experts)
    tl.debug_barrier()  # all of `heard` is written before any of it is read
    ahead = tl.zeros([EXPERTS], tl.int32)
    for start in range(0, experts, OTHERS):
        other = start + tl.arange(0, OTHERS)
        there = tl.load(heard + other, mask=other < experts, other=0) != 0
        their_call = tl.load(calls + other, mask=there, other=0)
        their_move = tl.load(moves + other, mask=there, other=0)
        their_target = tl.load(targets + _bidder(their_move), mask=there, other=-1)
        same = there[:, None] & (their_target[:, None] == target[None, :])
        ahead += tl.sum((same & (their_call[:, None] > call[None, :])).to(tl.int32), 0)
    room = tl.load(places + target, mask=good, other=0) - tl.load(load + target, mask=good, other=0)
    good = good & (ahead < room)
    tl.debug_barrier()  # room is read before any of it is taken
    for slot in range(k):
        theirs = tl.load(chosen + mover * k + slot, mask=good, other=-1)
        tl.store(chosen + mover * k + slot, target, mask=good & (theirs == expert))
    slot = tl.load(filled + caller, mask=good, other=0)
    tl.debug_barrier()
    tl.store(chosen + caller * k + slot, expert, mask=good)
    tl.store(filled + caller, slot + 1, mask=good)
    tl.atomic_add(load + target, tl.full([EXPERTS], 1, tl.int64), mask=good, sem="relaxed")
    done = tl.sum(good.to(tl.int64), 0)
    tl.store(swaps + turn, (done > 0).to(tl.int64))
    tl.atomic_add(missing, -done, sem="relaxed")
