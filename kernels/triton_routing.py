"""Rows in Triton: which experts of a token come first by scores − prices, without the difference in memory.

Rows are short: they stay in the registers of a warp, and their largest keys are taken out one by one.
The functions take what the operators of the same names have checked, and give the same numbers.
"""

# The kernels' Python is Triton's language, and annotations stay values, not strings, since Triton reads them.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_columns import claim_histogram, column_prices, digit_histogram
from .triton_numbers import compared, flags, floats, keys, on_its_device, rows_of

__all__ = ["best", "claim_histogram", "digit_histogram", "quantile_prices", "row_thresholds", "topk_route"]


@triton.jit
def _reduced(
    scores, prices, valid, row, column, tokens, experts, stride, VALID: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    """Of a tile: the keys of scores − prices, which pairs are allowed, and nobody's key."""
    inside = (row < tokens)[:, None] & (column < experts)[None, :]
    if VALID:
        inside = inside & (tl.load(valid + row, mask=row < tokens, other=0) != 0)[:, None]
    score = compared(scores + row[:, None] * stride + column[None, :], inside, WIDE)
    price = tl.load(prices + column, mask=column < experts, other=0.0).to(score.dtype)
    key = keys(score - price[None, :])
    return key, score > -float("inf"), tl.full(row.shape, -0x8000000000000000 if WIDE else -0x80000000, key.dtype)


@triton.jit
def _row_thresholds(
    scores, prices, valid, thresholds, tokens, experts, stride, k,
    MIDDLE: tl.constexpr, VALID: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, EXPERTS: tl.constexpr,
):  # fmt: skip
    """MIDDLE: half way from the one before."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, EXPERTS)
    key, allowed, nobody = _reduced(scores, prices, valid, row, column, tokens, experts, stride, VALID, WIDE)
    key = tl.where(allowed, key, nobody[:, None])
    left = tl.zeros([ROWS], tl.int32) + k + 1
    answer, before = nobody, nobody
    for _ in range(k + 1):  # takes out the largest key with all that tie with it
        largest = tl.max(key, 1)
        before = tl.where((left > 1) & (largest != nobody), largest, before)
        answer = tl.where((left > 0) & (largest != nobody), largest, answer)
        ties = key == largest[:, None]
        left -= tl.sum(ties.to(tl.int32), 1)
        key = tl.where(ties, nobody[:, None], key)
    threshold = floats(answer)
    if MIDDLE:
        threshold = (floats(before) + threshold) * 0.5
    tl.store(thresholds + row, tl.where(answer == nobody, 0.0, threshold), mask=row < tokens)


@triton.jit
def _topk_route(
    scores, prices, valid, chosen, tokens, experts, stride, k,
    ALL: tl.constexpr, VALID: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, EXPERTS: tl.constexpr,
):  # fmt: skip
    """ALL: forbidden pairs too, behind the others, where −1 would stand."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, EXPERTS)
    key, _, nobody = _reduced(scores, prices, valid, row, column, tokens, experts, stride, VALID, WIDE)
    key = tl.where((column < experts)[None, :], key, nobody[:, None])
    for slot in range(k):
        largest = tl.max(key, 1)
        expert = tl.min(tl.where(key == largest[:, None], column[None, :], EXPERTS), 1)
        answer = expert if ALL else tl.where(floats(largest) > -float("inf"), expert, -1)
        tl.store(chosen + row * k + slot, answer.to(tl.int64), mask=row < tokens)
        key = tl.where(column[None, :] == expert[:, None], nobody[:, None], key)


@on_its_device
def topk_route(scores: Tensor, prices: Tensor, k: int, valid: Tensor | None) -> Tensor:
    """(tokens × k) int64."""
    chosen = torch.empty((scores.shape[0], k), dtype=torch.int64, device=scores.device)
    _launch_rows(_topk_route, scores, prices, k, valid, chosen, ALL=False)
    return chosen


@on_its_device
def best(values: Tensor, count: int) -> Tensor:
    """(rows × count) int64, of comparable values."""
    chosen = torch.empty((values.shape[0], count), dtype=torch.int64, device=values.device)
    _launch_rows(_topk_route, values, values.new_zeros(values.shape[1]), count, None, chosen, ALL=True)
    return chosen


@on_its_device
def row_thresholds(scores: Tensor, prices: Tensor, k: int, valid: Tensor | None, middle: bool = False) -> Tensor:
    """(tokens,) the (k + 1)-th largest scores − prices of each token, or the last that is allowed; 0 without any.

    middle: half way between the k-th and that.
    """
    dtype = torch.promote_types(scores.dtype, torch.float32)
    thresholds = torch.empty(scores.shape[0], dtype=dtype, device=scores.device)
    _launch_rows(_row_thresholds, scores, prices, k, valid, thresholds, MIDDLE=middle)
    return thresholds


@on_its_device
def quantile_prices(
    scores: Tensor, prices: Tensor, places: Tensor, k: int, iterations: int, valid: Tensor | None, clip: bool
) -> Tensor:
    """(experts,) in the dtype of prices, after rounds on the tokens of this rank alone."""
    columns = scores.t().contiguous()
    for _ in range(iterations):
        thresholds = row_thresholds(scores, prices, k, valid)
        updated = column_prices(columns, thresholds, places, prices, valid, clip)
        prices = updated if clip else updated - updated.min()
    return prices


def _launch_rows(
    kernel, scores: Tensor, prices: Tensor, k: int, valid: Tensor | None, result: Tensor, **options: bool
) -> None:
    tokens, experts = scores.shape
    if not tokens:
        return
    scores = scores if scores.stride(1) == 1 else scores.contiguous()
    rows = rows_of(experts)
    kernel[(triton.cdiv(tokens, rows["ROWS"]),)](
        scores, prices.contiguous(), flags(valid, scores), result, tokens, experts, scores.stride(0), k,
        VALID=valid is not None, WIDE=scores.dtype == torch.float64, **rows, **options,
    )  # fmt: skip
