"""What operators hold their inputs against before any kernel starts: devices, dtypes and shapes.

Only what is known without a look at the numbers, so that nothing waits for a device. Sizes of axes are named once, by
the first tensor that has them, and errors quote both sides.
"""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["real", "whole", "flag"]

_DTYPES = {
    "real": frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64}),
    "whole": frozenset({torch.int32, torch.int64}),
    "flag": frozenset({torch.bool}),
}
_WORDS = {"real": "floating point", "whole": "int32 or int64", "flag": "bool"}


class Inputs:
    """The tensors that one call was given, looked at one after the other.

    sizes: lengths of the axes seen so far, by name. device: where all of them must be.
    """

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.device: torch.device | None = None
        self._owner: dict[str, str] = {}
        self._first = ""

    def take(self, name: str, tensor: Any, axes: str, kind: Kind = "real") -> None:
        """Check one tensor; `axes` names what each of its axes counts, separated by spaces.

        Raises `TypeError` for another type, layout or dtype, `ValueError` for another shape or device.
        """
        dense(name, tensor)
        if tensor.dtype not in _DTYPES[kind]:
            narrow = kind == "real" and tensor.is_floating_point()
            wanted = "floating point of at least 16 bits" if narrow else _WORDS[kind]
            raise TypeError(f"{name}: must be {wanted}, got {tensor.dtype}: convert it with .to()")
        named = axes.split()
        if tensor.ndim != len(named):
            raise ValueError(f"{name}: must have the axes ({', '.join(named)}), got the shape {tuple(tensor.shape)}")
        for axis, length in zip(named, tensor.shape, strict=True):
            known = self.sizes.setdefault(axis, length)
            owner = self._owner.setdefault(axis, name)
            if known != length:
                raise ValueError(f"{name}: has {length} {axis}, but {owner} has {known}")
        if self.device is None:
            self.device, self._first = tensor.device, name
        elif tensor.device != self.device:
            raise ValueError(f"{name}: is on {tensor.device}, but {self._first} is on {self.device}: move one of them")

    def take_if(self, name: str, tensor: Any, axes: str, kind: Kind = "real") -> None:
        """As `take`, for a tensor that may be absent."""
        if tensor is not None:
            self.take(name, tensor, axes, kind)


def dense(name: str, tensor: Any) -> None:
    """A tensor whose numbers all lie in memory, by strides. Raises `TypeError`."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: must be a tensor, got {type(tensor).__name__}: make one with torch.as_tensor")
    if tensor.is_nested:
        raise TypeError(f"{name}: must be dense, got a nested tensor: pad it with .to_padded_tensor()")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name}: must be dense, got {tensor.layout}: convert it with .to_dense()")


def flag(name: str, value: Any) -> bool:
    """True or false, as it was given. Raises `TypeError`."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: must be True or False, got {value!r:.60}")
    return value


def whole(name: str, value: Any, least: int, most: int | None = None, why: str = "") -> int:
    """A whole number that was given, numpy's among them; no tensor, which would have to be waited for.

    Raises `TypeError` and `ValueError`.
    """
    if not isinstance(value, (int, torch.SymInt)):
        value = _index(name, value)
    if isinstance(value, bool):
        raise TypeError(f"{name}: must be a whole number, got bool: pass an int")
    if value < least or (most is not None and value > most):
        wanted = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}: must be {wanted}{why}, got {value}")
    return value  # pyright: ignore[reportReturnType]  # a SymInt stands for an int while a graph is traced


def number(name: str, value: Any, least: float | None = None) -> float:
    """A finite number that was given, at least `least`. Raises `TypeError` and `ValueError`."""
    if isinstance(value, (bool, Tensor)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: must be a number, got {type(value).__name__}: pass a float")
    if not math.isfinite(value) or (least is not None and value < least):
        wanted = "finite" if least is None else f"finite and at least {least:g}"
        raise ValueError(f"{name}: must be {wanted}, got {value}")
    return float(value)


def _index(name: str, value: Any) -> int:
    """Of an object that is not an int and may stand for one."""
    if isinstance(value, Tensor):
        raise TypeError(
            f"{name}: must be a whole number, got Tensor: pass an int, as of {name}.item(), before the loop"
        )
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: must be a whole number, got {type(value).__name__}: pass an int") from None
