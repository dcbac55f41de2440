"""How Triton's kernels put numbers in order, and what their launches have in common.

Every float becomes an integer key of the same order (its sign decides whether the other bits are inverted), so that all
comparisons, counts and histograms are of integers: no atomic on a float, no tie that depends on a schedule, the same
bits on every rank.
"""

# The kernels' Python is Triton's language, and annotations stay values, not strings, since Triton reads them.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
import triton
import triton.language as tl
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

PLAIN = {"enable_fp_fusion": False}
"""Products are rounded before they are added, as torch does it, whatever Triton's default."""
_ROWS = 512  # elements of rows that a warp takes at once
_COLUMN = 8192  # elements of a column that a program takes at once


@triton.jit
def compared(pointer, inside, WIDE: tl.constexpr):
    """Scores in float32 or float64: −inf for NaN and outside, the largest number for +inf."""
    score = tl.load(pointer, mask=inside, other=-float("inf"))
    if WIDE:
        score = score.to(tl.float64)
        score = tl.where(score == float("inf"), 1.7976931348623157e308, score)
    else:
        score = score.to(tl.float32)
        score = tl.where(score == float("inf"), 3.4028234663852886e38, score)
    return tl.where(score != score, -float("inf"), score)


@triton.jit
def keys(value):
    """Integers in the order of the floats: −0 is 0, NaN is −inf. The lowest integer is nobody's key."""
    value = tl.where(value != value, -float("inf"), value)
    value = tl.where(value == 0, 0.0, value)
    if value.dtype == tl.float64:
        bits = value.to(tl.int64, bitcast=True)
        key = tl.where(bits < 0, bits ^ 0x7FFFFFFFFFFFFFFF, bits)
    else:
        bits = value.to(tl.int32, bitcast=True)
        key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return key


@triton.jit
def floats(key):
    """The floats that have these keys."""
    if key.dtype == tl.int64:
        value = tl.where(key < 0, key ^ 0x7FFFFFFFFFFFFFFF, key).to(tl.float64, bitcast=True)
    else:
        value = tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)
    return value


def on_its_device(function: Callable[Concatenate[Tensor, P], R]) -> Callable[Concatenate[Tensor, P], R]:
    """Triton launches on the current device: make it that of the first tensor."""

    @wraps(function)
    def launching(first: Tensor, /, *given: P.args, **options: P.kwargs) -> R:
        with torch.cuda.device_of(first):
            return function(first, *given, **options)

    return launching


def flags(valid: Tensor | None, other: Tensor) -> Tensor:
    """Padding as Triton reads it; some other tensor, unread, where there is none."""
    return other if valid is None else valid.contiguous().view(torch.uint8)


def rows_of(experts: int) -> dict[str, Any]:
    """How kernels are launched that keep whole rows of so many experts in registers; a program takes ROWS of them."""
    block = triton.next_power_of_2(experts)
    return {"ROWS": max(_ROWS // block, 1), "EXPERTS": block, "num_warps": min(max(block // 1024, 1), 16), **PLAIN}


def chunk_of(tokens: int) -> dict[str, Any]:
    """How kernels are launched that read columns of so many tokens from end to end, by chunks."""
    chunk = min(_COLUMN, max(triton.next_power_of_2(tokens), 256))
    return {"CHUNK": chunk, "num_warps": 16 if chunk == _COLUMN else 4, **PLAIN}
