"""What operators hold their inputs against before any kernel starts: devices, dtypes and shapes.

Only what is known without a look at the numbers, so that nothing waits for a device. Sizes of axes are named once, by
the first tensor that has them, and errors quote both sides.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["real", "whole", "flag"]

_WHOLE = frozenset({torch.int32, torch.int64})
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

        Raises `TypeError` for another type or dtype, `ValueError` for another shape or device.
        """
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: must be a tensor, got {type(tensor).__name__}")
        good = tensor.is_floating_point() if kind == "real" else tensor.dtype in _WHOLE
        if kind == "flag":
            good = tensor.dtype == torch.bool
        if not good:
            raise TypeError(f"{name}: must be {_WORDS[kind]}, got {tensor.dtype}")
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


def flag(name: str, value: Any) -> bool:
    """True or false, as it was given. Raises `TypeError`."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: must be True or False, got {value!r:.60}")
    return value


def whole(name: str, value: Any, least: int, most: int | None = None, why: str = "") -> int:
    """A whole number that was given. Raises `TypeError` and `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name}: must be a whole number, got {type(value).__name__}")
    if value < least or (most is not None and value > most):
        wanted = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}: must be {wanted}{why}, got {value}")
    return value  # pyright: ignore[reportReturnType]  # a SymInt stands for an int while a graph is traced
