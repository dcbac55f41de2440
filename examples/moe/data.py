"""Real text that is on every machine: the source of Python's standard library, as bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

APART = {"site-packages", "__pycache__", "test", "tests", "lib2to3"}
"""Folders that are no part of the library, or are not like the rest of it."""
HELD_OUT = 10
"""Of so many files, one is kept for validation."""


@dataclass(frozen=True)
class Text:
    """Bytes (uint8) to learn from, and bytes of other files to be judged by."""

    training: Tensor
    validation: Tensor

    @staticmethod
    @cache
    def read(device: str) -> Text:
        """The library of the Python that runs this, its files by name; every tenth is for validation."""
        folder = Path(os.__file__).parent
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
        files = [folder / name for name in names if not APART & set(name.split("/"))]
        parts: tuple[list[bytes], list[bytes]] = ([], [])
        for number, path in enumerate(files):
            parts[number % HELD_OUT == HELD_OUT - 1].append(path.read_bytes())
        joined = (torch.from_numpy(np.frombuffer(b"\0".join(part), np.uint8).copy()).to(device) for part in parts)
        return Text(*joined)


def batch(text: Tensor, rows: int, context: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random stretches (rows, context) of a text, and for each byte the one that follows it."""
    starts = torch.randint(len(text) - context, (rows, 1), generator=generator).to(text.device)
    stretch = text[starts + torch.arange(context + 1, device=text.device)].long()
    return stretch[:, :-1], stretch[:, 1:]
