"""How many tokens does each expert have, and which of them stay where places are too few?"""

from __future__ import annotations

import torch
from torch import Tensor


def load_of(experts: Tensor, count: int) -> Tensor:
    """(count,) int64: how often each expert occurs in (tokens, k) choices; −1 is none."""
    chosen = experts.reshape(-1)
    load = torch.zeros(count + 1, dtype=torch.int64, device=experts.device)
    return load.scatter_add(0, chosen.where(chosen >= 0, count), torch.ones_like(chosen))[:count]


def keep_best(scores: Tensor, experts: Tensor, places: Tensor) -> Tensor:
    """Choices (tokens, k) of which each expert keeps as many as it has places (experts,); −1 for the others.

    The largest scores (tokens, experts) stay, of equals those of the earlier token. O(n log n) for n choices.
    """
    if not experts.numel():
        return experts
    flat, k = experts.reshape(-1), experts.shape[1]
    score = scores.gather(1, experts.clamp(min=0)).reshape(-1)
    order = score.argsort(descending=True, stable=True)
    order = order[flat[order].argsort(stable=True)]  # by expert, the best first; those of no expert before them all
    load = load_of(experts, scores.shape[1])
    first = flat.numel() - load.sum() + load.cumsum(0) - load
    ranked = flat[order]
    expert = ranked.clamp(min=0)
    rank = torch.arange(flat.numel(), device=flat.device) - first[expert]
    kept = ranked.where((ranked >= 0) & (rank < places[expert]), -1)
    return torch.empty_like(flat).scatter(0, order, kept).reshape(-1, k)
