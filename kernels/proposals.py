"""Who holds a place where, after tokens have proposed down their lists and experts have kept what they like best?

Deferred acceptance (Gale and Shapley, 1962). A token's claim on an expert is what it would lose by going further down
its list: experts keep the tokens that would lose most elsewhere, and nobody who is turned away asks there again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .order import best, ordered_keys
from .segments import nothing


class Assignment:
    """Who has a place where; nobody at first.

    mine: (tokens × experts) bool. count: (tokens,) int64 experts of each token. load: (experts,) int64 tokens of each.
    """

    def __init__(self, tokens: int, experts: int, device: torch.device) -> None:
        self._cells = torch.zeros(tokens * experts + 1, dtype=torch.bool, device=device)  # the last is nobody's
        self.mine = self._cells[:-1].view(tokens, experts)
        self.count = torch.zeros(tokens, dtype=torch.int64, device=device)
        self.load = torch.zeros(experts, dtype=torch.int64, device=device)

    def give(self, token: Tensor, expert: Tensor, there: Tensor) -> None:
        """Places to those pairs that are there, of vectors of one length; none of them has one already."""
        self._mark(token, expert, there, True)

    def take(self, token: Tensor, expert: Tensor, there: Tensor) -> None:
        """Places from pairs that have them."""
        self._mark(token, expert, there, False)

    def _mark(self, token: Tensor, expert: Tensor, there: Tensor, mark: bool) -> None:
        at = torch.add(expert, token, alpha=len(self.load)).where(there, len(self._cells) - 1)
        self._cells.index_fill_(0, at, mark)
        change = there.long() if mark else -there.long()
        self.count.scatter_add_(0, token, change)
        self.load.scatter_add_(0, expert, change)


def depth_of(experts: int, k: int, rounds: int) -> int:
    """How far down its list a token goes; few come further in so many rounds."""
    return min(2 * (k + rounds), experts)


def proposed(reduced: Tensor, places: Tensor, k: int, rounds: int) -> Assignment:
    """Who holds a place where, after the rounds; no expert has more tokens than places."""
    tokens, experts = reduced.shape
    depth = depth_of(experts, k, rounds)
    order = best(reduced, depth)
    ranked = reduced.gather(1, order)
    allowed = (ranked > -torch.inf).sum(1, keepdim=True)
    held = torch.full((tokens, k), -1, dtype=torch.int64, device=reduced.device)  # entries of the lists, −1: empty
    asked = torch.zeros_like(allowed)  # how far down its list a token has come
    for _ in range(rounds):
        empty = held < 0
        entry = asked + empty.cumsum(1) - 1
        new = empty & (entry < allowed)
        if nothing(new):
            break
        held = entry.where(new, held)
        asked = asked + new.sum(1, keepdim=True)
        elsewhere = ranked.gather(1, asked.clamp(max=depth - 1)).where(asked < allowed, -torch.inf)
        at = held.clamp(min=0)
        held = held.where(kept(order.gather(1, at), ranked.gather(1, at) - elsewhere, held >= 0, places), -1)
    assigned = Assignment(tokens, experts, reduced.device)
    token = torch.arange(tokens, device=reduced.device)[:, None].expand(tokens, k)
    assigned.give(token.flatten(), order.gather(1, held.clamp(min=0)).flatten(), (held >= 0).flatten())
    return assigned


def kept(experts: Tensor, claim: Tensor, there: Tensor, places: Tensor) -> Tensor:
    """Which claims the experts have places for: the largest in float32, of equals the earlier.

    experts, claim, there: of one shape: whose place, how much it is wanted, and whether it is wanted at all.
    """
    count = len(places)
    expert = experts.where(there, count).flatten()
    # A number for each claim, in whose order an expert's claims are together, its largest first, those of nobody last.
    line, order = torch.sub(expert << 32, ordered_keys(claim).flatten()).sort(stable=True)
    least = 1 - 2**31
    ends = torch.searchsorted(line, torch.arange(least, least + (count + 1) * 2**32, 2**32, device=line.device))
    ends[:-1].add_(places)
    position = torch.empty_like(expert)
    position.scatter_(0, order, torch.arange(len(expert), device=line.device))
    return (position < ends[expert]).reshape(experts.shape)
