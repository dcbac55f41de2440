"""Which version of an operator runs: Triton's, or torch's own.

Triton's kernels run on tensors of a CUDA device where a triton new enough is installed, torch's operators everywhere
else. The environment variable `EQUIPOISE_KERNELS` forces it: `torch` for torch alone, `triton` for Triton alone, which
on the CPU takes Triton's interpreter (`TRITON_INTERPRET=1`, set before anything imports triton). It is read at every
call, so what `uses_triton` says of a tensor is what the next operator on that tensor does; a choice that cannot be kept
raises.
"""

from __future__ import annotations

import os
from functools import cache

from torch import Tensor

VARIABLE = "EQUIPOISE_KERNELS"
LEAST = (3, 4)
"""The first version of Triton that has all that our kernels use, histograms of some elements above all."""


def uses_triton(tensor: Tensor) -> bool:
    """Whether operators on this tensor run Triton's kernels.

    Raises `ValueError` where the environment asks for what is unknown, not installed, or impossible on the tensor's
    device.
    """
    wanted = os.environ.get(VARIABLE) or "auto"
    if wanted == "auto":
        return tensor.is_cuda and not _missing()
    if wanted == "torch":
        return False
    if wanted != "triton":
        raise ValueError(f"{VARIABLE}: must be auto, torch or triton, got {wanted!r}")
    if _missing():
        raise ValueError(f"{VARIABLE}=triton, but {_missing()}: install a newer one, or unset the variable")
    if not tensor.is_cuda and not _interpreted():
        raise ValueError(
            f"{VARIABLE}=triton, but a tensor is on {tensor.device}: Triton runs on CUDA devices, or on the CPU by its "
            "interpreter (TRITON_INTERPRET=1, set before triton is imported); or unset the variable"
        )
    return True


@cache
def _missing() -> str:
    """What keeps Triton's kernels from running here; empty if nothing does."""
    try:
        from triton import __version__ as version
    except ImportError as error:
        return f"triton cannot be imported ({error})"
    if tuple(int(part) for part in version.split(".")[:2]) < LEAST:
        return f"triton is {version}, older than {'.'.join(map(str, LEAST))}"
    return ""


@cache
def _interpreted() -> bool:
    """Whether our kernels were, or would now be, made for the interpreter: Triton decides when they are imported."""
    from triton import knobs

    return bool(knobs.runtime.interpret)
