"""Random routing tasks of every shape that the operators must bear, and what they mean in plain Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class Case:
    """One task: scores as an array, the rest as the operators take it."""

    scores: Any
    k: int
    capacity: list[int]
    valid: Any

    def tensor(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The scores for an operator."""
        return torch.tensor(self.scores, dtype=dtype)

    def flags(self) -> Tensor | None:
        """The padding for an operator."""
        return None if self.valid is None else torch.tensor(self.valid)

    def rows(self) -> list[int]:
        """Tokens that are no padding."""
        return [token for token in range(len(self.scores)) if self.valid is None or self.valid[token]]


def random_case(seed: int) -> Case:
    """Float32 scores, often tied, at times forbidden or NaN; few tokens or none, padding, tight or idle capacities."""
    random = np.random.default_rng(seed)
    tokens, experts = int(random.integers(0, 14)), int(random.integers(1, 9))
    k = int(random.integers(1, experts + 1))
    scores = random.normal(size=(tokens, experts))
    if seed % 3 == 0:
        scores = np.rint(2 * scores)  # ties, and zeros of both signs
    if seed % 5 == 0:
        scores[random.random(scores.shape) < 0.3] = -np.inf
    if seed % 7 == 0:
        scores[random.random(scores.shape) < 0.1] = np.nan
    valid = random.random(tokens) < 0.7 if seed % 2 else None
    if seed % 31 == 1:
        valid = np.zeros(tokens, np.bool_)
    least = -(-tokens * k // experts)
    capacity = random.integers(least, least + 3, experts) if seed % 4 else np.full(experts, least)
    return Case(scores.astype(np.float32), k, capacity.tolist(), valid)


def plain(case: Case) -> Any:
    """Scores with −inf where a pair is forbidden."""
    scores = np.where(np.isnan(case.scores), np.float32(-np.inf), case.scores)
    if case.valid is not None:
        scores[~case.valid] = -np.inf
    return scores
