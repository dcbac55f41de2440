"""Compiles every kernel, as it would be launched on real sizes, for compute capability 9.0; `test_triton` runs this.

No GPU is needed: tensors have a shape and no numbers, and instead of a launch, what would have been launched goes
through Triton's compiler down to machine code. The interpreter bears much that the compiler refuses.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from equipoise.kernels import (
    shuffle,
    triton_capped,
    triton_interior,
    triton_permutation,
    triton_routing,
    triton_shuffle,
)

HOPPER = GPUTarget("cuda", 90, 32)
SHARED = 227 * 1024  # bytes of shared memory that a program may have there
NAMES = {
    torch.float32: "fp32", torch.float64: "fp64", torch.float16: "fp16", torch.bfloat16: "bf16",
    torch.int8: "i8", torch.uint8: "u8", torch.int32: "i32", torch.int64: "i64",
}  # fmt: skip
compiled: dict[str, int] = {}


def compile_instead(kernel: Any, *given: Any, grid: Any, warmup: bool, **options: Any) -> None:
    """What `kernel[grid](…)` calls, up to the launch; arguments are specialised as the launch would."""
    named = dict(zip(kernel.arg_names, given, strict=False))
    named |= {name: options.pop(name) for name in list(options) if name in kernel.arg_names}
    signature, constants, aligned = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value = named[parameter.name]
        plain = parameter.do_not_specialize
        if parameter.is_constexpr or (isinstance(value, int) and value == 1 and not plain):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        whole = isinstance(value, int)
        signature[parameter.name] = ("i32" if value < 2**31 else "i64") if whole else f"*{NAMES[value.dtype]}"
        if not whole or (value % 16 == 0 and not plain):
            aligned[(index,)] = [["tt.divisibility", 16]]
    assert all(0 < size < 2**31 if axis == 0 else 0 < size < 2**16 for axis, size in enumerate(grid)), grid
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    made = triton.compile(source, target=HOPPER, options=options)
    assert made.metadata.shared <= SHARED, (kernel.__name__, constants, made.metadata.shared)
    compiled[kernel.__name__] = compiled.get(kernel.__name__, 0) + 1


def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A shape without numbers."""
    return torch.empty(shape, dtype=dtype, device="meta")


def routing(tokens: int, experts: int, k: int, dtype: torch.dtype) -> None:
    """All that `triton_routing` and `triton_interior` launch."""
    scores, prices = tensor(tokens, experts, dtype=dtype), tensor(experts)
    valid = tensor(tokens, dtype=torch.bool) if dtype == torch.float32 else None
    triton_routing.best(tensor(tokens, experts), min(experts, 48))
    places = tensor(experts, dtype=torch.int64)
    triton_routing.topk_route(scores, prices, k, valid)
    triton_routing.quantile_prices(scores, prices, places, k, 1, valid, clip=dtype == torch.float32)
    triton_interior.interior_prices(scores, prices, places, k, 2, valid)
    prefix = tensor(experts, dtype=torch.int32)
    triton_routing.claim_histogram(scores, tensor(tokens), prefix, 21, 11, valid)
    triton_routing.digit_histogram(tensor(tokens, experts, dtype=torch.int32), prefix, 4, 8, valid)


def capped(tokens: int, experts: int, k: int, dtype: torch.dtype) -> None:
    """All that `triton_capped` launches; the second round is not as the first."""
    prices, places = tensor(experts), tensor(experts, dtype=torch.int64)
    valid = tensor(tokens, dtype=torch.bool) if dtype == torch.float32 else None
    triton_capped.capped_route(tensor(tokens, experts, dtype=dtype), prices, places, k, valid, 2, min(2 * k, experts))


def drawing(entries: int, domains: int) -> None:
    """All that `triton_shuffle` launches."""
    index, size = tensor(entries, dtype=torch.int64), tensor(domains, dtype=torch.int64)
    triton_shuffle.shuffled(index, index, size, size, size, tensor(shuffle.ROUNDS, domains, dtype=torch.int64), 8)


def permutation(tokens: int, width: int, k: int, count: int, dtype: torch.dtype) -> None:
    """All that `triton_permutation` launches."""
    x, weights = tensor(tokens, width, dtype=dtype), tensor(tokens, k)
    rows, _, place = triton_permutation.dispatch(x, tensor(tokens, k, dtype=torch.int64), count)
    triton_permutation.combine(rows, place, weights)
    triton_permutation.combine_backward(x, rows, place, weights)


if __name__ == "__main__":
    with mock.patch.object(JITFunction, "run", compile_instead):
        routing(16384, 256, 8, torch.float32)
        routing(999, 33, 3, torch.bfloat16)
        for size in ((16384, 256, 8, torch.float32), (999, 33, 3, torch.bfloat16), (1, 1, 1, torch.float16)):
            capped(*size)
        capped(4096, 1024, 40, torch.float32)
        wide, exact = tensor(64, 100, dtype=torch.float64), tensor(100, dtype=torch.float64)
        triton_routing.topk_route(wide, exact, 1, None)
        triton_interior.interior_prices(wide, exact, tensor(100, dtype=torch.int64), 1, 1, None)
        triton_routing.digit_histogram(tensor(64, 100, dtype=torch.int32), tensor(100, dtype=torch.int32), 0, 16, None)
        permutation(2**20, 4096, 8, 256, torch.bfloat16)
        permutation(50, 1000, 3, 7, torch.float32)
        drawing(2**20, 4096)
        drawing(1, 1)
    print(compiled)
