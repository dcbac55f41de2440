"""Capped routes in Triton: the rounds of `triton_proposals` and `triton_swaps`, and what comes out of them.

Nothing of a round is told to the host. It costs seven launches, of which two propose, two fill and three swap. Scores
are read where they lie; their differences from prices are made anew by every kernel. The numbers are those of `capped`,
bit for bit.
"""

# The kernels' Python is Triton's language, and annotations stay values, not strings, since Triton reads them.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
import torch
import triton
import triton.language as tl
from torch import Tensor

from . import triton_proposals as proposals
from . import triton_swaps as swaps
from .triton_numbers import PLAIN, chunk_of, compared, flags, floats, keys, on_its_device, rows_of
from .triton_proposals import NOBODY, best_of, finite

_ENTRIES = 1024  # slots that a program takes at once
_OTHERS = 16  # experts that the program that swaps compares with all others at once
_LAUNCH = {"num_warps": 4, **PLAIN}


@triton.jit
def _ranked(
    scores, prices, chosen, experts, values, tokens, stride, k, ROWS: tl.constexpr, SLOTS: tl.constexpr
):  # fmt: skip
    """A token's experts by descending scores − prices, −1 behind them, and their scores in float64."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    slot = tl.arange(0, SLOTS)
    inside = (row < tokens)[:, None] & (slot < k)[None, :]
    mine = tl.load(chosen + row[:, None] * k + slot[None, :], mask=inside, other=-1)
    score = compared(scores + row[:, None] * stride + mine, mine >= 0, False)
    reduced = finite(score - tl.load(prices + mine, mask=mine >= 0, other=0.0).to(tl.float32))
    key = tl.where(mine >= 0, keys(reduced), NOBODY)
    for rank in range(k):
        largest = tl.max(key, 1)
        first = (key == largest[:, None]) & (mine >= 0)
        expert = tl.min(tl.where(first, mine, 0x7FFFFFFF), 1)
        there = largest != NOBODY
        first = first & (mine == expert[:, None])
        value = tl.max(tl.where(first, score, -float("inf")), 1).to(tl.float64)
        at = row * k + rank
        tl.store(experts + at, tl.where(there, expert, -1).to(tl.int64), mask=row < tokens)
        tl.store(values + at, tl.where(there, value, 0.0), mask=row < tokens)
        key = tl.where(first, NOBODY, key)


@triton.jit
def _floor(prices, column, experts):
    """Prices in float64, 0 for those below it; not a number stays."""
    price = tl.load(prices + column, mask=column < experts, other=0.0).to(tl.float64)
    return tl.where(price < 0, 0.0, price)


@triton.jit
def _proven(
    scores, prices, valid, top, callers, tokens, experts, stride, k,
    VALID: tl.constexpr, ROWS: tl.constexpr, EXPERTS: tl.constexpr,
):  # fmt: skip
    """In float64 the k largest scores − prices of at least 0 of each token, 0 for those that there are not; and how
    many tokens each expert may take."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, EXPERTS)
    inside = (row < tokens)[:, None] & (column < experts)[None, :]
    if VALID:
        inside = inside & (tl.load(valid + row, mask=row < tokens, other=0) != 0)[:, None]
    score = compared(scores + row[:, None] * stride + column[None, :], inside, False)
    count = tl.sum((score > -float("inf")).to(tl.int64), 0)
    tl.atomic_add(callers + column, count, mask=count > 0, sem="relaxed")
    key = keys(score.to(tl.float64) - _floor(prices, column, experts)[None, :])
    for rank in range(k):
        largest, expert = best_of(key, column, EXPERTS)
        value = floats(largest)
        tl.store(top + row * k + rank, tl.where(value > -float("inf"), value, 0.0), mask=row < tokens)
        key = tl.where(column[None, :] == expert[:, None], -0x8000000000000000, key)


@triton.jit
def _summary(prices, places, callers, missing, fees, unfilled, complete, experts, EXPERTS: tl.constexpr):
    """What the places that can be used cost at prices of at least 0; and how many are missing, and whether none is."""
    expert = tl.program_id(0) * EXPERTS + tl.arange(0, EXPERTS)
    inside = expert < experts
    used = tl.minimum(tl.load(places + expert, mask=inside, other=0), tl.load(callers + expert, mask=inside, other=0))
    floor = _floor(prices, expert, experts)
    tl.store(fees + expert, tl.where((used > 0) | (floor != floor), used.to(tl.float64) * floor, 0.0), mask=inside)
    if tl.program_id(0) == 0:
        left = tl.load(missing)
        tl.store(unfilled, left)
        tl.store(complete, (left == 0).to(tl.uint8))


@on_its_device
def capped_route(
    scores: Tensor, prices: Tensor, places: Tensor, k: int, valid: Tensor | None, rounds: int, depth: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The parts of a `CappedRoute`, of scores narrower than float64, for at least one token.

    depth: how far down its list a token proposes.
    """
    tokens, experts = scores.shape
    device = scores.device
    scores = scores if scores.stride(1) == 1 else scores.contiguous()
    prices, places, valid_flags = prices.contiguous(), places.contiguous(), flags(valid, scores)

    def numbers(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    # What must be 0 at first: what is missing, what rounds changed, who may come, and what is bid in rounds of swaps.
    zeros = torch.zeros(1 + 3 * rounds + experts + 2 * rounds * experts, dtype=torch.int64, device=device)
    missing, news, asks, swapped, callers, moves, calls = zeros.split(
        [1, rounds, rounds, rounds, experts, rounds * experts, rounds * experts]
    )
    rows = rows_of(experts)
    tiles = {"VALID": valid is not None, **rows}
    slots = triton.next_power_of_2(k)
    entries = {"ROWS": max(_ENTRIES // slots, 1), "SLOTS": slots, **_LAUNCH}
    by_rows, by_entries = (triton.cdiv(tokens, rows["ROWS"]),), (triton.cdiv(tokens, entries["ROWS"]),)
    column = chunk_of(tokens)
    table = scores, prices, valid_flags
    sizes = tokens, experts, scores.stride(0)

    order, ranked = numbers(tokens, depth), numbers(tokens, depth, dtype=torch.float32)
    proposals._lists[by_rows](*table, order, ranked, *sizes, depth, **tiles)
    claims = torch.full((experts, tokens), NOBODY.value, dtype=torch.int32, device=device)
    held, asked, load = numbers(tokens, k), numbers(tokens), numbers(experts, dtype=torch.int64)
    for turn in range(rounds):
        proposals._propose[by_entries](
            order, ranked, claims, held, asked, news, turn, tokens, depth, k, FIRST=turn == 0, **entries
        )
        proposals._keep[(experts,)](claims, places, load, news, turn, tokens, **column)
    chosen, filled = numbers(tokens, k), numbers(tokens)
    proposals._settle[by_entries](
        order, claims, held, valid_flags, chosen, filled, missing, tokens, depth, k, VALID=valid is not None, **entries
    )

    state = places, load, chosen, filled, missing
    targets, offers = numbers(tokens), numbers(tokens)
    for turn in range(rounds):
        swaps._ask[by_rows](*table, *state, targets, offers, asks, turn, *sizes, k, **tiles)
        swaps._grant[(experts,)](offers, targets, *state, asks, turn, tokens, k, **column)
    heard = numbers(experts)
    for turn in range(rounds):
        swaps._offer_to_move[by_rows](*table, *state, targets, moves, swapped, turn, *sizes, k, **tiles)
        swaps._ask_to_swap[by_rows](*table, chosen, filled, missing, moves, calls, swapped, turn, *sizes, k, **tiles)
        swaps._swap[(1,)](
            *state, targets, moves, calls, heard, swapped, turn, experts, k,
            EXPERTS=tiles["EXPERTS"], OTHERS=_OTHERS, num_warps=8, **PLAIN,
        )  # fmt: skip

    found, values = numbers(tokens, k, dtype=torch.int64), numbers(tokens, k, dtype=torch.float64)
    _ranked[by_entries](scores, prices, chosen, found, values, tokens, scores.stride(0), k, **entries)
    top, fees = torch.empty_like(values), numbers(experts, dtype=torch.float64)
    unfilled, complete = numbers(dtype=torch.int64), numbers(dtype=torch.bool)
    _proven[by_rows](*table, top, callers, *sizes, k, **tiles)
    _summary[(triton.cdiv(experts, _ENTRIES),)](
        prices, places, callers, missing, fees, unfilled, complete.view(torch.uint8), experts,
        EXPERTS=_ENTRIES, **_LAUNCH,
    )  # fmt: skip
    return found, load, unfilled, complete, values.sum(), top.sum() + fees.sum()
